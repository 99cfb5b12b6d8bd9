"""Accuracy, time and memory of MACHClassifier and of its peers on the same rows.

    python examples/bench_peers.py PATH [--peers mach,ovr,...] [--seeds 3] [--curve]
        [--tfidf] [--pairs] [--params '{"n_repetitions": 8}'] [--save PATH]

PATH is a folder with ``train.npz`` and ``test.npz``, each a CSR matrix (data, indices,
indptr, shape) and its labels, or with a ``builder.py`` that makes such matrices of
``text.txt.gz``. Rows are scaled to unit length; ``--tfidf`` weighs their counts first,
and ``--pairs`` adds the products of two columns, for sets of few.

The labels of a set with one label a row are y (0 to K - 1). macro is the mean over the
classes of their top-1 accuracy. A set of several labels a row has the CSR indicator of
its labels (y_indices, y_indptr, y_shape). P@k is the precision of the best k labels and
PSP@k the same weighed by inverse propensities (Jain, Prabhu and Varma, 2016). A test
row without a label counts as one with no hit. mach_pairs gives MACHClassifier a row of
one label for each pair of row and label.

Peers that are not installed are left out. ovr (LinearSVC one-vs-rest), sgd (logistic
SGDClassifier one-vs-rest), ecoc and nb are scikit-learn's. napkinxc (its label tree)
and br (its binary relevance) are in the package napkinxc, parabel and bonsai in
omikuji, fasttext and fasttext_hs (its softmax and its hierarchical softmax) in
fasttext-wheel, pecos in libpecos, which needs numpy 1. vw is
Vowpal Wabbit (vowpalwabbit), with its probabilistic label tree, ``--plt``: of its
reductions for thousands of classes the one that names the five best and takes several
labels. mach_small is a fit of ours and ``compress`` to ``--small-bytes``.
``--python pecos=OTHER/bin/python`` runs a peer in another environment.

Each fit has a process of its own. Its clock starts when the data is in memory, the
modules are imported, text files for omikuji, fastText and VW are written, and our
kernels are compiled by a fit of a few rows. Peak memory is that of the fit, above the
loaded data, as the Linux kernel counts it. All get the same number of threads; VW
trains in one and parses in another.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import bench_results
import numpy as np
import scipy.sparse as sp

EXTRA = ("napkinxc", "omikuji", "fasttext-wheel", "libpecos", "vowpalwabbit")
RARE = 5  # classes with at most so many training rows are reported apart
AT = (1, 3, 5)  # k of P@k and PSP@k
PARTS = ("X", "Y", "X_test")  # files for the processes


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


def columns(A):
    """The columns that each row of a CSR matrix stores."""
    return np.split(A.indices, A.indptr[1:-1])


# Each of these takes rows X and the CSR indicator Y of their labels, prepares what
# needs no clock and returns a function that fits. That one returns two: the best five
# labels of rows, and the bytes of the model.


def mach(X, Y, job, by_pair=False, small=False):
    from sklearn_mach import MACHClassifier

    params = job["params"] | {"random_state": job["seed"], "n_jobs": job["threads"]}

    def trained(model, X, Y):
        if by_pair:
            X = X[np.repeat(np.arange(X.shape[0]), np.diff(Y.indptr))]
        one_label = by_pair or not job["several"]
        return model.fit(X, Y.indices if one_label else Y)

    few = X[:300, :1000]
    first = trained(MACHClassifier(random_state=0, max_iter=1), few, Y[:300])
    if small:
        first = first.compress(max_bytes=first.model_bytes_ // 2)
    first.predict_topk(few)

    def fit():
        model = trained(MACHClassifier(**params), X, Y)
        if small:
            model = model.compress(
                max_bytes=job["small_bytes"] or model.model_bytes_ // 20
            )
        return lambda X: model.predict_topk(X, k=5), lambda: model.model_bytes_

    return fit


def mach_pairs(X, Y, job):
    return mach(X, Y, job, by_pair=True)


def mach_small(X, Y, job):
    return mach(X, Y, job, small=True)


def coef_bytes(estimators):
    """Bytes of binary linear models; one for a label without rows has no weights."""
    return sum(e.coef_.nbytes + 8 for e in estimators if hasattr(e, "coef_"))


def ovr(X, Y, job):
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import LinearSVC

    y = Y if job["several"] else Y.indices

    def fit():
        model = OneVsRestClassifier(LinearSVC(random_state=job["seed"])).fit(X, y)
        return (
            lambda X: top5(model.decision_function, model.classes_, X),
            lambda: coef_bytes(model.estimators_),
        )

    return fit


def sgd(X, Y, job):
    from sklearn.linear_model import SGDClassifier
    from sklearn.multiclass import OneVsRestClassifier

    params = {"loss": "log_loss", "random_state": job["seed"]}

    def fit():
        if job["several"]:
            model = OneVsRestClassifier(SGDClassifier(**params), n_jobs=job["threads"])
            model.fit(X, Y)
            size = coef_bytes(model.estimators_)
        else:
            model = SGDClassifier(**params, n_jobs=job["threads"]).fit(X, Y.indices)
            size = model.coef_.nbytes + model.intercept_.nbytes
        return lambda X: top5(model.decision_function, model.classes_, X), lambda: size

    return fit


def ecoc(X, Y, job):
    from sklearn.metrics.pairwise import euclidean_distances
    from sklearn.multiclass import OutputCodeClassifier
    from sklearn.svm import LinearSVC

    seed = job["seed"]

    def fit():
        base = LinearSVC(random_state=seed)
        model = OutputCodeClassifier(base, code_size=0.25, random_state=seed)
        model.fit(X, Y.indices)

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


def nb(X, Y, job):
    from sklearn.naive_bayes import MultinomialNB

    def fit():
        model = MultinomialNB(alpha=0.01).fit(X, Y.indices)
        return (
            lambda X: top5(model.predict_joint_log_proba, model.classes_, X),
            lambda: model.feature_log_prob_.nbytes + model.class_log_prior_.nbytes,
        )

    return fit


def napkinxc(X, Y, job, kind="PLT"):
    from napkinxc import models

    folder = os.path.join(job["scratch"], "model")
    rows = [labels.tolist() for labels in columns(Y)]
    params = {"seed": job["seed"]} if kind == "PLT" else {}

    def fit():
        model = getattr(models, kind)(
            folder, threads=job["threads"], verbose=False, **params
        )
        model.fit(X, rows)
        return (
            lambda X: padded(model.predict(X, top_k=5)),
            lambda: files_bytes(folder),
        )

    return fit


def br(X, Y, job):
    return napkinxc(X, Y, job, kind="BR")


def pecos(X, Y, job):
    from pecos.xmc import Indexer, LabelEmbeddingFactory
    from pecos.xmc.xlinear.model import XLinearModel

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


def parabel(X, Y, job, bonsai=False):
    import omikuji

    head = f"{{}} {X.shape[1]} {Y.shape[1]}\n"
    file = write_rows(X, Y, job, head, "{} {}", "{}:{:g}")
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


def bonsai(X, Y, job):
    return parabel(X, Y, job, bonsai=True)


def fasttext(
    X, Y, job, loss="softmax"
):  # a bag of columns, without values; steps as in its tutorial
    import fasttext

    file = write_rows(X, Y, job, "", "__label__{} {}", "{}")
    path = os.path.join(job["scratch"], "model.bin")

    def fit():
        model = fasttext.train_supervised(
            file,
            lr=0.5,
            epoch=25,
            loss=loss,
            thread=job["threads"],
            seed=job["seed"],
            verbose=0,
        )

        def topk(X):
            rows = [" ".join(map(str, row)) for row in columns(X)]
            found = model.predict(rows, k=5)[0]
            return padded([label[len("__label__") :] for label in row] for row in found)

        return topk, lambda: model.save_model(path) or files_bytes(path)

    return fit


def fasttext_hs(X, Y, job):
    return fasttext(X, Y, job, loss="hs")


def vw(X, Y, job):  # three passes, as its own demonstrations of label trees take
    from vowpalwabbit import Workspace

    file = write_rows(X, Y, job, "", "{} | {}", "{}:{:g}")
    model, cache, test, found = (
        os.path.join(job["scratch"], name) for name in ("model", "cache", "test", "out")
    )
    always = ["--quiet", "--loss_function", "logistic"]

    def fit():
        tree = ["--plt", str(Y.shape[1]), "-b", "28", "--holdout_off"]
        passes = ["--passes", "3", "--cache_file", cache]
        Workspace(arg_list=[*always, *tree, *passes, "-d", file, "-f", model]).finish()

        def topk(X):
            with open(test, "w") as rows:
                for row in X:
                    items = " ".join("{}:{:g}".format(*pair) for pair in pairs(row))
                    rows.write(f"| {items}\n")
            best = ["-t", "-i", model, "--top_k", "5", "-d", test, "-p", found]
            Workspace(arg_list=[*always, *best]).finish()
            lines = Path(found).read_text().splitlines()
            pieces = (
                [pair.split(":")[0] for pair in line.split(",")] for line in lines
            )
            return padded([label for label in row if label] for row in pieces)

        return topk, lambda: files_bytes(model)

    return fit


def pairs(row):
    """Columns and values of a sparse row, as Python numbers."""
    return zip(row.indices.tolist(), row.data.tolist(), strict=True)


def write_rows(X, Y, job, head, line, item):
    """A text file of the rows that have features and labels."""
    path = os.path.join(job["scratch"], "train.txt")
    used, labels = np.flatnonzero(np.diff(X.indptr) * np.diff(Y.indptr)), columns(Y)
    with open(path, "w") as file:
        file.write(head.format(used.size))
        for i in used:
            items = " ".join(item.format(*pair) for pair in pairs(X[i]))
            file.write(line.format(",".join(map(str, labels[i])), items) + "\n")
    return path


# Peer, the module that it needs, and about how many bytes it takes.
PEERS = {
    "mach": (mach, "sklearn_mach", lambda n, d, K: 0),
    "mach_pairs": (mach_pairs, "sklearn_mach", lambda n, d, K: 0),
    "mach_small": (mach_small, "sklearn_mach", lambda n, d, K: 0),
    "fasttext": (fasttext, "fasttext", lambda n, d, K: 0),
    "fasttext_hs": (fasttext_hs, "fasttext", lambda n, d, K: 0),
    "pecos": (pecos, "pecos", lambda n, d, K: 0),
    "parabel": (parabel, "omikuji", lambda n, d, K: 0),
    "bonsai": (bonsai, "omikuji", lambda n, d, K: 0),
    "napkinxc": (napkinxc, "napkinxc", lambda n, d, K: 0),
    "br": (br, "napkinxc", lambda n, d, K: 0),
    "vw": (vw, "vowpalwabbit", lambda n, d, K: 0),
    "nb": (nb, "sklearn", lambda n, d, K: 24 * d * K + 16 * n * K),
    "ovr": (ovr, "sklearn", lambda n, d, K: 8 * d * K),
    "sgd": (sgd, "sklearn", lambda n, d, K: 8 * d * K),
    "ecoc": (ecoc, "sklearn", lambda n, d, K: 2 * d * K),
}
ONE_LABEL = {
    "ecoc",
    "nb",
    "fasttext",
    "fasttext_hs",
}  # peers that run on such sets alone
SEVERAL_LABELS = {"mach_pairs", "br"}


def memory(field):
    """Bytes of a field of this process in the Linux kernel's table, or NaN."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return 1024 * next(int(line.split()[1]) for line in lines if field in line)


def measure(job):
    """One peer, in this process. Saves its best labels and prints a line of JSON."""
    X, Y, X_test = (sp.load_npz(f"{job['folder']}/{part}.npz") for part in PARTS)
    fit = PEERS[job["peer"]][0](X, Y, job)
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
    best = topk(X_test)
    predict = perf_counter() - start
    np.save(os.path.join(job["scratch"], "best.npy"), best)
    result = {"fit": seconds, "cpu": cpu, "predict": predict}
    result |= {"bytes": n_bytes(), "peak": peak}
    print("\n" + json.dumps({key: float(value) for key, value in result.items()}))


def quality(best, Y, Y_test):
    """Figures of the best five labels of test rows, one label a row."""
    y_test = Y_test.indices
    hits = best == y_test[:, None]
    rare = np.bincount(Y.indices, minlength=Y.shape[1])[y_test] <= RARE
    by_class = np.bincount(y_test, hits[:, 0]), np.bincount(y_test)
    tested = by_class[1] > 0
    return {
        "top-1": hits[:, 0].mean(),
        "top-5": hits.any(axis=1).mean(),
        "macro": (by_class[0][tested] / by_class[1][tested]).mean(),
        "rare": hits[rare, 0].mean() if rare.any() else float("nan"),
    }


def quality_several(best, Y, Y_test):
    """Figures of the best five labels of test rows, several labels a row."""
    from sklearn_mach.metrics import (
        inverse_propensities,
        precision_at_k,
        propensity_scored_precision_at_k,
    )

    weights = inverse_propensities(Y)
    precision = {f"P@{k}": precision_at_k(Y_test, best, k) for k in AT}
    return precision | {
        f"PSP@{k}": propensity_scored_precision_at_k(Y_test, best, weights, k)
        for k in AT
    }


def load(path, limit, tfidf=False, pairs=False):
    """The parts of a folder, rows of unit length. Several labels are a CSR matrix."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import PolynomialFeatures

    if (path / "builder.py").exists():
        sys.path.insert(0, str(path))
        from builder import build

        parts = build(path / "text.txt.gz", K=20_000, n_train=1_000_000, n_test=50_000)
        X, y, X_test, y_test = parts[:4]
        X_test, y_test = X_test[:20_000], y_test[:20_000]
    else:
        (X, y), (X_test, y_test) = (
            read(np.load(path / f"{part}.npz")) for part in ("train", "test")
        )
    X, y = X[:limit], y[:limit]
    if pairs:
        products = PolynomialFeatures(2, interaction_only=True, include_bias=False)
        X, X_test = products.fit_transform(X), products.transform(X_test)
    scale = TfidfTransformer(use_idf=tfidf, sublinear_tf=tfidf).fit(X)
    return scale.transform(X), y, scale.transform(X_test), y_test


def read(file):
    """Rows and labels of a file."""
    X = sp.csr_matrix(
        (file["data"], file["indices"], file["indptr"]), shape=file["shape"]
    )
    if "y" in file:
        return X, file["y"]
    ones = np.ones(file["y_indices"].size, np.float32)
    arrays = (ones, file["y_indices"], file["y_indptr"])
    return X, sp.csr_matrix(arrays, shape=file["y_shape"])


def indicator(y, n_labels):
    """CSR indicator of one label a row."""
    ones = np.ones(y.size, np.float32)
    return sp.csr_matrix((ones, y, np.arange(y.size + 1)), shape=(y.size, n_labels))


def run(job, args, score, **changes):
    """One peer in a process of its own: its figures, or why there are none."""
    job = job | changes
    peer = job["peer"]
    python = dict(args.python).get(peer, sys.executable)
    with tempfile.TemporaryDirectory() as scratch:
        job = json.dumps(job | {"scratch": scratch})
        command = [python, __file__, "--job", job]
        timeout = args.timeouts.get(peer, args.timeouts[None])
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return f"not done after {timeout:.0f} s"
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            return f"failed: {(lines or [f'exit status {done.returncode}'])[-1][:100]}"
        best = np.load(os.path.join(scratch, "best.npy"))
    return score(best) | json.loads(done.stdout.strip().splitlines()[-1])


def compare(peer, job, args, score, size):
    """Figures of a peer, ours averaged over the seeds, or why there are none."""
    _, module, needs = PEERS[peer]
    if peer not in dict(args.python) and importlib.util.find_spec(module) is None:
        return "not installed"
    needed = needs(*size)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > min(free, args.memory * 1e9):
        return f"needs {needed / 1e9:.0f} GB"
    seeds = range(args.seeds if module == "sklearn_mach" else 1)
    found = [run(job, args, score, peer=peer, seed=seed) for seed in seeds]
    for failure in found:
        if isinstance(failure, str):
            return failure
    return {key: np.mean([f[key] for f in found]) for key in found[0]}


def versions(names=("numpy", "scipy", "scikit-learn", "numba", "sklearn-mach", *EXTRA)):
    """What is installed here of the packages that matter."""
    for name in names:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            pass


def other_versions(pythons):
    """The packages of peers that are installed in other environments."""
    code = (
        "import bench_peers; print(*bench_peers.versions(bench_peers.EXTRA), sep=',')"
    )
    found = set()
    for python in set(pythons):
        command = [python, "-c", code]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        found |= set(done.stdout.strip().split(","))
    return sorted(found - {""})


def header(names):
    """The first line of the table, with the names of the figures of quality."""
    names = " ".join(f"{name:>6}" for name in names)
    return (
        f"{'':16} {names} {'fit s':>8} {'ratio':>6} {'CPU s':>7} {'predict s':>10} "
        f"{'model MB':>9} {'peak MB':>8}"
    )


def row(name, f, ours, names):
    """A line of the table."""
    if isinstance(f, str):
        return f"{name:16}  {f}"
    ratio = f"{f['fit'] / ours['fit']:.2f}" if ours else ""
    return (
        f"{name:16} {' '.join(f'{f[key]:6.4f}' for key in names)} "
        f"{f['fit']:8.1f} {ratio:>6} {f['cpu']:7.1f} {f['predict']:10.1f} "
        f"{f['bytes'] / 1e6:9.1f} {f['peak'] / 1e6:8.1f}"
    )


def save(path, shape, found, names, others):
    """The table of the page and the figures, after each peer."""
    columns = ("fit", "predict", "bytes", "peak")
    scales = dict.fromkeys(("bytes", "peak"), 1e-6)
    head = ["", *names, "fit s", "predict s", "model MB", "peak MB"]
    rows = []
    for peer, f in found.items():
        if isinstance(f, str):
            rows.append([peer, f, *[""] * (len(head) - 2)])
            continue
        name = peer
        if peer == "mach_small":
            name = f"mach, {f['bytes'] / 1e6:.0f} MB"
        quality = ["" if np.isnan(f[key]) else f"{f[key]:.3f}" for key in names]
        rest = [f"{f[key] * scales.get(key, 1):,.1f}" for key in columns]
        rows.append([name, *quality, *rest])
    data = shape | {"names": names, "peers": found}
    bench_results.save(path, head, rows, packages=EXTRA, others=others, data=data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--peers", help="by default all that take such labels")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH")
    parser.add_argument("--seeds", type=int, default=1, help="of ours, averaged")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tfidf", action="store_true", help="log counts times idf")
    parser.add_argument("--pairs", action="store_true", help="products of columns")
    parser.add_argument("--limit-train", type=int, metavar="ROWS")
    parser.add_argument(
        "--timeout", action="append", default=[], metavar="[PEER=]SECONDS"
    )
    parser.add_argument("--memory", type=float, default=np.inf, metavar="GB")
    parser.add_argument(
        "--small-bytes",
        type=int,
        help="of mach_small; a twentieth of mach if not given",
    )
    parser.add_argument("--save", type=Path, metavar="PATH", help="results as JSON")
    parser.add_argument("--params", type=json.loads, default={}, help="of ours")
    parser.add_argument("--curve", action="store_true", help="sweep R and B of ours")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.python = [pair.split("=", 1) for pair in args.python]
    args.timeouts = {None: 1800.0}
    for pair in args.timeout:
        peer, _, seconds = pair.rpartition("=")
        args.timeouts[peer or None] = float(seconds)
    if args.job:
        from joblib import parallel_config

        with parallel_config("threading", n_jobs=args.job["threads"]):
            return measure(args.job)

    if args.path is None:
        parser.error("needs PATH")
    X, Y, X_test, Y_test = load(args.path, args.limit_train, args.tfidf, args.pairs)
    several = sp.issparse(Y)
    peers = PEERS.keys() - (ONE_LABEL if several else SEVERAL_LABELS)
    if args.peers is None:
        peers = [peer for peer in PEERS if peer in peers]
    elif peers >= set(args.peers.split(",")):
        peers = args.peers.split(",")
    else:
        parser.error(f"peers for these labels are {', '.join(sorted(peers))}")
    if not several:
        K = int(max(Y.max(), Y_test.max())) + 1
        Y, Y_test = indicator(Y, K), indicator(Y_test, K)
    (n, d), K = X.shape, Y.shape[1]
    shape = {"set": args.path.name, "n": n, "d": d, "K": K, "n_test": X_test.shape[0]}
    shape |= {"labels_per_row": Y.nnz / n, "nnz_per_row": X.nnz / n}
    print(f"{args.path.name}: n = {n:,}, d = {d:,}, K = {K:,}, ", end="")
    print(f"{Y.nnz / n:.1f} labels a row, {X_test.shape[0]:,} rows to test")
    if several:
        names = [f"{name}@{k}" for name in ("P", "PSP") for k in AT]
    else:
        names = ["top-1", "top-5", "macro", "rare"]
        rare = np.bincount(Y.indices, minlength=K)[Y_test.indices] <= RARE
        print(
            f"rare: top-1 of {rare.sum():,} test rows, classes of at most {RARE} "
            "training rows"
        )
    others = other_versions(dict(args.python).values())
    print(f"Python {platform.python_version()}", *versions(), *others, sep=", ")
    print(f"{args.threads} threads on {os.cpu_count()} cores; ratio: of fit s to ours")

    with tempfile.TemporaryDirectory() as folder:
        for part, A in zip(PARTS, (X, Y, X_test), strict=True):
            sp.save_npz(f"{folder}/{part}.npz", A, compressed=False)
        X_bytes = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
        del A, X, X_test  # the memory is for the peers

        job = {"peer": "mach", "seed": 0, "folder": folder, "several": several}
        job |= {"threads": args.threads, "params": args.params}
        job |= {"small_bytes": args.small_bytes}
        score = partial(quality_several if several else quality, Y=Y, Y_test=Y_test)
        ours, all_found = None, {}
        print(header(names))
        for peer in peers:
            found = compare(peer, job, args, score, (n, d, K))
            if peer == "mach" and isinstance(found, dict):
                ours = found
            print(row(peer, found, ours, names), flush=True)
            all_found[peer] = found
            if args.save:
                save(args.save, shape, all_found, names, others)
        if ours:
            X_and_weights = X_bytes + ours["bytes"]
            print(
                f"mach: X {X_bytes / 1e6:.1f} MB, weights {ours['bytes'] / 1e6:.1f} MB"
            )
            share = (X_bytes + ours["peak"]) / X_and_weights
            print(f"mach: X and the peak of fit are {share:.3f} x (X and weights)")
        if args.curve:
            print(f"\nAccuracy against model size\n{header(names)}")
            for R in (4, 8, 16, 32):
                for B in (32, 64, 128):
                    sizes = {"n_repetitions": R, "n_buckets": B}
                    found = run(job, args, score, params=sizes)
                    name = f"mach R={R} B={B}"
                    print(row(name, found, ours, names), flush=True)


if __name__ == "__main__":
    main()
