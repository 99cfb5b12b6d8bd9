"""MACHClassifier: parameters, validation, fit and predict; the numerics are elsewhere.

K classes are hashed R times into B buckets (`_hashing`), R classifiers of B buckets
are trained (`_training`, or clones of any scikit-learn classifier), and the scores of
the buckets of a class are merged (`_decoding`).
"""

import pickle
import warnings
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from numbers import Integral, Real

import numpy as np
import scipy.sparse as sp
from joblib import cpu_count, effective_n_jobs
from scipy.special import expit, softmax
from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    clone,
    is_classifier,
)
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score
from sklearn.utils import (
    Bunch,
    assert_all_finite,
    check_random_state,
    compute_class_weight,
    gen_batches,
    get_tags,
)
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    has_fit_parameter,
    validate_data,
)

from . import _dense, _hashing, _steps, _training, _trial, theory
from ._backends import (
    backend,
    choose_device,
    format_bytes,
    free_memory,
    predicting_device,
    resolve_device,
)
from ._calibration import (
    fit_adjustment,
    fit_scalars,
    log_proportions,
    summarize,
)
from ._compat import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    StrOptions,
    _check_sample_weight,
    _fit_context,
    _raise_for_params,
    _routing_enabled,
    _set_random_states,
    one_blas_thread,
    with_callbacks,
)
from ._decoding import decode_scores, decode_topk, prepare
from ._progress import SilentTask, Task
from ._rows import Targets
from ._stages import decode_stages

# The share of every bucket probability of a base classifier that is spread evenly over
# the buckets, so that a probability of zero makes no class impossible.
_SMOOTHING = 1e-3
_CALIBRATION_ROWS = 10_000  # with fewer rows probabilities are not calibrated
_CALIBRATION_SCORES = 20_000_000  # class scores that the calibration may look at
_CALIBRATION_CHUNK = 4_000_000  # and how many are held at a time
_ADJUSTMENT_ROWS = 2_500  # rows that show the logit adjustment, if there are so many
_N_BEST = 10  # classes of a row among which it ranks the true one
_FEW_VALUES = 4  # non-zeros of a column, on average, that are worth its weights
_MANY_BYTES = 1 << 28  # of weights, below which nobody minds
_UNCOUNTED = 1 << 26  # bytes that a fit may take besides the weights
_PLAIN_VALUES = 100_000  # values of X that are checked in the short way
_CHECKED_VALUES = 1 << 20  # of a float16 X, checked at a time
_COPIED_BYTES = 1 << 24  # of rows of a dense X, copied at a time to be looked at
_DECODERS = ("log_mean", "mean", "min", "median")
_CHUNK_BYTES = 1 << 26  # bucket scores made at a time, for all threads together
_LARGEST_VALUE = 1e150  # of X, or squares overflow; below its inverse they vanish
_NO_LABELS = object()  # in place of y, which may be None or anything else by mistake


def _has_partial_fit(self):
    if self.estimator is None or hasattr(self.estimator, "partial_fit"):
        return True
    raise AttributeError(
        f"partial_fit needs a base estimator that has it; {self.estimator!r} has not."
    )


class MACHClassifier(
    CallbackSupportMixin, ClassifierMixin, MetaEstimatorMixin, BaseEstimator
):
    """Classifier for very many classes by merged averages over hashed labels (MACH).

    The K classes are hashed R times into B buckets, ``h_r(k)``, and for each repetition
    r a classifier of B buckets is trained.  A class is scored by merging the
    probabilities of its buckets, by default
    ``score_k = (1/R) sum_r log P_r(h_r(k) | x)``.  Memory is O(d R B), with R growing
    like log K, instead of the O(d K) of one-vs-rest.

    Parameters
    ----------
    estimator : classifier, default=None
        A classifier with `predict_proba` or `decision_function`, cloned once for each
        repetition and fitted on bucket numbers.  None is the built-in learner: softmax
        regression by stochastic gradient descent, all repetitions trained together.

    n_repetitions : int or "auto", default="auto"
        The number R of repetitions.  "auto" takes as many as make R B about 1024, but
        at most 16; 2048 and 32 if X has at most 20 million non-zeros.  It takes at
        least :func:`~sklearn_mach.theory.mach_min_repetitions`, and fewer of all if
        the weights would take more than half of the free memory.  For dense rows and
        for fewer than 2,000 features see Notes.

    n_buckets : int or "auto", default="auto"
        The number B of buckets of a repetition, at least 2.  "auto" takes 64, or one
        for each class if there are at most 256 classes; for dense rows and for fewer
        than 2,000 features see Notes.  With as many buckets as classes every class has
        its own and one repetition is all that is needed; more buckets than classes are
        never used.

    hashing : {"clustered", "balanced", "universal"} or array-like of int of shape \
            (n_classes, n_repetitions), default="clustered"
        "balanced" is a random permutation of the classes modulo B: the numbers of
        classes of two buckets differ by at most one.  "universal" is
        ``((a k + b) mod p) mod B`` with the prime p = 2**61 - 1.  "clustered" is as
        "balanced" except that, once all classes can be told apart, every fourth
        repetition puts similar classes into the same bucket: those whose mean rows
        point the same way.  Such a bucket is easier to learn than a random one, and
        the other repetitions tell its classes apart.  An array is used as
        the table of buckets itself.  No two classes share their bucket in all
        repetitions.

    decoder : {"log_mean", "mean", "min", "median"}, default="log_mean"
        How the R bucket probabilities of a class are merged: the mean of their
        logarithms, their mean (the paper's estimator), their minimum (count-min) or
        their median.

    logit_adjustment : float or "auto", default="auto"
        How much a frequent class loses in its "log_mean": tau in
        ``score_k - tau log(K pi_k)``, where pi_k is the share of class k in the weights
        of the training rows.  Merged scores favour frequent classes.  A positive tau
        makes rare classes come first more often; a larger one finds more of the rare
        classes, from some value on at the cost of accuracy.  "auto" fits tau to rows
        that are set aside (see Notes), by the rank of the true class among the ten
        best, and shrinks it by its standard error; tau is then never negative, and 0
        where no rows are set aside.  Other decoders take no adjustment.

    device : {"auto", "cpu", "cuda"} or str, default="auto"
        Where the built-in learner trains and predicts: "cuda" on all NVIDIA GPUs,
        among which the repetitions are dealt, "cuda:1" on one of them. "auto" takes
        GPUs if one answers and X is large. A model trained on a GPU predicts on the CPU
        where no GPU answers.

    learning_rate : float or "auto", default="auto"
        Step of the built-in learner at the start, for a row of mean weight.  "auto" is
        a factor divided by the mean squared length of the rows (or the row's own, if
        larger).  A short trial on at most 30,000 rows finds the factor, between 1/4 and
        32, that gives the least log loss at its best temperature; with fewer than 1,000
        rows the factor is 4.  The trial uses a tenth of the memory of the weights, or
        16 MB if that is more.  With "auto" and alpha=0 rare features take longer steps
        than frequent ones, in proportion to their inverse document frequency, and the
        steps of a feature fall with the square root of its visits.  With a number or a
        penalty all features take the same steps in `fit`.

    max_iter : int or "auto", default="auto"
        Number of epochs; the step falls linearly to zero at the end of the last.
        "auto" is 5, and up to 100 for fewer than 40,000 rows.  For at least 1,000 dense
        rows it is found by the trial and at most that.

    alpha : float, default=0.0
        Strength of the L2 penalty ``alpha / 2 ||W||^2`` beside the mean log loss.

    batch_size : int or "auto", default="auto"
        Rows of a dense X in one step.  "auto" is up to 256.  With sparse X the built-in
        learner takes a step for each row.  On a GPU rows of both kinds, and up to 1024.

    tol : float or None, default=1e-4
        A repetition is no longer trained when its loss has not fallen by at least `tol`
        in `n_iter_no_change` epochs: the training loss, or with `early_stopping` that
        of the rows set aside.  None never stops before `max_iter`.

    early_stopping : bool, default=False
        Set `validation_fraction` of the rows aside and watch the loss on them.

    validation_fraction : float, default=0.1
        Share of the rows set aside for early stopping, at random.  The last row of a
        class is never set aside, so that no class is lost.

    n_iter_no_change : int, default=5
        Epochs without improvement before a repetition stops.

    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, finite and not negative, which multiply the weights of
        their rows.  The built-in learner divides the weights by their mean.  A row of
        more than twice the mean weight is visited several times an epoch, with a part
        of its weight each time, in place of one longer step; a row of weight zero is
        not visited.

    warm_start : bool, default=False
        When True, `fit` keeps the repetitions of the previous fit and trains only
        those that a larger `n_repetitions` adds.  An `n_repetitions` or `n_buckets` of
        "auto" stays what it was.

    n_jobs : int or None, default=None
        Threads, among which `fit` divides the repetitions, and all predictions their
        rows.  Results do not depend on it.  Predictions use threads of this process
        whatever joblib's backend; `fit` goes where joblib sends it.

    random_state : int, RandomState instance or None, default=None
        Seeds the buckets, the order of the rows and the base estimators.  The first r
        repetitions are the same whatever their number.

    verbose : int, default=0
        1 prints a line for each epoch of the built-in learner: the mean loss, rows per
        second and the seconds left if no repetition stops early.  Dense rows whose
        blocks of repetitions do not all fit in `n_jobs` threads are trained in parts,
        one after the other, that have their own lines.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.
    n_repetitions_, n_buckets_ : int
        The numbers R and B in use.
    bucket_table_ : ndarray of shape (n_classes, n_repetitions), unsigned int
        The bucket of each class in each repetition.
    device_ : str
        The device in use.
    logit_adjustment_ : float
        The logit adjustment in use.
    n_iter_ : int
        Epochs done by the repetition that was trained for longest.
    estimators_ : list of classifiers
        The fitted base classifiers, whose classes are bucket numbers.  Not with the
        built-in learner.
    coef_ : ndarray of shape (n_repetitions, n_buckets, n_features), float32
        Weights of the built-in learner, a view.
    intercept_ : ndarray of shape (n_repetitions, n_buckets), float32
        Intercepts of the built-in learner.
    model_bytes_ : int
        Bytes of the weights, or of the pickled base classifiers, and the table.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had names that are all strings.

    Notes
    -----
    A base classifier may give a bucket the probability zero; 0.1 % of its probability
    is therefore spread evenly over all buckets.  A base classifier without
    `predict_proba` gets the softmax (of two classes, the logistic function) of its
    `decision_function`.

    With the built-in learner, more classes than buckets and at least 10,000 rows, `fit`
    does not train on all rows.  It sets 2 % of them aside, at most 10,000 (20 million /
    K from 2,000 classes on, 2,500 from 8,000 on) and never the last row of a class, and
    fits the logit adjustment and the probabilities to them.  With `early_stopping` they
    are some of the rows that it watches.  `calibrate` does the same with rows that you
    pass.  "Logit adjustment" is what the literature on long tails calls a correction of
    scores by class frequencies (Menon et al., 2021).

    `predict_proba` of "log_mean" is proportional to ``exp(-t gap_k**c)``, where gap_k
    is ``max_j score_j - score_k`` and ``t = exp(a + b max_j score_j)``, which keeps the
    order of the classes.  The three scalars a, b and log c are fitted to the rows set
    aside.  Without such rows c is 1 and t is ``max(1, log K / log B)``: bucket
    probabilities of 1/B then give the uniform 1/K.  `predict_proba` of "mean" is the
    unbiased estimate ``(mean - c) / (1 - c)``, where c is the chance that two classes
    share a bucket: 1/B with "universal", and else the share of the pairs of classes
    that do so in the table, (K - B) / (B (K - 1)) if all buckets have K / B classes.
    Negative values become zero.  All are scaled to sum to one.

    With dense rows or fewer than 2,000 features, "auto" is one repetition with a bucket
    for each class, as long as its weights take at most 1.07 GB and the product of all
    rows and the weights at most 2.5e13 multiply-adds (2e11 of sparse rows): few
    features are not enough to tell a random half of the classes from the other, and
    their weights are cheap.  Beyond that it is 8 repetitions of as many buckets as the
    limits allow.  :func:`~sklearn_mach.theory.plan` prints what the limits say.

    With learning_rate="auto" and alpha=0, dense rows make their steps in a metric:
    centred, and multiplied by the inverse square root of their covariance, which costs
    little beside the products with the weights (where it would not, only the 64
    directions of largest variance are shortened).  The weights of `fit` start from the
    means of the buckets in the metric, as in linear discriminant analysis, and the
    trial is one of the rows of some buckets, which also finds the number of epochs: 1,
    2, 4, ... as long as twice as many lower the loss by 0.3 %.  Rows in the metric are
    kept where they take at most 268 MB.

    Rows much longer than the others do not set the steps of all: a squared length above
    four times the median counts as that in the mean.  `fit` warns where the mean is
    then less than half.

    While `fit` trains the built-in learner on sparse rows with learning_rate="auto" and
    alpha=0, weights that take more than 32 MB are integers of 16 bits in units of the
    feature, and steps are rounded to them at random: an epoch takes as long as the
    memory needs to bring the weights.  Fitted weights are float32.

    Besides X and the weights, `fit` needs memory for the trial and, with
    hashing="clustered", 1.2 kB a class while similar classes are sought (0.45 kB above
    4 million classes).  A second `fit` of the same object keeps the old weights until
    it ends.  An error or an interrupt leaves the model as it was.

    With scikit-learn 1.9 or later `fit` tells the callbacks of `set_callbacks` of its
    tasks.  With a base estimator there is a task "repetition" for each, which holds
    the base's own tasks if that supports callbacks.  The built-in learner has a task
    "repetitions" for each block of them that is trained together, numbered by its
    first repetition, and in it a task "epoch" for each epoch: the model handed over at
    its end is what the fit would give if it ended then, other blocks standing where
    they are, and the logit adjustment and the probabilities not yet fitted.  A callback
    that returns True at the end of an epoch stops the block.  Sparse rows are trained
    in `n_jobs` blocks and dense rows in blocks of about 512 columns R B.  On GPUs a
    block is what one trains at a time, and the weights of other GPUs are handed over as
    they were last copied.  Where joblib trains the repetitions in other processes, only
    the begin and end of the fit are told.

    References
    ----------
    Medini, Huang, Wang, Mohan and Shrivastava (2019), "Extreme Classification in Log
    Memory using Count-Min Sketch: A Case Study of Amazon Search with 50M Products",
    NeurIPS.  Huang, Wang, Medini and Shrivastava (2018), "Extreme Classification in
    Log Memory", arXiv:1810.04254.  Menon, Jayasumana, Rawat, Jain, Veit and Kumar
    (2021), "Long-tail learning via logit adjustment", ICLR, arXiv:2007.07314.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.preprocessing import normalize
    >>> from sklearn_mach import MACHClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X = normalize(X)
    >>> model = MACHClassifier(n_repetitions=8, n_buckets=4, random_state=0)
    >>> model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.85
    True
    >>> model.predict_topk(X[1000:1002], k=2).shape
    (2, 2)
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit"]), None],
        "n_repetitions": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "n_buckets": [Interval(Integral, 2, None, closed="left"), StrOptions({"auto"})],
        "hashing": [StrOptions({"balanced", "universal", "clustered"}), "array-like"],
        "decoder": [StrOptions(set(_DECODERS))],
        "logit_adjustment": [
            Interval(Real, None, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "device": [str],
        "learning_rate": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "warm_start": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator=None,
        *,
        n_repetitions="auto",
        n_buckets="auto",
        hashing="clustered",
        decoder="log_mean",
        logit_adjustment="auto",
        device="auto",
        learning_rate="auto",
        max_iter="auto",
        alpha=0.0,
        batch_size="auto",
        tol=1e-4,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        class_weight=None,
        warm_start=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.n_repetitions = n_repetitions
        self.n_buckets = n_buckets
        self.hashing = hashing
        self.decoder = decoder
        self.logit_adjustment = logit_adjustment
        self.device = device
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.alpha = alpha
        self.batch_size = batch_size
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if self.estimator is None:
            tags.input_tags.sparse = True
        else:
            base = get_tags(self.estimator)
            tags.input_tags.sparse = base.input_tags.sparse
            tags.input_tags.allow_nan = base.input_tags.allow_nan
            tags.input_tags.positive_only = base.input_tags.positive_only
            if base.classifier_tags is not None:  # naive Bayes says so of itself
                tags.classifier_tags.poor_score = base.classifier_tags.poor_score
        return tags

    def get_metadata_routing(self):
        """Routing of metadata to the base estimator.

        Returns
        -------
        routing : MetadataRouter
        """
        router = MetadataRouter(owner=type(self).__name__)
        if self.estimator is None:
            return router.add_self_request(self)
        mapping = MethodMapping().add(caller="fit", callee="fit")
        mapping.add(caller="partial_fit", callee="partial_fit")
        return router.add(estimator=self.estimator, method_mapping=mapping)

    # Fitting ------------------------------------------------------------------------

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, **fit_params):
        """Fit the repetitions.

        It starts anew, also after `partial_fit`, unless `warm_start` is True.  If it
        fails or is interrupted the model stays as it was.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows, float32 or float64 (others become float64).  The built-in
            learner takes a dense float16 X too, without a copy, and learns from it
            what it would learn from the same numbers as float32.  A C-ordered memory
            map is read as it is needed.  Sparse rows of unit length suit the built-in
            learner best.
        y : array-like of shape (n_samples,)
            Class labels: numbers or strings.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows: finite, not negative and not all zero.  For the
            built-in learner see `class_weight`.
        **fit_params : dict
            Passed to `fit` of the base estimator, by metadata routing.

        Returns
        -------
        self : MACHClassifier
        """
        _raise_for_params(fit_params, self, "fit")
        self._check_parameters()
        warm = self.warm_start and hasattr(self, "bucket_table_")
        if warm:
            self._check_learner("warm_start=True", "Set warm_start=False")
        data = {"X": X, "y": y}  # for callbacks, that may pass them to `predict`
        if sample_weight is not None:
            data["metadata"] = {"sample_weight": sample_weight}
        with self._unchanged_on_error():
            X, y = self._validate(X, y, reset=not warm)
            classes, y_codes = _encode(y)
            if warm and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    "With warm_start=True y must hold the classes of the previous fit: "
                    f"{self.classes_.size} then, {classes.size} now, or other labels. "
                    "Set warm_start=False to start anew."
                )
            params, weight = self._route(
                "fit", X, y, y_codes, classes, sample_weight, fit_params
            )
            sketch = self._sketch(X, y_codes, weight, classes.size)
            plan = self._plan(X, classes.size, warm, sketch)
            self._warn_about_columns(X, plan)
            self.classes_ = classes
            context = self._init_callback_context(
                max_subtasks=self._n_tasks(X, plan), sequential_subtasks=False
            )
            context.call_on_fit_task_begin(estimator=self, **data)
            task = partial(Task, self, context, data)
            self._train("fit", X, y_codes, weight, params, plan, task)
            context.call_on_fit_task_end(
                estimator=self, **data, reconstruction_attributes={}
            )
        return self

    @available_if(_has_partial_fit)
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y, classes=None, sample_weight=None, **fit_params):
        """Take one pass over a block of rows.

        The steps of a feature fall with the square root of its visits in all blocks,
        with alpha > 0 those of all features with that of the rows.  After `fit` they
        go on from the rows that `fit` saw.  With learning_rate="auto" the lengths of
        the rows and the document frequencies are those of all blocks so far.  The first
        1,000 rows are kept until the trial for the step; until then the factor is 4.

        The probabilities, and the logit adjustment if it is "auto", stay those of the
        last `fit` or `calibrate`: call `calibrate` after the last block.  The shares of
        the classes, which a logit adjustment needs, are of all blocks.

        Base classifiers are copied before they see the block, and of the built-in
        learner the weights of the features in the block (of all, if X is dense or alpha
        > 0), so that a call that fails leaves the model as it was.  Blocks of many rows
        make the copies cheap.  Parameters of `estimator` that change later do not reach
        the base classifiers of the first call.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            A block of training rows, of the types that `fit` takes.
        y : array-like of shape (n_samples,)
            Their labels.
        classes : array-like of shape (n_classes,), default=None
            All classes; needed at the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, as in `fit`.  They count against the mean weight of all
            blocks so far.
        **fit_params : dict
            Passed to `partial_fit` of the base estimator, by metadata routing.

        Returns
        -------
        self : MACHClassifier
        """
        _raise_for_params(fit_params, self, "partial_fit")
        self._check_parameters()
        first = not hasattr(self, "bucket_table_")
        if first and classes is None:
            raise ValueError("classes must be passed at the first call of partial_fit.")
        if not first:
            self._check_learner("partial_fit", "Call fit")
            self._check_version("partial_fit")
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not known block by block. Pass a dict, or "
                "sample_weight."
            )
        if classes is not None:
            classes = _sorted_classes(classes)
            if not first and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"classes has {classes.size} classes that are not the "
                    f"{self.classes_.size} of the first call."
                )
        else:
            classes = self.classes_
        with self._unchanged_on_error():
            X, y = self._validate(X, y, reset=first)
            y_codes = _encode_as(y, classes)
            params, weight = self._route(
                "partial_fit", X, y, y_codes, classes, sample_weight, fit_params
            )
            if first:
                sketch = self._sketch(X, y_codes, weight, classes.size)
                plan = self._plan(X, classes.size, False, sketch)
            else:
                plan = Bunch(
                    n_repetitions=self.n_repetitions_,
                    n_buckets=self.n_buckets_,
                    n_old=self.n_repetitions_,
                    table=self.bucket_table_,
                )
            self._train("partial_fit", X, y_codes, weight, params, plan)
            self.classes_ = classes
        return self

    @contextmanager
    def _unchanged_on_error(self):
        """Whatever goes wrong inside, the attributes are those from before.

        Those of the callbacks stay, which `with_callbacks` tears down and removes.
        """
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            for name in ("_callback_fit_ctx", "_skl_callbacks_to_teardown"):
                if name in self.__dict__:
                    before[name] = self.__dict__[name]
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _check_parameters(self):
        """What the constraints of single parameters cannot say."""
        resolve_device(self.device)
        if isinstance(self.class_weight, dict):
            for label, weight in self.class_weight.items():
                if not (isinstance(weight, Real) and 0 <= weight < np.inf):
                    raise ValueError(
                        f"class_weight gives class {label!r} the weight {weight!r}. "
                        "Weights must be finite numbers that are not negative."
                    )
        if self.estimator is None:
            return
        if self.device not in ("auto", "cpu"):
            raise ValueError(
                f"device={self.device!r} is for the built-in learner. With a base "
                "estimator use device='cpu' or 'auto'."
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

    def _check_learner(self, cause, remedy):
        """Refuse to go on with a model that another kind of learner has trained."""
        if hasattr(self, "_weights") == (self.estimator is None):
            return
        before = "base classifiers" if self.estimator is None else "estimator=None"
        raise ValueError(
            f"{cause} goes on with a model of {before}, but estimator is now "
            f"{self.estimator!r}. {remedy} to start anew, or set estimator back."
        )

    def _check_version(self, cause):
        """Refuse to go on with a model that has no sums over its training rows."""
        if not hasattr(self, "_class_weights"):
            raise ValueError(
                "This model was pickled by an older version of sklearn_mach, without "
                f"the sums over the training rows that {cause} needs. Call fit to "
                "train it anew."
            )

    def _validate(self, X, y=_NO_LABELS, reset=False):
        """Checked rows (CSR canonical with int32 indices, or C-ordered), and labels.

        They are float32 or float64, for the built-in learner also float16 if dense.
        """
        has_labels = y is not _NO_LABELS
        if not has_labels and self._is_plain(X):
            return X
        tags = self.__sklearn_tags__().input_tags
        if has_labels:
            _check_labels(y, "y")
        _refuse_dates(X)
        dtypes, is_half = [np.float64, np.float32], False
        if self.estimator is None:
            dtypes.append(np.float16)
            dtype = getattr(X, "dtype", None)
            is_half = isinstance(dtype, np.dtype) and dtype == np.float16
            if is_half and sp.issparse(X):  # of which SciPy does little, and kernels
                X, is_half = X.astype(np.float32), False
        try:
            checked = validate_data(
                self,
                X,
                y if has_labels else "no_validation",
                reset=reset,
                accept_sparse="csr" if tags.sparse else False,
                dtype=dtypes,
                order="C",
                ensure_all_finite=not (tags.allow_nan or is_half),
            )
        except ValueError as error:
            if "could not convert string to float" not in str(error):
                raise
            raise ValueError(
                f"X holds strings that are no numbers: {error}. Make features of them "
                "first, for example with sklearn.preprocessing.OneHotEncoder, or of "
                "text with sklearn.feature_extraction.text.TfidfVectorizer."
            ) from error
        X, *labels = checked if isinstance(checked, tuple) else (checked,)
        if is_half:
            _assert_finite_in_batches(X, type(self).__name__)
        if sp.issparse(X):
            if X.indices.size > X.nnz:  # arrays with room for more
                X = X.copy()
                X.prune()
            if not X.has_canonical_format:
                X = X.copy()
                X.sum_duplicates()
            if X.indices.dtype != np.int32 and X.nnz < 2**31 and X.shape[1] < 2**31:
                X = type(X)(
                    (X.data, X.indices.astype(np.int32), X.indptr.astype(np.int32)),
                    shape=X.shape,
                )
        if labels:
            if self.estimator is None:
                _refuse_extremes(X)
            if labels[0].dtype.kind not in "biuU":  # which are always classes
                # twice each: few rows a class, of which it warns, are usual here
                check_classification_targets(np.repeat(labels[0], 2))
            return X, labels[0]
        return X

    def _is_plain(self, X):
        """Whether X is a few rows that all checks of `_validate` leave as they are.

        Seeing it here saves scikit-learn's look for data frames and names of columns,
        longer than the decoding of a row. Whatever is not plain goes there.
        """
        dtypes = np.float32, np.float64
        if type(X) is np.ndarray:
            values, is_ordered = X, X.flags.c_contiguous
            dtypes += (np.float16,)
        elif type(X) in (sp.csr_matrix, sp.csr_array):
            values, is_ordered = X.data, X.indices.dtype == np.int32
        else:
            return False
        return (
            self.estimator is None
            and not hasattr(self, "feature_names_in_")
            and is_ordered
            and X.ndim == 2
            and X.shape[0] > 0
            and X.shape[1] == self.n_features_in_
            and values.size <= _PLAIN_VALUES
            and values.dtype in dtypes
            and bool(np.isfinite(values).all())
            and (values is X or bool(X.has_canonical_format))
        )

    def _route(self, method, X, y, y_codes, classes, sample_weight, params):
        """Metadata of the base estimator, and the row weights of the built-in learner.

        Returns a Bunch of keyword arguments for the base estimator, and None or float64
        of shape (n_samples,).
        """
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        if self.class_weight is not None:
            by_class = compute_class_weight(self.class_weight, classes=classes, y=y)
            weight = by_class[y_codes] * (1.0 if weight is None else weight)
        if weight is not None and not weight.any():
            raise ValueError(
                "The weights of all rows are zero: sample_weight, class_weight or "
                "their product. At least one row must have a positive weight."
            )
        if self.estimator is None:
            return Bunch(), weight
        if weight is not None:
            params = params | {"sample_weight": weight}
        if _routing_enabled():
            return process_routing(self, method, **params).estimator[method], weight
        if weight is not None and not has_fit_parameter(
            self.estimator, "sample_weight"
        ):
            cause = "sample_weight" if sample_weight is not None else "class_weight"
            raise ValueError(
                f"{cause} was passed, but {self.estimator!r} takes no sample_weight."
            )
        return Bunch(**params), weight

    def _plan(self, X, n_classes, warm, sketch):
        """Sizes, table and seeds of the repetitions to be trained."""
        n_features = X.shape[1]
        n_nonzeros = X.nnz if sp.issparse(X) else X.size
        few = theory.FewFeatures(n_features, n_nonzeros, not sp.issparse(X))
        given = None
        n_repetitions, n_buckets = self.n_repetitions, self.n_buckets
        if not isinstance(self.hashing, str):
            given = _check_table(self.hashing, n_classes, n_repetitions, n_buckets)
            given, n_repetitions, n_buckets = given
            n_buckets = int(n_buckets)  # of few bits, R B would overflow
        else:
            if warm:  # "auto" depends on free memory, in which the model itself is now
                if n_repetitions == "auto":
                    n_repetitions = self.n_repetitions_
                if n_buckets == "auto":
                    n_buckets = self.n_buckets_
            n_repetitions, n_buckets = theory.choose_sizes(
                n_classes,
                n_repetitions,
                n_buckets,
                n_nonzeros=n_nonzeros,
                few=few if self.estimator is None else None,
                max_columns=self._free_columns(n_features),
            )
            least = _hashing.min_repetitions(n_classes, max(n_buckets, 2))
            if n_repetitions < least:
                raise ValueError(
                    f"n_repetitions={n_repetitions} with n_buckets={n_buckets} cannot "
                    f"tell {n_classes} classes apart: there are only "
                    f"{n_buckets**n_repetitions} combinations of buckets. Use "
                    f"n_repetitions={least} or more, or more buckets."
                )
        n_old = 0
        if warm:
            n_old = self.n_repetitions_
            if n_buckets != self.n_buckets_ or n_repetitions < n_old:
                raise ValueError(
                    f"With warm_start=True n_buckets must stay {self.n_buckets_} and "
                    f"n_repetitions must be at least {n_old}; they are {n_buckets} and "
                    f"{n_repetitions}. Set warm_start=False to start anew."
                )
            if given is not None and np.any(given[:, :n_old] != self.bucket_table_):
                raise ValueError(
                    f"With warm_start=True the first {n_old} columns of hashing must "
                    "stay as they were. Set warm_start=False to start anew."
                )
            if n_repetitions == n_old:
                warnings.warn(
                    f"warm_start=True with n_repetitions={n_old} as before trains "
                    "nothing. Raise n_repetitions to add repetitions.",
                    UserWarning,
                    stacklevel=3,
                )
        self._check_memory(n_classes, n_features, n_repetitions, n_buckets)
        order_seed, seeds = self._draw_seeds(n_repetitions)
        table = given
        if table is None:
            start = self.bucket_table_ if warm else None
            table = _hashing.draw_table(
                n_classes, n_buckets, seeds, self.hashing, start, sketch, self.n_jobs
            )
        return Bunch(
            n_repetitions=n_repetitions,
            n_buckets=n_buckets,
            n_old=n_old,
            table=table,
            seeds=seeds,
            order_seed=order_seed,
        )

    def _draw_seeds(self, n_repetitions):
        """Seed of the order of the rows, and one for each repetition."""
        random_state = check_random_state(self.random_state)
        order_seed = random_state.randint(np.iinfo(np.int32).max)
        seeds = random_state.randint(np.iinfo(np.int32).max, size=n_repetitions)
        return order_seed, seeds

    def _sketch(self, X, y, weight, n_classes):
        """Sketches of the classes from a seed, for the clustered repetitions."""
        if weight is None:
            weight = np.ones(y.size, np.float32)
        return partial(_hashing.sketch_classes, X, y, weight, n_classes)

    def _free_columns(self, n_features):
        """Columns R B of weights that take half of the free memory, or None."""
        free = free_memory()
        if self.estimator is not None or free is None:
            return None
        return max(free // 2 // theory.model_bytes(n_features, 1, 1), 1)

    def _check_memory(self, n_classes, n_features, n_repetitions, n_buckets):
        """Refuse weights that do not fit in memory before they are allocated."""
        free = free_memory()
        is_clustered = isinstance(self.hashing, str) and self.hashing == "clustered"
        if is_clustered and n_repetitions > 3 and n_buckets < n_classes:
            needed = _hashing.sketch_bytes(n_classes)
            if free is not None and needed > max(free, _UNCOUNTED):
                raise MemoryError(
                    f"hashing='clustered' compares {n_classes} classes in {needed} "
                    f"bytes ({format_bytes(needed)}), but only {free} bytes "
                    f"({format_bytes(free)}) are free. Use hashing='balanced'."
                )
        if self.estimator is not None or free is None:
            return
        weights = theory.model_bytes(n_features, n_repetitions, n_buckets)
        needed, trial = weights, ""
        if self.learning_rate == "auto":
            n_bytes = _trial.probe_bytes(n_features, n_repetitions * n_buckets)
            if n_bytes > _UNCOUNTED:
                needed, trial = needed + n_bytes, " and the trial of the learning rate"
        if needed <= free:
            return
        column = theory.model_bytes(n_features, 1, 1)
        fitting = theory.largest_sizes(
            n_classes, n_buckets, free * weights // needed // column
        )
        advice = "No R and B fit; use fewer features."
        if fitting is not None:
            advice = (
                f"n_repetitions={fitting[0]} with n_buckets={fitting[1]} would fit."
            )
        raise MemoryError(
            f"The weights of n_repetitions={n_repetitions} with n_buckets={n_buckets} "
            f"for {n_features} features{trial} take {needed} bytes "
            f"({format_bytes(needed)}), but only {free} bytes "
            f"({format_bytes(free)}) are free. {advice}"
        )

    def _warn_about_columns(self, X, plan):
        """Warn of weights that are many for so few values to learn them from."""
        n_features, n_nonzeros = X.shape[1], X.nnz if sp.issparse(X) else X.size
        n_bytes = theory.model_bytes(n_features, plan.n_repetitions, plan.n_buckets)
        is_sparse = n_nonzeros < _FEW_VALUES * n_features
        if self.estimator is None and is_sparse and n_bytes > _MANY_BYTES:
            warnings.warn(
                f"The weights take {format_bytes(n_bytes)}, but X has only "
                f"{n_nonzeros:,} non-zeros in {n_features:,} columns, "
                f"{n_nonzeros / n_features:.1f} a column. Fewer columns make the model "
                "smaller and hardly less accurate: a smaller n_features of "
                "HashingVectorizer, a larger min_df of TfidfVectorizer, or "
                "sklearn.feature_selection.VarianceThreshold.",
                UserWarning,
                stacklevel=2,
            )

    def _n_tasks(self, X, plan):
        """The number of tasks in which the repetitions are trained, None if unknown."""
        if self.estimator is not None:
            return plan.n_repetitions - plan.n_old
        width = plan.n_repetitions * plan.n_buckets
        if choose_device(self.device, X, width) != "cpu":
            return None
        sizes = plan.n_old, plan.n_repetitions, plan.n_buckets
        return len(_training.split_repetitions(X, *sizes, self.n_jobs))

    def _train(self, method, X, y, weight, params, plan, task=SilentTask):
        """Train what `plan` asks for and store the fitted attributes.

        ``task(name, r, ...)`` gives the task that begins with repetition r.
        """
        continued = method == "partial_fit" and plan.n_old > 0
        n_classes = plan.table.shape[0]
        self.n_repetitions_, self.n_buckets_ = plan.n_repetitions, plan.n_buckets
        if plan.table is not getattr(self, "bucket_table_", None):
            self._chance = _hashing.collision_chance(
                plan.table, plan.n_buckets, self.hashing
            )
        self.bucket_table_ = plan.table
        if not continued:
            self._scalars, self.logit_adjustment_ = None, 0.0
            self._class_weights = np.zeros(n_classes)
            self._set_offset(None)
        # not in place: after an error the attributes from before come back
        self._class_weights = self._class_weights + np.bincount(y, weight, n_classes)
        self._adjust(self.logit_adjustment_)
        self.__dict__.setdefault("_placed", {}).clear()  # copies on a device
        held = np.empty(0, np.int32)
        if self.estimator is None:
            held, held_weight = self._train_softmax(method, X, y, weight, plan, task)
            self.__dict__.pop("estimators_", None)
        else:
            self.device_ = "cpu"
            self._train_estimators(method, X, y, params, plan, task)
            for name in ("_weights", "_intercepts"):
                self.__dict__.pop(name, None)
        if held.size:
            self._fit_scalars(X, y, held, held_weight)

    def _train_estimators(self, method, X, y, params, plan, task):
        estimators = list(self.estimators_) if plan.n_old else []
        if method == "fit" or not estimators:
            for seed in plan.seeds[plan.n_old :]:
                estimator = clone(self.estimator)
                _set_random_states(estimator, check_random_state(int(seed)))
                estimators.append(estimator)
        first = plan.n_old if method == "fit" else 0
        n_jobs = effective_n_jobs(self.n_jobs)
        with one_blas_thread() if n_jobs > 1 else nullcontext():
            estimators[first:] = Parallel(n_jobs=self.n_jobs, prefer="threads")(
                delayed(_fit_estimator)(
                    estimators[r],
                    method,
                    X,
                    y,
                    plan.table[:, r],
                    params,
                    task("repetition", r),
                )
                for r in range(first, plan.n_repetitions)
            )
        self.estimators_ = estimators
        self.n_iter_ = max(
            int(np.max(getattr(estimator, "n_iter_", 1))) for estimator in estimators
        )

    def _train_softmax(self, method, X, y, weight, plan, task):
        """Train the built-in learner; the rows set aside, and their weights."""
        n_samples, n_features = X.shape
        width, n_buckets = plan.n_repetitions * plan.n_buckets, plan.n_buckets
        is_block = method == "partial_fit"
        continued = is_block and plan.n_old > 0
        n_iter, old, factor, waiting = 0, None, None, []
        if continued:
            n_iter, old = self.n_iter_, self._seen
            factor, waiting = self._factor, self._waiting
        # the rows set aside stay the same when repetitions are added
        order_seed = self._order_seed if plan.n_old else plan.order_seed
        seed = order_seed + self.t_ if continued else order_seed
        self.device_ = choose_device(self.device, X, width)
        device = backend(self.device_)
        # not get_params: a sub-class may have other parameters
        names = MACHClassifier._parameter_constraints
        options = {name: getattr(self, name) for name in names}
        n_used = n_samples if weight is None else np.count_nonzero(weight)
        options["batch_size"] = device.batch_size(options, n_used)
        n_held = 0
        if is_block:
            options |= {"max_iter": 1, "early_stopping": False}
        else:
            n_held = _n_calibration(n_used, plan.table.shape[0], n_buckets)

        def settings_of(X, y, weight, seen=None):
            n_columns = width if self.device_ == "cpu" or not sp.issparse(X) else 0
            return _steps.make_settings(
                X, y, weight, options, seed, seen, n_held, n_columns, is_block
            )

        n_epochs = None
        with one_blas_thread():  # whose sums depend on its threads
            settings, seen = settings_of(X, y, weight, old)
            if self.learning_rate == "auto":
                if factor is None:
                    rows, trial = (X, y), settings
                    if is_block:
                        ones = np.ones(n_samples)
                        waiting = [*waiting, (X, y, ones if weight is None else weight)]
                    if len(waiting) > 1:  # rows of earlier blocks, too few for a trial
                        *rows, weights = _stack(waiting)
                        trial, stacked = settings_of(*rows, weights)
                        if stacked.metric is not None:
                            old = old._replace(metric=stacked.metric)
                            settings, seen = settings_of(X, y, weight, old)
                    factor, n_epochs = _trial.probe(
                        *rows, plan.table[:, 0], n_buckets, trial, width, self.n_jobs
                    )
                    if factor is not None:
                        if len(waiting) > 1 and trial.metric is None:
                            # rows may come again, known by heart
                            factor = min(factor, _trial.DEFAULT_FACTOR)
                        waiting = []
                    elif is_block:  # a copy: the caller may fill its arrays anew
                        waiting[-1] = deepcopy(waiting[-1])
                settings = settings.scaled(factor or _trial.DEFAULT_FACTOR)
                if n_epochs is not None and self.max_iter == "auto" and not is_block:
                    settings = settings.with_epochs(n_epochs)

        first = 0 if continued else plan.n_old
        if continued:
            W, b = self._weights, self._intercepts
            if isinstance(W, np.memmap) or not W.flags.writeable:  # of a file
                W, b = np.array(W), np.array(b)
            all_rows = self.alpha > 0 or not sp.issparse(X)
            touched = slice(None) if all_rows else np.unique(X.indices)
            before = W[touched].copy(), b.copy()
        else:
            W = np.zeros((n_features, width), np.float32)
            b = np.zeros(width, np.float32)
            if plan.n_old:
                W[:, : plan.n_old * n_buckets] = self._weights
                b[: plan.n_old * n_buckets] = self._intercepts
            if settings.starts:
                n_threads = effective_n_jobs(self.n_jobs)
                with one_blas_thread():
                    _dense.start_from_means(
                        X, y, plan.table, W, b, first, settings, n_threads
                    )
        # as `train_all` finds them; in a worker's thread joblib counts other threads
        blocks = _training.split_repetitions(
            X, first, plan.n_repetitions, n_buckets, self.n_jobs
        )

        def attributes():
            weights = W.copy()
            if settings.unit is not None:
                _training.to_float(weights, blocks, n_buckets, settings.unit)
            return {"_weights": weights, "_intercepts": b.copy()}

        block_task = partial(
            task, "repetitions", n_epochs=len(settings.decay), attributes=attributes
        )
        try:
            n_done = device.train_all(
                X,
                Targets.of(y),
                plan.table,
                W,
                b,
                first,
                not continued and not settings.starts,
                settings,
                self.n_jobs,
                block_task,
            )
        except BaseException:
            if continued:  # the weights are trained in place
                W[touched], b[:] = before
            raise
        self.t_ = n_samples * max(n_done, is_block) + (self.t_ if continued else 0)
        self._weights, self._intercepts = W, b
        self._order_seed, self._seen = order_seed, seen
        self._factor, self._waiting = factor, waiting
        if is_block:
            self.n_iter_ = n_iter + n_done
        else:
            self.n_iter_ = max(n_done, self.n_iter_ if plan.n_old else 0)
        held = settings.held[:n_held]
        return held, settings.row_weight(held)

    # Calibrating --------------------------------------------------------------------

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
            Their labels, all of them in `classes_`.
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
        with self._unchanged_on_error():
            X, y = self._validate(X, y)
            codes = _encode_as(y, self.classes_)
            weight = np.ones(codes.size)
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
            self._fit_scalars(X, codes, order, weight[order])
        return self

    def _fit_scalars(self, X, y, order, weight):
        """Fit the logit adjustment and the scalars of the probabilities.

        order (n,): the rows to look at, in a random order; the scalars look at the
        first of them.  weight (n,): theirs.
        """
        table, n_classes = self.bucket_table_, self.classes_.size
        scale, n_jobs = (True, self.n_repetitions_), self._n_threads()
        tau, y = 0.0, y[order]

        def bucket_scores(rows):
            n_parts = 1
            if not sp.issparse(X):  # whose rows are copied: a few at a time
                n_parts = max(-(-rows.size * X[:1].nbytes // _COPIED_BYTES), 1)
            parts = np.array_split(rows, n_parts)
            return np.concatenate([self._bucket_scores(X[p], scale) for p in parts])

        if self.logit_adjustment == "auto":

            def find(rows, _):
                scores = bucket_scores(rows)
                return decode_topk(scores, table, min(_N_BEST, n_classes))

            parts = zip(*self._map_chunks(find, order, n_jobs), strict=True)
            best, scores = (np.concatenate(part) for part in parts)
            log_prior, own = self._log_prior()[best], best == y[:, None]
            tau = fit_adjustment(scores, log_prior, own, weight)
        self._adjust(tau)

        def look_at(rows):
            scores = bucket_scores(order[rows])
            scores = decode_scores(scores, table, offset=self._offset)
            return summarize(scores, y[rows], weight[rows])

        n_rows = min(max(_CALIBRATION_SCORES // n_classes, 500), y.size)
        size = max(_CALIBRATION_CHUNK // n_classes, 32)
        summaries = Parallel(n_jobs=n_jobs, require="sharedmem")(
            delayed(look_at)(rows) for rows in gen_batches(n_rows, size)
        )
        self._scalars = fit_scalars(summaries, _digits(n_classes, self.n_buckets_))

    def _log_prior(self):
        """Logarithms of K times the shares of the classes, float64 (n_classes,)."""
        share = self._class_weights / self._class_weights.sum()
        return np.log(np.maximum(share, share[share > 0].min()) * share.size)

    def _adjust(self, tau):
        """Use a logit adjustment, which a parameter that is a number overrules."""
        if self.logit_adjustment != "auto":
            tau = float(self.logit_adjustment)
        self.logit_adjustment_ = tau
        if tau != 0:
            self._set_offset((-tau * self._log_prior()).astype(np.float32))
        elif self._offset is not None:
            self._set_offset(None)

    # Predicting ---------------------------------------------------------------------

    def predict(self, X):
        """Predict the best class of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,), with the dtype of `classes_`
        """
        return self.predict_topk(X, k=1)[:, 0]

    def predict_topk(self, X, k=5, return_scores=False):
        """Predict the k best classes of each row without scoring them all at once.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        k : int, default=5
            From 1 to the number of classes.
        return_scores : bool, default=False
            Whether to return the scores too.

        Returns
        -------
        labels : ndarray of shape (n_samples, k)
            Best first; of classes with equal scores the first in `classes_`.
        scores : ndarray of shape (n_samples, k), float32
            Scores as in `decision_function`, if `return_scores`.
        """
        self._check_prediction(k)
        X = self._validate(X)
        parts = self._map_chunks(lambda X, _: self._topk(X, k), X, self._n_threads(k))
        indices = np.concatenate([part[0] for part in parts])
        labels = self.classes_[indices]
        if not return_scores:
            return labels
        return labels, np.concatenate([part[1] for part in parts])

    def staged_predict(self, X):
        """Predict the best class of each row by the first r repetitions, r = 1..R.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Yields
        ------
        y : ndarray of shape (n_samples,), with the dtype of `classes_`
            As in `staged_predict_topk`.
        """
        return (labels[:, 0] for labels in self.staged_predict_topk(X, k=1))

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
        self._check_prediction(k)
        return self._stages(self._validate(X), k, return_scores)

    def staged_score(self, X, y, sample_weight=None):
        """Give the accuracy of the first r repetitions, for r = 1, 2, ..., R.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Yields
        ------
        score : float
            Accuracy of `staged_predict`.
        """
        check_consistent_length(X, y, sample_weight)
        return (
            accuracy_score(y, labels, sample_weight=sample_weight)
            for labels in self.staged_predict(X)
        )

    def decision_function(self, X):
        """Score every class: the merged bucket scores.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples, n_classes), float32
            Of shape (n_samples,) if there are two classes: the second score less the
            first.

        Raises
        ------
        MemoryError
            If the scores would not fit in the free memory; use `predict_topk`.
        """
        scores = self._all_scores(X, np.float32)
        if self.classes_.size == 2:
            return scores[:, 1] - scores[:, 0]
        return scores

    def predict_proba(self, X):
        """Estimate the probability of every class.

        With "log_mean" the probabilities follow from the scores by three scalars that
        `fit` or `calibrate` finds on rows not trained on; with the other decoders, or
        without such rows, they are less reliable.  See Notes of the class.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float64
            Rows sum to one.

        Raises
        ------
        MemoryError
            If the probabilities would not fit in the free memory; use `predict_topk`.
        """
        return self._all_scores(X, np.float64, self._to_proba)

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

    def _check_prediction(self, k=1):
        """Refuse what cannot predict k classes: no fit, or bad parameters set since.

        Looking at two of them takes a microsecond, and scikit-learn's check of all
        0.1 ms, longer than the prediction of a row.
        """
        check_is_fitted(self)
        is_decoder = isinstance(self.decoder, str) and self.decoder in _DECODERS
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

    def _set_offset(self, offset):
        """Store what is added to the "log_mean" of each class: float32 (K,), or None.

        Whatever stores `_offset` does so here, since `_prepared` depends on it.
        """
        self._offset = offset
        self._prepared = prepare(self.bucket_table_, self.n_buckets_, offset)

    def _decoding(self):
        """Keyword arguments of the functions that decode."""
        offset = self._offset if self.decoder == "log_mean" else None
        return {"merge": self._merge(), "offset": offset}

    def _merge(self):
        return "sum" if self.decoder in ("log_mean", "mean") else self.decoder

    def _chunks(self, n_samples, n_jobs):
        """Slices of rows whose bucket scores fit in the memory to work in."""
        n_bytes = min(get_config()["working_memory"] * 2**20, _CHUNK_BYTES)
        n_bytes //= 16 * self.n_repetitions_ * self.n_buckets_ * n_jobs
        n_rows = min(max(int(n_bytes), 1), max(-(-n_samples // n_jobs), 1))
        # gen_batches checks its arguments: 0.15 of the 0.35 ms of predicting one row
        starts = range(0, n_samples, n_rows)
        return [slice(start, min(start + n_rows, n_samples)) for start in starts]

    def _device(self):
        """The device that predicts: that of `fit`, or the CPU if it does not answer."""
        return predicting_device(self.device_) if hasattr(self, "_weights") else "cpu"

    def _n_threads(self, k=None):
        """Threads that predict; a GPU that finds the k best is busy with one chunk."""
        if k is not None and backend(self._device()).searches(k, self._merge()):
            return 1
        n_threads = effective_n_jobs(self.n_jobs)
        # In the context of a cluster these are its processors, not this machine's.
        return min(n_threads, cpu_count()) if n_threads > 1 else 1

    def _map_chunks(self, function, X, n_jobs):
        """Values of function(X[rows], rows) for chunks of rows, in threads."""
        chunks = self._chunks(X.shape[0], n_jobs)
        if len(chunks) == 1:
            return [function(X, chunks[0])]
        # In this process whatever joblib's context, or each chunk would take the model.
        return Parallel(n_jobs=n_jobs, require="sharedmem")(
            delayed(function)(X[rows], rows) for rows in chunks
        )

    def _place(self):
        """The functions of the device that predicts, and the model as they take it."""
        functions = backend(self._device())
        model = self._weights, self._intercepts, self.bucket_table_, self.n_buckets_
        return functions, functions.place(*model, self._prepared, self._placed)

    def _topk(self, X, k):
        if hasattr(self, "_weights"):
            functions, model = self._place()
            return functions.topk(model, X, k, *self._scale(), **self._decoding())
        scores, options = self._bucket_scores(X), self._decoding()
        table = self.bucket_table_
        return decode_topk(scores, table, k, prepared=self._prepared, **options)

    def _stages(self, X, k, return_scores):
        """Labels, and scores if wanted, of stage after stage."""

        def decode(X, _):
            scores = self._bucket_scores(X)
            indices, values = decode_stages(
                scores, self.bucket_table_, k, **self._decoding()
            )
            return indices, values if return_scores else None

        parts = self._map_chunks(decode, X, self._n_threads())
        for r in range(self.n_repetitions_):
            labels = self.classes_[np.concatenate([part[0][:, r] for part in parts])]
            if not return_scores:
                yield labels
                continue
            scores = np.concatenate([part[1][:, r] for part in parts])
            if self._merge() == "sum":  # the bucket scores are divided by R, not r + 1
                scores *= np.float32(self.n_repetitions_ / (r + 1))
            yield labels, scores

    def _all_scores(self, X, dtype, finish=None):
        """Merged scores (n_samples, n_classes), refused if too large.

        finish : function that changes the scores of some rows in place
        """
        self._check_prediction()
        X = self._validate(X)
        shape = (X.shape[0], self.classes_.size)
        needed = shape[0] * shape[1] * np.dtype(dtype).itemsize
        free = free_memory()
        if free is not None and needed > free:
            raise MemoryError(
                f"Scores of {shape[0]} rows and {shape[1]} classes take {needed} bytes "
                f"({format_bytes(needed)}), but only {free} bytes "
                f"({format_bytes(free)}) are free. Pass fewer rows at a time, or use "
                "predict or predict_topk, which never hold the scores of all classes."
            )
        out = np.empty(shape, dtype)

        def score(X, rows):
            scores, options = self._bucket_scores(X), self._decoding()
            decode_scores(scores, self.bucket_table_, out=out[rows], **options)
            if finish is not None:
                finish(out[rows])

        self._map_chunks(score, X, self._n_threads())
        return out

    def _to_proba(self, scores):
        """Turn merged scores (n, K), float64, into probabilities, in place."""
        if self.decoder == "log_mean":
            scalars = getattr(self, "_scalars", None)
            if scalars is None:
                digits = _digits(self.classes_.size, self.n_buckets_)
                scalars = np.log(digits), 0.0, 0.0
            np.exp(log_proportions(scores, scalars), out=scores)
        elif self.decoder == "mean" and self._chance > 0:
            scores -= self._chance
            np.maximum(scores, 0, out=scores)
            scores[~scores.any(axis=1)] = 1  # no class is above chance
        scores /= scores.sum(axis=1, keepdims=True)

    def _scale(self):
        """Whether bucket scores are logarithms, and what they are divided by.

        By R where the decoder adds them, so that all methods compare the very same
        numbers.
        """
        divisor = self.n_repetitions_ if self._merge() == "sum" else 1
        return self.decoder == "log_mean", divisor

    def _bucket_scores(self, X, scale=None):
        """Bucket scores, scaled for the decoder: float32 of shape (n, R, B).

        scale : as `_scale` gives it, if not for the decoder
        """
        log, divisor = self._scale() if scale is None else scale
        if hasattr(self, "_weights"):
            functions, model = self._place()
            return functions.bucket_proba(model, X, log, divisor)
        shape = (X.shape[0], self.n_repetitions_, self.n_buckets_)
        out = np.zeros(shape, np.float32)
        for r, estimator in enumerate(self.estimators_):
            out[:, r, estimator.classes_] = _estimator_proba(estimator, X, r)
        out *= 1 - _SMOOTHING
        out += _SMOOTHING / self.n_buckets_
        if log:
            np.log(out, out=out)
        out /= np.float32(divisor)
        return out

    def __getstate__(self):
        state = dict(super().__getstate__())
        state.pop("_prepared", None)  # depends on the processor
        state.pop("_placed", None)  # a copy on a device
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        self.__dict__.setdefault("logit_adjustment", "auto")  # of an older version
        if hasattr(self, "bucket_table_"):
            self._placed = {}
            self.__dict__.setdefault("logit_adjustment_", 0.0)
            if not hasattr(self, "_chance"):
                self._chance = _hashing.collision_chance(
                    self.bucket_table_, self.n_buckets_, self.hashing
                )
            self._set_offset(getattr(self, "_offset", None))

    # Looking inside -----------------------------------------------------------------

    @property
    def coef_(self):
        """Weights of the built-in learner, (n_repetitions, n_buckets, n_features)."""
        self._check_built_in("coef_")
        shape = (-1, self.n_repetitions_, self.n_buckets_)
        return self._weights.reshape(shape).transpose(1, 2, 0)

    @property
    def intercept_(self):
        """Intercepts of the built-in learner, (n_repetitions, n_buckets)."""
        self._check_built_in("intercept_")
        return self._intercepts.reshape(self.n_repetitions_, self.n_buckets_)

    def _check_built_in(self, name):
        """Refuse an attribute that only the built-in learner has, and before the fit.

        By errors for which `hasattr` is False.
        """
        check_is_fitted(self, "bucket_table_")
        if not hasattr(self, "_weights"):
            raise AttributeError(
                f"{name} is an attribute of the built-in learner. This model was "
                f"fitted with a base estimator: see {name} of its estimators_, if they "
                "have it."
            )

    @property
    def model_bytes_(self):
        """Bytes of the weights, or of the pickled base classifiers, and the table."""
        check_is_fitted(self, "bucket_table_")
        if hasattr(self, "_weights"):
            model = self._weights.nbytes + self._intercepts.nbytes
        else:
            model = len(pickle.dumps(self.estimators_))
        return model + self.bucket_table_.nbytes


def _digits(n_classes, n_buckets):
    """Factor of the mean logarithm that turns bucket probabilities 1/B into 1/K."""
    return max(1.0, np.log(n_classes) / np.log(max(n_buckets, 2)))


def _n_calibration(n_samples, n_classes, n_buckets):
    """Rows to set aside for `_fit_scalars`: at most 2 % of them and 10,000."""
    if n_classes <= n_buckets or n_samples < _CALIBRATION_ROWS:
        return 0
    n_rows = max(_CALIBRATION_SCORES // n_classes, _ADJUSTMENT_ROWS)
    return min(n_samples // 50, n_rows, 10_000)


def _stack(blocks):
    """Blocks of rows, classes and weights as one."""
    X, y, weight = zip(*blocks, strict=True)
    if any(map(sp.issparse, X)):
        # of a dense float16 array SciPy makes no sparse one
        X = [x.astype(np.float32) if x.dtype == np.float16 else x for x in X]
        X = sp.vstack(list(map(sp.csr_array, X)), format="csr")
    else:
        X = np.concatenate(X)
    return X, np.concatenate(y), np.concatenate(weight)


def _check_labels(labels, name):
    """Refuse labels that scikit-learn lets pass, or refuses in words of its own."""
    if isinstance(labels, str):
        raise ValueError(f"{name} must be an array of labels, got {labels!r}.")
    labels = np.asarray(labels)
    if labels.dtype.kind == "T":
        raise ValueError(
            f"{name} has NumPy's StringDType, which scikit-learn does not support. "
            f"Pass {name}.astype(str)."
        )
    missing = False
    if labels.dtype.kind in "mM":
        missing = np.isnat(labels).any()
    elif labels.dtype == object and labels.ndim == 1:
        missing = any(
            v is None or type(v).__name__ == "NAType" or v != v for v in labels
        )
    if missing:
        raise ValueError(
            f"{name} contains missing values (None, NaN or NaT). Drop them."
        )


def _refuse_dates(X):
    """Refuse dates and durations, which NumPy takes as counts of some unit of time."""
    dtypes = X.dtypes if hasattr(X, "dtypes") else [getattr(X, "dtype", None)]
    for dtype in dtypes:
        if hasattr(dtype, "is_temporal"):  # of polars
            is_date = dtype.is_temporal()
        else:
            is_date = getattr(dtype, "kind", None) in ("m", "M")
        if is_date:
            raise ValueError(
                f"X holds dates or durations, of dtype {dtype}. Convert them to "
                "numbers, such as days since a date."
            )


def _assert_finite_in_batches(X, estimator_name):
    """Refuse a float16 X that is not finite.

    scikit-learn makes masks of all values, half as large as X.
    """
    for rows in gen_batches(X.shape[0], max(_CHECKED_VALUES // X.shape[1], 1)):
        assert_all_finite(X[rows], estimator_name=estimator_name, input_name="X")


def _refuse_extremes(X):
    """Refuse values whose squares overflow or are all zero in float64."""
    values = X.data if sp.issparse(X) else X
    largest = float(max(values.max(initial=0), -values.min(initial=0)))
    if largest and not 1 / _LARGEST_VALUE < largest < _LARGEST_VALUE:
        raise ValueError(
            f"The largest value of X is {largest:.3g}, which leaves no room in "
            "float32. Use other units, that bring the rows to about unit length."
        )


def _sorted_classes(classes):
    """The distinct labels of the argument `classes`, sorted."""
    _check_labels(classes, "classes")
    found = np.asarray(classes)
    if found.ndim != 1 or found.size == 0:
        what = f"shape {found.shape}" if found.ndim else type(classes).__name__
        raise ValueError(
            f"classes must be a list or an array of one dimension that holds all "
            f"labels, at least one; got {what}."
        )
    if found.dtype.kind == "f":
        assert_all_finite(found, input_name="classes")
    return _encode(found, "classes")[0]


def _encode(y, name="y"):
    """Sorted labels, and their numbers as int32 of the shape of y."""
    try:
        classes, codes = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"{name} mixes labels that cannot be sorted, such as numbers, strings and "
            "missing values. Use labels of one type."
        ) from error
    return classes, codes.astype(np.int32)


def _encode_as(y, classes):
    """Numbers of the labels y in the sorted labels `classes`."""
    found, codes = _encode(y)
    try:
        place = np.minimum(np.searchsorted(classes, found), classes.size - 1)
    except TypeError as error:
        raise ValueError(
            f"y and classes hold labels of types that cannot be compared, such as "
            f"{found[0]!r} and {classes[0]!r}. Use labels of one type."
        ) from error
    unknown = found[classes[place] != found]
    if unknown.size:
        raise ValueError(
            f"y holds labels that are not in classes: {unknown[:5].tolist()}"
            f"{' and others' if unknown.size > 5 else ''}."
        )
    return place[codes].astype(np.int32)


def _check_table(table, n_classes, n_repetitions, n_buckets):
    """A user's table in its smallest dtype, with its R and B."""
    try:
        table = np.asarray(table)
    except ValueError as error:
        raise ValueError(
            "hashing as an array must have rows of equal length, one for each class "
            f"with its bucket in each repetition ({error})."
        ) from error
    if table.dtype.kind not in "iu":
        raise ValueError(
            f"hashing as an array must hold integers, got dtype {table.dtype}."
        )
    if table.ndim != 2 or table.shape[0] != n_classes or table.shape[1] < 1:
        raise ValueError(
            f"hashing as an array must have shape (n_classes, n_repetitions) with "
            f"n_classes={n_classes}, got {table.shape}."
        )
    if n_repetitions not in ("auto", table.shape[1]):
        raise ValueError(
            f"hashing has {table.shape[1]} columns, but n_repetitions={n_repetitions}. "
            "Pass n_repetitions='auto' or the number of columns."
        )
    largest = int(table.max())
    if n_buckets == "auto":
        n_buckets = largest + 1
    if table.min() < 0 or largest >= n_buckets:
        raise ValueError(
            f"hashing must hold buckets from 0 to n_buckets - 1 = {n_buckets - 1}, got "
            f"values from {table.min()} to {largest}."
        )
    twins = _hashing.find_twins(table, n_buckets)
    if twins is not None:
        raise ValueError(
            f"hashing gives classes {twins[0]} and {twins[1]} (row numbers) the same "
            "buckets in all repetitions, so that they cannot be told apart."
        )
    # A copy, which does not change when the caller's array does.
    table = np.array(table, np.min_scalar_type(n_buckets - 1), order="C")
    return table, table.shape[1], n_buckets


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


def _estimator_proba(estimator, X, r):
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
