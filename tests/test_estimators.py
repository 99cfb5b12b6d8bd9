"""Base classifiers: what they learn, get and give."""

import joblib
import numpy as np
import pytest
import reference
from helpers import DECODERS, SMOOTHING, ExactBuckets, assert_same_model, predictions
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sklearn_mach import MACHClassifier, _decoding


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


class MissingBuckets(ExactBuckets):
    """A classifier that gives NaN for the last row, if it has learnt bucket 3."""

    def predict_proba(self, X):
        proba = super().predict_proba(X)
        proba[-1:, self.classes_ == 3] = np.nan
        return proba


class InfiniteScores(LinearSVC):
    def decision_function(self, X):
        return np.full((X.shape[0], self.classes_.size), np.inf)


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
    merge = _decoding.DECODERS[decoder].merge
    expected = reference.class_scores(scores, model.bucket_table_, merge)
    if merge == "sum":
        expected = expected / n_repetitions
    # Sums of a few float32 numbers.
    assert_allclose(model.decision_function(X), expected, rtol=1e-5, atol=1e-6)


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


def test_base_classifiers_have_seeds_of_their_own(blobs):
    X, y = blobs(60)
    table = np.tile(np.arange(6)[:, None], 2)
    model = MACHClassifier(SGDClassifier(), hashing=table, random_state=0).fit(X, y)
    seeds = [estimator.random_state for estimator in model.estimators_]
    assert len(set(seeds)) == 2
    again = clone(model).fit(X, y)
    assert [estimator.random_state for estimator in again.estimators_] == seeds


def test_base_classifiers_get_float16_rows_as_float64(blobs):
    X, y = blobs(60, 8, 6, sparse=False)
    X = X.astype(np.float16)
    model = MACHClassifier(ExactType(), n_repetitions=2, n_buckets=3).fit(X, y)
    assert {estimator.dtype_ for estimator in model.estimators_} == {np.dtype(float)}


def test_n_jobs_changes_nothing_for_base_classifiers(blobs):
    X, y = blobs(100)
    model = MACHClassifier(
        SGDClassifier(loss="log_loss"), n_repetitions=4, n_buckets=3, random_state=0
    )
    one = clone(model).fit(X, y).decision_function(X)
    two = clone(model).set_params(n_jobs=2).fit(X, y)
    assert_array_equal(two.decision_function(X), one)


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


# Weights ----------------------------------------------------------------------------


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


# Refused ----------------------------------------------------------------------------


@predictions
def test_nan_of_a_base_classifier_is_refused(call):
    table = np.array([[0, 0], [1, 1], [2, 3]])
    model = MACHClassifier(MissingBuckets(), hashing=table).fit(np.eye(3), [0, 1, 2])
    message = r"predict_proba of repetition 1, MissingBuckets\(\), gives NaN for 1 of 3"
    with pytest.raises(ValueError, match=message):
        call(model, np.eye(3))


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


def test_a_base_that_cannot_score_is_refused(blobs):
    class OnlyPredicts(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            return self

        def predict(self, X):
            return np.zeros(len(X))

    X, y = blobs(60)
    with pytest.raises(ValueError, match="neither predict_proba nor decision_function"):
        MACHClassifier(OnlyPredicts()).fit(X, y)


# Blocks -----------------------------------------------------------------------------


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
