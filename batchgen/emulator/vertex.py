"""Google's enterprise platform (Vertex AI): generateContent and predict, and where its clients get their tokens.

Clients come with access tokens or a key of "express mode"; the OAuth 2.0 token endpoint and the metadata server issue
tokens. Signatures are not verified: the emulator has nobody's public key.

Sources: cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference;
cloud.google.com/vertex-ai/generative-ai/docs/provisioned-throughput/error-code-429; requests of google-genai 3.4.0 and
3.6.1 with vertexai=True; bodies of errors in public issues. Of tokens: RFC 6749 and 7523;
developers.google.com/identity/protocols/oauth2/service-account (2026);
cloud.google.com/compute/docs/metadata/querying-metadata.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web

from batchgen.emulator import gemini, google, imagen
from batchgen.emulator.accounting import QuotaExceeded
from batchgen.emulator.answers import Answer, ApiError, answering, as_json
from batchgen.emulator.faults import GEMINI_FAULTS, IMAGEN_FAULTS, NOT_OF_VERTEX
from batchgen.emulator.google_schemas import VERTEX_GENERATE_CONTENT, VERTEX_PREDICT
from batchgen.emulator.models import GEMINI, IMAGEN, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pipeline import Endpoint, Job, Pipeline

_SERVICE = "aiplatform.googleapis.com"
_VERSION = "/{version:v1(?:beta1)?}"
_PROJECT = "/projects/{project}/locations/{location}"
_MODEL = "/publishers/google/models/{model:[^:/]+}"
_EXHAUSTED = (
    "Resource exhausted. Please try again later. Please refer to "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."
)


class _Api(google.GoogleApi):
    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def key(self, request: web.Request) -> str:
        return _paying_project(self._tokens, request)

    def over_quota(self, model: Model, over: QuotaExceeded) -> ApiError:
        return google.error(429, _EXHAUSTED)

    def error(self, fault: str, job: Job[Any]) -> ApiError | None:
        return google.error(429, _EXHAUSTED) if fault in ("429", "429bare") else super().error(fault, job)


def routes(pipeline: Pipeline, tokens: Tokens) -> list[web.RouteDef]:
    api = _Api(tokens)
    contents = Endpoint(
        api=api,
        faults=GEMINI_FAULTS - NOT_OF_VERTEX,
        parse=partial(_parse_contents, pipeline.options),
        compose=_compose_contents,
    )
    predictions = Endpoint(
        api=api,
        faults=IMAGEN_FAULTS - NOT_OF_VERTEX,
        parse=partial(_parse_prediction, pipeline.options),
        compose=imagen.compose,
    )
    generate = ":{method:generateContent|streamGenerateContent}"
    found = tokens.routes()
    for model in (f"{_VERSION}{_PROJECT}{_MODEL}", f"{_VERSION}{_MODEL}"):
        found += [
            web.post(model + generate, partial(pipeline.handle, endpoint=contents)),
            web.post(model + ":{method:predict}", partial(pipeline.handle, endpoint=predictions)),
            web.post(model + ":{method}", answering(_unknown_method, google.HEADERS)),
        ]
    return found


def _paying_project(tokens: Tokens, request: web.Request) -> str:
    """The project against whose quota requests count; one that begins with `denied` or `disabled` is refused.

    Raises ApiError 401 and 403.
    """
    project = request.match_info.get("project")
    if project is None:
        return google.paying_key(request)
    tokens.check(request)
    if project.startswith("denied"):
        resource = f"//{_SERVICE}/{_resource(request)}"
        message = f"Permission 'aiplatform.endpoints.predict' denied on resource '{resource}' (or it may not exist)."
        raise google.error(403, message, [google.error_info("IAM_PERMISSION_DENIED", _SERVICE, f"projects/{project}")])
    if project.startswith("disabled"):
        page = f"https://console.developers.google.com/apis/api/{_SERVICE}/overview?project={project}"
        message = f"Vertex AI API has not been used in project {project} before or it is disabled. Enable it by visiting {page}"
        disabled = google.error_info("SERVICE_DISABLED", _SERVICE, f"projects/{project}")
        raise google.error(403, f"{message} then retry.", [disabled])
    return project


def _resource(request: web.Request) -> str:
    path = request.match_info
    place = f"projects/{path['project']}/locations/{path['location']}/" if "project" in path else ""
    return f"{place}publishers/google/models/{path['model']}"


def _unknown_method(request: web.Request) -> None:
    raise google.error(404, f"The method {request.match_info['method']} is not found.")


def _model(request: web.Request, models: Mapping[str, Model], options: EmulatorOptions) -> Model:
    """The model in the path. Raises ApiError 404, the same for one of another location and one that does not exist."""
    name = request.match_info["model"]
    model = models.get(name)
    if model is None or not options.offers(name, is_retired=model.replacement):
        advice = "Please ensure you are using a valid model version."
        words = f"Publisher Model `{_resource(request)}` was not found or your project does not have access to it."
        where = "https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions"
        raise google.error(404, f"{words} {advice} For more information, see: {where}")
    return model


def _parse_contents(options: EmulatorOptions, request: web.Request, body: bytes) -> gemini.GeminiSpec:
    """Read a request, in which the role is required; the Gemini API lets clients leave it out."""
    model = _model(request, GEMINI, options)
    stream = gemini.stream_of(request)
    spec = gemini.parse(body, model, options, lambda _: None, stream=stream, schema=VERTEX_GENERATE_CONTENT)
    roles = [content.get("role") for content in json.loads(body)["contents"]]
    google.require(all(roles), "Please use a valid role: user, model.")
    return spec


def _parse_prediction(options: EmulatorOptions, request: web.Request, body: bytes) -> imagen.ImagenSpec:
    return imagen.parse_prediction(body, _model(request, IMAGEN, options), VERTEX_PREDICT)


def _compose_contents(job: Job[gemini.GeminiSpec]) -> Answer:
    """Answer as the Gemini API does, but for the names of a few facts; streams are left unchanged."""
    answer = gemini.compose(job)
    if job.spec.stream:
        return answer
    found = json.loads(answer.body)
    tier = found["usageMetadata"].pop("serviceTier", "standard").upper()
    found["usageMetadata"]["trafficType"] = "ON_DEMAND" if tier == "STANDARD" else f"ON_DEMAND_{tier}"
    found["createTime"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return replace(answer, body=as_json(found), headers={})


# Where tokens come from.

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
    """An error in the form of RFC 6749, 5.2."""
    return ApiError(status, as_json({"error": code, "error_description": description}))


class Tokens:
    """The tokens that were issued, and until when each is good, in seconds of `time.monotonic()`."""

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
            web.post("/token", answering(self._token)),
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
        """Issue a token; it lives a second longer than it says, as the vendor's 3599 of an hour."""
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
    """Require the header that a browser lured here cannot send."""
    if request.headers.get("Metadata-Flavor") != "Google":
        raise ApiError(403, b"Missing Metadata-Flavor:Google header.\n", "text/html")


def _unauthenticated(message: str, reason: str) -> ApiError:
    details = [google.error_info(reason, _SERVICE)] if reason else []
    return google.error(401, message, details, status="UNAUTHENTICATED")


def _check_assertion(assertion: str) -> None:
    """Check the shape of a signed assertion, and its times. An account named `deleted…` has no key any more."""
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
