"""A small shard set made by the project's own tools, as a user makes one."""

from pathlib import Path

from tools.combine import combine
from tools.pack import pack
from tools.split import split

SAMPLE = Path(__file__).parents[1] / "sample" / "kkanji2"


def make_set(folder: Path, name: str) -> Path:
    """Of the images in folder/kkanji2: a quarter for validation, in folder/shards."""
    combine((folder / "kkanji2",), output=folder / "originals", name=name, licence="drawn")
    split(folder / "originals", val=0.25)
    pack(folder / "originals", output=folder / "shards", block_size=125)
    return folder / "shards"
