"""Third-party tars of PNG or JPEG images -> a shard set: the tars are checked and indexed, and stay where they are.

Every byte is read once and every image decoded once, so that training never meets a bad image. The checksums of these
bytes go into the manifest, so that a reader notices a tar that has changed.
"""

import fnmatch
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kkanji import __version__
from kkanji.classes import ClassMap, load_class_map
from kkanji.threads import map_in_order
from shards import (
    InputError,
    Lineage,
    Manifest,
    MissingShard,
    OutputFolder,
    Split,
    write_manifest,
)
from shards.format.manifest_rules import SHARD_NAME
from shards.store.store import Store, open_store
from tools.build.budget import Budget
from tools.build.index_tar import IndexedTar, index_tar
from tools.build.packing import summary
from tools.progress import count_images

SPLITS = ("train", "val", "test")
EXAMPLES = 10  # bad images named in the history


def index(
    *,
    train: tuple[str, ...],
    classes: Path,
    val: tuple[str, ...] = (),
    test: tuple[str, ...] = (),
    output: Path = Path("indexed"),
    name: str = "",
    licence: str = "unknown",
    max_bad: str = "0",
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Index WebDataset tars of 64x64 gray images (KEY.png or .jpg, KEY.cls) to train on them as they are.

    OUTPUT gets a manifest and tables; the tars stay where they are. Their lineage is unknown, so nothing can prove that
    their splits share no original; identical images in two splits are counted and reported.

    Example: kkanji index --train "data/train-*.tar" --val "data/val-*.tar" --classes index.json

    Args:
        train: Tars to train on: paths or URLs in one folder; * matches in file names (s3://bucket/data/train-*.tar).
        classes: Class map (index.json) that numbers the labels in the tars.
        val: Tars to validate on, in the same folder.
        test: Tars to test on, in the same folder.
        output: Folder for the manifest and the tables.
        name: Name of the data, by default the name of the tars' folder.
        licence: Licence line to print with everything made from the data.
        max_bad: Bad samples to tolerate and skip (damaged or turned image, no label, none of a class), as a number or
            a percentage (1%). With more, nothing is written. Files of systems (.DS_Store, ._*) do not count.
        workers: Tars to read at a time, by default one per core. What is written does not depend on them.
        overwrite: Replace OUTPUT if `index` made it.
    """
    started = time.perf_counter()
    budget, class_map = (
        Budget(text=max_bad),
        load_class_map(classes, "expected --classes index.json, as beside a shard set"),
    )
    store, tars = _find_tars(dict(zip(SPLITS, (train, val, test), strict=True)))
    inputs = [classes, *(store.folder / name for names in tars.values() for name in names if store.folder)]
    with OutputFolder(output, maker="index", inputs=inputs, overwrite=overwrite) as folder:
        found = _read_tars(store, tars, class_map, folder, budget, workers or len(os.sched_getaffinity(0)))
        manifest = Manifest(
            name=name or store.location.rpartition("/")[2],
            licence=licence,
            lineage=Lineage.UNKNOWN,
            classes=len(class_map),
            seed=0,
            layout="image",
            base=store.location,
            history={"kkanji": __version__, "index": _history(found, budget)},
            splits={split: _split(parts, len(class_map)) for split, parts in found.items()},
        )
        write_manifest(folder, manifest, class_map.to_json())
    _warn_of_twins({split: np.concatenate([part.sources for part in parts]) for split, parts in found.items()})
    print(summary(output, manifest, time.perf_counter() - started))
    for split, parts in found.items():
        if bad := [text for part in parts for text in part.bad]:
            print(f"{split}: {len(bad):,} bad images skipped, for example {bad[0]}")


def _find_tars(wanted: dict[str, tuple[str, ...]]) -> tuple[Store, dict[str, list[str]]]:
    """The store that holds all tars, and the names of each split that has any."""
    places = sorted({_place(pattern) for patterns in wanted.values() for pattern in patterns})
    if len(places) != 1:
        raise InputError(
            f"tars in {len(places)} folders ({', '.join(places)}); expected one folder: index each by itself"
        )
    store = open_store(places[0])
    listed = store.list() if store.can_list else {}
    tars = {
        split: [name for pattern in patterns for name in _matching(store, listed, pattern.rpartition("/")[2])]
        for split, patterns in wanted.items()
        if patterns
    }
    names = sorted(name for part in tars.values() for name in part)
    twice = [name for name, after in pairwise(names) if name == after]
    if twice:
        raise InputError(f"{store.url(twice[0])}: given twice; expected each tar in one split, once")
    return store, tars


def _place(pattern: str) -> str:
    """The folder or prefix of a pattern; a local folder as an absolute path."""
    place = pattern.rpartition("/")[0]
    if "://" in pattern:
        return place
    return str(Path(place or ("/" if pattern.startswith("/") else ".")).resolve())


def _matching(store: Store, listed: dict[str, int], pattern: str) -> list[str]:
    names = sorted(fnmatch.filter(listed, pattern)) if "*" in pattern else [pattern]
    if not names:
        raise MissingShard(f"{store.url(pattern)}: no such tar")
    for name in names:
        if not SHARD_NAME.fullmatch(name):
            raise InputError(f"{store.url(name)}: expected a name of letters, digits and ._- that ends in .tar")
    return names


def _read_tars(
    store: Store, tars: dict[str, list[str]], classes: ClassMap, folder: Path, budget: Budget, threads: int
) -> dict[str, list[IndexedTar]]:
    found: dict[str, list[IndexedTar]] = {split: [] for split in tars}
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool, count_images() as progress:
        read = partial(index_tar, store, len(classes), folder, stop)
        jobs = [(split, name) for split, names in tars.items() for name in names]
        with closing(map_in_order(pool, read, [name for _, name in jobs], stop=stop)) as results:
            for (split, _), tar in zip(jobs, results, strict=True):
                found[split].append(tar)
                progress.update(len(tar.labels))
                _keep_within(budget, store, found, done=False)
    _keep_within(budget, store, found, done=True)
    return found


def _keep_within(budget: Budget, store: Store, found: dict[str, list[IndexedTar]], *, done: bool) -> None:
    """Raise InputError above the budget: at once above a number, at the end above a percentage."""
    parts = [part for tars in found.values() for part in tars]
    bad = [text for part in parts for text in part.bad]
    images = sum(len(part.labels) for part in parts) + len(bad)
    if (done or not budget.text.endswith("%")) and not budget.allows(len(bad), images):
        counts = f"{len(bad)} bad of {images} {'image' if images == 1 else 'images'}, --max-bad is {budget.text}"
        raise InputError(
            f"{store.location}: {counts}: {bad[0][:260]}; repair or remove them, or allow more by --max-bad"
        )


def _split(parts: list[IndexedTar], classes: int) -> Split:
    labels, sources = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "sources"))
    order = np.lexsort((sources, labels))
    labels, sources = labels[order], sources[order]
    first = np.ones(len(labels), bool)
    first[1:] = (labels[1:] != labels[:-1]) | (sources[1:] != sources[:-1])
    return Split(
        shards=tuple(part.shard for part in parts),
        samples_per_class=tuple(np.bincount(labels, minlength=classes).tolist()),
        originals_per_class=tuple(np.bincount(labels[first], minlength=classes).tolist()),
    )


def _history(found: dict[str, list[IndexedTar]], budget: Budget) -> dict[str, Any]:
    bad = {split: [text for part in parts for text in part.bad] for split, parts in found.items()}
    counts = {split: len(texts) for split, texts in bad.items()}
    return {"max_bad": budget.text, "bad_images": counts, "examples": [*chain(*bad.values())][:EXAMPLES]}


def _warn_of_twins(sources: dict[str, NDArray[np.uint64]]) -> None:
    """Warn of identical images in two splits, since an accuracy on images from training means nothing."""
    names = list(sources)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            shared = len(np.intersect1d(sources[first], sources[second]))
            if shared:
                warnings.warn(f"{shared} images are in both {first} and {second}, pixel for pixel", stacklevel=2)
