"""What a run runs on: precision, devices, versions, commit."""

import os
import platform
import subprocess
import warnings
from pathlib import Path
from typing import Any

import accelerate
import psutil
import timm
import torch
from accelerate import Accelerator
from accelerate.utils import get_int_from_env

from kkanji import __version__

LEAST_THREADS, MOST_THREADS = 2, 16  # of a loader: one core may be a rank's own; a host's 128 have 16 for each of 8


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """What a result depends on beside options and data."""
    return {
        "kkanji": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "accelerate": accelerate.__version__,
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "torch_threads": torch.get_num_threads(),
        "loader_threads": loader_threads(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; emulated, it is many times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def precision_name(wanted: str) -> str:
    """Accelerate's name of the precision."""
    if wanted == "auto":
        return "bf16" if torch.cuda.is_available() and has_bfloat16(torch.device("cuda")) else "no"
    return {"float32": "no", "bfloat16": "bf16"}[wanted]


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}: {platform.processor() or platform.machine()}, {psutil.cpu_count()} cores"


def commit() -> str | None:
    """The checkout's commit, if kkanji runs from one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None


def local_ranks() -> int:
    """Processes of the run on this node, by what launchers set; 1 where they do not say."""
    names = ["LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"]
    return max(1, int(get_int_from_env(names, 1)))


def loader_threads() -> int:
    """Threads of a process's loader: its share of the cores that it may use (`taskset` and schedulers limit them)."""
    share = len(os.sched_getaffinity(0)) // local_ranks()
    return min(max(share, LEAST_THREADS), MOST_THREADS)


def warn_of_idle_cores(accelerator: Accelerator) -> None:
    """`accelerate launch` gives each process one thread unless told otherwise."""
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    if accelerator.device.type == "cpu" and accelerator.is_main_process and threads * accelerator.num_processes < cores:
        remedy = "give accelerate launch --num_cpu_threads_per_process, or set OMP_NUM_THREADS"
        warnings.warn(f"torch uses {threads} thread(s) a process on {cores} cores; {remedy}", UserWarning, stacklevel=2)


def warn_of_emulation(accelerator: Accelerator) -> None:
    """Asked for bfloat16, a processor without it takes longer, not less: `fused_s` 18 times (docs/LOG.md)."""
    if accelerator.mixed_precision == "bf16" and accelerator.is_main_process and not has_bfloat16(accelerator.device):
        remedy = "give --precision float32"
        found = f"{device_name(accelerator.device)} has no bfloat16 and emulates it, many times slower than float32"
        warnings.warn(f"{found}; {remedy}", UserWarning, stacklevel=2)
