"""Repetitions that stop, tasks that fail, and training that goes on."""

import pickle
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from learners import learner, needs_compilation, order_seed, orders, problem
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach import MACHClassifier, _steps, _training
from sklearn_mach._progress import SilentTask
from sklearn_mach._rows import rows_of
from sklearn_mach._targets import Targets
from sklearn_mach.datasets import make_many_classes


def separable(n=36, seed=0):
    """Rows on which the repetitions reach their best loss at different epochs."""
    rng = np.random.default_rng(seed)
    X, y, weight, table = problem(n=n, seed=seed)
    X[np.arange(n), y % X.shape[1]] += 3 * (y % 3 == 0)
    return X + 0.1 * rng.standard_normal(X.shape), y, weight, table


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("alpha", [0, 0.02])
def test_a_repetition_that_no_longer_improves_keeps_its_weights(sparse, alpha):
    X, y, weight, table = separable()
    model = learner(
        table, max_iter=25, tol=0.03, n_iter_no_change=2, batch_size=3, alpha=alpha
    )
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight)
    weight /= weight.mean()
    W, b, n_iter = reference.sgd_fit(
        X,
        y,
        table,
        3,
        orders(25, np.arange(len(y))),
        0.3 * weight,
        weight,
        tol=0.03,
        n_iter_no_change=2,
        batch_size=1 if sparse else 3,
        bias=reference.mean_length(X, weight),
        penalty=0.3 * alpha,
    )
    assert np.unique(n_iter).size > 1  # or the test would say nothing
    assert n_iter.max() < 25
    assert model.n_iter_ == n_iter.max()
    # Twenty epochs of larger rows: ten times the tolerance of a few epochs.
    assert_allclose(model.coef_, W, rtol=1e-3, atol=3e-4)
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_early_stopping_watches_rows_set_aside(sparse):
    X, y, weight, table = separable()
    model = learner(
        table,
        max_iter=25,
        tol=0.02,
        n_iter_no_change=2,
        batch_size=1,
        early_stopping=True,
        validation_fraction=0.25,
    )
    model.fit(sp.csr_matrix(X) if sparse else X, y, weight)
    weight /= weight.mean()
    seed = order_seed()
    shuffled = np.random.default_rng([seed]).permutation(np.arange(len(y)))
    validation, train = shuffled[:9], shuffled[9:]
    W, b, n_iter = reference.sgd_fit(
        X,
        y,
        table,
        3,
        orders(25, train),
        0.3 * weight,
        weight,
        tol=0.02,
        n_iter_no_change=2,
        validation=validation,
        bias=reference.mean_length(X, weight),
    )
    assert n_iter.max() < 25
    assert model.n_iter_ == n_iter.max()
    assert_allclose(model.coef_, W, rtol=1e-3, atol=3e-4)
    assert_allclose(model.intercept_, b, rtol=1e-3, atol=3e-4)


def test_a_tolerance_no_epoch_meets_stops_after_n_iter_no_change():
    X, y, _, table = problem()
    model = learner(table, max_iter=20, tol=1e6, n_iter_no_change=3).fit(X, y)
    assert model.n_iter_ == 4  # the first epoch improves on nothing
    model.set_params(tol=None)
    assert model.fit(X, y).n_iter_ == 20


@pytest.mark.parametrize("zero", [True, False])
def test_columns_may_be_pickled_more_than_once(zero):
    W, b = np.arange(40, dtype=np.float32).reshape(5, 8), np.arange(8, dtype=np.float32)
    sent = _training.Columns(W * (not zero), b, 2, 6, zero, part=(1, 3))
    for _ in range(2):
        sent = pickle.loads(pickle.dumps(sent))
    weights, intercepts, lo = sent.arrays()
    assert_array_equal(weights, W[:, 2:6] * (not zero))
    assert_array_equal(intercepts, b[2:6])
    assert (lo, sent.part, sent.zero) == (0, (1, 3), zero)
    assert not sent.halt[0]


def test_when_one_block_fails_no_other_goes_on_to_write():
    X, y, _, table = problem()
    X, table = sp.csr_matrix(X), table.astype(np.uint8)
    targets = Targets.of(y.astype(np.int32))
    options = learner(table, max_iter=100_000).get_params(deep=False)
    settings, _ = _steps.make_settings(X, targets, None, options, 0)
    second_has_begun, running = threading.Event(), set()

    class Task(SilentTask):
        def __init__(self, first):
            self.first = int(first)

        @contextmanager
        def running(self):
            running.add(self.first)
            try:
                yield
            finally:
                running.remove(self.first)

        def begin_epoch(self):
            if self.first != 0:
                second_has_begun.set()
            elif second_has_begun.wait(60):
                raise ValueError("The first block fails.")

    W, b = np.zeros((7, 9), np.float32), np.zeros(9, np.float32)
    with pytest.raises(ValueError, match="The first block fails"):
        _training.train_all(X, targets, table, W, b, 0, True, settings, 2, Task)
    assert not running
    assert second_has_begun.is_set()


@needs_compilation
@pytest.mark.parametrize("first", [20, 200, 2_000])
def test_blocks_are_learned_as_well_as_all_rows_together(first):
    X, y = make_many_classes(
        24_000, 3_000, 400, n_nonzeros=20, signal=0.2, random_state=0
    )
    n, n_passes = 20_000, 3
    # Without the logit adjustment, which rows set aside add to `fit` alone.
    parameters = dict(n_repetitions=8, n_buckets=32, random_state=0)
    whole = MACHClassifier(**parameters, max_iter=n_passes, logit_adjustment=0)
    whole.fit(X[:n], y[:n])
    model, start, stop = MACHClassifier(**parameters), 0, first
    for _ in range(n_passes):
        while start < n:
            rows = slice(start, stop)
            model.partial_fit(X[rows], y[rows], classes=np.arange(400))
            start, stop = stop, min(stop + 2_000, n)
        start, stop = 0, 2_000
    # Accuracies of 4,000 rows have a standard error of 0.008.
    assert model.score(X[n:], y[n:]) > whole.score(X[n:], y[n:]) - 0.01


@pytest.mark.usefixtures("two_blas_threads")
@needs_compilation
@pytest.mark.parametrize("kind", ["float32", "16 bits", "dense"])
def test_fits_of_several_labels_do_not_depend_on_n_jobs(kind, request):
    if kind == "16 bits":
        request.getfixturevalue("sixteen_bits")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1_500, 40)) * (rng.random((1_500, 40)) < 0.3)
    Y = (X[:, :30] > 0.8) | (rng.random((1_500, 30)) < 0.01)
    X = X if kind == "dense" else sp.csr_matrix(X)
    fitted = []
    for n_jobs in (1, 2, 3):
        model = MACHClassifier(
            n_repetitions=5, n_buckets=16, max_iter=2, n_jobs=n_jobs, random_state=0
        )
        model.fit(X, Y.astype(int))
        arrays = model.bucket_table_, model.coef_, model.intercept_
        fitted.append((*arrays, model._fitted.memory.factor))
    for other in fitted[1:]:
        for one, another in zip(fitted[0], other, strict=True):
            assert_array_equal(one, another)


@pytest.mark.parametrize("kind", ["float32", "16 bits", "dense", "penalty"])
def test_training_goes_on_from_a_state_with_the_same_bits(kind, request):
    if kind == "16 bits":
        request.getfixturevalue("sixteen_bits")
    X, y, weight, table = separable()
    X = X if kind == "dense" else sp.csr_matrix(X)
    table, targets = table.astype(np.uint8), Targets.of(y.astype(np.int32))
    options = learner(
        table, max_iter=6, learning_rate="auto", tol=0.1, n_iter_no_change=1,
        batch_size=4, alpha=0.01 * (kind == "penalty")
    ).get_params(deep=False)  # fmt: skip
    settings, _ = _steps.make_settings(X, targets, weight, options, 0, n_columns=9)
    assert (settings.unit is not None) == (kind == "16 bits")
    given = rows_of(X), targets, table, settings

    def start():
        W, b = np.zeros((7, 9), np.float32), np.zeros(9, np.float32)
        return _training.State.first(W, b, 0, 3)

    whole = _training.run(start(), *given)
    part = _training.run(start(), *given, until=2)
    assert part.epoch == 2 < whole.epoch
    assert len(set(whole.n_iter)) > 1  # one has stopped before the others
    again = _training.run(pickle.loads(pickle.dumps(part)), *given)
    for one, other in zip(whole, again, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
    # and after the last epoch there is nothing left to do
    n_iter = _training.run(again, *given).n_iter
    assert_array_equal(n_iter, whole.n_iter)
