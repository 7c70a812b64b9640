"""Replicate: what is sent, against what its SDK sends; how predictions end; errors; the list in which a lost one is found."""

from __future__ import annotations

import json

import pytest

from batchgen.errors import (
    BadRequest,
    BatchLost,
    BatchLostMaybeBilled,
    BillingStopped,
    JobCancelled,
    JobFailed,
    KeyRejected,
    ModelUnavailable,
    NoImage,
    RateLimited,
    Refused,
    ServerFault,
    ServerFaultMaybeBilled,
)
from batchgen.providers.credentials import KeyHeader
from batchgen.records import Inputs, PendingJob, ReferenceImage, Reply, Response
from tests.support.provider_requests import PIXEL, sent

SCHNELL, KONTEXT = "replicate-flux-schnell", "replicate-kontext"
JOB = PendingJob(id="a1b2")


def shown(status="succeeded", **more) -> Response:
    """A prediction, as sdks.replicate.com shows it."""
    body = {"id": "a1b2", "status": status, "output": None, "error": None, "data_removed": False, **more}
    return Response(200, {}, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("case", "model", "fields", "references"),
    [
        ("text", SCHNELL, {"prompt": "a fox", "aspect_ratio": "16:9", "seed": 7, "images": 2}, 0),
        ("edit", KONTEXT, {"prompt": "in snow"}, 1),
    ],
)
def test_the_request_is_the_sdks(codec, sample_of, captured, case, model, fields, references):
    inputs = Inputs((ReferenceImage("image/png", PIXEL),) * references)
    request = codec(model).build(sample_of(**fields), inputs)
    expected = captured(f"replicate_{case}")
    assert (request.method, request.path) == (expected["method"], expected["path"])
    assert json.loads(request.body) == expected["body"]
    assert codec(model).credentials("k") == KeyHeader("Authorization", expected["headers"]["Authorization"])


def test_a_link_stays_a_link(codec, sample_of):
    inputs = Inputs((ReferenceImage("image/png", uri="https://example.com/fox.png"),))
    assert sent(codec(KONTEXT), sample_of(), inputs)["input"]["input_image"] == "https://example.com/fox.png"


def test_an_id_that_is_no_owner_and_name_is_never_part_of_an_address(codec, sample_of):
    with pytest.raises(BadRequest, match="owner/name"):
        codec("replicate/only-a-name").build(sample_of(), Inputs())


@pytest.mark.parametrize("status", ["starting", "processing", "queued"])
def test_a_prediction_under_way_is_asked_about_under_its_id(codec, status):
    job = codec(SCHNELL).read(shown(status))
    assert isinstance(job, PendingJob) and job.id == "a1b2"
    assert codec(SCHNELL).poll(job).path == "/v1/predictions/a1b2"


@pytest.mark.parametrize("output", ["https://replicate.delivery/x/1.png", ["https://replicate.delivery/x/1.png"]])
def test_its_output_is_a_link_or_a_list_of_them(codec, output):
    reply = codec(SCHNELL).read_poll(JOB, shown(output=output))
    assert isinstance(reply, Reply) and (reply.links, reply.reply_id) == (
        ("https://replicate.delivery/x/1.png",),
        "a1b2",
    )


@pytest.mark.parametrize(
    ("answer", "kind", "maybe_billed"),
    [
        (shown("failed", error="The input or output was flagged as sensitive. (E005)"), Refused, False),
        (shown("failed", error="NSFW content detected. Try running it again."), Refused, False),
        (shown("failed", error="CUDA out of memory"), JobFailed, True),
        (shown("canceled"), JobCancelled, True),
        (shown("aborted"), BatchLost, False),
        (shown(data_removed=True), BatchLostMaybeBilled, True),
        (shown(output=[]), NoImage, True),
        (Response(404, {}, b'{"title": "Prediction not found", "status": 404}'), BatchLostMaybeBilled, True),
        (Response(401, {}, b'{"detail": "Unauthenticated"}'), KeyRejected, False),
        (Response(503, {}, b""), ServerFault, False),
    ],
)
def test_how_a_question_is_answered(codec, answer, kind, maybe_billed):
    with pytest.raises(kind) as raised:
        codec(SCHNELL).read_poll(JOB, answer)
    assert type(raised.value) is kind
    assert kind is NoImage or raised.value.maybe_billed == maybe_billed


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"title": "Unauthenticated", "status": 401}, KeyRejected),
        (
            402,
            {"title": "Insufficient credit", "detail": "You have insufficient credit", "status": 402},
            BillingStopped,
        ),
        (404, {"detail": "The requested resource could not be found."}, ModelUnavailable),
        (422, {"title": "Input validation failed", "detail": "- input.seed", "status": 422}, BadRequest),
        (429, {"detail": "Request was throttled. Your rate limit resets in ~30s."}, RateLimited),
        (500, {"title": "Internal", "status": 500}, ServerFaultMaybeBilled),
    ],
)
def test_what_the_errors_of_a_submit_mean(codec, status, body, kind):
    with pytest.raises(kind) as raised:
        codec(SCHNELL).read(Response(status, {}, json.dumps(body).encode()))
    assert type(raised.value) is kind
    assert raised.value.retry_after_s == (30.0 if status == 429 else None)
    assert body.get("detail", "") in raised.value.message


def test_an_id_that_would_change_an_address_is_no_job(codec):
    with pytest.raises(Exception, match="without the id"):
        codec(SCHNELL).read(shown("starting", id="../account"))


def test_a_prediction_in_the_list_is_known_by_its_model_and_input(codec, sample_of):
    api = codec(SCHNELL)
    request = api.build(sample_of(seed=7), Inputs())
    one = {
        "id": "a1",
        "status": "starting",
        "model": "black-forest-labs/flux-schnell",
        "input": dict(reversed(json.loads(request.body)["input"].items())),
        "created_at": "2026-11-29T10:00:00.5Z",
    }
    others = [
        {**one, "id": "b1", "model": "other/model"},
        {**one, "id": "c1", "input": {"prompt": "a hare"}},
        {**one, "id": "d1", "input": {}},
        {**one, "id": "e1", "created_at": "soon"},
    ]
    following = "https://api.replicate.com/v1/predictions?cursor=cD0yMDI2"
    answer = Response(200, {}, json.dumps({"results": [one, *others], "next": following}).encode())
    jobs, page = api.read_jobs(answer)
    assert [job.job.id for job in jobs if job.input == api.job_input(request)] == ["a1"]
    assert ([job.job.id for job in jobs], jobs[0].created_at) == (["a1", "b1", "c1"], 1795946400.5)
    assert api.list_jobs(0.0, page).path == "/v1/predictions?cursor=cD0yMDI2"
    assert api.list_jobs(0.0, "").path == "/v1/predictions?created_after=1970-01-01T00%3A00%3A00Z"
