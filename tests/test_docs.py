"""What documents name is there: tests, files, links, commands, options. Their pictures show what the code does."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from PIL import Image

from docs import predictions, rooms
from kkanji.config import FLAGLESS, TrainConfig
from tools.__main__ import COMMANDS as TOOLS

ROOT = Path(__file__).parents[1]
README, FAULTS = ROOT / "README.md", ROOT / "docs" / "FAULTS.md"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*/*.md"), *ROOT.glob("sample/*.md")]
)
MOST_LINES = 200  # of README: read in five minutes
COMMANDS = {*TOOLS, "doctor", "train", "evaluate", "predict", "export", "average"}
NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
NAMED_FILE = re.compile(r"`((?:shards|kkanji|tools|launch|benchmarks|tests|docs)/[\w/.-]+\.\w+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
COMMAND = re.compile(r"(?<![\w/.-])kkanji ([a-z]+)([^\n`#]*)")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def exists(file: str, name: str) -> bool:
    path = ROOT / file
    if not path.is_file():
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.parse(read(path)).body)


def anchors(text: str) -> set[str]:
    """The addresses of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, folder: Path) -> Iterator[str]:
    """Relative links to a file or a heading that is not there."""
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = folder / path if path else None
        if target and not target.exists():
            yield link
        elif anchor and anchor not in anchors(read(target) if target else text):
            yield link


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each `kkanji COMMAND` in the code of a document, with the options given to it."""
    for code in CODE.findall(text):
        for command, rest in COMMAND.findall(code.replace("\\\n", " ")):
            yield command, re.findall(r"--([a-z][a-z-]*)", rest)


def options(command: str) -> set[str] | None:
    """The options of a command; None where they are not known here."""
    if command in TOOLS:
        names = set(inspect.signature(TOOLS[command]).parameters)
    elif command == "train":
        names = set(option_names(TrainConfig)) - FLAGLESS
    else:
        return None
    return {name.strip("_").replace("_", "-") for name in names} | {"help"}


def option_names(config: type) -> Iterator[str]:
    """The fields of a dataclass; of fields that are dataclasses themselves, theirs."""
    types = get_type_hints(config)
    for field in fields(config):
        kind = types[field.name]
        yield from option_names(kind) if is_dataclass(kind) and isinstance(kind, type) else (field.name,)


def wrong_commands(text: str) -> Iterator[str]:
    """Commands that do not exist, and options that they do not have."""
    for command, given in commands(text):
        if command not in COMMANDS:
            yield f"kkanji {command}"
            continue
        known = options(command)
        yield from (f"kkanji {command} --{option}" for option in given if known is not None and option not in known)


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED_TEST.findall(read(FAULTS)))))
def test_every_test_in_the_table_of_faults_is_there(file: str, name: str) -> None:
    assert name.startswith("test_") and exists(file, name)


def test_every_fault_has_its_row() -> None:
    numbers = sorted(map(int, re.findall(r"^\| (\d+)[^|]*\|.*$", read(FAULTS), re.MULTILINE)))
    assert set(range(1, 41)) <= set(numbers) and len(numbers) == len(set(numbers))


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert not exists("tests/test_docs.py", "test_of_another_name") and not exists("tests/absent.py", "test_x")
    assert exists("tests/test_docs.py", "test_a_test_that_is_not_there_is_noticed")


def test_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    assert list(broken_links(read(path), path.parent)) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_and_their_options_exist(path: Path) -> None:
    assert list(wrong_commands(read(path))) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_are_named_exist(path: Path) -> None:
    assert [file for file in NAMED_FILE.findall(read(path)) if not (ROOT / file).exists()] == []


def test_readme_shows_commands_and_links() -> None:
    named = {command for command, _ in commands(read(README))}
    assert {"predict", "train", "push", "fetch", "combine", "split", "pack"} <= named
    assert len(LINK.findall(read(README))) > 10


def test_what_is_wrong_in_a_document_is_noticed() -> None:
    text = "# Head, line\n[a](b.md) [c](#head-line) [d](#other) [e](https://f.g)\n`kkanji trains` kkanji trains\n"
    assert list(broken_links(text, ROOT)) == ["b.md", "#other"]
    assert list(wrong_commands(text)) == ["kkanji trains"]
    code = "```bash\nkkanji pack a \\\n    --output b --no-such c  # --comment\nkkanji train --data a --nor-this\n```"
    assert list(wrong_commands(code)) == ["kkanji pack --no-such", "kkanji train --nor-this"]


def test_the_picture_of_predictions_shows_what_the_model_predicts() -> None:
    with Image.open(predictions.PICTURE) as picture:
        recorded = [predictions.Tile(**tile) for tile in json.loads(picture.text["predictions"])]  # type: ignore[attr-defined]
        correct = picture.text["correct"]  # type: ignore[attr-defined]
    now = predictions.predicted(predictions.shown())
    assert [(tile.file, tile.label, tile.predicted) for tile in now] == [
        (tile.file, tile.label, tile.predicted) for tile in recorded
    ], "run python docs/predictions.py"
    assert [tile.probability for tile in now] == pytest.approx([tile.probability for tile in recorded], abs=0.02)
    assert any(tile.correct for tile in now) and not all(tile.correct for tile in now)
    right, _, everything = correct.partition(" of ")
    assert f"{right} of its {everything} images right" in " ".join(read(README).split())


def test_the_picture_of_rooms_shows_the_imports() -> None:
    assert read(rooms.PICTURE) == rooms.draw(rooms.import_graph()), "run python docs/rooms.py"


def test_every_room_is_in_the_picture() -> None:
    for package, pictured in rooms.PACKAGES.items():
        folders = {f"{package}.{path.parent.name}" for path in (ROOT / package).glob("*/__init__.py")}
        assert folders <= set(pictured)
        assert all((ROOT / name.replace(".", "/")).with_suffix(".py").exists() for name in set(pictured) - folders)
