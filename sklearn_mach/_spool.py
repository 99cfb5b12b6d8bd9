"""Rows in a temporary file, of which some are read at a time, in any order.

`fit` writes the blocks of a source there as they come, and its epochs read them in a
random order: text is parsed once, and rows that lie in the order of their labels are
shuffled as well as others.
"""

import os
import tempfile
import weakref
import zlib
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from ._targets import Targets

_CHUNK_BYTES = 1 << 16  # of rows that are always read together
_BLOCK_BYTES = 1 << 22  # of rows that are read at a time
_END = object()


def read_ahead(items):
    """The items of an iterable, of which a thread makes the next meanwhile."""
    items = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, items, _END)
            yield item


class Block(NamedTuple):
    """Rows that are read together.

    X : CSR or dense, float32
    targets : `Targets`
    weight : float64 array (n,), or None
    numbers : int64 array (n,), of the rows among all
    n_before : int, rows in the blocks before
    """

    X: sp.csr_array | np.ndarray
    targets: Targets
    weight: np.ndarray | None
    numbers: np.ndarray
    n_before: int


class Spool:
    """Rows in a temporary file that ends with this object, whatever happens.

    n_features : int
    is_sparse : bool, whether rows are CSR, and not dense; both are float32
    several : bool, whether a row may have several classes
    is_weighted : bool, whether rows have weights
    """

    def __init__(self, n_features, is_sparse, several, is_weighted):
        self.is_sparse, self.several, self.is_weighted = is_sparse, several, is_weighted
        self.shape, self.n_values = (0, n_features), 0
        self.checksum = 0  # of all bytes
        self.largest_weight = 0.0 if is_weighted else 1.0
        self._file = tempfile.TemporaryFile(buffering=0)
        weakref.finalize(self, self._file.close)
        self._index = array("q")  # for each chunk its offset, and sizes of its arrays
        self._places = None  # sorted numbers of the classes as they came
        self._sums, self._counts = np.zeros(0), np.zeros(0, np.int64)
        self._n_used = 0  # rows of positive weight

    def append(self, X, targets, weight):
        """Add rows: a CSR matrix or array, `Targets`, and weights or None.

        Until `sort_classes` classes are numbered as they come.
        """
        n_rows, classes = X.shape[0], targets.classes
        row = targets.rows()
        n_classes = max(int(classes.max(initial=-1)) + 1, self._sums.size)
        counted = slice(None) if weight is None else weight[row] > 0
        counts = np.bincount(classes[counted], minlength=n_classes)
        sums = counts if weight is None else targets.sums(weight, n_classes)
        self._n_used += n_rows if weight is None else np.count_nonzero(weight)
        self._counts = _sum(self._counts, counts)
        self._sums = _sum(self._sums, sums)
        if weight is not None:
            self.largest_weight = max(self.largest_weight, float(weight.max()))
        n_bytes = X.nnz * 8 if self.is_sparse else X.shape[0] * X.shape[1] * 4
        n_chunks = max(min(-(-n_bytes // _CHUNK_BYTES), n_rows), 1)
        ends = np.linspace(0, n_rows, n_chunks + 1).astype(np.int64)
        for start, stop in zip(ends[:-1], ends[1:], strict=True):
            self._write(X, targets, weight, slice(start, stop))
        self.shape = self.shape[0] + n_rows, self.shape[1]
        self.n_values += X.nnz if self.is_sparse else X.size

    def _write(self, X, targets, weight, rows):
        """Write a chunk."""
        arrays = []
        if self.is_sparse:
            values = slice(X.indptr[rows.start], X.indptr[rows.stop])
            arrays.append(np.diff(X.indptr[rows.start : rows.stop + 1]))
            arrays += [X.indices[values], X.data[values]]
        else:
            arrays.append(X[rows].reshape(-1))
        classes = slice(targets.starts[rows.start], targets.starts[rows.stop])
        if self.several:
            arrays.append(np.diff(targets.starts[rows.start : rows.stop + 1]))
        arrays.append(targets.classes[classes])
        if self.is_weighted:
            arrays.append(weight[rows])
        self._index.append(self._file.tell())
        self._index.append(rows.stop - rows.start)
        for values, dtype in zip(arrays, self._dtypes(), strict=True):
            content = memoryview(np.ascontiguousarray(values, dtype)).cast("B")
            self.checksum = zlib.crc32(content, self.checksum)
            self._index.append(values.size)
            while content:  # a raw file may take a part
                content = content[self._file.write(content) :]

    def _dtypes(self):
        """Of the arrays of a chunk."""
        dtypes = [np.int32, np.int32, np.float32] if self.is_sparse else [np.float32]
        dtypes += [np.int32] * (1 + self.several)
        return dtypes + [np.float64] * self.is_weighted

    def sort_classes(self, places):
        """Give the k-th class that came the number places[k], int32 (K,)."""
        self._places = places

    @property
    def n_chunks(self):
        return len(self._index) // (2 + len(self._dtypes()))

    def blocks(self, order=None, first=0):
        """Yield a `Block` of some chunks after the other, in this order of the chunks.

        first : number of the first block to read
        """
        index = np.frombuffer(self._index, np.int64).reshape(self.n_chunks, -1)
        first_rows = np.cumsum(index[:, 1]) - index[:, 1]
        order = np.arange(self.n_chunks) if order is None else order
        ends = np.append(index[1:, 0], self.n_bytes)
        total = np.cumsum((ends - index[:, 0])[order]) // _BLOCK_BYTES
        n_before = 0
        parts = np.split(order, np.flatnonzero(np.diff(total)) + 1)
        for number, chunks in enumerate(parts):
            lines = index[chunks]
            if number >= first:
                pairs = zip(first_rows[chunks], lines[:, 1], strict=True)
                numbers = [start + np.arange(size) for start, size in pairs]
                yield Block(*self._read(lines), np.concatenate(numbers), n_before)
            n_before += int(lines[:, 1].sum())

    @property
    def n_bytes(self):
        return self._file.seek(0, os.SEEK_END)

    def _read(self, index):
        """The rows of some chunks, lines of the index."""
        n_rows, *sizes = index[:, 1:].sum(axis=0)
        arrays = list(map(np.empty, sizes, self._dtypes()))
        at = np.zeros(len(arrays), np.int64)
        for offset, _, *sizes in index.tolist():
            self._file.seek(offset)
            for i, size in enumerate(sizes):
                content = memoryview(arrays[i][at[i] : at[i] + size]).cast("B")
                at[i] += size
                while content:
                    n_read = self._file.readinto(content)
                    if not n_read:
                        raise OSError("The temporary file of the rows became shorter.")
                    content = content[n_read:]
        weight = arrays.pop() if self.is_weighted else None
        classes = arrays.pop()
        if self._places is not None:
            classes = self._places[classes]
        targets = Targets.of(classes)
        if self.several:
            starts = np.concatenate([[0], np.cumsum(arrays.pop(), dtype=np.int64)])
            targets = Targets(starts, classes, True)
        if not self.is_sparse:
            return arrays[0].reshape(n_rows, -1), targets, weight
        counts, indices, values = arrays
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        X = sp.csr_array((values, indices, starts), (n_rows, self.shape[1]))
        return X, targets, weight

    @property
    def targets(self):
        """What is known of the classes of all rows."""
        counts = np.zeros(self._places.size, self._counts.dtype)
        sums = np.zeros(self._places.size, self._sums.dtype)
        seen = self._places[: self._counts.size]  # the last labels may have no row
        counts[seen], sums[seen] = self._counts, self._sums
        return StoredTargets(self._n_used, counts, sums, self.several)


class StoredTargets:
    """The classes of the rows in a `Spool`, of which only sums are in memory.

    n_used: rows of positive weight.  counts (K,): those of each class.  weights (K,):
    their weights.
    """

    def __init__(self, n_used, counts, weights, several):
        self.counts, self.several = counts, several
        self._n_used, self._weights = n_used, weights

    def mean_classes(self, weight=None):
        """Mean number of classes of the rows of positive weight."""
        return self.counts.sum() / self._n_used

    def sums(self, weight, n_classes):
        """Weight of the rows of each class (n_classes,)."""
        return self._weights


def _sum(smaller, larger):
    """The sum of two arrays, of which one may be longer."""
    total = larger.astype(smaller.dtype)
    total[: smaller.size] += smaller
    return total
