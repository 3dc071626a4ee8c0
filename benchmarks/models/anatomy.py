"""The groups of layers that a network consists of, found in the network itself, and a diagram of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log2

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import Row
from kkanji.models import stages_of
from shards.format.layout import IMAGE_SIZE

CONVOLUTION, CLASSIFIER = "convolution", "classifier"
# timm's classes of blocks, by the names in the papers that introduced them.
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
# Coordinates of a row in the diagram. The tallest box would reach from 0 to 1; the bars stand below the boxes.
GAP = 0.12  # between boxes, where a group is 1 wide
MIDDLE = 0.5  # of the boxes
FLOOR = -0.6  # of the bars
BAR = 1.0  # height of a bar for all of the network's work
FLAT = 4  # height of a box with a map of 1x1, in doublings of the map's side: else it would be invisible


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerGroup:
    """Consecutive layers of one kind."""

    kind: str
    """CONVOLUTION, CLASSIFIER, or one of the values of KINDS."""
    blocks: int
    """Number of blocks in a row."""
    kernel: int
    """Side of the largest convolution in pixels; 0 if there is none."""
    expansion: float
    """Channels inside a block, as a multiple of those that enter it."""
    excitation: bool
    """Whether it has squeeze-excitation."""
    channels: int
    """Channels of its output; of the classifier, its classes."""
    size: int
    """Side of its output map in pixels; 0 if it has no map."""
    parameters: int
    """Number of parameters, without those of a normalisation layer that follows."""
    multiply_adds: int
    """Multiply-adds for one image of 64x64."""


def layer_groups_of(model: nn.Module) -> list[LayerGroup]:
    """The layer groups of a network of kkanji.models: stem, stages, last convolution, classifier."""
    names = ["conv_stem", *(f"blocks.{number}" for number in range(len(stages_of(model)))), "conv_head", "classifier"]
    modules = {name: model.get_submodule(name) for name in names}
    shapes, work = _trace(model.eval(), modules)
    return [_layer_group(module, shapes[name], work[name]) for name, module in modules.items()]


def _trace(model: nn.Module, modules: Mapping[str, nn.Module]) -> tuple[dict[str, torch.Size], dict[str, int]]:
    """The shape of each module's output for one image, and its multiply-adds."""
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
    # The counter counts a multiply-add as two operations.
    counts = {name: sum(operations[f"{type(model).__name__}.{name}"].values()) // 2 for name in modules}
    return shapes, counts


def _layer_group(module: nn.Module, shape: torch.Size, multiply_adds: int) -> LayerGroup:
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    blocks = list(module) if isinstance(module, nn.Sequential) else [module]
    return LayerGroup(
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
    """Expansion of a stage's last block: fewer channels may enter the first block than the others."""
    first = next((layer for layer in block.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or isinstance(block, nn.Conv2d):
        return 1.0
    return first.out_channels / first.in_channels


def draw(networks: Mapping[str, Sequence[LayerGroup]]) -> Figure:
    """A diagram with a row of boxes for each network, higher for larger maps, and a bar for each group's work."""
    figure = Figure(figsize=(INCHES, ROW_INCHES * len(networks)), layout="constrained")
    rows = figure.subplots(len(networks), squeeze=False)[:, 0]
    longest = max(len(groups) for groups in networks.values())
    for axes, (name, groups) in zip(rows, networks.items(), strict=True):
        axes.set_xlim(0, longest)
        axes.set_ylim(FLOOR, 1)
        axes.axis("off")
        _draw_row(axes, name, groups)
    note = "Height of a box: logarithm of its map's side. Red: fraction of the multiply-adds. Images are 64x64, gray."
    figure.supxlabel(note, fontsize="small")
    return figure


def _draw_row(axes: Axes, name: str, groups: Sequence[LayerGroup]) -> None:
    total = sum(group.multiply_adds for group in groups)
    parameters = sum(group.parameters for group in groups) / 1e6
    title = f"{name}: {parameters:.1f} M parameters, {total / 1e6:.0f} M multiply-adds an image"
    axes.set_title(title, fontsize="medium", loc="left")
    for place, group in enumerate(groups):
        _draw_box(axes, place, group)
        _draw_work(axes, place, group.multiply_adds / total)


def _draw_box(axes: Axes, place: int, group: LayerGroup) -> None:
    left = place + GAP / 2
    width = 1 - GAP
    height = (log2(max(group.size, 1)) + FLAT) / (log2(IMAGE_SIZE) + FLAT)
    corner = (left, MIDDLE - height / 2)
    style = "round,pad=0,rounding_size=0.03"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=COLOURS[group.kind], ec="#555"))
    axes.text(left + width / 2, MIDDLE, "\n".join(_description(group)), ha="center", va="center", fontsize=7)
    if place:
        arrow = {"arrowstyle": "->", "color": "#555", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (left, MIDDLE), (left - GAP, MIDDLE), arrowprops=arrow)


def _draw_work(axes: Axes, place: int, fraction: float) -> None:
    height = BAR * fraction
    axes.bar(place + 0.5, height, 1 - GAP, bottom=FLOOR, color="#b5342a")
    text = f"{fraction:.0%}" if fraction >= 0.01 else "< 1%"
    axes.text(place + 0.5, FLOOR + height + 0.02, text, ha="center", va="bottom", fontsize=7)


def _description(group: LayerGroup) -> Iterator[str]:
    if group.kind == CLASSIFIER:
        yield "mean of the map"
        yield f"classifier\n{group.channels:,} classes"
        return
    times = f"{group.blocks} x " if group.blocks > 1 else ""
    yield times + group.kind.replace(" conv", "\nconv")
    inside = f", inside x{group.expansion:.3g}" if "MBConv" in group.kind else ""
    yield f"{group.kernel}x{group.kernel}{inside}"
    if group.excitation:
        yield "squeeze-excitation"
    yield f"{group.channels} channels\n{group.size}x{group.size}"


def as_rows(groups: Sequence[LayerGroup]) -> list[Row]:
    """The groups as plain values for JSON."""
    return [asdict(group) for group in groups]
