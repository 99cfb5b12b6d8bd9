"""
============
Small models
============

A fitted model has d R B weights in float32, and most of them matter little.
``compress`` keeps as many of the others as fit in the bytes that you allow, in 8 or 4
bits each. How small may the model be, and what is lost?
"""

# %%
# The model
# ---------
# The next token of Python source, with the default sizes. One-vs-rest would have a
# weight for each column and each class.

import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize

import sklearn_mach
from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.theory import model_bytes

tokens = load_python_tokens(n_files=20)
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
# ``compress`` gives a copy, and the model stays as it is. With ``bits=8`` all weights
# stay, and a column without weights takes next to nothing. With ``max_bytes`` those
# that matter least are left out.

smaller = [model.compress(bits=8)]
smaller += [model.compress(max_bytes=int(mb * 1e6)) for mb in (8, 4, 2, 1, 0.5, 0.3)]
sizes = np.array([small.model_bytes_ for small in smaller])
scores = np.array([small.score(X_test, y_test) for small in smaller])
for size, score in zip(sizes, scores, strict=True):
    print(f"{size / 1e6:5.2f} MB  accuracy {score:.3f}")

# %%
# Or fewer repetitions
# --------------------
# Fewer repetitions make a model smaller, too, and faster to train. The first r of the
# fitted model are those that ``n_repetitions=r`` would give. For the same accuracy they
# need many times the bytes: it is better to train many and to compress. For the very
# smallest models both together are best: pass rows that were not trained on,
# ``compress(X, y, max_bytes=...)``, and the number of repetitions is chosen by them.

few = np.arange(2, R + 1)  # one cannot tell the classes of a bucket apart
few_sizes = model_bytes(d, few, B) + K * few
few_scores = list(model.staged_score(X_test, y_test))[1:]

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.semilogx(few_sizes / 1e6, few_scores, "s-", ms=3, label="fewer repetitions")
axes.semilogx(sizes / 1e6, scores, "o-", label=f"R = {R}, compressed")
axes.axvline(one_vs_rest_bytes / 1e6, color="0.5", linestyle=":", label="one-vs-rest")
axes.set(xlabel="Megabytes of the model", ylabel="Accuracy")
axes.grid(alpha=0.3)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="lower center")
plt.show()

# %%
# A file
# ------
# ``save`` writes a file and ``load`` maps it. No code in it is run, and all processes
# that load it share one copy in memory. The loaded model predicts the same, bit for
# bit.

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
# Training takes the memory of all weights, whatever ``max_bytes`` is. If they do not
# fit there, lower R or B, or the number of columns. A compressed model cannot be
# trained further: keep the one that it comes from if ``partial_fit`` is to go on.
# Weights are unpacked as they are used: on large sets predictions may take almost twice
# as long (``python examples/bench_size.py PATH`` measures it on your data).
