"""The parts of the gradients, and gradients of rows of several classes."""

from typing import NamedTuple

import numpy as np
import pytest
import reference
from learners import COMPILED
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, log_expit

from sklearn_mach import _losses
from sklearn_mach._compat import njit


@njit
def exp_of(x):
    out = np.empty_like(x)
    for i in range(x.size):
        out[i] = _losses._exp(x[i])
    return out


@njit
def largest_of(z):
    return _losses._largest(z)


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


@njit
def gradient_of(loss, z, scale, b, table, classes, step, rate, bias, weight, losses):
    _losses.gradient(
        loss, z, scale, b, table, classes, step, rate, bias, weight, losses
    )


def one_row(loss, z, classes, table, has_bias=True, scale=1.0, before=None):
    """Gradient, intercepts and losses of a row, each repetition with half the step."""
    R = table.shape[1]
    b = np.zeros_like(z) if before is None else before.copy()
    rate, losses = (0.5 ** np.arange(R)).astype(np.float32), np.ones(R)
    bias = np.float32(0.2) if has_bias else None
    found, row = z.copy(), np.array(classes, np.int32)
    scale, step = np.float32(scale), np.float32(0.3)
    gradient_of(loss, found, scale, b, table, row, step, rate, bias, 2.5, losses)
    return found, b, losses


LOSSES = {
    _losses.Softmax: reference.softmax_loss,
    _losses.Sigmoid: reference.sigmoid_loss,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [[3], [0, 4], [5, 1, 3], [2, 2], []])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("n_buckets", [1, 4])
def test_the_gradient_is_that_of_the_loss(loss, classes, has_bias, n_buckets):
    rng = np.random.default_rng(0)
    z, before = rng.standard_normal((2, 2 * n_buckets)).astype(np.float32)
    table = rng.integers(0, n_buckets, (6, 2)).astype(np.uint8)
    found, b, losses = one_row(loss(), z, classes, table, has_bias, 0.7, before)

    def loss_at(r, logits):
        return LOSSES[loss](logits, classes, table[:, r])[0]

    for r in range(2):
        part = slice(n_buckets * r, n_buckets * (r + 1))
        logits = 0.7 * z[part].astype(float) + before[part]
        shifts = 1e-5 * np.eye(n_buckets)
        slope = [loss_at(r, logits + s) - loss_at(r, logits - s) for s in shifts]
        expected = 0.3 * 0.5**r * np.array(slope) / 2e-5
        assert_allclose(found[part], expected, rtol=1e-5, atol=1e-7)
        moved = before[part] - (0.2 * expected if has_bias else 0)
        assert_allclose(b[part], moved, rtol=1e-5, atol=1e-7)
        assert_allclose(losses[r], 1 + 2.5 * loss_at(r, logits), rtol=1e-5)


@pytest.mark.parametrize("classes", [[2, 3], [2, 3, 0], [3, 2, 3, 2]])
def test_classes_in_one_bucket_count_once_in_sigmoids(classes):
    # Classes 2 and 3 share the bucket of the first repetition, not of the second.
    table = np.array([[0, 1], [2, 1], [1, 2], [1, 0]], np.uint8)
    z = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    found = one_row(_losses.Sigmoid(), z, classes, table)
    own = [2, 0] if 0 in classes else [2]
    once = one_row(_losses.Sigmoid(), z, own, table)
    assert_array_equal(found[0][:3], once[0][:3])
    assert found[2][0] == once[2][0]
    assert found[2][1] != once[2][1]


@pytest.mark.parametrize("size", [1, 5, 10, 15, 18, 25, 60, 85])
@pytest.mark.parametrize("has_bias", [True, False])
def test_sigmoids_of_large_logits_lose_no_digits(size, has_bias):
    # A bucket of the row's class and another one, right or wrong.
    table = np.array([[0], [1]], np.uint8)
    for z in ([size, -size], [-size, size], [size, size], [-size, -size]):
        z = np.array(z, np.float32)
        found, b, losses = one_row(_losses.Sigmoid(), z, [0], table, has_bias)
        loss, gradient = reference.sigmoid_loss(z.astype(float), [0], table[:, 0])
        # The sum of the loss is in float32.
        assert_allclose(losses, 1 + 2.5 * loss, rtol=1e-6, atol=1e-6 * size)
        assert_allclose(found, 0.3 * gradient, rtol=1e-6, atol=3e-8)
        assert_allclose(b, -0.06 * gradient if has_bias else 0, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("z", [[1e4, -1e4], [1e37, -1e37], [-1e37, 1e37]])
def test_gradients_of_extreme_logits_are_finite(loss, z):
    table = np.array([[0], [1]], np.uint8)
    for classes in ([], [0], [0, 1]):
        for has_bias in (True, False):
            found = one_row(loss(), np.array(z, np.float32), classes, table, has_bias)
            assert all(np.isfinite(array).all() for array in found[:2])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("classes", [[], [0], [1]])
@pytest.mark.parametrize("has_bias", [True, False])
def test_sigmoids_of_logits_that_overflowed_show_in_the_loss(bad, classes, has_bias):
    table = np.array([[0], [1]], np.uint8)
    z = np.array([bad, 1], np.float32)
    with np.errstate(invalid="ignore"):
        losses = one_row(_losses.Sigmoid(), z, classes, table, has_bias)[2]
    assert not np.isfinite(losses).any()


@njit
def log1p_of(e):
    out = np.empty_like(e)
    for i in range(e.size):
        out[i] = _losses._log1p(e[i])
    return out


def test_log1p_has_a_small_error():
    e = np.linspace(0, 1, 400_000 if COMPILED else 20_000, dtype=np.float32)
    e = np.append(e, np.geomspace(1e-37, 1, 2_000, dtype=np.float32))
    expected = np.log1p(e.astype(np.float64))
    found = log1p_of(e)
    assert_allclose(found, expected, rtol=0, atol=3e-7)
    assert_allclose(found, expected, rtol=4e-7)


def logits_of_all_sizes():
    size = np.geomspace(1e-30, 3e38, 2_000)
    x = np.linspace(-100, 100, 200_001 if COMPILED else 10_001)
    return np.concatenate([-size, x, size, [0.0]]).astype(np.float32)


def test_sigmoids_are_those_of_float64():
    x = logits_of_all_sizes()
    sigmoid, log_sigmoid = _losses.LINKS["sigmoid"]
    wide = x.astype(np.float64)
    proba, log_proba = x[None].copy(), x[None].copy()
    with np.errstate(all="raise", under="ignore"):
        sigmoid(proba, 1)
        log_sigmoid(log_proba, 1)
    # exp of less than -87 is the smallest normal number
    assert_allclose(proba[0], expit(wide), rtol=2e-6, atol=2e-38)
    assert_allclose(log_proba[0], log_expit(wide), rtol=2e-6, atol=2e-38)
    assert (proba > 0).all() and (proba <= 1).all()
    assert np.isfinite(log_proba).all() and (log_proba <= 0).all()
    # In the order of the logits, so that ranks need no other scores.
    order = np.argsort(x, kind="stable")
    assert (np.diff(proba[0, order]) >= -1e-7 * proba[0, order[1:]]).all()


def test_sigmoids_do_not_depend_on_other_buckets():
    Z = np.random.default_rng(0).normal(0, 5, (6, 12)).astype(np.float32)
    for function in _losses.LINKS["sigmoid"]:
        whole, single = Z.copy(), Z.reshape(-1, 1).copy()
        function(whole, 4)
        function(single, 1)
        assert_array_equal(whole.ravel(), single.ravel())


class Counting(NamedTuple):
    """A loss that counts the classes."""


@njit(inner=True)
def count(loss, z, scale, b, table, classes, step, rate, bias, weight, losses):
    losses[0] += classes.shape[0]


def test_another_loss_is_a_line_of_the_table(monkeypatch):
    monkeypatch.setitem(_losses._GRADIENTS, Counting, count)
    z, rate, losses = np.zeros(4, np.float32), np.ones(1, np.float32), np.zeros(1)
    one, table, row = np.float32(1), np.zeros((3, 1), np.uint8), np.array([0, 2], "i")
    gradient_of(Counting(), z, one, z, table, row, one, rate, one, 1.0, losses)
    assert_array_equal(losses, [2])
