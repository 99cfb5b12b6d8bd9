"""
============================
One-vs-rest, as classes grow
============================

One-vs-rest needs weights and time for every class; MACH needs them for R B buckets,
however many classes there are. Where is it that the two cross?
"""

# %%
# More and more tokens
# --------------------
# The next token of Python source, with the K most frequent tokens as classes. The rows
# are 5,000 places whose next token is one of these.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

tokens = load_python_tokens(n_files=40)
rng = np.random.default_rng(0)


def rows_of(X, y, n_classes, n_rows):
    """Random rows of the first classes, one at least of each that there is."""
    rows = rng.permutation(np.flatnonzero(y < n_classes))
    first = np.unique(y[rows], return_index=True)[1]
    rows = np.append(rows[first], np.delete(rows, first)[: max(n_rows - first.size, 0)])
    return normalize(X[rows]), y[rows]


warm_up = rows_of(tokens.data_train, tokens.target_train, 10, 2000)
MACHClassifier(n_repetitions=4, n_buckets=5).fit(*warm_up)  # compiles the learner

# %%
# Both on the same rows
# ---------------------
# MACH has R B = 512 buckets. One-vs-rest is a linear support vector machine for each
# class.

sizes = [30, 100, 300, 1000]
results = {"One-vs-rest": [], "MACH": []}
for K in sizes:
    X, y = rows_of(tokens.data_train, tokens.target_train, K, 5_000)
    X_test, y_test = rows_of(tokens.data_test, tokens.target_test, K, 3_000)
    models = {
        "One-vs-rest": LinearSVC(),
        "MACH": MACHClassifier(n_repetitions=16, n_buckets=min(32, K), random_state=0),
    }
    for name, model in models.items():
        start = perf_counter()
        model.fit(X, y)
        seconds = perf_counter() - start
        megabytes = 4 * model.coef_.size / 1e6  # in float32, for both
        score = model.score(X_test, y_test)
        results[name].append((seconds, megabytes, score))
        print(
            f"K = {K:5,}  {name:12} {seconds:6.2f} s  {megabytes:6.1f} MB  {score:.3f}"
        )

# %%
# Where they cross
# ----------------
# In memory the two are equal at K = R B, by counting. In time the crossing point
# depends on the learners; it is read off between the two nearest sizes.

figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
labels = ("Seconds to fit", "Weights (MB)", "Top-1 accuracy")
for name, values in results.items():
    for axes, column in zip(panels, np.transpose(values), strict=True):
        axes.plot(sizes, column, "o-", label=name)
for axes, label in zip(panels, labels, strict=True):
    axes.set_xscale("log")
    axes.set_xticks(sizes, sizes)
    axes.minorticks_off()
    axes.set(xlabel="Classes K", ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
panels[2].set_ylim(0, 0.7)
panels[0].legend(frameon=False)

theirs, ours = (np.array(results[name])[:, 0] for name in ("One-vs-rest", "MACH"))
ahead = np.flatnonzero(theirs > ours)
if 0 < ahead.size < len(sizes):
    gap = np.log(theirs / ours)
    crossing = np.exp(np.interp(0, gap, np.log(sizes)))
    panels[0].axvline(crossing, color="0.5", ls=":")
    print(f"equal times near K = {crossing:.0f}; equal memory at K = 512")
plt.show()

# %%
# When one-vs-rest is better
# --------------------------
# Up to the crossing point, and to the right of it too as long as it fits and ends: with
# so few buckets MACH is here the less accurate of the two from a few hundred classes
# on. It is for the far right of these panels, where one-vs-rest cannot follow.
