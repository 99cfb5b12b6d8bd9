"""The weights of the built-in learner as they are stored, and the scores they give.

A storage is a NamedTuple of plain fields that has what `Float32` has; `STORAGES` is the
table of them.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ._backends import backend, predicting_device
from ._logits import bucket_softmax, logits


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

    def dense(self):
        """Weights and intercepts as float32 arrays, which `partial_fit` may change."""
        return tuple(self)

    @property
    def n_bytes(self):
        return self.weights.nbytes + self.intercepts.nbytes

    def logits(self, X):
        """Of every row by itself: a new float32 array of shape (n_samples, R B)."""
        return logits(X, *self)

    def columns(self, places):
        """The weights of these columns."""
        return Float32(self.weights[:, places], self.intercepts[places])

    @classmethod
    def concatenate(cls, storages):
        """The columns of all, in this order."""
        weights, intercepts = zip(*storages, strict=True)
        return cls(np.concatenate(weights, axis=1), np.concatenate(intercepts))


STORAGES = {"float32": Float32}


@dataclass(frozen=True, eq=False)
class Linear:
    """A scorer of buckets: the softmax of weights times features.

    storage : weights of R B columns, of a class in `STORAGES`
    """

    made_by = "estimator=None"
    lacks = (
        "{} is an attribute of models of a base estimator. This model was fitted with "
        "the built-in learner."
    )

    storage: object
    n_buckets: int
    link: str = "softmax"
    _copies: dict = field(default_factory=dict, init=False, repr=False)  # on devices

    @classmethod
    def of(cls, W, b, n_buckets, storage="float32"):
        """The scorer of float32 weights, which are stored as `storage`."""
        return cls(STORAGES[storage].of(W, b), n_buckets)

    def state(self):
        """What is pickled: the name of the storage and its plain fields."""
        kind = next(k for k, v in STORAGES.items() if isinstance(self.storage, v))
        return {"_storage": (kind, *self.storage)}

    @classmethod
    def from_state(cls, state, n_buckets):
        """The scorer of which `state` is taken out of a larger one, or None."""
        if "_weights" in state:  # of an older version
            old = state.pop("_weights"), state.pop("_intercepts")
            state["_storage"] = ("float32", *old)
        if "_storage" not in state:
            return None
        kind, *fields = state.pop("_storage")
        return cls(STORAGES[kind](*fields), n_buckets)

    @property
    def n_bytes(self):
        return self.storage.n_bytes

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

    def on(self, device, table):
        """The scorer on the device of `fit`, or the CPU where that does not answer."""
        functions = backend(predicting_device(device))
        return functions.scorer(self, table, self._copies)

    def bucket_scores(self, X, log, divisor):
        """(Log) probabilities of the buckets, divided: float32 (n_samples, R, B)."""
        scores = bucket_softmax(self.storage.logits(X), self.n_buckets, log)
        if divisor != 1:
            scores /= np.float32(divisor)
        return scores

    def searches(self, k, merge):
        """Whether the device finds the k best classes, and not the cores."""
        return False

    def select(self, repetitions):
        """The scorer of some repetitions, in this order."""
        places = np.arange(self.intercept.size).reshape(self.intercept.shape)
        return Linear(self.storage.columns(places[repetitions].ravel()), self.n_buckets)

    @classmethod
    def concatenate(cls, scorers):
        """The repetitions of all, in this order; float32 if storages differ."""
        storages = [scorer.storage for scorer in scorers]
        if len(set(map(type, storages))) > 1:
            storages = [Float32(*storage.dense()) for storage in storages]
        return cls(type(storages[0]).concatenate(storages), scorers[0].n_buckets)
