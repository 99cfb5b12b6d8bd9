"""From bucket scores to the best classes, exactly.

Class k has the score merge_r T_r[h_r(k)], where T is one row of ``scores`` of shape
(n, R, B) and h_r(k) is ``table[k, r]``, of shape (K, R). The merge is a sum, a minimum
or a median over the R repetitions (Medini et al., 2019, section 2).

Rows are taken in blocks, and a block is laid out with its rows innermost: a class then
costs R additions of contiguous vectors and no gathers. Nothing of shape (n, K) is made
unless it is asked for.
"""

import numpy as np

from ._compat import njit

_ROWS = 32  # rows of a block: two or four vectors of float32
_TILE = 128  # classes merged before their scores are used: 16 KB of scores
_MERGES = {"sum": 0, "min": 1, "median": 2}
_SUM, _MIN, _MEDIAN = _MERGES.values()


def decode_topk(scores, table, k, *, merge="sum", offset=None):
    """Find the k best classes of each row, ties by smallest class index.

    Parameters
    ----------
    scores : ndarray of shape (n, R, B), float32, C-contiguous
        Bucket scores; -inf is allowed, NaN is not.
    table : ndarray of shape (K, R), uint8, uint16 or uint32, C-contiguous
        Bucket of each class in each repetition.
    k : int
        Number of classes to return, from 1 to K.
    merge : {"sum", "min", "median"}, default="sum"
        How the R bucket scores of a class become one.
    offset : ndarray of shape (K,), float32, default=None
        Added to the score of each class, with ``merge="sum"`` only.

    Returns
    -------
    indices : ndarray of shape (n, k), int64
        Classes, best first.
    values : ndarray of shape (n, k), float32
        Their scores, as `decode_scores` gives them.
    """
    n = scores.shape[0]
    indices = np.empty((n, k), dtype=np.int64)
    values = np.empty((n, k), dtype=np.float32)
    _topk_rows(scores, table, _MERGES[merge], _offset(offset), indices, values)
    return indices, values


def decode_scores(scores, table, *, merge="sum", offset=None):
    """Score every class: float32 array of shape (n, K), parameters of `decode_topk`.

    The sum starts from the offset (or 0) and adds repetition 0, 1, ..., R-1 in this
    order in float32, so that a row has the same scores in every batch.
    """
    out = np.empty((scores.shape[0], table.shape[0]), dtype=np.float32)
    _score_rows(scores, table, _MERGES[merge], _offset(offset), out)
    return out


def rank_of(scores, table, y, *, merge="sum", offset=None):
    """Count the classes that come before class y[i] in row i: int64 of shape (n,).

    The order is by score, highest first, then by class index; rank 0 is the best.
    """
    ranks = np.empty(scores.shape[0], dtype=np.int64)
    y = np.ascontiguousarray(y, dtype=np.int64)
    _rank_rows(scores, table, _MERGES[merge], _offset(offset), y, ranks)
    return ranks


def _offset(offset):
    """Offset array, empty for none: one type for the kernels."""
    return np.empty(0, dtype=np.float32) if offset is None else offset


@njit(fastmath=False)
def _rows_innermost(scores, first, lanes):
    """Copy scores (n, R, B) from row `first` on into lanes (R, B, _ROWS)."""
    n_rows = min(_ROWS, scores.shape[0] - first)
    _, R, B = scores.shape
    for r in range(R):
        for b in range(B):
            for i in range(n_rows):
                lanes[r, b, i] = scores[first + i, r, b]
            for i in range(n_rows, _ROWS):
                lanes[r, b, i] = np.float32(0)
    return n_rows


# The sums below have a fixed order, so they are compiled without fast-math.
@njit(fastmath=False)
def _sum_tile(lanes, table, offset, first, last, out):
    """Sum lanes (R, B, _ROWS) for classes first..last-1 into out (_TILE, _ROWS)."""
    R = table.shape[1]
    whole = R - R % 4
    for k in range(first, last):
        total = out[k - first]
        start = offset[k] if offset.shape[0] else np.float32(0)
        for i in range(_ROWS):
            total[i] = start
        for r in range(0, whole, 4):  # four at a time: fewer reads of the total
            t0 = lanes[r, table[k, r]]
            t1 = lanes[r + 1, table[k, r + 1]]
            t2 = lanes[r + 2, table[k, r + 2]]
            t3 = lanes[r + 3, table[k, r + 3]]
            for i in range(_ROWS):
                total[i] = (((total[i] + t0[i]) + t1[i]) + t2[i]) + t3[i]
        for r in range(whole, R):
            t0 = lanes[r, table[k, r]]
            for i in range(_ROWS):
                total[i] += t0[i]


@njit(fastmath=False)
def _min_tile(lanes, table, first, last, out):
    """Minimum over repetitions; shapes of `_sum_tile`."""
    for k in range(first, last):
        least = out[k - first]
        least[:] = lanes[0, table[k, 0]]
        for r in range(1, table.shape[1]):
            t = lanes[r, table[k, r]]
            for i in range(_ROWS):
                least[i] = t[i] if t[i] < least[i] else least[i]


@njit(fastmath=False)
def _median_tile(lanes, table, first, last, work, out):
    """Median over repetitions; work (R, _ROWS), other shapes of `_sum_tile`."""
    R = table.shape[1]
    half = R // 2
    for k in range(first, last):
        for r in range(R):
            work[r] = lanes[r, table[k, r]]
        # Selection by exchanges that do not depend on the values, for all rows at once.
        for low in range(half + 1):
            for r in range(low + 1, R):
                for i in range(_ROWS):
                    a = work[low, i]
                    b = work[r, i]
                    work[low, i] = a if a < b else b
                    work[r, i] = b if a < b else a
        for i in range(_ROWS):
            if R % 2:
                out[k - first, i] = work[half, i]
            else:
                both = work[half - 1, i] + work[half, i]
                out[k - first, i] = both * np.float32(0.5)


@njit(fastmath=False)
def _merge_tile(lanes, table, merge, offset, first, last, work, out):
    """Scores of classes first..last-1 of the block's rows into out (_TILE, _ROWS)."""
    if merge == _SUM:
        _sum_tile(lanes, table, offset, first, last, out)
    elif merge == _MIN:
        _min_tile(lanes, table, first, last, out)
    else:
        _median_tile(lanes, table, first, last, work, out)


@njit(fastmath=False)
def _score_rows(scores, table, merge, offset, out):
    """Write every class score to out (n, K)."""
    n, R, B = scores.shape
    K = table.shape[0]
    lanes = np.empty((R, B, _ROWS), dtype=np.float32)
    work = np.empty((R, _ROWS), dtype=np.float32)
    tile = np.empty((_TILE, _ROWS), dtype=np.float32)
    for row in range(0, n, _ROWS):
        n_rows = _rows_innermost(scores, row, lanes)
        for first in range(0, K, _TILE):
            last = min(first + _TILE, K)
            _merge_tile(lanes, table, merge, offset, first, last, work, tile)
            for i in range(n_rows):
                for k in range(first, last):
                    out[row + i, k] = tile[k - first, i]


@njit(fastmath=False)
def _insert(k, score, filled, indices, values):
    """Insert class k among the best so far, indices and values (n_best,)."""
    j = min(filled, values.shape[0] - 1)
    while j > 0 and (
        values[j - 1] < score or (values[j - 1] == score and indices[j - 1] > k)
    ):
        values[j] = values[j - 1]
        indices[j] = indices[j - 1]
        j -= 1
    values[j] = score
    indices[j] = k


@njit(fastmath=False)
def _topk_rows(scores, table, merge, offset, indices, values):
    """Write the best classes of each row to indices and values (n, n_best)."""
    n, R, B = scores.shape
    K = table.shape[0]
    n_best = indices.shape[1]
    lanes = np.empty((R, B, _ROWS), dtype=np.float32)
    work = np.empty((R, _ROWS), dtype=np.float32)
    tile = np.empty((_TILE, _ROWS), dtype=np.float32)
    worst = np.empty(_ROWS, dtype=np.float32)  # the last of the best, in each row
    for row in range(0, n, _ROWS):
        n_rows = _rows_innermost(scores, row, lanes)
        worst[:n_rows] = -np.inf
        worst[n_rows:] = np.inf
        for first in range(0, K, _TILE):
            last = min(first + _TILE, K)
            _merge_tile(lanes, table, merge, offset, first, last, work, tile)
            for k in range(first, last):
                total = tile[k - first]
                n_better = 0
                for i in range(_ROWS):
                    n_better += total[i] > worst[i]
                if n_better == 0 and k >= n_best:
                    continue
                for i in range(n_rows):
                    if k < n_best or total[i] > worst[i]:
                        _insert(k, total[i], k, indices[row + i], values[row + i])
                        if k >= n_best - 1:
                            worst[i] = values[row + i, n_best - 1]


@njit(fastmath=False)
def _rank_rows(scores, table, merge, offset, y, ranks):
    """Write the number of classes before y (n,) to ranks (n,)."""
    n, R, B = scores.shape
    K = table.shape[0]
    lanes = np.empty((R, B, _ROWS), dtype=np.float32)
    work = np.empty((R, _ROWS), dtype=np.float32)
    tile = np.empty((_TILE, _ROWS), dtype=np.float32)
    own = np.empty(_ROWS, dtype=np.float32)
    before = np.empty(_ROWS, dtype=np.int64)
    for row in range(0, n, _ROWS):
        n_rows = _rows_innermost(scores, row, lanes)
        for i in range(n_rows):
            c = y[row + i]
            _merge_tile(lanes, table, merge, offset, c, c + 1, work, tile)
            own[i] = tile[0, i]
        before[:] = 0
        for first in range(0, K, _TILE):
            last = min(first + _TILE, K)
            _merge_tile(lanes, table, merge, offset, first, last, work, tile)
            for k in range(first, last):
                for i in range(n_rows):
                    score = tile[k - first, i]
                    tie_before = score == own[i] and k < y[row + i]
                    before[i] += score > own[i] or tie_before
        ranks[row : row + n_rows] = before[:n_rows]
