"""Any scikit-learn classifier as the learner: a clone for each repetition."""

import pickle
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from joblib import effective_n_jobs
from scipy.special import expit, softmax
from sklearn.base import clone, is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.utils import Bunch, check_random_state, get_tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import has_fit_parameter

from ._compat import _routing_enabled, _set_random_states, one_blas_thread
from ._planning import Trained

# The share of every bucket probability of a base classifier that is spread evenly over
# the buckets, so that a probability of zero makes no class impossible.
_SMOOTHING = 1e-3


@dataclass(frozen=True, eq=False)
class Estimators:
    """A scorer of buckets: fitted classifiers, one for each repetition.

    estimators : list of classifiers, whose classes are bucket numbers
    """

    made_by = "base classifiers"
    lacks = (
        "{0} is an attribute of the built-in learner. This model was fitted with a "
        "base estimator: see {0} of its estimators_, if they have it."
    )

    estimators: list
    n_buckets: int

    @property
    def n_bytes(self):
        return len(pickle.dumps(self.estimators))

    def state(self):
        """What is pickled, by name."""
        return {"estimators_": self.estimators}

    @classmethod
    def from_state(cls, state, n_buckets):
        """The scorer of which `state` is taken out of a larger one, or None."""
        if "estimators_" not in state:
            return None
        return cls(state.pop("estimators_"), n_buckets)

    def on(self, device, table):
        """The scorer itself: estimators know no device."""
        return self

    def bucket_scores(self, X, log, divisor):
        """(Log) probabilities of the buckets, divided: float32 (n_samples, R, B)."""
        out = np.zeros((X.shape[0], len(self.estimators), self.n_buckets), np.float32)
        for r, estimator in enumerate(self.estimators):
            out[:, r, estimator.classes_] = _bucket_proba(estimator, X, r)
        out *= 1 - _SMOOTHING
        out += _SMOOTHING / self.n_buckets
        if log:
            np.log(out, out=out)
        out /= np.float32(divisor)
        return out

    def searches(self, k, merge):
        """Whether a device finds the k best classes, and not the cores."""
        return False

    def select(self, repetitions):
        """The scorer of some repetitions, in this order."""
        chosen = np.arange(len(self.estimators))[repetitions]
        return Estimators([self.estimators[r] for r in chosen], self.n_buckets)

    @classmethod
    def concatenate(cls, scorers):
        """The repetitions of all, in this order."""
        estimators = [e for scorer in scorers for e in scorer.estimators]
        return cls(estimators, scorers[0].n_buckets)


class EstimatorLearner:
    """Fits clones of the parameter `estimator` on bucket numbers.

    parameters : with the parameters of MACHClassifier as attributes
    """

    in_float32 = False
    scorer_type = Estimators

    def __init__(self, parameters):
        self.parameters, self.estimator = parameters, parameters.estimator

    def set_tags(self, tags):
        base = get_tags(self.estimator)
        tags.input_tags.sparse = base.input_tags.sparse
        tags.input_tags.allow_nan = base.input_tags.allow_nan
        tags.input_tags.positive_only = base.input_tags.positive_only
        if base.classifier_tags is not None:  # naive Bayes says so of itself
            tags.classifier_tags.poor_score = base.classifier_tags.poor_score

    def router(self, owner):
        mapping = MethodMapping().add(caller="fit", callee="fit")
        mapping.add(caller="partial_fit", callee="partial_fit")
        router = MetadataRouter(owner=type(owner).__name__)
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def has_partial_fit(self):
        return hasattr(self.estimator, "partial_fit")

    def check(self):
        """Refuse parameters that the constraints of single ones cannot."""
        if self.parameters.device not in ("auto", "cpu"):
            raise ValueError(
                f"device={self.parameters.device!r} is for the built-in learner. With "
                "a base estimator use device='cpu' or 'auto'."
            )
        if isinstance(self.estimator, type) or not is_classifier(self.estimator):
            raise ValueError(
                f"estimator={self.estimator!r} is not a classifier. Pass an instance "
                "of a scikit-learn classifier, or None for the built-in learner."
            )
        if not (
            hasattr(self.estimator, "predict_proba")
            or hasattr(self.estimator, "decision_function")
        ):
            raise ValueError(
                f"estimator={self.estimator!r} has neither predict_proba nor "
                "decision_function, so that its buckets cannot be scored."
            )

    def route(self, owner, method, weight, cause, params):
        """Keyword arguments of a `method` of the estimator; `cause` of the weights."""
        if weight is not None:
            params = params | {"sample_weight": weight}
        if _routing_enabled():
            return process_routing(owner, method, **params).estimator[method]
        if weight is not None and not has_fit_parameter(
            self.estimator, "sample_weight"
        ):
            raise ValueError(
                f"{cause} was passed, but {self.estimator!r} takes no sample_weight."
            )
        return Bunch(**params)

    # Nothing is known of the memory that an estimator takes.

    def few_features(self, X):
        return None

    def weights_bytes(self, n_features, n_columns):
        return 0

    def trial_bytes(self, n_features, n_columns):
        return 0

    def warn(self, X, plan):
        pass

    def stage_bytes(self, model, n_classes, n_buckets):
        """Bytes of the first 1, 2, ..., R repetitions of a fitted MACHClassifier."""
        # A pickler remembers what it has written, as within the list of `n_bytes`.
        file = BytesIO()
        pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
        ends = []
        for estimator in model.estimators_:
            pickler.dump(estimator)
            ends.append(file.tell())
        table = n_classes * model.bucket_table_.itemsize
        return np.array(ends) + np.arange(1, len(ends) + 1) * table

    def device(self, X, plan):
        return "cpu"

    def n_tasks(self, X, plan):
        """The number of tasks in which the repetitions are trained."""
        return plan.n_repetitions - plan.n_old

    def train(
        self, method, X, targets, weight, params, plan, scorer, memory, device, task
    ):
        """Fit the estimators of the repetitions that `plan` asks for.

        As `SoftmaxLearner.train`; params: what `route` gives.
        """
        estimators = [] if scorer is None else list(scorer.estimators)
        if method == "fit" or scorer is None:
            for seed in plan.seeds[plan.n_old :]:
                estimator = clone(self.estimator)
                _set_random_states(estimator, check_random_state(int(seed)))
                estimators.append(estimator)
        first = plan.n_old if method == "fit" else 0
        n_jobs = self.parameters.n_jobs
        many = effective_n_jobs(n_jobs) > 1
        with one_blas_thread() if many else nullcontext():
            estimators[first:] = Parallel(n_jobs=n_jobs, prefer="threads")(
                delayed(_fit_estimator)(
                    estimators[r],
                    method,
                    X,
                    targets.classes,
                    plan.table[:, r],
                    params,
                    task("repetition", r),
                )
                for r in range(first, plan.n_repetitions)
            )
        n_iter = max(int(np.max(getattr(e, "n_iter_", 1))) for e in estimators)
        return Trained(Estimators(estimators, plan.n_buckets), n_iter)


def _fit_estimator(estimator, method, X, y, buckets, params, task):
    """Fit a base classifier on the buckets (n_classes,) of the classes y."""
    labels = buckets[y]
    if (buckets == buckets[0]).all():  # most classifiers refuse a single class
        estimator, params = DummyClassifier(strategy="prior"), {}
    elif method == "partial_fit":
        if not hasattr(estimator, "classes_"):
            params = params | {"classes": np.unique(buckets)}
        # A copy: if another one fails all stay as they are; and what a process was sent
        # may be read-only.
        return deepcopy(estimator).partial_fit(X, labels, **params)
    with task.running(estimator):
        return estimator.fit(X, labels, **params)


def _bucket_proba(estimator, X, r):
    """Probabilities of the buckets the estimator has seen, (n, len(classes_)).

    It is that of repetition r.
    """
    if hasattr(estimator, "predict_proba"):
        method, proba = "predict_proba", estimator.predict_proba(X)
        shape = np.shape(proba)
    else:
        method, proba = "decision_function", estimator.decision_function(X)
        shape = np.shape(proba)
        if len(shape) == 1:
            positive = expit(proba)
            proba = np.column_stack([1 - positive, positive])
        elif len(shape) == 2:
            with np.errstate(invalid="ignore"):  # of infinity, refused below
                proba = softmax(proba, axis=1)
    n_buckets = len(estimator.classes_)
    is_by_pair = getattr(estimator, "decision_function_shape", None) == "ovo"
    if np.shape(proba) != (X.shape[0], n_buckets) or (
        method == "decision_function" and is_by_pair and n_buckets > 2
    ):
        raise ValueError(
            f"{method} of repetition {r}, {estimator!r}, has the shape {shape} for "
            f"{X.shape[0]} rows and {n_buckets} buckets. One score for each bucket is "
            "needed (for SVC, decision_function_shape='ovr')."
        )
    n_missing = np.count_nonzero(np.isnan(proba).any(axis=1))
    if n_missing:
        raise ValueError(
            f"{method} of repetition {r}, {estimator!r}, gives NaN for {n_missing} of "
            f"{X.shape[0]} rows. Scale X (StandardScaler or Normalizer), look for "
            "buckets with too few rows, or use another estimator."
        )
    return proba
