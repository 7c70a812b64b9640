"""The codec of the Gemini API's generateContent.

Sources: ai.google.dev/api/generate-content and ai.google.dev/gemini-api/docs/image-generation; requests as sent by
google-genai 3.4.0 and @google/genai 3.1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from batchgen.endpoint import Endpoint
from batchgen.profiles.profile import Profile
from batchgen.providers.gemini_answer import Answer, read_reply
from batchgen.providers.gemini_batch import GeminiBatch
from batchgen.providers.gemini_files import GeminiFiles
from batchgen.providers.gemini_listing import LISTING
from batchgen.providers.google_errors import error_in_success, parse_answer
from batchgen.providers.listings import Listing
from batchgen.providers.remote import BatchCodec, FileCodec
from batchgen.providers.request_body import deep_merged, encode_body, reference_placeholder, turn_placeholder
from batchgen.records import Inputs, Item, Reply, Request, Sample

ENDPOINT = Endpoint(
    name="gemini",
    key_names=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    base_url_names=("BATCHGEN_GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
    base_url="https://generativelanguage.googleapis.com",
)
SEED_MAX = 2**31 - 1  # int32 in the API's reference (ai.google.dev/api/generate-content, GenerationConfig.seed)
# ai.google.dev/api/generate-content, HarmCategory and HarmBlockThreshold, as far as this API takes them.
HARM_CATEGORIES = frozenset(
    f"HARM_CATEGORY_{name}"
    for name in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "CIVIC_INTEGRITY")
)
HARM_THRESHOLDS = frozenset(("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"))
ENCODED = frozenset(
    ["turns", "system", "aspect_ratio", "image_size", "references", "modalities", "search", "thinking", "keep_thoughts",
     "media_resolution", "service_tier", "seed", "temperature", "safety", "extra"]
)  # fmt: skip
# ai.google.dev/gemini-api/docs/flex-inference: an answer takes up to 15 minutes.
FLEX_TIME_LIMIT_S = 1200.0
# The official SDKs send both searches for an image search; the model decides which it uses.
SEARCH_TOOLS: Mapping[str, Mapping[str, Any]] = {
    "web": {"googleSearch": {}},
    "image": {"googleSearch": {"searchTypes": {"webSearch": {}, "imageSearch": {}}}},
}


class Gemini:
    """One picture per request: candidateCount above 1 does not give more."""

    name: ClassVar[str] = "gemini"
    listing: ClassVar[Listing] = LISTING
    endpoint: ClassVar[Endpoint] = ENDPOINT
    seed_max: ClassVar[int] = SEED_MAX
    harm_categories: ClassVar[frozenset[str]] = HARM_CATEGORIES
    harm_thresholds: ClassVar[frozenset[str]] = HARM_THRESHOLDS
    api_version: ClassVar[str] = "v1beta"  # v1 took no image fields before September 2026 (googleapis/js-genai#1322)

    def __init__(self, profile: Profile, api_version: str | None = None) -> None:
        version = api_version or profile.wire.get("api_version") or self.api_version
        self.profile = profile
        model = profile.wire.get("model") or profile.id
        self.files: FileCodec = GeminiFiles(version)
        self.batch: BatchCodec = GeminiBatch(version, model)
        self._path = f"/{version}/models/{quote(model, safe='')}:generateContent"

    @staticmethod
    def encodes(_: Profile) -> frozenset[str]:
        return ENCODED

    @staticmethod
    def auth_header(key: str) -> tuple[str, str]:
        """The header form of the key; `?key=` would leak it into the logs of every proxy."""
        return "x-goog-api-key", key

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        item = sample.item
        body = deep_merged(_body(item, inputs), item.extra) if item.extra else _body(item, inputs)
        timeout_s = self.profile.time_limit(item.image_size)
        if item.service_tier == "flex":
            timeout_s = max(timeout_s, FLEX_TIME_LIMIT_S)
        return Request(
            method="POST",
            path=self._path,
            body=encode_body(body, [reference.base64 for reference in inputs.references], inputs.turns),
            headers=json_headers(timeout_s),
            timeout_s=timeout_s,
        )

    @staticmethod
    def turn(envelope: bytes) -> Mapping[str, Any]:
        """What the model said in an answer that `read` has accepted, as a turn to send back: nothing added or left out.

        Thought signatures must come back exactly as they were, or the API answers 400
        (ai.google.dev/gemini-api/docs/thought-signatures).
        """
        said: Mapping[str, Any] = json.loads(envelope)["candidates"][0]["content"]
        return said

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        answer = parse_answer(Answer, status, headers, body)
        if answer.error and not answer.candidates:
            raise error_in_success(answer.error, status, headers)
        return read_reply(answer, status, headers)


def json_headers(timeout_s: float) -> dict[str, str]:
    """X-Server-Timeout lets the server stop a little before we do: its own 504 says more than our hanging up."""
    return {"Content-Type": "application/json", "X-Server-Timeout": str(max(1, int(timeout_s) - 5))}


def _body(item: Item, inputs: Inputs) -> dict[str, Any]:
    prompts = (*item.history, item.prompt)
    parts: list[dict[str, Any]] = [{"text": prompts[0]}]
    for number, reference in enumerate(inputs.references):
        if reference.uri:
            parts.append({"fileData": {"mimeType": reference.mime_type, "fileUri": reference.uri}})
        else:
            parts.append({"inlineData": {"mimeType": reference.mime_type, "data": reference_placeholder(number)}})
    contents: list[Any] = [{"role": "user", "parts": parts}]
    for number, prompt in enumerate(prompts[1:]):
        contents += [turn_placeholder(number), {"role": "user", "parts": [{"text": prompt}]}]
    body: dict[str, Any] = {"contents": contents, "generationConfig": _config(item)}
    if item.system is not None:
        body["systemInstruction"] = {"parts": [{"text": item.system}]}
    if item.safety:
        body["safetySettings"] = [
            {"category": category, "threshold": threshold} for category, threshold in item.safety.items()
        ]
    if item.search is not None:
        body["tools"] = [SEARCH_TOOLS.get(item.search, SEARCH_TOOLS["web"])]
    if item.service_tier is not None:
        body["serviceTier"] = item.service_tier
    return body


def _config(item: Item) -> dict[str, Any]:
    """Strings in imageConfig; the documents' `responseFormat.image` with "16:9" is refused by the live server."""
    config: dict[str, Any] = {"responseModalities": [name.upper() for name in item.modalities] or ["IMAGE"]}
    image: dict[str, Any] = {}
    if item.aspect_ratio is not None:
        image["aspectRatio"] = item.aspect_ratio
    if item.image_size is not None:
        image["imageSize"] = item.image_size.upper()  # "2k" is silently taken for 1K (firebase/genkit#4891)
    if image:
        config["imageConfig"] = image
    if item.seed is not None:
        config["seed"] = item.seed
    if item.temperature is not None:
        config["temperature"] = item.temperature
    thinking: dict[str, Any] = {} if item.thinking is None else {"thinkingLevel": item.thinking.upper()}
    if item.keep_thoughts:
        thinking["includeThoughts"] = True
    if thinking:
        config["thinkingConfig"] = thinking
    if item.media_resolution is not None:
        config["mediaResolution"] = f"MEDIA_RESOLUTION_{item.media_resolution.upper()}"
    return config
