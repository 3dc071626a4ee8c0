"""Whatever makes a set of another one reads no damaged byte of it: a new checksum would declare it to be right. And
whatever reads a set waits for no pipe in the place of a file."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shards import ChangedShard, CorruptShard, InputError, read_manifest
from tests.faults.flips import flipped, places
from tests.shards.kinds import Kind, drawn, write_set_of
from tools.commands.arrays import arrays
from tools.commands.balance import balance
from tools.commands.convert import convert
from tools.commands.push import push
from tools.commands.show import show
from tools.commands.verify import verify
from tools.ingest.originals import IMAGES_NAME, SPLIT_TABLE_NAME, TABLE_NAME

BLOCKS = 5
Copy = Callable[[Path, Path, str], object]
TOOLS: dict[str, Copy] = {
    "convert": lambda source, output, _: convert(str(source), output=output, block_size=125, shard_size=125),
    "arrays": lambda source, output, split: arrays(str(source), split=split, output=output),
    "push": lambda source, output, _: push(source, str(output)),
}

READERS: dict[str, Callable[[Path, Path], object]] = {
    "arrays": lambda folder, output: arrays(str(folder), output=output),
    "convert": lambda folder, output: convert(str(folder), output=output, workers=1),
    "push": lambda folder, output: push(folder, str(output)),
    "show": lambda folder, output: show(str(folder), output=output.with_suffix(".png"), split="train", count=3),
    "verify": lambda folder, _: verify(folder),
}
NEEDED = {"dataset.json", "train-00000.tar"}  # by every command


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("kind", ["none", "png"])
def test_a_flipped_bit_anywhere_in_a_shard_ends_the_tool(tmp_path: Path, kind: Kind, tool: str) -> None:
    """In headers, images, labels, sources, paddings and the end of each of two splits of five blocks."""
    splits = {name: [drawn(4, number) for number in range(BLOCKS)] for name in ("train", "val")}
    source = write_set_of(tmp_path / "set", kind, splits)
    tried = 0
    for name, place in places(read_manifest(source)):
        output = tmp_path / f"{tried}"
        with flipped(source / name, place), pytest.raises((CorruptShard, ChangedShard)) as told:
            TOOLS[tool](source, output, name.partition("-")[0])
        assert (name in str(told.value) and "at byte" in str(told.value)) or "end of the archive" in str(told.value)
        assert "expected" in str(told.value) and "again" in str(told.value)
        assert not (output / "dataset.json").exists() and (tool == "push" or not output.exists())
        tried += 1
    assert tried > 80
    TOOLS[tool](source, tmp_path / "whole", "train")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [(IMAGES_NAME, "again"), (TABLE_NAME, "again"), (SPLIT_TABLE_NAME, "run `kkanji split .* --overwrite`$")],
)
def test_a_flipped_bit_anywhere_in_originals_ends_balance(
    tmp_path: Path, originals_folder: Callable[..., Path], name: str, remedy: str
) -> None:
    folder = originals_folder({"U+4E00": 6, "U+4E01": 4})
    size = (folder / name).stat().st_size
    for part in range(40):
        with flipped(folder / name, size * part // 40), pytest.raises(InputError, match=remedy):
            balance(folder, per_class=4, output=tmp_path / "set", block_size=125, shard_size=125, workers=1)
        assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("kind", ["none", "zstd", "png"])
def test_no_command_waits_for_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Kind, command: str
) -> None:
    whole = write_set_of(tmp_path / "whole", kind, {"train": [drawn(5)]})
    for name in sorted(path.name for path in whole.iterdir()):
        folder = shutil.copytree(whole, tmp_path / name / "set")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        told = ""
        try:
            READERS[command](folder, tmp_path / name / "output")
        except (InputError, SystemExit) as error:
            told = str(error) + capsys.readouterr().out
        assert name in told or not (told or name in NEEDED or command == "verify"), told
