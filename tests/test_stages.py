"""The best classes stage by stage, against full sorts of the first repetitions."""

import numpy as np
import pytest
import reference
from learners import COMPILED
from numpy.testing import assert_array_equal
from test_decoding import KINDS, MERGES, draw

from sklearn_mach._decoding import decode_topk
from sklearn_mach._stages import decode_stages


def check_stages(scores, table, k, merge, offset=None):
    """Compare the stages with the reference of the first repetitions, bit for bit."""
    indices, values = decode_stages(scores, table, k, merge=merge, offset=offset)
    stages = reference.stage_scores(scores, table, merge, offset)
    for r, expected in enumerate(stages):
        expected_indices, expected_values = reference.topk(expected, k)
        assert_array_equal(indices[:, r], expected_indices)
        assert_array_equal(values[:, r], expected_values)
    last = decode_topk(scores, table, k, merge=merge, offset=offset)
    assert_array_equal(indices[:, -1], last[0])
    assert_array_equal(values[:, -1], last[1])


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5, 70, 100])
def test_stages_match_the_reference_of_the_first_repetitions(kind, merge, k):
    rng = np.random.default_rng([KINDS.index(kind), MERGES.index(merge), k])
    n, K, B = (70, 400, 11) if COMPILED else (3, 100, 5)
    R = int(rng.integers(1, 12 if COMPILED else 4))
    table = rng.integers(0, B, (K, R)).astype(np.uint8)
    scores = draw(kind, (n, R, B), rng)
    check_stages(scores, table, k, merge)
    if merge == "sum":
        scale = rng.choice([1e-3, 1, 30])
        offset = (rng.standard_normal(K) * scale).astype(np.float32)
        check_stages(scores, table, k, merge, offset)


@pytest.mark.parametrize("offset", [None, "ties", "zipf", "minus_infinity", "equal"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_stages_of_many_classes_match_the_reference(offset, k):
    rng = np.random.default_rng([k])
    n, K, R, B = (67, 1_503, 8, 32) if COMPILED else (2, 200, 3, 8)
    table = rng.integers(0, B, (K, R)).astype(np.uint8)
    scores = draw("log_proba", (n, R, B), rng) / np.float32(R)
    if offset is not None:
        kind, offset = offset, np.log(1 + rng.permutation(K)).astype(np.float32)
        if kind == "ties":  # scores and offsets of few values
            scores, offset = np.round(scores), np.round(offset)
        elif kind == "minus_infinity":
            offset[rng.random(K) < 0.3] = -np.inf
        elif kind == "equal":
            offset[:] = offset[0]
    check_stages(scores, table, k, "sum", offset)


def test_an_offset_of_minus_infinity_leaves_the_order_of_the_classes():
    table = np.arange(8, dtype=np.uint8)[:, None]
    scores = np.zeros((1, 1, 8), dtype=np.float32)
    offset = np.full(8, -np.inf, dtype=np.float32)
    check_stages(scores, table, 3, "sum", offset)


@pytest.mark.parametrize("merge", ["min", "median"])
def test_an_offset_counts_in_sums_only(merge):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 16, (700, 5)).astype(np.uint8)
    scores = draw("normal", (20, 5, 16), rng)
    offset = rng.standard_normal(700).astype(np.float32)
    indices = decode_stages(scores, table, 9, merge=merge, offset=offset)[0]
    best = reference.topk(reference.class_scores(scores, table, merge), 9)
    assert_array_equal(indices[:, -1], best[0])
