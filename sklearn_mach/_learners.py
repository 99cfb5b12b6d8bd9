"""Which learner trains: asked here and nowhere else.

A learner says what its training costs, trains what a `Plan` asks for, and gives back a
scorer of buckets; `SoftmaxLearner` and `EstimatorLearner` have the same methods.
"""

from ._backends import resolve_device
from ._estimators import EstimatorLearner
from ._inputs import check_class_weight
from ._planning import check_part
from ._softmax import SoftmaxLearner


def learner_of(parameters):
    """The learner for parameters of MACHClassifier, given as attributes."""
    is_built_in = parameters.estimator is None
    return SoftmaxLearner(parameters) if is_built_in else EstimatorLearner(parameters)


def has_partial_fit(parameters):
    """True; an error if the base estimator has none, as `available_if` wants."""
    if learner_of(parameters).has_partial_fit():
        return True
    raise AttributeError(
        "partial_fit needs a base estimator that has it; "
        f"{parameters.estimator!r} has not."
    )


def checked_learner(parameters, in_blocks=False):
    """The learner; refuses what the constraints of single parameters cannot."""
    resolve_device(parameters.device)
    if in_blocks and parameters.max_bytes is not None:
        raise ValueError(
            "max_bytes is for fit: partial_fit needs all weights for the next block. "
            "Set max_bytes=None, and call compress after the last block."
        )
    check_part(parameters, in_blocks)
    check_class_weight(parameters.class_weight, in_blocks)
    learner = learner_of(parameters)
    learner.check()
    return learner


def check_continues(learner, fit, cause, remedy):
    """Refuse to go on with a `Fit` of another kind of learner, or of a part."""
    model = fit.model
    if fit.share is not None:
        raise ValueError(
            f"{cause} goes on with a whole model, but this one has "
            f"{model.n_repetitions} of the {fit.share.n_repetitions} repetitions of a "
            f"fit in parts. Merge all parts with sklearn_mach.merge first. {remedy} to "
            "start anew."
        )
    if model.scorer.is_compressed:
        raise ValueError(
            f"{cause} needs all weights, but this model is compressed. Go on with the "
            "model from which compress made it, or call fit with warm_start=False, and "
            "max_bytes=None if training is to go on after it."
        )
    if isinstance(model.scorer, learner.scorer_type):
        return
    raise ValueError(
        f"{cause} goes on with a model of {model.scorer.made_by}, but estimator is now "
        f"{learner.parameters.estimator!r}. {remedy} to start anew, or set estimator "
        "back."
    )
