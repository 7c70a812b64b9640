"""Reading proto3 JSON as Google's servers do: both casings, unknown names refused, violations in their wording."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Scalar:
    """type_name as the error text spells it: TYPE_STRING, TYPE_INT32, TYPE_FLOAT, TYPE_BOOL, TYPE_BYTES."""

    type_name: str


@dataclass(frozen=True, slots=True)
class Enum:
    type_name: str
    values: frozenset[str]
    any_case: bool = False


@dataclass(frozen=True, slots=True)
class Repeated:
    of: Field


@dataclass(frozen=True, slots=True)
class Anything:
    """Free-form JSON, and messages whose inside does not matter here."""


@dataclass(frozen=True)
class Message:
    """fields: lowerCamelCase name -> field. The proto's own snake_case names are accepted for each."""

    fields: Mapping[str, Field]
    by_any_name: Mapping[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        names = {snake(name): name for name in self.fields} | {name: name for name in self.fields}
        object.__setattr__(self, "by_any_name", names)


Field = Scalar | Enum | Repeated | Anything | Message
STRING, INT, FLOAT = Scalar("TYPE_STRING"), Scalar("TYPE_INT32"), Scalar("TYPE_FLOAT")
BOOL, BYTES = Scalar("TYPE_BOOL"), Scalar("TYPE_BYTES")


@dataclass(frozen=True, slots=True)
class Violation:
    """One entry of google.rpc.BadRequest.fieldViolations; field is empty for the top level."""

    field: str
    description: str


def snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", lambda found: "_" + found.group(1).lower(), name)


def read(kind: Field, value: Any, path: str, violations: list[Violation]) -> Any:
    """The value with lowerCamelCase names and base64 decoded; what is wrong is appended to `violations`.

    Source: protobuf.dev/programming-guides/json: parsers accept both casings; null means not set. A single value where
    a list belongs is taken as a list of one, as ai.google.dev's own curl examples rely on.
    """
    match kind:
        case Message():
            return _read_message(kind, value, path, violations)
        case Repeated(of):
            items = value if isinstance(value, list) else [value]
            return [read(of, item, f"{path}[{at}]", violations) for at, item in enumerate(items)]
        case Enum():
            return _read_enum(kind, value, path, violations)
        case Scalar(type_name):
            return _read_scalar(type_name, value, path, violations)
        case Anything():
            return value


def _read_message(kind: Message, value: Any, path: str, violations: list[Violation]) -> dict[str, Any]:
    if not isinstance(value, dict):
        violations.append(_invalid(path, "", value))
        return {}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        known = kind.by_any_name.get(name)
        if known is None:
            place = f" at '{path}'" if path else ""
            text = f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.'
            violations.append(Violation(path, text))
        elif inner is not None:
            below = f"{path}.{snake(known)}" if path else snake(known)
            found[known] = read(kind.fields[known], inner, below, violations)
    return found


def _read_enum(kind: Enum, value: Any, path: str, violations: list[Violation]) -> str:
    if isinstance(value, str):
        if value in kind.values:
            return value
        if kind.any_case and value.upper() in kind.values:
            return value.upper()
    violations.append(
        _invalid(path, f" (type.googleapis.com/google.ai.generativelanguage.v1beta.{kind.type_name})", value)
    )
    return ""


def _read_scalar(type_name: str, value: Any, path: str, violations: list[Violation]) -> Any:
    match type_name, value:
        case ("TYPE_STRING", str()) | ("TYPE_BOOL", bool()):
            return value
        case "TYPE_BYTES", str():
            return _read_bytes(value, path, violations)
        case (("TYPE_INT32" | "TYPE_FLOAT"), (bool() | list() | dict())):
            pass
        case "TYPE_INT32", _:
            if re.fullmatch(r"-?\d+(\.0+)?", str(value)) and -(2**31) <= float(value) < 2**31:
                return int(float(value))
        case "TYPE_FLOAT", _:
            try:
                return float(value)
            except ValueError:
                pass
    violations.append(_invalid(path, f" ({type_name})", value))
    return None


def _read_bytes(value: str, path: str, violations: list[Violation]) -> bytes:
    """Standard or URL-safe alphabet, padding optional (protobuf.dev/programming-guides/json, `bytes`)."""
    try:
        text = value.replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        shown = value if len(value) <= 60 else value[:60] + "..."
        text = f"Invalid value at '{path}' (TYPE_BYTES), Base64 decoding failed for \"{shown}\""
        violations.append(Violation(path, text))
        return b""


def _invalid(path: str, kind: str, value: Any) -> Violation:
    shown = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return Violation(path, f"Invalid value at '{path}'{kind}, {shown[:200]}")
