"""Sizes, seeds, tables and memory of a fit, and of one that grows."""

import re

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import DECODERS, TABLE, assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.svm import LinearSVC

from sklearn_mach import MACHClassifier, _hashing, _planning, _softmax, _trial, theory

# Sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize("hashing", ["balanced", "table"])
@pytest.mark.parametrize(
    ("n_repetitions", "n_buckets"),
    [
        (np.int8(6), np.int8(30)),
        (40, np.uint8(8)),
        (np.uint8(40), "auto"),
        ("auto", np.uint8(8)),
        (np.int16(300), np.int16(120)),
    ],
)
def test_sizes_may_be_integers_of_few_bits(blobs, hashing, n_repetitions, n_buckets):
    X, y = blobs(130, 4, 130)
    wide = [v if isinstance(v, str) else int(v) for v in (n_repetitions, n_buckets)]
    model = MACHClassifier(hashing="balanced", max_iter=1, random_state=0)
    expected = clone(model).set_params(n_repetitions=wide[0], n_buckets=wide[1])
    expected.fit(X, y)
    model.set_params(n_repetitions=n_repetitions, n_buckets=n_buckets)
    if hashing == "table":
        model.set_params(hashing=expected.bucket_table_)
    model.fit(X, y)
    assert_same_model(model, expected)
    assert type(model.n_repetitions_) is type(model.n_buckets_) is int
    assert_array_equal(model.partial_fit(X, y).classes_, np.arange(130))


@pytest.mark.parametrize("n_buckets", [6, 7, 16, 1000])
def test_no_more_buckets_than_classes_are_used(blobs, n_buckets):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=2, n_buckets=n_buckets, max_iter=1).fit(X, y)
    assert model.n_buckets_ == 6
    assert_array_equal(
        np.sort(model.bucket_table_, axis=0), np.arange(6)[:, None] + [0, 0]
    )


def test_few_classes_get_one_bucket_each_by_default(blobs):
    X, y = blobs(60)
    model = MACHClassifier(max_iter=1).fit(X, y)
    assert (model.n_repetitions_, model.n_buckets_) == (1, 6)


def test_tight_sizes_are_accepted(blobs):
    X, y = blobs(80, 8, 27)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, max_iter=1).fit(X, y)
    assert np.unique(model.bucket_table_, axis=0).shape == (27, 3)


def test_the_smallest_number_of_repetitions_in_the_message_is_accepted(blobs):
    X, y = blobs(100, 6, 50)
    model = MACHClassifier(n_repetitions=2, n_buckets=3, max_iter=1)
    with pytest.raises(ValueError) as error:
        model.fit(X, y)
    least = int(re.search(r"Use n_repetitions=(\d+)", str(error.value))[1])
    assert 3 ** (least - 1) < 50 <= 3**least
    model.set_params(n_repetitions=least).fit(X, y)
    assert model.bucket_table_.shape == (50, least)


# Tables -----------------------------------------------------------------------------


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("hashing", ["balanced", "clustered", "universal"])
def test_first_repetitions_do_not_depend_on_their_number(blobs, hashing):
    X, y = blobs(120, 8, 30)
    models = [
        MACHClassifier(
            n_repetitions=r, n_buckets=5, hashing=hashing, max_iter=1, random_state=7
        ).fit(X, y)
        for r in (6, 9)
    ]
    assert_array_equal(models[0].bucket_table_, models[1].bucket_table_[:, :6])
    assert_array_equal(models[0].coef_, models[1].coef_[:6])
    assert models[0].bucket_table_.dtype == np.uint8


def test_clustered_repetitions_put_similar_classes_together():
    # Eight directions, and around each four classes.
    rng = np.random.default_rng(0)
    y = np.arange(320) % 32
    X = 5 * np.eye(8)[y % 8] + 0.5 * rng.standard_normal((32, 8))[y]
    X += 0.1 * rng.standard_normal(X.shape)
    direction = np.arange(32) % 8
    alike = (direction[:, None] == direction) & ~np.eye(32, dtype=bool)
    model = MACHClassifier(n_repetitions=8, n_buckets=8, max_iter=1, random_state=0)
    for rows in (X, sp.csr_matrix(X)):
        table = model.set_params(hashing="clustered").fit(rows, y).bucket_table_
        together = [np.mean((c[:, None] == c)[alike]) for c in table.T]
        # Splits into halves may cut a direction in two; by chance it is 3 / 31.
        assert min(together[3], together[7]) > 0.6
        assert max(together[:3] + together[4:7]) < 0.3


@pytest.mark.parametrize("exponent", [-100, 130])
def test_weights_times_a_power_of_two_change_no_bucket(blobs, exponent):
    X, y = blobs(60)
    weight = np.random.default_rng(0).uniform(0.1, 5, 60)
    model = MACHClassifier(n_repetitions=8, n_buckets=3, max_iter=1, random_state=0)
    expected = model.fit(X, y, weight).bucket_table_
    found = model.fit(X, y, weight * 2.0**exponent).bucket_table_
    assert_array_equal(found, expected)


@pytest.mark.parametrize("base", [None, LogisticRegression()])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, list])
def test_a_table_of_the_user_is_used(blobs, base, dtype):
    X, y = blobs(60)
    table = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])
    given = table.tolist() if dtype is list else table.astype(dtype)
    model = MACHClassifier(base, hashing=given, random_state=0)
    model = clone(model).fit(X, y)
    assert_array_equal(model.bucket_table_, table)
    assert (model.n_repetitions_, model.n_buckets_) == (2, 3)
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_a_table_of_the_user_is_copied(blobs, dtype):
    X, y = blobs(60)
    given = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]], dtype)
    model = MACHClassifier(hashing=given, random_state=0).fit(X, y)
    expected = model.predict(X)
    given[:] = given[::-1].copy()
    assert_array_equal(model.predict(X), expected)
    assert_array_equal(model.bucket_table_, given[::-1])


@pytest.mark.parametrize("base", [None, LogisticRegression(), LinearSVC()])
def test_empty_buckets_and_repetitions_of_one_bucket_work(blobs, base):
    X, y = blobs(60)
    injective = np.array([8, 1, 2, 3, 4, 5])  # buckets 0, 6, 7 and 9 are empty
    table = np.column_stack([np.full(6, 7), injective])
    model = MACHClassifier(base, hashing=table, n_buckets=10, random_state=0).fit(X, y)
    assert model.n_buckets_ == 10
    assert np.isfinite(model.decision_function(X)).all()
    assert model.score(X, y) > 0.9


def test_universal_tables_with_empty_buckets_work(blobs):
    X, y = blobs(100, 8, 20)
    empty = 0
    for seed in range(10):
        model = MACHClassifier(
            GaussianNB(), n_repetitions=4, n_buckets=16, hashing="universal"
        )
        model.set_params(random_state=seed).fit(X.toarray(), y)
        empty += sum(16 - np.unique(column).size for column in model.bucket_table_.T)
        assert np.isfinite(model.decision_function(X.toarray())).all()
    assert empty > 0


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("base", [None, LogisticRegression()])
@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist])
def test_a_table_of_the_user_gives_probabilities(blobs, decoder, base, form):
    X, y = blobs(60)
    model = MACHClassifier(base, hashing=form(TABLE), decoder=decoder, random_state=0)
    proba = model.fit(X, y).predict_proba(X)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert_array_equal(proba.argmax(axis=1), model.predict(X))
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize(
    ("table", "parameters", "message"),
    [
        (
            TABLE[:5],
            {},
            r"shape \(n_classes, n_repetitions\) with n_classes=6, got \(5",
        ),
        (TABLE.ravel(), {}, r"n_classes=6, got \(12,\)"),
        (TABLE[:, :0], {}, r"n_classes=6, got \(6, 0\)"),
        (TABLE[:, :, None], {}, r"n_classes=6, got \(6, 2, 1\)"),
        (TABLE.astype(float), {}, "must hold integers, got dtype float64"),
        (TABLE.astype(str), {}, "must hold integers, got dtype <U"),
        ([[0], [0, 1], [1], [1, 0], [2], [3]], {}, "must have rows of equal length"),
        (TABLE - 1, {}, "buckets from 0 to .* got values from -1"),
        (
            TABLE,
            {"n_buckets": 2},
            "from 0 to n_buckets - 1 = 1, got values from 0 to 2",
        ),
        (TABLE, {"n_repetitions": 3}, "2 columns, but n_repetitions=3"),
        (TABLE[[0, 1, 2, 3, 4, 2]], {}, r"classes 2 and 5 .*cannot be told apart"),
    ],
)
def test_bad_tables_are_refused(blobs, table, parameters, message):
    X, y = blobs(60)
    with pytest.raises(ValueError, match=message):
        MACHClassifier(hashing=table, **parameters).fit(X, y)


# Memory -----------------------------------------------------------------------------


def test_weights_larger_than_the_free_memory_are_refused(blobs, monkeypatch):
    X, y = blobs(600, 50, 300)
    free = 51 * 4 * 100  # a hundred columns of weights
    monkeypatch.setattr("sklearn_mach._planning.free_memory", lambda: free)
    model = MACHClassifier(n_repetitions=16, n_buckets=64, max_iter=1)
    needed = theory.model_bytes(50, 16, 64)
    with pytest.raises(
        MemoryError, match=f"{needed} bytes.*only {free} bytes"
    ) as error:
        model.fit(X, y)
    found = re.search(
        r"n_repetitions=(\d+) with n_buckets=(\d+) would fit", str(error.value)
    )
    n_repetitions, n_buckets = int(found[1]), int(found[2])
    assert n_buckets**n_repetitions >= 300
    model.set_params(n_repetitions=n_repetitions, n_buckets=n_buckets).fit(X, y)
    assert model.coef_.nbytes + model.intercept_.nbytes <= free


def test_free_memory_must_hold_the_trial_of_the_learning_rate_too(blobs, monkeypatch):
    X, y = blobs(600, 50, 300)
    monkeypatch.setattr(_planning, "_UNCOUNTED", 0)  # whatever it takes
    monkeypatch.setattr(_trial, "_PROBE_BYTES", 0)
    weights = theory.model_bytes(50, 8, 64)
    trial = 50 * 4 * 8 * 64 // 10
    model = MACHClassifier(n_repetitions=8, n_buckets=64, max_iter=1)
    model.set_params(hashing="balanced")  # others need memory for sketches
    monkeypatch.setattr(_planning, "free_memory", lambda: weights + trial - 1)
    with pytest.raises(MemoryError, match=f"trial.*take {weights + trial}") as error:
        model.fit(X, y)
    found = re.search(
        r"n_repetitions=(\d+) with n_buckets=(\d+) would", str(error.value)
    )
    sizes = dict(
        zip(("n_repetitions", "n_buckets"), map(int, found.groups()), strict=True)
    )
    clone(model).set_params(**sizes).fit(X, y)
    clone(model).set_params(learning_rate=0.1).fit(X, y)  # has no trial
    monkeypatch.setattr(_planning, "free_memory", lambda: weights + trial)
    model.fit(X, y)


def test_weights_out_of_proportion_to_the_values_are_reported(blobs, monkeypatch):
    texts = [f"{a} {b}" for a in ("red", "green", "blue") for b in ("hat", "coat")] * 9
    names = [text.split()[1] for text in texts]
    monkeypatch.setattr(_softmax, "_MANY_BYTES", 4 * 4096)
    model = MACHClassifier(n_repetitions=1, n_buckets=2, max_iter=1)
    message = (
        r"take .*only 108 non-zeros in 4,096 columns, 0.0 a col.*HashingVectorizer"
    )
    hashed = HashingVectorizer(n_features=4096).transform(texts)
    with pytest.warns(UserWarning, match=message):
        model.fit(hashed, names)
    # nothing of base classifiers, of few bytes, of values that are worth them, or of
    # the first of many blocks
    clone(model).partial_fit(hashed, names, classes=["coat", "hat"])
    clone(model).set_params(estimator=MultinomialNB()).fit(abs(hashed), names)
    monkeypatch.setattr(_softmax, "_MANY_BYTES", 0)
    model.fit(TfidfVectorizer().fit_transform(texts), names)
    for sparse in (True, False):
        model.fit(*blobs(60, n_classes=2, sparse=sparse))
    monkeypatch.undo()
    model.fit(hashed, names)


@pytest.mark.parametrize("n_columns", [18, 40, 100, 400, 3000])
def test_automatic_sizes_fit_in_half_of_the_free_memory(blobs, monkeypatch, n_columns):
    X, y = blobs(600, 50, 300)
    free = 2 * 51 * 4 * n_columns
    monkeypatch.setattr("sklearn_mach._planning.free_memory", lambda: free)
    model = MACHClassifier(max_iter=1).fit(X, y)
    assert model.coef_.nbytes + model.intercept_.nbytes <= free // 2
    assert np.unique(model.bucket_table_, axis=0).shape[0] == 300


def test_too_little_memory_for_any_sizes_is_said(blobs, monkeypatch):
    X, y = blobs(600, 50, 300)
    monkeypatch.setattr("sklearn_mach._planning.free_memory", lambda: 400)
    with pytest.raises(MemoryError, match="No R and B fit; use fewer features"):
        MACHClassifier(max_iter=1).fit(X, y)


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_clustering_that_does_not_fit_in_the_free_memory_is_refused(
    blobs, monkeypatch, base
):
    X, y = blobs(600, 2, n_classes=300, sparse=False)
    sizes = dict(n_repetitions=4, n_buckets=18, max_iter=1, random_state=0)
    model = MACHClassifier(base, **sizes)
    monkeypatch.setattr("sklearn_mach._planning.free_memory", lambda: 10**8)
    monkeypatch.setattr(_hashing, "sketch_bytes", lambda n_classes: 10**6 * n_classes)
    message = "300 classes in 300000000 bytes .* Use hashing='balanced'"
    with pytest.raises(MemoryError, match=message):
        model.fit(X, y)
    model.set_params(hashing="balanced").fit(X, y)
    model.set_params(hashing="clustered", n_repetitions=3).fit(X, y)  # none of it


def test_unknown_free_memory_refuses_nothing(blobs, monkeypatch):
    X, y = blobs(60)
    monkeypatch.setattr("sklearn_mach._planning.free_memory", lambda: None)
    assert MACHClassifier().fit(X, y).predict_proba(X).shape == (60, 6)


# Growing ----------------------------------------------------------------------------


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_added_repetitions_equal_one_fit(blobs, storage, sparse, n_jobs):
    X, y = blobs(310, 17, 40, sparse=sparse)
    model = MACHClassifier(
        n_buckets=11, max_iter=2, random_state=0, n_jobs=n_jobs, n_repetitions=9
    )
    whole = clone(model).fit(X, y)
    grown = clone(model).set_params(warm_start=True, n_repetitions=2).fit(X, y)
    for n_repetitions in (3, 9):
        grown.set_params(n_repetitions=n_repetitions).fit(X, y)
    if sparse:
        assert_same_model(grown, whole)
    else:  # BLAS may round otherwise where other columns stand beside a column
        assert_array_equal(grown.bucket_table_, whole.bucket_table_)
        assert_allclose(grown.coef_, whole.coef_, rtol=1e-3, atol=1e-4)


def test_added_base_classifiers_equal_one_fit(blobs):
    X, y = blobs(60)
    model = MACHClassifier(
        SGDClassifier(), n_repetitions=5, n_buckets=3, random_state=0
    )
    whole = clone(model).fit(X, y)
    grown = clone(model).set_params(warm_start=True, n_repetitions=2).fit(X, y)
    kept = list(grown.estimators_)
    grown.set_params(n_repetitions=5).fit(X, y)
    assert grown.estimators_[:2] == kept
    assert_array_equal(grown.decision_function(X), whole.decision_function(X))


@pytest.mark.parametrize("base", [None, LogisticRegression()])
def test_warm_start_that_adds_nothing_warns_and_keeps_the_model(blobs, base):
    X, y = blobs(60)
    model = MACHClassifier(base, n_repetitions=2, n_buckets=3, warm_start=True)
    scores = model.set_params(random_state=0).fit(X, y).decision_function(X)
    with pytest.warns(UserWarning, match="trains nothing. Raise n_repetitions"):
        model.fit(X, y)
    assert_array_equal(model.decision_function(X), scores)


def test_automatic_sizes_stay_when_a_model_grows(blobs, monkeypatch):
    X, y = blobs(600, 50, 300)
    X.resize(600, 2_000)  # fewer columns would have a bucket for each class
    model = MACHClassifier(max_iter=1, warm_start=True, random_state=0)
    model.set_params(hashing="balanced").fit(X, y)
    sizes = model.n_repetitions_, model.n_buckets_
    best = model.predict_topk(X)
    # the model is in memory now: as few bytes as half of it needs are free
    free = theory.model_bytes(2_000, *sizes) * 5 // 4
    monkeypatch.setattr("sklearn_mach._planning.free_memory", lambda: free)
    fresh = clone(model).fit(X, y)
    assert (fresh.n_repetitions_, fresh.n_buckets_) != sizes
    with pytest.warns(UserWarning, match=f"n_repetitions={sizes[0]} as before trains"):
        model.fit(X, y)
    assert (model.n_repetitions_, model.n_buckets_) == sizes
    assert_array_equal(model.predict_topk(X), best)
    kept = model.coef_.copy()
    model.set_params(n_repetitions=sizes[0] + 1).fit(X, y)
    assert (model.n_repetitions_, model.n_buckets_) == (sizes[0] + 1, sizes[1])
    assert_array_equal(model.coef_[:-1], kept)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_buckets": 4}, "n_buckets must stay 3"),
        ({"n_repetitions": 2}, "n_repetitions must be at least 3"),
    ],
)
def test_warm_start_refuses_other_sizes(blobs, parameters, message):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, warm_start=True, max_iter=1)
    model.fit(X, y).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


def test_warm_start_refuses_other_classes_features_and_tables(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, warm_start=True, max_iter=1)
    model.fit(X, y).set_params(n_repetitions=4)
    with pytest.raises(ValueError, match="classes of the previous fit: 6 then, 5 now"):
        model.fit(X, y % 5)
    with pytest.raises(ValueError, match="X has 11 features"):
        model.fit(X[:, :11], y)
    model = MACHClassifier(hashing=TABLE, warm_start=True, max_iter=1).fit(X, y)
    other = np.column_stack([TABLE[::-1], TABLE])  # the first columns are not the same
    with pytest.raises(ValueError, match="warm_start"):
        model.set_params(hashing=other).fit(X, y)


@pytest.mark.parametrize("n_repetitions", ["auto", 4])
def test_a_table_of_the_user_may_grow(blobs, n_repetitions):
    X, y = blobs(60)
    model = MACHClassifier(hashing=TABLE, warm_start=True, random_state=0).fit(X, y)
    kept = model.coef_.copy()
    grown = np.column_stack([TABLE, TABLE[::-1]])
    model.set_params(hashing=grown, n_repetitions=n_repetitions).fit(X, y)
    assert_array_equal(model.bucket_table_, grown)
    assert_array_equal(model.coef_[:2], kept)
    whole = clone(model).set_params(warm_start=False).fit(X, y)
    assert_same_model(model, whole)
