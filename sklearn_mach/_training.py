"""Training of all repetitions: blocks of them for threads and processes, epochs.

The weights of all repetitions lie feature-major in one float32 array of shape
(d, R * B), so that a non-zero of a row costs one contiguous read (logits) and one
contiguous write (update).  A task trains the columns ``lo:hi`` of whole repetitions;
threads take different columns and never share a number, so that the way the repetitions
are dealt changes no bit of the result.
"""

import threading
import time
from typing import NamedTuple

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed

from ._compat import one_blas_thread
from ._progress import SilentTask, report_epoch
from ._rows import rows_of
from ._sgd import Pass, integers_to_float
from ._tasks import run_tasks

_DENSE_COLUMNS = 512  # of W, trained together on a dense X

_SILENT = SilentTask()


def split_repetitions(X, first, n_repetitions, n_buckets, n_jobs):
    """The blocks of repetitions, from `first` on, that are trained together."""
    if first == n_repetitions:
        return []
    if rows_of(X).in_batches:  # of the same shapes for every n_jobs
        n_blocks = -(-(n_repetitions - first) // max(_DENSE_COLUMNS // n_buckets, 1))
    else:
        n_blocks = min(effective_n_jobs(n_jobs), n_repetitions - first)
    return np.array_split(np.arange(first, n_repetitions), n_blocks)


def train_all(
    X, targets, table, W, b, first, zero, settings, n_jobs, task=SilentTask,
    checkpoint=None
):  # fmt: skip
    """Train the repetitions from `first` on in W (d, R B) and b (R B,).

    `zero` says that their weights are all zero; ``task(r)`` gives the task of the block
    that begins with repetition r.  With a `Checkpoint` training goes on from it, in
    threads.  Returns the largest number of epochs.
    """
    n_repetitions = table.shape[1]
    n_buckets = b.size // n_repetitions
    blocks = split_repetitions(X, first, n_repetitions, n_buckets, n_jobs)
    if not blocks:
        return 0
    kept = [None] * len(blocks)
    if checkpoint is not None:
        blocks = checkpoint.blocks(blocks)
        kept = [checkpoint.part([r], n_buckets, settings) for r in blocks]
    n_parallel = min(effective_n_jobs(n_jobs), len(blocks))
    n_parts = -(-len(blocks) // n_parallel)
    halt = np.zeros(1, np.bool_)
    n_threads = max(effective_n_jobs(n_jobs) // len(blocks), 1)
    columns = []
    for i, r in enumerate(blocks):
        part = None if i % n_parallel else (i // n_parallel, n_parts)
        lo, hi = r[0] * n_buckets, (r[-1] + 1) * n_buckets
        columns.append(Columns(W, b, lo, hi, zero, part, halt, n_threads))
    with one_blas_thread():
        try:
            shared = X, targets, table, settings
            tasks = [
                (task(r[0]), r, c, k)
                for r, c, k in zip(blocks, columns, kept, strict=True)
            ]
            local = checkpoint is not None
            results = run_tasks(_train_task, shared, tasks, n_jobs, local)
        except BaseException:  # joblib leaves threads behind that would write on
            halt[0] = True
            for c in columns:
                with c.in_use:  # waits for the thread
                    pass
            raise
    in_place = []
    for r, c, (arrays, _, _) in zip(blocks, columns, results, strict=True):
        if arrays is None:
            in_place.append(r)
        else:
            W[:, c.lo : c.hi], b[c.lo : c.hi] = arrays
    if settings.unit is not None:
        to_float(W, in_place, n_buckets, settings.unit)
    return max(int(n_iter.max()) for _, n_iter, _ in results)


def to_float(W, blocks, n_buckets, unit):
    """Weights of `blocks` of repetitions that are integers become float32, in place."""
    Parallel(n_jobs=max(len(blocks), 1), require="sharedmem")(
        delayed(integers_to_float)(W, r[0] * n_buckets, (r[-1] + 1) * n_buckets, unit)
        for r in blocks
    )


class Columns:
    """The columns ``lo:hi`` of W (d, R B) and b (R B,), for one task to train.

    Threads write to the arrays in place.  In another process they are a copy, which
    `result` returns; weights that are all zero are not sent there.

    `part` is for what is printed: tasks run in so many parts, one after the other, and
    the first task of each part has the part's number and how many there are.

    The task holds the lock `in_use` and ends soon after `halt` (1,), bool, is set.  In
    another process nobody sets it.

    `n_threads` share the products of dense rows; in another process it is one.
    """

    def __init__(self, W, b, lo, hi, zero, part=(0, 1), halt=None, n_threads=1):
        self.W, self.b, self.lo, self.hi, self.zero = W, b, lo, hi, zero
        self.part, self.in_place = part, True
        self._of_process(halt, n_threads)

    def _of_process(self, halt=None, n_threads=1):
        self.halt = np.zeros(1, np.bool_) if halt is None else halt
        self.in_use, self.n_threads = threading.RLock(), n_threads

    def __getstate__(self):
        state = self.__dict__.copy()
        del state["halt"], state["in_use"], state["n_threads"]
        if self.in_place:  # or Dask's scheduler hands on what it was sent
            lo, hi = self.lo, self.hi
            W = None if self.zero else np.ascontiguousarray(self.W[:, lo:hi])
            state |= {"W": W, "b": self.b[lo:hi], "shape": (self.W.shape[0], hi - lo)}
            state |= {"lo": 0, "hi": hi - lo, "in_place": False}
        return state

    def __setstate__(self, state):
        self.__dict__ |= state
        self._of_process()

    def arrays(self):
        """The weights, the intercepts of the columns and the first column."""
        if not self.in_place:  # what another process sent may be read-only
            W = self.W
            self.W = np.zeros(self.shape, np.float32) if W is None else W.copy()
            self.b = self.b.copy()
        return self.W, self.b[self.lo : self.hi], self.lo

    def result(self):
        return None if self.in_place else (self.W, self.b)


def _train_task(shared, task, repetitions, columns, kept=None):
    X, targets, table, settings = shared
    table = table[:, repetitions]
    with columns.in_use:
        check_halt(columns.halt)
        with task.running():
            return train(X, targets, table, columns, settings, task, kept)


def train(X, targets, table, columns, settings, task=_SILENT, kept=None):
    """Train some repetitions on all rows.

    Parameters
    ----------
    X : CSR matrix or C-ordered array of shape (n_samples, n_features), float; a dense
        X may be float16, of which batches become float32
    targets : Targets
    table : unsigned array of shape (n_classes, R), the buckets in these repetitions
    columns : Columns
    settings : Settings
    task : SilentTask or Task, told of the epochs
    kept : Kept, where the states are kept after each epoch, or None

    Returns
    -------
    arrays : None if trained in place, or the arrays W and b; in place the weights stay
        integers where the settings have units, see `to_float`
    n_iter : int array of shape (R,), epochs done
    loss : float array of shape (R,), mean loss in the last epoch
    """
    c = columns
    state = State.first(*c.arrays(), table.shape[1], settings.rate)
    keep = None
    if kept is not None:
        keep, (state, *_) = kept.save, kept.load(state) or (state,)
    given = rows_of(X), targets, table, settings, task
    state = run(state, *given, None, c.halt, c.part, c.n_threads, keep)
    if settings.unit is not None and not c.in_place:
        integers_to_float(state.W, 0, state.b.size, settings.unit)
    return c.result(), state.n_iter, state.loss


class State(NamedTuple):
    """Repetitions in training, in plain arrays and numbers, from which it goes on.

    W (d, >= lo + R B), b (R B,) : the weights from column lo on, integers where the
        settings have units, and the intercepts; `run` changes them in place.
    rate (R,) : factors of the steps, 0 of a repetition that has stopped.
    best, since_best (R,) : least loss, and epochs since then.
    n_iter, loss (R,) : epochs done, and the mean loss in the last.
    epoch : int, the next one.
    """

    W: np.ndarray
    b: np.ndarray
    lo: int
    rate: np.ndarray
    best: np.ndarray
    since_best: np.ndarray
    n_iter: np.ndarray
    loss: np.ndarray
    epoch: int

    @classmethod
    def first(cls, W, b, lo, n_repetitions, rate=None):
        """Before the first epoch, with such weights."""
        n = n_repetitions
        rate = np.ones(n, np.float32) if rate is None else rate
        counts = np.zeros((2, n), np.int64)
        return cls(W, b, lo, rate, np.full(n, np.inf), *counts, np.full(n, np.nan), 0)

    def after_epoch(self, losses, weight, settings):
        """The state after an epoch with such losses (R,) of rows of such weight."""
        s, loss = settings, losses / weight
        if not (np.isfinite(loss).all() and np.isfinite(self.b).all()):
            raise ValueError(
                f"The weights overflowed in epoch {self.epoch + 1}. Use a smaller "
                "learning_rate (or 'auto'), or bring the features to one scale with "
                "sklearn.preprocessing.Normalizer or MaxAbsScaler."
            )
        rate, best, since_best = self.rate, self.best, self.since_best
        running = rate != 0
        n_iter, last_loss = self.n_iter + running, np.where(running, loss, self.loss)
        if s.tol is not None:
            since_best = np.where(loss > best - s.tol, since_best + 1, 0)
            rate = np.where(since_best >= s.n_iter_no_change, np.float32(0), rate)
            best = np.minimum(best, loss)
        return State(
            self.W, self.b, self.lo, rate, best, since_best, n_iter, last_loss,
            self.epoch + 1
        )  # fmt: skip


def run(
    state, rows, targets, table, settings, task=_SILENT, until=None, halt=None,
    part=None, n_threads=1, keep=None
):  # fmt: skip
    """Train until all epochs are done, or `until` epochs; the new `State`.

    rows : of `rows_of`.  part : of `Columns`; without it nothing is printed.  keep :
        called with the state after each epoch.
    """
    s, first = settings, state.epoch
    halt = np.zeros(1, np.bool_) if halt is None else halt
    table = np.ascontiguousarray(table)
    given = rows, targets, table, s
    train_rows, held_rows = s.visited(s.train), s.visited(s.held)
    started = time.perf_counter()
    n_epochs = len(s.decay) if until is None else until
    while state.epoch < n_epochs and state.rate.any():
        task.begin_epoch()
        rng = np.random.default_rng([s.seed, state.epoch])
        order, random = rng.permutation(train_rows), int(rng.integers(2**32))
        losses, weight = step_over(state, *given, order, 0, 1, random, halt, n_threads)
        if s.early_stopping:
            losses, weight = look_at(state, *given, held_rows, halt, n_threads)
        state = state.after_epoch(losses, weight, s)
        if s.verbose and part:
            done = state.epoch - first
            seconds = (time.perf_counter() - started) * state.epoch / done
            loss = (losses / weight).mean()
            report_epoch(state.epoch - 1, part, loss, s, s.train.size, seconds)
        if keep is not None:
            keep(state)
        if task.end_epoch():
            break
    return state


def step_over(
    state, rows, targets, table, settings, order, start, stop, random, halt, n_threads
):
    """Take a step for each of the rows `order`, in a part of the epoch of a `State`.

    start, stop : where the part begins and ends, from 0 to 1
    random : bits, from which roundings follow

    Returns the sums (R,) of the losses, weighted, and the sum of the weights.
    """
    s, (begin, end) = settings, settings.decay[state.epoch]
    # one type, or kernels compile anew
    decay = np.array([(1 - t) * begin + t * end for t in (start, stop)], np.float64)
    past, slow = s.past + (state.epoch + start) * s.slow, (stop - start) * s.slow
    of_steps = s.gain, past, slow, decay
    given = state, rows, targets, table, s, order, s.step, of_steps
    return _pass(*given, s.penalty, random, halt, n_threads)


def look_at(state, rows, targets, table, settings, order, halt, n_threads):
    """As `step_over` without steps: the losses alone."""
    s, no_step = settings, np.zeros_like(settings.step)
    of_steps = s.gain, s.past, s.slow, np.zeros(2)
    given = state, rows, targets, table, s, order, no_step, of_steps
    return _pass(*given, 0.0, 0, halt, n_threads)


def _pass(
    state, rows, targets, table, settings, order, step, of_steps, penalty, random, halt,
    n_threads
):  # fmt: skip
    s, losses = settings, np.zeros(state.rate.size)
    given = Pass(
        order, s.loss, *targets[:2], table, s.weight, step, *of_steps, state.rate,
        np.float32(s.bias), state.lo, state.W, state.b, losses, halt, penalty
    )  # fmt: skip
    rows.epoch(given, s, random, n_threads)
    check_halt(halt)
    weight = s.weight[order].sum(dtype=np.float64)
    return losses, max(weight, np.finfo(float).tiny)


def check_halt(halt):
    if halt[0]:
        raise RuntimeError("Training was stopped: another task of it failed.")
