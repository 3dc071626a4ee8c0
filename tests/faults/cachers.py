"""Processes that use a cache and that something happens to; a test then looks at what they left.

    python -m tests.faults.cachers churn FOLDER PROCESSES KILLS  random use of a small cache, SIGKILLs at random moments
    python -m tests.faults.cachers killed-by-step FOLDER  one process for each step that touches a file, SIGKILLed there
    python -m tests.faults.cachers dying-maker FOLDER     another process waits for what a killed one was making
    python -m tests.faults.cachers stopped-maker FOLDER   another process waits for what a SIGSTOPped one is making
    python -m tests.faults.cachers forked FOLDER          a fork outlives the process whose cache it was
    python -m tests.faults.cachers together FOLDER PROCESSES  all need the same files at the same moment
    python -m tests.faults.cachers descriptors FOLDER     at most 64 open files, 100 files in use by 8 threads
    python -m tests.faults.cachers full FOLDER            more than fits on the file system

What happened is printed as JSON. A file's content follows from its number, and its key is the content's sha256, so that
whoever looks needs no list. Processes are forks of this one.
"""

import fcntl
import hashlib
import json
import mmap
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import count
from pathlib import Path

from shards import InputError
from shards.cache.cache import Cache, Entry
from shards.cache.names import LEASE_NAME, leased_key
from tests.faults.injector import answer
from tests.faults.writers import fork, wait

FILES = 12
MOST_BYTES = 40_000
DEADLINE_S = 60.0  # against a hang; nothing takes a tenth of it


@cache
def content(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def entry(number: int, size: int | None = None, make: Callable[[Path], None] | None = None) -> Entry:
    """A file of its own size, written in two steps."""
    data = content(number, size or MOST_BYTES - 1000 * number)

    def write(path: Path) -> None:
        with path.open("xb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            time.sleep(0.002)
            file.write(data[len(data) // 2 :])

    def check(path: Path) -> str | None:
        return None if path.read_bytes() == data else "wrong bytes"

    return Entry(key=f"{hashlib.sha256(data).hexdigest()}.tar", size=len(data), make=make or write, check=check)


def use(cache: Cache, chosen: Entry) -> None:
    """Read a file as a reader does, and require that it stays where it is as long as it is in use."""
    path = cache.obtain(chosen, ahead=False)
    if path is None:
        raise RuntimeError("a file needed now was refused")
    inode = path.stat().st_ino
    time.sleep(random.uniform(0, 0.004))
    if path.stat().st_ino != inode or chosen.check(path):
        raise RuntimeError(f"{path} changed while in use")
    cache.release(chosen.key)


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Keep every process from changing the folder's names, by its lock file alone: no code of the cache's own."""
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def problems(folder: Path, limit: int) -> Iterator[str]:
    """What is wrong in a folder: more bytes than allowed, or a finished file that is not what its name says."""
    with frozen(folder):
        sizes = {path: path.stat().st_size for path in folder.iterdir() if ".tar" in path.name}
        if sum(sizes.values()) > limit:
            yield f"{sum(sizes.values())} bytes of {limit}: {sorted(path.name for path in sizes)}"
        for path in sizes:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if not path.name.startswith((".", digest)):
                yield f"{path.name} has sha256 {digest}"


def churn(folder: Path, processes: int, kills: int) -> dict[str, object]:
    """Each process may have one file in use; the limit has room for just that."""
    limit = processes * MOST_BYTES
    Cache(folder, limit).close()
    done = mmap.mmap(-1, 8 * processes)  # uses by each place in the row, shared with the forks
    start = partial(start_user, folder, limit, done)
    children = [start(place) for place in range(processes)]
    found: list[str] = []
    for _ in range(kills):
        time.sleep(random.uniform(0, 0.03))
        found += problems(folder, limit)
        place = random.randrange(processes)
        os.kill(children[place], signal.SIGKILL)
        if (code := wait(children[place])) != -signal.SIGKILL:
            found.append(f"a process ended by itself: {code}")
        children[place] = start(place)
    codes = stop(children, done)
    found += problems(folder, limit)
    Cache(folder, limit).close()
    left = [name for name in names(folder) if name.startswith(".")]
    return {"problems": found, "codes": codes, "left": left, "uses": uses(done)}


def start_user(folder: Path, limit: int, done: mmap.mmap, place: int) -> int:
    return fork(partial(use_until_terminated, folder, limit, done, place, random.getrandbits(32)))


def use_until_terminated(folder: Path, limit: int, done: mmap.mmap, place: int, choices: int) -> None:
    """Use files and bring others in ahead of use, until SIGTERM."""
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    random.seed(choices)  # a fork has its parent's generator, and all would do the same
    with Cache(folder, limit, wait_s=DEADLINE_S) as shared:
        while not terminated.is_set():
            ahead = entry(random.randrange(FILES))
            shared.obtain(ahead, ahead=True)
            use(shared, entry(random.randrange(FILES)))
            if random.random() < 0.7:
                shared.release(ahead.key)
            count_use(done, place)


def count_use(done: mmap.mmap, place: int) -> None:
    slot = slice(8 * place, 8 * place + 8)
    done[slot] = (int.from_bytes(done[slot], "little") + 1).to_bytes(8, "little")


def uses(done: mmap.mmap) -> list[int]:
    return [int.from_bytes(done[start : start + 8], "little") for start in range(0, len(done), 8)]


def stop(children: list[int], done: mmap.mmap) -> list[int]:
    """Wait for a few more uses by every process, then end all by SIGTERM; kill one that hangs, as its code shows."""
    goal = [before + 3 for before in uses(done)]
    until = time.monotonic() + DEADLINE_S
    while any(now < wanted for now, wanted in zip(uses(done), goal, strict=True)) and time.monotonic() < until:
        time.sleep(0.01)
    for child in children:
        os.kill(child, signal.SIGTERM)
    killers = [threading.Timer(DEADLINE_S, os.kill, (child, signal.SIGKILL)) for child in children]
    for killer in killers:
        killer.start()
    codes = [wait(child) for child in children]
    for killer in killers:
        killer.cancel()
    return codes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_by_step(folder: Path) -> dict[str, object]:
    """A kill at each step, until a process has fewer steps than that and ends well; what is wrong after each."""
    codes: list[int] = []
    found: list[str] = []
    while not codes or codes[-1]:
        place = folder / f"{len(codes):03d}"
        place.mkdir()
        (place / entry(2).key).write_bytes(bytes(entry(2).size))  # a file that went bad
        codes.append(wait(fork(partial(killed_at, len(codes), place))))
        found += [problem for problem in problems(place, 2 * MOST_BYTES) if entry(2).key not in problem]
        if wait(fork(partial(use_each, place))):
            found.append(f"{place}: the next process fails")
        found += problems(place, 2 * MOST_BYTES)
        found += [str(place / name) for name in names(place) if name.startswith(".") and name != ".lock"]
    return {"codes": codes, "problems": found}


def killed_at(step: int, folder: Path) -> None:
    """Use the cache, but die just before the step-th time that Python touches a file in the folder."""
    steps = count()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        touched = [str(argument) for argument in arguments[:2] if isinstance(argument, str | os.PathLike)]
        named = any(str(folder) in name for name in touched) or event in ("fcntl.flock", "os.truncate")
        if named and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    use_each(folder)


def use_each(folder: Path) -> None:
    """Ahead and now, with and without eviction, and a file that has to be made again."""
    with Cache(folder, 2 * MOST_BYTES) as shared:
        shared.obtain(entry(0), ahead=True)
        for number in (0, 1, 2, 0, 1):
            use(shared, entry(number))
        shared.obtain(entry(2), ahead=True)


def stuck_item(entered: Path) -> Entry:
    """A file whose first maker never ends; the next one is quick."""
    quick = entry(0)

    def make(path: Path) -> None:
        if entered.exists():
            quick.make(path)
            return
        path.write_bytes(b"half")
        entered.touch()
        time.sleep(DEADLINE_S)

    return entry(0, make=make)


def beside_a_maker(folder: Path, number: int) -> tuple[int, dict[str, object]]:
    """Send a signal to a process that makes a file which this process waits for."""
    chosen = stuck_item(folder / "entered")
    maker = fork(lambda: use(Cache(folder, MOST_BYTES), chosen))
    while not (folder / "entered").exists():
        time.sleep(0.005)
    with Cache(folder, MOST_BYTES, wait_s=1.0) as shared:
        refused = shared.obtain(chosen, ahead=True)
        threading.Timer(0.2, lambda: os.kill(maker, number)).start()
        try:
            path = shared.obtain(chosen, ahead=False)
            found: dict[str, object] = {"right": path is not None and chosen.check(path) is None}
        except InputError as error:
            found = {"kind": type(error).__name__, "message": str(error)}
    return maker, {"pid": maker, "refused": refused is None, **found}


def dying_maker(folder: Path) -> dict[str, object]:
    maker, found = beside_a_maker(folder, signal.SIGKILL)
    return {**found, "code": wait(maker), "left": names(folder)}


def stopped_maker(folder: Path) -> dict[str, object]:
    maker, found = beside_a_maker(folder, signal.SIGSTOP)
    os.kill(maker, signal.SIGKILL)
    return {**found, "code": wait(maker)}


def forked(folder: Path) -> dict[str, object]:
    """The child neither uses its parent's cache nor keeps the parent's files in use once the parent is dead."""
    reading, writing = os.pipe()

    def parent() -> None:
        shared = Cache(folder, MOST_BYTES)
        shared.obtain(entry(0), ahead=False)
        code = wait(fork(partial(use, shared, entry(0))))
        orphan = fork(lambda: time.sleep(DEADLINE_S))
        os.write(writing, json.dumps({"code": code, "orphan": orphan}).encode())
        os.kill(os.getpid(), signal.SIGKILL)

    dead = wait(fork(parent))
    found = json.loads(os.read(reading, 1000))
    with Cache(folder, MOST_BYTES, wait_s=1.0) as shared:
        use(shared, entry(1))
    os.kill(found["orphan"], signal.SIGKILL)
    return {**found, "dead": dead, "right": names(folder) == [".lock", entry(1).key]}


def together(folder: Path, processes: int) -> dict[str, object]:
    """Processes wait for a pipe to close, then all use the same files; what they make is logged."""
    gate, keeper = os.pipe()
    log = folder / "makes.txt"
    log.touch()

    def logged(number: int) -> Entry:
        def make(path: Path) -> None:
            with log.open("a") as file:
                file.write(f"{number}\n")
            entry(number).make(path)

        return entry(number, make=make)

    def user() -> None:
        os.close(keeper)
        os.read(gate, 1)
        with Cache(folder, FILES * MOST_BYTES, wait_s=DEADLINE_S) as shared:
            for number in range(FILES):
                use(shared, logged(number))

    children = [fork(user) for _ in range(processes)]
    os.close(keeper)
    codes = [wait(child) for child in children]
    return {"codes": codes, "makes": log.read_text().split(), "files": len(names(folder)) - 2}


def held_bytes(folder: Path) -> int:
    """Bytes of the files that users of a cache hold."""
    leases = filter(None, map(LEASE_NAME.fullmatch, names(folder)))
    held = {leased_key(match) for match in leases if match[2] in ("use", "ahead")}
    return sum((folder / key).stat().st_size for key in held)


def descriptors(folder: Path) -> dict[str, object]:
    """Files opened and threads running after each of a few rounds."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    found = []
    with Cache(folder, 150 * 1000) as shared, ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            items = [entry(number, 1000) for number in range(100)]
            list(pool.map(lambda each: shared.obtain(each, ahead=True), items))
            list(pool.map(lambda each: shared.obtain(each, ahead=False), items))
            for each in items:
                shared.release(each.key)
            list(pool.map(lambda number: use(shared, entry(number, 1000)), range(100, 160)))
            found.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
        made = shared.counts.made
    return {"found": found, "made": made}


def full(folder: Path) -> dict[str, object]:
    """A file larger than the file system, then one that fits."""
    with Cache(folder, 1 << 30) as shared:
        try:
            shared.obtain(entry(0, 3 << 20), ahead=False)
        except InputError as error:
            found = {"kind": type(error).__name__, "message": str(error), "left": names(folder)}
        use(shared, entry(1))
        return {**found, "held": held_bytes(folder)}


def main() -> None:
    """Run a command of the table above."""
    commands: dict[str, Callable[..., object]] = {
        "churn": churn,
        "killed-by-step": killed_by_step,
        "dying-maker": dying_maker,
        "stopped-maker": stopped_maker,
        "forked": forked,
        "together": together,
        "descriptors": descriptors,
        "full": full,
    }
    answer(commands)


if __name__ == "__main__":
    main()
