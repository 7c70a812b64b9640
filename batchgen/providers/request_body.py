"""Builds request bodies: fields under the names in a model's own schema, with the user's `extra` merged in, and large
images copied only once.

`wire.fields` of a profile maps batchgen's names of fields to the API's, `wire.values` maps values that differ, and
`wire.defaults` is always sent.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pybase64

from batchgen.errors import BadRequest
from batchgen.profiles.profile import Profile
from batchgen.providers.listings import wire_name
from batchgen.records import Inputs, ReferenceImage, Request, Sample

# Takes the place of a reference image in the JSON until the bytes are joined. Random per process, so that no prompt can
# contain it; it never reaches the wire.
_REFERENCE_PLACEHOLDER = f"reference-{secrets.token_hex(16)}-"
_TURN_PLACEHOLDER = f"turn-{secrets.token_hex(16)}-"


def reference_placeholder(number: int) -> str:
    """What to write into the body where the base64 of reference `number` belongs."""
    return f"{_REFERENCE_PLACEHOLDER}{number}"


def link_of(number: int, image: ReferenceImage) -> str:
    """The link of image `number`, or a data URL with its placeholder as the data."""
    return image.uri or f"data:{image.mime_type};base64,{reference_placeholder(number)}"


def turn_placeholder(number: int) -> str:
    """What to write into the body where the model's turn `number`, kept as JSON text, belongs."""
    return f"{_TURN_PLACEHOLDER}{number}"


def deep_merged(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` merged into `body`: mappings merge, everything else replaces. Neither argument is changed."""
    result = dict(body)
    for key, value in extra.items():
        current = result.get(key)
        result[key] = deep_merged(current, value) if isinstance(current, dict) and isinstance(value, Mapping) else value
    return result


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are set: None is not sent."""
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a form. name: that of its field, which may occur more than once; filename: as the server sees it."""

    name: str
    filename: str
    mime_type: str
    data: bytes


def reference_bytes(reference: ReferenceImage) -> bytes:
    """The bytes of a reference that is sent along, for a body other than JSON."""
    return pybase64.b64decode(reference.base64, validate=True)


def encode_form(fields: Mapping[str, str], files: Sequence[FormFile]) -> tuple[bytes, str]:
    """A form as multipart/form-data and its Content-Type, fields before files (RFC 7578).

    The same form gives the same bytes: its boundary is made from a hash of its contents.
    """
    parts = [(f'name="{_quoted(name)}"', "", value.encode()) for name, value in fields.items()]
    parts += [
        (f'name="{_quoted(file.name)}"; filename="{_quoted(file.filename)}"', file.mime_type, file.data)
        for file in files
    ]
    digest = hashlib.sha256()
    for disposition, _, data in parts:
        digest.update(disposition.encode())
        digest.update(data)
    boundary, pieces = digest.hexdigest(), list[bytes]()
    for disposition, mime_type, data in parts:
        kind = f"\r\nContent-Type: {mime_type}" if mime_type else ""
        head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}{kind}\r\n\r\n"
        pieces += [head.encode(), data, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def _quoted(name: str) -> str:
    """A name as browsers write it: the three characters that would end it or its header are percent-encoded (RFC 7578,
    2)."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def encode_body(body: Mapping[str, Any], references: Sequence[str] = (), turns: Sequence[str] = ()) -> bytes:
    """The body as JSON. references: base64 text for each placeholder, in order; turns: JSON text, after them.

    Images bypass the JSON encoder, which would scan and copy every megabyte of them: only the join makes a copy.
    """
    try:
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the request cannot be written as JSON: {error}", reason="not_sendable") from None
    if not references and not turns:
        return text.encode("ascii")
    marks = [(reference_placeholder(number), reference) for number, reference in enumerate(references)]
    marks += [(f'"{turn_placeholder(number)}"', turn) for number, turn in enumerate(turns)]
    pieces = []
    rest = text
    for mark, content in marks:
        before, found, rest = rest.partition(mark)
        if not found:  # sent as a link, or `extra` replaced its place
            rest = before
            continue
        pieces += [before.encode("ascii"), content.encode()]
    return b"".join([*pieces, rest.encode("ascii")])


# Fields by their names in a model's schema.

# The fields that `wire.fields` may map, in their order in a request.
MAPPABLE = (
    *("aspect_ratio", "image_size", "count", "references", "mask", "quality", "background", "output_format", "seed"),
    *("temperature", "thinking", "person_generation", "negative_prompt", "search"),
)
Names = Mapping[str, str | None]  # the API's name of each field; None removes one from the profile's own table


class MappedCodec:
    """The common part of codecs whose models each have their own names for its fields.

    prefix: of batchgen's ids, "" for none, which does not reach the wire. default_fields: for a model without a table
    of its own.
    """

    prefix: ClassVar[str]
    default_fields: ClassVar[Names]
    takes_links: ClassVar[bool] = True  # an input file is a link or a data URL

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._model = wire_name(profile).removeprefix(self.prefix)
        self._fields = self.field_names(profile)

    @classmethod
    def field_names(cls, profile: Profile) -> Names:
        return profile.wire.get("fields") or cls.default_fields

    @classmethod
    def encodes(cls, profile: Profile) -> frozenset[str]:
        return frozenset(MAPPABLE) & {ours for ours, theirs in cls.field_names(profile).items() if theirs} | {"extra"}

    def mapped_input(self, sample: Sample, inputs: Inputs, *, without: str = "") -> dict[str, Any]:
        """The prompt, the defaults, and each requested field that has a name; `extra` merged in.

        References are links or data URLs, into which `encode_body` puts the data. without: a field that is left out.
        """
        item, profile = sample.item, self.profile
        links = [link_of(number, reference) for number, reference in enumerate(inputs.references)]
        made = {
            "count": sample.images if sample.images > 1 else None,
            "references": (links[:-1] if item.mask else links) or None,
            "mask": links[-1] if item.mask else None,
            "search": True if item.search else None,
        }
        values = {name: made[name] if name in made else getattr(item, name) for name in MAPPABLE if name != without}
        words = profile.wire.get("values") or {}
        named = {
            theirs: words.get(ours, {}).get(value, value) if isinstance(value, str) else value
            for ours, value in given(values).items()
            if (theirs := self._fields.get(ours))
        }
        body = {"prompt": item.prompt, **(profile.wire.get("defaults") or {}), **named}
        return deep_merged(body, item.extra)

    def unwrap_single(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body with a single reference as itself instead of a list of one, for models that want that."""
        name = self._fields.get("references") or ""
        if self.profile.references_max != 1 or not isinstance(body.get(name), list):
            return body
        return {**body, name: body[name][0]}

    def post(self, path: str, body: Mapping[str, Any], sample: Sample, inputs: Inputs, **headers: str) -> Request:
        """A POST request with the inputs. Raises BadRequest if they are more than the model accepts."""
        return Request(
            method="POST",
            path=path,
            body=checked_size(self.profile, encode_body(body, [reference.base64 for reference in inputs.references])),
            headers={"Content-Type": "application/json", **headers},
            timeout_s=self.profile.time_limit(sample.item.image_size),
        )


def checked_size(profile: Profile, body: bytes) -> bytes:
    """The body. Raises BadRequest if it is larger than the model accepts: images of other items have no size yet when a
    plan is made."""
    if len(body) > profile.request_max_bytes:
        most = profile.request_max_bytes / 1e6
        message = f"the request has {len(body) / 1e6:.1f} MB, {profile.id} takes {most:.1f} MB"
        raise BadRequest(message, reason="request_too_large")
    return body


# A job in its vendor's list is recognised by its input and its time.


def input_digest(model: str, body: Any) -> str:
    """A digest of a job's input, as long for a reference of megabytes as for a prompt."""
    asked = json.dumps([model, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(asked.encode()).hexdigest()


def iso_time(utc_s: float) -> str:
    return datetime.fromtimestamp(utc_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
