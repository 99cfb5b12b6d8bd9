"""
================
Choosing R and B
================

How many repetitions R, of how many buckets B? A plan says what a budget allows. Then a
search over both needs one fit for each B, because the first r repetitions of a model
are a model themselves.
"""

# %%
# A plan
# ------
# The next token of Python source. One-vs-rest would take more than a hundred megabytes
# here; let the budget be 30. ``plan`` knows sizes only: it promises that classes can be
# told apart, not how well.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifierCV
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.displays import (
    CollisionDisplay,
    MemoryCurveDisplay,
    RepetitionCurveDisplay,
)
from sklearn_mach.theory import plan

tokens = load_python_tokens(n_files=25)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
y_train, y_test = tokens.target_train, tokens.target_test
(n, d), K = X_train.shape, np.unique(y_train).size
budget = 30e6

sizes = plan(K, d, max_bytes=budget, n_samples=n, n_nonzeros=X_train.nnz / n)
print(sizes)

# %%
# A search within the budget
# --------------------------
# ``MACHClassifierCV`` fits one model for each B, with as many repetitions as the budget
# allows, and scores every smaller R on rows held out. The best pair is fitted again, to
# all training rows. ``cv=0.1`` would hold out a tenth of the rows at random; here
# whole files are, as in the test.

files = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
search = MACHClassifierCV(
    n_buckets=[8, 16, 64],
    max_bytes=budget,
    cv=list(files.split(X_train, groups=tokens.groups[:n])),
    random_state=0,
)
search.fit(X_train, y_train)
model = search.best_estimator_
print(f"{search.best_params_}, {model.model_bytes_ / 1e6:.1f} MB")
print(f"accuracy {search.best_score_:.3f} on files held out, ", end="")
print(f"{search.score(X_test, y_test):.3f} on those of the test")

display = MemoryCurveDisplay.from_results(search)
display.ax_.axvline(budget, color="0.5", linestyle=":")
plt.show()

# %%
# To be told apart is not enough
# ------------------------------
# On the left, the chance that some pair of classes shares all buckets: the bound behind
# the plan, and how many of 200 tables of Carter-Wegman hashing have such a pair. On the
# right, the chosen model on the files of the test. Its accuracy still rises a little
# when all classes have long been told apart, since a score that is the mean of more
# repetitions is less noisy.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
CollisionDisplay.from_parameters(K, model.n_buckets_, random_state=0, ax=left)
RepetitionCurveDisplay.from_estimator(model, X_test, y_test, ax=right)
plt.show()

# %%
# When not to choose
# ------------------
# The curves are nearly flat at their ends. If the defaults fit in memory and are fast
# enough, keep them: the last percent is seldom worth a search.
