"""Host feed: images/s of shuffled images from files in the page cache to batches in host memory.

`python -m benchmarks loader`. The limit is NumPy's own gather: `np.take` of random rows of one array in memory into a
preallocated buffer, in batches of the same size, on the same number of threads. Peers read the same images from files
in their own formats, in the configuration that was fastest here. `make peers` installs them.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import Turns, environment, make_images, write_files, write_result
from benchmarks.peers import BLOCK, Job
from benchmarks.rows import print_rows
from benchmarks.subject import Peer
from shards import InputError

SINGLE = "single images"
LIMIT = Peer(name="limit: np.take into a touched buffer", module="limit", order="known beforehand", own=True)
PEERS = (
    LIMIT,
    Peer(name="kkanji: gather", module="ours:known", order="known beforehand", own=True),
    Peer(name="kkanji: order and gather", module="ours:gather", order=SINGLE, own=True),
    Peer(name="kkanji: gather, DALI, uint8 in torch", module="ours:loaded", order=SINGLE, own=True),
    Peer(name="kkanji: then normalised float32", module="ours:normalised", order=SINGLE, own=True),
    Peer(name="kkanji: with the whole policy, uint8 in torch", module="ours:augmented", order=SINGLE, own=True),
    Peer(name="torch DataLoader, memmap, batched gather", module="torch_memmap", files="npy", order=SINGLE, own=True),
    Peer(name="FFCV RANDOM", module="ffcv", files="beton", order=SINGLE),
    Peer(name="FFCV RANDOM, array decoder made parallel", module="ffcv:parallel", files="beton", order=SINGLE),
    Peer(name="MosaicML Streaming", module="mosaicml", files="mds", order=SINGLE),
    Peer(name="LitData", module="lit", files="litdata", order="in windows of 256 of a chunk"),
    Peer(name="webdataset, raw .bin", module="webdataset_bin", files="tars", order="in a buffer of 5,000"),
    Peer(name="DALI readers.webdataset, our shards", module="dali", order="whole blocks of 250", own=True),
)


def loader(
    *,
    images: int = 100_000,
    batch: int = 2_000,
    threads: int = 2,
    repeats: int = 7,
    seconds: float = 0.5,
    peers: Path = Path(sys.executable),
    output: Path = Path("benchmarks/results/loader.json"),
) -> None:
    """Measure the gather of shuffled images by itself, through the DALI pipeline, and in other libraries.

    Example: python -m benchmarks loader --peers .venv-peers/bin/python

    Args:
        images: images in the set, of random pixels; 100,000 take 410 MB, and 2.6 GB in the formats of all peers
        batch: images in a batch
        threads: threads or worker processes of each peer
        repeats: measurements of each peer, in turn
        seconds: length of a measurement
        peers: Python of the environment that has the other libraries; missing ones are reported as skipped
        output: JSON to write
    """
    if images % BLOCK:
        raise InputError(f"--images {images}: expected a multiple of {BLOCK}, as DALI's reader needs whole blocks")
    with tempfile.TemporaryDirectory(prefix="kkanji-benchmark-") as folder:
        make_images(Path(folder) / "source", images)
        common = Job(source=f"{folder}/source", folder=folder, batch=batch, threads=threads)
        jobs = {peer.files: replace(common, folder=f"{folder}/{peer.files}") for peer in PEERS}
        write_files(PEERS, jobs, peers)
        with Turns("local", [(peer, jobs[peer.files]) for peer in PEERS], peers) as turns:
            rows = turns.rows(repeats, seconds)
    options = {"images": images, "batch": batch, "threads": threads, "seconds": seconds}
    write_result(output, {"benchmark": "loader", "options": options, "environment": environment(), "rows": rows})
    print_rows(rows)
