"""The trial: a factor of the steps, and for dense rows the number of epochs."""

import numpy as np
from joblib import effective_n_jobs
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.utils.parallel import Parallel, delayed

from . import _dense, _steps
from ._logits import bucket_proba
from ._rows import Targets, rows_of
from ._training import Columns, train

DEFAULT_FACTOR = 4.0  # where there are too few rows for a trial
_N_PROBE = 30_000  # rows of the trial
_N_PROBE_BUCKETS = 64  # at most, in the trial
_MANY_BUCKETS = 256  # of which the trial takes some, rather than merging them
_N_PROBE_ROWS = 6_000  # that it then takes, about
_PROBE_VISITS = 72_000  # of rows, in three to five epochs
_PROBE_SHARE = 10  # the trial takes this part of the bytes of the weights
_PROBE_BYTES = 16 << 20  # or these, if that is less
_LOG_SCALES = (-5.0, 2.0)  # logarithms of inverse temperatures
_PROBE_POWERS = range(-2, 6)  # of two, the factors that the trial may compare
_PROBE_PRODUCTS = 5e8  # multiply-adds of an epoch's product in the dense trial
_PROBE_ROWS_BYTES = 1 << 26  # of its rows, at most
_WORTH_EPOCHS = 0.003  # share of the loss by which twice the epochs must lower it


def probe(X, y, column, n_buckets, settings, n_columns, n_jobs=None):
    """The factor of the steps and the number of epochs by a trial; None if unknown."""
    if settings.metric is not None:
        return probe_dense(X, y, column, n_buckets, settings, n_jobs)
    return probe_step(X, y, column, n_buckets, settings, n_columns, n_jobs), None


def probe_step(X, y, column, n_buckets, settings, n_columns, n_jobs=None):
    """The factor of the steps that suits the rows, by a short trial, or None.

    Repetitions that differ by their factor only, a power of two from 1/4 to 32, are
    trained on at most 24,000 rows.  The log loss of others, each factor's at its best
    temperature, a parabola in the logarithm of the factor, has its minimum at the
    answer.  Without the temperature confidence is punished, which later is corrected
    anyway, and all the more the fewer rows there are.  Of more than 256 buckets, which
    are nearly classes, the trial takes the rows of some: merged ones would ask for
    other steps.

    With fewer than 1,000 rows there is no answer.  The trial takes a tenth of the bytes
    of `n_columns` of weights: of fewer rows or buckets, and a few factors at a time.
    Threads share the factors, but not those of a dense X (the sums of BLAS depend on
    shapes).
    """
    if settings.train.size < _steps.TRIAL_ROWS:
        return None
    budget = probe_bytes(X.shape[1], n_columns)
    kind = column.dtype  # with another one kernels would be compiled again
    rng = np.random.default_rng([settings.seed, 1])
    order = rng.permutation(settings.train)
    if n_buckets > _MANY_BUCKETS:
        share = _N_PROBE_ROWS / order.size
        column, n_buckets, chosen = _some_buckets(column, n_buckets, share, rng)
        order = order[chosen[y[order]]]
    else:
        n_buckets = min(n_buckets, _N_PROBE_BUCKETS)
    most = budget // (4 * n_buckets)
    X, rows, features, order = rows_of(X).sample(
        order[:_N_PROBE], most, _steps.TRIAL_ROWS
    )
    y = y[rows]
    n_columns = budget // (4 * max(features.size, 1))
    n_buckets = int(np.clip(n_columns, 2, n_buckets))
    column, at_once = (column % n_buckets).astype(kind), max(n_columns // n_buckets, 1)
    held, train_rows = np.split(order, [order.size // 5])
    n_epochs = int(np.clip(-(-_PROBE_VISITS // train_rows.size), 3, 5))
    share = train_rows.size / settings.train.size
    trial = _settings_of(
        settings,
        rows,
        gain=settings.gain[features],
        past=np.zeros(features.size + 1, np.float32),
        slow=settings.slow[np.append(features, -1)] * np.float32(share),
        train=train_rows,
        held=held,
        unit=None,
    ).with_epochs(n_epochs)
    n_threads = 1 if rows_of(X).in_batches else effective_n_jobs(n_jobs)
    losses = {}

    def measure(powers):
        rate = np.float32(2.0) ** np.array(powers, np.float32)
        W = np.zeros((features.size, rate.size * n_buckets), np.float32)
        b = np.zeros(rate.size * n_buckets, np.float32)
        table = np.repeat(column[:, None], rate.size, axis=1)
        columns = Columns(W, b, 0, b.size, zero=True)
        train(X, Targets.of(y), table, columns, trial._replace(rate=rate))
        log_proba = bucket_proba(X[held], W, b, n_buckets, True)
        own, weight = column[y[held]], trial.row_weight(held)
        for f, power in enumerate(powers):
            losses[power] = _scaled_loss(log_proba[:, f], own, weight)

    def compare(powers):
        powers = [p for p in powers if p in _PROBE_POWERS and p not in losses]
        for start in range(0, len(powers), at_once):
            batch = powers[start : start + at_once]
            groups = np.array_split(batch, min(n_threads, len(batch)))
            Parallel(n_jobs=len(groups), require="sharedmem")(
                delayed(measure)(group.tolist()) for group in groups
            )
        return min(losses, key=losses.get)

    best = compare([0, 2, 4])
    while (new := compare([best - 1, best + 1])) != best:
        best = new
    shift = 0.0
    if best - 1 in losses and best + 1 in losses:
        below, above = (losses[best + side] - losses[best] for side in (-1, 1))
        if below + above > 0:
            shift = (below - above) / (below + above) / 2
    return float(2.0 ** (best + shift))


def _settings_of(settings, rows, **changes):
    """Settings of a trial on some rows."""
    return settings._replace(
        step=settings.step[rows],
        weight=settings.weight[rows],
        visits=None if settings.visits is None else settings.visits[rows],
        early_stopping=False,
        penalty=0.0,
        tol=None,
        verbose=0,
        **changes,
    )


def _some_buckets(column, n_buckets, share, rng):
    """A share of the buckets, 64 at least, with new numbers.

    Returns the new numbers of the classes (K,), how many buckets there are, and whether
    a class is in one of them (K,).
    """
    n_chosen = max(int(np.ceil(share * n_buckets)), _N_PROBE_BUCKETS)
    chosen = rng.permutation(n_buckets)[:n_chosen]
    number = np.full(n_buckets, -1, np.int32)
    number[chosen] = np.arange(chosen.size)
    column = number[column]
    return column, chosen.size, column >= 0


def probe_dense(X, y, column, n_buckets, settings, n_jobs=None):
    """The factor of the steps and the number of epochs that suit dense rows.

    A trial on the rows of some buckets of one repetition, so many that an epoch takes
    half a billion multiply-adds a product: each with all its rows, since fewer rows a
    bucket would need more epochs.  First factors are compared in one epoch, by the
    loss as in `probe_step`, then twice as many epochs, with the same factor or half of
    it, as long as that lowers the loss by 0.3 %.  Both are None with fewer than 1,000
    rows.
    """
    n_rows = settings.train.size
    if n_rows < _steps.TRIAL_ROWS:
        return None, None
    n_most = len(settings.decay)
    rng = np.random.default_rng([settings.seed, 1])
    kind = column.dtype
    share = np.sqrt(_PROBE_PRODUCTS / (X.shape[1] * n_rows * n_buckets))
    share = max(share, _steps.TRIAL_ROWS / n_rows)
    column, n_buckets, chosen = _some_buckets(column, n_buckets, share, rng)
    rows = rng.permutation(settings.train[chosen[y[settings.train]]])
    by_products = _PROBE_PRODUCTS / (X.shape[1] * n_buckets)
    most = min(_N_PROBE, by_products, _PROBE_ROWS_BYTES / (4 * X.shape[1]))
    rows = rows[: max(int(most), _steps.TRIAL_ROWS)]
    X, y, moved = _dense.float_rows(X, rows), column[y[rows]], settings.moved
    moved = settings.metric.apply(X) if moved is None else moved[rows]
    held, train_rows = np.split(np.arange(rows.size, dtype=np.int32), [rows.size // 5])
    trial = _settings_of(
        settings,
        rows,
        batch_size=int(np.clip(rows.size // 64, 1, settings.batch_size)),
        train=train_rows,
        held=held,
        moved=moved,
        shrink=settings.shrink[rows],
    )
    n_threads = effective_n_jobs(n_jobs)
    table = np.arange(n_buckets, dtype=kind)[:, None]
    start = np.zeros((X.shape[1], n_buckets), np.float32), np.zeros(n_buckets, "f")
    if settings.starts:
        _dense.start_from_means(X, y, table, *start, 0, trial, n_threads)
    held_rows, own, weight = X[held], y[held], trial.row_weight(held)
    losses = {}

    def loss(power, n_epochs):
        if (power, n_epochs) not in losses:
            W, b = (array.copy() for array in start)
            columns = Columns(W, b, 0, b.size, zero=False, n_threads=n_threads)
            settings = trial.scaled(2.0**power).with_epochs(n_epochs)
            train(X, Targets.of(y), table, columns, settings)
            log_proba = bucket_proba(held_rows, W, b, b.size, True)[:, 0]
            losses[power, n_epochs] = _scaled_loss(log_proba, own, weight)
        return losses[power, n_epochs]

    def better(best):
        near = [p for p in (best, best - 1, best + 1) if p in _PROBE_POWERS]
        return min(near, key=lambda power: loss(power, 1))

    best, n_epochs = 3, 1
    while (new := better(best)) != best:
        best = new
    while 2 * n_epochs <= n_most:
        new = min((best - 1, best), key=lambda power: loss(power, 2 * n_epochs))
        if loss(new, 2 * n_epochs) > (1 - _WORTH_EPOCHS) * loss(best, n_epochs):
            break
        best, n_epochs = new, 2 * n_epochs
    return 2.0**best, n_epochs


def probe_bytes(n_features, n_columns):
    """Bytes of the weights of the trial, at most."""
    return max(4 * n_features * n_columns // _PROBE_SHARE, _PROBE_BYTES)


def _scaled_loss(log_proba, codes, weight):
    """Mean log loss of log probabilities (n, B) at the temperature that suits them."""
    z = log_proba.astype(np.float64)
    own = z[np.arange(codes.size), codes]

    def loss(log_scale):
        scale = np.exp(log_scale)
        return weight @ (logsumexp(scale * z, axis=1) - scale * own) / weight.sum()

    return minimize_scalar(
        loss, bounds=_LOG_SCALES, method="bounded", options={"xatol": 1e-2}
    ).fun
