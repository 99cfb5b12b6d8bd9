"""From bucket scores to the best classes, exactly.

Class k has the score merge_r T_r[h_r(k)], where T is one row of ``scores`` of shape
(n, R, B) and h_r(k) is ``table[k, r]``, of shape (K, R). The merge is a sum, a minimum
or a median over the R repetitions (Medini et al., 2019, section 2).

Rows are taken in blocks, and a block is laid out with its rows innermost, in "lanes":
a class then costs R operations on contiguous vectors and no gathers. For the k largest
sums, 8-bit sums of rounded-down deficits come first, 64 rows at a time; the few classes
that they do not rule out are summed again in float32. Nothing of shape (n, K) is made
unless it is asked for.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ._compat import njit

_ROWS = 32  # rows of a float32 block: two vectors of 512 bits
_TILE = 128  # classes merged before their scores are used: 16 KB of scores
_LANES = 64  # rows of an 8-bit block: one vector of 512 bits
_LEVELS = 64  # values to which offsets are rounded in the 8-bit sums
_FIRST = 64  # times k: classes scored in float32 before the 8-bit sums begin
_FEW = 40  # rows that are faster one by one than as a block of _LANES
_TOP = 250.0  # 8-bit deficit of the k-th best class when a scale is chosen
_FAR = np.float32(3e38)  # deficit of a score of -inf
_MERGES = {"sum": 0, "min": 1, "median": 2}
_SUM, _MIN, _MEDIAN = _MERGES.values()


class Prepared(NamedTuple):
    """What `decode_topk` can know before it sees scores: plain arrays."""

    bounds: np.ndarray  # (3,), highest offset, step of the levels, largest magnitude
    levels: np.ndarray  # (K,), uint8: offset[k] <= bounds[0] - bounds[1] * levels[k]
    codes: np.ndarray  # (n_tiles, R + 1, _LANES), uint8: table and levels by class


def prepare(table, n_buckets, offset=None):
    """Prepare decoding: pass the result to `decode_topk` to save it the time.

    The codes take as many bytes as the table. They make a few rows fast where the
    buckets fit a vector that the processor can look up in; elsewhere they are empty.
    """
    K, R = table.shape
    bounds, levels = _offset_levels(_offset_array(offset))
    codes = np.empty((0, R + 1, _LANES), dtype=np.uint8)
    has_lookup = binding.get_host_cpu_features().get("avx512vbmi", False)
    if n_buckets <= _LANES and (has_lookup or config.DISABLE_JIT):
        every = np.zeros((-(-K // _LANES) * _LANES, R + 1), dtype=np.uint8)
        every[:K, :R] = table
        every[: levels.size, R] = levels
        codes = every.reshape(-1, _LANES, R + 1).transpose(0, 2, 1).copy()
    return Prepared(bounds, levels, codes)


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
    merge : {"sum", "min", "median"}, default="sum"
        How the R bucket scores of a class become one.
    offset : ndarray of shape (K,), float32, default=None
        Added to the score of each class, with ``merge="sum"`` only.
    prepared : Prepared, default=None
        ``prepare(table, B, offset)``, which makes small calls faster.

    Returns
    -------
    indices : ndarray of shape (n, k), int64
        Classes, best first.
    values : ndarray of shape (n, k), float32
        Their scores, as `decode_scores` gives them.
    """
    n, R, B = scores.shape
    K = table.shape[0]
    indices = np.empty((n, k), dtype=np.int64)
    values = np.empty((n, k), dtype=np.float32)
    if k > 2000 or (k > 64 and k > K // 16):  # sorting beats a running list
        for row in range(0, n, _LANES):
            block = slice(row, row + _LANES)
            every = decode_scores(scores[block], table, merge=merge, offset=offset)
            best = np.argsort(-every, axis=1, kind="stable")[:, :k]
            indices[block] = best
            values[block] = np.take_along_axis(every, best, axis=1)
        return indices, values
    offset = _offset_array(offset)
    if prepared is None:
        none = np.empty((0, R + 1, _LANES), dtype=np.uint8)
        prepared = Prepared(*_offset_levels(offset), none)
    n_first = min(_FIRST * k, K) if merge == "sum" else K
    for row in range(0, n, _LANES):
        rows = slice(row, row + _LANES)
        task = scores[rows], table, offset
        best = indices[rows], values[rows]
        if merge == "sum" and len(best[0]) <= _FEW and prepared.codes.size:
            space = _aligned((R, B, 1), np.float32), _aligned((R + 1, _LANES), np.uint8)
            done = _topk_few(*task, prepared.bounds, prepared.codes, *space, *best)
        else:
            if row == 0:
                work = _sums_work(R, B)
            _topk_halves(*task, _MERGES[merge], n_first, *best)
            done = n_first == K or _topk_sums(
                *task, *prepared[:2], n_first, *work, *best
            )
        if not done:
            _topk_halves(*task, _MERGES[merge], K, *best)
    return indices, values


def _topk_halves(scores, table, offset, merge, n_classes, indices, values):
    """Find the best of the first n_classes for up to _LANES rows by float32 blocks."""
    work = _tile_work(*scores.shape[1:])
    table = table[:n_classes]
    for row in range(0, len(scores), _ROWS):
        rows = slice(row, row + _ROWS)
        best = indices[rows], values[rows]
        _topk_block(scores[rows], table, merge, offset, *work, *best)


def decode_scores(scores, table, *, merge="sum", offset=None):
    """Score every class: float32 array of shape (n, K), parameters of `decode_topk`.

    The sum starts from the offset (or 0) and adds repetition 0, 1, ..., R-1 in this
    order in float32, so that a row has the same scores in every batch.
    """
    n, R, B = scores.shape
    out = np.empty((n, table.shape[0]), dtype=np.float32)
    offset, work = _offset_array(offset), _tile_work(R, B)
    for row in range(0, n, _ROWS):
        rows = slice(row, row + _ROWS)
        _score_block(scores[rows], table, _MERGES[merge], offset, *work, out[rows])
    return out


def rank_of(scores, table, y, *, merge="sum", offset=None):
    """Count the classes that come before class y[i] in row i: int64 of shape (n,).

    The order is by score, highest first, then by class index; rank 0 is the best.
    """
    n, R, B = scores.shape
    ranks = np.empty(n, dtype=np.int64)
    y = np.ascontiguousarray(y, dtype=np.int64)
    offset, work = _offset_array(offset), _tile_work(R, B)
    for row in range(0, n, _ROWS):
        rows = slice(row, row + _ROWS)
        own = y[rows], ranks[rows]
        _rank_block(scores[rows], table, _MERGES[merge], offset, *work, *own)
    return ranks


def _offset_array(offset):
    """Offset as an array, empty for none: one type for the kernels."""
    return np.empty(0, dtype=np.float32) if offset is None else offset


def _offset_levels(offset):
    """Bounds (highest, step, largest magnitude) and levels (K,) of the offsets.

    highest - step * levels[k] is never below offset[k].
    """
    finite = offset[np.isfinite(offset)].astype(np.float64)
    if not finite.size:
        highest = -np.inf if offset.size else 0.0
        return np.array([highest, 0.0, 0.0]), np.zeros(offset.size, dtype=np.uint8)
    highest, lowest = finite.max(), finite.min()
    step = (highest - lowest) / (_LEVELS - 1)
    levels = (highest - offset) * ((1 - 1e-9) / max(step, 1e-300))
    bounds = np.array([highest, step, max(abs(highest), abs(lowest))])
    return bounds, np.minimum(levels, _LEVELS - 1).astype(np.uint8)


def _aligned(shape, dtype):
    """Array of zeros that starts at a whole cache line, as the vector loads assume."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _tile_work(R, B):
    """Lanes, sorting space and a tile of scores for the float32 blocks."""
    shapes = (R, B, _ROWS), (R, _ROWS), (_TILE, _ROWS)
    return [_aligned(shape, np.float32) for shape in shapes]


def _sums_work(R, B):
    """Deficits, their 8-bit forms and those of the offsets for the 8-bit blocks."""
    return (
        _aligned((R, B, _LANES), np.float32),
        _aligned((R, B, _LANES), np.uint8),
        _aligned((_LEVELS, _LANES), np.uint8),
    )


# ---------------------------------------------------------------------------
# One class, all lanes
# ---------------------------------------------------------------------------
# Written in LLVM's vector types, so that the running total stays in registers: loops
# over the lanes in Numba put it through memory for every repetition, and took 320
# instead of 127 us a row for float32 sums at K=105,033, R=25, B=32.

if config.DISABLE_JIT:

    def _sum_class(lanes, table, k, total):
        """Add repetitions 0, 1, ... of class k to total (_ROWS,), in this order."""
        for r in range(table.shape[1]):
            total += lanes[r, table[k, r]]

    def _min_class(lanes, table, k, total):
        """Lower total (_ROWS,) to the least score of class k."""
        for r in range(table.shape[1]):
            np.minimum(total, lanes[r, table[k, r]], out=total)

    def _least_first(work, low):
        """Exchange the numbers work[low:] (R, _ROWS) of each lane: least to `low`."""
        for r in range(low + 1, work.shape[0]):
            both = np.sort(work[[low, r]], axis=0)
            work[low], work[r] = both

    def _lanes_within(lanes, table, k, total, limits):
        """Lanes, as bits, where total plus class k's 8-bit terms is <= limits."""
        total = total.astype(int)
        for r in range(table.shape[1]):
            total += lanes[r, table[k, r]]
        within = np.minimum(total, 255) <= limits
        return sum(1 << int(i) for i in np.flatnonzero(within))

    def _classes_within(units, codes, tile, limit):
        """Classes of a tile, as bits, whose saturating sum of units is <= limit."""
        total = np.take_along_axis(units, codes[tile].astype(int), axis=1)
        within = np.minimum(total.astype(int).sum(axis=0), 255) <= limit
        return sum(1 << int(j) for j in np.flatnonzero(within))

    def _lowest_bit(mask):
        """Position of the lowest bit that is set."""
        return (int(mask) & -int(mask)).bit_length() - 1

else:
    _INDEX = ir.IntType(64)

    def _emit_load(builder, data, vector, align):
        """Emit the load of a vector at the address `data`."""
        return builder.load(builder.bitcast(data, vector.as_pointer()), align=align)

    def _saturating_add(builder, vector):
        """LLVM's saturating addition of vectors of bytes."""
        name = f"llvm.uadd.sat.v{vector.count}i8"
        kind = ir.FunctionType(vector, [vector, vector])
        return cgutils.get_or_insert_function(builder.module, kind, name)

    def _emit_class(context, builder, signature, args, vector, combine):
        """Emit total = combine(total, lanes[r, table[k, r]]) for every r; its value.

        The arguments begin with lanes (R, B, n_lanes), table (K, R), k and
        total (n_lanes,).
        """
        lanes, table, total = (
            context.make_array(signature.args[j])(context, builder, args[j])
            for j in (0, 1, 3)
        )
        R, B, _ = cgutils.unpack_tuple(builder, lanes.shape, 3)
        width = _INDEX(vector.count)
        stride = builder.mul(B, width)
        codes = builder.gep(table.data, [builder.mul(args[2], R)])
        value = _emit_load(builder, total.data, vector, align=4)
        value = cgutils.alloca_once_value(builder, value)
        buckets = cgutils.alloca_once_value(builder, lanes.data)  # of repetition r

        def step(r):
            data = builder.load(buckets)
            code = builder.zext(builder.load(builder.gep(codes, [r])), _INDEX)
            term = builder.gep(data, [builder.mul(code, width)])
            term = _emit_load(builder, term, vector, align=64)
            builder.store(combine(builder.load(value), term), value)
            builder.store(builder.gep(data, [stride]), buckets)

        zero, one, four = _INDEX(0), _INDEX(1), _INDEX(4)
        whole = builder.and_(R, _INDEX(-4))
        with cgutils.for_range_slice(builder, zero, whole, four) as (r, _):
            for j in range(4):
                step(builder.add(r, _INDEX(j)))
        with cgutils.for_range_slice(builder, whole, R, one) as (r, _):
            step(r)
        return builder.load(value)

    def _merge_class(name):
        """Intrinsic (lanes, table, k, total) that merges class k into float32 total."""

        @intrinsic
        def merge_class(typing, lanes, table, k, total):
            vector = ir.VectorType(ir.FloatType(), _ROWS)

            def combine(builder, a, b):
                if name == "sum":
                    return builder.fadd(a, b)
                return builder.select(builder.fcmp_ordered("<", b, a), b, a)

            def generate(context, builder, signature, args):
                value = _emit_class(
                    context,
                    builder,
                    signature,
                    args,
                    vector,
                    lambda a, b: combine(builder, a, b),
                )
                total = context.make_array(signature.args[3])(context, builder, args[3])
                out = builder.bitcast(total.data, vector.as_pointer())
                builder.store(value, out, align=4)
                return context.get_dummy_value()

            return types.none(lanes, table, types.intp, total), generate

        return merge_class

    _sum_class = _merge_class("sum")
    _min_class = _merge_class("min")

    @intrinsic
    def _least_first(typing, work, low):
        """Exchange the numbers work[low:] (R, _ROWS) of each lane: least to `low`."""
        vector = ir.VectorType(ir.FloatType(), _ROWS)

        def generate(context, builder, signature, args):
            work = context.make_array(signature.args[0])(context, builder, args[0])
            R, _ = cgutils.unpack_tuple(builder, work.shape, 2)

            def row(r):
                data = builder.gep(work.data, [builder.mul(r, _INDEX(_ROWS))])
                return builder.bitcast(data, vector.as_pointer())

            least = cgutils.alloca_once_value(
                builder, builder.load(row(args[1]), align=64)
            )
            start = builder.add(args[1], _INDEX(1))
            with cgutils.for_range_slice(builder, start, R, _INDEX(1)) as (r, _):
                a, b = builder.load(least), builder.load(row(r), align=64)
                less = builder.fcmp_ordered("<", a, b)
                builder.store(builder.select(less, a, b), least)
                builder.store(builder.select(less, b, a), row(r), align=64)
            builder.store(builder.load(least), row(args[1]), align=64)
            return context.get_dummy_value()

        return types.none(work, types.intp), generate

    @intrinsic
    def _lanes_within(typing, lanes, table, k, total, limits):
        """Lanes, as bits, where total plus class k's 8-bit terms is <= limits."""
        vector = ir.VectorType(ir.IntType(8), _LANES)

        def generate(context, builder, signature, args):
            add = _saturating_add(builder, vector)
            value = _emit_class(
                context,
                builder,
                signature,
                args,
                vector,
                lambda a, b: builder.call(add, [a, b]),
            )
            limits = context.make_array(signature.args[4])(context, builder, args[4])
            limits = _emit_load(builder, limits.data, vector, align=1)
            within = builder.icmp_unsigned("<=", value, limits)
            return builder.bitcast(within, ir.IntType(_LANES))

        return types.uint64(lanes, table, types.intp, total, limits), generate

    @intrinsic
    def _classes_within(typing, units, codes, tile, limit):
        """Classes of a tile, as bits, whose saturating sum of units is <= limit.

        units (R + 1, _LANES): of each bucket; codes (n_tiles, R + 1, _LANES).
        """
        vector = ir.VectorType(ir.IntType(8), _LANES)
        undefined, zero = ir.Constant(vector, ir.Undefined), ir.Constant(vector, None)

        def generate(context, builder, signature, args):
            units, codes = (
                context.make_array(signature.args[j])(context, builder, args[j])
                for j in (0, 1)
            )
            n_terms, _ = cgutils.unpack_tuple(builder, units.shape, 2)
            width = _INDEX(_LANES)
            start = builder.mul(builder.mul(args[2], n_terms), width)
            start = builder.gep(codes.data, [start])
            total = cgutils.alloca_once_value(builder, zero)
            add = _saturating_add(builder, vector)
            with cgutils.for_range(builder, n_terms) as loop:
                at = [builder.mul(loop.index, width)]
                here = builder.gep(start, at)
                here = _emit_load(builder, here, vector, align=1)
                terms = _emit_load(builder, builder.gep(units.data, at), vector, 64)
                found = undefined
                for j in range(_LANES):  # LLVM makes one byte permutation of these
                    code = builder.extract_element(here, _INDEX(j))
                    term = builder.extract_element(terms, builder.zext(code, _INDEX))
                    found = builder.insert_element(found, term, _INDEX(j))
                builder.store(builder.call(add, [builder.load(total), found]), total)
            limit = builder.insert_element(undefined, args[3], _INDEX(0))
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), None)
            limit = builder.shuffle_vector(limit, undefined, everywhere)
            within = builder.icmp_unsigned("<=", builder.load(total), limit)
            return builder.bitcast(within, ir.IntType(_LANES))

        return types.uint64(units, codes, types.intp, types.uint8), generate

    @intrinsic
    def _lowest_bit(typing, mask):
        """Position of the lowest bit that is set."""

        def generate(context, builder, signature, args):
            return builder.cttz(args[0], ir.IntType(1)(1))

        return types.int64(types.uint64), generate


# ---------------------------------------------------------------------------
# Float32 blocks: every merge
# ---------------------------------------------------------------------------
# Sums have a fixed order, so nothing here is compiled with fast-math.


@njit(fastmath=False)
def _fill_lanes(scores, lanes):
    """Copy scores (n, R, B) into the first n lanes of lanes (R, B, _ROWS)."""
    n, R, B = scores.shape
    for r in range(R):
        for i in range(n):
            for b in range(B):
                lanes[r, b, i] = scores[i, r, b]


@njit(fastmath=False)
def _median_class(lanes, table, k, work, total):
    """Median score of class k into total (_ROWS,); work (R, _ROWS)."""
    R = table.shape[1]
    for r in range(R):
        for i in range(_ROWS):
            work[r, i] = lanes[r, table[k, r], i]
    for low in range(R // 2 + 1):
        _least_first(work, low)
    for i in range(_ROWS):
        total[i] = (work[(R - 1) // 2, i] + work[R // 2, i]) * np.float32(0.5)


@njit(fastmath=False)
def _merge_tile(lanes, table, merge, offset, first, last, work, tile):
    """Scores of classes first..last-1 of all rows into tile (_TILE, _ROWS)."""
    for k in range(first, last):
        total = tile[k - first]
        if merge == _SUM:
            start = offset[k] if offset.shape[0] else np.float32(0)
            for i in range(_ROWS):
                total[i] = start
            _sum_class(lanes, table, k, total)
        elif merge == _MIN:
            for i in range(_ROWS):
                total[i] = np.inf
            _min_class(lanes, table, k, total)
        else:
            _median_class(lanes, table, k, work, total)


@njit(fastmath=False)
def _score_block(scores, table, merge, offset, lanes, work, tile, out):
    """Write every class score of a block of rows to out (n, K)."""
    K = table.shape[0]
    _fill_lanes(scores, lanes)
    for first in range(0, K, _TILE):
        last = min(first + _TILE, K)
        _merge_tile(lanes, table, merge, offset, first, last, work, tile)
        for i in range(scores.shape[0]):
            for k in range(first, last):
                out[i, k] = tile[k - first, i]


@njit(fastmath=False)
def _topk_block(scores, table, merge, offset, lanes, work, tile, indices, values):
    """Write the best classes of a block of rows to indices and values (n, n_best)."""
    K = table.shape[0]
    n, n_best = indices.shape
    worst = np.empty(_ROWS, dtype=np.float32)  # the last of the best so far
    for i in range(_ROWS):
        worst[i] = -np.inf if i < n else np.inf
    _fill_lanes(scores, lanes)
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
            for i in range(n):
                if k < n_best or total[i] > worst[i]:
                    _insert(k, total[i], indices[i], values[i])
                    if k >= n_best - 1:
                        worst[i] = values[i, n_best - 1]


@njit(fastmath=False)
def _rank_block(scores, table, merge, offset, lanes, work, tile, y, ranks):
    """Write the number of classes before y (n,) to ranks (n,)."""
    K = table.shape[0]
    n = y.shape[0]
    own = np.zeros(_ROWS, dtype=np.float32)
    before = np.zeros(_ROWS, dtype=np.int64)
    _fill_lanes(scores, lanes)
    for i in range(n):
        _merge_tile(lanes, table, merge, offset, y[i], y[i] + 1, work, tile)
        own[i] = tile[0, i]
    for first in range(0, K, _TILE):
        last = min(first + _TILE, K)
        _merge_tile(lanes, table, merge, offset, first, last, work, tile)
        for k in range(first, last):
            total = tile[k - first]
            for i in range(n):
                tie = total[i] == own[i] and k < y[i]
                before[i] += total[i] > own[i] or tie
    for i in range(n):
        ranks[i] = before[i]


# ---------------------------------------------------------------------------
# The k largest sums
# ---------------------------------------------------------------------------
# A row's deficits max_b T_r[b] - T_r[b] are never negative, and the largest sums are
# the smallest sums of deficits. Each deficit is divided by a unit and rounded down to 8
# bits; sums saturate at 255. A class whose 8-bit sum exceeds the deficit of the k-th
# best so far, in units, cannot be better than it: rounding down and saturation only
# lower a sum, and the rounding of the float32 sums is in the bound. The unit follows
# the k-th best down, so that its deficit is 250 units each time the scale is renewed.


@njit(fastmath=False)
def _insert(k, score, indices, values):
    """Put class k among the best so far, indices and values (n_best,).

    Classes come in ascending order, so that a tie goes behind, and class k is the k-th
    to come or takes the place of the last.
    """
    j = min(k, values.shape[0] - 1)
    while j > 0 and values[j - 1] < score:
        values[j] = values[j - 1]
        indices[j] = indices[j - 1]
        j -= 1
    values[j] = score
    indices[j] = k


@njit(fastmath=False)
def _class_score(row, codes, offset, k):
    """Sum of class k for one row (R, B), in the order of `_sum_class`."""
    total = offset[k] if offset.shape[0] else np.float32(0)
    for r in range(codes.shape[0]):
        total += row[r, codes[r]]
    return total


@njit(fastmath=False)
def _deficits(scores, bounds, deficits):
    """Write deficits (R, B, _LANES); return float64 bounds of each row, all (n,).

    ceiling: no class scores more. span: no finite score is further below the ceiling.
    error: the float32 sum of a class is no further from its exact sum.
    """
    n, R, B = scores.shape
    ceiling, span, error = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        ceiling[i] = bounds[0]
        span[i] = bounds[1] * _LEVELS
        error[i] = bounds[2]
    for r in range(R):
        for i in range(n):
            highest, lowest = np.float32(-np.inf), np.float32(np.inf)
            for b in range(B):
                t = scores[i, r, b]
                highest = max(highest, t)
                lowest = min(lowest, t if t > -np.inf else np.float32(np.inf))
            ceiling[i] += highest
            if highest > -np.inf:
                span[i] += np.float64(highest) - np.float64(lowest)
                error[i] += max(abs(highest), abs(lowest))
            for b in range(B):
                t = scores[i, r, b]
                deficits[r, b, i] = highest - t if t > -np.inf else _FAR
    for i in range(n):
        error[i] *= (R + 2) * 2.0**-24
    return ceiling, span, error


@njit(fastmath=False)
def _round_down(deficits, bounds, inverse, lanes, starts):
    """Write deficits / unit to lanes (R, B, _LANES), the offsets' to starts."""
    R, B, _ = deficits.shape
    n = inverse.shape[0]
    for r in range(R):
        for b in range(B):
            for i in range(n):
                units = deficits[r, b, i] * inverse[i]
                lanes[r, b, i] = np.uint8(min(units, 255.0))
    for j in range(_LEVELS):
        for i in range(n):
            units = bounds[1] * j * inverse[i]
            starts[j, i] = np.uint8(min(units, 255.0))


@njit(fastmath=False)
def _scale(worst, ceiling, span, error):
    """Units of the 8-bit sums in a deficit of 1."""
    gap = min(span, ceiling - worst) if worst > -np.inf else span
    return _TOP / max(gap + error, 1e-30)


@njit(fastmath=False)
def _limit(worst, ceiling, error, scale):
    """Largest 8-bit sum of a class that may be better than the k-th best."""
    if worst == -np.inf:
        return np.uint8(254)
    units = (ceiling - worst + error) * scale * (1 + 1e-9)
    return np.uint8(min(units, 254.0))


@njit(fastmath=False)
def _topk_sums(
    scores, table, offset, bounds, levels, first, deficits, lanes, starts, indices,
    values,
):  # fmt: skip
    """Complete indices and values (n, n_best), the best of the classes before `first`.

    scores (n, R, B), n <= _LANES; bounds, levels: of `_offset_levels`; deficits, lanes
    (R, B, _LANES), starts (_LEVELS, _LANES): space to work in. False, with the task
    left undone, if too many classes cannot be ruled out.
    """
    n, n_best = indices.shape
    K = table.shape[0]
    scale, inverse = np.empty(n), np.empty(n)
    limits = np.empty(_LANES, dtype=np.uint8)
    for i in range(_LANES):
        limits[i] = 0
        for b in range(lanes.shape[1]):
            lanes[0, b, i] = 255  # lanes without a row stay out
    ceiling, span, error = _deficits(scores, bounds, deficits)
    patience = n * (K // 16 + 40 * n_best)
    while first < K:
        for i in range(n):
            worst = values[i, n_best - 1]
            scale[i] = _scale(worst, ceiling[i], span[i], error[i])
            inverse[i] = scale[i] * (1 - 1e-6)  # more than the rounding of a deficit
            limits[i] = _limit(worst, ceiling[i], error[i], scale[i])
        _round_down(deficits, bounds, inverse, lanes, starts)
        last = min(4 * first, K)
        for k in range(first, last):
            start = starts[levels[k] if levels.shape[0] else 0]
            mask = _lanes_within(lanes, table, k, start, limits)
            while mask:
                i = _lowest_bit(mask)
                mask &= mask - np.uint64(1)
                patience -= 1
                score = _class_score(scores[i], table[k], offset, k)
                if score > values[i, n_best - 1]:
                    _insert(k, score, indices[i], values[i])
                    worst = values[i, n_best - 1]
                    limits[i] = _limit(worst, ceiling[i], error[i], scale[i])
            if patience < 0:
                return False
        first = last
    return True


@njit(fastmath=False)
def _topk_few(scores, table, offset, bounds, codes, deficits, units, indices, values):
    """Write the best classes, row after row: 64 classes in a vector, not 64 rows.

    Other parameters and result as in `_topk_sums`; codes: of `Prepared`; deficits
    (R, B, 1), units (R + 1, _LANES): space to work in.
    """
    n, n_best = indices.shape
    K, R = table.shape
    for i in range(n):
        row = scores[i : i + 1]
        ceilings, spans, errors = _deficits(row, bounds, deficits)
        ceiling, span, error = ceilings[0], spans[0], errors[0]
        for k in range(n_best):
            score = _class_score(scores[i], table[k], offset, k)
            _insert(k, score, indices[i], values[i])
        patience = K // 16 + 40 * n_best
        first = n_best // _LANES
        while first < codes.shape[0]:
            worst = values[i, n_best - 1]
            scale = _scale(worst, ceiling, span, error)
            limit = _limit(worst, ceiling, error, scale)
            inverse = scale * (1 - 1e-6)
            for r in range(R):
                for b in range(deficits.shape[1]):
                    units[r, b] = np.uint8(min(deficits[r, b, 0] * inverse, 255.0))
            for j in range(_LEVELS):
                units[R, j] = np.uint8(min(bounds[1] * j * inverse, 255.0))
            last = min(4 * first + 1, codes.shape[0])
            for tile in range(first, last):
                mask = _classes_within(units, codes, tile, limit)
                while mask:
                    k = tile * _LANES + _lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    if k < n_best or k >= K:
                        continue
                    patience -= 1
                    score = _class_score(scores[i], table[k], offset, k)
                    if score > values[i, n_best - 1]:
                        _insert(k, score, indices[i], values[i])
                        worst = values[i, n_best - 1]
                        limit = _limit(worst, ceiling, error, scale)
                if patience < 0:
                    return False
            first = last
    return True


# ---------------------------------------------------------------------------
# Stages: the best classes after 1, 2, ..., R repetitions
# ---------------------------------------------------------------------------
# The deficit of a class, how far it is below the best score there could be, only grows
# from stage to stage: by addition or, for the minimum, as a maximum. As above, deficits
# in units, rounded down to 8 bits, rule a class out; here for all stages in one pass.
# The unit is that of the last stage, where the k-th best class has its largest deficit.


def decode_stages(scores, table, k, *, merge="sum"):
    """Find the k best classes of each row by the first r repetitions, r = 1..R.

    Parameters as in `decode_topk`.

    Returns
    -------
    indices : ndarray of shape (n, R, k), int32
        ``indices[:, r - 1]`` is what `decode_topk` gives for ``scores[:, :r]`` and
        ``table[:, :r]``.
    values : ndarray of shape (n, R, k), float32
    """
    n, R, B = scores.shape
    indices = np.empty((n, R, k), dtype=np.int32)
    values = np.empty((n, R, k), dtype=np.float32)
    if k > 64 and k > table.shape[0] // 16:  # sorting beats running lists
        for r in range(R):
            first = np.ascontiguousarray(scores[:, : r + 1])
            codes = np.ascontiguousarray(table[:, : r + 1])
            best = decode_topk(first, codes, k, merge=merge)
            indices[:, r], values[:, r] = best
    elif merge == "median":
        _stages_median(scores, table, indices, values)
    else:
        deficits = _aligned((R, B, _LANES), np.float32)
        lanes = _aligned((R, B, _LANES), np.uint8)
        limits = _aligned((R, _LANES), np.uint8)
        for row in range(0, n, _LANES):
            rows = slice(row, row + _LANES)
            task = scores[rows], table, merge == "sum", deficits, lanes, limits
            _stages_block(*task, indices[rows], values[rows])
    return indices, values


if config.DISABLE_JIT:

    def _lanes_of_stages(lanes, table, k, adds, limits):
        """Lanes, as bits, where class k is below the limit of a stage.

        lanes (R, B, _LANES): 8-bit terms to add, or to take the maximum of; limits
        (R, _LANES).
        """
        terms = [lanes[r, table[k, r]].astype(int) for r in range(table.shape[1])]
        totals = (np.add if adds else np.maximum).accumulate(terms)
        below = (np.minimum(totals, 255) < limits).any(axis=0)
        return sum(1 << int(i) for i in np.flatnonzero(below))

else:

    @intrinsic
    def _lanes_of_stages(typing, lanes, table, k, adds, limits):
        """Lanes, as bits, where class k is below the limit of a stage.

        lanes (R, B, _LANES): 8-bit terms to add, or to take the maximum of; limits
        (R, _LANES).
        """
        index, vector = ir.IntType(64), ir.VectorType(ir.IntType(8), _LANES)
        zero = ir.Constant(vector, None)

        def generate(context, builder, signature, args):
            lanes, table, limits = (
                context.make_array(signature.args[j])(context, builder, args[j])
                for j in (0, 1, 4)
            )
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

            def step(r, merge):
                code = builder.zext(builder.load(builder.gep(codes, [r])), index)
                term = load(lanes, builder.add(builder.mul(r, B), code))
                now = call(merge, builder.load(total), term)
                builder.store(now, total)
                below = call("usub.sat", load(limits, r), now)
                builder.store(builder.or_(builder.load(room), below), room)

            with builder.if_else(args[3]) as branches:
                for branch, merge in zip(branches, ["uadd.sat", "umax"], strict=True):
                    with branch, cgutils.for_range(builder, R) as loop:
                        step(loop.index, merge)
            found = builder.icmp_unsigned("!=", builder.load(room), zero)
            return builder.bitcast(found, index)

        return types.uint64(lanes, table, types.intp, types.boolean, limits), generate


@njit(fastmath=False)
def _stages_block(scores, table, adds, deficits, lanes, limits, indices, values):
    """Write the best classes of up to _LANES rows to indices and values (n, R, n_best).

    adds: whether scores are added, or else their minimum is taken. Space to work in:
    deficits and lanes (R, B, _LANES), limits (R, _LANES).
    """
    n, R, n_best = indices.shape
    K, last_stage = table.shape[0], R - 1
    ceiling, span, error = _stages_deficits(scores, adds, deficits)
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
            if n_seen[bucket] < n_best:  # in stage 1 later classes tie with these
                n_seen[bucket] += 1
                for i in range(n):
                    score = scores[i, 0, bucket]
                    if k < n_best or score > values[i, 0, n_best - 1]:
                        _insert(k, score, indices[i, 0], values[i, 0])
            mask = every_row
            if k >= n_best:
                mask = _lanes_of_stages(lanes, table, k, adds, limits)
            while mask:
                i = _lowest_bit(mask)
                mask &= mask - np.uint64(1)
                score = scores[i, 0, bucket]
                for r in range(1, R):
                    term = scores[i, r, table[k, r]]
                    score = score + term if adds else min(score, term)
                    if k < n_best or score > values[i, r, n_best - 1]:
                        _insert(k, score, indices[i, r], values[i, r])
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
            for r in range(1, R):
                limits[r, i] = _stages_limit(
                    values[i, r, n_best - 1], ceiling[i, r], error[i], scale[i]
                )


@njit(fastmath=False)
def _stages_limit(worst, ceiling, error, scale):
    """Least 8-bit sum of a class that is not better than the k-th best of a stage."""
    if worst == -np.inf:
        return np.uint8(255)
    units = (ceiling - worst + error) * scale * (1 + 1e-9)
    return np.uint8(min(units + 1, 255.0))


@njit(fastmath=False)
def _stages_deficits(scores, adds, deficits):
    """Write deficits (R, B, _LANES); return float64 bounds for each row.

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
        error[i] *= (R + 2) * 2.0**-24
    return ceiling, span, error


@njit(fastmath=False)
def _stages_median(scores, table, indices, values):
    """Write the classes of the best medians to indices and values (n, R, n_best)."""
    n, R, n_best = indices.shape
    half = np.float32(0.5)
    ordered = np.empty(R, dtype=np.float32)  # the scores of a class so far, ascending
    for i in range(n):
        for k in range(table.shape[0]):
            for r in range(R):
                score = scores[i, r, table[k, r]]
                j = r
                while j > 0 and ordered[j - 1] > score:
                    ordered[j] = ordered[j - 1]
                    j -= 1
                ordered[j] = score
                median = (ordered[r // 2] + ordered[(r + 1) // 2]) * half
                if k < n_best or median > values[i, r, n_best - 1]:
                    _insert(k, median, indices[i, r], values[i, r])
