"""Shard set -> the same samples in another layout: packed blocks, plain or compressed, or image files."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from kkanji import __version__
from kkanji.data.codec import JPEG_QUALITY, encode
from kkanji.data.training_set import class_map, open_set
from kkanji.threads import map_in_order
from shards import Manifest, OutputFolder, Samples, Shard, ShardSet, SplitReader, shard_name, write_manifest
from shards.format.image_layout import EncodedImages, ImageFormat, write_image_shard
from shards.format.manifest import Compression, Layout
from shards.format.writer import StoredBlock, encode_block, write_tar
from tools.build.packing import Target, summary
from tools.progress import count_images


def convert(
    location: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SET")]],
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

    Example: kkanji convert data/shards --layout image --output images

    Args:
        location: Shard set to convert, a folder or a URL (s3://, gs://, az://, https://).
        output: Folder for the converted shard set.
        layout: New layout: packed (arrays of images in blocks) or image (a file and a label each, as in WebDataset).
        compression: Compression of packed blocks: none, zstd (a third of the size) or lz4 (faster to decompress).
        image_format: File format of the image layout: png, or jpg, which is lossy.
        block_size: Images in a block: 125, 250, 625 or 1250.
        shard_size: Images in a shard, a multiple of the block size.
        workers: Threads, by default one per core. The bytes written do not depend on them.
        overwrite: Replace OUTPUT if `convert` made it.
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
            splits[name] = replace(split, shards=tuple(shards), columns={})
        history = {**old.history, "converted": [*old.history.get("converted", []), _step(old, target, image_format)]}
        manifest = replace(
            old, layout=target.layout, compression=target.compression, base="", history=history, splits=splits
        )
        return write_manifest(folder, manifest, class_map(data).to_json())


def _write_shards(
    folder: Path, split: str, samples: int, blocks: Iterator[Samples], target: Target, image_format: ImageFormat
) -> Iterator[Shard]:
    """Write one shard after another, encoding its blocks in threads."""
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
    next(blocks, None)  # runs the reader to its end, which releases its last shard


def _encode_images(image_format: ImageFormat, block: Samples) -> EncodedImages:
    return EncodedImages([encode(image, image_format) for image in block.images], block.labels, block.sources)


def _encode_block(path: Path, compression: Compression, block: tuple[int, Samples]) -> StoredBlock:
    return encode_block(*block, path, compression)


def _blocks(reader: SplitReader, size: int) -> Iterator[Samples]:
    """The samples of a split in the stored order."""
    starts = range(0, reader.samples, size)
    requests = (np.arange(start, min(start + size, reader.samples)) for start in starts)
    for numbers in reader.follow(requests):
        yield reader.gather(numbers)


def _counted(blocks: Iterator[Samples], progress: Callable[[int], object]) -> Iterator[Samples]:
    for block in blocks:
        yield block
        progress(len(block.labels))


def _step(old: Manifest, target: Target, image_format: ImageFormat) -> dict[str, Any]:
    """The entry in the set's history."""
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
