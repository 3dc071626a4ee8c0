from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kkanji.classes import ClassMap, parse_class_map, parse_label, read_class_map
from shards import InputError

WRITABLE = st.characters(min_codepoint=0x3000, max_codepoint=0x2FFFF, exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp"))
CODE_POINTS = st.builds(ord, WRITABLE)


@given(st.sets(CODE_POINTS, min_size=1, max_size=50))
def test_index_json_round_trip(points: set[int]) -> None:
    made = ClassMap.of(points)
    assert parse_class_map(made.to_json(), "index.json") == made
    assert list(made.code_points) == sorted(points)
    assert [made.ids[point] for point in made.code_points] == list(range(len(points)))


def test_form_of_the_original_project() -> None:
    assert '"あ (U+3042)": 0' in ClassMap.of([0x3042, 0x4E00]).to_json()


def test_compatibility_ideographs_stay_distinct() -> None:
    """U+FA38 is U+5668 under Unicode NFC; here they are two classes, through JSON too."""
    made = ClassMap.of([0xFA38, 0x5668])
    assert len(parse_class_map(made.to_json(), "index.json")) == 2


def test_a_class_without_a_character_has_a_name_which_stays_with_it() -> None:
    names = {0xE000: "ligature よ and り", 0xE001: "stamp (red)"}
    made = ClassMap.of([0x4E00, *names], names)
    assert made.characters == ("一", *names.values()) and made.labels == ("U+4E00", "U+E000", "U+E001")
    assert parse_class_map(made.to_json(), "index.json") == made
    assert ClassMap.of([0x4E01]).with_others(made).characters == ("丁", *made.characters)
    renamed = ClassMap.of(made.code_points, {0xE000: "other"})
    assert renamed.identity() != made.identity()
    for name in ("", " ", "a\nb", "a\x1b[2J", "x" * 81):
        with pytest.raises(InputError, match=r"index\.json: not a class map"):
            parse_class_map(ClassMap.of([0xE000], {0xE000: name}).to_json(), "index.json")


@pytest.mark.parametrize(("text", "point"), [("U+4E00", 0x4E00), ("U+241C6", 0x241C6)])
def test_labels(text: str, point: int) -> None:
    assert parse_label(text, "folder") == point


@pytest.mark.parametrize("text", ["U+ZZZZ", "U+4e00", "4E00", "U+4E0", "U+4E0000", "", "U+4E00\n"])
def test_bad_labels_are_named(text: str) -> None:
    with pytest.raises(InputError, match=r"kanji\.tar: found .* expected U"):
        parse_label(text, "kanji.tar")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"codepoint_to_id": {"x": 0}}',
        '{"codepoint_to_id": {"一 (U+4E00)": 1}}',
        '{"codepoint_to_id": {"一 (U+4E01)": 0}}',
        '{"codepoint_to_id": 3}',
        b"\xff",
    ],
)
def test_bad_class_maps_are_refused(text: str | bytes) -> None:
    with pytest.raises(InputError, match=r"index\.json"):
        parse_class_map(text, "index.json")


def test_missing_class_map(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"index\.json: No such file"):
        read_class_map(tmp_path)


def test_a_code_point_twice_is_refused() -> None:
    with pytest.raises(InputError, match="occurs twice"):
        ClassMap((0x4E00, 0x4E00))
