"""Scorers against scikit-learn and plain counts, in chunks and on incomplete folds."""

import inspect
import math
import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, top_k_accuracy_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.svm import SVC, LinearSVC

from sklearn_mach import MACHClassifier
from sklearn_mach._decoding import DECODERS
from sklearn_mach._model import Model
from sklearn_mach.metrics import (
    TopKScorer,
    calibration_error,
    class_ranks,
    neg_calibration_error,
    neg_log_loss,
    top_k_score,
)

FLOOR = 2.0**-52
LOOSE = {"n_repetitions": 4, "n_buckets": 3, "max_iter": 2, "random_state": 0}
PROBABILISTIC = {
    "mach": MACHClassifier(**LOOSE),
    "mean": MACHClassifier(**LOOSE, decoder="mean"),
    "linear": LogisticRegression(C=0.1),
    "bayes": GaussianNB(),
    "pipeline": make_pipeline(MaxAbsScaler(), MACHClassifier(**LOOSE)),
}
ALL = PROBABILISTIC | {"svc": LinearSVC(C=0.01)}
SCORERS = [top_k_score, TopKScorer(2), neg_log_loss, neg_calibration_error]
cases = pytest.mark.parametrize("name", ALL)
probabilistic = pytest.mark.parametrize("name", PROBABILISTIC)


class Given(ClassifierMixin, BaseEstimator):
    """Rows of X are the probabilities (or scores); notes how many come at a time."""

    def __init__(self, classes=None):
        self.classes = classes

    def fit(self, X, y):
        self.classes_ = np.unique(y) if self.classes is None else self.classes
        self.sizes_ = []
        return self

    def predict_proba(self, X):
        self.sizes_.append(len(X))
        return X


class GivenScores(Given):
    """Rows of X are the scores; of two classes only the first column is."""

    def decision_function(self, X):
        return X[:, 0] if len(self.classes_) == 2 else X


def given(n_classes, kind=Given):
    return kind().fit(None, np.arange(n_classes))


@pytest.fixture
def problem(blobs):
    """A difficult problem of nine classes."""
    return blobs(126, n_classes=9, noise=1.5, sparse=False)


def fitted(name, X, y):
    return clone(ALL[name]).fit(X, y)


def all_scores(model, X):
    """Scores by which the model orders its classes, (n, K)."""
    if hasattr(model, "decision_function"):
        return model.decision_function(X)
    return model.predict_proba(X)


def slow_rank(scores, label, classes):
    """Classes before `label` in one row of scores; ties by smallest index."""
    if label not in classes:
        return len(classes)
    own = classes.index(label)
    before = 0
    for k, score in enumerate(scores):
        if score > scores[own] or (score == scores[own] and k < own):
            before += 1
    return before


def slow_ranks(scores, y, classes):
    classes = list(classes)
    return [slow_rank(*pair, classes) for pair in zip(scores, y, strict=True)]


def slow_calibration_error(proba, y, classes, n_bins):
    """The sum over bins from its formula, one bin after the other."""
    error = 0.0
    for m in range(1, n_bins + 1):
        rows = [i for i, p in enumerate(proba) if math.ceil(max(p) * n_bins) == m]
        if rows:
            right = sum(classes[np.argmax(proba[i])] == y[i] for i in rows)
            confidence = sum(max(proba[i]) for i in rows)
            error += abs(right - confidence) / len(proba)
    return error


# All labels seen ---------------------------------------------------------------------


@cases
@pytest.mark.parametrize("k", [1, 3])
def test_top_k_agrees_with_sklearn(problem, name, k):
    X, y = problem
    model = fitted(name, X, y)
    expected = top_k_accuracy_score(y, all_scores(model, X), k=k)
    assert 0.2 < expected < 1
    assert_allclose(top_k_score(model, X, y, k=k), expected)
    assert_allclose(TopKScorer(k)(model, X, y), expected)
    if k == 1:
        assert_allclose(expected, model.score(X, y))


@probabilistic
def test_log_loss_agrees_with_sklearn(problem, name):
    X, y = problem
    model = fitted(name, X, y)
    expected = -log_loss(y, model.predict_proba(X))
    assert_allclose(neg_log_loss(model, X, y), expected, rtol=1e-9)


def test_log_loss_of_impossible_labels_is_that_of_sklearn():
    proba = np.array([[1.0, 0, 0], [0, 0.5, 0.5]])
    expected = -log_loss([1, 2], proba, labels=[0, 1, 2])
    assert_allclose(neg_log_loss(given(3), proba, [1, 2]), expected)


@cases
def test_ranks_agree_with_a_slow_count(problem, name):
    X, y = problem
    model = fitted(name, X, y)
    ranks = class_ranks(model, X, y)
    assert ranks.dtype == np.int64
    assert_array_equal(ranks, slow_ranks(all_scores(model, X), y, model.classes_))
    assert_array_equal(ranks == 0, model.predict(X) == y)


@pytest.mark.parametrize("decoder", DECODERS)
def test_ranks_of_tied_buckets(problem, decoder):
    X, y = problem
    model = MACHClassifier(**LOOSE, decoder=decoder).fit(X, y)
    if decoder == "min":  # merges to equal scores
        scores = model.decision_function(X)
        assert any(len(set(row)) < len(row) for row in scores)
    expected = slow_ranks(model.decision_function(X), y, model.classes_)
    assert_array_equal(class_ranks(model, X, y), expected)
    for k in (1, 4):
        share = np.mean(np.array(expected) < k)
        assert_allclose(top_k_score(model, X, y, k=k), share)


def test_ties_go_to_the_smallest_class():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (50, 7)).astype(float)
    y = rng.integers(0, 9, 50)  # 7 and 8 are unseen
    expected = slow_ranks(scores, y, range(7))
    assert_array_equal(class_ranks(given(7), scores, y), expected)
    assert_array_equal(class_ranks(given(7, GivenScores), scores, y), expected)


def test_a_score_that_is_nan_is_never_the_best():
    scores = np.array([[np.nan, 1, 2], [1, np.nan, 2]])
    assert (class_ranks(given(3), scores, [0, 1]) == 3).all()


@pytest.mark.parametrize("model", [LinearSVC(), MACHClassifier(**LOOSE)])
def test_two_classes(blobs, model):
    X, y = blobs(100, n_classes=2, noise=3, sparse=False)
    model.fit(X, y)
    assert_array_equal(class_ranks(model, X, y), model.predict(X) != y)
    assert_allclose(top_k_score(model, X, y, k=1), model.score(X, y))
    assert top_k_score(model, X, y, k=2) == 1


def test_two_classes_with_equal_scores():
    model = given(2, GivenScores)
    assert_array_equal(class_ranks(model, np.zeros((2, 2)), [0, 1]), [0, 1])


@pytest.mark.parametrize("n_bins", [1, 4, 15])
@probabilistic
def test_calibration_error_agrees_with_a_slow_sum(problem, name, n_bins):
    X, y = problem
    model = fitted(name, X, y)
    expected = slow_calibration_error(model.predict_proba(X), y, model.classes_, n_bins)
    assert_allclose(calibration_error(model, X, y, n_bins), expected, rtol=1e-9)
    assert neg_calibration_error(model, X, y, n_bins) == -calibration_error(
        model, X, y, n_bins
    )


def test_calibration_error_at_the_edges_of_bins():
    above = 1 + 1e-9  # by rounding
    proba = np.array([[above, 0], [0.75, 0.25], [0.5, 0.5], [0, 0]])
    # Above 1/2 are 1 and 0.75, the second right; up to 1/2 are 0.5, right, and 0.
    expected = (abs(1 - 1.75) + abs(1 - 0.5)) / 4
    error = calibration_error(given(2), proba, [1, 0, 0, 1], 2)
    assert_allclose(error, expected, rtol=1e-8)


@pytest.mark.parametrize("scorer", SCORERS)
def test_weights_count_rows(problem, scorer):
    X, y = problem
    model = fitted("mach", X, y)
    weight = np.arange(y.size) % 3
    repeated = scorer(model, np.repeat(X, weight, axis=0), np.repeat(y, weight))
    assert_allclose(scorer(model, X, y, sample_weight=weight), repeated)


@pytest.mark.parametrize(
    "weight", [np.full(126, True), [3] * 126, pd.Series(np.full(126, 1e-300)), 0.5]
)
@pytest.mark.parametrize("scorer", SCORERS)
def test_equal_weights_of_any_kind_change_nothing(problem, scorer, weight):
    X, y = problem
    model = fitted("linear", X, y)
    expected = scorer(model, X, y)
    assert_allclose(scorer(model, X, y, sample_weight=weight), expected)


BAD_WEIGHTS = {
    "one NaN": (np.where(np.arange(126) == 7, np.nan, 1), "contains NaN"),
    "one infinite": (np.where(np.arange(126) == 7, np.inf, 1), "contains infinity"),
    "one negative": (np.where(np.arange(126) == 7, -1.0, 1), "Negative values"),
    "all zero": (np.zeros(126), "(?i)weight.*zero"),
    "too short": (np.ones(5), r"sample_weight.shape == \(5,\), expected \(126,\)"),
    "a column": (np.ones((126, 1)), "must be 1D array or scalar"),
    "words": (["a"] * 126, "sample_weight must hold a number for each row"),
    "ragged": ([[1], [1, 2]], "sample_weight must hold a number for each row"),
    "an infinite sum": (np.full(126, 1e308), "weights of the rows add up to inf"),
    "a number that is NaN": (np.nan, "weights of the rows add up to nan"),
}


@pytest.mark.parametrize("bad", BAD_WEIGHTS)
@pytest.mark.parametrize("scorer", [*SCORERS, calibration_error])
def test_bad_weights_are_refused_before_anything_is_predicted(problem, scorer, bad):
    weight, message = BAD_WEIGHTS[bad]
    model = given(9)  # of which X would be the probabilities
    with pytest.raises(ValueError, match=message):
        scorer(model, np.full((126, 9), 1 / 9), problem[1], sample_weight=weight)
    assert not model.sizes_


# Labels that were not seen -----------------------------------------------------------


@cases
def test_unseen_labels_are_misses(problem, name):
    X, y = problem
    seen = y < 6
    model = fitted(name, X[seen], y[seen])
    ranks = class_ranks(model, X, y)
    assert (ranks[~seen] == 6).all()
    assert_array_equal(ranks[seen], class_ranks(model, X[seen], y[seen]))
    for k in (2, 6, 100):
        share = top_k_score(model, X[seen], y[seen], k=k)
        assert k == 2 or share == 1
        assert_allclose(top_k_score(model, X, y, k=k), share * 2 / 3)
    if name in PROBABILISTIC:
        own = neg_log_loss(model, X[seen], y[seen])
        expected = own * 2 / 3 + np.log(FLOOR) / 3
        assert_allclose(neg_log_loss(model, X, y), expected)
        proba = model.predict_proba(X)
        expected = slow_calibration_error(proba, y, model.classes_, 15)
        assert_allclose(calibration_error(model, X, y), expected, rtol=1e-9)


@pytest.mark.parametrize("unseen", ["other", 3, 2.5, None])
@pytest.mark.parametrize("scorer", SCORERS)
def test_unseen_labels_may_have_another_type(problem, scorer, unseen):
    X, y = problem
    names = np.array([f"class {k}" for k in range(9)])
    model = fitted("mach", X, names[y])
    labels = names[y].astype(object)
    labels[::2] = unseen
    missed = names[y]
    missed[::2] = "missed"
    assert scorer(model, X, labels) == scorer(model, X, missed)
    assert scorer(model, X, labels) < scorer(model, X, names[y])


@pytest.mark.parametrize("y_type", [np.array, list, pd.Series, pd.Categorical])
@pytest.mark.parametrize("scorer", SCORERS)
def test_string_labels(problem, scorer, y_type):
    X, y = problem
    names = np.array(list("abcdefghi"))[y]
    expected = scorer(fitted("mach", X, y), X, y)
    assert scorer(fitted("mach", X, names), X, y_type(names)) == expected


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("name", ["mach", "linear"])
def test_search_where_folds_lack_classes(problem, name, scorer):
    X, y = problem
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]  # each of the three folds holds three classes entirely
    half = KFold(3, shuffle=True, random_state=0)
    grid = {"alpha": [0, 1e-3]} if name == "mach" else {"C": [0.1, 1]}
    for cv in (KFold(3), half):
        search = GridSearchCV(
            ALL[name], grid, scoring=scorer, cv=cv, error_score="raise"
        )
        scores = search.fit(X, y).cv_results_["mean_test_score"]
        assert np.isfinite(scores).all()
        if cv is not half and scorer in (top_k_score, TopKScorer(2)):
            assert_array_equal(scores, 0)
        if cv is not half and scorer is neg_log_loss:
            assert_allclose(scores, np.log(FLOOR))
    assert_allclose(scorer(search, X, y), scorer(search.best_estimator_, X, y))


def test_several_scorers_at_once_with_routing(problem):
    X, y = problem
    scoring = {
        "top": TopKScorer(2),
        "loss": neg_log_loss,
        "error": partial(neg_calibration_error, n_bins=5),
    }
    with config_context(enable_metadata_routing=True):
        scores = cross_validate(ALL["mach"], X, y, scoring=scoring, cv=KFold(2))
    assert all(np.isfinite(scores[f"test_{name}"]).all() for name in scoring)


# Chunks ------------------------------------------------------------------------------


@cases
def test_chunks_change_nothing(problem, name):
    X, y = problem
    model = fitted(name, X[y > 0], y[y > 0])
    functions = [class_ranks, top_k_score]
    if name in PROBABILISTIC:
        functions += [neg_log_loss, calibration_error]
    for function in functions:
        expected = function(model, X, y)
        for working_memory in (1e-6, 0.01):
            with config_context(working_memory=working_memory):
                # Matrix products of few rows may be rounded in another order.
                assert_allclose(function(model, X, y), expected, rtol=1e-6)


@pytest.mark.parametrize("score", [class_ranks, neg_log_loss, calibration_error])
def test_chunks_fit_in_working_memory(score):
    n_samples, n_classes = 500, 100
    proba = np.full((n_samples, n_classes), 1 / n_classes)
    model = given(n_classes)
    with config_context(working_memory=0.1):
        score(model, proba, np.zeros(n_samples))
    assert sum(model.sizes_) == n_samples
    assert 1 < max(model.sizes_) * n_classes * 8 < 0.1 * 2**20


def test_ranks_of_many_classes_use_bucket_scores_only(blobs, monkeypatch):
    X, y = blobs(240, n_classes=120, n_features=6)
    model = MACHClassifier(n_repetitions=4, n_buckets=8, max_iter=2, random_state=0)
    pipeline = make_pipeline(MaxAbsScaler(), model)
    search = GridSearchCV(pipeline, {}, scoring=top_k_score, cv=KFold(2)).fit(X, y)
    expected = slow_ranks(search.decision_function(X), y, search.classes_)
    share = np.mean(np.array(expected) < 5)
    monkeypatch.setattr(Model, "scores", None)
    for estimator in (search, search.best_estimator_):
        assert_array_equal(class_ranks(estimator, X, y), expected)
        assert_allclose(top_k_score(estimator, X, y), share)
    alone = make_pipeline(model.fit(X, y))
    assert_array_equal(class_ranks(alone, X, y), class_ranks(model, X, y))


def test_top_k_comes_from_predict_topk(problem):
    X, y = problem

    model = fitted("mach", X, y)
    expected = top_k_score(model, X, y, k=2)

    other = given(9)
    other.predict_topk = model.predict_topk
    assert top_k_score(other, X, y, k=2) == expected
    assert not other.sizes_  # no probabilities were asked for


def test_ranks_do_not_depend_on_n_jobs(problem):
    X, y = problem
    model = fitted("mach", X, y)
    expected = class_ranks(model, X, y)
    model.set_params(n_jobs=2)
    with config_context(working_memory=0.01):
        assert_array_equal(class_ranks(model, X, y), expected)


# Input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "X_type", [sp.csr_matrix, sp.coo_array, pd.DataFrame, np.ndarray.tolist]
)
@pytest.mark.parametrize("score", [class_ranks, *SCORERS])
def test_input_formats(problem, score, X_type):
    X, y = problem
    model = fitted("linear", X, y)
    expected = score(model, X, y)
    if X_type is pd.DataFrame:
        # Before pandas 3 slices of an index of floats go by label without `iloc`.
        index = np.arange(len(X), 0, -1) / 2
        X = X_type(X, index, columns=[f"f{j}" for j in range(X.shape[1])])
        model.fit(X, y)
    else:
        X = X_type(X)
    with config_context(working_memory=0.01):
        assert_allclose(score(model, X, y), expected)


def test_a_frozen_model_gives_the_same(problem):
    X, y = problem
    model = fitted("mach", X, y)
    for score in (class_ranks, *SCORERS):
        assert_array_equal(score(FrozenEstimator(model), X, y), score(model, X, y))


def test_scorers_have_readable_names_and_pickle():
    assert repr(TopKScorer(3)) == "TopKScorer(k=3)"
    assert TopKScorer() == TopKScorer(5) != TopKScorer(3)
    for scorer in SCORERS:
        assert pickle.loads(pickle.dumps(scorer)) == scorer
        assert list(inspect.signature(scorer).parameters)[:3] == ["estimator", "X", "y"]


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", None, True])
def test_k_and_n_bins_are_checked(problem, k):
    X, y = problem
    model = fitted("linear", X, y)
    message = f"must be an integer of at least 1; got {k!r}"
    with pytest.raises(ValueError, match=f"^k {message}"):
        top_k_score(model, X, y, k=k)
    with pytest.raises(ValueError, match=f"^k {message}"):
        TopKScorer(k)
    for function in (calibration_error, neg_calibration_error):
        with pytest.raises(ValueError, match=f"^n_bins {message}"):
            function(model, X, y, n_bins=k)


@pytest.mark.parametrize("score", [class_ranks, *SCORERS])
def test_wrong_input_is_refused(problem, score):
    X, y = problem
    for name in ("mach", "linear"):
        model = fitted(name, X, y)
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            score(model, X, y[1:])
        with pytest.raises(ValueError, match="1d array"):
            score(model, X, np.column_stack([y, y]))
        with pytest.raises(ValueError, match="0 sample"):
            score(model, X[:0], y[:0])
        with pytest.raises(NotFittedError):
            score(clone(model), X, y)


@pytest.mark.parametrize("score", [neg_log_loss, calibration_error])
def test_probabilities_are_needed(problem, score):
    X, y = problem
    with pytest.raises(AttributeError, match="predict_proba"):
        score(fitted("svc", X, y), X, y)


def test_scores_of_pairs_of_classes_are_refused(problem):
    X, y = problem
    model = SVC(decision_function_shape="ovo").fit(X, y)
    with pytest.raises(ValueError, match="SVC has 9 classes but gives scores of shape"):
        class_ranks(model, X, y)
