"""
====================
Several labels a row
====================

Which names will a function use? Its signature and its docstring tell a good deal, and
every function uses several names out of thousands. The target is then an indicator
matrix with a column for each label, and :class:`~sklearn_mach.MACHClassifier` ranks
the labels of a row.
"""

# %%
# The data
# --------
# A row is a function of the standard library of the Python that runs this script. The
# columns count the words of its signature and its docstring, and the labels are the
# names that its body uses. Training and test functions come from different files, and
# each file has names of its own. The test is hard: three in ten of the names that its
# functions use are no labels, and one row in eleven has no label at all.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestNeighbors

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_functions
from sklearn_mach.metrics import (
    inverse_propensities,
    precision_at_k,
    propensity_scored_precision_at_k,
)

plt.style.use("sklearn_mach.mach")
functions = load_python_functions()
print(functions.DESCR.split("\n\n")[3])
Y, Y_test = functions.target_train, functions.target_test
tfidf = TfidfTransformer(sublinear_tf=True)
X = tfidf.fit_transform(functions.data_train)
X_test = tfidf.transform(functions.data_test)

# %%
# Most labels are rare: seven in ten have five training rows or fewer.

label_counts = np.bincount(Y.indices, minlength=Y.shape[1])
print("Most frequent: ", ", ".join(functions.target_names[:12]))
print("Rare, such as: ", ", ".join(functions.target_names[-5:]))
print(f"In five rows or fewer: {np.mean(label_counts <= 5):.0%} of the labels")

# %%
# The rankings
# ------------
# Each method puts the five best labels of a row in order.
#
# * *Most frequent* gives the same five to every row.
# * *30 neighbours*: the most similar training rows vote for their labels, with the
#   square of the cosine as their weight.
# * *One-vs-rest* is a logistic regression for each label. All labels would take some
#   minutes, so it learns the 200 most frequent ones only.
# * *MACH* learns all labels at once. It takes the indicator matrix as it is.
#
# Seconds are those of training and ranking, on two cores for the last two.

warm_up = MACHClassifier(n_repetitions=4, n_buckets=50, random_state=0)
warm_up.fit(X[:500], Y[:500]).predict_topk(X_test[:5], 5)  # compiles the learner
rankings, seconds = {}, {}


def best_five(scores):
    """The columns of the five largest scores of each row, largest first."""
    return np.argsort(-scores, axis=1)[:, :5]


rankings["Most frequent"] = np.tile(np.arange(5), (Y_test.shape[0], 1))

start = perf_counter()
neighbors = NearestNeighbors(n_neighbors=30, metric="cosine").fit(X)
distances, rows = neighbors.kneighbors(X_test)
votes = ((1 - distances) ** 2).ravel(), rows.ravel(), np.arange(0, rows.size + 1, 30)
votes = csr_matrix(votes, shape=(rows.shape[0], X.shape[0]), dtype=np.float32)
rankings["30 neighbours"] = best_five((votes @ Y).toarray())
seconds["30 neighbours"] = perf_counter() - start

start = perf_counter()
regression = LogisticRegression(C=10, solver="liblinear", tol=0.1)
one_vs_rest = OneVsRestClassifier(regression, n_jobs=2).fit(X, Y[:, :200])
rankings["One-vs-rest, 200 labels"] = best_five(one_vs_rest.predict_proba(X_test))
seconds["One-vs-rest, 200 labels"] = perf_counter() - start

start = perf_counter()
mach = MACHClassifier(n_jobs=2, random_state=0).fit(X, Y)
rankings["MACH"] = mach.predict_topk(X_test, 5)
seconds["MACH"] = perf_counter() - start
print(f"MACH has {mach.n_repetitions_} repetitions of {mach.n_buckets_} buckets")

# %%
# Precision, and precision that values rare labels
# ------------------------------------------------
# Precision at k (P@k) is the share of the k best labels that are right. A hit with a
# rare label says more than one with ``len``. The propensity-scored precision (PSP@k)
# weights each label by how easily it is overlooked, and compares with the best ranking
# that there is.

weights = inverse_propensities(Y)
places = np.arange(1, 6)
scores = {}
print(f"{'':25}  P@1   P@3   P@5   PSP@1 PSP@3 PSP@5  seconds")
for name, ranked in rankings.items():
    precision = [precision_at_k(Y_test, ranked, k) for k in places]
    scored = [
        propensity_scored_precision_at_k(Y_test, ranked, weights, k) for k in places
    ]
    scores[name] = precision, scored
    cells = "".join(f"{value:6.3f}" for value in precision[::2])
    cells += "  " + "".join(f"{value:6.3f}" for value in scored[::2])
    print(f"{name:25}{cells}{seconds.get(name, 0):9.1f}")

# %%
# The two as pictures.

for column, label in enumerate(("Precision at k", "Propensity-scored precision at k")):
    figure, axes = plt.subplots()
    ends = np.array([curves[column][-1] for curves in scores.values()])
    # Labels at the ends of the lines, moved apart where the lines are close.
    heights, least = np.empty_like(ends), -np.inf
    for j in np.argsort(ends):
        least = heights[j] = max(ends[j], least + 0.12 * ends.max())
    for (name, curves), height, color in zip(
        scores.items(), heights, ["C3", "C2", "C1", "C0"], strict=True
    ):
        axes.plot(places, curves[column], "o-", color=color)
        axes.annotate(
            name,
            (5.15, height),
            va="center",
            color=color,
            fontsize=15,
            annotation_clip=False,
        )
    axes.set(xticks=places, xlim=(0.9, 7.6), ylim=(0, None))
    axes.set_xlabel("k", fontsize=15)
    axes.set_ylabel(label, fontsize=15)
    axes.tick_params(labelsize=14)
    plt.show()

# %%
# What MACH expects of some functions of the test files, drawn from those that use five
# names or more. A star marks a name that the function does use.

rng = np.random.default_rng(0)
for i in rng.permutation(np.flatnonzero(np.diff(Y_test.indptr) >= 5))[:8]:
    used = set(Y_test.indices[Y_test.indptr[i] : Y_test.indptr[i + 1]])
    best = rankings["MACH"][i]
    names = [functions.target_names[j] + "*" * (j in used) for j in best]
    print(f"{functions.function_names[Y.shape[0] + i]}\n    {'  '.join(names)}")

# %%
# A set in place of a ranking
# ---------------------------
# ``predict`` gives the labels whose probability is at least one half, as an indicator
# matrix. Such labels are few: about half of them are right, and most true labels are
# missed. A lower threshold finds more of them, at the price of more false ones.

proba = mach.predict_proba(X_test)  # an array of rows times labels, 160 MB
print(f"{'':9}  labels a row  precision  recall")
for threshold in (0.5, 0.2):
    predicted = csr_matrix(proba >= threshold)
    hits = predicted.multiply(Y_test).sum()
    cells = predicted.sum() / Y_test.shape[0], hits / predicted.sum()
    print(f"p >= {threshold:.1f}{cells[0]:15.2f}{cells[1]:11.2f}", end="")
    print(f"{hits / Y_test.sum():8.2f}")

# %%
# Of the labels with a probability of one half or more, more than half should be right.
# The probabilities are fitted to rows that are set aside from the training files, and
# are too high for files with names of their own. ``calibrate`` fits them to rows that
# are like those to come.
#
# When it is not worth it
# -----------------------
# MACH is ahead of the neighbours by one or two points of precision only, and they need
# no fit at all: with some thousand rows they are hard to beat. With a few hundred
# labels one-vs-rest fits in memory and in time, and each label has weights that can be
# read. MACH is for many labels and many rows. Its weights grow with the buckets, not
# with the labels, and a prediction does not search the training rows.
