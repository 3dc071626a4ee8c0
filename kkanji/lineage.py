"""Whether evaluated images are apart from those a model was trained on: every figure needs that beside it."""

from collections.abc import Mapping
from typing import Any, Literal

Independence = Literal["proven", "unknown", "trained on"]


def independence(data: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Independence:
    """Judge by what a run recorded of its set (`data` of config.json) and by its evaluation.json.

    Proven: another split of the very set that was trained on, whose images all have their original on record; a set is
    packed, and verified, only if its splits share no original.
    """
    if evaluation.get("split") == "train":
        return "trained on"
    known = data.get("lineage") == "known" and evaluation.get("lineage") == "known"
    return "proven" if known and evaluation.get("data") == data.get("identity") else "unknown"
