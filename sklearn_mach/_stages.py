"""The best classes after 1, 2, ..., R repetitions, exactly.

The deficit of a class, how far it is below the best score there could be, only grows
from stage to stage: by addition or, for the minimum, as a maximum. As in `_decoding`,
deficits in units, rounded down to 8 bits, rule a class out; here for all stages in one
pass. The unit is that of the last stage, where the k-th best class has its largest
deficit. Bucket scores are divided by R, so that the offset of a class has the share r/R
in stage r; its deficit in 8 bits is looked up for each stage.
"""

import numpy as np

from ._compat import njit, read_only
from ._decoding import MERGES, decode_topk, is_long, offset_array
from ._lanes import LANES, aligned, lanes_of_stages, lowest_bit
from ._topk import FAR, LEVELS, TOP, insert, limit_of_sums, offset_levels


def decode_stages(scores, table, k, *, merge="sum", offset=None):
    """Find the k best classes of each row by the first r repetitions, r = 1..R.

    Parameters as in `decode_topk`.

    Returns
    -------
    indices : ndarray of shape (n, R, k), int32
        ``indices[:, r - 1]`` is what `decode_topk` gives for ``scores[:, :r]``,
        ``table[:, :r]`` and ``offset * float32(r / R)``.
    values : ndarray of shape (n, R, k), float32
    """
    n, R, B = scores.shape
    offset = offset_array(offset, merge)
    share = (np.arange(1, R + 1) / R).astype(np.float32)  # of the offset, by stage
    indices = np.empty((n, R, k), dtype=np.int32)
    values = np.empty((n, R, k), dtype=np.float32)
    # Deficits may also fall, as a median's do; and sorting beats long running lists.
    if not MERGES[merge].by_stages or is_long(k, table.shape[0]):
        for r in range(R):
            first = np.ascontiguousarray(scores[:, : r + 1])
            codes = np.ascontiguousarray(table[:, : r + 1])
            part = share[r] * offset if offset.size else None
            best = decode_topk(first, codes, k, merge=merge, offset=part)
            indices[:, r], values[:, r] = best
    else:
        (table,), rounded = read_only(table), offset_levels(offset)
        work = (
            aligned((R, B, LANES), np.float32),
            aligned((R, B, LANES), np.uint8),
            aligned((R if offset.size else 0, LEVELS, LANES), np.uint8),
            aligned((R, LANES), np.uint8),
        )
        for row in range(0, n, LANES):
            rows = slice(row, row + LANES)
            task = scores[rows], table, MERGES[merge].is_sum, offset, share, rounded
            _stages_block(*task, work, indices[rows], values[rows])
    return indices, values


@njit(fastmath=False)
def _stages_block(
    scores, table, adds, offset, share, rounded, work, indices, values
):  # fmt: skip
    """Write the best classes of up to LANES rows to indices and values (n, R, n_best).

    adds: whether scores are added, or else their minimum is taken; share (R,): of the
    offset in each stage; rounded: by `offset_levels`. Space to work in: deficits and
    lanes (R, B, LANES), starts (R, LEVELS, LANES), or none without offset, limits
    (R, LANES).
    """
    n, R, n_best = indices.shape
    K, last_stage = table.shape[0], R - 1
    (bounds, levels), (deficits, lanes, starts, limits) = rounded, work
    has_offset = offset.shape[0] > 0
    begin = 0 if has_offset else 1
    ceiling, span, error = _stages_deficits(scores, adds, share, bounds, deficits)
    every_row = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(LANES - n)
    scale = np.zeros(n)
    n_seen = np.zeros(scores.shape[2], dtype=np.int64)
    limits[:] = 0
    first, stop = 0, n_best
    while first < K:
        for k in range(first, stop):
            bucket = table[k, 0]
            # Without offset, in stage 1 later classes tie with those seen.
            if not has_offset and n_seen[bucket] < n_best:
                n_seen[bucket] += 1
                for i in range(n):
                    score = scores[i, 0, bucket]
                    if k < n_best or score > values[i, 0, n_best - 1]:
                        insert(k, score, 0, indices[i], values[i])
            mask = every_row
            if k >= n_best:
                level = levels[k] if has_offset else 0
                mask = lanes_of_stages(lanes, table, k, adds, starts, level, limits)
            while mask:
                i = lowest_bit(mask)
                mask &= mask - np.uint64(1)
                score = scores[i, 0, bucket]
                for r in range(begin, R):
                    if r > 0:
                        term = scores[i, r, table[k, r]]
                        score = score + term if adds else min(score, term)
                    total = score + share[r] * offset[k] if has_offset else score
                    if k < n_best or total > values[i, r, n_best - 1]:
                        insert(k, total, r, indices[i], values[i])
                        if k < n_best:  # there is no k-th best yet
                            continue
                        worst = values[i, r, n_best - 1]
                        limit = limit_of_sums(worst, ceiling[i, r], error[i], scale[i])
                        limits[r, i] = limit + 1  # which a sum must be below
        first, stop = stop, min(4 * stop, K)
        for i in range(n):
            worst = values[i, last_stage, n_best - 1]
            gap = span[i]
            if worst > -np.inf:
                gap = min(gap, ceiling[i, last_stage] - worst)
            scale[i] = TOP / max(gap + error[i], 1e-30)
            inverse = scale[i] * (1 - 1e-6)  # more than the rounding of a deficit
            for r in range(R):
                for b in range(lanes.shape[1]):
                    units = deficits[r, b, i] * inverse
                    lanes[r, b, i] = np.uint8(min(units, 255.0))
            for r in range(starts.shape[0]):
                for j in range(LEVELS):
                    units = share[r] * bounds[1] * j * inverse
                    starts[r, j, i] = np.uint8(min(units, 255.0))
            for r in range(begin, R):
                worst = values[i, r, n_best - 1]
                limit = limit_of_sums(worst, ceiling[i, r], error[i], scale[i])
                limits[r, i] = limit + 1


@njit(inner=True, fastmath=False)
def _stages_deficits(scores, adds, share, bounds, deficits):
    """Write deficits (R, B, LANES); return float64 bounds for each row.

    ceiling (n, R): no class scores more in a stage. span (n,): no finite score is
    further below the ceiling. error (n,): of the float32 sums.
    """
    n, R, B = scores.shape
    ceiling, span, error = np.zeros((n, R)), np.zeros(n), np.zeros(n)
    for i in range(n):
        highest = np.float32(-np.inf)
        for r in range(R):
            for b in range(B):
                highest = max(highest, scores[i, r, b])
        for r in range(R):
            if adds:
                highest = np.float32(-np.inf)
                for b in range(B):
                    highest = max(highest, scores[i, r, b])
            lowest = highest
            for b in range(B):
                t = scores[i, r, b]
                lowest = min(lowest, t if t > -np.inf else highest)
                deficits[r, b, i] = highest - t if t > -np.inf else FAR
            ceiling[i, r] = highest
            if adds and r > 0:
                ceiling[i, r] += ceiling[i, r - 1]
            if highest > -np.inf:
                span[i] += np.float64(highest) - np.float64(lowest)
                error[i] += max(abs(highest), abs(lowest))
        for r in range(R):
            ceiling[i, r] += share[r] * bounds[0]
        span[i] += bounds[1] * LEVELS
        error[i] += bounds[2]
        error[i] *= (R + 2) * 2.0**-24
    return ceiling, span, error
