"""Steps, gains, visits by weight, rows set aside."""

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from learners import (
    SEED,
    TOLERANCE,
    auto_fit,
    learner,
    needs_compilation,
    pareto,
    problem,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer

from sklearn_mach import MACHClassifier, _gains, _steps
from sklearn_mach._rows import rows_of
from sklearn_mach._targets import Targets
from sklearn_mach.datasets import make_many_classes


def feature_gains(X):
    weight = np.ones(X.shape[0], np.float32)
    return _gains.feature_gains(*rows_of(X).feature_sums(weight), weight.sum())


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


@pytest.mark.parametrize("options", [{"learning_rate": 0.3}, {"alpha": 0.01}])
def test_a_given_step_and_a_penalty_are_the_same_for_all_features(options):
    X, y, _, _ = problem()
    X, targets = sp.csr_matrix(X), Targets.of(y)
    options = MACHClassifier(**options).get_params(deep=False)
    settings, _ = _steps.make_settings(X, targets, None, options | {"max_iter": 2}, 0)
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


@pytest.mark.parametrize("sparse", [False, True])
def test_weights_that_are_all_equal_change_nothing(sparse):
    X, y, _, table = problem()
    X = sp.csr_matrix(X) if sparse else X
    model = learner(table, max_iter=2, batch_size=4).fit(X, y)
    coef = model.coef_.copy()
    model.fit(X, y, sample_weight=np.full(len(y), 2.0))
    assert_array_equal(model.coef_, coef)


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


def test_a_row_is_visited_once_for_every_two_of_its_weight_begun():
    X, y, _, _ = problem(n=200)
    weight = pareto(200)
    weight[[5, 50]] = 0
    options = many_buckets(learning_rate=0.1).get_params(deep=False)
    rows = sp.csr_matrix(X), Targets.of(y), weight
    settings, _ = _steps.make_settings(*rows, options, 0)
    relative = weight / weight[weight > 0].mean()
    assert relative.max() > 10
    visits = np.bincount(settings.visited(settings.train), minlength=200)
    assert_array_equal(visits, np.ceil(relative / 2))
    assert_allclose(visits * settings.weight, relative, rtol=1e-6)
    assert_allclose(visits * settings.step, 0.1 * relative, rtol=1e-6)
    assert_allclose(settings.row_weight(np.arange(200)), relative, rtol=1e-6)


def bucket_loss(model, X, y, weight):
    """Weighted mean over rows and repetitions of -log P_r(h_r(y) | x)."""
    log_proba = model._fitted.model.scorer.bucket_scores(X, True, 1)
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
    train, held = _steps.set_aside(rows, Targets.of(y), n_held, seed)
    assert_array_equal(np.sort(np.append(train, held)), rows)
    assert set(y[train]) == set(y[rows])
    assert held.size == min(n_held, rows.size - len(set(y[rows])))


@pytest.mark.parametrize("seed", range(40))
def test_no_class_of_several_loses_its_last_row_to_those_set_aside(seed):
    rng = np.random.default_rng(seed)
    n, K = rng.integers(1, 100), rng.integers(1, 30)
    Y = rng.random((n, K)) < rng.choice([0.02, 0.1, 0.5])
    rows = np.flatnonzero(rng.random(n) < 0.9).astype(np.int32)
    n_held = int(rng.integers(1, 60))
    targets = Targets.of_indicator(sp.csr_array(Y))
    train, held = _steps.set_aside(rows, targets, n_held, seed)
    assert_array_equal(np.sort(np.append(train, held)), rows)
    assert train.dtype == held.dtype == np.int32
    assert_array_equal(Y[train].any(axis=0), Y[rows].any(axis=0))
    # Of each class one row stays, and no other need.
    assert min(n_held, rows.size - Y[rows].any(axis=0).sum()) <= held.size <= n_held
    if held.size < n_held:  # any other row is the last of a class in the order
        last = {np.flatnonzero(Y[train, k])[-1] for k in range(K) if Y[train, k].any()}
        assert last == set(range(train.size))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_several_classes_a_row_ask_for_sigmoids_and_squared_gains(sparse, several):
    X, y, _, _ = problem(n=60)
    X = sp.csr_matrix(X) if sparse else X
    targets = Targets.of(y.astype(np.int32))._replace(several=several)
    options = MACHClassifier(max_iter=2).get_params(deep=False)
    settings, _ = _steps.make_settings(X, targets, None, options, 0, n_columns=9)
    assert settings.loss.link == ("sigmoid" if several else "softmax")
    assert settings.starts == (not sparse and not several)
    assert (settings.metric is None) == sparse
    gain = np.ones(7)
    if sparse:  # dense rows have a metric in their place
        gain = reference.feature_gains(X.toarray(), np.ones(60), 2 if several else 1)
    assert_allclose(settings.gain, gain, rtol=1e-6)


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


@pytest.mark.parametrize(
    ("n_rows", "n_labels", "n_epochs"),
    [(2_000, 1, 100), (2_000, 3, 34), (2_000, 0.5, 100), (4_000, 2, 25), (999, 400, 5)],
)
def test_epochs_of_several_labels_make_so_many_visits_of_labels(
    n_rows, n_labels, n_epochs
):
    labels = np.arange(int(n_rows * n_labels), dtype=np.int32)
    starts = (np.arange(n_rows + 1) * n_labels).astype(np.int64)
    X, targets = sp.csr_array(np.ones((n_rows, 1))), Targets(starts, labels, True)
    options = MACHClassifier().get_params(deep=False)
    settings, _ = _steps.make_settings(X, targets, None, options, 0)
    assert len(settings.decay) == n_epochs


def test_the_coherence_is_how_much_longer_a_batch_is_than_its_longest_row():
    ones, rows = np.ones(64), np.arange(64)
    gain = np.ones(64)
    assert_allclose(_gains.coherence(np.eye(64), rows, ones, gain, 0, 16, 0), 1)
    equal = np.ones((64, 64))
    assert_allclose(_gains.coherence(equal, rows, ones, gain, 0, 16, 0), 16)
    # A row that is visited often is in a batch more than once.
    often = np.repeat(rows, np.where(rows == 3, 10_000, 1))
    assert _gains.coherence(np.eye(64), often, ones, gain, 0, 16, 0) > 12
    # Of all rows at once, by the singular values of the rows and their intercept.
    X = np.random.default_rng(0).random((64, 64))
    step, gain = np.random.default_rng(1).random((2, 64)) + 0.5
    whole = np.sqrt(step)[:, None] * np.column_stack(
        [X * np.sqrt(gain), np.sqrt(2) * ones]
    )
    expected = np.linalg.norm(whole, 2) ** 2 / (whole**2).sum(axis=1).max()
    found = _gains.coherence(X, rows, step, gain, 2, 64, 0)
    assert_allclose(found, expected, rtol=1e-6)


def test_steps_of_a_batch_of_equal_dense_rows_are_divided_among_them():
    X, y = np.ones((512, 4)), np.arange(512) % 3
    options = MACHClassifier(batch_size=64, max_iter=1).get_params(deep=False)
    dense, sparse = (
        _steps.make_settings(rows, Targets.of(y), None, options, 0)[0].step
        for rows in (X, sp.csr_array(X))
    )
    assert_allclose(64 * dense, sparse, rtol=1e-6)


def test_a_feature_of_few_rows_cannot_leave_16_bits():
    rng = np.random.default_rng(0)
    n_epochs = 4
    X = rng.random((500, 40), np.float32) * (rng.random((500, 40)) < 0.08)
    X = sp.csr_matrix(X)
    step = rng.uniform(0.5, 2, 500).astype(np.float32)
    gain = rng.uniform(0.5, 2, 40).astype(np.float32)
    n_rows = np.bincount(X.indices, minlength=40)
    unit = _gains.units(rows_of(X).longest_steps(step), gain, n_rows * n_epochs)
    assert (n_rows * n_epochs).max() <= 512
    total = np.abs(X).T @ step * gain * n_epochs / 2  # the steps fall to zero
    assert (total <= 32767 * unit).all()
    longest = (abs(X).toarray() * step[:, None]).max(axis=0) * gain
    assert (longest >= 32 * unit).all()  # and a step is many units long


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
    monkeypatch.setattr(_steps, "_CACHED", 0)
    assert_array_equal(model.fit(X, y, **fit).coef_, coef)
