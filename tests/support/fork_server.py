"""Python processes forked from one that has imported everything: as cold ones in all that a test can see, but sooner.

Start PYTHON where you would start `sys.executable`, with `-m MODULE` or `-c CODE`, through subprocess or asyncio. The process
is this one's own child, with the environment, folder, streams and umask it was given and signals at their defaults; it ends,
and dies, for real. What only a start can pass on, such as an ignored signal or PYTHONIOENCODING, makes it one. Start
`sys.executable` where a test is about starting, what is imported, or memory.

PARENT is for programs that start batchgen themselves: the processes that such a one starts by its `sys.executable` are forked
too, by a child of its own that it does not know of. WORKER is for processes of pytest-xdist, which have such a child from the
start in place of a server that has to import everything once more.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import functools
import gc
import inspect
import io
import itertools
import json
import os
import pkgutil
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

EXECUTABLE = sys.executable
PYTHON, PARENT, WORKER = EXECUTABLE, EXECUTABLE, EXECUTABLE
if sys.platform == "linux":
    PYTHON, PARENT, WORKER = (
        f"{EXECUTABLE} (forked{more})" for more in ("", ", and what it starts", ", with a server")
    )
INHERITED = "TESTS_FORK_SERVER"  # environment variable of a worker: the descriptor that leads to its server
READ_AT_START = re.compile(
    "PYTHON(?!UNBUFFERED)|LC_|LANG|SSL_CERT_"
)  # variables that only a start or an import looks at
ONLY_WITH_EXEC = ("preexec_fn", "pass_fds", "shell", "gid", "gids", "uid")  # arguments of Popen
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")  # as Popen names their ends
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2): a process whose parent has ended becomes a child of this one
HEAVY = ("aiohttp.web", "jinja2", "obstore.store", "psycopg", "structlog", "PIL.Image")

_execute_child = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_parameters = inspect.signature(_execute_child)
_one_at_a_time = threading.Lock()
_forked = {PYTHON, PARENT, WORKER} - {EXECUTABLE}  # names of the program


def _start(self: Any, args: Any, *more: Any) -> None:
    """In place of `Popen._execute_child`."""
    if not isinstance(args, list | tuple) or args[0] not in _forked:
        _execute_child(self, args, *more)
        return
    given = _parameters.bind(self, args, *more).arguments
    env = {os.fsdecode(name): os.fsdecode(value) for name, value in (given["env"] or os.environ).items()}
    with _one_at_a_time:
        server, of_server = _server()
        if _needs_a_start(given, env, of_server):
            _execute_child(**{**given, "args": [EXECUTABLE, *args[1:]], "executable": None})
            return
        asked = {
            "as": args[0],
            "argv": [os.fsdecode(each) for each in args[1:]],
            "env": env,
            "cwd": os.fsdecode(given["cwd"] or os.getcwd()),
            "umask": int(re.findall(r"Umask:\s+(\d+)", Path("/proc/self/status").read_text())[0], 8),
            "new_session": given["start_new_session"],
        }
        streams = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        prctl = ctypes.CDLL(None).prctl
        prctl(SUBREAPER, 1, 0, 0, 0)
        try:
            fds = [own if fd == -1 else fd for own, fd in enumerate(streams)]
            socket.send_fds(server, [json.dumps(asked).encode()], fds)
            self.pid = int(server.recv(32))
        finally:
            prctl(SUBREAPER, 0, 0, 0, 0)
    os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises if it is not a child of this one
    self._child_created = True
    self._close_pipe_fds(*map(given.get, PIPES))


def _needs_a_start(given: dict[str, Any], env: dict[str, str], of_server: dict[str, str]) -> bool:
    """Whether something is given that only exec(3) or an interpreter's start can pass on."""
    seen = {name: value for name, value in env.items() if READ_AT_START.match(name)}
    handlers = [signal.getsignal(number) for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}]
    option = next((each for each in given["args"][1:] if each not in ("-P", "-u")), "")
    return (
        option not in ("-m", "-c")
        or any(given[name] not in (None, (), False) for name in ONLY_WITH_EXEC)
        or any(
            value not in (of_server.get(name), str(ROOT)) for name, value in seen.items()
        )  # PYTHONPATH: it knows ROOT
        or signal.SIG_IGN in handlers
    )


def preload(*modules: str) -> None:
    """What many processes of a file of tests import, and few others."""
    if _forked:
        with _one_at_a_time:
            server, _ = _server()
            server.send(json.dumps({"import": modules}).encode())
            server.recv(32)


@functools.cache
def _server() -> tuple[socket.socket, dict[str, str]]:
    """A server of this process's own, which ends with it, and the environment that it was started in."""
    if _inherited:
        return socket.socket(fileno=int(_inherited)), _environment
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = dict(os.environ)
    with theirs:
        fd = theirs.fileno()
        command = [EXECUTABLE, "-m", __name__, str(fd)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, pass_fds=[fd])
    atexit.register(process.wait)
    atexit.register(ours.close)  # done before
    return ours, environment


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """What a process was forked for, in that process; None in the server, at its end."""
    import batchgen
    from batchgen.profiles.file import built_in_profiles

    sys.path.insert(1, str(ROOT))
    for module in pkgutil.walk_packages(batchgen.__path__, "batchgen."):
        if not module.name.endswith("__main__"):
            _import(module.name)
    _import(*HEAVY)
    built_in_profiles()  # read once; they are the package's own, whatever a process is given
    asyncio.run(_serve_nothing())  # compiles the addresses of its routes
    gc.collect()
    gc.freeze()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # for the group: the processes that it serves decide
        signal.signal(number, lambda *_: None)
    environment = dict(os.environ)
    while True:
        message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            return None
        asked: dict[str, Any] = json.loads(message)
        if "import" in asked:
            _import(*asked["import"])
            gc.freeze()
            connection.send(b"done")
            continue
        assert len(os.listdir("/proc/self/task")) == 1  # a lock that another thread held would stay locked
        born, adopted = os.pipe(), os.pipe()
        if not (between := os.fork()):
            if child := os.fork():
                os.write(born[1], b"%d" % child)
                os._exit(0)
            os.close(adopted[1])
            os.read(adopted[0], 1)  # ends when the process between has, and the server has seen it
            connection.detach()
            if asked["new_session"]:
                os.setsid()
            to_server = None
            if asked["as"] in (PARENT, WORKER):
                to_server, connection = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                if not os.fork():  # its own server, which goes on here
                    os.closerange(3, connection.fileno())
                    os.closerange(connection.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
                    to_server.detach()
                    continue
                connection.detach()
            _leave(streams, to_server)
            if to_server and asked["as"] == WORKER:
                asked["env"][INHERITED] = str(to_server.detach())
            elif to_server:
                _fork_what_this_one_starts(to_server, environment)
            return asked
        os.waitpid(between, 0)
        connection.send(os.read(born[0], 32))
        for fd in (*born, *adopted, *streams):
            os.close(fd)


async def _serve_nothing() -> None:
    from batchgen.emulator import serve

    await (await serve()).close()


def _import(*modules: str) -> None:
    for name in modules:
        with suppress(ImportError):
            import_module(name)


def _leave(streams: list[int], to_server: socket.socket | None) -> None:
    """Leave behind what was the server's, in the process that it has forked."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    kept = to_server.fileno() if to_server else 3
    os.closerange(3, kept)
    os.closerange(kept + (to_server is not None), os.sysconf("SC_OPEN_MAX"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]


def _fork_what_this_one_starts(to_server: socket.socket, environment: dict[str, str]) -> None:
    global _server
    _server = functools.cache(lambda: (to_server, environment))
    _forked.clear()
    _forked.add(EXECUTABLE)
    subprocess.Popen._execute_child = _start  # type: ignore[attr-defined]


def _be(asked: dict[str, Any]) -> None:
    """Run the module or the code as the interpreter would have."""
    os.umask(asked["umask"])
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    options = [*itertools.takewhile(lambda each: each in ("-P", "-u"), asked["argv"])]
    unbuffered = "-u" in options or bool(asked["env"].get("PYTHONUNBUFFERED"))
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        was = getattr(sys, f"__{name}__")
        raw = open(fd, "wb" if fd else "rb", 0 if fd and unbuffered else -1, closefd=False)  # noqa: SIM115
        by_line = not (fd and unbuffered) and (fd == 2 or raw.isatty())
        stream = io.TextIOWrapper(raw, was.encoding, was.errors, "\n" if fd else None, by_line, bool(fd and unbuffered))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    option, what, *argv = asked["argv"][len(options) :]
    sys.path[:1] = [] if "-P" in options else [asked["cwd"] if option == "-m" else ""]
    sys.argv = [option, *argv]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    assert option == "-c", asked["argv"]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), main.__dict__)  # noqa: S102 - a test's own


def _end(main: Callable[[dict[str, Any]], None], asked: dict[str, Any]) -> None:
    """As the interpreter ends, but for taking all its modules apart, which would copy every page of the server's."""
    code = 0
    try:
        main(asked)
    except SystemExit as left:
        if not isinstance(left.code, int | None):
            raise
        code = left.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, ValueError):
        sys.exit(code)  # to be told of it in the interpreter's words
    os._exit(code & 0xFF)


if __name__ == "__main__":
    if (asked := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _end(_be, asked)
elif _forked:
    _inherited, _environment = os.environ.pop(INHERITED, ""), dict(os.environ)
    subprocess.Popen._execute_child = _start  # type: ignore[attr-defined]
