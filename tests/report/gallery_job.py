"""Makes one small emulated job of everything a gallery has to show."""

from __future__ import annotations

import asyncio
from pathlib import Path

import batchgen
from batchgen.emulator import EmulatorOptions, serve

MARKUP = '<img src=x onerror="document.title=1"></script><script>document.title=2</script> & {{ "{{" }} tail'
HEAD = "name: night\ndefaults: {model: flash}\nlimits: {concurrency: 8}\nitems:\n"
ITEMS = """\
  - {id: mug, prompt: "A mug, by PLACE", tags: [shop, hero], aspect_ratio: "3:4"}
  - {id: poster, prompt: Travel poster of Paris, count: 3, model: pro, seed: 7, tags: [shop]}
  - {id: markup, prompt: 'MARKUP', extra: {generationConfig: {topK: 3}}}
  - {id: refused, prompt: "[[fault:prohibited]] A hard one"}
  - {id: failed, prompt: "[[fault:empty]] A dull one"}
  - {id: uncertain, prompt: "[[fault:reset]] A lost one"}
  - {id: chair, prompt: A chair}
  - {id: lamp, prompt: A lamp}
"""
OPTIONS = EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0, fault_delay_s=0.05)


def make_job(folder: Path) -> Path:
    """Two runs, an edited prompt between them. Answers the job folder; job.yaml stands beside it."""
    manifest = folder / "job.yaml"

    async def make() -> Path:
        async with await serve(OPTIONS) as emulator:
            for place in ("day", "night"):
                manifest.write_text(HEAD + ITEMS.replace("PLACE", place).replace("MARKUP", MARKUP.replace("'", "''")))
                job = batchgen.load(manifest, emulate=True, environ={})
                await batchgen.run(job, options=batchgen.RunOptions(emulator_url=emulator.base_url))
        return job.folder

    return asyncio.run(make())
