"""
===========================
Next token of Python source
===========================

MACH learns 24,000 classes with one twentieth of the memory of one-vs-rest. The task:
which token comes next in a Python file? Every distinct name, number and operator is a
class. You download nothing: the text is the standard library of the Python that runs
this script.

By itself the script reads all files: 1.3 million rows with 24,000 classes. The gallery
runs it with ``--n-files 200``: 10,000 classes, for which one-vs-rest needs five times
the memory of MACH.
"""

# %%
# The data
# --------
# A row is a place in a file. Its columns are the last four tokens by distance and the
# set of the last twenty. Whole files are set aside for the test. ``normalize`` gives
# all rows the same length, which suits the built-in learner best.

import argparse
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse import csr_array
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens

plt.style.use("sklearn_mach.mach")
parser = argparse.ArgumentParser(description="Next token of Python source.")
parser.add_argument("--n-files", type=int, help="files to read; all by default")
args = parser.parse_args()

start = perf_counter()
tokens = load_python_tokens(n_files=args.n_files)
X_train, y_train = normalize(tokens.data_train), tokens.target_train
X_test, y_test = normalize(tokens.data_test), tokens.target_test
print(tokens.DESCR)
print(f"{perf_counter() - start:.1f} s to read the files and build the matrices")

# %%
# The model
# ---------
# All parameters that change the result have their default values. ``n_jobs=-1`` uses
# all cores. One-vs-rest needs a weight for each of the d columns and each of the K
# classes. MACH needs one for each column and each of its R B buckets.

start = perf_counter()
model = MACHClassifier(n_jobs=-1, random_state=0, verbose=1).fit(X_train, y_train)
fit_seconds = perf_counter() - start

(n, d), K = X_train.shape, model.classes_.size
print(f"n = {n:,} rows, d = {d:,} columns, K = {K:,} classes")
print(f"R = {model.n_repetitions_} repetitions of B = {model.n_buckets_} buckets")
print(f"MACH model   {model.model_bytes_ / 1e9:6.2f} GB, {fit_seconds:.1f} s to fit")
print(f"One-vs-rest  {4 * d * K / 1e9:6.2f} GB would be needed")

# %%
# Two simple rivals
# -----------------
# The majority rule always proposes the most frequent tokens. Classes are numbered by
# falling frequency, so these are classes 0, 1, 2, and so on. The bigram table proposes
# the tokens that most often follow the token just before, then the most frequent ones.

n_top, n_names = 20, tokens.target_names.size
common = np.arange(n_top)

before = np.append(n_names, tokens.target[:-1])
before[np.diff(tokens.groups, prepend=-1) > 0] = n_names  # a file starts here
counts = csr_array((np.ones(n), (before[:n], y_train)), shape=(n_names + 1, n_names))
table = np.empty((n_names + 1, n_top), dtype=int)
for token in range(n_names + 1):
    entries = slice(*counts.indptr[token : token + 2])
    order = np.argsort(-counts.data[entries], kind="stable")[:n_top]
    best = counts.indices[entries][order]
    table[token] = np.append(best, common[~np.isin(common, best)])[:n_top]

# %%
# Accuracy on the test files
# --------------------------
# A token that is in no training file counts as a miss for all three.

start = perf_counter()
guesses = {
    "MACH": model.predict_topk(X_test, k=n_top),
    "bigram table": table[before[n:]],
    "majority": np.broadcast_to(common, (y_test.size, n_top)),
}
print(f"{perf_counter() - start:.1f} s to rank the classes of {y_test.size:,} rows")
hits = {name: guess == y_test[:, None] for name, guess in guesses.items()}
accuracy = {name: hit.cumsum(axis=1).mean(axis=0) for name, hit in hits.items()}
print(f"{'':14}top-1  top-5")
for name, values in accuracy.items():
    print(f"{name:14}{values[0]:.3f}  {values[4]:.3f}")

figure, axes = plt.subplots()
for i, (name, values) in enumerate(accuracy.items()):
    axes.plot(np.arange(1, n_top + 1), values, ".-", color=f"C{i}")
    axes.annotate(
        name,
        (n_top, values[-1]),
        xytext=(8, 4 - 4 * i),
        textcoords="offset points",
        va="center",
        color=f"C{i}",
    )
axes.set(xlabel="Number k of guesses", ylabel="Top-k accuracy", ylim=(0, 1))
axes.set_xticks([1, 5, 10, 15, 20])
axes.set_title(f"Next token: {K:,} classes")
plt.show()

# %%
# Frequent and rare tokens
# ------------------------
# MACH finds a third of the tokens that occur 10 to 99 times in the training files, and
# the bigram table hardly any. The two are nearest on the most frequent tokens.

figure, axes = plt.subplots()
n_seen = np.bincount(y_train, minlength=n_names)[y_test]
edges = 10 ** np.arange(len(str(n_seen.max())))
labels = [f"{edge:,}\nto {10 * edge - 1:,}" for edge in edges]
bins = np.searchsorted(edges, n_seen, side="right") - 1  # -1: never seen
for i, (name, hit) in enumerate(hits.items()):
    top5 = hit[:, :5].any(axis=1)
    shares = [top5[bins == b].mean() for b in range(edges.size)]
    axes.bar(np.arange(edges.size) + 0.27 * (i - 1), shares, 0.25)
    axes.text(0, 0.95 - 0.08 * i, name, color=f"C{i}")
axes.set(xlabel="Times the true token is in the training files", ylim=(0, 1))
axes.set_ylabel("Top-5 accuracy")
axes.set_xticks(np.arange(edges.size), labels, fontsize="small")
plt.show()

# %%
# Ten lines of a test file
# ------------------------
# The lines have eight tokens or more and come from the longest test file. Each is cut
# at a random place. Below it are the true token and the five best guesses, best first.

names, groups = tokens.target_names, tokens.groups[n:]
rows = np.flatnonzero(groups == np.bincount(groups).argmax())
lines = np.split(rows, np.flatnonzero(names[y_test[rows]] == "<NEWLINE>") + 1)
lines = [line for line in lines if line.size >= 8]
print(tokens.filenames[groups[rows[0]]])
layout = ("<INDENT>", "<DEDENT>")
rng = np.random.RandomState(0)
for i in np.sort(rng.choice(len(lines), 10, replace=False)):
    line = lines[i]
    cut = rng.randint(3, line.size)
    text = " ".join(t for t in names[y_test[line[:cut]]] if t not in layout)
    best = names[guesses["MACH"][line[cut], :5]]
    print(f"\n    {text} ...")
    print(f"    is {names[y_test[line[cut]]]:12} guesses  {'  '.join(best)}")

# %%
# When not to use MACH
# --------------------
# With a few hundred classes use one-vs-rest: it fits in memory, is about as accurate,
# and each class has weights that you can read.
