"""Every kind of set opens with the stock webdataset library and DALI's own reader, which give what our reader gives."""

import gc
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
import webdataset
import zstandard
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from kkanji.data.codec import decode_into
from shards import Samples, ShardSet, verify
from shards.cache.cache import Cache
from shards.format.layout import IMAGE_BYTES, NPY_HEADER
from tests.shards.kinds import KINDS, Kind, drawn, write_set_of

BLOCKS = [drawn(125), drawn(60, 1)]
IMAGES_OF = {"none": "images.npy", "zstd": "images.npy.zst", "lz4": "images.npy.lz4", "png": "png", "jpg": "jpg"}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "lz4": lz4.frame.decompress,
}
Theirs = tuple[NDArray[np.uint8], NDArray[np.int32]]
"""Images and labels."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, kind: Kind) -> Path:
    return write_set_of(tmp_path_factory.mktemp(kind) / "set", kind, {"train": BLOCKS})


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Samples:
    """All samples of the set, as our reader gives them."""
    cache = Cache(tmp_path_factory.mktemp("cache"), 1 << 30)
    reader = ShardSet(folder, cache=cache, decode=decode_into).split("train")
    return reader.collect(np.arange(reader.samples))


def test_our_reader_gives_what_was_written(ours: Samples, kind: Kind) -> None:
    images, labels, sources = (np.concatenate(parts) for parts in zip(*BLOCKS, strict=True))
    assert np.array_equal(ours.labels, labels) and np.array_equal(ours.sources, sources)
    if kind != "jpg":
        assert np.array_equal(ours.images, images)
    assert np.abs(ours.images.astype(int) - images).mean() < 3


def assert_same(theirs: Theirs, ours: Samples, kind: Kind) -> None:
    """DALI's JPEG decoder rounds now and then in another way than OpenCV's."""
    images, labels = theirs
    assert np.array_equal(labels, ours.labels)
    assert np.abs(images.astype(int) - ours.images).max() <= (2 if kind == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset 1.0.2 leaves the tar to the collector
def test_webdataset_reads_it(folder: Path, kind: Kind, ours: Samples) -> None:
    """It decodes PNG, JPEG and arrays itself (l8: gray, 8 bits), and leaves compressed arrays as bytes."""
    found = list(webdataset.WebDataset(str(folder / "train-00000.tar"), shardshuffle=False).decode("l8"))
    gc.collect()
    assert len({sample["__key__"] for sample in found}) == len(found) == (2 if kind in UNPACK else 185)
    images = [sample[IMAGES_OF[kind]] for sample in found]
    if kind not in UNPACK:
        assert_same((np.stack(images), np.array([sample["cls"] for sample in found], np.int32)), ours, kind)
        return
    arrays = images if kind == "none" else [np.load(io.BytesIO(UNPACK[kind](data))) for data in images]
    assert_same((np.concatenate(arrays), np.concatenate([sample["labels.npy"] for sample in found])), ours, kind)


def test_dali_reads_it(folder: Path, kind: Kind, ours: Samples) -> None:
    found = list(dali_samples(folder / "train-00000.tar", kind))
    if kind in UNPACK:
        labels = [label[NPY_HEADER:].view(np.int32) for _, label in found]
        sizes = [len(label) * IMAGE_BYTES for label in labels]
        pixels = [UNPACK[kind](data.tobytes())[-size:] for (data, _), size in zip(found, sizes, strict=True)]
        images = np.frombuffer(b"".join(pixels), np.uint8).reshape(-1, 64, 64)
        assert_same((images, np.concatenate(labels)), ours, kind)
        return
    numbers = np.array([int(label.tobytes()) for _, label in found], np.int32)
    assert_same((np.stack([image[..., 0] for image, _ in found]), numbers), ours, kind)


def dali_samples(tar: Path, kind: Kind) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """What each sample has: bytes of images (decoded if they are files) and of labels."""
    pipeline = dali_reader(str(tar), kind)
    pipeline.build()
    for _ in range(2 if kind in UNPACK else 185):
        images, labels = pipeline.run()
        yield np.asarray(images.at(0)), np.asarray(labels.at(0))


@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def dali_reader(tar: str, kind: Kind) -> tuple[Any, ...]:
    reader: Any = fn.readers.webdataset
    label = "labels.npy" if kind in UNPACK else "cls"
    index = tar.replace(".tar", ".idx")
    images, labels = reader(
        paths=tar, index_paths=index, ext=[IMAGES_OF[kind], label], missing_component_behavior="error"
    )
    if kind not in UNPACK:
        images = fn.decoders.image(images, device="cpu", output_type=types.GRAY)
    return images, labels


def test_verify_finds_it_clean(folder: Path) -> None:
    assert verify(folder).problems == ()
