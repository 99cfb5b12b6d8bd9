"""
==================================================
From a text to its module: a pipeline and a search
==================================================

Which module does a piece of documentation belong to? The texts are the docstrings of
the standard library of the Python that runs this script, so nothing is downloaded. A
pipeline takes raw strings and string labels, and the searches of scikit-learn find how
many repetitions R and buckets B are enough.
"""

# %%
# The data
# --------
# A row is a paragraph of a docstring, of eight words or more. Its label is the name of
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
from scipy.stats import randint
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    ShuffleSplit,
    train_test_split,
)
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
                if len(words) >= 8:
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
# Three searches
# --------------
# The searches of scikit-learn find R and B as they find any parameter. A grid tries all
# pairs, and a random search draws some. Successive halving takes R as its resource: all
# B with five repetitions, and the better third of them with three times as many.
#
# Folds are not stratified: the smallest classes have fewer rows than there would be
# folds, and a class that a fold lacks counts as a miss. B\ :sup:`R` must reach the
# number of classes, so with R = 4 no B may be below 5.
#
# With a base classifier, as in ``MACHClassifier(LogisticRegression())``, its parameters
# are searched in the same way: ``"mach__estimator__C": [1, 10, 100]``.

pipeline = Pipeline(
    [
        ("tfidf", TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)),
        ("mach", MACHClassifier(max_iter=6, random_state=0)),
    ]
)
R, B = "mach__n_repetitions", "mach__n_buckets"
split = ShuffleSplit(n_splits=1, test_size=0.2, random_state=0)
common = {"cv": split, "n_jobs": 2}
searches = {
    "grid": GridSearchCV(pipeline, {R: [4, 16], B: [16, 64]}, refit=False, **common),
    "random": RandomizedSearchCV(
        pipeline,
        {R: randint(4, 17), B: randint(8, 65)},
        n_iter=3,
        refit=False,
        random_state=0,
        **common,
    ),
    "halving": HalvingGridSearchCV(
        pipeline,
        {B: [16, 32, 64]},
        resource=R,
        min_resources=5,
        max_resources=15,
        factor=3,
        random_state=0,
        **common,
    ),
}
print(f"{'':8}fits  seconds   R   B  held out")
for name, search in searches.items():
    start = perf_counter()
    search.fit(X_train, y_train)
    seconds, fits = perf_counter() - start, len(search.cv_results_["params"])
    best = search.best_params_
    print(
        f"{name:8}{fits:4}{seconds:9.1f}{best[R]:4}{best[B]:4}{search.best_score_:9.3f}"
    )

# %%
# What the searches have seen
# ---------------------------
# More buckets and more repetitions help, and less and less.

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, search), marker in zip(searches.items(), "osv", strict=True):
    results = search.cv_results_
    points = axes.scatter(
        results["param_" + R].astype(int),
        results["mean_test_score"],
        c=results["param_" + B].astype(int),
        vmin=8,
        vmax=64,
        marker=marker,
        label=name,
    )
figure.colorbar(points, label="Buckets B")
axes.set_xscale("log", base=2)
axes.set_xticks([4, 8, 16], [4, 8, 16])
axes.set(xlabel="Repetitions R", ylabel="Accuracy on rows held out")
axes.legend(frameon=False, loc="lower right")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(axis="y", alpha=0.3)
plt.show()

# %%
# On the test part
# ----------------
# The choice of the halving search, which is fitted again to all training rows. Beside
# it one-vs-rest, with a linear support vector machine for each module.

start = perf_counter()
one_vs_rest = Pipeline([("tfidf", pipeline["tfidf"]), ("svm", LinearSVC())])
one_vs_rest.fit(X_train, y_train)
print(f"one-vs-rest  {one_vs_rest.score(X_test, y_test):.3f}, ", end="")
print(f"{one_vs_rest['svm'].coef_.nbytes / 1e6:.1f} MB, ", end="")
print(f"{perf_counter() - start:.1f} s to fit")
halving = searches["halving"]
print(f"MACH         {halving.score(X_test, y_test):.3f}, ", end="")
print(f"{halving.best_estimator_['mach'].model_bytes_ / 1e6:.1f} MB, ", end="")
print(f"{halving.refit_time_:.1f} s to fit")

# %%
# The three most likely modules of some descriptions that nobody has written down yet.

queries = [
    "read and write files that are compressed with gzip",
    "move every element of a list to a random place",
    "the number of days between two dates",
    "send an email message to a server",
    "wait until another thread has released the lock",
]
*before, model = halving.best_estimator_.named_steps.values()
for query, best in zip(
    queries, model.predict_topk(before[0].transform(queries), k=3), strict=True
):
    print(f"{query}\n    {'  '.join(best)}")

# %%
# When it is not worth it
# -----------------------
# Here it is not, except to learn how the search works. With a few hundred classes
# one-vs-rest fits in memory, is as accurate or a little more, and has weights that can
# be read class by class. MACH pays where classes times columns is too much.
