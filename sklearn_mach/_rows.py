"""Rows as the built-in learner reads them, and their classes."""

from typing import NamedTuple

import numpy as np


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
