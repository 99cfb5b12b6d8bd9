"""The parts of the gradients, and gradients of rows of several classes."""

from typing import NamedTuple

import numpy as np
import pytest
import reference
from learners import COMPILED
from numpy.testing import assert_allclose, assert_array_equal

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


@pytest.mark.parametrize("classes", [[3], [0, 4], [5, 1, 3], [2, 2], []])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_gradient_is_that_of_the_loss(classes, has_bias):
    # Of two repetitions of four buckets, the second one with half the steps.
    rng = np.random.default_rng(0)
    z, before = rng.standard_normal((2, 8)).astype(np.float32)
    table = rng.integers(0, 4, (6, 2)).astype(np.uint8)
    rate, losses, b = np.array([1, 0.5], np.float32), np.ones(2), before.copy()
    scale, step, weight = np.float32(0.7), np.float32(0.3), 2.5
    bias = np.float32(0.2) if has_bias else None
    found = z.copy()
    row = np.array(classes, np.int32)
    gradient_of(
        _losses.Softmax(), found, scale, b, table, row, step, rate, bias, weight, losses
    )

    def loss(r, logits):
        own = reference.target(classes, table[:, r], 4)
        return reference.cross_entropy(own, np.log(reference.softmax(logits)))

    for r in range(2):
        part = slice(4 * r, 4 * r + 4)
        logits = 0.7 * z[part].astype(float) + before[part]
        shifts = 1e-5 * np.eye(4)
        slope = [loss(r, logits + s) - loss(r, logits - s) for s in shifts]
        expected = 0.3 * rate[r] * np.array(slope) / 2e-5
        assert_allclose(found[part], expected, rtol=1e-5, atol=1e-7)
        moved = before[part] - (0.2 * expected if has_bias else 0)
        assert_allclose(b[part], moved, rtol=1e-5, atol=1e-7)
        assert_allclose(losses[r], 1 + 2.5 * loss(r, logits), rtol=1e-5)


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
