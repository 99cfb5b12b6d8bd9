"""Which weights of a fitted linear model are left out, and in how many bits the rest.

A weight w of feature j matters ``|w| (s_j / mean s)**e``, where s_j is the sum of the
squared values of the feature over the training rows.  To leave w out changes the scores
of these rows by ``w**2 s_j``, summed over squares, which would make e = 1/2.  Of other
rows that says too little of rare features: on rows not trained on, the probabilities of
the buckets change least with e from 1/8 to 1/4, and where nearly all features are rare
the best classes change least with e = 0.
"""

from dataclasses import replace

import numpy as np

from ._memory import format_bytes
from ._packed import Packed, empty_bytes, packed_bytes

BITS = (8, 4)
_EXPONENT = 1 / 8
_SAMPLE = 1_000  # features at least that show how many bytes a threshold leaves
_OCTAVES = 14  # below the largest weight, where a threshold is looked for
_N_HALVINGS = 11  # of these
_N_ROUNDS = 5  # of measuring all features
_FULL = 0.985  # of the bytes that there are
_SHARES = (3 / 4, 1 / 2, 3 / 8, 1 / 4)  # of the repetitions that are tried
_FEW_BYTES = 1 / 10  # for each weight: below it fewer repetitions are tried
_N_BEST = 10  # classes among which those of a row are ranked


def compress(linear, squares, max_bytes, bits, threshold, n_jobs):
    """The `Linear` with weights that are `Packed`.

    squares (n_features,): sums of the squared values of the features
    max_bytes : int, for weights and intercepts, or None
    bits : 8, 4 or None; None is 8, and with max_bytes what loses less
    threshold : float, of what a weight matters, from which it is kept
    """
    W, b = linear.storage.dense()
    factor = _factor(squares)
    if max_bytes is None:
        least, bits = _least(threshold, factor), bits or BITS[0]
    else:
        cut = _Cut(W, factor, max_bytes - b.nbytes, n_jobs)
        if bits is None:
            bits = min(BITS, key=cut.expected_loss)
        least = cut.fitting(bits)
    return replace(linear, storage=Packed.of(W, b, least, bits, n_jobs))


def best_repetitions(model, smaller, X, targets, how):
    """The compressed model of as many repetitions as rank the classes of rows best.

    smaller : function of a `Model` that gives it compressed to the same bytes
    X, targets : rows that the model was not trained on

    Of the same bytes fewer repetitions keep more of their weights.  Where few of all
    are kept, fewer repetitions are tried, until the mean reciprocal rank of a row's
    classes, among the ten best, is lower by its standard error.
    """
    best, n_weights = smaller(model), model.scorer.storage.weights.size
    if best.scorer.n_bytes > _FEW_BYTES * n_weights:
        return best
    n_best, rows = min(_N_BEST, model.n_classes), np.arange(targets.n_rows)[:, None]

    def reciprocal_ranks(model):
        own = targets.have(rows, model.topk(X, n_best, how)[0])
        return own @ (1 / np.arange(1, n_best + 1))

    best_ranks = reciprocal_ranks(best)
    for share in _SHARES:
        first = np.arange(max(round(share * model.n_repetitions), 1))
        if len(np.unique(model.table[:, first], axis=0)) < model.n_classes:
            break  # some classes are not told apart
        fewer = smaller(model.select(first))
        ranks = reciprocal_ranks(fewer)
        gain = ranks - best_ranks
        if gain.mean() > 0:
            best, best_ranks = fewer, ranks
        elif gain.mean() < -gain.std() / np.sqrt(gain.size):
            break
    return best


def check_room(max_bytes, table, n_buckets, n_features, beside):
    """Refuse a limit that leaves no room for weights.

    beside : bytes of the model without its weights
    """
    needed = empty_bytes(n_features, table.shape[1] * n_buckets) + beside
    if needed > max_bytes:
        raise ValueError(
            f"max_bytes={max_bytes} is too small: without any weights this model of "
            f"{n_features} features, R={table.shape[1]} repetitions and {len(table)} "
            f"classes takes {needed} bytes ({format_bytes(needed)}). Allow more, or "
            "use fewer features or repetitions."
        )


def _factor(squares):
    """How much more than its magnitude a weight of each feature matters."""
    is_seen = squares > 0
    mean = squares[is_seen].mean() if is_seen.any() else 1.0
    return (squares / mean) ** _EXPONENT


def _least(threshold, factor):
    """Magnitudes (n_features,) from which weights are kept."""
    with np.errstate(divide="ignore"):
        least = threshold / factor if threshold > 0 else np.zeros(factor.size)
    return least.astype(np.float32)


class _Cut:
    """The search for the threshold with which weights W fit into so many bytes.

    Some of the features show which threshold may fit; all are measured to see that it
    does, and to correct what is expected of the sample.
    """

    def __init__(self, W, factor, max_bytes, n_jobs):
        self.W, self.factor, self.max_bytes, self.n_jobs = W, factor, max_bytes, n_jobs
        self.every = np.arange(factor.size)
        n_sampled = min(max(factor.size // 32, _SAMPLE), factor.size)
        rng = np.random.default_rng(0)
        self.sample = rng.choice(factor.size, n_sampled, replace=False)
        self.share = n_sampled / factor.size
        largest = max(W.max(), -W.min()) * factor.max()
        self.top = np.log2(max(largest, 1e-30)) + 0.01  # where nothing is left

    def measured(self, threshold, bits, features):
        """Bytes and squared errors of some features."""
        least = _least(threshold, self.factor)
        return packed_bytes(self.W, least, bits, features, self.n_jobs)

    def of_sample(self, bits, n_bytes):
        """The least threshold with which the sample takes so many bytes."""
        if self.measured(0.0, bits, self.sample)[0] <= n_bytes:
            return 0.0
        low, high = self.top - _OCTAVES, self.top
        for _ in range(_N_HALVINGS):
            middle = (low + high) / 2
            fits = self.measured(2**middle, bits, self.sample)[0] <= n_bytes
            low, high = (low, middle) if fits else (middle, high)
        return 2**high

    def expected_loss(self, bits):
        """Squared errors of what weights matter, on the sample."""
        threshold = self.of_sample(bits, self.share * self.max_bytes)
        errors = self.measured(threshold, bits, self.sample)[1]
        return self.factor[self.sample] ** 2 @ errors

    def fitting(self, bits):
        """Magnitudes from which weights are kept, so that they fit."""
        best, share = None, self.share
        for _ in range(_N_ROUNDS):
            threshold = self.of_sample(bits, share * self.max_bytes)
            n_bytes, _ = self.measured(threshold, bits, self.every)
            if n_bytes <= self.max_bytes and (best is None or threshold < best):
                best = threshold
                if threshold == 0 or n_bytes >= _FULL * self.max_bytes:
                    break
            share *= (1 + _FULL) / 2 * self.max_bytes / n_bytes
        if best is None:  # the sample is not like the rest
            self.sample = self.every
            best = self.of_sample(bits, self.max_bytes)
        return _least(best, self.factor)
