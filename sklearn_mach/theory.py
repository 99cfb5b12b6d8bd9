"""Planning: how many repetitions R and buckets B, what they cost and what to expect.

With K classes and d features a model has d R B weights instead of the d K of
one-vs-rest.  The formulas are those of Medini, Huang, Wang, Mohan and Shrivastava
(2019), "Extreme Classification in Log Memory using Count-Min Sketch", NeurIPS, and
Huang, Wang, Medini and Shrivastava (2018), "Extreme Classification in Log Memory",
arXiv:1810.04254; they are about random tables, h_r(k) is the bucket of class k.
Functions of numbers take arrays too, which are broadcast.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

from ._hashing import min_repetitions
from ._memory import format_bytes

__all__ = [
    "Cost",
    "ModelCost",
    "Plan",
    "estimate_variance",
    "expected_collisions",
    "indistinguishable_probability",
    "mach_min_repetitions",
    "model_bytes",
    "model_cost",
    "plan",
]

_BUDGET = 1024  # buckets of all repetitions together, unless the bound asks for more
_LABELS = 4  # of a row, for which 64 buckets are enough
_FEW_NONZEROS = 20_000_000  # twice the budget is cheap up to here
_FEW_FEATURES = 2000  # below, and on dense rows, weights are cheap and buckets dear
_SOFTMAX_BYTES = 1 << 30  # of the weights of so few features, at most
_DENSE_PRODUCTS = 25_000_000_000_000  # multiply-adds of all rows by them, at most
_SPARSE_PRODUCTS = 200_000_000_000
_DENSE_REPETITIONS = 8  # where a bucket for each class costs more than that
_WEIGHT_BYTES = 4  # float32
_END = 2**63  # of the integers that an array holds


def mach_min_repetitions(n_classes, n_buckets, delta=1e-3):
    """Find a number of repetitions that tells all classes apart.

    Two classes that share their bucket in every repetition cannot be told apart.  With
    independent universal tables all pairs of classes differ somewhere with probability
    at least 1 - delta if ``R >= 2 log(K / sqrt(delta)) / log(B)``.

    Parameters
    ----------
    n_classes, n_buckets : int or array-like of int
        The numbers of classes K, at least 1, and of buckets B of a repetition, at
        least 2.
    delta : float or array-like of float, default=1e-3
        The accepted probability that some pair shares all buckets, between 0 and 1.

    Returns
    -------
    n_repetitions : int or ndarray of int
        The smallest R that satisfies the bound, at least 1.

    See Also
    --------
    indistinguishable_probability : The probability itself.

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
    n_classes = _checked("n_classes", n_classes, 1)
    n_buckets = _checked("n_buckets", n_buckets, 2)
    delta = _checked_delta(delta)
    bound = 2 * np.log(n_classes / np.sqrt(delta)) / np.log(n_buckets)
    return _plain(np.maximum(np.ceil(bound), 1).astype(np.int64))


def expected_collisions(n_classes, n_buckets, n_repetitions=1):
    """Expected number of pairs of classes that share their bucket in all repetitions.

    ``K (K - 1) / 2 * B**-R``: each of the pairs shares a bucket with probability 1/B in
    each of R independent random tables, and with at most that in universal ones.

    Parameters
    ----------
    n_classes, n_buckets : int or array-like of int
        The numbers of classes K, and of buckets B of a repetition, at least 1.
    n_repetitions : int or array-like of int, default=1
        The number of repetitions R, at least 1.

    Returns
    -------
    n_pairs : float or ndarray of float

    Notes
    -----
    :class:`~sklearn_mach.MACHClassifier` does better than a random table: its own
    spread the classes evenly, and no pair is left that shares all buckets.

    References
    ----------
    Carter and Wegman (1979), "Universal Classes of Hash Functions", Journal of Computer
    and System Sciences 18(2).

    Examples
    --------
    >>> from sklearn_mach.theory import expected_collisions
    >>> expected_collisions(1000, 50, [1, 2, 3, 4])
    array([9.990e+03, 1.998e+02, 3.996e+00, 7.992e-02])
    """
    n_classes = _checked("n_classes", n_classes, 1).astype(float)
    n_buckets = _checked("n_buckets", n_buckets, 1).astype(float)
    n_repetitions = _checked("n_repetitions", n_repetitions, 1)
    return _plain(n_classes * (n_classes - 1) / 2 * n_buckets**-n_repetitions)


def indistinguishable_probability(n_classes, n_buckets, n_repetitions):
    """Bound of the probability that some pair of classes shares all its buckets.

    ``min(1, K (K - 1) / 2 * B**-R)``, the sum over the pairs, which is close where it
    is small.  Two such classes get the same score for every row.

    Parameters
    ----------
    n_classes, n_buckets, n_repetitions : int or array-like of int
        The numbers of classes K, of buckets B of a repetition, and of repetitions R, at
        least 1.

    Returns
    -------
    probability : float or ndarray of float
        From 0 to 1.

    See Also
    --------
    mach_min_repetitions : The R with which it is at most delta.
    expected_collisions : The expected number of such pairs.

    References
    ----------
    Huang, Wang, Medini and Shrivastava (2018), "Extreme Classification in Log Memory",
    arXiv:1810.04254: the union bound behind `mach_min_repetitions`.

    Examples
    --------
    >>> from sklearn_mach.theory import indistinguishable_probability
    >>> indistinguishable_probability(1000, 50, [1, 2, 3, 4])
    array([1.     , 1.     , 1.     , 0.07992])
    """
    n_pairs = expected_collisions(n_classes, n_buckets, n_repetitions)
    return _plain(np.minimum(n_pairs, 1.0))


def estimate_variance(proba, n_buckets, n_repetitions):
    """Variance of the unbiased estimate of the probability of each class.

    If the buckets have exact probabilities ``P_r(b) = sum_{k: h_r(k) = b} p_k``, then
    ``B / (B - 1) * ((1/R) sum_r P_r(h_r(k)) - 1/B)`` has the mean p_k over random
    tables, and the variance ``1 / (R (B - 1)) * sum_{j != k} p_j**2``.

    Parameters
    ----------
    proba : array-like of shape (..., n_classes)
        Probabilities of the classes; each row sums to one.
    n_buckets, n_repetitions : int or array-like of int
        The numbers of buckets B of a repetition, at least 2, and of repetitions R, at
        least 1.

    Returns
    -------
    variance : ndarray of shape (..., n_classes)
        With an axis in front for each axis of `n_buckets` and `n_repetitions`, if they
        are arrays.

    Notes
    -----
    The variance needs tables that are 3-wise independent; for the mean it is enough
    that two classes share a bucket with probability 1/B.  It does not depend on K.
    Trained buckets add errors of their own.

    References
    ----------
    Medini et al. (2019), "Extreme Classification in Log Memory using Count-Min Sketch",
    NeurIPS, for the estimate.  Its variance follows from the coefficients
    ``[h_r(j) = h_r(k)]`` of the other p_j, which have the variance (B - 1) / B**2 and
    are uncorrelated by 3-wise independence.

    Examples
    --------
    >>> from sklearn_mach.theory import estimate_variance
    >>> estimate_variance([0.5, 0.5, 0.0], n_buckets=11, n_repetitions=5)
    array([0.005, 0.005, 0.01 ])
    >>> estimate_variance([0.5, 0.5, 0.0], n_buckets=11, n_repetitions=[5, 50]).shape
    (2, 3)
    """
    n_buckets = _checked("n_buckets", n_buckets, 2)
    n_repetitions = _checked("n_repetitions", n_repetitions, 1)
    proba = np.asarray(proba, dtype=float)
    if proba.ndim == 0 or not np.all(proba >= 0):
        raise ValueError("proba must be an array of numbers that are not negative.")
    sums = proba.sum(axis=-1)
    if not np.allclose(sums, 1, rtol=0, atol=1e-3):  # float32 rows are off by 1e-5
        worst = sums.flat[np.abs(sums - 1).argmax()]
        raise ValueError(f"Each row of proba must sum to one; one sums to {worst}.")
    squares = proba**2
    others = squares.sum(axis=-1, keepdims=True) - squares
    # floats, whose product does not wrap around
    return np.multiply.outer(1 / (n_repetitions * (n_buckets - 1.0)), others)


def model_bytes(n_features, n_repetitions, n_buckets):
    """Bytes of the weights and intercepts of the built-in learner.

    Parameters
    ----------
    n_features, n_repetitions, n_buckets : int or array-like of int
        d, R and B, at least 1.

    Returns
    -------
    n_bytes : int or ndarray of int
        4 (d + 1) R B.

    Raises
    ------
    ValueError
        If a number is below 1 or not whole, or arrays would hold more than 2**63 - 1.

    See Also
    --------
    model_cost : Bytes with the table of buckets, and multiply-adds.

    Examples
    --------
    >>> from sklearn_mach.theory import model_bytes
    >>> model_bytes(422_713, 25, 32)
    1352684800
    """
    # Integers of Python do not wrap around.
    d = _plain(_checked("n_features", n_features, 1))
    R = _plain(_checked("n_repetitions", n_repetitions, 1))
    B = _plain(_checked("n_buckets", n_buckets, 1))
    if np.ndim(d) or np.ndim(R) or np.ndim(B):
        _refuse_overflow(_WEIGHT_BYTES * (d + 1.0) * R * B)
    return _WEIGHT_BYTES * (d + 1) * R * B


class Cost(NamedTuple):
    """What a model takes; multiply-adds are for one row."""

    n_bytes: int | np.ndarray
    """Bytes of the weights, the intercepts and the table of buckets."""
    training: float | np.ndarray
    """Multiply-adds of a step of stochastic gradient descent."""
    prediction: float | np.ndarray
    """Multiply-adds of the scores of the buckets (one-vs-rest: of the classes)."""
    decoding: float | np.ndarray
    """Additions that merge the scores of buckets into those of the classes."""


class ModelCost(NamedTuple):
    """The costs of MACH beside those of one-vs-rest."""

    mach: Cost
    one_vs_rest: Cost


def model_cost(n_classes, n_features, n_repetitions, n_buckets, *, n_nonzeros=None):
    """Bytes and multiply-adds of MACH beside linear one-vs-rest.

    With z non-zeros in a row, and the intercept as one more: a row's scores take
    ``(z + 1) R B`` multiply-adds, a training step twice that (scores and gradient), and
    decoding all classes ``K R`` additions.  The weights and intercepts are
    ``(d + 1) R B`` numbers of 4 bytes, the table of buckets ``K R`` numbers of 1 byte
    up to 256 buckets, 2 up to 65,536 and 4 beyond.  One-vs-rest has K in place of R B,
    no table and no decoding.

    Parameters
    ----------
    n_classes, n_features, n_repetitions, n_buckets : int or array-like of int
        K, d, R and B, at least 1.
    n_nonzeros : float or array-like of float, default=None
        Non-zeros of a row, on average.  None is all features: dense rows.

    Returns
    -------
    cost : ModelCost
        Its `mach` and `one_vs_rest` have `n_bytes`, `training`, `prediction` and
        `decoding`.

    Raises
    ------
    ValueError
        If a number is out of range, or the bytes are more than 2**63 - 1.

    See Also
    --------
    plan : Choose R and B, with these costs as a table.

    Notes
    -----
    `predict` and `predict_topk` merge the scores of most classes in 8 bits, so that an
    addition of decoding is much cheaper than a multiply-add.

    References
    ----------
    Huang, Wang, Medini and Shrivastava (2018), "Extreme Classification in Log Memory",
    arXiv:1810.04254: memory of O(d log K), prediction of O(d log K + K log K), which is
    d R B and d R B + K R with R = O(log K) and a fixed B.

    Examples
    --------
    >>> from sklearn_mach.theory import model_cost
    >>> cost = model_cost(105_033, 422_713, n_repetitions=25, n_buckets=32)
    >>> cost.mach.n_bytes, cost.one_vs_rest.n_bytes
    (1355310625, 177595678248)
    >>> model_cost(1000, 100, [1, 10], 32, n_nonzeros=9).mach.prediction
    array([ 320, 3200])
    """
    K = _checked("n_classes", n_classes, 1)
    d = _checked("n_features", n_features, 1)
    R = _checked("n_repetitions", n_repetitions, 1)
    B = _checked("n_buckets", n_buckets, 1)
    nonzeros = _checked_nonzeros(n_nonzeros, d)
    # The bytes, with 4 for an entry of the table, are the largest of the numbers below.
    columns = np.maximum(R * B.astype(float), K)
    _refuse_overflow(_WEIGHT_BYTES * ((d + 1.0) * columns + R * K.astype(float)))
    table = K * R * _bucket_bytes(B)
    none = np.zeros_like(K)

    def cost(columns, table, decoding):
        scores = (nonzeros + 1) * columns
        n_bytes = _WEIGHT_BYTES * (d + 1) * columns + table
        return Cost(*map(_plain, (n_bytes, 2 * scores, scores, decoding)))

    return ModelCost(cost(R * B, table, K * R), cost(K, none, none))


@dataclass(frozen=True, repr=False)
class Plan:
    """R and B, what they cost and what to expect of them; made by :func:`plan`.

    Printed, it is a table.

    Attributes
    ----------
    n_classes, n_features : int
        K and d.
    n_nonzeros : float
        Non-zeros of a row.
    n_repetitions, n_buckets : int
        R and B, for :class:`~sklearn_mach.MACHClassifier`.
    cost : ModelCost
        Bytes and multiply-adds, beside those of one-vs-rest.
    delta : float
        The accepted probability that some pair of classes shares all buckets.
    rule : str
        What "auto" went by.
    n_labels : float
        Labels of a row.
    """

    n_classes: int
    n_features: int
    n_nonzeros: float
    n_repetitions: int
    n_buckets: int
    cost: ModelCost
    delta: float
    rule: str
    n_labels: float = 1.0

    @property
    def params(self):
        """R and B as keyword arguments of MACHClassifier."""
        n_buckets = max(self.n_buckets, 2)  # of a single class
        return {"n_repetitions": self.n_repetitions, "n_buckets": n_buckets}

    @property
    def n_bytes(self):
        """Bytes of the weights, the intercepts and the table of buckets."""
        return self.cost.mach.n_bytes

    @property
    def min_repetitions(self):
        """R that the bound asks for; 1 if every class has its own bucket."""
        if self.n_buckets >= self.n_classes:
            return 1
        return mach_min_repetitions(self.n_classes, self.n_buckets, self.delta)

    @property
    def indistinguishable_probability(self):
        """Bound of the probability that random tables leave two classes the same."""
        if self.n_buckets >= self.n_classes:
            return 0.0
        return indistinguishable_probability(
            self.n_classes, self.n_buckets, self.n_repetitions
        )

    @property
    def hidden_probability(self):
        """Probability that a wrong label shares its bucket with one of the row.

        ``1 - (1 - 1/B)**n_labels`` for random tables, in each repetition.
        """
        if self.n_buckets >= self.n_classes:
            return 0.0
        return 1 - (1 - 1 / self.n_buckets) ** self.n_labels

    @property
    def max_deviation(self):
        """Largest standard deviation of the unbiased estimate of a probability.

        That of a class which is impossible where another is certain.
        """
        if self.n_buckets >= self.n_classes:
            return 0.0
        variance = estimate_variance([0, 1], self.n_buckets, self.n_repetitions)
        return float(np.sqrt(variance[0]))

    def _rows(self):
        """Title, and rows of three cells: what, MACH, one-vs-rest."""
        title = f"MACH for {self.n_classes:,} classes and {self.n_features:,} features"
        if self.n_nonzeros != self.n_features:
            title += f", {self.n_nonzeros:,.4g} of them non-zero in a row"
        if self.n_labels != 1:
            title += f"; {self.n_labels:,.4g} labels a row"
        mach, other = self.cost
        rows = [
            ("", "MACH", "one-vs-rest"),
            ("repetitions R", f"{self.n_repetitions:,}", ""),
            ("buckets B of a repetition", f"{self.n_buckets:,}", ""),
            ("outputs to train", f"{self.n_repetitions * self.n_buckets:,}",
             f"{self.n_classes:,}"),
            ("bytes", format_bytes(mach.n_bytes), format_bytes(other.n_bytes)),
        ]  # fmt: skip
        names = (
            "multiply-adds of a training step on a row",
            "multiply-adds of the scores of a row",
            "additions that decode all classes of a row",
        )
        for name, n_mach, n_other in zip(names, mach[1:], other[1:], strict=True):
            rows.append((name, f"{n_mach:,.0f}", f"{n_other:,.0f}"))
        rows += [
            ("classes in a bucket", f"{self.n_classes / self.n_buckets:,.1f}", "1.0"),
            (f"R that the bound asks for, delta={self.delta:g}",
             f"{self.min_repetitions}", ""),
            ("random tables: chance of two classes alike",
             f"<= {self.indistinguishable_probability:.2g}", ""),
        ]  # fmt: skip
        if self.n_labels == 1:
            name, value = "deviation of a probability", f"<= {self.max_deviation:.2g}"
        else:  # whose probabilities do not add up to one, as those of the deviation
            name = "a wrong label beside a right one"
            value = f"{self.hidden_probability:.2g}"
        rows.append((f"random tables: {name}", value, ""))
        return title, rows

    def __repr__(self):
        title, rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{name:{widths[0]}}  {mach:>{widths[1]}}  {other:>{widths[2]}}".rstrip()
            for name, mach, other in rows
        ]
        return "\n".join(filter(None, [title, *lines, self.rule]))

    def _repr_html_(self):
        title, rows = self._rows()
        lines = [
            f"<tr><th style='text-align: left'>{escape(name)}</th>"
            f"<td>{escape(mach)}</td><td>{escape(other)}</td></tr>"
            for name, mach, other in rows
        ]
        table = f"<caption>{escape(title)}</caption>{''.join(lines)}"
        rule = f"<p>{escape(self.rule)}</p>" if self.rule else ""
        return f"<table>{table}</table>{rule}"


def plan(
    n_classes,
    n_features,
    max_bytes=None,
    *,
    n_repetitions="auto",
    n_buckets="auto",
    n_samples=None,
    n_nonzeros=None,
    delta=1e-3,
    n_labels=1.0,
):
    """Choose R and B, at most `max_bytes` altogether, and say what to expect.

    They are those that :class:`~sklearn_mach.MACHClassifier` takes with "auto" where
    these fit, and otherwise the largest R, with fewer buckets only where that alone
    would tell too few classes apart.

    Parameters
    ----------
    n_classes, n_features : int
        K and d, at least 1.
    max_bytes : int or float, default=None
        Bytes that the weights of the built-in learner and the table of buckets may
        take.  None is no limit.
    n_repetitions, n_buckets : int or "auto", default="auto"
        R and B, where they are given.
    n_samples : int, default=None
        The number of training rows, on which "auto" depends: with at most 20 million
        non-zeros in all it takes twice the buckets.  None is more than that, and for
        dense rows or few features one row a class.
    n_nonzeros : float, default=None
        Non-zeros of a row, on average.  None is all features: dense rows.
    delta : float, default=1e-3
        The accepted probability that some pair of classes shares all buckets, as in
        :func:`mach_min_repetitions`.
    n_labels : float, default=1.0
        Labels of a row, on average: of several each may hide a wrong one that shares
        its bucket, so that "auto" takes more buckets, about a fourth of the labels
        times as many.

    Returns
    -------
    plan : Plan
        A table when printed; its `params` are for MACHClassifier.

    Raises
    ------
    ValueError
        If no R and B fit, or those that are given do not, or they cannot tell so many
        classes apart.

    Notes
    -----
    The last two rows of the table hold for random tables of buckets: a bound of
    :func:`indistinguishable_probability`, and the largest square root of
    :func:`estimate_variance`; with other `n_labels` than 1 in its place the chance
    ``1 - (1 - 1/B)**n_labels`` that a wrong label shares the bucket of one of the row.
    MACHClassifier draws tables that leave no two classes
    alike.  Neither says how well the buckets are learnt, nor how accurate the model is;
    :class:`~sklearn_mach.MACHClassifierCV` measures that.

    With dense rows, or fewer than 2,000 features, a weight is cheap and a linear
    function cannot tell a random half of the classes from the other: "auto" takes one
    repetition with a bucket for each class, which is softmax regression, as long as the
    weights take at most 1.07 GB and the product of all rows and the weights at most
    2.5e13 multiply-adds (2e11 with sparse rows).  Beyond that it takes 8 repetitions
    of as many buckets as these limits allow.  The table ends with the limit that
    counts.

    Examples
    --------
    >>> from sklearn_mach import MACHClassifier
    >>> from sklearn_mach.theory import plan
    >>> sizes = plan(105_033, 422_713, max_bytes=1e9, n_nonzeros=50)
    >>> sizes
    MACH for 105,033 classes and 422,713 features, 50 of them non-zero in a row
                                                      MACH  one-vs-rest
    repetitions R                                        9
    buckets B of a repetition                           64
    outputs to train                                   576      105,033
    bytes                                        974.88 MB    177.60 GB
    multiply-adds of a training step on a row       58,752   10,713,366
    multiply-adds of the scores of a row            29,376    5,356,683
    additions that decode all classes of a row     945,297            0
    classes in a bucket                            1,641.1          1.0
    R that the bound asks for, delta=0.001               8
    random tables: chance of two classes alike  <= 3.1e-07
    random tables: deviation of a probability     <= 0.042
    >>> model = MACHClassifier(**sizes.params)
    """
    K = _checked_number("n_classes", n_classes, 1)
    d = _checked_number("n_features", n_features, 1)
    if not (isinstance(n_repetitions, str) and n_repetitions == "auto"):
        n_repetitions = _checked_number("n_repetitions", n_repetitions, 1)
    if not (isinstance(n_buckets, str) and n_buckets == "auto"):
        n_buckets = _checked_number("n_buckets", n_buckets, 2)
    delta = float(_checked_delta(delta))
    nonzeros = _plain(_checked_nonzeros(n_nonzeros, d))
    if not (isinstance(n_labels, Real) and 0 <= n_labels <= K):
        raise ValueError(
            f"n_labels must be a number from 0 to n_classes={K}, got {n_labels!r}."
        )
    total, total_of_few = _FEW_NONZEROS + 1, round(K * nonzeros)
    if n_samples is not None:
        total = round(_checked_number("n_samples", n_samples, 1) * nonzeros)
        total_of_few = total
    is_number = isinstance(max_bytes, Real) and 0 < max_bytes < np.inf
    if max_bytes is not None and not is_number:
        raise ValueError(
            f"max_bytes must be a positive number or None, got {max_bytes!r}."
        )
    few = FewFeatures(d, total_of_few, n_nonzeros is None)

    def choose(few, largest=None):
        """R and B whose table has entries for `largest` buckets, if bytes matter."""
        options = {"n_nonzeros": total, "few": few, "delta": delta}
        options["n_labels"] = n_labels
        if largest is not None:
            column, table = model_bytes(d, 1, 1), K * int(_bucket_bytes(largest))
            options["max_columns"] = Fraction(int(max_bytes), column)
            options["table_columns"] = Fraction(table, column)
        sizes = choose_sizes(K, n_repetitions, n_buckets, **options)
        cost = model_cost(K, d, *sizes, n_nonzeros=nonzeros)
        return *sizes, cost, max_bytes is None or cost.mach.n_bytes <= max_bytes

    is_auto = isinstance(n_buckets, str)
    R, B, cost, fits = choose(few)
    if not fits and is_auto and few.columns() is not None:
        R, B, cost, fits = choose(few, largest=K)
    if not fits:
        R, B, cost, fits = choose(None, largest=1 if is_auto else n_buckets)
    least = min_repetitions(K, max(B, 2))
    if least > R:
        raise ValueError(
            f"n_repetitions={R} with n_buckets={B} cannot tell {K} classes apart. Use "
            f"n_repetitions={least} or more, or more buckets."
        )
    if not fits:
        needed, least = cost.mach.n_bytes, _least_bytes(K, d)
        raise ValueError(
            f"n_repetitions={R} with n_buckets={B} takes {needed} bytes "
            f"({format_bytes(needed)}), more than max_bytes={max_bytes}. To tell {K} "
            f"classes apart takes at least {least} bytes ({format_bytes(least)})."
        )
    is_auto = is_auto and isinstance(n_repetitions, str)
    rule = few.rule(K, R) if is_auto else ""
    return Plan(K, d, nonzeros, R, B, cost, delta, rule, float(n_labels))


class FewFeatures(NamedTuple):
    """Dense rows, or few features: what limits the columns R B of the weights.

    n_nonzeros : of all rows together.
    """

    n_features: int
    n_nonzeros: int
    is_dense: bool

    @property
    def max_products(self):
        return _DENSE_PRODUCTS if self.is_dense else _SPARSE_PRODUCTS

    def columns(self):
        """The columns within the limits; None if the features are many and sparse."""
        if not self.is_dense and self.n_features >= _FEW_FEATURES:
            return None
        by_bytes = _SOFTMAX_BYTES // model_bytes(self.n_features, 1, 1)
        return min(by_bytes, self.max_products // max(self.n_nonzeros, 1))

    def rule(self, n_classes, n_repetitions):
        """Why so many repetitions, as a sentence."""
        columns = self.columns()
        if columns is None or n_classes <= 1:
            return ""
        n_bytes = model_bytes(self.n_features, 1, n_classes)
        text = (
            f"A bucket for each class takes {format_bytes(n_bytes)} (limit "
            f"{format_bytes(_SOFTMAX_BYTES)}) and "
            f"{float(self.n_nonzeros) * n_classes:.2g} multiply-adds for all rows "
            f"(limit {float(self.max_products):.2g})"
        )
        if n_repetitions == 1:
            return f"{text}: one repetition is enough."
        if columns >= n_classes:
            return f"{text}, more than max_bytes."
        return f"{text}, too much: {n_repetitions} repetitions share what there is."


def choose_sizes(
    n_classes,
    n_repetitions="auto",
    n_buckets="auto",
    *,
    n_nonzeros=_FEW_NONZEROS + 1,
    few=None,
    max_columns=None,
    table_columns=0,
    delta=1e-3,
    n_labels=1.0,
):
    """R and B for "auto", at most `max_columns` buckets altogether where possible.

    One repetition with a bucket for each class where that costs at most a quarter of
    the usual budget; otherwise 64 buckets, and as many repetitions as fill the budget,
    but never fewer than the bound of `mach_min_repetitions`.  Where `few`, of the
    built-in learner, has limits, they are the budget, shared by 8 repetitions if it is
    less than a bucket for each class.  A repetition's column of the table counts as
    `table_columns` buckets.  With `n_labels` a row, on average, each of which another
    one may hide, buckets and budget are as many times as large, see `_more_buckets`.
    """
    # NumPy integers of few bits would overflow in R B
    n_repetitions, n_buckets = (
        value if isinstance(value, str) else int(value)
        for value in (n_repetitions, n_buckets)
    )
    budget = _BUDGET if n_nonzeros > _FEW_NONZEROS else 2 * _BUDGET
    most_repetitions, times = budget // 64, _more_buckets(n_labels)
    budget *= times
    most = times * _BUDGET // 4  # classes that have a bucket each
    usual, columns = 64 * times, None if few is None else few.columns()
    if columns is not None:
        if max_columns is not None:
            columns = min(columns, int(max_columns - table_columns))
        most, budget = max(columns, most), max(min(columns, n_classes), budget)
        if n_repetitions == "auto":
            usual = max(budget // _DENSE_REPETITIONS, usual)
            budget = _DENSE_REPETITIONS * usual
    given = n_buckets != "auto"
    if not given:
        n_buckets = n_classes if n_classes <= most else usual
        if n_repetitions != "auto":
            n_buckets = max(2, budget // n_repetitions)
            while min_repetitions(n_classes, n_buckets) > n_repetitions:
                n_buckets *= 2
    n_buckets = min(n_buckets, n_classes)
    if n_repetitions != "auto":
        return n_repetitions, n_buckets
    if n_buckets == n_classes:
        n_repetitions = 1
    else:
        bound = mach_min_repetitions(n_classes, n_buckets, delta)
        n_repetitions = max(bound, min(most_repetitions, -(-budget // n_buckets)))
    columns = n_repetitions * (n_buckets + table_columns)
    if max_columns is None or columns <= max_columns:
        return n_repetitions, n_buckets
    fitting = largest_sizes(n_classes, n_buckets, max_columns, table_columns)
    if fitting is None or (given and fitting[1] != n_buckets):
        return min_repetitions(n_classes, n_buckets), n_buckets
    return fitting


def _more_buckets(n_labels):
    """How many times as many buckets as with one label a row: a power of two.

    About a fourth of the labels: a label of a row is in the bucket of a wrong one with
    the chance ``1 - (1 - 1/B)**n_labels``.
    """
    return 2 ** max(round(math.log2(max(n_labels, 1) / _LABELS)), 0)


def largest_sizes(n_classes, n_buckets, max_columns, table_columns=0):
    """The largest R that fits and its B, reduced if need be; or None.

    ``R (B + table_columns) <= max_columns``, and ``B**R >= K``.
    """
    for fewer in range(min(n_buckets, n_classes, int(max_columns)), 1, -1):
        n_repetitions = int(max_columns // (fewer + table_columns))
        if n_repetitions >= min_repetitions(n_classes, fewer):
            return n_repetitions, fewer
    return None


def _least_bytes(n_classes, n_features):
    """Bytes of the smallest model that can tell the classes apart."""
    n_buckets = np.arange(2, 65)
    n_repetitions = [min_repetitions(n_classes, int(B)) for B in n_buckets]
    cost = model_cost(n_classes, n_features, n_repetitions, n_buckets)
    return int(cost.mach.n_bytes.min())


def _bucket_bytes(n_buckets):
    """Bytes of an entry of the table of buckets: the smallest unsigned dtype."""
    return 2 ** np.searchsorted([2**8, 2**16], n_buckets)


def _checked(name, value, least):
    """Whole numbers of at least `least`, as an integer array."""
    value = np.asarray(value)
    # Integers of more than 64 bits are objects to NumPy.
    whole = value.dtype.kind == "O" and all(isinstance(v, Integral) for v in value.flat)
    if value.dtype.kind in "iuf":
        whole = np.all(value == np.floor(value))
    if not whole:
        raise ValueError(f"{name} must be a whole number or an array; got {value}.")
    if not np.all(value >= least):
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    if np.any(value >= _END):
        raise ValueError(f"{name} must be at most 2**63 - 1, got {value}.")
    return value.astype(np.int64)


def _checked_number(name, value, least):
    """One whole number of at least `least`, as an int."""
    value = _checked(name, value, least)
    if value.ndim > 0:
        raise ValueError(f"{name} must be one number, got the array {value}.")
    return int(value)


def _checked_nonzeros(n_nonzeros, n_features):
    """Non-zeros of a row as an array: those given, or all features."""
    if n_nonzeros is None:
        return np.asarray(n_features)
    value = np.asarray(n_nonzeros)
    is_number = value.dtype.kind in "iuf"
    if not (is_number and np.all((value >= 0) & (value <= n_features))):
        raise ValueError(
            f"n_nonzeros must be from 0 to n_features={n_features}, got {n_nonzeros!r}."
        )
    return value


def _refuse_overflow(n_bytes):
    """Refuse what wraps around in integers of 64 bits, from the bytes as floats."""
    if np.any(n_bytes >= _END):
        raise ValueError(
            f"These sizes take up to {np.max(n_bytes):.3g} bytes, more than 2**63 - 1. "
            "Use fewer classes, features, repetitions or buckets."
        )


def _checked_delta(delta):
    delta = np.asarray(delta, dtype=float)
    if not np.all((delta > 0) & (delta < 1)):
        raise ValueError(f"delta must lie between 0 and 1, both excluded; got {delta}.")
    return delta


def _plain(array):
    """A Python number in place of an array without axes."""
    return np.asarray(array).item() if np.ndim(array) == 0 else array
