"""DALI's own reader of tar files, on our shards."""

from collections.abc import Iterator
from typing import Any

import torch
from nvidia.dali import fn, pipeline_def
from torch.utils import dlpack

from benchmarks.peers import BLOCK, IMAGE_SIZE, Batch, Epoch, Job
from benchmarks.peers.ours import write
from shards.format.layout import PIXELS_OFFSET, SOURCE_TYPE, TAR_BLOCK

__all__ = ["AHEAD", "PACKAGES", "bucket", "local", "write"]
PACKAGES = ("nvidia-dali-cuda120", "torch")
PREFETCH = 2
AHEAD = 2 * PREFETCH + 2
SHUFFLED_BLOCKS = 100


def local(job: Job) -> Epoch:
    """fn.readers.webdataset on our packed shards. It shuffles whole blocks, in a buffer of 100."""
    pipeline = _reader(job, [str(path) for path in job.files(".tar")], shuffled=True)

    def epoch() -> Iterator[Batch]:
        while True:
            yield _blocks(pipeline.run())

    return epoch


def bucket(job: Job) -> Iterator[Batch]:
    """The same from the object store, in stored order. The indexes are local files."""
    pipeline = _reader(job, [f"{job.url}/{path.name}" for path in job.files(".tar")], shuffled=False)
    for _ in range(0, len(job.images()), job.batch):
        yield _blocks(pipeline.run())


def _reader(job: Job, paths: list[str], shuffled: bool) -> Any:
    options: dict[str, Any] = {"paths": paths, "index_paths": [str(path) for path in job.files(".idx")]}
    if shuffled:
        options |= {"random_shuffle": True, "initial_fill": SHUFFLED_BLOCKS}
    blocks = max(1, job.batch // BLOCK)
    return _webdataset(options, batch_size=blocks, num_threads=job.threads, device_id=None)


@pipeline_def(prefetch_queue_depth=PREFETCH)
def _webdataset(options: dict[str, Any]) -> tuple[Any, Any]:
    """A DALI sample is one block: two npy members. Their headers are sliced off later, without a copy."""
    outputs: Any = fn.readers.webdataset(ext=["images.npy", "sources.npy"], **options)
    return outputs[0], outputs[1]


def _blocks(outputs: Any) -> Batch:
    """Blocks of equal size as one tensor, a view that skips the npy headers."""
    images, originals = (_tensor(output) for output in outputs)
    pixels = images[:, PIXELS_OFFSET - TAR_BLOCK :].unflatten(1, (BLOCK, IMAGE_SIZE, IMAGE_SIZE))
    return Batch(pixels, originals[:, -BLOCK * SOURCE_TYPE.itemsize :].contiguous().view(torch.int64).flatten())


def _tensor(output: Any) -> torch.Tensor:
    return dlpack.from_dlpack(output.as_tensor())
