"""
The GPU in one call
===================

Tests, accuracy against the CPU, and the time of training and prediction on an NVIDIA
GPU, in under ten minutes. Each figure is printed beside the bar it is held to.

    python examples/bench_gpu.py [--quick] [PART ...]

The parts are odp, labels (several labels a row), dense, tokens and tests; without a
name all are run. Each is a process of its own, so that one that fails or hangs leaves
the others a working device. What fails is printed, the rest goes on, and the exit
status is 1.

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
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy
import sklearn
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier, _backends, _cuda, _hashing, _steps
from sklearn_mach._losses import Softmax
from sklearn_mach._memory import free_memory
from sklearn_mach._targets import Targets
from sklearn_mach.datasets import load_python_tokens, make_many_classes

LIMIT, PART_LIMIT = 580, 240  # seconds for all parts together, and for one
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
FULL = {
    "tokens": {"n_files": 200, "seeds": 3, "parameters": {}},
    "odp": {
        "train": (1_084_404, 422_713, 105_033),  # rows, features, classes
        "n_test": 493_014,
        "R": 25,
        "B": 32,
        "n_compared": 5_000,
        "n_copied": 1 << 28,  # numbers
    },
    "labels": {
        "train": (200_000, 50_000, 50_000),
        "n_labels": 5,
        "R": 16,
        "B": 512,
        "n_compared": 10_000,
        "n_copied": 1 << 28,
    },
    "dense": {"d": 6_144, "K": 21_841, "R": 20, "B": 512, "n_bytes": 60e9},
}
QUICK = {
    "tokens": {"n_files": 20, "seeds": 1, "parameters": {}},
    "odp": FULL["odp"] | {"train": (54_220, 21_136, 5_252), "n_test": 24_651},
    "labels": FULL["labels"] | {"train": (20_000, 5_000, 5_000)},
    "dense": FULL["dense"] | {"n_bytes": 0.5e9},
}
failed = []


def report(what, figure, bar="-"):
    print(f"{what:<62} {figure:>18}   bar {bar}", flush=True)


def attempt(what, function, *args):
    """The function's result; its error is printed and noted, and the result None."""
    try:
        return function(*args)
    except Exception:
        failed.append(what)
        print(f"FAILED: {what}", flush=True)
        traceback.print_exc(file=sys.stdout)


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


def copy_bandwidth(cupy, n):
    """Bytes read and written per second by a copy of n numbers on the device."""
    a, b = cupy.zeros(n, np.float32), cupy.empty(n, np.float32)
    return 2 * a.nbytes / device_seconds(cupy, lambda: cupy.copyto(b, a))


def gemm_rate(gpu, n, d, width):
    """Operations per second of a float32 product of n rows and the weights."""
    cupy = gpu.kernels.cupy
    a, b = cupy.ones((n, d), np.float32), cupy.ones((d, width), np.float32)
    out = cupy.empty((n, width), np.float32)
    elapsed = device_seconds(
        cupy, lambda: gpu.kernels.gemm(False, a, b, out), repeats=10
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


def tests(gpu, sizes):
    folder = Path(__file__).parents[1] / "tests"
    names = sorted(path.name for path in folder.glob("test_gpu*.py"))
    command = [sys.executable, "-m", "pytest", "-q", *(folder / name for name in names)]
    done = subprocess.run(command, timeout=PART_LIMIT - 20)
    report(", ".join(names), "passed" if done.returncode == 0 else "FAILED", "pass")
    if done.returncode:
        failed.append("tests of the GPU")


def tokens(gpu, sizes):
    """Accuracy on the tokens of the standard library, CPU and GPU.

    The rows are the same for all seeds: a file that repeats itself, as tables do, has
    hundreds of equal test rows, and in few files one class that changes its place is
    worth several points.
    """
    data = load_python_tokens(n_files=sizes["n_files"], random_state=0)
    train, test = normalize(data.data_train), normalize(data.data_test)
    target = np.asarray(data.target_test)[:, None]
    differences = []
    for seed in range(sizes["seeds"]):
        scores = []
        for device in ("cpu", "cuda"):
            model = MACHClassifier(
                device=device, random_state=seed, n_jobs=-1, **sizes["parameters"]
            )
            elapsed = seconds(model.fit, train, data.target_train)
            hits = model.predict_topk(test, 5) == target
            scores.append([100 * hits[:, :k].any(axis=1).mean() for k in (1, 5)])
            report(f"tokens, seed {seed}: fit on {device}", f"{elapsed:.2f} s")
        for k, on_cpu, on_gpu in zip((1, 5), *scores, strict=True):
            figures = f"{on_cpu:.2f} / {on_gpu:.2f}"
            report(f"tokens, seed {seed}: top-{k}, CPU / GPU", figures, "+-0.3")
        differences.append(np.subtract(*scores[::-1]))
    for k, mean in zip((1, 5), np.mean(differences, axis=0), strict=True):
        report(f"tokens: top-{k}, GPU - CPU, mean of seeds", f"{mean:+.2f}", "+-0.3")


def odp(gpu, sizes):
    """The shape of the Open Directory Project: training and top-5."""
    R, B = sizes["R"], sizes["B"]
    start = time.perf_counter()
    X, y = make_many_classes(*sizes["train"], random_state=0)
    y = y.astype(np.int32)
    shape = f"{X.shape[0]:,} rows, d={X.shape[1]:,}, K={sizes['train'][2]:,}"
    made = time.perf_counter() - start
    report(f"ODP's shape, {shape}, R={R}, B={B}: made in", f"{made:.2f} s")
    model = MACHClassifier(
        n_repetitions=R,
        n_buckets=B,
        max_iter=5,
        tol=None,
        device="cuda",
        n_jobs=-1,
        random_state=0,
    )
    attempt("ODP's shape: learner", odp_learner, gpu, sizes, X, y)
    few = slice(0, max(X.shape[0] // 50, 10))
    compiling = attempt("ODP's shape: a small fit", seconds, model.fit, X[few], y[few])
    if compiling is None:
        return
    report("    a small fit, with compilation", f"{compiling:.2f} s")
    elapsed = attempt("ODP's shape: fit", seconds, model.fit, X, y)
    if elapsed is None:
        return
    report("    all of fit, five epochs", f"{elapsed:.2f} s", "<= 20 s")
    attempt("ODP's shape: top-5", odp_topk, gpu, sizes, model, X, y)


def epochs(train, settings):
    """Seconds of an epoch without the copies and of all five, and the weights."""
    one = train(settings._replace(decay=settings.decay[:1]))[0]
    five, W = train(settings)
    return (five - one) / 4, five, W


def report_floor(cupy, sizes, X, epoch, bar="-"):
    """An epoch's seconds, and how they compare with those of its reads and writes."""
    bandwidth = copy_bandwidth(cupy, sizes["n_copied"])
    n_bytes = 8 * X.nnz * sizes["R"] * sizes["B"]
    floor = n_bytes / bandwidth
    report("    an epoch", f"{epoch:.3f} s")
    report("    copy bandwidth of the card", f"{bandwidth / 1e9:,.0f} GB/s")
    report(f"    floor: {n_bytes / 1e9:.0f} GB an epoch", f"{floor:.3f} s")
    report("    an epoch over its floor", f"{epoch / floor:.2f}", bar)


def odp_learner(gpu, sizes, X, y):
    """Host CSR to host weights, an epoch and its floor, and the CPU's learner."""
    cupy, (n, d, K) = gpu.kernels.cupy, sizes["train"]
    R, B = sizes["R"], sizes["B"]
    table = _hashing.draw_table(K, B, range(R))
    rows = X, Targets.of(y), table
    settings, _ = _steps.make_settings(X, rows[1], None, OPTIONS, 0)
    on_gpu = _backends.backend("cuda:0").train_all

    def train(settings):
        W, b = np.zeros((d, R * B), np.float32), np.zeros(R * B, np.float32)
        return seconds(on_gpu, *rows, W, b, 0, True, settings, 1), W

    first = train(settings._replace(train=settings.train[:5_000]))[0]
    report("    learner, 5,000 rows, with compilation", f"{first:.2f} s")
    epoch, five, W = epochs(train, settings)
    report("    learner, five epochs, host to host", f"{five:.2f} s", "<= 20 s")
    report_floor(cupy, sizes, X, epoch, "<= 3")
    same = np.array_equal(W, train(settings)[1])
    report("    two runs agree bit for bit", str(same), "True")

    W, b = np.zeros((d, R * B), np.float32), np.zeros(R * B, np.float32)

    def on_cpu(train):
        part, functions = settings._replace(train=train), _backends.backend("cpu")
        part = part._replace(decay=settings.decay[:1])
        return seconds(functions.train_all, *rows, W, b, 0, True, part, -1)

    on_cpu(settings.train[:100])  # compiles
    some = settings.train[: max(n // 2, 1)]
    cpu_epoch = on_cpu(some) * settings.train.size / some.size
    figures = f"{epoch:.3f} s / {cpu_epoch:.2f} s"
    report(f"    an epoch, GPU / {os.cpu_count()} CPU cores", figures)
    report("    GPU against CPU, an epoch", f"{cpu_epoch / epoch:.1f} x", ">= 20 x")


def odp_topk(gpu, sizes, model, X, y):
    """Top-5 of the test rows' number, and how they differ from the CPU's."""
    cupy, K = gpu.kernels.cupy, sizes["train"][2]
    accuracy = model.score(X[:10_000], y[:10_000])
    report("    accuracy on 10,000 training rows", f"{accuracy:.3f}")
    test = X[np.arange(sizes["n_test"]) % X.shape[0]]
    elapsed = seconds(model.predict_topk, test, 5)
    what = f"    top-5 of {test.shape[0]:,} rows, K={K:,}, from X"
    report(what, f"{elapsed:.2f} s", "<= 5 s")
    rows = test[: sizes["n_compared"]]
    scorer = model._fitted.model.scorer.on(model.device_, model.bucket_table_)
    scores = cupy.asarray(scorer.bucket_scores(rows, True, model.n_repetitions_))
    table = cupy.asarray(model.bucket_table_.astype(np.int32))
    elapsed = device_seconds(
        cupy, lambda: gpu.model.best_classes(scores, table, 5, "sum")
    )
    report("    search alone", f"{elapsed * 1e6 / rows.shape[0]:.2f} us a row")
    labels, values = model.predict_topk(rows, 6, return_scores=True)
    model.device_ = "cpu"
    others = model.predict_topk(rows, 6, return_scores=True)[0]
    differ = labels[:, :5] != others[:, :5]
    gaps = np.abs(np.diff(values, axis=1))  # to the next class, and to the one before
    before = np.column_stack([np.full(len(gaps), np.inf), gaps[:, :-1]])
    clear = np.minimum(gaps, before) > 1e-5
    share, n_clear = differ.any(axis=1).mean(), (differ & clear).any(axis=1).sum()
    what = f"    of {rows.shape[0]:,} rows, with classes other than the CPU's"
    report(what, f"{100 * share:.2f} %")
    report("    rows among them where that is no tie within 1e-5", n_clear, "0")


def labels(gpu, sizes):
    """Several labels a row: sigmoids of the buckets against one label and a softmax."""
    (n, d, K), m, R, B = (sizes[name] for name in ("train", "n_labels", "R", "B"))
    rng = np.random.default_rng(0)
    X, y = make_many_classes(n, d, K, random_state=0)
    # A class brings others with it, so that a row tells which labels it has.
    others = rng.integers(0, K, (K, m - 1))
    several = np.column_stack([y, others[y]]).astype(np.int32)
    targets = Targets(np.arange(n + 1) * m, several.ravel(), True)
    table = _hashing.draw_table(K, B, range(R))
    settings, _ = _steps.make_settings(X, targets, None, OPTIONS, 0)
    on_gpu = _backends.backend("cuda:0").train_all
    log_odds = targets.log_odds(table, B, np.ones(n))
    b = np.empty(R * B, np.float32)  # of the last training

    def train(settings, targets=targets):
        W = np.zeros((d, R * B), np.float32)
        b[:] = log_odds
        return seconds(on_gpu, X, targets, table, W, b, 0, True, settings, 1), W

    train(settings._replace(train=settings.train[:5_000]))  # compiles
    one = settings._replace(loss=Softmax())
    softmax = epochs(lambda settings: train(settings, Targets.of(y)), one)[0]
    epoch, five, W = epochs(train, settings)
    report(f"{m} labels a row, {n:,} rows, d={d:,}, K={K:,}, R={R}, B={B}", "")
    report("    learner, five epochs, host to host", f"{five:.2f} s")
    report_floor(gpu.kernels.cupy, sizes, X, epoch)
    what = "    an epoch over that of one label and a softmax"
    report(what, f"{epoch / softmax:.2f}")
    same = np.array_equal(W, train(settings)[1])
    report("    two runs agree bit for bit", str(same), "True")
    few = slice(0, sizes["n_compared"])
    model = gpu.model.Model(W, b, table, B, 0, "sigmoid")
    best = model.topk(X[few], 5, "sum", True, R)[0]
    hits = (best[:, :, None] == several[few][:, None]).any(axis=2)
    figures = f"{100 * hits[:, 0].mean():.1f} / {100 * hits.mean():.1f}"
    report("    precision at 1 and 5 on training rows, in %", figures)


def dense(gpu, sizes):
    """The shape of ImageNet-22K: dense rows, streamed from main memory."""
    d, K, R, B = (sizes[name] for name in ("d", "K", "R", "B"))
    n = int(sizes["n_bytes"] / (4 * d))
    free = free_memory()
    if free is not None:
        n = min(n, int(0.7 * free / (4 * d)))
    rng = np.random.default_rng(0)
    block = normalize(rng.standard_normal((min(n, 5_000), d), dtype=np.float32))
    X = np.empty((n, d), np.float32)

    def fill(start):
        X[start : start + len(block)] = block[: n - start]

    with ThreadPoolExecutor(8) as pool:  # the pages are touched for the first time
        list(pool.map(fill, range(0, n, len(block))))
    y = rng.integers(0, K, n).astype(np.int32)
    table = _hashing.draw_table(K, B, range(R))
    options = OPTIONS | {"max_iter": 1}
    settings, _ = _steps.make_settings(
        block, Targets.of(y[: len(block)]), None, options, 0
    )
    ones = np.ones(n, np.float32)
    W, b = np.zeros((d, R * B), np.float32), np.zeros(R * B, np.float32)
    shape, targets = (X.shape, None, K, R, B, settings.batch_size), Targets.of(y)
    at_a_time = _cuda.plan_training(gpu.kernels.free_memory(0), *shape)[0]
    plan = (0, at_a_time, False)  # streamed, even where X would fit

    def train(n_rows):
        rows = np.arange(n_rows, dtype=np.int32)
        part = settings._replace(step=ones, weight=ones, train=rows)
        args = X, targets, table, W, b, 0, True, part, "softmax", [plan]
        return seconds(gpu.training.train_all, *args)

    train(min(n, 4096))  # compiles
    rate = (n - n // 4) / (train(n) - train(n // 4))
    gemm = max(gemm_rate(gpu, rows, d, R * B) for rows in (1024, 8192))
    ideal = gemm / (4 * d * R * B)  # two products a row
    what = f"ImageNet-22K's shape, {X.nbytes / 1e9:.1f} GB streamed"
    report(what, f"{rate:,.0f} rows/s")
    report("    float32 products of cuBLAS", f"{gemm / 1e12:.1f} TFLOP/s")
    report("    rate over that of the products", f"{rate / ideal:.2f}", ">= 0.50")


PARTS = {"odp": odp, "labels": labels, "dense": dense, "tokens": tokens, "tests": tests}


def run_part(name, sizes):
    """Run a part in this process, with its memory and its seconds."""
    gpu = _cuda.modules()
    watch = Peak(gpu.kernels.cupy)
    watch.start()
    attempt(name, PARTS[name], gpu, sizes.get(name))
    watch.ended.set()
    report(f"{name}: peak memory of the device", f"{watch.peak / 1e9:.2f} GB")


def print_versions():
    gpu = _cuda.modules()
    runtime = gpu.kernels.cupy.cuda.runtime
    for number in range(gpu.kernels.n_devices()):
        card = runtime.getDeviceProperties(number)
        memory = f"{card['totalGlobalMem'] / 1e9:.0f} GB"
        print(f"cuda:{number}: {card['name'].decode()}, {memory}")
    print(
        f"{os.cpu_count()} CPU cores; CUDA {runtime.runtimeGetVersion()}, driver "
        f"{runtime.driverGetVersion()}, CuPy {gpu.kernels.cupy.__version__}, Python "
        f"{platform.python_version()}, NumPy {np.__version__}, SciPy "
        f"{scipy.__version__}, scikit-learn {sklearn.__version__}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help="; ".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if not set(options.parts) <= set(PARTS):
        parser.error(f"the parts are {', '.join(PARTS)}")
    try:
        _backends.resolve_device("cuda")
    except ValueError as error:
        sys.exit(f"No GPU can be used, so that nothing is measured. {error}")
    if options.here:
        for name in options.parts or PARTS:
            run_part(name, QUICK if options.quick else FULL)
    else:
        run_processes(options)
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


def run_processes(options):
    print_versions()
    deadline = time.perf_counter() + LIMIT
    for name in options.parts or PARTS:
        command = [sys.executable, __file__, "--here", name]
        command += ["--quick"] if options.quick else []
        start = time.perf_counter()
        try:
            left = min(max(deadline - start, 1), PART_LIMIT)
            if subprocess.run(command, timeout=left).returncode:
                failed.append(name)
        except subprocess.TimeoutExpired:
            failed.append(f"{name} (no time left)")
        report(f"{name}: the whole part", f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
