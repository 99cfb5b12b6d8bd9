"""
=========================================
Decoders on peaked and on flat posteriors
=========================================

Which of the four decoders should you use? A class has a probability in each of its R
buckets, and a decoder merges them: by the mean of the logarithms (the default), the
mean (the paper's), the minimum or the median. The best one depends on the samples, and
on whether the bucket probabilities are exact or learned.
"""

# %%
# Exact probabilities
# -------------------
# First there is no learning. Draw the probabilities of K = 1,000 classes from Dirichlet
# distributions, from nearly uniform to peaked. The probability of a bucket is the sum
# over its classes. A decoder is right when its best class is the most probable one.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens
from sklearn_mach.displays import ReliabilityDisplay

plt.style.use("sklearn_mach.mach")
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

figure, axes = plt.subplots()
for name in DECODERS:
    axes.plot(largest, exact[name], "o-", label=name)
axes.set(xscale="log", xlabel="Probability of the most probable class")
axes.set(ylabel="Best class found", title="Exact bucket probabilities")
axes.legend()
plt.show()

# %%
# On flat posteriors the mean of the logarithms and the mean find the best class most
# often. On peaked ones it is the minimum: one bucket without a probable class rules
# out all classes in it.
#
# Learned probabilities
# ---------------------
# Now the model learns the buckets, for the next token of Python source. The decoder has
# no part in the training, so one fitted model serves all four. At most 3,000 samples
# come from one file, so that no file decides the result. The test samples are in five
# groups of equal size, by the probability of the best class.

tokens = load_python_tokens(n_files=120, max_rows_per_file=3000)
X_train, X_test = normalize(tokens.data_train), normalize(tokens.data_test)
some = rng.choice(X_test.shape[0], 4000, replace=False)
X_test, y_test = X_test[some], tokens.target_test[some]
model = MACHClassifier(n_repetitions=R, n_buckets=B, n_jobs=2, random_state=0)
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

figure, axes = plt.subplots()
centres = [confidence[group == g].mean() for g in range(5)]
for name in DECODERS:
    axes.plot(centres, learned[name], "o-", label=name)
axes.set(xlabel="Probability of the best class, by the model")
axes.set(ylabel="Top-5 accuracy", title="Learned bucket probabilities")
axes.legend()
plt.show()

# %%
# With learned probabilities the best class is nearly the same for all four, and the
# next ones are not. By the mean, a class that shares a bucket or two with a sure winner
# comes second. By the others it must be plausible in most or all of its buckets. So
# keep the default, unless you need the one decoder with a theorem: from exact bucket
# probabilities the mean estimates the probabilities of the classes without bias.
#
# Can you believe the probabilities?
# ----------------------------------
# The default lies nearest to the diagonal, because ``fit`` sets samples aside and fits
# its probabilities to them. The scores of the other decoders are for ranking: mostly
# the best class is right more often than its score says. All scores of the mean are in
# the first bin.

figure, axes = plt.subplots(figsize=(6, 5))
for name in DECODERS:
    model.set_params(decoder=name)
    ReliabilityDisplay.from_estimator(
        model, X_test, y_test, n_bins=8, name=name, ax=axes
    )
plt.show()
