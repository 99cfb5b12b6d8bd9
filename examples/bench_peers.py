"""Accuracy, time and memory of MACHClassifier and of its peers on the same rows.

    python examples/bench_peers.py PATH [--peers mach,ovr,...] [--seeds 3] [--curve]
        [--params '{"n_repetitions": 8}']

PATH is a folder with ``train.npz`` and ``test.npz``, each a CSR matrix (data, indices,
indptr, shape) and its labels y (0 to K - 1), or with a ``builder.py`` that makes such
matrices of ``text.txt.gz``. Rows are scaled to unit length. macro is the mean over the
classes of their top-1 accuracy.

Peers that are not installed are left out. ovr, ecoc and nb are scikit-learn's. The
others are in the packages napkinxc, omikuji, fasttext-wheel and libpecos. libpecos
needs numpy 1: ``--python pecos=OTHER/bin/python`` runs a peer in another environment.

Each fit has a process of its own. Its clock starts when the data is in memory, the
modules are imported, text files for omikuji and fastText are written, and our kernels
are compiled by a fit of a few rows. Peak memory is that of the fit, above the loaded
data, as the Linux kernel counts it. All get the same number of threads.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import numpy as np
import scipy.sparse as sp

EXTRA = ("napkinxc", "omikuji", "fasttext-wheel")
RARE = 5  # classes with at most so many training rows are reported apart
PARTS = ("data", "indices", "indptr", "y")
HEADER = (
    f"{'':18}top-1  top-5  macro   rare    fit s  ratio   CPU s  predict s  model MB"
    "  peak MB"
)


def top5(score, labels, X):
    """Best five by a dense score function, 500 rows at a time."""
    best = []
    for first in range(0, X.shape[0], 500):
        scores = score(X[first : first + 500])
        part = np.argpartition(-scores, 4, axis=1)[:, :5]
        order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1)
        best.append(labels[np.take_along_axis(part, order, axis=1)])
    return np.concatenate(best)


def padded(lists):
    """Lists of labels, best first, as an array with five columns."""
    return np.array([([*map(int, row)] + [-1] * 5)[:5] for row in lists])


def files_bytes(path):
    """Bytes of a file, or of all files of a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


# Each of these prepares what needs no clock and returns a function that fits. That one
# returns two: the best five classes of rows, and the bytes of the model.


def mach(X, y, job):
    from sklearn_mach import MACHClassifier

    params = job["params"] | {"random_state": job["seed"], "n_jobs": job["threads"]}
    few = X[:300, :1000]
    MACHClassifier(random_state=0, max_iter=1).fit(few, y[:300]).predict_topk(few)

    def fit():
        model = MACHClassifier(**params).fit(X, y)
        return model.predict_topk, lambda: model.model_bytes_

    return fit


def ovr(X, y, job):
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import LinearSVC

    def fit():
        model = OneVsRestClassifier(LinearSVC(random_state=job["seed"])).fit(X, y)
        return (
            lambda X: top5(model.decision_function, model.classes_, X),
            lambda: sum(e.coef_.nbytes + 8 for e in model.estimators_),
        )

    return fit


def ecoc(X, y, job):
    from sklearn.metrics.pairwise import euclidean_distances
    from sklearn.multiclass import OutputCodeClassifier
    from sklearn.svm import LinearSVC

    seed = job["seed"]

    def fit():
        base = LinearSVC(random_state=seed)
        model = OutputCodeClassifier(base, code_size=0.25, random_state=seed).fit(X, y)

        def score(X):  # predict of scikit-learn takes the smallest distance
            outputs = [e.decision_function(X) for e in model.estimators_]
            return -euclidean_distances(np.transpose(outputs), model.code_book_)

        return (
            lambda X: top5(score, model.classes_, X),
            lambda: (
                model.code_book_.nbytes
                + sum(e.coef_.nbytes + 8 for e in model.estimators_)
            ),
        )

    return fit


def nb(X, y, job):
    from sklearn.naive_bayes import MultinomialNB

    def fit():
        model = MultinomialNB(alpha=0.01).fit(X, y)
        return (
            lambda X: top5(model.predict_joint_log_proba, model.classes_, X),
            lambda: model.feature_log_prob_.nbytes + model.class_log_prior_.nbytes,
        )

    return fit


def napkinxc(X, y, job):
    from napkinxc.models import PLT

    folder, rows = os.path.join(job["scratch"], "plt"), [[int(label)] for label in y]

    def fit():
        model = PLT(folder, seed=job["seed"], threads=job["threads"], verbose=False)
        model.fit(X, rows)
        return (
            lambda X: padded(model.predict(X, top_k=5)),
            lambda: files_bytes(folder),
        )

    return fit


def pecos(X, y, job):
    from pecos.xmc import Indexer, LabelEmbeddingFactory
    from pecos.xmc.xlinear.model import XLinearModel

    Y = sp.csr_matrix(
        (np.ones(y.size, np.float32), (np.arange(y.size), y)),
        shape=(y.size, job["n_classes"]),
    )
    threads, folder = job["threads"], os.path.join(job["scratch"], "pecos")

    def fit():
        features = LabelEmbeddingFactory.create(Y, X, method="pifa", threads=threads)
        tree = Indexer.gen(features, seed=job["seed"], threads=threads)
        model = XLinearModel.train(X, Y, C=tree, threads=threads)

        def topk(X):
            P = model.predict(X, only_topk=5, threads=threads).tocsr()
            rows = [slice(*P.indptr[i : i + 2]) for i in range(P.shape[0])]
            return padded(P.indices[row][np.argsort(-P.data[row])] for row in rows)

        return topk, lambda: model.save(folder) or files_bytes(folder)

    return fit


def omikuji(X, y, job, bonsai=False):
    import omikuji

    file = write_rows(
        X, y, job, f"{{}} {X.shape[1]} {job['n_classes']}\n", "{} {}", "{}:{:g}"
    )
    folder = os.path.join(job["scratch"], "trees")
    settings = omikuji.Model.default_hyper_param()
    if bonsai:  # the settings that its authors give for Bonsai
        settings.cluster_balanced, settings.cluster_k, settings.max_depth = (
            False,
            100,
            3,
        )

    def fit():
        model = omikuji.Model.train_on_data(file, settings, n_threads=job["threads"])

        def topk(X):
            found = (model.predict(list(pairs(row)), top_k=5) for row in X)
            return padded([label for label, _ in best] for best in found)

        return topk, lambda: model.save(folder) or files_bytes(folder)

    return fit


def bonsai(X, y, job):
    return omikuji(X, y, job, bonsai=True)


def fasttext(X, y, job):  # a bag of columns, without values; steps as in its tutorial
    import fasttext

    file = write_rows(X, y, job, "", "__label__{} {}", "{}")
    path = os.path.join(job["scratch"], "model.bin")

    def fit():
        model = fasttext.train_supervised(
            file, lr=0.5, epoch=25, thread=job["threads"], seed=job["seed"], verbose=0
        )

        def topk(X):
            rows = np.split(X.indices, X.indptr[1:-1])
            found = model.predict([" ".join(map(str, row)) for row in rows], k=5)[0]
            return padded([label[len("__label__") :] for label in row] for row in found)

        return topk, lambda: model.save_model(path) or files_bytes(path)

    return fit


def pairs(row):
    """Columns and values of a sparse row, as Python numbers."""
    return zip(row.indices.tolist(), row.data.tolist(), strict=True)


def write_rows(X, y, job, head, line, item):
    """A text file of the rows that are not empty."""
    path = os.path.join(job["scratch"], "train.txt")
    used = np.flatnonzero(np.diff(X.indptr))
    with open(path, "w") as file:
        file.write(head.format(used.size))
        for i in used:
            items = " ".join(item.format(*pair) for pair in pairs(X[i]))
            file.write(line.format(y[i], items) + "\n")
    return path


# Peer, the module that it needs, and about how many bytes it takes.
PEERS = {
    "mach": (mach, "sklearn_mach", lambda n, d, K: 0),
    "ovr": (ovr, "sklearn", lambda n, d, K: 8 * d * K),
    "ecoc": (ecoc, "sklearn", lambda n, d, K: 2 * d * K),
    "nb": (nb, "sklearn", lambda n, d, K: 24 * d * K + 16 * n * K),
    "napkinxc": (napkinxc, "napkinxc", lambda n, d, K: 0),
    "pecos": (pecos, "pecos", lambda n, d, K: 0),
    "parabel": (omikuji, "omikuji", lambda n, d, K: 0),
    "bonsai": (bonsai, "omikuji", lambda n, d, K: 0),
    "fasttext": (fasttext, "fasttext", lambda n, d, K: 0),
}


def memory(field):
    """Bytes of a field of this process in the Linux kernel's table, or NaN."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return 1024 * next(int(line.split()[1]) for line in lines if field in line)


def measure(job):
    """One peer, in this process. Prints a line of JSON."""
    X, y = read_part(job["folder"], "train")
    X_test, y_test = read_part(job["folder"], "test")
    fit = PEERS[job["peer"]][0](X, y, job)
    before, cpu = memory("VmRSS"), sum(os.times()[:4])
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        pass
    start = perf_counter()
    topk, n_bytes = fit()
    seconds, cpu = perf_counter() - start, sum(os.times()[:4]) - cpu
    peak = memory("VmHWM") - before
    start = perf_counter()
    hits = topk(X_test) == y_test[:, None]
    predict = perf_counter() - start
    rare = np.bincount(y, minlength=job["n_classes"])[y_test] <= RARE
    by_class = np.bincount(y_test, hits[:, 0]), np.bincount(y_test)
    tested = by_class[1] > 0
    result = {
        "top1": hits[:, 0].mean(),
        "top5": hits.any(axis=1).mean(),
        "macro": (by_class[0][tested] / by_class[1][tested]).mean(),
        "rare": hits[rare, 0].mean() if rare.any() else float("nan"),
        "fit": seconds,
        "cpu": cpu,
        "predict": predict,
        "bytes": n_bytes(),
        "peak": peak,
    }
    print("\n" + json.dumps({key: float(value) for key, value in result.items()}))


def read_part(folder, part):
    data, indices, indptr, y = (np.load(f"{folder}/{part}_{p}.npy") for p in PARTS)
    n_features = int(np.load(f"{folder}/n_features.npy"))
    return sp.csr_matrix((data, indices, indptr), shape=(y.size, n_features)), y


def load(path, limit):
    """The parts of a folder, rows of unit length."""
    from sklearn.preprocessing import normalize

    if (path / "builder.py").exists():
        sys.path.insert(0, str(path))
        from builder import build

        parts = build(path / "text.txt.gz", K=20_000, n_train=1_000_000, n_test=50_000)
        X, y, X_test, y_test = parts[:4]
        X_test, y_test = X_test[:20_000], y_test[:20_000]
    else:
        files = (np.load(path / f"{part}.npz") for part in ("train", "test"))
        (X, y), (X_test, y_test) = (
            (sp.csr_matrix(tuple(z[p] for p in PARTS[:3]), shape=z["shape"]), z["y"])
            for z in files
        )
    X, y = X[:limit], y[:limit]
    return normalize(X), y, normalize(X_test), y_test


def run(job, args, **changes):
    """One peer in a process of its own: its figures, or why there are none."""
    job = job | changes
    python = dict(args.python).get(job["peer"], sys.executable)
    with tempfile.TemporaryDirectory() as scratch:
        job = json.dumps(job | {"scratch": scratch})
        command = [python, __file__, "--job", job]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=args.timeout
            )
        except subprocess.TimeoutExpired:
            return f"not done after {args.timeout:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return f"failed: {lines[-1][:100]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(peer, job, args, size):
    """Figures of a peer, ours averaged over the seeds, or why there are none."""
    _, module, needs = PEERS[peer]
    if peer not in dict(args.python) and importlib.util.find_spec(module) is None:
        return "not installed"
    needed = needs(*size)
    if needed > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return f"needs {needed / 1e9:.0f} GB, more than is free"
    seeds = range(args.seeds if peer == "mach" else 1)
    found = [run(job, args, peer=peer, seed=seed) for seed in seeds]
    for failure in found:
        if isinstance(failure, str):
            return failure
    return {key: np.mean([f[key] for f in found]) for key in found[0]}


def versions():
    """What is installed here of the packages that matter."""
    for name in ("numpy", "scipy", "scikit-learn", "numba", "sklearn-mach", *EXTRA):
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            pass


def row(name, f, ours):
    """A line of the table."""
    if isinstance(f, str):
        return f"{name:16}  {f}"
    ratio = f"{f['fit'] / ours['fit']:.2f}" if ours else ""
    return (
        f"{name:16} {f['top1']:6.4f} {f['top5']:6.4f} {f['macro']:6.4f} "
        f"{f['rare']:6.4f} {f['fit']:8.1f} {ratio:>6} {f['cpu']:7.1f} "
        f"{f['predict']:10.1f} {f['bytes'] / 1e6:9.1f} {f['peak'] / 1e6:8.1f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH")
    parser.add_argument("--seeds", type=int, default=1, help="of ours, averaged")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--limit-train", type=int, metavar="ROWS")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS")
    parser.add_argument("--params", type=json.loads, default={}, help="of ours")
    parser.add_argument("--curve", action="store_true", help="sweep R and B of ours")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.python = [pair.split("=", 1) for pair in args.python]
    if args.job:
        from joblib import parallel_config

        with parallel_config("threading", n_jobs=args.job["threads"]):
            return measure(args.job)

    peers = args.peers.split(",")
    if args.path is None or not PEERS.keys() >= set(peers):
        parser.error(f"needs PATH, and peers among {', '.join(PEERS)}")
    X, y, X_test, y_test = load(args.path, args.limit_train)
    (n, d), K = X.shape, int(max(y.max(), y_test.max())) + 1
    n_rare = (np.bincount(y, minlength=K)[y_test] <= RARE).sum()
    print(f"{args.path.name}: n = {n:,}, d = {d:,}, K = {K:,}, {y_test.size:,} to test")
    print(
        f"rare: top-1 of {n_rare:,} test rows, classes of at most {RARE} training rows"
    )
    print(f"Python {platform.python_version()}", *versions(), sep=", ")
    print(f"{args.threads} threads on {os.cpu_count()} cores; ratio: of fit s to ours")

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/n_features.npy", d)
        for part, A, labels in (("train", X, y), ("test", X_test, y_test)):
            arrays = (A.data, A.indices, A.indptr, labels)
            for name, array in zip(PARTS, arrays, strict=True):
                np.save(f"{folder}/{part}_{name}.npy", array)
        X_bytes = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
        del A, X, X_test, array, arrays  # the memory is for the peers

        job = {"peer": "mach", "seed": 0, "folder": folder, "n_classes": K}
        job |= {"threads": args.threads, "params": args.params}
        ours = None
        print(HEADER)
        for peer in peers:
            found = compare(peer, job, args, (n, d, K))
            if peer == "mach" and isinstance(found, dict):
                ours = found
            print(row(peer, found, ours), flush=True)
        if ours:
            X_and_weights = X_bytes + ours["bytes"]
            print(
                f"mach: X {X_bytes / 1e6:.1f} MB, weights {ours['bytes'] / 1e6:.1f} MB"
            )
            share = (X_bytes + ours["peak"]) / X_and_weights
            print(f"mach: X and the peak of fit are {share:.3f} x (X and weights)")
        if args.curve:
            print(f"\nAccuracy against model size\n{HEADER}")
            for R in (4, 8, 16, 32):
                for B in (32, 64, 128):
                    sizes = {"n_repetitions": R, "n_buckets": B}
                    found = run(job, args, params=sizes)
                    print(row(f"mach R={R} B={B}", found, ours), flush=True)


if __name__ == "__main__":
    main()
