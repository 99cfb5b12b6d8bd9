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
# The model learns some files of the standard library. Class 0 is the most frequent
# token.

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
# The table has a row for each of the K classes and a column for each of the R
# repetitions, and holds numbers of buckets, from 0 to B - 1. Most columns are random
# permutations. Every fourth column puts similar classes together: tokens that follow
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
# similar classes meet much more often.

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
# of its classes is likely. In the clustered repetition 3 some fit the word, such as
# the dot before it. In the random repetition 0 they are a mixture: the classes have
# nothing in common.

for r in (3, 0):
    weights = model.coef_[r, table[word, r]]
    best = np.argsort(-weights)[:6]
    print(f"repetition {r}: " + "  ".join(tokens.feature_names[best]))

# %%
# From buckets to a class
# -----------------------
# Take one row. The title shows the tokens before it, and the dots show the R bucket
# probabilities of three classes. Nearly all buckets of the right class are likely. A
# wrong class has only some likely buckets, such as those that it shares with the right
# one.

row = np.flatnonzero(y == word)[0]
context = names[y[row - 6 : row]]
choices = np.append(word, model.predict_topk(X[[row]], k=300)[0, [20, 299]])
logits = X[[row]] @ model.coef_.reshape(R * B, -1).T
logits = np.asarray(logits).reshape(R, B) + model.intercept_
proba = np.exp(logits - logits.max(axis=1, keepdims=True))
proba /= proba.sum(axis=1, keepdims=True)

figure, axes = plt.subplots()
for k, marker in zip(choices, "osv", strict=True):
    shown = proba[np.arange(R), table[k]]
    axes.plot(np.arange(R), shown, marker, label=f"'{names[k]}'")
axes.set(yscale="log", ylim=(1e-6, 2))
axes.set(xlabel="Repetition", ylabel="Probability of the bucket")
axes.set_title(" ".join(context) + " ...")
axes.legend(loc="lower center", ncols=3)
plt.show()

# %%
# How many buckets do two classes share?
# --------------------------------------
# Most pairs share as many as by chance. Similar classes share more.

pairs = np.random.default_rng(0).integers(K, size=(2, 200_000))
pairs = pairs[:, pairs[0] != pairs[1]]
counts = np.bincount((table[pairs[0]] == table[pairs[1]]).sum(axis=1), minlength=R + 1)
most = np.flatnonzero(counts)[-1] + 1
x = np.arange(most)

figure, axes = plt.subplots()
axes.bar(x, counts[:most] / counts.sum(), label="this model")
axes.plot(x, binom.pmf(x, R, 1 / B), "o", color="C1", label="all at random")
axes.set(xlabel="Buckets that two classes share", ylabel="Share of pairs")
axes.set(yscale="log", ylim=(1e-6, 2))
axes.legend()
plt.show()

# %%
# Which classes does it know?
# ---------------------------
# Here is the accuracy on other files, by how often the right token is in the training
# files. A class with a few training rows shares its buckets with much larger ones, and
# the model rarely finds it.

X_test = normalize(tokens.data_test)
ClassFrequencyDisplay.from_estimator(model, X_test, tokens.target_test, y)
plt.show()

# %%
# When to use one-vs-rest
# -----------------------
# If you want the weights of a class, use one-vs-rest. A bucket of MACH explains a class
# only together with the other buckets.
