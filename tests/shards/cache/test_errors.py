"""Errors of making and of checking pass to the caller and leave nothing."""

from pathlib import Path

import pytest

from shards import MissingShard
from shards.cache.cache import Entry
from tests.faults.cachers import held_bytes
from tests.shards.cache.source import SIZE, OpenCache, Source, use


def test_an_error_of_checking_passes_and_holds_nothing(open_cache: OpenCache, source: Source) -> None:
    def check(_: Path) -> str | None:
        raise ValueError("mine")

    entry = source.entry(1)
    path = use(open_cache(), entry)
    cache = open_cache(1)
    with pytest.raises(ValueError, match="mine"):
        cache.obtain(Entry(key=entry.key, size=SIZE, make=entry.make, check=check), ahead=False)
    assert path.exists()
    assert held_bytes(cache.folder) == 0


@pytest.mark.parametrize("error", [MissingShard("gone"), KeyboardInterrupt(), ValueError("mine")])
def test_an_error_of_making_leaves_nothing_and_passes(
    open_cache: OpenCache, source: Source, error: BaseException
) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"half")
        path.with_name(f"{path.name}.stored").write_bytes(b"other half")
        raise error

    cache = open_cache(1)
    with pytest.raises(type(error)):
        cache.obtain(Entry(key=source.entry(1).key, size=SIZE, make=make, check=lambda _: None), ahead=False)
    assert [path.name for path in cache.folder.iterdir() if source.entry(1).key in path.name] == []
    assert held_bytes(cache.folder) == 0
    assert cache.obtain(source.entry(2), ahead=True), "the failed file takes room"


def test_files_beside_the_one_made_are_cleared(open_cache: OpenCache, source: Source) -> None:
    def make(path: Path) -> None:
        path.with_name(f"{path.name}.stored").write_bytes(b"compressed")
        source.entry(1).make(path)

    entry = source.entry(1)
    with open_cache() as cache:
        use(cache, Entry(key=entry.key, size=SIZE, make=make, check=entry.check))
    assert {path.name for path in cache.folder.iterdir()} == {".lock", entry.key}


@pytest.mark.parametrize("key", ["", "a.tar", "../../etc/passwd", f"{'0' * 64}", f"{'0' * 64}./x", f".{'0' * 64}.tar"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="expected a key of 64 hex digits"):
        Entry(key=key, size=1, make=lambda _: None, check=lambda _: None)
