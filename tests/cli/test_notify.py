"""Messages about a night, received by a real server on this machine."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from batchgen.store.lock import JobLock

REFUSED = "x [[fault:safety]]"
TOKEN = "t0ken-4b1d0c7e5f"


class Receiver:
    """Keeps what it is told. status: what it answers."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.beats: list[str] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer()

            def do_GET(self) -> None:
                outer.beats.append(self.path)
                self._answer()

            def _answer(self) -> None:
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://{self.place}/{TOKEN}"


@pytest.fixture
def receiver():
    pytest.importorskip("apprise", reason="NOT TESTED: apprise is not installed")
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def night(batchgen, write, receiver, monkeypatch):
    """Run a manifest of these items that tells the receiver."""
    monkeypatch.setenv("NOTIFY_URL", receiver.url)

    def run(items, *argv, more="", emulate=True):
        head = f"notify: {{to: '${{NOTIFY_URL}}'{more}}}\n"
        return batchgen("run", str(write(items, head=head)), *(["--emulate"] if emulate else []), *argv)

    return run


def test_a_night_of_which_some_failed_is_told_in_one_message(night, receiver):
    assert night({"mug": "A mug", "bad": REFUSED}).code == 3
    (message,) = receiver.messages
    assert message["title"] == "batchgen: job: 1 of 2 images made; 1 refused"
    lines = message["message"].splitlines()
    assert ("images: 1 made · 0 kept · 1 refused" in lines, len(lines) <= 10) == (True, True)
    assert any(line.startswith("why: 1 × safety") for line in lines)


def test_a_good_night_is_silent_unless_success_is_asked_for(night, receiver):
    assert night({"mug": "A mug"}).code == 0
    assert receiver.messages == []
    night({"mug": "A mug"}, more=", on: [success]")
    assert [message["title"] for message in receiver.messages] == ["batchgen: job: nothing to do: 1 of 1 image made"]


def test_who_asks_for_nothing_is_told_nothing(night, receiver):
    assert night({"mug": REFUSED}, more=", on: []").code != 0
    assert receiver.messages == []


def test_a_used_up_budget_is_told(night, receiver):
    assert night({"a": "A mug", "b": "A jug", "c": "A cup"}, "--max-cost", "0.04").code == 6
    assert len(receiver.messages) == 1


def test_a_run_that_could_not_begin_is_told_with_the_reason(night, receiver, monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert night({"mug": "A mug"}, emulate=False).code == 5
    (message,) = receiver.messages
    assert (message["title"], "GEMINI_API_KEY" in message["message"]) == ("batchgen: job: ended by an error", True)


def test_a_key_file_that_is_not_there_is_told(night, receiver, monkeypatch, tmp_path):
    monkeypatch.delenv("GEMINI_API_KEY")
    monkeypatch.setenv("GEMINI_API_KEY_FILE", str(tmp_path / "gone"))
    assert night({"mug": "A mug"}, emulate=False).code == 5
    assert ["cannot read" in message["message"] for message in receiver.messages] == [True]


def test_a_job_that_another_run_holds_is_not_told(night, receiver, tmp_path):
    lock = JobLock(tmp_path / "job.emulated")
    (tmp_path / "job.emulated" / ".batchgen").mkdir(parents=True)
    lock.acquire()
    try:
        assert night({"mug": "A mug"}).code == 11
    finally:
        lock.release()
    assert receiver.messages == []


def test_an_address_on_the_command_line_hears_of_a_manifest_that_cannot_be_read(batchgen, receiver, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("items: [")
    assert batchgen("run", str(path), "--notify", receiver.url).code == 2
    assert len(receiver.messages) == 1


@pytest.mark.parametrize("place", ["to", "file"])
def test_a_message_that_fails_changes_no_exit_code_and_shows_no_address(night, receiver, place, tmp_path, monkeypatch):
    receiver.status = 500
    if place == "file":
        monkeypatch.delenv("NOTIFY_URL")
        (tmp_path / "url").write_text(receiver.url + "\n")
        monkeypatch.setenv("NOTIFY_URL_FILE", str(tmp_path / "url"))
    answer = night({"mug": "A mug", "bad": REFUSED}, "--log-file", "log")
    log = (tmp_path / "log").read_text()
    assert (answer.code, "a message was not sent: address 1 (json)" in answer.err) == (3, True)
    assert "a message was not sent" in log
    assert TOKEN not in answer.err + answer.out + log
    assert len(receiver.messages) == 1


def test_what_an_address_holds_is_shown_nowhere_whoever_says_it(night, tmp_path):
    answer = night({TOKEN: REFUSED}, "--log-file", "log")
    log = (tmp_path / "log").read_text()
    assert TOKEN not in answer.err + answer.out + log
    assert ("[redacted]" in answer.err, "[redacted]" in log) == (True, True)


def test_a_variable_that_is_not_set_is_said_and_the_run_goes_on(night, monkeypatch):
    monkeypatch.delenv("NOTIFY_URL")
    answer = night({"mug": "A mug"})
    assert (answer.code, "NOTIFY_URL is not set" in answer.err) == (0, True)


def test_without_the_library_the_extra_is_named(batchgen, write, monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    manifest = str(write({"mug": "A mug"}))
    answer = batchgen("run", manifest, "--emulate", "--notify", "json://127.0.0.1:9")
    assert (answer.code, "pip install 'batchgen[notify]'" in answer.err) == (2, True)


def test_without_the_library_a_manifest_that_wants_messages_still_makes_its_images(batchgen, write, monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    manifest = str(write({"mug": "A mug"}, head="notify: {to: 'json://127.0.0.1:9', on: [success]}\n"))
    answer = batchgen("run", manifest, "--emulate")
    assert (answer.code, "pip install 'batchgen[notify]'" in answer.err) == (0, True)


def test_the_end_of_a_model_is_told_once(night, receiver, write):
    for _ in range(2):
        night({"mug": "A mug"}, more="}\nmodels: {gemini-nano-banana-2.1: {shutdown: 2020-01-02}")
    (message,) = receiver.messages
    assert "is shut down since 2020-01-02" in message["message"]


def test_the_heartbeat_is_sent_after_a_night_that_took_place_and_not_after_an_emulated_one(
    night, receiver, emulator, monkeypatch
):
    monkeypatch.setenv("HEARTBEAT_URL", f"http://{receiver.place}/{TOKEN}")
    heartbeat = ", heartbeat: '${HEARTBEAT_URL}'"
    night({"mug": "A mug"}, more=heartbeat)
    assert receiver.beats == []
    emulator()
    assert night({"mug": "A mug"}, more=heartbeat, emulate=False).code == 0
    assert receiver.beats == [f"/{TOKEN}"]


@pytest.mark.parametrize(
    "address", ["http://example.com/x", "https://10.0.0.1/x", "ftp://127.0.0.1/x", "http://127.0.0.1:9/x"]
)
def test_a_heartbeat_goes_to_a_public_host_over_https_or_to_this_machine(
    batchgen, write, emulator, monkeypatch, address
):
    emulator()
    monkeypatch.setenv("HEARTBEAT_URL", address)
    answer = batchgen("run", str(write({"mug": "A mug"}, head="notify: {heartbeat: '${HEARTBEAT_URL}'}\n")))
    assert (answer.code, "no heartbeat was sent: " in answer.err, address in answer.err) == (0, True, False)


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_has_no_port_of_this_machine_asked(batchgen, write, emulator, receiver, tmp_path, beside):
    emulator()
    address = f"http://{receiver.place}/x"
    if beside:
        (tmp_path / ".env").write_text(f"HEARTBEAT_URL={address}\n")
        (tmp_path / ".env").chmod(0o600)
    manifest = write({"mug": "A mug"}, head=f"notify: {{heartbeat: '{'${HEARTBEAT_URL}' if beside else address}'}}\n")
    answer = batchgen("run", str(manifest))
    assert (answer.code, receiver.beats) == (0 if beside else 2, [])
    assert "the address has to begin with https://" in " ".join(answer.err.split())


def test_a_manifest_that_would_send_a_key_away_is_refused(batchgen, write):
    manifest = str(write({"mug": "A mug"}, head="notify: {to: 'json://host/${GEMINI_API_KEY}'}\n"))
    answer = batchgen("validate", manifest)
    assert (answer.code, "job.yaml:2:10: notify.to: ${GEMINI_API_KEY}: only variables" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("field", "address"),
    [
        ("to", "json://evil.example/${NOTIFY_URL}"),
        ("to", "mailto://me:${NOTIFY_PASS}@evil.example"),
        ("to", "${NOTIFY_URL}@evil.example"),
        ("to", "${NOTIFY_URL}${NOTIFY_PASS}"),
        ("heartbeat", "https://evil.example/${HEARTBEAT_URL}"),
    ],
)
def test_a_manifest_cannot_send_a_secret_to_an_address_of_its_own(batchgen, write, field, address):
    answer = batchgen("validate", str(write({"mug": "A mug"}, head=f"notify: {{{field}: '{address}'}}\n")))
    assert (answer.code, f"job.yaml:2:10: notify.{field}: a variable has to be the whole address" in answer.err) == (
        2,
        True,
    )


def test_a_manifest_cannot_have_a_file_of_the_user_sent(batchgen, write):
    head = "notify: {to: ['tgram://123456789:abcdefg_hijklmnop/12315544/?template=/etc/passwd']}\n"
    answer = batchgen("validate", str(write({"mug": "A mug"}, head=head)))
    assert (answer.code, "job.yaml:2:10: notify.to: the address may have no parameters" in answer.err) == (2, True)


def test_an_env_file_cannot_have_a_file_of_the_user_sent(night, receiver, tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_URL")
    (tmp_path / "secret").write_text("a file of the user's")
    (tmp_path / ".env").write_text(f"NOTIFY_URL={receiver.url}?template={tmp_path / 'secret'}\n")
    answer = night({"mug": "A mug", "bad": REFUSED})
    assert (answer.code, receiver.messages) == (3, [])
    assert f"NOTIFY_URL in {tmp_path / '.env'}: the address may have no parameters" in answer.err


def test_an_address_in_an_env_file_is_told(night, receiver, tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_URL")
    (tmp_path / ".env").write_text(f"NOTIFY_URL={receiver.url}\n")
    assert night({"mug": "A mug", "bad": REFUSED}).code == 3
    assert len(receiver.messages) == 1


def test_a_secret_in_the_manifest_is_warned_of(batchgen, write):
    manifest = str(write({"mug": "A mug"}, head="notify: {to: 'mailto://me:swordfish@example.com'}\n"))
    assert "what looks like a secret; write ${NOTIFY_URL}" in batchgen("validate", manifest).err
