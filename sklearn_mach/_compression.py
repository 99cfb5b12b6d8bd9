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
_SAMPLE = 2_000  # features at least, a sixteenth of all, that show what is left
_OCTAVES = 24  # below the largest weight, where a threshold is looked for
_N_HALVINGS = 14  # of these
_N_ROUNDS = 4  # of measuring all features
_UNSURE = 1.2  # times the bytes, to which the sample does not say that all do not fit
_FULL = 0.99  # of the bytes that there are


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
        cut = _least(threshold, factor), bits or BITS[0]
    else:
        cuts = []
        for n_bits in BITS if bits is None else (bits,):
            least, errors = _fitting(W, factor, n_bits, max_bytes - b.nbytes, n_jobs)
            cuts.append((factor**2 @ errors, least, n_bits))
        cut = min(cuts, key=lambda cut: cut[0])[1:]
    return replace(linear, storage=Packed.of(W, b, *cut, n_jobs))


def check_room(max_bytes, plan, n_features, beside=0):
    """Refuse a limit that leaves no room for weights.

    plan : has the table and the numbers of repetitions and buckets
    beside : bytes of the rest of the model, without the table
    """
    if max_bytes is None:
        return
    n_columns = plan.n_repetitions * plan.n_buckets
    needed = empty_bytes(n_features, n_columns) + plan.table.nbytes + beside
    if needed > max_bytes:
        raise ValueError(
            f"max_bytes={max_bytes} is too small: without any weights this model of "
            f"{n_features} features, R={plan.n_repetitions} repetitions and "
            f"{len(plan.table)} classes takes {needed} bytes ({format_bytes(needed)}). "
            "Allow more, or use fewer features or repetitions."
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


def _fitting(W, factor, bits, max_bytes, n_jobs):
    """Magnitudes from which weights are kept, so that they fit, and squared errors.

    Some of the features show which threshold may fit; all are measured to see that it
    does, and to correct what is expected of the sample.
    """
    n_features = factor.size
    n_sampled = min(max(n_features // 16, _SAMPLE), n_features)
    sample = np.random.default_rng(0).choice(n_features, n_sampled, replace=False)

    def measured(threshold, features=slice(None)):
        """Bytes and squared errors."""
        features = np.arange(n_features)[features]
        return packed_bytes(W, _least(threshold, factor), bits, features, n_jobs)

    def expected(n_bytes):
        """The least threshold with which the sample takes so many bytes."""
        low, high = top - _OCTAVES, top
        for _ in range(_N_HALVINGS):
            middle = (low + high) / 2
            fits = measured(2**middle, sample)[0] <= n_bytes
            low, high = (low, middle) if fits else (middle, high)
        return 2**high

    share = n_sampled / n_features
    if measured(0.0, sample)[0] < _UNSURE * share * max_bytes:
        n_bytes, errors = measured(0.0)
        if n_bytes <= max_bytes:
            return _least(0.0, factor), errors
    top = np.log2(max(W.max(), -W.min()) * factor.max()) + 0.01  # nothing is left
    threshold, errors = 2**top, measured(2**top)[1]
    for _ in range(_N_ROUNDS):
        closer = expected(share * max_bytes)
        n_bytes, its_errors = measured(closer)
        if n_bytes <= max_bytes and closer < threshold:
            threshold, errors = closer, its_errors
            if n_bytes >= _FULL * max_bytes:
                break
        share *= (1 + _FULL) / 2 * max_bytes / n_bytes
    return _least(threshold, factor), errors
