"""moto's S3 server on loopback, behind a gate that counts, refuses or holds requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.bucket_bench import ADDRESS
from tests.support.marked_key import KEY

ACCOUNT = "123456789012"
Refusal = Callable[[str, str], int | None]  # (method, path of the object) -> HTTP status, None to let it pass


def _backend() -> Any:
    from moto.s3.models import s3_backends  # takes a second, and most workers of the suite never need it

    return s3_backends[ACCOUNT]["aws"]


class Gate:
    """seen: (method, path of the object below the address) of every request. refuse: what is answered in S3's place."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.refuse: Refusal = lambda method, path: None
        self.drops_conditions = False
        self.held = threading.Event()  # set when a request hangs
        self.holds: Callable[[str, str], bool] = lambda method, path: False
        self.over = threading.Event()  # set at the end of a test: what it held reaches no other one's bucket
        self.port = 0
        self._app: Any = None
        self._server: Any = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, full = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        path = full.removeprefix(f"/{ADDRESS.removeprefix('s3://')}/")
        self.seen.append((method, path))
        if self.holds(method, path):
            self.held.set()
            if self.over.wait(20):
                start_response("503 Over", [])
                return []
        if (status := self.refuse(method, path)) is not None:
            start_response(f"{status} Refused", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>by the gate</Message></Error>"]
        if self.drops_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def start(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", self.port, self, threaded=True)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def objects(self) -> dict[str, bytes]:
        """What the server holds below the address, receipts left out."""
        keys = _backend().buckets["pictures"].keys
        prefix = ADDRESS.removeprefix("s3://pictures/") + "/"
        found = {name.removeprefix(prefix): keys[name].value for name in keys if name.startswith(prefix)}
        return {name: data for name, data in found.items() if not name.startswith(".batchgen/")}

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Into a bucket of the user's, made when there is none."""
        backend = _backend()
        if bucket not in backend.buckets:
            backend.create_bucket(bucket, "us-east-1")
        backend.put_object(bucket, key, data)

    def take_away(self, bucket: str, key: str) -> None:
        _backend().delete_object(bucket, key)

    def fetched(self, bucket: str, key: str = "") -> int:
        """Reads of an object of such a bucket; without a key its listings."""
        return self.seen.count(("GET", f"/{bucket}/{key}".rstrip("/")))

    def count(self, method: str) -> int:
        return sum(1 for each, _ in self.seen if each == method)


@contextmanager
def running() -> Iterator[Gate]:
    gate = Gate()
    gate.start()
    yield gate
    gate.stop()


@contextmanager
def empty_bucket(server: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty bucket, and its address and credentials in the environment. The suite's marked key is the secret."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    backend = _backend()
    backend.reset()
    backend.create_bucket("pictures", "us-east-1")
    fresh = Gate()
    server.refuse, server.holds, server.drops_conditions = fresh.refuse, fresh.holds, False
    server.held, server.over = threading.Event(), threading.Event()
    server.seen.clear()
    yield
    server.over.set()
    server.refuse, server.holds = fresh.refuse, fresh.holds
