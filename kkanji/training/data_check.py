"""Damage in a set that is read in place ends the run on all ranks before its first epoch does."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from accelerate import Accelerator

from kkanji.environment import local_ranks
from kkanji.training.agreement import host_group
from shards import CorruptShard, ShardSet

LOOK_S = 5  # seconds between two exchanges of findings, while all ranks wait


class DataCheck:
    """Background check of a set. On each node, every shard is checked by one rank."""

    def __init__(self, accelerator: Accelerator, data: ShardSet, *splits: str) -> None:
        part = accelerator.local_process_index % local_ranks()
        self._check = data.check_in_background(*splits, part=part, of=local_ranks())
        self._over = False

    def __enter__(self) -> "DataCheck":
        return self

    def __exit__(self, *_: object) -> None:
        self._check.close()

    @property
    def problem(self) -> CorruptShard | None:
        """The damage that this rank has found so far."""
        return None if self._check.problem is None else CorruptShard(self._check.problem)

    def finish(self, meet: Callable[[], None] = lambda: None) -> None:
        """Wait until every shard was checked. All ranks call this together; later calls return at once.

        meet: called on all ranks while they wait, some seconds apart. Raises CorruptShard on all ranks if one of them
        found damage.
        """
        while not self._over:
            unfinished, damaged = self._any(not self._check.finished(wait_s=LOOK_S), self._check.problem is not None)
            if damaged:
                raise CorruptShard(self._first_problem())
            self._over = not unfinished
            meet()

    def _any(self, *mine: bool) -> list[bool]:
        """For each value, whether it is true on any rank."""
        found = torch.tensor(mine, dtype=torch.uint8)
        if host_group() is not None:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=host_group())
        return [bool(value) for value in found]

    def _first_problem(self) -> str:
        """The problem of the lowest rank that has one."""
        problems: list[str | None] = [self._check.problem]
        if host_group() is not None:
            problems = [None] * dist.get_world_size()
            dist.all_gather_object(problems, self._check.problem, group=host_group())
        return next(filter(None, problems))
