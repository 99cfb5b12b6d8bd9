"""Slow versions written from the formulas, to compare the package with.

This file imports nothing from the package.
"""

import numpy as np

# ---------------------------------------------------------------------------
# Decoding
# ---------------------------------------------------------------------------


def class_scores(scores, table, merge="sum", offset=None):
    """Score of every class, (n, K): one row and one repetition at a time.

    The sum is in float32, starts from the offset and goes through the repetitions in
    order. The median of an even number is the mean of the two middle scores.
    """
    n, R, _ = scores.shape
    K = table.shape[0]
    out = np.empty((n, K), dtype=np.float32)
    for i in range(n):
        terms = np.stack([scores[i, r, table[:, r]] for r in range(R)])  # (R, K)
        if merge == "sum":
            total = np.zeros(K, dtype=np.float32)
            if offset is not None:
                total += offset
            for r in range(R):
                total += terms[r]
            out[i] = total
        elif merge == "min":
            out[i] = terms.min(axis=0)
        else:
            terms.sort(axis=0)
            middle = terms[(R - 1) // 2] + terms[R // 2]
            out[i] = middle * np.float32(0.5)
    return out


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
