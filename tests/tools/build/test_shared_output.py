"""A set that is made in parts, or by runs that were cut off, is the set that one undisturbed run makes."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from shards import InputError, read_manifest
from tests.faults import injector
from tools.build.shared_output import Part, parse_part
from tools.commands.balance import balance
from tools.commands.verify import verify

ROOT = Path(__file__).parents[3]
WAIT_S = 60  # a busy machine may take long to start Python
run_injector = partial(injector.run_injector, "balancers")


@pytest.fixture
def folder(originals_folder: Callable[..., Path]) -> Path:
    """The folder of `originals` with a split: three classes."""
    return originals_folder({"U+4E00": 20, "U+4E01": 9, "U+4E02": 1}).parent


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make(folder: Path, output: str, *, part: str | None = None, per_class: int = 300, overwrite: bool = False) -> Path:
    balance(
        folder / "originals",
        per_class=per_class,
        output=folder / output,
        part=part,
        overwrite=overwrite,
        block_size=125,
        shard_size=125,
    )
    return folder / output


def test_killed_at_random_moments_and_run_again_the_set_is_the_same(folder: Path) -> None:
    codes = run_injector("killed", folder, 20)
    expected = contents(folder / "usual")
    assert sum(first == -signal.SIGKILL for first, _ in codes) == 20 and {second for _, second in codes} == {0}
    for number in range(len(codes)):
        assert contents(folder / f"{number:05d}") == expected
    assert not list(folder.glob(".*"))


def test_killed_again_and_again_it_still_comes_to_an_end(folder: Path) -> None:
    codes = run_injector("driven", folder, 20)
    assert codes[-1] == 0 and -signal.SIGKILL in codes
    assert contents(folder / "00000") == contents(folder / "usual")


def test_processes_at_work_together_make_one_set(folder: Path) -> None:
    assert run_injector("together", folder, 5) == [[0, 0, 0]] * 5
    expected = contents(make(folder, "alone", per_class=700))
    for number in range(5):
        assert contents(folder / f"{number:05d}") == expected
    assert not list(folder.glob(".*"))


def test_parts_one_after_another_equal_the_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = contents(make(folder, "whole"))
    make(folder, "parts", part="1/2")
    assert not (folder / "parts").exists()
    assert "shards of other parts are missing: run those parts, or this without --part" in capsys.readouterr().out
    make(folder, "parts", part="0/2")
    assert contents(folder / "parts") == whole
    verify(folder / "parts")
    for part in ("1/2", None):  # late, or given twice
        make(folder, "parts", part=part)
        assert "made before with the same options" in capsys.readouterr().out
    assert contents(folder / "parts") == whole and not list(folder.glob(".*"))


def test_parts_from_machines_without_a_common_disk(folder: Path) -> None:
    whole = contents(make(folder, "whole"))
    for number in (0, 1):
        make(folder, f"of-{number}", part=f"{number}/2")
    (folder / ".of-0.unfinished").rename(folder / ".joined.unfinished")
    for path in (folder / ".of-1.unfinished").rglob("*.*"):
        if path.parent.name in ("set", "receipts"):
            path.rename(folder / ".joined.unfinished" / path.relative_to(folder / ".of-1.unfinished"))
    make(folder, "joined")
    assert contents(folder / "joined") == whole


def test_a_launcher_names_the_part(folder: Path) -> None:
    whole = contents(make(folder, "whole"))
    output = ["--output", str(folder / "launched"), "--per-class", "300", "--block-size", "125", "--shard-size", "125"]
    command = [sys.executable, "-m", "tools", "balance", str(folder / "originals"), *output]
    world = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [subprocess.Popen(command, cwd=ROOT, env={**world, "RANK": rank}) for rank in "01"]
    assert [process.wait() for process in processes] == [0, 0]
    assert contents(folder / "launched") == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_what_is_finished_and_says_so(folder: Path, number: signal.Signals, code: int) -> None:
    output = folder / "out" / "set"
    command = [sys.executable, "-m", "tools", "balance", str(folder / "originals"), "--workers", "2"]
    command += ["--per-class", "600000", "--output", str(output)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + WAIT_S
        while not any(output.parent.glob(".set.unfinished/receipts/*.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == code and "Traceback" not in errors
    assert "finished shards are kept in .set.unfinished; run the same command to resume" in errors
    assert [path.name for path in output.parent.iterdir()] == [".set.unfinished"]
    with (output.parent / ".set.unfinished" / "plan.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody is left at work


def test_only_what_is_damaged_or_missing_is_made_again(folder: Path) -> None:
    whole = contents(make(folder, "whole"))
    make(folder, "set", part="0/2")
    unfinished = folder / ".set.unfinished" / "set"
    flipped, unindexed, kept = sorted(unfinished.glob("train-*.tar"))[:3]
    data = bytearray(flipped.read_bytes())
    data[5000] ^= 1
    flipped.write_bytes(data)
    unindexed.with_suffix(".idx").unlink()
    before = {path: path.stat().st_mtime_ns for path in (flipped, unindexed, kept)}
    make(folder, "set", part="0/2")
    assert [path for path, changed in before.items() if path.stat().st_mtime_ns != changed] == [flipped, unindexed]
    make(folder, "set")
    assert contents(folder / "set") == whole


@pytest.mark.parametrize("damage", ["", "{}", '{"name": "train-00000.tar"}', "[1]"])
def test_a_receipt_that_cannot_be_read_is_none(folder: Path, damage: str) -> None:
    whole = contents(make(folder, "whole"))
    make(folder, "set", part="0/2")
    (folder / ".set.unfinished" / "receipts" / "train-00000.json").write_text(damage)
    make(folder, "set")
    assert contents(folder / "set") == whole


def test_other_options_do_not_mix(folder: Path) -> None:
    make(folder, "set", part="0/2")
    with pytest.raises(InputError, match=r"\.set\.unfinished: begun with other options .*per_class 300, expected 200"):
        make(folder, "set", part="1/2", per_class=200)
    make(folder, "set", per_class=200, overwrite=True)
    assert contents(folder / "set") == contents(make(folder, "fresh", per_class=200))
    assert not list(folder.glob(".*"))


def test_a_processor_that_computes_otherwise_may_not_take_part(folder: Path) -> None:
    make(folder, "set", part="0/2")
    plan = folder / ".set.unfinished" / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "fingerprint": "00000000"}))
    with pytest.raises(InputError, match="fingerprint 00000000, expected"):
        make(folder, "set", part="1/2")


def test_another_set_is_replaced_only_with_overwrite_and_only_by_a_whole_one(folder: Path) -> None:
    old = contents(make(folder, "set", per_class=100))
    with pytest.raises(InputError, match="already exists and is not empty; choose another --output or --overwrite"):
        make(folder, "set")
    assert not list(folder.glob(".*"))
    make(folder, "set", part="0/2", overwrite=True)
    assert contents(folder / "set") == old
    make(folder, "set", part="1/2", overwrite=True)
    assert read_manifest(folder / "set").history["balance"]["per_class"] == 300
    assert contents(folder / "set") == contents(make(folder, "fresh"))


def test_a_file_in_the_way_is_refused(folder: Path) -> None:
    (folder / "set").write_text("mine")
    with pytest.raises(InputError, match="is a file, expected a folder or nothing"):
        make(folder, "set")
    assert (folder / "set").read_text() == "mine" and not list(folder.glob(".*"))


def test_parts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_part("1/3") == Part(number=1, of=3)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert parse_part(None) == Part(number=0, of=1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert parse_part(None) == Part(number=3, of=8, neighbours=4)
    for text in ("2/2", "0/0", "1", "a/b", "-1/2", "0/2/3"):
        with pytest.raises(InputError, match=f"--part {text}: expected i/n"):
            parse_part(text)


def test_a_set_that_does_not_fit_is_refused_before_the_work(folder: Path) -> None:
    with pytest.raises(InputError, match=r"3,000,000,0\d\d images take 12,288\.\d+ GB, .* GB are free"):
        balance(folder / "originals", per_class=1_000_000_000, output=folder / "set", shard_size=1_250_000)
    assert not (folder / "set").exists()
