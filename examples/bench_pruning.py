"""Would skipping classes pay in decoding? The most that a perfect bound could save.

    python examples/bench_pruning.py [FOLDER ...] [--rows 2048]

A class is better than the best so far only if its deficits, how far each of its bucket
scores is below the largest of the repetition, sum to less than D. Then in any m
repetitions at least one of its deficits is below D / m, and only the classes of the
buckets with such deficits need scoring. Here every row is told the score of its best
class beforehand, which no real search knows: the share of classes left is the least
there could be, and so is the time. It is printed beside the time of `decode_topk`, for
all rows and for those with at most 5 % of the classes left. A FOLDER is as for
``bench_defaults.py``; without one, the tokens of Python's standard library are taken.
"""

import argparse
from pathlib import Path
from statistics import median
from time import thread_time

import numba
import numpy as np
from bench_defaults import load
from sklearn.preprocessing import normalize

from sklearn_mach import MACHClassifier
from sklearn_mach._decoding import decode_topk, prepare

MOST = 8  # repetitions that may be chosen


@numba.njit
def pruned(scores, table, classes, ends, best_score, best, share):
    """Best class (n,) and share of the classes scored (n,), given the best score (n,).

    classes (R, K): ordered by bucket; ends (R, B + 1): of the buckets therein.
    """
    n, R, B = scores.shape
    K = table.shape[0]
    deficits = np.empty((R, B), np.float32)
    counts = np.empty((MOST + 1, R), np.int64)
    for i in range(n):
        ceiling = 0.0
        for r in range(R):
            largest = scores[i, r].max()
            ceiling += largest
            for b in range(B):
                deficits[r, b] = largest - scores[i, r, b]
        below = ceiling - best_score[i] + 1e-4  # and the rounding of the sums
        m, fewest = 1, R * K
        for j in range(1, min(MOST, R) + 1):
            for r in range(R):
                counts[j, r] = 0
                for b in range(B):
                    if deficits[r, b] <= below / j:
                        counts[j, r] += ends[r, b + 1] - ends[r, b]
            total = np.sort(counts[j])[:j].sum()
            if total < fewest:
                m, fewest = j, total
        share[i] = fewest / K
        top, best[i] = np.float32(-np.inf), K
        for r in np.argsort(counts[m])[:m]:
            for b in range(B):
                if deficits[r, b] > below / m:
                    continue
                for k in classes[r, ends[r, b] : ends[r, b + 1]]:
                    score = np.float32(0)
                    for q in range(R):
                        score += scores[i, q, table[k, q]]
                    if score > top or (score == top and k < best[i]):
                        top, best[i] = score, k


def study(name, X, y, n_rows):
    """Print one line for a data set."""
    rows = np.random.default_rng(0).permutation(len(y))
    held, train = np.split(rows, [min(n_rows, len(y) // 10)])
    X = normalize(X)
    model = MACHClassifier(n_jobs=-1, random_state=0).fit(X[train], y[train])
    table = model.bucket_table_
    scores = model._fitted.model.bucket_scores(X[held], model._how())
    (K, R), B = table.shape, scores.shape[2]
    prepared = prepare(table, B)
    classes = np.argsort(table, axis=0, kind="stable").T.copy()
    ends = np.zeros((R, B + 1), np.int64)
    for r in range(R):
        ends[r, 1:] = np.cumsum(np.bincount(table[:, r], minlength=B))

    def times(scores):
        expected, values = decode_topk(scores, table, 1, prepared=prepared)
        best, share = np.empty(len(scores), np.int64), np.empty(len(scores))
        seconds = []
        for _ in range(6):
            start = thread_time()
            decode_topk(scores, table, 1, prepared=prepared)
            middle = thread_time()
            pruned(scores, table, classes, ends, values[:, 0], best, share)
            seconds.append((middle - start, thread_time() - middle))
        assert np.array_equal(best, expected[:, 0])
        block, skipping = np.median(seconds[1:], axis=0) * 1e6 / len(scores)
        return block, skipping, share

    block, skipping, share = times(scores)
    line = f"{name:14}{K:7,}{R:4}{share.mean():9.1%}{median(share):9.1%}"
    line += f"{block:9.1f}{skipping:9.1f}"
    sure = share <= 0.05
    line += f"{sure.mean():9.1%}"
    if sure.sum() >= 64:
        block, skipping, _ = times(scores[sure])
        line += f"{block:9.1f}{skipping:9.1f}"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=2048)
    args = parser.parse_args()
    print("Held-out training rows, k = 1; times in microseconds a row, one thread.\n")
    print(f"{'':25}  classes left         all rows   rows with at most 5 % left")
    print(f"{'set':14}{'K':>7}{'R':>4}{'mean':>9}{'median':>9}", end="")
    print(f"{'block':>9}{'pruned':>9}{'share':>9}{'block':>9}{'pruned':>9}")
    for folder in args.folders or [None]:
        name = "tokens" if folder is None else folder.name
        study(name, *load(folder), args.rows)


if __name__ == "__main__":
    main()
