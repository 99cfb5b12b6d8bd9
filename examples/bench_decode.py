"""
Time of decoding
================

How fast the best of many classes are found from bucket scores, beside simpler ways to
find them. Each figure is printed beside the bar it is held to. Figures of one thread
are its processor time, which other work on the machine disturbs less; those of two
threads and of single rows are wall time. Run with ``--quick`` for fewer rows and
repeats, and with ``--odp`` to predict 493,014 rows of the shape of the Open Directory
Project in place of all else.
"""

import argparse
import os
import platform
import statistics
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import scipy
import scipy.sparse as sp

from sklearn_mach import MACHClassifier
from sklearn_mach._decoding import decode_scores, decode_topk, prepare, rank_of
from sklearn_mach._fitting import Fit
from sklearn_mach._model import Model
from sklearn_mach._stages import decode_stages
from sklearn_mach._weights import Linear
from sklearn_mach.datasets import make_many_classes

K, R, B = 105_033, 25, 32


@numba.njit(nogil=True)
def obvious_loop(scores, table):
    """Best class of each row (n,): one row, one class, one repetition at a time."""
    best = np.empty(scores.shape[0], dtype=np.int64)
    for i in range(scores.shape[0]):
        best_score = np.float32(-np.inf)
        for k in range(table.shape[0]):
            score = np.float32(0)
            for r in range(table.shape[1]):
                score += scores[i, r, table[k, r]]
            if score > best_score:
                best_score = score
                best[i] = k
    return best


def sparse_product(scores, one_hot, k):
    """The k best classes (n, k) from all class scores, through scipy.sparse."""
    flat = scores.reshape(len(scores), -1)
    every = (one_hot @ flat.T).T  # (n, K)
    best = np.argpartition(-every, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(every, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def on_threads(pool, n_threads, scores, table, prepared):
    """The best class (n,) with the rows dealt to threads."""
    parts = np.array_split(scores, n_threads)
    jobs = [pool.submit(decode_topk, p, table, 1, prepared=prepared) for p in parts]
    return np.concatenate([job.result()[0][:, 0] for job in jobs])


def seconds(tasks, repeats, clock=time.thread_time):
    """Median time of each task, in turns: they meet the same machine."""
    times = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = clock()
            task()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_megabytes(task):
    """Largest memory that the task allocates, beyond what it starts with."""
    tracemalloc.start()
    task()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def report(what, figure, bar=""):
    """Print one line."""
    print(f"{what:<58} {figure:>16}  {bar}", flush=True)


def random_model(X, n_classes, n_repetitions, n_buckets):
    """A classifier of this shape with random weights, which no time depends on."""
    rng = np.random.default_rng(0)
    W = np.empty((X.shape[1], n_repetitions * n_buckets), dtype=np.float32)
    for row in W:
        rng.standard_normal(out=row, dtype=np.float32)
    table = rng.integers(0, n_buckets, (n_classes, n_repetitions)).astype(np.uint8)
    scorer = Linear.of(W, np.zeros(W.shape[1], dtype=np.float32), n_buckets)
    classifier = MACHClassifier(n_jobs=2)
    model = Model(table, n_buckets, scorer, 1 / n_buckets)
    classifier._fitted = Fit(model, None, None, 0)
    classifier.classes_, classifier.n_features_in_ = np.arange(n_classes), X.shape[1]
    classifier.device_ = "cpu"
    return classifier


def predict_odp():
    """Time and memory of predicting rows of ODP's shape."""
    X, _ = make_many_classes(493_014, 422_713, K, n_nonzeros=50, random_state=0)[:2]
    X = X.astype(np.float32)
    model = random_model(X, K, R, B)
    model.predict(X[:1000])
    held = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes + model.model_bytes_
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; Linux only
    start, start_cpu = time.perf_counter(), time.process_time()
    model.predict(X)
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    status = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * next(int(s.split()[1]) for s in status if s.startswith("VmHWM:"))
    report("predict, random weights", f"{wall:.1f} s", "< 60")
    report("  processor time of both threads", f"{cpu:.1f} s")
    report("  X and model", f"{held / 1e6:.0f} MB")
    report("  peak memory beyond them", f"{(peak - held) / 1e6:.0f} MB", "< 500")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true")
parser.add_argument("--odp", action="store_true")
options = parser.parse_args()
if options.odp:
    predict_odp()
    raise SystemExit
quick = options.quick
n_rows, n_slow, n_sparse = (512, 16, 16) if quick else (4096, 256, 128)
repeats, n_calls = (3, 100) if quick else (5, 1000)

rng = np.random.default_rng(0)
table = rng.integers(0, B, (K, R)).astype(np.uint8)
scores = rng.standard_normal((n_rows, R, B)).astype(np.float32)
scores -= np.log(np.exp(scores).sum(axis=2, keepdims=True))  # as log_softmax

machine = platform.processor() or platform.machine()
print(f"{machine}, {os.cpu_count()} cores; Python {platform.python_version()}, numba")
print(f"{numba.__version__}, numpy {np.__version__}, scipy {scipy.__version__}")
print(f"K={K:,}, R={R}, B={B}, {n_rows:,} rows\n")

start = time.perf_counter()
decode_topk(scores[:64], table, 1)
report("first call, compilation included", f"{time.perf_counter() - start:.2f} s")
start = time.perf_counter()
prepared = prepare(table, B)
report("prepare", f"{(time.perf_counter() - start) * 1e3:.1f} ms")
decode_topk(scores[:1], table, 1, prepared=prepared)
obvious_loop(scores[:1], table)
pool = ThreadPoolExecutor(2)

# Same answers, and time of a row.
best = decode_topk(scores, table, 1, prepared=prepared)[0][:, 0]
assert np.array_equal(best[:n_slow], obvious_loop(scores[:n_slow], table))
assert np.array_equal(best, on_threads(pool, 2, scores, table, prepared))
times = seconds(
    {
        "obvious": lambda: obvious_loop(scores[:n_slow], table),
        "top1": lambda: decode_topk(scores, table, 1, prepared=prepared),
        "top10": lambda: decode_topk(scores, table, 10, prepared=prepared),
    },
    repeats,
)
threads = seconds(
    {
        "one": lambda: decode_topk(scores, table, 1, prepared=prepared),
        "two": lambda: on_threads(pool, 2, scores, table, prepared),
    },
    repeats,
    time.perf_counter,
)
obvious = times["obvious"] / n_slow * 1e6
top1, top10 = (times[name] / n_rows * 1e6 for name in ("top1", "top10"))
report("obvious loop, one thread", f"{obvious:.0f} us/row")
report("decode_topk, k=1, one thread", f"{top1:.1f} us/row")
report("  faster than the obvious loop", f"{obvious / top1:.1f} x", ">= 20, goal 40")
report(
    "  two threads against one", f"{threads['one'] / threads['two']:.2f} x", ">= 1.8"
)
report("  k=10 against k=1", f"{top10 / top1:.2f} x", "<= 1.3")

# Sparse product.
rows = np.repeat(np.arange(K), R)
columns = (table + np.arange(R) * B).ravel()
ones = np.ones(K * R, dtype=np.float32)
one_hot = sp.csr_array((ones, (rows, columns)), shape=(K, R * B))
few = scores[:n_sparse]
times = seconds(
    {
        "sparse": lambda: sparse_product(few, one_hot, 10),
        "top10": lambda: decode_topk(few, table, 10, prepared=prepared),
    },
    repeats,
)
report(
    "k=10 faster than scipy.sparse and argpartition",
    f"{times['sparse'] / times['top10']:.1f} x",
    ">= 10",
)
report(
    f"  peak memory of scipy.sparse, {n_sparse} rows",
    f"{peak_megabytes(lambda: sparse_product(few, one_hot, 10)):.1f} MB",
)
for n in (n_sparse, n_rows):
    peak = peak_megabytes(lambda n=n: decode_topk(scores[:n], table, 10))
    out = n * 10 * 12 / 1e6
    what = f"  peak memory of decode_topk, {n:,} rows ({out:.2f} MB returned)"
    report(what, f"{peak:.2f} MB", "not K n")

# One row at a time.
for name, state in (("", None), (" prepared", prepared)):
    calls = []
    for j in range(n_calls):
        row = scores[j % n_rows : j % n_rows + 1]
        start = time.perf_counter()
        decode_topk(row, table, 1, prepared=state)
        calls.append((time.perf_counter() - start) * 1e6)
    middle, late = np.percentile(calls, [50, 99])
    report(f"one row{name}, median and 99th percentile", f"{middle:.0f}, {late:.0f} us")

X, _ = make_many_classes(1000, 5000, 1000, n_nonzeros=50, random_state=0)[:2]
X = X.astype(np.float32)
for kind, data in (("sparse", X), ("dense", X[:, :500].toarray())):
    model = random_model(data, K, R, B)
    inner, how = model._fitted.model, model._how()
    rows = [data[j : j + 1] for j in range(n_calls)]
    model.predict(rows[0])
    calls = []
    for row in rows:
        start = time.perf_counter()
        logits = inner.bucket_scores(row, how)
        middle_time = time.perf_counter()
        decode_topk(logits, inner.table, 1, prepared=inner._prepared)
        decoded = time.perf_counter()
        model.predict(row)
        whole = time.perf_counter() - decoded
        parts = middle_time - start, decoded - middle_time
        calls.append([whole, *parts, whole - sum(parts)])
    middle, late = np.percentile(np.array(calls) * 1e6, [50, 99], axis=0)
    names = "predict", "logits", "decode", "rest"
    for name, a, b in zip(names, middle, late, strict=True):
        bar = "< 200 median" if name == "rest" else ""
        report(
            f"one {kind} row, {name}, median and 99th percentile",
            f"{a:.0f}, {b:.0f} us",
            bar,
        )

# The other functions.
y = rng.integers(0, K, n_sparse)
tasks = {"rank_of": lambda: rank_of(few, table, y)}
for merge in ("sum", "min", "median"):
    tasks[f"decode_scores, {merge}"] = lambda m=merge: decode_scores(
        few[:32], table, merge=m
    )
    tasks[f"decode_topk, k=10, {merge}"] = lambda m=merge: decode_topk(
        few, table, 10, merge=m
    )
    tasks[f"decode_stages of all R, k=10, {merge}"] = lambda m=merge: decode_stages(
        few, table, 10, merge=m
    )
for task in tasks.values():
    task()
for name, time_taken in seconds(tasks, 3).items():
    n = min(32, n_sparse) if "scores" in name else n_sparse
    report(name, f"{time_taken / n * 1e6:.0f} us/row")
