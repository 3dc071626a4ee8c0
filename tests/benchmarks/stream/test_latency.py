import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.stream.latency import Latency

ANSWER = bytes(range(256)) * 20_000


@pytest.fixture
def server() -> Iterator[int]:
    """Answers every request of one byte with 5 MB."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def _serve(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while connection.recv(1):
            connection.sendall(ANSWER)


def _ask(client: socket.socket) -> tuple[bytes, float]:
    start, found = time.monotonic(), b""
    client.sendall(b"?")
    first = None
    while len(found) < len(ANSWER):
        found += client.recv(1 << 20)
        first = first or time.monotonic() - start
    assert first is not None
    return found, first


def test_answers_pass_unchanged_and_every_request_waits(server: int) -> None:
    with Latency(server, 0.2) as relay, socket.create_connection(("127.0.0.1", relay.port)) as client:
        client.settimeout(60)
        for _ in range(3):
            found, first_s = _ask(client)
            assert found == ANSWER
            assert first_s >= 0.2


def test_the_end_of_either_side_ends_both(server: int) -> None:
    with Latency(server, 0) as relay, socket.create_connection(("127.0.0.1", relay.port)) as client:
        client.settimeout(60)
        _ask(client)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
