"""
============
Small models
============

Shrink a fitted model to a fraction of its bytes with ``compress``. A model has a weight
in float32 for each of d columns in each of B buckets of R repetitions, and most of the
weights matter little. ``compress`` keeps as many of the others as fit in the bytes that
you allow, in 8 or 4 bits each.
"""

# %%
# The model
# ---------
# The task is the next token of Python source, and the sizes are the defaults.
# One-vs-rest would have a weight for each column and each class.

import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize

import sklearn_mach
from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.theory import model_bytes

plt.style.use("sklearn_mach.mach")
tokens = load_python_tokens(n_files=80)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
y_train, y_test = tokens.target_train, tokens.target_test

model = MACHClassifier(n_jobs=2, random_state=0).fit(X_train, y_train)
(n, d), K = X_train.shape, model.classes_.size
R, B = model.n_repetitions_, model.n_buckets_
one_vs_rest_bytes = 4 * (d + 1) * K
print(f"{n:,} rows, {d:,} columns, {K:,} classes; R = {R}, B = {B}")
print(f"One-vs-rest  {one_vs_rest_bytes / 1e6:6.1f} MB")
print(f"MACH         {model.model_bytes_ / 1e6:6.1f} MB, ", end="")
print(f"accuracy {model.score(X_test, y_test):.3f}")

# %%
# Fewer bytes
# -----------
# ``compress`` gives a copy, and the model stays as it is. ``bits=8`` keeps all weights.
# ``max_bytes`` leaves out those that matter least.

smaller = [model.compress(bits=8)]
smaller += [model.compress(max_bytes=int(mb * 1e6)) for mb in (16, 8, 4, 2, 1)]
sizes = np.array([small.model_bytes_ for small in smaller])
scores = np.array([small.score(X_test, y_test) for small in smaller])
for size, score in zip(sizes, scores, strict=True):
    print(f"{size / 1e6:5.2f} MB  accuracy {score:.3f}")

# %%
# Or fewer repetitions
# --------------------
# Fewer repetitions also make a model smaller, and faster to train. The first r
# repetitions of the fitted model are those of a fit with ``n_repetitions=r``. For the
# same accuracy they need many times the bytes: train many repetitions and compress.
# For the very smallest models do both. Pass samples that were not in the training,
# ``compress(X, y, max_bytes=...)``, and they choose the number of repetitions.

few = np.arange(2, R + 1)  # one cannot tell the classes of a bucket apart
few_sizes = model_bytes(d, few, B) + K * few
few_scores = list(model.staged_score(X_test, y_test))[1:]

figure, axes = plt.subplots()
axes.semilogx(sizes / 1e6, scores, "o-")
axes.semilogx(few_sizes / 1e6, few_scores, ".--", color="C0")
axes.axvline(one_vs_rest_bytes / 1e6, color="C1", linestyle=":")
for text, x, y, dx, dy in [
    (f"R = {R}, compressed", sizes[2] / 1e6, scores[2], 0, -22),
    ("fewer repetitions", few_sizes[1] / 1e6, few_scores[1], 12, -4),
]:
    axes.annotate(text, (x, y), xytext=(dx, dy), textcoords="offset points", color="C0")
axes.annotate(
    "one-vs-rest ",
    (one_vs_rest_bytes / 1e6, 0.05),
    xycoords=axes.get_xaxis_transform(),
    ha="right",
    color="C1",
)
axes.set(xlabel="Megabytes of the model", ylabel="Accuracy")
axes.xaxis.set_major_formatter("{x:g}")
axes.set_title(f"Next token, {K:,} classes")
plt.show()

# %%
# A file
# ------
# ``save`` writes a file and ``load`` maps it. The file holds no code to run, and all
# processes that load it share one copy in memory. The loaded model predicts the same,
# bit for bit.

smallest = smaller[-1]
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "tokens.mach")
    smallest.save(path)
    loaded = sklearn_mach.load(path)
    print(f"{os.path.getsize(path) / 1e6:.2f} MB in the file")
    some = X_test[1000:1003]
    print(tokens.target_names[loaded.predict_topk(some, k=3)])
    print(np.array_equal(loaded.predict(X_test), smallest.predict(X_test)))

# %%
# When it is not worth it
# -----------------------
# Training takes the memory of all weights, whatever ``max_bytes`` is; if they do not
# fit, lower R or B, or the number of columns. Keep the fitted model if you want to go
# on with ``partial_fit``: you cannot train a compressed one further.
