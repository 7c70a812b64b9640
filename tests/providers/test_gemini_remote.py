"""The codec of the Batch API: what it asks is what the vendor's SDK asks, and every way an answer may be written is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.errors import KeyRejected, Malformed, ProviderError, RateLimited
from batchgen.providers.batch_results import read_result_line
from batchgen.providers.gemini_remote import GeminiBatch
from batchgen.records import Response

BATCH = GeminiBatch("v1", "gemini-nano-banana-2.1")


def body(**facts: Any) -> bytes:
    return json.dumps({"name": "batches/tti3ik8q", **facts}).encode()


def seen(**facts: Any) -> Any:
    return BATCH.read_batch(Response(200, {}, body(**facts)))


# --- asked


def test_every_call_is_what_google_genai_sends(captured):
    sent = captured("batch_file")
    create = BATCH.create("d2", "files/abc-123")
    assert (create.method, create.path, json.loads(create.body)) == (
        "POST",
        sent["create"]["path"],
        sent["create"]["json"],
    )
    for name, request in (("cancel", BATCH.cancel("batches/xyz")), ("delete", BATCH.delete("batches/xyz"))):
        assert (request.method, request.path, request.body) == (sent[name]["method"], sent[name]["path"], b"")
    assert BATCH.list_batches().path.partition("?")[0] == sent["list"]["path"].partition("?")[0]
    download = BATCH.download("files/batch-out-1")
    assert download.path == f"/download{sent['download']['path']}"  # the SDK leaves out what the documents have
    assert BATCH.download("files/batch-out-1", 100).headers == {"Range": "bytes=100-"}


def test_a_line_holds_what_generate_content_would_be_sent():
    line = BATCH.line("17", b'{"contents":[]}')
    assert line.endswith(b"\n") and json.loads(line) == {"key": "17", "request": {"contents": []}}


def test_a_page_token_is_quoted():
    assert "pageToken=a%2Fb%26c" in BATCH.list_batches("a/b&c").path


# --- how a batch stands


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("BATCH_STATE_PENDING", "pending"), ("JOB_STATE_QUEUED", "pending"), ("JOB_STATE_RUNNING", "running"),
        ("JOB_STATE_CANCELLING", "running"), ("BATCH_STATE_SUCCEEDED", "succeeded"), ("JOB_STATE_PARTIALLY_SUCCEEDED", "succeeded"),
        ("BATCH_STATE_FAILED", "failed"), ("JOB_STATE_CANCELLED", "cancelled"), ("BATCH_STATE_EXPIRED", "expired"),
        ("BATCH_STATE_OF_TOMORROW", "running"),
    ],
)  # fmt: skip
def test_both_families_of_state_names_are_understood_at_both_places(word, state):
    assert seen(metadata={"state": word}).state == seen(state=word).state == state


def test_an_end_without_a_known_state_is_told_by_the_operation():
    assert seen(done=True, response={"responsesFile": "files/r"}).state == "succeeded"
    assert seen(done=True, error={"code": 1, "message": "stopped"}).state == "cancelled"
    failed = seen(done=True, error={"code": 13, "message": "it\nbroke"})
    assert (failed.state, failed.message) == ("failed", "it broke")


@pytest.mark.parametrize(
    "facts",
    [
        {"metadata": {"output": {"responsesFile": "files/r"}}},
        {"response": {"responsesFile": "files/r"}},
        {"dest": {"fileName": "files/r"}},
        {"metadata": {"output": {"responses_file": "files/r"}}, "response": {"responsesFile": "files/r"}},
    ],
)
def test_results_are_found_at_any_of_the_places_where_they_are_named(facts):
    assert seen(**facts).results_file == "files/r"


def test_counts_are_text_and_absent_when_zero():
    batch = seen(metadata={"displayName": "d", "batchStats": {"requestCount": "12", "successfulRequestCount": "7"}})
    assert (batch.display_name, batch.requests, batch.succeeded, batch.failed) == ("d", 12, 7, 0)


@pytest.mark.parametrize(
    "name", ["batches/../files/x", "batches/a?key=1", "https://elsewhere/x", "models/m", "batches/"]
)
def test_a_name_that_would_lead_elsewhere_is_refused(name):
    with pytest.raises(Malformed):
        seen(name=name)
    with pytest.raises(Malformed):
        seen(dest={"fileName": name})


def test_a_list_has_pages_and_may_be_empty():
    page = {"operations": [{"name": "batches/a", "metadata": {"displayName": "x"}}], "nextPageToken": "t"}
    batches, token = BATCH.read_list(Response(200, {}, json.dumps(page).encode()))
    assert ([batch.display_name for batch in batches], token) == (["x"], "t")
    assert BATCH.read_list(Response(200, {}, b"{}")) == ([], "")


def test_errors_are_those_of_any_call(answer):
    with pytest.raises(KeyRejected):
        BATCH.read_batch(Response(400, {}, answer("400_bad_key.json")))
    # The create of a batch for which there is no room carried only help, no quota (langchain4j#3942).
    full = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Resource has been exhausted."}}
    with pytest.raises(RateLimited):
        BATCH.read_batch(Response(429, {}, json.dumps(full).encode()))
    BATCH.check_removed(Response(404, {}, b""))
    with pytest.raises(ProviderError):
        BATCH.check_removed(Response(500, {}, b""))


@pytest.mark.parametrize(
    ("status", "body", "is_missing"),
    [
        (404, b'{"error": {"code": 404, "message": "Requested entity was not found."}}', True),
        (404, b"<html><title>404 Not Found</title></html>", False),
        (404, b"", False),
        (200, b"{}", False),
        (503, b'{"error": {"code": 503}}', False),
    ],
)
def test_a_batch_is_missing_in_the_words_of_the_api_and_not_of_a_proxy(status, body, is_missing):
    assert BATCH.is_missing(Response(status, {}, body)) is is_missing


# --- lines of the results


def test_an_answer_and_an_error_are_as_if_they_had_come_over_http():
    line = read_result_line(b'{"key": "a", "response": {"candidates": []}}')
    assert (line.key, line.status, json.loads(line.body)) == ("a", 200, {"candidates": []})
    line = read_result_line(b'{"key": "b", "error": {"code": 13, "message": "m"}}')
    assert (line.key, line.status, json.loads(line.body)["error"]["message"]) == ("b", 500, "m")
    assert read_result_line(b'{"key": "b", "error": {"code": 8, "message": "m"}}').status == 429
    assert read_result_line(b'{"metadata": {"key": "c"}, "response": {}}').key == "c"
    assert read_result_line(b'{"response": {}}').key is None


@pytest.mark.parametrize("text", [b"", b"[1]", b'{"key": "a"', b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_line_is_malformed(text):
    with pytest.raises(Malformed):
        read_result_line(text)


NAMES = st.sampled_from(
    ["name", "key", "response", "error", "metadata", "state", "done", "operations", "batchStats", "code"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["batches/a", "files/b"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_whatever_is_in_an_answer_is_read_or_malformed(value):
    for call in (
        lambda data: BATCH.read_batch(Response(200, {}, data)),
        lambda data: BATCH.read_list(Response(200, {}, data)),
        read_result_line,
    ):
        try:
            found = call(json.dumps(value).encode())  # type: ignore[no-untyped-call]
        except ProviderError:
            continue
        assert found is not None
