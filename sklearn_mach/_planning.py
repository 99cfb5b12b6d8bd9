"""What a fit is to train: sizes, seeds and the table of buckets, before it starts.

A learner (`_learners`) says what its weights cost.
"""

import warnings
from functools import partial
from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from . import _hashing, theory
from ._memory import format_bytes, free_memory
from ._rows import rows_of
from ._spool import Spool
from ._training import split_repetitions

_UNCOUNTED = 1 << 26  # bytes that a fit may take besides the weights


class Whole(NamedTuple):
    """The fit of which a `Plan` is a share.

    n_parts : int
    n_repetitions : int
    own : int array, the numbers of the repetitions of the share
    column : unsigned array of shape (K,), the buckets in the first repetition
    """

    n_parts: int
    n_repetitions: int
    own: np.ndarray
    column: np.ndarray


class Plan(NamedTuple):
    """What a learner is asked to train: the repetitions from `n_old` on.

    table : unsigned array of shape (K, R), the bucket of each class
    n_buckets : int
    n_old : int, repetitions that are trained already
    seeds : int array of shape (R,), or None where no repetition is new
    order_seed : int, for the order of the rows
    whole : `Whole`, if these are the repetitions of a share only
    """

    table: np.ndarray
    n_buckets: int
    n_old: int = 0
    seeds: np.ndarray | None = None
    order_seed: int = 0
    whole: Whole | None = None

    @classmethod
    def of_block(cls, model):
        """The plan of one more block of rows for a model."""
        return cls(model.table, model.n_buckets, model.n_repetitions)

    @property
    def n_repetitions(self):
        return self.table.shape[1]

    @property
    def width(self):
        """Columns of all weights, also of those that other shares train."""
        whole = self if self.whole is None else self.whole
        return whole.n_repetitions * self.n_buckets

    @property
    def column(self):
        """Buckets of the classes in the first repetition of all."""
        return self.table[:, 0] if self.whole is None else self.whole.column


class Trained(NamedTuple):
    """What a learner gives back.

    scorer : of the buckets, for a `Model`
    n_iter : int, epochs of the repetition that was trained for longest
    memory : what the learner needs to go on, or None
    held : numbers of the rows set aside, to calibrate the model
    held_weight : float array of the shape of `held`
    rows : X and `Targets` of which `held` are numbers; None is those of the fit
    """

    scorer: object
    n_iter: int
    memory: object = None
    held: np.ndarray = np.empty(0, np.int32)
    held_weight: np.ndarray | None = None
    rows: tuple | None = None


def plan_fit(parameters, learner, X, targets, weight, n_classes, old=None):
    """The plan of a fit, refused before anything large is allocated.

    parameters : with the parameters of MACHClassifier as attributes
    targets : Targets
    weight (n_samples,) : of the rows, or None
    old : the `Model` to which repetitions are added
    """
    hashing, given, part = parameters.hashing, None, parameters.part
    n_repetitions, n_buckets = parameters.n_repetitions, parameters.n_buckets
    if not isinstance(hashing, str):
        given = _check_table(hashing, n_classes, n_repetitions, n_buckets)
        n_repetitions, n_buckets = given.shape[1], _n_buckets(given, n_buckets)
    else:
        if old is not None:  # "auto" depends on free memory, in which `old` itself is
            if n_repetitions == "auto":
                n_repetitions = old.n_repetitions
            if n_buckets == "auto":
                n_buckets = old.n_buckets
        max_columns = free_columns(learner, X.shape[1])
        if max_columns is not None and part is not None:
            max_columns *= part[1]  # each job has its share of them
        n_repetitions, n_buckets = theory.choose_sizes(
            n_classes,
            n_repetitions,
            n_buckets,
            n_nonzeros=rows_of(X).n_values,
            few=learner.few_features(X),
            max_columns=max_columns,
            n_labels=targets.mean_classes(weight),
        )
        least = _hashing.min_repetitions(n_classes, max(n_buckets, 2))
        if n_repetitions < least:
            raise ValueError(
                f"n_repetitions={n_repetitions} with n_buckets={n_buckets} cannot "
                f"tell {n_classes} classes apart: there are only "
                f"{n_buckets**n_repetitions} combinations of buckets. Use "
                f"n_repetitions={least} or more, or more buckets."
            )
    if old is not None:
        _check_growth(old, n_repetitions, n_buckets, given)
    own = _share(part, X, n_repetitions, n_buckets)
    free = free_memory()
    if free is not None:
        sizes = n_classes, n_repetitions, n_buckets
        _check_clusters(hashing, *sizes, free)
        _check_weights(learner, X.shape[1], *sizes, own.size, free)
    order_seed, seeds = draw_seeds(parameters.random_state, n_repetitions)
    columns = None if part is None else np.append(0, own)
    if given is not None:
        table = given if part is None else given[:, columns]
    else:
        if weight is None and not isinstance(X, Spool):
            weight = np.ones(targets.n_rows, np.float32)
        table = _hashing.draw_table(
            n_classes,
            n_buckets,
            seeds,
            hashing,
            None if old is None else old.table,
            partial(_hashing.sketch_classes, X, targets, weight, n_classes),
            parameters.n_jobs,
            columns,
        )
    if part is not None:
        whole = Whole(part[1], n_repetitions, own, table[:, 0].copy())
        table = np.ascontiguousarray(table[:, 1:])
        return Plan(table, n_buckets, 0, seeds[own], order_seed, whole)
    n_old = 0 if old is None else old.n_repetitions
    return Plan(table, n_buckets, n_old, seeds, order_seed)


def check_part(parameters, in_blocks=False):
    """Refuse a parameter `part` that is no share, or that others contradict."""
    part, random_state = parameters.part, parameters.random_state
    if part is None:
        return
    is_pair = len(part) == 2 and all(
        isinstance(n, Integral) and not isinstance(n, bool) for n in part
    )
    if not (is_pair and 0 <= part[0] < part[1]):
        raise ValueError(
            f"part={part!r} is no share. Pass (i, n), two integers with 0 <= i < n, "
            "for the i-th of n shares of the repetitions, or None for all."
        )
    if not isinstance(random_state, Integral):
        raise ValueError(
            f"part={part!r} needs an integer as random_state, from which all jobs draw "
            f"the same seeds; got random_state={random_state!r}. Pass the same number "
            "to each job."
        )
    if in_blocks or parameters.warm_start or parameters.max_bytes is not None:
        cause, after = "partial_fit", "call partial_fit of the merged model"
        if not in_blocks and parameters.warm_start:
            cause, after = "warm_start=True", "set warm_start=True after it"
        elif not in_blocks:
            cause, after = f"max_bytes={parameters.max_bytes}", "call compress after it"
        raise ValueError(
            f"part={part!r} is for one fit of all rows, and cannot be used with "
            f"{cause}. Merge the parts with sklearn_mach.merge and {after}, or set "
            "part=None."
        )


def _share(part, X, n_repetitions, n_buckets):
    """Numbers of the repetitions of a part, or of all.

    Of dense rows whole blocks are dealt, if there are enough: their sums depend on the
    shapes.
    """
    if part is None:
        return np.arange(n_repetitions)
    i, n = part
    if n > n_repetitions:
        raise ValueError(
            f"part={part!r} asks for {n} shares of n_repetitions={n_repetitions}. Deal "
            f"them to at most {n_repetitions} jobs, or use more repetitions."
        )
    if rows_of(X).in_batches:
        blocks = split_repetitions(X, 0, n_repetitions, n_buckets, 1)
        if len(blocks) >= n:
            dealt = np.array_split(np.arange(len(blocks)), n)[i]
            return np.concatenate([blocks[b] for b in dealt])
    return np.array_split(np.arange(n_repetitions), n)[i]


def draw_seeds(random_state, n_repetitions):
    """Seed of the order of the rows, and one for each repetition."""
    random_state = check_random_state(random_state)
    order_seed = random_state.randint(np.iinfo(np.int32).max)
    seeds = random_state.randint(np.iinfo(np.int32).max, size=n_repetitions)
    return order_seed, seeds


def free_columns(learner, n_features):
    """Columns R B of weights that take half of the free memory, or None if unknown."""
    free, column = free_memory(), learner.weights_bytes(n_features, 1)
    if free is None or not column:
        return None
    return max(free // 2 // column, 1)


def least_repetitions(parameters, n_classes, n_buckets, largest):
    """Smallest R whose table tells all classes apart; largest + 1 if none does."""
    least = _hashing.min_repetitions(n_classes, n_buckets)
    family = _hashing.FAMILIES[parameters.hashing]
    if not family.is_random or n_classes <= n_buckets:
        return least
    seeds = draw_seeds(parameters.random_state, largest)[1]
    while least <= largest:  # the other tables always need only the smallest number
        try:
            _hashing.draw_table(n_classes, n_buckets, seeds[:least], parameters.hashing)
            break
        except ValueError:
            least += 1
    return least


def _check_growth(old, n_repetitions, n_buckets, given):
    """Refuse sizes, or a user's table, that are no more repetitions of a model."""
    n_old = old.n_repetitions
    if n_buckets != old.n_buckets or n_repetitions < n_old:
        raise ValueError(
            f"With warm_start=True n_buckets must stay {old.n_buckets} and "
            f"n_repetitions must be at least {n_old}; they are {n_buckets} and "
            f"{n_repetitions}. Set warm_start=False to start anew."
        )
    if given is not None and np.any(given[:, :n_old] != old.table):
        raise ValueError(
            f"With warm_start=True the first {n_old} columns of hashing must "
            "stay as they were. Set warm_start=False to start anew."
        )
    if n_repetitions == n_old:
        warnings.warn(
            f"warm_start=True with n_repetitions={n_old} as before trains "
            "nothing. Raise n_repetitions to add repetitions.",
            UserWarning,
            stacklevel=4,
        )


def _check_clusters(hashing, n_classes, n_repetitions, n_buckets, free):
    """Refuse to compare more classes than there is memory for."""
    clusters = isinstance(hashing, str) and _hashing.FAMILIES[hashing].clusters
    if not clusters or n_repetitions <= 3 or n_buckets >= n_classes:
        return
    needed = _hashing.sketch_bytes(n_classes)
    if needed > max(free, _UNCOUNTED):
        raise MemoryError(
            f"hashing={hashing!r} compares {n_classes} classes in {needed} "
            f"bytes ({format_bytes(needed)}), but only {free} bytes "
            f"({format_bytes(free)}) are free. Use hashing='balanced'."
        )


def _check_weights(
    learner, n_features, n_classes, n_repetitions, n_buckets, n_own, free
):
    """Refuse weights that do not fit in memory before they are allocated.

    n_own : repetitions that this fit trains, all of them or a share
    """
    weights = learner.weights_bytes(n_features, n_own * n_buckets)
    trial = learner.trial_bytes(n_features, n_repetitions * n_buckets)
    needed, of_trial = weights, ""
    if trial > _UNCOUNTED:
        needed, of_trial = weights + trial, " and the trial of the learning rate"
    if needed <= free:
        return
    most = free * weights // needed // learner.weights_bytes(n_features, 1)
    fitting = theory.largest_sizes(n_classes, n_buckets, most)
    advice = "No R and B fit; use fewer features."
    if fitting is not None:
        advice = f"n_repetitions={fitting[0]} with n_buckets={fitting[1]} would fit."
    whose = f"n_repetitions={n_repetitions}"
    if n_own < n_repetitions:
        whose = f"{n_own} of {whose}"
        advice = "Deal the repetitions to more parts, or use fewer features."
    raise MemoryError(
        f"The weights of {whose} with n_buckets={n_buckets} "
        f"for {n_features} features{of_trial} take {needed} bytes "
        f"({format_bytes(needed)}), but only {free} bytes "
        f"({format_bytes(free)}) are free. {advice}"
    )


def _check_table(table, n_classes, n_repetitions, n_buckets):
    """A copy of a user's table, in its smallest dtype."""
    try:
        table = np.asarray(table)
    except ValueError as error:
        raise ValueError(
            "hashing as an array must have rows of equal length, one for each class "
            f"with its bucket in each repetition ({error})."
        ) from error
    if table.dtype.kind not in "iu":
        raise ValueError(
            f"hashing as an array must hold integers, got dtype {table.dtype}."
        )
    if table.ndim != 2 or table.shape[0] != n_classes or table.shape[1] < 1:
        raise ValueError(
            f"hashing as an array must have shape (n_classes, n_repetitions) with "
            f"n_classes={n_classes}, got {table.shape}."
        )
    if n_repetitions not in ("auto", table.shape[1]):
        raise ValueError(
            f"hashing has {table.shape[1]} columns, but n_repetitions={n_repetitions}. "
            "Pass n_repetitions='auto' or the number of columns."
        )
    largest, n_buckets = int(table.max()), _n_buckets(table, n_buckets)
    if table.min() < 0 or largest >= n_buckets:
        raise ValueError(
            f"hashing must hold buckets from 0 to n_buckets - 1 = {n_buckets - 1}, got "
            f"values from {table.min()} to {largest}."
        )
    twins = _hashing.find_twins(table, n_buckets)
    if twins is not None:
        raise ValueError(
            f"hashing gives classes {twins[0]} and {twins[1]} (row numbers) the same "
            "buckets in all repetitions, so that they cannot be told apart."
        )
    # A copy, which does not change when the caller's array does.
    return np.array(table, np.min_scalar_type(n_buckets - 1), order="C")


def _n_buckets(table, n_buckets):
    """The number of buckets of a user's table, if it is "auto" by its largest."""
    # no NumPy integer of few bits, or R B would overflow
    return int(table.max()) + 1 if n_buckets == "auto" else int(n_buckets)
