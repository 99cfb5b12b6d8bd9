"""Fits on real clusters of this machine: Dask, Ray, and joblib's own processes."""

import os
import pickle
import signal
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from learners import learner, needs_compilation, problem
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB

from sklearn_mach import MACHClassifier, _sgd, _steps, _tasks, _training
from sklearn_mach._progress import SilentTask
from sklearn_mach._targets import Targets

pytestmark = [
    # Engines leave sockets, files and processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def needs(module):
    """Skip without the engine, but not where .ci/run has installed it."""
    if os.environ.get("NEEDS_CLUSTERS"):
        return __import__(module)
    return pytest.importorskip(module)


@pytest.fixture(scope="module")
def dask_workers():
    """A client of them."""
    needs("distributed")
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def ray_workers():
    ray = needs("ray")
    from ray.util.joblib import register_ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        # so that workers find this module
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    register_ray()
    yield ray
    ray.shutdown()


@pytest.fixture(params=["dask", "ray"])
def engine(request):
    """The name of joblib's backend, of two workers that are there."""
    workers = request.getfixturevalue(f"{request.param}_workers")
    if request.param == "dask":  # those that a test has killed are started again
        workers.wait_for_workers(2)
    return request.param


def parts_of(model):
    """All arrays that a fit has made."""
    if hasattr(model, "coef_"):
        return [model.bucket_table_, model.coef_, model.intercept_]
    fitted = [model.bucket_table_]
    for estimator in model.estimators_:
        each = estimator if isinstance(estimator, list) else [estimator]
        for one in each:
            fitted += [v for _, v in sorted(vars(one).items()) if hasattr(v, "shape")]
    return fitted


def assert_same_bits(one, other):
    pairs = list(zip(parts_of(one), parts_of(other), strict=True))
    assert len(pairs) > 2
    for a, b in pairs:
        assert (a.dtype, np.shape(a)) == (b.dtype, np.shape(b))
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert not isinstance(a, np.ndarray) or a.flags.writeable == b.flags.writeable


def rows(n=1_200, d=30, n_classes=20, several=False):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.4)
    if several:
        return X, (X[:, :n_classes] > 0.8).astype(int)
    return X, X[:, :n_classes].argmax(axis=1)


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("base", [None, SGDClassifier(loss="log_loss")])
def test_a_fit_has_the_bits_of_a_local_one(engine, base, sparse, several):
    X, y = rows(several=several)
    X = sp.csr_matrix(X) if sparse else X
    sizes = dict(n_repetitions=5, n_buckets=8, random_state=0)
    local = MACHClassifier(base, **sizes).fit(X, y)
    with joblib.parallel_config(engine, n_jobs=-1):
        there = MACHClassifier(base, **sizes).fit(X, y)
    assert_same_bits(local, there)


class Killer(SilentTask):
    """Kills processes in the second epoch of the block that begins with repetition 0.

    The first time only, of which the file is the mark; pids: which, beside its own.
    """

    def __init__(self, mark, pids, first):
        self.mark, self.pids, self.first, self.epoch = mark, pids, int(first), 0

    def begin_epoch(self):
        self.epoch += 1
        if self.first == 0 and self.epoch == 2:
            kill_once(self.mark, self.pids)


def kill_once(mark, pids=None):
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return
    for pid in {*(pids or ())} - {os.getpid()}:
        os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class KillingNB(GaussianNB):
    """A classifier whose first fit of all ends its process."""

    def __init__(self, mark=None):
        super().__init__()
        self.mark = mark

    def fit(self, X, y, sample_weight=None):
        if self.mark is not None:
            kill_once(self.mark)
        return super().fit(X, y, sample_weight)


def train(task, n_jobs):
    """Weights and intercepts of three repetitions, trained by the inner function."""
    X, y, _, table = problem()
    X, table = sp.csr_matrix(X), table.astype(np.uint8)
    targets = Targets.of(y.astype(np.int32))
    options = learner(table, max_iter=4).get_params(deep=False)
    settings, _ = _steps.make_settings(X, targets, None, options, 0)
    W, b = np.zeros((7, 9), np.float32), np.zeros(9, np.float32)
    n_epochs = _training.train_all(
        X, targets, table, W, b, 0, True, settings, n_jobs, task
    )
    assert n_epochs == 4
    return W, b


def killer(mark, pids=None):
    return lambda first: Killer(mark, pids, first)


# Dask's memory manager may have dropped the copy of the rows on the other worker.
@pytest.mark.filterwarnings("ignore:DaskDistributedBackend lost a worker:UserWarning")
def test_the_built_in_learner_survives_a_killed_worker(engine, tmp_path):
    expected = train(SilentTask, 1)
    with joblib.parallel_config(engine, n_jobs=-1):
        found = train(killer(tmp_path / "killed"), None)
    assert (tmp_path / "killed").exists()
    for one, other in zip(expected, found, strict=True):
        assert_array_equal(one, other)


# Dask's memory manager may have dropped the copy of the rows on the other worker.
@pytest.mark.filterwarnings("ignore:DaskDistributedBackend lost a worker:UserWarning")
def test_base_classifiers_survive_a_killed_worker(engine, tmp_path):
    X, y = rows()
    sizes = dict(n_repetitions=5, n_buckets=8, random_state=0)
    local = MACHClassifier(GaussianNB(), **sizes).fit(X, y)
    with joblib.parallel_config(engine, n_jobs=-1):
        there = MACHClassifier(KillingNB(tmp_path / "killed"), **sizes).fit(X, y)
    assert (tmp_path / "killed").exists()
    assert_same_bits(local, there)


def test_all_workers_of_dask_may_be_killed(dask_workers, tmp_path):
    expected = train(SilentTask, 1)
    dask_workers.wait_for_workers(2)
    pids = list(dask_workers.run(os.getpid).values())
    with joblib.parallel_config("dask"), pytest.warns(UserWarning, match="lost") as w:
        found = train(killer(tmp_path / "killed", pids), None)
    assert "trained again" in str(w[0].message)
    for one, other in zip(expected, found, strict=True):
        assert_array_equal(one, other)


def test_processes_of_loky_may_be_killed(tmp_path):
    expected = train(SilentTask, 1)
    with joblib.parallel_config("loky"), pytest.warns(UserWarning, match="lost"):
        found = train(killer(tmp_path / "killed"), 2)
    for one, other in zip(expected, found, strict=True):
        assert_array_equal(one, other)


class Counted:
    """An array that writes down which process pickles and unpickles it."""

    def __init__(self, array, log):
        self.array, self.log = array, str(log)

    def __getstate__(self):
        note(self.log, "pickled")
        return self.__dict__

    def __setstate__(self, state):
        self.__dict__ |= state
        note(self.log, "unpickled")


def note(log, what):
    with open(log, "a") as file:
        file.write(f"{what} {os.getpid()}\n")


def use(shared, i):
    """What a task found: its process, a sum, and whether it might write."""
    array = shared[0].array
    return os.getpid(), i + array.sum(), array.flags.writeable


def test_rows_are_sent_once_a_worker(engine, tmp_path):
    log = tmp_path / "log"
    array, n_tasks = np.arange(200_000.0), 8
    with joblib.parallel_config(engine, n_jobs=-1):
        shared = Counted(array, log), "and other things"
        found = _tasks.run_tasks(use, shared, [(i,) for i in range(n_tasks)], None)
    pids, sums, writeable = zip(*found, strict=True)
    assert_array_equal(sums, array.sum() + np.arange(n_tasks))
    assert os.getpid() not in pids
    lines = [line.split() for line in log.read_text().splitlines()]
    here = [what for what, pid in lines if int(pid) == os.getpid()]
    there = [pid for what, pid in lines if what == "unpickled"]
    if engine == "dask":
        assert len(there) == len(set(there)) == 2  # a worker has it only once
        assert here.count("pickled") == 1
    else:  # in memory that the node's workers map, and therefore read-only
        assert here == ["pickled"]
        assert not any(writeable)


class FailingNB(GaussianNB):
    def fit(self, X, y, sample_weight=None):
        raise ValueError("This classifier fails.")


class FailingTask(SilentTask):
    def begin_epoch(self):
        raise ValueError("This block fails.")


def test_errors_of_tasks_are_raised_as_they_are(engine):
    X, y = rows(n=100)
    model = MACHClassifier(FailingNB(), n_repetitions=4, n_buckets=8)
    with joblib.parallel_config(engine, n_jobs=-1):
        with pytest.raises(ValueError, match="^This classifier fails.$"):
            model.fit(X, y)
        with pytest.raises(ValueError, match="^This block fails.$"):
            train(FailingTask, None)


def test_a_search_sends_whole_fits(engine):
    X, y = rows(n=300)
    sizes = dict(n_repetitions=3, random_state=0)
    search = GridSearchCV(MACHClassifier(**sizes), {"n_buckets": [4, 8]}, cv=2)
    expected = clone(search).fit(X, y)
    with joblib.parallel_config(engine, n_jobs=-1):
        search.fit(X, y)
    for name in ("split0_test_score", "split1_test_score"):
        assert_array_equal(search.cv_results_[name], expected.cv_results_[name])
    assert_same_bits(search.best_estimator_, expected.best_estimator_)


def test_weights_go_with_the_rows_and_blocks_go_on(engine):
    X, y = rows()
    X, weight = sp.csr_matrix(X), 1.0 + np.arange(len(y)) % 3
    local = MACHClassifier(n_repetitions=4, n_buckets=8, random_state=0)
    there = clone(local)
    for part in (slice(0, 600), slice(600, None)):
        block = dict(classes=np.arange(20), sample_weight=weight[part])
        local.partial_fit(X[part], y[part], **block)
        with joblib.parallel_config(engine, n_jobs=-1):
            there.partial_fit(X[part], y[part], **block)
    assert_same_bits(local, there)


@needs_compilation
@pytest.mark.parametrize("kind", ["float32", "16 bits", "dense"])
def test_rows_that_are_read_only_compile_nothing_anew(kind, request):
    if kind == "16 bits":
        request.getfixturevalue("sixteen_bits")
    X, y, weight, table = problem()
    X = X if kind == "dense" else sp.csr_matrix(X)
    options = learner(table, max_iter=2, batch_size=4, learning_rate="auto").get_params(
        deep=False
    )
    targets = Targets.of(y.astype(np.int32))
    settings, _ = _steps.make_settings(X, targets, weight, options, 0, n_columns=9)
    assert (settings.unit is not None) == (kind == "16 bits")
    shared, found, compiled = (X, targets, table.astype(np.uint8), settings), [], []
    for given in (shared, frozen(shared)):
        W, b = np.zeros((7, 9), np.float32), np.zeros(9, np.float32)
        columns = _training.Columns(W, b, 0, 9, True)
        _training._train_task(given, SilentTask(), np.arange(3), columns)
        found.append((W, b))
        kernels = [k for k in vars(_sgd).values() if hasattr(k, "signatures")]
        compiled.append([len(kernel.signatures) for kernel in kernels])
    assert compiled[0] == compiled[1]
    assert sum(compiled[0]) > 0
    for one, other in zip(*found, strict=True):
        assert_array_equal(one, other)


def frozen(shared):
    """As a worker of Ray gets it: arrays in memory that cannot be written."""
    buffers = []
    content = pickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(content, buffers=[bytes(each.raw()) for each in buffers])
