"""What started this process: the launcher to end with, the processes that it was asked for, the network they meet on.

`accelerate launch`, torchrun and srun say in variables which of how many processes each one is. With one process, or on
a CPU, `accelerate launch` starts the script as it is, once, whatever number of processes it was given.
"""

import os
import re
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

LOOK_S = 1.0  # seconds between two looks at the launcher
# How the first words of launchers' command lines begin: programs, `python -m` modules, a SLURM job's own parent.
LAUNCHERS = (
    *("accelerate", "torchrun", "torch.distributed.", "deepspeed"),
    *("srun", "slurmstepd", "mpirun", "mpiexec", "orted", "prted", "hydra_pmi_proxy"),
)
# Numbers of processes, as torchrun and the MPI implementations give them.
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PROCESSES = re.compile(r"--num[-_](?:processes|machines)(?:=| )(\d+)")


def end_with_launcher() -> None:
    """Have SIGTERM sent to this process when the launcher that started it ends, however it does.

    A launcher that is killed leaves its processes training; with one process, `accelerate launch` passes no signal on.
    Without a launcher nothing changes: a run that a shell started in the background continues after the shell.
    """
    launcher = launching()
    if launcher is not None:
        threading.Thread(target=_follow, args=[launcher], name="launcher", daemon=True).start()


def rank_name() -> str:
    """This process among those of its run, as messages name it. Known before the ranks have met."""
    return f"rank {os.environ.get('RANK', '0')} ({socket.gethostname()})"


def wanted_processes() -> int:
    """The number of processes that the launcher was asked for. 2 stands for "several" where it does not say."""
    sizes = [int(os.environ[name]) for name in WORLD_SIZES if os.environ.get(name, "").isdecimal()]
    if sizes:
        return max(sizes)
    # `accelerate launch` sets them for several processes, even where it starts one (prepare_simple_launcher_cmd_env).
    if not {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys():
        return 1
    launcher = launching()
    words = " ".join(launcher.cmdline()) if launcher else ""
    return max(map(int, PROCESSES.findall(words)), default=2)


def network() -> str:
    """The network interface that ranks meet on: the one that gloo's variable names, or that of this host's own name."""
    chosen = os.environ.get("GLOO_SOCKET_IFNAME")
    if chosen:
        return f"{chosen}, as GLOO_SOCKET_IFNAME says"
    with suppress(OSError):
        address = socket.gethostbyname(socket.gethostname())
        return f"{_interfaces().get(address, 'none')}, as {socket.gethostname()} is {address}"
    return "lo, as this host's name has no address"


def _interfaces() -> dict[str, str]:
    """Address -> network interface."""
    return {each.address: name for name, addresses in psutil.net_if_addrs().items() for each in addresses}


def launching() -> psutil.Process | None:
    """The nearest launcher among the processes that this one descends from."""
    with suppress(psutil.Error):
        return next(filter(_launches, psutil.Process().parents()), None)
    return None


def _launches(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(Path(word).name.startswith(LAUNCHERS) for word in process.cmdline()[:3])
    return False


def _follow(launcher: psutil.Process) -> None:
    while _lives(launcher):
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
