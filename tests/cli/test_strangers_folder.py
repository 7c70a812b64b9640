"""A folder from a stranger: neither its manifest nor its `.env` decides where a key of the user's goes, or what is read."""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.marked_key import KEY
from tests.support.postgres import PASSWORD

OWN_KEY = "key-of-the-folder-itself"
SECRET = "what-only-the-user-knows"
ITEMS = "items:\n  - {id: mug, prompt: A mug, model: flash}\n"
NO_MODEL = b'{"error": {"code": 404, "status": "NOT_FOUND", "message": "no such model"}}'


class Listener(socketserver.ThreadingTCPServer):
    """A server on this machine that notes every connection and all that is sent on it."""

    daemon_threads = True

    def __init__(self, answer: Callable[[bytes], bytes] | None = None) -> None:
        self.received: list[bytes] = []
        self.answer = answer or (lambda request: http(404, NO_MODEL))
        super().__init__(("127.0.0.1", 0), _Talk)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def all(self) -> str:
        return b"".join(self.received).decode(errors="replace")


class _Talk(socketserver.BaseRequestHandler):
    server: Listener

    def handle(self) -> None:
        at = len(self.server.received)
        self.server.received.append(b"")
        while data := self.request.recv(65536):
            self.server.received[at] += data
            self.request.sendall(self.server.answer(data))


def http(status: int, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    opened: list[Listener] = []

    def start(answer: Callable[[bytes], bytes] | None = None) -> Listener:
        opened.append(Listener(answer))
        return opened[-1]

    yield start
    for listener in opened:
        listener.shutdown()
        listener.server_close()


@pytest.fixture
def stranger(listen) -> Listener:
    return listen()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What came from a stranger, below what is the user's."""
    path = tmp_path / "theirs"
    path.mkdir()
    (path / "job.yaml").write_text(ITEMS)
    (tmp_path / "secret").write_text(SECRET)
    return path


@pytest.fixture
def run(spawn, folder) -> Callable[..., tuple[int, str]]:
    """The exit code of `batchgen run` as a process, and all that it said."""

    def start(*argv: str, **environ: str) -> tuple[int, str]:
        process = spawn(*(argv or ("run", str(folder / "job.yaml"))), **environ)
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err

    return start


def env_file(folder: Path, **values: str) -> Path:
    path = folder / ".env"
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    path.chmod(0o600)
    return path


# --- where requests go


@pytest.mark.parametrize(
    ("model", "more", "beside"),
    [
        ("flash", {}, {"BATCHGEN_GEMINI_BASE_URL": "{0}"}),
        ("flash", {}, {"GOOGLE_GEMINI_BASE_URL": "{0}", "AIMLAPI_API_KEY": OWN_KEY}),
        ("flash", {"GEMINI_API_KEY": "", "GEMINI_API_KEY_FILE": "secret"}, {"BATCHGEN_GEMINI_BASE_URL": "{0}"}),
        ("vendor/model", {}, {"BATCHGEN_AIMLAPI_BASE_URL": "{0}", "GEMINI_API_KEY": OWN_KEY}),
    ],
    ids=["gemini", "google's name, another key", "key file", "aimlapi"],
)
def test_an_address_from_the_folder_gets_no_key_of_the_user(run, folder, stranger, model, more, beside):
    (folder / "job.yaml").write_text(ITEMS.replace("flash", model))
    path = env_file(folder, **{name: value.format(stranger.url) for name, value in beside.items()})
    code, said = run(**more)
    name = next(iter(beside))
    assert (code, stranger.received) == (5, [])
    assert (
        f"{name} in {path} would send your key to {stranger.url}. If that is what you want, set {name} in the environment"
        in said
    )


@pytest.mark.parametrize("beside", [{}, {"GEMINI_API_KEY_FILE": "key"}], ids=["key", "key file"])
def test_an_address_from_the_folder_gets_the_key_that_stands_beside_it_and_it_is_said(run, folder, stranger, beside):
    (folder / "key").write_text(f"{OWN_KEY}\n")
    keys = beside or {"GOOGLE_API_KEY": OWN_KEY}
    path = env_file(folder, BATCHGEN_GEMINI_BASE_URL=stranger.url, **keys)
    code, said = run()
    assert (code, OWN_KEY in stranger.all, KEY in stranger.all) == (4, True, False)
    assert said.count(f"requests for gemini go to {stranger.url}, as BATCHGEN_GEMINI_BASE_URL in {path} says") == 1
    assert OWN_KEY not in said


def test_an_address_from_the_environment_wins_over_one_of_the_folder_whatever_their_names(
    run, folder, stranger, listen
):
    own = listen()
    env_file(folder, BATCHGEN_GEMINI_BASE_URL=stranger.url, GEMINI_API_KEY=OWN_KEY)
    log = folder / "log"
    code, said = run("run", str(folder / "job.yaml"), "--log-file", str(log), GOOGLE_GEMINI_BASE_URL=own.url)
    assert (code, stranger.received, KEY in own.all) == (4, [], True)
    note = f"requests for gemini go to {own.url}, as GOOGLE_GEMINI_BASE_URL says"
    assert (said.count(note), log.read_text().count(note)) == (1, 1)


@pytest.mark.parametrize("argv", [("doctor", "--online"), ("models", "--live")])
def test_no_command_asks_the_server_of_the_folder_that_it_stands_in(run, folder, stranger, monkeypatch, argv):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    env_file(folder, BATCHGEN_GEMINI_BASE_URL=stranger.url, BATCHGEN_AIMLAPI_BASE_URL=stranger.url)
    code, said = run(*argv)
    assert (code, stranger.received) == (5, [])
    assert "would send your key" in said


def test_an_emulated_run_of_the_folder_asks_the_emulator_alone(run, folder, stranger):
    env_file(folder, BATCHGEN_GEMINI_BASE_URL=stranger.url)
    code, said = run("run", str(folder / "job.yaml"), "--emulate")
    assert (code, stranger.received, "requests for" in said) == (0, [], False)


@pytest.mark.parametrize("path", [":{0}/x", "@127.0.0.1:{0}/x", "//127.0.0.1:{0}/x"])
def test_a_manifest_cannot_name_another_server_by_a_path(run, folder, stranger, path):
    path = path.format(stranger.port)
    (folder / "job.yaml").write_text(
        f'models:\n  acme/paint: {{provider: aimlapi, wire: {{path: "{path}"}}}}\n'
        + ITEMS.replace("flash", "acme/paint")
    )
    # The host alone: what follows is what the manifest says.
    code, said = run(BATCHGEN_AIMLAPI_BASE_URL="http://127.0.0.1")
    assert (code, stranger.received) == (2, [])
    assert "job.yaml:2:42: models.acme/paint.wire.path: must be a path below the provider's address" in said


@pytest.mark.parametrize("hop", [False, True], ids=["link", "redirect"])
def test_a_link_of_an_answer_leads_to_no_other_service_of_this_machine(run, folder, stranger, listen, hop):
    def answer(request: bytes) -> bytes:
        if request.startswith(b"GET"):
            return http(302, b"", f"Location: {stranger.url}/x")
        link = f"{own.url}/a.png" if hop else f"{stranger.url}/x"
        return http(200, json.dumps({"data": [{"url": link}]}).encode())

    own = listen(answer)
    (folder / "job.yaml").write_text(ITEMS.replace("flash", "acme/paint"))
    code, said = run(BATCHGEN_AIMLAPI_BASE_URL=own.url)
    assert (code, stranger.received) == (4, [])
    assert "link_refused" in said


def test_objects_of_the_user_are_not_sent_to_the_server_of_the_folder(run, folder, stranger):
    env_file(folder, BATCHGEN_GEMINI_BASE_URL=stranger.url, GEMINI_API_KEY=OWN_KEY)
    (folder / "job.yaml").write_text("items:\n  - {id: a, prompt: p, references: ['s3://private/plan.png']}\n")
    code, said = run(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    assert (code, stranger.received) == (2, [])
    assert (
        "job.yaml:2:37: references[0]: 's3://private/plan.png' is not read: `.env` beside the manifest says where requests go"
        in said
    )


# --- which files are read


@pytest.mark.parametrize("path", ["../secret", "{0}/secret", "link", "{0}/theirs/link", "gone"])
def test_a_key_file_that_the_folder_names_lies_in_it(run, folder, stranger, path):
    (folder / "link").symlink_to(folder.parent / "secret")
    file = env_file(folder, BATCHGEN_GEMINI_BASE_URL=stranger.url, GEMINI_API_KEY_FILE=path.format(folder.parent))
    code, said = run()
    assert (code, stranger.received, SECRET in said) == (5, [], False)
    assert f"GEMINI_API_KEY_FILE in {file}: " in said


def test_a_key_file_inside_the_folder_may_be_named_by_its_whole_path(run, folder, stranger):
    (folder / "key").write_text(OWN_KEY)
    env_file(folder, BATCHGEN_GEMINI_BASE_URL=stranger.url, GEMINI_API_KEY_FILE=str(folder / "key"))
    assert (run()[0], OWN_KEY in stranger.all) == (4, True)


def test_an_env_file_that_is_a_link_out_of_the_folder_is_not_read(run, folder, stranger):
    (folder.parent / "secret").write_text(f"GEMINI_API_KEY={SECRET}\n")
    (folder / ".env").symlink_to(folder.parent / "secret")
    code, said = run()
    assert (code, SECRET in said) == (5, False)
    assert f"{folder / '.env'}: is a link out of the manifest's folder: copy it, or set its variables" in said


def test_the_folder_does_not_say_where_quota_and_budgets_are_counted(run, folder, state_home):
    path = env_file(folder, XDG_STATE_HOME=str(folder / "state"))
    code, said = run("run", str(folder / "job.yaml"), "--emulate")
    assert (code, (folder / "state").exists()) == (0, False)
    assert f"XDG_STATE_HOME in {path} is not used" in said


# --- the ledger's server


def asks_for_a_password(request: bytes) -> bytes:
    """As a PostgreSQL server does, in the clear (protocol 3.0, AuthenticationCleartextPassword); no TLS, no Kerberos."""
    if len(request) == 8 and struct.unpack("!ii", request)[1] in (80877103, 80877104):
        return b"N"
    if request[:1] == b"p":
        said = b'SFATAL\0C28P01\0Mpassword authentication failed for user "u"\0\0'
        return b"E" + struct.pack("!i", 4 + len(said)) + said
    return b"R" + struct.pack("!ii", 8, 3)


@pytest.fixture
def of_the_user(tmp_path: Path) -> dict[str, str]:
    """All by which libpq would let itself in anywhere."""
    (tmp_path / "pgpass").write_text(f"*:*:*:*:{SECRET}\n")
    (tmp_path / "pgpass").chmod(0o600)
    (tmp_path / "services").write_text(f"[mine]\npassword={SECRET}\nuser={SECRET}\n")
    return {
        "PGPASSWORD": SECRET, "PGUSER": SECRET, "PGPASSFILE": str(tmp_path / "pgpass"), "PGSERVICE": "mine",
        "PGSERVICEFILE": str(tmp_path / "services"), "PGOPTIONS": f"-c application_name={SECRET}",
    }  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u@127.0.0.1:{0}/d", "postgresql://127.0.0.1:{0}/d", "postgresql://u:@127.0.0.1:{0}/d", "postgresql:///d",
        "postgresql://u:p@127.0.0.1:{0}", "postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/d", "postgresql://u:p@127.0.0.1:{0},/d",
        "postgresql://u:p@127.0.0.1:{0}/d?passfile=/home/me/.pgpass", "postgresql://u:p@127.0.0.1:{0}/d?host=/run/postgresql",
        "postgresql://u:p@127.0.0.1:{0}/d?sslkey=/home/me/.ssh/id", "postgresql://u:p@127.0.0.1:{0}/d?service=mine",
    ],
)  # fmt: skip
def test_a_ledger_that_the_folder_names_has_to_say_all_itself(
    batchgen, folder, listen, of_the_user, monkeypatch, address
):
    server = listen(asks_for_a_password)
    for name, value in of_the_user.items():
        monkeypatch.setenv(name, value)
    path = env_file(folder, BATCHGEN_LEDGER=address.format(server.port))
    answer = batchgen("run", str(folder / "job.yaml"), "--emulate")
    assert (answer.code, server.received) == (5, [])
    assert f"BATCHGEN_LEDGER in {path}: " in answer.err
    assert "set BATCHGEN_LEDGER in the environment" in answer.err


def test_a_ledger_that_the_folder_names_is_offered_nothing_of_the_user(run, folder, listen, of_the_user):
    server = listen(asks_for_a_password)
    env_file(folder, BATCHGEN_LEDGER=f"postgresql://u:{OWN_KEY}@127.0.0.1:{server.port}/d")
    code, said = run("run", str(folder / "job.yaml"), "--emulate", **of_the_user)
    assert (code, OWN_KEY in server.all, SECRET in server.all) == (5, True, False)
    assert OWN_KEY not in said


def test_a_ledger_file_that_the_folder_names_lies_in_it(run, folder, stranger):
    (folder.parent / "secret").write_text(f"postgresql://u:{SECRET}@127.0.0.1:{stranger.port}/d")
    path = env_file(folder, BATCHGEN_LEDGER_FILE="../secret")
    code, said = run("run", str(folder / "job.yaml"), "--emulate")
    assert (code, stranger.received) == (5, [])
    assert f"BATCHGEN_LEDGER_FILE in {path}: ../secret must stay inside the manifest's folder" in said


def test_a_ledger_that_the_folder_names_in_full_is_used_whatever_libpq_would_add(run, folder, database, of_the_user):
    env_file(folder, BATCHGEN_LEDGER=database)
    hostile = {
        **of_the_user,
        "PGHOSTADDR": "127.0.0.9",
        "PGPORT": "1",
        "PGREQUIREAUTH": "gss",
        "PGGSSENCMODE": "require",
    }
    code, said = run("run", str(folder / "job.yaml"), "--emulate", **hostile)
    assert code == 0, said
    assert "postgresql://" in (folder / "job.emulated" / ".batchgen" / "ledger.json").read_text()
    code, said = run("status", str(folder / "job.yaml"), **hostile)
    (folder / ".env").unlink()  # or the search for the password would find it
    assert (code, PASSWORD in said) == (0, False), said


@pytest.mark.parametrize(
    "line", ["status {0}", "run {1} --emulate", "history {0}", "cancel {0}", "export {0}", "post {0}", "verify {0}"]
)
def test_a_job_folder_alone_does_not_have_the_user_s_password_sent(
    batchgen, folder, listen, of_the_user, monkeypatch, line
):
    server = listen(asks_for_a_password)
    for name, value in of_the_user.items():
        monkeypatch.setenv(name, value)
    job = folder / "job.emulated"
    (job / ".batchgen").mkdir(parents=True)
    facts = {"server": f"postgresql://u@127.0.0.1:{server.port}/d", "schema": "batchgen_job_x", "job": "1"}
    (job / ".batchgen" / "ledger.json").write_text(json.dumps(facts))
    answer = batchgen(*line.format(job, folder / "job.yaml").split())
    assert (answer.code, server.received) == (5, []), answer
    assert f"named only in this folder: if you trust it, set BATCHGEN_LEDGER to {facts['server']}" in answer.err


# --- what is sent to addresses of the manifest


@pytest.mark.parametrize("name", ["BATCHGEN_LEDGER", "NOTIFY_URL"])
@pytest.mark.parametrize("field", ["to: 'json:", "heartbeat: 'http:"])
def test_a_manifest_cannot_have_a_secret_sent_to_its_own_address(run, folder, stranger, name, field):
    (folder / "job.yaml").write_text(f"notify: {{{field}//127.0.0.1:{stranger.port}/${{{name}}}'}}\n" + ITEMS)
    code, said = run("run", str(folder / "job.yaml"), "--emulate", **{name: f"postgresql://u:{SECRET}@h/d"})
    assert (code, stranger.received, SECRET in said) == (2, [], False)


# --- what is shown


@pytest.mark.parametrize("place", ["environment", "key file", "env file", "env file's key file"])
def test_a_third_party_s_key_is_hidden_as_ours_are(batchgen, folder, monkeypatch, place):
    (folder / "key").write_text(f'"{SECRET}"\n')
    if place == "environment":
        monkeypatch.setenv("ACME_API_KEY", f'"{SECRET}"')
    elif place == "key file":
        monkeypatch.setenv("ACME_API_KEY_FILE", str(folder / "key"))
    else:
        env_file(folder, **({"ACME_API_KEY": SECRET} if place == "env file" else {"ACME_API_KEY_FILE": "key"}))
    (folder / "job.yaml").write_text(f"items: [{{id: {SECRET}, prompt: '[[fault:safety]]'}}]\n")
    log = folder / "log"
    answer = batchgen("run", str(folder / "job.yaml"), "--emulate", "--log-file", str(log))
    assert (answer.code, SECRET in answer.out + answer.err + log.read_text()) == (4, False)
    assert ("[redacted]" in answer.err, "[redacted]" in log.read_text()) == (True, True)


def test_a_value_of_less_than_eight_characters_blackens_no_words(batchgen, folder, monkeypatch):
    monkeypatch.setenv("ACME_API_KEY", "refused")
    (folder / "job.yaml").write_text("items: [{id: a, prompt: '[[fault:safety]]'}]\n")
    answer = batchgen("run", str(folder / "job.yaml"), "--emulate")
    assert ("refused" in answer.err, "[redacted]" in answer.err) == (True, False)


@pytest.mark.parametrize("place", ["environment", "key file"])
def test_quotes_that_a_tool_left_around_a_key_are_not_part_of_it(run, folder, stranger, place):
    (folder.parent / "key").write_text(f"'{OWN_KEY}'\n")
    in_file = {"GEMINI_API_KEY": "", "GEMINI_API_KEY_FILE": str(folder.parent / "key")}
    more = {"GEMINI_API_KEY": f'"{OWN_KEY}"'} if place == "environment" else in_file
    stranger.answer = lambda _: http(403, json.dumps({"error": {"code": 403, "message": f"no: '{OWN_KEY}'"}}).encode())
    code, said = run(BATCHGEN_GEMINI_BASE_URL=stranger.url, **more)
    assert (code, f"x-goog-api-key: {OWN_KEY}\r\n" in stranger.all, OWN_KEY in said) == (5, True, False)


# --- what others may read


def modes(folder: Path) -> dict[str, int]:
    """Of all that is there now, which may be going while it is looked at."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found[str(path.relative_to(folder))] = stat.S_IMODE(path.lstat().st_mode)
    return found


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_batchgen_keeps_is_its_owner_s_alone_whatever_the_umask(spawn, folder, umask):
    (folder / "job.yaml").write_text(
        "items:\n  - {id: talk, turns: [A mug, In blue], model: pro}\n"
        "  - {id: a, prompt: A mug, references: ['@talk-t1']}\n  - {id: b, prompt: '[[fault:html]] A mug'}\n"
    )
    before, seen = os.umask(umask), dict[str, int]()
    kept = folder / "job.emulated" / ".batchgen"
    try:
        run = spawn("run", str(folder / "job.yaml"), "--emulate")
        while run.poll() is None:
            seen |= modes(kept)
            time.sleep(0.005)
        assert spawn("report", str(folder / "job.yaml")).wait(30) == 0
    finally:
        os.umask(before)
    seen |= modes(kept)
    assert {"lock", "holder.json", "turns", "ledger.sqlite", "thumbnails"} <= seen.keys()
    # Pictures on their way have the mode that they will have among the others, in a folder that nobody else enters.
    others = {name: oct(mode) for name, mode in seen.items() if mode & 0o077 and not name.startswith("spool/")}
    assert (others, stat.S_IMODE(kept.stat().st_mode)) == ({}, 0o700)
