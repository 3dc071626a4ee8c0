"""Trainings of a tiny network, and how far two of them are from each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from kkanji.config import TrainConfig, train_config
from tests.launch.commands import lines
from tests.launch.ranks.pool import TINY


def config(data: Path, output: Path, **options: Any) -> TrainConfig:
    """Of 108 images in 4 batches of 24 and one of 12, each cut into micro-batches of 4.

    At a learning rate of 1e-2 a rounding error grows 50-fold with each step of this network, also on one rank.
    """
    fixed = {"model": TINY, "epochs": 1, "batch_size": 24, "micro_batch": 4, "log_every": 1, "augment": 0.0}
    return train_config(data=str(data), output=output, **fixed | {"optimizer": "sgd", "lr": 1e-3} | options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """Between two runs: the largest relative differences."""

    losses: float
    """Of a step's loss."""
    validation: float
    """Of the validation loss at the end."""
    weights: float
    """Of the weights, as the norm of the difference by the norm, of the trained and the averaged ones."""
    statistics: float
    """Of the batch statistics, likewise."""

    def __str__(self) -> str:
        return f"{self.losses:.0e} | {self.validation:.0e} | {self.weights:.0e} | {self.statistics:.0e}"


def distance(run: Path, other: Path) -> Distance:
    """Between two runs of as many steps."""
    return Distance(
        losses=_largest(*(_values(each, "step") for each in (run, other))),
        validation=_largest(*(_values(each, "evaluation") for each in (run, other))),
        weights=_between(run, other, statistics=False),
        statistics=_between(run, other, statistics=True),
    )


def _values(run: Path, event: str) -> Tensor:
    return torch.tensor([entry["loss"] for entry in lines(run, event)], dtype=torch.float64)


def _largest(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float(((ours - theirs).abs() / theirs).max())


def _between(run: Path, other: Path, *, statistics: bool) -> float:
    pairs = [(_joined(ours, statistics), _joined(theirs, statistics)) for ours, theirs in _models(run, other)]
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


def _models(*runs: Path) -> list[tuple[dict[str, Tensor], ...]]:
    """Of each model that the runs keep, the last tensors of each run."""
    folders = [run / "checkpoints" / "last" for run in runs]
    names = {path.name for folder in folders for path in folder.glob("*.safetensors")} - {"optimizer.safetensors"}
    return [tuple(safetensors.torch.load_file(folder / name) for folder in folders) for name in sorted(names)]


def _joined(tensors: dict[str, Tensor], statistics: bool) -> Tensor:
    return torch.cat(
        [value.double().flatten() for name, value in tensors.items() if ("running_" in name) == statistics]
    )


def same_to_the_bit(run: Path, other: Path) -> bool:
    """Whether two runs keep the same tensors."""
    return all(
        ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
        for ours, theirs in _models(run, other)
    )
