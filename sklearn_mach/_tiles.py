"""The innermost loop of a product of float32 matrices, in LLVM's vector types.

The sums of a tile of the product stay in registers while the features pass, which no
loop in Numba achieves; of the AVX-512 vectors of 16 numbers LLVM would use halves.
Every sum begins with what is there and takes the features in their order, in one fused
operation each where the processor has it: its bits do not depend on its place.
"""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

# Rows, vectors of columns and numbers in a vector: the sums, the vectors of a feature
# and one factor fill the 32 or 16 registers.
_LARGE = llvm.get_host_cpu_features().get("avx512f", False)
TILE_ROWS, _VECTORS, _LANES = (8, 3, 16) if _LARGE else (4, 3, 8)
TILE_COLUMNS = _VECTORS * _LANES

if config.DISABLE_JIT:

    def add_products(A, B, C):
        """C += A.T @ B for A (k, TILE_ROWS), B (>= k, TILE_COLUMNS), contiguous."""
        for a, b in zip(A, B, strict=False):
            C += a[:, None] * b

else:

    @intrinsic
    def add_products(typing, A, B, C):
        """C += A.T @ B for A (k, TILE_ROWS), B (>= k, TILE_COLUMNS), contiguous."""
        vector = ir.VectorType(ir.FloatType(), _LANES)
        name = f"llvm.fmuladd.v{_LANES}f32"
        places = [(r, v) for r in range(TILE_ROWS) for v in range(_VECTORS)]

        def generate(context, builder, signature, args):
            a, b, c = (
                context.make_array(kind)(context, builder, value)
                for kind, value in zip(signature.args, args, strict=True)
            )
            n_features, _ = cgutils.unpack_tuple(builder, a.shape, 2)
            index, zero = n_features.type, ir.IntType(32)(0)
            none = ir.Constant(vector, ir.Undefined)
            first = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), name
            )

            def pointer(array, row, v):
                start = builder.mul(row, index(TILE_COLUMNS))
                place = builder.add(start, index(v * _LANES))
                return builder.bitcast(
                    builder.gep(array.data, [place]), vector.as_pointer()
                )

            sums = {place: cgutils.alloca_once(builder, vector) for place in places}
            for r, v in places:
                old = builder.load(pointer(c, index(r), v), align=4)
                builder.store(old, sums[r, v])
            with cgutils.for_range(builder, n_features) as loop:
                start = builder.mul(loop.index, index(TILE_ROWS))
                row = [
                    builder.load(pointer(b, loop.index, v), align=4)
                    for v in range(_VECTORS)
                ]
                for r in range(TILE_ROWS):
                    place = builder.gep(a.data, [builder.add(start, index(r))])
                    factor = builder.insert_element(none, builder.load(place), zero)
                    factor = builder.shuffle_vector(factor, none, first)
                    for v in range(_VECTORS):
                        old = builder.load(sums[r, v])
                        new = builder.call(multiply_add, [factor, row[v], old])
                        builder.store(new, sums[r, v])
            for r, v in places:
                new = builder.load(sums[r, v])
                builder.store(new, pointer(c, index(r), v), align=4)
            return context.get_dummy_value()

        return types.none(A, B, C), generate
