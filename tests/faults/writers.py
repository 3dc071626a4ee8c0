"""Writes small shard sets in processes that something happens to; a test then looks at what they left.

    python tests/faults/writers.py write FOLDER COUNT     undisturbed
    python tests/faults/writers.py killed-by-step FOLDER  one process for each step that touches a file, SIGKILLed there
    python tests/faults/writers.py killed-by-clock FOLDER KILLS  each killed after a random part of the usual time
    python tests/faults/writers.py racing FOLDER ROUNDS   two processes at once on each output
    python tests/faults/writers.py full FOLDER            more than fits on the file system
    python tests/faults/writers.py limited FOLDER         more than the process may write (ulimit -f)

Output goes to FOLDER/00000, FOLDER/00001 ...; an output that exists is replaced. What happened is printed as JSON: exit
codes, negative for a signal, or messages. Processes are forks of this one, which makes a kill cost milliseconds.
"""

import itertools
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from shards import InputError, Manifest, OutputFolder, Samples, Split, shard_name, write_manifest, write_shard

REFUSED = 3
BLOCKS = ((2, 1), (1,))
SAMPLES = sum(map(sum, BLOCKS))


def write(output: Path, *, overwrite: bool = False) -> None:
    """The same few images each time."""
    with OutputFolder(output, overwrite=overwrite) as folder:
        shards = []
        for number, sizes in enumerate(BLOCKS):
            shards.append(write_shard(folder / shard_name("train", number), [block(size) for size in sizes]))
        split = Split(shards=tuple(shards), samples_per_class=(SAMPLES,), originals_per_class=(2,))
        manifest = Manifest(name="", licence="", lineage="known", classes=1, seed=0, splits={"train": split})
        write_manifest(folder, manifest, "{}")


def block(size: int) -> Samples:
    """Samples of one class; the first originals of each block are the same."""
    images = (np.arange(size * 4096) % 251).astype(np.uint8).reshape(size, 64, 64)
    return Samples(images, np.zeros(size, np.int32), np.arange(size, dtype=np.uint64))


def undisturbed(folder: Path, count: int) -> None:
    """So many outputs."""
    for number in range(count):
        write(folder / f"{number:05d}", overwrite=True)


def fork(work: Callable[[], object]) -> int:
    """Do work in a new process; returns its id at once."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        os._exit(REFUSED)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    """A child's exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: int, output: Path) -> None:
    """Write, but die just before the step-th time that Python touches a file under the output's parent."""
    steps = itertools.count()

    def hook(_: str, arguments: tuple[object, ...]) -> None:
        names = [str(argument) for argument in arguments[:2] if isinstance(argument, str | os.PathLike)]
        if any(str(output.parent) in name for name in names) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    write(output, overwrite=True)


def killed_by_step(folder: Path) -> list[int]:
    """A kill at each step, until a process has fewer steps than that and ends well."""
    codes: list[int] = []
    while not codes or codes[-1]:
        output = folder / f"{len(codes):05d}"
        codes.append(wait(fork(partial(killed_at, len(codes), output))))
    return codes


def killed_by_clock(folder: Path, kills: int) -> list[int]:
    """A kill at a random moment each."""
    start = time.perf_counter()
    write(folder / "undisturbed")
    usual_s = time.perf_counter() - start
    codes = []
    for number in range(kills):
        child = fork(partial(write, folder / f"{number:05d}", overwrite=True))
        time.sleep(random.uniform(0, usual_s))
        os.kill(child, signal.SIGKILL)
        codes.append(wait(child))
    return codes


def racing(folder: Path, rounds: int) -> list[list[int]]:
    """Two processes that start to write one output at the same moment."""
    return [race(folder / f"{number:05d}") for number in range(rounds)]


def race(output: Path) -> list[int]:
    """Both children wait for the pipe to close."""
    gate, keeper = os.pipe()

    def start() -> None:
        os.close(keeper)
        os.read(gate, 1)
        write(output)

    children = [fork(start), fork(start)]
    os.close(keeper)
    os.close(gate)
    return [wait(child) for child in children]


def too_much(folder: Path) -> dict[str, object]:
    """Write until the disk refuses; tell the message and what is left behind."""
    try:
        with OutputFolder(folder / "00000") as partial:
            write_shard(partial / "a.tar", (block(100) for _ in range(100)))
    except InputError as error:
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        return {"kind": type(error).__name__, "message": str(error), "left": left}
    return {}


def limited(folder: Path) -> dict[str, object]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    return too_much(folder)


def main() -> None:
    """Run a command of the table above."""
    command, folder, *counts = sys.argv[1:]
    commands: dict[str, Callable[..., object]] = {
        "write": undisturbed,
        "killed-by-step": killed_by_step,
        "killed-by-clock": killed_by_clock,
        "racing": racing,
        "full": too_much,
        "limited": limited,
    }
    sys.stdout.write(json.dumps(commands[command](Path(folder), *map(int, counts))))


if __name__ == "__main__":
    main()
