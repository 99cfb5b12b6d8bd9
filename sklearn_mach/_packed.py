"""Weights in 8 or 4 bits, of which some are left out, as `_packing` writes them."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from joblib import Parallel, delayed
from sklearn.utils import gen_batches

from ._compat import read_only
from ._logits import FEW_ROWS, parts_of
from ._packing import SHORT_GAPS, add_rows, choose, measure, pack_rows, unpack
from ._tiles import add_product

_ROWS = 2048  # features that are packed, unpacked or measured together
_FEATURES = 128  # unpacked for a product with dense rows, as in its blocks
_MANY_VALUES = 4096  # non-zeros, below which no feature is unpacked for all rows
_OFTEN = 3  # times that a feature comes, to be unpacked once
_UNPACKED_BYTES = 1 << 22  # of these


class Packed(NamedTuple):
    """Weights of so many bits, of which some are left out.

    data : uint8 array, the features one after another
    starts : uint32 or uint64 array of shape (n_features + 1,), where they start in data
    forms : uint8 array of shape (n_features,)
    scales : float32 array of shape (n_features,)
    intercepts : float32 array of shape (R B,)
    bits : int, 8 or 4
    """

    data: np.ndarray
    starts: np.ndarray
    forms: np.ndarray
    scales: np.ndarray
    intercepts: np.ndarray
    bits: int

    @classmethod
    def of(cls, W, b, least=None, bits=8, n_jobs=1):
        """Store float32 weights W (n_features, R B) and intercepts b, which are copied.

        least (n_features,): magnitudes from which the weights of a feature are kept,
        or None for all.
        """
        least = np.zeros(W.shape[0], np.float32) if least is None else least
        parts = Parallel(n_jobs=n_jobs, require="sharedmem")(
            delayed(_pack)(W[rows], least[rows], bits)
            for rows in gen_batches(W.shape[0], _ROWS)
        )
        data, lengths, forms, scales = map(np.concatenate, zip(*parts, strict=True))
        return cls(data, _starts(lengths), forms, scales, b.copy(), bits)

    def check(self, n_features, n_columns):
        """Raise ValueError if there is something that the kernels must not read."""
        is_sound = (
            self.bits in (4, 8)
            and all(array.ndim == 1 for array in self[:5])
            and self.data.dtype == self.forms.dtype == np.uint8
            and self.starts.dtype in (np.uint32, np.uint64)
            and self.scales.dtype == self.intercepts.dtype == np.float32
            and self.starts.size == n_features + 1
            and self.forms.size == self.scales.size == n_features
            and self.intercepts.size == n_columns
            and self.starts[0] == 0
            and self.starts[-1] == self.data.size
            and (self.starts[:-1] <= self.starts[1:]).all()
            and (self.forms <= SHORT_GAPS).all()
        )
        if is_sound:
            lengths = np.diff(self.starts.astype(np.int64))
            least = np.array([_room(n_columns, self.bits), -(-n_columns // 8), 0, 0])
            least = least[self.forms]
            is_sound = ((lengths >= least) | (lengths == 0)).all()
        if not is_sound:
            raise ValueError(
                f"its packed weights are not those of {n_features} features and "
                f"{n_columns} columns, or their parts do not fit together"
            )

    @property
    def n_bytes(self):
        return sum(array.nbytes for array in self[:5])

    def dense(self):
        """The weights that are stored, and intercepts: new float32 arrays."""
        return self.rows(np.arange(self.scales.size)), self.intercepts.copy()

    def rows(self, features):
        """The weights of some features, by their numbers: a new float32 array."""
        W = np.zeros((features.size, self.intercepts.size), np.float32)
        work = np.empty(self.intercepts.size, np.float32)
        unpack(self._parts, self.bits, *read_only(features), work, W)
        return W

    @property
    def _parts(self):
        return tuple(read_only(*self[:4]))

    def logits(self, X):
        """Of every row by itself: a new float32 array of shape (n_samples, R B).

        Its numbers are those of float32 weights: sums have the same order.
        """
        Z = np.empty((X.shape[0], self.intercepts.size), np.float32)
        Z[:] = self.intercepts
        if not sp.issparse(X):
            if len(X) > FEW_ROWS:
                for features in gen_batches(X.shape[1], _FEATURES):
                    part = X[:, features].astype(np.float32)
                    numbers = np.arange(features.start, features.stop)
                    add_product(part, self.rows(numbers), Z)
                return Z
            X = X.astype(np.float32)  # Numba does not know float16
        rows = parts_of(X)
        places, unpacked = self._unpacked_often(rows[1])
        work = np.empty(self.intercepts.size, np.float32)
        options = self._parts, self.bits, *read_only(places, unpacked), work
        add_rows(*read_only(*rows), *options, Z)
        return Z

    def _unpacked_often(self, indices):
        """Weights of the features that come often, and their rows there, or -1."""
        width = self.intercepts.size
        if indices.size < _MANY_VALUES:
            return np.full(indices.size, -1), np.empty((0, width), np.float32)
        counts = np.bincount(indices, minlength=self.scales.size)
        most = min(_UNPACKED_BYTES // (4 * width), counts.size - 1)
        least = max(np.partition(counts, -most - 1)[-most - 1] + 1, _OFTEN)
        features = np.flatnonzero(counts >= least)
        places = np.full(counts.size, -1)
        places[features] = np.arange(features.size)
        return places[indices], self.rows(features)

    def columns(self, places):
        """The weights of these columns, with the same scales."""
        places = np.asarray(places, np.int64)
        lengths = np.zeros(self.scales.size, np.int64)
        forms, parts = self.forms.copy(), []
        for rows in gen_batches(self.scales.size, _ROWS):
            n_rows = rows.stop - rows.start
            shape = n_rows, _room(places.size, self.bits)
            out = np.zeros(shape, np.uint8)
            row = np.zeros(self.intercepts.size, np.float32)
            work = np.empty_like(row)
            task = self._parts, self.bits, rows.start, places, work, row
            choose(*task, out, lengths[rows], forms[rows])
            parts.append(_joined(out, lengths[rows]))
        data = np.concatenate(parts)
        intercepts = self.intercepts[places]
        return Packed(data, _starts(lengths), forms, self.scales, intercepts, self.bits)


def packed_bytes(W, least, bits, rows, n_jobs=1):
    """Bytes of these features (an array of numbers) in `Packed`, and squared errors.

    The errors (n_rows,) are sums over the weights of a feature.
    """

    def measured(part):
        numbers, errors = np.zeros(W.shape[1], np.int8), np.zeros(part.size)
        out = np.zeros(_room(W.shape[1], bits), np.uint8)
        arrays = *read_only(W, least), bits, *read_only(part)
        return measure(*arrays, numbers, out, errors), errors

    parts = np.array_split(rows, max(-(-rows.size // _ROWS), 1))
    found = Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(measured)(part) for part in parts
    )
    n_bytes, errors = zip(*found, strict=True)
    n_bytes = sum(n_bytes) + _of_features(rows.size, W.shape[1])
    return n_bytes, np.concatenate(errors)


def empty_bytes(n_features, n_columns):
    """Bytes of `Packed` with all weights left out."""
    return _of_features(n_features, n_columns) + 4 * n_columns


def _of_features(n_features, n_columns):
    """Bytes of starts, forms and scales, at most."""
    of_start = 4 if n_features * n_columns < 2**32 else 8
    return n_features * (of_start + 1 + 4) + of_start


def _pack(W, least, bits):
    """Data, lengths, forms and scales of some features."""
    n_features = W.shape[0]
    out = np.zeros((n_features, _room(W.shape[1], bits)), np.uint8)
    lengths, forms = np.zeros(n_features, np.int64), np.zeros(n_features, np.uint8)
    scales = np.zeros(n_features, np.float32)
    numbers = np.zeros(W.shape[1], np.int8)
    pack_rows(*read_only(W, least), bits, numbers, out, lengths, forms, scales)
    return _joined(out, lengths), lengths, forms, scales


def _joined(out, lengths):
    """The first bytes of each row, so many, one after another."""
    return out[np.arange(out.shape[1]) < lengths[:, None]]


def _starts(lengths):
    ends = np.cumsum(lengths)
    dtype = np.uint32 if lengths.sum() < 2**32 else np.uint64
    return np.concatenate([[0], ends]).astype(dtype)


def _room(width, bits):
    """Bytes that a feature takes at most: those of its full form."""
    return width if bits == 8 else (width + 1) // 2
