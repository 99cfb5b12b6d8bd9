"""Epochs against float64 steps written from the formula.

Most tests go through the estimator, with a step and an order of rows that the reference
is given too.
"""

import threading

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from learners import (
    TOLERANCE,
    auto_fit,
    learner,
    order_seed,
    orders,
    pareto,
    problem,
)
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach import MACHClassifier, _int16, _sgd, _steps, _training
from sklearn_mach._compat import njit
from sklearn_mach._losses import Softmax
from sklearn_mach._targets import Targets


@njit
def add_product(w, g, k, dither):
    _int16.add_product(w, g, k, dither)


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


# Rows of several classes --------------------------------------------------------------


def several():
    """The problem with rows of no, one, two or three classes, and no weights."""
    X, y, _, table = problem()
    X[(X == 0).all(axis=1), 0] = 1
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    rng = np.random.default_rng(1)
    lists = [rng.choice(6, size=i % 4, replace=False).tolist() for i in range(len(y))]
    return X, lists, table


def train_several(
    X, lists, table, n_epochs, n_columns=0, loss="softmax", weight=None, n_jobs=None,
    **parameters
):  # fmt: skip
    """Weights (R, B, d), intercepts (R, B) and the losses of the last epoch."""
    starts = np.cumsum([0] + [len(classes) for classes in lists])
    classes = np.concatenate(lists).astype(np.int32)
    targets = Targets(starts, classes, loss == "sigmoid")
    options = learner(table, max_iter=n_epochs, **parameters).get_params(deep=False)
    settings, _ = _steps.make_settings(
        X, targets, weight, options, order_seed(), n_columns=n_columns
    )
    assert settings.loss.link == loss
    assert not settings.starts
    assert (settings.unit is None) == (n_columns == 0)
    if parameters.get("learning_rate") == "auto":
        settings = settings.scaled(4)
    W, b = np.zeros((X.shape[1], 9), np.float32), np.zeros(9, np.float32)
    table = table.astype(np.uint8)
    if n_jobs is not None:
        _training.train_all(X, targets, table, W, b, 0, True, settings, n_jobs)
        return W.T.reshape(3, 3, -1), b.reshape(3, 3), None
    columns = _training.Columns(W, b, 0, 9, True)
    losses = _training.train(X, targets, table, columns, settings)[2]
    if settings.unit is not None:
        _training.to_float(W, [np.arange(3)], 3, settings.unit)
    return W.T.reshape(3, 3, -1), b.reshape(3, 3), losses


LOSSES = {"softmax": reference.softmax_loss, "sigmoid": reference.sigmoid_loss}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0, 0.05])
@pytest.mark.parametrize("weighted", [False, True])
def test_epochs_of_rows_of_several_classes_equal_the_reference(
    loss, sparse, alpha, weighted
):
    X, lists, table = several()
    rows, batch_size = (sp.csr_matrix(X), 1) if sparse else (X, 4)
    weight = np.ones(len(lists))
    if weighted:  # of which none is twice the mean
        weight = np.random.default_rng(2).uniform(0.2, 1.5, len(lists))
        weight /= weight.mean()
    given = dict(alpha=alpha, batch_size=batch_size, loss=loss)
    given["weight"] = weight.astype(np.float32) if weighted else None
    W, b, _ = train_several(rows, lists, table, 3, **given)
    options = dict(bias=1.0, penalty=0.3 * alpha, batch_size=batch_size)
    options["loss_of"] = LOSSES[loss]
    by_epoch, step = orders(3, np.arange(len(lists))), 0.3 * weight
    expected_W, expected_b, _ = reference.sgd_fit(
        X, lists, table, 3, by_epoch, step, weight, **options
    )
    assert_allclose(W, expected_W, **TOLERANCE)
    assert_allclose(b, expected_b, **TOLERANCE)
    losses = train_several(rows, lists, table, 1, **given)[2]
    zero = np.zeros((3, 3, X.shape[1])), np.zeros((3, 3))
    expected = reference.sgd_epoch(
        X, lists, table, *zero, by_epoch[0], step, (1, 0), **options
    )
    expected = np.average(expected, axis=0, weights=weight[by_epoch[0]])
    assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bits", [16, 32])
def test_automatic_steps_of_rows_of_several_classes_equal_the_reference(
    sixteen_bits, loss, bits
):
    # Those of sigmoids have squared gains.
    X, lists, table = several()
    n_columns, power = 9 if bits == 16 else 0, 2 if loss == "sigmoid" else 1
    options = dict(n_columns=n_columns, learning_rate="auto", loss=loss)
    W, b, _ = train_several(sp.csr_matrix(X), lists, table, 3, **options)
    options = dict(power=power, loss_of=LOSSES[loss])
    expected_W, expected_b = auto_fit(X, lists, table, 3, 3, **options)
    # As in `test_weights_of_16_bits_are_near_the_reference`.
    error = 0.024 * 90**0.5 if bits == 16 else 1e-3
    assert_allclose(W, expected_W, rtol=0, atol=error)
    assert_allclose(b, expected_b, rtol=0, atol=error)
    assert np.abs(W).max() > 4 * 0.024 * 90**0.5


@pytest.mark.parametrize("kind", ["float32", "16 bits", "dense"])
def test_threads_change_no_bit_of_sigmoids(sixteen_bits, kind, monkeypatch):
    # Two blocks of dense columns, whose batches have some parts for threads to share.
    monkeypatch.setattr(_training, "_DENSE_COLUMNS", 6)
    monkeypatch.setattr(_sgd, "_BATCH_PART", 3)
    X, lists, table = several()
    rows = X if kind == "dense" else sp.csr_matrix(X)
    options = dict(n_columns=9 if kind == "16 bits" else 0, learning_rate="auto")
    options |= dict(loss="sigmoid", batch_size=10)
    by_jobs = [
        train_several(rows, lists, table, 2, n_jobs=n_jobs, **options)[:2]
        for n_jobs in (1, 2, 3, 6)
    ]
    for other in by_jobs[1:]:
        assert_array_equal(other[0], by_jobs[0][0])
        assert_array_equal(other[1], by_jobs[0][1])
    assert by_jobs[0][0].any()


@pytest.mark.parametrize("kind", ["float32", "16 bits", "dense"])
def test_rows_without_a_class_take_no_step(sixteen_bits, kind):
    X, lists, table = several()
    options = dict(batch_size=1)
    rows = X if kind == "dense" else sp.csr_matrix(X)
    if kind == "16 bits":
        options |= dict(learning_rate="auto", n_columns=9)
    lists = [lists[i] if i == 3 else [] for i in range(30)]
    W, b, losses = train_several(rows, lists, table, 2, **options)
    assert W.any() and b.any() and losses.all()
    assert not W[:, :, X[3] == 0].any()
    W, b, losses = train_several(rows, [[]] * 30, table, 2, **options)
    assert not W.any() and not b.any() and not losses.any()


# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["float32", "16 bits", "dense"])
def test_a_pass_ends_where_another_thread_halts_it(storage):
    n_features, n_steps = 20_000, 100_000
    X = np.ones((1, n_features), np.float32)
    order, targets = np.zeros(n_steps, np.int32), Targets.of(np.zeros(1, np.int32))
    table, weight = np.zeros((1, 1), np.uint8), np.ones(1, np.float32)
    step, gain, rate = np.zeros(1, np.float32), X[0].copy(), np.ones(1, np.float32)
    W, b = np.zeros((n_features, 16), np.float32), np.zeros(16, np.float32)
    losses, halt = np.zeros(1), np.zeros(1, np.bool_)
    slowing = np.zeros((2, n_features + 1), np.float32)
    given = _sgd.Pass(
        order, Softmax(), *targets[:2], table, weight, step, gain, *slowing,
        np.zeros(2), rate, np.float32(1), 0, W, b, losses, halt
    )  # fmt: skip
    halting = threading.Timer(0.05, lambda: halt.fill(True))
    halting.start()
    if storage == "float32":
        _sgd.epoch_csr(sp.csr_matrix(X), given)
    elif storage == "16 bits":
        _sgd.epoch_int16(sp.csr_matrix(X), given, gain, 0)
    else:
        _sgd.epoch_dense(X, given, None, None, 1)
    halting.join()
    assert losses < 0.9 * n_steps * np.log(16)  # what all steps would make


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


# Weights of 16 bits -----------------------------------------------------------------


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
    monkeypatch.setattr(_steps, "_SLOW_VISITS", slow_visits)  # or all steps are equal
    # Every feature is in one row, so that its weights are those of one rounded step.
    n = 999  # no trial: both fits take the same steps
    X = sp.eye_array(n, format="csr") * (-1.0 if negative else 1.0)
    y = np.arange(n) % 3
    table = np.array([[0, 1], [1, 0], [2, 2]])
    model = learner(table, learning_rate="auto", max_iter=1)
    exact = model.fit(X, y).coef_.astype(np.float64)
    monkeypatch.setattr(_steps, "_CACHED", 0)
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
    X, table = sp.csr_matrix(X), table.astype(np.uint8)
    targets = Targets.of(y.astype(np.int32))
    options = learner(table, learning_rate="auto").get_params(deep=False)
    options["batch_size"] = 1
    options["max_iter"] = 3
    settings, _ = _steps.make_settings(X, targets, None, options, 0, n_columns=9)
    assert settings.unit is not None

    def weights(rate):
        W, b = np.zeros((7, 9), np.float32), np.zeros(9, np.float32)
        columns = _training.Columns(W, b, 0, 9, True)
        now = settings._replace(rate=np.array(rate, np.float32))
        _training.train(X, targets, table, columns, now)
        _training.to_float(W, [np.arange(3)], 3, settings.unit)
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
    targets = Targets.of(y)
    options = MACHClassifier(max_iter=3).get_params(deep=False)
    settings, _ = _steps.make_settings(X, targets, None, options, 0, n_columns=1)
    assert settings.unit is not None
    factors = 2.0 ** np.arange(-2, 3)  # with 8, rounding errors grow
    settings = settings._replace(tol=None)
    table = np.arange(6, dtype=np.uint8)[:, None]
    losses = []
    for unit in (settings.unit, None):
        losses.append([])
        for factor in factors:
            W, b = np.zeros((30, 6), np.float32), np.zeros(6, np.float32)
            columns = _training.Columns(W, b, 0, 6, True)
            now = settings._replace(unit=unit).scaled(factor)
            trained = _training.train(X, targets, table, columns, now)
            losses[-1] += trained[2].tolist()
    # Steps are rounded by at most 1/256 of the longest, at random: losses hardly move.
    assert_allclose(losses[0], losses[1], rtol=0.005)
    assert np.ptp(losses[1]) > 0.2  # and the factors matter
