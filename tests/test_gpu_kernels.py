"""The kernels of the GPU and its products."""

import shutil
import subprocess
import sys

import cuda_on_host
import numpy as np
import pytest
from learners import problem
from numpy.testing import assert_array_equal
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
