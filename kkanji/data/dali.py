"""The DALI pipeline: from the addresses of pixels to augmented batches in torch. The only file that imports DALI.

An image's way through the graph, on the CPU and on a GPU:

- packed shards: compiled code copies pixels from the mapped shards into DALI's memory (`_gathered`)
- PNG and JPEG shards: DALI decodes the files (`_decoded`); on a GPU JPEG is decoded there, PNG on the CPU
- augmentation: on the CPU in the same pass as the copy (Numba); on a GPU after the transfer, by one Triton kernel
- torch: the outputs are handed over by DLPack, without a copy

The graph holds no state of a run. The external source (`kkanji.data.feed`) decides which samples come next, and all
that is random about a sample follows from its position in the sample stream.
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
from kkanji.data.feed import PARTS, PREFETCH, Arrays, ExternalSource, Feed, Span, external_source
from shards import InputError
from shards.format.layout import IMAGE_SIZE
from shards.read.cut_files import raise_if_cut
from shards.read.encoded import EncodedReader

# Buffers above this size come from DALI's pool. malloc would return them to the system after each batch, and a third
# of the time to gather went into page faults (docs/LOG.md, 2026-11-23). DALI reads this at its first allocation.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One micro-batch on the device."""

    images: Tensor
    """Gray levels uint8 [B, 1, 64, 64]. `kkanji.pixels` normalises them later: float32 takes four times the memory."""
    labels: Tensor
    """Class numbers int64 [B]."""


class Loader:
    """Micro-batches of a feed, one for each span of its sample stream, prefetched.

    DALI works ahead in its own threads; the consumer's thread only calls the external source, which locates a later
    batch. `wait_s` is the sum of the seconds that the consumer spent in here.
    """

    def __init__(self, feed: Feed, spans: Iterable[Span], device: torch.device, *, largest: int, threads: int = 2):
        """largest: samples in the longest span. threads: DALI's threads on the CPU."""
        self.wait_s = 0.0
        self._device = device
        self._source = external_source(feed, spans)
        encoded = isinstance(feed.reader, EncodedReader)
        options = GraphOptions(
            device_id=None if device.type == "cpu" else (device.index or 0),
            augmented=feed.policy is not None,
            batch_size=largest if encoded else PARTS,
            encoded=encoded,
            threads=threads,
        )
        self._pipeline = _take_pipeline(options, self._source)
        self._ended = False
        self._in_use: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._next()) is not None:
            yield batch
            self._keep_until_used(batch)

    def close(self) -> None:
        """Wait until the GPU is done with all batches, then free the pipeline or keep it for the next loader."""
        if self._device.type != "cpu":
            self._record_event().synchronize()
        self._in_use.clear()
        if self._ended:
            self._pipeline.keep_for_next()
        else:
            self._pipeline.graph._shutdown()  # waits for copies in progress, before the shards they read are unmapped
        self._source.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> Batch | None:
        """The next batch; None after the last one.

        Raises CorruptShard for a damaged image, ChangedShard for a shard that was cut, and RuntimeError if the pipeline
        ends before its source.
        """
        start = perf_counter()
        try:
            images, labels = self._pipeline.graph.run(self._stream())
        except RuntimeError:
            self._source.raise_if_damaged()
            raise
        except StopIteration:
            self._ended = self._source.ended
            if not self._ended:
                raise RuntimeError("the loader's source ended early") from None
            return None
        finally:
            self.wait_s += perf_counter() - start
        raise_if_cut()
        count = self._source.counts.popleft()
        in_parts = not self._pipeline.options.encoded
        pixels, numbers = (_to_torch(output, in_parts=in_parts)[:count] for output in (images, labels))
        return Batch(images=pixels.movedim(3, 1), labels=numbers)

    def _stream(self) -> torch.cuda.Stream | None:
        """The stream that will use the batch. DALI orders its outputs on it; without one the host waits for them."""
        return None if self._device.type == "cpu" else torch.cuda.current_stream(self._device)

    def _keep_until_used(self, batch: Batch) -> None:
        """Hold a batch until the GPU is done with it: DALI reuses its memory as soon as nothing refers to it."""
        if self._device.type == "cpu":
            return
        self._in_use.append((batch, self._record_event()))
        while self._in_use and self._in_use[0][1].query():
            self._in_use.popleft()

    def _record_event(self) -> torch.cuda.Event:
        """An event that completes when the GPU has finished all work queued so far."""
        event = torch.cuda.Event()
        event.record()
        return event


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphOptions:
    """Options that a graph is built with. Graphs with equal options are interchangeable."""

    device_id: int | None
    """Number of the GPU; None for the CPU."""
    augmented: bool = False
    """Whether the source also gives augmentation rows; false by default."""
    batch_size: int = PARTS
    """DALI samples in a batch: parts of a packed batch (the default), or images of an encoded one."""
    encoded: bool = False
    """Whether images are PNG or JPEG files to decode; false by default."""
    threads: int = 2
    """DALI's threads on the CPU; 2 by default."""

    @property
    def device(self) -> str:
        """DALI's name of the device."""
        return "cpu" if self.device_id is None else "gpu"


def build_graph(source: Callable[[], Arrays], options: GraphOptions) -> Pipeline:
    """Build the pipeline. Its outputs are images uint8 and labels int64.

    Packed: [PARTS, n, 64, 64, 1] and [PARTS, n]. Encoded: [n, 64, 64, 1] and [n].
    """
    return _graph(
        source,
        options,
        batch_size=options.batch_size,
        device_id=options.device_id,
        num_threads=options.threads,
    )


# Type and number of dimensions of the source's arrays, for one DALI sample: addresses of a part's images or the bytes
# of a file, labels, augmentation rows.
_PACKED_INPUTS = [(types.INT64, 1), (types.INT64, 1), (types.FLOAT, 2)]
_ENCODED_INPUTS = [(types.UINT8, 1), (types.INT64, 0), (types.FLOAT, 1)]


@pipeline_def(prefetch_queue_depth=PREFETCH)
def _graph(source: Callable[[], Arrays], options: GraphOptions) -> tuple[Any, Any]:
    """A part of a packed batch is one DALI sample: with hundreds of images in it, DALI's overhead hardly counts."""
    inputs = _ENCODED_INPUTS if options.encoded else _PACKED_INPUTS
    if not options.augmented:
        inputs = inputs[:2]
    dtypes, ndims = (list(column) for column in zip(*inputs, strict=True))
    where, labels, *rows = fn.external_source(source, num_outputs=len(inputs), batch=True, dtype=dtypes, ndim=ndims)
    pixels = _decoded if options.encoded else _gathered
    if options.device == "cpu":
        return pixels(where, rows, options.device), labels
    images = pixels(where, [], options.device)
    return _augmented_on_gpu(images, rows[0].gpu()) if rows else images, labels.gpu()


def _augmented_on_gpu(images: Any, rows: Any) -> Any:
    """Augment by Triton. DALI calls augment_parts without waiting, as that works on the stream of its inputs."""
    if find_spec("triton") is None:
        raise InputError("augmenting on a GPU needs Triton: pip install triton, or train with --augment 0")
    return fn.dl_tensor_python_function(
        images, rows, device="gpu", function=augment_parts, batch_processing=True, synchronize_stream=False
    )


def _gathered(addresses: Any, rows: list[Any], device: str) -> Any:
    """Copy pixels from the mapped shards into DALI's memory, augmented if there are rows."""
    images = _compiled(
        _copy_augmented if rows else _copy,
        _part_shapes,
        [addresses, *rows],
        in_types=[types.INT64, types.FLOAT],
        in_dimensions=[1, 2],
        out_dimensions=4,
    )
    return images if device == "cpu" else images.gpu()


def _decoded(files: Any, rows: list[Any], device: str) -> Any:
    """Decode PNG or JPEG files, and augment the images if there are rows."""
    images = fn.decoders.image(files, device="cpu" if device == "cpu" else "mixed", output_type=types.GRAY)
    if not rows:
        return images
    return _compiled(
        _augment_one,
        _image_shapes,
        [images, *rows],
        in_types=[types.UINT8, types.FLOAT],
        in_dimensions=[3, 1],
        out_dimensions=3,
    )


def _compiled(
    run: Callable[..., None],
    shapes: Callable[..., None],
    inputs: list[Any],
    *,
    in_types: list[Any],
    in_dimensions: list[int],
    out_dimensions: int,
) -> Any:
    """An operator that runs a function, compiled by Numba, on each DALI sample; its output is uint8."""
    return numba_function(
        *inputs,
        run_fn=run,
        setup_fn=shapes,
        in_types=in_types[: len(inputs)],
        ins_ndim=in_dimensions[: len(inputs)],
        out_types=[types.UINT8],
        outs_ndim=[out_dimensions],
        batch_processing=False,
    )


# Numba compiles the next functions and infers their types. Shapes are indexed [output][sample][axis].
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
    """Augment the parts, or images, of a batch on their device: DLPack capsules in, DLPack capsules out.

    On a GPU all work is queued on DALI's own stream: after the work that produces the inputs, before DALI's copy of the
    result, and in parallel to the training step. DALI starts that copy after this function returns, and then drops the
    result. Its memory still lasts until the copy is done, as torch reuses it only for later work on the same stream.
    """
    from kkanji.augment import triton_kernels  # here, as a machine without a GPU may lack Triton

    parts = [dlpack.from_dlpack(capsule) for capsule in images]
    part_rows = [dlpack.from_dlpack(capsule) for capsule in rows]
    with _dali_stream(parts[0].device):
        pixels = torch.stack(parts)
        flat_rows = torch.stack(part_rows).view(-1, numba_kernels.ROW)
        augmented = triton_kernels.augment(pixels.view(-1, IMAGE_SIZE, IMAGE_SIZE), flat_rows).view(pixels.shape)
    return [dlpack.to_dlpack(part) for part in augmented]  # type: ignore[attr-defined]


def _dali_stream(device: torch.device) -> AbstractContextManager[None]:
    """A context in which torch and Triton use the stream of DALI's current Python function."""
    if device.type == "cpu":
        return nullcontext()
    handle = ops.PythonFunction.current_stream().ptr  # type: ignore[attr-defined]
    return torch.cuda.stream(torch.cuda.ExternalStream(handle, device=device))


class _Pipeline:
    """A built graph whose source can be replaced once it has ended."""

    def __init__(self, options: GraphOptions) -> None:
        self.options = options
        self.source: ExternalSource | None = None
        self.graph = build_graph(self._call_source, options)

    def keep_for_next(self) -> None:
        """Keep the graph for the next loader with equal options. Only after its source has ended."""
        self.source = None
        self.graph.reset()
        _idle[self.options] = self

    def _call_source(self) -> Arrays:
        assert self.source is not None  # noqa: S101  (set before the first run)
        return self.source()


# Compiling the functions of a graph takes a second or two, and a run evaluates often.
_idle: dict[GraphOptions, _Pipeline] = {}


def _take_pipeline(options: GraphOptions, source: ExternalSource) -> _Pipeline:
    """An idle pipeline with these options, or a new one."""
    pipeline = _idle.pop(options, None) or _Pipeline(options)
    pipeline.source = source
    return pipeline


def _to_torch(output: Any, *, in_parts: bool) -> Tensor:
    """A DALI output as a tensor that shares its memory, parts joined."""
    tensor = dlpack.from_dlpack(output.as_tensor())
    return tensor.flatten(0, 1) if in_parts else tensor
