"""Fits from blocks of rows beside fits in memory; kills of a fit with a checkpoint.

    python examples/bench_stream.py PATH ... [--threads 2] [--kills 0]
        [--kinds memory,blocks,sorted,vw] [--save FILE]

PATH is a folder of the kind that ``bench_peers.py`` describes. MACHClassifier has its
defaults. ``--save`` writes the table to a file for the documentation.

    memory   all rows are in memory
    blocks   in blocks of 5,000 rows, in the order of the file
    sorted   in blocks of 5,000 rows, sorted by label
    vw       from a file of Vowpal Wabbit text, by ``read_vw``

Each fit has a process of its own, which compiles before it begins and reads the rows
before or, of vw, while it trains. Seconds are those of ``fit``. Of the peak of memory
the line has all (Linux), and what it is above the memory before ``fit`` and the
weights. It is followed by megabytes a second of ``read_vw`` and of
``load_svmlight_file`` on the same rows, both in this process.

With ``--kills N`` a fit with a checkpoint is killed N times, each in a new folder and
at a random moment, and started again; the lines count those that end in the same bits.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_results
import numpy as np
from bench_peers import load, versions
from sklearn.datasets import load_svmlight_file

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import make_many_classes, read_vw

N_ROWS = 5_000  # of a block
KINDS = "memory,blocks,sorted,vw"
NAMES = {
    "memory": "in memory",
    "blocks": "in blocks",
    "sorted": "in blocks, sorted by label",
    "vw": "from Vowpal Wabbit text",
}
HEAD = ["data", "rows", "top-1", "top-5", "fit, s", "memory besides the weights, MB"]


def status(name):
    """Megabytes of a line of /proc/self/status."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(name):
            return int(text.split()[1]) / 1e3
    raise OSError(f"/proc/self/status has no {name}.")


def blocks(X, y):
    return (
        (X[i : i + N_ROWS], y[i : i + N_ROWS]) for i in range(0, X.shape[0], N_ROWS)
    )


def write(X, y, vw, svmlight):
    """The rows as text of both formats, columns counted from 0."""
    with open(vw, "w") as one, open(svmlight, "w") as other:
        for i, label in enumerate(y):
            row = slice(X.indptr[i], X.indptr[i + 1])
            pairs = zip(X.indices[row].tolist(), X.data[row].tolist(), strict=True)
            text = " ".join(f"{j}:{value:.6g}" for j, value in pairs)
            one.write(f"{label} | {text}\n")
            other.write(f"{label} {text}\n")


def one_fit(path, kind, threads, vw, checkpoint):
    """Fit in this process, and print what there is to say as JSON."""
    few, labels = make_many_classes(20_000, 3000, 20_000, random_state=0)
    small = MACHClassifier(random_state=0, n_jobs=threads, max_iter=1)
    small.fit(few, labels)  # compiles
    small.fit(blocks(few, labels))
    del small, few
    if kind == "vw":
        with np.load(vw + ".npz") as shape:
            source = (read_vw(vw, n_features=int(shape["d"])),)
    else:
        X, y = load(path, None)[:2]
        if kind == "sorted":
            order = np.argsort(y, kind="stable")
            X, y = X[order], y[order]
        source = (X, y) if kind == "memory" else (blocks(X, y),)
    model = MACHClassifier(random_state=0, n_jobs=threads, checkpoint=checkpoint)
    before, started = status("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
    model.fit(*source)
    found = {"seconds": time.perf_counter() - started, "peak": status("VmHWM")}
    found["above"] = found["peak"] - before - model.model_bytes_ / 1e6
    X_test, y_test = load(path, None)[2:]
    digest = hashlib.sha256()
    for array in (model.coef_, model.intercept_, model.predict_proba(X_test[:3])):
        digest.update(np.ascontiguousarray(array).tobytes())
    found["digest"] = digest.hexdigest()
    hits = model.predict_topk(X_test, k=5) == y_test[:, None]
    found["scores"] = {"top-1": hits[:, 0].mean(), "top-5": hits.any(axis=1).mean()}
    print(json.dumps(found, default=float))


def start(path, args, kind, vw, checkpoint=None):
    command = [sys.executable, __file__, str(path), "--one", kind, "--vw", vw]
    command += ["--threads", str(args.threads)]
    if checkpoint is not None:
        command += ["--checkpoint", checkpoint]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process):
    output = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"A fit ended with {process.returncode}.")
    return json.loads(output.splitlines()[-1])


def kill(path, args, kind, vw):
    """Kill fits at random moments, and count those that end in the same bits."""
    started = time.perf_counter()
    whole = result(start(path, args, kind, vw))["digest"]
    most = time.perf_counter() - started
    rng, n_same, n_states = random.Random(0), 0, 0
    for _ in range(args.kills):
        with tempfile.TemporaryDirectory() as folder:
            process = start(path, args, kind, vw, folder)
            time.sleep(rng.uniform(0, most))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            n_states += any(name.startswith("rep") for name in os.listdir(folder))
            n_same += result(start(path, args, kind, vw, folder))["digest"] == whole
    print(
        f"{kind}: {n_same} of {args.kills} killed fits end in the same bits; "
        f"{n_states} had a state",
        flush=True,
    )


def compare(path, args):
    """Lists of what HEAD names, a kind of rows each."""
    X, y = load(path, None)[:2]
    kinds = args.kinds.split(",")
    print(f"\n{path.name}: {X.shape[0]:,} rows, {X.shape[1]:,} columns", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        vw, svmlight = (os.path.join(folder, name) for name in ("rows.vw", "rows.svm"))
        if "vw" in kinds:
            write(X, y, vw, svmlight)
            np.savez(vw + ".npz", d=X.shape[1])
            for block in read_vw(vw, n_features=X.shape[1]):
                del block  # compiles
                break
            started = time.perf_counter()
            for block in read_vw(vw, n_features=X.shape[1]):
                del block
            ours = time.perf_counter() - started
            started = time.perf_counter()
            load_svmlight_file(svmlight, n_features=X.shape[1], dtype=np.float32)
            theirs = time.perf_counter() - started
            size = os.path.getsize(svmlight) / 1e6
            print(
                f"{size:.0f} MB of text: read_vw {size / ours:.0f} MB/s, "
                f"load_svmlight_file {size / theirs:.0f} MB/s"
            )
        del X, y
        first, rows = None, []
        print(f"{'':8} seconds  ratio  peak MB  above MB")
        for kind in kinds:
            found = result(start(path, args, kind, vw))
            first = first or found["seconds"]
            scores = "  ".join(f"{k} {v:.4f}" for k, v in found["scores"].items())
            print(
                f"{kind:8} {found['seconds']:7.1f}  {found['seconds'] / first:5.2f}  "
                f"{found['peak']:7.0f}  {found['above']:8.0f}  {scores}",
                flush=True,
            )
            cells = [f"{score:.3f}" for score in found["scores"].values()]
            cells += [f"{found['seconds']:.0f}", f"{found['above']:.0f}"]
            rows.append(["" if rows else path.name, NAMES[kind], *cells])
        if args.kills:
            for kind in kinds:
                kill(path, args, kind, vw)
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", metavar="PATH", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", default=KINDS)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--save", metavar="FILE", help="write the table as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--vw", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one_fit(args.paths[0], args.one, args.threads, args.vw, args.checkpoint)
    print(", ".join(versions()), flush=True)
    rows = [row for path in args.paths for row in compare(path, args)]
    if args.save:
        bench_results.save(args.save, HEAD, rows)


if __name__ == "__main__":
    main()
