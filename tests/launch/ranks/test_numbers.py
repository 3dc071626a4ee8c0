"""Another number of ranks, from the start or after a stop: the same global batches, cut alike where they can be."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from kkanji.config import read_options
from shards import OutputFolder, ShardSet, write_manifest, write_shard
from shards.json_reading import read_json
from tests.launch.commands import lines, losses
from tests.launch.ranks.pool import Ranks, resuming, train, train_cramped
from tests.launch.ranks.runs import config, distance, same_to_the_bit

TRAINED, VALIDATED = 97, 3
"""In batches of 24 the last one has one image; and there are fewer to validate on than ranks."""
TEN_STEPS = {"order": "balanced", "draws_per_class": 77, "batch_size": 48}
"""Of 462 draws in batches of 48, each cut into 12 micro-batches, and the last one of 30 draws into 8."""


@pytest.fixture(scope="module")
def uneven(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some images of the tiny set's splits."""
    data, output = ShardSet(tiny_set), tmp_path_factory.mktemp("ranks") / "uneven"
    splits = dict(data.manifest.splits)
    with OutputFolder(output) as folder:
        for name, count in (("train", TRAINED), ("val", VALIDATED)):
            part = data.split(name).gather(np.arange(count))
            shard = write_shard(folder / f"{name}.tar", [part])
            counts = tuple(np.bincount(part.labels, minlength=data.manifest.classes).tolist())
            splits[name] = replace(splits[name], shards=(shard,), samples_per_class=counts, originals_per_class=counts)
        write_manifest(folder, replace(data.manifest, splits=splits), data.read("index.json").decode())
    return output


def on_each(pool: Ranks, numbers: tuple[int, ...], data: Path, folder: Path, **options: Any) -> list[Path]:
    """The folders of one run on each number of ranks, by itself."""
    for ranks in numbers:
        pool.do(train, config(data, folder / str(ranks), **options), ranks=ranks)
    return [folder / str(ranks) for ranks in numbers]


def test_1_2_3_and_4_ranks_validate_alike_after_ten_steps(pool: Ranks, tiny_set: Path, tmp_path: Path) -> None:
    """With the batch statistics of rank 0 alone the loss grew sevenfold from one rank to four."""
    alone, *others = on_each(pool, (1, 2, 3, 4), tiny_set, tmp_path, **TEN_STEPS)
    assert len(losses(alone)) == 10
    for run in others:
        found = distance(run, alone)
        print(f"{run.name} ranks | {found}")  # noqa: T201  (rows for docs/large-batch.md: pytest -s)
        assert found.validation < 1e-3  # promised: 2 %
        assert max(found.losses, found.weights, found.statistics) < 1e-3


def test_a_last_batch_of_one_image_leaves_ranks_idle(pool: Ranks, uneven: Path, tmp_path: Path) -> None:
    """The others' batch statistics stay out; each image is validated on once, though a rank has none."""
    alone, *others = on_each(pool, (1, 2, 4), uneven, tmp_path, micro_batch=6)  # four of them, which 4 ranks divide
    for run in others:
        assert [entry["samples"] for entry in lines(run)] == [24, 48, 72, 96, TRAINED]
        assert [entry["images"] for entry in lines(run, "evaluation")] == [VALIDATED]
        found = distance(run, alone)
        assert max(found.losses, found.weights, found.statistics) < 1e-3


def test_from_one_rank_to_two_to_one_to_three(pool: Ranks, tiny_set: Path, tmp_path: Path) -> None:
    """Stopped three times: as on one rank that nobody stops."""
    options = {**TEN_STEPS, "ema_images": 50.0, "mixup": 0.4}
    whole, parts = (config(tiny_set, tmp_path / name, **options) for name in ("whole", "parts"))
    pool.do(train, whole)
    pool.do(train, parts, 3)
    for ranks, steps in ((2, 2), (1, 3), (3, 0)):
        pool.do(train, resuming(parts), steps, ranks=ranks)
    assert [entry["step"] for entry in lines(tmp_path / "parts")] == list(range(1, 11))
    found = distance(tmp_path / "parts", tmp_path / "whole")
    assert max(found.losses, found.validation, found.weights, found.statistics) < 1e-3


def test_a_run_in_lanes_of_an_earlier_version_is_not_resumed(pool: Ranks, in_shards: Path, tmp_path: Path) -> None:
    """Its lanes had other images in each epoch: some would be missed and some doubled."""
    run = config(in_shards, tmp_path / "run", order="windowed", window=2, lanes=2)
    pool.do(train, run, 2)
    last = (tmp_path / "run/checkpoints/last").resolve()
    state, manifest = (json.loads((last / name).read_text()) for name in ("state.json", "manifest.json"))
    del state["order_version"]
    (last / "state.json").write_text(json.dumps(state))
    manifest["state.json"] = hashlib.sha256((last / "state.json").read_bytes()).hexdigest()
    (last / "manifest.json").write_text(json.dumps(manifest))
    pool.send(0, {}, train, resuming(run))
    _, error = pool.outcome(0)
    assert "whose lanes had other images in each epoch" in error
    fresh = config(in_shards, tmp_path / "new", order="windowed", window=2, lanes=2, init=last)  # the remedy
    pool.do(train, fresh, 1)


def test_evaluating_and_saving_change_nothing(pool: Ranks, tiny_set: Path, tmp_path: Path) -> None:
    """On three ranks, whose mean of three equal numbers is not that number."""
    seldom, often = (
        config(tiny_set, tmp_path / name, epochs=2, ema_images=50.0, **options)
        for name, options in (("seldom", {"evaluate_every": 2}), ("often", {"save_every": 1}))
    )
    for each in (seldom, often):
        pool.do(train, each, ranks=3)
    assert same_to_the_bit(tmp_path / "often", tmp_path / "seldom")


def test_an_average_has_the_batch_statistics_of_the_trained_model(pool: Ranks, tiny_set: Path, tmp_path: Path) -> None:
    """On CPU ranks wrapping replaces the model's buffers: what was averaged before are ones that never change."""
    pool.do(train, config(tiny_set, tmp_path / "run", ema_images=1e-9), ranks=2)  # it forgets at once
    averaged, trained = (
        safetensors.torch.load_file(tmp_path / "run/checkpoints/last" / f"{name}.safetensors")
        for name in ("model", "training")
    )
    names = [name for name in averaged if "running_" in name]
    assert len(names) > 10
    assert all(torch.equal(averaged[name], trained[name]) for name in names)
    assert not any(torch.equal(averaged[name], torch.full_like(averaged[name], "var" in name)) for name in names)


def test_one_rank_with_little_memory_halves_the_micro_batch_of_all(pool: Ranks, tiny_set: Path, tmp_path: Path) -> None:
    """From 12 images to 6, before anything is computed that counts: the losses of a run that was told to take 6."""
    told, halved = (config(tiny_set, tmp_path / name, micro_batch=size) for name, size in (("told", 6), ("halved", 0)))
    pool.do(train, told, ranks=2)
    pool.do(train_cramped, halved, 7, ranks=2)
    saved = read_options(read_json(tmp_path / "halved/config.json")["config"])
    assert saved["micro_batch"] == 6
    assert same_to_the_bit(tmp_path / "halved", tmp_path / "told")
