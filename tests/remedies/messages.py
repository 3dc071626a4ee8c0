"""What the messages of the sources tell a user to do: their remedies, each a part of a sentence."""

import re
from collections.abc import Iterator
from functools import cache

from launch.__main__ import STORY
from tests.test_advice import FILES, ROOT, texts
from tools.__main__ import DESCRIPTION

VERBS = (
    "add allow average begin change check choose combine convert copy divide empty end expect fetch fill find fix free "
    "get give install invert keep leave let look lower make mend move name pack point put push raise reduce remove "
    "rename repair replace report request restart run scale scan see set shorten start stop take train try unset "
    "update upgrade use wait write"
).split()
OTHER_BEGINNINGS = (
    "cut it",
    "do not",
    "index each",
    "pip install",
    "render the",
    "show another",
    "show its",
    "split again",
)
BEGINNING = rf"(?:{'|'.join((*VERBS, *OTHER_BEGINNINGS))})\b"
BORDER = re.compile(rf"[;:(]\s+|,\s+(?:or\s+|and\s+)?|\s+(?:or|and|then)\s+(?={BEGINNING})")
# Lines of --help, and what reports say of a figure.
DESCRIPTIONS = {DESCRIPTION} | {line for _, _, commands in STORY for line in commands.values()}
MOST_TEXT = 700  # characters of a message; longer texts are help


def remedies_in(text: str) -> Iterator[str]:
    """The parts of a message that say what to do, as the source has them: a * stands for what is filled in."""
    for part in BORDER.split(text):
        words = part.strip().rstrip(".)\n")
        if re.match(BEGINNING, words) and " " in words:
            yield words


@cache
def remedies() -> dict[str, list[str]]:
    """Each remedy with the messages that give it, as `file: text`."""
    found: dict[str, list[str]] = {}
    for path in FILES:
        for text in texts(path):
            if text not in DESCRIPTIONS and len(text) <= MOST_TEXT:
                for remedy in remedies_in(text):
                    found.setdefault(remedy, []).append(f"{path.relative_to(ROOT)}: {text}")
    return found
