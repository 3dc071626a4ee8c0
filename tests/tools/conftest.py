"""Small data in every form the tools read or write. Pixels are random: these tests need no real ink."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tools.commands.combine import combine
from tools.commands.split import split

Pixels = NDArray[np.uint8]


def encode(pixels: Pixels) -> bytes:
    """A PNG of these pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def png() -> Callable[[Pixels], bytes]:
    """Encodes pixels as PNG."""
    return encode


@pytest.fixture
def codh_tree(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder in CODH's layout: `codh_tree({"U+4E00": 3}, seed=0, name="raw")`, random images."""

    def make(counts: Mapping[str, int], *, seed: int = 0, name: str = "raw") -> Path:
        random, root = np.random.default_rng(seed), tmp_path / name
        for label, count in counts.items():
            folder = root / "kkanji2" / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (64, 64), np.uint8)
                (folder / f"{seed:08x}{number:08x}.png").write_bytes(encode(pixels))
        return root

    return make


@pytest.fixture
def originals_folder(codh_tree: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes originals with a split: `originals_folder({"U+4E00": 3}, val=0.2, test=0.0, name="originals")`."""

    def make(counts: Mapping[str, int], *, val: float = 0.2, test: float = 0.0, name: str = "originals") -> Path:
        combine((codh_tree(counts, name=f"{name}-raw"),), output=tmp_path / name)
        split(tmp_path / name, val=val, test=test)
        return tmp_path / name

    return make
