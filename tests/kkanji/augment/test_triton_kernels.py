"""The GPU's augmentation without a GPU: interpreted, it is the reference bit for bit; compiled, it spills nothing."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from kkanji.augment import triton_kernels
from kkanji.augment.numba_kernels import GRID_START, ROW
from kkanji.augment.policy import Policy, apply, sample_rows
from tests.kkanji.augment.triton_interpreter import interpreted

KERNEL = interpreted()  # once: hypothesis calls a test many times
STRONGEST = float(np.nextafter(np.float32(64), np.float32(0)))
REGISTERS = 80  # a thread: at 128 threads a block, six blocks and 24 warps on an SM, of 65,536 registers


def random_images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 64, 64), np.uint8)


def rows_of(policy: Policy, count: int, seed: int = 0) -> NDArray[np.float32]:
    return sample_rows(policy, seed, np.arange(count))


def augmented(
    images: NDArray[np.uint8], rows: NDArray[np.float32], index: NDArray[np.int64] | None = None
) -> NDArray[np.uint8]:
    """By the kernel, in the interpreter."""
    indices = None if index is None else torch.from_numpy(index)
    result: torch.Tensor = KERNEL.augment(torch.from_numpy(images), torch.from_numpy(rows), indices)
    return result.numpy()


IMAGES = {
    "black": np.zeros((2, 64, 64), np.uint8),
    "white": np.full((2, 64, 64), 255, np.uint8),
    "random": random_images(2),
}
STRENGTHS = st.sampled_from([0.0, STRONGEST]) | st.floats(0, STRONGEST, width=32)
POLICIES = st.builds(Policy, **{field.name: STRENGTHS for field in fields(Policy)})


@settings(max_examples=40)
@given(policy=POLICIES, seed=st.integers(0, 2**64 - 1), images=st.sampled_from(sorted(IMAGES)))
@example(policy=Policy(**{field.name: STRONGEST for field in fields(Policy)}), seed=0, images="random")
@example(policy=Policy(), seed=0, images="random")
def test_every_policy_gives_the_references_images(policy: Policy, seed: int, images: str) -> None:
    rows = rows_of(policy, 2, seed)
    assert np.array_equal(augmented(IMAGES[images], rows), apply(IMAGES[images], rows))


def numbers(count: int, low: float, high: float) -> st.SearchStrategy[NDArray[np.float32]]:
    """Any numbers, whole ones and the ends more often: boxes that end on a pixel, places that lie on one."""
    elements = st.floats(low, high, width=32) | st.integers(int(low), int(high)).map(float)
    return arrays(np.float32, count, elements=elements)


ROWS = st.tuples(
    numbers(6, -100, 100),  # the affine map
    numbers(1, 0, 255),  # the noise
    numbers(4, -100, 200),  # the erased box
    st.integers(0, 2**24 - 1).map(lambda key: np.array([key], np.float32)),
    numbers(ROW - GRID_START, -64, 64),
).map(np.concatenate)


@settings(max_examples=40)
@given(row=ROWS, images=st.sampled_from(sorted(IMAGES)))
def test_every_row_gives_the_references_images(row: NDArray[np.float32], images: str) -> None:
    rows = np.stack([row, row])
    assert np.array_equal(augmented(IMAGES[images], rows), apply(IMAGES[images], rows))


def test_no_strength_changes_nothing() -> None:
    images = np.concatenate(list(IMAGES.values()))
    assert np.array_equal(augmented(images, rows_of(Policy().scaled(0), len(images))), images)


@pytest.mark.parametrize("count", [0, 1, 7, 33])
def test_any_number_of_images(count: int) -> None:
    images, rows = random_images(count), rows_of(Policy(), count)
    assert np.array_equal(augmented(images, rows), apply(images, rows))


@pytest.mark.parametrize("index", [[], [4], [0, 0, 0], [3, 1, 4, 1, 0, 2, 4, 4]])
def test_through_an_index_is_gathered_first_bit_for_bit(index: list[int]) -> None:
    images, numbers, rows = random_images(5), np.array(index, np.int64), rows_of(Policy(), len(index))
    found = augmented(images, rows, numbers)
    assert np.array_equal(found, augmented(images[numbers], rows))
    assert np.array_equal(found, apply(images[numbers], rows))


def test_an_index_out_of_range_reads_no_other_memory() -> None:
    white = np.full((3, 64, 64), 255, np.uint8)
    index = np.array([-1, 2, 3, 2**40, -(2**62)], np.int64)
    found = augmented(white[1:2], rows_of(Policy().scaled(0), 5), index)
    assert not found.any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, which the interpreter is made of, tells of nan
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_senseless_rows_read_no_other_memory(value: float) -> None:
    """What comes out does not matter; but of a black image without noise it is black."""
    columns = [*range(6), *range(7, 11), GRID_START, ROW - 1]
    rows = rows_of(Policy().scaled(0), len(columns))
    rows[range(len(columns)), columns] = value
    assert not augmented(np.zeros((len(columns), 64, 64), np.uint8), rows).any()


WRONG = {
    "images: torch.float32 [2, 64, 64] on cpu; expected torch.uint8 [2, 64, 64] on cpu": {
        "images": torch.zeros(2, 64, 64)
    },
    "images: torch.uint8 [2, 64, 64, 1] on cpu; expected torch.uint8 [2, 64, 64] on cpu": {
        "images": torch.zeros(2, 64, 64, 1, dtype=torch.uint8)
    },
    "images: torch.uint8 [] on cpu; expected torch.uint8 [64, 64] on cpu": {
        "images": torch.zeros((), dtype=torch.uint8)
    },
    "images: not contiguous torch.uint8 [2, 64, 64] on cpu": {
        "images": torch.zeros(2, 64, 64, dtype=torch.uint8).transpose(1, 2)
    },
    "rows: torch.float32 [3, 62] on cpu; expected torch.float32 [2, 62] on cpu": {"rows": torch.zeros(3, ROW)},
    "rows: torch.float64 [2, 62] on cpu": {"rows": torch.zeros(2, ROW, dtype=torch.float64)},
    "rows: torch.float32 [2, 62] on meta; expected torch.float32 [2, 62] on cpu": {
        "rows": torch.zeros(2, ROW, device="meta")
    },
    "index: torch.int32 [2] on cpu; expected torch.int64 [2] on cpu": {"index": torch.zeros(2, dtype=torch.int32)},
    "index: torch.int64 [2, 1] on cpu; expected torch.int64 [2] on cpu": {
        "index": torch.zeros(2, 1, dtype=torch.int64)
    },
    "rows: torch.float32 [2, 62] on cpu; expected torch.float32 [3, 62] on cpu": {
        "index": torch.zeros(3, dtype=torch.int64)
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_other_shapes_types_and_devices_are_refused(message: str) -> None:
    given = {"images": torch.zeros(2, 64, 64, dtype=torch.uint8), "rows": torch.zeros(2, ROW), **WRONG[message]}
    with pytest.raises(ValueError) as caught:
        KERNEL.augment(**given)
    assert message in str(caught.value)


def test_compiled_it_takes_no_images_on_a_cpu() -> None:
    with pytest.raises(ValueError, match="images on cpu; expected a GPU, or TRITON_INTERPRET=1"):
        triton_kernels.augment(torch.zeros(1, 64, 64, dtype=torch.uint8), torch.zeros(1, ROW))


@pytest.fixture(params=[80, 90, 100])
def without_device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton compiles for an A100, H100 or B200 that is not there.

    Its wheel has the assemblers: ptxas, and ptxas-blackwell from sm_100 on.
    """
    target = GPUTarget("cuda", request.param, 32)
    stub = SimpleNamespace(
        get_current_device=lambda: request.param, get_current_stream=lambda _: 0, get_current_target=lambda: target
    )
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(type(driver), "active", stub)


def compiled(count: int, *, indexed: bool) -> Any:
    """The kernel as a launch for so many images compiles it, or finds it compiled."""
    images, rows = torch.zeros(count, 64, 64, dtype=torch.uint8), torch.zeros(count, ROW)
    index = torch.zeros(count, dtype=torch.int64) if indexed else None
    kernel, options = triton_kernels.augment_kernel, triton_kernels.OPTIONS
    return kernel.warmup(images, rows, index, images, count, grid=(count, 4), **options)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.usefixtures("without_device")
def test_compiled_it_spills_nothing(indexed: bool, tmp_path: Path) -> None:
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled(3, indexed=indexed).asm["cubin"])
    used = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", cuobjdump("--dump-resource-usage", cubin)))
    assert used["STACK"] == used["LOCAL"] == "0"
    assert 0 < int(used["REG"]) <= REGISTERS
    instructions = cuobjdump("--dump-sass", cubin)
    assert "FMUL" in instructions
    assert "FFMA" not in instructions  # which would round otherwise than the reference


@pytest.mark.usefixtures("without_device")
def test_other_numbers_of_images_compile_nothing_anew() -> None:
    first = compiled(1, indexed=False)
    assert all(compiled(count, indexed=False) is first for count in (2, 16, 33))


def cuobjdump(what: str, cubin: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, what, cubin], check=True, capture_output=True, text=True).stdout


def test_without_a_gpu_triton_need_not_be_there() -> None:
    """The pipeline neither loads nor misses it; a GPU's graph says what to do."""
    code = """
import sys
from importlib import import_module
pipeline = import_module("kkanji.data.dali")
print([name for name in sys.modules if name.split(".")[0] == "triton"])
sys.modules["triton"] = None  # as if it were not installed
for device in (None, 0):
    try:
        pipeline.build_graph(lambda: [], pipeline.GraphOptions(device_id=device, augmented=True))
    except Exception as error:
        print(type(error).__name__, error)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    remedy = "pip install triton, or train with --augment 0"
    assert found.splitlines() == ["[]", f"InputError augmenting on a GPU needs Triton: {remedy}"]
