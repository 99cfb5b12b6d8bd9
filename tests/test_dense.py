"""The built-in learner on dense rows: metric, start, trial, threads."""

import threading

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from learners import learner, needs_compilation, orders, problem
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach import MACHClassifier, _dense, _steps, _trial
from sklearn_mach._targets import Targets
from sklearn_mach._tiles import pack_negative, packed_shape, subtract_product
from sklearn_mach.datasets import make_many_classes


def rows_and_weights(n=60, d=7, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3
    weight = rng.random(n) + 0.5
    weight[5] = 0
    return X.astype(np.float32), (weight / weight[weight > 0].mean()).astype("f")


def settings_of(X, y, weight=None, n_columns=9, **params):
    options = MACHClassifier(**params).get_params(deep=False)
    return _steps.make_settings(
        X, Targets.of(y), weight, options, 0, n_columns=n_columns
    )[0]


def record_starts(monkeypatch):
    """A list of the weights (R, B, d) and intercepts (R, B) that fits start from."""
    started, start = [], _dense.start_from_means

    def recorded(X, y, table, W, b, *args):
        start(X, y, table, W, b, *args)
        shape = table.shape[1], -1
        started.append((W.T.reshape(*shape, len(W)).copy(), b.reshape(shape).copy()))

    monkeypatch.setattr(_dense, "start_from_means", recorded)
    return started


def test_the_metric_is_the_inverse_root_of_the_covariance():
    X, weight = rows_and_weights()
    center, P = reference.dense_metric(X.astype(float), weight)
    metric = _dense.find_metric(X, weight, np.ones(len(X), "f"), 9, 0)
    assert_allclose(metric.center, center, rtol=1e-5)
    assert_allclose(metric.matrix, P, rtol=1e-4, atol=1e-5 * np.abs(P).max())
    assert_allclose(metric.apply(X), (X - center) @ P, rtol=1e-3, atol=1e-3)


@needs_compilation  # of nothing, but it takes long
def test_of_many_features_the_metric_evens_the_largest_variances():
    rng = np.random.default_rng(0)
    n, d = 2_000, 600
    X = rng.standard_normal((n, d)) * 3.0 ** -np.minimum(np.arange(d) / 16, 4)
    X = X.astype(np.float32)
    metric = _dense.find_metric(X, np.ones(n, "f"), np.ones(n, "f"), 10, 0)
    assert metric.matrix is None
    assert metric.directions.shape == (d, 64)
    centered = X - X.mean(axis=0)
    values, vectors = np.linalg.eigh(centered.T.astype(float) @ centered / n)
    ridge = values.mean() * d / (d + n)
    rest = values[:-64].mean()
    # The largest eigenvalues to the power -1/2, against the mean of the others.
    for k in (1, 8, 32):
        direction = vectors[:, -k].astype(np.float32)
        expected = np.sqrt((rest + ridge) / (values[-k] + ridge))
        found = direction @ metric.multiply(direction[None])[0]
        assert_allclose(found, expected, rtol=0.02)  # randomised, two iterations


def test_rows_that_are_all_equal_have_no_metric():
    ones = np.ones(20, "f")
    assert _dense.find_metric(np.ones((20, 3)), ones, ones, 9, 0) is None


@pytest.mark.parametrize("large", [False, True])
def test_rows_are_moved_as_the_metric_says(monkeypatch, large):
    if large:
        monkeypatch.setattr(_dense, "_MOVED_BYTES", 100)
    X, weight = rows_and_weights()
    center, P = reference.dense_metric(X.astype(float), weight)
    metric = _dense.Metric(center.astype("f"), P.astype("f"))
    lengths, moved = _dense.move(X, metric)
    expected = np.einsum("ij,jk,ik->i", X - center, P, X - center)
    assert_allclose(lengths, expected, rtol=1e-4)
    assert (moved is None) == large
    if not large:
        assert_allclose(moved, metric.apply(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_of_dense_rows_are_those_in_the_metric(monkeypatch, moved, weighted):
    if not moved:
        monkeypatch.setattr(_dense, "_MOVED_BYTES", 0)
    started = record_starts(monkeypatch)
    X, y, weight, table = problem()
    if not weighted:
        weight = np.ones(len(y))
    weight = weight / weight[weight > 0].mean()
    model = learner(table, max_iter=2, learning_rate="auto", batch_size=1)
    model.fit(X, y, weight if weighted else None)
    step, options = reference.dense_steps(X, weight)
    rows = orders(2, reference.visited(np.arange(len(y)), weight))
    start = started[0]
    W, b, _ = reference.sgd_fit(X, y, table, 3, rows, step, start=start, **options)
    # Steps of 4 amplify the rounding errors of float32.
    assert_allclose(model.coef_, W, rtol=1e-3, atol=1e-3)
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=1e-3)


def test_the_start_has_the_least_loss_of_rows_left_out_of_their_means():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 8, 60).astype(np.int32)
    X = rng.standard_normal((8, 5))[y] + 0.7 * rng.standard_normal((60, 5))
    weight = rng.random(60) + 0.5
    weight /= weight.mean()
    table = np.column_stack([np.arange(8), np.arange(8) % 4, np.arange(8) // 2])
    table = np.pad(table, ((0, 0), (0, 0))).astype(np.uint8)
    settings = settings_of(X, y, weight)
    W, b = np.zeros((5, 24), np.float32), np.zeros(24, np.float32)
    _dense.start_from_means(X, y, table, W, b, 0, settings, 2)
    metric = reference.dense_metric(X, weight)
    for r in range(3):
        codes, own = table[y, r], slice(8 * r, 8 * r + 8)
        least, best = np.inf, None
        for shrinkage in (0.5, 1, 3, 10, 30):
            for scale in np.geomspace(0.01, 100, 40):
                given = X, codes, 8, weight, metric, shrinkage, scale
                loss, *_ = reference.start_loss(*given)
                if loss < least:
                    least, best = loss, given
        # The scale that was found: W is that times what a scale of one gives.
        ratios = []
        for shrinkage in (0.5, 1, 3, 10, 30):
            _, V, _ = reference.start_loss(*best[:5], shrinkage, 1.0)
            used = np.bincount(codes, minlength=8) > 0
            scale = (W[:, own].T[used] * V[used]).sum() / (V[used] ** 2).sum()
            error = np.abs(W[:, own].T - scale * V).max()
            ratios.append((error, shrinkage, scale))
        error, shrinkage, scale = min(ratios)
        assert error < 1e-3 * np.abs(W[:, own]).max()
        found, _, c = reference.start_loss(*best[:5], shrinkage, scale)
        assert found < least + 0.01  # of about 1: the search ends within a tenth
        assert_allclose(b[own], c, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("two_blas_threads")
@needs_compilation
@pytest.mark.parametrize("alpha", [0, 0.01])
def test_dense_fits_do_not_depend_on_the_threads(alpha):
    X, y = make_many_classes(3_000, 40, 700, dense=True, noise=0.5, random_state=0)
    fitted = []
    for n_jobs in (1, 2, 3):
        model = MACHClassifier(max_iter=2, alpha=alpha, n_jobs=n_jobs, random_state=0)
        model.fit(X, y)
        assert (model.n_repetitions_, model.n_buckets_) == (1, 700)
        fitted.append((model.coef_, model.intercept_, model._fitted.memory.factor))
    for other in fitted[1:]:
        for one, another in zip(fitted[0], other, strict=True):
            assert_array_equal(one, another)


@needs_compilation
def test_clusters_are_found_as_well_as_their_centres_allow():
    X, y, centers = make_many_classes(
        12_000, 64, 1_500, dense=True, noise=0.8, class_exponent=0, random_state=0,
        return_centers=True,
    )  # fmt: skip
    best = (X[9_000:] @ centers.T).argmax(axis=1) == y[9_000:]
    model = MACHClassifier(random_state=0).fit(X[:9_000], y[:9_000])
    # Six rows a class do not quite show its centre; of 3,000 the error is 0.007.
    assert model.score(X[9_000:], y[9_000:]) > best.mean() - 0.05
    assert best.mean() > 0.8


@needs_compilation
def test_epochs_and_factor_of_dense_rows_come_from_a_trial():
    X, y = make_many_classes(3_000, 20, 40, dense=True, random_state=0)
    model = MACHClassifier(random_state=0).fit(X, y)
    assert model.n_iter_ in (1, 2, 4, 8, 16, 32, 64)
    assert 0.25 <= model._fitted.memory.factor <= 32
    assert model.set_params(max_iter=3, tol=None).fit(X, y).n_iter_ == 3
    column = np.arange(40)
    few = settings_of(X[:999], y[:999].astype(np.int32), n_columns=40)
    sizes = column, 40, few
    assert _trial.probe_dense(X[:999], Targets.of(y[:999]), *sizes) == (None, None)


@needs_compilation
def test_the_trial_finds_steps_and_epochs_nearly_as_good_as_any(monkeypatch):
    # 30 rows a class with much noise, so that long training learns them by heart.
    X, y = make_many_classes(
        9_000, 32, 200, dense=True, class_exponent=0, random_state=0
    )
    half = slice(0, 6_000), slice(6_000, None)
    X, X_test, y, y_test = X[half[0]], X[half[1]], y[half[0]], y[half[1]]
    accuracies = {}
    found = MACHClassifier(random_state=0).fit(X, y).score(X_test, y_test)
    for factor in (0.25, 4.0, 32.0):
        for n_epochs in (1, 32):
            fixed = factor, n_epochs
            monkeypatch.setattr(_trial, "probe_dense", lambda *_, f=fixed: f)
            model = MACHClassifier(random_state=0).fit(X, y)
            accuracies[fixed] = model.score(X_test, y_test)
    # The standard error of 3,000 rows is 0.009; and the choices do matter.
    assert found > max(accuracies.values()) - 0.02, (found, accuracies)
    assert min(accuracies.values()) < found - 0.04


@pytest.mark.parametrize("share", [0.001, 0.5, 1.0])
def test_a_trial_of_many_buckets_takes_all_classes_of_some(share):
    column = np.random.default_rng(0).permutation(3_000) % 1_000
    numbers, n_buckets, chosen = _trial._some_buckets(
        column, 1_000, share, np.random.default_rng(1)
    )
    assert n_buckets == max(1_000 * share, 64)
    assert_array_equal(np.unique(numbers[chosen]), np.arange(n_buckets))
    assert (numbers[~chosen] == -1).all()
    # Classes share a new bucket if and only if they shared an old one.
    pairs = np.unique(np.column_stack([column, numbers])[chosen], axis=0)
    assert len(pairs) == n_buckets
    assert chosen.sum() == 3 * n_buckets


@pytest.mark.parametrize("m, d, n", [(1, 1, 1), (5, 9, 50), (33, 17, 97), (2, 8, 500)])
def test_a_product_is_subtracted_in_tiles(m, d, n):
    rng = np.random.default_rng(0)  # small integers, whose sums are exact
    A, B, C = (
        rng.integers(-9, 10, shape).astype(np.float32)
        for shape in ((m, d), (m, n + 7), (d, n + 10))
    )
    packed = np.zeros(packed_shape(m + 3, d), np.float32)  # room for more rows
    half = len(packed) // 2
    for start, stop in ((0, half), (half, len(packed))):
        pack_negative(A, packed, start, stop)
    expected = C.copy()
    expected[:, 5 : n + 5] -= A.T @ B[:, 2 : n + 2]
    for start, stop in ((2, 2 + n // 2), (2 + n // 2, n + 2)):
        subtract_product(packed, B, C, 3, start, stop)
    assert_array_equal(C, expected)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_a_team_calls_every_part_once_and_raises_what_was_raised(n_threads):
    with _dense.team(n_threads) as members:
        for n_parts in (0, 1, 2, 7):
            done, lock = [], threading.Lock()

            def call(part, done=done, lock=lock):
                with lock:
                    done.append(part)

            members.run(call, list(range(n_parts)))
            assert sorted(done) == list(range(n_parts))

        def fail(part):
            if part == 4:
                raise ValueError("part 4")

        with pytest.raises(ValueError, match="part 4"):
            members.run(fail, list(range(7)))
        members.run(call, [1])  # and goes on


@needs_compilation
def test_dense_rows_of_zeros_and_ones_are_learned_as_sparse_ones():
    X, y = make_many_classes(2_000, 300, 50, n_nonzeros=8, signal=0.6, random_state=0)
    half = X.shape[0] // 2
    scores = []
    for rows in (X, X.toarray()):
        model = MACHClassifier(random_state=0, max_iter=10).fit(rows[:half], y[:half])
        scores.append(model.score(rows[half:], y[half:]))
    assert scores[1] > scores[0] - 0.03  # errors of 0.015
    assert sp.issparse(X)
