"""Arrays in MNIST's own format, in which CODH publishes Kuzushiji-MNIST too and torchvision keeps it.

    train-images-idx3-ubyte  big-endian 2051, count, 28, 28, then uint8 [count, 28, 28], white ink on black
    train-labels-idx1-ubyte  big-endian 2049, count, then uint8 [count]; t10k- for the test images; each perhaps .gz

Other data sets have these very names, so only a class map says which characters the labels are: CODH's
kmnist_classmap.csv beside the files, or --classes.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.checksums import file_digest
from shards.errors import InputError
from tools.ingest.class_names import ClassNames, read_class_names
from tools.ingest.codh_npz import SIZE, TITLES, enlarge
from tools.ingest.originals import LICENCE
from tools.ingest.sources import UNKNOWN_LICENCE, Found, Publication, Source

NAME = re.compile(r"(?P<part>train|t10k)-(?P<what>images-idx3|labels-idx1)-ubyte(\.gz)?")
MAGIC = {"images": 2051, "labels": 2049}
CLASS_MAP = "kmnist_classmap.csv"
MOST_BYTES = 1 << 30  # of one array: 1.3 million images


@dataclass(frozen=True, kw_only=True, slots=True)
class IdxImages(Source):
    """A pair of files, images and labels. Made by `idx_source`."""

    labels_path: Path
    """The file with the labels."""
    names: ClassNames = field(default_factory=ClassNames)
    """What the labels mean."""
    from_codh: bool = False
    """Whether CODH's class map lies beside the files."""

    @property
    def title(self) -> str:
        """See Source."""
        return TITLES["kmnist"] if self.from_codh else self.name

    def publication(self, images: Iterable[tuple[str, str]]) -> Publication:  # noqa: ARG002  (the class map says it)
        """See Source."""
        return Publication(self.title, LICENCE if self.from_codh else UNKNOWN_LICENCE)

    def identities(self) -> list[tuple[str, str]]:
        """See Source."""
        return [(path.name, file_digest(path)) for path in (self.path, self.labels_path)]

    def images(self) -> Iterator[Found]:
        """See Source."""
        images, labels = read_idx(self.path, (SIZE, SIZE)), read_idx(self.labels_path, ())
        if len(images) != len(labels):
            raise InputError(
                f"{self.labels_path}: {len(labels):,} labels, but {len(images):,} images in {self.path.name}; fetch "
                "both again"
            )
        points = {number: self.names.point(str(number), str(self.labels_path)) for number in np.unique(labels).tolist()}
        for row, (pixels, number) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield Found(f"{self.path.name}[{row}]", points[number], enlarge(pixels))


def idx_sources(folder: Path, names: ClassNames) -> list[IdxImages]:
    """All pairs in a folder. A .gz beside the file that came out of it, as torchvision leaves it, is left aside."""
    found = sorted(path for path in folder.glob("*-images-idx3-ubyte*") if NAME.fullmatch(path.name))
    return [idx_source(path, names) for path in found if not (path.suffix and path.with_suffix("") in found)]


def idx_source(path: Path, names: ClassNames) -> IdxImages:
    """The pair that a file of images belongs to. Raises InputError if its labels or its class map are missing."""
    match = NAME.fullmatch(path.name)
    stem = path.name.removesuffix(".gz").replace("images-idx3", "labels-idx1")
    labels = next((file for file in (path.with_name(stem), path.with_name(stem + ".gz")) if file.is_file()), None)
    if match is None or match["what"] != "images-idx3" or labels is None:
        raise InputError(f"{path}: expected train- or t10k-images-idx3-ubyte, and beside it {stem}; fetch both")
    beside = path.with_name(CLASS_MAP)
    if not names.points and not beside.is_file():
        raise InputError(
            f"{path}: idx arrays name no characters; expected {CLASS_MAP} beside them (`kkanji fetch kmnist` gets it, "
            "and the same images as .npz), or --classes FILE"
        )
    return IdxImages(
        path=path,
        labels_path=labels,
        names=names if names.points else read_class_names(beside),
        from_codh=not names.points,
        official="train" if match["part"] == "train" else "test",
    )


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array uint8 [count, *shape], unpacked if need be. Raises InputError if it is anything else."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: {str(error)[:80]}; fetch it again") from error
    dimensions = 1 + len(shape)
    header = struct.unpack(f">{1 + dimensions}I", data[: 4 + 4 * dimensions].ljust(4 + 4 * dimensions, b"\0"))
    expected = (MAGIC["images" if shape else "labels"], *shape)
    size = 4 + 4 * dimensions + header[1] * int(np.prod(shape, dtype=np.int64))
    if (header[0], *header[2:]) != expected or len(data) != size:
        found = f"{len(data):,} bytes that begin with {header}"
        raise InputError(
            f"{path}: {found}; expected ({expected[0]}, N{''.join(f', {side}' for side in shape)}) and N "
            f"items of uint8: fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(-1, *shape)
