"""`merge`: one model of the repetitions of several."""

from copy import copy

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._classifier import MACHClassifier
from ._fitting import Fit
from ._hashing import collision_chance, find_twins
from ._model import How, Model

_AFTER_TRAINING = {  # parameters that change no weight
    "checkpoint",
    "decoder",
    "logit_adjustment",
    "device",
    "n_jobs",
    "part",
    "verbose",
    "warm_start",
}
_TOLERANCE = 1e-6  # of sums over the same rows, which other processors may round


def merge(models, X=None, y=None):
    """Join models that were fitted apart: one model of the repetitions of all.

    The jobs may run on other machines, one after the other, and need not know of each
    other.  There are two ways to deal the work:

    - Each job sets another `part` and all else alike: ``part=(i, n)``, with the same
      integer as `random_state`.  All n parts are the model of one fit: the same table,
      weights and probabilities, bit for bit.  (Of a dense X it is to rounding if there
      are more parts than blocks of about 512 columns, and also where the jobs run on
      GPUs or on processors of other kinds.)  `partial_fit` and `warm_start` go on from
      it as from that fit.  If a job is lost the others can be merged, and later with
      the one that was missing.
    - Each job sets another `random_state`.

    Parameters
    ----------
    models : iterable of MACHClassifier
        Fitted, of the same classes, features, `n_buckets_` and kind of learner.  Parts
        may come in any order.
    X : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
        Rows that no model was trained on.  The probabilities and the logit adjustment
        are fitted to them, as by `calibrate`.  None fits them to the rows that all
        parts of one fit have set aside.  Models with other seeds have none in common:
        the logit adjustment is then the mean of theirs, and probabilities are those of
        a model that is not calibrated.
    y : array-like of shape (n_samples,), or an indicator, default=None
        Their labels.

    Returns
    -------
    model : MACHClassifier
        With the parameters of the first model, or of the first part, and ``part=None``.
        Of models with other seeds `n_repetitions` is the number of all, tables that are
        arrays, or of several kinds, are joined as `hashing`, and the shares of the
        classes, and all else with which `partial_fit` goes on, are those of the first.

    Raises
    ------
    ValueError
        If the models do not fit together, two of them have the same repetition, a model
        is compressed, or there are two classes that no repetition tells apart.

    Notes
    -----
    As `load` makes a model of a file, `merge` makes one of many: a function, since no
    model among them is special, and it is the same for subclasses.

    The repetitions of MACH are independent; Medini et al. (2019), "Extreme
    Classification in Log Memory using Count-Min Sketch", NeurIPS, arXiv:1910.13830,
    train them apart.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import clone
    >>> from sklearn_mach import MACHClassifier, merge
    >>> from sklearn_mach.datasets import make_many_classes
    >>> X, y = make_many_classes(3000, 500, 100, random_state=0)
    >>> model = MACHClassifier(n_repetitions=6, n_buckets=16, random_state=0)
    >>> jobs = [clone(model).set_params(part=(i, 3)) for i in range(3)]
    >>> parts = [job.fit(X, y) for job in jobs]  # on three machines
    >>> parts[2].coef_.shape, merge(parts).coef_.shape
    ((2, 16, 500), (6, 16, 500))
    >>> np.array_equal(merge(parts).coef_, model.fit(X, y).coef_)
    True
    """
    if (X is None) != (y is None):
        raise ValueError("Pass both X and y, or neither.")
    models = list(models)
    _check_models(models)
    shares = [model._fitted.share for model in models]
    in_parts = _check_parts(models, shares)
    if in_parts:
        order = np.argsort([share.own[0] for share in shares])
        models, shares = ([items[i] for i in order] for items in (models, shares))
    else:
        _check_repeated(models)
    merged, fit = copy(models[0]), _joined(models)
    merged.part = None
    if in_parts:
        fit = _in_order(fit, shares)
    else:
        merged.n_repetitions = fit.model.n_repetitions
        merged.hashing = _joined_hashing(models, fit.model.table)
    model, share = fit.model, fit.share
    _check_apart(merged, model)
    chance = collision_chance(model.table, model.n_buckets, merged.hashing)
    model = model.replace(chance=chance)
    if X is None and share is not None and share.rows is not None:
        model = _calibrated(merged, model, fit.class_weights, share.rows)
    if share is not None and share.own.size == share.n_repetitions:
        share = None
    merged._fitted = fit._replace(model=model, share=share)
    return merged if X is None else merged.calibrate(X, y)


def _joined(models):
    """The `Fit` of all repetitions, one model behind the other."""
    fits = [model._fitted for model in models]
    model = Model.concatenate([fit.model for fit in fits])
    tau = models[0].logit_adjustment
    if tau == "auto":
        tau = np.mean([fit.model.tau for fit in fits])
    first, n_iter = fits[0], max(fit.n_iter for fit in fits)
    model = model.replace(scalars=None).adjusted(tau, first.class_weights)
    memory = first.memory
    if memory is not None:
        t = max(fit.memory.t for fit in fits)
        memory = memory._replace(n_iter=n_iter, t=t)
    return Fit(model, memory, first.class_weights, n_iter)


def _in_order(fit, shares):
    """The joined `Fit` of shares, its repetitions in the order of the whole."""
    own = np.concatenate([share.own for share in shares])
    order, model = np.argsort(own), fit.model
    if np.any(np.diff(order) < 0):  # of parts that were merged before
        model = model.select(order)
    return fit._replace(model=model, share=shares[0]._replace(own=own[order]))


def _joined_hashing(models, table):
    """The hashing that all have by name, or the table of all."""
    names = {m.hashing if isinstance(m.hashing, str) else None for m in models}
    return table.copy() if len(names) > 1 or None in names else names.pop()


def _calibrated(merged, model, class_weights, rows):
    """The model, calibrated on the rows that `fit` has set aside, as `fit` does."""
    X, targets, weight = rows
    given = X, targets, np.arange(targets.n_rows), weight, class_weights
    how = How("log_mean", merged.device_, merged.n_jobs)
    return model.calibrated(*given, merged.logit_adjustment, how)


# Refused ------------------------------------------------------------------------------


def _check_models(models):
    """Refuse what cannot be one model."""
    if not models:
        raise ValueError("models is empty. Pass at least one fitted MACHClassifier.")
    for i, model in enumerate(models):
        if not isinstance(model, MACHClassifier):
            raise TypeError(
                f"models[{i}] is {model!r:.200}, of type {type(model).__name__}. Only "
                "models of MACHClassifier can be merged; of a search take "
                "best_estimator_."
            )
        check_is_fitted(model)
        if model._fitted.model.scorer.is_compressed:
            raise ValueError(
                f"models[{i}] is compressed, and cannot be merged. Merge the models "
                "from which compress made them, then compress the merged one."
            )
        model._check_version("merge")
        _check_alike(models[0], model, f"models[{i}]")


def _check_alike(first, model, name):
    """Refuse a model whose repetitions cannot stand beside those of the first."""
    one, other = first._fitted.model, model._fitted.model
    kinds = [_kind(one.scorer), _kind(other.scorer)]
    names = [getattr(m, "feature_names_in_", None) for m in (first, model)]
    values = [
        ("classes_", first.classes_, model.classes_, "the same classes"),
        ("multilabel_", one.several, other.several, "one label a row, or several"),
        (
            "n_features_in_",
            first.n_features_in_,
            model.n_features_in_,
            "the same features",
        ),
        ("feature_names_in_", *names, "the same features, in the same order"),
        ("n_buckets_", one.n_buckets, other.n_buckets, "the same number of buckets"),
        ("a learner", *kinds, "the same learner, with classifiers of the same type"),
        ("decoder", first.decoder, model.decoder, "one decoder; see set_params"),
    ]
    for what, own, others, needed in values:
        if not np.array_equal(own, others):
            raise ValueError(
                f"{name} has {what}={others!r:.200}, and models[0] has {own!r:.200}. "
                f"Models that are merged need {needed}."
            )


def _kind(scorer):
    """What trained a scorer, in words."""
    estimators = getattr(scorer, "estimators", None)
    if estimators is None:
        return scorer.made_by
    lists = [each if isinstance(each, list) else [each] for each in estimators]
    return sorted({type(each).__name__ for some in lists for each in some})


def _check_parts(models, shares):
    """Whether the models are parts of one fit; refuses those of several."""
    are_parts = [share is not None for share in shares]
    if not any(are_parts):
        return False
    if not all(are_parts):
        raise ValueError(
            f"models[{are_parts.index(True)}] is a part of a fit, and "
            f"models[{are_parts.index(False)}] is not. Merge all parts of each fit "
            "first, and then their models."
        )
    fits = [model._fitted for model in models]
    for i, (model, fit) in enumerate(zip(models, fits, strict=True)):
        name = f"models[{i}]"
        for what in ("n_parts", "n_repetitions", "order_seed"):
            own, others = getattr(shares[0], what), getattr(fit.share, what)
            if own != others:
                raise ValueError(
                    f"{name} is a part of another fit than models[0]: {what} is "
                    f"{others}, not {own}. Merge the parts of each fit by themselves: "
                    "those with the same random_state, n in part and sizes."
                )
        for what, own in models[0].get_params(deep=False).items():
            if what in _AFTER_TRAINING:
                continue
            others = getattr(model, what)
            is_same = np.array_equal(own, others)
            if not (is_same or (what == "estimator" and repr(own) == repr(others))):
                raise ValueError(
                    f"{name} is a part of another fit than models[0]: {what} is "
                    f"{others!r:.200}, not {own!r:.200}. Fit all parts with the same "
                    "parameters."
                )
        if not _of_same_rows(fits[0], fit):
            raise ValueError(
                f"{name} and models[0] were not fitted on the same rows, as the parts "
                "of one fit are. Fit all parts on the same X, y and sample_weight, or "
                "use another random_state in each job and part=None."
            )
    numbers = np.sort(np.concatenate([share.own for share in shares]))
    twice = numbers[1:][np.diff(numbers) == 0]
    if twice.size:
        raise ValueError(
            f"Repetition {twice[0]} of the fit is in two of the parts. Pass each part "
            "once."
        )
    return True


def _of_same_rows(one, other):
    """Whether two fits have seen the same rows, as far as their sums tell."""
    if not np.allclose(one.class_weights, other.class_weights, _TOLERANCE):
        return False
    if one.memory is None:  # of base classifiers
        return True
    squares = one.memory.seen.squares, other.memory.seen.squares
    return np.allclose(*squares, _TOLERANCE)


def _check_repeated(models):
    """Refuse a repetition that two models have, and which would count twice."""
    found = {}
    for i, model in enumerate(models):
        for r, column in enumerate(model.bucket_table_.T):
            same = found.setdefault(column.tobytes(), [])
            for j, s in same:
                if _are_equal(model, r, models[j], s):
                    raise ValueError(
                        f"models[{i}] and models[{j}] have the same repetition: the "
                        f"buckets and weights of {r} and {s}. Fit them with different "
                        "numbers as random_state, or with part=(i, n)."
                    )
            same.append((i, r))


def _are_equal(one, r, other, s):
    """Whether two repetitions with the same buckets were trained alike."""
    if one is other and r != s:  # few classes have few tables
        return False
    if hasattr(one, "coef_"):
        is_same = np.array_equal(one.intercept_[r], other.intercept_[s])
        return is_same and np.array_equal(one.coef_[r], other.coef_[s])
    return np.array_equal(one._fitted.class_weights, other._fitted.class_weights)


def _check_apart(merged, model):
    """Refuse a table in which two classes are one."""
    twins = find_twins(model.table, model.n_buckets)
    if twins is not None:
        labels = [merged.classes_[k].item() for k in twins]
        raise ValueError(
            f"The classes {labels[0]!r} and {labels[1]!r} have the same buckets in all "
            f"{model.n_repetitions} repetitions, so that they cannot be told apart. "
            "Merge more parts or models."
        )
