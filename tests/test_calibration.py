"""The scalars of predict_proba and the logit adjustment."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.metrics import log_loss

from sklearn_mach import MACHClassifier
from sklearn_mach._calibration import (
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
    np.testing.assert_allclose(log_proportions(gaps - 1, found), 2 * (gaps - 1))


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
    used, fit_to = [], MACHClassifier._fit_scalars

    def spy(self, X, y, order, weight):
        used.append(X[order, :n].nonzero()[1])
        fit_to(self, X, y, order, weight)

    monkeypatch.setattr(MACHClassifier, "_fit_scalars", spy)
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
    """tau of the largest likelihood, and its sandwich error by differences."""

    def losses(x):
        log_proba = log_softmax(x[0] * scores - x[1] * log_prior, axis=1)
        return -weight * log_proba[own]

    x = minimize(lambda x: losses(x).sum(), [1, 0], method="BFGS", tol=1e-8).x
    h = 1e-4
    steps = h * np.eye(2)
    gradients = np.array([losses(x + s) - losses(x - s) for s in steps]) / (2 * h)
    hessian = [
        [
            (
                losses(x + a + b)
                - losses(x + a - b)
                - losses(x - a + b)
                + losses(x - a - b)
            ).sum()
            for b in steps
        ]
        for a in steps
    ]
    influence = np.linalg.solve(np.array(hessian) / (4 * h**2), gradients)
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
