"""The DALI pipeline: order -> gather on the host -> device -> augment -> torch. The only file that imports DALI.

One graph serves both devices. The state of a run stays outside of it: the source is told which stretches of the sample
stream to bring, in which order, and everything random about a sample follows from its position there.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.numba.fn.experimental import numba_function
from torch import Tensor
from torch.utils import dlpack

from kkanji import augment, augment_kernels, augment_torch
from kkanji.augment import Policy
from shards import CorruptShard, Order, SplitReader
from shards.layout import IMAGE_SIZE
from shards.order import numbers_of

PREFETCH = 2  # batches ready or under way ahead of use
KEEP = PREFETCH + 2  # batches whose pixels stay where they were located: DALI has not copied the last ones yet
PARTS = 8  # that a batch is cut into, for DALI's threads: 4 gather at 65 % of NumPy's limit on 2 threads, 8 at 71 %
Stretch = tuple[int, int]
Arrays = list[NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One micro-batch on the device."""

    images: Tensor
    """uint8 [B, 1, 64, 64], to be normalised (`kkanji.pixels`): float32 takes four times as long to write on a CPU."""
    labels: Tensor
    """int64 [B]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """What a loader brings: samples of a split, in an order, augmented or not."""

    reader: SplitReader
    order: Order
    classes: int
    policy: Policy | None = None
    """None: images as they are."""
    strength: Callable[[int], float] = lambda _: 1.0
    """Of the policy in an epoch."""


class Loader:
    """Micro-batches of a feed, one for each stretch of its sample stream, ready ahead of use.

    DALI works ahead in threads of its own; what happens in the consumer's is to locate the batch that DALI is to bring
    next. `wait_s` adds up the seconds that the consumer spent here. Nothing ends early in silence.
    """

    def __init__(
        self, feed: Feed, stretches: Iterable[Stretch], device: torch.device, *, largest: int, threads: int = 2
    ):
        self.wait_s = 0.0
        self._device = device
        self._source = _Source(feed, iter(stretches), largest)
        device_id, augmented = None if device.type == "cpu" else (device.index or 0), feed.policy is not None
        self._pipeline = _take_pipeline(_Kind(device_id=device_id, augmented=augmented, threads=threads), self._source)
        self._ended = False
        self._in_use: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._next()) is not None:
            yield batch
            self._keep_until_used(batch)

    def close(self) -> None:
        """Free the pipeline, or keep it for the next loader."""
        self._in_use.clear()
        if self._ended:
            self._pipeline.give_back()
        else:
            self._pipeline.graph._shutdown()  # waits for copies under way, before what they read is unmapped
        self._source.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> Batch | None:
        """The next batch; None after the last one."""
        start = perf_counter()
        try:
            images, labels = self._pipeline.graph.run()
        except StopIteration:
            self._ended = self._source.ended
            if not self._ended:
                raise RuntimeError("the loader's source ended early") from None
            return None
        finally:
            self.wait_s += perf_counter() - start
        count = self._source.counts.popleft()
        return Batch(images=_to_torch(images)[:count].movedim(3, 1), labels=_to_torch(labels)[:count])

    def _keep_until_used(self, batch: Batch) -> None:
        """DALI may reuse a batch's memory once we let go of it, so hold it until the GPU is done with it."""
        if self._device.type == "cpu":
            return
        used = torch.cuda.Event()
        used.record()
        self._in_use.append((batch, used))
        while self._in_use[0][1].query():
            self._in_use.popleft()


@pipeline_def(batch_size=PARTS, prefetch_queue_depth=PREFETCH)
def _graph(source: Callable[[], Arrays], *, augmented: bool, device: str) -> tuple[Any, Any]:
    """Each of a batch's PARTS is one DALI sample, a sequence of n frames, so DALI's cost per sample hardly counts."""
    kinds = _INPUTS if augmented else _INPUTS[:2]
    dtypes, ndims = (list(column) for column in zip(*kinds, strict=True))
    inputs = fn.external_source(source, num_outputs=len(kinds), batch=True, dtype=dtypes, ndim=ndims)
    addresses, labels, *rows = inputs
    on_cpu = device == "cpu"
    images = _gathered(addresses, rows[0] if augmented and on_cpu else None)
    if on_cpu:
        return images, labels
    if not augmented:
        return images.gpu(), labels.gpu()
    return fn.dl_tensor_python_function(
        images.gpu(), rows[0].gpu(), device="gpu", function=_augment_gpu, batch_processing=True
    ), labels.gpu()


# Type and dimensions of what the source brings: addresses, labels, augmentation rows.
_INPUTS = ((types.INT64, 1), (types.INT64, 1), (types.FLOAT, 2))


def build_graph(source: Callable[[], Arrays], *, device_id: int | None, augmented: bool, threads: int) -> Pipeline:
    """The pipeline on a GPU, or on the CPU for device_id None.

    Its outputs: images uint8 [PARTS, n, 64, 64, 1], labels int64 [PARTS, n].
    """
    device = "cpu" if device_id is None else "gpu"
    return _graph(source, augmented=augmented, device=device, device_id=device_id, num_threads=threads)


def _gathered(addresses: Any, rows: Any) -> Any:
    """Compiled code copies pixels from the shards' mappings into DALI's memory, augmented by rows if there are any."""
    run, inputs = (_copy, [addresses]) if rows is None else (_copy_augmented, [addresses, rows])
    return numba_function(
        *inputs,
        run_fn=run,
        setup_fn=_image_shapes,
        in_types=[types.INT64, types.FLOAT][: len(inputs)],
        ins_ndim=[1, 2][: len(inputs)],
        out_types=[types.UINT8],
        outs_ndim=[4],
        batch_processing=False,
    )


# Compiled by Numba.
def _image_shapes(outs, ins):  # type: ignore[no-untyped-def]  # [output][sample][axis]
    for sample in range(len(outs[0])):
        outs[0][sample][0] = ins[0][sample][0]
        outs[0][sample][1] = outs[0][sample][2] = IMAGE_SIZE
        outs[0][sample][3] = 1


def _copy(out, addresses):  # type: ignore[no-untyped-def]
    augment_kernels.copy_from(addresses, out)


def _copy_augmented(out, addresses, rows):  # type: ignore[no-untyped-def]
    augment_kernels.apply_from(addresses, rows, out)


def _augment_gpu(images: list[Any], rows: list[Any]) -> list[Any]:
    """DLPack capsules of a batch's parts on the GPU. DALI has synchronised them; its thread waits for the result."""
    parts_fhwc = torch.stack([dlpack.from_dlpack(part) for part in images])
    rows_pnr = torch.stack([dlpack.from_dlpack(part) for part in rows])
    result = augment_torch.apply(parts_fhwc.flatten(0, 1)[..., 0], rows_pnr.flatten(0, 1)).reshape(parts_fhwc.shape)
    if result.is_cuda:
        torch.cuda.current_stream().synchronize()
    return [dlpack.to_dlpack(part) for part in result.contiguous()]  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """What makes one graph differ from another."""

    device_id: int | None
    augmented: bool
    threads: int


class _Pipeline:
    """A built graph, whose source can be exchanged once it has ended."""

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind
        self.source: _Source | None = None
        self.graph = build_graph(self._bring, device_id=kind.device_id, augmented=kind.augmented, threads=kind.threads)

    def give_back(self) -> None:
        """Keep it for the next loader of the kind; only after its source's end."""
        self.source = None
        self.graph.reset()
        _idle[self._kind] = self

    def _bring(self) -> Arrays:
        assert self.source is not None  # noqa: S101  (set before the first run)
        return self.source()


_idle: dict[_Kind, _Pipeline] = {}  # compiling a graph's functions takes a second or two; evaluations come often


def _take_pipeline(kind: _Kind, source: "_Source") -> _Pipeline:
    pipeline = _idle.pop(kind, None) or _Pipeline(kind)
    pipeline.source = source
    return pipeline


class _Source:
    """Called by DALI for each batch; raises StopIteration after the last stretch.

    What it locates outlives DALI's use of it: shards stay mapped, and buffers as they are, for KEEP batches.
    """

    def __init__(self, feed: Feed, stretches: Iterator[Stretch], largest: int) -> None:
        self._feed = feed
        self._stretches, ahead = tee(stretches)
        self._numbers = feed.reader.follow(numbers_of(feed.order, ahead), keep=KEEP)
        self._buffers = [np.empty((largest, IMAGE_SIZE, IMAGE_SIZE), np.uint8) for _ in range(KEEP)]
        self._calls = 0
        self.counts: deque[int] = deque()
        """Images of the batches that DALI has not given out yet; parts are padded."""
        self.ended = False
        """Whether all stretches were brought: any other StopIteration is an error, not the end."""

    def __call__(self) -> Arrays:
        stretch = next(self._stretches, None)
        if stretch is None:
            self.ended = True
            raise StopIteration
        return self._bring(*stretch)

    def _bring(self, start: int, stop: int) -> Arrays:
        numbers = next(self._numbers)
        buffer = self._buffers[self._calls % KEEP][: stop - start]
        self._calls += 1
        self.counts.append(len(numbers))
        addresses, labels = self._feed.reader.locate(numbers, buffer)
        arrays = [_parts(addresses), _parts(self._checked(labels))]
        if self._feed.policy is not None:
            arrays.append(_parts(np.concatenate(list(self._rows(self._feed.policy, start, stop)))))
        return arrays

    def _rows(self, policy: Policy, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Augmentation rows of a stretch, which may span epochs."""
        samples, seed = self._feed.order.samples, self._feed.order.seed
        while start < stop:
            end = min(stop, (start // samples + 1) * samples)
            of_epoch = policy.scaled(self._feed.strength(start // samples))
            yield augment.draw(of_epoch, seed, np.arange(start, end))
            start = end

    def close(self) -> None:
        """Let go of shards that were fetched ahead."""
        self._numbers.close()

    def _checked(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """A label out of range would be a device-side assert on a GPU, which kills the process without saying why."""
        if labels.min() < 0 or labels.max() >= self._feed.classes:
            found = f"labels {labels.min()}..{labels.max()}, expected 0..{self._feed.classes - 1}"
            raise CorruptShard(f"a sample has {found}; run `python -m tools verify` on the set")
        return labels.astype(np.int64)


def _parts(array: NDArray[Any]) -> NDArray[Any]:
    """A batch in PARTS of one length, which makes its output one tensor: the last image stands in for missing ones."""
    length = -(-len(array) // PARTS)
    missing = PARTS * length - len(array)
    padded = np.concatenate([array, array[-1:].repeat(missing, axis=0)]) if missing else array
    return padded.reshape(PARTS, length, *array.shape[1:])


def _to_torch(output: Any) -> Tensor:
    """Zero-copy: the batch's parts, one after another."""
    return dlpack.from_dlpack(output.as_tensor()).flatten(0, 1)
