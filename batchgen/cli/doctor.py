"""`batchgen doctor`: is everything there that a run needs? Nothing is sent without `--online` or `--quota`."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchgen.cli.doctor_finding import Finding, Verdict
from batchgen.cli.invocation import Invocation
from batchgen.cli.options import json_option, ledger_option, option_group, pass_invocation
from batchgen.errors import BillingStopped, KeyRejected, ProviderError, SettingsError
from batchgen.http.proxies import bypass_variable, proxy_for
from batchgen.ledger.schema import network_file_system
from batchgen.providers.registry import endpoint_of, endpoints, key_variables, provider_names
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.settings import LEDGER_VARIABLE, Settings, environment, is_loopback

if TYPE_CHECKING:
    from batchgen.api import Job
    from batchgen.cli.vendor_client import VendorAccess, VendorClient
    from batchgen.profiles.profile import Profile
    from batchgen.providers.listings import Balance, ListedModel

EXIT_NOT_READY = 5
FREE_BYTES = 1_000_000_000  # about 500 images of 2 MB
MAX_SHOWN = 8


@click.command("doctor")
@click.argument("manifest", type=click.Path(), required=False)
@option_group(
    click.option(
        "--online", is_flag=True, help="Free requests to each API that there is a key for: key, clock, balance."
    ),
    click.option("--quota", is_flag=True, help="The same, and what the key may use: models, limits."),
    ledger_option,
    json_option(),
)
@pass_invocation
def command(invocation: Invocation, manifest: str | None, online: bool, quota: bool, as_json: bool) -> int:
    """Check keys, addresses, proxies, models, folder, clock and versions; with MANIFEST, what that one needs; with BATCHGEN_LEDGER
    set, the server, the queue and who works.

    Exit code 5 when something is missing that a run needs. Keys are named, never shown.

    \b
    Examples:
      batchgen doctor
      batchgen doctor catalog.yaml --online
      batchgen doctor --quota
    """
    findings = list(run_checks(invocation, manifest, online=online, quota=quota))
    failed = any(finding.verdict == "fail" for finding in findings)
    if as_json:
        invocation.out.json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        print_findings(invocation.out, findings)
    return EXIT_NOT_READY if failed else 0


def run_checks(invocation: Invocation, manifest: str | None, *, online: bool, quota: bool = False) -> Iterator[Finding]:
    """Every finding in the order it is shown. Raises ManifestError, SettingsError when the manifest cannot be opened."""
    profiles: list[Profile] = []  # none: all that we know
    yield from check_versions()
    yield check_clock(time.time())
    if manifest is None:
        settings = Settings.load(Path.cwd())
        invocation.hide_keys(settings, provider_names())
        yield from check_any_key(settings)
        yield folder(Path.cwd())
    else:
        from batchgen.cli.run_job import load_job

        job = load_job(invocation, manifest, None, emulate=False)
        settings = job.settings
        profiles = used_profiles(job)
        yield Finding("ok", "manifest", f"{manifest} is valid")
        for provider in dict.fromkeys(profile.provider for profile in profiles):
            yield check_key(settings, provider)
            yield check_address(settings, provider)
        yield from check_models(settings, profiles)
        yield folder(job.folder)
        if job.bucket:
            yield bucket(job.bucket, online=online)
    yield from check_links()
    if settings.is_set(LEDGER_VARIABLE):
        from batchgen.cli.doctor_cluster import check_server

        yield from check_server(settings)
    for warning in settings.warnings:
        yield Finding("warn", "settings", warning)
    if online or quota:
        import asyncio

        yield from asyncio.run(check_online(settings, profiles, quota=quota))


def check_versions() -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("ok", "SQLite", sqlite3.sqlite_version)


def check_clock(now: float) -> Finding:
    """The ledger, daily quotas and certificates all go by it."""
    year = time.gmtime(now).tm_year
    says = f"{formatting.utc_iso(now)}, local {time.strftime('%H:%M %Z', time.localtime(now))}"
    if 2026 <= year <= 2100:
        return Finding("ok", "clock", says)
    return Finding("fail", "clock", says, "set this machine's clock: certificates and quotas go by it")


def check_any_key(settings: Settings) -> Iterator[Finding]:
    """Without a manifest any one key will do."""
    providers = [endpoint.name for endpoint in endpoints()]
    found = [check_key(settings, provider) for provider in providers]
    anything = any(finding.verdict == "ok" for finding in found)
    for finding, provider in zip(found, providers, strict=True):
        if anything and finding.verdict == "fail":
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
    if access.key is not None:
        return Finding("warn" if access.warning else "ok", what, access.warning or f"from {access.key.source}")
    if access.base_url is not None and _local(access.base_url):
        return Finding("ok", what, "not set, and not needed for a server on this machine")
    names = endpoint.key_names
    return Finding("fail", what, "not set", f"set {' or '.join(names)} (or {names[0]}_FILE), or try it with --emulate")


def check_address(settings: Settings, provider: str) -> Finding:
    what, endpoint = f"address {provider}", endpoint_of(provider)
    own = endpoint.base_url
    try:
        access = settings.access(endpoint)
        if access.base_url is not None:
            return Finding("ok", what, f"{access.base_url} ({access.source}){proxy_note(access.base_url)}")
        if own is not None:
            return Finding("ok", what, f"{own}{proxy_note(own)}")
    except SettingsError as error:
        return Finding("fail", what, str(error), "correct or unset the variable")
    return Finding("fail", what, "not known", f"set {endpoint.base_url_names[0]}")


def proxy_note(url: str) -> str:
    """Through which proxy, or why through none although there is one. Raises SettingsError."""
    if (proxy := proxy_for(url, environment())) is not None:
        return f", through the proxy {proxy}"
    name = bypass_variable(url, environment())
    return f", directly because of {name}" if name else ""


def check_links() -> Iterator[Finding]:
    """Their hosts are not known before; the proxy of most of them is."""
    try:
        note = proxy_note("https://links.invalid")
    except SettingsError as error:
        yield Finding("warn", "links", str(error), "correct or unset the variable")
        return
    if note:
        yield Finding("ok", "links", f"fetched over https{note}; this machine resolves and checks their hosts itself")


def _local(url: str) -> bool:
    from urllib.parse import urlsplit

    return is_loopback(urlsplit(url).hostname or "")


def used_profiles(job: Job) -> list[Profile]:
    """Of the models that the manifest's items name. Raises ManifestError."""
    names = dict.fromkeys(item.model for item in job.manifest.items())
    return [job.manifest.catalogue.resolve(name) for name in names]


def check_models(settings: Settings, profiles: Iterable[Profile]) -> Iterator[Finding]:
    """A retired model fails only where the vendor itself is asked; the manifest's reader has refused it there already."""
    from batchgen.profiles.profile import is_shut_down, status_note

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
    """Writable, local and with room; nothing is created."""
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


def bucket(url: str, *, online: bool) -> Finding:
    """Whether there is what it takes to reach it, and online whether it can be listed; nothing is written."""
    from batchgen.store.objects import ObjectStorage

    try:
        objects = ObjectStorage(url)
        if online:
            next(objects.list(), None)
    except SettingsError as error:
        return Finding("fail", "bucket", str(error), "fix that, or choose a folder as output")
    return Finding("ok", "bucket", f"{url} can be read" if online else f"{url}; --online asks whether it answers")


async def check_online(settings: Settings, used: Sequence[Profile], *, quota: bool) -> list[Finding]:
    """Every provider with a key, by questions that are free and need a good one.

    used: models that a manifest asks for; none for all that we know. quota: what the key may use, too.
    """
    from batchgen.cli.vendor_client import VendorClient, vendor_accesses

    try:
        asked = vendor_accesses(settings)
    except SettingsError as error:
        return [Finding("fail", "online", str(error))]
    if not asked:
        return [Finding("fail", "online", "not asked: there is no key", f"set {key_variables()}")]
    async with VendorClient() as vendors:
        return [finding for account in asked for finding in await check_account(vendors, account, used, quota=quota)]


async def check_account(
    vendors: VendorClient, account: VendorAccess, used: Sequence[Profile], *, quota: bool
) -> list[Finding]:
    what = f"online {account.provider}"
    taken = Finding("ok", what, f"{account.url} answers and takes the key")
    try:
        if account.listing.balance is not None:  # the better question: a list of models may be public
            findings = [taken, balance(account.provider, account.listing.top_up, await vendors.balance(account))]
            clock_there = vendors.date
            listed = await vendors.models(account) if quota else []
        else:
            listed = await vendors.models(account)
            findings, clock_there = [taken], vendors.date
    except SettingsError as error:
        return [Finding("fail", what, str(error), "check network, proxy and address")]
    except ProviderError as error:
        return [refusal_finding(what, account.url, error)]
    findings += check_clock_skew(clock_there, time.time())
    findings += await check_withdrawn(vendors, account, used)
    return findings + (list(check_listed_models(account.provider, listed)) if quota else [])


async def check_withdrawn(vendors: VendorClient, account: VendorAccess, used: Sequence[Profile]) -> list[Finding]:
    """Of the models that a manifest asks for, else of all that we know, those that their vendor withdraws."""
    from batchgen.profiles.catalogue import load_catalogue
    from batchgen.providers.listings import find_deprecation

    what = f"withdrawn {account.provider}"
    try:
        feed = await vendors.deprecations(account)
    except (SettingsError, ProviderError) as error:
        return [Finding("warn", what, f"not told: {error}")]
    found = []
    for profile in used or load_catalogue():
        entry = find_deprecation(profile, feed) if profile.provider == account.provider else None
        if entry is not None:
            verdict: Verdict = "fail" if used and entry.status == "withdrawn" else "warn"
            remedy = "`batchgen models --live` lists those still served"
            found.append(Finding(verdict, what, f"{profile.id}: {entry.description}", remedy))
    return found


def refusal_finding(what: str, url: str, error: ProviderError) -> Finding:
    """Of a question that costs nothing."""
    from batchgen.providers.reasons import REMEDIES

    says = f"{url} answers {error.http_status}"
    if isinstance(error, KeyRejected):
        return Finding("fail", what, f"{says}: the key is not taken", "make a new key in the vendor's console")
    if error.http_status == 429:
        return Finding("warn", what, f"{says}: the key works, its quota is used up for now")
    remedy = "check the base URL, or try again later"
    if isinstance(error, BillingStopped):
        remedy = REMEDIES[error.reason]
    return Finding("fail", what, f"{says}: {error.message}", remedy)


def balance(provider: str, top_up: str, found: Balance | None) -> Finding:
    what = f"balance {provider}"
    if found is None:
        return Finding("warn", what, "not told: this server has no page for it")
    says = f"{found.credits:,.0f} credits left"
    if found.low:
        return Finding("warn", what, f"low: {says}", f"top up at {top_up}")
    return Finding("ok", what, says)


def check_listed_models(provider: str, listed: Sequence[ListedModel]) -> Iterator[Finding]:
    """The models we know against the vendor's list."""
    from batchgen.cli.models import is_retired
    from batchgen.cli.vendor_client import listing_of
    from batchgen.profiles.catalogue import load_catalogue
    from batchgen.providers.listings import unknown_models, wire_name

    listing = listing_of(provider)
    what, listed_for = f"models {provider}", listing.listed_for
    there = {model.id: model for model in listed}
    known = [profile for profile in load_catalogue() if endpoint_of(profile.provider).name == provider]
    seen = [profile for profile in known if wire_name(profile) in there]
    unseen = [profile.id for profile in known if profile not in seen and not is_retired(profile)]
    named = ", ".join(describe_model(profile.id, there[wire_name(profile)]) for profile in seen)
    if seen:
        yield Finding("ok", what, f"listed {listed_for}: {named}")
    else:
        yield Finding("fail", what, f"none of the known image models is listed {listed_for}", "check key and base URL")
    if unseen:
        yield Finding("warn", what, f"not listed {listed_for}: {', '.join(unseen)}", "use a model that is listed")
    if others := unknown_models(listed, known):
        more = f", and {len(others) - MAX_SHOWN} more" if len(others) > MAX_SHOWN else ""
        yield Finding("ok", what, f"listed, and not known to batchgen: {', '.join(others[:MAX_SHOWN])}{more}")
    yield Finding("ok", f"limits {provider}", f"{listing.rate_limit_note}; what batchgen keeps to: `batchgen models`")


def describe_model(model: str, listed: ListedModel) -> str:
    """Such as `MODEL (131,072 tokens in, batch)`."""
    facts = [f"{listed.input_tokens:,} tokens in"] if listed.input_tokens else []
    facts += ["batch"] if "batchGenerateContent" in listed.methods else []
    return f"{model} ({', '.join(facts)})" if facts else model


def check_clock_skew(date: str | None, now: float) -> Iterator[Finding]:
    """The server's clock against ours, to the second (RFC 9110, section 6.6.1)."""
    from email.utils import parsedate_to_datetime

    try:
        skew_s = abs(parsedate_to_datetime(date or "").timestamp() - now)
    except ValueError:
        return
    if skew_s > 60:
        yield Finding(
            "warn",
            "clock",
            f"{formatting.duration(skew_s)} apart from the server's",
            "let the system set its time (NTP)",
        )
    else:
        yield Finding("ok", "clock", "agrees with the server's")


def print_findings(out: Console, findings: list[Finding]) -> None:
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        verdict = out.styled(f"{finding.verdict:4}", styles[finding.verdict])
        out.stream.write(f"{verdict}  {finding.what:{width}}  {out.fit(finding.says)}\n")
        if finding.remedy:
            out.stream.write(f"{'':{width + 8}}{out.fit('→ ' + finding.remedy)}\n")
    out.stream.flush()
