"""
===============================
Classes that come after the fit
===============================

A model in use meets new labels: products, species, or here tokens. ``partial_fit``
takes them in without a new fit. Each new class gets buckets that exist, so that no
weights are added.
"""

# %%
# 500 classes that the model has not seen
# ---------------------------------------
# Of the next-token problem of Python's standard library, 500 random tokens with 5 to
# 500 training rows are kept back. The first fit sees the rows of all others.

from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

tokens = load_python_tokens(n_files=30)
X, y = normalize(tokens.data_train), tokens.target_train
X_test, y_test = normalize(tokens.data_test), tokens.target_test
rng = np.random.default_rng(0)
count = np.bincount(y)
new = rng.choice(np.flatnonzero((count >= 5) & (count <= 500)), 500, replace=False)
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
# New rows, mixed with old ones
# -----------------------------
# Rows of new classes alone teach the model that old classes no longer occur. Draw up to
# three old rows for each new one, afresh in each pass. These are few of the old rows,
# so that new classes would seem too frequent: their rows get a weight of 0.5. The last
# passes take shorter steps, by smaller weights of all rows.

new_rows, old_rows = np.flatnonzero(is_new), np.flatnonzero(~is_new)
n_drawn = min(3 * new_rows.size, old_rows.size)


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

figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
for part, title in enumerate(["Old classes", "New classes"]):
    for values, label in [(mixed, "mixed with old rows"), (alone, "new rows alone")]:
        axes[part].plot([value[part] for value in values], "o-", label=label)
    axes[part].axhline(all_rows[part], color="black", lw=1, label="fit of all rows")
    axes[part].set(title=title, xlabel="Passes of partial_fit", xticks=range(5))
    axes[part].spines[["top", "right"]].set_visible(False)
axes[0].set(ylabel="Test accuracy", ylim=(0, None))
axes[1].legend(frameon=False, loc="lower right")
plt.show()

# %%
# When to fit anew
# ----------------
# If the rows fit in memory and there is time, ``fit`` of all rows is simpler. A model
# of one repetition with a bucket for each class has no room for new ones;
# ``partial_fit`` then says so.
