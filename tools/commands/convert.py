"""Shard set -> the same samples in another layout: packed blocks, plain or compressed, or image files."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from kkanji import __version__
from kkanji.data.codec import JPEG_QUALITY, encode
from kkanji.data.training_set import open_set
from kkanji.threads import map_in_order
from shards import Manifest, OutputFolder, Samples, Shard, ShardSet, SplitReader, shard_name, write_manifest
from shards.format.image_layout import EncodedImages, ImageFormat, write_image_shard
from shards.format.manifest import CLASSES_NAME, Compression, Layout
from shards.format.writer import StoredBlock, encode_block, write_tar
from tools.build.packing import Target, summary
from tools.progress import count_images


def convert(
    location: tyro.conf.Positional[str],
    /,
    *,
    output: Path = Path("converted"),
    layout: Layout = "packed",
    compression: Compression = "none",
    image_format: ImageFormat = "png",
    block_size: int = 1250,
    shard_size: int = 25_000,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a shard set in another layout: the same samples in the same order, with their labels and originals.

    Example: python -m tools convert shards --layout image --output images

    Args:
        location: shard set to read: a folder or a URL
        output: folder to make
        layout: packed (blocks of images as arrays) or image (one file and one label for each, as WebDataset has them)
        compression: of packed blocks: none, zstd (a third of the bytes) or lz4 (faster to unpack)
        image_format: of the image layout: png, or jpg, which does not keep every pixel as it is
        block_size: images in a block: 125, 250, 625 or 1250
        shard_size: images in a tar, a multiple of the block size
        workers: threads; one per core if not given. The bytes written do not depend on it
        overwrite: replace OUTPUT if `convert` made it
    """
    started = time.perf_counter()
    data = open_set(location)
    target = Target(
        output=output,
        block_size=block_size,
        shard_size=shard_size,
        seed=data.manifest.seed,
        workers=workers,
        overwrite=overwrite,
        maker="convert",
        inputs=data.folders,
        layout=layout,
        compression=compression,
    )
    manifest = _convert(data, target, image_format)
    print(summary(output, manifest, time.perf_counter() - started))


def _convert(data: ShardSet, target: Target, image_format: ImageFormat) -> Manifest:
    old = data.manifest
    total = sum(split.samples for split in old.splits.values())
    with (
        OutputFolder(target.output, maker=target.maker, inputs=target.inputs, overwrite=target.overwrite) as folder,
        count_images(total) as progress,
    ):
        splits = {}
        for name, split in old.splits.items():
            blocks = _counted(_blocks(data.split(name, check=True), target.block_size), progress.update)
            shards = _write_shards(folder, name, split.samples, blocks, target, image_format)
            splits[name] = replace(split, shards=tuple(shards))
        history = {**old.history, "converted": [*old.history.get("converted", []), _step(old, target, image_format)]}
        manifest = replace(
            old, layout=target.layout, compression=target.compression, base="", history=history, splits=splits
        )
        write_manifest(folder, manifest, data.read(CLASSES_NAME).decode())
    return manifest


def _write_shards(
    folder: Path, split: str, samples: int, blocks: Iterator[Samples], target: Target, image_format: ImageFormat
) -> Iterator[Shard]:
    """One after another; the blocks of each are encoded in threads."""
    per_shard = target.shard_size // target.block_size
    with ThreadPoolExecutor(target.threads) as pool:
        for number in range(-(-samples // target.shard_size)):
            path, part = folder / shard_name(split, number), islice(blocks, per_shard)
            if target.layout == "image":
                files = map_in_order(pool, partial(_encode_images, image_format), part, ahead=target.threads)
                yield write_image_shard(path, files, image_format)
            else:
                pack = partial(_encode_block, path, target.compression)
                yield write_tar(path, map_in_order(pool, pack, enumerate(part), ahead=target.threads))
    next(blocks, None)  # has the reader let go of its last shard


def _encode_images(image_format: ImageFormat, block: Samples) -> EncodedImages:
    return EncodedImages([encode(image, image_format) for image in block.images], block.labels, block.sources)


def _encode_block(path: Path, compression: Compression, block: tuple[int, Samples]) -> StoredBlock:
    return encode_block(*block, path, compression)


def _blocks(reader: SplitReader, size: int) -> Iterator[Samples]:
    """The samples of a split as stored."""
    starts = range(0, reader.samples, size)
    requests = (np.arange(start, min(start + size, reader.samples)) for start in starts)
    for numbers in reader.follow(requests):
        yield reader.gather(numbers)


def _counted(blocks: Iterator[Samples], progress: Callable[[int], object]) -> Iterator[Samples]:
    for block in blocks:
        yield block
        progress(len(block.labels))


def _step(old: Manifest, target: Target, image_format: ImageFormat) -> dict[str, Any]:
    """What the history tells of the conversion."""
    jpeg = {"jpeg_quality": JPEG_QUALITY} if image_format == "jpg" else {}
    images = {"image_format": image_format, **jpeg} if target.layout == "image" else {}
    before = {"from": old.identity(), "from_layout": old.layout, "from_compression": old.compression}
    sizes = {"block_size": target.block_size, "shard_size": target.shard_size}
    return {
        "kkanji": __version__,
        **before,
        "layout": target.layout,
        "compression": target.compression,
        **images,
        **sizes,
    }
