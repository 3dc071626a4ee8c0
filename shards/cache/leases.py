"""Who holds what in a folder that processes share, as found at one moment; `shards.cache.shared_folder` looks."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Leases:
    """What one user holds."""

    pid: int
    """Process of the user."""
    in_use: set[str] = field(default_factory=set)
    """Keys of the files that are needed now."""
    ahead: set[str] = field(default_factory=set)
    """Keys of the files that were made before they are needed."""
    making: dict[str, int] = field(default_factory=dict)
    """Key of each file that is being made -> bytes reserved for it."""
    waiting: bool = False
    """Whether the user needs a file now for which there is no room."""


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
