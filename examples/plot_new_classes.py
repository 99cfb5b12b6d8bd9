"""
===============================
Classes that come after the fit
===============================

Add 1,000 classes to a fitted model with ``partial_fit``, in place of a new fit. New
labels come up in use: products, species, or here tokens. Each new class gets buckets
that exist, so the model gets no new weights.
"""

# %%
# 1,000 classes that the model has not seen
# -----------------------------------------
# The task is the next token of Python's standard library. Keep back 1,000 random
# tokens that have 5 to 500 training samples each. The first fit sees the samples of all
# other tokens.

from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=80)
X, y = normalize(tokens.data_train), tokens.target_train
X_test, y_test = normalize(tokens.data_test), tokens.target_test
rng = np.random.default_rng(0)
count = np.bincount(y)
new = rng.choice(np.flatnonzero((count >= 5) & (count <= 500)), 1000, replace=False)
is_new, test_is_new = np.isin(y, new), np.isin(y_test, new)
test_is_old = np.isin(y_test, y[~is_new])

model = MACHClassifier(n_repetitions=16, n_buckets=64, n_jobs=2, random_state=0)
whole = clone(model).fit(X, y)
model.fit(X[~is_new], y[~is_new])
print(f"{model.classes_.size:,} classes, then {whole.classes_.size:,}")
print(f"{(~is_new).sum():,} rows of old classes, {is_new.sum():,} of new ones")


def accuracies(model):
    parts = test_is_old, test_is_new
    return [model.score(X_test[part], y_test[part]) for part in parts]


# %%
# New samples, mixed with old ones
# --------------------------------
# Samples of new classes alone teach the model that old classes no longer occur. So draw
# three old samples for each new one, afresh in each pass. These are few of the old
# samples, and new classes would seem too frequent: give their samples a weight of 0.5.
# Smaller weights of all samples make the steps of the last passes shorter.

new_rows, old_rows = np.flatnonzero(is_new), np.flatnonzero(~is_new)
n_drawn = 3 * new_rows.size


def learn(model, n_drawn):
    learned = [accuracies(model)]
    for scale in [1.0, 1.0, 0.5, 0.25]:
        drawn = rng.choice(old_rows, n_drawn, replace=False)
        rows = np.concatenate([new_rows, drawn])
        weight = scale * np.where(is_new[rows], 0.5, 1.0)
        model.partial_fit(X[rows], y[rows], sample_weight=weight)
        learned.append(accuracies(model))
    return learned


alone = learn(deepcopy(model), 0)
mixed = learn(model, n_drawn)
all_rows = accuracies(whole)
for name, (old, newer) in {
    "before": mixed[0],
    "new rows alone": alone[-1],
    "mixed with old rows": mixed[-1],
    "fit of all rows": all_rows,
}.items():
    print(f"{name:20} old classes {old:.3f}, new classes {newer:.3f}")

# %%
# Old and new, pass by pass
# -------------------------

figure, axes = plt.subplots()
for i, (kind, line) in enumerate({"old": "--", "new": "-"}.items()):
    for color, (name, values) in zip(
        ("C0", "C1"), {"mixed": mixed, "new alone": alone}.items(), strict=True
    ):
        shown = [value[i] for value in values]
        axes.plot(shown, f"o{line}", color=color)
        axes.annotate(
            f"{kind} classes, {name}",
            (len(shown) - 1, shown[-1]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=color,
        )
    axes.plot(4, all_rows[i], "*", color="C2", markersize=14)
axes.set(xlabel="Passes of partial_fit", ylabel="Test accuracy", xticks=range(5))
axes.set_title(f"{new.size:,} new classes; a star: fit of all")
plt.show()

# %%
# Mixed with old samples, the passes keep the old classes and bring the new ones near
# the fit to all samples. New samples alone cost the old classes much of their accuracy.

# %%
# When to fit anew
# ----------------
# If the samples fit in memory and you have the time, ``fit`` to all samples is simpler.
