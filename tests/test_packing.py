"""Weights in 8 or 4 bits: their bytes, and products with them."""

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from helpers import mapped
from learners import COMPILED, needs_compilation
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mach import _packed, _packing
from sklearn_mach._packed import Packed, empty_bytes, packed_bytes
from sklearn_mach._weights import Float32

TOP = {8: 127, 4: 7}  # the largest number of so many bits
WIDTHS = [1, 2, 7, 8, 9, 16, 63, 64, 65, 255, 256, 257, 600]
if COMPILED:
    WIDTHS.append(2048)

bits_of_a_weight = pytest.mark.parametrize("bits", [8, 4])


def sparse_numbers(width, bits, seed=0):
    """Whole numbers (n, width), in which the share of zeros goes from none to all.

    The largest of each row that is not zero has the top magnitude: the scale is 1.
    """
    rng, top = np.random.default_rng([seed, width]), TOP[bits]
    rows = [np.zeros(width, int)]
    for share in (1, 0.9, 0.5, 0.3, 0.2, 0.12, 0.08, 0.05, 0.03, 0.01, 0.005):
        for _ in range(2):
            row = rng.integers(1, top + 1, width) * rng.choice([-1, 1], width)
            rows.append(np.where(rng.random(width) < share, row, 0))
    places = [0, width - 1, width // 2, *np.minimum([15, 16, 17, 254, 255], width - 1)]
    rows.extend(np.eye(width, dtype=int)[places])
    rows.append(rows[-1] + np.eye(width, dtype=int)[0])
    for row in rows:
        kept = np.flatnonzero(row)
        if kept.size:
            row[rng.choice(kept)] = rng.choice([-top, top])
    return np.array(rows)


def feature_bytes(packed, j):
    return packed.data[packed.starts[j] : packed.starts[j + 1]].tolist()


def decoded(packed):
    """Weights as the reference reads them."""
    width = packed.intercepts.size
    numbers = [
        reference.unpacked(feature_bytes(packed, j), form, packed.bits, width)
        for j, form in enumerate(packed.forms)
    ]
    return packed.scales[:, None] * np.array(numbers, np.float32)


def example(n_features=60, width=70, bits=8, seed=0, **options):
    """Features of all forms."""
    rng = np.random.default_rng([seed, n_features, width])
    W = rng.standard_normal((n_features, width), np.float32)
    W *= rng.random((n_features, width)) < rng.choice(
        [0, 0.02, 0.2, 1], (n_features, 1)
    )
    b = rng.standard_normal(width, np.float32)
    return Packed.of(W, b, None, bits, **options)


# The format -------------------------------------------------------------------------


@bits_of_a_weight
@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_come_back_from_the_shortest_form(width, bits):
    numbers = sparse_numbers(width, bits)
    b = np.zeros(width, np.float32)
    packed = Packed.of(numbers.astype(np.float32), b, None, bits)
    packed.check(len(numbers), width)
    for j, row in enumerate(numbers.tolist()):
        forms = reference.packed_forms(row, bits)
        part = feature_bytes(packed, j)
        assert len(part) == min(map(len, forms))
        assert part == forms[packed.forms[j]]
        assert reference.unpacked(part, packed.forms[j], bits, width) == row
    assert_array_equal(packed.scales, numbers.any(axis=1))
    assert_array_equal(packed.dense()[0], numbers)


@bits_of_a_weight
@pytest.mark.parametrize("width", WIDTHS)
def test_every_form_is_read_as_the_reference_wrote_it(width, bits):
    numbers = sparse_numbers(width, bits, seed=1)
    scales = np.linspace(0.5, 2, len(numbers), dtype=np.float32)
    for form in range(4):
        parts = [reference.packed_forms(row, bits)[form] for row in numbers.tolist()]
        # longer than the full form is what `Packed` never holds
        parts = [p if len(p) <= _packed._room(width, bits) else [] for p in parts]
        packed = Packed(
            np.array(sum(parts, []), np.uint8),
            np.cumsum([0, *map(len, parts)]).astype(np.uint32),
            np.full(len(numbers), form, np.uint8),
            scales,
            np.zeros(width, np.float32),
            bits,
        )
        packed.check(len(numbers), width)
        expected = np.where(np.array([len(p) > 0 for p in parts])[:, None], numbers, 0)
        W = packed.dense()[0]
        assert_array_equal(W, scales[:, None] * expected.astype(np.float32))


@bits_of_a_weight
def test_all_forms_are_in_use(bits):
    numbers = sparse_numbers(600, bits).astype(np.float32)
    packed = Packed.of(numbers, np.zeros(600, np.float32), None, bits)
    assert set(packed.forms[np.diff(packed.starts) > 0]) == {0, 1, 2, 3}


# Rounding ---------------------------------------------------------------------------


@bits_of_a_weight
@pytest.mark.parametrize("size", [1e-30, 1, 1e30])
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_weights_are_rounded_and_small_ones_left_out(bits, size, share):
    rng = np.random.default_rng(0)
    W = (size * rng.standard_t(3, (30, 50))).astype(np.float32)
    least = np.quantile(np.abs(W), share, axis=1).astype(np.float32)
    least[:3] = 0, np.abs(W[1]).max(), 2 * np.abs(W[2]).max()
    packed = Packed.of(W, np.zeros(50, np.float32), least, bits)
    packed.check(*W.shape)
    found = packed.dense()[0]
    assert_array_equal(found, decoded(packed))
    scales = packed.scales[:, None].astype(float)
    is_kept = np.abs(W) >= least[:, None]
    assert_array_equal(found[~is_kept], 0)
    assert not found[2].any() and packed.starts[2] == packed.starts[3]
    is_cut = np.abs(W) > TOP[bits] * scales
    rounded = is_kept & ~is_cut
    error = np.abs(W.astype(float) - found)
    # of float32 in the division by the scale: 6e-8 of the largest number, 127
    assert (error <= (0.5 + 1e-5) * scales)[rounded].all()
    is_top = np.isclose(np.abs(found), TOP[bits] * scales, rtol=1e-6)
    assert is_top[is_kept & is_cut].all()
    if bits == 8:
        largest = np.abs(W).max(axis=1)
        expected = np.where(least <= largest, largest / 127, 0)
        assert_allclose(packed.scales, expected, rtol=1e-6)


def test_the_scale_of_four_bits_has_the_least_error():
    rng = np.random.default_rng(1)
    W = rng.standard_normal((30, 300)).clip(-2, 2).astype(np.float32)
    W[:, 0] = np.linspace(2, 4, 30)
    packed = Packed.of(W, np.zeros(300, np.float32), None, 4)
    W = W.astype(float)
    errors = []
    for share in (1, 0.9, 0.8, 0.7, 0.6):
        scale = share * np.abs(W).max(axis=1, keepdims=True) / 7
        errors.append(((W - scale * np.rint(W / scale).clip(-7, 7)) ** 2).sum(axis=1))
    found = ((W - packed.dense()[0]) ** 2).sum(axis=1)
    assert_allclose(found, np.min(errors, axis=0), rtol=1e-5)
    assert len(set(np.argmin(errors, axis=0))) > 2


@bits_of_a_weight
def test_weights_of_zero_take_no_bytes(bits):
    W, b = np.zeros((5, 9), np.float32), np.arange(9, dtype=np.float32)
    W[1:3] = -0.0
    packed = Packed.of(W, b, None, bits)
    packed.check(5, 9)
    assert packed.data.size == 0
    assert_array_equal(packed.scales, 0)
    assert_array_equal(packed.dense()[0], W)
    for X in (np.ones((2, 5)), np.ones((6, 5)), sp.csr_array(np.ones((3, 5)))):
        assert_array_equal(packed.logits(X), np.tile(b, (X.shape[0], 1)))
    assert packed.columns([3, 3]).data.size == 0


@bits_of_a_weight
@pytest.mark.parametrize("largest", [1e-45, 1e-41, 1e-38, 3e-37, 1e20, 1e38, 3.4e38])
def test_denormal_and_huge_weights_are_rounded_or_zero(bits, largest):
    W = np.array([[1, -0.5, 0.25, 0, 1 / 128, -0.0]]) * largest
    W = W.astype(np.float32)
    packed = Packed.of(W, np.zeros(6, np.float32), None, bits)
    packed.check(1, 6)
    found = packed.dense()[0]
    assert_array_equal(found, decoded(packed))
    assert np.isfinite(found).all()
    if largest < 1e-30 and not found.any():
        return  # nothing that float32 could tell in a score
    error = np.abs(W.astype(float) - found)
    # denormal numbers are multiples of 1.4e-45
    assert error.max() <= (0.5 + 1e-5) * largest / TOP[bits] + 1e-45
    with np.errstate(over="ignore"):  # squares of float32
        n_bytes, errors = packed_bytes(W, np.zeros(1, np.float32), bits, np.array([0]))
    assert n_bytes == packed.n_bytes - packed.intercepts.nbytes
    assert errors[0] >= 0


# Sizes ------------------------------------------------------------------------------


@bits_of_a_weight
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_measured_bytes_are_those_stored(bits, n_jobs, monkeypatch):
    monkeypatch.setattr(_packed, "_ROWS", 8)
    rng = np.random.default_rng(0)
    W = rng.standard_normal((45, 30)).astype(np.float32)
    W *= rng.random(W.shape) < rng.random((45, 1))
    least, b = rng.random(45).astype(np.float32), np.zeros(30, np.float32)
    packed = Packed.of(W, b, least, bits, n_jobs)
    n_bytes, errors = packed_bytes(W, least, bits, np.arange(45), n_jobs)
    assert n_bytes + b.nbytes == packed.n_bytes == sum(p.nbytes for p in packed[:5])
    expected = ((W.astype(float) - packed.dense()[0]) ** 2).sum(axis=1)
    # 6e-8 of a weight are 3e-5 of what 8 bits miss of it, a 254th of the largest
    assert_allclose(errors, expected, rtol=1e-4, atol=1e-12)
    rows = np.array([7, 3, 40])
    n_bytes, errors = packed_bytes(W, least, bits, rows)
    assert_allclose(errors, expected[rows], rtol=1e-4, atol=1e-12)
    part = Packed.of(W[rows], b, least[rows], bits)
    assert n_bytes + b.nbytes == part.n_bytes
    none = Packed.of(W, b, np.full(45, np.inf, np.float32), bits)
    assert none.n_bytes == empty_bytes(45, 30)
    assert packed_bytes(W, least, bits, np.arange(0))[1].size == 0


def test_threads_and_the_order_of_blocks_change_nothing(monkeypatch):
    whole = example()
    monkeypatch.setattr(_packed, "_ROWS", 7)
    for n_jobs in (1, 2, 5):
        for one, other in zip(example(n_jobs=n_jobs), whole, strict=True):
            assert_array_equal(one, other)


# Products ---------------------------------------------------------------------------


def rows_of_kind(kind, n, d, seed=0):
    """Rows with zeros, of which one is empty."""
    rng = np.random.default_rng([seed, n, d])
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.4)
    X[n // 2] = 0
    *form, dtype = kind.split()
    X = X.astype(dtype)
    if not form:
        return X
    X = sp.csr_array(X)
    if form == ["wide"]:
        X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


KINDS = ["float16", "float32", "float64", "csr float32", "csr float64", "wide float32"]


@pytest.fixture(params=[False, True], ids=["few values", "many values"])
def unpacks_often(request, monkeypatch):
    """Whether features that come often are unpacked once for all rows."""
    if request.param:
        monkeypatch.setattr(_packed, "_MANY_VALUES", 50)
        n_bytes = 20 * 70 * 4  # of the 60 features
        monkeypatch.setattr(_packed, "_UNPACKED_BYTES", n_bytes)
    return request.param


@bits_of_a_weight
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_unpacked_weights(kind, bits, unpacks_often):
    packed = example(bits=bits)
    dense = Float32(*packed.dense())
    assert_array_equal(dense.weights, decoded(packed))
    for n in (1, 2, 3, 4, 5, 19):
        X = rows_of_kind(kind, n, 60)
        found = packed.logits(X)
        assert found.dtype == np.float32 and found.shape == (n, 70)
        assert_array_equal(found, dense.logits(X))
        if n == 19:
            exact = (X.toarray() if sp.issparse(X) else X).astype(float) @ dense.weights
            # sums of some 24 products of about one, each rounded to 6e-8
            assert_allclose(found, exact + dense.intercepts, rtol=1e-5, atol=1e-5)
    if sp.issparse(X):
        assert (packed._unpacked_often(X.indices)[1].size > 0) == unpacks_often


@needs_compilation
@bits_of_a_weight
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_many_rows_and_columns(kind, bits):
    packed = example(300, 515, bits)
    dense = Float32(*packed.dense())
    X = rows_of_kind(kind, 260, 300)
    assert np.count_nonzero(X.data if sp.issparse(X) else X) > _packed._MANY_VALUES
    assert_array_equal(packed.logits(X), dense.logits(X))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_logits_in_any_company(kind, unpacks_often):
    packed, X = example(), rows_of_kind(kind, 30, 60)
    together = packed.logits(X)
    for rows in ([4], [15], [29, 4], [0, 1, 2], [3, 4, 5, 6], np.arange(30)[::-1]):
        assert_array_equal(packed.logits(X[rows]), together[rows])


def test_arrays_may_be_read_only_or_mapped(tmp_path):
    packed, X = example(), rows_of_kind("csr float32", 6, 60)
    frozen, in_files = packed, packed
    for name in packed._fields[:5]:
        array = getattr(packed, name)
        copy = array.copy()
        copy.flags.writeable = False
        frozen = frozen._replace(**{name: copy})
        (tmp_path / name).mkdir()
        in_files = in_files._replace(**{name: mapped(array, tmp_path / name)})
    for other in (frozen, in_files):
        other.check(60, 70)
        assert_array_equal(other.logits(X), packed.logits(X))
        assert_array_equal(other.logits(X.toarray()), packed.logits(X.toarray()))
        W, b = other.dense()
        assert_array_equal(W, packed.dense()[0])
        W += 1  # they are new arrays, which training may change
        b += 1
        assert_array_equal(other.columns([5, 2]).data, packed.columns([5, 2]).data)
    for j, array in enumerate(packed[:5]):
        assert_array_equal(array, in_files[j])


@bits_of_a_weight
def test_columns_are_those_of_the_unpacked_weights(bits, monkeypatch):
    monkeypatch.setattr(_packed, "_ROWS", 25)
    packed = example(bits=bits)
    W, b = packed.dense()
    rng = np.random.default_rng(0)
    for places in (
        [0],
        [69],
        range(70),
        rng.permutation(70),
        [5, 5, 5, 0],
        np.repeat(rng.permutation(70), 2),
        rng.integers(0, 70, 33),
    ):
        chosen = packed.columns(places)
        chosen.check(60, len(places))
        assert chosen.bits == bits
        for one, other in zip(chosen.dense(), (W[:, places], b[places]), strict=True):
            assert_array_equal(one, other)
        assert_array_equal(decoded(chosen), W[:, places])


# Damage -----------------------------------------------------------------------------


def test_parts_that_do_not_fit_together_are_refused():
    packed = example()
    packed.check(60, 70)
    for sizes in ((59, 70), (61, 70), (60, 69), (60, 71), (70, 60)):
        with pytest.raises(ValueError, match=f"not those of {sizes[0]} features"):
            packed.check(*sizes)
    starts, full = packed.starts, np.flatnonzero(packed.forms == 0)[0]
    masked = np.flatnonzero(packed.forms == 1)[0]

    def shorter(j, length):
        """Feature j has fewer bytes, and the one behind it more."""
        changed = starts.copy()
        changed[j + 1] = changed[j] + length
        return changed

    longest = np.argmax(np.diff(starts))
    bad = {
        "bits": [1, 2, 16, 0, None, "8"],
        "data": [
            *(packed.data[:-1], np.append(packed.data, np.uint8(0))),
            *(packed.data.view(np.int8), packed.data.astype(np.uint16)),
            packed.data[:, None],
        ],
        "starts": [
            *(starts + np.uint32(1), starts[1:], starts[:-1], starts[::-1].copy()),
            *(starts.astype(np.int64), starts.astype(float), starts[None]),
            np.where(np.arange(61) == longest + 1, 0, starts).astype(np.uint32),
            np.where(np.arange(61) == 30, 2**32 - 1, starts).astype(np.uint32),
            np.where(np.arange(61) == 30, 2**64 - 1, starts.astype(np.uint64)),
            *(shorter(full, 69), shorter(full, 1), shorter(masked, 8)),
        ],
        "forms": [
            *(packed.forms[1:], packed.forms.view(np.int8), packed.forms[:, None]),
            *(np.full(60, 4, np.uint8), np.full(60, 255, np.uint8)),
            np.zeros(60, np.uint8),  # full, with fewer bytes
        ],
        "scales": [
            *(packed.scales[1:], packed.scales.astype(float), packed.scales[:, None]),
            packed.scales.astype(">f4"),
        ],
        "intercepts": [
            *(packed.intercepts[1:], packed.intercepts.astype(float)),
            packed.intercepts[:, None],
        ],
    }
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match="do not fit together"):
                packed._replace(**{name: value}).check(60, 70)


def damaged(rng, width, bits):
    """Features that `check` lets pass, of arbitrary bytes; more lie behind the data."""
    n = 6
    forms = rng.integers(0, 4, n).astype(np.uint8)
    least = np.array([_packed._room(width, bits), -(-width // 8), 0, 0])[forms]
    lengths = least + rng.integers(0, rng.choice([2, 8, 2 * width + 2]), n)
    lengths[rng.random(n) < 0.1] = 0
    total = lengths.sum()
    memory = rng.integers(0, 256, total + 4 * width + 64).astype(np.uint8)
    if rng.random() < 0.5:  # mostly short gaps
        memory[:total] &= rng.choice([0, 1, 3, 17, 51], total).astype(np.uint8)
    scales = rng.standard_normal(n).astype(np.float32)
    if COMPILED:
        scales[rng.random(n) < 0.05] = rng.choice([0, 1e-45, 1e30])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    dtype = rng.choice([np.uint32, np.uint64])
    b = np.zeros(width, np.float32)
    return memory, Packed(memory[:total], starts.astype(dtype), forms, scales, b, bits)


@bits_of_a_weight
@pytest.mark.parametrize("seed", range(4))
def test_arbitrary_bytes_lead_the_kernels_nowhere_else(bits, seed):
    rng = np.random.default_rng([bits, seed])
    guard = np.float32(7.25)
    for _ in range(500 if COMPILED else 8):
        width = int(rng.integers(1, 40 if rng.random() < 0.9 or not COMPILED else 700))
        memory, packed = damaged(rng, width, bits)
        packed.check(6, width)
        given = memory.copy()
        check_kernels_keep_to_their_arrays(packed, rng, guard)
        with np.errstate(all="ignore"):
            W = packed.dense()[0]
            X = np.eye(6, dtype=np.float32)
            Z = packed.logits(sp.csr_array(X))
            chosen = packed.columns(rng.integers(0, width, rng.integers(1, 2 * width)))
        assert_array_equal(Z, W)
        assert_array_equal(packed.logits(X[:3]), W[:3])
        chosen.check(6, chosen.intercepts.size)
        chosen.dense()
        # nor does what lies behind the data count
        memory[packed.data.size :] ^= 255
        assert_array_equal(packed.dense()[0], W)
        memory[packed.data.size :] ^= 255
        assert_array_equal(memory, given)


def check_kernels_keep_to_their_arrays(packed, rng, guard):
    """The kernels, with numbers around what they write to, which must stay."""
    width, n = packed.intercepts.size, packed.scales.size
    parts, bits = packed._parts, packed.bits
    margin = width + 300

    def guarded(shape, dtype=np.float32, value=guard):
        size = int(np.prod(shape))
        whole = np.full(size + 2 * margin, value, dtype)
        inner = whole[margin : margin + size].reshape(shape)
        inner[:] = 0
        return whole, inner

    def is_kept(whole, value=guard):
        return (whole[:margin] == value).all() and (whole[-margin:] == value).all()

    (all_work, work), (all_row, row) = guarded((width,)), guarded((width,))
    for j in range(n):
        (all_z, Z), (all_w, W) = guarded((1, width)), guarded((1, width))
        x, indices = np.ones(1, np.float32), np.array([j], np.int32)
        indptr = np.array([0, 1], np.int32)
        often = np.full(1, -1), np.empty((0, width), np.float32)
        options = parts, bits, *_packed.read_only(*often), work
        _packing.add_rows(*_packed.read_only(x, indices, indptr), *options, Z)
        features = _packed.read_only(np.array([j]))
        _packing.unpack(parts, bits, *features, work, W)
        assert is_kept(all_z) and is_kept(all_w)
    places = rng.integers(0, width, rng.integers(1, 2 * width + 1))
    all_out, out = guarded((n, _packed._room(places.size, bits)), np.uint8, 99)
    lengths, forms = np.zeros(n, np.int64), np.zeros(n, np.uint8)
    with np.errstate(all="ignore"):
        _packing.choose(parts, bits, 0, places, work, row, out, lengths, forms)
    assert is_kept(all_out, 99) and is_kept(all_work) and is_kept(all_row)
    assert (lengths <= out.shape[1]).all()
