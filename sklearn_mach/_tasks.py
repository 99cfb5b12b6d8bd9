"""Tasks of a fit: on threads, or on the workers of joblib's backend.

Large things that all tasks read are sent to a worker once, and not with each task.  A
worker that is lost in the middle of a fit costs its own tasks, which are done again.
"""

import warnings
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy

from joblib import effective_n_jobs
from joblib.parallel import get_active_backend
from sklearn import config_context, get_config
from sklearn.utils.parallel import Parallel, delayed

from ._compat import one_blas_thread

_N_TRIES = 3  # of tasks that were lost with a worker


def run_tasks(function, shared, tasks, n_jobs, local=False):
    """``function(shared, *task)`` of each of the tasks, by joblib; a list.

    shared : tuple, what all tasks read; in a worker its arrays may be read-only
    tasks : list of tuples
    local : whether to stay on threads of this process, whatever the backend

    An error of a task is raised as it is.
    """
    backend, _ = get_active_backend(prefer="threads")
    if local or getattr(backend, "supports_sharedmem", False):
        where = {"require": "sharedmem"} if local else {"prefer": "threads"}
        return Parallel(n_jobs=n_jobs, **where)(
            delayed(function)(shared, *task) for task in tasks
        )
    if effective_n_jobs(n_jobs) == 1:  # as joblib does it, in this process
        return [function(shared, *task) for task in tasks]
    name = type(backend).__name__  # of modules that need not be there
    if name == "RayBackend":
        return _run_on_ray(backend, function, shared, tasks, n_jobs)
    # Results that come before a worker is lost are kept, if joblib hands them over.
    one_by_one = getattr(backend, "supports_return_generator", False)
    how = "generator_unordered" if one_by_one else "list"
    results, left = [None] * len(tasks), set(range(len(tasks)))
    for n_left in reversed(range(_N_TRIES)):
        sent = shared
        if name == "DaskDistributedBackend":
            sent = _scattered(backend.client, shared)
        try:
            done = Parallel(n_jobs=n_jobs, return_as=how)(
                delayed(_run)(sent, function, i, tasks[i]) for i in sorted(left)
            )
            for i, result in done:
                results[i] = result
                left.remove(i)
            return results
        except (CancelledError, BrokenProcessPool) as error:
            if not n_left:
                raise
            warnings.warn(
                f"{name} lost a worker, and data or results with it "
                f"({type(error).__name__}: {error}). Of {len(tasks)} tasks "
                f"{len(left)} are trained again.",
                UserWarning,
                stacklevel=2,
            )


def _run(shared, function, i, task):
    """In a worker: the number of a task and what the function returns."""
    if hasattr(shared, "result"):  # of Dask, in this process if one worker is left
        shared = shared.result()
    with one_blas_thread():  # on whose threads sums depend
        return i, function(shared, *task)


def _scattered(client, shared):
    """A future of what is shared, of which every worker of Dask has a copy.

    joblib itself scatters large arguments, but to a single worker, with which they are
    lost.  While any has a copy, Dask does the tasks of a lost worker again elsewhere.
    Its memory manager may drop copies that no waiting task needs: then we send again.
    """
    # In a list, as of a tuple each part would be scattered.  The key is random: a hash
    # reads all rows, and cancels what is scattered twice at a time (distributed #3703).
    return client.scatter([shared], broadcast=True, hash=False)[0]


def _run_on_ray(backend, function, shared, tasks, n_jobs):
    """The tasks as those of Ray, which does them again itself when a worker is lost.

    What is shared lies in Ray's store, in memory that all workers of a node map.  The
    pool of joblib's backend for Ray would pickle it with each task, start its workers
    anew for each fit, and lose all tasks with a worker.
    """
    import ray  # it is there: the caller has registered the backend

    options = {"max_retries": _N_TRIES} | (backend.ray_remote_args or {})
    remote = ray.remote(_run_configured).options(**options)
    n_parallel = effective_n_jobs(n_jobs)
    given = ray.put(shared), get_config(), function
    results, running = [None] * len(tasks), {}
    try:
        for i, task in enumerate(tasks):
            if len(running) == n_parallel:
                _collect(ray, running, results)
            running[remote.remote(*given, i, task)] = i
        while running:
            _collect(ray, running, results)
    finally:
        for reference in running:  # after an error or an interrupt
            ray.cancel(reference)
    return results


def _collect(ray, running, results):
    """Wait for one of the tasks that are running, {reference: number}."""
    [done], _ = ray.wait(list(running))
    i = running.pop(done)
    try:
        # A copy: what Ray gives is read-only, and keeps its place in the store.
        results[i] = deepcopy(ray.get(done))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _run_configured(shared, config, function, i, task):
    """As `_run`, with scikit-learn's configuration, but without the number."""
    with config_context(**config):
        return _run(shared, function, i, task)[1]
