"""Google's application default credentials: what is found where, and a token that is renewed before it ends, once for all who wait."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from batchgen.errors import ConnectFailed, KeyRejected, SettingsError, Unanswered
from batchgen.http.transport import Transport
from batchgen.providers import google_credentials
from batchgen.providers.google_credentials import GoogleToken, Login, Token, find_login
from batchgen.records import Request, Response
from tests.support.google_key import PROJECT, key_file
from tests.support.http_server import Discard, serving

ASKED = Request(method="POST", path="/v1/x", body=b"{}")


def answering(*answers):
    """An `ask` that gives these answers in turn, the last for ever, and the requests that it was given."""
    asked, left = [], list(answers)

    async def ask(base_url, request):
        asked.append((base_url, request))
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask, asked


def answer(status=200, **facts):
    return Response(status, {"content-type": "application/json"}, json.dumps(facts).encode())


GOOD = answer(access_token="ya29.first", expires_in=3599, token_type="Bearer")


@pytest.fixture(autouse=True)
def no_machine_of_google(monkeypatch, tmp_path):
    monkeypatch.setattr(google_credentials, "PRODUCT_NAME", tmp_path / "product_name")


# --- where they are found


def found(environ):
    return find_login(environ)


def test_a_key_file_is_found_by_its_variable_and_names_account_and_project(tmp_path):
    path = key_file(tmp_path, "https://oauth2.example")
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIALS_FILE"):
        login = found({name: str(path)})
        assert login.project == PROJECT
        assert login.source == f"painter@{PROJECT}.iam.gserviceaccount.com, {path} ({name})"


@pytest.mark.parametrize("folder", ["CLOUDSDK_CONFIG", "HOME"])
def test_the_login_of_gcloud_is_found_where_gcloud_puts_it(tmp_path, folder):
    place = tmp_path if folder == "CLOUDSDK_CONFIG" else tmp_path / ".config" / "gcloud"
    place.mkdir(parents=True, exist_ok=True)
    facts = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (place / "application_default_credentials.json").write_text(json.dumps({**facts, "quota_project_id": "paying"}))
    login = found({folder: str(tmp_path)})
    assert (login.project, login.quota_project) == ("", "paying")
    assert login.source.startswith("authorized user, ")


def test_a_file_that_is_named_comes_before_gclouds_and_that_before_the_metadata_server(tmp_path):
    assert found({"HOME": str(tmp_path)}) is None
    metadata = {"HOME": str(tmp_path), "GCE_METADATA_HOST": "127.0.0.1:1", "GOOGLE_CLOUD_PROJECT": "p"}
    assert found(metadata).source == "metadata server 127.0.0.1:1"
    (tmp_path / "application_default_credentials.json").write_text('{"type": "authorized_user"}')
    with pytest.raises(SettingsError, match="gcloud auth application-default login"):
        found({**metadata, "CLOUDSDK_CONFIG": str(tmp_path)})
    named = {**metadata, "CLOUDSDK_CONFIG": str(tmp_path)}
    assert "key.json" in found({**named, "GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))}).source


def test_a_machine_of_googles_has_a_metadata_server_unless_it_is_not_to_be_asked(tmp_path):
    environ = {"GOOGLE_CLOUD_PROJECT": "p"}
    assert found(environ) is None
    (tmp_path / "product_name").write_text("Google Compute Engine\n")
    assert found(environ).source == "metadata server 169.254.169.254"
    assert found({**environ, "NO_GCE_CHECK": "true"}) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is not JSON"),
        ("[]", "is not a file of Google credentials"),
        ('{"type": []}', "is not a file of Google credentials"),
        ('{"type": "gdch_service_account"}', "its `type` is none of service_account, authorized_user"),
        (
            '{"type": "service_account", "client_email": "a@b"}',
            "is not a usable file of credentials: Service account info",
        ),
        ('{"type": "external_account", "audience": 7}', "is not a usable file of credentials"),
    ],
)
def test_a_file_that_is_no_good_is_an_error_that_names_variable_file_and_fault(tmp_path, text, words):
    path = tmp_path / "key.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        found({"GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    assert str(caught.value).startswith(f"GOOGLE_APPLICATION_CREDENTIALS: {path} ")
    assert words in str(caught.value)


def test_a_private_key_that_cannot_be_read_is_never_quoted(tmp_path):
    path = key_file(tmp_path, "https://x", private_key="-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END")
    with pytest.raises(SettingsError) as caught:
        found({"GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    assert "SECRETSECRET" not in str(caught.value)


def test_a_missing_library_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.oauth2.service_account", None)
    with pytest.raises(SettingsError, match=r"needs the package google-auth: pip install 'batchgen\[vertex\]'"):
        found({"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, "https://x"))})


# --- what is asked for a token


def credentials(environ):
    return GoogleToken(find_login(environ), account="p")


async def test_a_service_account_sends_a_signed_assertion_and_nothing_else_of_its_key(tmp_path):
    ask, asked = answering(GOOD)
    path = key_file(tmp_path, "https://oauth2.example:444")
    headers = await credentials({"GOOGLE_APPLICATION_CREDENTIALS": str(path)}).headers(ASKED, ask)
    assert headers == {"Authorization": "Bearer ya29.first"}
    ((base_url, request),) = asked
    assert (base_url, request.method, request.path) == ("https://oauth2.example:444", "POST", "/token")
    form = parse_qs(request.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assert len(form["assertion"][0].split(".")) == 3
    assert b"PRIVATE" not in request.body


async def test_a_login_of_a_person_is_refreshed_at_googles_and_names_who_pays_for_the_quota(tmp_path):
    ask, asked = answering(GOOD)
    facts = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    path = tmp_path / "key.json"
    path.write_text(json.dumps({**facts, "quota_project_id": "paying"}))
    headers = await credentials({"GOOGLE_APPLICATION_CREDENTIALS": str(path)}).headers(ASKED, ask)
    assert headers == {"Authorization": "Bearer ya29.first", "x-goog-user-project": "paying"}
    ((base_url, request),) = asked
    assert (base_url, request.path) == ("https://oauth2.googleapis.com", "/token")
    assert parse_qs(request.body.decode())["refresh_token"] == ["r"]


async def test_workload_identity_exchanges_the_token_of_a_file_and_then_acts_as_an_account(tmp_path):
    """google.aip.dev/auth/4117: the security token service, then generateAccessToken."""
    account = answer(
        accessToken="ya29.of-account", expireTime=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    )
    ask, asked = answering(answer(access_token="ya29.federated", expires_in=3600, token_type="Bearer"), account)
    (tmp_path / "subject").write_text("eyJ.of.cluster")
    facts = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": str(tmp_path / "subject")},
        "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
        "painter@p.iam.gserviceaccount.com:generateAccessToken",
    }
    (tmp_path / "key.json").write_text(json.dumps(facts))
    headers = await credentials({"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")}).headers(ASKED, ask)
    assert headers["Authorization"] == "Bearer ya29.of-account"
    assert [base_url for base_url, _ in asked] == [
        "https://sts.googleapis.com",
        "https://iamcredentials.googleapis.com",
    ]
    assert parse_qs(asked[0][1].body.decode())["subject_token"] == ["eyJ.of.cluster"]


async def test_a_login_may_act_as_an_account(tmp_path):
    """What `gcloud auth application-default login --impersonate-service-account` writes."""
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    ask, asked = answering(GOOD, answer(accessToken="ya29.of-account", expireTime=ends))
    facts = {
        "type": "impersonated_service_account",
        "delegates": [],
        "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
        "painter@p.iam.gserviceaccount.com:generateAccessToken",
        "source_credentials": {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"},
    }
    (tmp_path / "key.json").write_text(json.dumps(facts))
    headers = await credentials({"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")}).headers(ASKED, ask)
    assert headers["Authorization"] == "Bearer ya29.of-account"
    assert [base_url for base_url, _ in asked] == [
        "https://oauth2.googleapis.com",
        "https://iamcredentials.googleapis.com",
    ]


async def test_the_metadata_server_is_asked_for_project_and_token_with_its_header(monkeypatch):
    async def metadata(request):
        assert request.headers["Metadata-Flavor"] == "Google"
        if request.path.endswith("project-id"):
            return web.Response(text="of-machine")
        return web.json_response({"access_token": "ya29.machine", "expires_in": 3599, "token_type": "Bearer"})

    with ThreadPoolExecutor(1) as executor:
        async with serving(metadata) as url, Transport(1, executor) as transport:
            host = url.removeprefix("http://")
            login = await asyncio.to_thread(find_login, {"GCE_METADATA_HOST": host})

            async def ask(base_url, request):
                return await transport.request(base_url, request, None)

            headers = await GoogleToken(login, account="p").headers(ASKED, ask)
    assert (login.project, headers) == ("of-machine", {"Authorization": "Bearer ya29.machine"})


# --- why there is none: the request that needs it was never sent


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            answer(400, error="invalid_grant", error_description="Invalid JWT Signature."),
            KeyRejected,
            "machine's clock is wrong",
        ),
        (answer(401, error="unauthorized_client", error_description="No."), KeyRejected, "unauthorized_client: No."),
        (Response(302, {"Location": "https://login.example"}, b"<html>sign in"), ConnectFailed, "sign in"),
        (ConnectFailed("no connection: refused"), ConnectFailed, "no connection: refused"),
        (Unanswered("the connection broke"), ConnectFailed, "the connection broke"),
        (SettingsError("HTTPS_PROXY: socks5"), ConnectFailed, "HTTPS_PROXY: socks5"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_no_token_is_never_an_uncertain_request(tmp_path, said, kind, words):
    ask, _ = answering(said)
    path = key_file(tmp_path, "https://oauth2.example")
    with pytest.raises(kind) as caught:
        await credentials({"GOOGLE_APPLICATION_CREDENTIALS": str(path)}).headers(ASKED, ask)
    assert type(caught.value) is kind
    assert words in caught.value.message and str(path) in caught.value.message


async def test_a_token_that_an_answer_quotes_is_in_no_message(tmp_path):
    quoted = "bad assertion eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.c2lnbmF0dXJl for ya29.a0AfH6SMBx-1234567890"
    ask, _ = answering(answer(400, error="invalid_request", error_description=quoted))
    path = key_file(tmp_path, "https://oauth2.example")
    with pytest.raises(KeyRejected) as caught:
        await credentials({"GOOGLE_APPLICATION_CREDENTIALS": str(path)}).headers(ASKED, ask)
    assert "invalid_request: bad assertion … for …" in caught.value.message


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (answer(404), KeyRejected),
        (answer(500), ConnectFailed),
        (answer(200), ConnectFailed),
        (Unanswered("x"), ConnectFailed),
    ],
)
async def test_a_metadata_server_without_a_token_says_why(said, kind):
    ask, _ = answering(said)
    with pytest.raises(kind, match=r"^no token from the metadata server 127\.0\.0\.1:1"):
        await credentials({"GCE_METADATA_HOST": "127.0.0.1:1", "GOOGLE_CLOUD_PROJECT": "p"}).headers(ASKED, ask)


# --- how long it is used


class Issuer:
    """Gives tokens of a short life, and knows when."""

    def __init__(self, life_s: float) -> None:
        self.life_s = life_s
        self.issued_s: list[float] = []
        self.used: list[str] = []

    async def fetch(self, ask) -> Token:
        self.issued_s.append(time.monotonic())
        await asyncio.sleep(0.01)  # meanwhile all the others ask, too
        return Token(f"ya29.{len(self.issued_s)}", self.life_s)


async def test_fifty_in_flight_renew_a_token_once_per_life():
    issuer = Issuer(0.2)
    token = GoogleToken(Login("test", issuer.fetch), account="p")

    async def work():
        while len(issuer.issued_s) < 4:
            issuer.used.append((await token.headers(ASKED, None))["Authorization"])
            await asyncio.sleep(0.002)

    await asyncio.gather(*(work() for _ in range(50)))
    lives = [later - earlier for earlier, later in zip(issuer.issued_s, issuer.issued_s[1:], strict=False)]
    assert min(lives) >= 0.75 * issuer.life_s  # never before three quarters of it
    assert list(dict.fromkeys(issuer.used)) == [f"Bearer ya29.{n}" for n in range(1, 5)]


@pytest.mark.parametrize(("life_s", "kept_s", "renewed_s"), [(3599, 3370, 3375), (60, 44, 46), (0, None, 0)])
async def test_a_token_is_renewed_before_it_ends(monkeypatch, life_s, kept_s, renewed_s):
    """Three minutes and three quarters before, or when a quarter is left of a shorter life."""
    now_s = [1000.0]
    monkeypatch.setattr(google_credentials, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    issuer = Issuer(life_s)
    token = GoogleToken(Login("test", issuer.fetch), account="p")
    await token.headers(ASKED, None)
    if kept_s is not None:
        now_s[0] = 1000.0 + kept_s
        await token.headers(ASKED, None)
    assert len(issuer.issued_s) == 1
    now_s[0] = 1000.0 + renewed_s
    await token.headers(ASKED, None)
    assert len(issuer.issued_s) == 2


async def test_a_failure_to_renew_is_everybodys_and_is_tried_again():
    failures = [ConnectFailed("down")]

    async def fetch(ask):
        await asyncio.sleep(0)
        if failures:
            raise failures.pop()
        return Token("ya29.x", 3600)

    token = GoogleToken(Login("test", fetch), account="p")
    ends = await asyncio.gather(*(token.headers(ASKED, None) for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [ConnectFailed] * 3
    assert (await token.headers(ASKED, None))["Authorization"] == "Bearer ya29.x"


async def test_a_request_that_is_given_up_takes_the_token_from_nobody():
    issuer = Issuer(3600)
    token = GoogleToken(Login("test", issuer.fetch), account="p")
    first = asyncio.create_task(token.headers(ASKED, None))
    second = asyncio.create_task(token.headers(ASKED, None))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second)["Authorization"] == "Bearer ya29.1"


async def test_tokens_that_a_server_has_ended_early_are_renewed_once_and_all_requests_go_out_again():
    issuer, seen = Issuer(3600), []

    async def api(request):
        seen.append(request.headers["Authorization"])
        expired = seen[-1] == "Bearer ya29.1"
        return web.json_response({}, status=401 if expired else 200)

    token = GoogleToken(Login("test", issuer.fetch), account="p")
    with ThreadPoolExecutor(2) as executor:
        async with serving(api) as url, Transport(50, executor) as transport:
            sendings = [
                transport.send(url, ASKED, token, on_sent=lambda: None, open_sink=lambda _: Discard())
                for _ in range(50)
            ]
            answers = await asyncio.gather(*sendings)
    assert {answer.status for answer in answers} == {200}
    assert (len(issuer.issued_s), len(seen)) == (2, 100)


async def test_a_token_that_is_refused_when_it_is_new_is_not_renewed_for_ever():
    issuer, seen = Issuer(3600), []

    async def api(request):
        seen.append(request.headers["Authorization"])
        return web.json_response({}, status=401)

    token = GoogleToken(Login("test", issuer.fetch), account="p")
    with ThreadPoolExecutor(2) as executor:
        async with serving(api) as url, Transport(4, executor) as transport:
            answer = await transport.request(url, ASKED, token)
    assert (answer.status, seen) == (401, ["Bearer ya29.1", "Bearer ya29.2"])


async def test_answers_are_without_the_token_and_with_the_project_that_pays():
    login = Login("test", Issuer(3600).fetch, quota_project="paying-project")

    async def api(request):
        return web.Response(text=f"{request.headers['Authorization']} for {request.headers['x-goog-user-project']}")

    async def fetch(ask):
        return Token("ya29.a-token-of-some-length", 3600)

    login = Login("test", fetch, quota_project="paying-project")
    with ThreadPoolExecutor(1) as executor:
        async with serving(api) as url, Transport(1, executor) as transport:
            answer = await transport.request(url, ASKED, GoogleToken(login, account="p"))
    assert answer.body == b"Bearer [key] for paying-project"
