"""What every codec keeps, ours or a third party's: typed errors only, a reason each, a remedy for each reason."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchgen.errors
from batchgen.errors import NotJson, NotTheApi, ProviderError, UsageError
from batchgen.profiles.catalogue import load_catalogue
from batchgen.profiles.profile import Profile
from batchgen.providers import gemini_answer, registry
from batchgen.providers.reasons import REMEDIES
from batchgen.records import Inputs, PendingJob, Reply, Response

MODELS = {
    "gemini": "pro",
    "imagen": "imagen",
    "vertex": "vertex-pro",
    "vertex-imagen": "vertex/imagen-4.0-generate-001",
    "aimlapi": "aiml-imagen-4",
    "openai": "gpt-image-2.6",
    "replicate": "replicate-flux-schnell",
    "bfl": "flux-2",
    "fal": "fal-flux-schnell",
}
PICTURE = {
    "gemini": {"candidates": [{"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "b25l"}}]}}]},
    "vertex": {"candidates": [{"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "b25l"}}]}}]},
    "vertex-imagen": {"predictions": [{"mimeType": "image/png", "bytesBase64Encoded": "b25l"}]},
    "imagen": {"predictions": [{"mimeType": "image/png", "bytesBase64Encoded": "b25l"}]},
    "aimlapi": {"data": [{"b64_json": "b25l", "mime_type": "image/png"}]},
    "openai": {"data": [{"b64_json": "b25l"}], "output_format": "png"},
    "replicate": {"id": "a1", "status": "succeeded", "output": ["https://replicate.delivery/one.png"]},
    "bfl": {"id": "a1", "polling_url": "https://api.us1.bfl.ai/v1/get_result?id=a1", "cost": 3.0},
    "fal": {"request_id": "a1"},
}
JOBS = {"bfl", "fal"}  # a submit is never answered with an image
LINKS = {"replicate": ("https://replicate.delivery/one.png",)}  # of those that answer with links alone
each_codec = pytest.mark.parametrize("name", list(MODELS))
PACKAGE = Path(registry.__file__).parent


def made(name):
    return registry.provider_for(load_catalogue().resolve(MODELS[name]))


def outcome(name, status, body) -> Reply | PendingJob | ProviderError:
    """A reply, a job or a ProviderError; anything else fails the test that asked."""
    try:
        return made(name).read(Response(status, {}, body))
    except ProviderError as error:
        assert error.reason in REMEDIES, error.reason
        assert error.message and error.message.isprintable() and len(error.message) <= 600
        return error


@each_codec
def test_a_picture_or_a_job_is_read(name):
    reply = outcome(name, 200, json.dumps(PICTURE[name]).encode())
    if name in JOBS:
        assert isinstance(reply, PendingJob)
        return
    images = [(image.role, image.data, image.mime_type) for image in reply.images]
    links = LINKS.get(name, ())
    assert (images, reply.links) == ([] if links else [("image", b"one", "image/png")], links)


@each_codec
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"null", "not_json"),
        (b"[]", "not_json"),
        (b'"text"', "not_json"),
        (b"12", "not_json"),
        (b"{", "not_json"),
        (b'{"candidates": "\xff"}', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"a":' * 100_000, "not_json"),
        (b'{"a":' + b"9" * 5_000 + b"}", "not_json"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_200_that_is_no_answer_is_malformed_and_says_how(name, body, reason):
    error = outcome(name, 200, body)
    assert (type(error), error.reason, error.maybe_billed) == (NotJson, reason, True)


@each_codec
@pytest.mark.parametrize("body", [b"<!DOCTYPE html><title>Login</title>", b"\n <html>"])
def test_a_200_that_is_a_web_page_is_not_the_api_and_was_not_billed(name, body):
    error = outcome(name, 200, body)
    assert (type(error), error.reason, error.maybe_billed) == (NotTheApi, "html", False)


KEYS = st.sampled_from(
    [
        "error",
        "candidates",
        "content",
        "parts",
        "inlineData",
        "inline_data",
        "data",
        "mimeType",
        "text",
        "thought",
        "finishReason",
        "promptFeedback",
        "blockReason",
        "usageMetadata",
        "candidatesTokensDetails",
        "tokenCount",
        "modality",
        "predictions",
        "bytesBase64Encoded",
        "raiFilteredReason",
        "images",
        "url",
        "b64_json",
        "meta",
        "usage",
        "usd_spent",
        "message",
        "code",
        "status",
        "details",
        "@type",
        "violations",
        "quotaId",
        "quotaValue",
        "retryDelay",
        "reason",
        "fieldViolations",
        "description",
        "statusCode",
        "groundingMetadata",
        "modelStatus",
        "prompt",
    ]
)
VALUES = st.sampled_from(
    ["STOP", "IMAGE", "b25l", "%%%", "\x00lifted:1", "\x00lifted:", "type.googleapis.com/google.rpc.QuotaFailure"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@each_codec
@settings(deadline=None)
@given(status=st.sampled_from([200, 400, 403, 404, 429, 500, 503]), value=JSON)
def test_any_json_is_a_reply_or_a_provider_error(name, status, value):
    outcome(name, status, json.dumps(value).encode())


@each_codec
def test_the_vendors_words_are_kept(name):
    body = json.dumps({"error": {"message": "You shall not pass"}, "message": "You shall not pass"}).encode()
    assert "You shall not pass" in outcome(name, 418, body).message


@each_codec
def test_the_time_limit_is_the_profiles(name, sample_of):
    request = made(name).build(sample_of(), Inputs())
    assert request.timeout_s == load_catalogue().resolve(MODELS[name]).time_limit("1K")


# ------------------------------------------------------------------------------------------------------- reasons


def error_classes():
    classes = [kind for _, kind in inspect.getmembers(batchgen.errors, inspect.isclass)]
    return [kind for kind in classes if issubclass(kind, ProviderError)]


@pytest.mark.parametrize("kind", error_classes())
def test_the_reason_of_every_class_has_a_remedy(kind):
    assert kind.reason in REMEDIES


def reasons_written_in_the_codecs():
    """Every text given as `reason`, by name or as the second of a pair or call beside an error class."""
    names = {kind.__name__ for kind in error_classes()}
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "reason":
                yield from _texts(node.value)
            pair = node.elts if isinstance(node, ast.Tuple) else node.args if isinstance(node, ast.Call) else []
            if len(pair) > 1 and isinstance(pair[0], ast.Name) and pair[0].id in names:
                yield from _texts(pair[1])


def _texts(node):
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def test_every_reason_written_in_a_codec_has_a_remedy():
    found = set(reasons_written_in_the_codecs())
    assert {"bad_base64", "hourly_quota", "no_quota", "account_restricted"} <= found
    assert found <= set(REMEDIES)


@pytest.mark.parametrize(
    "finish_reason", sorted(gemini_answer.REFUSAL_FINISH_REASONS | gemini_answer.NO_IMAGE_FINISH_REASONS)
)
def test_every_finish_reason_has_a_remedy(finish_reason):
    assert finish_reason.lower() in REMEDIES


@pytest.mark.parametrize(
    "reason", ["not_an_image", "truncated", "too_large", "damaged", "download_failed", "compressed"]
)
def test_what_goes_wrong_after_the_answer_has_a_remedy(reason):
    assert REMEDIES[reason]


def test_remedies_can_be_looked_up_without_pydantic():
    code = "import sys, batchgen.providers.reasons, batchgen.providers.registry; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env())
    assert done.stdout.strip() == "False"


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


# ------------------------------------------------------------------------------------------------------ registry


class Acme:
    """A third party's codec, as far as the registry looks at it."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile


@pytest.fixture
def acme_installed(monkeypatch):
    points = EntryPoints([EntryPoint("acme", f"{__name__}:Acme", "batchgen.providers")])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.select(group=group))


def test_a_third_partys_codec_is_found_by_its_entry_point(acme_installed):
    provider = registry.provider_for(Profile(id="acme/paint-1", provider="acme"))
    assert provider.profile.id == "acme/paint-1"


def test_a_third_party_cannot_replace_a_codec_of_ours(acme_installed, monkeypatch):
    points = EntryPoints([EntryPoint("gemini", f"{__name__}:Acme", "batchgen.providers")])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.select(group=group))
    assert registry.provider_class("gemini").__name__ == "Gemini"


def test_an_unknown_provider_is_answered_with_those_there_are(acme_installed):
    with pytest.raises(UsageError, match=r"no provider 'acne'; installed are acme, aimlapi, .*gemini, imagen"):
        registry.provider_class("acne")


def test_a_codec_whose_module_cannot_be_imported_is_named_with_its_place(monkeypatch):
    points = EntryPoints([EntryPoint("broken", "nowhere.at_all:Codec", "batchgen.providers")])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.select(group=group))
    with pytest.raises(UsageError, match=r"provider 'broken' cannot be loaded from nowhere\.at_all:Codec: No module"):
        registry.provider_class("broken")
