"""A package's provider at the command line: known as ours are, never in place of one of ours, and read only when it is needed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from batchgen.cli.invocation import Invocation
from batchgen.profiles.catalogue import load_catalogue
from tests.support.command_line import requests, until
from tests.support.marked_key import KEY
from tests.support.packages import files_of_page, forget, install

PAGE = files_of_page()
MODELS = PAGE["batchgen_paint/models.yaml"]
POINTS = {
    "batchgen.providers:paint": "batchgen_paint:Paint",
    "batchgen.models:paint": "batchgen_paint:models.yaml",
    "batchgen.emulators:paint": "batchgen_paint.emulator:PaintEmulator",
}


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    yield
    for name in [name for name in sys.modules if name.startswith("batchgen_paint")]:
        del sys.modules[name]
    monkeypatch.undo()
    forget()


@pytest.fixture
def paint(monkeypatch, tmp_path):
    """The page's package, its files and entry points as given."""

    def make(points=POINTS, **files: str) -> None:
        named = {f"batchgen_paint/{name}.yaml": text for name, text in files.items()}
        found = {path: text for path, text in {**PAGE, **named}.items() if path.startswith("batchgen_paint/")}
        install(monkeypatch, tmp_path / "site", "batchgen-paint", points, found)

    return make


def write(**item: object) -> str:
    Path("job.yaml").write_text(json.dumps({"items": [{"id": "a", "prompt": "a fox", **item}]}))
    return "job.yaml"


def test_a_model_of_a_package_is_found_by_its_alias_and_proposed_by_its_name(batchgen, paint):
    paint()
    answer = batchgen("plan", write(model="paint", seed=7), "--json")
    assert (answer.code, answer.json["usd"]) == (0, 0.02)
    answer = batchgen("plan", write(model="paimt-1"))
    assert answer.code == 2
    assert "'paimt-1' is not a known model (did you mean 'paint-1'?)" in answer.err
    answer = batchgen("plan", write(model="paint-1", image_size="4K"))
    assert "image_size: paint-1 does not take it" in answer.err


def test_what_a_manifest_says_of_its_model_changes_only_that(batchgen, paint):
    paint()
    Path("job.yaml").write_text("models: {paint: {rpm: 7}}\nitems: [{prompt: a fox, model: paint-1, seed: 1}]\n")
    answer = batchgen("plan", "job.yaml", "--json")
    assert (answer.code, answer.json["usd"]) == (0, 0.02)


def test_an_id_that_is_not_listed_is_the_packages_by_its_pattern_and_ours_by_ours(paint):
    paint(models=MODELS.replace("ids: paint-.*", "ids: .*"))
    names = ("paint-77", "other-1", "imagen-99", "gpt-image-99", "acme/any")
    providers = [load_catalogue().resolve(name).provider for name in names]
    assert providers == ["paint", "paint", "imagen", "openai", "aimlapi"]


def test_no_name_of_ours_is_replaced(batchgen, paint):
    paint(
        models=MODELS.replace("aliases: [paint]", "aliases: [flash, paint]") + "  - {id: gemini-3-pro-image, rpm: 1}\n"
    )
    found = {model["id"]: model for model in batchgen("models", "--json").json}
    assert (found["gemini-3-pro-image"]["provider"], found["gemini-3-pro-image"]["rpm"]) == ("gemini", 15)
    assert [name for name, model in found.items() if model["provider"] == "paint"] == ["paint-1"]
    answer = batchgen("plan", write(model="flash"), "--json")
    assert "paint-1" not in answer.json["by_model"]
    assert batchgen("run", write(model="flash"), "--emulate").code == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MODELS.replace("{image_usd: 0.02}", "free"), "models.yaml:10: models: prices: must be a mapping, not 'free'"),
        (
            MODELS.replace("rpm: 30", "rpm: 0"),
            "models.yaml:9: models: rpm: must be a whole number of at least 1, not 0",
        ),
        (
            MODELS.replace("rpm: 30", "rmp: 30"),
            "models.yaml:9: models: rmp: no such fact of a model; there are aliases",
        ),
        (MODELS.replace("paint-1", "a b"), "models.yaml:4: models: id: must be letters, digits"),
        (MODELS.replace("ids: paint-.*", "ids: ("), "models.yaml:2: ids: must be a regular expression"),
        (MODELS.replace("provider: paint", "provider: pain"), "models.yaml:1: provider: there is no provider 'pain'"),
        (MODELS.replace("models:", "model:"), "models.yaml:3: model: not known here; there are provider"),
        (MODELS + "  - id: paint-1\n", "models.yaml:14: models: id: paint-1 is there twice"),
        (MODELS.replace("[1K]", "[1K"), "models.yaml:9: "),
        ("- 1\n", "models.yaml:1: must be a mapping of provider"),
        (MODELS + "  - <<: {rpm: [1]}\n    id: b\n", "models.yaml:14: models: rpm: must be a whole number"),
    ],
)
def test_a_mistake_in_its_models_is_named_with_package_file_and_line(batchgen, paint, text, says):
    paint(models=text)
    answer = batchgen("models", "--json")
    assert answer.code == 5
    assert f"batchgen-paint 1.0: batchgen_paint/{says}" in answer.err
    assert "gemini-3-pro-image" in answer.out  # ours are shown all the same
    answer = batchgen("plan", write(model="paint-1"))
    assert answer.code == 2
    assert f"'paint-1' is not a known model, and batchgen-paint 1.0: batchgen_paint/{says}" in answer.err
    assert batchgen("plan", write(model="flash")).code == 0
    findings = {check["what"]: check for check in batchgen("doctor", "--json").json["checks"]}
    assert (findings["models"]["verdict"], says in findings["models"]["says"]) == ("fail", True)


def test_models_in_a_file_that_is_not_there_are_named(batchgen, paint):
    paint({**POINTS, "batchgen.models:paint": "batchgen_paint:nothing.yaml"})
    err = batchgen("models").err
    assert "batchgen-paint 1.0: batchgen.models: paint = 'batchgen_paint:nothing.yaml': there is no such file" in err


def test_a_codec_that_cannot_be_loaded_is_a_finding_of_doctor(batchgen, paint):
    paint({**POINTS, "batchgen.providers:paint": "batchgen_paint:Nothing"})
    (finding,) = (each for each in batchgen("doctor", "--json").json["checks"] if each["what"] == "package paint")
    assert finding["verdict"] == "fail"
    assert "of batchgen-paint 1.0 cannot be loaded from batchgen_paint:Nothing" in finding["says"]


def test_without_an_emulator_an_emulated_run_sends_nothing_and_says_why(batchgen, paint):
    paint({name: value for name, value in POINTS.items() if "emulators" not in name})
    answer = batchgen("run", write(model="paint-1", seed=7), "--emulate")
    assert answer.code == 2
    assert "provider paint has no emulator: batchgen-paint 1.0 brings none; it can only be run without" in answer.err
    assert not Path("job.emulated").exists()


def test_emulate_serves_its_emulator_below_a_path_of_its_own(batchgen, paint, spawn, monkeypatch):
    paint()
    process = spawn("emulate", PYTHONPATH=os.environ["PYTHONPATH"])
    first, second = process.stdout.readline().split(), process.stdout.readline().split()
    assert second == ["paint", "at", f"{first[-1]}/_packages/paint"]
    monkeypatch.setenv("BATCHGEN_PAINT_BASE_URL", second[-1])
    assert batchgen("run", write(model="paint-1", seed=7)).code == 0
    assert Path("job/a.png").stat().st_size > 1000
    assert requests(first[-1]) == 0  # it was not ours that answered
    process.terminate()
    until(lambda: process.poll() is not None)


def test_entry_points_are_not_read_for_models_of_ours(batchgen, monkeypatch):
    forget()
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **asked: pytest.fail(f"read for {asked}"))
    Path("job.yaml").write_text("models: {pro: {rpm: 600}}\nitems: [{prompt: a fox, model: pro, fallback: [flash]}]\n")
    assert batchgen("run", "job.yaml", "--emulate").code == 0
    assert batchgen("status", "job.emulated").code == 0


LISTING = """
from batchgen.providers.listings import ListedModel, Listing, page_request
Paint.listing = Listing(
    models=lambda token: page_request("/v1/models"),
    read_models=lambda body: ([ListedModel(name) for name in json.loads(body)], ""),
    read_error=error_of,
)
Paint.endpoint = Endpoint(
    name="easel", key_names=("PAINT_PASS",), base_url_names=("PAINT_BASE_URL",), base_url="https://api.paint.example"
)
"""


@pytest.fixture
def listing(paint, monkeypatch):
    """The package with a list of models, whose endpoint has another name than its provider and an unusual variable."""
    monkeypatch.setitem(PAGE, "batchgen_paint/__init__.py", PAGE["batchgen_paint/__init__.py"] + LISTING)
    paint()
    monkeypatch.setenv("PAINT_PASS", KEY)


class ListOfModels(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Bearer {KEY}"
        body = json.dumps(["paint-1", "paint-9"] if known else {"message": "who are you"}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def list_of_models(monkeypatch):
    for name in ("GEMINI_API_KEY", "AIMLAPI_API_KEY"):
        monkeypatch.delenv(name)
    with HTTPServer(("127.0.0.1", 0), ListOfModels) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PAINT_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


def test_a_packages_list_of_models_is_asked_by_doctor_and_models(batchgen, listing, list_of_models, monkeypatch):
    checks = batchgen("doctor", "--quota", "--json").json["checks"]
    says = [(check["verdict"], check["says"]) for check in checks if check["what"] in ("online paint", "models paint")]
    assert [verdict for verdict, _ in says] == ["ok"] * 3
    assert [text for _, text in says[1:]] == [
        "listed for this key: paint-1",
        "listed, and not known to batchgen: paint-9",
    ]
    answer = batchgen("models", "--live", "--json")
    live = {model["id"]: model["live"] for model in answer.json if model["provider"] == "paint"}
    assert live == {"paint-1": "live", "paint-9": "unlisted by us"}
    monkeypatch.setenv("PAINT_PASS", "another-key-1234567890")
    checks = batchgen("doctor", "--online", "--json").json["checks"]
    (finding,) = (check for check in checks if check["what"] == "online paint")
    assert (finding["verdict"], "the key is not taken" in finding["says"]) == ("fail", True)


def test_a_key_under_an_unusual_name_is_hidden_from_the_start_of_a_run(batchgen, listing, monkeypatch):
    hidden: list[set[str]] = []
    real = Invocation.hide
    monkeypatch.setattr(Invocation, "hide", lambda self, values: (real(self, values), hidden.append(set(self.secrets))))
    monkeypatch.setenv("PAINT_PASS", "an-odd-key-1234567890")
    assert batchgen("run", write(model="paint-1", seed=7), "--emulate").code == 0
    assert "an-odd-key-1234567890" in hidden[-1] and "an-odd-key-1234567890" not in hidden[0]
