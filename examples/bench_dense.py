"""
Dense rows
==========

MACH on embeddings beside what else takes them, each in a process of its own: seconds,
accuracy, bytes of the model and peak memory; and how near an epoch is to BLAS.

    python examples/bench_dense.py clusters few products imagenet FOLDER ...

clusters  20,000 Gaussian clusters in 384 columns, 95,000 rows, unit length
few       2,000 rows of 500 columns, 2 % filled, 700 classes; dense and as CSR
products  the time of an epoch against NumPy's products of the same shapes, threads
          as many, for several d and B
imagenet  100,000 rows of 6,144 columns, 21,841 classes: the bytes; the products of a
          sixth of the rows
FOLDER    has ``train.npz`` and ``test.npz`` (data, indices, indptr, shape, y), whose
          rows are reduced by truncated SVD to each of ``--columns``
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from sklearn_mach import MACHClassifier, _steps, _training
from sklearn_mach._targets import Targets
from sklearn_mach.datasets import make_many_classes

N_JOBS = os.cpu_count()
SHAPES = [  # features, classes, rows
    (256, 1_000, 20_000),
    (1_024, 1_000, 20_000),
    (384, 20_000, 16_384),
    (1_536, 512, 20_000),
    (768, 50_000, 8_192),
]


def top5(model, X):
    """The five best classes of each row, best first; one for want of scores."""
    if isinstance(model, MACHClassifier):
        return model.predict_topk(X, k=min(5, len(model.classes_)))
    if hasattr(model, "predict_proba") or hasattr(model, "decision_function"):
        name = (
            "predict_proba" if hasattr(model, "predict_proba") else "decision_function"
        )
        scores = getattr(model, name)(X)
        return model.classes_[np.argsort(-scores, axis=1)[:, :5]]
    return model.predict(X)[:, None]


CLASSIFIERS = {
    "MACH": lambda **params: MACHClassifier(random_state=0, n_jobs=N_JOBS, **params),
    "logistic": lambda: LogisticRegression(C=10),  # better here than 1 and 100
    "LinearSVC": LinearSVC,
    "centroid": NearestCentroid,
    "30 neighbours": lambda: KNeighborsClassifier(30, algorithm="brute"),
}


def job(path, name, params):
    """Fit and test one classifier, and print what was measured as JSON."""
    data = np.load(path)
    X, y, X_test, y_test = (data[part] for part in ("X", "y", "X_test", "y_test"))
    if params.pop("sparse", False):
        X, X_test = sp.csr_matrix(X), sp.csr_matrix(X_test)
    model = CLASSIFIERS[name](**params)
    if name == "MACH":  # compiles
        rows = np.arange(min(1500, len(y)))
        MACHClassifier(n_jobs=N_JOBS, max_iter=1).fit(X[rows], y[rows]).predict(X[:64])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model.fit(X, y)
    fitted = time.perf_counter()
    step = 1 << 9
    best = [top5(model, X_test[i : i + step]) for i in range(0, len(y_test), step)]
    hit = np.concatenate(best) == y_test[:, None]
    found = {
        "seconds": fitted - start,
        "predict": time.perf_counter() - fitted,
        "top-1": float(hit[:, 0].mean()),
        "top-5": float(hit.any(axis=1).mean()),
        "peak": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
    }
    if name == "MACH":
        sizes = {
            name: getattr(model, name) for name in ("n_repetitions_", "n_buckets_")
        }
        found |= sizes | {"epochs": model.n_iter_, "bytes": int(model.model_bytes_)}
    print(json.dumps(found))


def compare(title, X, y, X_test, y_test, names, timeout, params=({},)):
    """Print a line for each classifier; MACH with each of the `params`."""
    sizes = f"{len(y):,} rows, {X.shape[1]:,} columns, {len(np.unique(y)):,} classes"
    print(f"\n{title}: {sizes}, {len(y_test):,} rows to test", flush=True)
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.npz")
        np.savez(path, X=X, y=y, X_test=X_test, y_test=y_test)
        for name in names:
            for given in params if name == "MACH" else ({},):
                args = [sys.executable, __file__, "--job", str(path), name]
                args.append(json.dumps(given))
                try:
                    run = subprocess.run(
                        args, stdout=subprocess.PIPE, check=True, timeout=timeout
                    )
                except subprocess.TimeoutExpired:
                    print(f"{name:14} not in {timeout:.0f} s", flush=True)
                    continue
                f = json.loads(run.stdout.splitlines()[-1])
                extra = ""
                if name == "MACH":
                    extra = f"R={f['n_repetitions_']} B={f['n_buckets_']} " + (
                        f"epochs {f['epochs']}, {f['bytes'] / 1e6:.0f} MB {given or ''}"
                    )
                print(
                    f"{name:14} top-1 {f['top-1']:.4f} top-5 {f['top-5']:.4f}  fit "
                    f"{f['seconds']:7.1f} s  predict {f['predict']:5.1f} s  peak "
                    f"{f['peak'] / 1e6:6.0f} MB  {extra}",
                    flush=True,
                )


def clusters(n_classes=20_000, n_features=384, n_rows=95_000):
    """Centres N(0, I), rows centre + 1.5 N(0, I), scaled to unit length."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((n_classes, n_features), dtype=np.float32)
    y = rng.integers(0, n_classes, n_rows + 5_000)
    X = centers[y] + 1.5 * rng.standard_normal((len(y), n_features), dtype=np.float32)
    X = normalize(X)
    return X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:]


def few():
    rng = np.random.default_rng(0)
    X = sp.random_array((2_000, 500), density=0.02, rng=rng, dtype=np.float32)
    y = np.append(np.arange(700), rng.integers(0, 700, 1_300))
    return X.toarray(), y, X[:100].toarray(), y[:100]


def read(path):
    data = np.load(path)
    arrays = data["data"], data["indices"], data["indptr"]
    return normalize(sp.csr_matrix(arrays, shape=tuple(data["shape"]))), data["y"]


def reduced(folder, n_columns):
    X, y = read(folder / "train.npz")
    X_test, y_test = read(folder / "test.npz")
    svd = TruncatedSVD(n_columns, n_iter=2, random_state=0).fit(X)
    rows = (normalize(svd.transform(part)).astype(np.float32) for part in (X, X_test))
    X, X_test = rows
    return X, y, X_test, y_test


def products(shapes, repeats=8):
    """The share of an epoch's two products by BLAS in the epoch, for each shape."""
    shares = []
    for n_features, n_classes, n_rows in shapes:
        X, y = make_many_classes(
            n_rows, n_features, n_classes, dense=True, class_exponent=0, random_state=0
        )
        y = y.astype(np.int32)
        table = np.arange(n_classes)[:, None]
        options = MACHClassifier(max_iter=1, tol=None).get_params(deep=False)
        settings, _ = _steps.make_settings(
            X, Targets.of(y), None, options, 0, n_columns=n_classes
        )
        W = np.zeros((n_features, n_classes), np.float32)
        b = np.zeros(n_classes, np.float32)
        size = settings.batch_size
        gradients = np.ones((size, n_classes), np.float32)

        def blas(X=X, W=W, G=gradients, size=size):
            for start in range(0, len(X) - size + 1, size):
                rows = X[start : start + size]
                rows @ W
                rows.T @ G

        args = X, Targets.of(y), table, W, b, 0, False, settings, N_JOBS
        times = []
        for _ in range(repeats):
            times.append([])
            for function, given in ((blas, ()), (_training.train_all, args)):
                time.sleep(0.5)  # threads of BLAS stay awake for a while
                start = time.perf_counter()
                function(*given)
                times[-1].append(time.perf_counter() - start)
        ratios = [a / b for a, b in times[1:]]
        blas_time, ours = (median(part) for part in zip(*times[1:], strict=True))
        shares.append(median(ratios))
        rate = 4 * n_rows * n_features * n_classes / blas_time / 1e9
        print(
            f"d {n_features:5} B {n_classes:6} batches of {size}: BLAS {rate:.0f} "
            f"GFLOP/s, {blas_time:.2f} s; an epoch {ours:.2f} s, share "
            f"{shares[-1]:.2f} (bar .80)",
            flush=True,
        )
    return shares


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("what", nargs="*", default=["clusters", "few", "products"])
    parser.add_argument("--columns", default="256,1024")
    parser.add_argument("--only", default=",".join(CLASSIFIERS))
    parser.add_argument("--timeout", type=float, default=1200)
    parser.add_argument(
        "--params", type=json.loads, default=[{}], help="of MACH, a list"
    )
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        path, name, params = args.job
        return job(path, name, json.loads(params))
    names = args.only.split(",")
    common = {"timeout": args.timeout, "params": args.params}
    for what in args.what:
        if what == "clusters":
            some = [name for name in names if name in ("MACH", "centroid")]
            compare(what, *clusters(), some, **common)
        elif what == "few":
            compare(what, *few(), ["MACH"], args.timeout, ({}, {"sparse": True}))
        elif what == "products":
            products(SHAPES)
        elif what == "imagenet":
            X, y = make_many_classes(
                101_000, 6_144, 21_841, dense=True, class_exponent=0, random_state=0
            )
            rows = X[:100_000], y[:100_000], X[100_000:], y[100_000:]
            compare(what, *rows, ["MACH"], args.timeout, ({"max_iter": 1},))
            del X, rows
            products([(6_144, 21_841, 16_384)], repeats=3)
        else:
            for n_columns in map(int, args.columns.split(",")):
                rows = reduced(Path(what), n_columns)
                compare(f"{Path(what).name}, SVD", *rows, names, **common)


if __name__ == "__main__":
    main()
