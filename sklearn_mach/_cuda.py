"""NVIDIA GPUs as a kind of device: what `_backends` asks of them, without CuPy.

The modules that import CuPy, `_gpu_kernels`, `_gpu` and `_gpu_model`, are imported here
when a GPU is asked for.
"""

from threading import RLock
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from ._losses import Sigmoid, Softmax
from ._memory import format_bytes
from ._progress import SilentTask

NAMES = "'cuda' for all NVIDIA GPUs, or 'cuda:0', 'cuda:1', ... for one of them"
NUMBERED = True
# 1e10 multiplications and additions an epoch.  Below, a few cores train in seconds, no
# longer than it takes to start CUDA, compile the kernels and copy the data.
LEAST_WORK = 1e10
HAS_UNITS = False

_LOSSES = Softmax, Sigmoid
_BATCH = 1024  # rows of a step
_MERGES = {"sum", "min"}  # that the kernel `search` knows
_TOPK = 32  # its lists of the k best get slow when they are longer
# What a GPU needs beside weights, rows and a batch: cuBLAS, and chunks that are sorted.
_WORKSPACE = 1 << 30
_ENTRY_BYTES = 100  # of a non-zero that is being sorted
_PREDICTING = RLock()  # held by the thread that predicts on a GPU, or copies a model


def modules():
    """The modules that import CuPy; ValueError that says what is missing."""
    try:
        import cupy  # noqa: F401  # where `_gpu` fails, other threads see half of it

        from . import _gpu, _gpu_kernels, _gpu_model
    except ImportError as error:
        raise ValueError(
            f"CuPy cannot be imported ({error}). Install it with "
            "pip install 'sklearn-mach[cuda13x]', or [cuda12x] for a driver of CUDA "
            "12, or use device='cpu'"
        ) from error
    try:
        n_devices = _gpu_kernels.n_devices()
    except RuntimeError as error:
        raise ValueError(
            f"CUDA does not answer ({error}). Check that nvidia-smi lists a GPU and "
            "that CuPy's version of CUDA is not newer than the driver's, or use "
            "device='cpu'"
        ) from error
    if n_devices == 0:
        raise ValueError(
            "no GPU is visible. Check nvidia-smi and CUDA_VISIBLE_DEVICES, or use "
            "device='cpu'"
        )
    return SimpleNamespace(kernels=_gpu_kernels, training=_gpu, model=_gpu_model)


def check(number):
    n_devices = modules().kernels.n_devices()
    if number is not None and number >= n_devices:
        raise ValueError(
            f"the GPUs that are visible are 'cuda:0' to 'cuda:{n_devices - 1}'"
        )


def batch_size(options, n_samples):
    """Up to 1,024 rows, but at least 256 steps an epoch."""
    if options["batch_size"] != "auto":
        return options["batch_size"]
    return int(np.clip(n_samples // 256, 1, _BATCH))


def n_tasks(*sizes):
    """Turns depend on the memory that is free."""


def train_all(
    number, X, targets, table, W, b, first, zero, settings, n_jobs, task=SilentTask
):
    """A thread for each GPU, whatever `n_jobs` is: they keep no core busy."""
    if not isinstance(settings.loss, _LOSSES):
        raise ValueError(f"A GPU has no gradient of {settings.loss!r}. Use the CPU.")
    link, gpu = settings.loss.link, modules()
    n_repetitions = table.shape[1]
    numbers = range(gpu.kernels.n_devices()) if number is None else [number]
    share = max(-(-(n_repetitions - first) // len(numbers)), 1)
    shape = X.shape, X.nnz if sp.issparse(X) else None
    sizes = table.shape[0], share, b.size // n_repetitions, settings.batch_size
    plans = [
        (device, *plan_training(gpu.kernels.free_memory(device), *shape, *sizes))
        for device in numbers
    ]
    return gpu.training.train_all(
        X, targets, table, W, b, first, zero, settings, link, plans, task
    )


def plan_training(free, shape, nnz, n_classes, n_repetitions, n_buckets, batch_size):
    """Repetitions to train at a time in `free` bytes, and whether X fits beside them.

    shape : of X; nnz : its non-zeros, None for a dense X.  MemoryError if not even the
    weights of one repetition fit.
    """
    n_samples, n_features = shape
    batch_size = min(batch_size, n_samples)
    n_rows = n_features + batch_size  # of weights, and of gradients
    # Entries of a batch are sorted; of dense batches there are up to four copies.
    workspace = 16 * batch_size * n_features
    if nnz is not None:
        workspace = _ENTRY_BYTES * batch_size * nnz // n_samples
    workspace += _WORKSPACE

    def needed(repetitions, buckets):
        width = -(-repetitions * buckets // 32) * 32
        return 4 * (n_rows * width + n_classes * repetitions) + workspace

    if needed(1, n_buckets) > free:
        columns = (free - workspace - 4 * n_classes) // (4 * n_rows) // 32 * 32
        advice = "Use fewer features, a smaller batch_size, or device='cpu'."
        if columns >= 2:
            advice = (
                f"n_buckets={columns} fits with any n_repetitions, which are then "
                "trained in turns. Or use device='cpu'."
            )
        raise MemoryError(
            f"One repetition of n_buckets={n_buckets} for {n_features} features takes "
            f"{needed(1, n_buckets)} bytes ({format_bytes(needed(1, n_buckets))}) of "
            f"the GPU's memory, but only {free} bytes ({format_bytes(free)}) are free. "
            f"{advice}"
        )
    at_a_time = n_repetitions
    while needed(at_a_time, n_buckets) > free:
        at_a_time -= 1
    n_bytes = 4 * n_samples * n_features if nnz is None else 8 * (nnz + n_samples + 1)
    return at_a_time, n_bytes <= free - needed(at_a_time, n_buckets)


def scorer(number, linear, table, kept):
    """The copy on a GPU, the first if there is no number."""
    number = number or 0
    with _PREDICTING:  # threads that come together make one copy
        if ("cuda", number) not in kept:
            kept.clear()
            W, b = linear.storage.dense()
            gpu = modules()
            numbers = W.shape[0] * (b.size + 31) + table.size + table.shape[0]
            needed = 4 * numbers + _WORKSPACE // 2
            free = gpu.kernels.free_memory(number)
            if needed > free:
                raise MemoryError(
                    f"The model takes {needed} bytes ({format_bytes(needed)}) of the "
                    f"GPU's memory to predict, but only {free} bytes "
                    f"({format_bytes(free)}) are free. Set device_ = 'cpu' to predict "
                    "on the CPU."
                )
            model = gpu.model.Model(W, b, table, linear.n_buckets, number, linear.link)
            kept["cuda", number] = Scorer(model)
        return kept["cuda", number]


class Scorer(NamedTuple):
    """A linear scorer on a GPU, one call at a time."""

    model: object

    def bucket_scores(self, X, log, divisor):
        with _PREDICTING:  # decoding goes on in other threads
            return self.model.bucket_proba(X, log, divisor)

    def searches(self, k, merge):
        """Other merges and long lists are left to the CPU's search of the scores."""
        return merge in _MERGES and k <= _TOPK

    def topk(self, X, k, log, divisor, merge, offset):
        with _PREDICTING:
            return self.model.topk(X, k, merge, log, divisor, offset)
