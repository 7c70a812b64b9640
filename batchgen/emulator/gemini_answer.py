"""GenerateContentResponse: candidates, parts, usage and grounding, as recorded answers show them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchgen.emulator.faults import without_markers
from batchgen.emulator.orders import JSON_TYPE, Answer, Job, encoded, in_base64, label_of, paint, sha256
from batchgen.emulator.signatures import signature
from batchgen.emulator.usage import usage

# streamGenerateContent with and without alt=sse; a line of a batch's results
Stream = Literal["", "sse", "array", "line"]

_CODE = "Support code: 42876398."
_NOT_SHOWN = "Unable to show the generated image."
# finishReason and finishMessage of candidates without a picture. Sources: bodies in BerriAI/litellm#20357 and public
# relay documents; the enum is that of google-genai 3.4.0.
_REFUSALS: dict[str, tuple[str, str]] = {
    "safety": ("SAFETY", ""),
    "image_safety": (
        "IMAGE_SAFETY",
        f"{_NOT_SHOWN} The prompt could not be submitted as it contains sensitive words that violate Google's "
        f"Responsible AI practices. {_CODE}",
    ),
    "prohibited": (
        "IMAGE_PROHIBITED_CONTENT",
        f"{_NOT_SHOWN[:-1]} due to interests of third-party content providers. Please edit your prompt. {_CODE}",
    ),
    "no_image": ("NO_IMAGE", f"{_NOT_SHOWN} The model did not generate one."),
    "image_other": (
        "IMAGE_OTHER",
        f"{_NOT_SHOWN} The model could not generate the image based on the prompt provided. "
        "You will not be charged for this request. Try rephrasing the prompt.",
    ),
    "max_tokens": ("MAX_TOKENS", ""),
    "empty": ("STOP", ""),
    "missing_signature": ("MISSING_THOUGHT_SIGNATURE", ""),  # in the enum; nothing public says when
}
_BLOCKED_RATING = {"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "LOW", "blocked": True}


@dataclass(slots=True)
class _Draft:
    """An answer being put together. charged: pictures billed."""

    parts: list[dict[str, Any]]
    candidate: dict[str, Any]
    hashes: list[str]
    text: str = ""
    charged: int = 0


def compose(
    job: Job[Any],
    *,
    modalities: Sequence[str],
    include_thoughts: bool,
    interim: int,
    prompt_tokens: int,
    reference_tokens: int,
    thought_tokens: int,
    search: Sequence[str],
    tier: str,
    stream: Stream,
) -> Answer:
    order = job.order
    facts = json.dumps([order.prompt, order.model.id, job.n, job.attempt])
    digest = hashlib.sha256(facts.encode()).digest()
    thoughts = round(thought_tokens * (0.7 + 0.6 * digest[0] / 255))  # as far apart as the two recorded ones of 3-pro
    response: dict[str, Any] = {}
    draft = _Draft([], {}, [])
    if job.fault == "block":
        response["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
        thoughts = 0
    else:
        _fill(draft, job, modalities, include_thoughts, interim)
        if search and draft.charged:
            draft.candidate["groundingMetadata"] = _grounding(without_markers(order.prompt), search)
        response["candidates"] = [draft.candidate | {"index": 0}]
    response["usageMetadata"] = usage(
        order.model,
        prompt_tokens=prompt_tokens,
        references=len(order.references),
        reference_tokens=reference_tokens,
        size=order.size,
        images=draft.charged,
        text=draft.text,
        thoughts=thoughts,
        overhead=88 + digest[1] * (630 - 88) // 255 if draft.charged and order.model.signs else 0,
        tool=61 if search and draft.charged else 0,
        tier=tier,
    )
    response["modelVersion"] = order.model.id
    response["responseId"] = base64.urlsafe_b64encode(digest[:17]).decode().rstrip("=")
    body, content_type = _framed(response, stream)
    return Answer(
        body=body,
        content_type=content_type,
        billed_images=draft.charged,
        sha256=tuple(draft.hashes),
        headers={"x-gemini-service-tier": tier},
    )


def _framed(response: dict[str, Any], stream: Stream) -> tuple[bytes, str]:
    if stream == "sse":
        line = json.dumps(response, ensure_ascii=False).encode("utf-8", "replace")
        return b"data: " + line + b"\r\n\r\n", "text/event-stream"
    if stream == "line":
        return json.dumps(response, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"), JSON_TYPE
    return encoded([response] if stream else response), JSON_TYPE


def _fill(draft: _Draft, job: Job[Any], modalities: Sequence[str], include_thoughts: bool, interim: int) -> None:
    fault, candidate = job.fault, draft.candidate
    if fault in _REFUSALS:
        reason, message = _REFUSALS[fault]
        candidate["content"] = {"role": "model"} if fault == "prohibited" else {}
        candidate["finishReason"] = reason
        if message:
            candidate["finishMessage"] = message
        if fault == "safety":
            candidate["safetyRatings"] = [_BLOCKED_RATING]
        return
    if include_thoughts:
        draft.parts.append({"text": "**Planning the picture**\n\nComposition, light, then type.", "thought": True})
    if "IMAGE" not in modalities or fault == "text_only":
        _add_text(draft, job, "I can describe that picture, but there is none in this answer.")
    else:
        # Interim pictures are not billed and carry no signature.
        for index in range(1, 1 + (2 if fault == "thought_images" else interim)):
            draft.parts.append(_image_part(draft, job, index) | {"thought": True})
        if "TEXT" in modalities:
            turn = f"Turn {job.order.turn}, drawn on those before. " if job.order.turn > 1 else ""
            _add_text(draft, job, f"{turn}Here is the picture you asked for.")
        # Several pictures in one candidate are each billed; the last one is final.
        for index in (1, 2, 0) if fault == "many_images" else (0,):
            image = _image_part(draft, job, index)
            draft.parts.append(_signed(job, image, draft.hashes[-1]))
            draft.charged += 1
    candidate["content"] = {"parts": draft.parts, "role": "model"}
    candidate["finishReason"] = "STOP"


def _add_text(draft: _Draft, job: Job[Any], text: str) -> None:
    draft.text = text
    draft.parts.append(_signed(job, {"text": text}, text))


def _signed(job: Job[Any], part: dict[str, Any], content: str) -> dict[str, Any]:
    if job.order.model.signs and job.options.signature_bytes:
        part["thoughtSignature"] = signature(content.encode(), job.options.signature_bytes)
    return part


def _image_part(draft: _Draft, job: Job[Any], index: int) -> dict[str, Any]:
    data = paint(job, index)
    draft.hashes.append(sha256(data))
    return {"inlineData": {"mimeType": label_of(job), "data": in_base64(job, data)}}


def _grounding(query: str, search: Sequence[str]) -> dict[str, Any]:
    """Recorded for the web; image search as ai.google.dev describes it: imageSearchQueries and chunks with `image`.

    Two queries for one question, as in the example of ai.google.dev/gemini-api/docs/google-search; each is billed.
    """
    chunks: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    if "web" in search:
        chunks.append({"web": {"title": "example.com", "uri": "https://example.com/emulated"}})
        found["webSearchQueries"] = [query[:100], f"about {query[:100]}"]
    if "image" in search:
        image = {
            "sourceUri": "https://example.com/emulated-gallery",
            "imageUri": "https://example.com/emulated.jpg",
            "title": "Emulated picture",
            "domain": "example.com",
        }
        chunks.append({"image": image})
        found["imageSearchQueries"] = [query[:100]]
    found["groundingChunks"] = chunks
    found["searchEntryPoint"] = {"renderedContent": '<div class="container">Emulated search suggestions</div>'}
    return found
