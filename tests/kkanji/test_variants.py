"""Families of characters: what joins them, and what numbers they get."""

from docs.variants import joined, opencc_pairs, unihan_pairs
from kkanji.classes import read_class_map
from kkanji.pretrained import KUZUSHIJI_KANJI
from kkanji.variants import Family, families, family_numbers

UNIHAN = """\
# a comment
U+4E00\tkSemanticVariant\tU+58F1<kMatthews,kMeyerWempe U+5F0C
U+4E00\tkSpoofingVariant\tU+30FC
U+58F1\tkZVariant\tU+58F9
"""


def test_tables_are_joined_over_characters_that_no_class_has() -> None:
    pairs = [*unihan_pairs(UNIHAN), *opencc_pairs("国\t國 囯\n一丝\t一絲\n天\t天\n", "STCharacters")]
    assert joined(pairs, "一壹天國囯ー") == [
        Family(characters="一壹", tables=("kSemanticVariant", "kZVariant")),
        Family(characters="囯國", tables=("STCharacters",)),
    ]


def test_each_character_is_in_one_family_and_a_class_of_the_data() -> None:
    forms = [form for family in families() for form in family.characters]
    assert len(forms) == len(set(forms)) == 776 and len(families()) == 368
    assert set(forms) <= set(read_class_map(KUZUSHIJI_KANJI).characters)
    assert all(family.tables for family in families())


def test_forms_have_the_number_of_the_first_of_them() -> None:
    assert family_numbers("天来国來あ國来"[:6]).tolist() == [0, 1, 2, 1, 4, 2]
