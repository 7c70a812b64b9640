"""One of several processes that share a quota.

`starts FOLDER LIMIT PERIOD_S SECONDS` prints when it started; `job MANIFEST OUT URL STATE SECONDS` runs a job,
`real MANIFEST URL STATE` one whose money counts, once a line has come on stdin.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import batchgen
from batchgen.quota import Reserved
from batchgen.shared import SharedBook


async def starts(folder: str, limit: str, period_s: str, seconds: str) -> None:
    file = SharedBook(Path(folder), lambda message: print("note", message))
    log, until = file.starts("q", float(period_s)), time.time() + float(seconds)
    while time.time() < until:
        answer = await log.reserve(int(limit))
        if isinstance(answer, Reserved):
            assert answer.place is not None
            log.sent(answer.place)
            print("at", time.time())
        else:
            await asyncio.sleep(answer.wait_s)
    file.close()


def job(manifest: str, out: str, url: str, state: str, seconds: str) -> int:
    loaded = batchgen.load(manifest, output=Path(out), emulate=True, environ={"XDG_STATE_HOME": state})
    options = batchgen.RunOptions(emulator_url=url, deadline=time.time() + float(seconds))
    return batchgen.run_sync(loaded, options=options).exit_code


def real(manifest: str, url: str, state: str) -> int:
    environ = {"BATCHGEN_GEMINI_BASE_URL": url, "GEMINI_API_KEY": "k", "XDG_STATE_HOME": state}
    loaded = batchgen.load(manifest, environ=environ)
    print("ready", flush=True)
    sys.stdin.readline()
    return batchgen.run_sync(loaded).exit_code


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what in ("job", "real"):
        sys.exit({"job": job, "real": real}[what](*arguments))
    asyncio.run(starts(*arguments))
