"""Clients of object stores by URL scheme, with the credentials that the ecosystem's other tools would find.

- `s3://bucket/prefix`: S3 and what speaks it. `AWS_ENDPOINT_URL[_S3]`, `AWS_REGION`, `AWS_ACCESS_KEY_ID` ..., else a
  profile, else the role of the machine; `AWS_SKIP_SIGNATURE=true` for a public bucket.
- `gs://bucket/prefix`: Google Cloud Storage. `GOOGLE_APPLICATION_CREDENTIALS` ..., `GOOGLE_BASE_URL`.
- `az://container/prefix`: Azure Blob Storage. `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY` ...,
  `AZURE_STORAGE_ENDPOINT`.
- `https://host/path`, `http://...`: any web server, read only, without credentials.

Everything named AWS_*, GOOGLE_* and AZURE_* that obstore documents works. A blank variable is an unset one; what no
client can use is refused by its name, since obstore's Rust code would panic. Profiles with keys are read here, as
obstore knows none: `AWS_PROFILE` (or `default`) of `~/.aws/credentials` and `~/.aws/config`. Profiles that get their
keys elsewhere (SSO, an assumed role, a program) need boto3, the extra `aws`. A certificate authority of one's own is
named by `AWS_CA_BUNDLE` or `SSL_CERT_FILE`.
"""

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from shards.errors import InputError
from shards.json_reading import read_bounded

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Credential

CLIENTS = 16  # most that are kept: each has connections
SCHEMES = ("s3", "gs", "az", "http", "https")
PROFILE_LASTS = timedelta(minutes=5)  # then its file is read again, as tools that rotate keys rewrite it
NOT_STATIC = ("role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file")
SIGNS = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}  # with which the variables begin that a client reads
AUTHORITIES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")
MOST_CERTIFICATE_BYTES = 16 << 20
IS_URL = re.compile(r"ENDPOINT|_URL$|_URI$|AUTHORITY_HOST")
IS_PATH = re.compile(r"RELATIVE_URI$")
IS_HOST_PART = re.compile(r"REGION$|ACCOUNT_NAME$|_BUCKET$|CONTAINER_NAME$")
HOST_PART = re.compile(r"[\w.-]{1,128}", re.ASCII)
ROLE_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """A bucket, and how it is reached."""

    scheme: str
    """One of SCHEMES."""
    bucket: str
    """Bucket or container; for a web server the URL of its root."""
    host: str
    """The URL to which requests go, for messages."""
    identity: str
    """The account or key that requests are signed with, for messages; nothing secret."""
    options: tuple[tuple[str, str], ...] = ()
    """Settings for the client that it does not read from the environment itself."""
    profile: str | None = None
    """The AWS profile whose keys are used; None for keys from elsewhere."""
    by_boto3: bool = False
    """Whether boto3 gets the profile's keys, as they are not in its file."""
    environment: tuple[tuple[str, str], ...] = field(default_factory=lambda: tuple(_environment().items()), repr=False)
    """All variables that a client may read, secrets included, so that other values get another client."""


@dataclass(frozen=True, slots=True)
class ProfileKeys:
    """Gives obstore the keys of an AWS profile, and reads them again every few minutes."""

    name: str
    """Name of the profile."""

    def __call__(self) -> "S3Credential":
        """Read the keys."""
        keys = read_profile(self.name)
        return {
            "access_key_id": keys["aws_access_key_id"],
            "secret_access_key": keys["aws_secret_access_key"],
            "token": keys.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + PROFILE_LASTS,
        }


def split_location(location: str) -> tuple[str, str, str]:
    """Scheme, bucket and prefix of a URL; for a web server `host[:port]` and path. Raises InputError."""
    scheme, _, rest = location.partition("://")
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in (*SCHEMES, "file"))
        raise InputError(f"{location}: unknown kind of location {scheme}://; expected a folder or one of {known}")
    if not bucket or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise InputError(f"{location}: expected {scheme}://{'host' if scheme[0] == 'h' else 'bucket'}/prefix")
    if scheme.startswith("http") and re.search("[@?#]", rest):
        raise InputError(f"{scheme}://{rest.rpartition('@')[2]}: a web location is a host and a path, nothing else")
    return scheme, bucket, unquote(prefix) if scheme.startswith("http") else prefix


def find_credentials(scheme: str, bucket: str) -> Credentials:
    """Endpoint and identity from the environment. Raises InputError if its variables contradict each other."""
    environment = _checked_environment(scheme)
    if scheme == "s3":
        return _s3_credentials(bucket, environment)
    if scheme == "gs":
        host = environment.get("GOOGLE_BASE_URL", "https://storage.googleapis.com")
        return Credentials(scheme=scheme, bucket=bucket, host=host, identity=_google_identity(environment))
    if scheme == "az":
        return _azure_credentials(bucket, environment)
    url = f"{scheme}://{bucket}"
    return Credentials(scheme=scheme, bucket=url, host=url, identity="anonymous")


@lru_cache(maxsize=CLIENTS)
def connect(credentials: Credentials, timeout_s: float, retries: int) -> "ObjectStore":
    """The client for these credentials. Equal arguments give the same client, so that its connections are shared.

    Raises InputError that names the variable if the client cannot use one.

    timeout_s: seconds for a whole request, from connecting to the last byte of the body.
    retries: how often obstore itself retries a request.
    """
    client: ClientConfig = {
        "allow_http": credentials.host.startswith("http://"),
        "timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=min(timeout_s, 5)),
    }
    if authority := _authority():
        client["root_certificate"] = authority
    retry: RetryConfig = {"max_retries": retries, "retry_timeout": timedelta(seconds=(retries + 1) * timeout_s)}
    try:
        return _client(credentials, client, retry)
    except (BaseError, ValueError, TypeError) as error:
        raise InputError(f"{credentials.host}: {_culprit(credentials, client, retry)}") from error


def _client(credentials: Credentials, client: "ClientConfig", retry: "RetryConfig") -> "ObjectStore":
    config: Any = dict(credentials.options)
    if credentials.scheme == "s3":
        return S3Store(
            credentials.bucket,
            config=config,
            client_options=client,
            retry_config=retry,
            credential_provider=_provider(credentials),
        )
    if credentials.scheme == "gs":
        return GCSStore(credentials.bucket, config=config, client_options=client, retry_config=retry)
    if credentials.scheme == "az":
        return AzureStore(credentials.bucket, config=config, client_options=client, retry_config=retry)
    return HTTPStore.from_url(credentials.bucket, client_options=client, retry_config=retry)


def _provider(credentials: Credentials) -> Any:
    """What gives the client the keys of a profile; None for keys that it finds itself."""
    if credentials.profile is None:
        return None
    if not credentials.by_boto3:
        return ProfileKeys(credentials.profile)
    try:
        import boto3  # the extra `aws`, which few need
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise InputError(
            f"AWS profile {credentials.profile} gets its keys from elsewhere, for which boto3 is needed; pip install "
            "'kkanji[aws]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=credentials.profile), ttl=PROFILE_LASTS)
    except Exception as error:  # boto3 has many, and its users know them
        raise InputError(f"AWS profile {credentials.profile}: {str(error)[:200]}; try `aws sso login`") from error


def _culprit(credentials: Credentials, client: "ClientConfig", retry: "RetryConfig") -> str:
    """The variable without which the client could be made. Its value may be secret, so it is not shown."""
    authority = next((name for name in AUTHORITIES if os.environ.get(name, "").strip()), None)
    if authority and _works_without(authority, credentials, client, retry):
        return f"{authority} names a file without certificates (PEM); correct or unset it"
    for variable in (name for name in _environment() if name.startswith(_sign(credentials.scheme))):
        if _works_without(variable, credentials, client, retry):
            return f"{variable} has a value that its client refuses; correct or unset it"
    return f"its client refuses these settings; check all variables that begin with {_sign(credentials.scheme)}"


def _works_without(variable: str, credentials: Credentials, client: "ClientConfig", retry: "RetryConfig") -> bool:
    """Whether the client can be made if this variable is unset."""
    value = os.environ.pop(variable)
    plain = client.copy()
    if variable in AUTHORITIES:
        del plain["root_certificate"]
    try:
        _client(credentials, plain, retry)
    except (BaseError, ValueError, TypeError):
        return False
    finally:
        os.environ[variable] = value
    return True


def _authority() -> bytes | None:
    """The certificates that AWS's tools (AWS_CA_BUNDLE) or OpenSSL (SSL_CERT_FILE) would trust. Raises InputError."""
    for name in AUTHORITIES:
        if path := os.environ.get(name, "").strip():
            try:
                return read_bounded(Path(os.path.expanduser(path)), MOST_CERTIFICATE_BYTES)
            except (OSError, ValueError) as error:
                found = getattr(error, "strerror", None) or error
                raise InputError(f"{name}={path}: {found}; expected a file of certificates, or unset it") from error
    return None


def read_profile(name: str) -> dict[str, str]:
    """The fields of a profile in `~/.aws/credentials` and `~/.aws/config`; empty if neither has it."""
    keys: dict[str, str] = {}
    config = os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    for file, section in ((config, "default" if name == "default" else f"profile {name}"), (credentials, name)):
        parser = configparser.ConfigParser(interpolation=None, default_section="")
        path = Path(os.path.expanduser(file))
        try:
            parser.read_string(read_bounded(path).decode())
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except (configparser.Error, OSError, ValueError) as error:
            raise InputError(
                f"{path}: {str(error)[:100]}; expected [{section}] with lines `aws_access_key_id = ...`"
            ) from error
        if parser.has_section(section):
            keys |= dict(parser[section])
    return keys


def _environment() -> dict[str, str]:
    """The variables that object stores' clients read.

    obstore reads the process's environment itself, so what it would stumble over is mended there: a blank variable is
    an unset one, and spaces and line feeds around a value come from copying it.
    """
    names = [name for name in os.environ if name.startswith((*SIGNS.values(), "SSL_CERT"))]
    for name in names:
        value = os.environ[name].strip()
        if not value:
            del os.environ[name]
        elif value != os.environ[name]:
            os.environ[name] = value
    return {name: os.environ[name] for name in names if name in os.environ}


def _checked_environment(scheme: str) -> dict[str, str]:
    """The variables that the clients of one scheme read. Raises InputError for one that none can use."""
    return {name: _checked(name, value) for name, value in _environment().items() if name.startswith(_sign(scheme))}


def _sign(scheme: str) -> str:
    return SIGNS.get(scheme, "SSL_CERT")


def _checked(name: str, value: str) -> str:
    """The value of a variable that a client can use. Raises InputError; a value that may be secret is not shown."""
    if name == "GOOGLE_SERVICE_ACCOUNT_KEY":  # a JSON text, with its line feeds
        return value
    if not value.isprintable():
        raise InputError(f"{name}: holds a line feed or another character that no request can carry; set it again")
    if IS_URL.search(name) and not IS_PATH.search(name) and not _is_url(value):
        raise InputError(f"{name}={value[:80]}: expected a URL such as https://host:9000; set it again, or unset it")
    if IS_HOST_PART.search(name) and not HOST_PART.fullmatch(value):
        raise InputError(f"{name}={value[:80]}: expected letters, digits, - and . only; set it again, or unset it")
    return value


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and " " not in text
    except ValueError:  # a port beyond 65,535, or half an IPv6 address
        return False


def _s3_credentials(bucket: str, environment: Mapping[str, str]) -> Credentials:
    name = environment.get("AWS_PROFILE", "default")
    profile = read_profile(name)
    if "AWS_PROFILE" in environment and not profile:
        raise InputError(f"AWS_PROFILE={name}: no such profile in ~/.aws/credentials or ~/.aws/config")
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = next((environment[key] for key in endpoints if environment.get(key)), profile.get("endpoint_url"))
    if endpoint and not _is_url(endpoint):
        raise InputError(
            f"endpoint_url {endpoint[:80]} of AWS profile {name}: expected a URL such as https://host:9000"
        )
    regions = (environment.get("AWS_REGION"), environment.get("AWS_DEFAULT_REGION"), profile.get("region"))
    region = next(filter(None, regions), "us-east-1")
    identity, keys = _s3_identity(name, profile, environment)
    by_boto3 = keys is not None and "aws_access_key_id" not in profile
    options = {"region": region} | ({"endpoint": endpoint} if endpoint else {})
    return Credentials(
        scheme="s3",
        bucket=bucket,
        host=endpoint or f"https://s3.{region}.amazonaws.com",
        identity=identity,
        options=tuple(options.items()),
        profile=keys,
        by_boto3=by_boto3,
    )


def _s3_identity(name: str, profile: Mapping[str, str], environment: Mapping[str, str]) -> tuple[str, str | None]:
    """Who asks, and the profile whose keys are used: in the order of AWS's own tools."""
    if environment.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        return "anonymous (AWS_SKIP_SIGNATURE)", None
    if key := environment.get("AWS_ACCESS_KEY_ID"):
        if not environment.get("AWS_SECRET_ACCESS_KEY"):
            raise InputError("AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not; set both or neither")
        return f"access key {shorten(key)} (AWS_ACCESS_KEY_ID)", None
    if role := next((variable for variable in ROLE_VARIABLES if variable in environment), None):
        return f"the role of {role}", None
    if "aws_access_key_id" in profile and "aws_secret_access_key" in profile:
        return f"access key {shorten(profile['aws_access_key_id'])} (profile {name})", name
    if kind := next((field for field in NOT_STATIC if field in profile), None):
        return f"AWS profile {name} ({kind})", name
    return "this machine's role (no AWS_ACCESS_KEY_ID and no profile with keys)", None


def _google_identity(environment: Mapping[str, str]) -> str:
    if environment.get("GOOGLE_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        return "anonymous (GOOGLE_SKIP_SIGNATURE)"
    for variable in ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_APPLICATION_CREDENTIALS"):
        if variable in environment:
            return f"{environment[variable]} ({variable})"
    return "Google's application default credentials"


def _azure_credentials(container: str, environment: Mapping[str, str]) -> Credentials:
    account = environment.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise InputError("AZURE_STORAGE_ACCOUNT_NAME is not set; az://container/prefix needs the account's name")
    named = (environment.get(key) for key in ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"))
    host = next(filter(None, named), f"https://{account}.blob.core.windows.net")
    anonymous = environment.get("AZURE_SKIP_SIGNATURE", "").lower() in ("1", "true")
    identity = "anonymous (AZURE_SKIP_SIGNATURE)" if anonymous else f"account {account}"
    return Credentials(scheme="az", bucket=container, host=host, identity=identity)


def shorten(key: str) -> str:
    """Enough of a key's name to recognise it."""
    return f"{key[:4]}...{key[-2:]}"
