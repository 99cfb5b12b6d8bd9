"""
=========================================
Decoders on peaked and on flat posteriors
=========================================

A class has a probability in each of its R buckets. Four decoders merge them: the mean
of the logarithms, the mean (the paper's), the minimum and the median. Which is best
depends on the rows, and on whether the bucket probabilities are exact or learned.
"""

# %%
# Exact probabilities
# -------------------
# First there is no learning. Rows have random probabilities of K = 1,000 classes, from
# nearly uniform to peaked: drawn from Dirichlet distributions. The probability of a
# bucket is the sum of those of its classes. A decoder is right when the class that it
# finds best is the most probable one.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.displays import ReliabilityDisplay

DECODERS = {
    "log_mean": lambda p: np.log(p).mean(axis=1),
    "mean": lambda p: p.mean(axis=1),
    "min": lambda p: p.min(axis=1),
    "median": lambda p: np.median(p, axis=1),
}
rng = np.random.default_rng(0)
n, K, R, B = 500, 1000, 16, 32
table = np.stack([rng.permutation(K) % B for _ in range(R)])  # (R, K)
in_bucket = (table[:, None] == np.arange(B)[:, None]).astype(float)  # (R, B, K)

concentrations = np.logspace(-2.5, 0.5, 7)
exact = {name: [] for name in DECODERS}
largest = []
for concentration in concentrations:
    p = rng.dirichlet(np.full(K, concentration), size=n) + 1e-12
    buckets = np.einsum("rbk,nk->nrb", in_bucket, p, optimize=True)
    of_class = buckets[:, np.arange(R)[:, None], table]  # (n, R, K)
    largest.append(p.max(axis=1).mean())
    for name, merge in DECODERS.items():
        right = merge(of_class).argmax(axis=1) == p.argmax(axis=1)
        exact[name].append(right.mean())

# %%
# Learned probabilities
# ---------------------
# Now the buckets are learned: the next token of Python source, of the standard library.
# The decoder is no part of the training, so one fitted model serves all. Test rows are
# grouped by the probability that the model gives to its best class.

tokens = load_python_tokens(n_files=40)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
some = rng.choice(X_test.shape[0], 4000, replace=False)
X_test, y_test = X_test[some], tokens.target_test[some]
model = MACHClassifier(n_repetitions=R, n_buckets=B, random_state=0)
model.fit(X_train, tokens.target_train)
print(f"{X_train.shape[0]:,} rows, {model.classes_.size:,} classes")

confidence = model.predict_proba(X_test).max(axis=1)
group = np.digitize(confidence, np.quantile(confidence, np.arange(1, 5) / 5))
learned = {}
print(f"{'':10}top-1  top-5")
for name in DECODERS:
    hits = model.set_params(decoder=name).predict_topk(X_test) == y_test[:, None]
    learned[name] = [hits[group == g].any(axis=1).mean() for g in range(5)]
    print(f"{name:10}{hits[:, 0].mean():.3f}  {hits.any(axis=1).mean():.3f}")

# %%
# Both side by side
# -----------------
# With exact probabilities all are right when one class has most of the probability. The
# minimum is the best on peaked rows, where one bucket without a rival is enough, and
# the worst on flat ones, where it looks at the luckiest bucket only.
#
# With learned probabilities the best class is nearly the same for all, and the next
# ones are not. By the mean, a class that shares a bucket or two with a sure winner
# comes second; by the others it must be plausible in most or all of its buckets.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
centres = [confidence[group == g].mean() for g in range(5)]
for name in DECODERS:
    left.plot(largest, exact[name], "o-", label=name)
    right.plot(centres, learned[name], "o-", label=name)
left.set_xscale("log")
left.set(title="Exact bucket probabilities", ylabel="Best class found")
left.set_xlabel("Probability of the most probable class")
right.set(title="Learned: next tokens", ylabel="Top-5 accuracy")
right.set_xlabel("Probability of the best class, by the model")
left.legend(frameon=False)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
plt.show()

# %%
# Can the probabilities be believed?
# ----------------------------------
# Those of the logarithms are fitted to rows set aside in ``fit``, and lie nearest to
# the diagonal. The others are for ranking: mostly their best class is right more often
# than its probability says. All those of the mean are in the first bin.

figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
for name in DECODERS:
    model.set_params(decoder=name)
    ReliabilityDisplay.from_estimator(
        model, X_test, y_test, n_bins=8, name=name, ax=axes
    )
plt.show()

# %%
# When not to look for another decoder
# ------------------------------------
# If only the best class counts, all four are near each other. The mean is the one with
# a theorem: for buckets with exact probabilities it estimates those of the classes
# without bias. Otherwise keep the default.
