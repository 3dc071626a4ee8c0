"""Knowledge distillation: besides the labels, a run learns what networks trained before make of the same images.

Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531. What several networks
agree on, less the error of each, is taught to one that costs no more than any of them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kkanji import checkpoint
from kkanji.checkpoint.load import load_trained
from kkanji.classes import ClassMap, label
from shards import InputError


class Teachers:
    """Networks that do not change, and the numbers that they give the run's characters."""

    def __init__(self, paths: Sequence[Path], classes: ClassMap, trained: Tensor, device: torch.device) -> None:
        """paths: checkpoints or exported folders. trained: images that each character is trained on [C].

        Raises InputError as `checkpoint.check`, or if one does not know a character that there are images of.
        """
        self._networks = [load_trained(path).eval().requires_grad_(False).to(device) for path in paths]
        for network in self._networks:
            network.to(memory_format=torch.channels_last)
        self._columns = [_columns(path, classes, trained).to(device) for path in paths]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """The mean of what they make of normalised images [B, 1, 64, 64]: float32 [B, C], each row's sum 1."""
        stated = (
            network(images).float()[:, columns.clamp(min=0)].masked_fill(columns < 0, -torch.inf).softmax(dim=1)
            for network, columns in zip(self._networks, self._columns, strict=True)
        )
        return torch.stack(list(stated)).mean(dim=0)


def _columns(path: Path, classes: ClassMap, trained: Tensor) -> Tensor:
    """For each of the run's classes the teacher's, or -1."""
    known = checkpoint.read_classes(path).ids
    columns = torch.tensor([known.get(point, -1) for point in classes.code_points])
    missing = [label(classes.code_points[number]) for number in torch.nonzero((columns < 0) & (trained > 0))[:, 0]]
    if missing:
        some = f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
        raise InputError(f"--teachers {path}: does not know {len(missing)} of the set's characters: {some}")
    return columns
