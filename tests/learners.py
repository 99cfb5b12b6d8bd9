"""A small problem, its learner, and the reference's fit, for several files."""

import numba
import numpy as np
import pytest
import reference
from sklearn.utils import check_random_state

from sklearn_mach import MACHClassifier

COMPILED = not numba.config.DISABLE_JIT
needs_compilation = pytest.mark.skipif(
    not COMPILED, reason="too slow at the sizes that show it"
)
SEED = 3
# float32 keeps 6e-8 of a number; some hundred steps of about one multiply that by far
# less than a thousand here.
TOLERANCE = dict(rtol=1e-4, atol=3e-5)


def problem(n=30, d=7, K=6, seed=0):
    """Rows with zeros, numbers of classes, weights, and a table of three columns."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.6)
    y = np.concatenate([np.arange(K), rng.integers(0, K, n - K)])
    weight = rng.uniform(0.2, 2, n)
    table = np.array([[0, 0, 1], [1, 0, 2], [2, 1, 0], [0, 1, 2], [1, 2, 0], [2, 2, 1]])
    return X, y, weight, table


def order_seed():
    """The seed of the order, which `random_state` alone decides."""
    return check_random_state(SEED).randint(np.iinfo(np.int32).max)


def orders(n_epochs, rows):
    """The rows in the order of each epoch."""
    seed = order_seed()
    return [np.random.default_rng([seed, e]).permutation(rows) for e in range(n_epochs)]


def learner(table, **parameters):
    defaults = dict(hashing=table, tol=None, random_state=SEED, learning_rate=0.3)
    return MACHClassifier(**(defaults | parameters))


def auto_fit(X, y, table, n_buckets, n_epochs, weight=None, power=1, **options):
    """Weights and intercepts of the reference with the steps of "auto", factor 4."""
    weight = np.ones(len(y)) if weight is None else weight / weight.mean()
    step, given = reference.auto_steps(X, weight, power=power)
    rows = orders(n_epochs, reference.visited(np.arange(len(y)), weight))
    given |= options
    return reference.sgd_fit(X, y, table, n_buckets, rows, step, **given)[:2]


def pareto(n):
    """Weights of which the largest are some hundred times the mean."""
    return np.random.default_rng(0).pareto(1.1, n) + 0.01
