"""Three hosts on this machine, each a network namespace with an address of its own: two for workers, one for the servers.

              worker host a (10.177.1.1) ── 10.177.1.2 ┐
              worker host b (10.177.2.1) ── 10.177.2.2 ├ host c: PostgreSQL and the emulator at 10.177.9.9
this process, which submits (10.177.3.1) ── 10.177.3.2 ┘
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import postgres

SERVER = "10.177.9.9"
PORT = 8899  # of the emulator, and on each worker's host of what leads to it
NAMES = {"a": 1, "b": 2}
MISSING = "NOT TESTED: hosts of one's own need root and ip(8) (Debian: apt-get install iproute2)"
# A worker sends a key over plain HTTP to its own host only, so each has a door there to the emulator.
DOOR = """
import asyncio, sys
async def pipe(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
async def door(reader, writer):
    try:
        other, to = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    except OSError:
        writer.close()
        return
    await asyncio.gather(pipe(reader, to), pipe(other, writer))
async def main():
    async with await asyncio.start_server(door, "127.0.0.1", int(sys.argv[2])) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdout=subprocess.DEVNULL)


@dataclass
class Hosts:
    prefix: str
    url: str = ""  # of the database
    emulator: str = f"http://127.0.0.1:{PORT}"  # as workers see it
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def on(self, host: str, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        """A process on that host."""
        inside = ["nsenter", f"--net=/run/netns/{self.prefix}{host}", *command]
        process = subprocess.Popen(inside, start_new_session=True, **options)  # type: ignore[call-overload]
        self.started.append(process)
        return process  # type: ignore[no-any-return]

    def cut(self, host: str) -> None:
        """Nothing gets to the host or away from it any more; nobody is told."""
        ip("-n", f"{self.prefix}c", "link", "set", f"to-{host}", "down")

    def mend(self, host: str) -> None:
        ip("-n", f"{self.prefix}c", "link", "set", f"to-{host}", "up")
        ip("-n", f"{self.prefix}c", "route", "replace", f"10.177.{NAMES[host]}.1", "dev", f"to-{host}")


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Skips the test, loudly, where there can be none."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nsenter"):
        pytest.skip(MISSING)
    if postgres.programs() is None:
        pytest.skip(postgres.MISSING)
    made = Hosts(f"bg{os.getpid()}")
    with ExitStack() as stack:
        stack.callback(_remove, made)
        _wire(made)
        made.url = stack.enter_context(_database(made))
        _serve(made)
        yield made


def _wire(made: Hosts) -> None:
    for host in (*NAMES, "c"):
        ip("netns", "add", f"{made.prefix}{host}")
        ip("-n", f"{made.prefix}{host}", "link", "set", "lo", "up")
    ip("-n", f"{made.prefix}c", "addr", "add", f"{SERVER}/32", "dev", "lo")
    for host, number in NAMES.items():
        here, there = f"{made.prefix}{host}", f"{made.prefix}c"
        ip("link", "add", "eth0", "netns", here, "type", "veth", "peer", "name", f"to-{host}", "netns", there)
        _address(["-n", here], "eth0", f"10.177.{number}.1")
        _address(["-n", there], f"to-{host}", f"10.177.{number}.2")
        ip("-n", here, "route", "add", SERVER, "via", f"10.177.{number}.2")
    outside = f"{made.prefix}r"
    ip("link", "add", outside, "type", "veth", "peer", "name", "to-r", "netns", f"{made.prefix}c")
    _address([], outside, "10.177.3.1")
    _address(["-n", f"{made.prefix}c"], "to-r", "10.177.3.2")
    ip("route", "replace", SERVER, "via", "10.177.3.2", "dev", outside)  # one of a process that was killed may be left


def _address(where: list[str], device: str, address: str) -> None:
    ip(*where, "addr", "add", f"{address}/30", "dev", device)
    ip(*where, "link", "set", device, "up")


@contextmanager
def _database(made: Hosts) -> Iterator[str]:
    inside = ["nsenter", f"--net=/run/netns/{made.prefix}c"]
    with postgres.running("fsync=off", host=SERVER, inside=inside) as server:
        yield server.new_database("hosts")


def _serve(made: Hosts) -> None:
    command = [sys.executable, "-m", "batchgen", "emulate", "--host", SERVER, "--allow-remote", "--port", str(PORT)]
    made.on("c", [*command, "--rpm", "0", "--picture", "tiny", "--latency", "2-2"], stdout=subprocess.DEVNULL)
    for host in NAMES:
        made.on(host, [sys.executable, "-c", DOOR, SERVER, str(PORT)])
    give_up_s = time.monotonic() + 30.0
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://{SERVER}:{PORT}/_emulator/stats"):
            return
        assert time.monotonic() < give_up_s, "the emulator does not come up"
        time.sleep(0.1)


def _remove(made: Hosts) -> None:
    for process in made.started:
        process.kill()
        process.wait()
    for host in (*NAMES, "c"):
        subprocess.run(["ip", "netns", "del", f"{made.prefix}{host}"], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["ip", "link", "del", f"{made.prefix}r"], check=False, stderr=subprocess.DEVNULL)
    Path(f"/run/netns/{made.prefix}c").unlink(missing_ok=True)
