"""Processes and sets that the tests of several ranks share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.ranks.pool import Ranks
from tests.making import cut_up


@pytest.fixture(scope="session")
def pool() -> Iterator[Ranks]:
    """Four processes that each are a rank of one training after another."""
    with Ranks(4) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def in_shards(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set in twelve shards."""
    return cut_up(tiny_set, tmp_path_factory.mktemp("ranks") / "in_shards", in_a_shard=9)
