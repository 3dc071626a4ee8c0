"""A set of real pixels as large as the mission's: the shards of a smaller one, hard-linked many times over.

python -m benchmarks.size.linked data/small data/big 39
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from kkanji import cli
from shards import Manifest, Shard, Split, read_manifest, shard_name, write_manifest


def link(
    source: tyro.conf.Positional[Path], output: tyro.conf.Positional[Path], times: tyro.conf.Positional[int], /
) -> Manifest:
    """Write a set whose training split is another one's, so many times over; its other splits are as they were.

    The folders must lie on one file system. A shard costs an entry in a folder, an image its 15 bytes in the columns.
    """
    manifest = read_manifest(source)
    output.mkdir()
    splits = {name: _repeated(source, output, name, split, times) for name, split in manifest.splits.items()}
    classes = (source / "index.json").read_text(encoding="utf-8")
    return write_manifest(output, replace(manifest, splits=splits), classes)


def _repeated(source: Path, output: Path, name: str, split: Split, times: int) -> Split:
    times = times if name == "train" else 1
    shards: list[Shard] = []
    for _ in range(times):
        for shard in split.shards:
            linked = replace(shard, name=shard_name(name, len(shards)))
            for old, new in ((shard.name, linked.name), (shard.index_name, linked.index_name)):
                os.link(source / old, output / new)
            shards.append(linked)
    counts = tuple(count * times for count in split.samples_per_class)
    return replace(split, shards=tuple(shards), samples_per_class=counts, columns={})


def main() -> None:
    """Run with the arguments of the command line."""
    found: Annotated[Manifest, tyro.conf.Suppress] = tyro.cli(link)
    sys.stdout.write(f"{found.splits['train'].samples:,} images in {len(found.splits['train'].shards):,} shards\n")


if __name__ == "__main__":
    cli.run(main)
