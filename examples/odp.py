"""
The Open Directory Project
==========================

The first experiment of the MACH paper: 105,033 classes of text, 422,713 columns and
1,084,404 rows, streamed from Vowpal Wabbit text into ``fit``.

    python examples/odp.py --train odp_train.vw.gz --test odp_test.vw.gz
    python examples/odp.py --folder FOLDER [--scale 0.01] [--defaults] [--in-memory]
    python examples/odp.py --folder FOLDER --compare --save doc/results/odp.json
    python examples/odp.py ... --part 0/2 --model part0.mach
    python examples/odp.py ... --part 1/2 --model part1.mach
    python examples/odp.py ... --merge part0.mach part1.mach

Without ``--train`` and ``--test`` the rows are synthetic, of ODP's shape, and every
line says so. They are written to ``--folder`` once, and read from there afterwards.
B=32, R=25 and five epochs are the setting of the paper; ``--defaults`` leaves them to
the package. ``--part i/n`` is ``MACHClassifier(part=(i, n))``: machine i of n trains
its share of the repetitions, and ``--merge`` joins the files of all machines and tests.
``--device gpu`` reads all rows into memory first: streams train on the CPU only.
``--compare`` runs the streamed fit, the one in memory and the one with our defaults,
each in a process of its own.

A synthetic row has 50 non-zeros. The columns, most popular first, are cut into 50 runs
of equal popularity, as in ``make_many_classes``, and a row has one column j in each
run, with a probability p_j that falls like 1 / j. The first 25 runs, of words such as
"the", tell nothing. In each of the others a class owns one column, which takes the
place of the random one with probability s (``signal``). So a row x of topic z has, in
a run, the column j with probability ``s [j is of z] + (1 - s) p_j``. Bayes' rule gives
the topic, where w_k is the share of class k,

    P(z = k | x) = w_k L_k / sum_i w_i L_i,   L_k = prod (1 + s / ((1 - s) p_j))

over the columns j of x that class k owns. The label y is the topic with probability
1 - e, and another one, drawn by the shares w, with probability e (``mislabelled``):

    P(y = k | x) = (1 - e) P(z = k | x) + e w_k.

No classifier has a higher expected accuracy than the mean of max_k P(y = k | x). The
script computes it for all test rows, exactly, and prints it as the best possible.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import gettempdir
from typing import NamedTuple

import bench_results
import numpy as np
import scipy.sparse as sp
from bench_limits import resident
from numba import njit

import sklearn_mach
from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import read_vw

N_ROWS, N_FEATURES, N_CLASSES = 1_084_404, 422_713, 105_033
N_NONZEROS, N_PLAIN = 50, 25  # of a row, and those of them that tell nothing
CHUNK = 50_000  # rows made at a time
HEAD = [
    "ODP", "hardware", "GB/s", "train", "ms a query", "peak memory", "model",
    "top-1", "top-5", "best possible",
]  # fmt: skip
PAPER_CARD = "1 Titan X", "480"  # GB/s, by NVIDIA's specification of Titan X (Pascal)
PAPER = [  # Huang et al. (2018); the times as the authors report them
    ["the paper, R=25", *PAPER_CARD, "7 hours", "", "", "", "", "", ""],
    ["", "25 Titan X", "480 each", "15 minutes", "", "", "", "", "", ""],
    ["the paper, best", *PAPER_CARD, "", "", "", "", "19.28 %", "", ""],
    ["the paper, smallest", "", "", "", "", "", "0.3 GB", "9 %", "", ""],
]


class Sizes(NamedTuple):
    """What decides a synthetic set."""

    n_rows: int
    n_features: int
    n_classes: int
    n_test: int
    signal: float
    mislabelled: float
    seed: int = 0


class Problem:
    """Rows of the shape of ODP, and the best that a classifier can do with them."""

    def __init__(self, sizes):
        self.sizes = sizes
        rng = np.random.default_rng([sizes.seed, 0])
        # ends of the runs: at equal logarithms, and one column apart at least
        ends = np.geomspace(1, sizes.n_features + 1, N_NONZEROS + 1) - 1
        least = np.arange(N_NONZEROS + 1)
        ends = np.maximum.accumulate(ends.astype(np.int64) - least)
        ends = np.clip(ends, 0, sizes.n_features - N_NONZEROS) + least
        ends[-1] = sizes.n_features
        self.low, self.high = ends[:-1], ends[1:]
        telling = slice(N_PLAIN, None)
        self.marks = rng.integers(
            self.low[telling],
            self.high[telling],
            (sizes.n_classes, N_NONZEROS - N_PLAIN),
            dtype=np.int32,
        )
        tail = 1 / np.arange(1, sizes.n_classes + 1)
        n_more = sizes.n_rows - sizes.n_classes
        self.shares = (1 + n_more * tail / tail.sum()) / sizes.n_rows

    def labels(self, n, rng, all_classes=False):
        """Labels by the shares; with `all_classes` each class has a row at least."""
        y = np.arange(self.sizes.n_classes if all_classes else 0)
        shares = self.shares - 1 / self.sizes.n_rows if all_classes else self.shares
        ends = np.cumsum(shares)
        draws = rng.random(n - y.size) * ends[-1]
        y = np.append(y, np.searchsorted(ends, draws, side="right"))
        rng.shuffle(y)
        return y

    def columns(self, y, rng):
        """The columns (n, 50) of rows with such labels, which rise in each row."""
        topics, shape = y.copy(), (y.size, N_NONZEROS)
        wrong = rng.random(y.size) < self.sizes.mislabelled
        topics[wrong] = self.labels(np.count_nonzero(wrong), rng)
        low, high = self.low + 1.0, self.high + 1.0
        places = low * (high / low) ** rng.random(shape)
        columns = np.minimum(places, self.high).astype(np.int32) - 1
        marked = rng.random((y.size, N_NONZEROS - N_PLAIN)) < self.sizes.signal
        np.copyto(columns[:, N_PLAIN:], self.marks[topics], where=marked)
        return columns

    def chances(self):
        """p_j of the columns of the runs that tell, in order."""
        found = []
        for low, high in zip(self.low[N_PLAIN:], self.high[N_PLAIN:], strict=True):
            j = np.arange(low, high)
            found.append(np.log((j + 2) / (j + 1)) / np.log((high + 1) / (low + 1)))
        return np.concatenate(found)

    def best(self, columns, n_together=2000):
        """The best label of each row, and the probability that it is right."""
        s, e = self.sizes.signal, self.sizes.mislabelled
        first = self.low[N_PLAIN]
        gains = np.log1p(s / ((1 - s) * self.chances()))
        owned = (self.marks - first).ravel()
        owners = np.repeat(np.arange(len(self.marks)), self.marks.shape[1])
        shape = gains.size, len(self.marks)
        owned = sp.csr_array((gains[owned], (owned, owners)), shape)
        labels, chances = [], []
        for start in range(0, len(columns), n_together):
            part = columns[start : start + n_together, N_PLAIN:] - first
            ends = np.arange(len(part) + 1) * part.shape[1]
            rows = sp.csr_array(
                (np.ones(part.size), part.ravel(), ends), (len(part), gains.size)
            )
            odds = (rows @ owned).tocsr()  # log L_k, of classes that own a column
            own = self.shares[odds.indices]
            odds.data = np.exp(odds.data) * own
            row = np.repeat(np.arange(len(part)), np.diff(odds.indptr))
            total = 1 + np.bincount(row, odds.data - own, len(part))
            odds.data = (1 - e) * odds.data / total[row] + e * own
            best, chance = odds.argmax(axis=1), odds.max(axis=1).toarray().ravel()
            other = self.shares[0] * ((1 - e) / total + e)  # class 0, if it owns none
            labels.append(np.where(chance > other, best, 0))
            chances.append(np.maximum(chance, other))
        return np.concatenate(labels), np.concatenate(chances)


@njit(cache=True)
def write_number(text, at, number):
    """Write the digits of an integer of 0 or more, and return where they end."""
    end, rest = at + 1, number // 10
    while rest:
        end, rest = end + 1, rest // 10
    for place in range(end - 1, at - 1, -1):
        text[place] = 48 + number % 10
        number //= 10
    return end


@njit(cache=True)
def write_lines(text, y, columns, value):
    """Write ``label | column:value ...`` for each row, and return the bytes."""
    at = 0
    for i in range(y.size):
        at = write_number(text, at, y[i])
        text[at], text[at + 1] = 32, 124  # a space and a bar
        at += 2
        for j in range(columns.shape[1]):
            text[at] = 32
            at = write_number(text, at + 1, columns[i, j])
            for c in value:
                text[at] = c
                at += 1
        text[at] = 10
        at += 1
    return at


def write_vw(path, problem, y, rng):
    """Write rows with such labels as text of Vowpal Wabbit, and return the columns."""
    value = np.frombuffer(f":{N_NONZEROS**-0.5:.4f}".encode(), np.uint8)
    text, all_columns = None, []
    with open(path, "wb") as file:
        for start in range(0, y.size, CHUNK):
            part = y[start : start + CHUNK]
            columns = problem.columns(part, rng)
            if text is None:
                line = 24 + columns.shape[1] * (value.size + 11)
                text = np.empty(part.size * line, np.uint8)
            file.write(text[: write_lines(text, part, columns, value)])
            if y.size == problem.sizes.n_test:
                all_columns.append(columns)
    return np.concatenate(all_columns) if all_columns else None


def synthetic(folder, sizes, say):
    """Paths of the files of a synthetic set, and the best accuracy; made if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = (folder / f"odp_{name}.vw" for name in ("train", "test"))
    made = folder / "odp.json"  # written last
    if made.exists():
        known = json.loads(made.read_text())
        if known["sizes"] == sizes._asdict() and train.exists() and test.exists():
            say(f"{folder} has the rows already")
            return train, test, known["best"]
        made.unlink()
    started, problem = time.perf_counter(), Problem(sizes)
    rng = np.random.default_rng([sizes.seed, 1])
    y = problem.labels(sizes.n_rows, rng, all_classes=True)
    write_vw(train, problem, y, rng)
    y = problem.labels(sizes.n_test, rng)
    columns = write_vw(test, problem, y, rng)
    size = (train.stat().st_size + test.stat().st_size) / 1e6
    say(f"{size:.0f} MB of text written in {time.perf_counter() - started:.0f} s")
    labels, chances = problem.best(columns)
    best = {"expected": chances.mean(), "on_test_rows": np.mean(labels == y)}
    made.write_text(json.dumps({"sizes": sizes._asdict(), "best": best}))
    return train, test, best


class Clocked:
    """A source of blocks, and the seconds and rows that came of it."""

    def __init__(self, source):
        self.source, self.seconds, self.n_rows = source, 0.0, 0

    def __iter__(self):
        blocks = iter(self.source)
        while True:
            started = time.perf_counter()
            block = next(blocks, None)
            self.seconds += time.perf_counter() - started
            if block is None:
                return
            self.n_rows += len(block[1])
            yield block


def in_memory(source):
    """All rows of a source."""
    X, y = zip(*source, strict=True)
    return sp.vstack(X, format="csr"), np.concatenate(y)


def bandwidth(n_threads, n_bytes=1 << 28, repeats=7):
    """GB/s of reading and writing memory: copies of an array by so many threads."""
    arrays = [(np.ones(n_bytes // 8), np.ones(n_bytes // 8)) for _ in range(n_threads)]
    times = []
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(repeats):
            started = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(*pair), arrays))
            times.append(time.perf_counter() - started)
    return 2 * n_bytes * n_threads / median(times) / 1e9


def classifier(args):
    """The model of the options."""
    device = {"cpu": "cpu", "gpu": "cuda"}[args.device]
    model = MACHClassifier(random_state=0, n_jobs=args.threads, device=device)
    if not args.defaults:
        sizes = {"n_repetitions": args.repetitions, "n_buckets": args.buckets}
        model.set_params(**sizes, max_iter=args.epochs)
    return model.set_params(part=args.part)


def compile_all(args, train):
    """A small fit of each kind, so that none of the times below has compilation."""
    X, y = sklearn_mach.datasets.make_many_classes(12_000, 500, 300, random_state=0)
    small = MACHClassifier(n_repetitions=2, n_buckets=32, max_iter=1, random_state=0)
    small.set_params(n_jobs=args.threads)
    for rows in (X, y), ([(X, y)],):
        small.fit(*rows).predict_topk(X[:64], k=5)
    next(iter(read_vw(train, n_features=args.features, block_bytes=1000)))


def fit(args, train, say):
    """The fitted model and what it took."""
    compile_all(args, train)
    source = Clocked(read_vw(train, n_features=args.features))
    model, rows = classifier(args), (source,)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
    before, started, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    if args.in_memory or args.device == "gpu":
        if args.device == "gpu" and not args.in_memory:
            say("streams train on the CPU only: all rows are read into memory first")
        rows = in_memory(source)
    model.fit(*rows)
    found = {
        "train": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "reading": source.seconds,
        "peak": resident("VmHWM"),
        "before": before,
    }
    say(f"{source.n_rows:,} rows, {args.features:,} columns, {len(model.classes_):,} "
        f"classes; R={model.n_repetitions_}, B={model.n_buckets_}, {model.n_iter_} "
        f"epochs, {args.threads} threads, {model.device_}")  # fmt: skip
    when = "before fit" if len(rows) > 1 else "while fit spools them, part of it"
    say(f"reading {found['reading']:.1f} s ({when})")
    say(f"fit with reading {found['train']:.1f} s, {found['cpu']:.1f} s of processors")
    say(f"peak memory {found['peak'] / 1e6:,.0f} MB, "
        f"{(found['peak'] - before) / 1e6:,.0f} MB above the start, of which "
        f"{model.model_bytes_ / 1e6:,.0f} MB are the model")  # fmt: skip
    return model, found


def test(model, args, path, best, say):
    """Accuracy and seconds on the test rows."""
    n_rows, seconds, hits = 0, 0.0, np.zeros(2)
    k = min(5, len(model.classes_))
    for X, y in read_vw(path, n_features=args.features):
        started = time.perf_counter()
        hit = model.predict_topk(X, k=k) == y[:, None]
        seconds += time.perf_counter() - started
        hits += hit[:, 0].sum(), hit.any(axis=1).sum()
        n_rows += y.size
    top1, top5 = hits / n_rows
    each = 1e3 * seconds / n_rows
    say(f"predict {n_rows:,} rows {seconds:.1f} s, {each:.3f} ms each")
    say(f"model {model.model_bytes_:,} bytes")
    say(f"top-1 {top1:.4f}, top-5 {top5:.4f}")
    if best is not None:
        here = best["on_test_rows"]
        say(
            f"best possible {best['expected']:.4f} expected, {here:.4f} on these rows; "
            f"top-1 reaches {top1 / here:.1%} of it"
        )
    return {
        "top1": top1, "top5": top5, "ms": each, "n_test": n_rows,
        "bytes": model.model_bytes_, "best": best and best["expected"],
        "R": model.n_repetitions_, "B": model.n_buckets_,
    }  # fmt: skip


def row(what, found):
    """A line of the table that the documentation shows."""
    return [
        f"{what}, B={found['B']}, R={found['R']}",
        f"{found['threads']} cores" if found["device"] == "cpu" else "GPU",
        f"{found['bandwidth']:.0f}",
        f"{found['train']:.0f} s",
        f"{found['ms']:.2f}",
        f"{found['peak'] / 1e9:.2f} GB",
        f"{found['bytes'] / 1e9:.2f} GB",
        f"{found['top1']:.2%}",
        f"{found['top5']:.2%}",
        "" if found["best"] is None else f"{found['best']:.2%}",
    ]


def compare(args, say):
    """The three fits, each in a process of its own; what they found by name."""
    kinds = {"streamed": [], "in memory": ["--in-memory"]}
    kinds["our defaults, streamed"] = ["--defaults"]
    found = {}
    given = [a for a in sys.argv[1:] if a != "--compare"]
    for name, more in kinds.items():
        command = [sys.executable, __file__, *given, *more, "--found"]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        *lines, last = run.stdout.splitlines()
        for line in lines:
            print(line, flush=True)
        found[name] = json.loads(last)
    share = found["streamed"]["top1"] / found["in memory"]["top1"]
    say(f"streamed top-1 is {share:.1%} of that in memory (bar 95 %)")
    say(f"streamed fit with reading {found['streamed']['train']:.0f} s (bar 240)")
    return found


def share_of(text):
    """The pair (i, n) of i/n."""
    i, n = map(int, text.split("/"))
    return i, n


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train", help="the real file, odp_train.vw.gz")
    add("--test", help="the real file, odp_test.vw.gz")
    add("--features", type=int, help=f"columns of the files; {N_FEATURES} of ODP")
    add("--folder", default=Path(gettempdir(), "odp"), help="of synthetic rows")
    add("--scale", type=float, default=1.0, help="of rows, columns and classes")
    add("--test-rows", type=int, default=100_000, help="synthetic")
    add("--signal", type=float, default=0.3, help="that a column is the class's")
    add("--mislabelled", type=float, default=0.2, help="share of synthetic rows")
    add("--repetitions", type=int, default=25)
    add("--buckets", type=int, default=32)
    add("--epochs", type=int, default=5)
    add("--defaults", action="store_true", help="sizes and epochs of the package")
    add("--in-memory", action="store_true", help="read all rows before fit")
    add("--part", type=share_of, help="i/n: train share i of n, from 0")
    add("--model", help="file to save the model to")
    add("--merge", nargs="+", help="files of all parts, to join and test")
    add("--device", choices=("cpu", "gpu"), default="cpu")
    add("--threads", type=int, default=os.cpu_count())
    add("--compare", action="store_true", help="streamed, in memory and our defaults")
    add("--save", help="file of JSON for the documentation")
    add("--found", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if (args.train is None) != (args.test is None):
        parser.error("--train and --test are both needed for the real files.")
    if args.merge and args.part:
        parser.error("--part trains, and --merge joins what was trained: pass one.")
    if args.save and (args.part or args.merge):
        parser.error("--save keeps a fit: leave --part and --merge out.")
    if args.features is None:
        synthetic = args.train is None
        args.features = int(args.scale * N_FEATURES) if synthetic else N_FEATURES
    return args


def main():
    args = parse()
    is_synthetic = args.train is None
    label = "synthetic: " if is_synthetic else ""

    def say(text):
        print(label + text, flush=True)

    best, train, tested = None, args.train, args.test
    if is_synthetic:
        n_rows, n_classes = (int(args.scale * n) for n in (N_ROWS, N_CLASSES))
        sizes = n_rows, args.features, n_classes, args.test_rows
        sizes = Sizes(*sizes, args.signal, args.mislabelled)
        train, tested, best = synthetic(args.folder, sizes, say)
    if args.compare:
        runs = compare(args, say)
    elif args.merge:
        model = sklearn_mach.merge([sklearn_mach.load(path) for path in args.merge])
        model.set_params(n_jobs=args.threads)
        say(f"merged {len(args.merge)} parts: R={model.n_repetitions_}")
        return test(model, args, tested, best, say)
    else:
        model, found = fit(args, train, say)
        if args.model:
            model.save(args.model)
            say(f"saved in {args.model}")
        if args.part:
            n_own = model.n_repetitions_
            return say(f"part {args.part[0]}/{args.part[1]} has {n_own} repetitions")
        found |= test(model, args, tested, best, say)
        found |= {"threads": args.threads, "device": args.device}
        del model
        found["bandwidth"] = bandwidth(args.threads)
        say(f"memory {found['bandwidth']:.1f} GB/s, read and written by copies")
        if args.found:
            return print(json.dumps(found, default=float))
        runs = {"in memory" if args.in_memory else "streamed": found}
    if args.save:
        rows = [row(label + name, found) for name, found in runs.items()]
        bench_results.save(args.save, HEAD, PAPER + rows, data=runs)


if __name__ == "__main__":
    main()
