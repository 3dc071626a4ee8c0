"""The environment of a run: versions, commit, devices, precision, threads."""

import hashlib
import os
import platform
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from kkanji import __version__

if TYPE_CHECKING:
    from accelerate import Accelerator

# Threads of a loader: at least 2, even if a rank has only one core of its own; at most 16, what each of 8 ranks gets of
# a host's 128 cores.
LEAST_THREADS = 2
MOST_THREADS = 16
# Of this process as it was started: `stay_near` takes some away, which are then shared by fewer processes.
CORES = frozenset(os.sched_getaffinity(0))
PCI_DEVICES = Path("/sys/bus/pci/devices")  # what the kernel tells of a GPU's place: local_cpulist, as in "0-27,56-83"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    import accelerate  # both take seconds, which predicting does not need
    import timm

    packages = {"torch": torch.__version__, "timm": timm.__version__, "accelerate": accelerate.__version__}
    return {"kkanji": __version__, "python": platform.python_version(), **packages}


def code() -> str:
    """sha256 of the sources of kkanji and shards. A commit would say nothing of changes that are not committed."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("kkanji", "shards") for path in (root / package).rglob("*.py")):
        source = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def environment(accelerator: "Accelerator") -> dict[str, Any]:
    """What a result depends on besides options and data, as config.json records it."""
    return {
        **versions(),
        "commit": commit(),
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "torch_threads": torch.get_num_threads(),
        "loader_threads": loader_threads(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16. Emulated, it is many times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def precision_name(wanted: str) -> str:
    """Accelerate's name for the --precision: "bf16" or "no". "auto" is bf16 on a GPU that has it."""
    if wanted == "auto":
        return "bf16" if torch.cuda.is_available() and has_bfloat16(torch.device("cuda")) else "no"
    return {"float32": "no", "bfloat16": "bf16"}[wanted]


def choose_kernels(*, benchmark: bool) -> None:
    """Set how a GPU's libraries compute, for the whole process, whatever torch's defaults are.

    float32 is float32: by default cuDNN rounds the factors of convolutions to TF32's ten bits.
    benchmark: Whether cuDNN tries its algorithms for each new shape and keeps the fastest. That pays where a shape
    comes thousands of times. Runs may then differ in the last bits, which no GPU run promises to repeat.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = benchmark


def stay_near(device: torch.device) -> None:
    """Keep this process, one of several on its node, and threads that it starts later on the cores nearest to its GPU.

    Otherwise the system may move it to another socket, through which all that it sends to the GPU then passes.
    """
    if device.type != "cuda" or local_ranks() == 1:
        return
    found: Any = torch.cuda.get_device_properties(device)  # its annotations lack the place
    address = f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"
    cores = PCI_DEVICES / address / "local_cpulist"
    near = _parse_cores(cores.read_text()) & CORES if cores.is_file() else frozenset()
    if near:
        os.sched_setaffinity(0, near)


def _parse_cores(text: str) -> frozenset[int]:
    """The numbers in the kernel's list of cores."""
    ends = [part.split("-") for part in text.strip().split(",") if part]
    return frozenset(core for first, *last in ends for core in range(int(first), int((last or [first])[0]) + 1))


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor and its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}: {platform.processor() or platform.machine()}, {psutil.cpu_count()} cores"


def commit() -> str | None:
    """The git commit that kkanji runs from; None outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None


def local_ranks() -> int:
    """Processes of the run on this node, from the variables that launchers set; 1 if none is set."""
    from accelerate.utils import get_int_from_env  # takes a second, which predicting does not need

    names = ["LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"]
    return max(1, int(get_int_from_env(names, 1)))


def loader_threads() -> int:
    """Threads for the loader of this process: the cores it may use, divided among the ranks of this node.

    The affinity counts, not the number of cores: `taskset` and job schedulers limit it.
    """
    cores = len(CORES) // local_ranks()
    return min(max(cores, LEAST_THREADS), MOST_THREADS)


def warn_of_idle_cores(accelerator: "Accelerator") -> None:
    """Warn if torch uses fewer threads than there are cores: by default `accelerate launch` gives each process one."""
    cores = len(os.sched_getaffinity(0))
    threads = torch.get_num_threads()
    if accelerator.device.type == "cpu" and accelerator.is_main_process and threads * accelerator.num_processes < cores:
        found = f"torch uses {threads} thread(s) in each process on {cores} cores"
        remedy = "give accelerate launch --num_cpu_threads_per_process, or set OMP_NUM_THREADS"
        warnings.warn(f"{found}; {remedy}", UserWarning, stacklevel=2)


def warn_of_emulation(accelerator: "Accelerator") -> None:
    """Warn if bfloat16 is emulated, which is slower, not faster: 18 times for `fused_s` (docs/LOG.md)."""
    if accelerator.mixed_precision == "bf16" and accelerator.is_main_process and not has_bfloat16(accelerator.device):
        found = f"{device_name(accelerator.device)} has no bfloat16 and emulates it, many times slower than float32"
        remedy = "give --precision float32"
        warnings.warn(f"{found}; {remedy}", UserWarning, stacklevel=2)
