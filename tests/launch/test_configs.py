"""What a scheduler is given: Accelerate's configurations and the SLURM script, as their readers understand them."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from kkanji.config import TrainConfig
from kkanji.config_files import parse_options
from kkanji.models import create_model
from tests.launch.commands import ROOT

CONFIGS = ROOT / "launch" / "configs"
SLURM = CONFIGS / "slurm.sh"
# Stand in for the cluster's commands: the host names of an allocation, a task on node 1, and what would be launched.
STUBS = {
    "scontrol": 'echo "first-node"; echo "second-node"',
    "srun": 'shift; SLURM_NODEID=1 exec "$@"',
    "accelerate": 'printf "%s\\0" "$KKANJI_CACHE" "$@"',
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes, whose commands tell what they are given."""
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "123456"}
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_TMPDIR": "/local", **job}


def submitted(cluster: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SLURM), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=cluster, cwd=ROOT, check=False)


def launch_of(arguments: list[str]) -> tuple[Namespace, TrainConfig]:
    """As `accelerate launch` and launch/train.py read them: they refuse an option that there is not."""
    launch = launch_command_parser().parse_args(arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["train", *launch.training_script_args])
        return launch, parse_options()


def test_the_script_starts_what_the_recipe_says(cluster: dict[str, str]) -> None:
    result = submitted(cluster, "s3://bucket/set", "runs/a b", "--lr", "6e-3")
    assert result.returncode == 0, result.stderr
    word, *arguments = result.stdout.rstrip("\0").split("\0")[1:]
    assert word == "launch"
    launch, config = launch_of(arguments)
    assert (launch.machine_rank, launch.num_machines, launch.num_processes) == (1, 2, 16)
    assert (launch.main_process_ip, launch.main_process_port) == ("first-node", 23456)
    assert (ROOT / launch.training_script).is_file() and (ROOT / launch.config_file).is_file()
    kept = config.checkpointing
    assert (config.dataset.data, config.optimization.lr) == ("s3://bucket/set", 6e-3)
    assert (kept.output, kept.resume) == (Path("runs/a b"), True)
    batch_size = config.optimization.batch_size
    assert batch_size == 50_000 and batch_size % (16 * config.runtime.micro_batch) == 0
    create_model(config.network.model, 10)


def test_accelerate_takes_the_nodes_from_the_command_and_the_rest_from_the_file(
    cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    _, _, *arguments = submitted(cluster, "set", "run").stdout.rstrip("\0").split("\0")
    launch, _ = launch_of(arguments)
    launch, defaults, _ = _validate_launch_command(launch)
    assert launch.multi_gpu and not launch.use_cpu and launch.mixed_precision == "bf16"
    assert (launch.num_processes, launch.num_machines, defaults.num_machines) == (16, 2, 1)


def test_each_node_has_a_cache_of_its_own(cluster: dict[str, str]) -> None:
    assert submitted(cluster, "set", "run").stdout.split("\0")[0] == "/local/kkanji"
    assert submitted({**cluster, "KKANJI_CACHE": "/mine"}, "set", "run").stdout.split("\0")[0] == "/mine"


def test_a_missing_argument_is_reported(cluster: dict[str, str]) -> None:
    result = submitted(cluster, "set")
    assert result.returncode != 0 and "expected a folder for the run" in result.stderr


@pytest.mark.parametrize(
    ("name", "processes", "precision"), [("cpu", 1, "no"), ("one_gpu", 1, "bf16"), ("8xh100", 8, "bf16")]
)
def test_configurations_are_what_accelerate_reads(name: str, processes: int, precision: str) -> None:
    found = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert (found.num_processes, found.num_machines, found.mixed_precision) == (processes, 1, precision)
    assert found.distributed_type == ("MULTI_GPU" if processes > 1 else "NO")
    assert found.use_cpu == (name == "cpu")


def test_no_configuration_is_left_out() -> None:
    assert {path.name for path in CONFIGS.iterdir()} == {"cpu.yaml", "one_gpu.yaml", "8xh100.yaml", "slurm.sh"}
