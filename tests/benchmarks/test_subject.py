import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import Batch, Job
from benchmarks.peers.__main__ import check_batch
from benchmarks.subject import Peer, PeerFailed, Subject

LIMIT = Peer(name="limit", module="limit", order="", own=True)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (100, 64, 64), np.uint8))
    return Job(source=str(tmp_path), folder=str(tmp_path / "files"), batch=10, threads=2)


def start(peer: Peer, job: Job) -> Subject:
    return Subject("local", peer, job, Path(sys.executable))


def test_a_peer_measures_as_often_as_it_is_asked(job: Job) -> None:
    with start(LIMIT, job) as subject:
        assert subject.answer()["versions"]["numpy"] == np.__version__
        for _ in range(2):
            answer = subject.measure(0.01)
            assert answer["images"] % 10 == 0
            assert answer["images"] > 0
            assert 0.01 <= answer["seconds"]


def test_a_library_that_is_not_installed_is_named(job: Job) -> None:
    peer = Peer(name="absent", module="no_such_peer", order="")
    with start(peer, job) as subject, pytest.raises(PeerFailed, match=r"not installed: .*no_such_peer"):
        subject.answer()


def test_a_crash_is_reported_with_its_last_words(job: Job) -> None:
    Path(job.source, "images.npy").unlink()
    with start(LIMIT, job) as subject, pytest.raises(PeerFailed, match=r"status 1: FileNotFoundError"):
        subject.answer()


def test_an_epoch_that_is_too_short_is_no_measurement(job: Job) -> None:
    peer = Peer(name="memmap", module="torch_memmap", order="", own=True)
    with start(peer, replace(job, batch=100)) as subject:
        subject.answer()
        with pytest.raises(PeerFailed, match="too few batches"):
            subject.measure(0.01)


def test_images_that_are_not_what_their_labels_say_are_refused(job: Job) -> None:
    images = job.images()
    check_batch(Batch(images[[3, 4]], [3, 4]), job)
    with pytest.raises(ValueError, match="differs from the images that its labels number"):
        check_batch(Batch(images[[3, 4]], [4, 3]), job)
