"""How seconds, memory and bytes grow with classes, rows, columns and buckets.

    python examples/bench_growth.py [--quick] [--save doc/results/growth.json]

Growth with the number of classes K, beside scikit-learn's one-vs-rest, and growth with
the rows n, the columns d, the non-zeros z of a row and the buckets R B in all, each
with all else fixed. The rows are those of ``make_many_classes``. Each measurement has a
process of its own, whose kernels are compiled first. What takes less than ``SHORT``
seconds is done three times, and the median counts.

One-vs-rest is ``SGDClassifier``: it passes over all rows once an epoch for each class,
so that its seconds are a constant times K, and it has as many epochs as MACH. It is
fitted with 10, 30, 100, ... classes until the next number would take more than
``--limit`` seconds. Beyond that its seconds are computed, at the seconds a class that
were measured last. How long its predictions take does not depend on the values of the
weights. They are random numbers, up to ``MOST_BYTES``; beyond that the time is
proportional to K. Predictions have one thread, fits have ``--threads``.

Peak memory is that of the first fit, above the loaded rows, as the Linux kernel counts
it.

With ``--save growth.json`` the table of K is there, with all measurements. The slopes
are in ``growth_slopes.json``, and the numbers of classes from which on MACH costs less
are in ``growth_crossing.json``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from bench_peers import memory, top5
from bench_results import machine, save, versions
from joblib import parallel_config
from sklearn.linear_model import SGDClassifier

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import make_many_classes
from sklearn_mach.theory import model_cost

N_TEST = 2_000
SHORT = 10.0  # seconds
EPOCHS = 5  # of both; the default of MACH from 40,000 rows on
MOST_BYTES = 4e9  # of random weights of one-vs-rest
BY_CLASSES = {"n": 1_100_000, "d": 50_000, "z": 10, "K": 1_000, "R": 16, "B": 64}
CLASSES = [1_000, 10_000, 100_000, 1_000_000]
BASE = {"n": 64_000, "d": 32_000, "z": 16, "K": 4_000, "R": 16, "B": 64}
SWEEPS = {
    "n": [16_000, 32_000, 64_000, 128_000, 256_000],
    "d": [4_000, 16_000, 64_000, 256_000],
    "z": [4, 8, 16, 32, 64],
    "B": [16, 32, 64, 128, 256],
}
NAMES = {
    "K": "classes K",
    "n": "rows n",
    "d": "columns d",
    "z": "non-zeros of a row",
    "B": "buckets R B",
}
COSTS = {"fit": "fit", "predict": "a prediction", "bytes": "bytes of the model"}
OVR_CLASSES = [10, 30, 100, 300, 1_000]


def rows(sizes, rng=0):
    """Rows to train on and rows to test, none of which is the first of its class."""
    X, y = make_many_classes(
        sizes["n"] + N_TEST,
        sizes["d"],
        sizes["K"],
        n_nonzeros=sizes["z"],
        class_exponent=0.5,
        signal=0.6,
        random_state=rng,
    )
    more = np.ones(y.size, bool)
    more[np.unique(y, return_index=True)[1]] = False
    test = np.flatnonzero(more)[-N_TEST:]
    train = np.delete(np.arange(y.size), test)
    return X[train], y[train], X[test], y[test]


def clocked(call, *args):
    """Seconds of a call, and what it gives."""
    start = time.perf_counter()
    result = call(*args)
    return time.perf_counter() - start, result


def median_seconds(call, *args):
    """Median of three, if the first takes less than SHORT, and the last result."""
    seconds, result = clocked(call, *args)
    if seconds < SHORT:
        more = [clocked(call, *args) for _ in range(2)]
        seconds = float(np.median([seconds, *(again for again, _ in more)]))
    return seconds, result


def peak_of(call, *args):
    """Bytes at the peak of a call, above what was in use before."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    call(*args)
    return memory("VmHWM") - before


def fitted(model, X, y):
    """Fit a model: median of the seconds, and the peak of the first fit in bytes."""
    seconds = []
    peak = peak_of(lambda: seconds.append(clocked(model.fit, X, y)[0]))
    if seconds[0] < SHORT:
        seconds += [clocked(model.fit, X, y)[0] for _ in range(2)]
    return float(np.median(seconds)), peak


def mach(sizes, threads):
    """Fit and prediction of MACHClassifier."""
    X, y, X_test, y_test = rows(sizes)
    params = {"n_buckets": sizes["B"], "max_iter": EPOCHS, "random_state": 0}
    few = make_many_classes(3_000, 300, 2 * sizes["B"], n_nonzeros=4, random_state=0)
    MACHClassifier(n_repetitions=4, **params).fit(*few).predict_topk(few[0])
    model = MACHClassifier(n_repetitions=sizes["R"], n_jobs=threads, **params)
    fit, peak = fitted(model, X, y)
    model.set_params(n_jobs=1)
    predict, best = median_seconds(model.predict_topk, X_test)
    return {
        "fit": fit,
        "predict": predict / N_TEST,
        "bytes": model.model_bytes_,
        "peak": peak,
        "top5": (best == y_test[:, None]).any(axis=1).mean(),
    }


def ovr(sizes, threads):
    """Fit of one-vs-rest."""
    X, y, *_ = rows(sizes)
    few = make_many_classes(3_000, 300, 5, n_nonzeros=4, random_state=0)
    model = SGDClassifier(max_iter=EPOCHS, tol=None, random_state=0).fit(*few)
    with parallel_config("threading", n_jobs=threads):
        fit, peak = fitted(model, X, y)
    return {"fit": fit, "peak": peak}


def ovr_predict(sizes, threads):
    """Best five classes by random weights of one-vs-rest, in float32."""
    X = rows(sizes | {"n": N_TEST, "K": 2})[2]
    K = sizes["K"]
    W = np.random.default_rng(0).random((sizes["d"], K), dtype=np.float32)
    predict = median_seconds(top5, lambda X: X @ W, np.arange(K), X)[0]
    return {"predict": predict / N_TEST}


KINDS = {"mach": mach, "ovr": ovr, "ovr_predict": ovr_predict}


def measure(kind, sizes, threads):
    """The figures of one measurement, in a process of its own."""
    job = json.dumps({"kind": kind, "sizes": sizes, "threads": threads})
    command = [sys.executable, __file__, "--job", job]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    told = ", ".join(f"{name}={size:,}" for name, size in sizes.items())
    found = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"{kind}: {told}: {found}", flush=True)
    return sizes | figures


def grow_classes(sizes, classes, limit, threads):
    """MACH and one-vs-rest by K: what is measured of each."""
    found = {"mach": [measure("mach", sizes | {"K": K}, threads) for K in classes]}
    found["ovr"], found["ovr_predict"] = [], []
    for K in OVR_CLASSES:
        last = found["ovr"][-1:]
        if last and last[0]["fit"] / last[0]["K"] * K > limit:
            break
        found["ovr"].append(measure("ovr", sizes | {"K": K}, threads))
    for K in (100, *classes):
        if 4 * sizes["d"] * K <= MOST_BYTES:
            found["ovr_predict"].append(
                measure("ovr_predict", sizes | {"K": K}, threads)
            )
    return found


def proportional(measured, name, K):
    """A cost of one-vs-rest for K classes: as measured, or proportional to the last."""
    costs = {figures["K"]: figures[name] for figures in measured}
    last = max(costs)
    return [costs[k] if k in costs else costs[last] * k / last for k in K]


def curves(found):
    """Costs by K: {"fit": {"mach": [K, cost, computed], "ovr": ...}, ...}.

    computed says of each cost whether it was, or else it was measured.
    """
    sizes, classes = found["mach"][0], [figures["K"] for figures in found["mach"]]
    result = {}
    for name in COSTS:
        measured = found["ovr_predict" if name == "predict" else "ovr"]
        known = [figures["K"] for figures in measured]
        # computed only beyond what was measured
        wide = known + [K for K in classes if K > known[-1]]
        if name == "bytes":
            cost = model_cost(wide, *(sizes[letter] for letter in "dRB"))
            other = cost.one_vs_rest.n_bytes.tolist()
        else:
            other = proportional(measured, name, wide)
        own = [figures[name] for figures in found["mach"]]
        result[name] = {
            "mach": [classes, own, [False] * len(classes)],
            "ovr": [wide, other, [K > known[-1] for K in wide]],
        }
    return result


def crossing(curve):
    """The K from which on MACH costs less, or None if that is beyond a million.

    Costs between points lie on a line in logarithms. With fewer classes than were
    measured MACH costs what it costs with the fewest.
    """
    K = np.geomspace(10, 1e6, 5_001)
    lines = []
    for name in ("mach", "ovr"):
        sizes, costs, _ = curve[name]
        lines.append(np.interp(np.log(K), np.log(sizes), np.log(costs)))
    more = np.flatnonzero(lines[0] >= lines[1])
    return K[more[-1] + 1] if more.size and more[-1] + 1 < K.size else None


def slope(x, costs):
    """Of the line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(costs), 1)[0])


def theory_of(figures):
    """What theory says of the costs, in operations and bytes."""
    sizes = {name: figures[name] for name in "KdRB"}
    n, z, K, d = (figures[name] for name in "nzKd")
    cost = model_cost(K, d, sizes["R"], sizes["B"], n_nonzeros=z).mach
    return {
        "fit": n * cost.training,
        "predict": cost.prediction + cost.decoding,
        "bytes": cost.n_bytes,
    }


def slopes(sweeps):
    """Measured and theoretical slopes by what grows: {"n": {"fit": (1.01, 1.0)}}."""
    result = {}
    for name, measured in sweeps.items():
        x = [figures[name] for figures in measured]
        theory = [theory_of(figures) for figures in measured]
        result[name] = {
            cost: (
                slope(x, [figures[cost] for figures in measured]),
                slope(x, [figures[cost] for figures in theory]),
            )
            for cost in COSTS
        }
    return result


def told(value, unit, computed=False):
    """A number with its unit in words: 3.1 h; a mark before what was computed."""
    units = {
        "s": [(86_400, "days"), (3_600, "h"), (60, "min"), (1, "s")],
        "row": [(1, "s"), (1e-3, "ms"), (1e-6, "µs")],
        "B": [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1, "bytes")],
    }[unit]
    size, name = next((u for u in units if value >= u[0]), units[-1])
    number = value / size
    number = f"{number:.0f}" if number >= 99.5 else f"{number:#.2g}".rstrip(".")
    return f"{'≈ ' if computed else ''}{number} {name}"


def table_of_classes(found, lines):
    """Head and rows of the table by K."""
    head = [
        "classes",
        "fit: MACH",
        "one-vs-rest",
        "a row: MACH",
        "one-vs-rest",
        "model: MACH",
        "one-vs-rest",
        "peak of fit: MACH",
    ]
    cells = []
    for figures in found["mach"]:
        row = [f"{figures['K']:,}"]
        for name, unit in (("fit", "s"), ("predict", "row"), ("bytes", "B")):
            K, costs, computed = lines[name]["ovr"]
            at = K.index(figures["K"])
            is_computed = computed[at] and name != "bytes"  # those are exact
            row.append(told(figures[name], unit))
            row.append(told(costs[at], unit, is_computed))
        cells.append([*row, told(figures["peak"], "B")])
    return head, cells


def table_of_slopes(sweeps, found):
    """Head and rows of the table of slopes: measured, and of theory in brackets."""
    head = ["what grows", "from", "to", *COSTS.values()]
    cells = []
    for name, measured in sweeps.items():
        factor = measured[0]["R"] if name == "B" else 1
        ends = (f"{factor * measured[i][name]:,}" for i in (0, -1))
        pairs = (f"{a:.2f} ({b:.2f})" for a, b in found[name].values())
        cells.append(
            [NAMES[name], *ends, *(pair.replace("-0.00", "0.00") for pair in pairs)]
        )
    return head, cells


def table_of_crossings(lines):
    head = ["cost", "MACH costs less from about"]
    cells = []
    for name, what in COSTS.items():
        K = crossing(lines[name])
        number = "more than 1,000,000" if K is None else f"{float(f'{K:.2g}'):,.0f}"
        cells.append([what, f"{number} classes"])
    return head, cells


def show(head, cells):
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in (head, *cells):
        print("  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)))
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute")
    parser.add_argument("--limit", type=float, default=100, metavar="SECONDS")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", type=Path, metavar="PATH")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        figures = KINDS[args.job["kind"]](args.job["sizes"], args.job["threads"])
        print(json.dumps({name: float(value) for name, value in figures.items()}))
        return

    by_classes, classes, base, sweeps = BY_CLASSES, CLASSES, BASE, SWEEPS
    if args.quick:
        by_classes, classes = BY_CLASSES | {"n": 14_000, "d": 3_000}, CLASSES[:2]
        base = BASE | {"n": 4_000, "d": 2_000, "K": 1_000}
        sweeps = {
            "n": [4_000, 16_000],
            "d": [2_000, 8_000],
            "z": [8, 32],
            "B": [16, 64],
        }
    print(machine(), *versions(), f"{args.threads} threads", sep=", ")

    start = time.perf_counter()
    found = grow_classes(by_classes, classes, args.limit, args.threads)
    lines = curves(found)
    measured = {"K": found["mach"]} | {
        name: [measure("mach", base | {name: size}, args.threads) for size in sizes]
        for name, sizes in sweeps.items()
    }
    fitted = slopes(measured)
    print(f"\n{time.perf_counter() - start:.0f} s in all\n")
    tables = {
        "": table_of_classes(found, lines),
        "_slopes": table_of_slopes(measured, fitted),
        "_crossing": table_of_crossings(lines),
    }
    for table in tables.values():
        show(*table)
    if args.save:
        data = {"measured": found, "curves": lines, "sweeps": measured}
        data |= {"slopes": fitted, "names": NAMES, "base": base}
        for suffix, table in tables.items():
            path = args.save.with_stem(args.save.stem + suffix)
            save(path, *table, data=None if suffix else data)


if __name__ == "__main__":
    main()
