"""Blocks of rows from files of text, plain or compressed by gzip."""

import gzip
import re
import zlib
from typing import NamedTuple

import numpy as np

from ._library import csr
from ._text_kernels import (
    BAR,
    BASE,
    COLON,
    DONE,
    IMPORTANCE,
    INDEX,
    LABEL,
    LARGEST,
    NUMBER,
    SUM,
    VALUE,
    WEIGHT,
    Limits,
    Lines,
    parse_svmlight,
    parse_vw,
)

_GZIP = b"\x1f\x8b"  # with which its files begin
_SHOWN = 60  # characters of a malformed line
_NUMBER = re.compile(rb"[-+.eE\d]+")

_KERNELS = {"svmlight": parse_svmlight, "vw": parse_vw}


class TextFormat(NamedTuple):
    """What the lines of a file are.

    name : "svmlight" or "vw"
    n_labels : int, columns of the indicator, or None: one label a row
    weighted : bool, whether blocks have importance weights
    """

    name: str
    n_features: int
    zero_based: bool
    n_labels: int | None = None
    weighted: bool = False

    def expected(self, problem):
        """What a kernel expected where it found a problem."""
        if problem == LABEL:
            end = "" if self.name == "svmlight" else ", and a space before the bar '|'"
            if self.n_labels is None:
                return f"one integer as the label{end} (several need multilabel=True)"
            return (
                f"integers from 0 to {self.n_labels - 1} (n_labels={self.n_labels}), "
                f"separated by commas, as the labels{end}"
            )
        if problem == INDEX:
            first = 0 if self.zero_based else 1
            names = "" if self.name == "svmlight" else "; names are not hashed"
            return (
                f"a feature index, an integer from {first} to "
                f"{self.n_features - 1 + first} (n_features={self.n_features}, "
                f"zero_based={self.zero_based}{names})"
            )
        return {
            COLON: "a colon and a value behind the index of a feature",
            VALUE: f"a finite number of at most {LARGEST}",
            SUM: "a finite sum of the values of each feature",
            BAR: "a bar '|' between the label and the features",
            IMPORTANCE: "a bar '|', and no importance weight without weights=True",
            WEIGHT: "a finite number of 0 or more as the importance weight",
            BASE: "a bar '|', and no third number, the base prediction",
        }[problem]


def text_blocks(path, block_bytes, format, report):
    """Blocks (X, y) or (X, y, weight) of a file.

    ``report(message)`` is told of a malformed line, which is left out if it returns.
    """
    n_lines = 0
    for text in _whole_lines(path, block_bytes):
        lines = _parse(text, path, n_lines, format, report)
        del text  # while the next one is read
        n_lines += lines.counts[0]
        if lines.counts[1]:
            yield _block(lines, format)


def _whole_lines(path, n_bytes):
    """The bytes of a file in pieces of about `n_bytes`, which end with a newline."""
    with open(path, "rb") as file:
        is_gzip = file.peek(2)[:2] == _GZIP
        source = gzip.GzipFile(fileobj=file) if is_gzip else file
        text, n = bytearray(), 0
        while True:
            try:
                text += source.read(n_bytes)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(
                    f"{path} is a damaged gzip file ({error}). Copy it once more from "
                    "where it came from."
                ) from error
            if len(text) == n:
                break
            if len(text) < n + n_bytes and not text.endswith(b"\n"):
                text += b"\n"  # the last line
            end = text.rfind(b"\n", n) + 1
            if end:
                rest = text[end:]
                del text[end:]
                yield text
                text = rest
            n = len(text)
        if text:
            yield text + b"\n"


def _parse(text, path, n_before, format, report):
    """The `Lines` of a text, behind so many lines of the file."""
    kernel, array = _KERNELS[format.name], np.frombuffer(text, np.uint8)
    first_index = 0 if format.zero_based else 1
    limits = Limits(first_index, format.n_features, format.n_labels or 0)
    lines, start, known = Lines.room(array), 0, []
    while True:
        problem, line, place = kernel(
            array, start, np.array(known, np.float32), limits, format.weighted, lines
        )
        if problem == DONE:
            return lines
        if problem == NUMBER:  # the kernel begins once more at the line, and knows it
            known = known if line == start else []
            known.append(float(_NUMBER.match(text, place)[0]))
            start = line
            continue
        start, known = text.index(b"\n", line) + 1, []
        lines.counts[0] += 1
        shown = text[line : start - 1].rstrip(b"\r").decode(errors="replace")
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}..."
        report(
            f"{path}, line {n_before + lines.counts[0]}, byte {place - line + 1}: "
            f"expected {format.expected(problem)}. The line begins {shown!r}."
        )


def _block(lines, format):
    """(X, y) or (X, y, weight) of all rows of `lines`, which are not copied."""
    n = lines.counts[1]
    ends, label_ends = lines.ends[: n + 1], lines.label_ends[: n + 1]
    size, n_labels = ends[n], label_ends[n]
    if size < 2**31:
        ends = ends.astype(np.int32)
    X = csr(lines.values[:size], lines.indices[:size], ends, format.n_features)
    X.has_canonical_format = True
    y = lines.labels[:n_labels]
    if format.n_labels is not None:
        y = indicator(y, label_ends, format.n_labels)
    return (X, y, lines.weights[:n]) if format.weighted else (X, y)


def indicator(labels, ends, n_labels):
    """CSR of ones (int8) where a row has a label, which may be there several times."""
    ends, ones = ends.astype(np.int32), np.ones(labels.size, np.int8)
    Y = csr(ones, labels.astype(np.int32), ends, n_labels)
    Y.sum_duplicates()
    Y.data[:] = 1
    return Y
