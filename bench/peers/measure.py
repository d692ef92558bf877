"""Times the same training job in anemone and its peers, in turn, and compares their losses. README.md says more."""

import argparse
import collections
import datetime
import pathlib
import random
import statistics
import sys

import machine
import report
from job import Job, expected_loss
from peer import PEERS, Peer

Size = collections.namedtuple("Size", "name d h s seconds lr steps fp16_tolerance")

# Channels, hidden channels, rows; how long one run lasts; and where losses are compared: after 1000 steps at the seed's
# own rate, and, where that hardly moves the loss, after few steps at a rate that moves it a lot. How far a loss may be
# off, as a share of it: in f32, gradients that are wrong by a thousandth would be seen; in fp16, which cannot be that
# strict after a thousand steps, gradients of a layer that are wrong by a tenth, or missing in the larger jobs.
SIZES = {
    size.name: size
    for size in (
        Size("seed", 64, 128, 16, 0.2, 1.0, 1000, 5e-2),
        Size("medium", 256, 1024, 256, 0.3, 16.0, 30, 2e-3),
        Size("large", 768, 2048, 512, 0.3, 64.0, 20, 2e-3),
    )
}

F32_TOLERANCE = 1e-4


def arguments():
    def names(known):
        def parse(text):
            for name in text.split(","):
                if name not in known:
                    raise argparse.ArgumentTypeError(f"`{name}`, expected some of {', '.join(known)}")
            return text.split(",")

        return parse

    def name(text):
        if not text.replace("-", "").isalnum():
            raise argparse.ArgumentTypeError(f"`{text}`, expected letters, digits and hyphens")
        return text

    def rounds(text):
        if int(text) < 2:
            raise argparse.ArgumentTypeError("expected 2 or more, since their spread is told")
        return int(text)

    frameworks = list(dict.fromkeys(kind.framework.lower() for kind in PEERS))
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument("--sizes", type=names(SIZES), default=list(SIZES), help="default: seed,medium,large")
    parser.add_argument("--peers", type=names(frameworks), default=frameworks, help="default: all; anemone always is")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=rounds, default=5, help="how often each is timed (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="factor of the length of a run (1)")
    parser.add_argument("--keep", type=name, metavar="NAME", help="write results/NAME.md and results/NAME.svg")
    return parser.parse_args()


def check(peer, size, expected):
    """How far the peer's loss is off; ends everything if that is too far."""
    found = peer.ask(f"check {size.lr} {size.steps}")["loss"]
    off = abs(found / expected - 1)
    tolerance = size.fp16_tolerance if peer.kind.dtype == "fp16" else F32_TOLERANCE
    if not off <= tolerance:
        sys.exit(
            f"{peer.kind.name}, {size.name}: the loss after {size.steps} steps is {found:.8f}, expected {expected:.8f} "
            f"within {tolerance:.0e}: it does another job"
        )
    return off


def measure(size, n_threads, kinds, rounds, factor):
    """Times of a step in microseconds by peer, a list with an entry a round, and what was seen beside them."""
    expected = expected_loss(Job(size.d, size.h, size.s), size.lr, size.steps)
    peers, result = [], report.Measured(size, n_threads)
    try:
        for kind in kinds:
            peer = Peer(kind, size, n_threads)
            peers.append(peer)
            result.versions[kind.framework] = peer.version
            result.off[kind] = check(peer, size, expected)
        for i in range(rounds):
            random.shuffle(peers)
            for peer in peers:
                core = machine.quietest_core()
                peer.pin([core] if n_threads == 1 else range(machine.n_cores()))
                with machine.OtherLoad(peer.pid) as load:
                    us = peer.ask(f"time {size.seconds * factor}")["us"]
                result.us[peer.kind].append(us)
                result.other_load.append(load.cores)
            print(f"{size.name}, threads: {n_threads}, round {i + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for peer in peers:
            peer.close()
    return result


def main():
    args = arguments()
    kinds = [kind for kind in PEERS if kind.framework.lower() in [*args.peers, "anemone"]]
    begin = datetime.datetime.now(datetime.timezone.utc)
    results = [
        measure(SIZES[size], n_threads, kinds, args.rounds, args.seconds)
        for size in args.sizes
        for n_threads in args.threads
    ]
    minutes = (datetime.datetime.now(datetime.timezone.utc) - begin).total_seconds() / 60
    tables = report.tables(results)
    told = report.told(results, args.rounds, begin, minutes, statistics.fmean(x for r in results for x in r.other_load))
    print(told, tables, sep="\n")
    if args.keep:
        kept = pathlib.Path(__file__).parent / "results" / args.keep
        picture = f"![Time of a training step relative to anemone's]({kept.name}.svg)"
        kept.with_suffix(".md").write_text(f"# Results\n\n{picture}\n\n{told}\n{tables}")
        kept.with_suffix(".svg").write_text(report.picture(results))


if __name__ == "__main__":
    main()
