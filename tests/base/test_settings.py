"""What stands in the environment and what in a folder's `.env` are never mixed: pure rules, on files of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from batchgen.endpoint import Endpoint
from batchgen.errors import SettingsError
from batchgen.ledger.location import ledger_url
from batchgen.ledger.server_connection import passwords_in_url, redacted
from batchgen.providers.registry import endpoint_of
from batchgen.settings import Settings, unquote

URL, OWN = "https://gateway.example", "https://own.example"
A, B = "a-key-of-the-user", "a-key-of-the-folder"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Settings]:
    def make(environ: dict[str, str], **beside: str) -> Settings:
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in beside.items()))
        (tmp_path / ".env").chmod(0o600)
        (tmp_path / "key").write_text(f"{B}\n")
        return Settings.load(tmp_path, environ)

    return make


@pytest.mark.parametrize(
    ("environ", "beside", "url", "key"),
    [
        ({"GEMINI_API_KEY": A}, {}, None, A),
        ({}, {"GEMINI_API_KEY": B}, None, B),
        ({"GEMINI_API_KEY": A}, {"GEMINI_API_KEY": B}, None, A),
        ({"GOOGLE_API_KEY": A}, {"GEMINI_API_KEY": B}, None, A),
        ({"GEMINI_API_KEY": A, "BATCHGEN_GEMINI_BASE_URL": OWN}, {"GEMINI_API_KEY": B}, OWN, A),
        ({"BATCHGEN_GEMINI_BASE_URL": OWN}, {"GEMINI_API_KEY": B}, OWN, B),
        ({"GEMINI_API_KEY": A}, {"GEMINI_API_KEY": B, "BATCHGEN_GEMINI_BASE_URL": URL}, URL, B),
        ({"GEMINI_API_KEY": A}, {"GOOGLE_API_KEY": B, "GOOGLE_GEMINI_BASE_URL": URL}, URL, B),
        ({}, {"GEMINI_API_KEY_FILE": "key", "BATCHGEN_GEMINI_BASE_URL": URL}, URL, B),
        ({"GEMINI_API_KEY": A, "GOOGLE_GEMINI_BASE_URL": OWN}, {"GEMINI_API_KEY": B, "BATCHGEN_GEMINI_BASE_URL": URL}, OWN, A),
    ],
)  # fmt: skip
def test_an_address_and_its_key_are_chosen_together(load, environ, beside, url, key):
    access = load(environ, **beside).access(endpoint_of("gemini"))
    assert (access.base_url, access.key and access.key.secret.reveal()) == (url, key)


@pytest.mark.parametrize("provider", ["gemini", "imagen", "aimlapi", "acme-2"])
def test_an_address_of_the_folder_without_a_key_of_the_folder_is_refused_for_every_provider(load, provider):
    names = {"aimlapi": "BATCHGEN_AIMLAPI_BASE_URL", "acme-2": "BATCHGEN_ACME_2_BASE_URL"}
    name = names.get(provider, "GOOGLE_GEMINI_BASE_URL")
    settings = load({"GEMINI_API_KEY": A, "AIMLAPI_API_KEY": A, "ACME_2_API_KEY": A}, **{name: "http://127.0.0.1:8080"})
    endpoint = Endpoint.named(provider) if provider == "acme-2" else endpoint_of(provider)
    with pytest.raises(SettingsError, match=f"^{name} in .*set {name} in the environment"):
        settings.access(endpoint)


@pytest.mark.parametrize("name", ["XDG_STATE_HOME", "HOME", "PGPASSWORD", "HTTPS_PROXY", "BATCHGEN_SERVE_TOKEN"])
def test_what_belongs_to_the_user_s_machine_is_not_taken_from_a_folder(load, name):
    settings = load({}, **{name: "/theirs"})
    assert (settings.get(name), settings.text(name)) == (None, None)


@pytest.mark.parametrize(("name", "value"), [("NOTIFY_URL", "json://own"), ("NOTIFY_URL_FILE", "key")])
def test_a_variable_of_the_environment_wins_be_it_a_file(load, tmp_path, name, value):
    settings = load({name: str(tmp_path / value) if name.endswith("_FILE") else value}, NOTIFY_URL="json://theirs")
    found = settings.find("NOTIFY_URL")
    assert (found is not None, found and found.env_file, found and found.text == "json://theirs") == (True, None, False)


@pytest.mark.parametrize("text", ["k", '"k"', "'k'", " k \n", "' k '", '"k\n"\n'])
def test_quotes_and_space_around_a_value_are_not_part_of_it(text):
    assert unquote(text) == "k"


@pytest.mark.parametrize("text", ['"k', "k'", "'k\"", '"'])
def test_a_quote_that_has_no_other_stays(text):
    assert unquote(text) == text.strip()


def test_every_key_is_known_wherever_it_stands(load, tmp_path):
    (tmp_path / "other").write_text("'of-a-file'")
    environ = {"ACME_API_KEY": '"of-acme"', "OTHER_API_KEY_FILE": str(tmp_path / "other"), "GONE_API_KEY_FILE": "/gone"}
    settings = load(environ, THEIRS_API_KEY="of-the-folder", ITS_API_KEY_FILE="key", BAD_API_KEY_FILE="../other")
    assert settings.all_keys() == {"of-acme", "of-a-file", "of-the-folder", B}


def test_a_key_that_a_codec_declares_is_known_although_it_is_not_named_like_one(load, tmp_path):
    settings = load({"ACME_PASS": "of-acme", "OTHER": "x"}, ACME_PHRASE_FILE="key")
    assert settings.all_keys({"ACME_PASS", "ACME_PHRASE"}) == {"of-acme", B}


def test_a_key_file_as_a_windows_editor_saves_it_is_read(load, tmp_path):
    (tmp_path / "saved").write_bytes(b"\xef\xbb\xbf" + A.encode() + b"\r\n")
    for settings in (load({"GEMINI_API_KEY_FILE": str(tmp_path / "saved")}), load({}, GEMINI_API_KEY_FILE="saved")):
        assert settings.access(endpoint_of("gemini")).key.secret.reveal() == A


def test_a_path_that_no_system_takes_is_said_with_its_name(load):
    with pytest.raises(SettingsError, match=r"GEMINI_API_KEY_FILE in .*: cannot read"):
        load({}, GEMINI_API_KEY_FILE="/a\0b").access(endpoint_of("gemini"))


LEDGER = "postgresql://u:pass%40word@db.example/d"


def test_a_ledger_s_address_of_the_environment_is_used_as_it_is(load):
    assert (
        ledger_url(load({"BATCHGEN_LEDGER": "postgresql://db.example/d"}, BATCHGEN_LEDGER=LEDGER))
        == "postgresql://db.example/d"
    )


def test_a_ledger_s_address_of_the_folder_is_shown_as_it_stands_there(load):
    url = ledger_url(load({}, BATCHGEN_LEDGER=f"{LEDGER}?sslmode=require"))
    assert (redacted(url), "pass@word" in passwords_in_url(url)) == (
        "postgresql://u@db.example:5432/d?sslmode=require",
        True,
    )


@pytest.mark.parametrize(
    "address",
    ["postgresql://u:p@h/d?sslcert=/x", "postgresql://u:p@h/d?SSLKEY=/x", "postgresql://u:p@@h/d",
     "postgresql://u:p@h,%2Frun/d", "postgresql://u:p@@abstract/d", "postgresql://:p@h/d", "mysql://u:p@h/d"],
)  # fmt: skip
def test_a_ledger_s_address_of_the_folder_names_no_file_and_no_socket(load, address):
    settings = load({}, BATCHGEN_LEDGER=address)
    with pytest.raises(SettingsError):
        ledger_url(settings)
