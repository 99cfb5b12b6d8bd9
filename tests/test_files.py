"""The layout of files: what is written, and what is refused when it is read."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_mach import _files
from sklearn_mach._files import VERSION, read, write, written_bytes

ARRAYS = {
    "bytes": np.arange(7, dtype=np.uint8),
    "numbers": np.linspace(0, 1, 12).reshape(3, 4),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "flags": np.array([True, False]),
    "scalar": np.array(3, np.int16),
    "none": np.zeros((0, 5), np.float16),
    "big-endian": np.arange(3, dtype=">i4"),
}
VALUES = {"text": "é\ud800\n", "list": [1, 2.5, None, True, {"a": [-0.0]}]}
maps = pytest.mark.parametrize("mmap", [False, True])


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "file", ARRAYS, VALUES)
    return tmp_path / "file"


def split(content):
    """The header of a file as a dictionary, and its arrays as bytes."""
    behind = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:behind]), content[behind:]


def join(header, data):
    """A file of this header, as text or values, with a valid checksum."""
    if not isinstance(header, str):
        header = json.dumps(header, separators=(",", ":"))
    header = header.encode()
    header += b" " * (-(8 + len(header)) % 64)
    found = header.index(b'"header_crc32":"') + 16
    header = header[:found] + b"0" * 8 + header[found + 8 :]
    checksum = f"{zlib.crc32(header):08x}".encode()
    header = header[:found] + checksum + header[found + 8 :]
    return len(header).to_bytes(8, "little") + header + data


def refused(path, content, match):
    path.write_bytes(content)
    for mmap in (False, True):
        with pytest.raises(ValueError, match=match):
            read(path, mmap)


@maps
def test_arrays_and_values_come_back(path, mmap):
    content = read(path, mmap)
    assert content.values == VALUES
    assert content.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        found = content.arrays[name]
        assert type(found) is np.ndarray
        assert_array_equal(found, array, strict=name != "big-endian")
        assert found.dtype == array.dtype.newbyteorder("<")
        assert found.flags.writeable != mmap
        assert found.flags.aligned and found.flags.c_contiguous
    content.verify(ARRAYS)
    assert os.path.getsize(path) == written_bytes(ARRAYS, VALUES)


def test_safetensors_reads_the_file(path):
    library = pytest.importorskip("safetensors.numpy")
    found = library.load_file(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert_array_equal(found[name], array)


def test_a_file_without_arrays(tmp_path):
    write(tmp_path / "file", {}, None)
    assert read(tmp_path / "file") == ({}, None, {})


def test_large_arrays_are_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "_PIECE", 100)
    a = np.arange(1000.0).reshape(25, 40)
    write(tmp_path / "file", {"c": a, "f": np.asfortranarray(a), "part": a[:, 3:]}, 0)
    content = read(tmp_path / "file")
    content.verify(content.arrays)
    assert_array_equal(content.arrays["c"], a)
    assert_array_equal(content.arrays["f"], a)
    assert_array_equal(content.arrays["part"], a[:, 3:])


# Damage -------------------------------------------------------------------------------


@maps
def test_every_cut_is_noticed(path, mmap):
    content = path.read_bytes()
    for size in {*range(0, len(content), 7), *range(20), len(content) - 1}:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="truncated|no file that sklearn_mach"):
            read(path, mmap)
    refused(path, content + b"\0", "longer than written")


def test_every_byte_that_changes_is_noticed(path):
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(120), *rng.integers(0, len(content), 400).tolist()}
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            found = read(path)
            found.verify(found.arrays)


def test_the_damaged_array_is_named(path):
    header, _ = split(path.read_bytes())
    data = path.stat().st_size - max(
        line["data_offsets"][1] for name, line in header.items() if name[0] != "_"
    )
    for name in ("bytes", "numbers"):
        content = bytearray(path.read_bytes())
        content[data + header[name]["data_offsets"][0]] ^= 1
        (path.parent / "other").write_bytes(content)
        with pytest.raises(ValueError, match=f"'{name}' is damaged"):
            read(path.parent / "other").verify(ARRAYS)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\x80\x04K\x01.", b"PK\3\4" * 50, b"\xff" * 100, bytes(1000)],
)
def test_other_files_are_no_files_of_ours(path, content):
    refused(path, content, "no file that sklearn_mach wrote")


def test_files_of_safetensors_are_no_files_of_ours(path):
    library = pytest.importorskip("safetensors.numpy")
    content = library.save({"a": np.zeros(3)}, {"format": "np"})
    refused(path, content, "no file that sklearn_mach wrote")


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")
    with pytest.raises(ValueError, match="folder"):
        write(tmp_path, {}, None)
    assert os.listdir(tmp_path) == []


def test_a_newer_version_asks_for_an_upgrade(path):
    header, data = split(path.read_bytes())
    header["__metadata__"]["version"] = "99"
    header["__metadata__"]["written_by"] = "7.1.0"
    header["other"] = "things"
    match = f"sklearn_mach 7.1.0 .* version 99 .* reads version {VERSION}. Upgrade"
    refused(path, join(header, data), match)


def test_a_header_longer_than_the_file_is_not_read(path):
    content = path.read_bytes()
    for length in (len(content), 2**40, 2**63, 2**64 - 1):
        refused(path, length.to_bytes(8, "little") + content[8:], "truncated")


HOSTILE = {
    "overlap": {"data_offsets": [0, 56], "shape": [7]},
    "hole": {"data_offsets": [8, 104]},
    "reversed": {"data_offsets": [96, 0]},
    "negative": {"data_offsets": [-96, 0]},
    "no numbers": {"data_offsets": [0.0, 96.0]},
    "three": {"data_offsets": [0, 96, 96]},
    "huge": {"data_offsets": [0, 2**63]},
    "negative shape": {"shape": [-3, -4]},
    "large shape": {"shape": [2**60, 2**60]},
    "empty large shape": {"shape": [0, 2**61, 2**61], "data_offsets": [0, 0]},
    "other shape": {"shape": [3, 5]},
    "no shape": {"shape": None},
    "truth": {"shape": [True, 12]},
    "many axes": {"shape": [1] * 40 + [12]},
    "unknown dtype": {"dtype": "F8_E4M3"},
    "object dtype": {"dtype": "O"},
    "no dtype": {"dtype": ["F64"]},
    "other dtype": {"dtype": "F32"},
    "more": {"more": 1},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_places_are_refused(path, change):
    header, data = split(path.read_bytes())
    assert header["numbers"]["data_offsets"] == [0, 96]
    header["numbers"] |= change
    refused(path, join(header, data), "array|truncated|longer")


def test_truth_values_are_zeros_and_ones(path):
    header, data = split(path.read_bytes())
    header["bytes"]["dtype"] = "BOOL"
    refused(path, join(header, data), "'bytes' has truth values")


def test_hostile_headers_are_refused(path):
    header, data = split(path.read_bytes())
    text = json.dumps(header, separators=(",", ":"))
    line = '"numbers":{"dtype":"F64","shape":[3,4],"data_offsets":[0,96]}'
    assert line in text

    def changed(old, new):
        assert old in text
        return join(text.replace(old, new), data)

    refused(path, changed(line, f"{line},{line}"), "a name is there twice")
    refused(path, changed("[3,4]", "[NaN,4]"), "NaN is no number")
    refused(path, changed("[3,4]", "[" * 100_000), "no JSON that can be read")
    refused(path, changed("[3,4]", "[" * 9999 + "]" * 9999), "no JSON that can be read")
    refused(path, changed("[3,4]", f"[{'9' * 5000}]"), "no JSON that can be read")
    refused(path, changed(line, '"numbers":5'), "'numbers' is not described")
    refused(path, changed(f",{line}", ""), "checksums are not those of its arrays")
    refused(path, changed('"header_crc32', '"z":1,"header_crc32'), "no file that")
    values = '"values":"'
    refused(path, changed(values, '"values":3,"old":"'), "other than strings")
    refused(path, changed(values, '"values":"['), "no JSON that can be read")
    metadata = header["__metadata__"]
    for checksums in ({}, [1], {**json.loads(metadata["crc32"]), "x": "0"}):
        new = header | {"__metadata__": metadata | {"crc32": json.dumps(checksums)}}
        refused(path, join(new, data), "checksums")
    path.write_bytes(join(text, data))
    assert read(path).values == VALUES


# Writing ------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["write", "fsync", "chmod", "replace"])
def test_a_full_disk_leaves_the_old_file(path, monkeypatch, moment):
    old = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    if moment == "write":  # of the second array
        pieces, calls = _files._pieces, []

        def few(array):
            calls.append(1)
            return pieces(array) if len(calls) < 2 else fail()

        monkeypatch.setattr(_files, "_pieces", few)
    else:
        monkeypatch.setattr(_files.os, moment, fail)
    with pytest.raises(OSError, match="No space"):
        write(path, {"other": np.zeros(3), "more": np.ones(5)}, None)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_an_interrupt_leaves_no_draft(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "file", ARRAYS, VALUES)
    assert os.listdir(tmp_path) == []


def test_values_that_json_lacks_leave_nothing(path):
    old = path.read_bytes()
    with pytest.raises(ValueError):
        write(path, ARRAYS, float("nan"))
    with pytest.raises(KeyError):
        write(path, {"complex": np.zeros(3, complex)}, None)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_headers_are_no_longer_than_safetensors_reads(path, monkeypatch):
    monkeypatch.setattr(_files, "_LONGEST_HEADER", 5000)
    with pytest.raises(ValueError, match="as arrays"):
        write(path, {}, list(range(5000)))
    assert read(path).values == VALUES


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_any_file_or_of_the_old_one(path):
    plain = path.parent / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    write(path, {}, None)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_link_stays_a_link(path):
    link = path.parent / "link"
    link.symlink_to(path.name)
    write(link, {}, 5)
    assert link.is_symlink()
    assert read(path).values == 5


@pytest.mark.skipif(os.name != "posix", reason="elsewhere mapped files stay")
def test_maps_of_a_replaced_file_stay(path):
    mapped = read(path)
    write(path, {"bytes": np.zeros(7, np.uint8)}, None)
    assert_array_equal(mapped.arrays["bytes"], ARRAYS["bytes"])
    mapped.verify(ARRAYS)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_killed_while_it_writes_leaves_a_whole_file(path):
    code = (
        "import sys, numpy as np; from sklearn_mach._files import write\n"
        "for i in range(10**6):\n"
        "    write(sys.argv[1], {'a': np.full(300_000, i % 100)}, i)\n"
        "    print(i, flush=True)\n"
    )
    for k in range(2):
        command = [sys.executable, "-c", code, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.05 + 0.013 * k)
            process.send_signal(signal.SIGKILL)
        found = read(path)
        found.verify(found.arrays)
        assert (found.arrays["a"] == found.values % 100).all()
