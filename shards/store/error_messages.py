"""What an object store's error means: whether to retry, and what the user reads.

obstore raises few kinds of errors, so the HTTP status and the cause have to be found in their text. That text is not
shown: it is long, repeats the request, and may hold parts of a signature that a server echoes.
"""

import re
from typing import NoReturn

from obstore.exceptions import BaseError, GenericError, NotSupportedError, PreconditionError

from shards.errors import ChangedShard, MissingShard, StorageError
from shards.store.credentials import Credentials

STATUS = re.compile(r"status code: (\d{3})")
CODE = re.compile(r"<Code>(\w+)</Code>")
MACHINE_ROLE = "169.254.169.254"  # where clouds give a machine its keys
ASK_AGAIN = (408, 425, 429)  # the 4xx that are retried: timeout, too early, too many requests
NEVER = (501, 505)  # the 5xx that are not: not implemented, HTTP version not supported
CAUSES = (
    ("dns error", "host name not found (DNS)"),
    ("Received redirect", "redirected elsewhere"),
    ("kind: Redirect", "redirected in a circle or to what is no web address"),
    ("InvalidCertificate", "certificate not trusted"),
    ("ConnectionRefused", "connection refused"),
    ("kind: Timeout", "no whole answer in time"),
    ("kind: Interrupted", "connection broken"),
    ("kind: Connect", "no connection"),
)
LASTING = (
    "Received redirect",
    "kind: Redirect",
    "InvalidCertificate",
)  # without a status, but lasting
HINTS = {
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it (NTP)",
    "ExpiredToken": "the session token has expired: get a new one and set AWS_SESSION_TOKEN",
    "TokenRefreshRequired": "the session token has expired: get a new one and set AWS_SESSION_TOKEN",
    "InvalidToken": "the session token is not valid: get a new one and set AWS_SESSION_TOKEN, or unset it",
    "InvalidAccessKeyId": "this server does not know the key: check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret does not fit the key: check AWS_SECRET_ACCESS_KEY",
    "PermanentRedirect": "the bucket is in another region: check AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: check AWS_REGION",
    "NoSuchBucket": "there is no such bucket: check its name and AWS_ENDPOINT_URL",
}
NO_ACCESS = "check that it may read (and for a push write and list) this bucket, and that bucket and endpoint are right"


class Shortfall(Exception):
    """A body that ended properly, but with fewer or more bytes than were requested."""


def is_passing(error: Exception, *, first: bool) -> bool:
    """Whether a retry may succeed. first: no byte has ever come from this store, so that setup may be at fault."""
    if isinstance(error, Shortfall):
        return True
    text, status = str(error), status_of(error)
    if any(sign in text for sign in LASTING) or (MACHINE_ROLE in text and first):
        return False
    if status is None:
        return type(error) is GenericError
    return (status >= 500 and status not in NEVER) or status in ASK_AGAIN or code_of(error) == "RequestTimeout"


def refuse(error: Exception, url: str, credentials: Credentials) -> NoReturn:
    """Raise the error for the user: no retry will help."""
    found, who = reason(error), f"from {credentials.host} as {credentials.identity}"
    if isinstance(error, PreconditionError):
        raise ChangedShard(f"{url}: {found}: replaced while it was read; start again with the new one") from error
    if code_of(error) in HINTS:
        raise StorageError(f"{url}: {found} {who}; {HINTS[code_of(error)]}") from error
    if isinstance(error, FileNotFoundError):
        raise MissingShard(f"{url}: not there ({found} {who}); check the location, or push the set again") from error
    if MACHINE_ROLE in str(error):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true"
        raise StorageError(f"{url}: no credentials: none set, and this machine has no role; {hint}") from error
    if isinstance(error, NotSupportedError):
        raise StorageError(f"{url}: {credentials.host} cannot do this: {first_line(error)}") from error
    if found == "redirected elsewhere":
        raise StorageError(f"{url}: {found} {who}; {HINTS['PermanentRedirect']}") from error
    if status_of(error) == 416:
        raise ChangedShard(f"{url}: shorter than expected ({found} {who}); start again with the new set") from error
    if status_of(error) in (401, 403):
        raise StorageError(f"{url}: {found} {who}; {NO_ACCESS}") from error
    raise StorageError(f"{url}: {found} {who}; check the location and the server") from error


def reason(error: Exception) -> str:
    """An error in a few words."""
    status, code = status_of(error), code_of(error)
    if status is not None:
        return f"HTTP {status} {code}".rstrip()
    found = next((words for sign, words in CAUSES if sign in str(error)), None)
    return found or first_line(error)


def status_of(error: Exception) -> int | None:
    """The HTTP status behind an error, if there was an answer."""
    found = STATUS.search(str(error))
    return int(found[1]) if found and isinstance(error, (BaseError, FileNotFoundError)) else None


def code_of(error: Exception) -> str:
    """S3's own code for the reason; empty if it gives none."""
    found = CODE.search(str(error))
    return found[1] if found else ""


def first_line(error: Exception) -> str:
    """The first line of an error, without obstore's debug text and without the server's answer."""
    return str(error).partition("\n")[0].partition(" - Server returned")[0][:200]
