"""AIML's `/v1/images/generations`: the fields of each AI model, checks, answers by link or base64, error bodies."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from aiohttp import web

from batchgen.emulator.answers import Answer, ApiError, answering, as_json, clean, timestamp
from batchgen.emulator.faults import AIML_FAULTS, link_failures
from batchgen.emulator.models import FIVE, GEMINI, IMAGEN, TEN, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.pictures import Link, Links, reference_digest
from batchgen.emulator.pipeline import Api, Endpoint, Job, Pipeline, Spec, with_pictures

PATH = "/v1/images/generations"
_SHUTDOWN, _SUCCESSOR = "2026-08-17", "google/gemini-nano-banana-2.1"
_CREDITS_A_PICTURE = 84_000  # the example of google/imagen-4.0-generate-001
_CREDITS_A_USD = 2_000_000  # ours: no two examples of the documents have the same ratio
_LOW_BALANCE = 10_000
Shape = Literal["data", "images"]
# What a field takes: one of some values, a whole number in a range, a flag, or up to so many links to pictures.
Check = tuple[str, ...] | range | type[bool] | int


def _problem(check: Check, value: Any) -> str | None:
    """Say what is wrong with a value, in the validator's words; None: nothing."""
    received = f"received {type(value).__name__}"
    match check:
        case tuple():
            expected = " | ".join(f"'{one}'" for one in check)
            return None if value in check else f"Invalid enum value. Expected {expected}, received '{value}'"
        case range():
            if isinstance(value, bool) or not isinstance(value, int):
                return f"Expected number, {received}"
            if value > check[-1]:
                return f"Number must be less than or equal to {check[-1]}"
            return None if value >= check[0] else f"Number must be greater than or equal to {check[0]}"
        case int():
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                return f"Expected array, {received}"
            if len(value) > check:
                return f"Array must contain at most {check} element(s)"
            return None if all(urlsplit(one).scheme in ("http", "https", "data") for one in value) else "Invalid url"
    return None if isinstance(value, bool) else f"Expected boolean, {received}"


Fields = dict[str, Callable[[Any], str | None]]  # for each field, what is wrong with a value; None: nothing


def _fields(**checks: Check) -> Fields:
    return {name: partial(_problem, check) for name, check in checks.items()}


@dataclass(frozen=True, slots=True)
class Offer:
    """One AI model as AIML offers it: the model whose pictures it makes, and the fields of its schema."""

    model: Model
    fields: Fields
    prompt_characters: int | None = None
    shape: Shape = "data"


_IMAGEN4, _NANO = IMAGEN["imagen-4.0-generate-001"], GEMINI["gemini-2.5-flash-image"]
_PRO, _FLASH = GEMINI["gemini-3-pro-image"], GEMINI["gemini-3.1-flash-image"]
_LITE, _FLASH_21 = GEMINI["gemini-3.1-flash-lite-image"], GEMINI["gemini-nano-banana-2.1"]
_COUNT = _fields(num_images=range(1, 5))
_RESOLUTION = _fields(resolution=("1K", "2K", "4K"))
_SHORT_IMAGEN_FIELDS = _COUNT | _fields(aspect_ratio=FIVE, seed=range(2**32))
_IMAGEN_FIELDS = _SHORT_IMAGEN_FIELDS | _fields(
    enhance_prompt=bool,
    person_generation=("dont_allow", "allow_adult"),
    safety_setting=("block_low_and_above", "block_medium_and_above", "block_only_high"),
    add_watermark=bool,
    convert_base64_to_url=bool,
)
_NANO_FIELDS = _COUNT | _fields(aspect_ratio=TEN)
_PRO_FIELDS = _NANO_FIELDS | _RESOLUTION
_EDIT_FIELDS = _fields(image_urls=5, aspect_ratio=FIVE) | _RESOLUTION
_FLASH_FIELDS = _EDIT_FIELDS | _fields(enable_web_search=bool)
_IMAGEN_OFFER = Offer(_IMAGEN4, _IMAGEN_FIELDS, prompt_characters=400)
# github.com/aimlapi/api-docs at f14fa72 (2026-08-21), docs/api-references/image-models/Google/*.json; of 2.1 at 3c62315
# (2026-10), nano-banana-2.1.json.
_OFFERS: Mapping[str, Offer] = {
    "google/imagen-4.0-generate-001": _IMAGEN_OFFER,
    "google/imagen-4.0-fast-generate-001": _IMAGEN_OFFER,
    "google/imagen-4.0-ultra-generate-001": _IMAGEN_OFFER,
    "google/imagen4/preview": _IMAGEN_OFFER,
    "imagen-3.0-generate-002": _IMAGEN_OFFER,
    "imagen-4.0-ultra-generate-preview-06-06": _IMAGEN_OFFER,
    "imagen4/preview": Offer(_IMAGEN4, _SHORT_IMAGEN_FIELDS),
    "google/gemini-2.5-flash-image": Offer(_NANO, _NANO_FIELDS),
    "google/nano-banana-edit": Offer(_NANO, _IMAGEN_FIELDS | _fields(image_urls=3), 400, "images"),
    "google/nano-banana-pro": Offer(_PRO, _PRO_FIELDS),
    "google/gemini-3-pro-image-preview": Offer(_PRO, _PRO_FIELDS),
    "google/gemini-3-pro-image-edit": Offer(_PRO, _EDIT_FIELDS | _COUNT),
    "google/nano-banana-2": Offer(_FLASH, _FLASH_FIELDS),
    "google/gemini-3-1-flash-image-preview": Offer(_FLASH, _FLASH_FIELDS),
    _SUCCESSOR: Offer(_FLASH_21, _FLASH_FIELDS),
    "google/gemini-3-1-flash-lite-image": Offer(_LITE, _FLASH_FIELDS),
}
OFFERS: Mapping[str, Offer] = {
    name: replace(offer, model=replace(offer.model, id=name, replacement="")) for name, offer in _OFFERS.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AimlSpec(Spec):
    """A request that was understood. links: of the pictures sent along, not fetched yet."""

    links: tuple[str, ...]
    as_link: bool
    rewritten: bool
    shape: Shape


def _error(status: int, message: str, path: str = "") -> ApiError:
    """Make an error body as in docs.aimlapi.com/errors-and-messages."""
    body = {
        "message": message,
        "path": path or PATH,
        "requestId": str(uuid.uuid4()),
        "statusCode": status,
        "timestamp": _now(),
    }
    return ApiError(status, as_json(body))


_BUSY = "Please, try again later."
_NEW_KEY = "You can create a new API key on the Billing page: https://aimlapi.com/app/keys"
_TOP_UP = "Please top up your balance or update your payment method to continue: https://aimlapi.com/app/billing/"


class _Api(Api):
    worded = staticmethod(_error)
    errors: ClassVar = {
        "key": (401, f"This request requires a valid API key. {_NEW_KEY}", "{path}"),
        "credits": (403, f"You've run out of credits. {_TOP_UP}", "{path}"),
        "too_large": (413, "request entity too large"),
        "429": (429, "Too Many Requests"),
        "429bare": (429, "Too Many Requests"),
        "429day": (429, "Free-tier limit: You've reached your free limit for the hour. Please try again later."),
        "408": (408, "Request timeout"),
        "500": (500, "Internal server error"),
        "503": (503, f"Something wrong with the server. {_BUSY}"),
        "504": (504, "Generation timeout"),
        "maintenance": (500, f"The model is under maintenance. {_BUSY}"),
    }


_API = _Api()


def endpoint(pipeline: Pipeline) -> Endpoint:
    return Endpoint(
        api=_API,
        faults=AIML_FAULTS,
        parse=lambda _, body: parse(body, pipeline.options),
        compose=partial(_compose, links=pipeline.links),
    )


def _withdrawn(name: str, options: EmulatorOptions) -> bool:
    """Whether an AI model is no longer offered.

    Google's Imagen was shut down on 2026-08-17. Whether this vendor still serves it by another way is not known.
    """
    return not options.serve_retired and name in OFFERS and OFFERS[name].model.family == "imagen"


def _gone(name: str) -> ApiError:
    """An error for a withdrawn model, in the form of RFC 9457.

    The form is that of live bodies of 2026-08-30 (github.com/api-evangelist/aimlapi); these words are ours.
    """
    message = f"The model {name} was withdrawn on {_SHUTDOWN}. Please use {_SUCCESSOR} instead."
    body = {
        "title": "Not Found",
        "status": 404,
        "message": message,
        "instance": PATH,
        "requestId": str(uuid.uuid4()),
        "timestamp": _now(),
        "error": {"name": "NotFoundException", "message": message},
    }
    return ApiError(404, as_json(body), "application/problem+json; charset=utf-8")


def parse(body: bytes, options: EmulatorOptions) -> AimlSpec:
    """Read a request. Raises ApiError 400 as the validator words it, for unknown AI models too; 404 for withdrawn
    ones."""
    try:
        request = json.loads(body)
    except ValueError as error:
        raise _error(400, f"Unexpected token in JSON: {error}") from None
    _require(isinstance(request, dict), "Expected object")
    unknown = _problem(tuple(OFFERS), request.get("model"))
    _require(not unknown, str(unknown))
    if _withdrawn(request["model"], options):
        raise _gone(request["model"])
    offer, prompt = OFFERS[request["model"]], request.get("prompt")
    most = offer.prompt_characters
    _require(isinstance(prompt, str) and prompt, "Required: prompt")
    _require(not most or len(prompt) <= most, f"String must contain at most {most} character(s)")
    given = {name: request[name] for name in offer.fields if request.get(name) is not None}
    for name, value in given.items():
        problem = offer.fields[name](value)
        _require(not problem, f"{name}: {problem}")
    size = given.get("resolution", "1K")
    return AimlSpec(
        model=offer.model,
        prompt=clean(prompt),
        ratio=given.get("aspect_ratio", "1:1"),
        size=size if size in offer.model.sizes else "1K",
        count=given.get("num_images", 1),
        mime=offer.model.mime,
        seed=given.get("seed"),
        links=tuple(given.get("image_urls", [])),
        as_link=given.get("convert_base64_to_url", True),
        rewritten="enhance_prompt" in offer.fields and given.get("enhance_prompt", True),
        shape=offer.shape,
    )


def _require(holds: Any, problem: str) -> None:
    """Raise ApiError as the validator words it unless the condition holds."""
    if not holds:
        raise _error(400, f"Body validation error!\n{problem}")


def _compose(job: Job[AimlSpec], links: Links) -> Answer:
    """Make the answer: links (the default) or base64, in the variants of AIML's pages; 201 where its prose says so."""
    shapes: dict[str | None, Shape] = {"data_shape": "data", "images_shape": "images"}
    shape = shapes.get(job.fault, job.spec.shape)
    references = tuple(filter(None, map(reference_digest, job.spec.links)))
    _require(len(references) == len(job.spec.links), "image_urls: the image could not be loaded")  # words of ours
    job = replace(job, spec=replace(job.spec, references=references, shape=shape))
    if job.fault in ("no_image", "empty"):
        nothing = None if job.fault == "no_image" else [{"url": None, "b64_json": None}]
        return Answer(body=as_json({"data": nothing, "meta": None}))
    pictures = [job.paint(index) for index in range(job.spec.count)]
    credits_used = _CREDITS_A_PICTURE * len(pictures)
    usage: dict[str, float] = {"credits_used": credits_used, "usd_spent": credits_used / _CREDITS_A_USD}
    if job.fault == "tokens_used":  # the name that examples of some pages have
        usage = {"tokens_used": credits_used}
    body: dict[str, Any] = {shape: [_entry(job, data, links) for data in pictures], "meta": {"usage": usage}}
    if shape == "images":
        body["description"] = ""
    return with_pictures(body, pictures, status=201 if job.fault == "201" else 200)


def _entry(job: Job[AimlSpec], data: bytes, links: Links) -> dict[str, Any]:
    spec = job.spec
    extension = "png" if job.mime == "image/png" else "jpg"
    entry: dict[str, Any] = {"url": None, "b64_json": None}
    if spec.as_link and job.fault not in ("b64", "bad_base64"):
        failures = link_failures(spec.prompt) if job.fault == "link404" else 0
        name = f"guepard/{job.n}-{uuid.uuid4()}.{extension}"
        link = Link(data, job.mime, failures_left=failures, slow=job.fault == "link_slow")
        entry["url"] = job.origin + links.add(name, link)
    else:
        entry["b64_json"] = job.in_base64(data)
    if spec.shape == "images":
        return entry | {"content_type": job.mime, "file_name": f"output.{extension}", "width": None, "height": None}
    entry["mime_type"] = job.mime
    if spec.rewritten:
        entry["prompt"] = f"{spec.prompt} A richly detailed scene in soft light."
    return entry


def routes(pipeline: Pipeline) -> list[web.RouteDef]:
    """The routes of this vendor, but for the path that another vendor has too."""
    options = pipeline.options
    return [
        web.get("/v1/models/deprecations", answering(lambda _: _deprecations(options))),
        web.get("/models", answering(lambda _: _listing(options))),
        web.get("/v1/billing/balance", answering(partial(_balance, pipeline))),
    ]


def _listing(options: EmulatorOptions) -> list[dict[str, Any]]:
    """Answer `GET /models`, for which the vendor wants no key: ours among other kinds and other makers' image models.

    Source: docs.aimlapi.com/api-references/service-endpoints/complete-model-list.
    """
    offered = [name for name in OFFERS if options.offers(name) and not _withdrawn(name, options)]
    entries = [
        *((name, "image", "Google", PATH) for name in offered),
        ("flux/kontext-max/text-to-image", "image", "Flux", PATH),
        ("o3-mini", "chat-completion", "Open AI", "/v1/chat/completions"),
    ]
    return [
        {"id": name, "type": kind, "info": {"name": name, "developer": maker}, "features": [], "endpoints": [path]}
        for name, kind, maker, path in entries
    ]


def _deprecations(options: EmulatorOptions) -> dict[str, Any]:
    """Answer `GET /v1/models/deprecations`, for which the vendor wants no key: its own examples, and what is withdrawn.

    Source: docs.aimlapi.com/api-references/service-endpoints/model-deprecations (api-docs at 935f808, 2026-08).
    """
    gone = [name if name.startswith("google/") else f"google/{name}" for name in OFFERS if _withdrawn(name, options)]
    rows = [(name, name.partition("/")[2], "withdrawn", _SHUTDOWN, _SUCCESSOR) for name in dict.fromkeys(gone)]
    examples = (
        ("openai/gpt-5.3-chat", "gpt-5.3-chat", "withdrawn", "2026-08-10", "openai/gpt-5.3-codex"),
        ("aura-2-zeus-en", "deepgram/aura-2-zeus-en", "superseded", None, "deepgram/aura-2"),
    )
    entries = [
        {
            "id": name,
            "aliases": [alias],
            "status": status,
            "deprecated_at": shutdown_at,
            "shutdown_at": shutdown_at,
            "replaced_by": replaced_by,
            "reason": "provider_delisted" if shutdown_at else "consolidated",
        }
        for name, alias, status, shutdown_at, replaced_by in (*rows, *examples)
    ]
    return {"object": "list", "generated_at": _now(), "data": entries}


def _now() -> str:
    return timestamp(time.time(), "milliseconds")


def _balance(pipeline: Pipeline, request: web.Request) -> dict[str, Any]:
    """Answer a question about the balance. Raises ApiError.

    Source: docs.aimlapi.com/api-references/service-endpoints/account-balance.
    """
    _API.key(request)
    left = pipeline.options.credit - pipeline.statistics.images_of(OFFERS) * _CREDITS_A_PICTURE
    return {
        "balance": left,
        "lowBalance": left < _LOW_BALANCE,
        "lowBalanceThreshold": _LOW_BALANCE,
        "lastUpdated": _now(),
        "autoDebitStatus": "disabled",
        "status": "current",
        "statusExplanation": "Balance is current and up to date",
    }
