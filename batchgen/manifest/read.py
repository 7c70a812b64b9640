"""Opens a manifest: its header at once, its items as a stream that can be read again and reports problems only at its
end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batchgen.errors import ManifestError
from batchgen.manifest import schema
from batchgen.manifest.addresses import has_url_scheme, normalize_bucket_url, secrets_in
from batchgen.manifest.assemble import Assembler
from batchgen.manifest.data import DATA_NAME, DataDiagnostics, DataSource
from batchgen.manifest.diagnostics import (
    Diagnostics,
    FieldPath,
    Position,
    Remark,
    iter_strings,
    looks_like_key,
    safe_name,
    text_problem,
)
from batchgen.manifest.duplicates import Duplicates
from batchgen.manifest.item_references import DependencyGraph
from batchgen.manifest.models import AllowRetired, Models, declare_models, no_retired_models
from batchgen.manifest.post_section import post_record
from batchgen.manifest.sources import ManifestSource, RawEntry, open_source
from batchgen.manifest.validate_item import EntryContext
from batchgen.records import Item, Post
from batchgen.references.folders import AllowedFolders, is_below
from batchgen.references.local import References, RemoteReferenceSource

Warn = Callable[[str], None]


def open_manifest(
    source: str | os.PathLike[str] | DataSource,
    *,
    allow_retired: AllowRetired = no_retired_models,
    variables: Mapping[str, Any] | None = None,
    remote_references: Callable[[Warn], RemoteReferenceSource] | None = None,
    allowed_folders: AllowedFolders | None = None,
) -> Manifest:
    """Read the header. Raises ManifestError, including what is wrong in the items if the header is wrong.

    source: a path, or data, whose relative paths start at the current folder. allow_retired: whether a shut-down model
    may be used, because its requests do not go to the vendor. variables: replace the manifest's `vars` of the same
    name. remote_references: makes the object that looks for references in buckets, and is given a function for
    warnings; without it, nothing is known about them. allowed_folders: which `reference_folders` may be read.
    """
    allowed = allowed_folders or AllowedFolders()
    manifest = Manifest(source, allow_retired, variables or {}, remote_references, allowed)
    if manifest.header_has_problems:
        for _ in manifest.items():
            pass
    return manifest


class Manifest:
    """What should exist. `warnings` fills while the items are read; it never contains duplicates."""

    def __init__(
        self,
        source: str | os.PathLike[str] | DataSource,
        allow_retired: AllowRetired,
        variables: Mapping[str, Any],
        remote_references: Callable[[Warn], RemoteReferenceSource] | None,
        allowed_folders: AllowedFolders,
    ) -> None:
        self.is_data = isinstance(source, DataSource)
        path = DATA_NAME if isinstance(source, DataSource) else os.fspath(source)
        self._new_diagnostics = DataDiagnostics if self.is_data else partial(Diagnostics, path)
        self._place = self._new_diagnostics().place
        self.path = Path(path)
        self.folder = Path(os.path.abspath(path)).parent
        self.warnings: list[str] = []
        self._source: ManifestSource = source if isinstance(source, DataSource) else open_source(path)
        self._header_problems: list[Remark] = []
        self._read_header()
        self.references = References(
            self.folder,
            further_folders=self._further_folders(allowed_folders),
            remote_references=remote_references and remote_references(self._warn),
        )
        limit = self.limits.max_items
        self._max_items = self._source.default_max_items if limit is None else limit
        self._context = EntryContext(
            place=self._place,
            defaults=self._defaults,
            variables={"run": _run_variables(), **self._variables, **variables},
            models=Models(self.catalogue, allow_retired, self._warn),
            references=self.references,
            warn=self._warn,
            max_items=limit or 10_000,
            templates=self._templates,
            locate_default=self._locate_default,
        )

    name: str
    output: Path
    bucket: str = ""  # where the images go, if not into that folder
    limits: schema.Limits
    models: Mapping[str, Any]  # what it says about AI models, on top of what is known
    notify: schema.Notify | None
    post: Post | None  # of items that do not say otherwise
    has_derivatives: bool = False  # whether files are to be made from images; known once `items` has ended
    ids_others_need: frozenset[str] = frozenset()  # of items whose images others need; known once `items` has ended

    @property
    def header_has_problems(self) -> bool:
        return bool(self._header_problems)

    def items(self) -> Iterator[Item]:
        """Every valid item, in the order of the file. Raises ManifestError at the end with everything that is wrong.

        So the items are the manifest only if the iteration ended normally. Memory does not grow with the number of
        items except for sixteen bytes each, which find duplicate ids and file names.
        """
        diagnostics = self._new_diagnostics()
        for remark in self._header_problems:
            diagnostics.add(*remark)
        duplicates = Duplicates(self._place)
        is_empty = True
        dependencies = DependencyGraph()
        for item, raw in self._read_items(diagnostics):
            is_empty = False
            if item.post is not None:
                self.has_derivatives = True
            if item.references or item.turn > 1:
                dependencies.add(item, raw)
            duplicates.add(item)
            yield item
        if is_empty and not diagnostics.total:
            diagnostics.add((0, 0), "", "has no items")
        for found in duplicates.find(self._read_items(self._new_diagnostics())):
            position = self._source.position(found.raw, (found.field,))
            diagnostics.add(position, found.field, found.message, item=found.row, kind=found.kind)
        if dependencies:
            dependencies.check(item for item, _ in self._read_items(self._new_diagnostics()))
            for raw, message in dependencies.problems():
                diagnostics.add(self._source.position(raw, ("references",)), "references", message)
        self.ids_others_need = dependencies.ids()
        diagnostics.raise_if_any()

    def item_ids(self) -> Iterator[str]:
        """The ids, in the order of the file. They end early, without an error, if the file has become wrong since."""
        with suppress(ManifestError, OSError):
            for item in self.items():
                yield item.id

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

    def _locate_default(self, path: FieldPath) -> tuple[Position, FieldPath]:
        """Where a default for all items is in the head: some can also be outside of `defaults`."""
        name, head = str(path[0]), self._header.entry
        in_defaults = name in (head.get("defaults") or {}) or name not in head
        path = ("defaults", *path) if in_defaults else path
        return self._source.position(self._header, path), path

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def _read_header(self) -> None:
        diagnostics = self._new_diagnostics()
        raw = self._source.header(diagnostics)
        header = self._valid_header(raw)
        self._defaults = header.for_all_items()
        self.post = post_record(header.defaults.post if header.defaults and header.defaults.post else header.post)
        self._variables = header.vars or {}
        self._reference_folders = header.reference_folders or []
        self._templates, self._header = header.templates or "on", raw
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
        self.catalogue, wrong = declare_models(self.models)
        for path, message in wrong:
            self._report(raw, ("models", *path), message)
        for (line, column), field, message in self._source.warnings:
            self._warn(f"{self.path}:{line}:{column}: {field}: {message}")
        self._header_problems += [((p.line, p.column), p.field, p.message) for p in diagnostics.problems]

    def _valid_header(self, raw: RawEntry) -> schema.Header:
        """The header without what is wrong in it, so that the items can be checked anyway."""
        entry = dict(raw.entry)
        while True:
            try:
                return schema.Header.model_validate(entry)
            except ValidationError as error:
                for path, message in schema.validation_problems(error):
                    self._report(raw, path, message)
                    _remove_path(entry, path)

    def _further_folders(self, allowed: AllowedFolders) -> list[str]:
        """`reference_folders` as real paths, without those that may not be read."""
        folders = []
        for index, named in enumerate(self._reference_folders):
            folder = os.path.realpath(self.folder / named)
            if not is_below(folder, os.path.realpath(self.folder)) and (why := allowed.problem(folder)):
                self._report(self._header, ("reference_folders", index), f"{named!r} {why}")
            else:
                folders.append(folder)
        return folders

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

    def _report(self, raw: RawEntry, path: FieldPath, message: str) -> None:
        position = self._source.position(raw, path)
        self._header_problems.append((position, ".".join(map(safe_name, path)), message))


def _run_variables() -> dict[str, str]:
    """`{{ run.date }}` and the like, in local time: the same for everything read from this manifest."""
    now = datetime.now().astimezone()
    formats = {"date": "%Y-%m-%d", "time": "%H-%M", "year": "%Y", "month": "%m", "day": "%d", "weekday": "%A"}
    return {name: format(now, how) for name, how in {**formats, "week": "%G-W%V"}.items()}


def _remove_path(entry: dict[str, Any], path: FieldPath) -> None:
    """Remove what a path names, or the field of the header, its defaults or limits that contains it."""
    first = str(path[0])
    if len(path) > 1 and first in ("defaults", "limits") and isinstance(entry.get(first), dict):
        entry[first] = {name: value for name, value in entry[first].items() if name != path[1]}
    else:
        entry.pop(first, None)
