"""The codec of Gemini's image models on Google's enterprise platform (Vertex AI, "Agent Platform"), and of Imagen's on
the same path, for gateways that still support it.

An id is `vertex/…`; the prefix does not reach the wire. Compared with the Gemini API, the path, the credentials and a
few fields differ; there is no Files API, and batches go through buckets, which this codec does not support. Sources:
cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference, …/docs/learn/locations and
…/docs/provisioned-throughput/error-code-429 (2026-11); requests as sent by google-genai 3.4.0 and 3.6.1 with
vertexai=True.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from batchgen.endpoint import Endpoint
from batchgen.errors import KeyRejected, ModelUnavailable, ProviderError, SettingsError
from batchgen.profiles.profile import Profile
from batchgen.providers.credentials import Credentials, FoundCredentials, KeyHeader
from batchgen.providers.gemini import HARM_CATEGORIES, HARM_THRESHOLDS, SEED_MAX, Gemini
from batchgen.providers.google_credentials import FILE_VARIABLE, GoogleToken, find_login
from batchgen.providers.imagen import Imagen
from batchgen.providers.listings import wire_name
from batchgen.providers.request_body import deep_merged, given
from batchgen.records import Answer, Inputs, Item, Question, Reply, Request, Response, Sample

PREFIX = "vertex/"
VERSION = "v1beta1"  # the version that the vendor's SDK uses
PUBLISHER = "publishers/google"
GLOBAL = "https://aiplatform.googleapis.com"
PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{0,99}", re.ASCII)
LOCATION = re.compile(r"[a-z][a-z0-9-]{0,39}", re.ASCII)
# The enum of imageConfig.personGeneration, by the terms of the manifest, which are Imagen's.
PERSON_GENERATION: Mapping[str, str] = {
    "dont_allow": "ALLOW_NONE",
    "allow_adult": "ALLOW_ADULT",
    "allow_all": "ALLOW_ALL",
}
IMAGE_HARMS = frozenset(
    f"HARM_CATEGORY_{name}"
    for name in ("IMAGE_HATE", "IMAGE_DANGEROUS_CONTENT", "IMAGE_HARASSMENT", "IMAGE_SEXUALLY_EXPLICIT", "JAILBREAK")
)
NOT_HERE = re.compile(r"publisher model\b", re.IGNORECASE)
SERVICE_OFF = re.compile(r"has not been used in project|it is disabled\b|SERVICE_DISABLED", re.IGNORECASE)
NO_PERMISSION = re.compile(r"permission '?aiplatform\.", re.IGNORECASE)


class Platform:
    """What the platform's models share: their address, their credentials, and a body almost like the Gemini API's."""

    codec: ClassVar[type[Gemini] | type[Imagen]]
    seed_max: ClassVar[int] = SEED_MAX
    endpoint: ClassVar[Endpoint] = Endpoint(
        name="vertex",
        key_names=("VERTEX_API_KEY",),
        base_url_names=("BATCHGEN_VERTEX_BASE_URL", "GOOGLE_VERTEX_BASE_URL"),
        base_url=GLOBAL,
        credential_names=(FILE_VARIABLE,),
    )

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._codec = self.codec(profile)
        self._path = f"/models/{quote(wire_name(profile).removeprefix(PREFIX), safe='')}:{self.codec.method}"

    @staticmethod
    def credentials(key: str) -> Credentials:
        return KeyHeader("x-goog-api-key", key)

    @staticmethod
    def find_credentials(key: str | None, environ: Mapping[str, str]) -> FoundCredentials | None:
        """The credentials. A key (of "express mode") needs no project; everything else needs one, and a location, in
        each path."""
        if key is not None:
            return FoundCredentials(Platform.credentials(key), path=f"/{VERSION}/{PUBLISHER}")
        login = find_login(environ)
        if login is None:
            return None
        project = environ.get("GOOGLE_CLOUD_PROJECT") or login.project
        location = environ.get("GOOGLE_CLOUD_LOCATION") or "global"
        if not project:
            raise SettingsError(
                f"no Google Cloud project: {login.source} names none; set GOOGLE_CLOUD_PROJECT in the environment"
            )
        for name, value, form in (("PROJECT", project, PROJECT), ("LOCATION", location, LOCATION)):
            if not form.fullmatch(value):
                raise SettingsError(f"GOOGLE_CLOUD_{name}: {value[:100]!r} is not a valid {name.lower()}")
        return FoundCredentials(
            GoogleToken(login, account=project),
            source=f"{login.source}; project {project}, location {location}",
            base_url=_base_url(location),
            path=f"/{VERSION}/projects/{project}/locations/{location}/{PUBLISHER}",
        )

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        item = replace(sample.item, extra=deep_merged(self.added(sample.item), sample.item.extra))
        return replace(self._codec.build(replace(sample, item=item), inputs), path=self._path)

    def added(self, item: Item) -> dict[str, Any]:
        """What the body has for an item that the Gemini API's has not."""
        return {}

    def read(self, response: Response) -> Reply:
        try:
            return self._codec.read(response)
        except (KeyRejected, ModelUnavailable) as error:
            raise _with_own_reason(error) from None


class Vertex(Platform):
    name: ClassVar[str] = "vertex"
    codec = Gemini
    harm_categories: ClassVar[frozenset[str]] = HARM_CATEGORIES | IMAGE_HARMS
    harm_thresholds: ClassVar[frozenset[str]] = HARM_THRESHOLDS

    @staticmethod
    def encodes(_: Profile) -> frozenset[str]:
        """The fields, without service tiers, which on this platform are not a field of the body."""
        return (Gemini.encoded - {"service_tier"}) | {"person_generation", "output_format"}

    @staticmethod
    def turn(envelope: bytes) -> Mapping[str, Any]:
        return Gemini.turn(envelope)

    def build_question(self, question: Question) -> Request:
        return replace(Gemini(self.profile).build_question(question), path=self._path)

    def read_answer(self, response: Response) -> Answer:
        try:
            return Gemini(self.profile).read_answer(response)
        except (KeyRejected, ModelUnavailable) as error:
            raise _with_own_reason(error) from None

    def added(self, item: Item) -> dict[str, Any]:
        image = {
            "personGeneration": item.person_generation and PERSON_GENERATION[item.person_generation],
            "imageOutputOptions": {"mimeType": f"image/{item.output_format}"} if item.output_format else None,
        }
        return {"generationConfig": {"imageConfig": given(image)}} if given(image) else {}


class VertexImagen(Platform):
    name: ClassVar[str] = "vertex-imagen"
    codec = Imagen

    @staticmethod
    def encodes(_: Profile) -> frozenset[str]:
        return Imagen.encoded


def _with_own_reason(error: ProviderError) -> ProviderError:
    """The error with a reason whose remedy fits this platform, if there is one."""
    message, status = error.message, error.http_status
    if status == 404 and NOT_HERE.search(message):  # a wrong location looks like this too
        error.reason = "model_not_here"
    elif status == 403 and SERVICE_OFF.search(message):
        error.reason = "service_disabled"
    elif status == 403 and NO_PERMISSION.search(message):
        error.reason = "permission_denied"
    elif status == 401:
        error.reason = "token_refused"
    return error


def _base_url(location: str) -> str:
    if location == "global":
        return GLOBAL
    if location in ("us", "eu"):
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"
