"""Epochs of SGD over rows, R regressions together: kernels given a loss.

Over CSR rows a step is a row, and as fast as memory brings the weights.  Where these do
not fit the caches they are therefore integers of 16 bits while they are trained, in
units of a fraction of a feature's longest step; a step is rounded at random, to one of
the two nearest integers, so that it is right on average.  The integers of a row of W
lie in the first half of the memory of its floats and become floats in place.

Over dense rows a step is a batch, whose products BLAS makes.
"""

from typing import NamedTuple

import numpy as np
from sklearn.utils import gen_batches

from . import _dense
from ._compat import ELEMENTWISE, njit, read_only
from ._int16 import add_product, prefetch
from ._logits import add_logits
from ._losses import gradient
from ._tiles import TILE_COLUMNS, pack_negative, packed_shape, subtract_product

_TILE = 256  # features of W that are made floats at a time
_BATCH_PART = 32  # rows of a dense batch that a thread reads at a time
_ONE = np.float32(-16384.0)  # a gradient of one as an integer, which is subtracted


class Pass(NamedTuple):
    """One pass over the rows `order`, in the order in which kernels take its parts.

    Arrays of numbers that are not whole are float32, but decay and losses float64.

    loss : of `_losses`
    starts (n + 1,), classes : of `Targets`; table (K, R): the buckets of the classes.
    weight, step (n,) : a row's share in the loss and its step at decay 1; without a
        step nothing is updated.
    gain (d,) : factors of the steps of the features.
    past, slow (d + 1,) : steps are divided by ``sqrt(1 + past + slow t)``, where t goes
        from 0 to 1 in the pass.
    decay : its values at both ends of the pass.
    rate (R,) : factors of the steps of the repetitions, 0 where training has stopped.
    bias : square of the value of the intercept's feature, the last in past and slow.
    lo, W (d, >= lo + R B), b (R B,) : the weights from column lo on and the intercepts,
        which are changed.
    losses (R,) : the sum of weight times loss, which grows.
    halt (1,) : bool; the pass ends where another thread sets it.
    shrink : the L2 penalty times the common step.
    """

    order: np.ndarray
    loss: NamedTuple
    starts: np.ndarray
    classes: np.ndarray
    table: np.ndarray
    weight: np.ndarray
    step: np.ndarray
    gain: np.ndarray
    past: np.ndarray
    slow: np.ndarray
    decay: np.ndarray
    rate: np.ndarray
    bias: np.float32
    lo: int
    W: np.ndarray
    b: np.ndarray
    losses: np.ndarray
    halt: np.ndarray
    shrink: float = 0.0

    def as_compiled(self):
        """With what no kernel changes read-only, as it is in some worker processes."""
        names = (
            "order", "starts", "classes", "table", "weight", "step", "gain", "past",
            "slow"
        )  # fmt: skip
        arrays = read_only(*(getattr(self, name) for name in names))
        return self._replace(**dict(zip(names, arrays, strict=True)))


@njit(fastmath=ELEMENTWISE)
def _rows_csr(
    data, indices, indptr, first, order, loss, starts, classes, table, weight, step,
    gain, past, slow, decay, rate, bias, lo, W, b, losses, halt, shrink, z, W_read
):  # fmt: skip
    """Steps for the rows of a `Pass` over a CSR matrix from number `first` on.

    z (R B,): space to work in.  W_read is W, of the type that `add_logits` is compiled
    for.  The weights are scale * W.  Returns how many rows are done and the scale, if
    not before all are done then where it is so small that W should be multiplied by it.
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
        row_classes = classes[starts[i] : starts[i + 1]]
        for q in range(z.shape[0]):
            z[q] = np.float32(0.0)
        add_logits(data, indices, start, stop, W_read, lo, z)
        gradient(
            loss, z, scale, b, table, row_classes, row_step, rate, row_bias,
            row_weight, losses
        )  # fmt: skip
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


def epoch_csr(X, given):
    """A `Pass` over the rows of a CSR matrix, a step a row."""
    given = given.as_compiled()
    rate, lo, W, b = given.rate, given.lo, given.W, given.b
    *arrays, W_read = read_only(X.data, X.indices, X.indptr, W)
    z = np.empty_like(b)
    done = 0
    while done < given.order.size:
        done, scale = _rows_csr(*arrays, done, *given, z, W_read)
        if scale != 1:
            scales = np.where(rate != 0, np.float32(scale), np.float32(1))
            W[:, lo : lo + b.size] *= np.repeat(scales, b.size // rate.size)


@njit(inner=True, fastmath=ELEMENTWISE)
def _add_logits_int16(data, indices, start, stop, W, unit, lo, z):
    """As `add_logits` for weights that are W times the unit (d,) of the feature."""
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


@njit(fastmath=ELEMENTWISE)
def _rows_int16(
    data, indices, indptr, order, loss, starts, classes, table, weight, step, lift,
    past, slow, decay, rate, bias, lo, W, b, losses, halt, unit, z, g, state
):  # fmt: skip
    """The steps of `epoch_int16`.

    W (d, >= lo + R B): the integers.  lift (d,): 4 gain / unit.
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
        row_classes = classes[starts[i] : starts[i + 1]]
        for q in range(z.shape[0]):
            z[q] = np.float32(0.0)
        _add_logits_int16(data, indices, start, stop, W, unit, lo, z)
        gradient(
            loss, z, one, b, table, row_classes, row_step, rate, row_bias, row_weight,
            losses
        )  # fmt: skip
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


def epoch_int16(X, given, unit, state):
    """As `epoch_csr`, without a penalty, for weights of 16 bits.

    The weights are the unit (d,) of the feature times the integers that lie in the
    columns of W from lo on; rates are 0 or 1.  state: 32 random bits, from which those
    follow that steps are rounded by.
    """
    *arrays, unit = read_only(X.data, X.indices, X.indptr, unit)
    z, g = np.empty_like(given.b), np.empty(given.b.size, np.int16)
    given = given._replace(
        gain=4 * given.gain / unit, W=given.W.view(np.int16), lo=2 * given.lo
    ).as_compiled()
    _rows_int16(*arrays, *given[:-1], unit, z, g, state)


def integers_to_float(W, lo, hi, unit):
    """The integers that lie in the columns ``lo:hi`` of W become the weights there."""
    integers = W.view(np.int16)[:, 2 * lo : lo + hi]
    for rows in gen_batches(W.shape[0], _TILE):
        part = integers[rows].copy()  # the weights are written over it
        np.multiply(part, unit[rows, None], out=W[rows, lo:hi], dtype=np.float32)


@njit
def _batch_gradient(
    Z, rows, loss, starts, classes, table, weight, step, factor, rate, b, losses
):
    """Z (n_batch, R B), logits less b, become the gradients of the rows."""
    one = np.float32(1.0)
    for t in range(rows.shape[0]):
        i = rows[t]
        row_step = np.float32(step[i] * factor)
        row_weight = np.float64(weight[i])
        row_classes = classes[starts[i] : starts[i + 1]]
        gradient(
            loss, Z[t], one, b, table, row_classes, row_step, rate, None, row_weight,
            losses
        )  # fmt: skip


def epoch_dense(X, given, moved, metric, batch_size, n_threads=1):
    """As `epoch_csr` for a dense X: a step a batch, the products by BLAS.

    With a `Metric` a row makes a step as ``(x - center) P``, which is its row in
    `moved` where that is not None.  Threads share the columns of W in the products and
    the rows of the batch in the gradients.
    """
    (
        order, loss, *of_rows, gain, past, slow, decay, rate, bias, lo, W, b, losses,
        halt, shrink
    ) = given  # fmt: skip
    W = W[:, lo : lo + b.size]
    columns, tiles = _dense.blocks(b.size), _dense.blocks(b.size, TILE_COLUMNS)
    shrunk = np.repeat(rate != 0, b.size // rate.size).astype(np.float32)
    size = min(batch_size, order.size)
    batch, steps = np.empty((2, size, W.shape[0]), np.float32)
    scores = np.empty((size, b.size), np.float32)
    shares = np.empty(size, np.float32)
    packed = np.zeros(packed_shape(size, W.shape[0]), np.float32)
    groups = _dense.slices(len(packed), -(-len(packed) // 4))
    *of_rows, b_read = read_only(*of_rows, b)
    has_steps = bool(given.step.any())
    falls = bool(past.any() or slow.any())
    with _dense.team(n_threads) as members:
        for t in range(0, order.size, batch_size):
            if halt[0]:
                break
            rows = order[t : t + batch_size]
            parts = _dense.slices(rows.size, _BATCH_PART)
            A, P, Z, share = (a[: rows.size] for a in (batch, steps, scores, shares))
            done = np.float32(t / order.size)
            factor = decay[0] + (decay[1] - decay[0]) * done
            slowing = np.sqrt(1 + past + slow * done) if falls else np.ones(1, "f")
            slowed = gain / slowing[: gain.size]
            of_parts = np.zeros((len(parts), losses.size))

            def gather(
                part, rows=rows, A=A, P=P, share=share, slowed=slowed, c=slowing
            ):
                A[part] = X[rows[part]]
                if not has_steps:
                    return
                moves = A[part]
                share[part] = bias / c[-1]
                if metric is not None:
                    moves = metric.apply(moves) if moved is None else moved[rows[part]]
                    share[part] -= moves @ metric.center
                np.multiply(moves, slowed, out=P[part])

            def score(block, A=A, Z=Z):
                np.matmul(A, W[:, block], out=Z[:, block])

            def differentiate(i, rows=rows, Z=Z, factor=factor, sums=of_parts, p=parts):
                _batch_gradient(
                    Z[p[i]], rows[p[i]], loss, *of_rows, factor, rate, b_read, sums[i]
                )  # fmt: skip

            members.run(gather, parts)
            members.run(score, columns)
            members.run(differentiate, range(len(parts)))
            losses += of_parts.sum(axis=0)
            if not has_steps:
                continue
            keep = 1 / (1 + np.float32(shrink * factor * rows.size) * shrunk)

            def pack(part, P=P):
                pack_negative(P, packed, part.start, part.stop)

            def change(block, Z=Z, share=share, keep=keep):
                subtract_product(packed, Z, given.W, lo, block.start, block.stop)
                b[block] -= share @ Z[:, block]
                if shrink > 0:
                    W[:, block] *= keep[block]

            members.run(pack, groups)
            members.run(change, tiles)
