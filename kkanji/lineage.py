"""Whether evaluated images are apart from those a model was trained on: every figure needs that beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kkanji import checkpoint
from kkanji.data import open_set
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
    return "proven" if known and (same or evaluation.get("apart")) else "unknown"


def trained_apart(state: Mapping[str, Any], sources: NDArray[np.uint64]) -> bool:
    """Whether a checkpoint's weights saw none of these originals: neither in its own training nor in those it began
    with or was taught by. False as well where a set of theirs is not at hand any more, or is of unknown lineage."""
    try:
        return _apart(state, sources)
    except (InputError, KeyError):  # no such set or checkpoint; an exported one does not say what it saw
        return False


def _apart(state: Mapping[str, Any], sources: NDArray[np.uint64]) -> bool:
    config = state["config"]
    data = open_set(config["data"])
    if data.manifest.identity() != state["data"] or data.manifest.lineage != "known":
        return False
    if np.isin(sources, data.split("train").sources()).any():
        return False
    return all(_apart(checkpoint.read_state(path), sources) for path in learned_from(config))


def learned_from(config: Mapping[str, Any]) -> list[Path]:
    """The checkpoints that a run of these options began with or was taught by."""
    return [Path(path) for path in (config.get("init"), *config.get("teachers", ())) if path]
