"""The job in JAX: `step` with a compiled step, `scan` with the ten steps of a batch compiled as one loop."""

import os

import job as shared

mode, job, n_threads = shared.arguments()
os.environ["JAX_PLATFORMS"] = "cpu"
if n_threads == 1:
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"

import jax
import jax.numpy as jnp

tree_add = lambda a, b: jax.tree.map(jnp.add, a, b)


def loss_of(x, weights, target):
    w1, w2 = weights
    return jnp.mean((jax.nn.relu(x @ w1.T) @ w2.T - target) ** 2)


loss_and_gradients = jax.value_and_grad(loss_of, argnums=(0, 1))


@jax.jit
def zeros(weights):
    return jax.tree.map(jnp.zeros_like, weights)


def updated(weights, sums, lr):
    return jax.tree.map(lambda w, dw: w - lr / shared.ACCUMULATE * dw, weights, sums)


@jax.jit(donate_argnums=3)
def one_step(x, weights, target, sums):
    loss, (dx, gradients) = loss_and_gradients(x, weights, target)
    return loss, tree_add(sums, gradients), dx


update = jax.jit(updated, donate_argnums=0)


@jax.jit(donate_argnums=1)
def ten_steps(xs, weights, targets, lr):
    # Each step has rows of its own, so that the loop cannot be turned into one step; the gradients of the inputs are
    # results, so that they are computed.
    def one(sums, batch):
        x, target = batch
        loss, (dx, gradients) = loss_and_gradients(x, weights, target)
        return tree_add(sums, gradients), (loss, dx)

    sums, (losses, dxs) = jax.lax.scan(one, jax.tree.map(jnp.zeros_like, weights), (xs, targets))
    return updated(weights, sums, lr), losses, dxs


def by_step(lr):
    x, target = jnp.array(job.x()), jnp.array(job.x())
    weights = (jnp.array(job.w1()), jnp.array(job.w2()))

    def batch():
        nonlocal weights
        sums = zeros(weights)
        for _ in range(shared.ACCUMULATE):
            loss, sums, dx = one_step(x, weights, target, sums)
            value = loss.item()
        weights = update(weights, sums, lr)
        return value

    return batch


def by_scan(lr):
    xs, targets = (jnp.stack([job.x()] * shared.ACCUMULATE) for _ in range(2))
    weights = (jnp.array(job.w1()), jnp.array(job.w2()))

    def batch():
        nonlocal weights
        weights, losses, dxs = ten_steps(xs, weights, targets, lr)
        return losses.tolist()[-1]

    return batch


shared.serve(jax.__version__, {"step": by_step, "scan": by_scan}[mode])
