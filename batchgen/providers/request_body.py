"""How a request body is put together: the user's `extra` merged in, large pictures copied once."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pybase64

from batchgen.errors import BadRequest
from batchgen.records import ReferenceImage

# Stands in the JSON for a reference picture until the bytes are joined. Random per process, so that no prompt can
# hold it; it never reaches the wire.
_REFERENCE_PLACEHOLDER = f"reference-{secrets.token_hex(16)}-"
_TURN_PLACEHOLDER = f"turn-{secrets.token_hex(16)}-"


def reference_placeholder(number: int) -> str:
    """What to write into the body where the base64 of reference `number` belongs."""
    return f"{_REFERENCE_PLACEHOLDER}{number}"


def turn_placeholder(number: int) -> str:
    """What to write into the body where the model's turn `number`, kept as JSON text, belongs."""
    return f"{_TURN_PLACEHOLDER}{number}"


def deep_merged(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` on top of `body`: mappings merge, everything else replaces. Neither argument is changed."""
    result = dict(body)
    for key, value in extra.items():
        current = result.get(key)
        result[key] = deep_merged(current, value) if isinstance(current, dict) and isinstance(value, Mapping) else value
    return result


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a body is said: None is not sent."""
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a form. name: of its field, which may come more than once; filename: as the server sees it."""

    name: str
    filename: str
    mime_type: str
    data: bytes


def reference_bytes(reference: ReferenceImage) -> bytes:
    """The image of a reference that is sent along, for a body that is not JSON."""
    return pybase64.b64decode(reference.base64, validate=True)


def encode_form(fields: Mapping[str, str], files: Sequence[FormFile]) -> tuple[bytes, str]:
    """A form as multipart/form-data and the Content-Type that goes with it, fields before files (RFC 7578).

    The same form gives the same bytes: its boundary is made of a hash of what it holds."""
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
    """As browsers write it: the three characters that would end a name or its header, percent-encoded (RFC 7578, 2)."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def encode_body(body: Mapping[str, Any], references: Sequence[str] = (), turns: Sequence[str] = ()) -> bytes:
    """The body as JSON. `references`: base64 text for each mark, in order; `turns`: JSON text, after them.

    Pictures go round the JSON encoder, which would scan and copy every megabyte of them: one copy is left, the join.
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
        if not found:  # sent as a link, or `extra` replaced the place where it stood
            rest = before
            continue
        pieces += [before.encode("ascii"), content.encode()]
    return b"".join([*pieces, rest.encode("ascii")])
