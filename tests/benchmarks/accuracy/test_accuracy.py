import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.accuracy import (
    LEGACY_MODEL,
    RUNS,
    accuracy,
    figure,
    markdown,
    minutes_to,
    over_time,
    read_curve,
)
from kkanji.config import GROUP_OF
from shards import InputError


def test_the_options_of_every_run_are_valid() -> None:
    names = [run.name for run in RUNS]
    assert len(set(names)) == len(names)
    for run in RUNS:
        fields = {name.removeprefix("--").replace("-", "_") for name in run.options}
        assert fields <= set(GROUP_OF), run.name


def test_minutes_are_those_of_training_without_evaluation(tmp_path: Path) -> None:
    figures = {"event": "evaluation", "top5": 1.0, "balanced_accuracy": 0.5, "f1_weighted": 0.5}
    entries = [
        figures | {"step": 1, "seconds": 60, "samples": 10, "top1": 0.4, "images": 100, "images_per_s": 1},
        {"event": "step", "step": 2},
        figures | {"step": 2, "seconds": 280, "samples": 20, "top1": 0.8, "images": 100, "images_per_s": 1},
        figures | {"step": 2, "seconds": 280, "samples": 20, "top1": 0.8, "images": 100, "images_per_s": 1},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, entries)))
    curve = read_curve(tmp_path / "log.jsonl")
    assert [point["minutes"] for point in curve] == [1, 3]
    assert minutes_to(curve, 0.6) == pytest.approx(2)
    assert minutes_to(curve, 0.81) is None


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1)), min_size=1, max_size=6), st.floats(0.01, 1))
def test_an_accuracy_is_reached_between_the_evaluations_around_it(
    steps: list[tuple[float, float]], goal: float
) -> None:
    curve, minutes = [], 0.0
    for taken, top1 in steps:
        minutes += taken
        curve.append({"minutes": minutes, "top1": top1})
    found = minutes_to(curve, goal)
    first = next((number for number, point in enumerate(curve) if point["top1"] >= goal), None)
    if first is None:
        assert found is None
        return
    assert found is not None
    begin = curve[first - 1]["minutes"] if first else 0.0
    assert begin <= found <= curve[first]["minutes"] * (1 + 1e-9)


def test_accuracies_over_time_lie_between_evaluations_and_up_to_one_beyond_them() -> None:
    curve = [{"minutes": 15.0, "top1": 0.5}, {"minutes": 25.0, "top1": 0.7}, {"minutes": 28.0, "top1": 0.9}]
    baseline, ours = over_time(
        [{"name": "ours", "curve": curve}, {"name": "too short", "curve": [{"minutes": 9.0, "top1": 0.5}]}]
    )
    assert list(baseline) == list(ours) == ["name", "10 min, %", "20 min, %", "30 min, %", "40 min, %"]
    assert list(ours.values()) == ["ours", None, pytest.approx(60), pytest.approx(90), None]


def test_the_legacy_project_trains(tiny_set: Path, tmp_path: Path) -> None:
    output = tmp_path / "accuracy.json"
    accuracy(
        tiny_set,
        runs=tmp_path / "runs",
        legacy_data=tiny_set,
        images=60,
        only=("legacy project",),
        threads=1,
        output=output,
    )
    result = json.loads(output.read_text())
    (row,) = result["rows"]
    assert row["options"]["--model"] == LEGACY_MODEL
    assert row["images_seen"] == 10 * 6 and len(row["curve"]) == 1  # one batch has room for all epochs
    (axes,) = figure(result).axes
    assert [line.get_label() for line in axes.lines] == ["legacy project"]
    assert any(line.startswith("| legacy project |") for line in markdown([row]))


def test_an_unknown_run_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--only nothing: expected some of: ours, "):
        accuracy(tiny_set, runs=tmp_path, only=("nothing",))


def test_a_run_whose_set_is_not_given_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--only legacy project: needs a set of its own; give --rendered-data or"):
        accuracy(tiny_set, runs=tmp_path, only=("ours", "legacy project"))
