"""The kernel is told to read what the requests to come need, and no more."""

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from shards import Samples, ShardSet, SplitReader, WindowedOrder
from shards.read import page_cache
from shards.read.address_range import HUGE_PAGE, AddressRange
from shards.read.files import SplitFiles
from shards.read.page_cache import PageAhead
from shards.read.prefetch import Numbers

SAMPLES = 1000  # of each shard
SIZE = SAMPLES * 4096


class Bench:
    """Shards of which it is only noted what is done to them."""

    def __init__(self, shards: int) -> None:
        self.shards = [SimpleNamespace(samples=SAMPLES)] * shards
        self.sizes = [SIZE] * shards
        self.pages: list[int] = []
        self.left: list[int] = []
        self.random: bool | None = None

    def expect(self, *, random: bool) -> None:
        self.random = random

    def path(self, number: int) -> Path:
        return Path(f"{number}.tar")

    def leave(self, number: int, path: Path) -> None:
        assert path == self.path(number)
        self.left.append(number)

    def serve(self, requests: Iterator[Numbers]) -> Iterator[Numbers]:
        ahead = PageAhead(cast(SplitFiles, self), cast(AddressRange, self), shards_of, lambda numbers: numbers * 4096)
        return ahead.serve(requests)


def shards_of(numbers: Numbers) -> NDArray[np.intp]:
    return np.unique(numbers // SAMPLES)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """100 shards in a memory of 50."""
    bench = Bench(100)
    monkeypatch.setattr(page_cache, "LEAST_NUMBERS", 4 * SAMPLES)
    monkeypatch.setattr(page_cache, "memory_bytes", lambda: 50 * SIZE)
    monkeypatch.setattr(page_cache, "ask_for_pages", lambda pages, _: bench.pages.extend((pages // 4096).tolist()))
    return bench


def test_a_windowed_order_drops_shards_behind_it_and_no_others(bench: Bench) -> None:
    """Each once, after its last image and while its successors are read; none is asked for."""
    order = WindowedOrder([SAMPLES] * 100, seed=0, window=8)
    requests = [order.at(start, start + 500) for start in range(0, order.samples, 500)]
    last = {shard: turn for turn, numbers in enumerate(requests) for shard in shards_of(numbers).tolist()}
    for turn, numbers in enumerate(bench.serve(iter(requests))):
        assert np.array_equal(numbers, requests[turn])
        assert all(last[shard] < turn for shard in bench.left)
        wait_until(lambda: len(bench.left) == sum(end < turn for end in last.values()))  # noqa: B023  (called here)
    wait_until(lambda: sorted(bench.left) == [*range(100)])
    assert not bench.pages and bench.random is False


def test_a_full_order_of_a_set_larger_than_memory_has_its_pages_asked_for(bench: Bench) -> None:
    numbers = np.random.default_rng(0).permutation(100 * SAMPLES)[:50_000]
    stream = bench.serve(iter(np.split(numbers, 100)))
    next(stream)
    wait_until(lambda: len(bench.pages) >= 16 * SAMPLES)
    assert {*bench.pages} <= {*numbers.tolist()}
    assert len(list(stream)) == 99
    wait_until(lambda: len(bench.pages) == 50_000)
    assert bench.random and not bench.left


def test_a_set_that_fits_is_left_to_the_kernel(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "memory_bytes", lambda: 200 * SIZE)
    numbers = np.random.default_rng(0).permutation(100 * SAMPLES)[:50_000]
    assert np.array_equal(np.concatenate(list(bench.serve(iter(np.split(numbers, 100))))), numbers)
    assert not bench.pages and not bench.left and bench.random is None


COLD = 1250  # images of the block that opening does not read


@pytest.fixture
def reader(write_set: Callable[..., Path], make_samples: Callable[..., Samples]) -> SplitReader:
    """2,000 images in one shard of 8 MB, which is not in the page cache."""
    folder = write_set({"train": make_samples(2000)}, [[COLD, 750]])
    reader = ShardSet(folder).split("train")
    with (folder / "train-00000.tar").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(reader) > COLD / 2:
        pytest.skip("this file system keeps its files in memory")
    return reader


def resident(reader: SplitReader, images: int = COLD) -> int:
    """Pages of the first block's pixels that are in memory. images: in the block."""
    first = int(reader.addresses_of(np.array([0]))[0]) // mmap.PAGESIZE * mmap.PAGESIZE
    flags = (ctypes.c_uint8 * (images * 4096 // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None)
    assert libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(images * 4096), flags) == 0
    return sum(flag & 1 for flag in flags)


def test_a_few_images_of_a_cold_shard_read_a_few_pages(reader: SplitReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a memory that does not hold the set."""
    monkeypatch.setattr(page_cache, "memory_bytes", lambda: 1)
    before = resident(reader)
    for numbers in reader.follow([np.arange(0, 1000, 100)]):
        reader.gather(numbers)
    assert resident(reader) - before <= 20


def test_shards_that_were_passed_leave_the_memory(
    write_set: Callable[..., Path], make_samples: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In sequence through ten shards and a memory that holds nine. They can still be read."""
    samples = make_samples(2000)
    reader = ShardSet(write_set({"train": samples}, [[200]] * 10)).split("train")
    reader.gather(np.arange(2000))
    assert resident(reader, 200) == 200
    monkeypatch.setattr(page_cache, "LEAST_NUMBERS", 200)
    monkeypatch.setattr(page_cache, "shards_ahead", lambda _: 2)
    monkeypatch.setattr(page_cache, "MEMORY_FRACTION", 0.9)
    monkeypatch.setattr(page_cache, "memory_bytes", lambda: 2000 * 4096)
    os.sync()  # what is not on the disk stays in memory
    for numbers in reader.follow(np.split(np.arange(2000), 20)):
        assert np.array_equal(reader.gather(numbers).images, samples.images[numbers])
    wait_until(lambda: resident(reader, 200) < 20)
    assert np.array_equal(reader.gather(np.arange(200)).images, samples.images[:200])


def test_pages_that_requests_ask_for_come(reader: SplitReader) -> None:
    before = resident(reader)
    pages = reader.addresses_of(np.arange(300, 500)) // mmap.PAGESIZE * mmap.PAGESIZE
    assert page_cache.ask_for_pages(pages, mmap.PAGESIZE) == 0
    wait_until(lambda: resident(reader) - before >= 200)


def test_large_files_start_on_huge_pages(tmp_path: Path) -> None:
    sizes = [5, HUGE_PAGE + 1, 7000, 3 * HUGE_PAGE]
    mapped = AddressRange(sizes)
    address = mapped.bytes.ctypes.data
    assert [(address + start) % HUGE_PAGE == 0 for start in mapped.starts[1::2]] == [True, True]
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(bytes([number + 1]) * size)
        mapped.map(number, tmp_path / str(number))
    for number, (start, size) in enumerate(zip(mapped.starts, sizes, strict=True)):
        assert {*np.unique(mapped.bytes[start : start + size]).tolist()} == {number + 1}
        assert mapped.bytes[start] == number + 1


def test_a_container_has_the_memory_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "1048576\n")
    assert page_cache.memory_bytes() == 1 << 20
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "max\n")
    assert page_cache.memory_bytes() == os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
