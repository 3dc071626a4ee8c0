"""What all ranks of a run agree on before its first step, and again before each checkpoint.

No rank decides alone what depends on its own machine. Rank 0 chooses the checkpoint to continue from; order and window
follow from the smallest cache, residence from the smallest free memory, precision from what every device supports, and
the micro-batch from the smallest memory (`kkanji.training.micro_batch`). Everything else is compared field by field. An
error on one rank ends all ranks.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor

from kkanji import checkpoint
from kkanji.classes import ClassMap
from kkanji.cli import INPUT_ERROR
from kkanji.config import TrainConfig, flag, read_options
from kkanji.data.training_set import class_map, require_room, resolve_order, resolve_residence, room_bytes
from kkanji.environment import code, local_ranks, precision_name, versions
from kkanji.launchers import network, rank_name, wanted_processes
from kkanji.training.micro_batch import free_bytes
from kkanji.training.profiling import Watch
from kkanji.training.run_log import LOG_NAME, has_event
from shards import FolderLock, InputError, ShardSet

Result = TypeVar("Result")
Fields = Mapping[str, str]
NONE, UNKNOWN = "none", "unknown"
# Each node may have its own values: paths, the room it has, and what it watches.
MAY_DIFFER = frozenset({"data", "output", "cache_size", "stall_seconds", "profile_steps"})
SHOWN = 12  # characters of a sha256; a rank that differs does so in these
MEETING_S = 50  # seconds in which all ranks must have met: less than the minute after which people look
UNMET = (
    "{name}: the {count} ranks did not meet at {place}: {reason}. This host's interface is {network}; if the others "
    "cannot reach it, set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to one that they can, and look at the other ranks' "
    "messages for one that failed"
)
ALONE = (
    "{wanted} processes were asked for, but this one runs alone: `accelerate launch` starts several only on GPUs; give "
    "the same options to torchrun --nproc_per_node {wanted} -m launch.train"
)
SAME = "start every rank with the same code, options and set, and with an --output that every node sees"


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What every rank starts with. Only paths may differ."""

    config: TrainConfig
    """Order, window and residence are resolved."""
    classes: ClassMap
    precision: str
    """Accelerate's name of the precision."""
    checkpoint: Path | None
    """The checkpoint to continue from. None begins a new run."""
    state: Mapping[str, Any] | None
    """Of that checkpoint."""


def agree(config: TrainConfig, data: ShardSet, held: ExitStack) -> Agreement:
    """Agree before a run's first step. All ranks call it; it raises InputError, or exits, on all of them or on none.

    held: holds the lock on the run's folder, on the main process.
    """
    chosen = together(partial(_enter_run, config, held))[0]
    compare(partial(_fields, config, data, chosen), remedy=SAME)
    last = config.checkpointing.output / "checkpoints" / chosen if chosen else None
    state = checkpoint.read_state(last) if last else None
    saved = state["config"] if state else {}
    config = resolve_order(config.resolved_as(saved), data, min(together(partial(room_bytes, data))))
    if last:
        together(partial(config.check_resumes, saved))
    together(partial(require_room, config, data, ranks=PartialState().num_processes, here=local_ranks()))
    config = _with_residence(config, data)
    precisions = together(partial(precision_name, config.runtime.precision))
    precision = precisions[0] if len(set(precisions)) == 1 else "no"
    return Agreement(config=config, classes=class_map(data), precision=precision, checkpoint=last, state=state)


def together(action: Callable[[], Result]) -> list[Result]:
    """The results of an action on all ranks, in rank order. All ranks call it and continue only if all succeeded.

    If the action raises InputError or OSError on any rank, all ranks end with its message.
    """
    if PartialState().num_processes == 1:
        return [action()]
    outcomes = gather_object([(rank_name(), *_attempt(action))])
    problems = {name: problem for name, _, problem in outcomes if problem}
    if problems:
        _end_all(_one_message(problems, ranks=len(outcomes)))
    return [result for _, result, _ in outcomes]


def alike(action: Callable[[], Result]) -> Result:
    """This rank's own result of an action that all ranks take. If it fails on any rank, all end as by `together`."""
    results: list[Result] = []
    together(lambda: results.append(action()))  # the results stay here: only errors travel
    return results[0]


def compare(describe: Callable[[], Fields], *, remedy: str) -> None:
    """End all ranks if one differs from rank 0 in any field. An unknown value differs from no other."""
    if PartialState().num_processes == 1:
        return
    found = differences(together(lambda: (rank_name(), describe())))
    if found:
        _end_all(f"ranks differ: {'; '.join(found)}; {remedy}")


def differences(reports: list[tuple[str, Fields]]) -> list[str]:
    """For each field in which a rank differs from the first one, both values. One rank is named for each field.

    reports: the name and the values of each rank.
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
    """Checksum of float32 tensors. Their bits are added up on the device: only one number for each leaves it."""
    sums = [tensor.detach().view(torch.int32).sum(dtype=torch.int64) for tensor in tensors]
    return hashlib.sha256(torch.stack(sums).cpu().numpy().tobytes()).hexdigest()[:SHOWN]


def meet() -> None:
    """Connect the ranks, before anything else that needs torch. All ranks call it once, within MEETING_S.

    Raises InputError if they do not find each other, or if fewer run than the launcher was asked for.
    """
    place = f"{os.environ.get('MASTER_ADDR', 'localhost')}:{os.environ.get('MASTER_PORT', '29500')}"
    wanted = wanted_processes()
    told = partial(UNMET.format, name=rank_name(), count=wanted, place=place, network=network())
    late = f"error: {told(reason=f'{MEETING_S} s have passed')}".replace("{", "{{").replace("}", "}}")
    with closing(Watch(MEETING_S, late, status=INPUT_ERROR)):
        try:
            # Of torchrun's ranks without a GPU, Accelerate would by itself take each for a run of its own.
            PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available())
            if host_group() is not None:
                dist.barrier(group=host_group())
        except (RuntimeError, ValueError) as error:  # torch's errors of networks are RuntimeErrors
            raise InputError(told(reason=str(error).splitlines()[0])) from error
    if PartialState().num_processes < wanted:
        raise InputError(ALONE.format(wanted=wanted))


@cache
def host_group() -> Any:
    """The ranks' connection by gloo, host to host: no exchange on it waits for a device. None for a process alone."""
    return dist.new_group(backend="gloo") if dist.is_initialized() else None


def _with_residence(config: TrainConfig, data: ShardSet) -> TrainConfig:
    """Where images stay follows from the smallest free memory: all ranks keep them on their devices, or none does."""
    state = PartialState()
    sharing = local_ranks() if state.device.type == "cpu" else 1  # ranks on a CPU share its memory
    free = min(together(partial(free_bytes, state.device))) / sharing
    config, message = resolve_residence(config, data, state.device.type, free)
    if message and state.is_main_process:
        warnings.warn(message, UserWarning, stacklevel=2)
    return config


def _enter_run(config: TrainConfig, held: ExitStack) -> str | None:
    """On rank 0: lock the run's folder. Returns the name of the checkpoint to continue from, if there is one."""
    if not PartialState().is_main_process:
        return None
    output = config.checkpointing.output
    held.enter_context(FolderLock(output))
    log, folder = output / LOG_NAME, output / "checkpoints"
    if not config.continues:
        if log.exists():
            raise InputError(f"{output}: holds a run already; give --resume to go on with it, or a new --output")
        return None
    last = checkpoint.newest(folder)
    if last is None and config.checkpointing.extend:
        raise InputError(f"{output}: no checkpoint of a run to extend; leave out --extend to begin one")
    if last is None and log.exists():
        if has_event(log, "checkpoint"):
            remedy = checkpoint.NOTHING_LEFT
            raise InputError(f"{folder}: no checkpoint, though {log.name} records that some were saved; {remedy}")
        warnings.warn(f"{folder}: no checkpoint was saved yet; beginning again at step 0", UserWarning, stacklevel=2)
    return last.name if last else None


def _fields(config: TrainConfig, data: ShardSet, chosen: str | None) -> Fields:
    """This rank's values of everything that must not differ between ranks."""
    options = {name: str(value) for name, value in read_options(config.to_dict()).items() if name not in MAY_DIFFER}
    init = config.network.init
    begun_with = () if chosen or init is None else (init,)  # a resumed run does not read it again
    return {
        "code": code()[:SHOWN],
        **versions(),
        **{flag(name): value for name, value in options.items()},
        **{f"sha256 of {path}": _verified(path) for path in (*begun_with, *config.regularisation.teachers)},
        "set": data.manifest.identity()[:SHOWN],
        "class map": class_map(data).identity()[:SHOWN],
        **_checkpoint_seen(config, chosen),
    }


def _checkpoint_seen(config: TrainConfig, chosen: str | None) -> Fields:
    """The checkpoint to continue from, as this rank sees it; any that it sees, where rank 0 found none."""
    folder = config.checkpointing.output / "checkpoints"
    seen = folder / chosen if chosen else checkpoint.newest(folder) if config.continues else None
    if seen is None or not seen.is_dir():
        return {"checkpoint": NONE, "sha256 of its manifest": NONE}
    return {"checkpoint": seen.name, "sha256 of its manifest": _verified(seen)}


def _verified(path: Path) -> str:
    checkpoint.check(path)
    return checkpoint.identity(path)[:SHOWN]


def _attempt(action: Callable[[], Result]) -> tuple[Result | None, str]:
    """The result, or else a message."""
    try:
        return action(), ""
    except (InputError, OSError) as error:
        return None, str(error) or type(error).__name__


def _one_message(problems: Mapping[str, str], ranks: int) -> str:
    """The problem of the first rank that has one, with the rank's name unless all have the same."""
    name, problem = next(iter(problems.items()))
    alike = len(problems) == ranks and len(set(problems.values())) == 1
    return problem if alike else f"{name}: {problem}"


def _end_all(message: str) -> NoReturn:
    """End all ranks with one message per node. They leave together: a launcher kills the others once one has left."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_local_main_process:
        raise InputError(message)
    raise SystemExit(INPUT_ERROR)
