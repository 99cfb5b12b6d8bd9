"""Where the work is done: kinds of device, and the functions of a device by its name.

A kind is a module and a line of `KINDS`.  It has the functions of `Backend`, of which
`train_all` and `scorer` take first the device's number, None for all or any; and

NAMES : the names of its devices, for people
NUMBERED : whether a colon and a number may follow the kind's name
LEAST_WORK : non-zeros times R B from which "auto" takes it, or None for never
HAS_UNITS : whether weights of sparse rows may have 16 bits while they are trained
check(number) : ValueError that says what is missing if the device does not answer
"""

from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np

from . import _cpu, _cuda
from ._rows import rows_of

KINDS = {"cpu": _cpu, "cuda": _cuda}  # "auto" takes the last that is worth it


class Backend(NamedTuple):
    """What a device does, each function with the same parameters on all devices.

    `scorer` gives what `_weights.Linear` has to score rows: `bucket_scores`, and `topk`
    where its `searches` says that the device finds the best classes.  `kept` is a
    dictionary that lives as long as the weights stay the same.  A copy on a device is
    kept there, by a key that begins with the device's kind, and is the only one.
    """

    batch_size: object  # (options, n_samples): rows of a step
    n_tasks: object  # as `_training.split_repetitions`: their number, None if unknown
    train_all: object  # as `_training.train_all`
    scorer: object  # (linear, table, kept)


def backend(device):
    """The functions of a device, by a name such as "cpu", "cuda" or "cuda:1"."""
    number = device.partition(":")[2]
    kind, number = _kind(device), int(number) if number else None
    return Backend(
        batch_size=kind.batch_size,
        n_tasks=kind.n_tasks,
        train_all=partial(kind.train_all, number),
        scorer=partial(kind.scorer, number),
    )


def has_units(device):
    """Whether weights of sparse rows may have 16 bits while they are trained there."""
    return _kind(device).HAS_UNITS


def _kind(device):
    return KINDS[device.partition(":")[0]]


def resolve_device(device):
    """Name of the device that `device` stands for; ValueError if it cannot be used.

    "auto" is the last kind that answers.
    """
    if device == "auto":
        return _automatic(np.inf)
    name, colon, number = device.partition(":")
    kind = KINDS.get(name)
    if kind is None or (colon and not (kind.NUMBERED and number.isdecimal())):
        names = ", ".join(kind.NAMES for kind in KINDS.values())
        raise ValueError(
            f"device={device!r} cannot be used. It must be 'auto', {names}."
        )
    try:
        kind.check(int(number) if number else None)
    except ValueError as error:
        raise ValueError(f"device={device!r} cannot be used: {error}.") from error
    return device


def choose_device(device, X, n_columns):
    """The device to train on: "auto" takes a GPU only if X times R B is worth it."""
    if device != "auto":
        return resolve_device(device)
    return _automatic(rows_of(X).n_values * n_columns)


def _automatic(work):
    for name in reversed(KINDS):
        least = KINDS[name].LEAST_WORK
        if least is not None and least <= work:
            with suppress(ValueError):
                return resolve_device(name)


def predicting_device(device):
    """The device of a fitted model, or "cpu" where that does not answer."""
    try:
        return resolve_device(device)
    except ValueError:
        return "cpu"
