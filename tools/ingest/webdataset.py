"""WebDataset tars as a source: KEY.png or .jpg, and KEY.cls or .txt with the class, side by side.

Who wrote such a tar may have put augmented copies into it, so the lineage of its images is unknown, as in
`kkanji index`, which trains on tars of 64x64 images where they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath

from kkanji.inference.image_files import SUFFIXES
from tools.ingest.sources import ImageFiles, Labelled, Skipped
from tools.ingest.tar_stream import NamedFile

LABELS = (".cls", ".txt")
LONGEST_LABEL = 400  # bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class WebDataset(ImageFiles):
    """A tar of samples."""

    def labelled(self) -> Iterator[Labelled | Skipped]:
        """See ImageFiles."""
        for key, files in groupby(self.read_files(), lambda file: _key(file.name)):
            yield self._sample(key, list(files))

    def _sample(self, key: str, files: list[NamedFile]) -> Labelled | Skipped:
        images = [file for file in files if PurePath(file.name).suffix.lower() in SUFFIXES]
        labels = [file for file in files if PurePath(file.name).suffix in LABELS]
        if len(images) != 1 or len(labels) != 1:
            found = f"{len(images)} images and {len(labels)} classes"
            why = (
                f"{self.where(key)}: {found}; expected KEY.png or .jpg and KEY.cls or .txt side by side: make it again"
            )
            return Skipped(key, why, unusable=True)
        name = labels[0].data[:LONGEST_LABEL].decode(errors="replace").strip()
        return Labelled(images[0].name, self.names.point(name, self.where(labels[0].name)), images[0].data)


def is_webdataset(path: Path) -> bool:
    """Whether the first sample in a tar has its class beside it. Raises InputError for a damaged tar."""
    if not path.is_file():
        return False
    samples = groupby(WebDataset(path=path).read_files(), lambda file: _key(file.name))
    _, files = next(samples, ("", iter(())))
    return any(PurePath(file.name).suffix in LABELS for file in files)


def _key(name: str) -> str:
    """What the files of a sample share: the path up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
