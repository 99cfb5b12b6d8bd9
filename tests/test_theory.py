"""The planning functions against simulation and integer arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from sklearn_mach.theory import (
    choose_sizes,
    largest_sizes,
    mach_min_repetitions,
    model_bytes,
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
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mach_min_repetitions(*arguments)


def test_model_bytes_are_those_of_the_arrays():
    arrays = np.empty((17, 5 * 8), np.float32), np.empty(5 * 8, np.float32)
    assert model_bytes(17, 5, 8) == sum(array.nbytes for array in arrays)


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
