"""timm's own networks are trained, kept, used and exported like ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from safetensors.torch import load_file

from kkanji import checkpoint
from kkanji.checkpoint import load
from kkanji.checkpoint.export import export
from kkanji.checkpoint.lineage import originals_behind, run_lineage
from kkanji.checkpoint.load import initial_weights, load_trained
from kkanji.checkpoint.onnx_file import trial_images
from kkanji.classes import ClassMap
from kkanji.config import train_config
from kkanji.data.training_set import open_set
from kkanji.inference.predict import Predictor
from kkanji.models import compile_network, create_model, stages_of
from kkanji.pixels import normalise
from kkanji.timm_models import class_rows, load_timm_weights, require_size
from kkanji.training.trainer import train
from shards import InputError, Lineage

pytestmark = pytest.mark.filterwarnings("ignore:torch uses")  # as many threads as the tests have
# Small networks of timm's for its own tests: convolutions with batch normalisation, and a transformer of fixed size.
TAGGED = "test_resnet.r160_in1k"
SMALL = [TAGGED, "test_vit"]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights as `hf download` leaves them on a machine: of colour images, for 1,000 classes."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("cache") / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        known = {f"timm/{TAGGED}": str(path)}
        patch.setattr("kkanji.timm_models.try_to_load_from_cache", lambda repository, _name: known.get(repository))
        yield path


@pytest.fixture(scope="module", params=SMALL)
def trained(
    request: pytest.FixtureRequest, cached: Path, tiny_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint of a run with mixup, weight averages and muon, which look inside the network."""
    assert cached.is_file()
    run = tmp_path_factory.mktemp("run") / "run"
    options = {"epochs": 1, "batch_size": 54, "optimizer": "muon", "mixup": 0.2, "ema_images": 100.0, "augment": 0.0}
    train(train_config(data=str(tiny_set), output=run, model=request.param, **options), open_set(tiny_set))
    return run / "checkpoints" / "best"


def test_a_trained_one_is_loaded_exported_and_read_by_timm(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "model", card="")
    classes = checkpoint.read_classes(trained)
    images = trial_images(classes.characters)
    expected = Predictor(tmp_path / "model", torch.device("cpu")).predict(images[:, 0], 1)
    network = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    with torch.inference_mode():
        found = network(normalise(torch.from_numpy(images))).softmax(1).max(1)
    assert [classes.labels[number] for number in found.indices] == [guesses[0].label for guesses in expected]
    assert found.values.tolist() == pytest.approx([guesses[0].probability for guesses in expected], abs=1e-4)


def test_a_run_begins_with_anothers_weights(trained: Path) -> None:
    name = checkpoint.read_state(trained)["config"]["network"]["model"]
    classes = checkpoint.read_classes(trained)
    some = ClassMap.of([*classes.code_points[1:3], 0x20])
    network = create_model(name, len(some))
    initial_weights(trained, network, some)
    rows, theirs = network.state_dict()[class_rows(name)[0]], load_trained(trained).state_dict()[class_rows(name)[0]]
    at = [classes.ids[point] for point in classes.code_points[1:3]]
    assert torch.equal(rows[[some.ids[point] for point in classes.code_points[1:3]]], theirs[at])


def test_weights_that_do_not_fit_are_refused_before_they_take_memory(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's folder may name a network of billions of weights."""
    state = checkpoint.read_state(trained)
    network = state["config"]["network"]
    network["model"] = "resnet50" if network["model"] == TAGGED else "vit_small_patch16_224"
    monkeypatch.setattr(checkpoint, "read_state", lambda _path: state)
    built: list[str] = []
    make = load.network_of

    def noted(state: dict[str, Any], classes: int) -> torch.nn.Module:
        built.append(torch.get_default_device().type)
        return make(state, classes)

    monkeypatch.setattr(load, "network_of", noted)
    with pytest.raises(InputError, match=r"do not fit this model|weights for 0 classes"):
        load_trained(trained)
    assert set(built) <= {"meta"}


@pytest.mark.parametrize(
    "name",
    ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"],
)
def test_known_networks_take_gray_images_of_64(name: str) -> None:
    network = create_model(name, 7)
    assert network(torch.rand(2, 1, 64, 64)).shape == (2, 7)
    assert network(torch.rand(2, 1, 64, 64), torch.tensor([0.5])).shape == (2, 7)


def test_gray_is_repeated_where_a_network_insists_on_colour() -> None:
    network = create_model("csatv2", 3).eval()
    gray = torch.rand(1, 1, 64, 64)
    colour = timm.create_model("csatv2", num_classes=3).eval()
    colour.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.allclose(network(gray), colour(gray.expand(-1, 3, -1, -1)), atol=1e-6)


def test_mixup_mixes_the_images() -> None:
    network = create_model("test_resnet", 5).eval()
    images = torch.rand(4, 1, 64, 64)
    with torch.inference_mode():
        found = network(images, torch.tensor([0.25]))
        expected = network(0.25 * images + 0.75 * images.flip(0))
    assert torch.allclose(found, expected, atol=1e-5)


def test_it_compiles_to_one_graph_for_any_number_of_images() -> None:
    network = create_model("test_resnet", 5).eval()
    compile_network(network, backend="eager")
    with torch.inference_mode():
        assert [len(network(torch.rand(count, 1, 64, 64))) for count in (2, 3, 5)] == [2, 3, 5]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("resnet81", {}, r"resnet81: no such network; .*of a name like it: .*resnet18"),
        ("local-dir:somewhere", {}, "no such network"),
        ("inception_v3", {}, "inception_v3: does not work on gray images of 64x64: .*choose another, such as resnet18"),
        ("resnet18", {"head": "cosine"}, "--head cosine: only networks of kkanji have it"),
        ("vgg11", {"drop_path": 0.1}, "regularisation.drop_path 0.1: vgg11 has no such blocks"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        create_model(name, 3, **options)  # type: ignore[arg-type]


def test_stages_and_sizes_that_a_network_lacks_are_refused() -> None:
    with pytest.raises(InputError, match=r"regularisation\.mixup_stages 1: only networks of kkanji"):
        stages_of(create_model("test_resnet", 3), needed=1)
    require_size(create_model("test_resnet", 3), 32)
    with pytest.raises(InputError, match="--start-size 32: the network works on 64 only"):
        require_size(create_model("vit_tiny_patch16_224", 3), 32)


def test_a_tag_begins_with_timms_weights(cached: Path) -> None:
    network, stored = create_model(TAGGED, 3), load_file(cached)
    before = network.state_dict()["fc.weight"].clone()
    load_timm_weights(network, TAGGED)
    found = network.state_dict()
    assert torch.allclose(found["conv1.0.weight"], stored["conv1.0.weight"].sum(1, keepdim=True), atol=1e-6)
    assert torch.equal(found["layer1.0.conv1.weight"], stored["layer1.0.conv1.weight"])
    assert torch.equal(found["fc.weight"], before)


def test_a_run_begins_with_the_weights_of_its_tag_and_their_lineage(
    trained: Path, cached: Path, tiny_set: Path
) -> None:
    """What timm's weights were trained on is unknown, so no evaluation is proven to be of other images."""
    config = checkpoint.read_state(trained)["config"]
    found = run_lineage(config, open_set(tiny_set).manifest)
    if config["network"]["model"] != TAGGED:
        assert found.lineage == Lineage.KNOWN and len(originals_behind(trained)) == 108
        return
    assert found.lineage == Lineage.UNKNOWN and TAGGED in found.reason
    with pytest.raises(InputError, match="training images are not known"):
        originals_behind(trained)
    # Two steps leave the weights close to where they began; random ones are elsewhere.
    files = (trained / checkpoint.MODEL, cached)
    own, stored = (load_file(path)["layer1.0.conv1.weight"].flatten() for path in files)
    assert torch.corrcoef(torch.stack([own, stored]))[0, 1] > 0.9


def test_weights_that_are_not_here_are_named_with_the_command_that_fetches_them() -> None:
    network = create_model("resnet18", 3)
    with pytest.raises(InputError, match=r"fetch them once by `hf download timm/resnet18.a1_in1k model.safetensors`"):
        load_timm_weights(network, "resnet18.a1_in1k")
    with pytest.raises(InputError, match=r"resnet18.best: no such weights; expected one of the tags: .*a1_in1k"):
        load_timm_weights(network, "resnet18.best")
