"""`load`: the classifier in a file that `save` wrote."""

from ._classifier import MACHClassifier
from ._saving import load_attributes


def load(path, *, mmap=True, verify=None):
    """Load the model that :meth:`MACHClassifier.save` wrote.

    Nothing in the file is run as code, and no array is used before its type and shape
    are checked: a file from elsewhere gives wrong predictions at worst.

    Parameters
    ----------
    path : str or path-like
        The file.
    mmap : bool, default=True
        Whether to map the file in place of reading it: a model of any size is there in
        milliseconds, the parts in use are read as they are needed, and processes that
        load the same file share one copy in memory.  Weights are then read-only;
        `partial_fit` and `fit` make their own.  `save` to the same path leaves mapped
        models as they are; other ways to change or cut a mapped file do not.
    verify : bool, default=None
        Whether to compare the weights with their checksum, for which all of them are
        read.  None does so where they take at most 100 MB (0.1 s) or with
        ``mmap=False``.  Everything else is always compared.

    Returns
    -------
    model : MACHClassifier
        With the parameters and attributes of the model that was saved.

    Raises
    ------
    ValueError
        If the file is none of `save`, truncated, damaged or of a newer version, or
        holds what no model has.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> import sklearn_mach
    >>> X, y = load_digits(return_X_y=True)
    >>> model = sklearn_mach.MACHClassifier(random_state=0).fit(X / 16, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "digits.safetensors")
    ...     model.save(path)
    ...     same = sklearn_mach.load(path, mmap=False)
    >>> bool((same.predict(X / 16) == model.predict(X / 16)).all())
    True
    """
    model = MACHClassifier()
    parameters = model.get_params(deep=False)
    vars(model).update(load_attributes(path, parameters, mmap, verify))
    model._validate_params()  # `partial_fit` of a fitted model does not
    return model
