"""JSON files: bounded, an object on top, fields of the expected types."""

import os
from pathlib import Path
from typing import Any

import pytest

from shards import InputError
from shards.json_reading import choice, count, field, number, parse_json, read_json


def test_json_larger_than_is_believed_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"x\.json: 1,099,511,627,776 bytes, expected at most 67,108,864"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ("[]", "found list, expected a JSON object"), ("[" * 100_000, "not JSON")],
    ids=["cut", "list", "deep"],
)
def test_bad_json_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=rf"x\.json: {message}"):
        read_json(tmp_path / "x.json")


def test_a_file_that_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.json: No such file or directory; run it again$"):
        read_json(tmp_path / "x.json", remedy="run it again")


def test_an_object_is_read_from_text_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes('{"字": 1}'.encode())
    assert read_json(tmp_path / "x.json") == parse_json('{"字": 1}') == {"字": 1}


@pytest.mark.parametrize("text", [b'{"a": 1', b"\xff", b'{"a": ' + b"9" * 5000 + b"}"], ids=["cut", "UTF-8", "digits"])
def test_what_does_not_parse_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        parse_json(text)


RECORD = {"text": "a", "whole": 3, "part": 0.5, "truth": True, "list": [1]}


def test_fields_of_the_right_type_are_returned() -> None:
    assert field(RECORD, "text", str) == "a"
    assert field(RECORD, "whole", int) == 3
    assert number(RECORD, "whole") == 3.0
    assert number(RECORD, "part") == 0.5
    assert choice(RECORD, "text", ("a", "b")) == "a"
    assert count(0, "whole") == 0


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (int, "truth", "truth is True, expected int"),
        (int, "part", r"part is 0\.5, expected int"),
        (str, "list", r"list is \[1\], expected str"),
        (str, "absent", "no field 'absent'"),
    ],
)
def test_a_field_of_another_type_is_named(kind: type[Any], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        field(RECORD, name, kind)


@pytest.mark.parametrize("name", ["truth", "text"])
def test_neither_truth_nor_text_is_a_number(name: str) -> None:
    with pytest.raises(ValueError, match="expected a number"):
        number(RECORD, name)


def test_a_whole_number_beyond_all_floats_is_named() -> None:
    with pytest.raises(ValueError, match=r"top1 is 1000+, too large for a number"):
        number({"top1": 10**400}, "top1")


@pytest.mark.parametrize("value", [-1, True, 1.0, 1 << 48, None])
def test_what_is_no_count(value: object) -> None:
    with pytest.raises(ValueError, match=r"bytes is .*, expected a whole number from 0 on"):
        count(value, "bytes")


def test_a_value_outside_the_choices_is_named() -> None:
    with pytest.raises(ValueError, match="text 'a', expected 'b' or 'c'"):
        choice(RECORD, "text", ("b", "c"))
    with pytest.raises(ValueError, match=r"list \[1\], expected 'b'"):
        choice(RECORD, "list", ("b",))


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(ValueError) as caught:
        field({"text": "x" * 1000}, "text", int)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device"])
def test_a_pipe_or_a_device_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x.json"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "link to a device":
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="a pipe or a device, expected a regular file"):
        read_json(path)


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\uDFFF": 1}', '{"a": [["x\\udc00y"]]}'])
def test_half_a_surrogate_pair_is_refused_and_a_whole_one_read(text: str) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        parse_json(text)
    assert parse_json('{"a": "\\ud842\\udfb7 \\ud55c"}') == {"a": "\U00020bb7 \ud55c"}
