"""Slow versions written from the formulas, to compare the package with.

This file imports nothing from the package.
"""

import itertools

import numpy as np
import scipy.linalg

# ---------------------------------------------------------------------------
# Hashing
# ---------------------------------------------------------------------------


def carter_wegman(a, b, k, n_buckets, prime=2**61 - 1):
    """Bucket of class k, in Python integers."""
    return (a * k + b) % prime % n_buckets


def add_classes(table, starts, buckets):
    """Rows of new classes, the first ones that no class has.

    table: lists (K, R).  starts (n_new, R): of each class the bucket that goes before
    others with as many classes.  buckets: of each repetition those that may be used.
    """
    rows = [tuple(row) for row in table]
    for start in starts:
        ranked = []
        for r, allowed in enumerate(buckets):
            column = [row[r] for row in rows]

            def key(b, column=column, first=start[r]):
                return column.count(b), b < first, b

            ranked.append(sorted(allowed, key=key))
        taken = set(rows)
        rows.append(next(c for c in itertools.product(*ranked) if c not in taken))
    return rows[len(table) :]


# ---------------------------------------------------------------------------
# Softmax
# ---------------------------------------------------------------------------


def softmax(z):
    """Probabilities of a vector of logits."""
    e = np.exp(z - np.max(z))
    return e / e.sum()


def bucket_log_proba(X, W, b):
    """log P_r(bucket | x), (n, R, B), for weights W (R, B, d) and b (R, B)."""
    repetitions = range(len(W))
    return np.array(
        [[np.log(softmax(W[r] @ x + b[r])) for r in repetitions] for x in X]
    )


def target(classes, column, n_buckets):
    """Mean of the one-hots of the buckets of a row's classes, (B,); zeros of none."""
    classes = np.atleast_1d(classes).astype(int)
    out = np.zeros(n_buckets)
    for c in classes:
        out[column[c]] += 1 / len(classes)
    return out


def cross_entropy(own, log_proba):
    """- own @ log_proba, in which zeros times infinity are zero."""
    return -(own[own > 0] @ log_proba[own > 0])


def softmax_loss(z, classes, column):
    """Mean of -log P over the buckets of a row's classes, and the gradient (B,)."""
    p = softmax(z)
    own = target(classes, column, p.size)
    return cross_entropy(own, np.log(p)), own.sum() * p - own


def sigmoid_loss(z, classes, column):
    """Log losses, added: is a class of the row in the bucket?  With gradient (B,)."""
    own = np.isin(np.arange(z.size), [column[c] for c in classes])
    sign = np.where(own, -1, 1)
    return np.logaddexp(0, sign * z).sum(), sign / (1 + np.exp(-sign * z))


def bucket_loss(X, y, table, W, b, weight):
    """Sum over the rows of weight * -log P_r(h_r(y) | x), (R,)."""
    loss = np.zeros(table.shape[1])
    for i, log_proba in enumerate(bucket_log_proba(X, W, b)):
        for r in range(table.shape[1]):
            own = target(y[i], table[:, r], log_proba.shape[1])
            loss[r] += weight[i] * cross_entropy(own, log_proba[r])
    return loss


def sgd_epoch(
    X, y, table, W, b, order, step, decay, *, batch_size=1, bias, penalty=0, gain=1.0,
    bound=np.inf, visits=0.0, before=0.0, visits_to_slow=4096, metric=None,
    loss_of=softmax_loss
):  # fmt: skip
    """One pass in float64: W (R, B, d) and b (R, B) are changed.

    A batch takes the sum of the steps of its rows, each
    ``factor * step_i`` times the gradient of `loss_of`, times x_i and `gain` (d,) for
    W, and times `bias` for b; y[i] is a class or several, and a row without one takes
    no step by `softmax_loss`.
    The factor falls linearly from decay[0] towards decay[1].  A feature whose
    ``factor * step_i * gain_j * x_ij^2`` sum to more than `bound` over the batch takes
    so much smaller a step.  W is then divided by ``1 + factor * penalty`` for
    each row of the batch (once for all together).  `gain` and `bias` are divided by
    ``sqrt(1 + n_j / visits_to_slow)``, n_j the visits of the feature or the intercept
    so far: `before` (d + 1,) and as large a share of `visits` (d + 1,), those of the
    epoch, as that of the rows that are done.  With a metric (c, P) the steps are those
    of weights V and intercepts a of the rows (x - c) P^(1/2), by which W is P^(1/2) V
    and b is a - W c.  The loss, summed over rows before their step, is returned with
    shape (n, R).
    """
    loss = np.zeros((len(order), table.shape[1]))
    if metric is not None:
        center, P = metric
        root = scipy.linalg.sqrtm(P).real
        inverse = np.linalg.inv(root)
    fast = np.append(np.ones(X.shape[1]) * gain, bias)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        factor = decay[0] + (decay[1] - decay[0]) * start / len(order)
        so_far = before + visits * start / len(order)
        slowed = fast / np.sqrt(1 + so_far / visits_to_slow)
        gain, bias = slowed[:-1], slowed[-1]
        for r in range(table.shape[1]):
            gradients = []
            for t, i in enumerate(rows, start):
                loss[t, r], g = loss_of(W[r] @ X[i] + b[r], y[i], table[:, r])
                gradients.append(factor * step[i] * g)
            own = np.full((len(rows), 1), bias)  # of the intercept
            sizes = factor * step[rows] @ np.append(gain * X[rows] ** 2, own, axis=1)
            part = bound / np.maximum(sizes, bound) if bound < np.inf else sizes**0
            if metric is not None:
                V, a = W[r] @ inverse, b[r] + W[r] @ center
                for i, g in zip(rows, gradients, strict=True):
                    V -= np.outer(g, (X[i] - center) @ root)
                    a -= bias * g
                W[r] = V @ root
                b[r] = a - W[r] @ center
                continue
            for i, g in zip(rows, gradients, strict=True):
                W[r] -= np.outer(g, part[:-1] * gain * X[i])
                b[r] -= part[-1] * bias * g
            W[r] /= 1 + factor * penalty * len(rows)
    return loss


def limited_squares(X, weight):
    """Squares of X; rows of more than four times the median squared length shrink."""
    squares = X.astype(float) ** 2
    lengths = squares.sum(axis=1)
    limit = 4 * np.median(lengths[(lengths > 0) & (weight > 0)])
    for i in np.flatnonzero(lengths > limit):
        squares[i] *= limit / lengths[i]
    return squares


def mean_length(X, weight):
    """Weighted mean of the squared lengths, those of long rows limited."""
    return np.average(limited_squares(X, weight).sum(axis=1), weights=weight)


def feature_gains(X, weight, power=1):
    """1 + log((n + 1) / (n_j + 1)), scaled so that the rows keep their mean square.

    n and n_j are sums of the weights, those of all rows and of the feature's.  Where
    rows have several classes the power is 2.
    """
    n = weight.sum()
    gain = np.array([1 + np.log((n + 1) / (weight @ (x != 0) + 1)) for x in X.T])
    gain **= power
    squares = weight @ limited_squares(X, weight)
    return gain * squares.sum() / (squares @ gain)


def auto_steps(X, weight, factor=4, power=1):
    """Steps (n,) of rows of such weights of one visit, and the options of `sgd_fit`.

    weight (n,) is that of all visits of a row; those above zero are 1 on average.
    """
    n_visits = np.ceil(weight / 2)
    share = weight / np.maximum(n_visits, 1)
    gain, bias = feature_gains(X, weight, power), mean_length(X, weight)
    step = factor * share / np.maximum(X**2 @ gain, bias)
    visits = np.append(weight @ (X != 0), weight.sum())
    return step, dict(weight=share, gain=gain, bias=bias, visits=visits)


def limited(X, weight):
    """Rows of more than four times the median squared length, cut to that."""
    squares = (X.astype(float) ** 2).sum(axis=1)
    return (
        X
        * np.sqrt(limited_squares(X, weight).sum(axis=1) / np.maximum(squares, 1e-300))[
            :, None
        ]
    )


def dense_metric(X, weight):
    """The center (d,) of dense rows and (C + r I)^(-1/2), C their covariance (d, d).

    r is the share d / (d + n) of the mean of C's eigenvalues.
    """
    n, d = np.count_nonzero(weight), X.shape[1]
    share = weight / weight.sum()
    center = share @ limited(X, weight)
    squares = (X.astype(float) ** 2).sum(axis=1)
    cut = limited_squares(X, weight).sum(axis=1) / np.maximum(squares, 1e-300)
    C = (X - center).T @ ((share * cut)[:, None] * (X - center))
    ridge = np.trace(C) / (d + n)
    return center, scipy.linalg.inv(scipy.linalg.sqrtm(C + ridge * np.eye(d)).real)


def dense_steps(X, weight, factor=4):
    """As `auto_steps`, of dense rows one at a time in their metric."""
    n_visits = np.ceil(weight / 2)
    share = weight / np.maximum(n_visits, 1)
    center, P = dense_metric(X, weight)
    lengths = np.einsum("ij,jk,ik->i", X - center, P, X - center)
    limit = 4 * np.median(lengths[(lengths > 0) & (weight > 0)])
    length = np.average(np.minimum(lengths, limit), weights=weight)
    step = factor * share / np.maximum(lengths, length)
    return step, dict(weight=share, bias=0.02 * length, metric=(center, P))


def start_loss(X, codes, n_buckets, weight, metric, shrinkage, scale):
    """Mean log loss of the start by bucket means; W (B, d) and b (B,) of all rows.

    Each row is left out of the mean of its own bucket where it is scored.
    """
    center, P = metric
    Y = X - center

    def classifier(weight):
        total = np.bincount(codes, weight, n_buckets)
        means = np.array([(weight * (codes == k)) @ Y for k in range(n_buckets)])
        means /= (total + shrinkage)[:, None]
        squares = np.einsum("kj,ji,ki->k", means, P, means)
        return scale * means @ P, np.log(total + 0.5) - scale / 2 * squares

    losses = np.zeros(len(X))
    W, a = classifier(weight)
    for i in range(len(X)):
        less = weight * (np.arange(len(X)) != i)
        V, c = classifier(less)
        z, own = W @ Y[i] + a, codes[i]
        z[own] = V[own] @ Y[i] + c[own]
        losses[i] = -np.log(softmax(z)[own])
    b = a - np.log((np.bincount(codes, weight, n_buckets) + 0.5).sum()) - W @ center
    return np.average(losses, weights=weight), W, b


def visited(rows, weight):
    """Every row as often as its weight, 1 on average, is a multiple of two begun."""
    return np.array([i for i in rows for _ in range(int(np.ceil(weight[i] / 2)))])


def sgd_fit(
    X, y, table, n_buckets, orders, step, weight, *, tol=None, n_iter_no_change=5,
    validation=None, visits=0.0, start=None, **options
):  # fmt: skip
    """Train from zero weights, or `start`, an epoch for each of `orders`, in float64.

    The factor of the step falls linearly from one to zero.  A repetition whose mean
    loss (of the rows `validation`, if given, else of the epoch) has not fallen by
    `tol` for `n_iter_no_change` epochs keeps its weights.  Returns W (R, B, d), b
    (R, B) and the epochs (R,) each repetition was trained for.
    """
    R = table.shape[1]
    W, b = np.zeros((R, n_buckets, X.shape[1])), np.zeros((R, n_buckets))
    if start is not None:
        W, b = (np.array(array, float) for array in start)
    n_iter, since_best = np.zeros(R, int), np.zeros(R, int)
    best = np.full(R, np.inf)
    active = np.ones(R, bool)
    for epoch, order in enumerate(orders):
        decay = 1 - epoch / len(orders), 1 - (epoch + 1) / len(orders)
        kept = W[~active].copy(), b[~active].copy()
        losses = sgd_epoch(
            X, y, table, W, b, order, step, decay, visits=visits,
            before=epoch * visits, **options
        )  # fmt: skip
        W[~active], b[~active] = kept
        n_iter += active
        loss = weight[order] @ losses / weight[order].sum()
        if validation is not None:
            share = weight[validation] / weight[validation].sum()
            loss = bucket_loss(X[validation], y[validation], table, W, b, share)
        if tol is not None:
            since_best = np.where(loss > best - tol, since_best + 1, 0)
            best = np.minimum(best, loss)
            active &= since_best < n_iter_no_change
            if not active.any():
                break
    return W, b, n_iter


# ---------------------------------------------------------------------------
# Decoding
# ---------------------------------------------------------------------------


def class_scores(scores, table, merge="sum", offset=None):
    """Score of every class, (n, K): one row and one repetition at a time.

    The sum is in float32, goes through the repetitions in order and ends with the
    offset, which other merges do not have. The median of an even number is the mean of
    the two middle scores.
    """
    n, R, _ = scores.shape
    K = table.shape[0]
    out = np.empty((n, K), dtype=np.float32)
    for i in range(n):
        terms = np.stack([scores[i, r, table[:, r]] for r in range(R)])  # (R, K)
        if merge == "sum":
            total = np.zeros(K, dtype=np.float32)
            for r in range(R):
                total += terms[r]
            if offset is not None:
                total += offset
            out[i] = total
        elif merge == "min":
            out[i] = terms.min(axis=0)
        else:
            terms.sort(axis=0)
            middle = terms[(R - 1) // 2] + terms[R // 2]
            out[i] = middle * np.float32(0.5)
    return out


def stage_scores(scores, table, merge="sum", offset=None):
    """Scores of every class by the first r repetitions, for r = 1..R, each (n, K).

    The offset counts r/R, as the bucket scores are divided by R and not by r.
    """
    R = table.shape[1]
    for r in range(1, R + 1):
        part = None if offset is None else np.float32(r / R) * offset
        yield class_scores(scores[:, :r], table[:, :r], merge, part)


def topk(class_scores, k):
    """Indices and scores of the k best, (n, k): a full sort, ties by class index."""
    n, K = class_scores.shape
    indices = np.empty((n, k), dtype=np.int64)
    for i in range(n):
        indices[i] = np.lexsort((np.arange(K), -class_scores[i]))[:k]
    return indices, np.take_along_axis(class_scores, indices, axis=1)


def rank(class_scores, y):
    """Position of class y[i] in the full sort of row i, (n,)."""
    order, _ = topk(class_scores, class_scores.shape[1])
    return np.argmax(order == np.asarray(y)[:, None], axis=1)


# ---------------------------------------------------------------------------
# Rankings of several labels a row: sets of labels, and lists of columns best first
# ---------------------------------------------------------------------------


def best_columns(scores, k):
    """The k best of {column: score}, best first; the first column of equal scores."""
    return sorted(scores, key=lambda column: (-scores[column], column))[:k]


def row_precision(labels, ranking, k):
    return sum(column in labels for column in ranking[:k]) / k


def row_recall(labels, ranking, k):
    if not labels:
        return 0.0
    return sum(column in labels for column in ranking[:k]) / len(labels)


def row_ndcg(labels, ranking, k):
    if not labels:
        return 0.0
    gain = ideal = 0.0
    for rank in range(1, k + 1):
        if rank <= len(ranking) and ranking[rank - 1] in labels:
            gain += 1 / np.log2(rank + 1)
        if rank <= len(labels):
            ideal += 1 / np.log2(rank + 1)
    return gain / ideal


def psp(all_labels, rankings, weights, k):
    """Gained over attainable weights, both summed over the rows."""
    gained = attainable = 0.0
    for labels, ranking in zip(all_labels, rankings, strict=True):
        gained += sum(weights[column] for column in ranking[:k] if column in labels)
        attainable += sum(sorted((weights[j] for j in labels), reverse=True)[:k])
    return gained / attainable


def inverse_propensities(all_labels, n_labels, a, b):
    """Formula of Jain et al. (2016), one label after the other."""
    n = len(all_labels)
    c = (np.log(n) - 1) * (b + 1) ** a
    counts = [
        sum(label in labels for labels in all_labels) for label in range(n_labels)
    ]
    return [1 + c * (count + b) ** -a for count in counts]


def binary_log_loss(Y, proba):
    """Mean over rows and labels; dense Y and proba (n, K)."""
    total = 0.0
    for labels, row in zip(Y, proba, strict=True):
        for is_label, p in zip(labels, row, strict=True):
            total -= np.log(max(p if is_label else 1 - p, 2.0**-52))
    return total / Y.size


# ---------------------------------------------------------------------------
# Weights in 8 or 4 bits: lists of whole numbers, and lists of bytes
# ---------------------------------------------------------------------------


def halves(numbers):
    """Numbers below 16, two in a byte: the second half above the first."""
    half = (len(numbers) + 1) // 2
    rest = numbers[half:] + [0] * (2 * half - len(numbers))
    return [low + 16 * high for low, high in zip(numbers[:half], rest, strict=True)]


def whole(part, n):
    """The n numbers of `halves`."""
    return ([byte % 16 for byte in part] + [byte // 16 for byte in part])[:n]


def number_bytes(numbers, bits):
    if bits == 8:
        return [number % 256 for number in numbers]
    return halves([number + 8 for number in numbers])


def bytes_to_numbers(part, n, bits):
    if bits == 8:
        return [byte - 256 if byte > 127 else byte for byte in part]
    return [number - 8 for number in whole(part, n)]


def with_gaps(numbers, largest):
    """Pairs: columns that are left out, at most `largest`, and the number behind."""
    pairs, gap = [], 0
    for number in numbers:
        if number or (gap == largest and any(numbers)):
            pairs.append((gap, number))
            gap = 0
        else:
            gap += 1
    while pairs and pairs[-1][1] == 0:
        pairs.pop()
    return pairs


def packed_forms(numbers, bits):
    """The bytes of a feature in each form: full, mask, gaps, short gaps."""
    kept = [number for number in numbers if number]
    if not kept:
        return [[], [], [], []]
    bitmap = [0] * -(-len(numbers) // 8)
    for column, number in enumerate(numbers):
        bitmap[column // 8] += (number != 0) << column % 8
    pairs, short = with_gaps(numbers, 255), with_gaps(numbers, 15)
    if len(short) % 2:
        short.append((0, 0))
    return [
        number_bytes(numbers, bits),
        bitmap + number_bytes(kept, bits),
        [gap for gap, _ in pairs] + number_bytes([z for _, z in pairs], bits),
        halves([gap for gap, _ in short]) + number_bytes([z for _, z in short], bits),
    ]


def unpacked(part, form, bits, width):
    """The numbers (width,) of a feature in form 0, 1, 2 or 3 of `packed_forms`."""
    if not part:
        return [0] * width
    if form == 0:
        return bytes_to_numbers(part, width, bits)
    numbers = [0] * width
    if form == 1:
        n_mask = -(-width // 8)
        bits_set = [part[q // 8] >> q % 8 & 1 for q in range(width)]
        columns = [q for q in range(width) if bits_set[q]]
        values = bytes_to_numbers(part[n_mask:], len(columns), bits)
    else:
        # n gaps of 1 or 1/2 byte, and n numbers of 1 or 1/2 byte, in whole bytes
        n = 0
        while True:
            n_gaps = n if form == 2 else n // 2
            if n_gaps + (n if bits == 8 else (n + 1) // 2) == len(part):
                break
            n += 1 if form == 2 else 2
        gaps = part[:n_gaps] if form == 2 else whole(part[:n_gaps], n)
        values, columns = bytes_to_numbers(part[n_gaps:], n, bits), []
        for gap in gaps:
            columns.append(gap + (columns[-1] + 1 if columns else 0))
    for column, value in zip(columns, values, strict=True):
        if value:
            numbers[column] = value
    return numbers
