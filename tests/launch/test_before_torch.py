"""What is told before the seconds that importing torch takes."""

import subprocess
import sys
from pathlib import Path

from tests.launch.commands import ROOT, environment

PROGRAM = """
import sys
from launch.train import main
from shards import InputError

sys.argv = ["train", *sys.argv[1:]]
try:
    main()
except InputError as error:
    print(error)
assert "torch" not in sys.modules, "torch was imported first"
"""
TOLD = {
    ("--init", "{0}/none"): "--init {0}/none: no such checkpoint",
    ("--resume", "--teachers", "{0}/none"): "--teachers {0}/none: no such checkpoint",
    ("--data", "{0}/none"): "{0}/none: no such folder",
    ("--batch-size", "109"): "--batch-size 109: more than the 108 images of the training split",
    ("--order", "balanced", "--draws-per-class", "2"): "--batch-size 256: more than the 12 draws of an epoch",
}


def test_what_is_not_there_or_makes_no_sense(tiny_set: Path, tmp_path: Path) -> None:
    for options, told in TOLD.items():
        given = ["--data", str(tiny_set), "--output", str(tmp_path / "run"), *(o.format(tmp_path) for o in options)]
        command = [sys.executable, "-c", PROGRAM, *given]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
        assert result.stdout.startswith(told.format(tmp_path)), result.stderr
        assert result.returncode == 0
