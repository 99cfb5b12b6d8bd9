"""The estimator: parameters, fits, and how it goes with scikit-learn."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import DECODERS, TABLE, assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sklearn_mach import MACHClassifier, _model, _softmax
from sklearn_mach.datasets import make_many_classes
from sklearn_mach.metrics import class_ranks

# Parameters -------------------------------------------------------------------------


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


# Fits -------------------------------------------------------------------------------


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


def test_no_folder_of_the_caller_is_written(blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = blobs(60)
    MACHClassifier(verbose=0).fit(X, y).predict(X)
    assert not list(Path(tmp_path).iterdir())


# Blocks -----------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"classes lacks labels .* knows: \[5\]. Pass"):
        model.partial_fit(X, y, classes=range(5))
    with pytest.raises(ValueError, match="'balanced' is not known block by block"):
        model.set_params(class_weight="balanced").partial_fit(X, y)
    lazy = MACHClassifier(LogisticRegression())
    assert not hasattr(lazy, "partial_fit")
    assert hasattr(MACHClassifier(MultinomialNB()), "partial_fit")


# Logit adjustment -------------------------------------------------------------------


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
    monkeypatch.setattr(_softmax, "_CALIBRATION_ROWS", 1000)
    many = MACHClassifier(**sizes)
    monkeypatch.setattr(_model, "fit_adjustment", lambda *rows: 0.25)
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
