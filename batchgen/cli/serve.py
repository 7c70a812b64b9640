"""`batchgen serve`: jobs live in a browser, while other processes run them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.history import find_job_folders
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import manifest_folder, used_folders
from batchgen.cli.options import ledger_option, pass_invocation
from batchgen.errors import SettingsError, UsageError
from batchgen.ledger.location import has_ledger

if TYPE_CHECKING:
    from batchgen.report.dashboard.job_card import JobLocation
    from batchgen.report.dashboard.server import Dashboard

PORT = 8765
TOKEN_VARIABLE = "BATCHGEN_SERVE_TOKEN"  # noqa: S105 - the variable's name
MIN_TOKEN_CHARS = 16
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - refused without a token


@click.command("serve")
@click.argument("jobs", nargs=-1, type=click.Path(), metavar="[JOB]...")
@ledger_option
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another than loopback needs a token.")
@click.option(
    "--token",
    "with_token",
    is_flag=True,
    help=f"Make up a token that visitors need; {TOKEN_VARIABLE} sets one, which is not printed.",
)
@click.option("--name", "names", multiple=True, metavar="HOST[:PORT]", help="Browsers come by this name; repeatable.")
@click.option("--read-only", is_flag=True, help="Without the buttons to retry and to stop.")
@pass_invocation
def command(
    invocation: Invocation, jobs: tuple[str, ...], port: int, host: str, with_token: bool, names: tuple[str, ...], read_only: bool
) -> int:  # fmt: skip
    """Serve a live dashboard of each JOB, a manifest, a job folder or a folder of jobs; without one, of all in jobs/ and here.

    \b
    It reads their ledgers and nothing else, so it shows a run of any process, and of one that died. It changes nothing
    but by its two buttons, each after a question: take up again what was not made, and stop the run.
    What it prints is its address. Ctrl-C ends it; runs that it began go on.

    \b
    Examples:
      batchgen serve
      batchgen serve catalog.yaml posters/ --port 0
      batchgen serve --host 0.0.0.0 --token --read-only
    """
    for job in jobs:
        if not Path(job).exists():
            raise UsageError(f"{job}: there is no such manifest or folder")
    token, print_token = _token(invocation, with_token)
    if not _loopback(host) and not token:
        raise UsageError(f"--host {host} lets others in: add --token, or set {TOKEN_VARIABLE}")
    listener = _listen(host, port)
    try:
        asyncio.run(_serve(invocation, jobs, listener, (host, *names), token, read_only, print_token=print_token))
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
    return 0


def _token(invocation: Invocation, made_up: bool) -> tuple[str, bool]:
    """(the token, empty for none; whether it is part of the address that is printed). Raises SettingsError."""
    from batchgen.settings import Settings

    given = (Settings.load().text(TOKEN_VARIABLE) or "").strip()
    if given and len(given) < MIN_TOKEN_CHARS:
        raise SettingsError(f"{TOKEN_VARIABLE} has fewer than {MIN_TOKEN_CHARS} characters: anyone could guess it")
    if given:
        invocation.hide([given])
        return given, False
    return (secrets.token_urlsafe(32), True) if made_up else ("", False)


def _loopback(host: str) -> bool:
    from batchgen.settings import is_loopback

    return is_loopback(host)


def _listen(host: str, port: int) -> socket.socket:
    """Raises SettingsError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        hint = "; --port 0 takes any that is free" if port else ""
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}{hint}") from None


async def _serve(
    invocation: Invocation, jobs: tuple[str, ...], listener: socket.socket, names: tuple[str, ...], token: str,
    read_only: bool, *, print_token: bool,
) -> None:  # fmt: skip
    from batchgen.cli.report import manifest_info
    from batchgen.report.dashboard.actions import Actions
    from batchgen.report.dashboard.guard import RequestGuard, authority
    from batchgen.report.dashboard.hub import Hub
    from batchgen.report.dashboard.server import Dashboard, serve

    def make_dashboard(port: int) -> Dashboard:
        host = socket.gethostname() if names[0] in ANY_ADDRESS else names[0]
        own = ["localhost", "127.0.0.1", "::1", host, *([] if _loopback(names[0]) else [socket.gethostname()])]
        # A name may bear the port of a proxy, or none where that is the usual one.
        hosts = {authority(name, port) for name in own} | {name.lower() for name in names[1:]}
        hub = Hub(
            lambda: list_job_locations(jobs),
            lambda location, manifest: manifest_info(manifest, invocation),
            lambda: sorted(invocation.secrets, key=len, reverse=True),
            Actions(forecast_retry),
        )
        secret = f"?token={token}" if print_token else ""
        invocation.out.line(f"http://{authority(host, port)}/{secret}")
        invocation.out.stream.flush()
        return Dashboard(hub, RequestGuard(frozenset(host.lower() for host in hosts), port, token), read_only)

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends asyncio.run instead
            loop.add_signal_handler(number, stop.set)
    await serve(make_dashboard, listener, stop)


def list_job_locations(jobs: tuple[str, ...]) -> list[JobLocation]:
    """As they are now: looked for again and again, so that a job appears when it begins."""
    from batchgen.report.dashboard.job_card import JobLocation

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
    """Its job and its emulated job, those that have begun; else the one that is to be. Empty when the file has gone."""
    from batchgen.report.dashboard.job_card import JobLocation

    try:
        real = manifest_folder(manifest).absolute()
    except UsageError:
        return []
    return [JobLocation(folder.absolute(), str(manifest.absolute())) for folder in used_folders(manifest) or [real]]


def forecast_retry(location: JobLocation, states: frozenset[str]) -> dict[str, Any]:
    """What taking up these states again would make and cost. Raises BatchgenError."""
    import batchgen
    from batchgen.cli.retry import find_manifest
    from batchgen.planning.plan import RetrySelection

    manifest, emulated = find_manifest(location.manifest or str(location.folder), location.folder)
    job = batchgen.load(manifest, output=location.folder, emulate=emulated)
    found = batchgen.plan(job, retry_selection=RetrySelection(explicit=True, states=states)).forecast
    facts = {"images": found.images, "usd": found.usd, "known_usd": found.known_usd, "unpriced": found.unpriced}
    return {**facts, "emulated": emulated}
