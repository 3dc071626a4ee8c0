import json
from pathlib import Path

import pytest

from benchmarks.loader import LIMIT, loader


def test_small_run_writes_rates_and_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "loader.json"
    loader(images=500, batch=50, repeats=3, output=output)
    result, printed = json.loads(output.read_text()), capsys.readouterr().out
    assert len(result["rows"]) == 5
    for row in result["rows"]:
        assert 0 < row["lowest"] <= row["median"] <= row["highest"]
        assert row["n"] == 3
        assert row["name"] in printed
    assert result["rows"][0]["name"] == LIMIT
    assert result["environment"]["cores"] >= 1
