import re
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.train.train import train
from benchmarks.train.verdict import Rates, verdict
from kkanji.config import GROUP_OF

FED = Rates(alone=1000, cached=998, fed=990, loader=20_000, waited=0.002, separate=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "The model limits: fed by the loader it runs at 99% of its rate without one."),
        ({"waited": 0.4}, "The model limits"),  # a host that runs ahead of its GPU waits without harm
        ({"fed": 1010.0}, "The model limits: fed by the loader it runs at 101%"),
        ({"cached": 700.0, "fed": 690.0}, "The way to the device limits: copying takes 30% of the time; without that"),
        ({"cached": 700.0, "fed": 690.0, "separate": False}, "The model and the loader share what limits"),
        ({"fed": 600.0, "waited": 0.39, "loader": 620.0}, "The loader limits: 39% of the time is waiting for it"),
        ({"fed": 600.0, "waited": 0.39, "shards_ahead": 3.0}, "The loader limits"),
        ({"fed": 600.0, "waited": 0.39, "shards_ahead": 0.0}, "The storage limits: 39% of the time is waiting"),
        ({"fed": 800.0, "waited": 0.01}, "The model and the loader share what limits: the loader costs 20% of the"),
    ],
)
def test_the_stage_that_limits_is_named(changed: dict[str, Any], words: str) -> None:
    assert verdict(replace(FED, **changed)).startswith(words)


def test_what_a_better_stage_could_give_is_reported() -> None:
    assert "1.67 times as fast" in verdict(replace(FED, fed=600, waited=0.39))
    assert "The loader by itself brings 20 times" in verdict(FED)
    assert "The loader by itself brings 0.6 times" in verdict(replace(FED, fed=600, waited=0.39, loader=620))


def test_a_difference_within_the_noise_is_called_so() -> None:
    assert "quiet" not in verdict(FED)
    assert verdict(replace(FED, spread=0.2)).endswith(
        "Measurements of what should be the same differ by up to 20%, what is lost is 1%: repeat on a quiet machine."
    )
    assert "quiet" not in verdict(replace(FED, fed=600, waited=0.39, spread=0.2))
    assert "differ by up to 20%" in verdict(replace(FED, fed=1200))


@given(*[st.floats(1, 1e6)] * 3, st.booleans())
def test_what_is_lost_is_lost_in_copying_or_in_loading(alone: float, cached: float, fed: float, separate: bool) -> None:
    cached, fed = min(alone, cached), min(alone, cached, fed)
    rates = Rates(alone=alone, cached=cached, fed=fed, loader=1.0, waited=0.0, separate=separate)
    assert rates.copying + rates.loading == pytest.approx(rates.lost, abs=1e-9)


GUIDE = (Path(__file__).parents[3] / "docs" / "starved.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"cached": 700.0, "fed": 690.0},
        {"fed": 600.0, "waited": 0.39},
        {"fed": 600.0, "waited": 0.39, "shards_ahead": 0.0},
        {"fed": 800.0, "waited": 0.01},
    ],
)
def test_the_guide_has_a_chapter_for_each_verdict(changed: dict[str, Any]) -> None:
    assert f"\n### {verdict(replace(FED, **changed)).split(':')[0]}\n" in GUIDE


def test_options_in_the_guide_are_there() -> None:
    known = {*GROUP_OF, *signature(train).parameters}
    of_others = {"compression", "config_file"}  # tools convert, accelerate launch
    named = {name.replace("-", "_") for name in re.findall(r"--([a-z][\w-]*)", GUIDE)}
    assert named and named <= known | of_others
