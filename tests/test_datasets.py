"""Tests of the data sets, against rows rebuilt one by one in plain Python."""

import sys
import sysconfig
import token
import tokenize
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from scipy.stats import norm
from sklearn.naive_bayes import MultinomialNB

from sklearn_mach._many_classes import _equal_rows
from sklearn_mach.datasets import load_python_tokens, make_many_classes


@pytest.fixture(scope="module")
def real():
    return load_python_tokens(n_files=12, min_count=3, test_size=0.3)


def slow_tokens(path):
    """Tokens of a file, with an f-string as the stretch from its start to its end."""
    names, depth = [], 0
    with open(path, "rb") as file:
        for t in tokenize.tokenize(file.readline):
            kind = token.tok_name[t.type]
            if kind.endswith("STRING_END"):
                depth -= 1
                if depth == 0:
                    names.append("<STRING>")
            elif kind.endswith("STRING_START"):
                depth += 1
            elif depth or kind in ("ENCODING", "ENDMARKER"):
                continue
            elif kind in ("NL", "NEWLINE"):
                names.append("<NEWLINE>")
            elif kind in ("STRING", "COMMENT", "INDENT", "DEDENT"):
                names.append(f"<{kind}>")
            else:
                names.append(t.string)
    return names


def slow_features(tokens, place, known, n_distances, window):
    """Names of the columns that are one, for the token at `place`."""

    def name(i):
        if i < 0:
            return "<START>"
        return tokens[i] if tokens[i] in known else "<UNKNOWN>"

    names = {f"token[-{j}]={name(place - j)}" for j in range(1, n_distances + 1)}
    names |= {f"last{window}={name(place - j)}" for j in range(1, window + 1)}
    return names


def names_of_rows(bunch, rows):
    """Names of the columns that are one in each of these rows, as sets."""
    X = bunch.data
    return [
        set(bunch.feature_names[X.indices[X.indptr[i] : X.indptr[i + 1]]]) for i in rows
    ]


def texts(bunch):
    """Tokens of each file: {path: list of str}."""
    return {
        path: bunch.target_names[bunch.target[bunch.groups == i]].tolist()
        for i, path in enumerate(bunch.filenames)
    }


def test_labels_are_the_tokens_of_the_files(real):
    root = Path(sysconfig.get_paths()["stdlib"])
    assert len(real.filenames) == 12
    for path, tokens in texts(real).items():
        assert tokens == slow_tokens(root / path)[:10_000]


def test_long_files_are_cut(real):
    cut = load_python_tokens(
        n_files=12, min_count=3, test_size=0.3, max_rows_per_file=100
    )
    whole = texts(real)
    assert min(map(len, whole.values())) < 100 < max(map(len, whole.values()))
    assert texts(cut) == {path: tokens[:100] for path, tokens in whole.items()}
    assert "At most the first 100 rows" in cut.DESCR


def test_tables_are_left_out(library):
    library({f"{name}.py": "x = 1\n" for name in ("a", "b", "encodings/cp1")})
    assert load_python_tokens().filenames.size == 2


def test_rows_agree_with_a_slow_rebuild(real):
    files = texts(real)
    train = real.filenames[real.groups[: real.data_train.shape[0]]]
    counts = Counter(t for path in set(train) for t in files[path])
    known = {t for t, count in counts.items() if count >= 3}
    rng = np.random.default_rng(0)
    n_rows = real.target.size
    starts = np.flatnonzero(np.diff(real.groups, prepend=-1))
    third = np.minimum(starts + 3, n_rows - 1)
    rows = np.concatenate([starts, third, rng.choice(n_rows, 500)])
    for i, names in zip(rows, names_of_rows(real, rows), strict=True):
        tokens = files[real.filenames[real.groups[i]]]
        place = i - np.searchsorted(real.groups, real.groups[i])
        assert names == slow_features(tokens, place, known, 4, 20)


def test_matrix_is_canonical(real):
    X = real.data
    assert X.format == "csr"
    assert X.dtype == np.float32
    assert X.indices.dtype == X.indptr.dtype == np.int32
    assert X.shape == (real.target.size, real.feature_names.size)
    assert (X.data == 1).all()
    copy = sp.csr_matrix((X.data, X.indices, X.indptr), shape=X.shape)
    assert copy.has_canonical_format
    assert X.indices.max() < X.shape[1]


def test_parts_are_views_of_the_whole(real):
    n_train = real.data_train.shape[0]
    assert (real.data_train != real.data[:n_train]).nnz == 0
    assert (real.data_test != real.data[n_train:]).nnz == 0
    np.testing.assert_array_equal(real.target_train, real.target[:n_train])
    np.testing.assert_array_equal(real.target_test, real.target[n_train:])
    for part in (real.data_train, real.data_test):
        assert np.shares_memory(part.data, real.data.data)
        assert np.shares_memory(part.indices, real.data.indices)
    assert np.shares_memory(real.target_test, real.target)


def test_files_are_in_one_part_only(real):
    n_train = real.data_train.shape[0]
    train, test = set(real.groups[:n_train]), set(real.groups[n_train:])
    assert not train & test
    assert len(test) == 4  # round(0.3 * 12)
    assert sorted(train | test) == list(range(12))


def test_classes_are_in_order_of_training_counts(real):
    assert real.target.dtype == np.int64
    counts = np.bincount(real.target_train, minlength=real.target_names.size)
    assert (np.diff(counts) <= 0).all()
    n_train_classes = np.count_nonzero(counts)
    for k in range(1, real.target_names.size):
        if counts[k - 1] == counts[k]:
            assert real.target_names[k - 1] < real.target_names[k]
    unseen = real.target_test >= n_train_classes
    assert 0 < unseen.mean() < 1
    assert f"{unseen.mean():.2%}" in real.DESCR
    assert f"{n_train_classes:,}" in real.DESCR
    assert np.unique(real.target).size == real.target_names.size


def test_known_text(library):
    text = 'if x:\n    y = x + 1.5  # half\n\nprint("a", b"c")'
    library({"a.py": text, "b.py": "z = x\n"})
    bunch = load_python_tokens(test_size=0.5, min_count=1, n_distances=2, window=3)
    expected = (
        "if x : <NEWLINE> <INDENT> y = x + 1.5 <COMMENT> <NEWLINE> <NEWLINE> "
        "<DEDENT> print ( <STRING> , <STRING> ) <NEWLINE>"
    )
    assert texts(bunch)["a.py"] == expected.split()
    assert texts(bunch)["b.py"] == ["z", "=", "x", "<NEWLINE>"]


def test_formatted_string_is_one_token(library):
    texts_ = {"a.py": "s = f'{x!r:>{width}} {f\"{y}\"}' + rb'z'\n", "b.py": "z = 1\n"}
    library(texts_)
    expected = ["s", "=", "<STRING>", "+", "<STRING>", "<NEWLINE>"]
    assert texts(load_python_tokens())["a.py"] == expected


def test_known_rows(library):
    library({"a.py": "x = x + 1\n", "b.py": "x = q\n"})
    for seed in range(20):
        bunch = load_python_tokens(
            test_size=0.5, n_distances=2, window=3, random_state=seed
        )
        if bunch.filenames[0] == "a.py":
            break
    # x occurs twice in the training file, every other token once.
    assert bunch.feature_names.size == 9
    known = {"x"}
    a = ["x", "=", "x", "+", "1", "<NEWLINE>"]
    rows = names_of_rows(bunch, range(6))
    assert rows == [slow_features(a, i, known, 2, 3) for i in range(6)]
    assert rows[0] == {"token[-1]=<START>", "token[-2]=<START>", "last3=<START>"}
    assert rows[3] == {
        "token[-1]=x",
        "token[-2]=<UNKNOWN>",
        "last3=x",
        "last3=<UNKNOWN>",
    }
    # Classes: x first, then the names of equal count; q is in the test file only.
    assert bunch.target_names.tolist() == ["x", "+", "1", "<NEWLINE>", "=", "q"]
    assert bunch.target_test.tolist() == [0, 4, 5, 3]
    assert "25.00%" in bunch.DESCR


@pytest.mark.parametrize(("n_distances", "window"), [(1, 0), (3, 0), (5, 2), (2, 7)])
def test_reach_of_the_columns(library, n_distances, window):
    library({"a.py": "x = y + x * y - z\n" * 4, "b.py": "x = y\n" * 3})
    bunch = load_python_tokens(
        test_size=0.5, n_distances=n_distances, window=window, min_count=1
    )
    n_blocks = n_distances + (window > 0)
    known = set(texts(bunch)[bunch.filenames[0]])
    assert bunch.data.shape[1] == n_blocks * (len(known) + 2)
    files = texts(bunch)
    first = 0
    for path in bunch.filenames:
        tokens = files[path]
        rows = names_of_rows(bunch, range(first, first + len(tokens)))
        for i, names in enumerate(rows):
            assert names == slow_features(tokens, i, known, n_distances, window)
        first += len(tokens)


def test_files_left_out(library):
    good = {"a.py": "x = 1\n", "pkg/b.py": "y = 2\n", "pkg/testing.py": "z = 3\n"}
    folders = ("test", "pkg/tests", "site-packages/c", "turtledemo", "__pycache__")
    bad = {f"{folder}/d.py": "w = 4\n" for folder in folders}
    bad |= {
        "idlelib/idle_test/e.py": "w = 4\n",
        "empty.py": "",
        "open_bracket.py": "x = (\n",
        "dedent.py": "if x:\n        y\n    z\n",
        "not_utf8.py": b"x = '\xff'\n",
        "unknown_coding.py": b"# coding: no-such-coding\n",
        "stray.py": "x = $\n" if sys.version_info < (3, 12) else "x = 'a\n",
        "data.txt": "w = 4\n",
    }
    library(good | bad)
    assert set(load_python_tokens().filenames) == set(good)


def test_result_does_not_depend_on_the_folder_or_the_order_of_files(library):
    files = {f"{c}/{d}.py": f"{c} = {d} + 1\n" for c in "abc" for d in "xyz"}
    library(files, "one")
    first = load_python_tokens(n_files=6, test_size=0.4, random_state=3)
    library(dict(reversed(files.items())), "elsewhere/two")
    second = load_python_tokens(n_files=6, test_size=0.4, random_state=3)
    assert first.filenames.tolist() == second.filenames.tolist()
    assert first.target_names.tolist() == second.target_names.tolist()
    np.testing.assert_array_equal(first.target, second.target)
    assert (first.data != second.data).nnz == 0
    others = [load_python_tokens(n_files=6, random_state=s) for s in range(5)]
    assert len({tuple(other.filenames) for other in others}) > 1


@pytest.mark.parametrize(
    ("test_size", "n_test"), [(0.01, 1), (0.5, 2), (0.6, 3), (0.99, 4)]
)
def test_each_part_has_a_file(library, test_size, n_test):
    library({f"{c}.py": f"{c} = 1\n" for c in "abcde"})
    bunch = load_python_tokens(test_size=test_size)
    assert len(bunch.filenames) == 5
    assert np.unique(bunch.groups[bunch.data_train.shape[0] :]).size == n_test


def test_more_files_than_there_are(library):
    library({"a.py": "x = 1\n", "b.py": "y = 2\n"})
    assert len(load_python_tokens(n_files=10**6).filenames) == 2


def test_return_X_y(library):
    library({"a.py": "x = 1\n", "b.py": "y = 2\n"})
    bunch = load_python_tokens()
    X, y = load_python_tokens(return_X_y=True)
    assert (bunch.data != X).nnz == 0
    np.testing.assert_array_equal(bunch.target, y)


def test_missing_sources(library, tmp_path):
    root = library({"os.pyc": b"", "test/a.py": "x = 1\n", "b.txt": ""})
    with pytest.raises(FileNotFoundError, match="source text .* zip file") as error:
        load_python_tokens()
    assert repr(str(root)) in str(error.value)
    library({}, "absent.zip")
    with pytest.raises(FileNotFoundError, match="source text"):
        load_python_tokens()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_files": 1}, ValueError, "n_files == 1, must be >= 2"),
        ({"n_files": 2.5}, TypeError, "n_files must be an instance of"),
        ({"n_distances": 0}, ValueError, "n_distances == 0, must be >= 1"),
        ({"n_distances": 101}, ValueError, "n_distances == 101, must be <= 100"),
        ({"window": -1}, ValueError, "window == -1, must be >= 0"),
        ({"window": 501}, ValueError, "window == 501, must be <= 500"),
        ({"min_count": 0}, ValueError, "min_count == 0, must be >= 1"),
        ({"max_rows_per_file": 0}, ValueError, "max_rows_per_file == 0, must be >= 1"),
        ({"test_size": 0}, ValueError, "test_size == 0, must be > 0 and < 1"),
        ({"test_size": 1.0}, ValueError, "test_size == 1.0, must be > 0 and < 1"),
        ({"test_size": np.nan}, ValueError, "test_size == nan, must be"),
        ({"test_size": "a"}, TypeError, "test_size must be an instance of"),
        ({"n_files": True}, TypeError, "n_files must be a number, not True"),
        ({"window": False}, TypeError, "window must be a number, not False"),
        ({"random_state": "a"}, ValueError, "'a' cannot be used to seed"),
    ],
)
def test_bad_parameters_of_load_python_tokens(parameters, error, message):
    with pytest.raises(error, match=message):
        load_python_tokens(**parameters)


@pytest.mark.skipif(
    "sparse_interface" not in sklearn.get_config(), reason="scikit-learn >= 1.9"
)
def test_sparse_interface(library):
    library({"a.py": "x = 1\n", "b.py": "y = 2\n"})
    for interface, is_matrix in (("spmatrix", True), ("sparray", False)):
        with sklearn.config_context(sparse_interface=interface):
            bunch = load_python_tokens()
            X, _ = make_many_classes(10, 60, 3)
        for container in (bunch.data, bunch.data_train, bunch.data_test, X):
            assert container.format == "csr"
            assert sp.isspmatrix(container) == is_matrix


def test_make_many_classes_shape_and_types():
    X, y = make_many_classes(300, 700, 90, n_nonzeros=20, random_state=0)
    assert X.shape == (300, 700)
    assert X.format == "csr"
    assert X.dtype == np.float32
    assert X.indices.dtype == X.indptr.dtype == np.int32
    assert y.dtype == np.int64
    assert (np.diff(X.indptr) == 20).all()
    copy = sp.csr_matrix((X.data, X.indices, X.indptr), shape=X.shape)
    assert copy.has_canonical_format
    assert X.indices.min() >= 0
    assert X.indices.max() < 700
    np.testing.assert_allclose(X.multiply(X).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.unique(y), np.arange(90))


def test_make_many_classes_follows_its_seed():
    X, y = make_many_classes(200, 300, 40, random_state=1)
    X_same, y_same = make_many_classes(200, 300, 40, random_state=1)
    X_other, _ = make_many_classes(200, 300, 40, random_state=2)
    assert (X != X_same).nnz == 0
    np.testing.assert_array_equal(y, y_same)
    assert (X != X_other).nnz > 0


@pytest.mark.parametrize("exponent", [0, 0.5, 1, 1.3])
def test_make_many_classes_follows_the_power_law(exponent):
    n_samples, n_classes = 200_000, 50
    law = {"feature_exponent": exponent, "class_exponent": exponent}
    X, y = make_many_classes(
        n_samples, 2_000, n_classes, n_nonzeros=1, signal=0, random_state=0, **law
    )
    for sizes, n, n_draws in (
        (np.bincount(X.indices, minlength=2_000), 2_000, n_samples),
        (np.bincount(y, minlength=n_classes) - 1, n_classes, n_samples - n_classes),
    ):
        # Share of item j: mass of the continuous law on [j + 1, j + 2).
        ends = np.arange(1, n + 2, dtype=float)
        mass = np.log(ends) if exponent == 1 else ends ** (1 - exponent)
        share = np.diff(mass) / (mass[-1] - mass[0])
        # Five standard deviations of a binomial count.
        np.testing.assert_array_less(
            np.abs(sizes - n_draws * share), 5 * np.sqrt(n_draws * share) + 5
        )


def test_make_many_classes_takes_the_first_column_of_a_run_where_the_law_is_steep():
    law = {"feature_exponent": 400, "class_exponent": 400}
    X, y = make_many_classes(
        500, 300, 40, n_nonzeros=50, signal=0, random_state=0, **law
    )
    # Of column 49 and those after it the second has the share (50 / 51)**400, 0.0004.
    assert np.mean(X.indices.reshape(500, 50) == np.arange(50)) > 0.99
    assert (np.bincount(y, minlength=40)[1:] == 1).all()  # one row for each class


@pytest.mark.parametrize(
    ("n_rows", "n_nonzeros", "n_features", "dtype"),
    [
        (1, 2**31 - 1, 2**31 - 1, np.int32),
        (2, 2**30, 2**30, np.int64),
        (5, 1_000_000_000, 1_000_000_000, np.int64),
        (2, 3, 2**31, np.int64),
        (4, 3, 2**31 - 1, np.int32),
    ],
)
def test_row_pointers_count_all_non_zeros(n_rows, n_nonzeros, n_features, dtype):
    indptr = _equal_rows(n_rows, n_nonzeros, n_features)
    assert indptr.dtype == dtype
    assert indptr.tolist() == [i * n_nonzeros for i in range(n_rows + 1)]


def test_make_many_classes_beyond_the_columns_that_int32_counts():
    n_features = 2**33
    X, _ = make_many_classes(20, n_features, 5, feature_exponent=0, random_state=0)
    assert X.indices.dtype == X.indptr.dtype == np.int64
    # One column in each of 50 runs of equal length.
    runs = X.indices.reshape(20, 50) * 50 // n_features
    assert (np.abs(runs - np.arange(50)) <= 1).all()
    assert X.has_canonical_format


def test_make_many_classes_can_be_learned():
    def accuracy(signal):
        X, y = make_many_classes(6_000, 3_000, 200, signal=signal, random_state=0)
        model = MultinomialNB(alpha=0.01).fit(X[:5_000], y[:5_000])
        majority = np.mean(y[5_000:] == 0)
        return model.score(X[5_000:], y[5_000:]), majority

    score, majority = accuracy(0.3)
    assert score > majority + 0.3
    score, majority = accuracy(0)
    assert score < majority + 0.03


@pytest.mark.parametrize(
    ("n_samples", "n_features", "n_classes", "n_nonzeros"),
    [(1, 1, 1, 1), (5, 50, 1, 50), (7, 51, 20, 50), (30, 1_000, 30, 2)],
)
@pytest.mark.parametrize("exponent", [0.0, 1.0, 30.0, 1000.0])
def test_make_many_classes_at_the_edges(
    n_samples, n_features, n_classes, n_nonzeros, exponent
):
    law = {"feature_exponent": exponent, "class_exponent": exponent}
    sizes = n_samples, n_features, n_classes
    X, y = make_many_classes(*sizes, n_nonzeros=n_nonzeros, random_state=0, **law)
    assert X.shape == (n_samples, n_features)
    columns = X.indices.reshape(n_samples, n_nonzeros)
    assert (np.diff(columns, axis=1) > 0).all()
    assert columns.min() >= 0
    assert columns.max() < n_features
    assert y.min() >= 0
    assert y.max() < n_classes


def clusters(*sizes, random_state=0, **params):
    """Dense rows, their classes and the centres of these."""
    params |= {"dense": True, "return_centers": True, "random_state": random_state}
    return make_many_classes(*sizes, **params)


def test_dense_rows_have_unit_length_and_the_centres_too():
    X, y, centers = clusters(700, 30, 90)
    assert X.shape == (700, 30)
    assert centers.shape == (90, 30)
    assert X.dtype == centers.dtype == np.float32
    assert X.flags.c_contiguous
    assert y.dtype == np.int64
    for rows in (X, centers):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_dense_kind_has_the_classes_of_the_sparse_kind():
    for sizes in ((3_000, 60, 200), (100, 60, 200)):  # the last with fewer rows
        _, y_sparse = make_many_classes(*sizes, class_exponent=1.3, random_state=5)
        _, y = make_many_classes(*sizes, class_exponent=1.3, dense=True, random_state=5)
        np.testing.assert_array_equal(y, y_sparse)


@pytest.mark.parametrize("noise", [0.5, 1.5, 4])
def test_dense_rows_are_as_far_from_their_centres_as_the_noise_says(noise):
    X, y, centers = clusters(4_000, 400, 50, noise=noise)
    cosine = (X * centers[y]).sum(axis=1)
    # The cosine of a row varies by less than 1 / sqrt(400), the mean of 4,000 less.
    expected = 1 / np.sqrt(1 + noise**2)
    np.testing.assert_allclose(cosine.mean(), expected, atol=0.005)
    other = (X * centers[(y + 1) % 50]).sum(axis=1)
    assert abs(other.mean()) < 0.05
    # What is left of a row is noise, spread evenly over all columns.
    rest = X - cosine[:, None] * centers[y]
    spread = (rest**2).mean(axis=0) * 400
    np.testing.assert_allclose(spread, 1 - expected**2, rtol=0.2)


def test_dense_rows_without_noise_are_their_centres():
    X, y, centers = clusters(200, 8, 30, noise=0)
    np.testing.assert_allclose(X, centers[y], rtol=1e-6)


def test_dense_rows_with_the_largest_noise_have_unit_length():
    X, _, _ = clusters(50, 8, 5, noise=sys.float_info.max)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("noise", [0.7, 1.5, 5])
def test_best_accuracy_of_two_dense_classes(noise):
    n_samples, n_features = 20_000, 6
    X, y, centers = clusters(
        n_samples, n_features, 2, class_exponent=0, noise=noise, random_state=2
    )
    score = np.mean((X @ centers.T).argmax(axis=1) == y)
    # The plane midway between the centres passes through zero, so that scaling a row
    # leaves it on its side. The noise reaches beyond the plane in one direction.
    half = np.linalg.norm(centers[1] - centers[0]) / 2
    best = norm.cdf(half * np.sqrt(n_features) / noise)
    assert abs(score - best) < 4 * np.sqrt(best * (1 - best) / n_samples)


def test_best_accuracy_of_many_dense_classes_falls_with_the_noise():
    scores, plain = [], []
    for noise in (0.1, 1, 2, 4, 100):
        X, y, centers = clusters(5_000, 20, 100, noise=noise)
        cosine = X @ centers.T
        weight = 20 * np.sqrt(1 + noise**2) / noise**2
        rule = weight * cosine + np.log(np.bincount(y) / y.size)
        scores.append(np.mean(rule.argmax(axis=1) == y))
        plain.append(np.mean(cosine.argmax(axis=1) == y))
    assert scores[0] == 1
    assert (np.diff(scores) < -0.01).all()
    assert (np.array(scores[1:]) > np.array(plain[1:]) + 0.01).all()
    # All that is left is the size of the largest class.
    assert abs(scores[-1] - np.mean(y == 0)) < 0.02


def test_dense_rows_follow_their_seed():
    sizes = (1_200, 2_000, 40)  # several batches, the last one shorter
    X, _, centers = clusters(*sizes, random_state=1)
    X_same, _ = make_many_classes(*sizes, dense=True, random_state=1)
    np.testing.assert_array_equal(X, X_same)
    X_other, _ = make_many_classes(*sizes, dense=True, random_state=2)
    assert np.mean(X != X_other) > 0.99
    # Each batch is drawn anew: no two rows are alike.
    assert np.unique(X[:, :3], axis=0).shape[0] == 1_200
    assert np.unique(centers[:, :3], axis=0).shape[0] == 40


@pytest.mark.parametrize("n_features", [1, 2, np.int8(100)])
@pytest.mark.parametrize(("n_samples", "n_classes"), [(1, 1), (5, 1), (7, 20)])
def test_dense_kind_at_the_edges(n_samples, n_features, n_classes):
    sizes = n_samples, n_features, n_classes
    X, y, centers = clusters(*sizes, random_state=None)
    assert X.shape == (n_samples, n_features)
    assert centers.shape == (n_classes, n_features)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-6)
    assert y.min() >= 0
    assert y.max() < n_classes


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples == 0, must be >= 1"),
        ({"n_classes": 0}, ValueError, "n_classes == 0, must be >= 1"),
        ({"n_nonzeros": 0}, ValueError, "n_nonzeros == 0, must be >= 1"),
        ({"n_features": 49}, ValueError, "n_features == 49, must be >= 50"),
        ({"n_features": 1e3}, TypeError, "n_features must be an instance of"),
        ({"feature_exponent": -1}, ValueError, "feature_exponent == -1, must be >= 0"),
        ({"class_exponent": -1}, ValueError, "class_exponent == -1, must be >= 0"),
        ({"signal": 1.1}, ValueError, "signal == 1.1, must be <= 1"),
        ({"signal": np.nan}, ValueError, "signal == nan, must be finite"),
        ({"signal": True}, TypeError, "signal must be a number, not True"),
        ({"class_exponent": np.inf}, ValueError, "class_exponent == inf, must be fin"),
        ({"class_exponent": np.nan}, ValueError, "class_exponent == nan, must be fin"),
        ({"feature_exponent": np.inf}, ValueError, "feature_exponent == inf, must be"),
        ({"n_samples": True}, TypeError, "n_samples must be a number, not True"),
        ({"noise": -0.1}, ValueError, "noise == -0.1, must be >= 0"),
        ({"noise": np.inf, "dense": True}, ValueError, "noise == inf, must be finite"),
        ({"noise": "1", "dense": True}, TypeError, "noise must be an instance of"),
        ({"noise": True, "dense": True}, TypeError, "noise must be a number, not True"),
        ({"n_features": 0, "dense": True}, ValueError, "n_features == 0, must be >= 1"),
        ({"dense": "no"}, TypeError, "dense must be True or False, not 'no'"),
        ({"dense": 1}, TypeError, "dense must be True or False, not 1"),
        ({"return_centers": None}, TypeError, "return_centers must be True or False"),
        ({"return_centers": True}, ValueError, "return_centers=True needs dense=True"),
    ],
)
def test_bad_parameters_of_make_many_classes(parameters, error, message):
    with pytest.raises(error, match=message):
        make_many_classes(**parameters)
