"""Several labels a row: marginals as predictions, learning, going on, files."""

import pickle

import joblib
import numpy as np
import pytest
import reference
import scipy.sparse as sp
from helpers import (
    DECODERS,
    assert_same_model,
    assert_state_is_plain,
    bucket_scores,
    needs_compilation,
    peak_of,
)
from learners import SEED, TOLERANCE, orders
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, log_expit
from several import SIZES, planted
from sklearn import config_context
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer

from sklearn_mach import MACHClassifier, _model, _softmax


@pytest.fixture(scope="module")
def task():
    return planted()


@pytest.fixture(scope="module")
def fitted(task):
    """A model with the scalars of its probabilities."""
    X, Y, _ = task
    return MACHClassifier(**SIZES, max_iter=20).fit(X, Y).calibrate(X, Y)


def of_decoder(model, decoder):
    return pickle.loads(pickle.dumps(model)).set_params(decoder=decoder)


# Predictions ------------------------------------------------------------------------


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("decoder", DECODERS)
def test_predictions_agree_with_each_other(task, fitted, decoder, calibrated):
    X, Y, _ = task
    model = fitted if calibrated else MACHClassifier(**SIZES, max_iter=20).fit(X, Y)
    model = of_decoder(model, decoder)
    X = planted(5000, seed=1)[0]  # some of 45,000 probabilities are nearly 0.5
    proba, scores = model.predict_proba(X), model.decision_function(X)
    predicted = model.predict(X)
    assert (proba.dtype, scores.dtype) == (np.float64, np.float32)
    assert_array_equal(predicted, proba >= 0.5)
    assert_array_equal(predicted, scores >= 0)
    assert_allclose(proba, expit(scores.astype(float)), rtol=1e-12)
    with np.errstate(divide="ignore"):
        assert_array_equal(model.predict_log_proba(X), np.log(proba))
    for k in (1, 4, 9):
        best, of_best = model.predict_topk(X, k, return_scores=True)
        expected = np.take_along_axis(scores, best, axis=1)
        assert_array_equal(of_best, expected)
        # the order is that of merged scores, which rounding may leave as ties
        assert_array_equal(expected, -np.sort(-scores, axis=1)[:, :k])
        by_proba = np.take_along_axis(proba, best, axis=1)
        assert (np.diff(by_proba, axis=1) <= 0).all()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("tau", [0, 0.7])
def test_scores_are_the_log_odds_of_merged_sigmoids(task, decoder, tau):
    X, Y, _ = task
    model = MACHClassifier(**SIZES, max_iter=5, logit_adjustment=tau).fit(X, Y)
    model = of_decoder(model, decoder)
    logits = np.stack(
        [X @ W.T + b for W, b in zip(model.coef_, model.intercept_, strict=True)], 1
    ).astype(float)
    log = decoder == "log_mean"
    buckets = log_expit(logits) if log else expit(logits)
    rounding = dict(rtol=1e-5, atol=1e-6)  # of float32
    merge = {"log_mean": "sum", "mean": "sum"}.get(decoder, decoder)
    buckets /= 4 if merge == "sum" else 1
    assert_allclose(bucket_scores(model, X), buckets, **rounding)
    offset = None
    if log:
        share = Y.sum(axis=0) / Y.sum()
        offset = (-tau * np.log(9 * share)).astype(np.float32)
    merged = reference.class_scores(buckets, model.bucket_table_, merge, offset)
    p = np.minimum(np.exp(merged) if log else merged, 1 - 6e-8).astype(float)
    # 1 - p has the rounding of p, of some units of 6e-8
    assert_allclose(model.predict_proba(X), p, rtol=1e-5, atol=1e-6)
    far = p < 0.999
    odds = np.log(p / (1 - p))
    assert_allclose(model.decision_function(X)[far], odds[far], rtol=1e-3, atol=1e-4)


def test_calibrated_scores_are_the_documented_formula(task, fitted):
    X, _, _ = task
    a, b, c, d = fitted._fitted.model.scalars
    merged = reference.class_scores(bucket_scores(fitted, X), fitted.bucket_table_)
    merged = merged.astype(float)
    expected = a + b * merged - c * np.log(1 - np.exp(merged))
    expected += d * merged.max(axis=1, keepdims=True)
    # of float32, and 1 - exp(s) has its rounding where s is nearly zero
    assert_allclose(fitted.decision_function(X), expected, rtol=1e-3, atol=1e-3)
    assert min(b, c) >= 0


@pytest.mark.parametrize("decoder", DECODERS)
def test_last_stages_are_the_predictions(task, fitted, decoder):
    X, Y, _ = task
    model = of_decoder(fitted, decoder)
    stages = list(model.staged_predict(X))
    assert len(stages) == 4
    assert_array_equal(stages[-1], model.predict(X))
    best = list(model.staged_predict_topk(X, 3, return_scores=True))
    for found, expected in zip(
        best[-1], model.predict_topk(X, 3, return_scores=True), strict=True
    ):
        assert_array_equal(found, expected)
    scores = list(model.staged_score(X, Y))
    assert scores[-1] == model.score(X, Y)
    for r, stage in enumerate(stages, 1):
        inner = model._fitted.model
        part = pickle.loads(pickle.dumps(model))
        part._fitted = part._fitted._replace(model=inner.select(np.arange(r)))
        odds = part.decision_function(X)
        near = abs(odds) < 1e-3  # sums of float32 divided otherwise
        assert_array_equal(stage[~near], (odds >= 0)[~near])


@pytest.mark.parametrize("several", [False, True])
def test_class_ranks_are_for_one_label(task, several):
    X, Y, _ = task
    y = Y.argmax(axis=1)
    model = MACHClassifier(**SIZES, max_iter=2).fit(X, Y if several else y)
    for labels in (Y, sp.csr_array(Y), y):
        if several or labels is not y:
            with pytest.raises(ValueError, match="class_ranks is for one label a row"):
                model.class_ranks(X, labels)


@needs_compilation
@pytest.mark.parametrize("sparse", [False, True])
def test_nothing_has_the_size_of_rows_times_labels(sparse):
    n, K, d = 600, 50_000, 20
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)).astype(np.float32)
    X = sp.csr_matrix(X) if sparse else X
    labels = rng.integers(0, K, (n, 3))
    Y = sp.csr_matrix((np.ones(3 * n), (np.repeat(np.arange(n), 3), labels.ravel())))
    Y.resize(n, K)
    Y.data[:] = 1
    sizes = dict(n_repetitions=4, n_buckets=32, random_state=0, max_iter=2)
    calls = {
        "fit": lambda: MACHClassifier(**sizes).fit(X, Y),
        "partial_fit": lambda: MACHClassifier(**sizes).partial_fit(X, Y),
        "predict": lambda: model.predict(X),
        "predict_topk": lambda: model.predict_topk(X, 5, return_scores=True),
        "staged_predict_topk": lambda: list(model.staged_predict_topk(X, 5)),
        "score": lambda: model.score(X, Y),
        "calibrate": lambda: model.calibrate(X, Y),
    }
    model = calls["fit"]()
    for name, call in calls.items():
        call()  # compiles
        _, peak = peak_of(call)
        # a few arrays of K, such as codes of the table and sums, and none of n K bools
        assert peak < n * K / 3, name


def test_chunks_of_rows_change_nothing(task, fitted):
    X, Y, _ = task
    predicted, proba = fitted.predict(X), fitted.predict_proba(X)
    stages = list(fitted.staged_predict(X))
    rows = [fitted.predict(X[i]) for i in range(20)]
    assert_array_equal(np.vstack(rows), predicted[:20])
    with config_context(working_memory=0.002):
        model = of_decoder(fitted, "log_mean").set_params(n_jobs=2)
        assert_array_equal(model.predict(X), predicted)
        assert_array_equal(model.predict_proba(X), proba)
        for found, expected in zip(model.staged_predict(X), stages, strict=True):
            assert_array_equal(found, expected)


def test_devices_predict_as_the_cpu(device, task):
    X, Y, _ = task
    model = MACHClassifier(**SIZES, max_iter=5, device=device).fit(X, sp.csr_array(Y))
    assert model.device_ == device
    on_cpu = pickle.loads(pickle.dumps(model))
    on_cpu.device_ = "cpu"
    odds = on_cpu.decision_function(X)
    rounding = dict(rtol=1e-4, atol=1e-4)  # of float32, in sums of another order
    assert_allclose(model.decision_function(X), odds, **rounding)
    found, scores = model.predict_topk(X, 3, return_scores=True)
    assert_allclose(np.take_along_axis(odds, found, axis=1), scores, **rounding)
    assert_allclose(scores, -np.sort(-odds, axis=1)[:, :3], **rounding)
    far = abs(odds) > 1e-3
    assert_array_equal(model.predict(X).toarray()[far], (odds >= 0)[far])
    assert (model.predict(X).toarray() == Y).mean() > 0.7
    again = clone(model).partial_fit(X, Y)
    assert (again.predict(X) == Y).mean() > 0.6


# With the rest of scikit-learn --------------------------------------------------------


def test_text_pipeline_with_lists_of_labels():
    animals = {"cat": "purr mouse", "dog": "bark bone", "cow": "milk grass"}
    rng = np.random.default_rng(0)
    texts, labels = [], []
    for _ in range(90):
        names = rng.choice(list(animals), rng.integers(0, 4), replace=False)
        words = [rng.choice(animals[name].split()) for name in names]
        texts.append(" ".join(rng.permutation(["the", "a", *words])))
        labels.append(names.tolist())
    binarizer = MultiLabelBinarizer(sparse_output=True)
    Y = binarizer.fit_transform(labels)
    model = make_pipeline(TfidfVectorizer(), MACHClassifier(random_state=0))
    model.fit(texts[:60], Y[:60])
    assert f1_score(Y[60:], model.predict(texts[60:]), average="micro") > 0.9
    predicted = model.predict(["a milk and a bone", "nothing of the kind"])
    assert binarizer.inverse_transform(predicted) == [("cow", "dog"), ()]


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_grid_search(task, kind):
    X, Y, _ = task
    search = GridSearchCV(
        MACHClassifier(random_state=0, max_iter=10),
        {"n_buckets": [3, 9], "learning_rate": [1e-4, "auto"]},
        cv=KFold(3, shuffle=True, random_state=0),
        scoring="f1_micro",
    )
    search.fit(X, kind(Y))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_ == {"n_buckets": 9, "learning_rate": "auto"}
    assert search.predict(X).shape == Y.shape
    if kind is np.asarray:
        cv = KFold(3)
        proba = cross_val_predict(search.best_estimator_, X, Y, cv=cv, method="predict")
        assert proba.shape == Y.shape


def test_tables_and_hash_families(task):
    X, Y, _ = task
    table = np.arange(9)[:, None] // [1, 3] % 3
    for hashing in ("universal", "balanced", "clustered", table):
        sizes = {} if hashing is table else {"n_repetitions": 4, "n_buckets": 3}
        model = MACHClassifier(hashing=hashing, **sizes, random_state=0, max_iter=5)
        assert np.isfinite(model.fit(X, Y).predict_proba(X)).all()
    assert_array_equal(model.bucket_table_, table)


def test_similar_labels_share_buckets_when_clustered():
    # labels 2j and 2j + 1 are on in the same rows; four repetitions, one clustered
    X, Y, _ = planted(400, 12, 8)
    Y = np.repeat(Y, 2, axis=1)
    sizes = dict(n_repetitions=16, n_buckets=8, max_iter=1)
    together = {}
    for hashing in ("clustered", "balanced"):
        tables = [
            MACHClassifier(hashing=hashing, random_state=seed, **sizes)
            .fit(X, Y)
            .bucket_table_
            for seed in range(5)
        ]
        together[hashing] = np.mean([t[::2] == t[1::2] for t in tables])
    # by chance a pair shares 1 of 15 places; in every fourth repetition mostly all
    assert together["balanced"] < 0.12 < 0.17 < together["clustered"]


@needs_compilation
def test_probabilities_take_little_memory_beside_themselves():
    n, K, rng = 300, 20_000, np.random.default_rng(0)
    Y = sp.csr_array((np.ones(n), (np.arange(n), rng.integers(0, K, n))), (n, K))
    X = rng.standard_normal((n, 5)).astype(np.float32)
    model = MACHClassifier(n_repetitions=4, n_buckets=32, random_state=0, max_iter=1)
    model.fit(X, Y)
    for method, size in (("predict_proba", 8), ("decision_function", 4)):
        getattr(model, method)(X)
        _, peak = peak_of(getattr(model, method), X)
        # and 32 rows a few times in float32: half of n K bytes each
        assert peak < (size + 4) * n * K, method


# What is learned --------------------------------------------------------------------


def label_lists(Y):
    return [np.flatnonzero(row).tolist() for row in Y]


def first_log_odds(Y, table, n_buckets):
    """Log odds of a label in a bucket, (R, B), half a row added to both sides."""
    b = np.zeros((table.shape[1], n_buckets))
    for r, q in np.ndindex(b.shape):
        on = Y[:, table[:, r] == q].any(axis=1).sum()
        b[r, q] = np.log((on + 0.5) / (len(Y) - on + 0.5))
    return b


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0, 0.05])
@pytest.mark.parametrize("injective", [False, True])
def test_sgd_of_sigmoids_equals_the_reference(sparse, alpha, injective):
    X, Y, _ = planted(40, 6, sparse=False)
    table = np.arange(9)[:, None] if injective else np.arange(9)[:, None] // [1, 3] % 3
    n_buckets = int(table.max()) + 1
    given = dict(hashing=table, alpha=alpha, learning_rate=0.3, tol=None, max_iter=3)
    given |= dict(random_state=SEED, batch_size=1 if sparse else 4)
    model = MACHClassifier(**given).fit(sp.csr_matrix(X) if sparse else X, Y)
    W, b, _ = reference.sgd_fit(
        X,
        label_lists(Y),
        table,
        n_buckets,
        orders(3, np.arange(40)),
        np.full(40, 0.3),
        np.ones(40),
        bias=1.0,
        penalty=0.3 * alpha,
        batch_size=given["batch_size"],
        loss_of=reference.sigmoid_loss,
        start=(
            np.zeros((table.shape[1], n_buckets, 6)),
            first_log_odds(Y, table, n_buckets),
        ),
    )
    assert_allclose(model.coef_, W, **TOLERANCE)
    assert_allclose(model.intercept_, b, **TOLERANCE)


@needs_compilation
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0.02, 0.2])
def test_a_bucket_a_label_is_one_vs_rest_of_logistic_regressions(sparse, alpha):
    X, Y, _ = planted(60, 5, 4, sparse=sparse)
    model = MACHClassifier(
        n_repetitions=1,
        n_buckets=4,
        alpha=alpha,
        learning_rate=0.1 if sparse else 0.3 / 60,
        batch_size=60,
        max_iter=4000,
        tol=None,
        random_state=0,
    ).fit(X, Y)
    regression = LogisticRegression(C=1 / (alpha * 60), tol=1e-10, max_iter=10_000)
    one_vs_rest = OneVsRestClassifier(regression).fit(X, Y)
    # As in test_softmax: the noise of steps that fall to zero.
    expected = one_vs_rest.predict_proba(X)
    assert_allclose(model.predict_proba(X), expected, rtol=0, atol=2e-3)
    coef = model.coef_[0, model.bucket_table_[:, 0]]
    expected = np.vstack([e.coef_ for e in one_vs_rest.estimators_])
    assert_allclose(coef, expected, rtol=0, atol=1e-2)
    near = abs(one_vs_rest.predict_proba(X) - 0.5) < 2e-3
    assert_array_equal(model.predict(X)[~near], one_vs_rest.predict(X)[~near])


@pytest.mark.parametrize("sparse", [False, True])
def test_float_types_of_X_learn_the_same(sparse):
    X, Y, _ = planted(sparse=False)
    X = X.astype(np.float16)
    make = sp.csr_matrix if sparse else np.asarray
    given = [X] if not sparse else []
    given += [make(X.astype(t)) for t in (np.float32, np.float64)]
    models = [MACHClassifier(**SIZES, max_iter=5).fit(A, Y) for A in given]
    for model, A in zip(models[1:], given[1:], strict=True):
        assert_allclose(model.coef_, models[0].coef_, rtol=1e-4, atol=1e-4)
        odds = models[0].decision_function(given[0])
        assert_allclose(model.decision_function(A), odds, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_n_jobs_changes_no_bit_and_seeds_decide(sparse, large, monkeypatch):
    if large:
        monkeypatch.setattr("sklearn_mach._steps.TRIAL_ROWS", 10)
        monkeypatch.setattr("sklearn_mach._steps._CACHED", 0)
        monkeypatch.setattr(_softmax, "_CALIBRATION_ROWS", 100)
    X, Y, _ = planted(sparse=sparse)
    model = MACHClassifier(**SIZES, max_iter=3)
    one = clone(model).set_params(n_jobs=1).fit(X, Y)
    three = clone(model).set_params(n_jobs=3).fit(X, Y)
    assert_same_model(one, three)
    assert_array_equal(one.predict_proba(X), three.predict_proba(X))
    assert_array_equal(one.predict(X), three.predict(X))
    for found, expected in zip(
        three.staged_predict(X), one.staged_predict(X), strict=True
    ):
        assert_array_equal(found, expected)
    again = clone(model).fit(X, Y)
    assert_array_equal(again.decision_function(X), one.decision_function(X))
    other = clone(model).set_params(random_state=1).fit(X, Y)
    assert (other.bucket_table_ != one.bucket_table_).any()


# Weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_weight_zero_do_not_count(sparse):
    # steps, starts and marginals; the order of the rows is another one
    X, Y, _ = planted(60, 5, 4, sparse=sparse)
    weight = np.ones(60)
    weight[::3] = 0
    Y[::3] = 1 - Y[::3]
    given = dict(n_repetitions=1, n_buckets=4, alpha=0.05, max_iter=2000, tol=None)
    step = 0.1 if sparse else 0.3 / 40
    model = MACHClassifier(
        **given, learning_rate=step, batch_size=60, random_state=0, logit_adjustment=0.5
    )
    kept = np.flatnonzero(weight)
    weighted = clone(model).fit(X, Y, sample_weight=weight)
    fewer = clone(model).fit(X[kept], Y[kept])
    found, expected = weighted.predict_proba(X), fewer.predict_proba(X)
    assert_allclose(found, expected, rtol=0, atol=2e-3)
    calibrated = weighted.calibrate(X, Y, weight).predict_proba(X)
    weighted.calibrate(X[kept], Y[kept])
    assert_allclose(weighted.predict_proba(X), calibrated, rtol=1e-4, atol=1e-5)


@needs_compilation
@pytest.mark.parametrize("sparse", [False, True])
def test_whole_weights_are_as_many_rows(sparse):
    X, Y, _ = planted(60, 5, 4, sparse=sparse)
    weight = np.random.default_rng(0).integers(0, 4, 60)
    many = np.repeat(np.arange(60), weight)
    given = dict(n_repetitions=1, n_buckets=4, alpha=0.05, max_iter=2000, tol=None)
    step = 0.1 if sparse else 0.3 / many.size
    model = MACHClassifier(
        **given, learning_rate=step, batch_size=many.size, random_state=0
    )
    weighted = clone(model).fit(X, Y, sample_weight=weight).predict_proba(X)
    repeated = clone(model).fit(X[many], Y[many]).predict_proba(X)
    assert_allclose(weighted, repeated, rtol=0, atol=2e-3)
    regression = LogisticRegression(C=1 / (0.05 * many.size), tol=1e-10, max_iter=10**4)
    exact = OneVsRestClassifier(regression).fit(X[many], Y[many]).predict_proba(X)
    assert_allclose(weighted, exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0}])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_class_weight_is_for_one_label(task, class_weight, method):
    X, Y, _ = task
    model = MACHClassifier(**SIZES, class_weight=class_weight)
    assert not model.__sklearn_tags__().classifier_tags.multi_label
    blocks = method == "partial_fit" and class_weight == "balanced"
    message = "block by block" if blocks else "weighs rows by their class, and here"
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X, Y)
    assert not hasattr(model, "classes_")


def test_logit_adjustment_moves_rare_labels_up(task):
    X, Y, _ = task
    plain, adjusted = (
        MACHClassifier(**SIZES, max_iter=5, logit_adjustment=tau).fit(X, Y)
        for tau in (0, 1.5)
    )
    rare = np.argsort(Y.sum(axis=0))[:3]
    mean_rank = [
        np.isin(model.predict_topk(X, 3), rare).mean() for model in (plain, adjusted)
    ]
    assert mean_rank[1] > 1.2 * mean_rank[0]
    share = Y.sum(axis=0) / Y.sum()
    moved = adjusted.decision_function(X) - plain.decision_function(X)
    assert ((moved > 0) == (9 * share < 1)).all()


def test_automatic_logit_adjustment_sees_all_labels_of_rows_set_aside(monkeypatch):
    monkeypatch.setattr(_softmax, "_CALIBRATION_ROWS", 1000)
    seen = []

    def fit_adjustment(scores, log_prior, own, weight):
        seen.append((scores.shape, own.sum()))
        return 0.25

    monkeypatch.setattr(_model, "fit_adjustment", fit_adjustment)
    X, Y, _ = planted(5000, 10, 30)
    model = MACHClassifier(n_repetitions=3, n_buckets=6, max_iter=2, random_state=0)
    assert model.fit(X, sp.csr_array(Y)).logit_adjustment_ == 0.25
    ((n_rows, n_best), n_own), *more = seen
    assert (n_rows, n_best, more) == (100, 10, [])
    assert n_own > 200  # several of a row


# Going on ---------------------------------------------------------------------------


def test_blocks_of_an_indicator_need_no_classes(task):
    X, Y, _ = task
    first, second = slice(150), slice(150, 300)
    model = MACHClassifier(**SIZES)
    plain = (
        clone(model).partial_fit(X[first], Y[first]).partial_fit(X[second], Y[second])
    )
    for classes in (range(9), np.arange(9)[::-1]):
        named = clone(model).partial_fit(X[first], Y[first], classes=classes)
        named.partial_fit(X[second], sp.csr_matrix(Y[second]), classes=classes)
        assert_same_model(named, plain)
        assert type(named.predict(X)) is np.ndarray  # of the first block
    assert plain.predict(X).shape == Y.shape
    unseen = clone(model).partial_fit(X, Y * (np.arange(9) < 5))
    assert_array_equal(unseen.classes_, np.arange(9))
    assert np.isfinite(unseen.decision_function(X)).all()


def test_many_blocks_learn_as_a_fit_does():
    X, Y, _ = planted(3000)
    fit = MACHClassifier(**SIZES).fit(X[:2000], Y[:2000])
    model = MACHClassifier(**SIZES)
    for _ in range(10):  # a fit of so few rows takes a hundred epochs
        for start in range(0, 2000, 400):
            model.partial_fit(X[start : start + 400], Y[start : start + 400])
    known, fitted = ((m.predict(X[2000:]) == Y[2000:]).mean() for m in (model, fit))
    frequent = ((Y[:2000].mean(axis=0) >= 0.5) == Y[2000:]).mean()
    assert known - frequent > 0.7 * (fitted - frequent) > 0.05


def test_partial_fit_messages(task):
    X, Y, _ = task
    model = MACHClassifier(**SIZES)
    with pytest.raises(ValueError, match="column numbers 0 to 8. Pass these, or no"):
        model.partial_fit(X, Y, classes=range(8))
    with pytest.raises(ValueError, match="column numbers 0 to 8. Pass these, or no"):
        model.partial_fit(X, Y, classes=list("abcdefghi"))
    assert not hasattr(model, "classes_")
    model.partial_fit(X, Y)
    scores = model.decision_function(X)
    with pytest.raises(ValueError, match="8 columns, .* 9 labels. Pass a column for"):
        model.partial_fit(X, Y[:, :8])
    with pytest.raises(ValueError, match="column numbers 0 to 8. Pass these, or no"):
        model.partial_fit(X, Y, classes=range(8))
    one, many = "y has one label a row", "fitted with several labels a row"
    with pytest.raises(ValueError, match=f"{one}.*{many}"):
        model.partial_fit(X, Y[:, 0])
    with pytest.raises(ValueError, match=f"{one}.*{many}"):
        model.calibrate(X, Y[:, 0])
    assert_array_equal(model.decision_function(X), scores)
    model = MACHClassifier(**SIZES).partial_fit(X, Y.argmax(axis=1), classes=range(9))
    with pytest.raises(ValueError, match="y has several labels a row.*fitted with one"):
        model.partial_fit(X, Y)
    with pytest.raises(ValueError, match="y has several labels a row.*fitted with one"):
        model.calibrate(X, sp.csr_array(Y))
    assert model.predict(X).shape == (300,)


def test_fit_starts_anew_with_another_kind_of_labels(task):
    X, Y, _ = task
    y = Y.argmax(axis=1).astype(str)
    model = MACHClassifier(**SIZES, max_iter=2).fit(X, Y).fit(X, y)
    assert_same_model(model, clone(model).fit(X, y))
    assert model.predict(X).dtype == y.dtype
    model.fit(X, sp.csc_matrix(Y))
    assert_same_model(model, clone(model).fit(X, Y))
    assert sp.issparse(model.predict(X))


@pytest.mark.parametrize("sparse", [False, True])
def test_warm_start_keeps_the_old_repetitions(sparse):
    X, Y, _ = planted(sparse=sparse)
    model = MACHClassifier(**SIZES, max_iter=3, warm_start=True).fit(X, Y)
    coef, intercept = model.coef_.copy(), model.intercept_.copy()
    model.set_params(n_repetitions=7).fit(X, sp.csr_matrix(Y))
    assert_array_equal(model.coef_[:4], coef)
    assert_array_equal(model.intercept_[:4], intercept)
    whole = clone(model).set_params(warm_start=False).fit(X, Y)
    # dense sums of BLAS may round otherwise beside other columns
    assert_allclose(model.coef_, whole.coef_, rtol=1e-4, atol=1e-5)
    assert_allclose(model.intercept_, whole.intercept_, rtol=1e-4, atol=1e-5)
    assert type(model.predict(X)) is sp.csr_matrix
    scores = model.decision_function(X)
    for y, message in [
        (Y.argmax(axis=1), "y has one label a row.*several"),
        (Y[:, :8], "classes of the previous fit: 9 then, 8 now"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
    assert_array_equal(model.decision_function(X), scores)
    assert type(model.predict(X)) is sp.csr_matrix
    one = MACHClassifier(**SIZES, max_iter=2, warm_start=True).fit(X, Y.argmax(axis=1))
    with pytest.raises(ValueError, match="y has several labels a row.*with one label"):
        one.fit(X, Y)


@pytest.mark.parametrize("sparse", [False, True])
def test_early_stopping_watches_the_loss_of_rows_set_aside(sparse):
    X, Y, _ = planted(sparse=sparse)
    model = MACHClassifier(
        **SIZES, max_iter=60, early_stopping=True, n_iter_no_change=2, tol=0.05
    ).fit(X, Y)
    assert model.n_iter_ < 60
    assert (model.predict(X) == Y).mean() > 0.7
    few = np.eye(9, dtype=int)  # no label has another row
    with pytest.raises(ValueError, match="sets rows aside whose class has other rows"):
        model.fit(X[:9], few)


def test_a_failed_fit_leaves_the_model_as_it_was(task, monkeypatch):
    X, Y, _ = task
    model = MACHClassifier(**SIZES, max_iter=3).fit(X, sp.csr_array(Y))
    state = pickle.dumps(model)

    def fail(*args, **options):
        raise KeyboardInterrupt

    for name in ("fit", "partial_fit"):
        with monkeypatch.context() as context:
            context.setattr("sklearn_mach._training.run", fail)
            with pytest.raises(KeyboardInterrupt):
                getattr(model, name)(X, Y)
        assert pickle.dumps(model) == state


def test_callbacks_get_models_that_predict_as_the_fitted_one(task):
    pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")
    X, Y, _ = task
    seen = []

    class Keeping:
        def setup(self, estimator, context):
            pass

        teardown = on_fit_task_begin = setup

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if fitted_estimator is not None:
                seen.append(fitted_estimator)

    model = MACHClassifier(**SIZES, max_iter=2, tol=None).fit(X, sp.csr_matrix(Y))
    again = clone(model).set_callbacks(Keeping()).fit(X, sp.csr_matrix(Y))
    assert_same_model(again, model)
    last = seen[1]  # of the last epoch
    assert_array_equal(last.predict_proba(X), model.predict_proba(X))
    assert type(last.predict(X)) is sp.csr_matrix
    assert all(m.multilabel_ for m in seen)


# Saved ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "joblib", "memory map"])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_saved_models_predict_the_same_and_go_on(task, how, kind, tmp_path):
    X, Y, _ = task
    model = MACHClassifier(**SIZES, max_iter=3).fit(X, kind(Y)).calibrate(X, Y)
    if how == "pickle":
        loaded = pickle.loads(pickle.dumps(model))
    else:
        joblib.dump(model, tmp_path / "model")
        mmap_mode = "r" if how == "memory map" else None
        loaded = joblib.load(tmp_path / "model", mmap_mode=mmap_mode)
    assert loaded.get_params() == model.get_params()
    assert loaded.multilabel_
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert_array_equal(loaded.predict_topk(X, 9), model.predict_topk(X, 9))
    found, expected = loaded.predict(X), model.predict(X)
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert_same_model(loaded.partial_fit(X, Y), model.partial_fit(X, Y))
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_saved_attributes_are_plain_arrays_numbers_and_names(task):
    X, Y, _ = task
    model = MACHClassifier(**SIZES, max_iter=2).fit(X, sp.csr_matrix(Y))

    assert_state_is_plain(model)


def test_models_saved_before_there_were_several_labels_have_one(blobs):
    X, y = blobs(60)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, random_state=0).fit(X, y)
    state = model.__getstate__()
    for name in ("_several", "_link", "_label_format"):
        del state[name]
    old = MACHClassifier()
    old.__setstate__(state)
    assert old.multilabel_ is False
    assert_array_equal(old.predict(X), model.predict(X))
    assert_array_equal(old.predict_proba(X), model.predict_proba(X))
    assert_same_model(old.partial_fit(X, y), model.partial_fit(X, y))
    with pytest.raises(ValueError, match="several labels a row.*one label"):
        old.partial_fit(X, np.eye(6, dtype=int)[y])


def test_clone_has_the_parameters_only(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "multilabel_")
    assert fitted.__sklearn_tags__().classifier_tags.multi_label


# Marginals --------------------------------------------------------------------------


@needs_compilation
@pytest.mark.parametrize(
    ("K", "n_buckets", "shift", "correlation"),
    [(24, 24, -2.0, 0.99), (60, 32, -6.0, 0.9), (60, 16, -6.0, 0.75)],
)
def test_marginals_of_the_best_labels_are_calibrated(K, n_buckets, shift, correlation):
    X, Y, P = planted(24_000, 20, K, shift=shift)  # 5.8, 1.7 and 1.7 labels a row
    train, test = slice(20_000), slice(20_000, None)
    model = MACHClassifier(
        n_repetitions=6, n_buckets=n_buckets, random_state=0, max_iter=5
    )
    model.fit(X[train], sp.csr_matrix(Y[train]))
    assert model._fitted.model.scalars.shape == (4,)
    proba, truth = model.predict_proba(X[test]), P[test]
    rows, best = np.arange(4000), proba.argmax(axis=1)
    own, found = truth[rows, best], proba[rows, best]
    # 400 rows are set aside: a mean of their best labels has a standard error of at
    # most 0.5 / 20, and the means of the bins spread by no more than that.
    assert abs(own.mean() - found.mean()) < 0.05
    bins = np.array_split(np.argsort(found), 10)
    assert np.mean([abs(own[b].mean() - found[b].mean()) for b in bins]) < 0.05
    # Labels that share buckets hide each other, the more of them the more.
    assert np.corrcoef(proba.ravel(), truth.ravel())[0, 1] > correlation
    share = np.broadcast_to(Y[train].mean(axis=0), truth.shape)
    assert abs(proba - truth).mean() < 0.6 * abs(share - truth).mean()
