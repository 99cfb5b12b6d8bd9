"""Devices, and small problems, that several files use."""

import os
import shutil
import sys
import sysconfig

os.environ["MPLBACKEND"] = "Agg"  # figures need no screen
# Small problems: threads that wait for each other take most of the time, and the more
# so beside other tests.  It is read when NumPy is imported.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import cuda_on_host  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import scipy.sparse as sp  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from sklearn_mach import _cuda  # noqa: E402
from sklearn_mach._backends import resolve_device  # noqa: E402


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory):
    """Where the kernels of GPUs are compiled for the host, once."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs Linux and g++ to compile the kernels for the host")
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def host_gpu(kernel_folder, monkeypatch):
    """The modules of the GPU; the device "cuda" is a stand-in on the host."""
    cuda_on_host.load(kernel_folder, monkeypatch)
    return _cuda.modules()


@pytest.fixture(params=["cpu", "host", "cuda"])
def device(request):
    """The name of a device; CPU and GPU are held to the same references."""
    if request.param == "host":
        request.getfixturevalue("host_gpu")
    elif request.param == "cuda":
        try:
            resolve_device("cuda")
        except ValueError as error:
            pytest.skip(str(error))
    return "cpu" if request.param == "cpu" else "cuda"


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


@pytest.fixture
def two_blas_threads():
    """BLAS as the package finds it elsewhere: with threads, on which sums depend."""
    with threadpool_limits(2, "blas"):
        yield


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A function that puts a small standard library in place of the real one."""

    def make(files, folder="lib"):
        root = tmp_path / folder
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            text = text if isinstance(text, bytes) else text.encode()
            (root / path).write_bytes(text)
        monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(root)})
        return root

    return make
