import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from kkanji.config import FREE_TO_CHANGE, TrainConfig, read_json, strict_json
from shards import InputError


def changed(**values: Any) -> TrainConfig:
    return replace(CONFIG, **values)


CONFIG = TrainConfig(data="data", output=Path("runs/x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("micro_batch", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("label_smoothing", 1.0),
        ("augment", -1.0),
        ("warmup_epochs", 21.0),
        ("weight_decay", -0.1),
        ("seed", -1),
        ("window", -1),
        ("lanes", 0),
        ("draws_per_class", 0),
        ("draw_exponent", 1.5),
        ("draw_cap", -1),
        ("cache_size", -1.0),
        ("mixup", -0.1),
        ("ema_images", -1.0),
        ("augment_start", 2.5),
        ("unaugmented_epochs", -1),
        ("start_size", 30),
        ("start_size", 72),
        ("full_size_at", 0.0),
        ("evaluate_every", 0),
        ("profile_steps", -1),
    ],
)
def test_senseless_options_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} "):
        changed(**{name: value})


def test_few_flags() -> None:
    """A trainer's flags outgrow it one by one. Whoever adds one: take another away, or raise this on purpose."""
    assert len(fields(TrainConfig)) <= 42


def test_resuming_with_other_options_names_them() -> None:
    other = replace(CONFIG, lr=0.5, batch_size=7)
    with pytest.raises(InputError, match=r"--batch-size 7, was 256; --lr 0\.5, was 0\.001"):
        other.check_resumes(CONFIG.to_dict())


@pytest.mark.parametrize("name", sorted(FREE_TO_CHANGE - {"resume"}))
def test_what_does_not_change_the_result_may_change(name: str) -> None:
    value = Path("elsewhere") if name in ("data", "output") else 5
    other = changed(**{name: value, "resume": True})
    assert getattr(other, name) != getattr(CONFIG, name)
    other.check_resumes(CONFIG.to_dict())


def test_numbers_that_are_not_finite_are_null() -> None:
    value = {"loss": float("nan"), "bins": [{"top1": float("inf")}, (1.5, None)], "name": "nan"}
    assert json.loads(strict_json(value)) == {"loss": None, "bins": [{"top1": None}, [1.5, None]], "name": "nan"}


def test_json_larger_than_is_believed_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"x\.json: 1,099,511,627,776 bytes, expected at most 67,108,864"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ("[]", "found list, expected a JSON object"), ("[" * 100_000, "not JSON")],
    ids=["cut", "list", "deep"],
)
def test_bad_json_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=rf"x\.json: {message}"):
        read_json(tmp_path / "x.json")


def test_a_resumed_run_takes_what_the_first_start_resolved() -> None:
    saved = changed(micro_batch=96, order="windowed", window=5, lr=0.5).to_dict()
    resumed = CONFIG.resolved_as(saved)
    assert (resumed.micro_batch, resumed.order, resumed.window) == (96, "windowed", 5)
    assert resumed.lr == CONFIG.lr
    assert changed(micro_batch=32, order="full").resolved_as(saved).micro_batch == 32
    assert changed(order="full").resolved_as(saved).order == "full"
    assert CONFIG.resolved_as({}) == CONFIG
