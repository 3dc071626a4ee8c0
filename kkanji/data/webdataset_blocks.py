"""Packed shards in a stock `webdataset` pipeline: its reading and mixing, with our decoder of blocks as one stage."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray

from shards import CorruptShard
from shards.array_reading import parse_array
from shards.format.compression import SUFFIXES, unpack_images

Pair = tuple[NDArray[np.uint8], int]
"""An image uint8 [64, 64] and its class number."""


def decode_blocks(samples: Iterable[Mapping[str, Any]]) -> Iterator[Pair]:
    """A stage for `webdataset.DataPipeline`, after `tarfile_to_samples`: the images of each block, one by one.

    Raises CorruptShard for a member that is no block of ours.
    """
    for sample in samples:
        where = f"{sample.get('__url__')}: block {sample.get('__key__')}"
        try:
            labels = parse_array(sample["labels.npy"])
            images = parse_array(_images(sample, len(labels)))
        except (KeyError, ValueError, RuntimeError) as error:
            raise CorruptShard(f"{where}: {error}; expected a shard that `kkanji pack` made") from error
        if images.shape[:1] != labels.shape or images.dtype != np.uint8:
            raise CorruptShard(f"{where}: {images.dtype} {list(images.shape)} for {len(labels)} labels; pack it again")
        yield from zip(images, labels.tolist(), strict=True)


def _images(sample: Mapping[str, Any], count: int) -> bytes:
    for compression, suffix in SUFFIXES.items():
        if (packed := sample.get(f"images.npy.{suffix}")) is not None:
            return unpack_images(packed, count, compression)
    plain: bytes = sample["images.npy"]
    return plain


def block_pipeline(urls: Sequence[str], *, batch_size: int, mixed: int = 10_000, seed: int = 0) -> Any:
    """A `webdataset.DataPipeline` of batches (images uint8 [B, 64, 64], labels int64 [B]) over packed shards.

    urls: of tars, as webdataset takes them. mixed: images that are mixed at a time; the shards are shuffled too, and
    divided among the workers of a DataLoader. Unlike the other loaders it has no exact order and no exact epochs.
    """
    return webdataset.DataPipeline(
        webdataset.SimpleShardList(list(urls), seed=seed),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        decode_blocks,
        webdataset.shuffle(mixed, seed=seed),
        webdataset.batched(batch_size, collation_fn=_batch),
    )


def _batch(pairs: Sequence[Pair]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = zip(*pairs, strict=True)
    return np.stack(images), np.array(labels, np.int64)
