"""Every documented error of the vendors, and the class, reason and delay it stands for."""

from __future__ import annotations

import json

import pytest

from batchgen.errors import (
    BadRequest,
    BillingStopped,
    DailyQuotaReached,
    FileGone,
    InputRejected,
    KeyRejected,
    ModelUnavailable,
    NotJson,
    NotTheApi,
    ProviderError,
    RateLimited,
    Refused,
    ServerFault,
    ServerFaultMaybeBilled,
    SpendRateReached,
)
from batchgen.providers.google_errors import classify, parse_error
from batchgen.providers.server_faults import hinted_delay_s
from batchgen.records import Response


def google(code, message, rpc_status="", *details):
    return {"error": {"code": code, "message": message, "status": rpc_status, "details": list(details)}}


def info(kind, **facts):
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **facts}


def violation(quota_id, **facts):
    return info("QuotaFailure", violations=[{"quotaId": quota_id, **facts}])


def failure(codec, status, body, headers=None) -> ProviderError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ProviderError) as caught:
        codec.read(Response(status, headers or {}, raw))
    return caught.value


MINUTE = "GenerateRequestsPerMinutePerProjectPerModel"
DAY = "GenerateRequestsPerDayPerProjectPerModel"
RETRY_LATER = "Please retry or report in https://developers.generativeai.google/guide/troubleshooting"
GOOGLE_TABLE = [
    (400, google(400, "API key expired. Please renew the API key.", "INVALID_ARGUMENT"), KeyRejected, "key_rejected"),
    (
        400,
        google(400, "x", "INVALID_ARGUMENT", info("ErrorInfo", reason="API_KEY_INVALID")),
        KeyRejected,
        "key_rejected",
    ),
    (
        400,
        google(400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
        KeyRejected,
        "location_unsupported",
    ),
    (
        400,
        google(400, "The free tier is not available in your country. Please enable billing.", "FAILED_PRECONDITION"),
        BillingStopped,
        "billing",
    ),
    (
        400,
        google(400, "Imagen API is only accessible to billed users at this time.", "INVALID_ARGUMENT"),
        ModelUnavailable,
        "billed_users_only",
    ),
    (400, google(400, "aspect_ratio must be one of '1:1', '1:4'", "INVALID_ARGUMENT"), BadRequest, "bad_request"),
    (400, google(400, "Thinking level MINIMAL is not supported for this model"), BadRequest, "bad_request"),
    (
        400,
        google(400, "Image part is missing a thought_signature in content position 2, part position 1."),
        BadRequest,
        "missing_thought_signature",
    ),
    (400, google(400, f"Unable to process input image. {RETRY_LATER}"), InputRejected, "input_rejected"),
    (
        400,
        google(400, "Request payload size exceeds the limit: 20971520 bytes."),
        BadRequest,
        "request_too_large",
    ),
    (
        400,
        google(400, "The prompt could not be submitted: sensitive words that violate our Responsible AI practices."),
        Refused,
        "prompt_blocked",
    ),
    (413, b"<html><title>413. That's an error</title></html>", BadRequest, "request_too_large"),
    (401, google(401, "Request is missing credentials", "UNAUTHENTICATED"), KeyRejected, "key_rejected"),
    (402, google(402, "Your prepayment credits are depleted."), BillingStopped, "billing"),
    (
        403,
        google(403, "Your API key was reported as leaked. Please use another API key.", "PERMISSION_DENIED"),
        KeyRejected,
        "key_rejected",
    ),
    (403, google(403, "x", "", info("ErrorInfo", reason="SERVICE_DISABLED")), KeyRejected, "key_rejected"),
    (403, google(403, "x", "", info("ErrorInfo", reason="BILLING_DISABLED")), BillingStopped, "billing"),
    (
        403,
        google(403, "You do not have permission to access the File abc or it may not exist."),
        FileGone,
        "file_unavailable",
    ),
    (
        404,
        google(404, "models/x is not found for API version v1beta, or is not supported for generateContent."),
        ModelUnavailable,
        "model_unavailable",
    ),
    (404, google(404, "This model models/x is no longer available."), ModelUnavailable, "model_unavailable"),
    (404, google(404, "File files/abc not found"), FileGone, "file_unavailable"),
    (404, b"<html><title>Error 404 (Not Found)!!1</title></html>", ModelUnavailable, "model_unavailable"),
    (408, b"", ServerFaultMaybeBilled, "deadline"),
    (429, google(429, "quota", "", violation(MINUTE)), RateLimited, "rate_limited"),
    (429, google(429, "quota", "", violation("InputTokensPerModelPerMinute-PaidTier2")), RateLimited, "rate_limited"),
    (429, google(429, "quota", "", violation(DAY, quotaValue="250")), DailyQuotaReached, "daily_quota"),
    (429, google(429, "quota", "", violation(MINUTE, quotaValue="0")), ModelUnavailable, "no_quota"),
    (429, google(429, "* Quota exceeded for metric: x/y, limit: 0, model: m"), ModelUnavailable, "no_quota"),
    (429, google(429, "* Quota exceeded for metric: x/y, limit: 05"), RateLimited, "rate_limited"),
    (429, google(429, "* Quota exceeded for metric: x/requests_per_model_per_day, limit: 9"), DailyQuotaReached, None),
    (
        429,
        google(429, "Your project has exceeded its monthly spending cap. See https://ai.studio/spend."),
        BillingStopped,
        "billing",
    ),
    (429, google(429, "Your prepayment credits are depleted."), BillingStopped, "billing"),
    (
        429,
        google(429, "quota", "", violation("x", quotaMetric="generativelanguage.googleapis.com/file_storage_bytes")),
        ModelUnavailable,
        "file_storage_full",
    ),
    (429, google(429, "Resource has been exhausted (e.g. check quota).", "RESOURCE_EXHAUSTED"), RateLimited, None),
    (429, google(429, "x", "", info("ErrorInfo", reason="MODEL_CAPACITY_EXHAUSTED")), ServerFault, "overloaded"),
    (429, b"Too Many Requests", RateLimited, "rate_limited"),
    (
        429,
        google(
            429,
            "You exceeded your spend-based rate limit. Your spending rate has exceeded the allowed limit for your"
            " account's billing history and tier.",
            "RESOURCE_EXHAUSTED",
        ),
        SpendRateReached,
        "spend_rate",
    ),
    (
        429,
        google(429, "x", "", info("ErrorInfo", metadata={"quota_limit": DAY, "quota_limit_value": "250"})),
        DailyQuotaReached,
        "daily_quota",
    ),
    (
        429,
        google(429, "x", "", info("ErrorInfo", metadata={"quota_limit": MINUTE, "quota_limit_value": "0"})),
        ModelUnavailable,
        "no_quota",
    ),
    (499, google(499, "The operation was cancelled.", "CANCELLED"), ServerFaultMaybeBilled, "server_fault"),
    (500, google(500, "Content blocked by the safety filter (PROHIBITED_CONTENT)"), Refused, "content_policy"),
    (501, b"", ServerFault, "server_fault"),
    (507, b"", ServerFaultMaybeBilled, "server_fault"),
    (520, b"<html><title>Web server is returning an unknown error</title></html>", ServerFaultMaybeBilled, None),
    (521, b"<html><title>Web server is down</title></html>", ServerFault, "server_fault"),
    (522, b"", ServerFault, "server_fault"),
    (523, b"", ServerFault, "server_fault"),
    (524, b"<html><title>A timeout occurred</title></html>", ServerFaultMaybeBilled, "server_fault"),
    (525, b"", ServerFault, "server_fault"),
    (526, b"", ServerFault, "server_fault"),
    (530, b"", ServerFault, "server_fault"),
    (403, google(403, "Your organization must be verified to use the model."), ModelUnavailable, "model_forbidden"),
    (403, google(403, "Permission denied on resource model x."), ModelUnavailable, "model_forbidden"),
    (403, b"<html><title>Access denied by policy</title></html>", NotTheApi, "html"),
    (401, b"<!doctype html><title>Sign in</title>", NotTheApi, "html"),
    (407, b"", NotTheApi, "html"),
    (511, b"<html>Log in to the network</html>", NotTheApi, "html"),
    (500, google(500, f"An internal error has occurred. {RETRY_LATER}", "INTERNAL"), ServerFaultMaybeBilled, None),
    (502, b"<html><title>Error 502</title></html>", ServerFaultMaybeBilled, "server_fault"),
    (503, google(503, "The model is overloaded. Please try again later."), ServerFault, "overloaded"),
    (503, google(503, "Deadline expired before operation could complete."), ServerFaultMaybeBilled, "deadline"),
    (
        504,
        google(504, "The request timed out. Please try again.", "DEADLINE_EXCEEDED"),
        ServerFaultMaybeBilled,
        "deadline",
    ),
    (529, b"", ServerFaultMaybeBilled, "server_fault"),
    (301, b"<html>moved</html>", NotTheApi, "redirect"),
    (302, b"", NotTheApi, "redirect"),
    (409, google(409, "conflict"), BadRequest, "bad_request"),
]


@pytest.mark.parametrize("model", ["pro", "imagen"])
@pytest.mark.parametrize(("status", "body", "kind", "reason"), GOOGLE_TABLE, ids=lambda value: str(value)[:60])
def test_each_google_error_has_its_class_and_reason(codec, model, status, body, kind, reason):
    error = failure(codec(model), status, body)
    assert (type(error), error.reason) == (kind, reason or kind.reason)


@pytest.mark.parametrize(
    ("status", "message", "files"),
    [
        (403, "You do not have permission to access the File ab-c1 or it may not exist.", ("ab-c1",)),
        (404, "File files/abc not found", ("abc",)),
        (400, "The File abc is not in an ACTIVE state and usage is not allowed.", ("abc",)),
        (404, "files/abc is not found and files/def is not found; files/abc was deleted", ("abc", "def")),
        (400, "It is not in an ACTIVE state", ()),
    ],
)
def test_files_that_are_gone_are_named(codec, status, message, files):
    error = failure(codec("pro"), status, google(status, message))
    assert isinstance(error, FileGone)
    assert error.files == files


@pytest.mark.parametrize(
    ("file", "kind", "retry_after_s"),
    [
        ("429_free_key.json", ModelUnavailable, 26.0),
        ("429_per_minute.json", RateLimited, 45.837906927),
        ("429_per_day.json", DailyQuotaReached, 6776.0),
        ("429_per_day_short_hint.json", DailyQuotaReached, None),
        ("400_bad_key.json", KeyRejected, None),
        ("400_unknown_field.json", BadRequest, None),
    ],
)
def test_a_recorded_error_is_read_quota_id_first_and_delay_second(codec, answer, file, kind, retry_after_s):
    error = failure(codec("pro"), int(file[:3]), answer(file))
    assert (type(error), error.retry_after_s) == (kind, retry_after_s)


def test_the_requests_a_minute_that_a_refusal_names_are_read_and_tokens_are_not(codec):
    tokens = violation("GenerateContentInputTokensPerModelPerMinute", quotaValue="9")
    both = google(429, "quota", "", violation(MINUTE, quotaValue="20"), tokens)
    assert [failure(codec("pro"), 429, body).rpm for body in (both, google(429, "quota", "", tokens))] == [20, None]


def test_the_vendors_words_are_the_message(codec, answer):
    assert failure(codec("pro"), 400, answer("400_bad_key.json")).message == (
        "API key not valid. Please pass a valid API key."
    )


def test_the_status_is_kept(codec, answer):
    assert failure(codec("pro"), 400, answer("400_bad_key.json")).http_status == 400


def test_a_field_violation_the_message_leaves_out_is_added(codec):
    body = google(
        400,
        "Request contains an invalid argument.",
        "",
        info("BadRequest", fieldViolations=[{"description": "no 5:9"}]),
    )
    assert failure(codec("pro"), 400, body).message == "Request contains an invalid argument. no 5:9"


def test_an_html_page_is_reduced_to_its_title(codec, answer):
    assert failure(codec("pro"), 502, answer("502.html")).message == "HTTP 502: Error 502 (Server Error)!!1"


def test_an_empty_body_still_has_a_message(codec):
    assert failure(codec("pro"), 500, b"").message == "HTTP 500 without a body"


def test_an_error_in_a_list_is_read_alike(codec, answer):
    wrapped = b"[" + answer("400_bad_key.json") + b"]"
    assert type(failure(codec("pro"), 400, wrapped)) is KeyRejected


def test_an_error_list_inside_a_200_is_that_error(codec, answer):
    wrapped = b"[" + answer("429_per_minute.json") + b"]"
    assert type(failure(codec("pro"), 200, wrapped)) is RateLimited


def test_codes_in_words_are_understood(codec):
    body = {"error": {"code": "authentication", "message": "no"}}
    assert type(failure(codec("pro"), 200, body)) is KeyRejected


@pytest.mark.parametrize(
    ("code", "kind"), [(8, RateLimited), (13, ServerFaultMaybeBilled), (3, BadRequest), (14, ServerFault)]
)
def test_a_numeric_rpc_code_of_a_batch_line_has_its_class(code, kind):
    assert type(classify(parse_error({"code": code, "message": "x"}, Response(0, {}, b"")))) is kind


@pytest.mark.parametrize("secret", ["api_key:AIzaSyD-0123456789abcdefghijklmnopqrstu", "api_key:short"])
def test_a_key_the_vendor_quotes_is_not_repeated(codec, secret):
    error = failure(codec("pro"), 403, google(403, f"Consumer '{secret}' has been suspended."))
    assert (secret.partition(":")[2] in error.message, "suspended" in error.message) == (False, True)


KEY = "MARKED-5f1d0c7e4b9a"


@pytest.mark.parametrize("model", ["pro", "aiml-pro"])
@pytest.mark.parametrize(
    "words",
    [
        'Invalid api_key: "{}"', "Invalid api_key: '{}'", 'the body held {{"key": "{}", "model": "m"}}', "key='{}'", 'Bearer "{}"',
        "Authorization: Bearer '{}'", "Authorization: Bearer {}", '{{\\"apiKey\\": \\"{}\\"}}', "X-Goog-Api-Key: {}", "?api_key={}&x=1",
        '"token": "{}"', "bad key 'sk-{}'", "bad key \"sk-{}\"",
    ],
)  # fmt: skip
def test_a_key_in_quotes_is_not_repeated_either(codec, model, words):
    error = failure(codec(model), 400, {"error": {"message": f"{words.format(KEY)} is not valid"}, "message": "x"})
    assert (KEY in error.message, "is not valid" in error.message) == (False, True)


@pytest.mark.parametrize(
    "words", ["unknown key: temperature", '"key": "short"', "the bearer token is missing", "api key: required"]
)
def test_words_that_are_no_key_stay(codec, words):
    assert words in failure(codec("pro"), 400, google(400, f"{words}.")).message


@pytest.mark.parametrize("model", ["pro", "imagen", "aiml-pro"])
def test_a_message_is_one_short_line_without_control_characters(codec, model):
    body = {
        "error": {"message": "a\x1b[31m\n\u202eb\x00" + "x" * 9000},
        "message": "a\x1b[31m\n\u202eb\x00" + "x" * 9000,
    }
    message = failure(codec(model), 400, body).message
    assert len(message) <= 500 and message.isprintable()


@pytest.mark.parametrize(
    ("headers", "infos", "message", "delay_s"),
    [
        ({}, [{"retryDelay": "26s"}], "", 26.0),
        ({}, [{"retryDelay": "45.837906927s"}], "Please retry in 9s.", 45.837906927),
        ({}, [{"retry_delay": {"seconds": 7}}], "", 7.0),
        ({}, [{"retryDelay": "soon"}], "Please retry in 26.660s.", 26.66),
        ({}, [], "Please retry in 1h52m56.409571576s.", 6776.409571576),
        ({}, [], "Please retry in 750.5ms.", 0.7505),
        ({}, [], "Please retry in 2m3s.", 123.0),
        ({}, [], "Please retry in 5 minutes", None),
        ({"retry-after": "12"}, [], "", 12.0),
        ({"Retry-After": "12"}, [{"retryDelay": "3s"}], "", 3.0),
        (
            {"retry-after": "Fri, 20 Nov 2026 10:01:00 GMT", "Date": "Fri, 20 Nov 2026 10:00:30 GMT"},
            [],
            "",
            30.0,
        ),
        ({"retry-after": "Fri, 20 Nov 2026 10:01:00 GMT"}, [], "", None),
        ({"retry-after": "-5"}, [], "", None),
        ({"retry-after": "99999999"}, [], "", None),
        ({}, [{"retryDelay": "-1s"}], "", None),
        ({}, [{"retryDelay": "٣s"}], "", None),
        ({}, [{"retryDelay": 5}], "", None),
        ({}, [], "", None),
    ],
)
def test_a_delay_is_found_wherever_it_stands_and_nonsense_is_not_one(headers, infos, message, delay_s):
    assert hinted_delay_s(Response(429, headers, b""), infos, message) == (
        pytest.approx(delay_s) if delay_s is not None else None
    )


def aiml(message, status="400"):
    return {"message": message, "path": "/v1/images/generations", "requestId": "r", "statusCode": status}


AIML_TABLE = [
    (
        400,
        aiml("Body validation error! Invalid enum value. Expected 'a' | 'b', received 'c'"),
        BadRequest,
        "bad_request",
    ),
    (401, aiml("This request requires a valid API key."), KeyRejected, "key_rejected"),
    (402, aiml("pay"), BillingStopped, "billing"),
    (403, aiml("You've run out of credits. Please top up your balance."), BillingStopped, "billing"),
    (403, aiml("Forbidden"), KeyRejected, "key_rejected"),
    (404, aiml("Cannot POST /v1/x"), ModelUnavailable, "model_unavailable"),
    (413, b"", BadRequest, "request_too_large"),
    (429, aiml("Too Many Requests"), RateLimited, "rate_limited"),
    (429, aiml("Free-tier limit: You've reached your free limit for the hour."), DailyQuotaReached, "hourly_quota"),
    (500, aiml("Something wrong with the server. Please, try again later."), ServerFaultMaybeBilled, "server_fault"),
    (500, aiml("The model is under maintenance"), ModelUnavailable, "maintenance"),
    (502, b"<html>", ServerFaultMaybeBilled, "server_fault"),
    (503, b"", ServerFault, "overloaded"),
    (504, aiml("Generation timeout"), ServerFaultMaybeBilled, "deadline"),
    (400, {"error": {"message": "no", "code": "moderation_blocked"}}, Refused, "content_policy"),
    (400, {"error": {"message": "rejected by our safety system"}}, Refused, "content_policy"),
    (400, {"error": {"message": "x", "code": "model_not_found"}}, ModelUnavailable, "model_unavailable"),
    (429, {"error": {"message": "x", "code": "insufficient_quota"}}, BillingStopped, "billing"),
    (
        429,
        {
            "error": {
                "message": "You exceeded your current quota, please check your plan and billing details. * Quota exceeded"
                " for metric: x/requests_per_minute, limit: 10, model: m Please retry in 8.2s."
            }
        },
        RateLimited,
        None,
    ),
    (
        429,
        {"error": {"message": "please check your plan and billing details", "type": "rate_limit"}},
        RateLimited,
        None,
    ),
    (
        403,
        {"error": {"message": "Your organization must be verified to use the model `gpt-image-1`."}},
        ModelUnavailable,
        "model_forbidden",
    ),
    (403, {"error": {"message": "Project does not have access to model `x`"}}, ModelUnavailable, "model_forbidden"),
    (500, {"error": {"message": "The generated image was blocked by the content filter"}}, Refused, "content_policy"),
    (502, {"error": {"message": "upstream: IMAGE_SAFETY"}}, Refused, "content_policy"),
    (520, b"", ServerFaultMaybeBilled, "server_fault"),
    (403, b"<html>blocked by your administrator</html>", NotTheApi, "html"),
    (302, b"", NotTheApi, "redirect"),
]


@pytest.mark.parametrize(("status", "body", "kind", "reason"), AIML_TABLE, ids=lambda value: str(value)[:60])
def test_each_aiml_and_openai_error_has_its_class_and_reason(codec, status, body, kind, reason):
    error = failure(codec("aiml-pro"), status, body)
    assert (type(error), error.reason) == (kind, reason or kind.reason)


def test_a_gateways_delay_in_words_is_read(codec):
    body = {"error": {"message": "Rate limit reached. Please try again in 2s.", "type": "tokens"}}
    assert failure(codec("aiml-pro"), 429, body).retry_after_s == 2.0


@pytest.mark.parametrize("model", ["pro", "imagen", "aiml-pro"])
def test_json_of_something_else_is_no_answer_of_the_api(codec, model):
    error = failure(codec(model), 200, {"status": "ok"})
    assert (type(error), error.reason, error.maybe_billed) == (NotJson, "not_the_api", True)


@pytest.mark.parametrize("model", ["pro", "imagen", "aiml-pro"])
def test_a_page_of_a_proxy_that_blocks_something_is_no_refusal_of_a_prompt(codec, model):
    page = b"<html><body>Content blocked by the filter of this network</body></html>"
    error = failure(codec(model), 500, page, {"Content-Type": "text/html"})
    assert (type(error), failure(codec(model), 500, b"Content blocked").reason) == (
        ServerFaultMaybeBilled,
        "content_policy",
    )


def test_a_redirect_says_where_it_leads(codec):
    error = failure(codec("pro"), 302, b"", {"Location": "https://login.example/?to=x"})
    assert "redirect to login.example" in error.message


def test_what_details_say_beyond_the_message_is_shown(codec):
    debug = info("DebugInfo", detail="Source image 0 too short")
    quota = info("QuotaFailure", violations=[{"description": "images per minute: 10"}])
    assert failure(codec("pro"), 400, google(400, "Invalid argument.", "", debug)).message.endswith(
        "Source image 0 too short"
    )
    assert failure(codec("pro"), 429, google(429, "Exhausted.", "", quota)).message.endswith("images per minute: 10")


def test_an_hourly_free_tier_waits_an_hour(codec, answer):
    assert failure(codec("aiml-pro"), 429, answer("aiml_free_tier.json")).retry_after_s == 3600


PROBLEM = {"title": "Not Found", "status": 404, "instance": "/v1/images/generations", "requestId": "r"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {**PROBLEM, "message": "m was withdrawn. Use n.", "error": {"name": "NotFoundException"}},
            "m was withdrawn. Use n.",
        ),
        ({**PROBLEM, "message": "gone", "error": {"name": "x", "message": "gone"}}, "gone"),
        ({**PROBLEM, "detail": "m is gone."}, "m is gone."),
        ({**PROBLEM, "message": "gone", "error": {"name": "x", "message": "use n"}}, "use n · gone"),
    ],
    ids=["outer", "twice", "detail", "both"],
)
def test_a_problem_of_rfc_9457_is_shown_in_its_own_words(codec, body, said):
    error = failure(codec("aiml-pro"), 404, body)
    assert (type(error), str(error)) == (ModelUnavailable, said)
