"""GenerateContentResponse: candidates, parts, thought signatures, usage and grounding, as in recorded answers."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from batchgen.emulator.answers import JSON_TYPE, Answer, as_json
from batchgen.emulator.faults import without_markers
from batchgen.emulator.pictures import sha256
from batchgen.emulator.pipeline import Job, Spec

# streamGenerateContent with and without alt=sse; a line of a batch's results
Stream = Literal["", "sse", "array", "line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiSpec(Spec):
    """modalities: upper case. interim: pictures shown among the thoughts. prompt_tokens: of all text, earlier turns and
    what the model said in them included. reference_tokens: of each picture sent along; thought_tokens: on average.

    search: which searches the googleSearch tool may do, empty without the tool. tier: the one it is served at.
    """

    modalities: tuple[str, ...]
    include_thoughts: bool
    interim: int
    prompt_tokens: int
    reference_tokens: int
    thought_tokens: int
    search: tuple[str, ...]
    tier: str
    stream: Stream


_CODE = "Support code: 42876398."
_NOT_SHOWN = "Unable to show the generated image"
# finishReason and finishMessage of candidates without a picture. Sources: bodies in BerriAI/litellm#20357 and public
# relay documents; the enum is that of google-genai 3.4.0.
_REFUSALS: dict[str, tuple[str, str]] = {
    "safety": ("SAFETY", ""),
    "image_safety": (
        "IMAGE_SAFETY",
        f"{_NOT_SHOWN}. The prompt could not be submitted as it contains sensitive words that violate Google's "
        f"Responsible AI practices. {_CODE}",
    ),
    "prohibited": (
        "IMAGE_PROHIBITED_CONTENT",
        f"{_NOT_SHOWN} due to interests of third-party content providers. Please edit your prompt. {_CODE}",
    ),
    "no_image": ("NO_IMAGE", f"{_NOT_SHOWN}. The model did not generate one."),
    "image_other": (
        "IMAGE_OTHER",
        f"{_NOT_SHOWN}. The model could not generate the image based on the prompt provided. "
        "You will not be charged for this request. Try rephrasing the prompt.",
    ),
    "max_tokens": ("MAX_TOKENS", ""),
    "empty": ("STOP", ""),
    "missing_signature": ("MISSING_THOUGHT_SIGNATURE", ""),  # in the enum; nothing public says when
}
_BLOCKED_RATING = {"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "LOW", "blocked": True}


def compose(job: Job[GeminiSpec]) -> Answer:
    spec = job.spec
    facts = json.dumps([spec.prompt, spec.model.id, job.n, job.attempt])
    digest = hashlib.sha256(facts.encode()).digest()
    response: dict[str, Any] = {}
    candidate = _Candidate(job)
    if job.fault == "block":
        response["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
    else:
        response["candidates"] = [{**candidate.filled(), "index": 0}]
    response["usageMetadata"] = _usage(candidate, digest)
    response["modelVersion"] = spec.model.id
    response["responseId"] = base64.urlsafe_b64encode(digest[:17]).decode().rstrip("=")
    content_type = JSON_TYPE
    if spec.stream == "sse":
        body = b"data: " + json.dumps(response, ensure_ascii=False).encode("utf-8", "replace") + b"\r\n\r\n"
        content_type = "text/event-stream"
    else:
        body = as_json([response] if spec.stream == "array" else response, compact=spec.stream == "line")
    return Answer(
        body=body,
        content_type=content_type,
        billed_images=candidate.billed,
        sha256=tuple(candidate.hashes),
        headers={"x-gemini-service-tier": spec.tier},
    )


@dataclass(slots=True)
class _Candidate:
    """The one candidate of an answer, as it is put together. hashes: of all its pictures, billed or not."""

    job: Job[GeminiSpec]
    hashes: list[str] = field(default_factory=list)
    text: str = ""
    billed: int = 0

    def filled(self) -> dict[str, Any]:
        spec, fault = self.job.spec, self.job.fault
        if fault in _REFUSALS:
            return self._refused(fault, *_REFUSALS[fault])
        parts: list[dict[str, Any]] = []
        if spec.include_thoughts:
            parts.append({"text": "**Planning the picture**\n\nComposition, light, then type.", "thought": True})
        if "IMAGE" not in spec.modalities or fault == "text_only":
            parts.append(self._text("I can describe that picture, but there is none in this answer."))
        else:
            # Interim pictures are not billed and carry no signature.
            interim = 2 if fault == "thought_images" else spec.interim
            parts.extend(self._image(index) | {"thought": True} for index in range(1, 1 + interim))
            if "TEXT" in spec.modalities:
                turn = f"Turn {spec.turn}, drawn on those before. " if spec.turn > 1 else ""
                parts.append(self._text(f"{turn}Here is the picture you asked for."))
            # Several pictures in one candidate are each billed; the last one is final.
            for index in (1, 2, 0) if fault == "many_images" else (0,):
                image = self._image(index)
                parts.append(self._signed(image, self.hashes[-1]))
                self.billed += 1
        body: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "finishReason": "STOP"}
        if spec.search and self.billed:
            body["groundingMetadata"] = _grounding(without_markers(spec.prompt)[:100], spec.search)
        return body

    def _refused(self, fault: str, reason: str, message: str) -> dict[str, Any]:
        body: dict[str, Any] = {"content": {"role": "model"} if fault == "prohibited" else {}, "finishReason": reason}
        if message:
            body["finishMessage"] = message
        if fault == "safety":
            body["safetyRatings"] = [_BLOCKED_RATING]
        return body

    def _text(self, text: str) -> dict[str, Any]:
        self.text = text
        return self._signed({"text": text}, text)

    def _image(self, index: int) -> dict[str, Any]:
        data = self.job.paint(index)
        self.hashes.append(sha256(data))
        return {"inlineData": {"mimeType": self.job.mime, "data": self.job.in_base64(data)}}

    def _signed(self, part: dict[str, Any], content: str) -> dict[str, Any]:
        """content: the text, or the picture's hash."""
        if self.job.spec.model.signs and self.job.options.signature_bytes:
            part["thoughtSignature"] = _signature(content.encode(), self.job.options.signature_bytes)
        return part


def _grounding(query: str, search: Sequence[str]) -> dict[str, Any]:
    """Recorded for the web; image search as ai.google.dev describes it: imageSearchQueries and chunks with `image`.

    Two queries for one question, as in the example of ai.google.dev/gemini-api/docs/google-search; each is billed.
    """
    chunks: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    if "web" in search:
        chunks.append({"web": {"title": "example.com", "uri": "https://example.com/emulated"}})
        found["webSearchQueries"] = [query, f"about {query}"]
    if "image" in search:
        image = {"sourceUri": "https://example.com/emulated-gallery", "imageUri": "https://example.com/emulated.jpg"}
        chunks.append({"image": {**image, "title": "Emulated picture", "domain": "example.com"}})
        found["imageSearchQueries"] = [query]
    found["groundingChunks"] = chunks
    found["searchEntryPoint"] = {"renderedContent": '<div class="container">Emulated search suggestions</div>'}
    return found


def text_tokens(text: str) -> int:
    """About four characters a token (ai.google.dev/gemini-api/docs/tokens)."""
    return (len(text) + 3) // 4


def _usage(candidate: _Candidate, digest: bytes) -> dict[str, Any]:
    """usageMetadata, in the proportions of recorded answers. total = prompt + candidates + thoughts + tool use.

    Thoughts vary as much as the two recorded ones of 3-pro. Recorded answers of Gemini 3 have 88 to 630 candidate
    tokens more than the details add up to; they are billed as text. Answers without a picture have no
    candidatesTokensDetails (recorded), refusals no candidates.
    """
    spec, images = candidate.job.spec, candidate.billed
    thoughts = round(spec.thought_tokens * (0.7 + 0.6 * digest[0] / 255)) if candidate.job.fault != "block" else 0
    overhead = 88 + digest[1] * (630 - 88) // 255 if images and spec.model.signs else 0
    tool = 61 if spec.search and images else 0
    reference_tokens = len(spec.references) * spec.reference_tokens
    prompt = spec.prompt_tokens + reference_tokens
    image_tokens = images * spec.model.tokens.get(spec.size, 1120)
    candidates = image_tokens + text_tokens(candidate.text) + overhead
    found = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": candidates or None,
        "totalTokenCount": prompt + candidates + thoughts + tool,
        "promptTokensDetails": _details("TEXT", spec.prompt_tokens)
        + (_details("IMAGE", reference_tokens) if spec.references else []),
        "candidatesTokensDetails": _details("IMAGE", image_tokens) if images else None,
        "toolUsePromptTokenCount": tool or None,
        "toolUsePromptTokensDetails": _details("TEXT", tool) if tool else None,
        "thoughtsTokenCount": thoughts or None,
        "serviceTier": spec.tier,
    }
    return {name: value for name, value in found.items() if value is not None}


def _details(modality: str, tokens: int) -> list[dict[str, Any]]:
    return [{"modality": modality, "tokenCount": tokens}]


# Thought signatures: opaque bytes that a client has to send back unchanged, each with the part it came on.

_MARK = b"batchgen emulator thought signature "
_DIGEST_BYTES = 30  # mark and digest together are a multiple of 3, so that their base64 stands by itself
# ai.google.dev/gemini-api/docs/thought-signatures, for turns that another model wrote.
_WAIVERS = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
_WAIVED = frozenset(
    raw
    for word in _WAIVERS
    for raw in (word.encode(), base64.b64decode(word.replace("_", "/") + "=" * (-len(word) % 4)))
)


@functools.lru_cache(maxsize=4)
def _filler(length_bytes: int) -> str:
    """Base64 of bytes that do not compress; the same for every part, so that it is made once."""
    blocks = (hashlib.sha512(number.to_bytes(8, "big")).digest() for number in range(length_bytes // 64 + 1))
    return base64.b64encode(b"".join(blocks)[:length_bytes]).decode("ascii")


def _signature(content: bytes, length_bytes: int) -> str:
    """Of one part: its text, or the sha256 of its picture. At least 66 bytes long before base64."""
    head = _MARK + hashlib.sha256(content).digest()[:_DIGEST_BYTES]
    return base64.b64encode(head).decode("ascii") + _filler(max(0, length_bytes - len(head)))


def is_served(value: bytes, content: bytes, length_bytes: int) -> bool:
    """Whether the signature came on this very part, or is one of the two documented words that waive the check."""
    return value in _WAIVED or base64.b64encode(value).decode("ascii") == _signature(content, length_bytes)
