"""A job whose pictures are in a bucket and whose folder is gone, in part or as a whole: nothing is bought again."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

import batchgen
from batchgen.errors import BatchgenError, LedgerError
from batchgen.ledger.reader import Reader
from batchgen.store.objects import ObjectStorage
from tests.support.bench import items
from tests.support.bucket_bench import ADDRESS
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY
from tests.support.paths import ROOT

THREE = items("a", "b", "c")


class Place:
    """A job that is not emulated: run in this process, repaired by one of the real program."""

    def __init__(self, bench, gate) -> None:
        self.bench, self.gate, self.folder = bench, gate, bench.folder / "job"
        self.environ = {"BATCHGEN_GEMINI_BASE_URL": bench.url, "GEMINI_API_KEY": KEY}

    def manifest(self, text: str = THREE, head: str = f"output: {ADDRESS}\n") -> Path:
        return self.bench.manifest(text, f"{head}defaults: {{model: flash}}\nitems:\n")

    def load(self, output: str | None = None, name: str = "job.yaml") -> batchgen.Job:
        return batchgen.load(self.bench.folder / name, output=output, environ=self.environ)

    async def run(self, output: str | None = None, name: str = "job.yaml") -> tuple[int, str]:
        """The exit code, and what was said or made."""
        try:
            outcome = await batchgen.run(self.load(output, name))
        except BatchgenError as error:
            return error.exit_code, str(error)
        return outcome.exit_code, f"{outcome.made} made, {outcome.kept} kept"

    async def verify(self, *argv: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "batchgen", "verify", *argv, cwd=self.bench.folder,
            env={**os.environ, **self.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    async def sent(self) -> int:
        return int(await self.bench.requests())


@pytest.fixture
async def place(bench, gate):
    return Place(bench, gate)


def remedy(said: str) -> list[str]:
    found = re.search(r"`batchgen verify ([^`]* --repair)`", said)
    assert found, said
    return shlex.split(found[1])


@pytest.mark.parametrize("left", ["nothing", "results.jsonl", "all but the ledger"])
async def test_a_run_without_its_folder_finds_its_pictures_in_the_bucket_and_buys_nothing(place, gate, left):
    place.manifest()
    assert await place.run() == (0, "3 made, 0 kept")
    before = gate.objects()
    if left == "nothing":
        shutil.rmtree(place.folder)
    elif left == "results.jsonl":
        shutil.rmtree(place.folder / ".batchgen")
    else:
        for path in (place.folder / ".batchgen").glob("ledger*"):
            path.unlink()
    with pytest.raises(LedgerError, match="would buy again"):
        batchgen.plan(place.load())
    code, said = await place.run()
    assert (code, await place.sent()) == (5, 3), said
    assert ("under names that the manifest asks for (i0.jpg, i1.jpg, i2.jpg)" in said) == (left == "nothing"), said
    code, said = await place.verify(*remedy(said))
    assert (code, "3 images back in the ledger" in said, "3 files verified" in said) == (0, True, True), said
    assert (await place.run(), await place.sent(), gate.objects() == before) == ((0, "0 made, 3 kept"), 3, True)


async def test_receipts_say_of_which_prompt_a_picture_was_so_that_an_edited_one_is_made_anew(place, gate):
    place.manifest()
    await place.run()
    shutil.rmtree(place.folder)
    place.manifest(items("a", "b at night", "c"))
    code, said = await place.verify("job.yaml", "--repair")
    assert (code, "1 of them without a fingerprint" in said) == (0, True), said
    assert (await place.run(), await place.sent()) == ((0, "1 made, 2 kept"), 4)


async def test_receipts_without_a_picture_under_its_name_are_evidence_too(place, gate):
    place.manifest()
    await place.run()
    shutil.rmtree(place.folder)
    place.manifest(THREE.replace("prompt:", "filename: 'new {{ id }}', prompt:"))
    code, said = await place.run()
    assert (code, "receipts of images that the manifest asks for lie in" in said, await place.sent()) == (5, True, 3)
    assert (await place.verify(*remedy(said)))[0] == 0
    assert (await place.run(), await place.sent()) == ((0, "0 made, 0 kept"), 3)  # renamed
    assert "new i0.jpg" in gate.objects()


async def test_money_and_texts_come_back_from_the_receipts(place, gate):
    place.manifest("  - {id: t, prompt: a, modalities: [text, image]}\n")
    await place.run()
    with Reader.open(place.folder) as reader:
        (before,) = reader.results()
    shutil.rmtree(place.folder)
    await place.verify("job.yaml", "--repair")
    assert (await place.run())[0] == 0
    with Reader.open(place.folder) as reader:
        (after,) = reader.results()
    names = ("usd", "usd_source", "text", "sidecars", "files", "fingerprint", "prompt", "model")
    assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]
    assert before.usd and before.text and before.sidecars


async def test_pictures_and_receipts_of_another_job_at_the_same_address_are_left_alone(place, gate):
    place.manifest()
    await place.run()
    before = gate.objects()
    (place.bench.folder / "other.yaml").write_text(place.manifest("  - {id: mine, prompt: z}\n").read_text())
    assert await place.run(name="other.yaml") == (0, "1 made, 0 kept")
    assert {name: data for name, data in gate.objects().items() if name != "mine.jpg"} == before


async def test_a_bucket_that_only_the_command_line_named_is_in_the_remedy(place, gate):
    place.manifest(head="")
    await place.run(ADDRESS)
    shutil.rmtree(place.folder / ".batchgen")
    code, said = await place.run()  # the note of where the pictures are is gone as well
    assert (code, await place.sent()) == (5, 3), said
    code, said = await place.verify("job.yaml", "--repair")
    assert (code, "none of the 3 image(s)" in said, "--output s3://bucket/prefix" in said) == (5, True, True), said
    code, said = await place.run(ADDRESS)
    assert (code, remedy(said)) == (5, [str(place.bench.folder / "job.yaml"), "--output", ADDRESS, "--repair"])
    assert (await place.verify(*remedy(said)))[0] == 0
    assert (await place.run(), await place.sent()) == ((0, "0 made, 3 kept"), 3)  # the ledger says where they are


async def test_a_picture_that_was_renamed_in_the_bucket_is_found_and_only_those_of_its_size_are_read(bench, gate):
    await bench.run(THREE)
    objects = ObjectStorage(ADDRESS)
    before = gate.objects()
    objects.move("i1.jpg", "best/mine.jpg")
    objects.put_new("a of the same size.jpg", bytes(len(before["i1.jpg"])))
    objects.put_new("a larger one.jpg", bytes(len(before["i1.jpg"]) + 1))
    gate.seen.clear()
    outcome = await bench.run(THREE)
    assert (outcome.exit_code, outcome.moved, outcome.kept, await bench.requests()) == (0, 1, 2, 3)
    assert {name: data for name, data in gate.objects().items() if name in before} == before
    read = {path for method, path in gate.seen if method == "GET" and path.endswith(".jpg")}
    assert "best/mine.jpg" in read and read <= {"best/mine.jpg", "a of the same size.jpg"}
    assert "best/mine.jpg is the missing i1.jpg under another name" in bench.notes
