"""A real PostgreSQL server on loopback for the tests that need one, from the programs of the distribution."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

USER, PASSWORD = "batchgen", "sesame-of-the-tests"
MISSING = "NOT TESTED: no PostgreSQL server's programs here (Debian: apt-get install postgresql)"


def both_ledgers(test: Callable[..., Any]) -> Callable[..., Any]:
    """The test once with a ledger in the job folder and once with one in PostgreSQL."""
    kinds = pytest.mark.parametrize("ledger_kind", ["sqlite", "postgresql"], indirect=True)
    marked: Callable[..., Any] = pytest.mark.usefixtures("ledger_kind")(kinds(test))
    return marked


def programs() -> Path | None:
    """The folder of initdb and postgres; a distribution may keep them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists() and (place / "initdb").exists()), None)


@dataclass
class PostgresServer:
    """Its own data folder and port; the server refuses to run as root, so root starts it as another user."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    host: str = "127.0.0.1"
    inside: Sequence[str] = ()  # the command that leads to the host it is to run on

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}:{PASSWORD}@{self.host}:{self.port}/{database}"

    def start(self, *settings: str) -> None:
        """settings: as `postgres -c` takes them."""
        given = [
            "listen_addresses=" + self.host,
            f"port={self.port}",
            "unix_socket_directories=",
            "max_connections=200",
            *settings,
        ]
        command = [*self.inside, str(_bin() / "postgres"), "-D", str(self.folder / "data")]
        user = {} if self.inside else as_user()
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        with contextlib.closing(log):
            self.process = subprocess.Popen(
                [*command, *(part for setting in given for part in ("-c", setting))],
                stdout=log, stderr=log, start_new_session=True, **user,
            )  # fmt: skip
        give_up_s = time.monotonic() + 60.0
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < give_up_s, "the server does not come up"
            time.sleep(0.05)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: at once and in order; SIGQUIT: as in a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30.0)

    def new_database(self, name: str) -> str:
        """The URL of a database of its own."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Whoever is still connected is cut off."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _bin() -> Path:
    found = programs()
    assert found is not None
    return found


def as_user() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres" if _has_user("postgres") else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _other_user() -> list[str]:
    """The same for setpriv(1)."""
    user = as_user()
    return [f"--reuid={user['user']}", f"--regid={user['group']}", "--clear-groups"]


def _has_user(name: str) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return True
    return False


def _scram_verifier(password: str) -> str:
    """What the server keeps of it (RFC 5803), with one round in place of 4096: each login costs both sides as many."""
    salt = b"salt of the tests"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client, server = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    said = [base64.b64encode(each).decode() for each in (salt, hashlib.sha256(client).digest(), server)]
    return f"SCRAM-SHA-256$1:{said[0]}${said[1]}:{said[2]}"


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(*settings: str, host: str = "127.0.0.1", inside: Sequence[str] = ()) -> Iterator[PostgresServer]:
    """A new and empty server. Skips the test, loudly, where there are no programs of one.

    inside: what leads to a host of the test's own, where the server then listens at `host`.
    """
    if programs() is None:
        pytest.skip(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="batchgen-pg-"))
    as_other = [*inside, "setpriv", *_other_user()] if inside else []
    server = PostgresServer(folder, 5432 if inside else free_port(host), host=host, inside=as_other)
    try:
        user = as_user()
        if user:
            os.chown(folder, user["user"], user["group"])  # type: ignore[arg-type]
        secret = folder / "password"
        secret.write_text(_scram_verifier(PASSWORD))
        secret.chmod(0o644)
        command = ["initdb", "-D", str(folder / "data"), "-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(
            [str(_bin() / command[0]), *command[1:], "--no-sync", "--encoding=UTF8", "--locale=C"],
            check=True, stdout=subprocess.DEVNULL, **as_user(),
        )  # fmt: skip
        if inside:
            with open(folder / "data" / "pg_hba.conf", "a") as rules:
                rules.write("host all all 10.177.0.0/16 scram-sha-256\n")
        server.start(*settings)
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)
