"""Problems with many classes, made on the spot and without a download.

:func:`load_python_tokens` turns the modules of the running Python's standard
library into a next-token problem. :func:`make_many_classes` draws a long-tailed
problem of any size, sparse or dense. The indices of sparse rows are sorted, without
duplicates.
"""

import sysconfig
from collections import Counter
from numbers import Integral, Real

import numpy as np
from scipy.sparse import csr_array, csr_matrix
from sklearn import get_config
from sklearn.utils import Bunch, check_random_state, check_scalar, gen_batches

from ._tokens import read_library

__all__ = ["load_python_tokens", "make_many_classes"]

_ROWS = 50_000  # made at a time, which keeps the temporaries small

_DESCR = """\
Next token of the Python standard library
-----------------------------------------

A row is a place in the source text of a module of the standard library of
Python {version} (tests left out). The label is the token at that place. The
columns tell which tokens come before it. Every value is one.

* Tokens are those of the module `tokenize`. A string, a comment and a line end
  are one token each, whatever their text: <STRING>, <COMMENT>, <NEWLINE>.
  Indentation is <INDENT> and <DEDENT>. Numbers, names and operators are kept.
* Columns are the previous {n_distances} tokens, one-hot by distance, and the set of the
  last {window} tokens. Places before the start of a file hold <START>. Tokens seen
  fewer than {min_count} times in the training files share the columns of <UNKNOWN>.
* Files are split at random into training and test files. Rows keep the order of
  the text. The training rows come first. Some modules resemble each other, such
  as posixpath and ntpath, or the tables of encodings.
* Classes 0 to {last_class} are the tokens of the training files, most frequent
  first. Further classes occur in test files only. No classifier can predict
  them. They stay in the test part and count as misses.

                            train         test
Files              {files[0]:>14,} {files[1]:>12,}
Rows               {rows[0]:>14,} {rows[1]:>12,}
Classes            {classes[0]:>14,} {classes[1]:>12,}
Non-zeros          {nonzeros[0]:>14,} {nonzeros[1]:>12,}
Columns            {n_features:>14,} {n_features:>12,}

Test rows whose label is in no training file: {share_unseen:.2%}
"""


def load_python_tokens(
    *,
    n_files=None,
    n_distances=4,
    window=20,
    min_count=2,
    test_size=0.1,
    random_state=0,
    return_X_y=False,
):
    """Load the next-token problem of the Python standard library.

    The source text is that of the running Python: nothing is downloaded, and the
    numbers differ a little from one version to the next. All files together are about
    1.6 million rows with 27,000 classes, and take about ten seconds.

    Parameters
    ----------
    n_files : int, default=None
        Number of files to read, at least 2, drawn at random. ``None``, or more
        than there are, reads all of them (about 700).
    n_distances : int, default=4
        Number of previous tokens that are one-hot encoded by distance, 1 to 100.
    window : int, default=20
        Number of previous tokens that are encoded as a set, 0 (no set) to 500.
    min_count : int, default=2
        A token seen fewer times than this in the training files shares the columns
        of ``<UNKNOWN>``. It is still a class.
    test_size : float, default=0.1
        Share of the files that are test files, above 0 and below 1. Each part has at
        least one file.
    random_state : int, RandomState instance or None, default=0
        Draws the files and the split. With an integer the result depends only on
        the texts of the files and on their paths within the library.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` in place of the Bunch, which alone says how
        many training rows there are.

    Returns
    -------
    tokens : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes. n_samples counts the rows
        of both parts, n_tokens the tokens that have columns of their own.

        data : sparse matrix of shape (n_samples, n_features), float32
            CSR of ones, training rows first; a sparse array if scikit-learn is so
            configured (``sparse_interface``). There are ``(n_distances + 1) *
            (n_tokens + 2)`` columns, or ``n_distances * (n_tokens + 2)`` with
            ``window=0``.
        target : ndarray of shape (n_samples,), int64
            Class of each row, an index into ``target_names``.
        data_train, data_test, target_train, target_test
            First and last rows of ``data`` and ``target``. They share their memory.
        target_names : ndarray of shape (n_classes,), object
            Token of each class: those of the training files, most frequent
            first, then those that are in test files only.
        feature_names : ndarray of shape (n_features,), object
            Such as ``"token[-1]=self"``, or ``"last20=self"`` for the set.
        filenames : ndarray of shape (n_files,), object
            Paths within the library with forward slashes, training files first.
        groups : ndarray of shape (n_samples,), int32
            File of each row, an index into ``filenames``.
        DESCR : str
            With the share of test rows whose label is in no training file.

    (data, target) : tuple, if ``return_X_y`` is True
        As above.

    Raises
    ------
    TypeError, ValueError
        If a parameter has a wrong type or is out of range.
    FileNotFoundError
        If this Python has no source text of its library, for example because it
        keeps the library as a zip file or as compiled modules only.

    Notes
    -----
    Files that do not tokenize, or hold no token, are left out.

    Examples
    --------
    >>> from sklearn_mach.datasets import load_python_tokens
    >>> tokens = load_python_tokens(n_files=10)
    >>> tokens.data.shape == (len(tokens.target), len(tokens.feature_names))
    True
    >>> "<NEWLINE>" in tokens.target_names[:10]
    True
    >>> X, y = load_python_tokens(n_files=10, return_X_y=True)
    >>> X.dtype, y.dtype
    (dtype('float32'), dtype('int64'))
    """
    if n_files is not None:
        _check_number(n_files, "n_files", Integral, min_val=2)
    _check_number(n_distances, "n_distances", Integral, min_val=1, max_val=100)
    _check_number(window, "window", Integral, min_val=0, max_val=500)
    _check_number(min_count, "min_count", Integral, min_val=1)
    _check_number(test_size, "test_size", Real)
    if not 0 < test_size < 1:
        raise ValueError(f"test_size == {test_size}, must be > 0 and < 1.")
    random_state = check_random_state(random_state)

    files = read_library(n_files, random_state)
    n_test_files = min(max(1, round(test_size * len(files))), len(files) - 1)
    n_train_files = len(files) - n_test_files
    paths = random_state.permutation(sorted(files)).tolist()
    paths = sorted(paths[:n_train_files]) + sorted(paths[n_train_files:])

    # Tokens are numbered by falling count in the training files, then by name.
    # Those that are in test files only have count 0 and come last.
    counts = Counter()
    for path in paths[:n_train_files]:
        counts.update(files[path])
    names = sorted(set().union(*files.values()), key=lambda t: (-counts[t], t))
    number = {name: i for i, name in enumerate(names)}
    n_classes_train = len(counts)
    n_tokens = sum(count >= min_count for count in counts.values())
    texts = [np.array([number[t] for t in files.pop(path)]) for path in paths]
    sizes = np.array([text.size for text in texts])
    n_train = sizes[:n_train_files].sum()

    # In `past` every text follows on a run of <START>, as long as the columns reach.
    unknown, start = n_tokens, n_tokens + 1
    reach = np.full(max(n_distances, window), start)
    past = [part for text in texts for part in (reach, np.minimum(text, unknown))]
    past = np.concatenate(past).astype(np.int32)
    target = np.concatenate(texts)
    groups = np.repeat(np.arange(len(paths), dtype=np.int32), sizes)
    places = np.arange(target.size) + reach.size * (groups + 1)
    X = _context_matrix(past, places, n_distances, window, n_tokens + 2)
    if return_X_y:
        return X, target

    split = X.indptr[n_train]
    head, tail = X.indptr[: n_train + 1], X.indptr[n_train:] - split
    X_train = _csr(X.data[:split], X.indices[:split], head, X.shape[1])
    X_test = _csr(X.data[split:], X.indices[split:], tail, X.shape[1])
    tokens = names[:n_tokens] + ["<UNKNOWN>", "<START>"]
    blocks = [f"token[-{j}]" for j in range(1, n_distances + 1)]
    blocks += [f"last{window}"] * (window > 0)
    classes_test = np.unique(target[n_train:])
    descr = _DESCR.format(
        version=sysconfig.get_python_version(),
        n_distances=n_distances,
        window=window,
        min_count=min_count,
        last_class=n_classes_train - 1,
        files=(n_train_files, n_test_files),
        rows=(n_train, target.size - n_train),
        classes=(n_classes_train, classes_test.size),
        nonzeros=(split, X.nnz - split),
        n_features=X.shape[1],
        share_unseen=np.mean(target[n_train:] >= n_classes_train),
    )
    return Bunch(
        data=X,
        target=target,
        data_train=X_train,
        target_train=target[:n_train],
        data_test=X_test,
        target_test=target[n_train:],
        target_names=np.array(names, dtype=object),
        feature_names=np.array([f"{b}={t}" for b in blocks for t in tokens], object),
        filenames=np.array(paths, dtype=object),
        groups=groups,
        DESCR=descr,
    )


def _context_matrix(past, places, n_distances, window, n_columns):
    """One-hot tokens by distance beside the set of the last `window` tokens, CSR.

    past (n_past,) holds numbers below n_columns. Row i looks back from
    past[places[i]]. Token t at distance j is column (j - 1) n_columns + t, token t
    in the set is column n_distances n_columns + t.
    """
    steps = np.arange(1, max(n_distances, window) + 1)
    shift = np.arange(n_distances, dtype=np.int32) * n_columns
    indices, lengths = [], []
    for rows in gen_batches(places.size, _ROWS):
        back = past[places[rows, None] - steps]  # (n_rows, reach)
        recent = np.sort(back[:, :window], axis=1)
        new = np.ones(recent.shape, dtype=bool)
        new[:, 1:] = recent[:, 1:] != recent[:, :-1]
        recent += n_distances * n_columns
        columns = np.hstack([back[:, :n_distances] + shift, recent])
        keep = np.hstack([np.ones((len(back), n_distances), dtype=bool), new])
        indices.append(columns[keep])
        lengths.append(keep.sum(axis=1))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    indices = np.concatenate(indices)
    values = np.ones(indices.size, dtype=np.float32)
    n_features = (n_distances + (window > 0)) * n_columns
    return _csr(values, indices, indptr.astype(np.int32), n_features)


def _check_number(value, name, kind, **limits):
    """Refuse what is not a finite number of this kind within the limits."""
    if isinstance(value, bool):  # an Integral to Python
        raise TypeError(f"{name} must be a number, not {value}.")
    check_scalar(value, name, kind, **limits)
    if not -np.inf < value < np.inf:
        raise ValueError(f"{name} == {value}, must be finite.")


def _equal_rows(n_rows, n_nonzeros, n_features):
    """Row pointers (n_rows + 1,) of rows of n_nonzeros each, in the dtype of indices.

    As in SciPy, int64 is for what int32 cannot count.
    """
    largest = max(n_rows * n_nonzeros, n_features)
    dtype = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
    return np.arange(n_rows + 1, dtype=dtype) * dtype(n_nonzeros)


def _csr(values, indices, indptr, n_features):
    """CSR over these arrays, not copied, in scikit-learn's ``sparse_interface``."""
    interface = get_config().get("sparse_interface", "spmatrix")  # from 1.9 on
    container = csr_array if interface == "sparray" else csr_matrix
    X = container((len(indptr) - 1, n_features), dtype=np.float32)
    # Set one by one: the constructor copies a view of less than half an array.
    X.data, X.indices, X.indptr = values, indices, indptr
    return X


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
    _check_number(n_samples, "n_samples", Integral, min_val=1)
    _check_number(n_classes, "n_classes", Integral, min_val=1)
    _check_number(n_nonzeros, "n_nonzeros", Integral, min_val=1)
    for value, name in ((dense, "dense"), (return_centers, "return_centers")):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, not {value!r}.")
    fewest = 1 if dense else n_nonzeros
    _check_number(n_features, "n_features", Integral, min_val=fewest)
    _check_number(feature_exponent, "feature_exponent", Real, min_val=0)
    _check_number(class_exponent, "class_exponent", Real, min_val=0)
    _check_number(signal, "signal", Real, min_val=0, max_val=1)
    _check_number(noise, "noise", Real, min_val=0)
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
    return _csr(values, indices.ravel(), indptr, n_features), y


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
