"""MACHClassifierCV: R and B by a held-out score, with one fit for each B.

The first r repetitions of a model are a model of r repetitions, so that the scores of
its stages are those of all smaller R.
"""

from functools import wraps
from numbers import Integral, Real
from time import perf_counter

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from . import theory
from ._classifier import MACHClassifier
from ._compat import HasMethods, Interval, StrOptions, _fit_context
from ._inputs import check_rows, targets_of
from ._learners import learner_of
from ._memory import format_bytes
from ._planning import free_columns, least_repetitions
from ._ranking import checked_weights
from ._rows import rows_of
from .metrics import RankingScorer, TopKScorer, check_weight

_SEEDS = np.iinfo(np.int32).max


def _is_refitted(self):
    if self.refit:
        return True
    raise AttributeError(
        "Only a model that is fitted to all rows predicts. Set refit=True, or fit "
        "MACHClassifier with best_params_."
    )


def _of_best_estimator(name):
    """A method of MACHClassifier, with its docstring, called on `best_estimator_`."""

    @wraps(getattr(MACHClassifier, name))
    def method(self, *args, **kwargs):
        check_is_fitted(self)
        return getattr(self.best_estimator_, name)(*args, **kwargs)

    return available_if(_is_refitted)(method)


class MACHClassifierCV(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """MACHClassifier whose R and B are chosen by a held-out score.

    For each number of buckets B one model is fitted to the training rows of each split,
    with the largest number of repetitions R.  Its stages score all smaller R.  The best
    pair within the budget of bytes is then fitted to all rows.

    Parameters
    ----------
    classifier : MACHClassifier, default=None
        What is fitted, with R and B replaced.  None is the default one.

    n_buckets : int or array-like of int, default=(16, 64, 256)
        The numbers B to try, each at least 2.  Of those that are not less than the
        number of classes only the smallest is tried.

    n_repetitions : int or "auto", default="auto"
        The largest R.  "auto" is what MACHClassifier takes with "auto", for each B,
        also where the free memory is small.

    max_bytes : int or float, default=None
        Bytes that a model may take: `model_bytes_`, which for base classifiers is
        measured in the splits.  None is no limit.

    cv : float, int, cross-validation splitter or list of splits, default=0.1
        A number below 1 is the share of the rows to hold out once, rounded up, and at
        least half a row; an integer is the number of shuffled folds.  Neither is
        stratified by class, nor holds out rows of weight zero.

    scoring : "accuracy", TopKScorer or RankingScorer, default="accuracy"
        What is best.  One label a row has the accuracy, or the top-k accuracy,
        :class:`~sklearn_mach.metrics.TopKScorer`.  Of several labels a row "accuracy"
        is how often the best label is one of the row's, precision at 1;
        :class:`~sklearn_mach.metrics.RankingScorer` has more ranks and other metrics.

    refit : bool, default=True
        Whether to fit the best R and B to all rows.

    random_state : int, RandomState instance or None, default=None
        Seeds the splits, and the classifier if its own `random_state` is None.  All
        models use the same seed.

    Attributes
    ----------
    best_estimator_ : MACHClassifier
        Fitted to all rows, if `refit`.
    best_params_ : dict
        The chosen `n_repetitions` and `n_buckets`.
    best_score_ : float
        Their mean held-out score.
    cv_results_ : dict of ndarray of shape (n_candidates,)
        One entry for each B and each R that tells all classes apart: `n_buckets`,
        `n_repetitions`, `n_bytes`, `mean_test_score`, `std_test_score` (over the
        splits), and `fit_time`, the mean seconds in which the largest R of this B was
        fitted.
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted; of several a row the column numbers of y.
    multilabel_ : bool
        Whether rows have several labels.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had names that are all strings.

    See Also
    --------
    sklearn_mach.theory.plan : R and B for a budget, before anything is fitted.
    sklearn_mach.displays.MemoryCurveDisplay : The scores against the bytes.

    Notes
    -----
    Of equal scores the one with the fewest bytes is taken.  Sample weights are used in
    fitting and in scoring.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_mach import MACHClassifierCV
    >>> X, y = load_digits(return_X_y=True)
    >>> search = MACHClassifierCV(
    ...     n_buckets=[2, 4], n_repetitions=8, max_bytes=5000, random_state=0
    ... )
    >>> search.fit(X / 16, y).best_estimator_.model_bytes_ <= 5000
    True
    >>> search.cv_results_["n_repetitions"]
    array([4, 5, 6, 7, 8, 2, 3, 4])
    """

    _parameter_constraints: dict = {
        "classifier": [MACHClassifier, None],
        "n_buckets": [Interval(Integral, 2, None, closed="left"), "array-like"],
        "n_repetitions": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "max_bytes": [Interval(Real, 0, None, closed="neither"), None],
        "cv": [
            Interval(Real, 0, 1, closed="neither"),
            Interval(Integral, 2, None, closed="left"),
            HasMethods(["split"]),
            "array-like",
        ],
        "scoring": [StrOptions({"accuracy"}), TopKScorer, RankingScorer],
        "refit": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        classifier=None,
        *,
        n_buckets=(16, 64, 256),
        n_repetitions="auto",
        max_bytes=None,
        cv=0.1,
        scoring="accuracy",
        refit=True,
        random_state=None,
    ):
        self.classifier = classifier
        self.n_buckets = n_buckets
        self.n_repetitions = n_repetitions
        self.max_bytes = max_bytes
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self._base())
        tags.input_tags = inner.input_tags
        tags.classifier_tags = inner.classifier_tags
        return tags

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Score all candidates and fit the best.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,)
            Class labels; or of several labels a row an indicator, dense or sparse, of
            shape (n_samples, n_classes).
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : MACHClassifierCV

        Raises
        ------
        ValueError
            If no candidate fits in `max_bytes` or tells all classes apart, a split of
            `cv` has no rows to fit or to hold out, or `scoring` is for rows with
            another number of labels.
        """
        base = self._base()
        if not isinstance(base.hashing, str):
            raise ValueError(
                "hashing of the classifier is an array, which fixes R and B. Pass the "
                "name of a way to draw tables, such as hashing='balanced'."
            )
        if base.max_bytes is not None:
            raise ValueError(
                f"max_bytes={base.max_bytes} of the classifier leaves weights out of "
                "the largest model, from which the scores of all smaller ones are "
                "taken. Use max_bytes=None and compress best_estimator_, or search "
                "with GridSearchCV."
            )
        if base.checkpoint is not None:
            raise ValueError(
                f"checkpoint={base.checkpoint!r} of the classifier is for one fit, and "
                "a search does many. Use checkpoint=None."
            )
        if base.part is not None:
            raise ValueError(
                f"part={base.part} of the classifier trains a share of the repetitions "
                "only, and the search scores all of them. Use part=None, and fit the "
                "parts with best_params_."
            )
        learner = learner_of(base)
        rows, labels = check_rows(base, X, y, in_float32=learner.in_float32, reset=True)
        weight = check_weight(sample_weight, labels)
        classes, targets = targets_of(labels)
        score = scorer_of(self.scoring, targets.several)
        if targets.several and score.weights is not None:
            checked_weights(score.weights, classes.size)
        random_state = check_random_state(self.random_state)
        split_seed = int(random_state.randint(_SEEDS))
        if not isinstance(base.random_state, Integral):
            source = base.random_state or random_state
            base.set_params(random_state=int(source.randint(_SEEDS)))
        splits = self._splits(rows, labels, weight, split_seed)
        n_labels = targets.mean_classes(weight)
        parts = [
            _score_sizes(base, score, rows, labels, weight, splits, classes.size, sizes)
            for sizes in self._candidates(base, learner, rows, n_labels, classes.size)
        ]
        results = {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }
        best = self._best(results)
        params = {
            name: int(results[name][best]) for name in ("n_repetitions", "n_buckets")
        }
        if self.refit:
            final = clone(base).set_params(**params)
            self.best_estimator_ = final.fit(X, y, sample_weight)
        else:
            self.__dict__.pop("best_estimator_", None)
        self.best_params_ = params
        self.best_score_ = float(results["mean_test_score"][best])
        self.cv_results_ = results
        self.classes_, self.multilabel_ = classes, targets.several
        self.n_features_in_ = base.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(base, "feature_names_in_"):
            self.feature_names_in_ = base.feature_names_in_
        return self

    def _base(self):
        return MACHClassifier() if self.classifier is None else clone(self.classifier)

    def _splits(self, X, y, weight, seed):
        """Pairs of rows to fit and to hold out."""
        if not isinstance(self.cv, Real):
            splits = self.cv.split(X, y) if hasattr(self.cv, "split") else self.cv
            splits = _check_splits(splits, X.shape[0])
            if weight is not None and not all(weight[test].any() for _, test in splits):
                raise ValueError(
                    "The rows that a split holds out all have a sample_weight of zero. "
                    "Use other splits, or cv as a number, which splits the others."
                )
            return splits
        used = np.arange(X.shape[0]) if weight is None else np.flatnonzero(weight)
        if isinstance(self.cv, Integral):
            splitter = KFold(self.cv, shuffle=True, random_state=seed)
        else:
            if self.cv * used.size < 0.5:  # which ShuffleSplit would round up
                raise ValueError(
                    f"With n_samples={used.size}, cv={self.cv} holds out less than "
                    "half a row. Use a larger share, or a number of folds."
                )
            splitter = ShuffleSplit(1, test_size=self.cv, random_state=seed)
        return [(used[train], used[test]) for train, test in splitter.split(used)]

    def _candidates(self, base, learner, X, n_labels, n_classes):
        """B, least R and largest R, for each B with which a model fits the budget."""
        n_buckets = np.asarray(self.n_buckets)
        is_list = n_buckets.dtype.kind in "iu" and n_buckets.ndim <= 1
        if not is_list or n_buckets.size == 0 or n_buckets.min() < 2:
            raise ValueError(
                "n_buckets must be an integer of at least 2 or a list of them, got "
                f"{self.n_buckets!r}."
            )
        n_buckets = np.unique(n_buckets)
        n_buckets = n_buckets[: 1 + np.searchsorted(n_buckets, n_classes)]
        candidates, smallest = [], []
        for B in n_buckets.tolist():
            largest, used = theory.choose_sizes(
                n_classes,
                self.n_repetitions,
                B,
                n_nonzeros=rows_of(X).n_values,
                few=learner.few_features(X),
                max_columns=free_columns(learner, X.shape[1]),
                n_labels=n_labels,
            )
            least = least_repetitions(base, n_classes, B, largest)
            if least > largest:
                continue
            if learner.weights_bytes(X.shape[1], 1) and self.max_bytes is not None:
                cost = theory.model_cost(n_classes, X.shape[1], 1, used).mach.n_bytes
                smallest.append(least * cost)
                largest = min(largest, int(self.max_bytes // cost))
            if least <= largest:
                candidates.append((B, least, largest))
        if candidates:
            return candidates
        if smallest:
            raise self._over_budget(min(smallest))
        raise ValueError(
            f"n_repetitions={self.n_repetitions} cannot tell {n_classes} classes apart "
            f"with any of n_buckets={n_buckets.tolist()}. Use more of either."
        )

    def _best(self, results):
        """Place of the best score in the budget; of equal ones the smallest model."""
        scores, n_bytes = results["mean_test_score"], results["n_bytes"]
        order = np.lexsort((n_bytes, -scores))
        if self.max_bytes is not None:
            order = order[n_bytes[order] <= self.max_bytes]
        if order.size == 0:
            raise self._over_budget(n_bytes.min())
        return order[0]

    def _over_budget(self, n_bytes):
        return ValueError(
            f"No model fits in max_bytes={self.max_bytes}: the smallest that can be "
            f"chosen takes {n_bytes} bytes ({format_bytes(n_bytes)}). Allow that, or "
            "try other n_buckets."
        )

    predict = _of_best_estimator("predict")
    predict_topk = _of_best_estimator("predict_topk")
    predict_proba = _of_best_estimator("predict_proba")
    predict_log_proba = _of_best_estimator("predict_log_proba")
    decision_function = _of_best_estimator("decision_function")
    class_ranks = _of_best_estimator("class_ranks")

    @available_if(_is_refitted)
    def score(self, X, y, sample_weight=None):
        """Score rows by `scoring`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), or indicator of several labels
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
        """
        check_is_fitted(self)
        score = scorer_of(self.scoring, self.best_estimator_.multilabel_)
        return score(self.best_estimator_, X, y, sample_weight)


def scorer_of(scoring, several):
    """The scorer of models with several labels a row, or with one each."""
    if scoring == "accuracy":
        return RankingScorer("precision", 1) if several else TopKScorer(1)
    if not isinstance(scoring, TopKScorer | RankingScorer):
        raise ValueError(
            "scoring must be 'accuracy', a TopKScorer or a RankingScorer; got "
            f"{scoring!r}."
        )
    if isinstance(scoring, RankingScorer) == several:
        return scoring
    if several:
        raise ValueError(
            f"scoring={scoring!r} is for one label a row, but y is an indicator of "
            "several. Use RankingScorer of sklearn_mach.metrics, such as "
            f"RankingScorer('precision', k={scoring.k})."
        )
    raise ValueError(
        f"scoring={scoring!r} is for several labels a row, an indicator as y, but y "
        f"has one label a row. Use TopKScorer(k={scoring.k}) of sklearn_mach.metrics."
    )


def stage_scores(score, model, X, y, weight):
    """Scores of the first 1, 2, ..., R repetitions of a model, by `scorer_of`."""
    stages = model.staged_predict_topk(X, min(score.k, model.classes_.size))
    if isinstance(score, RankingScorer):
        return [score._of_ranked(y, columns, weight) for columns in stages]
    hits = [(labels == y[:, None]).any(axis=1) for labels in stages]
    return np.average(hits, axis=1, weights=weight)


def _score_sizes(base, score, X, y, weight, splits, n_classes, sizes):
    """A part of `cv_results_`: all R of one B; sizes: B, least R and largest R."""
    n_buckets, least, largest = sizes
    model = clone(base).set_params(n_buckets=n_buckets, n_repetitions=largest)
    scores, n_bytes, seconds = [], [], []
    for train, test in splits:
        start = perf_counter()
        fold_weight = None if weight is None else weight[train]
        model.fit(X[train], y[train], fold_weight)
        seconds.append(perf_counter() - start)
        held_weight = None if weight is None else weight[test]
        scores.append(stage_scores(score, model, X[test], y[test], held_weight))
        all_classes = n_classes, min(n_buckets, n_classes)
        n_bytes.append(learner_of(model).stage_bytes(model, *all_classes))
    used = slice(least - 1, None)
    n_repetitions = np.arange(1, largest + 1)[used]
    return {
        "n_buckets": np.full(n_repetitions.size, n_buckets),
        "n_repetitions": n_repetitions,
        "n_bytes": np.max(n_bytes, axis=0)[used],
        "mean_test_score": np.mean(scores, axis=0)[used],
        "std_test_score": np.std(scores, axis=0)[used],
        "fit_time": np.full(n_repetitions.size, np.mean(seconds)),
    }


def _check_splits(splits, n_samples):
    """The splits as pairs of arrays, each of row numbers or a mask of the rows."""
    checked = []
    for split in splits:
        parts = [np.asarray(part) for part in split] if np.iterable(split) else []
        if len(parts) != 2 or not all(_chooses_rows(part, n_samples) for part in parts):
            raise ValueError(
                "cv must give pairs (train, test), each part a list of row numbers "
                f"from 0 to {n_samples - 1} with at least one row. Split number "
                f"{len(checked)} is {split!r:.200}."
            )
        checked.append(tuple(parts))
    if not checked:
        raise ValueError(
            "cv holds no split. Pass at least one pair (train, test) of row numbers, "
            "a splitter, a share or a number of folds."
        )
    return checked


def _chooses_rows(part, n_samples):
    """Whether an array chooses rows as an index: numbers, or a mask of all rows."""
    if part.ndim != 1 or part.size == 0:
        return False
    if part.dtype.kind == "b":
        return part.size == n_samples and part.any()
    return (
        part.dtype.kind in "iu" and -n_samples <= part.min() <= part.max() < n_samples
    )
