"""The scalars of predict_proba, and the trial that finds the step."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from sklearn_mach import MACHClassifier, _softmax
from sklearn_mach._calibration import fit_scalars, log_proportions
from sklearn_mach._hashing import draw_table
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

    found = fit_scalars(halves, 1.0)

    wide = scores.astype(np.float64)
    bounds = [(-5, 5), (-2, 2), (-1, 1)]  # where the power does not overflow
    best = minimize(loss, [0, 0, 0], (wide, y, weight), "L-BFGS-B", bounds=bounds).fun
    # steps end where the loss falls by less than 1e-6 of itself; sums are in float32
    assert loss(found, wide, y, weight) <= best * (1 + 1e-5)


def test_probabilities_that_underflow_are_no_error():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 30, (200, 12)).astype(np.float32)
    y = np.where(rng.random(200) < 0.9, scores.argmax(axis=1), 3)
    expected = fit_scalars([(scores, y, np.ones(200))], 9.0)
    with np.errstate(all="raise"):
        found = fit_scalars([(scores, y, np.ones(200))], 9.0)
    np.testing.assert_array_equal(found, expected)


def test_equal_scores_leave_the_start():
    scores, y = np.zeros((5, 3), np.float32), np.array([0, 1, 2, 0, 1])
    found = fit_scalars([(scores, y, np.ones(5))], 2.0)
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


def test_trial_takes_smaller_steps_where_labels_are_noise():
    X, y = make_many_classes(4_000, 600, 60, n_nonzeros=8, random_state=0)
    options = MACHClassifier(max_iter=1).get_params(deep=False)
    settings = _softmax.make_settings(X, None, options, 0)
    column = draw_table(60, 8, [0, 1, 2])[:, 0]
    shuffled = np.random.default_rng(0).permutation(y)
    factors = [
        _softmax.probe_step(X, labels.astype(np.int32), column, 8, settings)
        for labels in (shuffled, y)
    ]
    assert 0.25 <= factors[0] < factors[1] <= 16
