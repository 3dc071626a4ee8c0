"""Families: classes that are forms of one character, such as 来 and 來, which one hand writes for the other.

The families of Kuzushiji-Kanji's classes are in variants.txt; docs/variants.py says how they were joined. They follow
Unihan and OpenCC, which also join characters that only Chinese simplification merged: 机 (desk) and 機 (machine).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("variants.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Forms of one character."""

    characters: str
    """The forms, in the order of Unicode."""
    tables: tuple[str, ...]
    """Tables of Unihan and OpenCC that join them."""


@cache
def families() -> tuple[Family, ...]:
    """All families, in the order of their first characters."""
    lines = (line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return tuple(
        Family(characters=characters, tables=tuple(tables.split()))
        for characters, _, tables in (line.partition("\t") for line in lines)
    )


def forms(characters: Sequence[str]) -> tuple[str, ...]:
    """The forms of each class's character that are classes too, itself included; empty if there is no other, [C]."""
    numbers = family_numbers(characters).tolist()
    together: dict[int, str] = {}
    for character, number in zip(characters, numbers, strict=True):
        together[number] = together.get(number, "") + character
    return tuple(found if len(found := together[number]) > 1 else "" for number in numbers)


def family_numbers(characters: Sequence[str]) -> NDArray[np.int64]:
    """The family of each class as the number of its first class, [C]: forms of one character have the same number.

    characters: the character of each class.
    """
    first_form = {form: family.characters for family in families() for form in family.characters}
    first_class: dict[str, int] = {}
    names = (first_form.get(character, character) for character in characters)
    return np.array([first_class.setdefault(name, number) for number, name in enumerate(names)], np.int64)
