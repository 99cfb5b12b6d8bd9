"""Classes of the rows, against loops over lists of them."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach._targets import Targets

K = 9


def draw(seed=0, n=40):
    """Targets of rows of none to four classes, and the lists of these."""
    rng = np.random.default_rng(seed)
    lists = [sorted(rng.choice(K, rng.integers(0, 5), replace=False)) for _ in range(n)]
    Y = np.array([np.isin(np.arange(K), classes) for classes in lists])
    return Targets.of_indicator(sp.csr_array(Y)), lists


def lists_of(targets):
    starts, classes, _ = targets
    assert (starts.dtype, classes.dtype) == (np.int64, np.int32)
    assert (starts[0], starts[-1]) == (0, classes.size)
    parts = [classes[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    return [sorted(part.tolist()) for part in parts]


def test_an_indicator_gives_the_columns_of_its_ones():
    targets, lists = draw()
    assert lists_of(targets) == lists
    assert targets.several
    assert targets.n_rows == 40
    assert_array_equal(targets.rows(), [i for i in range(40) for _ in lists[i]])
    assert targets.mean_classes() == np.mean([len(classes) for classes in lists])
    assert Targets.of_indicator(sp.csr_array((0, K))).mean_classes() == 0


def test_one_class_a_row_is_a_list_of_length_one():
    targets = Targets.of(np.array([4, 0, 2], np.int32))
    assert lists_of(targets) == [[4], [0], [2]]
    assert not targets.several
    assert targets.mean_classes() == 1
    assert_array_equal(targets.rows(), [0, 1, 2])


ROWS = [
    np.array([3, 3, 0, 39]),
    np.arange(40, dtype=np.int32)[::-1],
    np.arange(0),
    slice(5, 17),
    slice(None),
]


@pytest.mark.parametrize("rows", ROWS, ids=range(len(ROWS)))
def test_rows_are_taken_in_their_order(rows):
    targets, lists = draw()
    some = targets.take(rows)
    chosen = np.arange(40)[rows]
    assert lists_of(some) == [lists[i] for i in chosen]
    assert some.several
    y = np.random.default_rng(0).integers(0, K, 40).astype(np.int32)
    some = Targets.of(y).take(rows)
    assert lists_of(some) == [[y[i]] for i in chosen]
    assert not some.several


def test_rows_without_any_class_are_taken():
    empty = Targets.of_indicator(sp.csr_array((5, K)))
    assert lists_of(empty.take(np.array([4, 1]))) == [[], []]
    assert lists_of(empty.within(np.ones(K, bool))) == [[]] * 5
    assert_array_equal(empty.sums(None, K), np.zeros(K))


@pytest.mark.parametrize("seed", range(5))
def test_classes_that_are_not_chosen_are_left_out(seed):
    targets, lists = draw(seed)
    chosen = np.random.default_rng(seed).random(K) < [0.5, 0, 1, 0.2, 0.8][seed]
    some = targets.within(chosen)
    assert lists_of(some) == [[k for k in classes if chosen[k]] for classes in lists]
    assert some.several


def test_classes_weigh_as_much_as_their_rows():
    targets, lists = draw()
    weight = np.random.default_rng(0).random(40)
    expected, counts = np.zeros(K + 2), np.zeros(K + 2)
    for i, classes in enumerate(lists):
        for k in classes:
            expected[k] += weight[i]
            counts[k] += 1
    assert_allclose(targets.sums(weight, K + 2), expected, rtol=1e-12)
    assert_array_equal(targets.sums(None, K + 2), counts)


def test_parts_are_stacked_behind_each_other():
    parts, lists = zip(
        *(draw(seed, n) for seed, n in enumerate((3, 1, 20))), strict=True
    )
    whole = Targets.stack(parts)
    assert lists_of(whole) == sum(lists, [])
    assert whole.several
    y = np.arange(7, dtype=np.int32)
    whole = Targets.stack([Targets.of(y[:2]), Targets.of(y[2:])])
    assert lists_of(whole) == [[k] for k in range(7)]
    assert not whole.several


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_buckets", [1, 2, 4])
def test_log_odds_count_the_rows_that_have_a_class_in_a_bucket(weighted, n_buckets):
    targets, lists = draw()
    rng = np.random.default_rng(1)
    table = rng.integers(0, n_buckets, (K, 3)).astype(np.uint8)
    table = np.asfortranarray(table)  # as a few columns of a table are
    weight = np.ones(40, np.float32)
    if weighted:
        weight = (rng.random(40) * (rng.random(40) < 0.7)).astype(np.float32)
    on = np.zeros((40, 3, n_buckets), bool)
    for i, classes in enumerate(lists):
        for k in classes:
            on[i, np.arange(3), table[k]] = True
    # Half a row of the mean weight of those that count is added to both sides.
    weight = weight.astype(np.float64)
    half = weight[weight > 0].mean() / 2
    with_class = np.einsum("i,irb->rb", weight, on) + half
    without = np.einsum("i,irb->rb", weight, ~on) + half
    found = targets.log_odds(table, n_buckets, weight)
    assert found.dtype == np.float32
    expected = np.log(with_class / without).ravel()
    assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_log_odds_are_finite_where_all_rows_or_none_have_a_bucket():
    targets = Targets.of_indicator(sp.csr_array([[1, 0], [1, 0], [1, 0]]))
    found = targets.log_odds(np.array([[0], [1]], np.uint8), 2, np.full(3, 7.0))
    assert_allclose(found, [np.log(3.5 / 0.5), np.log(0.5 / 3.5)], rtol=1e-6)
