"""
The GPU in one call
===================

Tests, accuracy against the CPU, and the time of training and prediction on an NVIDIA
GPU, in under ten minutes. Each figure is printed beside the bar it is held to.

    python examples/bench_gpu.py [--quick]

The floor of an epoch on sparse rows, if nothing is cached, is a read and a write of a
weight row for each non-zero, ``8 nnz R B`` bytes, over the bandwidth of a copy that is
measured here.
"""

import argparse
import os
import platform
import subprocess
import sys
import threading
import time

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier, _backends, _hashing, _softmax
from sklearn_mach.datasets import load_python_tokens, make_many_classes

OPTIONS = {
    "learning_rate": 1.0,
    "max_iter": 5,
    "alpha": 0.0,
    "batch_size": 1024,
    "tol": None,
    "early_stopping": False,
    "validation_fraction": 0.1,
    "n_iter_no_change": 5,
    "verbose": 0,
}


def report(what, figure, bar="-"):
    print(f"{what:<62} {figure:>18}   bar {bar}", flush=True)


def seconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def device_seconds(cupy, function, repeats=5):
    """Median time of work on the device."""
    times = []
    for _ in range(repeats + 1):  # the first is a warm-up
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        function()
        cupy.cuda.Device().synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def copy_bandwidth(cupy):
    """Bytes read and written per second by a copy on the device."""
    a = cupy.zeros(1 << 28, np.float32)
    b = cupy.empty_like(a)
    return 2 * a.nbytes / device_seconds(cupy, lambda: cupy.copyto(b, a))


def gemm_rate(cupy, n, d, width):
    """Operations per second of a float32 product of a batch and the weights."""
    a, b = cupy.ones((n, d), np.float32), cupy.ones((d, width), np.float32)
    out = cupy.empty((n, width), np.float32)
    elapsed = device_seconds(
        cupy, lambda: cupy.cublas.gemm("N", "N", a, b, out=out), repeats=10
    )
    return 2 * n * d * width / elapsed


class Peak(threading.Thread):
    """Watches how much memory of device 0 is in use, all programs together."""

    def __init__(self, cupy):
        super().__init__(daemon=True)
        self.device, self.peak, self.ended = cupy.cuda.Device(0), 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.02):
            with self.device:
                free, total = self.device.mem_info
            self.peak = max(self.peak, total - free)


def run_tests():
    folder = os.path.join(os.path.dirname(__file__), "..", "tests", "test_gpu.py")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", folder])
    report("tests/test_gpu.py", "passed" if done.returncode == 0 else "FAILED", "pass")


def accuracy(quick):
    n_files, seeds = (20, 1) if quick else (50, 3)
    for seed in range(seeds):
        tokens = load_python_tokens(n_files=n_files, random_state=seed)
        train, test = normalize(tokens.data_train), normalize(tokens.data_test)
        target = np.asarray(tokens.target_test)[:, None]
        scores = []
        for device in ("cpu", "cuda"):
            model = MACHClassifier(device=device, random_state=seed, n_jobs=-1)
            hits = model.fit(train, tokens.target_train).predict_topk(test, 5) == target
            scores.append([100 * hits[:, :k].any(axis=1).mean() for k in (1, 5)])
        for k, on_cpu, on_gpu in zip((1, 5), *scores, strict=True):
            figures = f"{on_cpu:.2f} / {on_gpu:.2f}"
            report(f"tokens, seed {seed}: top-{k}, CPU / GPU", figures, "+-0.3")


def odp(gpu, cupy, quick):
    n, d, K, R, B = 1_084_404, 422_713, 105_033, 25, 32
    n_test = 493_014
    if quick:
        n, d, K, n_test = n // 20, d // 20, K // 20, n_test // 20
    X, y = make_many_classes(n, d, K, random_state=0)
    y = y.astype(np.int32)
    model = MACHClassifier(
        n_repetitions=R,
        n_buckets=B,
        max_iter=5,
        tol=None,
        device="cuda",
        n_jobs=-1,
        random_state=0,
    )
    report(
        "ODP's shape: all of fit, five epochs",
        f"{seconds(model.fit, X, y):.2f} s",
        "<= 20 s",
    )
    report(
        "    accuracy on 10,000 training rows",
        f"{model.score(X[:10_000], y[:10_000]):.3f}",
    )
    table = _hashing.draw_table(K, B, range(R))
    settings = _softmax.make_settings(X, None, OPTIONS, 0)
    train_all = _backends.backend("cuda:0").train_all
    times = {}
    for epochs in (1, 5):  # their difference is four epochs without the copies
        W, b = np.zeros((d, R * B), np.float32), np.zeros(R * B, np.float32)
        part = settings._replace(decay=settings.decay[:epochs])
        times[epochs] = seconds(train_all, X, y, table, W, b, 0, True, part, 1)
    again = np.zeros_like(W), np.zeros_like(b)
    train_all(X, y, table, *again, 0, True, settings, 1)
    report("    two runs agree bit for bit", str(np.array_equal(W, again[0])), "True")
    epoch = (times[5] - times[1]) / 4
    bandwidth = copy_bandwidth(cupy)
    floor = 8 * X.nnz * R * B / bandwidth
    report("    learner, five epochs, host to host", f"{times[5]:.2f} s", "<= 20 s")
    report("    an epoch", f"{epoch:.3f} s")
    report("    copy bandwidth of the card", f"{bandwidth / 1e9:,.0f} GB/s")
    report(f"    floor: {8 * X.nnz * R * B / 1e9:.0f} GB an epoch", f"{floor:.3f} s")
    report("    an epoch over its floor", f"{epoch / floor:.2f}", "<= 3")
    cpu_settings = _softmax.make_settings(X, None, OPTIONS | {"max_iter": 1}, 0)
    if not quick:  # a quarter of an epoch is enough to know the rate
        rows = cpu_settings.train[: n // 4]
        cpu_settings = cpu_settings._replace(train=rows)
    share = cpu_settings.train.size / n
    W[:], b[:] = 0, 0
    warm = cpu_settings._replace(train=cpu_settings.train[:100])
    _softmax.train_all(X, y, table, W, b, 0, False, warm, -1)
    on_cpu = seconds(_softmax.train_all, X, y, table, W, b, 0, True, cpu_settings, -1)
    on_cpu /= share
    report(f"    an epoch on {os.cpu_count()} CPU cores", f"{on_cpu:.2f} s")
    report("    GPU against CPU, an epoch", f"{on_cpu / epoch:.1f} x", ">= 20 x")

    test = sp.vstack([X, X], format="csr")[:n_test] if n_test > n else X[:n_test]
    model.predict_topk(test[:100], 5)
    elapsed = seconds(model.predict_topk, test, 5)
    report(
        f"    top-5 of {n_test:,} rows, K={K:,}, from X", f"{elapsed:.2f} s", "<= 5 s"
    )
    placed = model._place("cuda")[0]
    rows = test[:5_000]
    log = placed.bucket_proba(rows, True, R)
    scores = cupy.asarray(log)
    elapsed = device_seconds(
        cupy, lambda: gpu.best_classes(scores, placed.table, 5, "sum")
    )
    report("    search alone", f"{elapsed * 1e6 / len(log):.2f} us a row")
    labels, values = model.predict_topk(rows, 6, return_scores=True)
    model.device_ = "cpu"
    others = model.predict_topk(rows, 6, return_scores=True)
    differ = labels[:, :5] != others[0][:, :5]
    gaps = np.abs(np.diff(values, axis=1))  # to the next class, and to the one before
    before = np.column_stack([np.full(len(gaps), np.inf), gaps[:, :-1]])
    clear = np.minimum(gaps, before) > 1e-5
    n_differ, n_clear = differ.any(1).sum(), (differ & clear).any(1).sum()
    report(f"    of {len(log):,} rows, classes other than the CPU's", n_differ)
    report("    and those not ties within 1e-5", n_clear, "0")
    model._placed = None, None


def dense(gpu, cupy, quick):
    d, K, R, B = 6_144, 21_841, 20, 512
    n = 20_000 if quick else int(60e9 / (4 * d))
    free = _backends.free_memory()
    if free is not None:
        n = min(n, int(0.7 * free / (4 * d)))
    rng = np.random.default_rng(0)
    block = normalize(rng.standard_normal((min(n, 20_000), d), dtype=np.float32))
    X = np.empty((n, d), np.float32)
    for start in range(0, n, len(block)):
        X[start : start + len(block)] = block[: n - start]
    y = rng.integers(0, K, n).astype(np.int32)
    table = _hashing.draw_table(K, B, range(R))
    settings = _softmax.make_settings(block, None, OPTIONS | {"max_iter": 1}, 0)
    ones = np.ones(n, np.float32)
    settings = settings._replace(
        step=ones, weight=ones, train=np.arange(n, dtype=np.int32)
    )
    W, b = np.zeros((d, R * B), np.float32), np.zeros(R * B, np.float32)
    shape = (X.shape, None, K, R, B, 1024)
    plan = _backends.plan_training(gpu.free_memory(0), *shape)
    plan = (0, plan[0], False)  # streamed, even where X would fit
    warm = settings._replace(train=settings.train[:4096])
    gpu.train_all(X, y, table, W, b, 0, True, warm, [plan])
    rates = []
    for m in (n // 2, n):
        part = settings._replace(train=settings.train[:m])
        rates.append(seconds(gpu.train_all, X, y, table, W, b, 0, True, part, [plan]))
    rate = (n - n // 2) / (rates[1] - rates[0])
    gemm = gemm_rate(cupy, 8192, d, R * B)
    ideal = gemm / (4 * d * R * B)  # two products a row
    what = f"ImageNet-22K's shape, {X.nbytes / 1e9:.0f} GB streamed"
    report(what, f"{rate:,.0f} rows/s")
    report("    float32 products of cuBLAS", f"{gemm / 1e12:.1f} TFLOP/s")
    report("    rate over that of the products", f"{rate / ideal:.2f}", ">= 0.50")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    try:
        _backends.resolve_device("cuda")
    except ValueError as error:
        sys.exit(f"No GPU can be used, so that nothing is measured. {error}")
    gpu = _backends._gpu()
    cupy = gpu.cupy
    card = cupy.cuda.runtime.getDeviceProperties(0)
    print(
        f"{card['name'].decode()}, {card['totalGlobalMem'] / 1e9:.0f} GB, "
        f"{gpu.n_devices()} visible; {os.cpu_count()} cores; CuPy {cupy.__version__}, "
        f"CUDA {cupy.cuda.runtime.runtimeGetVersion()}, driver "
        f"{cupy.cuda.runtime.driverGetVersion()}, Python {platform.python_version()}"
    )
    run_tests()
    accuracy(quick)
    for part in (odp, dense):
        watch = Peak(cupy)
        watch.start()
        part(gpu, cupy, quick)
        watch.ended.set()
        report("    peak memory of the device", f"{watch.peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
