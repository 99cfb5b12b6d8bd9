"""
Time of training
================

How far the built-in learner is from its floor. An epoch on sparse rows must read and
write once the weights that the non-zeros touch; a bare kernel that does only this, in
the same order, runs beside it. On dense rows the floor is NumPy's matrix product. Each
figure is a median and is printed beside the bar it is held to.

    python examples/bench_fit.py [--quick] [--odp] [--data FOLDER]

``--data`` adds a folder with ``train.npz`` (data, indices, indptr, shape, y) to the
synthetic rows with Zipf-distributed columns. ``--odp`` also fits the shape of the Open
Directory set, 1,084,404 rows, 422,713 columns and 105,033 classes.
"""

import argparse
import os
import platform
import time
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numba
import numpy as np
import scipy.sparse as sp
from joblib import Parallel, delayed
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from sklearn_mach import MACHClassifier, _hashing, _steps, _training
from sklearn_mach._targets import Targets
from sklearn_mach.datasets import make_many_classes

B = 32
N_EPOCHS = 3
OPTIONS = {
    "learning_rate": 1.0,
    "max_iter": 1,
    "alpha": 0.0,
    "batch_size": "auto",
    "tol": None,
    "early_stopping": False,
    "validation_fraction": 0.1,
    "n_iter_no_change": 5,
    "verbose": 0,
}


@numba.njit(nogil=True)
def read_and_rewrite(data, indices, indptr, order, W, lo, hi):
    """Read and write the columns lo:hi of W that the non-zeros touch, row by row."""
    for i in order:
        for p in range(indptr[i], indptr[i + 1]):
            w = W[indices[p], lo:hi]
            v = data[p]
            for q in range(w.shape[0]):
                w[q] += v


def bare_epoch(X, W, n_jobs):
    data = X.data if W.dtype == np.float32 else np.ones(X.nnz, W.dtype)
    order = np.random.default_rng([0, 0]).permutation(X.shape[0])
    edges = np.linspace(0, W.shape[1] // B, n_jobs + 1).astype(int) * B
    Parallel(n_jobs, prefer="threads")(
        delayed(read_and_rewrite)(data, X.indices, X.indptr, order, W, lo, hi)
        for lo, hi in zip(edges[:-1], edges[1:], strict=True)
    )


def seconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def sparse_rows(name, X, y, repeats):
    n_classes = int(y.max()) + 1
    targets = Targets.of(y)
    options = OPTIONS | {"max_iter": N_EPOCHS}
    floats, _ = _steps.make_settings(X, targets, None, options, 0)
    options |= {"learning_rate": "auto"}
    for n_columns in (256, 800, 2048):
        integers, _ = _steps.make_settings(
            X, targets, None, options, 0, n_columns=n_columns
        )
        table = _hashing.draw_table(n_classes, B, range(n_columns // B))
        W, b = np.zeros((X.shape[1], n_columns), np.float32), np.zeros(n_columns)
        b = b.astype(np.float32)
        bare_epoch(X, W, 1)  # compiles, and touches every page of W
        for settings in (floats, integers):
            few = settings._replace(train=settings.train[:100])
            _training.train_all(X, targets, table, W, b, 0, False, few, 1)
        for n_jobs in (1, 2):
            times = []
            for _ in range(repeats):
                times.append([seconds(bare_epoch, X, W, n_jobs)])
                for settings in (floats, integers):
                    W[:], b[:] = 0, 0
                    args = (X, targets, table, W, b, 0, True, settings, n_jobs)
                    times[-1].append(seconds(_training.train_all, *args) / N_EPOCHS)
            bare, ours, short = np.median(times, axis=0) / X.shape[0] * 1e6
            rate = 8 * n_columns * X.nnz / X.shape[0] / bare / 1e3
            bar = "<= 1.5" if n_columns >= 800 else "-"
            print(
                f"{name:12} R B {n_columns:5} threads {n_jobs}: bare {bare:6.2f} us a "
                f"row ({rate:4.1f} GB/s), float32 {ours:6.2f}, ratio "
                f"{ours / bare:4.2f} (bar {bar}), 16 bits {short:6.2f}, ratio "
                f"{short / bare:4.2f}",
                flush=True,
            )


def dense_rows(repeats, n_samples=4096, n_columns=512):
    for n_features in (512, 2048, 8192):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((n_samples, n_features), dtype=np.float32)
        X = normalize(X)
        y = rng.integers(0, 1000, n_samples).astype(np.int32)
        table = _hashing.draw_table(1000, B, range(n_columns // B))
        options = OPTIONS | {"batch_size": 128}
        targets = Targets.of(y)
        settings, _ = _steps.make_settings(X, targets, None, options, 0)
        W = np.zeros((n_features, n_columns), np.float32)
        b = np.zeros(n_columns, np.float32)
        args = (X, targets, table, W, b, 0, False, settings, 1)
        _training.train_all(*args)
        gemm, ours = [], []
        for _ in range(repeats):
            with threadpool_limits(1, "blas"):
                gemm.append(seconds(np.matmul, X, W))
            ours.append(seconds(_training.train_all, *args))
        flops = 2 * n_samples * n_features * n_columns
        rates = flops / median(gemm) / 1e9, 2 * flops / median(ours) / 1e9
        print(
            f"dense d {n_features:5}: {rates[1]:5.1f} GFLOP/s, NumPy's product "
            f"{rates[0]:5.1f}, share {rates[1] / rates[0]:.2f} (bar >= 0.70)",
            flush=True,
        )


def odp():
    X, y = make_many_classes(1_084_404, 422_713, 105_033, random_state=0)
    n_bytes = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    model = MACHClassifier(
        n_repetitions=25, n_buckets=32, max_iter=5, n_jobs=2, random_state=0
    )
    MACHClassifier(n_buckets=32, n_repetitions=25, max_iter=1).fit(
        X[:12_000], y[:12_000]
    )
    _forget_peak()
    before = _peak()
    trainings, train = [], _training.train

    def timed(*args):  # a block of repetitions
        start = time.perf_counter()
        result = train(*args)
        trainings.append(time.perf_counter() - start)
        return result

    with patch.object(_training, "train", timed):
        elapsed = seconds(model.fit, X, y)
    weights, epoch = model.model_bytes_, max(trainings) / 5
    peak = _peak() - before + n_bytes
    del model
    W = np.zeros((X.shape[1], 25 * 32), np.int16)
    bare_epoch(X, W, 2)  # compiles, and touches every page
    bare = median(seconds(bare_epoch, X, W, 2) for _ in range(3))
    print(
        f"shape of ODP, R=25, B=32, five epochs, two threads: {elapsed:.0f} s "
        f"(bar <= 100), {epoch:.1f} s an epoch, {epoch / bare:.2f} x a bare read and "
        f"rewrite of 16 bits, {bare:.1f} s (bar <= 1.25), all else "
        f"{elapsed - 5 * epoch:.1f} s (bar <= 8), "
        f"model {weights / 1e6:.0f} MB, X {n_bytes / 1e6:.0f} MB, "
        f"peak of fit {peak / (weights + n_bytes):.2f} x (X + weights) (bar <= 1.10)"
    )


def _peak():
    """Peak memory of this process in bytes since `_forget_peak`; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return float("nan")


def _forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--odp", action="store_true")
    parser.add_argument("--data")
    args = parser.parse_args()
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, numba "
        f"{numba.__version__}, {os.cpu_count()} cores"
    )
    if args.odp:
        odp()
    repeats, n_samples = (1, 4_000) if args.quick else (3, 20_000)
    X, y = make_many_classes(n_samples, 422_713, 10_000, random_state=0)
    sparse_rows("Zipf columns", X, y.astype(np.int32), repeats)
    if args.data:
        part = np.load(os.path.join(args.data, "train.npz"))
        X = sp.csr_matrix(
            (part["data"], part["indices"], part["indptr"].astype(np.int32)),
            shape=tuple(part["shape"]),
        )
        X, y = normalize(X[:n_samples]), part["y"][:n_samples]
        sparse_rows("real columns", X, y.astype(np.int32), repeats)
    dense_rows(repeats)


if __name__ == "__main__":
    main()
