"""Bucket probabilities, and logits that do not depend on the batch."""

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from learners import COMPILED, learner, problem
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach import _logits


@pytest.mark.parametrize("sparse", [False, True])
def test_bucket_probabilities_of_the_weights(sparse):
    # Decoded by an injective table, so that a class is a bucket.
    X, y, _, _ = problem()
    table = np.column_stack([np.arange(6), np.arange(6)[::-1]])
    rows = sp.csr_matrix(X) if sparse else X
    model = learner(table, max_iter=3).fit(rows, y)
    W, b = model.coef_.astype(float), model.intercept_.astype(float)
    expected = reference.bucket_log_proba(X, W, b)  # (n, R, B)
    expected = (expected[:, 0, table[:, 0]] + expected[:, 1, table[:, 1]]) / 2
    # Logits of some tens in float32.
    assert_allclose(model.decision_function(rows), expected, rtol=1e-5, atol=1e-5)


def logits(X, W, b):
    out = np.full((len(X), b.size), np.nan, np.float32)
    _logits._logits_dense(*_logits.read_only(X, W, b), out)
    return out


# Rows, features and columns: less than a tile, whole tiles, and across their edges and
# those of the blocks of 240 rows, 128 features and 480 columns.
SHAPES = [(70, 5, 7), (70, 3, 48)]
if COMPILED:
    SHAPES += [(70, 130, 97), (250, 128, 485), (487, 300, 1000)]


@pytest.mark.parametrize(("n", "d", "n_columns"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_logits_do_not_depend_on_the_batch(n, d, n_columns, dtype):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)).astype(dtype)
    W = rng.standard_normal((d, n_columns), np.float32)
    b = rng.standard_normal(n_columns, np.float32)
    together = logits(X, W, b)
    for size in range(1, 71):
        if COMPILED or size % 8 < 5:
            rows = rng.permutation(n)[:size]
            assert_array_equal(logits(X[rows], W, b), together[rows])
    for rows in (slice(1, None), slice(5, None), slice(None, None, -1)):
        assert_array_equal(logits(X[rows], W, b), together[rows])
    columns = slice(3, 6)
    part = logits(X, W[:, columns], b[columns])
    assert_array_equal(part, together[:, columns])


@pytest.mark.parametrize(("n", "d", "n_columns"), SHAPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_dense_logits_are_the_product_and_the_intercepts(n, d, n_columns, order):
    rng = np.random.default_rng(0)  # integers, whose sums are exact
    X = rng.integers(-9, 10, (n, d)).astype(np.float32, order=order)
    W = rng.integers(-9, 10, (d, n_columns)).astype(np.float32)
    b = rng.integers(-99, 100, n_columns).astype(np.float32)
    expected = X.astype(int) @ W.astype(int) + b.astype(int)
    for size in (1, 2, 3, 4, 7, 8, 9, 31, n):
        assert_array_equal(logits(X[:size], W, b), expected[:size])
