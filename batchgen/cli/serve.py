"""`batchgen serve`: shows jobs live in a browser while other processes run them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import batchgen
from batchgen.cli.gallery_manifest import manifest_info
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job_folders, find_manifest, manifest_folder, used_folders
from batchgen.cli.listener import listen
from batchgen.errors import SettingsError, UsageError
from batchgen.ledger.location import has_ledger
from batchgen.report.dashboard.actions import Actions
from batchgen.report.dashboard.clients import PARAMETER, add_client
from batchgen.report.dashboard.guard import RequestGuard, authority
from batchgen.report.dashboard.hub import Hub
from batchgen.report.dashboard.job_card import JobLocation
from batchgen.report.dashboard.server import Dashboard, serve
from batchgen.settings import Settings, is_loopback

TOKEN_VARIABLE = "BATCHGEN_SERVE_TOKEN"  # noqa: S105 - the variable's name
MIN_TOKEN_CHARS = 16
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - refused without a token


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The parsed options. names: further host names by which browsers reach it. client: for whom a link is made;
    expires: after this many seconds."""

    jobs: tuple[str, ...]
    port: int
    host: str
    with_token: bool
    names: tuple[str, ...]
    read_only: bool
    client: str | None
    expires: float


def serve_command(invocation: Invocation, **given: Any) -> int:
    options = ServeOptions(**given)
    for job in options.jobs:
        if not Path(job).exists():
            raise UsageError(f"{job}: there is no such manifest or folder")
    token, print_token = _token(invocation, options.with_token or options.client is not None)
    shared = _job_to_share(options) if options.client is not None else None
    if not is_loopback(options.host) and not token:
        raise UsageError(f"--host {options.host} lets others in: add --token, or set {TOKEN_VARIABLE}")
    listener = listen(options.host, options.port)
    try:
        link = _client_link(invocation, options, shared) if shared is not None else ""
        asyncio.run(_serve(invocation, options, listener, (token if print_token else "", token), link))
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
    return 0


def _job_to_share(options: ServeOptions) -> JobLocation:
    """The one job that a client's link opens. Raises UsageError."""
    if options.read_only:
        raise UsageError("--client lets somebody vote, and --read-only lets nobody: leave one of them out")
    found = [location for location in list_job_locations(options.jobs) if has_ledger(location.folder)]
    if len(found) != 1:
        raise UsageError(f"--client is for one job with images, and here are {len(found)}: name its folder")
    return found[0]


def _client_link(invocation: Invocation, options: ServeOptions, location: JobLocation) -> str:
    """The path with the token, which is stored nowhere else."""
    token = add_client(location.folder, options.client or "", options.expires)
    return f"jobs/{location.id}/?{PARAMETER}={token}"


def _token(invocation: Invocation, made_up: bool) -> tuple[str, bool]:
    """(the token, empty for none; whether it is part of the address that is printed). Raises SettingsError."""
    given = (Settings.load().text(TOKEN_VARIABLE) or "").strip()
    if given and len(given) < MIN_TOKEN_CHARS:
        raise SettingsError(f"{TOKEN_VARIABLE} has fewer than {MIN_TOKEN_CHARS} characters: anyone could guess it")
    if given:
        invocation.hide([given])
        return given, False
    return (secrets.token_urlsafe(32), True) if made_up else ("", False)


async def _serve(
    invocation: Invocation, options: ServeOptions, listener: socket.socket, tokens: tuple[str, str], link: str
) -> None:
    """Serve until stopped. tokens: the one to print, empty for none, and the one that is required. link: a client's,
    empty for none."""
    printed, token = tokens

    def make_dashboard(port: int) -> Dashboard:
        host = socket.gethostname() if options.host in ANY_ADDRESS else options.host
        others = [] if is_loopback(options.host) else [socket.gethostname()]
        own = ["localhost", "127.0.0.1", "::1", host, *others]
        # A name may come with the port of a proxy, or without a port if it is the usual one.
        hosts = {authority(name, port) for name in own} | {name.lower() for name in options.names}
        hub = Hub(
            lambda: list_job_locations(options.jobs),
            lambda location, manifest: manifest_info(manifest, invocation),
            lambda: sorted(invocation.secrets, key=len, reverse=True),
            Actions(forecast_retry),
        )
        secret = f"?token={printed}" if printed else ""
        invocation.out.line(f"http://{authority(host, port)}/{secret}")
        if link:
            invocation.out.line(f"http://{authority(host, port)}/{link}")
            until = time.strftime("%d %B %Y, %H:%M", time.localtime(time.time() + options.expires))
            invocation.err.line(f"the second address is for {options.client} alone: to look and to vote, until {until}")
        invocation.out.stream.flush()
        guard = RequestGuard(frozenset(host.lower() for host in hosts), port, token)
        return Dashboard(hub, guard, options.read_only)

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends asyncio.run instead
            loop.add_signal_handler(number, stop.set)
    await serve(make_dashboard, listener, stop)


def list_job_locations(jobs: tuple[str, ...]) -> list[JobLocation]:
    """The jobs as they are now. They are looked for repeatedly, so that a job appears when it begins."""
    if not jobs:
        return [JobLocation(folder) for folder in sorted(find_job_folders(Path("jobs")) | find_job_folders(Path()))]
    found: dict[Path, JobLocation] = {}
    for job in map(Path, jobs):
        if job.is_dir():
            folders = find_job_folders(job) if not has_ledger(job) else set()
            new = [JobLocation(folder) for folder in sorted(folders)] or [JobLocation(job.absolute())]
        else:
            new = _locations_of_manifest(job)
        for location in new:
            found.setdefault(location.folder, location)
    return list(found.values())


def _locations_of_manifest(manifest: Path) -> list[JobLocation]:
    """The locations of a manifest's job and its emulated job that have begun, or else of the one that will. Empty if
    the file is gone."""
    try:
        real = manifest_folder(manifest).absolute()
    except UsageError:
        return []
    return [JobLocation(folder.absolute(), str(manifest.absolute())) for folder in used_folders(manifest) or [real]]


def forecast_retry(location: JobLocation, states: frozenset[str]) -> dict[str, Any]:
    """What retrying these states would make and cost. Raises BatchgenError."""
    manifest, emulated = find_manifest(location.manifest or str(location.folder), location.folder)
    job = batchgen.load(manifest, output=location.folder, emulate=emulated)
    options = batchgen.RunOptions(retry_selection=batchgen.RetrySelection(explicit=True, states=states))
    found = batchgen.plan(job, options=options).forecast
    facts = {"images": found.images, "usd": found.usd, "known_usd": found.known_usd, "unpriced": found.unpriced}
    return {**facts, "emulated": emulated}
