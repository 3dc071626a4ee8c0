"""Mapped files that are cut while they are read: a message that names the file, where the kernel would send SIGBUS."""

import mmap
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from shards import ChangedShard
from shards.read.address_range import AddressRange
from shards.read.cut_files import raise_if_cut, survived

PAGES = 20


def mapped(folder: Path) -> tuple[list[Path], AddressRange]:
    """Three files of ones, one after another in memory."""
    files = [folder / f"{number}.tar" for number in range(3)]
    for file in files:
        file.write_bytes(b"\1" * PAGES * mmap.PAGESIZE)
    place = AddressRange([PAGES * mmap.PAGESIZE] * 3)
    for number, file in enumerate(files):
        place.map(number, file)
    return files, place


@pytest.mark.parametrize("left", [0, 1, 7])
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("first", [7, PAGES - 1])
def test_the_file_is_named_wherever_it_is_cut_and_read(tmp_path: Path, number: int, left: int, first: int) -> None:
    """Files of this length in pages, whose other pages are read from this one on."""
    files, place = mapped(tmp_path)
    with survived():
        assert np.sum(place.bytes, dtype=np.int64) == place.bytes.size
        raise_if_cut()
        os.truncate(files[number], left * mmap.PAGESIZE)
        start = place.starts[number] + first * mmap.PAGESIZE
        assert place.bytes[start] == 0
        with pytest.raises(ChangedShard, match=rf"{files[number]}: cut while it was read; .* copy it again"):
            raise_if_cut()
    with survived():
        raise_if_cut()


def test_every_byte_beyond_the_cut_is_zero_and_every_one_before_as_it_was(tmp_path: Path) -> None:
    files, place = mapped(tmp_path)
    with survived():
        os.truncate(files[1], 5 * mmap.PAGESIZE)
        pages = place.bytes.reshape(3, PAGES, -1)
        assert pages[0].all() and pages[1, :5].all() and pages[2].all() and not pages[1, 5:].any()


def test_elsewhere_the_process_ends_as_ever(tmp_path: Path) -> None:
    """Whoever does not ask whether a file was cut must not take zeros for its content."""
    files, place = mapped(tmp_path)
    os.truncate(files[1], 0)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)  # pytest has a handler of its own
        with survived():
            pass
        os._exit(int(place.bytes[place.starts[1]]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGBUS
