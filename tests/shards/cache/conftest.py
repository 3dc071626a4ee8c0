"""A cache in a folder of its own, and what goes into it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards.cache.cache import Cache
from tests.shards.cache.source import SIZE, Source


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[Callable[..., Cache]]:
    """`open_cache(files=3)`: a cache with room for so many items; a short wait is no race, as nobody else moves."""
    opened = []

    def build(files: float = 3, *, wait_s: float = 0.2) -> Cache:
        opened.append(Cache(tmp_path / "cache", int(files * SIZE), wait_s=wait_s))
        return opened[-1]

    yield build
    for cache in opened:
        cache.close()
