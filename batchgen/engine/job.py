"""A manifest, the folder of its images and the settings it runs under, opened together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from batchgen.errors import UsageError
from batchgen.ledger.location import LedgerServer, has_ledger, job_identity, ledger_url, open_registered
from batchgen.ledger.results import results_order
from batchgen.ledger.reviews import Reader, reviewed
from batchgen.manifest import Manifest, open_manifest
from batchgen.manifest.addresses import has_url_scheme, normalize_bucket_url
from batchgen.manifest.data import DataSource, ManifestData
from batchgen.profiles.profile import Profile
from batchgen.providers import registry
from batchgen.records import CURRENT_STATES, Result
from batchgen.references.folders import AllowedFolders
from batchgen.references.local import DisabledRemoteReferences, RemoteReferenceSource
from batchgen.references.remote import RemoteReferences
from batchgen.settings import Settings, state_folder
from batchgen.store.store import last_location

UNTRUSTED_ADDRESS = (
    "is not read: `.env` beside the manifest says where requests go, so images from your buckets could be sent there; set"
    " that address in the environment instead"
)


@dataclass(frozen=True, slots=True)
class Job:
    """A manifest, the folder of its images, and the settings it runs under."""

    manifest: Manifest
    folder: Path
    settings: Settings
    emulated: bool = False
    bucket: str = ""  # where its images are, if not in the folder

    def __repr__(self) -> str:
        kind = "emulated job" if self.emulated else "job"
        return f"<{kind} {self.manifest.name} in {self.bucket or self.folder}>"

    @property
    def results(self) -> Results:
        """The state of each of its samples so far."""
        return Results(self)


def load(
    source: str | os.PathLike[str] | ManifestData,
    *,
    output: str | os.PathLike[str] | None = None,
    name: str | None = None,
    emulate: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Job:
    """Open a manifest: the path of a file, or data, which is a mapping as in a file, or a list of items or of prompts.

    A file's head is read and checked now, its items when it is planned or run. output: the folder for images and
    ledger; by default the one that the manifest names, or else NAME beside the manifest, and NAME.emulated if emulate
    is set. If it is the address of a bucket, here or in the manifest, the bucket gets the images, and the folder is
    NAME beside the manifest; an emulated job only uses a bucket that `output` names. name: required for data, which has
    no file to be named after; its folder is NAME in the current folder, which its relative paths are also relative to.
    environ: replaces the process's environment. Raises ManifestError, SettingsError, UsageError.
    """
    output = None if output is None else os.fspath(output)
    bucket = _bucket_address(output) if output is not None else ""
    opened = _file_or_data(source, name, None if bucket else output)
    folder = Path.cwd() if isinstance(opened, DataSource) else opened.absolute().parent
    settings = Settings.load(folder, environ)

    def allow_retired(profile: Profile) -> bool:
        return emulate or not _is_asked_itself(profile.provider, settings)

    def remote_references(warn: Callable[[str], None]) -> RemoteReferenceSource:
        if not emulate and _dotenv_leads_elsewhere(settings):
            return DisabledRemoteReferences(UNTRUSTED_ADDRESS)
        return RemoteReferences(state_folder(settings), warn)

    manifest = open_manifest(
        opened,
        allow_retired=allow_retired,
        remote_references=remote_references,
        allowed_folders=AllowedFolders.load(settings),
    )
    if output is not None and not bucket:
        folder = Path(output).absolute()
    else:
        folder = Path(manifest.output)
        if emulate:
            folder = folder.with_name(folder.name + ".emulated")
        elif not bucket:
            bucket = manifest.bucket
    return Job(manifest, folder, settings, emulate, bucket or last_location(folder))


def _file_or_data(source: object, name: str | None, output: str | None) -> Path | DataSource:
    """Raises UsageError for anything else, and for data without a name or folder."""
    if isinstance(source, str | os.PathLike):
        if name is not None:
            raise UsageError("name= is for data; a file says its own: `name:` in its head")
        return Path(source)
    if not isinstance(source, Mapping | Sequence) or isinstance(source, bytes):
        kind = type(source).__name__
        raise UsageError(f"load takes the path of a manifest, a mapping, or a list of items or of prompts, not {kind}")
    head = source if isinstance(source, Mapping) else {}
    place = output or head.get("output")
    if not name and not head.get("name"):
        if not isinstance(place, str) or has_url_scheme(place):
            raise UsageError(
                "data has no file to be named after: give name=, for a folder here, or output=, for any other"
            )
        name = re.sub(r"[^\w.-]+", "-", os.path.basename(os.path.abspath(place))).lstrip("-.")[:100]
    return DataSource(source, name)


def _is_asked_itself(provider: str, settings: Settings) -> bool:
    """Whether requests for a provider go to its vendor. Raises SettingsError, UsageError."""
    endpoint = registry.endpoint_of(provider)
    return endpoint.is_vendor_url(settings.access(endpoint).base_url)


def _dotenv_leads_elsewhere(settings: Settings) -> bool:
    """Whether a folder's `.env` sets where requests go, even for a provider that is not used."""
    names = settings.dotenv_base_urls
    if any(name.startswith("BATCHGEN_") for name in names):
        return True
    declared = registry.endpoints(registry.provider_names()) if names else ()
    return any(name in endpoint.base_url_names for endpoint in declared for name in names)


def _bucket_address(output: str) -> str:
    if not has_url_scheme(output):
        return ""
    try:
        return normalize_bucket_url(output)
    except ValueError as error:
        raise UsageError(f"--output: {error}") from None


def open_reader(job: Job, url: str | None = None) -> Reader | None:
    """A reader of what is known so far, also if this folder is new to a job that a server knows. url: the server's, by
    default from the job's settings."""
    url = url or ledger_url(job.settings)
    if has_ledger(job.folder):
        return reviewed(Reader.open(job.folder, url), job.folder)
    if url is None:
        return None
    kept = open_registered(LedgerServer(url, job.manifest.name, job_identity(job.bucket or str(job.folder))))
    return None if kept is None else Reader(kept)


@dataclass(frozen=True, slots=True)
class Results:
    """The samples of a job, those of an item together. They are read from the ledger on each use, so they take no
    memory and are up to date. ledger: the address of its server, if the settings do not say."""

    job: Job
    ledger: str | None = None

    def __iter__(self) -> Iterator[Result]:
        return self.in_states(CURRENT_STATES)

    def in_states(self, states: Sequence[str]) -> Iterator[Result]:
        """The samples in these states: `in_states(("failed", "refused"))`. Raises LedgerError."""
        opened = open_reader(self.job, self.ledger)
        if opened is None:
            return
        folder = self.job.bucket or str(self.job.folder)
        with closing(opened) as reader:
            for result in reader.results_by_item(states, results_order(self.job.folder, reader.meta)):
                yield replace(result, folder=folder)

    def __len__(self) -> int:
        return sum(self.counts().values())

    def counts(self) -> Mapping[str, int]:
        """The number of samples in each state."""
        opened = open_reader(self.job, self.ledger)
        if opened is None:
            return {}
        with closing(opened) as reader:
            return {state: number for state, number in reader.counts().items() if state in CURRENT_STATES}

    def __getitem__(self, index: int) -> Result:
        number = len(self)
        if not -number <= index < number:
            raise IndexError(f"there are {number:,} results")
        return next(islice(self, index % number, None))

    def __repr__(self) -> str:
        states = ", ".join(f"{number:,} {state}" for state, number in self.counts().items())
        return f"<results of {self.job.manifest.name}: {states or 'none yet'}>"
