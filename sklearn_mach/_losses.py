"""Losses: gradients of the logits of a row, inlined into the kernels that train.

These are given a loss, a named tuple, and call `gradient`, of which Numba compiles that
for the loss's class.  Another loss is a class, its inner kernel, and a line of
`_GRADIENTS`.  Those here do without `max`, which compiles as another function.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from ._compat import ELEMENTWISE, INNER, njit

_NOTHING = np.float32(1e-25)  # of a probability
_LOG2E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)


class Softmax(NamedTuple):
    """Mean of -log P over the buckets of a row's classes; without a class no loss."""

    link = "softmax"  # of `LINKS`


class Sigmoid(NamedTuple):
    """Log losses of all buckets, added: is any of the row's classes in the bucket?"""

    link = "sigmoid"


@njit(inner=True)
def _exp(x):
    """float32 exp of x <= 0 that LLVM vectorises; relative error below 1e-6.

    Cephes' reduction to [-ln2/2, ln2/2] and its polynomial of degree 5.  Results
    below the smallest normal number become that number.
    """
    x = x if x > np.float32(-87.0) else np.float32(-87.0)
    n = np.rint(x * _LOG2E)
    x = x - n * _LN2_HIGH - n * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * x + np.float32(1.3981999507e-3)
    p = p * x + np.float32(8.3334519073e-3)
    p = p * x + np.float32(4.1665795894e-2)
    p = p * x + np.float32(1.6666665459e-1)
    p = p * x + np.float32(5.0000001201e-1)
    p = p * x * x + x + np.float32(1.0)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))
    return p * power.view(np.float32)


@njit(inner=True)
def _largest(z):
    """Largest of a float32 vector, by its bits: LLVM vectorises integer maxima."""
    best = np.int32(-2147483648)
    for q in range(z.shape[0]):  # over z itself takes five times as long
        bits = np.float32(z[q]).view(np.int32)
        bits = np.int32(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF)))
        best = bits if bits > best else best
    return np.int32(best ^ ((best >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


@njit(inner=True, fastmath=ELEMENTWISE)
def _scale_gradient(z, factor):
    """z *= factor, where a probability of next to nothing counts as zero.

    In another order the product of a long step and 1 - P would overflow.
    """
    for q in range(z.shape[0]):
        e = z[q] if abs(z[q]) > _NOTHING else np.float32(0.0)
        z[q] = e * factor


@njit(inner=True)
def _softmax_gradient(
    loss, z, scale, b, table, classes, step, rate, bias, weight, losses
):
    """step * rate * (softmax - mean of one-hots): zero for a row without classes."""
    n_classes = classes.shape[0]
    if n_classes == 0:
        step, weight, n_classes = np.float32(0.0), np.float64(0.0), 1
    share = np.float32(1.0) / np.float32(n_classes)
    n_buckets = z.shape[0] // rate.shape[0]
    for r in range(rate.shape[0]):
        zr = z[r * n_buckets : (r + 1) * n_buckets]
        br = b[r * n_buckets : (r + 1) * n_buckets]
        for q in range(n_buckets):
            zr[q] = zr[q] * scale + br[q]
        largest = _largest(zr)
        target = np.float32(0.0)
        for k in range(classes.shape[0]):
            target += zr[table[classes[k], r]]
        target = target * share - largest
        total = np.float32(0.0)
        for q in range(n_buckets):
            e = _exp(zr[q] - largest)
            zr[q] = e
            total += e
        losses[r] += weight * (np.log(total) - target)
        for k in range(classes.shape[0]):
            zr[table[classes[k], r]] -= total * share
        factor = step * rate[r] / total
        if bias is None:
            _scale_gradient(zr, factor)
            continue
        for q in range(n_buckets):
            g = zr[q] * factor
            zr[q] = g
            br[q] -= bias * g


@njit(inner=True)
def _log1p(e):
    """float32 log(1 + e) for e from 0 to 1 that LLVM vectorises; error below 3e-7."""
    s = e / (np.float32(2.0) + e)  # at most 1/3: log(1 + e) = 2 artanh(s)
    q = s * s
    p = np.float32(2.0 / 9.0) + q * np.float32(2.0 / 11.0)
    p = np.float32(2.0 / 7.0) + q * p
    p = np.float32(2.0 / 5.0) + q * p
    p = np.float32(2.0 / 3.0) + q * p
    return s * (np.float32(2.0) + q * p)


@njit(inner=True)
def _sigmoid(x, e):
    """Probability of logit x, where e = exp(-abs(x)), with no cancellation."""
    p = np.float32(1.0) / (np.float32(1.0) + e)
    return p if x > np.float32(0.0) else e * p


@njit(inner=True)
def _sigmoid_gradient(
    loss, z, scale, b, table, classes, step, rate, bias, weight, losses
):
    """step * rate * (sigmoid - whether a class of the row is in the bucket).

    A bucket is first P or, if that is less and keeps the digits, minus 1 - P; then one
    or two less if it has a class, and one more if it is negative.
    """
    zero, one, two = np.float32(0.0), np.float32(1.0), np.float32(2.0)
    n_buckets = z.shape[0] // rate.shape[0]
    for r in range(rate.shape[0]):
        zr = z[r * n_buckets : (r + 1) * n_buckets]
        br = b[r * n_buckets : (r + 1) * n_buckets]
        total = np.float32(0.0)
        for q in range(n_buckets):
            x = zr[q] * scale + br[q]
            e = _exp(-abs(x))
            # not zero: an overflow should show in the loss
            total += (x if x > zero else x * zero) + _log1p(e)
            lesser = e / (one + e)
            zr[q] = -lesser if x > zero else lesser
        losses[r] += weight * total
        for k in range(classes.shape[0]):
            p = zr[table[classes[k], r]]
            if p > -one:  # else another class has been there
                odds = (one - p) / p if p > zero else -p / (one + p)
                losses[r] += weight * np.log(odds)
                zr[table[classes[k], r]] = p - (two if p > zero else one)
        factor = step * rate[r]
        if bias is None:
            for q in range(n_buckets):
                zr[q] = zr[q] if zr[q] > zero else one + zr[q]
            _scale_gradient(zr, factor)
            continue
        for q in range(n_buckets):
            g = (zr[q] if zr[q] > zero else one + zr[q]) * factor
            zr[q] = g
            br[q] -= bias * g


_GRADIENTS = {Softmax: _softmax_gradient, Sigmoid: _sigmoid_gradient}


def gradient(loss, z, scale, b, table, classes, step, rate, bias, weight, losses):
    """z (R B,), where the logits are scale * z + b, becomes the gradient of a row.

    classes : of the row, any number; table (K, R): their buckets.  The gradient counts
    step * rate (R,) times, b falls by `bias` times as much, and losses (R,) grow by
    weight times the loss.  With a bias of None b stays, and probabilities of next to
    nothing count as zero: products of such gradients would lie below the smallest
    normal number, where BLAS is slow.
    """
    _GRADIENTS[type(loss)](
        loss, z, scale, b, table, classes, step, rate, bias, weight, losses
    )


# Kernels given a kernel would not be found in the cache on the disk: to another process
# it is another one.
@overload(gradient, jit_options=INNER)
def _gradient_of(loss, z, scale, b, table, classes, step, rate, bias, weight, losses):
    kernel = _GRADIENTS[loss.instance_class]
    # called, not returned: as a function of its own it compiles in half the time
    return lambda loss, z, scale, b, table, classes, step, rate, bias, weight, losses: (
        kernel(loss, z, scale, b, table, classes, step, rate, bias, weight, losses)
    )


# Two kernels, of which a fit compiles the latter only. Sharing the sum of exponentials
# made them 60 and 12 % slower: it must store what the other does not need.


@njit
def normalise(Z, n_buckets):
    """Logits Z (n, R B) become probabilities of the buckets."""
    for i in range(Z.shape[0]):
        for r in range(Z.shape[1] // n_buckets):
            z = Z[i, r * n_buckets : (r + 1) * n_buckets]
            largest = _largest(z)
            total = np.float32(0.0)
            for b in range(n_buckets):
                e = _exp(z[b] - largest)
                z[b] = e
                total += e
            for b in range(n_buckets):
                z[b] /= total


@njit
def log_normalise(Z, n_buckets):
    """Logits Z (n, R B) become log probabilities of the buckets."""
    for i in range(Z.shape[0]):
        for r in range(Z.shape[1] // n_buckets):
            z = Z[i, r * n_buckets : (r + 1) * n_buckets]
            largest = _largest(z)
            total = np.float32(0.0)
            for b in range(n_buckets):
                total += _exp(z[b] - largest)
            shift = largest + np.float32(np.log(total))
            for b in range(n_buckets):
                z[b] -= shift


@njit
def sigmoid(Z, n_buckets):
    """Logits Z (n, R B) become probabilities of the buckets, each by itself."""
    for i in range(Z.shape[0]):
        for q in range(Z.shape[1]):
            Z[i, q] = _sigmoid(Z[i, q], _exp(-abs(Z[i, q])))


@njit
def log_sigmoid(Z, n_buckets):
    """Logits Z (n, R B) become log probabilities of the buckets, each by itself."""
    for i in range(Z.shape[0]):
        for q in range(Z.shape[1]):
            x = Z[i, q]
            rest = _log1p(_exp(-abs(x)))
            Z[i, q] = (x if x < np.float32(0.0) else np.float32(0.0)) - rest


LINKS = {  # from logits to probabilities, and to their logarithms
    "softmax": (normalise, log_normalise),
    "sigmoid": (sigmoid, log_sigmoid),
}
