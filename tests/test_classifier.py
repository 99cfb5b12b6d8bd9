"""The estimator: what it learns, what it refuses, how it fits in with scikit-learn."""

import io
import pickle
import re
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, get_ident
from types import SimpleNamespace

import joblib
import numba
import numpy as np
import pandas as pd
import pytest
import reference
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import (
    ConvergenceWarning,
    NotFittedError,
    UnsetMetadataPassedError,
)
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    SGDClassifier,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sklearn_mach import (
    MACHClassifier,
    _classifier,
    _dense,
    _hashing,
    _logits,
    _steps,
    _training,
    _trial,
    theory,
)
from sklearn_mach.datasets import make_many_classes
from sklearn_mach.metrics import class_ranks

DECODERS = ["log_mean", "mean", "min", "median"]
SMOOTHING = 1e-3  # of the probabilities of base classifiers, as documented


class ExactBuckets(ClassifierMixin, BaseEstimator):
    """A perfect bucket classifier, for rows that are the class probabilities.

    Fitted on the identity matrix it learns the bucket of each class; the probability
    of a bucket is the sum over its classes.
    """

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.members_ = X.T @ (np.asarray(y)[:, None] == self.classes_) > 0
        return self

    def predict_proba(self, X):
        return X @ self.members_

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class ExactType(GaussianNB):
    """Naive Bayes that keeps the type of the rows that it was given."""

    def fit(self, X, y):
        self.dtype_ = X.dtype
        return super().fit(X, y)


class FailingLater(MultinomialNB):
    """Naive Bayes whose partial_fit works on its own and then fails for a bucket."""

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        super().partial_fit(X, y, classes=classes, sample_weight=sample_weight)
        if classes is None and y[0] == 1:
            raise ValueError("bucket 1 is out of order")
        return self


def exact(n_classes, n_repetitions, n_buckets, **parameters):
    model = MACHClassifier(
        ExactBuckets(),
        n_repetitions=n_repetitions,
        n_buckets=n_buckets,
        **({"hashing": "balanced", "random_state": 0} | parameters),
    )
    # Twice, or scikit-learn takes so many labels for a regression problem.
    return model.fit(
        np.tile(np.eye(n_classes), (2, 1)), np.arange(2 * n_classes) % n_classes
    )


def weights(model):
    return model.coef_.copy(), model.intercept_.copy()


def assert_same_model(one, other):
    assert_array_equal(one.bucket_table_, other.bucket_table_)
    assert_array_equal(one.coef_, other.coef_)
    assert_array_equal(one.intercept_, other.intercept_)
    assert one.n_iter_ == other.n_iter_


# What the built-in learner learns ---------------------------------------------------


def converged(X, y, alpha, weight=None, **parameters):
    """Trained to the optimum: rows one by one if sparse, else all in one step."""
    sparse = sp.issparse(X)
    model = MACHClassifier(
        n_repetitions=1,
        alpha=alpha,
        learning_rate=0.1 if sparse else 0.3 / len(y),
        batch_size=len(y),
        max_iter=2000,
        tol=None,
        random_state=0,
    )
    return model.set_params(**parameters).fit(X, y, sample_weight=weight)


# The noise of 120,000 steps that fall to zero, or for full batches what 2,000 steps
# leave: the penalty of a step of size s is that of alpha / (1 + s alpha).
OPTIMUM = dict(rtol=0, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_one_injective_repetition_is_multinomial_logistic_regression(
    blobs, sparse, alpha
):
    X, y = blobs(60, 5, 4, noise=1.0, sparse=sparse)
    model = converged(X, y, alpha)
    regression = LogisticRegression(C=1 / (alpha * 60), tol=1e-10, max_iter=10_000)
    regression.fit(X, y)
    assert_allclose(model.predict_proba(X), regression.predict_proba(X), **OPTIMUM)
    coef = model.coef_[0, model.bucket_table_[:, 0]]
    assert_allclose(coef, regression.coef_, rtol=0, atol=5e-3)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_row_weights_reach_the_weighted_optimum(blobs, sparse, with_zeros):
    X, y = blobs(60, 5, 4, noise=1.0, sparse=sparse)
    weight = np.random.default_rng(0).uniform(0.3, 2, 60)
    if with_zeros:
        weight[::3] = 0
    alpha = 0.05
    model = converged(X, y, alpha, weight)
    # The mean of the loss weighs rows by weight / sum(weight), so that rows of weight
    # zero are as good as absent.
    regression = LogisticRegression(
        C=1 / (alpha * weight.sum()), tol=1e-10, max_iter=10_000
    ).fit(X, y, sample_weight=weight)
    assert_allclose(model.predict_proba(X), regression.predict_proba(X), **OPTIMUM)


def test_class_weight_multiplies_row_weights(blobs):
    X, y = blobs(60)
    names = np.array(list("abcdef"))[y]
    by_class = {"a": 3.0, "c": 0.5}
    rows = np.random.default_rng(0).uniform(0.5, 2, 60)
    model = MACHClassifier(random_state=0, max_iter=3)
    one = clone(model).set_params(class_weight=by_class).fit(X, names, rows)
    rows *= [by_class.get(name, 1.0) for name in names]
    assert_same_model(one, clone(model).fit(X, names, rows))


def test_balanced_class_weight(blobs):
    X, y = blobs(60)
    y[y == 5] = 4
    model = MACHClassifier(random_state=0, max_iter=3)
    one = clone(model).set_params(class_weight="balanced").fit(X, y)
    assert_same_model(one, clone(model).fit(X, y, 60 / (5 * np.bincount(y)[y])))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scale_of_the_rows_does_not_matter(blobs, sparse, factor):
    X, y = blobs(300, 10, 12, noise=0.5, sparse=sparse)
    model = MACHClassifier(n_repetitions=4, n_buckets=5, max_iter=4, random_state=0)
    model.fit(X, y)
    proba, predicted = model.predict_proba(X), model.predict(X)
    model.fit(X * factor, y)
    assert_array_equal(model.predict(X * factor), predicted)
    # Rounding of float32, amplified by large steps.
    assert_allclose(model.predict_proba(X * factor), proba, rtol=0, atol=1e-3)


def test_rows_that_are_not_normalised_are_learned():
    # Means far from zero and rows of length twenty.
    rng = np.random.default_rng(0)
    y = np.arange(600) % 8
    centres = rng.uniform(0, 10, (8, 6))
    X = centres[y] + 0.5 * rng.standard_normal((600, 6))
    regression = LogisticRegression(max_iter=10_000).fit(X[:400], y[:400])
    reached = regression.score(X[400:], y[400:])
    assert reached > 0.95
    for rows in (X, sp.csr_matrix(X)):
        model = MACHClassifier(n_repetitions=6, n_buckets=4, random_state=0)
        model.fit(rows[:400], y[:400])
        assert model.score(rows[400:], y[400:]) > reached - 0.05


def test_very_different_scales_are_reported(blobs):
    X, y = blobs(100, sparse=False)
    X[:, 3] *= 1e5
    for rows in (X, sp.csr_matrix(X)):
        with pytest.warns(ConvergenceWarning, match="column 3 .*MaxAbsScaler.*Normali"):
            MACHClassifier(random_state=0).fit(rows, y)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("learning_rate", [1e38, 1e200])
def test_divergence_is_an_error_that_names_the_remedy(blobs, sparse, learning_rate):
    X, y = blobs(50, sparse=sparse)
    model = MACHClassifier(learning_rate=learning_rate, random_state=0)
    with pytest.raises(ValueError, match="smaller learning_rate .*Normalizer.*MaxAbs"):
        model.fit(X * 30, y)
    assert not hasattr(model, "classes_")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("learning_rate", [1e20, 1e35, 3e37, 3e38])
@pytest.mark.parametrize("scale", [0.1, 1.5, 10])
def test_weights_are_refused_where_they_overflow_and_else_finite(
    blobs, sparse, learning_rate, scale
):
    X, y = blobs(20, sparse=sparse)
    model = MACHClassifier(
        learning_rate=learning_rate,
        n_repetitions=3,
        n_buckets=3,
        max_iter=1,
        random_state=0,
        batch_size=1,
    )
    # A step changes the logits by about its size times the squared length of the row.
    if learning_rate * scale**2 > float(np.finfo(np.float32).max):
        with pytest.raises(ValueError, match="smaller learning_rate"):
            model.fit(X * scale, y)
    else:
        model.fit(X * scale, y)
        assert np.isfinite(model.coef_).all()
        assert np.isfinite(model.intercept_).all()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("factor", [1e-14, 1e14, 1e16, 1e25, 1e149])
def test_rows_are_refused_only_where_float32_has_no_room(blobs, sparse, factor):
    X, y = blobs(150, sparse=sparse)
    X = X * factor
    model = MACHClassifier(random_state=0)
    if factor < 1e15:  # float32 ends at 3e38, the square of 2e19
        assert model.fit(X[:50], y[:50]).score(X[50:], y[50:]) > 0.9
    else:
        with pytest.raises(ValueError, match="no room in float32.*Normalizer"):
            model.fit(X, y)


def test_verbose_prints_a_line_for_each_epoch(blobs, capsys):
    X, y = blobs(60)
    MACHClassifier(max_iter=3, verbose=1, random_state=0).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(re.search("epoch [123]/3: training loss", line) for line in lines)
    MACHClassifier(max_iter=3, random_state=0).fit(X, y)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_verbose_tells_speed_and_time_left(blobs, capsys, monkeypatch, n_jobs):
    # two blocks of repetitions, one after the other or side by side
    X, y = blobs(60, n_classes=20, sparse=False)
    seconds = Counter()  # in each thread one passes at every look at the clock

    def clock():
        seconds[get_ident()] += 1
        return seconds[get_ident()]

    monkeypatch.setattr(
        "sklearn_mach._training.time", SimpleNamespace(perf_counter=clock)
    )
    sizes = dict(n_repetitions=34, n_buckets=16, learning_rate=1e-9, max_iter=3)
    MACHClassifier(**sizes, n_jobs=n_jobs, verbose=1, random_state=0).fit(X, y)
    loss = f"training loss {np.log(16):.4f}"  # of weights that hardly move from zero
    parts = ["part 1/2, ", "part 2/2, "] if n_jobs == 1 else [""]
    starts = [f"{part}epoch {e}/3: " for part in parts for e in (1, 2, 3)]
    lefts = reversed(range(len(starts)))
    assert capsys.readouterr().out.splitlines() == [
        f"{start}{loss}, 60 rows/s, {left:.1f} s left"
        for start, left in zip(starts, lefts, strict=True)
    ]


# Parallel work ----------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("n_repetitions", "n_buckets", "n_classes"),
    [(7, 5, 23), (3, 11, 40), (5, 129, 300)],
)
def test_n_jobs_changes_no_bit(
    blobs, storage, sparse, n_repetitions, n_buckets, n_classes
):
    X, y = blobs(610, 17, n_classes, sparse=sparse)
    model = MACHClassifier(
        n_repetitions=n_repetitions,
        n_buckets=n_buckets,
        max_iter=2,
        alpha=1e-4 if storage == "float32" else 0.0,
        random_state=0,
    )
    one = clone(model).set_params(n_jobs=1).fit(X, y)
    for n_jobs in (2, 3):
        other = clone(model).set_params(n_jobs=n_jobs).fit(X, y)
        assert_same_model(one, other)
        assert_array_equal(one.decision_function(X), other.decision_function(X))
        labels, scores = other.predict_topk(X, k=3, return_scores=True)
        expected = one.predict_topk(X, k=3, return_scores=True)
        assert_array_equal(labels, expected[0])
        assert_array_equal(scores, expected[1])


def test_processes_and_read_only_memory_maps_change_no_bit(blobs, storage):
    X, y = blobs(40, 9, 8)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=3, max_iter=2, n_jobs=2, random_state=0
    )
    threads, processes = clone(model), clone(model)
    dense = clone(model).fit(X.toarray(), y)
    threads.fit(X, y).set_params(warm_start=True, n_repetitions=5).fit(X, y)
    threads.partial_fit(X, y)
    with joblib.parallel_config("loky", max_nbytes=1):
        assert_same_model(clone(model).fit(X.toarray(), y), dense)
        processes.fit(X, y).set_params(warm_start=True, n_repetitions=5).fit(X, y)
        processes.partial_fit(X, y)
    assert_same_model(processes, threads)


def test_processes_train_base_classifiers_further_that_come_read_only(blobs):
    X, y = blobs(40)
    here = MACHClassifier(
        SGDClassifier(loss="log_loss"), n_repetitions=3, n_buckets=3, random_state=0
    )
    there = clone(here).set_params(n_jobs=2)
    here.partial_fit(X, y, np.arange(6)).partial_fit(X, y)
    with joblib.parallel_config("loky", max_nbytes=1):  # as memory maps of files
        there.partial_fit(X, y, np.arange(6)).partial_fit(X, y)
    assert_array_equal(there.decision_function(X), here.decision_function(X))


def test_n_jobs_changes_nothing_for_base_classifiers(blobs):
    X, y = blobs(100)
    model = MACHClassifier(
        SGDClassifier(loss="log_loss"), n_repetitions=4, n_buckets=3, random_state=0
    )
    one = clone(model).fit(X, y).decision_function(X)
    two = clone(model).set_params(n_jobs=2).fit(X, y)
    assert_array_equal(two.decision_function(X), one)


def test_base_classifiers_have_seeds_of_their_own(blobs):
    X, y = blobs(60)
    table = np.tile(np.arange(6)[:, None], 2)
    model = MACHClassifier(SGDClassifier(), hashing=table, random_state=0).fit(X, y)
    seeds = [estimator.random_state for estimator in model.estimators_]
    assert len(set(seeds)) == 2
    again = clone(model).fit(X, y)
    assert [estimator.random_state for estimator in again.estimators_] == seeds


# Tables -----------------------------------------------------------------------------


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


def test_tight_sizes_are_accepted(blobs):
    X, y = blobs(80, 8, 27)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, max_iter=1).fit(X, y)
    assert np.unique(model.bucket_table_, axis=0).shape == (27, 3)


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


@pytest.mark.parametrize("exponent", [-100, 130])
def test_weights_times_a_power_of_two_change_no_bucket(blobs, exponent):
    X, y = blobs(60)
    weight = np.random.default_rng(0).uniform(0.1, 5, 60)
    model = MACHClassifier(n_repetitions=8, n_buckets=3, max_iter=1, random_state=0)
    expected = model.fit(X, y, weight).bucket_table_
    found = model.fit(X, y, weight * 2.0**exponent).bucket_table_
    assert_array_equal(found, expected)


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


TABLE = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])


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


# Decoding ---------------------------------------------------------------------------


def mean_estimates(p, table, n_buckets, classes, chance):
    """(mean - c) / (1 - c) of some classes, for exact bucket probabilities."""
    mean = 0
    for column in table.T:
        buckets = np.bincount(column, weights=p, minlength=n_buckets)
        mean = mean + buckets[column[classes]] / table.shape[1]
    return (mean - chance) / (1 - chance)


@pytest.mark.parametrize("hashing", ["random", "universal", "balanced"])
def test_unbiased_mean_and_its_variance_in_simulation(hashing):
    n_buckets, n_repetitions, n_tables, n_parts = 16, 6, 200, 10
    # So few where the chance depends on K: it is 0.053, and 0.010 below 1 / B.
    n_classes = 100 if hashing == "balanced" else 400
    rng = np.random.default_rng(0)
    # Few classes at random places: the collisions of Carter-Wegman functions are
    # independent in pairs only, and those of classes whose distances have a simple
    # ratio (k - 1 and k + 1 with k) go together, which makes the variance larger.
    p = np.zeros(n_classes)
    some = rng.choice(n_classes, 10, replace=False)
    p[some] = np.sort(rng.dirichlet(np.ones(10)))[::-1]
    absent = np.flatnonzero(p == 0)[[5, 50]]
    classes = np.append(some[[0, 4, 9]], absent)
    chance = 1 / n_buckets
    if hashing == "balanced":
        chance = (n_classes - n_buckets) / (n_buckets * (n_classes - 1))
    estimates = []
    # A table takes longer than its columns: each is cut into ten of six columns.
    for row in rng.integers(1 << 31, size=(n_tables, n_parts * n_repetitions)):
        if hashing == "random":
            whole = rng.integers(n_buckets, size=(n_classes, row.size))
        else:
            whole = _hashing.draw_table(n_classes, n_buckets, row, hashing)
        for table in np.split(whole, n_parts, axis=1):
            estimates.append(mean_estimates(p, table, n_buckets, classes, chance))
    expected = [
        (np.sum(p**2) - p[i] ** 2) / (n_repetitions * (n_buckets - 1)) for i in classes
    ]
    error = np.sqrt(np.array(expected) / len(estimates))
    # Four standard errors, at most 0.004.
    assert (np.abs(np.mean(estimates, axis=0) - p[classes]) < 4 * error).all()
    # A variance of 2,000 skewed values: its relative standard error is about
    # sqrt(kurtosis / n), 5 %.  Balanced columns never have more.
    ratio = np.var(estimates, axis=0) / expected
    assert (ratio < 1.25).all()
    assert hashing == "balanced" or (ratio > 0.8).all()


def test_mean_probabilities_of_exact_buckets_are_unbiased_and_sum_to_one():
    n_classes, n_buckets, n_repetitions = 24, 4, 30
    model = exact(n_classes, n_repetitions, n_buckets, decoder="mean")
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.full(n_classes, 50.0), size=20)
    mean = np.zeros_like(P)
    for column in model.bucket_table_.T:
        buckets = P @ (column[:, None] == np.arange(n_buckets))
        buckets = (1 - SMOOTHING) * buckets + SMOOTHING / n_buckets
        mean += buckets[:, column] / n_repetitions
    chance = (n_classes - n_buckets) / (n_buckets * (n_classes - 1))
    expected = (mean - chance) / (1 - chance)
    assert expected.min() > 0  # nothing is clipped
    assert_allclose(expected.sum(axis=1), 1, rtol=1e-12)
    # The scores are float32.
    assert_allclose(model.predict_proba(P), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hashing", ["balanced", "universal"])
def test_probabilities_do_not_follow_hashing_after_the_fit(blobs, hashing):
    X, y = blobs(n_classes=9)
    parameters = dict(n_repetitions=4, n_buckets=3, decoder="mean", random_state=0)
    model = MACHClassifier(hashing=hashing, **parameters).fit(X, y)
    expected = model.predict_proba(X)
    for other in ("balanced", "universal", model.bucket_table_):
        model.set_params(hashing=other)
        assert_array_equal(model.predict_proba(X), expected)


def test_mean_probabilities_of_a_table_of_the_user_use_its_own_chance(blobs):
    rng = np.random.default_rng(0)
    table = np.repeat([0, 1, 2], [2, 4, 6])[rng.random((8, 12)).argsort(axis=1)].T
    X, y = blobs(120, n_classes=12)
    model = MACHClassifier(hashing=table, decoder="mean", random_state=0).fit(X, y)
    pairs = [(table[i] == table[j]).mean() for i in range(12) for j in range(i)]
    scores = np.maximum(model.decision_function(X) - np.mean(pairs), 0)
    expected = scores / scores.sum(axis=1, keepdims=True)
    assert_allclose(model.predict_proba(X), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decoder", ["mean", "log_mean"])
def test_a_certain_class_is_recognised_from_exact_buckets(decoder):
    model = exact(30, 4, 6, decoder=decoder)
    assert_array_equal(model.predict(np.eye(30)), np.arange(30))


class UniformBuckets(ExactBuckets):
    """Knows nothing."""

    def predict_proba(self, X):
        return np.full((len(X), self.classes_.size), 1 / self.classes_.size)


@pytest.mark.parametrize("hashing", ["balanced", "clustered", "universal"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("n_buckets", [2, 3, 4, 5, 7, 12])
def test_probabilities_sum_to_one_where_the_buckets_know_nothing(
    hashing, decoder, n_buckets
):
    X, y = np.eye(24), np.arange(24) % 12
    for n_repetitions in (6, 7):
        model = MACHClassifier(
            UniformBuckets(),
            hashing=hashing,
            decoder=decoder,
            n_repetitions=n_repetitions + 8 * (n_buckets == 2),
            n_buckets=n_buckets,
            random_state=n_repetitions,
        )
        proba = model.fit(X, y).predict_proba(X)
        assert np.isfinite(proba).all()
        assert_allclose(proba.sum(axis=1), 1, rtol=1e-9)
        if hashing != "universal" and decoder != "mean":
            # float32 scores; the unbiased estimate is a difference of nothings.
            assert_allclose(proba, 1 / 12, rtol=1e-4)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("n_repetitions", [5, 6, 7])
def test_predictions_agree_on_scores_that_differ_by_a_rounding_error(
    decoder, n_repetitions
):
    model = exact(12, n_repetitions, 4, decoder=decoder)
    P = 1 + 1e-6 * np.random.default_rng(0).standard_normal((2000, 12))
    P /= P.sum(axis=1, keepdims=True)
    predicted = model.predict(P)
    assert_array_equal(predicted, model.decision_function(P).argmax(axis=1))
    if decoder != "mean":  # nearly zero less chance, where zeros may be clipped
        assert_array_equal(predicted, model.predict_proba(P).argmax(axis=1))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("n_repetitions", [4, 5])
def test_decoders_equal_the_reference_on_base_classifiers(
    blobs, decoder, n_repetitions
):
    X, y = blobs(90, 8, 9, noise=1.0)
    model = MACHClassifier(
        LogisticRegression(),
        n_repetitions=n_repetitions,
        n_buckets=4,
        decoder=decoder,
        random_state=0,
    ).fit(X, y)
    proba = np.stack([e.predict_proba(X) for e in model.estimators_], axis=1)
    proba = (1 - SMOOTHING) * proba + SMOOTHING / 4
    scores = np.log(proba) if decoder == "log_mean" else proba
    merge = "sum" if "mean" in decoder else decoder
    expected = reference.class_scores(scores, model.bucket_table_, merge)
    if merge == "sum":
        expected = expected / n_repetitions
    # Sums of a few float32 numbers.
    assert_allclose(model.decision_function(X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("sparse", [False, True])
def test_weights_reproduce_the_scores(blobs, decoder, sparse):
    X, y = blobs(90, 8, 9, sparse=sparse)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=4, decoder=decoder, random_state=0
    ).fit(X, y)
    assert model.coef_.shape == (3, 4, 8)
    assert model.intercept_.shape == (3, 4)
    rows = X.toarray() if sparse else X
    logits = np.einsum("nd,rbd->nrb", rows, model.coef_.astype(float))
    logits += model.intercept_
    transform = log_softmax if decoder == "log_mean" else softmax
    merge = "sum" if "mean" in decoder else decoder
    expected = reference.class_scores(
        transform(logits, axis=2), model.bucket_table_, merge
    )
    if merge == "sum":
        expected = expected / 3
    # Logits of some tens in float32.
    assert_allclose(model.decision_function(X), expected, rtol=1e-5, atol=2e-5)


def test_log_mean_probabilities_are_the_documented_softmax(blobs):
    X, y = blobs(90, 8, 9)
    model = MACHClassifier(n_repetitions=3, n_buckets=4, random_state=0).fit(X, y)
    scores = model.decision_function(X).astype(float)
    expected = softmax(scores * np.log(9) / np.log(4), axis=1)
    # The scores are float32, of some tens.
    assert_allclose(model.predict_proba(X), expected, rtol=1e-5)
    assert_allclose(model.predict_log_proba(X), np.log(expected), rtol=1e-5, atol=1e-5)


def test_only_rows_with_weight_are_set_aside(blobs, monkeypatch):
    X, y = blobs(400)
    weight = np.zeros(400)
    weight[:60] = 1
    held = []
    make_settings = _steps.make_settings

    def recorded(*args):
        settings, seen = make_settings(*args)
        held.append(settings.held.size)
        return settings, seen

    monkeypatch.setattr(_steps, "make_settings", recorded)
    monkeypatch.setattr(_classifier, "_CALIBRATION_ROWS", 100)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, max_iter=1, random_state=0)
    model.fit(X, y, weight)  # 60 rows are too few
    monkeypatch.setattr(_classifier, "_CALIBRATION_ROWS", 50)
    model.fit(X, y, weight)
    model.fit(X, y)
    assert held == [0, 60 // 50, 400 // 50]  # 2 %


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "base", [None, LogisticRegression(), DecisionTreeClassifier(max_depth=3)]
)
@pytest.mark.parametrize("n_classes", [2, 9])
def test_all_predictions_agree(blobs, decoder, base, n_classes):
    X, y = blobs(90, 5, n_classes, noise=1.5)
    names = np.array([f"class {i}" for i in range(n_classes)])
    model = MACHClassifier(
        base, n_repetitions=4, n_buckets=3, decoder=decoder, random_state=0
    ).fit(X, names[y])
    proba, scores = model.predict_proba(X), model.decision_function(X)
    assert proba.shape == (90, n_classes)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert (proba >= 0).all()
    predicted = model.predict(X)
    assert_array_equal(predicted, names[proba.argmax(axis=1)])
    labels, values = model.predict_topk(X, k=n_classes, return_scores=True)
    assert_array_equal(labels[:, 0], predicted)
    assert_array_equal(labels, model.predict_topk(X, k=n_classes))
    if n_classes == 2:
        assert_array_equal(predicted, names[(scores > 0).astype(int)])
        assert_array_equal(np.abs(scores), values[:, 0] - values[:, 1])
    else:
        assert_array_equal(predicted, names[scores.argmax(axis=1)])
        order = np.argsort(-scores, axis=1, kind="stable")
        assert_array_equal(labels, names[order])
        assert_array_equal(values, np.take_along_axis(scores, order, axis=1))
    assert model.score(X, names[y]) == np.mean(predicted == names[y])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_a_stage_is_the_model_of_the_first_repetitions(blobs, decoder, base):
    X, y = blobs(n_samples=90, n_classes=9, sparse=base is None)
    parameters = dict(n_buckets=3, decoder=decoder, random_state=0, tol=None)
    model = MACHClassifier(base, n_repetitions=6, hashing="balanced", **parameters)
    model.fit(X, y)
    with config_context(working_memory=0.01):  # several chunks
        stages = list(model.staged_predict_topk(X, k=3, return_scores=True))
        scores_of_stages = list(model.staged_score(X, y))
    assert len(stages) == 6
    assert_array_equal(stages[-1][0], model.predict_topk(X, k=3))
    for r in (2, 3, 4, 5, 6):
        short = MACHClassifier(
            base, n_repetitions=r, hashing=model.bucket_table_[:, :r], **parameters
        ).fit(X, y)
        labels, scores = stages[r - 1]
        # One rounding of float32 for each repetition and one for the mean.
        expected = short.decision_function(X)
        own = np.take_along_axis(expected, labels, axis=1)
        best = -np.sort(-expected, axis=1)[:, :3]
        assert_allclose(scores, own, rtol=1e-5, atol=1e-6)
        assert_allclose(scores, best, rtol=1e-5, atol=1e-6)
        hits = np.mean(labels[:, 0] == y)
        assert scores_of_stages[r - 1] == pytest.approx(hits)


@pytest.mark.parametrize("base", [None, GaussianNB()])
@pytest.mark.parametrize("n_classes", [2, 9])
def test_offsets_of_classes_count_in_all_predictions_of_log_mean(
    blobs, base, n_classes
):
    X, y = blobs(90, 5, n_classes, noise=1.5, sparse=False)
    model = MACHClassifier(base, n_repetitions=4, n_buckets=3, random_state=0)
    model.fit(X, y)
    plain, table = model._bucket_scores(X), model.bucket_table_
    offset = np.random.default_rng(0).normal(0, 0.7, n_classes).astype(np.float32)
    offset[-1] += 3
    model._set_offset(offset)
    expected = reference.class_scores(plain, table, "sum", offset)
    best = reference.topk(expected, n_classes)
    assert (best[0][:, 0] != reference.class_scores(plain, table).argmax(axis=1)).any()
    stages = list(reference.stage_scores(plain, table, "sum", offset))
    for one in (model, pickle.loads(pickle.dumps(model))):
        for working_memory in (1024, 0.002):  # one chunk or several
            with config_context(working_memory=working_memory):
                scores = one.decision_function(X)
                ranks = class_ranks(one, X, y)
                labels, values = one.predict_topk(X, n_classes, return_scores=True)
                proba = one.predict_proba(X)
                found = list(one.staged_predict_topk(X, n_classes, return_scores=True))
                assert_array_equal(one.predict(X), best[0][:, 0])
                *_, last = one.staged_predict(X)
                *_, accuracy = one.staged_score(X, y)
            if n_classes == 2:
                assert_array_equal(scores, expected[:, 1] - expected[:, 0])
            else:
                assert_array_equal(scores, expected)
            assert_array_equal(labels, best[0])
            assert_array_equal(values, best[1])
            assert_array_equal(proba.argmax(axis=1), best[0][:, 0])
            assert_array_equal(np.argsort(-proba, axis=1, kind="stable"), best[0])
            assert_array_equal(ranks, reference.rank(expected, y))
            assert_array_equal(last, best[0][:, 0])
            assert accuracy == np.mean(best[0][:, 0] == y)
            pairs = zip(stages, found, strict=True)
            for r, (stage, (labels, values)) in enumerate(pairs, 1):
                order = reference.topk(stage, n_classes)
                assert_array_equal(labels, order[0])
                # divided by r, not R: one more rounding
                assert_allclose(values, order[1] * 4 / r, rtol=1e-6, atol=1e-7)
    for decoder in ("mean", "min", "median"):  # which have none
        model.set_params(decoder=decoder)
        merge = "sum" if decoder == "mean" else decoder
        expected = reference.class_scores(model._bucket_scores(X), table, merge)
        best = reference.topk(expected, n_classes)[0]
        assert_array_equal(model.predict_topk(X, n_classes), best)
        assert_array_equal(model.predict_topk(X[:1], n_classes), best[:1])
        assert_array_equal(class_ranks(model, X, y), reference.rank(expected, y))
        *_, last = model.staged_predict_topk(X, n_classes)
        assert_array_equal(last, best)


def skewed(blobs, n_classes=9, n_samples=900):
    """Class k has 1/(k + 1) of the rows of class 0, and classes overlap."""
    X, y = blobs(n_samples, 6, n_classes, noise=1.5, sparse=False)
    kept = np.arange(n_samples) // n_classes % (y + 1) == 0
    return X[kept], y[kept]


def log_relative_share(y, weight=None):
    """Logarithm of K times the share of each class in the weights, by the formula."""
    share = np.bincount(y, weight) / np.sum(
        np.ones(y.size) if weight is None else weight
    )
    return np.log(share.size * share)


@pytest.mark.parametrize("base", [None, GaussianNB()])
@pytest.mark.parametrize("weights_of", [None, "rows", "classes"])
def test_logit_adjustment_takes_tau_times_the_log_share(blobs, base, weights_of):
    X, y = skewed(blobs)
    tau, weight, rows, by_class = 0.8, None, None, None
    if weights_of == "rows":
        rows = weight = np.random.default_rng(0).uniform(0, 2, y.size)
    elif weights_of == "classes":
        by_class = {0: 0.5, 7: 4.0}
        weight = np.select([y == 0, y == 7], [0.5, 4.0], 1.0)
    model = MACHClassifier(
        base, n_repetitions=4, n_buckets=3, class_weight=by_class, random_state=0
    )
    plain = clone(model).set_params(logit_adjustment=0).fit(X, y, rows)
    model.set_params(logit_adjustment=tau).fit(X, y, rows)
    assert (plain.logit_adjustment_, model.logit_adjustment_) == (0, tau)
    taken = tau * log_relative_share(y, weight)
    expected = plain.decision_function(X).astype(np.float64) - taken
    order = np.argsort(-expected, axis=1, kind="stable")
    assert (order[:, 0] != plain.predict(X)).any()

    rounding = dict(rtol=1e-6, atol=1e-6)  # of float32
    assert_allclose(model.decision_function(X), expected, **rounding)
    assert_array_equal(model.predict(X), order[:, 0])
    labels, scores = model.predict_topk(X, k=9, return_scores=True)
    assert_array_equal(labels, order)
    assert_allclose(scores, np.take_along_axis(expected, order, axis=1), **rounding)
    assert_array_equal(class_ranks(model, X, y), np.argmax(order == y[:, None], axis=1))
    proba = model.predict_proba(X)
    assert_array_equal(np.argsort(-proba, axis=1, kind="stable"), order)
    stages = zip(
        plain.staged_predict_topk(X, k=9, return_scores=True),
        model.staged_predict_topk(X, k=9, return_scores=True),
        strict=True,
    )
    for before, after in stages:
        of_class = np.argsort(before[0], axis=1)
        expected = np.take_along_axis(before[1], of_class, axis=1) - taken
        assert_allclose(after[1], -np.sort(-expected, axis=1), **rounding)
        found = np.take_along_axis(expected, after[0], axis=1)
        assert_allclose(found, after[1], **rounding)


@pytest.mark.parametrize("base", [None, GaussianNB()])
@pytest.mark.parametrize("decoder", DECODERS[1:])
def test_logit_adjustment_is_that_of_log_mean_only(blobs, base, decoder):
    X, y = skewed(blobs)
    model = MACHClassifier(base, n_repetitions=4, n_buckets=3, random_state=0)
    model.set_params(decoder=decoder).fit(X, y)
    plain, adjusted = (clone(model).set_params(logit_adjustment=t) for t in (0, 2))
    plain, adjusted = plain.fit(X, y), adjusted.fit(X, y)
    assert_array_equal(adjusted.predict_topk(X, k=9), plain.predict_topk(X, k=9))
    assert_array_equal(adjusted.predict_proba(X), plain.predict_proba(X))
    assert_array_equal(adjusted.decision_function(X), plain.decision_function(X))
    assert_array_equal(class_ranks(adjusted, X, y), class_ranks(plain, X, y))
    for one, other in zip(
        adjusted.staged_predict_topk(X), plain.staged_predict_topk(X), strict=True
    ):
        assert_array_equal(one, other)


def test_a_class_without_rows_counts_as_the_rarest(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0)
    model.set_params(logit_adjustment=0.5, learning_rate=0.1)
    few = (y < 4) & ~((y == 2) & (np.arange(60) > 30))  # class 2 is the rarest
    model.partial_fit(X[few], y[few], classes=range(6))
    plain = clone(model).set_params(logit_adjustment=0)
    plain.partial_fit(X[few], y[few], classes=range(6))
    counts = np.bincount(y[few], minlength=6)
    counts[4:] = counts[2]
    taken = 0.5 * np.log(6 * counts / few.sum())
    difference = plain.decision_function(X) - model.decision_function(X)
    assert_allclose(difference, np.tile(taken, (60, 1)), rtol=1e-5, atol=1e-5)


def test_shares_of_classes_are_those_of_all_blocks(blobs):
    X, y = skewed(blobs)
    weight = np.random.default_rng(0).uniform(0, 2, y.size)
    model = MACHClassifier(n_repetitions=4, n_buckets=3, random_state=0)
    plain, adjusted = (clone(model).set_params(logit_adjustment=t) for t in (0, 2))
    for stop in (100, 150, y.size):
        rows = slice(stop - 50, stop) if stop > 100 else slice(100)
        for one in (plain, adjusted):
            one.partial_fit(X[rows], y[rows], range(9), sample_weight=weight[rows])
    seen = np.r_[:150, y.size - 50 : y.size]
    taken = 2 * log_relative_share(y[seen], weight[seen])
    difference = plain.decision_function(X) - adjusted.decision_function(X)
    assert_allclose(difference, np.tile(taken, (y.size, 1)), rtol=1e-5, atol=1e-5)


def test_automatic_logit_adjustment_needs_rows_set_aside(monkeypatch):
    X, y = make_many_classes(1000, 60, 40, n_nonzeros=6, random_state=0)
    sizes = dict(n_repetitions=4, n_buckets=6, max_iter=5, random_state=0)
    few = MACHClassifier(**sizes).fit(X, y)  # fewer than 10,000 rows
    assert few.logit_adjustment_ == 0
    monkeypatch.setattr(_classifier, "_CALIBRATION_ROWS", 1000)
    many = MACHClassifier(**sizes)
    monkeypatch.setattr(_classifier, "fit_adjustment", lambda *rows: 0.25)
    assert many.fit(X, y).logit_adjustment_ == 0.25
    base = MACHClassifier(MultinomialNB(), **sizes).fit(X, y)
    assert base.logit_adjustment_ == 0
    for number in (0, 0.5, -1):
        many.set_params(logit_adjustment=number)
        assert many.fit(X, y).logit_adjustment_ == number


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_logit_adjustment_survives_pickle_clone_and_warm_start(blobs, base):
    X, y = skewed(blobs)
    model = MACHClassifier(base, n_repetitions=5, n_buckets=3, random_state=0)
    model.set_params(logit_adjustment=0.7)
    scores = model.fit(X, y).decision_function(X)
    loaded = pickle.loads(pickle.dumps(model))
    assert_array_equal(loaded.decision_function(X), scores)
    assert_array_equal(loaded.predict_topk(X, k=3), model.predict_topk(X, k=3))
    assert loaded.logit_adjustment_ == 0.7
    assert clone(model).logit_adjustment == 0.7
    assert_array_equal(clone(model).fit(X, y).decision_function(X), scores)
    grown = clone(model).set_params(n_repetitions=3, warm_start=True).fit(X, y)
    grown.set_params(n_repetitions=5).fit(X, y)
    # dense sums of BLAS may round otherwise beside other columns
    assert_allclose(grown.decision_function(X), scores, rtol=1e-4, atol=1e-5)
    grown.set_params(n_repetitions=6, logit_adjustment=0).fit(X, y)
    assert grown.logit_adjustment_ == 0


def test_callbacks_get_models_with_the_logit_adjustment(blobs):
    pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")
    X, y = skewed(blobs)
    models = []

    class Keeping:
        def setup(self, estimator, context):
            pass

        teardown = on_fit_task_begin = setup

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            models.append(fitted_estimator)

    sizes = dict(n_repetitions=4, n_buckets=3, max_iter=2, tol=None)
    model = MACHClassifier(**sizes, logit_adjustment=0.8, random_state=0)
    expected = clone(model).fit(X, y).decision_function(X)
    model.set_callbacks(Keeping()).fit(X, y)
    assert_array_equal(models[1].decision_function(X), expected)  # of the last epoch


def test_grid_search_of_the_logit_adjustment(blobs):
    X, y = skewed(blobs)
    search = GridSearchCV(
        MACHClassifier(n_repetitions=4, n_buckets=3, random_state=0),
        {"logit_adjustment": [0.0, "auto", 50.0]},
        cv=KFold(2, shuffle=True, random_state=0),
    )
    none, auto, huge = search.fit(X, y).cv_results_["mean_test_score"]
    assert none == auto  # too few rows
    assert huge < none / 2  # always the rarest class


@pytest.mark.parametrize("decoder", ["log_mean", "mean"])
def test_models_of_a_time_without_offsets_and_chance_predict(blobs, decoder):
    X, y = blobs(n_classes=9)
    parameters = dict(hashing="balanced", decoder=decoder, random_state=0)
    model = MACHClassifier(n_repetitions=4, n_buckets=3, **parameters).fit(X, y)
    state = model.__getstate__()
    del state["_offset"], state["_chance"]
    old = MACHClassifier()
    old.__setstate__(state)
    assert_array_equal(old.predict_topk(X, 3), model.predict_topk(X, 3))
    assert_array_equal(old.predict_proba(X), model.predict_proba(X))


PREDICTIONS = {
    "predict": lambda model, X: model.predict(X),
    "predict_topk": lambda model, X: model.predict_topk(X, 2),
    "decision_function": lambda model, X: model.decision_function(X),
    "predict_proba": lambda model, X: model.predict_proba(X),
    "predict_log_proba": lambda model, X: model.predict_log_proba(X),
    "staged_predict": lambda model, X: list(model.staged_predict(X)),
    "staged_predict_topk": lambda model, X: list(model.staged_predict_topk(X, 2)),
    "staged_score": lambda model, X: list(model.staged_score(X, np.zeros(len(X)))),
    "class_ranks": lambda model, X: class_ranks(model, X, np.zeros(len(X))),
}
predictions = pytest.mark.parametrize("call", PREDICTIONS.values(), ids=PREDICTIONS)


@predictions
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"decoder": "bogus"}, "'decoder' parameter .*'min'.* Got 'bogus'"),
        ({"decoder": None}, "'decoder' parameter .*Got None"),
        ({"decoder": ["mean"]}, "'decoder' parameter .*Got .'mean'."),
        ({"n_jobs": "x"}, "'n_jobs' parameter .*Got 'x'"),
        ({"n_jobs": 1.5}, "'n_jobs' parameter .*Got 1.5"),
        ({"n_jobs": 0}, "n_jobs=0 is no number of threads. Use None"),
    ],
)
def test_parameters_set_after_the_fit_are_checked(blobs, call, parameters, message):
    X, y = blobs(60, sparse=False)
    model = MACHClassifier(n_repetitions=2, n_buckets=3, max_iter=1).fit(X, y)
    model.set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        call(model, X)


@predictions
def test_joblib_contexts_of_processes_send_no_model(blobs, monkeypatch, call):
    X, y = blobs(203, 8, 12, sparse=False)
    model = MACHClassifier(n_repetitions=5, n_buckets=4, max_iter=1, random_state=0)
    model.fit(X, y)
    expected = call(model, X)

    def refuse(self):
        raise AssertionError("the model is sent")

    monkeypatch.setattr(MACHClassifier, "__getstate__", refuse)
    with config_context(working_memory=0.003):
        with joblib.parallel_config("loky", n_jobs=2):
            assert_array_equal(call(model, X), expected)


@predictions
def test_every_prediction_uses_threads(blobs, monkeypatch, call):
    X, y = blobs(sparse=False)
    base = MultinomialNB()
    model = MACHClassifier(base, n_repetitions=2, n_buckets=3).fit(abs(X), y)
    expected = call(model, abs(X))
    model.set_params(n_jobs=2)
    monkeypatch.setattr("sklearn_mach._classifier.cpu_count", lambda: 2)
    together = Barrier(2)

    def bucket_scores(self, X, scores=MACHClassifier._bucket_scores):
        together.wait(10)  # each of two threads waits for the other
        return scores(self, X)

    monkeypatch.setattr(MACHClassifier, "_bucket_scores", bucket_scores)
    assert_array_equal(call(model, abs(X)), expected)


def test_stages_refuse_bad_input_before_work(blobs):
    X, y = blobs()
    with pytest.raises(NotFittedError):
        MACHClassifier().staged_predict(X)
    model = MACHClassifier(n_repetitions=2, n_buckets=3, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="k must be an integer from 1"):
        model.staged_predict_topk(X, k=0)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.staged_score(X, y[:-1])


@pytest.mark.parametrize("k", [0, -1, 7, 2.0, "2", None])
def test_bad_k_is_refused(blobs, k):
    X, y = blobs(60)
    model = MACHClassifier(max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match="k must be an integer from 1 to .* 6; got"):
        model.predict_topk(X, k=k)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_chunks_of_rows_change_nothing(blobs, sparse, base):
    if sparse and base is not None:
        base = MultinomialNB()
    X, y = blobs(203, 8, 12, sparse=sparse)
    X = abs(X)
    model = MACHClassifier(base, n_repetitions=5, n_buckets=4, random_state=0)
    model.fit(X, y)
    labels, scores = model.predict_topk(X, k=4, return_scores=True)
    everything, proba = model.decision_function(X), model.predict_proba(X)
    with config_context(working_memory=0.003):  # 3 kB: a few rows at a time
        for n_jobs in (1, 2):
            model.set_params(n_jobs=n_jobs)
            few = model.predict_topk(X, k=4, return_scores=True)
            assert_array_equal(few[0], labels)
            assert_array_equal(few[1], scores)
            assert_array_equal(model.decision_function(X), everything)
            assert_array_equal(model.predict_proba(X), proba)
    one_by_one = [model.decision_function(X[i : i + 1])[0] for i in range(0, 203, 20)]
    assert_array_equal(one_by_one, everything[::20])


# Base classifiers -------------------------------------------------------------------


@pytest.mark.parametrize(
    "base",
    [
        LogisticRegression(),
        LinearSVC(),
        SGDClassifier(),
        DecisionTreeClassifier(),
        GaussianNB(),
        KNeighborsClassifier(),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
)
@pytest.mark.parametrize("n_buckets", [2, 5])
def test_base_classifiers_learn(blobs, base, n_buckets):
    X, y = blobs(200, sparse=False)
    model = MACHClassifier(base, n_repetitions=8, n_buckets=n_buckets, random_state=0)
    model.fit(X[:150], y[:150])
    assert len(model.estimators_) == 8
    for r, estimator in enumerate(model.estimators_):
        assert_array_equal(estimator.classes_, np.unique(model.bucket_table_[:, r]))
    assert model.score(X[150:], y[150:]) > 0.85
    assert not hasattr(base, "classes_")


def test_a_base_with_only_decision_function_gets_its_softmax(blobs):
    X, y = blobs(90, 8, 9)
    for n_buckets in (2, 3):
        model = MACHClassifier(
            LinearSVC(), n_repetitions=5, n_buckets=n_buckets, decoder="mean"
        )
        model.set_params(random_state=0).fit(X, y)
        expected = 0
        for estimator, column in zip(
            model.estimators_, model.bucket_table_.T, strict=True
        ):
            values = estimator.decision_function(X)
            if n_buckets == 2:
                proba = 1 / (1 + np.exp(-values))
                proba = np.column_stack([1 - proba, proba])
            else:
                proba = softmax(values, axis=1)
            proba = (1 - SMOOTHING) * proba + SMOOTHING / n_buckets
            expected = expected + proba[:, column] / 5
        # float32 sums.
        assert_allclose(model.decision_function(X), expected, rtol=1e-5)


class MissingBuckets(ExactBuckets):
    """A classifier that gives NaN for the last row, if it has learnt bucket 3."""

    def predict_proba(self, X):
        proba = super().predict_proba(X)
        proba[-1:, self.classes_ == 3] = np.nan
        return proba


@predictions
def test_nan_of_a_base_classifier_is_refused(call):
    table = np.array([[0, 0], [1, 1], [2, 3]])
    model = MACHClassifier(MissingBuckets(), hashing=table).fit(np.eye(3), [0, 1, 2])
    message = r"predict_proba of repetition 1, MissingBuckets\(\), gives NaN for 1 of 3"
    with pytest.raises(ValueError, match=message):
        call(model, np.eye(3))


class InfiniteScores(LinearSVC):
    def decision_function(self, X):
        return np.full((X.shape[0], self.classes_.size), np.inf)


def test_infinite_scores_of_a_base_classifier_are_refused(blobs):
    X, y = blobs(60)
    model = MACHClassifier(InfiniteScores(), n_repetitions=2, n_buckets=3).fit(X, y)
    with pytest.raises(ValueError, match="repetition 0, .* gives NaN for 60 of 60"):
        model.predict(X)


@pytest.mark.parametrize(("n_buckets", "n_scores"), [(3, 3), (4, 6)])
def test_base_classifiers_that_score_pairs_of_buckets_are_refused(
    blobs, n_buckets, n_scores
):
    X, y = blobs(60)
    base = SVC(decision_function_shape="ovo")
    model = MACHClassifier(base, n_repetitions=2, n_buckets=n_buckets).fit(X, y)
    message = rf"repetition 0, .*shape \(60, {n_scores}\) .*{n_buckets} buckets.*'ovr'"
    with pytest.raises(ValueError, match=message):
        model.predict(X)
    base.set_params(decision_function_shape="ovr")
    assert model.fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize("decoder", DECODERS)
def test_zero_probabilities_of_trees_make_no_class_impossible(blobs, decoder):
    X, y = blobs(90, 8, 9, noise=2.0)
    model = MACHClassifier(
        DecisionTreeClassifier(), n_repetitions=4, n_buckets=3, decoder=decoder
    ).fit(X, y)
    assert any((e.predict_proba(X) == 0).any() for e in model.estimators_)
    assert np.isfinite(model.decision_function(X)).all()
    if decoder != "mean":  # where negative estimates become zero
        assert np.isfinite(model.predict_log_proba(X)).all()


def test_weights_reach_the_base_classifiers(blobs):
    X, y = blobs(60)
    weight = np.random.default_rng(0).uniform(0.1, 5, 60)
    regression = LogisticRegression(tol=1e-8, max_iter=1000)
    model = MACHClassifier(regression, n_repetitions=1, random_state=0)
    model.fit(X, y, sample_weight=weight)
    buckets = model.bucket_table_[y, 0]
    alone = clone(regression).fit(X, buckets, sample_weight=weight)
    assert_allclose(model.estimators_[0].coef_, alone.coef_, rtol=1e-6)
    by_class = {0: 10.0, 3: 0.1}
    model.set_params(class_weight=by_class).fit(X, y, sample_weight=weight)
    weight *= [by_class.get(i, 1.0) for i in y]
    alone.fit(X, model.bucket_table_[y, 0], sample_weight=weight)
    assert_allclose(model.estimators_[0].coef_, alone.coef_, rtol=1e-6)


def test_routed_weights_reach_the_base_classifiers(blobs):
    X, y = blobs(60)
    weight = np.random.default_rng(0).uniform(0.1, 5, 60)
    plain = MACHClassifier(LogisticRegression(), n_repetitions=2, random_state=0)
    expected = plain.fit(X, y, sample_weight=weight).decision_function(X)
    with config_context(enable_metadata_routing=True):
        base = LogisticRegression().set_fit_request(sample_weight=True)
        routed = MACHClassifier(base, n_repetitions=2, random_state=0)
        routed.fit(X, y, sample_weight=weight)
        assert_array_equal(routed.decision_function(X), expected)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            clone(plain).fit(X, y, sample_weight=weight)
        built_in = MACHClassifier(max_iter=1, random_state=0)
        built_in.fit(X, y, sample_weight=weight)
        search = GridSearchCV(
            built_in.set_fit_request(sample_weight=True).set_score_request(
                sample_weight=False
            ),
            {"max_iter": [1, 2]},
            cv=2,
        )
        search.fit(X, y, sample_weight=weight)
    best = search.best_estimator_
    alone = clone(best).fit(X, y, sample_weight=weight)
    assert_same_model(best, alone)
    assert not np.array_equal(best.coef_, clone(best).fit(X, y).coef_)


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


# Calibrating ------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["built-in", "base"])
def trained_in_blocks(request):
    """A model of a few blocks, other rows to calibrate it with, and more to see it."""
    X, y = make_many_classes(2000, 120, 40, n_nonzeros=6, random_state=0)
    base = MultinomialNB() if request.param == "base" else None
    model = MACHClassifier(base, n_repetitions=4, n_buckets=6, random_state=0)
    for start in range(0, 1000, 250):
        rows = slice(start, start + 250)
        model.partial_fit(X[rows], y[rows], classes=range(40))
    return model, (X[1000:1400], y[1000:1400]), (X[1400:], y[1400:])


@pytest.fixture
def uncalibrated(trained_in_blocks):
    """The same with a model of its own for each test."""
    model, rows, new = trained_in_blocks
    return pickle.loads(pickle.dumps(model)), rows, new


def log_loss_of(model, X, y):
    return log_loss(y, model.predict_proba(X), labels=model.classes_)


def test_calibrate_brings_the_log_loss_of_new_rows_down(uncalibrated):
    model, rows, new = uncalibrated
    before = log_loss_of(model, *new)
    scores = model.set_params(logit_adjustment=0).decision_function(new[0])
    assert model.calibrate(*rows) is model
    assert log_loss_of(model, *new) < before
    assert_array_equal(model.decision_function(new[0]), scores)
    proba = model.predict_proba(new[0])
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    # no other temperature does better on the rows it was fitted to
    found, scores = log_loss_of(model, *rows), model.decision_function(rows[0])
    for temperature in (0.5, 1, 1.5, 2, 3, 4, 6):
        log_proba = log_softmax(temperature * scores.astype(np.float64), axis=1)
        loss = -log_proba[np.arange(rows[1].size), rows[1]].mean()
        assert found < loss + 1e-5  # the steps end where less is gained


def test_calibrate_changes_no_weights(uncalibrated):
    model, rows, (X, _) = uncalibrated
    state = pickle.loads(pickle.dumps(model))
    bucket_scores = model._bucket_scores(X)
    model.calibrate(*rows)
    assert_array_equal(model._bucket_scores(X), bucket_scores)
    assert_array_equal(model.bucket_table_, state.bucket_table_)
    assert_array_equal(model.classes_, state.classes_)
    assert model.n_iter_ == state.n_iter_
    if model.estimator is None:
        assert_same_model(model, state)


@pytest.mark.parametrize("number", [0, 0.5, -1])
def test_calibrate_leaves_a_logit_adjustment_that_is_a_number(uncalibrated, number):
    model, rows, (X, y) = uncalibrated
    plain = model.calibrate(*rows).set_params(logit_adjustment=0).calibrate(*rows)
    assert plain.logit_adjustment_ == 0
    before = plain.decision_function(X)
    model.set_params(logit_adjustment=number).calibrate(*rows)
    assert model.logit_adjustment_ == number
    # of the rows the model was trained on
    trained = make_many_classes(2000, 120, 40, n_nonzeros=6, random_state=0)[1][:1000]
    counts = np.bincount(trained, minlength=40)
    share = np.maximum(counts, counts[counts > 0].min()) / 1000
    expected = before - number * np.log(40 * share)
    assert_allclose(model.decision_function(X), expected, rtol=1e-5, atol=1e-5)


def test_calibrate_fits_an_automatic_logit_adjustment(uncalibrated, monkeypatch):
    model, rows, _ = uncalibrated
    # what it is fitted to: the ten best of each row without an adjustment
    best, scores = reference.topk(model.decision_function(rows[0]), 10)
    own = best == rows[1][:, None]
    given = []

    def fit_adjustment(*arrays):
        given.extend(arrays)
        return 0.3

    monkeypatch.setattr(_classifier, "fit_adjustment", fit_adjustment)
    assert model.calibrate(*rows).logit_adjustment_ == 0.3
    assert_allclose(np.sort(given[0], axis=0), np.sort(scores, axis=0), rtol=1e-6)
    assert_array_equal(given[2].sum(axis=0), own.sum(axis=0))
    assert_array_equal(given[3], np.ones(400))
    before = given.copy()
    given.clear()
    model.calibrate(*rows)  # not of the scores that the first one adjusted
    for first, second in zip(before, given, strict=True):
        assert_array_equal(first, second)


@pytest.mark.parametrize("decoder", DECODERS)
def test_calibrate_works_with_every_decoder(uncalibrated, decoder):
    model, rows, (X, _) = uncalibrated
    expected = pickle.loads(pickle.dumps(model)).calibrate(*rows)
    model.set_params(decoder=decoder).calibrate(*rows)
    model.set_params(decoder="log_mean")
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


def test_rows_of_weight_zero_do_not_matter_to_calibrate(uncalibrated):
    model, (X, y), (new, _) = uncalibrated
    other = pickle.loads(pickle.dumps(model))
    weight = np.random.default_rng(0).uniform(0, 2, y.size)
    weight[::3] = 0
    used = weight > 0
    y = np.where(used, y, 39 - y)  # whatever they are
    model.calibrate(X, y, weight)
    other.calibrate(X[used], y[used], sample_weight=weight[used])
    assert model.logit_adjustment_ == other.logit_adjustment_
    assert_array_equal(model.predict_proba(new), other.predict_proba(new))


@pytest.mark.parametrize("n_classes", [1, 2])
@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_calibrate_of_one_or_two_classes(blobs, base, n_classes):
    X, y = blobs(90, n_classes=2, noise=2, sparse=False)
    y = y % n_classes
    model = MACHClassifier(base, random_state=0).fit(X[:60], y[:60])
    labels = model.predict(X)
    proba = model.calibrate(X[60:], y[60:]).predict_proba(X)
    assert proba.shape == (90, n_classes)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert_array_equal(model.predict(X), labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y, w: (X, np.where(y == 3, 40, y), w), r"not in classes: \[40\]"),
        (lambda X, y, w: (X, y.astype(str), w), "cannot be compared|not in classes"),
        (lambda X, y, w: (X[:, :9], y, w), "X has 9 features"),
        (lambda X, y, w: (X, y[1:], w), "inconsistent numbers of samples"),
        (lambda X, y, w: (X, y, -w), "Negative values"),
        (lambda X, y, w: (X, y, w * np.nan), "contains NaN"),
        (lambda X, y, w: (X, y, w[1:]), "shape"),
        (lambda X, y, w: (X, y, 0 * w), "is zero for all rows|non-zero number"),
        (lambda X, y, w: (X[:0], y[:0], w[:0]), "0 sample"),
    ],
)
def test_calibrate_refuses_bad_rows_and_stays_as_it_was(uncalibrated, change, message):
    model, rows, (X, _) = uncalibrated
    model.calibrate(*rows)
    proba, tau = model.predict_proba(X), model.logit_adjustment_
    with pytest.raises(ValueError, match=message):
        model.calibrate(*change(*rows, np.ones(rows[1].size)))
    assert model.logit_adjustment_ == tau
    assert_array_equal(model.predict_proba(X), proba)


def test_an_error_within_calibrate_leaves_the_model_untouched(
    uncalibrated, monkeypatch
):
    model, rows, (X, _) = uncalibrated
    proba, scores = model.predict_proba(X), model.decision_function(X)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_classifier, "fit_adjustment", lambda *rows: 3.0)

        def interrupted(*args):
            raise KeyboardInterrupt

        patch.setattr(_classifier, "fit_scalars", interrupted)
        model.calibrate(*rows)
    assert model.logit_adjustment_ == 0
    assert_array_equal(model.decision_function(X), scores)
    assert_array_equal(model.predict_topk(X)[:, 0], scores.argmax(axis=1))
    assert_array_equal(model.predict_proba(X), proba)


def test_calibrate_needs_a_fitted_model_and_good_parameters(blobs):
    X, y = blobs(60)
    model = MACHClassifier()
    with pytest.raises(NotFittedError):
        model.calibrate(X, y)
    model.fit(X, y).set_params(logit_adjustment="bogus")
    with pytest.raises(ValueError, match="'logit_adjustment' parameter"):
        model.calibrate(X, y)


def test_partial_fit_keeps_what_calibrate_found_and_fit_does_not(
    uncalibrated, monkeypatch
):
    model, rows, (X, _) = uncalibrated
    monkeypatch.setattr(_classifier, "fit_adjustment", lambda *rows: 0.3)
    model.calibrate(*rows)
    scalars = model._scalars.copy()
    model.partial_fit(*rows)
    assert model.logit_adjustment_ == 0.3
    assert_array_equal(model._scalars, scalars)
    fresh = clone(model).fit(*rows)
    model.fit(*rows)
    assert model.logit_adjustment_ == fresh.logit_adjustment_ == 0
    assert_array_equal(model.predict_proba(X), fresh.predict_proba(X))


# Growing ----------------------------------------------------------------------------


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
    monkeypatch.setattr("sklearn_mach._classifier.free_memory", lambda: free)
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


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, MultinomialNB(), "model of estimator=None.* is now MultinomialNB"),
        (MultinomialNB(), None, "model of base classifiers.* is now None"),
    ],
)
def test_another_kind_of_learner_does_not_go_on(blobs, before, after, message):
    X, y = blobs(60)
    X = abs(X)
    model = MACHClassifier(before, n_repetitions=2, n_buckets=3, random_state=0)
    scores = model.fit(X, y).decision_function(X)
    model.set_params(estimator=after, n_repetitions=3)
    with pytest.raises(ValueError, match=f"partial_fit .*{message}.*Call fit"):
        model.partial_fit(X, y)
    model.set_params(warm_start=True)
    with pytest.raises(ValueError, match=f"{message}.*Set warm_start=False"):
        model.fit(X, y)
    assert_array_equal(model.set_params(estimator=before).decision_function(X), scores)
    fresh = clone(model).set_params(estimator=after).fit(X, y).decision_function(X)
    model.set_params(estimator=after, warm_start=False).fit(X, y)
    assert_array_equal(model.decision_function(X), fresh)


def test_steps_stay_short_where_rows_may_come_again(blobs, monkeypatch):
    # Held out of rows that come again are rows that were trained on: a trial on them
    # would find the longest steps the best.
    X, y = blobs(1_200, 6, 5)

    def fitted(factor, size):
        def trial(X, *_):
            return factor if X.shape[0] >= 1_000 else None

        monkeypatch.setattr("sklearn_mach._trial.probe_step", trial)
        model = MACHClassifier(n_repetitions=2, n_buckets=3, random_state=0)
        for _ in range(1_200 // size):
            model.partial_fit(X[:size], y[:size], classes=range(5))
        return model.coef_

    assert_array_equal(fitted(32.0, 400), fitted(4.0, 400))
    assert (fitted(32.0, 1_200) != fitted(4.0, 1_200)).any()  # one block has no repeats
    assert (fitted(1.0, 400) != fitted(4.0, 400)).any()  # and short steps are kept


@pytest.mark.parametrize("sparse", [False, True])
def test_partial_fit_learns_from_blocks(blobs, sparse):
    X, y = blobs(1000, 12, 20, noise=0.5, sparse=sparse)
    model = MACHClassifier(n_repetitions=8, n_buckets=5, random_state=0)
    reached = clone(model).fit(X[:600], y[:600]).score(X[600:], y[600:])
    assert reached > 0.9
    for _ in range(5):
        for start in range(0, 600, 150):
            rows = slice(start, start + 150)
            model.partial_fit(X[rows], y[rows], classes=np.arange(20))
    assert model.score(X[600:], y[600:]) > reached - 0.05
    assert model.n_iter_ == 20


@pytest.mark.parametrize("base", [None, MultinomialNB()])
def test_class_weight_counts_in_blocks_of_one_class(blobs, base):
    X, y = blobs(120)
    X = abs(X)
    model = MACHClassifier(base, n_repetitions=4, n_buckets=3, random_state=0)
    by_class = clone(model).set_params(class_weight={0: 4.0, 3: 0.25})
    by_row, unweighted = clone(model), clone(model)
    for k in (1, 0, 3, 2, 4, 5):
        rows = y == k
        weight = np.full(rows.sum(), {0: 4.0, 3: 0.25}.get(k, 1.0))
        by_class.partial_fit(X[rows], y[rows], classes=range(6))
        by_row.partial_fit(X[rows], y[rows], range(6), sample_weight=weight)
        unweighted.partial_fit(X[rows], y[rows], classes=range(6))
    scores = by_class.decision_function(X)
    assert_array_equal(scores, by_row.decision_function(X))
    assert abs(scores - unweighted.decision_function(X)).max() > 0.1


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1e-3])
def test_rows_of_little_weight_change_little(blobs, sparse, alpha):
    X, y = blobs(400, sparse=sparse)
    model = MACHClassifier(n_repetitions=4, n_buckets=3, alpha=alpha, random_state=0)
    for start in range(0, 300, 100):
        rows = slice(start, start + 100)
        model.partial_fit(X[rows], y[rows], classes=range(6))
    scores, wrong = model.decision_function(X), (y[300:] + 1) % 6
    as_heavy = pickle.loads(pickle.dumps(model)).partial_fit(X[300:], wrong)
    assert abs(as_heavy.decision_function(X) - scores).max() > 0.1
    model.partial_fit(X[300:], wrong, sample_weight=np.full(100, 1e-6))
    assert abs(model.decision_function(X) - scores).max() < 1e-3


@pytest.mark.parametrize("sparse", [False, True])
def test_partial_fit_keeps_no_arrays_of_the_caller(sparse):
    X, y = make_many_classes(1200, 60, 20, n_nonzeros=6, random_state=0)
    X = X if sparse else X.toarray()
    sizes = dict(n_repetitions=2, n_buckets=5, random_state=0)
    fresh, reused = MACHClassifier(**sizes), MACHClassifier(**sizes)
    for start in range(0, 1200, 400):  # the trial of the step waits for 1,000 rows
        rows, weight = slice(start, start + 400), np.ones(400)
        fresh.partial_fit(X[rows], y[rows], range(20), sample_weight=weight.copy())
        block, labels = X[rows].copy(), y[rows].copy()
        reused.partial_fit(block, labels, range(20), sample_weight=weight)
        values = block.data if sparse else block
        values[:], labels[:], weight[:] = 7, 0, 0
    assert_same_model(reused, fresh)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_partial_fit_takes_sparse_and_dense_blocks_in_turn(dtype):
    X, y = make_many_classes(1200, 60, 20, n_nonzeros=6, random_state=0)
    sizes = dict(n_repetitions=4, n_buckets=5, random_state=0)
    models = [MACHClassifier(**sizes) for _ in range(3)]
    for start in range(0, 1200, 400):
        rows = slice(start, start + 400)
        blocks = X[rows], X[rows].toarray(), X[rows]
        if start == 400:
            blocks = X[rows], X[rows].toarray(), X[rows].toarray().astype(dtype)
        for model, block in zip(models, blocks, strict=True):
            model.partial_fit(block, y[rows], classes=range(20))
    sparse, dense, mixed = (model.score(X, y) for model in models)
    assert min(sparse, dense) > 0.3
    assert mixed > min(sparse, dense) - 0.05


def test_partial_fit_of_counts_equals_fit(blobs):
    X, y = blobs(120)
    X = abs(X)
    model = MACHClassifier(MultinomialNB(), n_repetitions=4, n_buckets=3)
    model.set_params(hashing="balanced", random_state=0)
    whole = clone(model).fit(X, y).decision_function(X)
    order = np.argsort(y, kind="stable")  # most blocks lack most classes
    for start in range(0, 120, 30):
        rows = order[start : start + 30]
        model.partial_fit(X[rows], y[rows], classes=np.arange(6))
    # Counts are added in another order.
    assert_allclose(model.decision_function(X), whole, rtol=1e-5)


@pytest.mark.parametrize("first", ["fit", "partial_fit"])
def test_partial_fit_passes_over_repetitions_of_one_bucket(blobs, first):
    X, y = blobs(300)
    table = np.column_stack([np.full(6, 2), np.arange(6)])
    base = SGDClassifier(loss="log_loss")
    model = MACHClassifier(base, hashing=table, random_state=0)
    classes = {"classes": range(6)} if first == "partial_fit" else {}
    getattr(model, first)(X[:100], y[:100], **classes)
    seed = model.estimators_[1].random_state
    alone = clone(base).set_params(random_state=seed)
    getattr(alone, first)(X[:100], y[:100], **classes)
    for rows in (slice(100, 200), slice(200, 210)):
        model.partial_fit(X[rows], y[rows])
        alone.partial_fit(X[rows], y[rows])
    # one repetition tells nothing and the other is a classifier of the classes
    assert_array_equal(model.estimators_[1].coef_, alone.coef_)
    assert_array_equal(model.predict(X[210:]), alone.predict(X[210:]))
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("base", [None, SGDClassifier(loss="log_loss"), GaussianNB()])
def test_partial_fit_of_a_single_class(blobs, base):
    X, _ = blobs(60, sparse=False)
    y = np.full(60, "only")
    model = MACHClassifier(base).partial_fit(X, y, classes=["only"]).partial_fit(X, y)
    assert_array_equal(model.predict(X), y)
    assert_array_equal(model.predict_proba(X), np.ones((60, 1)))


def test_partial_fit_predicts_classes_it_has_not_seen(blobs):
    X, y = blobs(240)
    X = abs(X)
    few, new = y < 3, np.arange(240) >= 120
    for base in (None, MultinomialNB()):
        model = MACHClassifier(base, n_repetitions=3, n_buckets=3, random_state=0)
        known = few & ~new
        model.partial_fit(X[known], y[known], classes=range(6))
        assert_array_equal(model.classes_, np.arange(6))
        assert model.score(X[few & new], y[few & new]) > 0.9
        proba = model.predict_proba(X)
        assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
        assert (proba > 0).all()  # of the others, too
        others = ~few & ~new
        model.partial_fit(X[others], y[others]).partial_fit(X[~new], y[~new])
        assert model.score(X[new], y[new]) > 0.9


def test_partial_fit_messages(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0)
    with pytest.raises(ValueError, match="classes must be passed at the first call"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match=r"labels that are not in classes: \[4, 5\]"):
        model.partial_fit(X, y, classes=range(4))
    assert not hasattr(model, "classes_")
    model.partial_fit(X, y, classes=range(6))
    with pytest.raises(ValueError, match="not the 6 of the first call"):
        model.partial_fit(X, y, classes=range(7))
    with pytest.raises(ValueError, match="'balanced' is not known block by block"):
        model.set_params(class_weight="balanced").partial_fit(X, y)
    lazy = MACHClassifier(LogisticRegression())
    assert not hasattr(lazy, "partial_fit")
    assert hasattr(MACHClassifier(MultinomialNB()), "partial_fit")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0, 0.1])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_failing_partial_fit_leaves_the_model_untouched(blobs, sparse, alpha, n_jobs):
    X, y = blobs(60, sparse=sparse)
    model = MACHClassifier(
        n_repetitions=4, n_buckets=3, alpha=alpha, random_state=0, n_jobs=n_jobs
    )
    model.partial_fit(X, y, classes=range(6))
    twin = pickle.loads(pickle.dumps(model))
    model.set_params(learning_rate=1e38)
    if sparse:  # a block that touches one feature only
        few = sp.csr_matrix(X.toarray() * (np.arange(12) == 3))
    else:
        few = X
    with pytest.raises(ValueError, match="learning_rate"):
        model.partial_fit(few * 100, y)
    with pytest.raises(ValueError, match="not in classes"):
        model.partial_fit(X, y + 1)
    model.set_params(learning_rate="auto")
    assert_same_model(model, twin)
    assert_same_model(model.partial_fit(X, y), twin.partial_fit(X, y))


def test_a_failing_partial_fit_of_base_classifiers_leaves_the_model_untouched(blobs):
    X, y = blobs(60)
    X = abs(X)
    table = np.array([[0, 1], [1, 0], [2, 1], [0, 0], [1, 2], [2, 2]])
    model = MACHClassifier(FailingLater(), hashing=table, random_state=0)
    model.partial_fit(X, y, classes=range(6))
    scores = model.decision_function(X)
    with pytest.raises(ValueError, match="out of order"):
        model.partial_fit(X[y == 0], y[y == 0])
    assert_array_equal(model.decision_function(X), scores)


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
        ("multi-output", "y should be a 1d array"),
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


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_buckets": 1}, "'n_buckets' parameter .* Got 1 instead"),
        ({"n_buckets": 2.5}, "'n_buckets' parameter .* Got 2.5 instead"),
        ({"n_repetitions": 0}, "'n_repetitions' parameter .* Got 0 instead"),
        ({"hashing": "murmur"}, "'hashing' parameter .* Got 'murmur' instead"),
        ({"decoder": "max"}, "'decoder' parameter .* Got 'max' instead"),
        ({"logit_adjustment": "none"}, "'logit_adjustment' parameter .*'none'"),
        ({"logit_adjustment": None}, "'logit_adjustment' parameter .* Got None"),
        ({"logit_adjustment": np.nan}, "'logit_adjustment' parameter .* Got nan"),
        ({"logit_adjustment": np.inf}, "'logit_adjustment' parameter .* Got inf"),
        ({"logit_adjustment": -np.inf}, "'logit_adjustment' parameter .* Got -inf"),
        ({"logit_adjustment": [1.0]}, "'logit_adjustment' parameter .* Got \\[1.0\\]"),
        ({"learning_rate": 0}, "'learning_rate' parameter .* Got 0 instead"),
        ({"max_iter": 0}, "'max_iter' parameter .* Got 0 instead"),
        ({"alpha": -1}, "'alpha' parameter .* Got -1 instead"),
        ({"validation_fraction": 1.0}, "'validation_fraction' parameter"),
        ({"class_weight": "auto"}, "'class_weight' parameter"),
        ({"class_weight": {0: np.nan}}, "gives class 0 the weight nan. .*finite"),
        ({"class_weight": {0: np.inf}}, "gives class 0 the weight inf"),
        ({"class_weight": {1: None}}, "gives class 1 the weight None"),
        ({"class_weight": {1: "a"}}, "gives class 1 the weight 'a'"),
        ({"class_weight": {0: 1.0, 5: -1.0}}, "class 5 the weight -1.0.*not negative"),
        (
            {"n_repetitions": 2, "n_buckets": 2},
            "n_repetitions=2 with n_buckets=2 cannot tell 6 classes apart.*only 4 "
            "combinations.*Use n_repetitions=3 or more, or more buckets",
        ),
        ({"device": "cuda"}, "device='cuda' cannot be used"),
        ({"device": "gpu"}, "device='gpu' cannot be used"),
        ({"estimator": LinearRegression()}, "LinearRegression.* is not a classifier"),
        ({"estimator": LogisticRegression}, "is not a classifier. Pass an instance"),
        ({"estimator": "tree"}, "'estimator' parameter"),
        (
            {"early_stopping": True, "validation_fraction": 0.99},
            "validation_fraction=0.99 of 60 rows leaves none to train on",
        ),
    ],
)
def test_bad_parameters_are_refused(blobs, parameters, message):
    X, y = blobs(60)
    with pytest.raises(ValueError, match=message):
        MACHClassifier(**parameters).fit(X, y)
    if "class_weight" in parameters:
        with pytest.raises(ValueError, match=message):
            MACHClassifier(**parameters).partial_fit(X, y, classes=range(6))


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
    monkeypatch.setattr(_classifier, "warnings", None)
    y = np.arange(30).astype(str if dtype is object else dtype).astype(dtype)
    checked = MACHClassifier()._validate(np.eye(30), y, reset=True)[1]
    assert_array_equal(checked, y)
    if dtype is float:
        with pytest.raises(ValueError, match="continuous"):
            MACHClassifier()._validate(np.eye(30), y + 0.5, reset=True)


def test_the_smallest_number_of_repetitions_in_the_message_is_accepted(blobs):
    X, y = blobs(100, 6, 50)
    model = MACHClassifier(n_repetitions=2, n_buckets=3, max_iter=1)
    with pytest.raises(ValueError) as error:
        model.fit(X, y)
    least = int(re.search(r"Use n_repetitions=(\d+)", str(error.value))[1])
    assert 3 ** (least - 1) < 50 <= 3**least
    model.set_params(n_repetitions=least).fit(X, y)
    assert model.bucket_table_.shape == (50, least)


def test_a_base_that_cannot_score_is_refused(blobs):
    class OnlyPredicts(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            return self

        def predict(self, X):
            return np.zeros(len(X))

    X, y = blobs(60)
    with pytest.raises(ValueError, match="neither predict_proba nor decision_function"):
        MACHClassifier(OnlyPredicts()).fit(X, y)


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


@pytest.mark.parametrize("base", [None, LogisticRegression()])
def test_a_failed_fit_leaves_the_model_untouched(blobs, base):
    X, y = blobs(60)
    model = MACHClassifier(base, n_repetitions=3, n_buckets=3, random_state=0)
    state = dict(model.fit(X, y).__dict__)
    scores = model.decision_function(X)
    wider, others = blobs(80, 14, 30)
    with pytest.raises(ValueError, match="cannot tell 30 classes apart"):
        model.fit(wider, others)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(wider, np.where(others == 2, np.nan, others))
    with pytest.raises(ValueError, match="not a classifier"):
        model.set_params(estimator=LinearRegression()).fit(wider, others)
    model.set_params(estimator=base)
    if base is None:
        with pytest.raises(ValueError, match="smaller learning_rate"):
            model.set_params(learning_rate=1e38).fit(100 * wider, others % 5)
        model.set_params(learning_rate="auto")
    else:
        with pytest.raises(ValueError, match="C"):
            model.set_params(estimator=LogisticRegression(C=-1)).fit(wider, others % 5)
        model.set_params(estimator=base)
    assert model.__dict__.keys() == state.keys()
    assert model.n_features_in_ == 12
    assert_array_equal(model.classes_, np.arange(6))
    assert_array_equal(model.decision_function(X), scores)


# Memory -----------------------------------------------------------------------------


def test_weights_larger_than_the_free_memory_are_refused(blobs, monkeypatch):
    X, y = blobs(600, 50, 300)
    free = 51 * 4 * 100  # a hundred columns of weights
    monkeypatch.setattr("sklearn_mach._classifier.free_memory", lambda: free)
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
    monkeypatch.setattr(_classifier, "_UNCOUNTED", 0)  # whatever it takes
    monkeypatch.setattr(_trial, "_PROBE_BYTES", 0)
    weights = theory.model_bytes(50, 8, 64)
    trial = 50 * 4 * 8 * 64 // 10
    model = MACHClassifier(n_repetitions=8, n_buckets=64, max_iter=1)
    model.set_params(hashing="balanced")  # others need memory for sketches
    monkeypatch.setattr(_classifier, "free_memory", lambda: weights + trial - 1)
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
    monkeypatch.setattr(_classifier, "free_memory", lambda: weights + trial)
    model.fit(X, y)


def test_weights_out_of_proportion_to_the_values_are_reported(blobs, monkeypatch):
    texts = [f"{a} {b}" for a in ("red", "green", "blue") for b in ("hat", "coat")] * 9
    names = [text.split()[1] for text in texts]
    monkeypatch.setattr(_classifier, "_MANY_BYTES", 4 * 4096)
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
    monkeypatch.setattr(_classifier, "_MANY_BYTES", 0)
    model.fit(TfidfVectorizer().fit_transform(texts), names)
    for sparse in (True, False):
        model.fit(*blobs(60, n_classes=2, sparse=sparse))
    monkeypatch.undo()
    model.fit(hashed, names)


@pytest.mark.parametrize("n_columns", [18, 40, 100, 400, 3000])
def test_automatic_sizes_fit_in_half_of_the_free_memory(blobs, monkeypatch, n_columns):
    X, y = blobs(600, 50, 300)
    free = 2 * 51 * 4 * n_columns
    monkeypatch.setattr("sklearn_mach._classifier.free_memory", lambda: free)
    model = MACHClassifier(max_iter=1).fit(X, y)
    assert model.coef_.nbytes + model.intercept_.nbytes <= free // 2
    assert np.unique(model.bucket_table_, axis=0).shape[0] == 300


def test_too_little_memory_for_any_sizes_is_said(blobs, monkeypatch):
    X, y = blobs(600, 50, 300)
    monkeypatch.setattr("sklearn_mach._classifier.free_memory", lambda: 400)
    with pytest.raises(MemoryError, match="No R and B fit; use fewer features"):
        MACHClassifier(max_iter=1).fit(X, y)


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_scores_larger_than_the_free_memory_are_refused(blobs, monkeypatch, base):
    X, y = blobs(60, sparse=False)
    model = MACHClassifier(base, random_state=0).fit(X, y)
    expected = model.predict(X)
    monkeypatch.setattr("sklearn_mach._classifier.free_memory", lambda: 500)
    for method, itemsize in (
        ("decision_function", 4),
        ("predict_proba", 8),
        ("predict_log_proba", 8),
    ):
        with pytest.raises(MemoryError, match="only 500 bytes .*predict_topk") as error:
            getattr(model, method)(X)
        needed = int(re.search(r"take (\d+) bytes", str(error.value))[1])
        assert needed >= 60 * 6 * itemsize
    assert_array_equal(model.predict(X), expected)
    assert_array_equal(model.predict_topk(X, k=6)[:, 0], expected)


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_clustering_that_does_not_fit_in_the_free_memory_is_refused(
    blobs, monkeypatch, base
):
    X, y = blobs(600, 2, n_classes=300, sparse=False)
    sizes = dict(n_repetitions=4, n_buckets=18, max_iter=1, random_state=0)
    model = MACHClassifier(base, **sizes)
    monkeypatch.setattr("sklearn_mach._classifier.free_memory", lambda: 10**8)
    monkeypatch.setattr(_hashing, "sketch_bytes", lambda n_classes: 10**6 * n_classes)
    message = "300 classes in 300000000 bytes .* Use hashing='balanced'"
    with pytest.raises(MemoryError, match=message):
        model.fit(X, y)
    model.set_params(hashing="balanced").fit(X, y)
    model.set_params(hashing="clustered", n_repetitions=3).fit(X, y)  # none of it


def test_unknown_free_memory_refuses_nothing(blobs, monkeypatch):
    X, y = blobs(60)
    monkeypatch.setattr("sklearn_mach._classifier.free_memory", lambda: None)
    assert MACHClassifier().fit(X, y).predict_proba(X).shape == (60, 6)


@pytest.mark.parametrize("name", ["coef_", "intercept_"])
def test_weights_are_there_only_when_the_built_in_learner_is_fitted(blobs, name):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=2, n_buckets=3)
    assert not hasattr(model, name)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(model, name)
    assert hasattr(model.fit(X, y), name)
    model.set_params(estimator=GaussianNB()).fit(X.toarray(), y)
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=f"{name} is an .*built-in.*estimators_"):
        getattr(model, name)


def test_model_bytes(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=4, max_iter=1)
    with pytest.raises(NotFittedError):
        _ = model.model_bytes_
    model.fit(X, y)
    arrays = model.coef_.nbytes + model.intercept_.nbytes
    assert theory.model_bytes(12, 3, 4) == arrays
    assert model.model_bytes_ == arrays + model.bucket_table_.nbytes
    model = MACHClassifier(LogisticRegression(), n_repetitions=3, n_buckets=4).fit(X, y)
    coef = sum(estimator.coef_.nbytes for estimator in model.estimators_)
    assert model.model_bytes_ > coef + model.bucket_table_.nbytes


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


def mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


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
    monkeypatch.setattr(_classifier, "_CALIBRATION_ROWS", 100)  # rows are set aside
    monkeypatch.setattr(_classifier, "_PLAIN_VALUES", 100)  # which a few rows hold
    monkeypatch.setattr(_classifier, "_COPIED_BYTES", 500)
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
        assert_array_equal(one._scalars, other._scalars)
        assert one.logit_adjustment_ == other.logit_adjustment_
        expected = other.predict_proba(plain)
        assert_array_equal(one.predict_proba(X), expected)
        assert_array_equal(one.predict_proba(X[:3]), expected[:3])
        assert_array_equal(one.predict_topk(X, k=5), other.predict_topk(plain, k=5))
        assert_array_equal(one.decision_function(X), other.decision_function(plain))
        stages = zip(one.staged_predict(X), other.staged_predict(plain), strict=True)
        assert all((a == b).all() for a, b in stages)
        assert one.score(X, y) == other.score(plain, y)


def peak_of(function, *args, **options):
    """What the function returns, and the most bytes that it held at a time."""
    tracemalloc.start()
    result = function(*args, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


needs_compilation = pytest.mark.skipif(
    numba.config.DISABLE_JIT, reason="too slow at the sizes that show it"
)


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
    expected.fit(X.astype(np.float32), y)  # and compiles
    expected.predict(X[:1000])
    X = mapped(X.astype(dtype), tmp_path)
    _, peak = peak_of(model.fit, X, y)
    assert_same_model(model, expected)
    # Batches of squares are float64, and rows have numbers, weights and steps.  A
    # copy, even as float16, takes twice these bytes.
    assert peak < 2 * half_a_copy
    with config_context(working_memory=1):  # MB
        for call in (model.predict, model.decision_function):
            assert peak_of(call, X)[1] < half_a_copy  # not even a mask of the values
    assert peak_of(model.partial_fit, X, y)[1] < 2 * half_a_copy


@needs_compilation
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_calibrate_copies_a_few_dense_rows_at_a_time(monkeypatch, tmp_path, dtype):
    monkeypatch.setattr(_classifier, "_COPIED_BYTES", 1 << 18)
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (200, 40_000), np.int8).astype(dtype)
    y = np.arange(200) % 8
    model = MACHClassifier(n_repetitions=2, n_buckets=4, max_iter=1, random_state=0)
    model.fit(X[:20], y[:20]).calibrate(X[:20], y[:20])  # compiles
    X = mapped(X, tmp_path)
    # 16 rows of float32 and 11 kB a row for its classes, of 80 kB and more of X
    assert peak_of(model.calibrate, X, y)[1] < X.nbytes / 2


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("row", [0, 59])
def test_float16_rows_that_are_not_finite_are_refused(blobs, monkeypatch, value, row):
    monkeypatch.setattr(_classifier, "_CHECKED_VALUES", 100)  # of several batches
    X, y = blobs(60, 12, 6, sparse=False)
    X = X.astype(np.float16)
    model = MACHClassifier(n_buckets=3, max_iter=1, random_state=0).fit(X, y)
    X[row, 5] = value
    message = "X contains NaN" if value != value else "X contains infinity .*float16"
    for n_plain in (0, 10_000):
        monkeypatch.setattr(_classifier, "_PLAIN_VALUES", n_plain)
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


def test_base_classifiers_get_float16_rows_as_float64(blobs):
    X, y = blobs(60, 8, 6, sparse=False)
    X = X.astype(np.float16)
    model = MACHClassifier(ExactType(), n_repetitions=2, n_buckets=3).fit(X, y)
    assert {estimator.dtype_ for estimator in model.estimators_} == {np.dtype(float)}


@pytest.mark.parametrize("base", [None, GaussianNB()])
@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.ones((1, 3)), [4]),
        (np.arange(6.0)[:, None], [1, 1, 1, 1, 1, 1]),
        (np.arange(6.0)[:, None], [1, 2, 1, 2, 1, 2]),
        (np.zeros((6, 2)), [0, 1, 2, 3, 4, 5]),
        (np.eye(3), ["a", "b", "c"]),
    ],
)
def test_the_smallest_problems_fit(base, X, y):
    if base is not None:
        base = LinearSVC() if X.any() else DecisionTreeClassifier()
    model = MACHClassifier(base, n_buckets=2, random_state=0).fit(X, y)
    assert set(model.predict(X)) <= set(y)
    proba = model.predict_proba(X)
    assert proba.shape == (len(X), len(set(y)))
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert model.predict_topk(X, k=len(set(y))).shape == proba.shape


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


# With the rest of scikit-learn ------------------------------------------------------

ANIMALS = {
    "cat": "purr whiskers mouse sleep sofa claws",
    "dog": "bark bone walk leash fetch loyal",
    "cow": "milk grass moo farm field barn",
    "fish": "water fins swim gills tank scales",
    "bird": "wings feathers sing nest fly egg",
}


def sentences(n=60):
    rng = np.random.default_rng(0)
    names = rng.permutation(np.resize(list(ANIMALS), n))
    common = "the a it has and of".split()
    texts = [
        " ".join(rng.permutation([*rng.choice(ANIMALS[name].split(), 3), *common]))
        for name in names
    ]
    return texts, names


@pytest.mark.parametrize("base", [None, MultinomialNB(), LinearSVC()])
def test_text_pipeline(base):
    texts, names = sentences()
    model = make_pipeline(
        TfidfVectorizer(), MACHClassifier(base, n_buckets=3, random_state=0)
    )
    model.fit(texts[:40], names[:40])
    assert model.score(texts[40:], names[40:]) > 0.9
    predicted = model.predict(["a bone and a leash", "feathers of the nest"])
    assert predicted.tolist() == ["dog", "bird"]


def test_grid_search(blobs):
    X, y = blobs(120)
    search = GridSearchCV(
        MACHClassifier(LogisticRegression(), random_state=0),
        {
            "n_repetitions": [3, 5],
            "n_buckets": [2, 4],
            "estimator__C": [1e-4, 10.0],
        },
        cv=KFold(2, shuffle=True, random_state=0),
    )
    search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["estimator__C"] == 10.0
    assert search.best_score_ > 0.9
    assert search.predict(X).shape == (120,)


def test_grid_search_of_the_built_in_learner_with_folds_that_lack_classes(blobs):
    X, y = blobs(90, 8, 30)
    search = GridSearchCV(
        MACHClassifier(random_state=0),
        {
            "n_repetitions": [4, 6],
            "n_buckets": [5, 40],
            "learning_rate": [1e-4, "auto"],
        },
        cv=KFold(3, shuffle=True, random_state=0),
    )
    search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["learning_rate"] == "auto"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"estimator": LogisticRegression(C=3.0), "n_buckets": 3},
        {"hashing": TABLE, "decoder": "min"},
    ],
)
def test_clone_and_parameters(blobs, parameters):
    X, y = blobs(60)
    model = MACHClassifier(random_state=0, **parameters)
    before = {name: id(value) for name, value in model.get_params(deep=False).items()}
    scores = model.fit(X, y).decision_function(X)
    after = {name: id(value) for name, value in model.get_params(deep=False).items()}
    assert after == before  # fit writes to no parameter
    copy = clone(model)
    assert not hasattr(copy, "classes_")
    assert_array_equal(copy.fit(X, y).decision_function(X), scores)
    assert "MACHClassifier" in repr(model)


class OwnParameters(MACHClassifier):
    """A sub-class with another constructor."""

    def __init__(self, name="mine", n_buckets=3):
        super().__init__(n_buckets=n_buckets, n_repetitions=4, random_state=0)
        self.name = name


def test_a_sub_class_may_have_other_parameters(blobs):
    X, y = blobs(60)
    plain = MACHClassifier(n_buckets=3, n_repetitions=4, random_state=0)
    own = clone(OwnParameters(name="other")).fit(X, y)
    assert own.get_params() == {"name": "other", "n_buckets": 3}
    assert_same_model(own, plain.fit(X, y))
    assert_same_model(own.partial_fit(X, y), plain.partial_fit(X, y))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("base", [None, LogisticRegression()])
@pytest.mark.parametrize("how", ["pickle", "joblib", "memory map"])
def test_saved_models_predict_the_same(blobs, base, sparse, how, tmp_path):
    X, y = blobs(60, sparse=sparse)
    model = MACHClassifier(base, n_repetitions=3, n_buckets=3, random_state=0)
    model.fit(X, np.array(list("abcdef"))[y])
    if how == "pickle":
        loaded = pickle.loads(pickle.dumps(model))
    else:
        path = tmp_path / "model.joblib"
        joblib.dump(model, path)
        loaded = joblib.load(path, mmap_mode="r" if how == "memory map" else None)
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert_array_equal(loaded.decision_function(X), model.decision_function(X))
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert_array_equal(loaded.predict_topk(X, k=4), model.predict_topk(X, k=4))


def test_memory_mapped_models_can_be_grown_and_trained_further(blobs, tmp_path):
    X, y = blobs(60)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=3, random_state=0, warm_start=True
    ).fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    for one in (model, loaded):
        one.set_params(n_repetitions=4).fit(X, y)
    assert_same_model(loaded, model)
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    model = joblib.load(tmp_path / "model.joblib")
    assert_same_model(loaded.partial_fit(X, y), model.partial_fit(X, y))


@pytest.mark.parametrize("base", [None, MultinomialNB()])
def test_models_mapped_to_a_file_leave_it_as_it_is(blobs, tmp_path, base):
    X, y = blobs(60)
    X, path = abs(X), tmp_path / "model.joblib"
    model = MACHClassifier(base, n_repetitions=3, n_buckets=3, random_state=0)
    joblib.dump(model.fit(X, y), path)
    content = path.read_bytes()
    mapped = joblib.load(path, mmap_mode="r+")
    if base is None:
        assert isinstance(mapped._weights, np.memmap)
    mapped.partial_fit(X, y).calibrate(X, y).predict(X)
    mapped.set_params(n_repetitions=4, warm_start=True).fit(X, y)
    mapped.set_params(warm_start=False).fit(X, y)
    assert path.read_bytes() == content
    mapped = joblib.load(path, mmap_mode="r+")
    model.partial_fit(X, y)
    scores = mapped.partial_fit(X, y).decision_function(X)
    assert_array_equal(scores, model.decision_function(X))


def test_models_of_a_time_without_sums_of_rows_predict_and_grow(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    state = model.__getstate__()
    for name in ("logit_adjustment", "logit_adjustment_", "_offset", "_class_weights"):
        del state[name]
    for name in ("_seen", "_waiting"):
        del state[name]

    def old():
        loaded = MACHClassifier.__new__(MACHClassifier)
        loaded.__setstate__(state.copy())
        return loaded

    assert repr(old()) == repr(model)
    assert old().logit_adjustment_ == 0
    assert_array_equal(old().predict_proba(X), model.predict_proba(X))
    assert_same_model(clone(old()).fit(X, y), model)
    more = {"n_repetitions": 5, "warm_start": True}
    whole = clone(model).set_params(n_repetitions=5).fit(X, y)
    assert_same_model(old().set_params(**more).fit(X, y), whole)
    for method in ("partial_fit", "calibrate"):
        with pytest.raises(
            ValueError, match=f"older version.*{method} needs. Call fit"
        ):
            getattr(old(), method)(X, y)
        getattr(old().fit(X, y), method)(X, y)


def test_saved_attributes_are_plain_arrays_and_numbers(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    assert model.device_ == "cpu"

    def is_plain(value):
        if isinstance(value, (tuple, list)):
            return all(map(is_plain, value))
        return isinstance(value, (np.ndarray, np.generic, int, float, str, type(None)))

    for name, value in model.__getstate__().items():
        if name not in model.get_params():
            assert is_plain(value), name
    stream = io.BytesIO()
    np.savez(stream, *[v for v in vars(model).values() if isinstance(v, np.ndarray)])


def test_no_folder_of_the_caller_is_written(blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = blobs(60)
    MACHClassifier(verbose=0).fit(X, y).predict(X)
    assert not list(Path(tmp_path).iterdir())


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


def test_threads_may_predict_with_one_model_at_once():
    rng = np.random.default_rng(0)
    X, y = rng.random((400, 5)), np.arange(400) % 200
    model = MACHClassifier(random_state=0, max_iter=1).fit(X, y)
    expected = model.predict_topk(X, k=3)
    parts = [slice(i, i + 1 + i % 40) for i in range(0, 360, 7)] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: model.predict_topk(X[part], k=3), parts))
    for part, labels in zip(parts, found, strict=True):
        assert_array_equal(labels, expected[part])
