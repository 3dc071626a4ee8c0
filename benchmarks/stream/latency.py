"""A TCP relay that adds latency: it delays every new connection and every request, and forwards answers undelayed.

It models distance alone; the bandwidth stays that of the loopback interface. Answers are moved inside the kernel, so
that Python does not limit them. The relay does not parse HTTP: it delays each piece that arrives from the client. So it
suits downloads, whose requests are small, and would delay an upload many times.
"""

import fcntl
import os
import socket
import time
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Self

PIECE = 1 << 20
SPLICE_F_MOVE = 1  # <fcntl.h>


class Latency:
    """`with Latency(target_port, 0.02) as relay:` relays from `relay.port` to the target, both on the loopback."""

    def __init__(self, target: int, seconds: float) -> None:
        self.target, self.seconds = target, seconds
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # accept fails once __exit__ has closed the listener
            while True:
                client, _ = self._listener.accept()
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        time.sleep(self.seconds)
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = Thread(target=_move, args=(server, client), daemon=True)
            back.start()
            while request := client.recv(PIECE):
                time.sleep(self.seconds)
                server.sendall(request)
            server.shutdown(socket.SHUT_WR)
            back.join()


def _move(source: socket.socket, target: socket.socket) -> None:
    """Move bytes from one socket to the other until the source ends, by splice through a pipe inside the kernel."""
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIECE)
        while count := os.splice(source.fileno(), writing, PIECE, flags=SPLICE_F_MOVE):
            while count:
                count -= os.splice(reading, target.fileno(), count, flags=SPLICE_F_MOVE)
    except OSError:
        pass  # one end was closed; the other is shut down below
    finally:
        os.close(reading)
        os.close(writing)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
