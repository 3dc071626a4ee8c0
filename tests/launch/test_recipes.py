"""Recipes are long: what they name must be there."""

import re
import subprocess
from pathlib import Path

import pytest

from kkanji.config import GROUP_OF
from tests.launch.commands import ROOT

FOLDER = ROOT / "launch" / "recipes"
STEPS = FOLDER / "steps.sh"
RECIPES = sorted(set(FOLDER.glob("*.sh")) - {STEPS})


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_a_script_whose_training_options_exist(path: Path) -> None:
    for script in (STEPS, path):
        subprocess.run(["bash", "-n", str(script)], check=True)
    text = path.read_text()
    assert 'source "$(dirname "$0")/steps.sh"' in text
    lines = (STEPS.read_text() + text).replace("\\\n", " ").splitlines()
    trained = " ".join(line.split("launch/train.py")[-1] for line in lines if re.match(r"train | +accel", line))
    options = {option.replace("-", "_") for option in re.findall(r"--([a-z][a-z-]*)", trained)}
    assert {"data", "output", "epochs", "mixup_stages", "full_size_at"} <= options
    assert options <= set(GROUP_OF)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_calls_steps_that_there_are(path: Path) -> None:
    steps = set(re.findall(r"^([a-z_]+)\(\)", STEPS.read_text(), re.MULTILINE))
    lines = path.read_text().replace("\\\n", " ").splitlines()
    called = {line.split()[0] for line in lines if re.match(r"[a-z_]+( |$)", line)} - {"set", "source"}
    assert {"originals", "shards", "train", "evaluate"} <= called <= steps
