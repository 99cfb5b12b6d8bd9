"""A fitted model: scores, best classes, stages, probabilities, threads, files."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import joblib
import numpy as np
import pytest
import reference
from helpers import (
    DECODERS,
    SMOOTHING,
    ExactBuckets,
    bucket_scores,
    predictions,
    set_offset,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.tree import DecisionTreeClassifier

from sklearn_mach import MACHClassifier, _decoding, theory
from sklearn_mach._estimators import Estimators
from sklearn_mach._hashing import FAMILIES
from sklearn_mach._model import Model
from sklearn_mach.metrics import class_ranks


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


class UniformBuckets(ExactBuckets):
    """Knows nothing."""

    def predict_proba(self, X):
        return np.full((len(X), self.classes_.size), 1 / self.classes_.size)


# Probabilities ----------------------------------------------------------------------


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
        if not FAMILIES[hashing].is_random and decoder != "mean":
            # float32 scores; the unbiased estimate is a difference of nothings.
            assert_allclose(proba, 1 / 12, rtol=1e-4)


def test_log_mean_probabilities_are_the_documented_softmax(blobs):
    X, y = blobs(90, 8, 9)
    model = MACHClassifier(n_repetitions=3, n_buckets=4, random_state=0).fit(X, y)
    scores = model.decision_function(X).astype(float)
    expected = softmax(scores * np.log(9) / np.log(4), axis=1)
    # The scores are float32, of some tens.
    assert_allclose(model.predict_proba(X), expected, rtol=1e-5)
    assert_allclose(model.predict_log_proba(X), np.log(expected), rtol=1e-5, atol=1e-5)


# Scores and best classes ------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["mean", "log_mean"])
def test_a_certain_class_is_recognised_from_exact_buckets(decoder):
    model = exact(30, 4, 6, decoder=decoder)
    assert_array_equal(model.predict(np.eye(30)), np.arange(30))


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
    merge = _decoding.DECODERS[decoder].merge
    expected = reference.class_scores(
        transform(logits, axis=2), model.bucket_table_, merge
    )
    if merge == "sum":
        expected = expected / 3
    # Logits of some tens in float32.
    assert_allclose(model.decision_function(X), expected, rtol=1e-5, atol=2e-5)


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
    plain, table = bucket_scores(model, X), model.bucket_table_
    offset = np.random.default_rng(0).normal(0, 0.7, n_classes).astype(np.float32)
    offset[-1] += 3
    set_offset(model, offset)
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
    for decoder in DECODERS[1:]:  # which have none
        model.set_params(decoder=decoder)
        merge = _decoding.DECODERS[decoder].merge
        expected = reference.class_scores(bucket_scores(model, X), table, merge)
        best = reference.topk(expected, n_classes)[0]
        assert_array_equal(model.predict_topk(X, n_classes), best)
        assert_array_equal(model.predict_topk(X[:1], n_classes), best[:1])
        assert_array_equal(class_ranks(model, X, y), reference.rank(expected, y))
        *_, last = model.staged_predict_topk(X, n_classes)
        assert_array_equal(last, best)


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


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_scores_larger_than_the_free_memory_are_refused(blobs, monkeypatch, base):
    X, y = blobs(60, sparse=False)
    model = MACHClassifier(base, random_state=0).fit(X, y)
    expected = model.predict(X)
    monkeypatch.setattr("sklearn_mach._model.free_memory", lambda: 500)
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


# Chunks and threads -----------------------------------------------------------------


@pytest.mark.usefixtures("two_blas_threads")
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


@predictions
def test_every_prediction_uses_threads(blobs, monkeypatch, call):
    X, y = blobs(sparse=False)
    base = MultinomialNB()
    model = MACHClassifier(base, n_repetitions=2, n_buckets=3).fit(abs(X), y)
    expected = call(model, abs(X))
    model.set_params(n_jobs=2)
    monkeypatch.setattr("sklearn_mach._model.cpu_count", lambda: 2)
    together = Barrier(2)

    def bucket_scores(self, X, *scale, scores=Estimators.bucket_scores):
        together.wait(10)  # each of two threads waits for the other
        return scores(self, X, *scale)

    monkeypatch.setattr(Estimators, "bucket_scores", bucket_scores)
    assert_array_equal(call(model, abs(X)), expected)


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


# Attributes -------------------------------------------------------------------------


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


def test_bytes_of_estimators_that_cannot_be_pickled_say_so(blobs):
    X, y = blobs(60, sparse=False)
    model = MACHClassifier(GaussianNB(), n_repetitions=2, n_buckets=3).fit(X, y)
    model.estimators_[0].extra = lambda: None
    with pytest.raises((AttributeError, pickle.PicklingError), match="[Pp]ickle"):
        _ = model.model_bytes_


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


# Parts of models --------------------------------------------------------------------


@pytest.mark.parametrize("base", [None, MultinomialNB()])
@pytest.mark.parametrize("decoder", DECODERS)
def test_some_repetitions_are_a_model(blobs, base, decoder):
    X, y = blobs(90, n_classes=9, sparse=False)
    X = abs(X)
    options = {"n_buckets": 3, "hashing": "balanced", "random_state": 0}
    whole = MACHClassifier(base, n_repetitions=5, decoder=decoder, **options).fit(X, y)
    few = MACHClassifier(base, n_repetitions=3, decoder=decoder, **options).fit(X, y)
    how = few._how()
    model = whole._fitted.model
    first = model.select(range(3))
    assert first.n_repetitions == 3
    assert_array_equal(first.table, few.bucket_table_)
    best, scores = first.topk(X, 4, how)
    labels, expected = few.predict_topk(X, 4, return_scores=True)
    assert_array_equal(few.classes_[best], labels)
    assert_array_equal(scores, expected)
    assert_array_equal(first.scores(X, how), few.decision_function(X))
    joined = Model.concatenate([first, model.select([3, 4])])
    assert_array_equal(joined.table, model.table)
    assert_array_equal(joined.scores(X, how), whole.decision_function(X))
    assert joined.n_bytes == model.n_bytes


def test_ranks_of_labels_that_are_not_there(blobs):
    X, y = blobs(60, sparse=False)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    expected = reference.rank(model.decision_function(X[:3]), y[:3])
    labels = [*y[:2], 99]
    assert_array_equal(model.class_ranks(X[:3], labels), [*expected[:2], 6])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.class_ranks(X[:3], labels[:2])
    with pytest.raises(NotFittedError):
        clone(model).class_ranks(X[:3], labels)
