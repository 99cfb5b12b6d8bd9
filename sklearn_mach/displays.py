"""Figures of what R, B and memory do, in the manner of scikit-learn's displays.

A display holds what is drawn; `plot` draws it into axes of matplotlib, which is
imported only then.
"""

import pickle
from collections import Counter
from functools import partial

import numpy as np
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted

from . import theory
from ._classifier import MACHClassifier
from ._compat import check_matplotlib_support
from ._hashing import random_column, split_groups
from ._inputs import check_several
from ._learners import learner_of
from ._scoring import (
    are_labels,
    check_positive,
    check_weight,
    labels_or_indicator,
    unwrap,
)
from ._search import MACHClassifierCV, scorer_of, stage_scores
from ._targets import Targets
from .metrics import RankingScorer, TopKScorer, confidence_bins, top_confidence

__all__ = [
    "ClassFrequencyDisplay",
    "CollisionDisplay",
    "MemoryCurveDisplay",
    "ReliabilityDisplay",
    "RepetitionCurveDisplay",
]

_GREY = "0.5"  # of what is no model: readable on light and dark pages
_METRICS = {"precision": "Precision", "ndcg": "nDCG", "recall": "Recall", "psp": "PSP"}


class _Display:
    """Axes of its own, or those of the caller; `_draw` draws into `ax_`."""

    def plot(self, ax=None, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed to the method of `Axes` that draws: to `Axes.bar` for bars, otherwise
            to `Axes.plot`, for every line.

        Returns
        -------
        display : the display itself
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        self.ax_ = plt.figure(layout="constrained").add_subplot() if ax is None else ax
        self.figure_ = self.ax_.figure
        self.ax_.spines[["top", "right"]].set_visible(False)
        self.ax_.grid(axis="y", alpha=0.25)
        self.ax_.set_axisbelow(True)
        self._draw(**kwargs)
        return self


class MemoryCurveDisplay(_Display):
    """Score against the bytes of a model, with a line for each number of buckets.

    Make it with `from_results` or `from_estimators`.

    Parameters
    ----------
    n_bytes : list of ndarray
        Bytes of the models of each line.
    scores : list of ndarray
        Their scores.
    labels : list of str
        What each line is called.
    score_name : str, default="Score"
        What the score is called.
    best : tuple of two floats, default=None
        Bytes and score of the chosen model.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    lines_ : list of matplotlib Line2D
        One for each line; a model whose size is fixed is a single marker.
    best_ : matplotlib Line2D or None
        The marker of the chosen model.

    See Also
    --------
    sklearn_mach.MACHClassifierCV : The search that `from_results` draws.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_mach import MACHClassifierCV
    >>> from sklearn_mach.displays import MemoryCurveDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> search = MACHClassifierCV(n_buckets=[2, 4], n_repetitions=8, random_state=0)
    >>> display = MemoryCurveDisplay.from_results(search.fit(X / 16, y))
    >>> display.labels
    ['2 buckets', '4 buckets']
    """

    def __init__(self, n_bytes, scores, labels, *, score_name="Score", best=None):
        self.n_bytes = n_bytes
        self.scores = scores
        self.labels = labels
        self.score_name = score_name
        self.best = best

    @classmethod
    def from_results(cls, search, *, ax=None, **line_kw):
        """Draw what a search has found.

        Parameters
        ----------
        search : fitted MACHClassifierCV
        ax, **line_kw
            As in `plot`.

        Returns
        -------
        display : MemoryCurveDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_results")
        if not isinstance(search, MACHClassifierCV):
            raise ValueError(
                f"Only a MACHClassifierCV has sizes and scores of its candidates; got "
                f"{search!r}. Pass fitted models to from_estimators."
            )
        check_is_fitted(search, "cv_results_")
        several = getattr(search, "multilabel_", False)  # older searches lack it
        results = search.cv_results_
        n_buckets = np.unique(results["n_buckets"])
        rows = [results["n_buckets"] == B for B in n_buckets]
        is_best = [results[name] == v for name, v in search.best_params_.items()]
        best_bytes = results["n_bytes"][np.all(is_best, axis=0)][0]
        score = scorer_of(search.scoring, several)
        display = cls(
            [results["n_bytes"][own] for own in rows],
            [results["mean_test_score"][own] for own in rows],
            [f"{B} buckets" for B in n_buckets],
            score_name=f"{_score_name(score)}, held out",
            best=(best_bytes, search.best_score_),
        )
        return display.plot(ax, **line_kw)

    @classmethod
    def from_estimators(cls, estimators, X, y, *, ax=None, **line_kw):
        """Draw the accuracy of fitted classifiers; of several labels, precision at 1.

        Parameters
        ----------
        estimators : dict of str to fitted classifier
            With what they are called.  A MACHClassifier is a line of all its stages, of
            1, 2, ..., R repetitions; any other classifier is a marker at the size of
            its pickle.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), or indicator of several labels
            True labels.
        ax, **line_kw
            As in `plot`.

        Returns
        -------
        display : MemoryCurveDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimators")
        y = labels_or_indicator(y)
        score = scorer_of("accuracy", y.ndim == 2)
        n_bytes, scores = [], []
        for estimator in estimators.values():
            model, rows, labels = unwrap(estimator, X, y, labels_or_indicator)
            if isinstance(model, MACHClassifier):
                sizes = learner_of(model).stage_bytes(
                    model, model.classes_.size, model.n_buckets_
                )
                own = _stage_scores(score, model, rows, labels)
            else:
                sizes = [len(pickle.dumps(model))]
                # One label needs only `predict`, which is all that some have.
                measure = model.score if labels.ndim == 1 else partial(score, model)
                own = [measure(rows, labels)]
            n_bytes.append(np.array(sizes))
            scores.append(np.array(own))
        name = _score_name(score)
        display = cls(n_bytes, scores, list(estimators), score_name=name)
        return display.plot(ax, **line_kw)

    def _draw(self, **line_kw):
        lines = zip(self.n_bytes, self.scores, self.labels, strict=True)
        self.lines_ = []
        for n_bytes, scores, label in lines:
            marker = "o" if len(scores) == 1 else "."
            style = {"marker": marker, "label": label} | line_kw
            self.lines_ += self.ax_.plot(n_bytes, scores, **style)
        self.best_ = None
        if self.best is not None:
            # A ring around the point of its line; the line is named, the ring is not.
            style = {"markersize": 14, "fillstyle": "none", "color": _GREY}
            (self.best_,) = self.ax_.plot(*self.best, "o", **style)
        self.ax_.set(xscale="log", xlabel="Model size", ylabel=self.score_name)
        _show_bytes(self.ax_.xaxis)
        _name_lines(self.ax_)


class RepetitionCurveDisplay(_Display):
    """Score of the first 1, 2, ..., R repetitions of a fitted MACHClassifier.

    Make it with `from_estimator`.

    Parameters
    ----------
    n_repetitions : ndarray of shape (n_stages,)
        The numbers r of repetitions.
    scores : ndarray of shape (n_stages,)
        Their scores.
    name : str, default=None
        What the line is called.
    score_name : str, default="Accuracy"
        What the score is called.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    line_ : matplotlib Line2D

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_mach import MACHClassifier
    >>> from sklearn_mach.displays import RepetitionCurveDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> model = MACHClassifier(n_repetitions=8, n_buckets=4, random_state=0)
    >>> model.fit(X[:1000] / 16, y[:1000])
    MACHClassifier(n_buckets=4, n_repetitions=8, random_state=0)
    >>> display = RepetitionCurveDisplay.from_estimator(model, X[1000:] / 16, y[1000:])
    """

    def __init__(self, n_repetitions, scores, *, name=None, score_name="Accuracy"):
        self.n_repetitions = n_repetitions
        self.scores = scores
        self.name = name
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        scoring="accuracy",
        sample_weight=None,
        name=None,
        ax=None,
        **line_kw,
    ):
        """Draw the scores of the stages of a model on rows.

        Parameters
        ----------
        estimator : fitted MACHClassifier
            Or a pipeline or search whose last step or best estimator it is.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), or indicator of several labels
            True labels.
        scoring : "accuracy", TopKScorer or RankingScorer, default="accuracy"
            As in :class:`~sklearn_mach.MACHClassifierCV`: of several labels "accuracy"
            is the precision at 1.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        name : str, default=None
            What the line is called; None is its number of buckets.
        ax, **line_kw
            As in `plot`.

        Returns
        -------
        display : RepetitionCurveDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        model, X, y = unwrap(estimator, X, y, labels_or_indicator)
        if not isinstance(model, MACHClassifier):
            raise ValueError(f"Only a MACHClassifier has repetitions; got {model!r}.")
        score = scorer_of(scoring, y.ndim == 2)
        scores = _stage_scores(score, model, X, y, check_weight(sample_weight, y))
        stages = np.arange(1, scores.size + 1)
        name = f"{model.n_buckets_} buckets" if name is None else name
        display = cls(stages, scores, name=name, score_name=_score_name(score))
        return display.plot(ax, **line_kw)

    def _draw(self, **line_kw):
        style = {"marker": ".", "label": self.name} | line_kw
        (self.line_,) = self.ax_.plot(self.n_repetitions, self.scores, **style)
        self.ax_.set(xlabel="Repetitions R", ylabel=self.score_name)
        _whole_numbers(self.ax_.xaxis)
        _name_lines(self.ax_)


class CollisionDisplay(_Display):
    """Chance that two classes share all buckets, against R: bound and simulation.

    Make it with `from_parameters`.

    Parameters
    ----------
    n_repetitions : ndarray of shape (n_stages,)
        The numbers of repetitions.
    bound : ndarray of shape (n_stages,)
        Bound of the probability that some pair of classes shares all buckets.
    rate : ndarray of shape (n_stages,)
        Share of the simulated tables in which some pair does.
    name : str, default=None
        Sizes, for the title.
    n_tables : int, default=None
        The number of simulated tables. With it each rate has a bar of two standard
        errors to both sides.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    bound_, rate_ : matplotlib Line2D
        The bound, and the simulated rate; rates of zero are not drawn.

    See Also
    --------
    sklearn_mach.theory.indistinguishable_probability : The bound.

    Examples
    --------
    >>> from sklearn_mach.displays import CollisionDisplay
    >>> display = CollisionDisplay.from_parameters(1000, 50, random_state=0)
    """

    def __init__(self, n_repetitions, bound, rate, *, name=None, n_tables=None):
        self.n_repetitions = n_repetitions
        self.bound = bound
        self.rate = rate
        self.name = name
        self.n_tables = n_tables

    @classmethod
    def from_parameters(
        cls,
        n_classes,
        n_buckets,
        *,
        n_repetitions=None,
        n_tables=200,
        random_state=None,
        ax=None,
        **line_kw,
    ):
        """Simulate tables of Carter-Wegman hashing and draw them beside the bound.

        Parameters
        ----------
        n_classes : int
            The number of classes K, at least 2.
        n_buckets : int
            The number of buckets B of a repetition, at least 2.
        n_repetitions : int, default=None
            The largest R.  None is that of
            :func:`~sklearn_mach.theory.mach_min_repetitions`.
        n_tables : int, default=200
            The number of tables to draw.
        random_state : int, RandomState instance or None, default=None
            Seeds the tables.
        ax, **line_kw
            As in `plot`.

        Returns
        -------
        display : CollisionDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_parameters")
        least = theory.mach_min_repetitions(n_classes, n_buckets)
        n_repetitions = least if n_repetitions is None else n_repetitions
        check_positive("n_repetitions", n_repetitions)
        check_positive("n_tables", n_tables)
        stages = np.arange(1, n_repetitions + 1)
        bound = theory.indistinguishable_probability(n_classes, n_buckets, stages)
        seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
        rng = np.random.default_rng(seed)
        rate = np.zeros(n_repetitions)
        for _ in range(n_tables):
            rate += _collides(n_classes, n_buckets, n_repetitions, rng)
        name = f"{n_classes:,} classes, {n_buckets:,} buckets"
        display = cls(stages, bound, rate / n_tables, name=name, n_tables=n_tables)
        return display.plot(ax, **line_kw)

    def _draw(self, **line_kw):
        R, seen = self.n_repetitions, self.rate > 0
        rate = self.rate[seen]
        style = {"marker": "o", "linestyle": "none", "label": "simulated"} | line_kw
        (self.rate_,) = self.ax_.plot(R[seen], rate, **style)
        color = self.rate_.get_color()
        if self.n_tables is not None:
            error = 2 * np.sqrt(rate * (1 - rate) / self.n_tables)
            # A logarithmic axis has no place for an end at zero.
            ends = np.maximum(rate - error, rate / 10), rate + error
            self.ax_.vlines(R[seen], *ends, color=color)
        style = {"linestyle": "--", "color": color, "label": "bound"} | line_kw
        (self.bound_,) = self.ax_.plot(R, self.bound, **style)
        self.ax_.set(
            yscale="log",
            xlabel="Repetitions R",
            ylabel="Chance that classes collide",
            title=self.name,
        )
        _whole_numbers(self.ax_.xaxis)
        _name_lines(self.ax_)


class ReliabilityDisplay(_Display):
    """Reliability diagram of the best class: how often it is right, by its probability.

    Make it with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    confidence : ndarray of shape (n_used_bins,)
        Mean probability of the best class in each bin that holds rows.
    accuracy : ndarray of shape (n_used_bins,)
        How often it is right.
    n_rows : ndarray of shape (n_used_bins,)
        The number of rows.
    name : str, default=None
        What the line is called.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    line_ : matplotlib Line2D

    See Also
    --------
    sklearn_mach.metrics.calibration_error : The mean distance from the diagonal.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), "On Calibration of Modern Neural Networks",
    ICML, figure 1.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_mach import MACHClassifier
    >>> from sklearn_mach.displays import ReliabilityDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> model = MACHClassifier(random_state=0).fit(X[:1000] / 16, y[:1000])
    >>> display = ReliabilityDisplay.from_estimator(model, X[1000:] / 16, y[1000:])
    """

    def __init__(self, confidence, accuracy, n_rows, *, name=None):
        self.confidence = confidence
        self.accuracy = accuracy
        self.n_rows = n_rows
        self.name = name

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, n_bins=15, name=None, ax=None, **line_kw
    ):
        """Draw how reliable the probabilities of a classifier are.

        Parameters
        ----------
        estimator : fitted classifier
            With `predict_proba`, which is called on chunks of rows.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), or indicator of several labels
            True labels.  The model is wrong on those that it has not seen.  An
            indicator is as in :func:`sklearn_mach.metrics.calibration_error`.
        n_bins : int, default=15
            The number of bins of equal width.
        name : str, default=None
            What the line is called; None is the name of the class of the estimator.
        ax, **line_kw
            As in `plot`.

        Returns
        -------
        display : ReliabilityDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        model, X, y = unwrap(estimator, X, y, labels_or_indicator)
        confidence, hit = top_confidence(model, X, y)
        name = type(model).__name__ if name is None else name
        return cls._from_hits(confidence, hit, n_bins, name, ax, line_kw)

    @classmethod
    def from_predictions(
        cls, y_true, y_pred, confidence, *, n_bins=15, name=None, ax=None, **line_kw
    ):
        """Draw how reliable predictions are.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,), or indicator of several labels
            True labels.
        y_pred : array-like of shape (n_samples,)
            The best class of each row; of several labels the number of its column.
        confidence : array-like of shape (n_samples,)
            Its probability.
        n_bins, name, ax, **line_kw
            As in `from_estimator`.

        Returns
        -------
        display : ReliabilityDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        check_consistent_length(y_true, y_pred, confidence)
        y_true, y_pred = labels_or_indicator(y_true), column_or_1d(y_pred)
        confidence = column_or_1d(confidence, dtype=np.float64)
        if not np.all((confidence >= 0) & (confidence <= 1)):
            raise ValueError(
                "confidence must hold probabilities, from 0 to 1; they are from "
                f"{confidence.min()} to {confidence.max()}."
            )
        if y_true.ndim == 1:
            hit = y_true == y_pred
        else:
            columns = np.arange(y_true.shape[1])
            if y_pred.dtype.kind not in "iu" or not np.isin(y_pred, columns).all():
                raise ValueError(
                    "With an indicator as y_true, y_pred must hold integers, the "
                    f"numbers of its columns, 0 to {columns[-1]}; got {y_pred!r:.100}."
                )
            hit = are_labels(y_true, y_pred[:, None])[:, 0]
        return cls._from_hits(confidence, hit, n_bins, name, ax, line_kw)

    @classmethod
    def _from_hits(cls, confidence, hit, n_bins, name, ax, line_kw):
        check_positive("n_bins", n_bins)
        bins = confidence_bins(confidence, n_bins)
        n_rows = np.bincount(bins)
        used = n_rows > 0
        n_rows = n_rows[used]
        confidence = np.bincount(bins, confidence)[used] / n_rows
        accuracy = np.bincount(bins, hit)[used] / n_rows
        return cls(confidence, accuracy, n_rows, name=name).plot(ax, **line_kw)

    def _draw(self, **line_kw):
        diagonal = "perfectly calibrated"
        if diagonal not in self.ax_.get_legend_handles_labels()[1]:
            self.ax_.axline((0, 0), slope=1, ls=":", color=_GREY, label=diagonal)
            style = {"fontsize": "small", "color": _GREY, "ha": "right"}
            self.ax_.text(0.98, 0.04, f"dotted: {diagonal}", **style)
        style = {"marker": "s", "label": self.name, "clip_on": False} | line_kw
        (self.line_,) = self.ax_.plot(self.confidence, self.accuracy, **style)
        self.ax_.set(
            xlabel="Probability of the best class",
            ylabel="How often it is right",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        _name_lines(self.ax_)


class ClassFrequencyDisplay(_Display):
    """Accuracy by how many training rows the true class has.

    Of several labels a row it is the recall: the share of the true labels, of all rows,
    that are predicted.

    Make it with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    labels : list of str
        Numbers of training rows: "0", "1", "2-3", "4-7", ...; only those of some row.
    accuracy : ndarray of shape (n_used_bins,)
        Accuracy on the rows of such classes, or recall of such labels.
    n_rows : ndarray of shape (n_used_bins,)
        The number of these rows, or of the labels in them.
    score_name : str, default="Accuracy"
        What `accuracy` is called.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    bar_ : matplotlib BarContainer

    Examples
    --------
    >>> from sklearn_mach.displays import ClassFrequencyDisplay
    >>> y_train = ["a", "a", "a", "b"]
    >>> display = ClassFrequencyDisplay.from_predictions(
    ...     ["a", "a", "b", "c"], ["a", "a", "a", "a"], y_train
    ... )
    >>> display.labels, display.accuracy
    (['0', '1', '2-3'], array([0., 0., 1.]))
    """

    def __init__(self, labels, accuracy, n_rows, *, score_name="Accuracy"):
        self.labels = labels
        self.accuracy = accuracy
        self.n_rows = n_rows
        self.score_name = score_name

    @classmethod
    def from_estimator(cls, estimator, X, y, y_train, *, ax=None, **bar_kw):
        """Draw the accuracy of a classifier.

        Parameters
        ----------
        estimator : fitted classifier
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), or indicator of several labels
            True labels.
        y_train, ax, **bar_kw
            As in `from_predictions`.

        Returns
        -------
        display : ClassFrequencyDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        return cls.from_predictions(y, estimator.predict(X), y_train, ax=ax, **bar_kw)

    @classmethod
    def from_predictions(cls, y_true, y_pred, y_train, *, ax=None, **bar_kw):
        """Draw the accuracy of predictions.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,), or indicator of several labels
            True labels.
        y_pred : array-like of shape (n_samples,), or indicator
            Predicted labels.
        y_train : array-like of shape (n_training_samples,), or indicator
            The labels that the classifier was fitted to.
        ax, **bar_kw
            As in `plot`.

        Returns
        -------
        display : ClassFrequencyDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        check_consistent_length(y_true, y_pred)
        y_true, y_pred, y_train = map(labels_or_indicator, (y_true, y_pred, y_train))
        if len({y.shape[1:] for y in (y_true, y_pred, y_train)}) > 1:
            raise ValueError(
                "y_true, y_pred and y_train must be labels of one kind: arrays, or "
                "indicators with the same columns; their shapes are "
                f"{y_true.shape}, {y_pred.shape} and {y_train.shape}."
            )
        if y_true.ndim == 1:
            numbers, score_name = Counter(y_train.tolist()), "Accuracy"
            counts = [numbers[v] for v in y_true.tolist()]
            hits = y_true == y_pred
        else:
            numbers = np.bincount(y_train.indices, minlength=y_train.shape[1])
            rows, columns = y_true.nonzero()
            counts, score_name = numbers[columns].tolist(), "Recall"
            hits = Targets.of_indicator(y_pred).have(rows, columns)
        bins = np.array([count.bit_length() for count in counts], np.int64)
        n_rows = np.bincount(bins)
        used = np.flatnonzero(n_rows)
        n_hits = np.bincount(bins, hits)[used]
        names = ["0", "1"] + [
            f"{1 << (m - 1):,}-{(1 << m) - 1:,}" for m in range(2, n_rows.size)
        ]
        names = [names[m] for m in used]
        accuracy, n_rows = n_hits / n_rows[used], n_rows[used]
        display = cls(names, accuracy, n_rows, score_name=score_name)
        return display.plot(ax, **bar_kw)

    def _draw(self, **bar_kw):
        self.bar_ = self.ax_.bar(self.labels, self.accuracy, **bar_kw)
        rows = [_short(n) for n in self.n_rows]
        self.ax_.bar_label(self.bar_, rows, padding=2, fontsize="small")
        # The lower end says enough where bars double; whole labels would be slanted.
        least = [_short(int(v.split("-")[0].replace(",", ""))) for v in self.labels]
        self.ax_.set_xticks(range(len(least)), least)
        self.ax_.set(
            xlabel="Training rows of the class, at least\n(on the bars: rows scored)",
            ylabel=self.score_name,
        )


def _score_name(score):
    """What the scores of a TopKScorer or RankingScorer are called on an axis."""
    if isinstance(score, RankingScorer):
        return f"{_METRICS[score.metric]}@{score.k}"
    return "Accuracy" if score == TopKScorer(1) else f"Top-{score.k} accuracy"


def _stage_scores(score, model, X, y, weight=None):
    """Scores of the stages of a MACHClassifier, (R,)."""
    check_several(y.ndim == 2, model.multilabel_)
    return np.array(stage_scores(score, model, X, y, weight))


def _collides(n_classes, n_buckets, n_repetitions, rng):
    """Whether two classes share their first 1, 2, ..., R buckets, bool (R,)."""
    found = np.zeros(n_repetitions, bool)
    group = np.zeros(n_classes, np.int64)
    for r in range(n_repetitions):
        column = random_column(n_classes, n_buckets, rng)
        group, n_groups = split_groups(group, column, n_buckets)
        if n_groups == n_classes:
            break
        found[r] = True
    return found


def _name_lines(ax):
    """Write the name of each line at its end, in its colour, in place of a legend.

    All lines of the axes are named anew, as those of several displays may end at one
    place. A name stands where no line and no other name does, if there is such a place.
    """
    for text in [text for text in ax.texts if text.get_label() == "_name of a line"]:
        text.remove()
    ax.autoscale_view()  # places in pixels need the limits of the axes
    # Lines across the axes, as of axhline, are not in units of the data.
    lines = [line for line in ax.get_lines() if line.get_transform() is ax.transData]
    drawn = np.concatenate([np.empty((0, 2)), *(_pixels(line) for line in lines)])
    places = [("left", (8, dy)) for dy in (0, 14, 28, 42)]
    places += [("right", (-8, 0)), ("center", (0, 14)), ("center", (0, -14))]
    names = []
    for line in lines:
        if line.get_label().startswith("_") or not len(line.get_xdata()):
            continue
        name = ax.annotate(
            line.get_label(),
            line.get_xydata()[-1],
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            label="_name of a line",
            annotation_clip=False,
        )
        for side, offset in places:
            name.set(ha=side, position=offset)
            box = name.get_window_extent()
            inside = ((box.min < drawn) & (drawn < box.max)).all(axis=1)
            if not inside.any() and not any(box.overlaps(other) for other in names):
                break
        else:
            name.set(ha="left", position=(8, 0))
        names.append(name.get_window_extent())


def _pixels(line):
    """Points on a line, close to each other, (n_points, 2)."""
    points = line.axes.transData.transform(line.get_xydata())
    if line.get_linestyle() == "None":
        return points
    steps = np.arange(0, len(points) - 0.99, 0.02)
    vertices = np.arange(len(points))
    return np.stack([np.interp(steps, vertices, axis) for axis in points.T], axis=1)


def _short(n):
    """A number of a few characters: 999, 1k, 16k."""
    return f"{n}" if n < 1000 else f"{n / 1000:.0f}k"


def _show_bytes(axis):
    """Label a logarithmic axis with sizes such as 2 MB, as densely as usual."""
    from matplotlib.ticker import EngFormatter, LogFormatter

    size = EngFormatter("B")

    class SizeFormatter(LogFormatter):
        def __call__(self, x, pos=None):
            return size(x) if super().__call__(x, pos) else ""

    axis.set_major_formatter(SizeFormatter())
    axis.set_minor_formatter(SizeFormatter())


def _whole_numbers(axis):
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
