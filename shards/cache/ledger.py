"""What a shared folder's lock file says: how much room is taken, and who uses the folder. It spares a survey.

Only who has the file locked reads or writes it. A change of the folder first makes the content unreadable and writes
the new one afterwards, so a process killed in between leaves a file that says nothing, and the next one surveys.
"""

import json
import os
import re
from contextlib import suppress
from typing import NamedTuple

from shards.cache.names import USER
from shards.json_reading import count, parse_json

_MOST_BYTES = 1 << 20  # of the content: 40,000 users
_SPOILT = b"-"


class Ledger(NamedTuple):
    """Sums over a folder."""

    taken: int
    """Bytes of the finished files, and bytes reserved for unfinished ones."""
    users: tuple[str, ...]
    """Token of each user, also of one that was killed since the last survey."""


def read_ledger(descriptor: int) -> Ledger | None:
    """The content; None if the folder has to be surveyed."""
    try:
        found = parse_json(os.pread(descriptor, _MOST_BYTES, 0))
        taken, users = count(found["taken"], "taken"), tuple(map(str, found["users"]))
    except (ValueError, TypeError, KeyError):
        return None
    return Ledger(taken, users) if all(re.fullmatch(USER, user) for user in users) else None


def spoil_ledger(descriptor: int) -> None:
    """Make the content unreadable, as the folder is about to change. It takes no room on the disk if there was any."""
    os.pwrite(descriptor, _SPOILT, 0)


def write_ledger(descriptor: int, ledger: Ledger) -> None:
    """Replace the content. On a full disk it stays unreadable, which costs the next process a survey."""
    data = json.dumps(ledger._asdict()).encode()
    with suppress(OSError):
        spoil_ledger(descriptor)
        if os.pwrite(descriptor, data[1:], 1) == len(data) - 1:
            os.ftruncate(descriptor, len(data))
            os.pwrite(descriptor, data[:1], 0)  # last: until here the content is no JSON
