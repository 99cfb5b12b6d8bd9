"""
=============================
Search R and B in a pipeline
=============================

How many repetitions R and buckets B does a text problem need? The searches of
scikit-learn try them in a pipeline, together with the settings of the vectorizer, as
they try any parameter.
"""

# %%
# Lines of code with a gap
# ------------------------
# A text is a line of the standard library's source that calls a method, without the
# name of the method. The name is the label. Names with fewer than three lines are left
# out, and so are lines that occur again.

import re
import sysconfig
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    ShuffleSplit,
    train_test_split,
)
from sklearn.pipeline import Pipeline

from sklearn_mach import MACHClassifier

plt.style.use("sklearn_mach.mach")
library = Path(sysconfig.get_path("stdlib"))
name_of = {}
for path in sorted(library.rglob("*.py")):
    if "site-packages" not in path.parts:
        for line in path.read_text("utf-8", errors="replace").splitlines():
            call = re.fullmatch(r"\s*(.*\.)([a-z_]\w+)(\(.+)", line)
            if call:
                name_of.setdefault(f"{call[1]} GAP {call[3]}", call[2])
texts, labels = np.array(list(name_of)), np.array(list(name_of.values()))
_, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
texts, labels = texts[counts[place] >= 3], labels[counts[place] >= 3]
X_train, X_test, y_train, y_test = train_test_split(
    texts, labels, train_size=20_000, test_size=5_000, random_state=0
)
print(f"{texts.size:,} texts, {np.unique(y_train).size:,} labels in the training part")
print(f"'{texts[0]}' -> {labels[0]}")

# %%
# A grid
# ------
# ``mach__n_buckets`` is the parameter ``n_buckets`` of the step ``mach``. Folds are not
# stratified: the rarest labels have fewer rows than there would be folds. A label that
# the fold has not seen counts as a miss.

pipe = Pipeline(
    [
        ("tfidf", TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", dtype=np.float32)),
        ("mach", MACHClassifier(max_iter=6, random_state=0)),
    ]
)
pipe.set_params(tfidf__min_df=2, tfidf__sublinear_tf=True)
R, B = "mach__n_repetitions", "mach__n_buckets"
split = ShuffleSplit(n_splits=1, test_size=0.2, random_state=0)
pipe.fit(X_train[:2000], y_train[:2000])  # compiles the learner

grid = GridSearchCV(pipe, {R: [4, 8, 16], B: [16, 64, 256]}, cv=split, refit=False)
start = perf_counter()
grid.fit(X_train, y_train)
print(f"{len(grid.cv_results_['params'])} fits in {perf_counter() - start:.1f} s")

# %%
# The weights take 4 d R B bytes with d columns. Points above each other need the same
# memory. Each line has R = 4, 8 and 16.

results = grid.cv_results_
buckets = results["param_" + B].astype(int)
repetitions = results["param_" + R].astype(int)
figure, axes = plt.subplots()
for i, n_buckets in enumerate(np.unique(buckets)):
    one = buckets == n_buckets
    numbers = n_buckets * repetitions[one]
    score = results["mean_test_score"][one]
    axes.plot(numbers, score, "o-", color="C0", alpha=0.4 + 0.3 * i)
    axes.annotate(
        f"B = {n_buckets}",
        (numbers[-1], score[-1]),
        xytext=(8, (6, 4, -4)[i]),
        textcoords="offset points",
        color="C0",
        fontsize=14,
    )
    for x, y, r in zip(numbers, score, repetitions[one], strict=True):
        if i == 0:  # the other lines have the same R
            place = {"xytext": (6, -16), "textcoords": "offset points"}
            axes.annotate(f"R = {r}", (x, y), **place)
axes.set_xscale("log", base=2)
axes.margins(y=0.15)
axes.set_xlim(48, 16_000)
axes.set_xticks([64, 256, 1_024, 4_096], ["64", "256", "1,024", "4,096"])
axes.set_xlabel("Weights per column, R B", fontsize=15)
axes.set_ylabel("Accuracy on held-out lines", fontsize=15)
axes.tick_params(labelsize=13)
plt.show()

# %%
# Successive halving
# ------------------
# Repetitions are a resource like trees of a forest: a few of them already show which
# settings are good. Successive halving tries all settings with R = 5, and the best
# third with R = 15. It chooses the n-grams of the vectorizer, too.

halving = HalvingGridSearchCV(
    pipe,
    {B: [32, 64, 128], "tfidf__ngram_range": [(1, 1), (1, 2)]},
    resource=R,
    min_resources=5,
    max_resources=15,
    factor=3,
    cv=split,
    random_state=0,
)
start = perf_counter()
halving.fit(X_train, y_train)
results = halving.cv_results_
print(f"{len(results['params'])} fits in {perf_counter() - start:.1f} s")
for params, score in zip(results["params"], results["mean_test_score"], strict=True):
    print(f"R = {params[R]:2}  B = {params[B]:3}  ", end="")
    print(f"n-grams {params['tfidf__ngram_range']}  {score:.3f}")

# %%
# The search fits its choice again to all training lines.

model = halving.best_estimator_
print(f"test accuracy: {halving.score(X_test, y_test):.3f}, ", end="")
print(f"{model['mach'].model_bytes_ / 1e6:.0f} MB")

# %%
# :class:`~sklearn_mach.MACHClassifierCV` searches R and B more cheaply, because it fits
# the largest R once and scores its first repetitions on the way. A search like this one
# is for parameters of the other steps, too.
