"""`batchgen serve`: jobs live in a browser, while other processes run them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchgen.cli.history import found_in
from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import folders_of, manifest_folder
from batchgen.cli.options import ledger_option, pass_invocation
from batchgen.errors import SettingsError, UsageError
from batchgen.ledger.location import has_ledger

if TYPE_CHECKING:
    from batchgen.report.dashboard.place import Place
    from batchgen.report.dashboard.server import Dashboard
    from batchgen.report.facts import Facts

PORT = 8765
TOKEN = "BATCHGEN_SERVE_TOKEN"  # noqa: S105 - the variable's name
TOKEN_LEAST = 16
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - refused without a token


@click.command("serve")
@click.argument("jobs", nargs=-1, type=click.Path(), metavar="[JOB]...")
@ledger_option
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another than loopback needs a token.")
@click.option(
    "--token",
    "with_token",
    is_flag=True,
    help=f"Make up a token that visitors need; {TOKEN} sets one, which is not printed.",
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
    token, shown = _token(invocation, with_token)
    if not _loopback(host) and not token:
        raise UsageError(f"--host {host} lets others in: add --token, or set {TOKEN}")
    listener = _listen(host, port)
    try:
        asyncio.run(_serve(invocation, jobs, listener, (host, *names), token, read_only, shown=shown))
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
    return 0


def _token(invocation: Invocation, made_up: bool) -> tuple[str, bool]:
    """(the token, empty for none; whether it is part of the address that is printed). Raises SettingsError."""
    from batchgen.settings import Settings

    given = (Settings.load().text(TOKEN) or "").strip()
    if given and len(given) < TOKEN_LEAST:
        raise SettingsError(f"{TOKEN} has fewer than {TOKEN_LEAST} characters: anyone could guess it")
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
    read_only: bool, *, shown: bool,
) -> None:  # fmt: skip
    from batchgen.cli.report import declared
    from batchgen.report.dashboard.actions import Actions
    from batchgen.report.dashboard.guard import Guard, authority
    from batchgen.report.dashboard.hub import Hub
    from batchgen.report.dashboard.server import Dashboard, serve

    def make(port: int) -> Dashboard:
        host = socket.gethostname() if names[0] in EVERYWHERE else names[0]
        own = ["localhost", "127.0.0.1", "::1", host, *([] if _loopback(names[0]) else [socket.gethostname()])]
        # A name may bear the port of a proxy, or none where that is the usual one.
        hosts = {authority(name, port) for name in own} | {name.lower() for name in names[1:]}
        hub = Hub(
            lambda: places(jobs),
            lambda place, manifest: declared(manifest, invocation),
            lambda: sorted(invocation.secrets, key=len, reverse=True),
            Actions(prospect),
        )
        secret = f"?token={token}" if shown else ""
        invocation.out.line(f"http://{authority(host, port)}/{secret}")
        invocation.out.stream.flush()
        return Dashboard(hub, Guard(frozenset(host.lower() for host in hosts), port, token), read_only)

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends asyncio.run instead
            loop.add_signal_handler(number, stop.set)
    await serve(make, listener, stop)


def places(jobs: tuple[str, ...]) -> list[Place]:
    """As they are now: looked for again and again, so that a job appears when it begins."""
    from batchgen.report.dashboard.place import Place

    if not jobs:
        return [Place(folder) for folder in sorted(found_in(Path("jobs")) | found_in(Path()))]
    found: dict[Path, Place] = {}
    for job in map(Path, jobs):
        if job.is_dir():
            folders = found_in(job) if not has_ledger(job) else set()
            new = [Place(folder) for folder in sorted(folders)] or [Place(job.absolute())]
        else:
            new = _of_manifest(job)
        for place in new:
            found.setdefault(place.folder, place)
    return list(found.values())


def _of_manifest(manifest: Path) -> list[Place]:
    """Its job and its emulated job, those that have begun; else the one that is to be. Empty when the file has gone."""
    from batchgen.report.dashboard.place import Place

    try:
        real = manifest_folder(manifest).absolute()
    except UsageError:
        return []
    return [Place(folder.absolute(), str(manifest.absolute())) for folder in folders_of(manifest) or [real]]


def prospect(place: Place, states: frozenset[str]) -> Facts:
    """What taking up these states again would make and cost. Raises BatchgenError."""
    import batchgen
    from batchgen.cli.retry import origin
    from batchgen.planning.plan import Wishes

    manifest, emulated = origin(place.manifest or str(place.folder), place.folder)
    job = batchgen.load(manifest, output=place.folder, emulate=emulated)
    found = batchgen.plan(job, wishes=Wishes(explicit=True, states=states)).forecast
    facts = {"images": found.images, "usd": found.usd, "known_usd": found.known_usd, "unpriced": found.unpriced}
    return {**facts, "emulated": emulated}
