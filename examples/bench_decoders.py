"""Accuracy, log loss and calibration of the decoders on the rows of one fitted model.

    python examples/bench_decoders.py PATH [--n-repetitions R --n-buckets B] [--seed S]

PATH is a folder with ``train.npz`` and ``test.npz``, each a CSR matrix (data, indices,
indptr, shape) and its labels y. Rows are scaled to unit length. The decoder is no
part of the training: one model is fitted, and only ``decoder`` is changed. Log loss and
calibration error are of at most 5,000 test rows, drawn at random.
"""

import argparse
import os
import platform
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import sklearn
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach._decoding import DECODERS
from sklearn_mach.metrics import calibration_error, neg_log_loss


def load(path):
    """Rows of unit length and their labels."""
    with np.load(path) as file:
        parts = file["data"], file["indices"], file["indptr"]
        return normalize(sp.csr_array(parts, shape=tuple(file["shape"]))), file["y"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--n-repetitions", type=int, help='default: "auto"')
    parser.add_argument("--n-buckets", type=int, help='default: "auto"')
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    X, y = load(args.path / "train.npz")
    X_test, y_test = load(args.path / "test.npz")
    model = MACHClassifier(
        n_repetitions=args.n_repetitions or "auto",
        n_buckets=args.n_buckets or "auto",
        n_jobs=os.cpu_count(),
        random_state=args.seed,
    ).fit(X, y)
    n_test, some = y_test.size, slice(None)
    if n_test > 5_000:
        some = np.random.default_rng(0).choice(n_test, 5_000, replace=False)

    print(f"{args.path.name}: n = {y.size:,}, K = {model.classes_.size:,}, ", end="")
    print(f"{n_test:,} to test; R = {model.n_repetitions_}, B = {model.n_buckets_}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, ", end="")
    print(f"scikit-learn {sklearn.__version__}, {os.cpu_count()} cores\n")
    print(f"{'decoder':10}  top-1  top-5  log loss  calibration error")
    for decoder in DECODERS:
        model.set_params(decoder=decoder)
        hits = model.predict_topk(X_test) == y_test[:, None]
        print(
            f"{decoder:10}  {hits[:, 0].mean():.3f}  {hits.any(axis=1).mean():.3f}"
            f"  {-neg_log_loss(model, X_test[some], y_test[some]):8.2f}"
            f"  {calibration_error(model, X_test[some], y_test[some]):17.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
