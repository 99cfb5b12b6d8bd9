"""
Clusters
========

Seconds and bytes of a fit on the workers of Dask or Ray, beside local threads, on the
next-token problem of Python's own library. All workers are processes of this machine;
fits take turns, and each figure is the median of the runs.

    python examples/bench_cluster.py [--engine dask ray] [--files 100]
        [--workers 1 2 4] [--save FILE]

Bytes are, of Dask, those that the loopback device has carried: from this process to the
scheduler, from there to a worker, and from a worker to the next. Of Ray, they are what
its store of the node, in /dev/shm, holds at most: the rows once, in memory that all its
workers map, and the results. ``rows`` says how many times the bytes of X that is.
``--save`` writes the table to a file for the documentation.
"""

import argparse
import shutil
import threading
import time
from contextlib import contextmanager
from statistics import median

import bench_results
import joblib
import numpy as np
import psutil
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import load_python_tokens


@contextmanager
def dask_workers(n_workers):
    """Yields a function that gives the bytes sent until now."""
    from dask.distributed import Client, LocalCluster

    def sent():
        return psutil.net_io_counters(pernic=True)["lo"].bytes_sent

    sizes = dict(n_workers=n_workers, threads_per_worker=1, processes=True)
    with LocalCluster(**sizes, dashboard_address=":0") as cluster, Client(cluster):
        yield sent


@contextmanager
def ray_workers(n_workers):
    """Yields a function that gives the most bytes that the store has held."""
    import ray
    from ray.util.joblib import register_ray

    ray.init(num_cpus=n_workers, include_dashboard=False, log_to_driver=False)
    register_ray()
    most, stopped = [0], threading.Event()

    def used():
        return shutil.disk_usage("/dev/shm").used

    before = used()

    def watch():
        while not stopped.wait(0.05):
            most[0] = max(most[0], used() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield lambda: most[0]
    finally:
        stopped.set()
        watching.join()
        ray.shutdown()


WORKERS = {"dask": dask_workers, "ray": ray_workers}
PACKAGES = ("joblib", "distributed", "ray")
HEAD = [
    "engine",
    "workers",
    "threads, s",
    "workers, s",
    "MB carried or stored",
    "equal weights",
]


def timed_fit(model, X, y):
    started = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - started


def arrays(model):
    if model.estimator is None:
        return [model.coef_, model.intercept_]
    return [a for e in model.estimators_ for a in (e.coef_, e.intercept_)]


def compare(engine, model, X, y, options):
    """Lists of what HEAD names, a number of workers each."""
    n_bytes = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    print(f"\n{engine}\nworkers  local s  there s  ratio  MB sent   rows  equal")
    rows = []
    for n_workers in options.workers:
        with WORKERS[engine](n_workers) as sent:
            there, local, carried = [], [], []
            # compiles or loads the kernels of all, for weights of the same shape
            with joblib.parallel_config(engine, n_jobs=n_workers):
                model.fit(X[:20_000], y[:20_000])
            for _ in range(options.repeat):
                model.set_params(n_jobs=n_workers)
                local.append(timed_fit(model, X, y))
                expected = arrays(model)
                model.set_params(n_jobs=None)
                before = sent() if engine == "dask" else 0
                with joblib.parallel_config(engine, n_jobs=n_workers):
                    there.append(timed_fit(model, X, y))
                carried.append(sent() - before)
                equal = all(map(np.array_equal, arrays(model), expected))
        ratio = median(a / b for a, b in zip(there, local, strict=True))
        print(
            f"{n_workers:7}  {median(local):7.1f}  {median(there):7.1f}  {ratio:5.2f}  "
            f"{median(carried) / 1e6:7,.0f}  {median(carried) / n_bytes:5.1f}  {equal}",
            flush=True,
        )
        cells = [f"{median(local):.0f}", f"{median(there):.0f}"]
        cells += [f"{median(carried) / 1e6:,.0f}", "yes" if equal else "no"]
        rows.append([engine, str(n_workers), *cells])
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=WORKERS, nargs="+", default=["dask"])
    parser.add_argument("--files", type=int, help="of the library; all by default")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, help="of a fit; by default its own number"
    )
    parser.add_argument("--base", action="store_true", help="SGDClassifier as a base")
    parser.add_argument("--save", metavar="FILE", help="write the table as JSON")
    options = parser.parse_args()
    tokens = load_python_tokens(n_files=options.files)
    X, y = normalize(tokens.data_train), tokens.target_train
    n_bytes = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    base = SGDClassifier(loss="log_loss", max_iter=5, tol=None)
    model = MACHClassifier(base if options.base else None, random_state=0)
    model.set_params(max_iter=options.epochs or "auto")
    if options.base:
        model.set_params(n_repetitions=8, n_buckets=16)
    print(bench_results.machine(), *bench_results.versions(*PACKAGES), sep=", ")
    print(f"{X.shape[0]:,} rows, {X.shape[1]:,} columns, {n_bytes / 1e6:,.0f} MB")
    rows = []
    for engine in options.engine:
        rows += compare(engine, model, X, y, options)
    shape = f"R = {model.n_repetitions_}, B = {model.n_buckets_}"
    sizes = sum(a.nbytes for a in arrays(model))
    print(f"{shape}, weights {sizes / 1e6:,.0f} MB")
    if options.save:
        data = {"rows": X.shape[0], "columns": X.shape[1]}
        data |= {"bytes of rows": n_bytes, "bytes of weights": sizes}
        bench_results.save(options.save, HEAD, rows, packages=PACKAGES, data=data)


if __name__ == "__main__":  # workers import this file
    main()
