"""What all ranks of a run agree on before its first step, and again before each checkpoint.

No rank decides by itself what follows from its own machine: rank 0 chooses the checkpoint to go on from, order and
window are settled by the smallest cache, precision by what every device has (and the micro-batch by the smallest
memory: `kkanji.training.micro_batch`). What must not differ is compared field by field. Whatever is wrong on one rank
ends all.
"""

import hashlib
import socket
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor

from kkanji import __version__, checkpoint
from kkanji.classes import ClassMap
from kkanji.cli import INPUT_ERROR
from kkanji.config import TrainConfig, read_options
from kkanji.data.training_set import class_map, require_room, resolve_order, room_bytes
from kkanji.environment import commit, precision_name
from kkanji.training.run_log import LOG_NAME, has_event
from shards import FolderLock, InputError, ShardSet

Result = TypeVar("Result")
Fields = Mapping[str, str]
NONE, UNKNOWN = "none", "unknown"
# Options of a node's own: where it keeps things, how much of them, and what it watches.
MAY_DIFFER = frozenset({"data", "output", "cache_size", "stall_seconds", "profile_steps"})
SHOWN = 12  # characters of a sha256; a rank that differs does so in these
SAME = "start every rank with the same code, options and set, and with an --output that every node sees"


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What every rank begins with; only paths may differ."""

    config: TrainConfig
    """Order and window settled."""
    classes: ClassMap
    precision: str
    """Accelerate's name of it."""
    checkpoint: Path | None
    """To go on from; None begins a new run."""


def agree(config: TrainConfig, data: ShardSet, held: ExitStack) -> Agreement:
    """The one agreement before a run's first step. All ranks call it. Raises InputError, or leaves, on all of them.

    held: the main process keeps the run's folder for this run until it ends.
    """
    _join_ranks()
    chosen = together(partial(_enter_run, config, held))[0]
    compare(partial(_fields, config, data, chosen), remedy=SAME)
    last = config.checkpointing.output / "checkpoints" / chosen if chosen else None
    config = config.resolved_as(checkpoint.read_state(last)["config"] if last else {})
    config = resolve_order(config, data, min(together(partial(room_bytes, data))))
    together(partial(require_room, config, data))
    precisions = together(partial(precision_name, config.runtime.precision))
    precision = precisions[0] if len(set(precisions)) == 1 else "no"
    return Agreement(config=config, classes=class_map(data), precision=precision, checkpoint=last)


def together(action: Callable[[], Result]) -> list[Result]:
    """What the action returns on each rank, in their order. All ranks call it, and go on only if all succeeded.

    If it raises InputError, or an OSError, on any rank, all ranks end, with its message.
    """
    if PartialState().num_processes == 1:
        return [action()]
    outcomes = gather_object([(_name(), *_attempt(action))])
    problems = {name: problem for name, _, problem in outcomes if problem}
    if problems:
        _end_all(_told(problems, ranks=len(outcomes)))
    return [result for _, result, _ in outcomes]


def compare(describe: Callable[[], Fields], *, remedy: str) -> None:
    """End all ranks if one has another value than rank 0 in any field; a value that is unknown differs from none."""
    if PartialState().num_processes == 1:
        return
    found = differences(together(lambda: (_name(), describe())))
    if found:
        _end_all(f"ranks differ: {'; '.join(found)}; {remedy}")


def differences(reports: list[tuple[str, Fields]]) -> list[str]:
    """Both values of each field in which a rank differs from the first one; each field is told of one rank only.

    reports: of each rank its name and its values.
    """
    first, expected = reports[0]
    found: dict[str, str] = {}
    for name, fields in reports[1:]:
        for field in [*expected, *(field for field in fields if field not in expected)]:
            ours, theirs = expected.get(field, NONE), fields.get(field, NONE)
            if ours != theirs and UNKNOWN not in (ours, theirs):
                found.setdefault(field, f"{field} is {theirs} on {name}, {ours} on {first}")
    return list(found.values())


def checksum(tensors: Iterable[Tensor]) -> str:
    """Of the bits of float32 tensors, added up where they lie: nothing but a number for each leaves the device."""
    sums = [tensor.detach().view(torch.int32).sum(dtype=torch.int64) for tensor in tensors]
    return hashlib.sha256(torch.stack(sums).cpu().numpy().tobytes()).hexdigest()[:SHOWN]


def _join_ranks() -> None:
    """Without its own launcher or variable, Accelerate takes ranks that have no GPU for so many runs of one process."""
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available())


def _enter_run(config: TrainConfig, held: ExitStack) -> str | None:
    """On rank 0: lock the run's folder; the name of the checkpoint to go on from, if there is one."""
    if not PartialState().is_main_process:
        return None
    output = config.checkpointing.output
    held.enter_context(FolderLock(output))
    log, folder = output / LOG_NAME, output / "checkpoints"
    if not config.checkpointing.resume:
        if log.exists():
            raise InputError(f"{output}: holds a run already; give --resume to go on with it, or a new --output")
        return None
    last = checkpoint.newest(folder)
    if last is None and log.exists():
        if has_event(log, "checkpoint"):
            remedy = checkpoint.NOTHING_LEFT
            raise InputError(f"{folder}: no checkpoint, though {log.name} tells of some; {remedy}")
        warnings.warn(f"{folder}: no checkpoint was saved yet; beginning again at step 0", UserWarning, stacklevel=2)
    return last.name if last else None


def _fields(config: TrainConfig, data: ShardSet, chosen: str | None) -> Fields:
    """What must not differ between ranks, as this one has it."""
    options = {name: str(value) for name, value in read_options(config.to_dict()).items() if name not in MAY_DIFFER}
    init = config.network.init
    begun_with = () if chosen or init is None else (init,)  # a resumed run does not read it again
    return {
        "kkanji": __version__,
        "commit": (commit() or UNKNOWN)[:SHOWN],
        **{f"--{name.replace('_', '-')}": value for name, value in options.items()},
        **{f"sha256 of {path}": _verified(path) for path in (*begun_with, *config.regularisation.teachers)},
        "set": data.manifest.identity()[:SHOWN],
        "class map": class_map(data).identity()[:SHOWN],
        **_checkpoint_seen(config, chosen),
    }


def _checkpoint_seen(config: TrainConfig, chosen: str | None) -> Fields:
    """The checkpoint to go on from as this rank sees it: where rank 0 found none, any."""
    folder = config.checkpointing.output / "checkpoints"
    seen = folder / chosen if chosen else checkpoint.newest(folder) if config.checkpointing.resume else None
    if seen is None or not seen.is_dir():
        return {"checkpoint": NONE, "sha256 of its manifest": NONE}
    return {"checkpoint": seen.name, "sha256 of its manifest": _verified(seen)}


def _verified(path: Path) -> str:
    checkpoint.check(path)
    return checkpoint.identity(path)[:SHOWN]


def _name() -> str:
    return f"rank {PartialState().process_index} ({socket.gethostname()})"


def _attempt(action: Callable[[], Result]) -> tuple[Result | None, str]:
    """Its result, or how to tell what went wrong."""
    try:
        return action(), ""
    except (InputError, OSError) as error:
        return None, str(error) or type(error).__name__


def _told(problems: Mapping[str, str], ranks: int) -> str:
    """One message: what went wrong on the first of the ranks named, or on all alike."""
    name, problem = next(iter(problems.items()))
    alike = len(problems) == ranks and len(set(problems.values())) == 1
    return problem if alike else f"{name}: {problem}"


def _end_all(message: str) -> NoReturn:
    """Called on all ranks. The message is told once a node; and a launcher kills the others when one has left, so leave
    at one time."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_local_main_process:
        raise InputError(message)
    raise SystemExit(INPUT_ERROR)
