import subprocess
from pathlib import Path

import pytest

from benchmarks.__main__ import COMMANDS
from benchmarks.everything import DOCUMENTS, commands, everything
from benchmarks.subject import ROOT
from shards import InputError


def test_all_that_is_measured_in_minutes_is_there() -> None:
    names = [command[0] for command in commands(Path("python"), Path("originals"), DOCUMENTS)]
    assert set(names) == set(COMMANDS) - {"all", "accuracy", "models"}
    assert names.index("scale") > max(map(names.index, ("loader", "stream", "prepare")))
    assert names[-2:] == ["table", "chart"]
    assert "prepare" not in [command[0] for command in commands(Path("python"), None, ())]


def test_one_that_fails_is_named_after_the_others_have_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command[3])
        return subprocess.CompletedProcess(command, 2 if command[3] == "stream" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(InputError, match="failed: stream; their messages are above"):
        everything()
    assert ran == ["loader", "stream", "train", "scale", "table", "chart"]


def test_the_documents_are_those_with_tables() -> None:
    with_tables = {path.relative_to(ROOT) for path in ROOT.glob("docs/*.md") if "<!-- table: " in path.read_text()}
    assert set(DOCUMENTS) == with_tables
