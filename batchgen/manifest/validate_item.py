"""Takes one item through the checks: templates, schema, names, capabilities and references, in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from batchgen.item import Item, Judge
from batchgen.manifest import capability, names, schema
from batchgen.manifest.diagnostics import (
    Diagnostics,
    FieldPath,
    Position,
    iter_strings,
    looks_like_key,
    path_text,
    safe_repr,
    text_problem,
    without_values,
)
from batchgen.manifest.expand import ExpandError, Values, dropped_comment, has_template, render_field
from batchgen.manifest.fields import ItemFields, item_values
from batchgen.manifest.item_references import find_references
from batchgen.manifest.models import Models, UnusableModelError
from batchgen.manifest.names import DefaultIds
from batchgen.manifest.post_section import cutout_pair, cutout_pair_problems, is_cutout_pair
from batchgen.manifest.review_section import judge_record, merge_checks
from batchgen.profiles.profile import Profile
from batchgen.references.local import ReferencePicture, References
from batchgen.scheduling.fallback import DEFAULT_FALLBACK_CAUSES

_PROMPT_FIELDS = ("prompt", "system", "negative_prompt", "no_image_suffix")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryContext:
    """What is the same for all entries of one manifest. max_items limits one entry's expansion."""

    place: Callable[[int], str]  # puts a line in a message's words
    defaults: Mapping[str, Any]
    variables: Mapping[str, Any]
    models: Models
    references: References
    warn: Callable[[str], None]
    max_items: int | None
    templates: str  # on or off, if an entry does not say
    locate_default: Callable[
        [FieldPath], tuple[Position, FieldPath]
    ]  # for a field of `defaults`: place and path in the head


@dataclass(slots=True)
class EntryDiagnostics:
    """What is wrong with one entry: each problem once, however many of its items have it."""

    diagnostics: Diagnostics
    locate: Callable[[FieldPath], Position]
    locate_default: Callable[[FieldPath], tuple[Position, FieldPath]]
    reported: bool = False

    def __call__(
        self, path: FieldPath, message: str, *, item: str = "", kind: str = "", is_default: bool = False
    ) -> None:
        """Report a problem. is_default: it is in the head. For the others see `Diagnostics.add`."""
        self.reported = True
        position, path = self.locate_default(path) if is_default else (self.locate(path), path)
        self.diagnostics.add(position, path_text(path), message, item=item, kind=kind)


@dataclass(frozen=True, slots=True)
class ParsedEntry:
    """An entry without its expansions. literal: its braces are text. origin: `file:line`."""

    fields: Values
    literal: bool
    origin: str
    default_ids: DefaultIds
    report: EntryDiagnostics


class ItemValidator:
    """Validates one item. row: `file:line` of the row that it is made from, empty without one."""

    def __init__(self, context: EntryContext, entry: ParsedEntry, values: Values, row: str) -> None:
        self._context = context
        self._entry = entry.fields
        self._parsed = entry
        self._variables: Values = {**self._context.variables, **values}
        self._row = row
        self._reported: set[tuple[FieldPath, str]] = set()
        self._turns: list[str] = []

    @property
    def _failed(self) -> bool:
        return bool(self._reported)

    def items(self) -> list[Item]:
        """The item, the two for a cutout by difference, or one for each turn of a conversation; none if something is
        wrong."""
        base = self._build_item(self._row or self._parsed.origin)
        if base is not None and is_cutout_pair(base):
            return self._pair(base)
        if base is None or not self._turns:
            return [] if base is None else [base]
        return [
            replace(
                base,
                id=f"{base.id}-t{turn}",
                filename=f"{base.filename}-t{turn}",
                prompt=prompt,
                turn=turn,
                history=tuple(self._turns[: turn - 1]),
            )
            for turn, prompt in enumerate(self._turns, 1)
        ]

    def _pair(self, base: Item) -> list[Item]:
        white, black = cutout_pair(base)
        for name, message in cutout_pair_problems(base):
            self._report_field((name,), message)
        if self._turns:
            self._report_field(
                ("turns",), "make no pair of images: take `cutout: difference` out, or choose `cutout: key`"
            )
        self._check_names(white.id, white.filename)
        drawn = ReferencePicture(black.references[0], "image/png", 0)
        for lane in (base.model, *(lane.partition("/")[2] for lane in base.fallback)):
            profile = self._context.models.profile(lane)
            requested = {"prompt": white.prompt, "references": list(black.references)}
            for name, message in (
                *capability.check(profile, requested, self._context.models.catalogue),
                *self._reference_problems(profile, {drawn.path: drawn}, None),
            ):
                self._report_field(("post",), f"`cutout: difference` asks for an edit on black: {name}: {message}")
        return [] if self._failed else [white, black]

    def _build_item(self, origin: str) -> Item | None:
        fields = self._render_fields()
        item_id = fields.pop("id", None)
        self._check_texts(fields)
        checked = self._validate_fields(fields)
        self._turns = checked.turns or []
        filename = self._check_names(item_id, checked.filename) if item_id is not None else ""
        if self._failed and checked.model is None and "model" in {**self._context.defaults, **self._entry}:
            return None  # the intended model is unknown, so nothing can be said about its abilities
        profile = self._resolve_profile(checked.model)
        fields["image_size"] = checked.image_size  # a size may be written as a number, which models do not know it by
        requested = {name: value for name, value in fields.items() if value is not None and value not in ([], {})}
        if profile is not None:
            for name, message in capability.check(profile, requested, self._context.models.catalogue):
                self._report_field((name,), message)
        pictures = self._find_references(profile, checked.references or [], checked.mask)
        fallback = self._fallback_lanes(profile, checked, requested, pictures)
        judge = self._judge(checked)
        if self._failed or profile is None:
            return None
        resolved = {
            "prompt": checked.prompt or "",
            "model": profile.id,
            "filename": filename,
            "turn": 0,
            "references": tuple(pictures),
            "mask": checked.mask is not None,
            "fallback": fallback,
            "fallback_on": tuple(checked.fallback_on or DEFAULT_FALLBACK_CAUSES) if fallback else (),
            "max_age_s": schema.age_s(checked.max_age) if checked.max_age else None,
            "judge": judge,
        }
        asked = {**item_values(checked), **resolved}
        return Item(id=names.to_nfc(item_id), provider=profile.provider, origin=origin, **asked)

    def _report_field(self, path: FieldPath, message: str, *, in_row: bool = True) -> None:
        """Report a problem with a field, naming the row too if the value came from it. in_row: it may have."""
        if (path, message) in self._reported:
            return
        self._reported.add((path, message))
        name = str(path[0])
        is_default = name not in self._entry and name in self._context.defaults
        value = self._entry.get(name, self._context.defaults.get(name))
        of_row = in_row and bool(self._row) and has_template(value)
        line = f"line {self._parsed.origin.rpartition(':')[2]}"
        item = f"row {self._row}" if of_row or (is_default and self._row) else line if is_default else ""
        kind = without_values(message) if of_row and path[:-1] != ("references",) else ""
        self._parsed.report(path, message, item=item, kind=kind, is_default=is_default)

    def _render_fields(self) -> Values:
        """All fields with their templates rendered, `id` first, so that the others may use it."""
        merged = {**self._context.defaults, **self._entry}
        if self._entry.get("check") is not None:
            merged["check"] = merge_checks(self._context.defaults.get("check"), self._entry["check"])
        if not self._parsed.literal:
            self._warn_of_comments(merged)
        fields: Values = {}
        if merged.get("id") is not None:
            fields["id"] = self._render_value("id", merged)
            self._variables["id"] = fields["id"]
        if merged.get("turns") is not None and ("turns" in self._entry or "prompt" not in self._entry):
            if "prompt" in self._entry:
                self._report_field(("turns",), "is given beside a prompt: an item has one or the other")
            merged["prompt"] = None
            turns = self._render_value("turns", merged)
            if "id" not in fields and isinstance(turns, list) and turns and isinstance(turns[0], str):
                fields["id"] = self._variables["id"] = self._parsed.default_ids.of(turns[0])
        else:
            merged.pop("turns", None)
            self._render_prompt(fields, merged)
        for name in merged:
            if name not in ("id", "prompt") and (value := self._render_value(name, merged)) is not None:
                fields[name] = value
        return fields

    def _render_prompt(self, fields: Values, merged: Values) -> None:
        prompt = self._render_value("prompt", merged)
        if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
            if prompt is not None or merged.get("prompt") is None:  # otherwise its template was reported
                self._report_field(("prompt",), "missing" if prompt is None else "is empty")
        else:
            fields["prompt"] = prompt
        if "id" not in fields and "prompt" in fields and isinstance(prompt, str):
            fields["id"] = self._variables["id"] = self._parsed.default_ids.of(prompt)

    def _render_value(self, name: str, merged: Mapping[str, Any]) -> Any:
        """The rendered value of a field. A template that gives nothing, as with an empty cell, leaves the default."""
        if self._parsed.literal:
            return merged.get(name)
        try:
            value = render_field(name, merged.get(name), self._variables)
            if value == "" and name not in ("id", "prompt") and has_template(merged[name]):
                default = self._context.defaults.get(name) if name in self._entry else None
                return render_field(name, default, self._variables) or None
        except ExpandError as problem:
            self._report_field((name,), problem.message, in_row=problem.in_row)
            return None
        return value

    def _validate_fields(self, fields: Values) -> ItemFields:
        """Validate fields, removing those that are wrong, so that the rest can be checked anyway."""
        while True:
            try:
                return ItemFields.model_validate(fields)
            except ValidationError as error:
                for path, message in schema.validation_problems(error):
                    self._report_field(path, message)
                    fields.pop(str(path[0]), None)

    def _check_texts(self, fields: Values) -> None:
        for name, value in list(fields.items()):
            if isinstance(value, (str, list, dict)):
                for path, text in iter_strings(value, (name,)):
                    if why := text_problem(text):
                        self._report_field(path, why)
                        fields.pop(name, None)
                    elif looks_like_key(text):
                        self._report_key(path)

    def _warn_of_comments(self, merged: Values) -> None:
        """Warn about `{# … #}` in a prompt, which is not sent."""
        for name in (*_PROMPT_FIELDS, "turns"):
            for _, text in iter_strings(merged.get(name)):
                if (why := dropped_comment(text)) is not None:
                    line, column = self._parsed.report.locate((name,))
                    at = f"{self._context.place(line)}:{column}" if column else self._context.place(line)
                    self._context.warn(f"{at}: {name}: {why}")

    def _report_key(self, path: FieldPath) -> None:
        if path[0] in _PROMPT_FIELDS:
            position = self._row or self._context.place(self._parsed.report.locate(path)[0])
            self._context.warn(f"{position}: {path[0]}: holds what looks like an API key, and would be sent as text")
        elif path[0] == "extra":
            self._report_field(path[:1], f"holds what looks like an API key; {schema.no_secrets()}")

    def _check_names(self, item_id: Any, filename: str | None) -> str:
        if not isinstance(item_id, str):
            self._report_field(("id",), f"must be text, not {safe_repr(item_id)}; put it in quotes")
            return ""
        item_id = names.to_nfc(item_id)
        if why := names.id_problem(item_id):
            self._report_field(("id",), f"{safe_repr(item_id)} {why}")
            return ""
        stem = names.to_nfc(filename if filename is not None else item_id)
        if self._turns and len(item_id) > 96:
            self._report_field(("id",), "has over 96 characters, too many for a conversation, whose turns add theirs")
        if why := names.stem_problem(f"{stem}-t{len(self._turns)}" if self._turns else stem):
            self._report_field(
                ("filename",) if filename is not None else ("id",), f"{safe_repr(stem)} as a file name {why}"
            )
        elif stem.lower().endswith(_PICTURE_SUFFIXES) and filename is not None:
            self._report_field(("filename",), "comes without an extension: what the image is decides it")
        return stem

    def _resolve_profile(self, name: str | None, path: FieldPath = ("model",)) -> Profile | None:
        """The profile of a model, None if nothing is known about it."""
        try:
            return self._context.models.usable(name)
        except UnusableModelError as problem:
            self._report_field(path, str(problem))
            return problem.profile

    def _judge(self, checked: ItemFields) -> Judge | None:
        if checked.judge in (None, False, "off"):
            return None
        if isinstance(checked.on_reject, dict) and None not in (
            checked.on_reject.get("again"),
            checked.judge.get("again"),
        ):
            self._report_field(("judge", "again"), "is said in on_reject too: leave it out here")
        try:
            profile = self._context.models.judge(checked.judge["model"])
        except UnusableModelError as problem:
            self._report_field(("judge", "model"), str(problem))
            return None
        return judge_record(checked.judge, profile.provider, profile.id)

    def _fallback_lanes(
        self, profile: Profile | None, checked: ItemFields, requested: Values, pictures: Mapping[str, ReferencePicture]
    ) -> tuple[str, ...]:
        """The lanes of the fallbacks; each has to be able to do what is requested."""
        lanes: dict[str, None] = {}
        if checked.fallback and self._turns:
            self._report_field(("fallback",), "a conversation stays with its model, whose signatures it sends back")
        for index, name in enumerate(checked.fallback or ()):
            path: FieldPath = ("fallback", index)
            if (other := self._resolve_profile(name, path)) is None:
                continue
            if profile is not None and other.id == profile.id:
                self._report_field(path, f"{other.id} is the model itself")
            for field_name, message in capability.check(other, requested, ()):
                self._report_field(path, f"{field_name}: {message}")
            for _, message in self._reference_problems(other, pictures, checked.mask):
                self._report_field(path, message)
            lanes[f"{other.provider}/{other.id}"] = None
        return tuple(lanes)

    def _find_references(
        self, profile: Profile | None, wanted: list[str], mask: str | None
    ) -> dict[str, ReferencePicture]:
        """The references by real path, so that the same image is sent once; a mask comes last."""
        pictures: dict[str, ReferencePicture] = {}
        for index, found in find_references(self._context.references, wanted):
            if isinstance(found, str):
                self._report_field(("references", index), found)
            else:
                pictures.update((picture.path, picture) for picture in found)
        if mask is not None:
            pictures |= self._find_mask(mask, pictures)
        if profile is not None:
            for name, message in self._reference_problems(profile, pictures, mask):
                self._report_field((name,), message)
        return pictures

    def _find_mask(self, mask: str, pictures: Mapping[str, ReferencePicture]) -> dict[str, ReferencePicture]:
        ((_, found),) = find_references(self._context.references, [mask])
        if isinstance(found, str):
            wrong = found
        elif not pictures:
            wrong = "needs `references`: it says which part of the first of them to change"
        elif len(found) > 1:
            wrong = f"is one image, and {safe_repr(mask)} names {len(found)}"
        elif found[0].path in pictures:
            wrong = f"{safe_repr(mask)} is one of the references: a mask is an image of its own"
        else:
            return {found[0].path: found[0]}
        self._report_field(("mask",), wrong)
        return {}

    @staticmethod
    def _reference_problems(
        profile: Profile, pictures: Mapping[str, ReferencePicture], mask: str | None
    ) -> Iterable[capability.FieldProblem]:
        """What the model cannot do with the references. A mask that could not be found was reported, and none of these
        is its fault."""
        if not pictures:
            return ()
        return capability.check_references(profile, list(pictures.values()), mask=mask is not None)
