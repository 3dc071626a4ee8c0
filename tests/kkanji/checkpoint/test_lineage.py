"""When evaluated images count as disjoint from the training images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kkanji import checkpoint
from kkanji.checkpoint import lineage
from kkanji.checkpoint.lineage import (
    LineageRecord,
    independence,
    originals_behind,
    proven_disjoint,
    read_lineage,
    record,
)
from kkanji.data.training_set import open_set
from shards import InputError, Lineage, ShardSet
from shards.cache.cache import Cache
from tools.commands.convert import convert

DATA = {"lineage": "known", "identity": "a"}
VALIDATED = {"split": "val", "lineage": "known", "data": "a"}


@pytest.mark.parametrize(
    ("data", "evaluation", "verdict"),
    [
        ({}, {}, "proven"),
        ({}, {"split": "train"}, "trained on"),
        ({}, {"data": "b"}, "unknown"),
        ({}, {"split": "train", "data": "b"}, "unknown"),
        ({}, {"split": "train", "data": "b", "disjoint": True}, "proven"),  # the ids prove it
        ({}, {"split": "train", "data": "b", "overlapping": True}, "trained on"),
        ({}, {"data": "b", "disjoint": True}, "proven"),
        ({}, {"data": "b", "apart": True}, "proven"),  # the field's former name
        ({"lineage": "unknown: it began with weights"}, {}, "unknown"),
        ({"lineage": "unknown: it began with weights"}, {"disjoint": True}, "proven"),
        ({"lineage": "unknown", "lineage_reason": "it learned from runs/x"}, {}, "unknown"),
        ({}, {"lineage": "unknown"}, "unknown"),
        ({}, {"lineage": "unknown", "disjoint": True}, "unknown"),
    ],
)
def test_the_verdict(data: dict[str, str], evaluation: dict[str, Any], verdict: str) -> None:
    assert independence(DATA | data, VALIDATED | evaluation) == verdict


@pytest.mark.parametrize(
    ("saved", "found"),
    [
        ({"lineage": "known"}, LineageRecord(lineage=Lineage.KNOWN)),
        ({"lineage": "unknown"}, LineageRecord(lineage=Lineage.UNKNOWN)),
        ({"lineage": "unknown: x: y"}, LineageRecord(lineage=Lineage.UNKNOWN, reason="x: y")),  # before 2026-11-30
        ({"lineage": "perhaps"}, LineageRecord(lineage=Lineage.UNKNOWN)),
        ({}, LineageRecord(lineage=Lineage.UNKNOWN)),
    ],
)
def test_a_lineage_is_read_in_the_form_of_any_version(saved: dict[str, str], found: LineageRecord) -> None:
    assert read_lineage(saved) == found
    assert read_lineage(found.to_dict()) == found


def checkpoint_of(folder: Path, tiny_set: Path, *, version: str = "", **config: str | list[str]) -> Path:
    """A checkpoint trained on the tiny set, or on another version of it, by what its state says."""
    folder.mkdir(exist_ok=True)
    identity = version or open_set(tiny_set).manifest.identity()
    state = {"config": {"data": str(tiny_set)} | config, "data": identity}
    (folder / checkpoint.STATE).write_text(json.dumps(state))
    return folder


def test_originals_are_compared_with_all_training_sets_behind_the_weights(tiny_set: Path, tmp_path: Path) -> None:
    data, earlier = open_set(tiny_set), tmp_path / "earlier"
    trained, validated = (data.split(name).sources() for name in ("train", "val"))
    alone = checkpoint_of(tmp_path / "alone", tiny_set)
    assert proven_disjoint(alone, validated)
    assert not proven_disjoint(alone, np.concatenate([validated, trained[-1:]]))
    for option in ({"init": str(earlier)}, {"teachers": [str(earlier)]}, {"averaged": [str(earlier)]}):
        begun = checkpoint_of(tmp_path / "begun", tiny_set, **option)
        checkpoint_of(earlier, tiny_set)
        assert proven_disjoint(begun, validated)
        checkpoint_of(earlier, tiny_set, version="another")
        assert not proven_disjoint(begun, validated)


def test_weights_with_a_list_of_their_originals_need_no_set(tiny_set: Path, tmp_path: Path) -> None:
    """Theirs alone, and behind a run that begins with them."""
    data = open_set(tiny_set)
    trained, validated = (data.split(name).sources() for name in ("train", "val"))
    exported = checkpoint_of(tmp_path / "exported", tmp_path, version="gone")
    begun = checkpoint_of(tmp_path / "begun", tiny_set, init=str(exported))
    assert not proven_disjoint(exported, validated) and not proven_disjoint(begun, validated)
    (exported / checkpoint.ORIGINALS).write_bytes(checkpoint.originals_bytes(trained))
    assert proven_disjoint(exported, validated) and not proven_disjoint(exported, trained[:1])
    assert proven_disjoint(begun, validated)
    assert record(exported, "any set", Lineage.KNOWN, validated) == {"lineage": "known", "disjoint": True}
    (exported / checkpoint.ORIGINALS).write_bytes(checkpoint.originals_bytes(np.append(trained, validated[:1])))
    assert not proven_disjoint(begun, validated)
    assert originals_behind(begun).tolist() == sorted({*trained.tolist(), int(validated[0])})


@pytest.mark.parametrize("content", [b"", b"no array", checkpoint.originals_bytes(np.zeros((2, 2), np.uint64))])
def test_a_list_that_is_none_claims_nothing(content: bytes, tiny_set: Path, tmp_path: Path) -> None:
    exported = checkpoint_of(tmp_path / "exported", tiny_set)
    (exported / checkpoint.ORIGINALS).write_bytes(content)
    with pytest.raises(InputError, match=r"originals\.npy"):
        originals_behind(exported)
    assert not proven_disjoint(exported, open_set(tiny_set).split("val").sources())


def test_a_mean_is_proven_only_if_each_of_its_parts_is(tiny_set: Path, tmp_path: Path) -> None:
    data, other = open_set(tiny_set), tmp_path / "other"
    validated = data.split("val").sources()
    evaluated = (data.manifest.identity(), Lineage.KNOWN, validated)
    first = checkpoint_of(tmp_path / "first", tiny_set)
    assert record(first, *evaluated) == {"lineage": "known", "disjoint": False}  # a split of its own set
    mean = checkpoint_of(tmp_path / "mean", tiny_set, averaged=[str(other)])
    checkpoint_of(other, tiny_set)
    assert independence(DATA, VALIDATED | record(mean, *evaluated)) == "proven"
    checkpoint_of(other, tiny_set, version="another")
    assert independence(DATA, VALIDATED | record(mean, *evaluated)) == "unknown"


def test_a_set_larger_than_the_cache_is_not_fetched_for_its_list(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed, so that the list would cost all of its images."""
    convert(str(tiny_set), output=tmp_path / "compressed", compression="zstd")
    small = ShardSet(tmp_path / "compressed", cache=Cache(tmp_path / "cache", 1))
    monkeypatch.setattr(lineage, "open_set", lambda _location: small)
    state = checkpoint_of(tmp_path / "alone", tiny_set, version=small.manifest.identity())
    with pytest.raises(InputError, match="larger than the cache"):
        originals_behind(state)


def test_without_the_sets_nothing_is_claimed(tiny_set: Path, tmp_path: Path) -> None:
    validated = open_set(tiny_set).split("val").sources()
    silent = checkpoint_of(tmp_path / "silent", tiny_set)
    (silent / checkpoint.STATE).write_text(json.dumps({"config": {}}))
    assert not proven_disjoint(silent, validated)
    assert not proven_disjoint(checkpoint_of(tmp_path / "begun", tiny_set, init=str(tmp_path / "gone")), validated)
    assert not proven_disjoint(checkpoint_of(tmp_path / "moved", tmp_path / "gone", version="any"), validated)
