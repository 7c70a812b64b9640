"""One of several processes that share a quota.

`starts PLACE LIMIT PERIOD_S SECONDS` prints when it started, PLACE a folder or a server;
`sends PLACE LIMIT PERIOD_S PORT AHEAD_S [WORKER]` sends a datagram for each start until it is killed, its clock wrong by
AHEAD_S, and takes starts in blocks when it is a worker;
`refused PLACE HINT_S` says once that the server has refused, for the day when HINT_S is 0; `job MANIFEST OUT URL STATE SECONDS` runs a job,
`real MANIFEST URL STATE` one whose money counts, once a line has come on stdin.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path

import batchgen
from batchgen.ledger.quota_ahead import start_log
from batchgen.ledger.quota_store import QuotaStore
from batchgen.scheduling.window import Budget, LoweredRate, NotBefore, Reserved, StartLimits


def place_of(text: str) -> Path | str:
    return text if "://" in text else Path(text)


async def starts(place: str, limit: str, period_s: str, seconds: str) -> None:
    file = QuotaStore(place_of(place), lambda message: print("note", message))
    log, until = file.start_log("q", float(period_s)), time.time() + float(seconds)
    while time.time() < until:
        answer = await log.reserve(int(limit))
        if isinstance(answer, Reserved):
            assert answer.quota_slot is not None
            log.sent(answer.quota_slot)
            print("at", time.time())
        else:
            await asyncio.sleep(answer.wait_s)
    file.close()


async def sends(place: str, limit: str, period_s: str, port: str, ahead_s: str, worker: str = "") -> None:
    clock = time.time
    time.time = lambda: clock() + float(ahead_s)
    terms = StartLimits(job="j", worker=worker) if worker else StartLimits(job="j", budgets=(Budget("day", 1e6),))
    log = start_log(QuotaStore(place_of(place), print), "q", float(period_s), terms)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        while True:
            answer = await log.reserve(int(limit), 0.01)
            if isinstance(answer, Reserved):
                assert answer.quota_slot is not None
                way.sendto(ahead_s.encode(), ("127.0.0.1", int(port)))
                log.sent(answer.quota_slot)
                log.record_cost(answer.quota_slot, 0.01)
            else:
                assert isinstance(answer, NotBefore), answer
                await asyncio.sleep(answer.wait_s)


async def refused(place: str, hint_s: str) -> None:
    book = QuotaStore(place_of(place), print)
    log = book.start_log("q", 60.0)
    if float(hint_s):
        log.publish_cooldown(float(hint_s), LoweredRate(7.0, 300.0))
    else:
        log.publish_parking("no more today", None)
    book.close()


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
    asyncio.run({"starts": starts, "sends": sends, "refused": refused}[what](*arguments))
