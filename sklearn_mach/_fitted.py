"""What a fitted classifier does: predict, be calibrated, and be looked into."""

from numbers import Integral
from operator import attrgetter

import numpy as np
import scipy.sparse as sp
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from ._compat import _check_sample_weight, unchanged_on_error
from ._decoding import DECODERS
from ._inputs import check_rows, find_labels, is_indicator, targets_as
from ._learners import learner_of
from ._model import How


def _part(path, doc):
    """A property: a part of `_fitted`; before the fit an error, as `hasattr` wants."""

    def get(self):
        check_is_fitted(self, "_fitted")
        return attrgetter(path)(self._fitted)

    return property(get, doc=doc)


def _of_scorer(name, doc):
    """A property: what only the scorer of one kind of learner has."""

    def get(self):
        check_is_fitted(self, "_fitted")
        scorer = self._fitted.model.scorer
        if not hasattr(scorer, name):
            raise AttributeError(scorer.lacks.format(f"{name}_"))
        return getattr(scorer, name)

    return property(get, doc=doc)


class Fitted:
    """Predictions and attributes of a classifier that has `_fitted`, a `Fit`."""

    def predict(self, X):
        """Predict the best class of each row, or its labels if there are several.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,), with the dtype of `classes_`
            Of several labels an indicator of shape (n_samples, n_classes) of those with
            a probability of at least 0.5: CSR if `fit` had a sparse y, and otherwise an
            ndarray, with the dtype of that y (integers for objects).
        """
        if not self._checked_several():
            return self.predict_topk(X, k=1)[:, 0]
        X = self._checked(X)
        _, *places = self._fitted.model.likely(X, self._how())
        return self._indicator(*places, X.shape[0])

    def predict_topk(self, X, k=5, *, return_scores=False, return_proba=False):
        """Predict the k best classes of each row without scoring them all at once.

        Memory is that of the lists and a bound, whatever `k` and the number of classes:
        see :ref:`memory`. For a pipeline or a search call
        :func:`sklearn_mach.predict_topk`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        k : int, default=5
            From 1 to the number of classes.
        return_scores : bool, default=False
            Whether to return the scores too.
        return_proba : bool, default=False
            Whether to return the probabilities too.  With one label a row they are
            divided by a sum over all classes, which takes about as long as
            `predict_proba` but needs no array of all classes.

        Returns
        -------
        labels : ndarray of shape (n_samples, k)
            Best first; of classes with equal scores the first in `classes_`. Of several
            labels the numbers of their columns in y.
        scores : ndarray of shape (n_samples, k), float32
            Scores as in `decision_function`, if `return_scores`.
        proba : ndarray of shape (n_samples, k), float64
            Probabilities as in `predict_proba`, if `return_proba`.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_mach import MACHClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = MACHClassifier(random_state=0).fit(X, y)
        >>> labels, proba = model.predict_topk(X[:1], k=2, return_proba=True)
        >>> labels
        array([[0, 1]])
        >>> bool((proba == model.predict_proba(X[:1])[:, :2]).all())
        True
        """
        X = self._checked(X, k)
        how = self._how()
        classes, scores, *proba = self._fitted.model.topk(X, k, how, return_proba)
        found = [self.classes_[classes]]
        if return_scores:
            found.append(scores)
        found += proba
        return tuple(found) if len(found) > 1 else found[0]

    def staged_predict(self, X):
        """Predict the best class of each row by the first r repetitions, r = 1..R.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Yields
        ------
        y : ndarray of shape (n_samples,), with the dtype of `classes_`
            As in `staged_predict_topk`. Of several labels an indicator as in `predict`.
        """
        if not self._checked_several():
            return (labels[:, 0] for labels in self.staged_predict_topk(X, k=1))
        X = self._checked(X)
        model = self._fitted.model
        stages, rows, classes = model.likely(X, self._how(), by_stage=True)
        own = (stages == r for r in range(model.n_repetitions))
        return (self._indicator(rows[r], classes[r], X.shape[0]) for r in own)

    def staged_predict_topk(self, X, k=5, return_scores=False):
        """Predict the k best classes by the first r repetitions, for r = 1, 2, ..., R.

        What a model of r repetitions would predict, for every r, at the cost of a few
        times `predict_topk`: the scores of r repetitions are those of r - 1 and one
        more. Only medians are found anew for each r. All stages are made before the
        first is given: they are held as 4 bytes (8 with `return_scores`) for each row,
        stage and place among the best k.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        k : int, default=5
            From 1 to the number of classes.
        return_scores : bool, default=False
            Whether to give the scores too.

        Yields
        ------
        labels : ndarray of shape (n_samples, k)
            Best first; of classes with equal scores the first in `classes_`. The last
            are those of `predict_topk`. Before that, classes whose scores differ by a
            rounding error in float32 may have changed places in a model of r
            repetitions.
        scores : ndarray of shape (n_samples, k), float32
            Scores as in `decision_function`, if `return_scores`.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_mach import MACHClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> model = MACHClassifier(n_repetitions=4, n_buckets=4, random_state=0)
        >>> model.fit(X / 16, y)
        MACHClassifier(n_buckets=4, n_repetitions=4, random_state=0)
        >>> [labels.shape for labels in model.staged_predict_topk(X[:3] / 16, k=2)]
        [(3, 2), (3, 2), (3, 2), (3, 2)]
        """
        X = self._checked(X, k)
        stages = self._fitted.model.stages(X, k, self._how(), return_scores)
        if return_scores:
            return ((self.classes_[best], scores) for best, scores in stages)
        return (self.classes_[best] for best, _ in stages)

    def staged_score(self, X, y, sample_weight=None):
        """Give the accuracy of the first r repetitions, for r = 1, 2, ..., R.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True labels; or an indicator, as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Yields
        ------
        score : float
            Accuracy of `staged_predict`: of several labels the share of the rows with
            all of them right, as in `score`.
        """
        check_consistent_length(X, y, sample_weight)
        return (
            accuracy_score(y, labels, sample_weight=sample_weight)
            for labels in self.staged_predict(X)
        )

    def class_ranks(self, X, y):
        """Count the classes that come before the true one, in each row.

        The order is by score, highest first, then by place in `classes_`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True labels, one a row.

        Returns
        -------
        ranks : ndarray of shape (n_samples,), int64
            0 is the best; n_classes for a label that is not in `classes_`.
        """
        X = self._checked(X)
        if self._fitted.model.several or is_indicator(y):
            raise ValueError(
                "class_ranks is for one label a row. For several use predict_topk and "
                "the scores of sklearn_mach.metrics, such as precision_at_k."
            )
        check_consistent_length(X, y)
        codes = find_labels(column_or_1d(y), self.classes_)
        ranks = self._fitted.model.ranks(X, np.maximum(codes, 0), self._how())
        return np.where(codes < 0, self.classes_.size, ranks)

    def decision_function(self, X):
        """Score every class: the merged bucket scores, of several labels log odds.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples, n_classes), float32
            Of shape (n_samples,) if there are two classes: the second score less the
            first.  Of several labels the log odds of `predict_proba`, of that shape
            for two, too: `predict` gives those of at least zero.

        Raises
        ------
        MemoryError
            If the scores would not fit in the free memory; use `predict_topk`.
        """
        X = self._checked(X)
        scores = self._fitted.model.scores(X, self._how())
        if self.classes_.size == 2 and not self._fitted.model.several:
            return scores[:, 1] - scores[:, 0]
        return scores

    def predict_proba(self, X):
        """Estimate the probability of every class.

        With "log_mean" the probabilities follow from the scores by three scalars (of
        several labels four) that `fit` or `calibrate` finds on rows not trained on;
        with the other decoders, or without such rows, they are less reliable.  See
        Notes of the class.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float64
            Rows sum to one; not those of several labels, each of which has a
            probability of its own.

        Raises
        ------
        MemoryError
            If the probabilities would not fit in the free memory; use `predict_topk`
            with `return_proba`.
        """
        X = self._checked(X)
        return self._fitted.model.scores(X, self._how(), proba=True)

    def predict_log_proba(self, X):
        """Logarithm of `predict_proba`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes), float64
            Minus infinity for a probability of zero.
        """
        proba = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return np.log(proba, out=proba)

    def calibrate(self, X, y, sample_weight=None):
        """Fit the logit adjustment and the probabilities to rows not trained on.

        `fit` of the built-in learner does this by itself with rows that it sets aside,
        if there are at least 10,000 rows.  `partial_fit` never does: it keeps what the
        last `fit` or `calibrate` found.  Call `calibrate` after the last block, or with
        rows that are more like those to come, or after the fit of base classifiers.
        The weights of the model stay as they are.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows that the model was not trained on, some hundreds at least.
        y : array-like of shape (n_samples,)
            Their labels, all of them in `classes_`; or an indicator, as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows: finite, not negative and not all zero.  `class_weight`
            is not applied.

        Returns
        -------
        self : MACHClassifier
            With another `logit_adjustment_`, if the parameter is "auto", and other
            probabilities of "log_mean".

        Examples
        --------
        >>> from sklearn_mach import MACHClassifier
        >>> from sklearn_mach.datasets import make_many_classes
        >>> X, y = make_many_classes(3000, 500, 100, random_state=0)
        >>> model = MACHClassifier(n_buckets=16, random_state=0)
        >>> for start in range(0, 2000, 500):
        ...     rows = slice(start, start + 500)
        ...     _ = model.partial_fit(X[rows], y[rows], classes=range(100))
        >>> model.calibrate(X[2000:], y[2000:]).predict_proba(X[:1]).shape
        (1, 100)
        """
        self._check_prediction()
        self._validate_params()
        self._check_version("calibrate")
        with unchanged_on_error(self):
            in_float32 = learner_of(self).in_float32
            X, y = check_rows(self, X, y, in_float32=in_float32)
            targets = targets_as(y, self.classes_, self._fitted.model.several)
            weight = np.ones(targets.n_rows)
            if sample_weight is not None:
                weight = _check_sample_weight(
                    sample_weight, X, dtype=np.float64, ensure_non_negative=True
                )
            if not weight.any():
                raise ValueError(
                    "sample_weight is zero for all rows. At least one row must have a "
                    "positive weight."
                )
            order = np.random.default_rng(0).permutation(np.flatnonzero(weight))
            rows = X, targets, order, weight[order], self._fitted.class_weights
            model = self._fitted.model.calibrated(
                *rows, self.logit_adjustment, self._how()
            )
            self._fitted = self._fitted._replace(model=model)
        return self

    def _how(self):
        return How(self.decoder, self.device_, self.n_jobs)

    def _checked(self, X, k=1):
        """Rows for a prediction of k classes."""
        self._check_prediction(k)
        return check_rows(self, X, in_float32=learner_of(self).in_float32)

    def _check_prediction(self, k=1):
        """Refuse what cannot predict k classes: no fit, or bad parameters set since.

        Looking at two of these takes a microsecond, and scikit-learn's check of all
        0.1 ms, longer than the prediction of a row.
        """
        check_is_fitted(self)
        is_decoder = isinstance(self.decoder, str) and self.decoder in DECODERS
        if not is_decoder or not isinstance(self.n_jobs, Integral | None):
            self._validate_params()
        if self.n_jobs == 0:
            raise ValueError(
                "n_jobs=0 is no number of threads. Use None, a positive integer, or -1 "
                "for all processors."
            )
        n_classes = self.classes_.size
        if not isinstance(k, Integral) or not 1 <= k <= n_classes:
            raise ValueError(
                f"k must be an integer from 1 to the number of classes, {n_classes}; "
                f"got {k!r}."
            )

    def _checked_several(self):
        """Whether rows have several labels."""
        check_is_fitted(self)
        return self._fitted.model.several

    def _indicator(self, rows, classes, n_rows):
        """The indicator with ones at these places, in the format of y in `fit`."""
        kind, dtype = self._label_format
        shape = n_rows, self.classes_.size
        if kind == "ndarray":
            y = np.zeros(shape, dtype)
            y[rows, classes] = 1
            return y
        return getattr(sp, kind)((np.ones(rows.size, dtype), (rows, classes)), shape)

    def _check_version(self, cause):
        """Refuse to go on with a model that has no sums over its training rows."""
        if self._fitted.class_weights is None:
            raise ValueError(
                "This model was pickled by an older version of sklearn_mach, without "
                f"the sums over the training rows that {cause} needs. Call fit to "
                "train it anew."
            )

    # Looking inside -----------------------------------------------------------------

    multilabel_ = _part("model.several", "Whether rows may have several labels.")
    n_repetitions_ = _part("model.n_repetitions", "The number R of repetitions.")
    n_buckets_ = _part("model.n_buckets", "The number B of buckets of a repetition.")
    bucket_table_ = _part(
        "model.table",
        "The bucket of each class in each repetition, (n_classes, n_repetitions).",
    )
    logit_adjustment_ = _part("model.tau", "The logit adjustment in use.")
    n_iter_ = _part(
        "n_iter", "Epochs done by the repetition that was trained for longest."
    )
    t_ = _part("memory.t", "Rows passed by the built-in learner.")
    model_bytes_ = _part(
        "model.n_bytes",
        "Bytes of the weights, or of the pickled base classifiers, and the table.",
    )
    coef_ = _of_scorer(
        "coef",
        "Weights of the built-in learner, (n_repetitions, n_buckets, n_features).",
    )
    intercept_ = _of_scorer(
        "intercept",
        "Intercepts of the built-in learner, (n_repetitions, n_buckets).",
    )
    estimators_ = _of_scorer("estimators", "The fitted base classifiers.")
