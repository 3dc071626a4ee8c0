"""Configuration files of a training run: options in their groups, as YAML or as the JSON that a run saves.

    optimization:
      lr: 3e-3
      batch_size: 384
    schedule: {epochs: 24, schedule: cosine}

Options may also stand without their group. Nothing in a file is believed: names and types are checked here, values
where options are (`kkanji/config.py`).
"""

import argparse
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import docstring_parser
import yaml

from kkanji import cli
from kkanji.config import BY_NAME, FLAGLESS, GROUP_OF, GROUPS, RENAMED, TrainConfig, flag
from shards.errors import InputError, shortened
from shards.json_reading import parse_json, read_bounded

MOST_BYTES = 1 << 20
MOST_ALIASES, MOST_NAMES = 100, 1000  # a small file of merges of merges could otherwise fill any memory
SHOWN = 60  # characters of a wrong value
WIDTH = 118  # of a comment
REQUIRED = "?"  # stands for an option without default in what --print-config prints
CONFIG = "config.json"
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
HEADER = """\
# Options of `kkanji train --config FILE`. The command line wins over them. Those marked * are set by such a file only.
"""


def parse_options() -> TrainConfig:
    """The options of `kkanji train`: from the command line, else from its --config files, else the defaults.

    Leaves with status 2 on misuse, and with 0 after --help and --print-config. Raises InputError for a file that is not
    a configuration.
    """
    words = sys.argv[1:]
    _refuse_without_flag(words)
    files, printing = _files_named(words)
    options = read_files(files)
    required = [f"--{name}={REQUIRED}" for name in ("data", "output")] if printing else []
    try:
        config = cli.parse(TrainConfig, [*required, *_as_words(options), *words])
        config = config.with_options(**{name: value for name, value in options.items() if name in FLAGLESS})
    except InputError as error:
        raise InputError(f"{error} (some options are from {_joined(files)})" if files else str(error)) from error
    if printing:
        sys.stdout.write(to_yaml(config))
        raise SystemExit(0)
    return config


def read_files(paths: Sequence[Path]) -> dict[str, Any]:
    """Options by name, typed; of those in several files the last one. Raises InputError."""
    options: dict[str, Any] = {}
    for path in paths:
        options |= read_file(path / CONFIG if path.is_dir() else path)
    return options


def read_file(path: Path) -> dict[str, Any]:
    """Options by name, typed. Raises InputError for what is no option of `kkanji train`, or of another type."""
    options: dict[str, Any] = {}
    try:
        for name, value in _options(_content(path)):
            if name in options:
                raise ValueError(
                    f"{name} is there twice, in its group {GROUP_OF[name]} and without, or by an older name"
                )
            options[name] = value
        return options
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}; give a YAML file, or the config.json of a run") from error
    except (ValueError, RecursionError) as error:
        remedy = "`kkanji train --print-config` prints all options"
        raise InputError(f"--config {path}: {shortened(str(error))}; {remedy}") from error


def to_yaml(config: TrainConfig) -> str:
    """A configuration file of all options, each with what it means. `read_file` takes it back."""
    return HEADER + "".join(_group_lines(group, options) for group, options in config.to_dict().items())


# ----------------------------------------------------------------------------------------------------------------------
# The command line


def _refuse_without_flag(words: Sequence[str]) -> None:
    for word in words:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in FLAGLESS:
            remedy = f"write `{GROUP_OF[name]}: {{{name}: VALUE}}` into a file and give --config FILE"
            raise InputError(f"{word}: an option that is set in a configuration file only; {remedy}")


def _files_named(words: Sequence[str]) -> tuple[list[Path], bool]:
    """The configuration files that a command line names, and whether it asks to print them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="*", type=Path, default=[])
    parser.add_argument("--print-config", "--print_config", action="store_true")
    found, _ = parser.parse_known_args(words)
    return found.config, found.print_config


def _as_words(options: Mapping[str, Any]) -> Iterator[str]:
    """A command line of those options that have a flag. Flags that come later win."""
    for name, value in options.items():
        if name in FLAGLESS or value is None or value is False or value == ():
            continue
        if isinstance(value, tuple):  # of paths: one that begins with a dash must not be taken for a flag
            yield from (flag(name), *(f"./{path}" if str(path).startswith("-") else str(path) for path in value))
        else:
            yield flag(name) if value is True else f"{flag(name)}={value}"


def _joined(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


# ----------------------------------------------------------------------------------------------------------------------
# Reading


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no annotations
    """Refuses endless merges, and a name twice in a mapping, of which YAML readers silently take the last."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > MOST_ALIASES:
            raise ValueError(f"more than {MOST_ALIASES} aliases; write the options out")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)  # it calls this one for what is merged
        if len(node.value) > MOST_NAMES:
            line = node.start_mark.line + 1
            raise ValueError(f"line {line}: a mapping of {len(node.value)} names, expected at most {MOST_NAMES}")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for name in [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if name in seen:
                raise ValueError(f"line {node.start_mark.line + 1}: {name[:SHOWN]} is there twice")
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _content(path: Path) -> Mapping[str, Any]:
    """The mapping in a file; of what a run saved, its options. Raises OSError or ValueError."""
    text = read_bounded(path, MOST_BYTES).decode()
    try:
        content = parse_json(text) if path.suffix == ".json" else yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    if isinstance(content, Mapping) and isinstance(content.get("config"), Mapping):
        content = content["config"]
    if content is not None and not isinstance(content, Mapping):
        raise ValueError(f"{_shown(content)}, expected groups of options")
    return content or {}


def _options(content: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if name in GROUPS and (value is None or isinstance(value, Mapping)):
            yield from (_option(key, each, group=name) for key, each in (value or {}).items())
        else:
            yield _option(name, value)


def _option(name: Any, value: Any, *, group: str = "") -> tuple[str, Any]:
    """Raises ValueError for an unknown name, another group's, or a value of another type."""
    where = f"{group}.{name}" if group else str(name)
    name = RENAMED.get(name, name)
    if name not in GROUP_OF:
        groups = [] if group else list(GROUPS)
        raise ValueError(f"{where[:SHOWN]}: no such option{_nearest(str(name), [*GROUP_OF, *groups])}")
    if group not in ("", GROUP_OF[name]):
        raise ValueError(f"{where}: {name} is an option of {GROUP_OF[name]}; write {GROUP_OF[name]}.{name}")
    if name in ("config", "print_config"):
        raise ValueError(f"{where}: an option of the command line only")
    try:
        return name, typed(value, BY_NAME[name].type)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def typed(value: Any, kind: Any) -> Any:
    """A value of a file as a value of an option's type. Raises ValueError with what was found and expected."""
    if get_origin(kind) is Annotated:
        return typed(value, get_args(kind)[0])
    if get_origin(kind) is Literal:
        return _choice(value, get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return None if value is None else typed(value, get_args(kind)[0])
    if get_origin(kind) is tuple:
        values = value if isinstance(value, list) else [value]
        return tuple(typed(each, get_args(kind)[0]) for each in values)
    return _plain(value, kind)


def _choice(value: Any, choices: Sequence[str]) -> str:
    if value not in choices or not isinstance(value, str):
        raise ValueError(f"found {_shown(value)}, expected {', '.join(choices)}{_nearest(str(value), choices)}")
    return value


def _plain(value: Any, kind: type) -> Any:
    if kind in (int, float) and isinstance(value, str | int | float) and not isinstance(value, bool):
        number = _number(value)  # 1e-3 is text in YAML 1.1, where a number has a point
        if number is not None and (kind is float or number.is_integer()):
            return value if type(value) is kind else kind(number)
    elif kind in (str, Path) and isinstance(value, str) and "\0" not in value:
        return kind(value)
    elif kind is bool and isinstance(value, bool):
        return value
    quote = "; put it in quotes" if kind in (str, Path) else ""
    raise ValueError(f"found {_shown(value)}, expected {WORDS[kind]}{quote}")


def _number(value: str | float) -> float | None:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _shown(value: Any) -> str:
    """A scalar as it is, shortened; of anything else the kind: it may be large, or contain itself."""
    if value is None or isinstance(value, str | int | float):
        return repr(value)[:SHOWN]
    kinds: dict[type, str] = {dict: "a mapping", list: "a list"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _nearest(name: str, names: Sequence[str]) -> str:
    return "".join(f"; did you mean {match}?" for match in get_close_matches(name, names, 1))


# ----------------------------------------------------------------------------------------------------------------------
# Writing


def _group_lines(group: str, options: Mapping[str, Any]) -> str:
    docs = _docs(group)
    blocks = (_option_lines(name, value, docs[name]) for name, value in options.items())
    return f"\n{group}:  # {' '.join((GROUPS[group].__doc__ or '').split())}\n{''.join(blocks)}"


@cache
def _docs(group: str) -> dict[str, str]:
    """What the options of a group mean, by name."""
    return {doc.arg_name: doc.description or "" for doc in docstring_parser.parse_from_object(GROUPS[group]).params}


def _option_lines(name: str, value: Any, doc: str) -> str:
    text = f"{'* ' if name in FLAGLESS else ''}{' '.join(doc.split())}"
    comment = textwrap.wrap(text, WIDTH, initial_indent="  # ", subsequent_indent="  # ")
    missing = f"  # {name}: required, here or on the command line"
    line = missing if value == REQUIRED else f"  {name}: {_yaml(value)}"
    return "\n".join([*comment, line, ""])


def _yaml(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 16)
    return text.removesuffix("\n").removesuffix("\n...")
