"""
===========================
Embeddings and their rivals
===========================

Texts, images and users often reach a classifier as embeddings: dense rows of some
hundred numbers. Nearest centroids and nearest neighbours are the usual classifiers of
embeddings with thousands of classes. Is MACH more accurate?
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
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=60)
rng = np.random.default_rng(0)
tests = rng.permutation(tokens.target_test.size)[:3_000]

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
# never in memory. MACH has its default parameters.

contest = {
    "Nearest centroid": NearestCentroid(),
    "30 nearest neighbours": KNeighborsClassifier(30, algorithm="brute"),
    "MACH": MACHClassifier(random_state=0),
}
warm_up = MACHClassifier(random_state=0).fit(X[:2_000], y[:2_000])
warm_up.predict(X_test)  # compiles the learner


def megabytes(model):
    """Size of what a fitted model needs to predict."""
    if isinstance(model, MACHClassifier):
        n_bytes = model.model_bytes_
    elif isinstance(model, NearestCentroid):
        n_bytes = model.centroids_.nbytes
    else:  # the rows themselves and their labels
        n_bytes = X.nbytes + y.nbytes
    return n_bytes / 1e6


# %%
# Accuracy, time and memory
# -------------------------
# All are tested on the same places of files that are set aside. A class that is in no
# training file counts as a miss.

results = {}
print(f"{'':24}accuracy   fit s  predict ms a row      MB")
for name, model in contest.items():
    start = perf_counter()
    model.fit(X, y)
    fitted = perf_counter()
    accuracy = np.mean(model.predict(X_test) == y_test)
    milliseconds = (perf_counter() - fitted) / len(X_test) * 1000
    results[name] = accuracy, fitted - start, milliseconds, megabytes(model)
    print("{:24}{:8.3f}{:8.1f}{:18.2f}{:8.1f}".format(name, *results[name]))

# %%
# Nearest centroid is cheap, and pays for it here. It gives every class the same say,
# and a class that was seen once has a centroid like any other. It suits classes of
# about equal size, each a round cloud of rows.

figure, axes = plt.subplots()
for j, ((name, values), color) in enumerate(
    zip(results.items(), ["C1", "C2", "C0"], strict=True)
):
    axes.barh(j, values[0], height=0.45, color=color)
    axes.annotate(name, (0, j - 0.27), va="bottom", fontsize=16)
    axes.annotate(f"{values[0]:.2f}", (values[0] + 0.01, j), va="center", fontsize=16)
axes.set(ylim=(2.5, -0.8), yticks=[])
axes.margins(x=0.15)
axes.set_xlabel("Accuracy", fontsize=15)
axes.tick_params(labelsize=13)
axes.grid(False)
plt.show()

# %%
# The neighbours are about as accurate as MACH here, or a little more. They spend their
# time in the prediction, and their model is the training data. Both grow with the rows.
# MACH learns first, and then answers from weights whose size depends on neither rows
# nor classes.
#
# When another one is better
# --------------------------
# Neighbours and centroids take a new class or a new row without a fit: store it, and it
# counts. That is worth more than speed where classes come and go every day.
