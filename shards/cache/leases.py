"""Who holds what in a folder that processes share: values only, `shards.cache.shared_folder` keeps them."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

from shards.json_reading import parse_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Leases:
    """What one user holds. The methods give the pins after a change."""

    pid: int
    in_use: Mapping[str, int] = field(default_factory=dict)
    """Key of each file needed now -> how often it was obtained and not yet released."""
    ahead: frozenset[str] = frozenset()
    """Files brought in before they are needed."""
    making: Mapping[str, int] = field(default_factory=dict)
    """Key of each file being made -> bytes set aside for it."""
    waiting: frozenset[str] = frozenset()
    """Files needed now for which there is no room."""

    def hold(self, key: str, *, ahead: bool) -> "Leases":
        """One hold more. A file in use is no longer held ahead by the same user: the one hold became the other."""
        if ahead:
            return replace(self, ahead=self.ahead | {key})
        uses = {**self.in_use, key: self.in_use.get(key, 0) + 1}
        return replace(self, in_use=uses, ahead=self.ahead - {key}, waiting=self.waiting - {key})

    def drop(self, key: str, *, ahead: bool) -> "Leases":
        """One hold less, if there is one."""
        if ahead:
            return replace(self, ahead=self.ahead - {key})
        uses = {**self.in_use, key: self.in_use.get(key, 0) - 1}
        return replace(self, in_use={key: count for key, count in uses.items() if count > 0})

    def make(self, key: str, size: int) -> "Leases":
        """Room set aside for a file."""
        return replace(self, making={**self.making, key: size})

    def made(self, key: str) -> "Leases":
        """No longer being made."""
        return replace(self, making={other: size for other, size in self.making.items() if other != key})

    def wait(self, key: str, *, waiting: bool) -> "Leases":
        """Waiting for room, or no longer."""
        return replace(self, waiting=self.waiting | {key} if waiting else self.waiting - {key})

    def to_json(self) -> bytes:
        """The content of the user's file."""
        return json.dumps(asdict(self), default=sorted, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Leases":
        """Raises ValueError, TypeError or KeyError if another version wrote the file."""
        found = parse_json(data)
        return cls(**{**found, "ahead": frozenset(found["ahead"]), "waiting": frozenset(found["waiting"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the folder holds, and for whom, at one moment."""

    files: Mapping[str, os.stat_result]
    """Finished files by key."""
    users: Mapping[str, Leases]
    """Living users."""

    @property
    def total(self) -> int:
        """Bytes of finished files and of those being made."""
        return sum(found.st_size for found in self.files.values()) + self.making

    @property
    def making(self) -> int:
        """Bytes set aside for files being made."""
        return sum(sum(leases.making.values()) for leases in self.users.values())

    @property
    def in_use(self) -> frozenset[str]:
        """Keys that somebody needs now."""
        return frozenset().union(*(leases.in_use for leases in self.users.values()))

    @property
    def ahead(self) -> frozenset[str]:
        """Keys that somebody brought in before use."""
        return frozenset().union(*(leases.ahead for leases in self.users.values()))

    @property
    def waiting(self) -> bool:
        """Whether somebody needs a file now and has no room for it."""
        return any(leases.waiting for leases in self.users.values())

    def maker(self, key: str) -> Leases | None:
        """Who makes a file."""
        return next((leases for leases in self.users.values() if key in leases.making), None)

    def victims(self, *, ahead: bool) -> Iterator[str]:
        """Files that may go, in that order, for one to be brought in ahead of use or else needed now.

        First those that nobody holds, least recently used first; for a file needed now then those held ahead of use,
        the last obtained first, as that one is needed last.
        """
        in_use, held_ahead = self.in_use, self.ahead
        by_use = sorted(self.files.keys() - in_use, key=lambda key: self.files[key].st_atime_ns)
        yield from (key for key in by_use if key not in held_ahead)
        if not ahead:
            yield from (key for key in reversed(by_use) if key in held_ahead)

    def taken(self) -> int:
        """Bytes in use or being made: what no needed file can have."""
        return sum(self._sizes(self.in_use)) + self.making

    def holders(self) -> str:
        """Who takes them, for messages."""
        parts = []
        for leases in self.users.values():
            sizes = [*self._sizes(leases.in_use), *leases.making.values()]
            if sizes:
                parts.append(f"process {leases.pid}: {len(sizes)} files, {sum(sizes):,} bytes")
        return "; ".join(parts)

    def _sizes(self, keys: Iterable[str]) -> list[int]:
        return [self.files[key].st_size for key in keys if key in self.files]
