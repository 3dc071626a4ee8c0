"""Damage in a set that is read in place ends the run on all ranks before its first epoch does."""

from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from kkanji.environment import local_ranks
from shards import CorruptShard, ShardSet

LOOK_S = 5  # seconds between two exchanges of findings, while all ranks wait


class DataCheck:
    """Background check of a set. On each node, every shard is checked by one rank.

    Ranks exchange their findings by gloo, on the host, so that no step waits for a device.
    """

    def __init__(self, accelerator: Accelerator, data: ShardSet, *splits: str) -> None:
        part = accelerator.local_process_index % local_ranks()
        self._check = data.check_in_background(*splits, part=part, of=local_ranks())
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._over = False

    def __enter__(self) -> "DataCheck":
        return self

    def __exit__(self, *_: object) -> None:
        self._check.close()

    def passed(self, *, whole: bool) -> bool:
        """Whether the run may continue. All ranks call this together, and again if not.

        whole: require that every shard was checked. Otherwise it is enough that no damage was found so far.
        Raises CorruptShard on all ranks if one of them found damage.
        """
        if not self._over:
            finished = self._check.finished(wait_s=LOOK_S if whole else 0)
            unfinished, damaged = self._any(not finished, self._check.problem is not None)
            if damaged:
                raise CorruptShard(self._first_problem())
            self._over = not unfinished
        return self._over or not whole

    def finish(self) -> None:
        """Wait until every shard was checked."""
        while not self.passed(whole=True):
            pass

    def _any(self, *mine: bool) -> list[bool]:
        """For each value, whether it is true on any rank."""
        found = torch.tensor(mine, dtype=torch.uint8)
        if self._group is not None:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group)
        return [bool(value) for value in found]

    def _first_problem(self) -> str:
        """The problem of the lowest rank that has one."""
        problems: list[str | None] = [self._check.problem]
        if self._group is not None:
            problems = [None] * dist.get_world_size()
            dist.all_gather_object(problems, self._check.problem, group=self._group)
        return next(filter(None, problems))
