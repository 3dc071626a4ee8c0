"""Writing: a set is there as a whole or not at all, whatever happens to the process that writes it."""

import errno
import fcntl
import os
import re
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import (
    InputError,
    Lineage,
    Manifest,
    OutputFolder,
    Samples,
    ShardSet,
    Split,
    StorageError,
    json_reading,
    verify,
    write_file,
    write_manifest,
    write_shard,
)
from shards.format import manifest_writer
from shards.output import files as output_files
from shards.output import ownership
from tests.faults import injector
from tests.faults.injector import needs_small_disk, on_small_disk

MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]

ROOT = Path(__file__).parents[3]
REFUSED = 3
run_injector = partial(injector.run_injector, "writers")


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a set."""
    return {name: (folder / name).read_bytes() for name in names(folder)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the injector writes when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_injector("write", folder, 1)
    return contents(folder / "00000")


def test_nothing_bears_the_final_name_until_complete(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "new" / "set") as folder:
        (folder / "file").write_text("half")
        assert not (tmp_path / "new" / "set").exists()
    assert names(tmp_path / "new") == ["set"]
    assert names(tmp_path / "new" / "set") == ["file"]


def test_everything_is_on_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_samples: MakeSamples, write_set: WriteSet
) -> None:
    synced: list[tuple[str, bool]] = []

    def record(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path.name.removeprefix(".").removesuffix(".partial"), (tmp_path / "set").exists()))

    monkeypatch.setattr(os, "fsync", record)
    write_set({"train": make_samples(3)}, [[2], [1]], output=tmp_path / "set")
    shards = ["train-00000.tar", "train-00000.idx", "train-00001.tar", "train-00001.idx"]
    before = [name for name, renamed in synced if not renamed]
    columns = ["train.labels.npy", "train.sources.npy", "train.by_class.npy"]
    assert sorted(before[:-3]) == sorted([*shards, *columns]) and before[: len(shards)] == shards
    assert before[-3:] == ["index.json", "dataset.json", "set"]
    assert [name for name, renamed in synced if renamed] == [tmp_path.name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), OutputFolder(tmp_path / "set") as folder:
        (folder / "file").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_ctrl_c_while_a_shard_is_written_leaves_nothing(tmp_path: Path, make_samples: MakeSamples) -> None:
    def blocks() -> Any:
        yield make_samples(2)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), OutputFolder(tmp_path / "set") as folder:
        write_shard(folder / "a.tar", blocks())
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "code", "word"), [(15, 143, "terminated"), (2, 130, "interrupted")])
def test_a_signal_leaves_nothing_and_says_how_far_it_was(tmp_path: Path, number: int, code: int, word: str) -> None:
    """Ten times each. How long that takes is in docs/FAULTS.md."""
    ended = run_injector("signalled", tmp_path, number, 10)
    assert [each["code"] for each in ended] == [code] * 10
    for turn, each in enumerate(ended):
        told = rf"{word}; {tmp_path}/{turn:05d}/set: not made: \d+\.\d MB written in \d+ files and removed again\n"
        assert re.fullmatch(told, each["told"]), each["told"]
        assert each["left"] == []
        assert each["seconds"] < 30


def test_an_exception_keeps_what_was_to_be_replaced(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "set", maker="tests") as folder:
        (folder / "old").touch()
    with pytest.raises(RuntimeError), OutputFolder(tmp_path / "set", maker="tests", overwrite=True):
        raise RuntimeError
    assert names(tmp_path / "set") == [".kkanji-output", "old"]
    assert names(tmp_path) == ["set"]


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".set.partial" / "sub").mkdir(parents=True)
    (tmp_path / ".set.partial" / "stale").touch()
    with OutputFolder(tmp_path / "set") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["set"]


def test_an_output_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    with (
        pytest.raises(InputError, match=r"set: already exists and is not empty; choose another --output$"),
        OutputFolder(tmp_path / "set"),
    ):
        pytest.fail("entered")
    assert names(tmp_path) == ["set"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with OutputFolder(tmp_path / "set") as folder:
        (folder / "file").touch()
    assert names(tmp_path / "set") == ["file"]


def test_overwrite_replaces_the_whole(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "set", maker="tests") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "train-00009.tar").touch()
    with OutputFolder(tmp_path / "set", maker="tests", overwrite=True) as folder:
        (folder / "train-00000.tar").touch()
        assert names(tmp_path / "set") == [".kkanji-output", "sub"]
    assert names(tmp_path / "set") == [".kkanji-output", "train-00000.tar"]
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "set").write_text("precious")
    with pytest.raises(InputError, match="set: is a file"):
        OutputFolder(tmp_path / "set", overwrite=overwrite).__enter__()
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("output", [".", ".."])
def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    (tmp_path / "project" / "code").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "code")
    with pytest.raises(InputError, match="the current folder"):
        OutputFolder(Path(output), overwrite=True).__enter__()
    assert names(tmp_path) == ["project"]


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "set")
    with pytest.raises(InputError, match="set: a mount point"):
        OutputFolder(tmp_path / "set").__enter__()


def test_a_link_is_followed(tmp_path: Path) -> None:
    """People link to a folder on a larger disk: that is where the incomplete output must be too."""
    (tmp_path / "large" / "set").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "large" / "set")
    with OutputFolder(tmp_path / "link") as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path / "large"
    assert names(tmp_path / "link") == ["file"]
    assert (tmp_path / "link").is_symlink()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/set: cannot be written"):
        OutputFolder(tmp_path / "file" / "set").__enter__()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "set") as folder:
        (folder / "file").touch()
        with pytest.raises(InputError, match=f"set: process {os.getpid()} on {socket.gethostname()} is writing it"):
            OutputFolder(tmp_path / "set").__enter__()
        assert names(folder) == ["file"]
    assert names(tmp_path / "set") == ["file"]


def test_a_second_writer_starting_as_the_first_ends_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first one's rename and its end the temporary name is free for another."""
    second = OutputFolder(tmp_path / "set", maker="tests", overwrite=True)
    synced = output_files.sync_folder

    def sync(folder: Path) -> None:
        synced(folder)
        if folder == tmp_path:
            monkeypatch.setattr(ownership, "sync_folder", synced)
            (second.__enter__() / "file").touch()

    monkeypatch.setattr(ownership, "sync_folder", sync)
    with OutputFolder(tmp_path / "set", maker="tests"):
        pass
    second.__exit__(None, None, None)
    assert names(tmp_path / "set") == [".kkanji-output", "file"]
    assert names(tmp_path) == ["set"]


def test_a_writer_that_comes_too_late_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process completes the output between the first look and the lock."""

    def complete(*_: object) -> None:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "file").touch()

    monkeypatch.setattr(fcntl, "flock", complete)
    with pytest.raises(InputError, match="already exists"):
        OutputFolder(tmp_path / "set").__enter__()
    assert names(tmp_path) == ["set"]


def test_racing_processes_have_one_winner(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    races = run_injector("racing", tmp_path, 50)
    assert [sorted(codes) for codes in races] == [[0, REFUSED]] * 50
    assert names(tmp_path) == [f"{number:05d}" for number in range(50)]
    for folder in tmp_path.iterdir():
        assert contents(folder) == undisturbed


@pytest.mark.parametrize(
    ("command", "counts", "kills"),
    [("killed-by-step", (), 15), ("killed-by-write", (), 40), ("killed-by-clock", (200,), 200)],
)
def test_sigkill_leaves_all_or_nothing(
    tmp_path: Path, undisturbed: dict[str, bytes], command: str, counts: tuple[int, ...], kills: int
) -> None:
    codes = run_injector(command, tmp_path, *counts)
    assert codes.count(-signal.SIGKILL) >= kills
    present = {name: contents(tmp_path / name) for name in names(tmp_path) if not name.startswith(".")}
    assert all(content == undisturbed for content in present.values())
    run_injector("write", tmp_path, len(codes))
    assert {name for name in names(tmp_path) if name != "undisturbed"} == {f"{n:05d}" for n in range(len(codes))}
    assert all(contents(folder) == undisturbed for folder in tmp_path.iterdir())


def test_sigkill_while_overwriting_leaves_old_or_new_or_nothing(
    tmp_path: Path, undisturbed: dict[str, bytes], write_set: WriteSet, make_samples: MakeSamples
) -> None:
    """Nothing only between two renames, where the old set stays beside as .NAME.replaced."""
    outputs = [tmp_path / f"{number:05d}" for number in range(150)]
    for output in outputs:
        write_set({"train": make_samples(2)}, [[2]], output=output, maker="writers")
    old = contents(outputs[-1])
    codes = run_injector("killed-by-step", tmp_path)
    assert 15 < len(codes) < len(outputs)
    found = [contents(output) for output in outputs if output.exists()]
    assert all(content in (old, undisturbed) for content in found)
    replaced = [tmp_path / name for name in names(tmp_path) if name.endswith(".replaced") and names(tmp_path / name)]
    assert len(outputs) - len(found) <= len(replaced)
    run_injector("write", tmp_path, len(outputs))
    assert names(tmp_path) == [output.name for output in outputs], "a removal that was cut off is taken up"


@needs_small_disk
def test_a_full_disk_is_named_and_left_clean(tmp_path: Path) -> None:
    found = run_injector("full", tmp_path, wrap=on_small_disk(tmp_path))
    assert found["kind"] == "StorageError"
    assert found["message"].startswith(f"{tmp_path}/00000: No space left on device: 2.")
    assert "0.0 MB free" in found["message"]
    assert found["left"] == []


@needs_small_disk
def test_a_disk_full_at_the_index_is_named_and_left_clean(tmp_path: Path) -> None:
    found = run_injector("full-at-end", tmp_path, wrap=on_small_disk(tmp_path))
    assert found["kind"] == "StorageError"
    assert found["message"].startswith(f"{tmp_path}/00000: No space left on device: 0.4 MB written in ")
    assert found["left"] == ["of-others"]


def test_a_file_size_limit_is_named_and_left_clean(tmp_path: Path) -> None:
    found = run_injector("limited", tmp_path)
    assert found["kind"] == "StorageError"
    assert found["message"].startswith(f"{tmp_path}/00000: File too large: 1.0 MB written")
    assert found["left"] == []


def test_a_disk_that_refuses_at_the_end_is_named_and_left_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ownership, "sync_folder", refuse)
    with (
        pytest.raises(StorageError, match=r"set: cannot be written: .*Input/output error"),
        OutputFolder(tmp_path / "set"),
    ):
        pass
    assert names(tmp_path) == []


def test_errors_of_the_body_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-input"), OutputFolder(tmp_path / "set"):
        (tmp_path / "no-such-input").read_bytes()


@pytest.mark.parametrize("environment", [{"PYTHONHASHSEED": "1"}, {"TZ": "Asia/Tokyo"}, {"LC_ALL": "C"}])
def test_bytes_do_not_depend_on_the_environment(
    tmp_path: Path, undisturbed: dict[str, bytes], environment: dict[str, str]
) -> None:
    run_injector("write", tmp_path, 1, environment=environment)
    assert contents(tmp_path / "00000") == undisturbed


def test_bytes_do_not_depend_on_the_umask(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    run_injector("write", tmp_path, 1, wrap=("sh", "-c", 'umask 077; exec "$@"', "sh"))
    assert (tmp_path / "00000").stat().st_mode & 0o777 == 0o700
    assert contents(tmp_path / "00000") == undisturbed


def test_what_the_injector_writes_is_a_clean_set(tmp_path: Path) -> None:
    run_injector("write", tmp_path, 1)
    assert verify(tmp_path / "00000").problems == ()
    assert ShardSet(tmp_path / "00000").split("train").samples == 4


def test_write_file_replaces_and_leaves_no_temporary(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "old")
    write_file(tmp_path / "a", "新".encode())
    assert (tmp_path / "a").read_text(encoding="utf-8") == "新"
    assert names(tmp_path) == ["a"]


def test_write_file_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_file(tmp_path / "a", "old")
    monkeypatch.setattr(output_files, "sync_file", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "a", "new")
    assert contents(tmp_path) == {"a": b"old"}


IMAGES, LABELS, SOURCES = np.zeros((2, 64, 64), np.uint8), np.zeros(2, np.int64), np.zeros(2, np.uint64)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((IMAGES.astype(np.float32), LABELS, SOURCES), "found float32"),
        ((IMAGES[:, :63], LABELS, SOURCES), r"found uint8 \(2, 63, 64\)"),
        ((IMAGES[..., None], LABELS, SOURCES), r"found uint8 \(2, 64, 64, 1\)"),
        ((IMAGES[:1], LABELS, SOURCES), r"found uint8 \(1, 64, 64\)"),
        ((IMAGES, LABELS.astype(np.float64), SOURCES), r"float64 \(2,\), uint64"),
        ((IMAGES, LABELS.astype(bool), SOURCES), r"bool \(2,\), uint64"),
        ((IMAGES, LABELS[:, None], SOURCES[:, None]), r"int64 \(2, 1\)"),
        ((IMAGES, np.array(0), SOURCES), r"int64 \(\)"),
        ((IMAGES, LABELS, SOURCES[:1]), r"uint64 \(1,\)"),
        ((IMAGES, LABELS, SOURCES.astype(np.int64)), r"int64 \(2,\), int64 \(2,\)"),
        ((IMAGES, LABELS - 1, SOURCES), r"labels -1\.\.-1"),
        ((IMAGES, LABELS + (1 << 31), SOURCES), r"labels 2147483648"),
        ((IMAGES[:0], LABELS[:0], SOURCES[:0]), "without samples"),
    ],
)
def test_arrays_that_do_not_belong_are_refused(tmp_path: Path, samples: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"a.tar: .*{message}"):
        write_shard(tmp_path / "a.tar", [Samples(*samples)])


def test_a_label_beyond_the_classes_is_refused_as_the_set_is_completed(tmp_path: Path) -> None:
    """A shard does not know how many classes there are; counts tell."""
    shard = write_shard(tmp_path / "a.tar", [Samples(IMAGES, LABELS + 1, SOURCES)])
    split = Split(shards=(shard,), samples_per_class=(0, 2), originals_per_class=(0, 1))
    manifest = Manifest(name="", licence="", lineage=Lineage.KNOWN, classes=1, seed=0, splits={"train": split})
    with pytest.raises(InputError, match=r"dataset.json: split 'train': counts per class do not add up to 2 samples"):
        write_manifest(tmp_path, manifest, "{}")
    assert names(tmp_path) == ["a.idx", "a.tar"]


def test_arrays_in_any_memory_order_are_stored_alike(tmp_path: Path, make_samples: MakeSamples) -> None:
    images, labels, sources = make_samples(6)
    strided = Samples(np.asfortranarray(images), np.repeat(labels, 2)[::2].astype(np.int64), sources[::-1].copy()[::-1])
    plain = write_shard(tmp_path / "a.tar", [Samples(images, labels, sources)])
    assert write_shard(tmp_path / "b.tar", [strided]).sha256 == plain.sha256


def test_a_manifest_too_large_for_readers_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (manifest_writer, json_reading):
        monkeypatch.setattr(module, "MOST_BYTES", 100)
    manifest = Manifest(name="x" * 100, licence="", lineage=Lineage.UNKNOWN, classes=1, seed=0, splits={})
    with pytest.raises(InputError, match=r"dataset\.json: \d+ bytes without its shards, expected at most 100; give"):
        write_manifest(tmp_path, manifest, "{}")
    assert names(tmp_path) == []
