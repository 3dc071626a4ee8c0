"""Random access: what is read is what was written, and a set that is not whole is refused before the first sample."""

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards import (
    Block,
    ChangedShard,
    InputError,
    Lineage,
    Manifest,
    MissingShard,
    Samples,
    Shard,
    ShardSet,
    Split,
    SplitReader,
    StorageError,
    write_manifest,
)
from shards.checksums import crc32
from shards.format import layout
from shards.read import address_range as mapping

MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]
Blocks = list[list[int]]

ROOT = Path(__file__).parents[3]
BLOCKS: Blocks = [[3, 3, 1], [2], [4, 1]]
SAMPLES = 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A set and what was put into it."""

    folder: Path
    samples: Samples

    def reader(self, threads: int = 1) -> SplitReader:
        return ShardSet(self.folder).split("train", threads=threads)


@pytest.fixture(scope="module")
def known(make_samples: MakeSamples, write_set: WriteSet) -> Known:
    samples = make_samples(SAMPLES)
    return Known(folder=write_set({"train": samples, "val": make_samples(SAMPLES, 1)}, BLOCKS), samples=samples)


@pytest.fixture
def copy(known: Known, tmp_path: Path) -> Path:
    """The set again, to be damaged."""
    return shutil.copytree(known.folder, tmp_path / "set")


def assert_same(found: Samples, expected: Samples) -> None:
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.labels, expected.labels)
    assert np.array_equal(found.sources, expected.sources)


def assert_gathers(reader: SplitReader, numbers: list[int], expected: Samples) -> None:
    """What comes back for these numbers is what was written under them, also into a buffer."""
    rows = np.array(numbers, np.int64)
    out = np.full((len(numbers), 64, 64), 7, np.uint8)
    for found in (reader.gather(rows), reader.gather(rows, out)):
        assert_same(found, Samples(expected.images[rows], expected.labels[rows], expected.sources[rows]))
    assert np.array_equal(out, expected.images[rows])


def test_every_sample_is_what_was_written(known: Known) -> None:
    reader = known.reader()
    assert reader.samples == SAMPLES
    assert_gathers(reader, list(range(SAMPLES)), known.samples)
    assert np.array_equal(reader.labels(), known.samples.labels)
    assert np.array_equal(reader.sources(), known.samples.sources)


@settings(max_examples=200)
@given(numbers=st.lists(st.integers(0, SAMPLES - 1), max_size=40), threads=st.sampled_from([1, 2]))
def test_any_numbers_in_any_order_repeated(known: Known, numbers: list[int], threads: int) -> None:
    assert_gathers(known.reader(threads), numbers, known.samples)


@settings(max_examples=25)
@given(data=st.data(), blocks=st.lists(st.lists(st.integers(1, 70), max_size=4), max_size=4))
def test_any_sizes_of_blocks_and_shards(
    make_samples: MakeSamples, write_set: WriteSet, data: st.DataObject, blocks: Blocks
) -> None:
    """Also shards without blocks, and a split without shards."""
    count = sum(map(sum, blocks))
    samples = make_samples(count)
    folder = write_set({"train": samples}, blocks)
    numbers = data.draw(st.lists(st.integers(0, max(count - 1, 0)), max_size=20 if count else 0))
    reader = Known(folder=folder, samples=samples).reader()
    assert reader.samples == count
    assert_gathers(reader, numbers, samples)
    assert np.array_equal(reader.labels(), samples.labels)
    assert np.array_equal(reader.sources(), samples.sources)
    shutil.rmtree(folder)


@pytest.mark.parametrize("page", [1 << 14, 1 << 16])
def test_large_pages_of_memory(known: Known, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """Such as arm64 has: files then cannot follow each other without a gap."""
    monkeypatch.setattr(mapping, "PAGE", page)
    reader = known.reader()
    assert_gathers(reader, [13, 0, 6, 7, 8, 9, 0], known.samples)
    assert np.array_equal(reader.labels(), known.samples.labels)


def test_threads_may_share_a_reader(known: Known) -> None:
    reader, rows = known.reader(threads=2), np.arange(SAMPLES).repeat(20)
    right: list[bool] = []

    def work() -> None:
        right.extend(np.array_equal(reader.gather(rows).images, known.samples.images[rows]) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 80


@pytest.mark.parametrize("numbers", [[-1], [0, SAMPLES], [1 << 62], [3, -(1 << 62)]])
@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_outside_the_split_are_refused(known: Known, numbers: list[int], threads: int) -> None:
    with pytest.raises(IndexError, match=r"the split has 0\.\.13"):
        known.reader(threads).gather(np.array(numbers))


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 64, 128), np.uint8)[:, :, :64],
        np.empty((2, 64, 64), np.float32),
        np.empty((3, 64, 64), np.uint8),
        np.empty((2, 64, 63), np.uint8),
        np.frombuffer(bytes(2 * 4096), np.uint8).reshape(2, 64, 64),
    ],
    ids=["strided", "float", "too long", "too narrow", "read-only"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_buffer_that_cannot_take_the_pixels_is_refused(known: Known, out: NDArray[np.uint8], threads: int) -> None:
    with pytest.raises(ValueError, match="expected a writeable, contiguous one of uint8"):
        known.reader(threads).gather(np.array([0, 1]), out)


def test_an_unknown_split_is_refused(known: Known) -> None:
    with pytest.raises(InputError, match="set: no split 'test'; it has: train, val"):
        ShardSet(known.folder).split("test")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingShard, match="absent: no such folder; expected a shard set"):
        ShardSet(tmp_path / "absent")


def test_a_set_without_manifest(copy: Path) -> None:
    (copy / "dataset.json").unlink()
    with pytest.raises(MissingShard, match=r"set: no dataset.json, so this is not a complete shard set; make it with"):
        ShardSet(copy)


def test_a_missing_shard(copy: Path) -> None:
    (copy / "train-00001.tar").unlink()
    with pytest.raises(MissingShard, match=r"train-00001.tar: named in the manifest but not there"):
        ShardSet(copy).split("train")
    assert ShardSet(copy).split("val").samples == SAMPLES


def test_a_truncated_or_extended_shard(copy: Path) -> None:
    path = copy / "train-00002.tar"
    whole = path.read_bytes()
    for size in {0, 1, 511, *range(512, len(whole), 512), len(whole) - 4096, len(whole) - 1, len(whole) + 1}:
        path.write_bytes(whole[:size].ljust(size))
        with pytest.raises(ChangedShard, match=f"train-00002.tar: {size} bytes, expected {len(whole)}"):
            ShardSet(copy).split("train")
    path.write_bytes(whole)
    ShardSet(copy).split("train")


def test_a_shard_of_another_set_with_the_same_size(copy: Path) -> None:
    """What packing anew with another seed gives: only the content differs."""
    shutil.copy(copy / "val-00000.tar", copy / "train-00000.tar")
    with pytest.raises(
        ChangedShard, match=r"train-00000.tar: other originals at byte \d+, expected those in the set's column"
    ):
        ShardSet(copy).split("train")


def test_a_folder_in_the_place_of_a_shard(copy: Path) -> None:
    (copy / "train-00001.tar").unlink()
    (copy / "train-00001.tar").mkdir()
    with pytest.raises((ChangedShard, StorageError), match=r"train-00001.tar"):
        ShardSet(copy).split("train")


def test_a_mapping_that_the_system_refuses_names_the_file(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, _: opened(path, os.O_WRONLY))
    with pytest.raises(StorageError, match=r"train-00000.tar: mapping \d+ bytes failed: Permission denied"):
        map_files(known.folder)


def mapped(folder: Path) -> int:
    """How many of this process's mappings are files of the folder."""
    return Path("/proc/self/maps").read_text().count(str(folder))


def test_memory_is_unmapped_with_the_reader(copy: Path) -> None:
    reader = ShardSet(copy).split("train")
    assert mapped(copy) == 3
    del reader
    gc.collect()
    assert mapped(copy) == 0


def map_files(folder: Path) -> mapping.AddressRange:
    paths = sorted(folder.glob("train-*.tar"))
    files = mapping.AddressRange([path.stat().st_size for path in paths])
    for number, path in enumerate(paths):
        files.map(number, path)
    return files


def test_memory_is_unmapped_with_the_last_view(copy: Path) -> None:
    first = (copy / "train-00000.tar").read_bytes()[:5]
    view = map_files(copy).bytes[:5]
    gc.collect()
    assert mapped(copy) == 3
    assert view.tobytes() == first
    del view
    gc.collect()
    assert mapped(copy) == 0


def test_what_was_gathered_does_not_hold_the_mapping(copy: Path) -> None:
    samples = ShardSet(copy).split("train").gather(np.array([1, 2]))
    gc.collect()
    assert mapped(copy) == 0
    assert samples.images.flags.owndata and samples.images.flags.writeable


def test_a_refused_set_leaves_nothing_mapped(copy: Path) -> None:
    (copy / "train-00001.tar").unlink()
    with pytest.raises(MissingShard):
        ShardSet(copy).split("train")
    gc.collect()
    assert mapped(copy) == 0


def test_the_mapping_is_read_only(copy: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        map_files(copy).bytes[0] = 1


def test_descriptors_and_threads_stay_constant(known: Known) -> None:
    def use() -> None:
        known.reader(threads=2).gather(np.arange(SAMPLES))

    use()
    files, before = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    for _ in range(20):
        use()
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert len(os.listdir("/proc/self/fd")) <= files
    assert set(threading.enumerate()) <= before


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_memory_does_not_grow(known: Known) -> None:
    reader, rows = known.reader(), np.arange(SAMPLES).repeat(50)
    out = np.empty((len(rows), 64, 64), np.uint8)
    for _ in range(20):
        reader.gather(rows, out)
    before = anonymous_bytes()
    for _ in range(200):
        reader.gather(rows, out)
    assert anonymous_bytes() - before < 8 << 20


AT_EXIT = """
import atexit
atexit.register(lambda: print(reader._range.bytes[::4096].sum()))  # runs after what shards registers
import sys
from pathlib import Path
from shards import ShardSet
reader = ShardSet(Path(sys.argv[1])).split("train")
"""


def test_a_reader_may_be_used_while_the_process_ends(known: Known) -> None:
    """As a loader's daemon thread does. Unmapping at exit would be a segmentation fault."""
    command = [sys.executable, "-c", AT_EXIT, str(known.folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_positions_hold_beyond_32_bits(tmp_path: Path, make_samples: MakeSamples) -> None:
    """A shard of 5 GB, of which only the last block and what comes before labels are on the disk."""
    size, count = 1250, 1000
    last, block_bytes = make_samples(size)._replace(labels=np.zeros(size, np.int32)), layout.block_bytes(size)
    data = layout.encode_block("000999", *last)
    offsets = range(0, count * block_bytes, block_bytes)
    with (tmp_path / "train-00000.tar").open("wb") as file:
        for number, offset in enumerate(offsets):
            head = layout.labels_head(f"{number:06d}", size)
            os.pwrite(file.fileno(), head, offset + layout.labels_offset(size) - len(head))
        file.seek(offsets[-1])
        file.write(data + layout.end_of_archive())
    checksum = crc32(data)
    blocks = [Block(offset=offset, bytes=block_bytes, samples=size, crc32=checksum) for offset in offsets]
    shard = Shard(name="train-00000.tar", bytes=count * block_bytes + 4096, sha256="0" * 64, blocks=tuple(blocks))
    split = Split(shards=(shard,), samples_per_class=(count * size,), originals_per_class=(1,))
    manifest = Manifest(name="", licence="", lineage=Lineage.UNKNOWN, classes=1, seed=0, splits={"train": split})
    write_manifest(tmp_path, manifest, "{}")
    found = ShardSet(tmp_path).split("train").gather(np.arange((count - 1) * size, count * size))
    assert_same(found, last)
