"""The next token of Python's standard library, a problem with many classes."""

import sysconfig
import token
import tokenize
from collections import Counter
from numbers import Integral

import numpy as np
from sklearn.utils import Bunch, check_random_state, gen_batches

from ._library import (
    check_number,
    check_split,
    csr,
    csr_parts,
    read_library,
    split_files,
)

_ROWS = 50_000  # made at a time, which keeps the temporaries small

# Token types that become one token each, whatever their text. Angle brackets keep
# the names apart from every real token.
_ONE_NAME = {
    token.STRING: "<STRING>",
    token.COMMENT: "<COMMENT>",
    token.NEWLINE: "<NEWLINE>",
    token.NL: "<NEWLINE>",
    token.INDENT: "<INDENT>",
    token.DEDENT: "<DEDENT>",
}
_LEFT_OUT = {token.ENCODING, token.ENDMARKER}

_DESCR = """\
Next token of the Python standard library
-----------------------------------------

A row is a place in the source text of a module of the standard library of
Python {version} (tests and tables left out). The label is the token at that place.
The columns tell which tokens come before it. Every value is one.

* Tokens are those of the module `tokenize`. A string, a comment and a line end
  are one token each, whatever their text: <STRING>, <COMMENT>, <NEWLINE>.
  Indentation is <INDENT> and <DEDENT>. Numbers, names and operators are kept.
* Columns are the previous {n_distances} tokens, one-hot by distance, and the set of the
  last {window} tokens. Places before the start of a file hold <START>. Tokens seen
  fewer than {min_count} times in the training files share the columns of <UNKNOWN>.
* Files are split at random into training and test files. Rows keep the order of
  the text. The training rows come first. {cap}
  of a file are there. Some modules resemble each other, such as posixpath and ntpath.
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
    max_rows_per_file=10_000,
    test_size=0.1,
    random_state=0,
    return_X_y=False,
):
    """Load the next-token problem of the Python standard library.

    The source text is that of the running Python: nothing is downloaded, and the
    numbers differ a little from one version to the next. All files together are about
    1.3 million rows with 25,000 classes, and take about ten seconds.

    Parameters
    ----------
    n_files : int, default=None
        Number of files to read, at least 2, drawn at random. ``None``, or more
        than there are, reads all of them (about 600).
    n_distances : int, default=4
        Number of previous tokens that are one-hot encoded by distance, 1 to 100.
    window : int, default=20
        Number of previous tokens that are encoded as a set, 0 (no set) to 500.
    min_count : int, default=2
        A token seen fewer times than this in the training files shares the columns
        of ``<UNKNOWN>``. It is still a class.
    max_rows_per_file : int or None, default=10_000
        Rows of a file, at most: its first ones. So no long file makes up most of a
        small test part. ``None`` takes all.
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
    check_split(n_files, min_count, test_size)
    check_number(n_distances, "n_distances", Integral, min_val=1, max_val=100)
    check_number(window, "window", Integral, min_val=0, max_val=500)
    if max_rows_per_file is not None:
        check_number(max_rows_per_file, "max_rows_per_file", Integral, min_val=1)
    random_state = check_random_state(random_state)

    files, _ = read_library(_read_tokens, n_files, random_state)
    files = {path: tokens[:max_rows_per_file] for path, tokens in files.items()}
    paths, n_train_files = split_files(files, test_size, random_state)

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

    X_train, X_test = csr_parts(X, n_train)
    tokens = names[:n_tokens] + ["<UNKNOWN>", "<START>"]
    blocks = [f"token[-{j}]" for j in range(1, n_distances + 1)]
    blocks += [f"last{window}"] * (window > 0)
    classes_test = np.unique(target[n_train:])
    cap = "All rows"
    if max_rows_per_file is not None:
        cap = f"At most the first {max_rows_per_file:,} rows"
    descr = _DESCR.format(
        version=sysconfig.get_python_version(),
        n_distances=n_distances,
        window=window,
        cap=cap,
        min_count=min_count,
        last_class=n_classes_train - 1,
        files=(n_train_files, len(paths) - n_train_files),
        rows=(n_train, target.size - n_train),
        classes=(n_classes_train, classes_test.size),
        nonzeros=(X_train.nnz, X_test.nnz),
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
    return csr(values, indices, indptr.astype(np.int32), n_features)


def _read_tokens(path):
    """Tokens of one file, a list of str. None if the file does not tokenize."""
    tokens, depth = [], 0
    try:
        with open(path, "rb") as file:
            for kind, text, *_ in tokenize.tokenize(file.readline):
                name = token.tok_name[kind]
                # From Python 3.12 on an f-string is several tokens.
                if name.endswith("STRING_START"):
                    depth += 1
                    if depth == 1:
                        tokens.append("<STRING>")
                elif name.endswith("STRING_END"):
                    depth -= 1
                elif kind == token.ERRORTOKEN:
                    return None
                elif depth == 0 and kind not in _LEFT_OUT:
                    tokens.append(_ONE_NAME.get(kind, text))
    except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return None
    return tokens
