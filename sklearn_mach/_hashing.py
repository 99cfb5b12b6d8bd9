"""Tables that send K classes to B buckets, R times.

A table has shape (K, R) and the smallest unsigned dtype that holds B - 1; entry
``[k, r]`` is the bucket h_r(k).  Column r depends on the seeds 0..r (and the sketches
of the classes, where similar ones go together) but not on R, so that repetitions can be
added to a table.  `FAMILIES` are the ways to draw a column; see Carter and Wegman
(1979) for the universal one.
"""

from collections.abc import Callable
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils import gen_batches
from sklearn.utils.parallel import Parallel, delayed

from ._compat import njit, one_blas_thread, read_only
from ._spool import Spool, read_ahead
from ._targets import check_n_classes

_PRIME = (1 << 61) - 1  # a Mersenne prime, so that remainders need no division
_N_REDRAWS = 100
_FULL = 1 << 62  # classes of a bucket that may have no more
_SKETCH_BYTES = 96  # of a class while it is clustered, beside its sketch
_WORTH_THREADS = 50_000  # classes: below, clustering in threads takes longer
_N_SPLIT_STEPS = 6  # of 2-means, at most


def min_repetitions(n_classes, n_buckets):
    """Smallest R with B**R >= K: with fewer, some classes cannot be told apart."""
    n_repetitions, n_codes = 1, n_buckets
    while n_codes < n_classes:
        n_repetitions, n_codes = n_repetitions + 1, n_codes * n_buckets
    return n_repetitions


def draw_table(
    n_classes, n_buckets, seeds, hashing="balanced", start=None, sketch=None, n_jobs=1,
    columns=None
):  # fmt: skip
    """Draw a table of buckets in which no two classes have equal rows.

    n_classes, n_buckets : K and B, with B ** len(seeds) >= K
    seeds : one for each repetition
    hashing : a name in `FAMILIES`
    start : array of shape (K, R0), the first columns, drawn before; or None
    sketch : from a seed to a new array (K, m), which is used up, whose rows are near
        each other where classes are similar, such as `sketch_classes`; for families
        that cluster
    n_jobs : threads that cluster similar classes; they change no bucket
    columns : numbers of the columns to give, None for all; no others are clustered
    """
    check_n_classes(n_classes)
    dtype = np.min_scalar_type(n_buckets - 1)
    table = np.empty((n_classes, len(seeds)), dtype)
    n_start = 0 if start is None else start.shape[1]
    group = np.zeros(n_classes, np.int64)  # classes with equal buckets so far
    n_groups = 1
    family, clustered = FAMILIES[hashing], []
    for r, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        if r < n_start:
            column = start[:, r]
        elif family.clusters and r % 4 == 3 and n_buckets < n_groups == n_classes:
            if columns is None or r in columns:
                clustered.append(r)
            continue
        elif n_classes <= n_buckets:
            column = _balanced(n_buckets, group, n_groups, r, rng)
        else:
            column = family.column(n_buckets, group, n_groups, r, rng)
        table[:, r] = column
        if n_groups < n_classes:
            group, n_groups = split_groups(group, column, n_buckets)
    del group, column  # much memory, and sketches take more
    if n_groups < n_classes:
        raise ValueError(
            f"hashing={hashing!r} left {n_classes - n_groups} of {n_classes} classes "
            f"with the buckets of another class in all {len(seeds)} repetitions of "
            f"{n_buckets} buckets. Use more repetitions, more buckets or "
            "hashing='balanced'."
        )

    with one_blas_thread():  # whose sums depend on its threads
        for r in clustered:  # one after the other: sketches are larger than the table
            rng = np.random.default_rng(seeds[r])
            table[:, r] = _clustered(sketch(seeds[r]), n_buckets, rng, n_jobs)
    return table if columns is None else table[:, columns]


def add_classes(table, n_new, n_buckets, known=None):
    """Buckets of new classes, (n_new, R), with rows unlike those of all others.

    One class after the other takes the bucket with the fewest classes in each
    repetition: of equals the first from a random place on.  Where another class has
    this row already, emptier buckets go before fuller ones, in the last repetition
    first.  Depends on the arguments alone.

    known : bool array of shape (R, B), the buckets that may be used; all by default
    """
    n_classes, n_repetitions = table.shape
    counts = np.array([np.bincount(c, minlength=n_buckets) for c in table.T], np.int64)
    if known is not None:
        counts[~known] = _FULL
    rng = np.random.default_rng(n_classes)
    starts = rng.integers(0, n_buckets, (n_new, n_repetitions))
    grown = np.concatenate([table, np.zeros((n_new, n_repetitions), table.dtype)])
    slots = np.full(1 << int(2 * grown.shape[0]).bit_length(), -1, np.int64)
    n_added = _add_rows(grown, n_classes, counts, starts, slots)
    if n_added < n_new:
        n_free = "no more" if n_added == 0 else f"only {n_added} more"
        raise ValueError(
            f"{n_new} new classes were passed, but the {n_repetitions} repetitions of "
            f"{n_buckets} buckets have room for {n_free}, each with a combination of "
            "buckets of its own. Call fit with all classes, or with more repetitions: "
            "n_repetitions=2 or more, and fewer buckets than classes."
        )
    return grown[n_classes:]


@njit
def _add_rows(table, n_classes, counts, starts, slots):
    """Fill the rows of `table` (K, R) from `n_classes` on; how many found one.

    counts (R, B): of classes in the buckets, changed.  starts (n_new, R): where to look
    for the first.  slots: a hash table of row numbers, all -1, longer than K.
    """
    for k in range(n_classes):
        slots[_slot(table, k, slots)] = k
    n_new, n_repetitions = starts.shape
    n_buckets = counts.shape[1]
    least = np.array([counts[r].min() for r in range(n_repetitions)])
    ranked = np.empty((n_repetitions, n_buckets), np.int64)
    places = np.empty(n_repetitions, np.int64)
    for i in range(n_new):
        k = n_classes + i
        for r in range(n_repetitions):
            b = starts[i, r]
            n_seen = 0
            while counts[r, b] != least[r]:
                b, n_seen = (b + 1) % n_buckets, n_seen + 1
                if n_seen == n_buckets:  # all that had the least have one more now
                    least[r], n_seen = least[r] + 1, 0
            table[k, r] = b
        slot = _slot(table, k, slots)
        if slots[slot] >= 0:
            # All rows in order.  Those that have the first bucket of the first
            # repetition are taken by its few classes at most, then one is free.
            for r in range(n_repetitions):
                shifted = np.roll(counts[r], -starts[i, r])
                order = np.argsort(shifted, kind="mergesort")
                ranked[r] = (order + starts[i, r]) % n_buckets
            places[:] = 0
            r = 0
            while slots[slot] >= 0 and r >= 0:
                r = n_repetitions - 1
                while r >= 0:
                    places[r] += 1
                    p = places[r]
                    if p < n_buckets and counts[r, ranked[r, p]] < _FULL:
                        break
                    places[r] = 0
                    table[k, r] = ranked[r, 0]
                    r -= 1
                if r >= 0:
                    table[k, r] = ranked[r, places[r]]
                    slot = _slot(table, k, slots)
            if r < 0:
                return i
        slots[slot] = k
        for r in range(n_repetitions):
            counts[r, table[k, r]] += 1
    return n_new


@njit
def _slot(table, k, slots):
    """The slot of a row equal to row k of `table`, or the empty one for it."""
    n_repetitions, mask = table.shape[1], slots.size - 1
    code = 0
    for r in range(n_repetitions):
        code = (code * 1_000_003 + np.int64(table[k, r])) % 2147483647  # < 2**52
    slot = code & mask
    while slots[slot] >= 0:
        other, r = slots[slot], 0
        while r < n_repetitions and table[other, r] == table[k, r]:
            r += 1
        if r == n_repetitions:
            break
        slot = (slot + 1) & mask
    return slot


def find_twins(table, n_buckets):
    """Two classes with equal rows in `table`, or None."""
    group, n_groups = np.zeros(table.shape[0], np.int64), 1
    for column in table.T:
        group, n_groups = split_groups(group, column, n_buckets)
    if n_groups == table.shape[0]:
        return None
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order]) == 0)[0]
    return int(order[first]), int(order[first + 1])


def collision_chance(table, n_buckets, hashing):
    """Chance that another class has the bucket of a class in a repetition.

    hashing : name or array that `table` (K, R) is of
    """
    n_classes, n_repetitions = table.shape
    is_random = isinstance(hashing, str) and FAMILIES[hashing].is_random
    if is_random and n_buckets < n_classes:
        # The buckets of two classes are equal in one of B functions. What happened in
        # this table is not put in its place: the estimate is unbiased over the draws
        # of the functions with 1/B, as in the paper.
        return 1 / n_buckets
    sizes = (np.bincount(column) for column in table.T)
    n_pairs = sum(int(n @ (n - 1)) for n in sizes)
    return n_pairs / (n_repetitions * n_classes * max(n_classes - 1, 1))


def split_groups(group, column, n_buckets):
    """Number the distinct pairs (group, bucket): shape (K,), and their count."""
    # of uint64 and int64 NumPy makes floats
    pair = group * n_buckets + column.astype(np.int64, copy=False)
    values, group = np.unique(pair, return_inverse=True)
    return group, values.size


def _balanced(n_buckets, group, n_groups, r, rng):
    """A random permutation of the classes modulo B, (K,), within each group.

    Sizes of buckets differ by at most one, overall and in each group, so that
    ceil(log_B K) repetitions always separate all classes.
    """
    order = rng.permutation(group.size)
    if n_groups < group.size:  # neighbours in a shuffled order of the groups
        rank = rng.permutation(n_groups)[group]
        order = order[np.argsort(rank[order], kind="stable")]
    column = np.empty(group.size, np.int64)
    column[order] = np.arange(group.size) % n_buckets
    return column


def _sketch_size(n_classes):
    """Dimensions of the sketches: 128, and fewer where these would take gigabytes."""
    return 128 if n_classes <= 1_000_000 else 64 if n_classes <= 4_000_000 else 32


def sketch_bytes(n_classes):
    """Bytes of memory that clustering the classes of a repetition takes at most."""
    return n_classes * (4 * _sketch_size(n_classes) + _SKETCH_BYTES)


def sketch_classes(X, targets, weight, n_classes, seed):
    """Directions of the mean rows of the classes, in a random space of m dimensions.

    Every feature is added to, or taken from, one dimension (a count sketch), which
    keeps the angles between sparse rows.  X: CSR or array (n, d), or a `Spool`, which
    has the others; targets: `Targets`; weight (n,).  Returns float32 (K, m) with rows
    of unit length or zero; m is 128 for up to a million classes.
    """
    size = _sketch_size(n_classes)
    rng = np.random.default_rng([seed, 1])
    place = rng.integers(0, size, X.shape[1], dtype=np.int32)
    sign = rng.choice(np.array([-1, 1], np.float32), X.shape[1])
    # The largest weight from 1 to 2: a power of two changes nothing, nor overflows.
    is_stored = isinstance(X, Spool)
    largest = X.largest_weight if is_stored else np.max(weight, initial=0)
    exponent = np.frexp(largest)[1]
    sketch = np.zeros((n_classes, size), np.float32)
    blocks = _blocks(X) if is_stored else [(X, targets, weight)]
    for X, targets, weight in blocks:
        weight = np.ldexp(weight, 1 - exponent).astype(np.float32)
        if sp.issparse(X):
            arrays = read_only(X.data, X.indices, X.indptr)
            classes = targets.starts, targets.classes
            _add_sketches(*arrays, *classes, weight, place, sign, sketch)
            continue
        projection = np.zeros((X.shape[1], size), np.float32)
        projection[np.arange(X.shape[1]), place] = sign
        for rows in gen_batches(X.shape[0], 4096):
            part = targets.take(rows)
            moved = (X[rows] @ projection) * weight[rows, None]
            np.add.at(sketch, part.classes, moved[part.rows()])
    for classes in gen_batches(n_classes, 1024):  # whose masks take little memory
        rows = sketch[classes]
        np.nan_to_num(rows, copy=False)  # rows of a base that accepts missing values
        length = np.sqrt(np.einsum("kj,kj->k", rows, rows))
        rows /= np.maximum(length, np.finfo(np.float32).tiny)[:, None]
    return sketch


def _blocks(spool):
    """Rows, `Targets` and weights of the blocks of a `Spool`."""
    for X, targets, weight, *_ in read_ahead(spool.blocks()):
        yield X, targets, np.ones(X.shape[0]) if weight is None else weight


@njit
def _add_sketches(data, indices, indptr, starts, classes, weight, place, sign, sketch):
    """Add rows, at random places with random signs, to sketches of their classes."""
    for i in range(weight.shape[0]):
        for c in range(starts[i], starts[i + 1]):
            row = sketch[classes[c]]
            for p in range(indptr[i], indptr[i + 1]):
                j = indices[p]
                row[place[j]] += weight[i] * sign[j] * np.float32(data[p])


def _clustered(sketch, n_buckets, rng, n_jobs):
    """Buckets (K,) of similar classes, with sizes that differ by at most one.

    Balanced spherical 2-means from the top down, as Parabel's label trees (Prabhu et
    al., 2018, section 3).  The rows of the sketch are sorted on the way, in place: the
    classes of a part lie together, and no part is copied.
    """
    n_classes = sketch.shape[0]
    sizes = np.full(n_buckets, n_classes // n_buckets)
    sizes[: n_classes % n_buckets] += 1
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if n_classes < _WORTH_THREADS:
        n_jobs = 1
    # All draws before the threads: two classes of each range of buckets to be split.
    draws, todo = {}, [(0, n_buckets)]
    while todo:
        low, high = todo.pop()
        if high - low > 1:
            n_members = starts[high] - starts[low]
            draws[low, high] = rng.choice(n_members, 2, replace=False)
            middle = (low + high) // 2
            todo += [(low, middle), (middle, high)]

    members = np.arange(n_classes, dtype=np.min_scalar_type(n_classes))

    def split(low, high):
        middle, part = (low + high) // 2, slice(starts[low], starts[high])
        n_left = starts[middle] - starts[low]
        order = _halves(sketch[part], draws[low, high], n_left)
        _sort(sketch[part], members[part], order, np.empty_like(sketch[0]))
        return (low, middle), (middle, high)

    parts = [(0, n_buckets)]
    while parts:
        halves = Parallel(n_jobs=n_jobs, require="sharedmem")(
            delayed(split)(low, high) for low, high in parts
        )
        halves = chain.from_iterable(halves)
        parts = [(low, high) for low, high in halves if high - low > 1]
    column = np.empty(n_classes, np.min_scalar_type(n_buckets - 1))
    for bucket, (start, stop) in enumerate(pairwise(starts)):
        column[members[start:stop]] = bucket
    return column


def _halves(rows, drawn, n_left):
    """The rows (m, .) in an order (m,) by 2-means: first n_left, then the others.

    It starts from two rows whose places are drawn.
    """
    first, second = drawn
    direction = rows[first] - rows[second]
    total = rows.sum(axis=0)
    for _ in range(_N_SPLIT_STEPS):
        product = rows @ direction
        order = np.argpartition(np.negative(product, out=product), n_left - 1)
        in_left = np.zeros(order.size, np.float32)
        in_left[order[:n_left]] = 1
        left = in_left @ rows
        left, right = (
            half / max(np.linalg.norm(half), np.finfo(np.float32).tiny)
            for half in (left, total - left)
        )
        if np.array_equal(direction, left - right):
            break
        direction = left - right
    return order


@njit
def _sort(rows, members, order, row):
    """Bring rows (m, .) and members (m,) to an order (m,), in place, by its cycles.

    The order is lost; row (.,): space.
    """
    for first in range(order.shape[0]):
        if order[first] < 0:  # in place already
            continue
        row[:] = rows[first]
        member = members[first]
        place = first
        while order[place] != first:
            source = order[place]
            rows[place] = rows[source]
            members[place] = members[source]
            order[place] = -1
            place = source
        rows[place] = row
        members[place] = member
        order[place] = -1


def _universal(n_buckets, group, n_groups, r, rng):
    """Carter-Wegman buckets (K,); the most separating of some draws."""
    n_classes = group.size
    # Colliding pairs that a random column is expected to leave.  Where they are
    # many no draw separates all, and later repetitions will.
    expected = n_classes * (n_classes - 1) / 2 / float(n_buckets) ** (r + 1)
    if n_groups == n_classes or expected >= 5:
        return random_column(n_classes, n_buckets, rng)
    best_groups = 0
    for _ in range(_N_REDRAWS):
        column = random_column(n_classes, n_buckets, rng)
        found = split_groups(group, column, n_buckets)[1]
        if found > best_groups:
            best, best_groups = column, found
        if found == n_classes:
            break
    return best


class Family(NamedTuple):
    """How a column of the table is drawn where there are fewer buckets than classes.

    column : (n_buckets, group (K,), n_groups, r, rng) to buckets (K,), where `group`
        numbers the classes whose buckets are equal in the columns before the r-th
    is_random : whether two classes share a bucket with probability 1/B, whatever the
        columns before, so that the least number of repetitions may not tell all apart
    clusters : whether every fourth repetition puts similar classes together
    """

    column: Callable
    is_random: bool = False
    clusters: bool = False


FAMILIES = {
    "clustered": Family(_balanced, clusters=True),
    "balanced": Family(_balanced),
    "universal": Family(_universal, is_random=True),
}


def random_column(n_classes, n_buckets, rng):
    """Buckets (K,) of a Carter-Wegman function that `rng` draws."""
    a, b = (int(v) for v in rng.integers([1, 0], _PRIME))
    column = np.empty(n_classes, np.int64)
    carter_wegman(np.uint64(a), np.uint64(b), np.uint64(n_buckets), column)
    return column


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
