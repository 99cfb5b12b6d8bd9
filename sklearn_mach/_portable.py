"""What makes a fitted classifier smaller, and writes it to a file."""

from copy import copy
from numbers import Integral, Real

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._compression import BITS, best_repetitions, check_room, compress
from ._fitted import Fitted
from ._fitting import Fit
from ._inputs import check_rows, targets_as
from ._model import Model
from ._saving import save, saved_bytes
from ._weights import Linear


class Portable(Fitted):
    """A `Fitted` that can be made smaller and saved."""

    def compress(self, X=None, y=None, *, max_bytes=None, bits=None, threshold=None):
        """Give a copy of the model with fewer weights, in 8 or 4 bits each.

        The weights of a feature become whole numbers times a scale of its own. With
        `max_bytes` or `threshold` those that matter least are left out. A weight w of
        feature j matters ``|w| (s_j / mean s)**(1/8)``, where s_j is the sum of the
        squared values of the feature over the training rows.

        The model itself stays as it is. The copy predicts with what it has, without
        unpacking all of it, and what its `coef_` would. It cannot be trained further:
        `partial_fit` and `warm_start` refuse it. Probabilities keep the scalars of the
        model; `calibrate` fits them anew.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            Rows that the model was not trained on, some hundreds at least. With
            `max_bytes` they decide whether fewer repetitions, of which more weights are
            left, rank their labels better, as they do at very few bytes. Probabilities
            and the logit adjustment are fitted to them, as by `calibrate`.
        y : array-like of shape (n_samples,), or an indicator, default=None
            Their labels.
        max_bytes : int, default=None
            What the copy may take: its weights, table, labels and all else, as `save`
            writes it. As many weights stay as fit.
        bits : {8, 4}, default=None
            Bits of a weight. None is 8, and with `max_bytes` whichever loses less, by
            the sum of the squares of what the errors of the weights matter.
        threshold : float, default=None
            How much a weight must matter to stay. None leaves none out.

        Returns
        -------
        model : MACHClassifier
            A fitted copy, with the parameters of this one.

        Raises
        ------
        ValueError
            If `max_bytes` is too small for a model without weights, if both `max_bytes`
            and `threshold` are given, if the model is compressed already, or if it has
            a base `estimator`.

        Notes
        -----
        Magnitude pruning and a scale for each row are those of Han, Mao and Dally
        (2016), "Deep compression", ICLR, arXiv:1510.00149, without training anew. To
        leave w out changes the scores of the training rows by ``w**2 s_j``, summed over
        their squares. What rare features do on other rows is underrated by that: the
        power 1/8 in place of 1/2 was found on rows not trained on.

        Examples
        --------
        >>> from sklearn_mach import MACHClassifier
        >>> from sklearn_mach.datasets import make_many_classes
        >>> X, y = make_many_classes(3000, 500, 100, random_state=0)
        >>> model = MACHClassifier(n_buckets=16, random_state=0).fit(X, y)
        >>> small = model.compress(max_bytes=100_000)
        >>> model.model_bytes_, small.model_bytes_ < 100_000
        (1029248, True)
        """
        self._check_prediction()
        for name, value in (("max_bytes", max_bytes), ("threshold", threshold)):
            least, kind, what = 0, Real, "at least 0"
            if name == "max_bytes":
                least, kind, what = 1, Integral, "a positive integer"
            is_number = isinstance(value, kind) and not isinstance(value, bool)
            if value is not None and not (is_number and value >= least):
                raise ValueError(f"{name} must be {what}, or None; got {value!r}.")
        if bits is not None and not (isinstance(bits, Integral) and bits in BITS):
            raise ValueError(f"bits must be 8, 4 or None; got {bits!r}.")
        if max_bytes is not None and threshold is not None:
            raise ValueError(
                "max_bytes and threshold both say which weights are left out. Pass one "
                "of them."
            )
        if (X is None) != (y is None):
            raise ValueError("Pass both X and y, or neither.")
        rows = None
        if X is not None:
            X, y = check_rows(self, X, y, in_float32=True)
            targets = targets_as(y, self.classes_, self._fitted.model.several)
            rows = X, targets
        small = copy(self)
        small._fitted = self._smaller(max_bytes, bits, threshold, self._fitted, rows)
        return small if X is None else small.calibrate(X, y)

    def _smaller_fit(self, fit, rows):
        """The `Fit` for the parameter `max_bytes`; rows as in `_smaller`."""
        if self.n_repetitions != "auto":
            rows = None  # nothing is left to choose
        return self._smaller(self.max_bytes, None, None, fit, rows)

    def _check_room(self, plan):
        """Refuse a parameter `max_bytes` without room for any weights."""
        if self.max_bytes is None:
            return
        nothing = np.empty((0, 0), np.float32), np.empty(0, np.float32)
        scorer, sums = Linear.of(*nothing, plan.n_buckets), np.ones(len(plan.table))
        model = Model(plan.table, plan.n_buckets, scorer, 0.0).adjusted(1, sums)
        self._room(self.max_bytes, Fit(model, None, sums, 0))

    def _room(self, max_bytes, fit):
        """Bytes that are left for the weights."""
        model, beside = fit.model, saved_bytes(vars(self) | {"_fitted": fit})
        sizes = model.table, model.n_buckets, self.n_features_in_
        check_room(max_bytes, *sizes, beside)
        return max_bytes - beside

    def _smaller(self, max_bytes, bits, threshold, fit, rows=None):
        """A `Fit` that is compressed; rows : X and `Targets`, or None."""
        model, memory, *others = fit._replace(share=None)
        bits = None if bits is None else int(bits)
        model.scorer.check_compressible()
        how = self._how()
        squares = np.ones(self.n_features_in_)  # of old pickles nothing is known
        if memory is not None and memory.seen is not None:
            squares = memory.seen.squares

        def smaller(model):
            room = None
            if max_bytes is not None:
                room = self._room(max_bytes, Fit(model, None, *others))
            options = squares, room, bits, threshold or 0, how.n_threads
            return model.replace(scorer=compress(model.scorer, *options))

        if rows is None or max_bytes is None:
            return Fit(smaller(model), None, *others)
        return Fit(best_repetitions(model, smaller, *rows, how), None, *others)

    def save(self, path):
        """Write the model to a file that :func:`~sklearn_mach.load` maps.

        The file holds arrays and plain values in the safetensors layout, and no code.
        It has the parameters and all that `partial_fit` and `warm_start` need, with
        checksums, but not the callbacks.  It is written beside `path` and takes its
        place when it is whole and on the disk: whatever happens meanwhile, `path` is
        the old file or the new one.  A process that is killed may leave a
        ``.sklearn_mach-*.tmp`` behind.

        Parameters
        ----------
        path : str or path-like
            The file, which is replaced if it exists.  Any extension will do; programs
            that read safetensors expect ``.safetensors``.

        Raises
        ------
        TypeError
            If the model has a base `estimator`, or labels that are neither numbers,
            strings nor dates, or else what is neither an array nor a plain value.
            joblib, pickle and skops save models with a base `estimator`.

        Examples
        --------
        >>> import os, tempfile
        >>> from sklearn_mach import MACHClassifier
        >>> from sklearn_mach.datasets import make_many_classes
        >>> X, y = make_many_classes(3000, 500, 100, random_state=0)
        >>> small = MACHClassifier(random_state=0, max_bytes=100_000).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     small.save(path)
        ...     os.path.getsize(path) <= 100_000
        True
        """
        check_is_fitted(self)
        self._validate_params()  # as `load` does
        save(path, vars(self), self.get_params(deep=False))
