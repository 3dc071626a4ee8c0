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
    """Pack originals into a shard set, every image once and unchanged.

    A shard set is a folder of tars that any WebDataset reader opens, and a manifest, dataset.json.

    Example: kkanji pack data/originals --output data/shards

    Args:
        folder: Originals with a split, made by `kkanji combine` and `kkanji split`.
        output: Folder for the shard set.
        block_size: Images in a block, one sample to a WebDataset reader: 125, 250, 625 or 1250.
        shard_size: Images in a shard, a multiple of the block size; 25,000 take 103 MB.
        compression: Compression of the blocks: none, zstd (a third of the size) or lz4 (faster to decompress).
        seed: Seed of the stored order, 0 or more.
        workers: Threads, by default one per core. The bytes written do not depend on them.
        overwrite: Replace OUTPUT if `pack` made it.
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
