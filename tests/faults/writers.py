"""Writes small shard sets in processes that something happens to; a test then looks at what they left.

    python -m tests.faults.writers write FOLDER COUNT     undisturbed
    python -m tests.faults.writers killed-by-step FOLDER  one process for each step that touches a file, SIGKILLed there
    python -m tests.faults.writers killed-by-clock FOLDER KILLS  each killed after a random part of the usual time
    python -m tests.faults.writers killed-by-write FOLDER  the same for each write and fsync: before it, half way, after
    python -m tests.faults.writers signalled FOLDER SIGNAL COUNT  each sent the signal at a random moment of writing
    python -m tests.faults.writers racing FOLDER ROUNDS   two processes at once on each output
    python -m tests.faults.writers full FOLDER            more than fits on the file system
    python -m tests.faults.writers full-at-end FOLDER     the shards fit on the file system, what completes the set not
    python -m tests.faults.writers limited FOLDER         more than the process may write (ulimit -f)

Output goes to FOLDER/00000, FOLDER/00001 ...; an output that exists is replaced. What happened is printed as JSON: exit
codes, negative for a signal, or messages. Processes are forks of this one, which makes a kill cost milliseconds.
"""

import contextlib
import io
import itertools
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kkanji import cli
from shards import InputError, Manifest, OutputFolder, Samples, Split, shard_name, write_manifest, write_shard
from tests.faults.injector import answer

REFUSED = 3
BLOCKS = ((2, 1), (1,))
SAMPLES = sum(map(sum, BLOCKS))
NAMES: dict[str, Any] = {"name": "", "licence": "", "lineage": "known", "seed": 0}


def write(output: Path, *, overwrite: bool = False) -> None:
    """Write the same few images each time. Messages about a replacement go to stderr: stdout carries the answer."""
    with redirect_stdout(sys.stderr), OutputFolder(output, maker="writers", overwrite=overwrite) as folder:
        shards = []
        for number, sizes in enumerate(BLOCKS):
            shards.append(write_shard(folder / shard_name("train", number), [block(size) for size in sizes]))
        split = Split(shards=tuple(shards), samples_per_class=(SAMPLES,), originals_per_class=(2,))
        write_manifest(folder, Manifest(classes=1, splits={"train": split}, **NAMES), "{}")


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
    """Kills at random moments until there were so many; a process that was ready before it is no kill."""
    write(folder / "undisturbed")  # compiles, or loads what is compiled
    start = time.perf_counter()
    write(folder / "undisturbed", overwrite=True)
    usual_s = time.perf_counter() - start
    codes: list[int] = []
    while codes.count(-signal.SIGKILL) < kills:
        child = fork(partial(write, folder / f"{len(codes):05d}", overwrite=True))
        time.sleep(random.uniform(0, usual_s))
        os.kill(child, signal.SIGKILL)
        codes.append(wait(child))
    return codes


class Dying:
    """Counts what goes to the disk: each write is three steps, before it, half way and after it; an fsync is two."""

    def __init__(self, step: int) -> None:
        self._left = step
        self._write, self._fsync = os.write, os.fsync

    def step(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def write(self, descriptor: int, data: Any) -> int:
        """All of it, as a disk does that has room."""
        view = memoryview(data).cast("B")
        self.step()
        for part in (view[: len(view) // 2], view[len(view) // 2 :]):
            self._write(descriptor, part)
            self.step()
        return len(view)

    def fsync(self, descriptor: int) -> None:
        self.step()
        self._fsync(descriptor)
        self.step()

    def open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        """As io.open; what is opened for writing writes by the method above."""
        if mode != "wb":
            return opened(file, mode, *arguments, **options)
        return io.BufferedWriter(DyingFile(file, self))


class DyingFile(io.FileIO):
    def __init__(self, path: Path, dying: Dying) -> None:
        super().__init__(path, "wb")
        self._dying = dying

    def write(self, data: Any) -> int:
        return self._dying.write(self.fileno(), data)


opened = io.open


def killed_at_write(step: int, output: Path) -> None:
    """Write, but die at the step-th of these steps."""
    dying = Dying(step)
    io.open, os.fsync = dying.open, dying.fsync  # type: ignore[assignment]
    write(output, overwrite=True)


def killed_by_write(folder: Path) -> list[int]:
    """As killed_by_step."""
    codes: list[int] = []
    while not codes or codes[-1]:
        codes.append(wait(fork(partial(killed_at_write, len(codes), folder / f"{len(codes):05d}"))))
    return codes


def signalled(folder: Path, number: int, count: int) -> list[dict[str, Any]]:
    """How each command ended that would have written for a minute: its code, seconds, stderr and what it left."""
    return [signalled_once(folder / f"{turn:05d}", number) for turn in range(count)]


def signalled_once(folder: Path, number: int) -> dict[str, Any]:
    folder.mkdir()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        try:
            cli.run(partial(write_long, folder / "set"))
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
    os.close(writing)
    while not any(folder.glob(".set.partial/*.tar")):
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, number)
    asked = time.perf_counter()
    code = wait(child)
    seconds = time.perf_counter() - asked
    with os.fdopen(reading) as errors:
        return {"code": code, "seconds": seconds, "told": errors.read(), "left": sorted(map(str, folder.iterdir()))}


def write_long(output: Path) -> None:
    """A shard after another, as pack does in one thread."""
    deadline = time.monotonic() + 60
    with OutputFolder(output) as folder:
        for number in itertools.count():
            write_shard(folder / shard_name("train", number), (block(250) for _ in range(4)))
            if time.monotonic() > deadline:
                return


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


def full_at_end(folder: Path) -> dict[str, object]:
    """Write a set, but for the last of it find the disk filled by others."""
    try:
        with OutputFolder(folder / "00000") as partial:
            shard = write_shard(partial / shard_name("train", 0), [block(100)])
            fill(folder / "of-others")
            split = Split(shards=(shard,), samples_per_class=(100,), originals_per_class=(100,))
            write_manifest(partial, Manifest(classes=1, splits={"train": split}, **NAMES), "{}" * 5000)
    except InputError as error:
        left = sorted(path.name for path in folder.iterdir())
        return {"kind": type(error).__name__, "message": str(error), "left": left}
    return {}


def fill(path: Path) -> None:
    """Take all that the file system has left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def limited(folder: Path) -> dict[str, object]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    return too_much(folder)


def main() -> None:
    """Run a command of the table above."""
    commands: dict[str, Callable[..., object]] = {
        "write": undisturbed,
        "killed-by-step": killed_by_step,
        "killed-by-clock": killed_by_clock,
        "killed-by-write": killed_by_write,
        "signalled": signalled,
        "racing": racing,
        "full": too_much,
        "full-at-end": full_at_end,
        "limited": limited,
    }
    answer(commands)


if __name__ == "__main__":
    main()
