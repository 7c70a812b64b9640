"""A picture behind its link on the command line: what is said of it, what ends the wait for it, and what it does not need."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from dataclasses import replace

import pytest

import batchgen
from batchgen.engine import links
from batchgen.engine.routes import link_routes
from batchgen.profiles.catalogue import load_catalogue
from batchgen.settings import Settings
from tests.support.fork_server import PYTHON
from tests.support.link_bench import BEHIND, MODEL, ONE
from tests.support.marked_key import KEY

# As the program is started, but for the pauses between the tries of a link.
QUICK = (
    "import sys; from batchgen.engine import http_attempt; http_attempt.FIRST_RETRY_DELAY_S = {pause_s};"
    "from batchgen.__main__ import main; sys.argv[0] = 'batchgen'; main()"
)


async def start(bench, *argv, pause_s=0.001, **environ):
    environ = {"XDG_STATE_HOME": str(bench.folder / "state"), "COLUMNS": "300", **environ}
    return await asyncio.create_subprocess_exec(
        PYTHON, "-c", QUICK.format(pause_s=pause_s), *argv, env=environ, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def said(process):
    out, err = await process.communicate()
    assert b"secret" not in out + err
    assert b"bug" not in out + err
    return out.decode(), err.decode(), process.returncode


@pytest.fixture
def job(bench):
    """The arguments that name a job of two pictures, and the environment in which the vendor has a key."""
    (bench.folder / "job.yaml").write_text(f"items:\n{ONE}  - {{id: b, prompt: a hare, model: {MODEL}}}\n")
    at_vendor = {"AIMLAPI_API_KEY": KEY, "BATCHGEN_AIMLAPI_BASE_URL": bench.vendor.url}
    return (str(bench.folder / "job.yaml"), "--output", str(bench.out)), at_vendor


async def test_summary_and_status_say_what_happened_where_and_what_to_do(bench, job):
    arguments, environ = job
    bench.vendor.goes_bad("a web page")
    _, err, code = await said(await start(bench, "run", *arguments, "--yes", **environ))
    assert code == 4
    assert "2 × download_failed: 127.0.0.1: the image's link answered 200, but the bytes are not an image" in err
    assert "(tried 7 times)" in err
    assert "the image is paid for: run again to download it at no charge" in err
    assert "fetches what is paid for and still behind its link" in err
    assert "tries again what failed" not in err
    assert "$0.08 charged" in err
    out, _, code = await said(await start(bench, "status", *arguments))
    assert code == 0
    assert "paid for but not downloaded yet; the next run downloads them at no charge" in out
    assert "in flight" not in out
    bench.vendor.is_well()
    _, err, code = await said(await start(bench, "run", *arguments, **environ))
    assert (code, "a: fetched from the link of an earlier run" in err, len(bench.vendor.requests)) == (0, True, 2)


async def test_a_link_is_fetched_by_a_run_that_has_no_key_for_its_vendor_and_refused_without_its_address(bench, job):
    arguments, environ = job
    bench.vendor.goes_bad("503")
    await said(await start(bench, "run", *arguments, "--yes", **environ))
    bench.vendor.is_well()
    _, err, code = await said(await start(bench, "run", *arguments))  # then the links of this machine are no vendor's
    assert (code, "2 × link_refused: 127.0.0.1: the image's link is not https" in err) == (3, True)
    address = {"BATCHGEN_AIMLAPI_BASE_URL": bench.vendor.url}
    _, _, code = await said(await start(bench, "run", *arguments, **address))
    assert (code, len(bench.vendor.requests)) == (0, 2)


def test_links_of_a_vendor_need_no_key_and_an_api_without_an_address_has_no_route():
    profile = load_catalogue().resolve(MODEL)
    routes = link_routes([profile, replace(profile, provider="nobody")], Settings({}), None)
    assert {lane: (route.credentials, route.loopback) for lane, route in routes.items()} == {
        f"aimlapi/{MODEL}": (None, False)
    }


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
async def test_a_second_interrupt_ends_the_pause_between_two_tries_of_a_link(bench, job):
    arguments, environ = job
    bench.vendor.goes_bad("404")
    child = await start(bench, "run", *arguments, "--yes", pause_s=1000.0, **environ)
    async with asyncio.timeout(20):
        while bench.vendor.fetched.total() < 2:
            await asyncio.sleep(0.02)
        started_s = time.monotonic()
        for _ in range(2):
            child.send_signal(signal.SIGINT)
            await asyncio.sleep(0.3)
        _, _, code = await said(child)
    assert (code, time.monotonic() - started_s < 5) == (130, True)
    bench.vendor.is_well()
    _, _, code = await said(await start(bench, "run", *arguments, **environ))
    assert (code, len(bench.vendor.requests)) == (0, 2)


async def test_a_run_does_not_wait_long_for_links_that_never_answer(bench, monkeypatch):
    bench.vendor.goes_bad("503")
    await bench.run()
    monkeypatch.setattr(links, "STALL_TIMEOUT_S", 0.3)
    bench.vendor.hangs = True
    job = batchgen.load(bench.folder / "job.yaml", output=bench.out, emulate=True, environ={})
    async with asyncio.timeout(10):
        outcome = await batchgen.run(job, options=batchgen.RunOptions(emulator_url=bench.vendor.url))
    assert (outcome.exit_code, bench.states(), len(bench.vendor.requests)) == (3, BEHIND, 1)
    bench.vendor.is_well()
    assert (await bench.run(), len(bench.vendor.requests)) == (0, 1)
