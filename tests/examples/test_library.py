"""What other programs import: named, typed, described, and on the pages of the API."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

import kkanji
import shards
from docs.api import write_pages

PUBLIC = [(package, name) for package in (kkanji, shards) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=lambda each: getattr(each, "__name__", each))
def test_a_public_name_is_described_and_typed(package: Any, name: str) -> None:
    found = getattr(package, name)
    if not callable(found) or Protocol in getattr(found, "__mro__", ()):
        return
    assert inspect.getdoc(found)
    made = found.__init__ if inspect.isclass(found) and "__init__" in vars(found) else found
    if inspect.isfunction(made):
        given = {key: value for key, value in inspect.signature(made).parameters.items() if key not in ("self", "_")}
        assert [key for key, value in given.items() if value.annotation is inspect.Parameter.empty] == []


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="module 'kkanji' has no attribute 'Loaders'"):
        kkanji.Loaders  # noqa: B018


def test_a_name_without_torch_does_not_import_it() -> None:
    code = "import sys; from kkanji import ClassMap, train_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_pages_of_the_api_have_every_public_name(tmp_path: Path) -> None:
    """As `make api` makes them."""
    write_pages(tmp_path)
    for package in (kkanji, shards):
        page = (tmp_path / f"{package.__name__}.html").read_text(encoding="utf-8")
        assert [name for name in package.__all__ if f'id="{name}"' not in page] == []
        assert "uint8" in page
