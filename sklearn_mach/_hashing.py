"""Tables that send K classes to B buckets, R times.

A table has shape (K, R) and the smallest unsigned dtype that holds B - 1; entry
``[k, r]`` is the bucket h_r(k).  Column r depends on the seeds 0..r alone, so that
repetitions can be added to a table.  A family of hash functions is a function that
draws one column; see Carter and Wegman (1979) for the universal one.
"""

import numpy as np

from ._compat import njit

_PRIME = (1 << 61) - 1  # a Mersenne prime, so that remainders need no division
_MAX_CLASSES = 1 << 31  # keeps every product below 2**62
_N_REDRAWS = 100


def min_repetitions(n_classes, n_buckets):
    """Smallest R with B**R >= K: with fewer, some classes cannot be told apart."""
    n_repetitions, n_codes = 1, n_buckets
    while n_codes < n_classes:
        n_repetitions, n_codes = n_repetitions + 1, n_codes * n_buckets
    return n_repetitions


def draw_table(n_classes, n_buckets, seeds, hashing="balanced", start=None):
    """Draw a table of buckets in which no two classes have equal rows.

    Parameters
    ----------
    n_classes, n_buckets : int
        K and B, with B ** len(seeds) >= K.
    seeds : sequence of int of length R
        One seed for each repetition.
    hashing : {"balanced", "universal"}
        "balanced": a random permutation of the classes modulo B, within the groups of
        classes that earlier repetitions could not separate, so that
        ceil(log_B K) repetitions always separate all.  "universal":
        ((a k + b) mod p) mod B with p = 2**61 - 1, drawn again while classes that
        could be separated are not.
    start : ndarray of shape (K, R0), default=None
        The first columns, drawn before.

    Returns
    -------
    table : ndarray of shape (K, R) and the smallest unsigned dtype
    """
    dtype = np.min_scalar_type(n_buckets - 1)
    table = np.empty((n_classes, len(seeds)), dtype)
    n_start = 0 if start is None else start.shape[1]
    group = np.zeros(n_classes, np.int64)  # classes with equal buckets so far
    n_groups = 1
    for r, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        if r < n_start:
            column = start[:, r]
        elif hashing == "balanced" or n_classes <= n_buckets:
            column = _balanced(n_buckets, group, n_groups, rng)
        else:
            column = _universal(n_buckets, group, n_groups, r, rng)
        table[:, r] = column
        if n_groups < n_classes:
            group, n_groups = _split(group, column, n_buckets)
    if n_groups < n_classes:
        raise ValueError(
            f"hashing={hashing!r} left {n_classes - n_groups} of {n_classes} classes "
            f"with the buckets of another class in all {len(seeds)} repetitions of "
            f"{n_buckets} buckets. Use more repetitions, more buckets or "
            "hashing='balanced'."
        )
    return table


def find_twins(table, n_buckets):
    """Two classes with equal rows in `table`, or None."""
    group, n_groups = np.zeros(table.shape[0], np.int64), 1
    for column in table.T:
        group, n_groups = _split(group, column, n_buckets)
    if n_groups == table.shape[0]:
        return None
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order]) == 0)[0]
    return int(order[first]), int(order[first + 1])


def _split(group, column, n_buckets):
    """Number the distinct pairs (group, bucket): shape (K,), and their count."""
    values, group = np.unique(group * n_buckets + column, return_inverse=True)
    return group, values.size


def _balanced(n_buckets, group, n_groups, rng):
    """Buckets (K,) whose sizes differ by at most one, overall and in each group."""
    order = rng.permutation(group.size)
    if n_groups < group.size:  # neighbours in a shuffled order of the groups
        rank = rng.permutation(n_groups)[group]
        order = order[np.argsort(rank[order], kind="stable")]
    column = np.empty(group.size, np.int64)
    column[order] = np.arange(group.size) % n_buckets
    return column


def _universal(n_buckets, group, n_groups, r, rng):
    """Carter-Wegman buckets (K,); the most separating of some draws where it matters."""
    n_classes = group.size
    # Colliding pairs that a random column is expected to leave.  Where they are
    # many no draw separates all, and later repetitions will.
    expected = n_classes * (n_classes - 1) / 2 / float(n_buckets) ** (r + 1)
    draws = _N_REDRAWS if n_groups < n_classes and expected < 5 else 1
    best, best_groups = None, -1
    for _ in range(draws):
        a, b = (int(v) for v in rng.integers([1, 0], _PRIME))
        column = np.empty(n_classes, np.int64)
        carter_wegman(np.uint64(a), np.uint64(b), np.uint64(n_buckets), column)
        if draws == 1:
            return column
        found = _split(group, column, n_buckets)[1]
        if found > best_groups:
            best, best_groups = column, found
        if found == n_classes:
            break
    return best


@njit
def carter_wegman(a, b, n_buckets, out):
    """out[k] = ((a k + b) mod p) mod B for p = 2**61 - 1, k < 2**31, all uint64.

    With a = high 2**31 + low the product is high k 2**31 + low k; each part stays
    below 2**62, and 2**61 counts as 1.
    """
    prime = np.uint64(2305843009213693951)
    high, low = a >> np.uint64(31), a & np.uint64(0x7FFFFFFF)
    for i in range(out.shape[0]):
        k = np.uint64(i)
        x = high * k  # < 2**61, to be multiplied by 2**31
        shifted = (x >> np.uint64(30)) + ((x & np.uint64(0x3FFFFFFF)) << np.uint64(31))
        x = (shifted % prime + (low * k) % prime) % prime
        out[i] = ((x + b) % prime) % n_buckets
