"""Log odds of classes where a row may have several, and how they are calibrated."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from sklearn_mach._calibration import fit_logistic, fit_marginals, log_odds


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shift", [0, 30])
@pytest.mark.parametrize("grouped", [False, True])
def test_logistic_regression_is_that_of_scikit_learn(seed, shift, grouped):
    rng = np.random.default_rng(seed)
    features = rng.normal(0, [1, 3, 0.1], (300, 3))
    chance = expit(features @ [1, -0.5, 4] - [2, 0, -3][seed])
    features += shift
    if grouped:  # how many have these features, and how many of them are positive
        total = rng.integers(1, 20, 300)
        own = rng.binomial(total, chance)
    else:
        total = rng.uniform(0, 2, 300)
        own = (rng.random(300) < chance) * total
    found = fit_logistic(features, own, total)
    # Half a positive and half a negative are added where the mean is.
    X = np.vstack([features, np.average(features, axis=0, weights=total)])
    positive, negative = np.append(own, 0.5), np.append(total - own, 0.5)
    labels, weight = np.repeat([1, 0], 301), np.append(positive, negative)
    used = weight > 0
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000)
    model.fit(np.vstack([X - shift] * 2)[used], labels[used], weight[used])
    expected = model.decision_function(X - shift)
    # The steps end where the loss, of some hundred, falls by less than 1e-9 of itself.
    assert_allclose(found[0] + X @ found[1:], expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("positive", [0, 1])
def test_logistic_regression_of_one_kind_is_finite(positive):
    features = np.random.default_rng(0).normal(0, 1, (400, 2))
    found = fit_logistic(features, np.full(400, float(positive)), np.ones(400))
    assert np.isfinite(found).all()
    chance = expit(found[0] + features.mean(axis=0) @ found[1:])
    assert abs(chance - positive) < 0.01  # half a row in 401


def marginals(scores, scalars):
    """Log odds by the formula."""
    a, b, c, d = scalars
    return a + b * scores - c * np.log1p(-np.exp(scores)) + d * scores[:, :1]


def marginals_loss(scalars, scores, own, weight):
    odds = marginals(scores, scalars)
    return weight @ (np.logaddexp(0, odds) - own * odds).sum(axis=1)


def planted(scalars, n=600, k=8, seed=0):
    """Scores of the best classes, best first, which are the row's, and weights."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(rng.exponential(1, (n, k)), axis=1) - 1e-3
    own = rng.random((n, k)) < expit(marginals(scores, scalars))
    return scores, own, rng.uniform(0.5, 2, n)


@pytest.mark.parametrize(
    "scalars",
    [
        (-1, 1, 0.5, 0.2),
        (0, 0.3, 2, -0.5),
        (1, -0.5, 2, 0.2),  # b < 0, where c alone does best
        (0, 1.5, -0.5, 0.2),  # c < 0
        (0, -0.5, -0.5, 1),  # both
        (-1, 0, 0, 0),
    ],
)
def test_marginals_have_the_least_log_loss_of_no_negative_scalars(scalars):
    rows = planted(scalars)
    found = fit_marginals(*rows)
    assert min(*found[1:3], found[1] + found[3]) >= 0
    free, positive = (None, None), (0, None)
    bounds = [free, positive, positive, positive]  # a, b, c, b + d
    options = dict(maxiter=5_000, ftol=1e-14, gtol=1e-9)
    start = [0, 0.5, 0.5, 0]
    best = minimize(
        lambda x: marginals_loss([*x[:3], x[3] - x[1]], *rows),
        start,
        method="L-BFGS-B",
        bounds=bounds,
        options=options,
    )
    # half a positive and half a negative are added to 600 rows
    assert marginals_loss(found, *rows) < best.fun + 0.01


@pytest.mark.parametrize("d", [-3, -0.5, 1])
def test_lower_scores_of_a_row_never_raise_its_odds(d):
    scores, own, weight = planted((0, 0.5, 1, d))
    found = fit_marginals(scores, own, weight)
    odds = [marginals(scores - less, found) for less in (0, 0.5, 2, 8)]
    assert (np.diff(odds, axis=0) <= 1e-12).all()


@pytest.mark.parametrize("factor", [1e-300, 1e-4, 1e6])
def test_a_common_factor_of_the_weights_changes_no_marginal(factor):
    scores, own, weight = planted((-0.5, 0.8, 0.6, 0.3))
    found = fit_marginals(scores, own, factor * weight)
    assert_allclose(found, fit_marginals(scores, own, weight), rtol=1e-6)


def test_marginals_find_the_scalars_that_made_the_rows():
    scalars = -0.5, 0.8, 0.6, 0.3
    scores, own, weight = planted(scalars, n=20_000)
    found = fit_marginals(scores, own, weight)
    # Errors of 160,000 classes, of which some tens of thousands are the rows'.
    assert_allclose(found, scalars, atol=0.08)
    assert_allclose(marginals(scores, found), marginals(scores, scalars), atol=0.15)


def test_marginals_count_rows_by_their_weights():
    scores, own, weight = planted((-0.5, 0.8, 0.6, 0.3))
    weight[::3] = 0
    found = fit_marginals(scores, own, weight)
    other = np.where(weight[:, None] > 0, own, ~own)
    assert_array_equal(fit_marginals(scores, other, weight), found)
    used = weight > 0
    expected = fit_marginals(scores[used], own[used], weight[used])
    assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_marginals_without_a_positive_are_finite():
    scores, own, weight = planted((-1, 1, 1, 0))
    found = fit_marginals(scores, np.zeros_like(own), weight)
    assert np.isfinite(found).all() and (found[1:3] >= 0).all()
    assert (marginals(scores, found)[:, -1] < 0).all()


def test_log_odds_are_those_of_the_probability():
    p = np.array([[0.9, 0.5, 1e-4], [0.2, 0.7, 0.01]], np.float32)
    for scores, is_log in ((p, False), (np.log(p), True)):
        scores = scores.copy()
        found = log_odds(scores, None, is_log)
        assert found is scores
        assert_allclose(found, logit(p.astype(np.float64)), rtol=1e-4)
    ends = log_odds(np.array([[0.0, 1.0]], np.float32), None, False)
    assert np.isfinite(ends).all() and ends[0, 0] < -16 and ends[0, 1] > 16
    ends = log_odds(np.array([[-200, 0.0]], np.float32), None, True)
    assert np.isfinite(ends).all() and ends[0, 0] <= -200 and ends[0, 1] > 16


def test_log_odds_by_scalars_keep_the_order_of_the_scores():
    scores = np.sort(-np.random.default_rng(0).exponential(2, (50, 9)), axis=1)
    scores = scores[:, ::-1].astype(np.float32).copy()
    for scalars in ((0.5, 0.8, 0.6, -2), (1, 0, 2, 1), (1, 2, 0, 1)):
        out = scores.copy()
        found = log_odds(out, out[:, :1], True, np.array(scalars))  # best is a view
        expected = marginals(scores.astype(np.float64), scalars)
        assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert (np.diff(found, axis=1) <= 0).all()
