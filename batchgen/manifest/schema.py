"""What a manifest may contain, field by field, and what is said about anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, ValidationError

from batchgen.item import AGE_PATTERN
from batchgen.manifest.addresses import heartbeat_problem, manifest_problem, parameters_problem
from batchgen.manifest.diagnostics import FieldPath, did_you_mean, safe_repr
from batchgen.manifest.fields import ItemFields
from batchgen.manifest.post_section import UNION_TAGS, PostValue, fields_at
from batchgen.manifest.review_section import (
    REVIEW_FIELDS,
    CheckValue,
    JudgeValue,
    OnRejectValue,
    check_schema,
    merge_checks,
)
from batchgen.manifest.schedule_section import Schedule, accept_bare_time
from batchgen.manifest.strict import Strict, Text, field_error
from batchgen.profiles.catalogue import UsageTier, load_usage_tiers
from batchgen.providers.registry import key_variables
from batchgen.review.checks import check_names
from batchgen.scheduling.window import Budget

_AGE_S = {"h": 3600.0, "d": 86400.0, "w": 604800.0}
SECRET_NAMES = frozenset(("api_key", "apikey", "key", "token", "secret", "authorization", "password"))
Variables = dict[str, Any]


class Limits(Strict):
    """What a run of this manifest may use."""

    concurrency: int = Field(5, ge=1, le=1000, description="How many requests are in flight at once.")
    budget_usd: float | None = Field(
        None, gt=0, description="Stop before one run spends more than this, in US dollars."
    )
    budget_usd_per_day: float | None = Field(
        None, gt=0, description="The same for all jobs of the user in one day together."
    )
    budget_usd_per_month: float | None = Field(
        None, gt=0, description="The same for all jobs of the user in one calendar month together."
    )
    usd_per_10_min: float | None = Field(
        None, gt=0, description="Wait rather than spend more than this in any ten minutes on one API key."
    )
    tier: Literal[1, 2, 3] | None = Field(
        None,
        description="Usage tier that the vendor has put your project into: its spend limits, where none are given here.",
    )
    max_items: int | None = Field(
        None, ge=1, description="Refuse to expand to more items. Without it 10,000 for YAML, no limit for JSONL lines."
    )
    attempts: int = Field(5, ge=1, le=20, description="How often one image is tried after faults of the server.")
    no_image_attempts: int = Field(
        2, ge=0, le=10, description="How often it is asked for again after an answer without one, which may cost."
    )

    @property
    def has_budget(self) -> bool:
        return any(usd is not None for usd in (self.budget_usd, self.budget_usd_per_day, self.budget_usd_per_month))

    def spend_rate(self, provider: str) -> float | None:
        """USD in any ten minutes on one key of this provider: as given, else the tier's."""
        tier = self._tier_of(provider)
        return self.usd_per_10_min if self.usd_per_10_min is not None or tier is None else tier.usd_per_10_min

    def shared_budgets(self, provider: str, account: str) -> tuple[Budget, ...]:
        """The budgets that bind a lane together with all jobs of the user: the day's and the month's, else the tier's
        month for the account alone."""
        tier = self._tier_of(provider)
        budgets = [Budget("day", self.budget_usd_per_day)] if self.budget_usd_per_day is not None else []
        if self.budget_usd_per_month is not None:
            budgets.append(Budget("month", self.budget_usd_per_month))
        elif tier is not None:
            budgets.append(Budget("month", tier.usd_per_month, account))
        return tuple(budgets)

    def counts_all_jobs(self, provider: str) -> bool:
        """Whether money spent by other jobs counts for a lane of this provider."""
        return bool(self.shared_budgets(provider, "")) or self.spend_rate(provider) is not None

    def _tier_of(self, provider: str) -> UsageTier | None:
        tier = None if self.tier is None else load_usage_tiers()[self.tier]
        return tier if tier is not None and provider in tier.providers else None


def _switch(value: Any) -> Any:
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


Templates = Annotated[Literal["on", "off"] | None, BeforeValidator(_switch)]
TEMPLATES = Field(
    None, description="off takes text as it is written, braces included; default on.", examples=["on", "off"]
)


class Expansions(Strict):
    """How one entry becomes many, and how its texts are read."""

    templates: Templates = TEMPLATES
    matrix: dict[str, list[Any]] | None = Field(None, description="Every combination of these values, as variables.")
    zip: dict[str, list[Any]] | None = Field(None, description="Equally long lists, taken side by side.")
    include: list[Variables] | None = Field(None, description="Adds variables to combinations, or combinations.")
    exclude: list[Variables] | None = Field(None, description="Drops the combinations that have all these values.")
    from_: Text | None = Field(
        None,
        alias="from",
        description="A .csv, .tsv or .jsonl file beside the manifest; each row is a set of variables.",
    )


class Entry(Expansions, ItemFields):
    """One entry of `items`: a picture, or many by expansion."""

    id: Text | None = Field(None, description="Names the image for ever; default: words of the prompt and a hash.")


def _address_validator(*problems_of: Callable[[str], str | None]) -> Callable[[Any], Any]:
    """A validator that refuses an address, or any address in a list, in which one of these finds a problem."""

    def check(value: Any) -> Any:
        for address in value if isinstance(value, list) else [value]:
            for problem_of in problems_of if isinstance(address, str) else ():
                if problem := problem_of(address):
                    raise field_error(problem)
        return value

    return check


class Notify(Strict):
    """Who gets a message when a run has ended. Addresses are secrets: ${NOTIFY_…} takes one from the environment, or from a file."""

    to: Annotated[
        list[Text] | Text | None, BeforeValidator(_address_validator(parameters_problem, manifest_problem))
    ] = Field(
        None,
        description="Addresses as apprise knows them, without `?…`; best ${NOTIFY_…}, set to a whole one.",
        examples=["${NOTIFY_MAIL_URL}"],
    )
    on: list[Literal["success", "failure", "partial", "budget", "deadline", "parked", "shutdown"]] | None = Field(
        None,
        description="Which endings send a message; default all but success and deadline. shutdown: a model's end is 60, 30, 7 days away.",
    )
    heartbeat: Annotated[Text | None, BeforeValidator(_address_validator(manifest_problem, heartbeat_problem))] = Field(
        None, description="An https address to call after each run that took place, for a dead man's switch."
    )

    @property
    def addresses(self) -> list[str]:
        to = [self.to] if isinstance(self.to, str) else self.to or []
        return [*to, self.heartbeat] if self.heartbeat else to


class Header(Strict):
    """Everything but the items; in JSONL the first line, when it has `version` or `defaults`."""

    version: Literal[1] = Field(1, description="Version of this format.")
    name: Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$", max_length=100)] | None = Field(
        None, description="Name of the job; default: the manifest's name without extension."
    )
    output: Text | None = Field(
        None,
        description="Folder for the images, or a bucket: s3://, gs:// or az://; default: NAME beside the manifest.",
        examples=["./catalog", "s3://my-bucket/catalog"],
    )
    defaults: ItemFields | None = Field(None, description="Defaults for every item that does not say otherwise.")
    vars: Variables | None = Field(None, description="Variables for all templates.")
    templates: Templates = TEMPLATES
    models: dict[str, dict[str, Any]] | None = Field(None, description="Facts of AI models, changed or added.")
    reference_folders: list[Text] | None = Field(
        None,
        max_length=20,
        description="Folders elsewhere to find references in; your own settings must allow them.",
        examples=[["/photos/2026"]],
    )
    notify: Notify | None = Field(None, description="Who gets a message when a run has ended.")
    schedule: Annotated[Schedule | None, BeforeValidator(accept_bare_time)] = Field(
        None, description="When the daemon runs it: a time of day, or more.", examples=["01:30"]
    )
    post: PostValue | None = Field(
        None, description="What is made of every image, unless defaults or its item say otherwise."
    )
    check: CheckValue | None = Field(
        None, description="What to look for in every image; defaults and items add to it, by name."
    )
    judge: JudgeValue | None = Field(
        None, description="Who judges every image, unless defaults or its item say otherwise."
    )
    on_reject: OnRejectValue | None = Field(
        None, description="What becomes of every rejected image, unless defaults or its item say otherwise."
    )
    limits: Limits = Field(default_factory=lambda: Limits.model_validate({}), description="What a run may use.")

    def for_all_items(self) -> dict[str, Any]:
        """By name, what an item has if it does not say otherwise."""
        defaults = self.defaults.model_dump(exclude_none=True) if self.defaults else {}
        at_head = self.model_dump(exclude_none=True, include={"post", *REVIEW_FIELDS})
        if "check" in at_head:
            defaults["check"] = merge_checks(at_head["check"], defaults.get("check", {}))
        return {**at_head, **defaults}


class ManifestFile(Header):
    """A batchgen manifest."""

    items: list[Entry] = Field(min_length=1, description="What should exist.")


def _field_names(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in model.model_fields.items())


FIELD_NAMES = _field_names(ItemFields)
EXPANSION_NAMES = frozenset(_field_names(Expansions))
ENTRY_NAMES = frozenset(("id", *FIELD_NAMES, *EXPANSION_NAMES))
HEADER_NAMES = frozenset(_field_names(Header))
_FIELDS_AT: Mapping[FieldPath, frozenset[str]] = {
    (): HEADER_NAMES | {"items"},
    ("limits",): frozenset(Limits.model_fields),
    ("notify",): frozenset(Notify.model_fields),
    ("schedule",): frozenset(Schedule.model_fields),
    ("defaults",): frozenset(FIELD_NAMES),
}


def age_s(text: str) -> float:
    return int(text[:-1]) * _AGE_S[text[-1]]


def no_secrets() -> str:
    return f"a key never stands in a manifest: put it into {key_variables()} in the environment"


def unknown_field(name: str, known: frozenset[str]) -> str:
    if name.lower().replace("-", "_") in SECRET_NAMES:
        return no_secrets()
    if " " in name.strip():
        return "unknown field; if it is part of a text, put the whole text in quotes"
    suggestion = did_you_mean(name, known)
    return f"unknown field{suggestion}" if suggestion else f"unknown field; there are {', '.join(sorted(known))}"


def validation_problems(error: ValidationError) -> Iterator[tuple[FieldPath, str]]:
    """Each problem of a validation in batchgen's words, with the path to it."""
    for detail in error.errors(include_url=False):
        path: FieldPath = tuple(detail["loc"])
        if "post" in path[:2]:
            path, known = _strip_union_tags(path)
        else:
            known = _FIELDS_AT.get(path[:-1], frozenset())
        if detail["type"] == "problems":
            yield from (((*path, *inside), words) for inside, words in detail["ctx"]["problems"])
        elif detail["type"] == "extra_forbidden":
            yield path, unknown_field(str(path[-1]), known)
        else:
            yield path, _message(detail["type"], detail.get("ctx", {}), detail["input"])


def _strip_union_tags(path: FieldPath) -> tuple[FieldPath, frozenset[str]]:
    """The path as it is in the manifest, and the fields at it."""
    inside = path.index("post") + 1
    path = (*path[:inside], *(step for step in path[inside:] if step not in UNION_TAGS))
    return path, fields_at(path[inside:])


def _message(kind: str, context: Mapping[str, Any], value: Any) -> str:
    got = f", not {safe_repr(value)}"
    match kind:
        case "string_type":
            hint = "; put it in quotes" if isinstance(value, (int, float)) else ""
            return f"must be text{got}{hint}"
        case "string_too_short" | "too_short":
            return "is empty"
        case "string_pattern_mismatch" if context["pattern"] == AGE_PATTERN:
            return f"must be a number of hours, days or weeks such as 36h, 7d or 4w{got}"
        case "string_pattern_mismatch" if ":" in context["pattern"]:
            return f"must look like 16:9{got}"
        case "string_pattern_mismatch" | "string_too_long":
            return f"is not a usable name: letters, digits, '_', '-' and '.', at most 100, beginning with a letter or digit{got}"
        case "int_type" | "int_from_float" | "int_parsing":
            return f"must be a whole number{got}"
        case "bool_type":
            meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(str(value).lower())
            return f"must be true or false{got}" + (f"; write {meant}" if meant else "")
        case "float_type" | "finite_number":
            return f"must be a number{got}"
        case "list_type":
            return f"must be a list{got}" + (f"; write [{safe_repr(value)}]" if isinstance(value, str) else "")
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"must be a mapping{got}"
        case "literal_error":
            suggestion = did_you_mean(value, get_args(Literal[*_choices(context)])) if isinstance(value, str) else ""
            return f"must be {context['expected']}{got}{suggestion}"
        case "told":
            return str(context["words"])
        case "missing":
            return "is missing"
        case "too_long":
            return f"has {context['actual_length']} elements, at most {context['max_length']}"
    for name, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if name in context:
            return f"must be {words} {context[name]:g}{got}"
    return f"is not right: {kind.replace('_', ' ')}"


def _choices(context: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(part.strip("' ") for part in context["expected"].replace(" or ", ",").split(","))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a YAML manifest, for editors. A number may also be a template that gives one."""
    schema = ManifestFile.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["schedule"]["anyOf"].append({"type": "string"})
    checks = check_schema(check_names())
    schema["properties"]["check"]["anyOf"][:1] = checks["anyOf"]
    for model in ("Entry", "ItemFields"):
        fields = schema["$defs"][model]["properties"]
        fields["check"]["anyOf"][:1] = checks["anyOf"]
        for name, field in fields.items():
            if name not in ("post", *REVIEW_FIELDS):
                _allow_template(field, name)
    return schema


def _allow_template(field: dict[str, Any], name: str) -> None:
    choices = field.get("anyOf", [])
    if name == "image_size":
        choices.append({"type": "integer"})
    if choices and not any(choice == {"minLength": 1, "type": "string"} for choice in choices):
        choices.append({"type": "string", "pattern": r"\{[{%]"})
