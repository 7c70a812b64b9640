"""Where clients of Google's enterprise platform get access tokens: the OAuth 2.0 token endpoint and the metadata server.

Sources: RFC 6749 and 7523; developers.google.com/identity/protocols/oauth2/service-account (2026);
cloud.google.com/compute/docs/metadata/querying-metadata. Signatures are not verified: the emulator knows nobody's public key.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, answering, as_json
from batchgen.emulator.google import error

_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_AUDIENCE = "https://oauth2.googleapis.com/token"  # also where the client asks another address
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LONGEST_S = 3600
_SKEW_S = 300
_METADATA = "/computeMetadata/v1"
_FLAVOR = {"Metadata-Flavor": "Google"}
_LEARN = "See https://developers.google.com/identity/sign-in/web/devconsole-project."
_EXPECTED = f"Expected OAuth 2 access token, login cookie or other valid authentication credential. {_LEARN}"
PROJECT = "emulated-project"


def _refused(code: str, description: str, status: int = 400) -> ApiError:
    """RFC 6749, 5.2."""
    return ApiError(status, as_json({"error": code, "error_description": description}))


class Tokens:
    """Those that were issued, and until when each is good, seconds of `time.monotonic()`."""

    def __init__(self, life_s: int) -> None:
        self._life_s = life_s
        self._ends_s: dict[str, float] = {}
        self.issued = 0

    def clear(self) -> None:
        self._ends_s.clear()
        self.issued = 0

    def end_all(self) -> None:
        self._ends_s = dict.fromkeys(self._ends_s, 0.0)

    def routes(self) -> list[web.RouteDef]:
        account = f"{_METADATA}/instance/service-accounts/default"
        return [
            web.post("/token", answering(self._token, {})),
            web.get(f"{_METADATA}/project/project-id", answering(self._project, _FLAVOR)),
            web.get(f"{account}/", answering(self._account, _FLAVOR)),
            web.get(f"{account}/token", answering(self._metadata_token, _FLAVOR)),
        ]

    def check(self, request: web.Request) -> str:
        """The token of a request. Raises ApiError 401."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            required = "Request is missing required authentication credential."
            raise _unauthenticated(f"{required} {_EXPECTED}", "CREDENTIALS_MISSING")
        if token not in self._ends_s:
            raise _unauthenticated(f"Request had invalid authentication credentials. {_EXPECTED}", "")
        if self._ends_s[token] <= time.monotonic():
            raise _unauthenticated(
                f"Request had invalid authentication credentials. {_EXPECTED}", "ACCESS_TOKEN_EXPIRED"
            )
        return token

    def _issue(self) -> dict[str, Any]:
        """A second less is said than it lives, as the vendor's 3599 of an hour."""
        self.issued += 1
        token = f"ya29.c.emulated-{secrets.token_urlsafe(24)}"
        self._ends_s[token] = time.monotonic() + self._life_s
        return {"access_token": token, "expires_in": max(1, self._life_s - 1), "token_type": "Bearer"}

    async def _token(self, request: web.Request) -> dict[str, Any]:
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        match form.get("grant_type"):
            case grant if grant == _JWT_GRANT:
                _check_assertion(form.get("assertion", ""))
            case "refresh_token":
                _check_refresh(form)
            case grant:
                raise _refused("unsupported_grant_type", f"Invalid grant_type: {grant}")
        return self._issue()

    def _project(self, request: web.Request) -> Answer:
        _check_flavor(request)
        return Answer(body=PROJECT.encode(), content_type="application/text")

    def _account(self, request: web.Request) -> dict[str, Any]:
        _check_flavor(request)
        return {"aliases": ["default"], "email": f"default@{PROJECT}.iam.gserviceaccount.com", "scopes": [_SCOPE]}

    def _metadata_token(self, request: web.Request) -> dict[str, Any]:
        _check_flavor(request)
        return self._issue()


def _check_flavor(request: web.Request) -> None:
    """A browser that was led here cannot send it."""
    if request.headers.get("Metadata-Flavor") != "Google":
        raise ApiError(403, b"Missing Metadata-Flavor:Google header.\n", "text/html")


def _unauthenticated(message: str, reason: str) -> ApiError:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "aiplatform.googleapis.com"},
    }
    return error(401, message, [info] if reason else [], status="UNAUTHENTICATED")


def _check_assertion(assertion: str) -> None:
    """The shape of a signed assertion, and its times. An account whose name begins with `deleted` has no key any more."""
    try:
        head, claims, signature = (_decoded(part) for part in assertion.split("."))
        header, claim = json.loads(head), json.loads(claims)
        issued, ends = float(claim["iat"]), float(claim["exp"])
    except (ValueError, KeyError, TypeError):
        raise _refused("invalid_grant", "Bad Request") from None
    if header.get("alg") != "RS256" or len(signature) < 128:
        raise _refused("invalid_grant", "Invalid JWT Signature.")
    if claim.get("aud") != _AUDIENCE or not claim.get("iss"):
        raise _refused("invalid_grant", "Invalid JWT: Failed audience check.")
    if ends - issued > _LONGEST_S or not issued - _SKEW_S <= time.time() <= ends + _SKEW_S:
        words = "Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        raise _refused("invalid_grant", f"Invalid JWT: {words} Check your iat and exp values in the JWT claim.")
    if _SCOPE not in str(claim.get("scope")).split():
        raise _refused("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
    if str(claim["iss"]).startswith("deleted"):
        raise _refused("invalid_grant", "Invalid JWT Signature.")


def _decoded(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _check_refresh(form: Mapping[str, str]) -> None:
    if not form.get("client_id") or not form.get("client_secret"):
        raise _refused("invalid_client", "The OAuth client was not found.", 401)
    if not form.get("refresh_token") or form["refresh_token"].startswith("revoked"):
        raise _refused("invalid_grant", "Token has been expired or revoked.")
