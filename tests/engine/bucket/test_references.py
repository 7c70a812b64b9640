"""References that lie in a bucket: found when the manifest is read, known by what is in them, fetched once, and few requests."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
import sys
import threading
from pathlib import Path

import pytest

import batchgen
from batchgen.cli.gallery_manifest import manifest_info
from batchgen.cli.invocation import Invocation
from batchgen.cli.main import run_command_line
from batchgen.errors import ManifestError, UsageError
from batchgen.manifest.addresses import glob_prefix, match_keys
from batchgen.references.remote import FILE_NAME, ObjectCache
from tests.support.images import noise
from tests.support.marked_key import KEY

PNG, JPEG, GIF = noise(300), noise(300, 1, "JPEG"), noise(300, 2, "GIF")
LIKE = b"\x89PNG\r\n\x1a\n"  # as much of a picture as is looked at while a manifest is read


class Photos:
    """A bucket of the user's, and what has been asked of it."""

    def __init__(self, gate, folder: Path) -> None:
        self.gate = gate
        self.folder = folder

    def put(self, **objects: bytes) -> None:
        self.put_all(objects)

    def put_all(self, objects: dict[str, bytes]) -> None:
        for key, data in objects.items():
            self.gate.put("photos", key, data)

    def asked(self) -> tuple[int, int]:
        """Listings and reads since the last time."""
        paths = [path for method, path in self.gate.seen if method == "GET" and path.startswith("/photos")]
        self.gate.seen.clear()
        return paths.count("/photos"), len(paths) - paths.count("/photos")

    def load(self, *references: str, rows: str = "", **options) -> batchgen.Job:
        """An item for each reference, or for each row of a table."""
        path = self.folder / "job.yaml"
        text = "".join(f"  - {{id: i{n}, prompt: p, references: ['{name}']}}\n" for n, name in enumerate(references))
        if rows:
            (self.folder / "rows.csv").write_text("sku\n" + rows)
            text = f"  - {{from: rows.csv, id: '{{{{ sku }}}}', prompt: p, references: ['{references[0]}']}}\n"
        path.write_text("version: 1\nmodels: {gemini-nano-banana-2.1: {rpm: 6000}}\nitems:\n" + text)
        return batchgen.load(path, emulate=True, **options)

    def found(self, *references: str) -> list[list[str]]:
        return [[name.removeprefix("s3://photos/") for name in item.references] for item in
                self.load(*references).manifest.items()]  # fmt: skip

    def wrong(self, *references: str, **options) -> str:
        with pytest.raises(ManifestError) as caught:
            batchgen.plan(self.load(*references, **options))
        assert KEY not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def photos(gate, tmp_path) -> Photos:
    return Photos(gate, tmp_path)


# --- found at plan time


def test_an_object_is_found_and_its_name_is_taken_as_it_stands(photos):
    names = ["mug.png", "a b#.png", "100%.png", "ü/x%41.png", "odd[1]?.png"]
    photos.put_all(dict.fromkeys(names, PNG))
    assert photos.found(*(f"s3://photos/{name}" for name in names)) == [[name] for name in names]
    assert photos.found("S3://photos/mug.png") == [["mug.png"]]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("mug/*.png", ["mug/a.png", "mug/b.png"]),
        ("mug/?.jpg", ["mug/c.jpg"]),
        ("mug/[!a].png", ["mug/b.png"]),
        ("**/b.png", ["b.png", "mug/b.png", "mug/old/b.png"]),
        ("mug/**", ["mug/a.png", "mug/b.png", "mug/c.jpg", "mug/old/b.png"]),
        ("mu*/old/*", ["mug/old/b.png"]),
        ("mug/.*", ["mug/.hidden.png"]),
        ("z*", ["z", "z1.png"]),
    ],
)
def test_a_glob_takes_what_the_same_glob_takes_of_a_folder(photos, tmp_path, pattern, names):
    keys = ["b.png", "mug/.hidden.png", "mug/a.png", "mug/b.png", "mug/c.jpg", "mug/old/b.png", "mugs/x.png",
            ".mug/b.png", "y.png", "z", "z1.png"]  # fmt: skip
    photos.put_all(dict.fromkeys(keys, PNG))
    for key in keys:
        (tmp_path / "here" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / key).write_bytes(PNG)
    assert photos.found(f"s3://photos/{pattern}") == [names]
    if pattern != "mug/**":  # which in a folder takes the folder below too, and that is no picture
        local = next(photos.load(f"here/{pattern}").manifest.items()).references
        assert [Path(name).relative_to(tmp_path / "here").as_posix() for name in local] == names


def test_a_glob_of_many_stars_is_soon_answered():
    keys = ["/".join("ab" * 20)] * 20
    assert list(match_keys("/".join(["**", "a"] * 12) + "/c", keys)) == []
    assert glob_prefix("a/b[c]*") == "a/b"


def test_each_thing_wrong_is_told_where_it_stands_and_all_at_once(photos, monkeypatch):
    monkeypatch.setattr("batchgen.references.remote.GLOB_MAX_FILES", 3)
    photos.put_all({"text.png": b"<svg></svg>", "empty.png": b"", **{f"many/{n}.png": PNG for n in range(4)}})
    told = photos.wrong(
        "s3://photos/nothing.png", "s3://photos/none/*.png", "s3://photos/many/*.png", "s3://photos/text.png",
        "s3://photos/empty.png", "s3://photos", "s3://photos/a//b.png", "s3://user:pass/word@photos/a.png",
        "s3://photos/many/..*",
    ).splitlines()  # fmt: skip
    expected = [
        "'s3://photos/nothing.png' there is no such object in the bucket",
        "'s3://photos/none/*.png' matches no object",
        "'s3://photos/many/*.png' matches more than 3 objects",
        "'s3://photos/text.png' is not an image (PNG, JPEG, WebP, GIF, HEIC, HEIF, AVIF, TIFF or BMP) by its content",
        "'s3://photos/empty.png' is not an image (PNG, JPEG, WebP, GIF, HEIC, HEIF, AVIF, TIFF or BMP) by its content",
        "'s3://photos': names no object: write s3://photos/folder/name.png",
        "'s3://photos/a//b.png': the object's name is made of names with one '/' between them, without '.' and '..'",
        "its address: holds a user or password: credentials come from the environment",
        "'s3://photos/many/..*' matches no object",
    ]
    lines = [line for line in told if "job.yaml:" in line]
    assert [line.partition("references[0]: ")[2] for line in lines] == expected
    assert all(f"job.yaml:{n}:" in line for n, line in enumerate(lines, 4))


def test_an_object_that_is_too_large_is_told_without_being_fetched(photos, monkeypatch):
    from batchgen.references.remote import RemoteReferences

    photos.put(big=LIKE + bytes(3_000_000))
    afar = RemoteReferences(None, print, file_max_bytes=2_000_000)
    with pytest.raises(ValueError, match=r"'s3://photos/big' has 3\.0 MB, a reference at most 2 MB"):
        afar.find("s3://photos/big")
    with pytest.raises(UsageError, match="has grown beyond 2 MB"):
        afar.digests(["s3://photos/big"])


def test_a_bucket_that_is_not_there_refuses_or_cannot_be_reached_is_told_and_soon_left_alone(photos, monkeypatch):
    photos.put(a=PNG)
    assert "there is no such bucket" in photos.wrong("s3://other-photos/a.png", "s3://other-photos/*.png")
    photos.gate.refuse = lambda method, path: 403
    photos.gate.seen.clear()
    told = photos.wrong("s3://photos/{{ sku }}.png", rows="".join(f"s{n}\n" for n in range(50)))
    assert "the bucket refuses it (HTTP 403 AccessDenied): check the credentials" in told and "and 30 more" in told
    assert photos.asked() == (0, 3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("batchgen.store.objects.RETRIES", 0)
    assert "'s3://photos/a': it cannot be reached" in photos.wrong("s3://photos/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example:9000")
    assert "AWS_ENDPOINT_URL: plain http would show" in photos.wrong("s3://photos/a")


def test_missing_credentials_and_a_missing_extra_are_told_with_what_to_do(photos, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no usable credentials: set AWS_ACCESS_KEY_ID and" in photos.wrong("s3://photos/a")
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert "job.yaml:4:" in (told := photos.wrong("s3://photos/a"))
    assert "buckets need obstore: pip install 'batchgen[cloud]'" in told


def test_who_may_read_and_not_list_needs_no_listing(photos):
    photos.put_all({f"p{n}.png": PNG for n in range(20)})
    photos.gate.refuse = lambda method, path: 403 if path == "/photos" else None
    job = photos.load("s3://photos/{{ sku }}.png", rows="".join(f"p{n}\n" for n in range(20)))
    assert batchgen.plan(job).reconciliation.wanted == 20
    assert "the bucket refuses it" in photos.wrong("s3://photos/*.png")


def test_validate_looks_and_fetches_nothing_and_a_page_does_not_even_look(photos, tmp_path, capsys):
    photos.put(a=noise(60_000))
    photos.load("s3://photos/a", "s3://photos/[a]")
    assert run_command_line(["validate", str(tmp_path / "job.yaml")]) == 0
    assert photos.asked() == (1, 1)
    facts = manifest_info(str(tmp_path / "job.yaml"), Invocation())
    assert facts.unfingerprinted == {"i0": {"references": ["s3://photos/a"]}, "i1": {"references": ["s3://photos/[a]"]}}
    assert photos.asked() == (0, 0)
    photos.load("s3://photos/a", "s3://photos/b")
    assert run_command_line(["validate", str(tmp_path / "job.yaml")]) == 2
    assert "job.yaml:5:" in (told := capsys.readouterr().err) and "no such object" in told


# --- few requests


def test_objects_are_listed_once_instead_of_being_asked_for_one_by_one(photos):
    photos.put_all({f"cat/p{n:03}.png": LIKE + b"%d" % n for n in range(120)})
    rows = "".join(f"p{n:03}\n" for n in range(120))
    assert batchgen.plan(photos.load("s3://photos/cat/{{ sku }}.png", rows=rows)).reconciliation.wanted == 120
    assert photos.asked() == (1, 2 * 120)  # looked at, then hashed
    batchgen.plan(photos.load("s3://photos/cat/{{ sku }}.png", rows=rows))
    assert photos.asked() == (1, 8)
    photos.put_all({"cat/p100.png": LIKE + b"anew"})
    batchgen.plan(photos.load("s3://photos/cat/{{ sku }}.png", rows=rows))
    assert photos.asked() == (1, 8 + 2)


def test_globs_of_many_folders_are_served_by_one_listing_of_what_they_lie_in(photos):
    photos.put_all({f"cat/s{n:02}/{k}.png": LIKE + b"%d" % n for n in range(40) for k in "ab"})
    rows = "".join(f"s{n:02}\n" for n in range(40))
    job = photos.load("s3://photos/cat/{{ sku }}/*.png", rows=rows)
    assert [len(item.references) for item in job.manifest.items()] == [2] * 40
    assert photos.asked() == (8 + 1, 80)


def test_a_folder_with_far_more_than_is_wanted_is_not_listed_to_its_end(photos, monkeypatch):
    monkeypatch.setattr("batchgen.references.listings.PAGE", 10)
    photos.put_all({f"p{n:03}.png": LIKE for n in range(300)})
    rows = "".join(f"p{n:03}\n" for n in range(40))
    assert batchgen.plan(photos.load("s3://photos/{{ sku }}.png", rows=rows)).reconciliation.wanted == 40
    listings, reads = photos.asked()
    assert (listings, reads) == (2, 80)  # tried after eight questions and after four times as many
    monkeypatch.setattr("batchgen.references.listings.MAX_LISTED", 200)
    monkeypatch.setattr("batchgen.references.remote.MAX_LISTED", 200)
    assert "more than 200 objects begin with s3://photos/p: write more of the name" in photos.wrong("s3://photos/p*")
    assert len(photos.found("s3://photos/p05*")[0]) == 10  # ended behind them
    assert len(photos.found("s3://photos/p25*")[0]) == 10  # begun shortly before


def test_objects_that_are_new_are_hashed_several_at_once(photos):
    photos.put_all({f"{n}.png": LIKE + b"%d" % n for n in range(4)})
    meet = threading.Barrier(4, timeout=10.0)

    def hold(method: str, path: str) -> None:
        if photos.gate.fetched("photos", path.removeprefix("/photos/")) > 1:  # not the look at its beginning
            meet.wait()

    photos.gate.refuse = hold
    assert batchgen.plan(photos.load(*(f"s3://photos/{n}.png" for n in range(4)))).reconciliation.wanted == 4
    assert not meet.broken


# --- identity


def test_a_plan_knows_a_picture_by_its_content_and_remembers_it_by_its_etag(photos, state_home):
    photos.put(a=PNG)
    digests = photos.load("s3://photos/a").manifest.references
    assert digests.digest("s3://photos/a") == hashlib.sha256(PNG).hexdigest()
    assert stat.S_IMODE((state_home / "batchgen" / FILE_NAME).stat().st_mode) == 0o600
    photos.asked()
    job = photos.load("s3://photos/a")
    batchgen.plan(job)
    assert photos.asked() == (0, 1)
    photos.put(a=JPEG)
    job = photos.load("s3://photos/a")
    batchgen.plan(job)
    assert photos.asked() == (0, 2)
    assert job.manifest.references.digest("s3://photos/a") == hashlib.sha256(JPEG).hexdigest()


def test_what_is_remembered_is_bounded_and_an_etag_is_the_objects_own(tmp_path):
    known = ObjectCache(tmp_path, print, max_objects=3)
    for n in range(5):
        known.put(f"s3://b/{n}", '"e"', 7, "image/png", f"{n}")
    assert [known.get(f"s3://b/{n}", '"e"', 7)[1] for n in range(5)] == ["", "", "2", "3", "4"]
    assert known.get("s3://b/4", '"f"', 7) == known.get("s3://b/4", '"e"', 8) == ("", "")
    known.put("s3://b/x", "", 7, "image/png", "x")
    assert known.get("s3://b/x", "", 7) == ("", "")  # what has no ETag is not known again


def test_a_memory_that_is_no_memory_is_told_and_does_without(photos, state_home):
    photos.put(a=PNG)
    (state_home / "batchgen").mkdir(parents=True)
    (state_home / "batchgen" / FILE_NAME).write_bytes(b"no database" * 100)
    plan = batchgen.plan(photos.load("s3://photos/a"))
    assert plan.reconciliation.wanted == 1
    assert [warning for warning in plan.warnings if "references in buckets are not remembered" in warning]


def test_another_server_may_mean_another_object_by_the_same_name(photos, gate, monkeypatch, state_home):
    photos.put(a=PNG)
    batchgen.plan(photos.load("s3://photos/a"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{gate.port}")
    batchgen.plan(photos.load("s3://photos/a"))
    with sqlite3.connect(state_home / "batchgen" / FILE_NAME) as memory:
        (count,) = memory.execute("SELECT count(*) FROM object").fetchone()
    memory.close()
    assert count == 2


# --- sent


async def run(photos, bench, *references: str, engine: str = "online", **options):
    job = photos.load(*references, **options)
    return await batchgen.run(job, options=batchgen.RunOptions(emulator_url=bench.url), engine=engine)


@pytest.mark.parametrize("engine", ["online", "batch"])
async def test_what_is_sent_is_the_object_fetched_once_however_many_need_it(photos, bench, engine):
    photos.put_all({"a.png": PNG, "b/1.jpg": JPEG, "b/2.gif": GIF})
    names = ["s3://photos/a.png", "s3://photos/a.png", "s3://photos/b/*"]
    batchgen.plan(photos.load(*names))
    photos.asked()
    outcome = await run(photos, bench, *names, engine=engine)
    assert (outcome.exit_code, outcome.made) == (0, 3)
    assert photos.asked() == (1, 1 + 3)  # looked at in listing and head, then each fetched
    outcome = await run(photos, bench, *names)
    assert (outcome.kept, photos.asked()) == (3, (1, 1))
    photos.put_all({"a.png": GIF})
    outcome = await run(photos, bench, *names)
    assert (outcome.kept, outcome.made) == (1, 2)
    assert not (bench.job / ".batchgen" / "references").exists()


async def test_an_object_that_changes_or_goes_after_the_plan_fails_its_items_and_no_others(photos, bench, gate):
    from batchgen.ledger.reader import Reader

    photos.put(a=PNG, b=JPEG, c=PNG)
    job = photos.load("s3://photos/a", "s3://photos/b", "s3://photos/c")
    for item in job.manifest.items():
        job.manifest.references.prefetch_digests(item.references)
    photos.put(a=GIF)
    gate.take_away("photos", "b")
    outcome = await batchgen.run(job, options=batchgen.RunOptions(emulator_url=bench.url))
    assert (outcome.made, outcome.counts["failed"], await bench.requests()) == (1, 2, 1)
    with Reader.open(job.folder) as ledger:
        failed = {result.id: result.message for result in ledger.results_by_item(("failed",))}
    assert "the reference changed while the run was going; run again" in failed["i0"]
    assert "the reference is no longer in its bucket" in failed["i1"]


async def test_a_bucket_that_goes_away_in_the_run_is_asked_again(photos, bench, gate):
    photos.put(a=PNG)
    job = photos.load("s3://photos/a")
    batchgen.plan(job)
    refused = iter([403])
    gate.refuse = lambda method, path: next(refused, None)
    outcome = await batchgen.run(job, options=batchgen.RunOptions(emulator_url=bench.url))
    assert (outcome.exit_code, outcome.made) == (0, 1)
