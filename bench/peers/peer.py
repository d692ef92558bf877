"""The peers, and the processes that they are."""

import collections
import json
import os
import pathlib
import subprocess
import sys

import machine

HERE = pathlib.Path(__file__).parent

# `flops` is the work of a step over D H S, and `dtype` what the operands of products are rounded to.
Kind = collections.namedtuple("Kind", "framework way command mode flops dtype")
Kind.name = property(lambda kind: f"{kind.framework}, {kind.way}")

ANEMONE = HERE / "rust/target/release/job-anemone"
BURN, CANDLE = (HERE / f"rust/target/peers/job-{name}" for name in ("burn", "candle"))
JAX, TORCH = (HERE / f"peer_{name}.py" for name in ("jax", "torch"))

PEERS = [
    Kind("anemone", "trainer", ANEMONE, "trainer", 12, "fp16"),
    Kind("anemone", "trainer, without the unused dx", ANEMONE, "trainer-no-dx", 10, "fp16"),
    Kind("burn", "autograd", BURN, "autograd", 12, "f32"),
    Kind("burn", "by hand", BURN, "by-hand", 12, "f32"),
    Kind("candle", "autograd", CANDLE, "autograd", 12, "f32"),
    Kind("candle", "by hand", CANDLE, "by-hand", 12, "f32"),
    Kind("JAX", "a compiled step", JAX, "step", 12, "f32"),
    Kind("JAX", "a compiled batch", JAX, "scan", 12, "f32"),
    Kind("PyTorch", "eager", TORCH, "eager", 12, "f32"),
    Kind("PyTorch", "by hand", TORCH, "by-hand", 12, "f32"),
    Kind("PyTorch", "torch.compile", TORCH, "compile", 12, "f32"),
]
BASE = PEERS[0]


class Peer:
    """A process that answers lines; rust/job says which."""

    def __init__(self, kind, size, n_threads):
        self.kind = kind
        program = [sys.executable, kind.command] if kind.command.suffix == ".py" else [kind.command]
        n = str(n_threads)
        self.process = subprocess.Popen(
            [*program, kind.mode, str(size.d), str(size.h), str(size.s), n],
            env=os.environ | {"OMP_NUM_THREADS": n, "MKL_NUM_THREADS": n, "RAYON_NUM_THREADS": n},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # JAX makes as many threads as it sees cores.
            preexec_fn=lambda: machine.isolate(range(n_threads)),
        )
        self.pid = self.process.pid
        self.version = self.answer()["version"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.kind.name}: ended without an answer, with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()

    def pin(self, cores):
        machine.pin(self.pid, cores)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
