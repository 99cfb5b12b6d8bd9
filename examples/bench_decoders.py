"""Accuracy, log loss and calibration of the decoders on the rows of one fitted model.

    python examples/bench_decoders.py PATH ... [--n-repetitions R --n-buckets B]
        [--seed S] [--save FILE]

PATH is a folder with ``train.npz`` and ``test.npz``, each a CSR matrix (data, indices,
indptr, shape) and its labels y. Rows are scaled to unit length. Training does not use
the decoder: each folder has one model, and only ``decoder`` is changed. Log loss and
calibration error are of at most 5,000 test rows, drawn at random. ``--save`` writes the
table to a file for the documentation.
"""

import argparse
import os
from pathlib import Path

import bench_results
import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach._decoding import DECODERS
from sklearn_mach.metrics import calibration_error, neg_log_loss

HEAD = ["data", "decoder", "top-1", "top-5", "log loss", "calibration error"]


def load(path):
    """Rows of unit length and their labels."""
    with np.load(path) as file:
        parts = file["data"], file["indices"], file["indptr"]
        return normalize(sp.csr_array(parts, shape=tuple(file["shape"]))), file["y"]


def compare(path, args):
    """Lists of what HEAD names, a decoder each."""
    X, y = load(path / "train.npz")
    X_test, y_test = load(path / "test.npz")
    model = MACHClassifier(
        n_repetitions=args.n_repetitions or "auto",
        n_buckets=args.n_buckets or "auto",
        n_jobs=os.cpu_count(),
        random_state=args.seed,
    ).fit(X, y)
    n_test, some = y_test.size, slice(None)
    if n_test > 5_000:
        some = np.random.default_rng(0).choice(n_test, 5_000, replace=False)

    print(f"\n{path.name}: n = {y.size:,}, K = {model.classes_.size:,}, ", end="")
    print(f"{n_test:,} to test; R = {model.n_repetitions_}, B = {model.n_buckets_}")
    print(f"{'decoder':10}  top-1  top-5  log loss  calibration error")
    rows = []
    for decoder in DECODERS:
        model.set_params(decoder=decoder)
        hits = model.predict_topk(X_test) == y_test[:, None]
        loss = -neg_log_loss(model, X_test[some], y_test[some])
        error = calibration_error(model, X_test[some], y_test[some])
        top1, top5 = hits[:, 0].mean(), hits.any(axis=1).mean()
        cells = [f"{top1:.3f}", f"{top5:.3f}", f"{loss:.2f}", f"{error:.3f}"]
        print("{:10}  {}  {}  {:>8}  {:>17}".format(decoder, *cells), flush=True)
        rows.append([path.name if not rows else "", f'"{decoder}"', *cells])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", metavar="PATH", type=Path, nargs="+")
    parser.add_argument("--n-repetitions", type=int, help='default: "auto"')
    parser.add_argument("--n-buckets", type=int, help='default: "auto"')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="FILE", help="write the table as JSON")
    args = parser.parse_args()
    print(bench_results.machine(), *bench_results.versions(), sep=", ")
    rows = [row for path in args.paths for row in compare(path, args)]
    if args.save:
        bench_results.save(args.save, HEAD, rows)


if __name__ == "__main__":
    main()
