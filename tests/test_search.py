"""MACHClassifierCV: its scores are those of separate fits, its choice is the best."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    PredefinedSplit,
    RandomizedSearchCV,
    ShuffleSplit,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from sklearn_mach import MACHClassifier, MACHClassifierCV, theory
from sklearn_mach.metrics import (
    RankingScorer,
    TopKScorer,
    inverse_propensities,
    ndcg_at_k,
    precision_at_k,
    propensity_scored_precision_at_k,
    recall_at_k,
    top_k_score,
)

FAST = MACHClassifier(max_iter=5)  # no matter how well it learns


@pytest.fixture
def data(blobs):
    return blobs(240, 8, 12, noise=1.5, sparse=False)


@pytest.fixture
def tagged():
    """Counts of words and an indicator of 12 labels; some rows have none."""
    return make_multilabel_classification(
        160, 20, n_classes=12, n_labels=3, random_state=0
    )


def halves(y):
    """One split: every second row is held out."""
    return PredefinedSplit(np.where(np.arange(len(y)) % 2, 0, -1))


@pytest.mark.parametrize("base", [None, GaussianNB()])
@pytest.mark.parametrize("scoring", ["accuracy", TopKScorer(3)])
def test_scores_are_those_of_a_fit_of_each_size(data, base, scoring):
    X, y = data
    model = MACHClassifier(base, random_state=3, max_iter=10)
    search = MACHClassifierCV(
        model, n_buckets=[3, 5], n_repetitions=5, cv=halves(y), scoring=scoring
    ).fit(X, y)
    results = search.cv_results_
    sizes = list(zip(results["n_buckets"], results["n_repetitions"], strict=True))
    # 3 ** 2 < 12 <= 3 ** 3 and 5 < 12 <= 5 ** 2
    assert sizes == [(3, r) for r in (3, 4, 5)] + [(5, r) for r in (2, 3, 4, 5)]
    k = 1 if scoring == "accuracy" else 3
    for (B, r), score in zip(sizes, results["mean_test_score"], strict=True):
        alone = clone(model).set_params(n_buckets=int(B), n_repetitions=int(r))
        alone.fit(X[::2], y[::2])
        # scores that differ by a rounding error may put one row right or wrong
        expected = top_k_score(alone, X[1::2], y[1::2], k=k)
        assert score == pytest.approx(expected, abs=1.01 / len(y[1::2]))
    assert search.best_score_ == results["mean_test_score"].max()


def test_float16_rows_score_as_the_same_numbers_in_float32(data):
    X, y = data
    X = X.astype(np.float16)
    search = MACHClassifierCV(FAST, n_buckets=4, n_repetitions=4, random_state=0)
    other = clone(search).fit(X.astype(np.float32), y)
    search.fit(X, y)
    for name in ("mean_test_score", "n_bytes"):
        np.testing.assert_array_equal(search.cv_results_[name], other.cv_results_[name])
    np.testing.assert_array_equal(
        search.predict(X), other.predict(X.astype(np.float32))
    )


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_scores_and_refit_are_those_of_the_logit_adjustment(data, base):
    X, y = data
    kept = np.arange(y.size) // 12 % (y + 1) == 0  # class k is 1/(k + 1) as frequent
    X, y = X[kept], y[kept]
    model = MACHClassifier(base, random_state=3, max_iter=10, logit_adjustment=1.5)
    search = MACHClassifierCV(model, n_buckets=5, n_repetitions=4, cv=halves(y))
    search.fit(X, y)
    for r, score in zip((2, 3, 4), search.cv_results_["mean_test_score"], strict=True):
        alone = clone(model).set_params(n_buckets=5, n_repetitions=r)
        plain = clone(alone).set_params(logit_adjustment=0).fit(X[::2], y[::2])
        counts = np.bincount(y[::2])[plain.classes_]
        scores = plain.decision_function(X[1::2]) - 1.5 * np.log(counts)
        expected = np.mean(plain.classes_[scores.argmax(axis=1)] == y[1::2])
        # scores that differ by a rounding error may put one row right or wrong
        assert score == pytest.approx(expected, abs=1.01 / y[1::2].size)
    best = search.best_estimator_
    assert (best.logit_adjustment, best.logit_adjustment_) == (1.5, 1.5)
    proba = search.predict_proba(X)
    assert (best.predict_topk(X)[:, 0] == best.classes_[proba.argmax(axis=1)]).all()


@pytest.mark.parametrize("base", [None, DecisionTreeClassifier(max_depth=3)])
def test_bytes_and_budget(data, base):
    X, y = data
    model = MACHClassifier(base, max_iter=5)
    free = MACHClassifierCV(model, n_buckets=[3, 6], n_repetitions=6, random_state=0)
    free.fit(X, y)
    n_bytes = free.cv_results_["n_bytes"]
    budget = int(np.median(n_bytes))
    search = clone(free).set_params(max_bytes=budget).fit(X, y)
    allowed = n_bytes <= budget
    assert search.best_score_ == free.cv_results_["mean_test_score"][allowed].max()
    if base is None:  # exactly; a tree of all rows may have other nodes
        assert search.best_estimator_.model_bytes_ <= budget
        assert np.all(search.cv_results_["n_bytes"] <= budget)
    sizes = (free.cv_results_[name] for name in ("n_repetitions", "n_buckets"))
    for r, B, measured in zip(*sizes, n_bytes, strict=True):
        if (r, B) == tuple(search.best_params_.values()):
            rel = 0 if base is None else 0.1
            actual = search.best_estimator_.model_bytes_
            assert measured == pytest.approx(actual, rel=rel)


def test_of_equal_scores_the_smallest_model_is_taken():
    X, y = np.repeat(np.eye(6), 20, axis=0), np.repeat(np.arange(6), 20)
    search = MACHClassifierCV(n_buckets=[2, 8], n_repetitions=4, random_state=0)
    search.fit(X, y)
    results = search.cv_results_
    best = results["mean_test_score"] == results["mean_test_score"].max()
    assert best.sum() > 1  # every class has its own feature
    chosen = [results[name] == value for name, value in search.best_params_.items()]
    chosen = results["n_bytes"][np.all(chosen, axis=0)]
    assert chosen == results["n_bytes"][best].min()


def test_only_the_smallest_of_too_many_buckets_is_tried(data):
    search = MACHClassifierCV(FAST, n_buckets=[64, 5, 12, 16], n_repetitions=3)
    search.fit(*data)
    assert set(search.cv_results_["n_buckets"]) == {5, 12}


@pytest.mark.parametrize(
    ("free", "n_repetitions"),
    [
        # 12 classes and 4 buckets, so that a repetition takes 4 * (8 + 1) * 4 bytes
        (None, 32),  # unknown: twice the usual 16, for X is small
        (2 * 144 * 32, 32),  # half of it is what they take
        (2 * 144 * 32 - 2, 31),
        (2 * 144 * 10 + 100, 10),
        (2 * 144, 2),  # as many as tell 12 classes apart, if these fit in all of it
    ],
)
def test_auto_repetitions_are_those_of_the_classifier(
    data, monkeypatch, free, n_repetitions
):
    monkeypatch.setattr("sklearn_mach._planning.free_memory", lambda: free)
    search = MACHClassifierCV(FAST, n_buckets=4).fit(*data)
    assert search.cv_results_["n_repetitions"][-1] == n_repetitions
    alone = clone(FAST).set_params(n_buckets=4).fit(*data)
    assert alone.n_repetitions_ == n_repetitions


def test_auto_repetitions_of_few_features_are_those_of_the_classifier():
    X, y = sp.csr_array(np.ones((2_600, 1))), np.arange(2_600)
    model = MACHClassifier(n_buckets=128, max_iter=1).fit(X, y)
    search = MACHClassifierCV(clone(model), n_buckets=128, refit=False).fit(X, y)
    # 2,600 buckets altogether, where 2,048 are usual
    assert model.n_repetitions_ == search.cv_results_["n_repetitions"][-1] == 21


def test_auto_repetitions_of_base_classifiers_ignore_the_free_memory(data, monkeypatch):
    monkeypatch.setattr("sklearn_mach._planning.free_memory", lambda: 1)
    model = MACHClassifier(GaussianNB())
    search = MACHClassifierCV(model, n_buckets=4, refit=False).fit(*data)
    assert search.cv_results_["n_repetitions"][-1] == 32


@pytest.mark.parametrize(
    "cv, splitter",
    [
        (0.25, ShuffleSplit(1, test_size=0.25)),
        (3, KFold(3)),
        (KFold(2), KFold(2)),
        ([(np.arange(90), np.arange(90, 240))], ShuffleSplit(1, train_size=90)),
    ],
)
def test_each_split_is_fitted_once_for_each_number_of_buckets(data, cv, splitter):
    class Counting(MACHClassifier):
        n_rows = []

        def fit(self, X, y, sample_weight=None):
            self.n_rows.append(len(y))
            return super().fit(X, y, sample_weight)

    X, y = data
    model = Counting(max_iter=1)
    search = MACHClassifierCV(model, n_buckets=[4, 6], n_repetitions=6, cv=cv)
    search.fit(X, y)
    splits = [len(train) for train, _ in splitter.split(X)]
    assert Counting.n_rows == splits * 2 + [len(y)]


def test_splits_may_be_lists_numbers_from_the_end_or_masks(data):
    X, y = data
    train = np.arange(y.size) < 200
    scores = []
    for pair in (
        (np.flatnonzero(train), np.flatnonzero(~train)),
        (list(range(200)), list(range(-40, 0))),
        (train, ~train),
    ):
        model = clone(FAST).set_params(random_state=0)
        search = MACHClassifierCV(
            model, n_buckets=4, n_repetitions=4, cv=[pair], refit=False
        )
        scores.append(search.fit(X, y).cv_results_["mean_test_score"])
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


@pytest.mark.parametrize("seed", [0, "generator"])
def test_a_seed_repeats_the_search(data, seed):
    def fit():
        state = np.random.RandomState(1) if seed == "generator" else seed
        search = MACHClassifierCV(
            FAST, n_buckets=4, n_repetitions=4, random_state=state
        )
        return search.fit(*data)

    first, second = fit(), fit()
    assert first.best_params_ == second.best_params_
    np.testing.assert_array_equal(
        first.best_estimator_.bucket_table_, second.best_estimator_.bucket_table_
    )
    np.testing.assert_array_equal(
        first.predict_proba(data[0]), second.predict_proba(data[0])
    )


def test_a_random_state_of_the_classifier_is_kept(data):
    states = np.random.RandomState(5), np.random.RandomState(5)
    tables = []
    for state in (*states, 7, 7):
        model = MACHClassifier(random_state=state, max_iter=1)
        search = MACHClassifierCV(
            model, n_buckets=4, n_repetitions=4, cv=halves(data[1])
        )
        tables.append(search.fit(*data).best_estimator_.bucket_table_)
    np.testing.assert_array_equal(tables[0], tables[1])
    np.testing.assert_array_equal(tables[2], tables[3])
    alone = MACHClassifier(
        n_buckets=4, n_repetitions=4, max_iter=1, random_state=7
    ).fit(*data)
    n_repetitions = tables[2].shape[1]
    np.testing.assert_array_equal(tables[2], alone.bucket_table_[:, :n_repetitions])


def test_universal_tables_tell_the_classes_of_the_refit_apart(blobs):
    X, y = blobs(150, 8, 30, sparse=False)
    model = MACHClassifier(hashing="universal", max_iter=1)
    for seed in range(10):
        search = MACHClassifierCV(
            model, n_buckets=2, n_repetitions=12, random_state=seed
        ).fit(X, y)
        least = search.cv_results_["n_repetitions"][0]
        table = search.best_estimator_.bucket_table_
        assert table.shape[1] >= least >= 5  # 2 ** 5 > 30
        assert len(np.unique(table, axis=0)) == 30


def test_classes_that_a_fold_lacks(data):
    X, y = data
    y = np.where(np.arange(y.size) == 1, 99, y)  # held out by `halves`
    search = MACHClassifierCV(FAST, n_buckets=4, n_repetitions=4, cv=halves(y)).fit(
        X, y
    )
    assert 99 in search.classes_ and 99 in search.best_estimator_.classes_
    assert search.cv_results_["n_bytes"][-1] == (
        4 * (8 + 1) * 4 * 4 + 13 * 4  # weights, and one byte for each class and R
    )


def test_methods_are_those_of_the_best_estimator(data):
    X, y = data
    names = np.array([f"class {k}" for k in range(12)])[y]
    search = MACHClassifierCV(FAST, n_buckets=4, scoring=TopKScorer(2)).fit(X, names)
    best = search.best_estimator_
    np.testing.assert_array_equal(search.classes_, np.unique(names))
    np.testing.assert_array_equal(search.predict(X), best.predict(X))
    np.testing.assert_array_equal(search.predict_topk(X, 3), best.predict_topk(X, 3))
    for method in ("predict_proba", "predict_log_proba", "decision_function"):
        np.testing.assert_array_equal(
            getattr(search, method)(X), getattr(best, method)(X)
        )
    assert search.score(X, names) == top_k_score(best, X, names, 2)
    assert search.set_params(scoring="accuracy").score(X, names) == np.mean(
        search.predict(X) == names
    )


def test_feature_names_reach_the_refit(data):
    pd = pytest.importorskip("pandas")
    X, y = data
    X = pd.DataFrame(X, columns=[f"f{j}" for j in range(8)])
    search = MACHClassifierCV(FAST, n_buckets=4).fit(X, y)
    assert list(search.feature_names_in_) == list(X.columns)
    assert list(search.best_estimator_.feature_names_in_) == list(X.columns)
    search.fit(X.to_numpy(), y)
    assert not hasattr(search, "feature_names_in_")


def test_without_refit_there_is_a_choice_and_no_prediction(data):
    search = MACHClassifierCV(FAST, n_buckets=4).fit(*data)
    search.set_params(refit=False).fit(*data)
    assert search.best_params_["n_buckets"] == 4
    assert not hasattr(search, "best_estimator_")
    assert not hasattr(search, "predict")


def test_weights_count_in_fitting_and_in_scoring(data):
    X, y = data
    weight = np.arange(y.size) % 4
    model = clone(FAST).set_params(random_state=0)
    search = MACHClassifierCV(model, n_buckets=4, n_repetitions=3, cv=halves(y))
    search.fit(X, y, weight)
    alone = clone(model).set_params(n_buckets=4, n_repetitions=3)
    alone.fit(X[::2], y[::2], weight[::2])
    expected = alone.score(X[1::2], y[1::2], weight[1::2])
    # scores that differ by a rounding error may put one row right or wrong
    abs_tol = 1.01 * weight.max() / weight[1::2].sum()
    found = search.cv_results_["mean_test_score"][-1]
    assert found == pytest.approx(expected, abs=abs_tol)


@pytest.mark.parametrize("cv", [0.1, 3])
def test_rows_without_weight_are_not_held_out(data, cv):
    X, y = data
    weight = np.zeros(y.size)
    weight[:12] = 1  # a split of all rows would hold out rows of no weight alone
    search = MACHClassifierCV(FAST, n_buckets=4, cv=cv, random_state=0)
    search.fit(X, y, weight)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    with pytest.raises(ValueError, match="holds out all have a sample_weight of zero"):
        search.set_params(cv=KFold(4)).fit(X, y, weight)
    with pytest.raises(ValueError, match="(?i)weights .*zero"):
        search.fit(X, y, 0 * weight)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"max_bytes": 100}, r"max_bytes=100: .* takes 312 bytes"),
        (
            {"max_bytes": 100, "classifier": MACHClassifier(GaussianNB())},
            "max_bytes=100: the smallest",
        ),
        ({"n_repetitions": 1}, "n_repetitions=1 cannot tell 12 classes apart"),
        ({"n_repetitions": 1, "max_bytes": 1e9}, "cannot tell 12 classes apart"),
        (
            {
                "n_repetitions": 4,
                "n_buckets": 2,
                "classifier": MACHClassifier(hashing="universal", random_state=0),
            },
            "n_repetitions=4 cannot tell 12 classes apart",
        ),
        ({"n_buckets": [1, 4]}, "integer of at least 2 or a list of them, got"),
        ({"n_buckets": []}, "integer of at least 2 or a list of them, got"),
        ({"n_buckets": [4.5]}, "integer of at least 2 or a list of them, got"),
        ({"n_buckets": [[4, 8]]}, r"or a list of them, got \[\[4, 8\]\]"),
        ({"n_buckets": 1}, "'n_buckets' parameter"),
        ({"cv": 1.5}, "'cv' parameter"),
        ({"cv": 1e-9}, "n_samples=240, cv=1e-09 holds out less than"),
        ({"cv": []}, "cv holds no split"),
        ({"cv": [([0], [1], 3)]}, r"pairs \(train, test\).* 0 is \(\[0\], \[1\], 3"),
        ({"cv": [([0], [1]), 5]}, "Split number 1 is 5"),
        ({"cv": [([0], [])]}, "at least one row. Split number 0 is"),
        ({"cv": [([], [0])]}, "at least one row. Split number 0 is"),
        ({"cv": [([0], [240])]}, "row numbers from 0 to 239"),
        ({"cv": [([0.5], [1])]}, "row numbers from 0 to 239"),
        ({"cv": [([[0]], [1])]}, "row numbers from 0 to 239"),
        ({"cv": [([True], [1])]}, "row numbers from 0 to 239"),
        ({"scoring": "f1"}, "'scoring' parameter"),
        (
            {"classifier": MACHClassifier(hashing=np.arange(12)[:, None])},
            "hashing of the classifier is an array",
        ),
    ],
)
def test_errors_say_what_is_wrong(data, params, message):
    # 12 classes in 4 buckets: two repetitions of 4 * (8 + 1) weights and 12 bytes
    search = MACHClassifierCV(n_buckets=4).set_params(**params)
    with pytest.raises(ValueError, match=message):
        search.fit(*data)


def test_scikit_learn_searches_try_sizes(data):
    X, y = data
    sizes = {"n_repetitions": [3, 4], "n_buckets": [3, 5]}
    model = clone(FAST).set_params(random_state=0)
    folds = {"cv": KFold(2), "refit": False}
    grid = GridSearchCV(model, sizes, **folds).fit(X, y)
    drawn = RandomizedSearchCV(model, sizes, n_iter=4, random_state=0, **folds)
    drawn.fit(X, y)  # of four candidates in all
    assert drawn.best_score_ == grid.best_score_
    # the same by separate folds of MACHClassifierCV
    own = MACHClassifierCV(model, n_buckets=[3, 5], n_repetitions=4, cv=KFold(2))
    own.fit(X, y)
    found = own.cv_results_
    for params, score in zip(
        grid.cv_results_["params"], grid.cv_results_["mean_test_score"], strict=True
    ):
        same = [found[name] == value for name, value in params.items()]
        # scores that differ by a rounding error may put one row right or wrong
        assert found["mean_test_score"][np.all(same, axis=0)] == pytest.approx(
            score, abs=1.01 / y.size
        )


def test_successive_halving_with_repetitions_as_the_resource(data):
    search = HalvingGridSearchCV(
        clone(FAST).set_params(random_state=0),
        {"n_buckets": [4, 6, 8, 12]},
        resource="n_repetitions",
        factor=2,
        min_resources=2,
        max_resources=8,
        cv=KFold(2, shuffle=True, random_state=0),
    ).fit(*data)
    assert search.n_resources_ == [2, 4, 8]
    assert search.n_candidates_ == [4, 2, 1]
    assert search.best_estimator_.n_repetitions_ == 8


# Several labels a row -----------------------------------------------------------------

WEIGHTS = inverse_propensities(np.arange(1, 13), n_samples=50)
RANKINGS = {
    "accuracy": (1, precision_at_k),
    RankingScorer("precision", 3): (3, precision_at_k),
    RankingScorer("ndcg", 20): (20, ndcg_at_k),  # more than there are labels
    RankingScorer("recall", 2): (2, recall_at_k),
    RankingScorer("psp", 2, WEIGHTS): (2, None),
}


@pytest.mark.parametrize("form", [np.array, sp.csr_array, sp.csc_matrix])
@pytest.mark.parametrize("scoring", RANKINGS)
def test_scores_of_several_labels_are_those_of_stages_by_hand(tagged, scoring, form):
    X, Y = tagged
    assert (Y[::2].sum(axis=1) == 0).any()
    weight = np.arange(len(Y)) % 4
    model = MACHClassifier(random_state=3, max_iter=5)
    search = MACHClassifierCV(
        model, n_buckets=[3, 5], n_repetitions=5, cv=halves(Y), scoring=scoring
    ).fit(X, form(Y), weight)
    k, metric = RANKINGS[scoring]
    results = search.cv_results_
    for B, least in ((3, 3), (5, 2)):  # 3 ** 2 < 12 <= 3 ** 3 and 5 < 12 <= 5 ** 2
        alone = clone(model).set_params(n_buckets=B, n_repetitions=5)
        alone.fit(X[::2], Y[::2], weight[::2])
        expected = []
        for best in alone.staged_predict_topk(X[1::2], min(k, 12)):
            if metric is None:
                of_labels = best, WEIGHTS, k, weight[1::2]
                score = propensity_scored_precision_at_k(Y[1::2], *of_labels)
            else:
                score = metric(Y[1::2], best, k, weight[1::2])
            expected.append(score)
        found = results["mean_test_score"][results["n_buckets"] == B]
        np.testing.assert_allclose(found, expected[least - 1 :], rtol=1e-12)
    assert search.best_score_ == results["mean_test_score"].max()
    # `score` is the same measure, of the model of all rows
    scorer = RankingScorer("precision", 1) if scoring == "accuracy" else scoring
    expected = scorer(search.best_estimator_, X, Y, weight)
    assert search.score(X, form(Y), weight) == expected


def test_accuracy_of_several_labels_is_how_often_the_best_is_right(tagged):
    X, Y = tagged
    search = MACHClassifierCV(FAST, n_buckets=4, n_repetitions=4, random_state=0)
    search.fit(X, Y)
    best = search.predict_topk(X, 1)[:, 0]
    right = [Y[i, column] for i, column in enumerate(best)]
    assert search.score(X, Y) == pytest.approx(np.mean(right))


@pytest.mark.parametrize("form", [np.array, sp.csr_array, sp.csr_matrix])
def test_methods_for_several_labels_are_those_of_the_best_estimator(tagged, form):
    X, Y = tagged
    Y = form(Y.astype(np.float32))
    search = MACHClassifierCV(FAST, n_buckets=4, cv=2, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(search.classes_, np.arange(12))
    assert search.multilabel_ and search.best_estimator_.multilabel_
    found = search.predict(X)
    assert type(found) is type(Y) and found.dtype == Y.dtype and found.shape == Y.shape
    dense = found.toarray() if sp.issparse(found) else found
    proba = search.predict_proba(X)
    np.testing.assert_array_equal(dense, proba >= 0.5)
    np.testing.assert_array_equal(proba, search.best_estimator_.predict_proba(X))


def test_labels_that_a_split_lacks_keep_their_columns(tagged):
    X, Y = tagged
    Y[:, 3] = 0  # of no row
    Y[::2, 4], Y[1::2, 5] = 0, 0  # of held-out rows only, and of trained ones only
    cv, folds = halves(Y), KFold(2)
    for splits in cv, folds:
        model = clone(FAST).set_params(random_state=0)
        search = MACHClassifierCV(model, n_buckets=4, n_repetitions=4, cv=splits)
        search.fit(X, sp.csr_array(Y))
        assert search.best_estimator_.bucket_table_.shape[0] == 12
        assert search.cv_results_["n_bytes"][-1] == 4 * (20 + 1) * 4 * 4 + 12 * 4


def test_repetitions_of_several_labels_are_those_of_the_classifier():
    Y = sp.random(60, 300, density=0.1, random_state=0, format="csr")
    Y.data[:] = 1  # 30 labels a row
    X = sp.random(60, 2_000, density=0.01, random_state=0, format="csr")
    model = MACHClassifier(n_buckets=128, max_iter=1, random_state=0).fit(X, Y)
    sizes = theory.choose_sizes(300, "auto", 128, n_nonzeros=X.nnz, n_labels=30)
    assert (model.n_repetitions_, 128) == sizes
    assert sizes != theory.choose_sizes(300, "auto", 128, n_nonzeros=X.nnz)
    search = MACHClassifierCV(clone(model), n_buckets=128, refit=False).fit(X, Y)
    assert search.cv_results_["n_repetitions"][-1] == model.n_repetitions_


def test_scorers_are_for_their_number_of_labels(data, tagged):
    search = MACHClassifierCV(FAST, n_buckets=4, n_repetitions=4)
    several = "is for several labels a row.* one label a row. Use TopKScorer"
    with pytest.raises(ValueError, match=several):
        search.set_params(scoring=RankingScorer("ndcg", 3)).fit(*data)
    one = (
        r"is for one label a row.* Use RankingScorer .*RankingScorer\('precision', k=7"
    )
    with pytest.raises(ValueError, match=one):
        search.set_params(scoring=TopKScorer(7)).fit(*tagged)
    assert not hasattr(search, "classes_")
    search.set_params(scoring="accuracy").fit(*tagged)
    with pytest.raises(ValueError, match=one):
        search.set_params(scoring=TopKScorer(7)).score(*tagged)
    with pytest.raises(ValueError, match="or a RankingScorer; got 'f1'"):
        search.set_params(scoring="f1").score(*tagged)


def test_weights_of_other_labels_are_refused_before_a_fit(tagged, monkeypatch):
    scoring = RankingScorer("psp", weights=np.ones(11))
    search = MACHClassifierCV(FAST, n_buckets=4, scoring=scoring)
    monkeypatch.setattr(MACHClassifier, "fit", None)
    with pytest.raises(ValueError, match="There are 11 weights for 12 labels"):
        search.fit(*tagged)
