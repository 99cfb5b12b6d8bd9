"""
Millions of classes on one machine
==================================

Seconds and peak memory of a fit of five million classes, of predictions, of the file
and of its use: whether the sizes that the user guide names still work. The rows are
synthetic. A class has some columns of its own; a training row has them all, and in a
test row each has given way to a random one with probability ``--noise``. Every class
has a row, some classes have two, so that rows can be set aside.

    python examples/bench_limits.py [--classes 5000000] [--epochs 1] [--jobs 2] ...

A visit of a row reads the weights of its non-zeros, reads them again and writes them,
as integers of 16 bits: nnz R B 2 bytes three times. The last line says what that comes
to, and what the five epochs of ``max_iter="auto"`` would take. Peaks are resident
memory (Linux), with the rows and all that was there before.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import scipy.sparse as sp

import sklearn_mach
from sklearn_mach import MACHClassifier, _hashing

DEFAULT_EPOCHS = 5  # of max_iter="auto" from 40,000 rows on
CHUNK = 1 << 20  # rows made at a time


def resident(name):
    """Bytes of a line of /proc/self/status: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}.")


def measured(what, function, *args, **kwargs):
    """What a function gives; its seconds and the peak of memory are printed."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is in use
    before, start = resident("VmRSS"), time.perf_counter()
    result = function(*args, **kwargs)
    seconds, peak = time.perf_counter() - start, resident("VmHWM")
    print(
        f"{what:22} {seconds:8.1f} s, peak {peak / 1e9:6.2f} GB, "
        f"{(peak - before) / 1e9:6.2f} GB more than before",
        flush=True,
    )
    return result, seconds


def rows_of(y, marks, n_features, noise, rng):
    """Rows of the classes y: their marks (K, nnz), some replaced by random columns."""
    n_nonzeros = marks.shape[1]
    indices = np.empty((y.size, n_nonzeros), np.int32)
    for start in range(0, y.size, CHUNK):
        part = indices[start : start + CHUNK]
        part[:] = marks[y[start : start + CHUNK]]
        if noise:
            other = rng.integers(0, n_features, part.shape, dtype=np.int32)
            np.copyto(part, other, where=rng.random(part.shape) < noise)
    indptr = np.arange(y.size + 1, dtype=np.int64) * n_nonzeros
    values = np.full(indices.size, n_nonzeros**-0.5, np.float32)
    X = sp.csr_array((values, indices.ravel(), indptr), (y.size, n_features))
    X.sum_duplicates()
    return X


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--classes", type=int, default=5_000_000)
    add("--rows", type=int, help="of training; 2 %% more than classes if not given")
    add("--features", type=int, default=10_000)
    add("--nonzeros", type=int, default=4, help="of a row")
    add("--noise", type=float, default=0.1)
    add("--repetitions", type=int, default=8)
    add("--buckets", type=int, default=4096)
    add("--hashing", default="clustered", choices=sorted(_hashing.FAMILIES))
    add("--epochs", type=int, default=1, help="max_iter")
    add("--jobs", type=int, default=2, help="n_jobs")
    add("--test-rows", type=int, default=2_000)
    add("--k", type=int, default=5, help="classes in a list")
    add("--folder", help="for the file; a temporary one if not given")
    args = parser.parse_args()
    K, n_rows = args.classes, args.rows or args.classes + args.classes // 50
    if n_rows < K:
        parser.error(f"--rows {n_rows} leaves some of {K} classes without a row.")
    print(f"{os.cpu_count()} processors; {args}", flush=True)

    rng = np.random.default_rng(0)
    marks = rng.integers(0, args.features, (K, args.nonzeros), dtype=np.int32)
    y = np.concatenate([np.arange(K), rng.integers(0, K, n_rows - K)])
    rng.shuffle(y)
    X = rows_of(y, marks, args.features, 0.0, rng)
    y_test = rng.integers(0, K, args.test_rows)
    X_test = rows_of(y_test, marks, args.features, args.noise, rng)
    del marks
    print(f"rows: {X.shape}, {X.nnz} non-zeros, {resident('VmRSS') / 1e9:.2f} GB")

    draw, draws = _hashing.draw_table, []

    def drawn(*given):
        table, seconds = measured("draw, part of fit", draw, *given)
        draws.append(seconds)
        return table

    model = MACHClassifier(
        n_repetitions=args.repetitions,
        n_buckets=args.buckets,
        hashing=args.hashing,
        max_iter=args.epochs,
        n_jobs=args.jobs,
        random_state=0,
    )
    with patch.object(_hashing, "draw_table", drawn):
        _, seconds = measured("fit, from the draw on", model.fit, X, y)
    training = seconds - sum(draws)

    best, _ = measured("predict_topk", model.predict_topk, X_test, k=args.k)
    top1 = np.mean(best[:, 0] == y_test)
    topk = np.mean((best == y_test[:, None]).any(axis=1))
    print(f"top-1 {top1:.3f}, top-{args.k} {topk:.3f}; by chance {1 / K:.1e}")

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = os.path.join(folder, "model.mach")
        measured("save", model.save, path)
        print(f"file: {os.path.getsize(path) / 1e9:.2f} GB")
        del model
        loaded, _ = measured("load", sklearn_mach.load, path)
        few = X_test[:64]
        again, _ = measured("predict_topk, loaded", loaded.predict_topk, few, k=args.k)
        print("equal:", bool((again == best[:64]).all()))
        del loaded

    visit = 3 * 2 * args.nonzeros * args.repetitions * args.buckets
    n_visits = args.epochs * n_rows
    print(
        f"{1e6 * training / n_visits:.1f} us a visit of {visit / 1e6:.2f} MB, "
        f"{visit * n_visits / training / 1e9:.1f} GB/s; {DEFAULT_EPOCHS} epochs would "
        f"take {DEFAULT_EPOCHS * training / args.epochs / 60:.1f} minutes"
    )


if __name__ == "__main__":
    main()
