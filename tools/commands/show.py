"""What a shard set or a folder of originals looks like: contact sheets, class balance, data card, suspect labels."""

import struct
import zlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from kkanji.classes import parse_label
from kkanji.wording import counted
from shards import InputError, write_file
from shards.order.permutation import mix, permute
from tools.build.offline_augment import Name, find_recipe
from tools.ingest.originals import check_seed
from tools.ingest.tables import SUSPECT_COLUMNS, write_csv
from tools.view.contact_sheet import Choice, draw_balance, draw_sheet
from tools.view.contents import Contents, Subset, open_contents
from tools.view.data_card import card

Kind = Literal["sheet", "variants", "balance", "card", "suspects"]
SIGNATURE = b"kkanji show"  # near the end of every file that this command writes
IEND_BYTES = 12  # the chunk that ends a PNG file
END_BYTES = 64
FILES = {
    "sheet": "sheet.png",
    "variants": "variants.png",
    "balance": "balance.png",
    "card": "card.md",
    "suspects": "suspects.png",
}


def show(
    location: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DATA")]],
    /,
    *,
    kind: Kind = "sheet",
    output: Path | None = None,
    split: str | None = None,
    source: str | None = None,
    label: str | None = None,
    evaluation: Path | None = None,
    count: int = 200,
    recipe: Name = "policy",
    augment: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Show a shard set or originals: a contact sheet, augmented variants, the class balance, a data card or suspects.

    Example: kkanji show data/shards --split val --label U+4E00 --output sheet.png
    Example: kkanji show data/shards --split val --kind suspects --evaluation runs/first

    Args:
        location: Shard set (a folder or a URL), or originals made by `kkanji combine`.
        kind: What to show: sheet (images, each above its typeset character), variants (one image and augmentations of
            it), balance (plot of the images of each class), card (Markdown: counts, mean, licence, split and more) or
            suspects (images of SPLIT whose label the model of EVALUATION contradicts most confidently, each above its
            label and the prediction; beside the picture a list as CSV, for `kkanji split --leave-out`).
        output: File to write, by default sheet.png, variants.png, balance.png, card.md or suspects.png.
        split: Split to show: train, val or test; all by default.
        source: Source to show, such as kkanji.tar; only for originals, all by default.
        label: Class to show, such as U+4E00; all by default.
        evaluation: Folder that `kkanji evaluate` wrote for SPLIT, of a model not trained on it; for suspects.
        count: Images to show at most: chosen at random, or the most suspect ones.
        recipe: Augmentation of the variants: policy or legacy, as in `kkanji balance`.
        augment: Strength of recipe policy for the variants, from 0 to 2.
        seed: Seed of the choice and of the augmentation, 0 or more.
        overwrite: Replace OUTPUT if `show` made it.
    """
    check_seed(seed)
    output = output or Path(FILES[kind])
    if count < 1:
        raise InputError(f"--count {count}: expected 1 or more")
    if output.suffix.lower() not in ("", Path(FILES[kind]).suffix):
        raise InputError(f"--output {output}: --kind {kind} writes {Path(FILES[kind]).suffix}; give such a name")
    _refuse_existing(output, overwrite)
    if kind == "suspects":
        _show_suspects(location, split, evaluation, count, output, overwrite)
        return
    contents = only_class(open_contents(location, split, source), label)
    if kind == "card":
        write_file(output, f"{card(contents)}\n<!-- {SIGNATURE.decode()} -->\n")
    elif kind == "balance":
        write_file(output, signed(_plot(contents)))
    else:
        _require_images(contents, split, source, label)
        choice = choose(contents.subsets, 1 if kind == "variants" else count, seed)
        shown = variants(choice, count, recipe, augment, seed) if kind == "variants" else choice
        write_file(output, signed(draw_sheet(shown, contents.classes)))
    print(f"{output}: {_description(contents)}")


def _show_suspects(
    location: str, split: str | None, evaluation: Path | None, count: int, output: Path, overwrite: bool
) -> None:
    from tools.view.suspects import find_suspects  # torch takes seconds to import

    if split is None or evaluation is None:
        raise InputError("--kind suspects: expected --split NAME, and --evaluation FOLDER of an evaluation of it")
    listed = output.with_suffix(".csv")
    if listed.exists() and not (overwrite and output.exists()):  # it is replaced with the picture that it belongs to
        raise InputError(f"{listed}: already exists; choose another --output")
    contents = open_contents(location, split)
    suspects = find_suspects(contents, evaluation, count)
    if not suspects.rows:
        raise InputError(f"{evaluation}: no misreading but of other forms of a character; nothing is suspect")
    (subset,) = contents.subsets
    choice = Choice(subset.read(suspects.places), subset.labels[suspects.places], suspects.predicted)
    write_csv(listed, SUSPECT_COLUMNS, suspects.rows)
    write_file(output, signed(draw_sheet(choice, contents.classes)))
    print(f"{output} and {listed.name}: {counted(len(suspects.rows), 'suspect')} of {_description(contents)}")


def signed(png: bytes) -> bytes:
    """Add the text chunk by which a later run recognises its own picture (PNG, third edition, 11.3.3.3)."""
    text = b"tEXtSoftware\0" + SIGNATURE
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return png[:-IEND_BYTES] + chunk + png[-IEND_BYTES:]


def _refuse_existing(output: Path, overwrite: bool) -> None:
    """Raise InputError unless `show` made the file. A link is refused, since write_file would replace it."""
    if not (output.exists() or output.is_symlink()):
        return
    ours = output.is_file() and not output.is_symlink() and SIGNATURE in _end(output)
    if not overwrite:
        raise InputError(f"{output}: already exists; choose another --output{' or --overwrite' if ours else ''}")
    if not ours:
        raise InputError(f"{output}: not replaced: `show` did not make it; choose another --output")


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        return file.read(END_BYTES)


def only_class(contents: Contents, label: str | None) -> Contents:
    """The images of one class. Raises InputError for a label that is not a class."""
    if label is None:
        return contents
    number = contents.classes.ids.get(parse_label(label, "--label"))
    if number is None:
        found = f"no class of {contents.where}; its {len(contents.classes)} classes are in index.json"
        raise InputError(f"--label {label}: {found}")
    return contents._replace(subsets=[subset.of_class(number) for subset in contents.subsets])


def choose(subsets: list[Subset], count: int, seed: int) -> Choice:
    """At most `count` images, chosen at random, in the order of their classes."""
    labels = np.concatenate([subset.labels for subset in subsets])
    places = np.arange(min(count, len(labels)), dtype=np.uint64)
    chosen = np.sort(permute(places, len(labels), key=mix(seed)).astype(np.int64))
    images, start = [], 0
    for subset in subsets:
        stop = start + len(subset.labels)
        images.append(subset.read(chosen[(chosen >= start) & (chosen < stop)] - start))
        start = stop
    order = np.argsort(labels[chosen], kind="stable")
    return Choice(np.concatenate(images)[order], labels[chosen][order])


def variants(choice: Choice, count: int, recipe: Name, augment: float, seed: int) -> Choice:
    """The chosen image, followed by count - 1 augmentations of it."""
    images = np.repeat(choice.images[:1], count, axis=0)
    images[1:] = find_recipe(recipe, augment)(images[1:], seed, np.arange(1, count))
    return Choice(images, np.repeat(choice.labels[:1], count))


def _plot(contents: Contents) -> bytes:
    counts = {
        subset.name: np.bincount(subset.labels, minlength=len(contents.classes))
        for subset in contents.subsets
        if len(subset.labels)
    }
    return draw_balance(counts, f"{contents.facts['name']}: images of each class")


def _require_images(contents: Contents, split: str | None, source: str | None, label: str | None) -> None:
    if not any(len(subset.labels) for subset in contents.subsets):
        wanted = " ".join(
            filter(None, (label and f"of {label}", f"in {split or 'any split'}", source and f"from {source}"))
        )
        raise InputError(f"{contents.where}: no image {wanted}; show another class, split or source")


def _description(contents: Contents) -> str:
    return ", ".join(f"{subset.name} {counted(len(subset.labels), 'image')}" for subset in contents.subsets)
