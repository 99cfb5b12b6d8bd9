"""GPUs as a kind of device: when they are taken, and what fits in their memory."""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from learners import learner, problem
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach import MACHClassifier, _cuda


def test_auto_takes_a_gpu_for_large_problems_only(host_gpu, monkeypatch):
    X, y, _, table = problem()
    assert learner(table, device="auto", max_iter=1).fit(X, y).device_ == "cpu"
    monkeypatch.setattr(_cuda, "LEAST_WORK", X.size * 9)
    assert learner(table, device="auto", max_iter=1).fit(X, y).device_ == "cuda"


def test_a_base_estimator_takes_no_gpu(host_gpu):
    from sklearn.naive_bayes import GaussianNB

    X, y, _, table = problem()
    model = MACHClassifier(GaussianNB(), device="cuda")
    with pytest.raises(ValueError, match="device='cuda' is for the built-in learner"):
        model.fit(X, y)
    assert model.set_params(device="auto").fit(X, y).device_ == "cpu"


def test_a_model_of_a_gpu_predicts_without_one(host_gpu, monkeypatch):
    X, y, _, table = problem()
    X = sp.csr_matrix(X)
    model = learner(table, device="cuda", max_iter=2).fit(X, y)
    labels, scores = model.predict_topk(X, 6, return_scores=True)
    copies = model._fitted.model.scorer._copies
    assert list(copies) == [("cuda", 0)]
    copy = pickle.loads(pickle.dumps(model))
    assert copy._fitted.model.scorer._copies == {}
    model.device_ = "cpu"
    model.predict(X)
    assert copies == {}  # the memory of the device is given back

    def missing():
        raise ValueError("no GPU is visible")

    monkeypatch.setattr(_cuda, "modules", missing)
    elsewhere = copy.predict_topk(X, 6, return_scores=True)
    assert_allclose(elsewhere[1], scores, rtol=1e-5, atol=1e-6)  # float32 sums
    # Classes of nearly equal scores may change places, others may not.
    clear = np.diff(-scores, axis=1, prepend=-np.inf, append=np.inf) > 1e-5
    clear = clear[:, :-1] & clear[:, 1:]
    assert_array_equal(elsewhere[0][clear], labels[clear])
    with pytest.raises(ValueError, match="device='cuda' cannot be used: no GPU"):
        copy.fit(X, y)


def test_merges_that_the_gpu_does_not_know_are_the_cpus():
    searches = _cuda.Scorer(None).searches
    assert searches(5, "sum") and searches(5, "min")
    for k, merge in ((5, "median"), (5, "one of tomorrow"), (33, "sum")):
        assert not searches(k, merge)


def test_a_gpu_refuses_a_loss_that_it_does_not_have():
    settings = SimpleNamespace(loss="hinge")
    with pytest.raises(ValueError, match="GPU has no gradient of 'hinge'"):
        _cuda.train_all(None, *[None] * 7, settings, None)


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
        "labels": {
            "train": (100, 60, 20),
            "n_labels": 3,
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
    assert printed.count("peak memory of the device") == 4


GB = 1 << 30


def plan(free, shape=(1_000_000, 1_000_000), nnz=50_000_000, R=8, B=64):
    return _cuda.plan_training(free, shape, nnz, 100, R, B, 1024)


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
