"""What `batchgen doctor` learns from servers: the vendors', and a ledger's PostgreSQL with its queue and workers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from batchgen.cli.models import is_retired
from batchgen.cli.vendor_client import VendorAccess, VendorClient, listing_of, token_accesses, vendor_accesses
from batchgen.engine.cluster import queue
from batchgen.errors import BillingStopped, KeyRejected, LedgerServerFull, ProviderError, SettingsError, UsageError
from batchgen.ledger import lease
from batchgen.ledger.location import SHARED_SCHEMA, ledger_url
from batchgen.ledger.postgresql import PostgreSQL
from batchgen.ledger.server_connection import redacted
from batchgen.profiles.catalogue import load_catalogue
from batchgen.profiles.profile import Profile
from batchgen.providers.listings import Balance, ListedModel, find_deprecation, unknown_models, wire_name
from batchgen.providers.reasons import REMEDIES
from batchgen.providers.registry import endpoint_of, key_variables
from batchgen.report import formatting
from batchgen.settings import LEDGER_VARIABLE, Settings

MIN_SERVER_VERSION = 130_000  # PostgreSQL 13, the first that can tell how a transaction ended
MAX_CLOCK_SKEW_S = 5.0  # budgets and quotas use the server's clock, deadlines each host's
MAX_SHOWN = 8
Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. remedy: what to do, empty if all is well."""

    verdict: Verdict
    what: str
    says: str
    remedy: str = ""


# --- the vendors


async def check_online(settings: Settings, used: Sequence[Profile], *, quota: bool) -> list[Finding]:
    """Check every provider that has a key, by free questions that need a valid one.

    used: the models of a manifest; empty for all known models. quota: also report what the key may use.
    """
    try:
        asked, tokens = vendor_accesses(settings), token_accesses(settings)
    except SettingsError as error:
        return [Finding("fail", "online", str(error))]
    if not (asked or tokens):
        return [Finding("fail", "online", "not asked: there is no key", f"set {key_variables()}")]
    async with VendorClient() as vendors:
        findings = [await check_token(vendors, account) for account in tokens]
        for account in asked:
            findings += await check_account(vendors, account, used, quota=quota)
    return findings


async def check_token(vendors: VendorClient, account: VendorAccess) -> Finding:
    what = f"online {account.provider}"
    try:
        await vendors.obtain_token(account)
    except ProviderError as error:
        return Finding("fail", what, error.message, REMEDIES[error.reason])
    return Finding("ok", what, "a token was obtained; whether it may use the models, only a request tells")


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
    """The models that their vendor withdraws, of those in the manifest, or else of all known ones."""
    what = f"withdrawn {account.provider}"
    try:
        feed = await vendors.deprecations(account)
    except (SettingsError, ProviderError) as error:
        return [Finding("warn", what, f"not known: {error}")]
    found = []
    for profile in used or load_catalogue().with_packages():
        entry = find_deprecation(profile, feed) if profile.provider == account.provider else None
        if entry is not None:
            verdict: Verdict = "fail" if used and entry.status == "withdrawn" else "warn"
            remedy = "`batchgen models --live` lists those still served"
            found.append(Finding(verdict, what, f"{profile.id}: {entry.description}", remedy))
    return found


def refusal_finding(what: str, url: str, error: ProviderError) -> Finding:
    """The finding for a refused question that costs nothing."""
    says = f"{url} answers {error.http_status}"
    if isinstance(error, KeyRejected):
        return Finding("fail", what, f"{says}: the key is not taken", "make a new key in the vendor's console")
    if error.http_status == 429:
        return Finding("warn", what, f"{says}: the key works, its quota is used up for now")
    remedy = "check the base URL, or try again later"
    if isinstance(error, BillingStopped):
        remedy = REMEDIES.get(error.reason, remedy)
    return Finding("fail", what, f"{says}: {error.message}", remedy)


def balance(provider: str, top_up: str, found: Balance | None) -> Finding:
    what = f"balance {provider}"
    if found is None:
        return Finding("warn", what, "not known: this server has no page for it")
    says = f"{found.credits:,.0f} credits left"
    if found.low:
        return Finding("warn", what, f"low: {says}", f"top up at {top_up}")
    return Finding("ok", what, says)


def check_listed_models(provider: str, listed: Sequence[ListedModel]) -> Iterator[Finding]:
    """Compare the known models with the vendor's list."""
    listing = listing_of(provider)
    what, listed_for = f"models {provider}", listing.listed_for
    there = {model.id: model for model in listed}
    account = endpoint_of(provider)
    known = [profile for profile in load_catalogue().with_packages() if endpoint_of(profile.provider) == account]
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
    note = f"{listing.rate_limit_note}; " if listing.rate_limit_note else ""
    yield Finding("ok", f"limits {provider}", f"{note}what batchgen keeps to: `batchgen models`")


def describe_model(model: str, listed: ListedModel) -> str:
    """A model in words, such as `MODEL (131,072 tokens in, batch)`."""
    facts = [f"{listed.input_tokens:,} tokens in"] if listed.input_tokens else []
    facts += ["batch"] if "batchGenerateContent" in listed.methods else []
    return f"{model} ({', '.join(facts)})" if facts else model


def check_clock_skew(date: str | None, now: float) -> Iterator[Finding]:
    """Compare the server's clock with this machine's, to the second (RFC 9110, section 6.6.1)."""
    try:
        skew_s = abs(parsedate_to_datetime(date or "").timestamp() - now)
    except ValueError:
        return
    if skew_s > 60:
        says = f"{formatting.duration(skew_s)} apart from the server's"
        yield Finding("warn", "clock", says, "let the system set its time (NTP)")
    else:
        yield Finding("ok", "clock", "agrees with the server's")


# --- the ledger's server


def check_server(settings: Settings) -> Iterator[Finding]:
    """Check the ledger's server, if one is configured. Nothing is written there."""
    try:
        url = ledger_url(settings)
        if url is None:
            return
        database = PostgreSQL(url, SHARED_SCHEMA, "batchgen doctor")
    except UsageError as error:
        yield Finding("fail", "ledger", str(error), "pip install 'batchgen[cluster]'")
        return
    except LedgerServerFull as error:
        yield Finding("fail", "connections", str(error), LedgerServerFull.REMEDY)
        return
    except SettingsError as error:
        yield Finding(
            "fail", "ledger", str(error), f"check {LEDGER_VARIABLE}, password (PGPASSWORD, ~/.pgpass) and network"
        )
        return
    try:
        yield _check_version(database, redacted(url))
        yield _check_rights(database)
        yield _check_clock(database)
        yield _check_connections(database)
        yield from _check_queue(database)
    except SettingsError as error:
        yield Finding("fail", "ledger", str(error), "may this user read it, and does the server stay up?")
    finally:
        database.close()


def _check_version(database: PostgreSQL, where: str) -> Finding:
    number, name = database.execute(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')"
    ).fetchone()
    says = f"PostgreSQL {name} at {where}"
    if number < MIN_SERVER_VERSION:
        return Finding("fail", "ledger", says, "batchgen needs PostgreSQL 13 or newer")
    return Finding("ok", "ledger", says)


def _check_rights(database: PostgreSQL) -> Finding:
    user, name, may = database.execute(
        "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE')::int"
    ).fetchone()
    if may:
        return Finding("ok", "ledger rights", f"{user} may make schemas in {name}")
    remedy = f'as its owner: GRANT CREATE ON DATABASE "{name}" TO "{user}"'
    return Finding("fail", "ledger rights", f"{user} may not make schemas in {name}, and each job has one", remedy)


def _check_clock(database: PostgreSQL) -> Finding:
    before = time.time()
    there = database.now()
    skew_s = abs(there - (before + time.time()) / 2)
    if skew_s > MAX_CLOCK_SKEW_S:
        says = f"{formatting.duration(skew_s)} apart from that of the ledger's server"
        return Finding("warn", "ledger clock", says, "let both systems set their time (NTP)")
    return Finding("ok", "ledger clock", "agrees with that of the ledger's server")


def _check_connections(database: PostgreSQL) -> Finding:
    """Check whether there is a connection for another worker. Those of other users count too, and are only seen in the
    sum."""
    what = "connections"
    if database.pooled:
        return Finding(
            "ok", what, "a pooler is in front of the server: its max_client_conn limits how many clients it lets in"
        )
    row = database.execute(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int"
        " + coalesce(current_setting('reserved_connections', true)::int, 0), (SELECT sum(numbackends) FROM pg_stat_database)"
    ).fetchone()
    limit, reserved, in_use = map(int, row)
    free = limit - reserved - (in_use - 1)  # this one is about to be closed
    room = max(0, free) // queue.CONNECTIONS
    says = f"max_connections {limit}, {reserved} reserved, {in_use - 1} in use: room for {formatting.count(room, 'more worker')}"
    says += f" of at most {queue.CONNECTIONS} connections each"
    return Finding("ok", what, says) if room else Finding("fail", what, says, LedgerServerFull.REMEDY)


def _check_queue(database: PostgreSQL) -> Iterator[Finding]:
    if database.execute("SELECT to_regclass(?)", (f"{SHARED_SCHEMA}.worker",)).fetchone()[0] is None:
        yield Finding("ok", "queue", "not there yet: the first worker or `run --engine cluster` makes it")
        return
    version = queue.schema_version(database)
    if queue.is_newer(version):
        says = f"its tables are of a newer version of batchgen ({version})"
        yield Finding("fail", "queue", says, "pip install --upgrade 'batchgen[cluster]'")
        return
    if version != queue.VERSION:
        says = "its tables are of an earlier version; the next worker or run takes over what waits in them"
        yield Finding("ok", "queue", says)
        return
    yield Finding("ok", "queue", "its tables are those of this version")
    yield _check_workers(database, queue.STALE_S)


def _check_workers(database: PostgreSQL, stale_s: float) -> Finding:
    rows = database.execute(
        f"SELECT name FROM {SHARED_SCHEMA}.worker WHERE at > {lease.SERVER_NOW} - ? ORDER BY name", (stale_s,)
    ).fetchall()
    waiting = lease.waiting_count(database)
    says = f"{formatting.count(len(rows), 'worker')} alive, {formatting.count(waiting, 'sample')} in the queue"
    if waiting and not rows:
        return Finding("warn", "workers", says, "start `batchgen worker` on a machine that reaches the server")
    return Finding("ok", "workers", says + (f": {', '.join(name for (name,) in rows[:8])}" if rows else ""))
