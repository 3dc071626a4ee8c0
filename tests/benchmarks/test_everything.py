import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import COMMANDS, function_of
from benchmarks.everything import DOCUMENTS, commands, everything
from benchmarks.subject import ROOT
from shards import InputError


@pytest.mark.parametrize("gpu", [True, False])
def test_all_that_is_measured_in_minutes_is_there(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    names = [command[0] for command in commands(Path("python"), Path("originals"), DOCUMENTS)]
    assert set(names) == set(COMMANDS) - {"all", "accuracy", "models", "scans", "unknown", *([] if gpu else ["gpu"])}
    assert names.index("scale") > max(map(names.index, ("loader", "stream", "prepare", *(["gpu"] if gpu else []))))
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
    assert ran == ["loader", "stream", "train", "size", "scale", "table", "chart"]


def test_a_command_is_the_function_of_its_name() -> None:
    functions = {name: function_of(name) for name in COMMANDS}
    assert functions.pop("all") is everything
    assert {name: function.__name__ for name, function in functions.items()} == {name: name for name in functions}


def test_the_documents_are_those_with_tables() -> None:
    with_tables = {path.relative_to(ROOT) for path in ROOT.glob("docs/*.md") if "<!-- table: " in path.read_text()}
    assert set(DOCUMENTS) == with_tables
