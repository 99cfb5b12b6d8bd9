"""Values of Python and NumPy as JSON and named arrays, and back.

A node of JSON is null, a truth value, a finite number, a string, or a list that begins
with the name of a kind. There are no other kinds than those here, and none of them
calls what a file names.
"""

import math
import os
import re
import reprlib

import numpy as np
import scipy.sparse as sp

from ._dense import Metric
from ._files import TYPES
from ._steps import Seen

_RECORDS = {"Seen": Seen, "Metric": Metric}
_SPARSE = {"csr_array": sp.csr_array, "csr_matrix": sp.csr_matrix}
_FLOATS = {text: float(text) for text in ("nan", "inf", "-inf")}
_NUMBERS = re.compile(r"(\|[biu]1|<[iuf][248])\Z")
_DATES = re.compile(r"<[mM]8(\[\d{0,9}[a-zA-Zμ]{1,7}\])?\Z")
_LARGEST_POINT = 0x10FFFF  # of Unicode
_KEY_SIZE = 624  # of the Mersenne twister


def encode(value, name, arrays):
    """A node for the value of an attribute; its arrays go to the dictionary `arrays`.

    TypeError for what has no node.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else ["float", repr(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return _encode_scalar(value, name)
    if isinstance(value, np.ndarray):
        return _encode_array(value, name, arrays)

    def parts(values, names=None):
        names = range(len(values)) if names is None else names
        pairs = zip(values, names, strict=True)
        return [encode(part, f"{name}.{key}", arrays) for part, key in pairs]

    if type(value) in (list, tuple):
        return [type(value).__name__, parts(value)]
    if isinstance(value, dict):
        return ["dict", parts(list(value)), parts(list(value.values()))]
    for kind, record in _RECORDS.items():
        if type(value) is record:
            return [kind, parts(value, record._fields)]
    for kind, matrix in _SPARSE.items():
        if type(value) is matrix:
            names = "data", "indices", "indptr"
            fields = [getattr(value, field) for field in names]
            return [kind, list(value.shape), parts(fields, names)]
    if isinstance(value, np.random.RandomState):
        state = value.get_state(legacy=False)
        if state["bit_generator"] == "MT19937":
            node = encode(state["state"]["key"], name, arrays)
            place = int(state["state"]["pos"])
            return ["RandomState", node, place, state["has_gauss"], state["gauss"]]
    raise TypeError(f"{name} holds {_described(value)}")


def _described(value):
    return f"{reprlib.repr(value)}, of type {type(value).__name__}"


def _encode_scalar(value, name):
    if isinstance(value, np.str_):
        return ["string", str(value)]
    dtype = value.dtype.newbyteorder("<").str
    if _DATES.match(dtype):
        return ["date", dtype, int(value.astype(np.int64))]
    if not _NUMBERS.match(dtype):
        raise TypeError(f"{name} holds {_described(value)}")
    return ["number", dtype, encode(value.item(), name, None)]


def _encode_array(value, name, arrays):
    dtype = value.dtype.newbyteorder("<")
    if dtype in TYPES:
        # products of matrices may round otherwise where these lie in another order
        is_turned = value.flags.f_contiguous and not value.flags.c_contiguous
        arrays[name] = value.T if is_turned else value
        return ["transposed" if is_turned else "array", name]
    if _DATES.match(dtype.str):
        arrays[name] = np.ascontiguousarray(value, dtype).view(np.int64)
        return ["dates", name, dtype.str]
    is_object = dtype.kind == "O"
    if value.ndim != 1 or not value.size or not (is_object or dtype.kind == "U"):
        raise TypeError(f"{name} holds an array of {value.dtype}, shape {value.shape}")
    if is_object:
        for one in value:
            if not isinstance(one, str):
                raise TypeError(f"{name} holds objects such as {_described(one)}")
    texts = np.ascontiguousarray(value, f"<U{max(max(map(len, value)), 1)}")
    if is_object and not np.array_equal(texts, value):
        raise TypeError(f"{name} holds strings that end in the character NUL")
    points = texts.view(np.uint32).reshape(texts.size, -1)
    arrays[name] = points.astype(np.min_scalar_type(points.max()))
    return ["objects" if is_object else "strings", name]


def decode(node, arrays):
    """The value of a node; its arrays are taken out of the dictionary `arrays`.

    ValueError for what `encode` cannot have made.
    """
    if node is None or type(node) in (bool, int, float, str):
        return node
    kind, *parts = node if isinstance(node, list) and node else [None]
    if not isinstance(kind, str) or kind not in _DECODERS:
        raise ValueError(f"{_described(node)} is no value of a known kind")
    try:
        return _DECODERS[kind](kind, arrays, *parts)
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"{_described(node)} cannot be read: {error!r}") from error


def _nodes(nodes, arrays):
    if not isinstance(nodes, list):
        raise TypeError("a list is missing")
    return [decode(node, arrays) for node in nodes]


def _decode_dict(_, arrays, keys, values):
    keys, values = _nodes(keys, arrays), _nodes(values, arrays)
    return dict(zip(keys, values, strict=True))


def _decode_record(kind, arrays, parts):
    return _RECORDS[kind](*_nodes(parts, arrays))


def _decode_number(_, arrays, dtype, node):
    if not _NUMBERS.match(dtype):
        raise ValueError(f"{dtype!r} is no dtype of numbers")
    value = decode(node, arrays)
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    with np.errstate(over="ignore"):
        return np.dtype(dtype).type(value)


def _date_type(dtype):
    if not _DATES.match(dtype):
        raise ValueError(f"{dtype!r} is no dtype of dates")
    return np.dtype(dtype)


def _decode_text(kind, arrays, name):
    points = arrays.pop(name)
    if points.ndim != 2 or not points.size or points.dtype.kind != "u":
        raise ValueError(f"array {name!r} holds no strings")
    if points.max() > _LARGEST_POINT or points.shape[1] >= 2**29:
        raise ValueError(f"array {name!r} holds characters that do not exist")
    texts = np.ascontiguousarray(points, np.uint32)
    texts = texts.view(f"<U{points.shape[1]}").reshape(-1)
    return texts.astype(object) if kind == "objects" else texts


def _decode_sparse(kind, arrays, shape, parts):
    data, indices, indptr = _nodes(parts, arrays)
    if not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise ValueError(f"a matrix has the shape {shape!r}")
    n_rows, _ = shape
    is_sound = (
        all(isinstance(part, np.ndarray) and part.ndim == 1 for part in (data, indptr))
        and data.dtype.kind in "biuf"
        and isinstance(indices, np.ndarray)
        and indices.shape == data.shape
        and indices.dtype == indptr.dtype
        and indices.dtype in (np.int32, np.int64)
        and indptr.size == n_rows + 1
        and indptr[0] == 0
        and indptr[-1] == data.size
    )
    if not is_sound:
        raise ValueError("the arrays of a sparse matrix do not belong together")
    X = _SPARSE[kind]((data, indices, indptr), shape=tuple(shape))
    X.check_format(full_check=True)
    if not X.has_canonical_format:
        raise ValueError("the columns of a sparse matrix are not sorted and distinct")
    return X


def _decode_random_state(_, arrays, node, place, has_gauss, gauss):
    key = decode(node, arrays)
    is_key = isinstance(key, np.ndarray) and key.shape == (_KEY_SIZE,)
    is_place = type(place) is int and 0 <= place <= _KEY_SIZE
    if not (is_key and key.dtype == np.uint32 and is_place and has_gauss in (0, 1)):
        raise ValueError("the state of a RandomState is none")
    state = np.random.RandomState()
    state.set_state(("MT19937", key, place, has_gauss, float(gauss)))
    return state


_DECODERS = {
    "float": lambda _, arrays, text: _FLOATS[text],
    "string": lambda _, arrays, text: np.str_(text),
    "number": _decode_number,
    "date": lambda _, arrays, dtype, n: np.int64(n).view(_date_type(dtype)),
    "array": lambda _, arrays, name: arrays.pop(name),
    "transposed": lambda _, arrays, name: arrays.pop(name).T,
    "dates": lambda _, arrays, name, dtype: arrays.pop(name).view(_date_type(dtype)),
    "strings": _decode_text,
    "objects": _decode_text,
    "list": lambda _, arrays, parts: _nodes(parts, arrays),
    "tuple": lambda _, arrays, parts: tuple(_nodes(parts, arrays)),
    "dict": _decode_dict,
    **dict.fromkeys(_RECORDS, _decode_record),
    **dict.fromkeys(_SPARSE, _decode_sparse),
    "RandomState": _decode_random_state,
}
