"""Originals and their split -> shard set whose train split has the same number of images of every class."""

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from shards import InputError, Manifest, Samples, write_shard
from shards.format.manifest import Compression
from tools.build.offline_augment import Name, Recipe, describe, find_recipe, fingerprint
from tools.build.packing import (
    Blocks,
    Content,
    ShardJob,
    Target,
    draft_manifest,
    gather,
    require_room,
    shard_jobs,
    shuffled,
    split_history,
    split_key,
    summary,
    unchanged,
    write_shards,
)
from tools.build.processes import run_processes
from tools.build.shared_output import Part, SharedOutput, parse_part
from tools.ingest import originals
from tools.ingest.originals import Originals, check_images, read_originals, read_split

RETRY_S = 0.1
RULE = (
    "classes with more originals are subsampled; of classes with fewer, every original stands once as it is and all "
    "are augmented equally often, to within one; val and test are stored as they are"
)


def balance(
    folder: tyro.conf.Positional[Path],
    /,
    *,
    per_class: int = 10_000,
    output: Path = Path("balanced"),
    block_size: int = 1250,
    shard_size: int = 25_000,
    compression: Compression = "none",
    seed: int = 0,
    recipe: Name = "policy",
    augment: float = 1.0,
    part: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a shard set with the same number of training images in every class, augmenting the rare classes.

    Only train is balanced; val and test keep their images unchanged. Every augmented image carries its original's id.
    After an interruption, even SIGKILL, the same command resumes. Several processes can share the work, on one machine
    or on several with a common disk: start `--part 0/4` to `--part 3/4`, or use torchrun or accelerate launch. The last
    process to finish completes the set.

    Example: kkanji balance data/originals --per-class 10000 --output balanced

    Args:
        folder: Originals with a split, made by `kkanji combine` and `kkanji split`.
        per_class: Training images in every class.
        output: Folder for the balanced shard set.
        block_size: Images in a block, one sample to a WebDataset reader: 125, 250, 625 or 1250.
        shard_size: Images in a shard, a multiple of the block size; 25,000 take 103 MB.
        compression: Compression of the blocks: none, zstd (a third of the size) or lz4 (faster to decompress).
        seed: Seed of the choice of images, their augmentation and the stored order, 0 or more.
        recipe: Augmentation: policy (as in online training) or legacy (as in the legacy project, to compare; slow).
        augment: Strength of recipe policy, from 0 (copies) to 2.
        part: Shards to make, as i/n: every n-th from the i-th on. Without it, RANK and WORLD_SIZE of a launcher decide.
        workers: Processes, by default one per core. The bytes written depend on neither workers nor parts.
        overwrite: Replace OUTPUT if `balance` made it, and discard an unfinished run with other options.
    """
    share = parse_part(part)
    target = Target(
        output=output,
        block_size=block_size,
        shard_size=shard_size,
        compression=compression,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
        maker="balance",
        inputs=(folder,),
    )
    if per_class < 1:
        raise InputError(f"--per-class {per_class}: expected 1 or more")
    combined = read_originals(folder)
    table = read_split(combined)
    check_images(combined)
    vary = find_recipe(recipe, augment)
    contents = unchanged(combined, table, seed)
    contents["train"] = balanced(combined, table.rows("train"), per_class, seed, vary)
    options = {"per_class": per_class, **target.history(), "rule": RULE, **describe(recipe, augment)}
    draft = draft_manifest(target, combined, contents, {"split": split_history(table), "balance": options})
    print(make(target, share, draft, combined, shard_jobs(contents, target), fingerprint(vary)))


def make(target: Target, part: Part, draft: Manifest, combined: Originals, jobs: Sequence[ShardJob], probe: str) -> str:
    """Write the missing shards of this part, and the set if they were the last. Returns a summary for the screen."""
    started = time.perf_counter()
    mine = [job for number, job in enumerate(jobs) if part.takes(number)]
    with SharedOutput(target.destination, draft, {"fingerprint": probe}) as output:
        if output.complete:
            return f"{target.output}: made before with the same options"
        require_room(output.folder, [job for job in mine if output.finished(job.name) is None], target)
        processes = target.workers or max(1, target.threads // part.neighbours)
        work = partial(_work, output, target.compression, mine, processes)
        written = sum(run_processes(processes, work, sum(job.samples for job in mine)))
        names = {split: [job.name for job in jobs if job.split == split] for split in draft.splits}
        outcome, manifest = output.join(names, combined.classes.to_json())
    seconds = time.perf_counter() - started
    if outcome == "made" and written == sum(job.samples for job in jobs):
        return summary(target.output, manifest, seconds)
    done = f"{written:,} images written in {seconds:.1f} s, {written / seconds:,.0f} images/s"
    return f"{target.output}: part {part.number}/{part.of}: {done}; {_OUTCOMES[outcome]}"


_OUTCOMES = {
    "made": "the set is made",
    "there": "the set is made",
    "others": "the last process to end makes the set",
    "missing": "shards of other parts are missing: run those parts, or this without --part",
}


def _work(
    output: SharedOutput,
    compression: Compression,
    jobs: Sequence[ShardJob],
    processes: int,
    place: int,
    progress: Callable[[int], object],
) -> int:
    """Write the shards of one process. Returns the number of images written.

    Shards that another process is writing come last, since that process may have died by then.
    """
    mine = jobs[place::processes]
    write = partial(_write_or_keep, output, compression)
    written = write_shards(mine, 1, write, progress)
    for number, job in enumerate(mine):
        while written[number] is None:
            time.sleep(RETRY_S)
            written[number] = write(job, job.blocks())
    return sum(images or 0 for images in written)


def _write_or_keep(output: SharedOutput, compression: Compression, job: ShardJob, blocks: Blocks) -> int | None:
    """The number of images written, 0 for a finished shard, or None while another process writes this one."""
    with output.claim(job.name) as path:
        if path is None:
            return None
        found = output.finished(job.name)
        if found is not None and output.intact(found):
            return 0
        output.drop(job.name)
        output.keep(write_shard(path, blocks, compression=compression))
    return job.samples


def balanced(combined: Originals, rows: NDArray[np.int64], per_class: int, seed: int, recipe: Recipe) -> Content:
    """`per_class` images of every class that has originals among these rows."""
    available = combined.counts(rows)
    present = np.flatnonzero(available)
    _report_absent(combined, np.flatnonzero(available == 0))
    labels = combined.labels[rows]
    keys = originals.order_keys(combined.ids[rows], seed)
    ordered = rows[np.lexsort((combined.ids[rows], keys, labels))]
    first = np.cumsum(available) - available  # where each class begins in `ordered`
    used = np.minimum(available, per_class)
    total = per_class * len(present)
    key = split_key("train", seed)

    def read(positions: NDArray[np.int64]) -> Samples:
        """Number k of the set is copy k % per_class of class k // per_class; the first copies are the originals."""
        numbers = shuffled(positions, total, key)
        place, copy = np.divmod(numbers, per_class)
        label = present[place]
        samples = gather(combined, ordered[first[label] + copy % used[label]])
        images = recipe(samples.images, seed, numbers)
        kept = copy < used[label]
        images[kept] = samples.images[kept]  # few, so cheaper than augmenting only the others
        return samples._replace(images=images)

    counts = np.where(available > 0, per_class, 0)
    chosen = ordered[np.arange(len(ordered)) - np.repeat(first, available) < np.repeat(used, available)]
    return Content(
        samples=total,
        read=read,
        samples_per_class=counts,
        originals_per_class=used,
        rendered_per_class=combined.rendered(chosen),
    )


def _report_absent(combined: Originals, absent: NDArray[np.int64]) -> None:
    if len(absent) == len(combined.classes):
        raise InputError(f"{combined.folder}: no image to train on; split again")
    if len(absent):
        names = " ".join(combined.classes.labels[number] for number in absent[:10])
        warnings.warn(f"{len(absent)} classes have no image to train on: {names}", UserWarning, stacklevel=2)
