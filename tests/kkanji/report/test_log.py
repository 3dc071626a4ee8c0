"""What is read from a run's log.jsonl, whatever crashes and resumes left in it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kkanji.report.log import read_log
from shards.errors import InputError
from tests.kkanji.report.made_run import evaluation_line, step_line


def write_log(folder: Path, lines: Sequence[str], end: str = "\n") -> Path:
    path = folder / "log.jsonl"
    path.write_text("\n".join(lines) + end)
    return path


def test_after_a_resume_the_later_line_wins_and_the_lost_attempt_is_forgotten(tmp_path: Path) -> None:
    first = [step_line(10, loss=3), step_line(20, loss=2), evaluation_line(20, top1=0.2)]
    lost = [step_line(25, loss=9), step_line(30, loss=9), evaluation_line(30, top1=0.9), step_line(40, loss=9)]
    again = [json.dumps({"event": "resume", "step": 20}), step_line(30, loss=1), evaluation_line(30, top1=0.3)]
    log = read_log(write_log(tmp_path, first + lost + [step_line(25, loss=1.5)] + again))
    assert log.steps["step"].tolist() == [10, 20, 25, 30]
    assert log.steps["loss"].tolist() == [3, 2, 1.5, 1]
    assert log.evaluations["top1"].tolist() == [0.2, 0.3]


def test_an_evaluation_repeated_at_the_same_step_wins(tmp_path: Path) -> None:
    lines = [step_line(10), evaluation_line(10, top1=0.1), evaluation_line(10, top1=0.2)]
    assert read_log(write_log(tmp_path, lines)).evaluations["top1"].tolist() == [0.2]


def test_a_last_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path, [step_line(10), step_line(20)[:25]], end=""))
    assert log.steps["step"].tolist() == [10]


def test_a_whole_last_line_without_a_line_feed_counts(tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path, [step_line(10), step_line(20)], end=""))
    assert log.steps["step"].tolist() == [10, 20]


def test_a_field_that_was_renamed_is_known_by_its_old_name(tmp_path: Path) -> None:
    before = step_line(10, wait_fraction=0.25).replace("wait_fraction", "wait_share")
    log = read_log(write_log(tmp_path, [before, step_line(20, wait_fraction=0.5)]))
    assert log.steps["wait_fraction"].tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (step_line(20)[:25], "not JSON"),
        ("[1, 2]", "found list, expected a JSON object"),
        ('{"event": "step", "step": 20}', "no field 'epoch'"),
        (step_line(20, loss="low"), "loss is 'low', expected a number"),
        (step_line(20).replace('"step": 20', '"step": NaN'), "step is nan"),
    ],
)
def test_any_other_malformed_line_is_an_error_with_its_number(tmp_path: Path, line: str, found: str) -> None:
    path = write_log(tmp_path, [step_line(10), line, step_line(30)])
    with pytest.raises(InputError, match=rf"log\.jsonl, line 2: {re.escape(found)}"):
        read_log(path)


def test_a_malformed_last_line_that_was_written_whole_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2"):
        read_log(write_log(tmp_path, [step_line(10), "{"]))


def test_other_events_and_splits_are_ignored_and_null_is_not_zero(tmp_path: Path) -> None:
    lines = ['{"event": "new"}', "", step_line(10, top1=None), evaluation_line(10, split="test")]
    log = read_log(write_log(tmp_path, lines))
    assert np.isnan(log.steps["top1"]).tolist() == [True]
    assert log.evaluations["step"].tolist() == []
