"""Started on each of two ranks by test_predict_split: evaluate sets as one of several processes, save the results."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from kkanji.data.training_set import open_set
from kkanji.evaluation import predict_split as module
from kkanji.evaluation.calibration import TemperatureScan
from kkanji.evaluation.predict_split import predict_split, unaugmented_feed
from kkanji.models import create_model
from kkanji.neighbours.index import make_index
from kkanji.neighbours.vote import Mix, WithNeighbours

MODEL = "kkanji_efficientnet_fused_s"
BATCH = 4
WITH_NEIGHBOURS = 9


def make_model(classes: int) -> nn.Module:
    """Equal weights wherever it is made. A model of nine classes has neighbours."""
    torch.manual_seed(0)
    model = create_model(MODEL, classes)
    if classes != WITH_NEIGHBOURS:
        return model
    features, labels = torch.rand(40, int(model.get_parameter("classifier.weight").shape[1])), torch.arange(40) % 9
    return WithNeighbours(model, make_index(features, labels, classes, parts=32, most=50), Mix(), 0.7)


def main(output: Path, folders: list[Path]) -> None:
    """For each set: this rank's predictions and temperature."""
    module.BATCHES["cpu"] = BATCH
    accelerator = Accelerator()
    rank = accelerator.process_index
    for folder in folders:
        data = open_set(folder)
        classes = data.manifest.classes
        model = accelerator.prepare(make_model(classes))
        scan = TemperatureScan(accelerator.device)
        predictions = predict_split(
            accelerator, model, unaugmented_feed(data.split("val"), classes), views=5, scan=scan
        )
        predictions.save(output / f"{folder.parent.name}-{rank}.npz")
        (output / f"{folder.parent.name}-{rank}.json").write_text(json.dumps(asdict(scan.fit(accelerator))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
