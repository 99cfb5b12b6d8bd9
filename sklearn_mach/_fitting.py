"""From checked rows to a fitted model: what `fit` and `partial_fit` share."""

from typing import NamedTuple

import numpy as np

from ._hashing import add_classes, collision_chance
from ._inputs import row_weights
from ._model import How, Model


class Share(NamedTuple):
    """What some repetitions of a fit keep, to be merged with the others.

    n_parts, n_repetitions : int, of the whole fit
    own : int array, the numbers of these repetitions
    order_seed : int, as in `Plan`
    rows : X, `Targets` and weights of the rows set aside; None if there are none
    """

    n_parts: int
    n_repetitions: int
    own: np.ndarray
    order_seed: int
    rows: tuple | None


class Fit(NamedTuple):
    """A fitted model, and what it takes to go on with it.

    model : `Model`
    memory : the learner's
    class_weights : float array of shape (K,), sums of the weights of the rows; None if
        an older version pickled the model without them
    n_iter : int, epochs of the repetition that was trained for longest
    share : `Share`, if these are not all repetitions of the fit
    """

    model: Model
    memory: object
    class_weights: np.ndarray | None
    n_iter: int
    share: Share | None = None


def grow(fit, places, n_classes, learner, hashing):
    """A `Fit` with more classes, of which no row has been seen.

    places : int array of shape (K,), the numbers that its K classes have now; those of
        the new ones are the others below `n_classes`
    """
    model, n_buckets = fit.model, fit.model.n_buckets
    is_new = np.ones(n_classes, bool)
    is_new[places] = False
    table = np.empty((n_classes, model.n_repetitions), model.table.dtype)
    table[places] = model.table
    n_new, known = n_classes - places.size, model.scorer.known_buckets
    table[is_new] = add_classes(model.table, n_new, n_buckets, known)
    class_weights = np.zeros(n_classes, fit.class_weights.dtype)
    class_weights[places] = fit.class_weights
    chance = collision_chance(table, n_buckets, hashing)
    return fit._replace(
        model=model.replace(table=table, chance=chance),
        memory=learner.renumbered(fit.memory, places),
        class_weights=class_weights,
    )


def route(estimator, learner, method, rows, sample_weight, fit_params):
    """Weights of the rows (X, y, targets, classes), and arguments of an estimator."""
    weight = row_weights(*rows, sample_weight, estimator.class_weight)
    cause = "sample_weight" if sample_weight is not None else "class_weight"
    return weight, learner.route(estimator, method, weight, cause, fit_params)


def train(
    parameters,
    learner,
    method,
    X,
    targets,
    weight,
    params,
    plan,
    old,
    device,
    task,
    smaller=None,
):
    """Train what `plan` asks for, and calibrate the model where rows are set aside.

    parameters : with the parameters of MACHClassifier as attributes
    method : "fit" or "partial_fit"
    X, targets, weight : checked rows, `Targets`, and weights of the rows or None
    params : keyword arguments of a base estimator
    old : the `Fit` to go on with, or None
    device : str, the learner's choice
    task : ``task(name, r, n_epochs=, attributes=)`` gives the task that begins with
        repetition r
    smaller : ``smaller(fit, rows)`` gives the `Fit` compressed; rows are X and targets
        of those set aside, or None

    Returns a `Fit`.
    """
    class_weights = targets.sums(weight, plan.table.shape[0])
    if method == "partial_fit" and old is not None:
        draft, class_weights = old.model, old.class_weights + class_weights
    else:
        chance = collision_chance(plan.table, plan.n_buckets, parameters.hashing)
        several = targets.several
        draft = Model(plan.table, plan.n_buckets, None, chance, several=several)
    tau = parameters.logit_adjustment
    draft = draft.adjusted(draft.tau if tau == "auto" else tau, class_weights)

    def task_of(name, first, *, n_epochs=0, scorer=None):
        def attributes():
            model = draft.replace(scorer=scorer())
            return {"_fitted": Fit(model, None, class_weights, 0)}

        return task(name, first, n_epochs=n_epochs, attributes=attributes)

    before = (None, None) if old is None else (old.model.scorer, old.memory)
    work = method, X, targets, weight, params, plan
    trained = learner.train(*work, *before, device, task_of)
    model = draft.replace(scorer=trained.scorer)
    fit, held = Fit(model, trained.memory, class_weights, trained.n_iter), trained.held
    X, targets = trained.rows or (X, targets)
    if smaller is not None:
        fit = smaller(fit, (X[held], targets.take(held)) if held.size else None)
    if held.size:
        rows = X, targets, held, trained.held_weight, class_weights
        how = How("log_mean", device, parameters.n_jobs)
        model = fit.model.calibrated(*rows, parameters.logit_adjustment, how)
        fit = fit._replace(model=model)
    if plan.whole is not None:
        rows = X[held], targets.take(held), trained.held_weight
        share = *plan.whole[:3], plan.order_seed, rows if held.size else None
        fit = fit._replace(share=Share(*share))
    return fit
