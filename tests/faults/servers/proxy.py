"""A proxy that spoils HTTP answers, to stand before an object store: the faults of networks and servers, on demand.

    python -m tests.faults.servers.proxy --listen PORT --target PORT [--latency MS] [--fault KIND:RATE ...]

| kind | the client sees |
|---|---|
| `500` `503` `403` ... | that status, with S3's XML error (`code` names it: SlowDown, ExpiredToken ...) |
| `reset` | half the body, then the connection is reset |
| `short` | the promised length, half the body, a closed connection |
| `lie` | half the body, under a Content-Length that says so: valid HTTP |
| `long` | the whole body and some bytes more, under a Content-Length that says so |
| `slow` | 1 KiB a second |
| `stall` | no answer, on an open connection |
| `hang` | half the body, then nothing more, on an open connection |
| `flip` | one bit of the body inverted |

Armed by `proxy.arm("reset", times=1, match="train-00003")`, or over HTTP by `POST /__fault` with the same as JSON:
`times` counts down, `rate` is a fraction of the requests, chosen by `tests.faults.seeds`. `GET /__count` reports what
passed. All headers go through as they are, so signatures hold. Every request waits for the latency first.
"""

import argparse
import asyncio
import contextlib
import fcntl
import json
import random
import socket
import struct
import termios
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from tests.faults.seeds import seed

PIECE = 1 << 18
DRIP_BYTES, DRIP_S = 128, 0.125
BODY_KINDS = ("reset", "short", "lie", "long", "slow", "hang", "flip")  # need the body of a GET to spoil
CODES = {"403": "AccessDenied", "404": "NoSuchKey", "412": "PreconditionFailed", "416": "InvalidRange"}
CODES |= {"429": "TooManyRequests", "500": "InternalError", "502": "BadGateway", "503": "SlowDown"}


@dataclass(kw_only=True, slots=True)
class Fault:
    """One way in which answers are spoilt."""

    kind: str
    times: int | None = None
    """How often it hits; None: without end."""
    match: str = "GET "
    """Part of `METHOD /path` of the requests that the fault may hit."""
    rate: float = 1.0
    """Fraction of those requests that the fault hits."""
    code: str = ""
    """What the XML of a status fault names as its reason."""
    met: int = 0

    def __post_init__(self) -> None:
        if not (self.kind.isdecimal() or self.kind in (*BODY_KINDS, "stall")):
            raise ValueError(f"no fault {self.kind!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """The head of a request or an answer."""

    first: str
    headers: Sequence[tuple[str, str]]

    def header(self, name: str) -> str | None:
        """A header's value, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def with_length(self, length: int) -> "Message":
        """The same, promising another length."""
        kept = [(key, value) for key, value in self.headers if key.lower() != "content-length"]
        return Message(first=self.first, headers=[*kept, ("Content-Length", str(length))])

    def encode(self) -> bytes:
        """As it is sent."""
        return "\r\n".join([self.first, *(f"{key}: {value}" for key, value in self.headers), "", ""]).encode("latin1")


class FaultProxy:
    """`with FaultProxy(target_port) as proxy:` runs it in a thread of its own."""

    def __init__(self, target: int, *, host: str = "127.0.0.1", listen: int = 0, latency_ms: float = 0) -> None:
        self.host, self.port = host, listen
        self.target = target
        self.latency_ms = latency_ms
        self.requests: Counter[str] = Counter()
        self.bytes = 0
        self.most_open = 0
        self._open: set[object] = set()  # the tasks, as asyncio itself lets one be collected whose client has left
        self._faults: list[Fault] = []
        self._random = random.Random(seed())
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()

    def arm(self, kind: str, **options: Any) -> Fault:
        """Add a fault. Its `met` counts the requests that it hit."""
        fault = Fault(kind=kind, **options)
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """No fault, no latency, counts from 0."""
        self._faults, self.latency_ms, self.bytes, self.most_open = [], 0, 0, len(self._open)
        self.requests.clear()

    def counts(self) -> dict[str, Any]:
        """Requests by method, bytes of bodies sent to clients, the most connections at once, and the faults."""
        faults = [asdict(fault) for fault in self._faults]
        return {"requests": dict(self.requests), "bytes": self.bytes, "most_open": self.most_open, "faults": faults}

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self.serve(),), daemon=True)
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("the proxy does not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    async def serve(self) -> None:
        """Answer until stopped, then drop every connection."""
        server = await asyncio.start_server(self._connection, self.host, self.port, limit=4 * PIECE)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            server.close()
            current = asyncio.current_task()
            tasks = [task for task in asyncio.all_tasks() if task is not current]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open.add(task)
        self.most_open = max(self.most_open, len(self._open))
        upstream = Upstream(self.target)
        try:
            while await self._exchange(reader, writer, upstream):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._open.discard(task)
            upstream.close()
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: "Upstream") -> bool:
        """One request and its answer; False when the connection is to be closed."""
        request = await read_message(reader)
        if request is None:
            return False
        body = body_pieces(reader, request, has_body=True)
        method, path, _ = request.first.split(" ", 2)
        if path.startswith("/__"):
            return await self._control(path, b"".join([piece async for piece in body]), writer)
        self.requests[method] += 1
        await asyncio.sleep(self.latency_ms / 1000)
        fault = self._draw(f"{method} {path}")
        if fault is not None and fault.kind not in BODY_KINDS:
            async for _ in body:
                pass
            return await self._refuse(fault, reader, writer)
        answer = await upstream.ask(request, body)
        pieces = body_pieces(upstream.reader, answer, has_body=method != "HEAD")
        if fault is None or method == "HEAD":
            await self._send(writer, answer.encode())
            async for piece in pieces:
                await self._send(writer, piece, counted=True)
            return (answer.header("connection") or "").lower() != "close"
        going_on = await self._spoil(fault.kind, answer, b"".join([piece async for piece in pieces]), writer)
        if fault.kind == "hang":
            await reader.read()
        return going_on

    def _draw(self, line: str) -> Fault | None:
        """The fault that meets this request, if any. Rates of several faults add up."""
        chance = self._random.random()
        for fault in self._faults:
            if fault.match not in line or fault.times == 0:
                continue
            if chance < fault.rate:
                fault.met += 1
                fault.times = None if fault.times is None else fault.times - 1
                return fault
            chance -= fault.rate
        return None

    async def _refuse(self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer without asking the server, or not at all until the client has left."""
        if fault.kind == "stall":
            await reader.read()
            return False
        code = fault.code or CODES.get(fault.kind, "InternalError")
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>by the fault proxy</Message></Error>".encode()
        head = Message(first=f"HTTP/1.1 {fault.kind} {code}", headers=[("Content-Type", "application/xml")])
        await self._send(writer, head.with_length(len(text)).encode() + text)
        return True

    async def _spoil(self, kind: str, answer: Message, body: bytes, writer: asyncio.StreamWriter) -> bool:
        half = body[: len(body) // 2]
        if kind == "flip":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        sent = {"lie": half, "long": body + bytes(4096)}.get(kind, body)
        await self._send(writer, answer.with_length(len(sent)).encode())
        if kind == "slow":
            return await self._drip(body, writer)
        await self._send(writer, half if kind in ("reset", "short", "hang") else sent, counted=True)
        if kind == "reset":
            await reset(writer)
        return kind in ("lie", "long", "flip")

    async def _drip(self, body: bytes, writer: asyncio.StreamWriter) -> bool:
        for start in range(0, len(body), DRIP_BYTES):
            await self._send(writer, body[start : start + DRIP_BYTES], counted=True)
            await asyncio.sleep(DRIP_S)
        return True

    async def _send(self, writer: asyncio.StreamWriter, data: bytes, *, counted: bool = False) -> None:
        self.bytes += len(data) if counted else 0  # first, as the client may have all of it before write() returns
        writer.write(data)
        await writer.drain()

    async def _control(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        if path == "/__fault":
            self.arm(**json.loads(body))
        elif path == "/__clear":
            self.clear()
        elif path == "/__latency":
            self.latency_ms = json.loads(body)
        text = json.dumps(self.counts()).encode()
        head = Message(first="HTTP/1.1 200 OK", headers=[("Content-Type", "application/json")])
        await self._send(writer, head.with_length(len(text)).encode() + text)
        return True


class Upstream:
    """The connection to the server behind, one for each client connection, made anew when the server closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: Message, body: AsyncIterator[bytes]) -> Message:
        """Pass a request on and return the head of the answer, whose body is to be read from `reader`."""
        if self._writer is None or self.reader.at_eof():
            self.close()
            self.reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4 * PIECE)
        self._writer.write(request.encode())
        async for piece in body:
            self._writer.write(piece)
            await self._writer.drain()
        answer = await read_message(self.reader)
        while answer is not None and answer.first.split(" ")[1] == "100":
            answer = await read_message(self.reader)
        if answer is None:
            raise ConnectionResetError("the server closed the connection")
        return answer

    def close(self) -> None:
        """Drop the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next head, None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin1").split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    return Message(first=first, headers=[(key, value.strip()) for key, _, value in pairs])


async def body_pieces(reader: asyncio.StreamReader, message: Message, *, has_body: bool) -> AsyncIterator[bytes]:
    """A body as it arrives: of the stated length, or chunked and then with its chunk marks."""
    if not has_body or message.first.split(" ")[1] in ("204", "304"):
        return
    if (message.header("transfer-encoding") or "").lower() == "chunked":
        async for piece in _chunked(reader):
            yield piece
        return
    left = int(message.header("content-length") or 0)
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise ConnectionResetError("the body ended early")
        left -= len(piece)
        yield piece


async def _chunked(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        yield line + await reader.readexactly(size + 2)


async def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, once the other side has what was sent."""
    connection = writer.get_extra_info("socket")
    unsent = bytearray(4)
    fcntl.ioctl(connection, termios.TIOCOUTQ, unsent)
    while (any(unsent) or writer.transport.get_write_buffer_size()) and not writer.is_closing():
        await asyncio.sleep(0.001)
        fcntl.ioctl(connection, termios.TIOCOUTQ, unsent)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def main() -> None:
    """Run until Ctrl-C."""
    parser = argparse.ArgumentParser(description="HTTP proxy on 127.0.0.1 that spoils answers")
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--target", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0, help="milliseconds before every answer")
    parser.add_argument("--fault", nargs="*", default=[], help="KIND:RATE, for example 503:0.01")
    options = parser.parse_args()
    proxy = FaultProxy(options.target, listen=options.listen, latency_ms=options.latency)
    for kind, _, rate in (fault.partition(":") for fault in options.fault):
        proxy.arm(kind, rate=float(rate or 1))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(proxy.serve())


if __name__ == "__main__":
    main()
