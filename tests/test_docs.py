"""What documents name is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def named_in(text: str) -> set[tuple[str, str]]:
    return set(NAMED.findall(text))


def exists(file: str, name: str) -> bool:
    path = ROOT / file
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body)


@pytest.mark.parametrize(("file", "name"), sorted(named_in((ROOT / "docs" / "FAULTS.md").read_text(encoding="utf-8"))))
def test_every_test_in_the_table_of_faults_is_there(file: str, name: str) -> None:
    assert name.startswith("test_") and exists(file, name)


def test_every_fault_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+)[^|]*\|.*$", (ROOT / "docs" / "FAULTS.md").read_text(encoding="utf-8"), re.MULTILINE)
    found = sorted(map(int, rows))
    assert found == sorted({*found, *range(1, 41)}), "each once"


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert not exists("tests/test_docs.py", "test_of_another_name") and not exists("tests/absent.py", "test_x")
    assert exists("tests/test_docs.py", "test_a_test_that_is_not_there_is_noticed")
