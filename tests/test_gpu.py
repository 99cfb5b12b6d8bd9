"""The GPU's learner: one body of tests for all devices, against slow references.

"host" is the code of the GPU on a stand-in for CuPy, its kernels compiled by g++;
"cuda" is a real GPU.
"""

from types import SimpleNamespace

import cuda_on_host
import numpy as np
import pytest
import reference
import scipy.sparse as sp
from learners import SEED, TOLERANCE, learner, order_seed, orders, problem
from numpy.testing import assert_allclose, assert_array_equal
from test_dense import record_starts

from sklearn_mach import _cuda, _steps, _training
from sklearn_mach._backends import backend
from sklearn_mach._losses import Sigmoid, Softmax
from sklearn_mach._targets import Targets


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("alpha", [0, 0.05])
def test_epochs_equal_the_reference(device, sparse, batch_size, alpha):
    if sparse and batch_size > 1 and device == "cpu":
        pytest.skip("the CPU takes a step for each row of a sparse X")
    X, y, weight, table = problem()
    model = learner(
        table, device=device, max_iter=3, batch_size=batch_size, alpha=alpha
    )
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight)
    assert model.device_ == device
    weight = weight / weight.mean()
    W, b, _ = reference.sgd_fit(
        X,
        y,
        table,
        3,
        orders(3, np.arange(len(y))),
        0.3 * weight,
        weight,
        batch_size=batch_size,
        bias=reference.mean_length(X, weight),
        penalty=0.3 * alpha,
        bound=2.0 if sparse and device == "cuda" else np.inf,
    )
    assert_allclose(model.coef_, W, **TOLERANCE)
    assert_allclose(model.intercept_, b, **TOLERANCE)


def several_classes():
    """Rows, the classes of each (none to three), and the table."""
    X, _, weight, table = problem()
    rng = np.random.default_rng(1)
    # Two classes of a row may share a bucket.
    classes = [rng.choice(6, n, replace=False) for n in rng.permutation(30) % 4]
    return X, classes, weight / weight.mean(), table


def train(X, classes, table, device, weight, **options):
    """An epoch from zero weights: W (R, B, d), b (R, B) and the mean loss."""
    n, d = X.shape
    settings = SimpleNamespace(
        loss=Softmax(),
        step=(0.3 * weight).astype(np.float32),
        weight=weight.astype(np.float32),
        visited=lambda rows: rows,
        gain=np.ones(d, np.float32),
        past=np.zeros(d + 1, np.float32),
        slow=np.zeros(d + 1, np.float32),
        decay=[(1, 0.5)],
        seed=SEED,
        tol=None,
        train=np.arange(n),
        held=np.arange(0),
        early_stopping=False,
        metric=None,
        verbose=1,
        **options,
    )
    losses = []

    def report(epoch, part, loss, *others):
        losses.append(loss)

    starts = np.cumsum([0, *map(len, classes)])
    targets = Targets(starts, np.concatenate(classes).astype(np.int32))
    W, b = np.zeros((d, 9), np.float32), np.zeros(9, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda.modules().training, "report_epoch", report)
        train_all = backend(device).train_all
        assert train_all(X, targets, table, W, b, 0, True, settings, 1) == 1
    return W.T.reshape(3, 3, d), b.reshape(3, 3), losses[0]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("penalty", [0, 0.01])
def test_rows_of_several_classes_and_of_none_equal_the_reference(
    device, sparse, batch_size, streamed, penalty, monkeypatch
):
    if device == "cpu":
        pytest.skip("the CPU's kernels are tested where they are")
    X, classes, weight, table = several_classes()
    if streamed:
        monkeypatch.setattr(_cuda.modules().training, "_ENTRIES", 30)
        monkeypatch.setattr(_cuda, "plan_training", lambda *args: (3, False))
    options = dict(batch_size=batch_size, penalty=penalty, bias=2.0)
    rows = sp.csr_matrix(X) if sparse else X
    found = train(rows, classes, table, device, weight, **options)
    # A row is as many rows as it has classes, which share its step, in one batch.  One
    # without classes has a step of zero, with any class.
    W, b, total = np.zeros((3, 3, 7)), np.zeros((3, 3)), 0
    order = np.random.default_rng([SEED, 0]).permutation(30)
    for start in range(0, 30, batch_size):
        batch = order[start : start + batch_size]
        triples = [(i, c, 1 / len(classes[i])) for i in batch for c in classes[i]]
        triples += [(i, 0, 0) for i in batch if not len(classes[i])]
        i, c, share = map(np.array, zip(*triples, strict=True))
        loss = reference.sgd_epoch(
            X[i],
            c,
            table,
            W,
            b,
            np.arange(len(i)),
            0.3 * weight[i] * share,
            np.full(2, 1 - 0.5 * start / 30),
            batch_size=len(i),
            bias=2.0,
            penalty=penalty * len(batch) / len(i),
            bound=2.0 if sparse else np.inf,
        )
        total += (weight[i] * share) @ loss
    assert_allclose(found[0], W, **TOLERANCE)
    assert_allclose(found[1], b, **TOLERANCE)
    assert_allclose(found[2], total.mean() / weight.sum(), rtol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_class_named_twice_gives_the_bits_of_once(device, sparse):
    if device == "cpu":
        pytest.skip("the CPU's kernels are tested where they are")
    X, y, weight, table = problem()
    rows = sp.csr_matrix(X) if sparse else X
    once, twice = (
        train(
            rows,
            np.repeat(y[:, None], n, axis=1),
            table,
            device,
            weight,
            batch_size=4,
            penalty=0,
            bias=2.0,
        )
        for n in (1, 2)
    )
    for a, b in zip(once, twice, strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("alpha", [0, 0.05])
def test_sigmoids_equal_the_reference(
    device, sparse, batch_size, turns, alpha, monkeypatch
):
    if device == "cpu" and (turns == 2 or (sparse and batch_size > 1)):
        pytest.skip("the CPU has no turns, and a step for each row of a sparse X")
    if turns == 2:  # and rows in chunks
        monkeypatch.setattr(_cuda.modules().training, "_ENTRIES", 30)
        monkeypatch.setattr(_cuda, "plan_training", lambda *args: (2, False))
    X, classes, weight, table = several_classes()
    rows = sp.csr_matrix(X) if sparse else X
    parameters = dict(max_iter=2, alpha=alpha, batch_size=batch_size, verbose=1)
    options = learner(table, **parameters).get_params(deep=False)
    starts = np.cumsum([0, *map(len, classes)])
    targets = Targets(starts, np.concatenate(classes).astype(np.int32), True)
    settings, _ = _steps.make_settings(
        rows, targets, weight.astype(np.float32), options, SEED
    )
    assert isinstance(settings.loss, Sigmoid)
    # Intercepts begin elsewhere than at zero, as log odds of the buckets do.
    start = np.random.default_rng(2).standard_normal((3, 3)).astype(np.float32)
    found_W, found_b = np.zeros((7, 9), np.float32), start.ravel().copy()
    found = []
    module = _training if device == "cpu" else _cuda.modules().training
    monkeypatch.setattr(module, "report_epoch", lambda *args: found.append(args[2]))
    args = rows, targets, table, found_W, found_b, 0, True, settings, 1
    assert backend(device).train_all(*args) == 2
    W, b, losses = np.zeros((3, 3, 7)), start.astype(float), []
    for epoch, decay in enumerate([(1, 0.5), (0.5, 0)]):
        order = np.random.default_rng([SEED, epoch]).permutation(30)
        loss = reference.sgd_epoch(
            X,
            classes,
            table,
            W,
            b,
            order,
            0.3 * weight,
            decay,
            batch_size=batch_size,
            bias=reference.mean_length(X, weight),
            penalty=0.3 * alpha,
            bound=2.0 if sparse and device == "cuda" else np.inf,
            loss_of=reference.sigmoid_loss,
        )
        losses.append(weight[order] @ loss / weight.sum())
    assert_allclose(found_W.T.reshape(3, 3, 7), W, **TOLERANCE)
    assert_allclose(found_b.reshape(3, 3), b, **TOLERANCE)
    by_turn = np.array_split(np.transpose(losses), turns)
    expected = np.concatenate([loss.mean(axis=0) for loss in by_turn])
    assert_allclose(found, expected, rtol=1e-5)


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
        monkeypatch.setattr(_cuda.modules().training, "_ENTRIES", 30)
        monkeypatch.setattr(_cuda, "plan_training", lambda *args: (2, False))
    started = record_starts(monkeypatch)
    model = learner(
        table,
        device=device,
        max_iter=3,
        learning_rate="auto",
        batch_size=batch_size,
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
        orders(3, rows),
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
    model = learner(table, device=device, batch_size=batch_size, learning_rate=0.1)
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
        device=device,
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
        shuffled = np.random.default_rng([order_seed()]).permutation(train)
        validation, train = shuffled[:9], shuffled[9:]
    W, b, n_iter = reference.sgd_fit(
        X,
        y,
        table,
        3,
        orders(25, train),
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


def fitted(X, y, table, **parameters):
    model = learner(table, device="cuda", max_iter=2, batch_size=4, **parameters).fit(
        X, y
    )
    return model.coef_.copy(), model.intercept_.copy()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_streamed_in_chunks_give_the_same_weights(
    host_gpu, monkeypatch, sparse, dtype
):
    X, y, _, table = problem()
    X = sp.csr_matrix(X, dtype=dtype) if sparse else X.astype(dtype)
    whole = fitted(X, y, table)
    monkeypatch.setattr(host_gpu.training, "_ENTRIES", 30)
    monkeypatch.setattr(host_gpu.kernels, "_PIECE", 16)
    monkeypatch.setattr(_cuda, "plan_training", lambda *args: (2, False))
    for a, b in zip(whole, fitted(X, y, table), strict=True):
        # BLAS sums of a dense X depend on the columns that stand beside a column.
        assert_allclose(a, b, rtol=0 if sparse else 1e-5, atol=0 if sparse else 1e-6)


@pytest.mark.parametrize("resident", [False, True])
def test_float16_rows_give_the_model_of_the_same_numbers_as_float32(
    host_gpu, monkeypatch, resident
):
    X, y, _, table = problem()
    X = X.astype(np.float16)
    monkeypatch.setattr(_cuda, "plan_training", lambda *args: (2, resident))
    expected = learner(table, device="cuda", max_iter=2).fit(X.astype(np.float32), y)
    model = learner(table, device="cuda", max_iter=2).fit(X, y)
    assert_array_equal(model.coef_, expected.coef_)
    for method in ("predict", "predict_topk", "predict_proba"):
        found = getattr(model, method)(X)
        assert_array_equal(found, getattr(expected, method)(X.astype(np.float32)))


def test_several_devices_and_turns_change_no_bit(host_gpu, monkeypatch):
    X, y, _, table = problem()
    X = sp.csr_matrix(X)
    one = fitted(X, y, table)
    monkeypatch.setattr(cuda_on_host.Device, "count", 2)
    # Kernels on one thread.
    monkeypatch.setattr(host_gpu.training, "ThreadPoolExecutor", InTurn)
    for a, b in zip(one, fitted(X, y, table), strict=True):
        assert_array_equal(a, b)
    assert learner(table, device="cuda:1", max_iter=1).fit(X, y).device_ == "cuda:1"


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
    all_at_once = learner(table, device=device, max_iter=2, batch_size=1).fit(rows, y)
    model = learner(
        table[:, :2], device=device, max_iter=2, batch_size=1, warm_start=True
    )
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


@pytest.mark.parametrize("sparse", [False, True])
def test_callbacks_are_told_of_turns_and_their_epochs(host_gpu, monkeypatch, sparse):
    pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")
    X, y, _, table = problem()
    X = sp.csr_matrix(X) if sparse else X
    monkeypatch.setattr(_cuda, "plan_training", lambda *args: (2, True))
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
    model = learner(table, device="cuda", max_iter=2, batch_size=4)
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
    monkeypatch.setattr(_cuda, "plan_training", lambda *args: (2, True))
    learner(table, device="cuda", max_iter=2, verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"part {part}/2, epoch {epoch}/2" for part in (1, 2) for epoch in (1, 2)
    ]
    assert all("training loss" in line and "s left" in line for line in lines)


def test_overflow_is_reported(host_gpu):
    X, y, _, table = problem()
    model = learner(table, device="cuda", learning_rate=1e30)
    with pytest.raises(ValueError, match="overflowed"):
        model.fit(X * 1e10, y)
