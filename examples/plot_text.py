"""
=========================
Start here: text to label
=========================

Describe what you need, and find the function that does it: one pipeline goes from a
column of text to one of 6,000 labels. It gives the five best labels with their
probabilities, and it is saved and loaded as any other.
"""

# %%
# A column of text and a column of labels
# ---------------------------------------
# Your texts may be product titles, tickets or queries. Here they are the docstrings of
# the Python, NumPy, SciPy, scikit-learn and Matplotlib that run this script, so nothing
# is downloaded. A sample is one sentence or paragraph. Its label is the function or
# class that it describes.

import ast
import re
import sysconfig
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sklearn_mach import MACHClassifier, predict_topk

plt.style.use("sklearn_mach.mach")
warnings.filterwarnings("ignore", category=SyntaxWarning)  # of the sources read

PACKAGES = ["numpy", "scipy", "sklearn", "matplotlib"]
SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "externals"}
SKIPPED |= {"encodings", "pydoc_data"}


def docstrings(node, name):
    """Name and docstring of each public function and class below a node."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name[0] != "_":
            full_name = f"{name}.{child.name}"
            yield full_name, ast.get_docstring(child) or ""
            if isinstance(child, ast.ClassDef):
                yield from docstrings(child, full_name)


files = []  # each with the folder that its public name begins in
library = Path(sysconfig.get_path("stdlib"))
for folder in [library, *(Path(find_spec(name).origin).parent for name in PACKAGES)]:
    root = library if folder == library else folder.parent
    files += [(path.relative_to(root), path) for path in sorted(folder.rglob("*.py"))]

label_of = {}  # a sentence that occurs again keeps its first label
for place, path in files:
    parts = place.with_suffix("").parts
    if SKIPPED.isdisjoint(parts):
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        # scipy/stats/_kde.py is scipy.stats to its users.
        module = ".".join(part for part in parts if part[0] != "_")
        for name, text in docstrings(tree, module):
            for sentence in re.split(r"\n\s*\n|(?<=[.!?])\s+(?=[A-Z])", text):
                words = sentence.split()
                if len(words) >= 6:
                    label_of.setdefault(" ".join(words), name)

texts, labels = np.array(list(label_of)), np.array(list(label_of.values()))
_, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
texts, labels = texts[counts[place] >= 3], labels[counts[place] >= 3]
print(f"{texts.size:,} texts, {np.unique(labels).size:,} labels")
for i in np.flatnonzero(np.char.str_len(texts) < 70)[::3000][:6]:
    print(f"  {labels[i]:40}  {texts[i]}")

# %%
# A pipeline
# ----------
# :class:`~sklearn.feature_extraction.text.TfidfVectorizer` turns a text into a sparse
# row. Set its ``dtype`` to float32, which halves the memory of the rows.
# :class:`~sklearn_mach.MACHClassifier` takes the labels as they are, here strings, and
# chooses its numbers of repetitions R and buckets B.

X_train, X_test, y_train, y_test = train_test_split(
    texts, labels, test_size=0.2, random_state=0
)
pipe = make_pipeline(
    TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32),
    MACHClassifier(random_state=0),
)
pipe.fit(X_train, y_train)

mach = pipe[-1]
print(f"R = {mach.n_repetitions_}, B = {mach.n_buckets_}, ", end="")
print(f"{mach.classes_.size:,} classes, {mach.n_features_in_:,} columns")
full = 4 * mach.n_features_in_ * mach.classes_.size
print(f"weights: {mach.model_bytes_ / 1e6:.0f} MB; ", end="")
print(f"with one for each class and column they would be {full / 1e6:.0f} MB")

# %%
# The five best, with probabilities
# ---------------------------------
# A pipeline has ``predict`` and ``predict_proba``, but no way to ask for a few labels.
# :func:`~sklearn_mach.predict_topk` does, and never makes the table of all
# probabilities. These questions are in no docstring.

questions = [
    "estimate the density of data with a gaussian kernel",
    "test whether two samples have the same mean",
    "solve a sparse linear system with the conjugate gradient method",
    "read and write files that are compressed with gzip",
]
names, proba = predict_topk(pipe, questions, k=5, return_proba=True)
for question, row, p in zip(questions, names, proba, strict=True):
    print(question)
    print("".join(f"  {p[j]:4.0%}  {row[j]}\n" for j in range(5)))

# %%
# The answer to the first question as a picture:

figure, axes = plt.subplots()
bars = axes.barh(np.arange(5), proba[0], height=0.45)
for j, name in enumerate(names[0]):
    axes.annotate(name, (0, j - 0.27), va="bottom", fontsize=14)
axes.bar_label(bars, [f"{p:.0%}" for p in proba[0]], padding=5, fontsize=14)
axes.set(ylim=(4.5, -0.8), yticks=[], xticks=[])
axes.set_title(f"“{questions[0]}”", fontsize=13)
axes.grid(False)
axes.spines[:].set_visible(False)
plt.show()

# %%
# How often it is right
# ---------------------
# On the texts set aside, the right label is among the best five of thousands about half
# of the time. Many texts would fit several functions, and many labels have only a few
# texts to learn from.

_, n_texts = np.unique(y_train, return_counts=True)
print(f"labels with five training texts or fewer: {np.mean(n_texts <= 5):.0%}")

top, p = predict_topk(pipe, X_test, k=5, return_proba=True)
hits = top == y_test[:, None]
for k in (1, 2, 5):
    print(f"right among the best {k}: {hits[:, :k].any(axis=1).mean():.3f}")

# %%
# The probability says when to trust the first label. Answer where it is high, and
# leave the other texts to people.

for threshold in (0, 0.25, 0.5, 0.75):
    sure = p[:, 0] >= threshold
    print(f"p >= {threshold:4.2f}: {sure.mean():4.0%} of the texts, ", end="")
    print(f"mean p {p[sure, 0].mean():.2f}, right {hits[sure, 0].mean():.2f}")

# %%
# Save and load
# -------------
# ``joblib`` or ``pickle`` keep the pipeline as it is. ``compress`` makes the classifier
# smaller: with 8 bits a weight the file is about a quarter of the size.

with TemporaryDirectory() as folder:
    for name, last in {"float32": mach, "8 bits": mach.compress(bits=8)}.items():
        small = make_pipeline(pipe[0], last)
        path = Path(folder, "pipeline.joblib")
        joblib.dump(small, path)
        loaded = joblib.load(path)
        score = np.mean(loaded.predict(X_test) == y_test)
        print(f"{name:8} {path.stat().st_size / 1e6:6.0f} MB  {score:.3f}")

# %%
# With a few hundred labels, begin with
# :class:`~sklearn.linear_model.LogisticRegression` in the place of the last step.
# :ref:`sphx_glr_auto_examples_plot_one_vs_rest.py` shows where one model for each label
# becomes too slow and too large. :ref:`sphx_glr_auto_examples_plot_search.py` searches
# R and B in a pipeline.
