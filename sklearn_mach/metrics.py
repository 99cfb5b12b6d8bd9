"""Scorers for very many classes, which also work when a fold lacks some of them.

They are called with a fitted estimator, X and y, as `scoring` in scikit-learn wants it.
A label that the estimator has not seen in training is a miss and never an error.  Rows
are taken in chunks within scikit-learn's `working_memory`, so that scores of shape
(n_samples, n_classes) are never held.  The classifier at the end of a pipeline, or
found by a search, is used itself.

Several labels a row are an indicator matrix, dense or sparse.  Their rankings have
functions of arrays, and `RankingScorer`.
"""

from dataclasses import dataclass

import numpy as np

from ._inputs import find_labels
from ._ranking import (
    RankingScorer,
    inverse_propensities,
    ndcg_at_k,
    precision_at_k,
    propensity_scored_precision_at_k,
    recall_at_k,
)
from ._scoring import (
    are_labels,
    check_positive,
    check_weight,
    class_proba,
    class_scores,
    labels_or_indicator,
    map_rows,
    unwrap,
)

__all__ = [
    "RankingScorer",
    "TopKScorer",
    "calibration_error",
    "class_ranks",
    "inverse_propensities",
    "ndcg_at_k",
    "neg_calibration_error",
    "neg_log_loss",
    "precision_at_k",
    "propensity_scored_precision_at_k",
    "recall_at_k",
    "top_k_score",
]

for _public in (
    RankingScorer,
    inverse_propensities,
    ndcg_at_k,
    precision_at_k,
    propensity_scored_precision_at_k,
    recall_at_k,
):
    _public.__module__ = __name__  # which pickles name

_FLOOR = np.finfo(np.float64).eps  # least probability in the log loss


def top_k_score(estimator, X, y, k=5, sample_weight=None):
    """Share of the rows whose label is among the k best classes.

    Parameters
    ----------
    estimator : fitted classifier
        With `predict_topk`, `decision_function` or `predict_proba`; the first of them
        that it has is used.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        True labels.  Those that the estimator has not seen are misses.
    k : int, default=5
        At least 1.  More than there are classes is the same as all of them.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows: finite, not negative, and not all zero.

    Returns
    -------
    score : float
        From 0 to 1; higher is better.

    Raises
    ------
    ValueError
        If k is not a positive integer, X and y differ in length, or a weight is
        invalid.

    See Also
    --------
    TopKScorer : The same with k chosen beforehand.

    Notes
    -----
    Of classes with equal scores the first in `classes_` is the better.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_mach import MACHClassifier
    >>> from sklearn_mach.metrics import top_k_score
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MACHClassifier(random_state=0).fit(X, y)
    >>> top_k_score(model, X[:4], y[:4], k=2)
    1.0
    >>> top_k_score(model, X[:4], [0, 0, 0, 7], k=2)  # nothing was labelled 7
    0.75
    """
    check_positive("k", k)
    weight = check_weight(sample_weight, y)
    estimator, X, y = unwrap(estimator, X, y)
    k = min(k, len(estimator.classes_))
    if hasattr(estimator, "predict_topk"):

        def is_hit(X, y):
            return (estimator.predict_topk(X, k=k) == y[:, None]).any(axis=1)

        hits = map_rows(is_hit, X, y, k)
    else:
        hits = class_ranks(estimator, X, y) < k
    return float(np.average(hits, weights=weight))


@dataclass(frozen=True)
class TopKScorer:
    """`top_k_score` with k chosen beforehand, for `scoring`.

    Parameters
    ----------
    k : int, default=5
        At least 1.

    Raises
    ------
    ValueError
        If k is not a positive integer.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import KFold, cross_validate
    >>> from sklearn_mach import MACHClassifier
    >>> from sklearn_mach.metrics import TopKScorer
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MACHClassifier(random_state=0)
    >>> scoring = {"top 1": TopKScorer(1), "top 2": TopKScorer(2)}
    >>> scores = cross_validate(model, X, y, scoring=scoring, cv=KFold(3))
    >>> scores["test_top 1"]  # the rows are sorted by class, so each fold is unseen
    array([0., 0., 0.])
    """

    k: int = 5

    def __post_init__(self):
        check_positive("k", self.k)

    def __call__(self, estimator, X, y, sample_weight=None):
        """Share of the rows whose label is among the k best classes.

        Parameters
        ----------
        estimator, X, y, sample_weight
            As in :func:`top_k_score`.

        Returns
        -------
        score : float
        """
        return top_k_score(estimator, X, y, self.k, sample_weight)


def neg_log_loss(estimator, X, y, sample_weight=None):
    """Mean logarithm of the probability of the true label: minus the log loss.

    ``(1/n) sum_i log max(p_i, eps)`` with ``eps = 2**-52``, float64's, as scikit-learn
    has it for float64 probabilities.  Of several labels a row it is the mean over rows
    and labels of the logarithm of p where the label is there, and of 1 - p where not.

    Parameters
    ----------
    estimator : fitted classifier
        With `predict_proba`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,), or indicator of several labels
        True labels.  Those that the estimator has not seen have the probability zero;
        each adds ``log eps``, about -36.04, to the sum.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows: finite, not negative, and not all zero.

    Returns
    -------
    score : float
        At most 0; higher is better.

    Raises
    ------
    AttributeError
        If the estimator has no `predict_proba`.
    ValueError
        If X and y differ in length, or a weight is invalid.

    References
    ----------
    Good (1952), "Rational Decisions", Journal of the Royal Statistical Society B 14(1).

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn_mach.metrics import neg_log_loss
    >>> model = DummyClassifier(strategy="prior").fit([[0], [0]], ["a", "b"])
    >>> round(neg_log_loss(model, [[0], [0]], ["a", "a"]), 3)
    -0.693
    >>> round(neg_log_loss(model, [[0], [0]], ["a", "c"]), 3)
    -18.368
    """
    weight = check_weight(sample_weight, y)
    estimator, X, y = unwrap(estimator, X, y, labels_or_indicator)
    if y.ndim == 2:

        def mean_log(X, Y):
            return _mean_log(class_proba(estimator, X), Y)

        logs = map_rows(mean_log, X, y, y.shape[1])
    else:
        codes = find_labels(y, estimator.classes_)

        def own(X, codes):
            return class_proba(estimator, X)[np.arange(codes.size), codes]

        proba = map_rows(own, X, codes, len(estimator.classes_))
        logs = _log(np.where(codes < 0, 0.0, proba))
    return float(np.average(logs, weights=weight))


def _log(proba):
    return np.log(np.maximum(proba, _FLOOR))


def _mean_log(proba, Y):
    """Mean over labels of log p, or of log (1 - p) where Y (n, K) has none, (n,)."""
    sums = _log(1 - proba).sum(axis=1, dtype=np.float64)
    rows, columns = Y.nonzero()
    own = proba[rows, columns]
    sums += np.bincount(rows, _log(own) - _log(1 - own), minlength=sums.size)
    return sums / Y.shape[1]


def class_ranks(estimator, X, y):
    """Number of classes that come before the true one, in each row.

    The order is by score, highest first, then by place in `classes_`.

    Parameters
    ----------
    estimator : fitted classifier
        A MACHClassifier, for which only bucket scores are held; or any other, with
        `decision_function` or else `predict_proba`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        True labels.

    Returns
    -------
    ranks : ndarray of shape (n_samples,), int64
        0 is the best; n_classes for a label that the estimator has not seen.

    Raises
    ------
    ValueError
        If the estimator does not give one score for each class.

    Examples
    --------
    The share of ranks below k is the top-k accuracy; the mean of ``1 / (1 + rank)``,
    the mean reciprocal rank.

    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn_mach.metrics import class_ranks
    >>> X = [[0], [0], [0], [0]]
    >>> model = DummyClassifier(strategy="prior").fit(X, ["b", "b", "a", "c"])
    >>> class_ranks(model, X, ["b", "a", "c", "d"])
    array([0, 1, 2, 3])
    """
    estimator, X, y = unwrap(estimator, X, y)
    if hasattr(estimator, "class_ranks"):
        return estimator.class_ranks(X, y)
    codes, n_classes = find_labels(y, estimator.classes_), len(estimator.classes_)

    def count(X, codes):
        return _count_before(class_scores(estimator, X), codes)

    ranks = map_rows(count, X, np.maximum(codes, 0), n_classes)
    return np.where(codes < 0, n_classes, ranks)


def calibration_error(estimator, X, y, n_bins=15, sample_weight=None):
    """Expected calibration error of the best class.

    Rows are put into bins of equal width by the probability of their best class.  The
    error is ``sum_m (n_m / n) |acc_m - conf_m|``, where bin m has n_m of the n rows,
    acc_m is the share of these whose best class is the true one, and conf_m is their
    mean probability.  Of several labels a row the best class is the likeliest label,
    which is right if the row has it.

    Parameters
    ----------
    estimator : fitted classifier
        With `predict_proba`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,), or indicator of several labels
        True labels.  Those that the estimator has not seen are misses.
    n_bins : int, default=15
        At least 1.  Bin m, from 1, holds probabilities in ((m - 1) / n_bins,
        m / n_bins].
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows: finite, not negative, and not all zero.

    Returns
    -------
    error : float
        From 0 to 1; lower is better.

    Raises
    ------
    ValueError
        If n_bins is not a positive integer, X and y differ in length, or a weight is
        invalid.
    AttributeError
        If the estimator has no `predict_proba`.

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), "Obtaining Well Calibrated Probabilities Using
    Bayesian Binning", AAAI.  Guo, Pleiss, Sun and Weinberger (2017), "On Calibration of
    Modern Neural Networks", ICML, equation 3.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn_mach.metrics import calibration_error
    >>> X = [[0], [0], [0], [0]]
    >>> model = DummyClassifier(strategy="prior").fit(X, ["a", "a", "a", "b"])
    >>> calibration_error(model, X, ["a", "a", "b", "b"])  # 0.75, but right in 0.5
    0.25
    """
    check_positive("n_bins", n_bins)
    weight = check_weight(sample_weight, y)
    confidence, hit = top_confidence(estimator, X, y)
    weight = np.ones(hit.size) if weight is None else weight
    gaps = np.bincount(confidence_bins(confidence, n_bins), weight * (hit - confidence))
    return float(np.abs(gaps).sum() / weight.sum())


def neg_calibration_error(estimator, X, y, n_bins=15, sample_weight=None):
    """Minus `calibration_error`, for `scoring`.

    Parameters
    ----------
    estimator, X, y, n_bins, sample_weight
        As in :func:`calibration_error`.

    Returns
    -------
    score : float
        From -1 to 0; higher is better.

    Examples
    --------
    With another number of bins it is ``functools.partial(neg_calibration_error,
    n_bins=10)``.

    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.model_selection import KFold, cross_val_score
    >>> from sklearn_mach.metrics import neg_calibration_error
    >>> X, y = [[0]] * 4, ["a", "b", "a", "a"]
    >>> model = DummyClassifier(strategy="prior")
    >>> cross_val_score(model, X, y, scoring=neg_calibration_error, cv=KFold(2))
    array([-0.5, -0.5])
    """
    error = calibration_error(estimator, X, y, n_bins, sample_weight)
    return 0.0 - error  # which is never -0.0


def top_confidence(estimator, X, y):
    """Largest probability of each row, and whether that class is right, both (n,)."""
    estimator, X, y = unwrap(estimator, X, y, labels_or_indicator)
    if y.ndim == 1:
        y = find_labels(y, estimator.classes_)

    def best(X, y):
        proba = class_proba(estimator, X)
        place = proba.argmax(axis=1)
        hit = place == y if y.ndim == 1 else are_labels(y, place[:, None])[:, 0]
        return np.column_stack([proba[np.arange(place.size), place], hit])

    return map_rows(best, X, y, len(estimator.classes_)).T


def confidence_bins(confidence, n_bins):
    """Bin of each probability, from 0: (m / n_bins, (m + 1) / n_bins]."""
    return np.clip(np.ceil(confidence * n_bins) - 1, 0, n_bins - 1).astype(np.int64)


def _count_before(scores, y):
    """Number of the scores (n, K) that come before that of class y[i], (n,)."""
    own = scores[np.arange(y.size), y][:, None]
    ties = scores == own
    ties &= np.arange(scores.shape[1]) >= y[:, None]
    ties |= scores < own
    # Counted from behind, so that a score that is NaN is the last and not the first.
    return scores.shape[1] - np.count_nonzero(ties, axis=1)
