"""Texts as people read them: counted nouns, durations, and what others wrote made harmless in Markdown."""

import html
import re
from collections.abc import Mapping
from typing import Any

from shards.errors import printable

# What begins markup in CommonMark, in its tables, and in TeX formulas as some viewers take them.
_MARKUP = re.compile(r"([\\`*\[\]|~$#!]|(?<!\w)_|_(?!\w))")
_ANGLES = str.maketrans("<>", "‹›")
_MARKED = re.compile(r"\\([\\`*\[\]|~$#!_])")
_CODE = re.compile(r"(`[\w .:/+-]+`)")  # a name between backticks, as licences have it, stays code

# Lines of licences, and the Hub's names for them; any other is "other", and the card has its line.
LICENCES = ((r"CC BY-SA 4\.0", "cc-by-sa-4.0"), (r"CC BY 4\.0", "cc-by-4.0"), (r"\bMIT\b", "mit"), (r"CC0", "cc0-1.0"))


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `2,000 images`, `3 classes`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """`0:07`, `59:59`, `26:03:00`: minutes, and hours where there are any."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def training_images(data: Mapping[str, Any]) -> str:
    """How many images a run was trained on, and what they are, from `data` of its config.json."""
    images, originals = data["train_images"], data.get("train_originals")
    if originals is None:  # an earlier version's
        return f"{images:,} images"
    rendered = f"{data['train_rendered']:,} rendered from fonts" if data["train_rendered"] else ""
    if images == originals + data["train_rendered"]:
        return f"{images:,} images" + (f" ({originals:,} originals and {rendered})" if rendered else "")
    return f"{images:,} images (of {originals:,} originals{rendered and f' and {rendered}'})"


def markdown(text: str) -> str:
    """A text of a data set or a model, in a line of Markdown: shown as it is, whatever markup it holds."""
    parts = _CODE.split(printable(" ".join(text.split())))  # every second part is code
    return "".join(part if number % 2 else _escaped(part) for number, part in enumerate(parts))


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", html.escape(text, quote=False))


def untagged(text: str) -> str:
    """A text of a data set in a card's metadata, which some programs show without escaping it: no HTML tag in it."""
    return printable(text).translate(_ANGLES)


def plain(text: str) -> str:
    """The text that `markdown` made harmless, as it was, but for what is not printable."""
    return html.unescape(_MARKED.sub(r"\1", text))


def licence_name(line: str) -> str:
    """The Hub's name of the licence that a line names."""
    return next((name for pattern, name in LICENCES if re.search(pattern, line)), "other")


def slug(name: str) -> str:
    """A name as an identifier: `Kuzushiji-Kanji` becomes `kuzushiji-kanji`."""
    return re.sub(r"\W+", "-", name.lower()).strip("-") or "unnamed"
