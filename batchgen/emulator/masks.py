"""Google's `fields` parameter: only what a client asks for of an answer."""

from __future__ import annotations

import re
from typing import Any

from batchgen.emulator import google_errors as errors
from batchgen.emulator.fields import Violation

Mask = dict[str, Any]  # name -> the mask below it, empty for all of it
_TOKEN = re.compile(r"[A-Za-z0-9_@$*]+|[(),./]")


def mask_of(text: str) -> Mask:
    """`name,metadata(state,batchStats),metadata.output/responsesFile`. Raises Refusal 400; the wording is ours.

    Source: cloud.google.com/apis/docs/system-parameters. That a path may be written in all these ways is known of
    Google's APIs in general.
    """
    mask: Mask = {}
    here = mask
    groups: list[Mask] = [mask]  # where a comma leads back to
    for token in _tokens(text):
        match token:
            case ",":
                here = groups[-1]
            case "(":
                groups.append(here)
            case ")" if len(groups) > 1:
                here = groups.pop()
            case ")":
                raise _refused(text)
            case "." | "/":
                pass
            case name:
                here = here.setdefault(name, {})
    if len(groups) > 1:
        raise _refused(text)
    return mask


def _tokens(text: str) -> list[str]:
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise _refused(text)
    return tokens


def _refused(text: str) -> Exception:
    return errors.bad_fields([Violation("fields", f"Invalid field selection {text}")])


def masked(value: Any, mask: Mask) -> Any:
    """What the mask lets through; lists are looked through."""
    if not mask or "*" in mask:
        return value
    if isinstance(value, list):
        return [masked(one, mask) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: masked(value[name], below) for name, below in mask.items() if name in value}
