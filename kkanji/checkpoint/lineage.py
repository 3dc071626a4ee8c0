"""Whether a model was trained on any of the images that it is evaluated on.

An accuracy means something only if the evaluated images are disjoint from the training images. Images are compared by
the original that each was made from, as augmented copies of one original differ in every pixel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kkanji import checkpoint
from kkanji.config import read_options
from kkanji.data.training_set import fits, open_set
from kkanji.timm_models import has_weights
from shards import InputError, Lineage, Manifest, ShardSet, read_manifest

MOST_GENERATIONS = 20  # of checkpoints that learned from one another
REMOTE = "://"
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
    """Whether the evaluated images are proven to be disjoint from the training images.

    data: what the run recorded about its training set, `data` in config.json. evaluation: its evaluation.json.

    There are two proofs. Either the evaluated split belongs to the training set itself and the set's lineage is known:
    a set is packed, and passes verification, only if its splits share no original. Or the evaluation compared its
    originals with all originals behind the weights and found none in common.
    """
    own_set = evaluation.get("data") == data.get("identity")
    if evaluation.get("split") == "train" and (own_set or evaluation.get("overlapping")):
        return "trained on"
    trained, evaluated = read_lineage(data).lineage, read_lineage(evaluation).lineage
    if evaluated != Lineage.KNOWN:
        return "unknown"
    same_set = trained == Lineage.KNOWN and own_set
    return "proven" if same_set or compared_disjoint(evaluation) else "unknown"


def compared_disjoint(evaluation: Mapping[str, Any]) -> bool:
    """Whether an evaluation.json says that the originals were compared and none was in common."""
    return bool(evaluation.get("disjoint", evaluation.get("apart")))  # "apart" until November 2026


def run_lineage(config: Mapping[str, Any], manifest: Manifest) -> LineageRecord:
    """The lineage of everything that a run with these options on this set learns from.

    Unknown if it is initialized from, or distilled from, weights that may have been trained on another set.
    """
    network = read_options(config).get("model", "")
    if has_weights(network):
        reason = f"it began with the weights {network}, whose training images are not known here"
        return LineageRecord(lineage=Lineage.UNKNOWN, reason=reason)
    for source in learned_from(config):
        state = checkpoint.read_state(source)
        options = read_options(state["config"])
        # An exported model records neither where its data was nor what it was initialized from.
        same = "data" in options and state.get("data") == manifest.identity()
        if not same or learned_from(options):
            reason = f"it learned from {source}, which other sets may have trained"
            return LineageRecord(lineage=Lineage.UNKNOWN, reason=reason)
    return LineageRecord(lineage=manifest.lineage)


def record(path: Path, data: str, lineage: Lineage, sources: NDArray[np.uint64]) -> dict[str, Any]:
    """The entries of evaluation.json that `independence` needs.

    path: the evaluated checkpoint. data, lineage: identity and lineage of the evaluated set. sources: ids of the
    originals behind the evaluated images, [n].
    """
    state = checkpoint.read_state(path)
    options = read_options(state["config"])
    # Splits of the run's own set need no comparison: `independence` sees from the identity that they are disjoint.
    own_set = data == state.get("data") and not learned_from(options) and not checkpoint.has_originals(path)
    overlapping = None if own_set else overlaps(path, sources)
    disjoint = overlapping is False
    found = LineageRecord(lineage=lineage)
    # The identity of one run's set proves nothing about the other runs that the weights are averaged from.
    if options.get("averaged") and not disjoint:
        reason = "averaged with weights that are not proven to be trained without these images"
        found = LineageRecord(lineage=Lineage.UNKNOWN, reason=reason)
    return found.to_dict() | {"disjoint": disjoint} | ({"overlapping": True} if overlapping else {})


def proven_disjoint(path: Path, sources: NDArray[np.uint64]) -> bool:
    """Whether a checkpoint's weights are known not to have been trained on any of these originals."""
    return overlaps(path, sources) is False


def overlaps(path: Path, sources: NDArray[np.uint64]) -> bool | None:
    """Whether a checkpoint's weights were trained on any of these originals; None if that is not known."""
    try:
        return bool(np.isin(sources, originals_behind(path)).any())
    except InputError:
        return None


def originals_behind(path: Path) -> NDArray[np.uint64]:
    """Ids of all originals behind a checkpoint's weights, sorted [n].

    These are the originals of its own training set and, recursively, those of the checkpoints that it was initialised
    from, distilled from or averaged with.

    Raises InputError if they are not known: the checkpoint lists none, and one of the training sets is gone, has
    changed, is of unknown lineage, is not on this machine, or is compressed and larger than the cache.
    """
    return _originals_behind(path, frozenset())


def _originals_behind(path: Path, above: frozenset[Path]) -> NDArray[np.uint64]:
    """above: the checkpoints that led to this one."""
    if path.resolve() in above or len(above) > MOST_GENERATIONS:
        raise InputError(f"{path}: names itself among the checkpoints that it learned from")
    if checkpoint.has_originals(path):
        return checkpoint.read_originals(path)
    state = checkpoint.read_state(path)
    config = read_options(state.get("config", {}))
    if "data" not in config:
        raise InputError(f"{path}: does not list the originals that it was trained on")
    if has_weights(config.get("model", "")):
        raise InputError(f"{path}: began with the weights {config['model']}, whose training images are not known here")
    data = _open_here(config["data"])
    if data.manifest.identity() != state.get("data"):
        raise InputError(f"{config['data']}: not the set that {path} was trained on")
    if data.manifest.lineage != Lineage.KNOWN:
        raise InputError(f"{config['data']}: lineage {data.manifest.lineage}; expected known")
    if not fits(data):
        raise InputError(f"{config['data']}: larger than the cache; expected a set that fits, to list its originals")
    own = np.unique(data.split("train", check=True).sources())
    behind = (_originals_behind(each, above | {path.resolve()}) for each in learned_from(config))
    return reduce(np.union1d, behind, own)


def _open_here(location: str) -> ShardSet:
    """A set on this machine. Raises InputError for any other.

    A model folder may come from anybody: no address in it is called, least of all with this user's keys.
    """
    if REMOTE in location.removeprefix("file://"):
        raise InputError(f"{location}: not on this machine; an address that a model folder names is not called")
    manifest = read_manifest(Path(location.removeprefix("file://")))
    if REMOTE in manifest.base.removeprefix("file://"):
        raise InputError(f"{location}: its tars are not on this machine: {manifest.base}")
    return open_set(location)


def learned_from(config: Mapping[str, Any]) -> list[Path]:
    """The checkpoints that a run was initialized from, distilled from or averaged with. config: as saved, or flat."""
    options = read_options(config)
    others = (options.get("init"), *options.get("teachers", ()), *options.get("averaged", ()))
    return [Path(path) for path in others if path]
