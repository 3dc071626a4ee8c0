"""Writes kkanji/variants.txt: which of Kuzushiji-Kanji's characters are forms of one character.

Sources: Unihan_Variants.txt of the Unicode Character Database (version 15.0.0, in Debian's package unicode-data), and
the character tables of OpenCC (in the wheel opencc-python-reimplemented 0.1.7, folder opencc/dictionary):

    python docs/variants.py Unihan_Variants.txt DICTIONARIES
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kkanji.classes import read_class_map
from kkanji.pretrained import KUZUSHIJI_KANJI
from kkanji.variants import FILE, Family

UNIHAN = ("kZVariant", "kSemanticVariant", "kSimplifiedVariant", "kTraditionalVariant")
OPENCC = ("JPVariants", "TWVariants", "HKVariants", "STCharacters", "TSCharacters")
HEAD = """\
# Forms of one character among the classes of Kuzushiji-Kanji: a family a line, then the tables that say so.
# Joined by docs/variants.py from Unihan_Variants.txt of the Unicode Character Database 15.0.0 (Copyright 1991-2022
# Unicode, Inc., Unicode License) and OpenCC's character tables (OpenCC contributors, Apache License 2.0).
"""
Pair = tuple[str, str, str]
"""Two characters, and the table that joins them."""


def unihan_pairs(text: str) -> Iterator[Pair]:
    """The pairs of Unihan_Variants.txt, whose lines are `U+3405 <tab> kSemanticVariant <tab> U+4E94<kMatthews ...`."""
    for line in text.splitlines():
        if line.startswith("U+"):
            point, table, variants = line.split("\t")
            if table in UNIHAN:
                yield from ((_character(point), _character(each), table) for each in variants.split())


def opencc_pairs(text: str, table: str) -> Iterator[Pair]:
    """The pairs of a character table of OpenCC, whose lines are a character, a tab, and its forms between spaces."""
    for line in text.splitlines():
        character, _, forms = line.partition("\t")
        yield from ((character, form, table) for form in forms.split() if len(character) == len(form) == 1)


def joined(pairs: Iterable[Pair], characters: Iterable[str]) -> list[Family]:
    """Characters that a chain of pairs joins, over characters outside of the classes too, in the order of Unicode."""
    members: dict[str, set[str]] = {}
    tables: dict[int, set[str]] = {}
    for first, second, table in pairs:
        if first != second:
            left, right = (members.setdefault(each, {each}) for each in (first, second))
            named = tables.pop(id(left), set()) | tables.pop(id(right), set()) | {table}
            left |= right
            members.update(dict.fromkeys(right, left))
            tables[id(left)] = named
    known = set(characters)
    found = {id(members[each]): members[each] for each in known & members.keys()}
    families = (
        Family(characters="".join(sorted(known & family)), tables=tuple(sorted(tables.get(number, ()))))
        for number, family in found.items()
    )
    return sorted((family for family in families if len(family.characters) > 1), key=lambda family: family.characters)


def _character(text: str) -> str:
    return chr(int(text.partition("<")[0].removeprefix("U+"), 16))


def main() -> None:
    """Write the file from the two sources."""
    unihan, dictionaries = map(Path, sys.argv[1:])
    pairs = list(unihan_pairs(unihan.read_text(encoding="utf-8")))
    for table in OPENCC:
        pairs += opencc_pairs((dictionaries / f"{table}.txt").read_text(encoding="utf-8"), table)
    families = joined(pairs, read_class_map(KUZUSHIJI_KANJI).characters)
    FILE.write_text(HEAD + "".join(f"{each.characters}\t{' '.join(each.tables)}\n" for each in families))


if __name__ == "__main__":
    main()
