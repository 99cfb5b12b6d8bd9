"""Factors of the steps: of the features, of a batch; units of weights of 16 bits."""

import numpy as np

_RANGE = 128.0  # steps of a feature, at least, that fit its 16 bits


def units(longest, gain, n_visits):
    """Units of the features' weights as integers of 16 bits, float32 (n_features,).

    The range of a feature is 128 of its longest steps, and (n / 16)^(1/4) times as many
    if it is visited n > 16 times in training.  Up to 512 visits no weight can leave it,
    because the steps fall to zero; beyond, the largest weights of five data sets took
    less than a fourth of it.  Integers at the end of the range stay there.
    """
    n_steps = _RANGE * np.maximum(n_visits / 16, 1) ** 0.25
    unit = longest * gain * (n_steps / 32768)
    return np.where(unit > 0, unit, 1).astype(np.float32)


def feature_gains(n_rows, squares, weight, power=1):
    """Factors of the steps of the features, float32 of shape (n_features,).

    ``1 + log((n + 1) / (n_j + 1))`` for a feature that is not zero in n_j of the n rows
    (the smooth idf of `TfidfTransformer`), scaled so that the mean squared length of
    the rows stays.  One step for all would learn a feature as fast as it is frequent.
    n_rows, squares: of `_Rows.feature_sums`.  A power of two is what features divided
    by their frequency in the manner of tf-idf would get.
    """
    gain = (1 + np.log((weight + 1) / (n_rows + 1))) ** power
    total = squares @ gain
    if total > 0:
        gain *= squares.sum() / total
    return gain.astype(np.float32)


def coherence(X, visited, step, gain, bias, batch_size, seed, metric=None):
    """How many times a batch of dense rows overshoots if each takes its own step.

    The largest eigenvalue of the Gram matrix of a batch, intercept included, over
    that of a single row: 1 for orthogonal rows, `batch_size` for equal ones.  The
    largest of five random batches of the rows `visited`, in which those of large weight
    are repeated; a step divided by it is safe for the sum.  With a `Metric` the
    products of rows are those in the metric.
    """
    rng = np.random.default_rng([seed, 2])
    largest = 1.0
    for _ in range(5):
        rows = rng.choice(visited, min(batch_size, visited.size), replace=False)
        A = X[rows].astype(np.float64)
        if metric is not None:
            A -= metric.center
        products = (A * gain if metric is None else metric.multiply(A)) @ A.T
        root = np.sqrt(step[rows].astype(np.float64))
        gram = (products + bias) * np.outer(root, root)
        alone = gram.diagonal().max()
        if alone > 0:
            largest = max(largest, np.linalg.eigvalsh(gram)[-1] / alone)
    return largest
