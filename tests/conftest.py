"""Virtual time for rules, a bucket on loopback, and small makers of records that many tests need."""

from __future__ import annotations

import gc
import ipaddress
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncio_throttle.throttler
import hypothesis
import pytest

from batchgen.store import spool

pytest.register_assert_rewrite("tests.support")  # before anything of it is imported
from tests.support import fork_server  # noqa: E402
from tests.support.paths import ROOT  # noqa: E402
from tests.support.postgres import running  # noqa: E402
from tests.support.virtual_time import VirtualLoop  # noqa: E402

if TYPE_CHECKING:
    from tests.support.s3_server import Gate

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

pytest_plugins = ["tests.support.marked_key"]

# Some machines forbid Python to keep compiled modules. The suite starts hundreds of interpreters and rewrites its own
# modules in each of its processes: without them, every one compiles all of it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# Tests make tens of thousands of small files: in memory, where there is room, for half of the system's time. What a power
# cut or a full disk leaves behind, the tests that ask for it lay out themselves.
MEMORY, ROOM_BYTES = Path("/dev/shm"), 4 << 30  # noqa: S108 - as in any temporary folder, all is made for its owner alone


def _has_room() -> bool:
    if not os.access(MEMORY, os.W_OK | os.X_OK):
        return False
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    free_bytes = shutil.disk_usage(MEMORY).free
    return available is not None and min(free_bytes, int(available[1]) << 10) > ROOM_BYTES


IN_MEMORY = ""
if "TMPDIR" not in os.environ and sys.platform == "linux" and _has_room():
    IN_MEMORY = os.environ["TMPDIR"] = str(MEMORY)
    tempfile.tempdir = None  # it is looked up anew


SESSION = pytest.StashKey[pytest.Session]()

# Rooms whose tests wait for processes, servers and a browser, the slowest first.
WAITING = (
    "witnesses",
    "engine/cluster",
    "engine/recovery",
    "engine/batch",
    "report/dashboard",
    "engine",
    "cli",
    "report",
    "scheduling",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Twice as many as there are cores: a test waits for other processes, servers and clocks as long as it runs."""
    return 2 * (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: Sequence[Any]) -> None:
    """Workers are forked from a process that has imported all but the tests."""
    for spec in specs:
        if spec.popen and not spec.python:
            spec.python = shlex.quote(fork_server.WORKER)


def pytest_configure() -> None:
    """Under nohup, in a shell's background or below a supervisor, signals may be ignored or blocked. The processes that
    tests start must not inherit that: a signal with a handler is one at its default for them (signal(7)), and here
    it is ignored as before."""
    if not hasattr(signal, "pthread_sigmask"):
        return
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # these Python ignores, and gives back
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[SESSION] = session


def pytest_unconfigure(config: pytest.Config) -> None:
    """When all has passed, nobody looks at the files any more: they go, and the memory that they lie in is free."""
    factory = getattr(config, "_tmp_path_factory", None)
    session = config.stash.get(SESSION, None)  # asked now: the search for the key may have made it fail
    passed = session is not None and session.exitstatus == pytest.ExitCode.OK
    if IN_MEMORY and passed and factory is not None and not config.option.basetemp:
        shutil.rmtree(factory.getbasetemp(), ignore_errors=True)


def pytest_collection() -> None:
    """What is imported and collected stays: the garbage collector need not look at it, now or after each test."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rooms that wait come first, and in each its largest files: a long one begun last would be waited for alone."""
    tests = Counter(item.path for item in items)
    turns = dict[Path, tuple[int, int]]()
    for path, count in tests.items():
        within = path.relative_to(ROOT / "tests").as_posix()
        room = next((n for n, name in enumerate(WAITING) if within.startswith(f"{name}/")), len(WAITING))
        turns[path] = room, -count
    items.sort(key=lambda item: turns[item.path])


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test shares quota or spend with anything but itself, nor touches the home folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def reserved_bytes(monkeypatch: pytest.MonkeyPatch) -> int:
    """What a run reserves on its disk. Runs of this process reserve little: thousands of them would fill 16 MB each."""
    real = spool.RESERVED_BYTES
    monkeypatch.setattr(spool, "RESERVED_BYTES", 1 << 16)
    return real


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """No test of this process asks for another host, whatever it forgets to set; one that does fails.

    own_hosts: the test makes network namespaces on this machine, with addresses that lead nowhere else.
    """
    own = "10.177." if request.node.get_closest_marker("own_hosts") else "127."
    connect, find = socket.socket.connect, socket.getaddrinfo
    wanted: list[str] = []

    def refuse(host: Any) -> None:
        wanted.append(str(host))
        raise ConnectionRefusedError(f"a test wanted to reach {host}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        far = inet and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        if far and not address[0].startswith(own):
            refuse(address[0])
        connect(self, address)

    def guarded_find(host: Any, *rest: Any, **more: Any) -> Any:
        near = host in (None, "", "localhost", "127.0.0.1", "::1", socket.gethostname())
        if not near and not str(host).startswith(own):
            refuse(host)
        return find(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_find)
    yield
    assert wanted == []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on virtual time; a wait for nothing fails as a deadlock."""

    def runner(main: Coroutine[Any, Any, Any]) -> Any:
        loop = VirtualLoop()
        monkeypatch.setattr(asyncio_throttle.throttler, "time", SimpleNamespace(monotonic=loop.time))
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    return runner


@pytest.fixture(scope="session")
def postgres():
    """One server for all tests of the session that only ask it; it forgets what it holds when the machine fails."""
    with running("fsync=off", "synchronous_commit=off", "full_page_writes=off") as server:
        yield server


@pytest.fixture
def ledger_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the ledgers of this test's benches are: `tests.support.postgres.both_ledgers`."""
    if request.param == "postgresql":
        monkeypatch.setenv("BATCHGEN_LEDGER", request.getfixturevalue("database"))
    return str(request.param)


@pytest.fixture
def database(postgres):
    """The URL of a new and empty database, which goes with the test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield postgres.new_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def _server() -> Iterator[Gate]:
    from tests.support import s3_server  # moto is slow to import, and few tests need it

    with s3_server.running() as gate:
        yield gate


@pytest.fixture
def gate(_server: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """An empty bucket, and its address and credentials in the environment."""
    from tests.support import s3_server

    with s3_server.empty_bucket(_server, monkeypatch):
        yield _server
