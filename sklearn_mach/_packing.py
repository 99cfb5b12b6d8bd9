"""Kernels for weights in 8 or 4 bits, of which some are left out: a stream of bytes.

The weights of a feature are whole numbers times a scale of its own.  They are stored in
whichever form is the shortest:

FULL : a number for each column
MASK : a bit for each column, and a number for each bit that is set
GAPS, SHORT_GAPS : for each number the columns between it and the one before, in 8 or 4
    bits, and then the numbers; a number of zero stands where those are not enough

Numbers of 8 bits are signed bytes; those of 4 bits, from -7 to 7, are written plus 8.
What has 4 bits lies two in a byte: the first half of all in the lower halves of the
bytes, and the second half in the upper ones, which unpacks in vectors.  A feature
without weights takes no bytes.
"""

import numpy as np

from ._compat import ELEMENTWISE, njit
from ._lanes import EXPANDS, add_expanded, lowest_bit
from ._logits import add_logits

FULL, MASK, GAPS, SHORT_GAPS = map(np.uint8, range(4))
_N_SCALES = 5  # tried with 4 bits, each less by a tenth of the largest
_TINY = np.float32(1e-36)  # of scales for less the inverse overflows: that is zero


@njit
def pack_rows(W, least, bits, numbers, out, lengths, forms, scales):
    """Write features to out (n_features, .), and what reading them needs."""
    for j in range(W.shape[0]):
        scales[j] = _quantise(W[j], least[j], bits, numbers)
        forms[j], lengths[j] = _write(numbers, bits, out[j])


@njit
def measure(W, least, bits, rows, numbers, out, errors):
    """Bytes of some features, and in errors (n_rows,) their squared errors."""
    total = 0
    for i in range(rows.shape[0]):
        w = W[rows[i]]
        scale = _quantise(w, least[rows[i]], bits, numbers)
        total += _write(numbers, bits, out)[1]
        error = np.float32(0)
        for q in range(w.shape[0]):
            error += (w[q] - scale * np.float32(numbers[q])) ** 2
        errors[i] = error
    return total


@njit(inner=True)
def _quantise(w, least, bits, numbers):
    """Write whole numbers to numbers (width,), zero for |w| < least; their scale.

    Of the scales tried it is the one with the least squared error: the largest weights
    are cut where that serves many small ones.
    """
    top = np.float32(127 if bits == 8 else 7)
    largest = np.float32(0)
    for q in range(w.shape[0]):
        largest = max(largest, abs(w[q]))
    best, best_error = np.float32(0), np.float32(np.inf)
    if largest >= max(least, _TINY):
        for i in range(1 if bits == 8 else _N_SCALES):
            share = np.float32(1) - np.float32(0.1 * i)
            scale = largest * share / top
            error = np.float32(0)
            for q in range(w.shape[0]):
                ratio = w[q] / scale
                z = min(max(np.rint(ratio), -top), top)
                z = z if abs(w[q]) >= least else np.float32(0)
                error += (ratio - z) ** 2
            error *= share * share  # squares of scales could overflow
            if error < best_error:
                best, best_error = scale, error
    for q in range(w.shape[0]):
        z = np.float32(0)
        if best > 0 and abs(w[q]) >= least:
            z = min(max(np.rint(w[q] / best), -top), top)
        numbers[q] = np.int8(z)
    return best


@njit(inner=True)
def _write(numbers, bits, out):
    """Write numbers (width,) to the start of out in their shortest form.

    Gives the form and its length in bytes, zero if all are zero.
    """
    width = numbers.shape[0]
    n, n_gaps, n_short, last = 0, 0, 0, -1
    for q in range(width):
        if numbers[q] != 0:
            n += 1
            n_gaps += 1 + (q - last - 1) // 256
            n_short += 1 + (q - last - 1) // 16
            last = q
    n_short += n_short % 2  # by which the length tells their number
    if n == 0:
        return GAPS, 0
    form, length = FULL, _n_bytes(width, bits)
    for other, n_bytes in (
        (MASK, (width + 7) // 8 + _n_bytes(n, bits)),
        (GAPS, n_gaps + _n_bytes(n_gaps, bits)),
        (SHORT_GAPS, n_short // 2 + _n_bytes(n_short, bits)),
    ):
        if n_bytes < length:
            form, length = other, n_bytes
    for p in range(length):
        out[p] = 0
    if form == FULL:
        for q in range(width):
            _write_one(numbers[q], bits, q, width, 0, out)
    elif form == MASK:
        i, start = 0, (width + 7) // 8
        for q in range(width):
            if numbers[q] != 0:
                out[q // 8] |= np.uint8(1 << (q % 8))
                _write_one(numbers[q], bits, i, n, start, out)
                i += 1
    else:
        gap_bits, n = (8, n_gaps) if form == GAPS else (4, n_short)
        start, stride = _n_bytes(n, gap_bits), 1 << gap_bits
        i, last = 0, -1
        for q in range(width):
            if numbers[q] != 0:
                while q - last > stride:
                    last += stride
                    _write_gap(stride - 1, gap_bits, i, n, out)
                    _write_one(0, bits, i, n, start, out)
                    i += 1
                _write_gap(q - last - 1, gap_bits, i, n, out)
                _write_one(numbers[q], bits, i, n, start, out)
                i, last = i + 1, q
        if i < n:
            _write_one(0, bits, i, n, start, out)
    return form, length


@njit(inner=True)
def _n_bytes(n, bits):
    """Bytes of n numbers."""
    return n if bits == 8 else (n + 1) // 2


@njit(inner=True)
def _write_one(number, bits, i, n, start, out):
    """Write the i-th of n numbers that begin at start."""
    if bits == 8:
        out[start + i] = np.uint8(number)
    else:
        half = (n + 1) // 2
        out[start + i % half] |= np.uint8((number + 8) << (0 if i < half else 4))


@njit(inner=True)
def _write_gap(gap, gap_bits, i, n, out):
    """Write the i-th of n gaps."""
    if gap_bits == 8:
        out[i] = np.uint8(gap)
    else:
        half = (n + 1) // 2
        out[i % half] |= np.uint8(gap << (0 if i < half else 4))


@njit(fastmath=ELEMENTWISE)
def add_rows(x, indices, indptr, parts, bits, places, unpacked, work, Z):
    """Z (n, width) += X W for a CSR X, every row by itself.

    parts : data, starts, forms and scales
    places : for each value of X the row of unpacked (., width) that its feature has,
        or -1
    """
    lo = np.int64(0)  # for a literal `add_logits` would be compiled again
    for i in range(Z.shape[0]):
        p, stop = np.int64(indptr[i]), np.int64(indptr[i + 1])
        while p < stop:
            end = p  # of features that follow each other and are unpacked
            while end < stop and places[end] >= 0:
                end += 1
            add_logits(x, places, p, end, unpacked, lo, Z[i])
            p = end
            while p < stop and places[p] < 0:
                n = _numbers(parts, indices[p], Z.shape[1], bits, work)
                _add(parts, indices[p], n, np.float32(x[p]), work, Z[i])
                p += 1


@njit(fastmath=ELEMENTWISE)
def unpack(parts, bits, features, work, W):
    """W (n, width), of zeros, becomes the weights of these features (n,)."""
    for i in range(W.shape[0]):
        n = _numbers(parts, features[i], W.shape[1], bits, work)
        _add(parts, features[i], n, np.float32(1), work, W[i])


@njit(fastmath=ELEMENTWISE)
def choose(parts, bits, first, places, work, row, out, lengths, new_forms):
    """Write the numbers of some columns of the features from `first` on.

    row (width,): float32 zeros to work in; out (n, .), lengths and new_forms (n,)
    """
    numbers = np.zeros(places.shape[0], np.int8)
    scales = parts[3]
    for i in range(lengths.shape[0]):
        n = _numbers(parts, first + i, row.shape[0], bits, work)
        _add(parts, first + i, n, np.float32(1), work, row)
        scale = scales[first + i]
        for q in range(places.shape[0]):
            numbers[q] = np.int8(np.rint(row[places[q]] / scale)) if n else np.int8(0)
        row[:] = 0
        new_forms[i], lengths[i] = _write(numbers, bits, out[i])


@njit(inner=True, fastmath=ELEMENTWISE)
def _numbers(parts, j, width, bits, work):
    """Write the weights that feature j has to work (>= width,): how many they are."""
    data, starts, forms, scales = parts
    first, stop, scale = np.int64(starts[j]), np.int64(starts[j + 1]), scales[j]
    if first == stop:
        return 0
    n, length = width, stop - first
    if forms[j] == MASK:
        first += (width + 7) // 8
        n = (stop - first) * (1 if bits == 8 else 2)
    elif forms[j] == GAPS:
        n = length // 2 if bits == 8 else 2 * length // 3
        first += n
    elif forms[j] == SHORT_GAPS:
        n = 2 * length // 3 if bits == 8 else length // 2 * 2
        first += (n + 1) // 2
    n = min(n, width)
    # slices: an index from 0 on is known not to be negative, and the loops are vectors
    if bits == 8:
        part = data[first : first + n]
        for i in range(n):
            work[i] = scale * np.float32(np.int8(part[i]))
    else:
        half = stop - first if forms[j] != FULL else (width + 1) // 2
        part, rest = data[first : first + half], work[half:n]
        for i in range(min(half, n)):
            work[i] = scale * np.float32(np.int32(part[i] & 15) - 8)
        for i in range(rest.shape[0]):
            rest[i] = scale * np.float32(np.int32(part[i] >> 4) - 8)
    return n


@njit(inner=True, fastmath=ELEMENTWISE)
def _add(parts, j, n, x, work, z):
    """z (width,) += x times the weights of feature j, of which work has the n values.

    What data says is never followed beyond z, since a file may be damaged: see
    `Packed.check`.
    """
    data, starts, forms = parts[:3]
    start, width = np.int64(starts[j]), z.shape[0]
    if n == 0:
        return
    if forms[j] == FULL:
        for q in range(width):
            z[q] += x * work[q]
    elif forms[j] == MASK:
        mask = data[start : start + (width + 7) // 8]
        first = i = 0
        if EXPANDS:
            while first + 16 <= width and i + 16 <= n:
                word = np.uint16(mask[first // 8])
                word |= np.uint16(mask[first // 8 + 1]) << np.uint16(8)
                i = add_expanded(z, first, word, x, work, i)
                first += 16
        for p in range(first // 8, mask.shape[0], 8):
            word = np.uint64(0)
            for c in range(min(8, mask.shape[0] - p)):
                word |= np.uint64(mask[p + c]) << np.uint64(8 * c)
            columns = z[8 * p :]
            while word:
                q = lowest_bit(word)
                word &= word - np.uint64(1)
                if q >= columns.shape[0] or i >= n:
                    break
                columns[q] += x * work[i]
                i += 1
    elif forms[j] == GAPS:
        gaps = data[start : start + n]
        _scatter(gaps, np.uint8(0), np.uint8(255), np.uint64(0), x, work[:n], z)
    else:
        half = (n + 1) // 2
        gaps = data[start : start + half]
        q = _scatter(gaps, np.uint8(0), np.uint8(15), np.uint64(0), x, work[:half], z)
        _scatter(gaps, np.uint8(4), np.uint8(15), q, x, work[half:n], z)


@njit(inner=True, fastmath=ELEMENTWISE)
def _scatter(gaps, shift, mask, q, x, work, z):
    """z += x work, from column q on with gaps between; the column behind the last."""
    width = np.uint64(z.shape[0])
    for i in range(work.shape[0]):
        q += np.uint64((gaps[i] >> shift) & mask)
        if q >= width:
            break
        z[q] += x * work[i]
        q += np.uint64(1)
    return q
