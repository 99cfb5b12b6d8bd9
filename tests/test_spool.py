"""Rows in a temporary file, and blocks of rows on their way there."""

import threading
import time
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from sklearn_mach import MACHClassifier, _spool
from sklearn_mach._sources import is_source, store
from sklearn_mach._spool import Spool, read_ahead
from sklearn_mach._targets import Targets


def rows(n=60, d=9, seed=0, sparse=True):
    X = sp.random(n, d, 0.4, "csr", np.float32, random_state=seed)
    return X if sparse else X.toarray()


def dense(X):
    return X.toarray() if sp.issparse(X) else X


def classes_of(targets):
    """A set of classes for each row."""
    pairs = zip(targets.starts[:-1], targets.starts[1:], strict=True)
    return [set(targets.classes[a:b].tolist()) for a, b in pairs]


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_rows_are_read_as_they_were_written_in_any_order(
    sparse, several, weighted, monkeypatch
):
    monkeypatch.setattr(_spool, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(_spool, "_BLOCK_BYTES", 600)
    rng = np.random.default_rng(0)
    X, weight = rows(sparse=sparse), rng.random(60) if weighted else None
    Y = sp.csr_array(rng.random((60, 5)) < 0.4).astype(np.int8)
    y = rng.integers(0, 5, 60).astype(np.int32)
    targets = Targets.of_indicator(Y) if several else Targets.of(y)
    spool = Spool(9, sparse, several, weighted)
    for part in (slice(0, 25), slice(25, 26), slice(26, 60)):
        part_weight = weight[part] if weighted else None
        numbers = np.arange(60)[part]
        spool.append(X[part], targets.take(numbers), part_weight)
    spool.sort_classes(np.arange(5, dtype=np.int32))
    assert spool.shape == (60, 9)
    assert spool.n_values == (X.nnz if sparse else X.size)
    assert spool.n_chunks > 10
    for order in (None, rng.permutation(spool.n_chunks)):
        found, n_before = [], 0
        for block in spool.blocks(order):
            assert_array_equal(dense(block.X), dense(X)[block.numbers])
            assert sp.issparse(block.X) == sparse
            assert classes_of(block.targets) == [
                classes_of(targets)[i] for i in block.numbers
            ]
            if weighted:
                assert_array_equal(block.weight, weight[block.numbers])
            else:
                assert block.weight is None
            assert block.n_before == n_before
            n_before += block.numbers.size
            found.append(block.numbers)
        assert len(found) > 3
        assert_array_equal(np.sort(np.concatenate(found)), np.arange(60))
        later = list(spool.blocks(order, 2))
        assert_array_equal(later[0].numbers, found[2])
        assert later[0].n_before == found[0].size + found[1].size
    expected = np.ones(60) if weight is None else weight
    n = 5
    member = Y.toarray() if several else np.eye(n)[y]
    stored = spool.targets
    np.testing.assert_allclose(stored.sums(None, n), expected @ member)
    assert_array_equal(stored.counts, member.sum(axis=0))
    np.testing.assert_allclose(stored.mean_classes(), member.sum(axis=1).mean())


def test_a_row_larger_than_a_chunk_and_rows_without_values(monkeypatch):
    monkeypatch.setattr(_spool, "_CHUNK_BYTES", 8)
    X = rows(8).toarray()
    X[2:5] = 0
    X = sp.csr_array(X)
    spool = Spool(9, True, False, False)
    spool.append(X, Targets.of(np.zeros(8, np.int32)), None)
    spool.sort_classes(np.zeros(1, np.int32))
    (block,) = spool.blocks()
    assert_array_equal(block.X.toarray(), X.toarray())


def test_reading_ahead_gives_all_items_and_their_errors():
    assert list(read_ahead(range(7))) == list(range(7))
    assert list(read_ahead([])) == []

    def fails():
        yield 1
        raise KeyError("of the source")

    items = read_ahead(fails())
    assert next(items) == 1
    with pytest.raises(KeyError, match="of the source"):
        next(items)


def test_the_next_item_is_made_while_this_one_is_in_use():
    made = threading.Event()

    def items():
        yield 1
        made.set()
        yield 2

    reader = read_ahead(items())
    next(reader)
    assert made.wait(10)  # without being asked for
    n_threads = threading.active_count()
    reader.close()
    assert threading.active_count() < n_threads


def test_one_block_is_read_ahead_and_no_more():
    made = []
    reader = read_ahead(made.append(i) or i for i in range(9))
    next(reader)
    time.sleep(0.05)
    assert len(made) <= 2


class Blocks:
    """A re-iterable source of blocks of so many rows, that counts its passes."""

    def __init__(self, X, *arrays, n=7):
        self.arrays, self.n, self.passes = (X, *arrays), n, 0

    def __iter__(self):
        self.passes += 1
        for start in range(0, self.arrays[0].shape[0], self.n):
            yield tuple(array[start : start + self.n] for array in self.arrays)


def stored(source, **parameters):
    model = MACHClassifier(**parameters)
    spool, classes = store(model, source)
    return model, spool, classes


@pytest.mark.parametrize(
    "labels",
    [[30, 10, 20], ["b", "a", "ccc"], [20.0, -5.0, 1.0], [True, False]],
    ids=["int", "str", "float", "bool"],
)
def test_labels_are_sorted_though_they_come_in_any_order(labels):
    X, y = rows(), np.array(labels)[np.arange(60) * 7 // 60 % len(labels)]
    if y.dtype.kind == "U":
        y = y.astype(object)  # whose width cannot cut a label
    model, spool, classes = stored(Blocks(X, y))
    assert_array_equal(classes, np.unique(y))
    (block,) = spool.blocks()
    assert_array_equal(classes[block.targets.classes], y)
    assert model.n_features_in_ == 9
    counts = np.unique(y, return_counts=True)[1]
    assert_array_equal(spool.targets.counts, counts)


def test_strings_of_later_blocks_may_be_longer():
    blocks = [(rows(2), np.array(["b", "c"])), (rows(2), np.array(["aaaa", "b"]))]
    classes = stored(blocks)[2]
    assert_array_equal(classes, ["aaaa", "b", "c"])


def test_weights_are_those_of_rows_times_those_of_classes():
    X, y, weight = rows(), np.arange(60) % 3, np.linspace(0, 2, 60)
    source = Blocks(X, y, weight)
    _, spool, _ = stored(source, class_weight={0: 2, 1: 0.5})
    (block,) = spool.blocks()
    np.testing.assert_allclose(block.weight, weight * np.array([2, 0.5, 1])[y])
    assert source.passes == 1


def test_what_a_source_is():
    X, y = rows(), np.arange(60) % 3
    assert is_source(Blocks(X, y), None)
    assert is_source([(X, y)], None)
    assert is_source(iter([(X, y)]), None)
    for no_source in (X, X.toarray(), X.toarray().tolist(), "rows", None, [], {}):
        assert not is_source(no_source, None)
        assert not is_source(no_source, y)
    assert not is_source([(1, 2), (3, 4)], [0, 1])  # rows as tuples


BAD = {
    "gave no block": iter([]),
    "Block 2 of X is of type list": iter([(rows(), np.arange(60)), [1]]),
    "Block 1 of X is of type tuple": [(rows(),)],
    "Block 2 of X: .*features": [(rows(), np.arange(60)), (rows(d=8), np.arange(60))],
    "Block 2 of X: it has dense rows, but the first had sparse": [
        (rows(), np.arange(60)),
        (rows(sparse=False), np.arange(60)),
    ],
    "Block 2 of X: it has a sample_weight, but the first had no": [
        (rows(), np.arange(60)),
        (rows(), np.arange(60), np.ones(60)),
    ],
    "Block 2 of X: it has several labels a row, but the first had one": [
        (rows(), np.arange(60)),
        (rows(), np.eye(60, 5)),
    ],
    "Block 2 of X: y has 5 columns, but the first block had 4": [
        (rows(), np.eye(60, 4)),
        (rows(), np.eye(60, 5)),
    ],
    "Block 2 of X: .*types that cannot be compared, such as .*'a'.*one type": [
        (rows(), np.arange(60)),
        (rows(), np.full(60, "a")),
    ],
    "Block 1 of X: .*NaN": [(rows(), np.full(60, np.nan))],
    "Block 1 of X: .*inconsistent": [(rows(), np.arange(59))],
    "Block 1 of X: Negative values": [(rows(), np.arange(60), -np.ones(60))],
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_with_a_block_is_said(message):
    model = MACHClassifier()
    with pytest.raises(ValueError, match=message):
        model.fit(BAD[message])
    assert vars(model).keys() == model.get_params().keys()


def test_what_does_not_go_with_a_source_is_said():
    blocks = [(rows(), np.arange(60) % 3)]
    with pytest.raises(ValueError, match="sample_weight was passed beside"):
        MACHClassifier().fit(blocks, sample_weight=np.ones(60))
    with pytest.raises(ValueError, match="'balanced' is not known block by block"):
        MACHClassifier(class_weight="balanced").fit(blocks)
    with pytest.raises(ValueError, match="weights of all rows are zero"):
        MACHClassifier(class_weight=dict.fromkeys(range(3), 0)).fit(blocks)
    with pytest.raises(ValueError, match="requires y"):
        MACHClassifier().fit(rows())


def test_errors_of_the_source_come_through():
    def source():
        yield rows(), np.arange(60) % 3
        raise OSError("the network is down")

    with pytest.raises(OSError, match="network is down"):
        MACHClassifier().fit(source())


def test_a_full_disk_is_reported_with_what_to_do(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "_write", full)
    with pytest.raises(OSError, match="no room for the rows in .*TMPDIR"):
        MACHClassifier().fit([(rows(), np.arange(60) % 3)])


def test_memory_is_that_of_some_blocks(monkeypatch):
    """Sixteen times the rows, and the same peak."""
    monkeypatch.setattr(_spool, "_CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr(_spool, "_BLOCK_BYTES", 1 << 18)
    block = rows(2000, 50, sparse=False), np.arange(2000) % 7
    block_bytes = block[0].nbytes

    def peak(n_blocks):
        tracemalloc.start()
        _, spool, _ = stored(block for _ in range(n_blocks))
        order = np.random.default_rng(0).permutation(spool.n_chunks)
        total = sum(part.X.shape[0] for part in read_ahead(spool.blocks(order)))
        assert total == 2000 * n_blocks
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(4), peak(64)
    assert large < small + block_bytes
