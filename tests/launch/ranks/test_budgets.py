"""Several ranks end together by a clock, and are extended together."""

from pathlib import Path

from tests.launch.commands import lines, losses
from tests.launch.ranks.pool import Ranks, train
from tests.launch.ranks.runs import config, distance


def test_the_first_ranks_clock_ends_all_and_they_go_on_as_if_nothing_had_been(
    pool: Ranks, tiny_set: Path, tmp_path: Path
) -> None:
    whole, part = (config(tiny_set, tmp_path / name) for name in ("whole", "part"))
    pool.do(train, whole, ranks=2)
    pool.do(train, part.with_options(max_minutes=1e-6), ranks=2)
    assert len(losses(tmp_path / "part")) == 1
    assert [entry["step"] for entry in lines(tmp_path / "part", "evaluation")] == [1]
    pool.do(train, part.with_options(resume=True), ranks=2)
    assert losses(tmp_path / "part") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 5


def test_two_ranks_extend_a_run_as_one_does(pool: Ranks, tiny_set: Path, tmp_path: Path) -> None:
    """Its last batch of 12 images is followed by a whole one."""
    for ranks in (1, 2):
        run = config(tiny_set, tmp_path / str(ranks))
        pool.do(train, run, ranks=ranks)
        pool.do(train, run.with_options(epochs=2, warmup_epochs=0.5, extend=True), ranks=ranks)
    assert [entry["samples"] for entry in lines(tmp_path / "2")] == [24, 48, 72, 96, 108, 132, 156, 180, 204, 216]
    found = distance(tmp_path / "2", tmp_path / "1")
    assert found.losses < 1e-4 and found.weights < 1e-3
