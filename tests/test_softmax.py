"""The built-in learner as the estimator runs it."""

import pickle
import re
from collections import Counter
from threading import get_ident
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import assert_same_model
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from sklearn_mach import MACHClassifier, _softmax
from sklearn_mach.datasets import make_many_classes

# What it learns ---------------------------------------------------------------------


def converged(X, y, alpha, weight=None, **parameters):
    """Trained to the optimum: rows one by one if sparse, else all in one step."""
    sparse = sp.issparse(X)
    model = MACHClassifier(
        n_repetitions=1,
        alpha=alpha,
        learning_rate=0.1 if sparse else 0.3 / len(y),
        batch_size=len(y),
        max_iter=2000,
        tol=None,
        random_state=0,
    )
    return model.set_params(**parameters).fit(X, y, sample_weight=weight)


# The noise of 120,000 steps that fall to zero, or for full batches what 2,000 steps
# leave: the penalty of a step of size s is that of alpha / (1 + s alpha).
OPTIMUM = dict(rtol=0, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_one_injective_repetition_is_multinomial_logistic_regression(
    blobs, sparse, alpha
):
    X, y = blobs(60, 5, 4, noise=1.0, sparse=sparse)
    model = converged(X, y, alpha)
    regression = LogisticRegression(C=1 / (alpha * 60), tol=1e-10, max_iter=10_000)
    regression.fit(X, y)
    assert_allclose(model.predict_proba(X), regression.predict_proba(X), **OPTIMUM)
    coef = model.coef_[0, model.bucket_table_[:, 0]]
    assert_allclose(coef, regression.coef_, rtol=0, atol=5e-3)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_row_weights_reach_the_weighted_optimum(blobs, sparse, with_zeros):
    X, y = blobs(60, 5, 4, noise=1.0, sparse=sparse)
    weight = np.random.default_rng(0).uniform(0.3, 2, 60)
    if with_zeros:
        weight[::3] = 0
    alpha = 0.05
    model = converged(X, y, alpha, weight)
    # The mean of the loss weighs rows by weight / sum(weight), so that rows of weight
    # zero are as good as absent.
    regression = LogisticRegression(
        C=1 / (alpha * weight.sum()), tol=1e-10, max_iter=10_000
    ).fit(X, y, sample_weight=weight)
    assert_allclose(model.predict_proba(X), regression.predict_proba(X), **OPTIMUM)


def test_class_weight_multiplies_row_weights(blobs):
    X, y = blobs(60)
    names = np.array(list("abcdef"))[y]
    by_class = {"a": 3.0, "c": 0.5}
    rows = np.random.default_rng(0).uniform(0.5, 2, 60)
    model = MACHClassifier(random_state=0, max_iter=3)
    one = clone(model).set_params(class_weight=by_class).fit(X, names, rows)
    rows *= [by_class.get(name, 1.0) for name in names]
    assert_same_model(one, clone(model).fit(X, names, rows))


def test_balanced_class_weight(blobs):
    X, y = blobs(60)
    y[y == 5] = 4
    model = MACHClassifier(random_state=0, max_iter=3)
    one = clone(model).set_params(class_weight="balanced").fit(X, y)
    assert_same_model(one, clone(model).fit(X, y, 60 / (5 * np.bincount(y)[y])))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scale_of_the_rows_does_not_matter(blobs, sparse, factor):
    X, y = blobs(300, 10, 12, noise=0.5, sparse=sparse)
    model = MACHClassifier(n_repetitions=4, n_buckets=5, max_iter=4, random_state=0)
    model.fit(X, y)
    proba, predicted = model.predict_proba(X), model.predict(X)
    model.fit(X * factor, y)
    assert_array_equal(model.predict(X * factor), predicted)
    # Rounding of float32, amplified by large steps.
    assert_allclose(model.predict_proba(X * factor), proba, rtol=0, atol=1e-3)


def test_rows_that_are_not_normalised_are_learned():
    # Means far from zero and rows of length twenty.
    rng = np.random.default_rng(0)
    y = np.arange(600) % 8
    centres = rng.uniform(0, 10, (8, 6))
    X = centres[y] + 0.5 * rng.standard_normal((600, 6))
    regression = LogisticRegression(max_iter=10_000).fit(X[:400], y[:400])
    reached = regression.score(X[400:], y[400:])
    assert reached > 0.95
    for rows in (X, sp.csr_matrix(X)):
        model = MACHClassifier(n_repetitions=6, n_buckets=4, random_state=0)
        model.fit(rows[:400], y[:400])
        assert model.score(rows[400:], y[400:]) > reached - 0.05


def test_only_rows_with_weight_are_set_aside(blobs, monkeypatch):
    X, y = blobs(400)
    weight = np.zeros(400)
    weight[:60] = 1
    held = []
    make_settings = _softmax.make_settings

    def recorded(*args):
        settings, seen = make_settings(*args)
        held.append(settings.held.size)
        return settings, seen

    monkeypatch.setattr(_softmax, "make_settings", recorded)
    monkeypatch.setattr(_softmax, "_CALIBRATION_ROWS", 100)
    model = MACHClassifier(n_repetitions=3, n_buckets=3, max_iter=1, random_state=0)
    model.fit(X, y, weight)  # 60 rows are too few
    monkeypatch.setattr(_softmax, "_CALIBRATION_ROWS", 50)
    model.fit(X, y, weight)
    model.fit(X, y)
    assert held == [0, 60 // 50, 400 // 50]  # 2 %


# Steps ------------------------------------------------------------------------------


def test_very_different_scales_are_reported(blobs):
    X, y = blobs(100, sparse=False)
    X[:, 3] *= 1e5
    for rows in (X, sp.csr_matrix(X)):
        with pytest.warns(ConvergenceWarning, match="column 3 .*MaxAbsScaler.*Normali"):
            MACHClassifier(random_state=0).fit(rows, y)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("learning_rate", [1e38, 1e200])
def test_divergence_is_an_error_that_names_the_remedy(blobs, sparse, learning_rate):
    X, y = blobs(50, sparse=sparse)
    model = MACHClassifier(learning_rate=learning_rate, random_state=0)
    with pytest.raises(ValueError, match="smaller learning_rate .*Normalizer.*MaxAbs"):
        model.fit(X * 30, y)
    assert not hasattr(model, "classes_")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("learning_rate", [1e20, 1e35, 3e37, 3e38])
@pytest.mark.parametrize("scale", [0.1, 1.5, 10])
def test_weights_are_refused_where_they_overflow_and_else_finite(
    blobs, sparse, learning_rate, scale
):
    X, y = blobs(20, sparse=sparse)
    model = MACHClassifier(
        learning_rate=learning_rate,
        n_repetitions=3,
        n_buckets=3,
        max_iter=1,
        random_state=0,
        batch_size=1,
    )
    # A step changes the logits by about its size times the squared length of the row.
    if learning_rate * scale**2 > float(np.finfo(np.float32).max):
        with pytest.raises(ValueError, match="smaller learning_rate"):
            model.fit(X * scale, y)
    else:
        model.fit(X * scale, y)
        assert np.isfinite(model.coef_).all()
        assert np.isfinite(model.intercept_).all()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("factor", [1e-14, 1e14, 1e16, 1e25, 1e149])
def test_rows_are_refused_only_where_float32_has_no_room(blobs, sparse, factor):
    X, y = blobs(150, sparse=sparse)
    X = X * factor
    model = MACHClassifier(random_state=0)
    if factor < 1e15:  # float32 ends at 3e38, the square of 2e19
        assert model.fit(X[:50], y[:50]).score(X[50:], y[50:]) > 0.9
    else:
        with pytest.raises(ValueError, match="no room in float32.*Normalizer"):
            model.fit(X, y)


def test_verbose_prints_a_line_for_each_epoch(blobs, capsys):
    X, y = blobs(60)
    MACHClassifier(max_iter=3, verbose=1, random_state=0).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(re.search("epoch [123]/3: training loss", line) for line in lines)
    MACHClassifier(max_iter=3, random_state=0).fit(X, y)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_verbose_tells_speed_and_time_left(blobs, capsys, monkeypatch, n_jobs):
    # two blocks of repetitions, one after the other or side by side
    X, y = blobs(60, n_classes=20, sparse=False)
    seconds = Counter()  # in each thread one passes at every look at the clock

    def clock():
        seconds[get_ident()] += 1
        return seconds[get_ident()]

    monkeypatch.setattr(
        "sklearn_mach._training.time", SimpleNamespace(perf_counter=clock)
    )
    sizes = dict(n_repetitions=34, n_buckets=16, learning_rate=1e-9, max_iter=3)
    MACHClassifier(**sizes, n_jobs=n_jobs, verbose=1, random_state=0).fit(X, y)
    loss = f"training loss {np.log(16):.4f}"  # of weights that hardly move from zero
    parts = ["part 1/2, ", "part 2/2, "] if n_jobs == 1 else [""]
    starts = [f"{part}epoch {e}/3: " for part in parts for e in (1, 2, 3)]
    lefts = reversed(range(len(starts)))
    assert capsys.readouterr().out.splitlines() == [
        f"{start}{loss}, 60 rows/s, {left:.1f} s left"
        for start, left in zip(starts, lefts, strict=True)
    ]


# Parallel work ----------------------------------------------------------------------


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("n_repetitions", "n_buckets", "n_classes"),
    [(7, 5, 23), (3, 11, 40), (5, 129, 300)],
)
def test_n_jobs_changes_no_bit(
    blobs, storage, sparse, n_repetitions, n_buckets, n_classes
):
    X, y = blobs(610, 17, n_classes, sparse=sparse)
    model = MACHClassifier(
        n_repetitions=n_repetitions,
        n_buckets=n_buckets,
        max_iter=2,
        alpha=1e-4 if storage == "float32" else 0.0,
        random_state=0,
    )
    one = clone(model).set_params(n_jobs=1).fit(X, y)
    for n_jobs in (2, 3):
        other = clone(model).set_params(n_jobs=n_jobs).fit(X, y)
        assert_same_model(one, other)
        assert_array_equal(one.decision_function(X), other.decision_function(X))
        labels, scores = other.predict_topk(X, k=3, return_scores=True)
        expected = one.predict_topk(X, k=3, return_scores=True)
        assert_array_equal(labels, expected[0])
        assert_array_equal(scores, expected[1])


@pytest.mark.usefixtures("two_blas_threads")
def test_processes_and_read_only_memory_maps_change_no_bit(blobs, storage):
    X, y = blobs(40, 9, 8)
    model = MACHClassifier(
        n_repetitions=3, n_buckets=3, max_iter=2, n_jobs=2, random_state=0
    )
    threads, processes = clone(model), clone(model)
    dense = clone(model).fit(X.toarray(), y)
    threads.fit(X, y).set_params(warm_start=True, n_repetitions=5).fit(X, y)
    threads.partial_fit(X, y)
    with joblib.parallel_config("loky", max_nbytes=1):
        assert_same_model(clone(model).fit(X.toarray(), y), dense)
        processes.fit(X, y).set_params(warm_start=True, n_repetitions=5).fit(X, y)
        processes.partial_fit(X, y)
    assert_same_model(processes, threads)


# Blocks -----------------------------------------------------------------------------


def test_steps_stay_short_where_rows_may_come_again(blobs, monkeypatch):
    # Held out of rows that come again are rows that were trained on: a trial on them
    # would find the longest steps the best.
    X, y = blobs(1_200, 6, 5)

    def fitted(factor, size):
        def trial(X, *_):
            return factor if X.shape[0] >= 1_000 else None

        monkeypatch.setattr("sklearn_mach._trial.probe_step", trial)
        model = MACHClassifier(n_repetitions=2, n_buckets=3, random_state=0)
        for _ in range(1_200 // size):
            model.partial_fit(X[:size], y[:size], classes=range(5))
        return model.coef_

    assert_array_equal(fitted(32.0, 400), fitted(4.0, 400))
    assert (fitted(32.0, 1_200) != fitted(4.0, 1_200)).any()  # one block has no repeats
    assert (fitted(1.0, 400) != fitted(4.0, 400)).any()  # and short steps are kept


@pytest.mark.parametrize("sparse", [False, True])
def test_partial_fit_learns_from_blocks(blobs, sparse):
    X, y = blobs(1000, 12, 20, noise=0.5, sparse=sparse)
    model = MACHClassifier(n_repetitions=8, n_buckets=5, random_state=0)
    reached = clone(model).fit(X[:600], y[:600]).score(X[600:], y[600:])
    assert reached > 0.9
    for _ in range(5):
        for start in range(0, 600, 150):
            rows = slice(start, start + 150)
            model.partial_fit(X[rows], y[rows], classes=np.arange(20))
    assert model.score(X[600:], y[600:]) > reached - 0.05
    assert model.n_iter_ == 20


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1e-3])
def test_rows_of_little_weight_change_little(blobs, sparse, alpha):
    X, y = blobs(400, sparse=sparse)
    model = MACHClassifier(n_repetitions=4, n_buckets=3, alpha=alpha, random_state=0)
    for start in range(0, 300, 100):
        rows = slice(start, start + 100)
        model.partial_fit(X[rows], y[rows], classes=range(6))
    scores, wrong = model.decision_function(X), (y[300:] + 1) % 6
    as_heavy = pickle.loads(pickle.dumps(model)).partial_fit(X[300:], wrong)
    assert abs(as_heavy.decision_function(X) - scores).max() > 0.1
    model.partial_fit(X[300:], wrong, sample_weight=np.full(100, 1e-6))
    assert abs(model.decision_function(X) - scores).max() < 1e-3


@pytest.mark.parametrize("sparse", [False, True])
def test_partial_fit_keeps_no_arrays_of_the_caller(sparse):
    X, y = make_many_classes(1200, 60, 20, n_nonzeros=6, random_state=0)
    X = X if sparse else X.toarray()
    sizes = dict(n_repetitions=2, n_buckets=5, random_state=0)
    fresh, reused = MACHClassifier(**sizes), MACHClassifier(**sizes)
    for start in range(0, 1200, 400):  # the trial of the step waits for 1,000 rows
        rows, weight = slice(start, start + 400), np.ones(400)
        fresh.partial_fit(X[rows], y[rows], range(20), sample_weight=weight.copy())
        block, labels = X[rows].copy(), y[rows].copy()
        reused.partial_fit(block, labels, range(20), sample_weight=weight)
        values = block.data if sparse else block
        values[:], labels[:], weight[:] = 7, 0, 0
    assert_same_model(reused, fresh)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_partial_fit_takes_sparse_and_dense_blocks_in_turn(dtype):
    X, y = make_many_classes(1200, 60, 20, n_nonzeros=6, random_state=0)
    sizes = dict(n_repetitions=4, n_buckets=5, random_state=0)
    models = [MACHClassifier(**sizes) for _ in range(3)]
    for start in range(0, 1200, 400):
        rows = slice(start, start + 400)
        blocks = X[rows], X[rows].toarray(), X[rows]
        if start == 400:
            blocks = X[rows], X[rows].toarray(), X[rows].toarray().astype(dtype)
        for model, block in zip(models, blocks, strict=True):
            model.partial_fit(block, y[rows], classes=range(20))
    sparse, dense, mixed = (model.score(X, y) for model in models)
    assert min(sparse, dense) > 0.3
    assert mixed > min(sparse, dense) - 0.05


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0, 0.1])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_failing_partial_fit_leaves_the_model_untouched(blobs, sparse, alpha, n_jobs):
    X, y = blobs(60, sparse=sparse)
    model = MACHClassifier(
        n_repetitions=4, n_buckets=3, alpha=alpha, random_state=0, n_jobs=n_jobs
    )
    model.partial_fit(X, y, classes=range(6))
    twin = pickle.loads(pickle.dumps(model))
    model.set_params(learning_rate=1e38)
    if sparse:  # a block that touches one feature only
        few = sp.csr_matrix(X.toarray() * (np.arange(12) == 3))
    else:
        few = X
    with pytest.raises(ValueError, match="learning_rate"):
        model.partial_fit(few * 100, y)
    with pytest.raises(ValueError, match="not in classes"):
        model.partial_fit(X, y + 1, classes=range(6))
    model.set_params(learning_rate="auto")
    assert_same_model(model, twin)
    assert_same_model(model.partial_fit(X, y), twin.partial_fit(X, y))
