"""A fit that is stopped, and called again, ends with the bits of one that was not."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import assert_same_model
from numpy.testing import assert_array_equal
from several import planted
from sklearn.tree import DecisionTreeClassifier

import sklearn_mach
from sklearn_mach import (
    MACHClassifier,
    MACHClassifierCV,
    _checkpoints,
    _spool,
    _steps,
    _streams,
    merge,
)
from sklearn_mach._planning import Plan
from sklearn_mach._targets import Targets
from sklearn_mach.datasets import make_many_classes

KW = dict(n_repetitions=6, n_buckets=16, random_state=0, max_iter=5)


def data(kind="sparse", n=11_000):
    if kind == "several":
        X, Y, _ = planted(n, d=20, K=30)
        return X, Y
    dense = kind == "dense"
    return make_many_classes(n, 60, 80, dense=dense, random_state=0)


class Stopped(BaseException):
    """As a kill would, nothing but what is on the disk survives it."""


@pytest.fixture
def stop_after(monkeypatch):
    """A function: the fit ends when so many states are kept."""
    save = _checkpoints.Kept.save

    def stop_after(n_kept):
        counts = [0]

        def save_and_stop(kept, *args):
            save(kept, *args)
            counts[0] += 1
            if counts[0] == n_kept:
                raise Stopped

        monkeypatch.setattr(_checkpoints.Kept, "save", save_and_stop)

    return stop_after


def blocks(X, y):
    return [(X[i : i + 1000], y[i : i + 1000]) for i in range(0, X.shape[0], 1000)]


def fit(model, X, y, streamed):
    return model.fit(blocks(X, y)) if streamed else model.fit(X, y)


@pytest.mark.parametrize("kind", ["sparse", "dense", "several", "16 bits"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("n_kept", [1, 3, 8])
def test_it_goes_on_to_the_same_bits(
    kind, streamed, n_kept, tmp_path, stop_after, monkeypatch
):
    if kind == "16 bits":
        monkeypatch.setattr(_steps, "_CACHED", 0)
    monkeypatch.setattr(_streams, "_KEPT_SECONDS", 0)  # after each block
    monkeypatch.setattr(_spool, "_BLOCK_BYTES", 1 << 18)
    X, y = data(kind)
    whole = fit(MACHClassifier(**KW, n_jobs=2), X, y, streamed)
    folder = tmp_path / "state"
    model = MACHClassifier(**KW, n_jobs=2, checkpoint=folder)
    stop_after(min(n_kept, 4) if kind == "dense" else n_kept)  # of five
    with pytest.raises(Stopped):
        fit(model, X, y, streamed)
    assert not hasattr(model, "classes_")  # nor half fitted
    assert os.listdir(folder)
    stop_after(-1)
    again = MACHClassifier(**KW, n_jobs=3, checkpoint=str(folder))
    assert_same_model(fit(again, X, y, streamed), whole)
    assert_array_equal(again.predict_proba(X[:9]), whole.predict_proba(X[:9]))
    assert not folder.exists()


@pytest.mark.parametrize("streamed", [False, True])
def test_epochs_that_are_done_are_not_done_again(
    streamed, tmp_path, stop_after, capsys
):
    X, y = data()
    model = MACHClassifier(**KW, n_jobs=1, verbose=1, checkpoint=tmp_path)
    stop_after(3)
    with pytest.raises(Stopped):
        fit(model, X, y, streamed)
    assert capsys.readouterr().out.count("epoch") == 3
    stop_after(-1)
    fit(model, X, y, streamed)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 4/5", "epoch 5/5"]


def test_blocks_that_are_done_are_not_done_again(tmp_path, stop_after, monkeypatch):
    monkeypatch.setattr(_streams, "_KEPT_SECONDS", 0)
    monkeypatch.setattr(_spool, "_BLOCK_BYTES", 1 << 18)
    n_rows, step_over = [], _streams.step_over

    def count(state, rows, targets, table, settings, order, *args):
        n_rows.append(order.size)
        return step_over(state, rows, targets, table, settings, order, *args)

    monkeypatch.setattr(_streams, "step_over", count)
    X, y = data()
    model = MACHClassifier(**KW, n_jobs=1, checkpoint=tmp_path)
    fit(model, X, y, streamed=True)
    whole = n_rows.copy()
    n_rows.clear()
    stop_after(7)  # in the middle of an epoch
    with pytest.raises(Stopped):
        fit(model, X, y, streamed=True)
    assert 0 < len(n_rows) < len(whole) - 1
    assert sum(n_rows) % (sum(whole) // 5)
    stop_after(-1)
    fit(model, X, y, streamed=True)
    assert n_rows == whole


@pytest.mark.parametrize("n_jobs", [1, 2, 3, 6])
def test_the_number_of_threads_may_change(n_jobs, tmp_path, stop_after):
    X, y = data(n=2000)
    whole = MACHClassifier(**KW).fit(X, y)
    stop_after(4)
    with pytest.raises(Stopped):
        MACHClassifier(**KW, n_jobs=2, checkpoint=tmp_path).fit(X, y)
    stop_after(-1)
    again = MACHClassifier(**KW, n_jobs=n_jobs, checkpoint=tmp_path)
    assert_same_model(again.fit(X, y), whole)


def test_blocks_keep_to_those_with_files(tmp_path):
    for name in ("repetitions-2-5.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    checkpoint = _checkpoints.Checkpoint(tmp_path, "")
    found = checkpoint.blocks(np.array_split(np.arange(8), 2))
    assert [block.tolist() for block in found] == [[0, 1], [2, 3, 4], [5, 6, 7]]


def test_other_files_in_the_folder_stay(tmp_path):
    X, y = data(n=500)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".sklearn_mach-0123456789abcdef.tmp").touch()  # of a killed write
    MACHClassifier(**KW, checkpoint=tmp_path).fit(X, y)
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("streamed", [False, True])
def test_another_fit_is_refused(streamed, tmp_path, stop_after):
    X, y = data(n=2000)
    stop_after(2)
    model = MACHClassifier(**KW, checkpoint=tmp_path)
    with pytest.raises(Stopped):
        fit(model, X, y, streamed)
    stop_after(-1)
    files = sorted(os.listdir(tmp_path))
    other = X.copy()
    other.data[5] += 1
    labels = y.copy()
    labels[0] = labels[1]
    assert labels[0] != y[0]
    for given, parameters in (
        ((other, y), {}),
        ((X, labels), {}),
        ((X, y), {"random_state": 1}),
        ((X, y), {"max_iter": 6}),
        ((X, y), {"n_buckets": 17}),
    ):
        changed = MACHClassifier(**(KW | parameters), checkpoint=tmp_path)
        with pytest.raises(ValueError, match="is of another fit.*delete this one"):
            fit(changed, *given, streamed)
        assert sorted(os.listdir(tmp_path)) == files
    fit(model, X, y, streamed)


def test_damaged_files_are_refused(tmp_path, stop_after):
    X, y = data(n=2000)
    stop_after(2)
    model = MACHClassifier(**KW, n_jobs=1, checkpoint=tmp_path)
    with pytest.raises(Stopped):
        model.fit(X, y)
    stop_after(-1)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be read|damaged"):
            model.fit(X, y)
    path.write_bytes(content)
    assert_same_model(model.fit(X, y), MACHClassifier(**KW).fit(X, y))


def test_added_repetitions_and_shares_have_checkpoints_too(tmp_path, stop_after):
    X, y = data(n=2000)
    whole = MACHClassifier(**KW).fit(X, y)
    model = MACHClassifier(**(KW | {"n_repetitions": 3}), warm_start=True)
    model.fit(X, y).set_params(n_repetitions=6, checkpoint=tmp_path)
    stop_after(2)
    with pytest.raises(Stopped):
        model.fit(X, y)
    stop_after(-1)
    assert_same_model(model.fit(X, y), whole)
    parts = []
    for i in range(2):
        folder = tmp_path / str(i)
        part = MACHClassifier(**KW, part=(i, 2), checkpoint=folder)
        stop_after(2)
        with pytest.raises(Stopped):
            part.fit(X, y)
        stop_after(-1)
        parts.append(part.fit(X, y))
    assert_same_model(merge(parts), whole)


def test_it_stays_in_this_process_whatever_the_backend(tmp_path, stop_after):
    X, y = data(n=2000)
    whole = MACHClassifier(**KW).fit(X, y)
    model = MACHClassifier(**KW, checkpoint=tmp_path)
    stop_after(2)
    with joblib.parallel_config("loky", n_jobs=2):
        with pytest.raises(Stopped):
            model.fit(X, y)
        stop_after(-1)
        assert_same_model(model.fit(X, y), whole)


def test_what_has_no_checkpoint_says_so(tmp_path):
    X, y = data(n=500)
    for random_state in (None, np.random.RandomState(0)):
        kw = KW | {"random_state": random_state}
        with pytest.raises(ValueError, match="needs an integer random_state"):
            MACHClassifier(**kw, checkpoint=tmp_path).fit(X, y)
    base = DecisionTreeClassifier()
    with pytest.raises(ValueError, match="checkpoint=.* is for the built-in learner"):
        MACHClassifier(base, checkpoint="there").fit(X, y)
    with pytest.raises(ValueError, match="cannot be used|is for training on the CPU"):
        MACHClassifier(**KW, device="cuda", checkpoint="there").fit(X, y)
    search = MACHClassifierCV(MACHClassifier(**KW, checkpoint="there"), n_buckets=[8])
    with pytest.raises(ValueError, match="a search does many"):
        search.fit(X, y)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        MACHClassifier(**KW, checkpoint=tmp_path / "file").fit(X, y)


def test_a_path_is_saved_as_its_name(tmp_path):
    X, y = data(n=500)
    model = MACHClassifier(**KW, checkpoint=tmp_path / "state").fit(X, y)
    model.save(tmp_path / "model")
    loaded = sklearn_mach.load(tmp_path / "model")
    assert loaded.checkpoint == str(tmp_path / "state")


SCRIPT = """
    import sys
    import numpy as np
    import sklearn_mach
    from sklearn_mach.datasets import make_many_classes

    X, y = make_many_classes(30_000, 500, 3000, n_nonzeros=30, random_state=0)
    model = sklearn_mach.MACHClassifier(
        n_repetitions=16, n_buckets=64, max_iter=12, random_state=0, n_jobs=2,
        checkpoint=sys.argv[1],
    )
    model.fit(X, y)
    np.save(sys.argv[2], model.coef_)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_a_process_that_is_killed_is_started_again(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(textwrap.dedent(SCRIPT))
    package = str(Path(sklearn_mach.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": package}

    def start(folder, result):
        command = [sys.executable, script, tmp_path / folder, tmp_path / result]
        return subprocess.Popen(command, env=environment)

    assert start("unused", "whole.npy").wait() == 0
    for n_epochs in (1, 4):
        process = start("state", "again.npy")
        while process.poll() is None:  # ends when so many epochs are on the disk
            time.sleep(0.01)
            states = list((tmp_path / "state").glob("rep*"))
            ages = {_checkpoints._files.read(path).values["epoch"] for path in states}
            if ages and min(ages) >= n_epochs:
                process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert any((tmp_path / "state").glob("repetitions-*"))
    assert start("state", "again.npy").wait() == 0
    assert_array_equal(np.load(tmp_path / "again.npy"), np.load(tmp_path / "whole.npy"))


def test_rows_of_a_mapped_or_sparse_x_have_one_key(tmp_path):
    X, y = data("dense", n=500)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")

    class Parameters:
        checkpoint = tmp_path

        def get_params(self, deep):
            return {"checkpoint": tmp_path, "n_jobs": 1, "random_state": 0}

    plan = Plan(np.zeros((60, 2), np.uint8), 2)

    def key(X):
        given = Parameters(), X, Targets.of(y.astype(np.int32)), None, plan, None
        return _checkpoints.Checkpoint.of_fit(*given).key

    assert key(X) == key(mapped) != key(X + 1)
    sparse = sp.csr_matrix(X)
    assert key(sparse) == key(sp.csr_array(sparse)) != key(X)
