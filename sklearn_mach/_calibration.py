"""Probabilities of classes from their scores: three scalars.

A class k of a row is worse than the best by the gap ``g_k = max_j s_j - s_k``, and its
probability is proportional to ``exp(-t g_k^c)`` with ``t = exp(a + b max_j s_j)``: rows
that fit no class well need another temperature than those that fit one, and the odds
need not fall in proportion to the gap.  The order of the classes stays.  a, b and log c
minimise the log loss of held-out rows; b = 0 and c = 1 are temperature scaling (Guo et
al., 2017, "On Calibration of Modern Neural Networks", section 4.2).
"""

import numpy as np

from ._compat import njit

_N_STEPS = 30
_MAX_LOG = 30.0  # of a temperature
_MAX_LOG_POWER = 1.5


def log_proportions(scores, scalars):
    """Logarithms of numbers proportional to the probabilities, in place of the scores.

    scores (n, K), float64; scalars (3,): a, b and log c.
    """
    best = scores.max(axis=1, keepdims=True)
    np.subtract(best, scores, out=scores)
    t, power = _shape(best, scalars)
    np.power(scores, power, out=scores)
    scores *= -t
    return scores


def _shape(best, scalars):
    """Temperatures t of rows whose best scores are `best`, and the power c."""
    t = np.exp(np.clip(scalars[0] + scalars[1] * best, -_MAX_LOG, _MAX_LOG))
    return t, np.exp(np.clip(scalars[2], -_MAX_LOG_POWER, _MAX_LOG_POWER))


def fit_scalars(chunks, start):
    """The scalars a, b and log c that minimise the log loss, by damped scoring steps.

    Parameters
    ----------
    chunks : callable
        Returns an iterable of scores (n, K), float32, classes and weights (n,).
    start : float
        Temperature to start from.

    Returns
    -------
    scalars : float array of shape (3,)
    """

    def moments(x):
        loss, gradient, information = np.zeros(1), np.zeros(3), np.zeros((3, 3))
        for scores, y, weight in chunks():
            best = scores.max(axis=1)
            t, power = _shape(best.astype(np.float64), x)
            _add_moments(scores, best, y, weight, t, power, loss, gradient, information)
        return loss[0], gradient, information

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


@njit
def _add_moments(scores, best, y, weight, t, power, loss, gradient, information):
    """Add the log loss of the rows, its gradient (3,) and Fisher information (3, 3).

    scores (n, K), best, y, weight and t (n,).  With u_k = t g_k^c the derivatives of
    u_k are f_k = u_k (1, best, c log g_k); the gradient is f_y - mean f and the
    information the covariance of f, under the probabilities.
    """
    f, mean, second = np.empty(3), np.empty(3), np.empty((3, 3))
    for i in range(y.shape[0]):
        total = 0.0
        mean[:], second[:] = 0.0, 0.0
        for k in range(scores.shape[1]):
            _derivatives(best[i] - scores[i, k], best[i], t[i], power, f)
            p = np.exp(-f[0])
            total += p
            for m in range(0, 3, 2):  # f[1] is a multiple of f[0]
                mean[m] += p * f[m]
                for q in range(m, 3, 2):
                    second[m, q] += p * f[m] * f[q]
        mean[1] = best[i] * mean[0]
        second[0, 1], second[1, 1] = best[i] * second[0, 0], best[i] ** 2 * second[0, 0]
        second[1, 2] = best[i] * second[0, 2]
        _derivatives(best[i] - scores[i, y[i]], best[i], t[i], power, f)
        loss[0] += weight[i] * (f[0] + np.log(total))
        for m in range(3):
            gradient[m] += weight[i] * (f[m] - mean[m] / total)
            for q in range(m, 3):
                covariance = second[m, q] - mean[m] * mean[q] / total
                information[m, q] += weight[i] * covariance / total
                information[q, m] = information[m, q]


@njit(inline="always")
def _derivatives(gap, best, t, power, f):
    """f (3,) = u (1, best, c log gap) for u = t gap^c; a gap of zero gives zeros."""
    log_gap = np.log(max(gap, np.float32(1e-30)))
    f[0] = t * np.exp(np.float32(power) * log_gap)
    f[1] = f[0] * best
    f[2] = f[0] * power * log_gap
