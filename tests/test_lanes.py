"""Functions over lanes, against loops over repetitions and rows."""

from functools import cache

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_mach import _lanes
from sklearn_mach._lanes import LANES, ROWS, aligned


@cache
def kernel(name, n_args):
    """A kernel that calls the function."""
    text = ", ".join(f"a{j}" for j in range(n_args))
    names = {"f": getattr(_lanes, name)}
    return numba.njit(eval(f"lambda {text}: f({text})", names))


def call(name, *args):
    """What a kernel gets of the function."""
    return kernel(name, len(args))(*args)


def bits(is_set):
    return sum(1 << int(i) for i in np.flatnonzero(is_set))


def draw(shape, dtype, rng, highest=80):
    out = aligned(shape, dtype)
    out[:] = rng.integers(0, highest, shape)
    return out


@pytest.mark.parametrize("R", [1, 4, 7])  # loops take four repetitions at a time
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_one_class_of_all_rows(R, dtype):
    rng = np.random.default_rng(R)
    table = rng.integers(0, 9, (5, R)).astype(dtype)
    lanes = aligned((R, 9, ROWS), np.float32)
    lanes[:] = rng.standard_normal(lanes.shape)
    terms = [lanes[r, table[3, r]] for r in range(R)]
    total = np.ones(ROWS, np.float32)
    call("sum_class", lanes, table, 3, total)
    expected = np.ones(ROWS, np.float32)
    for term in terms:
        expected += term
    assert_array_equal(total, expected)
    total[:] = 0.5
    call("min_class", lanes, table, 3, total)
    assert_array_equal(total, np.min([*terms, np.full(ROWS, 0.5)], axis=0))

    lanes = draw((R, 9, LANES), np.uint8, rng)
    start, limits = draw((2, LANES), np.uint8, rng, 255)
    sums = sum(lanes[r, table[3, r]].astype(int) for r in range(R)) + start
    found = call("lanes_within", lanes, table, 3, start, limits)
    assert int(found) == bits(np.minimum(sums, 255) <= limits)


@pytest.mark.skipif(not _lanes.has_lookup(), reason="needs AVX2")
@pytest.mark.parametrize("n_buckets", [2, 32, 33, 64])
def test_one_row_of_all_classes(n_buckets):
    rng = np.random.default_rng(n_buckets)
    units = draw((4, 64, 1), np.uint8, rng, 100)
    codes = rng.integers(0, n_buckets, (3, 4, LANES)).astype(np.uint8)
    sums = [
        [sum(int(units[r, c[r, j], 0]) for r in range(4)) for j in range(LANES)]
        for c in codes
    ]
    for tile, limit in ((0, 150), (2, 200), (1, 254)):
        found = call("classes_within", units, codes, tile, np.uint8(limit), n_buckets)
        assert int(found) == bits(np.minimum(sums[tile], 255) <= limit)


@pytest.mark.parametrize("adds, n_levels", [(True, 0), (True, 3), (False, 0)])
def test_one_class_of_all_rows_in_all_stages(adds, n_levels):
    rng = np.random.default_rng(n_levels)
    table = rng.integers(0, 9, (5, 6)).astype(np.uint8)
    lanes = draw((6, 9, LANES), np.uint8, rng)
    starts = draw((6 if n_levels else 0, 3, LANES), np.uint8, rng)
    limits = draw((6, LANES), np.uint8, rng, 40)
    total, below = np.zeros(LANES, int), np.zeros(LANES, bool)
    for r in range(6):
        term = lanes[r, table[2, r]].astype(int)
        total = total + term if adds else np.maximum(total, term)
        start = starts[r, 1] if n_levels else 0
        below |= np.minimum(total + start, 255) < limits[r]
    found = call("lanes_of_stages", lanes, table, 2, adds, starts, 1, limits)
    assert int(found) == bits(below)


def test_lowest_bit_and_alignment():
    for mask in (1, 40, 1 << 63, (1 << 64) - 1):
        position = call("lowest_bit", np.uint64(mask))
        assert mask % 2**position == 0 and mask >> position & 1
    for shape in ((1,), (3, 5), (7, 64)):
        array = aligned(shape, np.float32)
        assert array.shape == shape and array.ctypes.data % 64 == 0
        assert not array.any()
