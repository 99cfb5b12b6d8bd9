"""Any scikit-learn classifier as the learner: a clone for each repetition.

Where a row may have several labels, a repetition learns an indicator of buckets, of
shape (n_samples, B): a row has the buckets of all its labels.  A classifier whose tags
say `multi_label` learns it at once.  Of any other a repetition is a list of B clones,
one for each bucket.  The meta-estimators of scikit-learn do not serve here.
`OneVsRestClassifier` warns of buckets without a row, which are usual, and takes weights
by metadata routing only.  `MultiOutputClassifier` fits no bucket without a row, and has
no `decision_function`.
"""

import pickle
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
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
from sklearn.utils.validation import has_fit_parameter

from ._compat import _routing_enabled, _set_random_states, one_blas_thread
from ._planning import Trained
from ._tasks import run_tasks

# The share of every bucket probability of a base classifier that is spread evenly over
# the buckets, so that a probability of zero makes no class impossible.
_SMOOTHING = 1e-3


@dataclass(frozen=True, eq=False)
class Estimators:
    """A scorer of buckets: fitted classifiers, one for each repetition.

    estimators : list of classifiers, whose classes are bucket numbers; with several
        labels they know an indicator of buckets, or are lists of one for each bucket
    several : bool, whether a row may have several labels
    """

    made_by = "base classifiers"
    is_compressed = False
    lacks = (
        "{0} is an attribute of the built-in learner. This model was fitted with a "
        "base estimator: see {0} of its estimators_, if they have it."
    )

    estimators: list
    n_buckets: int
    several: bool = False

    @property
    def n_bytes(self):
        return len(pickle.dumps(self.estimators))

    def check_compressible(self):
        """Refuse: nothing is known of the weights of estimators."""
        raise ValueError(
            "compress is for models of the built-in learner, and this one has base "
            "classifiers. Make them smaller by their own means, such as "
            "SGDClassifier.sparsify, or train with estimator=None."
        )

    def state(self):
        """What is pickled, by name; that of `several` is the model's."""
        return {"estimators_": self.estimators}

    @classmethod
    def from_state(cls, state, n_buckets):
        """The scorer of which `state` is taken out of a larger one, or None."""
        if "estimators_" not in state:
            return None
        several = bool(state.get("_several"))  # older versions had one label a row
        return cls(state.pop("estimators_"), n_buckets, several)

    @property
    def known_buckets(self):
        """Which buckets have probabilities, bool (R, B); others cannot be learned."""
        known = np.full((len(self.estimators), self.n_buckets), self.several)
        if not self.several:
            for r, estimator in enumerate(self.estimators):
                known[r, estimator.classes_] = True
        return known

    def on(self, device, table):
        """The scorer itself: estimators know no device."""
        return self

    def bucket_scores(self, X, log, divisor):
        """(Log) probabilities of the buckets, divided: float32 (n_samples, R, B)."""
        out = np.zeros((X.shape[0], len(self.estimators), self.n_buckets), np.float32)
        for r, estimator in enumerate(self.estimators):
            where = f"repetition {r}"
            with np.errstate(divide="ignore"):  # naive Bayes has priors of zero
                if self.several:
                    out[:, r] = _marginals(estimator, X, self.n_buckets, where)
                else:
                    out[:, r, estimator.classes_] = _bucket_proba(estimator, X, where)
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
        return replace(self, estimators=[self.estimators[r] for r in chosen])

    @classmethod
    def concatenate(cls, scorers):
        """The repetitions of all, in this order."""
        estimators = [e for scorer in scorers for e in scorer.estimators]
        return replace(scorers[0], estimators=estimators)


class EstimatorLearner:
    """Fits clones of the parameter `estimator` on the buckets of the rows.

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
        if self.parameters.max_bytes is not None:
            raise ValueError(
                f"max_bytes={self.parameters.max_bytes} is for the built-in learner. "
                "With a base estimator use max_bytes=None."
            )
        if self.parameters.checkpoint is not None:
            raise ValueError(
                f"checkpoint={self.parameters.checkpoint!r} is for the built-in "
                "learner. With a base estimator use checkpoint=None."
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

    def check_source(self):
        """Refuse to train on rows that come in blocks."""
        raise ValueError(
            "fit of a base estimator needs X and y, all rows at once. For blocks of "
            "rows call partial_fit with each, or use estimator=None."
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

    def renumbered(self, memory, places):
        """The memory, there is none, of a model whose classes have other numbers."""
        return memory

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
            n_clones = self._n_clones(targets.several, plan.n_buckets)
            for seed in plan.seeds[plan.n_old :]:
                estimators.append(_clones(self.estimator, seed, n_clones))
        first = plan.n_old if method == "fit" else 0
        n_jobs = self.parameters.n_jobs
        many = effective_n_jobs(n_jobs) > 1
        with one_blas_thread() if many else nullcontext():
            tasks = [
                (r, estimators[r], task("repetition", r))
                for r in range(first, plan.n_repetitions)
            ]
            shared = method, X, targets, plan.table, plan.n_buckets, params
            estimators[first:] = run_tasks(_fit_estimator, shared, tasks, n_jobs)
        scorer = Estimators(estimators, plan.n_buckets, targets.several)
        return Trained(scorer, max(map(_n_iter, estimators)))

    def _n_clones(self, several, n_buckets):
        """Clones of a repetition, or None where it is one that is no list."""
        tags = get_tags(self.estimator).classifier_tags
        at_once = not several or (tags is not None and tags.multi_label)
        return None if at_once else n_buckets


def _clones(estimator, seed, n_clones):
    """A clone with a seed, or a list of some whose seeds all come of this one."""
    random_state = check_random_state(int(seed))
    clones = [clone(estimator) for _ in range(n_clones or 1)]
    for each in clones:
        _set_random_states(each, random_state)
    return clones[0] if n_clones is None else clones


def _n_iter(estimator):
    """Epochs of a fitted classifier or list of them, 1 if it does not say."""
    if isinstance(estimator, list):
        return max(map(_n_iter, estimator))
    n_iter = getattr(estimator, "n_iter_", None)
    return 1 if n_iter is None else int(np.max(n_iter))


def _fit_estimator(shared, repetition, estimator, task):
    """Fit the classifier of a repetition on the buckets of the classes."""
    method, X, targets, table, n_buckets, params = shared
    buckets = table[:, repetition]
    labels, classes = buckets[targets.classes], np.unique(buckets)
    if targets.several:
        # by columns: of 8 bits, as trees refuse sparse ones
        Y = np.zeros((targets.n_rows, n_buckets), np.int8, order="F")
        Y[targets.rows(), labels] = 1
        labels, classes = Y, np.arange(n_buckets)
    elif classes.size == 1:  # most classifiers refuse a single class
        estimator, params = DummyClassifier(strategy="prior"), {}
        method = "fit"
    with task.running(estimator):
        if isinstance(estimator, list):
            bits = zip(estimator, labels.T, strict=True)
            return [_fit_bit(each, method, X, bit, params) for each, bit in bits]
        if method == "partial_fit":
            return _partial_fit(estimator, X, labels, classes, params)
        return estimator.fit(X, labels, **params)


def _fit_bit(estimator, method, X, y, params):
    """Fit a classifier on whether rows have a bucket, y (n_samples,) of 0 and 1.

    If all or none have it in `fit`, which most classifiers refuse, its place is kept
    by one that says so until `partial_fit` brings others.
    """
    if method == "fit":
        if y.min() < y.max():
            return estimator.fit(X, y, **params)
        constant = DummyClassifier(strategy="prior").fit(X, y)
        constant.waiting_ = estimator
        return constant
    if hasattr(estimator, "waiting_"):
        if (y == estimator.classes_[0]).all():
            return estimator
        estimator = estimator.waiting_
    return _partial_fit(estimator, X, y, [0, 1], params)


def _partial_fit(estimator, X, y, classes, params):
    """A copy of the classifier that has seen the block."""
    if not hasattr(estimator, "classes_"):
        params = params | {"classes": classes}
    # A copy: if another one fails all stay as they are; and what a process was sent may
    # be read-only.
    return deepcopy(estimator).partial_fit(X, y, **params)


def _marginals(estimator, X, n_buckets, where):
    """Probabilities (n, B) that a row has a bucket; `where` is for messages."""
    n_samples = X.shape[0]
    if isinstance(estimator, list):
        classes = [each.classes_ for each in estimator]
        proba = [
            _bucket_proba(each, X, f"bucket {b} of {where}")
            for b, each in enumerate(estimator)
        ]
        return _of_ones(proba, classes)
    if hasattr(estimator, "predict_proba"):
        method, proba = "predict_proba", estimator.predict_proba(X)
    else:
        method, proba = "decision_function", expit(estimator.decision_function(X))
    expected = n_samples, n_buckets
    if isinstance(proba, list):  # of arrays, one for each bucket
        shape = [np.shape(each) for each in proba]
        expected = [(n_samples, classes.size) for classes in estimator.classes_]
    else:
        shape = np.shape(proba)
    if shape != expected:
        raise ValueError(
            f"{method} of {where}, {estimator!r}, has the shape {shape} for "
            f"{n_samples} rows and an indicator of {n_buckets} buckets. An array "
            f"({n_samples}, {n_buckets}) is needed, or a list of one array for each "
            "bucket with a column for each of its classes_."
        )
    if isinstance(proba, list):
        proba = _of_ones(proba, estimator.classes_)
    _refuse_nan(proba, method, estimator, where)
    return proba


def _of_ones(proba, classes):
    """Of arrays (n, len(classes)) the columns of class 1, zero where it is not seen."""
    pairs = zip(proba, classes, strict=True)
    return np.column_stack([p[:, seen == 1].sum(axis=1) for p, seen in pairs])


def _bucket_proba(estimator, X, where):
    """Probabilities of the buckets the estimator has seen, (n, len(classes_)).

    where : its repetition, for messages
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
            f"{method} of {where}, {estimator!r}, has the shape {shape} for "
            f"{X.shape[0]} rows and {n_buckets} buckets. One score for each bucket is "
            "needed (for SVC, decision_function_shape='ovr')."
        )
    _refuse_nan(proba, method, estimator, where)
    return proba


def _refuse_nan(proba, method, estimator, where):
    """Refuse probabilities (n, B) that are NaN."""
    n_missing = np.count_nonzero(np.isnan(proba).any(axis=1))
    if n_missing:
        raise ValueError(
            f"{method} of {where}, {estimator!r}, gives NaN for {n_missing} of "
            f"{proba.shape[0]} rows. Scale X (StandardScaler or Normalizer), look for "
            "buckets with too few rows, or use another estimator."
        )
