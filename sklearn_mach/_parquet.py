"""Blocks of rows from Parquet files."""

from typing import NamedTuple

import numpy as np

from ._library import csr
from ._text_blocks import indicator

_BATCH = 1024  # rows that are decoded at a time


class Columns(NamedTuple):
    """Which columns hold what.

    dense : list of str, columns of numbers, or one of lists; or None
    sparse : (str, str), columns of lists of indices and of values; or None
    label : str
    n_features : int, or None where the number of columns or their type says it
    n_labels : int, columns of the indicator, or None: one label a row
    """

    dense: list | None
    sparse: tuple | None
    label: str
    n_features: int | None
    n_labels: int | None

    def names(self):
        return [*(self.dense or self.sparse), self.label]


def import_pyarrow():
    """The modules pyarrow and pyarrow.parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"read_parquet needs pyarrow, which cannot be imported ({error}). Install "
            'it with pip install "sklearn-mach[parquet]".'
        ) from error
    return pyarrow, pyarrow.parquet


def check_columns(path, columns):
    """Refuse columns that a file lacks or that have other types; the features."""
    pa, parquet = import_pyarrow()
    try:
        schema = parquet.read_schema(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error
    for name in columns.names():
        if schema.names.count(name) != 1:
            raise ValueError(
                f"{path} has not one column {name!r}. Its columns are {schema.names}."
            )
    n_features = columns.n_features
    if columns.sparse:
        indices, values = columns.sparse
        _check(pa, path, schema, indices, _is_integer, "integers", 1)
        _check(pa, path, schema, values, _is_number, "numbers", 1)
    elif len(columns.dense) == 1 and _is_list(pa, schema.field(columns.dense[0]).type):
        name = columns.dense[0]
        _check(pa, path, schema, name, _is_number, "numbers", 1)
        if pa.types.is_fixed_size_list(schema.field(name).type):
            size = schema.field(name).type.list_size
            if n_features not in (None, size):
                raise ValueError(
                    f"The lists of column {name!r} of {path} have {size} values each, "
                    f"but there are {n_features} features."
                )
            n_features = size
        elif n_features is None:
            raise ValueError(
                f"The lists of column {name!r} of {path} may have any length. Say with "
                "n_features how many values each of them has."
            )
    else:
        for name in columns.dense:
            _check(pa, path, schema, name, _is_number, "numbers", 0)
        if n_features not in (None, len(columns.dense)):
            raise ValueError(
                f"n_features={n_features}, but there are {len(columns.dense)} columns "
                "of features. Leave n_features out."
            )
        n_features = len(columns.dense)
    if columns.n_labels is None:
        _check(pa, path, schema, columns.label, _is_label, "numbers or strings", 0)
    else:
        _check(pa, path, schema, columns.label, _is_integer, "integers", 1)
    return n_features


def _is_integer(pa, type):
    return pa.types.is_integer(type)


def _is_number(pa, type):
    t = pa.types
    return t.is_integer(type) or t.is_floating(type) or t.is_boolean(type)


def _is_label(pa, type):
    return _is_number(pa, type) or _is_text(pa, type)


def _is_text(pa, type):
    if pa.types.is_dictionary(type):
        type = type.value_type
    return pa.types.is_string(type) or pa.types.is_large_string(type)


def _is_list(pa, type):
    t = pa.types
    return t.is_list(type) or t.is_large_list(type) or t.is_fixed_size_list(type)


def _check(pa, path, schema, name, is_right, values, depth):
    """Refuse a column that has not such values, in lists if the depth is 1."""
    type = schema.field(name).type
    inner = type.value_type if depth and _is_list(pa, type) else type
    if _is_list(pa, type) != bool(depth) or not is_right(pa, inner):
        raise TypeError(
            f"Column {name!r} of {path} has the type {type}, but "
            f"{'lists of ' * depth}{values} are needed."
        )


def parquet_blocks(path, block_bytes, columns, report):
    """Blocks (X, y) of a file; ``report(message)`` is told of each row left out."""
    pa, parquet = import_pyarrow()
    with parquet.ParquetFile(path) as file:
        parts, n_bytes, n_rows = [], 0, 0  # and the rows in blocks before
        for batch in file.iter_batches(_BATCH, columns=columns.names()):
            parts.append(batch)
            n_bytes += batch.nbytes
            if n_bytes >= block_bytes:
                yield from _block(pa, path, parts, n_rows, columns, report)
                n_rows += sum(part.num_rows for part in parts)
                parts, n_bytes = [], 0
        if parts:
            yield from _block(pa, path, parts, n_rows, columns, report)


def _block(pa, path, parts, n_before, columns, report):
    """The block of these parts, behind so many rows of the file; none without rows."""
    batch = pa.Table.from_batches(parts).combine_chunks()
    whole = np.ones(batch.num_rows, bool)  # rows that are
    for name in columns.names():
        whole &= ~_numpy(batch[name].is_null())
    rows = np.flatnonzero(whole)
    table = batch.filter(pa.array(whole))
    if columns.sparse:
        X, right = _sparse(table, columns)
    elif _is_list(pa, table.schema.field(columns.dense[0]).type):
        X, right = _dense_lists(table, columns)
    else:
        X = np.empty((table.num_rows, columns.n_features), np.float32)
        for j, name in enumerate(columns.dense):
            X[:, j] = _float32(_numpy(table[name]))
        right = np.isfinite(X).all(axis=1)
    y, right_y = _labels(pa, table[columns.label], columns.n_labels)
    whole[rows] = right & right_y
    for row in np.flatnonzero(~whole).tolist():
        report(
            f"{path}, row {n_before + row} (from 0): expected {_expected(columns)}. "
            f"The row is {_shown(batch, row)}."
        )
    if whole.any():
        kept = whole[rows]
        yield (X, y) if kept.all() else (X[kept], y[kept])


def _expected(columns):
    label = (
        f"as {columns.label!r} a string or an integer of 64 bits"
        if columns.n_labels is None
        else f"in {columns.label!r} integers from 0 to {columns.n_labels - 1}"
    )
    if columns.sparse:
        indices, values = columns.sparse
        return (
            f"no null, in {indices!r} integers from 0 to {columns.n_features - 1} "
            f"(n_features={columns.n_features}), in {values!r} as many values, whose "
            f"sums are finite in float32, {label}"
        )
    return f"no null, {columns.n_features} features, finite in float32, {label}"


def _shown(batch, row):
    shown = repr({name: batch[name][row].as_py() for name in batch.column_names})
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def _numpy(column):
    """A column or the values of lists as an array, with NaN for nulls."""
    return column.to_numpy()


def _float32(values):
    with np.errstate(over="ignore"):  # infinities are refused later
        return values.astype(np.float32)


def _lists(column):
    """The values of all lists of a column, and where each list ends from 0 on."""
    from pyarrow import compute

    lengths = _numpy(compute.list_value_length(column)).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return _numpy(compute.list_flatten(column)), ends


def _dense_lists(table, columns):
    """The rows, and which are right."""
    n_rows, n_features = table.num_rows, columns.n_features
    X = np.full((n_rows, n_features), np.nan, np.float32)
    values, ends = _lists(table[columns.dense[0]])
    lengths = np.diff(ends)
    right = lengths == n_features
    X[right] = _float32(values)[np.repeat(right, lengths)].reshape(-1, n_features)
    return X, np.isfinite(X).all(axis=1)


def _inside(numbers, ends, stop):
    """Which lists have integers from 0 to `stop` - 1 only; nulls are NaN."""
    outside = ~((numbers >= 0) & (numbers < stop))
    return np.diff(np.concatenate([[0], np.cumsum(outside)])[ends]) == 0


def _kept_lists(numbers, ends, kept):
    """The lists that are kept; the others are empty."""
    lengths = np.diff(ends)
    numbers = numbers[np.repeat(kept, lengths)]
    return numbers, np.concatenate([[0], np.cumsum(np.where(kept, lengths, 0))])


def _sparse(table, columns):
    """The rows, where wrong ones are empty or not finite, and which are right."""
    (indices, ends), (values, value_ends) = (
        _lists(table[name]) for name in columns.sparse
    )
    right = np.diff(ends) == np.diff(value_ends)
    right &= _inside(indices, ends, columns.n_features)
    indices, kept_ends = _kept_lists(indices, ends, right)
    values, _ = _kept_lists(values, value_ends, right)
    dtype = np.int32 if indices.size < 2**31 else np.int64
    arrays = _float32(values), indices.astype(dtype), kept_ends.astype(dtype)
    X = csr(*arrays, columns.n_features)
    with np.errstate(over="ignore"):
        X.sum_duplicates()
    bad = np.concatenate([[0], np.cumsum(~np.isfinite(X.data))])[X.indptr]
    return X, right & (np.diff(bad) == 0)


def _labels(pa, column, n_labels):
    """The labels of the rows, and which rows have right ones."""
    if n_labels is not None:
        labels, ends = _lists(column)
        right = _inside(labels, ends, n_labels)
        return indicator(*_kept_lists(labels, ends, right), n_labels), right
    if _is_text(pa, column.type):
        labels = _numpy(column.cast(pa.string()))
        return labels, np.ones(labels.size, bool)
    labels = _numpy(column)
    if labels.dtype.kind == "f":
        right = (np.abs(labels) < 2.0**63) & (labels == np.floor(labels))
    elif labels.dtype == np.uint64:
        right = labels < 2**63
    else:
        right = np.ones(labels.size, bool)
    return np.where(right, labels, 0).astype(np.int64), right
