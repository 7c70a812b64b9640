"""An AI model that its vendor has shut down: refused with a way out that works; one that may still serve: a warning."""

from __future__ import annotations

import re

import pytest

GONE = {  # each with what replaces it
    "imagen-4.0-generate-001": "gemini-nano-banana-2.1",
    "gemini-3-pro-image-preview": "gemini-3-pro-image",
    "gemini-2.5-flash-image-preview": "gemini-nano-banana-2.1",
}
each_command = pytest.mark.parametrize("command", ["validate", "plan"])


def manifest_of(write, model, head=""):
    return str(write({"mug": "A mug"}, head=f"{head}defaults: {{model: {model}}}\n"))


def way_out(text):
    """What the refusal says that the manifest has to say, as YAML."""
    (said,) = re.findall(r"if it still works for you, add `(models: .*?)` at the head", text)
    return f"{said}\n"


@each_command
@pytest.mark.parametrize("model", list(GONE))
def test_the_refusal_names_the_replacement_and_an_override_that_works(
    batchgen, write, emulator, monkeypatch, model, command
):
    refused = batchgen(command, manifest_of(write, model))
    assert (refused.code, f"{GONE[model]}" in refused.err) == (2, True)
    manifest = manifest_of(write, model, way_out(refused.err))
    accepted = batchgen(command, manifest)
    assert accepted.code == 0, accepted.err
    assert "shut down" not in accepted.err + accepted.out
    emulator("--latency", "0-0")
    assert batchgen("run", manifest, "--yes").code == 0


def test_the_override_does_not_make_the_vendor_serve_it(batchgen, write, emulator):
    model = "imagen-4.0-generate-001"
    manifest = manifest_of(write, model, way_out(batchgen("validate", manifest_of(write, model)).err))
    emulator("--no-retired", "--latency", "0-0")
    answer = batchgen("run", manifest, "--yes")
    assert (answer.code, f"models/{model} is no longer available" in answer.err) == (4, True), answer.err


@each_command
def test_nano_banana_is_warned_about_with_its_replacement_and_not_refused(batchgen, write, command):
    answer = batchgen(command, manifest_of(write, "gemini-2.5-flash-image"))
    (warning,) = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert (answer.code, "gemini-nano-banana-2.1" in warning, "2026-10-02" in warning) == (0, True, True), warning
