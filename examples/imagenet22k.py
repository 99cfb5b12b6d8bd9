"""
Fine-grained ImageNet
=====================

The second experiment of the MACH paper: 21,841 classes of images in 6,144 dense
columns, in shards that together are larger than memory, streamed into ``fit``.

    python examples/imagenet22k.py --train 'shards/*.X.npy' --test 'test/*.X.npy'
    python examples/imagenet22k.py --train 'shards/*.parquet' --test 'test/*.parquet'
    python examples/imagenet22k.py --folder FOLDER [--rows 200000] [--defaults]
    python examples/imagenet22k.py --folder FOLDER --products --save \
        doc/results/imagenet22k.json

A shard is a pair of files, ``NAME.X.npy`` (float16 or float32) and ``NAME.y.npy``, or a
Parquet file with a column ``features`` of lists of numbers and a column ``label``.

Without ``--train`` and ``--test`` the rows are synthetic, of ImageNet's shape, and
every line says so. They are written to ``--folder`` once, in shards of 4,096 rows, and
read from there afterwards. B=512, R=20 is the setting of the paper, which trains three
epochs: here ``--epochs`` is 1. ``--defaults`` leaves all three to the package.
``--products`` also measures the products of an epoch against BLAS, by the function of
``bench_dense.py``. ``fit`` writes the rows to a temporary file, 4 bytes for each value:
5 GB for 200,000 rows, in the folder of ``TMPDIR``.

A synthetic row is ``c_z + noise / sqrt(d) g``: the centre of its topic z, a random
direction of unit length, and a standard normal vector g of d columns. Its label y is z
with probability 1 - e, and else any class (``--mislabelled``). All classes are equally
frequent. Then, with a constant that is the same for all k,

    log P(x | z = k) = constant + d / noise^2 x . c_k,
    P(y = k | x) = (1 - e) P(z = k | x) + e / K,

so that the optimal rule takes the class with the largest x . c_k. No classifier has a
higher expected accuracy. The script applies this rule to the test rows with the true
centres and prints its accuracy as the best possible.
"""

import argparse
import glob
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import bench_results
import numpy as np
from bench_dense import products
from bench_limits import resident
from odp import PAPER_CARD, Clocked, bandwidth

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import make_many_classes, read_parquet

N_FEATURES, N_CLASSES = 6_144, 21_841
SHARD = 4_096  # rows of a synthetic shard
TOGETHER = 512  # rows of a block of the source
SPOOL = 1 << 22  # bytes of the other block, of `fit`
HEAD = [
    "ImageNet", "hardware", "GB/s", "train", "ms a query", "above the weights",
    "model", "top-1", "best possible", "products of BLAS",
]  # fmt: skip
PAPER = [  # times as the authors report them
    ["the paper", *PAPER_CARD, "24 hours"] + 6 * [""],
    ["", "a GPU for each repetition", "", "about 1 hour"] + 6 * [""],
]


def centers_of(sizes):
    """Centre of each class (K, d), of unit length."""
    rng = np.random.default_rng([sizes["seed"], 0])
    centers = rng.standard_normal((sizes["classes"], sizes["features"]), np.float32)
    for part in np.array_split(centers, -(-len(centers) // 1000)):
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return centers


def make_rows(y, centers, sizes, rng):
    """Rows (n, d), float16, with such labels."""
    topics, n_classes = y.copy(), len(centers)
    wrong = rng.random(y.size) < sizes["mislabelled"]
    topics[wrong] = rng.integers(0, n_classes, np.count_nonzero(wrong))
    X = rng.standard_normal((y.size, centers.shape[1]), np.float32)
    X *= np.float32(sizes["noise"] / np.sqrt(centers.shape[1]))
    X += centers[topics]
    return X.astype(np.float16)


def best_labels(X, centers):
    """The label that the optimal rule gives each row."""
    return (X.astype(np.float32) @ centers.T).argmax(axis=1)


def synthetic(folder, sizes, say):
    """Patterns of the shards of a synthetic set, and the best accuracy."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = (str(folder / f"{name}-*.X.npy") for name in ("train", "test"))
    made = folder / "imagenet.json"  # written last
    if made.exists():
        known = json.loads(made.read_text())
        if known["sizes"] == sizes:
            say(f"{folder} has the shards already")
            return train, test, known["best"]
        made.unlink()
    for path in folder.glob("*-*.npy"):  # of other sizes
        path.unlink()
    started, hits = time.perf_counter(), 0
    centers, rng = centers_of(sizes), np.random.default_rng([sizes["seed"], 1])
    for name in ("train", "test"):
        n_rows = sizes["rows" if name == "train" else "test_rows"]
        first = np.arange(min(n_rows, len(centers)) if name == "train" else 0)
        y = np.append(first, rng.integers(0, len(centers), n_rows - first.size))
        rng.shuffle(y)
        for number, start in enumerate(range(0, n_rows, SHARD)):
            part = y[start : start + SHARD]
            X = make_rows(part, centers, sizes, rng)
            np.save(folder / f"{name}-{number:05}.X.npy", X)
            np.save(folder / f"{name}-{number:05}.y.npy", part)
            if name == "test":
                hits += np.count_nonzero(best_labels(X, centers) == part)
    n_bytes = sum(path.stat().st_size for path in folder.glob("*-*.npy"))
    seconds = time.perf_counter() - started
    say(f"{n_bytes / 1e9:.2f} GB of shards written in {seconds:.0f} s")
    best = hits / sizes["test_rows"]
    made.write_text(json.dumps({"sizes": sizes, "best": best}))
    return train, test, best


class Shards:
    """Blocks (X, y) of pairs of files .npy, a part of a shard in memory at a time."""

    def __init__(self, paths):
        self.paths = paths

    def __iter__(self):
        for path in self.paths:
            y = np.load(path.removesuffix(".X.npy") + ".y.npy")
            X = np.load(path, mmap_mode="r")
            row_bytes = X.dtype.itemsize * X.shape[1]
            for start in range(0, y.size, TOGETHER):
                rows = slice(start, start + TOGETHER)
                # read, and not mapped: pages of a map would count as our memory
                with open(path, "rb") as file:
                    file.seek(X.offset + start * row_bytes)
                    n_values = y[rows].size * X.shape[1]
                    block = np.fromfile(file, X.dtype, n_values)
                yield block.reshape(-1, X.shape[1]), y[rows]


def source_of(pattern):
    """Blocks of all shards that a pattern of names matches."""
    paths = sorted(glob.glob(pattern))
    if not paths:
        sys.exit(f"No file matches {pattern!r}.")
    if paths[0].endswith(".parquet"):
        return read_parquet(paths, features="features", label="label")
    if not all(path.endswith(".X.npy") for path in paths):
        sys.exit(f"{pattern!r} matches files other than NAME.X.npy or NAME.parquet.")
    return Shards(paths)


def fit(args, pattern, say):
    """The fitted model and what it took."""
    few, labels = make_many_classes(2_000, 512, 40, dense=True, random_state=0)
    small = MACHClassifier(n_repetitions=2, n_buckets=16, max_iter=1, random_state=0)
    small.set_params(n_jobs=args.threads).fit([(few, labels)]).predict(few[:64])
    del few, labels, small  # compiled
    model = MACHClassifier(random_state=0, n_jobs=args.threads)
    if not args.defaults:
        sizes = {"n_repetitions": args.repetitions, "n_buckets": args.buckets}
        model.set_params(**sizes, max_iter=args.epochs)
    source = Clocked(source_of(pattern))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
    before, started, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    model.fit(source)
    found = {
        "train": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "reading": source.seconds,
        "n_rows": source.n_rows,
        "peak": resident("VmHWM"),
    }
    found["above"] = found["peak"] - before - model.model_bytes_
    blocks = TOGETHER * model.n_features_in_ * 4 + SPOOL
    say(
        f"{source.n_rows:,} rows, {model.n_features_in_:,} columns, "
        f"{len(model.classes_):,} classes; R={model.n_repetitions_}, "
        f"B={model.n_buckets_}, {model.n_iter_} epochs, {args.threads} threads"
    )
    say(f"reading {found['reading']:.1f} s (while fit spools them, part of it)")
    say(f"fit with reading {found['train']:.1f} s, {found['cpu']:.1f} s of processors")
    say(
        f"peak memory {found['peak'] / 1e6:,.0f} MB; above the start and the "
        f"{model.model_bytes_ / 1e6:,.0f} MB of the model {found['above'] / 1e6:,.0f} "
        f"MB; two blocks, of the source and of fit, are {blocks / 1e6:.0f} MB"
    )
    return model, found


def test(model, pattern, best, say):
    """Accuracy and seconds on the test rows."""
    n_rows, seconds, hits = 0, 0.0, np.zeros(2)
    k = min(5, len(model.classes_))
    for X, y in source_of(pattern):
        started = time.perf_counter()
        hit = model.predict_topk(X, k=k) == y[:, None]
        seconds += time.perf_counter() - started
        hits += hit[:, 0].sum(), hit.any(axis=1).sum()
        n_rows += y.size
    (top1, top5), each = hits / n_rows, 1e3 * seconds / n_rows
    say(f"predict {n_rows:,} rows {seconds:.1f} s, {each:.3f} ms each")
    say(f"model {model.model_bytes_:,} bytes")
    say(f"top-1 {top1:.4f}, top-5 {top5:.4f}")
    if best is not None:
        say(f"best possible {best:.4f}; top-1 reaches {top1 / best:.1%} of it")
    return {
        "top1": top1, "top5": top5, "ms": each, "best": best,
        "bytes": model.model_bytes_, "R": model.n_repetitions_, "B": model.n_buckets_,
        "epochs": model.n_iter_,
    }  # fmt: skip


def row(found, label):
    """A line of the table that the documentation shows."""
    share = found["share"]
    return [
        f"{label}B={found['B']}, R={found['R']}, {found['n_rows']:,} rows, "
        f"epochs: {found['epochs']}",
        f"{found['threads']} cores",
        f"{found['bandwidth']:.0f}",
        f"{found['train']:.0f} s",
        f"{found['ms']:.2f}",
        f"{found['above'] / 1e6:.0f} MB",
        f"{found['bytes'] / 1e9:.2f} GB",
        f"{found['top1']:.2%}",
        "" if found["best"] is None else f"{found['best']:.2%}",
        "" if share is None else f"{share:.2f}",
    ]


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train", help="pattern of the real shards")
    add("--test", help="pattern of the real shards to test")
    add("--folder", help="of synthetic shards; a temporary one if not given")
    add("--rows", type=int, default=200_000, help="synthetic")
    add("--test-rows", type=int, default=4_096, help="synthetic")
    add("--features", type=int, default=N_FEATURES, help="synthetic")
    add("--classes", type=int, default=N_CLASSES, help="synthetic")
    add("--noise", type=float, default=1.5, help="about its length")
    add("--mislabelled", type=float, default=0.2, help="share of synthetic rows")
    add("--repetitions", type=int, default=20)
    add("--buckets", type=int, default=512)
    add("--epochs", type=int, default=1)
    add("--defaults", action="store_true", help="sizes and epochs of the package")
    add("--products", action="store_true", help="an epoch's products beside BLAS")
    add("--threads", type=int, default=os.cpu_count())
    add("--save", help="file of JSON for the documentation")
    args = parser.parse_args()
    if (args.train is None) != (args.test is None):
        parser.error("--train and --test are both needed for the real files.")
    return args


def main():
    args = parse()
    is_synthetic = args.train is None
    label = "synthetic: " if is_synthetic else ""

    def say(text):
        print(label + text, flush=True)

    best, train, tested = None, args.train, args.test
    folder = args.folder or tempfile.mkdtemp()
    try:
        if is_synthetic:
            names = ("rows", "test_rows", "features", "classes", "noise", "mislabelled")
            sizes = {name: getattr(args, name) for name in names} | {"seed": 0}
            train, tested, best = synthetic(folder, sizes, say)
        model, found = fit(args, train, say)
        found |= test(model, tested, best, say)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)
    found |= {"threads": args.threads, "bandwidth": bandwidth(args.threads)}
    say(f"memory {found['bandwidth']:.1f} GB/s, read and written by copies")
    found["share"] = None
    shape = model.n_features_in_, model.n_repetitions_ * model.n_buckets_
    del model
    if args.products:
        with redirect_stdout(StringIO()) as lines:  # which do not say synthetic
            [found["share"]] = products([(*shape, 4_096)], repeats=4)
        for line in lines.getvalue().splitlines():
            say(line)
        say(
            f"products of an epoch: {found['share']:.2f} of the speed of BLAS (bar .80)"
        )
    if args.save:
        bench_results.save(args.save, HEAD, [*PAPER, row(found, label)], data=found)


if __name__ == "__main__":
    main()
