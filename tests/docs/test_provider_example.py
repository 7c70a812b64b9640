"""The provider that the manual writes makes a picture, when it is installed as the manual says."""

from __future__ import annotations

import base64
import io
import sys
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

import batchgen
from batchgen.errors import ManifestError
from batchgen.providers import registry
from tests.docs.pages import blocks, page
from tests.support.marked_key import KEY


def picture() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(made, "PNG")
    return made.getvalue()


@pytest.fixture
def package(monkeypatch):
    """`my_package` with the page's code, registered by the page's entry point."""
    module = ModuleType("my_package")
    exec(compile(blocks(page("providers"), "python")[0], "providers.md", "exec"), module.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "my_package", module)
    ((group, names),) = tomllib.loads(blocks(page("providers"), "toml")[0])["project"]["entry-points"].items()
    found = EntryPoints([EntryPoint(name, value, group) for name, value in names.items()])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found.select(group=group))
    registry.installed.cache_clear()  # read once in a process
    yield
    registry.installed.cache_clear()


async def test_it_makes_the_picture_that_the_page_asks_for(package, tmp_path):
    asked = []

    async def paint(request: web.Request) -> web.Response:
        asked.append((await request.json(), request.headers["Authorization"]))
        return web.json_response({"png": base64.b64encode(picture()).decode()})

    app = web.Application()
    app.router.add_post("/v1/paint", paint)
    (tmp_path / "m.yaml").write_text(blocks(page("providers"), "yaml")[0])
    async with TestServer(app) as server:
        environ = {
            "PAINT_API_KEY": KEY,
            "BATCHGEN_PAINT_BASE_URL": str(server.make_url("")),
            "XDG_STATE_HOME": str(tmp_path),
        }
        outcome = await batchgen.run(batchgen.load(tmp_path / "m.yaml", environ=environ))
    assert (outcome.exit_code, outcome.made, outcome.estimated_usd) == (0, 1, 0.02)
    assert asked == [({"model": "paint-1", "text": "A fox in snow", "seed": 7}, f"Bearer {KEY}")]
    assert (tmp_path / "m" / "fox.png").read_bytes() == picture()


def test_a_field_that_it_does_not_declare_is_refused(package, tmp_path):
    (tmp_path / "m.yaml").write_text(blocks(page("providers"), "yaml")[0].replace("seed: 7", 'aspect_ratio: "1:1"'))
    with pytest.raises(ManifestError, match="aspect_ratio: provider paint does not send it"):
        batchgen.plan(batchgen.load(tmp_path / "m.yaml", environ={}))
