"""Reads an answer of generateContent: images, or the reason why there are none.

A 200 is not yet an image. Sources: ai.google.dev/api/generate-content (Candidate, FinishReason, UsageMetadata); the
enumerations of google-genai 3.4.0; recorded answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isfinite
from typing import Annotated, Any

from pydantic import Field, OnErrorOmit

from batchgen.errors import BadRequest, KeyRejected, Malformed, NoImage, OutputRefused, ProviderError, Refused
from batchgen.providers.answer_body import LENIENT, AnswerModel, clean_line, decode_image
from batchgen.providers.grounding import query_count
from batchgen.providers.judgement import read_judgement
from batchgen.records import DECODED_PREFIX, Answer, Reply, ReplyImage, Response, Role, Usage


class Blob(AnswerModel):
    data: str | None = None
    mime_type: str | None = None


class Part(AnswerModel):
    text: Annotated[str | None, LENIENT] = None
    thought: Annotated[bool | None, LENIENT] = None
    inline_data: Blob | None = None


class Content(AnswerModel):
    parts: list[OnErrorOmit[Part]] | None = None  # may be missing or null


class Candidate(AnswerModel):
    content: Content | None = None  # may be missing, {} or {"role": "model"}
    finish_reason: str | None = None
    finish_message: Annotated[str | None, LENIENT] = None
    grounding_metadata: Annotated[dict[str, Any] | None, LENIENT] = None


class TokenCount(AnswerModel):
    modality: str | None = None
    token_count: int | None = None


class UsageMetadata(AnswerModel):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    candidates_tokens_details: list[OnErrorOmit[TokenCount]] | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    total_token_count: int | None = None
    service_tier: Annotated[str | None, LENIENT] = None


class PromptFeedback(AnswerModel):
    block_reason: str | None = None
    block_reason_message: Annotated[str | None, LENIENT] = None


class GenerateContentResponse(AnswerModel):
    # Absent if the prompt was blocked. One error is enough: pydantic's take 1 KB each.
    candidates: list[Candidate] | None = Field(None, fail_fast=True)
    prompt_feedback: Annotated[PromptFeedback | None, LENIENT] = None
    usage_metadata: Annotated[UsageMetadata | None, LENIENT] = None
    response_id: Annotated[str | None, LENIENT] = None
    model_version: Annotated[str | None, LENIENT] = None
    model_status: Annotated[dict[str, Any] | None, LENIENT] = None
    error: Any = None


ID_CHARS = 200
SERVICE_TIERS = frozenset(("standard", "flex", "priority"))

# What a finish reason means if no image came; the slug is the reason in lower case.
REFUSAL_FINISH_REASONS = frozenset(("SAFETY", "PROHIBITED_CONTENT", "IMAGE_PROHIBITED_CONTENT", "BLOCKLIST", "SPII"))
REFUSAL_FINISH_REASONS |= {"RECITATION", "IMAGE_RECITATION", "LANGUAGE", "ESCALATION", "MODEL_ARMOR"}
NO_IMAGE_FINISH_REASONS = frozenset(("NO_IMAGE", "IMAGE_OTHER", "OTHER", "MAX_TOKENS", "FINISH_REASON_UNSPECIFIED"))
NO_IMAGE_FINISH_REASONS |= {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE"}
NO_IMAGE_FINISH_REASONS |= {"UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"}
SPECIAL_FINISH_REASONS: Mapping[str, tuple[type[ProviderError], str]] = {
    "IMAGE_SAFETY": (OutputRefused, "image_safety"),  # the filter varies: the same request often passes, and is free
    "PUP_LIMITED_DISABLED": (KeyRejected, "account_restricted"),
    "MISSING_THOUGHT_SIGNATURE": (BadRequest, "missing_thought_signature"),
    "CONTINUATION": (Malformed, "continuation"),
}


def read_reply(answer: GenerateContentResponse, response: Response) -> Reply:
    """The images of an answer, or the error it amounts to."""
    candidates = answer.candidates or []
    usage = _usage(answer.usage_metadata, response)
    if usage is not None:
        usage = replace(usage, queries=sum(query_count(c.grounding_metadata or {}) for c in candidates))
    try:
        images, notes = _images(candidates)
        if not any(image.role == "image" for image in images):
            raise _no_image_error(answer, response.status)
    except ProviderError as error:
        error.usage = usage  # prompt, thoughts and text may be billed without an image
        raise
    finish_reason = next((c.finish_reason for c in candidates if c.finish_reason), "")
    if finish_reason not in ("STOP", ""):
        notes += (f"an image came with finish reason {clean_line(finish_reason, 60)}",)
    return Reply(
        images=images,
        text=_text(candidates),
        thoughts=_text(candidates, thoughts=True),
        usage=usage,
        finish_reason=finish_reason[:ID_CHARS],
        reply_id=(answer.response_id or "")[:ID_CHARS],
        model_version=(answer.model_version or "")[:ID_CHARS],
        notes=notes + _retirement_notes(answer.model_status),
        grounding=next((_without_nan(c.grounding_metadata) for c in candidates if c.grounding_metadata), {}),
    )


def read_answer(answer: GenerateContentResponse, response: Response) -> Answer:
    """The judgement in an answer, or the error it amounts to. A text that a filter broke off is a refusal."""
    usage = _usage(answer.usage_metadata, response)
    text, error = _text(answer.candidates or []), _no_image_error(answer, response.status, "text")
    if not text or isinstance(error, (Refused, OutputRefused)):
        if isinstance(error, NoImage):
            error = Malformed(f"the judge did not answer: {error.message}", http_status=response.status)
        error.usage = usage
        raise error
    return read_judgement(text, response.status, usage=usage, reply_id=answer.response_id, version=answer.model_version)


def _usage(usage: UsageMetadata | None, response: Response) -> Usage | None:
    """Tokens by the rate at which they are billed, and the tier that served, from the usage or else the header
    (ai.google.dev/gemini-api/docs/priority-inference). Usage that is not stated stays unknown, so that its cost is an
    estimate.

    candidatesTokenCount exceeds the sum of its details by text that nobody sees, so the rest counts as text. An answer
    that was blocked repeats the thoughts as candidates, which shows in total = prompt + thoughts.
    """
    if usage is None:
        return None
    prompt = _count(usage.prompt_token_count) + _count(usage.tool_use_prompt_token_count)
    thoughts = _count(usage.thoughts_token_count)
    candidates = _count(usage.candidates_token_count)
    if candidates == thoughts and usage.total_token_count == prompt + thoughts:
        candidates = 0
    details = usage.candidates_tokens_details or []
    image = sum(_count(entry.token_count) for entry in details if entry.modality == "IMAGE")
    tier = (usage.service_tier or response.header("x-gemini-service-tier") or "").lower().removeprefix("service_tier_")
    return Usage(
        prompt_tokens=prompt,
        image_tokens=image,
        text_tokens=max(0, candidates - image),
        thought_tokens=thoughts,
        total_tokens=usage.total_token_count,
        tier=tier if tier in SERVICE_TIERS else "",
    )


def _without_nan(value: Any) -> Any:
    """A value in standard JSON: the parser accepts NaN and Infinity, but they must not be written."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _count(tokens: int | None) -> int:
    return max(0, tokens or 0)


def _parts(candidates: list[Candidate]) -> Iterator[Part]:
    for candidate in candidates:
        if candidate.content is not None:
            yield from candidate.content.parts or ()


def _images(candidates: list[Candidate]) -> tuple[tuple[ReplyImage, ...], tuple[str, ...]]:
    """All images in order, and notes on those that could not be read.

    The last one that is not a thought is the final image; earlier ones are drafts, all of them billed. The order of
    parts is not fixed, and only an unreadable final image spoils the answer.
    """
    found = [
        (part.inline_data, bool(part.thought))
        for part in _parts(candidates)
        if part.inline_data is not None
        and part.inline_data.data is not None
        and (part.inline_data.mime_type or "image/").startswith("image/")
    ]
    last = max((n for n, (_, thought) in enumerate(found) if not thought), default=-1)
    images: list[ReplyImage] = []
    notes: tuple[str, ...] = ()
    for number, (blob, thought) in enumerate(found):
        role: Role = "thought" if thought else "image" if number == last else "draft"
        try:
            images.append(decode_image(blob.data or "", blob.mime_type, role))
        except Malformed as error:
            if role == "image":
                raise
            notes += (f"a {role} was dropped: {error.message}",)
    return tuple(images), notes


def _text(candidates: list[Candidate], *, thoughts: bool = False) -> str:
    texts = (part.text for part in _parts(candidates) if part.text and bool(part.thought) == thoughts)
    return "\n".join(text for text in texts if not text.startswith(DECODED_PREFIX)).strip()


def _retirement_notes(model_status: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Notes on the model's retirement, which newer answers announce."""
    if not model_status:
        return ()
    words = [str(model_status[key]) for key in ("message", "modelStage", "retirementTime") if model_status.get(key)]
    return (f"model status: {clean_line(' · '.join(words), 200)}",) if words else ()


def _no_image_error(answer: GenerateContentResponse, status: int, wanted: str = "image") -> ProviderError:
    """Why an answer does not contain what was requested."""
    feedback = answer.prompt_feedback
    if feedback is not None and feedback.block_reason:
        words = clean_line(f"the prompt was blocked: {feedback.block_reason} {feedback.block_reason_message or ''}")
        return Refused(words, reason="prompt_blocked", http_status=status)
    candidates = answer.candidates or []
    if not candidates:
        return NoImage("the answer is empty", reason="empty_answer", http_status=status)
    finish_reason = next((c.finish_reason for c in candidates if c.finish_reason), "")
    text = _text(candidates)
    finish_message = next((c.finish_message for c in candidates if c.finish_message), "")
    kind, reason = _error_class(finish_reason, bool(text))
    said = finish_message or text or f"no {wanted}, finish reason {finish_reason or 'not given'}"
    if reason == "unknown_finish_reason":
        said = f"{finish_reason}: {said}"
    return kind(clean_line(said), reason=reason, http_status=status)


def _error_class(finish_reason: str, has_text: bool) -> tuple[type[ProviderError], str]:
    if finish_reason in SPECIAL_FINISH_REASONS:
        return SPECIAL_FINISH_REASONS[finish_reason]
    if finish_reason in REFUSAL_FINISH_REASONS:
        return Refused, finish_reason.lower()
    if finish_reason in NO_IMAGE_FINISH_REASONS:
        return NoImage, finish_reason.lower()
    if finish_reason in ("STOP", ""):
        return NoImage, "text_only" if has_text else "no_image"
    return NoImage, "unknown_finish_reason"
