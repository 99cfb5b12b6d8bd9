"""
Where the defaults come from
============================

One setting at a time is changed from the defaults of ``MACHClassifier``; the change in
accuracy on a validation part of the training rows is printed as a table. No row of a
test part is used.

    python examples/bench_defaults.py [FOLDER ...] [--rows 40000] [--columns 512]

A FOLDER has ``train.npz`` (data, indices, indptr, shape, y) or a ``builder.py``, as for
``bench_peers.py``. Without one, the tokens of Python's standard library are taken.
``--columns`` is the budget R B: differences between settings are larger where it is
small, and fits are faster.
"""

import argparse
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier, _steps, _training
from sklearn_mach._decoding import decode_topk
from sklearn_mach._targets import Targets
from sklearn_mach._weights import Linear
from sklearn_mach.datasets import load_python_tokens

N_VALIDATION = 10_000
PLACES = (1, 5, 20)


def load(path):
    """The training rows of a folder as they are, and their labels."""
    if path is None:
        tokens = load_python_tokens(n_files=100)
        return tokens.data_train, tokens.target_train
    if (path / "builder.py").exists():
        sys.path.insert(0, str(path))
        from builder import build

        return build(path / "text.txt.gz", K=20_000, n_train=300_000, n_test=1)[:2]
    part = np.load(path / "train.npz")
    arrays = part["data"], part["indices"], part["indptr"]
    return sp.csr_matrix(arrays, shape=tuple(part["shape"])), part["y"]


def accuracy(best, y):
    """Top-1, top-5 and top-20 accuracy in percent."""
    hits = best == y[:, None]
    return np.array([100 * hits[:, :k].any(axis=1).mean() for k in PLACES])


def merged(model, X, beta=0.0, log_prior=None):
    """Classes (n, 20) by the mean log P plus beta times the log prior."""
    scores = model._fitted.model.bucket_scores(X, model._how())
    offset = None if log_prior is None else np.float32(beta * log_prior)
    best = decode_topk(scores, model.bucket_table_, max(PLACES), offset=offset)[0]
    return model.classes_[best]


def averaged(model, X, y):
    """Train the model again at a constant step; weights averaged over later epochs."""
    options = model.get_params(deep=False)
    codes = np.searchsorted(model.classes_, y).astype(np.int32)
    settings, _ = _steps.make_settings(X, Targets.of(codes), None, options, 0)
    fitted = model._fitted
    W, b = (np.zeros_like(array) for array in fitted.model.scorer.storage)
    mean_W, mean_b, n_epochs = np.zeros_like(W), np.zeros_like(b), len(settings.decay)
    for epoch in range(n_epochs):
        now = settings.scaled(fitted.memory.factor / 2)._replace(
            decay=[(1, 1)], seed=epoch, past=epoch * settings.slow
        )
        given = X, Targets.of(codes), model.bucket_table_
        _training.train_all(*given, W, b, 0, epoch == 0, now, -1)
        if epoch > 0:
            mean_W += W / (n_epochs - 1)
            mean_b += b / (n_epochs - 1)
    scorer = Linear.of(mean_W, mean_b, model.n_buckets_)
    model._fitted = fitted._replace(model=fitted.model.replace(scorer=scorer))
    return model


def study(name, X, y, n_rows, n_columns, seed):
    order = np.random.default_rng(seed).permutation(X.shape[0])
    held, rows = np.split(order, [min(N_VALIDATION, X.shape[0] // 5)])
    rows = rows[:n_rows]
    raw, y_train, y_held = X, y[rows], y[held]
    X = normalize(X)
    R, B = max(n_columns // 64, 1), 64
    sizes = {"n_repetitions": R, "n_buckets": B}
    common = {"random_state": seed, "n_jobs": -1}
    K = np.unique(y_train).size
    print(f"\n{name}: {rows.size:,} rows to train, {held.size:,} held, K = {K:,}")
    print(f"{'':34}  top-1   top-5  top-20   fit s")

    def line(what, found, seconds, base=None):
        shown = found if base is None else found - base
        figures = " ".join(f"{v:{'7.2f' if base is None else '+7.2f'}}" for v in shown)
        print(f"{what:34} {figures} {seconds:7.1f}", flush=True)

    def fitted(X=X, **params):
        start = perf_counter()
        model = MACHClassifier(**(common | sizes | params)).fit(X[rows], y_train)
        return model, perf_counter() - start

    fitted(max_iter=1)  # compile
    model, seconds = fitted()
    base = accuracy(model.predict_topk(X[held], max(PLACES)), y_held)
    factor = model._fitted.memory.factor
    line(f"defaults, R={R}, B={B} (percent)", base, seconds)
    print(f"{'':34} difference to these, in points")

    def compare(what, X=X, **params):
        changed, seconds = fitted(X, **params)
        best = changed.predict_topk(X[held], max(PLACES))
        line(what, accuracy(best, y_held), seconds, base)

    compare(f"equal steps, trial's ({factor:.2g})", learning_rate=factor)
    for step in (0.5, 2.0, 8.0):
        compare(f"equal steps of {step:g}", learning_rate=step)
    for n_epochs in (2, 10):
        compare(f"{n_epochs} epochs", max_iter=n_epochs)
    start = perf_counter()
    mean = averaged(
        MACHClassifier(**(common | sizes)).fit(X[rows], y_train), X[rows], y_train
    )
    best = mean.predict_topk(X[held], max(PLACES))
    line(
        "constant step, averaged weights",
        accuracy(best, y_held),
        perf_counter() - start,
        base,
    )
    compare("L2 penalty, alpha=1e-6", alpha=1e-6)
    compare("early stopping", early_stopping=True, max_iter=10)
    compare("rows as they are", raw)
    for n_buckets in (16, 32, 128, 256):
        compare(
            f"R={n_columns // n_buckets}, B={n_buckets}",
            n_repetitions=n_columns // n_buckets,
            n_buckets=n_buckets,
        )
    compare(f"R={2 * R}, B={B}", n_repetitions=2 * R)
    for hashing in ("balanced", "universal"):
        compare(f"hashing={hashing!r}", hashing=hashing)
    for decoder in ("mean", "min", "median"):
        start = perf_counter()
        model.decoder = decoder
        best = model.predict_topk(X[held], max(PLACES))
        line(
            f"decoder={decoder!r}", accuracy(best, y_held), perf_counter() - start, base
        )
    model.decoder = "log_mean"
    counts = np.bincount(np.searchsorted(model.classes_, y_train))
    log_prior = np.log(counts / counts.sum())
    for beta in (0.02, 0.05, 0.1, 0.2):
        start = perf_counter()
        best = merged(model, X[held], beta, log_prior)
        line(
            f"prior, beta={beta:g}",
            accuracy(best, y_held),
            perf_counter() - start,
            base,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("folders", type=Path, nargs="*", default=[None])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for path in args.folders:
        X, y = load(path)
        name = "tokens" if path is None else path.name
        study(name, X, y, args.rows, args.columns, args.seed)


if __name__ == "__main__":
    main()
