"""What the data sets share: the files of the standard library, CSR, checks."""

import os
import sysconfig
from numbers import Integral, Real

import numpy as np
from scipy.sparse import csr_array, csr_matrix
from sklearn import get_config
from sklearn.utils import check_scalar

# Folders that hold no library code of their own.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "turtledemo", "__pycache__"}
_SKIPPED_FOLDERS |= {"site-packages", "dist-packages"}
# And two of tables. Those of encodings are near copies of one text, which would be in
# both parts: one was 15 percent of the test rows of 50 files.
_SKIPPED_FOLDERS |= {"encodings", "pydoc_data"}


def read_library(read, n_files, random_state):
    """What `read` finds in modules of the standard library, and the unreadable ones.

    ``read(path)`` gives a list, or None if the file cannot be read. Returns the lists
    that are not empty, {relative path: list}, `n_files` of them or all, and the
    relative paths of the files on the way that cannot be read.
    """
    root = sysconfig.get_paths()["stdlib"]
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = set(subfolders) - _SKIPPED_FOLDERS
        where = os.path.relpath(folder, root).replace(os.sep, "/")
        paths += [f"{where}/{n}".removeprefix("./") for n in names if n.endswith(".py")]
    files, unreadable = {}, []
    for path in random_state.permutation(sorted(paths)).tolist():
        if n_files is not None and len(files) == n_files:
            break
        found = read(os.path.join(root, path))
        if found:
            files[path] = found
        elif found is None:
            unreadable.append(path)
    if len(files) < 2:
        raise FileNotFoundError(
            f"The source text of the standard library is not in {root!r}. This Python "
            "may keep its library as a zip file or as compiled modules only. Use an "
            "installation of Python that has the library as .py files."
        )
    return files, sorted(unreadable)


def split_files(files, test_size, random_state):
    """Paths of the files, training files first, and the number of training files."""
    n_test = min(max(1, round(test_size * len(files))), len(files) - 1)
    n_train = len(files) - n_test
    paths = random_state.permutation(sorted(files)).tolist()
    return sorted(paths[:n_train]) + sorted(paths[n_train:]), n_train


def check_split(n_files, min_count, test_size):
    """Refuse parameters of the loaders that are out of range."""
    if n_files is not None:
        check_number(n_files, "n_files", Integral, min_val=2)
    check_number(min_count, "min_count", Integral, min_val=1)
    check_number(test_size, "test_size", Real)
    if not 0 < test_size < 1:
        raise ValueError(f"test_size == {test_size}, must be > 0 and < 1.")


def check_number(value, name, kind, **limits):
    """Refuse what is not a finite number of this kind within the limits."""
    if isinstance(value, bool):  # an Integral to Python
        raise TypeError(f"{name} must be a number, not {value}.")
    check_scalar(value, name, kind, **limits)
    if not -np.inf < value < np.inf:
        raise ValueError(f"{name} == {value}, must be finite.")


def csr(values, indices, indptr, n_features):
    """CSR over these arrays, not copied, in scikit-learn's ``sparse_interface``."""
    interface = get_config().get("sparse_interface", "spmatrix")  # from 1.9 on
    container = csr_array if interface == "sparray" else csr_matrix
    X = container((len(indptr) - 1, n_features), dtype=values.dtype)
    # Set one by one: the constructor copies a view of less than half an array.
    X.data, X.indices, X.indptr = values, indices, indptr
    return X


def csr_parts(X, n_train):
    """The first `n_train` rows of X and the others, CSR over the memory of X."""
    split = X.indptr[n_train]
    head, tail = X.indptr[: n_train + 1], X.indptr[n_train:] - split
    return (
        csr(X.data[:split], X.indices[:split], head, X.shape[1]),
        csr(X.data[split:], X.indices[split:], tail, X.shape[1]),
    )
