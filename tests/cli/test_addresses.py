"""A malformed address is said to be one, with the name of what holds it: never a bug, and nothing is sent."""

from __future__ import annotations

import pytest

from tests.support.marked_key import KEY

MALFORMED = {
    "http://[::1": "malformed host",
    "https://[::1]x": "malformed host",
    "https://host:99999": "port that is not a number from 1 to 65535",
    "https://host:abc": "port that is not a number from 1 to 65535",
    "https://host:0": "port that is not a number from 1 to 65535",
    "https://ho st": "malformed host",
    "https://host/a b": "space or a control character",
    "https://host\x7f/": "malformed host",
    "https://host/\x1b[31m": "space or a control character",
    "https:/x": "names no host",
    "https://": "names no host",
    "https://:443": "names no host",
    "https://a..b": "malformed host",
    f"https://{'a' * 64}.example": "malformed host",
    "https://exa℀mple.com": "malformed host",
    "https://аpi.example": "letters outside of ASCII",
    "host.example": "names no host",
    "ftp://host.example": "does not begin with https://",
}


@pytest.mark.parametrize("url", MALFORMED)
@pytest.mark.parametrize("argv", [("run", "job.yaml", "--yes"), ("models", "--live")], ids=" ".join)
def test_a_malformed_base_url_needs_a_person_who_is_told_what_is_wrong_with_it(batchgen, write, monkeypatch, argv, url):
    write({"a": "A mug"}, head="defaults: {model: gemini-3-pro-image}\n")
    monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", url)
    answer = batchgen(*argv)
    assert (answer.code, "bug" in answer.err) == (5, False)
    assert "BATCHGEN_GEMINI_BASE_URL: " in answer.err and MALFORMED[url] in " ".join(answer.err.split())


def test_doctor_says_it_too(batchgen, monkeypatch):
    monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", "https://host:99999")
    answer = batchgen("doctor", "--online", "--json")
    says = [check["says"] for check in answer.json["checks"] if check["what"] == "address gemini"]
    assert (answer.code, "port that is not a number from 1 to 65535" in says[0]) == (5, True)


def test_an_address_that_may_hold_a_key_is_not_repeated(batchgen, monkeypatch):
    monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", "https://user:hush-hush@host:abc")
    answer = batchgen("models", "--live")
    assert (answer.code, "hush" in answer.err, "the address has a port" in answer.err) == (5, False, True)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://[::1/db",
        "postgresql://127.0.0.1:99999/db",
        "postgresql://127.0.0.1:abc/db",
        "postgresql://",
        "host/db",
        "postgresql:/x",
    ],
)
@pytest.mark.parametrize("by", ["BATCHGEN_LEDGER", "--ledger"])
def test_a_malformed_address_of_a_ledger_needs_a_person_too(batchgen, write, monkeypatch, by, url):
    monkeypatch.setattr(
        "batchgen.ledger.postgresql.RECONNECT_TIMEOUT_S", 0.0
    )  # one without a host is libpq's own, which may not be up
    manifest = str(write({"a": "A mug"}))
    if by != "--ledger":
        monkeypatch.setenv(by, url)
    answer = batchgen("run", manifest, "--yes", "--emulate", *([by, url] if by == "--ledger" else []))
    assert (answer.code, "bug" in answer.err) == (5, False), answer.err


def test_a_malformed_address_in_the_pointer_of_a_job_folder_needs_a_person_too(batchgen, tmp_path):
    state = tmp_path / "job" / ".batchgen"
    state.mkdir(parents=True)
    (state / "ledger.json").write_text('{"server": "postgresql://[::1/db", "schema": "s", "job": "j"}')
    answer = batchgen("status", str(tmp_path / "job"))
    assert (answer.code, "bug" in answer.err) == (5, False), answer.err


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("https://cdn.example:99999/a.png", "port that is not a number from 1 to 65535"),
        ("https://[::1/a.png", "malformed host"),
        ("https:///a.png", "names no host"),
        ("https://a..b/a.png", "malformed host"),
    ],
)
def test_a_reference_with_a_malformed_link_is_complained_of_at_its_place(batchgen, tmp_path, link, words):
    (tmp_path / "job.yaml").write_text(f'items:\n  - {{id: a, prompt: A mug, references: ["{link}"]}}\n')
    answer = batchgen("validate", "job.yaml")
    line = " ".join(answer.err.split())
    assert (answer.code, "job.yaml:2:" in line, words in line) == (2, True, True), answer.err


@pytest.mark.parametrize("address", ["https://[::1", "https://host:99999/ping", "https:/x", "file:///etc/passwd"])
def test_a_malformed_heartbeat_is_complained_of_at_its_place(batchgen, write, address):
    answer = batchgen("validate", str(write({"a": "A mug"}, head=f'notify: {{heartbeat: "{address}"}}\n')))
    assert (answer.code, "job.yaml:2:" in answer.err, "heartbeat: the address" in answer.err) == (2, True, True)


@pytest.mark.parametrize("address", ["https://[::1", "https://host:99999/ping", "https:/x", "https://a..b"])
def test_a_malformed_heartbeat_out_of_a_variable_costs_no_run(batchgen, write, emulator, monkeypatch, address):
    emulator("--latency", "0")
    monkeypatch.setenv("HEARTBEAT_URL", address)
    answer = batchgen("run", str(write({"a": "A mug"}, head="notify: {heartbeat: '${HEARTBEAT_URL}'}\n")))
    assert (answer.code, "no heartbeat was sent: the address" in answer.err) == (0, True), answer.err


@pytest.mark.parametrize("address", ["json://[::1", "json://host:99999", "mailto://a:b@[x", "https://[", ":::"])
def test_a_malformed_address_of_a_message_costs_no_run(batchgen, write, emulator, address):
    emulator("--latency", "0")
    answer = batchgen("run", str(write({"a": "A mug"})), "--notify", address)
    assert (answer.code, "bug" in answer.err) == (0, False), answer.err


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AZURE_ENDPOINT"])
@pytest.mark.parametrize("url", ["http://[::1", "https://host:99999"])
def test_a_malformed_endpoint_of_a_bucket_needs_a_person(batchgen, write, monkeypatch, name, url):
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.setenv(key, KEY)
    monkeypatch.setenv(name, url)
    answer = batchgen("run", str(write({"a": "A mug"})), "--emulate", "--output", "s3://pictures/x")
    assert (answer.code, f"{name}: the address has a" in answer.err) == (5, True), answer.err


@pytest.mark.parametrize("url", ["http://[::1]", "http://127.0.0.1", "http://localhost/"])
def test_a_server_on_this_machine_needs_no_key_also_without_a_port(batchgen, write, monkeypatch, url):
    monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", url)
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    answer = batchgen("run", str(write({"a": "A mug"}, head="limits: {attempts: 1}\n")))
    assert (answer.code, "no API key" in answer.err) == (4, False)
