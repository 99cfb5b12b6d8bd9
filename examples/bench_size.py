"""Bytes, accuracy and time of compressed models, beside one-vs-rest and label trees.

    python examples/bench_size.py PATH --budgets 25 10 8 5 [--threads 2]
        [--fit] [--peers pecos,parabel] [--python pecos=OTHER/bin/python]
        [--one-vs-rest 600]

PATH is a folder of the kind that ``bench_peers.py`` describes, and budgets are in
megabytes (10**6 bytes) for ``MACHClassifier.compress``. With ``--fit`` they are the
parameter ``max_bytes``, too, of models that are each trained anew: rows set aside then
choose the number of repetitions. MACHClassifier has its defaults otherwise.

    memory MB   ``model_bytes_``, or the arrays of one-vs-rest
    file MB     what ``save`` writes, ``np.savez`` of one-vs-rest, or the peer's folder
    make s      seconds of ``fit``, or of ``compress`` from the fitted model
    us a row    to rank the best five classes, in a batch of rows
    single us   the same, of one row at a time

Our models take turns in each round, after their kernels are compiled. The figures are
medians over the rounds, and the ratio is the median of the rounds' ratios to the full
model. Peers have a process each, by ``bench_peers.py``, and predict all test rows once,
as they come from their training: PECOS is several times as fast once it is saved and
loaded with ``is_predict_only=True``.

One-vs-rest is a ``LinearSVC`` for each class, dense, and with weights below 0.01 left
out. It is not run where 12 d K bytes are not free, or where the time of a few classes
says that all would take more than ``--one-vs-rest`` seconds.
"""

import argparse
import os
import platform
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import scipy.sparse as sp
from bench_learners import files_bytes, top5
from bench_peers import (
    PARTS,
    compare,
    indicator,
    load,
    quality,
    quality_several,
    versions,
)
from joblib import parallel_config
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from sklearn_mach import MACHClassifier

PEERS = "pecos,napkinxc,parabel,bonsai"
N_ROUNDS = 7
N_ROWS = 5_000  # in a batch
N_SINGLE = 200  # rows, one at a time
N_TRIED = 8  # classes, whose time says how long one-vs-rest would take
LEAST = 0.01  # weights of one-vs-rest below it are left out, as in DiSMEC


def seconds(call, *args):
    start = perf_counter()
    result = call(*args)
    return perf_counter() - start, result


def header(names):
    names = " ".join(f"{name:>6}" for name in names)
    return (
        f"{'':16} {names} {'memory MB':>10} {'file MB':>8} {'make s':>7} "
        f"{'us a row':>9} {'ratio':>6} {'single us':>10} {'ratio':>6}"
    )


def line(name, found, names):
    """A line of the table; figures that are not known are missing in found."""
    if isinstance(found, str):
        return f"{name:16}  {found}"
    cells = [f"{name:16}", *(f"{found[key]:6.4f}" for key in names)]
    for key, width, digits in (
        ("memory", 10, 1),
        ("file", 8, 1),
        ("make", 7, 1),
        ("batch", 9, 1),
        ("batch ratio", 6, 2),
        ("single", 10, 1),
        ("single ratio", 6, 2),
    ):
        number = f"{found[key]:.{digits}f}" if key in found else ""
        cells.append(f"{number:>{width}}")
    return " ".join(cells).rstrip()


def ours(X, y, X_test, budgets, fit, threads, score):
    """Figures of the full model and of the compressed ones."""
    few = X[:300, :1000], y[:300]
    small = MACHClassifier(random_state=0, max_iter=1).fit(*few)
    for bits in (8, 4):  # compiles what is timed
        packed = small.compress(bits=bits, max_bytes=small.model_bytes_)
        packed.predict_topk(few[0], k=5)
        packed.predict_topk(few[0][:1], k=5)

    model = MACHClassifier(random_state=0, n_jobs=threads)
    make, _ = seconds(model.fit, X, y)
    models, found = {"mach": model}, {"mach": {"make": make}}
    for budget in budgets:
        name = f"mach {budget:g} MB"
        try:
            make, small = seconds(
                lambda budget=budget: model.compress(max_bytes=int(budget * 1e6))
            )
        except ValueError as error:
            found[name] = str(error)
        else:
            models[name], found[name] = small, {"make": make}
    for budget in budgets if fit else ():
        limit = {"max_bytes": int(budget * 1e6)}
        small = MACHClassifier(random_state=0, n_jobs=threads, **limit)
        make, _ = seconds(small.fit, X, y)
        name = f"fit {budget:g} MB"
        models[name], found[name] = small, {"make": make}
    for name, model in models.items():
        print(f"{name}: R = {model.n_repetitions_}, B = {model.n_buckets_}")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            path = os.path.join(folder, "model.mach")
            model.save(path)
            found[name] |= {"memory": model.model_bytes_, "file": files_bytes(path)}
            found[name] |= score(model.predict_topk(X_test, k=5))
            for key in ("memory", "file"):
                found[name][key] /= 1e6
    for name, times in turns(models, X_test).items():
        found[name] |= times
    return found


def turns(models, X):
    """Microseconds a row of the models, side by side, and ratios to the first."""
    batch, rows = X[:N_ROWS], [X[i] for i in range(min(N_SINGLE, X.shape[0]))]
    calls = {
        "batch": (batch.shape[0], lambda model: model.predict_topk(batch, k=5)),
        "single": (len(rows), lambda model: [model.predict_topk(x, k=5) for x in rows]),
    }
    found = {name: {} for name in models}
    for key, (n, call) in calls.items():
        rounds = []
        for _ in range(N_ROUNDS):
            times = [seconds(call, model)[0] for model in models.values()]
            rounds.append(1e6 / n * np.array(times))
        rounds = np.array(rounds)
        medians = np.median(rounds, axis=0)
        ratios = np.median(rounds / rounds[:, :1], axis=0)
        for name, median, ratio in zip(models, medians, ratios, strict=True):
            found[name] |= {key: median, f"{key} ratio": ratio}
    return found


def one_vs_rest(X, Y, X_test, most_seconds, threads, score):
    """Figures of a LinearSVC for each class, dense and sparse, or why not."""
    used = np.flatnonzero(np.bincount(Y.indices, minlength=Y.shape[1]))
    Y = Y[:, used]
    needed = 12 * X.shape[1] * used.size  # float64 while it is trained, and float32
    if needed > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return f"left out: needs {needed / 1e9:.0f} GB, more than is free"
    tried = np.random.default_rng(0).choice(used.size, N_TRIED, replace=False)
    with parallel_config("threading", n_jobs=threads):
        model = OneVsRestClassifier(LinearSVC(random_state=0))
        expected = seconds(model.fit, X, Y[:, tried])[0] * used.size / N_TRIED
        if expected > most_seconds:
            return f"left out: would take about {expected:.0f} s (--one-vs-rest)"
        make, model = seconds(model.fit, X, Y)
    W = np.concatenate([e.coef_ for e in model.estimators_]).T.astype(np.float32)
    b = np.concatenate([e.intercept_ for e in model.estimators_], dtype=np.float32)
    found = {}
    kept = sp.csr_matrix(np.where(np.abs(W) >= LEAST, W, 0))
    for name, weights in (("ovr", W), ("ovr sparse", kept)):
        is_sparse = sp.issparse(weights)
        parts = [weights]
        if is_sparse:
            parts = [weights.data, weights.indices, weights.indptr]
        n_bytes = sum(part.nbytes for part in parts) + b.nbytes

        def scores(X, weights=weights, is_sparse=is_sparse):
            Z = X @ weights
            return (Z.toarray() if is_sparse else Z) + b

        took, best = seconds(top5, scores, used, X_test)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "weights.npz")
            np.savez(path, b, *parts)
            file = files_bytes(path)
        found[name] = {"make": make, "memory": n_bytes / 1e6, "file": file / 1e6}
        found[name] |= {"batch": 1e6 * took / X_test.shape[0]} | score(best)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--budgets", type=float, nargs="+", default=[25, 10], help="MB")
    parser.add_argument("--fit", action="store_true", help="max_bytes of fit, too")
    parser.add_argument("--peers", default=PEERS, help="of bench_peers.py, or ''")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tfidf", action="store_true", help="log counts times idf")
    parser.add_argument("--one-vs-rest", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS")
    args = parser.parse_args()
    args.python = [pair.split("=", 1) for pair in args.python]
    args.seeds, args.memory, args.timeouts = 1, np.inf, {None: args.timeout}

    X, y, X_test, y_test = load(args.path, None, args.tfidf)
    several = sp.issparse(y)
    if several:
        Y, Y_test, names = y, y_test, ("P@1", "P@5")
    else:
        K = int(max(y.max(), y_test.max())) + 1
        Y, Y_test, names = indicator(y, K), indicator(y_test, K), ("top-1", "top-5")
    (n, d), K = X.shape, Y.shape[1]
    score = partial(quality_several if several else quality, Y=Y, Y_test=Y_test)
    print(f"{args.path.name}: n = {n:,}, d = {d:,}, K = {K:,}, ", end="")
    print(f"{X_test.shape[0]:,} rows to test")
    print(f"Python {platform.python_version()}", *versions(), sep=", ")
    print(f"{args.threads} threads on {os.cpu_count()} cores")
    print(f"One-vs-rest in float32: {4 * (d + 1) * K / 1e6:,.0f} MB")

    found = ours(X, y, X_test, args.budgets, args.fit, args.threads, score)
    print(header(names))
    for name, figures in found.items():
        print(line(name, figures, names), flush=True)
    options = args.one_vs_rest, args.threads, score
    found = one_vs_rest(X, Y, X_test, *options)
    for name, figures in ({"ovr": found} if isinstance(found, str) else found).items():
        print(line(name, figures, names), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for part, A in zip(PARTS, (X, Y, X_test), strict=True):
            sp.save_npz(f"{folder}/{part}.npz", A, compressed=False)
        job = {"seed": 0, "folder": folder, "several": several, "params": {}}
        job["small_mb"] = None
        job["threads"] = args.threads
        for peer in filter(None, args.peers.split(",")):
            found = compare(peer, job, args, score, (n, d, K))
            if isinstance(found, dict):
                found["file"], found["make"] = found["bytes"] / 1e6, found["fit"]
                found["batch"] = 1e6 * found["predict"] / X_test.shape[0]
            print(line(peer, found, names), flush=True)


if __name__ == "__main__":
    main()
