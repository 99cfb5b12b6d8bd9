"""The model on a GPU: bucket probabilities, and the search for the best classes."""

import cupy
import numpy as np
import scipy.sparse as sp

from ._gpu_kernels import (
    LOG_PROBA,
    PROBA,
    csr_to_device,
    gemm,
    kernels,
    padded,
    score_rows,
    to_device,
)
from ._logits import OVERFLOW

_PREDICTED = 256  # rows of a dense product: always so many, so that sums do not differ
_TOPK_THREADS = 512
_MAX_SPLITS = 64  # of the classes: their lists are merged by one thread for each row


class Model:
    """A fitted model on a device: bucket probabilities and the best classes.

    link : "softmax" or "sigmoid", which makes the probabilities of logits

    Every row is computed by itself, so that it gets the same numbers in any company.
    """

    def __init__(self, W, b, table, n_buckets, device, link):
        self.device, self.link = device, link
        self.R, self.B = table.shape[1], n_buckets
        self.offset = None, None  # on the host, and its copy
        with cupy.cuda.Device(device):
            self.W = cupy.zeros((W.shape[0], padded(b.size)), np.float32)
            to_device(W, np.float32, out=self.W[:, : b.size])
            self.b = cupy.zeros(self.W.shape[1], np.float32)
            self.b[: b.size] = cupy.asarray(b)
            self.table = to_device(table, np.int32)

    def bucket_proba(self, X, log, divisor=1):
        """(Log) probabilities of the buckets, divided: NumPy float32 (n, R, B)."""
        with cupy.cuda.Device(self.device):
            return self._bucket_proba(X, log, divisor).get()

    def topk(self, X, k, merge, log, divisor=1, offset=None):
        """The best classes of each row, int64 (n, k), and their scores, float32.

        merge : "sum" or "min"
        offset : what the sum of each class ends with, float32 (K,), or None
        """
        with cupy.cuda.Device(self.device):
            scores = self._bucket_proba(X, log, divisor)
            on_device = None
            if offset is not None:
                if self.offset[0] is not offset:
                    self.offset = offset, to_device(offset, np.float32)
                on_device = self.offset[1]
            values, classes = best_classes(scores, self.table, k, merge, on_device)
            return classes.get(), values.get()

    @np.errstate(over="ignore")  # values that become infinite are refused below
    def _bucket_proba(self, X, log, divisor):
        n, pitch, sparse = X.shape[0], self.W.shape[1], sp.issparse(X)
        Z = cupy.empty((n, pitch), np.float32)
        if n == 0:
            return Z[:, : self.R * self.B].reshape(0, self.R, self.B)
        if sparse:
            rows = [*csr_to_device(X), cupy.arange(n, dtype=np.int32)]
        else:
            rows = None
            block = cupy.zeros((_PREDICTED, X.shape[1]), np.float32)
            product = cupy.empty((_PREDICTED, pitch), np.float32)
            for start in range(0, n, _PREDICTED):
                part = X[start : start + _PREDICTED]
                to_device(part, np.float32, out=block[: len(part)])
                gemm(False, block, self.W, product)
                Z[start : start + len(part)] = product[: len(part)]
        shape, mode = (self.R, self.B), LOG_PROBA if log else PROBA
        score_rows(n, rows, self.W, self.b, 1, shape, self.link, mode, Z)
        Z = cupy.ascontiguousarray(Z[:, : self.R * self.B])
        if np.isnan(float(Z.sum())):
            raise ValueError(OVERFLOW)
        if divisor != 1:
            Z /= np.float32(divisor)
        return Z.reshape(n, self.R, self.B)


def best_classes(scores, table, k, merge, offset=None):
    """The k best classes of each row: values (n, k), float32, and classes, int64.

    scores (n, R, B), float32, table (K, R), int32, and offset (K,), float32 or None,
    are on the current device.  The sum starts from 0 and adds repetition 0, 1, ...,
    R - 1 and the offset in float32, and ties go to the smaller class: as on the CPU.
    """
    n, R, B = scores.shape
    card, n_classes = kernels(), table.shape[0]
    if n == 0:
        return cupy.empty((0, k), np.float32), cupy.empty((0, k), np.int64)
    n_tiles = -(-n // 32)
    lanes = cupy.zeros((n_tiles * 32, R * B), np.float32)
    lanes[:n] = scores.reshape(n, R * B)
    lanes = cupy.ascontiguousarray(lanes.reshape(n_tiles, 32, R * B).transpose(0, 2, 1))
    n_shared = R * B * 32 * 4
    in_shared = n_shared <= card.shared_bytes
    # Enough blocks for some rounds over all multiprocessors, of not too few classes.
    n_blocks = 8 * card.n_processors
    n_splits = max(min(-(-n_blocks // n_tiles), n_classes // 4096, _MAX_SPLITS), 1)
    n_lists = n_splits * (_TOPK_THREADS // 32)
    list_values = cupy.empty((n_lists, k, n_tiles * 32), np.float32)
    list_classes = cupy.empty((n_lists, k, n_tiles * 32), np.int32)
    has_offset = offset is not None and merge == "sum"
    sizes = n_classes, R, B, k, merge == "min", has_offset, in_shared
    offset = offset if has_offset else lanes  # what is not read is any array
    args = lanes, table, offset, *map(np.int32, sizes), list_values, list_classes
    n_shared = n_shared if in_shared else 0
    card.search((n_tiles, n_splits), (_TOPK_THREADS,), args, shared_mem=n_shared)
    best_values = cupy.empty((n_tiles * 32, k), np.float32)
    best = cupy.empty((n_tiles * 32, k), np.int64)
    args = list_values, list_classes, *map(np.int32, (n_lists, k))
    args += np.int64(n_tiles * 32), cupy.zeros((n_lists, n_tiles * 32), np.int32)
    grid = (-(-n_tiles * 32 // 128),)
    card.merge_lists(grid, (128,), (*args, best_values, best))
    return best_values[:n], best[:n]
