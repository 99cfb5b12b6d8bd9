"""Why a class was predicted: what each feature of a row adds to its score.

The built-in learner scores class k by ``(1/R) sum_r log P_r(h_r(k) | x)``, where P_r is
a softmax of logits ``z_r = x W_r + b_r``.  Its normaliser is the same for all classes,
so that the difference of two scores is linear in the row.
"""

import numpy as np
import scipy.sparse as sp
from sklearn.utils import Bunch, gen_batches

from ._decoding import DECODERS
from ._inputs import find_labels
from ._pipelines import opened_mach, transformed
from ._scoring import check_positive
from ._weights import Linear

__all__ = ["explain"]

_VALUES = 1 << 16  # non-zeros of rows that are explained together
_WEIGHTS = 1 << 22  # weights of their features, looked at together


def explain(estimator, X, labels=None, *, k=10, against=None):
    """Say which features spoke for a class, in each row.

    Feature j of row x adds to the score of class c, less that of class a::

        x_j (1/R) sum_r (W_r[j, h_r(c)] - W_r[j, h_r(a)])

    where W_r are the weights of repetition r.  These contributions, the difference of
    the intercepts and that of the logit adjustments add up to the difference of the
    scores in `decision_function`, but for float32's rounding there.  By default the
    class is compared with the mean of all classes.

    Parameters
    ----------
    estimator : fitted MACHClassifier, Pipeline or search
        With the built-in learner, as it is or compressed.  A pipeline ends in it, and a
        search has it, or such a pipeline, as `best_estimator_`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features), or iterable
        What `predict` of the estimator takes.
    labels : label or array-like of shape (n_samples,), default=None
        The class to explain, one for all rows or one for each.  None is the predicted
        one; of several labels a row the likeliest.
    k : int, default=10
        How many features to list, at least 1.
    against : label or array-like of shape (n_samples,), default=None
        The class to compare with, one for all rows or one for each.  None is the mean
        of all classes.

    Returns
    -------
    explanation : Bunch
        labels : ndarray of shape (n_samples,)
            The classes that are explained.
        features : ndarray of shape (n_samples, k), object
            Names of the features that spoke for the class the most: of the pipeline's
            `get_feature_names_out` or of the columns of X, and else "x0", "x1", ...
            The last are "" in rows with fewer than k features that are not zero.
        contributions : ndarray of shape (n_samples, k), float64
            What they add, largest first; 0 where there is no feature.  Negative values
            speak against the class.
        total : ndarray of shape (n_samples,), float64
            The difference of the scores.
        rest : ndarray of shape (n_samples,), float64
            What the other features of the row add together.
        intercept : ndarray of shape (n_samples,), float64
            What does not depend on the row: intercepts and logit adjustments.
            ``total = contributions.sum(axis=1) + rest + intercept``.

    Raises
    ------
    TypeError
        If there is no MACHClassifier inside.
    ValueError
        If it has a base estimator, or a label is not in `classes_`.

    See Also
    --------
    sklearn_mach.predict_topk : The best classes, of which the second is worth
        comparing with the first.
    sklearn.inspection.permutation_importance : Features that matter over all rows.

    Notes
    -----
    Memory does not depend on the number of classes: only weights of features that are
    not zero are looked at.

    To see what spoke against a class, swap the two: ``explain(estimator, X, other,
    against=label)``.  Or take k as large as a row has features: all are listed then,
    and the last spoke against it.

    The scores are those of ``decoder="log_mean"``.  Another decoder ranks by other
    scores, without a logit adjustment; the contributions still add up to the difference
    of the mean logarithms of the buckets' probabilities.  Where a row may have several
    labels, the buckets' sigmoids have no normaliser that cancels: a label then stands
    for the mean logit of its buckets, and `total` is a difference of these and not of
    log odds.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_mach import MACHClassifier
    >>> from sklearn_mach.inspection import explain
    >>> titles = ["red wine glass", "white wine", "running shoes", "red shoes"]
    >>> shelves = ["kitchen", "cellar", "sport", "fashion"]
    >>> pipeline = make_pipeline(TfidfVectorizer(), MACHClassifier(random_state=0))
    >>> pipeline = pipeline.fit(titles, shelves)
    >>> found = explain(pipeline, ["a glass of white wine"], k=2)
    >>> found.labels, found.features
    (array(['cellar'], dtype='<U7'), array([['white', 'wine']], dtype=object))
    >>> explain(pipeline, ["red shoes"], "fashion", against="sport", k=1).features
    array([['red']], dtype=object)
    """
    classifier, transformers = opened_mach(estimator, "explain")
    check_positive("k", k)
    classifier._check_prediction()
    model, classes = classifier._fitted.model, classifier.classes_
    if not isinstance(model.scorer, Linear):
        raise ValueError(
            "explain needs the weights of the built-in learner, but this model was "
            f"fitted with estimator={classifier.estimator!r}. Fit it with "
            "estimator=None, or look at its estimators_."
        )
    X = classifier._checked(transformed(X, transformers))
    n_samples = X.shape[0]
    if labels is None:
        own = model.topk(X, 1, classifier._how())[0][:, 0]
    else:
        own = _codes("labels", labels, classes, n_samples)
    other = against
    if against is not None:
        other = _codes("against", against, classes, n_samples)
    contrast = _Contrast(model, own, other)

    columns = np.full((n_samples, k), -1)
    contributions, sums = np.zeros((n_samples, k)), np.empty(n_samples)
    longest = np.diff(X.indptr).max() if sp.issparse(X) else X.shape[1]
    for rows in gen_batches(n_samples, max(_VALUES // max(longest, 1), 1)):
        row, column, value = _nonzeros(X[rows])
        added = value * contrast.of_weights(row + rows.start, column)
        n_rows = rows.stop - rows.start
        sums[rows] = np.bincount(row, added, n_rows)
        order = np.lexsort((-added, row))  # rows stay where they are
        place = np.arange(row.size) - np.searchsorted(row, np.arange(n_rows))[row]
        order, row, place = order[place < k], row[place < k], place[place < k]
        columns[rows][row, place] = column[order]
        contributions[rows][row, place] = added[order]

    intercept = contrast.of_intercepts()
    if model.offset is not None and DECODERS[classifier.decoder].is_log:
        offset = model.offset.astype(np.float64)
        intercept += offset[own] - (offset.mean() if other is None else offset[other])
    return Bunch(
        labels=classes[own],
        features=_named(columns, _column_names(classifier, transformers)),
        contributions=contributions,
        total=sums + intercept,
        rest=sums - contributions.sum(axis=1),
        intercept=intercept,
    )


class _Contrast:
    """Means over the repetitions for one class, less those for another or for all.

    own, other (n_samples,): numbers of the classes of the rows; other is None for all
    """

    def __init__(self, model, own, other):
        self.scorer, table, B = model.scorer, model.table, model.n_buckets
        starts = B * np.arange(model.n_repetitions)
        self.own = starts + table[own]  # columns of the weights, (n_samples, R)
        self.other = self.shares = None
        if other is None:
            counts = [np.bincount(column, minlength=B) for column in table.T]
            # shares of the classes in each bucket, over R, (R B,)
            self.shares = np.concatenate(counts) / table.size
        else:
            self.other = starts + table[other]

    def of_weights(self, row, column):
        """For weights of the features `column`, for the classes of `row`: (any,)."""
        features, place = np.unique(column, return_inverse=True)
        order = np.argsort(place, kind="stable")
        place, found = place[order], np.empty(row.size)
        step = max(_WEIGHTS // self.scorer.intercept.size, 1)
        for first in range(0, features.size, step):
            part = slice(*np.searchsorted(place, [first, first + step]))
            weights = self.scorer.rows(features[first : first + step])
            found[order[part]] = self._of(
                weights, place[part] - first, row[order[part]]
            )
        return found

    def of_intercepts(self):
        """For the intercepts, for the classes of all rows: (n_samples,)."""
        intercepts = self.scorer.intercept.reshape(1, -1)
        rows = np.arange(len(self.own))
        return self._of(intercepts, np.zeros_like(rows), rows)

    def _of(self, weights, place, row):
        """For the weights (any, R B) at `place`, for the classes of `row`."""

        def mean(columns):
            found = weights[place[:, None], columns[row]]
            return found.mean(axis=1, dtype=np.float64)

        if self.other is None:
            return mean(self.own) - (weights @ self.shares)[place]
        return mean(self.own) - mean(self.other)


def _codes(name, labels, classes, n_samples):
    """Numbers (n_samples,) of one label, or one for each row."""
    labels = np.asarray(labels)
    if labels.shape not in ((), (n_samples,)):
        raise ValueError(
            f"{name} must be one label, or one for each of the {n_samples} rows; got "
            f"an array of shape {labels.shape}."
        )
    codes = find_labels(labels.reshape(-1), classes)
    if (codes < 0).any():
        unknown = labels.reshape(-1)[codes < 0].tolist()[0]
        raise ValueError(
            f"{name} has {unknown!r}, which is not among the {len(classes)} classes "
            "that the model was fitted with: see classes_."
        )
    return np.broadcast_to(codes, n_samples)


def _nonzeros(X):
    """Rows, columns and values (float64) of what is not zero, row by row."""
    if sp.issparse(X):
        X = X.tocoo()
        row, column, value = X.row, X.col, X.data
        stored = value != 0
        row, column, value = row[stored], column[stored], value[stored]
    else:
        row, column = np.nonzero(X)
        value = X[row, column]
    return row.astype(np.intp), column.astype(np.intp), value.astype(np.float64)


def _column_names(classifier, transformers):
    """Names of the columns that the classifier receives, or None."""
    if hasattr(classifier, "feature_names_in_"):
        return classifier.feature_names_in_
    names = None
    try:
        for step in transformers:
            names = step.get_feature_names_out(names)
    except AttributeError:  # hashing, for one, has no names
        return None
    return names


def _named(columns, names):
    """Names of columns as objects, "" for -1."""
    found, used = np.full(columns.shape, "", dtype=object), columns >= 0
    numbers = columns[used]
    found[used] = [f"x{j}" for j in numbers] if names is None else names[numbers]
    return found
