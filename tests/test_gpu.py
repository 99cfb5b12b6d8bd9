"""The GPU's learner and search: one body of tests for all devices, slow references.

"host" is the code of the GPU on a stand-in for CuPy, its kernels compiled by g++;
"cuda" is a real GPU.
"""

import importlib.util
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, get_ident

import cuda_on_host
import numpy as np
import pytest
import reference
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils import check_random_state
from test_dense import record_starts

from sklearn_mach import MACHClassifier, _backends

SEED = 3
TOLERANCE = dict(rtol=1e-4, atol=3e-5)  # as of the CPU's, in learners.py


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs Linux and g++ to compile the kernels for the host")
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def host_gpu(folder, monkeypatch):
    """`sklearn_mach._gpu` on the host; the device "cuda" then is this stand-in."""
    module = cuda_on_host.load(folder, monkeypatch)
    monkeypatch.setattr(_backends, "_gpu", lambda: module)
    return module


@pytest.fixture(params=["cpu", "host", "cuda"])
def device(request):
    """The name of a device; CPU and GPU are held to the same references."""
    if request.param == "host":
        request.getfixturevalue("host_gpu")
    elif request.param == "cuda":
        try:
            _backends.resolve_device("cuda")
        except ValueError as error:
            pytest.skip(str(error))
    return "cpu" if request.param == "cpu" else "cuda"


def problem(n=30, d=7, K=6, seed=0):
    """Rows with zeros, classes, weights, and a table of three columns."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.6)
    y = np.concatenate([np.arange(K), rng.integers(0, K, n - K)])
    table = np.array([[0, 0, 1], [1, 0, 2], [2, 1, 0], [0, 1, 2], [1, 2, 0], [2, 2, 1]])
    return X, y, rng.uniform(0.2, 2, n), table


def order_seed():
    return check_random_state(SEED).randint(np.iinfo(np.int32).max)


def rows_by_epoch(n_epochs, rows):
    seed = order_seed()
    return [np.random.default_rng([seed, e]).permutation(rows) for e in range(n_epochs)]


def learner(table, device, **parameters):
    defaults = dict(hashing=table, tol=None, random_state=SEED, learning_rate=0.3)
    return MACHClassifier(device=device, **(defaults | parameters))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("alpha", [0, 0.05])
def test_epochs_equal_the_reference(device, sparse, batch_size, alpha):
    if sparse and batch_size > 1 and device == "cpu":
        pytest.skip("the CPU takes a step for each row of a sparse X")
    X, y, weight, table = problem()
    model = learner(table, device, max_iter=3, batch_size=batch_size, alpha=alpha)
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight)
    assert model.device_ == device
    weight = weight / weight.mean()
    W, b, _ = reference.sgd_fit(
        X,
        y,
        table,
        3,
        rows_by_epoch(3, np.arange(len(y))),
        0.3 * weight,
        weight,
        batch_size=batch_size,
        bias=reference.mean_length(X, weight),
        penalty=0.3 * alpha,
        bound=2.0 if sparse and device == "cuda" else np.inf,
    )
    assert_allclose(model.coef_, W, **TOLERANCE)
    assert_allclose(model.intercept_, b, **TOLERANCE)


def heavy_weights(n):
    """Weights of a long tail, in which some rows have ten times the mean."""
    weight = np.random.default_rng(5).pareto(1.1, n) + 0.01
    weight[3] = 10 * weight.mean()
    weight[4] = 0
    return weight


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("streamed", [False, True])
def test_auto_steps_equal_the_reference(
    device, sparse, weighted, batch_size, streamed, monkeypatch
):
    if batch_size > 1 and (device == "cpu" or not sparse):
        pytest.skip("a step for each row, or one divided by the rows' coherence")
    if streamed and device == "cpu":
        pytest.skip("only a GPU reads its rows in chunks")
    X, y, _, table = problem()
    X[(X == 0).all(axis=1), 0] = 1
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    X[7] *= 3  # longer than a typical row may count
    weight = heavy_weights(len(y)) if weighted else np.ones(len(y))
    if streamed:
        monkeypatch.setattr(_backends._gpu(), "_ENTRIES", 30)
        monkeypatch.setattr(_backends, "plan_training", lambda *args: (2, False))
    started = record_starts(monkeypatch)
    model = learner(
        table, device, max_iter=3, learning_rate="auto", batch_size=batch_size
    )
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight if weighted else None)
    weight /= weight[weight > 0].mean()
    rows = reference.visited(np.arange(len(y)), weight)
    assert (len(rows) > len(y) + 3) == weighted and (4 in rows) != weighted
    step, options = (reference.auto_steps if sparse else reference.dense_steps)(
        X, weight
    )
    W, b, _ = reference.sgd_fit(
        X,
        y,
        table,
        3,
        rows_by_epoch(3, rows),
        step,
        start=None if sparse else started[0],
        batch_size=batch_size,
        bound=2.0 if sparse and device == "cuda" else np.inf,
        **options,
    )
    assert_allclose(model.coef_, W, rtol=1e-3, atol=1e-3)  # as in test_steps.py
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_blocks_equal_the_reference(device, sparse, batch_size):
    if sparse and batch_size > 1 and device == "cpu":
        pytest.skip("the CPU takes a step for each row of a sparse X")
    X, y, _, table = problem(n=360)
    weight = heavy_weights(360)
    model = learner(table, device, batch_size=batch_size, learning_rate=0.1)
    W, b = np.zeros((3, 3, 7)), np.zeros((3, 3))
    visits, length, seed = np.zeros(8), 0, order_seed()
    for block in np.split(np.arange(360), [40, 160, 161]):
        part, w = X[block], weight[block]
        model.partial_fit(
            sp.csr_matrix(part) if sparse else part, y[block], np.arange(6), w
        )
        # Weights count in units of the mean so far, without zeros, and visits in that
        # of the first block.
        seen = weight[: block[-1] + 1]
        now = w / seen[seen > 0].mean()
        first = w / weight[:40][weight[:40] > 0].mean()
        length += first @ reference.limited_squares(part, w).sum(axis=1)
        new = np.append(first @ (part != 0), first.sum())
        rows = reference.visited(np.arange(len(block)), now)
        reference.sgd_epoch(
            part,
            y[block],
            table,
            W,
            b,
            np.random.default_rng([seed + block[0], 0]).permutation(rows),
            0.1 * now / np.maximum(np.ceil(now / 2), 1),
            (1, 1),
            batch_size=batch_size,
            bias=length / (visits + new)[-1],
            bound=2.0 if sparse and device == "cuda" else np.inf,
            visits=new,
            before=visits,
            visits_to_slow=1024,
        )
        visits += new
    assert_allclose(model.coef_, W, rtol=1e-3, atol=1e-3)
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_repetitions_stop_as_in_the_reference(device, sparse, early_stopping):
    X, y, weight, table = problem(n=36)
    X[np.arange(36), y % 7] += 3 * (y % 3 == 0)
    model = learner(
        table,
        device,
        max_iter=25,
        tol=0.03,
        n_iter_no_change=2,
        batch_size=1,
        early_stopping=early_stopping,
        validation_fraction=0.25,
    )
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight)
    weight = weight / weight.mean()
    validation, train = None, np.arange(36)
    if early_stopping:
        seed = check_random_state(SEED).randint(np.iinfo(np.int32).max)
        shuffled = np.random.default_rng([seed]).permutation(train)
        validation, train = shuffled[:9], shuffled[9:]
    W, b, n_iter = reference.sgd_fit(
        X,
        y,
        table,
        3,
        rows_by_epoch(25, train),
        0.3 * weight,
        weight,
        tol=0.03,
        n_iter_no_change=2,
        validation=validation,
        bias=reference.mean_length(X, weight),
        bound=2.0 if sparse and device == "cuda" else np.inf,
    )
    assert n_iter.max() < 25
    assert model.n_iter_ == n_iter.max()
    assert_allclose(model.coef_, W, rtol=1e-3, atol=3e-4)  # as in test_sgd.py
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_predictions_equal_the_reference(device, sparse):
    X, y, _, table = problem()
    rows = sp.csr_matrix(X) if sparse else X
    for decoder, merge in (("log_mean", "sum"), ("min", "min"), ("median", "median")):
        model = learner(table, device, max_iter=2, decoder=decoder, n_jobs=2)
        model.fit(rows, y)
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
    gpu = _backends._gpu()
    rng = np.random.default_rng([K, k])
    # Few values, so that there are many ties, and sums that depend on their order.
    scores = np.log(rng.integers(1, 5, shape).astype(np.float32))
    scores[0, 0, 0] = -np.inf
    table = rng.integers(0, shape[2], (K, shape[1])).astype(np.int32)
    asarray = gpu.cupy.asarray
    offset = None
    if with_offset:
        offset = np.log(rng.integers(1, 9, K).astype(np.float32))
        offset[::7] = -np.inf
    on_device = None if offset is None else asarray(offset)
    task = asarray(scores), asarray(table), k, merge, on_device
    values, classes = gpu.best_classes(*task)
    expected = reference.topk(reference.class_scores(scores, table, merge, offset), k)
    assert_array_equal(classes.get(), expected[0])
    assert_array_equal(values.get(), expected[1])


@pytest.mark.parametrize("k", [1, 4])
def test_offsets_count_on_every_device(device, k):
    X, y, _, table = problem()
    model = learner(table, device, max_iter=2).fit(X, y)
    model._set_offset(np.array([0, -3, 0.5, -np.inf, 0.25, 1], np.float32))
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
    model = learner(table, device, max_iter=2, decoder=decoder).fit(X, y)
    for rows in (X * 1e300, sp.csr_matrix(X * 1e300)):
        for method in (model.predict, model.predict_proba, model.decision_function):
            with pytest.raises(ValueError, match="too large for float32"):
                method(rows)


def test_threads_that_predict_together_copy_the_model_once(host_gpu, monkeypatch):
    X, y, _, table = problem()
    model = learner(table, "cuda", max_iter=1).fit(X, y)
    made, copy = [], host_gpu.Model

    def slow_copy(*args):
        made.append(get_ident())
        time.sleep(0.05)  # in which another thread would begin its own
        return copy(*args)

    monkeypatch.setattr(host_gpu, "Model", slow_copy)
    start = Barrier(4)

    def place():
        start.wait()
        return model._place()[1][0]

    with ThreadPoolExecutor(4) as pool:
        placed = [call.result() for call in [pool.submit(place) for _ in range(4)]]
    assert len(made) == 1
    assert all(one is placed[0] for one in placed)


@pytest.mark.parametrize("decoder", ["log_mean", "median"])
def test_the_cpu_decodes_in_threads_what_the_gpu_does_not(
    host_gpu, monkeypatch, decoder
):
    X, y, _, table = problem()
    model = learner(table, "cuda", max_iter=1, decoder=decoder, n_jobs=2).fit(X, y)
    monkeypatch.setattr("sklearn_mach._classifier.cpu_count", lambda: 2)
    together, threads = Barrier(2), set()

    def decode(*args, decode=_backends.decode_topk, **options):
        threads.add(get_ident())
        together.wait(10)
        return decode(*args, **options)

    expected = reference.topk(model.decision_function(X), 3)[0]
    monkeypatch.setattr(_backends, "decode_topk", decode)
    assert_array_equal(model.predict_topk(X, 3), expected)
    assert len(threads) == (0 if decoder == "log_mean" else 2)


def fitted(X, y, table, **parameters):
    model = learner(table, "cuda", max_iter=2, batch_size=4, **parameters).fit(X, y)
    return model.coef_.copy(), model.intercept_.copy()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_streamed_in_chunks_give_the_same_weights(
    host_gpu, monkeypatch, sparse, dtype
):
    X, y, _, table = problem()
    X = sp.csr_matrix(X, dtype=dtype) if sparse else X.astype(dtype)
    whole = fitted(X, y, table)
    monkeypatch.setattr(host_gpu, "_ENTRIES", 30)
    monkeypatch.setattr(host_gpu, "_PIECE", 16)
    monkeypatch.setattr(_backends, "plan_training", lambda *args: (2, False))
    for a, b in zip(whole, fitted(X, y, table), strict=True):
        # BLAS sums of a dense X depend on the columns that stand beside a column.
        assert_allclose(a, b, rtol=0 if sparse else 1e-5, atol=0 if sparse else 1e-6)


@pytest.mark.parametrize("resident", [False, True])
def test_float16_rows_give_the_model_of_the_same_numbers_as_float32(
    host_gpu, monkeypatch, resident
):
    X, y, _, table = problem()
    X = X.astype(np.float16)
    monkeypatch.setattr(_backends, "plan_training", lambda *args: (2, resident))
    expected = learner(table, "cuda", max_iter=2).fit(X.astype(np.float32), y)
    model = learner(table, "cuda", max_iter=2).fit(X, y)
    assert_array_equal(model.coef_, expected.coef_)
    for method in ("predict", "predict_topk", "predict_proba"):
        found = getattr(model, method)(X)
        assert_array_equal(found, getattr(expected, method)(X.astype(np.float32)))


def test_several_devices_and_turns_change_no_bit(host_gpu, monkeypatch):
    X, y, _, table = problem()
    X = sp.csr_matrix(X)
    one = fitted(X, y, table)
    monkeypatch.setattr(cuda_on_host.Device, "count", 2)
    monkeypatch.setattr(host_gpu, "ThreadPoolExecutor", InTurn)  # kernels on one thread
    for a, b in zip(one, fitted(X, y, table), strict=True):
        assert_array_equal(a, b)
    assert learner(table, "cuda:1", max_iter=1).fit(X, y).device_ == "cuda:1"


class InTurn:
    """A pool of threads that is none."""

    def __init__(self, n_threads):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("sparse", [False, True])
def test_more_repetitions_and_partial_fit(device, sparse):
    X, y, _, table = problem()
    rows = sp.csr_matrix(X) if sparse else X
    all_at_once = learner(table, device, max_iter=2, batch_size=1).fit(rows, y)
    model = learner(table[:, :2], device, max_iter=2, batch_size=1, warm_start=True)
    model.fit(rows, y).set_params(hashing=table).fit(rows, y)
    # BLAS sums of a dense X depend on the columns that stand beside a column.
    assert_allclose(model.coef_, all_at_once.coef_, rtol=1e-5, atol=1e-6)
    before = model.predict_topk(rows, 6, return_scores=True)[1]
    model.partial_fit(rows, y)  # no stale copy of the weights may stay on the device
    after = model.predict_topk(rows, 6, return_scores=True)[1]
    assert np.abs(after - before).max() > 1e-3
    W, b = model.coef_.astype(float), model.intercept_.astype(float)
    scores = reference.bucket_log_proba(X, W, b) / 3
    expected = -np.sort(-reference.class_scores(scores, table))
    assert_allclose(after, expected, rtol=1e-5, atol=1e-5)


def test_a_model_of_a_gpu_predicts_without_one(host_gpu, monkeypatch):
    X, y, _, table = problem()
    X = sp.csr_matrix(X)
    model = learner(table, "cuda", max_iter=2).fit(X, y)
    labels, scores = model.predict_topk(X, 6, return_scores=True)
    assert list(model._placed) == [0]
    copy = pickle.loads(pickle.dumps(model))
    assert copy._placed == {}
    model.device_ = "cpu"
    model.predict(X)
    assert model._placed == {}  # the memory of the device is given back

    def missing():
        raise ValueError("no GPU is visible")

    monkeypatch.setattr(_backends, "_gpu", missing)
    elsewhere = copy.predict_topk(X, 6, return_scores=True)
    assert_allclose(elsewhere[1], scores, rtol=1e-5, atol=1e-6)  # float32 sums
    # Classes of nearly equal scores may change places, others may not.
    clear = np.diff(-scores, axis=1, prepend=-np.inf, append=np.inf) > 1e-5
    clear = clear[:, :-1] & clear[:, 1:]
    assert_array_equal(elsewhere[0][clear], labels[clear])
    with pytest.raises(ValueError, match="device='cuda' cannot be used: no GPU"):
        copy.fit(X, y)


def test_products_are_in_tf32_only_if_cupy_is_asked_for_it(host_gpu, monkeypatch):
    X, y, _, table = problem()
    monkeypatch.delenv("CUPY_TF32", raising=False)
    plain = fitted(X, y, table)
    monkeypatch.setenv("CUPY_TF32", "0")
    for a, b in zip(plain, fitted(X, y, table), strict=True):
        assert_array_equal(a, b)
    monkeypatch.setenv("CUPY_TF32", "1")
    for a, b in zip(plain, fitted(X, y, table), strict=True):
        assert 1e-5 < np.abs(a - b).max() < 2e-2  # ten bits of the numbers
    assert host_gpu.cupy.cuda.cublas.mode == 3  # as it was found


@pytest.mark.parametrize("sparse", [False, True])
def test_callbacks_are_told_of_turns_and_their_epochs(host_gpu, monkeypatch, sparse):
    pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")
    X, y, _, table = problem()
    X = sp.csr_matrix(X) if sparse else X
    monkeypatch.setattr(_backends, "plan_training", lambda *args: (2, True))
    calls, weights = [], []

    class Recorder:
        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            calls.append(("begin", context.task_name, context.task_id))

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            calls.append(("end", context.task_name, context.task_id))
            if context.task_name == "epoch":
                fitted_estimator.predict(X)
                weights.append(fitted_estimator.coef_.copy())
                return context.parent.task_id == 2  # the second turn stops early

    silent = fitted(X, y, table)
    model = learner(table, "cuda", max_iter=2, batch_size=4)
    model.set_callbacks(Recorder()).fit(X, y)
    epochs = [[(at, "epoch", e) for at in ("begin", "end")] for e in range(2)]
    assert calls == [
        ("begin", "fit", 0),
        ("begin", "repetitions", 0),
        *epochs[0],
        *epochs[1],
        ("end", "repetitions", 0),
        ("begin", "repetitions", 2),
        *epochs[0],
        ("end", "repetitions", 2),
        ("end", "fit", 0),
    ]
    assert_array_equal(model.coef_[:2], silent[0][:2])
    assert np.abs(model.coef_[2] - silent[0][2]).max() > 1e-3
    assert np.abs(weights[0][:2] - silent[0][:2]).max() > 1e-3
    assert_array_equal(weights[1][:2], silent[0][:2])
    assert not weights[1][2].any()  # its turn has not come
    assert_array_equal(weights[2], model.coef_)


def test_verbose_prints_the_epochs_of_each_turn(host_gpu, monkeypatch, capsys):
    X, y, _, table = problem()
    monkeypatch.setattr(_backends, "plan_training", lambda *args: (2, True))
    learner(table, "cuda", max_iter=2, verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"part {part}/2, epoch {epoch}/2" for part in (1, 2) for epoch in (1, 2)
    ]
    assert all("training loss" in line and "s left" in line for line in lines)


def test_overflow_is_reported(host_gpu):
    X, y, _, table = problem()
    model = learner(table, "cuda", learning_rate=1e30)
    with pytest.raises(ValueError, match="overflowed"):
        model.fit(X * 1e10, y)


def test_auto_takes_a_gpu_for_large_problems_only(host_gpu, monkeypatch):
    X, y, _, table = problem()
    assert learner(table, "auto", max_iter=1).fit(X, y).device_ == "cpu"
    monkeypatch.setattr(_backends, "_WORTH_A_GPU", X.size * 9)
    assert learner(table, "auto", max_iter=1).fit(X, y).device_ == "cuda"


def test_a_base_estimator_takes_no_gpu(host_gpu):
    from sklearn.naive_bayes import GaussianNB

    X, y, _, table = problem()
    model = MACHClassifier(GaussianNB(), device="cuda")
    with pytest.raises(ValueError, match="device='cuda' is for the built-in learner"):
        model.fit(X, y)
    assert model.set_params(device="auto").fit(X, y).device_ == "cpu"


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
def test_the_kernels_compile(folder, host_gpu, compiler):
    (folder / "k.cu").write_text(host_gpu.SOURCE)
    if compiler == "nvcc":
        if shutil.which("nvcc") is None:
            pytest.skip("nvcc is not installed")
        command = ["nvcc", "-std=c++17", "-cubin", "-arch=sm_80", folder / "k.cu", "-o"]
        command.append(folder / "k.cubin")
    else:
        script = (
            "import sys; from cupy_backends.cuda.libs import nvrtc\n"
            "p = nvrtc.createProgram(open(sys.argv[1]).read(), 'k.cu', (), ())\n"
            "try:\n"
            "    nvrtc.compileProgram(p, ('-std=c++17', '-arch=sm_80'))\n"
            "except Exception:\n"
            "    sys.exit(nvrtc.getProgramLog(p))\n"
        )
        command = [sys.executable, "-c", "import cupy_backends"]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("CuPy, and so NVRTC, is not installed")
        command = [sys.executable, "-c", script, folder / "k.cu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_leaves_cupy_alone():
    code = "import sys, sklearn_mach; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_benchmark_runs(host_gpu, monkeypatch, capsys):
    path = Path(__file__).parents[1] / "examples" / "bench_gpu.py"
    spec = importlib.util.spec_from_file_location("bench_gpu", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    small = {"n_repetitions": 2, "n_buckets": 32, "max_iter": 1, "learning_rate": 1.0}
    sizes = {
        "tokens": {"n_files": 2, "seeds": 1, "parameters": small},
        "odp": {
            "train": (100, 60, 20),
            "n_test": 150,
            "R": 3,
            "B": 8,
            "n_compared": 20,
            "n_copied": 1000,
        },
        "dense": {"d": 8, "K": 20, "R": 2, "B": 16, "n_bytes": 10_000},
    }
    monkeypatch.setattr(bench, "FULL", sizes)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--here", *sizes])
    bench.print_versions()
    bench.main()
    printed = capsys.readouterr().out
    assert bench.failed == [] and "FAILED" not in printed
    assert printed.count("peak memory of the device") == 3


GB = 1 << 30


def plan(free, shape=(1_000_000, 1_000_000), nnz=50_000_000, R=8, B=64):
    return _backends.plan_training(free, shape, nnz, 100, R, B, 1024)


def test_the_plan_fits_the_memory():
    assert plan(8 * GB) == (8, True)
    assert plan(2 * GB, nnz=5_000_000) == (4, True)
    assert plan(2 * GB, nnz=10**9) == (3, False)
    assert plan(8 * GB, shape=(100_000, 10_000), nnz=None) == (8, True)
    assert plan(8 * GB, shape=(1_000_000, 10_000), nnz=None) == (8, False)


def test_the_plan_leaves_room_for_a_batch():
    assert plan(8 * GB, nnz=10**11 // 50, B=32) == (8, False)
    with pytest.raises(MemoryError, match="smaller batch_size"):
        plan(8 * GB, nnz=10**11)
    with pytest.raises(MemoryError, match="smaller batch_size"):
        plan(8 * GB, nnz=None)


def test_a_plan_that_cannot_fit_names_sizes_that_do():
    with pytest.raises(MemoryError, match="n_buckets=256 fits") as error:
        plan(int(2.0 * GB), B=1024)
    assert "5." in str(error.value) and "2.15 GB" in str(error.value)
    assert plan(int(2.0 * GB), B=256)[0] >= 1
    with pytest.raises(MemoryError, match="fewer features"):
        plan(GB // 2)
