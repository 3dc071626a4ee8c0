"""A plain web server: with or without ranges, ETags and times. Faults on the way are the proxy's (proxy.py).

with WebServer({"k49/k49_classmap.csv": b"..."}, ranges=False) as server:
    ... f"http://127.0.0.1:{server.port}/"
"""

import re
import threading
from collections.abc import Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

RANGE = re.compile(r"bytes=(\d+)-(\d*)")
MODIFIED = "Mon, 16 Nov 2026 10:00:00 GMT"


class WebServer:
    """Serves bytes under paths. What it says of them can be changed while it runs."""

    def __init__(
        self, files: Mapping[str, bytes], *, ranges: bool = True, etags: bool = True, times: bool = True
    ) -> None:
        self.files = dict(files)
        self.ranges, self.etags, self.times = ranges, etags, times
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and range of each."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        serving = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing on the screen."""

            def _answer(self, *, body: bool) -> None:
                asked = self.headers.get("Range", "")
                serving.requests.append((self.command, self.path[1:], asked))
                data = serving.files.get(self.path[1:])
                if data is None:
                    self.send_error(404)
                    return
                match = RANGE.fullmatch(asked) if serving.ranges else None
                start, stop = (int(match[1]), int(match[2] or len(data)) + 1) if match else (0, len(data))
                part = data[start:stop]
                self.send_response(206 if match else 200)
                if match:
                    self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
                if serving.etags:
                    self.send_header("ETag", f'"{sha256(data).hexdigest()[:16]}"')
                if serving.times:
                    self.send_header("Last-Modified", MODIFIED)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                if body:
                    self.wfile.write(part)

        return Handler
