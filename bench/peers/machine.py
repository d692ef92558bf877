"""The machine: what it is, which core is idle, what others do meanwhile. Where there is no Linux, nobody can tell."""

import os
import pathlib
import platform
import subprocess
import time

STAT = pathlib.Path("/proc/stat")
TICKS = os.sysconf("SC_CLK_TCK")


def n_cores():
    return os.cpu_count() or 1


def busy_ticks():
    """Of each core, so far."""
    ticks = []
    for line in STAT.read_text().splitlines()[1:]:
        if not line.startswith("cpu"):
            break
        user, nice, system, _idle, _wait, *interrupts = map(int, line.split()[1:9])
        ticks.append(user + nice + system + sum(interrupts))
    return ticks


def quietest_core():
    """The core that others used least in the last tenth of a second."""
    if not STAT.exists():
        return 0
    before = busy_ticks()
    time.sleep(0.1)
    used = [b - a for a, b in zip(before, busy_ticks())]
    return used.index(min(used))


class OtherLoad:
    """How many cores everything but one process kept busy meanwhile, on average."""

    def __init__(self, pid):
        self.pid, self.cores = pid, float("nan")

    def ticks(self):
        if not STAT.exists():
            return float("nan")
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(busy_ticks()) - int(fields[11]) - int(fields[12])

    def __enter__(self):
        self.begin, self.before = time.monotonic(), self.ticks()
        return self

    def __exit__(self, *_):
        self.cores = (self.ticks() - self.before) / TICKS / (time.monotonic() - self.begin)


def isolate(cores):
    """Called in a new process: on some cores, ahead of everyone else as far as that is allowed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    try:
        os.nice(-15)
        # Linux shares time among sessions first: each has a niceness of its own.
        pathlib.Path("/proc/self/autogroup").write_text("-15")
    except OSError:
        pass


def pin(pid, cores):
    """Moves a process with all its threads."""
    if hasattr(os, "sched_setaffinity"):
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), cores)


def description():
    name = platform.processor() or platform.machine()
    if (info := pathlib.Path("/proc/cpuinfo")).exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    elif platform.system() == "Darwin":
        name = output("sysctl", "-n", "machdep.cpu.brand_string")
    return f"{n_cores()} cores, {name}, {platform.system()}"


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent).stdout.strip()
