import json
from pathlib import Path

import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from benchmarks.chart import LIMIT, OTHERS, OURS, RESULTS, chart, draw, is_of
from benchmarks.rows import Row
from shards import InputError

ROOT = Path(__file__).parents[2]
COMMITTED = [path for name in RESULTS if (path := ROOT / "benchmarks" / "results" / f"{name}.json").is_file()]
STATE = {"cpu": "a CPU", "cores": 2, "gpu": None, "date": "2026-11-23", "commit": None}


def row(name: str, median: float, **more: object) -> Row:
    return {"name": name, "n": 3, "median": median, "lowest": 0.9 * median, "highest": 1.2 * median} | more


def result(*rows: Row) -> Row:
    return {"benchmark": "loader", "options": {"batch": 2000}, "environment": STATE, "rows": list(rows)}


FEW: tuple[Row, ...] = (
    row("limit: copy", 2e6),
    row("kkanji", 1e6),
    row("theirs", 5e5),
    {"name": "absent", "skipped": "not installed"},
)


def test_a_bar_for_each_measured_row() -> None:
    (axes,) = draw(result(*FEW), Path("a.json")).axes
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [(bar.get_width(), bar.get_facecolor()) for bar in bars] == [
        (2e6, to_rgba(LIMIT)),
        (1e6, to_rgba(OURS)),
        (5e5, to_rgba(OTHERS)),
    ]
    assert [text.get_text().strip() for text in axes.texts] == ["2,000,000", "1,000,000", "500,000"]
    assert axes.get_xscale() == "linear"


def test_a_wide_range_has_a_logarithmic_axis() -> None:
    (axes,) = draw(result(*FEW, row("slow", 500.0)), Path("a.json")).axes
    assert axes.get_xscale() == "log"
    assert "logarithmic" in axes.get_xlabel()


def test_a_panel_for_each_latency() -> None:
    figure = draw(result(*(row("kkanji", 1e6 / ms, latency_ms=ms) for ms in (1, 20, 100))), Path("a.json"))
    assert [axes.get_title("left") for axes in figure.axes] == [f"{ms} ms of latency" for ms in (1, 20, 100)]


def test_a_chart_knows_its_result(tmp_path: Path) -> None:
    recorded = tmp_path / "loader.json"
    with pytest.raises(InputError, match=r"none of loader\.json"):
        chart(results=tmp_path, output=tmp_path)
    recorded.write_text(json.dumps(result(*FEW)))
    with pytest.raises(SystemExit, match="charts out of date"):
        chart(results=tmp_path, output=tmp_path / "docs", check=True)
    chart(results=tmp_path, output=tmp_path / "docs")
    rendered = (tmp_path / "docs" / "loader.svg").read_bytes()
    chart(results=tmp_path, output=tmp_path / "docs", check=True)
    chart(results=tmp_path, output=tmp_path / "docs")
    assert (tmp_path / "docs" / "loader.svg").read_bytes() == rendered
    recorded.write_text(json.dumps(result(*FEW[:2])))
    with pytest.raises(SystemExit, match=r"loader\.svg"):
        chart(results=tmp_path, output=tmp_path / "docs", check=True)


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    contents: list[Row] = [{"rows": []}, {}, {"rows": [{"name": "a", "n": 1}]}]
    for content in contents:
        (tmp_path / "loader.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"loader\.json"):
            chart(results=tmp_path, output=tmp_path)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_charts_in_docs_show_the_committed_results(path: Path) -> None:
    assert is_of(ROOT / "docs" / f"{path.stem}.svg", path), "run `python -m benchmarks chart`"
