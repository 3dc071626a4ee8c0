"""A row of docs/FAULTS.md: /dev/shm full. Nothing of ours lies there; other loaders move batches through it."""

import subprocess
import sys
from pathlib import Path

from tests.faults.injector import needs_small_disk, on_small_disk
from tests.launch.commands import environment, train_command

FILLED = 'head --bytes 4M /dev/zero > /dev/shm/of-others; echo more > /dev/shm/more && exit 9; exec "$@"'
"""Ends with 9 if there is room left."""


@needs_small_disk
def test_two_ranks_train_with_a_full_dev_shm(tiny_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, *train_command(tiny_set, run, "--epochs", "1", "--augment", "0")]
    result = subprocess.run(
        [*on_small_disk(Path("/dev/shm")), "sh", "-c", FILLED, "sh", *command],  # noqa: S108
        capture_output=True,
        text=True,
        env=environment(ACCELERATE_USE_CPU="true"),
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "No space left" in result.stderr, "of filling it"
    assert (run / "checkpoints" / "last").exists()
