"""To follow a remedy: make the fault, read the message, do what it says, and the command works.

What to do is read from the message wherever it is a command, an option, a variable or a name, so that a message which
names a wrong one fails here.
"""

import io
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.__main__ import COMMANDS, LAUNCH
from launch.__main__ import main as kkanji
from tests.launch.commands import start_in
from tests.remedies.stock import Stock

Words = Sequence[str | Path]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z_-]+")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all that it printed."""

    code: int
    text: str


@dataclass(frozen=True)
class Told:
    """A command that failed or warned, its message, and the remedy in it."""

    place: Stock
    words: list[str]
    text: str
    remedy: str
    filled: tuple[str, ...]
    """What the message has in the places of the remedy's *."""

    @property
    def option(self) -> str:
        """The option that the message is about: the first that it names and the command has."""
        return str(next(name for name in OPTION.findall(self.text) if name in self.words))

    def named(self, pattern: str) -> str:
        """What the message names: the group of this pattern."""
        found = re.search(pattern, self.text)
        assert found, self.text
        return str(found[1])


Follow = Callable[[Told], Words | None]
"""Does what the remedy says. Returns the command line to run then; None for the same one."""


@dataclass(frozen=True)
class Fault:
    """A fault, and how each remedy in its message is followed."""

    name: str
    make: Callable[[Stock], Words]
    """Makes it in a new folder. Returns the command line that meets it."""
    remedies: Mapping[str, Follow]
    """By their words in the source."""


def each(faults: Sequence[Fault]) -> pytest.MarkDecorator:
    """A test for each remedy of each fault."""
    return pytest.mark.parametrize(
        ("fault", "remedy"),
        [
            pytest.param(fault, remedy, id=f"{fault.name}: {remedy}".replace(" ", "-").replace("/", "-"))
            for fault in faults
            for remedy in fault.remedies
        ],
    )


def follow(place: Stock, fault: Fault, remedy: str) -> Ended:
    """How the command ends when the remedy was followed. Fails unless its message had it, and has it no more."""
    words = [str(word) for word in fault.make(place)]
    before = run(place, words)
    found = pattern_of(remedy).search(before.text)
    assert found, f"{words} ended with {before.code}, without `{remedy}`:\n{before.text}"
    if before.code == 0 and words[0] in ("train", "combine"):
        shutil.rmtree(words[words.index("--output") + 1])  # it warned, and went on
    again = fault.remedies[remedy](Told(place, words, before.text, remedy, found.groups()))
    after = run(place, words if again is None else [str(word) for word in again])
    assert after.code == 0, after.text
    assert not pattern_of(remedy).search(after.text), after.text
    return after


def pattern_of(remedy: str) -> re.Pattern[str]:
    """The remedy as a message has it."""
    parts = re.split(r"\*|\{\w+\}", remedy)
    return re.compile("(.*?)".join(map(re.escape, parts)) + r"(?=$|[\s;,.:)])", re.MULTILINE)


def run(place: Stock, words: Sequence[str]) -> Ended:
    """`kkanji WORDS`, in the folder and environment of the place: tools here, what imports torch in a warm process."""
    if COMMANDS[words[0]] == LAUNCH:
        result = start_in(place.folder, "-m", "launch", *words, **place.variables)
        assert "Traceback" not in result.stderr, result.stderr
        return Ended(result.returncode, result.stdout + result.stderr)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(place.folder)
        patch.setattr(sys, "argv", ["kkanji", *words])
        for name, value in place.variables.items():
            patch.setenv(name, value)
        for name, limit in place.limits.items():
            patch.setattr(name, limit)
        warnings.simplefilter("default")  # as in a process of its own
        warnings.onceregistry.clear()  # type: ignore[attr-defined]
        with redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as ended:
            kkanji()
    return Ended(int(ended.value.code or 0), printed.getvalue())


# Ways to follow


def without(words: Sequence[str], option: str) -> list[str]:
    """A command line without an option and its values."""
    first = words.index(option)
    last = next((at for at in range(first + 1, len(words)) if words[at].startswith("--")), len(words))
    return [*words[:first], *words[last:]]


def with_option(words: Sequence[str], option: str, *values: str | Path) -> list[str]:
    """A command line with an option, instead of the values that it has."""
    kept = without(words, option) if option in words else list(words)
    return [*kept, option, *map(str, values)]


def leave_it_out(told: Told) -> Words:
    return without(told.words, told.option)


def options_in(text: str) -> list[tuple[str, list[str]]]:
    """Options of a text with their values."""
    found = re.findall(r"(--[a-z][a-z-]+)((?: [\w./+-]+)?)", text)
    return [(name, value.split()) for name, value in found]


def give(told: Told) -> Words:
    """With the option and the value that the remedy names."""
    words: list[str] = told.words
    remedy = pattern_of(told.remedy).search(told.text)
    assert remedy
    for name, values in options_in(remedy[0]):
        words = with_option(words, name, *values)
    return words


def giving(*values: str) -> Follow:
    """With the option that the remedy names, and a value that a user would choose."""

    def follow(told: Told) -> Words:
        (option,) = set(OPTION.findall(told.remedy)) or {told.option}
        return with_option(told.words, option, *values)

    return follow


def another_output(told: Told) -> Words:
    (option,) = OPTION.findall(told.remedy)
    before = Path(told.words[told.words.index(option) + 1])
    return with_option(told.words, option, told.place / f"other{before.suffix}")


def run_what_it_names(told: Told) -> None:
    """Run the command in the remedy, word for word."""
    (command,) = re.findall(r"`kkanji ([^`]+)`", told.text)
    ended = run(told.place, command.split())
    assert ended.code == 0, ended.text


def by_hand(work: Callable[[Stock], object]) -> Follow:
    """By work on files, as the words of the remedy say; then the same command."""

    def follow(told: Told) -> None:
        work(told.place)

    return follow


def the_same_again(told: Told) -> None:
    """What is to be done is to run the command again."""


def setting(*values: str) -> Follow:
    """Set the variables that the remedy names."""

    def follow(told: Told) -> None:
        names = re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", told.remedy)
        told.place.variables.update(zip(names, values, strict=True))

    return follow


def unset_it(told: Told) -> None:
    """Unset the first variable that the message names."""
    name = told.named(r"\b([A-Z]+(?:_[A-Z]+)+)\b")
    assert told.place.variables.pop(name, None) is not None or name in os.environ
