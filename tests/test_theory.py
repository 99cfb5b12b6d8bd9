"""The planning functions against simulation and integer arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from sklearn_mach import MACHClassifier, _hashing
from sklearn_mach._memory import format_bytes
from sklearn_mach.theory import (
    choose_sizes,
    estimate_variance,
    expected_collisions,
    indistinguishable_probability,
    largest_sizes,
    mach_min_repetitions,
    model_bytes,
    model_cost,
    plan,
)


@pytest.mark.parametrize(
    ("n_classes", "n_buckets", "delta"), [(30, 4, 0.3), (100, 8, 0.1), (12, 2, 0.2)]
)
def test_bound_holds_in_simulation(n_classes, n_buckets, delta):
    n_repetitions = mach_min_repetitions(n_classes, n_buckets, delta)
    rng = np.random.default_rng(0)
    n_tables, failures, failures_of_half = 1000, 0, 0
    for _ in range(n_tables):
        table = rng.integers(n_buckets, size=(n_classes, n_repetitions))
        half = table[:, : n_repetitions // 2]
        failures += np.unique(table, axis=0).shape[0] < n_classes
        failures_of_half += np.unique(half, axis=0).shape[0] < n_classes
    # Four standard errors of a binomial count.
    error = np.sqrt(delta * (1 - delta) / n_tables)
    assert failures / n_tables < delta + 4 * error
    assert failures_of_half / n_tables > delta  # fewer would not do


@pytest.mark.parametrize("n_buckets", [2, 3, 32, 1000])
@pytest.mark.parametrize(
    "delta", [Fraction(1, 3), Fraction(1, 1000), Fraction(1, 10**9)]
)
def test_bound_is_the_smallest_that_satisfies_the_inequality(n_buckets, delta):
    # R >= 2 log(K / sqrt(delta)) / log(B) is B**R >= K**2 / delta.
    for n_classes in (1, 2, 7, 105_033, 10**6, 10**8):
        r = mach_min_repetitions(n_classes, n_buckets, float(delta))
        assert isinstance(r, int)
        assert n_buckets**r >= n_classes**2 / delta
        assert r == 1 or n_buckets ** (r - 1) < n_classes**2 / delta


def test_bound_of_arrays():
    n_classes = np.array([[10], [1000], [10**6]])
    n_buckets = [4, 32, 512]
    found = mach_min_repetitions(n_classes, n_buckets, 0.01)
    assert found.shape == (3, 3)
    assert found.dtype.kind == "i"
    for i, j in np.ndindex(3, 3):
        alone = mach_min_repetitions(int(n_classes[i, 0]), n_buckets[j], 0.01)
        assert found[i, j] == alone
    by_delta = mach_min_repetitions(1000, 32, [0.5, 1e-3, 1e-6])
    assert (np.diff(by_delta) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "n_classes must be at least 1, got 0"),
        (([5, -1], 4), r"n_classes must be at least 1, got \[ 5 -1\]"),
        ((10, 1), "n_buckets must be at least 2, got 1"),
        ((10, [4, 0]), r"n_buckets must be at least 2, got \[4 0\]"),
        ((10, 4, 0), "delta must lie between 0 and 1, both excluded; got 0"),
        ((10, 4, 1), "delta must lie between 0 and 1"),
        ((10, 4, -0.1), "delta must lie between 0 and 1"),
        ((10, 4, np.nan), "delta must lie between 0 and 1"),
        ((np.nan, 4), "n_classes must be"),
        ((10, np.nan), "n_buckets must be"),
        ((10.5, 4), "n_classes must be a whole number or an array; got 10.5"),
        ((10, "auto"), "n_buckets must be a whole number or an array; got auto"),
        ((None, 4), "n_classes must be a whole number or an array; got None"),
        ((np.inf, 4), r"n_classes must be at most 2\*\*63 - 1, got inf"),
        ((1e300, 4), r"n_classes must be at most 2\*\*63 - 1, got 1e\+300"),
        ((2**63, 4), r"n_classes must be at most 2\*\*63 - 1, got 9223372036854775808"),
        ((2.0**63, 4), r"n_classes must be at most 2\*\*63 - 1"),
        (([5, 10**30], 4), r"n_classes must be at most 2\*\*63 - 1, got \[5 10{30}\]"),
        ((10, np.inf), r"n_buckets must be at most 2\*\*63 - 1, got inf"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mach_min_repetitions(*arguments)


def test_the_bound_of_the_largest_number_of_classes():
    assert mach_min_repetitions(2**63 - 1, 2, 0.25) == 128  # 2 (63 + 1)


def test_model_bytes_are_those_of_the_arrays():
    arrays = np.empty((17, 5 * 8), np.float32), np.empty(5 * 8, np.float32)
    n_bytes = sum(array.nbytes for array in arrays)
    assert model_bytes(17, 5, 8) == n_bytes
    found = model_bytes(17.0, [[5], [10]], np.uint8([8, 16]))
    np.testing.assert_array_equal(found, n_bytes * np.array([[1, 2], [2, 4]]))
    # more than 64 bits hold
    assert model_bytes(10**12, 10**6, 10**6) == 4 * (10**12 + 1) * 10**12


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-5, 2, 3), "n_features must be at least 1, got -5"),
        ((5, 0, 3), "n_repetitions must be at least 1, got 0"),
        ((5, 2, [3, -1]), "n_buckets must be at least 1"),
        ((None, 2, 3), "n_features must be a whole number or an array; got None"),
        ((np.inf, 2, 3), "n_features must be at most"),
        (([10**12], 10**6, 10**6), r"take up to 4e\+24 bytes, more than 2\*\*63 - 1"),
        ((10**12, [[1], [10**6]], [1, 10**6]), r"take up to 4e\+24 bytes"),
    ],
)
def test_bad_sizes_of_model_bytes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        model_bytes(*sizes)


@pytest.mark.parametrize(
    "n_classes", [1, 2, 3, 64, 256, 257, 1000, 21_841, 10**6, 10**8]
)
def test_automatic_sizes_tell_all_classes_apart(n_classes):
    given = [("auto", "auto"), (1, "auto"), (7, "auto"), ("auto", 2), ("auto", 100)]
    for sizes in given:
        n_repetitions, n_buckets = choose_sizes(n_classes, *sizes)
        assert n_buckets**n_repetitions >= n_classes
        assert n_buckets <= n_classes
        for found, asked in zip((n_repetitions, n_buckets), sizes, strict=True):
            if asked != "auto":  # but never more buckets than classes
                assert found == asked or found == n_buckets == n_classes
        if n_buckets < n_classes and sizes[0] == "auto":
            assert n_repetitions >= mach_min_repetitions(n_classes, n_buckets)


@pytest.mark.parametrize("n_classes", [257, 1000, 10**5])
def test_sizes_keep_to_the_columns_there_are(n_classes):
    for max_columns in (40, 100, 500, 1000, 5000):
        n_repetitions, n_buckets = choose_sizes(n_classes, max_columns=max_columns)
        assert n_repetitions * n_buckets <= max_columns
        assert n_buckets**n_repetitions >= n_classes
        n_repetitions, n_buckets = largest_sizes(n_classes, 64, max_columns)
        assert n_repetitions * n_buckets <= max_columns
        assert n_buckets**n_repetitions >= n_classes
        assert (n_repetitions + 1) * n_buckets > max_columns


@pytest.mark.parametrize("n_classes", [20, 100, 1000])
def test_sizes_are_found_wherever_some_fit(n_classes):
    for max_columns in range(2, 40):
        fit = any(
            n_buckets ** (max_columns // n_buckets) >= n_classes
            for n_buckets in range(2, max_columns + 1)
        )
        assert (largest_sizes(n_classes, 64, max_columns) is not None) == fit


# Formulas against simulation ----------------------------------------------------------


def universal_tables(n_tables, n_classes, n_buckets, n_repetitions, rng):
    """Carter-Wegman tables with p = 10,007, int64 of shape (n_tables, K, R)."""
    shape = n_tables, 1, n_repetitions
    a, b = rng.integers(1, 10_007, shape), rng.integers(0, 10_007, shape)
    return (a * np.arange(n_classes)[:, None] + b) % 10_007 % n_buckets


def n_pairs_alike(table):
    """Pairs of classes with the same bucket in every column."""
    counts = np.unique(table, axis=0, return_counts=True)[1]
    return (counts * (counts - 1) // 2).sum()


@pytest.mark.parametrize("sizes", [(30, 4, 1), (50, 7, 2), (40, 3, 5)])
def test_collisions_in_simulation(sizes):
    n_classes, n_buckets, n_repetitions = sizes
    rng = np.random.default_rng(0)
    expected = expected_collisions(*sizes)
    shape = 1500, n_classes, n_repetitions
    random = rng.integers(n_buckets, size=shape)
    universal = universal_tables(*shape[:2], n_buckets, n_repetitions, rng)
    for tables, lower in (random, True), (universal, False):
        found = [n_pairs_alike(table) for table in tables]
        error = np.std(found) / np.sqrt(len(found))
        assert np.mean(found) < expected + 4 * error
        if lower:  # universal tables may do better than that
            assert np.mean(found) > expected - 4 * error


@pytest.mark.parametrize("sizes", [(20, 4, 5), (50, 7, 4), (100, 2, 16)])
def test_probability_that_some_pair_is_alike_in_simulation(sizes):
    n_classes, n_buckets, n_repetitions = sizes
    rng, n_tables = np.random.default_rng(0), 2000
    tables = rng.integers(n_buckets, size=(n_tables, n_classes, n_repetitions))
    failures = np.mean([n_pairs_alike(table) > 0 for table in tables])
    bound = indistinguishable_probability(*sizes)
    error = np.sqrt(bound * (1 - bound) / n_tables)
    # Bonferroni: the sum over pairs, less at most the sum over pairs of pairs, which
    # are independent of each other.
    assert bound - bound**2 / 2 - 4 * error < failures < bound + 4 * error


def test_probability_keeps_to_delta_with_the_repetitions_that_the_bound_asks_for():
    n_classes = np.array([[2], [100], [105_033], [10**8]])
    n_buckets, delta = np.array([2, 3, 32, 1000]), 0.05
    n_repetitions = mach_min_repetitions(n_classes, n_buckets, delta)
    found = indistinguishable_probability(n_classes, n_buckets, n_repetitions)
    assert found.shape == (4, 4)
    assert (found <= delta).all()
    assert indistinguishable_probability(10**6, 2, 1) == 1.0
    assert indistinguishable_probability(1, 2, 1) == 0.0
    assert expected_collisions(10, 1, 7) == 45.0  # one bucket holds all pairs


def estimates(proba, table, n_buckets, chance):
    """The unbiased estimates (K,) from exact bucket probabilities."""
    total = np.zeros(proba.size)
    for column in table.T:
        total += np.bincount(column, proba, n_buckets)[column]
    return (total / table.shape[1] - chance) / (1 - chance)


@pytest.mark.parametrize("sizes", [(4, 3), (16, 2)])
@pytest.mark.parametrize("concentration", [0.1, 1.0])  # of peaked and flat posteriors
def test_estimate_and_its_variance_in_simulation(sizes, concentration):
    n_buckets, n_repetitions = sizes
    n_classes, n_tables, prime = 40, 4000, 2**31 - 1
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.full(n_classes, concentration))
    # A random quadratic modulo p is 3-wise independent, and no more; that p is not a
    # multiple of B changes probabilities by 1e-8.
    a, b, c = rng.integers(prime, size=(3, n_tables, 1, n_repetitions))
    k = np.arange(n_classes)[:, None]
    tables = (a * k**2 + b * k + c) % prime % n_buckets
    chance = 1 / n_buckets
    found = np.array([estimates(proba, table, n_buckets, chance) for table in tables])
    deviations = (found - proba) ** 2
    # Five standard errors, for there are 40 classes.
    error = found.std(axis=0) / np.sqrt(n_tables)
    assert (np.abs(found.mean(axis=0) - proba) < 5 * error).all()
    error = deviations.std(axis=0) / np.sqrt(n_tables)
    variance = estimate_variance(proba, n_buckets, n_repetitions)
    assert (np.abs(deviations.mean(axis=0) - variance) < 5 * error).all()


def test_variance_of_arrays():
    proba = np.random.default_rng(0).dirichlet(np.ones(5), size=3)
    n_buckets, n_repetitions = np.array([[2], [16]]), [1, 5, 25]
    found = estimate_variance(proba, n_buckets, n_repetitions)
    assert found.shape == (2, 3, 3, 5)
    for i, j, row in np.ndindex(2, 3, 3):
        alone = estimate_variance(proba[row], n_buckets[i, 0], n_repetitions[j])
        np.testing.assert_allclose(found[i, j, row], alone, rtol=1e-14)
    # Nothing is left to err about where one class has all the probability.
    np.testing.assert_array_equal(estimate_variance([0, 1], 4, 2), [1 / 6, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, -0.5, 1], 4, 2), "proba must be an array of numbers that are not neg"),
        ((1.0, 4, 2), "proba must be an array"),
        (([0.5, np.nan], 4, 2), "proba must be"),
        (([[0.5, 0.5], [0.5, 0.6]], 4, 2), "must sum to one; one sums to 1.1"),
        (([0.5, 0.5], 1, 2), "n_buckets must be at least 2"),
        (([0.5, 0.5], 4, 0), "n_repetitions must be at least 1"),
    ],
)
def test_bad_arguments_of_the_variance_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate_variance(*arguments)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="n_repetitions must be at least 1, got 0"):
        expected_collisions(10, 4, 0)
    with pytest.raises(ValueError, match="n_buckets must be at least 1, got 0"):
        indistinguishable_probability(10, 0, 1)
    for n_nonzeros in (6, -1, np.nan, "x"):
        with pytest.raises(
            ValueError, match=f"from 0 to n_features=5, got {n_nonzeros!r}"
        ):
            model_cost(10, 5, 1, 1, n_nonzeros=n_nonzeros)


# Costs and plans ---------------------------------------------------------------------


def test_multiply_adds_are_those_of_the_loops():
    n_classes, n_features, n_repetitions, n_buckets = 7, 5, 3, 2
    X = sp.random(20, n_features, density=0.4, random_state=0, format="csr")
    cost = model_cost(
        n_classes, n_features, n_repetitions, n_buckets, n_nonzeros=X.nnz / 20
    )
    for found, n_outputs in (
        (cost.mach, n_repetitions * n_buckets),
        (cost.one_vs_rest, n_classes),
    ):
        scores = gradient = 0
        for i in range(20):
            for _ in [*X[[i]].indices, "intercept"]:
                for _ in range(n_outputs):
                    scores += 1  # z[q] += x[j] * W[j, q]
                    gradient += 1  # W[j, q] -= step * g[q] * x[j]
        assert found.prediction * 20 == pytest.approx(scores)
        assert found.training * 20 == pytest.approx(scores + gradient)
    assert cost.mach.decoding == sum(1 for _ in np.ndindex(n_classes, n_repetitions))
    assert cost.one_vs_rest.decoding == 0


@pytest.mark.parametrize("n_buckets", [2, 256, 257])
def test_bytes_are_those_of_a_fitted_model(blobs, n_buckets):
    X, y = blobs(n_samples=300, n_classes=300)
    model = MACHClassifier(
        n_repetitions=9, n_buckets=n_buckets, max_iter=1, random_state=0
    ).fit(X, y)
    cost = model_cost(300, X.shape[1], 9, n_buckets)
    assert cost.mach.n_bytes == model.model_bytes_
    coef = np.empty((300, X.shape[1] + 1), np.float32)  # one-vs-rest
    assert cost.one_vs_rest.n_bytes == coef.nbytes


def test_costs_are_exact_up_to_64_bits_and_refused_beyond():
    K, d, R, B = 10**9, 10**9, 1000, 10**6
    cost = model_cost(K, d, R, B)
    assert cost.mach.n_bytes == 4 * (d + 1) * R * B + 4 * K * R < 2**63
    assert cost.one_vs_rest.n_bytes == 4 * (d + 1) * K
    for sizes in (
        (10**12, 10**12, 10**6, 10**6),
        (10**10, 10**10, 1, 2),  # one-vs-rest
        (2, 2, 10**10, 10**10),  # the buckets of all repetitions
        (10**10, 1, [1, 10**9], 2),  # the table
        (2, 2**63 - 1, 1, 1),
    ):
        with pytest.raises(ValueError, match=r"bytes, more than 2\*\*63 - 1. Use few"):
            model_cost(*sizes)


def test_costs_of_arrays():
    cost = model_cost([[10], [1000]], 50, [1, 2, 3], 4, n_nonzeros=7)
    for i, j in np.ndindex(2, 3):
        alone = model_cost([10, 1000][i], 50, j + 1, 4, n_nonzeros=7)
        assert isinstance(alone.mach.n_bytes, int)
        for found, number in zip(cost.mach, alone.mach, strict=True):
            assert np.broadcast_to(found, (2, 3))[i, j] == number
        for found, number in zip(cost.one_vs_rest, alone.one_vs_rest, strict=True):
            assert np.broadcast_to(found, (2, 1))[i, 0] == number


@pytest.mark.parametrize("n_classes", [2, 50, 300])
def test_plan_is_what_the_classifier_takes(blobs, n_classes):
    X, y = blobs(n_samples=n_classes, n_classes=n_classes)
    sizes = plan(
        n_classes, X.shape[1], n_samples=X.shape[0], n_nonzeros=X.nnz / X.shape[0]
    )
    for params in {}, sizes.params:
        model = MACHClassifier(max_iter=1, random_state=0, **params).fit(X, y)
        assert model.n_repetitions_ == sizes.n_repetitions
        assert model.n_buckets_ == sizes.n_buckets
        assert model.model_bytes_ == sizes.n_bytes


@pytest.mark.parametrize("n_classes", [1, 2, 200, 1000, 70_000])
@pytest.mark.parametrize(
    "n_features, n_nonzeros", [(1, None), (100, None), (2_000, 50), (10_000, 50)]
)
def test_plan_keeps_to_the_bytes_there_are(n_classes, n_features, n_nonzeros):
    free = plan(n_classes, n_features, n_nonzeros=n_nonzeros)
    # The fewest bytes of all sizes that tell the classes apart.
    least = min(
        model_cost(n_classes, n_features, R, B).mach.n_bytes
        for B in range(2, 65)
        for R in [next(R for R in range(1, 18) if B**R >= n_classes)]
    )
    for max_bytes in (free.n_bytes, free.n_bytes * 0.7, least, least * 1.5, 1e13):
        if max_bytes < least:
            continue
        sizes = plan(n_classes, n_features, max_bytes, n_nonzeros=n_nonzeros)
        R, B = sizes.n_repetitions, sizes.n_buckets
        assert sizes.n_bytes <= max_bytes
        assert B**R >= n_classes
        if free.n_bytes <= max_bytes:
            assert (R, B) == (free.n_repetitions, free.n_buckets)
        elif n_nonzeros is not None:  # no room for another repetition
            assert model_cost(n_classes, n_features, R + 1, B).mach.n_bytes > max_bytes
    if free.n_bytes >= least:
        with pytest.raises(ValueError, match=f"takes at least {least} bytes"):
            plan(n_classes, n_features, least - 1, n_nonzeros=n_nonzeros)


@pytest.mark.parametrize(
    "n_classes, n_features, rows, sizes",
    [
        # Weights of 4 (d + 1) K bytes up to 2**30, and n d K products up to 2.5e13.
        (20_000, 384, {"n_samples": 95_000}, (1, 20_000)),
        (21_841, 6_144, {"n_samples": 100_000}, (1, 21_841)),
        (21_841, 6_144, {"n_samples": 1_000_000}, (8, 2.5e13 / 6_144e6 / 8)),
        (60_000, 6_144, {"n_samples": 60_000}, (8, 2**30 / 4 / 6_145 / 8)),
        (10_000, 1_999, {"n_samples": 10_000, "n_nonzeros": 20}, (1, 10_000)),
        (20_000, 1_999, {"n_samples": 10**6, "n_nonzeros": 20}, (8, 2e11 / 2e7 / 8)),
        # Without n_samples a row a class.
        (1_000_000, 768, {}, (8, 2.5e13 / 768e6 / 8)),
        (700, 500, {}, (1, 700)),
    ],
)
def test_dense_rows_and_few_features_have_a_budget_of_bytes_and_products(
    n_classes, n_features, rows, sizes
):
    found = plan(n_classes, n_features, **rows)
    assert (found.n_repetitions, found.n_buckets) == (sizes[0], int(sizes[1]))
    bytes_of_softmax = format_bytes(4 * (n_features + 1) * n_classes)
    assert f"A bucket for each class takes {bytes_of_softmax}" in repr(found)
    assert f"{found.rule}" in found._repr_html_()
    n_given = plan(n_classes, n_features, n_buckets=64, **rows)
    assert n_given.rule == ""


def test_plan_of_many_sparse_features_has_no_rule_of_few():
    assert plan(20_000, 2_000, n_nonzeros=50).rule == ""


def test_plan_follows_delta():
    sizes = plan(10**6, 5_000, n_nonzeros=50, delta=1e-60)
    assert sizes.n_repetitions == mach_min_repetitions(10**6, 64, 1e-60) > 16
    assert sizes.min_repetitions == sizes.n_repetitions
    assert sizes.indistinguishable_probability <= 1e-60


@pytest.mark.parametrize("n_labels", [2, 12, 40])
def test_plan_of_several_labels_is_what_the_classifier_takes(n_labels):
    X = sp.random(60, 2_000, density=0.01, random_state=0, format="csr")
    Y = np.zeros((60, 400), int)
    order = np.random.default_rng(0).random(Y.shape).argsort(axis=1)
    np.put_along_axis(Y, order[:, :n_labels], 1, axis=1)
    sizes = plan(400, 2_000, n_samples=60, n_nonzeros=X.nnz / 60, n_labels=n_labels)
    model = MACHClassifier(max_iter=1, random_state=0).fit(X, Y)
    assert model.n_repetitions_ == sizes.n_repetitions
    assert model.n_buckets_ == sizes.n_buckets
    assert model.model_bytes_ == sizes.n_bytes


def test_plan_of_several_labels_has_more_buckets_and_says_why():
    one, many = (
        plan(50_000, 10_000, n_nonzeros=50, n_labels=n_labels) for n_labels in (1, 16)
    )
    assert one.n_buckets * 4 == many.n_buckets == 256
    rng = np.random.default_rng(0)
    buckets = rng.integers(256, size=(20_000, 17))
    hidden = (buckets[:, 1:] == buckets[:, :1]).any(axis=1).mean()
    # five standard errors
    assert many.hidden_probability == pytest.approx(hidden, abs=5 * np.sqrt(0.06 / 2e4))
    for text in repr(many), many._repr_html_():
        assert "16 labels a row" in text
        assert "a wrong label beside a right one" in text and "0.061" in text
        assert "deviation" not in text
    for text in repr(one), one._repr_html_():
        assert "labels a row" not in text and "beside" not in text
        assert "deviation" in text
    assert plan(50, 10, n_labels=16).hidden_probability == 0  # a bucket each


def test_plan_gives_integers_for_whole_numbers_of_any_type():
    sizes = plan(1000.0, np.int64(100), n_repetitions=4.0, n_buckets=np.float32(32))
    assert repr(sizes) == repr(plan(1000, 100, n_repetitions=4, n_buckets=32))
    assert all(type(value) is int for value in sizes.params.values())


def test_plan_as_a_table():
    sizes = plan(105_033, 422_713, n_repetitions=25, n_buckets=32, n_nonzeros=50)
    assert sizes.params == {"n_repetitions": 25, "n_buckets": 32}
    lines = repr(sizes).splitlines()
    assert str(sizes) == repr(sizes)
    assert "105,033 classes and 422,713 features, 50 of them non-zero" in lines[0]
    assert lines[2].index("25") == lines[3].index("32")  # aligned
    for text in ("1.36 GB", "177.60 GB", "3,282.3"):  # 4 d R B + K R, 4 d K, K / B
        assert any(text in line for line in lines)
    html = sizes._repr_html_()
    assert html.count("<tr>") == len(lines) - 1
    assert "&lt;= 0.036" in html  # 1 / sqrt(R (B - 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_classes": 0}, "n_classes must be at least 1, got 0"),
        ({"max_bytes": 0}, "max_bytes must be a positive number or None, got 0"),
        ({"max_bytes": np.nan}, "max_bytes must be a positive number"),
        ({"n_buckets": 1}, "n_buckets must be at least 2, got 1"),
        ({"n_repetitions": "many"}, "n_repetitions must be a whole number"),
        ({"n_repetitions": 2, "n_buckets": 9}, "Use n_repetitions=4 or more"),
        # 4 (d + 1) R B + K R
        ({"n_repetitions": 9, "n_buckets": 99, "max_bytes": 1e5}, "takes 368964 bytes"),
        ({"delta": 2}, "delta must lie between 0 and 1"),
        ({"n_nonzeros": -1}, "n_nonzeros must be from 0 to n_features=100"),
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"n_labels": -1}, "n_labels must be a number from 0 to n_classes=1000"),
        ({"n_labels": 1001}, "n_labels must be a number from 0 to .*, got 1001"),
        ({"n_labels": np.nan}, "n_labels must be a number from 0 to .*, got nan"),
        ({"n_labels": [2]}, r"n_labels must be a number from 0 to .*, got \[2\]"),
        ({"n_classes": 2**62}, r"more than 2\*\*63 - 1. Use fewer classes"),
        ({"n_classes": np.inf}, r"n_classes must be at most 2\*\*63 - 1, got inf"),
        ({"n_classes": [10, 20]}, r"n_classes must be one number, got the array"),
        ({"n_repetitions": [4, 5]}, "n_repetitions must be one number"),
        ({"n_buckets": np.inf}, r"n_buckets must be at most 2\*\*63 - 1, got inf"),
        ({"max_bytes": "1GB"}, "max_bytes must be a positive number or None, got '1GB"),
        (
            {"n_samples": 5, "n_nonzeros": np.nan},
            "n_nonzeros must be from 0 .* got nan",
        ),
        ({"n_samples": 5, "n_nonzeros": "x"}, "n_nonzeros must be from 0 .* got 'x'"),
    ],
)
def test_bad_arguments_of_a_plan_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(**{"n_classes": 1000, "n_features": 100} | arguments)


@pytest.mark.parametrize("hashing", ["random", "universal", "balanced"])
def test_unbiased_mean_and_its_variance_in_simulation(hashing):
    n_buckets, n_repetitions, n_tables, n_parts = 16, 6, 200, 10
    # So few where the chance depends on K: it is 0.053, and 0.010 below 1 / B.
    n_classes = 100 if hashing == "balanced" else 400
    rng = np.random.default_rng(0)
    # Few classes at random places: the collisions of Carter-Wegman functions are
    # independent in pairs only, and those of classes whose distances have a simple
    # ratio (k - 1 and k + 1 with k) go together, which makes the variance larger.
    p = np.zeros(n_classes)
    some = rng.choice(n_classes, 10, replace=False)
    p[some] = np.sort(rng.dirichlet(np.ones(10)))[::-1]
    absent = np.flatnonzero(p == 0)[[5, 50]]
    classes = np.append(some[[0, 4, 9]], absent)
    chance = 1 / n_buckets
    if hashing == "balanced":
        chance = (n_classes - n_buckets) / (n_buckets * (n_classes - 1))
    found = []
    # A table takes longer than its columns: each is cut into ten of six columns.
    for row in rng.integers(1 << 31, size=(n_tables, n_parts * n_repetitions)):
        if hashing == "random":
            whole = rng.integers(n_buckets, size=(n_classes, row.size))
        else:
            whole = _hashing.draw_table(n_classes, n_buckets, row, hashing)
        for table in np.split(whole, n_parts, axis=1):
            found.append(estimates(p, table, n_buckets, chance)[classes])
    expected = [
        (np.sum(p**2) - p[i] ** 2) / (n_repetitions * (n_buckets - 1)) for i in classes
    ]
    error = np.sqrt(np.array(expected) / len(found))
    # Four standard errors, at most 0.004.
    assert (np.abs(np.mean(found, axis=0) - p[classes]) < 4 * error).all()
    # A variance of 2,000 skewed values: its relative standard error is about
    # sqrt(kurtosis / n), 5 %.  Balanced columns never have more.
    ratio = np.var(found, axis=0) / expected
    assert (ratio < 1.25).all()
    assert hashing == "balanced" or (ratio > 0.8).all()
