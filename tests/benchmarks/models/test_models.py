import json
from pathlib import Path

import pytest
import timm
from matplotlib.patches import FancyBboxPatch

from benchmarks.chart import is_of
from benchmarks.models.anatomy import CLASSIFIER, CONVOLUTION, LayerGroup, as_rows, draw, layer_groups_of
from benchmarks.models.models import IN_DIAGRAM, PATTERN, models
from benchmarks.table import table_of
from kkanji.models import create_model
from kkanji.training.meter import training_flops
from shards import InputError

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "benchmarks" / "results" / "models.json"
FUSED_S = "kkanji_efficientnet_fused_s"


@pytest.fixture(scope="module")
def fused_s() -> list[LayerGroup]:
    return layer_groups_of(create_model(FUSED_S, 10))


def test_the_layer_groups_are_those_of_the_definition(fused_s: list[LayerGroup]) -> None:
    """`FUSED_S_STAGES` in kkanji/models.py, with the stem before and the head behind."""
    found = [(group.kind, group.blocks, group.kernel, group.expansion, group.channels, group.size) for group in fused_s]
    assert found == [
        (CONVOLUTION, 1, 3, 1, 24, 32),
        ("fused MBConv", 1, 3, 4, 32, 16),
        ("fused MBConv", 2, 3, 4, 64, 8),
        ("fused MBConv", 3, 3, 3, 128, 4),
        ("MBConv", 3, 3, 4, 160, 4),
        (CONVOLUTION, 1, 1, 1, 640, 4),
        (CLASSIFIER, 1, 0, 1, 10, 0),
    ]
    assert [group.excitation for group in fused_s] == [False] * 4 + [True] + [False] * 2


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_the_layer_groups_are_the_whole_network(head: str) -> None:
    model = create_model("kkanji_efficientnet_b0", 10, head)  # type: ignore[arg-type]
    groups = layer_groups_of(model)
    assert sum(group.multiply_adds for group in groups) == training_flops(model) / 6
    norms = sum(parameter.numel() for name, parameter in model.named_parameters() if name.startswith("bn"))
    assert sum(group.parameters for group in groups) + norms == sum(each.numel() for each in model.parameters())


def test_a_box_for_each_group_and_a_row_for_each_network(fused_s: list[LayerGroup]) -> None:
    figure = draw({"one": fused_s, "other": fused_s[:3]})
    boxes = [[patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)] for axes in figure.axes]
    assert [len(row) for row in boxes] == [7, 3]
    heights = [box.get_height() for box in boxes[0]]
    assert heights == sorted(heights, reverse=True), "maps only shrink"
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "3 x fused MBConv\n3x3, inside x3\n128 channels\n4x4" in words
    fractions = [group.multiply_adds / sum(each.multiply_adds for each in fused_s) for group in fused_s]
    assert [word for word in words if word.endswith("%")] == [f"{s:.0%}" if s >= 0.01 else "< 1%" for s in fractions]


def test_what_is_written(fused_s: list[LayerGroup], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, diagram = tmp_path / "models.json", tmp_path / "networks.svg"
    models(only=(FUSED_S,), classes=10, batch=2, repeats=2, seconds=1e-3, output=target, diagram=diagram)
    result = json.loads(target.read_text())
    (row,) = result["rows"]
    assert (row["name"], row["n"], row["layer_groups"]) == (FUSED_S, 2, as_rows(fused_s))
    assert row["multiply-adds"] == sum(group.multiply_adds for group in fused_s)
    for kind in ("trained", "predicted"):
        spread = row["spread"][kind]
        assert 0 < spread["lowest"] <= row[f"images/s {kind}"] <= spread["highest"]
    assert FUSED_S in capsys.readouterr().out and not diagram.exists()
    assert any("Medians of 2" in line and "batch 2" in line for line in table_of(target))


def test_networks_of_timms_are_measured_too(tmp_path: Path) -> None:
    target = tmp_path / "models.json"
    models(only=("test_resnet",), classes=10, batch=2, repeats=1, seconds=1e-3, output=target)
    (row,) = json.loads(target.read_text())["rows"]
    assert row["name"] == "test_resnet" and row["multiply-adds"] > 1e6 and "layer_groups" not in row


def test_bad_options_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--batch 0"):
        models(batch=0, output=tmp_path / "models.json")
    with pytest.raises(InputError, match="no such network"):
        models(only=("resnet81",), output=tmp_path / "models.json")
    assert not list(tmp_path.iterdir())


def test_the_committed_result_is_of_the_networks_as_they_are() -> None:
    """A change of a network needs `python -m benchmarks models` again."""
    rows = {row["name"]: row for row in json.loads(COMMITTED.read_text())["rows"]}
    assert sorted(rows) == sorted(timm.list_models(PATTERN))
    for name in IN_DIAGRAM:
        assert rows[name]["layer_groups"] == as_rows(
            layer_groups_of(create_model(name, rows[name]["layer_groups"][-1]["channels"]))
        )


def test_the_diagram_in_docs_is_of_the_committed_result() -> None:
    assert is_of(ROOT / "docs" / "networks.svg", COMMITTED), "run `python -m benchmarks models`"
