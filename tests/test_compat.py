"""Compiled kernels, the same in every process; a cache that may fail; BLAS threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from numba.core.codegen import CPUCodeLibrary
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_mach._compat import njit, one_blas_thread

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
from sklearn_mach import MACHClassifier, _sgd, _steps
from sklearn_mach.datasets import make_many_classes

def print_bits(name, *arrays):
    for array in arrays:
        print(name, hashlib.sha1(np.ascontiguousarray(array)).hexdigest())

X, y = make_many_classes(1000, n_classes=200, n_features=300, random_state=0)
for name, cached, rows in (
    ("16 bits", 0, X), ("float32", 1 << 60, X), ("dense", 1 << 60, X.toarray())
):
    _steps._CACHED = cached
    model = MACHClassifier(
        n_repetitions=4, n_buckets=64, max_iter=2, learning_rate="auto", random_state=0
    ).fit(rows, y)
    print_bits(name, model.bucket_table_, model.coef_, model.intercept_)
    print_bits(name, model.predict_topk(rows[:99], k=3, return_scores=True)[1])
    print_bits(name, model.decision_function(rows[:99]))
model.decoder = "mean"
print_bits("mean", model.predict_topk(rows[:99], k=3, return_scores=True)[1])
print_bits("mean", model.predict_proba(rows[:99]))
print("hits", sum(_sgd._rows_csr.stats.cache_hits.values()))
"""


@needs_compilation
def test_a_process_that_loads_kernels_rounds_as_one_that_compiled_them(tmp_path):
    *compiled, no_hits = run(FITS, tmp_path).splitlines()
    *loaded, hits = run(FITS, tmp_path).splitlines()
    assert (no_hits, hits) == ("hits 0", "hits 1")
    assert loaded == compiled


def double(x):
    return 2 * x


def cache_hits():
    """Compile `double` anew or load it, as a process does; whether it was loaded."""
    kernel = njit(double)
    assert kernel(21) == 42
    return sum(kernel.stats.cache_hits.values())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache of `double`, which was compiled once."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert cache_hits() == 0
    assert cache_hits() == 1
    return tmp_path


@needs_compilation
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage", ["cut at 0", "cut at 10", "cut at 500", "one byte", "noise"]
)
def test_a_damaged_cache_is_compiled_again_and_mended(cache, kind, damage):
    (file,) = cache.rglob(f"*.{kind}")
    content = file.read_bytes()
    if damage == "noise":
        file.write_bytes(content[:20] + b"\xff" * (len(content) - 40) + content[-20:])
    elif damage == "one byte":  # of the machine code, or of the checksum of the source
        at = content.index(b".text") if kind == "nbc" else len(content) // 2
        file.write_bytes(content[:at] + b"!" + content[at + 1 :])
    else:
        file.write_bytes(content[: min(int(damage.split()[-1]), len(content) // 2)])
    assert cache_hits() == 0
    assert cache_hits() == 1


@needs_compilation
def test_kernels_work_where_the_folder_of_the_cache_is_gone(cache):
    kernel = njit(double)
    for folder in cache.iterdir():
        shutil.rmtree(folder)
        Path(folder).write_text("no folder any more")
    assert kernel(21) == 42


@needs_compilation
def test_a_kernel_whose_code_cannot_be_kept_is_used_all_the_same(cache, monkeypatch):
    def lost(self):  # after an interrupt in the call that hands the code over
        raise RuntimeError(f"no compiled object yet for {self}")

    monkeypatch.setattr(CPUCodeLibrary, "_get_compiled_object", lost)
    assert njit(double)(21.5) == 43.0


@pytest.fixture
def blas_threads():
    """A function that gives the numbers of threads of the libraries, two at first."""

    def numbers():
        found = threadpool_info()
        return {lib["num_threads"] for lib in found if lib["user_api"] == "blas"}

    with threadpool_limits(2, "blas"):
        if numbers() != {2}:
            pytest.skip("BLAS cannot be given two threads")
        yield numbers


def test_the_last_of_all_who_overlap_gives_blas_its_threads_back(blas_threads):
    first, second = one_blas_thread(), one_blas_thread()
    with first:
        second.__enter__()
        assert blas_threads() == {1}
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == {2}


def test_an_interrupt_gives_blas_its_threads_back(blas_threads):
    with pytest.raises(KeyboardInterrupt), one_blas_thread(), one_blas_thread():
        raise KeyboardInterrupt
    assert blas_threads() == {2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked")
def test_a_forked_process_does_not_wait_for_threads_it_does_not_have(tmp_path):
    code = """
import os, signal, warnings
from sklearn_mach import _compat
warnings.simplefilter("ignore")  # of forks beside threads, here those of BLAS
with _compat._blas_lock:  # as another thread may hold it
    child = os.fork()
    if not child:
        signal.alarm(20)
        with _compat.one_blas_thread():
            os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    assert run(code, tmp_path) == "0\n"
