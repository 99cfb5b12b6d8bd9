"""What the learner asks of rows, sparse or dense."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach._rows import rows_of, stack
from sklearn_mach._targets import Targets


@pytest.mark.parametrize("sparse", [False, True])
def test_sums_of_squares_equal_those_of_the_whole_matrix(sparse):
    rng = np.random.default_rng(0)  # more rows than are squared at a time
    X = rng.standard_normal((70_000 if sparse else 1_500, 5)).astype(np.float32)
    X[rng.random(X.shape) < 0.6] = 0
    weight = rng.random(len(X)).astype(np.float32)
    gain = rng.random(5).astype(np.float32)
    rows = X
    if sparse:  # with one zero that is stored, which is no value
        rows = sp.csr_matrix(X)
        rows.data[0] = 0
        X = rows.toarray()
    squares = X.astype(np.float64) ** 2
    lengths = rows_of(rows).squared_lengths(gain)
    assert_allclose(lengths, squares @ gain.astype(np.float64), rtol=1e-12)
    n_rows, sums = rows_of(rows).feature_sums(weight)
    weight = weight.astype(np.float64)
    assert_allclose(n_rows, weight @ (X != 0), rtol=1e-12)
    assert_allclose(sums, weight @ squares, rtol=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_squares_may_have_weights_of_their_own(sparse):
    X = np.array([[1, 0, 2], [0, 3, -1.0]])
    rows = rows_of(sp.csr_array(X) if sparse else X)
    n_rows, sums = rows.feature_sums(np.array([1, 10.0]), np.array([2, 5.0]))
    assert_allclose(n_rows, [1, 10, 11])
    assert_allclose(sums, [2, 45, 13])
    assert rows.n_values == (4 if sparse else 6)


@pytest.mark.parametrize(("most", "n_rows"), [(100, 50), (3, 12), (0, 10)])
def test_a_sample_has_so_few_rows_that_their_features_fit(most, n_rows):
    X = np.zeros((60, 100))
    X[np.arange(60), 40 + np.arange(60) // 4 % 20] = np.arange(1, 61)
    order = np.arange(50)
    part, rows, features, numbers = rows_of(sp.csr_array(X)).sample(order, most, 10)
    assert_array_equal(rows, order[:n_rows])
    assert_array_equal(features, np.flatnonzero(X[rows].any(axis=0)))
    assert_array_equal(part.toarray()[numbers], X[rows][:, features])


def test_a_sample_of_dense_rows_is_all_of_them():
    X, order = np.random.default_rng(0).random((20, 3)), np.arange(5, 15)
    part, rows, features, numbers = rows_of(X).sample(order, 1, 1)
    assert part is X
    assert_array_equal(X[rows], X)
    assert_array_equal(features, [0, 1, 2])
    assert_array_equal(part[numbers], X[order])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_blocks_of_either_kind_are_stacked(dtype):
    X = np.arange(12).reshape(4, 3).astype(dtype)
    parts = X[:1], X[1:]
    y, weight = np.arange(4), np.arange(4.0)
    kinds = [np.asarray, np.asarray]
    for sparse in ([], [1], [0, 1]):
        if dtype == np.float16 and 0 in sparse:
            continue  # SciPy has none
        for k in sparse:
            kinds[k] = lambda x: sp.csr_array(x.astype(np.float32))
        blocks = [
            (kind(x), Targets.of(y[rows]), weight[rows])
            for kind, x, rows in zip(
                kinds, parts, (slice(0, 1), slice(1, 4)), strict=True
            )
        ]
        stacked, targets, weights = stack(blocks)
        assert sp.issparse(stacked) == bool(sparse)
        assert_array_equal(stacked.toarray() if sparse else stacked, X)
        assert_array_equal(targets.starts, np.arange(5))
        assert_array_equal(targets.classes, y)
        assert_array_equal(weights, weight)


def test_rows_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="coo"):
        rows_of(sp.coo_array(np.eye(3)))
