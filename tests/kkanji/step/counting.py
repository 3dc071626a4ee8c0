"""What a piece of training would ask of a GPU: operators launched and bytes moved, counted without one.

Both are what an uncompiled network asks for: each operator reads its inputs and writes its outputs. An operator over a
list of tensors counts as one, and as one pass over what it changes in place.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators that launch nothing: views, allocations, questions about a tensor, the profiler's marks.
FREE = frozenset(
    "_record_function_enter_new _record_function_exit _reshape_alias _unsafe_view alias as_strided detach device empty "
    "empty_like empty_strided expand flatten is_contiguous is_same_size lift_fresh new_empty permute reshape select "
    "slice split squeeze stride sym_size t transpose unbind unflatten unsqueeze view".split()
)


class Work(TorchDispatchMode):
    """Counts while entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run and count."""
        outputs = operator(*args, **(kwargs or {}))
        name = operator.overloadpacket.__name__
        if name not in FREE:
            tensors = (each for each in tree_leaves((args, kwargs, outputs)) if isinstance(each, Tensor))
            self.launches[name] += 1
            self.bytes[name] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return outputs


@contextmanager
def counted() -> Iterator[Work]:
    """The operators inside, by name, and the bytes that they move."""
    with Work() as work:
        yield work
