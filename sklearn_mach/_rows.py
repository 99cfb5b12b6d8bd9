"""Rows as the built-in learner reads them.

What the learner asks of X is here alone: another source of rows is a class with the
methods of `CSR`, and a line of the table `_KINDS`.
"""

import numpy as np
import scipy.sparse as sp
from sklearn.utils import gen_batches

from ._sgd import epoch_csr, epoch_dense, epoch_int16
from ._spool import Spool
from ._targets import Targets


class _Rows:
    """Sums over rows, from the squares of their values.

    Other attributes and methods that each kind has:

    in_batches : whether a step is that of a batch, by BLAS, whose sums depend on the
        shapes; else of one row, in kernels that round alike for any columns
    has_metric : whether steps may be taken in a `Metric`
    has_units : whether weights may be integers of 16 bits
    n_values : int, values that are stored
    """

    def __init__(self, X):
        self.X, self.shape = X, X.shape

    def squared_lengths(self, gain=None):
        """Squared lengths of the rows, float64 (n_samples,); `gain` of the features."""
        if gain is None:
            gain = np.ones(self.shape[1])
        return np.concatenate([squares @ gain for _, squares in self._squares()])

    def feature_sums(self, weight, of_squares=None):
        """Weight of the rows where a feature is not zero, and sum of weighted squares.

        Those weigh `of_squares` (n_samples,), if it is given.  Two float64 arrays of
        shape (n_features,).
        """
        n_rows, sums = np.zeros(self.shape[1]), np.zeros(self.shape[1])
        of_squares = weight if of_squares is None else of_squares
        for rows, squares in self._squares():
            n_rows += weight[rows].astype(np.float64) @ (squares != 0)
            sums += of_squares[rows].astype(np.float64) @ squares
        return n_rows, sums


class CSR(_Rows):
    """Rows of a CSR matrix."""

    in_batches, has_metric, has_units = False, False, True

    @property
    def n_values(self):
        return self.X.nnz

    def _squares(self):
        """Slices of rows and the squares of their values, float64."""
        for rows in gen_batches(self.shape[0], 1 << 12):
            part = self.X[rows]
            values = np.square(part.data, dtype=np.float64)
            yield rows, sp.csr_array((values, part.indices, part.indptr), part.shape)

    def longest_steps(self, step):
        """Largest product of a value and the step of its row; float32 (n_features,)."""
        longest = np.zeros(self.shape[1], np.float32)
        for rows in gen_batches(self.shape[0], 1 << 12):
            part = self.X[rows]
            steps = np.repeat(step[rows], np.diff(part.indptr))
            steps *= np.abs(part.data, dtype=np.float32)
            np.maximum.at(longest, part.indices, steps)
        return longest

    def sample(self, rows, n_features, n_least):
        """The first of `rows`, so few that they have at most so many features.

        But `n_least` rows.  Returns X of them with their features alone, the numbers of
        its rows and features in this X, and those that the rows taken have in that X.
        """
        features = np.unique(self.X[rows].indices)
        while features.size > n_features and rows.size > n_least:
            rows = rows[: max(rows.size // 2, n_least)]
            features = np.unique(self.X[rows].indices)
        part, place = self.X[rows], np.empty(self.shape[1], np.int32)
        place[features] = np.arange(features.size)
        arrays = part.data, place[part.indices], part.indptr
        X = sp.csr_array(arrays, (rows.size, features.size))
        return X, rows, features, np.arange(rows.size, dtype=np.int32)

    def epoch(self, given, settings, state, n_threads):
        """The `Pass` that is given; state: random bits."""
        if settings.unit is None:
            epoch_csr(self.X, given)
        else:
            epoch_int16(self.X, given, settings.unit, state)


class Dense(_Rows):
    """Rows of a C-ordered array; of float16 the batches become float32."""

    in_batches, has_metric, has_units = True, True, False

    @property
    def n_values(self):
        return self.X.size

    def _squares(self):
        for rows in gen_batches(self.shape[0], 1 << 10):
            yield rows, np.square(self.X[rows], dtype=np.float64)

    def sample(self, rows, n_features, n_least):
        """This X: a part would take much memory, and has no fewer features."""
        return self.X, slice(None), np.arange(self.shape[1]), rows

    def epoch(self, given, settings, state, n_threads):
        s = settings
        with np.errstate(all="ignore"):  # overflow is reported after the epoch
            epoch_dense(self.X, given, s.moved, s.metric, s.batch_size, n_threads)


class Stored:
    """Rows in a `Spool`: what is known without reading them."""

    has_units = True

    def __init__(self, spool):
        self.shape, self.n_values = spool.shape, spool.n_values
        self.in_batches = self.has_metric = not spool.is_sparse


_KINDS = (
    ((sp.csr_array, sp.csr_matrix), CSR),
    (np.ndarray, Dense),
    (Spool, Stored),
)


def rows_of(X):
    """X as the learner reads it."""
    for types, kind in _KINDS:
        if isinstance(X, types):
            return kind(X)
    raise TypeError(f"Rows of {type(X)} are not known.")


def stack(blocks):
    """Blocks of rows, classes and weights as one."""
    X, targets, weight = zip(*blocks, strict=True)
    if any(map(sp.issparse, X)):
        # of a dense float16 array SciPy makes no sparse one
        X = [x.astype(np.float32) if x.dtype == np.float16 else x for x in X]
        X = sp.vstack(list(map(sp.csr_array, X)), format="csr")
    else:
        X = np.concatenate(X)
    return X, Targets.stack(targets), np.concatenate(weight)
