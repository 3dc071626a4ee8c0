"""Recipes are long: what they name must be there."""

import re
import subprocess
from pathlib import Path

import pytest

from kkanji.config import BY_NAME, train_config
from kkanji.config_files import read_file, read_files
from tests.launch.commands import ROOT

FOLDER = ROOT / "launch" / "recipes"
STEPS = FOLDER / "steps.sh"
SCRIPTS = sorted(set(FOLDER.glob("*.sh")) - {STEPS})
COMMON, ALONE = FOLDER / "fused-m.yaml", FOLDER / "batch-50000.yaml"
TRAININGS = sorted(set(FOLDER.glob("*.yaml")) - {COMMON, ALONE})


def script(path: Path) -> str:
    return path.read_text().replace("\\\n", " ")


def test_there_are_recipes() -> None:
    assert len(SCRIPTS) >= 3 and len(TRAININGS) >= 5


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_recipe_is_a_script_that_calls_steps_and_trainings_that_there_are(path: Path) -> None:
    for each in (STEPS, path):
        subprocess.run(["bash", "-n", str(each)], check=True)
    assert 'source "$(dirname "$0")/steps.sh"' in script(path)
    steps = set(re.findall(r"^([a-z_]+)\(\)", STEPS.read_text(), re.MULTILINE))
    called = {line.split()[0] for line in script(path).splitlines() if re.match(r"[a-z_]+( |$)", line)}
    assert {"originals", "shards", "train", "evaluate"} <= called - {"set", "source"} <= steps
    for line in re.findall(r"^train (.*)$", script(path), re.MULTILINE):
        _, _, training, *options = line.split()
        assert FOLDER / f"{training}.yaml" in TRAININGS
        names = {word.removeprefix("--").replace("-", "_") for word in options if word.startswith("--")}
        assert names <= set(BY_NAME)


def test_every_training_belongs_to_a_recipe() -> None:
    named = set(re.findall(r"^train \S+ \S+ (\S+)", "\n".join(map(script, SCRIPTS)), re.MULTILINE))
    assert named == {path.stem for path in TRAININGS}


@pytest.mark.parametrize("path", [*TRAININGS, ALONE], ids=lambda path: path.name)
def test_a_training_has_options_that_fit_together(path: Path) -> None:
    files = [path] if path == ALONE else [COMMON, path]
    train_config(data="d", output=Path("o"), **read_files(files)).check_effects()
    if path != ALONE:
        assert not read_file(COMMON).keys() & read_file(path).keys()


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.name)
def test_a_training_says_what_to_expect_of_it(path: Path) -> None:
    head = re.match(r"(#.*\n)+", path.read_text())
    assert head and re.search(r"\d minutes", head[0].replace("\n# ", " ")) and "shared cores" in head[0]


def test_the_steps_train_by_these_files() -> None:
    assert f'--config launch/recipes/{COMMON.name} "launch/recipes/$3.yaml"' in script(STEPS)
