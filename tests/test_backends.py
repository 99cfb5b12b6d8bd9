"""Devices."""

import sys

import pytest

from sklearn_mach._backends import resolve_device


def test_devices_that_are_there():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")


def test_without_a_gpu_auto_is_the_cpu_and_cuda_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "sklearn_mach._gpu", raising=False)
    monkeypatch.delattr("sklearn_mach._gpu", raising=False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="CuPy cannot be imported.*pip install"):
        resolve_device("cuda")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU"])
def test_devices_that_are_not_there(device):
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used.*'cpu'"):
        resolve_device(device)
