"""What the figures of the pages share: results, colours, a light and a dark file."""

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
FOLDER = HERE.parent / "_static" / "figures"
MACH = "C0"  # MACH has this colour in all figures
# Text and lines, by the background of the page.
INK = {"light": "#222832", "dark": "#ced6dd"}
# The cycle of mach.mplstyle, lighter where the page is dark.
DARK_CYCLE = [
    "#4DA6E0",
    "#FF8A3D",
    "#2CC79B",
    "#E39CC4",
    "#F2BB45",
    "#8CCBF2",
    "#A0A0A0",
]


def results(name):
    """The dictionary that ``save`` of ``examples/bench_results.py`` has written."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def draw_both(name, draw):
    """Write NAME-light.svg and NAME-dark.svg; ``draw()`` makes and returns a figure."""
    FOLDER.mkdir(exist_ok=True)
    matplotlib.use("agg")
    for mode, ink in INK.items():
        with plt.style.context("sklearn_mach.mach"):
            inks = ("text.color", "axes.edgecolor", "axes.labelcolor")
            inks += ("xtick.color", "ytick.color", "grid.color", "axes.titlecolor")
            plt.rcParams.update(dict.fromkeys(inks, ink))
            if mode == "dark":
                plt.rcParams["axes.prop_cycle"] = plt.cycler(color=DARK_CYCLE)
            figure = draw()
            path = FOLDER / f"{name}-{mode}.svg"
            # Opaque on light pages, so that the README may show it on dark ones, too.
            face = (
                {"facecolor": "white", "transparent": False} if mode == "light" else {}
            )
            # without metadata, so that the same figure is the same file
            metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
            figure.savefig(path, metadata=metadata, **face)
            plt.close(figure)
            print(path.relative_to(HERE.parent))
