"""What looks at a job whose pictures are in a bucket: verify, repair, report, contact sheet, dashboard, status, export."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from batchgen.cli.main import run_command_line
from batchgen.emulator import EmulatorOptions
from batchgen.ledger.schema import ledger_path
from batchgen.report.dashboard.pictures import open_derivative
from batchgen.store.objects import ObjectStorage
from tests.support.bucket_bench import ADDRESS
from tests.support.dashboard import site

MANIFEST = "name: job\ndefaults: {model: flash, modalities: [text, image]}\nitems:\n  - {id: a, prompt: fox}\n  - {id: b, prompt: owl}\n"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(
        "batchgen.emulator.EmulatorOptions", partial(EmulatorOptions, latency_s=(0.0, 0.01), picture="tiny")
    )

    def command(*argv: str) -> tuple[int, str, str]:
        code = run_command_line(argv)
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def job(gate, run: Run, tmp_path: Path) -> Path:
    """Its folder; the pictures are a.jpg and b.jpg, each with its text."""
    (tmp_path / "job.yaml").write_text(MANIFEST)
    code, _, err = run("run", "job.yaml", "--emulate", "--output", ADDRESS)
    assert code == 0 and ADDRESS in err
    gate.seen.clear()
    return tmp_path / "job.emulated"


def test_verify_reads_every_byte_in_the_bucket(job, gate, run):
    code, out, _ = run("verify", "job.yaml", "--json")
    found = json.loads(out)
    assert (code, found["checked"], found["extra"]) == (0, 2, [])
    assert gate.count("GET") == 3  # a listing and two pictures


def test_verify_names_what_is_missing_changed_or_not_ours(job, gate, run):
    objects, size = ObjectStorage(ADDRESS), len(gate.objects()["a.jpg"])
    for path in ("a.jpg", "b.jpg"):
        objects.delete(path)
    objects.put_new("a.jpg", bytes(size))
    objects.put_new("stranger.png", b"x")
    code, out, _ = run("verify", "job.yaml", "--json")
    found = json.loads(out)
    assert (code, found["changed"], found["missing"], found["extra"]) == (3, ["a.jpg"], ["b.jpg"], ["stranger.png"])


def test_verify_status_and_run_say_how_many_pictures_wait_and_for_which_bucket(gate, run, tmp_path):
    (tmp_path / "job.yaml").write_text(MANIFEST)
    gate.refuse = lambda method, path: 403 if path.endswith(".jpg") else None
    code, _, err = run("run", "job.yaml", "--emulate", "--output", ADDRESS)
    words = f"2 images in the spool for {ADDRESS}: the next run uploads them first, and nothing is bought again"
    assert code == 5 and words in err
    assert words in run("status", "job.yaml")[1]
    code, out, _ = run("verify", "job.yaml")
    assert code == 3 and f"2 in the spool: `batchgen run job.yaml --output {ADDRESS} --emulate` uploads them" in out


def test_a_bucket_that_is_away_is_a_line_and_no_traceback(job, gate, run, monkeypatch):
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    gate.refuse = lambda method, path: 403
    for command in (("verify",), ("report",), ("report", "--contact-sheet")):
        code, _, err = run(command[0], "job.yaml", *command[1:])
        assert (code, err.count("HTTP 403"), "Traceback" in err) == (5, 1, False)


def test_the_report_has_thumbnails_and_texts_from_the_bucket(job, gate, run):
    code, out, _ = run("report", "job.yaml", "--json")
    assert (code, json.loads(out)["thumbnails"]) == (0, 2)
    page = (job / "report.html").read_text()
    assert len(re.findall(r'id="thumbnails-0">\S{40,}\n\S{40,}<', page)) == 1
    assert '"files":["a.txt"]' in page
    assert f"full images are in {ADDRESS}" in run("report", "job.yaml")[2]


def test_a_contact_sheet_shows_what_is_in_the_bucket(job, run):
    assert run("report", "job.yaml", "--contact-sheet", "--to", "s.png", "--cell", "300")[0] == 0
    with Image.open("s.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 50


def test_export_and_status_name_what_lies_where(job, gate, run):
    rows = [json.loads(line) for line in run("export", "job.yaml")[1].splitlines()]
    assert [(row["file"], row["sidecars"]) for row in rows] == [("a.jpg", ["a.txt"]), ("b.jpg", ["b.txt"])]
    assert json.loads(run("status", "job.yaml", "--json")[1])["bucket"] == ADDRESS
    assert gate.seen == []


def test_a_damaged_ledger_is_built_anew_from_the_bucket(job, gate, run):
    ledger_path(job).write_bytes(b"not a ledger at all" * 1000)
    code, _, err = run("verify", "job.emulated", "--repair")
    assert code == 0 and "2 images back in the ledger" in err
    code, _, err = run("run", "job.yaml", "--emulate")
    assert (code, "0 made · 0 kept · 2 moved" in err) == (0, True)
    assert sorted(gate.objects()) == ["a.jpg", "a.txt", "b.jpg", "b.txt"]


def test_doctor_says_whether_the_bucket_answers(gate, run, tmp_path, monkeypatch):
    for name in ("GEMINI_API_KEY", "AIMLAPI_API_KEY"):
        monkeypatch.delenv(name)  # no vendor is asked

    def asked() -> str:
        found = json.loads(run("doctor", "job.yaml", "--online", "--json")[1])["checks"]
        return next(check["verdict"] + " " + check["says"] for check in found if check["what"] == "bucket")

    (tmp_path / "job.yaml").write_text(f"output: {ADDRESS}\n{MANIFEST}")
    assert asked() == f"ok {ADDRESS} can be read"
    gate.refuse = lambda method, path: 403
    assert asked().startswith(f"fail {ADDRESS}: the bucket refuses it")
    (tmp_path / "job.yaml").write_text(f"output: s3://nobodys-bucket\n{MANIFEST}")
    gate.refuse = lambda method, path: None
    assert asked() == "fail s3://nobodys-bucket: there is no such bucket"


def test_post_makes_derivatives_in_the_bucket_that_every_view_sees(job, gate, run):
    Path("job.yaml").write_text(MANIFEST.replace("defaults", "post: [{name: web, format: webp, width: 16}]\ndefaults"))
    code, out, err = run("post", "job.yaml", "--json")
    assert (code, json.loads(out)["folder"], err) == (0, str(job), "")
    web = {name: data for name, data in gate.objects().items() if name.startswith("derivatives/")}
    assert sorted(web) == ["derivatives/web/a.webp", "derivatives/web/b.webp"]
    found = json.loads(run("verify", "job.yaml", "--json")[1])
    assert (found["ok"], found["checked"], found["derived"], found["extra"]) == (True, 2, 2, [])
    sha256 = hashlib.sha256(web["derivatives/web/a.webp"]).hexdigest()
    opened = open_derivative(job, "a", 1, sha256[:16])
    assert opened is not None and (opened.kind, opened.file.seek(0), opened.file.read()) == (
        "image/webp",
        0,
        web["derivatives/web/a.webp"],
    )
    code, _, _ = run("report", "job.yaml")
    assert code == 0 and "derivatives/web/a.webp" in (job / "report.html").read_text()
    ObjectStorage(ADDRESS).delete("derivatives/web/a.webp")
    found = json.loads(run("verify", "job.yaml", "--json")[1])
    assert (found["ok"], found["derived_amiss"]) == (False, ["derivatives/web/a.webp"])
    assert run("post", "job.yaml")[0] == 0 and gate.objects()["derivatives/web/a.webp"] == web["derivatives/web/a.webp"]


def test_the_schema_says_that_output_may_be_a_bucket(run):
    out = run("schema")[1]
    assert "s3://" in out


def test_serve_passes_pictures_through_in_part_or_whole(job, gate):
    whole = gate.objects()["a.jpg"]

    async def look() -> None:
        async with site(job) as page:
            at = f"/jobs/{page.job}/pictures/1-0"
            status, body, headers = await page.get(at)
            assert (status, body, headers["Content-Type"]) == (200, whole, "image/jpeg")
            status, body, more = await page.get(at, Range="bytes=10-19")
            assert (status, body, more["Content-Range"]) == (206, whole[10:20], f"bytes 10-19/{len(whole)}")
            assert (await page.get(at, **{"If-None-Match": headers["ETag"]}))[0] == 304
            status, body, _ = await page.get(f"/jobs/{page.job}/thumbnails/1-0")
            assert status == 200
            with Image.open(io.BytesIO(body)) as small:
                assert small.format == "WEBP"
            ObjectStorage(ADDRESS).delete("a.jpg")
            assert (await page.get(at))[0] == 404

    asyncio.run(look())
