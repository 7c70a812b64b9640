"""AIML's `/v1/images/generations`: a table of fields per AI model, orders, answers by link or base64, error bodies."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from batchgen.emulator.faults import link_failures
from batchgen.emulator.links import Link, Links
from batchgen.emulator.loopback import fetch, is_loopback
from batchgen.emulator.models import FIVE, GEMINI, IMAGEN, TEN, Model
from batchgen.emulator.options import EmulatorOptions
from batchgen.emulator.orders import (  # fmt: skip
    JSON_TYPE,
    Answer,
    Job,
    Order,
    Refusal,
    clean,
    encoded,
    in_base64,
    label_of,
    paint,
    picture_size,
    sha256,
)

PATH = "/v1/images/generations"
_SHUTDOWN, _SUCCESSOR = "2026-08-17", "google/gemini-nano-banana-2.1"
_CREDITS_A_PICTURE = 84_000  # the example of google/imagen-4.0-generate-001
_CREDITS_A_USD = 2_000_000  # ours: no two examples of the documents have the same ratio
_LOW_BALANCE = 10_000
Check = Callable[[Any], str | None]  # what is wrong with a value, in the validator's words; None: nothing


def one_of(*values: str) -> Check:
    expected = " | ".join(f"'{value}'" for value in values)

    def check(value: Any) -> str | None:
        return None if value in values else f"Invalid enum value. Expected {expected}, received '{value}'"

    return check


def integer(least: int, most: int) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return f"Expected number, received {type(value).__name__}"
        if value > most:
            return f"Number must be less than or equal to {most}"
        return None if value >= least else f"Number must be greater than or equal to {least}"

    return check


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"Expected boolean, received {type(value).__name__}"


def urls(most: int) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            return f"Expected array, received {type(value).__name__}"
        if len(value) > most:
            return f"Array must contain at most {most} element(s)"
        return None if all(urlsplit(one).scheme in ("http", "https", "data") for one in value) else "Invalid url"

    return check


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One AI model as AIML offers it: what it paints like, and which fields its schema has."""

    model: Model
    fields: Mapping[str, Check] = field(default_factory=dict)
    prompt_characters: int | None = None
    shape: Literal["data", "images"] = "data"


_COUNT = integer(1, 4)
_IMAGEN_FIELDS: Mapping[str, Check] = {
    "num_images": _COUNT,
    "aspect_ratio": one_of(*FIVE),
    "seed": integer(0, 4_294_967_295),
    "enhance_prompt": flag,
    "person_generation": one_of("dont_allow", "allow_adult"),
    "safety_setting": one_of("block_low_and_above", "block_medium_and_above", "block_only_high"),
    "add_watermark": flag,
    "convert_base64_to_url": flag,
}
_RESOLUTION = {"resolution": one_of("1K", "2K", "4K")}
_EDIT_FIELDS = {"image_urls": urls(5), "aspect_ratio": one_of(*FIVE), **_RESOLUTION}


def _offer(name: str, base: Model, fields: Mapping[str, Check], **more: Any) -> tuple[str, Offer]:
    return name, Offer(model=replace(base, id=name, replacement=""), fields=fields, **more)


_IMAGEN4, _NANO, _PRO = (
    IMAGEN["imagen-4.0-generate-001"],
    GEMINI["gemini-2.5-flash-image"],
    GEMINI["gemini-3-pro-image"],
)
_FLASH, _LITE = GEMINI["gemini-3.1-flash-image"], GEMINI["gemini-3.1-flash-lite-image"]
_FLASH_21 = GEMINI["gemini-nano-banana-2.1"]
# github.com/aimlapi/api-docs at f14fa72 (2026-08-21), docs/api-references/image-models/Google/*.json.
OFFERS: Mapping[str, Offer] = dict(
    [
        *(
            _offer(name, _IMAGEN4, _IMAGEN_FIELDS, prompt_characters=400)
            for name in (
                "google/imagen-4.0-generate-001",
                "google/imagen-4.0-fast-generate-001",
                "google/imagen-4.0-ultra-generate-001",
                "google/imagen4/preview",
                "imagen-3.0-generate-002",
                "imagen-4.0-ultra-generate-preview-06-06",
            )
        ),
        _offer(
            "imagen4/preview",
            _IMAGEN4,
            {name: _IMAGEN_FIELDS[name] for name in ("aspect_ratio", "num_images", "seed")},
        ),
        _offer("google/gemini-2.5-flash-image", _NANO, {"num_images": _COUNT, "aspect_ratio": one_of(*TEN)}),
        _offer(
            "google/nano-banana-edit",
            _NANO,
            {**_IMAGEN_FIELDS, "image_urls": urls(3)},
            prompt_characters=400,
            shape="images",
        ),
        *(
            _offer(name, _PRO, {"num_images": _COUNT, "aspect_ratio": one_of(*TEN), **_RESOLUTION})
            for name in ("google/nano-banana-pro", "google/gemini-3-pro-image-preview")
        ),
        _offer("google/gemini-3-pro-image-edit", _PRO, {**_EDIT_FIELDS, "num_images": _COUNT}),
        *(
            _offer(name, _FLASH, {**_EDIT_FIELDS, "enable_web_search": flag})
            for name in ("google/nano-banana-2", "google/gemini-3-1-flash-image-preview")
        ),
        # github.com/aimlapi/api-docs at 3c62315 (2026-10), image-models/Google/nano-banana-2.1.json
        _offer("google/gemini-nano-banana-2.1", _FLASH_21, {**_EDIT_FIELDS, "enable_web_search": flag}),
        _offer("google/gemini-3-1-flash-lite-image", _LITE, {**_EDIT_FIELDS, "enable_web_search": flag}),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AimlOrder(Order):
    """links: of the pictures sent along, not looked at yet."""

    links: tuple[str, ...] = ()
    as_link: bool = True
    rewritten: bool = False
    shape: Literal["data", "images"] = "data"


def refusal(status: int, message: str, path: str = PATH) -> Refusal:
    """The body of docs.aimlapi.com/errors-and-messages."""
    body = {
        "message": message,
        "path": path,
        "requestId": str(uuid.uuid4()),
        "statusCode": status,
        "timestamp": _now(),
    }
    return Refusal(status, encoded(body))


def no_key(path: str = PATH) -> Refusal:
    place = "You can create a new API key on the Billing page: https://aimlapi.com/app/keys"
    return refusal(401, f"This request requires a valid API key. {place}", path)


def no_credits(path: str = PATH) -> Refusal:
    """A used-up balance is a 403 here."""
    place = "Please top up your balance or update your payment method to continue: https://aimlapi.com/app/billing/"
    return refusal(403, f"You've run out of credits. {place}", path)


def fault_refusal(fault: str) -> Refusal | None:
    busy = "Something wrong with the server. Please, try again later."
    found: Mapping[str, tuple[int, str]] = {
        "429": (429, "Too Many Requests"),
        "429bare": (429, "Too Many Requests"),
        "429day": (429, "Free-tier limit: You've reached your free limit for the hour. Please try again later."),
        "408": (408, "Request timeout"),
        "500": (500, "Internal server error"),
        "503": (503, busy),
        "504": (504, "Generation timeout"),
        "maintenance": (500, "The model is under maintenance. Please, try again later."),
    }
    if fault == "credits":
        return no_credits()
    return refusal(*found[fault]) if fault in found else None


def withdrawn(name: str, options: EmulatorOptions) -> bool:
    """Google's Imagen was shut down on 2026-08-17. Whether this vendor still serves it by another way is not known."""
    return not options.serve_retired and name in OFFERS and OFFERS[name].model.family == "imagen"


def _gone(name: str) -> Refusal:
    """RFC 9457 as live bodies of 2026-08-30 have it (github.com/api-evangelist/aimlapi); these words are ours."""
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
    return Refusal(404, encoded(body), "application/problem+json; charset=utf-8")


def parse(body: bytes, options: EmulatorOptions) -> AimlOrder:
    """Raises Refusal 400 as the validator words it; an unknown AI model is one of those, not a 404, which is for models that
    were withdrawn."""
    try:
        request = json.loads(body)
    except ValueError as error:
        raise refusal(400, f"Unexpected token in JSON: {error}") from None
    if not isinstance(request, dict):
        raise _invalid("Expected object")
    problem = one_of(*OFFERS)(request.get("model"))
    if problem:
        raise _invalid(problem)
    if withdrawn(request["model"], options):
        raise _gone(request["model"])
    offer = OFFERS[request["model"]]
    prompt = request.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise _invalid("Required: prompt")
    if offer.prompt_characters and len(prompt) > offer.prompt_characters:
        raise _invalid(f"String must contain at most {offer.prompt_characters} character(s)")
    for name, check in offer.fields.items():
        if request.get(name) is not None and (problem := check(request[name])):
            raise _invalid(f"{name}: {problem}")
    given = {name: request[name] for name in offer.fields if request.get(name) is not None}
    size = given.get("resolution", "1K")
    return AimlOrder(
        model=offer.model,
        prompt=clean(prompt),
        ratio=given.get("aspect_ratio", "1:1"),
        size=size if size in offer.model.sizes else "1K",
        count=given.get("num_images", 1),
        label=offer.model.mime,
        seed=given.get("seed"),
        links=tuple(given.get("image_urls", [])),
        as_link=given.get("convert_base64_to_url", True),
        rewritten="enhance_prompt" in offer.fields and given.get("enhance_prompt", True),
        shape=offer.shape,
    )


def _invalid(problem: str) -> Refusal:
    return refusal(400, f"Body validation error!\n{problem}")


def answer(job: Job[AimlOrder], links: Links) -> Answer:
    """Pictures by link (the default) or base64, in the variants that AIML's pages show; 201 where its prose says so."""
    shape: Mapping[str | None, Literal["data", "images"]] = {"data_shape": "data", "images_shape": "images"}
    references = tuple(_reference(url) for url in job.order.links)
    order = replace(job.order, references=references, shape=shape.get(job.fault, job.order.shape))
    job = replace(job, order=order)
    if job.fault in ("no_image", "empty"):
        nothing = None if job.fault == "no_image" else [{"url": None, "b64_json": None}]
        return Answer(body=encoded({"data": nothing, "meta": None}))
    entries: list[dict[str, Any]] = []
    hashes: list[str] = []
    for index in range(order.count):
        data = paint(job, index)
        hashes.append(sha256(data))
        entries.append(_entry(job, data, links))
    body = {order.shape: entries, "meta": {"usage": _spent(order.count, older=job.fault == "tokens_used")}}
    if order.shape == "images":
        body["description"] = ""
    return Answer(
        body=encoded(body),
        status=201 if job.fault == "201" else 200,
        content_type=JSON_TYPE,
        billed_images=len(hashes),
        sha256=tuple(hashes),
    )


def _spent(images: int, *, older: bool) -> dict[str, float]:
    """The schema's names, and the one that examples of some pages have."""
    credits_used = _CREDITS_A_PICTURE * images
    if older:
        return {"tokens_used": credits_used}
    return {"credits_used": credits_used, "usd_spent": credits_used / _CREDITS_A_USD}


def _reference(url: str) -> str:
    """The hash of a picture sent along. Data URLs are decoded, links to loopback fetched; any other link is taken by
    its name, because nothing this server does leaves the machine. Raises Refusal 400, in words of ours.
    """
    if url.startswith("data:"):
        try:
            data: bytes | None = base64.b64decode(url.partition(";base64,")[2], validate=True)
        except binascii.Error:
            data = None
    elif is_loopback(urlsplit(url).hostname or ""):
        data = fetch(url)
    else:
        return sha256(url.encode())
    if data is None or picture_size(data) is None:
        raise _invalid("image_urls: the image could not be loaded")
    return sha256(data)


def _entry(job: Job[AimlOrder], data: bytes, links: Links) -> dict[str, Any]:
    order, label = job.order, label_of(job)
    extension = "png" if label == "image/png" else "jpg"
    entry: dict[str, Any]
    if order.as_link and job.fault not in ("b64", "bad_base64"):
        failures = link_failures(order.prompt) if job.fault == "link404" else 0
        name = f"guepard/{job.n}-{uuid.uuid4()}.{extension}"
        links.keep(name, Link(data, label, failures_left=failures, slow=job.fault == "link_slow"))
        entry = {"url": f"{job.origin}/cdn/generations/{name}", "b64_json": None}
    else:
        entry = {"url": None, "b64_json": in_base64(job, data)}
    if order.shape == "images":
        return entry | {"content_type": label, "file_name": f"output.{extension}", "width": None, "height": None}
    entry["mime_type"] = label
    if order.rewritten:
        entry["prompt"] = f"{order.prompt} A richly detailed scene in soft light."
    return entry


def listing(options: EmulatorOptions) -> list[dict[str, Any]]:
    """`GET /models`, for which the vendor wants no key: other kinds, and other makers' image models, among ours.

    Source: docs.aimlapi.com/api-references/service-endpoints/complete-model-list.
    """
    offered = [
        name for name in OFFERS if (not options.models or name in options.models) and not withdrawn(name, options)
    ]
    entries = [(name, "image", "Google", PATH) for name in offered]
    entries.append(("flux/kontext-max/text-to-image", "image", "Flux", PATH))
    entries.append(("o3-mini", "chat-completion", "Open AI", "/v1/chat/completions"))
    return [
        {"id": name, "type": kind, "info": {"name": name, "developer": maker}, "features": [], "endpoints": [path]}
        for name, kind, maker, path in entries
    ]


def deprecations(options: EmulatorOptions) -> dict[str, Any]:
    """`GET /v1/models/deprecations`, for which the vendor wants no key: its own examples, and what is withdrawn here.

    Source: docs.aimlapi.com/api-references/service-endpoints/model-deprecations (api-docs at 935f808, 2026-08).
    """
    gone = [name if name.startswith("google/") else f"google/{name}" for name in OFFERS if withdrawn(name, options)]
    entries = [
        _deprecation(name, name.partition("/")[2], "withdrawn", _SHUTDOWN, _SUCCESSOR) for name in dict.fromkeys(gone)
    ]
    entries.append(
        _deprecation("openai/gpt-5.3-chat", "gpt-5.3-chat", "withdrawn", "2026-08-10", "openai/gpt-5.3-codex")
    )
    entries.append(_deprecation("aura-2-zeus-en", "deepgram/aura-2-zeus-en", "superseded", None, "deepgram/aura-2"))
    return {"object": "list", "generated_at": _now(), "data": entries}


def _deprecation(name: str, alias: str, status: str, shutdown_at: str | None, replaced_by: str) -> dict[str, Any]:
    return {
        "id": name,
        "aliases": [alias],
        "status": status,
        "deprecated_at": shutdown_at,
        "shutdown_at": shutdown_at,
        "replaced_by": replaced_by,
        "reason": "provider_delisted" if shutdown_at else "consolidated",
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def balance(images: int, credit: int) -> dict[str, Any]:
    """docs.aimlapi.com/api-references/service-endpoints/account-balance. images: billed so far of all the credit."""
    left = credit - images * _CREDITS_A_PICTURE
    return {
        "balance": left,
        "lowBalance": left < _LOW_BALANCE,
        "lowBalanceThreshold": _LOW_BALANCE,
        "lastUpdated": _now(),
        "autoDebitStatus": "disabled",
        "status": "current",
        "statusExplanation": "Balance is current and up to date",
    }
