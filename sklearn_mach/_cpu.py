"""The CPU as a kind of device: what `_backends` asks of it."""

from . import _training

NAMES = "'cpu'"
NUMBERED = False
LEAST_WORK = 0
HAS_UNITS = True


def check(number):
    """A CPU is always there."""


def batch_size(options, n_samples):
    return options["batch_size"]


def n_tasks(*sizes):
    return len(_training.split_repetitions(*sizes))


def train_all(number, *args, **options):
    return _training.train_all(*args, **options)


def scorer(number, linear, table, kept):
    kept.clear()  # a device on which it predicted before
    return linear
