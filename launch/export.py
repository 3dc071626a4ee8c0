"""Export a model for use: `kkanji export --checkpoint RUN/checkpoints/best --output FOLDER`, `--page FOLDER`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from kkanji import cli
from kkanji.config import read_options
from kkanji.pretrained import KUZUSHIJI_KANJI
from shards import InputError
from shards.json_reading import read_json

CARD = """# {model}: {classes:,} characters of {name}

Predicts the character that a 64x64 gray image shows, white ink on black. The folder is a checkpoint of kkanji in half
precision: `kkanji predict IMAGE --checkpoint FOLDER`; or, after `import kkanji.models`,
`timm.create_model("local-dir:FOLDER", pretrained=True)`, which gives logits of images prepared as config.json says.
{onnx}

- Trained on {trained_on}, {passes} of global batch {batch_size}{begun}.
- {evaluated} on {images:,} images of split `{split}`, {verdict}{chosen}:
  top-1 {top1:.2%}, top-5 {top5:.2%}, balanced accuracy {balanced_accuracy:.2%} over {evaluated_classes:,} characters,
  weighted F1 {f1_weighted:.4f}, measured in float32{views}.
- {calibration}
- Data: {licence}

| training originals of the character | characters | images | top-1 |
|---|---|---|---|
{rows}
"""
VERDICTS = {
    "proven": "whose originals are proven disjoint from training",
    "unknown": "of unknown lineage: not proven disjoint from training",
    "trained on": "the same images that it was trained on, so this measures nothing about unseen handwriting",
}
ONNX_LINE = (
    "`model.onnx` takes `images` uint8 [n, 1, height, width]: gray, of any size, dark on light or light on dark. It "
    "gives `probabilities` float32 [n, {classes}], numbered as in index.json. Labels, licence, forms of one character, "
    "and what is left to the reader of image files, are in its metadata."
)
TRAINED_LINE = "\n- Trained on "  # of the card: what `model.onnx` does stands before it


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write a model for use: a folder for kkanji, timm and ONNX, or a page that reads characters in a browser.

    Example: kkanji export --checkpoint runs/first/checkpoints/best --output models/first --page site
    """

    checkpoint: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: the embedded model)")] = KUZUSHIJI_KANJI
    """Folder of a checkpoint that `kkanji evaluate` has evaluated, or of an exported model."""
    output: Path | None = None
    """Folder to make for the model: half-precision weights, class map, model card with the evaluation's figures."""
    onnx: bool = False
    """Also write model.onnx there. It is kept only if onnxruntime predicts typeset characters with it as torch does."""
    page: Path | None = None
    """Folder to make for a page: open its index.html in a browser, without a network or a server, or put the folder on
    any web server. What it reads stays in the browser. Needs npm, for onnxruntime-web."""
    page_images: Path | None = None
    """Folder of image files to compare the page's model with torch on; the page states the result. Typeset characters
    otherwise."""
    figures_of: Path | None = None
    """Folder of another run, which provides the evaluation on the model card. For a model that was trained on all
    images: a run that was trained without the images it was evaluated on."""
    overwrite: bool = False
    """Replace the folders if `kkanji export` made them."""
    push_to_hub: str | None = None
    """Repository on the Hugging Face Hub, owner/name, to upload OUTPUT to. A new one is private."""

    def __post_init__(self) -> None:
        if self.output is None and self.page is None:
            raise InputError("nothing to write; give --output FOLDER for a model, --page FOLDER for a page, or both")
        if self.onnx and self.output is None:
            raise InputError("--onnx goes into the model's folder; give --output FOLDER too")
        if self.push_to_hub is not None and self.output is None:
            raise InputError("--push-to-hub uploads the model's folder; give --output FOLDER too")
        if self.page_images and self.page is None:
            raise InputError("--page-images is for a page; give --page FOLDER too")


def export(config: ExportConfig) -> None:
    """Write the folders. The card's figures, and the temperature if one was fitted, come from evaluation.json.

    Raises InputError if the checkpoint is damaged or was not evaluated.
    """
    from kkanji import checkpoint  # torch takes seconds to import
    from kkanji.checkpoint.export import export as write_export
    from kkanji.checkpoint.export import is_exported
    from kkanji.checkpoint.hub import check_repository, push

    checkpoint.check(config.checkpoint)
    if config.push_to_hub is not None:
        check_repository(config.push_to_hub)
    card, temperature = (_exported if is_exported(config.checkpoint) else _evaluated)(config)
    if config.output:
        write_export(
            config.checkpoint,
            config.output,
            card=card,
            temperature=temperature,
            onnx=config.onnx,
            overwrite=config.overwrite,
        )
        _list(config.output)
    if config.page:
        from kkanji.page.build import write_page

        write_page(
            config.checkpoint,
            config.page,
            card=card,
            temperature=temperature,
            images=config.page_images,
            overwrite=config.overwrite,
        )
        _list(config.page)
    if config.output and config.push_to_hub is not None:
        sys.stdout.write(f"pushed to {push(config.output, config.push_to_hub)}\n")


def _list(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:.2f} MB\n")


def _exported(config: ExportConfig) -> tuple[str, float]:
    """Card and temperature of a model that was exported before."""
    from kkanji import checkpoint
    from kkanji.checkpoint.export import read_card

    if config.figures_of:
        found = f"{config.checkpoint}: was exported with the figures on its card"
        raise InputError(f"{found}; leave out --figures-of, or give the run's own checkpoint")
    line = ONNX_LINE.format(classes=len(checkpoint.read_classes(config.checkpoint)))
    head, mark, tail = read_card(config.checkpoint).replace(f"{line}\n", "").partition(TRAINED_LINE)
    added = f"{line}\n" if config.onnx else ""
    temperature: float = checkpoint.read_state(config.checkpoint).get("temperature", 1.0)
    return (f"{head.rstrip()}\n{added}\n{mark.lstrip()}{tail}", temperature)


def _evaluated(config: ExportConfig) -> tuple[str, float]:
    """Card and temperature of a run's checkpoint."""
    from kkanji import checkpoint

    run = config.checkpoint.parent.parent
    evaluated = config.figures_of or run
    facts = read_json(run / "config.json", remedy="give a checkpoint in a run's folder, such as RUN/checkpoints/best")
    evaluation = read_json(evaluated / "evaluation.json", remedy="run `kkanji evaluate` on the checkpoint first")
    _require_measured(evaluated, evaluation, config.checkpoint if config.figures_of is None else None)
    of, state = read_json(evaluated / "config.json"), checkpoint.read_state(config.checkpoint)
    try:
        fit = evaluation.get("temperature")
        begun = _begun(read_options(facts["config"]) | read_options(state["config"])) + _extended(facts)
        card = _card(facts, of, evaluation, begun=begun, onnx=config.onnx)
        return card, float(fit["value"]) if fit else 1.0
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        found = f"config.json or evaluation.json was changed after it was written ({type(error).__name__}: {error})"
        raise InputError(f"{run}: {found}; run `kkanji evaluate` again, or put back a copy of config.json") from error


def _require_measured(run: Path, evaluation: dict[str, Any], path: Path | None) -> None:
    """Raises InputError if a run's evaluation.json measured other weights than a checkpoint now has.

    path: the checkpoint; None for the one that the evaluation names, if it is still there.
    """
    from kkanji import checkpoint

    named = run / "checkpoints" / str(evaluation.get("checkpoint"))
    path = path or (named if named.is_dir() else None)
    if path is not None and evaluation.get("weights") != checkpoint.weights_identity(path):
        found = f"evaluation.json is of {named.name}, and of other weights than {path} has"
        raise InputError(f"{run}: {found}; run `kkanji evaluate --checkpoint {path}` first")


def _card(facts: dict[str, Any], of: dict[str, Any], evaluation: dict[str, Any], *, begun: str, onnx: bool) -> str:
    """The model card.

    facts: config.json of the exported run. of: config.json of the evaluated run, usually the same. begun: where the
    weights come from beside this run.
    """
    from kkanji.checkpoint.hub import card_metadata
    from kkanji.checkpoint.lineage import independence

    rows = (
        f"| {entry['training_images']} | {entry['classes']:,} | {entry['images']:,} | {entry['top1']:.1%} |"
        for entry in evaluation["bins"]
        if entry["images"]
    )
    from kkanji.wording import markdown, training_images

    values = {**evaluation, **read_options(facts["config"]), **facts["data"]}
    values |= {name: markdown(str(values[name])) for name in ("name", "licence", "split", "model")}
    views = evaluation["tta"]
    epochs = values["epochs"]
    verdict = independence(of["data"], evaluation)
    model = read_options(facts["config"])["model"]
    return card_metadata(model, facts["data"], evaluation, verdict=verdict, onnx=onnx) + CARD.format(
        **values,
        chosen="; that split also chose the best epoch" if evaluation["split"] == "val" else "",
        verdict=VERDICTS[verdict],
        trained_on=training_images(facts["data"]),
        passes="1 epoch" if epochs == 1 else f"{epochs} epochs",
        begun=begun,
        evaluated="Evaluated"
        if facts == of
        else f"This model was not evaluated. A run trained on {training_images(of['data'])} was,",
        views=f", the mean of {views} small shifts of each image" if views > 1 else "",
        onnx=ONNX_LINE.format(**values) if onnx else "",
        calibration=_calibration(evaluation),
        rows="\n".join(rows),
    )


def _begun(options: dict[str, Any]) -> str:
    """Which other runs contributed to the weights, as the card puts it."""
    parts = {
        "init": ", begun with the weights of an earlier run",
        "teachers": ", distilled from other runs",
        "averaged": ", then averaged with other runs' weights",
    }
    return "".join(text for name, text in parts.items() if options.get(name))


def _extended(facts: dict[str, Any]) -> str:
    """How the run was extended, as the card puts it."""
    return "".join(
        f", extended after epoch {extension['epoch']:.4g} ({_changes(extension['changes'])})"
        for extension in facts.get("extensions", [])
    )


def _changes(changes: dict[str, list[Any]]) -> str:
    return ", ".join(f"{name} {now} instead of {before}" for name, (before, now) in changes.items())


def _calibration(evaluation: dict[str, Any]) -> str:
    fit = evaluation["temperature"]
    if not fit:
        return (
            f"Its stated probabilities are off by {evaluation['calibration_error']:.1%} (expected calibration error)."
        )
    after = f"{fit['calibration_error_after']:.1%} instead of {fit['calibration_error_before']:.1%}"
    return (
        f"Temperature {fit['value']:.3f}, fitted on {fit['images']:,} images of split `{evaluation['split']}`: "
        f"expected calibration error {after}, each half of them measured with the other half's temperature. "
        "`kkanji predict` and the ONNX file apply it; the logits of the timm model are without it."
    )


def main() -> None:
    """Run with the options of the command line."""
    export(cli.parse(ExportConfig))


if __name__ == "__main__":
    cli.run(main)
