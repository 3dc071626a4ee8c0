"""Processes that are the ranks of one training after another, by gloo on the CPU.

Torch is imported and the loader's code compiled once for all of them: a training that would take ten seconds to begin
begins in less than one.
"""

import gc
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState
from timm.models import build_model_with_cfg, register_model
from timm.models._efficientnet_builder import decode_arch_def
from torch import Tensor, nn

from kkanji.cli import Terminated
from kkanji.config import TrainConfig
from kkanji.data.training_set import open_set
from kkanji.models import Network
from kkanji.training import trainer
from kkanji.training.agreement import host_group
from tests.warm_python import start_server

TINY = "kkanji_tiny"  # 9,000 weights: all kinds of layers that our networks have
WAIT_S = 300  # for a training; a hang is a failure
Work = Callable[..., Any]


@register_model
def kkanji_tiny(**kwargs: Any) -> nn.Module:
    """A network that trains in milliseconds."""
    regularised = {"drop_rate": 0.2, "drop_path_rate": 0.1}
    del kwargs["pretrained"], kwargs["pretrained_cfg"], kwargs["pretrained_cfg_overlay"]
    model: nn.Module = build_model_with_cfg(
        Network,
        TINY,
        False,
        block_args=decode_arch_def([["er_r1_k3_s2_e2_c8"], ["ir_r2_k3_s2_e2_c16_se0.25"]]),
        in_chans=1,
        stem_size=8,
        num_features=32,
        **regularised | kwargs,
    )
    return model


class Ranks:
    """A pool of processes. One that has ended is not replaced."""

    def __init__(self, count: int) -> None:
        start_server()
        context = multiprocessing.get_context("forkserver")
        self._connections: list[Connection] = []
        self.processes: list[BaseProcess] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()  # or we would not notice that the process has ended
            self._connections.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection, process in zip(self._connections, self.processes, strict=True):
            connection.close()  # the process then reads the end of its input
            process.join(timeout=10)
            process.kill()

    def do(self, work: Work, *arguments: Any, ranks: int = 1) -> list[Any]:
        """The ranks' results of the work."""
        return self.begin(work, *arguments, ranks=ranks)()

    def begin(self, work: Work, *arguments: Any, ranks: int = 1, first: int = 0) -> Callable[[], list[Any]]:
        """Start work on so many ranks, from the pool's process `first` on; call what it returns to wait for results.

        work: a function of a module. A rank's result is its return value; a failure of any rank is an AssertionError.
        """
        used = range(first, first + ranks)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if ranks > 1 else {}
        for rank, process in enumerate(used):
            self.send(process, place(rank, ranks) | shared, work, *arguments)
        return lambda: [self._result(process) for process in used]

    def send(self, process: int, variables: dict[str, str], work: Work, *arguments: Any) -> None:
        """Start work on one process, with these environment variables."""
        self._connections[process].send((variables, work, arguments))

    def outcome(self, process: int, within_s: float = WAIT_S) -> tuple[Any, str]:
        """A process's return value, and the traceback of its error; that it ended counts as an error."""
        assert self._connections[process].poll(within_s), "a rank hangs"
        try:
            value, error = self._connections[process].recv()
        except (EOFError, ConnectionResetError):
            return None, "the process ended"
        return value, error

    def has_ended(self, process: int) -> bool:
        """Whether its work, or the process itself, has ended."""
        return self._connections[process].poll(0)

    def _result(self, process: int) -> Any:
        value, error = self.outcome(process)
        assert not error, error
        return value


def place(rank: int, ranks: int) -> dict[str, str]:
    """Environment variables of a rank, as launchers set them."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)} if ranks > 1 else {}


def free_port() -> int:
    """A port for a rendezvous."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def train(config: TrainConfig, stop_after: int = 0, pace_s: float = 0.0) -> None:
    """Train on this rank.

    stop_after: steps of this start after which rank 0 is sent SIGTERM, so that all save. pace_s: pause after each step.
    """
    steps = 0
    take_step = trainer.take_step

    def counted(*arguments: Any) -> None:
        nonlocal steps
        take_step(*arguments)
        steps += 1
        time.sleep(pace_s)
        if steps == stop_after and os.environ.get("RANK", "0") == "0":
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.take_step = cast(Any, counted)
    try:
        trainer.train(config, open_set(config.dataset.data, cache_size=config.dataset.cache_size))
    except Terminated:
        assert stop_after == steps
    finally:
        trainer.take_step = take_step


def train_cramped(config: TrainConfig, most: int) -> None:
    """Train on ranks of which the last one has no memory for more than `most` images at once."""
    whole = Network.forward_head
    cramped = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)

    def forward_head(self: Network, maps: Tensor, pre_logits: bool = False) -> Tensor:
        if cramped and torch.is_grad_enabled() and len(maps) > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. {len(maps)} images")
        head: Tensor = whole(self, maps, pre_logits)
        return head

    Network.forward_head = forward_head
    try:
        train(config)
    finally:
        Network.forward_head = whole


def resuming(config: TrainConfig) -> TrainConfig:
    """The same, from its last checkpoint on."""
    return replace(config, checkpointing=replace(config.checkpointing, resume=True))


def _serve(connection: Connection) -> None:
    """Work as a rank until the pool ends this process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, _terminate)
    vars(gc)["unfreeze"] = lambda: None  # what is imported need not be collected again and again
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        while (job := _receive(connection)) is not None:
            variables, work, arguments = job
            os.environ.update(variables, ACCELERATE_USE_CPU="true")
            try:
                connection.send((work(*arguments), ""))
            except BaseException:  # SystemExit is how all ranks but the first one end on an error
                connection.send((None, traceback.format_exc()))
            _forget(variables)


def _receive(connection: Connection) -> Any:
    """A job; None when the pool has closed."""
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        return None


def _forget(variables: dict[str, str]) -> None:
    """Leave the run's group, so that the next one can be of other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()
    host_group.cache_clear()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for name in variables:
        del os.environ[name]


def _terminate(number: int, frame: object) -> None:  # noqa: ARG001
    raise Terminated
