"""
==================
Any base estimator
==================

A repetition is a classification of B buckets, and any scikit-learn classifier can do
it: trees, naive Bayes, a calibrated support vector machine. They need not know of many
classes. ``MACHClassifier`` fits a clone for each repetition.
"""

# %%
# A small problem
# ---------------
# The next token of Python source, from a few files. The trees and naive Bayes take the
# sparse rows as they are.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

tokens = load_python_tokens(n_files=6)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
y_train, y_test = tokens.target_train, tokens.target_test
classes = np.unique(y_train)
print(
    f"{X_train.shape[0]:,} rows, {X_train.shape[1]:,} columns, {classes.size} classes"
)

# %%
# Four learners of 16 buckets
# ---------------------------
# A classifier that has no ``predict_proba`` would do as well: its ``decision_function``
# is turned into probabilities. Merging is better if they are calibrated, and
# ``CalibratedClassifierCV`` is used as in any other place. Its folds are of buckets,
# which all have many rows, while many classes have one.

estimators = {
    "built-in": None,
    "naive Bayes": MultinomialNB(alpha=0.01),
    "forest": RandomForestClassifier(10, max_depth=30, min_samples_leaf=2),
    "calibrated SVM": CalibratedClassifierCV(LinearSVC(tol=1e-2), cv=2),
}
scores, seconds = {}, {}
print(f"{'':16}top-1  top-5  fit s")
for name, estimator in estimators.items():
    model = MACHClassifier(estimator, n_repetitions=6, n_buckets=16, random_state=0)
    start = perf_counter()
    model.fit(X_train, y_train)
    seconds[name] = perf_counter() - start
    hits = model.predict_topk(X_test, k=5) == y_test[:, None]
    scores[name] = hits[:, 0].mean(), hits.any(axis=1).mean()
    print(
        f"{name:16}{scores[name][0]:.3f}  {scores[name][1]:.3f}  {seconds[name]:5.1f}"
    )

# %%
# Without hashing
# ---------------
# Naive Bayes is among the few that can take all classes as they are: what does hashing
# change for it?

direct = MultinomialNB(alpha=0.01).fit(X_train, y_train)
direct_score = direct.score(X_test, y_test)
print(f"naive Bayes on the classes themselves: {direct_score:.3f}")

# %%
# Accuracy and time
# -----------------

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name in estimators:
    axes.plot(seconds[name], scores[name][0], "o", ms=9, label=name)
axes.axhline(direct_score, color="C1", ls="--", label="naive Bayes, no hashing")
axes.set_xscale("log")
axes.set(xlabel="Seconds to fit", ylabel="Top-1 accuracy")
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
axes.spines[["top", "right"]].set_visible(False)
axes.grid(alpha=0.3)
plt.show()

# %%
# When not to use a base estimator
# --------------------------------
# For linear models of sparse rows the built-in learner is faster, because it trains all
# repetitions in one pass. A base estimator is worth its time where linear models are
# not enough. And one that can hold all classes, such as naive Bayes on few columns,
# needs no hashing.
