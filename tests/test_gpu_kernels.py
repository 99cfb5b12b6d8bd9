"""The kernels of the GPU and its products."""

import shutil
import subprocess
import sys

import cuda_on_host
import numpy as np
import pytest
import reference
from learners import problem
from numpy.testing import assert_allclose, assert_array_equal
from test_gpu import fitted

import sklearn_mach
from sklearn_mach import _cuda


def test_the_stand_in_leaves_nothing_behind(kernel_folder):
    names = [f"sklearn_mach.{name}" for name in cuda_on_host.MODULES]

    def state():
        loaded = [sys.modules.get(name) for name in [*names, "cupy", "cupyx"]]
        return loaded, dict(vars(sklearn_mach))

    before = state()
    with pytest.MonkeyPatch.context() as patch:
        cuda_on_host.load(kernel_folder, patch)
        for module in vars(_cuda.modules()).values():
            assert module.cupy.__version__ == "of the host"
    assert state() == before


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
def test_the_kernels_compile(tmp_path, host_gpu, compiler):
    (tmp_path / "k.cu").write_text(host_gpu.kernels.SOURCE)
    if compiler == "nvcc":
        if shutil.which("nvcc") is None:
            pytest.skip("nvcc is not installed")
        command = ["nvcc", "-std=c++17", "-cubin", "-arch=sm_80"]
        command += [tmp_path / "k.cu", "-o", tmp_path / "k.cubin"]
    else:
        script = (
            "import sys; from cupy_backends.cuda.libs import nvrtc\n"
            "p = nvrtc.createProgram(open(sys.argv[1]).read(), 'k.cu', (), ())\n"
            "try:\n"
            "    nvrtc.compileProgram(p, ('-std=c++17', '-arch=sm_80'))\n"
            "except Exception:\n"
            "    sys.exit(nvrtc.getProgramLog(p))\n"
        )
        command = [sys.executable, "-c", "import cupy_backends"]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("CuPy, and so NVRTC, is not installed")
        command = [sys.executable, "-c", script, tmp_path / "k.cu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_products_are_in_tf32_only_if_cupy_is_asked_for_it(host_gpu, monkeypatch):
    X, y, _, table = problem()
    monkeypatch.delenv("CUPY_TF32", raising=False)
    plain = fitted(X, y, table)
    monkeypatch.setenv("CUPY_TF32", "0")
    for a, b in zip(plain, fitted(X, y, table), strict=True):
        assert_array_equal(a, b)
    monkeypatch.setenv("CUPY_TF32", "1")
    for a, b in zip(plain, fitted(X, y, table), strict=True):
        assert 1e-5 < np.abs(a - b).max() < 2e-2  # ten bits of the numbers
    assert host_gpu.kernels.cupy.cuda.cublas.mode == 3  # as it was found


def sigmoid_gradients(logits, classes, table, step, weight, rate):
    """What the kernel makes of logits (n, R, B): their gradients, and losses (n, R)."""
    kernels, (n, R, B) = _cuda.modules().kernels, logits.shape
    cupy = kernels.cupy
    pitch = kernels.padded(R * B)
    Z, b = np.zeros((n, pitch), np.float32), cupy.zeros(pitch, np.float32)
    Z[:, : R * B] = logits.reshape(n, -1)
    Z, losses = cupy.asarray(Z), cupy.zeros((n, R), np.float32)
    starts = cupy.asarray(np.cumsum([0, *map(len, classes)]))
    ints = np.concatenate(classes), table
    arrays = [cupy.asarray(np.asarray(array, np.int32)) for array in ints]
    arrays += [cupy.asarray(array) for array in (step, weight, rate)]
    sizes = 1, (R, B), "sigmoid", kernels.GRADIENT
    W = cupy.zeros((1, pitch), np.float32)
    learn = starts, *arrays, 0.5, losses
    kernels.score_rows(n, None, W, b, *sizes, Z, learn)
    return Z.get()[:, : R * B].reshape(n, R, B), losses.get()


@pytest.mark.parametrize("B", [1, 40, 1024, 2100])
def test_gradients_of_sigmoids_equal_the_reference(device, B):
    if device == "cpu":
        pytest.skip("the CPU's are tested where they are")
    rng = np.random.default_rng(B)
    # Where P is next to one the gradient is exact, too, and none overflows.
    logits = 20 * rng.standard_normal((5, 2, B)).astype(np.float32)
    logits[:, :, -1] = [[300, -300], [-300, 300], [300, 300], [-300, -300], [88, -88]]
    table = rng.integers(0, B, (60, 2))
    table[7], table[8] = B - 1, B - 1
    classes = [rng.choice(60, size, replace=False) for size in (0, 1, 2, 20, 60)]
    step, weight = rng.random((2, 5)).astype(np.float32)
    rate = np.array([1, 0.25], np.float32)
    found, losses = sigmoid_gradients(logits, classes, table, step, weight, rate)
    for i in range(5):
        for r in range(2):
            z = logits[i, r].astype(float)
            loss, gradient = reference.sigmoid_loss(z, classes[i], table[:, r])
            expected = 0.5 * step[i] * rate[r] * gradient
            assert_allclose(found[i, r], expected, rtol=1e-5, atol=1e-37)
            assert_allclose(losses[i, r], weight[i] * loss, rtol=1e-5, atol=1e-37)


def test_logits_that_overflow_give_a_loss_that_is_refused(device):
    if device == "cpu":
        pytest.skip("the CPU's are tested where they are")
    logits = np.zeros((4, 1, 2), np.float32)
    logits[:, 0, 1] = np.inf, -np.inf, np.inf, -np.inf
    classes = [[0], [0], [1], [1]]
    ones = np.ones(4, np.float32)
    args = classes, np.array([[0], [1]]), ones, ones, ones[:1]
    assert not np.isfinite(sigmoid_gradients(logits, *args)[1]).any()
