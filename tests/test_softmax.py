"""The built-in learner against float64 steps written from the formula.

All but two tests go through the estimator, with a step and an order of rows that the
reference is given too.
"""

import pickle
import threading
from contextlib import contextmanager

import numba
import numpy as np
import pytest
import reference
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.utils import check_random_state

from sklearn_mach import MACHClassifier, _int16, _softmax
from sklearn_mach._compat import njit
from sklearn_mach._progress import SilentTask
from sklearn_mach.datasets import make_many_classes

COMPILED = not numba.config.DISABLE_JIT
needs_compilation = pytest.mark.skipif(
    not COMPILED, reason="too slow at the sizes that show it"
)
SEED = 3
# float32 keeps 6e-8 of a number; some hundred steps of about one multiply that by far
# less than a thousand here.
TOLERANCE = dict(rtol=1e-4, atol=3e-5)


@njit
def exp_of(x):
    out = np.empty_like(x)
    for i in range(x.size):
        out[i] = _softmax._exp(x[i])
    return out


@njit
def largest_of(z):
    return _softmax._largest(z)


@njit
def add_product(w, g, k, dither):
    _int16.add_product(w, g, k, dither)


def problem(n=30, d=7, K=6, seed=0):
    """Rows with zeros, numbers of classes, weights, and a table of three columns."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.6)
    y = np.concatenate([np.arange(K), rng.integers(0, K, n - K)])
    weight = rng.uniform(0.2, 2, n)
    table = np.array([[0, 0, 1], [1, 0, 2], [2, 1, 0], [0, 1, 2], [1, 2, 0], [2, 2, 1]])
    return X, y, weight, table


def orders(n_epochs, rows):
    """The rows in the order of each epoch, which `random_state` alone decides."""
    seed = check_random_state(SEED).randint(np.iinfo(np.int32).max)
    return [np.random.default_rng([seed, e]).permutation(rows) for e in range(n_epochs)]


def learner(table, **parameters):
    defaults = dict(hashing=table, tol=None, random_state=SEED, learning_rate=0.3)
    return MACHClassifier(**(defaults | parameters))


def test_exp_has_a_small_relative_error():
    x = np.linspace(-87, 0, 400_000 if COMPILED else 20_000, dtype=np.float32)
    edges = np.arange(-125, 1) * np.log(2) + np.array([[-1e-6], [0], [1e-6]])
    x = np.append(x, edges[edges <= 0].astype(np.float32))
    assert_allclose(exp_of(x), np.exp(x.astype(np.float64)), rtol=1e-6)


def test_exp_of_very_negative_numbers_is_tiny_and_positive():
    x = np.array([-87.1, -100, -1e4, -3e38, -np.inf], np.float32)
    found = exp_of(x)
    assert (found > 0).all()
    assert (found < 2e-38).all()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 64, 100])
@pytest.mark.parametrize("shift", [-1000, 0, 1000])
def test_largest_is_the_maximum(n, shift):
    rng = np.random.default_rng(n)
    for scale in (1e-30, 1, 1e30):
        z = ((rng.standard_normal(n) + shift) * scale).astype(np.float32)
        assert largest_of(z) == z.max()


@pytest.mark.parametrize(
    "z", [[-0.0, 0.0], [0.0, -0.0], [-np.inf, -1], [np.inf, 1], [-np.inf], [-3, -2]]
)
def test_largest_of_special_numbers(z):
    assert largest_of(np.array(z, np.float32)) == max(z)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0, 0.05])
@pytest.mark.parametrize("weighted", [False, True])
def test_epochs_equal_the_reference(sparse, alpha, weighted):
    X, y, weight, table = problem()
    batch_size = 1 if sparse else 4
    model = learner(table, max_iter=3, alpha=alpha, batch_size=batch_size)
    if not weighted:
        weight = np.ones(len(y))
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight if weighted else None)
    weight = weight / weight.mean()
    W, b, n_iter = reference.sgd_fit(
        X,
        y,
        table,
        3,
        orders(3, np.arange(len(y))),
        0.3 * weight,
        weight,
        batch_size=batch_size,
        # The intercept's feature has the mean squared length of the rows.
        bias=reference.mean_length(X, weight),
        penalty=0.3 * alpha,
    )
    assert_allclose(model.coef_, W, **TOLERANCE)
    assert_allclose(model.intercept_, b, **TOLERANCE)
    assert model.n_iter_ == n_iter.max() == 3


@pytest.mark.parametrize("sparse", [False, True])
def test_one_partial_fit_takes_one_step_a_row(sparse):
    # Those of a feature and of the intercept fall with the square root of its visits.
    X, y, _, table = problem()
    X = X[(X != 0).any(axis=1)]
    X = np.tile(X, (4, 1))  # some hundred visits, or nothing would fall
    y = y[np.arange(len(X)) % 12]
    model = learner(table)
    W, b = np.zeros((3, 3, X.shape[1])), np.zeros((3, 3))
    visits = np.zeros(X.shape[1] + 1)
    for i in range(len(X)):
        row = X[i : i + 1]
        model.partial_fit(
            sp.csr_matrix(row) if sparse else row, y[i : i + 1], classes=np.arange(6)
        )
        reference.sgd_epoch(
            row,
            y[i : i + 1],
            table,
            W,
            b,
            np.array([0]),
            np.array([0.3]),
            (1, 1),
            bias=(X[: i + 1] ** 2).sum(axis=1).mean(),  # of the rows so far
            before=visits,
            visits_to_slow=1024,
        )
        visits += np.append(row[0] != 0, 1)
    assert_allclose(model.coef_, W, rtol=1e-3, atol=3e-4)  # many steps
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=3e-4)


@needs_compilation
@pytest.mark.parametrize("first", [20, 200, 2_000])
def test_blocks_are_learned_as_well_as_all_rows_together(first):
    X, y = make_many_classes(
        24_000, 3_000, 400, n_nonzeros=20, signal=0.2, random_state=0
    )
    n, n_passes = 20_000, 3
    # Without the logit adjustment, which rows set aside add to `fit` alone.
    parameters = dict(n_repetitions=8, n_buckets=32, random_state=0)
    whole = MACHClassifier(**parameters, max_iter=n_passes, logit_adjustment=0)
    whole.fit(X[:n], y[:n])
    model, start, stop = MACHClassifier(**parameters), 0, first
    for _ in range(n_passes):
        while start < n:
            rows = slice(start, stop)
            model.partial_fit(X[rows], y[rows], classes=np.arange(400))
            start, stop = stop, min(stop + 2_000, n)
        start, stop = 0, 2_000
    # Accuracies of 4,000 rows have a standard error of 0.008.
    assert model.score(X[n:], y[n:]) > whole.score(X[n:], y[n:]) - 0.01


def test_a_step_follows_the_gradient_of_the_loss():
    # One batch of all rows, so that the step is the gradient of the sum of their
    # losses, taken here by finite differences at weights that are not zero.
    X, y, weight, table = problem(n=20, d=4)
    weight /= weight.mean()
    weight = np.minimum(weight, 2)  # or the row would be visited twice
    model = learner(table, batch_size=20)
    model.partial_fit(X, y, classes=np.arange(6), sample_weight=weight)
    before = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    assert np.abs(before[0]).max() > 0.5
    model.partial_fit(X, y, sample_weight=weight)
    bias = np.average((X**2).sum(axis=1), weights=weight)
    visits = weight @ (X != 0)
    gain = 1 / np.sqrt(1 + visits / 1024)  # the steps fall with those of the first call
    bias /= np.sqrt(1 + weight.sum() / 1024)
    for place, factor in ((0, gain), (1, bias)):
        after = (model.coef_, model.intercept_)[place]
        found = (before[place] - after) / (0.3 * factor)
        expected = np.empty_like(found)
        for at in np.ndindex(found.shape):
            losses = []
            for shift in (1e-5, -1e-5):
                moved = [before[0].copy(), before[1].copy()]
                moved[place][at] += shift
                loss = reference.bucket_loss(X, y, table, *moved, weight)
                losses.append(loss.sum())
            expected[at] = (losses[0] - losses[1]) / 2e-5
        # float32 weights of about one: 1e-7 / 0.3, times the sums of twenty rows.
        assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "alpha, learning_rate", [(0, 0.3), (0.05, 0.3), (0.05, "auto")]
)
def test_dense_rows_one_by_one_equal_sparse_rows(alpha, learning_rate):
    X, y, weight, table = problem()
    model = learner(
        table, max_iter=3, alpha=alpha, batch_size=1, learning_rate=learning_rate
    )
    dense = model.fit(X, y, weight)
    coef, intercept = dense.coef_.copy(), dense.intercept_.copy()
    sparse = model.fit(sp.csr_matrix(X), y, weight)
    # "auto" steps are ten times larger, and so are the weights.
    tolerance = dict(rtol=1e-3, atol=1e-3)
    if learning_rate != "auto":
        tolerance = TOLERANCE
    assert_allclose(sparse.coef_, coef, **tolerance)
    assert_allclose(sparse.intercept_, intercept, **tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sparse", [False, True])
def test_float32_and_float64_rows_give_nearly_the_same_weights(sparse, dtype):
    X, y, _, table = problem()
    X = X.astype(np.float32).astype(dtype)  # the same numbers in both
    model = learner(table, max_iter=3, batch_size=4)
    model.fit(sp.csr_matrix(X) if sparse else X, y)
    W, b, _ = reference.sgd_fit(
        X.astype(np.float64),
        y,
        table,
        3,
        orders(3, np.arange(len(y))),
        np.full(len(y), 0.3),
        np.ones(len(y)),
        batch_size=1 if sparse else 4,
        bias=(X.astype(np.float64) ** 2).sum(axis=1).mean(),
    )
    assert_allclose(model.coef_, W, **TOLERANCE)
    assert_allclose(model.intercept_, b, **TOLERANCE)


def auto_fit(X, y, table, n_buckets, n_epochs, weight=None):
    """Weights and intercepts of the reference with the steps of "auto", factor 4."""
    weight = np.ones(len(y)) if weight is None else weight / weight.mean()
    step, options = reference.auto_steps(X, weight)
    rows = orders(n_epochs, reference.visited(np.arange(len(y)), weight))
    return reference.sgd_fit(X, y, table, n_buckets, rows, step, **options)[:2]


def feature_gains(X):
    weight = np.ones(X.shape[0], np.float32)
    return _softmax.feature_gains(*_softmax.feature_sums(X, weight), weight.sum())


def test_auto_steps_are_in_proportion_to_the_inverse_document_frequency():
    X, y, _, table = problem()
    X[(X == 0).all(axis=1), 0] = 1
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    model = learner(table, max_iter=3, learning_rate="auto")
    model.fit(sp.csr_matrix(X), y)
    W, b = auto_fit(X, y, table, 3, 3)
    # Steps of 4 amplify the rounding errors of float32 more than the 0.3 elsewhere.
    assert_allclose(model.coef_, W, rtol=1e-3, atol=1e-3)
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=1e-3)


def test_gains_are_in_proportion_to_the_idf_of_scikit_learn():
    X = sp.csr_matrix(problem()[0])
    gain = feature_gains(X)
    idf = TfidfTransformer().fit(X).idf_
    assert_allclose(gain / gain[0], idf / idf[0], rtol=1e-6)
    dense = feature_gains(X.toarray())
    assert_allclose(gain, dense, rtol=1e-6)


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
    lengths = _softmax.squared_lengths(rows, gain)
    assert_allclose(lengths, squares @ gain.astype(np.float64), rtol=1e-12)
    n_rows, sums = _softmax.feature_sums(rows, weight)
    weight = weight.astype(np.float64)
    assert_allclose(n_rows, weight @ (X != 0), rtol=1e-12)
    assert_allclose(sums, weight @ squares, rtol=1e-12)


@pytest.mark.parametrize("options", [{"learning_rate": 0.3}, {"alpha": 0.01}])
def test_a_given_step_and_a_penalty_are_the_same_for_all_features(options):
    X = sp.csr_matrix(problem()[0])
    options = MACHClassifier(**options).get_params(deep=False)
    settings, _ = _softmax.make_settings(X, None, None, options | {"max_iter": 2}, 0)
    assert (settings.gain == 1).all()
    assert not settings.past.any() and not settings.slow.any()


def test_auto_step_of_a_long_row_is_smaller():
    # A row three times as long as the others would overshoot nine times.
    X = np.zeros((8, 3))
    X[np.arange(8), np.arange(8) % 2] = 1
    X[7] = [0, 0, 3]
    y = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    model = MACHClassifier(tol=None, random_state=SEED, max_iter=1)
    model.fit(sp.csr_matrix(X), y)
    W, b = auto_fit(X, y, model.bucket_table_, 2, 1)
    assert_allclose(model.coef_, W, **TOLERANCE)
    assert_allclose(model.intercept_, b, **TOLERANCE)


# Rows of other weights and lengths ----------------------------------------------------


@pytest.fixture(scope="module")
def many_classes():
    """Rows to train on with their classes, and others."""
    X, y = make_many_classes(
        10_000, 1_000, 150, n_nonzeros=15, signal=0.4, random_state=0
    )
    return X[:6_000], y[:6_000], X[6_000:], y[6_000:]


def many_buckets(**parameters):
    defaults = dict(n_repetitions=8, n_buckets=16, max_iter=10, random_state=0)
    return MACHClassifier(**(defaults | parameters))


def pareto(n):
    """Weights of which the largest are some hundred times the mean."""
    return np.random.default_rng(0).pareto(1.1, n) + 0.01


def test_a_row_is_visited_once_for_every_two_of_its_weight_begun():
    X, y, _, _ = problem(n=200)
    weight = pareto(200)
    weight[[5, 50]] = 0
    options = many_buckets(learning_rate=0.1).get_params(deep=False)
    settings, _ = _softmax.make_settings(sp.csr_matrix(X), y, weight, options, 0)
    relative = weight / weight[weight > 0].mean()
    assert relative.max() > 10
    visits = np.bincount(settings.visited(settings.train), minlength=200)
    assert_array_equal(visits, np.ceil(relative / 2))
    assert_allclose(visits * settings.weight, relative, rtol=1e-6)
    assert_allclose(visits * settings.step, 0.1 * relative, rtol=1e-6)
    assert_allclose(settings.row_weight(np.arange(200)), relative, rtol=1e-6)


def bucket_loss(model, X, y, weight):
    """Weighted mean over rows and repetitions of -log P_r(h_r(y) | x)."""
    log_proba = model._bucket_scores(X, (True, 1))
    codes = model.bucket_table_[y].astype(int)[:, :, None]
    own = np.take_along_axis(log_proba, codes, axis=2)[:, :, 0]
    return -np.average(own.mean(axis=1), weights=weight)


@needs_compilation
@pytest.mark.parametrize("learning_rate", ["auto", 0.3])
def test_heavy_rows_are_learned_as_well_as_lighter_copies(many_classes, learning_rate):
    X, y, X_test, y_test = many_classes
    weight = pareto(len(y))
    n_copies = np.ceil(weight / weight.mean() / 2).astype(int)
    copied = np.repeat(np.arange(len(y)), n_copies)
    light = (weight / n_copies)[copied]
    heavy = many_buckets(learning_rate=learning_rate).fit(X, y, weight)
    if learning_rate != "auto":  # is the step of a row of mean weight
        learning_rate *= light.mean() / weight.mean()
    copies = many_buckets(learning_rate=learning_rate).fit(X[copied], y[copied], light)
    score = copies.score(X_test, y_test)
    assert abs(heavy.score(X_test, y_test) - score) < 0.01
    assert score > 0.65
    if learning_rate != "auto":  # the same steps in another order
        expected = bucket_loss(copies, X, y, weight)
        assert_allclose(bucket_loss(heavy, X, y, weight), expected, rtol=0.02)


@needs_compilation
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("parameters", [{}, {"early_stopping": True}])
def test_rows_of_weight_zero_might_as_well_be_left_out(
    many_classes, sparse, parameters
):
    X, y = many_classes[0][:1_500, :100], many_classes[1][:1_500] % 20
    weight = pareto(1_500)
    weight[::5] = 0
    X = X.copy() if sparse else X.toarray()
    kept = weight > 0
    model = many_buckets(max_iter="auto", tol=0.02, n_repetitions=2, **parameters)
    model.fit(X[kept], y[kept], weight[kept])
    n_iter, coef = model.n_iter_, model.coef_.copy()
    model.fit(X, y, weight)
    assert model.n_iter_ == n_iter
    # The sums over the rows are in another order: rounding errors, that grow.
    assert_allclose(model.coef_, coef, rtol=1e-2, atol=1e-2 * np.abs(coef).max())


@needs_compilation
@pytest.mark.parametrize("sparse", [False, True])
def test_one_row_a_million_times_longer_does_no_harm(many_classes, sparse):
    X, y, X_test, y_test = many_classes
    X, y = X[:2_500].copy(), y[:2_500]
    model = many_buckets().fit(X if sparse else X.toarray(), y)
    score = model.score(X_test, y_test)
    X.data[X.indptr[7] : X.indptr[8]] *= 1e6
    with pytest.warns(ConvergenceWarning) as warned:
        model.fit(X if sparse else X.toarray(), y)
    assert "row 7 is about 1e+06 times" in str(warned[0].message)
    assert model.score(X_test, y_test) > score - 0.01


def test_long_rows_beside_empty_ones_are_learned():
    X, y, _, table = problem()
    X[3], X[7] = 0, 100 * np.arange(1, 8)
    with pytest.warns(ConvergenceWarning, match="row 7 is about"):
        model = learner(table, learning_rate="auto", max_iter=2).fit(X, y)
    assert np.isfinite(model.coef_).all()


@needs_compilation
def test_classes_of_one_row_are_all_learned():
    # From 10,000 rows on some are set aside to fit the probabilities to.
    n = 10_000
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 2_000, (n, 20), dtype=np.int32)
    X = sp.csr_array(
        (np.ones(20 * n, np.float32), indices.ravel(), np.arange(0, 20 * n + 1, 20)),
        shape=(n, 2_000),
    )
    X.sum_duplicates()
    model = many_buckets(n_buckets=64, max_iter=10)
    assert (model.fit(X, np.arange(n)).predict(X) == np.arange(n)).all()


@pytest.mark.parametrize("seed", range(20))
def test_no_class_loses_its_last_row_to_those_set_aside(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, rng.integers(1, 60), rng.integers(1, 100))
    rows = np.flatnonzero(rng.random(y.size) < 0.9)
    n_held = int(rng.integers(1, 50))
    train, held = _softmax.set_aside(rows, y, n_held, seed)
    assert_array_equal(np.sort(np.append(train, held)), rows)
    assert set(y[train]) == set(y[rows])
    assert held.size == min(n_held, rows.size - len(set(y[rows])))


def test_early_stopping_without_rows_to_spare_is_refused():
    X, y = np.eye(6), np.arange(6)
    with pytest.raises(ValueError, match="whose class has other rows"):
        MACHClassifier(early_stopping=True).fit(X, y)


@needs_compilation
def test_an_automatic_number_of_epochs_makes_200_000_visits():
    for n_rows, n_epochs in ((1_000, 100), (3_999, 51), (39_999, 6), (40_000, 5)):
        X, y = sp.csr_array(np.ones((n_rows, 1))), np.arange(n_rows) % 2
        model = MACHClassifier(tol=None, learning_rate=0.1, random_state=0)
        assert model.fit(X, y).n_iter_ == n_epochs


def test_the_coherence_is_how_much_longer_a_batch_is_than_its_longest_row():
    ones, rows = np.ones(64), np.arange(64)
    gain = np.ones(64)
    assert_allclose(_softmax.coherence(np.eye(64), rows, ones, gain, 0, 16, 0), 1)
    equal = np.ones((64, 64))
    assert_allclose(_softmax.coherence(equal, rows, ones, gain, 0, 16, 0), 16)
    # A row that is visited often is in a batch more than once.
    often = np.repeat(rows, np.where(rows == 3, 10_000, 1))
    assert _softmax.coherence(np.eye(64), often, ones, gain, 0, 16, 0) > 12
    # Of all rows at once, by the singular values of the rows and their intercept.
    X = np.random.default_rng(0).random((64, 64))
    step, gain = np.random.default_rng(1).random((2, 64)) + 0.5
    whole = np.sqrt(step)[:, None] * np.column_stack(
        [X * np.sqrt(gain), np.sqrt(2) * ones]
    )
    expected = np.linalg.norm(whole, 2) ** 2 / (whole**2).sum(axis=1).max()
    found = _softmax.coherence(X, rows, step, gain, 2, 64, 0)
    assert_allclose(found, expected, rtol=1e-6)


def test_steps_of_a_batch_of_equal_dense_rows_are_divided_among_them():
    X, y = np.ones((512, 4)), np.arange(512) % 3
    options = MACHClassifier(batch_size=64, max_iter=1).get_params(deep=False)
    dense, sparse = (
        _softmax.make_settings(rows, y, None, options, 0)[0].step
        for rows in (X, sp.csr_array(X))
    )
    assert_allclose(64 * dense, sparse, rtol=1e-6)


def separable(n=36, seed=0):
    """Rows on which the repetitions reach their best loss at different epochs."""
    rng = np.random.default_rng(seed)
    X, y, weight, table = problem(n=n, seed=seed)
    X[np.arange(n), y % X.shape[1]] += 3 * (y % 3 == 0)
    return X + 0.1 * rng.standard_normal(X.shape), y, weight, table


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0, 0.02])
def test_a_repetition_that_no_longer_improves_keeps_its_weights(sparse, alpha):
    X, y, weight, table = separable()
    model = learner(
        table, max_iter=25, tol=0.03, n_iter_no_change=2, batch_size=3, alpha=alpha
    )
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight)
    weight /= weight.mean()
    W, b, n_iter = reference.sgd_fit(
        X,
        y,
        table,
        3,
        orders(25, np.arange(len(y))),
        0.3 * weight,
        weight,
        tol=0.03,
        n_iter_no_change=2,
        batch_size=1 if sparse else 3,
        bias=reference.mean_length(X, weight),
        penalty=0.3 * alpha,
    )
    assert np.unique(n_iter).size > 1  # or the test would say nothing
    assert n_iter.max() < 25
    assert model.n_iter_ == n_iter.max()
    # Twenty epochs of larger rows: ten times the tolerance of a few epochs.
    assert_allclose(model.coef_, W, rtol=1e-3, atol=3e-4)
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_early_stopping_watches_rows_set_aside(sparse):
    X, y, weight, table = separable()
    model = learner(
        table,
        max_iter=25,
        tol=0.02,
        n_iter_no_change=2,
        batch_size=1,
        early_stopping=True,
        validation_fraction=0.25,
    )
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight)
    weight /= weight.mean()
    seed = check_random_state(SEED).randint(np.iinfo(np.int32).max)
    shuffled = np.random.default_rng([seed]).permutation(np.arange(len(y)))
    validation, train = shuffled[:9], shuffled[9:]
    W, b, n_iter = reference.sgd_fit(
        X,
        y,
        table,
        3,
        orders(25, train),
        0.3 * weight,
        weight,
        tol=0.02,
        n_iter_no_change=2,
        validation=validation,
        bias=reference.mean_length(X, weight),
    )
    assert n_iter.max() < 25
    assert model.n_iter_ == n_iter.max()
    assert_allclose(model.coef_, W, rtol=1e-3, atol=3e-4)
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=3e-4)


def test_a_tolerance_no_epoch_meets_stops_after_n_iter_no_change():
    X, y, _, table = problem()
    model = learner(table, max_iter=20, tol=1e6, n_iter_no_change=3).fit(X, y)
    assert model.n_iter_ == 4  # the first epoch improves on nothing
    model.set_params(tol=None)
    assert model.fit(X, y).n_iter_ == 20


@pytest.mark.parametrize("zero", [True, False])
def test_columns_may_be_pickled_more_than_once(zero):
    W, b = np.arange(40, dtype=np.float32).reshape(5, 8), np.arange(8, dtype=np.float32)
    sent = _softmax.Columns(W * (not zero), b, 2, 6, zero, part=(1, 3))
    for _ in range(2):
        sent = pickle.loads(pickle.dumps(sent))
    weights, intercepts, lo = sent.arrays()
    assert_array_equal(weights, W[:, 2:6] * (not zero))
    assert_array_equal(intercepts, b[2:6])
    assert (lo, sent.part, sent.zero) == (0, (1, 3), zero)
    sent.check_halt()


def test_when_one_block_fails_no_other_goes_on_to_write():
    X, y, _, table = problem()
    X, y, table = sp.csr_matrix(X), y.astype(np.int32), table.astype(np.uint8)
    options = learner(table, max_iter=100_000).get_params(deep=False)
    settings, _ = _softmax.make_settings(X, y, None, options, 0)
    second_has_begun, running = threading.Event(), set()

    class Task(SilentTask):
        def __init__(self, first):
            self.first = int(first)

        @contextmanager
        def running(self):
            running.add(self.first)
            try:
                yield
            finally:
                running.remove(self.first)

        def begin_epoch(self):
            if self.first != 0:
                second_has_begun.set()
            elif second_has_begun.wait(60):
                raise ValueError("The first block fails.")

    W, b = np.zeros((7, 9), np.float32), np.zeros(9, np.float32)
    with pytest.raises(ValueError, match="The first block fails"):
        _softmax.train_all(X, y, table, W, b, 0, True, settings, 2, Task)
    assert not running
    assert second_has_begun.is_set()


@pytest.mark.parametrize("storage", ["float32", "16 bits", "dense"])
def test_a_pass_ends_where_another_thread_halts_it(storage):
    n_features, n_steps = 20_000, 100_000
    X = np.ones((1, n_features), np.float32)
    order, y = np.zeros(n_steps, np.int32), np.zeros(1, np.int32)
    table, weight = np.zeros((1, 1), np.uint8), np.ones(1, np.float32)
    step, gain, rate = np.zeros(1, np.float32), X[0].copy(), np.ones(1, np.float32)
    W, b = np.zeros((n_features, 16), np.float32), np.zeros(16, np.float32)
    decay, loss, halt = np.zeros(2), np.zeros(1), np.zeros(1, np.bool_)
    common = order, y, table, weight, step
    slowing = np.zeros((2, n_features + 1), np.float32)
    trained = rate, np.float32(1), 0, W, b, loss, halt
    halting = threading.Timer(0.05, lambda: halt.fill(True))
    halting.start()
    if storage == "float32":
        options = gain, *slowing, decay, 0.0
        _softmax._sgd_epoch_csr(sp.csr_matrix(X), *common, *options, *trained)
    elif storage == "16 bits":
        options = gain, *slowing, decay, gain
        _softmax._sgd_epoch_int16(sp.csr_matrix(X), *common, *options, *trained, 0)
    else:
        options = gain, *slowing, decay, 0.0
        _softmax._sgd_epoch_dense(X, None, None, 1, *common, *options, *trained)
    halting.join()
    assert loss < 0.9 * n_steps * np.log(16)  # what all steps would make


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_weight_zero_have_no_influence(sparse):
    X, y, weight, table = problem()
    weight[10:20] = 0
    other = X.copy()
    other[10:20] += 1
    relabelled = y.copy()
    relabelled[10:20] = (y[10:20] + 1) % 6
    model = learner(table, max_iter=3, batch_size=4, alpha=0.01)
    fitted = []
    for rows, labels in ((X, y), (other, relabelled)):
        model.fit(sp.csr_matrix(rows) if sparse else rows, labels, weight)
        fitted.append((model.coef_.copy(), model.intercept_.copy()))
    assert_array_equal(fitted[0][0], fitted[1][0])
    assert_array_equal(fitted[0][1], fitted[1][1])


@pytest.mark.parametrize("sparse", [False, True])
def test_weights_that_are_all_equal_change_nothing(sparse):
    X, y, _, table = problem()
    X = sp.csr_matrix(X) if sparse else X
    model = learner(table, max_iter=2, batch_size=4).fit(X, y)
    coef = model.coef_.copy()
    model.fit(X, y, sample_weight=np.full(len(y), 2.0))
    assert_array_equal(model.coef_, coef)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("scale", [2.0**10, 2.0**-10])
def test_scaling_the_rows_by_a_power_of_two_scales_the_weights_back(sparse, scale):
    # Powers of two round nothing, so that the logits are equal bit for bit.
    X, y, _, table = problem()
    model = learner(table, max_iter=2, batch_size=4, learning_rate="auto")
    fitted = []
    for factor in (1, scale):
        rows = X * factor
        model.fit(sp.csr_matrix(rows) if sparse else rows, y)
        fitted.append((model.coef_ * np.float32(factor), model.intercept_.copy()))
    if sparse:
        assert_array_equal(fitted[0][0], fitted[1][0])
        assert_array_equal(fitted[0][1], fitted[1][1])
    else:  # the step comes from an eigenvalue, exact to 1e-12, rounded to float32
        assert_allclose(fitted[0][0], fitted[1][0], rtol=1e-4, atol=1e-4)
        assert_allclose(fitted[0][1], fitted[1][1], rtol=1e-4, atol=1e-4)


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
    _softmax._logits_dense(*_softmax.read_only(X, W, b), out)
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


# Weights of 16 bits -----------------------------------------------------------------


@pytest.fixture
def sixteen_bits(monkeypatch):
    """However few the weights are, they have 16 bits while they are trained."""
    monkeypatch.setattr(_softmax, "_CACHED", 0)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("dither", [0, 1, 40_000, 65_535])
def test_products_are_shifted_with_their_carry_and_saturate(n, dither):
    rng = np.random.default_rng(n)
    for k in (-32768, -3, 0, 1, 1000, 32767):
        w, g = rng.integers(-32768, 32768, (2, n)).astype(np.int16)
        g[0], w[-1] = 0, 32767
        expected = [
            max(-32768, min(32767, int(a) + (int(c) * k + dither) // 65536))
            for a, c in zip(w, g, strict=True)
        ]
        add_product(w, g, np.int16(k), np.int32(dither))
        assert_array_equal(w, expected)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("slow_visits", [4096, 0.1])
def test_steps_of_16_bits_are_right_on_average(monkeypatch, negative, slow_visits):
    monkeypatch.setattr(_softmax, "_SLOW_VISITS", slow_visits)  # or all steps are equal
    # Every feature is in one row, so that its weights are those of one rounded step.
    n = 999  # no trial: both fits take the same steps
    X = sp.eye_array(n, format="csr") * (-1.0 if negative else 1.0)
    y = np.arange(n) % 3
    table = np.array([[0, 1], [1, 0], [2, 2]])
    model = learner(table, learning_rate="auto", max_iter=1)
    exact = model.fit(X, y).coef_.astype(np.float64)
    monkeypatch.setattr(_softmax, "_CACHED", 0)
    rounded = model.fit(X, y).coef_
    unit = 4 * 128 / 32768  # 128 steps of 4 are the range, and all gains are one
    off = (rounded - exact) / unit
    # The step is rounded to a fourth of a unit before it is multiplied with the
    # gradient, and that to 2^-14, by which a step of 256 units moves by 2^-7.
    assert np.abs(off).max() < 1 + 0.25 + 2.0**-7
    assert np.abs(off).max() > 0.9
    # An error has a standard deviation of at most 1/2.
    assert np.abs(off.mean(axis=2)).max() < 4 * 0.5 / n**0.5


@pytest.mark.parametrize("weighted", [False, True])
def test_weights_of_16_bits_are_near_the_reference(sixteen_bits, weighted):
    X, y, _, table = problem()
    X[(X == 0).all(axis=1), 0] = 1
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    model = learner(table, max_iter=3, learning_rate="auto")
    weight = pareto(30) if weighted else None
    model.fit(sp.csr_matrix(X), y, weight)
    W, b = auto_fit(X, y, table, 3, 3, weight)
    # 90 steps are rounded to at most 4 * 128 (90 / 16)^(1/4) / 32768 = .024 each, at
    # random; later steps make up for part of what earlier ones were off.
    assert_allclose(model.coef_, W, rtol=0, atol=0.024 * 90**0.5)
    assert_allclose(model.intercept_, b, rtol=0, atol=0.024 * 90**0.5)
    assert np.abs(model.coef_).max() > 5 * 0.024 * 90**0.5


def test_a_feature_of_few_rows_cannot_leave_16_bits():
    rng = np.random.default_rng(0)
    n_epochs = 4
    X = rng.random((500, 40), np.float32) * (rng.random((500, 40)) < 0.08)
    X = sp.csr_matrix(X)
    step = rng.uniform(0.5, 2, 500).astype(np.float32)
    gain = rng.uniform(0.5, 2, 40).astype(np.float32)
    n_rows = np.bincount(X.indices, minlength=40)
    unit = _softmax.units(X, step, gain, n_rows * n_epochs)
    assert (n_rows * n_epochs).max() <= 512
    total = np.abs(X).T @ step * gain * n_epochs / 2  # the steps fall to zero
    assert (total <= 32767 * unit).all()
    longest = (abs(X).toarray() * step[:, None]).max(axis=0) * gain
    assert (longest >= 32 * unit).all()  # and a step is many units long


def test_features_without_values_keep_weights_of_zero(sixteen_bits):
    X, y, _, table = problem()
    X[:, 2] = 0
    rows = sp.csr_matrix(X)
    rows.data[rows.indices == 4] = 0  # zeros that are stored
    model = learner(table, max_iter=2, learning_rate="auto").fit(rows, y)
    assert np.isfinite(model.coef_).all()
    zero = (model.coef_ == 0).all(axis=(0, 1))
    assert zero[[2, 4]].all()
    assert not zero[[0, 1, 3, 5, 6]].any()


def test_a_repetition_that_has_stopped_keeps_its_16_bits(sixteen_bits):
    X, y, _, table = problem()
    X, y, table = sp.csr_matrix(X), y.astype(np.int32), table.astype(np.uint8)
    options = learner(table, learning_rate="auto").get_params(deep=False)
    options["batch_size"] = 1
    options["max_iter"] = 3
    settings, _ = _softmax.make_settings(X, y, None, options, 0, n_columns=9)
    assert settings.unit is not None

    def weights(rate):
        W, b = np.zeros((7, 9), np.float32), np.zeros(9, np.float32)
        columns = _softmax.Columns(W, b, 0, 9, True)
        now = settings._replace(rate=np.array(rate, np.float32))
        _softmax.train(X, y, table, columns, now)
        _softmax.to_float(W, [np.arange(3)], 3, settings.unit)
        return W.reshape(7, 3, 3), b.reshape(3, 3)

    W, b = weights([1, 1, 1])
    stopped, stopped_b = weights([1, 0, 1])
    assert not stopped[:, 1].any() and not stopped_b[1].any()
    assert_array_equal(stopped[:, ::2], W[:, ::2])
    assert_array_equal(stopped_b[::2], b[::2])


def test_losses_of_16_bits_are_those_of_float32(sixteen_bits):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 6, 400).astype(np.int32)
    share = np.where(rng.random((6, 30)) < 0.3, 0.5, 0.1)  # of the rows of a class
    X = sp.csr_matrix((rng.random((400, 30)) < share[y]).astype(np.float32))
    options = MACHClassifier(max_iter=3).get_params(deep=False)
    settings, _ = _softmax.make_settings(X, y, None, options, 0, n_columns=1)
    assert settings.unit is not None
    factors = 2.0 ** np.arange(-2, 3)  # with 8, rounding errors grow
    settings = settings._replace(tol=None)
    table = np.arange(6, dtype=np.uint8)[:, None]
    losses = []
    for unit in (settings.unit, None):
        losses.append([])
        for factor in factors:
            W, b = np.zeros((30, 6), np.float32), np.zeros(6, np.float32)
            columns = _softmax.Columns(W, b, 0, 6, True)
            now = settings._replace(unit=unit).scaled(factor)
            losses[-1] += _softmax.train(X, y, table, columns, now)[2].tolist()
    # Steps are rounded by at most 1/256 of the longest, at random: losses hardly move.
    assert_allclose(losses[0], losses[1], rtol=0.005)
    assert np.ptp(losses[1]) > 0.2  # and the factors matter


@pytest.mark.parametrize(
    ("parameters", "fit"),
    [
        ({"learning_rate": 0.3}, {}),
        ({"alpha": 0.01}, {"sample_weight": np.arange(30) % 3 + 1.0}),
    ],
)
def test_steps_without_a_known_length_need_float32(parameters, fit, monkeypatch):
    X, y, _, table = problem()
    X = sp.csr_matrix(X)
    parameters = {"learning_rate": "auto", "max_iter": 2} | parameters
    model = learner(table, **parameters).fit(X, y, **fit)
    coef = model.coef_.copy()
    monkeypatch.setattr(_softmax, "_CACHED", 0)
    assert_array_equal(model.fit(X, y, **fit).coef_, coef)
