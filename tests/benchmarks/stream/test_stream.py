import json
from pathlib import Path

import pytest

from benchmarks.stream import stream as module
from benchmarks.stream.stream import PEERS, stream


def test_small_run_reads_from_a_real_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "PEERS", [peer for peer in PEERS if peer.own])
    output = tmp_path / "stream.json"
    stream(images=5_000, batch=250, shard_bytes=1 << 22, latencies=(0, 5), repeats=1, output=output)
    rows = json.loads(output.read_text())["rows"]
    assert [row.get("skipped") for row in rows] == [None] * 2 * 4
    assert [row["latency_ms"] for row in rows] == [0] * 4 + [5] * 4
    for row in rows:
        assert row["median"] > 0
        assert 0 < row["first_batch_s"]
    assert "5 ms: kkanji" in capsys.readouterr().out
