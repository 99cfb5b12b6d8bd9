"""The best classes after 1, 2, ..., R repetitions, exactly.

The deficit of a class, how far it is below the best score there could be, only grows
from stage to stage: by addition or, for the minimum, as a maximum. As in `_decoding`,
deficits in units, rounded down to 8 bits, rule a class out; here for all stages in one
pass. The unit is that of the last stage, where the k-th best class has its largest
deficit. Bucket scores are divided by R, so that the offset of a class has the share r/R
in stage r; its deficit in 8 bits is looked up for each stage.
"""

from typing import NamedTuple

import numpy as np

from ._compat import njit, read_only
from ._decoding import MERGES, decode_topk, is_long, offset_array
from ._lanes import LANES, aligned, lanes_of_stages, lowest_bit
from ._topk import FAR, LEVELS, insert, limit_of_sums, offset_levels, scale_of_sums


class _Space(NamedTuple):
    """What the kernel works in; to make it there would compile for a second longer."""

    deficits: np.ndarray  # (R, B, LANES)
    lanes: np.ndarray  # (R, B, LANES), uint8: deficits in units
    starts: np.ndarray  # (R, LEVELS, LANES), uint8: of the offset, or none without
    limits: np.ndarray  # (R, LANES), uint8: a sum below it is not ruled out
    n_seen: np.ndarray  # (B,): classes that have come, by their first bucket
    ceiling: np.ndarray  # (R, LANES): no class scores more in a stage
    span: np.ndarray  # (LANES,): no finite score is further below the last ceiling
    error: np.ndarray  # (LANES,): of the float32 sums
    scale: np.ndarray  # (LANES,): units in a deficit of 1


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
        space = _Space(
            aligned((R, B, LANES), np.float32),
            aligned((R, B, LANES), np.uint8),
            aligned((R if offset.size else 0, LEVELS, LANES), np.uint8),
            aligned((R, LANES), np.uint8),
            np.empty(B, np.int64),
            np.empty((R, LANES)),
            *np.empty((3, LANES)),
        )
        for row in range(0, n, LANES):
            rows = slice(row, row + LANES)
            space.limits.fill(0)
            space.n_seen.fill(0)
            task = scores[rows], table, MERGES[merge].is_sum, offset, share, rounded
            _stages_block(*task, space, indices[rows], values[rows])
    return indices, values


@njit(fastmath=False)
def _stages_block(
    scores, table, adds, offset, share, rounded, space, indices, values
):  # fmt: skip
    """Write the best classes of up to LANES rows to indices and values (n, R, n_best).

    adds: whether scores are added, or else their minimum is taken; share (R,): of the
    offset in each stage; rounded: by `offset_levels`.
    """
    n, R, n_best = indices.shape
    K, (bounds, levels) = table.shape[0], rounded
    _, lanes, starts, limits, n_seen, ceiling, span, error, scale = space
    has_offset = offset.shape[0] > 0
    begin = 0 if has_offset else 1
    _stages_deficits(scores, adds, share, bounds, space)
    every_row = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(LANES - n)
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
                        limit = limit_of_sums(worst, ceiling[r, i], error[i], scale[i])
                        limits[r, i] = limit + 1  # which a sum must be below
        first, stop = stop, min(4 * stop, K)
        for i in range(n):
            worst = values[i, R - 1, n_best - 1]
            scale[i] = scale_of_sums(worst, ceiling[R - 1, i], span[i], error[i])
            inverse = scale[i] * (1 - 1e-6)  # more than the rounding of a deficit
            for r in range(R):
                for b in range(lanes.shape[1]):
                    units = space.deficits[r, b, i] * inverse
                    lanes[r, b, i] = np.uint8(min(units, 255.0))
            for r in range(starts.shape[0]):
                for j in range(LEVELS):
                    units = share[r] * bounds[1] * j * inverse
                    starts[r, j, i] = np.uint8(min(units, 255.0))
            for r in range(begin, R):
                worst = values[i, r, n_best - 1]
                limit = limit_of_sums(worst, ceiling[r, i], error[i], scale[i])
                limits[r, i] = limit + 1


@njit(inner=True, fastmath=False)
def _stages_deficits(scores, adds, share, bounds, space):
    """Write deficits, ceiling, span and error."""
    n, R, B = scores.shape
    deficits, ceiling = space.deficits, space.ceiling
    span, error = space.span, space.error
    for i in range(n):
        span[i] = error[i] = 0
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
            ceiling[r, i] = highest
            if adds and r > 0:
                ceiling[r, i] += ceiling[r - 1, i]
            if highest > -np.inf:
                span[i] += np.float64(highest) - np.float64(lowest)
                error[i] += max(abs(highest), abs(lowest))
        for r in range(R):
            ceiling[r, i] += share[r] * bounds[0]
        span[i] += bounds[1] * LEVELS
        error[i] += bounds[2]
        error[i] *= (R + 2) * 2.0**-24
