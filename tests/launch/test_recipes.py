"""Recipes are long: what they name must be there."""

import re
import subprocess
from pathlib import Path

import pytest

from kkanji.config import TrainConfig
from tests.launch.commands import ROOT

RECIPES = sorted((ROOT / "launch" / "recipes").glob("*.sh"))


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_a_script_whose_training_options_exist(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    lines = path.read_text().replace("\\\n", " ").splitlines()
    trained = " ".join(line.split("launch/train.py")[-1] for line in lines if re.match(r"train | +accel", line))
    options = {option.replace("-", "_") for option in re.findall(r"--([a-z][a-z-]*)", trained)}
    assert {"data", "output", "init", "mixup_stages", "full_size_at"} <= options
    assert options <= set(TrainConfig.__dataclass_fields__)
