"""Google's enterprise platform (Vertex AI): generateContent and predict on its paths, with access tokens or a key of "express mode".

Sources: cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference and …/docs/provisioned-throughput/
error-code-429; requests of google-genai 3.4.0 and 3.6.1 with vertexai=True; bodies of errors in public issues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web

from batchgen.emulator import gemini, google, imagen
from batchgen.emulator.answers import Answer, ApiError, answering, as_json
from batchgen.emulator.faults import GEMINI_FAULTS, IMAGEN_FAULTS, NOT_OF_VERTEX
from batchgen.emulator.google_schemas import VERTEX_GENERATE_CONTENT, VERTEX_PREDICT
from batchgen.emulator.google_tokens import Tokens
from batchgen.emulator.models import GEMINI, IMAGEN, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pipeline import Endpoint, Job, Pipeline

_VERSION = "/{version:v1(?:beta1)?}"
_PROJECT = "/projects/{project}/locations/{location}"
_MODEL = "/publishers/google/models/{model:[^:/]+}"
_EXHAUSTED = (
    "Resource exhausted. Please try again later. Please refer to "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."
)


def routes(pipeline: Pipeline, tokens: Tokens) -> list[web.RouteDef]:
    api = replace(
        google.API,
        key=partial(_paying_project, tokens),
        over_quota=lambda _, over: google.error(429, _EXHAUSTED),
        error=_error_of,
    )
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
    found = []
    for model in (f"{_VERSION}{_PROJECT}{_MODEL}", f"{_VERSION}{_MODEL}"):
        found += [
            web.post(model + generate, partial(pipeline.handle, endpoint=contents)),
            web.post(model + ":{method:predict}", partial(pipeline.handle, endpoint=predictions)),
            web.post(model + ":{method}", answering(_unknown_method, google.HEADERS)),
        ]
    return found


def _paying_project(tokens: Tokens, request: web.Request) -> str:
    """The project, by whose quota requests count; of a project that begins with `denied` or `disabled` none is let in.

    Raises ApiError 401 and 403.
    """
    project = request.match_info.get("project")
    if project is None:
        return google.paying_key(request)
    tokens.check(request)
    if project.startswith("denied"):
        resource = f"//aiplatform.googleapis.com/{_resource(request)}"
        message = f"Permission 'aiplatform.endpoints.predict' denied on resource '{resource}' (or it may not exist)."
        raise google.error(403, message, [_info("IAM_PERMISSION_DENIED", project)])
    if project.startswith("disabled"):
        page = f"https://console.developers.google.com/apis/api/aiplatform.googleapis.com/overview?project={project}"
        message = f"Vertex AI API has not been used in project {project} before or it is disabled. Enable it by visiting {page}"
        raise google.error(403, f"{message} then retry.", [_info("SERVICE_DISABLED", project)])
    return project


def _info(reason: str, project: str) -> dict[str, Any]:
    metadata = {"service": "aiplatform.googleapis.com", "consumer": f"projects/{project}"}
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    return {"@type": kind, "reason": reason, "domain": "googleapis.com", "metadata": metadata}


def _resource(request: web.Request) -> str:
    path = request.match_info
    place = f"projects/{path['project']}/locations/{path['location']}/" if "project" in path else ""
    return f"{place}publishers/google/models/{path['model']}"


def _error_of(fault: str, job: Job[Any]) -> ApiError | None:
    return google.error(429, _EXHAUSTED) if fault in ("429", "429bare") else google.API.error(fault, job)


def _unknown_method(request: web.Request) -> None:
    raise google.error(404, f"The method {request.match_info['method']} is not found.")


def _model(request: web.Request, models: Mapping[str, Model], options: EmulatorOptions) -> Model:
    """Raises ApiError 404: what is not in this location looks like what is nowhere."""
    name = request.match_info["model"]
    model = models.get(name)
    withheld = bool(options.models) and name not in options.models
    if model is None or withheld or (model.replacement and not options.serve_retired):
        advice = "Please ensure you are using a valid model version."
        words = f"Publisher Model `{_resource(request)}` was not found or your project does not have access to it."
        where = "https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions"
        raise google.error(404, f"{words} {advice} For more information, see: {where}")
    return model


def _parse_contents(options: EmulatorOptions, request: web.Request, body: bytes) -> gemini.GeminiSpec:
    """The role, which the Gemini API lets clients leave out, is required here."""
    model = _model(request, GEMINI, options)
    stream: gemini.Stream = ""
    if request.match_info["method"] == "streamGenerateContent":
        stream = "sse" if request.query.get("alt") == "sse" else "array"
    spec = gemini.parse(body, model, options, lambda _: None, stream=stream, schema=VERTEX_GENERATE_CONTENT)
    roles = [content.get("role") for content in json.loads(body)["contents"]]
    google.require(all(roles), "Please use a valid role: user, model.")
    return spec


def _parse_prediction(options: EmulatorOptions, request: web.Request, body: bytes) -> imagen.ImagenSpec:
    return imagen.parse_prediction(body, _model(request, IMAGEN, options), VERTEX_PREDICT)


def _compose_contents(job: Job[gemini.GeminiSpec]) -> Answer:
    """As the Gemini API's, but for the names of a few facts; streams are left as those."""
    answer = gemini.compose(job)
    if job.spec.stream:
        return answer
    found = json.loads(answer.body)
    tier = found["usageMetadata"].pop("serviceTier", "standard").upper()
    found["usageMetadata"]["trafficType"] = "ON_DEMAND" if tier == "STANDARD" else f"ON_DEMAND_{tier}"
    found["createTime"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return replace(answer, body=as_json(found), headers={})
