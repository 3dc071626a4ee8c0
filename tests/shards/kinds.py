"""A small set of every kind that can be written, from the same samples."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kkanji.data.codec import encode
from shards import Lineage, Manifest, OutputFolder, Samples, Shard, Split, read_manifest, write_manifest, write_shard
from shards.format import layout
from shards.format.columns import column_files
from shards.format.image_layout import EncodedImages, write_image_shard
from shards.format.manifest import MANIFEST_NAME
from shards.format.writer import StoredBlock, write_tar

Kind = Literal["none", "zstd", "lz4", "png", "jpg"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES_JSON = '{"codepoint_to_id": {"一 (U+4E00)": 0, "丁 (U+4E01)": 1, "丂 (U+4E02)": 2}}'
CLASSES = 3


def drawn(count: int, seed: int = 0) -> Samples:
    """Smooth strokes on black, which compress as ink does; each image, label and source follows from its number."""
    numbers = np.arange(seed * 1000, seed * 1000 + count, dtype=np.uint64)
    y, x = np.mgrid[:64, :64]
    waves = np.sin(x / 9 + numbers[:, None, None] * 0.7) * 24 + 32
    images = np.clip(255 - np.abs(y - waves) * 40, 0, 255).astype(np.uint8)
    images[:, 0, 0] = numbers % 251
    return Samples(images, (numbers % CLASSES).astype(np.int32), numbers * np.uint64(0x9E3779B97F4A7C15))


def write_kind(path: Path, kind: Kind, blocks: list[Samples]) -> Shard:
    """One shard of a kind."""
    if kind == "png" or kind == "jpg":
        return write_image_shard(path, encoded(blocks, kind), kind)
    return write_shard(path, blocks, compression=kind)


def encoded(blocks: list[Samples], image_format: Literal["png", "jpg"]) -> Iterator[EncodedImages]:
    """The blocks with each image as a file."""
    for images, labels, sources in blocks:
        yield EncodedImages([encode(image, image_format) for image in images], labels, sources)


def manifest_of(kind: Kind, splits: dict[str, tuple[Shard, list[Samples]]]) -> Manifest:
    """What describes one shard for each split."""
    return Manifest(
        name="drawn",
        licence="none",
        lineage=Lineage.KNOWN,
        classes=CLASSES,
        seed=0,
        layout="image" if kind in ("png", "jpg") else "packed",
        compression="none" if kind == "png" or kind == "jpg" else kind,
        splits={name: _split(shard, blocks) for name, (shard, blocks) in splits.items()},
    )


def write_labels(folder: Path, labels: NDArray[np.integer]) -> Path:
    """A set of these labels with right checksums, as no tool here would write it."""
    images, _, sources = drawn(len(labels))
    data = layout.encode_block("000000", images, labels, sources)
    shard = write_tar(folder / "train-00000.tar", [StoredBlock(data, len(labels))])
    counts = (len(labels), *[0] * (CLASSES - 1))
    split = Split(shards=(shard,), samples_per_class=counts, originals_per_class=counts)
    manifest = Manifest(name="", licence="", lineage=Lineage.KNOWN, classes=CLASSES, seed=0, splits={"train": split})
    (folder / "index.json").write_text(CLASSES_JSON)
    (folder / "dataset.json").write_text(manifest.to_json())
    return folder


def write_set_of(folder: Path, kind: Kind, splits: dict[str, list[Samples]]) -> Path:
    """A whole set, one shard for each split."""
    with OutputFolder(folder) as partial:
        shards = {
            name: (write_kind(partial / f"{name}-00000.tar", kind, blocks), blocks) for name, blocks in splits.items()
        }
        write_manifest(partial, manifest_of(kind, shards), CLASSES_JSON)
    return folder


def as_older(folder: Path) -> Path:
    """The set as a release before version 4 would have written it: without columns. Returns the folder."""
    manifest = read_manifest(folder)
    for column in column_files(manifest):
        (folder / column.name).unlink()
    (folder / MANIFEST_NAME).write_text(without_columns(manifest).to_json(), encoding="utf-8")
    return folder


def without_columns(manifest: Manifest) -> Manifest:
    """The same set in the lowest version that can describe it."""
    return replace(manifest, splits={name: replace(split, columns={}) for name, split in manifest.splits.items()})


def _split(shard: Shard, blocks: list[Samples]) -> Split:
    labels = np.concatenate([block.labels for block in blocks])
    counts = tuple(np.bincount(labels, minlength=CLASSES).tolist())
    return Split(shards=(shard,), samples_per_class=counts, originals_per_class=counts)
