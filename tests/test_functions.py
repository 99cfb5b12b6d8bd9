"""Tests of load_python_functions, against functions whose words and names are known."""

import ast
import builtins
import re
import symtable
import sys
import sysconfig
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn

from sklearn_mach.datasets import load_python_functions

TEXT = '''
"""Words of the module."""
import os, warnings as warn

TABLE = {}

@decorate.with_HTTPServer(limit=default_limit)
async def getURLOf_it(anObject: "Base.Kind", *rest: int, key=DEFAULT, **more) -> list:
    """Return the HTML2 of it.

    The sum; the SUM.
    """
    # A comment of the body.
    global TABLE
    TABLE = warn.filters
    from json import dumps as to_text
    local = [part for part in rest if (size := len(part)) > key]
    try:
        await anObject.run(to_text(local), keyword=size)
    except OSError as problem:
        raise RuntimeError("words of a string") from problem
    def inner(x, *, y=os):
        """Words of the inner function."""
        local.end = x
        return inner(more)
    class Inside(Base):
        slot: Kind = None
    del local
    match rest:
        case [Point(x=0) as first, *others]:
            return first, others
        case {"k": value, **remaining}:
            return value + remaining

class OuterOne:
    def method(self):
        return self._the_state
    class B:
        if TABLE:
            @property
            def size(self): return len(self)
        def nothing(self, other):
            """Uses no name."""
            return other

if os:
    try:
        def plain(): TABLE[0] += 1
    except Exception:
        pass
for x in plain(): y = lambda: TABLE
'''
WORDS = {
    "getURLOf_it": {
        "name=get": 1,
        "name=url": 1,
        "name=of": 1,
        "name=it": 1,
        "parameter=an": 1,
        "parameter=object": 1,
        "parameter=rest": 1,
        "parameter=key": 1,
        "parameter=more": 1,
        "annotation=base": 1,
        "annotation=kind": 1,
        "annotation=int": 1,
        "annotation=list": 1,
        "decorator=decorate": 1,
        "decorator=with": 1,
        "decorator=http": 1,
        "decorator=server": 1,
        "decorator=limit": 2,
        "decorator=default": 1,
        "docstring=return": 1,
        "docstring=the": 3,
        "docstring=html2": 1,
        "docstring=of": 1,
        "docstring=it": 1,
        "docstring=sum": 2,
    },
    "OuterOne.method": {
        "name=method": 1,
        "class=outer": 1,
        "class=one": 1,
        "parameter=self": 1,
    },
    "OuterOne.B.size": {
        "name=size": 1,
        "class=outer": 1,
        "class=one": 1,
        "class=b": 1,
        "parameter=self": 1,
        "decorator=property": 1,
    },
    "plain": {"name=plain": 1},
}
NAMES = {
    "getURLOf_it": "TABLE warn filters len run to_text OSError RuntimeError os end "
    "Base Kind Point",
    "OuterOne.method": "_the_state",
    "OuterOne.B.size": "len",
    "plain": "TABLE",
}


@pytest.fixture(scope="module")
def real():
    return load_python_functions(n_files=25, min_count=2, test_size=0.3)


def words_of(bunch, i):
    """{word: count} of row i."""
    row = slice(*bunch.data.indptr[i : i + 2])
    words = bunch.feature_names[bunch.data.indices[row]]
    return dict(zip(words, bunch.data.data[row], strict=True))


def names_of(bunch, i):
    """The labels of row i."""
    return set(
        bunch.target_names[bunch.target.indices[slice(*bunch.target.indptr[i : i + 2])]]
    )


def rows_of(bunch, path):
    """Rows of a file."""
    return np.flatnonzero(bunch.filenames[bunch.groups] == path)


def load_with_training_file(path, **parameters):
    """The data of a library of two files, with this one as the training file."""
    for seed in range(50):
        bunch = load_python_functions(test_size=0.5, random_state=seed, **parameters)
        if bunch.filenames[0] == path:
            return bunch
    raise AssertionError(f"{path} is always the test file")


def test_known_words_and_names(library):
    library({"a.py": TEXT, "b.py": "def f(): return len\n"})
    bunch = load_with_training_file("a.py", min_count=1)
    rows = rows_of(bunch, "a.py")
    assert bunch.function_names[rows].tolist() == list(NAMES)
    for i, name in zip(rows, NAMES, strict=True):
        assert words_of(bunch, i) == WORDS[name]
        assert names_of(bunch, i) == set(NAMES[name].split())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_parameters_are_local(library):
    text = "def f[T: Base](x: T):\n    type Y = list[T]\n    return Y\n"
    library({"a.py": text, "b.py": "def f(): return len\n"})
    bunch = load_with_training_file("a.py", min_count=1)
    assert names_of(bunch, 0) == {"list"}
    assert words_of(bunch, 0) == {"name=f": 1, "parameter=x": 1, "annotation=t": 1}


def test_rare_words_and_names_are_left_out(library):
    train = (
        "def one(x):\n    'One two two.'\n    return x.a, x.b, x.b\n"
        "def two(x):\n    'One.'\n    return x.a, x.c\n"
        "def three(y):\n    return y.rare\n"
    )
    test = "def one(z):\n    return z.a, z.d\ndef four():\n    return d, e, f\n"
    library({"a.py": train, "b.py": test})
    bunch = load_with_training_file("a.py", min_count=2)
    assert bunch.target_names.tolist() == ["a"]
    assert bunch.feature_names.tolist() == ["docstring=one", "parameter=x"]
    assert bunch.target.toarray().tolist() == [[1], [1], [0], [1], [0]]
    assert bunch.data.toarray().tolist() == [[1, 1], [1, 1], [0, 0], [0, 0], [0, 0]]
    assert bunch.function_names.tolist() == ["one", "two", "three", "one", "four"]
    table = dict(
        re.findall(r"^([A-Z][A-Za-z, -]*?) {2,}(\S+ +\S+)$", bunch.DESCR, re.MULTILINE)
    )
    assert {key: value.split() for key, value in table.items()} == {
        "Files": ["1", "1"],
        "Rows": ["3", "2"],
        "Labels in use": ["1", "1"],
        "Labels a row": ["0.67", "0.50"],
        "Labels, most": ["1", "1"],
        "Rows without label": ["1", "1"],
        "Names left out": ["60.00%", "80.00%"],  # 3 of 5, 4 of 5
        "Non-zeros": ["4", "0"],
        "Columns": ["2", "2"],
    }


def test_labels_and_columns_are_in_order_of_training_counts(real):
    n_train = real.data_train.shape[0]
    for matrix, names in (
        (real.target, real.target_names),
        (real.data, real.feature_names),
    ):
        counts = np.bincount(matrix[:n_train].indices, minlength=names.size)
        assert counts.min() >= 2
        order = sorted(range(names.size), key=lambda i: (-counts[i], names[i]))
        assert order == list(range(names.size))


def test_names_of_real_functions_agree_with_the_compiler(real):
    """Names that the compiler calls global are labels, and those it calls local not.

    Left out are functions that hold others, which the compiler keeps apart, and those
    with a `global`, or with annotations, which it may not look at.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    labels = set(real.target_names)
    n_compared = 0
    for path in real.filenames:
        text = (root / path).read_bytes()
        trees = defaultdict(list)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                trees[node.name].append(node)
        rows = rows_of(real, path)
        row_of = dict(zip(real.function_names[rows], rows, strict=True))
        for table in symtable.symtable(text, path, "exec").get_children():
            name = table.get_name()
            is_alone = table.get_type() == "function" and not table.get_children()
            if not is_alone or len(trees[name]) != 1 or name not in row_of:
                continue
            nodes = [node for line in trees[name][0].body for node in ast.walk(line)]
            if any(isinstance(node, ast.Global | ast.AnnAssign) for node in nodes):
                continue
            symbols = table.get_symbols()
            used = {s.get_name() for s in symbols if s.is_global()}
            used |= {
                s.get_name()
                for s in symbols
                if s.is_imported() and s.is_referenced() and not s.is_assigned()
            }
            used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            # The compiler adds __class__ where it reads `super`.
            names = names_of(real, row_of[name])
            assert names ^ (used & labels) <= {"__class__"}
            n_compared += 1
    assert n_compared > 30
    assert len(labels & set(dir(builtins))) > 10


@pytest.mark.parametrize("path", ["argparse.py", "dataclasses.py", "json/decoder.py"])
def test_words_do_not_depend_on_the_body(library, path):
    """A function without its body, but for the docstring, has the same words."""
    text = Path(sysconfig.get_paths()["stdlib"], path).read_text("utf-8")
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            has_docstring = ast.get_docstring(node) is not None
            node.body[has_docstring:] = ast.parse("len").body
    rows = []
    for folder, module in (("whole", text), ("bare", ast.unparse(tree))):
        library({"a.py": module, "b.py": "def f(): return len\n"}, folder)
        bunch = load_with_training_file("a.py", min_count=1)
        rows.append(
            Counter(
                (bunch.function_names[i], frozenset(words_of(bunch, i).items()))
                for i in rows_of(bunch, "a.py")
            )
        )
    whole, bare = rows
    assert whole.total() > 8
    assert whole <= bare  # functions that use no name are rows of `bare` only


def test_matrices_are_canonical(real):
    X, Y = real.data, real.target
    assert X.dtype == np.float32
    assert Y.dtype == np.int64
    assert X.shape == (real.function_names.size, real.feature_names.size)
    assert Y.shape == (real.function_names.size, real.target_names.size)
    assert (Y.data == 1).all()
    assert (X.data >= 1).all()
    assert (X.data == np.round(X.data)).all()
    for matrix in (X, Y):
        assert matrix.format == "csr"
        assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
        arrays = matrix.data, matrix.indices, matrix.indptr
        assert sp.csr_matrix(arrays, shape=matrix.shape).has_canonical_format
        assert matrix.indices.max() < matrix.shape[1]


def test_parts_are_views_of_the_whole(real):
    n_train = real.data_train.shape[0]
    for whole, train, test in (
        (real.data, real.data_train, real.data_test),
        (real.target, real.target_train, real.target_test),
    ):
        assert (train != whole[:n_train]).nnz == 0
        assert (test != whole[n_train:]).nnz == 0
        for part in (train, test):
            assert np.shares_memory(part.data, whole.data)
            assert np.shares_memory(part.indices, whole.indices)


def test_files_are_in_one_part_only(real):
    n_train = real.data_train.shape[0]
    train, test = set(real.groups[:n_train]), set(real.groups[n_train:])
    assert not train & test
    assert len(test) == 8  # round(0.3 * 25), to even
    assert sorted(train | test) == list(range(25))
    assert real.groups.dtype == np.int32
    assert (np.diff(real.groups) >= 0).all()


def test_files_left_out(library):
    function = "def f(x):\n    return len(x)\n"
    good = {f"{name}.py": function for name in ("a", "pkg/b", "pkg/testing")}
    folders = ("test", "pkg/tests", "site-packages/c", "encodings", "__pycache__")
    left_out = {f"{folder}/d.py": function for folder in folders}
    left_out |= {
        "empty.py": "",
        "no_function.py": "x = len\n",
        "no_name.py": "def f(x):\n    return x\n",
        "data.txt": function,
    }
    bad = {
        "open_bracket.py": function + "x = (\n",
        "python2.py": function + "print 'x'\n",
        "not_utf8.py": function.encode() + b"x = '\xff'\n",
        "unknown_coding.py": b"# coding: no-such-coding\n",
        "null.py": function.encode() + b"\x00\n",
    }
    library(good | left_out | bad)
    bunch = load_python_functions(min_count=1)
    assert set(bunch.filenames) == set(good)
    assert f"left out: {', '.join(sorted(bad))}\n" in bunch.DESCR
    library(good, "good")
    assert "left out: none\n" in load_python_functions(min_count=1).DESCR


def test_invalid_escapes_are_read_without_a_warning(library):
    library({f"{c}.py": "def f(x): return len('\\d')\n" for c in "ab"})
    assert load_python_functions(min_count=1).target_names.tolist() == ["len"]


def test_result_does_not_depend_on_the_folder_or_the_order_of_files(library):
    files = {
        f"{c}/{d}.py": f"def {c}_of(x): return x.{d}, len, x.{c}\n"
        for c in "abc"
        for d in "xyz"
    }
    library(files, "one")
    first = load_python_functions(n_files=6, min_count=1, random_state=3)
    library(dict(reversed(files.items())), "elsewhere/two")
    second = load_python_functions(n_files=6, min_count=1, random_state=3)
    for key in ("filenames", "target_names", "feature_names", "function_names"):
        assert first[key].tolist() == second[key].tolist()
    assert (first.data != second.data).nnz == 0
    assert (first.target != second.target).nnz == 0
    assert len(first.filenames) == 6
    others = [load_python_functions(n_files=6, random_state=s) for s in range(5)]
    assert len({tuple(other.filenames) for other in others}) > 1


def test_return_X_y(library):
    library({f"{c}.py": "def f(x): return len(x)\n" for c in "ab"})
    bunch = load_python_functions(min_count=1)
    X, Y = load_python_functions(min_count=1, return_X_y=True)
    assert (bunch.data != X).nnz == 0
    assert (bunch.target != Y).nnz == 0


def test_missing_sources(library):
    library({"os.pyc": b"", "test/a.py": "x = 1\n"})
    with pytest.raises(FileNotFoundError, match=r"source text .* zip file"):
        load_python_functions()


def test_nothing_is_frequent_enough(library):
    library({f"{c}.py": f"def f(): return {c}\n" for c in "ab"})
    with pytest.raises(ValueError, match="min_count == 2, no column .* 1 training"):
        load_python_functions()
    library({f"{c}.py": f"def f(): return {c}\ndef f(): 1 .y\n" for c in "ab"}, "two")
    with pytest.raises(ValueError, match=r"min_count == 2, no label .* smaller number"):
        load_python_functions()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_files": 1}, ValueError, "n_files == 1, must be >= 2"),
        ({"n_files": 2.5}, TypeError, "n_files must be an instance of"),
        ({"n_files": True}, TypeError, "n_files must be a number, not True"),
        ({"min_count": 0}, ValueError, "min_count == 0, must be >= 1"),
        ({"test_size": 0}, ValueError, "test_size == 0, must be > 0 and < 1"),
        ({"test_size": np.nan}, ValueError, "test_size == nan, must be"),
        ({"random_state": "a"}, ValueError, "'a' cannot be used to seed"),
    ],
)
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        load_python_functions(**parameters)


@pytest.mark.skipif(
    "sparse_interface" not in sklearn.get_config(), reason="scikit-learn >= 1.9"
)
def test_sparse_interface(library):
    library({f"{c}.py": "def f(x): return len(x)\n" for c in "ab"})
    for interface, is_matrix in (("spmatrix", True), ("sparray", False)):
        with sklearn.config_context(sparse_interface=interface):
            bunch = load_python_functions(min_count=1)
        for key in ("data", "target", "data_train", "target_test"):
            assert bunch[key].format == "csr"
            assert sp.isspmatrix(bunch[key]) == is_matrix
