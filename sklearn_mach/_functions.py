"""The names that functions of Python's standard library use, several labels a row."""

import ast
import re
import sysconfig
import warnings
from collections import Counter

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ._library import check_split, csr, csr_parts, read_library, split_files

# Between the words of CamelCase: "HTTPServer" is "HTTP" and "Server".
_WORD_ENDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")

_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef

_DESCR = """\
Names that the functions of the Python standard library use
-----------------------------------------------------------

A row is a function or method of a module of the standard library of Python
{version} (tests and tables left out). The columns count the words of its
signature and its docstring. The labels are the names that its body uses.

* Words are lower case, and snake_case and CamelCase are split. They are counted by
  where they stand: name, class, parameter, annotation, decorator, docstring.
  Columns are the words of at least {min_count} training functions.
* Names are attributes, and the builtin, global and imported names that the body
  mentions. Parameters and local variables are none, and neither are the names of
  default values, annotations and decorators. Columns of the target are the names
  of at least {min_count} training functions, most frequent first.
* A function within a function belongs to the body of the outer one. Functions
  that use no name at all are left out.
* Files are split at random into training and test files. Rows keep the order of
  the text. The training rows come first. Some modules resemble each other, such
  as posixpath and ntpath.

                            train         test
Files              {files[0]:>14,} {files[1]:>12,}
Rows               {rows[0]:>14,} {rows[1]:>12,}
Labels in use      {labels[0]:>14,} {labels[1]:>12,}
Labels a row       {mean[0]:>14.2f} {mean[1]:>12.2f}
Labels, most       {most[0]:>14,} {most[1]:>12,}
Rows without label {bare[0]:>14,} {bare[1]:>12,}
Names left out     {rare[0]:>14.2%} {rare[1]:>12.2%}
Non-zeros          {nonzeros[0]:>14,} {nonzeros[1]:>12,}
Columns            {n_features:>14,} {n_features:>12,}

Names left out are those of fewer than {min_count} training functions, as a share of
all names of all rows. No classifier can predict them.

Files that this Python cannot parse, left out: {unreadable}
"""


def load_python_functions(
    *, n_files=None, min_count=2, test_size=0.2, random_state=0, return_X_y=False
):
    """Load a problem with several labels a row: the names that a function uses.

    A row is a function of the standard library, its columns are words of its signature
    and its docstring, and its labels are the names that its body uses, such as
    ``isinstance`` and ``append``. The source text is that of the running Python:
    nothing is downloaded, and the numbers differ a little from one version to the
    next. All files together are about 15,000 rows with 7,000 labels, and take about
    seven seconds.

    Parameters
    ----------
    n_files : int, default=None
        Number of files to read, at least 2, drawn at random. ``None``, or more
        than there are, reads all of them (about 500).
    min_count : int, default=2
        Names and words of fewer training functions than this are no labels and
        columns.
    test_size : float, default=0.2
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
    functions : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these attributes. n_samples counts the rows
        of both parts.

        data : sparse matrix of shape (n_samples, n_features), float32
            CSR of counts, training rows first; a sparse array if scikit-learn is so
            configured (``sparse_interface``). Weight them yourself, for example with
            :class:`~sklearn.feature_extraction.text.TfidfTransformer`.
        target : sparse matrix of shape (n_samples, n_labels), int64
            CSR indicator: ones at the labels of a row, as from
            :class:`~sklearn.preprocessing.MultiLabelBinarizer`. A few rows have none.
        data_train, data_test, target_train, target_test
            First and last rows of ``data`` and ``target``. They share their memory.
        target_names : ndarray of shape (n_labels,), object
            Name of each label, the most frequent of the training rows first.
        feature_names : ndarray of shape (n_features,), object
            Such as ``"parameter=self"`` or ``"docstring=return"``.
        function_names : ndarray of shape (n_samples,), object
            Name of each function after those of its classes, such as
            ``"JSONDecoder.decode"``.
        filenames : ndarray of shape (n_files,), object
            Paths within the library with forward slashes, training files first.
        groups : ndarray of shape (n_samples,), int32
            File of each row, an index into ``filenames``.
        DESCR : str
            With a table of counts, and the files that do not parse.

    (data, target) : tuple, if ``return_X_y`` is True
        As above.

    Raises
    ------
    TypeError, ValueError
        If a parameter has a wrong type or is out of range, or if ``min_count`` leaves
        no label or no column.
    FileNotFoundError
        If this Python has no source text of its library, for example because it
        keeps the library as a zip file or as compiled modules only.

    Notes
    -----
    Files that this Python cannot parse are left out, as are files without functions. A
    name that is bound anywhere in a function, or in a function within it, counts as
    local there, unless it is declared ``global`` or imported.

    Examples
    --------
    >>> from sklearn_mach.datasets import load_python_functions
    >>> functions = load_python_functions(n_files=20)
    >>> functions.target.shape == (
    ...     len(functions.function_names), len(functions.target_names)
    ... )
    True
    >>> "len" in functions.target_names[:50]
    True
    >>> X, Y = load_python_functions(n_files=20, return_X_y=True)
    >>> X.dtype, Y.dtype
    (dtype('float32'), dtype('int64'))
    """
    check_split(n_files, min_count, test_size)
    random_state = check_random_state(random_state)

    files, unreadable = read_library(_read_functions, n_files, random_state)
    paths, n_train_files = split_files(files, test_size, random_state)
    sizes = np.array([len(files[path]) for path in paths])
    n_train = sizes[:n_train_files].sum()
    rows = [row for path in paths for row in files[path]]
    functions, words, names = zip(*rows, strict=True)

    columns = _frequent(words[:n_train], min_count)
    labels = _frequent(names[:n_train], min_count)
    if not columns or not labels:
        raise ValueError(
            f"min_count == {min_count}, no {'label' if columns else 'column'} is in as "
            f"many of the {n_train} training functions. Set min_count to a smaller "
            "number, or read more files."
        )
    X = _count_matrix(words, columns, np.float32)
    Y = _count_matrix(names, labels, np.int64)
    if return_X_y:
        return X, Y

    X_train, X_test = csr_parts(X, n_train)
    Y_train, Y_test = csr_parts(Y, n_train)
    parts = (Y_train, names[:n_train]), (Y_test, names[n_train:])
    descr = _DESCR.format(
        version=sysconfig.get_python_version(),
        min_count=min_count,
        files=(n_train_files, len(paths) - n_train_files),
        rows=(n_train, len(names) - n_train),
        labels=[np.unique(part.indices).size for part, _ in parts],
        mean=[part.nnz / part.shape[0] for part, _ in parts],
        most=[np.diff(part.indptr).max() for part, _ in parts],
        bare=[np.count_nonzero(np.diff(part.indptr) == 0) for part, _ in parts],
        rare=[1 - part.nnz / sum(map(len, rows)) for part, rows in parts],
        nonzeros=(X_train.nnz, X_test.nnz),
        n_features=X.shape[1],
        unreadable=", ".join(unreadable) or "none",
    )
    return Bunch(
        data=X,
        target=Y,
        data_train=X_train,
        target_train=Y_train,
        data_test=X_test,
        target_test=Y_test,
        target_names=np.array(list(labels), dtype=object),
        feature_names=np.array(list(columns), dtype=object),
        function_names=np.array(functions, dtype=object),
        filenames=np.array(paths, dtype=object),
        groups=np.repeat(np.arange(len(paths), dtype=np.int32), sizes),
        DESCR=descr,
    )


def _frequent(rows, min_count):
    """Items of at least `min_count` rows, numbered, the most frequent first."""
    counts = Counter(item for row in rows for item in row)
    kept = (item for item, count in counts.items() if count >= min_count)
    return {t: i for i, t in enumerate(sorted(kept, key=lambda t: (-counts[t], t)))}


def _count_matrix(rows, number, dtype):
    """CSR of the counts {item: count} of each row, for the items that have a number."""
    found = [
        sorted((number[item], count) for item, count in row.items() if item in number)
        for row in rows
    ]
    indptr = np.cumsum([0, *map(len, found)], dtype=np.int32)
    indices = np.array([i for row in found for i, _ in row], dtype=np.int32)
    values = np.array([count for row in found for _, count in row], dtype=dtype)
    return csr(values, indices, indptr, len(number))


def _read_functions(path):
    """Name, words and used names of each function of a file that uses any.

    Words and names are Counters; a used name counts once. None if the file does not
    parse.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the compiler, of invalid escapes
        try:
            tree = ast.parse(file.read())
        except (SyntaxError, ValueError):  # ValueError: a null byte, in Python 3.11
            return None
    found = []
    for classes, function in _functions(tree, ()):
        names = _used_names(function)
        if names:
            qualified = ".".join((*classes, function.name))
            found.append((qualified, _words(classes, function), Counter(names)))
    return found


def _functions(node, classes):
    """The functions below a node, each with the names of its classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTION):
            yield classes, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, (*classes, child.name))
        elif not isinstance(child, ast.expr):  # an if, a try, a with
            yield from _functions(child, classes)


def _words(classes, function):
    """Counts of the words of a function by place, such as "name=get"."""
    parameters = [a for a in ast.walk(function.args) if isinstance(a, ast.arg)]
    annotations = [a.annotation for a in parameters] + [function.returns]
    texts = {
        "name": [function.name],
        "class": classes,
        "parameter": [a.arg for a in parameters],
        "annotation": [ast.unparse(a) for a in annotations if a],
        "decorator": map(ast.unparse, function.decorator_list),
        "docstring": [ast.get_docstring(function) or ""],
    }
    return Counter(
        f"{place}={word}"
        for place, parts in texts.items()
        for word in _WORD.findall(_WORD_ENDS.sub(" ", " ".join(parts)).lower())
    )


def _used_names(function):
    """Attributes and names that a function's body uses and does not bind itself."""
    mentioned, attributes, bound, declared = set(), set(), set(), set()
    body = [node for statement in function.body for node in ast.walk(statement)]
    for node in body:
        if isinstance(node, ast.Name):
            mentioned.add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.Global):
            declared.update(node.names)
    type_parameters = getattr(function, "type_params", [])  # from Python 3.12 on
    for node in [*ast.walk(function.args), *type_parameters, *body]:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.MatchMapping):
            bound.add(node.rest)
        elif not isinstance(node, ast.alias):
            # A function or class within, an exception, what a pattern captures.
            bound.add(getattr(node, "name", None))
    return attributes | mentioned - (bound - declared)
