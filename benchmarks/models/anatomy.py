"""What a network is made of, read from the network itself, and a drawing of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kkanji.models import stages_of
from shards.format.layout import IMAGE_SIZE

Row = dict[str, Any]
CONVOLUTION, CLASSIFIER = "convolution", "classifier"
# timm's blocks by the names that their papers gave them.
KINDS = {
    "DepthwiseSeparableConv": "separable convolution",
    "InvertedResidual": "MBConv",
    "EdgeResidual": "fused MBConv",
}
COLOURS = {
    CONVOLUTION: "#d9dee3",
    "separable convolution": "#f3dcae",
    "MBConv": "#f0b7a4",
    "fused MBConv": "#b9d3ea",
    CLASSIFIER: "#c9dcc4",
}
INCHES, ROW_INCHES = 12.0, 2.9
GAP = 0.12  # between boxes, of the width that a part has
MIDDLE, FLOOR = 0.5, -0.6  # of the boxes, and under the bars, where the tallest box would reach from 0 to 1
BAR = 1.0  # a bar of the whole work would be as high
FLAT = 4  # a box with a map of one pixel is as high as so many doublings of its side


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Consecutive layers of one kind, in the order that an image passes them."""

    kind: str
    blocks: int
    """How often it is repeated."""
    kernel: int
    """Pixels a side, of the largest convolution; 0: none."""
    expansion: float
    """Channels inside a block by those at its entrance."""
    excitation: bool
    """With squeeze-excitation."""
    channels: int
    """At its end; of the classifier: classes."""
    size: int
    """Pixels a side of its last map; 0: no map."""
    parameters: int
    """Without those of a normalisation behind it."""
    multiply_adds: int
    """For an image of 64x64."""


def parts_of(model: nn.Module) -> list[Part]:
    """The parts of a network of kkanji.models: stem, stages, last convolution, classifier."""
    names = ["conv_stem", *(f"blocks.{number}" for number in range(len(stages_of(model)))), "conv_head", "classifier"]
    modules = {name: model.get_submodule(name) for name in names}
    shapes, work = _traced(model.eval(), modules)
    return [_part(module, shapes[name], work[name]) for name, module in modules.items()]


def _traced(model: nn.Module, modules: Mapping[str, nn.Module]) -> tuple[dict[str, torch.Size], dict[str, int]]:
    """The shape that each module gives for one image, and its multiply-adds."""
    shapes: dict[str, torch.Size] = {}

    def note(name: str, output: torch.Tensor) -> None:
        shapes[name] = output.shape

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE))
    for hook in hooks:
        hook.remove()
    operations = counter.get_flop_counts()
    counts = {name: sum(operations[f"{type(model).__name__}.{name}"].values()) // 2 for name in modules}
    return shapes, counts


def _part(module: nn.Module, shape: torch.Size, multiply_adds: int) -> Part:
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    blocks = list(module) if isinstance(module, nn.Sequential) else [module]
    return Part(
        kind=KINDS.get(type(blocks[0]).__name__, CONVOLUTION if len(shape) == 4 else CLASSIFIER),
        blocks=len(blocks),
        kernel=max((layer.kernel_size[0] for layer in convolutions), default=0),
        expansion=_expansion(blocks[-1]),
        excitation=any(type(layer).__name__ == "SqueezeExcite" for layer in module.modules()),
        channels=shape[1],
        size=shape[2] if len(shape) == 4 else 0,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        multiply_adds=multiply_adds,
    )


def _expansion(block: nn.Module) -> float:
    """Of the last block: a stage's first may be entered by fewer channels than its others."""
    first = next((layer for layer in block.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or isinstance(block, nn.Conv2d):
        return 1.0
    return first.out_channels / first.in_channels


def draw(networks: Mapping[str, Sequence[Part]]) -> Figure:
    """A row of boxes for each network, as high as their maps are large; below, each part's share of the work."""
    figure = Figure(figsize=(INCHES, ROW_INCHES * len(networks)), layout="constrained")
    rows = figure.subplots(len(networks), squeeze=False)[:, 0]
    longest = max(len(parts) for parts in networks.values())
    for axes, (name, parts) in zip(rows, networks.items(), strict=True):
        axes.set_xlim(0, longest)
        axes.set_ylim(FLOOR, 1)
        axes.axis("off")
        _draw_row(axes, name, parts)
    note = "Height of a box: logarithm of its map's side. Red: share of the multiply-adds. Images are 64x64, gray."
    figure.supxlabel(note, fontsize="small")
    return figure


def _draw_row(axes: Axes, name: str, parts: Sequence[Part]) -> None:
    whole = sum(part.multiply_adds for part in parts)
    parameters = sum(part.parameters for part in parts) / 1e6
    title = f"{name}: {parameters:.1f} M parameters, {whole / 1e6:.0f} M multiply-adds an image"
    axes.set_title(title, fontsize="medium", loc="left")
    for place, part in enumerate(parts):
        _draw_box(axes, place, part)
        _draw_share(axes, place, part.multiply_adds / whole)


def _draw_box(axes: Axes, place: int, part: Part) -> None:
    left, width = place + GAP / 2, 1 - GAP
    height = (log2(max(part.size, 1)) + FLAT) / (log2(IMAGE_SIZE) + FLAT)
    corner = (left, MIDDLE - height / 2)
    style = "round,pad=0,rounding_size=0.03"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=COLOURS[part.kind], ec="#555"))
    axes.text(left + width / 2, MIDDLE, "\n".join(_words(part)), ha="center", va="center", fontsize=7)
    if place:
        arrow = {"arrowstyle": "->", "color": "#555", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (left, MIDDLE), (left - GAP, MIDDLE), arrowprops=arrow)


def _draw_share(axes: Axes, place: int, share: float) -> None:
    height = BAR * share
    axes.bar(place + 0.5, height, 1 - GAP, bottom=FLOOR, color="#b5342a")
    told = f"{share:.0%}" if share >= 0.01 else "< 1%"
    axes.text(place + 0.5, FLOOR + height + 0.02, told, ha="center", va="bottom", fontsize=7)


def _words(part: Part) -> Iterator[str]:
    if part.kind == CLASSIFIER:
        yield "mean of the map"
        yield f"classifier\n{part.channels:,} classes"
        return
    times = f"{part.blocks} x " if part.blocks > 1 else ""
    yield times + part.kind.replace(" conv", "\nconv")
    inside = f", inside x{part.expansion:.3g}" if "MBConv" in part.kind else ""
    yield f"{part.kernel}x{part.kernel}{inside}"
    if part.excitation:
        yield "squeeze-excitation"
    yield f"{part.channels} channels\n{part.size}x{part.size}"


def as_rows(parts: Sequence[Part]) -> list[Row]:
    """For JSON."""
    return [asdict(part) for part in parts]
