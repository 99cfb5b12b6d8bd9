"""Accuracy against bytes on real data: R, B and compression.

    python examples/bench_tradeoff.py PATH... [--quick]
        [--save doc/results/tradeoff.json]

PATH is a folder of the kind that ``bench_peers.py`` describes, of one label a row.
A model is fitted for each number of repetitions R and of buckets B, among them for each
B the least R that ``mach_min_repetitions`` gives: with it no two classes share their
buckets in all repetitions, with a probability of 0.999. All else has its defaults, and
all models have the same ``random_state``. The model of the default size is then
compressed to several budgets, by ``compress(max_bytes=...)``, without any rows.

The accuracy is that of the test rows. They choose nothing: each model is reported.

One fit of the largest R gives the accuracy of smaller ones too, by ``staged_score``.
The tables of buckets are the same, but ``fit`` chooses the steps and the logit
adjustment for all repetitions together, so that the accuracies differ a little. The
table of ``--save tradeoff.json`` has both, and one table of all sets is in
``tradeoff_compressed.json``.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from bench_peers import load
from bench_results import machine, save, versions

from sklearn_mach import MACHClassifier
from sklearn_mach.theory import choose_sizes, mach_min_repetitions, model_cost

REPETITIONS = [4, 8, 16, 32]
BUCKETS = [16, 32, 64, 128]
BUDGETS = [100, 50, 25, 12, 6, 3]  # MB


def accuracy_by_size(data, repetitions, buckets, threads):
    """Lines of accuracy by bytes, one for each B, and the fitted models by (R, B).

    Each point has R, B, bytes, top1, and staged, the accuracy of the first R
    repetitions of the largest model. Points where R is the bound have bound=True.
    """
    X, y, X_test, y_test = data
    K, points, kept = np.unique(y).size, [], {}
    default = choose_sizes(K, n_nonzeros=X.nnz)
    for B in buckets:
        bound = int(mach_min_repetitions(K, B))
        staged = None
        for R in sorted({*repetitions, bound}, reverse=True):
            model = MACHClassifier(
                n_repetitions=R, n_buckets=B, random_state=0, n_jobs=threads
            ).fit(X, y)
            if staged is None:  # the largest comes first
                staged = list(model.staged_score(X_test, y_test))
            point = {"R": R, "B": B, "bound": R == bound, "bytes": model.model_bytes_}
            point |= {"top1": model.score(X_test, y_test), "staged": staged[R - 1]}
            points.append(point)
            print("  ".join(f"{name} {value}" for name, value in point.items()))
            if (R, B) == default:
                kept[default] = model
    return points, kept


def accuracy_by_budget(model, budgets, X_test, y_test):
    """Bytes and accuracy of a model, and of copies compressed to budgets in MB."""
    models = [(None, model)]
    models += [(mb, model.compress(max_bytes=int(mb * 1e6))) for mb in budgets]
    points = []
    for budget, small in models:
        point = {"budget": budget, "bytes": small.model_bytes_}
        points.append(point | {"top1": small.score(X_test, y_test)})
        print(f"budget {budget} MB: {points[-1]['top1']:.4f}", flush=True)
    return points


def measure(path, repetitions, buckets, budgets, threads, limit=None):
    """All points of a set, and its sizes."""
    data = X, y, X_test, y_test = load(path, limit)
    (n, d), K = X.shape, np.unique(y).size
    print(f"{path.name}: n = {n:,}, d = {d:,}, K = {K:,}", flush=True)
    sizes, kept = accuracy_by_size(data, repetitions, buckets, threads)
    if kept:
        (model,) = kept.values()
    else:  # the grid has no model of the default size
        model = MACHClassifier(random_state=0, n_jobs=threads).fit(X, y)
    ovr = model_cost(K, d, 1, 2).one_vs_rest.n_bytes
    default = {"R": model.n_repetitions_, "B": model.n_buckets_}
    compressed = accuracy_by_budget(model, budgets, X_test, y_test)
    return {
        "name": path.name,
        "n": n,
        "d": d,
        "K": K,
        "n_test": y_test.size,
        "one_vs_rest": int(ovr),
        "default": default,
        "sizes": sizes,
        "compressed": compressed,
    }


def megabytes(n_bytes):
    return f"{n_bytes / 1e6:,.0f}" if n_bytes > 1e7 else f"{n_bytes / 1e6:.1f}"


def table_of_sizes(sets):
    """Head and rows: a row for each R and B, the bound with an asterisk before R."""
    head = ["data", "B", "R", "MB", "top-1", "top-1 of staged_score"]
    rows = []
    for found in sets:
        for p in sorted(found["sizes"], key=lambda p: (p["B"], p["R"])):
            R = f"{p['R']} (bound)" if p["bound"] else f"{p['R']}"
            cells = [found["name"], f"{p['B']}", R, megabytes(p["bytes"])]
            rows.append([*cells, f"{p['top1']:.3f}", f"{p['staged']:.3f}"])
    return head, rows


def table_of_budgets(sets):
    """Head and rows: the default model of each set, and how small it can be."""
    head = ["data", "classes", "model", "MB", "of one-vs-rest", "top-1"]
    rows = []
    for found in sets:
        for p in found["compressed"]:
            model = "R = {R}, B = {B}".format(**found["default"])
            if p["budget"] is not None:
                model = f"compressed to {p['budget']:g} MB"
            share = p["bytes"] / found["one_vs_rest"]
            cells = [found["name"], f"{found['K']:,}", model, megabytes(p["bytes"])]
            rows.append([*cells, f"{share:.1%}", f"{p['top1']:.3f}"])
    return head, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    parser.add_argument("--quick", action="store_true", help="5,000 rows, few sizes")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", type=Path, metavar="PATH")
    args = parser.parse_args()
    print(machine(), *versions(), sep=", ")
    grid = REPETITIONS, BUCKETS, BUDGETS
    if args.quick:
        grid = [4, 12], [16, 64], [10, 3]
    limit = 5_000 if args.quick else None
    start = time.perf_counter()
    sets = [measure(path, *grid, args.threads, limit) for path in args.paths]
    print(f"{time.perf_counter() - start:.0f} s in all")
    gaps = [p["top1"] - p["staged"] for found in sets for p in found["sizes"]]
    print(f"fitted anew less staged_score: {min(gaps):+.4f} to {max(gaps):+.4f}")
    if args.save:
        save(args.save, *table_of_sizes(sets), data=sets)
        path = args.save.with_stem(args.save.stem + "_compressed")
        save(path, *table_of_budgets(sets))


if __name__ == "__main__":
    main()
