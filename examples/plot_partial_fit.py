"""
=======================
Training block by block
=======================

Rows that do not fit in memory, or that come one day after another, are learned with
``partial_fit``: one pass over each block, which may then be forgotten. Here the stream
is the standard library, file after file, and the model is tested on every block before
it learns it.
"""

# %%
# A stream of blocks
# ------------------
# Only the classes must be known beforehand. A block is 5,000 rows, from files in random
# order.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

tokens = load_python_tokens(n_files=30)
X, y = normalize(tokens.data), tokens.target
order = np.random.default_rng(0).permutation(tokens.filenames.size)
rows = np.argsort(np.argsort(order)[tokens.groups], kind="stable")
blocks = [rows[block] for block in gen_batches(rows.size, 5_000)]
classes = np.unique(y)
print(f"{len(blocks)} blocks, {classes.size:,} classes")

# %%
# Test, then train
# ----------------
# The built-in learner takes a smaller step as it sees more rows. Any scikit-learn
# classifier that has ``partial_fit`` is used in the same way: naive Bayes here.

models = {
    "built-in learner": MACHClassifier(n_repetitions=8, n_buckets=64, random_state=0),
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
# Beside it, what one look at everything gives: five epochs over all blocks but the
# last, tested on the last. That needs all rows in memory.

seen = np.concatenate(blocks[:-1])
whole = clone(models["built-in learner"]).fit(X[seen], y[seen])
whole_score = whole.score(X[blocks[-1]], y[blocks[-1]])
for name, values in accuracy.items():
    print(f"{name:18}{values[-1]:.3f} on the last block")
print(f"{'fit, five epochs':18}{whole_score:.3f}")

# %%
# Accuracy along the stream
# -------------------------

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
steps = np.arange(1, len(blocks))
for name, values in accuracy.items():
    axes.plot(steps, values, "o-", label=name)
axes.plot(steps[-1], whole_score, "*", color="black", ms=12, label="fit on all before")
axes.set(xlabel="Blocks learned", ylabel="Accuracy on the next block", ylim=(0, None))
axes.set_xticks(steps[::3])
axes.legend(frameon=False, loc="lower right")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(axis="y", alpha=0.3)
plt.show()

# %%
# When not to train block by block
# --------------------------------
# If the rows fit in memory, ``fit`` is better: it takes several passes in random order,
# its step falls to zero, and its probabilities are calibrated. Classes that are not
# known at the first block may come later; see
# :ref:`sphx_glr_auto_examples_plot_new_classes.py`.
