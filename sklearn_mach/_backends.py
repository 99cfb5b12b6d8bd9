"""Where the work is done: devices, their tables of functions, and free memory."""

import os
from functools import partial
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from . import _logits, _training
from ._decoding import decode_topk
from ._progress import SilentTask

# Non-zeros times R B from which "auto" takes a GPU: 1e10 multiplications and additions
# an epoch.  Below, a few cores train in seconds, no longer than it takes to start CUDA,
# compile the kernels and copy the data.
_WORTH_A_GPU = 1e10
_GPU_BATCH = 1024  # rows of a step
_GPU_TOPK = 32  # the lists of the k best on a GPU get slow when they are longer
# What a GPU needs beside weights, rows and a batch: cuBLAS, and chunks that are sorted.
_GPU_WORKSPACE = 1 << 30
_ENTRY_BYTES = 100  # of a non-zero that is being sorted
_PREDICTING = RLock()  # held by the thread that predicts on a GPU, or copies a model


def _gpu():
    """The module of the GPU; ValueError that says what is missing."""
    try:
        import cupy  # noqa: F401  # where `_gpu` fails, other threads see half of it

        from . import _gpu
    except ImportError as error:
        raise ValueError(
            f"CuPy cannot be imported ({error}). Install it with "
            "pip install 'sklearn-mach[cuda13x]', or [cuda12x] for a driver of CUDA "
            "12, or use device='cpu'"
        ) from error
    try:
        n_devices = _gpu.n_devices()
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
    return _gpu


def resolve_device(device):
    """Name of the device that `device` stands for; ValueError if it cannot be used.

    "auto" is "cuda" if a GPU answers, and "cpu" otherwise.
    """
    if device == "cpu":
        return device
    if device == "auto":
        try:
            _gpu()
        except ValueError:
            return "cpu"
        return "cuda"
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ValueError(
            f"device={device!r} cannot be used. It must be 'auto', 'cpu', 'cuda' for "
            "all NVIDIA GPUs, or 'cuda:0', 'cuda:1', ... for one of them."
        )
    try:
        n_devices = _gpu().n_devices()
    except ValueError as error:
        raise ValueError(f"device={device!r} cannot be used: {error}.") from error
    if number and int(number) >= n_devices:
        raise ValueError(
            f"device={device!r} cannot be used: the GPUs that are visible are 'cuda:0' "
            f"to 'cuda:{n_devices - 1}'."
        )
    return device


def choose_device(device, X, n_columns):
    """The device to train on: "auto" takes a GPU only if X times R B is worth it."""
    name = resolve_device(device)
    n_values = X.nnz if sp.issparse(X) else X.size
    if device == "auto" and n_values * n_columns < _WORTH_A_GPU:
        return "cpu"
    return name


class Backend(NamedTuple):
    """What a device does, each function with the same parameters on all devices.

    `place` gives the model as the next two take it.  `kept` is a dictionary that
    lives as long as the weights stay the same; a copy on a device is kept there.
    """

    batch_size: object  # (options, n_samples): rows of a step
    train_all: object  # as `_training.train_all`
    place: object  # (W, b, table, n_buckets, prepared, kept)
    bucket_proba: object  # (placed, X, log, divisor): (n, R, B), NumPy
    topk: object  # (placed, X, k, log, divisor, merge, offset): classes, scores, NumPy
    searches: object  # (k, merge): whether the device finds the best classes, not cores


def backend(device):
    """The functions of "cpu", "cuda" or "cuda:N"."""
    if device == "cpu":
        return _CPU
    number = device.partition(":")[2]
    return Backend(
        batch_size=_gpu_batch_size,
        train_all=partial(_gpu_train_all, int(number) if number else None),
        place=partial(_gpu_place, int(number or 0)),
        bucket_proba=_gpu_bucket_proba,
        topk=_gpu_topk,
        searches=_gpu_searches,
    )


def predicting_device(device):
    """The device of a fitted model, or "cpu" where that does not answer."""
    try:
        return resolve_device(device)
    except ValueError:
        return "cpu"


class _Placed(NamedTuple):
    W: np.ndarray
    b: np.ndarray
    table: np.ndarray
    n_buckets: int
    prepared: object


def _cpu_place(W, b, table, n_buckets, prepared, kept):
    kept.clear()  # a device on which it predicted before
    return _Placed(W, b, table, n_buckets, prepared)


def _cpu_bucket_proba(placed, X, log, divisor):
    scores = _logits.bucket_proba(X, placed.W, placed.b, placed.n_buckets, log)
    if divisor != 1:
        scores /= np.float32(divisor)
    return scores


def _cpu_topk(placed, X, k, log, divisor, merge, offset):
    scores = _cpu_bucket_proba(placed, X, log, divisor)
    options = {"merge": merge, "offset": offset, "prepared": placed.prepared}
    return decode_topk(scores, placed.table, k, **options)


_CPU = Backend(
    batch_size=lambda options, n_samples: options["batch_size"],
    train_all=_training.train_all,
    place=_cpu_place,
    bucket_proba=_cpu_bucket_proba,
    topk=_cpu_topk,
    searches=lambda k, merge: False,
)


def _gpu_batch_size(options, n_samples):
    """Up to 1,024 rows, but at least 256 steps an epoch."""
    if options["batch_size"] != "auto":
        return options["batch_size"]
    return int(np.clip(n_samples // 256, 1, _GPU_BATCH))


def _gpu_train_all(
    number, X, targets, table, W, b, first, zero, settings, n_jobs, task=SilentTask
):
    """A thread for each GPU, whatever `n_jobs` is: they keep no core busy."""
    gpu = _gpu()
    n_repetitions = table.shape[1]
    numbers = range(gpu.n_devices()) if number is None else [number]
    share = max(-(-(n_repetitions - first) // len(numbers)), 1)
    shape = X.shape, X.nnz if sp.issparse(X) else None
    plans = [
        (
            device,
            *plan_training(
                gpu.free_memory(device),
                *shape,
                table.shape[0],
                share,
                b.size // n_repetitions,
                settings.batch_size,
            ),
        )
        for device in numbers
    ]
    y = targets.classes
    return gpu.train_all(X, y, table, W, b, first, zero, settings, plans, task)


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
    workspace += _GPU_WORKSPACE

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


def _gpu_place(number, W, b, table, n_buckets, prepared, kept):
    on_host = _Placed(W, b, table, n_buckets, prepared)
    with _PREDICTING:  # threads that come together make one copy
        if number not in kept:
            kept.clear()
            kept[number] = _copy_to_gpu(number, W, b, table, n_buckets)
        return kept[number], on_host


def _copy_to_gpu(number, W, b, table, n_buckets):
    gpu = _gpu()
    numbers = W.shape[0] * (b.size + 31) + table.size + table.shape[0]
    needed = 4 * numbers + _GPU_WORKSPACE // 2
    free = gpu.free_memory(number)
    if needed > free:
        raise MemoryError(
            f"The model takes {needed} bytes ({format_bytes(needed)}) of the GPU's "
            f"memory to predict, but only {free} bytes ({format_bytes(free)}) are "
            "free. Set device_ = 'cpu' to predict on the CPU."
        )
    return gpu.Model(W, b, table, n_buckets, number)


def _gpu_searches(k, merge):
    """Medians and long lists are left to the CPU's search, from the same scores."""
    return merge != "median" and k <= _GPU_TOPK


def _gpu_bucket_proba(placed, X, log, divisor):
    with _PREDICTING:  # decoding goes on in other threads
        return placed[0].bucket_proba(X, log, divisor)


def _gpu_topk(placed, X, k, log, divisor, merge, offset):
    model, on_host = placed
    if _gpu_searches(k, merge):
        with _PREDICTING:
            return model.topk(X, k, merge, log, divisor, offset)
    scores = _gpu_bucket_proba(placed, X, log, divisor)
    table, prepared = on_host.table, on_host.prepared
    options = {"merge": merge, "offset": offset, "prepared": prepared}
    return decode_topk(scores, table, k, **options)


def free_memory():
    """Bytes of main memory that this process may still take, or None if unknown.

    The least of what the system and, in a container, its control group have left.
    """
    free = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    except OSError:  # not Linux: all of the memory there is
        try:
            free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):  # nor POSIX
            return None
    for folder, limit, used, prefix in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", ""),
        (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_",
        ),
    ):
        try:
            left = int(Path(folder, limit).read_text())
            left -= int(Path(folder, used).read_text())
            for line in Path(folder, "memory.stat").read_text().splitlines():
                name, value = line.split()
                if name in (f"{prefix}active_file", f"{prefix}inactive_file"):
                    left += int(value)  # cached files, dropped when needed
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
        free.append(max(left, 0))
    return min(free, default=None)


def format_bytes(n_bytes):
    """A size for people: '1.35 GB'."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            return (
                f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.2f} {unit}"
            )
        n_bytes /= 1000
