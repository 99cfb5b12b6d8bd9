"""Base classifiers: what they learn, get and give."""

import pickle

import joblib
import numpy as np
import pytest
import reference
import scipy.sparse as sp
from helpers import DECODERS, SMOOTHING, ExactBuckets, assert_same_model, predictions
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sklearn_mach import MACHClassifier, _decoding
from sklearn_mach._learners import learner_of


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
        RidgeClassifier(),  # whose n_iter_ is None
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


# Several labels a row ----------------------------------------------------------------

# Without label 5 bucket 3 of the first repetition has no row, as it has none of the
# last; with label 6 on all rows buckets 0, 1 and 1 have them all.
LABELS = np.array(
    [[0, 0, 1], [1, 1, 2], [2, 2, 0], [0, 3, 2], [1, 3, 0], [3, 0, 0], [0, 1, 1]]
)


def labelled(n_samples=90, *, everywhere=False, sparse=False):
    """Rows that are sums of the parts of their labels, and the indicator."""
    rng = np.random.default_rng(n_samples)
    Y = (rng.random((n_samples, 7)) < 0.3).astype(int)
    Y[:, 5], Y[:, 6] = 0, everywhere
    Y[:3, :5] = 0
    parts = np.random.default_rng(0).random((7, 8)) ** 2
    X = Y @ parts + 0.1 * rng.random((n_samples, 8))
    return (sp.csr_array(X) if sparse else X), Y


def bits_of(Y, column, n_buckets=4):
    """Whether a row has a label in a bucket, (n, B)."""
    bits = np.zeros((len(Y), n_buckets), int)
    for i, row in enumerate(Y):
        for label in np.flatnonzero(row):
            bits[i, column[label]] = 1
    return bits


def at_once(estimator, X, bits):
    """Marginals (n, B) of a classifier of several labels, fitted on the bits."""
    fitted = clone(estimator).fit(X, bits)
    if not hasattr(fitted, "predict_proba"):
        return 1 / (1 + np.exp(-fitted.decision_function(X)))
    proba = fitted.predict_proba(X)
    if not isinstance(proba, list):
        return proba
    columns = []
    for of_bucket, classes in zip(proba, fitted.classes_, strict=True):
        seen = list(classes)
        columns.append(
            of_bucket[:, seen.index(1)] if 1 in seen else np.zeros(X.shape[0])
        )
    return np.column_stack(columns)


def one_vs_rest(base, X, bits):
    """Marginals (n, B) by scikit-learn, of the buckets that vary."""
    proba, varies = bits.astype(float), bits.min(axis=0) < bits.max(axis=0)
    fitted = OneVsRestClassifier(base).fit(X, bits[:, varies])
    if hasattr(base, "predict_proba"):
        proba[:, varies] = fitted.predict_proba(X)
    else:
        proba[:, varies] = 1 / (1 + np.exp(-fitted.decision_function(X)))
    return proba


def merged(marginals, table, decoder="log_mean"):
    """Probabilities (n, K) from marginals (n, R, B)."""
    proba = (1 - SMOOTHING) * marginals + SMOOTHING / marginals.shape[2]
    scores = np.log(proba) if decoder == "log_mean" else proba
    scores = reference.class_scores(scores, table) / table.shape[1]
    return np.exp(scores) if decoder == "log_mean" else scores


AT_ONCE = [
    DecisionTreeClassifier(max_depth=4),
    KNeighborsClassifier(),
    MLPClassifier((5,), max_iter=20, tol=1),
    RidgeClassifier(),
    make_pipeline(MaxAbsScaler(), DecisionTreeClassifier(max_depth=4)),
]
BY_BUCKETS = [
    LogisticRegression(),
    LinearSVC(dual=False),  # the other solver is random
    MultinomialNB(),
    make_pipeline(MaxAbsScaler(), LogisticRegression()),
]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("base", AT_ONCE + BY_BUCKETS)
def test_several_labels_equal_classifiers_made_by_hand(base, everywhere, sparse):
    X, Y = labelled(everywhere=everywhere, sparse=sparse)
    model = MACHClassifier(base, hashing=LABELS, random_state=0).fit(X, Y)
    marginals = []
    for r, column in enumerate(LABELS.T):
        bits = bits_of(Y, column)
        if base in AT_ONCE:  # the clone has the seed
            marginals.append(at_once(model.estimators_[r], X, bits))
        else:
            assert len(model.estimators_[r]) == 4
            marginals.append(one_vs_rest(base, X, bits))
    marginals = np.stack(marginals, axis=1)
    for decoder in ("log_mean", "mean"):
        model.set_params(decoder=decoder)
        expected = merged(marginals, LABELS, decoder)
        # float32 sums of a few numbers, and log odds of those near one
        assert_allclose(model.predict_proba(X), expected, rtol=1e-4, atol=1e-6)
        clear = abs(expected - 0.5) > 1e-5
        assert_array_equal(model.predict(X)[clear], expected[clear] > 0.5)
        assert_array_equal(list(model.staged_predict(X))[-1], model.predict(X))
    assert np.isfinite(model.decision_function(X)).all()


@pytest.mark.parametrize("base", [DecisionTreeClassifier(), SGDClassifier()])
def test_base_classifiers_of_several_labels_grow_and_are_saved(base):
    X, Y = labelled()
    parameters = dict(n_buckets=4, hashing="balanced", random_state=0)
    whole = MACHClassifier(base, n_repetitions=4, **parameters).fit(X, Y)
    scores = whole.decision_function(X)
    grown = clone(whole).set_params(warm_start=True, n_repetitions=2).fit(X, Y)
    kept = list(grown.estimators_)
    grown.set_params(n_repetitions=4).fit(X, Y)
    assert grown.estimators_[:2] == kept
    assert_array_equal(grown.decision_function(X), scores)
    two = clone(whole).set_params(n_jobs=2).fit(X, Y)
    assert_array_equal(two.decision_function(X), scores)
    loaded = pickle.loads(pickle.dumps(whole))
    assert_array_equal(loaded.decision_function(X), scores)
    parts = [whole._fitted.model.select([r]) for r in range(4)]
    joined = type(parts[0]).concatenate(parts)
    whole._fitted = whole._fitted._replace(model=joined)
    assert_array_equal(whole.decision_function(X), scores)
    of_stages = learner_of(whole).stage_bytes(whole, 7, 4)
    assert (np.diff(of_stages) > 0).all()
    # They are written by another protocol of pickle.
    assert_allclose(of_stages[-1], whole.model_bytes_, rtol=0.05)


def test_models_of_a_time_of_one_label_a_row_predict(blobs):
    X, y = blobs(60)
    model = MACHClassifier(LogisticRegression(), n_repetitions=2, n_buckets=3)
    state = model.fit(X, y).__getstate__()
    del state["_several"]
    old = MACHClassifier.__new__(MACHClassifier)
    old.__setstate__(state)
    assert_array_equal(old.predict_proba(X), model.predict_proba(X))


def test_clones_of_buckets_have_seeds_of_their_own():
    X, Y = labelled()
    model = MACHClassifier(SGDClassifier(), hashing=LABELS[:, :2], random_state=0)
    model.partial_fit(X, Y)
    seeds = [each.random_state for one in model.estimators_ for each in one]
    assert len(set(seeds)) == 8


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("base", [DecisionTreeClassifier(), LogisticRegression()])
def test_weights_reach_base_classifiers_of_several_labels(base, routed):
    X, Y = labelled(60)
    weight = np.random.default_rng(0).integers(1, 4, 60)
    with config_context(enable_metadata_routing=routed):
        if routed:
            base = clone(base).set_fit_request(sample_weight=True)
        model = MACHClassifier(base, hashing=LABELS, random_state=0)
        model.fit(X, Y, sample_weight=weight)
    rows = np.repeat(np.arange(60), weight)
    again = clone(model).fit(X[rows], Y[rows])
    # The solver stops at a tolerance.
    assert_allclose(model.predict_proba(X), again.predict_proba(X), rtol=1e-3)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("base", [KNeighborsClassifier(), MLPClassifier()])
def test_weights_that_several_labels_cannot_use_are_refused(base, method):
    class NoWeights(type(base)):
        def fit(self, X, y):
            raise AssertionError("work has started")

        partial_fit = fit

    X, Y = labelled(60)
    model = MACHClassifier(NoWeights(), hashing=LABELS)
    with pytest.raises(ValueError, match=r"NoWeights\(\) takes no sample_weight"):
        getattr(model, method)(X, Y, sample_weight=np.ones(60))
    assert not hasattr(model, "classes_")


def test_partial_fit_of_an_indicator_equals_that_made_by_hand():
    X, Y = labelled()
    base = MLPClassifier((5,))
    model = MACHClassifier(base, hashing=LABELS, random_state=0)
    blocks = [slice(0, 3), slice(3, 40), slice(40, 90)]  # no labels, then some
    for rows in blocks:
        model.partial_fit(X[rows], Y[rows])
    marginals = []
    for estimator, column in zip(model.estimators_, LABELS.T, strict=True):
        bits, alone = bits_of(Y, column), clone(estimator)
        for rows in blocks:
            alone.partial_fit(X[rows], bits[rows], classes=range(4))
        marginals.append(alone.predict_proba(X))
    expected = merged(np.stack(marginals, axis=1), LABELS)
    assert_allclose(model.predict_proba(X), expected, rtol=1e-4)


def test_partial_fit_of_buckets_equals_that_made_by_hand():
    X, Y = labelled()
    weight = np.random.default_rng(0).uniform(0.1, 5, 90)
    base = SGDClassifier(loss="log_loss")
    model = MACHClassifier(base, hashing=LABELS, random_state=0)
    blocks = [slice(0, 3), slice(3, 40), slice(40, 90)]
    for rows in blocks:
        model.partial_fit(X[rows], Y[rows], sample_weight=weight[rows])
    for estimators, column in zip(model.estimators_, LABELS.T, strict=True):
        for estimator, bit in zip(estimators, bits_of(Y, column).T, strict=True):
            alone = clone(estimator)
            for rows in blocks:
                some = {"classes": [0, 1], "sample_weight": weight[rows]}
                alone.partial_fit(X[rows], bit[rows], **some)
            assert_array_equal(estimator.coef_, alone.coef_)


@pytest.mark.parametrize("base", [MultinomialNB(), GaussianNB()])
def test_partial_fit_of_counts_of_buckets_equals_fit(base):
    X, Y = labelled(everywhere=True)
    model = MACHClassifier(base, hashing=LABELS, random_state=0)
    whole = clone(model).fit(X, Y).predict_proba(X)
    for start in range(0, 90, 30):  # of which GaussianNB sees variances
        rows = slice(start, start + 30)
        model.partial_fit(X[rows], Y[rows])
    # Sums are added in another order; GaussianNB adds a share of each block's variance.
    rtol = 1e-5 if isinstance(base, MultinomialNB) else 0.1
    assert_allclose(model.predict_proba(X), whole, rtol=rtol)


def test_a_bucket_without_rows_in_fit_learns_from_the_first_block_that_has_some():
    X, Y = labelled()
    model = MACHClassifier(SGDClassifier(), hashing=LABELS, random_state=0).fit(X, Y)
    assert isinstance(model.estimators_[0][3], DummyClassifier)
    empty = model.estimators_[0][3]
    model.partial_fit(X[:50], Y[:50])
    assert model.estimators_[0][3] is empty
    more = Y[:50].copy()
    more[10:30, 5] = 1
    model.partial_fit(X[:50], more)
    learned = model.estimators_[0][3]
    alone = clone(learned).partial_fit(X[:50], more[:, 5], classes=[0, 1])
    assert_array_equal(learned.coef_, alone.coef_)


def test_a_failing_partial_fit_of_buckets_leaves_the_model_untouched():
    X, Y = labelled()
    model = MACHClassifier(FailingLater(), hashing=LABELS, random_state=0)
    model.partial_fit(X, Y)
    scores = model.decision_function(X)
    with pytest.raises(ValueError, match="out of order"):
        model.partial_fit(X[3:], np.eye(7, dtype=int)[np.arange(87) % 7])
    assert_array_equal(model.decision_function(X), scores)


class WrongShape(DecisionTreeClassifier):
    def predict_proba(self, X):
        return super().predict_proba(X)[:2]


class MissingBits(KNeighborsClassifier):
    def predict_proba(self, X):
        proba = super().predict_proba(X)
        proba[0][-1] = np.nan
        return proba


class MissingBit(MultinomialNB):
    def predict_proba(self, X):
        return np.full((X.shape[0], 2), np.nan)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (WrongShape(), r"predict_proba of repetition 0, .* shape \[.* of 4 buckets"),
        (MissingBits(), "predict_proba of repetition 0, .* NaN for 1 of 90 rows"),
        (MissingBit(), "predict_proba of bucket 0 of repetition 0, .* for 90 of 90"),
    ],
)
def test_wrong_probabilities_of_several_labels_are_refused(base, message):
    X, Y = labelled()
    model = MACHClassifier(base, hashing=LABELS).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        model.predict(X)
