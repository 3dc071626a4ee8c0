"""Names of the files in a shared folder.

    <64 hexadecimal digits>.<form>   a finished file, which any user may read
    .<that name>.<user>.partial...   what a user is making
    .pins.<user>                     a user, alive as long as it has this file locked (flock)
    .pins.<user>.use.<key>           the user needs this finished file now
    .pins.<user>.ahead.<key>         the user has this finished file ahead of use
    .pins.<user>.make.<key>          the user is making it; the file's size, a hole, is the room reserved for that
    .pins.<user>.waiting             the user needs a file now for which there is no room
    .lock                            locked by who makes or removes finished files; has the ledger (`ledger`)

One lease is one file, so taking or ending it costs the same however many there are. Its name has the key with dashes
for dots, so that whoever counts tars by their names does not count leases.
"""

import re
from pathlib import Path

LOCK_NAME = ".lock"
KEY = re.compile(r"[0-9a-f]{64}\.[a-z0-9][a-z0-9.]*")
USER = r"\d+-[0-9a-f]{8}"
"""A user's token: its process, and a random number."""
MARK_NAME = re.compile(rf"\.pins\.({USER})")  # the name that other versions look for, which may use the folder too
LEASE_NAME = re.compile(rf"\.pins\.({USER})\.(?:(use|ahead|make)\.([0-9a-f]{{64}}-[a-z0-9-]+)|waiting)")
PARTIAL_NAME = re.compile(rf"\.({KEY.pattern})\.({USER})\.partial.*")


def mark_path(folder: Path, user: str) -> Path:
    """The file that a user keeps locked."""
    return folder / f".pins.{user}"


def lease_path(folder: Path, user: str, kind: str, key: str) -> str:
    """The file that stands for a lease; kind: use, ahead or make."""
    return f"{folder}/.pins.{user}.{kind}.{key.replace('.', '-')}"


def leased_key(match: re.Match[str]) -> str:
    """The key in a lease's name, matched by LEASE_NAME; empty for a wait."""
    return (match[3] or "").replace("-", ".")


def waiting_path(folder: Path, user: str) -> str:
    """The file that stands for a wait."""
    return f"{folder}/.pins.{user}.waiting"


def partial_path(folder: Path, user: str, key: str) -> Path:
    """Where a user makes a file."""
    return folder / f".{key}.{user}.partial"
