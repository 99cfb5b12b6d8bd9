"""Bucket probabilities: logits of rows under the weights, and their softmax."""

import numpy as np
import scipy.sparse as sp

from ._compat import ELEMENTWISE, njit, read_only
from ._losses import LINKS
from ._tiles import add_product

_HALF_VALUES = 1 << 18  # of float16 rows that are scored, made float32 at a time
FEW_ROWS = 3  # copying W to tiles takes longer than the logits of so few rows

OVERFLOW = (
    "The products of X and the weights are too large for float32. Bring the rows to "
    "the scale of those that the model was fitted on."
)


@njit(inner=True, fastmath=ELEMENTWISE)
def add_logits(data, indices, start, stop, W, lo, z):
    """z (hi - lo,) += the sum of v W[j, lo:hi] over the non-zeros (j, v) of a row."""
    width = z.shape[0]
    p = start
    while p + 4 <= stop:  # four rows of W a pass over z: fewer loads, more streams
        v0, v1 = np.float32(data[p]), np.float32(data[p + 1])
        v2, v3 = np.float32(data[p + 2]), np.float32(data[p + 3])
        w0 = W[indices[p], lo : lo + width]
        w1 = W[indices[p + 1], lo : lo + width]
        w2 = W[indices[p + 2], lo : lo + width]
        w3 = W[indices[p + 3], lo : lo + width]
        for q in range(width):
            z[q] = z[q] + v0 * w0[q] + v1 * w1[q] + v2 * w2[q] + v3 * w3[q]
        p += 4
    while p < stop:
        v = np.float32(data[p])
        w = W[indices[p], lo : lo + width]
        for q in range(width):
            z[q] += v * w[q]
        p += 1


@njit(fastmath=ELEMENTWISE)
def _logits_csr(data, indices, indptr, W, b, out):
    """out (n, R B) = X W + b for a CSR X, every row by itself."""
    lo = np.int64(0)  # for a literal `add_logits` would be compiled again
    for i in range(out.shape[0]):
        for q in range(b.shape[0]):
            out[i, q] = b[q]
        start, stop = np.int64(indptr[i]), np.int64(indptr[i + 1])
        add_logits(data, indices, start, stop, W, lo, out[i])


def _logits_dense(X, W, b, out):
    """out (n, R B) = X W + b for a dense X.

    Not BLAS, whose sums depend on the rows that stand beside a row.  Both kernels add
    the features to b one by one, in their order.
    """
    if X.shape[0] > FEW_ROWS:
        out[:] = b
        add_product(X, W, out)
        return
    _logits_csr(*read_only(*parts_of(X), W, b), out)


def parts_of(X):
    """Values, columns and starts of rows; zeros of a dense X are values too."""
    if sp.issparse(X):
        return X.data, X.indices, X.indptr
    n, d = X.shape
    indices = np.tile(np.arange(d, dtype=np.int32), n)
    kind = sp.get_index_dtype(maxval=n * d)  # int32, for which kernels are compiled
    return X.ravel(), indices, np.arange(n + 1, dtype=kind) * kind(d)


def logits(X, W, b):
    """X W + b, float32 of shape (n_samples, R B), every row by itself."""
    Z = np.empty((X.shape[0], b.size), np.float32)
    if sp.issparse(X):
        _logits_csr(*read_only(*parts_of(X), W, b), Z)
    elif X.dtype == np.float16:  # which Numba does not know
        n_rows = max(_HALF_VALUES // X.shape[1], 16)  # the kernel's tiles have 16
        for i in range(0, X.shape[0], n_rows):
            part = X[i : i + n_rows].astype(np.float32)
            _logits_dense(part, W, b, Z[i : i + n_rows])
    else:
        _logits_dense(X, W, b, Z)
    return Z


def to_proba(Z, n_buckets, log, link="softmax"):
    """Logits Z become (log) probabilities of the buckets (n_samples, R, B).

    link : of `LINKS`
    """
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(Z.sum()) or np.isfinite(Z).all()
    if not is_finite:
        raise ValueError(OVERFLOW)
    LINKS[link][log](Z, n_buckets)
    return Z.reshape(Z.shape[0], -1, n_buckets)
