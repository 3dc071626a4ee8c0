"""The commands as a shell sees them: exit codes, messages without tracebacks, help, and what signals leave behind."""

import inspect
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tools.__main__ import COMMANDS, command_line

ROOT = Path(__file__).parents[2]
WAIT_S = 60  # a busy machine may take long to start Python


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tools", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tools(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = start(*arguments)
    output, errors = process.communicate(timeout=WAIT_S)
    assert "Traceback" not in errors, errors
    return process.returncode, output, errors


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tools", command, "--help"])
    with pytest.raises(SystemExit) as caught:
        command_line()
    assert caught.value.code == 0
    assert f"Example: kkanji {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_sentence_of_help(command: str) -> None:
    """It stands alone: it begins with a capital letter and ends with a full stop."""
    _, _, options = (inspect.getdoc(COMMANDS[command]) or "").partition("\nArgs:\n")
    help_of = dict(re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", options, re.MULTILINE))
    assert list(help_of) == list(inspect.signature(COMMANDS[command]).parameters)
    for option, text in help_of.items():
        assert text[:1].isupper() and text.endswith("."), f"{command} {option}: {text!r}"


def test_help_lists_the_commands() -> None:
    code, output, errors = tools("--help")
    assert code == 0 and errors == "" and all(command in output for command in COMMANDS)


def test_the_whole_way_from_raw_images_to_a_sheet(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    root = codh_tree({"U+4E00": 20, "U+4E01": 10})
    steps = (
        ("combine", root, "--output", tmp_path / "originals", "--name", "random"),
        ("split", tmp_path / "originals", "--val", "0.2"),
        ("pack", tmp_path / "originals", "--output", tmp_path / "set", "--block-size", "125"),
        ("verify", tmp_path / "set"),
        ("show", tmp_path / "set", "--split", "train", "--output", tmp_path / "sheet.png"),
    )
    outputs = []
    for step in steps:
        code, output, errors = tools(*step)
        assert code == 0, errors
        outputs.append(output)
    assert "30 originals of 2 classes" in outputs[0] and "images/s" in outputs[0]
    assert outputs[3].endswith("clean\n") and (tmp_path / "sheet.png").stat().st_size > 10_000


def test_bad_input_is_one_line_and_status_2(tmp_path: Path) -> None:
    code, output, errors = tools("combine", tmp_path / "missing.tar")
    assert (code, output) == (2, "")
    assert errors.startswith(f"error: {tmp_path}/missing.tar: no such folder or file; expected ")
    assert len(errors.splitlines()) == 1


def test_misuse_is_status_2() -> None:
    code, _, errors = tools("pack")
    assert code == 2 and "required" in errors.lower()


def test_problems_found_are_status_1(originals_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = originals_folder({"U+4E00": 20})
    assert tools("pack", folder, "--output", tmp_path / "set")[0] == 0
    (tmp_path / "set" / "train-00000.idx").unlink()
    code, output, errors = tools("verify", tmp_path / "set")
    assert code == 1 and "train-00000.idx: No such file or directory" in output and errors == ""


def test_a_reader_that_goes_away_is_no_error(originals_folder: Callable[..., Path]) -> None:
    process = start("split", originals_folder({"U+4E00": 20}), "--overwrite")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(WAIT_S) == 141
    process.stderr.close()


def test_a_signal_stops_combine_and_leaves_nothing_behind(png: Callable[..., bytes], tmp_path: Path) -> None:
    archive, output = tmp_path / "raw.tar", tmp_path / "out" / "originals"
    write_large_archive(archive, png(np.eye(64, dtype=np.uint8)))
    with start("combine", archive, "--output", output) as process:
        wait_for(lambda: (output.parent / ".originals.partial" / "pixels.spool").exists())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 143 and "Traceback" not in errors
    assert not list(output.parent.iterdir())


def write_large_archive(path: Path, image: bytes) -> None:
    """Some seconds of work."""
    with path.open("wb") as file:
        for number in range(40_000):
            info = tarfile.TarInfo(f"kkanji2/U+4E00/{number:08x}.png")
            info.size = len(image)
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + image + bytes(-len(image) % 512))
        file.write(bytes(1024))


def test_after_a_kill_there_is_no_set_and_the_next_run_makes_it(
    originals_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, output = originals_folder({"U+4E00": 20}), tmp_path / "out" / "set"
    with start("balance", folder, "--per-class", "1500000", "--output", output) as process:
        wait_for(lambda: any(output.parent.glob(".set.unfinished/receipts/*.json")))
        process.kill()
    assert [path.name for path in output.parent.iterdir()] == [".set.unfinished"]
    code, _, errors = tools("balance", folder, "--per-class", "5", "--output", output)
    assert code == 2 and "begun with other options" in errors
    assert tools("balance", folder, "--per-class", "5", "--output", output, "--overwrite")[0] == 0
    assert tools("verify", output)[0] == 0
    assert [path.name for path in output.parent.iterdir()] == ["set"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
