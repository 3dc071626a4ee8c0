"""Whether evaluated images are disjoint from those a model was trained on; every figure is shown with the answer."""

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kkanji.checkpoint import files as checkpoint
from kkanji.data.training_set import fits, open_set
from shards import InputError

Independence = Literal["proven", "unknown", "trained on"]


def independence(data: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Independence:
    """Judge by what a run recorded of its set (`data` of config.json) and by its evaluation.json.

    Proven: another split of the very set that was trained on, whose images all have their original on record (a set is
    packed, and verified, only if its splits share no original); or images compared with all that were trained on.
    """
    if evaluation.get("split") == "train":
        return "trained on"
    same = data.get("lineage") == "known" and evaluation.get("data") == data.get("identity")
    known = evaluation.get("lineage") == "known"
    return "proven" if known and (same or compared_disjoint(evaluation)) else "unknown"


def compared_disjoint(evaluation: Mapping[str, Any]) -> bool:
    """Whether an evaluation.json records disjoint images; in earlier files the field is called `apart`."""
    return bool(evaluation.get("disjoint", evaluation.get("apart")))


def record(path: Path, data: str, lineage: str, sources: NDArray[np.uint64]) -> dict[str, Any]:
    """What an evaluation of a checkpoint records for `independence`.

    data, lineage, sources: the evaluated set's identity and lineage, and the images' originals.
    Where weights are a mean, that they were evaluated on the set of one of the runs says nothing of the others.
    """
    state = checkpoint.read_state(path)
    own = data == state.get("data") and not learned_from(state["config"]) and not checkpoint.has_originals(path)
    disjoint = not own and proven_disjoint(path, sources)
    if state["config"].get("averaged") and not disjoint:
        lineage = "unknown: averaged with weights that are not proven to be trained without these images"
    return {"lineage": lineage, "disjoint": disjoint}


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
    config = state["config"]
    if "data" not in config:
        raise InputError(f"{path}: does not say which originals it was trained on")
    data = open_set(config["data"])
    if data.manifest.identity() != state.get("data"):
        raise InputError(f"{config['data']}: another set than {path} was trained on")
    if data.manifest.lineage != "known":
        raise InputError(f"{config['data']}: of lineage {data.manifest.lineage}, expected known")
    if not fits(data):
        raise InputError(f"{config['data']}: larger than the cache, expected one that fits, for its originals")
    own = np.unique(data.split("train", check=True).sources())
    return reduce(np.union1d, map(originals_behind, learned_from(config)), own)


def learned_from(config: Mapping[str, Any]) -> list[Path]:
    """The checkpoints that a run of these options began with or was taught by, or that weights were averaged with."""
    others = (config.get("init"), *config.get("teachers", ()), *config.get("averaged", ()))
    return [Path(path) for path in others if path]
