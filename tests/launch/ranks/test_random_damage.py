"""Random damage: a run or a set with it computes what a whole one does, or is refused in a sentence.

KKANJI_DAMAGES=200 tries as many; each time others, unless KKANJI_FAULT_SEED repeats them.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kkanji.config import TrainConfig
from shards.errors import InputError, StorageError
from tests.faults.seeds import seed
from tests.launch.ranks.pool import Ranks, resuming, train
from tests.launch.ranks.runs import config, same_to_the_bit

DAMAGES = int(os.environ.get("KKANJI_DAMAGES", "12"))
OPTIONS = {"order": "balanced", "draws_per_class": 24, "batch_size": 24, "save_every": 2}
Outcome = str | None


@pytest.fixture(scope="module")
def runs(pool: Ranks, tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of six steps with their results, and the same one stopped after the fifth."""
    folder = tmp_path_factory.mktemp("runs")
    pool.do(train, config(tiny_set, folder / "whole", **OPTIONS))
    pool.do(train, config(tiny_set, folder / "stopped", **OPTIONS), 5)
    return folder / "whole", folder / "stopped"


def test_a_run_with_damage_is_resumed_the_same_or_refused(
    pool: Ranks, runs: tuple[Path, Path], tiny_set: Path, tmp_path: Path
) -> None:
    (whole, stopped), run = runs, tmp_path / "run"

    def resumed() -> Outcome:
        outcome_of_rank: Outcome = pool.do(outcome, resuming(config(tiny_set, run, **OPTIONS)))[0]
        return outcome_of_rank

    assert "used" in try_damages(run, stopped, resumed, lambda: same_to_the_bit(run, whole))


def test_a_set_with_damage_is_trained_on_the_same_or_refused(
    pool: Ranks, runs: tuple[Path, Path], tiny_set: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / "set", tmp_path / "run"

    def trained() -> Outcome:
        shutil.rmtree(run, ignore_errors=True)
        outcome_of_rank: Outcome = pool.do(outcome, config(data, run, **OPTIONS))[0]
        return outcome_of_rank

    assert "refused" in try_damages(data, tiny_set, trained, lambda: same_to_the_bit(run, runs[0]))


def try_damages(folder: Path, original: Path, use: Callable[[], Outcome], is_right: Callable[[], bool]) -> set[str]:
    """Use the folder once for each damage; what came of it."""
    chance = random.Random(seed())
    files = sorted(path.relative_to(original) for path in original.rglob("*") if is_read(path))
    found = set()
    for _ in range(DAMAGES):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder, symlinks=True)
        damaged = folder / chance.choice(files)
        damaged.write_bytes(damage(damaged.read_bytes(), chance))
        refusal = use()
        print(damaged.relative_to(folder), "|", refusal or "used")  # noqa: T201  (pytest shows it with a failure)
        assert refusal is None or ("\n" not in refusal and len(refusal) > 20)
        found.add("refused" if refusal else "used")
        assert refusal or is_right()
    return found


def is_read(path: Path) -> bool:
    """Whether a run or a set reads this file again: not links, pictures and TensorBoard's events."""
    return (
        path.is_file() and not path.is_symlink() and path.suffix in (".json", ".jsonl", ".safetensors", ".tar", ".npy")
    )


def damage(data: bytes, chance: random.Random) -> bytes:
    """A bit turned over, the end cut off, or a byte more."""
    place = chance.randrange(len(data))
    kind = chance.choice(["bit", "cut", "more"])
    if kind == "bit":
        return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
    return data[:place] if kind == "cut" else data[:place] + chance.randbytes(1) + data[place:]


def outcome(options: TrainConfig) -> Outcome:
    """In a rank: None after a training, or why it was refused. Any other error fails."""
    try:
        train(options)
    except (InputError, StorageError) as error:
        return str(error)
    return None
