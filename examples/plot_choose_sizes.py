"""
================
Choosing R and B
================

How many repetitions R, of how many buckets B? A plan says what a budget allows. Then
one fit for each B shows accuracy at every R below it, because the first r repetitions
of a model are a model themselves.
"""

# %%
# A plan
# ------
# The next token of Python source. One-vs-rest would take more than a hundred megabytes
# here; let the budget be 15. ``plan`` knows sizes only: it promises that classes can be
# told apart, not how well.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.theory import mach_min_repetitions, model_cost, plan

tokens = load_python_tokens(n_files=25)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
y_train, y_test = tokens.target_train, tokens.target_test
(n, d), K = X_train.shape, np.unique(y_train).size
budget = 15e6

sizes = plan(K, d, max_bytes=budget, n_samples=n, n_nonzeros=X_train.nnz / n)
print(sizes)

# %%
# The whole curve from one fit
# ----------------------------
# ``staged_score`` merges one repetition after another: R scores for little more than
# the price of one. Rows set aside would be used for a choice; the test rows stand for
# them.

largest = 512
curves = {}
for B in (16, 64, 128):
    model = MACHClassifier(n_repetitions=largest // B, n_buckets=B, random_state=0)
    curves[B] = np.array(list(model.fit(X_train, y_train).staged_score(X_test, y_test)))

for B, scores in curves.items():
    R = np.arange(1, scores.size + 1)
    fits = model_cost(K, d, R, B).mach.n_bytes <= budget
    place = np.where(fits, scores, -1).argmax()
    bound = mach_min_repetitions(K, B)
    print(f"B = {B:3}: bound R >= {bound}; best within the budget: ", end="")
    print(f"R = {place + 1}, accuracy {scores[place]:.3f}")

# %%
# Against R and against memory
# ----------------------------
# On the left the dashed lines are the bounds, beyond which accuracy still rises a
# little. On the right: for the same memory, many repetitions of few buckets are ahead
# here.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for i, (B, scores) in enumerate(curves.items()):
    R = np.arange(1, scores.size + 1)
    left.plot(R, scores, color=f"C{i}", label=f"B = {B}")
    left.axvline(mach_min_repetitions(K, B), color=f"C{i}", ls="--", lw=1)
    right.plot(model_cost(K, d, R, B).mach.n_bytes / 1e6, scores, color=f"C{i}")
right.axvline(budget / 1e6, color="0.5", ls=":", label="budget")
left.set(xlabel="Repetitions R", ylabel="Top-1 accuracy")
right.set(xlabel="Model (MB)")
left.legend(frameon=False, loc="lower right")
right.legend(frameon=False, loc="upper left")
for axes in (left, right):
    axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
plt.show()

# %%
# When not to choose
# ------------------
# The curves are flat at their ends. If the defaults fit in memory and are fast enough,
# keep them: the last half percent is not worth a search.
