"""Every way to train, on several ranks and on one: the same run, but for the order of sums.

How equal is measured in docs/large-batch.md; the bounds here are wider, as processors round differently.
"""

from pathlib import Path
from typing import Any, get_args

import pytest

from kkanji.config import OptimizerName
from tests.launch.commands import losses
from tests.launch.ranks.pool import Ranks, train
from tests.launch.ranks.runs import config, distance

# Optimizers that divide by a gradient's size make as much of a rounding error as of a gradient, where there is none.
NORMALISED = {name: {"optimizer": name} for name in get_args(OptimizerName) if name != "sgd"}
LINEAR: dict[str, dict[str, Any]] = {
    "sgd": {},
    "weight decay": {"weight_decay": 0.05},
    "order full": {"order": "full"},
    "order windowed": {"order": "windowed", "window": 2},
    "order windowed in lanes": {"order": "windowed", "window": 2, "lanes": 2},
    "order balanced": {"order": "balanced", "draws_per_class": 18},
    "mixup": {"mixup": 0.4},
    "manifold mixup": {"mixup": 0.4, "mixup_stages": 2},
    "looks of scans": {"appearance": 0.7},
    "label smoothing": {"label_smoothing": 0.1},
    "averaged weights": {"ema_images": 30.0},
    "cosine head": {"head": "cosine"},
    "growing images": {"start_size": 32},
    "cosine schedule": {"schedule": "cosine", "warmup_epochs": 0.5},
}
TABLE = NORMALISED | LINEAR


@pytest.mark.parametrize("name", TABLE)
def test_two_ranks_train_as_one(pool: Ranks, in_shards: Path, tmp_path: Path, name: str) -> None:
    """Four batches in six micro-batches, and a last one in three: one rank has one of them, the other two."""
    one, two = (config(in_shards, tmp_path / ranks, **TABLE[name]) for ranks in ("one", "two"))
    alone = pool.begin(train, one, first=2)
    pool.do(train, two, ranks=2)
    alone()
    found = distance(tmp_path / "two", tmp_path / "one")
    print(f"{name} | {found}")  # noqa: T201  (rows for docs/large-batch.md: pytest -s)
    assert len(losses(tmp_path / "two")) == 5
    assert found.losses < 1e-4
    assert found.validation < 1e-3
    assert max(found.weights, found.statistics) < (1e-2 if name in NORMALISED else 1e-4)
