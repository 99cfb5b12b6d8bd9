"""Decoding against full sorts of the plain class scores."""

import tracemalloc

import numpy as np
import pytest
import reference
from learners import COMPILED, needs_compilation
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach import _decoding, _stages, _topk
from sklearn_mach._compat import njit
from sklearn_mach._decoding import (
    DECODERS,
    Decoder,
    Merge,
    decode_scores,
    decode_topk,
    prepare,
    rank_of,
    sum_over_classes,
)
from sklearn_mach._stages import decode_stages

MERGES = ["sum", "min", "median"]


def check(scores, table, k, merge="sum", offset=None):
    """Compare the three functions with the reference, bit for bit."""
    expected = reference.class_scores(scores, table, merge, offset)
    everything = decode_scores(scores, table, merge=merge, offset=offset)
    assert everything.dtype == np.float32
    assert_array_equal(everything, expected)

    expected_indices, expected_values = reference.topk(expected, k)
    options = {"merge": merge, "offset": offset}
    for prepared in (None, prepare(table, scores.shape[2], offset)):
        indices, values = decode_topk(scores, table, k, prepared=prepared, **options)
        assert indices.dtype == np.int64 and values.dtype == np.float32
        assert_array_equal(indices, expected_indices)
        assert_array_equal(values, expected_values)

    n, K = expected.shape
    y = (np.arange(n) * 7919 + indices[:, -1]) % K
    ranks = rank_of(scores, table, y, merge=merge, offset=offset)
    assert ranks.dtype == np.int64
    assert_array_equal(ranks, reference.rank(expected, y))


def draw(kind, shape, rng):
    """Bucket scores of several kinds; B is the last axis."""
    if kind == "normal":
        scores = rng.standard_normal(shape)
    elif kind == "log_proba":
        logits = rng.standard_normal(shape) * rng.uniform(0.5, 6)
        scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    elif kind == "proba":
        logits = rng.standard_normal(shape) * rng.uniform(2, 20)
        logits -= logits.max(axis=-1, keepdims=True)
        scores = np.exp(logits)
        scores /= scores.sum(axis=-1, keepdims=True)
    elif kind == "few_values":
        scores = rng.integers(0, 3, shape)
    elif kind == "equal":
        scores = np.full(shape, rng.standard_normal())
    elif kind == "minus_infinity":
        scores = rng.standard_normal(shape)
        scores[rng.random(shape) < rng.choice([0.01, 0.5])] = -np.inf
    else:
        scores = 10.0 ** rng.integers(-30, 30, shape) * rng.standard_normal(shape)
    return scores.astype(np.float32)


KINDS = [
    "normal",
    "log_proba",
    "proba",
    "few_values",
    "equal",
    "minus_infinity",
    "all_magnitudes",
]


def log_uniform(lowest, highest, rng):
    """An integer of any magnitude between two bounds, which it may reach."""
    return int(np.exp(rng.uniform(np.log(lowest), np.log(highest + 1))))


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8 if COMPILED else 1))
def test_random_tables_match_the_reference(kind, merge, seed):
    rng = np.random.default_rng([KINDS.index(kind), MERGES.index(merge), seed])
    K = log_uniform(1, 30_011 if COMPILED else 150, rng)
    R = log_uniform(1, 64 if COMPILED else 8, rng)
    B = log_uniform(2, 4096 if COMPILED else 40, rng)
    n = int(rng.choice([rng.integers(1, 12), rng.integers(1, 140)]))
    n = max(min(n, 4_000_000 // (R * (K + B))), 1) if COMPILED else min(n, 4)
    k = min(log_uniform(1, 100, rng), K)
    table = rng.integers(0, B, (K, R)).astype(np.uint8 if B <= 256 else np.uint16)
    scores = draw(kind, (n, R, B), rng)
    check(scores, table, k, merge)
    if merge == "sum":
        offset = rng.standard_normal(K).astype(np.float32) * 10
        check(scores, table, k, merge, offset)


@pytest.mark.parametrize(
    "K, R, B, n, k",
    [
        (9_001, 25, 32, 65, 10),
        (100_003, 3, 4096, 3, 100),
        (7_001, 64, 2, 3, 100),
        (7_001, 40, 1500, 3, 7),
        (7_001, 64, 4096, 2, 100),
        (5_000, 1, 2, 70, 100),
    ],
)
@pytest.mark.parametrize("merge", MERGES)
def test_many_classes_match_the_reference(K, R, B, n, k, merge):
    if not COMPILED:
        K, n = K // 500, 2
    rng = np.random.default_rng([K, R])
    table = rng.integers(0, B, (K, R)).astype(np.uint8 if B <= 256 else np.uint16)
    check(draw("log_proba", (n, R, B), rng), table, min(k, K), merge)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("K", [1, 2, 130])
def test_every_class_is_returned_in_order(K, merge):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 4, (K, 3)).astype(np.uint8)
    check(draw("few_values", (3, 3, 4), rng), table, K, merge)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("kind", ["normal", "few_values", "minus_infinity", "equal"])
@pytest.mark.parametrize("k", [350, 1001, 5003])
def test_long_lists_match_the_reference(kind, merge, k):
    rng = np.random.default_rng([KINDS.index(kind), MERGES.index(merge), k])
    n, K, k = (35, 5003, k) if COMPILED else (2, 150, k // 34)
    table = rng.integers(0, 20, (K, 3)).astype(np.uint8)
    scores = draw(kind, (n, 3, 20), rng)
    check(scores, table, k, merge)
    if merge == "sum":
        check(scores, table, k, merge, rng.integers(-2, 3, K).astype(np.float32))


def test_the_best_classes_may_come_first_or_last():
    K, k = 9_000, 1_500  # several times more than are gathered at once
    table = np.arange(K, dtype=np.uint16)[:, None]
    rising = np.arange(K, dtype=np.float32)
    check(np.stack([rising, -rising, rising // 100])[:, None], table, k)


@pytest.mark.parametrize("n_bytes", [1, 1 << 16])
def test_blocks_of_rows_change_nothing_in_long_lists(monkeypatch, n_bytes):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 16, (3_000, 3)).astype(np.uint8)
    scores = draw("few_values", (5, 3, 16), rng)
    monkeypatch.setattr(_decoding, "_LONG_BYTES", n_bytes)
    check(scores, table, 1_100)


@needs_compilation
def test_memory_of_long_lists_does_not_hold_all_scores():
    rng = np.random.default_rng(0)
    n, K, k = 64, 40_000, 2_001
    table = rng.integers(0, 32, (K, 3)).astype(np.uint8)
    scores = draw("normal", (n, 3, 32), rng)
    decode_topk(scores[:1], table, k)  # compiles
    tracemalloc.start()
    decode_topk(scores, table, k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    lists, tile = 12 * n * k, 4 * 32 * 1024
    gathered = 8 * 32 * (2 * k + 1024)
    assert peak < 2 * (lists + gathered + tile) < 4 * n * K


def test_offset_alone_orders_the_classes():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 5, (500, 4)).astype(np.uint8)
    offset = rng.permutation(500).astype(np.float32)
    check(np.zeros((2, 4, 5), dtype=np.float32), table, 20, "sum", offset)
    offset[::3] = -np.inf
    check(draw("normal", (2, 4, 5), rng), table, 400, "sum", offset)


def test_an_offset_of_minus_infinity_leaves_the_order_of_the_classes():
    table = np.arange(8, dtype=np.uint8)[:, None]
    scores = np.zeros((1, 1, 8), dtype=np.float32)
    offset = np.full(8, -np.inf, dtype=np.float32)
    check(scores, table, 3, "sum", offset)


@pytest.mark.parametrize("merge", ["min", "median"])
def test_an_offset_counts_in_sums_only(merge):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 16, (700, 5)).astype(np.uint8)
    scores = draw("normal", (20, 5, 16), rng)
    offset = rng.standard_normal(700).astype(np.float32)
    prepared = prepare(table, 16, offset)
    plain = reference.class_scores(scores, table, merge)
    best = reference.topk(plain, 9)
    for rows in (slice(0, 3), slice(None)):
        for given in (None, prepared):
            options = {"merge": merge, "offset": offset, "prepared": given}
            indices, values = decode_topk(scores[rows], table, 9, **options)
            assert_array_equal(indices, best[0][rows])
            assert_array_equal(values, best[1][rows])
    options = {"merge": merge, "offset": offset}
    assert_array_equal(decode_scores(scores, table, **options), plain)
    y = np.arange(20)
    ranks = rank_of(scores, table, y, **options)
    assert_array_equal(ranks, reference.rank(plain, y))


@pytest.mark.parametrize("n", [1, 40])
def test_a_table_prepared_with_an_offset_serves_calls_without(n):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 16, (700, 5)).astype(np.uint8)
    scores = draw("normal", (n, 5, 16), rng)
    offset = rng.standard_normal(700).astype(np.float32) * 3
    for given, prepared in [(None, offset), (offset, None)]:
        prepared = prepare(table, 16, prepared)
        found = decode_topk(scores, table, 9, offset=given, prepared=prepared)
        expected = reference.class_scores(scores, table, "sum", given)
        expected = reference.topk(expected, 9)
        assert_array_equal(found[0], expected[0])
        assert_array_equal(found[1], expected[1])


def test_equal_classes_come_by_index():
    rng = np.random.default_rng(0)
    table = np.tile(rng.integers(0, 8, (40, 6)), (12, 1)).astype(np.uint8)
    check(draw("normal", (70, 6, 8), rng), table, 30)


@pytest.mark.parametrize("merge", MERGES)
def test_a_row_alone_has_the_scores_it_has_in_a_batch(merge):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 16, (700, 9)).astype(np.uint8)
    scores = draw("log_proba", (67 if COMPILED else 5, 9, 16), rng)
    scores *= np.float32(10.0) ** rng.integers(-3, 4, (len(scores), 1, 1))
    scores = scores.astype(np.float32)
    together = decode_topk(scores, table, 5, merge=merge)
    everything = decode_scores(scores, table, merge=merge)
    for i in range(len(scores)):
        alone = decode_topk(scores[i : i + 1], table, 5, merge=merge)
        assert_array_equal(alone[0][0], together[0][i])
        assert_array_equal(alone[1][0], together[1][i])
        row = decode_scores(scores[i : i + 1], table, merge=merge)
        assert_array_equal(row[0], everything[i])


def test_code_width_and_read_only_inputs_change_nothing():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 16, (700, 9)).astype(np.uint8)
    scores = draw("normal", (3, 9, 16), rng)
    expected = decode_topk(scores, table, 5)
    # Each type is compiled anew, in seconds; other tests need that of uint16, too.
    for dtype, writeable in ((np.uint16, True), (np.uint32, False)):
        codes = table.astype(dtype)
        codes.flags.writeable = writeable
        indices, values = decode_topk(scores, codes, 5)
        assert_array_equal(indices, expected[0])
        assert_array_equal(values, expected[1])


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_a_table_that_cannot_be_written_compiles_nothing_anew():
    rng = np.random.default_rng(0)
    kernels = [_topk._topk_each, _topk._topk_block, _topk._topk_rows]
    kernels += [merge.tile for merge in _decoding.MERGES.values()]
    kernels += [_decoding._count_before, _decoding._gather, _stages._stages_block]
    scores = draw("normal", (20, 3, 16), rng)
    table = rng.integers(0, 16, (300, 3)).astype(np.uint8)
    offset = rng.standard_normal(300).astype(np.float32)
    counts = []
    for writeable in (True, False):
        table.flags.writeable = offset.flags.writeable = writeable
        prepared = prepare(table, 16)
        for given in (None, offset):
            for merge in MERGES:
                options = {"merge": merge, "offset": given}
                for n in (1, 20):
                    decode_topk(scores[:n], table, 5, prepared=prepared, **options)
                decode_topk(scores, table, 200, **options)
                rank_of(scores, table, np.zeros(20, int), **options)
                decode_stages(scores, table, 5, **options)
        counts.append([len(kernel.signatures) for kernel in kernels])
    assert counts[0] == counts[1]


def test_no_rows():
    table = np.zeros((10, 2), dtype=np.uint8)
    scores = np.zeros((0, 2, 3), dtype=np.float32)
    indices, values = decode_topk(scores, table, 4)
    assert indices.shape == values.shape == (0, 4)
    assert decode_scores(scores, table).shape == (0, 10)
    assert rank_of(scores, table, np.zeros(0, dtype=int)).shape == (0,)


def test_decoders_are_merges_of_logarithms_or_probabilities():
    assert {d: (v.merge, v.is_log, v.divisor(8)) for d, v in DECODERS.items()} == {
        "log_mean": ("sum", True, 8),
        "mean": ("sum", False, 8),
        "min": ("min", False, 1),
        "median": ("median", False, 1),
    }


@njit(fastmath=False)
def max_tile(lanes, table, offset, first, last, work, tile):
    """Maxima, as a newcomer would write its kernel."""
    for k in range(first, last):
        for i in range(tile.shape[1]):
            total = lanes[0, table[k, 0], i]
            for r in range(1, table.shape[1]):
                total = max(total, lanes[r, table[k, r], i])
            tile[k - first, i] = total


@pytest.mark.parametrize("kind", ["normal", "few_values", "minus_infinity"])
@pytest.mark.parametrize("n, k", [(1, 1), (1, 5), (70, 5), (35, 300)])
def test_a_new_decoder_is_a_kernel_and_two_lines(monkeypatch, kind, n, k):
    monkeypatch.setitem(_decoding.MERGES, "max", Merge(max_tile))
    max_of = Decoder("max", is_log=False, proportions=DECODERS["min"].proportions)
    monkeypatch.setitem(DECODERS, "max", max_of)
    assert DECODERS["max"].divisor(8) == 1
    rng = np.random.default_rng([KINDS.index(kind), n, k])
    (K, R, B), n = ((2_500, 5, 16), n) if COMPILED else ((310, 3, 8), min(n, 2))
    table = rng.integers(0, B, (K, R)).astype(np.uint8)
    scores = draw(kind, (n, R, B), rng)
    offset = rng.standard_normal(K).astype(np.float32)  # which no maximum has
    terms = np.stack([scores[:, r, table[:, r]] for r in range(R)])  # (R, n, K)
    stages = np.maximum.accumulate(terms)
    expected, (indices, values) = stages[-1], reference.topk(stages[-1], k)
    y = (np.arange(n) * 7919) % K
    for given in (None, offset):
        options = {"merge": DECODERS["max"].merge, "offset": given}
        assert_array_equal(decode_scores(scores, table, **options), expected)
        ranks = rank_of(scores, table, y, **options)
        assert_array_equal(ranks, reference.rank(expected, y))
        found = decode_topk(scores, table, k, prepared=prepare(table, B), **options)
        assert_array_equal(found[0], indices)
        assert_array_equal(found[1], values)
        found = decode_stages(scores, table, k, **options)
        for r, stage in enumerate(stages):
            best = reference.topk(stage, k)
            assert_array_equal(found[0][:, r], best[0])
            assert_array_equal(found[1][:, r], best[1])


def test_lanes_without_a_row_stay_out_of_medians_of_many_repetitions():
    rng = np.random.default_rng(0)  # their limit of 8 bits is 255 and rules nothing out
    table = rng.integers(0, 4, (70, 520)).astype(np.uint8)
    scores = draw("normal", (14, 520, 4), rng)
    R = 520 if COMPILED else 20
    check(scores[:, :R], table[:, :R], 3, "median")


@pytest.mark.parametrize("merge", MERGES)
def test_sums_over_classes_are_those_of_all_scores_whatever_the_batch(merge):
    (K, R, B), n = ((2_500, 5, 16), 70) if COMPILED else ((1_100, 3, 8), 3)
    rng = np.random.default_rng(0)
    table = rng.integers(0, B, (K, R)).astype(np.uint8)
    scores = draw("normal", (n, R, B), rng)
    shift = rng.standard_normal((n, 1))

    def function(shift):
        return lambda part, rows: np.exp(np.subtract(part, shift[rows], out=part))

    found = sum_over_classes(function(shift), scores, table, merge=merge)
    everything = reference.class_scores(scores, table, merge).astype(np.float64)
    assert_allclose(found, np.exp(everything - shift).sum(axis=1), rtol=1e-12)
    for rows in (slice(0, 1), slice(1, 3), slice(2, 40)):
        part = sum_over_classes(function(shift[rows]), scores[rows], table, merge=merge)
        assert_array_equal(part, found[rows])
