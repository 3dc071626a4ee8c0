"""timm's own networks for 64x64 gray characters: `--model resnet18`, `convnext_atto`, `vit_tiny_patch16_224` ...

A name with a tag, such as `resnet18.a1_in1k`, also means weights of timm's, if they are on this machine.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from kkanji.pixels import MEAN, STD
from shards.errors import InputError
from shards.format.layout import IMAGE_SIZE

WEIGHTS = "model.safetensors"  # of a repository of timm's; other files of weights are pickles
SHOWN = 160  # characters of another program's message that ours quotes
# What timm's networks raise, by family, when they are made or called in a way that they do not know.
PROBLEMS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError, KeyError, AttributeError)


class CharacterNetwork(nn.Module):
    """What kkanji asks of a network, before the timm class that it is mixed into."""

    def __call__(self, images: Tensor, fractions: Tensor | None = None) -> Tensor:
        """As `forward`, in one compiled graph for any number of images above 1, if the network is compiled."""
        if self._compiled_call_impl is not None and len(images) > 1:
            torch._dynamo.maybe_mark_dynamic(images, 0)  # without "maybe", a compiler that cannot ends the run
        logits: Tensor = super().__call__(images, fractions)
        return logits


class GrayNetwork(CharacterNetwork):
    """A network of timm's that takes gray images, and fractions for mixup."""

    channels_wanted: int
    """Channels of its images; gray ones are repeated."""

    def forward(self, images: Tensor, fractions: Tensor | None = None) -> Tensor:
        """Logits [B, C] of normalised images [B, 1, s, s].

        fractions: float32 [1], of each image in its mixture with the one opposite in the batch.
        """
        if fractions is not None:
            images = mixed(images, fractions[0])
        logits: Tensor = super().forward(images.expand(-1, self.channels_wanted, -1, -1))
        return logits


def mixed(values: Tensor, fraction: Tensor) -> Tensor:
    """Values [B, ...], each mixed with the one opposite in the batch, so that none leaves its device.

    fraction: float32 [], of a value itself in its mixture; 1 changes nothing.
    """
    return torch.lerp(values.flip(0), values, fraction.to(values.dtype))


def preparation(channels: int) -> dict[str, Any]:
    """What timm records of a network's images, for its own transforms: white ink on black, as `kkanji.pixels` has it.

    timm cannot pad narrow images with black: "border" pads with the mean gray, "center" cuts, "squash" distorts. Of 240
    narrow crops, 34-56 %, 23-40 % and 61-65 % had the same prediction as ours.
    """
    return {
        "input_size": (channels, IMAGE_SIZE, IMAGE_SIZE),
        "mean": (MEAN / 255,) * channels,
        "std": (STD / 255,) * channels,
        "interpolation": "lanczos",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }


def create_timm_network(name: str, classes: int, **chosen: Any) -> nn.Module:
    """A network of timm's with random weights, for normalised images [B, 1, s, s]. chosen: further arguments of timm's.

    Raises InputError if there is no such network, or if it does not work on images of 64x64.
    """
    arguments = timm_arguments(name)
    network: nn.Module = timm.create_model(architecture_of(name), num_classes=classes, **arguments, **chosen)
    return _gray(network, arguments["in_chans"])


def architecture_of(name: str) -> str:
    """A network's name without the tag of weights: `resnet18` of `resnet18.a1_in1k`."""
    return name.partition(".")[0]


def has_weights(name: str) -> bool:
    """Whether a name asks for weights of timm's, by a tag."""
    return "." in name


def timm_arguments(name: str) -> dict[str, Any]:
    """Arguments with which timm makes a network for 64x64 gray images; raises as `create_timm_network`."""
    architecture = architecture_of(name)
    if not timm.is_model(architecture):
        near = ", ".join(get_close_matches(architecture, timm.list_models(), n=4)) or "none"
        raise InputError(
            f"--model {name[:SHOWN]}: no such network; expected one of ours, kkanji_efficientnet_b0 to b7, fused_s or "
            f"fused_m, or one of timm's {len(timm.list_models())}; of a name like it: {near}"
        )
    return dict(_working_arguments(architecture))


@cache
def _working_arguments(architecture: str) -> Mapping[str, Any]:
    """Some families are made for a size, some take three channels only: what works is found without memory."""
    size, problem = {"img_size": IMAGE_SIZE}, ""
    for arguments in ({"in_chans": 1} | size, {"in_chans": 1}, {"in_chans": 3} | size, {"in_chans": 3}):
        try:
            with torch.device("meta"), warnings.catch_warnings(action="ignore"):
                network = _gray(timm.create_model(architecture, num_classes=2, **arguments), arguments["in_chans"])
            _try(network, IMAGE_SIZE)
        except PROBLEMS as error:
            problem = str(error)
        else:
            return arguments
    raise InputError(
        f"--model {architecture}: does not work on gray images of {IMAGE_SIZE}x{IMAGE_SIZE}: {problem[:SHOWN]!r}; "
        "choose another, such as resnet18 or convnext_atto"
    )


def _gray(network: nn.Module, channels: int) -> nn.Module:
    """The network as one of a class that is both timm's and GrayNetwork: its weights keep timm's names."""
    kind = type(network)
    network.__class__ = type(kind.__name__, (GrayNetwork, kind), {"channels_wanted": channels})
    return network


def require_size(network: nn.Module, side: int) -> None:
    """Raises InputError if a network does not work on images of a size: some are made for one size only."""
    try:
        _try(copy.deepcopy(network).to("meta"), side)
    except PROBLEMS as error:
        raise InputError(
            f"--start-size {side}: the network works on {IMAGE_SIZE} only: {str(error)[:SHOWN]!r}; leave it out"
        ) from error


def _try(network: nn.Module, side: int) -> None:
    """Raises one of PROBLEMS if a network, without memory, does not make logits of images of a size."""
    with torch.inference_mode():
        logits = network.eval()(torch.zeros(2, 1, side, side, device="meta"))
    if logits.ndim != 2:
        raise ValueError(f"an output of shape {list(logits.shape)}, expected [images, classes]")


def class_rows(network: str) -> tuple[str, ...]:
    """The names of a network's weights with a row for each class, without building it."""
    config = timm.get_pretrained_cfg(architecture_of(network), allow_unregistered=True)
    return _rows(config.classifier if config else None)


def class_rows_of(network: nn.Module) -> tuple[str, ...]:
    """As `class_rows`, of a network that there is."""
    config: Any = getattr(network, "pretrained_cfg", {})
    return _rows(config.get("classifier"))


def _rows(classifier: str | Sequence[str] | None) -> tuple[str, ...]:
    layers = (classifier or "classifier",) if classifier is None or isinstance(classifier, str) else classifier
    return tuple(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))


def load_timm_weights(network: nn.Module, name: str) -> None:
    """Fill a network with timm's weights of a name with a tag, from this machine; the classifier stays as it is.

    Raises InputError if they are not here, naming the command that fetches them.
    """
    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.models.is_model_pretrained(name) else None
    repository = config.hf_hub_id if config else None
    if not repository:
        tags = ", ".join(each.partition(".")[2] for each in timm.list_pretrained(f"{architecture_of(name)}.*"))
        raise InputError(f"--model {name[:SHOWN]}: no such weights; expected one of the tags: {tags[:SHOWN]}")
    file = try_to_load_from_cache(repository, WEIGHTS)
    if not isinstance(file, str):
        raise InputError(
            f"--model {name}: its weights are not on this machine; fetch them once by `hf download {repository} "
            f"{WEIGHTS}`, or leave out .{name.partition('.')[2]} to begin with random weights"
        )
    rows = set(class_rows(name))
    given = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": file}, num_classes=2, **timm_arguments(name)
    ).state_dict()
    network.load_state_dict({key: value for key, value in given.items() if key not in rows}, strict=False)
