"""Runs that go on otherwise than they began, or from another place: with --extend, and with --resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kkanji import checkpoint
from kkanji.config import TrainConfig, read_options, train_config
from kkanji.data.training_set import open_set
from kkanji.training.schedule import WHOLE, Stretch, image_size, learning_rate, plan_of, resumed_stretch, strength
from kkanji.training.trainer import train
from shards import InputError
from shards.json_reading import read_json
from tests.launch.commands import lines, losses
from tests.launch.ranks.pool import TINY

pytestmark = pytest.mark.filterwarnings("ignore:torch uses 1 thread")
IMAGES = 108  # of an epoch


def config(data: Path, run: Path, **options: Any) -> TrainConfig:
    """Two epochs in four steps of 50 images and one of 16; with all that has a schedule."""
    fixed = {"model": TINY, "epochs": 2, "batch_size": 50, "micro_batch": 25, "log_every": 1, "augment": 0.0}
    scheduled = {"optimizer": "sgd", "lr": 0.01, "schedule": "cosine", "start_size": 32, "ema_images": 50.0}
    return train_config(data=str(data), output=run, **fixed | scheduled | options)


def trained(data: Path, run: Path, **options: Any) -> Path:
    train(config(data, run, **options), open_set(data))
    return run


@pytest.fixture(scope="module")
def train_set(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a split val: the pictures of an evaluation take longer than a run here."""
    folder = Path(shutil.copytree(tiny_set, tmp_path_factory.mktemp("sets") / "train"))
    manifest = read_json(folder / "dataset.json")
    del manifest["splits"]["val"]
    (folder / "dataset.json").write_text(json.dumps(manifest))
    for path in folder.glob("val-*"):
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def finished(train_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(train_set, tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


LONGER: dict[str, Any] = {"epochs": 4, "lr": 0.004, "warmup_epochs": 0.5}


def test_a_finished_run_is_extended_and_no_image_is_missed(run: Path, train_set: Path) -> None:
    """From its last image on, though the last batch was shorter than a batch; the rate rises anew, and falls to 0."""
    trained(train_set, run, **LONGER, extend=True)
    entries = lines(run)
    assert [entry["samples"] for entry in entries] == [50, 100, 150, 200, 216, 266, 316, 366, 416, 432]
    assert (entries[-1]["steps"], entries[-1]["epochs"]) == (10, 4)
    rates = [entry["lr"] for entry in entries[5:]]
    assert rates[:2] == pytest.approx([0, 0.004 * 50 / 54]) and rates[2] < 0.004
    assert rates[2:] == sorted(rates[2:], reverse=True)
    saved, state = read_json(run / "config.json"), checkpoint.read_state(run / "checkpoints" / "last")
    expected = {"epochs": [2, 4], "lr": [0.01, 0.004], "warmup_epochs": [0.0, 0.5]}
    for found in (saved, state):
        assert found["extensions"] == [{"step": 5, "epoch": 2.0, "changes": expected}]
        assert read_options(found["config"])["epochs"] == 4
    (note,) = lines(run, "resume")
    assert note["step"] == 5
    kept = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert kept == ["step-000000008", "step-000000010"]  # older ones are its own, though its options were others


def test_an_extension_beyond_a_limit_of_an_earlier_start_is_refused(run: Path, train_set: Path) -> None:
    """Such as one that `--config RUN` brings along: it would end at once, and say that all is well."""
    before = read_json(run / "config.json")
    for limits, found in (({"max_steps": 3}, "--max-steps 3"), ({"max_minutes": 1e-6}, "--max-minutes 1e-06")):
        with pytest.raises(
            InputError, match=f"^{found}: the run is past it, at step 5 .* higher limit, or 0 for none$"
        ):
            trained(train_set, run, **LONGER, **limits, extend=True)
    assert read_json(run / "config.json") == before
    trained(train_set, run, **LONGER, max_steps=7, extend=True)
    assert len(lines(run)) == 7


def test_an_extension_that_was_stopped_goes_on_by_the_same_command(run: Path, train_set: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other", symlinks=True))
    trained(train_set, run, **LONGER, extend=True)
    trained(train_set, other, **LONGER, extend=True, max_steps=7)
    assert len(losses(other)) == 7
    trained(train_set, other, **LONGER, extend=True)
    assert losses(other) == losses(run) and len(losses(run)) == 10
    assert len(read_json(other / "config.json")["extensions"]) == 1
    trained(train_set, other, **LONGER, resume=True)  # nothing is left to do
    assert len(losses(other)) == 10


def test_a_constant_rate_goes_on_as_if_the_run_had_been_longer_from_the_start(train_set: Path, tmp_path: Path) -> None:
    """Extended before its end, so that no batch was cut."""
    options: dict[str, Any] = {"schedule": "constant", "start_size": 64}
    whole = trained(train_set, tmp_path / "whole", **options, epochs=3)
    part = trained(train_set, tmp_path / "part", **options, max_steps=3)
    trained(train_set, part, **options, epochs=3, extend=True)
    assert losses(part) == losses(whole) and len(losses(part)) == 7


def test_what_may_change_must_be_asked_for_and_the_rest_may_not(run: Path, train_set: Path) -> None:
    with pytest.raises(InputError, match=r"--epochs 4, was 2; .*give the same, add --extend to go on otherwise, or"):
        trained(train_set, run, **LONGER, resume=True)
    with pytest.raises(InputError, match=r"--optimizer lamb, was sgd; --batch-size 54, was 50; give the same, or"):
        trained(train_set, run, batch_size=54, optimizer="lamb", extend=True)
    with pytest.raises(InputError, match="--epochs 2: the run has 2 behind it; give more, to extend it"):
        trained(train_set, run, lr=0.1, extend=True)
    with pytest.raises(InputError, match=r"--warmup-epochs 1\.5: more than the 1 epochs left; give fewer, or more"):
        trained(train_set, run, epochs=3, warmup_epochs=1.5, extend=True)
    with pytest.raises(InputError, match="no checkpoint of a run to extend; leave out --extend to begin one"):
        trained(train_set, run.with_name("none"), extend=True)


def test_a_set_that_moved_is_known_by_its_content(run: Path, train_set: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(train_set, tmp_path / "elsewhere"))
    trained(moved, run, epochs=3, extend=True)
    assert read_options(checkpoint.read_state(run / "checkpoints" / "last")["config"])["data"] == str(moved)
    manifest = json.loads((moved / "dataset.json").read_text())
    (moved / "dataset.json").write_text(json.dumps(manifest | {"name": "another"}))
    with pytest.raises(InputError, match=r"made with another shard set than .*elsewhere; give the run's own data"):
        trained(moved, run, epochs=4, extend=True)


def state_of(before: TrainConfig, step: int, stretch: Stretch = WHOLE) -> dict[str, Any]:
    fields = {name: getattr(stretch, name) for name in ("step", "position", "epoch", "rate", "growth")}
    return {"config": before.to_dict(), "progress": {"step": step}, "stretch": fields}


BEFORE = config(Path("d"), Path("r"), epochs=10, warmup_epochs=1.0, augment=1.0, augment_start=0.0)


def test_the_schedule_of_an_extension_begins_where_the_run_is() -> None:
    """The rate moves evenly, in the warm-up, from what it was to --lr, and then follows the schedule to the new end."""
    after = BEFORE.with_options(epochs=20, lr=0.02, warmup_epochs=2.0)
    stretch = resumed_stretch(after, state_of(BEFORE, 11), IMAGES)
    assert (stretch.step, stretch.position) == (11, 550)
    assert stretch.rate == learning_rate(BEFORE, 550 / IMAGES)
    first, end = stretch.epoch, after.schedule.epochs
    rates = [
        learning_rate(after, epoch, stretch) for epoch in (first, first + 1, first + 2, (first + 2 + end) / 2, end)
    ]
    assert rates == pytest.approx([stretch.rate, (stretch.rate + 0.02) / 2, 0.02, 0.01, 0])


def test_images_and_augmentation_follow_the_plan_of_the_beginning() -> None:
    """They do not shrink again; the augmentation stays where it was to end, up to its own end."""
    after = BEFORE.with_options(epochs=20, unaugmented_epochs=2)
    stretch = resumed_stretch(after, state_of(BEFORE, 11), IMAGES)
    twice = resumed_stretch(after.with_options(epochs=30), state_of(after, 20, stretch), IMAGES)
    for found in (stretch, twice):
        assert found.growth == 10
        assert [image_size(after, epoch, found) for epoch in (5, 6, 19)] == [64, 64, 64]
        assert image_size(after, 2.5, found) == image_size(BEFORE, 2.5) == 48
        assert strength(after, found, 12) == strength(after, found, 17) == 1.0 and strength(after, found, 18) == 0.0


def test_what_does_not_touch_the_schedule_leaves_it_as_it_is() -> None:
    after = BEFORE.with_options(precision="bfloat16", compile=True, clip_norm=1.0)
    assert resumed_stretch(after, state_of(BEFORE, 11), IMAGES) == WHOLE
    assert after.changed(BEFORE.to_dict()).keys() == {"precision", "compile", "clip_norm"}
    assert resumed_stretch(BEFORE, {"config": BEFORE.to_dict(), "progress": {"step": 3}}, IMAGES) == WHOLE  # of before


def test_lanes_need_whole_batches() -> None:
    lanes = BEFORE.with_options(order="windowed", lanes=2)
    after, plan = lanes.with_options(epochs=20), plan_of(lanes, IMAGES)
    with pytest.raises(
        InputError, match=r"sampling.lanes: a run that ended within a batch .* --init r/checkpoints/last"
    ):
        resumed_stretch(after, state_of(lanes, plan.steps), IMAGES)
    assert resumed_stretch(after, state_of(lanes, plan.steps - 1), IMAGES).position == 1050
