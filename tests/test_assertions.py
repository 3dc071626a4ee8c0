"""Every test can fail: it asserts, or expects an error or a warning, itself or by a function of its file."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "tests").rglob("test_*.py"))
EXPECTS = {"raises", "warns", "fail"}


def without_expectation(tree: ast.Module) -> Iterator[str]:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for name, function in functions.items():
        if name.startswith("test_") and not expects(function, functions, frozenset({name})):
            yield name


def expects(function: ast.FunctionDef, functions: Mapping[str, ast.FunctionDef], seen: frozenset[str]) -> bool:
    """Whether a function, or one that it calls, asserts something that is not a constant."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant | ast.Tuple):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in EXPECTS or name.startswith("assert"):
                return True
            if name in functions and name not in seen and expects(functions[name], functions, seen | {name}):
                return True
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_is_without_an_expectation(path: Path) -> None:
    assert list(without_expectation(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def test_a(): f()", ["test_a"]),
        ("def test_a(): assert True", ["test_a"]),
        ("def test_a(): assert (x, 'message')", ["test_a"]),
        ("def test_a(): test_a()", ["test_a"]),
        ("def test_a(): assert f() == 1", []),
        ("def check(x): assert x\ndef test_a(): check(1)", []),
        ("def test_a():\n    with pytest.raises(ValueError): f()", []),
        ("def test_a(): np.testing.assert_allclose(x, y)", []),
        ("def helper(): f()", []),
    ],
)
def test_a_test_without_one_is_noticed(code: str, found: list[str]) -> None:
    assert list(without_expectation(ast.parse(code))) == found
