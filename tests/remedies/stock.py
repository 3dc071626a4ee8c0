"""What faults are made of: small data of every kind, made once, of which each test gets copies."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.tools.conftest import encode

WORDS = ("U+4E00", "U+4E8C", "U+4E09")


@dataclass
class Stock:
    """A new folder for a test, and what is at hand to put there."""

    folder: Path
    made: Path
    """What was made once: raw, originals, shards."""
    run: Callable[[], Path]
    """A trained run, made when it is first needed."""
    bucket: Callable[[], str]
    """A new location in an S3 server, which is started when it is first needed."""
    variables: dict[str, str] = field(default_factory=dict)
    """Of the environment."""
    limits: dict[str, object] = field(default_factory=dict)
    """Of the sources, by their names with the module: what a set of terabytes or a wait of minutes meets, met at once.

    Only tools meet them: what imports torch runs in another process."""
    held: object = None
    """What another process would hold meanwhile."""
    ending: ExitStack = field(default_factory=ExitStack)
    """What the test closes as it ends."""

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def copy(self, name: str, to: str | None = None) -> Path:
        """A copy of raw, originals or shards."""
        return Path(shutil.copytree(self.made / name, self.folder / (to or name), symlinks=True))

    def copy_run(self, to: str = "run") -> Path:
        return Path(shutil.copytree(self.run(), self.folder / to, symlinks=True))

    def write(self, name: str, content: str | bytes = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


def draw(folder: Path, label: str, count: int, *, seed: int = 0) -> None:
    """Images of a class, white on black: random patterns of 8x8 squares."""
    random = np.random.default_rng([seed, *label.encode()])
    (folder / label).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.pad(np.kron(random.integers(0, 2, (8, 8), np.uint8) * 255, np.ones((6, 6), np.uint8)), 8)
        (folder / label / f"{seed:04x}{number:04x}.png").write_bytes(encode(pixels))


def flip(path: Path, at: int = -1) -> None:
    """Damage a byte, in the middle unless told where."""
    data = bytearray(path.read_bytes())
    data[at if at >= 0 else len(data) // 2] ^= 1
    path.unlink()  # a copy may share its bytes with what it was copied from
    path.write_bytes(data)


def cut(path: Path, to: int) -> None:
    data = path.read_bytes()[:to]
    path.unlink()
    path.write_bytes(data)
