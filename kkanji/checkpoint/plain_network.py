"""The networks with trained weights in plain torch, to predict with: timm's results without timm.

timm imports torchvision, which imports torch's compiler: half of the time from the command to its first prediction. All
that is needed of it is the order of the layers. The rest stands in the weights: a block has the layers that it has
weights of, and their shapes are the weights' shapes. Only strides do not show.
"""

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, linear, normalize, silu

# Strides of the first blocks of the stages, and sha256 of the names and shapes of all weights below the classifier.
# A test makes both of timm's networks.
NETWORKS = {
    "kkanji_efficientnet_fused_m": ((2, 2, 2), "4dbc45aa8d4082a8094290625c8ab6dc6624dac309baf8995b6916198ef50723"),
    "kkanji_efficientnet_fused_s": ((2, 2, 2, 1), "b1f89468ae1fc20937a554920d586e5705f6fb2067007abc5d971665d15512a7"),
}
STEM_STRIDE = 2
EPSILON = 1e-5  # of batch normalization
HEADS = {"linear": {"weight": 2, "bias": 1}, "cosine": {"weight": 2, "scale": 0}}  # dimensions of the classifier


def can_build(name: str, head: str, weights: Mapping[str, Tensor], classes: int) -> bool:
    """Whether these are all weights of a network in NETWORKS, and no others."""
    if name not in NETWORKS or fingerprint(weights) != NETWORKS[name][1]:
        return False
    last = {key.partition(".")[2]: value for key, value in weights.items() if key.startswith("classifier.")}
    features = len(weights["conv_head.weight"])
    shapes = {(classes, features), (classes,), ()}
    return {key: value.ndim for key, value in last.items()} == HEADS.get(head) and all(
        tuple(value.shape) in shapes for value in last.values()
    )


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """sha256 of the names and shapes of all weights below the classifier."""
    shapes = sorted((key, tuple(value.shape)) for key, value in weights.items() if not key.startswith("classifier."))
    return hashlib.sha256(repr(shapes).encode()).hexdigest()


class PlainNetwork(nn.Module):
    """One of NETWORKS, with those of timm's methods that predicting needs. It cannot be trained."""

    def __init__(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """weights: as `can_build` has approved them."""
        super().__init__()
        self._strides = NETWORKS[name][0]
        for key, value in weights.items():
            self.register_buffer(_attribute(key), value.float() if value.is_floating_point() else value)
        self._blocks = sorted({tuple(map(int, key.split(".")[1:3])) for key in weights if key.startswith("blocks.")})
        self.classifier = Classifier(weights)
        self.num_features = len(weights["conv_head.weight"])

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of normalised images [B, 1, s, s]."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps [B, D, h, w]."""
        maps = silu(self._norm("bn1", self._conv("conv_stem", images, STEM_STRIDE)))
        for stage, number in self._blocks:
            maps = self._block(f"blocks.{stage}.{number}.", maps, self._strides[stage] if number == 0 else 1)
        return silu(self._norm("bn2", self._conv("conv_head", maps)))

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, or before that what the classifier gets, [B, D]."""
        features = adaptive_avg_pool2d(maps, 1).flatten(1)
        logits: Tensor = features if pre_logits else self.classifier(features)
        return logits

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.classifier

    def _weight(self, key: str) -> Tensor | None:
        return self._buffers.get(_attribute(key))

    def _block(self, at: str, maps: Tensor, stride: int) -> Tensor:
        """A residual block: convolutions, each with batch normalization, all but the last with an activation."""
        names = [name for name in ("conv_exp", "conv_pw", "conv_dw") if self._weight(f"{at}{name}.weight") is not None]
        inside = maps
        for number, name in enumerate(names, start=1):
            inside = self._conv(at + name, inside, stride if name in ("conv_exp", "conv_dw") else 1)
            inside = silu(self._norm(f"{at}bn{number}", inside))
        if self._weight(f"{at}se.conv_reduce.weight") is not None:
            squeezed = silu(self._conv(f"{at}se.conv_reduce", inside.mean((2, 3), keepdim=True)))
            inside = inside * self._conv(f"{at}se.conv_expand", squeezed).sigmoid()
        inside = self._norm(f"{at}bn{len(names) + 1}", self._conv(f"{at}conv_pwl", inside))
        return inside + maps if inside.shape == maps.shape else inside

    def _conv(self, name: str, maps: Tensor, stride: int = 1) -> Tensor:
        """A convolution with the padding that keeps the size; of each map by itself if its weights are for one."""
        weight: Tensor = self.get_buffer(_attribute(f"{name}.weight"))
        groups = len(weight) if weight.shape[1] == 1 and maps.shape[1] == len(weight) else 1
        return conv2d(maps, weight, self._weight(f"{name}.bias"), stride, weight.shape[2] // 2, 1, groups)

    def _norm(self, name: str, maps: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (self.get_buffer(_attribute(f"{name}.{part}")) for part in parts)
        return batch_norm(maps, mean, variance, scale, shift, training=False, eps=EPSILON)


class Classifier(nn.Module):
    """The last layer: linear, or by angles if it has a scale (`kkanji.models.CosineClassifier`)."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in ("weight", "bias", "scale"):
            value = weights.get(f"classifier.{name}")
            self.register_buffer(name, None if value is None else value.float())

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] to logits [B, C]."""
        if self.scale is None:
            return linear(features, self.weight, self.bias)
        return linear(normalize(features) * self.scale, normalize(self.weight))


def _attribute(key: str) -> str:
    """A name without dots, which buffers must not have."""
    return key.replace(".", "/")
