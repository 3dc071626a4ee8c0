"""A set that several processes fill together, shard by shard, and that survives the end of any of them.

    .NAME.unfinished/plan.json     the options of the set; every process that takes part must have the same
    .NAME.unfinished/receipts/     train-00000.json: a finished shard, as the manifest will describe it
    .NAME.unfinished/set/          the tars; becomes NAME when all receipts are there and the manifest is written

A process holds a shared lock on the plan while it takes part, and an exclusive lock on the tar that it is writing. Its
locks end with it. A tar without a receipt is written again; one with a receipt is read, checked and kept. The last
process to finish publishes the set. To join parts that were made on machines without a common disk, copy their receipts
and tars into one such folder.
"""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from shards import Block, InputError, Manifest, Shard, ShardError, StorageError, read_manifest, write_file
from shards.format import ustar
from shards.format.manifest_writer import write_manifest
from shards.json_reading import load_json
from shards.output.lock import open_locked, try_lock, unlock, wait_for_lock
from shards.output.ownership import Destination
from shards.verify.shard import byte_problems, size_problems

PLAN_NAME, LOCK_NAME, RECEIPTS_NAME, SET_NAME = "plan.json", "lock", "receipts", "set"
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
SHOWN = 5  # options named that differ

Outcome = Literal["made", "there", "others", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Which of the shards a process makes."""

    number: int
    """Number of the part, from 0 to `of` - 1."""
    of: int
    """Number of parts."""
    neighbours: int = 1
    """Processes on this machine that use its cores, this one included; 1 by default."""

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise InputError(f"--part {self.number}/{self.of}: expected i/n with 0 <= i < n, as in 0/2 and 1/2")

    def takes(self, shard: int) -> bool:
        """Whether this part makes a shard: every n-th, so that all parts have about the same work."""
        return shard % self.of == self.number


def parse_part(text: str | None) -> Part:
    """The part that `i/n` names. Without a text: this process's rank under torchrun or accelerate launch, or all."""
    if text is None:
        rank, world, local = (int(os.environ.get(name, default)) for name, default in zip(LAUNCHER, "011", strict=True))
        return Part(number=rank, of=world, neighbours=local)
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal()):
        raise InputError(f"--part {text}: expected i/n with 0 <= i < n, as in 0/2 and 1/2")
    return Part(number=int(number), of=int(of))


class SharedOutput:
    """A process's access to such a set: `with SharedOutput(destination, manifest, facts) as output:`.

    Finished shards are kept, however the block is left. Raises: InputError if the output must not be replaced or was
    begun with other options, StorageError if the disk fails.
    """

    def __init__(self, place: Destination, manifest: Manifest, facts: dict[str, Any] | None = None) -> None:
        """manifest: of the set, without shards yet. facts: other values that must be equal in all processes."""
        self._place, self.final = place, place.path
        self.folder = self.final.parent / f".{self.final.name}.unfinished"
        self._manifest = manifest
        self._plan = {"set": json.loads(manifest.to_json()), **(facts or {})}
        self._open = ExitStack()
        self.complete = False

    def __enter__(self) -> Self:
        with _explained(self.final), self._alone():
            self.complete = self._is_made()
            if self.complete:
                self._discard()
            else:
                self._refuse_existing()
                self._agree_on_plan()
                self._place.announce()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()  # the receipts stay: each stands for a shard that is complete and on the disk
        if error is not None and not isinstance(error, Exception):  # Ctrl-C, SIGTERM
            kept = f"finished shards are kept in {self.folder.name}"
            error.add_note(f"{self.final}: incomplete; {kept}; run the same command to resume")

    @contextmanager
    def claim(self, name: str) -> Iterator[Path | None]:
        """The tar to write, locked; None if another process is writing it."""
        path = self.folder / SET_NAME / name
        # Opened for appending: opening must not cut a tar that another process is writing under its lock.
        with path.open("ab") as file:
            yield path if try_lock(file.fileno()) else None

    def finished(self, name: str) -> Shard | None:
        """The shard by its receipt; None if there is none that can be read. The tar is not checked."""
        try:
            fields = load_json(self._receipt(name))
            return Shard(**{**fields, "blocks": tuple(Block(**block) for block in fields["blocks"])})
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def intact(self, shard: Shard) -> bool:
        """Whether the tar and its index match the receipt. Reads every byte."""
        path = self.folder / SET_NAME / shard.name
        problems = [*size_problems(str(path), path, shard)] or [*byte_problems(str(path), path, shard, int)]
        return not problems and _index_is_right(path)

    def keep(self, shard: Shard) -> None:
        """Write the receipt of a finished shard."""
        write_file(self._receipt(shard.name), json.dumps(asdict(shard)) + "\n")

    def drop(self, name: str) -> None:
        """Remove a receipt whose shard is to be written again."""
        self._receipt(name).unlink(missing_ok=True)

    def join(self, names: dict[str, list[str]], classes_json: str) -> tuple[Outcome, Manifest]:
        """Publish the set of the shards with these names, split by split, unless other processes are still at work.

        Returns the outcome, and the manifest with the shards that are finished.
        """
        with _explained(self.final), self._alone():
            self._open.close()  # first, or this process would find itself busy
            shards = {split: [self.finished(name) for name in wanted] for split, wanted in names.items()}
            manifest = _with_shards(self._manifest, shards)
            if self._is_made():
                return "there", manifest
            if any(shard is None for wanted in shards.values() for shard in wanted):
                return ("others" if self._busy() else "missing"), manifest
            # All receipts are there, but another process may be checking a tar, or about to write one again.
            if self._busy():
                return "others", manifest
            self._commit(manifest, classes_json)
        return "made", manifest

    def _receipt(self, name: str) -> Path:
        return self.folder / RECEIPTS_NAME / f"{name.removesuffix('.tar')}.json"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within this context, which takes moments, no other process begins or ends its part.

        Another process may discard the folder while this one waits for the lock in it: then both are made anew.
        """
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = None
            with suppress(FileNotFoundError):
                descriptor = open_locked(self.folder / LOCK_NAME, wait=True)
            if descriptor is not None:
                break
        try:
            yield
        finally:
            unlock(descriptor)

    def _is_made(self) -> bool:
        """Whether another process or an earlier run has published this very set."""
        try:
            found = read_manifest(self.final)
        except ShardError:
            return False
        return _with_shards(found, {name: [] for name in found.splits}).to_json() == self._manifest.to_json()

    def _refuse_existing(self) -> None:
        """Refuse an output that must not be replaced before the work, not at the rename that ends it."""
        try:
            self._place.check()
        except InputError:
            if not (self.folder / PLAN_NAME).exists():  # made by `_alone` just now: leave nothing behind
                self._discard()
            raise

    def _agree_on_plan(self) -> None:
        """Write the plan, or join the one that another process has written."""
        path = self.folder / PLAN_NAME
        found = _read_plan(path) if path.exists() else None
        if found != self._plan:
            if found is not None:
                self._refuse_other_plan(found)
            # Before the plan: a process killed in between must not leave shards of the old plan beside the new one.
            for name in (RECEIPTS_NAME, SET_NAME):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            write_file(path, json.dumps(self._plan, ensure_ascii=False) + "\n")
        for name in (RECEIPTS_NAME, SET_NAME):
            (self.folder / name).mkdir(exist_ok=True)
        # Shared, so that all may hold it at once, and kept open until the part ends: `_busy` looks for it.
        wait_for_lock(self._open.enter_context(path.open("ab")).fileno(), shared=True)

    def _refuse_other_plan(self, found: object) -> None:
        """Raise InputError, unless no process works on that plan any more and it may be replaced."""
        differing = ", ".join([*_differences(found, self._plan)][:SHOWN])
        where = f"{self.folder}: begun with other options or data ({differing})"
        if self._busy():
            raise InputError(f"{where}, and in use by another process; wait for it or choose another --output")
        if not self._place.overwrite:
            raise InputError(f"{where}; run with those to finish it, or --overwrite to begin anew")

    def _busy(self) -> bool:
        """Whether other processes take part. Only within `_alone`, and after this process's own lock is released."""
        with (self.folder / PLAN_NAME).open("ab") as file:
            return not try_lock(file.fileno())

    def _commit(self, manifest: Manifest, classes_json: str) -> None:
        # The manifest first and the rename second: NAME never exists without one. A process killed in between leaves a
        # folder that the next run completes from its receipts.
        made = self.folder / SET_NAME
        write_manifest(made, manifest, classes_json)
        self._place.publish(made)
        self._discard()

    def _discard(self) -> None:
        """Remove the folder, first by one rename: a process that waits for the lock in it then finds the set."""
        name = f".{self.final.name}.discarded"
        for left in self.final.parent.glob(f"{glob.escape(name)}-*"):  # by a run that was killed just here
            shutil.rmtree(left, ignore_errors=True)
        away = self.final.parent / f"{name}-{os.getpid()}"
        self.folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)


def _with_shards(manifest: Manifest, shards: dict[str, list[Shard | None]]) -> Manifest:
    """The manifest with these shards, and without columns, which are made when the set is complete."""
    splits = {
        name: replace(split, shards=[shard for shard in shards[name] if shard is not None], columns={})
        for name, split in manifest.splits.items()
    }
    return replace(manifest, splits=splits)


def _index_is_right(path: Path) -> bool:
    archive = ustar.read_archive(path, max_member_bytes=ustar.MAX_SIZE)
    index = path.with_suffix(".idx")
    return index.is_file() and index.read_text() == ustar.dali_index(archive)


def _read_plan(path: Path) -> dict[str, Any] | None:
    """None if the file is not what a process writes, for example because a disk was full."""
    try:
        return load_json(path)
    except ValueError:
        return None


def _differences(found: object, wanted: object, name: str = "") -> Iterator[str]:
    """`per_class 5, expected 10`, for each value that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from _differences(found.get(key), wanted.get(key), key)
    elif found != wanted:
        yield f"{name} {str(found)[:40]}, expected {str(wanted)[:40]}"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
