"""Asks questions about images with /v1/chat/completions, at OpenAI and wherever else an API answers in OpenAI's way.

Sources: platform.openai.com/docs/api-reference/chat and /guides/structured-outputs (2026-11); openai-python 3.57.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import OnErrorOmit

from batchgen.errors import Malformed, ProviderError, Refused
from batchgen.profiles.profile import Profile
from batchgen.providers import server_faults
from batchgen.providers.answer_body import LENIENT, AnswerModel, clean_line
from batchgen.providers.images_answer import Meta, error_words
from batchgen.providers.judgement import ANSWER_SCHEMA, read_judgement
from batchgen.providers.listings import wire_name
from batchgen.providers.request_body import encode_body, given, link_of
from batchgen.records import Answer, Question, Request, Response, Usage

PATH = "/v1/chat/completions"


class Message(AnswerModel):
    content: Annotated[str | None, LENIENT] = None
    refusal: Annotated[str | None, LENIENT] = None


class Choice(AnswerModel):
    message: Message
    finish_reason: Annotated[str | None, LENIENT] = None


class TokenDetails(AnswerModel):
    reasoning_tokens: int = 0


class TokenUsage(AnswerModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int | None = None
    completion_tokens_details: Annotated[TokenDetails | None, LENIENT] = None


class ChatCompletion(AnswerModel):
    choices: list[OnErrorOmit[Choice]] | None = None
    usage: Annotated[TokenUsage | None, LENIENT] = None
    meta: Annotated[Meta | None, LENIENT] = None  # AIML's: the credits used
    model: Annotated[str | None, LENIENT] = None
    id: Annotated[str | None, LENIENT] = None


def build_question(profile: Profile, question: Question) -> Request:
    links = [link_of(number, image) for number, image in enumerate(question.images)]
    content = [
        {"type": "text", "text": question.text},
        *({"type": "image_url", "image_url": {"url": link}} for link in links),
    ]
    body = {
        "model": wire_name(profile),
        "messages": [{"role": "user", "content": content}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "judgement", "strict": True, "schema": ANSWER_SCHEMA},
        },
        "temperature": 0 if "temperature" in profile.supports else None,
    }
    return Request(
        method="POST",
        path=PATH,
        body=encode_body(given(body), [image.base64 for image in question.images]),
        headers={"Content-Type": "application/json"},
        timeout_s=question.timeout_s,
    )


def read_answer(response: Response, read_error: Callable[[Response], ProviderError]) -> Answer:
    """The judgement in an answer. read_error: what an error of this API means. Raises ProviderError."""
    answer = server_faults.read_answer(ChatCompletion, response, read_error)
    if not answer.choices:
        if error_words(response.body):  # an error with the status of a success
            raise read_error(response)
        if other := server_faults.foreign_json_error(answer, response):
            raise other
    usage = _usage(answer)
    if (withheld := _no_text_error(answer, response.status)) is not None:
        withheld.usage = usage
        raise withheld
    text = (answer.choices or [])[0].message.content or ""
    return read_judgement(text, response.status, usage=usage, reply_id=answer.id, version=answer.model)


def _no_text_error(answer: ChatCompletion, status: int) -> ProviderError | None:
    if not answer.choices:
        return Malformed("the judge did not answer", http_status=status)
    choice = answer.choices[0]
    if choice.message.refusal:
        return Refused(clean_line(choice.message.refusal) or "refused", http_status=status)
    if choice.finish_reason == "content_filter":
        return Refused("a content filter withheld the answer", reason="content_policy", http_status=status)
    if not choice.message.content:
        return Malformed(
            clean_line(f"the judge did not answer: finish reason {choice.finish_reason or 'not given'}"),
            http_status=status,
        )
    return None


def _usage(answer: ChatCompletion) -> Usage | None:
    """The tokens used. Images sent along are part of the prompt's tokens and billed like them; reasoning is part of the
    answer's."""
    spent, tokens = answer.meta.usage if answer.meta else None, answer.usage
    if spent is None and tokens is None:
        return None
    details = tokens.completion_tokens_details if tokens else None
    thoughts = max(0, details.reasoning_tokens) if details else 0
    return Usage(
        prompt_tokens=max(0, tokens.prompt_tokens) if tokens else 0,
        text_tokens=max(0, tokens.completion_tokens - thoughts) if tokens else 0,
        thought_tokens=thoughts,
        total_tokens=tokens.total_tokens if tokens else None,
        credits=spent.credits_used if spent else None,
        usd=spent.usd_spent if spent else None,
    )
