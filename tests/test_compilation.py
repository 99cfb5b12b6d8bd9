"""Compiled kernels: the same bits in every process."""

import os
import subprocess
import sys

import numba
import pytest

needs_compilation = pytest.mark.skipif(
    numba.config.DISABLE_JIT, reason="kernels are not compiled"
)


def run(code, cache, **environment):
    """What a new process prints that keeps its kernels in the folder `cache`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FITS = """
import hashlib
import numpy as np
from sklearn_mach import MACHClassifier, _softmax
from sklearn_mach.datasets import make_many_classes

def print_bits(name, *arrays):
    for array in arrays:
        print(name, hashlib.sha1(np.ascontiguousarray(array)).hexdigest())

X, y = make_many_classes(1000, n_classes=200, n_features=300, random_state=0)
for name, cached, rows in (
    ("16 bits", 0, X), ("float32", 1 << 60, X), ("dense", 1 << 60, X.toarray())
):
    _softmax._CACHED = cached
    model = MACHClassifier(
        n_repetitions=4, n_buckets=64, max_iter=2, learning_rate="auto", random_state=0
    ).fit(rows, y)
    print_bits(name, model.bucket_table_, model.coef_, model.intercept_)
    print_bits(name, model.predict_topk(rows[:99], k=3, return_scores=True)[1])
    print_bits(name, model.decision_function(rows[:99]))
model.decoder = "mean"
print_bits("mean", model.predict_topk(rows[:99], k=3, return_scores=True)[1])
print_bits("mean", model.predict_proba(rows[:99]))
print("hits", sum(_softmax._sgd_rows_csr.stats.cache_hits.values()))
"""


@needs_compilation
def test_a_process_that_loads_kernels_rounds_as_one_that_compiled_them(tmp_path):
    *compiled, no_hits = run(FITS, tmp_path).splitlines()
    *loaded, hits = run(FITS, tmp_path).splitlines()
    assert (no_hits, hits) == ("hits 0", "hits 1")
    assert loaded == compiled
