"""Rankings of several labels a row against slow counts and scikit-learn."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import reference
import scipy.sparse as sp
from helpers import peak_of
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, ndcg_score, recall_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from sklearn_mach import MACHClassifier, metrics
from sklearn_mach.displays import ReliabilityDisplay
from sklearn_mach.metrics import (
    RankingScorer,
    TopKScorer,
    calibration_error,
    class_ranks,
    inverse_propensities,
    ndcg_at_k,
    neg_calibration_error,
    neg_log_loss,
    precision_at_k,
    propensity_scored_precision_at_k,
    recall_at_k,
    top_k_score,
)

N, K = 40, 12
WEIGHTS = np.linspace(1, 5, K) ** 2
SCORES = {
    "precision": precision_at_k,
    "ndcg": ndcg_at_k,
    "recall": recall_at_k,
    "psp": lambda Y, ranked, k=5, sample_weight=None: propensity_scored_precision_at_k(
        Y, ranked, WEIGHTS, k, sample_weight
    ),
}
ROWS = {
    "precision": reference.row_precision,
    "ndcg": reference.row_ndcg,
    "recall": reference.row_recall,
}
every_metric = pytest.mark.parametrize("metric", SCORES)


def scorer_of(metric, k=3):
    return RankingScorer(metric, k, WEIGHTS if metric == "psp" else None)


def slow(metric, all_labels, rankings, k):
    if metric == "psp":
        return reference.psp(all_labels, rankings, WEIGHTS, k)
    pairs = zip(all_labels, rankings, strict=True)
    return np.mean([ROWS[metric](*pair, k) for pair in pairs])


def sets(Y):
    return [set(np.flatnonzero(row)) for row in Y]


def stored_twice(Y):
    rows, columns = np.nonzero(Y)
    pairs = np.append(rows, rows), np.append(columns, columns)
    return sp.coo_array((np.ones(2 * rows.size, int), pairs), Y.shape)


def with_zeros(Y):
    """A CSR matrix that stores every number, the last columns first."""
    columns = np.tile(np.arange(K)[::-1], N)
    arrays = Y[:, ::-1].ravel().astype(float), columns, np.arange(N + 1) * K
    return sp.csr_matrix(arrays, shape=Y.shape)


INDICATORS = {
    "lists": np.ndarray.tolist,
    "bool": lambda Y: Y.astype(bool),
    "float16": lambda Y: Y.astype(np.float16),
    "frame": pd.DataFrame,
    "csr_matrix": lambda Y: sp.csr_matrix(Y, dtype=bool),
    "csr_array": lambda Y: sp.csr_array(Y, dtype=np.float32),
    "csc": sp.csc_array,
    "lil": sp.lil_matrix,
    "stored zeros": with_zeros,
    "stored twice": stored_twice,
}


def all_stored(scores):
    """A CSR matrix that stores every score, also zeros, the last columns first."""
    columns = np.tile(np.arange(K)[::-1], len(scores))
    starts = np.arange(len(scores) + 1) * K
    return sp.csr_matrix((scores[:, ::-1].ravel(), columns, starts), scores.shape)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def Y(rng):
    """Labels of rows, the first two without any and the third with all."""
    Y = (rng.random((N, K)) < 0.3).astype(int)
    Y[:2], Y[2] = 0, 1
    return Y


@pytest.fixture
def scores(rng):
    """Scores with ties, negative numbers and zeros."""
    return rng.integers(-4, 5, (N, K)) / 4


@pytest.fixture
def task(rng):
    """Rows, and labels that depend on them; each label has both kinds of rows."""
    X = rng.standard_normal((120, 6))
    return X, (X @ rng.standard_normal((6, K)) + rng.normal(size=(120, K)) > 1) * 1


class Given(ClassifierMixin, BaseEstimator):
    """Rows of X are the probabilities; notes how many come at a time."""

    def fit(self, X, y):
        self.classes_ = np.arange(y.shape[1])
        self.sizes_ = []
        return self

    def predict_proba(self, X):
        self.sizes_.append(len(X))
        return X


class GivenTopK(Given):
    """As the classifier of several labels: columns, best first."""

    def predict_topk(self, X, k):
        self.sizes_.append(len(X))
        return np.argsort(-X, axis=1, kind="stable")[:, :k]


# Functions of arrays -----------------------------------------------------------------


@every_metric
@pytest.mark.parametrize("k", [1, 3, 5, 12, 20])
def test_rankings_agree_with_slow_counts(metric, k, Y, scores):
    rankings = [reference.best_columns(dict(enumerate(row)), k) for row in scores]
    expected = slow(metric, sets(Y), rankings, k)
    score = SCORES[metric]
    assert 0 < expected <= 1
    assert_allclose(score(Y, rankings, k), expected)
    assert_allclose(score(Y, np.array(rankings, np.uint8), k), expected)
    assert_allclose(score(Y, scores, k), expected)
    assert_allclose(score(Y, scores.astype(np.float16), k), expected)
    assert_allclose(score(Y, all_stored(scores), k), expected)
    assert_allclose(
        score(Y, sp.csc_array(all_stored(scores * 4).astype(int)), k), expected
    )


@every_metric
@pytest.mark.parametrize("k", [1, 4])
def test_sparse_scores_rank_what_is_stored(metric, k, Y, scores):
    stored = sp.random_array((N, K), density=0.3, format="lil", rng=1)
    stored[3] = 0
    stored = stored.tocoo()
    stored.data = np.random.default_rng(2).integers(-2, 3, stored.nnz)
    entries = [{} for _ in range(N)]
    for row, column, value in zip(*stored.coords, stored.data, strict=True):
        entries[row][column] = value
    rankings = [reference.best_columns(row, k) for row in entries]
    assert min(map(len, rankings)) < k
    expected = slow(metric, sets(Y), rankings, k)
    before = copy.deepcopy(stored)
    for ranked in (stored, sp.csr_matrix(stored), sp.csc_array(stored)):
        assert_allclose(SCORES[metric](Y, ranked, k), expected)
    filled = [row + [-1] * (k - len(row)) for row in rankings]
    assert_allclose(SCORES[metric](Y, filled, k), expected)
    assert_array_equal(stored.data, before.data)


@every_metric
def test_gaps_keep_their_ranks(metric, Y):
    ranked = np.tile([-1, 3, -1, 7, 0], (N, 1))
    expected = slow(metric, sets(Y), ranked.tolist(), 5)
    assert_allclose(SCORES[metric](Y, ranked, 5), expected)
    assert SCORES[metric](Y, np.full((N, 5), -1)) == 0


@every_metric
@pytest.mark.parametrize("kind", INDICATORS)
def test_indicators_of_any_format(metric, kind, Y, scores):
    passed = INDICATORS[kind](Y)
    before = copy.deepcopy(passed)
    assert SCORES[metric](passed, scores) == SCORES[metric](Y, scores)
    assert_array_equal(inverse_propensities(passed), inverse_propensities(Y))
    if sp.issparse(passed) and passed.format == "csr":
        assert_array_equal(passed.data, before.data)
        assert_array_equal(passed.indices, before.indices)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_ndcg_agrees_with_sklearn_where_there_are_no_ties(k, Y, rng):
    scores = rng.standard_normal((N, K))
    weight = rng.random(N)
    expected = ndcg_score(Y, scores, k=k, sample_weight=weight)
    assert_allclose(ndcg_at_k(Y, scores, k, weight), expected)


@pytest.mark.parametrize("k", [1, 5])
def test_recall_agrees_with_sklearn(k, Y, rng):
    scores = rng.standard_normal((N, K))
    chosen = (-scores).argsort(axis=1).argsort(axis=1) < k
    expected = recall_score(Y, chosen, average="samples", zero_division=0)
    assert_allclose(recall_at_k(Y, scores, k), expected)


@every_metric
def test_the_best_ranking_is_one_and_the_worst_zero(metric, Y):
    Y[:, 0] = 1  # each row has a label, and but for one has not all of them
    for k in (1, 2, K):
        best = SCORES[metric](Y, Y * WEIGHTS, k)
        if metric == "precision":
            assert_allclose(best, np.minimum(Y.sum(axis=1), k).mean() / k)
        elif metric == "recall":
            assert_allclose(best, np.minimum(k / Y.sum(axis=1), 1).mean())
        else:
            assert_allclose(best, 1)
    others = np.arange(N) != 2
    assert SCORES[metric](Y[others], 1.0 - Y[others], 1) == 0


@every_metric
def test_rows_without_labels_count_as_zero(metric, Y, scores):
    assert SCORES[metric](Y[:2], scores[:2]) == 0
    if metric != "psp":
        some = SCORES[metric](Y[2:], scores[2:])
        assert_allclose(SCORES[metric](Y, scores), some * (N - 2) / N)


@every_metric
def test_weights_count_rows(metric, Y, scores):
    weight = np.arange(N) % 3
    repeated = [np.repeat(array, weight, axis=0) for array in (Y, scores)]
    expected = SCORES[metric](*repeated)
    assert_allclose(SCORES[metric](Y, scores, sample_weight=weight), expected)


def test_equal_weights_of_labels_are_precision_over_its_best(Y, scores):
    part = precision_at_k(Y, scores, 3) / precision_at_k(Y, Y.astype(float), 3)
    ones = np.ones(K)
    assert_allclose(propensity_scored_precision_at_k(Y, scores, ones, 3), part)


def test_nan_is_the_worst_score():
    Y, scores = [[0, 1, 0]], np.array([[np.nan, 1, 2]])
    for ranked in (scores, sp.csr_array(scores)):
        assert precision_at_k(Y, ranked, 2) == 0.5
        assert precision_at_k([[1, 0, 0]], ranked, 2) == 0


def test_scores_that_are_infinite_rank_all_columns():
    scores = np.array([[-np.inf, -np.inf, 0, np.inf]])
    assert recall_at_k([[1, 1, 0, 0]], scores, 3) == 0.5
    assert recall_at_k([[1, 1, 0, 0]], scores, 4) == 1


@pytest.mark.parametrize("a, b", [(0.55, 1.5), (0.5, 0.4), (0.6, 2.6)])
def test_propensities_agree_with_the_formula(a, b, Y):
    Y[:, 4] = 0
    expected = reference.inverse_propensities(sets(Y), K, a, b)
    assert_allclose(inverse_propensities(sp.csr_array(Y), a, b), expected)
    counted = inverse_propensities(Y.sum(axis=0), a, b, n_samples=N)
    assert_allclose(counted, expected)
    assert counted.min() >= 1


def test_memory_is_that_of_the_labels_and_ranks():
    n_samples, n_labels = 2000, 100_000
    rng = np.random.default_rng(0)
    Y = sp.csr_array(
        (np.ones(4 * n_samples, bool), rng.integers(0, n_labels, 4 * n_samples),
         np.arange(n_samples + 1) * 4),
        shape=(n_samples, n_labels),
    )  # fmt: skip
    ranked = rng.permuted(np.tile(np.arange(50), (n_samples, 1)), axis=1)
    weights = inverse_propensities(Y)
    for ranking in (ranked, Y.astype(float)):
        for score in (precision_at_k, ndcg_at_k, recall_at_k):
            assert peak_of(score, Y, ranking)[1] < 20 * 2**20  # 200 MB as dense bools
        peak = peak_of(propensity_scored_precision_at_k, Y, ranking, weights)[1]
        assert peak < 20 * 2**20


# What is refused ---------------------------------------------------------------------

BAD_INDICATORS = {
    "labels": (np.arange(N), "which says which labels each row has"),
    "nothing": (np.zeros((N, 0)), "at least one row and one column"),
    "two": (np.full((N, K), 2), "got the value 2"),
    "minus one": (sp.csr_array(np.full((N, K), -1)), "got the value -1"),
    "NaN": (np.full((N, K), np.nan), "got the value nan"),
    "words": (np.full((N, K), "a"), "got dtype <U1. Make one with"),
}
BAD_RANKINGS = {
    "one column": (np.arange(N), "a row for each of Y"),
    "other rows": (np.zeros((N - 1, K)), "inconsistent numbers of samples"),
    "other columns": (np.zeros((N, K - 1)), r"the shape of Y, \(40, 12\); got"),
    "sparse": (sp.csr_array((N, 3)), r"the shape of Y, \(40, 12\); got"),
    "bool": (np.zeros((N, K), bool), "floats, which are scores; got dtype bool"),
    "words": (np.full((N, K), "a"), "floats, which are scores; got dtype <U1"),
    "too few": (np.tile(np.arange(4), (N, 1)), "k = 5 needs as many columns"),
    "too high": (np.tile(np.arange(5) + 8, (N, 1)), "ranked holds 12, which is no"),
    "negative": (np.tile(np.arange(5) - 2, (N, 1)), "ranked holds -2, which is no"),
    "twice": (np.tile([0, 1, 2, 3, 0], (N, 1)), "holds the column number 0 twice"),
    "predictions": (np.ones((N, K), int), "Row 0 .* the column number 1 twice"),
}  # fmt: skip


@every_metric
@pytest.mark.parametrize("bad", BAD_INDICATORS)
def test_bad_indicators_are_refused(metric, bad):
    Y, message = BAD_INDICATORS[bad]
    with pytest.raises(ValueError, match=message):
        SCORES[metric](Y, np.zeros((N, K)))
    with pytest.raises(ValueError, match=message):
        inverse_propensities(Y)
    model = Given().fit(None, np.zeros((N, K)))
    with pytest.raises(ValueError, match=message):
        scorer_of(metric)(model, np.zeros((N, K)), Y)
    assert not model.sizes_


@every_metric
@pytest.mark.parametrize("bad", BAD_RANKINGS)
def test_bad_rankings_are_refused(metric, bad, Y):
    ranked, message = BAD_RANKINGS[bad]
    with pytest.raises(ValueError, match=message):
        SCORES[metric](Y, ranked)


@every_metric
@pytest.mark.parametrize("k", [0, 2.0, None, True])
def test_k_is_checked(metric, k, Y):
    with pytest.raises(ValueError, match=f"^k must be an integer.*got {k!r}"):
        SCORES[metric](Y, Y.astype(float), k=k)
    with pytest.raises(ValueError, match=f"^k must be an integer.*got {k!r}"):
        scorer_of(metric, k)


@pytest.mark.parametrize(
    "weights", [WEIGHTS[1:], WEIGHTS - 1, WEIGHTS[None], ["a"] * K]
)
def test_weights_of_labels_are_checked(weights, Y):
    with pytest.raises(ValueError, match="weights"):
        propensity_scored_precision_at_k(Y, Y.astype(float), weights)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"a": 0}, "a must be a positive number; got 0"),
        ({"b": np.nan}, "b must be a positive number; got nan"),
        ({"n_samples": 10}, "With n_samples, Y must hold the number of rows"),
        ({"Y": [3, 11], "n_samples": 10}, "from 0 to 10, n_samples; they are from 3"),
        ({"Y": [1, 2], "n_samples": 2}, "at least 3 training rows; got 2"),
        ({"Y": [[1, 0], [0, 1]]}, "at least 3 training rows; got 2"),
    ],
)
def test_arguments_of_propensities_are_checked(arguments, message, Y):
    with pytest.raises(ValueError, match=message):
        inverse_propensities(**({"Y": Y} | arguments))


# The scorer --------------------------------------------------------------------------

ESTIMATORS = {
    "one vs rest": OneVsRestClassifier(LogisticRegression()),
    "neighbours": KNeighborsClassifier(),
    "forest": RandomForestClassifier(5, random_state=0),
    "pipeline": make_pipeline(MaxAbsScaler(), KNeighborsClassifier()),
}


def marginals(model, X):
    proba = model.predict_proba(X)
    return np.array(proba)[:, :, 1].T if isinstance(proba, list) else proba


@every_metric
@pytest.mark.parametrize("name", ESTIMATORS)
def test_scorer_of_an_estimator(metric, name, task):
    X, Y = task
    model = ESTIMATORS[name].fit(X[:80], Y[:80])
    X, Y = X[80:], Y[80:]
    expected = SCORES[metric](Y, marginals(model, X), 3)
    scorer = scorer_of(metric)
    for passed in (Y, sp.csr_array(Y), sp.coo_matrix(Y), pd.DataFrame(Y)):
        assert_allclose(scorer(model, X, passed), expected)
    with config_context(working_memory=0.01):
        assert_allclose(scorer(model, X, sp.csr_array(Y)), expected)
    weight = np.arange(40) % 3
    expected = SCORES[metric](Y, marginals(model, X), 3, weight)
    assert_allclose(scorer(model, X, Y, sample_weight=weight), expected)


@every_metric
@pytest.mark.parametrize("kind", [Given, GivenTopK])
def test_scorer_takes_the_best_columns(metric, kind, Y, scores):
    model = kind().fit(None, Y)
    for k in (1, 5, 20):
        expected = SCORES[metric](Y, scores, k)
        assert scorer_of(metric, k)(model, scores, sp.csr_array(Y)) == expected


@pytest.mark.parametrize("score", [scorer_of("ndcg"), neg_log_loss, calibration_error])
def test_chunks_fit_in_working_memory(score):
    proba = np.full((500, 100), 0.5)
    Y = sp.csr_array(proba > 0)
    model = Given().fit(None, Y)
    with config_context(working_memory=0.1):
        score(model, proba, Y)
    assert sum(model.sizes_) == 500
    assert 1 < max(model.sizes_) * 100 * 8 < 0.1 * 2**20


def test_scores_of_training_labels_that_are_constant(task):
    X, Y = task
    Y[:, 0], Y[:, 1] = 0, 1
    model = DummyClassifier().fit(X, Y)
    frequencies = np.tile(Y.mean(axis=0), (120, 1))
    assert RankingScorer(k=4)(model, X, Y) == precision_at_k(Y, frequencies, 4)
    assert_allclose(
        -neg_log_loss(model, X, Y), reference.binary_log_loss(Y, frequencies)
    )


@every_metric
def test_search_of_sparse_labels(metric, task):
    X, Y = task
    scorer, cv = scorer_of(metric), KFold(3)
    model = make_pipeline(MaxAbsScaler(), OneVsRestClassifier(LogisticRegression()))
    grid = {"onevsrestclassifier__estimator__C": [1e-3, 1]}
    search = GridSearchCV(model, grid, scoring=scorer, cv=cv, error_score="raise")
    search.fit(X, sp.csr_matrix(Y))
    expected = [
        SCORES[metric](Y[test], model.fit(X[train], Y[train]).predict_proba(X[test]), 3)
        for train, test in cv.split(X)
    ]
    place = search.cv_results_["params"].index({next(iter(grid)): 1})
    found = [search.cv_results_[f"split{fold}_test_score"][place] for fold in range(3)]
    assert_allclose(found, expected)
    assert scorer(search, X, Y) == scorer(search.best_estimator_, X, Y)


def test_search_of_neighbours(task):
    X, Y = task
    model = make_pipeline(MaxAbsScaler(), KNeighborsClassifier())
    grid = {"kneighborsclassifier__n_neighbors": [1, 9]}
    scoring = {name: scorer_of(name) for name in SCORES}
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            model, grid, scoring=scoring, refit="ndcg", error_score="raise"
        )
        results = search.fit(X, Y).cv_results_
        scores = cross_validate(search.best_estimator_, X, Y, scoring=scoring)
    for name in SCORES:
        best = results[f"mean_test_{name}"][search.best_index_]
        assert_allclose(scores[f"test_{name}"].mean(), best)


def test_neighbours_of_a_sparse_indicator_are_refused(task):
    # scikit-learn makes one class of each column, the sparse matrix itself
    X, Y = task
    model = KNeighborsClassifier().fit(X, sp.csr_array(Y))
    with pytest.raises(ValueError, match=r"KNeighbors.* dtype object.*Y.toarray\(\)"):
        RankingScorer()(model, X, Y)


def test_scorers_have_readable_names_and_pickle():
    assert repr(RankingScorer("ndcg", 3)) == (
        "RankingScorer(metric='ndcg', k=3, weights=None)"
    )
    assert RankingScorer() == RankingScorer("precision", 5) != RankingScorer(k=3)
    assert scorer_of("psp") != RankingScorer("psp", 3, WEIGHTS + 1)
    assert RankingScorer() != TopKScorer()
    for scorer in (*map(scorer_of, SCORES), precision_at_k):
        assert b"_ranking" not in pickle.dumps(scorer)
        for same in (pickle.loads(pickle.dumps(scorer)), copy.deepcopy(scorer)):
            assert same == scorer
            assert hash(same) == hash(scorer)


def test_public_names_are_of_the_public_module():
    for name in metrics.__all__:
        assert getattr(metrics, name).__module__ == "sklearn_mach.metrics"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("top",), "metric must be 'precision', 'ndcg', 'recall' or 'psp'; got 'top'"),
        (("psp",), "The metric 'psp' needs weights"),
        (("ndcg", 5, WEIGHTS), "the others have none; got 'ndcg'"),
        (("psp", 5, -WEIGHTS), "must be positive and finite"),
    ],
)
def test_arguments_of_the_scorer_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        RankingScorer(*arguments)


@every_metric
def test_wrong_input_is_refused(metric, task):
    X, Y = task
    model = OneVsRestClassifier(LogisticRegression()).fit(X, Y)
    scorer = scorer_of(metric)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        scorer(model, X, Y[1:])
    with pytest.raises(ValueError, match="has 11 columns, but OneVs.* learned 12"):
        scorer(model, X, Y[:, 1:])
    with pytest.raises(ValueError, match="(?i)weight.*zero"):
        scorer(model, X, Y, sample_weight=np.zeros(120))


def test_labels_that_are_no_column_numbers_are_refused(task):
    X, Y = task
    y = np.arange(120) % 2
    settings = {"n_repetitions": 1, "n_buckets": 2, "max_iter": 1}
    for labels in (y + 1, np.array(["a", "b"])[y]):
        model = MACHClassifier(**settings).fit(X, labels)
        with pytest.raises(ValueError, match="others than the column numbers of y"):
            RankingScorer(k=1)(model, X, Y[:, :2])
    model.fit(X, y)
    expected = precision_at_k(Y[:, :2], model.predict_topk(X, k=1), 1)
    assert RankingScorer(k=1)(model, X, Y[:, :2]) == expected


# Other scorers of several labels ------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_log_loss_is_the_mean_of_those_of_the_labels(name, task):
    X, Y = task
    model = ESTIMATORS[name].fit(X[:80], Y[:80])
    X, Y = X[80:], Y[80:]
    proba = marginals(model, X)
    expected = np.mean(
        [log_loss(y, p, labels=[0, 1]) for y, p in zip(Y.T, proba.T, strict=True)]
    )
    assert_allclose(expected, reference.binary_log_loss(Y, proba))
    for passed in (Y, sp.csr_array(Y), sp.csc_matrix(Y)):
        for working_memory in (1024, 0.01):
            with config_context(working_memory=working_memory):
                assert_allclose(-neg_log_loss(model, X, passed), expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_calibration_is_that_of_the_likeliest_label(name, task):
    X, Y = task
    model = ESTIMATORS[name].fit(X[:80], Y[:80])
    X, Y = X[80:], Y[80:]
    proba = marginals(model, X)
    error = 0.0
    for m in range(7):
        rows = [i for i in range(40) if m / 7 < proba[i].max() <= (m + 1) / 7]
        right = sum(Y[i, proba[i].argmax()] for i in rows)
        error += abs(right - sum(proba[i].max() for i in rows)) / 40
    for passed in (Y, sp.csr_array(Y)):
        with config_context(working_memory=0.01):
            assert_allclose(calibration_error(model, X, passed, 7), error)
            assert_allclose(neg_calibration_error(model, X, passed, 7), -error)


def test_reliability_of_several_labels(task):
    plt = pytest.importorskip("matplotlib.pyplot")
    X, Y = task
    model = ESTIMATORS["pipeline"].fit(X, Y)
    display = ReliabilityDisplay.from_estimator(model, X, sp.csr_array(Y), n_bins=7)
    gaps = np.abs(display.accuracy - display.confidence)
    error = np.average(gaps, weights=display.n_rows)
    assert_allclose(error, calibration_error(model, X, Y, n_bins=7))
    plt.close("all")


@pytest.mark.parametrize("score", [class_ranks, top_k_score, TopKScorer(2)])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array])
def test_scores_of_one_label_name_those_of_several(score, kind, task):
    X, Y = task
    model = MACHClassifier(max_iter=1).fit(X, Y[:, 0])
    with pytest.raises(ValueError, match=r"\(120, 12\).*RankingScorer, precision_at_k"):
        score(model, X, kind(Y))


@pytest.mark.parametrize("score", [neg_log_loss, calibration_error])
def test_other_indicators_are_refused(score, task):
    X, Y = task
    model = ESTIMATORS["one vs rest"].fit(X, Y)
    with pytest.raises(ValueError, match="has 11 columns"):
        score(model, X, sp.csr_array(Y[:, 1:]))
    with pytest.raises(ValueError, match="got the value 2"):
        score(model, X, Y * 2)
