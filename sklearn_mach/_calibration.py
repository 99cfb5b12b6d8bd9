"""Probabilities of classes from their scores: two scalars.

The probabilities of a row are ``softmax_k(t s_k)`` with ``t = exp(a + b max_k s_k)``:
rows that fit no class well need another temperature than those that fit one.  The
order of the classes stays.  a and b minimise the log loss of held-out rows; with b = 0
this is temperature scaling (Guo et al., 2017, "On Calibration of Modern Neural
Networks", section 4.2).
"""

import numpy as np

from ._compat import njit

_N_STEPS = 30
_MAX_LOG = 30.0  # of a temperature


def row_temperature(best, scalars):
    """Temperatures of rows whose best scores are `best`, of the same shape."""
    return np.exp(np.clip(scalars[0] + scalars[1] * best, -_MAX_LOG, _MAX_LOG))


def fit_scalars(chunks, start):
    """The scalars a and b that minimise the log loss, by damped scoring steps.

    Parameters
    ----------
    chunks : callable
        Returns an iterable of scores (n, K), float32, classes and weights (n,).
    start : float
        Temperature to start from.

    Returns
    -------
    scalars : float array of shape (2,)
    """

    def moments(x):
        total = np.zeros(6)
        for scores, y, weight in chunks():
            t = row_temperature(scores.max(axis=1).astype(np.float64), x)
            _add_moments(scores, y, weight, t, total)
        return total

    x = np.array([np.log(start), 0.0])
    total = moments(x)
    for _ in range(_N_STEPS):
        hessian = np.array([[total[3], total[4]], [total[4], total[5]]])
        hessian += np.diag(1e-6 * np.diag(hessian) + np.finfo(float).tiny)
        step = np.linalg.lstsq(hessian, -total[1:3])[0]
        new = moments(x + step)
        while new[0] > total[0] and np.abs(step).max() > 1e-4:
            step /= 2
            new = moments(x + step)
        if not new[0] < total[0] * (1 - 1e-6):
            break
        x, total = x + step, new
    return x


@njit
def _add_moments(scores, y, weight, t, total):
    """total (6,) += loss, gradient (2,) and Fisher information (3,) over the rows.

    scores (n, K), y, weight and t (n,).
    """
    n_classes = scores.shape[1]
    for i in range(scores.shape[0]):
        s, ti = scores[i], np.float32(t[i])
        largest = s[0]
        for k in range(n_classes):
            largest = max(largest, s[k])
        target = s[y[i]] - largest
        z = first = second = 0.0
        for k in range(n_classes):
            d = s[k] - largest
            p = np.exp(ti * d)
            z += p
            first += p * d
            second += p * d * d
        mean = first / z
        slope = weight[i] * t[i] * (mean - target)
        curvature = weight[i] * t[i] ** 2 * (second / z - mean * mean)
        total[0] += weight[i] * (np.log(z) - t[i] * target)
        total[1] += slope
        total[2] += slope * largest
        total[3] += curvature
        total[4] += curvature * largest
        total[5] += curvature * largest**2
