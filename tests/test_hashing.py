"""Tables against Python integers, counting and the binomial distribution."""

import itertools
import weakref
from functools import partial

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from helpers import peak_of

from sklearn_mach import _hashing
from sklearn_mach._hashing import (
    carter_wegman,
    collision_chance,
    draw_table,
    find_twins,
    min_repetitions,
    sketch_bytes,
    sketch_classes,
)
from sklearn_mach._targets import Targets

PRIME = 2**61 - 1
FAMILIES = ["balanced", "clustered", "universal"]
SIZED = ["balanced", "clustered"]


def hashed(a, b, n_buckets, n_classes):
    out = np.empty(n_classes, np.int64)
    carter_wegman(np.uint64(a), np.uint64(b), np.uint64(n_buckets), out)
    return out


def draw(n_classes, n_buckets, seeds, hashing="balanced", start=None):
    """A table; "clustered" by random directions of the classes."""

    def sketch(seed):
        return np.random.default_rng(seed).standard_normal((n_classes, 6))

    return draw_table(n_classes, n_buckets, seeds, hashing, start, sketch)


def n_codes(table):
    return len({tuple(row) for row in table.tolist()})


@pytest.mark.parametrize(
    "a", [1, 2, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 2**60 + 12345, PRIME - 1]
)
@pytest.mark.parametrize("b", [0, 1, 2**31, 2**60 - 1, PRIME - 1])
def test_carter_wegman_equals_python_integers(a, b):
    for n_buckets in (2, 3, 64, 257, 2**31 - 1):
        expected = [reference.carter_wegman(a, b, k, n_buckets) for k in range(200)]
        assert hashed(a, b, n_buckets, 200).tolist() == expected


def test_carter_wegman_equals_python_integers_for_random_functions():
    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = (int(v) for v in rng.integers([1, 0], PRIME))
        n_buckets = int(rng.integers(2, 5000))
        expected = [reference.carter_wegman(a, b, k, n_buckets) for k in range(100)]
        assert hashed(a, b, n_buckets, 100).tolist() == expected


def test_no_period_below_the_number_of_classes():
    # With the prime 105,943 of other implementations every class would repeat the
    # bucket of the class that many places before it.
    rng = np.random.default_rng(0)
    period, n_pairs = 105_943, 2_000
    repeated = []
    for a, b in rng.integers([1, 0], PRIME, size=(3, 2)).tolist():
        buckets = hashed(a, b, 32, period + n_pairs)
        repeated.append(np.mean(buckets[period:] == buckets[:n_pairs]))
    # One in 32 on average over all functions; the pairs of one function are far from
    # independent, so that little more than "not all" can be said of three.
    assert np.mean(repeated) < 0.5


@pytest.mark.parametrize(
    ("n_classes", "n_buckets", "n_repetitions"),
    [(1, 2, 1), (10, 2, 4), (10, 3, 9), (64, 8, 4), (101, 7, 5), (1000, 33, 4)],
)
@pytest.mark.parametrize("hashing", SIZED)
def test_balanced_bucket_sizes_differ_by_at_most_one(
    n_classes, n_buckets, n_repetitions, hashing
):
    for seed in range(20):
        seeds = range(seed, seed + n_repetitions)
        table = draw(n_classes, n_buckets, seeds, hashing)
        assert table.shape == (n_classes, n_repetitions)
        for column in table.T:
            sizes = np.bincount(column, minlength=n_buckets)
            assert sizes.size == n_buckets
            assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("n_classes", "n_buckets", "n_repetitions"),
    [
        (2, 2, 1),
        (8, 2, 3),
        (7, 2, 3),
        (81, 3, 4),
        (80, 3, 4),
        (1000, 10, 3),
        (999, 10, 3),
        (512, 2, 9),
        (100, 11, 2),
        (121, 11, 2),
        (300, 7, 6),
    ],
)
@pytest.mark.parametrize("hashing", SIZED)
def test_balanced_tables_separate_all_classes_that_can_be_separated(
    n_classes, n_buckets, n_repetitions, hashing
):
    for seed in range(20):
        seeds = range(seed, seed + n_repetitions)
        table = draw(n_classes, n_buckets, seeds, hashing)
        assert n_codes(table) == n_classes


@pytest.mark.parametrize(
    ("n_classes", "n_buckets", "n_repetitions"), [(30, 4, 6), (100, 16, 5), (5, 3, 4)]
)
def test_universal_tables_separate_all_classes(n_classes, n_buckets, n_repetitions):
    for seed in range(20):
        seeds = range(seed, seed + n_repetitions)
        table = draw(n_classes, n_buckets, seeds, "universal")
        assert table.max() < n_buckets
        assert n_codes(table) == n_classes


def test_universal_tables_that_cannot_separate_are_refused():
    # 2**7 codes for 128 classes: a random table is a permutation with chance 128! /
    # 128**128, about 1e-54.
    with pytest.raises(
        ValueError,
        match="hashing=.universal. left .* of 128 classes .* more repetitions.*balance",
    ):
        draw(128, 2, range(7), "universal")


def test_universal_tables_are_made_of_carter_wegman_columns():
    # The first columns, which no redraw has chosen: a from 1 and b from 0 to p - 1.
    seeds = [3, 4, 5, 6]
    table = draw(300, 8, seeds, "universal")
    for column, seed in zip(table.T[:2], seeds, strict=False):
        rng = np.random.default_rng(seed)
        a, b = (int(v) for v in rng.integers([1, 0], PRIME))
        expected = [reference.carter_wegman(a, b, k, 8) for k in range(300)]
        assert column.tolist() == expected


@pytest.mark.parametrize("hashing", FAMILIES)
@pytest.mark.parametrize(("n_classes", "n_buckets"), [(40, 4), (6, 8), (100, 10)])
def test_first_columns_do_not_depend_on_the_number_of_repetitions(
    hashing, n_classes, n_buckets
):
    seeds = np.random.default_rng(0).integers(1 << 31, size=12)
    whole = draw(n_classes, n_buckets, seeds, hashing)
    for r in (6, 8, 11):
        first = draw(n_classes, n_buckets, seeds[:r], hashing)
        np.testing.assert_array_equal(first, whole[:, :r])
        longer = draw(n_classes, n_buckets, seeds, hashing, start=first)
        np.testing.assert_array_equal(longer, whole)


@pytest.mark.parametrize("hashing", FAMILIES)
def test_seeds_decide_the_table(hashing):
    table = draw(50, 5, range(8), hashing)
    np.testing.assert_array_equal(table, draw(50, 5, range(8), hashing))
    assert (table != draw(50, 5, range(1, 9), hashing)).any()
    for one, other in itertools.pairwise(table.T):
        assert (one != other).any()


@pytest.mark.parametrize("hashing", FAMILIES)
@pytest.mark.parametrize(("n_classes", "n_buckets"), [(1, 2), (2, 2), (5, 5), (5, 9)])
def test_every_repetition_is_injective_with_a_bucket_for_each_class(
    hashing, n_classes, n_buckets
):
    for seed in range(10):
        table = draw(n_classes, n_buckets, range(seed, seed + 3), hashing)
        for column in table.T:
            assert np.unique(column).size == n_classes
            assert column.max() < n_buckets


@pytest.mark.parametrize("hashing", FAMILIES)
@pytest.mark.parametrize(
    ("n_buckets", "dtype"),
    [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65_537, np.uint32)],
)
def test_codes_are_the_smallest_unsigned_type(n_buckets, dtype, hashing):
    assert draw(20, n_buckets, range(6), hashing).dtype == dtype


def test_balanced_collision_rate():
    n_classes, n_buckets, n_tables = 60, 5, 100
    expected = (n_classes - n_buckets) / (n_buckets * (n_classes - 1))
    classes = np.arange(n_classes)
    # Disjoint pairs of classes: neighbours, and those that B divides the distance of.
    pairings = classes.reshape(30, 2).T, classes.reshape(2, 30)
    together = np.zeros((2, 2))  # by pairing and column
    for seed in range(n_tables):
        table = draw(n_classes, n_buckets, range(3 * seed, 3 * seed + 3)).astype(int)
        for column in table.T[:2]:  # the second is drawn within buckets of the first
            n_pairs = (column[:, None] == column).sum() - n_classes
            # Over all pairs of classes the rate is the same number in every table.
            assert n_pairs == round(expected * n_classes * (n_classes - 1))
        for i, (one, other) in enumerate(pairings):
            together[i] += (table[one, :2] == table[other, :2]).sum(axis=0)
    # Thirty pairs of a table are all but independent (their covariances add 2 % to the
    # variance of the sum).  Four standard errors: 0.028, so that a rate of 0.186 that
    # is off by a sixth is found.
    rate = together / (30 * n_tables)
    error = np.sqrt(expected * (1 - expected) / (30 * n_tables))
    assert (np.abs(rate - expected) < 4 * error).all()


def test_universal_collision_rate_is_one_in_n_buckets():
    # As many columns of few tables as of many: a table takes longer than its columns.
    n_buckets, n_tables, n_repetitions = 4, 75, 60
    seeds = np.random.default_rng(0).integers(1 << 31, size=(n_tables, n_repetitions))
    tables = np.stack([draw(20, n_buckets, row, "universal") for row in seeds])
    # Four standard errors of a binomial count: 0.026, so that the rates of a bucket
    # more or less, 0.2 and 0.33, are found.  Collisions are rarer by a tenth in the one
    # column that is drawn again to separate the last classes: by 0.0004 on average.
    error = np.sqrt(1 / n_buckets * (1 - 1 / n_buckets) / (n_tables * n_repetitions))
    for one, other in [(0, 1), (0, 16), (5, 19)]:
        rate = np.mean(tables[:, one] == tables[:, other])
        assert abs(rate - 1 / n_buckets) < 4 * error


def test_clustered_columns_put_similar_classes_together():
    # Directions around the corners of a simplex, six classes around each.
    rng = np.random.default_rng(0)
    cluster = rng.permutation(48) % 8
    directions = np.eye(8)[cluster] + 0.1 * rng.standard_normal((48, 8))
    table = draw_table(48, 8, range(12), "clustered", None, lambda _: directions.copy())
    balanced = draw_table(48, 8, range(12))
    alike = (cluster[:, None] == cluster) & ~np.eye(48, dtype=bool)
    for r, column in enumerate(table.T):
        together = np.mean((column[:, None] == column)[alike])
        if r % 4 == 3:
            # Splits into halves may cut a cluster in two.
            assert together > 0.6
        else:
            assert together < 0.3  # by chance 5 / 47
        if r < 3:
            np.testing.assert_array_equal(column, balanced[:, r])
    assert n_codes(table) == 48


@pytest.mark.usefixtures("two_blas_threads")
def test_threads_change_no_bucket(monkeypatch):
    monkeypatch.setattr(_hashing, "_WORTH_THREADS", 0)

    def sketch(seed):
        return np.random.default_rng(seed).standard_normal((500, 6))

    tables = [
        draw_table(500, 8, range(20), "clustered", None, sketch, n_jobs=n_jobs)
        for n_jobs in (None, 3)
    ]
    np.testing.assert_array_equal(*tables)
    # Column by column, each added to those before: in no other order.
    table = None
    for r in range(3, 21):  # 8**3 codes are enough for 500 classes
        table = draw_table(500, 8, range(r), "clustered", table, sketch)
    np.testing.assert_array_equal(table, tables[0])


def test_no_column_is_clustered_that_is_not_asked_for():
    made = []

    def sketch(seed):
        made.append(seed)
        return np.random.default_rng(seed).standard_normal((500, 6))

    options = 500, 8, range(20), "clustered", None, sketch
    whole = draw_table(*options)
    made.clear()
    part = draw_table(*options, columns=[0, 6, 7, 8, 15])
    np.testing.assert_array_equal(part, whole[:, [0, 6, 7, 8, 15]])
    assert made == [7, 15]


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_one_sketch_is_held_at_a_time(monkeypatch, n_jobs):
    monkeypatch.setattr(_hashing, "_WORTH_THREADS", 0)
    made = []

    def sketch(seed):
        assert all(reference() is None for reference in made)
        rows = np.random.default_rng(seed).standard_normal((500, 6))
        made.append(weakref.ref(rows))
        return rows

    draw_table(500, 8, range(20), "clustered", None, sketch, n_jobs=n_jobs)
    assert len(made) == 5  # columns 3, 7, ..., 19


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_clustering_takes_no_more_memory_than_is_said(monkeypatch, n_jobs):
    monkeypatch.setattr(_hashing, "_WORTH_THREADS", 0)
    n_classes, rng = 20_000, np.random.default_rng(0)
    y = np.arange(n_classes, dtype=np.int32)
    X = sp.csr_matrix((rng.random(n_classes), (y, y % 50)), shape=(n_classes, 50))
    weight = np.ones(n_classes, np.float32)
    targets = Targets.of(y)
    given = n_classes, 64, range(8), "clustered", None
    sketch = partial(sketch_classes, X, targets, weight, n_classes)
    draw_table(*given, sketch)  # compiles
    peak = peak_of(draw_table, *given, sketch, n_jobs=n_jobs)[1]
    assert peak < sketch_bytes(n_classes)


def test_ten_million_classes_are_clustered_in_a_few_gigabytes():
    sizes = [sketch_bytes(n) for n in (1_000, 10**6, 10**7)]
    assert sizes == sorted(sizes)
    assert sizes[1] > 4 * 128 * 10**6  # with all 128 dimensions
    assert sizes[2] < 3e9


def test_clustered_columns_wait_until_all_classes_are_separated():
    equal = np.ones((32, 4))  # of no use to tell classes apart
    table = draw_table(32, 2, range(5), "clustered", None, lambda _: equal.copy())
    assert n_codes(table) == 32


def test_classes_that_look_the_same_or_are_absent_still_get_buckets():
    for sketch in (np.zeros((20, 4)), np.ones((20, 4))):

        def sketch_of(_, sketch=sketch):
            return sketch.copy()

        table = draw_table(20, 4, range(8), "clustered", None, sketch_of)
        for column in table.T:
            np.testing.assert_array_equal(np.bincount(column), 5)


def test_sketches_keep_the_angles_between_the_mean_rows_of_classes():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 30)) * (rng.random((60, 30)) < 0.3)
    X += np.eye(30)[np.arange(60) % 6]
    y = np.arange(60) % 6
    y[y == 4] = 3  # class 4 is absent
    weight = rng.uniform(0.5, 2, 60).astype(np.float32)
    means = np.array([weight[y == k] @ X[y == k] for k in range(6)])
    length = np.linalg.norm(means, axis=1, keepdims=True)
    cosines = means @ means.T / np.maximum(length * length.T, 1e-30)
    found = []
    targets = Targets.of(y)
    for seed in range(200):
        dense = sketch_classes(X, targets, weight, 6, seed)
        sparse = sketch_classes(sp.csr_matrix(X), targets, weight, 6, seed)
        # Sums of float32 in another order.
        np.testing.assert_allclose(sparse, dense, atol=1e-5)
        assert (dense[4] == 0).all()
        found.append(dense @ dense.T)
    present = np.arange(6) != 4
    np.testing.assert_allclose(np.diag(found[0])[present], 1, rtol=1e-5)
    # A cosine has a standard error of at most sqrt(2 / 128) in one sketch, and four
    # times that over sqrt(200) in their mean.
    np.testing.assert_allclose(np.mean(found, axis=0), cosines, rtol=0, atol=0.04)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_rows_of_several_classes_are_added_to_the_sketch_of_each(form):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5_000, 12)) * (rng.random((5_000, 12)) < 0.4)
    Y = rng.random((5_000, 9)) < 0.15
    Y[:, 4] = False  # a class of no row
    weight = rng.uniform(0.5, 2, 5_000).astype(np.float32)
    assert Y.sum(axis=1).min() == 0 and Y.sum(axis=1).max() > 3
    targets = Targets.of_indicator(sp.csr_array(Y))
    found = sketch_classes(form(X), targets, weight, 9, 7)
    row, classes = np.nonzero(Y)  # a row for each of its classes
    pairs = form(X[row]), Targets.of(classes.astype(np.int32)), weight[row]
    expected = sketch_classes(*pairs, 9, 7)
    # Sums of float32 in the same order; those of products by blocks of rows.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert not found[4].any()
    length = np.linalg.norm(np.delete(found, 4, axis=0), axis=1)
    np.testing.assert_allclose(length, 1, rtol=1e-5)


@pytest.mark.parametrize("exponent", [-900, -140, 1, 130, 1000])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_weights_times_a_power_of_two_change_no_sketch(form, exponent):
    rng = np.random.default_rng(0)
    X, y = form(rng.standard_normal((60, 30))), np.arange(60) % 6
    weight = rng.uniform(0.1, 5, 60)
    targets = Targets.of(y)
    expected = sketch_classes(X, targets, weight, 6, 0)
    found = sketch_classes(X, targets, weight * 2.0**exponent, 6, 0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("hashing", ["balanced", "universal", "array"])
def test_collision_chance_is_that_of_two_classes(hashing):
    table = draw_table(23, 4, range(6), "universal" if hashing == "array" else hashing)
    pairs = [np.mean(table[i] == table[j]) for i in range(23) for j in range(i)]
    expected = 1 / 4 if hashing == "universal" else np.mean(pairs)
    given = table if hashing == "array" else hashing
    assert collision_chance(table, 4, given) == pytest.approx(expected, rel=1e-12)
    assert collision_chance(np.arange(5)[:, None], 5, given) == 0
    assert collision_chance(np.zeros((1, 3), np.uint8), 1, given) == 0


@pytest.mark.parametrize("n_buckets", [2, 3, 10, 64])
def test_min_repetitions_is_the_smallest_with_enough_codes(n_buckets):
    for n_classes in (1, 2, 3, 9, 10, 11, 64, 65, 1000, 4096, 10**6, 2**40):
        r = min_repetitions(n_classes, n_buckets)
        assert n_buckets**r >= n_classes
        assert r == 1 or n_buckets ** (r - 1) < n_classes


def test_find_twins():
    table = np.array([[0, 1], [1, 0], [0, 0], [1, 0], [2, 2]], np.uint8)
    assert find_twins(table, 3) == (1, 3)
    assert find_twins(table[[0, 1, 2, 4]], 3) is None


@pytest.mark.parametrize("n_repetitions", [1, 3, 40])
def test_find_twins_names_two_equal_rows_among_many(n_repetitions):
    rng = np.random.default_rng(0)
    table = draw(200, 200, range(n_repetitions))
    assert find_twins(table, 200) is None
    one, other = sorted(rng.choice(200, 2, replace=False))
    table[one] = table[other]
    assert find_twins(table, 200) == (one, other)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # (a k + b) mod p worked out by hand: p = 2**61 - 1, so that 2**61 counts as 1.
        (2**60, 0, [0, 2**60, 1, 2**60 + 1, 2]),
        (PRIME - 1, 5, [5, 4, 3, 2, 1, 0, PRIME - 1]),
    ],
)
def test_products_beyond_64_bits_do_not_overflow(a, b, expected):
    n_buckets = 1000
    found = hashed(a, b, n_buckets, len(expected))
    assert found.tolist() == [v % n_buckets for v in expected]
