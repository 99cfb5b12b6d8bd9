"""Products of float32 matrices in tiles, with a loop in LLVM's vector types.

The sums of a tile of the product stay in registers while the features pass.  The best
loop in Numba alone, 2 rows and 8 features a pass over the columns, takes twice as long:
it loads and stores its sums, and LLVM makes vectors of 8 numbers where 16 fit.

A sum starts from what is there and adds the features in their order, each by one fused
operation where the processor has it.  Its bits do not depend on its place in a tile.
"""

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from ._compat import njit, read_only

# 32 registers of 16 numbers, or 16 of 8, hold the sums, the columns of one feature and
# the value of one row.
_LARGE = "+avx512f" in get_host_cpu_features()
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


_BLOCK_ROWS = 240  # of a product that are made together; the tiles of
_BLOCK_FEATURES = 128  # these features and
_BLOCK_COLUMNS = 480  # columns stay in the L2 cache
_SUBTRACTED = 10  # tiles of columns whose rows of B stay there


# Arrays to work in are made in Python: each np.zeros in a kernel compiles for 0.1 s.


def add_product(X, W, out):
    """out += X W, in which a row has the same bits in any company.

    Tiles A of X, B of W and C of out lie one after another.  Those at the edges are
    whole too, and what is computed beyond the edges is dropped.
    """
    n_groups = -(-min(X.shape[0], _BLOCK_ROWS) // TILE_ROWS)
    n_tiles = -(-min(W.shape[1], _BLOCK_COLUMNS) // TILE_COLUMNS)
    A = np.zeros((n_groups, X.shape[1], TILE_ROWS), np.float32)
    B = np.zeros((n_tiles, min(X.shape[1], _BLOCK_FEATURES), TILE_COLUMNS), np.float32)
    C = np.zeros((n_tiles, n_groups, TILE_ROWS, TILE_COLUMNS), np.float32)
    _add_product(*read_only(X, W), A, B, C, out)


@njit
def _add_product(X, W, A, B, C, out):
    for i0 in range(0, X.shape[0], _BLOCK_ROWS):
        n_rows = min(X.shape[0] - i0, _BLOCK_ROWS)
        n_groups = (n_rows + TILE_ROWS - 1) // TILE_ROWS
        for i in range(n_rows):
            for j in range(X.shape[1]):
                A[i // TILE_ROWS, j, i % TILE_ROWS] = X[i0 + i, j]
        for q0 in range(0, W.shape[1], _BLOCK_COLUMNS):
            n_columns = min(W.shape[1] - q0, _BLOCK_COLUMNS)
            n_tiles = (n_columns + TILE_COLUMNS - 1) // TILE_COLUMNS
            for i in range(n_rows):
                for t in range(n_tiles):
                    q = t * TILE_COLUMNS
                    for c in range(min(n_columns - q, TILE_COLUMNS)):
                        C[t, i // TILE_ROWS, i % TILE_ROWS, c] = out[i0 + i, q0 + q + c]
            for j0 in range(0, X.shape[1], _BLOCK_FEATURES):
                j1 = min(j0 + _BLOCK_FEATURES, X.shape[1])
                for j in range(j0, j1):
                    for t in range(n_tiles):
                        q = t * TILE_COLUMNS
                        for c in range(min(n_columns - q, TILE_COLUMNS)):
                            B[t, j - j0, c] = W[j, q0 + q + c]
                for t in range(n_tiles):
                    for g in range(n_groups):
                        add_products(A[g, j0:j1], B[t], C[t, g])
            for i in range(n_rows):
                for t in range(n_tiles):
                    q = t * TILE_COLUMNS
                    for c in range(min(n_columns - q, TILE_COLUMNS)):
                        out[i0 + i, q0 + q + c] = C[t, i // TILE_ROWS, i % TILE_ROWS, c]


def packed_shape(m, d):
    """Shape for A (<= m, d) with its columns in groups, the last one filled up."""
    return -(-d // TILE_ROWS), m, TILE_ROWS


@njit
def pack_negative(A, packed, start, stop):
    """The groups ``start:stop`` of packed, see `packed_shape`, become those of -A."""
    for g in range(start, stop):
        j = g * TILE_ROWS
        n_columns = min(A.shape[1] - j, TILE_ROWS)
        group = packed[g]
        for i in range(A.shape[0]):
            for c in range(n_columns):
                group[i, c] = -A[i, j + c]


def subtract_product(packed, B, C, lo, start, stop):
    """C[:, lo + start : lo + stop] -= A.T @ B[:, start:stop], for the packed -A.

    BLAS would make the product first, and another pass over C would subtract it.
    """
    rows = np.zeros((_SUBTRACTED, B.shape[0], TILE_COLUMNS), np.float32)
    tile = np.zeros((TILE_ROWS, TILE_COLUMNS), np.float32)
    _subtract_product(packed, B, C, lo, start, stop, rows, tile)


@njit
def _subtract_product(packed, B, C, lo, start, stop, rows, tile):
    m, n_features = B.shape[0], C.shape[0]
    width = _SUBTRACTED * TILE_COLUMNS
    for q0 in range(start, stop, width):
        n_tiles = (min(stop - q0, width) + TILE_COLUMNS - 1) // TILE_COLUMNS
        for i in range(m):
            for t in range(n_tiles):
                q = q0 + t * TILE_COLUMNS
                for c in range(min(stop - q, TILE_COLUMNS)):
                    rows[t, i, c] = B[i, q + c]
        for g in range(packed.shape[0]):
            j = g * TILE_ROWS
            n_rows = min(n_features - j, TILE_ROWS)
            for t in range(n_tiles):
                q = q0 + t * TILE_COLUMNS
                n_columns = min(stop - q, TILE_COLUMNS)
                for r in range(n_rows):
                    for c in range(n_columns):
                        tile[r, c] = C[j + r, lo + q + c]
                add_products(packed[g, :m], rows[t], tile)
                for r in range(n_rows):
                    for c in range(n_columns):
                        C[j + r, lo + q + c] = tile[r, c]
