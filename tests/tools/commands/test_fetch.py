"""fetch: against a real web server, with and without what makes resumption possible, and through a proxy that spoils.

A file has its name only when it is whole and its checksum right; a second run downloads nothing.
"""

import hashlib
import io
import random
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards import StorageError
from shards.errors import ChangedShard, InputError
from shards.store import download as transfer
from shards.store.retry import RetryPolicy
from tests.faults.servers.proxy import FaultProxy
from tests.faults.servers.webserver import WebServer
from tools.commands import fetch as fetching
from tools.commands.fetch import FILES, Published, fetch
from tools.ingest import download as downloads
from tools.ingest.download import download, open_remote

RANGE = 64 << 10
SIZE = 5 * RANGE + 1234
DATA = random.Random(0).randbytes(SIZE)
PATH = "k49/k49-train-imgs.npz"
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
PASSING = ("500", "502", "503", "429", "reset", "short", "lie", "long", "stall", "hang")

Served = Callable[..., WebServer]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules with small ranges and short deadlines, for one file."""
    monkeypatch.setattr(downloads, "RETRY_POLICY", RetryPolicy(request_s=1, total_s=3, wait_s=0.05))
    monkeypatch.setattr(transfer, "RANGE_BYTES", RANGE)
    monkeypatch.setattr(transfer, "PIECE_BYTES", 4 << 10)
    monkeypatch.setattr(fetching, "FILES", (Published("k49", "k49-train-imgs.npz", MD5),))


@pytest.fixture
def served() -> Iterator[Served]:
    """Starts web servers: `served(ranges=False)`."""
    running: list[WebServer] = []

    def serve(**options: bool) -> WebServer:
        running.append(WebServer({PATH: DATA}, **options).__enter__())
        return running[-1]

    yield serve
    for server in running:
        server.__exit__(None, None, None)


def url(server: WebServer | FaultProxy) -> str:
    return f"http://127.0.0.1:{server.port}/"


def target(output: Path) -> Path:
    return output / PATH


def names(output: Path) -> list[str]:
    return sorted(path.name for path in output.rglob("*") if path.is_file())


def leave_part(output: Path, server: WebServer, size: int) -> None:
    """What a run that was killed after so many bytes leaves."""
    stopped = RuntimeError("killed")

    def stop(present: int, _: int) -> None:
        if present >= size:
            raise stopped

    with pytest.raises(RuntimeError, match="killed"):
        download(open_remote(url(server), PATH), target(output), md5=MD5, progress=stop)
    assert names(output) == [".k49-train-imgs.npz.part", ".k49-train-imgs.npz.part.json"]
    server.requests.clear()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("times", [True, False])
def test_a_file_comes_whole_from_any_server(
    served: Served, tmp_path: Path, ranges: bool, etags: bool, times: bool
) -> None:
    fetch(("k49",), output=tmp_path, url=url(served(ranges=ranges, etags=etags, times=times)))
    assert target(tmp_path).read_bytes() == DATA
    assert names(tmp_path) == ["k49-train-imgs.npz"]


def test_a_second_run_asks_for_nothing(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = served()
    fetch(("k49",), output=tmp_path, url=url(server))
    assert f"{target(tmp_path)}: 0.3 MB in " in capsys.readouterr().out
    server.requests.clear()
    fetch(("k49",), output=tmp_path, url=url(server))
    assert server.requests == []
    output = capsys.readouterr().out
    assert "exists, md5 as published" in output
    assert output.endswith(f"next: kkanji combine {tmp_path}/k49 --output originals\n")


def test_the_next_command_names_what_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetching, "FILES", FILES)
    (tmp_path / "kkanji").mkdir()
    (tmp_path / "kkanji" / "kkanji.tar").write_bytes(bytes(1024))  # a tar without members
    fetch(("kkanji",), output=tmp_path)
    expected = f"next: kkanji combine {tmp_path}/kkanji/kkanji.tar --output originals\n"
    assert capsys.readouterr().out.endswith(expected)


@pytest.mark.parametrize(("etags", "times"), [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_where_a_killed_one_was(
    served: Served, tmp_path: Path, etags: bool, times: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    server = served(etags=etags, times=times)
    leave_part(tmp_path, server, 2 * RANGE)
    fetch(("k49",), output=tmp_path, url=url(server))
    asked = [span for method, _, span in server.requests if method == "GET"]
    assert asked[0].startswith(f"bytes={2 * RANGE}-") and len(asked) == 4
    assert target(tmp_path).read_bytes() == DATA
    assert "0.2 MB of them now" in capsys.readouterr().out


@pytest.mark.parametrize(("ranges", "validators"), [(False, True), (True, False), (False, False)])
def test_what_cannot_be_resumed_is_begun_again(served: Served, tmp_path: Path, ranges: bool, validators: bool) -> None:
    server = served(ranges=ranges, etags=validators, times=validators)
    leave_part(tmp_path, server, RANGE)
    part = target(tmp_path).with_name(".k49-train-imgs.npz.part")
    part.write_bytes(bytes(part.stat().st_size))  # must not be kept
    fetch(("k49",), output=tmp_path, url=url(server))
    assert target(tmp_path).read_bytes() == DATA


def test_a_part_of_a_file_that_was_replaced_is_not_continued(served: Served, tmp_path: Path) -> None:
    server = served()
    leave_part(tmp_path, server, 2 * RANGE)
    server.files[PATH] = bytes(SIZE)
    with pytest.raises(InputError, match=f"md5 {hashlib.md5(bytes(SIZE), usedforsecurity=False).hexdigest()}"):
        fetch(("k49",), output=tmp_path, url=url(server))
    assert names(tmp_path) == []


def test_a_file_replaced_meanwhile_is_refused_and_then_fetched(served: Served, tmp_path: Path) -> None:
    server = served()
    new = DATA[::-1]

    def replace(present: int, _: int) -> None:
        if present == RANGE:
            server.files[PATH] = new

    remote = open_remote(url(server), PATH)
    with pytest.raises(ChangedShard, match=r"k49-train-imgs.npz: .*: replaced while it was read; start again"):
        download(remote, target(tmp_path), md5="", progress=replace)
    assert not target(tmp_path).exists()
    md5 = hashlib.md5(new, usedforsecurity=False).hexdigest()
    download(remote, target(tmp_path), md5=md5, progress=lambda *_: None)
    assert target(tmp_path).read_bytes() == new


@pytest.mark.parametrize(
    ("kind", "ranges"),
    [(kind, True) for kind in PASSING] + [(kind, False) for kind in ("500", "503", "429", "reset", "short")],
)
def test_passing_faults_are_overcome(served: Served, tmp_path: Path, kind: str, ranges: bool) -> None:
    with FaultProxy(served(ranges=ranges).port) as proxy:
        fault = proxy.arm(kind, times=1 if kind in ("stall", "hang") else 2)
        fetch(("k49",), output=tmp_path, url=url(proxy))
        assert fault.met == (1 if kind in ("stall", "hang") else 2)
    assert target(tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("kind", ["lie", "long"])
def test_a_wrong_length_is_refused_where_no_range_tells_the_right_one(
    served: Served, tmp_path: Path, kind: str
) -> None:
    with FaultProxy(served(ranges=False).port) as proxy:
        proxy.arm(kind)
        with pytest.raises(ChangedShard, match="replaced while it was read"):
            fetch(("k49",), output=tmp_path, url=url(proxy))
    assert not target(tmp_path).exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_wrong_checksum_leaves_no_file(served: Served, tmp_path: Path, ranges: bool) -> None:
    with FaultProxy(served(ranges=ranges).port) as proxy:
        proxy.arm("flip", times=1 if ranges else 2)  # a server without ranges is asked once more, for the whole
        with pytest.raises(InputError) as caught:
            fetch(("k49",), output=tmp_path, url=url(proxy))
        assert f", expected {MD5}: damaged on the way or not the published file; removed" in str(caught.value)
        assert names(tmp_path) == []
        fetch(("k49",), output=tmp_path, url=url(proxy))
    assert target(tmp_path).read_bytes() == DATA


def test_a_damaged_file_that_is_there_is_named_and_kept(served: Served, tmp_path: Path) -> None:
    target(tmp_path).parent.mkdir()
    target(tmp_path).write_bytes(b"mine")
    with pytest.raises(InputError, match=f"md5 {hashlib.md5(b'mine').hexdigest()}, expected {MD5}: damaged or"):  # noqa: S324
        fetch(("k49",), output=tmp_path, url=url(served()))
    assert target(tmp_path).read_bytes() == b"mine"


def test_a_missing_file_is_reported(served: Served, tmp_path: Path) -> None:
    server = served()
    server.files.clear()
    with pytest.raises(InputError, match=r"k49-train-imgs.npz: not there \(HTTP 404\); check the address, or name a"):
        fetch(("k49",), output=tmp_path, url=url(server))
    assert names(tmp_path) == []


def test_a_server_that_only_fails_is_given_up_and_what_came_is_kept(served: Served, tmp_path: Path) -> None:
    with FaultProxy(served().port) as proxy:
        proxy.arm("reset", times=1)
        proxy.arm("503")
        with pytest.raises(StorageError, match=r"HTTP 503 SlowDown from http://127\.0\.0\.1:\d+, 8 requests in "):
            fetch(("k49",), output=tmp_path, url=url(proxy))
        assert target(tmp_path).with_name(".k49-train-imgs.npz.part").stat().st_size == RANGE // 2
        proxy.clear()
        fetch(("k49",), output=tmp_path, url=url(proxy))
        assert proxy.bytes == SIZE - RANGE // 2
    assert target(tmp_path).read_bytes() == DATA


def test_an_interrupted_run_says_how_far_it_was(served: Served, tmp_path: Path) -> None:
    def interrupt(present: int, _: int) -> None:
        if present == 2 * RANGE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        download(open_remote(url(served()), PATH), target(tmp_path), md5=MD5, progress=interrupt)
    assert caught.value.__notes__ == [
        f"{tmp_path}/k49/.k49-train-imgs.npz.part: 0.1 of 0.3 MB are kept; run again to go on"
    ]


def test_no_server_at_all_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"connection refused from http://127\.0\.0\.1:9, 8 requests"):
        fetch(("k49",), output=tmp_path, url="http://127.0.0.1:9/")


def test_two_runs_do_not_write_one_file(served: Served, tmp_path: Path) -> None:
    server, inside, go_on = served(), threading.Event(), threading.Event()

    def wait(*_: int) -> None:
        inside.set()
        go_on.wait(60)

    remote = open_remote(url(server), PATH)
    first = threading.Thread(target=download, args=(remote, target(tmp_path)), kwargs={"md5": MD5, "progress": wait})
    first.start()
    assert inside.wait(60)
    with pytest.raises(InputError, match="another process is fetching it; wait for it or choose another --output"):
        fetch(("k49",), output=tmp_path, url=url(server))
    go_on.set()
    first.join(60)
    assert target(tmp_path).read_bytes() == DATA


def test_other_locations_are_refused(tmp_path: Path) -> None:
    for location in ("s3://bucket/prefix", "ftp://host/path", "data"):
        with pytest.raises(InputError):
            fetch(("k49",), output=tmp_path, url=location)


def test_every_file_has_its_own_place_and_checksum() -> None:
    assert len({file.path for file in FILES}) == len(FILES) == 11
    assert [file.name for file in FILES if len(file.md5) != 32] == ["kkanji.tar"]
    assert len({file.md5 for file in FILES}) == len(FILES)


def tar_of(count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"kkanji2/U+4E00/{number:016x}.png")
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(700)))
    return buffer.getvalue()


WHOLE = tar_of(3)
CUTS = {name: WHOLE[:size] for name, size in (("nothing", 0), ("header", 300), ("member", 1200), ("end", 4608))}


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_archive_without_a_checksum_is_refused_by_its_own_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the way, and where it lies already. Removed and fetched again, as the message says, it is whole."""
    monkeypatch.setattr(fetching, "FILES", (Published("kkanji", "kkanji.tar", ""),))
    target = tmp_path / "kkanji" / "kkanji.tar"
    with WebServer({"kkanji/kkanji.tar": CUTS[cut]}) as server, pytest.raises(InputError, match=r"0 bytes|cut short"):
        fetch(("kkanji",), output=tmp_path, url=url(server))
    assert not target.exists() and names(tmp_path) == []
    target.write_bytes(CUTS[cut])
    with pytest.raises(InputError, match=r"kkanji\.tar: (0 bytes|ends at byte)"):
        fetch(("kkanji",), output=tmp_path)
    target.unlink()
    with WebServer({"kkanji/kkanji.tar": WHOLE}) as server:
        fetch(("kkanji",), output=tmp_path, url=url(server))
    fetch(("kkanji",), output=tmp_path)
    assert target.read_bytes() == WHOLE and "whole by its own structure" in capsys.readouterr().out


def test_what_is_no_tar_at_all_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FILES", (Published("kkanji", "kkanji.tar", ""),))
    with WebServer({"kkanji/kkanji.tar": b"<html>" * 200}) as server, pytest.warns(UserWarning, match="not with a tar"):
        fetch(("kkanji",), output=tmp_path, url=url(server))
