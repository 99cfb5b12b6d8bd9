"""
================
Choosing R and B
================

Choose the number of repetitions R and of buckets B for the memory that you have. First
a plan says which sizes fit. Then a search finds the most accurate of them with one fit
for each B: the first r repetitions of a model are a model themselves.
"""

# %%
# A plan
# ------
# The task is the next token of Python source. One-vs-rest needs a weight for each
# column and each class, and your budget is 30 MB. ``plan`` knows sizes only: it
# promises that a model can tell the classes apart, not how accurate the model is.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier, MACHClassifierCV
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.displays import MemoryCurveDisplay, RepetitionCurveDisplay
from sklearn_mach.theory import plan

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=80)
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
# allows, and scores every smaller R on samples held out. It fits the best pair again,
# to all training samples. ``cv=0.1`` would hold out a tenth of the samples at random.
# Here whole files are held out, as in the test.

files = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
search = MACHClassifierCV(
    MACHClassifier(n_jobs=2),
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

MemoryCurveDisplay.from_results(search)
plt.show()

# %%
# The model on other files
# ------------------------
# Here is the accuracy of the chosen model on the test files, when only its first
# repetitions predict. The eight test files are easier than the files held out: compare
# accuracies on the same files only.

RepetitionCurveDisplay.from_estimator(model, X_test, y_test)
plt.show()

# %%
# When not to choose
# ------------------
# The curves are nearly flat at their ends. If the defaults fit in memory and are fast
# enough, keep them.
