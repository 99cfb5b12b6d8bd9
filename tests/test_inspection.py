"""Explanations against scores, and against sums over all weights."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import DECODERS, peak_of, set_offset
from numpy.testing import assert_allclose, assert_array_equal
from several import SIZES, planted
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler

from sklearn_mach import MACHClassifier, inspection, predict_topk
from sklearn_mach.inspection import explain

# Scores and logits are sums of some ten float32 numbers of at most about ten.
FLOAT32 = dict(rtol=1e-5, atol=2e-5)


def by_definition(model, X, own, other):
    """Contributions of all columns (n, d), for weights that are all looked at."""
    X, W = X.toarray() if sp.issparse(X) else X, model.coef_.astype(np.float64)
    table, found = model.bucket_table_, np.zeros(X.shape)
    for i, row in enumerate(np.asarray(X, np.float64)):
        # mean weights of every class, (K, d)
        of_classes = sum(W[r][table[:, r]] for r in range(len(W))) / len(W)
        reference = of_classes.mean(axis=0) if other is None else of_classes[other[i]]
        found[i] = row * (of_classes[own[i]] - reference)
    return found


def assert_explains(found, X, expected, k):
    """The k largest of the contributions (n, d) that are expected of columns "x0"..."""
    is_there = X.toarray() != 0 if sp.issparse(X) else X != 0
    assert_array_equal(found.features.shape, (len(expected), k))
    for i, row in enumerate(expected):
        names, values = found.features[i], found.contributions[i]
        used = names != ""
        n_used = min(k, is_there[i].sum())
        assert_array_equal(used, np.arange(k) < n_used)
        assert_array_equal(values[~used], 0)
        columns = [int(name[1:]) for name in names[used]]
        assert len(set(columns)) == n_used
        assert_allclose(values[used], row[columns], rtol=1e-9, atol=1e-12)
        largest = np.sort(row[is_there[i]])[::-1][:n_used]
        assert_allclose(values[used], largest, rtol=1e-9, atol=1e-12)
    rest = expected.sum(axis=1) - found.contributions.sum(axis=1)
    assert_allclose(found.rest, rest, rtol=1e-9, atol=1e-12)
    parts = found.contributions.sum(axis=1) + found.rest + found.intercept
    assert_allclose(parts, found.total, rtol=1e-12, atol=1e-12)


@pytest.fixture(params=["csr", "dense", "float16"])
def fitted(request, blobs):
    """Rows with zeros, and a model of 20 classes with a logit adjustment."""
    X, y = blobs(160, 12, 20)
    X = X.toarray() * (np.random.default_rng(0).random(X.shape) < 0.6)
    X[0] = 0
    X = X.astype(np.float16 if request.param == "float16" else np.float32)
    X = sp.csr_matrix(X) if request.param == "csr" else X
    names = np.array([f"class {k:02d}" for k in range(20)])
    model = MACHClassifier(n_repetitions=3, n_buckets=6, max_iter=5, random_state=0)
    model.fit(X, names[y])
    set_offset(model, np.random.default_rng(1).normal(0, 1, 20).astype(np.float32))
    return model, X, names


@pytest.mark.parametrize("k", [1, 4, 30])
def test_the_predicted_class_against_the_mean_of_all(fitted, k):
    model, X, names = fitted
    found = explain(model, X, k=k)
    scores = model.decision_function(X)
    best = scores.argmax(axis=1)
    assert_array_equal(found.labels, names[best])
    total = scores[np.arange(len(best)), best] - scores.mean(axis=1)
    assert_allclose(found.total, total, **FLOAT32)
    assert_explains(found, X, by_definition(model, X, best, None), k)


def test_labels_of_the_rows_against_others(fitted):
    model, X, names = fitted
    n, rng = X.shape[0], np.random.default_rng(2)
    own, other = rng.integers(0, 20, (2, n))
    found = explain(model, X, names[own], k=5, against=list(names[other]))
    scores = model.decision_function(X)
    total = scores[np.arange(n), own] - scores[np.arange(n), other]
    assert_allclose(found.total, total, **FLOAT32)
    assert_array_equal(found.labels, names[own])
    assert_explains(found, X, by_definition(model, X, own, other), 5)


def test_one_label_is_that_of_all_rows(fitted):
    model, X, names = fitted
    found = explain(model, X, "class 07", against="class 03")
    rows = explain(model, X, np.repeat(names[7], X.shape[0]), against=[names[3]] * 160)
    for name, expected in rows.items():
        assert_array_equal(found[name], expected)
    swapped = explain(model, X, "class 03", against="class 07", k=12)
    assert_allclose(swapped.total, -found.total)
    assert_allclose(swapped.intercept, -found.intercept)
    # k is the number of features: all are listed
    assert_allclose(swapped.rest, 0, atol=1e-12)


def test_parts_of_the_rows_and_of_the_weights_change_nothing(fitted, monkeypatch):
    model, X, _ = fitted
    expected = explain(model, X, k=4)
    monkeypatch.setattr(inspection, "_VALUES", 30)
    monkeypatch.setattr(inspection, "_WEIGHTS", 40)
    found = explain(model, X, k=4)
    for name in expected:
        if expected[name].dtype == np.float64:
            # products with other shapes may be added in another order
            assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12)
        else:
            assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_models_are_explained_by_the_weights_they_have(fitted, bits):
    model, X, _ = fitted
    small = model.compress(bits=bits)
    found = explain(small, X, k=3)
    scores = small.decision_function(X)
    best = scores.argmax(axis=1)
    assert_allclose(found.total, scores.max(axis=1) - scores.mean(axis=1), **FLOAT32)
    assert_explains(found, X, by_definition(small, X, best, None), 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_other_decoders_choose_the_class_and_logarithms_explain_it(fitted, decoder):
    model, X, _ = fitted
    model.set_params(decoder=decoder)
    found = explain(model, X, k=2)
    assert_array_equal(found.labels, model.predict(X))
    if decoder != "log_mean":
        set_offset(model, None)
    scores = model.set_params(decoder="log_mean").decision_function(X)
    own = np.searchsorted(model.classes_, found.labels)
    total = scores[np.arange(len(own)), own] - scores.mean(axis=1)
    assert_allclose(found.total, total, **FLOAT32)


def test_two_classes(blobs):
    X, y = blobs(60, 8, 2)
    model = MACHClassifier(random_state=0).fit(X, y)
    found = explain(model, X, 1, against=0)
    assert_allclose(found.total, model.decision_function(X), **FLOAT32)


@pytest.mark.parametrize("against", [None, 2])
def test_several_labels_are_explained_by_mean_logits(against):
    X, Y, _ = planted()
    model = MACHClassifier(**SIZES).fit(X, Y)
    found = explain(model, X, k=3, against=against)
    assert_array_equal(found.labels, model.decision_function(X).argmax(axis=1))
    W, b = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    logits = np.einsum("ij,rbj->irb", X.toarray(), W) + b
    means = logits[:, np.arange(4), model.bucket_table_].mean(axis=2)
    other = means.mean(axis=1) if against is None else means[:, against]
    assert_allclose(found.total, means[np.arange(300), found.labels] - other, rtol=1e-9)
    others = None if against is None else np.full(300, against)
    assert_explains(found, X, by_definition(model, X, found.labels, others), 3)


# Names, pipelines and searches --------------------------------------------------------

TEXTS = ["red wine glass", "white wine", "running shoes", "red shoes", "wine wine"]
SHELVES = ["kitchen", "cellar", "sport", "fashion", "cellar"]


def mach():
    return MACHClassifier(n_repetitions=2, n_buckets=3, random_state=0)


def test_words_of_a_text_have_their_names():
    pipeline = make_pipeline(TfidfVectorizer(), MaxAbsScaler(), mach())
    pipeline.fit(TEXTS, SHELVES)
    found = explain(pipeline, TEXTS, k=3)
    assert_array_equal(found.labels, pipeline.predict(TEXTS))
    for text, names in zip(TEXTS, found.features, strict=True):
        assert set(names) - {""} == set(text.split())
    scores = pipeline.decision_function(TEXTS)
    assert_allclose(found.total, scores.max(axis=1) - scores.mean(axis=1), **FLOAT32)
    labels = predict_topk(pipeline, TEXTS, 2)
    found = explain(pipeline, TEXTS, *labels[:, :1].T, against=labels[:, 1])
    scores.sort(axis=1)
    assert_allclose(found.total, scores[:, -1] - scores[:, -2], **FLOAT32)


def test_searches_are_explained_by_the_best_model():
    search = GridSearchCV(
        make_pipeline(TfidfVectorizer(), mach()),
        {"machclassifier__n_buckets": [2, 3]},
        cv=2,
    )
    texts, shelves = TEXTS * 4, SHELVES * 4
    found = explain(search.fit(texts, shelves), texts, k=2)
    expected = explain(search.best_estimator_, texts, k=2)
    for name in expected:
        assert_array_equal(found[name], expected[name])


def test_names_are_those_of_columns_or_steps_or_numbers(blobs):
    X, y = blobs(60, 4, 6, sparse=False)
    names = ["a", "b", "c", "d"]
    frame = pd.DataFrame(X, columns=names)
    cases = [
        (mach(), frame, names),
        (mach(), X, ["x0", "x1", "x2", "x3"]),
        (make_pipeline("passthrough", mach()), frame, names),
        (make_pipeline(StandardScaler(), mach()), frame, names),
        (make_pipeline(StandardScaler(), MaxAbsScaler(), mach()), X, list("0123")),
        (
            make_pipeline(StandardScaler().set_output(transform="pandas"), mach()),
            frame,
            names,
        ),
        (make_pipeline(make_pipeline(StandardScaler()), mach()), frame, names),
        (
            make_pipeline(TruncatedSVD(2, random_state=0), mach()),
            X,
            ["truncatedsvd0", "truncatedsvd1"],
        ),
        # names end where one step has none
        (make_pipeline(StandardScaler(), FunctionTransformer(), mach()), X, "0123"),
    ]
    for model, rows, expected in cases:
        found = explain(model.fit(rows, y), rows, k=len(expected))
        if expected in (list("0123"), "0123"):
            expected = [f"x{j}" for j in expected]
        assert set(found.features.ravel()) == set(expected)


def test_hashed_words_are_numbers():
    pipeline = make_pipeline(HashingVectorizer(n_features=64), mach())
    found = explain(pipeline.fit(TEXTS, SHELVES), TEXTS)
    columns = pipeline[0].transform(TEXTS)
    for row, names in zip(columns, found.features, strict=True):
        assert set(names) - {""} == {f"x{j}" for j in row.nonzero()[-1]}


# Limits -------------------------------------------------------------------------------


def test_memory_depends_on_the_rows_alone():
    n_classes, d, n = 20_000, 2_000, 50
    rng = np.random.default_rng(0)
    X = sp.random_array((n_classes, d), density=0.01, rng=rng, format="csr")
    model = MACHClassifier(
        n_repetitions=3, n_buckets=64, hashing="balanced", max_iter=1, random_state=0
    ).fit(X, np.arange(n_classes))
    labels = np.arange(n)
    explain(model, X[:n], labels)
    _, peak = peak_of(explain, model, X[:n], labels)
    assert peak < 8 << 20 < n * n_classes * 4 * 4 < d * n_classes * 4
    # 20 non-zeros a row, 192 weights of each as float32 and float64


def test_stored_zeros_are_no_features(blobs):
    X, y = blobs(60, 8, 6)
    model = mach().fit(X, y)
    row = sp.csr_array(([0.5, 0.0, -0.5], [1, 2, 5], [0, 3]), shape=(1, 8))
    found = explain(model, row, k=4)
    assert sorted(found.features[0]) == ["", "", "x1", "x5"]
    empty = explain(model, sp.csr_array((2, 8)), k=2)
    assert (empty.features == "").all() and (empty.contributions == 0).all()
    assert_array_equal(empty.total, empty.intercept)


def test_bad_input_is_refused(blobs):
    X, y = blobs(60, 8, 6, sparse=False)
    model = mach().fit(X, y)
    for options, message in [
        ({"k": 0}, "k must be an integer of at least 1; got 0"),
        ({"labels": 77}, "labels has 77, which is not among the 6 classes"),
        ({"labels": [0] * 59 + [9]}, "labels has 9"),
        ({"against": "a"}, "against has 'a'"),
        ({"labels": [1, 2]}, "one for each of the 60 rows; got an array of shape (2,)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            explain(model, X, **options)
    with pytest.raises(ValueError, match="estimator=GaussianNB"):
        explain(MACHClassifier(GaussianNB()).fit(X, y), X)
    with pytest.raises(TypeError, match="explain takes a fitted MACHClassifier"):
        explain(LogisticRegression().fit(X, y), X)
    with pytest.raises(NotFittedError):
        explain(mach(), X)
