"""The DALI pipeline: gather on the host -> device -> augment -> normalise -> torch. The only file that imports DALI.

One graph serves both devices. The state of a run stays outside of it: the source is told which stretches of the sample
stream to bring, in which order, and everything random about a sample follows from its position there.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline
from torch import Tensor
from torch.utils import dlpack

from kkanji import augment, augment_torch
from kkanji.augment import Policy
from kkanji.pixels import MEAN, STD
from shards import CorruptShard, SampleOrder, SplitReader
from shards.layout import IMAGE_SIZE

PREFETCH = 2  # batches ready ahead of use; DALI keeps as many of its own under way
Stretch = tuple[int, int]
Arrays = list[NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One micro-batch on the device."""

    images: Tensor
    """Normalised, [B, 1, 64, 64]; float32 on the CPU, float16 on a GPU."""
    labels: Tensor
    """int64 [B]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """What a loader brings: samples of a split, in an order, augmented or not."""

    reader: SplitReader
    order: SampleOrder
    classes: int
    policy: Policy | None = None
    """None: images as they are."""


class Loader:
    """Micro-batches of a feed, one for each stretch of its sample stream, ready ahead of use.

    DALI runs in a thread of its own, so that a step's host work never waits for a gather. `wait_s` adds up the seconds
    that the consumer waited. An error in the thread is raised in the consumer; nothing ends early in silence.
    """

    def __init__(
        self, feed: Feed, stretches: Iterable[Stretch], device: torch.device, *, largest: int, threads: int = 2
    ):
        self.wait_s = 0.0
        self._device = device
        self._queue: Queue[Batch | BaseException] = Queue(PREFETCH)
        self._closed = Event()
        source = _Source(feed, iter(stretches), largest)
        device_id = None if device.type == "cpu" else (device.index or 0)
        self._pipeline = build_graph(source, device_id=device_id, augmented=feed.policy is not None, threads=threads)
        self._in_use: deque[tuple[Batch, torch.cuda.Event]] = deque()
        self._thread = Thread(target=self._run, name="kkanji-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            start = perf_counter()
            item = self._queue.get()
            self.wait_s += perf_counter() - start
            if isinstance(item, StopIteration):
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            self._keep_until_used(item)

    def close(self) -> None:
        """End the thread and free the pipeline."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except Empty:
                continue
        self._in_use.clear()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                images, labels = self._pipeline.run()
                self._queue.put(Batch(images=_to_torch(images), labels=_to_torch(labels)))
        except BaseException as error:  # handed over, whatever it is: the consumer raises it
            self._queue.put(error)

    def _keep_until_used(self, batch: Batch) -> None:
        """DALI may reuse a batch's memory once we let go of it, so hold it until the GPU is done with it."""
        if self._device.type == "cpu":
            return
        used = torch.cuda.Event()
        used.record()
        self._in_use.append((batch, used))
        while self._in_use[0][1].query():
            self._in_use.popleft()


@pipeline_def(batch_size=1, prefetch_queue_depth=PREFETCH)
def _graph(source: Callable[[], list[Arrays]], *, augmented: bool, device: str) -> tuple[Any, Any]:
    """A batch is one DALI sample, a sequence of n frames: DALI's cost per sample is paid once a batch."""
    kinds = _INPUTS if augmented else _INPUTS[:2]
    layouts, dtypes, ndims = (list(column) for column in zip(*kinds, strict=True))
    inputs = fn.external_source(
        source, num_outputs=len(kinds), batch=True, no_copy=True, layout=layouts, dtype=dtypes, ndim=ndims
    )
    images, labels, *rows = (value.gpu() for value in inputs) if device == "gpu" else inputs
    if augmented:
        images = _augmented(images, rows[0], device)
    dtype = types.FLOAT16 if device == "gpu" else types.FLOAT
    images = fn.crop_mirror_normalize(images, dtype=dtype, mean=[MEAN], std=[STD], output_layout="FCHW")
    return images, labels


# Layout, type and dimensions of what the source brings: images, labels, augmentation rows.
_INPUTS = (("FHWC", types.UINT8, 4), ("", types.INT64, 1), ("", types.FLOAT, 2))


def build_graph(
    source: Callable[[], list[Arrays]], *, device_id: int | None, augmented: bool, threads: int
) -> Pipeline:
    """The pipeline on a GPU, or on the CPU for device_id None. Its outputs: images [1, n, 1, 64, 64], labels [1, n]."""
    device = "cpu" if device_id is None else "gpu"
    return _graph(source, augmented=augmented, device=device, device_id=device_id, num_threads=threads)


def _augmented(images: Any, rows: Any, device: str) -> Any:
    if device == "cpu":
        return fn.python_function(images, rows, function=_augment_cpu, output_layouts="FHWC")
    return fn.dl_tensor_python_function(images, rows, device="gpu", function=_augment_gpu, output_layouts="FHWC")


def _augment_cpu(images: NDArray[np.uint8], rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """images uint8 [n, 64, 64, 1]"""
    return augment.apply(images[..., 0], rows)[..., None]


def _augment_gpu(images: Any, rows: Any) -> Any:
    """DLPack capsules of one batch on the GPU; DALI has synchronised them, and its thread waits for the result."""
    images_nhwc, rows_nr = dlpack.from_dlpack(images), dlpack.from_dlpack(rows)
    result = augment_torch.apply(images_nhwc[..., 0], rows_nr)[..., None].contiguous()
    if result.is_cuda:
        torch.cuda.current_stream().synchronize()
    return dlpack.to_dlpack(result)  # type: ignore[attr-defined]


class _Source:
    """Called by DALI for each batch; raises StopIteration after the last stretch.

    The buffers outlive DALI's use of them: it has at most PREFETCH batches under way, there is one more for the copy.
    """

    def __init__(self, feed: Feed, stretches: Iterator[Stretch], largest: int) -> None:
        self._feed = feed
        self._stretches = stretches
        self._buffers = [np.zeros((largest, IMAGE_SIZE, IMAGE_SIZE), np.uint8) for _ in range(PREFETCH + 2)]
        self._calls = 0

    def __call__(self) -> list[Arrays]:
        start, stop = next(self._stretches)
        buffer = self._buffers[self._calls % len(self._buffers)][: stop - start]
        self._calls += 1
        images, labels, _ = self._feed.reader.gather(self._feed.order.at(start, stop), buffer)
        arrays: list[Arrays] = [[images[..., None]], [self._checked(labels)]]
        if self._feed.policy is not None:
            arrays.append([augment.draw(self._feed.policy, self._feed.order.seed, np.arange(start, stop))])
        return arrays

    def _checked(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """A label out of range would be a device-side assert on a GPU, which kills the process without saying why."""
        if labels.min() < 0 or labels.max() >= self._feed.classes:
            found = f"labels {labels.min()}..{labels.max()}, expected 0..{self._feed.classes - 1}"
            raise CorruptShard(f"a sample has {found}; run `python -m tools verify` on the set")
        return labels.astype(np.int64)


def _to_torch(output: Any) -> Tensor:
    """Zero-copy: the batch's only sample."""
    return dlpack.from_dlpack(output.as_tensor())[0]
