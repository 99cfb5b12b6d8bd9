"""One class of all rows, or one row of all classes, in LLVM's vector types.

A block of rows lies with its rows innermost, in "lanes": (R, B, n_lanes).

The running total stays in registers: loops over the lanes in Numba put it through
memory for every repetition, and took 320 instead of 127 us a row for float32 sums at
K=105,033, R=25, B=32.  Each function stands here twice: in NumPy, for when Numba
compiles nothing, which says what it does, and as the code that LLVM compiles.
"""

from functools import cache

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

ROWS = 32  # rows of a float32 block: two vectors of 512 bits
LANES = 64  # rows of an 8-bit block: one vector of 512 bits


def aligned(shape, dtype):
    """Array of zeros that starts at a whole cache line, as the vector loads assume."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


# Whether kernels may expand vectors: without AVX-512 LLVM would make branches of it.
EXPANDS = config.DISABLE_JIT or "+avx512f" in get_host_cpu_features()


@cache  # asking LLVM takes its lock, at which a process forked meanwhile would hang
def has_lookup():
    """Whether kernels may use AVX2's table look-up of bytes."""
    if config.DISABLE_JIT:
        return True
    is_host = not config.CPU_NAME and not config.CPU_FEATURES
    return is_host and binding.get_host_cpu_features().get("avx2", False)


if config.DISABLE_JIT:

    def sum_class(lanes, table, k, total):
        """Add repetitions 0, 1, ... of class k to total (ROWS,), in this order."""
        for r in range(table.shape[1]):
            total += lanes[r, table[k, r]]

    def min_class(lanes, table, k, total):
        """Lower total (ROWS,) to the least score of class k."""
        for r in range(table.shape[1]):
            np.minimum(total, lanes[r, table[k, r]], out=total)

    def lanes_within(lanes, table, k, total, limits):
        """Lanes, as bits, where total plus class k's 8-bit terms is <= limits."""
        total = total.astype(int)
        for r in range(table.shape[1]):
            total += lanes[r, table[k, r]]
        within = np.minimum(total, 255) <= limits
        return sum(1 << int(i) for i in np.flatnonzero(within))

    def classes_within(units, codes, tile, limit, n_buckets):
        """Classes of a tile, as bits, whose saturating sum of units is <= limit.

        units (R + 1, 64, 1): of each bucket; codes (n_tiles, R + 1, LANES).
        """
        total = np.take_along_axis(units[:, :, 0], codes[tile].astype(int), axis=1)
        within = np.minimum(total.astype(int).sum(axis=0), 255) <= limit
        return sum(1 << int(j) for j in np.flatnonzero(within))

    def lowest_bit(mask):
        """Position of the lowest bit that is set."""
        return (int(mask) & -int(mask)).bit_length() - 1

    def add_expanded(z, first, mask, x, values, start):
        """Add x values[start], ... to z[first + q] for the bits q of a mask of 16."""
        columns = first + np.flatnonzero(mask >> np.arange(16) & 1)
        z[columns] += x * values[start : start + columns.size]
        return start + columns.size

    def lanes_of_stages(lanes, table, k, adds, starts, level, limits):
        """Lanes, as bits, where class k is below the limit of a stage.

        lanes (R, B, LANES): 8-bit terms to add, or to take the maximum of; starts
        (R, n_levels, LANES), or none: what a sum starts from by stage and level; limits
        (R, LANES).
        """
        terms = [lanes[r, table[k, r]].astype(int) for r in range(table.shape[1])]
        totals = (np.add if adds else np.maximum).accumulate(terms)
        if starts.shape[0]:
            totals = totals + starts[:, level]
        below = (np.minimum(totals, 255) < limits).any(axis=0)
        return sum(1 << int(i) for i in np.flatnonzero(below))

else:
    _INDEX = ir.IntType(64)

    def _emit_load(builder, data, vector, align):
        """Emit the load of a vector at the address `data`."""
        return builder.load(builder.bitcast(data, vector.as_pointer()), align=align)

    def _call(builder, name, a, b):
        """Emit the call of LLVM's function of two vectors of bytes."""
        kind = ir.FunctionType(a.type, [a.type, a.type])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}")
        return builder.call(function, [a, b])

    def _saturating_add(builder, a, b):
        return _call(builder, f"uadd.sat.v{a.type.count}i8", a, b)

    def _arrays(context, builder, signature, args, *places):
        """The arrays among the arguments."""
        return [
            context.make_array(signature.args[j])(context, builder, args[j])
            for j in places
        ]

    def _emit_class(emitting, vector, combine):
        """Emit total = combine(total, lanes[r, table[k, r]]) for every r; its value.

        emitting: context, builder, signature and arguments, which begin with lanes
        (R, B, n_lanes), table (K, R), k and total (n_lanes,).
        """
        _, builder, _, args = emitting
        lanes, table, total = _arrays(*emitting, 0, 1, 3)
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
            builder.store(combine(builder, builder.load(value), term), value)
            builder.store(builder.gep(data, [stride]), buckets)

        zero, one, four = _INDEX(0), _INDEX(1), _INDEX(4)
        whole = builder.and_(R, _INDEX(-4))
        with cgutils.for_range_slice(builder, zero, whole, four) as (r, _):
            for j in range(4):
                step(builder.add(r, _INDEX(j)))
        with cgutils.for_range_slice(builder, whole, R, one) as (r, _):
            step(r)
        return builder.load(value)

    def _merge_class(combine):
        """Intrinsic (lanes, table, k, total) that merges class k into float32 total."""

        @intrinsic
        def merge_class(typing, lanes, table, k, total):
            vector = ir.VectorType(ir.FloatType(), ROWS)

            def generate(context, builder, *call):
                emitting = context, builder, *call
                value = _emit_class(emitting, vector, combine)
                (total,) = _arrays(*emitting, 3)
                out = builder.bitcast(total.data, vector.as_pointer())
                builder.store(value, out, align=4)
                return context.get_dummy_value()

            return types.none(lanes, table, types.intp, total), generate

        return merge_class

    def _least(builder, a, b):
        return builder.select(builder.fcmp_ordered("<", b, a), b, a)

    sum_class = _merge_class(ir.IRBuilder.fadd)
    min_class = _merge_class(_least)

    @intrinsic
    def lanes_within(typing, lanes, table, k, total, limits):
        vector = ir.VectorType(ir.IntType(8), LANES)

        def generate(context, builder, *call):
            emitting = context, builder, *call
            value = _emit_class(emitting, vector, _saturating_add)
            (limits,) = _arrays(*emitting, 4)
            limits = _emit_load(builder, limits.data, vector, align=1)
            within = builder.icmp_unsigned("<=", value, limits)
            return builder.bitcast(within, ir.IntType(LANES))

        return types.uint64(lanes, table, types.intp, total, limits), generate

    @intrinsic
    def classes_within(typing, units, codes, tile, limit, n_buckets):
        # AVX2 looks 32 bytes up in a table of 16: bits 4 and 5 of a code choose among
        # such tables.
        half = ir.VectorType(ir.IntType(8), 16)
        vector = ir.VectorType(ir.IntType(8), 32)
        zero = ir.Constant(vector, None)
        index = ir.VectorType(ir.IntType(32), 32)
        twice = ir.Constant(index, [*range(16), *range(16)])

        def look_up(builder, table, code, n_tables):
            found = []
            for j in range(n_tables):
                data = builder.gep(table, [_INDEX(16 * j)])
                part = _emit_load(builder, data, half, align=16)
                part = builder.shuffle_vector(part, part, twice)
                found.append(_call(builder, "x86.avx2.pshuf.b", part, code))
            bit = 16
            while len(found) > 1:
                bits = builder.and_(code, ir.Constant(vector, [bit] * 32))
                is_set = builder.icmp_unsigned("!=", bits, zero)
                pairs = zip(found[::2], found[1::2], strict=True)
                found = [builder.select(is_set, b, a) for a, b in pairs]
                bit *= 2
            return found[0]

        def generate(context, builder, signature, args):
            units, codes = _arrays(context, builder, signature, args, 0, 1)
            n_terms, _, _ = cgutils.unpack_tuple(builder, units.shape, 3)
            width = _INDEX(LANES)
            start = builder.mul(builder.mul(args[2], n_terms), width)
            start = builder.gep(codes.data, [start])
            totals = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]

            def sum_up(n_tables):
                with cgutils.for_range(builder, n_terms) as loop:
                    at = builder.mul(loop.index, width)
                    table = builder.gep(units.data, [at])
                    for j, total in enumerate(totals):
                        code = builder.gep(start, [builder.add(at, _INDEX(32 * j))])
                        code = _emit_load(builder, code, vector, align=1)
                        term = look_up(builder, table, code, n_tables)
                        value = _saturating_add(builder, builder.load(total), term)
                        builder.store(value, total)

            is_few = builder.icmp_signed("<=", args[4], _INDEX(32))
            with builder.if_else(is_few) as (few, many):
                with few:
                    sum_up(2)
                with many:
                    sum_up(4)
            limit = builder.insert_element(zero, args[3], _INDEX(0))
            limit = builder.shuffle_vector(limit, zero, ir.Constant(index, None))
            within = [
                builder.icmp_unsigned("<=", builder.load(total), limit)
                for total in totals
            ]
            bits = [builder.bitcast(half, ir.IntType(32)) for half in within]
            bits = [builder.zext(half, _INDEX) for half in bits]
            return builder.or_(bits[0], builder.shl(bits[1], _INDEX(32)))

        return types.uint64(units, codes, types.intp, types.uint8, types.intp), generate

    @intrinsic
    def lowest_bit(typing, mask):
        def generate(context, builder, signature, args):
            return builder.cttz(args[0], ir.IntType(1)(1))

        return types.int64(types.uint64), generate

    @intrinsic
    def add_expanded(typing, z, first, mask, x, values, start):
        """Add x values[start], ... to z[first + q] for the bits q of a mask of 16.

        Gives start and the number of bits.  z has 16 numbers from `first` on.
        """
        vector = ir.VectorType(ir.FloatType(), 16)
        bits = ir.VectorType(ir.IntType(1), 16)

        def generate(context, builder, signature, args):
            z, values = _arrays(context, builder, signature, args, 0, 4)
            pointer = ir.FloatType().as_pointer()
            kind = ir.FunctionType(vector, [pointer, bits, vector])
            expand = cgutils.get_or_insert_function(
                builder.module, kind, "llvm.masked.expandload.v16f32"
            )
            kind = ir.FunctionType(vector, [vector] * 3)
            multiply_add = cgutils.get_or_insert_function(
                builder.module, kind, "llvm.fmuladd.v16f32"
            )
            part = builder.gep(values.data, [args[5]])
            mask = builder.bitcast(args[2], bits)
            part = builder.call(expand, [part, mask, ir.Constant(vector, None)])
            none = ir.Constant(vector, ir.Undefined)
            factor = builder.insert_element(none, args[3], ir.IntType(32)(0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), 16), [0] * 16)
            factor = builder.shuffle_vector(factor, none, zeros)
            place = builder.gep(z.data, [args[1]])
            place = builder.bitcast(place, vector.as_pointer())
            old = builder.load(place, align=4)
            builder.store(builder.call(multiply_add, [factor, part, old]), place, 4)
            count = builder.zext(builder.ctpop(args[2]), _INDEX)
            return builder.add(args[5], count)

        integer = types.intp
        kinds = z, integer, types.uint16, types.float32, values, integer
        return integer(*kinds), generate

    @intrinsic
    def lanes_of_stages(typing, lanes, table, k, adds, starts, level, limits):
        vector = ir.VectorType(ir.IntType(8), LANES)
        zero = ir.Constant(vector, None)

        def generate(context, builder, signature, args):
            emitting = context, builder, signature, args
            lanes, table, starts, limits = _arrays(*emitting, 0, 1, 4, 6)
            n_starts, n_levels, _ = cgutils.unpack_tuple(builder, starts.shape, 3)
            has_starts = builder.icmp_signed("!=", n_starts, _INDEX(0))
            R, B, _ = cgutils.unpack_tuple(builder, lanes.shape, 3)
            codes = builder.gep(table.data, [builder.mul(args[2], R)])
            total = cgutils.alloca_once_value(builder, zero)
            room = cgutils.alloca_once_value(builder, zero)  # not zero below a limit

            def call(name, a, b):
                return _call(builder, f"{name}.v{LANES}i8", a, b)

            def load(array, row):
                data = builder.gep(array.data, [builder.mul(row, _INDEX(LANES))])
                return _emit_load(builder, data, vector, align=64)

            def steps(merge, starting=False):
                with cgutils.for_range(builder, R) as loop:
                    r = loop.index
                    code = builder.load(builder.gep(codes, [r]))
                    code = builder.zext(code, _INDEX)
                    term = load(lanes, builder.add(builder.mul(r, B), code))
                    now = call(merge, builder.load(total), term)
                    builder.store(now, total)
                    if starting:
                        at = builder.add(builder.mul(r, n_levels), args[5])
                        now = call("uadd.sat", load(starts, at), now)
                    below = call("usub.sat", load(limits, r), now)
                    builder.store(builder.or_(builder.load(room), below), room)

            with builder.if_else(args[3]) as (adding, comparing):
                with adding, builder.if_else(has_starts) as (starting, plain):
                    with starting:
                        steps("uadd.sat", True)
                    with plain:
                        steps("uadd.sat")
                with comparing:
                    steps("umax")
            found = builder.icmp_unsigned("!=", builder.load(room), zero)
            return builder.bitcast(found, _INDEX)

        integer = types.intp
        kinds = lanes, table, integer, types.boolean, starts, integer, limits
        return types.uint64(*kinds), generate
