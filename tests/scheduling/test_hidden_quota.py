"""A server that allows less than was declared, over real HTTP: how many 429 it takes to find out. Every 429 counts."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchgen.emulator import EmulatorOptions, serve
from batchgen.engine.engines import OnlineEngine
from batchgen.errors import ProviderError
from batchgen.http.transport import Transport
from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.registry import provider_for
from batchgen.records import Inputs, Response
from batchgen.scheduling.lane import InMemorySampleSource, Ticket
from batchgen.scheduling.retry import RetryPolicy
from batchgen.scheduling.window import Window
from batchgen.store.store import Store
from tests.support.samples import make_sample
from tests.support.stub_server import make_dispatcher

MINUTE_S, HIDDEN, DECLARED, IN_FLIGHT = 1.0, 12, 30, 5


@pytest.mark.parametrize("model", ["flash", "aiml-pro"], ids=["named by the server", "not named"])
async def test_a_hidden_limit_costs_at_most_three_refusals_in_three_windows(tmp_path, model):
    hidden = EmulatorOptions(latency_s=(0.02, 0.08), picture="tiny", rpm=HIDDEN, minute_s=MINUTE_S)
    async with await serve(hidden) as emulator:
        made = await drive_all(emulator.base_url, model, tmp_path, 3 * HIDDEN)
        print(model, emulator.stats.refused_429, "refusals")
        assert (made, 1 <= emulator.stats.refused_429 <= 3) == (3 * HIDDEN, True)


async def drive_all(url: str, model: str, folder: Path, count: int) -> int:
    """Send `count` requests declared at more than the server allows; pictures made."""
    codec = provider_for(load_catalogue().resolve(model))
    credentials, store = codec.credentials("k"), Store(folder)
    store.prepare()
    samples = [("m", make_sample(f"a{n}", model=load_catalogue().resolve(model).id)) for n in range(count)]
    policy = RetryPolicy(base_s=0.1, cap_s=1.0)
    dispatcher = make_dispatcher(
        {"m": Window(DECLARED, MINUTE_S, confirmed=False)},
        InMemorySampleSource(samples),
        concurrency=IN_FLIGHT,
        policy=policy,
    )
    made: list[str] = []
    with ThreadPoolExecutor(2) as executor:
        async with Transport(IN_FLIGHT, executor) as transport:

            async def execute(ticket: Ticket) -> None:
                attempt = int(asyncio.get_running_loop().time() * 1e6)
                try:
                    answer = await transport.send(
                        url,
                        codec.build(ticket.sample, Inputs()),
                        credentials,
                        on_sent=lambda: dispatcher.sent(ticket),
                        open_sink=lambda k: store.spool_file(attempt, k),
                    )
                    codec.read(Response(answer.status, answer.headers, answer.envelope()))
                except ProviderError as error:
                    dispatcher.failed(ticket, error)
                else:
                    made.append(ticket.sample.key)
                    dispatcher.succeeded(ticket, None)

            await OnlineEngine().drive(dispatcher, execute)
    return len(made)
