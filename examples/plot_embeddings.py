"""
===========================
Embeddings and their rivals
===========================

Texts, images and users often reach a classifier as embeddings: dense rows of some
hundred numbers. The usual classifiers of embeddings are nearest centroids, nearest
neighbours and logistic regression. How does :class:`~sklearn_mach.MACHClassifier`
compare, with its default parameters, when there are thousands of classes?
"""

# %%
# Embeddings without a download
# -----------------------------
# A sample is a place in the source text of the standard library, and its label is the
# token at that place. A truncated singular value decomposition turns the tokens before
# the place into a short dense row. The decomposition is fitted on the training files
# only. Rows are scaled to unit length, as embeddings usually are.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

tokens = load_python_tokens(n_files=40)
rng = np.random.default_rng(0)
tests = rng.permutation(tokens.target_test.size)[:5_000]

start = perf_counter()
svd = TruncatedSVD(n_components=128, n_iter=2, random_state=0)
X = normalize(svd.fit_transform(normalize(tokens.data_train)))
X_test = normalize(svd.transform(normalize(tokens.data_test[tests])))
y, y_test = tokens.target_train, tokens.target_test[tests]
print(f"{perf_counter() - start:.1f} s to make the embeddings")
print(f"{len(X):,} rows, {X.shape[1]} columns, {np.unique(y).size:,} classes")

# %%
# The classifiers
# ---------------
# Nearest neighbours keeps all rows and asks the 30 most similar ones to vote.
# scikit-learn compares the rows block by block, so that the table of all distances is
# never in memory. Logistic regression takes very long with all rows and classes. It
# learns from a small random part, which has fewer classes. MACH learns from all rows,
# and once more from the same part.

part = rng.permutation(y.size)[:4_000]
print(f"The part: {part.size:,} rows, {np.unique(y[part]).size:,} classes")

everything = slice(None)
contest = {
    "Nearest centroid": (NearestCentroid(), everything),
    "30 neighbours": (KNeighborsClassifier(30, algorithm="brute"), everything),
    "MACH": (MACHClassifier(random_state=0), everything),
    "MACH, part": (MACHClassifier(random_state=0), part),
    "Logistic regression, part": (LogisticRegression(C=10, tol=1e-2), part),
}
warm_up = MACHClassifier(random_state=0).fit(X[:2_000], y[:2_000])
warm_up.predict(X_test)  # compiles the learner


def megabytes(model, rows):
    """Size of what a fitted model needs to predict."""
    if isinstance(model, MACHClassifier):
        n_bytes = model.model_bytes_
    elif isinstance(model, LogisticRegression):
        n_bytes = model.coef_.nbytes + model.intercept_.nbytes
    elif isinstance(model, NearestCentroid):
        n_bytes = model.centroids_.nbytes
    else:  # the rows themselves and their labels
        n_bytes = X[rows].nbytes + y[rows].nbytes
    return n_bytes / 1e6


# %%
# Accuracy, time and memory
# -------------------------
# All are tested on the same places of files that are set aside. A class that a model
# has not seen counts as a miss. The models of the small part have seen fewer.

results = {}
print(f"{'':27}accuracy   fit s  predict s      MB")
for name, (model, rows) in contest.items():
    start = perf_counter()
    model.fit(X[rows], y[rows])
    fitted = perf_counter()
    accuracy = np.mean(model.predict(X_test) == y_test)
    times = fitted - start, perf_counter() - fitted
    results[name] = accuracy, *times, megabytes(model, rows)
    print("{:27}{:8.3f}{:8.1f}{:11.2f}{:8.1f}".format(name, *results[name]))

# %%
# Nearest centroid is cheap, and pays for it here. It gives every class the same say,
# and a class that was seen once has a centroid like any other. It suits classes of
# about equal size, each a round cloud of rows.
#
# The time of the neighbours is in the prediction, and their memory is the training
# data. Both grow with the rows. The other models learn first, and then answer quickly.
#
# Logistic regression needs many passes over its rows, and each one computes all
# classes. The small part takes it long already. Compare it with MACH on the same part.

figure, panels = plt.subplots(
    1, 3, figsize=(11, 3.4), sharey=True, layout="constrained"
)
names = list(results)
accuracy, fit, predict, size = np.transpose(list(results.values()))
panels[0].barh(names, accuracy, color="C0")
panels[1].barh(names, fit, color="C0", label="fit")
panels[1].barh(names, predict, left=fit, color="C1", label="predict")
panels[2].barh(names, size, color="C0")
labels = ("Accuracy", "Seconds", "Model (MB)")
for axes, label in zip(panels, labels, strict=True):
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
panels[0].invert_yaxis()
panels[1].legend(frameon=False)
plt.show()

# %%
# When another one is better
# --------------------------
# Neighbours and centroids take a new class or a new row without a fit: store it, and it
# counts. That is worth more than speed where classes come and go every day. With a few
# hundred classes, or a few thousand rows, logistic regression is quick enough and has
# weights that belong to one class each.
