"""Rankings of several labels a row: precision@k, nDCG@k, recall@k, PSP@k.

Labels are a sparse indicator, and rankings a few column numbers a row: neither is ever
made an array of all rows and labels.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_consistent_length

from ._scoring import (
    are_labels,
    best_columns,
    best_entries,
    check_positive,
    check_weight,
    class_scores,
    indicator,
    map_rows,
    unwrap,
)


def precision_at_k(Y, ranked, k=5, sample_weight=None):
    """Share of the k best-ranked labels that are right: precision@k.

    ``(1/n) sum_i hits_i / k``, where row i has hits_i of its k best-ranked labels.  The
    divisor is k, also for rows with fewer labels.

    Parameters
    ----------
    Y : {array-like, sparse matrix} of shape (n_samples, n_labels)
        True labels: an indicator of 0 and 1.  Zeros that are stored are zeros.
    ranked : {array-like, sparse matrix}
        The ranking.  An array of integers, (n_samples, k or more), holds column numbers
        of Y, best first, and -1 where there is none.  An array of floats, (n_samples,
        n_labels), holds scores.  A sparse matrix of that shape holds scores, of any
        type, of the labels that are ranked: its stored entries.
    k : int, default=5
        At least 1.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows: finite, not negative, and not all zero.

    Returns
    -------
    score : float
        From 0 to 1; higher is better.

    Raises
    ------
    ValueError
        If an array has another shape or other values than these.

    See Also
    --------
    RankingScorer : The same of an estimator, for `scoring`.

    Notes
    -----
    A row without labels counts as 0.  Of equal scores the first column is the better;
    NaN is the worst.

    References
    ----------
    Bhatia et al. (2016), "The Extreme Classification Repository: Multi-label Datasets
    and Code".

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from sklearn_mach.metrics import precision_at_k
    >>> Y = sp.csr_array([[1, 1, 0, 0], [0, 0, 0, 1]])
    >>> precision_at_k(Y, [[0, 2], [1, 3]], k=2)  # column numbers
    0.5
    >>> precision_at_k(Y, [[0.9, 0.1, 0.5, 0.0], [0.0, 0.8, 0.1, 0.3]], k=2)  # scores
    0.5
    """
    Y, columns, weight = _checked(Y, ranked, k, sample_weight)
    return _mean(are_labels(Y, columns).sum(axis=1) / k, weight)


def ndcg_at_k(Y, ranked, k=5, sample_weight=None):
    """Normalised discounted cumulative gain of the k best-ranked labels: nDCG@k.

    A hit at rank r gains ``1 / log2(r + 1)``.  The gain of a row is divided by that of
    its best ranking, which has a hit at each of the first min(k, labels of the row)
    ranks.

    Parameters
    ----------
    Y, ranked, k, sample_weight
        As in :func:`precision_at_k`.

    Returns
    -------
    score : float
        Mean over the rows, from 0 to 1; higher is better.

    See Also
    --------
    sklearn.metrics.ndcg_score : For dense arrays, also of graded relevance.

    Notes
    -----
    A row without labels counts as 0, as in scikit-learn.  Equal scores are ordered as
    in :func:`precision_at_k`, in place of scikit-learn's mean over their orders.

    References
    ----------
    Järvelin and Kekäläinen (2002), "Cumulated Gain-Based Evaluation of IR Techniques",
    ACM Transactions on Information Systems 20(4).

    Examples
    --------
    >>> from sklearn_mach.metrics import ndcg_at_k
    >>> Y = [[1, 1, 0, 0], [0, 0, 0, 1]]
    >>> round(ndcg_at_k(Y, [[0, 1], [1, 3]], k=2), 3)  # 1, and 1 / log2(3)
    0.815
    """
    Y, columns, weight = _checked(Y, ranked, k, sample_weight)
    gains = 1 / np.log2(np.arange(2, columns.shape[1] + 2))
    ideal = np.append(0, gains.cumsum())
    best = ideal[np.minimum(np.diff(Y.indptr), gains.size)]
    return _mean(_ratio(are_labels(Y, columns) @ gains, best), weight)


def recall_at_k(Y, ranked, k=5, sample_weight=None):
    """Share of a row's labels that are among the k best-ranked: recall@k.

    Parameters
    ----------
    Y, ranked, k, sample_weight
        As in :func:`precision_at_k`.

    Returns
    -------
    score : float
        Mean over the rows, from 0 to 1; higher is better.

    Notes
    -----
    A row without labels counts as 0, as in scikit-learn's `recall_score` with
    ``average="samples"``.

    Examples
    --------
    >>> from sklearn_mach.metrics import recall_at_k
    >>> recall_at_k([[1, 1, 0, 0], [0, 0, 0, 1]], [[0, 2], [1, 3]], k=2)
    0.75
    """
    Y, columns, weight = _checked(Y, ranked, k, sample_weight)
    hits = are_labels(Y, columns).sum(axis=1)
    return _mean(_ratio(hits, np.diff(Y.indptr)), weight)


def propensity_scored_precision_at_k(Y, ranked, weights, k=5, sample_weight=None):
    """Precision@k in which rare labels weigh more, over the best attainable: PSP@k.

    Each hit gains the weight of its label.  The sum of the gains over all rows is
    divided by that of the best ranking, which has the weightiest labels of each row
    first, as the Extreme Classification Repository reports it.

    Parameters
    ----------
    Y, ranked
        As in :func:`precision_at_k`.
    weights : array-like of shape (n_labels,)
        Positive weights of the labels: `inverse_propensities` of the training.
    k, sample_weight
        As in :func:`precision_at_k`.

    Returns
    -------
    score : float
        From 0 to 1; higher is better.  0 if no row has a label.

    References
    ----------
    Jain, Prabhu and Varma (2016), "Extreme Multi-label Loss Functions for
    Recommendation, Tagging, Ranking & Other Missing Label Applications", KDD.

    Examples
    --------
    >>> from sklearn_mach.metrics import propensity_scored_precision_at_k
    >>> Y = [[1, 1, 0, 0], [0, 0, 0, 1]]
    >>> weights = [1, 2, 4, 3]
    >>> propensity_scored_precision_at_k(Y, [[0], [3]], weights, k=1)  # 4 of 5
    0.8
    """
    Y, columns, weight = _checked(Y, ranked, k, sample_weight)
    weights = checked_weights(weights, Y.shape[1])
    own = sp.csr_array((weights[Y.indices], Y.indices, Y.indptr), shape=Y.shape)
    best = best_entries(own, columns.shape[1])
    gained = (are_labels(Y, columns) * weights[columns]).sum(axis=1)
    attainable = np.where(best < 0, 0, weights[best]).sum(axis=1)
    return float(_ratio(_mean(gained, weight), _mean(attainable, weight)))


def inverse_propensities(Y, a=0.55, b=1.5, *, n_samples=None):
    """Weights of labels for PSP@k: how much more a rare one counts.

    ``1 + C (N_l + b)^-a`` with ``C = (log N - 1) (b + 1)^a``, where N_l of N rows have
    label l: one over the share of its rows at which people are expected to have noted
    the label.

    Parameters
    ----------
    Y : {array-like, sparse matrix} of shape (n_samples, n_labels)
        Labels of the TRAINING rows, as in :func:`precision_at_k`.  With `n_samples` it
        is instead the number of these rows that each label has, (n_labels,).
    a, b : float, default=0.55, 1.5
        Positive.  The repository has 0.5 and 0.4 for its sets of Wikipedia pages with
        hundreds of thousands of labels, and 0.6 and 2.6 for those of Amazon products.
    n_samples : int, default=None
        The number of training rows, if Y has the numbers for the labels.

    Returns
    -------
    weights : ndarray of shape (n_labels,), float64
        At least 1.

    Raises
    ------
    ValueError
        If there are fewer than three rows, or an argument is not as above.

    References
    ----------
    Jain, Prabhu and Varma (2016), as in :func:`propensity_scored_precision_at_k`.

    Examples
    --------
    >>> from sklearn_mach.metrics import inverse_propensities
    >>> inverse_propensities([[1, 0], [1, 0], [1, 1]]).round(3)
    array([1.071, 1.099])
    >>> inverse_propensities([3, 1], n_samples=3).round(3)
    array([1.071, 1.099])
    """
    for name, value in {"a": a, "b": b}.items():
        if not isinstance(value, Real) or not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive number; got {value!r}.")
    if n_samples is None:
        Y = indicator(Y)
        n_samples = Y.shape[0]
        counts = np.bincount(Y.indices, minlength=Y.shape[1])
    else:
        check_positive("n_samples", n_samples)
        counts = np.asarray(Y)
        if counts.ndim != 1 or counts.dtype.kind not in "iuf":
            raise ValueError(
                "With n_samples, Y must hold the number of rows of each label, "
                f"(n_labels,); got shape {counts.shape} and dtype {counts.dtype}."
            )
        if not np.all((counts >= 0) & (counts <= n_samples)):
            raise ValueError(
                f"The numbers of rows of the labels must be from 0 to {n_samples}, "
                f"n_samples; they are from {counts.min()} to {counts.max()}."
            )
    if n_samples < 3:  # of which the logarithm is below one
        raise ValueError(
            f"Propensities need at least 3 training rows; got {n_samples}."
        )
    return 1 + (np.log(n_samples) - 1) * ((b + 1) / (counts + b)) ** a


_MEANS = {"precision": precision_at_k, "ndcg": ndcg_at_k, "recall": recall_at_k}


@dataclass(frozen=True)
class RankingScorer:
    """Precision@k, nDCG@k, recall@k or PSP@k of an estimator, for `scoring`.

    Parameters
    ----------
    metric : {"precision", "ndcg", "recall", "psp"}, default="precision"
        :func:`precision_at_k`, :func:`ndcg_at_k`, :func:`recall_at_k` or
        :func:`propensity_scored_precision_at_k`.
    k : int, default=5
        At least 1.
    weights : array-like of shape (n_labels,), default=None
        For "psp", which needs them: `inverse_propensities` of the training.

    Raises
    ------
    ValueError
        If an argument is not as above.

    See Also
    --------
    TopKScorer : For one label a row.

    Examples
    --------
    `cross_validate` refuses a sparse y, which `GridSearchCV` takes.

    >>> import scipy.sparse as sp
    >>> from sklearn.datasets import make_multilabel_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.multiclass import OneVsRestClassifier
    >>> from sklearn_mach.metrics import RankingScorer
    >>> X, Y = make_multilabel_classification(n_classes=10, random_state=0)
    >>> model = OneVsRestClassifier(LogisticRegression())
    >>> grid = {"estimator__C": [1e-6, 0.01]}
    >>> search = GridSearchCV(model, grid, scoring=RankingScorer("precision", k=3))
    >>> search.fit(X, sp.csr_array(Y)).best_params_
    {'estimator__C': 0.01}
    """

    metric: str = "precision"
    k: int = 5
    weights: object = None

    def __post_init__(self):
        if self.metric not in (*_MEANS, "psp"):
            raise ValueError(
                f"metric must be 'precision', 'ndcg', 'recall' or 'psp'; got "
                f"{self.metric!r}."
            )
        check_positive("k", self.k)
        if (self.metric == "psp") != (self.weights is not None):
            raise ValueError(
                "The metric 'psp' needs weights, and the others have none; got "
                f"{self.metric!r} and weights={self.weights!r}. Make them with "
                "inverse_propensities(Y_train)."
            )
        if self.weights is not None:
            checked_weights(self.weights)

    def __eq__(self, other):
        if not isinstance(other, RankingScorer):
            return NotImplemented
        same = (self.metric, self.k) == (other.metric, other.k)
        return same and np.array_equal(self.weights, other.weights)

    def __hash__(self):
        return hash((self.metric, self.k))

    def __call__(self, estimator, X, y, sample_weight=None):
        """The metric, of the k labels that the estimator ranks best in each row.

        Parameters
        ----------
        estimator : fitted classifier
            With `predict_topk`, `decision_function` or `predict_proba`; the first of
            them that it has is used.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : {array-like, sparse matrix} of shape (n_samples, n_labels)
            True labels, as in :func:`precision_at_k`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows: finite, not negative, and not all zero.

        Returns
        -------
        score : float
        """
        check_weight(sample_weight, y)
        estimator, X, Y = unwrap(estimator, X, y, indicator)
        k = min(self.k, Y.shape[1])
        if hasattr(estimator, "predict_topk"):
            if not np.array_equal(estimator.classes_, np.arange(Y.shape[1])):
                raise ValueError(
                    f"{type(estimator).__name__} has learned one label a row, and "
                    "others than the column numbers of y. Fit it on an indicator, or "
                    "use TopKScorer."
                )

            def best(X, Y):
                return estimator.predict_topk(X, k=k)

            columns = map_rows(best, X, Y, k)
        else:

            def best(X, Y):
                return best_columns(class_scores(estimator, X), k)

            columns = map_rows(best, X, Y, Y.shape[1])
        return self._of_ranked(Y, columns, sample_weight)

    def _of_ranked(self, Y, columns, sample_weight):
        """The metric, of the best columns (n, k) of an indicator."""
        if self.metric == "psp":
            return propensity_scored_precision_at_k(
                Y, columns, self.weights, self.k, sample_weight
            )
        return _MEANS[self.metric](Y, columns, self.k, sample_weight)


def _checked(Y, ranked, k, sample_weight):
    """The indicator, the columns (n, min(k, K)) best first, the weights of rows."""
    check_positive("k", k)
    weight = check_weight(sample_weight, Y)
    Y = indicator(Y)
    k = min(k, Y.shape[1])
    if not sp.issparse(ranked):
        ranked = np.asarray(ranked)
    if ranked.ndim != 2:
        raise ValueError(
            "ranked must hold a row for each of Y: column numbers, or scores; got "
            f"shape {ranked.shape}."
        )
    check_consistent_length(Y, ranked)
    if not sp.issparse(ranked) and ranked.dtype.kind in "iu":
        return Y, _checked_columns(ranked, k, Y.shape[1]), weight
    if ranked.dtype.kind not in ("biuf" if sp.issparse(ranked) else "f"):
        raise ValueError(
            "ranked must be integers, which are column numbers, or floats, which are "
            f"scores; got dtype {ranked.dtype}."
        )
    if ranked.shape != Y.shape:
        raise ValueError(
            f"Scores must have the shape of Y, {Y.shape}; got {ranked.shape}. Column "
            "numbers must be an array of integers."
        )
    if sp.issparse(ranked):
        return Y, best_entries(ranked, k), weight
    columns = map_rows(lambda scores, _: best_columns(scores, k), ranked, Y, Y.shape[1])
    return Y, columns, weight


def _checked_columns(ranked, k, n_labels):
    if ranked.shape[1] < k:
        raise ValueError(
            f"k = {k} needs as many columns of ranked; got shape {ranked.shape}. Fill "
            "short rows with -1."
        )
    wrong = ranked[(ranked < -1) | (ranked >= n_labels)]
    if wrong.size:
        raise ValueError(
            f"ranked holds {wrong[0]}, which is no column of the {n_labels} of Y: they "
            "are from 0, and -1 says that there is none."
        )
    ranked = ranked.astype(np.int64)
    ordered = np.sort(ranked, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, place = np.argwhere(twice)[0]
        raise ValueError(
            f"Row {row} of ranked holds the column number {ordered[row, place]} twice. "
            "Integers are column numbers, best first; scores are floats."
        )
    return ranked[:, :k]


def checked_weights(weights, n_labels=None):
    """Weights of labels as float64 (n_labels,); refuses bad ones."""
    weights = np.asarray(weights)
    if weights.ndim != 1 or weights.dtype.kind not in "iuf":
        raise ValueError(
            "weights must be numbers, (n_labels,); got shape "
            f"{weights.shape} and dtype {weights.dtype}."
        )
    if not np.all((weights > 0) & (weights < np.inf)):
        raise ValueError("weights of labels must be positive and finite.")
    if n_labels is not None and weights.size != n_labels:
        raise ValueError(f"There are {weights.size} weights for {n_labels} labels.")
    return weights.astype(np.float64)


def _ratio(part, whole):
    """part / whole, and 0 where the whole is."""
    part = np.asarray(part, dtype=np.float64)
    return np.divide(part, whole, out=np.zeros_like(part), where=np.asarray(whole) > 0)


def _mean(values, weight):
    return float(np.average(values, weights=weight))
