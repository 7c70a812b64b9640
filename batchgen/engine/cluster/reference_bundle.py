"""Sends references along with the work: workers on other machines do not have the manifest's folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from batchgen.errors import StoreError
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest.addresses import is_object_url
from batchgen.records import Sample
from batchgen.references.local import References, is_link
from batchgen.safe_open import private_opener
from batchgen.store.spool import disk_error, sync_file, sync_folder
from batchgen.store.store import Store

BUNDLE_FOLDER = "enclosed"


def bundle_folder(store: Store) -> str:
    return os.path.join(store.root, STATE_FOLDER, BUNDLE_FOLDER)


def _with_files(sample: Sample, bundled_file: Callable[[str], str]) -> Sample:
    """The sample with each reference that is a file replaced by the path that `bundled_file` returns for it."""
    references = sample.item.references
    names = tuple(name if name[:1] == "@" or is_link(name) else bundled_file(name) for name in references)
    return replace(sample, item=replace(sample.item, references=names))


class ReferencePacker:
    """The submitter's side: stores each file once, under the hash of its contents, so that an edit in the meantime
    changes nothing."""

    def __init__(self, store: Store, references: References) -> None:
        self._store = store
        self._references = references
        self._folder = bundle_folder(store)
        self._packed: dict[str, str] = {}

    def pack(self, sample: Sample) -> Sample:
        """The sample with its files replaced by their places in the job's state. Raises StoreError, UsageError."""
        if not sample.item.references:
            return sample
        return _with_files(sample, self._bundled_file)

    def _bundled_file(self, path: str) -> str:
        if (known := self._packed.get(path)) is not None:
            return known
        name = f"{self._references.digest(path)}-{os.path.basename(path)[-80:]}"
        target = self._packed[path] = os.path.join(self._folder, name)
        if not os.path.exists(target):
            self._store.plain_folder(os.path.join(STATE_FOLDER, BUNDLE_FOLDER), 0o700)
            part = f"{target}.part"
            try:
                self._copy(path, part)
                sync_file(part)
                os.replace(part, target)
            except OSError as error:
                raise disk_error(error, target) from error
            sync_folder(self._folder)
        self._store.share_state(f"{BUNDLE_FOLDER}/{name}", target)
        return target

    def _copy(self, path: str, part: str) -> None:
        if is_object_url(path):
            self._references.fetch(path, part)
            return
        with self._references.open_unchanged(path) as source, open(part, "wb", opener=private_opener) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


class ReferenceUnpacker:
    """The worker's side: uses what the submitter stored, and downloads it from the bucket if it is not here."""

    def __init__(self, store: Store) -> None:
        """Raises StoreError."""
        self._store = store
        self._folder = bundle_folder(store)
        try:
            Path(self._folder).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self._folder}: {error.strerror}") from None
        self.references = References(self._folder)

    def unpack(self, sample: Sample) -> Sample:
        """The sample with its files where this machine has them. Raises StoreError, FileNotFoundError."""
        if not self._store.properties.remote or not sample.item.references:
            return sample
        return _with_files(sample, self._bundled_file)

    def _bundled_file(self, path: str) -> str:
        name = os.path.basename(path)
        target = os.path.join(self._folder, name)
        if not os.path.exists(target):
            temp_path = f"{target}.{uuid.uuid4().hex}"  # several samples or workers may need it at once
            self._store.fetch_state(f"{BUNDLE_FOLDER}/{name}", temp_path)
            os.replace(temp_path, target)
            self.references.expect_digest(target, name.partition("-")[0])
        return target
