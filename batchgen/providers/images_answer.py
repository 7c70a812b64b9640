"""The answer of /v1/images/generations and /v1/images/edits, at OpenAI and wherever else an API answers in OpenAI's way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import NonNegativeFloat, OnErrorOmit, ValidationError

from batchgen.errors import NoImage, ProviderError
from batchgen.providers.aimlapi_errors import error_words
from batchgen.providers.answer_body import LENIENT, AnswerModel, clean_line, decode_image, malformed_error
from batchgen.providers.server_faults import foreign_json_error, not_the_api_error
from batchgen.records import DECODED_PREFIX, Reply, ReplyImage, Response, Usage

PROMPT_CHARS = 10_000
INLINE_PREFIXES = ("data:", DECODED_PREFIX)  # how a `url` begins that is the picture itself


class ImageEntry(AnswerModel):
    b64_json: str | None = None
    url: str | None = None
    mime_type: Annotated[str | None, LENIENT] = None
    content_type: Annotated[str | None, LENIENT] = None
    prompt: Annotated[str | None, LENIENT] = None
    revised_prompt: Annotated[str | None, LENIENT] = None


class SpendReport(AnswerModel):
    credits_used: Annotated[NonNegativeFloat | None, LENIENT] = None
    tokens_used: Annotated[NonNegativeFloat | None, LENIENT] = None  # how older answers name the credits
    usd_spent: Annotated[NonNegativeFloat | None, LENIENT] = None


class Meta(AnswerModel):
    usage: SpendReport | None = None


class TokenDetails(AnswerModel):
    text_tokens: int = 0
    image_tokens: int = 0


class TokenUsage(AnswerModel):
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: Annotated[TokenDetails | None, LENIENT] = None
    output_tokens_details: Annotated[TokenDetails | None, LENIENT] = None


class Answer(AnswerModel):
    data: list[OnErrorOmit[ImageEntry]] | None = None
    images: list[OnErrorOmit[ImageEntry]] | None = None  # how nano-banana-edit answers
    meta: Annotated[Meta | None, LENIENT] = None
    usage: Annotated[TokenUsage | None, LENIENT] = None
    model: Annotated[str | None, LENIENT] = None
    id: Annotated[str | None, LENIENT] = None
    output_format: Annotated[str | None, LENIENT] = None  # of OpenAI's images, which say nothing of it themselves


def read_reply(response: Response, read_error: Callable[[Response], ProviderError]) -> Reply:
    """read_error: what an error of this API amounts to. Raises ProviderError."""
    try:
        answer = Answer.model_validate_json(response.body)
    except ValidationError as error:
        if not response.is_success:
            raise read_error(response) from None
        raise not_the_api_error(response) or malformed_error(response.status, error) from None
    try:
        return _reply(answer, response, read_error)
    except ProviderError as error:
        error.usage = _usage(answer)
        raise


def _reply(answer: Answer, response: Response, read_error: Callable[[Response], ProviderError]) -> Reply:
    if not response.is_success:  # success is 200 in AIML's schema and 201 in its prose
        raise read_error(response)
    pictures = answer.data or answer.images or []
    mime_type = f"image/{answer.output_format}" if answer.output_format else None
    images = tuple(image for picture in pictures if (image := _image(picture, mime_type)) is not None)
    links = tuple(p.url for p in pictures if not p.b64_json and p.url and not p.url.startswith(INLINE_PREFIXES))
    if not images and not links:
        if error_words(response.body):  # an error in the clothes of a success
            raise read_error(response)
        raise foreign_json_error(answer, response) or NoImage("the answer holds no image", http_status=response.status)
    rewritten = _rewritten_prompts(pictures)
    return Reply(
        images=images,
        links=links,
        text="\n".join(rewritten),
        usage=_usage(answer),
        reply_id=(answer.id or response.header("x-request-id") or "")[:200],
        model_version=(answer.model or "")[:200],
        notes=tuple(f"the vendor drew from this prompt: {clean_line(text)}" for text in rewritten),
    )


def _image(entry: ImageEntry, mime_type: str | None) -> ReplyImage | None:
    inline = entry.b64_json or (entry.url if entry.url and entry.url.startswith(INLINE_PREFIXES) else None)
    return decode_image(inline, entry.mime_type or entry.content_type or mime_type) if inline else None


def _rewritten_prompts(pictures: list[ImageEntry]) -> tuple[str, ...]:
    """AIML's Imagen rewrites prompts unless `enhance_prompt: false` is sent; the user should see what was drawn."""
    texts = dict.fromkeys(clean_line(p.revised_prompt or p.prompt or "", PROMPT_CHARS) for p in pictures)
    return tuple(text for text in texts if text)


def _usage(answer: Answer) -> Usage | None:
    """Output tokens without a breakdown are the images'."""
    spent = answer.meta.usage if answer.meta else None
    if spent is not None:
        return Usage(
            credits=spent.credits_used if spent.credits_used is not None else spent.tokens_used, usd=spent.usd_spent
        )
    if answer.usage is None:
        return None
    tokens = answer.usage
    read, drawn = tokens.input_tokens_details, tokens.output_tokens_details
    from_images = max(0, read.image_tokens) if read else 0
    text = max(0, drawn.text_tokens) if drawn else 0
    return Usage(
        prompt_tokens=max(0, (tokens.input_tokens or 0) - from_images),
        prompt_image_tokens=from_images,
        image_tokens=max(0, (tokens.output_tokens or 0) - text),
        text_tokens=text,
        total_tokens=tokens.total_tokens,
    )
