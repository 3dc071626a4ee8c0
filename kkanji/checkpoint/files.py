"""Checkpoints: folders that are whole or absent, hashed, without pickle.

`RUN/checkpoints/step-000001234/` holds `model.safetensors` (to be evaluated and used), `training.safetensors` (to go on
from, where the model is an average), `optimizer.safetensors`, `state.json`, `index.json` (the class map) and, written
last, `manifest.json` with the sha256 of the others. `best` and `last` are links to two of them.
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

from kkanji.classes import ClassMap, parse_class_map
from kkanji.config import FREE_TO_CHANGE
from shards import InputError, OutputFolder, write_file
from shards.checksums import file_digest
from shards.json_reading import read_json
from shards.output.ownership import keep_reason, remove_own

STEP_NAME = re.compile(r"step-\d{9,}")
KEEP = 2  # newest ones kept beside the best: one to go on from, one to fall back to
MANIFEST, MODEL, STATE, CLASSES = "manifest.json", "model.safetensors", "state.json", "index.json"
ORIGINALS = "originals.npy"  # only with weights that are for use: a run's own are in its shard set
TRAINING, OPTIMIZER = "training.safetensors", "optimizer.safetensors"
USABLE = (MODEL, STATE, CLASSES)
FILES = (*USABLE, ORIGINALS, TRAINING, OPTIMIZER)
FILE_NAME, SHA256 = re.compile(r"\w[\w.-]{0,254}", re.ASCII), re.compile(r"[0-9a-f]{64}")
SHOWN = 80  # characters of what is wrong in a manifest
USE_ANOTHER = "use another checkpoint"
NOTHING_LEFT = "put a copy of a good one there, or begin again with another --output"


class CorruptCheckpoint(InputError):
    """A checkpoint's files are not what its manifest says."""


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
    """Save as step `step`, point `last` (and `best`) at it, then remove what is no longer needed.

    average: the model to evaluate and to use, if it is not `model`, the one that is trained.
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
    run = _run_identity(state)
    _keep_others(path, run)
    with OutputFolder(path, maker=_maker(path, run), overwrite=True) as partial:
        write_hashed(partial, contents)
    _link(folder / "last", path)
    if best:
        _link(folder / "best", path)
    _purge(folder, run, newest=path)
    return path


def newest(folder: Path) -> Path | None:
    """The newest checkpoint to go on from; None if there is none at all.

    Each newer one that is damaged is named in a warning. Raises InputError if all are.
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
    """Compare every file with the manifest, and look for those that are needed.

    Raises InputError (no such checkpoint) or CorruptCheckpoint.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such checkpoint; expected a folder RUN/checkpoints/best, last or step-...")
    digests = _read_manifest(path)
    present = [name for name in FILES if (path / name).exists()]
    for name in (*needed, *present):
        if name not in digests:
            raise CorruptCheckpoint(f"{path / MANIFEST}: {name} is not in it; {USE_ANOTHER}")
    for name, digest in digests.items():
        found = _sha256(path / name)
        if found != digest:
            raise CorruptCheckpoint(f"{path / name}: sha256 {found}, expected {digest}; {USE_ANOTHER}")


def _read_manifest(path: Path) -> dict[str, str]:
    """The sha256 of each file by its name. It has none itself: a change of a digest or a name makes it wrong."""
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
    """sha256 of the manifest, which has those of all other files: equal for equal checkpoints and for no others."""
    return file_digest(path / MANIFEST)


def read_state(path: Path) -> dict[str, Any]:
    """What `save` was given as state, and the optimizer's groups."""
    return read_json(path / STATE)


def usable_state(path: Path) -> dict[str, Any]:
    """Its state without what only going on with the training needs."""
    return {name: value for name, value in read_state(path).items() if name not in ("optimizer", "progress")}


def read_classes(path: Path) -> ClassMap:
    """The classes that the checkpoint's model tells apart."""
    return parse_class_map((path / CLASSES).read_text(encoding="utf-8"), str(path / CLASSES))


def has_originals(path: Path) -> bool:
    """Whether the weights come with the list of the originals that they learned from, as `launch/export.py` adds it."""
    return (path / ORIGINALS).is_file()


def read_originals(path: Path) -> NDArray[np.uint64]:
    """That list, the originals' ids [n]. Raises InputError."""
    try:
        originals: NDArray[np.uint64] = np.load(path / ORIGINALS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptCheckpoint(f"{path / ORIGINALS}: not a NumPy file ({error})") from error
    if originals.dtype != np.uint64 or originals.ndim != 1:
        raise CorruptCheckpoint(f"{path / ORIGINALS}: {originals.dtype} {originals.shape}, expected uint64 (n,)")
    return originals


def originals_bytes(originals: NDArray[np.uint64]) -> bytes:
    """The file for a list of originals."""
    file = io.BytesIO()
    np.save(file, originals, allow_pickle=False)
    return file.getvalue()


def load_model(path: Path, model: nn.Module) -> None:
    """Put the checkpoint's weights into a model of the same architecture and classes."""
    _load(path / MODEL, model)


def load_training(path: Path, model: nn.Module, average: nn.Module | None) -> None:
    """Put the weights to go on from into a model, and their average into its copy if there is one."""
    _load(path / (TRAINING if average else MODEL), model)
    if average:
        _load(path / MODEL, average)


def _load(file: Path, model: nn.Module) -> None:
    try:
        model.load_state_dict(safetensors.torch.load_file(file))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{file}: does not fit the model: {error}") from error


def load_optimizer(path: Path, optimizer: Optimizer) -> None:
    """Put the checkpoint's optimizer state into an optimizer of the same kind over the same parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in safetensors.torch.load_file(path / OPTIMIZER).items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = _laid_out_like(parameters[int(number)], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": read_state(path)["optimizer"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """The value with the parameter's strides: fused optimizers walk through both in the order of their memory."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value)


def write_hashed(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Files, and the manifest with the sha256 of each, into an open output folder."""
    digests = {}
    for name, content in contents.items():
        write_file(folder / name, content)
        digests[name] = hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()
    write_file(folder / MANIFEST, json.dumps(digests, indent=1))


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """`PARAMETER.KEY` -> tensor; every optimizer offered keeps tensors only."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{key}": torch.as_tensor(value) for number, entry in state.items() for key, value in entry.items()
    }


def _optimizer_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The groups' options; LAMB keeps its step counter, a tensor, among them."""
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    return [{key: _plain(value) for key, value in group.items()} for group in groups]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors stores contiguous tensors only; channels_last ones are not."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _link(link: Path, target: Path) -> None:
    """Point a link at a checkpoint, atomically."""
    if link.exists() and not link.is_symlink():
        _set_aside(link)
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    os.replace(temporary, link)


def _steps(folder: Path) -> list[Path]:
    """What is named as a run names its checkpoints, in their order; copies under other names are their owners'."""
    return sorted(path for path in folder.glob("step-*") if STEP_NAME.fullmatch(path.name))


def _purge(folder: Path, run: str, *, newest: Path) -> None:
    """Remove checkpoints that are no longer needed, of those that this run wrote and nobody has touched since.

    Of a later step than the newest is only what was skipped as damaged: it must not count as one to fall back to.
    """
    best = (folder / "best").resolve()
    steps = (path for path in _steps(folder) if path.name <= newest.name)
    own = [path for path in steps if path.is_dir() and not keep_reason(path, _maker(path, run))]
    for path in own[:-KEEP]:
        if path.resolve() != best:
            remove_own(path, _maker(path, run))


def _maker(path: Path, run: str) -> str:
    """Who a checkpoint's marker must name: a copy of another run's, or under another step's name, is not this one."""
    return f"training {run}, {path.name}"


def _run_identity(state: Mapping[str, Any]) -> str:
    """The same however often the run is resumed: a hash of its data and of the options that it cannot change."""
    options = {name: value for name, value in state.get("config", {}).items() if name not in FREE_TO_CHANGE}
    content = json.dumps([state.get("data"), options], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _keep_others(path: Path, run: str) -> None:
    """Rename what is in a new checkpoint's place, unless this run wrote it and it is to be written again."""
    if path.is_symlink() or (path.exists() and keep_reason(path, _maker(path, run))):
        _set_aside(path)


def _set_aside(path: Path) -> None:
    names = (path.with_name(f"{path.name}-kept{number or ''}") for number in itertools.count())
    kept = next(name for name in names if not name.exists() and not name.is_symlink())
    path.rename(kept)
    warnings.warn(f"{path}: not what this run wrote; kept as {kept.name}", RuntimeWarning, stacklevel=2)
