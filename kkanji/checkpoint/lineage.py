"""Whether evaluated images are disjoint from those that a model was trained on: every figure needs that beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kkanji.checkpoint import files as checkpoint
from kkanji.config import read_options
from kkanji.data.training_set import fits, open_set
from shards import InputError, Lineage, Manifest

Independence = Literal["proven", "unknown", "trained on"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LineageRecord:
    """The lineage of training or evaluation images, as JSON files of a run record it."""

    lineage: Lineage
    reason: str = ""
    """Why it is unknown, where that is not the set's own doing."""

    def to_dict(self) -> dict[str, str]:
        """Fields for config.json and evaluation.json."""
        return {"lineage": str(self.lineage)} | ({"lineage_reason": self.reason} if self.reason else {})


def read_lineage(record: Mapping[str, Any]) -> LineageRecord:
    """The lineage in `data` of config.json or in evaluation.json. Earlier versions wrote `unknown: REASON`."""
    value, _, reason = str(record.get("lineage")).partition(": ")
    if value != Lineage.KNOWN:
        return LineageRecord(lineage=Lineage.UNKNOWN, reason=reason or record.get("lineage_reason", ""))
    return LineageRecord(lineage=Lineage.KNOWN)


def independence(data: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Independence:
    """Judge by what a run recorded of its set (`data` of config.json) and by its evaluation.json.

    Proven: another split of the very set that was trained on, whose images all have their original on record (a set is
    packed, and verified, only if its splits share no original); or images compared with all that were trained on.
    """
    if evaluation.get("split") == "train":
        return "trained on"
    trained, evaluated = read_lineage(data).lineage, read_lineage(evaluation).lineage
    same = trained == Lineage.KNOWN and evaluation.get("data") == data.get("identity")
    return "proven" if evaluated == Lineage.KNOWN and (same or evaluation.get("apart")) else "unknown"


def run_lineage(config: Mapping[str, Any], manifest: Manifest) -> LineageRecord:
    """The lineage of everything that a run of these options on this set learns from.

    Unknown if it begins with, or learns from, weights that may have been trained on another set.
    """
    for source in learned_from(config):
        state = checkpoint.read_state(source)
        options = read_options(state["config"])
        # An exported model records neither where its data was nor what it began with.
        same = "data" in options and state.get("data") == manifest.identity()
        if not same or learned_from(options):
            reason = f"it learned from {source}, which other sets may have trained"
            return LineageRecord(lineage=Lineage.UNKNOWN, reason=reason)
    return LineageRecord(lineage=manifest.lineage)


def record(path: Path, data: str, lineage: Lineage, sources: NDArray[np.uint64]) -> dict[str, Any]:
    """What an evaluation of a checkpoint records for `independence`.

    data, lineage, sources: the evaluated set's identity and lineage, and the originals of the images.
    """
    state = checkpoint.read_state(path)
    options = read_options(state["config"])
    own = data == state.get("data") and not learned_from(options) and not checkpoint.has_originals(path)
    disjoint = not own and proven_disjoint(path, sources)
    found = LineageRecord(lineage=lineage)
    if options.get("averaged") and not disjoint:
        # The mean of several runs' weights: that one of them kept these images back proves nothing of the others.
        reason = "averaged with weights that are not proven to be trained without these images"
        found = LineageRecord(lineage=Lineage.UNKNOWN, reason=reason)
    return found.to_dict() | {"apart": disjoint}


def proven_disjoint(path: Path, sources: NDArray[np.uint64]) -> bool:
    """Whether a checkpoint's weights are known to have seen none of these originals."""
    try:
        return not np.isin(sources, originals_behind(path)).any()
    except InputError:
        return False


def originals_behind(path: Path) -> NDArray[np.uint64]:
    """All originals that a checkpoint's weights learned from: in its own training, and in that of the weights which it
    began with, was taught by or was averaged with. Sorted [n].

    Raises InputError where that is not known: no list with the weights, and a set of theirs is not at hand any more, is
    of unknown lineage, or is streamed and larger than the cache: to list it, all images would have to be fetched.
    """
    if checkpoint.has_originals(path):
        return checkpoint.read_originals(path)
    state = checkpoint.read_state(path)
    config = read_options(state["config"])
    if "data" not in config:
        raise InputError(f"{path}: does not say which originals it was trained on")
    data = open_set(config["data"])
    if data.manifest.identity() != state.get("data"):
        raise InputError(f"{config['data']}: another set than {path} was trained on")
    if data.manifest.lineage != Lineage.KNOWN:
        raise InputError(f"{config['data']}: of lineage {data.manifest.lineage}, expected known")
    if not fits(data):
        raise InputError(f"{config['data']}: larger than the cache, expected one that fits, for its originals")
    own = np.unique(data.split("train", check=True).sources())
    return reduce(np.union1d, map(originals_behind, learned_from(config)), own)


def learned_from(config: Mapping[str, Any]) -> list[Path]:
    """The checkpoints that a run began with, learned from or was averaged with. config: as `read_options` takes it."""
    options = read_options(config)
    others = (options.get("init"), *options.get("teachers", ()), *options.get("averaged", ()))
    return [Path(path) for path in others if path]
