"""What scorers share: the classifier inside, chunks of rows, labels, best columns."""

from numbers import Integral

import numpy as np
import scipy.sparse as sp
from sklearn import get_config
from sklearn.utils import column_or_1d, gen_batches, indexable
from sklearn.utils.validation import check_is_fitted

from ._compat import _check_sample_weight
from ._pipelines import opened, transformed
from ._targets import Targets

_CLASS_BYTES = 32  # a float64 score, and the copies that softmax and comparisons make
# Bytes of a chunk, if `working_memory` is more: the log loss of 105,033 classes took
# 2.3 ms a row in chunks of 1 GiB, where fresh memory costs the most, and 0.9 ms here.
_CHUNK_BYTES = 1 << 26


def labels(y):
    """The labels (n,), one for each row; refuses several."""
    if _is_indicator(y):
        raise ValueError(
            f"y has the shape {np.shape(y)}, but a 1d array is needed: one label for "
            "each row. For several labels a row, an indicator matrix, use "
            "RankingScorer, precision_at_k, ndcg_at_k, recall_at_k or "
            "propensity_scored_precision_at_k of sklearn_mach.metrics."
        )
    return column_or_1d(y)


def indicator(Y):
    """An indicator matrix as CSR array of bool: sorted, distinct, without zeros."""
    Y = Y if sp.issparse(Y) else np.asarray(Y)
    if Y.ndim != 2 or 0 in Y.shape:
        raise ValueError(
            "An indicator matrix with at least one row and one column is needed, which "
            f"says which labels each row has; got an array of shape {Y.shape}. For one "
            "label a row use TopKScorer of sklearn_mach.metrics."
        )
    if Y.dtype.kind not in "biuf":
        raise ValueError(
            f"An indicator matrix holds numbers, 0 and 1; got dtype {Y.dtype}. Make "
            "one with sklearn.preprocessing.MultiLabelBinarizer."
        )
    if sp.issparse(Y):
        coo = Y.tocoo()
        values, pairs = coo.data, (coo.row, coo.col)
    else:
        pairs = np.nonzero(Y)
        values = Y[pairs]
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise ValueError(
            "Several labels a row are an indicator matrix of 0 and 1, with a column "
            f"for each label; got the value {wrong[0]}. One label a row is a 1d array."
        )
    rows, columns = (numbers[values == 1] for numbers in pairs)
    # A pair that is stored twice is still one: True and True are True.
    return sp.csr_array((np.ones(rows.size, bool), (rows, columns)), shape=Y.shape)


def labels_or_indicator(y):
    """The labels (n,) of rows with one label each, or the indicator of several."""
    return indicator(y) if _is_indicator(y) else column_or_1d(y)


def _is_indicator(y):
    # A dense matrix of one column is a column of labels, as in scikit-learn.
    if sp.issparse(y):
        return True
    shape = y.shape if hasattr(y, "shape") else np.shape(y)
    return len(shape) == 2 and shape[1] != 1


def check_weight(sample_weight, y):
    """The weights of the rows of y as float64 (n,), or None; refuses bad ones."""
    if sample_weight is None:
        return None
    try:
        weight = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"sample_weight must hold a number for each row: {error}"
        raise ValueError(message) from error
    weight = weight[()]  # a number in place of an array without axes
    weight = _check_sample_weight(weight, y, dtype=np.float64, ensure_non_negative=True)
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not 0 < total < np.inf:  # before 1.9 scikit-learn takes zeros, too
        raise ValueError(
            f"The weights of the rows add up to {total}. They must not all be zero, "
            "and their sum must be finite."
        )
    return weight


def check_positive(name, value):
    # True is an Integral, but not a number of classes.
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}.")


def unwrap(estimator, X, y, check_y=labels):
    """The classifier inside pipelines and searches, the X it receives, check_y(y)."""
    estimator, transformers = opened(estimator)
    check_is_fitted(estimator, "classes_")
    X, y = transformed(X, transformers), check_y(y)
    if y.ndim == 2 and y.shape[1] != len(estimator.classes_):
        raise ValueError(
            f"The indicator matrix has {y.shape[1]} columns, but "
            f"{type(estimator).__name__} has learned {len(estimator.classes_)} labels. "
            "Use the columns of the training."
        )
    return estimator, *indexable(X, y)


def map_rows(function, X, y, n_scores):
    """Concatenate function(X[rows], y[rows]) over chunks with n_scores scores a row."""
    n_bytes = min(get_config()["working_memory"] * 2**20, _CHUNK_BYTES)
    n_rows = max(int(n_bytes // (_CLASS_BYTES * n_scores)), 1)
    # One chunk of no rows, so that the estimator itself says that there are none.
    chunks = gen_batches(max(y.shape[0], 1), n_rows)
    X = X.iloc if hasattr(X, "iloc") else X  # by position, whatever the index
    return np.concatenate([function(X[rows], y[rows]) for rows in chunks])


def class_scores(estimator, X):
    """Scores by which the classes are ordered, (n, K)."""
    if not hasattr(estimator, "decision_function"):
        return class_proba(estimator, X)
    scores = estimator.decision_function(X)
    if scores.ndim == 1 and len(estimator.classes_) == 2:
        return np.column_stack([-scores, scores])
    return _checked_scores(estimator, scores)


def class_proba(estimator, X):
    """Probabilities of the classes, or of each of several labels, (n, K)."""
    proba = estimator.predict_proba(X)
    if isinstance(proba, list):  # trees and neighbours: an array for each label
        proba = [
            _second_column(estimator, *pair)
            for pair in zip(proba, estimator.classes_, strict=True)
        ]
        proba = np.column_stack(proba)
    return _checked_scores(estimator, proba)


def _second_column(estimator, proba, classes):
    """Probability that a label is there, (n,), of its probabilities (n, 1 or 2)."""
    if classes.dtype.kind not in "biuf":
        raise ValueError(
            f"{type(estimator).__name__} has learned, in place of 0 and 1, classes of "
            f"dtype {classes.dtype}. Neighbours do so from a sparse indicator: fit "
            "them on a dense one, Y.toarray()."
        )
    # A label that all rows of the training have, or none, is one class and not two.
    return proba[:, classes == 1].sum(axis=1)


def _checked_scores(estimator, scores):
    n_classes = len(estimator.classes_)
    if scores.ndim != 2 or scores.shape[1] != n_classes:
        raise ValueError(
            f"{type(estimator).__name__} has {n_classes} classes but gives scores of "
            f"shape {scores.shape}. One score for each class is needed (for SVC, "
            "decision_function_shape='ovr')."
        )
    return scores


def are_labels(Y, columns):
    """Whether the columns (n, k) are labels of their rows; Y canonical CSR, (n, K)."""
    rows = np.arange(Y.shape[0])[:, None]
    return Targets.of_indicator(Y).have(rows, columns) & (columns >= 0)


def best_columns(scores, k):
    """Columns of the k highest scores of each row, best first, (n, k)."""
    cost = np.where(np.isnan(scores), np.inf, -scores)
    last = np.partition(cost, k - 1, axis=1)[:, k - 1 : k]
    chosen, ties = cost < last, cost == last
    room = k - chosen.sum(axis=1, keepdims=True)
    chosen |= ties & (ties.cumsum(axis=1, dtype=np.int32) <= room)
    columns = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.take_along_axis(cost, columns, axis=1).argsort(axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def best_entries(scores, k):
    """Columns of the k highest stored scores of each row, (n, k); -1 if fewer."""
    scores = sp.csr_array(scores)
    if not scores.has_canonical_format:
        scores = scores.copy()
        scores.sum_duplicates()
    rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    values = scores.data.astype(np.float64)
    cost = np.where(np.isnan(values), np.inf, -values)
    order = np.lexsort((scores.indices, cost, rows))  # rows stay where they are
    place = np.arange(order.size) - scores.indptr[rows]
    best = np.full((scores.shape[0], k), -1, dtype=np.int64)
    kept = place < k
    best[rows[kept], place[kept]] = scores.indices[order[kept]]
    return best
