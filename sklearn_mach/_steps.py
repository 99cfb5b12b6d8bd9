"""The steps of the learner: their lengths, gains, visits by weight, rows set aside.

For a row x of class y with weight s, every repetition r takes the step
``W_r -= eta s (g * x) (softmax(x W_r + b_r) - onehot(h_r(y)))``, and where a row may
have several classes, with the sigmoid and the buckets of all of them; the intercept is
the weight of one more feature, whose value is the typical length of a row.  The gains g
(d,) give rare features longer steps, see `feature_gains`.  A row of large weight is
visited more often instead of taking a longer step, see `make_settings`.
"""

import warnings
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

from . import _dense
from ._gains import coherence, feature_gains, units
from ._losses import Sigmoid, Softmax
from ._rows import rows_of

TRIAL_ROWS = 1_000  # with fewer there is no trial
_SMALLEST = 1e-30  # squared length of a row, and its inverse the largest
_MIN_VISITS = 200_000  # classes of rows in all epochs of "auto" together, at least
_SCALE_RATIO = 1e3  # features whose scales differ by more are reported
_CACHED = 32 << 20  # bytes of weights that are not worth 16 bits
_SLOW_VISITS = 4096  # of a feature, after which its steps have fallen to 0.7
_BLOCK_VISITS = 1024  # the same in blocks, where no steps fall to zero at the end
_SLOW_ROWS = 20_000  # after which all steps have, with a penalty
_HEAVIEST = 2.0  # weight of a visit, of rows that weigh 1 on average
_LONGEST = 4.0  # times the median squared length, at most, is a typical one
_GAIN_POWER = 2  # of the gains, for rows of several classes


class Settings(NamedTuple):
    """What the learner needs besides the data.

    step, weight, gain, slow, bias, loss : as in `Pass`, of a visit of a row.
    past : as in `Pass`, of the first epoch; each adds slow.
    rate : of the first epoch, or None for ones.
    visits : int array of shape (n_samples,), of each row in an epoch; None is one each.
    penalty : float, alpha times the common step.
    batch_size : int, rows a step of a dense X (a CSR X takes a step a row).
    decay : pairs of floats, the factor of the step at both ends of each epoch.
    seed : int, for the order of the rows.
    tol, n_iter_no_change : a repetition stops when its loss has not fallen by `tol`
        for so many epochs; None never stops.
    train, held : numbers of the rows to train on and of those set aside.
    early_stopping : bool, whether the loss to watch is that of the rows set aside.
    verbose : int
    unit : float32 array of shape (n_features,), of the weights while they are integers
        of 16 bits; None keeps them float32.
    metric : `Metric` in which dense rows make their steps, or None.
    moved : float32 array of shape (n_samples, n_features), the rows in the metric, or
        None where they would take much memory.
    shrink : float32 array of shape (n_samples,), factors of dense rows in sums: less
        than 1 for very long ones.
    starts : bool, whether the weights start from the means of the buckets.
    common : float, step of a row of mean weight and of at most the typical length.
    typical : float, squared length from which on steps are shorter; None is never.
    """

    step: np.ndarray
    weight: np.ndarray
    visits: np.ndarray | None
    gain: np.ndarray
    past: np.ndarray
    slow: np.ndarray
    bias: float
    penalty: float
    batch_size: int
    decay: list
    seed: int
    tol: float | None
    n_iter_no_change: int
    train: np.ndarray
    held: np.ndarray
    early_stopping: bool
    verbose: int
    rate: np.ndarray | None = None
    unit: np.ndarray | None = None
    metric: _dense.Metric | None = None
    moved: np.ndarray | None = None
    shrink: np.ndarray | None = None
    starts: bool = False
    loss: NamedTuple = Softmax()
    common: float = 0.0
    typical: float | None = None

    def scaled(self, factor):
        """The same with all steps multiplied by `factor`."""
        step, unit = self.step * np.float32(factor), self.unit
        if unit is not None:
            unit = unit * np.float32(factor)
        penalty, common = self.penalty * factor, self.common * factor
        return self._replace(step=step, penalty=penalty, unit=unit, common=common)

    def with_epochs(self, n_epochs):
        """The same with so many epochs."""
        return self._replace(decay=falling(n_epochs))

    def visited(self, rows):
        """The rows, each as often as it is visited in an epoch."""
        return rows if self.visits is None else np.repeat(rows, self.visits[rows])

    def row_weight(self, rows):
        """Weights of the rows: of all their visits together."""
        return _of_visits(self.weight, self.visits)[rows]


class Seen(NamedTuple):
    """Sums over the rows seen so far, from which their steps follow.

    scale : float, that weights are divided by.
    n_rows : int, those of weight zero left out.
    weight : float, the sum of the weights.
    length : float, the weighted sum of the squared lengths.
    frequency, squares : float64 arrays of shape (n_features,), of `feature_sums`.
    metric : of blocks of dense rows, from the first that has enough, or None.
    """

    scale: float
    n_rows: int
    weight: float
    length: float
    frequency: np.ndarray
    squares: np.ndarray
    metric: _dense.Metric | None = None

    @property
    def mean_length(self):
        return float(self.length / self.weight) or 1.0

    def normalized(self):
        """The same sums of weights that are 1 on average."""
        mean = self.weight / self.n_rows
        sums = (value / mean for value in self[2:6])
        return Seen(self.scale * mean, self.n_rows, *sums, self.metric)

    @classmethod
    def nothing(cls, n_features):
        return cls(0.0, 0, 0.0, 0.0, np.zeros(n_features), np.zeros(n_features))


def see(rows, weight, lengths, seen):
    """Add rows to `Seen`; a few very long ones count as less long.

    lengths (n_samples,): squared, of which those above four times the median count as
    that, and the squares of the features in proportion.  One row of huge values would
    otherwise stop the learning from all others, whose steps follow from the mean.
    """
    scale = float(seen.scale or weight[weight > 0].mean())
    weight = (weight / scale).astype(np.float32)
    most = _limit(lengths, weight)
    total, limited = weight @ lengths, weight @ np.minimum(lengths, most)
    in_squares = weight
    if limited < total:
        in_squares = weight * most / np.maximum(lengths, most)
    frequency, squares = rows.feature_sums(weight, in_squares)
    n_rows, total = np.count_nonzero(weight), weight.sum(dtype=np.float64)
    sums = n_rows, total, limited, frequency, squares
    sums = (old + new for old, new in zip(seen[1:-1], sums, strict=True))
    return Seen(scale, *sums, seen.metric)


def warn_about_lengths(weight, lengths, first=0):
    """Warn of rows, from number `first` on, that are very long; whether it did."""
    most = _limit(lengths, weight)
    if weight @ lengths <= 2 * (weight @ np.minimum(lengths, most)):
        return False
    row = int((lengths * (weight > 0)).argmax())
    ratio = np.sqrt(_LONGEST * lengths[row] / most)
    warnings.warn(
        f"Some rows are much longer than the others: row {first + row} is about "
        f"{ratio:.3g} times as long as the median row. They take steps of their "
        "own and do not set those of the others. Bring the rows to unit length "
        "with sklearn.preprocessing.Normalizer if their lengths mean nothing.",
        ConvergenceWarning,
        stacklevel=2,
    )
    return True


def _limit(lengths, weight):
    """Squared length as which longer rows count."""
    positive = lengths[(lengths > 0) & (weight > 0)]
    return _LONGEST * np.median(positive) if positive.size else np.inf


def make_settings(
    X, targets, weight, options, seed, seen=None, n_held=0, n_columns=0, is_block=False,
    total=None
):  # fmt: skip
    """Settings from the parameters of the estimator, the dictionary `options`.

    `n_held` rows are set aside, or as many as early stopping asks for, see `set_aside`.
    `n_columns` of W that do not fit the caches get 16 bits.  A row of weight zero is
    not visited and does not count.  In a block of rows (`is_block`) nobody knows how
    many will follow.

    seen : sums over the rows of earlier blocks, or None.  total : those of all rows,
    of which these are some.  Returns the settings and the sums with these rows.
    """
    rows = rows_of(X)
    lengths = rows.squared_lengths()
    if weight is None:
        weight = np.ones(X.shape[0], np.float32)
    n_samples = np.count_nonzero(weight)
    before = seen or Seen.nothing(X.shape[1])
    seen = total
    if seen is None:
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            seen = see(rows, weight, lengths, before)
            warn_about_lengths(weight, lengths)
    if not (_SMALLEST < seen.mean_length and lengths.max() < 1 / _SMALLEST):
        raise ValueError(
            f"The squared lengths of the rows, {seen.mean_length:.3g} on average and "
            f"at most {lengths.max():.3g}, leave no room in float32. Bring the rows to "
            "unit length with sklearn.preprocessing.Normalizer."
        )
    if not before.n_rows:
        _warn_about_scales(seen.frequency, seen.squares)
    weight, visits = _share_among_visits(weight, seen)
    batch_size, n_epochs = sizes(options, n_samples, targets.mean_classes(weight))
    is_auto = options["learning_rate"] == "auto"
    has_gains = is_auto and options["alpha"] == 0
    metric = shrink = None
    if has_gains and rows.has_metric:
        shrink, metric = _shrink(lengths, weight), seen.metric
        if metric is None and (n_samples >= TRIAL_ROWS or not is_block):
            row_weight = _of_visits(weight, visits)
            metric = _dense.find_metric(X, row_weight, shrink, n_columns, seed)
        seen = seen._replace(metric=metric if is_block else None)
    gain = np.ones(X.shape[1], np.float32)
    if has_gains and metric is None:
        power = _GAIN_POWER if targets.several else 1
        gain = feature_gains(seen.frequency, seen.squares, seen.weight, power)
        lengths = rows.squared_lengths(gain)
    if is_auto:
        step, common, bias, moved, typical = _auto_steps(
            rows, weight, visits, lengths, seen.mean_length, gain, metric, batch_size,
            seed
        )  # fmt: skip
    else:
        common, bias, moved = options["learning_rate"], seen.mean_length, None
        typical = None
        with np.errstate(over="ignore"):  # refused when the weights overflow
            step = (weight * common).astype(np.float32)
    slow_down = is_block or (has_gains and metric is None)
    decay, past, slow = _slowing(
        n_epochs, options["alpha"], before, seen, is_block, slow_down
    )
    unit = None
    is_large = 4 * X.shape[1] * n_columns > _CACHED
    if has_gains and rows.has_units and is_large and not is_block:
        n_visits = seen.frequency if visits is None else rows.feature_sums(visits)[0]
        unit = units(rows.longest_steps(step), gain, n_visits * n_epochs)
    train, held = _train_and_held(targets, weight, visits, n_held, options, seed)
    # of a visit in the sum of weights, by which the penalty counts
    share = float(np.average(weight, weights=visits))
    settings = Settings(
        step=step,
        weight=weight,
        visits=visits,
        gain=gain,
        past=past,
        slow=slow,
        bias=bias,
        penalty=options["alpha"] * common * share,
        batch_size=batch_size,
        decay=decay,
        seed=seed,
        tol=options["tol"],
        n_iter_no_change=options["n_iter_no_change"],
        train=train,
        held=held,
        early_stopping=options["early_stopping"],
        verbose=options["verbose"],
        unit=unit,
        metric=metric,
        moved=moved,
        shrink=shrink,
        starts=metric is not None and not is_block and not targets.several,
        loss=Sigmoid() if targets.several else Softmax(),
        common=common,
        typical=typical,
    )
    return settings, seen


def sizes(options, n_samples, n_classes):
    """Rows of a batch and number of epochs, for rows of so many classes on average."""
    batch_size, n_epochs = options["batch_size"], options["max_iter"]
    if batch_size == "auto":
        batch_size = int(np.clip(n_samples // 64, 1, 256))
    if n_epochs == "auto":
        n_visits = n_samples * max(n_classes, 1)
        n_epochs = int(np.clip(np.ceil(_MIN_VISITS / n_visits), 5, 100))
    return batch_size, n_epochs


def settings_of_rows(settings, X, weight, seen):
    """Settings, of some rows, for others of which `seen` are the sums: X (n, d).

    No row is set aside.
    """
    rows, s = rows_of(X), settings
    weight = np.ones(X.shape[0]) if weight is None else weight
    weight, visits = _share_among_visits(weight, seen)
    shrink = moved = None
    if s.metric is None:
        lengths = rows.squared_lengths(s.gain)
    else:
        shrink = _shrink(rows.squared_lengths(), weight)
        lengths, moved = _dense.move(X, s.metric)
    step = weight * s.common
    if s.typical is not None:
        step = step * (s.typical / np.maximum(lengths, s.typical))
    train = np.arange(weight.size, dtype=np.int32)
    if visits is not None:
        train = train[visits > 0]
    return s._replace(
        step=step.astype(np.float32),
        weight=weight,
        visits=visits,
        moved=moved,
        shrink=shrink,
        train=train,
        held=train[:0],
    )


def _shrink(lengths, weight):
    """Factors of dense rows in sums, float32 (n,), less than 1 for very long ones."""
    shrink = np.minimum(_limit(lengths, weight) / np.maximum(lengths, _SMALLEST), 1)
    return np.sqrt(shrink).astype(np.float32)


def _share_among_visits(weight, seen):
    """Weights of a visit, and how many visits each row gets; None is one each.

    A row of more than twice the mean weight is visited more than once in an epoch, so
    that no step is longer than two of a row of mean weight.
    """
    mean_weight = seen.scale * (seen.weight / seen.n_rows)
    weight = (weight / mean_weight).astype(np.float32)
    if weight.max() <= _HEAVIEST and weight.min() != 0:
        return weight, None
    visits = np.ceil(weight / np.float32(_HEAVIEST)).astype(np.int64)
    return weight / np.maximum(visits, 1).astype(np.float32), visits


def _of_visits(weight, visits):
    """Weights of all visits of a row together."""
    return weight if visits is None else weight * visits


def _auto_steps(
    rows, weight, visits, lengths, mean_length, gain, metric, batch_size, seed
):
    """The steps for a factor of one, with those of rows in the metric, if any.

    The inverse of the mean squared length of the rows (or of a row's own if that is
    larger), and in batches divided by their `coherence`.  Returns step, common, bias,
    moved and typical, as in `Settings`.
    """
    moved = None
    if metric is not None:
        lengths, moved = _dense.move(rows.X, metric)
        limited = np.minimum(lengths, _limit(lengths, weight))
        row_weight = _of_visits(weight, visits)
        mean_length = float(limited @ row_weight / row_weight.sum())
    common = 1 / mean_length
    step = (weight / np.maximum(lengths, mean_length)).astype(np.float32)
    bias = mean_length if metric is None else mean_length * _dense.BIAS
    if rows.in_batches:
        visited = np.repeat(np.arange(weight.size), 1 if visits is None else visits)
        excess = coherence(rows.X, visited, step, gain, bias, batch_size, seed, metric)
        common, step = common / excess, step / np.float32(excess)
    return step, common, bias, moved, mean_length


def _slowing(n_epochs, alpha, before, seen, is_block, slow_down):
    """Decay, past and slow of `Settings`.

    All steps fall to zero at the end of the last epoch, but not in a block.  The steps
    of a feature fall with the square root of its visits, where they do: frequent
    features settle while rare ones still learn.
    """
    past = slow = np.zeros(seen.squares.size + 1, np.float32)
    decay = [(1, 1)] if is_block else falling(n_epochs)
    if is_block and alpha > 0:  # the penalty's steps fall as the others
        now = 1 / np.sqrt(1 + before.n_rows / _SLOW_ROWS)
        decay = [(now, now)]
    elif slow_down:
        visits_to_slow = _BLOCK_VISITS if is_block else _SLOW_VISITS
        past, now = (
            np.append(sums.frequency, sums.weight).astype(np.float32) / visits_to_slow
            for sums in (before, seen)
        )
        slow = now - past
    return decay, past, slow


def _train_and_held(targets, weight, visits, n_held, options, seed):
    """Numbers of the rows to train on, and of those set aside."""
    if options["early_stopping"]:
        fraction, n_samples = options["validation_fraction"], np.count_nonzero(weight)
        n_held = int(np.ceil(fraction * n_samples))
        if n_held >= n_samples:
            raise ValueError(
                f"validation_fraction={fraction} of {n_samples} rows leaves none to "
                "train on."
            )
    rows = np.arange(weight.size, dtype=sp.get_index_dtype(maxval=weight.size))
    if visits is not None:
        rows = rows[visits > 0]
    held = rows[:0]
    if n_held:
        rows, held = set_aside(rows, targets, n_held, seed)
    check_held(options["early_stopping"], held)
    return rows, held


def check_held(early_stopping, held):
    """Refuse early stopping without rows to watch."""
    if early_stopping and not held.size:
        raise ValueError(
            "early_stopping=True sets rows aside whose class has other rows, and there "
            "are none. Use early_stopping=False."
        )


def falling(n_epochs):
    """Pairs of floats that go from 1 to 0 in so many steps."""
    return list(pairwise(np.linspace(1, 0, n_epochs + 1)))


def set_aside(rows, targets, n_held, seed):
    """The rows in a random order, without `n_held` of them, and these.

    No class loses its last row: a row is set aside only if all its classes have another
    behind it in the order.
    """
    rows = np.random.default_rng(seed).permutation(rows)
    ordered = targets.take(rows)
    last = np.zeros(rows.size, bool)
    place = np.unique(ordered.classes[::-1], return_index=True)[1]
    last[ordered.rows()[::-1][place]] = True
    held = np.flatnonzero(~last)[:n_held]
    return np.delete(rows, held), rows[held]


def _warn_about_scales(n_rows, squares):
    """Warn of features of such different sizes that one step serves none."""
    used = squares > 0
    scales = np.sqrt(squares[used] / n_rows[used])
    if scales.size and scales.max() > _SCALE_RATIO * np.median(scales):
        column = np.flatnonzero(used)[scales.argmax()]
        warnings.warn(
            f"The features have very different scales: non-zeros of column {column} "
            f"are about {scales.max():.3g}, of the median column "
            f"{np.median(scales):.3g}. Stochastic gradient descent then learns little. "
            "Use sklearn.preprocessing.MaxAbsScaler or Normalizer first.",
            ConvergenceWarning,
            stacklevel=2,
        )
