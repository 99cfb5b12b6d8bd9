"""Devices."""

import sys
from types import SimpleNamespace

import cuda_on_host
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_mach import MACHClassifier, _cpu
from sklearn_mach._backends import KINDS, Backend, resolve_device


def test_devices_that_are_there():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")


def test_without_a_gpu_auto_is_the_cpu_and_cuda_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    for name in cuda_on_host.MODULES:
        monkeypatch.delitem(sys.modules, f"sklearn_mach.{name}", raising=False)
        monkeypatch.delattr(f"sklearn_mach.{name}", raising=False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="CuPy cannot be imported.*pip install"):
        resolve_device("cuda")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "cpu:0", "cpu:"])
def test_devices_that_are_not_there(device):
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used.*'cpu'"):
        resolve_device(device)


@pytest.fixture
def calls(monkeypatch):
    """The first arguments of the calls of "slow", a kind of device that is the CPU."""
    calls = {}

    def recorded(name):
        def function(*args, **options):
            calls[name] = args[0]
            return getattr(_cpu, name)(*args, **options)

        return function

    def check(number):
        if number is not None and number > 1:
            raise ValueError("there are two of them")

    names = Backend._fields
    kind = SimpleNamespace(
        NAMES="'slow'",
        NUMBERED=True,
        LEAST_WORK=1000,
        HAS_UNITS=True,
        check=check,
        **{name: recorded(name) for name in names},
    )
    monkeypatch.setitem(KINDS, "slow", kind)
    return calls


@pytest.mark.parametrize("decoder", ["log_mean", "min", "median"])
def test_a_kind_of_device_is_an_entry_of_the_table(calls, blobs, monkeypatch, decoder):
    X, y = blobs()

    def fit(device):
        model = MACHClassifier(
            n_repetitions=3,
            n_buckets=4,
            decoder=decoder,
            device=device,
            batch_size=1,
            random_state=0,
        )
        return model.fit(X, y)

    expected, model = fit("cpu"), fit("slow:1")
    assert model.device_ == "slow:1"
    assert_array_equal(model.coef_, expected.coef_)
    for method in ("predict", "predict_proba", "decision_function"):
        assert_array_equal(getattr(model, method)(X), getattr(expected, method)(X))
    assert calls.keys() == set(Backend._fields)
    assert calls["train_all"] == calls["scorer"] == 1
    monkeypatch.delitem(KINDS, "slow")
    assert_array_equal(model.predict(X), expected.predict(X))


def test_auto_takes_the_last_kind_that_is_worth_it(calls):
    X, y = np.eye(5), np.arange(5)
    for n_buckets, device in ((2, "cpu"), (4, "slow")):
        model = MACHClassifier(n_repetitions=10, n_buckets=n_buckets, random_state=0)
        assert model.set_params(device="auto").fit(X, y).device_ == device
        assert (calls.get("train_all", 1) is None) == (device == "slow")
    assert resolve_device("auto") == "slow"
    KINDS["slow"].LEAST_WORK = None
    assert resolve_device("auto") != "slow"


def test_a_kind_says_what_it_has_and_what_is_missing(calls):
    with pytest.raises(ValueError, match="'cpu', 'cuda' for all .*, 'slow'"):
        resolve_device("fast")
    with pytest.raises(ValueError, match="'slow:2' cannot be used: there are two of"):
        resolve_device("slow:2")
    assert resolve_device("slow") == "slow"
