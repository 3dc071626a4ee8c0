"""push: the bucket holds the whole set or none, whatever happens; verify proves it there."""

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards import CorruptShard, InputError, MissingShard, StorageError, read_manifest, verify
from shards.store import store as storage
from shards.store.store import Store, open_store
from tests.faults.servers.proxy import FaultProxy
from tests.faults.servers.seaweed import SeaweedFS
from tests.shards.kinds import KINDS, Kind, drawn, write_set_of
from tools.commands.push import CLAIM_NAME, push
from tools.commands.verify import verify as verify_command

ROOT = Path(__file__).parents[3]
SPLITS = ("train", "val")


def make_set(folder: Path, kind: Kind = "none", *, seed: int = 0) -> Path:
    return write_set_of(folder, kind, {name: [drawn(9, 2 * seed + number)] for number, name in enumerate(SPLITS)})


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A packed set of two shards: twelve files."""
    return make_set(tmp_path / "set")


@pytest.fixture(params=["s3", "folder"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("bucket")) if request.param == "s3" else str(tmp_path / "pushed")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(store: Store) -> dict[str, bytes]:
    return {name: store.read(name) for name in store.list()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_of_every_kind_arrives(
    kind: Kind, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = make_set(tmp_path / "set", kind)
    push(local, bucket)
    assert contents(open_store(bucket)) == {path.name: path.read_bytes() for path in local.iterdir()}
    told = capsys.readouterr().out
    files = len(names(local)) - 1
    assert told.startswith(f"{bucket}: {files} files, ") and "already" not in told
    assert told.endswith(f"; sha256 of dataset.json: {read_manifest(local).identity()}\n")
    assert verify(bucket).problems == ()


def test_the_second_push_sends_nothing(location: str, local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(local, location)
    store = open_store(location)
    before = store.list()
    push(local, location)
    assert "0 files, 0.0 MB" in capsys.readouterr().out.splitlines()[-1]
    assert store.list() == before == {path.name: path.stat().st_size for path in local.iterdir()}


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The so-manieth upload fails."""
    uploads, upload = itertools.count(1), storage.ObjectStore.upload

    def fail(self: storage.ObjectStore, name: str, source: Path | bytes, *, create: bool = False) -> bool:
        if next(uploads) >= count:
            raise StorageError("pulled the plug")
        return upload(self, name, source, create=create)

    monkeypatch.setattr(storage.ObjectStore, "upload", fail)


@pytest.mark.parametrize("count", range(1, 8))
def test_an_interrupted_push_leaves_no_set_and_is_taken_up(
    count: int, bucket: str, local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(count, patch)
        with pytest.raises(StorageError, match="pulled the plug"):
            push(local, bucket)
    with pytest.raises(MissingShard, match=r"no dataset.json, so this is not a complete shard set"):
        verify(bucket)
    there = names(local) & set(open_store(bucket).list())
    push(local, bucket)
    assert verify(bucket).problems == ()
    told = capsys.readouterr().out
    assert f"{len(names(local)) - 1 - len(there)} files" in told
    assert not there or f"{len(there)} were there before" in told
    assert set(open_store(bucket).list()) == names(local)


PUSH = (
    "import sys; from pathlib import Path; from tools.commands.push import push; push(Path(sys.argv[1]), sys.argv[2])"
)


@pytest.mark.parametrize("puts", range(1, 9))
def test_a_killed_push(bucket: str, local: Path, proxy: FaultProxy, puts: int) -> None:
    """SIGKILL once so many files were sent or begun: never a set that is not whole, and the next push completes it."""
    proxy.latency_ms = 20
    with subprocess.Popen(
        [sys.executable, "-c", PUSH, str(local), bucket], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 60
        while proxy.requests["PUT"] < puts and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
    proxy.clear()
    store = open_store(bucket)
    assert "dataset.json" not in store.list() or names(local) <= set(store.list())
    push(local, bucket)
    assert verify(bucket).problems == () and set(store.list()) == names(local)


def test_another_set_is_not_overwritten(location: str, local: Path, tmp_path: Path) -> None:
    push(local, location)
    before = contents(open_store(location))
    other = make_set(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"dataset.json: another set is there: sha256 .*choose another prefix"):
        push(other, location)
    assert contents(open_store(location)) == before


@pytest.mark.parametrize("name", ["train-00000.tar", "val-00000.idx"])
@pytest.mark.parametrize("same_size", [False, True])
def test_a_file_of_another_set_is_not_overwritten(location: str, local: Path, name: str, same_size: bool) -> None:
    store = open_store(location)
    size = (local / name).stat().st_size if same_size else 5
    store.upload(name, bytes(size))
    with pytest.raises(InputError, match=rf"{name}: .*: of another set; choose another prefix"):
        push(local, location)
    assert contents(store) == {name: bytes(size)}


@pytest.mark.parametrize("name", ["test-00000.tar", "old.json", "x.samples.npy"])
def test_a_stranger_stops_a_push(location: str, local: Path, name: str) -> None:
    store = open_store(location)
    store.upload(name, b"x")
    with pytest.raises(InputError, match=f"{name}: not part of the set; choose another prefix"):
        push(local, location)
    assert contents(store) == {name: b"x"}


def test_notes_beside_a_set_do_not(location: str, local: Path) -> None:
    open_store(location).upload("README.txt", b"x")
    push(local, location)
    assert verify(location).problems == ()


def test_files_that_other_tools_sent_are_compared(bucket: str, seaweed: SeaweedFS, local: Path) -> None:
    """Without a sha256 beside them they are fetched."""
    import obstore
    from obstore.store import S3Store

    plain = S3Store("tests", endpoint=seaweed.endpoint, client_options={"allow_http": True})
    prefix = bucket.rpartition("/")[2]
    obstore.put(plain, f"{prefix}/train-00000.tar", local / "train-00000.tar")
    assert open_store(bucket).digest("train-00000.tar") is None
    push(local, bucket)
    assert verify(bucket).problems == ()


def test_a_push_of_another_set_that_was_interrupted(
    bucket: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(StorageError):
            push(local, bucket)
    assert set(open_store(bucket).list()) == {CLAIM_NAME}
    with pytest.raises(
        InputError, match=r"dataset.json.partial: another set is being pushed here, or its push was interrupted"
    ):
        push(make_set(tmp_path / "other", seed=1), bucket)
    push(local, bucket)


def race(folders: list[Path], location: str) -> list[BaseException | None]:
    """Pushes at the same time; how each ended."""
    ended: list[BaseException | None] = [None] * len(folders)
    gate = threading.Barrier(len(folders))

    def run(number: int) -> None:
        gate.wait()
        try:
            push(folders[number], location)
        except InputError as error:
            ended[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(folders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return ended


def test_two_sets_pushed_at_once(bucket: str, local: Path, tmp_path: Path) -> None:
    """Ten times: one is there, whole, and the other was refused."""
    other = make_set(tmp_path / "other", seed=1)
    for number in range(10):
        ended = race([local, other], f"{bucket}/{number}")
        assert sum(error is None for error in ended) == 1, ended
        winner = (local, other)[ended.index(None)]
        assert contents(open_store(f"{bucket}/{number}")) == {path.name: path.read_bytes() for path in winner.iterdir()}


def test_one_set_pushed_twice_at_once(bucket: str, local: Path) -> None:
    for number in range(5):
        assert race([local, local], f"{bucket}/{number}") == [None, None]
        assert verify(f"{bucket}/{number}").problems == ()


@pytest.mark.parametrize("name", ["train-00000.tar", "val-00000.idx", "index.json"])
def test_a_set_that_is_not_whole_is_not_pushed(location: str, local: Path, name: str) -> None:
    (local / name).unlink()
    with pytest.raises(MissingShard, match=f"{name}: not there"):
        push(local, location)
    assert open_store(location).list() == {}


def test_a_damaged_set_is_not_pushed(location: str, local: Path) -> None:
    shard = local / "val-00000.tar"
    os.truncate(shard, shard.stat().st_size - 512)
    with pytest.raises(CorruptShard, match=r"val-00000.tar: \d+ bytes, expected"):
        push(local, location)
    os.truncate(shard, shard.stat().st_size + 512)
    data = bytearray(shard.read_bytes())
    data[9_999] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptShard, match=r"val-00000.tar: block 000000 at byte 0: crc32 .*, expected"):
        push(local, location)
    assert "dataset.json" not in open_store(location).list()


def test_tars_that_lie_elsewhere(bucket: str, tmp_path: Path) -> None:
    local = make_set(tmp_path / "set", "png")
    text = (local / "dataset.json").read_text(encoding="utf-8")
    assert '"base": ""' in text
    (local / "dataset.json").write_text(text.replace('"base": ""', f'"base": "{tmp_path}"'), encoding="utf-8")
    with pytest.raises(InputError, match="kkanji convert"):
        push(local, bucket)


def test_a_web_server_takes_nothing(local: Path) -> None:
    with pytest.raises(StorageError, match=r"a web server .* give an s3:// location"):
        push(local, "https://127.0.0.1/set")


@pytest.fixture
def proxy(seaweed: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    assert bucket
    with FaultProxy(seaweed.port) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
        yield found


def test_push_and_verify_through_faults(bucket: str, local: Path, proxy: FaultProxy) -> None:
    """The first upload and a tenth of all requests are refused, and as many answers are cut; 8 in a row would fail."""
    faults = [proxy.arm("503", times=1, match="PUT "), proxy.arm("503", rate=0.1, match="/")]
    faults += [proxy.arm("reset", rate=0.05), proxy.arm("short", rate=0.05)]
    push(local, bucket)
    assert verify(bucket).problems == ()
    assert sum(fault.met for fault in faults) > 0


def test_verify_of_a_bucket_finds_what_is_wrong(bucket: str, local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(local, bucket)
    store = open_store(bucket)
    damaged = bytearray(store.read("train-00000.tar"))
    damaged[9_999] ^= 1
    store.upload("train-00000.tar", bytes(damaged))
    store.remove("val-00000.tar")
    store.upload("old.json", b"{}")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        verify_command(bucket)
    assert caught.value.code == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    expected = (
        "old.json: not part",
        "train-00000.tar: block 000000",
        "train-00000.tar: sha256",
        "val-00000.tar: not there",
    )
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(f"problem: {bucket}/{start}")


@pytest.mark.parametrize("kind", KINDS)
def test_verify_finds_a_flipped_bit_in_a_bucket(kind: Kind, bucket: str, tmp_path: Path, proxy: FaultProxy) -> None:
    """On its way or at rest is the same to it."""
    local = make_set(tmp_path / "set", kind)
    push(local, bucket)
    for name in sorted(names(local) - {"index.json", "dataset.json"}):
        proxy.clear()
        flip = proxy.arm("flip", times=1, match=f"/{name}")
        assert any(problem.startswith(f"{bucket}/{name}: ") for problem in verify(bucket).problems), name
        assert flip.met == 1
    proxy.clear()
    assert verify(bucket).problems == ()


def test_verify_does_not_blame_the_set_for_the_network(bucket: str, local: Path, proxy: FaultProxy) -> None:
    push(local, bucket)
    proxy.arm("403", match="train-00000.tar")
    with pytest.raises(StorageError, match="HTTP 403"):
        verify(bucket)


def test_verify_through_a_web_server(
    bucket: str, seaweed: SeaweedFS, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = bucket.rpartition("/")[2]
    push(local, f"s3://public/{prefix}")
    capsys.readouterr()
    verify_command(f"{seaweed.endpoint}/public/{prefix}")
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "clean" and "not checked: files that do not belong to the set" in told[-2]


def test_the_disk_holds_two_shards_at_most(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = write_set_of(tmp_path / "set", "none", {f"split{number}": [drawn(9, number)] for number in range(1)})
    shutil.copytree(local, tmp_path / "copy")
    push(local, bucket)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    seen: list[int] = []
    verify(bucket, progress=lambda _: seen.append(len([*temporary.rglob("*.tar")])))
    assert max(seen) <= 2 and not [*temporary.iterdir()]


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (("push", "SET", "BUCKET"), 0, "BUCKET: 11 files"),
        (("push", "SET", "ftp://host/set"), 2, "error: ftp://host/set: unknown kind of location"),
        (("verify", "BUCKET"), 2, "error: BUCKET: no dataset.json"),
    ],
)
def test_as_a_shell_sees_it(bucket: str, local: Path, command: tuple[str, ...], code: int, told: str) -> None:
    arguments = [part.replace("SET", str(local)).replace("BUCKET", bucket) for part in command]
    whole = [sys.executable, "-m", "tools", *arguments]
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code
    assert (done.stdout + done.stderr).startswith(told.replace("BUCKET", bucket)), done.stderr
