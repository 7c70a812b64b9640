"""Reviews over real HTTP: what one person says reaches the job and the others at once, and a client may do that and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from batchgen.emulator import serve as emulate
from batchgen.engine.job_state import absorb_reviews_unless_locked
from batchgen.errors import UsageError
from batchgen.ledger.reader import Reader
from batchgen.ledger.reviews import append_reviews, make_review, read_reviews, reviewed
from batchgen.report.dashboard.clients import add_client, find_client, read_clients, revoke_client
from batchgen.report.dashboard.guard import CSRF_HEADER
from tests.support.bench import FAST, Bench, items
from tests.support.dashboard import Site, site

TOKEN = "a-token-that-nobody-guesses"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def bench(tmp_path) -> AsyncIterator[Bench]:
    async with await emulate(FAST) as emulator:
        bench = Bench(emulator.base_url, tmp_path)
        await bench.run(items("a mug", "a hat", "a cat"))
        yield bench


def sha(bench: Bench, item: str) -> str:
    return str(bench.lines()[item]["sha256"][0])


def vote(bench: Bench, item: str, ruling: str = "reject", **more: Any) -> dict[str, Any]:
    said = {"name": "Ann", "id": item, "n": 1, "sha": sha(bench, item)[:12], "ruling": ruling}
    return {**said, "stars": 0, "comment": "", **more}


def say(bench: Bench, name: str, item: str, ruling: str) -> None:
    append_reviews(bench.folder / "out", [make_review(name, item, 1, sha(bench, item), ruling, 0, f"{name}'s words")])


def facts_of(page: bytes) -> dict[str, Any]:
    found = re.search(rb'id="facts">(.*?)</script>', page)
    assert found is not None
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def samples_of(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {sample["id"]: sample for sample in facts["samples"]}


async def next_samples(stream: aiohttp.StreamReader) -> dict[str, dict[str, Any]]:
    """The next event about samples."""
    event = b""
    async for line in stream:
        if line.startswith(b"event:"):
            event = line[6:].strip()
        elif line.startswith(b"data:") and event == b"samples":
            return samples_of(json.loads(line[5:]))
    raise AssertionError("the stream has ended")


async def test_a_verdict_is_in_the_job_and_with_the_other_reviewer_at_once(bench):
    out = bench.folder / "out"
    async with site(out) as served:
        facts = facts_of((await served.get(f"/jobs/{served.job}/"))[1])
        assert facts["live"]["csrf"] and facts["live"]["client"] == ""
        address = f"{served.base}/jobs/{served.job}/events?at={facts['live']['at']}"
        async with asyncio.timeout(20), served.client.get(address) as other:
            answer = await served.post(f"/jobs/{served.job}/reviews", vote(bench, "i0", stars=2, comment="too dark"))
            assert answer[0] == 200
            assert [(each.name, each.message) for each in read_reviews(out).verdicts] == [("Ann", "too dark")]
            seen = await next_samples(other.content)
            assert list(seen) == ["i0"]
            assert (seen["i0"]["state"], seen["i0"]["reason"], seen["i0"]["message"]) == (
                "rejected",
                "person",
                "Ann: too dark",
            )
            (said,) = seen["i0"]["pictures"][0]["verdicts"]
            assert (said["by"], said["name"], said["ruling"], said["score"]) == ("person", "Ann", "reject", 2.0)
            await served.post(f"/jobs/{served.job}/reviews", vote(bench, "i0", "accept", name="Ben"))
            seen = await next_samples(other.content)
            assert (seen["i0"]["state"], len(seen["i0"]["pictures"][0]["verdicts"])) == ("succeeded", 2)
        # Whoever comes later reads the same from ledger and journal, before and after a run has taken the journal in.
        shown = samples_of(facts_of((await served.get(f"/jobs/{served.job}/"))[1]))["i0"]
        assert shown["pictures"] == seen["i0"]["pictures"]
        assert absorb_reviews_unless_locked(out) is not None
        again = samples_of(facts_of((await served.get(f"/jobs/{served.job}/"))[1]))["i0"]
        assert (again["state"], again["pictures"]) == ("succeeded", seen["i0"]["pictures"])


async def test_what_a_file_or_another_dashboard_brings_is_seen_too(bench):
    async with site(bench.folder / "out") as served:
        facts = facts_of((await served.get(f"/jobs/{served.job}/"))[1])
        address = f"{served.base}/jobs/{served.job}/events?at={facts['live']['at']}"
        async with asyncio.timeout(20), served.client.get(address) as other:
            say(bench, "Ben", "i2", "reject")
            seen = await next_samples(other.content)
            assert (list(seen), seen["i2"]["state"]) == (["i2"], "rejected")


async def test_one_that_is_taken_back_leaves_what_others_say(bench):
    async with site(bench.folder / "out") as served:
        await served.get(f"/jobs/{served.job}/")
        for body in (vote(bench, "i0", name="Ben"), vote(bench, "i0", "accept"), vote(bench, "i0", "none")):
            assert (await served.post(f"/jobs/{served.job}/reviews", body))[0] == 200
        shown = samples_of(facts_of((await served.get(f"/jobs/{served.job}/"))[1]))["i0"]
        assert shown["state"] == "rejected"
        assert [each["name"] for each in shown["pictures"][0]["verdicts"]] == ["Ben"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"name": ""}, "name: expected 1 to 60 characters"),
        ({"stars": "3"}, "stars: expected a whole number"),
        ({"stars": True}, "stars: expected a whole number"),
        ({"stars": 6}, "stars: expected 0 to 5, got 6"),
        ({"ruling": "maybe"}, "ruling: 'maybe' is not one of accept, reject, none"),
        ({"comment": "x" * 1001}, "comment: 1,001 characters"),
        ({"id": "i9"}, "the image was made again or is gone"),
        ({"n": 2}, "the image was made again or is gone"),
        ({"sha": "0" * 12}, "the image was made again or is gone"),
        ({"sha": ""}, "the image was made again or is gone"),
    ],
)
async def test_what_is_no_verdict_is_refused_in_words_and_leaves_nothing(bench, wrong, why):
    async with site(bench.folder / "out") as served:
        status, body, _ = await served.post(f"/jobs/{served.job}/reviews", {**vote(bench, "i0"), **wrong})
    assert (status, why in json.loads(body)["error"]) == (409, True)
    assert read_reviews(bench.folder / "out").verdicts == ()


async def test_only_the_page_itself_may_send_one(bench):
    async with site(bench.folder / "out") as served:
        path, body = f"/jobs/{served.job}/reviews", vote(bench, "i0")
        assert (await served.post(path, body, Origin="http://elsewhere.example"))[0] == 403
        assert (await served.post(path, body, Origin=""))[0] == 403
        assert (await served.post(path, body, **{CSRF_HEADER: "x"}))[0] == 403
        assert (await served.get(path))[0] == 405
    async with site(bench.folder / "out", read_only=True) as served:
        assert (await served.post(path, body))[0] == 404
        assert facts_of((await served.get(f"/jobs/{served.job}/"))[1])["live"]["csrf"] == ""
    assert read_reviews(bench.folder / "out").verdicts == ()


# --- clients


class Visitor:
    """A client's browser: it has come by the link and keeps its cookie."""

    def __init__(self, served: Site, session: aiohttp.ClientSession) -> None:
        self.served, self.session, self.csrf = served, session, ""

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        async with self.session.request(method, self.served.base + path, allow_redirects=False, **more) as answer:
            return answer.status, await answer.read()

    async def arrive(self, token: str) -> dict[str, Any]:
        page = f"/jobs/{self.served.job}/"
        assert (await self.ask("GET", f"{page}?client={token}"))[0] == 303
        facts = facts_of((await self.ask("GET", page))[1])
        self.csrf = facts["live"]["csrf"]
        return facts

    async def post(self, path: str, body: Any, csrf: str = "") -> tuple[int, dict[str, Any]]:
        headers = {**JSON, "Origin": self.served.base, CSRF_HEADER: csrf or self.csrf}
        status, answer = await self.ask("POST", path, data=json.dumps(body), headers=headers)
        return status, json.loads(answer)


@pytest.fixture
async def visitor(bench: Bench) -> AsyncIterator[Visitor]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with site(bench.folder / "out", token=TOKEN) as served, aiohttp.ClientSession(cookie_jar=jar) as session:
        yield Visitor(served, session)


async def test_a_client_sees_the_images_that_count_and_no_word_of_anybody_else(bench, visitor):
    out = bench.folder / "out"
    say(bench, "Ann", "i1", "reject")
    say(bench, "Ann", "i0", "accept")
    facts = await visitor.arrive(add_client(out, "Acme", 60.0))
    assert (facts["live"]["client"], facts["live"]["invites"], facts["card"]) == ("Acme", False, None)
    assert list(samples_of(facts)) == ["i0", "i2"]
    text = json.dumps(facts)
    for hidden in ("Ann", "usd", "gemini", "attempts", "job.yaml", "safety", str(out)):
        assert hidden not in text, hidden
    sample = samples_of(facts)["i0"]
    assert (sample["prompt"], [each["kind"] for each in sample["pictures"]]) == ("a mug", ["image"])
    job = f"/jobs/{visitor.served.job}"
    number = sample["pictures"][0]["thumbnail"]
    assert (await visitor.ask("GET", f"{job}/pictures/{number}"))[1] == (out / "i0.jpg").read_bytes()
    assert (await visitor.ask("GET", f"{job}/thumbnails/{number}"))[0] == 200
    with Reader.open(out) as reader:
        hidden_number = next(image.attempt for image in reader.images() if image.item_id == "i1")
    for kind in ("pictures", "thumbnails"):
        assert (await visitor.ask("GET", f"{job}/{kind}/{hidden_number}-0"))[0] == 404


async def test_a_client_votes_under_the_name_of_the_link_and_sees_what_becomes_of_it(bench, visitor):
    out, job = bench.folder / "out", f"/jobs/{visitor.served.job}"
    facts = await visitor.arrive(add_client(out, "Acme", 60.0))
    async with (
        asyncio.timeout(20),
        visitor.session.get(f"{visitor.served.base}{job}/events?at={facts['live']['at']}") as stream,
    ):
        body = vote(bench, "i0", name="Ann", comment="not our logo")
        assert (await visitor.post(f"{job}/reviews", body, csrf=visitor.served.csrf))[0] == 403  # the owner's own
        assert (await visitor.post(f"{job}/reviews", body)) == (200, {})
        seen = await next_samples(stream.content)
        assert (seen["i0"]["state"], seen["i0"]["pictures"][0]["verdicts"][0]["name"]) == ("rejected", "Acme")
        say(bench, "Ann", "i2", "reject")  # which the client does not see any more
        seen = await next_samples(stream.content)
        assert (seen["i2"]["state"], seen["i2"]["pictures"], "Ann" in json.dumps(seen)) == ("superseded", [], False)
    assert next((each.name, each.message) for each in read_reviews(out).verdicts) == ("Acme", "not our logo")
    with reviewed(Reader.open(out), out) as reader:
        assert next(each.message for each in reader.results(["rejected"])) == "Acme: not our logo"


async def test_a_client_may_do_nothing_else(bench, visitor, tmp_path):
    out, job = bench.folder / "out", f"/jobs/{visitor.served.job}"
    facts = await visitor.arrive(add_client(out, "Acme", 60.0))
    for path in ("nights", "prospect?states=failed", "references/" + "0" * 64, "thumbnails/" + "0" * 64):
        status, body = await visitor.ask("GET", f"{job}/{path}")
        assert (status, "and nothing else" in json.loads(body)["error"]) == (403, True), path
    for path in ("retry", "stop", "clients"):
        assert (await visitor.post(f"{job}/{path}", {"states": ["failed"], "run": 1, "name": "x", "days": 1}))[0] == 403
    assert (await visitor.ask("GET", f"{job}/derivatives/{'0' * 12}"))[0] == 403
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert (await visitor.ask(method, f"{job}/"))[0] == 403
    for path in ("/", "/events", "/metrics", "/jobs/0123456789/"):
        assert (await visitor.ask("GET", path))[0] == 401, path
    forged = {"Cookie": f"batchgen-{visitor.served.port}-client=nobody"}
    status, body, _ = await visitor.served.get(f"{job}/", **forged, Accept="text/html")
    assert (status, b"it has expired, was revoked, or is not whole" in body) == (403, True)
    assert facts["live"]["csrf"] != visitor.served.csrf


async def test_a_link_of_one_job_opens_no_other(bench, tmp_path):
    other = Bench(bench.url, tmp_path / "more")
    other.folder.mkdir()
    await other.run(items("a secret"))
    async with site(bench.folder / "out", other.folder / "out", token=TOKEN) as served:
        token = add_client(bench.folder / "out", "Acme", 60.0)
        (_, second) = [watch.location.id for watch in served.hub.watches.values()] or [
            watch.location.id for watch in (await discovered(served)).values()
        ]
        assert (await served.get(f"/jobs/{second}/?client={token}"))[0] == 403
        assert (await served.get(f"/jobs/{served.job}/?client={token}"))[0] == 303
        assert (await served.get(f"/jobs/{second}/"))[0] == 401  # its cookie goes to its own job alone


async def discovered(served: Site) -> dict[str, Any]:
    await served.hub.find("nothing")
    return served.hub.watches


async def test_a_revoked_link_and_one_that_has_expired_are_closed_at_once_and_say_so(bench, visitor):
    out, job = bench.folder / "out", f"/jobs/{visitor.served.job}"
    await visitor.arrive(add_client(out, "Acme", 60.0))
    revoke_client(out, "Acme")
    for method, path in (("GET", "/"), ("GET", "/events"), ("POST", "/reviews")):
        status, body = await visitor.ask(method, job + path)
        assert (status, "it has expired, was revoked" in json.loads(body)["error"]) == (403, True)
    status, body = await visitor.ask("GET", f"{job}/", headers={"Accept": "text/html"})
    assert (status, b"Ask whoever sent you the link for a new one" in body) == (403, True)
    short = add_client(out, "Brief", 0.0)
    assert (await visitor.ask("GET", f"{job}/?client={short}"))[0] == 403


async def test_an_owner_makes_a_link_on_the_page_where_a_token_keeps_others_out(bench):
    out = bench.folder / "out"
    async with site(out, token=TOKEN) as served:
        assert (await served.get(f"/?token={TOKEN}"))[0] == 303
        assert facts_of((await served.get(f"/jobs/{served.job}/"))[1])["live"]["invites"] is True
        path = f"/jobs/{served.job}/clients"
        status, body, _ = await served.post(path, {"name": "Acme", "days": 7})
        address = json.loads(body)["address"]
        assert (status, address.startswith(f"{served.base}/jobs/{served.job}/?client=")) == (200, True)
        token = address.partition("=")[2]
        client = find_client(out, token, time.time())
        assert client is not None and (client.name, round(client.expires_at - client.made_at)) == ("Acme", 7 * 86400)
        for wrong in ({"name": "", "days": 7}, {"name": "A", "days": 0}, {"name": "A", "days": 366}, {"days": 1}):
            assert (await served.post(path, wrong))[0] == 409
        assert (await served.get(address.removeprefix(served.base)))[0] == 200  # who has the token stays who he is
    async with site(out) as served:
        status, body, _ = await served.post(f"/jobs/{served.job}/clients", {"name": "Acme", "days": 7})
        assert (status, "has no token" in json.loads(body)["error"]) == (409, True)


def test_links_are_kept_as_hashes_in_a_file_of_the_owner_alone(tmp_path: Path):
    (tmp_path / ".batchgen").mkdir()
    first, second = add_client(tmp_path, " Acme\tAG ", 60.0), add_client(tmp_path, "Brief", 60.0)
    path = tmp_path / ".batchgen" / "clients.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert first not in path.read_text() and second not in path.read_text()
    assert [each.name for each in read_clients(tmp_path)] == ["Acme AG", "Brief"]
    now = time.time()
    assert find_client(tmp_path, first, now).name == "Acme AG"
    assert find_client(tmp_path, first, now + 61.0) is None
    assert find_client(tmp_path, "", now) is None
    again = add_client(tmp_path, "Acme AG", 60.0)  # in place of the first
    assert (find_client(tmp_path, first, now), find_client(tmp_path, again, now).name) == (None, "Acme AG")
    with pytest.raises(UsageError, match="there is no link for Nobody; there are: Acme AG, Brief"):
        revoke_client(tmp_path, "Nobody")
    with pytest.raises(UsageError, match="name: expected 1 to 60 characters"):
        add_client(tmp_path, "", 60.0)
    path.write_text("half")
    assert read_clients(tmp_path) == []
