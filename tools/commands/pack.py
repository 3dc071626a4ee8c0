"""Originals and their split -> shard set, every image once and unchanged."""

import time
from pathlib import Path

import tyro

from shards.format.manifest import Compression
from tools.build.packing import Target, split_history, summary, unchanged, write_set
from tools.ingest.originals import check_images, read_originals, read_split


def pack(
    folder: tyro.conf.Positional[Path],
    /,
    *,
    output: Path = Path("shards"),
    block_size: int = 1250,
    shard_size: int = 25_000,
    compression: Compression = "none",
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Pack originals, as split, into a shard set: tars that any WebDataset reader opens, and a manifest.

    Example: python -m tools pack originals --output shards

    Args:
        folder: originals with a split, made by `python -m tools combine` and `python -m tools split`
        output: folder to make
        block_size: images that are one sample for a WebDataset reader: 125, 250, 625 or 1250
        shard_size: images in a tar (25,000 take 103 MB), a multiple of the block size
        compression: none, zstd (a third of the bytes) or lz4 (faster to unpack); readers unpack shards into their cache
        seed: of the stored order; 0 or more
        workers: threads; one per core if not given. The bytes written do not depend on it
        overwrite: replace OUTPUT if `pack` made it
    """
    started = time.perf_counter()
    target = Target(
        output=output,
        block_size=block_size,
        shard_size=shard_size,
        compression=compression,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
        maker="pack",
        inputs=(folder,),
    )
    combined = read_originals(folder)
    table = read_split(combined)
    check_images(combined)
    history = {"split": split_history(table), "pack": target.history()}
    manifest = write_set(target, combined, unchanged(combined, table, seed), history)
    print(summary(output, manifest, time.perf_counter() - started))
