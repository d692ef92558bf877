"""What the peers in Python share: the job's first values, and the conversation with `run` that rust/job describes."""

import json
import statistics
import sys
import time

import numpy as np

ACCUMULATE = 10  # steps whose gradients make one update
LR = 0.01  # while time is taken: small, so that the numbers stay what they are
N_WARM_UP = 3  # batches before time is taken


class Job:
    """The sizes of a job and its first values, as f32."""

    def __init__(self, d, h, s):
        self.d, self.h, self.s = d, h, s

    def wave(self, function, frequency, phase, shape):
        i = np.arange(shape[0] * shape[1], dtype=np.float32)
        # The argument rounds to f32 twice, the function once.
        argument = i * np.float32(frequency) + np.float32(phase)
        return function(argument.astype(np.float64)).astype(np.float32).reshape(shape)

    def w1(self):
        return np.float32(0.01) * self.wave(np.sin, 1.3, 0.7, (self.h, self.d))

    def w2(self):
        return np.float32(0.01) * self.wave(np.cos, 0.9, 1.1, (self.d, self.h))

    def x(self):
        """The input, which is the target too."""
        return self.wave(np.sin, 0.1, 0.0, (self.s, self.d))


def expected_loss(job, lr, steps):
    """The loss of the last of so many steps, in f64. The ten steps of a batch being the same, one stands for them."""
    x, w1, w2 = (a.astype(np.float64) for a in (job.x(), job.w1(), job.w2()))
    loss = np.nan
    for _ in range(steps // ACCUMULATE):
        h = np.maximum(x @ w1.T, 0.0)
        difference = h @ w2.T - x
        loss = np.mean(difference**2)
        dy = difference * (2.0 / difference.size)
        dh = (dy @ w2) * (h > 0.0)
        w1, w2 = w1 - lr * (dh.T @ x), w2 - lr * (dy.T @ h)
    return float(loss)


def arguments():
    """`MODE D H S THREADS` as mode, job and number of threads."""
    mode, d, h, s, n_threads = sys.argv[1:]
    return mode, Job(int(d), int(h), int(s)), int(n_threads)


def say(**what):
    print(json.dumps(what), flush=True)


def serve(version, start):
    """Talks with `run`; `start(lr)` makes a fresh job, a function that trains the steps of one update and returns the
    loss of the last."""
    say(version=version)
    timed = None
    for line in sys.stdin:
        match line.split():
            case ["check", lr, steps]:
                batch = start(float(lr))
                loss = float("nan")
                for _ in range(int(steps) // ACCUMULATE):
                    loss = batch()
                say(loss=loss)
            case ["time", seconds]:
                if timed is None:
                    timed = start(LR)
                    for _ in range(N_WARM_UP):
                        timed()
                times = []
                begin = time.perf_counter()
                while time.perf_counter() - begin < float(seconds):
                    t = time.perf_counter()
                    timed()
                    times.append(time.perf_counter() - t)
                say(us=statistics.median(times) * 1e6 / ACCUMULATE, batches=len(times))
            case _:
                raise ValueError(f"`{line.strip()}`, expected `check LR STEPS` or `time SECONDS`")
