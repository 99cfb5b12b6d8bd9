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
row without a label counts as one with no hit.

The peers are in ``bench_learners.py``. Those that are not installed are left out.
``--python pecos=OTHER/bin/python`` runs a peer in another environment, ``--timeout
ecoc=300`` gives one another time than ``--timeout 1800``, and those that need more than
``--memory`` GB are left out. ``--save`` writes the table and the figures after each
peer.

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
from bench_learners import ONE_LABEL, PEERS, SEVERAL_LABELS, TITLES

EXTRA = ("napkinxc", "omikuji", "fasttext-wheel", "libpecos", "vowpalwabbit")
RARE = 5  # classes with at most so many training rows are reported apart,
N_RARE = 100  # if so many test rows have them
AT = (1, 3, 5)  # k of P@k and PSP@k
PARTS = ("X", "Y", "X_test")  # files for the processes


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
        "rare": hits[rare, 0].mean() if rare.sum() >= N_RARE else float("nan"),
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


def percent(share):
    if np.isnan(share):
        return "–"
    return f"{100 * share:.{1 if share >= 0.1 else 2}f}"


def table(found, names):
    """Head and rows of the table of a page."""
    units = {"fit": "s", "predict": "s", "bytes": "MB", "peak": "MB"}
    scale = {"s": 1, "MB": 1e-6}
    titles = {"bytes": "model"}
    head = ["learner", *names]
    head += [f"{titles.get(key, key)}, {unit}" for key, unit in units.items()]
    rows = []
    for peer, f in found.items():
        title = TITLES[peer.split()[0]]
        if isinstance(f, str):
            rows.append([f"{title}: {f}", *["–"] * (len(head) - 1)])
            continue
        if peer.startswith("mach_small"):
            mb = f["bytes"] / 1e6
            title += f" {mb:.{0 if mb >= 10 else 1}f} MB"
        quality = [percent(f[key]) for key in names]
        costs = [f"{f[key] * scale[unit]:,.1f}" for key, unit in units.items()]
        rows.append([title, *quality, *costs])
    return head, rows


def save(path, shape, found, names, others):
    """The table of a page and the figures behind it."""
    head, rows = table(found, names)
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
        "--small-mb",
        type=float,
        nargs="+",
        default=[None],
        help="sizes of mach_small; if not given, a twentieth of mach",
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
        score = partial(quality_several if several else quality, Y=Y, Y_test=Y_test)
        ours, all_found = None, {}
        print(header(names))
        rows = []  # name, peer and MB of each row of the table
        for peer in peers:
            for mb in args.small_mb if peer == "mach_small" else [None]:
                rows.append((f"{peer} {mb:g}" if mb else peer, peer, mb))
        for name, peer, mb in rows:
            found = compare(peer, job | {"small_mb": mb}, args, score, (n, d, K))
            if peer == "mach" and isinstance(found, dict):
                ours = found
            print(row(name, found, ours, names), flush=True)
            all_found[name] = found
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
