"""Rows that come in blocks: checked, and written where training reads them."""

import errno
import tempfile

import numpy as np
import scipy.sparse as sp

from ._compat import _check_sample_weight
from ._inputs import check_class_weight, check_rows, encode, find, format_of, join
from ._memory import format_bytes
from ._spool import Spool, read_ahead
from ._targets import Targets

_BLOCK = "a tuple (X, y) or (X, y, sample_weight)"
_CAUSES = {
    "is_sparse": ("dense rows", "sparse rows"),
    "several": ("one label a row", "several labels a row"),
    "is_weighted": ("no sample_weight", "a sample_weight"),
}


def is_source(X, y):
    """Whether X, passed without y, gives blocks of rows, and is no matrix itself."""
    if y is not None or hasattr(X, "shape") or isinstance(X, (str, bytes, dict)):
        return False
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and all(isinstance(block, tuple) for block in X)
    return hasattr(X, "__iter__")


def store(estimator, source, sample_weight=None, reset=True):
    """Check the blocks of a source, and write them to a `Spool`.

    With `reset` the estimator takes the number and names of the features, and the
    format of the labels, from the first block.  Returns the spool and the labels,
    sorted.
    """
    if sample_weight is not None:
        raise ValueError(
            "sample_weight was passed beside a source of blocks. Let X give tuples "
            "(X, y, sample_weight)."
        )
    check_class_weight(estimator.class_weight, in_blocks=True)
    spool, labels = None, _Labels()
    for number, block in enumerate(read_ahead(source), 1):
        where = f"Block {number} of X"
        if not (isinstance(block, tuple) and len(block) in (2, 3)):
            raise ValueError(
                f"{where} is of type {type(block).__name__}. Without y, X must give "
                f"blocks of rows, each {_BLOCK}."
            )
        try:
            X, y, weight = _checked(estimator, *block, reset=reset and spool is None)
            kind = {
                "is_sparse": sp.issparse(X),
                "several": sp.issparse(y),
                "is_weighted": weight is not None,
            }
            if spool is None:
                first, spool = kind, Spool(X.shape[1], **kind)
            for name, is_so in kind.items():
                if is_so != first[name]:
                    now, before = (_CAUSES[name][i] for i in (is_so, first[name]))
                    raise ValueError(f"it has {now}, but the first had {before}.")
            targets = labels.targets(y)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        try:
            spool.append(X, targets, weight)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                f"There is no room for the rows in {tempfile.gettempdir()}: "
                f"{format_bytes(spool.n_bytes)} of them are there, up to block "
                f"{number}. Set the environment variable TMPDIR to a folder on a disk "
                "with more."
            ) from error
    if spool is None:
        raise ValueError(f"X gave no block of rows, each {_BLOCK}.")
    classes, places = labels.sorted()
    spool.sort_classes(places)
    if spool.largest_weight == 0:
        raise ValueError(
            "The weights of all rows are zero. At least one row must have a positive "
            "weight."
        )
    return spool, classes


def _checked(estimator, X, y, sample_weight=None, *, reset):
    """Checked rows in float32, labels, and weights or None."""
    if reset:
        estimator._label_format = format_of(y)
    X, y = check_rows(estimator, X, y, in_float32=True, reset=reset)
    weight = None
    if sample_weight is not None:
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
    if estimator.class_weight is not None:
        if sp.issparse(y):
            raise ValueError(
                "class_weight weighs rows by their class, and here rows have several. "
                "Use sample_weight."
            )
        factors = [estimator.class_weight.get(label, 1) for label in y.tolist()]
        weight = np.array(factors, float) * (1 if weight is None else weight)
    with np.errstate(over="ignore"):  # of values that training refuses
        return X.astype(np.float32, copy=False), y, weight


class _Labels:
    """The labels of the blocks so far."""

    def __init__(self):
        self._known = None  # sorted, and the numbers in which they came
        self._numbers = np.empty(0, np.int32)

    def targets(self, y):
        """`Targets` of a block, whose classes are numbered as they came."""
        if sp.issparse(y):
            found = np.arange(y.shape[1])
            if self._known is None:
                self._known, self._numbers = found, found.astype(np.int32)
            elif found.size != self._known.size:
                raise ValueError(
                    f"y has {found.size} columns, but the first block had "
                    f"{self._known.size}."
                )
            return Targets.of_indicator(y)
        found, codes = encode(y)
        before, known = self._known, found
        if before is not None:
            known = join(before, found[~find(found, before)[1]])
        numbers = np.full(known.size, -1, np.int32)
        if before is not None:
            numbers[find(before, known)[0]] = self._numbers
        is_new = numbers < 0
        numbers[is_new] = self._numbers.size + np.arange(is_new.sum())
        self._known, self._numbers = known, numbers
        return Targets.of(numbers[find(found, known)[0]][codes])

    def sorted(self):
        """The labels, sorted, and the place of each number among them, int32 (K,)."""
        places = np.empty(self._numbers.size, np.int32)
        places[self._numbers] = np.arange(places.size)
        return self._known, places
