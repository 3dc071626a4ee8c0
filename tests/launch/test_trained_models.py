"""The models in the repository: whole, small, licensed, and reading real images as well as their cards say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kkanji import checkpoint
from kkanji.checkpoint.lineage import proven_disjoint
from kkanji.inference.predict import Predictor
from kkanji.neighbours.made import make
from tests.launch.commands import ROOT
from tests.making import SAMPLE
from tools.commands.split import split
from tools.ingest.originals import read_originals, read_split

MODELS = ROOT / "models"
EVERYTHING, EVALUATED = MODELS / "kuzushiji-kanji", MODELS / "kuzushiji-kanji-evaluated"
HALF = MODELS / "kuzushiji-kanji-half"
LARGEST = 14_000_000  # bytes


@pytest.mark.parametrize("folder", [EVERYTHING, EVALUATED, HALF], ids=lambda folder: folder.name)
def test_a_model_is_whole_small_and_licensed(folder: Path) -> None:
    checkpoint.check(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < LARGEST
    assert len(checkpoint.read_classes(folder)) == 3_832
    state, facts = checkpoint.read_state(folder), json.loads((folder / "config.json").read_text())
    assert facts["architecture"] == state["config"]["model"] and facts["num_classes"] == 3_832
    assert "doi:10.20676/00000341, CC BY-SA 4.0" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_one_for_use_learned_from_all_that_the_evaluated_one_did() -> None:
    everything, part = (set(checkpoint.read_originals(folder)) for folder in (EVERYTHING, EVALUATED))
    assert part < everything and len(everything) > 113_771


@pytest.mark.parametrize(("kind", "reason"), [("noise", "no writing"), ("a page", "more than one character")])
def test_the_one_for_use_says_what_it_does_not_know(kind: str, reason: str) -> None:
    characters = np.stack([np.asarray(Image.open(min(folder.iterdir()))) for folder in sorted(SAMPLE.iterdir())[::8]])
    found = Predictor(EVERYTHING, torch.device("cpu")).judged(make(characters, kind, 10, seed=7), 1)
    assert [each.doubt for each in found].count(reason) >= 8


@pytest.mark.real_data
def test_the_evaluated_one_reads_images_that_it_never_saw(real_originals: Path) -> None:
    """A thousand of the validation split's, as well as its card says of all, to 3.5 standard errors."""
    split(real_originals, val=0.2)
    originals = read_originals(real_originals)
    rows = read_split(originals).rows("val")
    ids = originals.ids[rows]
    assert proven_disjoint(EVALUATED, ids) and not proven_disjoint(EVERYTHING, ids)
    chosen = np.sort(np.random.default_rng(0).choice(rows, 1_000, replace=False))
    model = Predictor(EVALUATED, torch.device("cpu"))
    assert model.classes == originals.classes
    read = [guesses[0].label for guesses in model.predict(originals.images[chosen], 1)]
    expected = [model.classes.labels[number] for number in originals.labels[chosen]]
    top1 = np.mean([one == other for one, other in zip(read, expected, strict=True)])
    stated = re.search(r"top-1 ([\d.]+)%", (EVALUATED / "README.md").read_text(encoding="utf-8"))
    assert stated and abs(float(stated[1]) / 100 - top1) < 0.025
