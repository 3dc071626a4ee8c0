"""Streaming: images/s of a first epoch from an object store, with an empty cache, at several latencies.

`python -m benchmarks stream`. A real S3 server runs on this machine, and shares its cores with the peers. The limit is
a plain download of the same bytes into memory, in parallel ranges. A measurement starts when the set is opened. It ends
with the last batch or with the time limit, and then counts the images so far.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import FULL, Turns, environment, make_images, write_files, write_result
from benchmarks.peers import BLOCK, Job
from benchmarks.rows import Row, print_rows
from benchmarks.stream.latency import Latency
from benchmarks.stream.object_server import BUCKET, behind, object_server, port, upload
from benchmarks.subject import Peer
from shards import InputError

# One after another before the first shard's: the manifest's; the listing is asked for beside it. `scale` needs it.
OPENING_REQUESTS = 1
WINDOW = "single images of two shards at a time"
PEERS = (
    Peer(name="limit: plain parallel ranged download", module="plain", order="only bytes", own=True),
    Peer(name="kkanji: Store.download, bytes alone", module="ours_bucket:downloaded", order="only bytes", own=True),
    Peer(name="kkanji", module="ours_bucket", order=WINDOW, own=True),
    Peer(name="MosaicML Streaming", module="mosaicml", files="mds", order=WINDOW),
    Peer(name="LitData", module="lit", files="litdata", order="in windows of 256 of a chunk"),
    Peer(name="webdataset, raw .bin, pipe:curl", module="webdataset_bin", files="tars", order="in a buffer of 5,000"),
    Peer(name="DALI readers.webdataset, our shards", module="dali", order="as stored", own=True),
)


def stream(
    *,
    images: int = 200_000,
    batch: int = 2_000,
    threads: int = 2,
    shard_bytes: int = 1 << 24,
    latencies: tuple[int, ...] = (0, 20, 100),
    repeats: int = 3,
    seconds: float = 6,
    peers: Path = Path(sys.executable),
    output: Path = Path("benchmarks/results/stream.json"),
) -> None:
    """Measure a first epoch from an S3 server on this machine, by kkanji and by other libraries.

    Example: python -m benchmarks stream --peers .venv-peers/bin/python

    Args:
        images: images in the set, of random pixels; 200,000 take 820 MB, and 9 GB in all formats here and there
        batch: images in a batch
        threads: threads or worker processes of each peer
        shard_bytes: size of each peer's files in the bucket
        latencies: milliseconds that are added to every request and every new connection
        repeats: measurements of each peer at each latency, in turn
        seconds: time limit of a measurement
        peers: Python of the environment that has the other libraries; missing ones are reported as skipped
        output: JSON to write
    """
    if images % BLOCK:
        raise InputError(f"--images {images}: expected a multiple of {BLOCK}, as DALI's reader needs whole blocks")
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kkanji-benchmark-")))
        server = stack.enter_context(object_server(folder / "server"))
        make_images(folder / "source", images)
        common = Job(
            source=f"{folder}/source",
            folder="",
            batch=batch,
            threads=threads,
            shard_bytes=shard_bytes,
            classes=FULL["classes"],
        )
        jobs = {peer.files: replace(common, folder=f"{folder}/{peer.files}") for peer in PEERS}
        write_files(PEERS, jobs, peers)
        for files in jobs:
            if (folder / files).exists():
                upload(folder / files, files, server)
        for latency in latencies:
            with _turns(latency, server, jobs, peers) as turns:
                rows += [{"latency_ms": latency, **row} for row in turns.rows(repeats, seconds)]
    options = {"images": images, "batch": batch, "threads": threads, "shard_bytes": shard_bytes, "seconds": seconds}
    facts = {"opening_requests": OPENING_REQUESTS, "options": options, "environment": environment()}
    write_result(output, {"benchmark": "stream", **facts, "rows": rows})
    print_rows(rows)


@contextmanager
def _turns(latency: int, server: dict[str, str], jobs: dict[str, Job], peers: Path) -> Iterator[Turns]:
    """The peers at one latency. At 0 they use the relay too, which takes a part of the cores: only distance differs."""
    with ExitStack() as stack:
        server = behind(server, stack.enter_context(Latency(port(server), latency / 1000)).port)
        pairs = [(peer, _remote(jobs[peer.files], peer, server["AWS_ENDPOINT_URL"])) for peer in PEERS]
        yield stack.enter_context(Turns("bucket", pairs, peers, server))


def _remote(job: Job, peer: Peer, endpoint: str) -> Job:
    """The job with the addresses of its files in the bucket, and a cache folder for this peer alone."""
    prefix = f"{BUCKET}/{peer.files}"
    cache = f"{job.folder}-cache-{peer.module.replace(':', '-')}"
    return replace(job, url=f"s3://{prefix}", public_url=f"{endpoint}/{prefix}", cache=cache)
