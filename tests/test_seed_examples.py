"""The paper's experiments, small: what their scripts print, and the best they claim."""

import gzip
import importlib
import json
import os
import re
import subprocess
import sys
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from helpers import needs_compilation

import sklearn_mach
from sklearn_mach.datasets import read_vw

EXAMPLES = Path(__file__).parents[1] / "examples"
ODP_SIZES = ["--scale", "0.005", "--test-rows", "500"]
ODP_SMALL = ["--repetitions", "4", "--buckets", "16", "--epochs", "2", "--threads", "1"]
IMAGENET_SIZES = ["--rows", "1500", "--features", "40", "--classes", "50"]
IMAGENET_SMALL = ["--repetitions", "3", "--buckets", "16", "--threads", "1"]


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def lines_of(name, folder, *args):
    """What a script prints."""
    env = {key: os.environ[key] for key in os.environ if key != "PYTHONSAFEPATH"}
    command = [sys.executable, EXAMPLES / f"{name}.py", *map(str, args)]
    run = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return run.stdout.splitlines()


def number(lines, words):
    """The numbers behind some words."""
    [*found] = re.findall(rf"{words} ([\d.]+)", "\n".join(lines))
    return [float(value) for value in found]


@pytest.fixture
def small_odp(script):
    odp = script("odp")
    return odp, odp.Problem(odp.Sizes(3_000, 120, 12, 500, 0.3, 0.2))


def test_the_rows_of_odp_are_drawn_as_promised(small_odp):
    odp, problem = small_odp
    rng = np.random.default_rng(0)
    y = problem.labels(40_000, rng)
    shares = np.bincount(y, minlength=12) / y.size
    np.testing.assert_allclose(shares, problem.shares, atol=0.01)
    assert problem.shares.sum() == pytest.approx(1)
    columns = problem.columns(y, rng)
    assert (columns >= problem.low).all() and (columns < problem.high).all()
    # a column that no class owns has the chance (1 - s) p_j
    first = problem.low[odp.N_PLAIN]
    counts = np.bincount(columns[:, odp.N_PLAIN :].ravel() - first)
    free = np.setdiff1d(np.arange(counts.size), problem.marks - first)
    expected = 0.7 * problem.chances()[free]
    assert free.size > 5
    np.testing.assert_allclose(counts[free] / y.size, expected, atol=0.01)


def test_the_best_accuracy_of_odp_is_that_of_bayes_rule(small_odp):
    odp, problem = small_odp
    rng = np.random.default_rng(1)
    y = problem.labels(3_000, rng)
    columns = problem.columns(y, rng)
    labels, chances = problem.best(columns, n_together=999)
    s, e = 0.3, 0.2
    runs = list(zip(problem.low.tolist(), problem.high.tolist(), strict=True))
    for i in range(200):
        logs = [log(share) for share in problem.shares]
        for r, (low, high) in enumerate(runs):
            j = int(columns[i, r])
            p = log((j + 2) / (j + 1)) / log((high + 1) / (low + 1))
            for k in range(12):
                owned = r >= odp.N_PLAIN and problem.marks[k, r - odp.N_PLAIN] == j
                plain = p if r < odp.N_PLAIN else (1 - s) * p
                logs[k] += log(plain + (s if owned else 0))
        joint = [exp(value - max(logs)) for value in logs]
        of_y = [
            (1 - e) * p / sum(joint) + e * share
            for p, share in zip(joint, problem.shares, strict=True)
        ]
        assert labels[i] == np.argmax(of_y)
        assert chances[i] == pytest.approx(max(of_y))
    error = 4 * np.sqrt(0.25 / y.size)
    assert abs(np.mean(labels == y) - chances.mean()) < error


def test_the_text_of_odp_is_what_was_drawn(script, tmp_path):
    odp = script("odp")
    sizes = odp.Sizes(1_500, 300, 40, 1_500, 0.3, 0.2)
    problem = odp.Problem(sizes)
    y = problem.labels(1_500, np.random.default_rng(2), all_classes=True)
    path = tmp_path / "rows.vw"
    columns = odp.write_vw(path, problem, y, np.random.default_rng(3))
    [(X, read)] = read_vw(path, n_features=300)
    np.testing.assert_array_equal(read, y)
    np.testing.assert_array_equal(X.indices.reshape(columns.shape), columns)
    np.testing.assert_allclose(X.data, 0.1414, rtol=1e-6)
    assert np.unique(y).size == 40


@needs_compilation
def test_odp_streams_and_merges_parts_to_one_fit(tmp_path):
    given = "--folder", "rows", *ODP_SIZES, *ODP_SMALL
    lines = lines_of("odp", tmp_path, *given, "--compare", "--save", "odp.json")
    assert all(line.startswith("synthetic: ") for line in lines)
    streamed, loaded, _ = number(lines, "top-1")
    [best, *_] = number(lines, "best possible")
    assert 0.9 * loaded < streamed <= best + 0.05
    result = json.loads((tmp_path / "odp.json").read_text())
    assert all(len(row) == len(result["head"]) for row in result["rows"])
    assert sum(row[0].startswith("synthetic: ") for row in result["rows"]) == 3

    for i in range(2):
        part = "--part", f"{i}/2", "--model", f"{i}.mach"
        lines = lines_of("odp", tmp_path, *given, *part)
        assert lines[-1] == f"synthetic: part {i}/2 has 2 repetitions"
    merged = lines_of("odp", tmp_path, *given, "--merge", "0.mach", "1.mach")
    assert number(merged, "top-1") == [streamed]

    # the same rows as the real files come: no line says synthetic
    for name in ("odp_train.vw", "odp_test.vw"):
        text = (tmp_path / "rows" / name).read_bytes()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text, 1))
    files = "--train", "odp_train.vw.gz", "--test", "odp_test.vw.gz"
    real = *files, "--features", 2113, *ODP_SMALL, "--model", "whole.mach"
    lines = lines_of("odp", tmp_path, *real)
    assert number(lines, "top-1") == [streamed]
    assert not any("synthetic" in line or "best possible" in line for line in lines)
    whole, *parts = (
        sklearn_mach.load(tmp_path / f"{name}.mach") for name in ("whole", 1, 0)
    )
    np.testing.assert_array_equal(sklearn_mach.merge(parts).coef_, whole.coef_)


def test_the_best_accuracy_of_imagenet_is_that_of_bayes_rule(script):
    module = script("imagenet22k")
    sizes = {"features": 5, "classes": 7, "noise": 2.0, "mislabelled": 0.3, "seed": 0}
    centers, rng = module.centers_of(sizes), np.random.default_rng(1)
    np.testing.assert_allclose((centers**2).sum(axis=1), 1, rtol=1e-5)
    y = rng.integers(0, 7, 20_000)
    X = module.make_rows(y, centers, sizes, rng)
    assert X.dtype == np.float16
    found, variance, chances = module.best_labels(X, centers), 2.0**2 / 5, []
    for x, label in zip(X.astype(float), found, strict=True):
        logs = -((x - centers) ** 2).sum(axis=1) / (2 * variance)
        joint = np.exp(logs - logs.max())
        of_y = 0.7 * joint / joint.sum() + 0.3 / 7
        chances.append(of_y[label])
        assert of_y[label] > of_y.max() - 1e-5
    assert abs(np.mean(found == y) - np.mean(chances)) < 4 * np.sqrt(0.25 / y.size)


@needs_compilation
def test_imagenet_streams_shards(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    given = *IMAGENET_SIZES, "--test-rows", "500", *IMAGENET_SMALL
    saved = "--folder", "shards", "--save", "found.json"
    lines = lines_of("imagenet22k", tmp_path, *given, *saved)
    assert all(line.startswith("synthetic: ") for line in lines)
    [top1], [best, *_] = number(lines, "top-1"), number(lines, "best possible")
    assert 0.3 < top1 <= best + 0.05
    result = json.loads((tmp_path / "found.json").read_text())
    assert all(len(row) == len(result["head"]) for row in result["rows"])
    assert result["rows"][-1][0].startswith("synthetic: ")
    again = lines_of("imagenet22k", tmp_path, *given, "--folder", "shards")
    assert "has the shards already" in again[0]
    assert number(again, "top-1") == [top1]

    # the same rows as real shards: no line says synthetic
    for path in (tmp_path / "shards").glob("*.X.npy"):
        name = path.name.removesuffix(".X.npy")
        X, y = np.load(path), np.load(path.with_name(f"{name}.y.npy"))
        columns = {"features": list(X.astype(np.float32)), "label": y}
        kind = pyarrow.list_(pyarrow.float32(), X.shape[1])
        columns["features"] = pyarrow.array(columns["features"], kind)
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
    for end in ("shards/{}-*.X.npy", "{}-*.parquet"):
        files = "--train", end.format("train"), "--test", end.format("test")
        lines = lines_of("imagenet22k", tmp_path, *files, *IMAGENET_SMALL)
        assert not any("synthetic" in line for line in lines)
        assert number(lines, "top-1") == pytest.approx([top1], abs=0.05)
