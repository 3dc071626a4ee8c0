"""Batches through torch's DataLoader, and packed shards through webdataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kkanji import ImageStream, block_pipeline, decode_blocks
from shards import CorruptShard, SampleOrder, Samples, ShardSet
from tests.shards.kinds import drawn, write_kind

BLOCKS = [drawn(125), drawn(60, 1)]
LEAKS = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset 1.0.2's own


def batches(stream: ImageStream, workers: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(DataLoader(stream, batch_size=None, num_workers=workers))


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


def test_a_stream_has_the_orders_images_with_any_number_of_workers(tiny_set: Path) -> None:
    stream = ImageStream(tiny_set, batch_size=25, epochs=2)
    found = batches(stream)
    assert len(found) == len(stream) == 9 and [len(labels) for _, labels in found] == [25] * 8 + [16]
    expected = ShardSet(tiny_set).split("train").gather(SampleOrder(samples=108, seed=0).at(0, 216))
    assert np.array_equal(torch.cat([images for images, _ in found])[:, 0].numpy(), expected.images)
    assert np.array_equal(torch.cat([labels for _, labels in found]).numpy(), expected.labels)
    assert same(batches(stream, workers=2), found)


def test_ranks_share_each_batch_and_a_run_resumes_at_any_step(tiny_set: Path) -> None:
    whole = batches(ImageStream(tiny_set, batch_size=24))
    parts = [batches(ImageStream(tiny_set, batch_size=24, rank=rank, ranks=2)) for rank in range(2)]
    joined = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(*parts, strict=True)]
    assert same(joined, whole)
    assert same(batches(ImageStream(tiny_set, batch_size=24, first_step=3)), whole[3:])


def test_a_stream_from_a_bucket(tiny_set: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.commands.push import push

    monkeypatch.setenv("KKANJI_CACHE", str(tmp_path / "cache"))
    push(tiny_set, bucket)
    order = SampleOrder(samples=36, seed=3)
    found, expected = (batches(ImageStream(at, "val", batch_size=20, order=order)) for at in (bucket, tiny_set))
    assert same(found, expected)


@LEAKS
@pytest.mark.parametrize("kind", ["none", "zstd", "lz4"])
def test_webdataset_gives_every_image_once(tmp_path: Path, kind: Any) -> None:
    for number, block in enumerate(BLOCKS):
        write_kind(tmp_path / f"train-{number:05}.tar", kind, [block])
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    found = list(DataLoader(block_pipeline(urls, batch_size=50, seed=1), batch_size=None))
    assert [len(labels) for _, labels in found] == [50, 50, 50, 35]
    images, labels = (torch.cat([batch[part] for batch in found]).numpy() for part in (0, 1))
    expected = Samples(*(np.concatenate(columns) for columns in zip(*BLOCKS, strict=True)))
    order, theirs = (np.lexsort(each.reshape(185, -1).T) for each in (images, expected.images))
    assert not np.array_equal(images, expected.images), "mixed"
    assert np.array_equal(images[order], expected.images[theirs])
    assert np.array_equal(labels[order], expected.labels[theirs])


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"jpg": b""}, "labels.npy"),
        ({"labels.npy": b"\x93NUMPY damaged"}, "expected a shard that `kkanji pack` made"),
        ({"images.npy.zst": b"not zstd"}, "expected a shard"),
        ({"images.npy.lz4": b"not lz4"}, "expected a shard"),
    ],
)
def test_other_members_are_refused_with_their_place(members: dict[str, bytes], told: str, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros(3, np.int32))
    labels = {} if "jpg" in members else {"labels.npy": (tmp_path / "labels.npy").read_bytes()}
    sample = {"__key__": "000000", "__url__": "a.tar", **labels, **members}
    with pytest.raises(CorruptShard, match=rf"^a\.tar: block 000000: .*{told}"):
        list(decode_blocks([sample]))
