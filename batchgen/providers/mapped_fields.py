"""A request's fields under the names that a model's own schema has for them: `wire.fields` of its profile maps ours to theirs,
`wire.values` our values of a field to theirs where they differ, and `wire.defaults` is what is always said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from batchgen.errors import BadRequest
from batchgen.profiles.profile import Profile
from batchgen.providers.listings import wire_name
from batchgen.providers.request_body import deep_merged, encode_body, given, reference_placeholder
from batchgen.records import Inputs, Request, Sample

# The fields that `wire.fields` may give a name.
MAPPABLE = frozenset(
    {
        "aspect_ratio",
        "image_size",
        "count",
        "references",
        "mask",
        "quality",
        "background",
        "output_format",
        "seed",
        "person_generation",
        "negative_prompt",
        "search",
        "temperature",
        "thinking",
    }
)
Names = Mapping[str, str | None]  # their name of each of our fields; None takes one out of the profile's own table


def field_names(profile: Profile, default: Names) -> Names:
    return profile.wire.get("fields") or default


def encoded(names: Names) -> frozenset[str]:
    return MAPPABLE & {ours for ours, theirs in names.items() if theirs} | {"extra"}


class MappedCodec:
    """The head of a codec whose models each have names of their own for its fields.

    prefix: of our ids, "" for none, which does not reach the wire. default_fields: for a model without a table of its own.
    """

    prefix: ClassVar[str]
    default_fields: ClassVar[Names]
    takes_links: ClassVar[bool] = True  # an input file is a link or a data URL

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._model = wire_name(profile).removeprefix(self.prefix)
        self._fields = field_names(profile, self.default_fields)

    @classmethod
    def encodes(cls, profile: Profile) -> frozenset[str]:
        return encoded(field_names(profile, cls.default_fields))

    def post(self, path: str, body: Mapping[str, Any], sample: Sample, inputs: Inputs, **headers: str) -> Request:
        """Raises BadRequest beyond what the model takes."""
        return Request(
            method="POST",
            path=path,
            body=encode_checked(self.profile, body, inputs),
            headers={"Content-Type": "application/json", **headers},
            timeout_s=self.profile.time_limit(sample.item.image_size),
        )


def mapped_input(profile: Profile, names: Names, sample: Sample, inputs: Inputs) -> dict[str, Any]:
    """The prompt, what is always said, and each field that is asked for and has a name; `extra` on top.

    References travel as links or data URLs, for which `encode_checked` puts in the data.
    """
    item = sample.item
    links = [
        ref.uri or f"data:{ref.mime_type};base64,{reference_placeholder(n)}" for n, ref in enumerate(inputs.references)
    ]
    values = {
        "aspect_ratio": item.aspect_ratio,
        "image_size": item.image_size,
        "count": sample.images if sample.images > 1 else None,
        "references": (links[:-1] if item.mask else links) or None,
        "mask": links[-1] if item.mask else None,
        "quality": item.quality,
        "background": item.background,
        "output_format": item.output_format,
        "seed": item.seed,
        "temperature": item.temperature,
        "thinking": item.thinking,
        "person_generation": item.person_generation,
        "negative_prompt": item.negative_prompt,
        "search": True if item.search else None,
    }
    words = profile.wire.get("values") or {}
    named = {
        theirs: words.get(ours, {}).get(value, value) if isinstance(value, str) else value
        for ours, value in given(values).items()
        if (theirs := names.get(ours))
    }
    body = {"prompt": item.prompt, **(profile.wire.get("defaults") or {}), **named}
    return deep_merged(body, item.extra)


def unwrap_single(profile: Profile, names: Names, body: dict[str, Any]) -> dict[str, Any]:
    """The same where a model that takes one reference takes it by itself, and not as a list of one."""
    name = names.get("references") or ""
    if profile.references_max != 1 or not isinstance(body.get(name), list):
        return body
    return {**body, name: body[name][0]}


def encode_checked(profile: Profile, body: Mapping[str, Any], inputs: Inputs) -> bytes:
    """The body with the data of its references. Raises BadRequest beyond what the model takes."""
    data = encode_body(body, [reference.base64 for reference in inputs.references])
    if len(data) > profile.request_max_bytes:  # pictures of other items have no size yet when a plan is made
        most = profile.request_max_bytes / 1e6
        message = f"the request has {len(data) / 1e6:.1f} MB, {profile.id} takes {most:.1f} MB"
        raise BadRequest(message, reason="request_too_large")
    return data
