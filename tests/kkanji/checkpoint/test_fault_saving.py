"""Rows of docs/FAULTS.md about checkpoints: killed while saving, and those of another run."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from kkanji import checkpoint
from kkanji.classes import ClassMap
from kkanji.config import TrainConfig, train_config
from kkanji.data.training_set import class_map, open_set
from kkanji.models import create_model
from kkanji.training.build import build_run
from kkanji.training.optimizers import create_optimizer
from kkanji.training.saving import begin_or_resume
from shards import InputError, ShardSet
from tests.faults.injector import run_injector

KILLS = 50
MODEL = "kkanji_efficientnet_fused_s"


def left_by(command: str, folder: Path, *counts: int) -> list[dict[str, Any]]:
    """What each killed process left."""
    found: list[dict[str, Any]] = run_injector("savers", command, folder, *counts, environment={"OMP_NUM_THREADS": "1"})
    return found


def test_sigkill_at_random_moments_of_saving_loses_no_checkpoint_that_was_reported(tmp_path: Path) -> None:
    """One run, killed again and again, each time going on from what it finds."""
    kills = left_by("killed-by-clock", tmp_path, KILLS)
    assert [kill["code"] for kill in kills] == [-signal.SIGKILL] * KILLS
    assert sum(kill["unfinished"] for kill in kills) > KILLS / 5, "they hit it while it saves"
    for kill in kills:
        assert kill["found"] - kill["reported"] in (0, 1)
        assert kill["passed_over"] == 0, "a checkpoint that has its name is whole"
        assert kill["links"] and kill["kept"] <= checkpoint.KEEP + 2, "the best, and one not removed yet"


@pytest.mark.parametrize(("command", "least"), [("killed-by-step", 20), ("killed-by-write", 25)])
def test_sigkill_at_each_step_of_saving_leaves_the_one_before_and_the_next_can_be_saved(
    tmp_path: Path, command: str, least: int
) -> None:
    *kills, undisturbed = left_by(command, tmp_path)
    assert undisturbed["code"] == 0 and undisturbed["found"] == undisturbed["reported"] + 1
    assert len(kills) >= least and {kill["code"] for kill in kills} == {-signal.SIGKILL}
    for kill in kills:
        assert kill["found"] - kill["reported"] in (0, 1)
        assert kill["links"] and kill["passed_over"] == 0
        assert kill["next"]["found"] == kill["found"] + 1
        assert kill["next"]["kept"] == checkpoint.KEEP and not kill["next"]["unfinished"]


def options(tiny_set: Path, tmp_path: Path) -> TrainConfig:
    return train_config(
        data=str(tiny_set), output=tmp_path, model=MODEL, batch_size=16, micro_batch=4, order="full", resume=True
    )


def save(config: TrainConfig, classes: ClassMap, identity: str) -> Path:
    """The checkpoint of a run that has done three steps, by what it says."""
    model = create_model(MODEL, len(classes))
    optimizer = create_optimizer(model, "adam", lr=1e-3, weight_decay=0.0)
    state = {"config": config.to_dict(), "data": identity, "progress": {"step": 3}}
    folder = config.checkpointing.output / "checkpoints"
    return checkpoint.save(folder, 0, model=model, optimizer=optimizer, state=state, classes=classes, best=False)


def resume(config: TrainConfig, data: ShardSet, path: Path) -> int:
    """The steps that the run then has behind it."""
    run = build_run(Accelerator(cpu=True), config, data, class_map(data))
    begin_or_resume(run, path)
    return run.progress.step


def test_a_checkpoint_of_the_same_run_is_taken_up(tiny_set: Path, tmp_path: Path) -> None:
    """So that the refusals below are for what they say."""
    config, data = options(tiny_set, tmp_path), open_set(tiny_set)
    assert resume(config, data, save(config, class_map(data), data.manifest.identity())) == 3


def test_a_checkpoint_of_other_classes_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    """As many of them, so that the weights would fit."""
    config, data = options(tiny_set, tmp_path), open_set(tiny_set)
    others = ClassMap.of(range(0x4E00, 0x4E00 + data.manifest.classes))
    with pytest.raises(
        InputError, match=r"step-000000000: a checkpoint of other classes than .*; give the run's own data"
    ):
        resume(config, data, save(config, others, data.manifest.identity()))


def test_a_checkpoint_of_other_data_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    """Of the same characters: the positions in its order would mean other images."""
    config, data = options(tiny_set, tmp_path), open_set(tiny_set)
    other = replace(data.manifest, seed=data.manifest.seed + 1).identity()
    with pytest.raises(
        InputError, match=r"step-000000000: made with another shard set than .*; give the run's own data"
    ):
        resume(config, data, save(config, class_map(data), other))


def test_every_option_that_differs_is_named(tiny_set: Path, tmp_path: Path) -> None:
    config, data = options(tiny_set, tmp_path), open_set(tiny_set)
    path = save(config, class_map(data), data.manifest.identity())
    with pytest.raises(InputError, match=r"--batch-size 8, was 16; --lr 0\.5, was 0\.001; .* or a new --output"):
        config.with_options(lr=0.5, batch_size=8).check_resumes(checkpoint.read_state(path)["config"])
