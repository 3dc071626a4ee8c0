"""Rows of docs/FAULTS.md about reading that no other file shows: cuts, stale sets, payloads, stops, few files."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import (
    ChangedShard,
    CorruptShard,
    InputError,
    MissingShard,
    Samples,
    ShardSet,
    SplitReader,
    WindowedOrder,
    read_manifest,
)
from shards.cache.cache import Cache
from shards.format.image_layout import read_table
from shards.store.store import Store, open_store
from tests.faults.servers.proxy import FaultProxy
from tests.faults.servers.seaweed import SeaweedFS
from tests.shards.kinds import drawn, write_set_of

ROOT = Path(__file__).parents[3]
MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]


def test_every_cut_of_a_shard_of_21_members_is_refused_before_it_is_read(
    make_samples: MakeSamples, write_set: WriteSet
) -> None:
    folder = write_set({"train": make_samples(7)}, [[1] * 7])
    path, reader = folder / "train-00000.tar", ShardSet(folder).split("train")
    size = path.stat().st_size
    for length in range(size - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(ChangedShard) as caught:
            reader.put(0, path)
        assert f"train-00000.tar: {length} bytes, expected {size}" in str(caught.value)
    with pytest.raises(ChangedShard):
        ShardSet(folder).split("train")


@pytest.fixture(params=["s3", "folder"])
def stale(request: pytest.FixtureRequest, tmp_path: Path, make_samples: MakeSamples, write_set: WriteSet) -> Store:
    """A set of three shards, to be changed behind its dataset.json."""
    folder = write_set({"train": make_samples(6)}, [[2], [3], [1]], output=tmp_path / "set")
    if request.param == "folder":
        return open_store(folder)
    return copied(folder, str(request.getfixturevalue("bucket")))


def copied(folder: Path, location: str) -> Store:
    """The files of a folder in another place."""
    store = open_store(location)
    for path in folder.iterdir():
        store.upload(path.name, path)
    return store


def rewrite(store: Store) -> None:
    store.upload("train-00001.tar", store.read("train-00001.tar") + bytes(4096))


def replace_version(store: Store) -> None:
    content = json.loads(store.read("dataset.json")) | {"version": 9}
    store.upload("dataset.json", json.dumps(content).encode())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (rewrite, ChangedShard, r"train-00001.tar: \d+ bytes, expected \d+.* again"),
        (lambda store: store.remove("train-00001.tar"), MissingShard, r"train-00001.tar: named .* but not there; copy"),
        (
            lambda store: store.upload("train-00003.tar", b"x"),
            ChangedShard,
            r"train-00003.tar: not one of the shards in dataset.json \(1 such\); remove it, or",
        ),
        (replace_version, CorruptShard, r"dataset.json: format version 9, but this kkanji reads"),
    ],
    ids=["rewritten", "missing", "extra", "other version"],
)
def test_a_stale_set_is_refused_as_it_is_opened(
    stale: Store, change: Callable[[Store], Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    """Nothing of a remote shard was asked for by then."""
    cache = Cache(tmp_path / "cache", 1 << 20)
    assert ShardSet(stale.location, cache=cache).split("train").samples == 6
    change(stale)
    with pytest.raises(error, match=f"^{stale.location}/{message}"):
        ShardSet(stale.location, cache=cache).split("train")
    assert cache.counts.made == 0


def test_a_bit_that_flips_in_a_shard_is_noticed(stale: Store, tmp_path: Path) -> None:
    """In place in the background; from a bucket when it is fetched, before the shard's first sample."""
    data = bytearray(stale.read("train-00001.tar"))
    data[-5000] ^= 1
    stale.upload("train-00001.tar", bytes(data))
    cache = Cache(tmp_path / "cache", 1 << 20)
    if stale.folder is not None:
        check = ShardSet(stale.location, cache=cache).check_in_background("train")
        assert check.finished(wait_s=60) and check.problem is not None
        assert "train-00001.tar: block 000000 at byte 0: crc32" in check.problem
        return
    reader = ShardSet(stale.location, cache=cache).split("train")
    served: list[int] = []
    with pytest.warns(RuntimeWarning, match="crc32"), pytest.raises(CorruptShard, match="the stored shard is damaged"):
        served.extend(int(numbers[0]) for numbers in reader.follow(np.array([number]) for number in range(6)))
    assert served == [0, 1]


def test_an_account_that_may_not_list_can_read(
    bucket: str, seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set_of(tmp_path / "set", "none", {"train": [drawn(3)]})
    copied(tmp_path / "set", bucket)
    with FaultProxy(seaweed.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        listing = proxy.arm("403", match="list-type")
        data = ShardSet(bucket, cache=Cache(tmp_path / "cache", 1 << 20))
        with pytest.warns(UserWarning, match="cannot list the shards; a missing one is noticed .*HTTP 403"):
            reader = data.split("train")
        assert np.array_equal(reader.collect(np.arange(3)).images, drawn(3).images)
        assert listing.met == 1


class Payload:
    """Runs a command in whoever unpickles it."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


def test_no_payload_runs(tmp_path: Path) -> None:
    """In a table of samples with a right checksum, in the place of the tars, and in a shard's name."""
    folder, canary = write_set_of(tmp_path / "set", "png", {"train": [drawn(3)]}), tmp_path / "canary"
    shard, buffer = read_manifest(folder).splits["train"].shards[0], io.BytesIO()
    np.save(buffer, np.array([Payload(f"touch {canary}")], object), allow_pickle=True)
    (folder / shard.table_name).write_bytes(buffer.getvalue())
    with pytest.raises(CorruptShard, match=r"object .* expected plain numbers"):
        read_table(open_store(folder), replace(shard, table_sha256=sha256(buffer.getvalue()).hexdigest()))
    text = (folder / "dataset.json").read_text(encoding="utf-8")
    for old, new in (('"base": ""', f'"base": "pipe:touch {canary}"'), (shard.name, f"$(touch {canary}).tar")):
        assert old in text
        (folder / "dataset.json").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(CorruptShard):
            ShardSet(folder).split("train")
    with pytest.raises(InputError, match="unknown kind of location"):
        ShardSet(f"pipe://touch {canary}")
    assert not canary.exists()
    np.load(io.BytesIO(buffer.getvalue()), allow_pickle=True)
    assert canary.exists(), "the payload works where it is let"


STOP_SAMPLES = 200


@pytest.fixture(scope="module", params=["in place", "fetched ahead"])
def resumed(
    request: pytest.FixtureRequest,
    make_samples: MakeSamples,
    write_set: WriteSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> SplitReader:
    """20 shards of 10 samples; the second kind is brought into a cache for eight of them by other threads."""
    ahead = request.param != "in place"
    folder = write_set({"train": make_samples(STOP_SAMPLES)}, [[6, 4]] * 20, compression="lz4" if ahead else "none")
    size = read_manifest(folder).splits["train"].shards[0].plain_bytes
    return ShardSet(folder, cache=Cache(tmp_path_factory.mktemp("cache"), 8 * size)).split("train", threads=2)


def test_a_stop_at_every_position_has_the_same_tail(resumed: SplitReader, make_samples: MakeSamples) -> None:
    """All 200 positions of an epoch, with pixels."""
    samples, order = make_samples(STOP_SAMPLES), WindowedOrder([10] * 20, seed=3, window=2)
    for position in range(STOP_SAMPLES):
        ends = [*range(position, STOP_SAMPLES, 16), STOP_SAMPLES]
        requests = (order.at(*span) for span in itertools.pairwise(ends))
        found = [resumed.gather(numbers) for numbers in resumed.follow(requests)]
        tail = order.at(position, STOP_SAMPLES)
        for name in Samples._fields:
            column = np.concatenate([getattr(part, name) for part in found])
            assert np.array_equal(column, getattr(samples, name)[tail]), (position, name)


FEW_FILES = """
import sys, os, hashlib
import numpy as np
from shards import ShardSet, WindowedOrder
from shards.cache.cache import Cache
data = ShardSet(sys.argv[1], cache=Cache(sys.argv[2], int(sys.argv[3])))
sizes = [shard.samples for shard in data.manifest.splits["train"].shards]
reader, order = data.split("train", threads=4), WindowedOrder(sizes, seed=0, window=6)
digest, most = hashlib.sha256(), 0
for numbers in reader.follow(order.at(start, start + 10) for start in range(0, 2 * order.samples, 10)):
    digest.update(reader.gather(numbers).images)
    most = max(most, len(os.listdir("/proc/self/fd")))
print(digest.hexdigest(), most)
"""


def test_an_epoch_from_a_bucket_with_64_open_files(
    bucket: str, tmp_path: Path, make_samples: MakeSamples, write_set: WriteSet
) -> None:
    """Two, of 60 shards each, through a cache for twenty: sockets, maps, locks and files together."""
    folder, samples = write_set({"train": make_samples(300)}, [[5]] * 60), make_samples(300)
    copied(folder, bucket)
    room = 20 * (folder / "train-00000.tar").stat().st_size
    command = ["prlimit", "--nofile=64:64", sys.executable, "-W", "error", "-c", FEW_FILES]
    command += [bucket, str(tmp_path / "cache"), str(room)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    digest, most = done.stdout.split()
    order = WindowedOrder([5] * 60, seed=0, window=6)
    assert digest == sha256(samples.images[order.at(0, 600)].tobytes()).hexdigest()
    assert 10 < int(most) < 64


STREAMED = """
import sys
import numpy as np
from kkanji import cli
from shards import ShardSet
from shards.cache.cache import Cache
def stream():
    reader = ShardSet(sys.argv[1], cache=Cache(sys.argv[2], 1 << 20)).split("train")
    for numbers in reader.follow(np.array([number]) for number in range(3)):
        reader.gather(numbers)
cli.run(stream)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_a_shard_is_fetched_does_not_wait_for_the_server(
    bucket: str, seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    copied(write_set_of(tmp_path / "set", "none", {"train": [drawn(3)]}), bucket)
    with FaultProxy(seaweed.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        stall = proxy.arm("stall", match="train-00000.tar")
        command = [sys.executable, "-c", STREAMED, bucket, str(tmp_path / "cache")]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while not stall.met:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)  # half of what patience with the server takes
    assert process.returncode == code and "Traceback" not in errors
