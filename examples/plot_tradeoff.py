"""
================
What memory buys
================

Halve the memory of a model and see what accuracy it costs: the
discriminability-memory trade-off of the MACH paper, on Python source. A model has a
weight for each of the d columns of the data and each of its R B buckets: R repetitions
of B buckets each. You may choose R B as small as you like.
"""

# %%
# How well?
# ---------
# The task is the next token of Python source. One repetition with a bucket for each of
# the K classes is softmax regression on all classes, with the memory of one-vs-rest.
# Fewer buckets take less memory and less time. A model of R repetitions contains the
# models of all smaller R, so each fit gives a whole line.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.displays import CollisionDisplay, MemoryCurveDisplay

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=40)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
y_train, y_test = tokens.target_train, tokens.target_test
K = np.unique(y_train).size
print(f"{X_train.shape[0]:,} rows, {X_train.shape[1]:,} columns, {K:,} classes")

models = {
    f"B = {B}": MACHClassifier(n_repetitions=R, n_buckets=B, n_jobs=2, random_state=0)
    for R, B in [(32, 16), (16, 64)]
}
models["R = 1, B = K"] = MACHClassifier(n_repetitions=1, n_buckets=K, random_state=0)
for name, model in models.items():
    model.fit(X_train, y_train)
    print(f"{name:14}R = {model.n_repetitions_:<4}", end="")
    print(f"accuracy {model.score(X_test, y_test):.3f}", end="")
    print(f"{model.model_bytes_ / 1e6:8.1f} MB")

MemoryCurveDisplay.from_estimators(models, X_test, y_test)
plt.show()

# %%
# With two repetitions of 16 buckets the accuracy is zero: a dozen classes share both
# buckets, and the model cannot tell them apart. A few repetitions later the curve is
# flat. With a tenth of the memory, MACH is as accurate as softmax regression on all
# classes.

# %%
# Can the model tell all classes apart?
# -------------------------------------
# Two classes collide when they share the bucket in every repetition: no model can tell
# them apart. The bound says how likely it is, at most, that some pair of 1,000 classes
# collides. The dots are the share of 5,000 tables of random hash functions in which
# one does, and their bars are two standard errors long to each side. Tables are better
# than the bound: where one pair collides many others do, too, so that fewer tables
# have collisions at all.

CollisionDisplay.from_parameters(1000, 16, n_tables=5000, random_state=0)
plt.show()
