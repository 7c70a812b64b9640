"""A manifest, the folder of its pictures and the settings it runs under, opened together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import UsageError
from batchgen.ledger.location import LedgerServer, has_ledger, job_identity, ledger_url, open_registered
from batchgen.ledger.reader import Reader
from batchgen.manifest import Manifest, open_manifest
from batchgen.manifest.addresses import has_url_scheme, normalize_bucket_url
from batchgen.profiles.profile import Profile
from batchgen.providers import registry
from batchgen.references.folders import AllowedFolders
from batchgen.references.local import DisabledRemoteReferences, RemoteReferenceSource
from batchgen.references.remote import RemoteReferences
from batchgen.settings import Settings, state_folder
from batchgen.store.store import last_location

UNTRUSTED_ADDRESS = (
    "is not read: `.env` beside the manifest says where requests go, so pictures from your buckets could be sent there; set"
    " that address in the environment instead"
)


@dataclass(frozen=True, slots=True)
class Job:
    """A manifest, the folder of its pictures, and the settings it runs under."""

    manifest: Manifest
    folder: Path
    settings: Settings
    emulated: bool = False
    bucket: str = ""  # where its pictures live, when not in the folder


def load(
    path: str | Path,
    *,
    output: str | Path | None = None,
    emulate: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Job:
    """Open a manifest. Its head is read and checked now, its items when it is planned or run.

    output: the folder for pictures and ledger; default what the manifest says, else NAME beside it, and NAME.emulated
    when emulate is set. The address of a bucket, there or in the manifest, takes the pictures, and the folder is NAME
    beside the manifest; an emulated job uses a bucket only when `output` names it. environ: instead of the process's
    environment. Raises ManifestError, SettingsError, UsageError.
    """
    path = Path(path)
    bucket = _bucket_address(output) if isinstance(output, str) else ""
    settings = Settings.load(path.absolute().parent, environ)

    def allow_retired(profile: Profile) -> bool:
        return emulate or not _is_asked_itself(profile.provider, settings)

    def remote_references(warn: Callable[[str], None]) -> RemoteReferenceSource:
        if not emulate and _dotenv_leads_elsewhere(settings):
            return DisabledRemoteReferences(UNTRUSTED_ADDRESS)
        return RemoteReferences(state_folder(settings), warn)

    manifest = open_manifest(
        path,
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


def _is_asked_itself(provider: str, settings: Settings) -> bool:
    """Whether requests for a provider reach its vendor. Raises SettingsError, UsageError."""
    endpoint = registry.endpoint_of(provider)
    return endpoint.is_vendor_url(settings.access(endpoint).base_url)


def _dotenv_leads_elsewhere(settings: Settings) -> bool:
    """Whether a folder's `.env` says where requests go, be it to a provider that nobody asks."""
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


def open_reader(job: Job) -> Reader | None:
    """Of what is known so far; of a job that a server knows, even when this folder is new."""
    url = ledger_url(job.settings)
    if has_ledger(job.folder):
        return Reader.open(job.folder, url)
    if url is None:
        return None
    kept = open_registered(LedgerServer(url, job.manifest.name, job_identity(job.bucket or str(job.folder))))
    return None if kept is None else Reader(kept)
