"""The scalars of predict_proba and the logit adjustment."""

import itertools
import pickle

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from helpers import (
    DECODERS,
    assert_same_model,
    bucket_scores,
    mapped,
    needs_compilation,
    peak_of,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB, MultinomialNB

from sklearn_mach import MACHClassifier, _model
from sklearn_mach._calibration import (
    above_chance,
    as_scored,
    exp_of_gaps,
    fit_adjustment,
    fit_scalars,
    log_proportions,
    summarize,
)
from sklearn_mach.datasets import make_many_classes


def loss(x, scores, y, weight):
    """Weighted log loss of softmax(-t gap^c), t = exp(a + b max s), by the formula."""
    best = scores.max(axis=1, keepdims=True)
    gap = best - scores
    log_proba = log_softmax(-np.exp(x[0] + x[1] * best) * gap ** np.exp(x[2]), axis=1)
    return -np.sum(weight * log_proba[np.arange(y.size), y])


@pytest.mark.parametrize("seed", range(3))
def test_scalars_minimise_the_log_loss(seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(-3, 1, (400, 12)).astype(np.float32)
    best = scores.max(axis=1, keepdims=True)
    utility = -np.exp(0.8 - 0.4 * best) * (best - scores) ** 1.3
    noise = rng.gumbel(size=scores.shape)
    y = np.argmax(utility + noise, axis=1)  # drawn from such probabilities
    weight = rng.uniform(0.5, 2, y.size)
    halves = [(scores[i::2], y[i::2], weight[i::2]) for i in range(2)]

    found = fit_scalars([summarize(*half) for half in halves], 1.0)

    wide = scores.astype(np.float64)
    bounds = [(-5, 5), (-2, 2), (-1, 1)]  # where the power does not overflow
    best = minimize(loss, [0, 0, 0], (wide, y, weight), "L-BFGS-B", bounds=bounds).fun
    # steps end where the loss falls by less than 1e-6 of itself; sums are in float32
    assert loss(found, wide, y, weight) <= best * (1 + 1e-5)


def test_probabilities_that_underflow_are_no_error():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 30, (200, 12)).astype(np.float32)
    y = np.where(rng.random(200) < 0.9, scores.argmax(axis=1), 3)
    expected = fit_scalars([summarize(scores, y, np.ones(200))], 9.0)
    with np.errstate(all="raise"):
        found = fit_scalars([summarize(scores, y, np.ones(200))], 9.0)
    np.testing.assert_array_equal(found, expected)


def test_equal_scores_leave_the_start():
    scores, y = np.zeros((5, 3), np.float32), np.array([0, 1, 2, 0, 1])
    found = fit_scalars([summarize(scores, y, np.ones(5))], 2.0)
    gaps = np.array([[0.0, 1.0]])
    logs = log_proportions(gaps - 1, np.zeros((1, 1)), found)
    np.testing.assert_allclose(logs, 2 * (gaps - 1))


@pytest.fixture(scope="module")
def many_classes():
    X, y = make_many_classes(14_000, 600, 60, n_nonzeros=8, random_state=0)
    model = MACHClassifier(n_repetitions=4, n_buckets=8, max_iter=2, random_state=0)
    return model.fit(X[:12_000], y[:12_000]), X[12_000:], y[12_000:]


def test_probabilities_keep_the_order_of_the_scores(many_classes):
    model, X, _ = many_classes
    proba = model.predict_proba(X)
    scores = model.decision_function(X)
    order = np.argsort(-scores, axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(proba, order, axis=1), axis=1) <= 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)


def test_fitted_scalars_beat_fixed_ones_on_new_rows(many_classes):
    model, X, y = many_classes
    scores = model.decision_function(X).astype(np.float64)
    labels = model.classes_
    fitted = log_loss(y, model.predict_proba(X), labels=labels)
    for temperature in (1, np.log(60) / np.log(8), 4):  # the mean, digits, the sum
        fixed = np.exp(log_softmax(temperature * scores, axis=1))
        assert fitted < log_loss(y, fixed, labels=labels)


def best_loss(model, X, y):
    """The log loss of the best scalars for rows, found by SciPy."""
    scores = model.decision_function(X).astype(np.float64)
    codes = np.searchsorted(model.classes_, y)
    args, bounds = (scores, codes, np.ones(y.size)), [(-5, 5), (-2, 2), (-1, 1)]
    return minimize(loss, [1, 0, 0], args, "L-BFGS-B", bounds=bounds).fun / y.size


def log_loss_of(model, X, y):
    return log_loss(y, model.predict_proba(X), labels=model.classes_)


def test_calibration_counts_rows_by_their_weights():
    X, y = make_many_classes(14_000, 600, 60, n_nonzeros=8, random_state=0)
    noisy, rng = np.arange(14_000) % 2 == 1, np.random.default_rng(0)
    y[noisy] = rng.permutation(y[noisy])
    weight = np.where(noisy, 1e-3, 1.0)
    model = MACHClassifier(n_repetitions=4, n_buckets=8, max_iter=2, random_state=0)
    model.fit(X[:12_000], y[:12_000], weight[:12_000])
    test = np.flatnonzero(~noisy[12_000:]) + 12_000
    # About 120 rows that count find three scalars: 0.02 more than the best loss at most
    # on average; with the noise of the others it would be 0.5.
    best = best_loss(model, X[test], y[test])
    assert log_loss_of(model, X[test], y[test]) < best + 0.1


def test_calibration_uses_rows_that_are_not_trained_on(monkeypatch):
    # The column of row i is zero in all others: it has weights if i was trained on.
    n = 10_000
    X, y = make_many_classes(n, 300, 60, n_nonzeros=8, random_state=0)
    X = sp.hstack([sp.eye_array(n, dtype=X.dtype), X], format="csr")
    used, calibrated = [], _model.Model.calibrated

    def spy(self, X, y, order, *rest):
        used.append(X[order, :n].nonzero()[1])
        return calibrated(self, X, y, order, *rest)

    monkeypatch.setattr(_model.Model, "calibrated", spy)
    model = MACHClassifier(n_repetitions=2, n_buckets=8, max_iter=1, random_state=0)
    model.fit(X, y)
    untrained = np.flatnonzero(~model.coef_[:, :, :n].any(axis=(0, 1)))
    assert untrained.size == 200  # 2 %
    np.testing.assert_array_equal(np.sort(used[0]), untrained)


def test_added_repetitions_have_probabilities_of_their_own(many_classes):
    model, X, y = many_classes
    rows, labels = make_many_classes(14_000, 600, 60, n_nonzeros=8, random_state=0)
    rows, labels = rows[:12_000], labels[:12_000]
    grown = clone(model).set_params(n_repetitions=2, warm_start=True).fit(rows, labels)
    before = grown.predict_proba(X)
    grown.set_params(n_repetitions=4).fit(rows, labels)
    # The first two, and the rows set aside, are those of a fit of all four.
    np.testing.assert_array_equal(grown.predict_proba(X), model.predict_proba(X))
    assert log_loss_of(grown, X, y) < log_loss(y, before, labels=model.classes_)


# The logit adjustment ---------------------------------------------------------------


def adjusted_rows(tau, n=4_000, k=5, seed=0, t=1.5):
    """Scores, log priors and true classes drawn from softmax(t s - t tau log prior)."""
    rng = np.random.default_rng(seed)
    scores, log_prior = rng.normal(-3, 1, (n, k)), rng.normal(0, 1.5, (n, k))
    utility = t * scores - t * tau * log_prior + rng.gumbel(size=(n, k))
    return scores, log_prior, np.arange(k) == utility.argmax(axis=1)[:, None]


def maximum_likelihood(scores, log_prior, own, weight):
    """tau of the largest likelihood of one true class a row, and its error."""

    def losses(x):
        log_proba = log_softmax(x[0] * scores - x[1] * log_prior, axis=1)
        return -weight * log_proba[own]

    return least(losses)


def least(losses):
    """tau of the least sum of losses, and its sandwich error by differences."""
    x = minimize(lambda x: losses(x).sum(), [1, 0], method="BFGS", tol=1e-8).x
    h = 1e-4
    steps = h * np.eye(2)
    gradients = np.array([losses(x + s) - losses(x - s) for s in steps]) / (2 * h)

    def second(a, b):
        signs = itertools.product((1, -1), repeat=2)
        return sum(s * t * losses(x + s * a + t * b).sum() for s, t in signs)

    hessian = np.array([[second(a, b) for b in steps] for a in steps]) / (4 * h**2)
    influence = np.linalg.solve(hessian, gradients)
    tau = x[1] / x[0]
    return tau, np.linalg.norm(np.array([-tau, 1]) / x[0] @ influence)


@pytest.mark.parametrize("tau", [0.1, 0.3, 0.5])
def test_the_adjustment_is_that_of_the_data(tau):
    for seed in range(3):
        rows = adjusted_rows(tau, seed=seed)
        error = maximum_likelihood(*rows, np.ones(4_000))[1]
        found = fit_adjustment(*rows, np.ones(4_000))
        assert abs(found - tau) < 3 * error
        assert 3 * error < 0.1


@pytest.mark.parametrize("tau", [0.05, 0.2, 0.4])
def test_the_adjustment_is_the_shrunk_maximum_of_the_likelihood(tau):
    rows = adjusted_rows(tau, n=500)
    weight = np.random.default_rng(1).uniform(0, 2, 500)
    best, error = maximum_likelihood(*rows, weight)
    expected = best * max(1 - (error / best) ** 2, 0)
    assert abs(fit_adjustment(*rows, weight) - expected) < 1e-4


def test_an_adjustment_that_takes_from_rare_classes_is_zero():
    rows = adjusted_rows(-0.3)
    tau, error = maximum_likelihood(*rows, np.ones(4_000))
    assert tau < -3 * error
    assert fit_adjustment(*rows, np.ones(4_000)) == 0


def test_noise_needs_no_adjustment():
    found = [
        fit_adjustment(*adjusted_rows(0, n=300, seed=seed), np.ones(300))
        for seed in range(60)
    ]
    # tau is above its error in one of six samples.
    assert 42 <= found.count(0.0) <= 58
    assert 0 <= min(found) <= max(found) < 0.3


def test_rows_that_say_nothing_of_the_adjustment_leave_zero():
    scores, log_prior, own = adjusted_rows(0.5, n=50)
    ones = np.ones(50)
    assert fit_adjustment(scores, np.zeros_like(scores), own, ones) == 0
    assert fit_adjustment(scores, log_prior, np.zeros_like(own), ones) == 0
    assert fit_adjustment(scores[:0], log_prior[:0], own[:0], ones[:0]) == 0
    assert fit_adjustment(scores, log_prior, own, np.zeros(50)) == 0
    assert fit_adjustment(-scores, log_prior, own, ones) == 0  # scores that mislead


def test_the_scale_of_the_weights_does_not_change_the_adjustment():
    rows, weight = adjusted_rows(0.3, n=300), np.random.default_rng(0).random(300)
    found = fit_adjustment(*rows, weight)
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(fit_adjustment(*rows, scale * weight), found, 1e-9)


def several_true(tau, n, k=6, seed=0):
    """As `adjusted_rows` with one to three true classes, or none, in a row."""
    rng = np.random.default_rng([seed, 1])
    scores, log_prior = rng.normal(-3, 1, (n, k)), rng.normal(0, 1.5, (n, k))
    utility = 1.5 * (scores - tau * log_prior) + rng.gumbel(size=(n, k))
    place = np.argsort(np.argsort(-utility, axis=1), axis=1)
    return scores, log_prior, place < (np.arange(n) % 4)[:, None]


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_adjustment_of_several_true_classes_is_that_of_the_likelihood(tau):
    scores, log_prior, own = several_true(tau, n=500)
    weight = np.random.default_rng(1).uniform(0, 2, 500)
    weight[::5] = 0
    row, place = np.nonzero(own)  # each true class with those that are not
    features = np.stack([scores, -log_prior], axis=2)
    gaps = features[row] - features[row, place][:, None]

    def losses(x):
        utility = np.where(own[row], -np.inf, gaps @ x)
        utility[np.arange(row.size), place] = 0  # of the true class
        return weight[row] * logsumexp(utility, axis=1)

    best, error = least(losses)
    assert error < best / 2
    expected = best * (1 - (error / best) ** 2)
    assert abs(fit_adjustment(scores, log_prior, own, weight) - expected) < 1e-4


def test_rows_of_which_all_classes_are_true_say_nothing_of_the_adjustment():
    scores, log_prior, own = several_true(0.4, n=500)
    expected = fit_adjustment(scores, log_prior, own, np.ones(500))
    assert expected > 0.1
    own[::4] = True  # where none was
    found = fit_adjustment(scores, log_prior, own, np.ones(500))
    assert_allclose(found, expected, rtol=1e-9)
    own[:] = True
    assert fit_adjustment(scores, log_prior, own, np.ones(500)) == 0


def test_proportions_follow_from_scores_by_scalars_chance_or_as_they_are():
    scores = np.array([[-1.0, -3.0, -1.5], [-2.0, -2.0, -9.0]])
    a, b, log_c = 0.5, -0.25, 0.2
    for chance in (0.0, 0.3):  # which does not count
        out = scores.copy()
        exp_of_gaps(out, out.max(axis=1, keepdims=True), (a, b, log_c), chance)
        for row, found in zip(scores, out, strict=True):
            gap = row.max() - row
            odds = np.exp(-np.exp(a + b * row.max()) * gap ** np.exp(log_c))
            assert_allclose(found, odds, rtol=1e-12)

    scores = np.array([[0.5, 0.1, 0.3], [0.1, 0.2, 0.05]])
    for chance, expected in [
        (0.0, scores),
        (0.2, [[0.3, 0, 0.1], [1, 1, 1]]),  # no class of the second is above
    ]:
        out = scores.copy()
        above_chance(out, out.max(axis=1, keepdims=True), None, chance)
        assert_allclose(out, expected, rtol=1e-12)
    out = scores.copy()
    as_scored(out, out.max(axis=1, keepdims=True), None, 0.2)
    assert_array_equal(out, scores)


# The method of the estimator --------------------------------------------------------


@pytest.fixture(scope="module", params=["built-in", "base"])
def trained_in_blocks(request):
    """A model of a few blocks, other rows to calibrate it with, and more to see it."""
    X, y = make_many_classes(2000, 120, 40, n_nonzeros=6, random_state=0)
    base = MultinomialNB() if request.param == "base" else None
    model = MACHClassifier(base, n_repetitions=4, n_buckets=6, random_state=0)
    for start in range(0, 1000, 250):
        rows = slice(start, start + 250)
        model.partial_fit(X[rows], y[rows], classes=range(40))
    return model, (X[1000:1400], y[1000:1400]), (X[1400:], y[1400:])


@pytest.fixture
def uncalibrated(trained_in_blocks):
    """The same with a model of its own for each test."""
    model, rows, new = trained_in_blocks
    return pickle.loads(pickle.dumps(model)), rows, new


def test_calibrate_brings_the_log_loss_of_new_rows_down(uncalibrated):
    model, rows, new = uncalibrated
    before = log_loss_of(model, *new)
    scores = model.set_params(logit_adjustment=0).decision_function(new[0])
    assert model.calibrate(*rows) is model
    assert log_loss_of(model, *new) < before
    assert_array_equal(model.decision_function(new[0]), scores)
    proba = model.predict_proba(new[0])
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    # no other temperature does better on the rows it was fitted to
    found, scores = log_loss_of(model, *rows), model.decision_function(rows[0])
    for temperature in (0.5, 1, 1.5, 2, 3, 4, 6):
        log_proba = log_softmax(temperature * scores.astype(np.float64), axis=1)
        loss = -log_proba[np.arange(rows[1].size), rows[1]].mean()
        assert found < loss + 1e-5  # the steps end where less is gained


def test_calibrate_changes_no_weights(uncalibrated):
    model, rows, (X, _) = uncalibrated
    state = pickle.loads(pickle.dumps(model))
    before = bucket_scores(model, X)
    model.calibrate(*rows)
    assert_array_equal(bucket_scores(model, X), before)
    assert_array_equal(model.bucket_table_, state.bucket_table_)
    assert_array_equal(model.classes_, state.classes_)
    assert model.n_iter_ == state.n_iter_
    if model.estimator is None:
        assert_same_model(model, state)


@pytest.mark.parametrize("number", [0, 0.5, -1])
def test_calibrate_leaves_a_logit_adjustment_that_is_a_number(uncalibrated, number):
    model, rows, (X, y) = uncalibrated
    plain = model.calibrate(*rows).set_params(logit_adjustment=0).calibrate(*rows)
    assert plain.logit_adjustment_ == 0
    before = plain.decision_function(X)
    model.set_params(logit_adjustment=number).calibrate(*rows)
    assert model.logit_adjustment_ == number
    # of the rows the model was trained on
    trained = make_many_classes(2000, 120, 40, n_nonzeros=6, random_state=0)[1][:1000]
    counts = np.bincount(trained, minlength=40)
    share = np.maximum(counts, counts[counts > 0].min()) / 1000
    expected = before - number * np.log(40 * share)
    assert_allclose(model.decision_function(X), expected, rtol=1e-5, atol=1e-5)


def test_calibrate_checks_parameters_and_takes_a_whole_number(uncalibrated):
    model, rows, _ = uncalibrated
    model.set_params(n_jobs=0)
    with pytest.raises(ValueError, match="n_jobs=0 is no number of threads"):
        model.calibrate(*rows)
    model.set_params(n_jobs=None, logit_adjustment=1).calibrate(*rows)
    assert type(model.logit_adjustment_) is float and model.logit_adjustment_ == 1


def test_calibrate_fits_an_automatic_logit_adjustment(uncalibrated, monkeypatch):
    model, rows, _ = uncalibrated
    # what it is fitted to: the ten best of each row without an adjustment
    best, scores = reference.topk(model.decision_function(rows[0]), 10)
    own = best == rows[1][:, None]
    given = []

    def fit_adjustment(*arrays):
        given.extend(arrays)
        return 0.3

    monkeypatch.setattr(_model, "fit_adjustment", fit_adjustment)
    assert model.calibrate(*rows).logit_adjustment_ == 0.3
    assert_allclose(np.sort(given[0], axis=0), np.sort(scores, axis=0), rtol=1e-6)
    assert_array_equal(given[2].sum(axis=0), own.sum(axis=0))
    assert_array_equal(given[3], np.ones(400))
    before = given.copy()
    given.clear()
    model.calibrate(*rows)  # not of the scores that the first one adjusted
    for first, second in zip(before, given, strict=True):
        assert_array_equal(first, second)


@pytest.mark.parametrize("decoder", DECODERS)
def test_calibrate_works_with_every_decoder(uncalibrated, decoder):
    model, rows, (X, _) = uncalibrated
    expected = pickle.loads(pickle.dumps(model)).calibrate(*rows)
    model.set_params(decoder=decoder).calibrate(*rows)
    model.set_params(decoder="log_mean")
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


def test_rows_of_weight_zero_do_not_matter_to_calibrate(uncalibrated):
    model, (X, y), (new, _) = uncalibrated
    other = pickle.loads(pickle.dumps(model))
    weight = np.random.default_rng(0).uniform(0, 2, y.size)
    weight[::3] = 0
    used = weight > 0
    y = np.where(used, y, 39 - y)  # whatever they are
    model.calibrate(X, y, weight)
    other.calibrate(X[used], y[used], sample_weight=weight[used])
    assert model.logit_adjustment_ == other.logit_adjustment_
    assert_array_equal(model.predict_proba(new), other.predict_proba(new))


@pytest.mark.parametrize("n_classes", [1, 2])
@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_calibrate_of_one_or_two_classes(blobs, base, n_classes):
    X, y = blobs(90, n_classes=2, noise=2, sparse=False)
    y = y % n_classes
    model = MACHClassifier(base, random_state=0).fit(X[:60], y[:60])
    labels = model.predict(X)
    proba = model.calibrate(X[60:], y[60:]).predict_proba(X)
    assert proba.shape == (90, n_classes)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert_array_equal(model.predict(X), labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y, w: (X, np.where(y == 3, 40, y), w), r"not in classes: \[40\]"),
        (lambda X, y, w: (X, y.astype(str), w), "cannot be compared|not in classes"),
        (lambda X, y, w: (X[:, :9], y, w), "X has 9 features"),
        (lambda X, y, w: (X, y[1:], w), "inconsistent numbers of samples"),
        (lambda X, y, w: (X, y, -w), "Negative values"),
        (lambda X, y, w: (X, y, w * np.nan), "contains NaN"),
        (lambda X, y, w: (X, y, w[1:]), "shape"),
        (lambda X, y, w: (X, y, 0 * w), "is zero for all rows|non-zero number"),
        (lambda X, y, w: (X[:0], y[:0], w[:0]), "0 sample"),
    ],
)
def test_calibrate_refuses_bad_rows_and_stays_as_it_was(uncalibrated, change, message):
    model, rows, (X, _) = uncalibrated
    model.calibrate(*rows)
    proba, tau = model.predict_proba(X), model.logit_adjustment_
    with pytest.raises(ValueError, match=message):
        model.calibrate(*change(*rows, np.ones(rows[1].size)))
    assert model.logit_adjustment_ == tau
    assert_array_equal(model.predict_proba(X), proba)


def test_an_error_within_calibrate_leaves_the_model_untouched(
    uncalibrated, monkeypatch
):
    model, rows, (X, _) = uncalibrated
    proba, scores = model.predict_proba(X), model.decision_function(X)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_model, "fit_adjustment", lambda *rows: 3.0)

        def interrupted(*args):
            raise KeyboardInterrupt

        patch.setattr(_model, "fit_scalars", interrupted)
        model.calibrate(*rows)
    assert model.logit_adjustment_ == 0
    assert_array_equal(model.decision_function(X), scores)
    assert_array_equal(model.predict_topk(X)[:, 0], scores.argmax(axis=1))
    assert_array_equal(model.predict_proba(X), proba)


def test_calibrate_needs_a_fitted_model_and_good_parameters(blobs):
    X, y = blobs(60)
    model = MACHClassifier()
    with pytest.raises(NotFittedError):
        model.calibrate(X, y)
    model.fit(X, y).set_params(logit_adjustment="bogus")
    with pytest.raises(ValueError, match="'logit_adjustment' parameter"):
        model.calibrate(X, y)


def test_partial_fit_keeps_what_calibrate_found_and_fit_does_not(
    uncalibrated, monkeypatch
):
    model, rows, (X, _) = uncalibrated
    monkeypatch.setattr(_model, "fit_adjustment", lambda *rows: 0.3)
    model.calibrate(*rows)
    scalars = model._fitted.model.scalars.copy()
    model.partial_fit(*rows)
    assert model.logit_adjustment_ == 0.3
    assert_array_equal(model._fitted.model.scalars, scalars)
    fresh = clone(model).fit(*rows)
    model.fit(*rows)
    assert model.logit_adjustment_ == fresh.logit_adjustment_ == 0
    assert_array_equal(model.predict_proba(X), fresh.predict_proba(X))


@needs_compilation
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_calibrate_copies_a_few_dense_rows_at_a_time(monkeypatch, tmp_path, dtype):
    monkeypatch.setattr(_model, "_COPIED_BYTES", 1 << 18)
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (200, 40_000), np.int8).astype(dtype)
    y = np.arange(200) % 8
    model = MACHClassifier(n_repetitions=2, n_buckets=4, max_iter=1, random_state=0)
    model.fit(X[:20], y[:20])
    X = mapped(X, tmp_path)
    model.calibrate(X, y)  # compiles
    # 16 rows of float32 and 11 kB a row for its classes, of 80 kB and more of X
    assert peak_of(model.calibrate, X, y)[1] < X.nbytes / 2
