"""What ranks compare, without any: the processes are in tests/launch/test_agreement.py."""

import pytest
import torch

from kkanji.training.agreement import UNKNOWN, checksum, compare, differences, together
from shards import InputError

SAME = {"--lr": "0.1", "commit": "abc", "set": "123"}


def test_ranks_that_have_the_same_do_not_differ() -> None:
    assert differences([(f"rank {rank}", SAME) for rank in range(8)]) == []


def test_both_values_of_each_field_are_reported_once() -> None:
    other = SAME | {"--lr": "0.2", "set": "456"}
    found = differences([("rank 0", SAME), ("rank 1", SAME), ("rank 2", other), ("rank 3", other)])
    assert found == ["--lr is 0.2 on rank 2, 0.1 on rank 0", "set is 456 on rank 2, 123 on rank 0"]


def test_what_is_not_known_on_a_rank_is_no_difference() -> None:
    assert differences([("rank 0", SAME), ("rank 1", SAME | {"commit": UNKNOWN})]) == []


def test_a_field_that_only_one_rank_has_is_one() -> None:
    new = SAME | {"--new": "1"}
    assert differences([("rank 0", SAME), ("rank 1", new)]) == ["--new is 1 on rank 1, none on rank 0"]
    assert differences([("rank 0", new), ("rank 1", SAME)]) == ["--new is none on rank 1, 1 on rank 0"]


def test_a_process_by_itself_agrees_and_fails_as_ever() -> None:
    def fail() -> None:
        raise InputError("no such set")

    assert together(lambda: 7) == [7]
    compare(lambda: SAME, remedy="")
    with pytest.raises(InputError, match=r"^no such set$"):
        together(fail)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_bit_changes_the_checksum(layout: torch.memory_format) -> None:
    weights = [torch.randn(3, 2, 5, 5).to(memory_format=layout), torch.zeros(4)]
    before = checksum(weights)
    assert checksum([weights[0].contiguous(), weights[1]]) == before
    weights[1][3] = torch.finfo(torch.float32).tiny
    assert checksum(weights) != before
    assert checksum(weights[::-1]) != before
