"""The DALI pipeline: pixels to the device -> augmented -> torch. The only file that imports DALI.

One graph serves both devices. The state of a run stays outside of it: the source is told which stretches of the sample
stream to bring, in which order, and everything random about a sample follows from its position there.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from nvidia.dali import fn, ops, pipeline_def, types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.numba.fn.experimental import numba_function
from torch import Tensor
from torch.utils import dlpack

from kkanji.augment import numba_kernels
from kkanji.data.feed import PARTS, PREFETCH, Arrays, Feed, Source, Span, source_of
from shards import InputError
from shards.format.layout import IMAGE_SIZE
from shards.read.encoded import EncodedReader

# Else a batch's memory comes from malloc, which gives it back to the system after each batch: a third of the time of
# gathering went into page faults (docs/LOG.md, 2026-11-23). DALI reads this at its first allocation.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One micro-batch on the device."""

    images: Tensor
    """uint8 [B, 1, 64, 64], to be normalised (`kkanji.pixels`): float32 takes four times as long to write on a CPU."""
    labels: Tensor
    """int64 [B]"""


class Loader:
    """Micro-batches of a feed, one for each stretch of its sample stream, ready ahead of use.

    DALI works ahead in threads of its own; what happens in the consumer's is to locate the batch that DALI is to bring
    next. `wait_s` adds up the seconds that the consumer spent here. Nothing ends early in silence.
    """

    def __init__(self, feed: Feed, spans: Iterable[Span], device: torch.device, *, largest: int, threads: int = 2):
        self.wait_s = 0.0
        self._device = device
        self._source = source_of(feed, spans)
        encoded = isinstance(feed.reader, EncodedReader)
        kind = Kind(
            device_id=None if device.type == "cpu" else (device.index or 0),
            augmented=feed.policy is not None,
            batch_size=largest if encoded else PARTS,
            encoded=encoded,
            threads=threads,
        )
        self._pipeline = _take_pipeline(kind, self._source)
        self._ended = False
        self._in_use: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._next()) is not None:
            yield batch
            self._keep_until_used(batch)

    def close(self) -> None:
        """Free the pipeline, or keep it for the next loader, once the GPU is done with all batches."""
        if self._device.type != "cpu":
            self._mark().synchronize()
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
            images, labels = self._pipeline.graph.run(self._stream())
        except RuntimeError:
            self._source.name_damage()
            raise
        except StopIteration:
            self._ended = self._source.ended
            if not self._ended:
                raise RuntimeError("the loader's source ended early") from None
            return None
        finally:
            self.wait_s += perf_counter() - start
        count, parts = self._source.counts.popleft(), not self._pipeline.kind.encoded
        pixels, numbers = (_to_torch(output, parts=parts)[:count] for output in (images, labels))
        return Batch(images=pixels.movedim(3, 1), labels=numbers)

    def _stream(self) -> torch.cuda.Stream | None:
        """Where a batch is used. Its outputs are ordered on that stream; without one the host would wait for them."""
        return None if self._device.type == "cpu" else torch.cuda.current_stream(self._device)

    def _keep_until_used(self, batch: Batch) -> None:
        """DALI may reuse a batch's memory once we let go of it, so hold it until the GPU is done with it."""
        if self._device.type == "cpu":
            return
        self._in_use.append((batch, self._mark()))
        while self._in_use and self._in_use[0][1].query():
            self._in_use.popleft()

    def _mark(self) -> torch.cuda.Event:
        """Comes to pass when the GPU has done all that it was given so far."""
        event = torch.cuda.Event()
        event.record()
        return event


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What makes one graph differ from another."""

    device_id: int | None
    """A GPU, or None for the CPU."""
    augmented: bool = False
    batch_size: int = PARTS
    """DALI samples in a batch: parts of a packed batch, images of an encoded one."""
    encoded: bool = False
    """Whether images are decoded from PNG or JPEG files."""
    threads: int = 2

    @property
    def device(self) -> str:
        """DALI's name of it."""
        return "cpu" if self.device_id is None else "gpu"


def build_graph(source: Callable[[], Arrays], kind: Kind) -> Pipeline:
    """The pipeline. Its outputs: images uint8 [.., 64, 64, 1] and labels int64 [..]; .. is PARTS, n or n if encoded."""
    return _graph(source, kind, batch_size=kind.batch_size, device_id=kind.device_id, num_threads=kind.threads)


@pipeline_def(prefetch_queue_depth=PREFETCH)
def _graph(source: Callable[[], Arrays], kind: Kind) -> tuple[Any, Any]:
    """Each of a packed batch's PARTS is one DALI sample, so that DALI's cost for a sample hardly counts."""
    inputs = (_ENCODED if kind.encoded else _PACKED)[: 3 if kind.augmented else 2]
    dtypes, ndims = (list(column) for column in zip(*inputs, strict=True))
    where, labels, *rows = fn.external_source(source, num_outputs=len(inputs), batch=True, dtype=dtypes, ndim=ndims)
    pixels, on_cpu = _decoded if kind.encoded else _gathered, kind.device == "cpu"
    images = pixels(where, rows if on_cpu else [], kind.device)
    if on_cpu:
        return images, labels
    return _augmented(images, rows[0].gpu()) if rows else images, labels.gpu()


def _augmented(images: Any, rows: Any) -> Any:
    """DALI calls augment_parts without waiting for its inputs: that function uses the stream on which they come."""
    if find_spec("triton") is None:
        raise InputError("augmenting on a GPU takes Triton: pip install triton, or train with --augment 0")
    return fn.dl_tensor_python_function(
        images, rows, device="gpu", function=augment_parts, batch_processing=True, synchronize_stream=False
    )


# Type and dimensions of what the source brings: addresses of a part's images or a file, labels, augmentation rows.
_PACKED = ((types.INT64, 1), (types.INT64, 1), (types.FLOAT, 2))
_ENCODED = ((types.UINT8, 1), (types.INT64, 0), (types.FLOAT, 1))


def _gathered(addresses: Any, rows: list[Any], device: str) -> Any:
    """Compiled code copies pixels from the shards' mappings into DALI's memory, augmented by rows if there are any."""
    given = [types.INT64, types.FLOAT], [1, 2]
    images = _compiled(_copy_augmented if rows else _copy, _part_shapes, [addresses, *rows], given, dimensions=4)
    return images if device == "cpu" else images.gpu()


def _decoded(files: Any, rows: list[Any], device: str) -> Any:
    """PNG or JPEG files as images; compiled code augments them by rows if there are any."""
    images = fn.decoders.image(files, device="cpu" if device == "cpu" else "mixed", output_type=types.GRAY)
    given = [types.UINT8, types.FLOAT], [3, 1]
    return _compiled(_augment_one, _image_shapes, [images, *rows], given, dimensions=3) if rows else images


def _compiled(
    run: Callable[..., None],
    shapes: Callable[..., None],
    inputs: list[Any],
    given: tuple[list[Any], list[int]],
    *,
    dimensions: int,
) -> Any:
    """A function that Numba compiles, run on each DALI sample; given: types and dimensions of the inputs."""
    return numba_function(
        *inputs,
        run_fn=run,
        setup_fn=shapes,
        in_types=given[0][: len(inputs)],
        ins_ndim=given[1][: len(inputs)],
        out_types=[types.UINT8],
        outs_ndim=[dimensions],
        batch_processing=False,
    )


# Compiled by Numba; shapes are [output][sample][axis].
def _part_shapes(outs, ins):  # type: ignore[no-untyped-def]
    for sample in range(len(outs[0])):
        outs[0][sample][0] = ins[0][sample][0]
        outs[0][sample][1] = outs[0][sample][2] = IMAGE_SIZE
        outs[0][sample][3] = 1


def _image_shapes(outs, _):  # type: ignore[no-untyped-def]
    for sample in range(len(outs[0])):
        outs[0][sample][0] = outs[0][sample][1] = IMAGE_SIZE
        outs[0][sample][2] = 1


def _copy(out, addresses):  # type: ignore[no-untyped-def]
    numba_kernels.copy_from(addresses, out)


def _copy_augmented(out, addresses, rows):  # type: ignore[no-untyped-def]
    numba_kernels.apply_from(addresses, rows, out)


def _augment_one(out, image, row):  # type: ignore[no-untyped-def]
    shape = (1, IMAGE_SIZE, IMAGE_SIZE)
    numba_kernels.apply(image.reshape(shape), row.reshape((1, row.size)), out.reshape(shape))


def augment_parts(images: list[Any], rows: list[Any]) -> list[Any]:
    """Augment a batch's parts, or images, on the device where DALI has them: DLPack capsules in, DLPack capsules out.

    On a GPU all work is queued on DALI's own stream: behind what brings the inputs, before DALI's copy of the result,
    and beside the training step. DALI begins that copy when this function has returned, and then lets go of the result;
    torch gives its memory to nothing but later work on the same stream, so it lasts until the copy is done.
    """
    from kkanji.augment import triton_kernels

    parts, part_rows = ([dlpack.from_dlpack(capsule) for capsule in capsules] for capsules in (images, rows))
    with _stream_of_dali(parts[0].device):
        pixels = torch.stack(parts)
        flat_rows = torch.stack(part_rows).view(-1, numba_kernels.ROW)
        augmented = triton_kernels.augment(pixels.view(-1, IMAGE_SIZE, IMAGE_SIZE), flat_rows).view(pixels.shape)
    return [dlpack.to_dlpack(part) for part in augmented]  # type: ignore[attr-defined]


def _stream_of_dali(device: torch.device) -> AbstractContextManager[None]:
    """In which torch and Triton use the stream that DALI runs the present Python function on."""
    if device.type == "cpu":
        return nullcontext()
    handle = ops.PythonFunction.current_stream().ptr  # type: ignore[attr-defined]
    return torch.cuda.stream(torch.cuda.ExternalStream(handle, device=device))


class _Pipeline:
    """A built graph, whose source can be exchanged once it has ended."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.source: Source | None = None
        self.graph = build_graph(self._bring, kind)

    def give_back(self) -> None:
        """Keep it for the next loader of the kind; only after its source's end."""
        self.source = None
        self.graph.reset()
        _idle[self.kind] = self

    def _bring(self) -> Arrays:
        assert self.source is not None  # noqa: S101  (set before the first run)
        return self.source()


_idle: dict[Kind, _Pipeline] = {}  # compiling a graph's functions takes a second or two; evaluations come often


def _take_pipeline(kind: Kind, source: Source) -> _Pipeline:
    pipeline = _idle.pop(kind, None) or _Pipeline(kind)
    pipeline.source = source
    return pipeline


def _to_torch(output: Any, *, parts: bool) -> Tensor:
    """Zero-copy: the batch's images, or its parts one after another."""
    tensor = dlpack.from_dlpack(output.as_tensor())
    return tensor.flatten(0, 1) if parts else tensor
