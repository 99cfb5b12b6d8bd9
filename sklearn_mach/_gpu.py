"""The built-in learner on NVIDIA GPUs, by CuPy.

The unit of the algorithm is a mini-batch, whose gradients are summed.  A block of
`score_rows` takes one row: its R B logits from coalesced reads of the weight rows of
its non-zeros, then R softmaxes, or B sigmoids of each repetition, a warp a repetition;
the gradients (n_batch, R B) stay in the L2 cache.  The non-zeros of the batch, sorted
by feature, are its transpose: a block of `update` sums the gradients of one feature in
the order of the rows and rewrites the weight row once.  No atomics: two runs on one
kind of card agree bit for bit, and an update moves fewer bytes than one that adds every
row's gradient to the weights.

The floor of an epoch that caches nothing is a read and a write of a weight row for
each non-zero, ``8 nnz R B`` bytes: 350 GB at 1.08 million rows of 50 non-zeros with
R B = 800.  Sorting moves about 100 bytes for each non-zero, however large R B is.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import cupy
import cupyx
import numpy as np
import scipy.sparse as sp

from ._compat import njit
from ._gpu_kernels import (
    GRADIENT,
    csr_to_device,
    gemm,
    kernels,
    n_threads,
    padded,
    score_rows,
    to_device,
    to_host,
)
from ._progress import SilentTask, report_epoch

_ENTRIES = 1 << 22  # non-zeros of a chunk, or numbers of a dense one / 16


@njit
def _gather(data, indices, indptr, rows, first, out_data, out_indices):
    """Copy the non-zeros of CSR rows, one row behind the other."""
    for t in range(rows.shape[0]):
        start = indptr[rows[t]]
        for p in range(first[t + 1] - first[t]):
            out_data[first[t] + p] = data[start + p]
            out_indices[first[t] + p] = indices[start + p]


def _starts(sizes):
    """Where each of some stretches begins, and the end."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _targets_of(starts, classes, rows):
    """Starts and classes, as of `Targets`, of some rows in their order."""
    sizes = starts[rows + 1] - starts[rows]
    first = _starts(sizes)
    places = np.repeat(starts[rows] - first[:-1], sizes) + np.arange(first[-1])
    return first, classes[places]


class _Rows:
    """Rows of X in any order on the device: all of X at once, or chunk by chunk.

    A CSR chunk is (data, indices, indptr, rows), a dense one an array (n, d).
    """

    def __init__(self, X, resident):
        self.sparse, self.resident, self.X = sp.issparse(X), resident, X
        self.stream = cupy.cuda.Stream(non_blocking=True)
        if self.sparse:
            self.sizes = np.diff(X.indptr)
        else:  # a dense number takes a sixteenth of the space of an entry being sorted
            self.sizes = np.full(X.shape[0], -(-X.shape[1] // 16))
        if resident and self.sparse:
            self.X = csr_to_device(X)
        elif resident:
            self.X = to_device(X, np.float32)

    def chunks(self, tasks):
        """The rows of each task on the device, read one task ahead in a thread."""
        if self.resident or not tasks:
            for rows in tasks:
                rows = cupy.asarray(rows, dtype=np.int32)
                yield (*self.X, rows) if self.sparse else self.X[rows]
            return
        device = cupy.cuda.Device().id

        def load(rows):
            # Arrays of another stream's pool: none that a kernel may still read.
            with cupy.cuda.Device(device), self.stream:
                return self._load(rows)

        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(load, tasks[0])
            for following in [*tasks[1:], None]:
                chunk = pending.result()
                if following is not None:
                    pending = pool.submit(load, following)
                yield chunk
                # Kernels have read it before its memory is given to another load.
                cupy.cuda.get_current_stream().synchronize()

    def _load(self, rows):
        """Copy rows of X through pinned memory; returns when they are there."""
        X = self.X
        if self.sparse:
            first = _starts(self.sizes[rows])
            n_entries = max(int(first[-1]), 1)  # no buffer may be empty
            data = cupyx.empty_pinned(n_entries, np.float32)
            indices = cupyx.empty_pinned(n_entries, np.int32)
            _gather(X.data, X.indices, X.indptr, rows, first, data, indices)
            host = [data, indices, first, np.arange(len(rows), dtype=np.int32)]
        else:
            host = [cupyx.empty_pinned((len(rows), X.shape[1]), np.float32)]

            def take(part):
                if X.dtype == np.float32:  # mode="raise" would make a copy first
                    np.take(X, rows[part], axis=0, out=host[0][part], mode="clip")
                else:
                    host[0][part] = X[rows[part]]

            edges = np.linspace(0, len(rows), 5).astype(int)
            with ThreadPoolExecutor(4) as pool:  # one core cannot feed the device
                list(pool.map(take, map(slice, edges[:-1], edges[1:])))
        chunk = []
        for array in host:
            chunk.append(cupy.empty(array.shape, array.dtype))
            chunk[-1].set(array, stream=self.stream)
        self.stream.synchronize()
        return tuple(chunk) if self.sparse else chunk[0]


def train_all(
    X, targets, table, W, b, first, zero, settings, link, plans, task=SilentTask
):
    """Train the repetitions from `first` on in W (d, R B) and b (R B,).

    link : that of ``settings.loss``, a key of `_gpu_kernels.LINKS`
    plans : list of (device, repetitions at a time, whether X stays on the device).
    Other parameters and the result are those of the CPU's `train_all`; the batches are
    ``settings.batch_size`` rows.  A device takes its repetitions in turns, those of
    the first are reported; all of a turn are the task ``task(r)`` of its first, r.
    """
    n_repetitions, d = table.shape[1], X.shape[1]
    if first == n_repetitions:
        return 0
    plans = plans[: n_repetitions - first]
    shares = np.array_split(np.arange(first, n_repetitions), len(plans))

    def work(plan, share):
        device, at_a_time, resident = plan
        with cupy.cuda.Device(device):
            rows = _Rows(X, resident)
            n_iter, turns = 0, np.array_split(share, -(-len(share) // at_a_time))
            for number, turn in enumerate(turns):
                part = (number, len(turns)) if share[0] == first else None
                told = task(turn[0])
                with told.running():
                    args = targets, table, W, b, turn, zero, settings, link
                    n_iter = max(n_iter, _Turn(rows, *args, d).train(told, part))
            del rows
            cupy.get_default_memory_pool().free_all_blocks()
        return n_iter

    with ThreadPoolExecutor(len(plans)) as pool:
        return max(pool.map(work, plans, shares))


class _Turn:
    """The weights of some repetitions on one device, and their training."""

    def __init__(self, rows, targets, table, W, b, turn, zero, settings, link, d):
        self.rows, self.targets = rows, targets
        self.settings, self.link, self.d = settings, link, d
        self.R, self.B = len(turn), b.size // table.shape[1]
        columns = slice(turn[0] * self.B, (turn[-1] + 1) * self.B)
        self.host = W[:, columns], b[columns]
        width = self.R * self.B
        self.pitch = padded(width)
        self.W = cupy.zeros((d, self.pitch), np.float32)
        self.b = cupy.zeros(self.pitch, np.float32)
        if not zero:
            to_device(self.host[0], np.float32, out=self.W[:, :width])
        self.b[:width] = cupy.asarray(self.host[1])
        self.table = cupy.asarray(np.ascontiguousarray(table[:, turn], np.int32))
        self.scale = 1.0  # the weights are scale * W
        # Heavy rows are visited more than once: a batch may be more rows than X has.
        self.train_rows, self.held_rows = (
            settings.visited(rows) for rows in (settings.train, settings.held)
        )
        n_visits = max(len(self.train_rows), len(self.held_rows))
        n_rows = max(min(settings.batch_size, n_visits), 1)
        self.Z = cupy.zeros((n_rows, self.pitch), np.float32)
        self.gain = self.slowed_gain = cupy.asarray(settings.gain)
        self.bias = settings.bias
        self.past, self.slow = (
            cupy.asarray(array[:-1]) for array in (settings.past, settings.slow)
        )
        self.falls = bool(settings.past.any() or settings.slow.any())
        self.kernels = kernels()
        self.bound = 2.0 if rows.sparse else np.inf  # dense steps are cut beforehand
        self.metric = settings.metric
        if self.metric is not None:
            arrays = (None if a is None else cupy.asarray(a) for a in self.metric)
            self.metric = type(self.metric)(*arrays)

    def train(self, task, part):
        """Train all epochs; the weights go to the host.  Returns the epochs done.

        part : None, or for what is printed the turn's number and how many there are.
        """
        s = self.settings
        rate = np.ones(self.R, np.float32)
        best, since_best = np.full(self.R, np.inf), np.zeros(self.R, np.int64)
        started = time.perf_counter()
        for epoch, decay in enumerate(s.decay):
            task.begin_epoch()
            rng = np.random.default_rng([s.seed, epoch])
            order = rng.permutation(self.train_rows)
            loss = self._pass(order, decay, rate, True, epoch)
            if s.early_stopping:
                loss = self._pass(self.held_rows, decay, rate, False)
            if not (np.isfinite(loss).all() and bool(cupy.isfinite(self.b).all())):
                raise ValueError(
                    f"The weights overflowed in epoch {epoch + 1}. Use a smaller "
                    "learning_rate (or 'auto'), or bring the features to one scale "
                    "with sklearn.preprocessing.Normalizer or MaxAbsScaler."
                )
            if s.verbose and part:
                seconds = time.perf_counter() - started
                report_epoch(epoch, part, loss.mean(), s, s.train.size, seconds)
            if s.tol is not None:
                since_best = np.where(loss > best - s.tol, since_best + 1, 0)
                rate[since_best >= s.n_iter_no_change] = 0
                best = np.minimum(best, loss)
            if task.end_epoch(self._store) or not rate.any():
                break
        self._store()
        return epoch + 1

    def _store(self):
        """Copy the weights to the host."""
        to_host(self.W, self.host[0])
        self.host[1][:] = self.b.get()[: self.host[1].size]

    def _pass(self, order, decay, rate, learn, epoch=0):
        """One pass over the rows `order`; the mean loss of each repetition (R,)."""
        s, size = self.settings, self.settings.batch_size
        total = s.weight[order].sum(dtype=np.float64)
        loss = cupy.zeros(self.R, np.float64)  # there, so that no chunk waits for it
        device_rate, dense = cupy.asarray(rate), not self.rows.sparse
        tasks = self._tasks(order)
        chunks = self.rows.chunks([order[task] for task in tasks])
        for task, chunk in zip(tasks, chunks, strict=True):
            part = order[task]
            starts, classes = _targets_of(*self.targets[:2], part)
            counts = np.ones(len(part), np.bool_)
            if self.link == "softmax":  # a row without classes has no step and no loss
                counts = np.diff(starts) > 0
            step, weight = (
                cupy.asarray(array[part] * counts, dtype=np.float32)
                for array in (s.step, s.weight)
            )
            starts, classes = cupy.asarray(starts), cupy.asarray(classes, np.int32)
            losses = cupy.zeros((len(part), self.R), np.float32)
            if learn and not dense:
                transposed = self._transpose(chunk, part)
            for t in range(0, len(part), size):
                batch = slice(t, min(t + size, len(part)))
                n_rows = batch.stop - t
                done = (task.start + t) / len(order)
                factor = decay[0] + (decay[1] - decay[0]) * done
                X = chunk[batch] if dense else (*chunk[:3], chunk[3][batch])
                if dense:
                    gemm(False, X, self.W, self.Z[:n_rows])
                targets = starts[t : batch.stop + 1], classes, self.table
                steps = step[batch], weight[batch], device_rate, factor, losses[batch]
                score_rows(
                    n_rows,
                    None if dense else X,
                    self.W,
                    self.b,
                    self.scale,
                    (self.R, self.B),
                    self.link,
                    GRADIENT,
                    self.Z,
                    (*targets, *steps),
                )
                if not learn:
                    continue
                self._slow_down(epoch + done)
                entries = None if dense else transposed(t // size)
                self._update(X, entries, n_rows, step[batch], device_rate, factor)
                if s.penalty:
                    self.scale /= 1 + s.penalty * factor * n_rows
                    if self.scale < 1e-4:
                        self._rescale(rate)
            loss += losses.sum(axis=0, dtype=np.float64)
        if learn:
            self._rescale(rate)
        return loss.get() / max(total, np.finfo(float).tiny)

    def _tasks(self, order):
        """Slices of the rows, of whole batches, for the chunks."""
        size, n = self.settings.batch_size, len(order)
        ends = np.cumsum(self.rows.sizes[order], dtype=np.int64)
        tasks, start = [], 0
        while start < n:
            before = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, before + _ENTRIES, side="right"))
            stop = start + max((stop - start) // size, 1) * size
            tasks.append(slice(start, min(stop, n)))
            start = tasks[-1].stop
        return tasks

    def _slow_down(self, t):
        """Steps of the features and the intercept after t epochs, if they fall."""
        if self.falls:
            s = self.settings
            self.slowed_gain = self.gain / cupy.sqrt(1 + self.past + self.slow * t)
            self.bias = s.bias / np.sqrt(1 + s.past[-1] + s.slow[-1] * t)

    def _update(self, X, entries, n_rows, step, rate, factor):
        """The step of a batch, whose gradients are in Z."""
        if entries is None:
            Z = self.Z[:n_rows]
            if self.metric is not None:
                X = self.metric.apply(X)
            X = X * self.slowed_gain
            if self.metric is not None:
                self.b += (X @ self.metric.center) @ Z
            gemm(True, X, Z, self.W, -1 / self.scale, 1.0)
            entries = 0, *[self.b] * 4  # intercept only
        n_features, *entries = entries
        threads = n_threads(self.pitch)
        grid = n_features + 1, -(-self.pitch // (4 * threads))
        sizes = factor, self.bound, self.bias, 1 / self.scale
        args = *entries, step, self.slowed_gain, np.int32(n_rows)
        args += *map(np.float32, sizes), rate
        args += *map(np.int32, (self.R, self.B, self.pitch)), self.Z, self.W, self.b
        self.kernels.update(grid, (threads,), args)

    def _transpose(self, chunk, part):
        """A function from the number of a batch of the chunk to its entries by feature.

        They are the number of features, the place of the first entry of each and the
        end, the features, and for all entries of the chunk the row and the value.
        """
        size = self.settings.batch_size
        n_batches = -(-len(part) // size)
        first = _starts(self.rows.sizes[part])
        n_entries = int(first[-1])
        key = cupy.empty(n_entries, np.int64)
        place = cupy.empty(n_entries, np.int32)
        value = cupy.empty(n_entries, np.float32)
        args = (*chunk, cupy.asarray(first), np.int32(size), np.int32(self.d))
        self.kernels.list_entries((len(part),), (64,), (*args, key, place, value))
        if n_batches * self.d < 2**31:
            key = key.astype(np.int32)  # is sorted in half the time
        order = cupy.argsort(key)  # stable: the entries of a feature stay in row order
        key, place, value = key[order], place[order], value[order]
        new = cupy.ones(n_entries + 1, np.bool_)
        new[1:-1] = key[1:] != key[:-1]
        start = cupy.flatnonzero(new).astype(np.int32)  # and the end
        key = key[start[:-1]].astype(np.int64)
        batch = key // self.d
        features = (key - batch * self.d).astype(np.int32)
        edges = cupy.searchsorted(batch, cupy.arange(n_batches + 1)).get()

        def entries(number):
            lo, hi = int(edges[number]), int(edges[number + 1])
            return hi - lo, start[lo : hi + 1], features[lo:hi], place, value

        return entries

    def _rescale(self, rate):
        """Multiply the weights of active repetitions by the scale, which is 1 then."""
        if self.scale != 1:
            columns = np.ones(self.pitch, np.float32)
            columns[: self.R * self.B] = np.repeat(
                np.where(rate != 0, np.float32(self.scale), np.float32(1)), self.B
            )
            self.W *= cupy.asarray(columns)
            self.scale = 1.0
