"""From a folder of one's own characters to a model that begins with weights at hand: the three commands of README."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from kkanji import checkpoint
from kkanji.checkpoint.load import read_weights
from kkanji.classes import ClassMap
from kkanji.models import create_model
from kkanji.training.optimizers import create_optimizer
from tests.launch.commands import ROOT, Result, start
from tests.test_docs import commands

MODEL = "kkanji_efficientnet_fused_s"
SAMPLE = ROOT / "sample" / "kkanji2"
CLASSES = {"U+4E09": "三", "U+4E0A": "U+4E0A", "U+4E0B": "shita"}


@pytest.fixture
def characters(tmp_path: Path) -> Path:
    """Photographs, as it were: JPEG files of brown ink on paper with a margin, in folders named in three ways."""
    root = tmp_path / "characters"
    for source, name in CLASSES.items():
        (root / name).mkdir(parents=True)
        for number, path in enumerate(sorted((SAMPLE / source).iterdir())[:8]):
            page = Image.new("L", (120, 150))
            page.paste(Image.open(path), (28, 40))
            photo = ImageOps.colorize(ImageOps.invert(page), "#402818", "#e0cfa8")
            photo.save(root / name / f"photo {number}.jpg", quality=90)
    (tmp_path / "classes.csv").write_text("name,class\nshita,mark of the house\n", encoding="utf-8")
    return root


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Weights to begin with, of other classes but one."""
    model = create_model(MODEL, 3)
    return checkpoint.save(
        tmp_path / "trained",
        1,
        model=model,
        optimizer=create_optimizer(model, "sgd", lr=0.1, weight_decay=0.0),
        state={"config": {"model": MODEL}},
        classes=ClassMap.of(ord(character) for character in "一三十"),
        best=True,
    )


def kkanji(line: str) -> Result:
    result = start("-m", "launch", *shlex.split(line))
    assert result.returncode == 0, result.stderr
    return result


def test_three_commands_from_a_folder_to_a_model(characters: Path, trained: Path, tmp_path: Path) -> None:
    mine, shards, run = tmp_path / "mine", tmp_path / "shards", tmp_path / "run"
    said = kkanji(f"combine '{characters}' --output {mine} --classes {tmp_path / 'classes.csv'} --val 0.25").stdout
    assert "24 originals of 3 classes" in said and "24 dark ink on light paper, inverted" in said
    kkanji(f"pack {mine} --output {shards} --block-size 125")
    kkanji(f"train --data {shards} --output {run} --model {MODEL} --epochs 1 --batch-size 6 --init {trained}")
    best = run / "checkpoints" / "best"
    assert checkpoint.read_classes(best).characters == ("三", "上", "mark of the house")
    kkanji(f"evaluate --checkpoint {best} --data {shards}")
    assert "mark of the house" in (run / "report.html").read_text(encoding="utf-8")
    row = torch.from_numpy(np.array([0]))
    before, after = (read_weights(path)["conv_stem.weight"][row] for path in (trained, best))
    assert torch.cosine_similarity(before.flatten(), after.flatten(), dim=0) > 0.9  # it began there
    photo = characters / "shita" / "photo 0.jpg"
    assert "photo 0.jpg" in kkanji(f"predict '{photo}' --checkpoint {best} --top 1").stdout


def test_readme_has_these_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text[text.index("Three commands") :].split("```")[1]
    found = list(commands(f"```{block}```"))
    assert [command for command, _ in found] == ["combine", "pack", "train"]
    assert "val" in found[0][1] and "init" in found[2][1]
