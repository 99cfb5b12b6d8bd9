"""Training on rows in a file, a block of them at a time.

What training in memory knows of all rows comes of one more reading of the file: their
sums, and a sample of rows for the trial, and to set aside.  Each epoch reads chunks of
rows in another random order, and the rows of a block, which come from all over the
file, in a random order again.
"""

import time
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed

from ._compat import one_blas_thread
from ._gains import units
from ._progress import report_epoch
from ._rows import rows_of, stack
from ._spool import read_ahead
from ._steps import TRIAL_ROWS, Seen, see, settings_of_rows, warn_about_lengths
from ._targets import Targets
from ._training import State, look_at, split_repetitions, step_over, to_float

_SAMPLE_ROWS = 60_000  # of which the trial takes half
_SAMPLE_BYTES = 1 << 26  # that they take at most, where 1,000 rows do
_KEPT_SECONDS = 300  # between two states that are kept within an epoch


class Sample(NamedTuple):
    """Some rows that stay in memory.

    numbers (n,): theirs among all rows, which rise.
    """

    X: sp.csr_array | np.ndarray
    targets: Targets
    weight: np.ndarray
    numbers: np.ndarray


class Progress(NamedTuple):
    """Where training is: `State`, and what the epoch has done so far.

    block : int, blocks of rows done
    losses (R,), weight : sums over their rows
    """

    state: State
    block: int
    losses: np.ndarray
    weight: float

    @classmethod
    def begin(cls, state):
        """Before the epoch of `state`."""
        return cls(state, 0, np.zeros(state.rate.size), 0.0)


def look_over(spool, seed):
    """Read all rows of a `Spool` once: their sums, `Seen`, and a random `Sample`."""
    n_rows, n_features = spool.shape
    n_most = int(np.clip(_SAMPLE_BYTES * n_rows // spool.n_bytes, TRIAL_ROWS, None))
    rng, size = np.random.default_rng([seed, 5]), min(n_most, _SAMPLE_ROWS, n_rows)
    numbers = np.sort(rng.choice(n_rows, size, replace=False))
    seen, parts, has_warned = Seen.nothing(n_features), [], False
    for X, targets, weight, rows, _ in read_ahead(spool.blocks()):
        weight = np.ones(X.shape[0]) if weight is None else weight
        if weight.any():
            kind = rows_of(X)
            with np.errstate(over="ignore", invalid="ignore"):  # refused afterwards
                lengths = kind.squared_lengths()
                seen = see(kind, weight, lengths, seen)
                if not has_warned:
                    has_warned = warn_about_lengths(weight, lengths, rows[0])
        begin, end = np.searchsorted(numbers, [rows[0], rows[-1] + 1])
        if begin < end:
            chosen = numbers[begin:end] - rows[0]
            parts.append((X[chosen], targets.take(chosen), weight[chosen]))
    return seen.normalized(), Sample(*stack(parts), numbers)


def set_aside(sample, counts, n_held, seed):
    """Numbers of the rows of a sample to train on, and of at most `n_held` others.

    As `_steps.set_aside`, of classes with so many rows, counts (K,).
    """
    used = np.flatnonzero(sample.weight > 0)
    order = np.random.default_rng(seed).permutation(used).astype(np.int32)
    left, held = counts.copy(), np.zeros(order.size, bool)
    starts, classes, _ = sample.targets
    for place, i in enumerate(order):
        own = classes[starts[i] : starts[i + 1]]
        if n_held and (left[own] > 1).all():
            left[own] -= 1
            held[place] = True
            n_held -= 1
    return order[~held], order[held]


def with_units(settings, spool, seen):
    """Settings with the units of 16 bits that the steps of all rows ask for."""
    if settings.unit is None:
        return settings
    longest = np.zeros(spool.shape[1], np.float32)
    n_visits = np.zeros(spool.shape[1])
    for X, _, weight, *_ in read_ahead(spool.blocks()):
        given, rows = settings_of_rows(settings, X, weight, seen), rows_of(X)
        np.maximum(longest, rows.longest_steps(given.step), out=longest)
        if given.visits is not None:
            n_visits += rows.feature_sums(given.visits)[0]
        else:
            n_visits += np.bincount(X.indices, minlength=n_visits.size)
    n_visits *= len(settings.decay)
    return settings._replace(unit=units(longest, settings.gain, n_visits))


def rows_of_means(spool, sample, settings, seen):
    """The blocks that `start_from_means` takes."""
    held = np.sort(sample.numbers[settings.held])
    for X, targets, weight, numbers, _ in read_ahead(spool.blocks()):
        given = settings_of_rows(settings, X, weight, seen)
        weight = given.row_weight(slice(None)) * ~np.isin(numbers, held)
        yield X, targets.classes, weight.astype(np.float32), given.shrink


def train_stored(
    spool,
    sample,
    table,
    W,
    b,
    first,
    settings,
    seen,
    n_jobs,
    task,
    checkpoint=None,
):
    """Train the repetitions from `first` on in W and b, as `train_all` does in memory.

    With a `Checkpoint` training goes on from it.  States are kept there after each
    epoch, and within an epoch every five minutes.
    """
    s, n_rows = settings, spool.shape[0]
    n_buckets = b.size // table.shape[1]
    table, lo = np.ascontiguousarray(table[:, first:]), first * n_buckets
    blocks = split_repetitions(spool, first, first + table.shape[1], n_buckets, n_jobs)
    if not blocks:
        return 0
    progress, keep = Progress.begin(State.first(W, b[lo:], lo, table.shape[1])), None
    if checkpoint is not None:
        kept = checkpoint.part(blocks, n_buckets, s)
        keep = kept.save
        progress = Progress(*(kept.load(progress.state) or progress))
    held_rows, held_numbers = s.visited(s.held), np.sort(sample.numbers[s.held])
    n_threads = max(effective_n_jobs(n_jobs) // len(blocks), 1)
    halt = np.zeros(1, np.bool_)

    def rows_of_epoch(epoch, first_block):
        """What training reads next, made while it is busy with the block before."""
        rng = np.random.default_rng([s.seed, epoch])
        read = spool.blocks(rng.permutation(spool.n_chunks), first_block)
        for number, (X, targets, weight, rows, n_before) in enumerate(
            read, first_block
        ):
            given = settings_of_rows(s, X, weight, seen)
            rng = np.random.default_rng([s.seed, epoch, number])
            train = given.train[~np.isin(rows[given.train], held_numbers)]
            order = rng.permutation(given.visited(train))
            start, stop = n_before / n_rows, (n_before + rows.size) / n_rows
            random = int(rng.integers(2**32))
            yield (rows_of(X), targets), given, (order, start, stop, random)

    def for_all(function, state, rows, settings, *args):
        """Losses (R,) and weight of a function of parts of the state, in threads."""
        of_parts = (_part(state, table, r - first, n_buckets) for r in blocks)
        found = Parallel(n_jobs=n_jobs, require="sharedmem")(
            delayed(function)(part, *rows, columns, settings, *args, halt, n_threads)
            for part, columns in of_parts
        )
        return np.concatenate([losses for losses, _ in found]), found[0][1]

    started, n_first = time.perf_counter(), progress.state.epoch
    last = started
    with one_blas_thread():
        try:
            while progress.state.epoch < len(s.decay) and progress.state.rate.any():
                task.begin_epoch()
                state, block, losses, weight = progress
                for rows, given, how in read_ahead(rows_of_epoch(state.epoch, block)):
                    if how[0].size:  # not all its rows are set aside
                        found = for_all(step_over, state, rows, given, *how)
                        losses, weight = losses + found[0], weight + found[1]
                    block += 1
                    if keep is not None and time.perf_counter() > last + _KEPT_SECONDS:
                        keep(state, block, losses, weight)
                        last = time.perf_counter()
                if s.early_stopping:
                    rows = rows_of(sample.X), sample.targets
                    losses, weight = for_all(look_at, state, rows, s, held_rows)
                progress = Progress.begin(state.after_epoch(losses, weight, s))
                if s.verbose:
                    epoch = progress.state.epoch
                    seconds = time.perf_counter() - started
                    seconds *= epoch / (epoch - n_first)
                    loss = (losses / weight).mean()
                    n_train = n_rows - held_numbers.size
                    report_epoch(epoch - 1, (0, 1), loss, s, n_train, seconds)
                if keep is not None:
                    keep(*progress)
                    last = time.perf_counter()
                if task.end_epoch():
                    break
        except BaseException:  # joblib leaves threads behind
            halt[0] = True
            raise
    if s.unit is not None:
        to_float(W, blocks, n_buckets, s.unit)
    return int(progress.state.n_iter.max())


def _part(state, table, r, n_buckets):
    """Some repetitions r of a `State`, and their columns of the table (K, R)."""
    first, stop = r[0], r[-1] + 1
    r, columns = slice(first, stop), slice(first * n_buckets, stop * n_buckets)
    part = state._replace(
        b=state.b[columns], lo=state.lo + columns.start, rate=state.rate[r]
    )
    return part, np.ascontiguousarray(table[:, r])
