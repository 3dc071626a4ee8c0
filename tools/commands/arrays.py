"""Shard set -> images.npy, labels.npy and index.json, as the legacy project's `03_prepare_arrays` wrote them.

sources.npy goes beside them, so that the lineage is not lost.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from kkanji.data.training_set import class_map, open_set
from shards import IMAGE_SIZE, InputError, OutputFolder, Samples, SplitReader, write_file
from shards.format.manifest import CLASSES_NAME
from tools.ingest.originals import CHUNK
from tools.progress import count_images

COLUMNS = {"images": np.uint8, "labels": np.int64, "sources": np.uint64}
"""File -> type of its values; the legacy project's labels were int64."""


def arrays(
    location: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SET")]],
    /,
    *,
    split: str = "train",
    output: Path = Path("arrays"),
    overwrite: bool = False,
) -> None:
    """Write one split of a shard set as plain NumPy arrays.

    OUTPUT gets images.npy uint8 [N, 64, 64], labels.npy int64 [N], sources.npy uint64 [N] (the id of each image's
    original) and index.json, in the stored order. Any program can map them: np.load("images.npy", mmap_mode="r"). A
    run writes one split, so that nobody trains on held-out images by mistake.

    Example: kkanji arrays data/shards --split train --output arrays

    Args:
        location: Shard set of any layout, a folder or a URL (s3://, gs://, az://, https://).
        split: Split to write: train, val or test.
        output: Folder for the arrays.
        overwrite: Replace OUTPUT if `arrays` made it.
    """
    started = time.perf_counter()
    data = open_set(location)
    reader = data.split(split, check=True)
    if not reader.samples:
        raise InputError(f"{data.location}: split {split!r} has no images; choose another --split")
    with OutputFolder(output, maker="arrays", inputs=data.folders, overwrite=overwrite) as folder:
        write_file(folder / CLASSES_NAME, class_map(data).to_json())
        _write(folder, reader)
    seconds = time.perf_counter() - started
    size = reader.samples * IMAGE_SIZE**2 / 1e6
    print(f"{output}: {reader.samples:,} images of {split}, {size:,.0f} MB, {seconds:.1f} s")


def _write(folder: Path, reader: SplitReader) -> None:
    """Writes through memory maps, so that memory stays at one chunk, whatever the size of the set."""
    shapes = {"images": (reader.samples, IMAGE_SIZE, IMAGE_SIZE), "labels": (reader.samples,)}
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shapes.get(name, shapes["labels"]))
        for name, dtype in COLUMNS.items()
    }
    position = 0
    with count_images(reader.samples) as progress:
        for samples in _chunks(reader):
            stop = position + len(samples.labels)
            for file, values in zip(files.values(), samples, strict=True):
                file[position:stop] = values
            position = stop
            progress.update(len(samples.labels))
    for file in files.values():
        file.flush()


def _chunks(reader: SplitReader) -> Iterator[Samples]:
    """All samples in the stored order."""
    starts = range(0, reader.samples, CHUNK)
    for numbers in reader.follow(np.arange(start, min(start + CHUNK, reader.samples)) for start in starts):
        yield reader.gather(numbers)
