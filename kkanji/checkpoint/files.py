"""Checkpoint folders: complete or absent, hashed, without pickle.

`RUN/checkpoints/step-000001234/` holds

- `model.safetensors`: the weights to evaluate and to use
- `training.safetensors`: the weights to resume from, if the model above is their average
- `optimizer.safetensors`: the optimizer's state
- `state.json`: options, progress, data and versions
- `index.json`: the class map
- `manifest.json`: the sha256 of the other files, written last

`best` and `last` are symbolic links to two of these folders.
"""

import hashlib
import io
import itertools
import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from kkanji.classes import ClassMap, read_class_map
from kkanji.config import FREE_TO_CHANGE, read_options
from kkanji.model_folder import STATE as STATE
from kkanji.model_folder import read_checked
from shards import InputError, OutputFolder, write_file
from shards.array_reading import map_array
from shards.checksums import file_digest
from shards.json_reading import read_json
from shards.output.ownership import keep_reason, remove_own

STEP_NAME = re.compile(r"step-\d{9,}")
KEEP = 2  # newest checkpoints kept beside the best: one to resume from, one to fall back to
MANIFEST = "manifest.json"
MODEL = "model.safetensors"
CLASSES = "index.json"
TRAINING = "training.safetensors"
OPTIMIZER = "optimizer.safetensors"
ORIGINALS = "originals.npy"  # only in exported models: a run finds its originals in its shard set
USABLE = (MODEL, STATE, CLASSES)  # enough to evaluate and predict; resuming needs the optimizer too
FILES = (*USABLE, ORIGINALS, TRAINING, OPTIMIZER)
# Only plain names may be opened: a manifest is input, and "../x" in it would lead out of the folder.
FILE_NAME = re.compile(r"\w[\w.-]{0,254}", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
SHOWN = 80  # characters of a bad manifest entry that the message quotes
USE_ANOTHER = "use another checkpoint"
NOTHING_LEFT = "put a copy of a good one there, or start again with another --output"


class CorruptCheckpoint(InputError):
    """A file of a checkpoint is missing or differs from the manifest."""


def save(
    folder: Path,
    step: int,
    *,
    model: nn.Module,
    average: nn.Module | None = None,
    optimizer: Optimizer,
    state: Mapping[str, Any],
    classes: ClassMap,
    best: bool,
) -> Path:
    """Write the checkpoint of a step, point `last` (and `best`) at it, then remove older checkpoints of the run.

    average: the model to evaluate and to use, if that is not `model` itself but a moving average of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:09d}"
    contents: dict[str, str | bytes] = {
        MODEL: safetensors.torch.save(_contiguous((average or model).state_dict())),
        OPTIMIZER: safetensors.torch.save(_contiguous(_optimizer_tensors(optimizer))),
        STATE: json.dumps(dict(state) | {"optimizer": _optimizer_groups(optimizer)}, indent=1),
        CLASSES: classes.to_json(),
    }
    if average:
        contents[TRAINING] = safetensors.torch.save(_contiguous(model.state_dict()))
    run = run_identity(state)
    _keep_others(path, run)
    with OutputFolder(path, maker=_maker(path, run), overwrite=True) as partial:
        write_hashed(partial, contents)
    _link(folder / "last", path)
    if best:
        _link(folder / "best", path)
    _purge(folder, run, newest=path)
    return path


def newest(folder: Path) -> Path | None:
    """The newest intact checkpoint to resume from; None if the folder holds no checkpoint.

    Warns of each damaged checkpoint that it skips. Raises InputError if all are damaged.
    """
    paths = _steps(folder)
    for path in reversed(paths):
        try:
            check(path, needed=(*USABLE, OPTIMIZER))
            return path
        except InputError as error:
            warnings.warn(f"skipped: {error}", RuntimeWarning, stacklevel=2)
    if paths:
        raise InputError(f"{folder}: no good checkpoint among {len(paths)}, as the warnings say; {NOTHING_LEFT}")
    return None


def check(path: Path, *, needed: Iterable[str] = USABLE) -> None:
    """Compare every file with the manifest's sha256, and make sure that the needed files are listed.

    Raises InputError if there is no such checkpoint, and CorruptCheckpoint if a file is missing or altered.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such checkpoint; expected a folder RUN/checkpoints/best, last or step-...")
    digests = _read_manifest(path)
    # A file that lies there but is not listed would be loaded unchecked.
    present = [name for name in FILES if (path / name).exists()]
    for name in (*needed, *present):
        if name not in digests:
            raise CorruptCheckpoint(f"{path / MANIFEST}: {name} is not in it; {USE_ANOTHER}")
    for name, digest in digests.items():
        found = _sha256(path / name)
        if found != digest:
            raise CorruptCheckpoint(f"{path / name}: sha256 {found}, expected {digest}; {USE_ANOTHER}")


def _read_manifest(path: Path) -> dict[str, str]:
    """File name -> sha256. The manifest needs no hash of its own: any change of a name or a digest makes it wrong."""
    if not (path / MANIFEST).is_file():
        raise CorruptCheckpoint(f"{path}: no {MANIFEST}; a checkpoint is a folder such as RUN/checkpoints/best")
    try:
        digests = read_json(path / MANIFEST)
    except InputError as error:
        raise CorruptCheckpoint(f"{error}; {USE_ANOTHER}") from error
    for name, digest in digests.items():
        if not (FILE_NAME.fullmatch(name) and isinstance(digest, str) and SHA256.fullmatch(digest)):
            found = f"{name[:SHOWN]!r}: {repr(digest)[:SHOWN]}"
            raise CorruptCheckpoint(f"{path / MANIFEST}: found {found}, expected a name and a sha256; {USE_ANOTHER}")
    return digests


def _sha256(file: Path) -> str:
    try:
        if not file.is_file():
            raise CorruptCheckpoint(f"{file}: no such file; {USE_ANOTHER}")
        return file_digest(file)
    except OSError as error:
        raise CorruptCheckpoint(f"{file}: {error.strerror}; {USE_ANOTHER}") from error


def identity(path: Path) -> str:
    """sha256 of the manifest. It contains the hashes of all other files, so only equal checkpoints share it."""
    return file_digest(path / MANIFEST)


def weights_identity(path: Path) -> str:
    """sha256 of the weights for use. Results name by it what they measured: a folder's content may be replaced."""
    return _read_manifest(path)[MODEL]


def read_state(path: Path) -> dict[str, Any]:
    """The state that was passed to `save`, with the optimizer's parameter groups under "optimizer".

    Raises InputError if a field is not what kkanji writes.
    """
    return read_checked(path / STATE)


def usable_state(path: Path) -> dict[str, Any]:
    """The state without the entries that only resuming needs."""
    return {name: value for name, value in read_state(path).items() if name not in ("optimizer", "progress")}


def read_classes(path: Path) -> ClassMap:
    """The classes of the checkpoint's model."""
    return read_class_map(path)


def has_originals(path: Path) -> bool:
    """Whether the checkpoint lists the original images behind its weights. `kkanji export` adds that list."""
    return (path / ORIGINALS).is_file()


def read_originals(path: Path) -> NDArray[np.uint64]:
    """Ids of the original images that the weights were trained on, uint64 [n].

    Raises CorruptCheckpoint if the file is not such an array.
    """
    try:
        originals: NDArray[np.uint64] = np.array(map_array(path / ORIGINALS))
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path / ORIGINALS}: not a NumPy file ({error})") from error
    if originals.dtype != np.uint64 or originals.ndim != 1:
        raise CorruptCheckpoint(f"{path / ORIGINALS}: {originals.dtype} {originals.shape}, expected uint64 (n,)")
    return originals


def originals_bytes(originals: NDArray[np.uint64]) -> bytes:
    """The content of `originals.npy`."""
    file = io.BytesIO()
    np.save(file, originals, allow_pickle=False)
    return file.getvalue()


def load_model(path: Path, model: nn.Module) -> None:
    """Load the checkpoint's weights into a model of the same architecture and classes."""
    _load(path / MODEL, model)


def load_training(path: Path, model: nn.Module, average: nn.Module | None) -> None:
    """Load the weights to resume from into `model`, and the averaged weights into `average` if the run keeps one."""
    _load(path / (TRAINING if average else MODEL), model)
    if average:
        _load(path / MODEL, average)


def _load(file: Path, model: nn.Module) -> None:
    try:
        model.load_state_dict(safetensors.torch.load_file(file))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{file}: does not fit the model: {error}") from error


def load_optimizer(path: Path, optimizer: Optimizer) -> None:
    """Load the checkpoint's optimizer state into an optimizer of the same kind over the same parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in safetensors.torch.load_file(path / OPTIMIZER).items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = _laid_out_like(parameters[int(number)], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": read_state(path)["optimizer"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """The value with the parameter's strides: fused optimizers traverse both in memory order."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value)


def write_hashed(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write files into an open output folder, and after them the manifest with the sha256 of each."""
    digests = {}
    for name, content in contents.items():
        write_file(folder / name, content)
        digests[name] = hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()
    write_file(folder / MANIFEST, json.dumps(digests, indent=1))


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """`PARAMETER.KEY` -> tensor. All optimizers that kkanji offers keep only tensors as state."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{key}": torch.as_tensor(value) for number, entry in state.items() for key, value in entry.items()
    }


def _optimizer_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Options of the parameter groups, as plain numbers: LAMB keeps its step counter, a tensor, among them."""
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    return [{key: _plain(value) for key, value in group.items()} for group in groups]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU. safetensors stores only contiguous tensors, and channels_last tensors are not."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _link(link: Path, target: Path) -> None:
    """Point a link at a checkpoint: a rename replaces the old link atomically, so it never dangles."""
    if link.exists() and not link.is_symlink():
        _set_aside(link)
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    os.replace(temporary, link)


def _steps(folder: Path) -> list[Path]:
    """Paths named as a run names its checkpoints, oldest first. Anything else belongs to the user."""
    return sorted(path for path in folder.glob("step-*") if STEP_NAME.fullmatch(path.name))


def _purge(folder: Path, run: str, *, newest: Path) -> None:
    """Remove all but the KEEP newest and the best of the checkpoints that this run wrote and nobody has changed since.

    A checkpoint of a later step than the newest is one that `newest` skipped as damaged. It must not count as the one
    to fall back to.
    """
    best = (folder / "best").resolve()
    steps = (path for path in _steps(folder) if path.name <= newest.name)
    own = [path for path in steps if path.is_dir() and not keep_reason(path, _maker(path, run))]
    for path in own[:-KEEP]:
        if path.resolve() != best:
            remove_own(path, _maker(path, run))


def _maker(path: Path, run: str) -> str:
    """The maker that the folder's ownership marker must name.

    It names the run and the step, so that a copy of another run or of another step does not pass for this checkpoint.
    """
    return f"training {run}, {path.name}"


def run_identity(state: Mapping[str, Any]) -> str:
    """A hash of the run's data and of the options that it was begun with. A resumed or extended run keeps it."""
    if state.get("run"):
        return str(state["run"])
    options = read_options(state.get("config", {}))
    options = {name: value for name, value in options.items() if name not in FREE_TO_CHANGE}
    content = json.dumps([state.get("data"), options], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _keep_others(path: Path, run: str) -> None:
    """Rename whatever occupies a new checkpoint's path, unless this run wrote it: then it may be overwritten."""
    if path.is_symlink() or (path.exists() and keep_reason(path, _maker(path, run))):
        _set_aside(path)


def _set_aside(path: Path) -> None:
    """Rename to the first free name of `NAME-kept`, `NAME-kept1`, ... and warn."""
    names = (path.with_name(f"{path.name}-kept{number or ''}") for number in itertools.count())
    kept = next(name for name in names if not name.exists() and not name.is_symlink())
    path.rename(kept)
    warnings.warn(f"{path}: not written by this run; kept as {kept.name}", RuntimeWarning, stacklevel=2)
