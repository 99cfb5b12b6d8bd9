"""Problems of any size with a long tail of classes, drawn at random."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state, gen_batches

from ._library import check_number, csr

_ROWS = 50_000  # made at a time, which keeps the temporaries small


def make_many_classes(
    n_samples=10_000,
    n_features=5_000,
    n_classes=1_000,
    *,
    n_nonzeros=50,
    feature_exponent=1.0,
    class_exponent=1.0,
    signal=0.3,
    dense=False,
    noise=1.5,
    return_centers=False,
    random_state=None,
):
    """Make a sparse or dense problem with a long tail of classes.

    Class k has a share of the rows proportional to ``(k + 1) ** -class_exponent``.

    The sparse kind has popular and rare columns, as texts have. The columns, most
    popular first, are cut into ``n_nonzeros`` runs of equal popularity. A row has
    one non-zero in each run. Column j of a run is drawn with probability
    proportional to ``(j + 1) ** -feature_exponent``, or, with probability
    ``signal``, it is the column that marks the class in that run.

    The dense kind stands in for embeddings. Each class has a centre, a random
    direction of unit length. A row is the centre of its class plus
    ``noise / sqrt(n_features)`` times a standard normal vector, scaled to unit
    length. The best accuracy that a classifier can reach is known: see Notes.

    Parameters
    ----------
    n_samples : int, default=10_000
        Number of rows.
    n_features : int, default=5_000
        Number of columns. The sparse kind needs at least ``n_nonzeros``.
    n_classes : int, default=1_000
        Number of classes. Each has a row if ``n_samples >= n_classes``.
    n_nonzeros : int, default=50
        Number of non-zeros in each row, of the sparse kind.
    feature_exponent, class_exponent : float, default=1.0
        Exponents of the power laws, 0 or more. 0 is the uniform distribution.
        ``feature_exponent`` is of the sparse kind.
    signal : float, default=0.3
        Probability that a non-zero of the sparse kind is the mark of its class, 0 to 1.
        With 0 nothing can be learned but the class sizes.
    dense : bool, default=False
        Whether to make the dense kind.
    noise : float, default=1.5
        About the length of the noise of the dense kind, where a centre has length one,
        0 or more. The cosine of a row and its centre is about
        ``1 / sqrt(1 + noise**2)``.
    return_centers : bool, default=False
        Whether to return the centres too, which only the dense kind has.
    random_state : int, RandomState instance or None, default=None
        Draws everything.

    Returns
    -------
    X : sparse matrix or ndarray of shape (n_samples, n_features), float32
        Rows of unit length. The sparse kind is CSR, a sparse array if scikit-learn is
        so configured (``sparse_interface``), and all values are ``n_nonzeros ** -0.5``.
        The indices are int32, or int64 with 2**31 non-zeros or columns or more. The
        dense kind is a C-ordered array.
    y : ndarray of shape (n_samples,), int64
        Classes 0 to ``n_classes - 1``, the most frequent first.
    centers : ndarray of shape (n_classes, n_features), float32
        Centre of each class, of unit length. Only if ``return_centers`` is True.

    Raises
    ------
    TypeError, ValueError
        If a parameter has a wrong type or is out of range, or if
        ``return_centers`` is True and ``dense`` is False.

    Notes
    -----
    Dense classes of equal size are told apart best by the nearest centre, the class
    of largest ``X @ centers.T``. No classifier has a higher expected accuracy. Of
    classes of unequal size, Bayes' rule takes that of largest
    ``n_features * sqrt(1 + noise**2) / noise**2 * X @ centers.T + log(share)``,
    where share is the share of the rows that the class has. This is exact in the
    limit of many columns, and close to the best with few.

    The Open Directory Project set of [1]_ has ``n_samples=1_084_404``,
    ``n_features=422_713`` and ``n_classes=105_033`` in its training part.

    References
    ----------
    .. [1] T. Medini, Q. Huang, Y. Wang, V. Mohan and A. Shrivastava (2019).
       Extreme Classification in Log Memory using Count-Min Sketch: A Case Study of
       Amazon Search with 50M Products. NeurIPS 32.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_mach.datasets import make_many_classes
    >>> X, y = make_many_classes(2_000, 3_000, 500, random_state=0)
    >>> X.shape, X.nnz, np.unique(y).size
    ((2000, 3000), 100000, 500)

    Dense rows, and the accuracy that no classifier can be expected to exceed:

    >>> params = {"class_exponent": 0, "noise": 3, "random_state": 0}
    >>> X, y, centers = make_many_classes(
    ...     2_000, 64, 100, dense=True, return_centers=True, **params
    ... )
    >>> X.shape, X.dtype, centers.shape
    ((2000, 64), dtype('float32'), (100, 64))
    >>> best = (X @ centers.T).argmax(axis=1)
    >>> print(f"{np.mean(best == y):.2f}")
    0.56
    """
    check_number(n_samples, "n_samples", Integral, min_val=1)
    check_number(n_classes, "n_classes", Integral, min_val=1)
    check_number(n_nonzeros, "n_nonzeros", Integral, min_val=1)
    for value, name in ((dense, "dense"), (return_centers, "return_centers")):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, not {value!r}.")
    fewest = 1 if dense else n_nonzeros
    check_number(n_features, "n_features", Integral, min_val=fewest)
    check_number(feature_exponent, "feature_exponent", Real, min_val=0)
    check_number(class_exponent, "class_exponent", Real, min_val=0)
    check_number(signal, "signal", Real, min_val=0, max_val=1)
    check_number(noise, "noise", Real, min_val=0)
    if return_centers and not dense:
        raise ValueError(
            "return_centers=True needs dense=True: the sparse kind has no centres."
        )
    random_state = check_random_state(random_state)

    one_each = np.arange(n_classes if n_samples >= n_classes else 0)
    draws = random_state.random_sample(n_samples - one_each.size)
    tail = _power_law(draws, 0, n_classes, class_exponent)
    y = np.concatenate([one_each, tail])
    random_state.shuffle(y)

    if dense:
        sizes = int(n_classes), int(n_features), float(noise)
        X, centers = _gaussian_clusters(y, *sizes, random_state)
        return (X, y, centers) if return_centers else (X, y)

    # Ends of the runs: strictly increasing, the last one n_features.
    quantiles = np.arange(1, n_nonzeros) / n_nonzeros
    ends = _power_law(quantiles, 0, n_features, feature_exponent)
    least = np.arange(n_nonzeros + 1)
    ends = np.maximum.accumulate(np.concatenate([[0], ends, [n_features]]) - least)
    ends = np.minimum(ends, n_features - n_nonzeros) + least
    low, high = ends[:-1], ends[1:]
    indptr = _equal_rows(int(n_samples), int(n_nonzeros), int(n_features))
    kind = indptr.dtype
    marks = random_state.randint(low, high, (n_classes, n_nonzeros), dtype=kind)

    indices = np.empty((n_samples, n_nonzeros), dtype=kind)
    for rows in gen_batches(y.size, _ROWS):
        draws = random_state.random_sample(indices[rows].shape)
        indices[rows] = _power_law(draws, low, high, feature_exponent)
        marked = random_state.random_sample(draws.shape) < signal
        np.copyto(indices[rows], marks[y[rows]], where=marked)
    values = np.full(indices.size, n_nonzeros**-0.5, dtype=np.float32)
    return csr(values, indices.ravel(), indptr, n_features), y


def _gaussian_clusters(y, n_classes, n_features, noise, random_state):
    """Rows of unit length about the centres of their classes, and the centres.

    X (n_samples, n_features) and centers (n_classes, n_features) are float32.
    """
    X = np.empty((y.size, n_features), dtype=np.float32)
    centers = np.empty((n_classes, n_features), dtype=np.float32)
    # Centre and noise are both divided by 1 + noise, which leaves the direction of
    # the row as it is, so that no noise is too large for a float.
    pull, push = 1 / (1 + noise), noise / (1 + noise) / np.sqrt(n_features)
    for out, classes in ((centers, None), (X, y)):
        for rows in gen_batches(len(out), max(1, 1_000_000 // n_features)):
            block = random_state.standard_normal(out[rows].shape)
            if classes is not None:
                block *= push
                block += pull * centers[classes[rows]]
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            out[rows] = block
    return X, centers


def _power_law(draws, low, high, exponent):
    """Integers in [low, high), P(j) about (j + 1) ** -exponent, from uniform draws.

    Inverts the distribution function of the continuous power law on
    [low + 1, high + 1). Shapes broadcast.
    """
    low, high = np.float64(low) + 1, np.float64(high) + 1
    power = 1 - exponent
    if abs(power) < 1e-9:
        place = low * (high / low) ** draws
    elif power < -20:  # large places to this power are zero, their quotients are not
        place = low * (1 - draws * (1 - (high / low) ** power)) ** (1 / power)
    else:
        place = (low**power + draws * (high**power - low**power)) ** (1 / power)
    return np.minimum(place, high - 1).astype(np.int64) - 1


def _equal_rows(n_rows, n_nonzeros, n_features):
    """Row pointers (n_rows + 1,) of rows of n_nonzeros each, in the dtype of indices.

    As in SciPy, int64 is for what int32 cannot count.
    """
    largest = max(n_rows * n_nonzeros, n_features)
    dtype = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
    return np.arange(n_rows + 1, dtype=dtype) * dtype(n_nonzeros)
