"""Images in object storage, below one prefix: the few operations that batchgen needs of obstore, with errors in words
that contain no key."""

from __future__ import annotations

import contextlib
import io
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult

from batchgen.endpoint import split_url
from batchgen.errors import SettingsError, StoreError
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.settings import environment, is_loopback
from batchgen.store.blobs import BlobInfo, BucketUnavailable, Properties

SINGLE_PUT_MAX_BYTES = 64_000_000  # sent in one request; larger files in parts, with at least three requests
PIECE_BYTES = 1 << 20
PAGE = 1000
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 10, 120
RETRIES, RETRY_TIMEOUT_S = 2, 15  # of one request; what is still refused then waits in the spool
MISSING_EXTRA = "buckets need obstore: pip install 'batchgen[cloud]'"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_ENDPOINT")
ALLOW_HTTP_VARIABLES = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
CREDENTIAL_HINTS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_CONTENT_TYPES = {kind: f"image/{kind}" for kind in ("png", "webp", "gif", "avif")} | {
    "jpg": "image/jpeg",
    "xmp": "application/rdf+xml",
    "json": "application/json",
    "txt": "text/plain; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
}
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{3,60})</Code>")


class ObjectStorage:
    """The `Blobs` of a bucket. Every call raises BucketUnavailable; FileNotFoundError where stated."""

    properties = Properties(remote=True, atomic_rename=False, keeps_receipts=True, parallel_reads=8)

    def __init__(self, url: str) -> None:
        """url: from `normalize_bucket_url`. Raises SettingsError without the extra, or for an unsafe endpoint."""
        try:
            import obstore  # an extra
            from obstore.store import from_url
        except ImportError:
            raise SettingsError(f"{url}: {MISSING_EXTRA}") from None
        self.url = url
        self._obstore: Any = obstore
        client: dict[str, Any] = {"timeout": f"{REQUEST_TIMEOUT_S}s", "connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
        if _uses_plain_http(environment()):
            client["allow_http"] = True
        if _is_local_endpoint(environment()):
            # With an explicit proxy that is used for nothing here, obstore uses no other.
            client |= {"proxy_url": "http://127.0.0.1", "proxy_excludes": "127.0.0.1,localhost,::1"}
        retry: Any = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S)}
        try:
            self._store: Any = from_url(url, client_options=client, retry_config=retry)  # type: ignore[call-overload]
        except Exception as error:
            raise SettingsError(f"{url}: {describe_storage_error(error, url)}") from None

    def prepare(self) -> None:
        """Prove that the bucket accepts a new object, and refuses to overwrite one. Raises StoreError."""
        probe = f"{STATE_FOLDER}/probe-{uuid.uuid4().hex}"
        first, again = self.put_new(probe, b"batchgen"), self.put_new(probe, b"batchgen")
        with contextlib.suppress(BucketUnavailable):  # a policy may forbid deleting
            self.delete(probe)
        if not first or again:
            raise StoreError(f"{self.url}: this storage writes over what is there although it was asked not to")

    def put_new(self, path: str, data: bytes | Path) -> BlobInfo | None:
        """Store a new object. data: the bytes, or the file with them, which stays."""
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        options = _attributes(path)
        if size <= SINGLE_PUT_MAX_BYTES:
            options |= {"mode": "create", "use_multipart": False}
        elif self.stat(path) is not None:  # no service has create-only uploads in parts
            return None
        with self._translating_errors(found=False):
            try:
                put = self._obstore.put(self._store, path, data, **options)
            except self._obstore.exceptions.AlreadyExistsError:
                return None
        return BlobInfo(path, size, put["e_tag"] or "")

    def replace(self, path: str, file: Path) -> None:
        with self._translating_errors(found=False):
            self._obstore.put(self._store, path, file, **_attributes(path))

    def stat(self, path: str) -> BlobInfo | None:
        try:
            with self._translating_errors():
                return _blob_info(self._obstore.head(self._store, path))
        except FileNotFoundError:
            return None

    def get(self, path: str, max_bytes: int | None = None) -> Iterator[bytes]:
        """The object in pieces, or its first bytes. Raises FileNotFoundError."""
        if max_bytes is not None:
            yield self.read_head(path, max_bytes)[1]
            return
        yield from self.stat_and_stream(path)[1]

    def open(self, path: str) -> IO[bytes]:
        """The object as a file. Raises FileNotFoundError."""
        with self._translating_errors():
            return io.BytesIO(bytes(self._obstore.get(self._store, path).bytes()))

    def read_head(self, path: str, max_bytes: int) -> tuple[BlobInfo, bytes]:
        """The object and its first bytes, in one request. Raises FileNotFoundError."""
        with self._translating_errors():
            try:
                got = self._obstore.get(self._store, path, options={"range": (0, max_bytes)})
            except self._obstore.exceptions.BaseError as error:
                if "416" in _STATUS.findall(str(error)):  # an empty object has no range
                    return BlobInfo(path, 0, ""), b""
                raise
            return _blob_info(got.meta), bytes(got.bytes())

    def stat_and_stream(self, path: str) -> tuple[BlobInfo, Iterator[bytes]]:
        """The object, and its contents in pieces. Raises FileNotFoundError."""
        with self._translating_errors():
            got = self._obstore.get(self._store, path)
        return _blob_info(got.meta), self._stream_body(got)

    def _stream_body(self, got: Any) -> Iterator[bytes]:
        with self._translating_errors():
            for piece in got.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    def list(self, folder: str = "", after: str = "") -> Iterator[BlobInfo]:
        """Every object below a folder ('' for the whole bucket) whose name comes after `after`."""
        with self._translating_errors():
            for page in self._obstore.list(self._store, folder or None, offset=after or None, chunk_size=PAGE):
                yield from map(_blob_info, page)

    def move(self, path: str, new: str) -> None:
        """Move an object to a free name. The copy exists before the original is deleted. Raises FileNotFoundError."""
        with self._translating_errors():
            self._obstore.copy(self._store, path, new)
            self._obstore.delete(self._store, path)

    def sync(self, *paths: str) -> None:
        """Nothing to do: a put that was answered is durable."""

    def delete(self, path: str) -> None:
        with self._translating_errors():
            self._obstore.delete(self._store, path)

    @contextmanager
    def _translating_errors(self, *, found: bool = True) -> Iterator[None]:
        """Translate obstore's errors. found: whether "there is no such object" is an error of its own."""
        try:
            yield
        except FileNotFoundError as error:
            if found and "NoSuchBucket" not in str(error):
                raise FileNotFoundError from None
            raise BucketUnavailable(f"{self.url}: there is no such bucket") from None
        except (
            self._obstore.exceptions.BaseError,
            OSError,
            ValueError,
        ) as error:  # the last: for a name that it cannot represent
            raise BucketUnavailable(f"{self.url}: {describe_storage_error(error, self.url)}") from None


def _attributes(path: str) -> dict[str, Any]:
    kind = _CONTENT_TYPES.get(path.rpartition(".")[2])
    return {"attributes": {"Content-Type": kind}} if kind else {}


def _blob_info(meta: Mapping[str, Any]) -> BlobInfo:
    changed_s = int(meta["last_modified"].timestamp())  # some answers have fractions of seconds, others do not
    return BlobInfo(meta["path"], meta["size"], meta["e_tag"] or "", changed_s * 1_000_000_000)


def storage_server(url: str, environ: Mapping[str, str]) -> str:
    """The server of a bucket if its address does not say: an endpoint's host, or an account; '' is the vendor's.

    Raises SettingsError.
    """
    hosts = (endpoint.netloc.rpartition("@")[2] for _, endpoint in _endpoints(environ))
    account = environ.get("AZURE_STORAGE_ACCOUNT_NAME", "") if url.startswith("az:") else ""
    return next(hosts, account)


def describe_storage_error(error: Exception, url: str) -> str:
    """What went wrong, without addresses, headers or keys: obstore's own text contains whole requests."""
    text, kind = str(error), type(error).__name__
    status = match[1] if (match := _STATUS.search(text)) else ""
    code = f" {match[1]}" if (match := _CODE.search(text)) else ""
    scheme = url.partition(":")[0]
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or status in ("401", "403"):
        if "token" not in text:
            return f"the bucket refuses it (HTTP {status or '403'}{code}): check the credentials and what they may do"
        return f"no usable credentials: set {CREDENTIAL_HINTS[scheme]}"
    if re.search(r"Missing|must be specified|token request|credential", text):
        return f"no usable credentials: set {CREDENTIAL_HINTS[scheme]}"
    if "NoSuchBucket" in text:
        return "there is no such bucket"
    if status:
        return f"it answers HTTP {status}{code}"
    if "kind: Timeout" in text:
        return "it does not answer in time"
    if "kind: Connect" in text:
        return "it cannot be reached: connection refused, or no such host"
    return f"it cannot be used ({kind})"


def _uses_plain_http(environ: Mapping[str, str]) -> bool:
    """Whether an endpoint uses plain http, on loopback or explicitly allowed. Raises SettingsError for any other."""
    plain = [(name, endpoint) for name, endpoint in _endpoints(environ) if endpoint.scheme == "http"]
    allowed = any(environ.get(allow, "").lower() in ("1", "true") for allow in ALLOW_HTTP_VARIABLES)
    for name, endpoint in plain:
        if not is_loopback(endpoint.hostname or "") and not allowed:
            raise SettingsError(
                f"{name}: plain http would show images and requests to the network:"
                f" use https, or say {ALLOW_HTTP_VARIABLES[0]}=true"
            )
    return bool(plain)


def _is_local_endpoint(environ: Mapping[str, str]) -> bool:
    return any(is_loopback(endpoint.hostname or "") for _, endpoint in _endpoints(environ))


def _endpoints(environ: Mapping[str, str]) -> Iterator[tuple[str, SplitResult]]:
    """The servers' addresses in the environment, by variable. Raises SettingsError."""
    for name in filter(environ.get, ENDPOINT_VARIABLES):
        try:
            yield name, split_url(environ[name])
        except ValueError as error:
            raise SettingsError(f"{name}: the address {error}; write it as https://host:port") from None
