"""Accuracy against bytes on real data, by R and B and compressed.

Draws what ``examples/bench_tradeoff.py --save doc/results/tradeoff.json`` measured.
"""

import matplotlib.pyplot as plt
import numpy as np
import style
from matplotlib.ticker import NullFormatter

PLACES = [1e6, 1e7, 1e8, 1e9, 1e10]
NAMES = ["1 MB", "10 MB", "100 MB", "1 GB", "10 GB"]
LARGE = 15  # points, which a phone still shows


def lines(axes, found):
    """A line for each B, its bound as a ring, and the compressed models."""
    buckets = sorted({point["B"] for point in found["sizes"]})
    for number, B in enumerate(buckets):
        points = [point for point in found["sizes"] if point["B"] == B]
        points.sort(key=lambda point: point["R"])
        n_bytes, top1 = ([p[name] for p in points] for name in ("bytes", "top1"))
        alpha = np.interp(number, [0, len(buckets) - 1], [0.3, 0.7])
        axes.semilogx(n_bytes, top1, color=style.MACH, alpha=alpha)
        for point in points:
            if point["bound"]:
                place = point["bytes"], point["top1"]
                axes.plot(*place, "o", color=style.MACH, mfc="none", ms=11)
        axes.annotate(
            f"B = {B}" if number == 0 else f"{B}",
            (n_bytes[0], top1[0]),
            (-4, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color=style.MACH,
        )
    small = found["compressed"]
    n_bytes, top1 = ([point[name] for point in small] for name in ("bytes", "top1"))
    axes.semilogx(n_bytes, top1, color=style.MACH, marker="s")
    middle = len(small) // 2
    axes.annotate(
        "compressed",
        (n_bytes[middle], top1[middle]),
        (0, 10),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=style.MACH,
    )
    axes.margins(y=0.12)
    axes.axvline(found["one_vs_rest"], color="C1", linestyle="--")
    bottom, top = axes.get_ylim()
    axes.annotate(
        "one-vs-rest ",
        (found["one_vs_rest"], bottom + 0.02 * (top - bottom)),
        ha="right",
        va="bottom",
        rotation=90,
        color="C1",
    )
    axes.set_title(f"{found['name']}: {found['K']:,} classes")
    axes.set_ylabel("top-1 accuracy")


def draw():
    sets = style.results("tradeoff")["data"]
    plt.rcParams["font.size"] = LARGE
    figure, panels = plt.subplots(len(sets), sharex=True, figsize=(7, 5 * len(sets)))
    panels = np.atleast_1d(panels)
    for axes, found in zip(panels, sets, strict=True):
        lines(axes, found)
    low, high = axes.get_xlim()
    pairs = [p for p in zip(PLACES, NAMES, strict=True) if low <= p[0] <= high]
    axes.set_xticks(*zip(*pairs, strict=True))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("memory of the model")
    return figure


if __name__ == "__main__":
    style.draw_both("tradeoff", draw)
