"""A classifier's state as named arrays and plain values, and back, checked.

A value of the state is itself, if JSON has it, or a list: the name of its kind, and
what that kind needs.  The kinds are written down here; no name in a file is looked up
anywhere else.
"""

import math

import numpy as np
import scipy.sparse as sp

from ._dense import Metric
from ._files import is_storable, size
from ._lanes import LANES
from ._losses import LINKS
from ._states import flatten
from ._steps import Seen
from ._topk import LEVELS
from ._weights import STORAGES

_RECORDS = {"Seen": Seen, "Metric": Metric}
_SPARSE = {"csr_array": sp.csr_array, "csr_matrix": sp.csr_matrix}
_LEFT_OUT = ("_skl_callbacks", "_callback_fit_ctx", "_skl_callbacks_to_teardown")
_FORMATS = ("ndarray", "csr_array", "csr_matrix")  # of indicators
_SPARE = 1000  # bytes that numbers of the storage may take in the header
_FITTED = {
    *("n_features_in_", "feature_names_in_", "classes_", "device_", "_label_format"),
    *("bucket_table_", "n_buckets_", "_chance", "logit_adjustment_", "_offset"),
    *("_scalars", "_several", "n_repetitions_", "_storage", "_link", "n_iter_"),
    *("_class_weights", "t_", "_order_seed", "_seen", "_factor", "_waiting"),
}
WEIGHTS = "_storage"  # with which the names of its arrays begin


def pack(attributes):
    """Arrays by name, and values for JSON, of a fitted classifier's attributes.

    TypeError names what cannot be stored.
    """
    return _packed_state(_state(attributes))


def saved_bytes(attributes):
    """Bytes of the file without the arrays of the storage of weights, at most."""
    return size(*_packed_state(_state(attributes) | {"_storage": None})) + _SPARE


def _state(attributes):
    """What is saved: the state that is pickled, and the codes of the decoder."""
    state = flatten(attributes)
    prepared = attributes["_fitted"].model.prepared
    if prepared.codes.size:
        state["_prepared"] = tuple(prepared)
    return {k: v for k, v in state.items() if k not in _LEFT_OUT}


def _packed_state(state):
    arrays = {}
    values = {name: _packed(value, name, arrays) for name, value in state.items()}
    return arrays, values


def unpack(arrays, values):
    """The state again; ValueError if it is not one."""
    arrays = dict(arrays)
    try:
        state = {name: _unpacked(value, arrays) for name, value in values.items()}
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"its values are of no known kind ({error!r}).") from None
    if arrays:
        raise ValueError(f"it says nothing of the array {min(arrays)!r}.")
    return state


def check(state, prepared, parameters):
    """An error if a fitted state has parts that kernels must not be given.

    prepared : of the decoder, or None
    parameters : their names
    """
    unknown = state.keys() - _FITTED - set(parameters)
    if unknown:
        raise ValueError(f"it says what {min(unknown)!r} is, which is not known.")
    table, K = state["bucket_table_"], state["classes_"].size
    several, d = state["_several"], state["n_features_in_"]
    _demand(
        table.dtype in (np.uint8, np.uint16, np.uint32)
        and table.ndim == 2
        and table.flags.c_contiguous
        and table.shape[0] == K > 0
        and table.shape[1] == state["n_repetitions_"] > 0
        and type(state["n_buckets_"]) is int
        and table.max() < state["n_buckets_"],
        "bucket_table_",
    )
    _demand(state["classes_"].ndim == 1, "classes_")
    _demand(type(d) is int and d > 0, "n_features_in_")
    kind, *fields = state["_storage"]
    _demand(kind in STORAGES, "_storage")
    n_columns = table.shape[1] * state["n_buckets_"]
    STORAGES[kind](*fields).check(d, n_columns)
    _demand(state["_link"] in LINKS, "_link")
    _demand(type(several) is bool, "_several")
    form = state["_label_format"]
    known = several and form[0] in _FORMATS and _dtype(form[1], "biuf") is not None
    _demand(known or (form is None and not several), "_label_format")
    for name, dtype, shape in (
        ("_offset", np.float32, (K,)),
        ("_scalars", np.float64, (4,) if several else (3,)),
        ("_class_weights", None, (K,)),
        ("feature_names_in_", object, (d,)),
    ):
        array = state.get(name)
        if array is not None:
            is_sound = array.shape == shape and dtype in (None, array.dtype)
            _demand(is_sound and array.dtype.kind in "iufO", name)
    seen = state.get("_seen")
    if seen is not None:
        _demand(seen.frequency.shape == seen.squares.shape == (d,), "_seen")
    for X, (starts, classes, _), weight in state.get("_waiting") or []:
        _demand(
            X.shape == (weight.size, d)
            and starts.shape == (weight.size + 1,)
            and starts[0] == 0
            and (starts[:-1] <= starts[1:]).all()
            and classes.shape == (starts[-1],)
            and starts.dtype == np.int64
            and classes.dtype.kind in "iu"
            and ((classes >= 0) & (classes < K)).all(),
            "_waiting",
        )
    if prepared is not None:
        bounds, levels, codes = prepared
        shape = -(-K // LANES), table.shape[1] + 1, LANES
        _demand(
            (codes.dtype, codes.shape) == (np.uint8, shape)
            and (bounds.dtype, bounds.shape) == (np.float64, (3,))
            and levels.dtype == np.uint8
            and levels.shape == (K if state["_offset"] is not None else 0,)
            and (levels < LEVELS).all(),
            "_prepared",
        )


def _demand(is_sound, name):
    if not is_sound:
        raise ValueError(f"its {name} is not that of a model.")


def _packed(value, name, arrays):
    if value is None or isinstance(value, bool | int | str):
        if isinstance(value, int) and abs(value) >= 2**63:
            return ["int", str(value)]
        return str(value) if isinstance(value, str) else value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return ["scalar", value.dtype.str, _packed(value.item(), name, arrays)]
    if isinstance(value, float):
        return value if math.isfinite(value) else ["float", str(value)]
    if isinstance(value, np.dtype):
        return ["dtype", value.str]
    if isinstance(value, np.random.RandomState):
        return ["RandomState", _packed(value.get_state(legacy=False), name, arrays)]
    if isinstance(value, np.ndarray):
        return _packed_array(value, name, arrays)
    if sp.issparse(value) and type(value).__name__ in _SPARSE:
        parts = value.data, value.indices, value.indptr, value.shape
        return [type(value).__name__, *_all_packed(parts, name, arrays)]
    if type(value).__name__ in _RECORDS:
        return [type(value).__name__, *_all_packed(value, name, arrays)]
    if type(value) in (list, tuple):
        return [type(value).__name__, *_all_packed(value, name, arrays)]
    if type(value) is dict:
        parts = [part for pair in value.items() for part in pair]
        return ["dict", *_all_packed(parts, name, arrays)]
    raise TypeError(
        f"{name} of this model is {value!r}, of the type {type(value).__name__}, which "
        "a file of plain values cannot hold. Use joblib.dump or pickle, or skops.io "
        "for files that run no code."
    )


def _all_packed(values, name, arrays):
    return [_packed(value, f"{name}.{i}", arrays) for i, value in enumerate(values)]


def _packed_array(array, name, arrays):
    """Strings are stored as the numbers of their characters, dates as numbers."""
    kind, dtype = "array", array.dtype
    if dtype.kind == "O" and all(type(label) is str for label in array.flat):
        text = array.astype(str)
        if not np.array_equal(text.astype(object), array):
            raise TypeError(
                f"{name} of this model has strings that end with a null character, "
                "which a file cannot hold. Use joblib.dump, pickle or skops.io."
            )
        kind, array = "objects", text
    if array.dtype.kind == "U":
        shape, width = array.shape, array.dtype.itemsize // 4
        native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        codes = native.reshape(-1).view(np.uint32).reshape(*shape, width)
        narrow = np.min_scalar_type(codes.max(initial=0))
        arrays[name] = codes.astype(max(narrow, np.dtype(np.uint8), key=_itemsize))
        return ["objects" if kind == "objects" else "strings", name]
    if dtype.kind in "mM":
        arrays[name] = array.view(np.int64)
        return ["dates", name, dtype.str]
    if not is_storable(array):
        raise TypeError(
            f"{name} of this model is an array of the type {dtype}, which a file of "
            "plain values cannot hold. Use joblib.dump or pickle."
        )
    arrays[name] = array
    return ["array", name]


def _itemsize(dtype):
    return dtype.itemsize


def _unpacked(value, arrays):
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind, *parts = value
    if kind == "array":
        return arrays.pop(parts[0])
    if kind in ("strings", "objects"):
        codes = arrays.pop(parts[0])
        text = codes.astype(np.uint32).view(f"U{codes.shape[-1]}")[..., 0]
        return text.astype(object) if kind == "objects" else text
    if kind == "dates":
        return arrays.pop(parts[0]).view(_dtype(parts[1], "mM"))
    if kind == "dtype":
        return _dtype(parts[0], "biufOUmMS")
    if kind == "scalar":
        return _dtype(parts[0], "biuf").type(_unpacked(parts[1], arrays))
    if kind == "float":
        return float(parts[0])
    if kind == "int":
        return int(parts[0])
    parts = [_unpacked(part, arrays) for part in parts]
    if kind == "list":
        return parts
    if kind == "tuple":
        return tuple(parts)
    if kind == "dict":
        return dict(zip(parts[::2], parts[1::2], strict=True))
    if kind in _RECORDS:
        return _RECORDS[kind](*parts)
    if kind in _SPARSE:
        *of_matrix, shape = parts
        matrix = _SPARSE[kind](tuple(of_matrix), shape=shape)
        matrix.check_format()
        return matrix
    if kind == "RandomState":
        state = np.random.RandomState()
        state.set_state(*parts)
        return state
    raise ValueError(f"it has a value of the kind {kind!r}, which is not known.")


def _dtype(name, kinds):
    dtype = np.dtype(name)
    if dtype.kind not in kinds or dtype.hasobject != (dtype.kind == "O"):
        raise ValueError(f"it has an array of the type {name!r}, which is not known.")
    return dtype
