"""Compares a set that is used in place with its manifest while it is in use.

The cache verifies every shard that it fetches. A shard used in place is mapped at once, since reading a whole set first
would delay the start by minutes; meanwhile one thread of low priority checks its bytes once. It reads each shard from
start to end, which also brings it into the page cache in the order that disks like best: training finds in memory what
the check has passed (if the memory is large enough).

It costs what zlib's crc32 costs, which holds no GIL meanwhile: 3.4 GB/s here (2 shared cores, zlib 1.2.13, files in the
page cache), so 0.2 s for 0.6 GB and 47 s for 38.8 million images, 159 GB, where the disk keeps up; and 1 MiB of memory.
"""

import os
import threading
from collections.abc import Sequence

from shards.errors import ShardError
from shards.read.files import SplitFiles

NICENESS = 10  # a tenth of a core that others want; at 19 it could keep the GIL from them for a time slice


class BackgroundCheck:
    """Checks shards one after another, until one is damaged."""

    def __init__(self, shards: Sequence[tuple[SplitFiles, int]]) -> None:
        """shards: files of a split, and a shard's number among them."""
        self.problem: str | None = None
        """Message for the user if a shard is damaged; None otherwise."""
        self._shards = shards
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="check", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the shard that is being read."""
        self._stopped.set()

    def finished(self, *, wait_s: float = 0.0) -> bool:
        """Whether there is nothing left to check. wait_s: seconds to wait for that."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        thread = threading.get_native_id()  # on Linux each thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
        try:
            for files, number in self._shards:
                if self._stopped.is_set():
                    return
                files.check(number)
        except ShardError as error:
            self.problem = str(error)
        except Exception as error:  # whatever it is, what follows was not checked
            self.problem = f"shards could not be checked: {type(error).__name__}: {error}"
