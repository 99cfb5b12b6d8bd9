"""A problem of several labels a row, for several files."""

import numpy as np
import scipy.sparse as sp
from scipy.special import expit

SIZES = dict(n_repetitions=4, n_buckets=4, random_state=0)


def planted(n=300, d=10, K=9, *, seed=0, sparse=True, shift=-1.0):
    """Rows of unit length, labels drawn from logistic models, and P(label | x)."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.7)
    X[~X.any(axis=1), 0] = 1
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    P = expit(4 * X @ rng.standard_normal((d, K)) + shift * (1 + np.arange(K) / K))
    Y = (rng.random((n, K)) < P).astype(int)
    return (sp.csr_matrix(X) if sparse else X), Y, P
