"""A fitted model: from rows to bucket scores to classes, in chunks and threads."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from joblib import cpu_count, effective_n_jobs
from scipy.special import expit
from sklearn import get_config
from sklearn.utils import gen_batches
from sklearn.utils.parallel import Parallel, delayed

from ._calibration import (
    digits,
    fit_adjustment,
    fit_marginals,
    fit_scalars,
    log_odds,
    log_prior,
    summarize,
)
from ._decoding import (
    DECODERS,
    decode_scores,
    decode_topk,
    prepare,
    rank_of,
    sum_over_classes,
)
from ._lanes import ROWS
from ._memory import format_bytes, free_memory
from ._stages import decode_stages
from ._topk import Prepared

_CHUNK_BYTES = 1 << 26  # bucket scores made at a time, for all threads together
_CALIBRATION_SCORES = 20_000_000  # of classes, that the calibration may look at
_CALIBRATION_CHUNK = 4_000_000  # and how many a thread holds, or 32 rows of them
_CALIBRATION_HELD = 1 << 28  # and all threads together, or one thread 32 rows
_COPIED_BYTES = 1 << 24  # of rows of a dense X, copied at a time to be looked at
_FEW_SCORES = 1 << 18  # of several classes a row, made log odds at a time
_N_LIKELY = 16  # classes among which those that are likely are looked for first
_MANY_LIKELY = 1 << 18  # classes of rows that are looked at together
_N_BEST = 10  # classes of a row among which it ranks the true one


class How(NamedTuple):
    """How a model predicts: the name of a decoder, the device of `fit`, `n_jobs`."""

    decoder: str
    device: str
    n_jobs: int | None

    @property
    def n_threads(self):
        n_threads = effective_n_jobs(self.n_jobs)
        # In the context of a cluster these are its processors, not this machine's.
        return min(n_threads, cpu_count()) if n_threads > 1 else 1


@dataclass(frozen=True, eq=False)
class Model:
    """R repetitions, and how their bucket scores become classes and probabilities.

    Methods take checked rows.

    table : unsigned array of shape (K, R), the bucket of each class
    n_buckets : int
    scorer : `Linear` or `Estimators`
    chance : float, that another class shares the bucket of a class
    tau : float, the logit adjustment
    offset : float32 array of shape (K,), added to "log_mean" for it, or None
    scalars : float array of shape (3,), of several classes (4,), of the probabilities,
        or None
    several : bool, whether a row may have several classes: scores are then log odds
    """

    table: np.ndarray
    n_buckets: int
    scorer: object
    chance: float
    tau: float = 0.0
    offset: np.ndarray | None = None
    scalars: np.ndarray | None = None
    several: bool = False

    def replace(self, **changes):
        """The model with other fields."""
        new = replace(self, **changes)
        is_prepared = "_prepared" in vars(self)
        if is_prepared and new.table is self.table and new.offset is self.offset:
            vars(new)["_prepared"] = self._prepared
        return new

    @property
    def n_classes(self):
        return self.table.shape[0]

    @property
    def n_repetitions(self):
        return self.table.shape[1]

    @property
    def n_bytes(self):
        """Bytes of the scorer and the table."""
        return self.scorer.n_bytes + self.table.nbytes

    @cached_property
    def _prepared(self):  # depends on the processor: not pickled
        return prepare(self.table, self.n_buckets, self.offset)

    def use_prepared(self, prepared):
        """Take what a model of this table and offset has prepared."""
        vars(self)["_prepared"] = Prepared.of(*prepared)

    def adjusted(self, tau, class_weights):
        """The model with this logit adjustment, for classes of such weights (K,)."""
        tau, offset = float(tau), None
        if tau != 0:
            offset = (-tau * log_prior(class_weights)).astype(np.float32)
        return self.replace(tau=tau, offset=offset)

    def calibrated(self, X, targets, order, weight, class_weights, tau, how):
        """The model with the logit adjustment and the scalars that suit some rows.

        order (n,): the rows of X to look at, in a random order; the scalars look at the
        first of them.  weight (n,): theirs.  targets: `Targets` of all rows of X.
        class_weights (K,): sums of the weights of the training rows.  tau: the logit
        adjustment, or "auto" to fit it.
        """
        targets, how = targets.take(order), how._replace(decoder="log_mean")

        def bucket_scores(rows):
            n_parts = 1
            if not sp.issparse(X):  # whose rows are copied: a few at a time
                n_parts = max(-(-rows.size * X[:1].nbytes // _COPIED_BYTES), 1)
            parts = np.array_split(rows, n_parts)
            return np.concatenate([self.bucket_scores(X[part], how) for part in parts])

        n_best = min(_N_BEST, self.n_classes)

        def best_of(model):
            """The best classes of the rows, their scores, and which are right."""

            def find(rows, _):
                scores, options = bucket_scores(rows), {"offset": model.offset}
                return decode_topk(scores, self.table, n_best, **options)

            best, scores = _join(self._map_chunks(find, order, how.n_threads))
            return best, scores, targets.have(np.arange(targets.n_rows)[:, None], best)

        if tau == "auto":
            best, scores, own = best_of(self.replace(offset=None))
            tau = fit_adjustment(scores, log_prior(class_weights)[best], own, weight)
        model = self.adjusted(tau, class_weights)
        if self.several:
            return model.replace(scalars=fit_marginals(*best_of(model)[1:], weight))

        def look_at(rows):
            scores = bucket_scores(order[rows])
            scores = decode_scores(scores, self.table, offset=model.offset)
            return summarize(scores, targets.classes[rows], weight[rows])

        n_rows = min(max(_CALIBRATION_SCORES // self.n_classes, 500), targets.n_rows)
        size = max(_CALIBRATION_CHUNK // self.n_classes, 32)
        n_threads = min(how.n_threads, _CALIBRATION_HELD // (size * self.n_classes))
        summaries = Parallel(n_jobs=max(n_threads, 1), require="sharedmem")(
            delayed(look_at)(rows) for rows in gen_batches(n_rows, size)
        )
        start = digits(self.n_classes, self.n_buckets)
        return model.replace(scalars=fit_scalars(summaries, start))

    def select(self, repetitions):
        """The model of some repetitions, in this order."""
        table = np.ascontiguousarray(self.table[:, repetitions])
        return self.replace(table=table, scorer=self.scorer.select(repetitions))

    @classmethod
    def concatenate(cls, models):
        """The model of the repetitions of all, otherwise the first.

        All are of the same classes, features and number of buckets.
        """
        table = np.concatenate([model.table for model in models], axis=1)
        scorers = [model.scorer for model in models]
        scorer = type(scorers[0]).concatenate(scorers)
        return models[0].replace(table=table, scorer=scorer)

    # Predicting -----------------------------------------------------------------------

    def _bound(self, how):
        """A scorer, its options, and those of the functions that decode its scores.

        Scores are divided by R where the decoder adds them, so that all methods compare
        the very same numbers.
        """
        decoder = DECODERS[how.decoder]
        offset = self.offset if decoder.is_log else None
        return (
            self.scorer.on(how.device, self.table),
            (decoder.is_log, decoder.divisor(self.n_repetitions)),
            {"merge": decoder.merge, "offset": offset},
        )

    def bucket_scores(self, X, how):
        """Bucket scores, scaled for the decoder: float32 of shape (n, R, B)."""
        scorer, scale, _ = self._bound(how)
        return scorer.bucket_scores(X, *scale)

    def topk(self, X, k, how, proba=False):
        """The k best classes of each row, int64 (n, k), and their scores, float32.

        With `proba` their probabilities, too, float64: those of several labels depend
        on no others, and else they are divided by sums over all classes.
        """
        scorer, scale, options = self._bound(how)
        needs_sums = proba and not self.several
        searches = not needs_sums and scorer.searches(k, options["merge"])

        classes = np.empty((X.shape[0], k), np.int64)
        merged = np.empty(classes.shape, np.float32)
        sums = np.empty((X.shape[0], 1))

        def find(X, rows):
            if searches:
                best = scorer.topk(X, k, *scale, **options)
            else:
                scores, prepared = scorer.bucket_scores(X, *scale), self._prepared
                best = decode_topk(scores, self.table, k, prepared=prepared, **options)
            classes[rows], merged[rows] = best  # long lists are not held twice
            if needs_sums:
                first = best[1][:, :1].astype(np.float64)

                def weigh(part, rows):
                    return self._proportions(part, first[rows], how)

                given = weigh, scores, self.table
                sums[rows, 0] = sum_over_classes(*given, **options)

        # a device that searches is busy with one chunk
        self._map_chunks(find, X, 1 if searches else how.n_threads)
        if needs_sums:
            values = merged.astype(np.float64)
            values = self._proportions(values, values[:, :1].copy(), how)
            return classes, merged, np.divide(values, sums, out=values)
        merged = self._finished(merged, how)
        if proba:
            return classes, merged, expit(merged, dtype=np.float64)
        return classes, merged

    def _proportions(self, scores, best, how):
        """Numbers proportional to probabilities, in place of float64 scores (n, any).

        best (n, 1): the best scores of the rows.
        """
        scalars = self.scalars
        if scalars is None:
            scalars = np.log(digits(self.n_classes, self.n_buckets)), 0.0, 0.0
        DECODERS[how.decoder].proportions(scores, best, scalars, self.chance)
        return scores

    def _finished(self, scores, how):
        """Merged scores as they are given: in place, log odds of several classes."""
        if not self.several:
            return scores
        best, is_log = scores.max(axis=1, keepdims=True), DECODERS[how.decoder].is_log
        return log_odds(scores, best, is_log, self.scalars if is_log else None)

    def stages(self, X, k, how, return_scores):
        """Yield classes and scores (None, if not wanted) of the first r repetitions."""
        scorer, scale, options = self._bound(how)

        def decode(X, _):
            scores = scorer.bucket_scores(X, *scale)
            best = decode_stages(scores, self.table, k, **options)
            return best if return_scores else best[:1]

        parts = self._map_chunks(decode, X, how.n_threads)
        for r in range(self.n_repetitions):
            classes, *scores = _join([[array[:, r] for array in p] for p in parts])
            if scale[1] != 1 and scores:  # they are divided by R, not r + 1
                scores[0] *= np.float32(scale[1] / (r + 1))
            yield classes, self._finished(scores[0], how) if scores else None

    def likely(self, X, how, by_stage=False):
        """Classes with log odds of at least zero: arrays of stages, rows and numbers.

        The one stage is 0, or with `by_stage` they are those of the first r + 1
        repetitions, r = 0, 1, ...  Classes are looked for among the best of a row, and
        among ever more, up to all, where all of those are likely.
        """
        scorer, scale, options = self._bound(how)
        of_stages = np.ones(1, np.float32)
        if by_stage and scale[1] != 1:  # they are divided by R, not r + 1
            counts = np.arange(1, self.n_repetitions + 1, dtype=np.float32)
            of_stages = np.float32(scale[1]) / counts

        def decode(scores, k):
            """Classes and log odds, both (n, stages, k)."""
            if by_stage:
                classes, merged = decode_stages(scores, self.table, k, **options)
                merged = merged * of_stages[:, None]
            else:
                given = scores, self.table, k
                best = decode_topk(*given, prepared=self._prepared, **options)
                classes, merged = (array[:, None] for array in best)
            odds = self._finished(merged.reshape(-1, k), how)
            return classes, odds.reshape(merged.shape)

        def find(X, rows):
            scores = scorer.bucket_scores(X, *scale)
            found, left, k = [], np.arange(len(scores)), min(_N_LIKELY, self.n_classes)
            while left.size:
                is_done = np.empty(left.size, bool)
                for few in gen_batches(left.size, max(_MANY_LIKELY // k, 1)):
                    classes, odds = decode(scores[left[few]], k)
                    ends = (odds[..., -1] < 0).all(axis=1) | (k == self.n_classes)
                    is_done[few] = ends
                    row, stage, place = np.nonzero((odds >= 0) & ends[:, None, None])
                    number = rows.start + left[few][row]
                    found.append((stage, number, classes[row, stage, place]))
                left, k = left[~is_done], min(4 * k, self.n_classes)
            return _join(found)

        return _join(self._map_chunks(find, X, how.n_threads))

    def ranks(self, X, y, how):
        """Number of classes before class y[i] in row i, int64 (n,)."""
        scorer, scale, options = self._bound(how)

        def count(X, rows):
            scores = scorer.bucket_scores(X, *scale)
            return rank_of(scores, self.table, y[rows], **options)

        return np.concatenate(self._map_chunks(count, X, how.n_threads))

    def scores(self, X, how, proba=False):
        """Scores of all classes, float32 (n, K), or probabilities, float64.

        Refused where they do not fit in the free memory.
        """
        shape, dtype = (X.shape[0], self.n_classes), np.float64 if proba else np.float32
        _check_room(shape, dtype)
        scorer, scale, options = self._bound(how)
        out = np.empty(shape, dtype)

        def score(X, rows):
            scores, part = scorer.bucket_scores(X, *scale), out[rows]
            if not self.several:
                decode_scores(scores, self.table, out=part, **options)
                if proba:
                    self._proportions(part, part.max(axis=1, keepdims=True), how)
                    part /= part.sum(axis=1, keepdims=True)
                return
            # in float32 as `likely` has them, and so few that they take little memory
            for few in gen_batches(len(part), max(_FEW_SCORES // self.n_classes, ROWS)):
                odds = decode_scores(scores[few], self.table, **options)
                odds = self._finished(odds, how)
                part[few] = expit(odds, dtype=np.float64) if proba else odds

        self._map_chunks(score, X, how.n_threads)
        return out

    def _map_chunks(self, function, X, n_threads):
        """Values of function(X[rows], rows) for chunks of rows, in threads."""
        n_bytes = min(get_config()["working_memory"] * 2**20, _CHUNK_BYTES)
        n_bytes //= 16 * self.n_repetitions * self.n_buckets * n_threads
        n_samples = X.shape[0]
        n_rows = min(max(int(n_bytes), 1), max(-(-n_samples // n_threads), 1))
        # gen_batches checks its arguments: 0.15 of the 0.35 ms of predicting one row
        starts = range(0, n_samples, n_rows)
        chunks = [slice(start, min(start + n_rows, n_samples)) for start in starts]
        if len(chunks) == 1:
            return [function(X, chunks[0])]
        # In this process whatever joblib's context, or each chunk would take the model.
        return Parallel(n_jobs=n_threads, require="sharedmem")(
            delayed(function)(X[rows], rows) for rows in chunks
        )


def _join(parts):
    """Tuples of arrays of chunks of rows as one tuple of arrays."""
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _check_room(shape, dtype):
    """Refuse scores that do not fit in the free memory."""
    needed = shape[0] * shape[1] * np.dtype(dtype).itemsize
    free = free_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"Scores of {shape[0]} rows and {shape[1]} classes take {needed} bytes "
            f"({format_bytes(needed)}), but only {free} bytes "
            f"({format_bytes(free)}) are free. Pass fewer rows at a time, or use "
            "predict or predict_topk, which never hold the scores of all classes."
        )
