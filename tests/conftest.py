"""Small problems that several files fit."""

import os

os.environ["MPLBACKEND"] = "Agg"  # figures need no screen
# Small problems: threads that wait for each other take most of the time, and the more
# so beside other tests.  It is read when NumPy is imported.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import scipy.sparse as sp  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402


@pytest.fixture
def blobs():
    """A function that draws classes around random centres, rows of unit length."""

    def make(n_samples=200, n_features=12, n_classes=6, *, noise=0.3, sparse=True):
        rng = np.random.default_rng([n_samples, n_features, n_classes])
        centres = rng.standard_normal((n_classes, n_features))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        y = np.arange(n_samples) % n_classes
        X = centres[y] + noise / np.sqrt(n_features) * rng.standard_normal(
            (n_samples, n_features)
        )
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        return (sp.csr_matrix(X) if sparse else X), y

    return make


@pytest.fixture(params=["float32", "16 bits"])
def storage(request, monkeypatch):
    """How the built-in learner keeps its weights while it is trained on CSR rows."""
    if request.param == "16 bits":  # however few the weights are
        monkeypatch.setattr("sklearn_mach._softmax._CACHED", 0)
    return request.param


@pytest.fixture
def two_blas_threads():
    """BLAS as the package finds it elsewhere: with threads, on which sums depend."""
    with threadpool_limits(2, "blas"):
        yield
