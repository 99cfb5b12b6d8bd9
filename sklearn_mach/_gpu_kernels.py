"""The kernels of the GPU's learner and search, products and copies, by CuPy.

Weights lie as on the CPU, feature-major, in rows padded to 32 numbers.
"""

import os
from functools import cache
from types import SimpleNamespace

import cupy
import cupy.cublas
import cupyx
import numpy as np

_THREADS = 256  # of a block of the learner
_PIECE = 1 << 24  # numbers copied through a pinned buffer at a time
_TF32_MATH = 3  # CUBLAS_TF32_TENSOR_OP_MATH, which CuPy does not name
GRADIENT, LOG_PROBA, PROBA = range(3)  # modes of `score_rows`
LINKS = {"softmax": 0, "sigmoid": 1}  # what makes probabilities of logits

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

// x, or NaN where it overflowed: a sigmoid alone would hide that.
__device__ float checked(float x) { return x + (x - x); }

// 1 / (1 + exp(-x)), and log(1 + exp(x)).
__device__ float sigmoid(float x)
{
    const float e = expf(-fabsf(x));
    return (x > 0.0f ? 1.0f : e) / (1.0f + e);
}

__device__ float softplus(float x)
{
    return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

// A warp: logits of buckets become size * (sigmoid - whether a class is in the bucket).
// The bucket of class c is codes[c * stride].  Returns the lane's part of the log loss.
__device__ float sigmoid_gradient(
    float* z, int n_buckets, const int* classes, long long n_classes, const int* codes,
    int stride, float size)
{
    const int lane = threadIdx.x % 32;
    float loss = 0.0f;
    for (int begin = lane; begin < n_buckets; begin += 1024) {
        unsigned own = 0;  // bit i is bucket begin + 32 i: the classes are read once
        for (long long c = 0; c < n_classes; ++c) {
            const int away = codes[(long long)classes[c] * stride] - begin;
            if (away >= 0 && away < 1024 && away % 32 == 0) own |= 1u << (away / 32);
        }
        for (int j = begin; j < n_buckets && j < begin + 1024; j += 32, own /= 2) {
            const float sign = own % 2 ? -1.0f : 1.0f;  // 1 - P would cancel
            const float x = sign * checked(z[j]);
            loss += softplus(x);
            z[j] = size * sign * sigmoid(x);
        }
    }
    return loss;
}

// Row t of a batch, a block: logits Z[t] (pitch) = scale * x W + b, where x W is read
// from Z itself if the rows are not sparse.  Then, by mode, Z becomes the gradient
// factor * rate[r] * step[t] * (P - target), and loss[t, r] weight[t] times the loss;
// or log P; or P.  By link P is a softmax of the buckets, or a sigmoid of each.  The
// row's classes are classes[starts[t]], ..., classes[starts[t + 1] - 1].  Of a softmax
// the target is the mean of their one-hots, the loss the mean of -log P (a row without
// any has a step and a weight of zero); of sigmoids, the OR and the added log losses.
extern "C" __global__ void score_rows(
    int sparse, const float* data, const int* indices, const long long* indptr,
    const int* rows, const float* W, const float* b, float scale, int n_repetitions,
    int n_buckets, int pitch, int link, int mode, const long long* starts,
    const int* classes, const int* table, const float* step, const float* weight,
    const float* rate, float factor, float* Z, float* loss)
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
        if (link == 1 && mode == 0) {
            const long long first = starts[t];
            const float part = sigmoid_gradient(
                zr, n_buckets, classes + first, starts[t + 1] - first, table + r,
                n_repetitions, step[t] * factor * rate[r]);
            const float total = warp_sum(part);
            if (lane == 0) loss[t * n_repetitions + r] = weight[t] * total;
            continue;
        }
        if (link == 1) {
            for (int j = lane; j < n_buckets; j += 32) {
                const float x = checked(zr[j]);
                zr[j] = mode == 1 ? -softplus(-x) : sigmoid(x);
            }
            continue;
        }
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
            const long long first = starts[t], last = starts[t + 1];
            const float share = last > first ? 1.0f / (last - first) : 0.0f;
            int own = -1;  // in a register: most rows have no other class
            float target = 0.0f;
            for (long long c = last - 1; c >= first; --c) {
                own = table[(long long)classes[c] * n_repetitions + r];
                target += zr[own] - largest;
            }
            __syncwarp();  // all lanes have read the targets before one overwrites them
            if (lane == 0)
                loss[t * n_repetitions + r] =
                    weight[t] * (logf(total) - share * target);
            const float size = step[t] * factor * rate[r];
            for (int j = lane; j < n_buckets; j += 32) {
                int hits = j == own;
                for (long long c = first + 1; c < last; ++c)
                    hits += table[(long long)classes[c] * n_repetitions + r] == j;
                zr[j] = size * (expf(zr[j] - largest) / total - share * hits);
            }
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
def _compiled(device):
    module = cupy.RawModule(code=SOURCE, options=("-std=c++17",))
    found = SimpleNamespace(**{name: module.get_function(name) for name in _NAMES})
    attributes = cupy.cuda.Device(device).attributes
    found.n_processors = attributes["MultiProcessorCount"]
    found.shared_bytes = attributes["MaxSharedMemoryPerBlockOptin"]
    found.search.max_dynamic_shared_size_bytes = found.shared_bytes
    return found


def kernels():
    """The kernels, compiled for the current device, and what they ask of it.

    CuPy keeps the binaries on disk.
    """
    return _compiled(cupy.cuda.Device().id)


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


def n_threads(pitch):
    """Threads of a block that has a row of weights to read, four numbers each."""
    return min(pitch // 4 + 31, _THREADS) // 32 * 32


def score_rows(n_rows, rows, W, b, scale, shape, link, mode, Z, learn=None):
    """Launch the kernel, which makes the logits of a batch, and of them what `mode` is.

    rows : data, indices, indptr and rows of CSR, or None if the products are in Z
    shape : numbers of repetitions and of buckets
    link : key of `LINKS`
    learn : starts and classes of the rows, table, step, weight, rate, factor and
        losses, which gradients need
    """
    pitch = W.shape[1]
    *arrays, factor, losses = learn or (b, b, b, b, b, b, 0, b)
    rows_or_any = rows or (b, b, b, b)  # what is not read is any array
    args = np.int32(rows is not None), *rows_or_any, W, b, np.float32(scale)
    args += *map(np.int32, (*shape, pitch, LINKS[link], mode)), *arrays
    args += np.float32(factor), Z, losses
    kernels().score_rows((n_rows,), (n_threads(pitch),), args)


def to_device(array, dtype, out=None):
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


def csr_to_device(X):
    """Data, indices and indptr as the kernels read them."""
    parts = (X.data, np.float32), (X.indices, np.int32), (X.indptr, np.int64)
    return [to_device(array, dtype) for array, dtype in parts]


def to_host(array, out):
    """Copy a device array (n, m) to the first m columns of a host array."""
    n_rows = max(_PIECE // array.shape[1], 1)
    pinned = cupyx.empty_pinned((min(n_rows, len(array)), array.shape[1]), array.dtype)
    for start in range(0, len(array), n_rows):
        piece = cupy.ascontiguousarray(array[start : start + n_rows])
        piece.get(out=pinned[: len(piece)])
        out[start : start + n_rows] = pinned[: len(piece), : out.shape[1]]
