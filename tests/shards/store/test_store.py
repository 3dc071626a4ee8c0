"""One interface to folders, buckets and web servers. Faults of network and server are in test_storage_faults.py."""

import functools
import hashlib
import http.server
import os
import random
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards import ChangedShard, InputError, MissingShard, StorageError
from shards.store.download import RANGE_BYTES, Version
from shards.store.store import FolderStore, open_store
from tests.faults.servers.seaweed import ACCESS_KEY, PUBLIC_BUCKET, SECRET_KEY, SeaweedFS

ROOT = Path(__file__).parents[3]
NAME = "train-00000.tar"


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(params=["folder", "file", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind that can be written."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    folder = tmp_path / "a set"
    return str(folder) if request.param == "folder" else folder.as_uri()


@pytest.fixture
def public(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Below `PUBLIC_BUCKET`, a prefix with one object, and no keys in the environment."""
    prefix = f"{bucket.rpartition('/')[2]}/two words"
    assert open_store(f"s3://{PUBLIC_BUCKET}/{prefix}").upload(NAME, content(300_000))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    return prefix


def test_what_is_uploaded_is_there(location: str) -> None:
    store = open_store(location)
    data = content(100_000)
    assert store.list() == {} and store.size(NAME) is None and store.digest(NAME) is None
    assert store.upload(NAME, data)
    assert store.read(NAME) == data
    assert store.size(NAME) == len(data)
    assert store.digest(NAME) == hashlib.sha256(data).hexdigest()
    assert store.upload("empty.json", b"")
    assert store.read("empty.json") == b""
    assert store.list() == {NAME: len(data), "empty.json": 0}


def test_create_makes_but_does_not_replace(location: str) -> None:
    store = open_store(location)
    assert store.upload(NAME, b"first", create=True)
    assert not store.upload(NAME, b"second", create=True)
    assert store.read(NAME) == b"first"
    assert store.upload(NAME, b"third")
    assert store.read(NAME) == b"third"
    assert store.list() == {NAME: 5}, "nothing temporary is left"


def test_remove(location: str) -> None:
    store = open_store(location)
    store.upload(NAME, b"x")
    store.remove(NAME)
    store.remove(NAME)
    assert store.size(NAME) is None


def test_what_is_not_there(location: str, tmp_path: Path) -> None:
    store = open_store(location)
    for call in (lambda: store.read(NAME), lambda: store.download(NAME, 5, tmp_path / "target")):
        with pytest.raises(MissingShard, match=rf"{NAME}: (not there|No such file or directory)"):
            call()


@pytest.mark.parametrize("size", [1, RANGE_BYTES, RANGE_BYTES + 1, 2 * RANGE_BYTES + 777_777])
def test_a_download_is_the_object(location: str, tmp_path: Path, size: int) -> None:
    store, source, target = open_store(location), tmp_path / "source", tmp_path / "target"
    source.write_bytes(content(size))
    store.upload(NAME, source)
    target.write_bytes(b"longer than nothing")
    store.download(NAME, size, target)
    assert target.read_bytes() == content(size)
    if store.folder is None:
        assert store.traffic.bytes == size and store.traffic.active == 0
        assert store.traffic.retries == 0


@pytest.mark.parametrize("wrong", [-1, 1])
def test_another_size_is_another_object(location: str, tmp_path: Path, wrong: int) -> None:
    store = open_store(location)
    store.upload(NAME, content(1_000))
    with pytest.raises(ChangedShard, match=f"{NAME}: 1000 bytes, expected {1_000 + wrong}"):
        store.download(NAME, 1_000 + wrong, tmp_path / "target")


def test_many_downloads_at_once(bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket)
    for number in range(6):
        store.upload(f"{number}.tar", content(RANGE_BYTES + 1_000, number))
    with ThreadPoolExecutor(6) as pool:
        done = [
            pool.submit(store.download, f"{number}.tar", RANGE_BYTES + 1_000, tmp_path / str(number))
            for number in range(6)
        ]
    for number, future in enumerate(done):
        future.result()
        assert (tmp_path / str(number)).read_bytes() == content(RANGE_BYTES + 1_000, number)


@pytest.mark.parametrize("name", ["", ".", "..", "../x.tar", "a/b.tar", "/etc/passwd", "a\0.tar"])
def test_names_that_lead_elsewhere(location: str, name: str) -> None:
    store = open_store(location)
    with pytest.raises(InputError, match="not a plain file name"):
        store.read(name)
    with pytest.raises(InputError, match="not a plain file name"):
        store.upload(name, b"")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("ftp://host/set", "unknown kind of location ftp://"),
        ("s3://", "expected s3://bucket/prefix"),
        ("s3:///set", "unknown|expected s3://bucket/prefix"),
        ("s3://bucket/a/../b", "expected s3://bucket/prefix"),
        ("s3://bucket/a//b", "expected s3://bucket/prefix"),
        ("https://host/set?key=1", "a web location is a host and a path"),
        ("file://host/set", "expected file:///an/absolute/path"),
    ],
)
def test_locations_that_are_none(location: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_store(location)


def test_a_password_in_a_location_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        open_store("https://user:hunter2@host/set")
    assert "hunter2" not in str(caught.value)


def test_a_location_without_scheme_is_a_path(tmp_path: Path) -> None:
    store = open_store("pipe:cat x")
    assert store.folder == Path("pipe:cat x") and store.list() == {}
    assert open_store(tmp_path).location == open_store(f"{tmp_path}/").location == str(tmp_path)
    assert open_store(f"file://{tmp_path}/a%20b").folder == tmp_path / "a b"


def test_a_prefix_is_a_folder_not_a_beginning(bucket: str) -> None:
    open_store(f"{bucket}/set").upload(NAME, b"x")
    open_store(f"{bucket}/set2").upload(NAME, b"y")
    open_store(f"{bucket}/set/deeper").upload("deep.tar", b"z")
    assert open_store(f"{bucket}/set/").list() == {NAME: 1}


def test_odd_names_in_a_bucket(bucket: str) -> None:
    store = open_store(f"{bucket}/two words/漢字")
    store.upload("a b+ü%.tar", b"x")
    assert store.list() == {"a b+ü%.tar": 1} and store.read("a b+ü%.tar") == b"x"


def test_a_bucket_of_nobody_in_particular(public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    store = open_store(f"s3://{PUBLIC_BUCKET}/{public}")
    assert store.read(NAME) == content(300_000) and store.list() == {NAME: 300_000}
    with pytest.raises(StorageError, match=r"HTTP 403 AccessDenied from http://127.* as anonymous"):
        store.upload("other.tar", b"x")


def test_google(seaweed: SeaweedFS, public: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Google's XML interface is S3's, as far as reading goes."""
    monkeypatch.setenv("GOOGLE_BASE_URL", seaweed.endpoint)
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    store = open_store(f"gs://{PUBLIC_BUCKET}/{public}")
    store.download(NAME, 300_000, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == store.read(NAME) == content(300_000)
    assert store.list() == {NAME: 300_000}


def test_azure(seaweed: SeaweedFS, public: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reading a blob is reading an object; listing has a form of its own, which no server here speaks."""
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", seaweed.endpoint)
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    with pytest.raises(InputError, match="AZURE_STORAGE_ACCOUNT_NAME is not set"):
        open_store(f"az://{PUBLIC_BUCKET}/{public}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    store = open_store(f"az://{PUBLIC_BUCKET}/{public}")
    store.download(NAME, 300_000, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == store.read(NAME) == content(300_000)


def test_a_web_server(seaweed: SeaweedFS, public: str, tmp_path: Path) -> None:
    store = open_store(f"{seaweed.endpoint}/{PUBLIC_BUCKET}/{public.replace(' ', '%20')}")
    store.download(NAME, 300_000, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == store.read(NAME) == content(300_000)
    assert store.size(NAME) == 300_000 and store.size("other.tar") is None
    for call in (store.list, lambda: store.upload(NAME, b"")):
        with pytest.raises(StorageError, match=r"a web server .* give an s3:// location"):
            call()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Knows no ranges: answers 200 with the whole file."""

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def simple_server(tmp_path: Path) -> Iterator[str]:
    """Python's own web server on a folder `www`."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_web_server_without_ranges(simple_server: str, tmp_path: Path) -> None:
    data = content(2 * RANGE_BYTES + 5)
    (tmp_path / "www" / NAME).write_bytes(data)
    store = open_store(simple_server)
    store.download(NAME, len(data), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data == store.read(NAME)


PROFILES = f"""
[kept]
aws_access_key_id = {ACCESS_KEY}
aws_secret_access_key = {SECRET_KEY}

[wrong]
aws_access_key_id = AKIAWRONGKEY
aws_secret_access_key = not-the-%(secret
"""
CONFIG = "[profile kept]\nregion = us-east-1\nendpoint_url = {endpoint}\n[profile role]\nsso_session = x\n"


@pytest.fixture
def profiles(seaweed: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty location; keys and endpoint are in the files of AWS's tools, not in the environment."""
    for name in seaweed.environment:
        monkeypatch.delenv(name)
    for name, text in (("AWS_SHARED_CREDENTIALS_FILE", PROFILES), ("AWS_CONFIG_FILE", CONFIG)):
        (tmp_path / name).write_text(text.format(endpoint=seaweed.endpoint), encoding="utf-8")
        monkeypatch.setenv(name, str(tmp_path / name))
    return bucket


def test_keys_of_a_profile(profiles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "kept")
    store = open_store(profiles)
    assert store.upload(NAME, b"x") and store.read(NAME) == b"x"


def test_the_environment_comes_before_a_profile(
    profiles: str, monkeypatch: pytest.MonkeyPatch, seaweed: SeaweedFS
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "wrong")
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweed.endpoint)
    with pytest.raises(StorageError) as caught:
        open_store(profiles).read(NAME)
    assert "as access key AKIA...EY (profile wrong)" in str(caught.value)
    assert "not-the" not in str(caught.value)
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    assert open_store(profiles).list() == {}


def test_a_wrong_secret(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(bucket)
    with pytest.raises(StorageError) as caught:
        store.read(NAME)
    for part in (f"{bucket}/{NAME}", "SignatureDoesNotMatch", "test...ss (AWS_ACCESS_KEY_ID)", "AWS_SECRET_ACCESS_KEY"):
        assert part in str(caught.value)
    assert store.traffic.requests == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"AWS_PROFILE": "absent"}, "AWS_PROFILE=absent: no such profile"),
        ({"AWS_ACCESS_KEY_ID": "x"}, "AWS_SECRET_ACCESS_KEY is not"),
    ],
)
def test_credentials_that_cannot_be_used(
    profiles: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], message: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        open_store(profiles)


def test_a_broken_profile_file(profiles: str, tmp_path: Path) -> None:
    (tmp_path / "AWS_CONFIG_FILE").write_text("no section", encoding="utf-8")
    with pytest.raises(InputError, match="AWS_CONFIG_FILE: "):
        open_store(profiles)


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist() -> None:
    name = f"no-{uuid.uuid4().hex}"
    for call in (lambda: open_store(f"s3://{name}/set").read(NAME), open_store(f"s3://{name}/set").list):
        with pytest.raises(StorageError, match="there is no such bucket: check its name and AWS_ENDPOINT_URL"):
            call()


def test_a_full_disk(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    store = open_store(bucket)
    store.upload(NAME, content(1_000))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"target: No space left on device: 0\.0 MB needed, .* MB free"):
        store.download(NAME, 1_000, tmp_path / "target")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        FolderStore(tmp_path / "file").upload(NAME, b"x")


FEW_FILES = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shards.store.store import open_store
store, folder = open_store(sys.argv[1]), Path(sys.argv[2])
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda number: store.download("{NAME}", 40_000_000, folder / str(number)), range(8)))
"""


def test_few_files_may_be_open(bucket: str, tmp_path: Path) -> None:
    """Eight downloads of five parts each, in a process that may have 64 files open."""
    open_store(bucket).upload(NAME, content(40_000_000))
    command = ["prlimit", "--nofile=64:64", sys.executable, "-c", FEW_FILES, bucket, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / str(number)).read_bytes() == content(40_000_000) for number in range(8))


@pytest.mark.parametrize(
    ("etag", "time", "other_etag", "other_time", "differs"),
    [
        ('"a"', "2020", '"a"', "2020", False),
        ('"a"', "2020", '"a"', "2021", False),  # a mirror
        ('"a"', "2020", '"b"', "2020", True),
        ('"a"', "2020", None, "2020", True),
        (None, "2020", None, "2021", True),
        (None, "", None, "", False),
    ],
)
def test_etags_tell_versions_apart_or_else_times(
    etag: str | None, time: str, other_etag: str | None, other_time: str, differs: bool
) -> None:
    version, other = (
        Version(size=1, etag=each, last_modified=at) for each, at in ((etag, time), (other_etag, other_time))
    )
    assert version.differs(other) == other.differs(version) == differs
    assert version.is_certain == bool(etag or time)


def test_more_objects_than_a_page_of_a_listing_are_all_listed(bucket: str) -> None:
    """S3 answers with at most 1,000 names at a time."""
    store = open_store(bucket)
    names = [f"train-{number:05}.tar" for number in range(1_050)]
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda name: store.upload(name, name.encode()), names))
    assert store.list() == {name: len(name) for name in names}
