"""Tests of the readers, against scikit-learn and parsers in plain Python."""

import gzip
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from sklearn_mach import MACHClassifier
from sklearn_mach.datasets import (
    make_many_classes,
    read_parquet,
    read_svmlight,
    read_vw,
)

NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
LARGEST = 3.4028235e38
READERS = {"svmlight": read_svmlight, "vw": read_vw}


def slow_number(token):
    """The float32 of a token, as Python reads it."""
    if not NUMBER.fullmatch(token) or abs(float(token)) > LARGEST:
        raise ValueError
    return np.float32(float(token))


def slow_label(token, n_labels):
    if not NUMBER.fullmatch(token):
        raise ValueError
    label = Fraction(token.decode())
    if label.denominator != 1 or abs(label) > 9223372036854775799:
        raise ValueError
    if n_labels and not 0 <= label < n_labels:
        raise ValueError
    return int(label)


def slow_labels(token, n_labels):
    tokens = token.split(b",") if n_labels else [token]
    return [slow_label(part, n_labels) for part in tokens]


def slow_index(token, n_features, zero_based):
    if not re.fullmatch(rb"\d+", token):
        raise ValueError
    index = int(token) - (not zero_based)
    if not 0 <= index < n_features:
        raise ValueError
    return index


def slow_row(features):
    """The sums in float32, in the order of the line."""
    row = {}
    for index, value in features:
        row[index] = total = row.get(index, 0) + np.float64(value)
        if abs(total) > LARGEST:
            raise ValueError
        row[index] = np.float32(total)
    return sorted(row.items())


def slow_svmlight(line, n_features, zero_based, n_labels, weights):
    tokens = line.split(b"#")[0].split()
    if not tokens:
        return None
    labels = []
    if not n_labels or not re.match(rb"\d*:", tokens[0]):
        labels = slow_labels(tokens.pop(0), n_labels)
    if tokens and tokens[0].startswith(b"qid:"):
        tokens.pop(0)
    features = []
    for token in tokens:
        index, _, value = token.partition(b":")
        index = slow_index(index, n_features, zero_based)
        features.append((index, slow_number(value)))
    return labels, slow_row(features), np.float32(1)


def slow_vw(line, n_features, zero_based, n_labels, weights):
    if not line.split():
        return None
    head, *spaces = line.split(b"|")
    if not spaces:
        raise ValueError
    tokens, labels, weight = head.split(), [], np.float32(1)
    if tokens and (head[-1:].strip() or tokens[-1].startswith(b"'")):
        tokens.pop()
    if tokens or not n_labels:
        labels = slow_labels(tokens.pop(0) if tokens else b"", n_labels)
    if tokens and weights:
        weight = slow_number(tokens.pop(0))
    if tokens or weight < 0:
        raise ValueError
    features = []
    for space in spaces:
        tokens, scale = space.split(), np.float32(1)
        if space[:1].strip():
            _, colon, value = tokens.pop(0).partition(b":")
            if colon:
                scale = slow_number(value)
        for token in tokens:
            index, colon, value = token.partition(b":")
            index = slow_index(index, n_features, zero_based)
            value = slow_number(value) if colon else np.float32(1)
            value = np.float64(value) * np.float64(scale)
            if abs(value) > LARGEST:
                raise ValueError
            features.append((index, np.float32(value)))
    return labels, slow_row(features), weight


SLOW = {"svmlight": slow_svmlight, "vw": slow_vw}


def slow_rows(kind, text, **options):
    """Rows of a text, and the numbers of its malformed lines."""
    rows, bad = [], []
    for number, line in enumerate(text.split(b"\n"), 1):
        try:
            row = SLOW[kind](line, **options)
        except ValueError:
            bad.append(number)
        else:
            if row is not None:
                rows.append(row)
    return rows, bad


def rows_of(blocks):
    """Rows as `slow_rows` has them."""
    rows = []
    for X, y, *weight in blocks:
        n = X.shape[0]
        assert X.dtype == np.float32 and X.indices.dtype == np.int32
        assert n and X.nnz == X.indices.size == X.data.size
        X.check_format()
        weight = weight[0] if weight else np.ones(n, np.float32)
        assert weight.dtype == np.float32
        if sp.issparse(y):
            y.check_format()
            assert y.dtype == np.int8 and (y.data == 1).all()
            labels = [y.indices[slice(*y.indptr[i : i + 2])].tolist() for i in range(n)]
        else:
            assert y.dtype == np.int64
            labels = [[label] for label in y.tolist()]
        assert len(labels) == weight.size == n
        for i in range(n):
            part = slice(*X.indptr[i : i + 2])
            assert (np.diff(X.indices[part]) > 0).all()
            row = list(zip(X.indices[part].tolist(), X.data[part], strict=True))
            rows.append((labels[i], row, weight[i]))
    return rows


def joined(blocks):
    X, y = zip(*blocks, strict=True)
    return sp.vstack(X, format="csr"), np.concatenate(y)


def recorded(reader):
    """A list that gets the messages of malformed lines."""
    messages, report = [], reader._report

    def record(message):
        messages.append(message)
        report(message)

    reader._report = record
    return messages


def assert_same_csr(X, Y):
    assert X.shape == Y.shape
    np.testing.assert_array_equal(X.indptr, Y.indptr)
    np.testing.assert_array_equal(X.indices, Y.indices)
    np.testing.assert_array_equal(X.data.view(np.uint32), Y.data.view(np.uint32))


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and gives its path."""

    def write(content, name="rows.txt"):
        content = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        return str(path)

    return write


@pytest.fixture
def svmlight(tmp_path):
    """A path, and X and y that scikit-learn wrote there."""
    rng = np.random.default_rng(0)
    X = sp.random_array((60, 30), density=0.2, rng=rng, format="csr")
    X.data *= 10.0 ** rng.integers(-12, 12, X.nnz)
    X.data[::3] = rng.integers(1, 9, X.data[::3].size)
    y = rng.integers(-5, 1000, 60)
    path = str(tmp_path / "rows.svm")
    dump_svmlight_file(X, y, path, zero_based=False, comment="two\nlines")
    return path, X, y


# ---------------------------------------------------------------------------
# Right lines
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_svmlight_is_what_scikit_learn_loads(svmlight, tmp_path, compressed):
    path, _, y = svmlight
    X, loaded = load_svmlight_file(path, n_features=30)
    if compressed:  # in two parts; the bytes say so, and not the name
        content = Path(path).read_bytes()
        parts = content[:999], content[999:]
        path = tmp_path / "packed"
        path.write_bytes(b"".join(map(gzip.compress, parts)))
    blocks = list(read_svmlight(path, n_features=30, block_bytes=500))
    assert len(blocks) > 5
    ours, labels = joined(blocks)
    assert_same_csr(ours, X.astype(np.float32))
    np.testing.assert_array_equal(labels, y)
    np.testing.assert_array_equal(labels, loaded)


def test_several_labels_are_what_scikit_learn_loads(tmp_path):
    rng = np.random.default_rng(0)
    X = sp.random_array((40, 9), density=0.4, rng=rng, format="csr")
    Y = sp.random_array((40, 7), density=0.2, rng=rng, format="csr")
    Y.data[:] = 1
    path = str(tmp_path / "rows.svm")
    dump_svmlight_file(X, Y, path, multilabel=True, zero_based=True)
    options = {"multilabel": True, "n_features": 9, "zero_based": True}
    _, labels = load_svmlight_file(path, **options)
    blocks = list(read_svmlight(path, n_labels=7, block_bytes=300, **options))
    assert_same_csr(sp.vstack([X for X, _ in blocks]), X.astype(np.float32))
    assert [row[0] for row in rows_of(blocks)] == [
        list(map(int, row)) for row in labels
    ]


LINES = {
    "svmlight": (
        b"1 1:2 3:4.5\n# a comment\n\n \t\n-7 qid:3 2:1e-3 # more 9:9\r\n"
        b"+3.0 3:1 1:2 3:5\n4\n20e-1 5:0.1#\n 6\t1:1 \x0b5:-2\n900000000000000001 4:1"
    ),
    "vw": (
        b"1 | 1:2 3:4.5\n\n \r\n-7 'tag | 2:1e-3 4\r\n+3.0 tag| 3:1 1:2 3:5\n4 |\n4 |ns"
        b"\n2 |a:0.5 1:3 4|b 1:1|c:1e1 5 5:0.1\n 6\t| 1:1 \x0b5:-2 |\n8 || 2\n7 | 4"
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_blocks_of_any_size_are_the_same_rows(kind, write):
    text, options = LINES[kind], {"n_features": 5, "zero_based": False}
    expected, bad = slow_rows(kind, text, n_labels=None, weights=False, **options)
    assert len(expected) >= 7 and not bad
    for content in (text, text + b"\n"):
        for path in (write(content), write(content, "rows.gz")):
            for block_bytes in range(1, len(content) + 2):
                blocks = READERS[kind](path, block_bytes=block_bytes, **options)
                assert rows_of(blocks) == expected


def test_importance_weights(write):
    path = write("1 0.5 | 1\n2 | 2\n3 0 'a | 1:2\n4 1e-1| 2\n5 .1 x| 0")
    X, y, weight = next(iter(read_vw(path, n_features=3, weights=True)))
    assert X.toarray().tolist() == [
        [0, 1, 0],
        [0, 0, 1],
        [0, 2, 0],
        [0, 0, 1],
        [1, 0, 0],
    ]
    assert y.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(weight, np.float32([0.5, 1, 0, 1, 0.1]))


HARD = """
16777217 16777219 33554434 9007199254740993 123456789012345678901 922337203685477580
9223372036854775799 9223372036854775809 3.4028235e38 -3.4028235E+38 1e-45 1e-46
340282350000000000000000000000000000000 7.006492321624085e-46 7.006492321624086e-46
1e-400 1e-99999999999999999 0e99999999999999999999 -0 0 .5 5. +1 1E2 1e+2 1e-2 0.1
0000000000000000000000000000001.5 0.30000000000000004 2.2250738585072014e-308
"""


def hard_numbers():
    """Numbers at and near what lies midway between two float32, and long ones."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x7F7FFFFF, 40).astype(np.uint32)
    bits = np.concatenate([bits, np.uint32([0, 1, 2, 0x7FFFFF, 0x800000, 0x7F7FFFFE])])
    for low, high in zip(
        bits.view(np.float32), (bits + 1).view(np.float32), strict=True
    ):
        middle = (Decimal(float(low)) + Decimal(float(high))) / 2
        double = float(middle)
        yield from (f"{middle:f}", f"{middle:e}", f"{low}", f"-{high}")
        yield from (f"{np.nextafter(double, to):.17g}" for to in (0, 1))
        yield from (f"{middle:f}1", f"{middle:f}"[:-1] + "4999999999999999999999")
    yield from HARD.split()
    yield from ("0." + "0" * 60 + "1e61", "1" + "0" * 38, "1" + "0" * 60 + "e-60")
    for _ in range(100):
        digits = "".join(map(str, rng.integers(0, 10, rng.integers(1, 30))))
        point = rng.integers(0, len(digits))
        number = (
            f"{digits[:point]}.{digits[point:]}e{rng.integers(-60, 39 - len(digits))}"
        )
        yield number


@pytest.mark.parametrize("kind", LINES)
def test_numbers_are_those_of_python(kind, write):
    numbers = [n for n in hard_numbers() if abs(float(n)) <= LARGEST]
    assert len(numbers) > 300
    expected = np.array(list(map(float, numbers))).astype(np.float32)
    label = "0 " if kind == "svmlight" else "0 |"
    single = "".join(f"{label} 0:{number}\n" for number in numbers)
    row = label + "".join(f" {j}:{number}" for j, number in enumerate(numbers))
    X, _ = joined(READERS[kind](write(single), n_features=1, zero_based=True))
    np.testing.assert_array_equal(X.data.view("u4"), expected.view("u4"))
    X, _ = joined(READERS[kind](write(row), n_features=len(numbers), zero_based=True))
    np.testing.assert_array_equal(X.data.view("u4"), expected.view("u4"))


def test_hard_numbers_are_weights_too(write):
    hard = "1.00000005960464477539062500000001"  # one rounding makes it 1.0000001
    value = np.float32(float(hard))
    path = write(f"1 {hard} |a:{hard} 0:{hard} 1:2\n1 {hard} |a:{hard} 1:2\n")
    scaled = np.float32(value * np.float64(value))
    assert rows_of(read_vw(path, n_features=2, weights=True)) == [
        ([1], [(0, scaled), (1, 2 * value)], value), ([1], [(1, 2 * value)], value)
    ]  # fmt: skip


def test_many_features_of_a_row_in_any_order(write):
    rng = np.random.default_rng(0)
    indices, values = rng.integers(0, 500, 2000), rng.integers(1, 100, 2000)
    line = " ".join(f"{i}:{v}" for i, v in zip(indices, values, strict=True))
    ((X, y),) = read_vw(write(f"3 | {line}\n"), n_features=500)
    np.testing.assert_array_equal(
        X.toarray()[0], np.bincount(indices, values, minlength=500)
    )
    assert y.tolist() == [3] and X.has_sorted_indices


def mutated(kind, rng, n_lines):
    """Lines, some of them damaged."""
    alphabet = b"0123456789:.|eE+- \t#,'qidx\r\x00\xc3\n"
    lines = []
    for _ in range(n_lines):
        label = b",".join(b"%d" % rng.integers(0, 5) for _ in range(rng.integers(1, 3)))
        parts = [label, b"|"] if kind == "vw" else [label]
        if kind == "vw" and rng.random() < 0.3:
            parts.insert(1, b"%.2g" % rng.random())
        for _ in range(rng.integers(0, 5)):
            parts.append(b"%d:%.4g" % (rng.integers(0, 9), rng.standard_normal()))
            if kind == "vw" and rng.random() < 0.3:
                parts.append(b"|n:%.2g" % rng.random() if rng.random() < 0.5 else b"3")
        line = bytearray(b" ".join(parts))
        for _ in range(rng.integers(0, 3)):
            place, byte = rng.integers(0, len(line) + 1), rng.choice(list(alphabet))
            line[place : place + rng.integers(0, 2)] = bytes([byte])
        lines.append(bytes(line))
    return b"\n".join(lines)


@pytest.mark.parametrize("n_labels", [None, 5])
@pytest.mark.parametrize(
    "kind, weights", [("svmlight", False), ("vw", False), ("vw", True)]
)
def test_damaged_lines_are_those_of_the_slow_parser(kind, weights, n_labels, write):
    rng = np.random.default_rng([len(kind), weights, n_labels or 0])
    options = {"n_features": 9, "zero_based": kind == "vw"}
    given = {"multilabel": n_labels is not None, "n_labels": n_labels, **options}
    if kind == "vw":
        given["weights"] = weights
    for _ in range(20):
        text = mutated(kind, rng, 40)
        rows, bad = slow_rows(kind, text, n_labels=n_labels, weights=weights, **options)
        rows = [(sorted(set(labels)), row, weight) for labels, row, weight in rows]
        reader = READERS[kind](
            write(text), block_bytes=200, on_bad_lines="skip", **given
        )
        messages = recorded(reader)
        assert rows_of(reader) == rows
        numbers = [int(re.search(r"line (\d+)", m)[1]) for m in messages]
        assert numbers == bad and reader.n_skipped_ == len(bad)
        assert rows and (bad or n_labels)


# ---------------------------------------------------------------------------
# Malformed lines
# ---------------------------------------------------------------------------

BAD = [
    ("svmlight", "a 1:2", {}, 1, "one integer as the label"),
    ("svmlight", "1.5 1:2", {}, 1, "one integer as the label"),
    ("svmlight", "1:2 2:1", {}, 2, "one integer as the label"),
    ("svmlight", "1,2 2:1", {}, 2, "multilabel=True"),
    ("svmlight", "9999999999999999999 2:1", {}, 1, "one integer as the label"),
    ("svmlight", "1,9 2:1", {"multilabel": True, "n_labels": 9}, 3, "from 0 to 8"),
    ("svmlight", "1, 2:1", {"multilabel": True, "n_labels": 9}, 3, "commas"),
    ("svmlight", "1 0:2", {}, 3, "from 1 to 5 (n_features=5, zero_based=False)"),
    ("svmlight", "1 5:1 6:2", {}, 7, "from 1 to 5"),
    ("svmlight", "1 5:2", {"zero_based": True}, 3, "from 0 to 4"),
    ("svmlight", "1 99999999999999999999999:2", {}, 3, "from 1 to 5"),
    ("svmlight", "1 -1:2", {}, 3, "from 1 to 5"),
    ("svmlight", "1 2", {}, 4, "a colon and a value"),
    ("svmlight", "1 2:", {}, 5, "a finite number"),
    ("svmlight", "1 2: 3", {}, 5, "a finite number"),
    ("svmlight", "1 2:nan", {}, 5, "a finite number"),
    ("svmlight", "1 2:inf", {}, 5, "a finite number"),
    ("svmlight", "1 2:1e39", {}, 5, "a finite number"),
    ("svmlight", "1 2:1e", {}, 5, "a finite number"),
    ("svmlight", "1 2:3x", {}, 5, "a finite number"),
    ("svmlight", "1 2:0x1", {}, 5, "a finite number"),
    ("svmlight", "1 2:3e38 2:3e38", {}, 1, "a finite sum"),
    ("vw", "1 2:3", {}, 3, "no importance weight without weights=True"),
    ("vw", "1", {}, 2, "a bar '|'"),
    ("vw", "| 2:3", {}, 1, "one integer as the label"),
    ("vw", "1| 2:3", {}, 2, "a space before the bar"),
    ("vw", "1 0.5 | 2:3", {}, 3, "weights=True"),
    ("vw", "1 -1 | 2:3", {"weights": True}, 3, "0 or more as the importance"),
    ("vw", "1 x | 2:3", {"weights": True}, 3, "0 or more as the importance"),
    ("vw", "1 1 0.5 | 2:3", {"weights": True}, 5, "base prediction"),
    ("vw", "1 'tag more | 2:3", {}, 8, "a bar '|'"),
    ("vw", "1 | price:3", {}, 5, "names are not hashed"),
    ("vw", "1 | 5", {}, 5, "from 0 to 4 (n_features=5, zero_based=True; names"),
    ("vw", "1 | 3:x", {}, 7, "a finite number"),
    ("vw", "1 | 3x", {}, 5, "a feature index"),
    ("vw", "1 |a:x 3", {}, 6, "a finite number"),
    ("vw", "1 |a:1e30 3:1e30", {}, 11, "a finite number"),
    ("vw", "1 | 3:3e38 3:3e38", {}, 1, "a finite sum"),
]


@pytest.mark.parametrize("kind, line, options, byte, expected", BAD)
def test_a_malformed_line_is_described(kind, line, options, byte, expected, write):
    good = {"svmlight": "1 1:1\r\n", "vw": "1 | 1\r\n"}[kind]
    for name in ("rows.txt", "rows.gz"):
        path = write(f"{good}\n{line}\n{good}", name)
        options = {"n_features": 5, "block_bytes": 3} | options
        reader = READERS[kind](path, **options)
        with pytest.raises(ValueError) as error:
            list(reader)
        message = str(error.value)
        assert message.startswith(f"{path}, line 3, byte {byte}: expected ")
        assert expected in message.split(" The line begins ")[0]
        assert message.endswith(
            f"The line begins {line!r}. on_bad_lines='skip' leaves it out."
        )
        reader = READERS[kind](path, on_bad_lines="skip", **options)
        assert len(rows_of(reader)) == 2 and reader.n_skipped_ == 1


def test_of_a_long_line_the_message_has_the_beginning(write):
    path = write(b"\xff" + b"x" * 1000)
    with pytest.raises(ValueError, match=f"begins '\ufffd{'x' * 59}\\.\\.\\.'\\."):
        list(read_svmlight(path, n_features=3))


def test_lines_are_counted_in_each_file(write):
    paths = [write("1 1:1\n\n2 1:1\n", "a"), write("\n# x\n3 1:1\n4 1:x\n5 1:1", "b")]
    reader = read_svmlight(paths, n_features=1, block_bytes=1)
    labels = []
    with pytest.raises(ValueError, match=re.escape(f"{paths[1]}, line 4, byte 5:")):
        for _, y in reader:
            labels += y.tolist()
    assert labels == [1, 2, 3]


# ---------------------------------------------------------------------------
# Readers
# ---------------------------------------------------------------------------


def test_each_iteration_begins_anew(write):
    paths = [write("1 | 1\nx | 1\n", "a"), write("x | 1\n3 | 2", "b")]
    reader = read_vw(paths, n_features=3, on_bad_lines="skip", block_bytes=1)
    assert reader.n_skipped_ == 0
    for _ in range(2):
        assert [y.tolist() for _, y in reader] == [[1], [3]]
        assert reader.n_skipped_ == 2
    next(iter(reader))
    assert reader.n_skipped_ == 0
    first, second = iter(reader), iter(reader)
    assert [next(i)[1].tolist() for i in (first, second, first)] == [[1], [1], [3]]
    write("9 | 0", "a")
    assert [y.tolist() for _, y in reader] == [[9], [3]]


def test_a_file_without_rows_gives_no_blocks(write):
    path = write("\n# nothing\n")
    assert list(read_svmlight([path, write("", "empty")], n_features=3)) == []


def test_readers_in_threads_and_pickles(svmlight):
    path, *_ = svmlight
    reader = read_svmlight([path, path], n_features=30, block_bytes=100)
    expected = rows_of(reader)
    assert len(expected) == 120
    assert rows_of(pickle.loads(pickle.dumps(reader))) == expected
    with ThreadPoolExecutor(3) as threads:
        for rows in threads.map(lambda _: rows_of(list(reader)), range(3)):
            assert rows == expected


def test_blocks_are_what_partial_fit_takes(tmp_path):
    X, y = make_many_classes(60, 30, 9, n_nonzeros=5, random_state=0)
    path, classes = str(tmp_path / "rows.svm"), range(9)
    dump_svmlight_file(X, y, path, zero_based=False)
    models = [MACHClassifier(n_repetitions=3, random_state=0) for _ in range(2)]
    start = 0
    for block in read_svmlight(path, n_features=30, block_bytes=1000):
        models[0].partial_fit(*block, classes=classes)
        rows = slice(start, start + block[1].size)
        models[1].partial_fit(X[rows], y[rows], classes=classes)
        start = rows.stop
    assert start == 60
    np.testing.assert_array_equal(*(model.predict_proba(X) for model in models))


def test_a_reader_shows_what_it_reads(write, tmp_path):
    path = write("1 | 1")
    assert repr(read_vw(path, n_features=3)) == (
        f"read_vw([{path!r}], n_features=3, zero_based=True, on_bad_lines='raise')"
    )
    shown = repr(read_svmlight(
        [tmp_path / "rows.txt"] * 9, n_features=3, multilabel=True, n_labels=4
    ))  # fmt: skip
    assert shown == (
        f"read_svmlight([{path!r}, {path!r}, {path!r}, ...], n_features=3, "
        "zero_based=False, multilabel=True, n_labels=4, on_bad_lines='raise')"
    )


def test_wrong_arguments(write, tmp_path):
    path = write("1 1:1")
    for error, match, options in [
        (TypeError, "n_features must be an instance", {"n_features": "3"}),
        (TypeError, "n_features must be a number", {"n_features": True}),
        (ValueError, "n_features == 0, must be >= 1", {"n_features": 0}),
        (ValueError, "n_features == 2147483648", {"n_features": 2**31}),
        (ValueError, "block_bytes == 0", {"block_bytes": 0}),
        (TypeError, "zero_based must be True or False", {"zero_based": "auto"}),
        (TypeError, "multilabel must be True", {"multilabel": 3}),
        (ValueError, "pass multilabel=True and n_labels", {"multilabel": True}),
        (ValueError, "pass multilabel=True and n_labels", {"n_labels": 4}),
        (ValueError, "n_labels == 1", {"n_labels": 1, "multilabel": True}),
        (ValueError, "on_bad_lines must be 'raise' or", {"on_bad_lines": "warn"}),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            read_svmlight(path, **{"n_features": 3} | options)
    with pytest.raises(TypeError, match="weights must be"):
        read_vw(path, n_features=3, weights=None)
    for error, match, paths in [
        (FileNotFoundError, "There is no file", str(tmp_path / "none")),
        (ValueError, "is no file", tmp_path),
        (ValueError, "paths is empty", []),
        (TypeError, "a path or a list of paths", 3),
        (TypeError, "a path or a list of paths", open),
    ]:
        with pytest.raises(error, match=match):
            read_svmlight(paths, n_features=3)


def test_a_damaged_gzip_file_is_named(write, tmp_path):
    whole = gzip.compress(b"".join(b"%d 1:1\n" % i**5 for i in range(999)))
    for name, content in [
        ("short", whole[:-100]),
        ("other", whole[:50] + bytes([whole[50] ^ 255]) + whole[51:]),
        ("more", whole + b"1 1:1\n"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is a damaged gzip file"):
            list(read_svmlight(path, n_features=1, block_bytes=100))


# ---------------------------------------------------------------------------
# Parquet
# ---------------------------------------------------------------------------


@pytest.fixture
def write_parquet(tmp_path):
    """A function that writes columns to a file and gives its path."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(columns, name="rows.parquet", **options):
        path = str(tmp_path / name)
        parquet.write_table(pa.table(columns), path, **options)
        return path

    return write


@pytest.mark.parametrize("block_bytes, n_blocks", [(1, 5), (20_000, 3), (10**9, 2)])
def test_dense_columns_of_parquet(write_parquet, block_bytes, n_blocks):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5000, 3))
    columns = {
        "a": X[:, 0],
        "b": X[:, 1].astype(np.float16),
        "c": np.round(9 * X[:, 2]).astype(np.int16),
        "d": X[:, 0] > 0,
        "y": rng.integers(0, 9, 5000).astype(np.float32),
        "other": X[:, 0],
    }
    paths = [
        write_parquet({name: column[part] for name, column in columns.items()}, name)
        for name, part in [("1", slice(0, 2999)), ("2", slice(2999, None))]
    ]
    reader = read_parquet(
        paths, features=["c", "a", "d", "b"], label="y", block_bytes=block_bytes
    )
    for _ in range(2):
        blocks = list(reader)
        assert len(blocks) == n_blocks
        X, y = map(np.concatenate, zip(*blocks, strict=True))
        expected = np.column_stack([columns[name] for name in "cadb"])
        np.testing.assert_array_equal(X, expected.astype(np.float32))
        np.testing.assert_array_equal(y, columns["y"])
        assert y.dtype == np.int64 and blocks[0][0].dtype == np.float32
        assert all(X.flags.c_contiguous for X, _ in blocks)


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
def test_dense_lists_of_parquet(write_parquet, kind):
    pa = pytest.importorskip("pyarrow")
    X = np.random.default_rng(0).standard_normal((3000, 4))
    types = {
        "list": pa.list_(pa.float64()),
        "large": pa.large_list(pa.float32()),
        "fixed": pa.list_(pa.float16(), 4),
    }
    names = [f"name {i % 7}" for i in range(3000)]
    columns = {"x": pa.array(list(X.astype(np.float16)), types[kind]), "y": names}
    path = write_parquet(columns, row_group_size=700)
    n_features = None if kind == "fixed" else 4
    reader = read_parquet(
        path, features="x", label="y", n_features=n_features, block_bytes=1
    )
    blocks = list(reader)
    assert len(blocks) >= 3
    X_read, y = map(np.concatenate, zip(*blocks, strict=True))
    np.testing.assert_array_equal(X_read, X.astype(np.float16).astype(np.float32))
    assert y.tolist() == names


def test_sparse_lists_of_parquet(write_parquet):
    rng = np.random.default_rng(0)
    n = rng.integers(0, 6, 2500)
    indices = [rng.integers(0, 10, size).tolist() for size in n]
    values = [rng.integers(1, 9, size).astype(float).tolist() for size in n]
    labels = [rng.integers(0, 5, size).tolist() for size in n[::-1]]
    path = write_parquet({"i": indices, "v": values, "y": labels})
    reader = read_parquet(
        path, indices="i", values="v", label="y", n_features=10, multilabel=True,
        n_labels=5, block_bytes=1,
    )  # fmt: skip
    blocks = list(reader)
    assert len(blocks) == 3
    assert rows_of(blocks) == [
        (sorted(set(y)), slow_row(zip(i, v, strict=True)), 1)
        for i, v, y in zip(indices, values, labels, strict=True)
    ]


def test_malformed_rows_of_parquet(write_parquet):
    x = [[1.0, 2], None, [1, None], [1, float("nan")], [1], [1e39, 1], [3, 4], [5, 6]]
    path = write_parquet({"x": x, "y": [0, 1, 2, 3, 4, 5, None, 7]})
    options = {"features": "x", "label": "y", "n_features": 2}
    with pytest.raises(ValueError) as error:
        list(read_parquet([path, path], **options))
    assert str(error.value) == (
        f"{path}, row 1 (from 0): expected no null, 2 features, finite in float32, as "
        "'y' a string or an integer of 64 bits. The row is {'x': None, 'y': 1}. "
        "on_bad_lines='skip' leaves it out."
    )
    reader = read_parquet([path, path], on_bad_lines="skip", **options)
    X, y = map(np.concatenate, zip(*reader, strict=True))
    assert X.tolist() == 2 * [[1, 2], [5, 6]] and y.tolist() == [0, 7, 0, 7]
    assert reader.n_skipped_ == 12


def test_malformed_sparse_rows_of_parquet(write_parquet):
    columns = {
        "i": [[0], [3], [-1], [0, 1], [0, 0], [2, 0], [None], [1], [1], [1], None],
        "v": [[1], [1], [1], [1], [3e38, 3e38], [4, 5], [1], [None], [1], [1], [1]],
        "y": [[0], [0], [0], [0], [0], [1, 1], [0], [0], [2], [None], [0]],
    }
    reader = read_parquet(
        write_parquet(columns), indices="i", values="v", label="y", n_features=3,
        multilabel=True, n_labels=2, on_bad_lines="skip",
    )  # fmt: skip
    messages = recorded(reader)
    ((X, y),) = reader
    assert X.toarray().tolist() == [[1, 0, 0], [5, 0, 4]]
    assert y.toarray().tolist() == [[1, 0], [0, 1]]
    rows = [int(re.search(r"row (\d+)", m)[1]) for m in messages]
    assert rows == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert "in 'i' integers from 0 to 2 (n_features=3), in 'v' as many" in messages[0]
    assert "in 'y' integers from 0 to 1" in messages[0]


def test_labels_of_parquet_that_are_no_integers(write_parquet):
    labels = [0.0, 1.5, float("nan"), float("inf"), 1e19, -(2.0**53)]
    path = write_parquet({"x": [1.0] * 6, "y": labels})
    reader = read_parquet(path, features=["x"], label="y", on_bad_lines="skip")
    ((_, y),) = reader
    assert y.tolist() == [0, -(2**53)] and reader.n_skipped_ == 4


def test_wrong_columns_of_parquet(write_parquet, write):
    path = write_parquet({
        "a": [1.0], "s": ["x"], "l": [[1.0]], "i": [[1]], "t": [["x"]], "y": [1]
    })  # fmt: skip
    for error, match, options in [
        (ValueError, "has not one column 'none'. Its columns", {"features": ["none"]}),
        (ValueError, "has not one column", {"features": ["a"], "label": "none"}),
        (TypeError, "Column 's' of .* the type string", {"features": ["s"]}),
        (TypeError, "numbers are needed", {"features": ["a", "l"]}),
        (TypeError, "lists of numbers are needed", {"features": "t", "n_features": 3}),
        (TypeError, "but numbers are needed", {"features": "s"}),
        (ValueError, "Say with n_features how many", {"features": "l"}),
        (ValueError, "there are 1 columns", {"features": ["a"], "n_features": 2}),
        (TypeError, "numbers or strings", {"features": ["a"], "label": "l"}),
        (
            TypeError,
            "lists of integers are needed",
            {"features": ["a"], "label": "l", "multilabel": True, "n_labels": 3},
        ),
        (
            TypeError,
            "Column 'l' of .* lists of integers",
            {"indices": "l", "values": "l", "n_features": 3},
        ),
        (ValueError, "need n_features", {"indices": "i", "values": "l"}),
        (ValueError, "both indices and values", {"indices": "i", "n_features": 3}),
        (ValueError, "Say where the rows are", {}),
        (ValueError, "Say where the rows are", {"features": []}),
        (TypeError, "Names of columns must be strings", {"features": [3]}),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            read_parquet(path, **{"label": "y"} | options)
    with pytest.raises(ValueError, match="is no Parquet file"):
        read_parquet(write("1 1:2"), features=["a"], label="y")


def test_without_pyarrow(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-mach\[parquet\]"'):
        read_parquet(write(""), features=["a"], label="y")
