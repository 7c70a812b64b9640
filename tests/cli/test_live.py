"""What the APIs say of a key: `doctor --online`, `doctor --quota` and `models --live`, against the emulator's lists."""

from __future__ import annotations

import pytest
from aiohttp import web

from batchgen.cli.doctor_servers import check_listed_models
from batchgen.cli.vendor_client import VendorAccess, VendorClient
from batchgen.errors import ProviderError
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.aimlapi import read_balance, read_deprecations, read_models
from batchgen.providers.credentials import KeyHeader
from batchgen.providers.gemini import read_model_page
from batchgen.providers.listings import ListedModel, find_deprecation
from tests.support.google_key import PROJECT, key_file
from tests.support.http_server import serving
from tests.support.marked_key import KEY

OFFLINE = "http://127.0.0.1:9"  # the discard port: nothing listens there


def found(answer, what):
    return [check for check in answer.json["checks"] if check["what"] == what]


def words(answer):
    return {model["id"]: model["live"] for model in answer.json}


def test_quota_says_which_models_the_key_sees_and_how_much_they_read(batchgen, emulator):
    emulator()
    answer = batchgen("doctor", "--quota", "--json")
    says = [check["says"] for check in found(answer, "models gemini")]
    assert (answer.code, "gemini-3-pro-image (131,072 tokens in, batch)" in says[0], len(says)) == (0, True, 1)


def test_quota_says_that_the_rates_are_not_told_by_the_api(batchgen, emulator):
    emulator()
    (limits,) = found(batchgen("doctor", "--quota", "--json"), "limits gemini")
    assert "aistudio.google.com/rate-limit" in limits["says"]


def test_quota_warns_of_models_that_the_key_does_not_see(batchgen, emulator):
    emulator("--model", "gemini-3-pro-image", "--model", "google/nano-banana-pro")
    answer = batchgen("doctor", "--quota", "--json")
    for what, missing in [("models gemini", "gemini-nano-banana-2.1"), ("models aimlapi", "google/nano-banana-2")]:
        seen, unseen = found(answer, what)[:2]
        assert (seen["verdict"], unseen["verdict"], missing in unseen["says"]) == ("ok", "warn", True)


def test_quota_names_image_models_that_we_do_not_know_and_no_others(batchgen, emulator):
    emulator()
    says = found(batchgen("doctor", "--quota", "--json"), "models aimlapi")[-1]["says"]
    assert says == "listed, and not known to batchgen: flux/kontext-max/text-to-image"


def test_a_retired_model_that_is_not_listed_is_no_news():
    findings = list(check_listed_models("gemini", [ListedModel("gemini-nano-banana-2.1")]))
    assert all("imagen" not in finding.says for finding in findings)


def test_a_key_that_sees_no_model_fails():
    assert next(check_listed_models("aimlapi", [])).verdict == "fail"


@pytest.mark.parametrize(("credit", "verdict"), [("1000000", "ok"), ("9999", "warn"), ("0", "warn")])
def test_the_balance_is_shown_with_a_warning_when_low(batchgen, emulator, credit, verdict):
    emulator("--credit", credit)
    answer = batchgen("doctor", "--online", "--json")
    (balance,) = found(answer, "balance aimlapi")
    assert (answer.code, balance["verdict"], f"{int(credit):,} credits left" in balance["says"]) == (0, verdict, True)


def test_credits_that_are_gone_need_a_person(batchgen, emulator, monkeypatch):
    emulator()
    monkeypatch.setenv("AIMLAPI_API_KEY", "nocredits-1")
    answer = batchgen("doctor", "--online", "--json")
    (online,) = found(answer, "online aimlapi")
    assert (answer.code, "run out of credits" in online["says"]) == (5, True)


def test_only_an_api_with_a_key_is_asked(batchgen, emulator, monkeypatch):
    emulator()
    monkeypatch.delenv("AIMLAPI_API_KEY")
    monkeypatch.delenv("BATCHGEN_AIMLAPI_BASE_URL")
    answer = batchgen("doctor", "--quota", "--json")
    assert (answer.code, found(answer, "online aimlapi")) == (0, [])
    assert set(words(batchgen("models", "--live", "--json")).values()) == {"live", "not asked"}


@pytest.mark.parametrize(("name", "verdict", "words"), [("painter", "ok", "a token was"), ("deleted", "fail", "clock")])
def test_credentials_that_are_no_key_are_asked_for_a_token(
    batchgen, emulator, monkeypatch, tmp_path, name, verdict, words
):
    path = key_file(tmp_path, emulator(), name)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    (tmp_path / "m.yaml").write_text("items: [{id: mug, prompt: A mug, model: vertex-pro}]")
    answer = batchgen("doctor", "m.yaml", "--online", "--json")
    (key,), (address,) = found(answer, "key vertex"), found(answer, "address vertex")
    assert (key["verdict"], key["says"]) == (
        "ok",
        f"{name}@{PROJECT}.iam.gserviceaccount.com, {path} (GOOGLE_APPLICATION_CREDENTIALS); project {PROJECT}, location global",
    )
    assert address["says"] == "https://aiplatform.googleapis.com"
    (online,) = found(answer, "online vertex")
    assert (online["verdict"], words in online["says"], answer.code) == (verdict, True, 0 if verdict == "ok" else 5)


def test_credentials_that_are_no_good_are_said_whatever_other_keys_there_are(batchgen, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "nothing.json")
    answer = batchgen("doctor", "--json")
    (key,) = found(answer, "key vertex")
    assert (answer.code, key["verdict"], "nothing.json cannot be read" in key["says"]) == (5, "fail", True)


@pytest.mark.parametrize("argv", [("doctor", "--quota"), ("doctor", "--online"), ("models", "--live")])
def test_without_a_key_nothing_is_asked_and_it_says_so(batchgen, monkeypatch, argv):
    for name in ("GEMINI_API_KEY", "AIMLAPI_API_KEY"):
        monkeypatch.delenv(name)
    answer = batchgen(*argv)
    assert (answer.code, "set GEMINI_API_KEY or AIMLAPI_API_KEY" in answer.out + answer.err) == (5, True)


@pytest.mark.parametrize("argv", [("doctor", "--quota"), ("models", "--live")])
def test_offline_is_said_with_the_address(batchgen, monkeypatch, argv):
    monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", OFFLINE)
    monkeypatch.setenv("BATCHGEN_AIMLAPI_BASE_URL", OFFLINE)
    answer = batchgen(*argv)
    assert (answer.code, f"{OFFLINE} does not answer" in answer.out + answer.err) == (5, True)


@pytest.mark.parametrize("argv", [("doctor", "--quota"), ("models", "--live"), ("models", "--live", "--json")])
def test_no_answer_shows_the_key(batchgen, emulator, argv):
    emulator()
    answer = batchgen(*argv)
    assert (answer.code, KEY[7:14] in answer.out + answer.err) == (0, False)


def test_live_says_of_each_model_whether_its_api_lists_it(batchgen, emulator):
    emulator("--model", "gemini-3-pro-image", "--model", "imagen-3.0-generate-002")
    live = words(batchgen("models", "--live", "--json"))
    assert {name: live[name] for name in ("gemini-3-pro-image", "gemini-nano-banana-2.1", "google/nano-banana-2")} == {
        "gemini-3-pro-image": "live",
        "gemini-nano-banana-2.1": "absent",
        "google/nano-banana-2": "absent",
    }
    assert live["aimlapi/imagen-3.0-generate-002"] == "live"  # by its name on the wire
    assert live["flux/kontext-max/text-to-image"] == "unlisted by us"


def test_live_tells_what_the_api_says_of_a_model(batchgen, emulator):
    emulator()
    by_id = {model["id"]: model for model in batchgen("models", "--live", "--json").json}
    pro = by_id["gemini-3-pro-image"]
    assert (pro["input_tokens"], "generateContent" in pro["methods"]) == (131_072, True)


def test_a_model_we_call_retired_is_shown_when_its_api_lists_it(batchgen, emulator):
    emulator("--model", "imagen-4.0-generate-001")
    live = words(batchgen("models", "--live", "--json"))
    assert (live["imagen-4.0-generate-001"], "imagen-4.0-fast-generate-001" in live) == ("live", False)


def test_the_table_has_a_column_for_it(batchgen, emulator):
    emulator()
    makers, judges = batchgen("models", "--live").out.split("\n\n")
    head, *rows, below = makers.splitlines()
    assert (head.split()[-1], rows[0].endswith("live"), rows[-1].endswith("unlisted by us")) == ("now", True, True)
    assert below.startswith("Prices of the flex and priority tiers are guesses for gemini-nano-banana-2.1, ")
    assert {line.split()[0]: line.split()[-1] for line in judges.splitlines()}["gemini-3.1-flash-lite"] == "live"


def test_one_api_that_fails_leaves_the_list_of_the_other(batchgen, emulator, monkeypatch):
    emulator()
    monkeypatch.setenv("GEMINI_API_KEY", "bad-key")
    answer = batchgen("models", "--live", "--json")
    live = words(answer)
    assert (answer.code, live["gemini-3-pro-image"], live["google/nano-banana-2"]) == (5, "not asked", "live")
    assert "API key not valid" in answer.err


# --- what a vendor's feed says of models that it withdraws

GONE = "withdrawn since 2026-08-17, replaced by google/gemini-nano-banana-2.1"


@pytest.mark.parametrize("option", ["--online", "--quota"])
def test_doctor_names_each_model_that_its_vendor_has_withdrawn(batchgen, emulator, option):
    emulator("--no-retired")
    answer = batchgen("doctor", option, "--json")
    checks = {check["says"]: check["verdict"] for check in found(answer, "withdrawn aimlapi")}
    assert checks[f"google/imagen4/preview: {GONE}"] == "warn"
    assert checks[f"aimlapi/imagen-3.0-generate-002: {GONE}"] == "warn"  # the feed has its name here as an alias
    assert (answer.code, {says.partition(":")[2][1:] for says in checks}) == (0, {GONE})


@pytest.mark.parametrize(("model", "verdict"), [("google/imagen4/preview", ["fail"]), ("google/nano-banana-2", [])])
def test_doctor_fails_for_a_manifest_of_a_withdrawn_model_and_names_no_other(batchgen, emulator, write, model, verdict):
    emulator("--no-retired")
    manifest = write({"mug": "A mug"}, head=f"defaults: {{model: {model}}}\n")
    answer = batchgen("doctor", str(manifest), "--online", "--json")
    assert [check["verdict"] for check in found(answer, "withdrawn aimlapi")] == verdict
    assert answer.code == (5 if verdict else 0)


def test_live_says_which_models_are_withdrawn_since_when_and_what_replaces_them(batchgen, emulator):
    emulator("--no-retired")
    by_id = {model["id"]: model for model in batchgen("models", "--live", "--all", "--json").json}
    facts = {"status": "withdrawn", "shutdown_at": "2026-08-17", "replaced_by": "google/gemini-nano-banana-2.1"}
    told = by_id["google/imagen4/preview"]
    assert (told["live"], told["deprecation"]) == ("withdrawn", facts)
    told = by_id["google/nano-banana-2"]
    assert (told["live"], told["deprecation"]) == ("live", None)
    (row,) = [
        line
        for line in batchgen("models", "--live", "--all").out.splitlines()
        if line.startswith("google/imagen4/preview ")
    ]
    assert row.rstrip().endswith(GONE)


def test_a_withdrawn_models_answer_is_shown_in_its_own_words(batchgen, emulator, write, tmp_path):
    emulator("--no-retired")
    manifest = write({"mug": "A mug"}, head="defaults: {model: google/imagen4/preview}\n")
    answer = batchgen("run", str(manifest), "--yes")
    words = "The model google/imagen4/preview was withdrawn on 2026-08-17. Please use google/gemini-nano-banana-2.1 instead."
    assert (answer.code, words in answer.err) == (4, True), answer.err


@pytest.fixture
async def feed():
    """A server that answers with the status and body that a test puts into the dict; and the headers it was asked with."""
    said, asked = {"status": 200, "body": '{"data": []}'}, []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path_qs, request.headers))
        return web.Response(status=said["status"], text=said["body"], content_type="application/json")

    async with serving(answer) as url:
        yield VendorAccess("aimlapi", url, KeyHeader("Authorization", f"Bearer {KEY}")), said, asked


async def test_the_feed_is_asked_for_without_the_key(feed):
    account, _, asked = feed
    async with VendorClient() as lists:
        assert await lists.deprecations(account) == []
    ((path, headers),) = asked
    assert (path, "Authorization" in headers, KEY in str(headers)) == ("/v1/models/deprecations", False, False)


@pytest.mark.parametrize("body", ["{}", '{"message": "Cannot GET /v1/models/deprecations"}'])
async def test_a_server_without_the_feed_withdraws_nothing(feed, body):
    account, said, _ = feed
    said |= {"status": 404, "body": body}
    async with VendorClient() as lists:
        assert await lists.deprecations(account) == []


async def test_a_vendor_that_has_no_feed_is_not_asked(feed):
    account, _, asked = feed
    async with VendorClient() as lists:
        assert await lists.deprecations(VendorAccess("gemini", account.url, account.credentials)) == []
    assert asked == []


def entry(**fields):
    """What the feed makes of an entry with these fields."""
    import json

    (found,) = read_deprecations(json.dumps({"data": [{"id": "x", **fields}, 7]}).encode())
    return found


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"status": "withdrawn", "shutdown_at": "2026-08-10", "replaced_by": "y"},
            "withdrawn since 2026-08-10, replaced by y",
        ),
        ({"status": "withdrawn", "shutdown_at": None, "replaced_by": None}, "withdrawn"),
        ({"status": "deprecated", "shutdown_at": "2027-03-15", "aliases": ["z"]}, "ends on 2027-03-15"),
        ({"status": "Deprecated"}, "is deprecated"),
        ({"status": "superseded", "replaced_by": "y"}, "now served as y"),
        ({"status": "retiring", "shutdown_at": "2027-01-01"}, "ends on 2027-01-01"),
        ({"status": "with\u001b[31mdrawn", "replaced_by": "y\u202e"}, "is deprecated, replaced by y"),
    ],
)
def test_an_entry_of_the_feed_in_words(fields, words):
    assert entry(**fields).description == words


def test_a_model_is_found_in_the_feed_by_id_and_by_alias():
    profile = load_catalogue().resolve("aimlapi/imagen-3.0-generate-002")
    name = "imagen-3.0-generate-002"  # on the wire
    assert find_deprecation(profile, [entry(id=name, status="withdrawn")]) is not None
    assert find_deprecation(profile, [entry(aliases=["y", name], status="withdrawn")]) is not None
    assert find_deprecation(profile, [entry(id=profile.id, status="withdrawn")]) is None


# --- the lists themselves


@pytest.fixture
async def strange():
    """A server with two pages of models for one key, and a redirect for another: (account of a key, paths asked for)."""
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        if request.headers.get("x-goog-api-key") == "moved":
            raise web.HTTPFound("/stolen")
        name = "a-image" if "pageToken" not in request.query else "b-image"
        page = {"models": [{"name": f"models/{name}", "supportedGenerationMethods": ["predict"]}]}
        return web.json_response(page | ({} if "pageToken" in request.query else {"nextPageToken": "a&b"}))

    async with serving(answer) as url:
        yield lambda key: VendorAccess("gemini", url, KeyHeader("x-goog-api-key", key)), asked


async def test_all_pages_are_read(strange):
    account_of, asked = strange
    async with VendorClient() as lists:
        found = await lists.models(account_of("good"))
    assert ([model.id for model in found], len(asked)) == (["a-image", "b-image"], 2)


async def test_a_redirect_never_gets_the_key(strange):
    account_of, asked = strange
    async with VendorClient() as lists:
        with pytest.raises(ProviderError):
            await lists.models(account_of("moved"))
    assert len(asked) == 1


def test_an_account_does_not_show_its_key():
    assert "secret" not in repr(VendorAccess("gemini", "https://example.com", KeyHeader("x-goog-api-key", "secret")))


def test_googles_pages_say_by_their_names_which_models_make_images_and_the_next_token():
    body = b"""{"models": [
      {"name": "models/gemini-3-pro-image", "inputTokenLimit": 65536, "supportedGenerationMethods": ["generateContent"]},
      {"name": "models/gemini-3-pro", "supportedGenerationMethods": ["generateContent"]},
      {"name": "models/image-embedding", "supportedGenerationMethods": ["embedContent"]}, 7], "nextPageToken": "p2"}"""
    generates = ("generateContent",)
    assert read_model_page(body) == (
        [
            ListedModel("gemini-3-pro-image", 65536, generates),
            ListedModel("gemini-3-pro", None, generates, makes_images=False),
        ],
        "p2",
    )


@pytest.mark.parametrize(
    "body", [b'[{"id": "x", "type": "image"}, {"id": "y"}]', b'{"data": [{"id": "x", "type": "image"}]}']
)
def test_aimls_list_is_bare_or_in_data(body):
    assert read_models(body) == [ListedModel("x")]


def test_a_listed_name_cannot_act_on_a_terminal():
    assert read_models(b'[{"id": "x\\u001b[31m\\u202e", "type": "image"}]') == [ListedModel("x [31m")]


def test_a_balance_of_nothing_is_low_whatever_the_vendor_calls_it():
    assert read_balance(b'{"balance": 0, "lowBalance": false}').low
