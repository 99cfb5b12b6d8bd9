"""
======================================
What memory buys: the trade-off of R B
======================================

The weights of MACH are d R B numbers, and R B may be as small as one likes. What is
lost? First whether classes can be told apart at all, then how well: the
discriminability-memory trade-off of the paper.
"""

# %%
# Can all classes be told apart?
# ------------------------------
# Two classes with the same bucket in every repetition are twins. The bound says from
# which R on there are none, with probability 1 - delta. Beside it the share of 200
# random tables that do have twins.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.theory import (
    indistinguishable_probability,
    mach_min_repetitions,
    model_bytes,
)

rng = np.random.default_rng(0)
K, n_tables = 1000, 200
simulated = {}
for B in (4, 16, 64):
    with_twins = np.zeros(12)
    for _ in range(n_tables):
        group = np.zeros(K, dtype=int)  # classes with equal buckets so far
        for r in range(12):
            code = group * B + rng.integers(B, size=K)
            group = np.unique(code, return_inverse=True)[1]
            with_twins[r] += group.max() + 1 < K
    simulated[B] = with_twins / n_tables
    R = mach_min_repetitions(K, B, delta=0.05)
    print(f"B = {B:2}: at most 5 % of the tables have twins from R = {R} on")

# %%
# How well?
# ---------
# The next token of Python source. With one repetition and a bucket for every class,
# MACH is one-vs-rest's equal in memory: softmax regression on all classes. Fewer
# buckets in all are less memory and less time. MACHClassifier draws tables without
# twins, whatever R.

tokens = load_python_tokens(n_files=20)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
y_train, y_test = tokens.target_train, tokens.target_test
d, K_tokens = X_train.shape[1], np.unique(y_train).size
print(f"{X_train.shape[0]:,} rows, {K_tokens:,} classes")

scores, megabytes = {}, {}
for B in (16, 64):
    scores[B], megabytes[B] = [], []
    for R in (2, 4, 8, 16, 32):
        if R * B > 512 or B**R < K_tokens:
            continue
        model = MACHClassifier(n_repetitions=R, n_buckets=B, random_state=0)
        scores[B].append(model.fit(X_train, y_train).score(X_test, y_test))
        megabytes[B].append(model_bytes(d, R, B) / 1e6)
full = MACHClassifier(n_repetitions=1, n_buckets=K_tokens, random_state=0)
full_score = full.fit(X_train, y_train).score(X_test, y_test)
full_megabytes = model_bytes(d, 1, K_tokens) / 1e6
print(f"a bucket for each class: {full_score:.3f} with {full_megabytes:.0f} MB")

# %%
# Both side by side
# -----------------

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
repetitions = np.arange(1, 13)
for i, (B, share) in enumerate(simulated.items()):
    bound = indistinguishable_probability(K, B, repetitions)
    left.plot(repetitions, bound, color=f"C{i}")
    left.plot(repetitions, share, "o", color=f"C{i}", label=f"B = {B}")
left.set(xlabel="Repetitions R", ylabel="Probability of twins")
left.set_title("Line: bound. Points: simulation")
left.legend(frameon=False)
for B, values in scores.items():
    right.plot(megabytes[B], values, "o-", label=f"B = {B}")
right.plot(full_megabytes, full_score, "*", color="black", ms=12, label="B = K, R = 1")
right.set_xscale("log")
right.set(xlabel="Model (MB)", ylabel="Top-1 accuracy")
right.legend(frameon=False, loc="lower right")
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
plt.show()

# %%
# When the trade is not worth it
# ------------------------------
# If the star fits in your memory and in your time, take it: it has one set of weights
# for each class, and nothing to choose. MACH is for problems where it does not.
