"""A stand-in for the Hugging Face Hub: as much of its HTTP API as an upload in one commit and a download need."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The server; `repositories` has what was uploaded, name by name."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Hub":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._answer({"error": "Invalid username or password."}, status=401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in _files(body)]
            self._answer({"files": files})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": self.path}, status=404)

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        if match := re.fullmatch(r"/api/models/(.+)/(revision|tree)/[^/?]+(\?.*)?", self.path):
            self._describe(match[1], files=match[2] == "tree")
        else:
            self._file(with_body=True)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
        self.hub.repositories.setdefault(name, {})
        self.hub.private[name] = wanted.get("private", wanted.get("visibility") == "private")
        self._answer({"url": f"{self.hub.address}/{name}", "id": name})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "file":
                self.hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"{self.hub.address}/{name}/commit/{COMMIT}"
        self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def _describe(self, name: str, *, files: bool) -> None:
        """A repository, or its files: what a download of all of it asks for first."""
        stored = self.hub.repositories.get(name) if self._may_read(name) else None
        if stored is None:
            self._answer({"error": "Repository not found"}, status=404, headers={"X-Error-Code": "RepoNotFound"})
        elif files:
            self._answer([{"type": "file", "path": path, "size": len(c), "oid": _oid(c)} for path, c in stored.items()])
        else:
            self._answer({"id": name, "sha": COMMIT, "private": self.hub.private[name]})

    def _may_read(self, name: str) -> bool:
        known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        return known or not self.hub.private.get(name, True)

    def _file(self, *, with_body: bool) -> None:
        match = re.fullmatch(r"/(.+)/resolve/[^/]+/(.+)", self.path)
        found = self.hub.repositories.get(match[1], {}).get(match[2]) if match and self._may_read(match[1]) else None
        if found is None:
            self._answer({"error": "Entry not found"}, status=404, headers={"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{_oid(found)}"', "X-Repo-Commit": COMMIT}
        self._answer(found if with_body else b"", headers=headers | {"Content-Length": str(len(found))})

    def _answer(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing to the console."""


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _files(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["files"]
    return found
