"""The classes of the rows: one each, or any number of them."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from ._compat import njit, read_only

_END = 2**31  # of the numbers of classes, which are int32


def check_n_classes(n_classes):
    """Refuse more classes than there are numbers for them."""
    if n_classes >= _END:
        raise ValueError(
            f"There are {n_classes} classes, and at most 2**31 - 1 = {_END - 1} can be "
            "numbered. Merge classes, or train a model for each part of them."
        )


class Targets(NamedTuple):
    """The classes of row i are ``classes[starts[i]:starts[i + 1]]``, all distinct.

    starts : int64 array of shape (n_samples + 1,)
    classes : int32 array of shape (starts[-1],)
    several : bool, whether a row may have any number of classes, and not just one
    """

    starts: np.ndarray
    classes: np.ndarray
    several: bool = False

    @classmethod
    def of(cls, y):
        """One class a row, y (n_samples,)."""
        return cls(np.arange(y.size + 1), y)

    @classmethod
    def of_indicator(cls, Y):
        """The columns of the ones of a canonical CSR matrix (n_samples, n_classes)."""
        starts, classes = Y.indptr.astype(np.int64), Y.indices.astype(np.int32)
        return cls(starts, classes, True)

    @classmethod
    def stack(cls, parts):
        """Rows of several `Targets`, one behind the other."""
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        starts = np.concatenate([[0], np.cumsum(counts)])
        return cls(starts, np.concatenate([p.classes for p in parts]), parts[0].several)

    @property
    def n_rows(self):
        return self.starts.size - 1

    def mean_classes(self, weight=None):
        """Mean number of classes of the rows whose weight (n_samples,) is positive."""
        counts = np.diff(self.starts)
        if weight is not None:
            counts = counts[weight > 0]
        return counts.mean() if counts.size else 0.0

    def rows(self):
        """The row of each of `classes`."""
        return np.repeat(np.arange(self.n_rows), np.diff(self.starts))

    def take(self, rows):
        """Some rows, in this order."""
        if not self.several:
            return Targets.of(self.classes[rows])
        arrays = self.classes, self.classes, self.starts
        width = int(self.classes.max(initial=0)) + 1
        part = sp.csr_array(arrays, (self.n_rows, width))[rows]
        return Targets(part.indptr.astype(np.int64), part.data, True)

    def renumbered(self, places):
        """With the number ``places[k]`` in place of k."""
        return self._replace(classes=places.astype(np.int32)[self.classes])

    def within(self, chosen):
        """Without the classes that are not `chosen` (n_classes,), a mask."""
        kept = chosen[self.classes]
        counts = np.bincount(self.rows()[kept], minlength=self.n_rows)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return Targets(starts, self.classes[kept], self.several)

    def have(self, rows, classes):
        """Whether rows have classes, pairs of numbers of any shape; bool."""
        width = int(max(self.classes.max(initial=0), np.max(classes, initial=0))) + 1
        return np.isin(rows * width + classes, self.rows() * width + self.classes)

    def sums(self, weight, n_classes):
        """Weight of the rows of each class (n_classes,); their number for None."""
        if weight is not None:
            weight = np.repeat(weight, np.diff(self.starts))
        return np.bincount(self.classes, weight, n_classes)

    def log_odds(self, table, n_buckets, weight):
        """Log odds that a row has a class in a bucket, float32 (R B,).

        table (n_classes, R): the buckets; weight (n_samples,), of which some are not
        zero.  Half a row of mean weight is added to both sides.
        """
        weight = weight.astype(np.float64)
        sums = np.zeros((table.shape[1], n_buckets))
        arrays = read_only(self.starts, self.classes, np.ascontiguousarray(table))
        _add_to_buckets(*arrays, weight, sums)
        total = weight.sum()
        half = total / np.count_nonzero(weight) / 2
        odds = (sums + half) / (total - sums + half)
        return np.log(odds).astype(np.float32).ravel()


@njit
def _add_to_buckets(starts, classes, table, weight, sums):
    """sums (R, B) += weight of the rows that have a class in the bucket."""
    last = np.full(sums.shape, -1, np.int64)  # row that was added last
    for i in range(weight.shape[0]):
        for p in range(starts[i], starts[i + 1]):
            for r in range(sums.shape[0]):
                bucket = table[classes[p], r]
                if last[r, bucket] != i:
                    last[r, bucket] = i
                    sums[r, bucket] += weight[i]
