import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure import FULL
from benchmarks.peers import probe
from benchmarks.peers.augmented import MATCHED, augment
from benchmarks.prepare import LEGACY, OURS, estimate, prepare, times
from shards import InputError
from tools.build import offline_augment as recipes
from tools.commands.combine import combine
from tools.commands.split import split

COUNT = 1_000
SAMPLE = Path(__file__).parents[2] / "sample" / "kkanji2"


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """Two characters of the sample."""
    for source in sorted(SAMPLE.iterdir())[:2]:
        shutil.copytree(source, tmp_path / "raw" / source.name)
    combine((tmp_path / "raw",), output=tmp_path / "originals")
    split(tmp_path / "originals")
    return tmp_path / "originals"


def measured(
    move: Callable[[probe.Images], probe.Images], noisy: Callable[[probe.Images], probe.Images]
) -> dict[str, float]:
    ramp = np.tile(probe.LEVEL * np.arange(64, dtype=np.uint8), (64, 1))
    across, down = (move(np.repeat(image[None], COUNT, axis=0)) for image in (ramp, ramp.T))
    return probe.statistics(across, down, noisy(np.full((COUNT, 64, 64), probe.GRAY, np.uint8)))


def test_ours_is_compared_at_the_legacy_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in the same way on both; tolerances are four standard errors of 1,000 images, or the stated misfit."""
    numbers = np.arange(COUNT)
    noisy = recipes.legacy(np.full((COUNT, 64, 64), probe.GRAY, np.uint8), 0, numbers)
    monkeypatch.setattr(recipes, "NOISE", 0.0)
    theirs = measured(lambda images: recipes.legacy(images, 0, numbers), lambda _: noisy)
    still = replace(MATCHED, noise_levels=0.0)
    ours = measured(lambda images: augment(images, still), lambda images: augment(images, MATCHED))
    for name, tolerance in (("rms_displacement_px", 0.06), ("deformation_px", 0.06), ("noise_levels", 0.04)):
        assert np.isclose(ours[name], theirs[name], rtol=tolerance), (name, ours, theirs)
    assert np.isclose(ours["mean_displacement_px"], theirs["mean_displacement_px"], rtol=0.1)
    assert np.isclose(ours["spread_of_displacement_px"], theirs["spread_of_displacement_px"], rtol=0.3)


def test_statistics_measure_what_they_say() -> None:
    """Every image shifted by 3 columns and 4 rows, noise of 10 levels."""

    def shifted(images: probe.Images) -> probe.Images:
        return np.roll(images, (4, 3), axis=(1, 2))

    def noisy(images: probe.Images) -> probe.Images:
        return np.asarray(images + np.random.default_rng(0).normal(0, 10, images.shape), np.uint8)

    found = measured(shifted, noisy)
    assert np.isclose(found["mean_displacement_px"], 5) and np.isclose(found["rms_displacement_px"], 5)
    assert found["spread_of_displacement_px"] == 0 and found["deformation_px"] == 0
    assert np.isclose(found["noise_levels"], 10, rtol=0.02)


def test_small_run_writes_everything(originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "prepare.json"
    prepare(originals, per_class=150, batch=100, repeats=2, seconds=0.05, scratch=tmp_path, output=output)
    result, printed = json.loads(output.read_text()), capsys.readouterr().out
    ours, training, legacy = result["rows"]
    assert ours["statistics"]["noise_levels"] > 10 and "statistics" not in training and training["n"] == 2
    assert ("n" in legacy) == ("statistics" in legacy) == (result["times_the_legacy"] is not None)
    assert [run["workers"] for run in result["balance"]] == [1, 2]
    for run in result["balance"]:
        assert run["train_images"] == 300 and 4096 < run["bytes_per_image"] < 5000
        assert run["peak_memory_bytes"] > 10_000_000
        assert 0 <= run["writing_seconds"] < run["seconds"]
    assert "estimate, not measured: 38,320,000 images on 208 cores" in printed
    assert not list(tmp_path.glob("kkanji-benchmark-*"))


def test_ratio_and_estimate_are_plain_arithmetic() -> None:
    ours = {"name": OURS.name, "n": 3, "lowest": 900.0, "median": 1000.0, "highest": 1100.0}
    legacy = {"name": LEGACY.name, "n": 3, "lowest": 9.0, "median": 10.0, "highest": 11.0}
    assert times([ours, legacy]) == {"median": 100, "least": 900 / 11, "most": 1100 / 9}
    assert times([ours, {"name": LEGACY.name, "skipped": "not installed"}]) is None
    guess = estimate([{"images_per_cpu_second": 10_000.0, "bytes_per_image": 4_112.0}])
    images = FULL["classes"] * FULL["images_of_a_class"]
    assert guess["is"].startswith("an estimate") and guess["images"] == images == 38_320_000
    assert np.isclose(guess["computing_seconds"], images / 10_000 / 208) and guess["bytes"] == images * 4_112
    assert guess["seconds"] == max(guess["computing_seconds"], guess["writing_seconds"])


def test_originals_without_a_split_are_refused(originals: Path, tmp_path: Path) -> None:
    (originals / "split.json").unlink()
    with pytest.raises(InputError, match=r"no split.json; expected originals with a split"):
        prepare(originals, output=tmp_path / "prepare.json")
