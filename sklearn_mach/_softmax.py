"""The built-in learner: linear models of all repetitions, trained together.

What one fit does with the parts below it: steps (`_steps`), the trial (`_trial`), the
start of dense rows (`_dense`) and training (`_training`), on a device (`_backends`).
"""

import warnings
from copy import deepcopy
from functools import partial
from numbers import Integral
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from joblib import effective_n_jobs
from sklearn.utils import Bunch
from sklearn.utils.metadata_routing import MetadataRouter

from . import _dense, theory
from ._backends import backend, choose_device, has_units
from ._checkpoints import Checkpoint
from ._compat import one_blas_thread
from ._memory import format_bytes
from ._planning import Trained
from ._rows import rows_of, stack
from ._spool import Spool
from ._steps import Seen, check_held, make_settings, sizes
from ._streams import look_over, rows_of_means, set_aside, train_stored, with_units
from ._training import split_repetitions, to_float
from ._trial import DEFAULT_FACTOR, first_intercepts, probe, probe_bytes
from ._weights import Linear

_CALIBRATION_ROWS = 10_000  # with fewer rows probabilities are not calibrated
_CALIBRATION_SCORES = 20_000_000  # class scores that the calibration may look at
_ADJUSTMENT_ROWS = 2_500  # rows that show the logit adjustment, if there are so many
_FEW_VALUES = 4  # non-zeros of a column, on average, that are worth its weights
_MANY_BYTES = 1 << 28  # of weights, below which nobody minds
_OPTIONS = (
    "learning_rate",
    "max_iter",
    "alpha",
    "batch_size",
    "tol",
    "early_stopping",
    "validation_fraction",
    "n_iter_no_change",
    "verbose",
)


class Memory(NamedTuple):
    """What the learner needs to go on with a model.

    n_iter : int, epochs so far
    t : int, rows passed so far
    order_seed : int, for the order of the rows
    seen : `Seen`, sums over the rows of all blocks
    factor : float, of the steps as the trial found it, or None
    waiting : list of blocks, too few rows for a trial as yet
    """

    n_iter: int
    t: int
    order_seed: int
    seen: Seen | None
    factor: float | None
    waiting: list

    def renumbered(self, places):
        """The memory of classes that have the numbers `places` (K,) now."""
        waiting = [(X, t.renumbered(places), weight) for X, t, weight in self.waiting]
        return self._replace(waiting=waiting)


class SoftmaxLearner:
    """Trains the weights of all repetitions.

    parameters : with the parameters of MACHClassifier as attributes
    """

    in_float32 = True
    scorer_type = Linear

    def __init__(self, parameters):
        self.parameters = parameters

    def set_tags(self, tags):
        tags.input_tags.sparse = True

    def router(self, owner):
        return MetadataRouter(owner=type(owner).__name__).add_self_request(owner)

    def has_partial_fit(self):
        return True

    def check(self):
        """Refuse parameters that the constraints of single ones cannot."""
        given = self.parameters
        if given.checkpoint is None:
            return
        if not isinstance(given.random_state, Integral):
            raise ValueError(
                f"checkpoint={given.checkpoint!r} needs an integer random_state, of "
                "which the fit that goes on draws the same numbers; it is "
                f"{given.random_state!r}."
            )
        if given.device not in ("auto", "cpu"):
            raise ValueError(
                f"checkpoint={given.checkpoint!r} is for training on the CPU. Use "
                f"device='cpu' or 'auto' in place of {given.device!r}."
            )

    def route(self, owner, method, weight, cause, params):
        """Keyword arguments of an estimator: there is none."""
        return Bunch()

    def few_features(self, X):
        rows = rows_of(X)
        return theory.FewFeatures(X.shape[1], rows.n_values, rows.in_batches)

    def weights_bytes(self, n_features, n_columns):
        """Bytes of weights and intercepts."""
        return theory.model_bytes(n_features, 1, n_columns)

    def trial_bytes(self, n_features, n_columns):
        """Bytes that the trial of the learning rate may take beside them."""
        if self.parameters.learning_rate != "auto":
            return 0
        return probe_bytes(n_features, n_columns)

    def warn(self, X, plan):
        """Warn of weights that are many for so few values to learn them from."""
        n_features, n = X.shape[1], rows_of(X).n_values
        n_bytes = self.weights_bytes(n_features, plan.n_repetitions * plan.n_buckets)
        if n < _FEW_VALUES * n_features and n_bytes > _MANY_BYTES:
            warnings.warn(
                f"The weights take {format_bytes(n_bytes)}, but X has only "
                f"{n:,} non-zeros in {n_features:,} columns, "
                f"{n / n_features:.1f} a column. Fewer columns make the model "
                "smaller and hardly less accurate: a smaller n_features of "
                "HashingVectorizer, a larger min_df of TfidfVectorizer, or "
                "sklearn.feature_selection.VarianceThreshold.",
                UserWarning,
                stacklevel=2,
            )

    def stage_bytes(self, model, n_classes, n_buckets):
        """Bytes of the first 1, 2, ..., R repetitions of a fitted MACHClassifier."""
        n_repetitions = np.arange(1, model.n_repetitions_ + 1)
        sizes = n_classes, model.n_features_in_, n_repetitions, n_buckets
        return theory.model_cost(*sizes).mach.n_bytes

    def check_source(self):
        """Refuse to train on rows that come in blocks: on the CPU it can."""
        if self.parameters.device not in ("auto", "cpu"):
            raise ValueError(
                f"device={self.parameters.device!r} trains on rows in memory. For a "
                "source of blocks use device='cpu' or 'auto'."
            )

    def renumbered(self, memory, places):
        """The memory of a model whose classes have the numbers `places` (K,) now."""
        return memory.renumbered(places)

    def device(self, X, plan):
        """The device to train on."""
        if isinstance(X, Spool) or self.parameters.checkpoint is not None:
            return "cpu"
        return choose_device(self.parameters.device, X, plan.width)

    def n_tasks(self, X, plan):
        """The number of tasks in which the repetitions are trained, None if unknown."""
        if isinstance(X, Spool):
            return 1
        if self.parameters.checkpoint is not None:
            return None  # those that are in its files
        sizes = X, plan.n_old, plan.n_repetitions, plan.n_buckets
        return backend(self.device(X, plan)).n_tasks(*sizes, self.parameters.n_jobs)

    @one_blas_thread()  # on whose threads its sums depend
    def train(
        self, method, X, targets, weight, params, plan, scorer, memory, device, task
    ):
        """Train the repetitions that `plan` asks for.

        method : "fit" or "partial_fit"
        X, targets, weight : checked rows, `Targets`, and weights or None
        scorer, memory : of the model to go on with, or None
        task : ``task(name, r, n_epochs=, scorer=)`` gives the task that begins with
            repetition r; `scorer` gives a copy of the scorer as it is during training

        Returns a `Trained`.
        """
        is_block = method == "partial_fit"
        checkpoint = None
        if not is_block:
            given = self.parameters, X, targets, weight, plan, scorer
            checkpoint = Checkpoint.of_fit(*given)
        if isinstance(X, Spool):
            return self._train_stored(X, plan, scorer, memory, task, checkpoint)
        continued = is_block and scorer is not None
        first = 0 if continued else plan.n_old
        n_held = 0
        if not is_block:
            n_used = X.shape[0] if weight is None else np.count_nonzero(weight)
            n_held = _n_calibration(n_used, targets.several, plan)
        if memory is None:
            memory = Memory(0, 0, plan.order_seed, None, None, [])
        elif not continued:  # with the same rows set aside
            memory = Memory(memory.n_iter, 0, memory.order_seed, None, None, [])
        settings, memory = self._settings(
            X, targets, weight, plan, memory, device, n_held, is_block
        )
        if continued:
            W, b = scorer.storage.dense()
            if isinstance(W, np.memmap) or not W.flags.writeable:  # of a file
                W, b = np.array(W), np.array(b)
            all_rows = self.parameters.alpha > 0 or not sp.issparse(X)
            touched = slice(None) if all_rows else np.unique(X.indices)
            before = W[touched].copy(), b.copy()
        else:
            W, b = self._start(X, targets, plan, scorer, settings)
        try:
            n_done = self._run(
                X,
                targets,
                plan,
                W,
                b,
                first,
                continued,
                settings,
                device,
                task,
                checkpoint,
            )
        except BaseException:
            if continued:  # the weights are trained in place
                W[touched], b[:] = before
            raise
        t = memory.t + X.shape[0] * max(n_done, is_block)
        n_iter = memory.n_iter + n_done if is_block else max(n_done, memory.n_iter)
        held = settings.held[:n_held]
        return Trained(
            Linear.of(W, b, plan.n_buckets, settings.loss.link),
            n_iter,
            memory._replace(n_iter=n_iter, t=t),
            held,
            settings.row_weight(held),
        )

    def _settings(self, X, targets, weight, plan, memory, device, n_held, is_block):
        """Settings of the training, with steps that a trial found, and the memory."""
        width, n_jobs = plan.width, self.parameters.n_jobs
        n_used = X.shape[0] if weight is None else np.count_nonzero(weight)
        options = {name: getattr(self.parameters, name) for name in _OPTIONS}
        options["batch_size"] = backend(device).batch_size(options, n_used)
        if is_block:
            options |= {"max_iter": 1, "early_stopping": False}
        n_columns = width if has_units(device) or not sp.issparse(X) else 0
        seed = memory.order_seed + memory.t

        def settings_of(X, targets, weight, seen=None):
            return make_settings(
                X, targets, weight, options, seed, seen, n_held, n_columns, is_block
            )

        factor, waiting, n_epochs = memory.factor, memory.waiting, None
        settings, seen = settings_of(X, targets, weight, memory.seen)
        if self.parameters.learning_rate != "auto":
            return settings, memory._replace(seen=seen)
        if factor is None:
            rows, trial = (X, targets), settings
            if is_block:
                ones = np.ones(X.shape[0])
                block = X, targets, ones if weight is None else weight
                waiting = [*waiting, block]
            if len(waiting) > 1:  # rows of earlier blocks, too few for a trial
                *rows, weights = stack(waiting)
                trial, stacked = settings_of(*rows, weights)
                if stacked.metric is not None:
                    old = memory.seen._replace(metric=stacked.metric)
                    settings, seen = settings_of(X, targets, weight, old)
            factor, n_epochs = probe(
                *rows, plan.column, plan.n_buckets, trial, width, n_jobs
            )
            if factor is not None:
                if len(waiting) > 1 and trial.metric is None:
                    # rows may come again, known by heart
                    factor = min(factor, DEFAULT_FACTOR)
                waiting = []
            elif is_block:  # a copy: the caller may fill its arrays anew
                waiting[-1] = deepcopy(waiting[-1])
        settings = settings.scaled(factor or DEFAULT_FACTOR)
        if n_epochs is not None and options["max_iter"] == "auto":
            settings = settings.with_epochs(n_epochs)
        return settings, memory._replace(seen=seen, factor=factor, waiting=waiting)

    def _start(self, X, targets, plan, scorer, settings, source=None):
        """Weights to start from: those of `scorer`, and zeros or means of buckets.

        source : as in `start_from_means`
        """
        width = plan.n_repetitions * plan.n_buckets
        W = np.zeros((X.shape[1], width), np.float32)
        b = first_intercepts(targets, plan.table, plan.n_buckets, settings)
        if scorer is not None:
            n_old = plan.n_old * plan.n_buckets
            W[:, :n_old], b[:n_old] = scorer.storage.dense()
        if settings.starts:
            n_threads = effective_n_jobs(self.parameters.n_jobs)
            given = X, targets.classes, plan.table, W, b, plan.n_old, settings
            _dense.start_from_means(*given, n_threads, source)
        return W, b

    def _train_stored(self, spool, plan, scorer, memory, task, checkpoint):
        """As `train` in `fit`, with rows that are read from a `Spool`."""
        seed = plan.order_seed if memory is None else memory.order_seed
        width, n_jobs = plan.width, self.parameters.n_jobs
        options = {name: getattr(self.parameters, name) for name in _OPTIONS}
        targets = spool.targets
        seen, sample = look_over(spool, seed)
        n_rows, n_classes = seen.n_rows, targets.mean_classes()
        options["batch_size"], n_epochs = sizes(options, n_rows, n_classes)
        early_stopping = options["early_stopping"]
        given = sample.X, sample.targets, sample.weight
        settings, seen = make_settings(
            *given,
            options | {"max_iter": n_epochs, "early_stopping": False},
            seed,
            n_columns=width,
            total=seen,
        )
        n_held = _n_calibration(n_rows, targets.several, plan)
        n_aside = n_held
        if early_stopping:
            n_aside = np.ceil(options["validation_fraction"] * n_rows)
            n_aside = int(min(n_aside, sample.numbers.size // 2))
        train, held = set_aside(sample, targets.counts, n_aside, seed)
        check_held(early_stopping, held)
        settings = settings._replace(train=train, held=held)
        settings = with_units(settings, spool, seen)
        factor = None
        if options["learning_rate"] == "auto":
            share = train.size / max(n_rows - held.size, 1)
            trial = settings._replace(slow=settings.slow * np.float32(share))
            factor, n_found = probe(
                *given[:2], plan.column, plan.n_buckets, trial, width, n_jobs
            )
            settings = settings.scaled(factor or DEFAULT_FACTOR)
            if n_found is not None and options["max_iter"] == "auto":
                settings = settings.with_epochs(n_found)
        settings = settings._replace(early_stopping=early_stopping)
        rows = rows_of_means(spool, sample, settings, seen)
        W, b = self._start(*given[:2], plan, scorer, settings, rows)
        blocks = split_repetitions(
            spool, plan.n_old, plan.n_repetitions, plan.n_buckets, n_jobs
        )
        task = self._task(task, W, b, blocks, plan, settings)(plan.n_old)
        work = spool, sample, plan.table, W, b, plan.n_old, settings, seen
        with task.running():
            n_iter = train_stored(*work, n_jobs, task, checkpoint)
        held = held[:n_held]
        t = spool.shape[0] * n_iter
        before = 0 if memory is None else memory.n_iter
        seen = seen._replace(metric=None)
        return Trained(
            Linear.of(W, b, plan.n_buckets, settings.loss.link),
            max(n_iter, before),
            Memory(max(n_iter, before), t, seed, seen, factor, []),
            held,
            settings.row_weight(held),
            given[:2],
        )

    def _task(self, task, W, b, blocks, plan, settings):
        """A function from a first repetition to the task that begins with it."""

        def scorer():
            weights = W.copy()
            if settings.unit is not None:
                to_float(weights, blocks, plan.n_buckets, settings.unit)
            return Linear.of(weights, b.copy(), plan.n_buckets, settings.loss.link)

        n_epochs = len(settings.decay)
        return partial(task, "repetitions", n_epochs=n_epochs, scorer=scorer)

    def _run(
        self, X, targets, plan, W, b, first, continued, settings, device, task,
        checkpoint
    ):  # fmt: skip
        """Train W and b from repetition `first` on; the epochs done."""
        n_jobs, n_buckets = self.parameters.n_jobs, plan.n_buckets
        # as `train_all` finds them; in a worker's thread joblib counts other threads
        blocks = split_repetitions(X, first, plan.n_repetitions, n_buckets, n_jobs)
        is_zero = not continued and not settings.starts
        options = {} if checkpoint is None else {"checkpoint": checkpoint}
        return backend(device).train_all(
            X,
            targets,
            plan.table,
            W,
            b,
            first,
            is_zero,
            settings,
            n_jobs,
            self._task(task, W, b, blocks, plan, settings),
            **options,
        )


def _n_calibration(n_samples, several, plan):
    """Rows to set aside for a calibration: at most 2 % of them and 10,000."""
    n_classes = plan.table.shape[0]
    own_buckets = not several and n_classes <= plan.n_buckets
    if own_buckets or n_samples < _CALIBRATION_ROWS:
        return 0
    n_rows = max(_CALIBRATION_SCORES // n_classes, _ADJUSTMENT_ROWS)
    return min(n_samples // 50, n_rows, 10_000)
