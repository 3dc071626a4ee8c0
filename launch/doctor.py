"""Examine a machine before a run: `kkanji doctor`. Every finding that is not well says what to do."""

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kkanji import cli

GIGABYTE = 10**9
# The oldest drivers of each major version of CUDA: NVIDIA, CUDA Compatibility, table "minor version compatibility".
OLDEST_DRIVER = {12: (525, 60), 13: (580, 65)}
DRIVER = Path("/proc/driver/nvidia/version")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where processes of a node share what they know of the cache
LEAST_SHARED, LEAST_CACHE, LEAST_FILES = GIGABYTE, 10 * GIGABYTE, 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig:
    """Examine this machine: versions, devices, DALI, memory, disks and, where one is named, a set's storage.

    It ends with status 1 if something would stop a run. Example: kkanji doctor --data s3://bucket/prefix
    """

    data: str | None = None
    """Shard set to reach: a folder or a URL. None leaves storage out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one look has found."""

    what: str
    text: str
    remedy: str = ""
    """What to do. Empty where all is well."""
    stops: bool = False
    """Whether a run would fail, and not only be slow."""

    def __str__(self) -> str:
        mark = "PROBLEM" if self.stops else "careful" if self.remedy else "ok"
        return f"{mark:8} {self.what:14} {self.text}{f'; {self.remedy}' if self.remedy else ''}"


def versions() -> Finding:
    """Of what a result depends on; torch and torchvision must be made for each other."""
    try:
        import torchvision

        from kkanji.environment import versions as found
    except (ImportError, RuntimeError, OSError) as error:
        remedy = "install again with `pip install --constraint constraints.txt kkanji`"
        return Finding(what="packages", text=f"{type(error).__name__}: {error}", remedy=remedy, stops=True)
    named = found() | {"torchvision": torchvision.__version__}
    return Finding(what="packages", text=", ".join(f"{name} {version}" for name, version in named.items()))


def processor() -> Finding:
    """Cores that this process may use, and threads of torch."""
    import torch

    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    text = f"{cores} of {os.cpu_count()} cores, {threads} threads of torch"
    wrong = "OMP_NUM_THREADS" in os.environ and threads < cores and not torch.cuda.is_available()
    return Finding(what="processor", text=text, remedy="unset OMP_NUM_THREADS, or raise it" if wrong else "")


def memory() -> Finding:
    """Of the host."""
    import psutil

    found = psutil.virtual_memory()
    text = f"{found.available / GIGABYTE:.1f} of {found.total / GIGABYTE:.1f} GB available"
    low = found.available < 4 * GIGABYTE
    return Finding(what="memory", text=text, remedy="end other programs, or train with fewer processes" if low else "")


def devices() -> Finding:
    """GPUs, and whether their driver suits the CUDA that torch was made for."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding(what="GPUs", text=f"{', '.join(names)}; CUDA {torch.version.cuda}")
    driver = driver_version()
    if driver is None:
        return Finding(what="GPUs", text="none, nor a driver of NVIDIA's: runs are on the CPU")
    return _unusable(driver, torch.version.cuda)


def _unusable(shown: str, cuda: str | None) -> Finding:
    driver = tuple(map(int, shown.split(".")))
    if cuda is None:
        remedy = "install torch for CUDA: `pip install --force-reinstall torch torchvision`"
        return Finding(what="GPUs", text=f"driver {shown}, but a torch for CPUs only", remedy=remedy, stops=True)
    least = OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    if least and driver < least:
        needed = ".".join(map(str, least))
        remedy = f"update the driver to {needed} or later, or install a torch made for an older CUDA"
        return Finding(what="GPUs", text=f"driver {shown} is too old for CUDA {cuda}", remedy=remedy, stops=True)
    remedy = "see `nvidia-smi`; a container needs `docker run --gpus all`"
    return Finding(what="GPUs", text=f"driver {shown} suits CUDA {cuda}, but no GPU", remedy=remedy, stops=True)


def driver_version(file: Path = DRIVER) -> str | None:
    """The version of NVIDIA's kernel driver; None without one."""
    if not file.is_file():
        return None
    words = file.read_text(encoding="utf-8").split()
    return next((word for word in words if word.replace(".", "").isdigit() and "." in word), "0.0")


def loader() -> Finding:
    """A batch through DALI, gathered and augmented, on the device that a run would use."""
    import numpy as np
    import torch

    from kkanji import Feed, Loader, Policy, open_set, write_set
    from shards import SampleOrder

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with TemporaryDirectory() as folder:
            images = np.zeros((4, 64, 64), np.uint8)
            write_set(Path(folder) / "set", {"train": (images, np.arange(4) % 2)}, "一二", name="doctor")
            train = open_set(Path(folder) / "set").split("train")
            feed = Feed(reader=train, order=SampleOrder(samples=4, seed=0), classes=2, policy=Policy())
            with Loader(feed, [(0, 4)], device, largest=4) as batches:
                count = sum(len(batch.labels) for batch in batches)
    except Exception as error:
        remedy = "install again with `pip install --constraint constraints.txt kkanji`, and report this if it stays"
        return Finding(what="DALI", text=f"{type(error).__name__}: {str(error)[-300:]}", remedy=remedy, stops=True)
    return Finding(what="DALI", text=f"{count} images gathered and augmented on {device.type}")


def shared_memory(folder: Path = SHARED_MEMORY) -> Finding:
    """Free room where ranks of a node share memory; containers give 64 MB."""
    free = shutil.disk_usage(folder).free
    low = free < LEAST_SHARED
    remedy = "start the container with `docker run --shm-size 8g`" if low else ""
    return Finding(what="shared memory", text=f"{free / GIGABYTE:.2f} GB free in {folder}", remedy=remedy)


def cache() -> Finding:
    """Room and locks of the cache's folder."""
    from shards import StorageError, default_cache

    try:
        with default_cache() as found:
            folder, free = found.folder, shutil.disk_usage(found.folder).free
    except (StorageError, OSError) as error:
        remedy = "set KKANJI_CACHE to a folder on a local disk"
        return Finding(what="cache", text=str(error), remedy=remedy, stops=True)
    remedy = "set KKANJI_CACHE to a folder on a larger disk" if free < LEAST_CACHE else ""
    return Finding(what="cache", text=f"{free / GIGABYTE:.1f} GB free in {folder}", remedy=remedy)


def open_files() -> Finding:
    """The limit of open files, which many shards and connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = 0 <= soft < LEAST_FILES
    return Finding(what="open files", text=f"{soft} at most", remedy=f"`ulimit -n {hard}`" if low else "")


def storage(location: str) -> Finding:
    """Whether a set can be opened, with the credentials that are there."""
    from time import perf_counter

    from kkanji import open_set
    from shards import InputError, ShardError

    start = perf_counter()
    try:
        data = open_set(location)
        for name in data.manifest.splits:
            data.split(name)
    except (ShardError, InputError) as error:
        remedy = "docs/clusters.md names the variables for credentials"
        return Finding(what="storage", text=str(error), remedy=remedy, stops=True)
    images = sum(split.samples for split in data.manifest.splits.values())
    text = f"{location}: {data.manifest.name}, {images:,} images, opened in {perf_counter() - start:.1f} s"
    return Finding(what="storage", text=text)


LOOKS: tuple[Callable[[], Finding], ...] = (
    *(versions, processor, memory, devices, loader),
    *(shared_memory, cache, open_files),
)


def findings(config: DoctorConfig) -> Iterator[Finding]:
    """One after the other, as they are found. Without working packages nothing else can be looked at."""
    for look in LOOKS:
        found = look()
        yield found
        if look is versions and found.stops:
            return
    if config.data is not None:
        yield storage(config.data)


def main() -> None:
    """Examine, with the options of the command line; leaves with status 1 if something would stop a run."""
    stops = False
    for found in findings(cli.parse(DoctorConfig)):
        sys.stdout.write(f"{found}\n")
        sys.stdout.flush()
        stops |= found.stops
    if stops:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
