"""Google's enterprise platform as the emulator speaks it: tokens, paths, and the errors of its documents."""

from __future__ import annotations

import time

import pytest
from google.auth import crypt, jwt

from tests.support.google_key import key_file

CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "A red fox"}]}]}
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MODEL = "gemini-3-pro-image"


def path(project="shop", model=MODEL, method="generateContent", version="v1beta1"):
    return f"/{version}/projects/{project}/locations/global/publishers/google/models/{model}:{method}"


def assertion(folder, **changed):
    """As google-auth signs it."""
    now = int(time.time())
    claims = {
        "iss": "painter@p.iam.gserviceaccount.com",
        "aud": "https://oauth2.googleapis.com/token",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "iat": now,
        "exp": now + 3600,
        **changed,
    }
    signer = crypt.RSASigner.from_service_account_file(str(key_file(folder, "")))
    return jwt.encode(signer, claims).decode()


@pytest.fixture
def token(client, tmp_path):
    async def ask(emulator, grant=GRANT, **form):
        sent = {"grant_type": grant, **(form or {"assertion": assertion(tmp_path)})}
        async with client.session.post(f"{emulator.base_url}/token", data=sent) as response:
            return response.status, await response.json()

    return ask


async def draw(client, emulator, bearer, where=None, body=CONTENTS):
    return await client.post(emulator.base_url + (where or path()), body, Authorization=f"Bearer {bearer}")


async def test_a_signed_assertion_gives_a_token_and_that_an_image(start, client, token):
    emulator = await start(token_life_s=60)
    status, issued = await token(emulator)
    assert (status, issued["expires_in"], issued["token_type"]) == (200, 59, "Bearer")
    status, answer = await draw(client, emulator, issued["access_token"])
    assert (status, answer["usageMetadata"]["trafficType"]) == (200, "ON_DEMAND")
    assert answer["candidates"][0]["content"]["parts"][-1]["inlineData"]["mimeType"] == "image/jpeg"
    assert answer["createTime"].endswith("Z")
    assert emulator.tokens_issued == 1


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"aud": "https://evil.example"}, "invalid_grant"),
        ({"exp": 0, "iat": -3600}, "invalid_grant"),
        ({"exp": int(time.time()) + 9000}, "invalid_grant"),
        ({"scope": "https://www.googleapis.com/auth/drive"}, "invalid_scope"),
        ({"iss": "deleted@p.iam.gserviceaccount.com"}, "invalid_grant"),
    ],
)
async def test_an_assertion_that_is_not_as_documented_gives_none(start, token, tmp_path, changed, error):
    emulator = await start()
    status, said = await token(emulator, assertion=assertion(tmp_path, **changed))
    assert (status, said["error"], emulator.tokens_issued) == (400, error, 0)


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "e30.e30.e30", "W10.W10.W10"])
async def test_what_is_no_assertion_is_an_invalid_grant(start, token, text):
    assert (await token(await start(), assertion=text))[0] == 400


async def test_a_refresh_token_gives_a_token_unless_it_was_revoked(start, token):
    emulator = await start()
    login = {"client_id": "c", "client_secret": "s"}
    assert (await token(emulator, "refresh_token", refresh_token="r", **login))[0] == 200
    assert (await token(emulator, "refresh_token", refresh_token="revoked-1", **login))[1]["error"] == "invalid_grant"
    assert (await token(emulator, "refresh_token", refresh_token="r"))[0] == 401
    assert (await token(emulator, "password"))[1]["error"] == "unsupported_grant_type"


async def test_the_metadata_server_wants_its_header(start, client):
    emulator = await start()
    at = f"{emulator.base_url}/computeMetadata/v1"
    async with client.session.get(f"{at}/project/project-id") as refused:
        assert refused.status == 403
    flavor = {"Metadata-Flavor": "Google"}
    async with client.session.get(f"{at}/project/project-id", headers=flavor) as project:
        assert await project.text() == "emulated-project"
    status, issued = await client.get(f"{at}/instance/service-accounts/default/token", **flavor)
    assert (status, (await draw(client, emulator, issued["access_token"]))[0]) == (200, 200)


async def test_a_token_that_has_ended_says_so_and_another_does_not_exist(start, client, token):
    emulator = await start(token_life_s=0)
    _, issued = await token(emulator)
    status, answer = await draw(client, emulator, issued["access_token"])
    assert (status, answer["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert answer["error"]["details"][0]["reason"] == "ACCESS_TOKEN_EXPIRED"
    status, answer = await draw(client, emulator, "ya29.of-somebody")
    assert (status, "details" in answer["error"]) == (401, False)


@pytest.mark.parametrize(
    ("where", "status", "words"),
    [
        (path(project="denied-1"), 403, "Permission 'aiplatform.endpoints.predict' denied on resource"),
        (path(project="disabled-1"), 403, "Vertex AI API has not been used in project disabled-1"),
        (
            path(model="nothing"),
            404,
            "Publisher Model `projects/shop/locations/global/publishers/google/models/nothing`",
        ),
        (path(method="other"), 404, "The method other is not found."),
    ],
)
async def test_errors_are_those_of_the_platform(start, client, token, where, status, words):
    emulator = await start()
    _, issued = await token(emulator)
    found, answer = await draw(client, emulator, issued["access_token"], where)
    assert (found, words in answer["error"]["message"]) == (status, True)


async def test_a_turn_without_a_role_and_a_bucket_are_refused(start, client, token):
    emulator = await start()
    bearer = (await token(emulator))[1]["access_token"]
    status, answer = await draw(client, emulator, bearer, body={"contents": [{"parts": [{"text": "x"}]}]})
    assert (status, answer["error"]["message"]) == (400, "Please use a valid role: user, model.")
    status, answer = await draw(
        client, emulator, bearer, body={**CONTENTS, "outputConfig": {"outputUriPrefix": "gs://b"}}
    )
    assert (status, "outputConfig" in answer["error"]["message"]) == (400, True)


async def test_the_format_that_is_asked_for_is_served(start, client, token):
    emulator = await start()
    options = {"mimeType": "image/png", "compressionQuality": 80}
    config = {"imageConfig": {"imageOutputOptions": options, "personGeneration": "ALLOW_NONE"}}
    bearer = (await token(emulator))[1]["access_token"]
    status, answer = await draw(client, emulator, bearer, body={**CONTENTS, "generationConfig": config})
    assert status == 200
    assert answer["candidates"][0]["content"]["parts"][-1]["inlineData"]["mimeType"] == "image/png"


async def test_shared_capacity_that_is_used_up_has_neither_a_quota_nor_a_delay(start, client, token):
    emulator = await start(rpm=1)
    bearer = (await token(emulator))[1]["access_token"]
    await draw(client, emulator, bearer)
    status, answer = await draw(client, emulator, bearer)
    assert (status, "details" in answer["error"]) == (429, False)
    assert answer["error"]["message"].startswith("Resource exhausted. Please try again later.")


async def test_a_key_of_express_mode_needs_no_project(start, client):
    emulator = await start()
    where = f"{emulator.base_url}/v1/publishers/google/models/{MODEL}:generateContent"
    assert (await client.post(where, CONTENTS))[0] == 200
    assert (await client.post(where, CONTENTS, **{"x-goog-api-key": "bad"}))[0] == 400
