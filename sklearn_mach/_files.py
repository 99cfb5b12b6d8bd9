"""Files of named arrays and plain values, in the layout of safetensors.

Eight bytes (the length of the header, little-endian), the header (JSON), then the
arrays without holes, those of the largest items first, from a multiple of 64 bytes on:
each is aligned to its items. A file is mapped as it is, and reading it runs no code.

The header has a line for each array, and ``__metadata__``, which are strings: what the
file is, the version of the format, the values as JSON, and checksums.
"""

import json
import os
import re
import secrets
import stat
import zlib
from contextlib import suppress
from math import prod
from typing import NamedTuple

import numpy as np

import sklearn_mach

VERSION = 2  # of the format
TYPES = {  # names that safetensors has for dtypes
    np.dtype(dtype): name
    for dtype, name in (
        ("?", "BOOL"), ("u1", "U8"), ("i1", "I8"), ("<u2", "U16"), ("<i2", "I16"),
        ("<f2", "F16"), ("<u4", "U32"), ("<i4", "I32"), ("<f4", "F32"),
        ("<u8", "U64"), ("<i8", "I64"), ("<f8", "F64"),
    )
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in TYPES.items()}
_START = re.compile(
    rb'\{"__metadata__":\{"format":"sklearn_mach","version":"(\d{1,9})",'
    rb'"written_by":"([\w.+!-]{1,99})","header_crc32":"([0-9a-f]{8})",'
)
_NO_SUM = "0" * 8  # in place of a checksum that is not known yet
_ALIGNED = 64
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it
_LONGEST_START = 300
_PIECE = 1 << 24  # bytes, read for the checksum and written while they are in the cache


class Content(NamedTuple):
    """What a file holds.

    arrays : dict of str to ndarray
    values : what JSON has
    checksums : dict of str to str, of the bytes of each array
    """

    arrays: dict
    values: object
    checksums: dict

    def verify(self, names):
        """ValueError if the bytes of one of these arrays are not those written."""
        for name in names:
            checksum = 0
            for piece in _pieces(self.arrays[name]):
                checksum = zlib.crc32(piece, checksum)
            if f"{checksum:08x}" != self.checksums[name]:
                raise ValueError(
                    f"array {name!r} is damaged: its checksum is {checksum:08x}, and "
                    f"was {self.checksums[name]} when it was written"
                )


def write(path, arrays, values):
    """Write a file, or nothing: until it is whole and on the disk, `path` stays.

    arrays : dict of str to ndarray of a dtype in `TYPES`, also big-endian
    values : what JSON has
    """
    path = os.path.realpath(path)  # a link stays a link
    mode = _mode(path)
    arrays = _ordered(arrays)
    sums = dict.fromkeys(arrays, _NO_SUM)
    folder = os.path.dirname(path)
    draft = os.path.join(folder, f".sklearn_mach-{secrets.token_hex(8)}.tmp")
    header_size = len(_header(arrays, values, sums))
    try:
        with open(draft, "xb") as file:
            file.seek(header_size)
            for name, array in arrays.items():
                checksum = 0
                for piece in _pieces(array):
                    checksum = zlib.crc32(piece, checksum)
                    file.write(piece)
                sums[name] = f"{checksum:08x}"
            file.seek(0)
            file.write(_header(arrays, values, sums))
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(draft, mode)
        os.replace(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)  # the name, too
        finally:
            os.close(number)


def written_bytes(arrays, values):
    """Bytes of the file that `write` makes."""
    arrays = _ordered(arrays)
    header = _header(arrays, values, dict.fromkeys(arrays, _NO_SUM))
    return len(header) + sum(array.nbytes for array in arrays.values())


def _mode(path):
    """Permissions of the file to be replaced, None if there is none."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is a folder or a device. Pass the name of a file.")
    return stat.S_IMODE(mode)


def _ordered(arrays):
    """Little-endian arrays, those of the largest items first."""
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    little = {name: arrays[name].dtype.newbyteorder("<") for name in names}
    return {name: arrays[name].astype(little[name], copy=False) for name in names}


def _header(arrays, values, sums):
    """The length of the header, and the header, whose own checksum it holds."""
    header = {
        "__metadata__": {
            "format": "sklearn_mach",
            "version": str(VERSION),
            "written_by": sklearn_mach.__version__,
            "header_crc32": _NO_SUM,
            "crc32": json.dumps(sums),
            "values": json.dumps(values, allow_nan=False),
        }
    }
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        kind, shape = TYPES[array.dtype], list(array.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-(8 + len(content)) % _ALIGNED)
    if len(content) > _LONGEST_HEADER:
        raise ValueError(
            f"The names and plain values take {len(content)} bytes, and a file holds "
            f"at most {_LONGEST_HEADER}. Pass long lists, such as hashing, as arrays."
        )
    at = _START.match(content).start(3)
    checksum = f"{zlib.crc32(content):08x}".encode()
    content = content[:at] + checksum + content[at + 8 :]
    return len(content).to_bytes(8, "little") + content


def _pieces(array):
    """The bytes of an array in C order, a few at a time."""
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _PIECE):
            yield flat[start : start + _PIECE]
    else:
        n_rows = max(_PIECE * len(array) // max(array.nbytes, 1), 1)
        for start in range(0, len(array), n_rows):
            rows = np.ascontiguousarray(array[start : start + n_rows])
            yield rows.reshape(-1).view(np.uint8)


def read(path, mmap=True):
    """The `Content` of a file; ValueError if it cannot be what `write` wrote.

    The checksum of the header is checked; for those of the arrays see `Content`.

    mmap : whether arrays are read-only views of the file in place of copies
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header, start = _read_header(file, size)
        metadata = header.pop("__metadata__", None)
        texts = metadata.values() if isinstance(metadata, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("its header has no metadata, or other than strings")
        checksums, values = (
            _json(metadata.get(key, "")) for key in ("crc32", "values")
        )
        if not isinstance(checksums, dict) or checksums.keys() != header.keys():
            raise ValueError("its checksums are not those of its arrays")
        places = {name: _place(name, line) for name, line in header.items()}
        end = 0
        for begin, behind, *_ in sorted(places.values(), key=lambda place: place[:2]):
            if begin != end:
                raise ValueError("its arrays overlap, or leave holes")
            end = behind
        if start + end != size:
            what = "truncated" if size < start + end else "longer than written"
            raise ValueError(f"it is {what}: {size} bytes, not {start + end}")
        arrays = _read_arrays(file, size, start, places, mmap)
    for name, array in arrays.items():
        if array.dtype == bool and array.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"array {name!r} has truth values that are not 0 or 1")
    return Content(arrays, values, checksums)


def _read_header(file, size):
    """The header as a dictionary, and where the arrays start."""
    length = int.from_bytes(file.read(8), "little")
    first = file.read(min(_LONGEST_START, length))
    match = _START.match(first)
    if match is None:
        raise ValueError("it is no file that sklearn_mach wrote")
    version, writer, checksum = (group.decode() for group in match.groups())
    if int(version) > VERSION:
        raise ValueError(
            f"sklearn_mach {writer} wrote it in version {version} of the format, and "
            f"this is sklearn_mach {sklearn_mach.__version__}, which reads version "
            f"{VERSION}. Upgrade with: pip install --upgrade sklearn-mach"
        )
    start = 8 + length
    if start > size:
        raise ValueError(f"it is truncated: {size} bytes, of which {start} are header")
    if length > _LONGEST_HEADER or start % _ALIGNED:
        raise ValueError(f"its header cannot have {length} bytes")
    content = first + file.read(length - len(first))
    at = match.start(3)
    found = zlib.crc32(content[:at] + _NO_SUM.encode() + content[at + 8 :])
    if f"{found:08x}" != checksum:
        raise ValueError(
            f"its header is damaged: its checksum is {found:08x}, and was {checksum} "
            "when it was written"
        )
    header = _json(content)
    if not isinstance(header, dict):
        raise ValueError("its header is no object of JSON")
    return header, start


def _json(text):
    """Values of JSON without what is not in its standard, or said twice."""

    def refuse(constant):
        raise ValueError(f"{constant} is no number of JSON")

    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name is there twice")
        return found

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is no JSON that can be read: {error}") from error


def _place(name, line):
    """Where an array begins and ends, its shape and dtype."""
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(line, dict) or line.keys() != keys:
        raise ValueError(
            f"array {name!r} is not described by {', '.join(sorted(keys))}"
        )
    kind, shape, offsets = line["dtype"], line["shape"], line["data_offsets"]
    dtype = _DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise ValueError(f"array {name!r} has the dtype {kind!r}, not {list(_DTYPES)}")
    if not (_are_sizes(shape) and len(shape) <= 32):
        raise ValueError(f"array {name!r} has the shape {shape!r}")
    if not (_are_sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise ValueError(f"array {name!r} lies from {offsets!r}")
    begin, end = offsets
    if prod(shape) * dtype.itemsize != end - begin or begin % dtype.itemsize:
        raise ValueError(
            f"array {name!r} of {kind} and shape {shape} does not fit at {offsets}"
        )
    if prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**62:
        raise ValueError(f"array {name!r} has the shape {shape!r}, too large")
    return begin, end, shape, dtype


def _are_sizes(values):
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**62 for value in values
    )


def _read_arrays(file, size, start, places, mmap):
    """Arrays by name: read-only views of one map, or copies."""
    arrays = {}
    if mmap:
        whole = np.memmap(file, np.uint8, mode="r", shape=(size,))
        for name, (begin, _, shape, dtype) in places.items():
            arrays[name] = np.ndarray(shape, dtype, whole, start + begin)
        return arrays
    for name, (begin, end, shape, dtype) in places.items():
        array = np.empty(shape, dtype)
        file.seek(start + begin)
        if file.readinto(array.reshape(-1).view(np.uint8)) != end - begin:
            raise ValueError("it became shorter while it was read")
        arrays[name] = array
    return arrays
