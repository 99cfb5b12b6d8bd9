"""scikit-learn's searches over R and B: each score is that of a fit by hand."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import randint
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    ParameterGrid,
    ParameterSampler,
    RandomizedSearchCV,
    ShuffleSplit,
)
from sklearn.pipeline import Pipeline

from sklearn_mach import MACHClassifier
from sklearn_mach.metrics import (
    RankingScorer,
    TopKScorer,
    neg_log_loss,
    precision_at_k,
)

SPLITTERS = {
    "KFold": KFold(3, shuffle=True, random_state=0),
    "ShuffleSplit": ShuffleSplit(2, test_size=0.25, random_state=0),
}
GRID = {"mach__n_repetitions": [2, 4], "mach__n_buckets": [4, 12]}


def documents(n_samples=48, n_classes=12):
    """Texts of five words, three of them of their class, and the names of classes."""
    rng = np.random.default_rng(0)
    names = np.array([f"class {k:02d}" for k in range(n_classes)])
    y = names[np.arange(n_samples) % n_classes]
    own = {name: [f"w{k}x{i}" for i in range(6)] for k, name in enumerate(names)}
    every = sum(own.values(), [])
    texts = [" ".join([*rng.choice(own[v], 3), *rng.choice(every, 2)]) for v in y]
    return np.array(texts), y


def pipeline():
    mach = MACHClassifier(max_iter=3, random_state=0)
    return Pipeline([("words", TfidfVectorizer()), ("mach", mach)])


def by_hand(parameters, splitter, texts, y, score):
    """Scores of the folds, from fits without any search."""
    scores = []
    for train, test in splitter.split(texts):
        model = clone(pipeline()).set_params(**parameters)
        scores.append(score(model.fit(texts[train], y[train]), texts[test], y[test]))
    return scores


def accuracy(model, X, y):
    return np.mean(model.predict(X) == y)


def top_3_accuracy(model, X, y):
    best = np.argsort(-model.decision_function(X), axis=1)[:, :3]
    return np.mean(
        [label in model.classes_[row] for row, label in zip(best, y, strict=True)]
    )


def log_likelihood(model, X, y):
    columns = np.searchsorted(model.classes_, y)
    return np.mean(model.predict_log_proba(X)[np.arange(len(y)), columns])


def assert_search_equals_loop(search, splitter, texts, y, score, name="score"):
    """All candidates have the scores of the loop, the one ranked first the highest."""
    results = search.cv_results_
    expected = np.array(
        [by_hand(p, splitter, texts, y, score) for p in results["params"]]
    )
    for i in range(expected.shape[1]):
        # the same float32 model; only the mean over the rows is summed another way
        assert_allclose(results[f"split{i}_test_{name}"], expected[:, i], rtol=1e-6)
    means = expected.mean(axis=1)
    assert means.min() < means.max()  # or the argument of the maximum says nothing
    first = results[f"rank_test_{name}"].argmin()
    assert_allclose(means[first], means.max(), rtol=1e-6)
    if name in ("score", search.refit):
        assert search.best_params_ == results["params"][first]


@pytest.mark.parametrize("splitter", SPLITTERS.values(), ids=SPLITTERS)
def test_grid_search_equals_a_loop(splitter):
    texts, y = documents()
    search = GridSearchCV(
        pipeline(),
        GRID,
        cv=splitter,
        scoring={"top 1": TopKScorer(1), "top 3": TopKScorer(3)},
        refit="top 1",
    ).fit(texts, y)
    assert search.cv_results_["params"] == list(ParameterGrid(GRID))
    assert_search_equals_loop(search, splitter, texts, y, accuracy, "top 1")
    assert_search_equals_loop(search, splitter, texts, y, top_3_accuracy, "top 3")


def test_the_refitted_model_is_that_of_the_best_parameters():
    texts, y = documents()
    search = GridSearchCV(
        pipeline(), GRID, cv=SPLITTERS["KFold"], scoring=TopKScorer(1)
    ).fit(texts, y)
    model = pipeline().set_params(**search.best_params_).fit(texts, y)
    fitted = search.best_estimator_["mach"]
    assert fitted.n_buckets_ == search.best_params_["mach__n_buckets"]
    assert_array_equal(fitted.coef_, model["mach"].coef_)
    assert_array_equal(search.predict(texts), model.predict(texts))
    assert set(search.predict(texts)) <= set(y)


def test_grid_search_by_log_loss_equals_a_loop():
    texts, y = documents(96)
    search = GridSearchCV(
        pipeline(), GRID, cv=SPLITTERS["KFold"], scoring=neg_log_loss
    ).fit(texts, y)
    for train, _ in SPLITTERS["KFold"].split(texts):
        assert set(y[train]) == set(y)  # by hand there is no rule for absent classes
    assert_search_equals_loop(search, SPLITTERS["KFold"], texts, y, log_likelihood)


@pytest.mark.parametrize("splitter", SPLITTERS.values(), ids=SPLITTERS)
def test_randomized_search_equals_a_loop(splitter):
    texts, y = documents()
    ranges = {"mach__n_repetitions": randint(2, 5), "mach__n_buckets": randint(4, 13)}
    search = RandomizedSearchCV(
        pipeline(),
        ranges,
        n_iter=4,
        cv=splitter,
        scoring=TopKScorer(1),
        random_state=1,
    ).fit(texts, y)
    drawn = list(ParameterSampler(ranges, 4, random_state=1))
    assert search.cv_results_["params"] == drawn
    assert_search_equals_loop(search, splitter, texts, y, accuracy)


@pytest.mark.parametrize("splitter", SPLITTERS.values(), ids=SPLITTERS)
def test_halving_over_repetitions(splitter):
    texts, y = documents()
    buckets = [4, 6, 8, 12]
    search = HalvingGridSearchCV(
        pipeline(),
        {"mach__n_buckets": buckets},
        resource="mach__n_repetitions",
        min_resources=2,
        max_resources=8,
        factor=2,
        cv=splitter,
        scoring=TopKScorer(1),
        random_state=0,
    ).fit(texts, y)
    assert search.n_resources_ == [2, 4, 8]
    assert search.n_candidates_ == [4, 2, 1]
    results = search.cv_results_
    alive, previous = set(buckets), None
    for stage, n_repetitions in enumerate(search.n_resources_):
        here = np.flatnonzero(results["iter"] == stage)
        params = [results["params"][i] for i in here]
        assert {p["mach__n_repetitions"] for p in params} == {n_repetitions}
        means = {
            p["mach__n_buckets"]: np.mean(by_hand(p, splitter, texts, y, accuracy))
            for p in params
        }
        assert_allclose(results["mean_test_score"][here], list(means.values()))
        assert means.keys() <= alive
        if previous is not None:  # none that was dropped was better than one kept
            dropped = [previous[b] for b in alive - means.keys()]
            assert max(dropped) <= min(previous[b] for b in means) + 1e-9  # rounding
        alive, previous = set(means), means
    assert alive == {search.best_params_["mach__n_buckets"]}
    assert search.best_estimator_["mach"].n_repetitions_ == 8


def precision_at_2(model, X, Y):
    return precision_at_k(Y, model.predict_proba(X), 2)


@pytest.mark.parametrize("form", [sp.csr_array, sp.csr_matrix])
def test_grid_search_of_several_labels_equals_a_loop(form):
    texts, first = documents(96)
    second = np.roll(first, 5)
    names = np.unique(first)
    Y = form((first[:, None] == names) | (second[:, None] == names), dtype=np.int64)
    assert Y.nnz == 2 * first.size
    search = GridSearchCV(
        pipeline(), GRID, cv=SPLITTERS["KFold"], scoring=RankingScorer("precision", 2)
    ).fit(texts, Y)
    assert_search_equals_loop(search, SPLITTERS["KFold"], texts, Y, precision_at_2)
    found = search.predict(texts)
    assert type(found) is form and found.shape == Y.shape
