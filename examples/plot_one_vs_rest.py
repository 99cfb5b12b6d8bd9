"""
============================
One-vs-rest, as classes grow
============================

One model for each class takes time and memory in proportion to the classes. MACH takes
the same for a hundred classes and for twenty thousand. Where do the two cross, and who
is more accurate?
"""

# %%
# More and more tokens
# --------------------
# The problem is the next token of Python source. The classes are the K most frequent
# tokens. The samples are always 30,000 places of the training files whose next token is
# one of the K, so that only the number of classes changes.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from joblib import parallel_config
from sklearn.base import clone
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=500)
n_columns = tokens.data.shape[1]
rng = np.random.default_rng(0)


def rows_of(X, y, n_classes, n_rows):
    """Random rows of the first classes, one at least of each that there is."""
    rows = rng.permutation(np.flatnonzero(y < n_classes))
    first = np.unique(y[rows], return_index=True)[1]
    rows = np.append(rows[first], np.delete(rows, first)[: max(n_rows - first.size, 0)])
    return normalize(X[rows]), y[rows]


# %%
# Both on the same rows
# ---------------------
# One-vs-rest is a linear support vector machine for each class, two of them at a time.
# :class:`~sklearn.svm.LinearSVC` is quicker and more accurate here than
# :class:`~sklearn.linear_model.SGDClassifier`. It is fitted for up to 200 classes. MACH
# has R = 16 repetitions of B = 64 buckets, and is fitted for all numbers of classes.

one_vs_rest = OneVsRestClassifier(LinearSVC(), n_jobs=2)
mach = MACHClassifier(n_repetitions=16, n_buckets=64, n_jobs=2, random_state=0)
some = rows_of(tokens.data_train, tokens.target_train, 100, 30_000)
clone(mach).set_params(max_iter=1).fit(*some)  # compiles

sizes = [100, 200, 1_000, 5_000, 20_000]
results = {"One-vs-rest": [], "MACH": []}
for K in sizes:
    X, y = rows_of(tokens.data_train, tokens.target_train, K, 30_000)
    X_test, y_test = rows_of(tokens.data_test, tokens.target_test, K, 5_000)
    for name, model in {"One-vs-rest": one_vs_rest, "MACH": mach}.items():
        if name == "MACH" or K <= 200:
            start = perf_counter()
            with parallel_config("threading"):
                model.fit(X, y)
            seconds = perf_counter() - start
            score = np.mean(model.predict(X_test) == y_test)
            results[name].append((K, seconds, score))
            print(f"K = {K:6,}  {name:12} {seconds:6.2f} s  accuracy {score:.3f}")

# %%
# Beyond 200 classes, the time of one-vs-rest is computed: the seconds that each class
# took at 200, times K. It needs a weight for each class and column, 4 d K bytes with d
# columns in float32. scikit-learn keeps them in float64, which is twice as much. MACH
# needs 4 d R B bytes for any K.

ours, theirs = np.transpose(results["MACH"]), np.transpose(results["One-vs-rest"])
per_class = theirs[1, -1] / theirs[0, -1]
computed = np.array(sizes[1:])
print(f"one-vs-rest: {per_class * 1000:.0f} ms a class, ", end="")
print(f"so {per_class * sizes[-1] / 60:.0f} minutes and ", end="")
print(f"{4 * n_columns * sizes[-1] / 1e9:.1f} GB for {sizes[-1]:,} classes")
print(f"MACH: {ours[1, -1]:.1f} s and {4 * n_columns * 16 * 64 / 1e9:.2f} GB")
print(f"Equal times at K = {np.median(ours[1]) / per_class:.0f}, ", end="")
print(f"equal memory at K = R B = {16 * 64:,}")

# %%
# Where they cross
# ----------------
# The dashed part is computed.

figure, axes = plt.subplots()
axes.plot(ours[0], ours[1], "o-", color="C0")
axes.plot(theirs[0], theirs[1], "o-", color="C1")
axes.plot(computed, per_class * computed, "--", color="C1")
axes.set(xscale="log", yscale="log", ylim=(0.3, None))
axes.set_xlabel("Classes", fontsize=15)
axes.set_ylabel("Seconds to fit", fontsize=15)
axes.tick_params(labelsize=14)
axes.set_xticks([100, 1_000, 10_000], ["100", "1,000", "10,000"])
axes.set_yticks([1, 10, 100, 1_000], ["1", "10", "100", "1,000"])
text = {"fontsize": 15, "ha": "right", "textcoords": "offset points"}
end = (sizes[-1], per_class * sizes[-1])
axes.annotate("one-vs-rest", end, xytext=(-24, 0), color="C1", **text)
axes.annotate("MACH", (sizes[-1], ours[1, -1]), xytext=(0, 12), color="C0", **text)
plt.show()

# %%
# Who is more accurate
# --------------------
# Where both were fitted they differ by less than a point. Accuracy falls with K for two
# reasons: there are more classes to choose from, and each has fewer of the 30,000 rows.

for (K, _, a), (_, _, b) in zip(*results.values(), strict=False):
    print(f"K = {K}: one-vs-rest {a:.3f}, MACH {b:.3f}")

figure, axes = plt.subplots()
axes.plot(ours[0], ours[2], "o-", color="C0")
axes.plot(theirs[0], theirs[2], "s--", color="C1")
axes.set(xscale="log", xlabel="Classes", ylabel="Accuracy", ylim=(0, 0.7))
axes.set_xticks([100, 1_000, 10_000], ["100", "1,000", "10,000"])
text["textcoords"] = "offset points"
axes.annotate("MACH", (sizes[-1], ours[2, -1]), xytext=(0, 12), color="C0", **text)
end = theirs[0, -1], theirs[2, -1]
axes.annotate("one-vs-rest", end, xytext=(14, 10), color="C1", **text | {"ha": "left"})
plt.show()

# %%
# With some hundred classes, one-vs-rest has weights that you can read class by class,
# and waiting for it is bearable. With tens of thousands it no longer fits in the memory
# of a laptop. The page of benchmarks compares MACH with more rivals, on all rows.
