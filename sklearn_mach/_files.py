"""Files of named arrays and plain values, which are mapped and run no code.

The layout is that of safetensors: 8 bytes with the length of the header, a header in
JSON with the type, the shape and the place of each array, and the arrays, one after
another.  Larger items come first, and the first array starts at a multiple of 64 bytes,
so that every array can be used where it lies.  The plain values, the version and the
checksums are strings of the header's metadata.
"""

import json
import os
import secrets
import stat
import zlib
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np

VERSION = 1  # of what the values and arrays mean
_FORMAT = "sklearn_mach"
_ALIGNMENT = 64
_MOST_HEADER = 100_000_000  # bytes, as safetensors allows
_MOST_DIMENSIONS = 8
_TYPES = {
    "BOOL": "|b1",
    **{f"{kind}{8 * n}": f"<{kind.lower()}{n}" for kind in "IUF" for n in (2, 4, 8)},
    "I8": "|i1",
    "U8": "|u1",
}
_FOREIGN = "{} is not a file that MACHClassifier.save wrote."
_NAMES = {np.dtype(dtype): name for name, dtype in _TYPES.items()}


def is_storable(array):
    """Whether an array has a type that the file knows."""
    return array.dtype.newbyteorder("<") in _NAMES


def write(path, arrays, values, version):
    """Write arrays (a dictionary) and values (for JSON) to a file, or leave it as is.

    version : str, of the package

    A new file takes the place of an old one when it is complete and on the disk.
    """
    path = Path(os.path.realpath(path))  # the file that a link names
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    arrays = {name: _plain(arrays[name]) for name in names}
    header = _header(arrays, values, version)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(header)
            for array in arrays.values():
                file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            draft.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # brings the new name to the disk, where folders can be
        folder = os.open(path.parent, os.O_RDONLY)  # opened
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def size(arrays, values):
    """Bytes of the file, to within those of the version's name."""
    header = _header(arrays, values, " " * 64, checksum=lambda array: 2**32 - 1)
    return len(header) + sum(array.nbytes for array in arrays.values())


def read(path, mmap, verify):
    """Arrays, values and the version of the package of a file.

    mmap : whether arrays are read-only parts of the mapped file, or in memory
    verify : function of a name and an array: whether its checksum is to be compared

    ValueError says what is wrong with a file.  Nothing larger than it is allocated.
    """
    with open(path, "rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= _MOST_HEADER:
            raise ValueError(_FOREIGN.format(path))
        if length > n_bytes - 8:
            raise ValueError(_truncated(path, n_bytes))
        header, metadata = _parsed(path, file.read(length))
        places = _places(path, header, n_bytes - 8 - length)
        data = np.asarray(np.memmap(file, np.uint8, "r"))[8 + length :]
    arrays = {}
    for name, (dtype, shape, first, last) in places.items():
        part = data[first:last]
        if verify(name, part) and str(zlib.crc32(part)) != metadata["checksums"][name]:
            raise ValueError(
                f"{path} is damaged: the checksum of {name} is not that of its bytes. "
                "Save the model anew, or copy the file again."
            )
        if dtype.kind == "b" and (part > 1).any():
            raise ValueError(f"{path} is damaged: {name} has bytes that are no bool.")
        array = part.view(dtype).reshape(shape)
        arrays[name] = array if mmap else array.copy()
    return arrays, metadata["values"], metadata["version"]


def _plain(array):
    """The array as it is stored: C-contiguous and little-endian."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _header(arrays, values, version, checksum=zlib.crc32):
    """The header with its length before it."""
    entries, first = {}, 0
    for name, array in arrays.items():
        last = first + array.nbytes
        entries[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [first, last],
        }
        first = last
    of_bytes = {
        name: str(checksum(array.reshape(-1).view(np.uint8)))
        for name, array in arrays.items()
    }
    metadata = {
        "format_version": str(VERSION),
        "package_version": version,
        "values": json.dumps(values),
        "checksums": json.dumps(of_bytes),
    }
    metadata["header_checksum"] = _header_checksum(metadata, entries)
    metadata["format"] = _FORMAT
    text = json.dumps({"__metadata__": metadata} | entries).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _header_checksum(metadata, entries):
    """Of everything that the header says."""
    text = json.dumps([sorted(metadata.items()), sorted(entries.items())])
    return str(zlib.crc32(text.encode()))


def _parsed(path, text):
    """The entries of the arrays, and the metadata with its JSON parsed."""
    damaged = ValueError(
        f"{path} is damaged: its header cannot be read. Save the model anew, or copy "
        "the file again."
    )
    try:
        entries = json.loads(text, object_pairs_hook=_no_duplicates)
        metadata = entries.pop("__metadata__")
        is_ours = metadata.pop("format") == _FORMAT
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        if _FORMAT.encode() in text:
            raise damaged from None
        is_ours = False
    if not is_ours:
        raise ValueError(_FOREIGN.format(path))
    try:
        checksum = metadata.pop("header_checksum")
        is_sound = _header_checksum(metadata, entries) == checksum
        version = int(metadata["format_version"])
        package = str(metadata["package_version"])
    except (ValueError, AttributeError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        raise damaged
    if version > VERSION:
        raise ValueError(
            f"{path} has the format {version} of sklearn_mach {package}. This version "
            f"reads formats up to {VERSION}: upgrade sklearn_mach."
        )
    try:
        values = json.loads(metadata["values"])
        checksums = json.loads(metadata["checksums"])
        is_sound = checksums.keys() == entries.keys()
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        raise damaged
    return entries, {"values": values, "checksums": checksums, "version": package}


def _no_duplicates(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("A name comes twice.")
    return found


def _places(path, entries, n_bytes):
    """Type, shape, first byte and the one behind the last, of each array."""
    places, end = {}, 0
    for name, entry in entries.items():
        try:
            dtype = np.dtype(_TYPES[entry["dtype"]])
            shape = tuple(entry["shape"])
            first, last = entry["data_offsets"]
            is_sound = (
                entry.keys() == {"dtype", "shape", "data_offsets"}
                and all(type(n) is int and n >= 0 for n in (*shape, first, last))
                and len(shape) <= _MOST_DIMENSIONS
                and first == end
                and first % dtype.itemsize == 0
                and last - first == prod(shape) * dtype.itemsize
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            is_sound = False
        if not is_sound:
            raise ValueError(
                f"{path} is damaged: type, shape and place of the array {name!r} do "
                "not fit together."
            )
        places[name], end = (dtype, shape, first, last), last
    if end > n_bytes:
        raise ValueError(_truncated(path, n_bytes, end - n_bytes))
    if end < n_bytes:
        raise ValueError(f"{path} is damaged: {n_bytes - end} bytes follow its arrays.")
    return places


def _truncated(path, n_bytes, missing=None):
    missing = "" if missing is None else f", {missing} bytes less than it should have"
    return f"{path} is cut off after {n_bytes} bytes{missing}. Copy the file again."
