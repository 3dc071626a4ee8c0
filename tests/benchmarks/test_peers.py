"""Each peer that is installed brings the right images, in the kind of order that the tables state."""

from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.loader import PEERS, SINGLE
from benchmarks.peers import Batch, Job
from benchmarks.peers.__main__ import check_batch
from benchmarks.subject import Peer

IMAGES, BATCH = 5_000, 500
LIBRARIES = {"ffcv": "ffcv", "mosaicml": "streaming", "lit": "litdata"}
CHECKED = [peer for peer in PEERS if not peer.module.endswith((":normalised", ":augmented"))]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (IMAGES, 64, 64), np.uint8))
    return folder


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """A peer sets them for its own process, which is this one here."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize("peer", CHECKED, ids=lambda peer: peer.module)
def test_an_epoch_has_the_images_it_says_in_the_order_it_says(peer: Peer, source: Path) -> None:
    job = Job(source=str(source), folder=str(source / peer.files), batch=BATCH, threads=1, shard_bytes=1 << 22)
    labels = np.concatenate(list(_labels(peer, job)))
    in_a_row = np.mean(np.diff(labels) == 1)
    if peer.order == "whole blocks of 250":  # which DALI draws from a buffer: some twice before others once
        assert in_a_row > 0.9
    else:
        assert np.array_equal(np.sort(labels), np.arange(IMAGES))
        assert in_a_row < 0.05
    if peer.order == SINGLE:
        assert np.ptp(labels[:BATCH]) > 0.9 * IMAGES


def _labels(peer: Peer, job: Job) -> Iterator[Any]:
    module, _, function = peer.module.partition(":")
    pytest.importorskip(LIBRARIES.get(module, "numpy"))
    loaded = import_module(f"benchmarks.peers.{module}")
    if not Path(job.folder).exists() and hasattr(loaded, "write"):
        Path(job.folder).mkdir()
        loaded.write(job)
    opened = getattr(loaded, function or "local")(job)
    with closing(opened()) as batches:
        for batch in islice(batches, IMAGES // BATCH):
            check_batch(batch, job)
            yield np.asarray(batch.labels).copy()


def test_a_batch_is_only_labels_where_bytes_were_moved(source: Path) -> None:
    job = Job(source=str(source), folder="", batch=BATCH, threads=1)
    check_batch(Batch(None, range(3)), job)
    with pytest.raises(ValueError, match="differs from the images that its labels number"):
        check_batch(Batch(np.zeros((3, 64, 64), np.uint8), range(3)), job)
