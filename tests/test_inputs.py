"""Rows, labels and weights: what is refused, and the forms that are taken."""

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import assert_same_model, mapped, needs_compilation, peak_of
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from sklearn_mach import (
    MACHClassifier,
    _dense,
    _inputs,
    _logits,
    _model,
    _softmax,
    _training,
    _trial,
)

# Bad input --------------------------------------------------------------------------


def bad(X, y, what):
    """X and y with one thing wrong."""
    X, y = X.copy(), y.copy()
    if what == "NaN":
        X[3, 2] = np.nan
    elif what == "infinity":
        X[3, 2] = -np.inf
    elif what == "complex":
        X = X + 1j
    elif what == "no rows":
        X, y = X[:0], y[:0]
    elif what == "no columns":
        X = X[:, :0]
    elif what == "lengths":
        y = y[:-1]
    elif what == "one dimension":
        X = X[:, 0]
    elif what == "three dimensions":
        X = X[:, :, None]
    elif what == "dates":
        X = np.datetime64("2020-01-01") + (10 * X).astype(int)
    elif what == "durations in a frame":
        X = pd.DataFrame({"x": X[:, 0], "when": pd.to_timedelta(y, unit="D")})
    elif what == "strings in a frame":
        X = pd.DataFrame({"x": X[:, 0], "name": "red"})
    elif what == "multi-output":
        y = np.column_stack([y, y])
    elif what == "NaN label":
        y = np.where(y == 2, np.nan, y)
    elif what == "infinite label":
        y = np.where(y == 2, np.inf, y)
    elif what == "None label":
        y = np.where(y == 2, None, y.astype(object))
    elif what == "None among strings":
        y = np.where(y == 2, None, y.astype(str).astype(object))
    elif what == "NaN among strings":
        y = np.where(y == 2, np.nan, y.astype(str).astype(object))
    elif what == "NaN among objects":
        y = np.where(y == 2, np.nan, y.astype(object))
    elif what == "NaT":
        y = np.where(y == 2, np.datetime64("NaT"), np.datetime64("2020-01-01") + y)
    elif what == "NaT in a series":
        y = pd.Series(np.datetime64("2020-01-01") + y).mask(y == 2)
    elif what == "NA":
        y = pd.Series(y.astype(str), dtype="string").where(y != 2)
    elif what == "NA among numbers":
        y = pd.Series(y, dtype="Int64").where(y != 2)
    elif what == "NA among objects":
        y = np.where(y == 2, pd.NA, y.astype(str).astype(object))
    elif what == "mixed":
        y = np.where(y == 2, "two", y.astype(object))
    elif what == "continuous":
        y = y + 0.5
    elif what == "StringDType":
        y = y.astype(np.dtypes.StringDType())
    elif what == "a string":
        y = "abc"
    elif what == "no y":
        y = None
    return X, y


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("NaN", "Input X contains NaN"),
        ("infinity", "Input X contains infinity"),
        ("complex", "Complex data not supported"),
        ("no rows", r"Found array with 0 sample\(s\)"),
        ("no columns", r"(0 feature\(s\)|at least one feature)"),
        ("lengths", "inconsistent numbers of samples"),
        ("one dimension", "Expected 2D array, got 1D array"),
        ("three dimensions", "dim 3|3D|3 dim"),
        ("dates", r"X holds dates .* dtype datetime64\[D\]. Convert them to numbers"),
        ("durations in a frame", "X holds dates or durations, of dtype timedelta64"),
        ("strings in a frame", "X holds strings .*'red'.*OneHotEncoder"),
        ("multi-output", r"y has shape \(60, 2\) and holds .* must be an indicator"),
        ("NaN label", "Input y contains NaN"),
        ("infinite label", "Input y contains infinity"),
        ("None label", "y .*missing values"),
        ("None among strings", "y .*missing values"),
        ("NaN among strings", "NaN|missing values"),
        ("NaN among objects", "NaN|missing values"),
        ("NaT", "y contains missing values .*NaT"),
        ("NaT in a series", "y contains missing values .*NaT"),
        ("NA", "y .*(NaN|missing values)"),
        ("NA among numbers", "y .*(NaN|missing values)"),
        ("NA among objects", "y .*(NaN|missing values)"),
        ("mixed", "mixes labels|Unknown label type"),
        ("continuous", "Unknown label type: continuous"),
        ("StringDType", r"y has NumPy's StringDType.*Pass y.astype\(str\)"),
        ("a string", "y must be an array of labels, got 'abc'"),
        ("no y", "requires y to be passed"),
    ],
)
@pytest.mark.parametrize("base", [None, LogisticRegression()])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_data_is_refused(blobs, what, message, base, method):
    X, y = bad(*blobs(60, sparse=False), what)
    model = MACHClassifier(base, n_buckets=3)
    if method == "fit":
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
    elif base is None:
        with pytest.raises(ValueError, match=message):
            model.partial_fit(X, y, classes=range(6))
    assert not hasattr(model, "classes_")
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("factor", [1e-320, -1e-320, 1e160, -1e300])
def test_values_whose_squares_vanish_or_overflow_are_refused(blobs, sparse, factor):
    X, y = blobs(60, sparse=sparse)
    with pytest.raises(ValueError, match="largest value of X is .* Use other units"):
        MACHClassifier(n_buckets=3).fit(factor * abs(X), y)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], r"classes must be a list .* at least one; got shape \(0,\)"),
        (set(range(6)), "classes must be a list .* one dimension .*; got set"),
        ("abcdef", "classes must be an array of labels, got 'abcdef'"),
        (np.arange(6).reshape(2, 3), r"one dimension .*; got shape \(2, 3\)"),
        ([*range(6), np.nan], "Input classes contains NaN"),
        ([*range(6), np.inf], "Input classes contains infinity"),
        ([*range(6), None], "classes contains missing values"),
        ([*"abcdef", np.nan, None], "classes contains missing values"),
        (np.array(["2020-01-01", "NaT"], "M8[D]"), "classes contains missing .*NaT"),
        ([*range(6), "seven"], "not in classes"),
        (np.array([0, "one"], dtype=object), "classes mixes labels"),
        (np.array(["a", "b"], np.dtypes.StringDType()), "classes has .*StringDType"),
        (np.arange(6).astype("M8[D]"), "types that cannot be compared"),
    ],
)
def test_bad_classes_are_refused(blobs, classes, message):
    X, y = blobs(60)
    model = MACHClassifier(n_buckets=3)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, y, classes=classes)
    assert not hasattr(model, "classes_")


@pytest.mark.parametrize(
    "classes", [range(6), (5, 4, 3, 2, 1, 0, 0), pd.Series(range(6)), np.arange(6.0)]
)
def test_classes_may_come_in_any_list_and_order(blobs, classes):
    X, y = blobs(60)
    model = MACHClassifier(n_buckets=3).partial_fit(X, y, classes=classes)
    assert_array_equal(model.classes_, np.arange(6))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("base", [None, GaussianNB()])
@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "decision_function", "predict_topk"]
)
def test_bad_rows_are_refused_at_prediction(blobs, method, base, sparse):
    X, y = blobs(60, sparse=False)
    model = MACHClassifier(base, n_buckets=3, random_state=0)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(model, method)(X)
    predict = getattr(model.fit(X, y), method)
    if sparse:
        if base is not None:
            with pytest.raises(TypeError, match="[Ss]parse data was passed"):
                predict(sp.csr_matrix(X))
            return
        with pytest.raises(ValueError, match="X has 11 features, but .* 12 features"):
            predict(sp.csr_matrix(X[:, :11]))
        X = sp.csr_matrix(X)
        X.data[0] = np.nan
        with pytest.raises(ValueError, match="Input X contains NaN"):
            predict(X)
        return
    with pytest.raises(ValueError, match="X has 11 features, but .* 12 features"):
        predict(X[:, :11])
    for what, message in [
        ("NaN", "Input X contains NaN"),
        ("infinity", "Input X contains infinity"),
        ("complex", "Complex data not supported"),
        ("no rows", r"Found array with 0 sample\(s\)"),
        ("one dimension", "Expected 2D array, got 1D array"),
        ("dates", "X holds dates or durations"),
    ]:
        with pytest.raises(ValueError, match=message):
            predict(bad(X, y, what)[0])


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csr_array])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_to_predict_are_checked_however_plain_they_are(container, bad):
    rng = np.random.default_rng(0)
    X, y = rng.random((60, 5)), np.arange(60) % 6
    model = MACHClassifier(random_state=0, max_iter=1).fit(container(X), y)
    X[7, 2] = bad
    message = "NaN" if np.isnan(bad) else "infinity"
    with pytest.raises(ValueError, match=message):
        model.predict(container(X[7:8]))
    with pytest.raises(ValueError, match="expecting 5 features"):
        model.predict(container(X[:1, :4]))
    with pytest.raises(ValueError, match="0 sample"):
        model.predict(container(X[:0]))
    with pytest.raises(ValueError, match="1D|1d|2D"):
        model.predict(np.zeros(5))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_as_many_classes_as_rows_are_nothing_to_warn_of(method):
    # scikit-learn takes such labels for the targets of a regression.
    model = MACHClassifier(n_repetitions=3, n_buckets=5, max_iter=1, random_state=0)
    classes = {"classes": range(30)} if method == "partial_fit" else {}
    getattr(model, method)(np.eye(30), np.arange(30), **classes)
    assert model.classes_.size == 30


@pytest.mark.parametrize("dtype", [int, float, str, object])
def test_labels_are_checked_without_filters_of_warnings(dtype, monkeypatch):
    # They belong to the whole process: fits in several threads would leave others.
    monkeypatch.setattr(_inputs, "warnings", None, raising=False)
    y = np.arange(30).astype(str if dtype is object else dtype).astype(dtype)
    how = {"in_float32": True, "reset": True}
    checked = _inputs.check_rows(MACHClassifier(), np.eye(30), y, **how)[1]
    assert_array_equal(checked, y)
    if dtype is float:
        with pytest.raises(ValueError, match="continuous"):
            _inputs.check_rows(MACHClassifier(), np.eye(30), y + 0.5, **how)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(60), "[Zz]ero.*weight|weight.*zero"),
        (-np.ones(60), "Negative values in data passed to `sample_weight`"),
        (np.ones(59), "sample_weight.shape"),
        (np.full(60, np.nan), "sample_weight contains NaN"),
        (np.ones((60, 1)), "Sample weights must be 1D"),
    ],
)
@pytest.mark.parametrize("base", [None, LogisticRegression()])
def test_bad_weights_are_refused(blobs, weight, message, base):
    X, y = blobs(60)
    with pytest.raises(ValueError, match=message):
        MACHClassifier(base).fit(X, y, sample_weight=weight)


def test_class_weights_that_are_all_zero_are_refused(blobs):
    X, y = blobs(60)
    model = MACHClassifier(class_weight=dict.fromkeys(range(6), 0.0))
    with pytest.raises(ValueError, match="[Zz]ero.*weight|weight.*zero"):
        model.fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "fit", "cause"),
    [
        ({}, {"sample_weight": np.ones(60)}, "sample_weight"),
        ({"class_weight": {0: 2.0}}, {}, "class_weight"),
    ],
)
def test_weights_for_a_base_that_takes_none_are_refused(blobs, parameters, fit, cause):
    X, y = blobs(60)
    model = MACHClassifier(KNeighborsClassifier(), **parameters)
    with pytest.raises(ValueError, match=f"{cause} was passed.*takes no sample_weight"):
        model.fit(X, y, **fit)


# Forms of input ---------------------------------------------------------------------


def int64_indices(X):
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def unsorted_indices(X):
    for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        X.indices[start:stop] = X.indices[start:stop][::-1].copy()
        X.data[start:stop] = X.data[start:stop][::-1].copy()
    X.has_sorted_indices = False
    return X


def duplicate_indices(X):
    halves = np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), X.indptr * 2
    return type(X)(halves, shape=X.shape)


def read_only(X):
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = False
    return X


def room_for_more(X):
    X.data = np.append(X.data, [7.0, 7.0])
    X.indices = np.append(X.indices, np.array([3, 1 << 20], np.int32))
    return X


@pytest.mark.parametrize("base", [None, SGDClassifier(loss="log_loss")])
@pytest.mark.parametrize(
    "change",
    [
        room_for_more,
        int64_indices,
        unsorted_indices,
        duplicate_indices,
        read_only,
        sp.csc_matrix,
        sp.csr_array,
        sp.coo_array,
    ],
)
def test_every_form_of_sparse_rows_gives_the_same(blobs, base, change):
    X, y = blobs(90, 8, 9)
    X.data[::3] = 0
    X.eliminate_zeros()
    model = MACHClassifier(base, n_repetitions=3, n_buckets=4, random_state=0)
    expected = model.fit(X, y).decision_function(X)
    other = change(X.copy())
    before = pickle.loads(pickle.dumps(other))
    assert_array_equal(model.decision_function(other), expected)
    assert_array_equal(model.predict_topk(other, k=9), model.predict_topk(X, k=9))
    assert_array_equal(model.fit(other, y).decision_function(X), expected)
    if base is None:
        model.partial_fit(other, y)
    assert type(other) is type(before)
    for name in ("data", "indices", "indptr"):
        if hasattr(before, name):
            assert_array_equal(getattr(other, name), getattr(before, name))
            assert getattr(other, name).dtype == getattr(before, name).dtype


@pytest.mark.parametrize("base", [None, LogisticRegression()])
@pytest.mark.parametrize("form", ["read-only", "Fortran", "strided", "list"])
def test_every_form_of_dense_rows_gives_the_same(blobs, base, form):
    X, y = blobs(90, 8, 9, sparse=False)
    model = MACHClassifier(base, n_repetitions=3, n_buckets=4, random_state=0)
    expected = model.fit(X, y).decision_function(X)
    other, labels = X.copy(), y.copy()
    if form == "read-only":
        other.flags.writeable = labels.flags.writeable = False
    elif form == "Fortran":
        other = np.asfortranarray(other)
    elif form == "strided":
        other = np.repeat(other, 2, axis=1)[:, ::2]
    else:
        other, labels = other.tolist(), labels.tolist()
    weight = np.ones(90)
    weight.flags.writeable = False
    model.fit(other, labels, sample_weight=weight)
    assert_array_equal(model.decision_function(other), expected)


def test_a_row_is_predicted_alike_in_every_form():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 4, (60, 5)).astype(np.float64), np.arange(60) % 6
    model = MACHClassifier(random_state=0, max_iter=3).fit(X, y)
    expected = model.predict(X)
    indices = np.tile(np.arange(5)[::-1], 60)  # unsorted, 64 bits
    unsorted = sp.csr_array((X[:, ::-1].ravel(), indices, np.arange(61) * 5))
    forms = X, X.astype(np.float32), X.astype(int), np.asfortranarray(X), unsorted
    for form in (*forms, sp.csr_matrix(X), sp.coo_array(X).tocsr(), sp.csc_array(X)):
        assert_array_equal(model.predict(form), expected)
        for i in (0, 31):
            row = form.tocsr()[i : i + 1] if sp.issparse(form) else form[i : i + 1]
            assert_array_equal(model.predict(row), expected[i : i + 1])


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize(
    ("dtype", "is_mapped", "n_jobs"),
    [
        (np.float16, False, 1),
        (np.float16, True, 2),
        (np.float32, True, 1),
        (np.float32, True, 2),
        (np.float64, True, 1),
    ],
)
def test_float16_and_memory_maps_give_the_model_of_the_same_numbers(
    blobs, monkeypatch, tmp_path, dtype, is_mapped, n_jobs
):
    monkeypatch.setattr(_softmax, "_CALIBRATION_ROWS", 100)  # rows are set aside
    monkeypatch.setattr(_inputs, "_PLAIN_VALUES", 100)  # which a few rows hold
    monkeypatch.setattr(_model, "_COPIED_BYTES", 500)
    monkeypatch.setattr(_logits, "_HALF_VALUES", 100)
    monkeypatch.setattr(_training, "_DENSE_COLUMNS", 8)  # work for two threads
    X, y = blobs(160, 8, 9, sparse=False)
    X = (300 * X).astype(np.float16)  # the squares of which overflow
    plain = X.astype(np.float64 if dtype == np.float64 else np.float32)
    X = X.astype(dtype)
    X = mapped(X, tmp_path) if is_mapped else X
    models = []
    for rows in (X, plain):
        options = dict(n_repetitions=4, n_buckets=4, max_iter=3, random_state=0)
        model = MACHClassifier(**options, n_jobs=n_jobs).fit(rows, y)
        blocks = clone(model)
        for block in (slice(0, 60), slice(60, 160)):
            blocks.partial_fit(rows[block], y[block], classes=range(9))
        models.append((model, blocks.calibrate(rows, y)))
    for one, other in zip(*models, strict=True):
        assert_same_model(one, other)
        assert_array_equal(one._fitted.model.scalars, other._fitted.model.scalars)
        assert one.logit_adjustment_ == other.logit_adjustment_
        expected = other.predict_proba(plain)
        assert_array_equal(one.predict_proba(X), expected)
        assert_array_equal(one.predict_proba(X[:3]), expected[:3])
        assert_array_equal(one.predict_topk(X, k=5), other.predict_topk(plain, k=5))
        assert_array_equal(one.decision_function(X), other.decision_function(plain))
        stages = zip(one.staged_predict(X), other.staged_predict(plain), strict=True)
        assert all((a == b).all() for a, b in stages)
        assert one.score(X, y) == other.score(plain, y)


@needs_compilation
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_float16_and_memory_maps_are_not_copied(monkeypatch, tmp_path, dtype):
    monkeypatch.setattr(_trial, "_N_PROBE", 2_000)  # rows of the trial
    monkeypatch.setattr(_dense, "_MOVED_BYTES", 0)  # rows in the metric are not kept
    rng = np.random.default_rng(0)
    n, d = 24_000, 160  # a batch of 1,024 rows is a small part of them
    y = np.arange(n) % 8
    X = rng.integers(-8, 9, (n, d), np.int8).astype(np.float16)
    X[np.arange(n), y] += 6
    expected = MACHClassifier(n_repetitions=2, max_iter=1, random_state=0)
    model, half_a_copy = clone(expected), n * d
    expected.fit(X.astype(np.float32), y)
    expected.predict(X[:1000])
    X = mapped(X.astype(dtype), tmp_path)
    some = slice(4_000)  # compiles for mapped rows
    clone(model).fit(X[some], y[some]).partial_fit(X[some], y[some]).predict(X[some])
    _, peak = peak_of(model.fit, X, y)
    assert_same_model(model, expected)
    # Batches of squares are float64, and rows have numbers, weights and steps.  A
    # copy, even as float16, takes twice these bytes.
    assert peak < 2 * half_a_copy
    with config_context(working_memory=1):  # MB
        for call in (model.predict, model.decision_function):
            assert peak_of(call, X)[1] < half_a_copy  # not even a mask of the values
    assert peak_of(model.partial_fit, X, y)[1] < 2 * half_a_copy


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("row", [0, 59])
def test_float16_rows_that_are_not_finite_are_refused(blobs, monkeypatch, value, row):
    monkeypatch.setattr(_inputs, "_CHECKED_VALUES", 100)  # of several batches
    X, y = blobs(60, 12, 6, sparse=False)
    X = X.astype(np.float16)
    model = MACHClassifier(n_buckets=3, max_iter=1, random_state=0).fit(X, y)
    X[row, 5] = value
    message = "X contains NaN" if value != value else "X contains infinity .*float16"
    for n_plain in (0, 10_000):
        monkeypatch.setattr(_inputs, "_PLAIN_VALUES", n_plain)
        for call in (model.predict, model.decision_function):
            with pytest.raises(ValueError, match=message):
                call(X)
    for call in (model.fit, model.partial_fit, model.calibrate):
        with pytest.raises(ValueError, match=message):
            call(X, y)


def test_sums_of_float16_rows_may_overflow(blobs):
    X, y = blobs(120, 8, 6, sparse=False)
    X = (60_000 * abs(X)).astype(np.float16)
    with np.errstate(over="ignore"):
        assert not np.isfinite(X.sum())  # by which scikit-learn looks for infinity
    model = MACHClassifier(n_buckets=3, random_state=0).fit(X, y)
    assert model.score(X, y) == model.score(X.astype(np.float64), y) > 0.5


def test_sparse_float16_rows_are_float32_to_the_learner(blobs):
    X, y = blobs(90, 8, 9)
    halves = sp.csr_matrix((X.data.astype(np.float16), X.indices, X.indptr), X.shape)
    assert halves.dtype == np.float16
    X = halves.astype(np.float32)
    model = MACHClassifier(n_repetitions=3, n_buckets=4, random_state=0)
    other = clone(model).fit(halves, y)
    assert_same_model(other, model.fit(X, y))
    assert_same_model(other.partial_fit(halves, y), model.partial_fit(X, y))
    assert_array_equal(other.predict_proba(halves), model.predict_proba(X))


@pytest.mark.parametrize("base", [None, LogisticRegression()])
@pytest.mark.parametrize(
    "labels",
    [
        np.array(["b", "aa", "cccc", "d", "e", "f"]),
        np.array(["b", "aa", "cccc", "d", "e", "f"], dtype=object),
        np.array([7, -3, 1000, 4, 2, 0], dtype=np.int16),
        np.array([0.0, 1.0, 5.0, -2.0, 3.0, 4.0]),
    ],
)
def test_labels_keep_their_type(blobs, labels, base):
    X, y = blobs(60)
    model = MACHClassifier(base, random_state=0).fit(X, labels[y])
    assert_array_equal(model.classes_, np.sort(labels))
    for found in (model.classes_, model.predict(X), model.predict_topk(X, k=2)):
        assert found.dtype == labels.dtype
    assert model.score(X, labels[y]) > 0.9


def test_pandas_columns_and_labels(blobs):
    X, y = blobs(60, sparse=False)
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(12)])
    labels = pd.Series(np.array(list("abcdef"))[y], dtype="string")
    for base in (None, LogisticRegression()):
        model = MACHClassifier(base, random_state=0).fit(frame, labels)
        assert_array_equal(model.feature_names_in_, frame.columns)
        assert model.score(frame, labels) > 0.9
        categories = labels.astype("category")
        assert_array_equal(model.fit(frame, categories).classes_, list("abcdef"))
        with pytest.raises(ValueError, match="feature names"):
            model.predict(frame[frame.columns[::-1]])
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            model.predict(X)
