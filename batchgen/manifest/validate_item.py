"""One item on its way through the checks: templates, schema, names, capabilities and references, in that order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from batchgen.manifest import capability, names, schema
from batchgen.manifest.diagnostics import Complaints, looks_like_key, named, shown, texts, unsendable
from batchgen.manifest.expand import ExpandError, fill, templated
from batchgen.manifest.post_section import post_record
from batchgen.manifest.sources import FieldPath, Place
from batchgen.manifest.storage_url import in_bucket
from batchgen.profiles.catalogue import Catalogue, stranger
from batchgen.profiles.fields import name_problem
from batchgen.profiles.profile import Profile
from batchgen.records import Item, item_ref_key
from batchgen.references.local import BadReferenceError, Picture, References, link_problem
from batchgen.scheduling.fallback import DEFAULT_CAUSES

DEFAULT_MODEL = "flash"
_SENT_AS_TEXT = ("prompt", "system", "negative_prompt", "no_image_suffix")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")
Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What holds for all entries of one manifest. max_items bounds one entry's expansion."""

    file: str
    defaults: Mapping[str, Any]
    variables: Mapping[str, Any]
    catalogue: Catalogue
    references: References
    allow_retired: Callable[[Profile], bool]
    profile: Callable[[str], Profile]  # of a model's name; warns once of one that is unknown or deprecated
    warn: Callable[[str], None]
    max_items: int | None


@dataclass(slots=True)
class Telling:
    """Complaints about one entry: each thing once, however many of its items it is true of."""

    complaints: Complaints
    locate: Callable[[FieldPath], Place]
    told: set[tuple[FieldPath, str]] = field(default_factory=set)

    def __call__(self, path: FieldPath, message: str) -> None:
        if (path, message) not in self.told:
            self.told.add((path, message))
            name = "".join(f"[{step}]" if isinstance(step, int) else f".{named(step)}" for step in path)
            self.complaints.add(self.locate(path), name.removeprefix("."), message)


class OneItem:
    """One item on its way through the checks."""

    def __init__(self, setting: Setting, entry: Values, values: Values, tell: Telling, row: str) -> None:
        self._set = setting
        self._entry = entry
        self._variables: Values = {**self._set.variables, **values}
        self._tell = tell
        self._row = row
        self._wrong = False
        self._turns: list[str] = []

    def items(self, origin: str) -> list[Item]:
        """The item, or one for each turn of a conversation; none when something is wrong."""
        base = self._item(origin)
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

    def _item(self, origin: str) -> Item | None:
        fields = self._fill()
        item_id = fields.pop("id", None)
        self._check_texts(fields)
        checked = self._validated(fields)
        self._turns = checked.turns or []
        filename = self._check_names(item_id, checked.filename) if item_id is not None else ""
        if self._wrong and checked.model is None and "model" in {**self._set.defaults, **self._entry}:
            return None  # which model was meant is not known, so nothing can be said about what it can do
        profile = self._profile(checked.model or DEFAULT_MODEL)
        self._check_capabilities(profile, {**fields, "image_size": checked.image_size})
        pictures = self._find_references(profile, checked.references or [])
        fallback = self._fallbacks(profile, checked, fields, pictures)
        if self._wrong:
            return None
        return Item(
            id=names.composed(item_id),
            prompt=checked.prompt or "",
            model=profile.id,
            provider=profile.provider,
            filename=filename,
            count=checked.count or 1,
            system=checked.system,
            aspect_ratio=checked.aspect_ratio,
            image_size=checked.image_size,
            references=tuple(pictures),
            modalities=tuple(checked.modalities or ()),
            search=checked.search,
            thinking=checked.thinking,
            keep_thoughts=checked.keep_thoughts or False,
            media_resolution=checked.media_resolution,
            service_tier=checked.service_tier,
            no_image_suffix=checked.no_image_suffix,
            seed=checked.seed,
            temperature=checked.temperature,
            safety=checked.safety or {},
            person_generation=checked.person_generation,
            negative_prompt=checked.negative_prompt,
            tags=tuple(checked.tags or ()),
            priority=checked.priority or 0,
            fallback=fallback,
            fallback_on=tuple(checked.fallback_on or DEFAULT_CAUSES) if fallback else (),
            max_age_s=schema.age_s(checked.max_age) if checked.max_age else None,
            on_mismatch=checked.on_mismatch or "warn",
            extra=checked.extra or {},
            post=post_record(checked.post),
            origin=origin,
        )

    def _say(self, path: FieldPath, message: str) -> None:
        """Names the row too when the field's value came out of it."""
        self._wrong = True
        value = self._entry.get(str(path[0]), self._set.defaults.get(str(path[0])))
        self._tell(path, f"{message} (row {self._row})" if self._row and templated(value) else message)

    def _fill(self) -> Values:
        """All fields with their templates rendered, `id` first, so that the others may use it."""
        merged = {**self._set.defaults, **self._entry}
        fields: Values = {}
        if merged.get("id") is not None:
            fields["id"] = self._value("id", merged)
            self._variables["id"] = fields["id"]
        if merged.get("turns") is not None and ("turns" in self._entry or "prompt" not in self._entry):
            if "prompt" in self._entry:
                self._say(("turns",), "stands beside a prompt: an item has the one or the other")
            merged["prompt"] = None
            turns = self._value("turns", merged)
            if "id" not in fields and isinstance(turns, list) and turns and isinstance(turns[0], str):
                fields["id"] = self._variables["id"] = names.default_id(turns[0])
        else:
            merged.pop("turns", None)
            self._fill_prompt(fields, merged)
        for name in merged:
            if name not in ("id", "prompt") and (value := self._value(name, merged)) is not None:
                fields[name] = value
        return fields

    def _fill_prompt(self, fields: Values, merged: Values) -> None:
        prompt = self._value("prompt", merged)
        if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
            if prompt is not None or merged.get("prompt") is None:  # else its template was complained about
                self._say(("prompt",), "missing" if prompt is None else "is empty")
        else:
            fields["prompt"] = prompt
        if "id" not in fields and "prompt" in fields and isinstance(prompt, str):
            fields["id"] = self._variables["id"] = names.default_id(prompt)

    def _value(self, name: str, merged: Mapping[str, Any]) -> Any:
        """A template that gives nothing, as an empty cell does, leaves the default."""
        try:
            value = fill(name, merged.get(name), self._variables)
            if value == "" and name not in ("id", "prompt") and templated(merged[name]):
                default = self._set.defaults.get(name) if name in self._entry else None
                return fill(name, default, self._variables) or None
        except ExpandError as problem:
            self._wrong = True
            self._tell((name,), problem.message)
            return None
        return value

    def _validated(self, fields: Values) -> schema.ItemFields:
        """Takes out of `fields` what is wrong, so that the rest is checked all the same."""
        while True:
            try:
                return schema.ItemFields.model_validate(fields)
            except ValidationError as error:
                for path, message in schema.problems(error):
                    self._say(path, message)
                    fields.pop(str(path[0]), None)

    def _check_texts(self, fields: Values) -> None:
        for name, value in list(fields.items()):
            if isinstance(value, (str, list, dict)):
                for path, text in texts(value, (name,)):
                    if why := unsendable(text):
                        self._say(path, why)
                        fields.pop(name, None)
                    elif looks_like_key(text):
                        self._key_found(path)

    def _key_found(self, path: FieldPath) -> None:
        if path[0] in _SENT_AS_TEXT:
            place = self._row or f"{self._set.file}:{self._tell.locate(path)[0]}"
            self._set.warn(f"{place}: {path[0]}: holds what looks like an API key, and would be sent as text")
        elif path[0] == "extra":
            self._say(path[:1], f"holds what looks like an API key; {schema.NO_SECRETS}")

    def _check_names(self, item_id: Any, filename: str | None) -> str:
        if not isinstance(item_id, str):
            self._say(("id",), f"must be text, not {shown(item_id)}; put it in quotes")
            return ""
        item_id = names.composed(item_id)
        if why := names.id_problem(item_id):
            self._say(("id",), f"{shown(item_id)} {why}")
            return ""
        stem = names.composed(filename if filename is not None else item_id)
        if self._turns and len(item_id) > 96:
            self._say(("id",), "has over 96 characters, too many for a conversation, whose turns add theirs")
        if why := names.stem_problem(f"{stem}-t{len(self._turns)}" if self._turns else stem):
            self._say(("filename",) if filename is not None else ("id",), f"{shown(stem)} as a file name {why}")
        elif stem.lower().endswith(_PICTURE_SUFFIXES) and filename is not None:
            self._say(("filename",), "comes without an extension: what the picture is decides it")
        return stem

    def _profile(self, name: str, path: FieldPath = ("model",)) -> Profile:
        if problem := name_problem(name):
            self._say(path, f"{shown(name)}: a model's name {problem}")
            return stranger(name, "")
        profile = self._set.profile(name)
        if profile.status == "retired" and not self._set.allow_retired(profile):
            when = f" on {profile.shutdown}" if profile.shutdown else ""
            instead = f"use {profile.replacement}, or " if profile.replacement else ""
            override = f"`models: {{{profile.id}: {{status: live}}}}` at the head"
            self._say(path, f"{profile.id} was shut down{when}; {instead}if it still works for you, add {override}")
        return profile

    def _check_capabilities(self, profile: Profile, fields: Values) -> None:
        asked = {name: value for name, value in fields.items() if value is not None and value not in ([], {})}
        for name, message in capability.check(profile, asked, self._set.catalogue):
            self._say((name,), message)

    def _fallbacks(
        self, profile: Profile, checked: schema.ItemFields, fields: Values, pictures: Mapping[str, Picture]
    ) -> tuple[str, ...]:
        """Lanes of the models to go on with; each must be able to do what is asked."""
        lanes: dict[str, None] = {}
        if checked.fallback and self._turns:
            self._say(("fallback",), "a conversation stays with its model, whose signatures it sends back")
        asked = {name: value for name, value in fields.items() if value is not None and value not in ([], {})}
        for index, name in enumerate(checked.fallback or ()):
            other, path = self._profile(name, ("fallback", index)), ("fallback", index)
            if other.id == profile.id:
                self._say(path, f"{other.id} is the model itself")
            for field_name, message in capability.check(other, asked, ()):
                self._say(path, f"{field_name}: {message}")
            for _, message in capability.check_references(other, list(pictures.values())) if pictures else ():
                self._say(path, message)
            lanes[f"{other.provider}/{other.id}"] = None
        return tuple(lanes)

    def _other_item(self, path: FieldPath, name: str) -> Picture | None:
        """The picture of another item, of which nothing is known yet; whether there is such an item is seen at the end."""
        item_id, mark, n = name[1:].partition("#")
        if why := names.id_problem(item_id):
            self._say(path, f"{shown(item_id)} {why}; write @id, or @id#2 for its second sample")
        elif mark and not (n.isascii() and n.isdigit() and 0 < int(n[:9]) <= schema.COUNT_MAX):
            self._say(path, f"{shown(name)}: what follows '#' is the number of a sample, from 1")
        else:
            return Picture("@" + item_ref_key(name), "image/png", 0)
        return None

    def _find_references(self, profile: Profile, wanted: list[str]) -> dict[str, Picture]:
        """By real path, so that the same picture is sent once."""
        pictures: dict[str, Picture] = {}
        for index, name in enumerate(wanted):
            path: FieldPath = ("references", index)
            if name.startswith("@"):
                if (picture := self._other_item(path, name)) is not None:
                    pictures[picture.path] = picture
            elif "://" in name[:12] and not in_bucket(name):
                if (problem := link_problem(name)) is None:
                    pictures[name] = Picture(name, "image/png", 0)  # of which nothing is known yet
                else:
                    self._say(path, f"{shown(name)}: {problem}")
            else:
                try:
                    pictures.update((picture.path, picture) for picture in self._set.references.find(name))
                except BadReferenceError as bad:
                    self._say(path, str(bad))
        for name, message in capability.check_references(profile, list(pictures.values())) if pictures else ():
            self._say((name,), message)
        return pictures
