"""
======================
Reading a fitted model
======================

See which classes share buckets, and what a bucket has learned. A class of MACH has no
weights of its own: it has a bucket in each repetition, and shares every bucket with
other classes.
"""

# %%
# A model of the next token
# -------------------------
# Some files of the standard library. The most frequent tokens come first.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import binom
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.displays import ClassFrequencyDisplay

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=120)
X, y = normalize(tokens.data_train), tokens.target_train
model = MACHClassifier(n_repetitions=16, n_buckets=64, n_jobs=2, random_state=0)
model.fit(X, y)
names, table = tokens.target_names, model.bucket_table_
R, B, K = model.n_repetitions_, model.n_buckets_, model.classes_.size
print(f"{K:,} classes in {R} repetitions of {B} buckets: about {K / B:.0f} in a bucket")

# %%
# Who shares a bucket?
# --------------------
# The table has a row for each class and a column for each repetition. Most columns are
# random permutations. Every fourth puts similar classes together: those which follow
# on similar tokens.

word = np.flatnonzero(names == "join")[0]
print(f"'{names[word]}' has the buckets {table[word]}")
for r in (0, 3, 7):
    mates = np.flatnonzero(table[:, r] == table[word, r])  # most frequent first
    print(f"\nrepetition {r}: {mates.size} classes, such as")
    print("   " + "  ".join(names[mates[:10]]))

# %%
# Nearest classes
# ---------------
# Two classes share a random bucket with probability 1 / B. In the clustered repetitions
# similar ones meet much more often.

shared = (table == table[word]).sum(axis=1)
shared[word] = 0
nearest = np.argsort(-shared, kind="stable")[:8]
print(f"share the most buckets with '{names[word]}':")
for k in nearest:
    print(f"   {shared[k]} of {R}   {names[k]}")

# %%
# What has a bucket learned?
# --------------------------
# ``coef_`` has the weights of a bucket. The largest weights say after which tokens one
# of its classes is likely. In the clustered repetition 3 they fit the word; in the
# random repetition 0 they are a mixture of classes that have nothing in common.

for r in (3, 0):
    weights = model.coef_[r, table[word, r]]
    best = np.argsort(-weights)[:6]
    print(f"repetition {r}: " + "  ".join(tokens.feature_names[best]))

# %%
# From buckets to a class
# -----------------------
# One row: the tokens before, and the R bucket probabilities of three classes. The right
# class is likely in nearly all its buckets. A wrong one is likely in some only, such as
# those that it happens to share with the right one.
#
# On the right: most pairs of classes share as many buckets as by chance, and similar
# ones share more.

row = np.flatnonzero(y == word)[0]
context = names[y[row - 6 : row]]
choices = np.append(word, model.predict_topk(X[[row]], k=300)[0, [20, 299]])
logits = X[[row]] @ model.coef_.reshape(R * B, -1).T
logits = np.asarray(logits).reshape(R, B) + model.intercept_
proba = np.exp(logits - logits.max(axis=1, keepdims=True))
proba /= proba.sum(axis=1, keepdims=True)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for k, marker in zip(choices, "osv", strict=True):
    left.plot(
        np.arange(R), proba[np.arange(R), table[k]], marker, label=f"'{names[k]}'"
    )
left.set_yscale("log")
left.set_ylim(1e-5, 2)
left.set(xlabel="Repetition", ylabel="Probability of the bucket")
left.set_title(" ".join(context) + " ...", fontsize="medium")
left.legend(loc="lower left")

pairs = np.random.default_rng(0).integers(K, size=(2, 200_000))
pairs = pairs[:, pairs[0] != pairs[1]]
counts = np.bincount((table[pairs[0]] == table[pairs[1]]).sum(axis=1), minlength=R + 1)
most = np.flatnonzero(counts)[-1] + 1
x = np.arange(most)
right.bar(x, counts[:most] / counts.sum(), color="0.75", label="this model")
right.plot(x, binom.pmf(x, R, 1 / B), "o", label="all random")
right.set_yscale("log")
right.set(xlabel="Buckets that two classes share", ylabel="Share of pairs")
right.set_ylim(1e-6, 2)
right.legend()
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Which classes does it know?
# ---------------------------
# Other files, by how often the right token was in the training files. A class that was
# there a few times shares its buckets with much larger ones, and is rarely found. The
# characters in tables of encodings are an exception: few, but always in the same order.

X_test = normalize(tokens.data_test)
ClassFrequencyDisplay.from_estimator(model, X_test, tokens.target_test, y)
plt.show()

# %%
# When not to read a MACH model
# -----------------------------
# If the weights of a class are what you are after, use one-vs-rest. A bucket explains
# a class only together with the other buckets, and only as far as its classes resemble
# each other.
