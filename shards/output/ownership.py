"""Which command made a folder: `--overwrite` replaces what the same command made before, and nothing else.

The proof is a marker in the folder, `.kkanji-output`, written last:

    {"format": "kkanji output 1", "maker": "pack", "files": {"train-00000.tar": 532480, ...}}

`files` are all files that the command wrote, with their sizes in bytes. A file that is not listed, has another size or
is newer than the marker is somebody else's work, and then the folder stays. A set is complete without its marker.
"""

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple, NoReturn

from shards.errors import InputError
from shards.json_reading import field, load_json
from shards.output.files import partial_name, sync_folder, write_file

MARKER_NAME, FORMAT = ".kkanji-output", "kkanji output 1"
ELSEWHERE = "choose another --output"


class _Marker(NamedTuple):
    maker: str
    files: dict[str, int]
    written_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """Where a command's output goes, and what may be removed for it."""

    path: Path
    """The output folder, links resolved."""
    maker: str
    """Name of the command; empty for one that replaces nothing and writes no marker."""
    inputs: tuple[Path, ...]
    """Paths that the command reads: they, the folders that contain them and the folders in them are never replaced."""
    overwrite: bool
    """Whether an earlier output of the same command is replaced."""

    def check(self) -> None:
        """Raises InputError if something at this path must not be replaced."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise InputError(f"{self.path}: is a file, expected a folder or nothing; {ELSEWHERE}")
        if os.path.ismount(self.path) or any(_holds(self.path, place) for place in _places()):
            found = "a mount point, or the home or the current folder or one above them"
            raise InputError(f"{self.path}: {found}; choose a folder inside as --output")
        if not any(self.path.iterdir()):
            return
        reason = self._input_problem() or keep_reason(self.path, self.maker)
        if not self.overwrite:
            raise InputError(
                f"{self.path}: already exists and is not empty; {ELSEWHERE}{'' if reason else ' or --overwrite'}"
            )
        if reason:
            raise InputError(f"{self.path}: not replaced: {reason}")

    def announce(self) -> None:
        """Print what will be replaced. Call `check` first."""
        if self.path.exists() and any(self.path.iterdir()):
            count = sum(name != MARKER_NAME for name, _ in _entries(self.path))
            sys.stdout.write(f"{self.path}: replaces {count:,} files that {self.maker} made before\n")

    def publish(self, folder: Path) -> None:
        """Give a finished folder, on the same disk, its final name, and remove what it replaces.

        Raises: InputError if something that must not be replaced has come to this place meanwhile; OSError.
        """
        if self.maker:
            partial_name(folder / MARKER_NAME).unlink(missing_ok=True)  # of a run that was killed here
            write_file(folder / MARKER_NAME, marker(folder, self.maker))
        sync_folder(folder)
        self.check()
        replaced = self.path.parent / f".{self.path.name}.replaced"
        if self.overwrite and self.path.exists():
            remove_own(replaced, self.maker)  # left by a run that was killed between the two renames
            self.path.rename(replaced)
        folder.rename(self.path)
        sync_folder(self.path.parent)
        remove_own(replaced, self.maker)

    def _input_problem(self) -> str | None:
        for given in self.inputs:
            if _holds(self.path, given):
                return f"it is or holds the input {given}; {ELSEWHERE}"
            if _holds(given, self.path):
                return f"it lies in the input {given}; {ELSEWHERE}"
        return None


def destination(path: Path, maker: str, inputs: Iterable[str | Path], overwrite: bool) -> Destination:
    """Links are followed, so that the output may be a link to another disk. URLs among the inputs are ignored."""
    local = tuple(Path(os.path.realpath(given)) for given in inputs if "://" not in str(given))
    return Destination(path=Path(os.path.realpath(path)), maker=maker, inputs=local, overwrite=overwrite)


def marker(folder: Path, maker: str) -> str:
    """The marker for a complete folder in which the maker wrote everything."""
    files = {name: found.st_size for name, found in sorted(_entries(folder)) if name != MARKER_NAME}
    return _marker_json(maker, files)


def listed(folder: Path) -> frozenset[str]:
    """The files that a folder's marker lists; none if it has no marker."""
    found = _read_marker(folder)
    return frozenset(found.files if found else ())


def marker_with(folder: Path, names: Sequence[str]) -> str | None:
    """The new marker after another command has added or replaced these files; None if it would prove nothing."""
    found = _read_marker(folder)
    if found is None or any(name not in names for name, _ in _strange(folder, found)):
        return None
    return _marker_json(found.maker, {**found.files, **{name: (folder / name).stat().st_size for name in names}})


def keep_reason(folder: Path, maker: str) -> str | None:
    """Why a folder must not be removed, and what the user can do; None if this maker wrote everything in it."""
    found = _read_marker(folder)
    if found is None and not folder.is_symlink() and not any(folder.iterdir()):
        return None  # an interrupted removal leaves an empty folder
    if folder.is_symlink() or not maker or found is None:
        unknown = f"no {MARKER_NAME} in it says that {maker or 'this command'} made it"
        return f"{unknown} (early versions wrote none); remove it by hand if nobody needs it, or {ELSEWHERE}"
    if found.maker != maker:
        return f"{found.maker} made it, not {maker}; remove it by hand if nobody needs it, or {ELSEWHERE}"
    for name, problem in _strange(folder, found):
        return f"{name} in it {problem}; move that to another place, or {ELSEWHERE}"
    return None


def remove_own(folder: Path, maker: str) -> None:
    """Remove a folder if this maker wrote everything in it: file by file, so that files added meanwhile stay.

    The marker goes last, so that the next run can finish a removal that was interrupted.
    """
    if not folder.is_dir() or keep_reason(folder, maker):
        return
    files = [name for name, found in _entries(folder) if name != MARKER_NAME and not stat.S_ISDIR(found.st_mode)]
    with suppress(OSError):  # not empty, or of another user: it stays
        for name in files:
            (folder / name).unlink(missing_ok=True)
        for root, _, _ in os.walk(folder, topdown=False):
            if root == str(folder):
                (folder / MARKER_NAME).unlink(missing_ok=True)
            os.rmdir(root)


def _places() -> tuple[Path, ...]:
    return Path.cwd(), Path(os.path.realpath(os.path.expanduser("~")))


def _holds(outer: Path, inner: Path) -> bool:
    """Whether one is the other or lies in it, by whatever name."""
    return outer.exists() and any(each.exists() and each.samefile(outer) for each in (inner, *inner.parents))


def _marker_json(maker: str, files: dict[str, int]) -> str:
    return json.dumps({"format": FORMAT, "maker": maker, "files": files}, ensure_ascii=False, indent=1) + "\n"


def _read_marker(folder: Path) -> _Marker | None:
    """The marker of a folder; None if it has none that can be read."""
    path = folder / MARKER_NAME
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return None
        marker = load_json(path)
        if marker.get("format") != FORMAT:
            return None
        return _Marker(field(marker, "maker", str), field(marker, "files", dict), found.st_mtime_ns)
    except (OSError, ValueError):
        return None


def _strange(folder: Path, made: _Marker) -> Iterator[tuple[str, str]]:
    """Entries of a folder that its maker did not write, or that were changed since: the name, and what is wrong."""
    folders = {str(parent) for name in made.files for parent in PurePath(name).parents}
    for name, found in _entries(folder):
        if name == MARKER_NAME or (name in folders and stat.S_ISDIR(found.st_mode)):
            continue
        if name not in made.files or not stat.S_ISREG(found.st_mode):
            yield name, f"was not made by {made.maker}"
        elif found.st_size != made.files[name] or found.st_mtime_ns > made.written_ns:
            yield name, f"was changed since {made.maker} made it"


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All files and empty folders in a folder, at any depth. Links are not followed."""
    for root, folders, names in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        leaves = [os.path.join(root, name) for name in [*names, *links]]
        if not (folders or names) and root != str(folder):
            leaves.append(root)
        for path in sorted(leaves):
            yield os.path.relpath(path, folder), os.lstat(path)


def _raise(error: OSError) -> NoReturn:
    raise error
