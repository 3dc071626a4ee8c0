"""Two nodes of a run that reads from a bucket: what each fetches, and what it does when the other or the link is lost.

The nodes are network namespaces, the store is a third. Every wait has an end: a hang is a failure.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kkanji.config import TrainConfig
from shards import ShardSet
from shards.store.store import open_store
from tests.faults.servers.proxy import FaultProxy
from tests.faults.servers.seaweed import SeaweedFS
from tests.launch.commands import environment, lines, losses, train_command
from tests.launch.ranks.namespaces import ADDRESSES, LINK, SERVERS, Nodes, enter
from tests.launch.ranks.pool import Ranks, free_port, place, train
from tests.launch.ranks.runs import config
from tests.making import cut_up

EPOCHS = 3
OPTIONS = {
    "order": "windowed",
    "window": 1,
    "lanes": 2,
    "epochs": EPOCHS,
    "batch_size": 12,
    "micro_batch": 3,
    "lr": 1e-4,
}
"""27 steps in 3 epochs, which end with a batch."""
ROOMS = (0.1, 0.0004)  # GB of cache: for the whole set, and for 16 of the 24 shards that a node needs
PACE_S = 0.2  # a step: so that there is time for what happens to the nodes
ENDS_WITHIN_S = 60


CLOCK_AHEAD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(id, now);
  if (id == CLOCK_REALTIME) now->tv_sec += 3600;
  return status;
}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Two nodes, each with a process of its own and a server that counts what it sends there."""

    nodes: Nodes
    ranks: Ranks
    stores: list[FaultProxy]
    environment: Mapping[str, str]
    """By which S3 clients find their user."""
    data: str
    folder: Path

    def begin(self, output: Path, **options: Any) -> None:
        """A run on both nodes, with caches of different size."""
        port = str(free_port())
        for node, room in enumerate(ROOMS):
            variables = place(node, 2) | self.variables(node) | {"LOCAL_RANK": "0", "MASTER_PORT": port}
            options_of_node = config(Path("."), output, cache_size=room, **OPTIONS | options)
            self.ranks.send(node, variables, train, with_data(options_of_node, self.data), 0, PACE_S)

    def variables(self, node: int) -> dict[str, str]:
        """The environment of a node's process."""
        store = f"http://{SERVERS[node]}:{self.stores[node].port}"
        cache = str(self.folder / f"cache{node}")
        network = {"MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": LINK}
        return dict(self.environment) | network | {"AWS_ENDPOINT_URL": store, "KKANJI_CACHE": cache}


def with_data(options: TrainConfig, data: str) -> TrainConfig:
    return options.with_options(data=data)


@pytest.fixture(scope="module")
def shards(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set in 36 shards of three images."""
    return cut_up(tiny_set, tmp_path_factory.mktemp("nodes") / "shards", in_a_shard=3)


@pytest.fixture
def cluster(shards: Path, seaweed: SeaweedFS, bucket: str, tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as held:
        try:
            nodes = held.enter_context(Nodes())
        except OSError as error:
            pytest.skip(f"no network namespaces: {error}")
        upload(shards, bucket)
        stores = [held.enter_context(FaultProxy(seaweed.port, host=host)) for host in SERVERS]
        ranks = held.enter_context(Ranks(2))
        for node, name in enumerate(nodes.names):
            ranks.send(node, {}, enter, name)
            assert ranks.outcome(node) == (None, "")
        yield Cluster(
            nodes=nodes, ranks=ranks, stores=stores, environment=seaweed.environment, data=bucket, folder=tmp_path
        )


def upload(shards: Path, bucket: str) -> None:
    store = open_store(bucket)
    for path in sorted(shards.iterdir(), key=lambda path: path.name == "dataset.json"):
        store.upload(path.name, path)


def wait_for_step(cluster: Cluster, run: Path, step: int) -> None:
    while not ((run / "log.jsonl").exists() and any(entry["step"] >= step for entry in lines(run))):
        for node in range(2):
            assert not cluster.ranks.has_ended(node), cluster.ranks.outcome(node)
        time.sleep(0.1)


def test_each_fetches_its_part_though_the_link_is_cut_for_ten_seconds(
    cluster: Cluster, pool: Ranks, shards: Path, tmp_path: Path
) -> None:
    """The losses of one process. The node with a cache for all fetches its part once, the other in every epoch."""
    alone, run = tmp_path / "alone", tmp_path / "run"
    cluster.begin(run)
    pool.do(train, config(shards, alone, **OPTIONS))
    wait_for_step(cluster, run, 3)
    cluster.nodes.cut()
    time.sleep(10)
    cluster.nodes.mend()
    for node in range(2):
        _, error = cluster.ranks.outcome(node)
        assert not error, error[-500:]
    assert losses(run) == pytest.approx(losses(alone), rel=1e-4)
    manifest = ShardSet(shards).manifest
    trained, validated = (sum(shard.bytes for shard in manifest.splits[name].shards) for name in ("train", "val"))
    small_files = 40_000  # manifest, class map and columns
    roomy, cramped = (store.bytes for store in cluster.stores)
    assert roomy < trained / 2 + validated + small_files  # only its own lane, in all epochs together
    assert cramped < EPOCHS * (trained / 2 + validated) + small_files


@pytest.mark.parametrize("lost", ["node", "link"])
def test_a_lost_node_or_link_ends_the_run(cluster: Cluster, tmp_path: Path, lost: str) -> None:
    """Within a minute, on every node that is left."""
    cluster.begin(tmp_path / "run", stall_seconds=15)
    wait_for_step(cluster, tmp_path / "run", 3)
    lose: Callable[[], None] = cluster.nodes.cut if lost == "link" else cluster.ranks.processes[1].kill
    lose()
    for node in range(2):
        assert cluster.ranks.outcome(node, ENDS_WITHIN_S)[1]
    assert 3 <= len(losses(tmp_path / "run")) < 27


def test_a_node_whose_clock_is_an_hour_off_says_so(shards: Path, bucket: str, tmp_path: Path) -> None:
    """The store refuses it before torch is imported; the other ranks end when it does not come to their meeting."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a wrong clock with")
    upload(shards, bucket)
    (tmp_path / "clock.c").write_text(CLOCK_AHEAD)
    wrong = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(wrong), str(tmp_path / "clock.c"), "-ldl"], check=True)
    command = [sys.executable, *train_command(bucket, tmp_path / "run")]
    variables = environment(LD_PRELOAD=str(wrong), WORLD_SIZE="2", RANK="1", KKANJI_CACHE=str(tmp_path / "cache"))
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=ENDS_WITHIN_S, check=False)
    assert result.returncode == 2
    assert "RequestTimeTooSkewed" in result.stderr and "this machine's clock is wrong: set it (NTP)" in result.stderr
