"""Probabilities of the k best classes, and `predict_topk` of pipelines and searches."""

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from helpers import DECODERS, bucket_scores, peak_of, set_offset
from numpy.testing import assert_allclose, assert_array_equal
from several import SIZES, planted
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

from sklearn_mach import MACHClassifier, MACHClassifierCV, predict_topk
from sklearn_mach.metrics import top_k_score

K, FLAGS = 12, {"return_scores": True, "return_proba": True}


def assert_best_of_all(model, X, k, found, rtol=1e-12):
    """Labels, scores and probabilities are the first of a full sort of all classes.

    Sums over a hundred classes and over parts of them differ by some 1e-15 of each.
    """
    labels, scores, proba = found
    everything = model.decision_function(X)
    if everything.ndim == 1:
        everything = bucket_scores(model, X)[:, 0]
    best, expected = reference.topk(everything, k)
    assert_array_equal(labels, model.classes_[best])
    assert_array_equal(scores, expected)
    all_proba = model.predict_proba(X)
    assert_allclose(proba, np.take_along_axis(all_proba, best, axis=1), rtol=rtol)
    assert proba.dtype == np.float64 and proba.shape == (X.shape[0], k)


# Probabilities of the best ------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("k", [1, 5, 70, 100])
def test_probabilities_of_the_best_are_those_of_predict_proba(
    blobs, decoder, sparse, k
):
    X, y = blobs(300, 20, 100, sparse=sparse)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=8, decoder=decoder, max_iter=2, random_state=0
    ).fit(X, y)
    offset = np.random.default_rng(0).normal(0, 0.1, 100).astype(np.float32)
    set_offset(model, offset)  # of "log_mean" alone
    assert_best_of_all(model, X, k, model.predict_topk(X, k, **FLAGS))


@pytest.mark.parametrize("decoder", DECODERS)
def test_calibrated_probabilities_of_the_best(blobs, decoder):
    X, y = blobs(300, 20, 100, noise=2)
    model = MACHClassifier(n_repetitions=3, n_buckets=8, max_iter=2, random_state=0)
    model.fit(X[:200], y[:200]).set_params(decoder=decoder)
    model.calibrate(X[200:], y[200:])
    assert_best_of_all(model, X, 7, model.predict_topk(X, 7, **FLAGS))


def test_a_row_of_which_no_class_is_above_chance_has_even_probabilities(blobs):
    X, y = blobs(80, 10, 20)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=4, decoder="mean", max_iter=1, random_state=0
    ).fit(X, y)
    model._fitted = model._fitted._replace(
        model=model._fitted.model.replace(chance=0.999)
    )
    _, proba = model.predict_topk(X, 3, return_proba=True)
    assert_allclose(proba, 1 / 20)


@pytest.mark.parametrize("n_labels", [2, 9])
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("decoder", DECODERS)
def test_probabilities_of_the_best_of_several_labels(n_labels, calibrated, decoder):
    X, Y, _ = planted(K=n_labels)
    model = MACHClassifier(**SIZES).fit(X, Y)
    if calibrated:
        model.calibrate(X, Y)
    model.set_params(decoder=decoder)
    for k in (1, n_labels):
        found = model.predict_topk(X, k, **FLAGS)
        best, _ = reference.topk(model.decision_function(X), k)
        expected = np.take_along_axis(model.predict_proba(X), best, axis=1)
        assert_array_equal(found[0], best)
        assert_array_equal(found[2], expected)


@pytest.mark.parametrize("compressed", [False, True])
def test_probabilities_of_two_classes_and_of_compressed_models(blobs, compressed):
    X, y = blobs(100, 10, 2)
    model = MACHClassifier(random_state=0).fit(X, np.array(["no", "yes"])[y])
    if compressed:
        model = model.compress(bits=4)
    labels, proba = model.predict_topk(X, 2, return_proba=True)
    assert_array_equal(labels[:, 0], model.predict(X))
    columns = np.searchsorted(model.classes_, labels)
    expected = np.take_along_axis(model.predict_proba(X), columns, axis=1)
    assert_allclose(proba, expected, rtol=1e-12)
    assert_allclose(proba.sum(axis=1), 1)


@pytest.mark.parametrize("decoder", DECODERS)
def test_probabilities_of_the_best_of_base_classifiers(blobs, decoder):
    X, y = blobs(200, 10, 30, sparse=False)
    model = MACHClassifier(
        GaussianNB(), n_repetitions=3, n_buckets=6, decoder=decoder, random_state=0
    ).fit(X, y)
    assert_best_of_all(model, X, 4, model.predict_topk(X, 4, **FLAGS))


def test_probabilities_of_the_best_on_a_device(blobs, device):
    X, y = blobs(120, 12, 40)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=8, max_iter=2, device=device, random_state=0
    ).fit(X, y)
    found = model.predict_topk(X, 3, **FLAGS)
    assert_best_of_all(model, X, 3, found)
    plain = model.predict_topk(X, 3, return_scores=True)  # by the device
    assert_array_equal(found[0], plain[0])
    assert_array_equal(found[1], plain[1])


def test_probabilities_do_not_depend_on_the_other_rows_or_on_threads(blobs):
    X, y = blobs(100, 12, 40, noise=1)
    model = MACHClassifier(n_repetitions=3, n_buckets=8, max_iter=2, random_state=0)
    expected = model.fit(X, y).predict_topk(X, 3, return_proba=True)[1]
    single = [model.predict_topk(X[i], 3, return_proba=True)[1] for i in range(40)]
    assert_array_equal(np.concatenate(single), expected[:40])
    model.set_params(n_jobs=3)
    assert_array_equal(model.predict_topk(X, 3, return_proba=True)[1], expected)


def test_what_is_returned_follows_the_flags(blobs):
    X, y = blobs(50)
    model = MACHClassifier(random_state=0).fit(X, y)
    labels, scores, proba = model.predict_topk(X, 2, **FLAGS)
    assert_array_equal(model.predict_topk(X, 2), labels)
    for name, expected in [("return_scores", scores), ("return_proba", proba)]:
        found = model.predict_topk(X, 2, **{name: True})
        assert len(found) == 2
        assert_array_equal(found[0], labels)
        assert_array_equal(found[1], expected)


def test_no_array_of_all_classes_is_made():
    n, n_classes = 200, 30_000
    rng = np.random.default_rng(0)
    X = sp.random_array((n_classes, 50), density=0.1, rng=rng, format="csr")
    model = MACHClassifier(
        n_repetitions=4, n_buckets=32, hashing="balanced", max_iter=1, random_state=0
    ).fit(X, np.arange(n_classes))
    model.predict_topk(X[:n], 5, **FLAGS)  # compiles and prepares
    _, peak = peak_of(model.predict_topk, X[:n], 5, **FLAGS)
    # Bucket scores of all rows take 0.1 MB and a tile of classes some 0.5 MB.
    assert peak < 2 << 20 < n * n_classes


# Pipelines and searches ---------------------------------------------------------------


def documents(n_samples=96):
    """Texts of five words, most of them of their class, and names of classes."""
    rng = np.random.default_rng(0)
    names = np.array([f"class {k:02d}" for k in range(K)])
    y = np.arange(n_samples) % K
    words = rng.integers(0, 6, (n_samples, 5)) + 6 * y[:, None]
    stray = rng.random(words.shape) < 0.3
    words[stray] = rng.integers(0, 6 * K, stray.sum())
    return [" ".join(f"w{j}" for j in row) for row in words], names[y]


def mach(**parameters):
    given = dict(n_repetitions=3, n_buckets=4, max_iter=3, random_state=0)
    return MACHClassifier(**(given | parameters))


class Stateless(TransformerMixin, BaseEstimator):
    """A transformer that `check_is_fitted` believes never fitted."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return 2 * X


PIPELINES = {
    "one step": lambda: make_pipeline(mach()),
    "text": lambda: make_pipeline(TfidfVectorizer(), mach()),
    "hashed": lambda: make_pipeline(HashingVectorizer(n_features=256), mach()),
    "dense": lambda: make_pipeline(
        TfidfVectorizer(), TruncatedSVD(8, random_state=0), Normalizer(), mach()
    ),
    "passthrough": lambda: make_pipeline(
        "passthrough", TfidfVectorizer(), "passthrough", mach()
    ),
    "none": lambda: Pipeline([("a", TfidfVectorizer()), ("b", None), ("c", mach())]),
    "stateless": lambda: make_pipeline(TfidfVectorizer(), Stateless(), mach()),
    "nested": lambda: make_pipeline(
        make_pipeline(TfidfVectorizer(), Normalizer()),
        make_pipeline(Stateless(), mach()),
    ),
    "search inside": lambda: make_pipeline(
        TfidfVectorizer(), GridSearchCV(mach(), {"n_buckets": [3, 6]}, cv=3)
    ),
    "MACH's search inside": lambda: make_pipeline(
        TfidfVectorizer(),
        MACHClassifierCV(mach(), n_buckets=(4, 6), random_state=0),
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_predict_the_best_of_all(name):
    texts, y = documents()
    if name == "one step":
        texts = TfidfVectorizer().fit_transform(texts)
    pipeline = PIPELINES[name]().fit(texts, y)
    labels, scores, proba = predict_topk(pipeline, texts, 3, **FLAGS)
    everything = pipeline.decision_function(texts)
    best, expected = reference.topk(everything, 3)
    assert_array_equal(labels, pipeline.classes_[best])
    assert_array_equal(scores, expected)
    expected = np.take_along_axis(pipeline.predict_proba(texts), best, axis=1)
    assert_allclose(proba, expected, rtol=1e-12)
    assert_array_equal(predict_topk(pipeline, texts, 1)[:, 0], pipeline.predict(texts))
    is_hit = (labels == np.array(y)[:, None]).any(axis=1)
    assert top_k_score(pipeline, texts, y, k=3) == pytest.approx(is_hit.mean())


SEARCHES = {
    "grid": lambda model, grid: GridSearchCV(model, grid, cv=3),
    "random": lambda model, grid: RandomizedSearchCV(
        model, grid, n_iter=2, cv=3, random_state=0
    ),
    "halving": lambda model, grid: HalvingGridSearchCV(
        model, grid, cv=3, min_resources=48, random_state=0
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_predict_the_best_of_all(name):
    texts, y = documents()
    pipeline = Pipeline([("words", TfidfVectorizer()), ("mach", mach())])
    search = SEARCHES[name](pipeline, {"mach__n_buckets": [3, 6]}).fit(texts, y)
    labels, proba = predict_topk(search, texts, K, return_proba=True)
    assert_array_equal(labels[:, 0], search.predict(texts))
    columns = np.searchsorted(search.classes_, labels)
    expected = np.take_along_axis(search.predict_proba(texts), columns, axis=1)
    assert_allclose(proba, expected, rtol=1e-12)


def test_cached_and_frozen_pipelines(tmp_path):
    texts, y = documents()
    expected = predict_topk(
        make_pipeline(TfidfVectorizer(), mach()).fit(texts, y), texts
    )
    for _ in range(2):  # the second fit has its transformers from the cache
        pipeline = make_pipeline(TfidfVectorizer(), mach(), memory=str(tmp_path))
        pipeline.fit(texts, y)
        assert_array_equal(predict_topk(pipeline, texts), expected)
    assert_array_equal(predict_topk(FrozenEstimator(pipeline), texts), expected)
    frozen = make_pipeline(pipeline[0], FrozenEstimator(pipeline[1]))
    assert_array_equal(predict_topk(frozen, texts), expected)


def test_estimators_alone(blobs):
    X, y = blobs(60)
    model = MACHClassifier(random_state=0).fit(X, y)
    assert_array_equal(predict_topk(model, X), model.predict_topk(X))
    search = MACHClassifierCV(model, n_buckets=(4, 6), random_state=0).fit(X, y)
    assert_array_equal(predict_topk(search, X, 2), search.predict_topk(X, 2))


class Fails(BaseEstimator):
    """A transformer that no prediction may come to."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        raise AssertionError("X is transformed before the check.")


def test_what_has_no_fitted_classifier_inside_is_refused(blobs):
    X, y = blobs(60)
    wrong = [
        (LogisticRegression().fit(X, y), "LogisticRegression"),
        (Pipeline([("a", Fails()), ("b", LogisticRegression())]), "LogisticRegression"),
        (make_pipeline(Fails(), "passthrough"), "ends in str"),
        (GridSearchCV(mach(), {"n_buckets": [3]}), "refit=True"),
        (GridSearchCV(mach(), {"n_buckets": [3]}, refit=False, cv=2), "refit=True"),
        ("model", "got 'model'"),
    ]
    wrong[4][0].fit(X, y)
    for estimator, message in wrong:
        with pytest.raises(TypeError, match=message):
            predict_topk(estimator, X)
    for estimator in (mach(), make_pipeline(Fails(), mach())):
        with pytest.raises(NotFittedError, match="not fitted"):
            predict_topk(estimator, X)
    fitted = make_pipeline(Fails(), mach().fit(X, y))
    with pytest.raises(ValueError, match="k must be an integer from 1"):
        predict_topk(fitted, X, 99)
