"""The cache alone: files from anywhere, verified, within a limit, shared by all processes of a node."""

import hashlib
import sys
import tempfile
from pathlib import Path

from shards.cache.cache import Cache
from shards.cache.entry import Entry

source = Path(sys.argv[1])  # stands for a slow store
digest = hashlib.sha256(source.read_bytes()).hexdigest()


def fetch(path: Path) -> None:
    """Write the file at a new path."""
    path.write_bytes(source.read_bytes())


def check(path: Path) -> str | None:
    """What is wrong with a file; None if nothing is."""
    return None if hashlib.sha256(path.read_bytes()).hexdigest() == digest else "another sha256"


entry = Entry(key=f"{digest}.tar", size=source.stat().st_size, make=fetch, check=check)
with tempfile.TemporaryDirectory() as folder, Cache(Path(folder), limit_bytes=10**9) as cache:
    for _ in range(2):
        path = cache.obtain(entry, ahead=False)
        print(f"{path and path.name[:8]}: {cache.counts.hits} hits, {cache.counts.misses} misses")
        cache.release(entry.key)
