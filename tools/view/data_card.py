"""A data set's card: what it holds, where it comes from and how it may be used, in Markdown."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from huggingface_hub import DatasetCardData
from numpy.typing import NDArray

from kkanji.wording import licence_name, markdown, untagged
from shards.errors import printable
from tools.progress import count_images
from tools.view.contents import Contents, Subset

SIZES = tuple(10**power for power in range(3, 10))  # classes of size that the Hub has, in images
BANDS = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 1000), (1001, None))
"""Images of a class, from and to: the classes of each are counted."""
REASONS = {"blank": "blank", "identical": "identical to another image", "conflict": "the same image with two labels"}


def card(contents: Contents) -> str:
    """The card as Markdown, which begins with the Hugging Face Hub's metadata. Reads every pixel, for their mean."""
    facts = contents.facts
    sections = [
        [metadata(contents)],
        [f"# {markdown(facts['name'])}", "", f"Licence: {markdown(facts['licence'])}", "", _lineage(facts["lineage"])],
        ["## Images", "", *_images(contents)],
        ["## Images of a class", "", *_bands(contents)],
        ["## Split", "", *_split(contents)],
        ["## Sources", "", *_sources(facts.get("originals", {}))],
        ["## How it was made", "", *_history(facts)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def metadata(contents: Contents) -> str:
    """The YAML block that begins a data set's card on the Hub."""
    facts, images = contents.facts, sum(len(subset.labels) for subset in contents.subsets)
    most = next((size for size in SIZES if images < size), 0)
    least = max((size for size in SIZES if size <= images), default=0)
    size = f"n<{_short(most)}" if not least else f"{_short(least)}<n<{_short(most)}" if most else f"n>{_short(least)}"
    values = DatasetCardData(
        pretty_name=untagged(str(facts["name"])),
        license=licence_name(str(facts["licence"])),
        language="ja",
        task_categories=["image-classification"],
        size_categories=[size],
        tags=["kuzushiji", "webdataset"],
    )
    return f"---\n{values.to_yaml()}\n---"


def _short(size: int) -> str:
    return f"{size // 10**6}M" if size >= 10**6 else f"{size // 1000}K"


def moments(subset: Subset) -> tuple[float, float]:
    """Mean and standard deviation of the pixels, white being 1. Exact, since the sums are of whole numbers."""
    values = np.arange(256)
    histogram = np.zeros(256, np.int64)
    with count_images(len(subset.labels)) as progress:
        for images in subset.chunks():
            histogram += np.bincount(images.reshape(-1), minlength=256)
            progress.update(len(images))
    mean = float(histogram @ values / histogram.sum())
    return mean / 255, float(np.sqrt(histogram @ (values - mean) ** 2 / histogram.sum())) / 255


def shared_originals(subsets: list[Subset]) -> int:
    """Number of originals in more than one subset: leaks."""
    ids = np.concatenate([np.unique(subset.sources) for subset in subsets])
    return len(ids) - len(np.unique(ids))


def _lineage(lineage: str) -> str:
    if lineage == "known":
        return "Lineage: known; every image names the original that it was made from."
    return "Lineage: **unknown**; what is held out may have siblings in training, and nothing can prove otherwise."


def _images(contents: Contents) -> Iterator[str]:
    yield f"64x64 pixels, 8-bit gray, white ink on black, {len(contents.classes):,} classes."
    yield ""
    yield "| | images | originals | rendered from fonts | classes | mean | standard deviation |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for subset in contents.subsets:
        if len(subset.labels):
            mean, deviation = moments(subset)
            rendered = int(subset.rendered.sum())
            originals = len(np.unique(subset.sources)) - rendered
            counts = (len(subset.labels), originals, rendered, len(np.unique(subset.labels)))
            cells = " | ".join(f"{count:,}" for count in counts)
            yield f"| {subset.name} | {cells} | {mean:.4f} | {deviation:.4f} |"


def _bands(contents: Contents) -> Iterator[str]:
    yield "| images | " + " | ".join(f"classes in {subset.name}" for subset in contents.subsets) + " |"
    yield "|---|" + "---:|" * len(contents.subsets)
    tallies = [np.bincount(subset.labels, minlength=len(contents.classes)) for subset in contents.subsets]
    yield "| 0 | " + " | ".join(f"{int((tally == 0).sum()):,}" for tally in tallies) + " |"
    for first, last in BANDS:
        name = str(first) if first == last else f"{first:,}-{last:,}" if last else f"{first:,} or more"
        yield f"| {name} | " + " | ".join(f"{_between(tally, first, last):,}" for tally in tallies) + " |"


def _between(tally: NDArray[np.int64], first: int, last: int | None) -> int:
    return int(((tally >= first) & (tally <= (last or tally.max()))).sum())


def _split(contents: Contents) -> Iterator[str]:
    facts = contents.facts.get("split")
    if facts is None:
        yield "None yet."
        return
    yield f"Rule: {markdown(facts['rule'])}."
    yield ""
    options = {name: facts.get(name) for name in ("protocol", "seed", "val", "test", "folds", "fold")}
    yield (
        "Options: "
        + ", ".join(f"{name} {markdown(str(value))}" for name, value in options.items() if value is not None)
        + "."
    )
    shared = shared_originals(contents.subsets)
    yield ""
    yield f"Originals in more than one of {', '.join(subset.name for subset in contents.subsets)}: {shared}."


def _sources(facts: dict[str, Any]) -> Iterator[str]:
    for source in facts.get("sources", ()):
        yield f"- {_code(source['name'])}" + (f", sha256 `{source['sha256']}`" if source["sha256"] else "")
    counts = facts.get("counts", {})
    if counts:
        yield ""
        yield f"Of {counts['read']:,} images read, {counts['kept']:,} were kept. Left out:"
        yield ""
        yield from (f"- {words}: {counts.get(reason, 0):,}" for reason, words in REASONS.items())
    if facts.get("classes_without_images"):
        yield f"- classes without any image left: {markdown(' '.join(facts['classes_without_images']))}"
    if not facts:
        yield "Not recorded."


def _history(facts: Any) -> Iterator[str]:
    """The tools that made it, and their options."""
    elsewhere = ("name", "licence", "lineage", "originals", "split", "identity")  # in the other sections
    for name, value in facts.items():
        if name not in elsewhere:
            yield f"- {markdown(name)}: {markdown(_words(value))}"
    if "identity" in facts:
        yield f"- sha256 of dataset.json: `{facts['identity']}`"
    else:
        yield "- originals, as combined"


def _code(name: str) -> str:
    """A file's name as code; a name that would end the code is text."""
    return markdown(name) if "`" in name else f"`{printable(name)}`"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    return "; ".join(map(_words, value)) if isinstance(value, list) else str(value)
