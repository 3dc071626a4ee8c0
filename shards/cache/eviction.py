"""Which files go to make room."""

import os
from collections import deque
from contextlib import suppress

from shards.cache.leases import Survey
from shards.cache.shared_folder import SharedFolder


class Unheld:
    """The files that nobody held at the last survey, least recently used first.

    One survey serves as many removals as it found files: those used since then have another access time, and so have
    new ones, which all go later.
    """

    def __init__(self, shared: SharedFolder) -> None:
        self._shared = shared
        self._queue: deque[tuple[str, int, int]] = deque()  # key, access time in ns, bytes

    def learn(self, survey: Survey) -> None:
        """Start anew from what a survey found."""
        keys = survey.victims(ahead=True)
        self._queue = deque((key, survey.files[key].st_atime_ns, survey.files[key].st_size) for key in keys)

    def take(self, missing: int) -> list[str]:
        """Keys of the first ones that have so many bytes together. Only while the folder is locked.

        None of them if there is not that much: a removal that does not make enough room would only cost downloads.
        """
        taken = []
        while missing > 0 and self._queue:
            key, used_ns, size = self._queue.popleft()
            if self._is_as_known(key, used_ns) and not self._shared.is_held(key, ahead=True):
                taken.append((key, used_ns, size))
                missing -= size
        if missing > 0:
            self._queue.extendleft(reversed(taken))
            return []
        return [key for key, _, _ in taken]

    def _is_as_known(self, key: str, used_ns: int) -> bool:
        with suppress(FileNotFoundError):
            return os.stat(self._shared.path / key).st_atime_ns == used_ns
        return False


def choose(survey: Survey, missing: int) -> list[str]:
    """Keys of the files to remove for a file that is needed now; none if they have fewer bytes than are missing."""
    chosen = []
    for key in survey.victims(ahead=False):
        if missing <= 0:
            break
        chosen.append(key)
        missing -= survey.files[key].st_size
    return chosen if missing <= 0 else []
