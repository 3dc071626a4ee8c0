import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kkanji.config import (
    FLAGLESS,
    FREE_TO_CHANGE,
    GROUP_OF,
    GROUPS,
    OF_A_START,
    OPTIONS,
    flag,
    read_options,
    strict_json,
    train_config,
)
from shards import InputError

CONFIG = train_config(data="data", output=Path("runs/x"))
MOST_FLAGS = 42


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
        ("clip_norm", -1.0),
        ("class_weight_exponent", 1.5),
        ("seed", 2**63),
        ("epochs", 10**6 + 1),
        ("draws_per_class", 10**9 + 1),
        ("max_steps", -1),
        ("max_minutes", -1.0),
    ],
)
def test_senseless_options_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{flag(name)} "):
        CONFIG.with_options(**{name: value})


def test_few_flags() -> None:
    """A trainer's flags outgrow it one by one. Whoever adds one: take another away, or raise this on purpose."""
    assert len(set(GROUP_OF) - FLAGLESS) <= MOST_FLAGS


def test_no_two_groups_have_an_option_of_one_name() -> None:
    assert len(GROUP_OF) == len(OPTIONS)


HELP = """
import sys
from launch.train import main
sys.argv = ["train", "--help"]
try:
    main()
finally:
    assert "torch" not in sys.modules, "parsing imports torch"
"""


def test_help_shows_groups_and_a_sentence_for_each_option() -> None:
    """As a user sees it, before anything of torch is imported."""
    narrow = os.environ | {"COLUMNS": "80", "TERM": "dumb"}
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, env=narrow, check=False)
    assert result.returncode == 0, result.stderr
    _, *entries = re.split(r"^│ (?=--)", result.stdout, flags=re.MULTILINE)
    helps = {words[0].strip("-,").replace("-", "_"): words[1:] for words in map(words_of, entries)}
    assert set(helps) == set(GROUP_OF) - FLAGLESS
    for words in helps.values():
        text = " ".join(itertools.dropwhile(is_metavar, words))
        assert re.match(r"[A-Z].*\. \((default: [^)]*\)?|required)\)", text), text
    everything = " ".join(words_of(result.stdout))
    for group, kind in GROUPS.items():
        assert f"{group} options {kind.__doc__}" in everything


def words_of(text: str) -> list[str]:
    """Without the lines of the boxes."""
    return re.sub("[─│╭╮╰╯]", " ", text).split()


def is_metavar(word: str) -> bool:
    return word.startswith(("--", "{", "[", "|", "...")) or word.strip("[]").isupper()


def test_resuming_with_other_options_names_them() -> None:
    other = CONFIG.with_options(lr=0.5, batch_size=7)
    with pytest.raises(InputError, match=r"--batch-size 7, was 256; --lr 0\.5, was 0\.001"):
        other.check_resumes(CONFIG.to_dict())


@pytest.mark.parametrize("name", sorted(FREE_TO_CHANGE - OF_A_START))
def test_what_does_not_change_the_result_may_change(name: str) -> None:
    value = {"data": Path("elsewhere"), "output": Path("elsewhere"), "log_with": "mlflow"}.get(name, 5)
    other = CONFIG.with_options(**{name: value, "resume": True})
    assert read_options(other.to_dict())[name] != read_options(CONFIG.to_dict())[name]
    other.check_resumes(CONFIG.to_dict())


def test_numbers_that_are_not_finite_are_null() -> None:
    value = {"loss": float("nan"), "bins": [{"top1": float("inf")}, (1.5, None)], "name": "nan"}
    assert json.loads(strict_json(value)) == {"loss": None, "bins": [{"top1": None}, [1.5, None]], "name": "nan"}


def test_a_resumed_run_takes_what_the_first_start_resolved() -> None:
    saved = CONFIG.with_options(micro_batch=96, order="windowed", window=5, lr=0.5).to_dict()
    assert CONFIG.resolved_as(saved) == CONFIG.with_options(micro_batch=96, order="windowed", window=5)
    own = CONFIG.with_options(micro_batch=32, order="full")
    assert own.resolved_as(saved) == own.with_options(window=5)
    assert CONFIG.resolved_as({}) == CONFIG


# As a run of 2026-11-25 recorded it: no groups, other names for two options, one that is gone.
FLAT = {
    "data": "data",
    "output": "runs/x",
    "lr": 0.001,
    "teaching": 0.5,
    "plain_epochs": 0,
    "draw_cap": 0,
    "threads": 1,
}


def test_options_are_read_with_and_without_groups() -> None:
    grouped = CONFIG.to_dict()
    assert grouped["optimization"]["lr"] == 0.001 and grouped["checkpointing"]["output"] == "runs/x"
    own, earlier = read_options(grouped), read_options(FLAT)
    assert set(own) == set(GROUP_OF) - OF_A_START
    assert {name: value for name, value in earlier.items() if name in own}.items() <= own.items()
    assert read_options(json.loads(json.dumps(grouped))) == own
    assert read_options(grouped | {"averaged": ["a"]})["averaged"] == ["a"]


def test_a_run_of_an_earlier_version_is_resumed_with_its_own_options_only() -> None:
    CONFIG.check_resumes(FLAT)
    for name, value, message in (
        ("teaching", 0.7, r"regularisation\.distillation_weight 0\.5, was 0\.7"),
        ("plain_epochs", 2, r"augmentation\.unaugmented_epochs 0, was 2"),
        ("draw_cap", 12, "--draw-cap 0, was 12"),
    ):
        with pytest.raises(InputError, match=message):
            CONFIG.check_resumes(FLAT | {name: value})


RESULTLESS: dict[str, dict[str, Any]] = {
    "--window 3: no effect without --order windowed": {"window": 3, "order": "full"},
    "sampling.lanes 2: no effect without --order windowed": {"lanes": 2, "order": "balanced"},
    "--draws-per-class 5: no effect without --order balanced": {"draws_per_class": 5},
    "sampling.draw_exponent 0.5: no effect without --order balanced": {"draw_exponent": 0.5, "order": "windowed"},
    "--full-size-at 0.3: no effect without --start-size": {"full_size_at": 0.3},
    "augmentation.unaugmented_epochs 1: no effect without --augment": {"unaugmented_epochs": 1, "augment": 0.0},
    "regularisation.mixup_stages 2: no effect without --mixup": {"mixup_stages": 2},
    "regularisation.distillation_weight 0.2: no effect without --teachers": {"distillation_weight": 0.2},
    "optimization.class_weight_exponent 0.5: no effect without another --order": {
        "class_weight_exponent": 0.5,
        "order": "balanced",
    },
}
NEEDED: dict[str, dict[str, Any]] = {
    "--order windowed": {"order": "windowed"},
    "--order balanced": {"order": "balanced"},
    "--start-size": {"start_size": 48},
    "--augment": {"augment": 1.0},
    "--mixup": {"mixup": 0.2},
    "--teachers": {"teachers": (Path("x"),)},
    "another --order": {"order": "full"},
}


@pytest.mark.parametrize("message", RESULTLESS)
def test_an_option_without_effect_is_named_with_the_one_that_it_needs(message: str) -> None:
    options = RESULTLESS[message]
    with pytest.raises(InputError, match=message):
        train_config(data="x", output=Path("y"), **options).check_effects()
    remedy = next(options for needed, options in NEEDED.items() if message.endswith(needed))
    train_config(data="x", output=Path("y"), **options | remedy).check_effects()


DOUBTFUL: dict[str, dict[str, Any]] = {
    "augmentation.unaugmented_epochs 2: no epoch is augmented; --augment 0 says so": {
        "unaugmented_epochs": 2,
        "epochs": 2,
    },
    "regularisation.distillation_weight 0: --teachers cost time and teach nothing": {
        "teachers": (Path("x"),),
        "distillation_weight": 0.0,
    },
    "--micro-batch 512: no effect, as --batch-size is 256; give a smaller one": {"micro_batch": 512},
}


@pytest.mark.parametrize("message", DOUBTFUL)
def test_what_is_probably_not_meant_is_warned_of_by_name(message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        train_config(data="x", output=Path("y"), **DOUBTFUL[message]).check_effects()


def test_more_unaugmented_epochs_than_epochs_are_refused() -> None:
    with pytest.raises(InputError, match=r"augmentation\.unaugmented_epochs 30: expected at most 1, which is --epochs"):
        train_config(data="x", output=Path("y"), unaugmented_epochs=30, epochs=1)
