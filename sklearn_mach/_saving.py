"""Models in files: what `save` writes, and what `load` believes.

A file may come from anywhere. Kernels look neither at the shapes of arrays nor at the
buckets in a table, so that all which could lead one out of bounds is checked here.
"""

import re
from numbers import Integral, Real

import numpy as np
import scipy.sparse as sp

from ._dense import Metric
from ._files import read, write, written_bytes
from ._lanes import LANES, has_lookup
from ._losses import LINKS
from ._plain import decode, encode
from ._states import OF_MEMORY, OF_MODEL, flatten, restore
from ._steps import Seen
from ._topk import LEVELS, Prepared
from ._weights import STORAGES

_LIGHT_BYTES = 100_000_000  # of weights, whose checksum takes 0.03 to 0.1 s
_OTHER_STORAGE = 2048  # bytes that the names of another one may take in a header
_CALLBACKS = (
    *("_skl_callbacks", "_skl_callbacks_to_teardown"),
    *("_callback_fit_ctx", "_parent_callback_ctx"),
)
_REQUIRED = {*OF_MODEL, "classes_", "device_", "n_features_in_", "n_repetitions_"}
_REQUIRED |= {"n_iter_", "_class_weights", "_link"}
_OPTIONAL = {*OF_MEMORY, "feature_names_in_", "_label_format", "_share"}
_LATER = {"checkpoint", "part"}  # parameters that files of version 1 lack
_NOT_SAVED = (
    "{}, which a file of arrays and plain values cannot hold. Use joblib.dump, pickle "
    "or skops.io.dump"
)
_FORMATS = "ndarray", "csr_array", "csr_matrix"  # of `_inputs.format_of`


def save(path, attributes, parameters):
    """Write the attributes of a fitted classifier with these names of parameters."""
    arrays, values = _flat(attributes, parameters)
    write(path, arrays, values)


def saved_bytes(attributes):
    """Bytes of a file of a classifier's attributes without the arrays of its weights.

    An upper bound, by 2 KB or less, with any storage of the weights.
    """
    arrays, values = _flat(attributes)
    weights = sum(arrays[name].nbytes for name in _of_storage(arrays))
    return written_bytes(arrays, values) - weights + _OTHER_STORAGE


def _of_storage(arrays):
    return {name for name in arrays if name.startswith("storage.")}


def _flat(attributes, parameters=None):
    """Arrays by name, and values for JSON."""
    state = flatten(attributes)
    state = {name: v for name, v in state.items() if name not in _CALLBACKS}
    if state.get("estimator") is not None or "_storage" not in state:
        raise TypeError(
            f"save is for models of the built-in learner, and estimator is "
            f"{state.get('estimator')!r}. Use joblib.dump, pickle or skops.io.dump for "
            "models with a base estimator."
        )
    kind, *fields = state.pop("_storage")
    names = STORAGES[kind]._fields
    arrays, storage = {}, {}
    for name, value in zip(names, fields, strict=True):
        storage[name] = value
        if isinstance(value, np.ndarray):  # in C order in the file, as kernels are fast
            storage[name] = ["array", f"storage.{name}"]
            arrays[f"storage.{name}"] = value
    if parameters is not None:
        known = {*parameters, *_REQUIRED, *_OPTIONAL}
        for name in state.keys() - known:
            raise TypeError(_NOT_SAVED.format(f"The model has the attribute {name}"))
    nodes = {}
    for name, value in state.items():
        try:
            nodes[name] = encode(value, name, arrays)
        except TypeError as error:
            raise TypeError(_NOT_SAVED.format(error)) from error
    values = {"state": nodes, "storage": [kind, storage], "prepared": None}
    prepared = attributes["_fitted"].model._prepared
    if prepared.codes.size:
        arrays |= {f"prepared.{k}": v for k, v in prepared._asdict().items()}
        values["prepared"] = [["array", f"prepared.{k}"] for k in prepared._fields]
    return arrays, values


def load_attributes(path, parameters, mmap, verify):
    """Attributes of the classifier in a file, with these names of parameters."""
    try:
        content = read(path, mmap)
        arrays = dict(content.arrays)
        weights = _of_storage(arrays)
        if verify is None:
            n_bytes = sum(arrays[name].nbytes for name in weights)
            verify = not mmap or n_bytes <= _LIGHT_BYTES
        content.verify(name for name in arrays if verify or name not in weights)
        return _attributes(content.values, arrays, parameters)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be loaded: {error}.") from error


def _attributes(values, arrays, parameters):
    """Attributes from values and arrays that anybody may have made up."""
    _expect(
        isinstance(values, dict)
        and values.keys() == {"state", "storage", "prepared"}
        and isinstance(values["state"], dict),
        "it does not hold a state, a storage and what is prepared",
    )
    names, needed = values["state"].keys(), {*parameters, *_REQUIRED}
    unknown, missing = names - needed - _OPTIONAL, needed - names - _LATER
    _expect(not unknown, f"it holds {sorted(unknown)}, which no model has")
    _expect(not missing, f"it lacks {sorted(missing)}")
    storage = _storage(values["storage"], arrays)
    state = {name: decode(node, arrays) for name, node in values["state"].items()}
    prepared = values["prepared"]
    if prepared is not None:
        _expect(isinstance(prepared, list) and len(prepared) == 3, "of 3 is prepared")
        prepared = Prepared(*(decode(node, arrays) for node in prepared))
    _expect(not arrays, f"nothing belongs to its arrays {sorted(arrays)}")
    _check_model(state, storage)
    _check_memory(state)
    _check_share(state)
    kind = values["storage"][0]
    attributes = restore(state | {"_storage": (kind, *storage)})
    if prepared is not None:
        model = attributes["_fitted"].model
        _check_prepared(prepared, model)
        if has_lookup():
            model.use_prepared(prepared)
    return attributes


def _expect(is_true, otherwise):
    if not is_true:
        raise ValueError(otherwise)


def _is_array(value, kinds, *shape):
    """Whether it is an array of this shape and of such dtypes: "iu", or one as "f4"."""
    if not (isinstance(value, np.ndarray) and value.shape == shape):
        return False
    return value.dtype.kind in kinds if kinds.isalpha() else value.dtype == kinds


def _is_int(value, least):
    return isinstance(value, Integral) and type(value) is not bool and value >= least


def _storage(node, arrays):
    """The storage of the weights: arrays and integers by the names of its fields."""
    kind, fields = node if isinstance(node, list) and len(node) == 2 else (None, None)
    _expect(
        isinstance(kind, str) and kind in STORAGES,
        f"its weights are stored as {kind!r}, which is not among {sorted(STORAGES)}",
    )
    names = STORAGES[kind]._fields
    _expect(
        isinstance(fields, dict) and fields.keys() == set(names),
        f"the fields of its weights are not {', '.join(names)}",
    )
    values = [decode(fields[name], arrays) for name in names]
    for name, value in zip(names, values, strict=True):
        is_known = isinstance(value, np.ndarray) or type(value) is int
        _expect(is_known, f"{name} of its weights is {value!r}")
    return STORAGES[kind](*values)


def _check_model(state, storage):
    """Refuse what no fit makes, as far as a prediction could run out of bounds."""
    sizes = [state[n] for n in ("n_features_in_", "n_repetitions_", "n_buckets_")]
    _expect(all(_is_int(n, 1) for n in sizes), f"its sizes d, R, B are {sizes}")
    d, R, B = map(int, sizes)
    classes, table = state["classes_"], state["bucket_table_"]
    is_list = isinstance(classes, np.ndarray) and classes.ndim == 1
    _expect(is_list and 0 < classes.size < 2**31, "classes_ is no array of labels")
    K = classes.size
    _expect(
        _is_array(table, "u", K, R)
        and table.itemsize <= 4
        and table.flags.c_contiguous,
        f"bucket_table_ is no array of unsigned integers of shape {(K, R)}",
    )
    _expect(table.max() < B, f"bucket_table_ has buckets beyond the {B} there are")
    intercepts = storage.intercepts
    _expect(
        _is_array(intercepts, "f4", R * B), f"the intercepts are not float32 ({R * B},)"
    )
    storage.check(d, R * B)
    names = state.get("feature_names_in_")
    if names is not None:
        _expect(_is_array(names, "O", d), f"feature_names_in_ are not {d} names")

    _expect(state["estimator"] is None, "it has an estimator")
    _expect(_is_int(state["n_iter_"], 0), f"n_iter_ is {state['n_iter_']!r}")
    _expect(isinstance(state["device_"], str), f"device_ is {state['device_']!r}")
    link, several = state["_link"], state["_several"]
    is_link = isinstance(link, str) and link in LINKS
    _expect(is_link, f"_link is {link!r}, which is not among {list(LINKS)}")
    _expect(type(several) is bool, f"_several is {several!r}")
    for name in ("_chance", "logit_adjustment_"):
        _expect(isinstance(state[name], Real), f"{name} is {state[name]!r}")
    offset, scalars = state["_offset"], state["_scalars"]
    is_offset = _is_array(offset, "f4", K) and not np.isnan(offset).any()
    _expect(offset is None or is_offset, f"_offset is not float32 ({K},)")
    n_scalars = 4 if several else 3
    is_scalars = scalars is None or _is_array(scalars, "f8", n_scalars)
    _expect(is_scalars, f"_scalars are not {n_scalars} numbers")
    sums = state["_class_weights"]
    _expect(sums is None or _is_array(sums, "iuf", K), f"_class_weights is not ({K},)")
    _check_label_format(state.get("_label_format"), several)


def _check_label_format(label_format, several):
    """A kind of arrays and a dtype, which `predict` of several labels makes."""
    is_pair = isinstance(label_format, tuple) and len(label_format) == 2
    is_sound = label_format is None
    if several:
        is_sound = is_pair and label_format[0] in _FORMATS
        dtype = label_format[1] if is_sound else None
        is_sound = isinstance(dtype, str) and re.match(r"[<|][biuf][1248]\Z", dtype)
    _expect(is_sound, f"_label_format is {label_format!r}")


def _check_memory(state):
    """Refuse what no fit makes of that with which `partial_fit` goes on."""
    present = OF_MEMORY.keys() & state.keys()
    if not present:
        return
    lacking = sorted(OF_MEMORY.keys() - present)
    _expect(not lacking, f"it lacks {lacking}")
    d, K = state["n_features_in_"], state["classes_"].size
    for name in ("t_", "_order_seed"):
        _expect(_is_int(state[name], 0), f"{name} is {state[name]!r}")
    factor, seen = state["_factor"], state["_seen"]
    is_factor = factor is None or isinstance(factor, Real)
    _expect(is_factor, f"_factor is {factor!r}")
    _expect(seen is None or _is_seen(seen, d), "_seen is not of its features")
    waiting = state["_waiting"]
    is_sound = isinstance(waiting, list) and all(
        _is_block(block, d, K, state["_several"]) for block in waiting
    )
    _expect(is_sound, "_waiting is no list of rows")


def _check_share(state):
    """Refuse what no fit makes of a share of its repetitions."""
    share = state.get("_share")
    if share is None:
        return
    is_share = isinstance(share, tuple) and len(share) == 5
    *sizes, own, order_seed, rows = share if is_share else [None] * 5
    _expect(
        all(_is_int(n, 1) for n in sizes) and _is_int(order_seed, 0),
        f"_share has the sizes {sizes} and the seed {order_seed!r}",
    )
    _expect(
        _is_array(own, "i", state["n_repetitions_"])
        and own[0] >= 0
        and own[-1] < sizes[1]
        and bool((np.diff(own) > 0).all()),
        f"_share holds no numbers of {sizes[1]} repetitions",
    )
    sizes = state["n_features_in_"], state["classes_"].size, state["_several"]
    is_sound = rows is None or (_is_block(rows, *sizes) and rows[0].shape[0] > 0)
    _expect(is_sound, "_share has no rows of its features and classes")


def _is_seen(seen, d):
    if not isinstance(seen, Seen):
        return False
    *sums, frequency, squares, metric = seen
    is_metric = metric is None
    if isinstance(metric, Metric):
        center, matrix, directions, factors = metric
        k = factors.size if isinstance(factors, np.ndarray) else 0
        is_metric = _is_array(center, "f", d) and (
            _is_array(matrix, "f", d, d)
            if matrix is not None
            else _is_array(directions, "f", d, k) and _is_array(factors, "f", k)
        )
    return (
        is_metric
        and all(isinstance(value, Real) for value in sums)
        and _is_array(frequency, "f8", d)
        and _is_array(squares, "f8", d)
    )


def _is_block(block, d, K, several):
    """Whether it has rows, the starts and numbers of their classes, and weights."""
    if not (isinstance(block, tuple) and len(block) == 3):
        return False
    X, targets, weight = block
    values = X.data if sp.issparse(X) else X
    is_rows = isinstance(values, np.ndarray) and values.dtype.kind == "f"
    if not (is_rows and X.ndim == 2 and X.shape[1] == d and np.isfinite(values).all()):
        return False
    if not (isinstance(targets, tuple) and len(targets) == 3):
        return False
    starts, classes, has_several = targets
    n = X.shape[0]
    return (
        _is_array(weight, "f", n)
        and bool((np.isfinite(weight) & (weight >= 0)).all())
        and _is_array(starts, "i8", n + 1)
        and isinstance(classes, np.ndarray)
        and _is_array(classes, "i4", classes.size)
        and starts[0] == 0
        and starts[-1] == classes.size
        and bool((np.diff(starts) >= 0).all())
        and bool(((classes >= 0) & (classes < K)).all())
        and has_several is several
        and (several or bool((np.diff(starts) == 1).all()))
    )


def _check_prepared(prepared, model):
    """Refuse levels out of range, and arrays that do not fit the table."""
    bounds, levels, codes = prepared
    K, R = model.table.shape
    n_levels = 0 if model.offset is None else K
    _expect(
        _is_array(bounds, "f8", 3)
        and _is_array(levels, "u1", n_levels)
        and levels.max(initial=0) < LEVELS
        and model.n_buckets <= LANES
        and _is_array(codes, "u1", -(-K // LANES), R + 1, LANES)
        and codes.flags.c_contiguous,
        "what is prepared for the decoder does not fit its table",
    )
