"""The sections `check:`, `judge:` and `on_reject:`: what is asked about an image, and what follows.

A check declares its options as data (`review/check_type.py`), so that packages' checks are treated like built-in ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from batchgen.errors import UsageError
from batchgen.item import AGAIN_MAX, DEFAULT_CHECKS, Check, Item, Judge, OnReject
from batchgen.manifest.diagnostics import FieldPath, did_you_mean, safe_repr
from batchgen.manifest.expand import has_template
from batchgen.review.check_type import CheckType, Option
from batchgen.review.checks import check_names, check_type

T = TypeVar("T")
Problems = Iterator[tuple[FieldPath, str]]
REVIEW_FIELDS = ("check", "judge", "on_reject")
ON_FAIL = "on_fail"
RULINGS = ("warn", "reject")
JUDGE: Mapping[str, Option] = {
    "model": Option(kind="text", description="Alias or id of the AI model that judges."),
    "rubric": Option(kind="text", description="What a good image has, in words; the model gives points from 0 to 10."),
    "least": Option(
        kind="number", description="Points below which an image is rejected.", default=7.0, least=0, most=10
    ),
    "of": Option(
        kind="integer", description="Buy so many images for one and keep the best.", default=1, least=1, most=10
    ),
    "keep": Option(kind="text", description="Which of them.", default="best", choices=("best",)),
    "again": Option(
        kind="integer", description="Short for `on_reject: {again: N}`.", default=0, least=0, most=AGAIN_MAX
    ),
    "feedback": Option(
        kind="switch", description="Whether what the model finds wrong goes into the next prompt.", default=False
    ),
}
ON_REJECT: Mapping[str, Option] = {
    "again": Option(
        kind="integer",
        description="Buy so many more, at most, within attempts and budget.",
        default=0,
        least=0,
        most=AGAIN_MAX,
    ),
    "then": Option(
        kind="text",
        description="What becomes of the last: keep (it stays under its name) or hold (in drafts/ until somebody accepts it).",
        default="keep",
        choices=("keep", "hold"),
    ),
}


# ------------------------------------------------------------------------------------------- what is wrong


def check_problems(value: Any) -> Problems:
    """The problems in a `check`, each with its path."""
    if _is_off(value):
        return
    if not isinstance(value, Mapping):
        yield (), f"must be off, or a mapping such as {{blank: reject}}, not {safe_repr(value)}"
        return
    for name, asked in value.items():
        try:
            kind = check_type(name) if isinstance(name, str) else None
        except UsageError as error:
            kind, why = None, str(error)
        else:
            why = f"must be a check's name, not {safe_repr(name)}"
        if kind is None:
            suggestion = did_you_mean(str(name), check_names())
            yield (name,), f"there is no such check{suggestion}" if suggestion else why
        elif not _is_off(asked):
            yield from (((name, *path), words) for path, words in _options_problems(kind, asked))


def _options_problems(kind: CheckType, asked: Any) -> Problems:
    given = _given_options(kind, asked)
    if given is None:
        other = f", its {kind.main}" if kind.main else ""
        yield (
            (),
            f"must be off, warn, reject{other} or a mapping of options, not {safe_repr(asked)}{_meant(asked, RULINGS)}",
        )
        return
    if missing := kind.missing():
        remedy = f': pip install "batchgen[{kind.extra}]"' if kind.extra else ""
        yield (), f"needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed{remedy}"
    short = not isinstance(asked, Mapping)
    for name, value in given.items():
        path = () if short else (name,)
        if name == ON_FAIL:
            if value not in RULINGS and not has_template(value):
                yield path, f"must be warn or reject, not {safe_repr(value)}{_meant(value, RULINGS)}"
        elif name not in kind.options:
            known = [*kind.options, ON_FAIL]
            yield path, f"unknown option{did_you_mean(str(name), known) or f'; there are {_list(known)}'}"
        elif words := option_problem(kind.options[name], value):
            yield path, words
    if kind.needed and not any(given.get(name) is not None for name in kind.needed):
        example = f"{kind.name}: {{{kind.needed[0]}: …, {ON_FAIL}: reject}}"
        yield (), f"needs {' or '.join(kind.needed)}: write {example}"


def judge_problems(value: Any) -> Problems:
    """The problems in a `judge`, each with its path."""
    if _is_off(value):
        return
    yield from _mapping_problems(JUDGE, value, "{model: …, rubric: …}")
    if isinstance(value, Mapping):
        yield from (((), f"needs {name}") for name in ("model", "rubric") if value.get(name) is None)


def on_reject_problems(value: Any) -> Problems:
    """The problems in an `on_reject`, each with its path."""
    if value not in ("keep", "hold"):
        yield from _mapping_problems(ON_REJECT, value, "keep, hold or {again: 2, then: hold}")


def _mapping_problems(options: Mapping[str, Option], value: Any, form: str) -> Problems:
    if not isinstance(value, Mapping):
        yield (), f"must be {form}, not {safe_repr(value)}"
        return
    for name, given in value.items():
        if name not in options:
            yield (name,), f"unknown field{did_you_mean(str(name), options) or f'; there are {_list(options)}'}"
        elif words := option_problem(options[name], given):
            yield (name,), words


def option_problem(option: Option, value: Any) -> str | None:
    """What is wrong with an option's value, None if nothing is. A template is checked once it is rendered."""
    if value is None or has_template(value):
        return None
    got = f", not {safe_repr(value)}"
    if option.kind == "switch":
        return None if isinstance(value, bool) else f"must be true or false{got}"
    if option.kind == "text":
        return _text_problem(option, value, got)
    number = _number(value)
    if number is None or (option.kind == "integer" and number != int(number)):
        return f"must be a {'whole ' if option.kind == 'integer' else ''}number{got}"
    if option.least is not None and number < option.least:
        return f"must be at least {option.least:g}{got}"
    return f"must be at most {option.most:g}{got}" if option.most is not None and number > option.most else None


def _text_problem(option: Option, value: Any, got: str) -> str | None:
    if not isinstance(value, str):
        return f"must be text{got}; put it in quotes"
    if option.choices and value not in option.choices:
        return f"must be {' or '.join(option.choices)}{got}{_meant(value, option.choices)}"
    if option.pattern and re.fullmatch(option.pattern, value) is None:
        return f"must be {option.form}{got}"
    return None


# ------------------------------------------------------------------------------------------- what is meant


def checks_record(value: Any) -> tuple[Check, ...]:
    """The records of a valid `check`, one object for all items that say the same. What it names is added to the
    default."""
    if value is None:
        return DEFAULT_CHECKS
    if _is_off(value):
        return ()
    checks = {check.name: check for check in DEFAULT_CHECKS}
    for name, asked in value.items():
        if asked is None:
            continue
        check = None if _is_off(asked) else _check(check_type(name), asked)
        checks.pop(name, None)
        if check is not None:
            checks[name] = check
    return _intern(tuple(checks.values()))


def _check(kind: CheckType, asked: Any) -> Check | None:
    """The record of a check; None if a text that it needs is empty, as a cell of a table may be: then it is not run."""
    given = {name: value for name, value in (_given_options(kind, asked) or {}).items() if value not in (None, "")}
    rejects = given.pop(ON_FAIL, "warn") == "reject"
    if kind.needed and all(given.get(name) is None or given[name] is False for name in kind.needed):
        return None
    options = ((name, _typed(kind.options[name], value)) for name, value in given.items())
    return Check(name=kind.name, rejects=rejects, options=tuple(sorted(options)))


def judge_record(value: Any, provider: str, model: str) -> Judge:
    """The record of a valid `judge`, with this model."""
    given = {name: _typed(JUDGE[name], each) for name, each in value.items() if each is not None}
    asked = {name: given[name] for name in ("rubric", "least", "of", "feedback") if name in given}
    return _intern(Judge(model=model, provider=provider, **asked))


def on_reject_record(value: Any, judge: Any) -> OnReject:
    """The record of a valid `on_reject`, and of a valid `judge`, which may say `again`."""
    again = 0 if judge is None or _is_off(judge) else judge.get("again")
    given = {} if value is None else {"then": value} if isinstance(value, str) else dict(value)
    if given.get("again") is None:
        given["again"] = again or 0
    return _intern(
        OnReject(**{name: _typed(ON_REJECT[name], each) for name, each in given.items() if each is not None})
    )


def merge_checks(head: Any, own: Any) -> Any:
    """The checks of an item besides those of the head: by name, its own first."""
    return {**head, **own} if isinstance(head, Mapping) and isinstance(own, Mapping) else own


def review_fields(item: Item) -> dict[str, Any]:
    """The fields in a manifest from which the records above are made. Empty if an item has the default."""
    found: dict[str, Any] = {}
    if item.checks != DEFAULT_CHECKS:
        asked = {
            check.name: {**dict(check.options), ON_FAIL: "reject" if check.rejects else "warn"} for check in item.checks
        }
        missing = {check.name: "off" for check in DEFAULT_CHECKS if check.name not in asked}
        found["check"] = {**missing, **asked} if asked else "off"
    if item.judge is not None:
        names = ("model", "rubric", "least", "of", "feedback")
        found["judge"] = {name: getattr(item.judge, name) for name in names}
    if item.on_reject != OnReject():
        found["on_reject"] = {"again": item.on_reject.again, "then": item.on_reject.then}
    return found


def _given_options(kind: CheckType, asked: Any) -> dict[str, Any] | None:
    """Options by name, including the short forms; None if it is none of these."""
    if isinstance(asked, Mapping):
        return dict(asked)
    if asked in RULINGS:
        return {ON_FAIL: asked}
    if kind.main and asked is not None and not isinstance(asked, bool | list):
        return {kind.main: asked}
    return None


def _typed(option: Option, value: Any) -> Any:
    if option.kind in ("number", "integer"):
        number = _number(value)
        return int(number) if option.kind == "integer" and number is not None else number
    return value


def _number(value: Any) -> float | None:
    """A number, also from a text, which a template gives."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e9 else None


def _is_off(value: Any) -> bool:
    return value is False or value == "off"


def _meant(value: Any, known: tuple[str, ...]) -> str:
    return did_you_mean(value, known) if isinstance(value, str) else ""


def _list(names: Any) -> str:
    return ", ".join(sorted(names))


def _intern(record: T) -> T:
    """The first of all equal records."""
    found: T = _interned.setdefault(record, record)
    return found


_interned: dict[Any, Any] = {}


# ------------------------------------------------------------------------------------------- the manifest's schema


def _section(problems_of: Callable[[Any], Problems], schema: Mapping[str, Any]) -> Any:
    def validate(value: Any) -> Any:
        if found := list(problems_of(value)):
            raise PydanticCustomError("problems", "problems", {"problems": found})
        return value

    return Annotated[Any, PlainValidator(validate), WithJsonSchema(dict(schema))]


def _option_schema(option: Option) -> dict[str, Any]:
    types = {"number": "number", "integer": "integer", "text": "string", "switch": "boolean"}
    limits: dict[str, Any] = {"minimum": option.least, "maximum": option.most, "default": option.default}
    limits |= {"enum": list(option.choices) or None, "pattern": f"^(?:{option.pattern})$" if option.pattern else None}
    schema: dict[str, Any] = {
        "type": types[option.kind],
        **{name: limit for name, limit in limits.items() if limit is not None},
    }
    if option.kind != "text" or option.choices or option.pattern:
        schema = {"anyOf": [schema, {"type": "string", "pattern": r"\{[{%]"}]}
    return {**schema, "description": option.description}


def _object_schema(options: Mapping[str, Option], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    properties = {name: _option_schema(option) for name, option in options.items()}
    required = {"required": list(needed)} if needed else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **required}


def check_schema(names: list[str]) -> dict[str, Any]:
    """The JSON Schema of `check`, with these checks."""
    properties = {}
    for kind in map(check_type, names):
        on_fail = Option(
            kind="text", description="What follows when it finds something.", choices=RULINGS, default="warn"
        )
        forms: list[dict[str, Any]] = [{"enum": ["off", False, *RULINGS]}]
        if kind.main:
            forms.append(_option_schema(kind.options[kind.main]))
        forms.append(_object_schema({**kind.options, ON_FAIL: on_fail}))
        properties[kind.name] = {"anyOf": forms, "description": kind.description}
    listed = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"anyOf": [{"enum": ["off", False]}, listed]}


CheckValue = _section(check_problems, {"type": "object"})  # `json_schema` replaces it by `check_schema`
JudgeValue = _section(judge_problems, {"anyOf": [{"enum": ["off", False]}, _object_schema(JUDGE, ("model", "rubric"))]})
OnRejectValue = _section(on_reject_problems, {"anyOf": [{"enum": ["keep", "hold"]}, _object_schema(ON_REJECT)]})
