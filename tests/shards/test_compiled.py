"""Compiled functions where no cache can be written: read-only code and no home."""

from typing import Any

import numba
import pytest

from shards import compiled


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
