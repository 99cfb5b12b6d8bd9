"""The built-in learner: R softmax regressions trained together by SGD.

The weights of all repetitions lie feature-major in one float32 array of shape
(d, R * B), so that a non-zero of a row costs one contiguous read (logits) and one
contiguous write (update).  A kernel works on the columns ``lo:hi`` of whole
repetitions; threads take different columns and never share a number, so that the
way the repetitions are dealt changes no bit of the result.

For a row x of class y with weight s, every repetition r takes the step
``W_r -= eta s (g * x) (softmax(x W_r + b_r) - onehot(h_r(y)))``; the intercept is the
weight of one more feature, whose value is the typical length of a row.  The gains g
(d,) give rare features longer steps, see `feature_gains`.  A row of large weight is
visited more often instead of taking a longer step, see `make_settings`.

An epoch over CSR rows is as fast as memory brings the weights.  Where they do not fit
the caches they are therefore integers of 16 bits while they are trained, in units of
a fraction of a feature's longest step, see `units`; a step is rounded at random, to
one of the two nearest integers, so that it is right on average.  The integers of a
row of W lie in the first half of the memory of its floats and become floats in place.
"""

import threading
import time
import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from joblib import effective_n_jobs
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches
from sklearn.utils.parallel import Parallel, delayed

from . import _dense
from ._compat import njit, one_blas_thread, read_only
from ._int16 import add_product, prefetch
from ._progress import SilentTask, report_epoch
from ._tiles import (
    TILE_COLUMNS,
    pack_negative,
    packed_shape,
    product_and_intercepts,
    subtract_product,
)

# Sums over features keep their order, so that every number is the same whatever
# columns stand beside it; fusing multiplications with additions is harmless.
_ELEMENTWISE = {"contract", "arcp", "nsz", "afn"}

_TILE = 256  # features of W that are made floats at a time
_HALF_VALUES = 1 << 18  # of float16 rows that are scored, made float32 at a time
_DENSE_COLUMNS = 512  # of W, trained together on a dense X
_BATCH_PART = (
    32  # rows of a dense batch that a thread reads or differentiates at a time
)
_NOTHING = np.float32(1e-25)  # of a probability
_FEW_ROWS = 3  # copying W to tiles takes longer than the logits of so few rows
_MIN_VISITS = 200_000  # rows passed in all epochs of "auto" together, at least
_SMALLEST = 1e-30  # squared length of a row, and its inverse the largest
_N_PROBE = 30_000  # rows of the trial
_N_PROBE_BUCKETS = 64  # at most, in the trial
_N_PROBE_MIN = 1_000  # with fewer rows there is no trial
_MANY_BUCKETS = 256  # of which the trial takes some, rather than merging them
_N_PROBE_ROWS = 6_000  # that it then takes, about
_PROBE_VISITS = 72_000  # of rows, in three to five epochs
_PROBE_SHARE = 10  # the trial takes this part of the bytes of the weights
_PROBE_BYTES = 16 << 20  # or these, if that is less
_CACHED = 32 << 20  # bytes of weights that are not worth 16 bits
_RANGE = 128.0  # steps of a feature, at least, that fit its 16 bits
_SCALE_RATIO = 1e3  # features whose scales differ by more are reported
_LOG_SCALES = (-5.0, 2.0)  # logarithms of inverse temperatures
_PROBE_POWERS = range(-2, 6)  # of two, the factors that the trial may compare
DEFAULT_FACTOR = 4.0  # where there are too few rows for a trial
_SLOW_VISITS = 4096  # of a feature, after which its steps have fallen to 0.7
_BLOCK_VISITS = 1024  # the same in blocks, where no steps fall to zero at the end
_SLOW_ROWS = 20_000  # after which all steps have, with a penalty
_HEAVIEST = 2.0  # weight of a visit, of rows that weigh 1 on average
_LONGEST = 4.0  # times the median squared length, at most, is a typical one
_PROBE_PRODUCTS = 5e8  # multiply-adds of an epoch's product in the dense trial
_PROBE_ROWS_BYTES = 1 << 26  # of its rows, at most
_WORTH_EPOCHS = 0.003  # share of the loss by which twice the epochs must lower it

_SILENT = SilentTask()

_ONE = np.float32(-16384.0)  # a gradient of one as an integer, which is subtracted
_LOG2E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)


@njit(inner=True)
def _exp(x):
    """float32 exp of x <= 0 that LLVM vectorises; relative error below 1e-6.

    Cephes' reduction to [-ln2/2, ln2/2] and its polynomial of degree 5.  Results
    below the smallest normal number become that number.
    """
    x = max(x, np.float32(-87.0))
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
        best = max(best, np.int32(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))))
    return np.int32(best ^ ((best >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


@njit(inner=True, fastmath=_ELEMENTWISE)
def _add_logits(data, indices, start, stop, W, lo, z):
    """z (hi - lo,) += the sum of v W[j, lo:hi] over the non-zeros (j, v) of a row."""
    width = z.shape[0]
    p = start
    while p + 4 <= stop:  # four rows of W a pass over z: fewer loads, more streams
        v0, v1 = np.float32(data[p]), np.float32(data[p + 1])
        v2, v3 = np.float32(data[p + 2]), np.float32(data[p + 3])
        w0 = W[indices[p], lo : lo + width]
        w1 = W[indices[p + 1], lo : lo + width]
        w2 = W[indices[p + 2], lo : lo + width]
        w3 = W[indices[p + 3], lo : lo + width]
        for q in range(width):
            z[q] = z[q] + v0 * w0[q] + v1 * w1[q] + v2 * w2[q] + v3 * w3[q]
        p += 4
    while p < stop:
        v = np.float32(data[p])
        w = W[indices[p], lo : lo + width]
        for q in range(width):
            z[q] += v * w[q]
        p += 1


@njit(inner=True, fastmath=_ELEMENTWISE)
def _scale_gradient(z, factor):
    """z *= factor, where a probability of next to nothing counts as zero.

    In another order the product of a long step and 1 - P would overflow.
    """
    for q in range(z.shape[0]):
        e = z[q] if abs(z[q]) > _NOTHING else np.float32(0.0)
        z[q] = e * factor


@njit(inner=True)
def _softmax_gradient(z, scale, b, codes, step, rate, bias, weight, loss):
    """z (R B,), where the logits are scale * z + b, becomes the gradient.

    That is step * rate * (softmax - onehot), and b falls by `bias` times as much; loss
    (R,) grows by weight * -log P.  With a bias of None b stays, and probabilities of
    next to nothing count as zero: products of such gradients would lie below the
    smallest normal number, where BLAS is slow.
    """
    n_buckets = z.shape[0] // rate.shape[0]
    for r in range(rate.shape[0]):
        zr = z[r * n_buckets : (r + 1) * n_buckets]
        br = b[r * n_buckets : (r + 1) * n_buckets]
        for q in range(n_buckets):
            zr[q] = zr[q] * scale + br[q]
        largest = _largest(zr)
        target = zr[codes[r]] - largest
        total = np.float32(0.0)
        for q in range(n_buckets):
            e = _exp(zr[q] - largest)
            zr[q] = e
            total += e
        loss[r] += weight * (np.log(total) - target)
        zr[codes[r]] -= total
        factor = step * rate[r] / total
        if bias is None:
            _scale_gradient(zr, factor)
            continue
        for q in range(n_buckets):
            g = zr[q] * factor
            zr[q] = g
            br[q] -= bias * g


@njit(fastmath=_ELEMENTWISE)
def _sgd_rows_csr(
    data, indices, indptr, order, first, y, table, weight, step, gain, past, slow,
    decay, shrink, rate, bias, lo, W, b, loss, halt, z, W_read
):  # fmt: skip
    """Steps for the rows `order` of a CSR matrix from number `first` on.

    Parameters as in `_sgd_epoch_csr`; z (R B,): space to work in.  W_read is W, of the
    type that `_add_logits` is compiled for.  The weights are scale * W.  Returns how
    many rows are done and the scale, if not before all are done then where it is so
    small that W should be multiplied by it.
    """
    scale = np.float32(1.0)
    for t in range(first, order.shape[0]):
        if halt[0]:
            break
        i = order[t]
        start, stop = np.int64(indptr[i]), np.int64(indptr[i + 1])
        done = np.float32(t / order.shape[0])
        factor = decay[0] + (decay[1] - decay[0]) * done
        row_step = np.float32(step[i] * factor)
        row_bias = bias / np.sqrt(np.float32(1.0) + past[-1] + slow[-1] * done)
        row_weight = np.float64(weight[i])
        for q in range(z.shape[0]):
            z[q] = np.float32(0.0)
        _add_logits(data, indices, start, stop, W_read, lo, z)
        _softmax_gradient(
            z, scale, b, table[y[i]], row_step, rate, row_bias, row_weight, loss
        )
        if row_step != 0.0:
            for p in range(start, stop):
                j = indices[p]
                v = np.float32(data[p]) * gain[j] / scale
                v /= np.sqrt(np.float32(1.0) + past[j] + slow[j] * done)
                w = W[j, lo : lo + z.shape[0]]
                for q in range(z.shape[0]):
                    w[q] -= v * z[q]
        if shrink > 0.0:  # after the step, so that the optimum is that of the penalty
            scale /= np.float32(1.0 + shrink * factor)
            if scale < np.float32(1e-4):
                return t + 1, scale
    return order.shape[0], scale


def _sgd_epoch_csr(
    X, order, y, table, weight, step, gain, past, slow, decay, shrink, rate, bias, lo,
    W, b, loss, halt
):  # fmt: skip
    """One pass over the rows `order` of a CSR matrix, a step a row.

    y (n,), table (K, R): the classes and their buckets.  weight, step (n,): a row's
    share in the loss and its step at decay 1; without a step nothing is updated.
    gain (d,): factor of the steps of a feature.  past, slow (d + 1,): steps are divided
    by ``sqrt(1 + past + slow t)``, where t goes from 0 to 1 in the pass.
    decay: its values at both ends of the pass.  shrink is the L2 penalty times the
    common step.  rate (R,): factor of the steps of a repetition, 0 where training has
    stopped.
    bias: square of the value of the intercept's feature, the last in past and slow.
    W (d, >= lo + R B), b (R B,) and loss (R,), the sum of weight * -log P, are changed.
    The pass ends where another thread sets halt (1,), bool.
    """
    *arrays, W_read = read_only(X.data, X.indices, X.indptr, W)
    z = np.empty_like(b)
    done = 0
    while done < order.size:
        done, scale = _sgd_rows_csr(
            *arrays, order, done, y, table, weight, step, gain, past, slow, decay,
            shrink, rate, bias, lo, W, b, loss, halt, z, W_read
        )  # fmt: skip
        if scale != 1:
            scales = np.where(rate != 0, np.float32(scale), np.float32(1))
            W[:, lo : lo + b.size] *= np.repeat(scales, b.size // rate.size)


@njit(inner=True, fastmath=_ELEMENTWISE)
def _add_logits_int16(data, indices, start, stop, W, unit, lo, z):
    """As `_add_logits` for weights that are W times the unit (d,) of the feature."""
    width = z.shape[0]
    p = start
    while p + 4 <= stop:
        j0, j1, j2, j3 = indices[p], indices[p + 1], indices[p + 2], indices[p + 3]
        v0, v1 = np.float32(data[p]) * unit[j0], np.float32(data[p + 1]) * unit[j1]
        v2, v3 = np.float32(data[p + 2]) * unit[j2], np.float32(data[p + 3]) * unit[j3]
        w0, w1 = W[j0, lo : lo + width], W[j1, lo : lo + width]
        w2, w3 = W[j2, lo : lo + width], W[j3, lo : lo + width]
        for q in range(width):
            z[q] = (
                z[q]
                + v0 * np.float32(w0[q])
                + v1 * np.float32(w1[q])
                + v2 * np.float32(w2[q])
                + v3 * np.float32(w3[q])
            )
        p += 4
    while p < stop:
        v = np.float32(data[p]) * unit[indices[p]]
        w = W[indices[p], lo : lo + width]
        for q in range(width):
            z[q] += v * np.float32(w[q])
        p += 1


@njit(fastmath=_ELEMENTWISE)
def _sgd_rows_int16(
    data, indices, indptr, order, y, table, weight, step, lift, past, slow, decay,
    unit, rate, bias, lo, W, b, loss, halt, z, g, state
):  # fmt: skip
    """The steps of `_sgd_epoch_int16`.

    W (d, >= lo + R B): the integers.
    z, g (R B,): space to work in.
    """
    one = np.float32(1.0)
    for t in range(order.shape[0]):
        if halt[0]:
            break
        i = order[t]
        start, stop = np.int64(indptr[i]), np.int64(indptr[i + 1])
        done = np.float32(t / order.shape[0])
        falling = decay[0] + (decay[1] - decay[0]) * done
        row_step = np.float32(step[i] * falling)
        row_bias = bias / np.sqrt(one + past[-1] + slow[-1] * done)
        row_weight = np.float64(weight[i])
        for q in range(z.shape[0]):
            z[q] = np.float32(0.0)
        _add_logits_int16(data, indices, start, stop, W, unit, lo, z)
        _softmax_gradient(
            z, one, b, table[y[i]], row_step, rate, row_bias, row_weight, loss
        )
        if row_step == 0.0:
            continue
        for q in range(z.shape[0]):
            g[q] = np.int16(np.int32(np.rint(z[q] * (_ONE / row_step))))
        ahead = order[min(t + 1, order.shape[0] - 1)]
        first, last = np.int64(indptr[ahead]), np.int64(indptr[ahead + 1])
        for p in range(start, stop):
            if first < last:  # the next row's weights come while these are changed
                prefetch(W[indices[first], lo : lo + z.shape[0]])
                first += 1
            j = indices[p]
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            k = np.float32(data[p]) * row_step * lift[j]
            k /= np.sqrt(one + past[j] + slow[j] * done)
            k = np.int16(np.floor(k + np.float32(state >> 16) * np.float32(2.0**-16)))
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            dither = np.int32(state >> 16)
            add_product(W[j, lo : lo + z.shape[0]], g, k, dither)


def _sgd_epoch_int16(
    X, order, y, table, weight, step, lift, past, slow, decay, unit, rate, bias, lo, W,
    b, loss, halt, state
):  # fmt: skip
    """As `_sgd_epoch_csr`, without a penalty, for weights of 16 bits.

    The weights are the unit (d,) of the feature times the integers that lie in the
    columns of W from lo on.  lift (d,): 4 gain / unit.  rate (R,): 1, or 0 where
    training has stopped.  state: 32 random bits, from which those follow that steps are
    rounded by.
    """
    arrays = read_only(X.data, X.indices, X.indptr)
    W = W.view(np.int16)
    z, g = np.empty_like(b), np.empty(b.size, np.int16)
    _sgd_rows_int16(
        *arrays, order, y, table, weight, step, lift, past, slow, decay, unit, rate,
        bias, 2 * lo, W, b, loss, halt, z, g, state
    )  # fmt: skip


def _to_float(W, lo, hi, unit):
    """The integers that lie in the columns ``lo:hi`` of W become the weights there."""
    integers = W.view(np.int16)[:, 2 * lo : lo + hi]
    for rows in gen_batches(W.shape[0], _TILE):
        part = integers[rows].copy()  # the weights are written over it
        np.multiply(part, unit[rows, None], out=W[rows, lo:hi], dtype=np.float32)


@njit
def _batch_gradient(Z, rows, b, y, table, weight, step, factor, rate, loss):
    """Z (n_batch, R B), logits less b, become the gradients of the rows; loss grows."""
    one = np.float32(1.0)
    for t in range(rows.shape[0]):
        i = rows[t]
        row_step = np.float32(step[i] * factor)
        row_weight = np.float64(weight[i])
        _softmax_gradient(
            Z[t], one, b, table[y[i]], row_step, rate, None, row_weight, loss
        )


def _sgd_epoch_dense(
    X, moved, metric, batch_size, order, y, table, weight, step, gain, past, slow,
    decay, shrink, rate, bias, lo, W, b, loss, halt, n_threads=1
):  # fmt: skip
    """As `_sgd_epoch_csr` for a dense X: a step a batch, the products by BLAS.

    With a `Metric` a row makes a step as ``(x - center) P``, which is its row in
    `moved` where that is not None.  Threads share the columns of W in the products and
    the rows of the batch in the gradients.
    """
    W = W[:, lo : lo + b.size]
    columns, tiles = _dense.blocks(b.size), _dense.blocks(b.size, TILE_COLUMNS)
    shrunk = np.repeat(rate != 0, b.size // rate.size).astype(np.float32)
    size = min(batch_size, order.size)
    batch, steps = np.empty((2, size, W.shape[0]), np.float32)
    scores = np.empty((size, b.size), np.float32)
    shares = np.empty(size, np.float32)
    packed = np.zeros(packed_shape(size, W.shape[0]), np.float32)
    groups = _dense.slices(len(packed), -(-len(packed) // 4))
    b_read, y, table, weight, step = read_only(b, y, table, weight, step)
    has_steps = bool(step.any())
    falls = bool(past.any() or slow.any())
    with _dense.team(n_threads) as members:
        for t in range(0, order.size, batch_size):
            if halt[0]:
                break
            rows = order[t : t + batch_size]
            parts = _dense.slices(rows.size, _BATCH_PART)
            A, P, Z, share = (
                array[: rows.size] for array in (batch, steps, scores, shares)
            )
            done = np.float32(t / order.size)
            factor = decay[0] + (decay[1] - decay[0]) * done
            slowing = np.sqrt(1 + past + slow * done) if falls else np.ones(1, "f")
            slowed = gain / slowing[: gain.size]
            losses = np.zeros((len(parts), loss.size))

            def gather(
                part, rows=rows, A=A, P=P, share=share, slowed=slowed, c=slowing
            ):
                A[part] = X[rows[part]]
                if not has_steps:
                    return
                share[part] = bias / c[-1]
                if metric is None:
                    P[part] = A[part]
                else:
                    P[part] = (
                        metric.apply(A[part]) if moved is None else moved[rows[part]]
                    )
                    share[part] -= P[part] @ metric.center
                P[part] *= slowed

            def score(block, A=A, Z=Z):
                np.matmul(A, W[:, block], out=Z[:, block])

            def differentiate(i, rows=rows, Z=Z, factor=factor, losses=losses, p=parts):
                _batch_gradient(
                    Z[p[i]], rows[p[i]], b_read, y, table, weight, step, factor, rate,
                    losses[i]
                )  # fmt: skip

            members.run(gather, parts)
            members.run(score, columns)
            members.run(differentiate, range(len(parts)))
            loss += losses.sum(axis=0)
            if not has_steps:
                continue
            keep = 1 / (1 + np.float32(shrink * factor * rows.size) * shrunk)

            def pack(part, P=P, n=rows.size):
                pack_negative(P, packed[:, :n], part.start, part.stop)

            def change(block, Z=Z, share=share, keep=keep, n=rows.size):
                subtract_product(packed[:, :n], Z, W, block.start, block.stop)
                b[block] -= share @ Z[:, block]
                if shrink > 0:
                    W[:, block] *= keep[block]

            members.run(pack, groups)
            members.run(change, tiles)


class Settings(NamedTuple):
    """What the learner needs besides the data.

    step : float32 array of shape (n_samples,), the step of a row's visit at the start.
    weight : float32 array of shape (n_samples,), the share of a visit in the loss.
    visits : int array of shape (n_samples,), of each row in an epoch; None is one each.
    gain : float32 array of shape (n_features,), factors of the steps of the features.
    past, slow : float32 arrays of shape (n_features + 1,), of the features and the
        intercept: steps are divided by ``sqrt(1 + past + slow t)`` after t epochs.
    bias : float, square of the value of the intercept's feature.
    penalty : float, alpha times the common step.
    batch_size : int, rows a step of a dense X (a CSR X takes a step a row).
    decay : pairs of floats, the factor of the step at both ends of each epoch.
    seed : int, for the order of the rows.
    tol, n_iter_no_change : a repetition stops when its loss has not fallen by `tol`
        for so many epochs; None never stops.
    train, held : numbers of the rows to train on and of those set aside.
    early_stopping : bool, whether the loss to watch is that of the rows set aside.
    verbose : int
    rate : float32 array of shape (R,), factors of the steps of the repetitions.
    unit : float32 array of shape (n_features,), of the weights while they are integers
        of 16 bits; None keeps them float32.
    metric : `Metric` in which dense rows make their steps, or None.
    moved : float32 array of shape (n_samples, n_features), the rows in the metric, or
        None where they would take much memory.
    shrink : float32 array of shape (n_samples,), factors of dense rows in sums: less
        than 1 for very long ones.
    starts : bool, whether the weights start from the means of the buckets.
    """

    step: np.ndarray
    weight: np.ndarray
    visits: np.ndarray | None
    gain: np.ndarray
    past: np.ndarray
    slow: np.ndarray
    bias: float
    penalty: float
    batch_size: int
    decay: list
    seed: int
    tol: float | None
    n_iter_no_change: int
    train: np.ndarray
    held: np.ndarray
    early_stopping: bool
    verbose: int
    rate: np.ndarray | None = None
    unit: np.ndarray | None = None
    metric: _dense.Metric | None = None
    moved: np.ndarray | None = None
    shrink: np.ndarray | None = None
    starts: bool = False

    def scaled(self, factor):
        """The same with all steps multiplied by `factor`."""
        step, unit = self.step * np.float32(factor), self.unit
        if unit is not None:
            unit = unit * np.float32(factor)
        return self._replace(step=step, penalty=self.penalty * factor, unit=unit)

    def with_epochs(self, n_epochs):
        """The same with so many epochs."""
        return self._replace(decay=_falling(n_epochs, 1, 0))

    def visited(self, rows):
        """The rows, each as often as it is visited in an epoch."""
        return rows if self.visits is None else np.repeat(rows, self.visits[rows])

    def row_weight(self, rows):
        """Weights of the rows: of all their visits together."""
        weight = self.weight[rows]
        return weight if self.visits is None else weight * self.visits[rows]


class Seen(NamedTuple):
    """Sums over the rows seen so far, from which their steps follow.

    scale : float, that weights are divided by.
    n_rows : int, those of weight zero left out.
    weight : float, the sum of the weights.
    length : float, the weighted sum of the squared lengths.
    frequency, squares : float64 arrays of shape (n_features,), of `feature_sums`.
    metric : of blocks of dense rows, from the first that has enough, or None.
    """

    scale: float
    n_rows: int
    weight: float
    length: float
    frequency: np.ndarray
    squares: np.ndarray
    metric: _dense.Metric | None = None

    @classmethod
    def nothing(cls, n_features):
        return cls(0.0, 0, 0.0, 0.0, np.zeros(n_features), np.zeros(n_features))


def see(X, weight, lengths, seen):
    """Add rows to `Seen`; a few very long ones count as less long.

    lengths (n_samples,): squared, of which those above four times the median count as
    that, and the squares of the features in proportion.  One row of huge values would
    otherwise stop the learning from all others, whose steps follow from the mean.
    """
    scale = float(seen.scale or weight[weight > 0].mean())
    weight = (weight / scale).astype(np.float32)
    limit = _limit(lengths, weight)
    total, limited = (
        weight @ values for values in (lengths, np.minimum(lengths, limit))
    )
    frequency, squares = feature_sums(X, weight)
    if limited < total:
        squares = feature_sums(X, weight * limit / np.maximum(lengths, limit))[1]
    if total > 2 * limited:
        row = int((lengths * (weight > 0)).argmax())
        ratio = np.sqrt(_LONGEST * lengths[row] / limit)
        warnings.warn(
            f"Some rows are much longer than the others: row {row} is about "
            f"{ratio:.3g} times as long as the median row. They take steps of their "
            "own and do not set those of the others. Bring the rows to unit length "
            "with sklearn.preprocessing.Normalizer if their lengths mean nothing.",
            ConvergenceWarning,
            stacklevel=2,
        )
    n_rows, total = np.count_nonzero(weight), weight.sum(dtype=np.float64)
    sums = n_rows, total, limited, frequency, squares
    sums = (old + new for old, new in zip(seen[1:-1], sums, strict=True))
    return Seen(scale, *sums, seen.metric)


def _limit(lengths, weight):
    """Squared length as which longer rows count."""
    positive = lengths[(lengths > 0) & (weight > 0)]
    return _LONGEST * np.median(positive) if positive.size else np.inf


def make_settings(
    X, y, weight, options, seed, seen=None, n_held=0, n_columns=0, is_block=False
):
    """Settings from the parameters of the estimator, the dictionary `options`.

    `n_held` rows are set aside, or as many as early stopping asks for, see
    `set_aside`.  With learning_rate "auto" the steps are those for a factor of one: the
    inverse of the mean squared length of the rows (or of a row's own if that is
    larger), and for a dense X divided by the `coherence` of a batch.  Unless a penalty
    asks for equal steps, rare features get longer ones then, and the steps of a feature
    fall with the square root of its visits: frequent features settle while rare ones
    still learn.  `n_columns` of W that do not fit the caches get 16 bits.

    A row of more than twice the mean weight is visited more than once in an epoch, so
    that no step is longer than two of a row of mean weight; a row of weight zero is not
    visited and does not count.

    All steps fall to zero at the end of the last epoch, but not in a block of rows of
    which nobody knows how many will follow (`is_block`).

    seen : sums over the rows of earlier blocks, or None.  Returns the settings and the
    sums with these rows.
    """
    lengths = squared_lengths(X)
    if weight is None:
        weight = np.ones(X.shape[0], np.float32)
    n_samples = np.count_nonzero(weight)
    before = seen or Seen.nothing(X.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        seen = see(X, weight, lengths, before)
    mean_length = float(seen.length / seen.weight) or 1.0
    if not (_SMALLEST < mean_length and lengths.max() < 1 / _SMALLEST):
        raise ValueError(
            f"The squared lengths of the rows, {mean_length:.3g} on average and at "
            f"most {lengths.max():.3g}, leave no room in float32. Bring the rows to "
            "unit length with sklearn.preprocessing.Normalizer."
        )
    if not before.n_rows:
        _warn_about_scales(seen.frequency, seen.squares)
    mean_weight = seen.scale * (seen.weight / seen.n_rows)
    weight = (weight / mean_weight).astype(np.float32)
    visits = None
    if weight.max() > _HEAVIEST or weight.min() == 0:
        visits = np.ceil(weight / np.float32(_HEAVIEST)).astype(np.int64)
        weight = weight / np.maximum(visits, 1).astype(np.float32)
    row_weight = weight if visits is None else weight * visits
    # of a visit in the sum of weights, by which the penalty counts
    share = float(np.average(weight, weights=visits))
    batch_size = options["batch_size"]
    if batch_size == "auto":
        batch_size = int(np.clip(n_samples // 64, 1, 256))
    common = options["learning_rate"]
    gain = np.ones(X.shape[1], np.float32)
    has_gains = common == "auto" and options["alpha"] == 0
    metric = moved = shrink = None
    if has_gains and not sp.issparse(X):
        limit = _limit(lengths, weight)
        shrink = np.minimum(limit / np.maximum(lengths, _SMALLEST), 1)
        shrink = np.sqrt(shrink).astype(np.float32)
        metric = seen.metric
        if metric is None and (n_samples >= _N_PROBE_MIN or not is_block):
            metric = _dense.find_metric(X, row_weight, shrink, n_columns, seed)
            seen = seen._replace(metric=metric if is_block else None)
    if common == "auto":
        if metric is not None:
            lengths, moved = _dense.move(X, metric)
            limited = np.minimum(lengths, _limit(lengths, weight))
            mean_length = float(limited @ row_weight / row_weight.sum())
        elif has_gains:
            gain = feature_gains(seen.frequency, seen.squares, seen.weight)
            lengths = squared_lengths(X, gain)
        common = 1 / mean_length
        step = (weight / np.maximum(lengths, mean_length)).astype(np.float32)
        if metric is not None:
            mean_length *= _dense.BIAS  # from here on that of the intercept
        if not sp.issparse(X):
            n_visits = 1 if visits is None else visits
            visited = np.repeat(np.arange(X.shape[0]), n_visits)
            excess = coherence(
                X, visited, step, gain, mean_length, batch_size, seed, metric
            )
            common, step = common / excess, step / np.float32(excess)
    else:
        with np.errstate(over="ignore"):  # refused when the weights overflow
            step = (weight * common).astype(np.float32)
    past = slow = np.zeros(X.shape[1] + 1, np.float32)
    n_epochs = options["max_iter"]
    if n_epochs == "auto":
        n_epochs = int(np.clip(-(-_MIN_VISITS // n_samples), 5, 100))
    decay = _falling(n_epochs, 1, 0)
    if is_block:
        decay = [(1, 1)]
    if is_block and options["alpha"] > 0:  # the penalty's steps fall as the others
        now = 1 / np.sqrt(1 + before.n_rows / _SLOW_ROWS)
        decay = [(now, now)]
    elif is_block or (has_gains and metric is None):
        visits_to_slow = _BLOCK_VISITS if is_block else _SLOW_VISITS
        past, now = (
            np.append(sums.frequency, sums.weight).astype(np.float32) / visits_to_slow
            for sums in (before, seen)
        )
        slow = now - past
    unit = None
    is_large = 4 * X.shape[1] * n_columns > _CACHED
    if has_gains and sp.issparse(X) and is_large and not is_block:
        of_features = seen.frequency
        if visits is not None:
            of_features = feature_sums(X, visits)[0]
        unit = units(X, step, gain, of_features * n_epochs)
    if options["early_stopping"]:
        fraction = options["validation_fraction"]
        n_held = int(np.ceil(fraction * n_samples))
        if n_held >= n_samples:
            raise ValueError(
                f"validation_fraction={fraction} of {n_samples} rows leaves none to "
                "train on."
            )
    rows = np.arange(X.shape[0], dtype=np.int32)
    if visits is not None:
        rows = rows[visits > 0]
    held = rows[:0]
    if n_held:
        rows, held = set_aside(rows, y, n_held, seed)
    if options["early_stopping"] and not held.size:
        raise ValueError(
            "early_stopping=True sets rows aside whose class has other rows, and there "
            "are none. Use early_stopping=False."
        )
    settings = Settings(
        step=step,
        weight=weight,
        visits=visits,
        gain=gain,
        past=past,
        slow=slow,
        bias=mean_length,
        penalty=options["alpha"] * common * share,
        batch_size=batch_size,
        decay=decay,
        seed=seed,
        tol=options["tol"],
        n_iter_no_change=options["n_iter_no_change"],
        train=rows,
        held=held,
        early_stopping=options["early_stopping"],
        verbose=options["verbose"],
        unit=unit,
        metric=metric,
        moved=moved,
        shrink=shrink,
        starts=metric is not None and not is_block,
    )
    return settings, seen


def _falling(n_epochs, first, last):
    """Pairs that go from `first` to `last` in n_epochs steps."""
    values = np.linspace(first, last, n_epochs + 1)
    return list(zip(values[:-1], values[1:], strict=True))


def set_aside(rows, y, n_held, seed):
    """The rows in a random order, without `n_held` of them, and these.

    No class loses its last row: a row is set aside only if its class y[i] has another
    behind it in the order.
    """
    rows = np.random.default_rng(seed).permutation(rows)
    last = np.zeros(rows.size, bool)
    last[rows.size - 1 - np.unique(y[rows][::-1], return_index=True)[1]] = True
    held = np.flatnonzero(~last)[:n_held]
    return np.delete(rows, held), rows[held]


def split_repetitions(X, first, n_repetitions, n_buckets, n_jobs):
    """The blocks of repetitions, from `first` on, that are trained together."""
    if first == n_repetitions:
        return []
    if sp.issparse(X):
        n_blocks = min(effective_n_jobs(n_jobs), n_repetitions - first)
    else:  # the sums of BLAS depend on the shapes: those are the same for every n_jobs
        n_blocks = -(-(n_repetitions - first) // max(_DENSE_COLUMNS // n_buckets, 1))
    return np.array_split(np.arange(first, n_repetitions), n_blocks)


def train_all(X, y, table, W, b, first, zero, settings, n_jobs, task=SilentTask):
    """Train the repetitions from `first` on in W (d, R B) and b (R B,).

    `zero` says that their weights are all zero; ``task(r)`` gives the task of the block
    that begins with repetition r.  Returns the largest number of epochs.
    """
    n_repetitions = table.shape[1]
    n_buckets = b.size // n_repetitions
    blocks = split_repetitions(X, first, n_repetitions, n_buckets, n_jobs)
    if not blocks:
        return 0
    n_parallel = min(effective_n_jobs(n_jobs), len(blocks))
    n_parts = -(-len(blocks) // n_parallel)
    parts = [
        None if i % n_parallel else (i // n_parallel, n_parts)
        for i in range(len(blocks))
    ]
    halt = np.zeros(1, np.bool_)
    n_threads = max(effective_n_jobs(n_jobs) // len(blocks), 1)
    columns = [
        Columns(
            W, b, r[0] * n_buckets, (r[-1] + 1) * n_buckets, zero, part, halt, n_threads
        )
        for r, part in zip(blocks, parts, strict=True)
    ]
    with one_blas_thread():
        try:
            results = Parallel(n_jobs=n_jobs, prefer="threads")(
                delayed(_train_task)(task(r[0]), X, y, table[:, r], c, settings)
                for r, c in zip(blocks, columns, strict=True)
            )
        except BaseException:  # joblib leaves threads behind that would write on
            halt[0] = True
            for c in columns:
                with c.in_use:  # waits for the thread
                    pass
            raise
    in_place = []
    for r, c, (arrays, _, _) in zip(blocks, columns, results, strict=True):
        if arrays is None:
            in_place.append(r)
        else:
            W[:, c.lo : c.hi], b[c.lo : c.hi] = arrays
    if settings.unit is not None:
        to_float(W, in_place, n_buckets, settings.unit)
    return max(int(n_iter.max()) for _, n_iter, _ in results)


def to_float(W, blocks, n_buckets, unit):
    """Weights of `blocks` of repetitions that are integers become float32, in place."""
    Parallel(n_jobs=max(len(blocks), 1), require="sharedmem")(
        delayed(_to_float)(W, r[0] * n_buckets, (r[-1] + 1) * n_buckets, unit)
        for r in blocks
    )


class Columns:
    """The columns ``lo:hi`` of W (d, R B) and b (R B,), for one task to train.

    Threads write to the arrays in place.  In another process they are a copy, which
    `result` returns; weights that are all zero are not sent there.

    `part` is for what is printed: tasks run in so many parts, one after the other, and
    the first task of each part has the part's number and how many there are.

    The task holds the lock `in_use` and ends soon after `halt` (1,), bool, is set.  In
    another process nobody sets it.

    `n_threads` share the products of dense rows; in another process it is one.
    """

    _OF_PROCESS = ("halt", "in_use", "n_threads")
    n_threads = 1

    def __init__(self, W, b, lo, hi, zero, part=(0, 1), halt=None, n_threads=1):
        self.n_threads = n_threads
        self.W, self.b, self.lo, self.hi, self.zero = W, b, lo, hi, zero
        self.part = part
        self.in_place = True
        self.halt = np.zeros(1, np.bool_) if halt is None else halt
        self.in_use = threading.RLock()

    def __getstate__(self):
        if not self.in_place:  # Dask's scheduler hands on what it was sent
            return {k: v for k, v in self.__dict__.items() if k not in self._OF_PROCESS}
        lo, hi = self.lo, self.hi
        W = None if self.zero else np.ascontiguousarray(self.W[:, lo:hi])
        state = {"W": W, "b": self.b[lo:hi], "shape": (self.W.shape[0], hi - lo)}
        state |= {"part": self.part}
        return state | {"lo": 0, "hi": hi - lo, "zero": self.zero, "in_place": False}

    def __setstate__(self, state):
        self.__dict__ |= state
        self.halt, self.in_use = np.zeros(1, np.bool_), threading.RLock()

    def check_halt(self):
        if self.halt[0]:
            raise RuntimeError("Training was stopped: another task of it failed.")

    def arrays(self):
        """The weights, the intercepts of the columns and the first column."""
        if not self.in_place:  # what another process sent may be read-only
            zero = self.W is None
            self.W = np.zeros(self.shape, np.float32) if zero else self.W.copy()
            self.b = self.b.copy()
        return self.W, self.b[self.lo : self.hi], self.lo

    def result(self):
        return None if self.in_place else (self.W, self.b)


def _train_task(task, X, y, table, columns, settings):
    with columns.in_use:
        columns.check_halt()
        with task.running():
            return train(X, y, table, columns, settings, task)


def train(X, y, table, columns, settings, task=_SILENT):
    """Train some repetitions on all rows.

    Parameters
    ----------
    X : CSR matrix or C-ordered array of shape (n_samples, n_features), float; a dense
        X may be float16, of which batches become float32
    y : int32 array of shape (n_samples,), class numbers
    table : unsigned array of shape (n_classes, R), the buckets in these repetitions
    columns : Columns
    settings : Settings
    task : SilentTask or Task, told of the epochs

    Returns
    -------
    arrays : None if trained in place, or the arrays W and b; in place the weights stay
        integers where the settings have units, see `to_float`
    n_iter : int array of shape (R,), epochs done
    loss : float array of shape (R,), mean log loss in the last epoch
    """
    W, b, lo = columns.arrays()
    s = settings
    table = np.ascontiguousarray(table)
    n_repetitions = table.shape[1]
    rate = settings.rate
    rate = np.ones(n_repetitions, np.float32) if rate is None else rate.copy()
    lift = None if s.unit is None else 4 * s.gain / s.unit
    best = np.full(n_repetitions, np.inf)
    since_best = np.zeros(n_repetitions, np.int64)
    n_iter = np.zeros(n_repetitions, np.int64)
    last_loss = np.full(n_repetitions, np.nan)
    no_step = np.zeros_like(s.step)
    train_rows, held_rows = s.visited(s.train), s.visited(s.held)

    def run(rows, step, epoch, decay, penalty, state=0):
        loss = np.zeros(n_repetitions)
        common = (rows, y, table, s.weight, step)
        slowing = s.past + epoch * s.slow, s.slow
        trained = (rate, np.float32(s.bias), lo, W, b, loss, columns.halt)
        if lift is not None:
            options = lift, *slowing, decay, s.unit
            _sgd_epoch_int16(X, *common, *options, *trained, state)
        elif sp.issparse(X):
            _sgd_epoch_csr(X, *common, s.gain, *slowing, decay, penalty, *trained)
        else:
            dense = X, s.moved, s.metric, s.batch_size
            options = s.gain, *slowing, decay, penalty
            with np.errstate(all="ignore"):  # overflow is reported below
                _sgd_epoch_dense(*dense, *common, *options, *trained, columns.n_threads)
        columns.check_halt()
        return loss / max(s.weight[rows].sum(dtype=np.float64), np.finfo(float).tiny)

    started = time.perf_counter()
    for epoch, decay in enumerate(s.decay):
        task.begin_epoch()
        rng = np.random.default_rng([s.seed, epoch])
        order, state = rng.permutation(train_rows), int(rng.integers(2**32))
        decay = np.array(decay, np.float64)  # one type, or kernels compile again
        loss = run(order, s.step, epoch, decay, s.penalty, state)
        if s.early_stopping:
            loss = run(held_rows, no_step, epoch, np.zeros(2), 0.0)
        if not (np.isfinite(loss).all() and np.isfinite(b).all()):
            raise ValueError(
                f"The weights overflowed in epoch {epoch + 1}. Use a smaller "
                "learning_rate (or 'auto'), or bring the features to one scale with "
                "sklearn.preprocessing.Normalizer or MaxAbsScaler."
            )
        running = rate != 0
        n_iter[running] += 1
        last_loss[running] = loss[running]
        if s.verbose and columns.part:
            report_epoch(
                epoch, columns.part, loss.mean(), s, time.perf_counter() - started
            )
        if s.tol is not None:
            since_best = np.where(loss > best - s.tol, since_best + 1, 0)
            rate[since_best >= s.n_iter_no_change] = 0
            best = np.minimum(best, loss)
        if task.end_epoch() or not rate.any():
            break
    if lift is not None and not columns.in_place:
        _to_float(W, 0, b.size, s.unit)
    return columns.result(), n_iter, last_loss


def probe(X, y, column, n_buckets, settings, n_columns, n_jobs=None):
    """The factor of the steps and the number of epochs by a trial; None if unknown."""
    if settings.metric is not None:
        return probe_dense(X, y, column, n_buckets, settings, n_jobs)
    return probe_step(X, y, column, n_buckets, settings, n_columns, n_jobs), None


def probe_step(X, y, column, n_buckets, settings, n_columns, n_jobs=None):
    """The factor of the steps that suits the rows, by a short trial, or None.

    Repetitions that differ by their factor only, a power of two from 1/4 to 32, are
    trained on at most 24,000 rows.  The log loss of others, each factor's at its best
    temperature, a parabola in the logarithm of the factor, has its minimum at the
    answer.  Without the temperature confidence is punished, which later is corrected
    anyway, and all the more the fewer rows there are.  Of more than 256 buckets, which
    are nearly classes, the trial takes the rows of some: merged ones would ask for
    other steps.

    With fewer than 1,000 rows there is no answer.  The trial takes a tenth of the bytes
    of `n_columns` of weights: of fewer rows or buckets, and a few factors at a time.
    Threads share the factors of a CSR X (the sums of BLAS depend on shapes).
    """
    if settings.train.size < _N_PROBE_MIN:
        return None
    budget = probe_bytes(X.shape[1], n_columns)
    rng = np.random.default_rng([settings.seed, 1])
    order = rng.permutation(settings.train)
    if n_buckets > _MANY_BUCKETS:
        share = _N_PROBE_ROWS / order.size
        column, n_buckets, chosen = _some_buckets(column, n_buckets, share, rng)
        order = order[chosen[y[order]]]
    else:
        n_buckets = min(n_buckets, _N_PROBE_BUCKETS)
    order, features = order[:_N_PROBE], np.arange(X.shape[1])
    if sp.issparse(X):
        features = np.unique(X[order].indices)
        while 4 * features.size * n_buckets > budget and order.size > _N_PROBE_MIN:
            order = order[: max(order.size // 2, _N_PROBE_MIN)]
            features = np.unique(X[order].indices)
    n_columns = budget // (4 * max(features.size, 1))
    n_buckets = int(np.clip(n_columns, 2, n_buckets))
    column, at_once = column % n_buckets, max(n_columns // n_buckets, 1)
    rows = slice(None)
    held, train_rows = np.split(order, [order.size // 5])
    if sp.issparse(X):  # only what the trial needs
        rows, part = order, X[order]
        place = np.empty(X.shape[1], np.int32)
        place[features] = np.arange(features.size)
        arrays = part.data, place[part.indices], part.indptr
        X, y = sp.csr_array(arrays, (order.size, features.size)), y[order]
        held, train_rows = np.split(np.arange(order.size, dtype=np.int32), [held.size])
    n_epochs = int(np.clip(-(-_PROBE_VISITS // train_rows.size), 3, 5))
    share = train_rows.size / settings.train.size
    trial = settings._replace(
        step=settings.step[rows],
        weight=settings.weight[rows],
        visits=None if settings.visits is None else settings.visits[rows],
        gain=settings.gain[features],
        past=np.zeros(features.size + 1, np.float32),
        slow=settings.slow[np.append(features, -1)] * np.float32(share),
        train=train_rows,
        held=held,
        early_stopping=False,
        decay=_falling(n_epochs, 1, 0),
        penalty=0.0,
        tol=None,
        verbose=0,
        unit=None,
    )
    n_threads = effective_n_jobs(n_jobs) if sp.issparse(X) else 1
    losses = {}

    def measure(powers):
        rate = np.float32(2.0) ** np.array(powers, np.float32)
        W = np.zeros((features.size, rate.size * n_buckets), np.float32)
        b = np.zeros(rate.size * n_buckets, np.float32)
        table = np.repeat(column[:, None], rate.size, axis=1)
        columns = Columns(W, b, 0, b.size, zero=True)
        train(X, y, table, columns, trial._replace(rate=rate))
        log_proba = bucket_proba(X[held], W, b, n_buckets, True)
        own, weight = column[y[held]], trial.row_weight(held)
        for f, power in enumerate(powers):
            losses[power] = _scaled_loss(log_proba[:, f], own, weight)

    def compare(powers):
        powers = [p for p in powers if p in _PROBE_POWERS and p not in losses]
        for start in range(0, len(powers), at_once):
            batch = powers[start : start + at_once]
            groups = np.array_split(batch, min(n_threads, len(batch)))
            Parallel(n_jobs=len(groups), require="sharedmem")(
                delayed(measure)(group.tolist()) for group in groups
            )
        return min(losses, key=losses.get)

    best = compare([0, 2, 4])
    while (new := compare([best - 1, best + 1])) != best:
        best = new
    shift = 0.0
    if best - 1 in losses and best + 1 in losses:
        below, above = (losses[best + side] - losses[best] for side in (-1, 1))
        if below + above > 0:
            shift = (below - above) / (below + above) / 2
    return float(2.0 ** (best + shift))


def _some_buckets(column, n_buckets, share, rng):
    """A share of the buckets, 64 at least, with new numbers.

    Returns the new numbers of the classes (K,), how many buckets there are, and whether
    a class is in one of them (K,).
    """
    n_chosen = max(int(np.ceil(share * n_buckets)), _N_PROBE_BUCKETS)
    chosen = rng.permutation(n_buckets)[:n_chosen]
    number = np.full(n_buckets, -1, np.int32)
    number[chosen] = np.arange(chosen.size)
    column = number[column]
    return column, chosen.size, column >= 0


def probe_dense(X, y, column, n_buckets, settings, n_jobs=None):
    """The factor of the steps and the number of epochs that suit dense rows.

    A trial on the rows of some buckets of one repetition, so many that an epoch takes
    half a billion multiply-adds a product: each with all its rows, since fewer rows a
    bucket would need more epochs.  First factors are compared in one epoch, by the
    loss as in `probe_step`, then twice as many epochs, with the same factor or half of
    it, as long as that lowers the loss by 0.3 %.  Both are None with fewer than 1,000
    rows.
    """
    n_rows = settings.train.size
    if n_rows < _N_PROBE_MIN:
        return None, None
    n_most = len(settings.decay)
    rng = np.random.default_rng([settings.seed, 1])
    share = np.sqrt(_PROBE_PRODUCTS / (X.shape[1] * n_rows * n_buckets))
    share = max(share, _N_PROBE_MIN / n_rows)
    column, n_buckets, chosen = _some_buckets(column, n_buckets, share, rng)
    rows = rng.permutation(settings.train[chosen[y[settings.train]]])
    by_products = _PROBE_PRODUCTS / (X.shape[1] * n_buckets)
    most = min(_N_PROBE, by_products, _PROBE_ROWS_BYTES / (4 * X.shape[1]))
    rows = rows[: max(int(most), _N_PROBE_MIN)]
    X, y = _dense.float_rows(X, rows), column[y[rows]]
    moved = None if settings.moved is None else settings.moved[rows]
    if moved is None:
        moved = settings.metric.apply(X)
    held, train_rows = np.split(np.arange(rows.size, dtype=np.int32), [rows.size // 5])
    trial = settings._replace(
        step=settings.step[rows],
        weight=settings.weight[rows],
        visits=None if settings.visits is None else settings.visits[rows],
        batch_size=int(np.clip(rows.size // 64, 1, settings.batch_size)),
        train=train_rows,
        held=held,
        early_stopping=False,
        penalty=0.0,
        tol=None,
        verbose=0,
        moved=moved,
        shrink=settings.shrink[rows],
    )
    n_threads = effective_n_jobs(n_jobs)
    table = np.arange(n_buckets, dtype=np.int32)[:, None]
    shapes = (X.shape[1], n_buckets), n_buckets
    start = tuple(np.zeros(shape, np.float32) for shape in shapes)
    if settings.starts:
        _dense.start_from_means(X, y, table, *start, 0, trial, n_threads)
    held_rows, own, weight = X[held], y[held], trial.row_weight(held)
    losses = {}

    def loss(power, n_epochs):
        if (power, n_epochs) not in losses:
            W, b = (array.copy() for array in start)
            columns = Columns(W, b, 0, b.size, zero=False, n_threads=n_threads)
            settings = trial.scaled(2.0**power)._replace(decay=_falling(n_epochs, 1, 0))
            train(X, y, table, columns, settings)
            log_proba = bucket_proba(held_rows, W, b, b.size, True)[:, 0]
            losses[power, n_epochs] = _scaled_loss(log_proba, own, weight)
        return losses[power, n_epochs]

    best, n_epochs = 3, 1
    while True:
        near = [p for p in (best, best - 1, best + 1) if p in _PROBE_POWERS]
        new = min(near, key=lambda power: loss(power, n_epochs))
        if new == best:
            break
        best = new
    while 2 * n_epochs <= n_most:
        new = min((best - 1, best), key=lambda power: loss(power, 2 * n_epochs))
        if loss(new, 2 * n_epochs) > (1 - _WORTH_EPOCHS) * loss(best, n_epochs):
            break
        best, n_epochs = new, 2 * n_epochs
    return 2.0**best, n_epochs


def probe_bytes(n_features, n_columns):
    """Bytes of the weights of the trial, at most."""
    return max(4 * n_features * n_columns // _PROBE_SHARE, _PROBE_BYTES)


def _scaled_loss(log_proba, codes, weight):
    """Mean log loss of log probabilities (n, B) at the temperature that suits them."""
    z = log_proba.astype(np.float64)
    own = z[np.arange(codes.size), codes]

    def loss(log_scale):
        scale = np.exp(log_scale)
        return weight @ (logsumexp(scale * z, axis=1) - scale * own) / weight.sum()

    return minimize_scalar(
        loss, bounds=_LOG_SCALES, method="bounded", options={"xatol": 1e-2}
    ).fun


def _squares(X):
    """Slices of rows and the squares of their values, float64, a batch at a time."""
    for rows in gen_batches(X.shape[0], 1 << 12 if sp.issparse(X) else 1 << 10):
        part = X[rows]
        if not sp.issparse(X):
            yield rows, np.square(part, dtype=np.float64)
            continue
        values = np.square(part.data, dtype=np.float64)
        yield rows, sp.csr_array((values, part.indices, part.indptr), part.shape)


def units(X, step, gain, n_visits):
    """Units of the features' weights as integers of 16 bits, float32 (n_features,).

    The range of a feature is 128 of its longest steps, and (n / 16)^(1/4) times as many
    if it is visited n > 16 times in training.  Up to 512 visits no weight can leave it,
    because the steps fall to zero; beyond, the largest weights of five data sets took
    less than a fourth of it.  Integers at the end of the range stay there.
    """
    longest = np.zeros(X.shape[1], np.float32)
    for rows in gen_batches(X.shape[0], 1 << 12):
        part = X[rows]
        steps = np.repeat(step[rows], np.diff(part.indptr))
        np.maximum.at(
            longest, part.indices, np.abs(part.data, dtype=np.float32) * steps
        )
    n_steps = _RANGE * np.maximum(n_visits / 16, 1) ** 0.25
    unit = longest * gain * (n_steps / 32768)
    return np.where(unit > 0, unit, 1).astype(np.float32)


def squared_lengths(X, gain=None):
    """Squared length of each row, of features times `gain`; float64 (n_samples,)."""
    if gain is None:
        gain = np.ones(X.shape[1])
    return np.concatenate([squares @ gain for _, squares in _squares(X)])


def feature_sums(X, weight):
    """Weight of the rows where a feature is not zero, and sum of its weighted squares.

    Two float64 arrays of shape (n_features,).
    """
    n_rows, sums = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows, squares in _squares(X):
        w = weight[rows].astype(np.float64)
        n_rows += w @ (squares != 0)
        sums += w @ squares
    return n_rows, sums


def feature_gains(n_rows, squares, weight):
    """Factors of the steps of the features, float32 of shape (n_features,).

    ``1 + log((n + 1) / (n_j + 1))`` for a feature that is not zero in n_j of the n rows
    (the smooth idf of `TfidfTransformer`), scaled so that the mean squared length of
    the rows stays.  One step for all would learn a feature as fast as it is frequent.
    n_rows, squares: of `feature_sums`.
    """
    gain = 1 + np.log((weight + 1) / (n_rows + 1))
    total = squares @ gain
    if total > 0:
        gain *= squares.sum() / total
    return gain.astype(np.float32)


def _warn_about_scales(n_rows, squares):
    """Warn of features of such different sizes that one step serves none."""
    used = squares > 0
    scales = np.sqrt(squares[used] / n_rows[used])
    if scales.size and scales.max() > _SCALE_RATIO * np.median(scales):
        column = np.flatnonzero(used)[scales.argmax()]
        warnings.warn(
            f"The features have very different scales: non-zeros of column {column} "
            f"are about {scales.max():.3g}, of the median column "
            f"{np.median(scales):.3g}. Stochastic gradient descent then learns little. "
            "Use sklearn.preprocessing.MaxAbsScaler or Normalizer first.",
            ConvergenceWarning,
            stacklevel=2,
        )


def coherence(X, visited, step, gain, bias, batch_size, seed, metric=None):
    """How many times a batch of dense rows overshoots if each takes its own step.

    Batches are of the rows `visited`, in which those of large weight are repeated.

    The largest eigenvalue of the Gram matrix of a batch, intercept included, over
    that of a single row: 1 for orthogonal rows, `batch_size` for equal ones.  The
    largest of five random batches; a step divided by it is safe for the sum.  With a
    `Metric` the products of rows are those in the metric.
    """
    rng = np.random.default_rng([seed, 2])
    largest = 1.0
    for _ in range(5):
        rows = rng.choice(visited, min(batch_size, visited.size), replace=False)
        A = X[rows].astype(np.float64)
        if metric is None:
            products = (A * gain) @ A.T
        else:
            A -= metric.center
            products = metric.multiply(A) @ A.T
        root = np.sqrt(step[rows].astype(np.float64))
        gram = (products + bias) * np.outer(root, root)
        alone = gram.diagonal().max()
        if alone > 0:
            largest = max(largest, np.linalg.eigvalsh(gram)[-1] / alone)
    return largest


@njit(fastmath=_ELEMENTWISE)
def _logits_csr(data, indices, indptr, W, b, out):
    """out (n, R B) = X W + b for a CSR X, every row by itself."""
    lo = np.int64(0)  # for a literal `_add_logits` would be compiled again
    for i in range(out.shape[0]):
        for q in range(b.shape[0]):
            out[i, q] = b[q]
        start, stop = np.int64(indptr[i]), np.int64(indptr[i + 1])
        _add_logits(data, indices, start, stop, W, lo, out[i])


def _logits_dense(X, W, b, out):
    """out (n, R B) = X W + b for a dense X.

    Not BLAS, whose sums depend on the rows that stand beside a row.  Both kernels add
    the features to b one by one, in their order.
    """
    n, d = X.shape
    if n > _FEW_ROWS:
        product_and_intercepts(X, W, b, out)
        return
    indices = np.tile(np.arange(d, dtype=np.int32), n)  # as if no value were zero
    indptr = np.arange(n + 1, dtype=np.int32) * np.int32(d)
    _logits_csr(*read_only(X.ravel(), indices, indptr, W, b), out)


# Two kernels, of which a fit compiles the latter only. Sharing the sum of exponentials
# made them 60 and 12 % slower: it must store what the other does not need.


@njit
def _normalise(Z, n_buckets):
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
def _log_normalise(Z, n_buckets):
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


OVERFLOW = (
    "The products of X and the weights are too large for float32. Bring the rows to "
    "the scale of those that the model was fitted on."
)


def logits(X, W, b):
    """X W + b, float32 of shape (n_samples, R B), every row by itself."""
    Z = np.empty((X.shape[0], b.size), np.float32)
    if sp.issparse(X):
        _logits_csr(*read_only(X.data, X.indices, X.indptr, W, b), Z)
    elif X.dtype == np.float16:  # which Numba does not know
        n_rows = max(_HALF_VALUES // X.shape[1], 16)  # the kernel's tiles have 16
        for i in range(0, X.shape[0], n_rows):
            part = X[i : i + n_rows].astype(np.float32)
            _logits_dense(*read_only(part, W, b), Z[i : i + n_rows])
    else:
        _logits_dense(*read_only(X, W, b), Z)
    return Z


def normalise(Z, n_buckets, log):
    """(Log) probabilities (n_samples, R, B) in the place of logits Z (n, R B)."""
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(Z.sum()) or np.isfinite(Z).all()
    if not is_finite:
        raise ValueError(OVERFLOW)
    if log:
        _log_normalise(Z, n_buckets)
    else:
        _normalise(Z, n_buckets)
    return Z.reshape(Z.shape[0], -1, n_buckets)


def bucket_proba(X, W, b, n_buckets, log):
    """(Log) probabilities of the buckets, float32 of shape (n_samples, R, B)."""
    return normalise(logits(X, W, b), n_buckets, log)
