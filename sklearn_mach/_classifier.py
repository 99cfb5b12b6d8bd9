"""MACHClassifier: its parameters, and what `fit` does with them.

K classes are hashed R times into B buckets (`_planning`), a learner trains R
classifiers of B buckets (`_learners`), and the scores of the buckets of a class are
merged (`_model`).
"""

from functools import partial

from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin

from ._checkpoints import clear
from ._compat import (
    CallbackSupportMixin,
    _fit_context,
    _raise_for_params,
    unchanged_on_error,
    with_callbacks,
)
from ._fitting import route, train
from ._incremental import Incremental
from ._inputs import check_grows, check_rows, format_of, targets_of
from ._learners import check_continues, checked_learner, learner_of
from ._parameters import CONSTRAINTS
from ._planning import plan_fit
from ._progress import Task
from ._sources import is_source, store
from ._states import flatten, restore


class MACHClassifier(
    CallbackSupportMixin,
    Incremental,
    ClassifierMixin,
    MetaEstimatorMixin,
    BaseEstimator,
):
    """Classifier for very many classes by merged averages over hashed labels (MACH).

    The K classes are hashed R times into B buckets, ``h_r(k)``, and for each repetition
    r a classifier of B buckets is trained.  A class is scored by merging the
    probabilities of its buckets, by default
    ``score_k = (1/R) sum_r log P_r(h_r(k) | x)``.  Memory is O(d R B), with R growing
    like log K, instead of the O(d K) of one-vs-rest.  A sample may also have several
    labels, or none: `y` is then an indicator matrix, dense or sparse.

    Parameters
    ----------
    estimator : classifier, default=None
        A classifier with `predict_proba` or `decision_function`, cloned once for each
        repetition and fitted on bucket numbers.  None is the built-in learner: softmax
        regression by stochastic gradient descent, all repetitions trained together.
        With several labels a row a classifier whose tags say `multi_label` learns all
        buckets at once; any other is cloned for each bucket, in lists of `estimators_`.

    n_repetitions : int or "auto", default="auto"
        The number R of repetitions.  "auto" takes as many as make R B about 1024, but
        at most 16; 2048 and 32 if X has at most 20 million non-zeros.  It takes at
        least :func:`~sklearn_mach.theory.mach_min_repetitions`, and fewer of all if
        the weights would take more than half of the free memory.  For dense rows and
        for fewer than 2,000 features see Notes.

    n_buckets : int or "auto", default="auto"
        The number B of buckets of a repetition, at least 2.  "auto" takes 64, or one
        for each class if there are at most 256 classes; for dense rows and for fewer
        than 2,000 features see Notes.  With m > 5.6 labels a row, on average, both are
        about m/4 times as many.  With as many buckets as classes every class has its
        own and one repetition is all that is needed; more are never used.

    hashing : {"clustered", "balanced", "universal"} or array-like of int of shape \
            (n_classes, n_repetitions), default="clustered"
        "balanced" is a random permutation of the classes modulo B: the numbers of
        classes of two buckets differ by at most one.  "universal" is
        ``((a k + b) mod p) mod B`` with the prime p = 2**61 - 1.  "clustered" is as
        "balanced" except that, once all classes can be told apart, every fourth
        repetition puts similar classes into the same bucket: those whose mean rows
        point the same way.  Such a bucket is easier to learn than a random one, and
        the other repetitions tell its classes apart.  An array is used as the table of
        buckets itself.  No two classes share their bucket in all repetitions.

    decoder : {"log_mean", "mean", "min", "median"}, default="log_mean"
        How the R bucket probabilities of a class are merged: the mean of their
        logarithms, their mean (the paper's estimator), their minimum (count-min) or
        their median.

    logit_adjustment : float or "auto", default="auto"
        How much a frequent class loses in its "log_mean": tau in
        ``score_k - tau log(K pi_k)``, where pi_k is the share of class k in the weights
        of the training rows, or of all their labels.  Merged scores favour frequent
        classes.  A larger tau finds more of the rare ones, and from some value on
        accuracy falls.  "auto" fits tau to rows that are set aside (see Notes), by the
        rank of the true class among the ten best, and shrinks it by its standard error;
        tau is then never negative, and 0 where no rows are set aside.  Other decoders
        take no adjustment.  The probabilities of several labels a row follow a tau only
        where rows are set aside, or after `calibrate`.

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
        rows the factor is 4.  With "auto" and alpha=0 rare features take longer steps
        than frequent ones, in proportion to their inverse document frequency (its
        square with several labels a row), and the steps of a feature fall with the
        square root of its visits.  With a number or a penalty all take the same steps
        in `fit`.

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
        their rows; refused with several labels a row.  The built-in learner divides the
        weights by their mean.  A row of more than twice the mean weight is visited
        several times an epoch, with a part of its weight each time, in place of one
        longer step; a row of weight zero is not visited.

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

    max_bytes : int, default=None
        Bytes that the fitted model of the built-in learner may take, in memory and
        saved.  After training `fit` keeps the weights that matter most, in 8 or 4 bits,
        as `compress` does, before probabilities are fitted.  If rows are set aside (see
        Notes) and `n_repetitions` is "auto" they decide whether fewer repetitions are
        kept.  Training takes the memory of all weights.

    checkpoint : str or path-like, default=None
        A folder in which `fit` of the built-in learner on the CPU keeps what it has
        trained after each epoch, and of blocks every five minutes.  A `fit` that was
        killed or interrupted is called again, with the same rows and parameters: it
        goes on from there, and ends with the bits of one that was never stopped.  Then
        the files are deleted.  It needs an integer `random_state`; `n_jobs` may change.

    part : tuple of (int, int), default=None
        ``(i, n)`` trains only the i-th of n shares of the repetitions, i from 0, in the
        memory of the share.  :func:`~sklearn_mach.merge` joins the n models of n jobs
        to the model of one fit.  `random_state` must be an integer, and all else the
        same in all jobs.  Give `n_repetitions` a number if their memory differs.
        A part predicts by its own repetitions, and keeps the rows set aside.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted; of several labels a row the numbers of the columns
        of y.
    multilabel_ : bool
        Whether rows may have several labels: y was an indicator.
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

    Of several labels a row a bucket learns whether any of them is in it: each bucket
    has a sigmoid of its own in place of the softmax, as in the code of Medini et al.
    (2019).  `decision_function` then gives the log odds of each label by itself, and
    `predict` the labels with a probability of at least 0.5.  A bucket of several labels
    is more often positive than any one of them: probabilities are too high until the
    model is calibrated, which `fit` does where it sets rows aside.

    With the built-in learner, more classes than buckets (or several labels a row) and
    at least 10,000 rows, `fit` does not train on all rows.  It sets 2 % of them aside,
    at most 10,000 (20 million / K from 2,000 classes on, 2,500 from 8,000 on) and never
    the last row of a class, and fits the logit adjustment and the probabilities to
    them.  With `early_stopping` they are some of the rows that it watches.  `calibrate`
    does the same with rows that you pass.  Menon et al. (2021) describe the logit
    adjustment.

    `predict_proba` of "log_mean" is proportional to ``exp(-t gap_k**c)``, where gap_k
    is ``max_j score_j - score_k`` and ``t = exp(a + b max_j score_j)``, which keeps the
    order of the classes.  The three scalars a, b and log c are fitted to the rows set
    aside.  Without such rows c is 1 and t is ``max(1, log K / log B)``: bucket
    probabilities of 1/B then give the uniform 1/K.  `predict_proba` of "mean" is the
    unbiased estimate ``(mean - c) / (1 - c)``, where c is the chance that two classes
    share a bucket: 1/B with "universal", and else the share of the pairs of classes
    that do so in the table, (K - B) / (B (K - 1)) if all buckets have K / B classes.
    Negative values become zero.  All are scaled to sum to one.  Of several labels,
    each has the merged probability; with "log_mean" and rows set aside, its log odds
    are ``a + b score_k - c log(1 - exp(score_k)) + d max_j score_j``, with scalars
    fitted to the ten best labels of those rows (beta calibration, Kull et al., 2017).

    With dense rows or fewer than 2,000 features "auto" is one repetition with a bucket
    for each class, or 8 repetitions where that costs too much;
    :func:`~sklearn_mach.theory.plan` prints the limits.  With learning_rate="auto" and
    alpha=0 dense rows make their steps in a metric, in which they are centred and their
    variance is even, and with one label a row `fit` starts from means of the buckets.

    The :ref:`user_guide` has more on dense rows, memory, callbacks and clusters.

    References
    ----------
    Medini, Huang, Wang, Mohan and Shrivastava (2019), "Extreme Classification in Log
    Memory using Count-Min Sketch: A Case Study of Amazon Search with 50M Products",
    NeurIPS.  Huang, Wang, Medini and Shrivastava (2018), "Extreme Classification in
    Log Memory", arXiv:1810.04254.  Menon, Jayasumana, Rawat, Jain, Veit and Kumar
    (2021), "Long-tail learning via logit adjustment", ICLR, arXiv:2007.07314.  Kull,
    Silva Filho and Flach (2017), "Beta calibration", AISTATS.

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

    _parameter_constraints: dict = CONSTRAINTS

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
        max_bytes=None,
        checkpoint=None,
        part=None,
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
        self.max_bytes = max_bytes
        self.checkpoint = checkpoint
        self.part = part

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # class_weight is for one label a row
        tags.classifier_tags.multi_label = self.class_weight is None
        learner_of(self).set_tags(tags)
        return tags

    def get_metadata_routing(self):
        """Routing of metadata to the base estimator.

        Returns
        -------
        routing : MetadataRouter
        """
        return learner_of(self).router(self)

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None, **fit_params):
        """Fit the repetitions.

        It starts anew, also after `partial_fit`, unless `warm_start` is True.  If it
        fails or is interrupted the model stays as it was.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or iterable
            Training rows, float32 or float64 (others become float64).  The built-in
            learner takes a dense float16 X too, without a copy, and learns from it
            what it would learn from the same numbers as float32.  A C-ordered memory
            map is read as it is needed.  Sparse rows of unit length suit the built-in
            learner best.  Without y, an iterable of blocks ``(X, y)`` or ``(X, y,
            sample_weight)``: the built-in learner writes them to a temporary file and
            holds some of the rows at a time.
        y : array-like of shape (n_samples,), or {array-like, sparse matrix} of shape \
                (n_samples, n_classes)
            Class labels: numbers or strings.  For several labels a row, or none, an
            indicator of ones and zeros with at least two columns; a sparse one of many
            labels is never made dense.  None if X gives blocks.
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
        learner = checked_learner(self)
        in_blocks = is_source(X, y)
        if in_blocks:
            learner.check_source()
        old = getattr(self, "_fitted", None) if self.warm_start else None
        if old is not None:
            cause = "warm_start=True", "Set warm_start=False"
            check_continues(learner, old, *cause)
        data = {"X": X, "y": y}  # for callbacks, that may pass them to `predict`
        if sample_weight is not None:
            data["metadata"] = {"sample_weight": sample_weight}
        with unchanged_on_error(self):
            if in_blocks:
                X, classes = store(self, X, sample_weight, reset=old is None)
                targets = X.targets
            else:
                reset, in_float32 = old is None, learner.in_float32
                self._label_format = format_of(y)
                X, y = check_rows(self, X, y, in_float32=in_float32, reset=reset)
                classes, targets = targets_of(y)
            if old is not None:
                known = self.classes_, old.model.several
                check_grows(classes, targets.several, *known)
            weight, params = None, {}  # those of blocks are with them
            if not in_blocks:
                rows = X, y, targets, classes
                weight, params = route(
                    self, learner, "fit", rows, sample_weight, fit_params
                )
            grown = None if old is None else old.model
            plan = plan_fit(self, learner, X, targets, weight, classes.size, grown)
            learner.warn(X, plan)
            self.classes_, self.device_ = classes, learner.device(X, plan)
            self._check_room(plan)
            context = self._init_callback_context(
                max_subtasks=learner.n_tasks(X, plan), sequential_subtasks=False
            )
            context.call_on_fit_task_begin(estimator=self, **data)
            task = partial(Task, self, context, data)
            work = X, targets, weight, params, plan, old, self.device_, task
            smaller = None if self.max_bytes is None else self._smaller_fit
            self._fitted = train(self, learner, "fit", *work, smaller)
            if self.checkpoint is not None:
                clear(self.checkpoint)
            context.call_on_fit_task_end(
                estimator=self, **data, reconstruction_attributes={}
            )
        return self

    def __getstate__(self):
        return flatten(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(restore(state))
