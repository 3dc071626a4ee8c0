import json
from pathlib import Path

import pytest

from benchmarks import loader as module
from benchmarks.loader import LIMIT, PEERS, SINGLE, loader
from benchmarks.subject import Peer
from shards import InputError

ABSENT = Peer(name="a library that nobody has", module="no_such_peer", files="none", order=SINGLE)


@pytest.fixture
def few_peers(monkeypatch: pytest.MonkeyPatch) -> list[Peer]:
    """Starting each costs seconds, so: the limit, our gather and loader, DALI's reader, and one that fails."""
    chosen = [peer for peer in PEERS if peer.module in ("limit", "ours:gather", "ours:loaded", "dali")]
    peers = [*chosen, ABSENT]
    monkeypatch.setattr(module, "PEERS", peers)
    return peers


def test_small_run_writes_rates_and_environment(
    few_peers: list[Peer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "loader.json"
    loader(images=5_000, batch=250, repeats=3, seconds=0.01, output=output)
    result, printed = json.loads(output.read_text()), capsys.readouterr().out
    *measured, skipped = result["rows"]
    assert len(measured) == len(few_peers) - 1 == 4
    for row in measured:
        assert 0 < row["lowest"] <= row["median"] <= row["highest"]
        assert row["n"] == 3
        assert row["name"] in printed
        assert row["versions"]["numpy"]
    assert measured[0]["name"] == LIMIT.name
    assert result["environment"]["cores"] >= 1
    assert "n" not in skipped
    assert "no_such_peer" in skipped["skipped"]
    assert f"{ABSENT.name:52}  skipped: " in printed


def test_names_and_orders_tell_rows_apart() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert {peer.order for peer in PEERS if "blocks" in peer.order} == {"whole blocks of 250"}


def test_part_of_a_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiple of 250"):
        loader(images=251, output=tmp_path / "loader.json")
