"""The packed layout: its bytes are pinned, aligned, and read by every tool that it promises to be readable by."""

import gc
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from shards import BLOCK_SIZES, Samples, Shard, write_shard
from shards.format import layout

MakeSamples = Callable[..., Samples]
Arrays = dict[str, NDArray[np.generic]]

SIZES = (*BLOCK_SIZES, 1, 2, 3, 63, 64, 65, 127, 500)
EXTENSIONS = ("images.npy", "labels.npy", "sources.npy")
MIXED = (3, 1, 5)  # block sizes of the shard that other programs read

TAR = "a6d172cf8e9d59687d51ea7a7221d0169fd69fef2c595de674d72726d937925f"  # sha256 of what version 1 writes
INDEX = "75ac5ac1708668102034b2871b8aef1d816b009b3828229efc1b42cb9ab430f5"


@pytest.fixture(scope="module")
def blocks(make_samples: MakeSamples) -> list[Samples]:
    return [make_samples(size, seed) for seed, size in enumerate(MIXED)]


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory, blocks: list[Samples]) -> Path:
    path = tmp_path_factory.mktemp("layout") / "train-00000.tar"
    write_shard(path, blocks)
    return path


def counted(size: int, first: int) -> Samples:
    """Samples that need no random generator."""
    images = (np.arange(first, first + size * 4096, dtype=np.int64) * 7 % 251).astype(np.uint8)
    labels = np.arange(first, first + size, dtype=np.int64)
    return Samples(images.reshape(size, 64, 64), labels, labels.astype(np.uint64) << np.uint64(40))


def assert_same(block: Arrays, expected: Samples) -> None:
    arrays: list[NDArray[Any]] = list(expected)
    for extension, array in zip(EXTENSIONS, arrays, strict=True):
        assert np.array_equal(block[extension], array), extension
    assert [block[extension].dtype.str for extension in EXTENSIONS] == ["|u1", "<i4", "<u8"]


def test_bytes_never_change_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    shard = write_shard(path, [counted(2, 0), counted(3, 100)])
    assert shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert shard.sha256 == "a6d172cf8e9d59687d51ea7a7221d0169fd69fef2c595de674d72726d937925f"
    assert (
        hashlib.sha256(path.with_suffix(".idx").read_bytes()).hexdigest()
        == "75ac5ac1708668102034b2871b8aef1d816b009b3828229efc1b42cb9ab430f5"
    )


@pytest.mark.parametrize("size", SIZES)
def test_blocks_and_pixels_start_at_pages(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.tar"
    shard = write_shard(path, [counted(size, 0), counted(size, 1)])
    assert shard.bytes == path.stat().st_size and shard.bytes % 4096 == 0
    for block in shard.blocks:
        assert block.offset % 4096 == 0 and block.bytes % 4096 == 0
        assert (block.samples, block.bytes) == (size, layout.block_bytes(size))
    with tarfile.open(path) as archive:
        starts = {member.name: member.offset_data for member in archive}
    for number, block in enumerate(shard.blocks):
        assert starts[f"{number:06d}.images.npy"] == block.offset + 512
        assert starts[f"{number:06d}.labels.npy"] == block.offset + layout.labels_offset(size) - 128


@pytest.mark.parametrize("size", SIZES)
def test_every_offset_points_at_its_array(size: int) -> None:
    samples = counted(size, 5)
    data = layout.encode_block("000000", *samples)
    offsets = (layout.PIXELS_OFFSET, layout.labels_offset(size), layout.sources_data_offset(size))
    arrays: list[NDArray[Any]] = list(samples)
    for offset, array, kind in zip(offsets, arrays, ("|u1", "<i4", "<u8"), strict=True):
        found = np.frombuffer(data, kind, array.size, offset).reshape(array.shape)
        assert offset % found.itemsize == 0
        assert np.array_equal(found, array)


@pytest.mark.parametrize("size", SIZES)
def test_members_open_with_tarfile_and_numpy(tmp_path: Path, size: int) -> None:
    samples = [counted(size, 0), counted(1, 9)]
    write_shard(tmp_path / "a.tar", samples)
    with tarfile.open(tmp_path / "a.tar", format=tarfile.USTAR_FORMAT) as archive:
        names = archive.getnames()
        arrays = {name: load(archive, name) for name in names}
    assert names == [f"{number:06d}.{extension}" for number in range(2) for extension in EXTENSIONS]
    for number, expected in enumerate(samples):
        assert_same({extension: arrays[f"{number:06d}.{extension}"] for extension in EXTENSIONS}, expected)


def load(archive: tarfile.TarFile, name: str) -> NDArray[np.generic]:
    """A member's array. Header and data fill the member to the byte."""
    member = archive.extractfile(name)
    assert member is not None
    stream = io.BytesIO(member.read())
    array: NDArray[np.generic] = np.load(stream, allow_pickle=False)
    assert stream.read() == b""
    return array


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar program")
def test_members_open_with_the_tar_program(tmp_path: Path, tar: Path, blocks: list[Samples]) -> None:
    listing = subprocess.run(["tar", "tf", tar], capture_output=True, text=True, check=True)
    assert listing.stderr == ""
    assert listing.stdout.split() == [f"{number:06d}.{extension}" for number in range(3) for extension in EXTENSIONS]
    subprocess.run(["tar", "xf", tar, "-C", tmp_path], check=True)
    for number, expected in enumerate(blocks):
        paths = {extension: tmp_path / f"{number:06d}.{extension}" for extension in EXTENSIONS}
        assert_same({extension: np.load(path) for extension, path in paths.items()}, expected)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset 1.0.2 leaves the tar to the collector
def test_stock_webdataset_opens_it(tar: Path, blocks: list[Samples]) -> None:
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode())
    gc.collect()
    assert [sample["__key__"] for sample in samples] == ["000000", "000001", "000002"]
    for sample, expected in zip(samples, blocks, strict=True):
        assert_same(sample, expected)


def test_dali_opens_it_with_our_index(tar: Path, blocks: list[Samples]) -> None:
    pipeline = dali_reader(str(tar))
    pipeline.build()
    for expected in blocks:
        outputs: tuple[Any, ...] = pipeline.run()
        arrays = (np.asarray(output.at(0)) for output in outputs)
        assert_same(dict(zip(EXTENSIONS, arrays, strict=True)), expected)


@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def dali_reader(tar: str) -> tuple[Any, ...]:
    """DALI's reader gives a member's bytes; the arrays stand behind their npy headers."""
    reader: Any = fn.readers.webdataset
    images, labels, sources = reader(
        paths=tar, index_paths=tar.replace(".tar", ".idx"), ext=list(EXTENSIONS), missing_component_behavior="error"
    )
    images, labels = images[layout.PIXELS_OFFSET - layout.TAR_BLOCK :], labels[layout.NPY_HEADER :]
    sources = sources[sources.shape()[0] - 2 * labels.shape()[0] :]
    return (
        fn.reinterpret(images, shape=[-1, 64, 64]),
        fn.reinterpret(labels, dtype=types.INT32),
        fn.reinterpret(sources, dtype=types.UINT64),
    )


@pytest.mark.parametrize("sizes", [MIXED, (1,), (125, 7)])
def test_index_is_what_wds2idx_makes(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    path = tmp_path / "train-00000.tar"
    write_shard(path, [counted(size, 0) for size in sizes])
    theirs = tmp_path / "theirs.idx"
    subprocess.run([sys.executable, "-m", "wds2idx", path, theirs], check=True, stdout=subprocess.DEVNULL)
    assert path.with_suffix(".idx").read_bytes() == theirs.read_bytes()


def test_a_shard_without_blocks_is_an_empty_archive(tmp_path: Path) -> None:
    shard: Shard = write_shard(tmp_path / "a.tar", [])
    assert shard.samples == 0
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == []
