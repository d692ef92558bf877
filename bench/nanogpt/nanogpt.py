"""The preset `shakespeare` in PyTorch, in f32: the same text, split, batches, validation windows and schedule, beside
which the preset's losses are set. README.md says how to run it, results.md what came out.

The model is written from GPT-2's paper and nanoGPT's configuration, not from the library's code nor from nanoGPT's.
Needs numpy, safetensors and torch.
"""

import argparse
import gzip
import json
import math
import pathlib
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

# nanoGPT's configuration for a CPU, as its README has it: config/train_shakespeare_char.py with --block_size=64
# --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0.
N_LAYERS, N_HEADS, WIDTH, LENGTH, BATCH = 4, 4, 128, 64, 12
STEPS, WARMUP, LR, MIN_LR = 2000, 100, 1e-3, 1e-4
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.99), 0.1, 1.0

TEXT = pathlib.Path(__file__).parents[2] / "crates/anemone/data/shakespeare.txt.gz"
VALIDATION = 0.1
IGNORE = -1

# The data.


def read_tokens():
    """The training part, the validation part, and how many characters there are."""
    text = gzip.decompress(TEXT.read_bytes()).decode()
    characters = sorted(set(text))
    number = {c: i for i, c in enumerate(characters)}
    tokens = torch.tensor([number[c] for c in text])
    n_train = len(tokens) - int(len(tokens) * VALIDATION)
    return tokens[:n_train], tokens[n_train:], len(characters)


M = 2**64 - 1


def bits(seed, k):
    """Output k of SplitMix64; this and `offset` are the rule of crates/anemone/src/data/order.rs."""
    z = (seed + (k + 1) * 0x9E3779B97F4A7C15) & M
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M
    return z ^ z >> 31


def train_batch(tokens, seed, index):
    key = bits(seed ^ 0x64617461, 0)
    starts = [bits(key, index * BATCH + row) * (len(tokens) - LENGTH) >> 64 for row in range(BATCH)]
    windows = torch.stack([tokens[s : s + LENGTH + 1] for s in starts])
    return windows[:, :-1], windows[:, 1:]


def validation_batches(tokens):
    """Windows one after the other, in which each token but the first is a target once; the last batch is filled up."""
    n_targets = len(tokens) - 1
    n_batches = -(-n_targets // (LENGTH * BATCH))
    x = torch.zeros(n_batches * BATCH * LENGTH, dtype=torch.long)
    y = torch.full_like(x, IGNORE)
    x[:n_targets], y[:n_targets] = tokens[:-1], tokens[1:]
    shape = (n_batches, BATCH, LENGTH)
    return x.view(shape), y.view(shape)


# The model: parameters by name, and what they do.


def initial(n_characters, seed):
    random = torch.Generator().manual_seed(seed)

    def normal(std, *shape):
        return std * torch.randn(shape, generator=random)

    residual = 0.02 / math.sqrt(2 * N_LAYERS)
    params = {
        "transformer.wte.weight": normal(0.02, n_characters, WIDTH),
        "transformer.wpe.weight": normal(0.02, LENGTH, WIDTH),
        "transformer.ln_f.weight": torch.ones(WIDTH),
    }
    for i in range(N_LAYERS):
        params |= {
            f"transformer.h.{i}.ln_1.weight": torch.ones(WIDTH),
            f"transformer.h.{i}.attn.c_attn.weight": normal(0.02, 3 * WIDTH, WIDTH),
            f"transformer.h.{i}.attn.c_proj.weight": normal(residual, WIDTH, WIDTH),
            f"transformer.h.{i}.ln_2.weight": torch.ones(WIDTH),
            f"transformer.h.{i}.mlp.c_fc.weight": normal(0.02, 4 * WIDTH, WIDTH),
            f"transformer.h.{i}.mlp.c_proj.weight": normal(residual, WIDTH, 4 * WIDTH),
        }
    return params


def load(path):
    """Weights that anemone saved, without the dimensions of 1 that its shapes carry."""
    return {name: tensor.squeeze() for name, tensor in load_file(path).items()}


def loss_of(params, gelu, x, y):
    def norm(name, h):
        return F.layer_norm(h, (WIDTH,), params[name + ".weight"], None, 1e-5)

    def linear(name, h):
        return h @ params[name + ".weight"].T

    def attention(name, h):
        heads = linear(name + ".c_attn", h).view(*x.shape, 3, N_HEADS, WIDTH // N_HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(name + ".c_proj", h.transpose(1, 2).flatten(2))

    h = params["transformer.wte.weight"][x] + params["transformer.wpe.weight"]
    for i in range(N_LAYERS):
        block = f"transformer.h.{i}"
        h = h + attention(block + ".attn", norm(block + ".ln_1", h))
        inner = F.gelu(linear(block + ".mlp.c_fc", norm(block + ".ln_2", h)), approximate=gelu)
        h = h + linear(block + ".mlp.c_proj", inner)
    logits = linear("transformer.wte", norm("transformer.ln_f", h))
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE)


# Training.


def lr_at(step):
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (STEPS - WARMUP)
    return MIN_LR + (LR - MIN_LR) * 0.5 * (1 + math.cos(math.pi * done))


def train(params, gelu, tokens, seed, n_steps):
    """Changes the parameters; yields loss, norm of the gradients and seconds of each step."""
    for p in params.values():
        p.requires_grad_()
    groups = [
        {"params": [p for p in params.values() if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in params.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=True)
    for step in range(n_steps):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step)
        loss = loss_of(params, gelu, *train_batch(tokens, seed, step))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params.values(), CLIP)
        optimizer.step()
        yield loss.item(), norm.item(), time.perf_counter() - start


@torch.no_grad()
def validate(params, gelu, tokens, n_batches):
    """The mean over the targets of so many batches spread over the part, or 0 for all."""
    x, y = validation_batches(tokens)
    n = min(n_batches, len(x)) or len(x)
    total, n_targets = 0.0, 0
    for i in range(n):
        at = i * len(x) // n
        count = int((y[at] != IGNORE).sum())
        total += loss_of(params, gelu, x[at], y[at]).item() * count
        n_targets += count
    return total / n_targets


def validations(params, gelu, tokens):
    return {f"validation_{n or 'all'}": validate(params, gelu, tokens, n) for n in (20, 0)}


# Commands.


def command_train(args, gelu, tokens, held, n_characters):
    params = initial(n_characters, args.seed)
    losses, _, seconds = zip(*train(params, gelu, tokens, 0, STEPS))
    return {
        "train_last_100": statistics.fmean(losses[-100:]),
        **validations(params, gelu, held),
        "step_ms_median": 1e3 * statistics.median(seconds),
        "step_ms_mean": 1e3 * statistics.fmean(seconds),
    }


def command_follow(args, gelu, tokens, held, n_characters):
    """The largest deviations of a run of anemone's from one here that begins with the same weights."""
    steps = [json.loads(line) for line in args.metrics.read_text().splitlines()][: args.steps]
    params = load(args.weights)
    here = np.array(list(train(params, gelu, tokens, 0, len(steps))))
    there = np.array([(step["loss"], step["gradient_norm"]) for step in steps])
    lrs = [abs(step["lr"] / lr_at(i) - 1) for i, step in enumerate(steps)]
    return {
        "steps": len(steps),
        "loss_absolute": np.abs(there[:, 0] - here[:, 0]).max(),
        "loss_relative": np.abs(there[:, 0] / here[:, 0] - 1).max(),
        "gradient_norm_relative": np.abs(there[:, 1] / here[:, 1] - 1).max(),
        "lr_relative": max(lrs),
        **validations(params, gelu, held),
        "step_ms_median": 1e3 * np.median(here[:, 2]),
    }


def command_evaluate(args, gelu, tokens, held, n_characters):
    return validations(load(args.weights), gelu, held)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gelu", choices=["exact", "tanh"], default="exact", help="nanoGPT has the exact one")
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train for all steps")
    command.add_argument("--seed", type=int, default=0, help="of the first weights")
    command.set_defaults(run=command_train)
    command = commands.add_parser("follow", help="compare the first steps with a run of anemone's")
    command.add_argument("weights", help="what the run began with")
    command.add_argument("metrics", type=pathlib.Path, help="the run's metrics.jsonl")
    command.add_argument("--steps", type=int, default=20)
    command.set_defaults(run=command_follow)
    command = commands.add_parser("evaluate", help="the validation loss of weights that anemone saved")
    command.add_argument("weights")
    command.set_defaults(run=command_evaluate)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    gelu = {"exact": "none", "tanh": "tanh"}[args.gelu]
    result = args.run(args, gelu, *read_tokens())
    told = {name: str(value) for name, value in vars(args).items() if name != "run"}
    print(json.dumps({**told, "torch": torch.__version__, **{k: float(f"{v:.6g}") for k, v in result.items()}}))


if __name__ == "__main__":
    main()
