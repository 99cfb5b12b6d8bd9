"""Fits on real clusters of this machine: Dask, Ray, and joblib's own processes."""

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from learners import learner, problem
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB

from sklearn_mach import MACHClassifier, _steps, _tasks, _training
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
def dask_client():
    needs("distributed")
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
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
    request.getfixturevalue(f"{request.param}_{FIXTURES[request.param]}")
    return request.param


FIXTURES = {"dask": "client", "ray": "workers"}


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

    The first time only, of which the file is the mark; pids: which, or its own alone.
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
    for pid in [os.getpid()] if pids is None else pids:
        os.kill(pid, signal.SIGKILL)


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


def test_the_built_in_learner_survives_a_killed_worker(engine, tmp_path):
    expected = train(SilentTask, 1)
    with joblib.parallel_config(engine, n_jobs=-1):
        found = train(killer(tmp_path / "killed"), None)
    assert (tmp_path / "killed").exists()
    for one, other in zip(expected, found, strict=True):
        assert_array_equal(one, other)


def test_base_classifiers_survive_a_killed_worker(engine, tmp_path):
    X, y = rows()
    sizes = dict(n_repetitions=5, n_buckets=8, random_state=0)
    local = MACHClassifier(GaussianNB(), **sizes).fit(X, y)
    with joblib.parallel_config(engine, n_jobs=-1):
        there = MACHClassifier(KillingNB(tmp_path / "killed"), **sizes).fit(X, y)
    assert (tmp_path / "killed").exists()
    assert_same_bits(local, there)


def test_all_workers_of_dask_may_be_killed(dask_client, tmp_path):
    expected = train(SilentTask, 1)
    dask_client.wait_for_workers(2)
    pids = list(dask_client.run(os.getpid).values())
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
