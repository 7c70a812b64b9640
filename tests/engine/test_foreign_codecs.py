"""Codecs from outside, whose APIs take and give other bodies than JSON."""

from __future__ import annotations

import glob
import hmac
import io
import json
import os
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

import batchgen
from batchgen.endpoint import Endpoint
from batchgen.engine.routes import open_routes
from batchgen.errors import Refused, SettingsError
from batchgen.profiles import packages
from batchgen.providers.answer_body import image_body
from batchgen.providers.credentials import FoundCredentials, KeyHeader
from batchgen.providers.request_body import FormFile, encode_form, reference_bytes
from batchgen.records import Reply, Request
from tests.support.marked_key import KEY
from tests.support.packages import forget

ITEMS = {
    "models": {"sketch-1": {"provider": "sketch", "rpm": 600, "prices": {"image_usd": 0.01}}},
    "items": [{"id": "fox", "prompt": 'A "fox"\r\nin snow', "model": "sketch-1", "references": ["pose.png"]}],
}


class Sketch:
    """Takes a form and answers with the image itself."""

    name = "sketch"
    endpoint = Endpoint.named("sketch")

    def __init__(self, profile):
        self.profile = profile

    @staticmethod
    def encodes(profile):
        return frozenset({"references"})

    def build(self, sample, inputs):
        files = [
            FormFile("image[]", f'pose "{n}".png', reference.mime_type, reference_bytes(reference))
            for n, reference in enumerate(inputs.references)
        ]
        body, content_type = encode_form({"prompt": sample.item.prompt}, files)
        return Request(method="POST", path="/sketch", body=body, headers={"content-type": content_type, "X-Tag": "7"})

    def read(self, response):
        if not response.is_success:
            raise Refused(response.body.decode(), http_status=response.status)
        return Reply(images=(image_body(response),))

    @staticmethod
    def credentials(key):
        return KeyHeader("X-Key", key)


def image(side: int, mode: str = "RGB") -> bytes:
    """Noise: it does not get smaller in a file."""
    made = io.BytesIO()
    Image.frombytes(mode, (side, side), os.urandom(side * side * len(mode))).save(made, "PNG")
    return made.getvalue()


def files_below(folder: Path) -> list[tuple[str, bytes]]:
    return [(str(path), path.read_bytes()) for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def install(monkeypatch):
    """Makes a codec known as an installed package's."""

    def make_known(codec):
        monkeypatch.setitem(globals(), "installed_codec", codec)
        found = EntryPoints([EntryPoint(codec.name, f"{__name__}:installed_codec", packages.CODECS)])
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found.select(group=group))
        forget()

    yield make_known
    forget()


@pytest.fixture
def job(tmp_path):
    (tmp_path / "pose.png").write_bytes(image(40))
    (tmp_path / "m.yaml").write_text(json.dumps(ITEMS))
    return lambda url: batchgen.load(
        tmp_path / "m.yaml",
        environ={"SKETCH_API_KEY": KEY, "BATCHGEN_SKETCH_BASE_URL": url, "XDG_STATE_HOME": str(tmp_path)},
    )


def sketch_server(asked: list, body: bytes, content_type: str = "image/png; q=1") -> TestServer:
    async def sketch(request: web.Request) -> web.Response:
        form = await request.post()
        image = form["image[]"]
        asked.append(
            (
                form["prompt"],
                image.filename,
                image.content_type,
                image.file.read(),
                request.headers.getall("Content-Type"),
            )
        )
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application(client_max_size=2**24)
    app.router.add_post("/sketch", sketch)
    return TestServer(app)


@pytest.mark.parametrize("side", [16, 900], ids=["small", "large"])
async def test_a_form_goes_out_and_an_image_comes_back_as_it_is(install, job, tmp_path, side):
    install(Sketch)
    asked, made = [], image(side)
    async with sketch_server(asked, made) as server:
        outcome = await batchgen.run(job(str(server.make_url(""))))
    assert (outcome.exit_code, outcome.made) == (0, 1)
    assert (tmp_path / "m" / "fox.png").read_bytes() == made
    ((prompt, filename, kind, sent, content_types),) = asked
    assert (prompt, kind, sent) == ('A "fox"\r\nin snow', "image/png", (tmp_path / "pose.png").read_bytes())
    assert filename == "pose %220%22.png"  # as browsers write it
    assert len(content_types) == 1
    assert list((tmp_path / "m" / ".batchgen" / "spool").iterdir()) == []


async def test_an_image_that_came_cut_is_kept_and_not_counted(install, job, tmp_path):
    install(Sketch)
    asked, whole = [], image(900)
    async with sketch_server(asked, whole[: len(whole) // 2]) as server:
        outcome = await batchgen.run(job(str(server.make_url(""))))
    assert (outcome.exit_code, outcome.made) == (4, 0)
    kept = sorted(glob.glob(f"{tmp_path}/m/.batchgen/unread/*/0"))
    assert len(kept) == len(asked) > 0
    for file in kept:
        with open(file, "rb") as cut:  # noqa: ASYNC230
            assert cut.read() == whole[: len(whole) // 2]


class Signature:
    """Signs each request with a key that is never sent, at a server's time."""

    account = "acme"

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    async def headers(self, request, ask):
        response = await ask(CLOCK["url"], Request(method="GET", path="/time", body=b""))
        signed = hmac.new(self._key, response.body + request.body, "sha256").hexdigest()
        return {"X-Time": response.body.decode(), "X-Signature": f"v1 {signed}"}


class Signed(Sketch):
    @staticmethod
    def credentials(key):
        return Signature(key)


CLOCK = {"url": ""}


@pytest.mark.parametrize("status", [200, 400])
async def test_each_request_is_signed_and_no_signature_is_kept(install, job, tmp_path, status):
    install(Signed)
    made, seen = image(16), []

    async def sketch(request: web.Request) -> web.Response:
        signed = hmac.new(KEY.encode(), request.headers["X-Time"].encode() + await request.read(), "sha256").hexdigest()
        seen.append((request.headers["X-Signature"], f"v1 {signed}"))
        echo = f"refused: {request.headers['X-Signature']}"
        return (
            web.Response(body=made, content_type="image/png") if status == 200 else web.Response(status=400, text=echo)
        )

    async def clock(request: web.Request) -> web.Response:
        assert not {"X-Key", "X-Signature"} & set(request.headers)
        return web.Response(text="1792")

    app = web.Application()
    app.router.add_post("/sketch", sketch)
    app.router.add_get("/time", clock)
    async with TestServer(app) as server:
        CLOCK["url"] = str(server.make_url(""))
        outcome = await batchgen.run(job(CLOCK["url"]))
    assert outcome.exit_code == (0 if status == 200 else 4)
    assert {sent == expected for sent, expected in seen} == {True}
    signature = seen[0][0].split()[1].encode()
    assert [path for path, data in files_below(tmp_path) if signature in data] == []


class Login:
    """A token that ends after one request, for a file's name."""

    public_headers = frozenset({"x-team"})

    def __init__(self, name: str) -> None:
        self.account = name
        self._ends = 1

    async def headers(self, request, ask):
        return {"X-Token": f"{self.account}-token-{self._ends}", "X-Team": "paint"}

    def refused(self, headers):
        self._ends += 1
        return True


class Studio(Sketch):
    """Let in by a file that the environment names; its account stands in each path."""

    endpoint = replace(Endpoint.named("sketch"), credential_names=("SKETCH_LOGIN",))

    @staticmethod
    def find_credentials(key, environ):
        if key is not None:
            return FoundCredentials(KeyHeader("X-Key", key))
        if (path := environ.get("SKETCH_LOGIN")) is None:
            return None
        name = Path(path).read_text()
        return FoundCredentials(Login(name), source=f"{name} in {path}", path=f"/accounts/{name}")


@pytest.fixture
def studio_job(tmp_path):
    (tmp_path / "pose.png").write_bytes(image(40))
    (tmp_path / "login").write_text("rembrandt")
    (tmp_path / "m.yaml").write_text(json.dumps(ITEMS))

    def load(url, **environ):
        address = {"BATCHGEN_SKETCH_BASE_URL": url, "XDG_STATE_HOME": str(tmp_path)}
        return batchgen.load(tmp_path / "m.yaml", environ=address | environ)

    return load


async def test_a_codec_finds_credentials_of_its_own_which_may_end(install, studio_job, tmp_path):
    install(Studio)
    seen = []

    async def sketch(request: web.Request) -> web.Response:
        await request.read()
        seen.append((request.path, request.headers["X-Token"], request.headers["X-Team"]))
        if len(seen) == 1:
            return web.Response(status=401, text="ended")
        return web.Response(body=image(16), content_type="image/png")

    app = web.Application()
    app.router.add_post("/accounts/rembrandt/sketch", sketch)
    async with TestServer(app) as server:
        outcome = await batchgen.run(studio_job(str(server.make_url("")), SKETCH_LOGIN=str(tmp_path / "login")))
    assert (outcome.exit_code, outcome.made) == (0, 1)
    path = "/accounts/rembrandt/sketch"
    assert seen == [(path, f"rembrandt-token-{number}", "paint") for number in (1, 2)]
    token = b"rembrandt-token"
    assert [path for path, data in files_below(tmp_path) if token in data] == []


def test_a_codec_without_any_credentials_is_an_error_that_names_both_ways(install, studio_job):
    install(Studio)
    job = studio_job("https://sketch.example")
    with pytest.raises(SettingsError, match="set SKETCH_API_KEY or SKETCH_LOGIN"):
        open_routes([job.manifest.catalogue.resolve("sketch-1")], job.settings, None)
