"""The built-in learner and the search for the best classes on NVIDIA GPUs, by CuPy.

The unit of the algorithm is a mini-batch, whose gradients are summed.  A block of
`score_rows` takes one row: its R B logits from coalesced reads of the weight rows of
its non-zeros, then R softmaxes, a warp each; the gradients (n_batch, R B) stay in the
L2 cache.  The non-zeros of the batch, sorted by feature, are its transpose: a block of
`update` sums the gradients of one feature in the order of the rows and rewrites the
weight row once.  No atomics: two runs on one kind of card agree bit for bit, and an
update moves fewer bytes than one that adds every row's gradient to the weights.

The floor of an epoch that caches nothing is a read and a write of a weight row for
each non-zero, ``8 nnz R B`` bytes: 350 GB at 1.08 million rows of 50 non-zeros with
R B = 800.  Sorting moves about 100 bytes for each non-zero, however large R B is.

Weights lie as on the CPU, feature-major, in rows padded to 32 numbers.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace

import cupy
import cupy.cublas
import cupyx
import numpy as np
import scipy.sparse as sp

from ._compat import njit
from ._logits import OVERFLOW
from ._progress import SilentTask, report_epoch

_ENTRIES = 1 << 22  # non-zeros of a chunk, or numbers of a dense one / 16
_THREADS = 256  # of a block of the learner
_TOPK_THREADS = 512
_PIECE = 1 << 24  # numbers copied through a pinned buffer at a time
_PREDICTED = 256  # rows of a dense product: always so many, so that sums do not differ
_MAX_SPLITS = 64  # of the classes: their lists are merged by one thread for each row
_TF32_MATH = 3  # CUBLAS_TF32_TENSOR_OP_MATH, which CuPy does not name
_GRADIENT, _LOG_PROBA, _PROBA = range(3)

SOURCE = r"""
__device__ float warp_max(float v)
{
    for (int o = 16; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

__device__ float warp_sum(float v)
{
    for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

// Row t of a batch, a block: logits Z[t] (pitch) = scale * x W + b, where x W is read
// from Z itself if the rows are not sparse.  Then, by mode, Z becomes the gradient
// factor * rate[r] * step[t] * (softmax - onehot), and loss[t, r] = -weight[t] log P;
// or the logarithms of the softmax; or the softmax.
extern "C" __global__ void score_rows(
    int sparse, const float* data, const int* indices, const long long* indptr,
    const int* rows, const float* W, const float* b, float scale, int n_repetitions,
    int n_buckets, int pitch, int mode, const int* y, const int* table,
    const float* step, const float* weight, const float* rate, float factor, float* Z,
    float* loss)
{
    const long long t = blockIdx.x;
    float* z = Z + t * pitch;
    long long start = 0, stop = 0;
    if (sparse) {
        start = indptr[rows[t]];
        stop = indptr[rows[t] + 1];
    }
    for (int q = 4 * threadIdx.x; q < pitch; q += 4 * blockDim.x) {
        float4 a = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (!sparse) a = *(const float4*)(z + q);
        #pragma unroll 4
        for (long long p = start; p < stop; ++p) {
            const float v = data[p];
            const float4 w = *(const float4*)(W + (long long)indices[p] * pitch + q);
            a.x += v * w.x;
            a.y += v * w.y;
            a.z += v * w.z;
            a.w += v * w.w;
        }
        a.x = a.x * scale + b[q];
        a.y = a.y * scale + b[q + 1];
        a.z = a.z * scale + b[q + 2];
        a.w = a.w * scale + b[q + 3];
        *(float4*)(z + q) = a;
    }
    __syncthreads();
    const int lane = threadIdx.x % 32;
    for (int r = threadIdx.x / 32; r < n_repetitions; r += blockDim.x / 32) {
        float* zr = z + (long long)r * n_buckets;
        float largest = zr[0];
        for (int j = lane; j < n_buckets; j += 32) largest = fmaxf(largest, zr[j]);
        largest = warp_max(largest);
        float total = 0.0f;
        for (int j = lane; j < n_buckets; j += 32) total += expf(zr[j] - largest);
        total = warp_sum(total);
        if (mode == 1) {
            const float shift = largest + logf(total);
            for (int j = lane; j < n_buckets; j += 32) zr[j] -= shift;
        } else if (mode == 2) {
            for (int j = lane; j < n_buckets; j += 32)
                zr[j] = expf(zr[j] - largest) / total;
        } else {
            const int own = table[(long long)y[t] * n_repetitions + r];
            const float target = zr[own] - largest;
            __syncwarp();  // all lanes have read the target before one overwrites it
            if (lane == 0)
                loss[t * n_repetitions + r] = weight[t] * (logf(total) - target);
            const float size = step[t] * factor * rate[r];
            for (int j = lane; j < n_buckets; j += 32)
                zr[j] = size * (expf(zr[j] - largest) / total - (j == own));
        }
    }
}

// The non-zeros of row t of a chunk, a block: keys batch * n_features + feature, the
// place of the row in its batch, and the value.
extern "C" __global__ void list_entries(
    const float* data, const int* indices, const long long* indptr, const int* rows,
    const long long* first, int batch_size, int n_features, long long* key,
    int* place, float* value)
{
    const int t = blockIdx.x;
    const long long start = indptr[rows[t]];
    const int length = (int)(indptr[rows[t] + 1] - start);
    for (int p = threadIdx.x; p < length; p += blockDim.x) {
        const long long to = first[t] + p;
        key[to] = (long long)(t / batch_size) * n_features + indices[start + p];
        place[to] = t % batch_size;
        value[to] = data[start + p];
    }
}

// How much of a step of this size a feature may take; the step is rate times as large.
__device__ float allowed(float size, float bound, const float* rate, int r, int last)
{
    const float all = size * rate[r < last ? r : last];
    return all > bound ? bound / all : 1.0f;
}

// One feature of a batch, a block (y: a stretch of columns), with the entries
// first[f]..first[f + 1] - 1 in the order of the rows; block 0 is the intercept.  The
// sum of step * gain * value^2 over the batch is kept below `bound`.
extern "C" __global__ void update(
    const int* first, const int* features, const int* place, const float* value,
    const float* step, const float* gain, int n_rows, float factor, float bound,
    float bias, float inverse_scale, const float* rate, int n_repetitions,
    int n_buckets, int pitch, const float* gradients, float* W, float* b)
{
    const bool intercept = blockIdx.x == 0;
    const int q = 4 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (q >= pitch) return;
    const int f = (int)blockIdx.x - 1;
    const int start = intercept ? 0 : first[f];
    const int stop = intercept ? n_rows : first[f + 1];
    float* row = intercept ? b : W + (long long)features[f] * pitch;
    float4* target = (float4*)(row + q);
    float4 w = *target;
    float4 a = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float size = 0.0f;
    #pragma unroll 4
    for (int e = start; e < stop; ++e) {
        const int t = intercept ? e : place[e];
        const float v = intercept ? 1.0f : value[e];
        const float4 g = *(const float4*)(gradients + (long long)t * pitch + q);
        size += step[t] * v * v;
        a.x += v * g.x;
        a.y += v * g.y;
        a.z += v * g.z;
        a.w += v * g.w;
    }
    const float own = intercept ? bias : gain[features[f]];
    size *= factor * own;
    const float times = intercept ? own : own * inverse_scale;
    const int last = n_repetitions - 1;
    w.x -= times * allowed(size, bound, rate, q / n_buckets, last) * a.x;
    w.y -= times * allowed(size, bound, rate, (q + 1) / n_buckets, last) * a.y;
    w.z -= times * allowed(size, bound, rate, (q + 2) / n_buckets, last) * a.z;
    w.w -= times * allowed(size, bound, rate, (q + 3) / n_buckets, last) * a.w;
    *target = w;
}

extern __shared__ float tile[];

// The k best classes of 32 rows (block x) among a stretch of classes (block y).  Lane l
// of every warp is row l, so that a warp reads a class's codes once and 32 neighbouring
// scores (n_tiles, R B, 32) a repetition.  Warp w takes every n_warps-th class and
// keeps its own list: values and classes (n_lists, k, n_tiles * 32).  Sums end with
// the offset of the class, if there is one.
extern "C" __global__ void search(
    const float* scores, const int* table, const float* offset, int n_classes,
    int n_repetitions, int n_buckets, int k, int merge_min, int has_offset,
    int in_shared, float* values, int* classes)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int n_warps = blockDim.x / 32, width = n_repetitions * n_buckets;
    const float* lanes = scores + (long long)blockIdx.x * width * 32;
    if (in_shared) {
        for (int c = threadIdx.x; c < width * 32; c += blockDim.x) tile[c] = lanes[c];
        __syncthreads();
        lanes = tile;
    }
    const long long n_rows = (long long)gridDim.x * 32;
    const long long row = (long long)blockIdx.x * 32 + lane;
    const long long list = ((long long)blockIdx.y * n_warps + warp) * k;
    float* best = values + list * n_rows + row;  // best[j * n_rows]
    int* which = classes + list * n_rows + row;
    const int begin = (int)((long long)n_classes * blockIdx.y / gridDim.y);
    const int end = (int)((long long)n_classes * (blockIdx.y + 1) / gridDim.y);
    int count = 0;
    float worst = 0.0f;
    for (int c = begin + warp; c < end; c += n_warps) {
        const int* codes = table + (long long)c * n_repetitions;
        float total = merge_min ? lanes[codes[0] * 32 + lane] : 0.0f;
        #pragma unroll 8
        for (int r = 0; r < n_repetitions; ++r) {  // in the order of the CPU's sum
            const float s = lanes[(r * n_buckets + codes[r]) * 32 + lane];
            total = merge_min ? fminf(total, s) : total + s;
        }
        if (has_offset) total += offset[c];
        if (count < k || total > worst) {
            int j = count < k ? count++ : k - 1;
            for (; j > 0 && best[(j - 1) * n_rows] < total; --j) {
                best[j * n_rows] = best[(j - 1) * n_rows];
                which[j * n_rows] = which[(j - 1) * n_rows];
            }
            best[j * n_rows] = total;
            which[j * n_rows] = c;
            if (count == k) worst = best[(k - 1) * n_rows];
        }
    }
    for (; count < k; ++count) which[count * n_rows] = -1;  // the list ends before
}

// The k best of the lists of a row, a thread; ties by the smaller class.  next
// (n_lists, n_rows): zeros.  out_values, out_classes (n_rows, k).
extern "C" __global__ void merge_lists(
    const float* values, const int* classes, int n_lists, int k, long long n_rows,
    int* next, float* out_values, long long* out_classes)
{
    const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= n_rows) return;
    for (int i = 0; i < k; ++i) {
        int from = -1, found = -1;
        float best = 0.0f;
        for (int list = 0; list < n_lists; ++list) {
            const int at = next[list * n_rows + row];
            if (at == k) continue;
            const long long here = ((long long)list * k + at) * n_rows + row;
            const int c = classes[here];
            if (c < 0) continue;
            const float v = values[here];
            if (from < 0 || v > best || (v == best && c < found)) {
                from = list;
                found = c;
                best = v;
            }
        }
        next[from * n_rows + row] += 1;
        out_values[row * k + i] = best;
        out_classes[row * k + i] = found;
    }
}
"""
_NAMES = ("score_rows", "list_entries", "update", "search", "merge_lists")


@cache
def _kernels(device):
    """The kernels, compiled for the current device, and what they ask of it.

    CuPy keeps the binaries on disk.
    """
    module = cupy.RawModule(code=SOURCE, options=("-std=c++17",))
    kernels = SimpleNamespace(**{name: module.get_function(name) for name in _NAMES})
    attributes = cupy.cuda.Device(device).attributes
    kernels.n_processors = attributes["MultiProcessorCount"]
    kernels.shared_bytes = attributes["MaxSharedMemoryPerBlockOptin"]
    kernels.search.max_dynamic_shared_size_bytes = kernels.shared_bytes
    return kernels


def n_devices():
    """Number of GPUs that answer; RuntimeError if CUDA does not."""
    return cupy.cuda.runtime.getDeviceCount()


def free_memory(device):
    """Bytes that are free on a device, with those that CuPy holds in reserve."""
    with cupy.cuda.Device(device) as card:
        return card.mem_info[0] + cupy.get_default_memory_pool().free_bytes()


def padded(width):
    """Numbers in a row of weights on the device."""
    return -(-width // 32) * 32


def gemm(transposed, a, b, out, alpha=1.0, beta=0.0):
    """out = alpha * op(a) b + beta * out, float32, by cuBLAS.

    In TF32 only where CuPy is asked for it, by the environment variable CUPY_TF32=1.
    """
    cublas, handle = cupy.cuda.cublas, cupy.cuda.Device().cublas_handle
    tf32 = int(os.environ.get("CUPY_TF32", "0")) > 0
    before = cublas.getMathMode(handle)
    cublas.setMathMode(handle, _TF32_MATH if tf32 else cublas.CUBLAS_DEFAULT_MATH)
    try:
        cupy.cublas.gemm("T" if transposed else "N", "N", a, b, out, alpha, beta)
    finally:
        cublas.setMathMode(handle, before)


def _threads(pitch):
    """Threads of a block that has a row of weights to read, four numbers each."""
    return min(pitch // 4 + 31, _THREADS) // 32 * 32


def _score_rows(n_rows, rows, W, b, scale, shape, mode, Z, learn=None):
    """Launch the kernel, which makes the logits of a batch, and of them what `mode` is.

    rows : the CSR rows as `_Rows` gives them, or None if their products are in Z
    shape : numbers of repetitions and of buckets
    learn : y, table, step, weight, rate, factor and losses, which gradients need
    """
    pitch = W.shape[1]
    y, table, step, weight, rate, factor, losses = learn or (b, b, b, b, b, 0, b)
    _kernels(cupy.cuda.Device().id).score_rows(
        (n_rows,),
        (_threads(pitch),),
        (
            np.int32(rows is not None),
            *(rows or (b, b, b, b)),  # what is not read is any array
            W,
            b,
            np.float32(scale),
            *(np.int32(v) for v in (*shape, pitch, mode)),
            y,
            table,
            step,
            weight,
            rate,
            np.float32(factor),
            Z,
            losses,
        ),
    )


# Copies ---------------------------------------------------------------------------


def _to_device(array, dtype, out=None):
    """Copy a host array to the device, in pieces through a pinned buffer."""
    if out is None:
        out = cupy.empty(array.shape, dtype)
    if array.size == 0:
        return out
    n_rows = max(_PIECE // max(array[:1].size, 1), 1)
    pinned = cupyx.empty_pinned((min(n_rows, len(array)), *array.shape[1:]), dtype)
    for start in range(0, len(array), n_rows):
        piece = pinned[: len(array) - start]
        piece[...] = array[start : start + n_rows]
        device = cupy.empty(piece.shape, dtype)
        device.set(piece)
        cupy.cuda.get_current_stream().synchronize()  # the buffer is used again
        out[start : start + n_rows] = device
    return out


def _to_host(array, out):
    """Copy a device array (n, m) to the first m columns of a host array."""
    n_rows = max(_PIECE // array.shape[1], 1)
    pinned = cupyx.empty_pinned((min(n_rows, len(array)), array.shape[1]), array.dtype)
    for start in range(0, len(array), n_rows):
        piece = cupy.ascontiguousarray(array[start : start + n_rows])
        piece.get(out=pinned[: len(piece)])
        out[start : start + n_rows] = pinned[: len(piece), : out.shape[1]]


@njit
def _gather(data, indices, indptr, rows, first, out_data, out_indices):
    """Copy the non-zeros of CSR rows, one row behind the other."""
    for t in range(rows.shape[0]):
        start = indptr[rows[t]]
        for p in range(first[t + 1] - first[t]):
            out_data[first[t] + p] = data[start + p]
            out_indices[first[t] + p] = indices[start + p]


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
            kinds = ((X.data, np.float32), (X.indices, np.int32), (X.indptr, np.int64))
            self.X = [_to_device(array, dtype) for array, dtype in kinds]
        elif resident:
            self.X = _to_device(X, np.float32)

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
            lengths = X.indptr[rows + 1] - X.indptr[rows]
            first = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
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


# Training -------------------------------------------------------------------------


def train_all(X, y, table, W, b, first, zero, settings, plans, task=SilentTask):
    """Train the repetitions from `first` on in W (d, R B) and b (R B,).

    plans : list of (device, repetitions at a time, whether X stays on the device).
    Other parameters and the result are those of the CPU's `train_all`; the batches are
    ``settings.batch_size`` rows.  A device takes its repetitions in turns, those of
    the first are reported; all of a turn are the task ``task(r)`` of its first, r.
    """
    n_repetitions = table.shape[1]
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
                    args = y, table, W, b, turn, zero, settings, X.shape[1]
                    n_iter = max(n_iter, _Turn(rows, *args).train(told, part))
            del rows
            cupy.get_default_memory_pool().free_all_blocks()
        return n_iter

    with ThreadPoolExecutor(len(plans)) as pool:
        return max(pool.map(work, plans, shares))


class _Turn:
    """The weights of some repetitions on one device, and their training."""

    def __init__(self, rows, y, table, W, b, turn, zero, settings, n_features):
        self.rows, self.y, self.settings, self.d = rows, y, settings, n_features
        self.R, self.B = len(turn), b.size // table.shape[1]
        columns = slice(turn[0] * self.B, (turn[-1] + 1) * self.B)
        self.host = W[:, columns], b[columns]
        width = self.R * self.B
        self.pitch = padded(width)
        self.W = cupy.zeros((n_features, self.pitch), np.float32)
        self.b = cupy.zeros(self.pitch, np.float32)
        if not zero:
            _to_device(self.host[0], np.float32, out=self.W[:, :width])
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
        self.kernels = _kernels(cupy.cuda.Device().id)
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
                report_epoch(epoch, part, loss.mean(), s, time.perf_counter() - started)
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
        _to_host(self.W, self.host[0])
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
            y, step, weight = (
                cupy.asarray(a[part], dtype=dtype)
                for a, dtype in (
                    (self.y, np.int32),
                    (s.step, np.float32),
                    (s.weight, np.float32),
                )
            )
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
                _score_rows(
                    n_rows,
                    None if dense else X,
                    self.W,
                    self.b,
                    self.scale,
                    (self.R, self.B),
                    _GRADIENT,
                    self.Z,
                    (
                        y[batch],
                        self.table,
                        step[batch],
                        weight[batch],
                        device_rate,
                        factor,
                        losses[batch],
                    ),
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
        threads = _threads(self.pitch)
        self.kernels.update(
            (n_features + 1, -(-self.pitch // (4 * threads))),
            (threads,),
            (
                *entries,
                step,
                self.slowed_gain,
                np.int32(n_rows),
                np.float32(factor),
                np.float32(self.bound),
                np.float32(self.bias),
                np.float32(1 / self.scale),
                rate,
                np.int32(self.R),
                np.int32(self.B),
                np.int32(self.pitch),
                self.Z,
                self.W,
                self.b,
            ),
        )

    def _transpose(self, chunk, part):
        """A function from the number of a batch of the chunk to its entries by feature.

        They are the number of features, the place of the first entry of each and the
        end, the features, and for all entries of the chunk the row and the value.
        """
        size = self.settings.batch_size
        n_batches = -(-len(part) // size)
        first = np.zeros(len(part) + 1, np.int64)
        np.cumsum(self.rows.sizes[part], out=first[1:])
        n_entries = int(first[-1])
        key = cupy.empty(n_entries, np.int64)
        place, value = (
            cupy.empty(n_entries, np.int32),
            cupy.empty(n_entries, np.float32),
        )
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


# Predicting -----------------------------------------------------------------------


class Model:
    """A fitted model on a device: bucket probabilities and the best classes.

    Every row is computed by itself, so that it gets the same numbers in any company.
    """

    def __init__(self, W, b, table, n_buckets, device):
        self.device = device
        self.R, self.B = table.shape[1], n_buckets
        self.offset = None, None  # on the host, and its copy
        with cupy.cuda.Device(device):
            self.W = cupy.zeros((W.shape[0], padded(b.size)), np.float32)
            _to_device(W, np.float32, out=self.W[:, : b.size])
            self.b = cupy.zeros(self.W.shape[1], np.float32)
            self.b[: b.size] = cupy.asarray(b)
            self.table = _to_device(table, np.int32)

    def bucket_proba(self, X, log, divisor=1):
        """(Log) probabilities of the buckets, divided: NumPy float32 (n, R, B)."""
        with cupy.cuda.Device(self.device):
            return self._bucket_proba(X, log, divisor).get()

    def topk(self, X, k, merge, log, divisor=1, offset=None):
        """The best classes of each row, int64 (n, k), and their scores, float32.

        merge : "sum" or "min"
        offset : what the sum of each class ends with, float32 (K,), or None
        """
        with cupy.cuda.Device(self.device):
            scores = self._bucket_proba(X, log, divisor)
            on_device = None
            if offset is not None:
                if self.offset[0] is not offset:
                    self.offset = offset, _to_device(offset, np.float32)
                on_device = self.offset[1]
            values, classes = best_classes(scores, self.table, k, merge, on_device)
            return classes.get(), values.get()

    @np.errstate(over="ignore")  # values that become infinite are refused below
    def _bucket_proba(self, X, log, divisor):
        n, pitch, sparse = X.shape[0], self.W.shape[1], sp.issparse(X)
        Z = cupy.empty((n, pitch), np.float32)
        if n == 0:
            return Z[:, : self.R * self.B].reshape(0, self.R, self.B)
        if sparse:
            rows = [
                _to_device(X.data, np.float32),
                _to_device(X.indices, np.int32),
                _to_device(X.indptr, np.int64),
                cupy.arange(n, dtype=np.int32),
            ]
        else:
            rows = None
            block = cupy.zeros((_PREDICTED, X.shape[1]), np.float32)
            product = cupy.empty((_PREDICTED, pitch), np.float32)
            for start in range(0, n, _PREDICTED):
                part = X[start : start + _PREDICTED]
                _to_device(part, np.float32, out=block[: len(part)])
                gemm(False, block, self.W, product)
                Z[start : start + len(part)] = product[: len(part)]
        shape, mode = (self.R, self.B), _LOG_PROBA if log else _PROBA
        _score_rows(n, rows, self.W, self.b, 1, shape, mode, Z)
        Z = cupy.ascontiguousarray(Z[:, : self.R * self.B])
        if np.isnan(float(Z.sum())):
            raise ValueError(OVERFLOW)
        if divisor != 1:
            Z /= np.float32(divisor)
        return Z.reshape(n, self.R, self.B)


def best_classes(scores, table, k, merge, offset=None):
    """The k best classes of each row: values (n, k), float32, and classes, int64.

    scores (n, R, B), float32, table (K, R), int32, and offset (K,), float32 or None,
    are on the current device.  The sum starts from 0 and adds repetition 0, 1, ...,
    R - 1 and the offset in float32, and ties go to the smaller class: as on the CPU.
    """
    n, R, B = scores.shape
    kernels, n_classes = _kernels(cupy.cuda.Device().id), table.shape[0]
    if n == 0:
        return cupy.empty((0, k), np.float32), cupy.empty((0, k), np.int64)
    n_tiles = -(-n // 32)
    lanes = cupy.zeros((n_tiles * 32, R * B), np.float32)
    lanes[:n] = scores.reshape(n, R * B)
    lanes = cupy.ascontiguousarray(lanes.reshape(n_tiles, 32, R * B).transpose(0, 2, 1))
    n_shared = R * B * 32 * 4
    in_shared = n_shared <= kernels.shared_bytes
    # Enough blocks for some rounds over all multiprocessors, of not too few classes.
    n_blocks = 8 * kernels.n_processors
    n_splits = max(min(-(-n_blocks // n_tiles), n_classes // 4096, _MAX_SPLITS), 1)
    n_lists = n_splits * (_TOPK_THREADS // 32)
    list_values = cupy.empty((n_lists, k, n_tiles * 32), np.float32)
    list_classes = cupy.empty((n_lists, k, n_tiles * 32), np.int32)
    has_offset = offset is not None and merge == "sum"
    sizes = n_classes, R, B, k, merge == "min", has_offset, in_shared
    kernels.search(
        (n_tiles, n_splits),
        (_TOPK_THREADS,),
        (
            lanes,
            table,
            offset if has_offset else lanes,  # what is not read is any array
            *(np.int32(v) for v in sizes),
            list_values,
            list_classes,
        ),
        shared_mem=n_shared if in_shared else 0,
    )
    best_values = cupy.empty((n_tiles * 32, k), np.float32)
    best = cupy.empty((n_tiles * 32, k), np.int64)
    kernels.merge_lists(
        (-(-n_tiles * 32 // 128),),
        (128,),
        (
            list_values,
            list_classes,
            np.int32(n_lists),
            np.int32(k),
            np.int64(n_tiles * 32),
            cupy.zeros((n_lists, n_tiles * 32), np.int32),
            best_values,
            best,
        ),
    )
    return best_values[:n], best[:n]
