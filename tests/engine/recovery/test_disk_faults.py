"""A disk that says no, once or for good, at every single call: nothing paid for is lost unsaid, and the next run mends it."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import batchgen
from batchgen.emulator import EmulatorOptions, serve
from batchgen.errors import BatchgenError, StoreError
from batchgen.events import AttemptStarted
from batchgen.ledger.reader import Reader
from batchgen.store import spool
from batchgen.store.store import Store
from tests.support.bench import LIFTED_PX, Bench, items
from tests.support.marked_key import KEY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd to see which file a call is for")
PROMPTS = [f"cup {n}" for n in range(4)]
CALLS_MOST = 24  # more than a run of four pictures makes of any of them


class FaultyDisk:
    """Below one folder, the k-th call of one function fails, or every one from the k-th on.

    One for holder.json does not count: that is a note for people, which a run does without.
    """

    def __init__(self, folder: Path, name: str, k: int, *, for_good: bool, code: int) -> None:
        self.folder, self.k, self.for_good, self.code = f"{folder}/", k, for_good, code
        self.name, self.real, self.calls, self.failed = name, getattr(os, name), 0, 0

    def __call__(self, first: Any, *args: Any, **kwargs: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
        if str(path).startswith(self.folder) and not str(path).endswith("/holder.json"):
            self.calls += 1
            if self.calls == self.k or (self.for_good and self.calls > self.k):
                self.failed += 1
                raise OSError(self.code, os.strerror(self.code))
        return self.real(first, *args, **kwargs)


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.01), picture="tiny", rpm=0)) as emulator:
        yield Bench(emulator.base_url, tmp_path)


async def run_on(bench: Bench, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """The exit code and what was said. Anything but an explained error is a failed test."""
    with monkeypatch.context() as patch:
        patch.setattr(os, disk.name, disk)
        try:
            outcome = await bench.run(items(*PROMPTS))
        except BatchgenError as error:
            return error.exit_code, str(error)
    return outcome.exit_code, outcome.message


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize(
    ("name", "code"),
    [("open", errno.ENOSPC), ("write", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.ENOSPC)],
)
async def test_the_kth_call_fails_and_the_next_run_has_every_picture(
    tmp_path, bench, monkeypatch, name, code, for_good
):
    for k in range(1, CALLS_MOST):
        case = Bench(bench.url, tmp_path / str(k))
        case.folder.mkdir()
        before = await bench.requests()
        disk = FaultyDisk(case.folder / "out", name, k, for_good=for_good, code=code)
        exit_code, said = await run_on(case, disk, monkeypatch)
        if not disk.failed:
            assert exit_code == 0
            return
        assert exit_code == 5, said
        case.pictures()  # each decodes
        outcome = await case.run(items(*PROMPTS))
        assert (outcome.exit_code, len(case.pictures()), len(case.lines())) == (0, 4, 4), (k, said)
        served = await bench.served()
        assert all(digest in served[PROMPTS[int(file[1])]] for file, digest in case.pictures().items())
        with Reader.open(case.folder / "out") as ledger:
            uncertain = ledger.attempts().get("uncertain", 0)
        assert await bench.requests() - before <= 4 + uncertain, (k, said)
        assert uncertain <= said.count("is lost"), (k, said)  # whatever is bought twice was named
        assert list((tmp_path / "temp").iterdir()) == []
    pytest.fail("the run makes more calls than were tried")


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize(("name", "k"), [("open", 9), ("write", 2), ("write", 5), ("fsync", 4)])
async def test_a_large_picture_that_is_written_while_it_arrives_is_not_lost_either(
    tmp_path, monkeypatch, name, k, for_good
):
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.01), picture_px=LIFTED_PX, rpm=0)) as emulator:
        case = Bench(emulator.base_url, tmp_path)
        spool = tmp_path / "out" / ".batchgen" / "spool"
        folder = tmp_path / "out" if name == "open" else spool  # of the open calls, the first are the run's own
        disk = FaultyDisk(folder, name, k, for_good=for_good, code=errno.ENOSPC)
        exit_code, said = await run_on(case, disk, monkeypatch)
        assert (exit_code, bool(disk.failed), "is lost" in said) == (5, True, False), said
        outcome = await case.run(items(*PROMPTS))
        assert (outcome.exit_code, await case.requests(), len(case.pictures())) == (0, 4, 4), said


async def test_after_the_first_refusal_nothing_more_is_sent(tmp_path, bench, monkeypatch):
    head = "defaults: {model: flash}\nlimits: {concurrency: 1}\nitems:\n"
    disk = FaultyDisk(tmp_path / "out" / ".batchgen" / "spool", "write", 2, for_good=False, code=errno.ENOSPC)
    monkeypatch.setattr(os, "write", disk)  # the first is the probe
    outcome = await bench.run(items(*PROMPTS), head=head)
    assert (outcome.exit_code, outcome.stopped_by) == (5, "disk")
    assert await bench.requests() <= 2  # the next may have left while the first was being stored
    assert outcome.made == await bench.requests()
    assert "disk is full" in outcome.message


async def test_a_picture_that_finds_no_room_lies_in_the_temporary_folder_and_the_message_says_where(
    tmp_path, bench, monkeypatch
):
    disk = FaultyDisk(tmp_path / "out" / ".batchgen" / "spool", "write", 2, for_good=True, code=errno.ENOSPC)
    _, said = await run_on(bench, disk, monkeypatch)
    left = list((tmp_path / "temp").iterdir())
    assert left
    for path in left:
        assert path.name.startswith("batchgen-rescue-out-")
        assert path.suffix == ".jpg"
        assert path.stat().st_mode & 0o777 == 0o600
        assert str(path) in said
    requests = await bench.requests()
    outcome = await bench.run(items(*PROMPTS))
    assert (outcome.exit_code, await bench.requests() - requests) == (0, 4 - len(left))
    assert list((tmp_path / "temp").iterdir()) == []


async def test_the_ballast_is_there_while_a_run_lasts_and_gone_afterwards(tmp_path, bench, monkeypatch, reserved_bytes):
    monkeypatch.setattr(spool, "RESERVED_BYTES", reserved_bytes)
    sizes = []

    def look(event: object) -> None:
        if isinstance(event, AttemptStarted):
            sizes.append((tmp_path / "out" / ".batchgen" / "ballast").stat().st_blocks * 512)

    job = batchgen.load(bench.manifest(items("a")), output=tmp_path / "out", emulate=True, environ={})
    await batchgen.run(job, observers=[look], options=batchgen.RunOptions(emulator_url=bench.url))
    assert sizes
    assert min(sizes) >= 16_000_000
    assert not (tmp_path / "out" / ".batchgen" / "ballast").exists()


async def test_a_disk_too_small_for_the_plan_is_said_before_anything_is_sent(tmp_path, bench, monkeypatch):
    monkeypatch.setattr(Store, "free_bytes", lambda self: 55_000_000)
    environ = {"GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": bench.url}
    job = batchgen.load(bench.manifest(items(*PROMPTS)), output=tmp_path / "out", environ=environ)
    with pytest.raises(StoreError, match=r"55 MB are free .* 58 MB: .* --limit 2\. Nothing was sent"):
        await batchgen.run(job)
    assert await bench.requests() == 0
    assert (await batchgen.run(job, options=batchgen.RunOptions(limit=2))).made == 2
