"""Small problems that several files fit."""

import os

import numpy as np
import pytest
import scipy.sparse as sp

os.environ["MPLBACKEND"] = "Agg"  # figures need no screen


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


@pytest.fixture
def sixteen_bits(monkeypatch):
    """However few the weights are, they have 16 bits while they are trained."""
    monkeypatch.setattr("sklearn_mach._steps._CACHED", 0)


@pytest.fixture(params=["float32", "16 bits"])
def storage(request):
    """How the built-in learner keeps its weights while it is trained on CSR rows."""
    if request.param == "16 bits":
        request.getfixturevalue("sixteen_bits")
    return request.param
