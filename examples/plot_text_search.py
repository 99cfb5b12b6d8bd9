"""
==================================================
From a text to its module: a pipeline and a search
==================================================

Which module does a piece of documentation belong to? The texts are the docstrings of
the standard library of the Python that runs this script, so nothing is downloaded. A
pipeline takes raw strings and string labels, and a grid search finds how many
repetitions R and buckets B are enough.
"""

# %%
# The data
# --------
# A row is a paragraph of a docstring, of five words or more. Its label is the name of
# the module. A paragraph that occurs again is left out, and so is a module with fewer
# than five paragraphs.

import ast
import re
import sysconfig
import warnings
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC

from sklearn_mach import MACHClassifier

SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


def docstrings(node):
    """The docstrings of a module or class, its classes and its functions."""
    yield ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from docstrings(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(child) or ""


start = perf_counter()
warnings.filterwarnings("ignore", category=SyntaxWarning)  # of the sources read
library = Path(sysconfig.get_path("stdlib"))
module_of = {}
for path in sorted(library.rglob("*.py")):
    parts = path.relative_to(library).with_suffix("").parts
    if SKIPPED.isdisjoint(parts):
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        for text in docstrings(tree):
            for paragraph in re.split(r"\n\s*\n", text):
                words = paragraph.split()
                if len(words) >= 5:
                    name = ".".join(parts).removesuffix(".__init__")
                    module_of.setdefault(" ".join(words), name)

texts, labels = np.array(list(module_of)), np.array(list(module_of.values()))
names, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
texts, labels = texts[counts[place] >= 5], labels[counts[place] >= 5]
X_train, X_test, y_train, y_test = train_test_split(
    texts, labels, test_size=0.2, random_state=0
)
print(f"{texts.size:,} paragraphs, {np.unique(labels).size} modules")
print(f"such as '{texts[-1]}' of {labels[-1]}")
print(f"{perf_counter() - start:.1f} s to read them")

# %%
# The search
# ----------
# Folds are not stratified: the smallest classes have fewer rows than there would be
# folds, and a class that a fold lacks counts as a miss. B\ :sup:`R` must reach the
# number of classes, so with R = 2 the search cannot go below B = 20.
#
# With a base classifier, as in ``MACHClassifier(LogisticRegression())``, its parameters
# are searched in the same way: ``"mach__estimator__C": [1, 10, 100]``.

start = perf_counter()
pipeline = Pipeline(
    [
        ("tfidf", TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)),
        ("mach", MACHClassifier(max_iter=8, random_state=0)),
    ]
)
grid = {"mach__n_repetitions": [2, 4, 8, 16], "mach__n_buckets": [24, 48]}
split = ShuffleSplit(n_splits=2, test_size=0.2, random_state=0)
search = GridSearchCV(pipeline, grid, cv=split, n_jobs=2).fit(X_train, y_train)
print(f"best: {search.best_params_}, {perf_counter() - start:.1f} s to search")

# %%
# On the test part
# ----------------
# Beside it one-vs-rest, with a linear support vector machine for each module.

start = perf_counter()
one_vs_rest = Pipeline([("tfidf", pipeline["tfidf"]), ("svm", LinearSVC())])
one_vs_rest.fit(X_train, y_train)
print(f"one-vs-rest  {one_vs_rest.score(X_test, y_test):.3f}, ", end="")
print(f"{one_vs_rest['svm'].coef_.nbytes / 1e6:.1f} MB, ", end="")
print(f"{perf_counter() - start:.1f} s to fit")
print(f"MACH         {search.score(X_test, y_test):.3f}, ", end="")
print(f"{search.best_estimator_['mach'].model_bytes_ / 1e6:.1f} MB, ", end="")
print(f"{search.refit_time_:.1f} s to fit")

# %%
# The three most likely modules of some descriptions that nobody has written down yet.

queries = [
    "read and write files that are compressed with gzip",
    "move every element of a list to a random place",
    "the number of days between two dates",
    "send an email message to a server",
    "wait until another thread has released the lock",
]
*before, model = search.best_estimator_.named_steps.values()
for query, best in zip(
    queries, model.predict_topk(before[0].transform(queries), k=3), strict=True
):
    print(f"{query}\n    {'  '.join(best)}")

# %%
# What the search has seen
# ------------------------
# More repetitions help at every B, and less and less. A point is the mean of two folds.

results = search.cv_results_
R = np.asarray(results["param_mach__n_repetitions"], dtype=int)
B = np.asarray(results["param_mach__n_buckets"], dtype=int)
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for i, n_buckets in enumerate(grid["mach__n_buckets"]):
    rows, color = n_buckets == B, plt.cm.viridis(0.2 + 0.5 * i)
    scores = results["mean_test_score"][rows]
    axes.plot(R[rows], scores, "o-", color=color, label=f"B = {n_buckets}")
axes.set_xscale("log", base=2)
axes.set_xticks(grid["mach__n_repetitions"], grid["mach__n_repetitions"])
axes.set(xlabel="Repetitions R", ylabel="Accuracy on rows left out")
axes.legend(frameon=False, loc="lower right")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(axis="y", alpha=0.3)
plt.show()

# %%
# When it is not worth it
# -----------------------
# Here it is not, except to learn how the search works. With a few hundred classes
# one-vs-rest fits in memory, is a little more accurate, and has weights that can be
# read class by class. MACH pays where classes times columns is too much.
