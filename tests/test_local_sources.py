"""Where code that training runs asks its own machine: docs/architecture.md lists each place, and who settles it.

Two machines answer differently, and ranks that follow their own answers train different things.
"""

import ast
import re
from pathlib import Path

import pytest

from docs.rooms import full_name, full_names

ROOT = Path(__file__).parents[1]
ROOMS = ("augment", "data", "checkpoint", "evaluation", "training", "environment.py", "launchers.py", "models.py")
SOURCES = re.compile(
    r"psutil\.[a-z]\w*|socket\.\w+|platform\.\w+|os\.(environ|getenv|cpu_count|sched_getaffinity|statvfs|uname)"
    r"|shutil\.disk_usage|torch\.cpu\.get_capabilities|torch\.get_num_threads|time\.time|random\.\w+|uuid\.\w+"
    r"|torch\.cuda\.(is_available|device_count|mem_get_info|is_bf16_supported|get_device_\w+)"
    r"|accelerate\.utils\.\w+_from_env"
)
ROW = re.compile(r"^\| `(kkanji/[\w/]+\.py)` \| (.+?) \| .+ \|$", re.MULTILINE)


def sources(code: str) -> set[str]:
    """What a file asks of its machine."""
    tree = ast.parse(code)
    aliases = full_names(tree)
    names = (full_name(node, aliases) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name))
    return {match[0] for match in map(SOURCES.match, filter(None, names)) if match}


def listed() -> dict[str, set[str]]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("### Where code asks its own machine")[2].partition("\n## ")[0]
    return {file: set(re.findall(r"`([^`]+)`", asked)) for file, asked in ROW.findall(section)}


def test_every_place_is_listed_with_who_settles_it() -> None:
    files = [path for room in ROOMS for path in sorted((ROOT / "kkanji" / room).rglob("*.py"))]
    files += [ROOT / "kkanji" / room for room in ROOMS if room.endswith(".py")]
    found = {str(path.relative_to(ROOT)): sources(path.read_text(encoding="utf-8")) for path in files}
    assert {file: asked for file, asked in found.items() if asked} == listed()


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("import os\nfree = os.environ.get('X')", {"os.environ"}),
        ("from shutil import disk_usage\ndisk_usage('/')", {"shutil.disk_usage"}),
        ("import torch\nif torch.cuda.is_available(): pass", {"torch.cuda.is_available"}),
        ("import psutil\nn = psutil.virtual_memory().available", {"psutil.virtual_memory"}),
        ("import torch\ntorch.cuda.current_stream()", set()),
    ],
)
def test_what_counts(code: str, asked: set[str]) -> None:
    assert sources(code) == asked
