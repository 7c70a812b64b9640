"""Google's application default credentials: where they are found, and their token, renewed before it expires.

Sources: cloud.google.com/docs/authentication/application-default-credentials (the order), google.aip.dev/auth/4110 to
4117, cloud.google.com/compute/docs/metadata/querying-metadata; google-auth 2.62 and 2.63.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batchgen.errors import ConnectFailed, KeyRejected, ProviderError, SettingsError
from batchgen.providers.answer_body import clean_line, parse_json
from batchgen.providers.credentials import Ask
from batchgen.records import Request, Response
from batchgen.single_flight import SingleFlight

FILE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
QUOTA_PROJECT_HEADER = "x-goog-user-project"
RENEWED_EARLY_S = 225.0  # like google-auth, whose tokens last an hour; a quarter of a shorter life
UNKNOWN_LIFE_S = 3600.0  # of a token without `expires_in`; one that expires earlier gets a 401
TOKEN_TIMEOUT_S = 30.0
METADATA_ADDRESS = "169.254.169.254"  # the same on all of Google's machines
METADATA_TIMEOUT_S = 3.0
METADATA_HEADERS = {"Metadata-Flavor": "Google"}
PRODUCT_NAME = Path("/sys/class/dmi/id/product_name")  # where Linux says whose machine it is
AWS_TOKEN_TYPE = "urn:ietf:params:aws:token-type:aws4_request"  # noqa: S105 - a name of the standard
# The module of google-auth whose class Credentials reads a file of this `type`, and how; the last: whether it takes a
# scope.
KINDS: Mapping[str, tuple[str, str, bool]] = {
    "service_account": ("google.oauth2.service_account", "from_service_account_info", True),
    "authorized_user": ("google.oauth2.credentials", "from_authorized_user_info", False),
    "external_account": ("google.auth.identity_pool", "from_info", True),
    "external_account/aws": ("google.auth.aws", "from_info", True),
    "external_account/executable": ("google.auth.pluggable", "from_info", True),
    "impersonated_service_account": (
        *("google.auth.impersonated_credentials", "from_impersonated_service_account_info"),
        True,
    ),
}
INVALID_GRANT = (
    "the key or login was deleted or has expired, or this machine's clock is wrong. Make a new key, or log in again with"
    " `gcloud auth application-default login`"
)


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    life_s: float


Fetch = Callable[[Ask], Awaitable[Token]]  # raises ConnectFailed, KeyRejected


@dataclass(frozen=True, slots=True)
class Login:
    """A login. source: for people. project: that it belongs to, "" if not stated. quota_project: the one whose quota is
    used."""

    source: str
    fetch: Fetch
    project: str = ""
    quota_project: str = ""


class GoogleToken:
    """A bearer token for all requests of an account, renewed before it expires, once for everybody who waits for it."""

    public_headers = frozenset({QUOTA_PROJECT_HEADER})

    def __init__(self, login: Login, account: str) -> None:
        self.account = account
        self._login = login
        self._renewal = SingleFlight()
        self._value = ""
        self._renew_at_s = 0.0  # time.monotonic()

    async def headers(self, request: Request, ask: Ask) -> Mapping[str, str]:
        value = self._value if time.monotonic() < self._renew_at_s else ""
        headers = {"Authorization": f"Bearer {value or await self._renewal.do('token', lambda: self._renew(ask))}"}
        return headers | ({QUOTA_PROJECT_HEADER: self._login.quota_project} if self._login.quota_project else {})

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Note that a token was refused. Of many requests refused with one token, the first ends it."""
        if headers.get("Authorization") == f"Bearer {self._value}":
            self._value = ""
        return True

    async def _renew(self, ask: Ask) -> str:
        token = await self._login.fetch(ask)
        self._renew_at_s = time.monotonic() + token.life_s - min(RENEWED_EARLY_S, token.life_s / 4)
        self._value = token.value
        return token.value


def find_login(environ: Mapping[str, str]) -> Login | None:
    """The first login there is: from a file in the environment, gcloud's file, or the metadata server. Nothing is sent.

    Raises SettingsError for an unusable file, and if google-auth is missing.
    """
    for name in (FILE_VARIABLE, f"{FILE_VARIABLE}_FILE"):
        if named := environ.get(name):
            return read_login(Path(named), name)
    path = _gcloud_file(environ)
    if path is not None and path.is_file():
        return read_login(path, "gcloud auth application-default login")
    return _metadata_login(environ)


def read_login(path: Path, source: str) -> Login:
    """Read a login file. Raises SettingsError."""
    problem = ""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    except ValueError:
        problem = "is not JSON"
    else:
        if not isinstance(info, dict) or str(info.get("type")) not in KINDS:
            kinds = ", ".join(kind for kind in KINDS if "/" not in kind)
            problem = f"is not a file of Google credentials: its `type` is none of {kinds}"
    if problem:
        raise SettingsError(f"{source}: {path} {problem}")
    credentials = _read_credentials(info, f"{source}: {path}")
    who = info.get("client_email") or info["type"].replace("_", " ")
    return Login(
        source=f"{who}, {path} ({source})",
        fetch=_fetch_with(credentials, str(path)),
        project=str(info.get("project_id") or ""),
        quota_project=str(getattr(credentials, "quota_project_id", None) or ""),
    )


def _read_credentials(info: Mapping[str, Any], where: str) -> Any:
    """The credentials in a login file. Raises SettingsError."""
    kind = info["type"]
    if kind == "external_account":
        source = info.get("credential_source")
        if info.get("subject_token_type") == AWS_TOKEN_TYPE:
            kind = "external_account/aws"
        elif isinstance(source, dict) and source.get("executable"):
            kind = "external_account/executable"
    module, read, scoped = KINDS[kind]
    try:
        credentials = import_module(module).Credentials
    except ImportError:
        remedy = "pip install 'batchgen[vertex]', or google-auth"
        raise SettingsError(f"{where} needs the package google-auth: {remedy}") from None
    try:
        return getattr(credentials, read)(info, **({"scopes": [SCOPE]} if scoped else {}))
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:  # whatever the library does with a field of another type
        raise SettingsError(f"{where} is not a usable file of credentials: {clean_line(str(error))}") from None


def _gcloud_file(environ: Mapping[str, str]) -> Path | None:
    """Where `gcloud auth application-default login` puts its file; None without a home."""
    folder = environ.get("CLOUDSDK_CONFIG") or ""
    if not folder and environ.get("APPDATA"):
        folder = f"{environ['APPDATA']}/gcloud"
    if not folder and environ.get("HOME"):
        folder = f"{environ['HOME']}/.config/gcloud"
    return Path(folder, "application_default_credentials.json") if folder else None


# --- tokens from google-auth, whose HTTP requests batchgen sends


def _fetch_with(credentials: Any, where: str) -> Fetch:
    """A function that fetches a token. credentials: of google-auth, which works in a thread, where it signs and waits;
    its requests go out through `ask`."""

    async def fetch(ask: Ask) -> Token:
        exceptions = import_module("google.auth.exceptions")
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(credentials.refresh, _requests_by(ask, loop))
        except exceptions.GoogleAuthError as error:
            raise _refresh_error(error, exceptions, where) from None
        except Exception as error:  # an answer or file that the library does not expect: nothing was requested
            raise ConnectFailed(f"no token for {where}: {type(error).__name__}: {clean_line(str(error))}") from error
        expiry = credentials.expiry  # UTC, without saying so
        life_s = (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds() if expiry else UNKNOWN_LIFE_S
        return Token(credentials.token, life_s)

    return fetch


def _refresh_error(error: Any, exceptions: Any, where: str) -> ProviderError:
    """Why there is no token. Whatever the reason, the request that needs one was not sent."""
    said = clean_line(str(error.args[0] if error.args else error))
    page = said.startswith("<")  # a proxy's or a login page
    if isinstance(error, exceptions.TransportError) or error.retryable or page:
        return ConnectFailed(f"no token for {where}: {said}")
    advice = f": {INVALID_GRANT}" if "invalid_grant" in said else ""
    return KeyRejected(f"no token for {where}: {said}{advice}", reason="token_refused")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What google-auth needs of an answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes


def _requests_by(ask: Ask, loop: asyncio.AbstractEventLoop) -> Callable[..., _Answer]:
    """A google.auth.transport.Request: called in a thread, it sends on the event loop."""
    failure = import_module("google.auth.exceptions").TransportError

    def request(
        url: str, method: str = "GET", body: Any = None, headers: Any = None, timeout: Any = None, **others: Any
    ) -> _Answer:
        if others.get("cert"):
            raise failure("tokens bound to a client certificate are not supported")
        parts = urlsplit(url)
        asked = Request(
            method=method,
            path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            body=body.encode() if isinstance(body, str) else body or b"",
            headers=headers or {},
            timeout_s=timeout or TOKEN_TIMEOUT_S,
        )
        try:
            asking = _answer_of(ask, f"{parts.scheme}://{parts.netloc}", asked)
            response = asyncio.run_coroutine_threadsafe(asking, loop).result()
        except (ProviderError, SettingsError) as error:
            raise failure(f"{parts.netloc}: {error}") from None
        return _Answer(response.status, response.headers, response.body)

    return request


async def _answer_of(ask: Ask, base_url: str, asked: Request) -> Response:
    return await ask(base_url, asked)


# --- the metadata server of Google's machines


def _metadata_login(environ: Mapping[str, str]) -> Login | None:
    """The login of the service account of the machine, the pod or the service; None elsewhere, which is known without
    asking."""
    host = environ.get("GCE_METADATA_HOST") or ""
    here = bool(host or environ.get("K_SERVICE") or environ.get("CLOUD_RUN_JOB") or _is_machine_of_google())
    if not here or environ.get("NO_GCE_CHECK") == "true":
        return None
    host = host or METADATA_ADDRESS
    named = environ.get("GOOGLE_CLOUD_PROJECT")  # otherwise it is requested here: every path contains it
    return Login(f"metadata server {host}", _fetch_from_metadata(host), "" if named else _metadata_project(host))


def _is_machine_of_google() -> bool:
    try:
        return PRODUCT_NAME.read_text(encoding="ascii", errors="replace").startswith("Google")
    except OSError:
        return False


def _metadata_project(host: str) -> str:
    """The project from the metadata server, "" if it does not say."""
    connection = http.client.HTTPConnection(host, timeout=METADATA_TIMEOUT_S)
    try:
        connection.request("GET", "/computeMetadata/v1/project/project-id", headers=METADATA_HEADERS)
        response = connection.getresponse()
        return response.read(200).decode("ascii", "replace").strip() if response.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _fetch_from_metadata(host: str) -> Fetch:
    path = f"/computeMetadata/v1/instance/service-accounts/default/token?scopes={SCOPE}"
    asked = Request(method="GET", path=path, body=b"", headers=METADATA_HEADERS, timeout_s=METADATA_TIMEOUT_S)

    async def fetch(ask: Ask) -> Token:
        try:
            response = await ask(f"http://{host}", asked)
        except ProviderError as error:
            raise ConnectFailed(f"no token from the metadata server {host}: {error.message}") from None
        found = parse_json(response.body) if response.is_success else None
        if isinstance(found, dict) and isinstance(found.get("access_token"), str):
            life_s = found.get("expires_in")
            return Token(found["access_token"], float(life_s) if isinstance(life_s, (int, float)) else UNKNOWN_LIFE_S)
        message = f"no token from the metadata server {host}: HTTP {response.status}"
        if response.status == 404:
            raise KeyRejected(f"{message}: this machine has no service account", reason="token_refused")
        raise ConnectFailed(message)

    return fetch
