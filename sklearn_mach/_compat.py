"""What must be imported from private places, and what is one for the whole process.

Every private scikit-learn import of the package is here; so are the options and the
cache of Numba, and the number of threads of BLAS.
"""

import os
import pickle
import threading
from contextlib import contextmanager, nullcontext, suppress
from hashlib import sha256

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps
from sklearn.base import _fit_context
from sklearn.ensemble._base import _set_random_states
from sklearn.utils._metadata_requests import _raise_for_params, _routing_enabled
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight
from threadpoolctl import ThreadpoolController

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9 has no callbacks: there is nobody to tell

    class _NoContext:
        def subcontext(self, **kwargs):
            return self

        def propagate_callback_context(self, estimator):
            return nullcontext()

        def call_on_fit_task_begin(self, **kwargs):
            return self

        def call_on_fit_task_end(self, **kwargs):
            return False

    class CallbackSupportMixin:
        def _init_callback_context(self, **kwargs):
            return _NoContext()

    def with_callbacks(method):
        return method


__all__ = [
    "ELEMENTWISE",
    "INNER",
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "StrOptions",
    "_check_sample_weight",
    "_fit_context",
    "_raise_for_params",
    "_routing_enabled",
    "_set_random_states",
    "check_matplotlib_support",
    "njit",
    "one_blas_thread",
    "read_only",
    "unchanged_on_error",
    "with_callbacks",
]


@contextmanager
def unchanged_on_error(estimator):
    """Whatever goes wrong inside, the attributes are those from before.

    Those of the callbacks stay, which `with_callbacks` tears down and removes.
    """
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        for name in ("_callback_fit_ctx", "_skl_callbacks_to_teardown"):
            if name in estimator.__dict__:
                before[name] = estimator.__dict__[name]
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


# Sums may be re-ordered and fused, but NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}
# Here sums over features keep their order too, so that every number is the same
# whatever columns stand beside it.
ELEMENTWISE = _FASTMATH - {"reassoc"}
_OPTIONS = {
    "nogil": True,
    "fastmath": _FASTMATH,
    "error_model": "numpy",  # no branch that raises ZeroDivisionError
    "no_cfunc_wrapper": True,  # the entry from C, a tenth of the time to compile
}
INNER = _OPTIONS | {"no_cpython_wrapper": True, "forceinline": True}


def njit(function=None, *, inner=False, **options):
    """Compile a kernel without the GIL; cached on disk wherever that is possible.

    An inner kernel is called by other kernels only: it is compiled without the entry
    from Python, so that a call from there crashes.  It is always inlined: a kernel that
    calls its own copy finds, in the process that compiles both, the inner kernel as it
    was compiled alone in place of the copy, which is optimised once more and rounds
    otherwise.
    """
    if function is None:
        return lambda function: njit(function, inner=inner, **options)
    options = (INNER if inner else _OPTIONS) | options
    kernel = numba.njit(**options)(function)
    if not numba.config.DISABLE_JIT:
        with suppress(RuntimeError):  # no folder for the cache can be written
            kernel._cache = _Cache(function)
    return kernel


class _Kept(CompileResultCacheImpl):
    """What is kept of a kernel, with a checksum: damaged machine code would crash."""

    def reduce(self, data):
        content = dumps(super().reduce(data))
        return sha256(content).digest(), content

    def rebuild(self, target_context, payload):
        digest, content = payload
        if sha256(content).digest() != digest:
            raise ValueError("The checksum is another.")
        return super().rebuild(target_context, pickle.loads(content))


class _Cache(FunctionCache):
    """A cache on disk whose faults cost a compilation, and nothing else."""

    _impl_class = _Kept

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # files that are cut or damaged raise whatever they like
            with suppress(OSError):  # of a folder that is read-only
                self.flush()
            return None

    def save_overload(self, sig, data):
        # OSError: the disk is full, or the folder is gone or read-only by now.
        # RuntimeError: ctypes lost an interrupt, and with it the code to be kept.
        with suppress(OSError, RuntimeError):
            super().save_overload(sig, data)


def read_only(*arrays):
    """Views that cannot be written: to Numba another type than arrays that can be.

    With one type for both, a kernel is compiled once and rounds alike for both.
    """
    views = [array.view() for array in arrays]
    for view in views:
        view.flags.writeable = False
    return views


_blas_lock = threading.Lock()
_blas_users = set()  # who is inside `one_blas_thread`
_blas_before = []  # the libraries and their numbers of threads before the first came


@contextmanager
def one_blas_thread():
    """BLAS has one thread inside, and again as many as before when the last is out.

    The number is one for the process: `threadpool_limits` in several threads at a time
    would restore what another one had set.
    """
    user = object()
    try:
        with _blas_lock:
            if not _blas_users:  # looking for the libraries takes 4 ms
                found = ThreadpoolController().select(user_api="blas").lib_controllers
                _blas_before[:] = [(blas, blas.num_threads) for blas in found]
            _blas_users.add(user)
            for blas, _ in _blas_before:
                blas.set_num_threads(1)
        yield
    finally:
        with _blas_lock:
            if _blas_users == {user}:
                for blas, n_threads in _blas_before:
                    blas.set_num_threads(n_threads)
            _blas_users.discard(user)


def _forget_blas_users():
    """In a forked process, where threads that were inside or held the lock are gone."""
    global _blas_lock
    _blas_lock = threading.Lock()
    _blas_users.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_blas_users)
