"""Planning: how many repetitions R and buckets B, and what they cost.

With K classes and d features a model has d R B weights instead of the d K of
one-vs-rest.  Medini, Huang, Wang, Mohan and Shrivastava (2019), "Extreme
Classification in Log Memory using Count-Min Sketch", NeurIPS; Huang, Wang, Medini
and Shrivastava (2018), "Extreme Classification in Log Memory", arXiv:1810.04254.
"""

import numpy as np

from ._hashing import min_repetitions

_BUDGET = 1024  # buckets of all repetitions together, unless the bound asks for more
_FEW_NONZEROS = 5_000_000  # twice the budget is cheap up to here
_WEIGHT_BYTES = 4  # float32


def mach_min_repetitions(n_classes, n_buckets, delta=1e-3):
    """Find a number of repetitions that tells all classes apart.

    Two classes that share their bucket in every repetition cannot be told apart.  With
    independent universal tables all pairs of classes differ somewhere with probability
    at least 1 - delta if ``R >= 2 log(K / sqrt(delta)) / log(B)``.

    Parameters
    ----------
    n_classes : int or array-like of int
        The number of classes K, at least 1.
    n_buckets : int or array-like of int
        The number of buckets B of a repetition, at least 2.
    delta : float or array-like of float, default=1e-3
        The accepted probability that some pair shares all buckets, between 0 and 1.

    Returns
    -------
    n_repetitions : int or ndarray of int
        The smallest R that satisfies the bound, at least 1.

    References
    ----------
    Huang, Wang, Medini and Shrivastava (2018), "Extreme Classification in Log Memory",
    arXiv:1810.04254, theorem 2.

    Examples
    --------
    >>> from sklearn_mach.theory import mach_min_repetitions
    >>> mach_min_repetitions(105_033, 32)
    9
    >>> mach_min_repetitions(105_033, [4, 32, 512])
    array([22,  9,  5])
    """
    n_classes, n_buckets = np.asarray(n_classes), np.asarray(n_buckets)
    delta = np.asarray(delta, dtype=float)
    if not np.all(n_classes >= 1):
        raise ValueError(f"n_classes must be at least 1, got {n_classes}.")
    if not np.all(n_buckets >= 2):
        raise ValueError(f"n_buckets must be at least 2, got {n_buckets}.")
    if not np.all((delta > 0) & (delta < 1)):
        raise ValueError(f"delta must lie between 0 and 1, both excluded; got {delta}.")
    bound = 2 * np.log(n_classes / np.sqrt(delta)) / np.log(n_buckets)
    bound = np.maximum(np.ceil(bound), 1).astype(np.int64)
    return int(bound) if bound.ndim == 0 else bound


def model_bytes(n_features, n_repetitions, n_buckets):
    """Bytes of the weights and intercepts of the built-in learner.

    Parameters
    ----------
    n_features, n_repetitions, n_buckets : int
        d, R and B.

    Returns
    -------
    n_bytes : int
        4 (d + 1) R B.

    Examples
    --------
    >>> from sklearn_mach.theory import model_bytes
    >>> model_bytes(422_713, 25, 32)
    1352684800
    """
    return _WEIGHT_BYTES * (n_features + 1) * n_repetitions * n_buckets


def choose_sizes(
    n_classes,
    n_repetitions="auto",
    n_buckets="auto",
    *,
    n_nonzeros=_FEW_NONZEROS + 1,
    max_columns=None,
):
    """R and B for "auto", at most `max_columns` buckets altogether where possible.

    One repetition with a bucket for each class where that costs at most a quarter of
    the usual budget; otherwise 64 buckets, and as many repetitions as fill the budget,
    but never fewer than the bound of `mach_min_repetitions`.
    """
    budget = _BUDGET if n_nonzeros > _FEW_NONZEROS else 2 * _BUDGET
    given = n_buckets != "auto"
    if not given:
        n_buckets = n_classes if n_classes <= _BUDGET // 4 else 64
        if n_repetitions != "auto":
            n_buckets = max(2, budget // n_repetitions)
            while min_repetitions(n_classes, n_buckets) > n_repetitions:
                n_buckets *= 2
    n_buckets = min(n_buckets, n_classes)
    if n_repetitions != "auto":
        return n_repetitions, n_buckets
    if n_buckets == n_classes:
        return 1, n_buckets
    bound = mach_min_repetitions(n_classes, n_buckets)
    n_repetitions = max(bound, min(budget // 64, -(-budget // n_buckets)))
    if max_columns is None or n_repetitions * n_buckets <= max_columns:
        return n_repetitions, n_buckets
    fitting = largest_sizes(n_classes, n_buckets, max_columns)
    if fitting is None or (given and fitting[1] != n_buckets):
        return min_repetitions(n_classes, n_buckets), n_buckets
    return fitting


def largest_sizes(n_classes, n_buckets, max_columns):
    """The largest R with R B <= max_columns and its B, reduced if need be; or None."""
    for fewer in range(min(n_buckets, n_classes, max_columns), 1, -1):
        n_repetitions = max_columns // fewer
        if n_repetitions >= min_repetitions(n_classes, fewer):
            return n_repetitions, fewer
    return None
