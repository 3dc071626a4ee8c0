"""The image files in paths that a user gives."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kkanji.inference.image_files import OTHER_SUFFIXES, SUFFIXES, count_pages
from shards.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One of several pages of a file."""

    file: Path
    """A TIFF."""
    number: int
    """From 1 on."""

    def __str__(self) -> str:
        return f"{self.file}, page {self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The image files found in paths that a user gave."""

    files: tuple[Path, ...]
    """Image files, in the order of the paths and of the names in each folder."""
    others: int
    """Number of files in the folders that were left out, as their names are not those of images."""


def list_images(paths: Sequence[Path]) -> Listing:
    """List the given files, and the images at any depth in the given folders, sorted by name.

    Files given by name are taken whatever their suffix. So is, in a folder, what is named as an image but cannot be
    read, with folders that may not be read or are links: each becomes an error of its own in the predictions. Raises
    InputError for a folder without an image.
    """
    files: list[Path] = []
    others = 0
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        images, rest = _list_folder(path)
        if not images:
            found = f"{rest:,} {'file' if rest == 1 else 'files'}, none named as an image"
            raise InputError(f"{path}: {found}; expected {', '.join(sorted(SUFFIXES))}")
        files += images
        others += rest
    return Listing(files=tuple(files), others=others)


def _list_folder(root: Path) -> tuple[list[Path], int]:
    """What is to be read in a folder, sorted, and the number of other files."""
    unreadable: list[OSError] = []
    images: list[Path] = []
    others = 0
    for folder, subfolders, names in os.walk(root, onerror=unreadable.append):
        images += [path for name in subfolders if (path := Path(folder, name)).is_symlink()]
        named = [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES | OTHER_SUFFIXES]
        images += named
        others += len(names) - len(named)
    return sorted([*images, *(Path(error.filename) for error in unreadable)]), others


def every_page(files: Iterable[Path]) -> list[Path | Page]:
    """The same files, and in the place of a TIFF with several pages each of them."""
    found: list[Path | Page] = []
    for file in files:
        pages = count_pages(file)
        found += [file] if pages == 1 else [Page(file=file, number=number) for number in range(1, pages + 1)]
    return found
