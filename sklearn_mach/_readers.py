"""Readers of files: objects that give blocks of rows, as often as one asks."""

import os
from functools import partial
from numbers import Integral

import numpy as np

from ._library import check_number
from ._parquet import Columns, check_columns, parquet_blocks
from ._text_blocks import TextFormat, text_blocks

_BLOCK_BYTES = 8_000_000


class Reader:
    """Blocks of rows from files, anew for each iteration.

    Functions of :mod:`sklearn_mach.datasets` make it: :func:`read_svmlight`,
    :func:`read_vw` and :func:`read_parquet`.

    Attributes
    ----------
    paths : list of str
        The files, in the order in which they are read.
    n_skipped_ : int
        Lines or rows that the last iteration, or the one that is under way, has left
        out because they are malformed.
    """

    def __init__(self, function, paths, blocks, block_bytes, on_bad_lines, **shown):
        check_number(block_bytes, "block_bytes", Integral, min_val=1)
        if on_bad_lines not in ("raise", "skip"):
            raise ValueError(
                f"on_bad_lines must be 'raise' or 'skip', got {on_bad_lines!r}."
            )
        self.paths = paths
        self.n_skipped_ = 0
        self._blocks, self._block_bytes = blocks, int(block_bytes)
        self._on_bad_lines = on_bad_lines
        self._function, self._shown = function, shown

    def __iter__(self):
        self.n_skipped_ = 0
        for path in self.paths:
            yield from self._blocks(path, self._block_bytes, report=self._report)

    def __repr__(self):
        shown = self._shown | {"on_bad_lines": self._on_bad_lines}
        paths = self.paths if len(self.paths) <= 3 else [*self.paths[:3], ...]
        params = "".join(f", {name}={value!r}" for name, value in shown.items())
        return f"{self._function}({paths!r}{params})".replace("Ellipsis", "...")

    def _report(self, message):
        """Raise, or count what is left out."""
        if self._on_bad_lines == "raise":
            raise ValueError(f"{message} on_bad_lines='skip' leaves it out.")
        self.n_skipped_ += 1


def read_svmlight(
    paths,
    *,
    n_features,
    zero_based=False,
    multilabel=False,
    n_labels=None,
    block_bytes=_BLOCK_BYTES,
    on_bad_lines="raise",
):
    """Read files in the svmlight / libsvm format, block by block.

    A line is ``label index:value index:value ...``. It may have ``qid:...`` behind the
    label and a comment from ``#`` on, which are ignored.

    Parameters
    ----------
    paths : str, path-like or list of them
        The files, in the order in which to read them. Files compressed by gzip are
        recognised and decompressed as they are read.
    n_features : int
        Number of features. There is no first pass over the files that would find it.
        A line with an index beyond it is malformed.
    zero_based : bool, default=False
        Whether the first feature has index 0, and not 1 as in most such files.
        ``"auto"``, the default of :func:`sklearn.datasets.load_svmlight_file`, would
        have to see the whole file. With False, an index of 0 is malformed, so a file
        that needs True is noticed. :func:`sklearn.datasets.dump_svmlight_file` writes
        files that need True, by default.
    multilabel : bool, default=False
        Whether a line has any number of labels, with commas between them:
        ``1,5,7 3:1``. Without a label the line begins with a feature.
    n_labels : int, default=None
        Number of labels that there are, if `multilabel` is True: they are 0 to
        ``n_labels - 1``, whatever `zero_based` says.
    block_bytes : int, default=8_000_000
        About the bytes of text of a block. Reading takes about three times as much
        memory, and up to eight times where features have no values.
    on_bad_lines : {"raise", "skip"}, default="raise"
        What to do with a malformed line: raise a ValueError that names file, line and
        what was expected, or leave the line out and count it in ``n_skipped_``.

    Returns
    -------
    reader : Reader
        Each iteration reads the files anew and gives blocks ``(X, y)``:

        X : sparse matrix of shape (n_rows, n_features), float32
            CSR with sorted indices. Values of an index that occurs several times in a
            line are summed.
        y : ndarray of shape (n_rows,), int64, or CSR of shape (n_rows, n_labels), int8
            The label of each row, an integer, or the indicator of its labels.

        Empty lines are left out. Attributes are ``paths`` and ``n_skipped_``.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If a parameter has a wrong type or is out of range, or if a file is missing;
        while reading, if a line is malformed or a compressed file is damaged.

    See Also
    --------
    read_vw : Read the text of Vowpal Wabbit.
    sklearn.datasets.load_svmlight_file : Load one file as a whole.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn_mach.datasets import read_svmlight
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "rows.svm")
    >>> with open(path, "w") as file:
    ...     _ = file.write("7 1:0.5 3:2  # a comment\\n-1 2:1e-1\\n")
    >>> for X, y in read_svmlight(path, n_features=3):
    ...     print(X.toarray(), y)
    [[0.5 0.  2. ]
     [0.  0.1 0. ]] [ 7 -1]
    >>> folder.cleanup()
    """
    return _read_text(
        "svmlight", paths, n_features, zero_based, multilabel, n_labels, False,
        block_bytes, on_bad_lines,
    )  # fmt: skip


def read_vw(
    paths,
    *,
    n_features,
    zero_based=True,
    multilabel=False,
    n_labels=None,
    weights=False,
    block_bytes=_BLOCK_BYTES,
    on_bad_lines="raise",
):
    """Read the text format of Vowpal Wabbit, block by block.

    A line is ``label [importance] ['tag] | index:value index ...``, where an index
    without a value has value 1. The Open Directory Project set that the paper [1]_
    uses comes so. Labels and indices are integers. Names of features are not hashed.

    Parameters
    ----------
    paths : str, path-like or list of them
        The files, in the order in which to read them. Files compressed by gzip are
        recognised and decompressed as they are read.
    n_features : int
        Number of features. There is no first pass over the files that would find it.
        A line with an index beyond it is malformed.
    zero_based : bool, default=True
        Whether the first feature has index 0, and not 1.
    multilabel : bool, default=False
        Whether a line has any number of labels, with commas between them:
        ``1,5,7 | 3``. There may be none before the bar.
    n_labels : int, default=None
        Number of labels that there are, if `multilabel` is True: they are 0 to
        ``n_labels - 1``, whatever `zero_based` says.
    weights : bool, default=False
        Whether blocks are ``(X, y, sample_weight)``, with the importance of each row,
        which is 1 where a line has none. With False, a line that has one is malformed.
    block_bytes : int, default=8_000_000
        About the bytes of text of a block. Reading takes about three times as much
        memory, and up to eight times where features have no values.
    on_bad_lines : {"raise", "skip"}, default="raise"
        What to do with a malformed line: raise a ValueError that names file, line and
        what was expected, or leave the line out and count it in ``n_skipped_``.

    Returns
    -------
    reader : Reader
        Each iteration reads the files anew and gives blocks ``(X, y)``, or
        ``(X, y, sample_weight)``:

        X : sparse matrix of shape (n_rows, n_features), float32
            CSR with sorted indices. Values of an index that occurs several times in a
            line are summed.
        y : ndarray of shape (n_rows,), int64, or CSR of shape (n_rows, n_labels), int8
            The label of each row, an integer, or the indicator of its labels.
        sample_weight : ndarray of shape (n_rows,), float32
            Only if `weights` is True.

        Empty lines are left out. Attributes are ``paths`` and ``n_skipped_``.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If a parameter has a wrong type or is out of range, or if a file is missing;
        while reading, if a line is malformed or a compressed file is damaged.

    See Also
    --------
    read_svmlight : Read the svmlight / libsvm format.

    Notes
    -----
    As in Vowpal Wabbit, what touches the bar is no feature: before it is a tag, which
    is ignored, and after it the name of a namespace, as in ``|title:0.5 3:2``. The
    values behind it count 0.5 times. The name is ignored: index 3 is the same feature
    in all namespaces. A third number before the bar, the base prediction, is malformed.

    References
    ----------
    .. [1] T. Medini, Q. Huang, Y. Wang, V. Mohan and A. Shrivastava (2019).
       Extreme Classification in Log Memory using Count-Min Sketch: A Case Study of
       Amazon Search with 50M Products. NeurIPS 32.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn_mach.datasets import read_vw
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "rows.vw")
    >>> with open(path, "w") as file:
    ...     _ = file.write("7 | 0:0.5 2\\n5 | 1:0.1\\n8 | x\\n")
    >>> reader = read_vw(path, n_features=3, on_bad_lines="skip")
    >>> for X, y in reader:
    ...     print(X.toarray(), y)
    [[0.5 0.  1. ]
     [0.  0.1 0. ]] [7 5]
    >>> reader.n_skipped_
    1
    >>> folder.cleanup()
    """
    return _read_text(
        "vw", paths, n_features, zero_based, multilabel, n_labels, weights,
        block_bytes, on_bad_lines,
    )  # fmt: skip


def read_parquet(
    paths,
    *,
    label,
    features=None,
    indices=None,
    values=None,
    n_features=None,
    multilabel=False,
    n_labels=None,
    block_bytes=_BLOCK_BYTES,
    on_bad_lines="raise",
):
    """Read Parquet files, block by block.

    It needs pyarrow: ``pip install "sklearn-mach[parquet]"``. Rows are dense with
    `features`, and sparse with `indices` and `values`.

    Parameters
    ----------
    paths : str, path-like or list of them
        The files, in the order in which to read them.
    label : str
        Column of the labels: integers, floats that are whole, or strings. With
        `multilabel` lists of integers.
    features : str or list of str, default=None
        Columns of numbers, one for each feature, or a column of lists of numbers.
    indices, values : str, default=None
        Columns of lists: where a row is not zero, from 0 on, and its values there.
    n_features : int, default=None
        Number of features. It must be given with `indices`, and for lists in `features`
        whose type has no length.
    multilabel : bool, default=False
        Whether a row has any number of labels.
    n_labels : int, default=None
        Number of labels that there are, if `multilabel` is True: they are 0 to
        ``n_labels - 1``.
    block_bytes : int, default=8_000_000
        About the bytes of a block, as pyarrow holds it; not less than 1,024 rows.
    on_bad_lines : {"raise", "skip"}, default="raise"
        What to do with a row that has nulls, values that are not finite in float32,
        indices that are out of range, or lists of other lengths: raise a ValueError
        that names file and row, or leave the row out and count it in ``n_skipped_``.

    Returns
    -------
    reader : Reader
        Each iteration reads the files anew and gives blocks ``(X, y)``:

        X : ndarray or sparse matrix of shape (n_rows, n_features), float32
            C-ordered, or CSR with sorted indices. Values of an index that occurs
            several times in a row are summed.
        y : ndarray of shape (n_rows,), or CSR of shape (n_rows, n_labels), int8
            The label of each row, int64 or a string, or the indicator of its labels.

        Attributes are ``paths`` and ``n_skipped_``.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If a parameter or a column has a wrong type, or if a column or a file is
        missing; while reading, if a row is malformed.
    ImportError
        If pyarrow is missing.

    See Also
    --------
    read_svmlight : Read the svmlight / libsvm format.

    Examples
    --------
    >>> import os, tempfile
    >>> import pyarrow, pyarrow.parquet
    >>> from sklearn_mach.datasets import read_parquet
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "rows.parquet")
    >>> table = pyarrow.table({"a": [0.5, 2], "b": [1, 3], "class": ["no", "yes"]})
    >>> pyarrow.parquet.write_table(table, path)
    >>> for X, y in read_parquet(path, features=["a", "b"], label="class"):
    ...     print(X, y)
    [[0.5 1. ]
     [2.  3. ]] ['no' 'yes']
    >>> folder.cleanup()
    """
    sparse = None
    if indices is not None or values is not None:
        if indices is None or values is None or features is not None:
            raise ValueError(
                "Pass both indices and values for sparse rows, or features alone, not "
                f"features={features!r}, indices={indices!r} and values={values!r}."
            )
        if n_features is None:
            raise ValueError("indices and values need n_features.")
        sparse = indices, values
    elif features is None or len(features) == 0:
        raise ValueError(
            "Say where the rows are: with features, or with indices and values."
        )
    dense = [features] if isinstance(features, str) else features and list(features)
    for name in (*(dense or ()), *(sparse or ()), label):
        if not isinstance(name, str):
            raise TypeError(f"Names of columns must be strings, got {name!r}.")
    if n_features is not None:
        _check_n_features(n_features)
    paths = _check_paths(paths)
    n_labels = _check_n_labels(multilabel, n_labels)
    columns = Columns(dense, sparse, label, n_features, n_labels)
    for path in paths:
        columns = columns._replace(n_features=check_columns(path, columns))
    shown = {"features": features} if sparse is None else dict(zip(
        ("indices", "values", "n_features"), (*sparse, n_features), strict=True
    ))  # fmt: skip
    return Reader(
        "read_parquet",
        paths,
        partial(parquet_blocks, columns=columns),
        block_bytes,
        on_bad_lines,
        label=label,
        **shown,
    )


def _read_text(
    name, paths, n_features, zero_based, multilabel, n_labels, weights, block_bytes,
    on_bad_lines,
):  # fmt: skip
    """The reader of a format of text."""
    _check_n_features(n_features)
    _check_flag(zero_based, "zero_based")
    _check_flag(weights, "weights")
    paths = _check_paths(paths)
    n_labels = _check_n_labels(multilabel, n_labels)
    format = TextFormat(
        name, int(n_features), bool(zero_based), n_labels, bool(weights)
    )
    return Reader(
        f"read_{name}",
        paths,
        partial(text_blocks, format=format),
        block_bytes,
        on_bad_lines,
        n_features=format.n_features,
        zero_based=format.zero_based,
        **({} if n_labels is None else {"multilabel": True, "n_labels": n_labels}),
        **({"weights": True} if weights else {}),
    )


def _check_flag(value, name):
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {value!r}.")


def _check_n_features(n_features):
    check_number(n_features, "n_features", Integral, min_val=1, max_val=2**31 - 1)


def _check_n_labels(multilabel, n_labels):
    """The number of labels as an integer, or None."""
    _check_flag(multilabel, "multilabel")
    if multilabel != (n_labels is not None):
        raise ValueError(
            f"multilabel={multilabel}, but n_labels={n_labels}. For several labels a "
            "row pass multilabel=True and n_labels, the number of all labels. For one "
            "label a row pass neither."
        )
    if n_labels is None:
        return None
    check_number(n_labels, "n_labels", Integral, min_val=2, max_val=2**31 - 1)
    return int(n_labels)


def _check_paths(paths):
    """The paths of files that are there, as strings."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    if not isinstance(paths, list | tuple):
        raise TypeError(f"paths must be a path or a list of paths, got {paths!r}.")
    if not paths:
        raise ValueError("paths is empty. Pass the path of a file at least.")
    paths = list(map(os.fspath, paths))
    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(f"There is no file {path!r}.")
        if not os.path.isfile(path):
            raise ValueError(f"{path!r} is no file. Pass the paths of the files in it.")
    return paths
