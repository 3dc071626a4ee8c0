"""Tests go through public names: what they import, read and patch stays when the inside of a module changes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "tests").rglob("*.py"))
OURS = {"shards", "kkanji", "tools", "launch", "benchmarks", "tests"}
# Private by their spelling only, or the one way to look into a library: NamedTuple and os document the first four;
# DALI checks a GPU graph without a GPU by the next three; the last two end what a process has of Accelerate and atexit.
OF_OTHERS = {"_replace", "_asdict", "_fields", "_exit", "_build_graph", "_ops", "_op", "_reset_state", "_run_exitfuncs"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def reaches(tree: ast.AST) -> Iterator[str]:
    """The private names of others that a file uses; those of its own classes are reached by `self`."""
    own = set(own_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from private_imports(node)
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in OF_OTHERS:
            by_self = isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in own
            if not by_self:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            yield from private_strings(node)


def own_names(tree: ast.AST) -> Iterator[str]:
    """What the file's classes define: methods, and attributes that they assign."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def private_imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    for alias in node.names:
        parts = f"{module}.{alias.name}".strip(".").split(".")
        if parts[0] in OURS and any(map(is_private, parts)):
            yield ast.unparse(node)


def private_strings(node: ast.Call) -> Iterator[str]:
    """`setattr(module, "_name", ...)`, `patch("module._name")` and the like."""
    if ast.unparse(node.func).rpartition(".")[2] not in ("setattr", "getattr", "delattr", "hasattr", "patch", "object"):
        return
    for argument in node.args:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            if any(map(is_private, argument.value.split("."))):
                yield ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_uses_a_private_name(path: Path) -> None:
    assert list(reaches(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "from shards.order.windowed import _Lane",
        "import kkanji.report._page",
        "from kkanji.report import _page as page",
        "module._name(1)",
        "x = reader._files.sizes[0]",
        "class A(B):\n    def f(self):\n        return self._inherited",
        "monkeypatch.setattr(Loader, '_next', f)",
        "monkeypatch.setattr('kkanji.data.dali._cut', f)",
        "getattr(guard, '_skips')",
    ],
)
def test_a_reach_is_noticed(code: str) -> None:
    assert list(reaches(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "from fontTools.ttLib.tables._g_l_y_f import Glyph",
        "samples._replace(labels=labels)",
        "os._exit(1)",
        "class A:\n    def __init__(self):\n        self._mine = 1\n    def f(self):\n        return self._mine",
        "name.replace('-', '_')",
        "module.__name__",
        "def _helper():\n    return _helper()",
    ],
)
def test_the_rest_is_let_be(code: str) -> None:
    assert list(reaches(ast.parse(code))) == []
