"""A real PgBouncer in transaction mode before a test's PostgreSQL: each transaction may get another process of the server."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import PASSWORD, USER, PostgresServer, as_user, free_port

MISSING = "NOT TESTED: no PgBouncer here (Debian: apt-get install pgbouncer)"


def program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def pooling(postgres: PostgresServer, server_connections: int = 3) -> Iterator[int]:
    """The port at which it pools every database of the server: fewer processes there than clients here. Skips the test,
    loudly, without the program."""
    binary = program()
    if binary is None:
        pytest.skip(MISSING)
    folder, port = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir=postgres.folder)), free_port()
    (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={postgres.host} port={postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {folder}/users\n"
        f"pool_mode = transaction\nmax_client_conn = 500\ndefault_pool_size = {server_connections}\n"
        f"logfile = {folder}/log\npidfile = {folder}/pid\n"
    )
    user = as_user()
    if user:
        for path in (folder, folder / "users", folder / "ini"):
            os.chown(path, user["user"], user["group"])  # type: ignore[arg-type]
    process = subprocess.Popen([binary, "-q", str(folder / "ini")], stderr=subprocess.DEVNULL, **user)  # type: ignore[call-overload]
    try:
        _wait_until_it_answers(process, port, folder)
        yield port
    finally:
        process.terminate()
        process.wait(30.0)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    import psycopg

    give_up_s = time.monotonic() + 30.0
    while True:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres", connect_timeout=5).close()
            return
        assert time.monotonic() < give_up_s, "PgBouncer does not come up"
        time.sleep(0.05)
