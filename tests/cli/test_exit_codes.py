"""Each exit code of the README, from a run that deserves it."""

from __future__ import annotations

import json
import signal

import pytest

from batchgen.store.lock import JobLock
from tests.support.marked_key import KEY


def test_0_when_every_image_exists(batchgen, write):
    assert batchgen("run", str(write({"a": "A mug"})), "--emulate").code == 0


def test_0_when_there_is_nothing_to_do(batchgen, write):
    manifest = str(write({"a": "A mug"}))
    batchgen("run", manifest, "--emulate")
    again = batchgen("run", manifest, "--emulate")
    assert (again.code, "nothing to do: 1 of 1 image made" in again.err) == (0, True)


@pytest.fixture
def bug(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(f"the key is {KEY}")

    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setattr("batchgen.load", broken, raising=False)


@pytest.mark.usefixtures("bug")
def test_1_and_no_traceback_on_the_terminal_for_a_bug_of_ours(batchgen, write):
    answer = batchgen("plan", str(write({"a": "A mug"})))
    first = answer.err.split("\n")[0]
    assert (answer.code, first, "Traceback" in answer.err) == (
        1, "this is a bug in batchgen: ZeroDivisionError: the key is [redacted]", False)  # fmt: skip


@pytest.mark.usefixtures("bug")
def test_the_traceback_of_a_bug_is_in_a_file_for_its_owner_alone_without_the_key(batchgen, write, tmp_path):
    batchgen("plan", str(write({"a": "A mug"})))
    (path,) = tmp_path.glob("*.traceback.txt")
    text, mode = path.read_text(), path.stat().st_mode & 0o777
    assert (mode, "ZeroDivisionError" in text, KEY in text) == (0o600, True, False)


@pytest.mark.parametrize("argv", [("nonsense",), ("run",), ("run", "absent.yaml"), ("run", "x.yaml", "--bogus")])
def test_2_for_a_wrong_command_line(batchgen, argv):
    assert batchgen(*argv).code == 2


def test_2_for_a_wrong_manifest_and_no_folder_is_left_behind(batchgen, write, tmp_path):
    manifest = write({"a": "A mug"}, head="nonsense: 1\n")
    assert (batchgen("run", str(manifest), "--emulate").code, (tmp_path / "job.emulated").exists()) == (2, False)


def test_3_when_some_were_refused(batchgen, write):
    assert batchgen("run", str(write({"a": "A mug", "b": "x [[fault:safety]]"})), "--emulate").code == 3


def test_4_when_all_were_refused(batchgen, write):
    assert batchgen("run", str(write({"b": "x [[fault:safety]]"})), "--emulate").code == 4


def test_5_without_a_key_says_which_variable_to_set(batchgen, write, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY")
    answer = batchgen("run", str(write({"a": "A mug"})))
    assert (answer.code, "GEMINI_API_KEY" in answer.err, "--emulate" in answer.err) == (5, True, True)


def test_6_when_the_budget_is_used_up(batchgen, write):
    manifest = str(write({"a": "A mug", "b": "A jug"}))
    assert batchgen("run", manifest, "--emulate", "--max-cost", "0.05", "--concurrency", "1").code == 6


def test_7_when_the_time_is_up(batchgen, write, emulator):
    emulator("--latency", "0.4")
    manifest = str(write({"a": "A mug", "b": "A jug", "c": "A pot"}))
    assert batchgen("run", manifest, "--concurrency", "1", "--max-duration", "0.3s").code == 7


def test_8_when_a_daily_quota_is_used_up(batchgen, write):
    assert batchgen("run", str(write({"a": "x [[fault:429day]]"})), "--emulate").code == 8


def test_11_when_another_run_holds_the_job(batchgen, write, tmp_path):
    manifest = str(write({"a": "A mug"}))
    batchgen("run", manifest, "--emulate")
    lock = JobLock(tmp_path / "job.emulated")
    lock.acquire()
    try:
        assert batchgen("run", manifest, "--emulate", "--fresh").code == 11
    finally:
        lock.release()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_what_is_in_flight_finish_and_has_its_own_code(spawn, write, emulator, number, code):
    emulator("--latency", "1.0")
    manifest = write(dict.fromkeys("abcdef", "A mug"))
    process = spawn("run", str(manifest), "--concurrency", "1", "--json", "--log-format", "json")
    assert process.stderr is not None
    for line in process.stderr:
        if '"attempt.started"' in line:
            process.send_signal(number)
            break
    out, _ = process.communicate(timeout=20)
    facts = json.loads(out)
    assert (process.returncode, facts["images"]["made"], facts["images"]["left"]) == (code, 1, 5)


def test_130_for_ctrl_c_before_the_run_has_begun(python):
    answer = python(
        "import batchgen.__main__ as m, batchgen.cli.main as c\n"
        "def stop(argv): raise KeyboardInterrupt\n"
        "c.run_command_line = stop\n"
        "m.main()\n"
    )
    assert (answer.code, answer.err) == (130, "")


def test_141_and_silence_when_the_reader_of_stdout_goes_away(spawn, write):
    manifest = write({f"item-{number}": f"x {number}" for number in range(2000)})
    process = spawn("plan", str(manifest), "--all")
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(20), errors) == (141, "")


def test_5_at_the_first_request_leaves_a_line_for_each_item_and_says_the_remedy(
    batchgen, write, emulator, monkeypatch, tmp_path
):
    emulator()
    monkeypatch.setenv("GEMINI_API_KEY", "bad-key")
    wanted = [f"mug-{number}" for number in range(12)]
    manifest = str(write(dict.fromkeys(wanted, "A mug"), head="defaults: {count: 2}\n"))
    answer = batchgen("run", manifest, "--json")
    facts, status = answer.json, batchgen("status", str(tmp_path / "job"))
    lines = [json.loads(line) for line in (tmp_path / "job/results.jsonl").read_text().splitlines()]
    tried = [line["reason"] == "key_rejected" for line in lines]
    assert (answer.code, [line["id"] for line in lines], {line["state"] for line in lines}) == (5, wanted, {"wanted"})
    assert (any(tried), all(tried), "not valid" in lines[-1]["message"]) == (True, False, True)
    assert ("GEMINI_API_KEY" in facts["remedy"], facts["images"]["left"]) == (True, 24)
    assert all(facts["message"] in text and facts["remedy"] in text for text in (answer.err, status.out))
    assert ("limit  " in answer.err, "new" in batchgen("plan", manifest).out) == (False, True)
