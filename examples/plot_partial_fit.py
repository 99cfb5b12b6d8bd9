"""
=======================
Training block by block
=======================

Learn from a stream: ``partial_fit`` makes one pass over a block of samples, and then
you may forget the block. The samples need not fit in memory, or may come day after day.
Here the stream is the standard library of Python, file after file. The model predicts
every block before it learns from it.
"""

# %%
# A stream of blocks
# ------------------
# You name the classes beforehand. A block is 10,000 samples, from files in random
# order. At most 1,000 samples come from one file, so that a block has at least ten
# files: otherwise a single file, easy or hard, would decide the accuracy on a block.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=300, max_rows_per_file=1000)
X, y = normalize(tokens.data), tokens.target
order = np.random.default_rng(0).permutation(tokens.filenames.size)
rows = np.argsort(np.argsort(order)[tokens.groups], kind="stable")
blocks = [rows[block] for block in gen_batches(rows.size, 10_000)]
classes = np.unique(y)
print(f"{len(blocks)} blocks, {classes.size:,} classes")

# %%
# Test, then train
# ----------------
# The built-in learner takes a smaller step as it sees more samples. You may use any
# classifier of scikit-learn that has ``partial_fit`` in the same way: naive Bayes here.

models = {
    "built-in learner": MACHClassifier(
        n_repetitions=8, n_buckets=64, n_jobs=2, random_state=0
    ),
    "naive Bayes": MACHClassifier(
        MultinomialNB(), n_repetitions=8, n_buckets=64, random_state=0
    ),
}
accuracy = {name: [] for name in models}
for t, block in enumerate(blocks):
    for name, model in models.items():
        if t > 0:
            accuracy[name].append(model.score(X[block], y[block]))
        model.partial_fit(X[block], y[block], classes=classes)

# %%
# For comparison, ``fit`` sees all blocks but the last at once, in five epochs, and
# predicts the last. For that all samples must be in memory.

seen = np.concatenate(blocks[:-1])
whole = clone(models["built-in learner"]).fit(X[seen], y[seen])
whole_score = whole.score(X[blocks[-1]], y[blocks[-1]])
for name, values in accuracy.items():
    print(f"{name:18}{values[-1]:.3f} on the last block")
print(f"{'fit, five epochs':18}{whole_score:.3f}")

# %%
# Accuracy along the stream
# -------------------------

figure, axes = plt.subplots()
steps = np.arange(1, len(blocks))
for values in accuracy.values():
    axes.plot(steps, values, ".-")
axes.plot(steps[-1], whole_score, "*", color="C0", markersize=14)
for name, end, color, dy in [
    ("fit, five epochs", whole_score, "C0", 6),
    ("built-in learner", accuracy["built-in learner"][-1], "C0", -6),
    ("naive Bayes", accuracy["naive Bayes"][-1], "C1", 0),
]:
    offset = dict(xytext=(10, dy), textcoords="offset points", va="center")
    axes.annotate(name, (steps[-1], end), color=color, **offset)
axes.set(xlabel="Blocks learned", ylabel="Accuracy on the next block", ylim=(0, None))
axes.set_xticks(steps[4::5])
axes.set_title(f"{classes.size:,} classes in a stream")
plt.show()

# %%
# When not to train block by block
# --------------------------------
# If the samples fit in memory, use ``fit``. It makes several passes in random order,
# ends with a step of zero, and calibrates the probabilities. Classes that you cannot
# name at the first block may come later; see
# :ref:`sphx_glr_auto_examples_plot_new_classes.py`.
