"""
===============================
Trees and other base estimators
===============================

Give :class:`~sklearn_mach.MACHClassifier` any classifier of scikit-learn, and it learns
thousands of classes that it could not hold by itself. Here it is a random forest, on
four columns that say nothing to a linear model.
"""

# %%
# Columns for trees
# -----------------
# The label is the next token of Python source. The columns are the numbers of the four
# tokens before it, where 0 is the most frequent token. A weighted sum of such numbers
# says little. A tree cuts out the ranges that matter.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import scale

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=40)
past = np.column_stack([np.roll(tokens.target, j) for j in range(1, 5)])
for j in range(1, 5):  # a file knows nothing of the file before it
    past[np.roll(tokens.groups, j) != tokens.groups, j - 1] = -1
n_train = tokens.target_train.size
X_train, X_test = past[:n_train], past[n_train:]
y_train, y_test = tokens.target_train, tokens.target_test
n_classes = np.unique(y_train).size
print(f"{n_train:,} rows, {X_train.shape[1]} columns, {n_classes:,} classes")

# %%
# What a tree keeps
# -----------------
# Every node of a tree holds a share for each class, in float64. That makes a tree of
# thousands of classes large and slow. Two trees are fitted here, and the size of 20 is
# computed from them.

results = {}  # accuracy, MB


def megabytes(forest):
    """Size of the shares of classes in the nodes of a forest."""
    return sum(tree.tree_.value.nbytes for tree in forest.estimators_) / 1e6


settings = {"min_samples_leaf": 2, "n_jobs": 2, "random_state": 0}
start = perf_counter()
forest = RandomForestClassifier(2, **settings).fit(X_train, y_train)
seconds = perf_counter() - start
results["2 trees of all classes"] = forest.score(X_test, y_test), megabytes(forest)
print(f"2 trees of all classes: {seconds:.1f} s, {megabytes(forest):,.0f} MB")
print(f"20 trees would take {10 * megabytes(forest) / 1000:,.1f} GB")
del forest

# %%
# A forest of 16 buckets
# ----------------------
# MACH fits one clone of the estimator for each repetition. Each clone knows 16 buckets
# rather than all classes, so its nodes are small and its splits are quick. Ten
# repetitions of two trees are 20 trees.

base = RandomForestClassifier(2, **settings)
mach = MACHClassifier(base, n_repetitions=10, n_buckets=16, random_state=0)
start = perf_counter()
mach.fit(X_train, y_train)
seconds = perf_counter() - start
size = sum(megabytes(fitted) for fitted in mach.estimators_)
results["MACH, 20 trees of 16 buckets"] = mach.score(X_test, y_test), size
print(f"MACH with 20 trees: {seconds:.1f} s, {size:,.0f} MB")

# %%
# Why not the built-in learner?
# -----------------------------
# It is linear. On the same columns, scaled, it is no better than the most frequent
# class for all. A linear learner needs a column for each token and place instead, as
# the sparse rows of the loader have.

linear = MACHClassifier(n_repetitions=10, n_buckets=16, random_state=0)
X_scaled = scale(past).astype(np.float32)
linear.fit(X_scaled[:n_train], y_train)
accuracy = linear.score(X_scaled[n_train:], y_test)
results["MACH, built-in linear learner"] = accuracy, linear.model_bytes_ / 1e6
print(f"most frequent class: {np.mean(y_test == 0):.3f}")
for name, (accuracy, size) in results.items():
    print(f"{name:30}{accuracy:.3f}{size:10,.1f} MB")

# %%
# Accuracy and size
# -----------------

figure, axes = plt.subplots()
names, values = list(results), list(results.values())
colors = ["C1", "C0", "C0"]
for j, (name, (accuracy, size), color) in enumerate(
    zip(names, values, colors, strict=True)
):
    axes.barh(j, accuracy, height=0.45, color=color)
    label = f"{accuracy:.2f}, {size:,.0f} MB" if size >= 1 else f"{accuracy:.2f}"
    axes.annotate(name, (0, j - 0.27), va="bottom", fontsize=15)
    axes.annotate(label, (accuracy + 0.01, j), va="center", fontsize=15)
axes.set(ylim=(2.5, -0.8), yticks=[], xlim=(0, max(v[0] for v in values) * 1.4))
axes.set_xlabel("Accuracy", fontsize=15)
axes.tick_params(labelsize=13)
axes.grid(False)
plt.show()

# %%
# Where it helps
# --------------
# Use a base estimator where a linear model of your columns is not enough: trees for
# numbers and categories in a few columns, nearest neighbours, a kernel approximation in
# a pipeline. An estimator without ``predict_proba`` will do, and so will one inside
# :class:`~sklearn.calibration.CalibratedClassifierCV`. For sparse text the built-in
# learner is faster and as accurate as a linear base estimator, because it trains all
# repetitions in one pass.
