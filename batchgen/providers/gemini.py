"""The codec of the Gemini API's generateContent, and of the list of models that a key may use.

Sources: ai.google.dev/api/generate-content, ai.google.dev/gemini-api/docs/image-generation and
ai.google.dev/api/models#method:-models.list; requests as sent by google-genai 3.4.0 and @google/genai 3.1.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, urlencode

from pydantic import OnErrorOmit, TypeAdapter

from batchgen.endpoint import Endpoint
from batchgen.profiles.profile import Profile
from batchgen.providers.answer_body import LENIENT, AnswerModel
from batchgen.providers.contract import BatchCodec, FileCodec
from batchgen.providers.credentials import Credentials, KeyHeader
from batchgen.providers.gemini_answer import GenerateContentResponse, read_answer, read_reply
from batchgen.providers.gemini_remote import GeminiBatch, GeminiFiles
from batchgen.providers.google_errors import error_in_success, parse_answer, read_error
from batchgen.providers.judgement import ANSWER_SCHEMA
from batchgen.providers.listings import ListedModel, Listing, listed_id, page_request, read_listing, wire_name
from batchgen.providers.request_body import deep_merged, encode_body, given, reference_placeholder, turn_placeholder
from batchgen.records import Answer, Inputs, Item, Question, ReferenceImage, Reply, Request, Response, Sample

ENDPOINT = Endpoint(
    name="gemini",
    key_names=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    base_url_names=("BATCHGEN_GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
    base_url="https://generativelanguage.googleapis.com",
)
SEED_MAX = 2**31 - 1  # int32 in the API's reference (ai.google.dev/api/generate-content, GenerationConfig.seed)
# ai.google.dev/api/generate-content, HarmCategory and HarmBlockThreshold, those that this API accepts.
HARM_CATEGORIES = frozenset(
    f"HARM_CATEGORY_{name}"
    for name in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "CIVIC_INTEGRITY")
)
HARM_THRESHOLDS = frozenset(("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"))
ENCODED = frozenset(("turns", "references", "system", "safety", "search", "service_tier", "extra"))
ENCODED |= {"modalities", "aspect_ratio", "image_size", "seed", "temperature", "thinking", "keep_thoughts"}
ENCODED |= {"media_resolution"}
# ai.google.dev/gemini-api/docs/flex-inference: an answer takes up to 15 minutes.
FLEX_TIME_LIMIT_S = 1200.0
# The official SDKs send both searches for an image search; the model decides which it uses.
SEARCH_TOOLS: Mapping[str, Mapping[str, Any]] = {
    "web": {"googleSearch": {}},
    "image": {"googleSearch": {"searchTypes": {"webSearch": {}, "imageSearch": {}}}},
}
IMAGE_MODEL_NAME = re.compile(r"image|imagen|banana", re.IGNORECASE)  # the list does not say what a model makes
_METHODS = frozenset({"generateContent", "predict"})


class _Model(AnswerModel):
    name: str
    supported_generation_methods: tuple[str, ...] = ()
    input_token_limit: Annotated[int | None, LENIENT] = None


class _Page(AnswerModel):
    models: tuple[OnErrorOmit[_Model], ...] = ()
    next_page_token: str = ""


_PAGE = TypeAdapter(_Page)


def read_model_page(body: bytes) -> tuple[list[ListedModel], str]:
    """(the models on one page that generate something, the token of the next or ""). Raises Malformed."""
    page = read_listing(_PAGE, body)
    listed = [
        ListedModel(
            listed_id(model.name.removeprefix("models/")),
            model.input_token_limit,
            model.supported_generation_methods,
            makes_images=IMAGE_MODEL_NAME.search(model.name) is not None,
        )
        for model in page.models
        if _METHODS & {*model.supported_generation_methods}
    ]
    return listed, page.next_page_token


def _models_request(page: str) -> Request:
    query = urlencode({"pageSize": "1000", **({"pageToken": page} if page else {})})
    return page_request(f"/v1beta/models?{query}")


LISTING = Listing(
    models=_models_request,
    read_models=read_model_page,
    read_error=read_error,
    rate_limit_note="requests per minute are shown only at aistudio.google.com/rate-limit",
)


class GoogleCodec:
    """What the codecs of Google's API share: its address, its key and the versioned path of a model's method."""

    endpoint: ClassVar[Endpoint] = ENDPOINT
    seed_max: ClassVar[int] = SEED_MAX
    method: ClassVar[str]
    encoded: ClassVar[frozenset[str]]
    api_version: ClassVar[str] = "v1beta"  # v1 took no image fields before September 2026 (googleapis/js-genai#1322)

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._version = profile.wire.get("api_version") or self.api_version
        self._model = wire_name(profile)
        self._path = f"/{self._version}/models/{quote(self._model, safe='')}:{self.method}"

    @classmethod
    def encodes(cls, _: Profile) -> frozenset[str]:
        return cls.encoded

    @staticmethod
    def credentials(key: str) -> Credentials:
        """The key as a header; `?key=` would leak it into the logs of every proxy."""
        return KeyHeader("x-goog-api-key", key)

    def post(self, body: bytes, timeout_s: float) -> Request:
        """A request in JSON. X-Server-Timeout makes the server stop a little before the client does: its own 504 says more
        than a timeout."""
        headers = {"Content-Type": "application/json", "X-Server-Timeout": str(max(1, int(timeout_s) - 5))}
        return Request(method="POST", path=self._path, body=body, headers=headers, timeout_s=timeout_s)


class Gemini(GoogleCodec):
    """The codec. One image per request: a candidateCount above 1 does not give more."""

    name: ClassVar[str] = "gemini"
    listing: ClassVar[Listing] = LISTING
    harm_categories: ClassVar[frozenset[str]] = HARM_CATEGORIES
    harm_thresholds: ClassVar[frozenset[str]] = HARM_THRESHOLDS
    method: ClassVar[str] = "generateContent"
    encoded: ClassVar[frozenset[str]] = ENCODED

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self.files: FileCodec = GeminiFiles(self._version)
        self.batch: BatchCodec = GeminiBatch(self._version, self._model)

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        item = sample.item
        body = deep_merged(_body(item, inputs), item.extra)
        timeout_s = self.profile.time_limit(item.image_size)
        if item.service_tier == "flex":
            timeout_s = max(timeout_s, FLEX_TIME_LIMIT_S)
        references = [reference.base64 for reference in inputs.references]
        return self.post(encode_body(body, references, inputs.turns), timeout_s)

    @staticmethod
    def turn(envelope: bytes) -> Mapping[str, Any]:
        """What the model said in an answer that `read` has accepted, as a turn to send back: nothing added or left out.

        Thought signatures must come back exactly as they were, or the API answers 400
        (ai.google.dev/gemini-api/docs/thought-signatures).
        """
        said: Mapping[str, Any] = json.loads(envelope)["candidates"][0]["content"]
        return said

    def read(self, response: Response) -> Reply:
        return read_reply(_parsed(response), response)

    def build_question(self, question: Question) -> Request:
        """A question, asking for JSON by a JSON Schema as google-genai 3.4.0 does
        (ai.google.dev/gemini-api/docs/structured-output)."""
        config = {
            "responseModalities": ["TEXT"],
            "responseMimeType": "application/json",
            "responseJsonSchema": ANSWER_SCHEMA,
            "temperature": 0 if "temperature" in self.profile.supports else None,
        }
        contents = [{"role": "user", "parts": _parts(question.text, question.images)}]
        body = {"contents": contents, "generationConfig": given(config)}
        return self.post(encode_body(body, [image.base64 for image in question.images]), question.timeout_s)

    def read_answer(self, response: Response) -> Answer:
        return read_answer(_parsed(response), response)


def _parsed(response: Response) -> GenerateContentResponse:
    answer = parse_answer(GenerateContentResponse, response)
    if answer.error and not answer.candidates:
        raise error_in_success(answer.error, response)
    return answer


def _body(item: Item, inputs: Inputs) -> dict[str, Any]:
    prompts = (*item.history, item.prompt)
    contents: list[Any] = [{"role": "user", "parts": _parts(prompts[0], inputs.references)}]
    for number, prompt in enumerate(prompts[1:]):
        contents += [turn_placeholder(number), {"role": "user", "parts": [{"text": prompt}]}]
    return {"contents": contents, "generationConfig": _config(item)} | given(
        {
            "systemInstruction": None if item.system is None else {"parts": [{"text": item.system}]},
            "safetySettings": [{"category": name, "threshold": value} for name, value in item.safety.items()] or None,
            "tools": None if item.search is None else [SEARCH_TOOLS.get(item.search, SEARCH_TOOLS["web"])],
            "serviceTier": item.service_tier,
        }
    )


def _parts(text: str, images: Sequence[ReferenceImage]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"text": text}]
    for number, image in enumerate(images):
        if image.uri:
            parts.append({"fileData": {"mimeType": image.mime_type, "fileUri": image.uri}})
        else:
            parts.append({"inlineData": {"mimeType": image.mime_type, "data": reference_placeholder(number)}})
    return parts


def _config(item: Item) -> dict[str, Any]:
    """The generation config. imageConfig has strings; the documented `responseFormat.image` with "16:9" is refused by
    the live server."""
    size = item.image_size and item.image_size.upper()  # "2k" silently means 1K (firebase/genkit#4891)
    thinking = {
        "thinkingLevel": item.thinking and item.thinking.upper(),
        "includeThoughts": True if item.keep_thoughts else None,
    }
    resolution = item.media_resolution and f"MEDIA_RESOLUTION_{item.media_resolution.upper()}"
    return {"responseModalities": [name.upper() for name in item.modalities] or ["IMAGE"]} | given(
        {
            "imageConfig": given({"aspectRatio": item.aspect_ratio, "imageSize": size}) or None,
            "seed": item.seed,
            "temperature": item.temperature,
            "thinkingConfig": given(thinking) or None,
            "mediaResolution": resolution,
        }
    )
