"""What a command has imported when it does what it is for: nothing that only others, or a later moment, need."""

from __future__ import annotations

import json

import pytest

from batchgen.providers.registry import BUILT_IN, endpoint_of
from batchgen.settings import KEY_ENDINGS
from tests.support.marked_key import KEY

# Names of modules, whole or as the beginning of a name. Of a plain run: at its first request.
LIBRARIES = "PIL aiohttp.web jinja2 mcp multiprocessing obstore prometheus_client psycopg rich structlog"
NOT_OF_A_RUN = f"""
{LIBRARIES} batchgen.emulator batchgen.engine.batch batchgen.engine.cluster batchgen.engine.plan batchgen.engine.ways
batchgen.ledger.work_queue batchgen.derivatives.render batchgen.derivatives.decode batchgen.daemon batchgen.report.dashboard
batchgen.report.gallery batchgen.report.gallery_data batchgen.report.view batchgen.report.summary batchgen.report.queries
batchgen.report.metrics batchgen.report.progress batchgen.cli.plan batchgen.cli.status batchgen.cli.mcp batchgen.cli.run_end
batchgen.providers.openai
""".split()
NOT_OF_STATUS = f"""
{LIBRARIES} aiohttp asyncio ssl pydantic yaml batchgen.events batchgen.engine batchgen.providers.gemini batchgen.manifest.schema
batchgen.scheduling.dispatcher batchgen.http.transport batchgen.report.event_text
""".split()
# Until the first connection is made, which is before its first byte; or to the end, where there is none.
CHILD = """
import json, sys
found = []

def watch(event, arguments):
    if event == "socket.connect" and not found:
        found.append(sorted(sys.modules))

sys.addaudithook(watch)
from batchgen.__main__ import main
sys.argv[1:] = {arguments}
try:
    main()
finally:
    import gc
    print("\\nMODULES" + json.dumps([bool(found), gc.isenabled(), (found or [sorted(sys.modules)])[0]]))
"""


@pytest.fixture
def imported(python):
    """What a command line has imported by its first request, or by its end; whether it sent one; whether garbage is collected."""

    def run(*arguments: str) -> tuple[set[str], bool, bool]:
        answer = python(CHILD.format(arguments=list(arguments)))
        assert answer.code == 0, answer.err
        sent, collects, modules = json.loads(answer.out.rpartition("MODULES")[2])
        return set(modules), sent, collects

    return run


def named(modules: set[str], names: list[str]) -> list[str]:
    return sorted(name for name in modules if any(name == each or name.startswith(f"{each}.") for each in names))


def test_a_plain_run_has_imported_nothing_that_it_does_not_need_when_it_sends_its_first_request(imported, write, place):
    modules, sent, collects = imported("run", str(write({"mug": "A blue mug"}, head="defaults: {model: flash}\n")))
    assert sent
    assert collects
    assert named(modules, NOT_OF_A_RUN) == []
    assert {"aiohttp", "pydantic", "batchgen.providers.gemini"} <= modules


def test_status_imports_nothing_that_sends_or_reads_a_manifest(imported, job):
    modules, sent, _ = imported("status", str(job))
    assert not sent
    assert named(modules, NOT_OF_STATUS) == []
    assert "batchgen.report.view" in modules


@pytest.mark.parametrize("provider", BUILT_IN)
def test_a_key_of_a_provider_of_ours_is_named_like_one_so_that_it_is_hidden_before_its_codec_is_known(provider):
    assert [name for name in endpoint_of(provider).key_names if not name.endswith(KEY_ENDINGS)] == []


def test_a_key_of_a_provider_that_nobody_asks_is_not_shown(batchgen, write, place, monkeypatch):
    monkeypatch.setenv("REPLICATE_API_TOKEN", "hush-hush-hush")
    manifest = write({"mug": "A mug with hush-hush-hush on it"}, head="defaults: {model: flash}\n")
    answer = batchgen("plan", str(manifest), "--json")
    assert "hush-hush-hush" not in answer.out + answer.err
    assert KEY not in answer.out
