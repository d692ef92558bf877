"""The job in PyTorch: `eager` by autograd, `compile` the same compiled, `by-hand` without autograd."""

import torch

import job as shared

mode, job, n_threads = shared.arguments()
torch.set_num_threads(n_threads)


def loss_of(x, w1, w2, target):
    return torch.mean((torch.relu(x @ w1.T) @ w2.T - target) ** 2)


def by_autograd(lr):
    x, w1, w2 = (torch.from_numpy(a).requires_grad_() for a in (job.x(), job.w1(), job.w2()))
    target = torch.from_numpy(job.x())
    function = torch.compile(loss_of) if mode == "compile" else loss_of

    def batch():
        x.grad = w1.grad = w2.grad = None
        for _ in range(shared.ACCUMULATE):
            loss = function(x, w1, w2, target)
            loss.backward()
            value = loss.item()
        with torch.no_grad():
            for w in (w1, w2):
                w.sub_(w.grad, alpha=lr / shared.ACCUMULATE)
        return value

    return batch


@torch.no_grad()
def by_hand(lr):
    x, w1, w2 = (torch.from_numpy(a) for a in (job.x(), job.w1(), job.w2()))
    target = x.clone()
    dw1, dw2 = torch.zeros_like(w1), torch.zeros_like(w2)

    @torch.no_grad()
    def batch():
        dw1.zero_()
        dw2.zero_()
        for _ in range(shared.ACCUMULATE):
            h = torch.relu_(x @ w1.T)
            difference = h @ w2.T - target
            value = torch.mean(difference**2).item()
            dy = difference.mul_(2.0 / target.numel())
            dw2.addmm_(dy.T, h)
            dh = (dy @ w2).mul_(h > 0.0)
            dw1.addmm_(dh.T, x)
            dh @ w1  # the gradient of the input
        for w, dw in ((w1, dw1), (w2, dw2)):
            w.sub_(dw, alpha=lr / shared.ACCUMULATE)
        return value

    return batch


shared.serve(torch.__version__, {"eager": by_autograd, "compile": by_autograd, "by-hand": by_hand}[mode])
