"""Compiled functions are kept until they change; where no cache can be written they are compiled all the same."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import pytest
from numba import types

from shards import compiled

ROOT = Path(__file__).parents[2]


def test_without_a_place_for_the_cache_functions_are_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def njit(**options: Any) -> Any:
        tried.append(options)
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available for file")  # as Numba does
        return numba.njit(**options)

    monkeypatch.setattr(compiled, "njit", njit)
    add = compiled.compiled(nogil=True)(lambda a, b: a + b)
    assert add(2, 3) == 5 and add.signatures
    assert [sorted(options) for options in tried] == [["nogil"], ["nogil"]] and len(tried) == 2


def test_a_callback_is_kept_until_a_module_that_it_calls_changes(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text("from numba import njit\n\n@njit\ndef number():\n    return 1\n")
    (tmp_path / "outer.py").write_text(
        "import inner\nfrom numba import types\nfrom shards.compiled import callback\n\n"
        "@callback(types.int64(), inner)\ndef call():\n    return inner.number()\n\n"
        "print(call.ctypes(), call.cache_hits)\n"
    )
    assert run(tmp_path) == "1 0"
    assert run(tmp_path) == "1 1"
    (tmp_path / "inner.py").write_text("from numba import njit\n\n@njit\ndef number():\n    return 2\n")
    assert run(tmp_path) == "2 0"


def test_a_callback_is_compiled_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    module = ModuleType("inner")
    module.__file__ = str(tmp_path / "inner.py")
    (tmp_path / "inner.py").touch()
    call = compiled.callback(types.int64(types.int64), module)(lambda number: number + 1)
    assert call.ctypes(2) == 3 and call.cache_hits == 0


def run(folder: Path) -> str:
    """What outer.py prints."""
    paths = os.pathsep.join([str(ROOT), str(folder)])
    command = [sys.executable, str(folder / "outer.py")]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    ).stdout.strip()
