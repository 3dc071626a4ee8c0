"""Folders of models, without torch: what their `state.json` may say, and whether a run can learn from them.

A model folder may come from anybody, so nothing in it is believed unseen. The rules hold for fields that are there;
which ones are needed depends on the use.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kkanji.config import TrainConfig, read_options
from shards.errors import InputError
from shards.json_reading import MOST_COUNT, read_json

# The fit looks from 0.25 to 2.8. Far outside, all probabilities are equal, or not numbers.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.01, 100.0
STATE = "state.json"
STRETCH = {"step", "position", "epoch", "rate", "growth"}
COUNTS = ("training_originals", "training_rendered", "training_drawn")  # the last one is an older name
SHOWN = 80  # characters of a name that a message quotes
PATHS = ("init", "teachers", "averaged")


def read_checked(path: Path) -> dict[str, Any]:
    """The object in a `state.json`. Raises InputError if it is damaged, or a field is not what kkanji writes."""
    state = read_json(path)
    try:
        check_state(state)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: {error}; use another checkpoint") from error
    return state


def check_state(state: Mapping[str, Any]) -> None:
    """Raise ValueError, with what is wrong, for a state that no kkanji wrote."""
    if not isinstance(state.get("config", {}), dict):
        raise ValueError("config is no object, expected the options of a training run")
    options = read_options(state.get("config", {}))
    for name in ("model", "head", "data"):
        _require(isinstance(options.get(name, ""), str), f"config's {name}", "text")
    for name in PATHS:
        _require(_are_paths(options.get(name)), f"config's {name}", "paths of checkpoints")
    _require(isinstance(state.get("data") or "", str), "data", "the identity of a set")
    _require(isinstance(state.get("run", ""), str), "run", "text")
    _require(_is_stretch(state.get("stretch", {})), "stretch", "numbers by their names")
    _require(_are_extensions(state.get("extensions", [])), "extensions", "steps, epochs and changes of options")
    for name in COUNTS:
        _require(_are_counts(state.get(name, [])), name, "a whole number for each class")
    _require(_is_temperature(state.get("temperature", 1.0)), "temperature", "a number from 0.01 to 100")


def check_sources(config: TrainConfig) -> None:
    """Before torch is imported: are the folders there that a run learns from, and is --init of its network?

    A resumed run reads --init no more. Raises InputError.
    """
    init, network = config.network.init, config.network
    for path in config.regularisation.teachers:
        _options_of(path, "--teachers")
    begun = config.continues and (config.checkpointing.output / "checkpoints").is_dir()
    if init is None or begun:
        return
    options = _options_of(init, "--init")
    found = (options.get("model", ""), options.get("head", "linear"))  # early runs recorded no head
    if found != (network.model, network.head):
        raise InputError(
            f"--init {init}: weights of {found[0][:SHOWN]} with head {found[1][:SHOWN]}, but this run has "
            f"--model {network.model} --head {network.head}; give --model {found[0][:SHOWN]} --head {found[1][:SHOWN]}"
        )


def _options_of(path: Path, option: str) -> dict[str, Any]:
    if not (path / STATE).is_file():
        raise InputError(
            f"{option} {path}: no such checkpoint; expected a folder like RUN/checkpoints/best or an exported one"
        )
    return read_options(read_checked(path / STATE).get("config", {}))


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} is not {expected}")


def _are_paths(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value or ""]
    return all(isinstance(part, str) and "\0" not in part for part in parts)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each <= MOST_COUNT for each in value)


def _is_stretch(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= STRETCH and all(map(_is_amount, value.values()))


def _are_extensions(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_extension, value))


def _is_extension(value: Any) -> bool:
    numbers = isinstance(value, dict) and _is_amount(value.get("step")) and _is_amount(value.get("epoch"))
    changes = value.get("changes") if numbers else None
    return isinstance(changes, dict) and all(isinstance(each, list) and len(each) == 2 for each in changes.values())


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_COUNT


def _is_temperature(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE
