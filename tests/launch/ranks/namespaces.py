"""Two nodes on one machine: network namespaces with a link between them, and one each to the namespace of the tests,
where servers are. Needs root and `ip` (iproute2).

    198.18.1.1 node 0 --- nodes0 --- node 1 198.18.1.2
    198.18.2.2 node 0 --- server 198.18.2.1
    198.18.3.2 node 1 --- server 198.18.3.1

The addresses are those kept for benchmarks of networks (RFC 2544): nothing else uses them.
"""

import ctypes
import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
LINK = "nodes0"  # the interface by which the nodes see each other
ADDRESSES = ("198.18.1.1", "198.18.1.2")
SERVERS = ("198.18.2.1", "198.18.3.1")
"""The server's address for each node."""


class Nodes:
    """The nodes, while entered. Raises PermissionError or FileNotFoundError where there can be none."""

    def __init__(self) -> None:
        mark = f"kk{os.getpid()}"
        self.names = (f"{mark}-0", f"{mark}-1")
        self._outside = [f"{mark}s{node}" for node in range(2)]  # interfaces, of at most 15 characters

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PermissionError("only root can make network namespaces")
        if shutil.which("ip") is None:
            raise FileNotFoundError("no `ip`; install iproute2")
        try:
            self._make()
        except PermissionError:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def cut(self) -> None:
        """Cut the link between the nodes."""
        _ip("-n", self.names[0], "link", "set", LINK, "down")

    def mend(self) -> None:
        """Make the link whole again."""
        _ip("-n", self.names[0], "link", "set", LINK, "up")

    def _make(self) -> None:
        for name in self.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self.names[0], "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", self.names[1])
        for node, name in enumerate(self.names):
            outside = self._outside[node]
            _ip("link", "add", outside, "type", "veth", "peer", "name", "store", "netns", name)
            _ip("addr", "add", f"{SERVERS[node]}/24", "dev", outside)
            _ip("link", "set", outside, "up")
            for interface, address in ((LINK, ADDRESSES[node]), ("store", SERVERS[node].removesuffix("1") + "2")):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
                _ip("-n", name, "link", "set", interface, "up")

    def _remove(self) -> None:
        """Also the links to the server: with a namespace they go some time later, when the next one is being made."""
        for kind, names in (("link", self._outside), ("netns", self.names)):
            for name in names:
                subprocess.run(["ip", kind, "delete", name], capture_output=True, check=False)


def enter(name: str) -> None:
    """Move this thread, and what it starts, to a node."""
    with open(f"/run/netns/{name}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {name}")


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise PermissionError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
