"""Indicators of several labels a row as y: all kinds, bad ones, and edges."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import DECODERS, assert_same_model
from numpy.testing import assert_array_equal
from several import SIZES, planted
from sklearn.base import clone
from sklearn.metrics import accuracy_score

from sklearn_mach import MACHClassifier, _softmax

REFUSED = r"A matrix y must be an indicator of ones and zeros.*MultiLabelBinarizer"


@pytest.fixture(scope="module")
def task():
    return planted()


# Kinds of y -------------------------------------------------------------------------


def with_zeros(Y):
    """CSR that stores some zeros, with its columns out of order."""
    rows, columns = np.nonzero(np.ones_like(Y))
    order = np.random.default_rng(0).permutation(rows.size)
    order = order[np.argsort(rows[order], kind="stable")]
    indptr = np.arange(len(Y) + 1) * Y.shape[1]
    arrays = Y[rows, columns][order], columns[order], indptr
    return sp.csr_matrix(arrays, Y.shape)


def indices_of_64_bits(Y):
    Y = sp.csr_array(Y)
    arrays = Y.data, Y.indices.astype(np.int64), Y.indptr.astype(np.int64)
    return sp.csr_array(arrays, Y.shape)


def polars(Y):
    return pytest.importorskip("polars").DataFrame(Y, orient="row")


def stored_twice(Y):
    rows, columns = np.tile(np.nonzero(Y), 2)
    return sp.coo_array((np.ones(rows.size, int), (rows, columns)), Y.shape)


INDICATORS = {
    "int": (lambda Y: Y, np.ndarray, np.int64),
    "int8 in columns": (lambda Y: np.asfortranarray(Y.astype(np.int8)), 0, np.int8),
    "bool": (lambda Y: Y.astype(bool), np.ndarray, bool),
    "float": (lambda Y: Y.astype(float), np.ndarray, float),
    "float16": (lambda Y: Y.astype(np.float16), np.ndarray, np.float16),
    "long double": (lambda Y: Y.astype(np.longdouble), np.ndarray, np.longdouble),
    "read-only": (lambda Y: np.frombuffer(Y.tobytes(), int).reshape(Y.shape), 0, int),
    "negative zeros": (lambda Y: np.where(Y == 1, 1.0, -0.0), 0, float),
    "objects": (lambda Y: Y.astype(object), np.ndarray, np.int64),
    "columns of two types": (lambda Y: pd.DataFrame(Y).astype({3: bool}), 0, np.int64),
    "lists": (lambda Y: Y.tolist(), np.ndarray, np.int64),
    "data frame": (pd.DataFrame, np.ndarray, np.int64),
    "polars": (polars, np.ndarray, np.int64),
    "CSR matrix": (sp.csr_matrix, sp.csr_matrix, np.int64),
    "CSR array": (sp.csr_array, sp.csr_array, np.int64),
    "CSC matrix": (lambda Y: sp.csc_matrix(Y.astype(bool)), sp.csr_matrix, bool),
    "CSC array": (sp.csc_array, sp.csr_array, np.int64),
    "COO matrix": (lambda Y: sp.coo_matrix(Y.astype("f")), sp.csr_matrix, np.float32),
    "COO array": (sp.coo_array, sp.csr_array, np.int64),
    "bools stored twice": (lambda Y: stored_twice(Y).astype(bool), sp.csr_array, bool),
    "labels stored twice": (stored_twice, sp.csr_array, np.int64),
    "LIL matrix": (sp.lil_matrix, sp.csr_matrix, np.int64),
    "zeros stored": (with_zeros, sp.csr_matrix, np.int64),
    "indices of 64 bits": (indices_of_64_bits, sp.csr_array, np.int64),
    "frame of Int64": (lambda Y: pd.DataFrame(Y).astype("Int64"), 0, np.int64),
}


@pytest.mark.parametrize("kind", INDICATORS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_indicators_of_all_kinds_give_one_model_and_come_back_alike(task, kind, method):
    X, Y, _ = task
    make, output, dtype = INDICATORS[kind]
    given = make(Y)
    before = given.copy() if hasattr(given, "copy") else given.clone()
    plain, model = (MACHClassifier(**SIZES, max_iter=3) for _ in range(2))
    getattr(plain, method)(X, Y)
    getattr(model, method)(X, given)
    if sp.issparse(given) and given.format == "csr":
        assert_array_equal(given.data, before.data)
        assert_array_equal(given.indices, before.indices)
        assert_array_equal(given.indptr, before.indptr)
    assert_same_model(model, plain)
    assert model.multilabel_ is True
    assert_array_equal(model.classes_, np.arange(9))
    predicted = model.predict(X)
    assert type(predicted) is (output or np.ndarray)
    assert predicted.dtype == dtype
    assert predicted.shape == Y.shape
    dense = predicted.toarray() if sp.issparse(predicted) else predicted
    assert_array_equal(dense.astype(int), plain.predict(X))
    assert 0 < dense.sum() < dense.size
    stages = list(model.staged_predict(X))
    assert all(type(s) is type(predicted) and s.dtype == dtype for s in stages)
    if dtype is not np.float16:  # which scikit-learn's metrics refuse
        accuracy = accuracy_score(Y, dense.astype(int))
        assert model.score(X, Y) == model.score(X, sp.csr_array(Y)) == accuracy
        assert list(model.staged_score(X, Y))[-1] == accuracy


def test_one_label_a_row_as_an_indicator_is_several(task):
    X, Y, _ = task
    y = Y.argmax(axis=1)
    one = MACHClassifier(**SIZES).fit(X, y)
    Y = sp.csr_array((np.ones(len(y)), (np.arange(len(y)), y)), Y.shape)
    several = MACHClassifier(**SIZES).fit(X, Y)
    assert (one.multilabel_, several.multilabel_) == (False, True)
    assert several.predict(X).shape == Y.shape
    assert several.predict(X).dtype == float
    # both know the best label; the noise of the labels leaves 0.62
    right = (several.predict_topk(X, 1)[:, 0] == y).mean()
    assert right > one.score(X, y) - 0.05


HOSTILE = {
    "two": (lambda Y: Y * 2, r"\(300, 9\) and holds \[2\]. " + REFUSED),
    "minus one": (lambda Y: 2 * Y - 1, r"holds \[-1\]. " + REFUSED),
    "half": (lambda Y: Y * 0.5, r"holds \[0.5\]. " + REFUSED),
    "sparse two": (lambda Y: sp.csr_matrix(Y * 2), r"holds \[2\]. " + REFUSED),
    "NaN": (lambda Y: np.where(Y == 1, np.nan, 0), r"holds \[nan.*" + REFUSED),
    "sparse NaN": (
        lambda Y: sp.csc_array(np.where(Y == 1, np.nan, 0)),
        r"holds \[nan.*" + REFUSED,
    ),
    "None": (lambda Y: np.where(Y == 1, None, Y), r"holds \[.*None.*" + REFUSED),
    "NA": (
        lambda Y: pd.DataFrame(Y).astype("Int64").mask(Y == 1),
        r"holds \[.*<NA>.*" + REFUSED,
    ),
    "strings": (lambda Y: Y.astype(str), r"holds \['[01]', '[01]'\]. " + REFUSED),
    "complex": (lambda Y: Y + 0j, r"holds \[.*" + REFUSED),
    "dates": (lambda Y: np.datetime64("2020-01-01") + Y, r"holds \[.*" + REFUSED),
    "one column": (lambda Y: sp.csr_matrix(Y[:, :1]), r"\(300, 1\).*at least two"),
    "no column": (lambda Y: Y[:, :0], r"\(300, 0\).*at least two columns"),
    "one sparse dimension": (lambda Y: sp.coo_array(Y[:, 0]), r"\(300,\).*at least"),
    "three dimensions": (lambda Y: Y[:, :, None], r"\(300, 9, 1\).*at least two"),
    "three dimensions of one": (lambda Y: Y[:, :1, None], r"\(300, 1, 1\).*at least"),
    "fewer rows": (lambda Y: Y[:-1], r"inconsistent numbers of samples: \[300, 299\]"),
    "more rows": (
        lambda Y: sp.csr_matrix(np.vstack([Y, Y[:1]])),
        r"inconsistent numbers of samples: \[300, 301\]",
    ),
    "ragged lists": (
        lambda Y: [np.flatnonzero(row).tolist() for row in Y],
        r"lists of different lengths .*MultiLabelBinarizer",
    ),
    "lists of labels": (lambda Y: [[3, 5]] * 300, r"holds \[3, 5\]. " + REFUSED),
    "sets": (
        lambda Y: [set(np.flatnonzero(row)) for row in Y],
        "collections of labels",
    ),
    "series of lists": (
        lambda Y: pd.Series([np.flatnonzero(row).tolist() for row in Y]),
        "y holds collections of labels.*MultiLabelBinarizer",
    ),
    "series of arrays": (
        lambda Y: pd.Series([np.flatnonzero(row) for row in Y]),
        "y holds collections of labels.*MultiLabelBinarizer",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "calibrate"])
def test_what_is_no_indicator_is_refused_and_leaves_the_model(task, what, method):
    X, Y, _ = task
    change, message = HOSTILE[what]
    model = MACHClassifier(**SIZES, max_iter=2)
    if method != "calibrate":
        extra = {} if method == "fit" else {"classes": range(9)}
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(X, change(Y), **extra)
        assert vars(model) == vars(clone(model))
    model.fit(X, sp.csr_matrix(Y))
    scores, predicted = model.decision_function(X), model.predict(X)
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X, change(Y))
    assert_array_equal(model.decision_function(X), scores)
    assert type(model.predict(X)) is type(predicted)


def test_a_single_dense_column_is_one_label_as_in_scikit_learn(task):
    X, Y, _ = task
    with pytest.warns(Warning, match="column-vector y was passed"):
        model = MACHClassifier(**SIZES).fit(X, Y[:, :1])
    assert not model.multilabel_
    assert model.predict(X).shape == (300,)


def test_an_indicator_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        MACHClassifier().fit(np.zeros((0, 3)), np.zeros((0, 4), int))


EDGES = {
    "rows and columns without a label": lambda Y: (
        Y * (np.arange(9) % 3 > 0) * (np.arange(300) % 4 > 0)[:, None]
    ),
    "all rows have all labels": np.ones_like,
    "no row has a label": np.zeros_like,
    "one row has a label": lambda Y: (
        np.eye(300, 9, dtype=int) * (np.arange(300) == 3)[:, None]
    ),
    "two labels": lambda Y: Y[:, :2],
    "two labels, one in all rows": lambda Y: Y[:, :2] | [1, 0],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("tau", ["auto", 0.5])
def test_edges_are_learned(edge, sparse, tau, large, monkeypatch):
    if large:  # the trial, and rows set aside
        monkeypatch.setattr("sklearn_mach._steps.TRIAL_ROWS", 10)
        monkeypatch.setattr(_softmax, "_CALIBRATION_ROWS", 100)
    X, Y, _ = planted(sparse=sparse)
    Y = EDGES[edge](Y)
    K = Y.shape[1]
    model = MACHClassifier(random_state=0, max_iter=10, logit_adjustment=tau)
    for sizes in ({}, {"n_buckets": 2, "n_repetitions": 4}):
        for kind in (np.asarray, sp.csr_array):
            model.set_params(**sizes).fit(X, kind(Y))
            proba = model.predict_proba(X)
            assert proba.shape == model.decision_function(X).shape == (300, K)
            assert np.isfinite(proba).all()
            predicted = sp.csr_array(model.predict(X)).toarray()
            assert_array_equal(predicted, proba >= 0.5)
            if tau == "auto":  # 10 epochs; a number makes labels without rows likely
                never, always = ~Y.any(axis=0), Y.all(axis=0)
                if sizes == {} or never.all():
                    assert not predicted[:, never].any()
                assert not always.any() or predicted[:, always].mean() > 0.9
            for decoder in DECODERS:
                model.set_params(decoder=decoder)
                assert np.isfinite(model.decision_function(X)).all()
            model.set_params(decoder="log_mean")
