"""One view of shard sets and of folders of originals: subsets with labels, images on demand, and the facts."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kkanji.classes import ClassMap, read_class_map
from kkanji.data.training_set import class_map, open_set
from shards import InputError, ShardSet
from shards.format.manifest import MANIFEST_NAME
from tools.ingest.originals import (
    CHUNK,
    FACTS_NAME,
    SPLIT_FACTS_NAME,
    SPLITS,
    Originals,
    SplitTable,
    read_originals,
    read_split,
)

Images = NDArray[np.uint8]
Numbers = NDArray[np.int64]


class Subset(NamedTuple):
    """The images of one split, or all originals where there is no split yet."""

    name: str
    labels: NDArray[np.integer[Any]]
    """Class numbers, [n]."""
    sources: NDArray[np.uint64]
    """Id of the original behind each image, [n]."""
    rendered: Numbers
    """Originals of each class that are rendered from fonts, [classes]."""
    read: Callable[[Numbers], Images]
    """Function that returns the images with these numbers, 0..n-1, as [k, 64, 64]."""

    def chunks(self) -> Iterator[Images]:
        """All images, CHUNK at a time."""
        for start in range(0, len(self.labels), CHUNK):
            yield self.read(np.arange(start, min(start + CHUNK, len(self.labels))))

    def of_class(self, number: int) -> "Subset":
        """The images of one class only."""
        chosen = np.flatnonzero(self.labels == number)
        rendered = np.where(np.arange(len(self.rendered)) == number, self.rendered, 0)
        return Subset(
            self.name, self.labels[chosen], self.sources[chosen], rendered, lambda numbers: self.read(chosen[numbers])
        )


class Contents(NamedTuple):
    """A shard set or a folder of originals."""

    where: str
    """Folder or URL."""
    facts: Mapping[str, Any]
    """Name, licence, lineage, and how it was made: originals, split, tools."""
    classes: ClassMap
    subsets: list[Subset]


def open_contents(location: str, split: str | None = None, source: str | None = None) -> Contents:
    """Open a shard set (a folder or a URL) or originals. split, source: keep only these images. Raises InputError."""
    folder = Path(location)
    if "://" not in location and not (folder / MANIFEST_NAME).is_file():
        if (folder / FACTS_NAME).is_file():
            return _of_originals(read_originals(folder), split, source)
        raise InputError(f"{folder}: neither {MANIFEST_NAME} nor {FACTS_NAME} in it; expected a shard set or originals")
    if source is not None:
        raise InputError(f"--source {source}: {location} is a shard set, which records no sources; show its originals")
    return _of_set(open_set(location), split)


def _of_set(data: ShardSet, split: str | None) -> Contents:
    manifest = data.manifest
    subsets = [_stored_subset(data, name) for name in ([split] if split else manifest.splits)]
    named = {"name": manifest.name, "licence": manifest.licence, "lineage": manifest.lineage}
    return Contents(
        data.location, {**named, **manifest.history, "identity": manifest.identity()}, class_map(data), subsets
    )


def _stored_subset(data: ShardSet, name: str) -> Subset:
    reader = data.split(name)
    rendered = np.array(data.manifest.splits[name].rendered_counts, np.int64)
    return Subset(name, reader.labels(), reader.sources(), rendered, lambda numbers: reader.collect(numbers).images)


def _of_originals(combined: Originals, split: str | None, source: str | None) -> Contents:
    divided = split is not None or (combined.folder / SPLIT_FACTS_NAME).is_file()
    table = read_split(combined) if divided else None
    rows = _rows_by_subset(combined, table, split)
    if source is not None:
        if source not in combined.source_names:
            raise InputError(f"--source {source}: {combined.folder} has {', '.join(combined.source_names)}")
        wanted = combined.sources == combined.source_names.index(source)
        rows = {name: numbers[wanted[numbers]] for name, numbers in rows.items()}
    facts = {
        "name": combined.facts["name"],
        "licence": combined.facts["licence"],
        "lineage": combined.lineage,
        "originals": combined.facts,
        **({"split": table.facts} if table else {}),
    }
    subsets = [_original_subset(name, combined, numbers) for name, numbers in rows.items()]
    return Contents(str(combined.folder), facts, read_class_map(combined.folder), subsets)


def _rows_by_subset(combined: Originals, table: SplitTable | None, split: str | None) -> dict[str, Numbers]:
    if table is None:
        return {"originals": np.arange(len(combined.ids))}
    return {name: table.rows(name) for name in ([split] if split else SPLITS) if split or len(table.rows(name))}


def _original_subset(name: str, combined: Originals, rows: Numbers) -> Subset:
    def read(numbers: Numbers) -> Images:
        return combined.images[rows[numbers]]

    return Subset(name, combined.labels[rows], combined.ids[rows], combined.rendered(rows), read)
