"""The trial: a factor of the steps, and for dense rows the number of epochs."""

from functools import partial

import numpy as np
from joblib import effective_n_jobs
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.utils.parallel import Parallel, delayed

from . import _dense, _steps
from ._calibration import fit_logistic
from ._logits import logits, to_proba
from ._rows import rows_of
from ._training import Columns, train

DEFAULT_FACTOR = 4.0  # where there are too few rows for a trial
_N_PROBE = 30_000  # rows of the trial
_N_PROBE_BUCKETS = 64  # at most, in the trial
_MANY_BUCKETS = 256  # of which the trial takes some, rather than merging them
_N_PROBE_ROWS = 6_000  # that it then takes, about
_PROBE_VISITS = 72_000  # of rows, in three to five epochs
_PROBE_VISITS_OF_SEVERAL = 200_000  # the same, in as many epochs as the fit has
_PROBE_SHARE = 10  # the trial takes this part of the bytes of the weights
_PROBE_BYTES = 16 << 20  # or these, if that is less
_LOG_SCALES = (-5.0, 2.0)  # logarithms of inverse temperatures
_PROBE_POWERS = range(-2, 6)  # of two, the factors that the trial may compare
_PROBE_PRODUCTS = 5e8  # multiply-adds of an epoch's product in the dense trial
_PROBE_ROWS_BYTES = 1 << 26  # of its rows, at most
_WORTH_EPOCHS = 0.003  # share of the loss by which twice the epochs must lower it


def probe(X, targets, column, n_buckets, settings, n_columns, n_jobs=None):
    """The factor of the steps and the number of epochs by a trial; None if unknown."""
    if settings.metric is not None:
        return probe_dense(X, targets, column, n_buckets, settings, n_jobs)
    factor = probe_step(X, targets, column, n_buckets, settings, n_columns, n_jobs)
    return factor, None


def probe_step(X, targets, column, n_buckets, settings, n_columns, n_jobs=None):
    """The factor of the steps that suits the rows, by a short trial, or None.

    Repetitions that differ by their factor only, a power of two from 1/4 to 32, are
    trained on at most 24,000 rows.  The log loss of others, each factor's at its best
    temperature, a parabola in the logarithm of the factor, has its minimum at the
    answer.  Without the temperature confidence is punished, which later is corrected
    anyway, and all the more the fewer rows there are.  Of more than 256 buckets, which
    are nearly classes, the trial takes the rows of some: merged ones would ask for
    other steps.  Where a row may have several classes the trial takes all rows and up
    to 64 of the buckets, which then do not depend on each other.

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
    if targets.several:
        column, n_buckets, chosen = _some_buckets(column, n_buckets, 0, rng)
        targets = targets.within(chosen)
    elif n_buckets > _MANY_BUCKETS:
        share = _N_PROBE_ROWS / order.size
        column, n_buckets, chosen = _some_buckets(column, n_buckets, share, rng)
        order = order[chosen[targets.classes[order]]]
    else:
        n_buckets = min(n_buckets, _N_PROBE_BUCKETS)
    most = budget // (4 * n_buckets)
    X, rows, features, order = rows_of(X).sample(
        order[:_N_PROBE], most, _steps.TRIAL_ROWS
    )
    targets = targets.take(rows)
    n_columns = budget // (4 * max(features.size, 1))
    n_buckets = int(np.clip(n_columns, 2, n_buckets))
    column, at_once = (column % n_buckets).astype(kind), max(n_columns // n_buckets, 1)
    held, train_rows = np.split(order, [order.size // 5])
    n_epochs = int(np.clip(-(-_PROBE_VISITS // train_rows.size), 3, 5))
    if targets.several:  # where more epochs ask for shorter steps
        visits = int(np.clip(_PROBE_VISITS_OF_SEVERAL // train_rows.size, 3, None))
        n_epochs = min(len(settings.decay), visits)
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
    held_loss = _held_loss(targets.take(held), column, trial.row_weight(held))
    losses = {}

    def measure(powers):
        rate = np.float32(2.0) ** np.array(powers, np.float32)
        W = np.zeros((features.size, rate.size * n_buckets), np.float32)
        table = np.repeat(column[:, None], rate.size, axis=1)
        b = first_intercepts(targets, table, n_buckets, trial)
        columns = Columns(W, b, 0, b.size, zero=True)
        train(X, targets, table, columns, trial._replace(rate=rate))
        Z = logits(X[held], W, b).reshape(held.size, rate.size, n_buckets)
        for f, power in enumerate(powers):
            losses[power] = held_loss(Z[:, f])

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


def probe_dense(X, targets, column, n_buckets, settings, n_jobs=None):
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
    rows = settings.train
    if targets.several:
        targets = targets.within(chosen)
    else:
        rows = rows[chosen[targets.classes[rows]]]
    rows = rng.permutation(rows)
    by_products = _PROBE_PRODUCTS / (X.shape[1] * n_buckets)
    most = min(_N_PROBE, by_products, _PROBE_ROWS_BYTES / (4 * X.shape[1]))
    rows = rows[: max(int(most), _steps.TRIAL_ROWS)]
    X, targets, moved = _dense.float_rows(X, rows), targets.take(rows), settings.moved
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
    table = column.astype(kind)[:, None]
    b = first_intercepts(targets, table, n_buckets, trial)
    start = np.zeros((X.shape[1], n_buckets), np.float32), b
    if settings.starts:
        _dense.start_from_means(X, targets.classes, table, *start, 0, trial, n_threads)
    held_loss = _held_loss(targets.take(held), column, trial.row_weight(held))
    losses = {}

    def loss(power, n_epochs):
        if (power, n_epochs) not in losses:
            W, b = (array.copy() for array in start)
            columns = Columns(W, b, 0, b.size, zero=False, n_threads=n_threads)
            settings = trial.scaled(2.0**power).with_epochs(n_epochs)
            train(X, targets, table, columns, settings)
            losses[power, n_epochs] = held_loss(logits(X[held], W, b))
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


def first_intercepts(targets, table, n_buckets, settings):
    """The intercepts (R B,) that training starts from: what is known without features.

    Those of one class a row are zero; softmax finds the shares of the buckets at once.
    """
    if not targets.several:
        return np.zeros(table.shape[1] * n_buckets, np.float32)
    weight = np.zeros(targets.n_rows)
    weight[settings.train] = settings.row_weight(settings.train)
    return targets.log_odds(table, n_buckets, weight)


def _held_loss(targets, column, weight):
    """Mean log loss of some rows as a function of their logits (n, B), which it scales.

    column (K,): the buckets of the classes; weight (n,)
    """
    if targets.several:
        rows = targets.rows()

        def loss(Z):
            is_on = np.zeros(Z.shape, bool)
            is_on[rows, column[targets.classes]] = True
            return _sigmoid_loss(Z, is_on, weight)

        return loss
    return partial(_softmax_loss, own=column[targets.classes], weight=weight)


def _softmax_loss(Z, own, weight):
    """Mean log loss of logits (n, B) at the temperature that suits them."""
    z = to_proba(Z.copy(), Z.shape[1], True)[:, 0].astype(np.float64)
    own = z[np.arange(own.size), own]

    def loss(log_scale):
        scale = np.exp(log_scale)
        return weight @ (logsumexp(scale * z, axis=1) - scale * own) / weight.sum()

    return minimize_scalar(
        loss, bounds=_LOG_SCALES, method="bounded", options={"xatol": 1e-2}
    ).fun


def _sigmoid_loss(Z, is_on, weight):
    """As `_softmax_loss` for buckets by themselves, with the shift that suits them."""
    z, weight = Z.ravel().astype(np.float64), np.repeat(weight, Z.shape[1])
    shift, scale = fit_logistic(z[:, None], is_on.ravel() * weight, weight)
    logit = shift + scale * z
    loss = np.logaddexp(0, logit) - is_on.ravel() * logit
    return weight @ loss / weight.sum()
