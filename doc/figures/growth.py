"""Costs of MACH and of one-vs-rest by the number of classes, and by all else.

Draws what ``python examples/bench_growth.py --save doc/results/growth.json`` measured.
"""

import matplotlib.pyplot as plt
import numpy as np
import style
from matplotlib.ticker import NullFormatter

PANELS = {
    "fit": ("Time to fit", [1, 60, 3600, 86400], ["1 s", "1 min", "1 h", "1 day"]),
    "predict": (
        "Time to predict a row",
        [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
        ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms"],
    ),
    "bytes": (
        "Memory of the model",
        [1e7, 1e8, 1e9, 1e10, 1e11],
        ["10 MB", "100 MB", "1 GB", "10 GB", "100 GB"],
    ),
}
COUNTS = [10, 100, 1_000, 10_000, 100_000, 1_000_000]
SHORT = ["10", "100", "1,000", "10,000", "100,000", "1 million"]
LARGE = 15  # points, which a phone still shows


def ticks(axis, places, names):
    """Ticks at places inside the limits, without those between."""
    low, high = axis.get_view_interval()
    pairs = [(p, n) for p, n in zip(places, names, strict=True) if low <= p <= high]
    axis.set_ticks(*zip(*pairs, strict=True))
    axis.set_minor_formatter(NullFormatter())


def line(axes, curve, color, name, place):
    """One cost by K, dashed where it was computed; `place` of the name is in points."""
    K, costs, computed = map(np.array, curve)
    last = np.flatnonzero(~computed)[-1]
    axes.loglog(K[: last + 1], costs[: last + 1], color=color, marker="o")
    axes.loglog(K[last:], costs[last:], color=color, linestyle="--")
    above = place[1] > 0
    axes.annotate(
        name,
        (K[-1], costs[-1]) if above else (K[0], costs[0]),
        place,
        textcoords="offset points",
        ha="right" if above else "left",
        va="bottom" if above else "top",
        color=color,
    )


def by_classes():
    curves = style.results("growth")["data"]["curves"]
    plt.rcParams["font.size"] = LARGE
    figure, panels = plt.subplots(len(PANELS), sharex=True, figsize=(7, 11))
    for axes, (cost, (title, places, names)) in zip(
        panels, PANELS.items(), strict=True
    ):
        line(axes, curves[cost]["ovr"], "C1", "one-vs-rest", (0, 8))
        line(axes, curves[cost]["mach"], style.MACH, "MACH", (8, -8))
        axes.set_title(title)
        axes.margins(y=0.2)
        ticks(axes.yaxis, places, names)
    ticks(axes.xaxis, COUNTS, SHORT)
    axes.set_xlabel("classes")
    return figure


def by_size():
    data = style.results("growth")["data"]
    plt.rcParams["font.size"] = LARGE
    figure, axes = plt.subplots(figsize=(7, 6))
    names = {"n": "rows", "z": "non-zeros of a row", "B": "buckets", "d": "columns"}
    names["K"] = "classes"
    ends = []
    for number, (letter, name) in enumerate(names.items()):
        measured = data["sweeps"][letter]
        x = np.array([figures[letter] for figures in measured], float)
        seconds = np.array([figures["fit"] for figures in measured])
        color = style.MACH if letter == "K" else f"C{number + 1}"
        axes.loglog(x / x[0], seconds / seconds[0], marker="o", color=color)
        text = f"{name} ({data['slopes'][letter]['fit'][0]:.2f})"
        ends.append([x[-1] / x[0], seconds[-1] / seconds[0], color, text])
    most, highest = (max(values) for values in list(zip(*ends, strict=True))[:2])
    axes.loglog([1, highest], [1, highest], ":", color="C6", zorder=0)
    ends.append([highest, highest, "C6", "in proportion (1)"])
    # Names stand at the right, apart from each other, in the order of the ends.
    low, high = np.log(axes.get_ylim())
    apart, place = 0.07 * (high - low), np.inf
    for x, y, color, text in sorted(ends, key=lambda end: -end[1]):
        place = min(np.log(y), place - apart)
        axes.annotate(
            text.replace("-0.00", "0.00"),
            (x, y),
            (1.25 * most, np.exp(place)),
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.4, "lw": 1},
        )
    axes.set_title("Time to fit, by what grows (slope)")
    axes.set_xlabel("times as many")
    axes.set_ylabel("times as long")
    times = [1, 3, 10, 30, 100, 300, 1000]
    for axis in (axes.xaxis, axes.yaxis):
        ticks(axis, times, [f"{t:,}" for t in times])
    return figure


if __name__ == "__main__":
    style.draw_both("growth", by_classes)
    style.draw_both("growth_sizes", by_size)
