"""A manifest opened: its header at once, its items as a stream that may be read again and complains only at its end."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batchgen.manifest import schema
from batchgen.manifest.addresses import has_url_scheme, normalize_bucket_url, secrets_in
from batchgen.manifest.assemble import Assembler
from batchgen.manifest.dependency_graph import DependencyGraph
from batchgen.manifest.diagnostics import (
    API_KEY_PATTERN,
    Diagnostics,
    iter_strings,
    looks_like_key,
    safe_name,
    safe_repr,
    text_problem,
)
from batchgen.manifest.names import fold_case, sample_stem
from batchgen.manifest.post_section import post_record
from batchgen.manifest.schedule_section import Schedule
from batchgen.manifest.schema import Limits
from batchgen.manifest.sources import ManifestSource, RawEntry, open_source
from batchgen.manifest.validate_item import EntryContext
from batchgen.profiles.catalogue import Catalogue, load_catalogue
from batchgen.profiles.fields import FactError
from batchgen.profiles.profile import Profile
from batchgen.records import Item, Post
from batchgen.references.local import References, RemoteReferenceSource

_BUCKETS = 256
Warn = Callable[[str], None]


def no_retired_models(profile: Profile) -> bool:
    """No retired model may be used: the requests go to the vendor."""
    return False


def open_manifest(
    path: str | os.PathLike[str],
    *,
    allow_retired: Callable[[Profile], bool] = no_retired_models,
    variables: Mapping[str, Any] | None = None,
    remote_references: Callable[[Warn], RemoteReferenceSource] | None = None,
) -> Manifest:
    """Read the header. Raises ManifestError, with what is wrong in the items too when the header is wrong.

    allow_retired: whether a shut-down model may be used, because its requests do not go to the vendor.
    variables: take the place of the manifest's `vars` of the same name. remote_references: makes the one who looks for references in
    buckets, and is told how to warn; without, nothing is known of them.
    """
    manifest = Manifest(os.fspath(path), allow_retired, variables or {}, remote_references)
    if manifest.header_has_problems:
        for _ in manifest.items():
            pass
    return manifest


class Manifest:
    """What should exist. `warnings` fills while the items are read; it never holds the same twice."""

    def __init__(
        self,
        path: str,
        allow_retired: Callable[[Profile], bool],
        variables: Mapping[str, Any],
        remote_references: Callable[[Warn], RemoteReferenceSource] | None = None,
    ) -> None:
        self.path = Path(path)
        self.folder = Path(os.path.abspath(path)).parent
        self.warnings: list[str] = []
        self.catalogue: Catalogue = load_catalogue()
        self._source: ManifestSource = open_source(path)
        self._profiles: dict[str, Profile] = {}
        self._header_problems: list[tuple[tuple[int, int], str, str]] = []
        self._read_header()
        self.references = References(self.folder, remote_references=remote_references and remote_references(self._warn))
        limit = self.limits.max_items
        self._max_items = self._source.default_max_items if limit is None else limit
        self._context = EntryContext(
            file=path,
            defaults=self._defaults,
            variables={"run": _run_variables(), **self._variables, **variables},
            catalogue=self.catalogue,
            references=self.references,
            allow_retired=allow_retired,
            profile=self._resolve_profile,
            warn=self._warn,
            max_items=limit or 10_000,
        )

    name: str
    output: Path
    bucket: str = ""  # where the pictures go, when not into that folder
    limits: Limits
    models: Mapping[str, Any]  # what it says of AI models, on top of what is known of them
    notify: schema.Notify | None
    schedule: Schedule | None
    post: Post | None  # of items that do not say otherwise
    has_derivatives: bool = False  # whether anything is to be made of pictures; known once `items` has ended
    ids_others_need: frozenset[str] = frozenset()  # of items whose pictures others need; known once `items` has ended

    @property
    def header_has_problems(self) -> bool:
        return bool(self._header_problems)

    def items(self) -> Iterator[Item]:
        """Every good item, in the order of the file. Raises ManifestError at the end with all that is wrong.

        So the items are the manifest only when the iteration ended well. Memory does not grow with the number of items
        but for sixteen bytes each, which find ids and file names that come twice.
        """
        diagnostics = Diagnostics(str(self.path))
        for position, field, message in self._header_problems:
            diagnostics.add(position, field, message)
        ids, stems = DuplicateFinder(), DuplicateFinder()
        is_empty = True
        dependencies = DependencyGraph()
        for item, raw in self._read_items(diagnostics):
            is_empty = False
            if item.post is not None:
                self.has_derivatives = True
            if item.references or item.turn > 1:
                dependencies.add(item, raw)
            ids.add(item.id)
            stems.add(fold_case(item.filename))
            for n in range(2, item.count + 1):
                stems.add(fold_case(sample_stem(item.filename, n)))
            yield item
        if is_empty and not diagnostics.total:
            diagnostics.add((0, 0), "", "has no items")
        self._report_duplicates(ids.repeated_hashes(), stems.repeated_hashes(), diagnostics)
        if dependencies:
            dependencies.check(item for item, _ in self._read_items(Diagnostics(str(self.path))))
            for raw, message in dependencies.problems():
                diagnostics.add(self._source.position(raw, ("references",)), "references", message)
        self.ids_others_need = dependencies.ids()
        diagnostics.raise_if_any()

    def _read_items(self, diagnostics: Diagnostics) -> Iterator[tuple[Item, RawEntry]]:
        assembler = Assembler(self._context)
        item_from_pattern = assembler.item_from_pattern
        position = self._source.position
        remaining = self._max_items if self._max_items is not None else -1  # below zero: never runs out
        for raw in self._source.entries(diagnostics):
            item = item_from_pattern(raw)
            for each in (item,) if item is not None else assembler.items(raw, partial(position, raw), diagnostics):
                if not remaining:
                    message = f"makes more than {self._max_items:,} items; raise limits.max_items if that is meant"
                    diagnostics.add(position(raw, ()), "items", message)
                    return
                remaining -= 1
                yield each, raw

    def _report_duplicates(self, ids: frozenset[int], stems: frozenset[int], diagnostics: Diagnostics) -> None:
        """Read everything once more, but keep only what may have come twice."""
        if not ids and not stems:
            return
        first_ids: dict[str, str] = {}
        first_stems: dict[str, tuple[str, str]] = {}
        for item, raw in self._read_items(Diagnostics(str(self.path))):
            if hash(item.id) in ids:
                if item.id in first_ids:
                    message = f"{item.id!r} is already used at {first_ids[item.id]}"
                    diagnostics.add(self._source.position(raw, ("id",)), "id", self._with_row(message, item, raw))
                    continue
                first_ids[item.id] = item.origin
            for n in range(1, item.count + 1):
                stem = sample_stem(item.filename, n)
                if hash(fold_case(stem)) in stems:
                    other, origin = first_stems.setdefault(fold_case(stem), (item.id, item.origin))
                    if other != item.id:
                        field = "filename" if "filename" in raw.entry else "id"
                        message = f"the file {stem!r} is also written by {other!r} at {origin}"
                        diagnostics.add(self._source.position(raw, (field,)), field, self._with_row(message, item, raw))

    def _with_row(self, message: str, item: Item, raw: RawEntry) -> str:
        return message if item.origin == f"{self.path}:{raw.line}" else f"{message} (row {item.origin})"

    def _resolve_profile(self, name: str) -> Profile:
        profile = self._profiles.get(name)
        if profile is None:
            profile = self._profiles[name] = self.catalogue.resolve(name)
            self._warn_about(name, profile)
        return profile

    def _warn_about(self, name: str, profile: Profile) -> None:
        if profile.status == "unknown":
            suggestion = self.catalogue.suggestions(name)
            hint = f" (did you mean {suggestion[0]!r}?)" if suggestion else ""
            self._warn(
                f"{safe_repr(name)} is not a known model{hint}: nothing about it is checked, its price is unknown"
            )
        elif profile.status == "deprecated":
            when = f" and will be shut down on {profile.shutdown}" if profile.shutdown else ""
            instead = f"; use {profile.replacement}" if profile.replacement else ""
            note = f" ({profile.note})" if profile.note else ""
            self._warn(f"{profile.id} is deprecated{when}{instead}{note}")

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def _read_header(self) -> None:
        diagnostics = Diagnostics(str(self.path))
        raw = self._source.header(diagnostics)
        header = self._valid_header(raw)
        self._defaults = header.defaults.model_dump(exclude_none=True) if header.defaults else {}
        if header.post is not None:
            self._defaults.setdefault("post", header.model_dump(exclude_none=True)["post"])
        self.post = post_record(header.defaults.post if header.defaults and header.defaults.post else header.post)
        self._variables = header.vars or {}
        self.limits, self.notify, self.schedule = header.limits, header.notify, header.schedule
        if self.notify is not None and any(map(secrets_in, self.notify.addresses)):
            self._warn(
                "notify: an address holds what looks like a secret; write ${NOTIFY_URL} and set it in the environment"
            )
        self.name = header.name or self.path.stem
        self.output = self.folder / self.name
        if header.output and has_url_scheme(header.output):
            try:
                self.bucket = normalize_bucket_url(header.output)
            except ValueError as error:
                self._report(raw, ("output",), str(error))
        elif header.output:
            self.output = Path(os.path.abspath(self.folder / header.output))
        self._check_header_values(raw)
        self.models = header.models or {}
        for name, facts in self.models.items():
            try:
                self.catalogue = self.catalogue.with_overrides({name: facts})
            except FactError as error:
                self._report(raw, ("models", *error.path), API_KEY_PATTERN.sub("…", error.message))
        self._header_problems += [((p.line, p.column), p.field, p.message) for p in diagnostics.problems]

    def _valid_header(self, raw: RawEntry) -> schema.Header:
        """The header without what is wrong in it, so that the items can be checked all the same."""
        entry = dict(raw.entry)
        while True:
            try:
                return schema.Header.model_validate(entry)
            except ValidationError as error:
                for path, message in schema.validation_problems(error):
                    self._report(raw, path, message)
                    _remove_path(entry, path)

    def _check_header_values(self, raw: RawEntry) -> None:
        for name in self._variables:
            if not name.isidentifier():
                self._report(raw, ("vars", name), "is not a usable name for a variable: letters, digits and '_'")
        for part in ("vars", "models"):
            for path, text in iter_strings(raw.entry.get(part), (part,)):
                if looks_like_key(text):
                    self._report(raw, path, schema.no_secrets())
                elif why := text_problem(text):
                    self._report(raw, path, why)

    def _report(self, raw: RawEntry, path: tuple[str | int, ...], message: str) -> None:
        position = self._source.position(raw, path)
        self._header_problems.append((position, ".".join(map(safe_name, path)), message))


def _run_variables() -> dict[str, str]:
    """`{{ run.date }}` and its like, in local time: the same for everything that is read of this manifest."""
    now = datetime.now().astimezone()
    formats = {"date": "%Y-%m-%d", "time": "%H-%M", "year": "%Y", "month": "%m", "day": "%d", "weekday": "%A"}
    return {name: format(now, how) for name, how in {**formats, "week": "%G-W%V"}.items()}


def _remove_path(entry: dict[str, Any], path: tuple[str | int, ...]) -> None:
    """Take out what a path names, or as much of it as is a field of the header or of its defaults and limits."""
    first = str(path[0])
    if len(path) > 1 and first in ("defaults", "limits") and isinstance(entry.get(first), dict):
        entry[first] = {name: value for name, value in entry[first].items() if name != path[1]}
    else:
        entry.pop(first, None)


class DuplicateFinder:
    """Which of a million strings came twice, in eight bytes each: hashes, and the strings only for the few suspects. Split into
    buckets so that looking for repeats needs memory for one bucket at a time."""

    def __init__(self) -> None:
        self._buckets = [array("q") for _ in range(_BUCKETS)]

    def add(self, text: str) -> None:
        value = hash(text)
        self._buckets[value & 255].append(value)

    def repeated_hashes(self) -> frozenset[int]:
        """Hashes that came more than once: of the same string, or (hardly ever) of two."""
        twice: set[int] = set()
        for bucket in self._buckets:
            once: set[int] = set()
            if len(set(bucket)) != len(bucket):
                twice.update(value for value in bucket if value in once or once.add(value))  # type: ignore[func-returns-value]
        return frozenset(twice)
