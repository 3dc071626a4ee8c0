"""A real S3 server behind a proxy that spoils its answers, and behind nothing when it is killed.

Most tests are impatient: the same rules with shorter deadlines. What the deadlines are is tested with a clock that only
waits move.
"""

import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from shards import ChangedShard, CorruptShard, MissingShard, ShardError, StorageError
from shards.store import credentials as credentials
from shards.store import download as transfer
from shards.store.retry import Attempts, Remote, RetryPolicy, Traffic
from shards.store.store import Store, open_store
from tests.faults.servers.proxy import Fault, FaultProxy, Message, Upstream
from tests.faults.servers.seaweed import PUBLIC_BUCKET, SeaweedFS

ROOT = Path(__file__).parents[3]
NAME = "train-00003.tar"
IMPATIENT = RetryPolicy(request_s=1, total_s=3, wait_s=0.05)
PART = 1 << 20
SIZE = 3 * PART + 12_345
IN_FLIGHT = PART // 2  # sent before the cut was noticed: what sockets hold
DATA = random.Random(0).randbytes(SIZE)
PASSING = ("500", "502", "503", "504", "429", "408", "reset", "short", "lie", "long", "slow", "stall", "hang")


@pytest.fixture
def proxy(seaweed: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between the clients made from here on and the server; one object is below `bucket` already."""
    open_store(bucket).upload(NAME, DATA)
    monkeypatch.setattr(transfer, "RANGE_BYTES", PART)
    with FaultProxy(seaweed.port) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
        yield found


@pytest.fixture
def store(bucket: str, proxy: FaultProxy) -> Store:
    """The bucket, seen through the proxy."""
    assert proxy.port
    return open_store(bucket, retry_policy=IMPATIENT)


@pytest.fixture
def fetch(store: Store, tmp_path: Path) -> Callable[[], bytes]:
    """Downloads the object."""

    def call() -> bytes:
        store.download(NAME, SIZE, tmp_path / "target")
        return (tmp_path / "target").read_bytes()

    return call


def test_the_proxy_spoils_nothing_by_itself(fetch: Callable[[], bytes], proxy: FaultProxy) -> None:
    assert fetch() == DATA
    assert proxy.requests == {"GET": 4} and proxy.bytes == SIZE


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes(fetch: Callable[[], bytes], store: Store, proxy: FaultProxy, kind: str) -> None:
    fault = proxy.arm(kind, times=1)
    assert fetch() == DATA
    assert fault.met == 1
    assert proxy.requests["GET"] == 5 and store.traffic.retries == 1
    assert proxy.bytes <= SIZE + IN_FLIGHT, "a request goes on where the last one was cut"


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_while_a_small_object_is_read(store: Store, proxy: FaultProxy, kind: str) -> None:
    store.upload("dataset.json", DATA[:3_000])
    proxy.arm(kind, times=1)
    assert store.read("dataset.json") == DATA[:3_000]
    assert proxy.requests["GET"] == 2


def test_three_errors_and_then_an_answer(store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    store.upload("small.tar", DATA[:PART])
    proxy.arm("503", times=3)
    store.download("small.tar", PART, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == DATA[:PART]
    assert proxy.requests["GET"] == 4


@pytest.mark.parametrize("kind", ["500", "503", "429"])
def test_errors_without_end(fetch: Callable[[], bytes], proxy: FaultProxy, kind: str) -> None:
    proxy.arm(kind)
    with pytest.raises(StorageError) as caught:
        fetch()
    made = proxy.requests["GET"]
    assert 2 <= made <= IMPATIENT.requests == 8  # fewer where the machine is busy
    told = f"{made} requests in "
    for part in (NAME, f"HTTP {kind}", f"http://127.0.0.1:{proxy.port}", told, "check the network"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["stall", "slow", "hang", "reset", "short"])
def test_trouble_without_end_ends(fetch: Callable[[], bytes], proxy: FaultProxy, kind: str) -> None:
    proxy.arm(kind)
    with pytest.raises(StorageError, match=r"no whole answer in time|connection broken"):
        fetch()


@pytest.mark.parametrize("kind", ["lie", "long"])
def test_a_length_that_stays_wrong(fetch: Callable[[], bytes], store: Store, proxy: FaultProxy, kind: str) -> None:
    store.upload("dataset.json", DATA[:1_000])
    proxy.arm(kind)
    with pytest.raises(CorruptShard, match=rf"{NAME}: the body of a request .* expected|should end"):
        fetch()
    with pytest.raises(CorruptShard, match=r"dataset\.json: .* bytes arrived, expected 1000"):
        store.read("dataset.json")


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        ("403", StorageError, r"HTTP 403 AccessDenied from http://127.* as access key test\.\.\.ss .*may read"),
        ("401", StorageError, "HTTP 401"),
        ("404", MissingShard, "not there"),
        ("412", ChangedShard, "replaced while it was read; start again"),
        ("416", ChangedShard, "shorter than expected"),
        ("501", StorageError, "HTTP 501"),
        ("301", StorageError, "redirected elsewhere .*check AWS_REGION"),
    ],
)
def test_refusals_are_not_asked_again(
    fetch: Callable[[], bytes], store: Store, proxy: FaultProxy, status: str, kind: type[ShardError], message: str
) -> None:
    proxy.arm(status)
    with pytest.raises(kind, match=f"{NAME}: .*{message}"):
        fetch()
    assert proxy.requests["GET"] == 1
    with pytest.raises(kind, match=message):
        store.read(NAME)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("RequestTimeTooSkewed", "this machine's clock is wrong"),
        ("ExpiredToken", "the session token has expired"),
        ("InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
        ("PermanentRedirect", "check AWS_REGION"),
    ],
)
@pytest.mark.parametrize("status", ["403", "400"])
def test_refusals_with_a_reason(store: Store, proxy: FaultProxy, status: str, code: str, hint: str) -> None:
    proxy.arm(status, code=code)
    for call in (lambda: store.read(NAME), store.list):
        with pytest.raises(StorageError, match=f"HTTP {status} {code} .*{hint}"):
            call()
    assert proxy.requests["GET"] == 2


def test_a_reset_in_the_middle_costs_little(
    fetch: Callable[[], bytes], proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part, as large as the whole: what came before the reset is kept."""
    monkeypatch.setattr(transfer, "RANGE_BYTES", SIZE)
    proxy.arm("reset", times=1)
    assert fetch() == DATA
    assert proxy.bytes <= 1.1 * SIZE and proxy.requests["GET"] == 2


def test_an_object_replaced_between_two_requests(bucket: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """Half an answer, then one that does not come: meanwhile the object changes. Twenty times, never a mixture."""
    store = open_store(bucket, retry_policy=replace(IMPATIENT, request_s=0.3))
    for number in range(20):
        old, new = (random.Random(2 * number + age).randbytes(100_000) for age in (0, 1))
        name = f"{number}.tar"
        store.upload(name, old)
        proxy.arm("short", times=1, match=f"/{name}")
        stall = proxy.arm("stall", times=1, match=f"/{name}")
        failed: list[BaseException] = []
        thread = threading.Thread(target=_download, args=(store, name, tmp_path / name, failed))
        thread.start()
        _until(partial(_met, stall))
        store.upload(name, new)
        thread.join(30)
        assert [type(error) for error in failed] == [ChangedShard], number


def _download(store: Store, name: str, target: Path, failed: list[BaseException]) -> None:
    try:
        store.download(name, 100_000, target)
    except ShardError as error:
        failed.append(error)


def _met(fault: Fault) -> bool:
    return fault.met > 0


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_server_that_knows_no_if_match(
    seaweed: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """rclone ignores the header. Another ETag in an answer is seen all the same."""
    etags, asked = itertools.count(), Upstream.ask
    path = f"{PUBLIC_BUCKET}/{bucket.rpartition('/')[2]}"

    async def ask(self: Upstream, request: Message, body: AsyncIterator[bytes]) -> Message:
        kept = [(key, value) for key, value in request.headers if key.lower() != "if-match"]
        answer = await asked(self, Message(first=request.first, headers=kept), body)
        others = [(key, value) for key, value in answer.headers if key.lower() != "etag"]
        return Message(first=answer.first, headers=[*others, ("ETag", f'"{next(etags)}"')])

    open_store(f"s3://{path}").upload(NAME, DATA)
    monkeypatch.setattr(transfer, "RANGE_BYTES", PART)
    monkeypatch.setattr(Upstream, "ask", ask)
    with FaultProxy(seaweed.port) as proxy:
        store = open_store(f"http://127.0.0.1:{proxy.port}/{path}")
        with pytest.raises(ChangedShard, match=r'ETag "[1-9]", but .*ETag "0" before'):
            store.download(NAME, SIZE, tmp_path / "target")


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [("http://nosuch.invalid:9000", r"host name not found \(DNS\)"), ("http://127.0.0.1:1", "connection refused")],
)
def test_no_server(bucket: str, monkeypatch: pytest.MonkeyPatch, endpoint: str, reason: str, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    store = open_store(bucket, retry_policy=replace(IMPATIENT, total_s=1))
    for call in (lambda: store.read(NAME), lambda: store.download(NAME, SIZE, tmp_path / "target")):
        with pytest.raises(StorageError, match=rf"{reason} from {endpoint}, [2-8] requests in \d s"):
            call()


def test_a_bit_of_everything(bucket: str, store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """A tenth of all requests fails in one way or another, and no byte is wrong."""
    for number in range(30):
        store.upload(f"{number}.tar", DATA)
    faults = [proxy.arm(kind, rate=0.02) for kind in ("503", "reset", "short", "lie", "hang")]
    for number in range(30):
        store.download(f"{number}.tar", SIZE, tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == DATA
    assert sum(fault.met for fault in faults) == store.traffic.retries > 0
    assert open_store(bucket).size("0.tar") == SIZE


def test_few_connections(bucket: str, store: Store, proxy: FaultProxy, tmp_path: Path) -> None:
    """However many downloads there are, requests are bounded."""
    proxy.latency_ms = 20
    threads = [
        threading.Thread(target=store.download, args=(NAME, SIZE, tmp_path / str(number))) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all((tmp_path / str(number)).read_bytes() == DATA for number in range(20))
    assert 4 < proxy.most_open <= 30, "24, and some that are on their way back to the pool"
    assert open_store(bucket).traffic.requests == 0, "a new store counts for itself"


@pytest.mark.parametrize("kind", ["503", "reset", "stall"])
def test_an_upload_that_fails_once(bucket: str, proxy: FaultProxy, tmp_path: Path, kind: str) -> None:
    store = open_store(bucket, retry_policy=RetryPolicy(upload_s=3))
    fault = proxy.arm(kind, times=1, match="PUT ")
    source = tmp_path / "source"
    source.write_bytes(DATA * 3)
    store.upload("up.tar", source)
    assert fault.met == 1
    store.download("up.tar", 3 * SIZE, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == DATA * 3


def test_an_upload_that_is_refused(store: Store, proxy: FaultProxy) -> None:
    proxy.arm("403", match="PUT ")
    with pytest.raises(StorageError, match=r"up.tar: HTTP 403 AccessDenied .* for a push write"):
        store.upload("up.tar", DATA)


def test_a_server_killed_and_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9; it is back in some 5 s. The default patience waits for it, and no byte is lost."""
    with SeaweedFS(tmp_path) as server:
        server.make_bucket("tests")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://tests/killed")
        store.upload(NAME, DATA)
        monkeypatch.setattr(transfer, "RANGE_BYTES", PART)
        store.download(NAME, SIZE, tmp_path / "before")
        server.kill()
        failed: list[BaseException] = []
        threads = [
            threading.Thread(target=_fetch_all, args=(store, tmp_path / f"after{number}", failed))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        server.start()
        for thread in threads:
            thread.join(90)
        assert failed == [] and store.traffic.retries > 0
        assert all((tmp_path / f"after{number}").read_bytes() == DATA for number in range(4))


def _fetch_all(store: Store, target: Path, failed: list[BaseException]) -> None:
    try:
        store.download(NAME, SIZE, target)
    except ShardError as error:
        failed.append(error)


INTERRUPTED = f"""
import sys
from pathlib import Path
from shards.store.store import open_store
print("began", flush=True)
open_store(sys.argv[1]).download("{NAME}", {SIZE}, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_wait_for_a_server(bucket: str, proxy: FaultProxy, tmp_path: Path, number: int) -> None:
    stall = proxy.arm("stall")
    command = [sys.executable, "-c", INTERRUPTED, bucket, str(tmp_path / "target")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        _until(partial(_met, stall))
        process.send_signal(number)
        _, errors = process.communicate(timeout=5)  # half of what a request may take
    assert process.returncode == -number
    assert "panicked" not in errors


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        assert seconds >= 0
        self.now += seconds
        return False


def attempts(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    """With the default patience, in the clock's time."""
    monkeypatch.setattr("shards.store.retry.time.monotonic", clock.monotonic)
    place = credentials.Credentials(scheme="s3", bucket="b", host="http://host", identity="nobody")
    client = credentials.connect(credentials.find_credentials("https", "host"), 1, 0)
    remote = Remote(
        client=client, key="k", url="s3://b/k", credentials=place, retry_policy=RetryPolicy(), traffic=Traffic()
    )
    found = Attempts(remote)
    monkeypatch.setattr(found.stopped, "wait", clock.wait)
    return found


def fail_until(attempts: Attempts, clock: Clock, took_s: float, end_s: float) -> int:
    """Requests that fail, each after so long, until the clock says so."""
    for count in itertools.count(1):
        clock.now += took_s
        attempts.wait(GenericError("connection"), took_s)
        if clock.now >= end_s:
            return count
    raise AssertionError


@pytest.mark.parametrize("took_s", [0.0, 0.01, 1.0, 10.0])
def test_how_long_and_how_often(monkeypatch: pytest.MonkeyPatch, took_s: float) -> None:
    """60 s, 8 requests at most; requests that run into their own deadline fit into that time."""
    for seed in range(50):
        random.seed(seed)
        clock = Clock()
        tries = attempts(clock, monkeypatch)
        with pytest.raises(StorageError, match=r"[2-8] requests in (5\d|60) s"):
            fail_until(tries, clock, took_s, float("inf"))
        assert 60 - took_s <= clock.now + 0.001 and clock.now <= 60.001, (seed, clock.now)


def test_an_outage_shorter_than_the_deadline_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(50):
        random.seed(seed)
        clock = Clock()
        assert fail_until(attempts(clock, monkeypatch), clock, 0.01, 59.9) <= 7, seed


def test_waits_are_random_and_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    firsts, sums = set(), []
    for seed in range(50):
        random.seed(seed)
        clock = Clock()
        tries = attempts(clock, monkeypatch)
        tries.wait(GenericError("connection"), 0)
        firsts.add(clock.now)
        assert clock.now <= 1
        for _ in range(5):
            tries.wait(GenericError("connection"), 0)
        sums.append(clock.now)
    assert len(firsts) == 50 and 25 < sum(sums) / 50 < 38, "half of 63 s on average"


def test_progress_restores_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(0)
    clock = Clock()
    tries = attempts(clock, monkeypatch)
    for _ in range(40):
        tries.wait(GenericError("connection"), 0)
        clock.now += 0.01
        tries.progressed()
    assert clock.now < 40


def test_the_promises_are_the_defaults() -> None:
    assert (RetryPolicy().request_s, RetryPolicy().total_s, RetryPolicy().requests) == (10, 60, 8)
