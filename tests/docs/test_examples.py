"""Every example in jobs/ runs as it stands: against the emulator to the last picture, and by the plan against the real APIs."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

import batchgen
from batchgen.cli.verify import verify
from batchgen.emulator import EmulatorOptions, serve
from batchgen.ledger.reader import Reader
from batchgen.report.console import Console
from tests.support.paths import ROOT

JOBS = ROOT / "jobs"
EXAMPLES = sorted([*JOBS.glob("*.yaml"), *JOBS.glob("*.jsonl")])
examples = pytest.mark.parametrize("manifest", EXAMPLES, ids=lambda path: path.name)


@examples
async def test_an_example_makes_all_its_pictures_and_a_second_run_sends_nothing(manifest, tmp_path):
    async with await serve(EmulatorOptions(latency_s=(0.0, 0.0), picture="tiny", rpm=0)) as emulator:
        job = batchgen.load(manifest, output=tmp_path / "out", emulate=True, environ={})
        wanted = batchgen.plan(job).forecast.images
        options = batchgen.RunOptions(emulator_url=emulator.base_url)
        outcome = await batchgen.run(job, options=options)
        assert (outcome.exit_code, outcome.made, outcome.left) == (0, wanted, 0)
        with Reader.open(job.folder) as ledger:
            found = verify(job.folder, ledger, Console(io.StringIO(), {}))
            files = ledger.expected_file_count()  # those in drafts/ too
        assert (found.is_intact, found.checked, found.extra) == (True, files, [])
        assert files >= wanted
        for path in job.folder.glob("*.jpg"):
            Image.open(path).load()
        requests = emulator.stats.requests
        again = await batchgen.run(
            batchgen.load(manifest, output=job.folder, emulate=True, environ={}), options=options
        )
        assert (again.exit_code, again.kept, emulator.stats.requests) == (0, wanted, requests)


@examples
def test_an_example_is_valid_for_the_real_apis_without_a_warning(manifest, tmp_path):
    plan = batchgen.plan(batchgen.load(manifest, output=tmp_path / "out", environ={}))
    assert plan.warnings == ()


@pytest.mark.parametrize("manifest", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_comment_on_top_says_how_many_images_and_what_they_cost(manifest, tmp_path):
    forecast = batchgen.plan(batchgen.load(manifest, output=tmp_path / "out", environ={})).forecast
    comment = " ".join(line.removeprefix("# ") for line in manifest.read_text().split("\nversion:")[0].splitlines())
    assert f"{forecast.images} images" in comment
    if (said := re.search(r"about \$(\d+\.\d\d)", comment)) is not None:
        assert abs(float(said[1]) - forecast.usd) < 0.005 + 0.01 * forecast.usd
    else:
        assert (forecast.usd, "no prices" in comment) == (None, True)


def test_the_readme_lists_every_example():
    readme = (JOBS.parent / "README.md").read_text()
    assert [path.name for path in EXAMPLES if f"(jobs/{path.name})" not in readme] == []
