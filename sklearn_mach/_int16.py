"""Arithmetic on vectors of 16 bits for kernels, and a prefetch.

Written in LLVM's vector types: a loop in Numba multiplies in 32 bits, which takes twice
as long.
"""

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ._compat import njit

if config.DISABLE_JIT:

    def add_product(w, g, k, dither):
        """w += (g * k + dither) >> 16, saturating: int16 arrays of one length."""
        product = (g.astype(np.int64) * k + dither) >> 16
        w[:] = np.clip(w + product, -32768, 32767)

    def prefetch(w):
        """Ask for the memory of an int16 array of one dimension."""

else:
    _LANES = 16
    _VECTOR = ir.VectorType(ir.IntType(16), _LANES)
    _WIDE = ir.VectorType(ir.IntType(32), _LANES)

    @intrinsic
    def _add_product_vectors(typing, w, g, k, limit):
        """add_product of whole vectors; a sum carries if its low half is > limit.

        The two halves of the products are made apart, which LLVM does not find out.
        """

        def generate(context, builder, signature, args):
            w, g = (
                context.make_array(signature.args[j])(context, builder, args[j])
                for j in (0, 1)
            )
            (n,) = cgutils.unpack_tuple(builder, w.shape, 1)

            def constant(vector, value):
                return ir.Constant(vector, [value] * _LANES)

            def splat(value):
                none = ir.Constant(_VECTOR, ir.Undefined)
                one = builder.insert_element(none, value, ir.IntType(32)(0))
                return builder.shuffle_vector(one, none, constant(_WIDE, 0))

            def pointer(array, i):
                return builder.bitcast(
                    builder.gep(array.data, [i]), _VECTOR.as_pointer()
                )

            add = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(_VECTOR, [_VECTOR, _VECTOR]),
                f"llvm.sadd.sat.v{_LANES}i16",
            )
            factor, limit = splat(args[2]), splat(args[3])
            wide_factor = builder.sext(factor, _WIDE)
            zero, step = ir.IntType(64)(0), ir.IntType(64)(_LANES)
            whole = builder.and_(n, ir.IntType(64)(-_LANES))
            with cgutils.for_range_slice(builder, zero, whole, step) as (i, _):
                value = builder.load(pointer(g, i), align=2)
                low = builder.mul(value, factor)
                low = builder.xor(low, constant(_VECTOR, -32768))  # to compare signed
                carry = builder.sext(builder.icmp_signed(">", low, limit), _VECTOR)
                high = builder.mul(builder.sext(value, _WIDE), wide_factor)
                high = builder.lshr(high, constant(_WIDE, 16))
                change = builder.sub(builder.trunc(high, _VECTOR), carry)
                old = builder.load(pointer(w, i), align=2)
                new = builder.call(add, [old, change])
                builder.store(new, pointer(w, i), align=2)
            return context.get_dummy_value()

        return types.none(w, g, types.int16, types.int16), generate

    @njit(inner=True)
    def add_product(w, g, k, dither):
        """w += (g * k + dither) >> 16, saturating: int16 arrays of one length."""
        _add_product_vectors(w, g, k, np.int16(np.int32(32767) - dither))
        for q in range(w.shape[0] // _LANES * _LANES, w.shape[0]):
            product = (np.int32(g[q]) * np.int32(k) + dither) >> np.int32(16)
            w[q] = min(max(w[q] + product, -32768), 32767)

    @intrinsic
    def prefetch(typing, w):
        """Ask for the memory of an int16 array of one dimension."""

        def generate(context, builder, signature, args):
            array = context.make_array(signature.args[0])(context, builder, args[0])
            (n,) = cgutils.unpack_tuple(builder, array.shape, 1)
            word, index = ir.IntType(32), ir.IntType(64)
            kind = array.data.type
            prefetch = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [kind, word, word, word]),
                "llvm.prefetch.p0",
            )
            with cgutils.for_range_slice(builder, index(0), n, index(32)) as (i, _):
                place = builder.gep(array.data, [i])
                builder.call(prefetch, [place, word(0), word(3), word(1)])
            return context.get_dummy_value()

        return types.none(w), generate
