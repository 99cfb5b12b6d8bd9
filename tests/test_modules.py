"""The map of the modules in the documentation, held to their imports and lengths."""

import ast
import re
from pathlib import Path

import pytest

import sklearn_mach

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sklearn_mach.__file__).parent
MAP = ROOT / "doc" / "contributing.rst"
LONG = {"theory", "displays"}  # mostly docstrings
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

pytestmark = pytest.mark.skipif(not MAP.exists(), reason="only in a checkout")


def listed():
    """The modules in the order of the map."""
    text = MAP.read_text().split("Where things are")[1].split("How to add")[0]
    return re.findall(r"^``(\w+)`` ", text, re.MULTILINE)


def imported(module):
    """Modules of the package that a module imports, also within functions."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names |= {node.module} if node.module else {a.name for a in node.names}
    return names


def test_the_map_has_every_module_once():
    assert sorted(listed()) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_what_stands_above_them(module):
    order = listed()
    assert imported(module) <= set(order[: order.index(module)])


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_read_at_one_sitting(module):
    n_lines = len((PACKAGE / f"{module}.py").read_text().splitlines())
    assert n_lines <= 500 or module in LONG
