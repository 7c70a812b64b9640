"""Derivatives on the command line: what plan, run, status, verify and post say of them."""

from __future__ import annotations

import json

from tests.support.signing_certificate import make_certificate

HEAD = "post: [{name: web, format: webp, widths: [16, 9999]}, {name: thumb, format: png, width: 8}]\n"


def test_plan_run_status_and_verify_tell_of_them(batchgen, write):
    manifest = str(write({"a": "x", "b": "y"}, HEAD))
    assert "derive 6 files to make of the images, at most" in batchgen("plan", manifest, "--emulate").out
    answer = batchgen("run", manifest, "--emulate", "--json")
    assert (answer.code, answer.json["derivatives"]) == (
        0, {"made": 4, "skipped": 2, "removed": 0, "failed": 0, "finished": True, "queued": 0, "failures": []},
    )  # fmt: skip
    assert "2 of 2 images made, 4 files made of them" in answer.err
    assert "4 made · 2 left out, larger than their image" in answer.err
    assert batchgen("plan", manifest, "--emulate", "--json").json["derivatives"] == 0
    assert "web: 2 made, 2 skipped" in batchgen("status", manifest).out
    assert "2 files verified" in batchgen("verify", manifest).out
    row = json.loads(batchgen("export", manifest).out.splitlines()[0])
    assert row["derivatives"] == ["derivatives/thumb/a.png", "derivatives/web-16/a.webp"]


def test_post_makes_what_is_missing_and_verify_says_what_is(batchgen, write, tmp_path):
    manifest = str(write({"a": "x", "b": "y"}, HEAD))
    batchgen("run", manifest, "--emulate", "-q")
    (tmp_path / "job.emulated" / "derivatives" / "thumb" / "a.png").unlink()
    found = batchgen("verify", manifest)
    assert (found.code, "derivative missing or changed: derivatives/thumb/a.png" in found.out) == (3, True)
    assert f"`batchgen post {manifest}`" in found.out
    answer = batchgen("post", manifest)
    assert (answer.code, answer.out, answer.err.strip()) == (0, "", "1 made")
    assert batchgen("post", str(tmp_path / "job.emulated"), "--json").json["made"] == 0
    assert batchgen("post", manifest).err.strip() == "nothing to do"
    assert batchgen("verify", manifest).code == 0


def test_a_second_run_with_only_derivatives_to_make_says_so(batchgen, write):
    batchgen("run", str(write({"a": "x"})), "--emulate", "-q")
    answer = batchgen("run", str(write({"a": "x"}, HEAD)), "--emulate")
    assert "job: all done: 1 of 1 image made, 2 files made of them" in answer.err


def test_doctor_tries_the_certificate_that_a_manifest_signs_with(batchgen, write, tmp_path, monkeypatch):
    manifest = str(write({"a": "x"}, "post: {sign: true}\n"))
    found = {check["what"]: check for check in batchgen("doctor", manifest, "--json").json["checks"]}
    assert found["signature"]["verdict"] == "fail"
    assert "BATCHGEN_C2PA_CERTIFICATE_FILE is not set" in found["signature"]["says"]
    for name, path in make_certificate("Nordlicht").write(tmp_path).items():
        monkeypatch.setenv(name, path)
    found = {check["what"]: check for check in batchgen("doctor", manifest, "--json").json["checks"]}
    assert found["signature"] == {
        "verdict": "ok", "what": "signature", "says": f"by {tmp_path}/chain.pem", "remedy": "",
    }  # fmt: skip


def test_post_without_a_manifest_or_a_job_says_what_to_do(batchgen, write, tmp_path):
    manifest = write({"a": "x"}, HEAD)
    assert "nothing has run there yet" in batchgen("post", str(manifest)).err
    batchgen("run", str(manifest), "--emulate", "-q")
    manifest.unlink()
    answer = batchgen("post", str(tmp_path / "job.emulated"))
    assert (answer.code, "its manifest" in answer.err, "--output" in answer.err) == (2, True, True)


def test_a_broken_manifest_takes_nothing_away(batchgen, write, tmp_path):
    batchgen("run", str(write({"a": "x"}, HEAD)), "--emulate", "-q")
    answer = batchgen("post", str(write({"a": "x"}, "post: [{name: web}]\n")))
    assert (answer.code, "post.0.format: is missing" in answer.err) == (2, True)
    assert (tmp_path / "job.emulated" / "derivatives" / "thumb" / "a.png").is_file()
