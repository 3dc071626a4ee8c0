"""Locks one folder in processes that race and are killed.

    python -m tests.faults.lockers racing FOLDER ROUNDS  two processes at once for each folder
    python -m tests.faults.lockers killed FOLDER ROUNDS  the holder is SIGKILLed, while a fork of it lives on

Printed as JSON: for each round the answers of the processes, "held" or the error message, in any order.
"""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shards import FolderLock, InputError
from tests.faults.injector import answer
from tests.faults.writers import fork, wait

MOST_BYTES = 4096


def hold(folder: Path, answers: int, until: Callable[[], object]) -> None:
    """Report whether the lock succeeded, and hold it until `until` returns."""
    try:
        with FolderLock(folder):
            os.write(answers, f"held by {os.getpid()}\n".encode())
            until()
    except InputError as error:
        os.write(answers, f"{error}\n".encode())


def race(folder: Path) -> list[str]:
    """Both start when the first pipe closes; the winner stays until the second does."""
    (start, starter), (end, ender), (reading, writing) = os.pipe(), os.pipe(), os.pipe()

    def run() -> None:
        os.close(starter)
        os.close(ender)
        os.read(start, 1)
        hold(folder, writing, partial(os.read, end, 1))

    children = [fork(run), fork(run)]
    os.close(starter)
    answered = b""
    while answered.count(b"\n") < len(children):
        answered += os.read(reading, MOST_BYTES)
    os.close(ender)
    assert [wait(child) for child in children] == [0, 0]
    for descriptor in (start, end, reading, writing):
        os.close(descriptor)
    return answered.decode().splitlines()


def killed(folder: Path) -> list[str]:
    """Locked by a process that is killed, then by another one."""
    reading, writing = os.pipe()

    def hold_and_fork() -> None:
        fork(partial(time.sleep, 1))
        time.sleep(60)

    child = fork(partial(hold, folder, writing, hold_and_fork))
    answered = os.read(reading, MOST_BYTES)
    time.sleep(0.02)  # for the fork
    os.kill(child, signal.SIGKILL)
    wait(child)
    hold(folder, writing, lambda: None)
    answered += os.read(reading, MOST_BYTES)
    for descriptor in (reading, writing):
        os.close(descriptor)
    return answered.decode().splitlines()


def rounds(once: Callable[[Path], list[str]], folder: Path, count: int) -> list[list[str]]:
    return [once(folder / f"{number:05d}") for number in range(count)]


if __name__ == "__main__":
    answer({"racing": partial(rounds, race), "killed": partial(rounds, killed)})
