import json
from pathlib import Path

import pytest

from benchmarks.table import markdown, table
from shards import InputError

LIMIT = {"name": "limit: copy", "order": "none", "n": 3, "median": 2e6, "lowest": 1e6, "highest": 3e6}
OURS = {**LIMIT, "name": "ours", "order": "single images", "median": 1.5e6}
SKIPPED = {"name": "theirs", "order": "blocks", "skipped": "not installed: No module named 'theirs'"}


def test_rates_shares_and_what_was_skipped() -> None:
    lines = list(markdown([LIMIT, OURS, SKIPPED]))
    assert "| ours | single images | 1,500,000 | 1,000,000 | 3,000,000 | 6,144 | 75.0% |" in lines
    assert lines[-1].startswith("| theirs | blocks | skipped: not installed: No module named 'theirs' |")
    assert {line.count("|") for line in lines} == {8}


def test_shares_are_of_the_limit_at_the_same_latency() -> None:
    slow = [{**row, "latency_ms": 100, "median": median} for row, median in ((LIMIT, 2e5), (OURS, 1.5e5))]
    lines = list(markdown([{**LIMIT, "latency_ms": 0}, *slow]))
    assert "| 100 ms: ours | single images | 150,000 | 1,000,000 | 3,000,000 | 614 | 75.0% |" in lines


def test_made_from_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "result.json"
    with pytest.raises(InputError, match="expected the JSON"):
        table(result)
    result.write_text(json.dumps({"rows": [LIMIT]}))
    table(result)
    assert "limit: copy" in capsys.readouterr().out
