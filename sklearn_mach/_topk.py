"""The k best classes of each row: sums of 8 bits rule out nearly all others.

Each merge here has a sum of R terms of 8 bits, saturating at 255, and a limit: a class
whose sum is above it is not better than the k-th best so far, with the score t. The few
classes that are not ruled out are merged again in float32.

Sum: a row's deficits max_b T_r[b] - T_r[b] are never negative, and the largest sums
are the smallest sums of deficits. A term is the deficit in units, rounded down, and
the limit is the deficit of t. Rounding down and saturation only lower a sum, and the
rounding of the float32 sums is in the limit. The unit follows t, so that t's deficit
is 250 units each time the scale is renewed.

Mean of two of the sorted scores, as minimum and median: a term is one if T_r[b] <= t
and else zero. A class above t has no more of these than scores before the higher of
the two.
"""

from typing import NamedTuple

import numpy as np

from ._compat import njit, read_only
from ._lanes import LANES, aligned, classes_within, lanes_within, lowest_bit

LEVELS = 32  # values to which offsets are rounded in the 8-bit sums
_TOP = 250.0  # 8-bit deficit of the k-th best class when a scale is chosen
FAR = np.float32(3e38)  # deficit of a score of -inf
_FIRST = 4  # times k: classes scored in float32 before the 8-bit sums begin
_FEW = 12  # rows that are faster one by one than as a block of LANES, with look-ups
_FEWEST = 2  # and without, by their sums
_NEVER = np.float32(-np.inf)


class Prepared(NamedTuple):
    """What is known before there are scores."""

    bounds: np.ndarray  # (3,), highest offset, step of the levels, largest magnitude
    levels: np.ndarray  # (K,), uint8: offset[k] <= bounds[0] - bounds[1] * levels[k];
    # empty for no offset, when the bounds are 0
    codes: np.ndarray  # (n_tiles, R + 1, LANES), uint8: table and levels by class

    @classmethod
    def of(cls, bounds, levels, codes):
        """Of one type for Numba, whether the arrays are those of a file or not."""
        return cls(*read_only(bounds, levels, codes))


class _Space(NamedTuple):
    """What the kernels work in, for LANES rows at a time or for one."""

    lanes: np.ndarray  # (R, B, n_lanes): deficits, or the scores where nothing is added
    frame: np.ndarray  # (5, n_lanes): a ceiling no class exceeds; the span within which
    # finite scores are below it; the error of a float32 sum; the units in a deficit of
    # 1 and somewhat fewer, or instead of these the score of the k-th best
    limits: np.ndarray  # (n_lanes,), uint8
    terms: np.ndarray  # (R, B, n_lanes), uint8, or (R + 1, LANES, 1) for look-ups
    starts: np.ndarray  # (LEVELS, n_lanes), uint8: terms of the offset


def search(scores, table, middle, offset, prepared, indices, values):
    """Write the best classes and their scores to indices and values (n, n_best).

    middle: which two of a class's sorted scores are averaged, or None for their sum;
    prepared: `Prepared` of the offset.
    """
    n, R, B = scores.shape
    own = np.empty(R, dtype=np.float32)  # to sort the scores of a class in
    space = None
    for row in range(0, n, LANES):
        rows = slice(row, row + LANES)
        task = scores[rows], table, middle, offset
        best = indices[rows], values[rows]
        n_rows = len(best[0])
        if prepared.codes.size and n_rows <= _FEW:
            terms = aligned((R + 1, LANES, 1), np.uint8)
            _topk_rows(*task, prepared, _space(R, B, terms, terms[R]), own, *best)
        elif middle is None and n_rows <= _FEWEST:
            _topk_each(scores[rows], table, offset, *best)
        else:
            if space is None:
                terms = aligned((R, B, LANES), np.uint8)
                space = _space(R, B, terms, aligned((LEVELS, LANES), np.uint8))
            terms.fill(255)  # lanes without a row stay out
            _topk_block(*task, prepared, space, own, *best)


def _space(R, B, terms, starts):
    n_lanes = terms.shape[2]
    lanes = aligned((R, B, n_lanes), np.float32)
    limits = np.zeros(n_lanes, dtype=np.uint8)
    return _Space(lanes, np.empty((5, n_lanes)), limits, terms, starts)


def offset_levels(offset):
    """Bounds (highest, step, largest magnitude) and levels (K,) of the offsets.

    highest - step * levels[k] is never below offset[k].
    """
    finite = offset[np.isfinite(offset)].astype(np.float64)
    if not finite.size:
        highest = -np.inf if offset.size else 0.0
        return np.array([highest, 0.0, 0.0]), np.zeros(offset.size, dtype=np.uint8)
    highest, lowest = finite.max(), finite.min()
    step = (highest - lowest) / (LEVELS - 1)
    levels = (highest - offset.astype(np.float64)) * ((1 - 1e-9) / max(step, 1e-300))
    bounds = np.array([highest, step, max(abs(highest), abs(lowest))])
    return bounds, np.minimum(levels, LEVELS - 1).astype(np.uint8)


# The time to compile is most of that of a first prediction. So a kernel knows whether
# it adds (middle has the type of None), Python makes its arrays, and conditions stand
# for `min` and `max`, which Numba compiles for every type: 1.3 in place of 3.1 s.


@njit(inner=True, fastmath=False)
def insert(k, score, i, indices, values):
    """Put class k among the best of row i so far, indices and values (n, n_best).

    Classes come in ascending order, so that a tie goes behind, and class k is the k-th
    to come or takes the place of the last.
    """
    j = values.shape[1] - 1
    if k < j:
        j = k
    while j > 0 and values[i, j - 1] < score:
        values[i, j] = values[i, j - 1]
        indices[i, j] = indices[i, j - 1]
        j -= 1
    values[i, j] = score
    indices[i, j] = k


@njit(inner=True, fastmath=False)
def _class_score(row, table, k, middle, offset, own):
    """Score of class k for one row (R, B), as by tiles; own (R,): space to sort in."""
    R = table.shape[1]
    if middle is None:
        score = np.float32(0)
        for r in range(R):
            score += row[r, table[k, r]]
        score = score + offset[k] if offset.shape[0] else score
    else:
        for r in range(R):
            t = row[r, table[k, r]]
            j = r
            while j > 0 and own[j - 1] > t:
                own[j] = own[j - 1]
                j -= 1
            own[j] = t
        score = own[0]
        if middle[1] > 0:
            score = (own[middle[0]] + own[middle[1]]) * np.float32(0.5)
    return score


@njit(fastmath=False)
def _topk_each(scores, table, offset, indices, values):
    """Write the best classes to indices and values (n, n_best), by all their sums."""
    n, n_best = indices.shape
    for i in range(n):
        row = scores[i]  # sliced for each class, 105,033 sums took 7.3, not 1.9 ms
        for k in range(table.shape[0]):
            score = _class_score(row, table, k, None, offset, None)
            if k < n_best or score > values[i, n_best - 1]:
                insert(k, score, i, indices, values)


@njit(inner=True, fastmath=False)
def _layout(scores, middle, bounds, space):
    """Write the lanes of rows, and the frame but for the units."""
    n, R, B = scores.shape
    lanes, frame = space.lanes, space.frame
    for i in range(n):
        frame[0, i] = bounds[0]
        frame[1, i] = bounds[1] * LEVELS
        frame[2, i] = bounds[2]
    for r in range(R):
        for i in range(n):
            highest, lowest = _NEVER, -_NEVER
            if middle is None:
                for b in range(B):
                    t = scores[i, r, b]
                    highest = t if t > highest else highest
                    t = t if t > _NEVER else -_NEVER
                    lowest = t if t < lowest else lowest
                frame[0, i] += highest
                if highest > _NEVER:
                    frame[1, i] += np.float64(highest) - np.float64(lowest)
                    frame[2, i] += -lowest if -lowest > highest else highest
            for b in range(B):
                t = scores[i, r, b]
                if middle is None:
                    t = highest - t if t > _NEVER else FAR
                lanes[r, b, i] = t
    for i in range(n):
        frame[2, i] *= (R + 2) * 2.0**-24


@njit(inner=True, fastmath=False)
def scale_of_sums(worst, ceiling, span, error):
    """Units in a deficit of 1, of which the k-th best class has _TOP."""
    gap = span
    if worst > _NEVER and ceiling - worst < gap:
        gap = ceiling - worst
    gap += error
    return _TOP / (gap if gap > 1e-30 else 1e-30)


@njit(inner=True, fastmath=False)
def limit_of_sums(worst, ceiling, error, scale):
    """Largest sum of units of a class that may be better than the k-th best."""
    units = 254.0
    if worst > _NEVER:
        units = (ceiling - worst + error) * scale * (1 + 1e-9)
        units = units if units < 254.0 else 254.0
    return np.uint8(units)


@njit(inner=True, fastmath=False)
def _limit(middle, worst, frame, i):
    """Largest sum of terms of a class that may be better than the k-th best."""
    if middle is None:
        limit = limit_of_sums(worst, frame[0, i], frame[2, i], frame[3, i])
    else:
        limit = np.uint8(middle[1] if middle[1] < 255 else 255)
    return limit


@njit(inner=True, fastmath=False)
def _round_down(values, middle, bounds, space):
    """Write units, limits, terms and starts of the rows of values."""
    lanes, frame, terms, starts = space.lanes, space.frame, space.terms, space.starts
    n, n_best = values.shape
    for i in range(n):
        worst = values[i, n_best - 1]
        if middle is None:
            frame[3, i] = scale_of_sums(worst, frame[0, i], frame[1, i], frame[2, i])
            frame[4, i] = frame[3, i] * (1 - 1e-6)  # more than a deficit's rounding
        else:
            frame[3, i] = worst
        space.limits[i] = _limit(middle, worst, frame, i)
    for r in range(lanes.shape[0]):
        for b in range(lanes.shape[1]):
            for i in range(n):
                if middle is None:
                    units = lanes[r, b, i] * frame[4, i]
                    terms[r, b, i] = np.uint8(units if units < 255.0 else 255.0)
                else:
                    terms[r, b, i] = np.uint8(lanes[r, b, i] <= frame[3, i])
    if middle is None:
        for j in range(LEVELS):
            for i in range(n):
                units = bounds[1] * j * frame[4, i]
                starts[j, i] = np.uint8(units if units < 255.0 else 255.0)


@njit(fastmath=False)
def _topk_block(scores, table, middle, offset, prepared, space, own, indices, values):
    """Write the best classes of up to LANES rows to indices and values (n, n_best).

    scores (n, R, B); own (R,): space to sort in.  Beyond lane n the terms are 255.
    """
    n, n_best = indices.shape
    K = table.shape[0]
    bounds, levels, limits = prepared.bounds, prepared.levels, space.limits
    every_row = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(LANES - n)
    for i in range(n, LANES):
        limits[i] = 0
    _layout(scores, middle, bounds, space)
    first, last = 0, _FIRST * n_best
    while first < K:
        last = last if last < K else K
        if first > 0:
            _round_down(values, middle, bounds, space)
        for k in range(first, last):
            mask = every_row
            if first > 0:
                start = space.starts[levels[k] if levels.shape[0] else 0]
                mask = lanes_within(space.terms, table, k, start, limits)
            while mask:
                i = lowest_bit(mask)
                mask &= mask - np.uint64(1)
                score = _class_score(scores[i], table, k, middle, offset, own)
                if k < n_best or score > values[i, n_best - 1]:
                    insert(k, score, i, indices, values)
                    if first > 0:
                        worst = values[i, n_best - 1]
                        limits[i] = _limit(middle, worst, space.frame, i)
        first, last = last, 4 * last


@njit(fastmath=False)
def _topk_rows(scores, table, middle, offset, prepared, space, own, indices, values):
    """As `_topk_block`, row after row: classes in a vector, not rows.

    The starts are the last of the terms, and zeros without offset.
    """
    n, n_best = indices.shape
    K, B = table.shape[0], scores.shape[2]
    bounds, codes, limits = prepared.bounds, prepared.codes, space.limits
    for i in range(n):
        _layout(scores[i : i + 1], middle, bounds, space)
        first, last = 0, n_best // LANES + 1
        while first < codes.shape[0]:
            last = last if last < codes.shape[0] else codes.shape[0]
            if first > 0:
                _round_down(values[i : i + 1], middle, bounds, space)
            for tile in range(first, last):
                mask = np.uint64(0xFFFFFFFFFFFFFFFF)
                if first > 0:
                    mask = classes_within(space.terms, codes, tile, limits[0], B)
                while mask:
                    k = tile * LANES + lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    if k >= K:
                        continue
                    score = _class_score(scores[i], table, k, middle, offset, own)
                    if k < n_best or score > values[i, n_best - 1]:
                        insert(k, score, i, indices, values)
                        if first > 0:
                            worst = values[i, n_best - 1]
                            limits[0] = _limit(middle, worst, space.frame, 0)
            first, last = last, 4 * last + 1
