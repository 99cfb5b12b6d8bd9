"""Numbers beyond 2**31, and memory of long lists: without allocating what they count.

Arrays of many numbers are views of one, with strides of zero.
"""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import peak_of

from sklearn_mach import MACHClassifier, _decoding, _steps, theory
from sklearn_mach._decoding import decode_topk
from sklearn_mach._hashing import (
    carter_wegman,
    collision_chance,
    draw_table,
    find_twins,
    min_repetitions,
    sketch_bytes,
)
from sklearn_mach._inputs import indicator
from sklearn_mach._logits import parts_of
from sklearn_mach._many_classes import _equal_rows, _power_law
from sklearn_mach._model import How, Model
from sklearn_mach._targets import Targets, check_n_classes

MANY = 2**33


def many(value, *shape):
    """A view of one number as an array of any shape."""
    return np.broadcast_to(np.asarray(value), shape)


# Classes ----------------------------------------------------------------------------


def test_more_classes_than_numbers_are_refused():
    check_n_classes(2**31 - 1)
    with pytest.raises(ValueError, match=r"2147483648 classes, and at most 2\*\*31 -"):
        check_n_classes(2**31)


def test_wide_indicators_are_refused_before_anything_is_allocated():
    columns = sp.csr_array(([1], [2**31], [0, 1, 1]), shape=(2, 2**31 + 1))
    tracemalloc.start()
    with pytest.raises(ValueError, match="2147483649 classes"):
        MACHClassifier().fit(np.eye(2), columns)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    widest = sp.csr_array(([1], [2**31 - 2], [0, 1, 1]), shape=(2, 2**31 - 1))
    targets = Targets.of_indicator(indicator(widest))
    assert targets.classes.tolist() == [2**31 - 2]
    # products of rows and classes are int64
    rows, classes = np.array([[0], [1]]), np.array([[2**31 - 2, 5]])
    found = targets.have(rows, np.repeat(classes, 2, axis=0))
    np.testing.assert_array_equal(found, [[True, False], [False, False]])


@pytest.mark.parametrize("hashing", ["balanced", "clustered", "universal"])
def test_tables_of_too_many_classes_are_refused(hashing):
    with pytest.raises(ValueError, match=f"{MANY} classes"):
        draw_table(MANY, 2**20, range(4), hashing)


def test_least_repetitions_of_huge_numbers():
    assert min_repetitions(MANY, 2) == 33
    assert min_repetitions(MANY + 1, 2) == 34
    assert min_repetitions(10**30, 1000) == 10
    assert sketch_bytes(MANY) == MANY * sketch_bytes(10**7) // 10**7


def test_twins_of_a_table_of_uint64():
    buckets = np.array([[0, 2**53], [0, 2**53 + 1]], np.uint64)  # one as floats
    assert find_twins(buckets, 2**53 + 2) is None
    assert find_twins(buckets[[0, 0]], 2**53 + 2) == (0, 1)


def test_universal_hashing_of_the_last_classes():
    prime, a, b, n_buckets = 2**61 - 1, 2**60 + 12345, 2**59 + 678, 4096

    class Last:
        """The last numbers below 2**31: an output of the kernel in Python."""

        shape = (2**31,)
        found = {}

        def __setitem__(self, k, bucket):
            self.found[k] = bucket

    out, first = Last(), 2**31 - 5
    body = getattr(carter_wegman, "py_func", carter_wegman)
    numbers = range(first, 2**31)
    names = body.__globals__
    names["range"] = lambda n: numbers
    try:
        body(*map(np.uint64, (a, b, n_buckets)), out)
    finally:
        del names["range"]
    assert out.found == {k: (a * k + b) % prime % n_buckets for k in numbers}


def test_pairs_of_classes_beyond_32_bits():
    table = many(np.uint8(0), 100_000, 2)  # all classes in one bucket
    assert collision_chance(table, 2, many(0, 100_000, 2)) == 1.0


# Rows and values --------------------------------------------------------------------


def test_numbers_of_rows_beyond_32_bits(monkeypatch):
    made = []

    def arange(size, dtype):
        made.append((size, np.dtype(dtype)))
        return np.zeros(4, dtype)

    monkeypatch.setattr(_steps.np, "arange", arange)
    options = {"early_stopping": False}
    for n_rows in (2**31 - 1, 2**31, MANY):
        weight = many(np.float32(1), n_rows)
        rows, held = _steps._train_and_held(None, weight, None, 0, options, 0)
        assert rows.dtype == held.dtype
    sizes = [(2**31 - 1, np.int32), (2**31, np.int64), (MANY, np.int64)]
    assert made == [(size, np.dtype(kind)) for size, kind in sizes]


def test_starts_of_few_wide_rows(monkeypatch):
    monkeypatch.setattr("sklearn_mach._logits.np.tile", lambda *_: None)
    monkeypatch.setattr("sklearn_mach._logits.np.arange", arange_of_few)
    for n, d in ((2, 2**30 - 1), (2, 2**30), (3, 2**30), (8, 2**30)):
        X = Wide((n, d))
        starts = parts_of(X)[2]
        assert starts.tolist() == [i * d for i in range(n + 1)]
        assert starts.dtype == (np.int32 if n * d < 2**31 else np.int64)


class Wide:
    """The shape of a dense X that is not there."""

    def __init__(self, shape):
        self.shape = shape

    def ravel(self):
        return None


def arange_of_few(n, dtype, arange=np.arange):
    return arange(min(n, 100), dtype=dtype)


def test_row_pointers_and_columns_of_large_problems():
    starts = _equal_rows(3, 2**30, 2**31)
    assert starts.dtype == np.int64
    assert starts.tolist() == [0, 2**30, 2**31, 3 * 2**30]
    assert _equal_rows(3, 5, 2**31 - 1).dtype == np.int32
    for exponent in (0, 0.5, 1.0, 2.0):
        places = _power_law(np.array([0, 0.5, 1 - 1e-16]), 0, MANY, exponent)
        assert places.dtype == np.int64
        assert 0 == places[0] <= places[1] <= places[2] < MANY
    assert _power_law(np.array([0.75]), 0, MANY, 0)[0] == MANY * 3 // 4


# Theory -----------------------------------------------------------------------------


def test_theory_of_billions_of_classes():
    K, d, R, B = MANY, 10_000_000, 40, 2**20
    assert theory.mach_min_repetitions(K, B, 1e-3) == 4  # 2 log(K / 0.0316) / log B
    pairs = Fraction(K * (K - 1), 2 * B**2)
    assert theory.expected_collisions(K, B, 2) == pytest.approx(float(pairs))
    assert theory.model_bytes(d, R, B) == 4 * (d + 1) * R * B > 2**50
    cost = theory.model_cost(K, d, R, B, n_nonzeros=100)
    assert cost.mach.n_bytes == 4 * (d + 1) * R * B + 4 * K * R
    assert cost.one_vs_rest.n_bytes == 4 * (d + 1) * K
    assert cost.mach.decoding == K * R
    assert cost.one_vs_rest.training == 2 * 101 * K
    plan = theory.plan(K, d, n_nonzeros=100)
    assert plan.n_buckets**plan.n_repetitions >= K
    assert (
        plan.n_bytes
        == theory.model_cost(K, d, plan.n_repetitions, plan.n_buckets).mach.n_bytes
    )
    assert f"{K:,} classes" in repr(plan)


def test_variance_of_huge_sizes_is_no_overflow():
    variance = theory.estimate_variance([0.5, 0.5], MANY, MANY)
    np.testing.assert_allclose(variance, 0.25 / (MANY * (MANY - 1)), rtol=1e-12)


# Long lists -------------------------------------------------------------------------


def scores_of(n, R, B):
    rng = np.random.default_rng(0)
    scores = np.log(rng.random((n, R, B), np.float32) ** 2 + np.float32(1e-9))
    return np.round(scores, 1)  # many ties


def test_long_lists_take_memory_that_does_not_grow_with_the_classes():
    scores, k, peaks = scores_of(4, 2, 16), 1100, []
    for n_classes in (20_000, 160_000):
        table = np.random.default_rng(1).integers(0, 16, (n_classes, 2), np.uint8)
        decode_topk(scores[:1], table[:3000], k)  # compiles
        best, peak = peak_of(decode_topk, scores, table, k)
        peaks.append(peak)
        merged = scores[:, 0, table[:, 0]] + scores[:, 1, table[:, 1]]
        order = np.argsort(-merged, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(best[0], order)
        np.testing.assert_array_equal(
            best[1], np.take_along_axis(merged, order, axis=1)
        )
    # all scores would be 2.2 MB more
    assert peaks[1] < peaks[0] + 10**5 < 10**6


def test_longer_lists_take_fewer_rows_at_a_time(monkeypatch):
    scores, n_classes, k = scores_of(10, 3, 16), 12_000, 5_000
    table = np.random.default_rng(1).integers(0, 16, (n_classes, 3), np.uint8)
    whole = decode_topk(scores, table, k)
    monkeypatch.setattr(_decoding, "_LONG_BYTES", 1 << 18)  # 2 rows
    few, peak = peak_of(decode_topk, scores, table, k)
    for a, b in zip(few, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    assert peak < 12 * 10 * k + (1 << 20)  # the lists, and work on two rows


def test_long_lists_of_a_model_are_held_once(monkeypatch):
    """Beside the lists, 12 n k bytes, only chunks of rows."""
    n, n_classes, k = 120, 1_500, 1_200
    rng = np.random.default_rng(1)
    table = rng.integers(0, 16, (n_classes, 3), np.uint8)

    class Scorer:
        def on(self, device, table):
            return self

        def searches(self, k, merge):
            return False

        def bucket_scores(self, X, log, divisor):
            return X.reshape(-1, 3, 16)

    monkeypatch.setattr("sklearn_mach._model._CHUNK_BYTES", 20 * 16 * 3 * 16)
    model, X = Model(table, 16, Scorer(), 0.1), scores_of(n, 3, 16).reshape(n, -1)
    expected = decode_topk(X.reshape(n, 3, 16), table, k)
    for n_jobs in (1, 2):
        how = How("log_mean", "cpu", n_jobs)
        model.topk(X[:30], k, how)
        best, peak = peak_of(model.topk, X, k, how)
        assert peak < 1.8 * 12 * n * k  # with chunks of at most 20 rows
        for a, b in zip(best, expected, strict=True):
            np.testing.assert_array_equal(a, b)
