"""From bucket scores to the best classes, exactly.

Class k has the score merge_r T_r[h_r(k)], where T is one row of ``scores`` of shape
(n, R, B) and h_r(k) is ``table[k, r]``, of shape (K, R). The merge is a sum, a minimum
or a median over the R repetitions (Medini et al., 2019, section 2).

Rows are taken in blocks, and a block is laid out with its rows innermost, in "lanes":
a class then costs R operations on contiguous vectors and no gathers. For the k best
classes a sum of R terms of 8 bits comes first, 64 rows at a time; the few classes that
it does not rule out are merged again in float32. Nothing of shape (n, K) is made unless
it is asked for. Skipping the classes whose buckets are all poor does not pay beside
this: ``examples/bench_pruning.py`` has the figures.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ._compat import njit, read_only

_ROWS = 32  # rows of a float32 block: two vectors of 512 bits
_TILE = 1024  # classes merged before their scores are used: 128 KB of scores
_LANES = 64  # rows of an 8-bit block: one vector of 512 bits
_LEVELS = 32  # values to which offsets are rounded in the 8-bit sums
_FIRST = 4  # times k: classes scored in float32 before the 8-bit sums begin
_FEW = 12  # rows that are faster one by one than as a block of _LANES, with look-ups
_FEWEST = 2  # and without
_TOP = 250.0  # 8-bit deficit of the k-th best class when a scale is chosen
_LONG_BYTES = 1 << 26  # of the classes gathered for long lists, at least for one row
_FAR = np.float32(3e38)  # deficit of a score of -inf
_MERGES = {"sum": 0, "min": 1, "median": 2}
_SUM, _MIN, _MEDIAN = _MERGES.values()


class Decoder(NamedTuple):
    is_log: bool
    merge: str
    is_mean: bool


DECODERS = {
    "log_mean": Decoder(True, "sum", True),
    "mean": Decoder(False, "sum", True),
    "min": Decoder(False, "min", False),
    "median": Decoder(False, "median", False),
}


class Prepared(NamedTuple):
    """What `decode_topk` can know before it sees scores: plain arrays."""

    bounds: np.ndarray  # (3,), highest offset, step of the levels, largest magnitude
    levels: np.ndarray  # (K,), uint8: offset[k] <= bounds[0] - bounds[1] * levels[k];
    # empty for no offset, when the bounds are 0
    codes: np.ndarray  # (n_tiles, R + 1, _LANES), uint8: table and levels by class


@cache  # asking LLVM takes its lock, at which a process forked meanwhile would hang
def _has_lookup():
    """Whether kernels may use AVX2's table look-up of bytes."""
    if config.DISABLE_JIT:
        return True
    is_host = not config.CPU_NAME and not config.CPU_FEATURES
    return is_host and binding.get_host_cpu_features().get("avx2", False)


def prepare(table, n_buckets, offset=None):
    """Prepare decoding: pass the result to `decode_topk` to save it the time.

    The codes take as many bytes as the table. They make a few rows fast where the
    buckets fit a vector that the processor can look up in; elsewhere they are empty.
    """
    K, R = table.shape
    bounds, levels = _offset_levels(_offset_array(offset, "sum"))
    codes = np.empty((0, R + 1, _LANES), dtype=np.uint8)
    if n_buckets <= _LANES and _has_lookup():
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
        ``prepare(table, B, offset)``, which makes small calls faster.  It also serves
        calls without the offset.

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
    (table,), offset = read_only(table), _offset_array(offset, merge)
    if is_long(k, K):
        _decode_long(scores, table, merge, offset, indices, values)
        return indices, values
    if prepared is None or prepared.levels.size < offset.size:
        none = np.empty((0, R + 1, _LANES), dtype=np.uint8)
        prepared = Prepared(*_offset_levels(offset), none)
    elif prepared.levels.size > offset.size:  # the levels in the codes count nothing
        prepared = Prepared(*_offset_levels(offset), prepared.codes)
    few = _FEW if prepared.codes.size else _FEWEST
    work = None
    for row in range(0, n, _LANES):
        rows = slice(row, row + _LANES)
        task = scores[rows], table, _MERGES[merge], offset
        best = indices[rows], values[rows]
        if len(best[0]) > few:
            work = work or _sums_work(R, B)
            terms = work[1]
            terms.fill(255)  # lanes without a row stay out
            _topk_first(*task, min(_FIRST * k, K), *best)
            _topk_block(*task, prepared.bounds, prepared.levels, *work, *best)
        elif prepared.codes.size:
            space = _aligned((R, B, 1), np.float32), _aligned((R + 1, 64, 1), np.uint8)
            _topk_first(*task, k, *best)
            _topk_rows(*task, prepared.bounds, prepared.codes, *space, *best)
        else:
            _topk_first(*task, K, *best)
    return indices, values


def is_long(k, n_classes):
    """Whether selecting among many classes at a time beats a running list of k."""
    return k > 1000 or (k > 64 and k > n_classes // 16)


def _decode_long(scores, table, merge, offset, indices, values):
    """Write the best classes of each row to indices and values (n, k).

    A row gathers the classes that beat the k-th best of those before, and whenever it
    has gathered some k or more beyond k, only the k best stay.
    """
    (n, R, B), (_, k), K = scores.shape, indices.shape, table.shape[0]
    room = min(2 * k + _TILE, K)
    n_rows = min(max(_LONG_BYTES // (8 * room), 1), _ROWS, max(n, 1))
    found = np.empty((n_rows, room), dtype=np.int32)
    found_scores = np.empty((n_rows, room), dtype=np.float32)
    lanes, work, tile = _tile_work(R, B)
    for row in range(0, n, n_rows):
        block = scores[row : row + n_rows]
        lanes[:, :, : len(block)] = block.transpose(1, 2, 0)
        counts = np.zeros(len(block), dtype=np.int64)
        worst = np.full(len(block), np.nan, dtype=np.float32)  # worse than every score
        for first in range(0, K, _TILE):
            last = min(first + _TILE, K)
            for i in np.flatnonzero(counts + (last - first) > room):
                counts[i], worst[i] = _keep_best(
                    found[i], found_scores[i], counts[i], k
                )
            _merge_tile(lanes, table, merge, offset, first, last, work, tile)
            _gather(tile, first, last, worst, counts, found, found_scores)
        for i, count in enumerate(counts):
            if count > k:
                _keep_best(found[i], found_scores[i], count, k)
            order = np.argsort(-found_scores[i, :k], kind="stable")
            indices[row + i] = found[i, order]
            values[row + i] = found_scores[i, order]


def _keep_best(found, scores, count, k):
    """Move the k best of the first `count` classes to the front, in ascending order.

    Returns their number and the score of the worst.
    """
    t = scores[:count]
    worst = np.partition(t, count - k)[count - k]
    is_kept = t > worst
    ties = np.flatnonzero(t == worst)
    is_kept[ties[: k - np.count_nonzero(is_kept)]] = True
    found[:k], scores[:k] = found[:count][is_kept], t[is_kept]
    return k, worst


def decode_scores(scores, table, *, merge="sum", offset=None, out=None):
    """Score every class: float32 array of shape (n, K), parameters of `decode_topk`.

    They are written to `out`, if given, which may be float64.
    The sum starts from 0 and adds repetition 0, 1, ..., R-1 and then the offset in this
    order in float32, so that a row has the same scores in every batch.
    """
    n, R, B = scores.shape
    K = table.shape[0]
    if out is None:
        out = np.empty((n, K), dtype=np.float32)
    (table,), offset = read_only(table), _offset_array(offset, merge)
    lanes, work, tile = _tile_work(R, B)
    for row in range(0, n, _ROWS):
        block = out[row : row + _ROWS]
        n_rows = len(block)
        lanes[:, :, :n_rows] = scores[row : row + _ROWS].transpose(1, 2, 0)
        for first in range(0, K, _TILE):
            last = min(first + _TILE, K)
            _merge_tile(lanes, table, merge, offset, first, last, work, tile)
            block[:, first:last] = tile[: last - first, :n_rows].T
    return out


def rank_of(scores, table, y, *, merge="sum", offset=None):
    """Count the classes that come before class y[i] in row i: int64 of shape (n,).

    The order is by score, highest first, then by class index; rank 0 is the best.
    """
    n, R, B = scores.shape
    K = table.shape[0]
    ranks = np.zeros(n, dtype=np.int64)
    y = np.ascontiguousarray(y, dtype=np.int64)
    (table,), offset = read_only(table), _offset_array(offset, merge)
    lanes, work, tile = _tile_work(R, B)
    own = np.empty(_ROWS, dtype=np.float32)
    for row in range(0, n, _ROWS):
        rows = slice(row, row + _ROWS)
        lanes[:, :, : len(y[rows])] = scores[rows].transpose(1, 2, 0)
        for i, k in enumerate(y[rows]):
            _merge_tile(lanes, table, merge, offset, k, k + 1, work, tile)
            own[i] = tile[0, i]
        for first in range(0, K, _TILE):
            last = min(first + _TILE, K)
            _merge_tile(lanes, table, merge, offset, first, last, work, tile)
            _count_before(tile, first, last, own, y[rows], ranks[rows])
    return ranks


def _offset_array(offset, merge):
    """Offset as an array, empty for none or no sum: one type for the kernels."""
    if offset is None or merge != "sum":
        offset = np.empty(0, dtype=np.float32)
    return read_only(offset)[0]


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
    levels = (highest - offset.astype(np.float64)) * ((1 - 1e-9) / max(step, 1e-300))
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

    def _lanes_within(lanes, table, k, total, limits):
        """Lanes, as bits, where total plus class k's 8-bit terms is <= limits."""
        total = total.astype(int)
        for r in range(table.shape[1]):
            total += lanes[r, table[k, r]]
        within = np.minimum(total, 255) <= limits
        return sum(1 << int(i) for i in np.flatnonzero(within))

    def _classes_within(units, codes, tile, limit, n_buckets):
        """Classes of a tile, as bits, whose saturating sum of units is <= limit."""
        total = np.take_along_axis(units[:, :, 0], codes[tile].astype(int), axis=1)
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
    def _classes_within(typing, units, codes, tile, limit, n_buckets):
        """Classes of a tile, as bits, whose saturating sum of units is <= limit.

        units (R + 1, 64, 1): of each bucket; codes (n_tiles, R + 1, _LANES). AVX2 looks
        32 bytes up in a table of 16: bits 4 and 5 of a code choose among such tables.
        """
        half = ir.VectorType(ir.IntType(8), 16)
        vector = ir.VectorType(ir.IntType(8), 32)
        zero = ir.Constant(vector, None)
        index = ir.VectorType(ir.IntType(32), 32)
        twice = ir.Constant(index, [*range(16), *range(16)])

        def look_up(builder, table, code, n_tables):
            name = "llvm.x86.avx2.pshuf.b"
            kind = ir.FunctionType(vector, [vector, vector])
            shuffle = cgutils.get_or_insert_function(builder.module, kind, name)
            found = []
            for j in range(n_tables):
                data = builder.gep(table, [_INDEX(16 * j)])
                part = _emit_load(builder, data, half, align=16)
                part = builder.shuffle_vector(part, part, twice)
                found.append(builder.call(shuffle, [part, code]))
            bit = 16
            while len(found) > 1:
                bits = builder.and_(code, ir.Constant(vector, [bit] * 32))
                is_set = builder.icmp_unsigned("!=", bits, zero)
                pairs = zip(found[::2], found[1::2], strict=True)
                found = [builder.select(is_set, b, a) for a, b in pairs]
                bit *= 2
            return found[0]

        def generate(context, builder, signature, args):
            units, codes = (
                context.make_array(signature.args[j])(context, builder, args[j])
                for j in (0, 1)
            )
            n_terms, _, _ = cgutils.unpack_tuple(builder, units.shape, 3)
            width = _INDEX(_LANES)
            start = builder.mul(builder.mul(args[2], n_terms), width)
            start = builder.gep(codes.data, [start])
            totals = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
            add = _saturating_add(builder, vector)

            def sum_up(n_tables):
                with cgutils.for_range(builder, n_terms) as loop:
                    at = builder.mul(loop.index, width)
                    table = builder.gep(units.data, [at])
                    for j, total in enumerate(totals):
                        code = builder.gep(start, [builder.add(at, _INDEX(32 * j))])
                        code = _emit_load(builder, code, vector, align=1)
                        term = look_up(builder, table, code, n_tables)
                        value = builder.call(add, [builder.load(total), term])
                        builder.store(value, total)

            is_few = builder.icmp_signed("<=", args[4], _INDEX(32))
            with builder.if_else(is_few) as (few, many):
                with few:
                    sum_up(2)
                with many:
                    sum_up(4)
            limit = builder.insert_element(zero, args[3], _INDEX(0))
            limit = builder.shuffle_vector(limit, zero, ir.Constant(index, None))
            bits = [
                builder.zext(
                    builder.bitcast(
                        builder.icmp_unsigned("<=", builder.load(total), limit),
                        ir.IntType(32),
                    ),
                    _INDEX,
                )
                for total in totals
            ]
            return builder.or_(bits[0], builder.shl(bits[1], _INDEX(32)))

        return types.uint64(units, codes, types.intp, types.uint8, types.intp), generate

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


@njit(inner=True, fastmath=False)
def _median_class(lanes, table, k, work, total):
    """Median score of class k into total (_ROWS,); work (R, _ROWS)."""
    R = table.shape[1]
    for r in range(R):
        for i in range(_ROWS):
            work[r, i] = lanes[r, table[k, r], i]
    for low in range(R // 2 + 1):
        for r in range(low + 1, R):
            for i in range(_ROWS):
                a, b = work[low, i], work[r, i]
                work[low, i] = a if a < b else b
                work[r, i] = b if a < b else a
    for i in range(_ROWS):
        total[i] = (work[(R - 1) // 2, i] + work[R // 2, i]) * np.float32(0.5)


@njit(fastmath=False)
def _sum_tile(lanes, table, offset, first, last, tile):
    """Sums of classes first..last-1 of all rows into tile (_TILE, _ROWS)."""
    for k in range(first, last):
        total = tile[k - first]
        for i in range(_ROWS):
            total[i] = 0
        _sum_class(lanes, table, k, total)
        if offset.shape[0]:
            for i in range(_ROWS):
                total[i] += offset[k]


@njit(fastmath=False)
def _min_tile(lanes, table, first, last, tile):
    """Minima of classes first..last-1 of all rows into tile (_TILE, _ROWS)."""
    for k in range(first, last):
        total = tile[k - first]
        for i in range(_ROWS):
            total[i] = np.inf
        _min_class(lanes, table, k, total)


@njit(fastmath=False)
def _median_tile(lanes, table, first, last, work, tile):
    """Medians of classes first..last-1 of all rows into tile (_TILE, _ROWS)."""
    for k in range(first, last):
        _median_class(lanes, table, k, work, tile[k - first])


def _merge_tile(lanes, table, merge, offset, first, last, work, tile):
    """Scores of classes first..last-1 of all rows into tile (_TILE, _ROWS).

    A kernel for each merge: only what is used is compiled.
    """
    if merge == "sum":
        _sum_tile(lanes, table, offset, first, last, tile)
    elif merge == "min":
        _min_tile(lanes, table, first, last, tile)
    else:
        _median_tile(lanes, table, first, last, work, tile)


@njit(fastmath=False)
def _gather(tile, first, last, worst, counts, found, scores):
    """Append the classes first..last-1 that beat `worst` (n,) to those found (n, room).

    counts (n,): how many there are; worst is NaN where every class is to be taken.
    """
    for k in range(first, last):
        total = tile[k - first]
        for i in range(counts.shape[0]):
            if not total[i] <= worst[i]:
                found[i, counts[i]] = k
                scores[i, counts[i]] = total[i]
                counts[i] += 1


@njit(fastmath=False)
def _count_before(tile, first, last, own, y, ranks):
    """Add to ranks (n,) the classes first..last-1 before y (n,), of scores own (n,)."""
    for k in range(first, last):
        total = tile[k - first]
        for i in range(y.shape[0]):
            tie = total[i] == own[i] and k < y[i]
            ranks[i] += total[i] > own[i] or tie


# ---------------------------------------------------------------------------
# The k best classes
# ---------------------------------------------------------------------------
# Every merge has a sum of R terms of 8 bits, saturating at 255, and a limit: a class
# whose sum is above it is not better than the k-th best so far, with the score t.
#
# Sum: a row's deficits max_b T_r[b] - T_r[b] are never negative, and the largest sums
# are the smallest sums of deficits. A term is the deficit in units, rounded down, and
# the limit is the deficit of t. Rounding down and saturation only lower a sum, and the
# rounding of the float32 sums is in the limit. The unit follows t, so that t's deficit
# is 250 units each time the scale is renewed.
#
# Minimum and median: a term is one if T_r[b] <= t and else zero. A minimum above t has
# none of these, a median above t at most R // 2.


@njit(inner=True, fastmath=False)
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


@njit(inner=True, fastmath=False)
def _class_sum(row, table, k, offset):
    """Sum of class k for one row (R, B), in the order of `_sum_tile`."""
    total = np.float32(0)
    for r in range(table.shape[1]):
        total += row[r, table[k, r]]
    return total + offset[k] if offset.shape[0] else total


@njit(inner=True, fastmath=False)
def _class_middle(row, table, k, merge, work):
    """Minimum or median of class k for one row (R, B); work (R,): space to sort in."""
    R = table.shape[1]
    for r in range(R):
        t = row[r, table[k, r]]
        j = r
        while j > 0 and work[j - 1] > t:
            work[j] = work[j - 1]
            j -= 1
        work[j] = t
    if merge == _MIN:
        return work[0]
    return (work[(R - 1) // 2] + work[R // 2]) * np.float32(0.5)


@njit(fastmath=False, inline="always")
def _class_score(row, table, k, merge, offset, work):
    """Score of class k for one row (R, B); work (R,): space to sort in."""
    if merge == _SUM:
        return _class_sum(row, table, k, offset)
    return _class_middle(row, table, k, merge, work)


@njit(fastmath=False)
def _topk_first(scores, table, merge, offset, n_first, indices, values):
    """Write the best of the first n_first classes to indices and values (n, n_best)."""
    n, n_best = indices.shape
    work = np.empty(table.shape[1], dtype=np.float32)
    for i in range(n):
        row = scores[i]  # sliced for each class, 105,033 sums took 7.3, not 1.9 ms
        for k in range(n_first):
            if merge == _SUM:
                score = _class_sum(row, table, k, offset)
            else:
                score = _class_middle(row, table, k, merge, work)
            if k < n_best or score > values[i, n_best - 1]:
                _insert(k, score, indices[i], values[i])


@njit(inner=True, fastmath=False)
def _layout(scores, merge, bounds, lanes):
    """Write deficits, or scores for other merges than sums, to lanes (R, B, n_lanes).

    Returns bounds of each row, float64 of shape (3, n): a ceiling no class exceeds; the
    span within which finite scores are below it; the error of a float32 sum.
    """
    n, R, B = scores.shape
    frame = np.zeros((3, n))
    ceiling, span, error = frame
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
                if merge == _SUM:
                    t = highest - t if t > -np.inf else _FAR
                lanes[r, b, i] = t
    for i in range(n):
        error[i] *= (R + 2) * 2.0**-24
    return frame


@njit(inner=True, fastmath=False)
def _round_down(merge, lanes, worst, bounds, frame, terms, starts, limits):
    """Write terms (R, n_buckets, n_lanes), those of the offsets, starts, and limits.

    worst (n,): score of the k-th best. Returns the units in a deficit of 1, (n,).
    """
    R, B, _ = lanes.shape
    n = worst.shape[0]
    ceiling, span, error = frame
    scale, inverse = np.ones(n), np.empty(n)
    for i in range(n):
        if merge == _SUM:
            gap = min(span[i], ceiling[i] - worst[i]) if worst[i] > -np.inf else span[i]
            scale[i] = _TOP / max(gap + error[i], 1e-30)
        inverse[i] = scale[i] * (1 - 1e-6)  # more than the rounding of a deficit
        limits[i] = _limit(merge, R, worst[i], ceiling[i], error[i], scale[i])
    for r in range(R):
        for b in range(B):
            if merge == _SUM:
                for i in range(n):
                    terms[r, b, i] = np.uint8(min(lanes[r, b, i] * inverse[i], 255.0))
            else:
                for i in range(n):
                    terms[r, b, i] = np.uint8(lanes[r, b, i] <= worst[i])
    for j in range(_LEVELS):
        for i in range(n):
            starts[j, i] = np.uint8(min(bounds[1] * j * inverse[i], 255.0))
    return scale


@njit(inner=True, fastmath=False)
def _limit(merge, R, worst, ceiling, error, scale):
    """Largest 8-bit sum of a class that may be better than the k-th best."""
    if merge == _MIN:
        return np.uint8(0)
    if merge == _MEDIAN:
        return np.uint8(min(R // 2, 255))
    if worst == -np.inf:
        return np.uint8(254)
    units = (ceiling - worst + error) * scale * (1 + 1e-9)
    return np.uint8(min(units, 254.0))


@njit(fastmath=False)
def _topk_block(
    scores, table, merge, offset, bounds, levels, lanes, terms, starts, indices,
    values,
):  # fmt: skip
    """Complete indices and values (n, n_best), from the best of the first classes.

    scores (n, R, B), n <= _LANES; bounds, levels: of `_offset_levels`; lanes, terms
    (R, B, _LANES), starts (_LEVELS, _LANES): space to work in, the terms 255.
    """
    n, n_best = indices.shape
    K, R = table.shape
    work = np.empty(R, dtype=np.float32)
    limits = np.zeros(_LANES, dtype=np.uint8)
    frame = _layout(scores, merge, bounds, lanes)
    first = min(_FIRST * n_best, K)
    while first < K:
        worst = values[:, n_best - 1].copy()
        scale = _round_down(merge, lanes, worst, bounds, frame, terms, starts, limits)
        last = min(4 * first, K)
        for k in range(first, last):
            level = levels[k] if levels.shape[0] else 0
            mask = _lanes_within(terms, table, k, starts[level], limits)
            while mask:
                i = _lowest_bit(mask)
                mask &= mask - np.uint64(1)
                score = _class_score(scores[i], table, k, merge, offset, work)
                if score > values[i, n_best - 1]:
                    _insert(k, score, indices[i], values[i])
                    t = values[i, n_best - 1]
                    limits[i] = _limit(merge, R, t, frame[0, i], frame[2, i], scale[i])
        first = last


@njit(fastmath=False)
def _topk_rows(
    scores, table, merge, offset, bounds, codes, lanes, terms, indices, values
):
    """Complete indices and values, row after row: classes in a vector, not rows.

    They hold the first n_best classes. Other parameters as in `_topk_block`; codes: of
    `Prepared`; lanes (R, B, 1), terms (R + 1, 64, 1): space to work in.
    """
    n, n_best = indices.shape
    K, R = table.shape
    B = lanes.shape[1]
    work = np.empty(R, dtype=np.float32)
    limits = np.zeros(1, dtype=np.uint8)
    for i in range(n):
        frame = _layout(scores[i : i + 1], merge, bounds, lanes)
        first = n_best // _LANES
        while first < codes.shape[0]:
            worst = values[i : i + 1, n_best - 1].copy()
            scale = _round_down(
                merge, lanes, worst, bounds, frame, terms[:R], terms[R], limits
            )
            last = min(4 * first + 1, codes.shape[0])
            for tile in range(first, last):
                mask = _classes_within(terms, codes, tile, limits[0], B)
                while mask:
                    k = tile * _LANES + _lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    if k < n_best or k >= K:
                        continue
                    score = _class_score(scores[i], table, k, merge, offset, work)
                    if score > values[i, n_best - 1]:
                        _insert(k, score, indices[i], values[i])
                        t = values[i, n_best - 1]
                        limits[0] = _limit(
                            merge, R, t, frame[0, 0], frame[2, 0], scale[0]
                        )
            first = last
