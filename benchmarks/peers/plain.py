"""The limit of streaming: a plain download of the packed set into memory, in parallel ranges, unverified."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.peers import Batch, Job

PACKAGES = ()
CONNECTIONS = 16
RANGE_BYTES = 16 << 20  # 8 MB were slower at every latency; 8 or 32 connections were no faster
Range = tuple[str, int, int, memoryview]


def bucket(job: Job) -> Iterator[Batch]:
    """Download all ranges of all shards over 16 connections."""
    buffers = [(path, memoryview(np.empty(path.stat().st_size, np.uint8))) for path in job.files(".tar")]  # type: ignore[arg-type]
    ranges = [part for path, buffer in buffers for part in _ranges(job, path, buffer)]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(_fetch_some, (ranges[first::CONNECTIONS] for first in range(CONNECTIONS))))
    yield Batch(None, range(len(job.images())))


def _ranges(job: Job, path: Path, buffer: memoryview) -> Iterator[Range]:
    for start in range(0, len(buffer), RANGE_BYTES):
        stop = min(start + RANGE_BYTES, len(buffer))
        yield f"{job.public_url}/{path.name}", start, stop, buffer[start:stop]


def _fetch_some(ranges: list[Range]) -> None:
    """Download ranges one after another over one connection."""
    if not ranges:
        return
    connection = http.client.HTTPConnection(urlsplit(ranges[0][0]).netloc)
    for url, start, stop, buffer in ranges:
        connection.request("GET", urlsplit(url).path, headers={"Range": f"bytes={start}-{stop - 1}"})
        _fill(connection.getresponse(), buffer)
    connection.close()


def _fill(response: http.client.HTTPResponse, buffer: memoryview) -> None:
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        raise OSError(f"status {response.status}, expected 206")
    while buffer:
        read = response.readinto(buffer)
        if not read:
            raise OSError(f"{len(buffer)} bytes of a range are missing")
        buffer = buffer[read:]
    response.read()  # at the end of the response, http.client lets the connection be reused
