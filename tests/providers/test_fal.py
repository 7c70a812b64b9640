"""fal: what is sent, against what its SDK sends; how queued requests end; errors; the list in which a lost one is found."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.errors import (
    BadRequest,
    BatchLostMaybeBilled,
    BillingStopped,
    InputRejected,
    JobCancelled,
    JobFailed,
    JobFailedUnbilled,
    KeyRejected,
    ModelUnavailable,
    NoImage,
    OutputRefused,
    ProviderError,
    RateLimited,
    Refused,
    ServerFault,
    ServerFaultMaybeBilled,
)
from batchgen.profiles.catalogue import load_catalogue
from batchgen.profiles.fields import FactError
from batchgen.providers.credentials import KeyHeader
from batchgen.providers.reasons import REMEDIES
from batchgen.providers.registry import provider_for
from batchgen.records import DECODED_PREFIX, Inputs, PendingJob, ReferenceImage, Reply, Response, Usage
from tests.support.provider_requests import PIXEL, sent

SCHNELL, EDIT = "fal-flux-schnell", "fal-nano-banana-2-edit"
RUNNING = PendingJob(id="u-1", state={"path": "/fal-ai/flux/requests/u-1"})
OVER = PendingJob(id="u-1", state={"path": "/fal-ai/flux/requests/u-1", "over": "1"})
LINK = "https://v3.fal.media/files/x/1.png"
LOCKED = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."


def answer(body, status=200, **headers) -> Response:
    return Response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()
    )


def model_error(kind: str, said: str = "The content was flagged.", status: int = 422) -> Response:
    """As fal.ai/docs/documentation/model-apis/errors shows it."""
    entry = {"loc": ["body", "prompt"], "msg": said, "type": kind, "input": "what was asked"}
    return answer({"detail": [entry]}, status)


@pytest.mark.parametrize(
    ("case", "model", "fields", "references"),
    [
        ("text", SCHNELL, {"prompt": "a fox", "aspect_ratio": "16:9", "seed": 7, "images": 2}, 0),
        ("edit", EDIT, {"prompt": "in snow", "image_size": "512"}, 1),
    ],
)
def test_the_request_is_the_sdks(codec, sample_of, captured, case, model, fields, references):
    inputs = Inputs((ReferenceImage("image/png", PIXEL),) * references)
    request = codec(model).build(sample_of(**fields), inputs)
    expected = captured(f"fal_{case}")
    assert (request.method, request.path) == (expected["method"], expected["path"])
    assert json.loads(request.body) == expected["body"]
    assert request.headers == {"Content-Type": "application/json", "X-Fal-No-Retry": "1"}
    assert codec(model).credentials("k") == KeyHeader("Authorization", expected["headers"]["Authorization"])


def test_each_ratio_of_flux_is_sent_as_the_pixels_that_are_expected(codec, sample_of):
    profile = load_catalogue().resolve(SCHNELL)
    for ratio in profile.ratios:
        width, height = profile.expected_pixels(ratio, None)
        assert sent(codec(SCHNELL), sample_of(aspect_ratio=ratio))["image_size"] == {"width": width, "height": height}


def test_a_model_of_ones_own_has_names_and_words_of_its_schema(sample_of):
    facts = {
        "references_max": 1,
        "wire": {
            "fields": {"image_size": "detail", "references": "image_url"},
            "values": {"image_size": {"2K": "high"}},
        },
    }
    profile = load_catalogue().with_overrides({"fal/owner/app/path": facts}).resolve("fal/owner/app/path")
    inputs = Inputs((ReferenceImage("image/png", uri="https://example.com/fox.png"),))
    request = provider_for(profile).build(sample_of(prompt="a fox", image_size="2K"), inputs)
    assert request.path == "/owner/app/path"
    assert json.loads(request.body) == {"prompt": "a fox", "detail": "high", "image_url": "https://example.com/fox.png"}


@pytest.mark.parametrize("facts", [{"values": {"image_size": "2K"}}, {"unit_usd": "much"}])
def test_facts_of_the_wire_that_cannot_be_are_refused_where_they_stand(facts):
    with pytest.raises(FactError, match="must be a"):
        load_catalogue().with_overrides({"fal/owner/app": {"wire": facts}})


@pytest.mark.parametrize("model", ["fal/alone", "fal/../account", "fal/owner/app/../../x", "fal/owner/app?x=1"])
def test_an_id_that_is_no_owner_and_app_is_never_part_of_an_address(codec, sample_of, model):
    with pytest.raises(BadRequest, match="owner/app"):
        codec(model).build(sample_of(), Inputs())


@pytest.mark.parametrize(
    ("model", "said", "path"),
    [
        (SCHNELL, "https://queue.fal.run/fal-ai/flux-2/requests/u-1", "/fal-ai/flux-2/requests/u-1"),
        (SCHNELL, None, "/fal-ai/flux/requests/u-1"),
        (SCHNELL, "https://queue.fal.run/../x", "/fal-ai/flux/requests/u-1"),
        (SCHNELL, "https://[queue.fal.run/x", "/x"),  # the host does not count: it is asked at the base URL
        (SCHNELL, "https://queue.fal.run/x?y=1", "/fal-ai/flux/requests/u-1"),
        ("fal/workflows/me/paint", None, "/workflows/me/paint/requests/u-1"),
        ("fal/workflowsmith/me/paint", None, "/workflowsmith/me/requests/u-1"),
    ],
)
def test_a_request_is_asked_about_where_its_answer_says_or_else_where_the_sdk_asks(codec, model, said, path):
    job = codec(model).read(answer({"request_id": "u-1", "response_url": said}))
    assert isinstance(job, PendingJob) and codec(model).poll(job).path == f"{path}/status"


def test_an_id_that_would_change_an_address_is_no_job(codec):
    with pytest.raises(Exception, match="without the id"):
        codec(SCHNELL).read(answer({"request_id": "../account"}))


@pytest.mark.parametrize("status", ["IN_QUEUE", "IN_PROGRESS"])
def test_a_request_under_way_is_asked_about_again(codec, status):
    assert codec(SCHNELL).read_poll(RUNNING, answer({"status": status}, 202)) == RUNNING


def test_completed_is_not_success_but_the_moment_to_ask_for_the_result(codec):
    job = codec(SCHNELL).read_poll(RUNNING, answer({"status": "COMPLETED", "error": "Runner disconnected"}))
    assert isinstance(job, PendingJob) and (job.id, job.state) == (OVER.id, OVER.state)
    assert codec(SCHNELL).poll(job).path == "/fal-ai/flux/requests/u-1"
    assert codec(SCHNELL).read_poll(RUNNING, answer({"status": "SOMETHING_NEW"})) == job
    early = answer({"detail": "Request is still in progress"}, 400)
    assert codec(SCHNELL).read_poll(OVER, early) == RUNNING


def test_a_request_is_cancelled_where_it_is_asked_about(codec):
    request = codec(SCHNELL).cancel(RUNNING)
    assert (request.method, request.path) == ("PUT", "/fal-ai/flux/requests/u-1/cancel")
    for status, said in ((202, "CANCELLATION_REQUESTED"), (400, "ALREADY_COMPLETED"), (404, "NOT_FOUND")):
        codec(SCHNELL).read_cancel(RUNNING, answer({"status": said}, status))
    with pytest.raises(ServerFault):
        codec(SCHNELL).read_cancel(RUNNING, answer({"detail": "Service Unavailable"}, 503))


def test_a_result_has_links_and_what_was_billed(codec):
    body = {"images": [{"url": LINK, "content_type": "image/png"}], "has_nsfw_concepts": [False], "seed": 7}
    reply = codec(SCHNELL).read_poll(OVER, answer(body, x_fal_billable_units="2"))
    assert isinstance(reply, Reply)
    assert (reply.links, reply.usage, reply.reply_id) == ((LINK,), Usage(usd=0.006), "u-1")
    assert codec(SCHNELL).read_poll(OVER, answer(body, x_fal_billable_units="much")).usage is None
    assert (
        codec(EDIT).read_poll(OVER, answer(body, x_fal_billable_units="2")).usage is None
    )  # what a unit is, is not known
    assert codec(SCHNELL).read_poll(OVER, answer({"image": {"url": LINK}})).links == (LINK,)


def test_a_result_may_hold_the_image_itself(codec):
    reply = codec(SCHNELL).read_poll(OVER, answer({"images": [{"url": f"data:image/png;base64,{PIXEL}"}]}))
    assert (reply.links, reply.images[0].mime_type) == ((), "image/png")
    on_disk = codec(SCHNELL).read_poll(OVER, answer({"images": [{"url": f"{DECODED_PREFIX}0"}]}))
    assert on_disk.images[0].decoded == 0


def test_an_image_that_the_safety_checker_made_black_is_none(codec):
    images = [{"url": f"https://v3.fal.media/{n}.png"} for n in range(2)]
    reply = codec(SCHNELL).read_poll(OVER, answer({"images": images, "has_nsfw_concepts": [True, False]}))
    assert (reply.links, reply.filtered) == (("https://v3.fal.media/1.png",), ("image_safety",))
    with pytest.raises(OutputRefused) as raised:
        codec(SCHNELL).read_poll(
            OVER, answer({"images": images, "has_nsfw_concepts": [True, True]}, x_fal_billable_units="2")
        )
    assert raised.value.usage == Usage(usd=0.006)


@pytest.mark.parametrize(
    ("result", "kind", "maybe_billed"),
    [
        (model_error("content_policy_violation"), Refused, False),
        (model_error("no_media_generated", "unsafe content"), OutputRefused, False),
        (model_error("no_media_generated", "Nothing was made"), NoImage, False),
        (model_error("image_load_error"), InputRejected, False),
        (model_error("missing"), BadRequest, False),
        (model_error("internal_server_error", status=500), JobFailedUnbilled, False),
        (answer({"detail": "Runner disconnected", "error_type": "runner_disconnected"}, 503), JobFailedUnbilled, False),
        (answer({"detail": "Client cancelled", "error_type": "client_cancelled"}, 499), JobCancelled, True),
        (model_error("downstream_service_error", status=400), JobFailed, True),
        (answer({"images": []}), NoImage, False),
        (answer({"status": "NOT_FOUND"}, 404), BatchLostMaybeBilled, True),
        (answer({"detail": "Authentication is required"}, 401), KeyRejected, False),
        (answer({"detail": LOCKED}, 403), BillingStopped, False),
        (Response(503, {}, b"upstream"), ServerFault, False),  # of the question, and not of the job
        (Response(502, {}, b"<html>nginx</html>"), ServerFaultMaybeBilled, True),
    ],
)
def test_how_a_result_is_answered(codec, result, kind, maybe_billed):
    with pytest.raises(kind) as raised:
        codec(SCHNELL).read_poll(OVER, result)
    assert (type(raised.value), raised.value.maybe_billed) == (kind, maybe_billed)
    assert "what was asked" not in raised.value.message


@pytest.mark.parametrize(
    ("status", "detail", "kind", "reason"),
    [
        (401, "Authentication is required to access this application.", KeyRejected, "key_rejected"),
        (402, "Payment required", BillingStopped, "billing"),
        (403, LOCKED, BillingStopped, "billing"),
        (403, "Access denied", ModelUnavailable, "model_forbidden"),
        (404, "Application 'x' not found", ModelUnavailable, "model_unavailable"),
        (422, [{"loc": ["body", "seed"], "msg": "Input should be a valid integer", "type": "int_type"}], BadRequest, "bad_request"),
        (429, "Queue is full", RateLimited, "rate_limited"),
        (500, "Internal Server Error", ServerFaultMaybeBilled, "server_fault"),
        (503, "Service Unavailable", ServerFault, "overloaded"),
    ],
)  # fmt: skip
def test_what_the_errors_of_a_submit_mean(codec, status, detail, kind, reason):
    with pytest.raises(kind) as raised:
        codec(SCHNELL).read(answer({"detail": detail}, status))
    assert (type(raised.value), raised.value.reason) == (kind, reason)
    words = detail if isinstance(detail, str) else "body.seed: Input should be a valid integer"
    assert raised.value.message == words


def test_a_request_in_the_list_is_known_by_its_endpoint_and_input(codec, sample_of):
    api = codec(SCHNELL)
    request = api.build(sample_of(seed=7), Inputs())
    one = {
        "request_id": "a-1",
        "endpoint_id": "fal-ai/flux/schnell",
        "json_input": dict(reversed(json.loads(request.body).items())),
        "sent_at": "2026-11-29T10:00:00.5Z",
        "status_code": None,
    }
    others = [
        {**one, "request_id": "b-1", "endpoint_id": "fal-ai/flux/dev"},
        {**one, "request_id": "c-1", "json_input": {"prompt": "a hare"}},
        {**one, "request_id": "d-1", "json_input": None},
        {**one, "request_id": "e-1", "sent_at": "soon"},
        {**one, "request_id": "../x"},
    ]
    jobs, page = api.read_jobs(answer({"items": [one, *others], "has_more": True, "next_cursor": "c2"}))
    assert [job.job.id for job in jobs if job.input == api.job_input(request)] == ["a-1"]
    assert ([job.job.id for job in jobs], jobs[0].created_at) == (["a-1", "b-1", "c-1"], 1795946400.5)
    assert api.poll(jobs[0].job).path == "/fal-ai/flux/requests/a-1/status"
    assert page == "c2"
    assert api.read_jobs(answer({"items": [], "has_more": False, "next_cursor": "c2"})) == ([], "")


def test_the_list_is_asked_for_at_the_vendors_other_host(codec):
    first, second = (codec(SCHNELL).list_jobs(0.0, page) for page in ("", "c2"))
    assert first.endpoint.has_host(urlsplit(first.url).hostname)
    asked = {
        "endpoint_id": ["fal-ai/flux/schnell"],
        "start": ["1970-01-01T00:00:00Z"],
        "expand": ["payloads"],
        "limit": ["100"],
    }
    assert parse_qs(urlsplit(first.url).query) == asked
    assert parse_qs(urlsplit(second.url).query) == {**asked, "cursor": ["c2"]}


NAMES = st.sampled_from(
    ["images", "image", "url", "status", "detail", "msg", "type", "loc", "has_nsfw_concepts", "items"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda some: st.lists(some) | st.dictionaries(NAMES, some),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    job=st.sampled_from([RUNNING, OVER]),
    status=st.sampled_from([200, 202, 400, 403, 404, 422, 500]),
    value=st.dictionaries(NAMES, VALUES),
)
def test_whatever_json_answers_a_question_is_a_reply_a_job_or_a_provider_error(codec, job, status, value):
    try:
        assert isinstance(codec(SCHNELL).read_poll(job, answer(value, status)), (Reply, PendingJob))
    except ProviderError as error:
        assert error.reason in REMEDIES
        assert error.message.isprintable()
