"""Accuracy of MACH and its rivals against seconds of fit and bytes of the model.

    python doc/figures/rivals.py

Draws what ``examples/bench_peers.py`` saved: two sets for the landing page, and all.
"""

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from style import MACH, RESULTS, draw_both, results

NAMES = {
    "mach": "MACH",
    "mach_pairs": "MACH, pairs",
    "parabel": "Parabel",
    "bonsai": "Bonsai",
    "pecos": "PECOS",
    "napkinxc": "napkinXC",
    "br": "napkinXC 1-v-rest",
    "vw": "VW",
    "fasttext": "fastText",
    "fasttext_hs": "fastText hs",
    "ovr": "LinearSVC",
    "sgd": "SGD",
    "nb": "naive Bayes",
    "ecoc": "output codes",
}
FAMILIES = [  # each has a colour of its own
    {"mach", "mach_small", "mach_pairs"},
    {"parabel", "bonsai", "pecos", "napkinxc", "vw"},  # label trees
    {"ovr", "sgd", "br", "nb", "ecoc"},  # a model for each class
    {"fasttext", "fasttext_hs"},
]
SETS = [  # in the order of the page
    "gloss_parent",
    "bible_verse",
    "next_item",
    "onet_titles",
    "wordnet_hypernyms",
    "bible_xref",
    "delicious",
]
LANDING = ["gloss_parent", "bible_verse"]
# Where a label goes beside its point: offset in points, alignments.
PLACES = [
    ((7, 0), "left", "center"),
    ((-7, 0), "right", "center"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((6, 6), "left", "bottom"),
    ((6, -6), "left", "top"),
    ((-6, 6), "right", "bottom"),
    ((-6, -6), "right", "top"),
    ((12, 14), "left", "bottom"),
    ((12, -14), "left", "top"),
    ((-12, 14), "right", "bottom"),
    ((-12, -14), "right", "top"),
    ((0, 20), "center", "bottom"),
    ((0, -20), "center", "top"),
    ((0, 24), "right", "bottom"),
    ((0, -32), "center", "top"),
    ((-16, -44), "center", "top"),
]


def colour(peer):
    kind = peer.split()[0]  # without the size of a compressed model
    family = next(i for i, peers in enumerate(FAMILIES) if kind in peers)
    return MACH if family == 0 else f"C{family}"


def panel(axes, found, quality, cost, scale):
    """Points of a set and their names. Returns what `name_points` needs."""
    points = []
    larger = [peer for peer in found if peer.startswith("mach_small")][:-1]
    for peer, f in found.items():
        if isinstance(f, str) or peer in larger:
            continue
        x, y = f[cost] * scale, 100 * f[quality]
        ours, small = colour(peer) == MACH, peer.startswith("mach_small")
        face = "none" if small else colour(peer)
        axes.plot(
            x, y, "o", color=colour(peer), markerfacecolor=face, ms=9 if ours else 6
        )
        mb = f["bytes"] / 1e6
        name = f"MACH, {mb:.{0 if mb >= 10 else 1}f} MB" if small else NAMES[peer]
        points.append((x, y, name, colour(peer), ours))
    axes.set_xscale("log")
    axes.margins(x=0.22, y=0.25)
    left, right = axes.get_xlim()
    subs = (1, 3) if right > 10 * left else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    return points


def name_points(axes, points, size):
    """Put the name of each point where it covers no other name and no point."""
    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    spots = axes.transData.transform([point[:2] for point in points])
    unit = figure.dpi / 72
    taken = []
    for (x, y, name, color, ours), spot in sorted(
        zip(points, spots, strict=True), key=lambda pair: not pair[0][-1]
    ):
        best = None
        for offset, ha, va in PLACES:
            text = axes.annotate(
                name, (x, y), offset, textcoords="offset points", ha=ha, va=va,
                color=color, fontsize=size, fontweight="bold" if ours else "normal",
            )  # fmt: skip
            box = text.get_window_extent(renderer).padded(3 * unit, 0)
            covered = sum(box.overlaps(other) for other in taken)
            covered += sum(
                box.x0 - 4 * unit < a < box.x1 + 4 * unit
                and box.y0 - 3 * unit < b < box.y1 + 3 * unit
                for a, b in spots
                if (a, b) != tuple(spot)
            )
            inside = axes.get_window_extent(renderer)
            covered += 3 * (box.x0 < inside.x0 or box.x1 > inside.x1 + 12 * unit)
            if best is None or covered < best[0]:
                if best:
                    best[1].remove()
                best = covered, text, box
            else:
                text.remove()
            if best[0] == 0:
                break
        best[1].set_in_layout(False)
        taken.append(best[2])


def draw(sets, row_height, size):
    shown = [results(f"peers-{name}")["data"] for name in sets]
    figure, grid = plt.subplots(
        len(sets), 2, figsize=(8, row_height * len(sets)), sharey="row", squeeze=False
    )
    todo = []
    for row, data in zip(grid, shown, strict=True):
        quality = data["names"][0]
        for axes, (cost, scale) in zip(row, [("fit", 1), ("bytes", 1e-6)], strict=True):
            todo.append((axes, panel(axes, data["peers"], quality, cost, scale)))
        row[0].set_title(f"{data['set']}: {data['K']:,} classes")
        row[0].set_ylabel("top-1, %" if quality == "top-1" else f"{quality}, %")
    grid[-1, 0].set_xlabel("seconds of a fit")
    grid[-1, 1].set_xlabel("MB of the model")
    figure.draw_without_rendering()  # settles the layout
    for axes, points in todo:
        name_points(axes, points, size)
    return figure


if __name__ == "__main__":
    there = [name for name in SETS if (RESULTS / f"peers-{name}.json").exists()]
    landing = [name for name in LANDING if name in there] or there[:1]
    draw_both("rivals", lambda: draw(landing, 3.6, 11))
    draw_both("rivals-all", lambda: draw(there, 3.0, 9.5))
