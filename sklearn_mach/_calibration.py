"""What rows set aside say of the scores: probabilities, and the weight of the prior.

A class k of a row is worse than the best by the gap ``g_k = max_j s_j - s_k``, and its
probability is proportional to ``exp(-t g_k^c)`` with ``t = exp(a + b max_j s_j)``: rows
that fit no class well need another temperature than those that fit one, and the odds
need not fall in proportion to the gap.  The order of the classes stays.  a, b and log c
minimise the log loss of held-out rows; b = 0 and c = 1 are temperature scaling (Guo et
al., 2017, "On Calibration of Modern Neural Networks", section 4.2).

Where a row may have several classes, each has log odds of its own, by four scalars that
are fitted to the best classes of the rows; three of them are those of the beta
calibration of Kull et al. (2017), AISTATS.
"""

from itertools import chain, combinations

import numpy as np
from scipy.special import expit, logsumexp, softmax
from sklearn.utils import gen_batches

_N_STEPS = 30
_MAX_LOG = 30.0  # of a temperature
_MAX_LOG_POWER = 1.5
_MAX_CONDITION = 1e10
# Logarithms of gaps at which the classes of a row are counted: 4 % apart.  Looking at
# every class in every step took 46 s, in place of 2 s, at K=105,033 and 500 rows.
_GRID = np.linspace(np.log(1e-6), np.log(1e3), 512)
_ROWS = 1000  # looked at together
_REST = 6e-8  # what a probability of one lacks in float32
_N_GAPS = 1 << 18  # counted together


def digits(n_classes, n_buckets):
    """Factor of the mean logarithm that turns bucket probabilities 1/B into 1/K."""
    return max(1.0, np.log(n_classes) / np.log(max(n_buckets, 2)))


def log_prior(class_weights):
    """Logarithms of K times the shares of the classes, float64 (n_classes,)."""
    if not class_weights.any():  # no row has a class: all are as rare
        return np.zeros(class_weights.size)
    share = class_weights / class_weights.sum()
    return np.log(np.maximum(share, share[share > 0].min()) * share.size)


def log_proportions(scores, best, scalars):
    """Logarithms of numbers proportional to the probabilities, in place of the scores.

    scores (n, any), float64; best (n, 1): the best scores of the rows; scalars (3,): a,
    b and log c.
    """
    np.subtract(best, scores, out=scores)
    t, power = _shape(best, scalars)
    np.power(scores, power, out=scores)
    scores *= -t
    return scores


# Numbers proportional to the probabilities of classes, in place of their float64 scores
# (n, any). All have the best scores of the rows (n, 1), the scalars (3,) and the chance
# that two classes collide, and use what they need.


def exp_of_gaps(scores, best, scalars, chance):
    """Of mean logarithms."""
    np.exp(log_proportions(scores, best, scalars), out=scores)


def above_chance(scores, best, scalars, chance):
    """Of means, of which collisions made `chance`."""
    if chance > 0:
        scores -= chance
        np.maximum(scores, 0, out=scores)
        scores[best[:, 0] <= chance] = 1  # no class is above chance


def as_scored(scores, best, scalars, chance):
    """Of scores that are proportional themselves."""


def _shape(best, scalars):
    """Temperatures t of rows whose best scores are `best`, and the power c."""
    t = np.exp(np.clip(scalars[0] + scalars[1] * best, -_MAX_LOG, _MAX_LOG))
    return t, np.exp(np.clip(scalars[2], -_MAX_LOG_POWER, _MAX_LOG_POWER))


@np.errstate(under="ignore")  # a probability of zero is no error
def fit_scalars(summaries, start):
    """The scalars (3,) that minimise the log loss, by damped scoring steps.

    summaries : iterable of what `summarize` gives for some rows each
    start : float, temperature to start from
    """
    rows = [np.concatenate(parts) for parts in zip(*summaries, strict=True)]
    batches = list(gen_batches(rows[0].shape[0], _ROWS))

    def moments(x):
        parts = [_moments(x, *(part[batch] for part in rows)) for batch in batches]
        return [sum(part) for part in zip(*parts, strict=True)]

    x = np.array([np.log(start), 0.0, 0.0])
    loss, gradient, information = moments(x)
    for _ in range(_N_STEPS):
        information += np.diag(1e-6 * np.diag(information) + np.finfo(float).tiny)
        step = np.linalg.lstsq(information, -gradient)[0]
        new = moments(x + step)
        while new[0] > loss and np.abs(step).max() > 1e-4:
            step /= 2
            new = moments(x + step)
        if not new[0] < loss * (1 - 1e-6):
            break
        x += step
        loss, gradient, information = new
    return x


@np.errstate(under="ignore")
def fit_adjustment(scores, log_prior, own, weight):
    """The logit adjustment tau that ranks held-out rows best, as far as they show it.

    The likelihood of the true class among the best few of a row, ``softmax(t s_k -
    c log prior_k)``, is maximised in t and c; tau is c / t.  Classes far from the best
    do not count, which decide the log loss over all classes and ask for the contrary.
    With its standard error e tau is shrunk to ``tau max(1 - (e / tau)^2, 0)`` (James
    and Stein, 1961), so that noise gives zero.  A negative tau is zero, too: taking
    more from rare classes lost accuracy where rows set aside had asked for it.  Menon
    et al. (2021), "Long-tail learning via logit adjustment", adjust after training.

    scores, log_prior : float arrays of shape (n_samples, k), of the k best classes
    own : bool array of shape (n_samples, k), whether it is a true class; each of them
        is compared with the classes that are not
    weight : float array of shape (n_samples,)
    """
    row, place = np.nonzero(own & (weight > 0)[:, None])
    features = np.stack([scores[row], -log_prior[row]], axis=2).astype(np.float64)
    features -= features[np.arange(row.size), place][:, None]  # zero for the true class
    out = own[row]  # other true classes
    out[np.arange(row.size), place] = False
    features[out] = 0
    weight = weight[row] / max(weight[row].max(initial=0), np.finfo(float).tiny)
    x = np.array([1.0, 0.0])

    def moments(x):
        u = features @ x
        u[out] = -np.inf
        p = softmax(u, axis=1)
        gradient = np.einsum("ik,ika->ia", p, features)
        square = np.einsum("i,ik,ika,ikb->ab", weight, p, features, features)
        square -= np.einsum("i,ia,ib->ab", weight, gradient, gradient)
        return weight @ logsumexp(u, axis=1), gradient * weight[:, None], square

    loss, gradient, information = moments(x)
    for _ in range(_N_STEPS):
        if not np.linalg.cond(information) < _MAX_CONDITION:
            return 0.0  # too few rows, or classes that are equally frequent
        step = -np.linalg.solve(information, gradient.sum(axis=0))
        new = moments(x + step)
        while new[0] > loss and np.abs(step).max() > 1e-6:
            step /= 2
            new = moments(x + step)
        x += step
        gain, (loss, gradient, information) = loss - new[0], new
        if not gain > 1e-9 * loss:
            break
    if not (x[0] > 0 and np.linalg.cond(information) < _MAX_CONDITION):
        return 0.0  # scores that do not rank
    tau = x[1] / x[0]
    influence = np.linalg.solve(information, gradient.T)
    error = np.linalg.norm(np.array([-tau, 1.0]) / x[0] @ influence)
    return float(tau * max(1 - (error / tau) ** 2, 0.0)) if tau > 0 else 0.0


@np.errstate(under="ignore")
def summarize(scores, y, weight):
    """What the log loss of some rows depends on: little beside their scores (n, K).

    y, weight (n,): the classes and weights.  Returns the classes at each gap of the
    grid (n, 512) and those with no gap (n,), the best scores, the gaps of the true
    classes and the weights (n,).
    """
    best = scores.max(axis=1)
    counts = np.empty((scores.shape[0], _GRID.size), np.float32)
    for rows in gen_batches(scores.shape[0], max(_N_GAPS // scores.shape[1], 1)):
        counts[rows] = _count_gaps(best[rows, None] - scores[rows])
    ties = np.count_nonzero(scores == best[:, None], axis=1)
    gap = best - scores[np.arange(y.size), y]
    return counts, ties, best.astype(np.float64), gap.astype(np.float64), weight


def _count_gaps(gap):
    """Classes at each gap of the grid (n, 512), from those of the classes, gap (n, K).

    Every class is shared between the two gaps of the grid that are next to its own.
    """
    n_rows, n_places = gap.shape[0], _GRID.size + 1  # the last stays empty
    with np.errstate(divide="ignore"):
        place = np.log(gap)
    place -= np.float32(_GRID[0])
    place /= np.float32(_GRID[1] - _GRID[0])
    np.clip(place, 0, _GRID.size - 1, out=place)
    below = place.astype(np.intp)
    share_above = place - below.astype(np.float32)
    share_below = (gap > 0) - share_above
    below += n_places * np.arange(n_rows)[:, None]
    below, size = below.ravel(), n_rows * n_places
    counts = np.bincount(below, share_below.ravel(), size)
    counts += np.bincount(below + 1, share_above.ravel(), size)
    return counts.reshape(n_rows, n_places)[:, :-1]


def _moments(x, counts, ties, best, gap, weight):
    """Log loss of the rows, its gradient (3,) and Fisher information (3, 3).

    With u = t gap^c the derivatives of u are f = u (1, best, c log gap); the gradient
    is f_y - mean f and the information the covariance of f, under the probabilities.
    """
    t, c = _shape(best, x)
    u = t[:, None] * np.exp(c * _GRID)
    p = counts * np.exp(-u)
    total = ties + p.sum(axis=1)
    p /= total[:, None]
    first = p * u
    second = first * u
    logs = np.stack([np.ones_like(_GRID), c * _GRID, (c * _GRID) ** 2], axis=1)
    # means of f0, f2 and of f0 f0, f0 f2, f2 f2; f1 is best times f0
    mean0, mean2, _ = (first @ logs).T
    square00, square02, square22 = (second @ logs).T
    mean = np.stack([mean0, best * mean0, mean2])
    square = np.array(
        [
            [square00, best * square00, square02],
            [best * square00, best**2 * square00, best * square02],
            [square02, best * square02, square22],
        ]
    )
    own = t * gap**c
    with np.errstate(divide="ignore"):
        log_gap = np.where(gap > 0, np.log(gap), 0.0)
    derivatives = np.stack([own, best * own, c * log_gap * own])
    loss = weight @ (own + np.log(total))
    return loss, (derivatives - mean) @ weight, (square - mean[:, None] * mean) @ weight


# Several classes a row ---------------------------------------------------------------


def log_odds(scores, best, is_log, scalars=None):
    """Log odds of classes in place of their merged scores, float32 (n, any).

    Those of the probability s, or ``exp(s)`` where scores are logarithms of it, or with
    the scalars (4,) ``a + b s - c log(1 - exp(s)) + d best``, where `best` (n, 1) is
    the best score of the row.
    """
    if is_log:
        log_p, p = scores, np.exp(np.minimum(scores, 0))
    else:
        log_p, p = np.log(np.maximum(scores, np.finfo(np.float32).tiny)), scores
    rest = -np.log(np.maximum(1 - p, _REST))
    if scalars is None:
        return np.add(log_p, rest, out=scores)
    a, b, c, d = scalars.astype(np.float32)
    row = a + d * best  # before the scores change, of which it may be a view
    return np.add(b * log_p + row, c * rest, out=scores)


def fit_marginals(scores, own, weight):
    """The scalars of `log_odds` with the least log loss.

    None of b, c and b + d is negative: of two classes of a row the one with the higher
    score has the higher odds, and no row gains by lower scores of all its classes.

    scores : float array of shape (n_samples, k), mean logarithms of the k best classes
    own : bool array of shape (n_samples, k), whether the row has the class
    weight : float array of shape (n_samples,)
    """
    s, best = scores.astype(np.float64), scores[:, :1].astype(np.float64)
    weight = np.repeat(weight / weight[weight > 0].mean(), scores.shape[1])
    rest = -np.log(np.maximum(1 - np.exp(np.minimum(s, 0)), _REST))
    features = [s - best, rest, np.broadcast_to(best, s.shape)]
    features = np.stack(features, axis=2).reshape(-1, 3)
    own, least = own.ravel() * weight, np.inf
    for used in chain.from_iterable(combinations(range(3), n) for n in range(4)):
        found = np.zeros(4)
        found[[0, *(i + 1 for i in used)]] = fit_logistic(
            features[:, used], own, weight
        )
        odds = found[0] + features @ found[1:]
        loss = weight @ np.logaddexp(0, odds) - own @ odds
        if found[1:].min() >= 0 and loss < least:
            (a, b, c, of_best), least = found, loss
    return np.array([a, b, c, of_best - b])


def fit_logistic(features, own, total):
    """Intercept and coefficients (1 + p,) of a logistic regression, by Newton's steps.

    features (n, p); total (n,): weights of what has these features, own (n,): those of
    it that are positive.  Half a positive and half a negative with the mean features
    are added, so that there is an answer without a positive, too.
    """
    mean = total @ features / total.sum()
    A = np.column_stack([np.ones(total.size), features - mean])
    A = np.vstack([A, np.eye(1, A.shape[1])])
    own, total = np.append(own, 0.5), np.append(total, 1)
    share, x = own.sum() / total.sum(), np.zeros(A.shape[1])
    x[0] = np.log(share / (1 - share))

    def moments(x):
        logit = A @ x
        p = expit(logit)
        loss = total @ np.logaddexp(0, logit) - own @ logit
        information = (A * (total * p * (1 - p))[:, None]).T @ A
        return loss, A.T @ (total * p - own), information

    loss, gradient, information = moments(x)
    for _ in range(_N_STEPS):
        information += np.diag(1e-9 * np.diag(information) + np.finfo(float).tiny)
        step = np.linalg.lstsq(information, -gradient)[0]
        new = moments(x + step)
        while not new[0] <= loss and np.abs(step).max() > 1e-6:
            step /= 2
            new = moments(x + step)
        if not new[0] < loss * (1 - 1e-9):
            break
        x += step
        loss, gradient, information = new
    x[0] -= mean @ x[1:]
    return x
