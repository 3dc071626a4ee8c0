"""The environment as it is found: blank, malformed and foreign settings of object stores."""

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from shards import CorruptShard, InputError, MissingShard, ShardError, StorageError
from shards.store.retry import RetryPolicy, Workers
from shards.store.store import open_store

ONCE = RetryPolicy(request_s=2, total_s=0.1, requests=1)
NOBODY = "127.0.0.1:9"
LOCATIONS = {"AWS_": "s3://bucket/set", "GOOGLE_": "gs://bucket/set", "AZURE_": "az://container/set"}
SETTINGS = {
    "AWS_": {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": f"http://{NOBODY}"},
    "GOOGLE_": {"GOOGLE_SKIP_SIGNATURE": "true", "GOOGLE_BASE_URL": f"http://{NOBODY}"},
    "AZURE_": {
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": "YQ==",
        "AZURE_STORAGE_ENDPOINT": f"http://{NOBODY}",
    },
}
VARIABLES = """
AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL
AWS_ENDPOINT_URL_S3 AWS_ENDPOINT AWS_SKIP_SIGNATURE AWS_ALLOW_HTTP AWS_VIRTUAL_HOSTED_STYLE_REQUEST AWS_ROLE_ARN
AWS_IMDSV1_FALLBACK AWS_METADATA_ENDPOINT AWS_ROLE_SESSION_NAME AWS_ENDPOINT_URL_STS AWS_CHECKSUM_ALGORITHM
AWS_S3_EXPRESS AWS_REQUEST_PAYER AWS_UNSIGNED_PAYLOAD AWS_CONDITIONAL_PUT AWS_DISABLE_TAGGING AWS_CA_BUNDLE
AWS_SERVER_SIDE_ENCRYPTION AWS_PROFILE
GOOGLE_SERVICE_ACCOUNT GOOGLE_SERVICE_ACCOUNT_KEY GOOGLE_APPLICATION_CREDENTIALS GOOGLE_BASE_URL GOOGLE_SKIP_SIGNATURE
AZURE_STORAGE_ACCOUNT_NAME AZURE_STORAGE_ACCOUNT_KEY AZURE_STORAGE_ENDPOINT AZURE_ENDPOINT AZURE_STORAGE_SAS_TOKEN
AZURE_SKIP_SIGNATURE AZURE_STORAGE_TOKEN AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_STORAGE_USE_EMULATOR
""".split()
FORMS = ("", "  \n", NOBODY, "x y", "http://[", "http://127.0.0.1:99999", "a\nb", "\x7f", "\udcff")


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith((*SETTINGS, "SSL_CERT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_setting_is_used_or_named_and_never_a_panic(clean: pytest.MonkeyPatch, variable: str) -> None:
    """Blank is unset. Any other value is refused by the variable's name, or a request is made that fails."""
    sign = next(sign for sign in SETTINGS if variable.startswith(sign))
    for form in FORMS:
        for name, value in SETTINGS[sign].items():
            clean.setenv(name, value)
        clean.setenv(variable, form)
        try:
            open_store(LOCATIONS[sign], retry_policy=ONCE).read("dataset.json")
        except ShardError as error:  # a request
            assert "panic" not in str(error).lower() and "obstore failed" not in str(error)
        except InputError as error:
            needed = not form.strip() and variable in SETTINGS[sign]  # its absence is told by another's name
            assert (variable in str(error) or needed) and len(str(error)) < 400
        if not form.strip():
            assert variable not in os.environ


def test_a_line_feed_from_copying_is_forgiven(clean: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS["AWS_"].items():
        clean.setenv(name, f" {value}\n")
    with pytest.raises(StorageError, match=f"from http://{NOBODY}"):
        open_store(LOCATIONS["AWS_"], retry_policy=ONCE).read("x")


def test_a_secret_is_not_shown(clean: pytest.MonkeyPatch) -> None:
    for name, value in (SETTINGS["AZURE_"] | {"AZURE_STORAGE_ACCOUNT_KEY": "no base64 but secret"}).items():
        clean.setenv(name, value)
    with pytest.raises(InputError, match="AZURE_STORAGE_ACCOUNT_KEY has a value that its client refuses") as told:
        open_store(LOCATIONS["AZURE_"])
    assert "secret" not in str(told.value).replace("SECRET", "")


def test_a_panic_of_the_client_is_an_error_of_storage() -> None:
    class PanicException(BaseException):
        """As pyo3 raises it."""

    def panic() -> None:
        raise PanicException("called `Result::unwrap()` on an `Err` value")

    with pytest.raises(StorageError, match=r"obstore failed.*check the location, and the variables"):
        Workers(1).submit(panic).result()


class Catch(BaseHTTPRequestHandler):
    """A store that has nothing, and remembers what it was asked with."""

    seen: list[dict[str, str]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_GET


@pytest.fixture
def store(clean: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    Catch.seen = []
    for name, value in SETTINGS["AWS_"].items():
        clean.setenv(name, value)
    with HTTPServer(("127.0.0.1", 0), Catch) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        clean.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_an_empty_token_is_none(store: HTTPServer, clean: pytest.MonkeyPatch, token: str) -> None:
    clean.setenv("AWS_SESSION_TOKEN", token)
    with pytest.raises(MissingShard):
        open_store(LOCATIONS["AWS_"], retry_policy=ONCE).read("x")
    assert store and Catch.seen and "x-amz-security-token" not in Catch.seen[0]


@pytest.fixture
def certified(store: HTTPServer, clean: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The same server under TLS; the certificate of its own authority."""
    make = "openssl req -newkey rsa:2048 -nodes -subj /CN=x -x509 -keyout {0}.key -out {0}.pem -days 2"
    subprocess.run(make.format("ca").split(), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    for command in (
        "openssl req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout leaf.key -out leaf.csr",
        "openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out leaf.pem",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf.pem", tmp_path / "leaf.key")
    store.socket = context.wrap_socket(store.socket, server_side=True)
    clean.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{store.server_port}")
    return tmp_path / "ca.pem"


def test_an_authority_of_ones_own_is_trusted(certified: Path, clean: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="certificate not trusted"):
        open_store(LOCATIONS["AWS_"], retry_policy=ONCE).read("x")
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        clean.setenv(name, str(certified))
        with pytest.raises(MissingShard):
            open_store(LOCATIONS["AWS_"], retry_policy=ONCE).read("x")
        clean.delenv(name)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_that_is_none_is_named(clean: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    clean.setenv(name, str(tmp_path / "absent.pem"))
    with pytest.raises(InputError, match=rf"{name}=.*absent.pem: No such file"):
        open_store(LOCATIONS["AWS_"])
    (tmp_path / "text.pem").write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    clean.setenv(name, str(tmp_path / "text.pem"))
    with pytest.raises(InputError, match=rf"{name} names a file without certificates"):
        open_store(LOCATIONS["AWS_"])


BOTO3 = """
class Keys:
    access_key, secret_key, token = "{key}", "secret", "session"
class Credentials:
    def get_frozen_credentials(self):
        return Keys
class Session:
    def __init__(self, profile_name):
        assert profile_name == "work"
        self.region_name = None
    def get_credentials(self):
        return Credentials()
"""


@pytest.fixture
def profile(store: HTTPServer, clean: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A profile whose keys come by single sign-on."""
    assert store
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        clean.delenv(name)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[profile work]\nsso_session = x\n")
    clean.setenv("AWS_PROFILE", "work")
    return clean


def test_boto3_gets_the_keys_that_no_file_has(profile: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a stand-in for boto3, as only its session's keys are asked for."""
    for package, text in (("boto3", BOTO3.format(key="AKIAWORK")), ("botocore", "")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(text)
    (tmp_path / "boto3" / "session.py").write_text("from boto3 import Session")
    (tmp_path / "botocore" / "credentials.py").write_text("Credentials = object")
    (tmp_path / "botocore" / "session.py").write_text("Session = object")
    for name in [name for name in sys.modules if name.startswith(("boto", "obstore.auth.boto3"))]:
        profile.delitem(sys.modules, name)
    profile.syspath_prepend(tmp_path)
    with pytest.raises(MissingShard, match=r"as AWS profile work \(sso_session\)"):
        open_store(LOCATIONS["AWS_"], retry_policy=ONCE).read("x")
    assert "Credential=AKIAWORK/" in Catch.seen[0]["authorization"]
    assert Catch.seen[0]["x-amz-security-token"] == "session"
    for name in [name for name in sys.modules if name.startswith(("boto", "obstore.auth.boto3"))]:
        del sys.modules[name]


def test_without_boto3_the_extra_is_named(profile: pytest.MonkeyPatch) -> None:
    profile.setitem(sys.modules, "boto3", None)
    with pytest.raises(InputError, match=r"pip install 'kkanji\[aws\]', or set AWS_ACCESS_KEY_ID"):
        open_store(LOCATIONS["AWS_"], retry_policy=ONCE).read("x")
    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")):  # as it says
        profile.setenv(name, value)
    with pytest.raises(MissingShard):
        open_store(LOCATIONS["AWS_"], retry_policy=ONCE).read("x")


@pytest.mark.parametrize("location", ["s3:/bucket/set", "https:/host/x", "gs:/b", "file:/x"])
def test_a_location_that_lacks_a_slash_is_no_folder(location: str) -> None:
    with pytest.raises(InputError, match=rf"{location}: expected \w+://\.\.\. for a location, or \./"):
        open_store(location)
    assert open_store(f"./{location}").folder == Path(location)


@pytest.mark.parametrize("target", ["/again", "file:///etc/passwd", "http://127.0.0.1:9/x"])
def test_a_redirection_is_followed_nowhere_and_told_at_once(
    store: HTTPServer, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def redirect(handler: Catch) -> None:
        handler.seen.append({})
        handler.send_response(302)
        handler.send_header("location", target)
        handler.send_header("content-length", "0")
        handler.end_headers()

    monkeypatch.setattr(Catch, "do_GET", redirect)
    policy = RetryPolicy(request_s=5, total_s=2, requests=2, wait_s=0.01)
    with pytest.raises(StorageError, match=r"HTTP 302|redirected|no connection|connection refused"):
        open_store(f"http://127.0.0.1:{store.server_port}/set", retry_policy=policy).read("x")
    assert len(Catch.seen) <= 24


def test_a_small_file_of_any_size_is_not_believed(store: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announced: 4 TiB, 3 GiB, and one byte more than is read."""
    for size in (1 << 42, 3 << 30, (64 << 20) + 1):

        def endless(handler: Catch, size: int = size) -> None:
            handler.send_response(206)
            handler.send_header("content-range", f"bytes 0-{size - 1}/{size}")
            handler.send_header("content-length", str(size))
            handler.end_headers()
            with suppress(OSError):
                handler.wfile.write(bytes(1 << 20))
                handler.close_connection = True

        monkeypatch.setattr(Catch, "do_GET", endless)
        with pytest.raises(CorruptShard, match=f"{size:,} bytes, expected at most 67,108,864"):
            open_store(f"http://127.0.0.1:{store.server_port}/set", retry_policy=ONCE).read("dataset.json")
