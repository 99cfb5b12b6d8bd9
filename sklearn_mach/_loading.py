"""From a file to a fitted classifier."""

from ._classifier import MACHClassifier
from ._files import read
from ._lanes import has_lookup
from ._saving import WEIGHTS, check, unpack
from ._states import restore
from ._topk import Prepared

_QUICK = 1 << 27  # bytes of an array, whose checksum takes a tenth of a second at most


def load(path, *, mmap=True, verify=None):
    """Load a model that :meth:`MACHClassifier.save` wrote; no code in the file is run.

    Parameters
    ----------
    path : str or path-like
        Name of the file.
    mmap : bool, default=True
        Map the arrays: they are read as they are needed, and all processes of a machine
        share them. The file must stay as it is meanwhile; `save` to the same name makes
        a new one. False reads all into memory.
    verify : bool, default=None
        Whether to compare the checksums of the weights, for which they are read. None
        compares those of arrays of up to 134 MB, and of all with ``mmap=False``. The
        checksums of all other arrays are compared in any case.

    Returns
    -------
    model : MACHClassifier
        The fitted model. It predicts what the saved one does, bit for bit.

    Raises
    ------
    ValueError
        If the file is no such model, is cut off or damaged, or has a newer format.

    Examples
    --------
    >>> import os, tempfile
    >>> import sklearn_mach
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = sklearn_mach.MACHClassifier(n_buckets=4, random_state=0).fit(X / 16, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "digits.mach")
    ...     model.save(path)
    ...     labels = sklearn_mach.load(path, mmap=False).predict(X / 16)
    >>> bool((labels == model.predict(X / 16)).all())
    True
    """

    def is_verified(name, part):
        if verify is None:
            return not mmap or part.size <= _QUICK
        return verify or not name.startswith(WEIGHTS)

    arrays, values, _ = read(path, mmap, is_verified)
    try:
        return _model(unpack(arrays, values))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold a model: {error}") from error


def _model(state):
    """The classifier of a state; an error if the state is none."""
    prepared = state.pop("_prepared", None)
    defaults = MACHClassifier().get_params(deep=False)
    model = MACHClassifier(
        **{name: state.get(name, defaults[name]) for name in defaults}
    )
    model._validate_params()
    check(state, prepared, defaults)
    vars(model).update(restore(defaults | state))
    if prepared is not None and has_lookup():
        vars(model._fitted.model)["prepared"] = Prepared.of(*prepared)
    return model
