"""What the built-in learner does otherwise where the rows are dense.

Few columns, all filled and correlated, are learned slowly by steps along them.  The
steps are therefore taken in another metric, in which the rows are centred and their
variance is more even (`Metric`), and the weights start from the means of the buckets
(`start_from_means`).  BLAS makes the products in blocks of fixed shapes: its sums
depend on the shapes, so that they are the same for every number of threads.
"""

import threading
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import scipy.linalg
from joblib import cpu_count
from scipy.optimize import minimize_scalar
from sklearn.utils import gen_batches
from sklearn.utils.extmath import randomized_svd

from ._compat import njit, read_only

BIAS = 0.02  # square of the value of the intercept's feature, rows of mean length 1
_BLOCK = 512  # columns of W that a thread multiplies at a time, at most
_FEATURES = 256  # whose sums a thread makes at a time
_SAMPLE = 20_000  # rows that show their covariance
_SAMPLE_BYTES = 1 << 28  # of these rows, where there are many features
_N_DIRECTIONS = 64  # of the largest variance, where not all are worth their cost
_EQUAL = 1e-10  # variance of rows that differ by rounding, in their squared length
_CHEAP_FEATURES = 512  # all whose directions are evened, however few columns W has,
_MOST_FEATURES = 2048  # and however many
_MOVED_BYTES = 1 << 28  # rows in the metric that are kept
_LOOKED_AT = 5_000_000  # scores that the start is fitted to
_SHRINKAGES = (0.5, 1.0, 3.0, 10.0, 30.0)  # rows of mean zero added to each bucket
_LOG_SCALES = (-4.0, 5.0)  # logarithms of the spread of the scores of the start
_PRIOR_ROWS = 0.5  # added to each bucket where its share is taken


class Team:
    """Threads that share calls of a function; the caller is one of them."""

    def __init__(self, n_threads):
        self._tasks = [SimpleQueue() for _ in range(n_threads - 1)]
        self._done = SimpleQueue()
        for tasks in self._tasks:
            threading.Thread(target=self._work, args=(tasks,), daemon=True).start()

    def _work(self, tasks):
        while (task := tasks.get()) is not None:
            function, parts = task
            try:
                for part in parts:
                    function(part)
            except BaseException as error:  # raised by `run`
                self._done.put(error)
            else:
                self._done.put(None)

    def run(self, function, parts):
        """Call the function with each part, and wait for all."""
        n_threads = min(len(self._tasks) + 1, len(parts))
        if n_threads < 2:
            for part in parts:
                function(part)
            return
        helpers = self._tasks[: n_threads - 1]
        for i, tasks in enumerate(helpers, 1):
            tasks.put((function, parts[i::n_threads]))
        try:
            for part in parts[::n_threads]:
                function(part)
        finally:
            errors = [self._done.get() for _ in helpers]
        for error in errors:
            if error is not None:
                raise error

    def close(self):
        for tasks in self._tasks:
            tasks.put(None)


@contextmanager
def team(n_threads):
    """A `Team` whose threads end with the block.

    They are at most the processors of this machine: in the context of a cluster joblib
    counts those of all machines.
    """
    members = Team(min(n_threads, cpu_count()))
    try:
        yield members
    finally:
        members.close()


def slices(n, size):
    """Slices of so many of n numbers, without the checks of `gen_batches`."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def blocks(n_columns, multiple=1):
    """Slices of columns that threads share; they do not depend on the threads."""
    size = int(np.clip(-(-n_columns // 2), 128, _BLOCK))
    return slices(n_columns, -(-size // multiple) * multiple)


class Metric(NamedTuple):
    """Rows x become ``(x - center) P`` where they make a step.

    P is about the inverse square root of their covariance: a matrix (d, d), or
    ``I + V diag(f) V'`` of the directions V (d, k) with the largest variance.
    """

    center: np.ndarray
    matrix: np.ndarray | None
    directions: np.ndarray | None = None
    factors: np.ndarray | None = None

    def apply(self, X):
        """Rows (n, d), float32, in the metric."""
        return self.multiply(X - self.center)

    def multiply(self, X):
        """X P."""
        if self.matrix is not None:
            return X @ self.matrix
        return X + ((X @ self.directions) * self.factors) @ self.directions.T


def float_rows(X, rows):
    """Rows of X as float32."""
    return X[rows].astype(np.float32, copy=False)


def find_metric(X, weight, shrink, n_columns, seed):
    """The `Metric` of dense rows of such weights, or None if they are all equal.

    shrink (n,): factors of the rows, less than 1 for very long ones.  P is the whole
    matrix where its products cost little beside those with `n_columns` of weights.  The
    eigenvalues of the covariance of n rows get the share d / (d + n) of their mean,
    since the smallest are the least certain.
    """
    n_features = X.shape[1]
    is_whole = n_features <= np.clip(2 * n_columns, _CHEAP_FEATURES, _MOST_FEATURES)
    n_rows = _SAMPLE if is_whole else _SAMPLE_BYTES // (4 * n_features)
    rows = np.flatnonzero(weight)
    if rows.size > n_rows:
        rng = np.random.default_rng([seed, 3])
        rows = np.sort(rng.choice(rows, n_rows, replace=False))
    share = (weight[rows] / weight[rows].sum(dtype=np.float64)).astype(np.float32)
    center = np.zeros(n_features)
    for part in gen_batches(rows.size, 1024):
        center += (share * shrink[rows])[part] @ float_rows(X, rows[part])
    center = center.astype(np.float32)
    root = (np.sqrt(share) * shrink[rows])[:, None]
    if is_whole:
        covariance = np.zeros((n_features, n_features))
        for part in gen_batches(rows.size, 1024):
            A = (float_rows(X, rows[part]) - center) * root[part]
            covariance += A.T @ A
        values, vectors = scipy.linalg.eigh(covariance, overwrite_a=True)
        total = values.sum()
    else:
        A = float_rows(X, rows)  # a copy, and the largest array of a stream
        A -= center
        A *= root
        total = np.einsum("ij,ij->", A, A, dtype=np.float64)
        k = min(_N_DIRECTIONS, *A.shape)
        _, values, vectors = randomized_svd(A, k, n_iter=2, random_state=seed)
        values, vectors = values.astype(np.float64) ** 2, vectors.T
    if total <= _EQUAL * (center @ center):
        return None
    mean = total / n_features
    ridge = mean * n_features / (n_features + rows.size)
    inverse = 1 / np.sqrt(np.maximum(values, 0) + ridge)
    if is_whole:
        matrix = (vectors * inverse) @ vectors.T
        return Metric(center, matrix.astype(np.float32))
    rest = max(total - values.sum(), 0) / (n_features - values.size)
    factors = inverse * np.sqrt(rest + ridge) - 1
    return Metric(center, None, vectors.astype(np.float32), factors.astype(np.float32))


def move(X, metric):
    """Squared lengths of the rows in the metric, and the rows, or None if too large."""
    lengths = np.empty(X.shape[0])
    moved = np.empty(X.shape, np.float32) if 4 * X.size <= _MOVED_BYTES else None
    for rows in gen_batches(X.shape[0], 1024):
        centered = float_rows(X, rows) - metric.center
        part = metric.multiply(centered)
        lengths[rows] = np.einsum("ij,ij->i", centered, part, dtype=np.float64)
        if moved is not None:
            moved[rows] = part
    return np.maximum(lengths, 0), moved


def start_from_means(X, y, table, W, b, first, settings, n_threads=1, source=None):
    """Set W (d, R B) and b (R B,), from repetition `first` on, to a linear classifier.

    That of the nearest mean in the metric, as in linear discriminant analysis: the
    score of a bucket with the mean m of its rows is ``t (x - c) P m - t/2 m P m``, c
    the center, plus the logarithm of its share.  Means are shrunk: some rows of mean
    zero are added to each bucket, and very long rows count as in `find_metric`.  How
    many, and the scale t, give some of the rows, each left out of its own mean, the
    least log loss.

    source : the rows of the means where these are only some of them: tuples of X, the
        classes, weights (zero of rows that are not trained on) and `shrink`
    """
    metric = settings.metric
    n_buckets = b.size // table.shape[1]
    weight = np.zeros(X.shape[0], np.float32)
    weight[settings.train] = settings.row_weight(settings.train)
    in_sums = weight * settings.shrink
    source = [(X, y, weight, settings.shrink)] if source is None else source
    totals = np.zeros((table.shape[1], n_buckets))
    n_rows = int(np.clip(_LOOKED_AT // n_buckets, 100, 2000))
    order = np.random.default_rng([settings.seed, 4]).permutation(settings.train)
    rows = order[:n_rows]
    centered = float_rows(X, rows) - metric.center
    moved = metric.multiply(centered)
    lengths = np.einsum("ij,ij->i", centered, moved)
    with team(n_threads) as members:
        for part, classes, weights, shrink in source:
            for r in range(first, table.shape[1]):
                codes = table[classes, r]
                totals[r] += np.bincount(codes, weights, n_buckets)
                W_r = W[:, r * n_buckets : (r + 1) * n_buckets]
                _add_means(part, codes, weights * shrink, metric.center, W_r, members)
        for r in range(first, table.shape[1]):
            lo, hi = r * n_buckets, (r + 1) * n_buckets
            codes, total = table[y[rows], r], totals[r]
            W_r, b_r = W[:, lo:hi], b[lo:hi]
            raw = np.empty((rows.size, n_buckets), np.float32)
            squares = np.empty(n_buckets, np.float32)

            def move_sums(columns, W_r=W_r, raw=raw, squares=squares):
                sums = W_r[:, columns]
                in_metric = metric.multiply(np.ascontiguousarray(sums.T))
                squares[columns] = np.einsum("ij,ji->i", in_metric, sums)
                raw[:, columns] = centered @ in_metric.T
                sums[:] = in_metric.T

            members.run(move_sums, blocks(n_buckets))
            of_rows = codes, weight[rows], in_sums[rows], lengths
            shrinkage, scale = _least_loss(raw, squares, total, *of_rows)
            divisor = (total + shrinkage).astype(np.float32)
            prior = np.log((total + _PRIOR_ROWS) / (total + _PRIOR_ROWS).sum())

            def finish(columns, W_r=W_r, b_r=b_r, divisor=divisor, scale=scale):
                part = W_r[:, columns]
                part *= np.float32(scale) / divisor[columns]
                b_r[columns] = -metric.center @ part

            members.run(finish, blocks(n_buckets))
            b_r += prior - scale / 2 * squares / divisor**2


def _add_means(X, codes, weight, center, W, members):
    """W (d, B) += the weighted sums of the centred rows of each bucket."""

    def add(features):
        sums = np.zeros((W.shape[1], features.stop - features.start), np.float32)
        part_center = center[features]
        for rows in gen_batches(X.shape[0], 1024):
            part = X[rows, features].astype(np.float32, copy=False)
            arrays = read_only(part, codes[rows], weight[rows], part_center)
            _add_rows(*arrays, sums)
        W[features] += sums.T

    members.run(add, slices(X.shape[1], _FEATURES))


@njit
def _add_rows(X, codes, weight, center, sums):
    """sums[codes[i]] += weight[i] (X[i] - center) for all rows."""
    for i in range(X.shape[0]):
        if weight[i] > 0:
            row, total = X[i], sums[codes[i]]
            for j in range(row.shape[0]):
                total[j] += weight[i] * (row[j] - center[j])


def _least_loss(raw, squares, total, own, weight, in_sums, lengths):
    """The shrinkage and the scale of least log loss, see `start_from_means`.

    raw : float32 (n, B), products of some rows and the sums of the buckets, in the
        metric
    squares : float32 (B,), squared lengths of the sums
    total : float64 (B,), weights of the buckets
    own (n,) : buckets of the rows, each of which is left out of the sum of its own
    weight, in_sums, lengths (n,) : of the rows in the loss and in the sums, and their
        squared lengths
    """
    n = np.arange(own.size)
    own_raw = raw[n, own]
    less_raw = own_raw - in_sums * lengths
    less_squares = squares[own] - 2 * in_sums * own_raw + in_sums**2 * lengths
    less_total = np.maximum(total[own] - weight, 0)
    prior = np.log(total + _PRIOR_ROWS).astype(np.float32)
    own_prior = np.log(less_total + _PRIOR_ROWS)
    found = []
    for shrinkage in _SHRINKAGES:
        divisor = (total + shrinkage).astype(np.float32)
        scores = raw / divisor
        scores -= squares / divisor**2 / 2
        divisor = less_total + shrinkage
        own_scores = less_raw / divisor - less_squares / divisor**2 / 2
        scores[n, own] = own_scores

        def loss(log_scale, scores=scores, own_scores=own_scores):
            scale = np.exp(log_scale)
            z = scores * np.float32(scale)
            z += prior
            own_z = scale * own_scores + own_prior
            z[n, own] = own_z
            largest = z.max(axis=1)
            z -= largest[:, None]
            total = np.exp(z, out=z).sum(axis=1, dtype=np.float64)
            return weight @ (np.log(total) + largest - own_z)

        options = {"xatol": 0.1}
        unit = np.log(float(scores.std()) or 1.0)  # of scores, which may be any
        bounds = [end - unit for end in _LOG_SCALES]
        best = minimize_scalar(loss, bounds=bounds, method="bounded", options=options)
        found.append((best.fun, shrinkage, np.exp(best.x)))
    return min(found)[1:]
