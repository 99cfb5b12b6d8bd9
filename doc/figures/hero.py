"""What MACH does, in one picture: hash, learn buckets, merge.

The picture computes what it shows: exact bucket probabilities of one row, for 24
classes and three random tables of six buckets, merged by the default decoder, the
geometric mean.
"""

import matplotlib.pyplot as plt
import numpy as np
from style import draw_both

K, R, B = 24, 3, 6
NAMES = {8: "hiking boots", 15: "sandals", 3: "tents"}

rng = np.random.default_rng(202)
table = np.stack([rng.permutation(K) % B for _ in range(R)], axis=1)  # (K, R)
p = rng.dirichlet(np.full(K, 0.4)) * 0.12  # the other classes share little
p[list(NAMES)] += 0.6, 0.2, 0.08
buckets = np.stack([np.bincount(h, p, minlength=B) for h in table.T])  # (R, B)
merged = np.exp(np.log(buckets[np.arange(R), table]).mean(axis=1))


def draw():
    """The three steps, one below the other."""
    ink = plt.rcParams["text.color"]
    figure, axes = plt.subplots(figsize=(7.2, 7.4), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, 100), ylim=(0, 103))
    axes.axis("off")
    best = int(merged.argmax())

    def title(y, text):
        axes.text(3, y, text, size=17, weight="bold", va="center")

    # 1. the classes, and the buckets that one of them goes to
    title(99, "1  Hash K classes into R tables of B buckets")
    at = np.linspace(5, 95, K)
    for k in range(K):
        color, size = ("C0", 17) if k == best else (ink, 9)
        alpha = 1 if k == best else 0.35
        axes.plot(at[k], 90, "o", color=color, ms=size, alpha=alpha, mec="none")
    axes.text(
        at[best], 94.5, NAMES[best], color="C0", size=16, ha="center", va="center"
    )

    # 2. a small classifier for each table
    left = np.array([5, 38, 71])
    width, top = 24 / B, 22
    title(61, "2  Train R small classifiers of buckets")
    for r in range(R):
        mine = table[best, r]
        axes.plot(
            [at[best], left[r] + (mine + 0.5) * width],
            [87.5, 71],
            color="C0",
            lw=2,
            alpha=0.8,
        )
        for b in range(B):
            color, alpha = ("C0", 1) if b == mine else (ink, 0.25)
            x = left[r] + b * width
            box = dict(color=color, alpha=alpha, lw=0)
            axes.add_patch(plt.Rectangle((x + 0.3, 67), width - 0.6, 4, **box))
            height = top * buckets[r, b]
            axes.add_patch(plt.Rectangle((x + 0.3, 34), width - 0.6, height, **box))
        axes.plot([left[r], left[r] + 24], [33.8, 33.8], color=ink, lw=1, alpha=0.5)
        x = left[r] + (mine + 0.5) * width
        y = 35.5 + top * buckets[r, mine]
        axes.text(x, y, f"{buckets[r, mine]:.2f}", color="C0", size=14, ha="center")

    # 3. the merged scores
    title(27, "3  Merge: the class whose buckets all say yes")
    for i, k in enumerate(np.argsort(-merged)[:3]):
        y = 19 - 7.5 * i
        color, alpha = ("C0", 1) if k == best else (ink, 0.35)
        axes.text(
            36,
            y,
            NAMES[k],
            size=16,
            ha="right",
            va="center",
            color=color if alpha == 1 else ink,
        )
        value = merged[k]
        axes.add_patch(
            plt.Rectangle(
                (38, y - 2.2), 55 * value, 4.4, color=color, alpha=alpha, lw=0
            )
        )
        axes.text(39.5 + 55 * value, y, f"{merged[k]:.2f}", size=14, va="center")
    return figure


draw_both("hero", draw)
