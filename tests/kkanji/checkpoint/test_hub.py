"""An exported model goes to the Hub and comes back, against a stand-in for the Hub's HTTP API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import ModelCard

from kkanji import checkpoint
from kkanji.checkpoint.export import export
from kkanji.checkpoint.hub import card_metadata, check_repository, push
from kkanji.checkpoint.load import load_trained
from kkanji.classes import ClassMap
from kkanji.models import create_model
from shards import InputError
from tests.faults.servers.hub import Hub

CODH = "`KMNIST Dataset` (created by CODH), doi:10.20676/00000341, CC BY-SA 4.0"
EVALUATION = {"split": "val", "images": 22_567, "top1": 0.95463, "top5": 0.9903}
EVALUATION |= {"balanced_accuracy": 0.87, "f1_weighted": 0.9518}
DATA = {"name": "Kuzushiji-Kanji", "licence": CODH}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub(token="hf_test") as server:  # noqa: S106
        for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
            value = getattr(huggingface_hub.constants, name).replace("https://huggingface.co", server.address)
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    classes, model = ClassMap.of([0x4E00, 0x4E8C, 0x4E09]), create_model("test_resnet", 3)
    at = tmp_path_factory.mktemp("model")
    saved = checkpoint.save(
        at / "checkpoints",
        1,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        state={"config": {"model": "test_resnet"}, "training_originals": [1, 2, 3]},
        classes=classes,
        best=True,
    )
    export(saved, at / "exported", card=card_metadata("test_resnet", DATA, EVALUATION, verdict="proven") + "# A model")
    return at / "exported"


def test_a_model_comes_back_as_it_went(hub: Hub, folder: Path, tmp_path: Path) -> None:
    assert push(folder, "somebody/kanji").startswith(f"{hub.address}/somebody/kanji/commit/")
    stored = hub.repositories["somebody/kanji"]
    assert (
        set(stored) == {path.name for path in folder.iterdir()} - {".kkanji-output"} and hub.private["somebody/kanji"]
    )
    network = timm.create_model("hf-hub:somebody/kanji", pretrained=True, cache_dir=tmp_path).eval()
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(network(images), load_trained(folder).eval()(images), atol=1e-5)
    (tmp_path / "copy").mkdir()
    for name, content in stored.items():
        (tmp_path / "copy" / name).write_bytes(content)
    checkpoint.check(tmp_path / "copy")


def test_the_card_has_the_hubs_metadata(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    assert card.text.strip() == "# A model" and card.data.license == "cc-by-sa-4.0"
    assert card.data.library_name == "timm" and card.data.datasets == ["kuzushiji-kanji"]
    found = {each.metric_type: each.metric_value for each in card.data.eval_results or []}
    assert found == {"accuracy": 0.95463, "top_5_accuracy": 0.9903, "balanced_accuracy": 0.87, "f1": 0.9518}
    assert (card.data.eval_results or [])[0].dataset_split == "val"


def test_no_tag_of_a_name_reaches_the_metadata() -> None:
    text = card_metadata("resnet18", {**DATA, "name": "<script>\x1b[1m"}, EVALUATION, verdict="proven")
    assert "<" not in text and "‹script›" in text and "\x1b" not in text


def test_what_was_trained_on_measures_nothing() -> None:
    def measures(verdict: str) -> str:
        text = card_metadata("resnet18", DATA, EVALUATION, verdict=verdict)
        card: Any = ModelCard(text)
        return str(card.data.to_dict().get("model-index"))

    assert measures("trained on") == "None"
    assert "not proven disjoint" in measures("unknown") and "not proven" not in measures("proven")


@pytest.mark.parametrize("name", ["kanji", "a/b/c", "some body/kanji", "../x"])
def test_names_that_the_hub_does_not_have_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"--push-to-hub .*"):
        check_repository(name)


def test_a_token_that_is_refused_is_told_with_the_remedy(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(
        InputError, match=r"--push-to-hub somebody/kanji: .*401.*; run `hf auth login`, or set HF_TOKEN"
    ):
        push(folder, "somebody/kanji")
    assert hub.repositories == {}


def test_a_hub_out_of_reach_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"--push-to-hub somebody/kanji: .*the folder is whole"):
        push(folder, "somebody/kanji")
