"""The CPU as a kind of device: what `_backends` asks of it."""

from typing import NamedTuple

import numpy as np

from . import _softmax
from ._decoding import decode_topk
from ._progress import SilentTask

NAMES = "'cpu'"
NUMBERED = False
LEAST_WORK = 0


def check(number):
    """A CPU is always there."""


def batch_size(options, n_samples):
    return options["batch_size"]


def train_all(
    number, X, targets, table, W, b, first, zero, settings, n_jobs, task=SilentTask
):
    y = targets.classes
    return _softmax.train_all(X, y, table, W, b, first, zero, settings, n_jobs, task)


class Placed(NamedTuple):
    W: np.ndarray
    b: np.ndarray
    table: np.ndarray
    n_buckets: int
    prepared: object


def place(number, W, b, table, n_buckets, prepared, kept):
    kept.clear()  # a device on which it predicted before
    return Placed(W, b, table, n_buckets, prepared)


def bucket_proba(placed, X, log, divisor):
    scores = _softmax.bucket_proba(X, placed.W, placed.b, placed.n_buckets, log)
    if divisor != 1:
        scores /= np.float32(divisor)
    return scores


def topk(placed, X, k, log, divisor, merge, offset):
    return decode(placed, bucket_proba(placed, X, log, divisor), k, merge, offset)


def searches(k, merge):
    return False


def decode(placed, scores, k, merge, offset):
    """The best classes of bucket scores, wherever they were made, and their scores."""
    options = {"merge": merge, "offset": offset, "prepared": placed.prepared}
    return decode_topk(scores, placed.table, k, **options)
