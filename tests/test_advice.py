"""Advice in messages can be followed: the commands and options that they name are there."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest

from kkanji.config import FLAGLESS, TrainConfig
from tools.__main__ import COMMANDS as TOOLS

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("kkanji", "launch", "shards", "tools") for path in (ROOT / room).rglob("*.py"))
OTHERS = {"help", "version", "nproc-per-node", "num", "num-processes", "num-cpu-threads-per-process", "sort"}
OTHERS |= {"hard-dereference", "prefer-offline", "silent", "pack-destination", "constraint", "force-reinstall", "gpus"}
OTHERS |= {"shm-size"}
"""Options of all commands, of launchers, tar, npm, pip and Docker."""
OPTION, COMMAND = re.compile(r"(?<![\w-])--([a-z][a-z_-]+)"), re.compile(r"`kkanji ([a-z]+)")


def texts(path: Path) -> Iterator[str]:
    """The strings of a file, without its docstrings; what is put into them as a *."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | parts:
            yield node.value


@cache
def commands() -> dict[str, set[str]]:
    """The options of each command."""
    found = {name: set(inspect.signature(tool).parameters) for name, tool in TOOLS.items()}
    for path in sorted((ROOT / "launch").glob("*.py")):
        module = import_module(f"launch.{path.stem}")
        for config in vars(module).values():
            if is_dataclass(config) and isinstance(config, type) and config.__name__.endswith("Config"):
                found.setdefault(path.stem, set()).update(names(config))
    found["train"] = set(names(TrainConfig)) - FLAGLESS | {"config", "print_config"}
    return {command: {name.strip("_").replace("_", "-") for name in options} for command, options in found.items()}


def names(config: type) -> Iterator[str]:
    types = get_type_hints(config)
    for field in fields(config):
        kind = types[field.name]
        yield from names(kind) if is_dataclass(kind) and isinstance(kind, type) else (field.name,)


def wrong(text: str) -> Iterator[str]:
    """Options of no command, and commands that do not exist."""
    known = set().union(*commands().values()) | OTHERS
    yield from (f"--{name}" for name in OPTION.findall(text) if name.rstrip("-").replace("_", "-") not in known)
    yield from (f"kkanji {name}" for name in COMMAND.findall(text) if name not in commands())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_name_commands_and_options_that_exist(path: Path) -> None:
    assert [found for text in texts(path) for found in wrong(text)] == []


def test_what_does_not_exist_is_noticed() -> None:
    assert {"train", "predict", "evaluate", "export", "pack"} <= commands().keys()
    assert list(wrong("run `kkanji trains`, or give --no-such; --data and `kkanji train` exist")) == [
        "--no-such",
        "kkanji trains",
    ]
