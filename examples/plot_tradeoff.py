"""
================
What memory buys
================

The weights of MACH are d R B numbers, and R B may be as small as one likes. What is
lost? First whether classes can be told apart at all, then how well: the
discriminability-memory trade-off of the paper.
"""

# %%
# Can all classes be told apart?
# ------------------------------
# Two classes with the same bucket in every repetition are twins. The bound says how
# likely it is at most that a table has some. Beside it the share of 200 random tables
# that do have twins; where none has, there is no point.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.displays import CollisionDisplay, MemoryCurveDisplay

figure, panels = plt.subplots(1, 3, figsize=(11, 4), sharey=True, layout="constrained")
for B, axes in zip((4, 16, 64), panels, strict=True):
    CollisionDisplay.from_parameters(1000, B, random_state=0, ax=axes)
    axes.label_outer()
plt.show()

# %%
# How well?
# ---------
# The next token of Python source. With one repetition and a bucket for every class,
# MACH is one-vs-rest's equal in memory: softmax regression on all classes. Fewer
# buckets in all are less memory and less time. A model of R repetitions holds those of
# all smaller R, so that one fit gives a line.

tokens = load_python_tokens(n_files=20)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
y_train, y_test = tokens.target_train, tokens.target_test
K = np.unique(y_train).size
print(f"{X_train.shape[0]:,} rows, {K:,} classes")

models = {
    f"R = 1 to {R}, B = {B}": MACHClassifier(
        n_repetitions=R, n_buckets=B, random_state=0
    )
    for R, B in [(32, 16), (8, 64)]
}
models["R = 1, B = K"] = MACHClassifier(n_repetitions=1, n_buckets=K, random_state=0)
for name, model in models.items():
    model.fit(X_train, y_train)
    print(f"{name:20}{model.score(X_test, y_test):.3f}  ", end="")
    print(f"{model.model_bytes_ / 1e6:6.1f} MB")

MemoryCurveDisplay.from_estimators(models, X_test, y_test)
plt.show()

# %%
# When the trade is not worth it
# ------------------------------
# If a bucket for each class fits in your memory and in your time, take it: it has one
# set of weights for each class, and nothing to choose. MACH is for problems where it
# does not.
