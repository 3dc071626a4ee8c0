"""What a process makes of its launcher's variables and command line. The processes are in tests/launch."""

import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from kkanji import launchers
from kkanji.launchers import network, rank_name, wanted_processes
from tests.launch.commands import has_ended


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*launchers.WORLD_SIZES, "ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "RANK", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["accelerate", "launch", "--cpu", "--num_processes", "2", "train.py"], 2),
        (["accelerate", "launch", "--num-processes=3", "train.py"], 3),
        (["accelerate", "launch", "--num_machines", "4", "--num_processes", "4", "train.py"], 4),
        (["accelerate", "launch", "--num_processes", "1", "train.py"], 1),
        (["accelerate", "launch", "--config_file", "multi_cpu.yaml", "train.py"], 2),  # which number, the file says
    ],
)
def test_several_processes_of_accelerate_on_a_cpu_are_noticed(
    monkeypatch: pytest.MonkeyPatch, words: list[str], wanted: int
) -> None:
    """It sets an address to meet at, and starts one process, which knows of no other."""
    monkeypatch.setattr(launchers, "launching", lambda: SimpleNamespace(cmdline=lambda: words))
    assert wanted_processes() == 1
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert wanted_processes() == 1
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert wanted_processes() == wanted


def test_torchrun_and_mpi_give_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    assert wanted_processes() == 3
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert wanted_processes() == 4


def test_a_rank_and_its_network_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "5")
    assert rank_name() == f"rank 5 ({socket.gethostname()})"
    monkeypatch.setattr(socket, "gethostbyname", lambda _: "127.0.0.1")
    assert network() == f"lo, as {socket.gethostname()} is 127.0.0.1"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert network() == "eth7, as GLOO_SOCKET_IFNAME says"


SCRIPT = """
import sys, time
from kkanji.launchers import end_with_launcher, launching
found = launching()
end_with_launcher()
print(found and found.cmdline()[1].split("/")[-1], flush=True)
time.sleep(60)
"""
LAUNCH = "import subprocess, sys; subprocess.run(sys.argv[1:])"


@pytest.mark.parametrize("between", [[], ["sh", "-c", '"$@"; true', "sh"]])
def test_a_killed_launcher_takes_its_process_along(tmp_path: os.PathLike[str], between: list[str]) -> None:
    """Also one that a shell stands between."""
    launcher = os.path.join(tmp_path, "torchrun")
    with open(launcher, "w") as file:
        file.write(LAUNCH)
    command = [sys.executable, launcher, *between, sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "torchrun\n"
        script = psutil.Process(process.pid).children(recursive=True)[-1]
        process.send_signal(signal.SIGKILL)
        assert has_ended(script, 20)
