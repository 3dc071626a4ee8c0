"""Networks for 64x64 gray characters, registered with timm: `timm.create_model("kkanji_efficientnet_b0", ...)`.

Two families, both built of timm's EfficientNet blocks, both with squeeze-excitation and one input channel:

- `kkanji_efficientnet_b0` ... `b7`: EfficientNet (Tan and Le, ICML 2019, table 1 and section 3.3) with its compound
  scaling, widths rounded to multiples of 8 and depths rounded up. One change for 64 px: the sixth stage keeps its
  resolution, so the last map is 4x4; at stride 2 it would be 2x2, too coarse to tell strokes apart.
- `kkanji_efficientnet_fused_s`: our own for 64 px, early stages fused as in EfficientNetV2 (Tan and Le, ICML 2021,
  section 3.2): dense 3x3 convolutions keep a CPU's or a GPU's arithmetic units busy where depthwise ones wait for
  memory. It has a small head, since a classifier over 3,832 classes costs most of the parameters.
- `kkanji_efficientnet_fused_m`: the same idea throughout. No depthwise convolution, and most of the work on 8x8 maps of
  128 channels: 2.5 times the multiply-adds of `fused_s` in less than twice its time. Its weights for Kuzushiji-Kanji
  come with the package: `timm.create_model("kkanji_efficientnet_fused_m", pretrained=True)`.

Each of these takes `head="cosine"` for a classifier by angles. `create_model` also makes timm's own networks.
"""

from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from timm import create_model as create_timm_model
from timm.models import build_model_with_cfg, generate_default_cfgs, list_models, register_model
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from kkanji.classes import read_class_map
from kkanji.config import Head
from kkanji.pretrained import KUZUSHIJI_KANJI
from kkanji.timm_models import CharacterNetwork, create_timm_network, mixed, preparation, timm_arguments
from shards.errors import InputError
from shards.format.layout import IMAGE_SIZE

B_STAGES = (
    "ds_r1_k3_s1_e1_c16_se0.25",
    "ir_r2_k3_s2_e6_c24_se0.25",
    "ir_r2_k5_s2_e6_c40_se0.25",
    "ir_r3_k3_s2_e6_c80_se0.25",
    "ir_r3_k5_s1_e6_c112_se0.25",
    "ir_r4_k5_s1_e6_c192_se0.25",
    "ir_r1_k3_s1_e6_c320_se0.25",
)
FUSED_S_STAGES = (
    "er_r1_k3_s2_e4_c32",
    "er_r2_k3_s2_e4_c64",
    "er_r3_k3_s2_e3_c128",
    "ir_r3_k3_s1_e4_c160_se0.25",
)
FUSED_M_STAGES = (
    "er_r2_k3_s2_e2_c64",
    "er_r4_k3_s2_e2_c128",
    "er_r3_k3_s2_e2_c192_se0.25",
)
# Width, depth and dropout of b0-b7: the authors' published factors (paper, section 3.3, and their reference code).
SCALES = {
    "b0": (1.0, 1.0, 0.2),
    "b1": (1.0, 1.1, 0.2),
    "b2": (1.1, 1.2, 0.3),
    "b3": (1.2, 1.4, 0.3),
    "b4": (1.4, 1.8, 0.4),
    "b5": (1.6, 2.2, 0.4),
    "b6": (1.8, 2.6, 0.5),
    "b7": (2.0, 3.1, 0.5),
}
# Graphs of a compiled network: images of eight sizes, many or one; the same to evaluate, at the last size.
MOST_GRAPHS = 18
# Of a network's timm configuration: what does not depend on where its weights came from.
TIMM_FIELDS = frozenset(
    {*("input_size", "fixed_input_size", "pool_size", "first_conv", "classifier", "mean", "std", "interpolation")}
    | {"crop_pct", "crop_mode"}
)
COSINE_SCALE = 20.0  # of the logits at first; it is learned. Cosines alone could not tell 3,832 classes apart


class CosineClassifier(nn.Module):
    """Logits by the angle to each class's direction, whatever the lengths: rare classes keep up with frequent ones.

    L2-softmax: Wang et al., NormFace, ACM Multimedia 2017, section 3.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features) / features**0.5)
        self.scale = nn.Parameter(torch.tensor(COSINE_SCALE))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, F] to logits [B, C]."""
        return linear(normalize(features) * self.scale, normalize(self.weight))


class Network(CharacterNetwork, EfficientNet):  # type: ignore[misc]  # timm's carries no types
    """timm's EfficientNet with a choice of classifier, and with mixup inside."""

    conv_stem: nn.Module
    bn1: nn.Module
    blocks: nn.Sequential
    conv_head: nn.Module
    bn2: nn.Module
    classifier: nn.Module

    def __init__(self, *args: Any, head: Head = "linear", **kwargs: Any) -> None:
        if head not in get_args(Head):
            raise ValueError(f"head={head!r}; expected one of {get_args(Head)}")
        super().__init__(*args, **kwargs)
        if head == "cosine" and isinstance(self.classifier, nn.Linear):
            self.classifier = CosineClassifier(self.classifier.in_features, self.classifier.out_features)
        for module in self.modules():
            if isinstance(module, nn.SiLU):
                module.inplace = False  # its gradient needs its input, which autograd would copy first

    def forward(self, images: Tensor, fractions: Tensor | None = None) -> Tensor:
        """Logits [B, C] of normalised images [B, 1, s, s].

        fractions: float32 [1 + n] for mixup; the images and the outputs of the first n stages are mixed by one each, as
        in `mixed`. They are an input, not a hook, as a compiled network does not see a hook that comes later.
        """
        if fractions is None:
            logits: Tensor = super().forward(images)
            return logits
        return self._mixed_forward(images, fractions)

    def _mixed_forward(self, images: Tensor, fractions: Tensor) -> Tensor:
        maps = self.bn1(self.conv_stem(mixed(images, fractions[0])))
        for number, stage in enumerate(self.blocks, start=1):
            maps = stage(maps)
            if number < len(fractions):
                maps = mixed(maps, fractions[number])
        logits: Tensor = EfficientNet.forward_head(self, self.bn2(self.conv_head(maps)))
        return logits


def compile_network(network: nn.Module, backend: str = "inductor") -> None:
    """Compile a network in place, before DDP wraps it: Accelerate itself would compile the wrapper.

    There is a graph for each size of image, but not for each number of images (`Network.__call__`). More than
    MOST_GRAPHS, or code that no graph can hold, are errors: by default torch goes on uncompiled without a word.
    """
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    network.compile(backend=backend, dynamic=False, fullgraph=True)


class EfficientNetFactory:
    """The networks by the names that the legacy project's users know."""

    @staticmethod
    def create(variant: str, num_classes: int) -> nn.Module:
        """An EfficientNet, `b0` to `b7`. Raises InputError for any other."""
        return create_model(f"kkanji_efficientnet_{variant}", num_classes)

    @staticmethod
    def get_input_size(variant: str) -> int:
        """Pixels a side of its images: the same for all. Raises InputError for a variant that there is not."""
        if variant not in SCALES:
            raise InputError(f"{variant}: no such variant; there are: {', '.join(SCALES)}")
        return IMAGE_SIZE


def create_model(name: str, classes: int, head: Head = "linear", *, drop_path: float | None = None) -> nn.Module:
    """A network of ours or of timm's by its name, with random weights, for normalised images [B, 1, s, s].

    drop_path: Fraction of images that skip the last residual block; None keeps the network's default. Raises InputError
    if there is no such network, if it does not work on images of 64x64, or lacks what is asked of it.
    """
    chosen = {} if drop_path is None else {"drop_path_rate": drop_path}
    if is_ours(name):
        model: nn.Module = create_timm_model(name, num_classes=classes, head=head, **chosen)
        return model
    if head != "linear":
        raise InputError(f"--head {head}: only networks of kkanji have it, --model is {name}; leave it out")
    try:
        return create_timm_network(name, classes, **chosen)
    except TypeError as error:
        raise InputError(
            f"regularisation.drop_path {drop_path}: {name} has no such blocks ({error}); leave it out"
        ) from error


def timm_config(model: nn.Module, name: str, head: Head) -> dict[str, Any]:
    """What a `config.json` tells timm of a network, so that it makes the same one and prepares images alike."""
    pretrained: Any = model.pretrained_cfg
    prepared = pretrained | preparation(channels=getattr(model, "in_chans", 1))
    fields = TIMM_FIELDS if is_ours(name) else TIMM_FIELDS - {"pool_size"}  # timm's is that of larger images
    return {
        "architecture": pretrained["architecture"],
        "model_args": {"head": head} if is_ours(name) else timm_arguments(name),
        "pretrained_cfg": {field: prepared[field] for field in sorted(fields) if field in prepared},
    }


def is_ours(name: str) -> bool:
    """Whether a network is one of kkanji's own."""
    return name in list_models("kkanji*")


def stages_of(model: nn.Module, needed: int = 0) -> nn.Sequential:
    """A network's stages. Raises InputError if it has fewer than are needed."""
    if needed and not isinstance(model, Network):
        found = f"regularisation.mixup_stages {needed}: only networks of kkanji mix inside"
        raise InputError(f"{found}; leave it out to mix images")
    stages = model.blocks if isinstance(model, Network) else nn.Sequential()
    if len(stages) < needed:
        raise InputError(f"regularisation.mixup_stages {needed}: the network has {len(stages)}")
    return stages


def _default_cfg(last_map: int) -> dict[str, Any]:
    return preparation(channels=1) | {
        "num_classes": 1000,
        "pool_size": (last_map, last_map),
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "license": "mit",
    }


def _trained_cfg(folder: Path) -> dict[str, Any]:
    """Of weights in a folder that `kkanji export` wrote."""
    classes = len(read_class_map(folder))
    file = str(folder / "model.safetensors")
    return _default_cfg(4) | {"file": file, "num_classes": classes, "license": "cc-by-sa-4.0"}


default_cfgs = generate_default_cfgs(
    {
        **{f"kkanji_efficientnet_{variant}.untrained": _default_cfg(4) for variant in SCALES},
        "kkanji_efficientnet_fused_s.untrained": _default_cfg(4),
        "kkanji_efficientnet_fused_m.kuzushiji_kanji": _trained_cfg(KUZUSHIJI_KANJI),
    }
)


def _build(
    variant: str, stages: tuple[str, ...], *, stem: int, features: int, width: float, depth: float, **kwargs: Any
) -> nn.Module:
    """One network; kwargs are timm's own (num_classes, drop_rate, pretrained, features_only ...) and head."""
    rounded = partial(round_channels, multiplier=width)
    if kwargs.get("features_only"):
        kwargs.setdefault("out_indices", (0, 1, 2, 3))  # four reductions: 2, 4, 8, 16
    model: nn.Module = build_model_with_cfg(
        Network,
        variant,
        kwargs.pop("pretrained", False),
        feature_cfg={"flatten_sequential": True},
        block_args=decode_arch_def([[stage] for stage in stages], depth),
        in_chans=kwargs.pop("in_chans", 1),
        stem_size=stem,
        num_features=rounded(features),
        round_chs_fn=rounded,
        act_layer=nn.SiLU,
        **kwargs,
    )
    return model


def _scaled(variant: str, kwargs: dict[str, Any]) -> nn.Module:
    width, depth, dropout = SCALES[variant]
    kwargs = {"drop_rate": dropout, "drop_path_rate": 0.2} | kwargs
    return _build(
        f"kkanji_efficientnet_{variant}", B_STAGES, stem=32, features=1280, width=width, depth=depth, **kwargs
    )


@register_model
def kkanji_efficientnet_b0(**kwargs: Any) -> nn.Module:
    """EfficientNet-B0 for 64x64 gray images."""
    return _scaled("b0", kwargs)


@register_model
def kkanji_efficientnet_b1(**kwargs: Any) -> nn.Module:
    """EfficientNet-B1 for 64x64 gray images."""
    return _scaled("b1", kwargs)


@register_model
def kkanji_efficientnet_b2(**kwargs: Any) -> nn.Module:
    """EfficientNet-B2 for 64x64 gray images."""
    return _scaled("b2", kwargs)


@register_model
def kkanji_efficientnet_b3(**kwargs: Any) -> nn.Module:
    """EfficientNet-B3 for 64x64 gray images."""
    return _scaled("b3", kwargs)


@register_model
def kkanji_efficientnet_b4(**kwargs: Any) -> nn.Module:
    """EfficientNet-B4 for 64x64 gray images."""
    return _scaled("b4", kwargs)


@register_model
def kkanji_efficientnet_b5(**kwargs: Any) -> nn.Module:
    """EfficientNet-B5 for 64x64 gray images."""
    return _scaled("b5", kwargs)


@register_model
def kkanji_efficientnet_b6(**kwargs: Any) -> nn.Module:
    """EfficientNet-B6 for 64x64 gray images."""
    return _scaled("b6", kwargs)


@register_model
def kkanji_efficientnet_b7(**kwargs: Any) -> nn.Module:
    """EfficientNet-B7 for 64x64 gray images."""
    return _scaled("b7", kwargs)


@register_model
def kkanji_efficientnet_fused_s(**kwargs: Any) -> nn.Module:
    """A small network with fused early stages, designed for 64 px characters."""
    kwargs = {"drop_rate": 0.2, "drop_path_rate": 0.05} | kwargs
    name = "kkanji_efficientnet_fused_s"
    return _build(name, FUSED_S_STAGES, stem=24, features=640, width=1.0, depth=1.0, **kwargs)


@register_model
def kkanji_efficientnet_fused_m(**kwargs: Any) -> nn.Module:
    """A middle-sized network fused in all its stages, designed for 64 px characters."""
    kwargs = {"drop_rate": 0.2, "drop_path_rate": 0.1} | kwargs
    name = "kkanji_efficientnet_fused_m"
    return _build(name, FUSED_M_STAGES, stem=24, features=512, width=1.0, depth=1.0, **kwargs)
