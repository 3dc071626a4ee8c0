"""--overwrite: every command replaces what it made itself, and nothing else, wherever --output points."""

import hashlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from kkanji import checkpoint
from kkanji.checkpoint.average import average
from kkanji.checkpoint.export import export
from kkanji.classes import ClassMap
from kkanji.models import create_model
from shards import InputError
from shards.output.ownership import MARKER_NAME
from tests.making import make_font
from tests.tools.conftest import encode
from tools.commands import sample as sample_command
from tools.commands.arrays import arrays
from tools.commands.balance import balance
from tools.commands.combine import combine
from tools.commands.convert import convert
from tools.commands.index import index
from tools.commands.pack import pack
from tools.commands.render import render
from tools.commands.sample import FONT_FILES, sample
from tools.commands.split import split
from tools.commands.verify import verify

SIZES = itertools.count(10)  # of balanced sets: one with the same options is left as it is
SMALL: dict[str, Any] = {"block_size": 125, "shard_size": 125}
MODEL = "kkanji_efficientnet_fused_s"


class Command(NamedTuple):
    """A command of this world: what it reads, and how it is run on it."""

    input: str
    run: Callable[[Path, Path, bool], None]
    """World, output, overwrite."""


COMMANDS = {
    "combine": Command("raw", lambda at, output, over: combine((at / "raw",), output=output, overwrite=over)),
    "render": Command(
        "originals",
        lambda at, output, over: render(
            at / "originals", fonts=(at / "fonts",), at_most=50, output=output, overwrite=over
        ),
    ),
    "pack": Command(
        "originals", lambda at, output, over: pack(at / "originals", output=output, overwrite=over, **SMALL)
    ),
    "balance": Command(
        "originals",
        lambda at, output, over: balance(
            at / "originals", per_class=next(SIZES), output=output, workers=1, overwrite=over, **SMALL
        ),
    ),
    "convert": Command(
        "shards",
        lambda at, output, over: convert(str(at / "shards"), layout="image", output=output, overwrite=over, **SMALL),
    ),
    "arrays": Command("shards", lambda at, output, over: arrays(str(at / "shards"), output=output, overwrite=over)),
    "index": Command(
        "images",
        lambda at, output, over: index(
            train=(f"{at}/images/train-*.tar",), classes=at / "index.json", output=output, workers=1, overwrite=over
        ),
    ),
    "sample": Command(
        "fonts", lambda at, output, over: sample(output=output, fonts=at / "fonts", per_class=1, overwrite=over)
    ),
    "export": Command(
        "run/checkpoints/step-000000001",
        lambda at, output, over: export(at / "run/checkpoints/best", output, card="a card", overwrite=over),
    ),
    "average": Command(
        "run/checkpoints/step-000000001",
        lambda at, output, over: average(
            [at / "run/checkpoints/step-000000001", at / "run/checkpoints/step-000000002"], output, overwrite=over
        ),
    ),
}
OUTPUTS = {
    "the input": "{input}",
    "the input by a detour": "thesis/../{input}",
    "the input through a link": "-> {input}",
    "the folder with the input": "{input}/..",
    "the folder with all": ".",
    "a folder inside the input": "{input}/notes",
    "a stranger's folder": "thesis",
    "a stranger's folder through a link": "-> thesis",
    "a stranger's file": "thesis/README.md",
    "a training run": "run",
    "its checkpoints": "run/checkpoints",
    "a checkpoint": "run/checkpoints/best",
    "another command's": "made/{other}",
    "another command's through a link": "-> made/{other}",
    "an early version's": "early",
    "the home folder": "home",
    "the home folder through a link": "-> home",
    "a folder in home": "home/mail",
    "the root": "/",
}
"""Places in this world; `-> `: a link to one."""


def find(at: Path, output: str, name: str) -> Path:
    """The place for a command of this name."""
    other = "arrays" if name == "pack" else "pack"
    *linked, place = output.format(input=COMMANDS[name].input, other=other).split("-> ")
    if not linked:
        return at / place
    link = at.parent / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(at / place)
    return link


def listing(folder: Path) -> dict[str, str]:
    """Everything below a folder: the sha256 of files, the targets of links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"-> {os.readlink(path)}"
        else:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def save_checkpoint(folder: Path, step: int) -> None:
    model = create_model(MODEL, 2)
    checkpoint.save(
        folder,
        step,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        state={"config": {"model": MODEL, "head": "linear"}, "progress": {"step": step}},
        classes=ClassMap.of([0x4E00, 0x4E01]),
        best=step == 1,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's disk. Refusals change nothing, so all of them share it."""
    at = tmp_path_factory.mktemp("disk") / "world"
    random = np.random.default_rng(0)
    for label in ("U+4E00", "U+4E01"):
        (at / "raw" / "kkanji2" / label).mkdir(parents=True)
        for number in range(10):
            image = encode(random.integers(0, 256, (64, 64), np.uint8))
            (at / "raw" / "kkanji2" / label / f"{number:016x}.png").write_bytes(image)
    (at / "fonts").mkdir()
    for name in FONT_FILES:
        make_font(at / "fonts" / name, "一丁")
    combine((at / "raw",), output=at / "originals")
    split(at / "originals")
    pack(at / "originals", output=at / "shards", **SMALL)
    pack(at / "originals", output=at / "made" / "pack", **SMALL)
    arrays(str(at / "shards"), output=at / "made" / "arrays")
    convert(str(at / "shards"), layout="image", output=at / "images", **SMALL)
    shutil.copy(at / "shards" / "index.json", at)
    for step in (1, 2):
        save_checkpoint(at / "run" / "checkpoints", step)
    (at / "run" / "log.jsonl").write_text("{}\n")
    shutil.copytree(at / "shards", at / "early")
    (at / "early" / MARKER_NAME).unlink()
    inside = [at / command.input / "notes" for command in COMMANDS.values()]
    for folder in {at / "thesis", at / "home" / "mail", *inside}:
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("years of work")
    return at


@pytest.fixture(autouse=True)
def settings(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(world / "home"))
    monkeypatch.setattr(sample_command, "CHARACTERS", "一丁")
    yield


@pytest.fixture
def own(world: Path) -> Iterator[Path]:
    """A place for a command's own output."""
    yield world.parent / "own"
    shutil.rmtree(world.parent / "own", ignore_errors=True)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_of_anybody_else_is_replaced(world: Path, name: str, output: str, overwrite: bool) -> None:
    before, place = listing(world), find(world, OUTPUTS[output], name)
    with pytest.raises(InputError) as caught:
        COMMANDS[name].run(world, place, overwrite)
    assert listing(world) == before
    assert "--output" in str(caught.value) and len(str(caught.value)) < 500
    assert "--overwrite" not in str(caught.value), "advice that would be refused"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_replaces_its_own_output_and_says_so(
    world: Path, own: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, before = COMMANDS[name], listing(world)
    command.run(world, own, False)
    first = listing(own)
    with pytest.raises(InputError, match="choose another --output or --overwrite"):
        command.run(world, own, False)
    (world.parent / "link").unlink(missing_ok=True)
    (world.parent / "link").symlink_to(own)
    for place in (own, world.parent / "link"):
        capsys.readouterr()
        command.run(world, place, True)
        files = sum(value != "folder" for value in first.values()) - 1
        assert f"{own}: replaces {files:,} files that {name} made before\n" in capsys.readouterr().out
        assert listing(own) == first or (name == "balance" and listing(own).keys() == first.keys())
    assert listing(world) == before
    assert not list(world.parent.glob(".*")), "nothing is left beside"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("change", ["added", "in a folder", "an empty folder", "a link", "changed", "a longer file"])
def test_what_was_put_into_an_output_is_kept_until_it_is_moved(world: Path, own: Path, name: str, change: str) -> None:
    command = COMMANDS[name]
    command.run(world, own, False)
    made = sorted(path for path in own.rglob("*") if path.is_file() and path.name != MARKER_NAME)[-1]
    strange = {"in a folder": own / "my" / "notes.txt", "changed": made, "a longer file": made}.get(
        change, own / "notes"
    )
    if change == "an empty folder":
        strange.mkdir()
    elif change == "a link":
        strange.symlink_to(world / "thesis")
    elif change == "changed":
        made.write_bytes(bytes(len(made.read_bytes())))
        os.utime(made, (time.time() + 1,) * 2)  # clocks of file systems tick every few milliseconds
    else:
        strange.parent.mkdir(exist_ok=True)
        with strange.open("a") as file:
            file.write("mine")
    before = listing(world.parent)
    found = re.escape(str(strange.relative_to(own)))
    with pytest.raises(
        InputError, match=f"{found} in it was .*; move that to another place, or choose another --output"
    ):
        command.run(world, own, True)
    assert listing(world.parent) == before
    moved = world.parent / "moved"
    (own / "my" if change == "in a folder" else strange).rename(moved)
    command.run(world, own, True)
    assert not strange.exists() or strange == made
    assert (world / "thesis" / "README.md").exists()
    moved.unlink() if moved.is_symlink() or moved.is_file() else shutil.rmtree(moved)


def test_an_input_is_kept_even_if_the_same_command_made_it(world: Path, own: Path) -> None:
    convert(str(world / "shards"), layout="image", output=own / "made", **SMALL)
    index(train=(f"{own}/made/train-*.tar",), classes=world / "index.json", output=own / "indexed")
    before = listing(own)
    for location in ("made", "indexed"):  # whose tars are those of `made`
        with pytest.raises(
            InputError, match=r"not replaced: it is or holds the input .*/made; choose another --output"
        ):
            convert(str(own / location), output=own / "made", overwrite=True, **SMALL)
    assert listing(own) == before


def test_by_hand_as_the_message_says(world: Path, own: Path) -> None:
    shutil.copytree(world / "early", own)
    with pytest.raises(
        InputError, match=r"own: not replaced: no \.kkanji-output .*; remove it by hand if nobody needs it"
    ):
        pack(world / "originals", output=own, overwrite=True, **SMALL)
    shutil.rmtree(own)
    pack(world / "originals", output=own, overwrite=True, **SMALL)
    verify(own)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "kkanji output 1", "maker": "pack", "files": 3}', "[" * 9999]
)
def test_a_marker_that_cannot_be_read_proves_nothing(world: Path, own: Path, text: str) -> None:
    pack(world / "originals", output=own, **SMALL)
    (own / MARKER_NAME).write_text(text)
    before = listing(own)
    with pytest.raises(InputError, match=r"no \.kkanji-output in it says that pack made it"):
        pack(world / "originals", output=own, overwrite=True, **SMALL)
    assert listing(own) == before


def test_what_comes_in_while_a_command_works_is_kept(world: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(world / "originals", output=own, **SMALL)

    def put(*_: object) -> None:
        (own / "notes").write_text("mine")

    monkeypatch.setattr("tools.build.packing.require_room", put)
    with pytest.raises(InputError, match="notes in it was not made by pack"):
        pack(world / "originals", output=own, overwrite=True, **SMALL)
    assert (own / "notes").read_text() == "mine"


def test_a_temporary_name_that_is_a_link_is_not_followed(world: Path, own: Path) -> None:
    own.mkdir()
    (own / ".set.partial").symlink_to(world / "thesis")
    before = listing(world.parent)
    with pytest.raises(InputError, match="set: cannot be written"):
        pack(world / "originals", output=own / "set", **SMALL)
    assert listing(world.parent) == before


def test_originals_with_a_split_are_replaced_together_with_it(world: Path, own: Path) -> None:
    for _ in range(2):
        combine((world / "raw",), output=own, overwrite=True)
        split(own)
        split(own, overwrite=True, seed=1)
    (own / "split.csv").write_text("mine")
    with pytest.raises(InputError, match=r"split\.csv in it was changed since combine made it"):
        combine((world / "raw",), output=own, overwrite=True)


def test_a_file_where_a_split_would_go_is_kept(world: Path, own: Path) -> None:
    combine((world / "raw",), output=own)
    (own / "split.csv").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"split\.csv, which `split` did not make; move that elsewhere"):
            split(own, overwrite=overwrite)
    (own / "split.csv").rename(world.parent / "moved")
    split(own)
    assert (world.parent / "moved").read_text() == "mine"
    (world.parent / "moved").unlink()
