"""What a codec of a third party declares holds, and what it does not declare has a cautious default: no field is dropped in silence.

Ours are asked for each field by the kit: test_kit.py.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from batchgen.cli.invocation import Invocation
from batchgen.endpoint import Endpoint
from batchgen.engine.routes import base_url_of
from batchgen.errors import ManifestError
from batchgen.item import SENT_FIELDS
from batchgen.manifest import open_manifest
from batchgen.planning.fingerprint import wire_facts
from batchgen.providers.credentials import KeyHeader
from batchgen.providers.registry import endpoint_of, provider_for
from batchgen.records import Inputs, ReferenceImage, Reply, ReplyImage, Request, Sample
from batchgen.settings import Settings
from batchgen.testing.kit import FIELD_VALUES, PIXEL

OURS = {name: {"provider": name} for name in ("gemini", "imagen", "vertex", "vertex-imagen", "aimlapi", "openai")}
MODELS = {
    "aimlapi with fields": {"provider": "aimlapi", "wire": {"fields": {"aspect_ratio": "ratio"}}},
    "bfl with fields": {
        "provider": "bfl",
        "wire": {"model": "name", "fields": {"aspect_ratio": "ratio", "references": "images"}, "references": "list"},
    },
    "fal": {"provider": "fal", "wire": {"model": "owner/app"}},
    "foreign": {"provider": "foreign"},
    "foreign, declaring": {"provider": "declaring"},
}


class Foreign:
    """A third party's codec as one was written before codecs declared anything: it takes the prompt, and drops the rest."""

    def __init__(self, profile):
        self.profile = profile

    def build(self, sample, inputs):
        return Request(method="POST", path="/paint", body=json.dumps({"text": sample.item.prompt}).encode())

    def read(self, response):
        return Reply(images=(ReplyImage("image/png", response.body),))

    @staticmethod
    def credentials(key):
        return KeyHeader("X-Key", key)


class Declaring(Foreign):
    """The same that sends a seed, says so, and has limits."""

    seed_max = 99
    endpoint = Endpoint(
        name="declaring",
        key_names=("PAINT_PASS",),
        base_url_names=("PAINT_BASE_URL",),
        base_url="https://paint.example",
    )

    @staticmethod
    def encodes(profile):
        return frozenset({"seed", "extra"})

    def build(self, sample, inputs):
        body = {"text": sample.item.prompt, "seed": sample.item.seed, **sample.item.extra}
        return Request(method="POST", path="/paint", body=json.dumps(body).encode())


@pytest.fixture(autouse=True)
def third_parties(monkeypatch):
    group = "batchgen.providers"
    points = [EntryPoint(name, f"{__name__}:{name.title()}", group) for name in ("foreign", "declaring")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints(points).select(group=group))


@pytest.fixture
def manifest_of(tmp_path):
    """A manifest of one item with these fields, for a model with these facts."""

    def make(facts, **fields):
        for name in ("fox.png", "mask.png"):
            (tmp_path / name).write_bytes(base64.b64decode(PIXEL))
        item = {"id": "a", **({} if "turns" in fields else {"prompt": "a fox"}), "model": "vendor/bar", **fields}
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps({"models": {"vendor/bar": facts}, "items": [item]}))
        return open_manifest(path)

    return make


def body_of(manifest, item):
    inputs = Inputs((ReferenceImage("image/png", PIXEL),) * len(item.references))
    sample = Sample(item=item, n=1, fingerprint="f", wire=wire_facts(item))
    return provider_for(manifest.catalogue.resolve("vendor/bar")).build(sample, inputs).body


@pytest.mark.parametrize("model", ["foreign", "foreign, declaring"])
@pytest.mark.parametrize("field", sorted(set(SENT_FIELDS) - {"prompt", "turns", "mask"}))
def test_a_field_alone_is_on_the_wire_or_refused_where_it_stands(manifest_of, model, field):
    plain = manifest_of(MODELS[model])
    (without,) = (body_of(plain, item) for item in plain.items())
    manifest = manifest_of(MODELS[model], **{field: FIELD_VALUES[field]})
    try:
        items = list(manifest.items())
    except ManifestError as refused:
        assert "job.yaml:1:" in str(refused) and f" {field}: " in str(refused)
    else:
        assert body_of(manifest, items[0]) != without


@pytest.mark.parametrize("model", {**OURS, **MODELS, "replicate with a mask": None})
def test_a_mask_is_on_the_wire_or_refused_where_it_stands(manifest_of, model):
    fields = {"references": "image", "mask": "mask"}
    facts = {**OURS, **MODELS}.get(model, {"provider": "replicate", "wire": {"model": "owner/name", "fields": fields}})
    try:
        (item,) = manifest_of(facts, references=["fox.png"], mask="mask.png").items()
    except ManifestError as refused:
        assert f" mask: provider {facts['provider']} does not send it" in str(refused)
    else:
        assert [Path(name).name for name in item.references] == ["fox.png", "mask.png"]
        body = body_of(manifest_of(facts), item)
        assert body.count(b"mask") == 1 and body != body_of(manifest_of(facts), replace(item, mask=False))


def test_the_message_names_a_model_that_sends_it_and_another_way(manifest_of):
    with pytest.raises(ManifestError) as refused:
        list(manifest_of(MODELS["aimlapi with fields"], seed=7).items())
    assert "seed: provider aimlapi does not send it for vendor/bar, unless you put it into `extra`" in str(
        refused.value
    )
    with pytest.raises(ManifestError) as refused:
        list(manifest_of(MODELS["foreign"], seed=7).items())
    assert "seed: provider foreign does not send it for vendor/bar; instead use gemini-nano-banana-2.1" in str(
        refused.value
    )


def test_a_third_partys_codec_is_looked_up_once_and_not_for_every_item(manifest_of, monkeypatch):
    asked, found = [], EntryPoints([EntryPoint("foreign", f"{__name__}:Foreign", "batchgen.providers")])
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: asked.append(group) or found.select(group=group)
    )
    assert len(list(manifest_of(MODELS["foreign"], id="{{ n }}", matrix={"n": list(range(50))}).items())) == 50
    assert sorted(asked) == ["batchgen.models", "batchgen.providers"]


def test_a_declared_limit_of_the_seed_holds(manifest_of):
    assert [item.seed for item in manifest_of(MODELS["foreign, declaring"], seed=99).items()] == [99]
    with pytest.raises(ManifestError, match="seed: must be from 0 to 99, not 100"):
        list(manifest_of(MODELS["foreign, declaring"], seed=100).items())


@pytest.mark.parametrize("facts", [{"provider": "foreign"}, MODELS["aimlapi with fields"]], ids=["foreign", "aimlapi"])
def test_several_images_a_request_are_refused_where_the_codec_cannot_ask_for_them(manifest_of, facts):
    with pytest.raises(ManifestError, match="count: vendor/bar has images_per_request 4, and provider"):
        list(manifest_of({**facts, "images_per_request": 4}, count=2).items())
    assert [item.count for item in manifest_of(facts, count=2).items()] == [2]


def test_the_key_and_the_address_are_those_that_the_codec_declares():
    settings = Settings.load(None, {"PAINT_PASS": "secret-of-paint"})
    access = settings.access(endpoint_of("declaring"))
    assert (access.key.secret.reveal(), base_url_of(endpoint_of("declaring"), access)) == (
        "secret-of-paint",
        "https://paint.example",
    )
    invocation = Invocation()
    invocation.hide_keys(settings, ["declaring"])
    assert invocation.secrets == {"secret-of-paint"}


def test_a_codec_that_declares_no_endpoint_has_variables_of_its_own_name():
    endpoint = endpoint_of("foreign")
    assert (endpoint.key_names, endpoint.base_url_names) == (("FOREIGN_API_KEY",), ("BATCHGEN_FOREIGN_BASE_URL",))


def test_the_variable_of_an_address_is_named_like_one_so_that_it_is_seen_in_a_folders_env():
    with pytest.raises(ValueError, match="must end in _BASE_URL"):
        Endpoint(name="acme", key_names=("ACME_API_KEY",), base_url_names=("ACME_HOST",))


def test_a_provider_that_is_not_installed_is_found_when_the_manifest_is_read(manifest_of):
    with pytest.raises(
        ManifestError, match="model: vendor/bar: there is no provider 'acne'; installed are aimlapi, bfl, dec"
    ):
        list(manifest_of({"provider": "acne"}).items())
