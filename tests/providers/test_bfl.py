"""Black Forest Labs: what is sent, against the vendor's documents, which have no SDK; how tasks end; errors."""

from __future__ import annotations

import json

import pytest

from batchgen.errors import (
    BadRequest,
    BatchLostMaybeBilled,
    BillingStopped,
    JobFailed,
    KeyRejected,
    Malformed,
    ModelUnavailable,
    NoImage,
    OutputRefused,
    RateLimited,
    Refused,
    ServerFault,
    ServerFaultMaybeBilled,
)
from batchgen.profiles.price import estimate_usd
from batchgen.providers.credentials import KeyHeader
from batchgen.records import Inputs, PendingJob, ReferenceImage, Reply, Response
from tests.support.provider_requests import PIXEL, sent

URL = "https://api.us6.bfl.ai/v1/get_result?id=a1b2"
JOB = PendingJob(id="a1b2", state={"url": URL, "cost": "4.5"})
LINK = "https://delivery.us.bfl.ai/results/a1/sample.png?sig=x"


def answered(code: int = 200, /, **body) -> Response:
    return Response(code, {}, json.dumps(body).encode())


def shown(status: str, **more) -> Response:
    return answered(id="a1b2", status=status, **{"details": None, "result": None, **more})


def references(count: int) -> Inputs:
    return Inputs((ReferenceImage("image/png", PIXEL),) * count)


@pytest.mark.parametrize(
    ("model", "fields", "inputs", "path", "body"),
    [
        ("flux-2", {}, 0, "/v1/flux-2-pro", {"output_format": "png"}),
        (
            "flux-2",
            {"aspect_ratio": "16:9", "image_size": "2K", "seed": 7, "output_format": "jpeg", "extra": {"safety_tolerance": 0}},
            0,
            "/v1/flux-2-pro",
            {"width": 2720, "height": 1536, "seed": 7, "output_format": "jpeg", "safety_tolerance": 0},
        ),
        ("flux-2-max", {"image_size": "2K"}, 0, "/v1/flux-2-max", {"width": 2048, "height": 2048, "output_format": "png"}),
        (
            "flux-2",
            {},
            3,
            "/v1/flux-2-pro",
            {"input_image": PIXEL, "input_image_2": PIXEL, "input_image_3": PIXEL, "output_format": "png"},
        ),
        (
            "flux-3",
            {"aspect_ratio": "4:3", "image_size": "4K", "search": "web"},
            2,
            "/v1/flux-3-image",
            {"images": [PIXEL, PIXEL], "aspect_ratio": "4:3", "resolution": "4k", "grounding": True},
        ),
        (
            "flux-kontext-max",
            {"aspect_ratio": "3:2"},
            1,
            "/v1/flux-kontext-max",
            {"input_image": PIXEL, "aspect_ratio": "3:2", "output_format": "png"},
        ),
        ("bfl/flux-9-new", {"aspect_ratio": "2:1"}, 0, "/v1/flux-9-new", {"width": 1440, "height": 720}),
    ],
)  # fmt: skip
def test_the_request_is_the_documents(codec, sample_of, model, fields, inputs, path, body):
    request = codec(model).build(sample_of(**fields), references(inputs))
    assert (request.method, request.path) == ("POST", path)
    assert json.loads(request.body) == {"prompt": "a fox", **body}
    assert codec(model).credentials("k") == KeyHeader("x-key", "k")


def test_a_link_stays_a_link(codec, sample_of):
    inputs = Inputs((ReferenceImage("image/png", uri="https://example.com/fox.png"),))
    assert sent(codec("flux-2"), sample_of(), inputs)["input_image"] == "https://example.com/fox.png"


def test_an_id_that_would_change_an_address_is_not_sent(codec, sample_of):
    with pytest.raises(BadRequest, match="bfl/name"):
        codec("bfl/a/b").build(sample_of(), Inputs())


@pytest.mark.parametrize("fields", [{"aspect_ratio": "16:9", "image_size": "8K"}, {"image_size": "4K"}])
def test_a_size_without_pixels_is_said(codec, sample_of, fields):
    with pytest.raises(BadRequest, match="takes 512, 1K, 2K"):
        codec("bfl/flux-9-new").build(sample_of(**fields), Inputs())


def test_a_task_that_was_taken_is_asked_about_at_its_own_address(codec):
    job = codec("flux-2").read(answered(id="a1b2", polling_url=URL, cost=4.5, input_mp=0, output_mp=1.98))
    assert (job.id, dict(job.state), job.result_kept_s) == (JOB.id, dict(JOB.state), 600.0)
    question = codec("flux-2").poll(job)
    assert (question.method, question.url, question.endpoint.hosts) == ("GET", URL, ("*.bfl.ai",))


@pytest.mark.parametrize("body", [{"id": "a1"}, {"id": "", "polling_url": URL}, {"id": "a1", "polling_url": ""}, {}])
def test_an_answer_without_id_or_address_is_malformed(codec, body):
    with pytest.raises(Malformed):
        codec("flux-2").read(answered(**body))


@pytest.mark.parametrize("status", ["Pending", "Reasoning", "Generating", "Something new"])
def test_a_task_under_way_is_asked_about_again(codec, status):
    job = codec("flux-2").read_poll(JOB, shown(status))
    assert isinstance(job, PendingJob) and (job.id, job.state) == (JOB.id, JOB.state)


@pytest.mark.parametrize(("cost", "usd"), [("4.5", 0.045), ("", None), ("0", 0.0)])
def test_an_image_costs_what_the_submit_said(codec, cost, usd):
    job = PendingJob(id="a1b2", state={"url": URL, "cost": cost})
    reply = codec("flux-2").read_poll(job, shown("Ready", result={"sample": LINK, "seed": 4}))
    assert isinstance(reply, Reply) and (reply.links, reply.reply_id) == ((LINK,), "a1b2")
    assert (reply.usage.usd if reply.usage else None) == usd


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (shown("Request Moderated", details={"Moderation Reasons": ["Derivative Works Filter"]}), Refused),
        (shown("Content Moderated"), OutputRefused),
        (shown("Error"), JobFailed),
        (shown("Failed", details="out of memory"), JobFailed),
        (shown("Task not found"), BatchLostMaybeBilled),
        (answered(404, id="a1b2", status="Task not found"), BatchLostMaybeBilled),
        (shown("Ready"), NoImage),
        (shown("Ready", result={"sample": "file:///etc/passwd"}), NoImage),
        (answered(403, detail="Not authenticated"), KeyRejected),
        (answered(404, detail="Not Found"), ModelUnavailable),
        (Response(503, {}, b""), ServerFault),
    ],
)
def test_how_a_question_is_answered(codec, answer, kind):
    with pytest.raises(kind) as raised:
        codec("flux-2").read_poll(JOB, answer)
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("status", "detail", "kind", "words"),
    [
        (400, "Bad input", BadRequest, "Bad input"),
        (402, "Insufficient credits", BillingStopped, "credits"),
        (403, "Not authenticated - Invalid Authentication", KeyRejected, "Not authenticated"),
        (422, "Invalid API key format", KeyRejected, "format"),
        (422, [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}], BadRequest, "seed: Extra"),
        (422, [{"loc": 7, "msg": None}, 7], BadRequest, "msg"),
        (404, "Not Found", ModelUnavailable, "Not Found"),
        (429, "Too many requests", RateLimited, "Too many"),
        (500, "Internal Server Error", ServerFaultMaybeBilled, "Internal"),
        (503, "Service Unavailable", ServerFault, "Service"),
    ],
)
def test_what_the_errors_of_a_submit_mean(codec, status, detail, kind, words):
    with pytest.raises(kind) as raised:
        codec("flux-2").read(answered(status, detail=detail))
    assert type(raised.value) is kind and words in raised.value.message


@pytest.mark.parametrize(
    ("model", "fields", "usd"),
    [
        ("flux-2", {}, 0.03),
        ("flux-2", {"image_size": "2K"}, 0.075),
        ("flux-2", {"references": ("a.png", "b.png")}, 0.06),
        ("flux-3", {"image_size": "4K"}, 0.607),
        ("flux-kontext-pro", {"references": ("a.png",)}, 0.04),
        ("bfl/flux-9-new", {}, None),
    ],
)
def test_what_a_request_is_estimated_at(codec, sample_of, model, fields, usd):
    assert estimate_usd(codec(model).profile, sample_of(**fields)) == (None if usd is None else pytest.approx(usd))
