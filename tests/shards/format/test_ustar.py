"""The tar indexer finds what tar programs wrote, and refuses what is damaged, cut short or hostile."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset

from shards import CorruptShard
from shards.format.image_layout import read_samples
from shards.format.tar_headers import MAX_END_BYTES, MAX_EXTENSION_BYTES
from shards.format.ustar import MAX_MEMBERS, Archive, dali_index, read_archive
from tests.faults import hostile
from tests.faults.hostile import END, GOOD, member, pax

ROOT = Path(__file__).parents[3]
FILES = {"000/a.png": b"a" * 700, "000/a.cls": b"1", "000/b.c.png": b"b" * 512, "000/b.c.cls": b"12"}
DEADLINE_S = 120


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "tree"


def contents(path: Path, archive: Archive) -> dict[str, bytes]:
    data = path.read_bytes()
    return {found.name: data[found.offset : found.offset + found.size] for found in archive.members}


def assert_index_is_theirs(path: Path, archive: Archive) -> None:
    theirs = path.with_suffix(".theirs")
    subprocess.run([sys.executable, "-m", "wds2idx", path, theirs], check=True, stdout=subprocess.DEVNULL)
    assert dali_index(archive) == theirs.read_text()


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar program")
@pytest.mark.parametrize("tar_format", ["gnu", "posix", "ustar", "v7", "oldgnu"])
def test_what_the_tar_program_writes(tmp_path: Path, tree: Path, tar_format: str) -> None:
    path = tmp_path / "a.tar"
    subprocess.run(["tar", f"--format={tar_format}", "--sort=name", "-cf", path, "-C", tree, "000"], check=True)
    archive = read_archive(path)
    assert contents(path, archive) == FILES
    assert_index_is_theirs(path, archive)
    subprocess.run(["tar", f"--format={tar_format}", "--sort=name", "-cf", path, "-C", tree, "."], check=True)
    archive = read_archive(path)
    assert contents(path, archive) == {f"./{name}": data for name, data in FILES.items()}
    assert_index_is_theirs(path, archive)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes(tmp_path: Path, tree: Path, tar_format: int) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tar_format) as archive:
        archive.add(tree / "000", "000")
    assert contents(path, read_archive(path)) == FILES


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_need_an_extension(tmp_path: Path, tar_format: int) -> None:
    files = {"d" * 300 + "/a.png": b"long", "古/b.png": b"kanji"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tar_format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert contents(tmp_path / "a.tar", read_archive(tmp_path / "a.tar")) == files


def test_what_webdataset_writes(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"s{number}", "png": b"p" * number, "cls": number, "json": {"n": number}})
    archive = read_archive(tmp_path / "a.tar")
    assert_index_is_theirs(tmp_path / "a.tar", archive)
    samples = read_samples(tmp_path / "a.tar", archive)
    assert [(sample.image.name, sample.image.size, sample.label) for sample in samples] == [
        ("s0.png", 0, 0),
        ("s1.png", 1, 1),
        ("s2.png", 2, 2),
    ]
    assert samples[1].start % 512 == 0 and 0 == samples[0].start < samples[1].start < samples[1].image.start


def test_global_headers_and_owners_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(pax((b"comment", b"0" * 40), kind=b"g") + pax((b"uid", b"1"), (b"mtime", b"1.5")) + GOOD + END)
    assert [found.name for found in read_archive(path).members] == ["a.png", "a.cls"]
    assert read_archive(path).members[0].start == 0


def test_an_empty_tar_has_no_members(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(END)
    assert read_archive(tmp_path / "a.tar") == Archive(members=[], end=0, bytes=1024)
    assert dali_index(read_archive(tmp_path / "a.tar")) == "v1.2 0\n"


def test_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    whole = GOOD + member(b"b.cls", b"1") + END
    path.write_bytes(whole)
    assert len(read_archive(path).members) == 3
    for length in range(len(whole) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(CorruptShard, match=rf"^{path}: byte \d+, after \d members: found .*; expected "):
            read_archive(path)


def test_every_flipped_bit_of_a_header_is_refused_or_harmless(tmp_path: Path) -> None:
    path, data = tmp_path / "a.tar", bytearray(GOOD + END)
    second, harmless = GOOD.index(b"a.cls"), 0
    path.write_bytes(data)
    expected = read_archive(path)
    with path.open("rb+", buffering=0) as file:
        for bit in range(512 * 8):
            place = second + bit // 8
            os.pwrite(file.fileno(), bytes([data[place] ^ 1 << bit % 8]), place)
            try:
                assert read_archive(path) == expected
                harmless += 1
            except CorruptShard:
                pass
            os.pwrite(file.fileno(), data[place : place + 1], place)
    assert harmless <= 16  # the NUL and the space that end the checksum's field


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    hostile.write(folder)
    return folder


MESSAGES = {
    "parent folder": r"'\.\./b\.png', absolute, or leads outside",
    "symbolic link": "'b.png', a symbolic link",
    "sparse file": "'b.png', a sparse file",
    "name twice": "'a.png' a second time",
    "name twice, once with dot": "'./a.png' a second time",
    "size -512": "negative, huge or no number",
    "size 4 EiB": "negative, huge or no number",
    "size over 1 MiB": "'b.png' of 1048577 bytes; expected 1048576 at most",
    "pax of 8 GiB": f"a header of 8589934591 bytes that describes a member; expected {MAX_EXTENSION_BYTES} at most",
    "pax size": "a pax header with b'size'",
    "name of 1 MB": "a header of 1000000 bytes",
    "wrong checksum": "a damaged header",
    "many members": f"more than {MAX_MEMBERS} members",
    "many folders": "more than 1024 folders",
    "an end of 64 GiB": f"more than {MAX_END_BYTES} zeros after the last member",
    "image without label": r"byte 2048: sample b has members png; expected one image .* and its cls",
    "label C": "label b'3', expected a class number from 0 to 2 in digits",
}


@pytest.mark.parametrize("name", [*hostile.TEXTS, *hostile.STREAMS])
def test_hostile_tars_are_refused(hostile_folder: Path, name: str) -> None:
    path = hostile_folder / f"{name}.tar"
    with pytest.raises(CorruptShard) as caught:
        read_samples(path, read_archive(path), classes=3)
    assert str(caught.value).startswith(f"{path}: byte ")
    assert re.search(MESSAGES.get(name, ""), str(caught.value)), caught.value


def test_hostile_tars_cost_little_memory(hostile_folder: Path) -> None:
    """All of them, one after another, in a process of their own."""
    command = [sys.executable, "-m", "tests.faults.hostile", "measure", str(hostile_folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    found: dict[str, dict[str, float]] = json.loads(result.stdout)
    assert set(found) == {*hostile.TEXTS, *hostile.STREAMS}
    assert max(each["grown_bytes"] for each in found.values()) < 100 << 20
