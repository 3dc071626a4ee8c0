"""Experiment trackers beside TensorBoard, by Accelerate's classes: wandb, mlflow, trackio.

A run has their numbers for it in `trackers.json`, so that it goes on there when it is resumed, and its report finds it.
"""

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from numpy.typing import NDArray
from PIL import Image

from shards import InputError, write_file
from shards.json_reading import read_json

PROJECT = "kkanji"
RECORD = "trackers.json"
SHOWN = 300  # characters of a tracker's message that ours quotes


class Trackers:
    """Trackers of one run. One that fails is left out from then on, with a warning: the run goes on."""

    def __init__(self, names: Sequence[str], run: Path) -> None:
        """run: the run's folder, whose name the run has. Raises InputError if a tracker does not start."""
        known = _record(run)
        if names:
            PartialState()  # of which Accelerate's classes ask which process they are in
        self._running = {name: _started(name, run, known.get(name)) for name in names}
        numbers = {name: number for name, each in self._running.items() if (number := _number(name, each))}
        if known | numbers != known:
            write_file(run / RECORD, json.dumps(known | numbers) + "\n")

    def options(self, options: Mapping[str, Any]) -> None:
        """The run's options, as hyperparameters."""
        plain = {
            name: value if isinstance(value, bool | int | float) else str(value) for name, value in options.items()
        }
        self._each(lambda _name, tracker: tracker.store_init_configuration(plain))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Measures after an optimizer step."""
        self._each(lambda _name, tracker: tracker.log(dict(values), step=step))

    def picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        """A picture [H, W, 3], where a tracker takes any."""
        self._each(lambda name, tracker: _log_picture(name, tracker, tag, picture, step))

    def files(self, *paths: Path) -> None:
        """Keep files of the run with it, as artifacts, where a tracker has any."""
        self._each(lambda name, tracker: _log_files(name, tracker, [path for path in paths if path.is_file()]))

    def finish(self) -> None:
        """End the run on every tracker."""
        self._each(lambda _name, tracker: tracker.finish())

    def _each(self, action: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self._running.items()):
            try:
                action(name, tracker)
            except Exception as error:
                warnings.warn(f"{name}: {str(error)[:SHOWN]}; the run goes on without it", UserWarning, stacklevel=3)
                del self._running[name]


def require_trackers(names: Sequence[str]) -> None:
    """Raises InputError if the package of a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f"--log-with {name}: no Python package {name}; `pip install {name}`, or leave it out of --log-with"
            )


def add_report(run: Path, *paths: Path) -> None:
    """Keep files, the report among them, with the run on every tracker that followed it; it may have ended long ago."""
    names = list(_record(run))
    if names:
        require_trackers(names)
        trackers = Trackers(names, run)
        trackers.files(*paths)
        trackers.finish()


def _record(run: Path) -> dict[str, str]:
    return {name: str(number) for name, number in read_json(run / RECORD).items()} if (run / RECORD).is_file() else {}


def _started(name: str, run: Path, number: str | None) -> GeneralTracker:
    # The console stays the run's own: wandb would put itself between it and its output.
    arguments: dict[str, dict[str, Any]] = {
        "wandb": {"name": run.name, "dir": str(run), "id": number, "resume": "allow", "settings": {"console": "off"}},
        "mlflow": {"run_name": run.name, "run_id": number},
        "trackio": {"name": run.name, "resume": "allow"},
    }
    try:
        tracker: GeneralTracker = LOGGER_TYPE_TO_CLASS[name](PROJECT, **arguments[name])
        tracker.start()
    except Exception as error:
        raise InputError(f"--log-with {name}: {str(error)[-SHOWN:]}; or leave it out of --log-with") from error
    return tracker


def _number(name: str, tracker: Any) -> str:
    """What a tracker calls its run; nothing where a run cannot be gone on with."""
    numbers = {"wandb": lambda: tracker.run.id, "mlflow": lambda: tracker.tracker.info.run_id}
    return str(numbers.get(name, str)())


def _log_picture(name: str, tracker: Any, tag: str, picture: NDArray[np.uint8], step: int) -> None:
    if name == "wandb":
        tracker.log_images({tag: [picture]}, step=step)
    if name == "mlflow":
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{tag.replace('/', '_')}_{step:08}.png"
            path.write_bytes(buffer.getvalue())
            tracker.log_artifact(str(path), "pictures")


def _log_files(name: str, tracker: Any, paths: Sequence[Path]) -> None:
    if name == "wandb" and paths:
        import wandb

        artifact = wandb.Artifact(f"{tracker.run.name}-files", "run")
        for path in paths:
            artifact.add_file(str(path))
        tracker.run.log_artifact(artifact)
    if name == "mlflow":
        for path in paths:
            tracker.log_artifact(str(path))
