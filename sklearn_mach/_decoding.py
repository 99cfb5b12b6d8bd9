"""From bucket scores to the best classes, exactly.

Class k has the score merge_r T_r[h_r(k)], where T is one row of ``scores`` of shape
(n, R, B) and h_r(k) is ``table[k, r]``, of shape (K, R). The merge is a sum, a minimum
or a median over the R repetitions (Medini et al., 2019, section 2), or another one of
``MERGES``.

Rows are taken in blocks, and a block is laid out with its rows innermost, in "lanes":
a class then costs R operations on contiguous vectors and no gathers (`_lanes`). For the
k best classes a sum of 8-bit terms comes first, 64 rows at a time (`_topk`). Nothing of
shape (n, K) is made unless it is asked for. Skipping the classes whose buckets are all
poor does not pay beside this: ``examples/bench_pruning.py`` has the figures.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ._calibration import above_chance, as_scored, exp_of_gaps
from ._compat import njit, read_only
from ._lanes import LANES, ROWS, aligned, has_lookup, min_class, sum_class
from ._topk import Prepared, offset_levels, search

_TILE = 1024  # classes merged before their scores are used: 128 KB of scores
_LONG_BYTES = 1 << 26  # of the classes gathered for long lists, at least for one row


# Sums have a fixed order, so nothing here is compiled with fast-math. The kernels of
# tiles write the scores of classes first..last-1 of all rows into tile (_TILE, ROWS).


@njit(fastmath=False)
def _sum_tile(lanes, table, offset, first, last, work, tile):
    """Sums, from 0 over repetitions 0, 1, ... to the offset."""
    for k in range(first, last):
        total = tile[k - first]
        for i in range(ROWS):
            total[i] = 0
        sum_class(lanes, table, k, total)
        if offset.shape[0]:
            for i in range(ROWS):
                total[i] += offset[k]


@njit(fastmath=False)
def _min_tile(lanes, table, offset, first, last, work, tile):
    """Minima."""
    for k in range(first, last):
        total = tile[k - first]
        for i in range(ROWS):
            total[i] = np.inf
        min_class(lanes, table, k, total)


@njit(fastmath=False)
def _median_tile(lanes, table, offset, first, last, work, tile):
    """Medians, of an even number the mean of the two in the middle."""
    R = table.shape[1]
    for k in range(first, last):
        for r in range(R):
            for i in range(ROWS):
                work[r, i] = lanes[r, table[k, r], i]
        for low in range(R // 2 + 1):
            for r in range(low + 1, R):
                for i in range(ROWS):
                    a, b = work[low, i], work[r, i]
                    work[low, i] = a if a < b else b
                    work[r, i] = b if a < b else a
        total = tile[k - first]
        for i in range(ROWS):
            total[i] = (work[(R - 1) // 2, i] + work[R // 2, i]) * np.float32(0.5)


class Merge(NamedTuple):
    """How the R bucket scores of a class become one.

    The kernel of tiles is all that a merge needs. The other fields let it take faster
    ways to the same k best classes.
    """

    tile: Callable  # kernel (lanes, table, offset, first, last, work (R, ROWS), tile)
    is_sum: bool = False  # whether it is a sum, to which an offset is added
    middle: Callable | None = None  # of R: which two of the sorted scores it averages
    by_stages: bool = False  # whether `_stages` has a kernel for it


class Decoder(NamedTuple):
    """What makes a class's score of its bucket probabilities, and a probability of it.

    An offset of the classes counts where scores are sums of logarithms.
    """

    merge: str  # of MERGES
    is_log: bool  # whether bucket scores are logarithms of the probabilities
    proportions: Callable  # (scores, best, scalars, chance): in place, `_calibration`

    def divisor(self, n_repetitions):
        """What bucket scores are divided by: R where the decoder adds them."""
        return n_repetitions if MERGES[self.merge].is_sum else 1


MERGES = {
    "sum": Merge(_sum_tile, is_sum=True, by_stages=True),
    "min": Merge(_min_tile, middle=lambda R: (0, 0), by_stages=True),
    "median": Merge(_median_tile, middle=lambda R: ((R - 1) // 2, R // 2)),
}
DECODERS = {
    "log_mean": Decoder("sum", is_log=True, proportions=exp_of_gaps),
    "mean": Decoder("sum", is_log=False, proportions=above_chance),
    "min": Decoder("min", is_log=False, proportions=as_scored),
    "median": Decoder("median", is_log=False, proportions=as_scored),
}


def prepare(table, n_buckets, offset=None):
    """Prepare decoding: pass the result to `decode_topk` to save it the time.

    The codes take as many bytes as the table. They make a few rows fast where the
    buckets fit a vector that the processor can look up in; elsewhere they are empty.
    """
    K, R = table.shape
    bounds, levels = offset_levels(offset_array(offset, "sum"))
    codes = np.empty((0, R + 1, LANES), dtype=np.uint8)
    if n_buckets <= LANES and has_lookup():
        every = np.zeros((-(-K // LANES) * LANES, R + 1), dtype=np.uint8)
        every[:K, :R] = table
        every[: levels.size, R] = levels
        codes = every.reshape(-1, LANES, R + 1).transpose(0, 2, 1).copy()
    return Prepared.of(bounds, levels, codes)


def decode_topk(scores, table, k, *, merge="sum", offset=None, prepared=None):
    """Find the k best classes of each row, ties by smallest class index.

    Parameters
    ----------
    scores : ndarray of shape (n, R, B), float32, C-contiguous
        Bucket scores; -inf is allowed, NaN is not.
    table : ndarray of shape (K, R), uint8, uint16 or uint32, C-contiguous
        Bucket of each class in each repetition.
    k : int
        Number of classes to return, from 1 to K.
    merge : str, default="sum"
        How the R bucket scores of a class become one: a name in ``MERGES``.
    offset : ndarray of shape (K,), float32, default=None
        Added to the score of each class, with a sum only.
    prepared : Prepared, default=None
        ``prepare(table, B, offset)``, which makes small calls faster.  It also serves
        calls without the offset.

    Returns
    -------
    indices : ndarray of shape (n, k), int64
        Classes, best first.
    values : ndarray of shape (n, k), float32
        Their scores, as `decode_scores` gives them.
    """
    n, R, _ = scores.shape
    indices = np.empty((n, k), dtype=np.int64)
    values = np.empty((n, k), dtype=np.float32)
    (table,), offset = read_only(table), offset_array(offset, merge)
    kind = MERGES[merge]
    has_bound = kind.is_sum or kind.middle is not None  # in `_topk`, of 8 bits
    if is_long(k, len(table)) or not has_bound:
        _decode_long(scores, table, merge, offset, indices, values)
        return indices, values
    if prepared is None or prepared.levels.size != offset.size:
        codes = np.empty((0, R + 1, LANES), dtype=np.uint8)
        if prepared is not None and not offset.size:
            codes = prepared.codes  # the levels in them count nothing
        prepared = Prepared.of(*offset_levels(offset), codes)
    middle = None if kind.is_sum else kind.middle(R)
    search(scores, table, middle, offset, prepared, indices, values)
    return indices, values


def is_long(k, n_classes):
    """Whether selecting among many classes at a time beats a running list of k."""
    return k > 1000 or (k > 64 and k > n_classes // 16)


def _decode_long(scores, table, merge, offset, indices, values):
    """Write the best classes of each row to indices and values (n, k).

    A row gathers the classes that beat the k-th best of those before, and whenever it
    has gathered some k or more beyond k, only the k best stay.
    """
    (n, k), K = indices.shape, table.shape[0]
    room = min(2 * k + _TILE, K)
    n_rows = min(max(_LONG_BYTES // (8 * room), 1), ROWS, max(n, 1))
    found = np.empty((n_rows, room), dtype=np.int32)
    found_scores = np.empty((n_rows, room), dtype=np.float32)
    for rows, merged in _blocks(scores, table, merge, offset, n_rows):
        counts = np.zeros(len(indices[rows]), dtype=np.int64)
        worst = np.full(len(counts), np.nan, dtype=np.float32)  # worse than every score
        for first, last in _tiles(K):
            for i in np.flatnonzero(counts + (last - first) > room):
                worst[i] = _keep_best(found[i], found_scores[i], counts[i], k)
                counts[i] = k
            _gather(merged(first, last), first, worst, counts, found, found_scores)
        for i, count in enumerate(counts):
            if count > k:
                _keep_best(found[i], found_scores[i], count, k)
            order = np.argsort(-found_scores[i, :k], kind="stable")
            indices[rows][i] = found[i, order]
            values[rows][i] = found_scores[i, order]


def _keep_best(found, scores, count, k):
    """Move the k best of the first `count` classes to the front, in ascending order.

    Returns the score of the worst.
    """
    t = scores[:count]
    worst = np.partition(t, count - k)[count - k]
    is_kept = t > worst
    ties = np.flatnonzero(t == worst)
    is_kept[ties[: k - np.count_nonzero(is_kept)]] = True
    found[:k], scores[:k] = found[:count][is_kept], t[is_kept]
    return worst


def decode_scores(scores, table, *, merge="sum", offset=None, out=None):
    """Score every class: float32 array of shape (n, K), parameters of `decode_topk`.

    They are written to `out`, if given, which may be float64.
    The sum starts from 0 and adds repetition 0, 1, ..., R-1 and then the offset in this
    order in float32, so that a row has the same scores in every batch.
    """
    n, K = scores.shape[0], table.shape[0]
    if out is None:
        out = np.empty((n, K), dtype=np.float32)
    for rows, merged in _blocks(scores, table, merge, offset):
        block = out[rows]
        for first, last in _tiles(K):
            block[:, first:last] = merged(first, last)[:, : len(block)].T
    return out


def sum_over_classes(function, scores, table, *, merge="sum", offset=None):
    """Sums of function(scores, rows) over all classes, float64 (n,).

    function takes the scores of some classes, float64 (n_rows, n_classes), which it may
    change, and the slice of their rows; it gives an array of that shape.  All of shape
    (n, K) is never there.
    """
    K, totals = len(table), np.zeros(len(scores))
    for rows, merged in _blocks(scores, table, merge, offset):
        n_rows, sums = totals[rows].size, []
        # of few rows many tiles a call, which costs more than their arithmetic
        width = _TILE * (ROWS // n_rows)
        part = np.empty((n_rows, width))
        for start in range(0, K, width):
            n_classes = min(width, K - start)
            for first, last in _tiles(n_classes):
                tile = merged(start + first, start + last)
                part[:, first:last] = tile[:, :n_rows].T
            values = function(part[:, :n_classes], rows)
            starts = np.arange(0, n_classes, _TILE)
            sums.append(np.add.reduceat(values, starts, axis=1))
        # by tiles whatever the width, so that a row has the same sum in every batch
        totals[rows] = np.concatenate(sums, axis=1).sum(axis=1)
    return totals


def rank_of(scores, table, y, *, merge="sum", offset=None):
    """Count the classes that come before class y[i] in row i: int64 of shape (n,).

    The order is by score, highest first, then by class index; rank 0 is the best.
    """
    ranks = np.zeros(len(scores), dtype=np.int64)
    y = np.ascontiguousarray(y, dtype=np.int64)
    own = np.empty(ROWS, dtype=np.float32)
    for rows, merged in _blocks(scores, table, merge, offset):
        for i, k in enumerate(y[rows]):
            own[i] = merged(k, k + 1)[0, i]
        for first, last in _tiles(len(table)):
            _count_before(merged(first, last), first, own, y[rows], ranks[rows])
    return ranks


def offset_array(offset, merge):
    """Offset as an array, empty for none or no sum: one type for the kernels."""
    if offset is None or not MERGES[merge].is_sum:
        offset = np.empty(0, dtype=np.float32)
    return read_only(offset)[0]


def _tiles(K):
    """First classes, and those behind the last, of the tiles of K classes."""
    return ((first, min(first + _TILE, K)) for first in range(0, K, _TILE))


def _blocks(scores, table, merge, offset, n_rows=ROWS):
    """Slices of n_rows rows, each with a function that merges some classes of the rows.

    It takes the first and the one behind the last, and gives their scores (., ROWS) in
    an array that the next call overwrites.
    """
    _, R, B = scores.shape
    (table,), offset = read_only(table), offset_array(offset, merge)
    shapes = (R, B, ROWS), (R, ROWS), (_TILE, ROWS)
    lanes, work, tile = (aligned(shape, np.float32) for shape in shapes)

    def merged(first, last):
        MERGES[merge].tile(lanes, table, offset, first, last, work, tile)
        return tile[: last - first]

    for row in range(0, len(scores), n_rows):
        rows = slice(row, row + n_rows)
        lanes[:, :, : len(scores[rows])] = scores[rows].transpose(1, 2, 0)
        yield rows, merged


@njit(fastmath=False)
def _gather(tile, first, worst, counts, found, scores):
    """Append the classes of a tile that beat `worst` (n,) to those found (n, room).

    counts (n,): how many there are; worst is NaN where every class is to be taken.
    """
    for k in range(tile.shape[0]):
        for i in range(counts.shape[0]):
            if not tile[k, i] <= worst[i]:
                found[i, counts[i]] = first + k
                scores[i, counts[i]] = tile[k, i]
                counts[i] += 1


@njit(fastmath=False)
def _count_before(tile, first, own, y, ranks):
    """Add to ranks (n,) the classes of a tile before y (n,), of scores own (n,)."""
    for k in range(tile.shape[0]):
        for i in range(y.shape[0]):
            tie = tile[k, i] == own[i] and first + k < y[i]
            ranks[i] += tile[k, i] > own[i] or tie
