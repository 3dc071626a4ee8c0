"""What the ranks of a run do together."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from shards import InputError

T = TypeVar("T")


def from_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What `work` returns on the main process, on every rank; an InputError there is raised on all of them."""
    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [work()]
        except InputError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], InputError):
        raise outcome[0]
    result: T = outcome[0]
    return result
