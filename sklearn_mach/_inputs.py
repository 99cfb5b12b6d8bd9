"""Rows, labels and weights that a user passes: checked, and labels as numbers."""

from numbers import Real

import numpy as np
import scipy.sparse as sp
from sklearn.utils import assert_all_finite, compute_class_weight, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, validate_data

from ._compat import _check_sample_weight
from ._targets import Targets, check_n_classes

_PLAIN_VALUES = 100_000  # values of X that are checked in the short way
_CHECKED_VALUES = 1 << 20  # of a float16 X, checked at a time
_LARGEST_VALUE = 1e150  # of X, or squares overflow; below its inverse they vanish
_BINARIZE = (
    "sklearn.preprocessing.MultiLabelBinarizer(sparse_output=True) makes one of lists "
    "of labels"
)
_COLLECTIONS = list, tuple, set, frozenset, np.ndarray
_NO_LABELS = object()  # in place of y, which may be None or anything else by mistake


def check_rows(estimator, X, y=_NO_LABELS, *, in_float32, reset=False):
    """Checked rows (CSR canonical with int32 indices, or C-ordered), and labels.

    The labels are an array (n_samples,), or of several a row a CSR matrix of ones.

    They are float32 or float64.  `in_float32` says that they are learned in float32:
    dense float16 rows then stay as they are, and labelled rows whose values leave no
    room in float32 are refused.  With `reset` the estimator takes the number and names
    of the features from X.
    """
    has_labels = y is not _NO_LABELS
    if not has_labels and in_float32 and _is_plain(estimator, X):
        return X
    tags = estimator.__sklearn_tags__().input_tags
    several = has_labels and is_indicator(y)
    if several:
        y, has_labels = indicator(y), False
    elif has_labels:
        _check_labels(y, "y")
    _refuse_dates(X)
    dtypes, is_half = [np.float64, np.float32], False
    if in_float32:
        dtypes.append(np.float16)
        dtype = getattr(X, "dtype", None)
        is_half = isinstance(dtype, np.dtype) and dtype == np.float16
        if is_half and sp.issparse(X):  # of which SciPy does little, and kernels
            X, is_half = X.astype(np.float32), False
    try:
        checked = validate_data(
            estimator,
            X,
            y if has_labels else "no_validation",
            reset=reset,
            accept_sparse="csr" if tags.sparse else False,
            dtype=dtypes,
            order="C",
            ensure_all_finite=not (tags.allow_nan or is_half),
        )
    except ValueError as error:
        if "could not convert string to float" not in str(error):
            raise
        raise ValueError(
            f"X holds strings that are no numbers: {error}. Make features of them "
            "first, for example with sklearn.preprocessing.OneHotEncoder, or of "
            "text with sklearn.feature_extraction.text.TfidfVectorizer."
        ) from error
    X, *labels = checked if isinstance(checked, tuple) else (checked,)
    if is_half:
        _assert_finite_in_batches(X, type(estimator).__name__)
    if sp.issparse(X):
        X = _canonical(X)
    if several:
        check_consistent_length(X, y)
        labels = [y]
    if not labels:
        return X
    if in_float32:
        _refuse_extremes(X)
    if not several and labels[0].dtype.kind not in "biuU":  # which are always classes
        # twice each: few rows a class, of which it warns, are usual here
        check_classification_targets(np.repeat(labels[0], 2))
    return X, labels[0]


def _is_plain(estimator, X):
    """Whether X is a few rows that all checks of `check_rows` leave as they are.

    Seeing it here saves scikit-learn's look for data frames and names of columns,
    longer than the decoding of a row. Whatever is not plain goes there.
    """
    dtypes = np.float32, np.float64
    if type(X) is np.ndarray:
        values, is_ordered = X, X.flags.c_contiguous
        dtypes += (np.float16,)
    elif type(X) in (sp.csr_matrix, sp.csr_array):
        values, is_ordered = X.data, X.indices.dtype == np.int32
    else:
        return False
    return (
        not hasattr(estimator, "feature_names_in_")
        and is_ordered
        and X.ndim == 2
        and X.shape[0] > 0
        and X.shape[1] == estimator.n_features_in_
        and values.size <= _PLAIN_VALUES
        and values.dtype in dtypes
        and bool(np.isfinite(values).all())
        and (values is X or bool(X.has_canonical_format))
    )


def _canonical(X):
    """A CSR matrix of sorted, distinct columns, with indices of 32 bits if they do."""
    if X.indices.size > X.nnz:  # arrays with room for more
        X = X.copy()
        X.prune()
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    if X.indices.dtype != np.int32 and X.nnz < 2**31 and X.shape[1] < 2**31:
        arrays = X.data, X.indices.astype(np.int32), X.indptr.astype(np.int32)
        X = type(X)(arrays, shape=X.shape)
    return X


def _refuse_dates(X):
    """Refuse dates and durations, which NumPy takes as counts of some unit of time."""
    dtypes = X.dtypes if hasattr(X, "dtypes") else [getattr(X, "dtype", None)]
    for dtype in dtypes:
        if hasattr(dtype, "is_temporal"):  # of polars
            is_date = dtype.is_temporal()
        else:
            is_date = getattr(dtype, "kind", None) in ("m", "M")
        if is_date:
            raise ValueError(
                f"X holds dates or durations, of dtype {dtype}. Convert them to "
                "numbers, such as days since a date."
            )


def _assert_finite_in_batches(X, estimator_name):
    """Refuse a float16 X that is not finite.

    scikit-learn makes masks of all values, half as large as X.
    """
    for rows in gen_batches(X.shape[0], max(_CHECKED_VALUES // X.shape[1], 1)):
        assert_all_finite(X[rows], estimator_name=estimator_name, input_name="X")


def _refuse_extremes(X):
    """Refuse values whose squares overflow or are all zero in float64."""
    values = X.data if sp.issparse(X) else X
    largest = float(max(values.max(initial=0), -values.min(initial=0)))
    if largest and not 1 / _LARGEST_VALUE < largest < _LARGEST_VALUE:
        raise ValueError(
            f"The largest value of X is {largest:.3g}, which leaves no room in "
            "float32. Use other units, that bring the rows to about unit length."
        )


def _check_labels(labels, name):
    """Refuse labels that scikit-learn lets pass, or refuses in words of its own."""
    if isinstance(labels, str):
        raise ValueError(f"{name} must be an array of labels, got {labels!r}.")
    labels = np.asarray(labels)
    if labels.dtype.kind == "T":
        raise ValueError(
            f"{name} has NumPy's StringDType, which scikit-learn does not support. "
            f"Pass {name}.astype(str)."
        )
    missing, is_object = False, labels.dtype == object and labels.ndim == 1
    if is_object and any(isinstance(v, _COLLECTIONS) for v in labels):
        raise ValueError(
            f"{name} holds collections of labels. For several labels a row pass an "
            f"indicator: {_BINARIZE}."
        )
    if labels.dtype.kind in "mM":
        missing = np.isnat(labels).any()
    elif is_object:
        missing = any(
            v is None or type(v).__name__ == "NAType" or v != v for v in labels
        )
    if missing:
        raise ValueError(
            f"{name} contains missing values (None, NaN or NaT). Drop them."
        )


def is_indicator(y):
    """Whether y is no list of labels: it is sparse, or has other than one column."""
    if sp.issparse(y):
        return True
    if isinstance(y, str) or not hasattr(y, "__len__"):
        return False
    if not hasattr(y, "ndim"):
        try:
            y = np.asarray(y)
        except ValueError as error:  # lists of different lengths
            raise ValueError(
                f"y holds lists of different lengths ({error}). Pass an indicator: "
                f"{_BINARIZE}."
            ) from error
    return y.ndim > 1 and y.shape[1:] != (1,)


def indicator(y):
    """A canonical CSR matrix of ones (int8) from an indicator, dense or sparse."""
    shape = np.shape(y) if not sp.issparse(y) else y.shape
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            f"y has shape {shape}. For several labels a row it must be an indicator of "
            "shape (n_samples, n_classes) with at least two columns, for one label a "
            "row an array of shape (n_samples,)."
        )
    check_n_classes(shape[1])
    if not sp.issparse(y):
        y = np.asarray(y)
        y = y.astype(np.float64) if y.dtype == object and _are_numbers(y) else y
    elif y.format != "csr":
        y = y.tocoo()
    values = y.data if sp.issparse(y) else y
    other = values.ravel()  # of strings and the like all values
    if values.dtype.kind in "biuf":
        other = values[(values != 0) & (values != 1)]
    if other.size:
        some = list(dict.fromkeys(other[:100].tolist()))[:3]
        raise ValueError(
            f"y has shape {shape} and holds {some}. A matrix y must be an indicator of "
            f"ones and zeros, where the columns are the labels: {_BINARIZE}. Several "
            "outputs of many values each need a classifier each, such as "
            "sklearn.multioutput.MultiOutputClassifier."
        )
    if sp.issparse(y) and y.format == "csr" and y.has_canonical_format and values.all():
        arrays = np.ones(y.nnz, np.int8), y.indices, y.indptr
        return sp.csr_array(arrays, y.shape)
    if sp.issparse(y):
        rows, columns = y.tocoo().coords
        rows, columns = rows[values != 0], columns[values != 0]
    else:
        rows, columns = np.nonzero(y)
    # bool, so that a label stored twice is one
    Y = sp.csr_array((np.ones(rows.size, bool), (rows, columns)), shape)
    return Y.astype(np.int8)


def _are_numbers(y):
    return all(isinstance(value, Real) for value in y.flat)


def targets_of(y):
    """Sorted labels and the `Targets` of the rows; of an indicator its columns."""
    if sp.issparse(y):
        return np.arange(y.shape[1]), Targets.of_indicator(y)
    classes, codes = encode(y)
    return classes, Targets.of(codes)


def targets_as(y, classes, several):
    """The `Targets` of checked labels in the sorted labels `classes`.

    several : whether the model has several labels a row
    """
    check_several(sp.issparse(y), several)
    if not several:
        return Targets.of(encode_as(y, classes))
    if y.shape[1] != classes.size:
        raise ValueError(
            f"y has {y.shape[1]} columns, but the model has {classes.size} labels."
        )
    return Targets.of_indicator(y)


def check_several(now, before):
    """Refuse labels of another kind than those of the model."""
    if now != before:
        kinds = "one label", "several labels"
        raise ValueError(
            f"y has {kinds[now]} a row, but the model was fitted with {kinds[before]} "
            "a row."
        )


def check_grows(classes, several, old_classes, old_several):
    """Refuse labels with which `fit` cannot add repetitions to a model."""
    check_several(several, old_several)
    if not np.array_equal(classes, old_classes):
        raise ValueError(
            "With warm_start=True y must hold the classes of the previous fit: "
            f"{old_classes.size} then, {classes.size} now, or other labels. "
            "Set warm_start=False to start anew."
        )


def targets_of_block(y, classes, known=None, several=None):
    """All labels, sorted, and the `Targets` of a block of checked labels.

    classes : the argument of `partial_fit`; an indicator tells them by its columns
    known, several : the labels of earlier blocks, which new ones of y join, and whether
        rows have several; None in the first block
    """
    if classes is not None:
        classes = sorted_classes(classes)
    if sp.issparse(y):
        _check_columns(y, classes)
    if known is None:
        if not sp.issparse(y) and classes is None:
            raise ValueError("classes must be passed at the first call of partial_fit.")
        known = np.arange(y.shape[1]) if sp.issparse(y) else classes
        return known, targets_as(y, known, sp.issparse(y))
    check_several(sp.issparse(y), several)
    if several:
        if y.shape[1] < known.size:
            raise ValueError(
                f"y has {y.shape[1]} columns, but the model has {known.size} labels. "
                "Pass a column for each of them; further columns are new labels."
            )
        return np.arange(y.shape[1]), Targets.of_indicator(y)
    found, codes = encode(y)
    if classes is not None:
        missing = known[~find(known, classes)[1]]
        if missing.size:
            raise ValueError(
                f"classes lacks labels that the model knows: {_some(missing)}. Pass "
                "all labels, old and new, or no classes."
            )
        _refuse_unknown(found, find(found, classes)[1])
    known = join(known, found[~find(found, known)[1]])
    return known, Targets.of(find(found, known)[0][codes])


def _check_columns(y, classes):
    """Refuse `classes` that are not the numbers of the columns of an indicator."""
    n_columns = y.shape[1]
    if classes is not None and not np.array_equal(classes, np.arange(n_columns)):
        raise ValueError(
            f"y is an indicator of {n_columns} labels, whose classes are the column "
            f"numbers 0 to {n_columns - 1}. Pass these, or no classes."
        )


def join(known, new):
    """Sorted labels, those known and new ones, in the type of the known if it fits."""
    if not new.size:
        return known
    if new.dtype != known.dtype and new.dtype.kind == "O":
        new = np.array(new.tolist())  # such as strings of a data frame
    if new.dtype.kind != known.dtype.kind and known.dtype.kind != "O":
        if not {new.dtype.kind, known.dtype.kind} <= set("iuf"):
            raise _not_comparable(new, known)
        in_type = new.astype(known.dtype)
        new = in_type if np.array_equal(in_type, new) else new
    joined, _ = encode(np.concatenate([known, new]))
    # 64 bits do not all fit in the floats that join signed and unsigned integers
    if joined.size != known.size + new.size:
        raise _not_comparable(new, known)
    return joined


def format_of(y):
    """What `predict` gives, by name: a type of arrays or matrices, and a dtype.

    None where rows have one label.  Objects become integers: metrics refuse objects.
    """
    if not is_indicator(y):
        return None
    if not sp.issparse(y):
        dtype = np.asarray(y).dtype
        return "ndarray", (np.dtype(int) if dtype.kind == "O" else dtype).str
    dtype = y.dtype if y.dtype.kind in "biuf" and y.dtype != np.float16 else np.int8
    kind = "csr_matrix" if sp.isspmatrix(y) else "csr_array"
    return kind, np.dtype(dtype).str  # SciPy has no sparse float16


def sorted_classes(classes):
    """The distinct labels of the argument `classes`, sorted."""
    _check_labels(classes, "classes")
    found = np.asarray(classes)
    if found.ndim != 1 or found.size == 0:
        what = f"shape {found.shape}" if found.ndim else type(classes).__name__
        raise ValueError(
            f"classes must be a list or an array of one dimension that holds all "
            f"labels, at least one; got {what}."
        )
    if found.dtype.kind == "f":
        assert_all_finite(found, input_name="classes")
    return encode(found, "classes")[0]


def encode(y, name="y"):
    """Sorted labels, and their numbers as int32 of the shape of y."""
    try:
        classes, codes = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"{name} mixes labels that cannot be sorted, such as numbers, strings and "
            "missing values. Use labels of one type."
        ) from error
    check_n_classes(classes.size)
    return classes, codes.astype(np.int32)


def encode_as(y, classes):
    """Numbers of the labels y in the sorted labels `classes`."""
    found, codes = encode(y)
    places, is_there = find(found, classes)
    _refuse_unknown(found, is_there)
    return places[codes]


def find(found, classes):
    """Places of sorted labels in others, int32, and whether they are there."""
    try:
        places = np.minimum(np.searchsorted(classes, found), classes.size - 1)
    except TypeError as error:
        raise _not_comparable(found, classes) from error
    return places.astype(np.int32), classes[places] == found


def _not_comparable(found, classes):
    return ValueError(
        f"y and classes hold labels of types that cannot be compared, such as "
        f"{found[0]!r} and {classes[0]!r}. Use labels of one type."
    )


def _refuse_unknown(found, is_there):
    if not is_there.all():
        raise ValueError(
            f"y holds labels that are not in classes: {_some(found[~is_there])}."
        )


def _some(labels):
    """The first few labels, for a message."""
    return f"{labels[:5].tolist()}{' and others' if labels.size > 5 else ''}"


def find_labels(y, classes):
    """Numbers of the labels y in `classes`, int64, -1 for those that are not there."""
    # A dictionary, unlike sorting, takes labels of types that cannot be compared.
    places = {label: k for k, label in enumerate(np.asarray(classes).tolist())}
    return np.array([places.get(label, -1) for label in y.tolist()], dtype=np.int64)


def check_class_weight(class_weight, in_blocks=False):
    """Refuse weights that are none, and in blocks what needs all rows at once."""
    if in_blocks and class_weight == "balanced":
        raise ValueError(
            "class_weight='balanced' is not known block by block. Pass a dict, or "
            "sample_weight."
        )
    if not isinstance(class_weight, dict):
        return
    for label, weight in class_weight.items():
        if not (isinstance(weight, Real) and 0 <= weight < np.inf):
            raise ValueError(
                f"class_weight gives class {label!r} the weight {weight!r}. "
                "Weights must be finite numbers that are not negative."
            )


def row_weights(X, y, targets, classes, sample_weight, class_weight):
    """Weights of the rows, float64 (n_samples,), or None if all are one.

    targets: of the labels y, numbers in `classes`
    """
    weight = None
    if sample_weight is not None:
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
    if class_weight is not None and targets.several:
        raise ValueError(
            f"class_weight={class_weight!r} weighs rows by their class, and here rows "
            "have several. Use logit_adjustment, which favours rare labels in "
            "predictions, or sample_weight."
        )
    if class_weight is not None:
        by_class = compute_class_weight(class_weight, classes=classes, y=y)
        weight = by_class[targets.classes] * (1.0 if weight is None else weight)
    if weight is not None and not weight.any():
        raise ValueError(
            "The weights of all rows are zero: sample_weight, class_weight or "
            "their product. At least one row must have a positive weight."
        )
    return weight
