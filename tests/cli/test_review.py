"""`batchgen review`, and `retry --rejected`, as people call them."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from batchgen.ledger.reviews import append_reviews, make_review, read_reviews
from batchgen.report.dashboard.clients import add_client, find_client
from batchgen.report.dashboard.job_card import JobLocation
from batchgen.store.lock import JobLock

MANIFEST = """
version: 1
defaults: {model: flash}
items:
  - {id: mug, prompt: A mug}
  - {id: hat, prompt: A hat}
  - {id: cat, prompt: A cat, count: 2}
"""
OUT = Path("shop.emulated")


@pytest.fixture
def shop(batchgen, tmp_path) -> Path:
    (tmp_path / "shop.yaml").write_text(MANIFEST)
    assert batchgen("run", "shop.yaml", "--emulate", "-q").code == 0
    return OUT


def sha(item: str, n: int = 1) -> str:
    line = next(
        line for line in map(json.loads, (OUT / "results.jsonl").read_text().splitlines()) if line["id"] == item
    )
    return str(line["sha256"][n - 1])


def entry(item: str, n: int = 1, **more: object) -> dict[str, object]:
    return {"id": item, "n": n, "file": "", "sha256_begins": sha(item, n)[:12], "prompt": "", "stars": 0, **more}


def save(**lists: object) -> str:
    Path("picks.json").write_text(
        json.dumps({"job": "shop", "emulated": True, "at": "2026-11-30T00:00:00.000Z", **lists})
    )
    return "picks.json"


def test_a_file_of_a_gallery_comes_in_once_and_says_who_and_what(batchgen, shop):
    empty = batchgen("review", "shop.yaml")
    assert "4 images: 0 accepted, 0 rejected, 4 not decided\nnobody has said anything yet" in empty.out
    assert "`batchgen report shop.emulated` shows" in empty.out
    file = save(picked=[entry("mug", stars=4)], rejected=[entry("cat", 2)], undecided=[entry("hat", stars=2)])
    first = batchgen("review", "shop.yaml", "--import", file, "--name", "Ann")
    assert (first.code, first.err) == (0, "3 verdicts of Ann imported\n")
    assert first.out.splitlines()[:3] == [
        "4 images: 1 accepted, 1 rejected, 2 not decided",
        "who  accepted  rejected  with stars  comments",
        "Ann         1         1           2         0",
    ]
    again = batchgen("review", "shop.yaml", "--import", file, "--name", "Ann")
    assert (again.err, again.out) == ("0 verdicts of Ann imported, 3 known before\n", first.out)
    assert len(read_reviews(shop).verdicts) == 3


def test_what_one_job_writes_another_reads_and_the_later_word_still_counts(batchgen, shop):
    append_reviews(OUT, [make_review("Ann", "mug", 1, sha("mug"), "reject", 0, "")])
    append_reviews(OUT, [make_review("Ben", "mug", 1, sha("mug"), "accept", 4, "the handle!\nyes")])
    append_reviews(OUT, [make_review("Ann", "hat", 1, sha("hat"), "reject", 0, "")])
    append_reviews(OUT, [make_review("Ann", "cat", 1, sha("cat"), "reject", 0, "")])
    append_reviews(OUT, [make_review("Ann", "cat", 1, sha("cat"), "none", 0, "")])
    written = batchgen("review", "shop.yaml", "--export", "-").out
    lists = json.loads(written)
    kinds = ("picked", "rejected", "undecided")
    assert [[(each["id"], each["name"]) for each in lists[kind]] for kind in kinds] == [
        [("mug", "Ben")],
        [("hat", "Ann"), ("mug", "Ann")],
        [],
    ]
    assert (lists["job"], lists["emulated"]) == ("shop", True)
    at = lists["picked"][0].pop("at")
    assert at.endswith("Z") and lists["picked"][0] == entry(
        "mug", file="mug.jpg", prompt="A mug", stars=4, comment="the handle!\nyes", name="Ben"
    )
    for path in (OUT / ".batchgen" / "reviews.jsonl", *(OUT / ".batchgen").glob("ledger.sqlite*")):
        path.unlink()
    assert batchgen("verify", "shop.yaml", "--repair").code == 0
    assert batchgen("review", "shop.yaml", "--export", "all.json").err == "0 verdicts written to all.json\n"
    Path("there.json").write_text(written)
    found = batchgen("review", "shop.yaml", "--import", "there.json", "--json").json
    assert (found["accepted"], found["rejected"], found["disputed"]) == (1, 1, ["mug"])
    assert found["people"]["Ben"] == {"accepted": 1, "rejected": 0, "stars": 1, "comments": 1}
    assert "people differ on mug: the later word counts" in batchgen("review", "shop.yaml").out


def test_who_says_something_while_a_run_holds_the_job_is_heard_all_the_same(batchgen, shop):
    file, lock = save(rejected=[entry("mug")]), JobLock(OUT)
    lock.acquire()
    try:
        answer = batchgen("review", "shop.yaml", "--import", file)
        assert "a run holds this job" in answer.err
        assert "4 images: 0 accepted, 1 rejected" in answer.out
        assert "1  rejected: person; its image is kept" in batchgen("plan", "shop.yaml", "--emulate").out
        assert batchgen("status", "shop.yaml", "--json").json["samples"] == {"rejected": 1, "succeeded": 3}
        assert '"state": "rejected"' in batchgen("export", "shop.yaml").out
        assert batchgen("report", "shop.yaml").code == 0
        assert '"state":"rejected"' in (OUT / "report.html").read_text()
    finally:
        lock.release()
    assert json.loads((OUT / "results.jsonl").read_text().splitlines()[0])["state"] == "succeeded"
    batchgen("review", "shop.yaml")
    assert json.loads((OUT / "results.jsonl").read_text().splitlines()[0])["state"] == "rejected"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "picks.json: not JSON: "),
        (
            "[]",
            "picks.json: expected what a gallery saves as JSON, an object with the lists picked, rejected, undecided",
        ),
        ('{"picked": {}}', "picks.json: picked: expected a list"),
        ('{"picked": [1]}', "picks.json: picked[0]: expected an object"),
        ('{"rejected": [{"n": 1}]}', "picks.json: rejected[0]: id: missing"),
        ('{"rejected": [{"id": "mug", "n": "1"}]}', "picks.json: rejected[0]: n: expected a whole number, got '1'"),
        (
            '{"picked": [{"id": "mug", "stars": true}]}',
            "picks.json: picked[0]: stars: expected a whole number, got True",
        ),
        ('{"picked": [{"id": "mug", "stars": 9}]}', "picks.json: picked[0]: stars: expected 0 to 5, got 9"),
        ('{"picked": [{"id": "mug", "sha256_begins": ""}]}', "picks.json: none of its 1 entry is about an image that"),
        (
            '{"picked": [{"id": "dog", "sha256_begins": "000000000000"}]}',
            "picks.json: none of its 1 entry is about an image",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_and_says_where(batchgen, shop, text, why):
    Path("picks.json").write_text(text)
    answer = batchgen("review", "shop.yaml", "--import", "picks.json")
    assert answer.code == 2 and why in answer.err
    assert not (OUT / ".batchgen" / "reviews.jsonl").exists()


def test_what_is_about_other_images_is_left_out_and_said(batchgen, shop):
    file = save(picked=[entry("mug"), {**entry("hat"), "sha256_begins": "0" * 12}])
    answer = batchgen("review", "shop.yaml", "--import", file, "--name", "Ann")
    assert answer.err == (
        "1 verdict of Ann imported\n1 of 2 are about images that are not there, or were made again since: left out\n"
    )
    assert batchgen("review", "shop.yaml", "--name", "Ann").code == 2


def test_a_line_that_a_crash_has_cut_off_is_said_once(batchgen, shop):
    append_reviews(OUT, [make_review("Ann", "mug", 1, sha("mug"), "reject", 0, "")])
    with (OUT / ".batchgen" / "reviews.jsonl").open("ab") as file:
        file.write(b'{"at": 17')
    answer = batchgen("review", "shop.yaml")
    assert "1 line of .batchgen/reviews.jsonl cut off by a crash: left out" in answer.err
    assert "1 rejected" in answer.out
    assert batchgen("review", "shop.yaml").err == ""


def test_retry_makes_the_rejected_again_and_nothing_else(batchgen, shop):
    assert batchgen("retry", "shop.yaml", "--failed", "--with-comments").code == 2
    before = {path.name: path.read_bytes() for path in OUT.glob("*.jpg")}
    append_reviews(OUT, [make_review("Ann", "mug", 1, sha("mug"), "reject", 0, "too dark")])
    dry = batchgen("retry", "shop.yaml", "--rejected", "--dry-run").out
    assert "retry: rejected: person" in dry
    assert batchgen("run", "shop.yaml", "--emulate", "-q").code == 3
    answer = batchgen("retry", "shop.yaml", "--rejected", "--with-comments", "--json")
    assert (answer.code, answer.json["images"]["made"]) == (0, 1)
    after = {path.name: path.read_bytes() for path in OUT.glob("*.jpg")}
    assert {name for name in before if before[name] != after[name]} == {"mug.jpg"}
    assert [path.read_bytes() for path in (OUT / "superseded").iterdir()] == [before["mug.jpg"]]


def test_links_of_clients_are_listed_and_revoked(batchgen, shop):
    none = batchgen("review", "shop.yaml", "--clients").out
    assert "no client has a link: `batchgen serve shop.emulated --client NAME` makes one" in none
    add_client(OUT, "Acme", 3600.0)
    add_client(OUT, "Brief", 0.0)
    listed = batchgen("review", "shop.yaml", "--clients").out
    assert listed.startswith("Acme: open until ") and "\nBrief: expired " in listed
    links = batchgen("review", "shop.yaml", "--clients", "--json").json["clients"]
    assert [(each["name"], each["open"]) for each in links] == [("Acme", True), ("Brief", False)]
    answer = batchgen("review", "shop.yaml", "--revoke", "Acme")
    assert (answer.code, answer.err) == (0, "the link of Acme opens nothing any more\n")
    assert "Acme" not in answer.out
    assert batchgen("review", "shop.yaml", "--revoke", "Acme").code == 2


def test_a_link_is_for_one_job_and_is_printed_behind_the_owners_address(batchgen, shop, spawn):
    assert "--read-only lets nobody" in batchgen("serve", "shop.yaml", "--client", "Acme", "--read-only").err
    Path("other").mkdir()
    assert "here are 0: name its folder" in batchgen("serve", "other", "--client", "Acme").err
    process = spawn("serve", "shop.yaml", "--port", "0", "--client", "Acme", "--expires", "2h")
    owner, client = (process.stdout.readline().strip() for _ in range(2))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", owner)
    place, token = re.fullmatch(r"http://127\.0\.0\.1:\d+/jobs/(\w+)/\?client=([\w-]{43})", client).groups()
    found = find_client(OUT, token, time.time())
    assert found.name == "Acme" and 7100 < found.expires_at - time.time() <= 7200
    with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(client) as page:
        assert (page.status, b'"client":"Acme"' in page.read()) == (200, True)
    assert place == JobLocation(OUT.absolute()).id
