"""States of a training in files, from which the same training goes on.

A block of repetitions that are trained together has a file, which is replaced as a
whole after each epoch.  Training is the same function of a state, whoever calls it:
what goes on from a file reaches the bits of what was never stopped.
"""

import os
import re
from contextlib import suppress

import joblib
import numpy as np

import sklearn_mach

from . import _files
from ._spool import Spool

_NAME = re.compile(r"repetitions-(\d+)-(\d+)\.safetensors")
_DRAFT = re.compile(r"\.sklearn_mach-[0-9a-f]+\.tmp")
_IRRELEVANT = "checkpoint", "n_jobs", "verbose"  # to what is trained


class Checkpoint:
    """The folder of the files of one fit.

    key : str, the same for the same rows, parameters and plan only
    """

    def __init__(self, path, key):
        self.path, self.key = path, key

    @classmethod
    def of_fit(cls, parameters, X, targets, weight, plan, scorer):
        """The checkpoint that the parameters ask for, or None."""
        if parameters.checkpoint is None:
            return None
        given = parameters.get_params(deep=False)
        given = {k: v for k, v in given.items() if k not in _IRRELEVANT}
        if isinstance(X, Spool):
            rows = X.shape, X.checksum, X.targets.sums(None, len(plan.table))
        else:
            arrays = (
                (X,) if isinstance(X, np.ndarray) else (X.data, X.indices, X.indptr)
            )
            rows = X.shape, *map(np.asarray, arrays), *targets, weight
        before = None if scorer is None else scorer.storage.dense()[1]
        work = given, rows, plan.table, plan.n_buckets, plan.n_old, before
        key = joblib.hash((sklearn_mach.__version__, *work), coerce_mmap=True)
        path = os.fspath(parameters.checkpoint)
        os.makedirs(path, exist_ok=True)
        return cls(path, key)

    def blocks(self, blocks):
        """Blocks of repetitions, but those that have files as they are there."""
        owner = {r: i for i, block in enumerate(blocks) for r in block}
        for i, (first, stop) in enumerate(self._found(), len(blocks)):
            owner |= {r: i for r in range(first, stop) if r in owner}
        numbers = np.array(sorted(owner))
        owners = np.array([owner[r] for r in numbers])
        return np.split(numbers, np.flatnonzero(np.diff(owners)) + 1)

    def _found(self):
        names = map(_NAME.fullmatch, sorted(os.listdir(self.path)))
        return [tuple(map(int, match.groups())) for match in names if match]

    def part(self, blocks, n_buckets, settings):
        """The `Kept` of blocks of repetitions that are trained side by side."""
        name = f"repetitions-{blocks[0][0]}-{blocks[-1][-1] + 1}.safetensors"
        path, has_units = os.path.join(self.path, name), settings.unit is not None
        return Kept(path, self.key, blocks, n_buckets, has_units)


class Kept:
    """The file of some repetitions.

    blocks : their numbers, in blocks of which each has a task
    has_units : whether their weights are integers while they are trained, which lie in
        the first half of the memory of a block
    """

    def __init__(self, path, key, blocks, n_buckets, has_units):
        self.path, self.key, self.n_buckets = path, key, n_buckets
        self.blocks, self.has_units = blocks, has_units

    def _weights(self, W):
        """The weights of each repetition in W (d, R B), as they are in its memory."""
        for block in self.blocks:
            for r in block:
                start = self.n_buckets * (block[0] + r if self.has_units else r)
                columns = slice(start, start + self.n_buckets)
                yield f"W{r}", (W.view(np.int16) if self.has_units else W)[:, columns]

    def save(self, state, block=0, losses=None, weight=0.0):
        """Write a state, and what the epoch after it has done: see `Progress`."""
        losses = np.zeros(state.rate.size) if losses is None else losses
        arrays = {"losses": losses} | dict(self._weights(state.W))
        arrays |= {name: getattr(state, name) for name in _ARRAYS}
        values = {"key": self.key, "epoch": state.epoch, "block": block}
        _files.write(self.path, arrays, values | {"weight": float(weight)})

    def load(self, state):
        """Bring what was saved into the arrays of a first state.

        Returns the state, the blocks that the epoch after it has done, and their losses
        and weight; None where nothing was saved.
        """
        try:
            arrays, values, _ = content = _files.read(self.path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{self.path} cannot be read: {error}.") from error
        if values["key"] != self.key:
            raise ValueError(
                f"The checkpoint {os.path.dirname(self.path)} is of another fit: of "
                "other rows, parameters or version of sklearn_mach, or of other sizes, "
                "which 'auto' takes where less memory is free. Pass another folder, or "
                "delete this one to begin anew."
            )
        content.verify(arrays)
        for name, weights in self._weights(state.W):
            weights[:] = arrays[name]
        state.b[:] = arrays["b"]
        others = {name: arrays[name].copy() for name in _ARRAYS if name != "b"}
        state = state._replace(epoch=values["epoch"], **others)
        return state, values["block"], arrays["losses"].copy(), values["weight"]


_ARRAYS = "b", "rate", "best", "since_best", "n_iter", "loss"  # of `State`, beside W


def clear(path):
    """Delete the files of a checkpoint, and its folder if nothing else is in it."""
    for name in os.listdir(path):
        if _NAME.fullmatch(name) or _DRAFT.fullmatch(name):
            os.unlink(os.path.join(path, name))
    with suppress(OSError):
        os.rmdir(path)
