"""Originals on disk: what earlier releases wrote is read, and what was changed by hand is not."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.errors import InputError
from tools.ingest.originals import NO_SPLIT, check_images, read_originals, read_rows, read_split, write_originals

COUNTS = {"U+4E00": 20, "U+4E01": 9}


def rewrite(folder: Path, text: str, **changed: object) -> None:
    """Another originals.csv, with its checksum."""
    (folder / "originals.csv").write_text(text, encoding="utf-8")
    facts = json.loads((folder / "originals.json").read_text())
    facts |= {"originals_sha256": hashlib.sha256(text.encode()).hexdigest(), **changed}
    (folder / "originals.json").write_text(json.dumps(facts))


def test_version_1_is_read_as_free_and_known(originals_folder: Callable[..., Path]) -> None:
    folder = originals_folder(COUNTS)
    new = read_originals(folder)
    lines = (folder / "originals.csv").read_text().splitlines()
    rewrite(folder, "".join(",".join(line.split(",")[:4]) + "\n" for line in lines), version=1)
    old = read_originals(folder)
    assert np.array_equal(old.ids, new.ids) and np.array_equal(old.labels, new.labels)
    assert set(old.official) == {NO_SPLIT} and old.lineage == "known" and old.source_names == new.source_names


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        (",known", ",assumed", "'assumed' is no id, no split, no lineage, or no class of index.json; move "),
        (",,known", ",exam,known", "'exam' is no id, no split, no lineage"),
        ("U+4E01", "U+4E02", "is no id, no split, no lineage"),
        ("id,label", "number,label", r"columns \['number', 'label'"),
        (",known", ",known,more", "8 values in line 2, expected 7"),
        ("originals", '"', "combine again|no CSV text"),
    ],
)
def test_tables_that_say_something_else_are_refused(
    originals_folder: Callable[..., Path], found: str, instead: str, message: str
) -> None:
    folder = originals_folder(COUNTS, name="originals")
    text = (folder / "originals.csv").read_text()
    assert found in text
    rewrite(folder, text.replace(found, instead))
    with pytest.raises(InputError, match=rf"originals\.csv: .*({message})"):
        read_originals(folder)


def test_originals_are_written_in_the_order_of_code_points_and_ids(
    originals_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Whatever the order they are given in, and with the columns that version 1 lacks."""
    folder = originals_folder(COUNTS)
    expected = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".npy", ".csv")}
    lines = (folder / "originals.csv").read_text().splitlines()
    rewrite(folder, "".join(",".join(line.split(",")[:4]) + "\n" for line in lines), version=1)
    old = read_originals(folder)
    order = np.random.default_rng(0).permutation(len(old.ids))
    rows = read_rows(old)
    (tmp_path / "again").mkdir()
    write_originals(
        tmp_path / "again",
        [rows[number] for number in order],
        lambda numbers: old.images[order[numbers]],
        classes=old.classes,
        dropped=(folder / "dropped.csv").read_text(),
        facts={"name": "again", "licence": "unknown", "counts": {"read": 9, "kept": 9}},
        sources=[],
    )
    for name in ("images.npy", "originals.csv", "dropped.csv"):
        assert (tmp_path / "again" / name).read_bytes() == expected[name]
    check_images(read_originals(tmp_path / "again"))


def test_another_version_is_refused(originals_folder: Callable[..., Path]) -> None:
    folder = originals_folder(COUNTS)
    rewrite(folder, (folder / "originals.csv").read_text(), version=3)
    with pytest.raises(InputError, match=r"found \('kkanji-originals', 3\), expected \('kkanji-originals', 2\)"):
        read_originals(folder)


FACTS = ("name", "licence", "counts", "sources", "images_sha256", "originals_sha256")
WRONG = (5, ["x"], {"a": "b"}, None)


@pytest.mark.parametrize("name", FACTS)
def test_facts_that_are_missing_or_of_another_kind_are_refused(
    originals_folder: Callable[..., Path], name: str
) -> None:
    folder = originals_folder(COUNTS)
    facts = json.loads((folder / "originals.json").read_text())
    for value in ("absent", *WRONG):
        changed = {key: each for key, each in facts.items() if key != name} | (
            {} if value == "absent" else {name: value}
        )
        (folder / "originals.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"originals\.json: .*move .* elsewhere and combine again"):
            read_originals(folder)


@pytest.mark.parametrize("name", ["rule", "protocol", "split_sha256"])
def test_facts_of_a_split_are_needed(originals_folder: Callable[..., Path], name: str) -> None:
    folder = originals_folder(COUNTS)
    facts = json.loads((folder / "split.json").read_text())
    del facts[name]
    (folder / "split.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=rf"split\.json: no field '{name}'; run `kkanji split {folder} --overwrite`"):
        read_split(read_originals(folder))
