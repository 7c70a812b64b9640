"""Questions to a judge and what is read of the answers: a score and a remark, or an error that says whether to ask again."""

from __future__ import annotations

import json

import pytest

from batchgen.errors import BillingStopped, Malformed, NotJson, OutputRefused, RateLimited, Refused, ServerFault
from batchgen.providers.contract import SupportsJudge
from batchgen.providers.judgement import ANSWER_SCHEMA
from batchgen.records import Answer, Question, ReferenceImage, Response, Usage
from tests.support.provider_requests import PIXEL

QUESTION = Question(model="m", text="Is it whole?", images=(ReferenceImage("image/png", PIXEL),), timeout_s=60)
USAGE = {"promptTokenCount": 1300, "candidatesTokenCount": 14, "thoughtsTokenCount": 30, "totalTokenCount": 1344}
USED = Usage(prompt_tokens=1300, text_tokens=14, thought_tokens=30, total_tokens=1344)
GOOD = '{"remark": "The handle is missing.", "score": 3.5}'


def gemini(text=None, finish="STOP", **more):
    content = {} if text is None else {"parts": [{"text": "hm", "thought": True}, {"text": text}]}
    candidates = [{"content": content, "finishReason": finish}]
    return {"candidates": candidates, "usageMetadata": USAGE, "modelVersion": "g-1", "responseId": "r1", **more}


def read(codec, body, status=200):
    return codec.read_answer(Response(status, {}, json.dumps(body).encode()))


@pytest.fixture(params=["gemini-9-flash", "vertex/gemini-9-flash"])
def judge(request, codec):
    return codec(request.param)


def test_a_question_is_the_text_and_the_image_and_asks_for_json(judge):
    request = judge.build_question(QUESTION)
    assert json.loads(request.body) == {
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "Is it whole?"}, {"inlineData": {"mimeType": "image/png", "data": PIXEL}}],
            }
        ],
        "generationConfig": {
            "responseModalities": ["TEXT"],
            "responseMimeType": "application/json",
            "responseJsonSchema": ANSWER_SCHEMA,
            "temperature": 0,
        },
    }
    assert (request.method, request.path.rpartition("/models/")[2]) == ("POST", "gemini-9-flash:generateContent")
    assert (request.timeout_s, request.headers["X-Server-Timeout"]) == (60, "55")


def test_a_model_without_a_temperature_is_asked_without_one(codec):
    request = codec("gemini-9-flash", supports=[]).build_question(QUESTION)
    assert "temperature" not in json.loads(request.body)["generationConfig"]


def test_an_answer_is_score_and_remark_with_what_was_used(judge):
    assert read(judge, gemini(GOOD)) == Answer(
        score=3.5, remark="The handle is missing.", usage=USED, model_version="g-1", reply_id="r1"
    )


@pytest.mark.parametrize("text", [f"```json\n{GOOD}\n```", GOOD.replace("3.5", '"3.5"')])
def test_json_in_a_fence_and_a_number_in_quotes_are_read(judge, text):
    assert read(judge, gemini(text)).score == 3.5


def test_a_remark_is_one_clean_line(judge):
    answer = read(judge, gemini(json.dumps({"score": 1, "remark": "Too\ndark\u202e.\x1b[31m" + "x" * 900})))
    assert answer.remark.startswith("Too dark .")
    assert answer.remark.isprintable()
    assert len(answer.remark) <= 500


@pytest.mark.parametrize(
    "text",
    [
        "It is fine.",
        "",
        "{",
        '{"remark": ""}',
        '{"score": 11}',
        '{"score": -1}',
        '{"score": NaN}',
        '{"score": null}',
        "[8]",
    ],
)
def test_a_text_that_is_not_the_json_asked_for_is_malformed_and_was_paid_for(judge, text):
    with pytest.raises(Malformed) as caught:
        read(judge, gemini(text))
    assert (caught.value.retryable, caught.value.usage, caught.value.reason) == (True, USED, "malformed")
    assert not isinstance(caught.value, NotJson)  # which would put the blame on the host


@pytest.mark.parametrize("finish", ["MAX_TOKENS", "OTHER", "STOP", "SOMETHING_NEW"])
def test_no_text_is_malformed_and_says_why(judge, finish):
    with pytest.raises(Malformed, match=f"the judge did not answer.*finish reason {finish}|{finish}: ") as caught:
        read(judge, gemini(None, finish))
    assert caught.value.usage == USED


@pytest.mark.parametrize("body", [gemini(None, "SAFETY"), gemini('{"sco', "PROHIBITED_CONTENT")], ids=["none", "some"])
def test_a_judge_that_does_not_look_has_refused_with_usage(judge, body):
    with pytest.raises(Refused) as caught:
        read(judge, body)
    assert (caught.value.usage, caught.value.outcome) == (USED, "refused")


def test_a_blocked_question_is_refused(judge):
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 1300}}
    with pytest.raises(Refused) as caught:
        read(judge, body)
    assert (caught.value.reason, caught.value.usage) == ("prompt_blocked", Usage(prompt_tokens=1300))


def test_a_filter_of_outputs_is_asked_again(judge):
    with pytest.raises(OutputRefused):
        read(judge, gemini(None, "IMAGE_SAFETY"))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}, RateLimited),
        (503, {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}, ServerFault),
        (402, {"error": {"code": 402, "message": "Pay"}}, BillingStopped),
        (200, {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}, ServerFault),
        (200, {"of": "somebody else"}, NotJson),
    ],
)
def test_errors_are_those_of_images(judge, status, body, kind):
    with pytest.raises(kind):
        read(judge, body, status)


# --- OpenAI's chat completions, and AIML's


def chat(text=None, finish="stop", refusal=None, **more):
    message = {"role": "assistant", "content": text, "refusal": refusal}
    tokens = {"prompt_tokens": 1300, "completion_tokens": 44, "total_tokens": 1344}
    tokens["completion_tokens_details"] = {"reasoning_tokens": 30}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return {"id": "r1", "model": "g-1", "choices": choices, "usage": tokens, **more}


@pytest.fixture(params=["gpt-5.4-nano", "somebody/looks"])
def chat_judge(request, codec):
    return codec(request.param)


def test_a_question_in_a_chat_is_text_and_data_url_with_a_strict_schema(codec):
    request = codec("gpt-5.4-nano").build_question(QUESTION)
    link = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    assert (request.method, request.path, request.timeout_s) == ("POST", "/v1/chat/completions", 60)
    assert json.loads(request.body) == {
        "model": "gpt-5.4-nano",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Is it whole?"}, link]}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "judgement", "strict": True, "schema": ANSWER_SCHEMA},
        },
    }


def test_a_chat_has_a_temperature_where_its_model_takes_one(codec):
    assert json.loads(codec("somebody/looks").build_question(QUESTION).body)["temperature"] == 0


def test_an_answer_in_a_chat_is_score_and_remark_with_what_was_used(chat_judge):
    assert read(chat_judge, chat(GOOD)) == Answer(
        score=3.5, remark="The handle is missing.", usage=USED, model_version="g-1", reply_id="r1"
    )


def test_credits_and_dollars_that_an_answer_names_are_its_cost(codec):
    spent = {"usage": {"credits_used": 120, "usd_spent": 0.00006}}
    usage = read(codec("somebody/looks"), chat(GOOD, meta=spent)).usage
    assert (usage.credits, usage.usd, usage.prompt_tokens) == (120, 0.00006, 1300)


@pytest.mark.parametrize(
    "body",
    [chat("It is fine."), chat(None), chat("", "length"), chat(None, choices=[])],
    ids=["text", "none", "cut", "empty"],
)
def test_a_chat_without_the_json_asked_for_is_malformed_and_was_paid_for(chat_judge, body):
    with pytest.raises(Malformed) as caught:
        read(chat_judge, body)
    assert (caught.value.usage, caught.value.reason) == (USED, "malformed")


@pytest.mark.parametrize("body", [chat(None, refusal="I can't help with that."), chat('{"sc', "content_filter")])
def test_a_chat_that_refuses_has_refused_with_usage(chat_judge, body):
    with pytest.raises(Refused) as caught:
        read(chat_judge, body)
    assert caught.value.usage == USED


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}, RateLimited),
        (503, {"error": {"message": "The server is overloaded"}}, ServerFault),
        (402, {"error": {"message": "Pay"}}, BillingStopped),
        (200, {"of": "somebody else"}, NotJson),
    ],
)
def test_errors_of_a_chat_are_those_of_images(chat_judge, status, body, kind):
    with pytest.raises(kind):
        read(chat_judge, body, status)


def test_who_can_judge_is_declared_by_two_methods(codec):
    names = ("flash", "vertex-flash", "gpt-image-2", "aiml-imagen-4")
    others = ("imagen", "flux-2", "replicate-flux-schnell", "fal-flux-schnell")
    assert {name for name in (*names, *others) if isinstance(codec(name), SupportsJudge)} == set(names)
