"""The DALI pipeline: from the addresses of pixels to augmented batches in torch. The only file that imports DALI.

An image's way through the graph, on the CPU and on a GPU:

- packed shards: compiled code copies pixels from the mapped shards into DALI's memory (`_gathered`)
- PNG and JPEG shards: DALI decodes the files (`_decoded`); on a GPU JPEG is decoded there, PNG on the CPU
- resident images: only those that the device lacks are sent to it; all others are read where they lie (`_resident`)
- augmentation: on the CPU in the same pass as the copy (Numba); on a GPU after the transfer, by one Triton kernel
- torch: the outputs are handed over by DLPack, without a copy

The graph holds no state of a run. The external source (`kkanji.data.feed`) decides which samples come next, and all
that is random about a sample follows from its position in the sample stream.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from nvidia.dali import fn, ops, pipeline_def, types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.numba import NumbaFunction
from torch import Tensor
from torch.utils import dlpack

from kkanji.augment import numba_kernels
from kkanji.data import callbacks
from kkanji.data.feed import PARTS, Arrays, ExternalSource, Feed, Inputs, Span, external_source
from kkanji.data.resident import ResidentImages
from kkanji.data.training_set import PREFETCH
from shards import InputError
from shards.format.layout import IMAGE_SIZE
from shards.read.cut_files import raise_if_cut

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
        self._source = external_source(feed, spans, on_host=device.type == "cpu")
        options = GraphOptions(
            device_id=None if device.type == "cpu" else (device.index or 0),
            augmented=feed.policy is not None,
            batch_size=largest if self._source.inputs == "files" else PARTS,
            inputs=self._source.inputs,
            threads=threads,
        )
        self._pipeline = _take_pipeline(options, self._source, feed.resident)
        self._ended = False
        self._made_of: tuple[Tensor, ...] = ()  # DALI's memory that the last batch is computed from, not made up of
        self._in_use: deque[tuple[Batch, tuple[Tensor, ...], torch.cuda.Event]] = deque()
        # It does not wait for the training step, which may be long behind.
        self._own_stream = torch.cuda.Stream(device) if options.augmented_after else None

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._next()) is not None:
            try:
                yield batch
            finally:  # also where the consumer breaks off
                self._keep_until_used(batch)

    def close(self) -> None:
        """Wait until the GPU is done with all batches, then free the pipeline or keep it for the next loader."""
        with ExitStack() as last:  # whatever the wait raises
            last.callback(self._source.close)
            # Shutting down waits for copies in progress, before the shards they read are unmapped.
            last.callback(self._pipeline.keep_for_next if self._ended else self._pipeline.graph._shutdown)
            last.callback(self._in_use.clear)
            if self._device.type != "cpu":
                self._record_event().synchronize()

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
            outputs = self._pipeline.graph.run(self._own_stream or self._stream())
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
        return self._batch(outputs, self._source.delivered())

    def _batch(self, outputs: Sequence[Any], count: int) -> Batch:
        in_parts = self._pipeline.options.inputs != "files"
        pixels, labels, *rows = (_to_torch(output, in_parts=in_parts)[:count] for output in outputs)
        if self._own_stream is not None:
            pixels = self._augmented(self._own_stream, pixels, *rows)
        return Batch(images=pixels.movedim(3, 1), labels=labels)

    def _augmented(self, stream: torch.cuda.Stream, pixels: Tensor, rows: Tensor) -> Tensor:
        """Decoded images, augmented on this stream; the stream that uses them waits for it."""
        self._made_of = (pixels, rows)
        with torch.cuda.stream(stream):
            augmented = _augment(pixels, rows)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return augmented

    def _stream(self) -> torch.cuda.Stream | None:
        """The stream that will use the batch. DALI orders its outputs on it; without one the host waits for them."""
        return None if self._device.type == "cpu" else torch.cuda.current_stream(self._device)

    def _keep_until_used(self, batch: Batch) -> None:
        """Hold a batch until the GPU is done with it: DALI reuses its memory as soon as nothing refers to it."""
        if self._device.type == "cpu":
            return
        self._in_use.append((batch, self._made_of, self._record_event()))
        while self._in_use and self._in_use[0][-1].query():
            self._in_use.popleft()

    def _record_event(self) -> torch.cuda.Event:
        """An event that completes when the GPU has finished all work queued so far."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphOptions:
    """Options that a graph is built with. Graphs with equal options are interchangeable."""

    device_id: int | None
    """Number of the GPU; None for the CPU."""
    augmented: bool = False
    """Whether the source also gives augmentation rows; false by default."""
    batch_size: int = PARTS
    """DALI samples in a batch: parts of it (the default), or one for each file."""
    inputs: Inputs = "addresses"
    """What the source gives to make images of; addresses by default."""
    threads: int = 2
    """DALI's threads on the CPU; 2 by default."""

    @property
    def on_gpu(self) -> bool:
        """Whether the graph ends on a GPU."""
        return self.device_id is not None

    @property
    def augmented_after(self) -> bool:
        """Whether images are augmented after the graph.

        Of files, on a GPU: there each is a DALI sample, and a function in the graph would be given 12,500 capsules for
        6,250 images.
        """
        return self.on_gpu and self.augmented and self.inputs == "files"


def build_graph(
    source: Callable[[], Arrays], options: GraphOptions, resident: Callable[[], Tensor] | None = None
) -> Pipeline:
    """Build the pipeline. Its outputs are images uint8 and labels int64; after the graph's work rows float32.

    In parts: [PARTS, n, 64, 64, 1] and [PARTS, n]. Of files: [n, 64, 64, 1], [n] and, if they are to be augmented
    after the graph, [n, ROW].
    resident: for inputs of numbers: gives the images [N, 64, 64] that they number, and which the graph completes.
    Raises InputError if Triton is needed and missing.
    """
    if options.on_gpu and options.augmented and find_spec("triton") is None:
        raise InputError("augmenting on a GPU needs Triton: pip install triton, or train with --augment 0")
    return _graph(
        source,
        options,
        resident,
        batch_size=options.batch_size,
        device_id=options.device_id,
        num_threads=options.threads,
    )


# Type and number of dimensions of the source's arrays, for one DALI sample: what images are made of, labels, rows.
_INPUTS: dict[Inputs, list[tuple[Any, int]]] = {
    "addresses": [(types.INT64, 1), (types.INT64, 1), (types.FLOAT, 2)],
    "files": [(types.UINT8, 1), (types.INT64, 0), (types.FLOAT, 1)],
    # the new images and their numbers, the numbers of all
    "numbers": [(types.UINT8, 4), (types.INT64, 1), (types.INT64, 1), (types.INT64, 1), (types.FLOAT, 2)],
}


@pipeline_def(prefetch_queue_depth=PREFETCH)
def _graph(
    source: Callable[[], Arrays], options: GraphOptions, resident: Callable[[], Tensor] | None
) -> tuple[Any, ...]:
    """A part of a packed batch is one DALI sample: with hundreds of images in it, DALI's overhead hardly counts."""
    inputs = _INPUTS[options.inputs]
    if not options.augmented:
        inputs = inputs[:-1]
    dtypes, ndims = (list(column) for column in zip(*inputs, strict=True))
    nodes: list[Any] = list(fn.external_source(source, num_outputs=len(inputs), batch=True, dtype=dtypes, ndim=ndims))
    rows = [nodes.pop()] if options.augmented else []
    *where, labels = nodes
    if not options.on_gpu:
        pixels = _decoded if options.inputs == "files" else _gathered
        return pixels(where[0], rows, "cpu"), labels
    rows = [node.gpu() for node in rows]
    if options.inputs == "files":
        return _decoded(where[0], [], "mixed"), labels.gpu(), *rows
    if resident is not None:
        images = _torch_function(partial(_from_resident, resident), *(node.gpu() for node in where), *rows)
    else:
        images = _gathered(where[0], [], "gpu")
        images = _torch_function(_augment, images, *rows) if rows else images
    return images, labels.gpu()


def _gathered(addresses: Any, rows: list[Any], device: str) -> Any:
    """Copy pixels from the mapped shards into DALI's memory, augmented if there are rows."""
    images = _compiled(
        callbacks.copy_augmented if rows else callbacks.copy,
        callbacks.part_shapes,
        [addresses, *rows],
        in_types=[types.INT64, types.FLOAT],
        in_dimensions=[1, 2],
        out_dimensions=4,
    )
    return images if device == "cpu" else images.gpu()


def _decoded(files: Any, rows: list[Any], device: str) -> Any:
    """Decode PNG or JPEG files, and augment the images if there are rows."""
    images = fn.decoders.image(files, device=device, output_type=types.GRAY)
    if not rows:
        return images
    return _compiled(
        callbacks.augment_one,
        callbacks.image_shapes,
        [images, *rows],
        in_types=[types.UINT8, types.FLOAT],
        in_dimensions=[3, 1],
        out_dimensions=3,
    )


def _compiled(
    run: Any,
    shapes: Any,
    inputs: list[Any],
    *,
    in_types: list[Any],
    in_dimensions: list[int],
    out_dimensions: int,
) -> Any:
    """An operator that calls compiled functions (`kkanji.data.callbacks`) for each DALI sample; its output is uint8."""
    operator = _Callback(
        run_fn=run,
        setup_fn=shapes,
        in_types=in_types[: len(inputs)],
        ins_ndim=in_dimensions[: len(inputs)],
        out_types=[types.UINT8],
        outs_ndim=[out_dimensions],
        batch_processing=False,
    )
    return operator(*inputs)


class _Callback(NumbaFunction):
    """DALI's operator for functions compiled by Numba, given those that are compiled already."""

    def _get_run_fn_cpu(self, run_fn: Any, *_types: Any) -> int:
        return int(run_fn.address)

    def _get_setup_fn_cpu(self, setup_fn: Any) -> int:
        return int(setup_fn.address)


def _torch_function(function: Callable[..., Tensor], *inputs: Any) -> Any:
    """An operator that runs a function of torch tensors on a GPU, in parts. DALI calls it without waiting for them."""
    return fn.dl_tensor_python_function(
        *inputs, device="gpu", function=TorchFunction(function), batch_processing=True, synchronize_stream=False
    )


@dataclass(frozen=True, slots=True)
class TorchFunction:
    """A function of tensors as DALI calls it: for each input the DLPack capsules of a batch's parts, and back.

    On a GPU all work is queued on DALI's own stream: after the work that produces the inputs, before DALI's copy of the
    result, and in parallel to the training step. DALI starts that copy after this function returns, and then drops the
    result. Its memory still lasts until the copy is done, as torch reuses it only for later work on the same stream.
    """

    function: Callable[..., Tensor]
    """Takes the parts of each input in one tensor [PARTS, n, ...], and gives one."""

    def __call__(self, *inputs: list[Any]) -> list[Any]:
        """The parts of the result."""
        parts = [[dlpack.from_dlpack(capsule) for capsule in capsules] for capsules in inputs]
        with _dali_stream(parts[0][0].device):
            result = self.function(*map(torch.stack, parts))
        return [dlpack.to_dlpack(part) for part in result]  # type: ignore[attr-defined]


def _augment(images: Tensor, rows: Tensor) -> Tensor:
    """Augment images [..., 64, 64, 1] by rows [..., ROW], on their device."""
    from kkanji.augment import triton_kernels  # here, as a machine without a GPU may lack Triton

    flat = images.view(-1, IMAGE_SIZE, IMAGE_SIZE)
    return triton_kernels.augment(flat, rows.view(-1, numba_kernels.ROW)).view(images.shape)


def _from_resident(
    resident: Callable[[], Tensor], new: Tensor, new_numbers: Tensor, numbers: Tensor, *rows: Tensor
) -> Tensor:
    """The images of these numbers [PARTS, n, 64, 64, 1], augmented if there are rows; the new ones become resident."""
    images = resident()
    images.index_copy_(0, new_numbers.flatten(), new.view(-1, IMAGE_SIZE, IMAGE_SIZE))
    if rows:
        from kkanji.augment import triton_kernels

        found = triton_kernels.augment(images, rows[0].view(-1, numba_kernels.ROW), numbers.flatten())
    else:
        found = images.index_select(0, numbers.flatten())
    return found.view(*numbers.shape, IMAGE_SIZE, IMAGE_SIZE, 1)


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
        self.resident: ResidentImages | None = None
        numbered = options.inputs == "numbers"
        self.graph = build_graph(self._call_source, options, self._resident_images if numbered else None)

    def keep_for_next(self) -> None:
        """Keep the graph for the next loader with equal options. Only after its source has ended."""
        self.source = self.resident = None
        self.graph.reset()
        _idle[self.options] = self

    def _call_source(self) -> Arrays:
        assert self.source is not None  # noqa: S101  (set before the first run)
        return self.source()

    def _resident_images(self) -> Tensor:
        assert self.resident is not None  # noqa: S101  (set before the first run)
        return self.resident.images


# Building a graph starts threads, and a run evaluates often.
_idle: dict[GraphOptions, _Pipeline] = {}


def _take_pipeline(options: GraphOptions, source: ExternalSource, resident: ResidentImages | None) -> _Pipeline:
    """An idle pipeline with these options, or a new one."""
    pipeline = _idle.pop(options, None) or _Pipeline(options)
    pipeline.source, pipeline.resident = source, resident
    return pipeline


def _to_torch(output: Any, *, in_parts: bool) -> Tensor:
    """A DALI output as a tensor that shares its memory, parts joined."""
    tensor = dlpack.from_dlpack(output.as_tensor().__dlpack__())  # a capsule spares torch its questions
    return tensor.flatten(0, 1) if in_parts else tensor
