"""Kernels that parse lines of text as labels, feature indices and values.

A text is an array of bytes whose last one is a newline.  So no loop needs to look at
the end of the text: each stops at a newline at the latest.
"""

from typing import NamedTuple

import numpy as np

from ._compat import njit

# What a kernel returns: all is parsed, it needs the value of a number, or what it
# expected where a line is malformed.
DONE, NUMBER = 0, 1
LABEL, INDEX, COLON, VALUE, SUM, BAR, IMPORTANCE, WEIGHT, BASE = range(2, 11)

LARGEST = 3.4028235e38  # the largest float32, as it is usually written
_FULL = 922337203685477580  # below it there is room for one more digit in int64
_EXACT = 1 << 53  # integers up to it are float64
_CLOSE = 2.0**-50  # more than the relative error of three roundings to float64
_NEWLINE, _QUOTE, _COMMA, _COLON = 10, 39, 44, 58
_HASH, _BAR = 35, 124  # what ends a token beside blanks, in svmlight and in VW

# float64 has powers of ten up to 1e22 exactly, and all others rounded once.
_POWERS = np.array([float(f"1e{k}") for k in range(66)])


class Lines(NamedTuple):
    """What lines hold, row by row, in arrays with room for all lines of a text.

    Row i has the labels ``labels[label_ends[i]:label_ends[i + 1]]``, the importance
    ``weights[i]`` and the features ``indices[ends[i]:ends[i + 1]]`` with their
    ``values``.  ``counts`` holds the number of lines that were read, and of rows.
    """

    counts: np.ndarray  # int64 (2,)
    labels: np.ndarray  # int64
    label_ends: np.ndarray  # int64
    weights: np.ndarray  # float32
    indices: np.ndarray  # int32
    values: np.ndarray  # float32
    ends: np.ndarray  # int64

    @classmethod
    def room(cls, text):
        """Lines without a row, for what a text may hold."""
        n_lines, n_blanks, n_commas = sizes(text)
        ends = np.zeros((2, n_lines + 1), np.int64)
        return cls(
            counts=np.zeros(2, np.int64),
            labels=np.empty(n_lines + n_commas, np.int64),
            label_ends=ends[0],
            weights=np.empty(n_lines, np.float32),
            # a feature follows a blank, or begins a line that has no label
            indices=np.empty(n_lines + n_blanks, np.int32),
            values=np.empty(n_lines + n_blanks, np.float32),
            ends=ends[1],
        )


class Limits(NamedTuple):
    """What the numbers of a line may be."""

    first_index: int  # 0 or 1
    n_features: int
    n_labels: int  # 0: one label of any value


@njit
def sizes(text):
    """Numbers of newlines, of blanks and of commas."""
    n_lines = n_blanks = n_commas = 0
    for c in text:
        n_lines += c == _NEWLINE
        n_blanks += (c == 32) | (c == 9) | (c == 11) | (c == 12) | (c == 13)
        n_commas += c == _COMMA
    return n_lines, n_blanks, n_commas


@njit(inner=True)
def _is_blank(c):
    """Whether a byte separates the tokens of a line."""
    return c == 32 or c == 9 or c == 13 or c == 11 or c == 12


@njit(inner=True)
def _skip_blanks(text, i):
    while _is_blank(text[i]):
        i += 1
    return i


@njit(inner=True)
def _end_of_token(text, i, mark):
    """The first byte from i on that is a blank, a newline or the mark."""
    while not (_is_blank(text[i]) or text[i] == _NEWLINE or text[i] == mark):
        i += 1
    return i


@njit(inner=True)
def _ends(c, mark):
    """Whether a byte ends a token."""
    return _is_blank(c) or c == _NEWLINE or c == mark


@njit(inner=True)
def _line_after(text, i):
    while text[i] != _NEWLINE:
        i += 1
    return i + 1


@njit(inner=True)
def _index(text, i):
    """The integer that begins at i, and its end, which is i if there is none.

    From 2**40 on it is any number that is as large.
    """
    number = 0
    while 48 <= text[i] <= 57:
        if number < 1 << 40:
            number = number * 10 + (int(text[i]) - 48)
        i += 1
    return number, i


@njit(inner=True)
def _decimal(text, i):
    """The number ``digits * 10**power`` that begins at i, without its sign.

    Returns digits, power, whether it is negative, whether digits that had no room are
    all zero, and the end, which is i if there is no number.
    """
    begin = i
    is_negative = text[i] == 45
    if is_negative or text[i] == 43:
        i += 1
    digits, power, is_whole = 0, 0, True
    start = i
    while 48 <= text[i] <= 57:
        digit = int(text[i]) - 48
        if digits < _FULL:
            digits = digits * 10 + digit
        else:
            power += 1
            is_whole = is_whole and digit == 0
        i += 1
    n_digits = i - start
    if text[i] == 46:
        i += 1
        start = i
        while 48 <= text[i] <= 57:
            digit = int(text[i]) - 48
            if digits < _FULL:
                digits = digits * 10 + digit
                power -= 1
            else:
                is_whole = is_whole and digit == 0
            i += 1
        n_digits += i - start
    if n_digits == 0:
        return 0, 0, False, True, begin
    if text[i] == 101 or text[i] == 69:
        j = i + 1
        sign = 1
        if text[j] == 45:
            sign = -1
        if text[j] == 45 or text[j] == 43:
            j += 1
        shift, end = _index(text, j)
        if end == j:
            return 0, 0, False, True, begin
        power += sign * shift
        i = end
    return digits, power, is_negative, is_whole, i


@njit(inner=True, fastmath=False)  # which would turn quotients into products
def _number(text, i):
    """The float32 that begins at i, as Python's float rounds it, and what it is.

    Returns the value, its end, and `DONE`, `VALUE` if it is no finite number, or
    `NUMBER` if the float64 nearest to it must be known to round it to float32.
    """
    digits, power, is_negative, is_whole, end = _decimal(text, i)
    if end == i:
        return np.float32(0), i, VALUE
    if digits == 0 or power < -65:  # below 1e19 * 1e-66: zero in float32
        value = 0.0
    elif power > 38:
        return np.float32(0), i, VALUE
    elif power < 0:
        value = digits / _POWERS[-power]
    else:
        value = digits * _POWERS[power]
    if value > LARGEST:
        return np.float32(0), i, VALUE
    rounded = np.float32(value)
    if not (is_whole and digits <= _EXACT and -22 <= power <= 22):
        # the float64 nearest to the number is between these
        if np.float32(value * (1 - _CLOSE)) != np.float32(value * (1 + _CLOSE)):
            return np.float32(0), end, NUMBER
    if is_negative:
        rounded = -rounded
    return rounded, end, DONE


@njit(inner=True)
def _integer(text, i):
    """The integer that begins at i, whether it is one of 63 bits, and its end."""
    digits, power, is_negative, is_whole, end = _decimal(text, i)
    while power < 0 and digits % 10 == 0 and digits:
        digits //= 10
        power += 1
    while power > 0 and digits and digits < _FULL:
        digits *= 10
        power -= 1
    is_integer = end > i and is_whole and (power == 0 or digits == 0)
    if is_negative:
        digits = -digits
    return digits, is_integer, end


@njit(inner=True)
def _read_labels(text, i, mark, n_labels, labels, n):
    """Write the labels of a token behind n others; n and i after them, and whether
    they are right."""
    while True:
        label, is_right, end = _integer(text, i)
        if not is_right or (n_labels and not 0 <= label < n_labels):
            return n, i, False
        labels[n] = label
        n, i = n + 1, end
        if n_labels == 0 or text[i] != _COMMA:
            return n, i, _ends(text[i], mark)
        i += 1


@njit(inner=True)
def _sort(indices, values, first, n):
    """Sort the features of a row, which begin at `first`, and sum those of one index.

    Returns n, the number of all features after it, or -1 if a sum is not finite.
    """
    keys = np.empty(n - first, np.int64)  # sums are in the order of the line
    for j in range(n - first):
        keys[j] = (np.int64(indices[first + j]) << 32) | j
    keys.sort()
    row = values[first:n].copy()
    n = first
    for key in keys:
        index, value = key >> 32, row[key & 0xFFFFFFFF]
        if n > first and indices[n - 1] == index:
            total = np.float64(values[n - 1]) + np.float64(value)
            if not -LARGEST <= total <= LARGEST:
                return -1
            values[n - 1] = total
        else:
            indices[n] = index
            values[n] = value
            n += 1
    return n


@njit(inner=True)
def _end_row(lines, n_rows, n_labels, n, is_sorted, weight):
    """Write where a row ends that has been read; False if a sum is not finite."""
    if not is_sorted:
        n = _sort(lines.indices, lines.values, lines.ends[n_rows], n)
        if n < 0:
            return False
    lines.weights[n_rows] = weight
    lines.label_ends[n_rows + 1] = n_labels
    lines.ends[n_rows + 1] = n
    lines.counts[1] = n_rows + 1
    return True


@njit(inner=True, fastmath=False)
def _number_or_known(text, i, known, n_known):
    """As `_number`, with the next of the values `known` in place of `NUMBER`.

    Returns how many are used up, too.
    """
    value, end, problem = _number(text, i)
    if problem == NUMBER and n_known < known.size:
        value, problem = known[n_known], DONE
        n_known += 1
    return value, end, problem, n_known


@njit
def parse_svmlight(text, start, known, limits, weighted, lines):
    """Parse lines of svmlight from `start` on, one row behind the other.

    `known` (float32) are the values of the first numbers for which `NUMBER` was
    returned, of the line at `start`.  Returns what is the matter, the start of the
    line in which it is, which is not among `lines`, and its place.
    """
    i, n_known = start, 0
    while i < text.size:
        line, n_rows = i, lines.counts[1]
        n, n_labels = lines.ends[n_rows], lines.label_ends[n_rows]
        last, is_sorted = -1, True
        i = _skip_blanks(text, i)
        if text[i] == _NEWLINE or text[i] == _HASH:
            i = _line_after(text, i)
            lines.counts[0] += 1
            continue
        _, end = _index(text, i)
        if limits.n_labels == 0 or text[end] != _COLON:
            n_labels, i, is_right = _read_labels(
                text, i, _HASH, limits.n_labels, lines.labels, n_labels
            )
            if not is_right:
                return LABEL, line, i
            i = _skip_blanks(text, i)
        if text[i] == 113:  # qid:
            if text[i + 1] != 105 or text[i + 2] != 100 or text[i + 3] != _COLON:
                return INDEX, line, i
            i = _skip_blanks(text, _end_of_token(text, i, _HASH))
        while text[i] != _NEWLINE and text[i] != _HASH:
            index, end = _index(text, i)
            index -= limits.first_index
            if end == i or not 0 <= index < limits.n_features:
                return INDEX, line, i
            if text[end] != _COLON:
                return COLON, line, end
            i = end + 1
            value, end, problem, n_known = _number_or_known(text, i, known, n_known)
            if problem != DONE:
                return problem, line, i
            if not _ends(text[end], _HASH):
                return VALUE, line, i
            lines.indices[n], lines.values[n] = index, value
            is_sorted = is_sorted and index > last
            n, last = n + 1, index
            i = _skip_blanks(text, end)
        if not _end_row(lines, n_rows, n_labels, n, is_sorted, np.float32(1)):
            return SUM, line, line
        i = _line_after(text, i)
        lines.counts[0] += 1
    return DONE, i, i


@njit
def parse_vw(text, start, known, limits, weighted, lines):
    """As `parse_svmlight`, for Vowpal Wabbit's text; `weighted`: with importance."""
    i, n_known = start, 0
    while i < text.size:
        line, n_rows = i, lines.counts[1]
        n, n_labels = lines.ends[n_rows], lines.label_ends[n_rows]
        last, is_sorted, weight = -1, True, np.float32(1)
        i = _skip_blanks(text, i)
        if text[i] == _NEWLINE:
            i += 1
            lines.counts[0] += 1
            continue
        n_tokens = 0
        while text[i] != _BAR:
            end = _end_of_token(text, i, _BAR)
            if text[i] == _NEWLINE:
                return BAR, line, i
            if text[i] == _QUOTE or text[end] == _BAR:  # the tag, the last one
                i = _skip_blanks(text, end)
                if text[i] != _BAR:
                    return BAR, line, i
                break
            n_tokens += 1
            if n_tokens == 1:
                n_labels, i, is_right = _read_labels(
                    text, i, _BAR, limits.n_labels, lines.labels, n_labels
                )
                if not is_right:
                    return LABEL, line, i
            elif n_tokens == 2:
                if not weighted:
                    return IMPORTANCE, line, i
                weight, end, problem, n_known = _number_or_known(
                    text, i, known, n_known
                )
                if problem == NUMBER:
                    return NUMBER, line, i
                if problem != DONE or weight < 0 or not _ends(text[end], _BAR):
                    return WEIGHT, line, i
                i = end
            else:
                return BASE, line, i
            i = _skip_blanks(text, i)
        if n_tokens == 0 and limits.n_labels == 0:
            return LABEL, line, i
        scale = np.float32(1)
        while text[i] != _NEWLINE:
            at = i
            if text[i] == _BAR:  # and the name of a namespace
                i += 1
                while text[i] != _COLON and not _ends(text[i], _BAR):
                    i += 1
                scale = np.float32(1)
                if text[i] != _COLON:
                    i = _skip_blanks(text, i)
                    continue
                end = i
            else:
                index, end = _index(text, i)
                index -= limits.first_index
                if end == i or not 0 <= index < limits.n_features:
                    return INDEX, line, i
            value, expected = np.float32(1), INDEX
            if text[end] == _COLON:
                i, expected = end + 1, VALUE
                value, end, problem, n_known = _number_or_known(text, i, known, n_known)
                if problem != DONE:
                    return problem, line, i
            if not _ends(text[end], _BAR):
                return expected, line, i
            i = _skip_blanks(text, end)
            if text[at] == _BAR:
                scale = value
                continue
            total = np.float64(value) * np.float64(scale)
            if not -LARGEST <= total <= LARGEST:
                return VALUE, line, at
            lines.indices[n], lines.values[n] = index, total
            is_sorted = is_sorted and index > last
            n, last = n + 1, index
        if not _end_row(lines, n_rows, n_labels, n, is_sorted, weight):
            return SUM, line, line
        i = _line_after(text, i)
        lines.counts[0] += 1
    return DONE, i, i
