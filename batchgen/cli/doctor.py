"""`batchgen doctor`: checks whether everything that a run needs is there. Nothing is sent without `--online` or
`--quota`."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import batchgen
from batchgen.cli.doctor_servers import Finding, check_online, check_server
from batchgen.cli.invocation import Invocation
from batchgen.cli.run_arguments import load_job
from batchgen.derivatives.signing import CERTIFICATE_VARIABLE, signing_problem
from batchgen.engine.routes import missing_key_remedy, on_this_machine, open_account, unused_credentials
from batchgen.errors import SettingsError, UsageError
from batchgen.http.proxies import bypass_variable, proxy_for
from batchgen.ledger.schema import network_file_system
from batchgen.profiles.packages import CODECS, installed, package_models, package_of
from batchgen.profiles.profile import Profile, is_shut_down, status_note
from batchgen.providers.registry import BUILT_IN, endpoint_of, endpoints, provider_class, provider_names
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.settings import LEDGER_VARIABLE, Settings, environment
from batchgen.store.objects import ObjectStorage

EXIT_NOT_READY = 5
NOT_SET = "not set"
FREE_BYTES = 1_000_000_000  # about 500 images of 2 MB


def doctor_command(invocation: Invocation, manifest: str | None, online: bool, quota: bool, as_json: bool) -> int:
    findings = list(run_checks(invocation, manifest, online=online, quota=quota))
    failed = any(finding.verdict == "fail" for finding in findings)
    if as_json:
        invocation.out.json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        print_findings(invocation.out, findings)
    return EXIT_NOT_READY if failed else 0


def print_findings(out: Console, findings: list[Finding]) -> None:
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        verdict = out.styled(f"{finding.verdict:4}", styles[finding.verdict])
        out.stream.write(f"{verdict}  {finding.what:{width}}  {out.fit(finding.says)}\n")
        if finding.remedy:
            out.stream.write(f"{'':{width + 8}}{out.fit('→ ' + finding.remedy)}\n")
    out.stream.flush()


def run_checks(invocation: Invocation, manifest: str | None, *, online: bool, quota: bool = False) -> Iterator[Finding]:
    """Every finding in the order in which it is shown. Raises ManifestError, SettingsError if the manifest cannot be
    opened."""
    profiles: list[Profile] = []  # empty: all known models
    yield from check_versions()
    yield check_clock(time.time())
    if manifest is None:
        settings = Settings.load(Path.cwd())
        invocation.hide_keys(settings)
        yield from check_packages()
        yield from check_any_key(settings)
        yield folder(Path.cwd())
    else:
        job = load_job(invocation, manifest)
        settings = job.settings
        profiles = used_profiles(job)
        yield Finding("ok", "manifest", f"{manifest} is valid")
        for provider in dict.fromkeys(profile.provider for profile in profiles):
            yield check_key(settings, provider)
            yield check_address(settings, provider)
        yield from check_models(settings, profiles)
        yield folder(job.folder)
        if any(item.post is not None and item.post.sign for item in job.manifest.items()):
            yield signature()
        if job.bucket:
            yield bucket(job.bucket, online=online)
    yield from check_links()
    if settings.is_set(LEDGER_VARIABLE):
        yield from check_server(settings)
    for warning in settings.warnings:
        yield Finding("warn", "settings", warning)
    if online or quota:
        yield from asyncio.run(check_online(settings, profiles, quota=quota))


def check_versions() -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("ok", "SQLite", sqlite3.sqlite_version)


def check_clock(now: float) -> Finding:
    """Check the clock, which the ledger, daily quotas and certificates rely on."""
    year = time.gmtime(now).tm_year
    says = f"{formatting.utc_iso(now)}, local {time.strftime('%H:%M %Z', time.localtime(now))}"
    if 2026 <= year <= 2100:
        return Finding("ok", "clock", says)
    return Finding("fail", "clock", says, "set this machine's clock: certificates and quotas go by it")


def check_packages() -> Iterator[Finding]:
    """Check each provider that an installed package brings."""
    for name in provider_names():
        if name not in BUILT_IN:
            try:
                provider_class(name)
            except UsageError as error:
                yield Finding("fail", f"package {name}", str(error), "correct or uninstall it")
            else:
                yield Finding("ok", f"package {name}", package_of(installed(CODECS)[name]))
    for problem in package_models().problems:
        yield Finding("fail", "models", problem, "correct or uninstall it")


def check_any_key(settings: Settings) -> Iterator[Finding]:
    """Check for any one key, which is enough without a manifest."""
    providers = list(endpoints(provider_names()).values())
    found = [check_key(settings, provider) for provider in providers]
    anything = any(finding.verdict == "ok" for finding in found)
    for finding, provider in zip(found, providers, strict=True):
        if anything and finding.says == NOT_SET:
            yield Finding("ok", finding.what, "not set; needed only for its models")
        else:
            yield finding
        yield check_address(settings, provider)


def check_key(settings: Settings, provider: str) -> Finding:
    what, endpoint = f"key {provider}", endpoint_of(provider)
    try:
        access = settings.access(endpoint)
    except SettingsError as error:
        return Finding("fail", what, str(error), "correct the variable")
    try:
        account = open_account(provider, access, settings.values)
    except SettingsError as error:
        return Finding("fail", what, str(error), "correct what the message names")
    if account is not None and account.source:
        return Finding("ok", what, account.source)
    if access.key is not None:
        return Finding("warn" if access.warning else "ok", what, access.warning or f"from {access.key.source}")
    if access.base_url is not None and on_this_machine(access.base_url):
        return Finding("ok", what, "not set, and not needed for a server on this machine")
    unused = unused_credentials(endpoint, settings)
    return Finding("fail", what, "; ".join(unused) or NOT_SET, missing_key_remedy(endpoint))


def check_address(settings: Settings, provider: str) -> Finding:
    what, endpoint = f"address {provider}", endpoint_of(provider)
    own = endpoint.base_url
    try:
        access = settings.access(endpoint)
        with suppress(SettingsError):  # reported for the key
            account = open_account(provider, access, settings.values) if endpoint.credential_names else None
            own = account.base_url if account else own
        if access.base_url is not None:
            return Finding("ok", what, f"{access.base_url} ({access.source}){proxy_note(access.base_url)}")
        if own is not None:
            return Finding("ok", what, f"{own}{proxy_note(own)}")
    except SettingsError as error:
        return Finding("fail", what, str(error), "correct or unset the variable")
    return Finding("fail", what, "not known", f"set {endpoint.base_url_names[0]}")


def proxy_note(url: str) -> str:
    """The proxy for an address, or why it is reached without one although there is one. Raises SettingsError."""
    if (proxy := proxy_for(url, environment())) is not None:
        return f", through the proxy {proxy}"
    name = bypass_variable(url, environment())
    return f", directly because of {name}" if name else ""


def check_links() -> Iterator[Finding]:
    """Check the proxy for images behind links. Their hosts are not known in advance, but the proxy of most is."""
    try:
        note = proxy_note("https://links.invalid")
    except SettingsError as error:
        yield Finding("warn", "links", str(error), "correct or unset the variable")
        return
    if note:
        yield Finding("ok", "links", f"fetched over https{note}; this machine resolves and checks their hosts itself")


def used_profiles(job: batchgen.Job) -> list[Profile]:
    """The profiles of the models in the manifest. Raises ManifestError."""
    names = dict.fromkeys(item.model for item in job.manifest.items())
    return [job.manifest.catalogue.resolve(name) for name in names]


def check_models(settings: Settings, profiles: Iterable[Profile]) -> Iterator[Finding]:
    """Check for retired models. These only fail at the vendor itself, and there the manifest's reader has refused them
    already."""
    today = datetime.now(UTC).date()
    for profile in profiles:
        note = status_note(profile, today)
        if note is None:
            yield Finding("ok", "model", profile.id)
        elif is_shut_down(profile, today) and endpoint_of(profile.provider).is_vendor_url(
            settings.access(endpoint_of(profile.provider)).base_url
        ):
            yield Finding("fail", "model", note, "`batchgen models` lists those still served")
        else:
            yield Finding("warn", "model", note)


def folder(place: Path) -> Finding:
    """Check that a folder is writable, local and has room; nothing is created."""
    existing = next(parent for parent in (place, *place.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            "fail", "folder", f"{place} cannot be written", "check owner and mode, or choose another --output"
        )
    if (kind := network_file_system(existing)) is not None:
        return Finding("fail", "folder", f"{place} is on a network file system ({kind})", "choose a local --output")
    free = shutil.disk_usage(existing).free
    says = f"{place} can be written, {formatting.size(free)} free"
    if free < FREE_BYTES:
        return Finding("warn", "folder", says, "make room: an image takes 1 to 8 MB")
    return Finding("ok", "folder", says)


def signature() -> Finding:
    """Check the signature of derivatives by signing one."""
    if problem := signing_problem():
        return Finding("fail", "signature", f"a derivative {problem}", "correct the variable: `batchgen help files`")
    return Finding("ok", "signature", f"by {environment()[CERTIFICATE_VARIABLE]}")


def bucket(url: str, *, online: bool) -> Finding:
    """Check that a bucket can be reached, and online that it can be listed; nothing is written."""
    try:
        objects = ObjectStorage(url)
        if online:
            next(objects.list(), None)
    except SettingsError as error:
        return Finding("fail", "bucket", str(error), "fix that, or choose a folder as output")
    return Finding("ok", "bucket", f"{url} can be read" if online else f"{url}; --online asks whether it answers")
