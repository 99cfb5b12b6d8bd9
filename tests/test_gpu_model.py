"""Predictions of all devices, against slow references."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from helpers import set_offset
from learners import learner, problem
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, log_expit

from sklearn_mach import _cuda, _model
from sklearn_mach._weights import Float32, Linear


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("bits", [None, 4])  # all weights, or compressed
def test_predictions_equal_the_reference(device, sparse, bits):
    X, y, _, table = problem()
    rows = sp.csr_matrix(X) if sparse else X
    for decoder, merge in (("log_mean", "sum"), ("min", "min"), ("median", "median")):
        model = learner(table, device=device, max_iter=2, decoder=decoder, n_jobs=2)
        model.fit(rows, y)
        if bits is not None:
            model = model.compress(bits=bits)
        W, b = model.coef_.astype(float), model.intercept_.astype(float)
        scores = reference.bucket_log_proba(X, W, b)
        scores = scores / 3 if merge == "sum" else np.exp(scores)
        expected = reference.class_scores(scores, table, merge)
        found = model.decision_function(rows)
        assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # logits of some tens
        # Classes by the model's own scores: floats differ, the order may not.
        classes, values = model.predict_topk(rows, 4, return_scores=True)
        best = reference.topk(found, 4)
        assert_array_equal(classes, best[0])
        assert_array_equal(values, best[1])
        one = np.concatenate([model.predict_topk(rows[i : i + 1], 4) for i in range(9)])
        assert_array_equal(one, classes[:9])
        *_, last = model.staged_predict_topk(rows, 4)
        assert_array_equal(last, classes)


@pytest.mark.parametrize(
    ("shape", "k", "merge"),
    [
        ((1, 1, 2), 1, "sum"),
        ((33, 3, 5), 3, "sum"),
        ((40, 4, 8), 32, "min"),
        ((5, 30, 70), 4, "sum"),  # too large for shared memory
    ],
)
@pytest.mark.parametrize("K", [40, 9001])
@pytest.mark.parametrize("with_offset", [False, True])
def test_best_classes_equal_a_full_sort_bit_for_bit(
    device, shape, k, merge, K, with_offset
):
    if device == "cpu":
        pytest.skip("the CPU's search is tested in test_decoding.py")
    gpu = _cuda.modules()
    rng = np.random.default_rng([K, k])
    # Few values, so that there are many ties, and sums that depend on their order.
    scores = np.log(rng.integers(1, 5, shape).astype(np.float32))
    scores[0, 0, 0] = -np.inf
    table = rng.integers(0, shape[2], (K, shape[1])).astype(np.int32)
    asarray = gpu.model.cupy.asarray
    offset = None
    if with_offset:
        offset = np.log(rng.integers(1, 9, K).astype(np.float32))
        offset[::7] = -np.inf
    on_device = None if offset is None else asarray(offset)
    task = asarray(scores), asarray(table), k, merge, on_device
    values, classes = gpu.model.best_classes(*task)
    expected = reference.topk(reference.class_scores(scores, table, merge, offset), k)
    assert_array_equal(classes.get(), expected[0])
    assert_array_equal(values.get(), expected[1])


@pytest.mark.parametrize("k", [1, 4])
def test_offsets_count_on_every_device(device, k):
    X, y, _, table = problem()
    model = learner(table, device=device, max_iter=2).fit(X, y)
    set_offset(model, np.array([0, -3, 0.5, -np.inf, 0.25, 1], np.float32))
    for decoder in ("log_mean", "mean", "log_mean"):
        model.set_params(decoder=decoder)
        scores = model.decision_function(X)
        classes, values = model.predict_topk(X, k, return_scores=True)
        best = reference.topk(scores, k)
        assert_array_equal(classes, best[0])
        assert_array_equal(values, best[1])
        *_, last = model.staged_predict_topk(X, k)
        assert_array_equal(last, classes)


@pytest.mark.parametrize("decoder", ["log_mean", "mean", "min", "median"])
def test_rows_too_large_for_float32_are_refused_at_prediction(device, decoder):
    X, y, _, table = problem()
    model = learner(table, device=device, max_iter=2, decoder=decoder).fit(X, y)
    for rows in (X * 1e300, sp.csr_matrix(X * 1e300)):
        for method in (model.predict, model.predict_proba, model.decision_function):
            with pytest.raises(ValueError, match="too large for float32"):
                method(rows)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_sigmoids_equal_those_of_float64(device, sparse, log):
    if device == "cpu":
        pytest.skip("the CPU's are tested in test_weights.py")
    X, _, _, table = problem()
    rows = sp.csr_matrix(X) if sparse else X
    rng = np.random.default_rng(0)
    # Probabilities next to zero and one, and such whose logarithm is not.
    W, b = (rng.standard_normal(s).astype(np.float32) for s in ((7, 9), 9))
    W[0] *= 40
    linear = Linear(Float32.of(W, b), 3, "sigmoid")
    scorer = linear.on(device, table)
    found = scorer.bucket_scores(rows, log, 3)
    logits = X @ W.astype(float) + b
    expected = (log_expit if log else expit)(logits).reshape(30, 3, 3) / 3
    assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # logits of some tens
    for merge in ("sum", "min"):
        best = reference.topk(reference.class_scores(found, table, merge), 4)
        classes, values = scorer.topk(rows, 4, log, 3, merge, None)
        assert_array_equal(classes, best[0])
        assert_array_equal(values, best[1])
    for too_large in (rows * 1e300, rows * -1e300):
        with pytest.raises(ValueError, match="too large for float32"):
            scorer.bucket_scores(too_large, log, 1)


def test_threads_that_predict_together_copy_the_model_once(host_gpu, monkeypatch):
    X, y, _, table = problem()
    model = learner(table, device="cuda", max_iter=1).fit(X, y)
    made, copy = [], host_gpu.model.Model

    def slow_copy(*args):
        made.append(get_ident())
        time.sleep(0.05)  # in which another thread would begin its own
        return copy(*args)

    monkeypatch.setattr(host_gpu.model, "Model", slow_copy)
    start = Barrier(4)

    def scorer():
        start.wait()
        return model._fitted.model.scorer.on("cuda", table)

    with ThreadPoolExecutor(4) as pool:
        scorers = [call.result() for call in [pool.submit(scorer) for _ in range(4)]]
    assert len(made) == 1
    assert all(one is scorers[0] for one in scorers)


@pytest.mark.parametrize("decoder", ["log_mean", "median"])
def test_the_cpu_decodes_in_threads_what_the_gpu_does_not(
    host_gpu, monkeypatch, decoder
):
    X, y, _, table = problem()
    model = learner(table, device="cuda", max_iter=1, decoder=decoder, n_jobs=2)
    model.fit(X, y)
    monkeypatch.setattr("sklearn_mach._model.cpu_count", lambda: 2)
    together, threads = Barrier(2), set()

    def decode(*args, decode=_model.decode_topk, **options):
        threads.add(get_ident())
        together.wait(10)
        return decode(*args, **options)

    expected = reference.topk(model.decision_function(X), 3)[0]
    monkeypatch.setattr(_model, "decode_topk", decode)
    assert_array_equal(model.predict_topk(X, 3), expected)
    assert len(threads) == (0 if decoder == "log_mean" else 2)
