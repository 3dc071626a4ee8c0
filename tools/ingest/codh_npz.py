"""Kuzushiji-49 and Kuzushiji-MNIST as CODH publishes them: NumPy archives of 28x28 images, raised to 64x64.

    k49-train-imgs.npz    arr_0 uint8 [N, 28, 28], white ink on black
    k49-train-labels.npz  arr_0 uint8 [N], numbers in the class map
    k49_classmap.csv      index, codepoint, char

The part in the name, train or test, is the publishers' division, which combined originals keep. Pillow's Lanczos filter
(three lobes, overshoot clipped to 0..255) enlarges; its result for given pixels is always the same, so identical images
stay identical.
"""

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards import IMAGE_SIZE
from shards.checksums import file_digest
from shards.errors import InputError
from tools.ingest.class_names import read_codh_classes
from tools.ingest.originals import CHUNK, LICENCE
from tools.ingest.sources import UNKNOWN_LICENCE, Found, Official, Publication, Source

SIZE = 28
NAME = re.compile(r"(?P<set>.+)-(?P<part>train|test)-imgs.*\.npz")
TITLES = {"k49": "Kuzushiji-49", "kmnist": "Kuzushiji-MNIST"}
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)


@dataclass(frozen=True, kw_only=True, slots=True)
class NpzImages(Source):
    """A pair of arrays, images and labels. Made by `npz_source`."""

    set: str
    """`k49` or `kmnist`: the start of its file names."""

    @property
    def title(self) -> str:
        """See Source."""
        return TITLES.get(self.set, self.set)

    def publication(self, images: Iterable[tuple[str, str]]) -> Publication:  # noqa: ARG002  (the files' names say it)
        """See Source."""
        return Publication(self.title, LICENCE if self.set in TITLES else UNKNOWN_LICENCE)

    @property
    def labels_path(self) -> Path:
        """The file with the labels."""
        return self.path.with_name(f"{self.set}-{self.official}-labels.npz")

    @property
    def class_map_path(self) -> Path:
        """The file with the code point of each label."""
        return self.path.with_name(f"{self.set}_classmap.csv")

    def identities(self) -> list[tuple[str, str]]:
        """See Source."""
        return [(path.name, file_digest(path)) for path in (self.path, self.labels_path, self.class_map_path)]

    def classes(self) -> tuple[int, ...]:
        """See Source."""
        return tuple(read_codh_classes(self.class_map_path))

    def images(self) -> Iterator[Found]:
        """See Source."""
        classes = np.array(self.classes())
        with _open_array(self.path) as array:
            count = array.require((None, SIZE, SIZE), "images of 28x28 pixels")
            code_points = classes[self._labels(count, len(classes))].tolist()
            for row, pixels in enumerate(array.rows()):
                yield Found(f"{array.name}[{row}]", code_points[row], enlarge(pixels))

    def _labels(self, count: int, classes: int) -> NDArray[np.uint8]:
        with _open_array(self.labels_path) as array:
            found = array.require((None,), "labels")
            if found != count:
                raise InputError(
                    f"{self.labels_path}: {found:,} labels, but {count:,} images in {self.path.name}; expected the "
                    "same number: fetch both files again"
                )
            labels = np.fromiter(array.rows(), np.uint8)  # grows with what is there: a header can promise a terabyte
        wrong = np.flatnonzero(labels >= classes)
        if len(wrong):
            found_label = f"label {labels[wrong[0]]} in row {wrong[0]}"
            raise InputError(f"{self.labels_path}: {found_label}; {self.class_map_path.name} has 0 to {classes - 1}")
        return labels


def npz_source(path: Path) -> NpzImages:
    """The pair that a file of images belongs to.

    Raises: InputError if its name is not CODH's, or its labels or class map are missing.
    """
    match = NAME.fullmatch(path.name)
    if match is None:
        raise InputError(f"{path}: expected a name as in k49-train-imgs.npz, with its labels and class map beside it")
    official: Official = "train" if match["part"] == "train" else "test"
    source = NpzImages(path=path, set=match["set"], official=official)
    for needed in (source.labels_path, source.class_map_path):
        if not needed.is_file():
            raise InputError(f"{needed}: not there, but {path.name} needs it; run `kkanji fetch {source.set}`")
    return source


def npz_sources(folder: Path) -> list[NpzImages]:
    """All pairs in a folder, in the order of their names. Raises InputError if labels have no images beside them."""
    sources = [npz_source(path) for path in sorted(folder.glob("*-imgs*.npz"))]
    lonely = {path.name for path in folder.glob("*-labels.npz")} - {source.labels_path.name for source in sources}
    if lonely:
        name = min(lonely)
        remedy = f"run `kkanji fetch {name.partition('-')[0]}`, or give the *-imgs.npz files as sources"
        images = name.replace("-labels", "-imgs")
        raise InputError(f"{folder / name}: no {images} beside it; {remedy}")
    return sources


def enlarge(pixels: NDArray[np.uint8]) -> bytes:
    """The 64x64 bytes of an image [28, 28]."""
    return Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS).tobytes()


class _Array:
    """One array of a NumPy archive, read as a stream, so that a hostile archive cannot unpack into all memory."""

    def __init__(self, path: Path, name: str, stream: IO[bytes]) -> None:
        self.path, self.name, self._stream = path, name.removesuffix(".npy"), stream
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            self.shape, fortran_order, self.dtype = read_header(stream)
        except Exception as error:  # NumPy parses it as Python: SyntaxError, TokenError, MemoryError and more
            raise ValueError(f"a damaged header, {type(error).__name__}") from error
        if fortran_order and len(self.shape) > 1:
            raise ValueError("Fortran order")

    def require(self, shape: tuple[int | None, ...], what: str) -> int:
        """The number of rows of an array that must have this shape. Raises InputError."""
        fits = len(self.shape) == len(shape) and all(a in (b, None) for a, b in zip(shape, self.shape, strict=True))
        if self.dtype != np.uint8 or not fits or not self.shape[0]:
            expected = f"uint8 ({', '.join('N' if side is None else str(side) for side in shape)})"
            raise InputError(
                f"{self.path}: found {self.dtype} {self.shape}, expected {what}, {expected}; fetch it again"
            )
        return self.shape[0]

    def rows(self) -> Iterator[NDArray[np.uint8]]:
        """The rows, one after another. The archive compares its own checksum at the end."""
        shape = self.shape[1:]
        size = int(np.prod(shape, dtype=np.int64))
        for start in range(0, self.shape[0], CHUNK):
            count = min(CHUNK, self.shape[0] - start)
            data = self._stream.read(count * size)
            if len(data) != count * size:
                self._fail(f"{self.name} ends in row {start + len(data) // size}, expected {self.shape[0]:,} rows")
            yield from np.frombuffer(data, np.uint8).reshape(count, *shape)
        if self._stream.read(1):
            self._fail(f"{self.name} goes on after its {self.shape[0]:,} rows")

    def _fail(self, found: str) -> NoReturn:
        raise InputError(f"{self.path}: {found}: damaged, fetch it again")


@contextmanager
def _open_array(path: Path) -> Iterator[_Array]:
    """The only array of an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1 or not names[0].endswith(".npy"):
                raise InputError(f"{path}: found {names[:5]}, expected one array, arr_0.npy; fetch it again")
            with archive.open(names[0]) as stream:
                yield _Array(path, names[0], stream)
    except DAMAGED as error:
        raise InputError(f"{path}: no NumPy archive or a damaged one ({str(error)[:100]}); fetch it again") from error
