"""Enough of CuPy, in NumPy, to run `sklearn_mach._gpu*` where there is no GPU.

The kernels are compiled for the host by g++ (`cuda_on_host.cpp`), the arrays are
NumPy's.  This checks the logic of the kernels and of their host code, and that no
buffer is used again before it has been copied; what it cannot check is CuPy itself,
races between streams, and anything about time.
"""

import ctypes
import importlib
import subprocess
import sys
import types
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

import sklearn_mach

MODULES = "_gpu_kernels", "_gpu", "_gpu_model"  # that import CuPy, in this order


class Array(np.ndarray):
    """A NumPy array with the methods that move one between host and device."""

    def get(self, out=None):
        if out is None:
            return np.array(self)
        assert out.flags.c_contiguous and out.shape == self.shape
        out[...] = self

    def set(self, array, stream=None):
        """Copy from the host as late as may be: when the stream is synchronised."""
        assert array.dtype == self.dtype and array.shape == self.shape
        assert array.flags.c_contiguous and self.flags.c_contiguous
        self[...] = 0
        (stream or default_stream).copies.append((self, array))


def _device_array(function):
    return lambda *args, **kwargs: np.asarray(function(*args, **kwargs)).view(Array)


class Kernel:
    """A kernel of the compiled library, called as CuPy's RawKernel is."""

    def __init__(self, function):
        self.function = function

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert block[0] % 32 == 0 and shared_mem <= 4 << 16
        pointers = (ctypes.c_void_p * len(args))()
        keep = []
        for i, arg in enumerate(args):
            if isinstance(arg, Array):
                assert arg.flags.c_contiguous
                arg = np.array(arg.ctypes.data, np.uintp)
            else:  # a Python number would be passed with the wrong width
                assert isinstance(arg, np.generic)
                arg = np.array(arg)
            keep.append(arg)
            pointers[i] = arg.ctypes.data
        grid = (ctypes.c_int * 2)(*grid, *[1] * (2 - len(grid)))
        self.function(pointers, grid, ctypes.c_int(block[0]))


class Device(nullcontext):
    """A card of whose memory nothing is taken."""

    total, count = 1 << 33, 1
    properties = {"name": b"the host", "totalGlobalMem": total}
    attributes = {"MultiProcessorCount": 2, "MaxSharedMemoryPerBlockOptin": 1 << 17}

    def __init__(self, id=0):
        super().__init__(self)
        self.id, self.cublas_handle = id, None

    @property
    def mem_info(self):
        return self.total, self.total

    def synchronize(self):
        pass


class Stream(nullcontext):
    def __init__(self, non_blocking=False):
        super().__init__(self)
        self.copies = []

    def synchronize(self):
        for device, host in self.copies:
            device[...] = host
        self.copies.clear()


default_stream = Stream()


class Cublas:
    """The mode of the products: 0 is float32, 3 is TF32."""

    CUBLAS_DEFAULT_MATH = 0

    def __init__(self):
        self.mode = 3  # as if another library had asked for it

    def getMathMode(self, handle):
        return self.mode

    def setMathMode(self, handle, mode):
        self.mode = mode


def _gemm(cublas, transa, transb, a, b, out=None, alpha=1.0, beta=0.0):
    a, b = (m if t == "N" else m.T for m, t in ((a, transa), (b, transb)))
    assert a.dtype == b.dtype == out.dtype == np.float32
    if cublas.mode == 3:  # 10 bits of the fraction
        a, b = ((m.view(np.int32) & -(1 << 13)).view(np.float32) for m in (a, b))
    with np.errstate(all="ignore"):  # a GPU warns of nothing
        product = np.float32(alpha) * (a @ b)
        out[...] = product + (np.float32(beta) * out if beta else 0)


def load(folder, monkeypatch):
    """Until the test ends the modules that import CuPy run on the host's kernels."""
    cupy, cupyx = types.ModuleType("cupy"), types.ModuleType("cupyx")
    for name in ("arange", "argsort", "ascontiguousarray", "asarray", "empty"):
        setattr(cupy, name, _device_array(getattr(np, name)))
    for name in ("flatnonzero", "isfinite", "ones", "searchsorted", "sqrt", "zeros"):
        setattr(cupy, name, _device_array(getattr(np, name)))
    cupy.argsort = _device_array(lambda a: np.argsort(a, kind="stable"))
    cupy.asarray = _device_array(np.array)  # a copy, as from host to device
    cupy.cublas = types.ModuleType("cupy.cublas")
    cublas = Cublas()
    cupy.cublas.gemm = partial(_gemm, cublas)
    pool = types.SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)
    cupy.get_default_memory_pool = lambda: pool
    cupy.cuda = types.SimpleNamespace(
        Device=Device,
        Stream=Stream,
        cublas=cublas,
        get_current_stream=lambda: default_stream,
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: Device.count,
            getDeviceProperties=lambda number: Device.properties,
            runtimeGetVersion=lambda: 0,
            driverGetVersion=lambda: 0,
        ),
    )
    cupy.copyto, cupy.__version__ = np.copyto, "of the host"
    cupyx.empty_pinned = np.empty

    def raw_module(code, options):
        library = build(code, Path(folder))
        return types.SimpleNamespace(
            get_function=lambda name: Kernel(getattr(library, f"host_{name}"))
        )

    cupy.RawModule = raw_module
    stand_in = {"cupy": cupy, "cupy.cublas": cupy.cublas, "cupyx": cupyx}
    for name, module in stand_in.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in MODULES:  # what was there, or nothing, comes back after the test
        monkeypatch.setitem(sys.modules, f"sklearn_mach.{name}", None)
        monkeypatch.setattr(sklearn_mach, name, None, raising=False)
    for name in MODULES:
        del sys.modules[f"sklearn_mach.{name}"]
    for name in MODULES:
        importlib.import_module(f"sklearn_mach.{name}")


def build(code, folder):
    """The kernels as a library of the host, made once in a folder."""
    if (folder / "kernels.so").exists():
        return ctypes.CDLL(str(folder / "kernels.so"))
    (folder / "kernels.cu").write_text(code)
    source, target = Path(__file__).with_name("cuda_on_host.cpp"), folder / "kernels.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-ffp-contract=off"]
    flags.append("-U_FORTIFY_SOURCE")  # which takes a jump to a fiber for an error
    where = f'-DKERNELS="{folder / "kernels.cu"}"'
    subprocess.run(["g++", *flags, where, source, "-o", target], check=True)
    return ctypes.CDLL(str(target))
