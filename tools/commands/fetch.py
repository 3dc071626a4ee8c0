"""CODH's files, as published: Kuzushiji-Kanji, Kuzushiji-49, Kuzushiji-MNIST."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from shards import InputError
from shards.checksums import file_digest
from tools.ingest.download import download, open_remote
from tools.ingest.originals import LICENCE
from tools.ingest.tar_stream import check_structure
from tools.progress import count_bytes

CODH = "https://codh.rois.ac.jp/kmnist/dataset/"
Set = Literal["kkanji", "k49", "kmnist"]
SETS: tuple[Set, ...] = ("kkanji", "k49", "kmnist")


class Published(NamedTuple):
    """A file that CODH serves."""

    set: Set
    name: str
    md5: str
    """Published md5 in hexadecimal; empty if there is none."""

    @property
    def path(self) -> str:
        """Path below the base URL and below the output folder."""
        return f"{self.set}/{self.name}"


# md5 as CODH publishes them
FILES = (
    Published("kkanji", "kkanji.tar", ""),
    Published("k49", "k49-train-imgs.npz", "7ac088b20481cf51dcd01ceaab89d821"),
    Published("k49", "k49-train-labels.npz", "44a8e1b893f81e63ff38d73cad420f7a"),
    Published("k49", "k49-test-imgs.npz", "d352e201d846ce6b94f42c990966f374"),
    Published("k49", "k49-test-labels.npz", "4da6f7a62e67a832d5eb1bd85c5ee448"),
    Published("k49", "k49_classmap.csv", "f7d0d0391f68bdf0fe4cf160ceb85753"),
    Published("kmnist", "kmnist-train-imgs.npz", "a183fbc01ed9a345513b145673d3d0bb"),
    Published("kmnist", "kmnist-train-labels.npz", "b0e1d240e8afec72b50437fc3bc5908a"),
    Published("kmnist", "kmnist-test-imgs.npz", "dace6de62ca8b90843cc45366337d02e"),
    Published("kmnist", "kmnist-test-labels.npz", "3ae489a79983d0fe386152684e3b5412"),
    Published("kmnist", "kmnist_classmap.csv", "899202f6e8dc29a321ac210a03d0f2f1"),
)


def fetch(
    sets: tyro.conf.Positional[tuple[Set, ...]] = SETS,
    /,
    *,
    output: Path = Path("data"),
    url: str = CODH,
) -> None:
    """Fetch CODH's data sets: kkanji (one tar), k49 and kmnist (arrays), each into a folder with its name.

    After an interruption the same command resumes. Files that exist are checked and not fetched again. CODH publishes
    a checksum of every file but kkanji.tar, in which `kkanji combine` finds any damage.

    Example: kkanji fetch k49 kmnist --output data

    Args:
        sets: Data sets to fetch: kkanji, k49, kmnist; all three by default.
        output: Folder to put them in.
        url: URL of the three folders, by default CODH's; give the URL of a mirror to use that.
    """
    wanted = [file for file in FILES if file.set in (sets or SETS)]
    for file in wanted:
        target = output / file.set / file.name
        print(f"{target}: {_check(target, file) if target.exists() else _fetch(target, file, url)}", flush=True)
    print(f"licence: {LICENCE}")
    print(f"next: kkanji combine {shlex.join(_sources(wanted, output))} --output originals")


def _sources(files: Sequence[Published], output: Path) -> list[str]:
    """What `combine` takes: the archive of Kuzushiji-Kanji, and the folders of arrays."""
    return list(dict.fromkeys(str(output / (file.path if file.name.endswith(".tar") else file.set)) for file in files))


def _check(target: Path, file: Published) -> str:
    """Check a file that exists. Returns what to report of it."""
    if not file.md5:
        check_structure(target)
        return "exists, whole by its own structure; no checksum is published"
    found = file_digest(target, "md5")
    if found != file.md5:
        raise InputError(
            f"{target}: md5 {found}, expected {file.md5}: damaged or another file; remove it and run again"
        )
    return "exists, md5 as published"


def _fetch(target: Path, file: Published, url: str) -> str:
    """Fetch a file. Returns what to report of it."""
    started = time.perf_counter()
    with count_bytes(0) as bar:

        def progress(present: int, size: int) -> None:
            bar.total, bar.n = size, present
            bar.update(0)

        fetched = download(open_remote(url, file.path), target, md5=file.md5, progress=progress)
    seconds = time.perf_counter() - started
    checked = "md5 as published" if file.md5 else f"md5 {fetched.md5}, none is published to compare it with"
    resumed = f", {fetched.new / 1e6:,.1f} MB of them now" if fetched.new < fetched.size else ""
    return f"{fetched.size / 1e6:,.1f} MB{resumed} in {seconds:.1f} s, {checked}"
