"""What is kept beside a picture: text, thoughts and the sources of a search. It follows its picture and outlives a crash."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

import batchgen
from batchgen.cli.verify import verify
from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine.recovery.open_attempts import move_unplaced
from batchgen.engine.recovery.repair import repair
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import Reader
from batchgen.providers.gemini import Gemini
from batchgen.records import ReplyImage
from batchgen.report.console import Console
from batchgen.store.store import Store
from batchgen.store.stored_files import sidecar_path, with_sidecars
from tests.support.bench import LIFTED_PX, Bench

TEXT = "  - {id: a, prompt: a fox, modalities: [text, image]}\n"
SEARCH = "  - {id: a, prompt: a fox, search: image}\n"
THOUGHTS = "  - {id: a, prompt: a fox, keep_thoughts: true, thinking: high}\n"
ALL = "  - {id: a, prompt: a fox, keep_thoughts: true, search: web, modalities: [text, image]}\n"
ALL_NAMES = ["a.jpg", "a.search.html", "a.sources.json", "a.thoughts.md", "a.txt"]


@pytest.fixture(params=[64, LIFTED_PX], ids=["picture in the envelope", "picture lifted"])
async def bench(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[Bench]:
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture_px=request.param, rpm=0)) as emulator:
        yield Bench(emulator.base_url, tmp_path)


def names(bench, folder=""):
    place = bench.folder / "out" / folder
    return sorted(path.name for path in place.iterdir() if path.is_file() and path.name != "results.jsonl")


def read(bench, name):
    return (bench.folder / "out" / name).read_text()


async def test_text_that_was_asked_for_stands_beside_the_picture(bench):
    await bench.run(TEXT)
    assert (names(bench), read(bench, "a.txt")) == (["a.jpg", "a.txt"], "Here is the picture you asked for.\n")
    assert bench.lines()["a"]["sidecars"] == ["a.txt"]


async def test_what_a_search_found_stands_beside_the_picture(bench):
    await bench.run(SEARCH)
    assert names(bench) == ["a.jpg", "a.search.html", "a.sources.json"]
    assert read(bench, "a.search.html") == '<div class="container">Emulated search suggestions</div>'
    found = json.loads(read(bench, "a.sources.json"))
    assert (found["queries"], [source["kind"] for source in found["sources"]]) == (
        ["a fox", "about a fox"],
        ["web", "image"],
    )
    assert bench.lines()["a"]["sidecars"] == ["a.sources.json", "a.search.html"]


async def test_thoughts_are_kept_as_text_and_drafts_and_are_not_billed_as_pictures(bench):
    outcome = await bench.run(THOUGHTS)
    assert names(bench) == ["a.jpg", "a.thoughts.md"]
    assert "Planning the picture" in read(bench, "a.thoughts.md")
    assert len(names(bench, "drafts")) == 2
    with Reader.open(bench.folder / "out") as ledger:
        (result,) = ledger.results()
    assert [file.role for file in result.files] == ["image", "thought", "thought"]
    assert outcome.usd < 2 * 0.0336


async def test_thoughts_that_were_not_asked_to_be_kept_leave_nothing(bench):
    await bench.run('  - {id: a, prompt: "[[fault:thought_images]] x"}\n')
    assert names(bench) == ["a.jpg"]
    assert not (bench.folder / "out" / "drafts").exists()


async def test_a_plain_picture_has_nothing_beside_it(bench):
    await bench.run("  - {id: a, prompt: a fox}\n")
    assert (names(bench), bench.lines()["a"]["sidecars"]) == (["a.jpg"], [])


async def test_running_again_sends_nothing(bench):
    await bench.run(ALL)
    outcome = await bench.run(ALL)
    assert (outcome.kept, await bench.requests()) == (1, 1)


async def test_a_renamed_picture_takes_along_what_is_beside_it(bench):
    await bench.run(ALL)
    await bench.run(ALL.replace("{id: a,", "{id: a, filename: b,"))
    assert names(bench) == [name.replace("a.", "b.", 1) for name in ALL_NAMES]
    assert bench.lines()["a"]["sidecars"] == ["b.txt", "b.thoughts.md", "b.sources.json", "b.search.html"]
    assert await bench.requests() == 1


async def test_two_pictures_that_swap_their_names_swap_what_is_beside_them(bench):
    entry = "  - {{id: {0}, prompt: picture {0}, filename: {1}, search: web}}\n"
    await bench.run(entry.format("a", "one") + entry.format("b", "two"))
    one, two = read(bench, "one.sources.json"), read(bench, "two.sources.json")
    await bench.run(entry.format("a", "two") + entry.format("b", "one"))
    assert (read(bench, "one.sources.json"), read(bench, "two.sources.json")) == (two, one) != (one, two)


async def test_a_superseded_picture_takes_along_what_is_beside_it_and_brings_it_back(bench):
    await bench.run(ALL)
    sources = read(bench, "a.sources.json")
    await bench.run("  - {id: a, prompt: another}\n")
    assert (names(bench), names(bench, "superseded")) == (
        ["a.jpg"], [name.replace("a.", "a.1.", 1) for name in ALL_NAMES])  # fmt: skip
    await bench.run(ALL)
    assert (names(bench), read(bench, "a.sources.json"), await bench.requests()) == (ALL_NAMES, sources, 2)


async def test_superseded_pictures_of_two_formats_keep_what_is_beside_them_apart(bench):
    for model in ("flash", "gemini-2.5-flash-image"):
        await bench.run(SEARCH.replace("search: image", f"modalities: [text, image], model: {model}"))
        await bench.run("  - {id: b, prompt: another}\n")
    assert names(bench, "superseded") == ["a.1.jpg", "a.1.txt", "a.2.png", "a.2.txt"]


async def test_a_file_of_somebody_else_is_moved_and_not_written_over(bench):
    (bench.folder / "out").mkdir()
    (bench.folder / "out" / "a.txt").write_text("mine")
    await bench.run(TEXT)
    assert (read(bench, "superseded/a.txt.1"), read(bench, "a.txt")[:4]) == ("mine", "Here")


async def test_verify_knows_what_stands_beside_a_picture(bench):
    await bench.run(ALL)
    (bench.folder / "out" / "b.txt").write_text("of nobody")
    with Reader.open(bench.folder / "out") as ledger:
        findings = verify(bench.folder / "out", ledger, Console(io.StringIO()))
    assert (findings.is_intact, findings.extra) == (True, ["b.txt"])


async def test_what_a_crash_left_unwritten_is_written_by_the_next_run_from_the_ledger(bench):
    await bench.run(ALL)
    out = bench.folder / "out"
    for name in ALL_NAMES[1:]:
        (out / name).unlink()
    with sqlite3.connect(out / ".batchgen" / "ledger.sqlite") as db:  # recorded, and not placed
        db.execute("UPDATE image SET placed = 0")
    db.close()
    await bench.run(ALL)
    assert (names(bench), await bench.requests()) == (ALL_NAMES, 1)


async def test_a_crash_before_the_picture_was_moved_writes_beside_it_too(bench):
    await bench.run(ALL)
    out = bench.folder / "out"
    ledger, store = Ledger(out), Store(out)
    (image,) = [image for image in ledger.reader.images() if image.file.role == "image"]
    (out / image.file.path).rename(store.spooled(image.spool))
    for name in ALL_NAMES[1:]:
        (out / name).unlink()
    ledger.run_statements([("UPDATE image SET placed = 0 WHERE role = 'image'", ())])
    move_unplaced(ledger, store, ledger.reader.unplaced(), lambda _: None)
    ledger.close()
    assert names(bench) == ALL_NAMES


async def test_a_ledger_that_was_built_anew_knows_what_stands_beside_its_pictures(bench):
    await bench.run(ALL)
    out = bench.folder / "out"
    before, texts = bench.lines()["a"]["sidecars"], {name: read(bench, name) for name in ALL_NAMES[1:]}
    (out / ".batchgen" / "ledger.sqlite").write_bytes(b"damaged " * 1000)
    repair(out, batchgen.load(bench.manifest(ALL), output=out, emulate=True, environ={}).manifest)
    await bench.run(ALL + "  - {id: b, prompt: b}\n")
    assert (bench.lines()["a"]["sidecars"], {name: read(bench, name) for name in texts}) == (before, texts)
    await bench.run(ALL.replace("{id: a,", "{id: a, filename: c,"))
    assert {name for name in names(bench) if name[0] == "c"} == {name.replace("a.", "c.", 1) for name in ALL_NAMES}
    assert await bench.requests() == 2


async def test_an_answer_that_is_read_later_has_beside_its_picture_what_was_asked_for(bench, monkeypatch):
    real = Gemini.read
    with monkeypatch.context() as patch:
        patch.setattr(Gemini, "read", lambda *_: 1 / 0)
        assert (await bench.run(ALL)).made == 0
    assert Gemini.read is real
    await bench.run(ALL)
    assert (names(bench), await bench.requests()) == (ALL_NAMES, 1)


async def test_a_thought_that_is_no_whole_picture_costs_nothing_but_itself(bench, monkeypatch):
    real = Gemini.read

    def with_broken_thoughts(codec, response):
        reply = real(codec, response)
        broken = (ReplyImage("image/png", data=b"junk", role="thought"), ReplyImage("", decoded=99, role="thought"))
        return replace(reply, images=(*broken, *reply.images), usage=None)

    monkeypatch.setattr(Gemini, "read", with_broken_thoughts)
    outcome = await bench.run(THOUGHTS)
    assert (outcome.exit_code, names(bench), len(names(bench, "drafts"))) == (0, ["a.jpg", "a.thoughts.md"], 2)
    assert outcome.estimated_usd == pytest.approx(outcome.forecast.usd)  # of one picture
    assert list((bench.folder / "out" / ".batchgen" / "spool").iterdir()) == []


async def test_what_is_missing_beside_a_picture_after_a_crash_is_written_again(bench):
    await bench.run(ALL)
    out = bench.folder / "out"
    (out / "a.txt").unlink()
    with sqlite3.connect(out / ".batchgen" / "ledger.sqlite") as db:
        db.execute("UPDATE run SET ended_at = NULL")
    db.close()
    await bench.run(ALL)
    assert names(bench) == ALL_NAMES


def test_what_stands_beside_a_picture_is_durable_under_its_new_name_before_the_picture_moves(tmp_path, monkeypatch):
    for name in ("a.jpg", "a.txt"):
        (tmp_path / name).write_text(name)
    steps, rename = [], os.rename
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, lambda old, new: (steps.append(os.path.basename(new)), rename(old, new)))
    monkeypatch.setattr("batchgen.store.local_folder.sync_folder", lambda _: steps.append("sync"))
    Store(tmp_path).move("a.jpg", "b.jpg")
    assert steps == ["b.txt", "sync", "b.jpg"]


def test_no_two_pictures_can_mean_the_same_file_beside_them():
    paths = ["x.jpg", "x.thoughts.jpg", "x.sources.png", "x.search.webp", "x.txt.gif", "x.json.jpg", "x.md.jpg"]
    every = [name for path in paths for name in with_sidecars(path)]
    assert len(set(every)) == len(every)
    assert sidecar_path("drafts/x.3-1.jpg", ".txt") == "drafts/x.3-1.txt"
