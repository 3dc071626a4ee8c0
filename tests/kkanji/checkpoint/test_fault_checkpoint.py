"""Any damage of any file of the newest checkpoint: what is gone on from is the one before, or the same bytes."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kkanji.checkpoint import files as checkpoint
from kkanji.checkpoint.files import CorruptCheckpoint
from shards import InputError
from shards.json_reading import MOST_BYTES
from tests.faults.savers import save, trained

ALL_UP_TO = 1_500  # bytes; of larger files every 2,999th bit is flipped, and every 1,009th cut made
FILES = ("manifest.json", "state.json", "index.json", "model.safetensors", "optimizer.safetensors")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """The checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save(tmp_path, step)
    return tmp_path / "step-000000001", tmp_path / "step-000000002"


def found(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and what the warnings say of others."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        newest = checkpoint.newest(folder)
    return newest, [str(each.message) for each in told]


def assert_passed_over(damaged: Path, before: Path) -> None:
    newest, told = found(damaged.parent)
    assert newest == before
    (warning,) = told
    assert warning.startswith("skipped: ") and damaged.name in warning and len(warning) < 500


def flipped(data: bytes) -> Iterator[bytes]:
    step = 1 if len(data) <= ALL_UP_TO else 2_999
    for bit in range(0, 8 * len(data), step):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def cut(data: bytes) -> Iterator[bytes]:
    step = 1 if len(data) <= ALL_UP_TO else 1_009
    yield from (data[:length] for length in range(0, len(data), step))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flipped, cut])
def test_every_bit_and_every_cut(two: tuple[Path, Path], name: str, damage: Callable[[bytes], Iterator[bytes]]) -> None:
    before, newest = two
    data = (newest / name).read_bytes()
    tried = 0
    for changed in damage(data):
        (newest / name).write_bytes(changed)
        assert_passed_over(newest, before)
        tried += 1
    assert tried >= 70
    (newest / name).write_bytes(data)
    assert found(newest.parent) == (newest, [])


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked_to(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return link


KINDS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "a folder": as_folder,
    "a pipe": as_pipe,
    "a link to nothing": linked_to("nothing"),
    "a link to a device": linked_to("/dev/zero"),
    "huge": lambda path: os.truncate(path, MOST_BYTES + 1),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[]"),
    "an empty object": lambda path: path.write_text("{}"),
    "not UTF-8": lambda path: path.write_bytes(b'{"\xff": 0}'),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_damage(two: tuple[Path, Path], name: str, kind: str) -> None:
    before, newest = two
    KINDS[kind](newest / name)
    assert_passed_over(newest, before)
    with pytest.raises(CorruptCheckpoint):
        checkpoint.check(newest, needed=(*checkpoint.USABLE, checkpoint.OPTIMIZER))


DIGESTS: dict[str, object] = {
    "not text": 1,
    "null": None,
    "a list": [],
    "short": "ab",
    "capitals": "A" * 64,
    "long": "a" * 100_000,
}


@pytest.mark.parametrize("digest", DIGESTS)
def test_a_manifest_of_wrong_types(two: tuple[Path, Path], digest: str) -> None:
    before, newest = two
    manifest = json.loads((newest / "manifest.json").read_text())
    for name in manifest:
        (newest / "manifest.json").write_text(json.dumps(manifest | {name: DIGESTS[digest]}))
        assert_passed_over(newest, before)


NAMES = ("../step-000000001/state.json", "/dev/zero", "\x1b[2J", "", "a\x00b", "x" * 100_000)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_manifest_of_strange_names(two: tuple[Path, Path], name: str) -> None:
    before, newest = two
    manifest = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps(manifest | {name: "0" * 64}))
    assert_passed_over(newest, before)


def test_a_manifest_that_leaves_out_a_file(two: tuple[Path, Path]) -> None:
    before, newest = two
    manifest = json.loads((newest / "manifest.json").read_text())
    for name in manifest:
        (newest / "manifest.json").write_text(json.dumps({key: manifest[key] for key in manifest if key != name}))
        assert_passed_over(newest, before)


def test_folders_of_others_are_not_gone_on_from(two: tuple[Path, Path]) -> None:
    _, newest = two
    newest.with_name("step-000000002-keep").mkdir()
    newest.with_name("step-9").touch()
    assert found(newest.parent) == (newest, [])
    newest.with_name("step-000000003").touch()
    where, told = found(newest.parent)
    assert where == newest and len(told) == 1


def test_without_a_good_one_it_says_what_to_do(two: tuple[Path, Path]) -> None:
    for path in two:
        (path / "manifest.json").write_text("{}")
    with (
        pytest.warns(RuntimeWarning, match="skipped"),
        pytest.raises(InputError, match=r"no good checkpoint among 2, .* begin again with another --output"),
    ):
        checkpoint.newest(two[0].parent)


def test_what_is_saved_after_a_fall_back_is_kept(tmp_path: Path) -> None:
    """Later steps that are damaged are not among those to fall back to."""
    for step in (1, 8, 9):
        save(tmp_path, step)
    for step in (8, 9):
        (tmp_path / f"step-{step:09d}" / "state.json").write_text("{}")
    save(tmp_path, 2)
    save(tmp_path, 3)
    newest, told = found(tmp_path)
    assert newest == tmp_path / "step-000000003" and len(told) == 2
    checkpoint.check(tmp_path / "last")
    checkpoint.check(tmp_path / "step-000000002")


def test_the_weights_of_a_checkpoint_that_was_not_passed_over_are_those_saved(two: tuple[Path, Path]) -> None:
    model, _ = trained()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    newest, _ = found(two[1].parent)
    assert newest is not None
    checkpoint.load_model(newest, model)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
