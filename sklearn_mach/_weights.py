"""The weights of the built-in learner as they are stored, and the scores they give.

A storage is a NamedTuple of plain fields that has what `Float32` has; `STORAGES` is the
table of them.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ._backends import backend, predicting_device
from ._logits import logits, to_proba
from ._packed import Packed


class Float32(NamedTuple):
    """Weights as they are trained.

    weights : float32 array of shape (n_features, R B), whose columns are the buckets,
        those of a repetition together
    intercepts : float32 array of shape (R B,)
    """

    weights: np.ndarray
    intercepts: np.ndarray

    @classmethod
    def of(cls, W, b):
        """Store float32 weights and intercepts."""
        return cls(W, b)

    def check(self, n_features, n_columns):
        """Raise ValueError if these are not weights for so many rows and columns."""
        shapes = (n_features, n_columns), (n_columns,)
        found = self.weights.shape, self.intercepts.shape
        if found != shapes or not self.weights.dtype == self.intercepts.dtype == "f4":
            raise ValueError(
                f"its weights and intercepts are {self.weights.dtype} of the shapes "
                f"{found}, not float32 of {shapes}"
            )

    def dense(self):
        """Weights and intercepts as float32 arrays, which `partial_fit` may change."""
        return tuple(self)

    @property
    def n_bytes(self):
        return self.weights.nbytes + self.intercepts.nbytes

    def logits(self, X):
        """Of every row by itself: a new float32 array of shape (n_samples, R B)."""
        return logits(X, *self)

    def rows(self, features):
        """The weights of some features, by their numbers: a new float32 array."""
        return self.weights[features]

    def columns(self, places):
        """The weights of these columns, in C order as kernels are fast."""
        return Float32(self.weights.take(places, axis=1), self.intercepts[places])

    @classmethod
    def concatenate(cls, storages):
        """The columns of all, in this order."""
        weights, intercepts = zip(*storages, strict=True)
        return cls(np.concatenate(weights, axis=1), np.concatenate(intercepts))


STORAGES = {"float32": Float32, "packed": Packed}


@dataclass(frozen=True, eq=False)
class Linear:
    """A scorer of buckets: softmax or sigmoid of weights times features.

    storage : weights of R B columns, of a class in `STORAGES`
    link : of `_losses.LINKS`
    """

    made_by = "estimator=None"
    lacks = (
        "{} is an attribute of models of a base estimator. This model was fitted with "
        "the built-in learner."
    )

    storage: object
    n_buckets: int
    link: str = "softmax"
    known_buckets = None  # all, as `Estimators.known_buckets`
    _copies: dict = field(default_factory=dict, init=False, repr=False)  # on devices

    @classmethod
    def of(cls, W, b, n_buckets, link="softmax", storage="float32"):
        """The scorer of float32 weights, which are stored as `storage`."""
        return cls(STORAGES[storage].of(W, b), n_buckets, link)

    def state(self):
        """What is pickled: the link, the name of the storage and its plain fields."""
        kind = next(k for k, v in STORAGES.items() if isinstance(self.storage, v))
        return {"_storage": (kind, *self.storage), "_link": self.link}

    @classmethod
    def from_state(cls, state, n_buckets):
        """The scorer of which `state` is taken out of a larger one, or None."""
        if "_weights" in state:  # of an older version
            old = state.pop("_weights"), state.pop("_intercepts")
            state["_storage"] = ("float32", *old)
        if "_storage" not in state:
            return None
        kind, *fields = state.pop("_storage")
        link = state.pop("_link", "softmax")  # older versions had no other
        return cls(STORAGES[kind](*fields), n_buckets, link)

    @property
    def n_bytes(self):
        return self.storage.n_bytes

    @property
    def is_compressed(self):
        """Whether training cannot go on with the weights."""
        return not isinstance(self.storage, Float32)

    @property
    def coef(self):
        """Weights (R, B, n_features), a view where they are stored as float32."""
        weights, intercepts = self.storage.dense()
        n_repetitions = intercepts.size // self.n_buckets
        shape = -1, n_repetitions, self.n_buckets
        return weights.reshape(shape).transpose(1, 2, 0)

    @property
    def intercept(self):
        """Intercepts (R, B)."""
        return self.storage.intercepts.reshape(-1, self.n_buckets)

    def rows(self, features):
        """Weights of some features, by their numbers: float32 (n_features, R B)."""
        return self.storage.rows(features)

    def check_compressible(self):
        """Refuse what cannot be compressed."""
        if self.is_compressed:
            raise ValueError(
                "This model is compressed already. Compress the one that it was made "
                "of, or train a new one."
            )

    def on(self, device, table):
        """The scorer on the device of `fit`, or the CPU where that does not answer."""
        functions = backend(predicting_device(device))
        return functions.scorer(self, table, self._copies)

    def bucket_scores(self, X, log, divisor):
        """(Log) probabilities of the buckets, divided: float32 (n_samples, R, B)."""
        scores = to_proba(self.storage.logits(X), self.n_buckets, log, self.link)
        if divisor != 1:
            scores /= np.float32(divisor)
        return scores

    def searches(self, k, merge):
        """Whether the device finds the k best classes, and not the cores."""
        return False

    def select(self, repetitions):
        """The scorer of some repetitions, in this order."""
        places = np.arange(self.intercept.size).reshape(self.intercept.shape)
        chosen = self.storage.columns(places[repetitions].ravel())
        return Linear(chosen, self.n_buckets, self.link)

    @classmethod
    def concatenate(cls, scorers):
        """The repetitions of all, in this order, as float32."""
        joined = Float32.concatenate([Float32(*s.storage.dense()) for s in scorers])
        return cls(joined, scorers[0].n_buckets, scorers[0].link)
