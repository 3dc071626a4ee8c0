"""Who holds what in a folder that processes share. These are values; `shards.cache.shared_folder` stores them."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

from shards.json_reading import parse_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Leases:
    """What one user holds. The methods return the leases after a change."""

    pid: int
    """Process of the user."""
    in_use: Mapping[str, int] = field(default_factory=dict)
    """Key of each file that is needed now -> how often it was obtained and not yet released."""
    ahead: frozenset[str] = frozenset()
    """Keys of the files that were made before they are needed."""
    making: Mapping[str, int] = field(default_factory=dict)
    """Key of each file that is being made -> bytes reserved for it."""
    waiting: frozenset[str] = frozenset()
    """Keys of the files that are needed now and for which there is no room."""

    def hold(self, key: str, *, ahead: bool) -> "Leases":
        """One hold more. A file that comes into use is no longer held ahead: one hold has become the other."""
        if ahead:
            return replace(self, ahead=self.ahead | {key})
        # Counted, since several threads of a user may read one file: the first to release it must not free it for all.
        uses = {**self.in_use, key: self.in_use.get(key, 0) + 1}
        return replace(self, in_use=uses, ahead=self.ahead - {key}, waiting=self.waiting - {key})

    def drop(self, key: str, *, ahead: bool) -> "Leases":
        """One hold less, if there is any."""
        if ahead:
            return replace(self, ahead=self.ahead - {key})
        uses = {**self.in_use, key: self.in_use.get(key, 0) - 1}
        # Without the zeros: a key in `in_use` protects its file from eviction.
        return replace(self, in_use={key: count for key, count in uses.items() if count > 0})

    def make(self, key: str, size: int) -> "Leases":
        """With room reserved for a file that this user is going to make."""
        return replace(self, making={**self.making, key: size})

    def made(self, key: str) -> "Leases":
        """Without that room."""
        return replace(self, making={other: size for other, size in self.making.items() if other != key})

    def wait(self, key: str, *, waiting: bool) -> "Leases":
        """With a file that waits for room, or without it."""
        return replace(self, waiting=self.waiting | {key} if waiting else self.waiting - {key})

    def to_json(self) -> bytes:
        """The content of the user's file."""
        return json.dumps(asdict(self), default=sorted, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Leases":
        """Raises ValueError, TypeError or KeyError if another version wrote the file."""
        found = parse_json(data)
        # All fields of the file, unknown ones too: another version's leases must end in an error. Leases that are
        # misread would let this process evict files that are in use.
        return cls(**{**found, "ahead": frozenset(found["ahead"]), "waiting": frozenset(found["waiting"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What is in the folder at one moment, and who holds it."""

    files: Mapping[str, os.stat_result]
    """Status of each finished file, by key."""
    users: Mapping[str, Leases]
    """Leases of each user that is alive, by its token."""

    @property
    def total(self) -> int:
        """Bytes of the finished files, and bytes reserved for unfinished ones."""
        # The reserved bytes count in full from the start, not what is written so far: otherwise two makers could each
        # find room that only one of them can fill.
        return sum(found.st_size for found in self.files.values()) + self.making

    @property
    def making(self) -> int:
        """Bytes reserved for files that are being made."""
        return sum(sum(leases.making.values()) for leases in self.users.values())

    @property
    def in_use(self) -> frozenset[str]:
        """Keys of the files that somebody needs now."""
        return frozenset().union(*(leases.in_use for leases in self.users.values()))

    @property
    def ahead(self) -> frozenset[str]:
        """Keys of the files that somebody holds ahead of use."""
        return frozenset().union(*(leases.ahead for leases in self.users.values()))

    @property
    def waiting(self) -> bool:
        """Whether somebody needs a file now and finds no room for it."""
        return any(leases.waiting for leases in self.users.values())

    def maker(self, key: str) -> Leases | None:
        """Leases of the user that is making a file; None if nobody is."""
        return next((leases for leases in self.users.values() if key in leases.making), None)

    def victims(self, *, ahead: bool) -> Iterator[str]:
        """Keys of the files that may be removed, in this order, to make room for a file.

        ahead: whether that file is obtained ahead of use; otherwise it is needed now.
        First come the files that nobody holds, least recently used first. A file that is needed now may also replace
        files held ahead of use: those obtained last go first, as they will be needed last.
        """
        in_use, held_ahead = self.in_use, self.ahead
        by_use = sorted(self.files.keys() - in_use, key=lambda key: self.files[key].st_atime_ns)
        yield from (key for key in by_use if key not in held_ahead)
        if not ahead:
            yield from (key for key in reversed(by_use) if key in held_ahead)

    def taken(self) -> int:
        """Bytes in use or reserved: room that no other file can get."""
        return sum(self._sizes(self.in_use)) + self.making

    def holders(self) -> str:
        """The processes that have taken these bytes, for messages."""
        parts = []
        for leases in self.users.values():
            sizes = [*self._sizes(leases.in_use), *leases.making.values()]
            if sizes:
                parts.append(f"process {leases.pid}: {len(sizes)} files, {sum(sizes):,} bytes")
        return "; ".join(parts)

    def _sizes(self, keys: Iterable[str]) -> list[int]:
        # A lease may name a file that is missing: one being made, or one that somebody removed by hand.
        return [self.files[key].st_size for key in keys if key in self.files]
