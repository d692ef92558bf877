"""What was measured, as text, as tables and as a picture."""

import collections
import dataclasses
import math
import platform
import statistics

import machine
from peer import BASE


@dataclasses.dataclass
class Measured:
    """One size with one number of threads."""

    size: object
    n_threads: int
    us: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    off: dict = dataclasses.field(default_factory=dict)
    versions: dict = dataclasses.field(default_factory=dict)
    other_load: list = dataclasses.field(default_factory=list)

    def median(self, kind):
        return statistics.median(self.us[kind])

    def spread(self, kind):
        """Half of what the middle half of the rounds spans, as a share of the median."""
        low, _, high = statistics.quantiles(self.us[kind], n=4, method="inclusive")
        return (high - low) / 2 / self.median(kind)

    def ratio(self, kind):
        """How many times longer it takes than anemone in the same round."""
        return statistics.median(a / b for a, b in zip(self.us[kind], self.us[BASE]))

    def gflops(self, kind):
        return kind.flops * self.size.d * self.size.h * self.size.s / self.median(kind) / 1e3


def threads(n):
    return "one thread" if n == 1 else f"{n} threads"


def sizes_of(results):
    """Sizes in order, each with what was measured of it."""
    sizes = collections.defaultdict(list)
    for r in results:
        sizes[r.size].append(r)
    return sizes


def told(results, n_rounds, begin, minutes, other_load):
    spreads = collections.defaultdict(list)
    for r in results:
        spreads[r.n_threads] += [r.spread(kind) for kind in r.us]
    noise = ", ".join(f"{100 * statistics.median(s):.0f} % ({threads(n)})" for n, s in sorted(spreads.items()))
    versions = {framework: version for r in results for framework, version in r.versions.items()}
    commit = machine.output("git", "describe", "--always", "--dirty", "--exclude=*")
    versions["anemone"] = f"of commit {commit} ({machine.output('rustc', '--version').rpartition(' (')[0]})"
    return (
        f"Measured on {begin:%Y-%m-%d} by `bench/peers/run`: {machine.description()}; {n_rounds} rounds in turn, "
        f"{minutes:.0f} minutes in all.\n"
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; Python {platform.python_version()}.\n"
        f"Others kept {other_load:.1f} cores busy meanwhile, on average; half of a peer's rounds lay within "
        f"this much of its median, typically: {noise}.\n"
    )


def tables(results):
    text = []
    for size, group in sizes_of(results).items():
        head = " | ".join(f"{threads(r.n_threads)}, µs a step | × anemone | GFLOP/s" for r in group)
        text += [
            f"## {size.name}: {size.d}-{size.h}-{size.d}, {size.s} rows",
            "",
            f"| | {head} | loss off by |",
            "| --- |" + " ---: |" * (3 * len(group) + 1),
        ]
        for kind in sorted(group[0].us, key=group[0].ratio):
            cells = [
                f"{microseconds(r.median(kind))} ± {100 * r.spread(kind):.0f} % | {r.ratio(kind):.2f} "
                f"| {r.gflops(kind):.0f}"
                for r in group
            ]
            name = f"**{kind.name}**" if kind.framework == BASE.framework else kind.name
            text.append(f"| {name} | {' | '.join(cells)} | {max(r.off[kind] for r in group):.0e} |")
        text.append("")
    return "\n".join(text)


def microseconds(us):
    return f"{us:.1f}" if us < 1000 else f"{us:,.0f}"


# The picture: a panel a size, a row a peer, a dot a number of threads. GitHub shows it on white and on nearly black, so
# every colour stands out from both.
TEXT, FAINT, DOTS = "#757b85", "#8b93a040", ("#2f81d6", "#d97706")
LABELS, PANEL, GAP, ROW, TOP = 190, 220, 24, 24, 64


def picture(results):
    sizes = sizes_of(results)
    kinds = [kind for kind in results[0].us if kind.flops == BASE.flops]
    kinds.sort(key=lambda k: math.prod(r.ratio(k) for r in results))
    width, height = LABELS + len(sizes) * (PANEL + GAP), TOP + len(kinds) * ROW + 34
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}" role="img">',
        "<title>Time of a training step relative to anemone's</title>",
        '<text x="0" y="14" font-size="14" font-weight="600">Time of a training step relative to anemone\'s, less is '
        "better</text>",
    ]
    for i, n in enumerate(sorted({r.n_threads for r in results})):
        x = 6 + 92 * i
        svg += [dot(x, TOP - 24, i), f'<text x="{x + 10}" y="{TOP - 20}">{threads(n)}</text>']
    for row, kind in enumerate(kinds):
        weight = ' font-weight="700"' if kind is BASE else ""
        svg.append(f'<text x="{LABELS - 12}" y="{y_of(row) + 4}" text-anchor="end"{weight}>{kind.name}</text>')
    for i, (size, group) in enumerate(sizes.items()):
        svg += panel(LABELS + i * (PANEL + GAP), size, group, kinds)
    return "\n".join([*svg, "</svg>", ""])


def panel(left, size, group, kinds):
    ratios = [r.ratio(kind) for r in group for kind in kinds]
    low, high = min(0.8, *ratios) / 1.05, max(2.0, *ratios) * 1.05

    def x_of(ratio):
        return left + PANEL * math.log(ratio / low) / math.log(high / low)

    bottom = y_of(len(kinds)) - ROW / 2 + 4
    svg = [f'<text x="{left}" y="{TOP - 20}" font-weight="600">{size.d}-{size.h}-{size.d}, {size.s} rows</text>']
    for tick in (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32):
        # Where there is room: all of them on short axes, every other one on long axes.
        if low <= tick <= high and (high / low < 6 or tick in (0.5, 1, 2, 4, 8, 16, 32)):
            x, stroke = x_of(tick), TEXT if tick == 1 else FAINT
            svg += [
                f'<line x1="{x:.1f}" y1="{TOP - 10}" x2="{x:.1f}" y2="{bottom}" stroke="{stroke}"/>',
                f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick}×</text>',
            ]
    for row, kind in enumerate(kinds):
        y = y_of(row)
        svg.append(f'<line x1="{left}" y1="{y}" x2="{left + PANEL}" y2="{y}" stroke="{FAINT}"/>')
        svg += [dot(x_of(r.ratio(kind)), y, i) for i, r in enumerate(group)]
    return svg


def y_of(row):
    return TOP + row * ROW + ROW / 2 - 8


def dot(x, y, i):
    # The second is a ring, so that both are seen where they lie on each other.
    style = f'fill="{DOTS[0]}"' if i == 0 else f'fill="none" stroke="{DOTS[1]}" stroke-width="2"'
    return f'<circle cx="{x:.1f}" cy="{y}" r="{4 if i == 0 else 5.5}" {style}/>'
