"""The best classes after 1, 2, ..., R repetitions, exactly.

The deficit of a class, how far it is below the best score there could be, only grows
from stage to stage: by addition or, for the minimum, as a maximum. As in `_decoding`,
deficits in units, rounded down to 8 bits, rule a class out; here for all stages in one
pass. The unit is that of the last stage, where the k-th best class has its largest
deficit. Bucket scores are divided by R, so that the offset of a class has the share r/R
in stage r; its deficit in 8 bits is looked up for each stage.
"""

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ._compat import njit, read_only
from ._decoding import (
    _FAR,
    _LANES,
    _LEVELS,
    _TOP,
    _aligned,
    _insert,
    _lowest_bit,
    _offset_array,
    _offset_levels,
    decode_topk,
    is_long,
)


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
    offset = _offset_array(offset, merge)
    share = (np.arange(1, R + 1) / R).astype(np.float32)  # of the offset, by stage
    indices = np.empty((n, R, k), dtype=np.int32)
    values = np.empty((n, R, k), dtype=np.float32)
    # A median has no deficit that only grows; and sorting beats long running lists.
    if merge == "median" or is_long(k, table.shape[0]):
        for r in range(R):
            first = np.ascontiguousarray(scores[:, : r + 1])
            codes = np.ascontiguousarray(table[:, : r + 1])
            part = share[r] * offset if offset.size else None
            best = decode_topk(first, codes, k, merge=merge, offset=part)
            indices[:, r], values[:, r] = best
    else:
        (table,), (bounds, levels) = read_only(table), _offset_levels(offset)
        starts = _aligned((R if offset.size else 0, _LEVELS, _LANES), np.uint8)
        deficits = _aligned((R, B, _LANES), np.float32)
        lanes = _aligned((R, B, _LANES), np.uint8)
        limits = _aligned((R, _LANES), np.uint8)
        for row in range(0, n, _LANES):
            rows = slice(row, row + _LANES)
            task = scores[rows], table, merge == "sum", offset, share, bounds, levels
            work = deficits, lanes, starts, limits
            _stages_block(*task, *work, indices[rows], values[rows])
    return indices, values


if config.DISABLE_JIT:

    def _lanes_of_stages(lanes, table, k, adds, starts, level, limits):
        """Lanes, as bits, where class k is below the limit of a stage.

        lanes (R, B, _LANES): 8-bit terms to add, or to take the maximum of; starts
        (R, _LEVELS, _LANES), or none: what a sum starts from by stage and level; limits
        (R, _LANES).
        """
        terms = [lanes[r, table[k, r]].astype(int) for r in range(table.shape[1])]
        totals = (np.add if adds else np.maximum).accumulate(terms)
        if starts.shape[0]:
            totals = totals + starts[:, level]
        below = (np.minimum(totals, 255) < limits).any(axis=0)
        return sum(1 << int(i) for i in np.flatnonzero(below))

else:

    @intrinsic
    def _lanes_of_stages(typing, lanes, table, k, adds, starts, level, limits):
        """Lanes, as bits, where class k is below the limit of a stage.

        lanes (R, B, _LANES): 8-bit terms to add, or to take the maximum of; starts
        (R, _LEVELS, _LANES), or none: what a sum starts from by stage and level; limits
        (R, _LANES).
        """
        index, vector = ir.IntType(64), ir.VectorType(ir.IntType(8), _LANES)
        zero = ir.Constant(vector, None)

        def generate(context, builder, signature, args):
            lanes, table, starts, limits = (
                context.make_array(signature.args[j])(context, builder, args[j])
                for j in (0, 1, 4, 6)
            )
            n_starts, n_levels, _ = cgutils.unpack_tuple(builder, starts.shape, 3)
            has_starts = builder.icmp_signed("!=", n_starts, index(0))
            R, B, _ = cgutils.unpack_tuple(builder, lanes.shape, 3)
            codes = builder.gep(table.data, [builder.mul(args[2], R)])
            total = cgutils.alloca_once_value(builder, zero)
            room = cgutils.alloca_once_value(builder, zero)  # not zero below a limit

            def call(name, a, b):
                kind = ir.FunctionType(vector, [vector, vector])
                name = f"llvm.{name}.v{_LANES}i8"
                function = cgutils.get_or_insert_function(builder.module, kind, name)
                return builder.call(function, [a, b])

            def load(array, row):
                data = builder.gep(array.data, [builder.mul(row, index(_LANES))])
                data = builder.bitcast(data, vector.as_pointer())
                return builder.load(data, align=64)

            def step(r, merge, starting):
                code = builder.zext(builder.load(builder.gep(codes, [r])), index)
                term = load(lanes, builder.add(builder.mul(r, B), code))
                now = call(merge, builder.load(total), term)
                builder.store(now, total)
                if starting:
                    at = builder.add(builder.mul(r, n_levels), args[5])
                    now = call("uadd.sat", load(starts, at), now)
                below = call("usub.sat", load(limits, r), now)
                builder.store(builder.or_(builder.load(room), below), room)

            def steps(merge, starting=False):
                with cgutils.for_range(builder, R) as loop:
                    step(loop.index, merge, starting)

            with builder.if_else(args[3]) as (adding, comparing):
                with adding, builder.if_else(has_starts) as (starting, plain):
                    with starting:
                        steps("uadd.sat", True)
                    with plain:
                        steps("uadd.sat")
                with comparing:
                    steps("umax")
            found = builder.icmp_unsigned("!=", builder.load(room), zero)
            return builder.bitcast(found, index)

        integer = types.intp
        kinds = lanes, table, integer, types.boolean, starts, integer, limits
        return types.uint64(*kinds), generate


@njit(fastmath=False)
def _stages_block(
    scores, table, adds, offset, share, bounds, levels, deficits, lanes, starts, limits,
    indices, values,
):  # fmt: skip
    """Write the best classes of up to _LANES rows to indices and values (n, R, n_best).

    adds: whether scores are added, or else their minimum is taken; share (R,): of the
    offset in each stage; bounds, levels: of `_offset_levels`. Space to work in:
    deficits and lanes (R, B, _LANES), starts (R, _LEVELS, _LANES), or none without
    offset, limits (R, _LANES).
    """
    n, R, n_best = indices.shape
    K, last_stage = table.shape[0], R - 1
    has_offset = offset.shape[0] > 0
    begin = 0 if has_offset else 1
    ceiling, span, error = _stages_deficits(scores, adds, share, bounds, deficits)
    every_row = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(_LANES - n)
    scale = np.zeros(n)
    n_seen = np.zeros(scores.shape[2], dtype=np.int64)
    for r in range(R):
        for i in range(_LANES):
            limits[r, i] = 0
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
                        _insert(k, score, indices[i, 0], values[i, 0])
            mask = every_row
            if k >= n_best:
                level = levels[k] if has_offset else 0
                mask = _lanes_of_stages(lanes, table, k, adds, starts, level, limits)
            while mask:
                i = _lowest_bit(mask)
                mask &= mask - np.uint64(1)
                score = scores[i, 0, bucket]
                for r in range(begin, R):
                    if r > 0:
                        term = scores[i, r, table[k, r]]
                        score = score + term if adds else min(score, term)
                    total = score + share[r] * offset[k] if has_offset else score
                    if k < n_best or total > values[i, r, n_best - 1]:
                        _insert(k, total, indices[i, r], values[i, r])
                        limits[r, i] = _stages_limit(
                            values[i, r, n_best - 1], ceiling[i, r], error[i], scale[i]
                        )
        first, stop = stop, min(4 * stop, K)
        for i in range(n):
            worst = values[i, last_stage, n_best - 1]
            gap = span[i]
            if worst > -np.inf:
                gap = min(gap, ceiling[i, last_stage] - worst)
            scale[i] = _TOP / max(gap + error[i], 1e-30)
            inverse = scale[i] * (1 - 1e-6)  # more than the rounding of a deficit
            for r in range(R):
                for b in range(lanes.shape[1]):
                    units = deficits[r, b, i] * inverse
                    lanes[r, b, i] = np.uint8(min(units, 255.0))
            for r in range(starts.shape[0]):
                for j in range(_LEVELS):
                    units = share[r] * bounds[1] * j * inverse
                    starts[r, j, i] = np.uint8(min(units, 255.0))
            for r in range(begin, R):
                limits[r, i] = _stages_limit(
                    values[i, r, n_best - 1], ceiling[i, r], error[i], scale[i]
                )


@njit(inner=True, fastmath=False)
def _stages_limit(worst, ceiling, error, scale):
    """Least 8-bit sum of a class that is not better than the k-th best of a stage."""
    if worst == -np.inf:
        return np.uint8(255)
    units = (ceiling - worst + error) * scale * (1 + 1e-9)
    return np.uint8(min(units + 1, 255.0))


@njit(inner=True, fastmath=False)
def _stages_deficits(scores, adds, share, bounds, deficits):
    """Write deficits (R, B, _LANES); return float64 bounds for each row.

    share, bounds: as in `_stages_block`.

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
                deficits[r, b, i] = highest - t if t > -np.inf else _FAR
            ceiling[i, r] = highest
            if adds and r > 0:
                ceiling[i, r] += ceiling[i, r - 1]
            if highest > -np.inf:
                span[i] += np.float64(highest) - np.float64(lowest)
                error[i] += max(abs(highest), abs(lowest))
        for r in range(R):
            ceiling[i, r] += share[r] * bounds[0]
        span[i] += bounds[1] * _LEVELS
        error[i] += bounds[2]
        error[i] *= (R + 2) * 2.0**-24
    return ceiling, span, error
