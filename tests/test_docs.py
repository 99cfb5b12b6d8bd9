"""The code of the README and of the pages of the documentation runs.

The blocks of a page share a namespace, in order, as for a reader who pastes them. These
are examples with ``>>>``, whose output is compared, and ``.. code-block:: python``. Two
comments of reStructuredText are for this file. The lines below ``.. setup`` run too and
are not shown. ``.. not run: REASON`` before a block leaves it out.
"""

import ast
import doctest
import importlib.util
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from sklearn_mach._backends import resolve_device

ROOT = Path(__file__).parents[1]
DOC = ROOT / "doc"
MADE = {"_build", "auto_examples", "generated"}  # folders that Sphinx fills
PAGES = [ROOT / "README.rst"] + [
    path for path in sorted(DOC.rglob("*.rst")) if not MADE & set(path.parts)
]
# What a block may need beyond the test dependencies, by what it imports or names.
NEEDS = {
    "dask": "distributed",
    "ray": "ray",
    "joblibspark": "joblibspark",
    "sentence_transformers": "sentence_transformers",
    "cuda": None,
}
MOST_NOT_RUN = 8  # in all pages: each is code that nothing checks

BLOCK = re.compile(r"^( *)\.\. (?:code-block:: python|setup)$")
NOT_RUN = re.compile(r"^ *\.\. not run: (.+)$")

pytestmark = pytest.mark.skipif(not DOC.exists(), reason="only in a checkout")
# Engines do not wait for the processes that they start.
ENGINES = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Block(NamedTuple):
    line: int  # from 0
    code: str | doctest.Example
    need: str | None
    not_run: str | None  # the reason


def need_of(code):
    """The key of NEEDS that some code has, or None."""
    found = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    if 'device="cuda' in code:
        found.add("cuda")
    return next((need for need in NEEDS if need in found), None)


def blocks(path):
    """What runs of a page, in order."""
    text = path.read_text(encoding="utf-8")
    examples = doctest.DocTestParser().get_examples(text, str(path))
    found = [Block(e.lineno, e, need_of(e.source), None) for e in examples]
    lines, reason = text.splitlines(), None
    for i, line in enumerate(lines):
        if match := NOT_RUN.match(line):
            reason = match[1]
        elif match := BLOCK.match(line):
            start = end = i + 1
            indent = len(match[1]) + 1
            while end < len(lines) and (
                not lines[end].strip() or lines[end].startswith(" " * indent)
            ):
                end += 1
            # an option of the directive is no code
            code = [
                "" if re.match(r" +:[\w-]+:", given) else given
                for given in lines[start:end]
            ]
            margin = min(len(c) - len(c.lstrip()) for c in code if c.strip())
            code = "\n".join(c[margin:] for c in code) + "\n"
            if not code.lstrip().startswith(">>>"):
                need = None if reason else need_of(code)
                found.append(Block(start, code, need, reason))
            reason = None
    return sorted(found, key=lambda block: block.line)


BLOCKS = {str(path.relative_to(ROOT)): blocks(path) for path in PAGES if DOC.exists()}
CASES = [
    pytest.param(
        page,
        need,
        id=f"{page}-{need}" if need else page,
        marks=ENGINES if need in ("dask", "ray") else (),
    )
    for page, found in BLOCKS.items()
    for need in [None, *NEEDS]
    if any(block.need == need and block.not_run is None for block in found)
]


def run(page, block, namespace):
    if isinstance(block.code, str):
        code = "\n" * block.line + block.code  # for the line in a traceback
        exec(compile(code, f"<{page}>", "exec"), namespace)
        return
    test = doctest.DocTest([block.code], {}, page, str(ROOT / page), 0, None)
    test.globs = namespace  # DocTest would copy it
    printed = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    if runner.run(test, out=printed.write, clear_globs=False).failed:
        pytest.fail(printed.getvalue(), pytrace=False)


@pytest.mark.parametrize("page, need", CASES)
def test_the_code_of_a_page_runs(page, need, tmp_path, monkeypatch):
    if need == "cuda":
        try:
            resolve_device("cuda")
        except ValueError as error:
            pytest.skip(str(error))
    elif need and importlib.util.find_spec(NEEDS[need]) is None:
        pytest.skip(f"needs {NEEDS[need]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["job.py", "0"])  # of a script in a queue of jobs
    namespace = {"__name__": "__main__"}
    for block in BLOCKS[page]:
        if block.not_run is None and block.need in (None, need):
            run(page, block, namespace)


def test_few_blocks_are_not_run():
    left_out = [
        f"{page}, line {block.line}: {block.not_run}"
        for page, found in BLOCKS.items()
        for block in found
        if block.not_run is not None
    ]
    assert len(left_out) <= MOST_NOT_RUN, "\n".join(left_out)


@pytest.mark.parametrize("path", PAGES[1:], ids=lambda path: path.stem)
def test_pages_that_a_page_lists_exist(path):
    for body in re.findall(
        r"^\.\. toctree::\n((?:[ \t].*\n|\n)*)", path.read_text(), re.M
    ):
        for entry in map(str.strip, body.splitlines()):
            name = re.sub(r".*<(.*)>", r"\1", entry)
            if not name or name.startswith(":") or MADE & set(Path(name).parts):
                continue
            folder = DOC if name.startswith("/") else path.parent
            assert (folder / f"{name.lstrip('/')}.rst").exists(), f"{path}: {name}"
