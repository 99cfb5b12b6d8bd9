"""Whether the rules of "auto" suit a data set: the step, weights, blocks of rows.

    python examples/bench_rules.py PATH [--trial] [--factors] [--weights] [--blocks]

PATH is as for ``bench_peers.py``; without one it is the tokens of Python's library.

- ``--trial`` prints the factor of the steps that the trial finds from 3,000, 10,000,
  30,000 and all rows, and the largest over the smallest.
- ``--factors`` compares the accuracy of "auto" with that of fixed factors.
- ``--weights`` compares ``class_weight="balanced"`` with none.
- ``--blocks`` compares `partial_fit` in blocks with `fit` of as many epochs.

The rows of the test part choose nothing: they only show what the choice costs.
"""

import argparse
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import numpy as np
from bench_peers import RARE, load
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier, _hashing, _steps, _trial
from sklearn_mach._targets import Targets
from sklearn_mach.datasets import load_python_tokens

ALL = 10**9


def tokens():
    found = load_python_tokens(n_files=100)
    rows = found.data_train, found.data_test
    X, X_test = (normalize(part.astype(np.float32)) for part in rows)
    return X, found.target_train, X_test, found.target_test


def accuracies(model, X, y, y_train):
    """Top-1 and top-5 accuracy, the mean of the classes', and that of rare classes."""
    hits = model.predict_topk(X, k=5) == y[:, None]
    n_rows = np.bincount(y)
    macro = np.bincount(y, hits[:, 0])[n_rows > 0] / n_rows[n_rows > 0]
    size = max(y.max(), y_train.max()) + 1
    rare = np.bincount(y_train, minlength=size)[y] <= RARE
    values = hits[:, 0].mean(), hits.any(axis=1).mean(), macro.mean()
    return *values, hits[rare, 0].mean() if rare.any() else np.nan


def show(name, model, data, started):
    X, y, X_test, y_test = data
    seconds = perf_counter() - started
    names = "top-1", "top-5", "macro", "rare"
    values = zip(names, accuracies(model, X_test, y_test, y), strict=True)
    print(
        f"{name:20} factor {model._fitted.memory.factor or np.nan:5.2f}",
        f"adjustment {model.logit_adjustment_:5.3f}",
        *(f"{what} {value:.4f}" for what, value in values),
        f"{seconds:.0f} s",
        sep=", ",
        flush=True,
    )


def trial(data, seeds):
    X, y = data[0], data[1].astype(np.int32)
    targets = Targets.of(y)
    options = MACHClassifier().get_params(deep=False)
    settings, _ = _steps.make_settings(X, targets, None, options, 0)
    table = _hashing.draw_table(int(y.max()) + 1, 64, range(16))
    factors = []
    for n_rows in (3_000, 10_000, 30_000, ALL):
        found = []
        for seed in range(1 if n_rows == ALL else seeds):
            rows = X, targets, table[:, seed], 64, settings._replace(seed=seed), 2048
            with patch.object(_trial, "_N_PROBE", n_rows):
                found.append(_trial.probe_step(*rows))
        factors.append(np.exp(np.mean(np.log(found))))
        which = "all" if n_rows == ALL else f"{n_rows:,}"
        print(f"factor from {which:>6} rows: {factors[-1]:.2f}", flush=True)
    print(f"largest / smallest {max(factors) / min(factors):.2f} (bar <= 1.6)")


def fits(data, seeds, params):
    for seed in range(seeds):
        started = perf_counter()
        model = MACHClassifier(random_state=seed, n_jobs=2, **params)
        yield seed, started, model.fit(*data[:2])


def compare_factors(data, seeds):
    for factor in (None, 0.25, 0.5, 1, 2, 4, 8, 16, 32):
        fixed = _trial.probe_step if factor is None else lambda *_, f=factor: f
        with patch.object(_trial, "probe_step", fixed):
            for seed, started, model in fits(data, seeds, {}):
                name = "auto" if factor is None else "fixed"
                show(f"{name}, seed {seed}", model, data, started)


def compare_weights(data, seeds):
    for class_weight in (None, "balanced"):
        for seed, started, model in fits(data, seeds, {"class_weight": class_weight}):
            show(f"{class_weight}, seed {seed}", model, data, started)


def compare_blocks(data, seeds):
    X, y = data[:2]
    classes = np.unique(y)
    params = {"n_repetitions": 8, "n_buckets": 64, "logit_adjustment": 0.0}
    for n_passes in (1, 3):
        for seed, started, model in fits(data, seeds, params | {"max_iter": n_passes}):
            show(f"fit, {n_passes} epochs, seed {seed}", model, data, started)
        for first, size in ((2_000, 2_000), (50, 5_000)):
            started = perf_counter()
            model = MACHClassifier(random_state=0, **params)
            for epoch in range(n_passes):
                order = np.random.default_rng(epoch).permutation(y.size)
                edges = [0] if epoch else [0, first]
                edges += [*range(edges[-1] + size, y.size, size), y.size]
                for start, stop in zip(edges[:-1], edges[1:], strict=True):
                    rows = order[start:stop]
                    model.partial_fit(X[rows], y[rows], classes=classes)
            show(f"blocks of {first:,}, {size:,}", model, data, started)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parts = {
        "trial": trial,
        "factors": compare_factors,
        "weights": compare_weights,
        "blocks": compare_blocks,
    }
    for name in parts:
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    data = tokens() if args.path is None else load(args.path, None)
    print(f"{args.path or 'tokens'}: {data[0].shape[0]:,} rows")
    for name, part in parts.items():
        if getattr(args, name):
            part(data, args.seeds)


if __name__ == "__main__":
    main()
