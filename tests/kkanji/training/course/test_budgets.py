"""Runs that --max-steps or --max-minutes ends before their last step."""

from itertools import count
from pathlib import Path

import pytest

from kkanji.training import meter as metering
from kkanji.training.meter import Pace
from tests.kkanji.training.course.test_extension import train_set, trained
from tests.launch.commands import lines, losses

__all__ = ["train_set"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore:torch uses 1 thread")


def test_a_run_within_a_number_of_steps_is_evaluated_and_saved_and_goes_on(
    tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if it had never been ended."""
    whole = trained(tiny_set, tmp_path / "whole", evaluate_every=9)
    part = trained(tiny_set, tmp_path / "part", max_steps=2)
    assert "ended by --max-steps 2 after step 2 of 5; --resume with a higher limit goes on" in capsys.readouterr().out
    assert [entry["step"] for entry in lines(part, "evaluation")] == [2]
    assert (part / "checkpoints" / "last").resolve().name == "step-000000002"
    assert lines(part)[-1]["steps"] == 2
    trained(tiny_set, part, max_steps=1, resume=True)  # less than it has done
    assert len(losses(part)) == 2
    trained(tiny_set, part, resume=True)
    assert losses(part) == losses(whole) and len(losses(whole)) == 5


def test_a_run_within_minutes_ends_after_the_step_that_takes_it_there(
    train_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes count over all starts."""
    calls = count(1)
    monkeypatch.setattr(Pace, "over", lambda _: next(calls) == 2)
    run = trained(train_set, tmp_path / "run", max_minutes=1.0)
    assert "ended by --max-minutes 1 after step 2 of 5" in capsys.readouterr().out
    monkeypatch.undo()
    trained(train_set, run, max_minutes=1e-6, resume=True)  # over already: a step is taken all the same
    assert len(losses(run)) == 3 and (run / "checkpoints" / "last").resolve().name == "step-000000003"


def test_the_time_left_follows_the_work_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of the second half cost four times as much; evaluations take as long as they did."""
    clock = [100.0]
    monkeypatch.setattr(metering, "perf_counter", lambda: clock[0])

    def work(start: int, stop: int) -> float:
        return 4 * (stop - start) - 3 * (min(stop, 500) - min(start, 500))

    pace = Pace(seconds=50.0, seen=0, most_s=0.0, work=work)
    assert pace.seconds == 50 and not pace.over()
    slow = pace.left_s(100, 1000, 1.0, pauses=0)  # the first line is slow, and forgotten
    assert slow == 400 + 2000
    with pace.pause():
        clock[0] += 30
    assert pace.left_s(200, 1000, 10.0, pauses=3) == pytest.approx(30 + 200 + 3 * 30)
    assert pace.left_s(300, 1000, 5.0, pauses=0) == pytest.approx((200 + 2000) * (0.1 + 0.3 * 0.1))
    assert pace.left_s(1000, 1000, 5.0, pauses=0) == 0
    limited = Pace(seconds=50.0, seen=0, most_s=60.0, work=lambda a, b: b - a)
    assert limited.left_s(100, 1000, 1.0, pauses=0) == 10
    clock[0] += 10
    assert limited.over()
