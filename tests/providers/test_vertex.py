"""Google's enterprise platform: requests as the vendor's SDK sends them, where they go, what lets them in, and its errors."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials

from batchgen.engine.routes import open_routes
from batchgen.errors import BillingStopped, KeyRejected, ModelUnavailable, RateLimited, SettingsError
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers import google_credentials
from batchgen.providers.contract import SupportsBatches, SupportsConversations, SupportsUploads
from batchgen.records import Inputs, ReferenceImage, Response
from batchgen.settings import Settings
from tests.support.google_key import PROJECT, key_file
from tests.support.http_server import serving
from tests.support.provider_requests import PIXEL, camel, sent

MODEL = "gemini-3-pro-image"
ANSWER = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thoughtSignature": "c2ln"}],
            },
            "finishReason": "STOP",
        }
    ]
}


@pytest.fixture(autouse=True)
def no_machine_of_google(monkeypatch, tmp_path):
    monkeypatch.setattr(google_credentials, "PRODUCT_NAME", tmp_path / "product_name")


def route(environ, model="vertex-pro", folder=None, emulator_url=None):
    profile = load_catalogue().resolve(model)
    routes, notes = open_routes([profile], Settings.load(folder, environ), emulator_url)
    (found,) = routes.values()
    return found, notes


# --- golden requests: the installed SDK beside our codec


class Sdk:
    """google-genai with vertexai=True, and what it sent: (path, body) of each request."""

    def __init__(self, url):
        self.seen = []
        self._url = url

    async def answer(self, request):
        self.seen.append((request.path, camel(await request.json())))
        return web.json_response(ANSWER)

    def client(self, **account):
        return genai.Client(vertexai=True, http_options={"base_url": self._url}, **account)


@pytest.fixture
async def sdk():
    async def answer(request):
        return await recorder.answer(request)

    async with serving(answer) as url:
        recorder = Sdk(url)
        yield recorder


def token():
    expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    return Credentials("ya29.x", expiry=expiry)


def ours(path, codec, sample, inputs=None):
    request = codec.build(sample, inputs or Inputs())
    return path + request.path, json.loads(request.body)


@pytest.fixture
def by_project(tmp_path):
    """The path that stands before every request's."""
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x")), "GOOGLE_CLOUD_LOCATION": "eu"}
    base_url = route(environ)[0].base_url
    return base_url.removeprefix("https://aiplatform.eu.rep.googleapis.com")


async def test_the_installed_sdk_asks_for_an_image_as_we_do(sdk, codec, sample_of, by_project):
    config = types.GenerateContentConfig(
        response_modalities=["TEXT", "IMAGE"],
        image_config=types.ImageConfig(
            aspect_ratio="16:9",
            image_size="2K",
            person_generation="ALLOW_ADULT",
            output_mime_type="image/jpeg",
            output_compression_quality=80,
        ),
        thinking_config=types.ThinkingConfig(thinking_level="HIGH", include_thoughts=True),
        safety_settings=[types.SafetySetting(category="HARM_CATEGORY_IMAGE_HATE", threshold="BLOCK_ONLY_HIGH")],
        tools=[types.Tool(google_search=types.GoogleSearch())],
        seed=42,
        temperature=0.5,
    )
    with sdk.client(project=PROJECT, location="eu", credentials=token()) as client:
        await asyncio.to_thread(client.models.generate_content, model=MODEL, contents="A red fox", config=config)
    output = {"imageOutputOptions": {"compressionQuality": 80}}
    sample = sample_of(
        prompt="A red fox",
        modalities=("text", "image"),
        aspect_ratio="16:9",
        image_size="2K",
        person_generation="allow_adult",
        output_format="jpeg",
        thinking="high",
        keep_thoughts=True,
        safety={"HARM_CATEGORY_IMAGE_HATE": "BLOCK_ONLY_HIGH"},
        search="web",
        seed=42,
        temperature=0.5,
        extra={"generationConfig": {"imageConfig": output}},
    )
    assert sdk.seen == [ours(by_project, codec("vertex-pro"), sample)]


async def test_the_installed_sdk_edits_and_converses_as_we_do(sdk, codec, sample_of, by_project):
    part = types.Part.from_bytes(data=base64.b64decode(PIXEL), mime_type="image/png")
    config = types.GenerateContentConfig(response_modalities=["TEXT", "IMAGE"])
    with sdk.client(project=PROJECT, location="eu", credentials=token()) as client:
        chat = client.chats.create(model=MODEL, config=config)
        await asyncio.to_thread(chat.send_message, ["Add a hat", part])
        await asyncio.to_thread(chat.send_message, "Make it blue")
    both, made, picture = ("text", "image"), codec("vertex-pro"), (ReferenceImage("image/png", PIXEL),)
    turns = (json.dumps(made.turn(json.dumps(ANSWER).encode())),)
    second = sample_of(prompt="Make it blue", history=("Add a hat",), turn=2, modalities=both)
    assert sdk.seen == [
        ours(by_project, made, sample_of(prompt="Add a hat", turn=1, modalities=both), Inputs(picture)),
        ours(by_project, made, second, Inputs(picture, turns)),
    ]


@pytest.mark.filterwarnings("ignore:The generate_images method is deprecated")
async def test_the_installed_sdk_asks_imagen_as_we_do(sdk, codec, sample_of, by_project):
    config = types.GenerateImagesConfig(
        number_of_images=2,
        aspect_ratio="16:9",
        image_size="2K",
        person_generation="ALLOW_ADULT",
        negative_prompt="rain",
        seed=3,
        include_rai_reason=True,
        output_mime_type="image/jpeg",
        output_compression_quality=80,
    )
    with sdk.client(project=PROJECT, location="eu", credentials=token()) as client:
        asking = asyncio.to_thread(
            client.models.generate_images, model="imagen-4.0-generate-001", prompt="a fox", config=config
        )
        await asking
    parameters = {"personGeneration": "ALLOW_ADULT", "outputOptions": {"compressionQuality": 80}}
    wish = {"aspect_ratio": "16:9", "image_size": "2K", "negative_prompt": "rain", "seed": 3, "output_format": "jpeg"}
    sample = sample_of(images=2, **wish, extra={"parameters": parameters})
    assert sdk.seen == [ours(by_project, codec("vertex/imagen-4.0-generate-001"), sample)]


async def test_a_key_goes_where_the_sdk_sends_it_and_needs_no_project(sdk, codec, sample_of):
    with sdk.client(api_key="k") as client:
        await asyncio.to_thread(client.models.generate_content, model=MODEL, contents="a fox")
    found, _ = route({"VERTEX_API_KEY": "of-express-mode"})
    assert await found.credentials.headers(None, None) == {"x-goog-api-key": "of-express-mode"}
    path = found.base_url.removeprefix("https://aiplatform.googleapis.com")
    assert sdk.seen[0][0] == ours(path, codec("vertex-pro"), sample_of())[0]


@pytest.mark.parametrize(
    ("word", "theirs"), [("dont_allow", "ALLOW_NONE"), ("allow_adult", "ALLOW_ADULT"), ("allow_all", "ALLOW_ALL")]
)
def test_people_are_asked_for_in_the_words_of_this_api(codec, sample_of, word, theirs):
    body = sent(codec("vertex-flash"), sample_of(person_generation=word))
    assert body["generationConfig"]["imageConfig"] == {"personGeneration": theirs}


def test_every_turn_has_a_role_which_this_api_requires(codec, sample_of):
    body = sent(codec("vertex-flash"), sample_of(system="You draw."))
    assert [content["role"] for content in body["contents"]] == ["user"]


def test_it_has_conversations_and_neither_uploads_nor_batches(codec):
    made = codec("vertex-flash")
    assert isinstance(made, SupportsConversations)
    assert not isinstance(made, (SupportsUploads, SupportsBatches))


# --- where requests go


@pytest.mark.parametrize(
    ("location", "host"),
    [
        (None, "aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
    ],
)
def test_each_location_has_its_host_and_its_place_in_the_path(tmp_path, location, host):
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}
    found, notes = route(environ | ({"GOOGLE_CLOUD_LOCATION": location} if location else {}))
    place = f"projects/{PROJECT}/locations/{location or 'global'}"
    assert (found.base_url, notes) == (f"https://{host}/v1beta1/{place}/publishers/google", [])


def test_the_project_of_the_environment_comes_before_that_of_the_file_and_is_the_account_of_the_quota(tmp_path):
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}
    assert route(environ)[0].account == PROJECT
    found, _ = route({**environ, "GOOGLE_CLOUD_PROJECT": "other-1"})
    assert (found.account, "/projects/other-1/" in found.base_url) == ("other-1", True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"GOOGLE_CLOUD_LOCATION": "evil.example/x"},
            "GOOGLE_CLOUD_LOCATION: 'evil.example/x' is not a valid location",
        ),
        ({"GOOGLE_CLOUD_LOCATION": "EU"}, "GOOGLE_CLOUD_LOCATION: 'EU' is not a valid location"),
        ({"GOOGLE_CLOUD_PROJECT": "../other"}, "GOOGLE_CLOUD_PROJECT: '../other' is not a valid project"),
    ],
)
def test_a_place_that_would_lead_elsewhere_is_refused(tmp_path, more, words):
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}
    with pytest.raises(SettingsError, match=words):
        route({**environ, **more})


def test_what_is_missing_is_said_with_the_variables_that_would_help(tmp_path):
    with pytest.raises(SettingsError, match="set VERTEX_API_KEY or GOOGLE_APPLICATION_CREDENTIALS"):
        route({})
    path = key_file(tmp_path, "https://x", project_id=None)
    with pytest.raises(SettingsError, match="names none; set GOOGLE_CLOUD_PROJECT in the environment"):
        route({"GOOGLE_APPLICATION_CREDENTIALS": str(path)})


def test_all_models_of_a_run_share_one_token(tmp_path):
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}
    profiles = [load_catalogue().resolve(name) for name in ("vertex-pro", "vertex-flash")]
    routes, _ = open_routes(profiles, Settings.load(None, environ), None)
    pro, flash = routes.values()
    assert pro.credentials is flash.credentials


def test_the_emulator_and_a_server_on_this_machine_need_nothing_and_are_given_nothing(tmp_path):
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "missing.json")}
    found, _ = route(environ, emulator_url="http://127.0.0.1:1")
    assert (found.base_url, found.account) == ("http://127.0.0.1:1/v1beta1/publishers/google", "local")
    assert route({"BATCHGEN_VERTEX_BASE_URL": "http://127.0.0.1:1"})[0].account == "local"


def test_credentials_that_are_named_go_to_a_server_on_this_machine_too(tmp_path):
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}
    found, notes = route({**environ, "BATCHGEN_VERTEX_BASE_URL": "http://127.0.0.1:1"})
    assert found.account == PROJECT
    assert notes == ["requests for vertex go to http://127.0.0.1:1, as BATCHGEN_VERTEX_BASE_URL says"]


# --- a folder that may be a stranger's


def test_a_folders_env_names_neither_credentials_nor_project_nor_location(tmp_path):
    mine = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / ".env").write_text(
        "GOOGLE_APPLICATION_CREDENTIALS=stolen.json\nGOOGLE_CLOUD_PROJECT=theirs\nGOOGLE_CLOUD_LOCATION=asia-east1\n"
    )
    found, notes = route(mine, folder=theirs)
    assert found.base_url.startswith(f"https://aiplatform.googleapis.com/v1beta1/projects/{PROJECT}/locations/global/")
    unused = f"GOOGLE_APPLICATION_CREDENTIALS in {theirs / '.env'} is not used: set it in the environment"
    assert unused in notes
    with pytest.raises(SettingsError, match="no API key or credentials"):
        route({}, folder=theirs)


def test_credentials_of_yours_come_before_a_key_of_a_folders_env(tmp_path):
    mine = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / ".env").write_text("VERTEX_API_KEY=of-theirs\n")
    assert route(mine, folder=theirs)[0].account == PROJECT
    assert route({**mine, "VERTEX_API_KEY": "of-mine"}, folder=theirs)[0].account == "of-mine"
    assert route({}, folder=theirs)[0].account == "of-theirs"


def test_an_address_of_a_folders_env_is_never_sent_a_token_of_yours(tmp_path):
    mine = {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / ".env").write_text("BATCHGEN_VERTEX_BASE_URL=https://evil.example\n")
    with pytest.raises(SettingsError, match=r"would send your key to https://evil\.example"):
        route(mine, folder=theirs)
    (theirs / ".env").write_text("BATCHGEN_VERTEX_BASE_URL=https://evil.example\nVERTEX_API_KEY=of-theirs\n")
    assert route(mine, folder=theirs)[0].account == "of-theirs"


# --- errors


def error(status, message, reason="", rpc="X"):
    info = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}]
    details = {"details": info} if reason else {}
    return Response(
        status, {}, json.dumps({"error": {"code": status, "message": message, "status": rpc, **details}}).encode()
    )


NOT_FOUND = (
    "Publisher Model `projects/p/locations/us-central1/publishers/google/models/gemini-3-pro-image` was not found or your"
    " project does not have access to it. Please ensure you are using a valid model version."
)
DENIED = (
    "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/projects/p/locations/global/"
    "publishers/google/models/gemini-3-pro-image' (or it may not exist)."
)
OFF = "Vertex AI API has not been used in project 4711 before or it is disabled. Enable it by visiting https://console."
NO_TOKEN = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid"
EXHAUSTED = (
    "Resource exhausted. Please try again later. Please refer to https://cloud.google.com/vertex-ai/generative-ai/docs/"
    "error-code-429 for more details."
)


@pytest.mark.parametrize(
    ("response", "kind", "reason"),
    [
        (error(404, NOT_FOUND), ModelUnavailable, "model_not_here"),
        (error(404, "Requested entity was not found."), ModelUnavailable, "model_unavailable"),
        (error(403, DENIED, "IAM_PERMISSION_DENIED"), KeyRejected, "permission_denied"),
        (error(403, OFF, "SERVICE_DISABLED"), KeyRejected, "service_disabled"),
        (error(403, "This API method requires billing", "BILLING_DISABLED"), BillingStopped, "billing"),
        (error(401, NO_TOKEN, "ACCESS_TOKEN_EXPIRED"), KeyRejected, "token_refused"),
        (error(429, EXHAUSTED), RateLimited, "rate_limited"),
        (
            error(429, "Quota exceeded for aiplatform.googleapis.com/generate_content_requests_per_minute_per_project_per"
            "_base_model with base model: gemini-3-pro-image. Please submit a quota increase request."),
            RateLimited,
            "rate_limited",
        ),
    ],
)  # fmt: skip
def test_an_error_has_the_reason_whose_remedy_helps(codec, response, kind, reason):
    with pytest.raises(kind) as caught:
        codec("vertex-pro").read(response)
    assert (type(caught.value), caught.value.reason, caught.value.maybe_billed) == (kind, reason, False)
