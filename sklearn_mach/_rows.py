"""Rows as the built-in learner reads them, and their classes."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp


def n_values(X):
    """Numbers in X that are stored."""
    return X.nnz if sp.issparse(X) else X.size


class Targets(NamedTuple):
    """The classes of the rows: those of row i are ``classes[starts[i]:starts[i + 1]]``.

    starts : int64 array of shape (n_samples + 1,)
    classes : int32 array of shape (starts[-1],)
    """

    starts: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, y):
        """One class a row, y (n_samples,)."""
        return cls(np.arange(y.size + 1), y)


def stack(blocks):
    """Blocks of rows, classes and weights as one."""
    X, y, weight = zip(*blocks, strict=True)
    if any(map(sp.issparse, X)):
        # of a dense float16 array SciPy makes no sparse one
        X = [x.astype(np.float32) if x.dtype == np.float16 else x for x in X]
        X = sp.vstack(list(map(sp.csr_array, X)), format="csr")
    else:
        X = np.concatenate(X)
    return X, np.concatenate(y), np.concatenate(weight)
