"""Makes one small emulated job of everything a gallery has to show."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from PIL import Image

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
  - {id: lamp, prompt: A lamp}
  - {id: chair, prompt: A chair}
"""
OPTIONS = EmulatorOptions(latency_s=(0.0, 0.02), picture="tiny", rpm=0, fault_delay_s=0.05)


FAMILY = """\
post: [{name: small, format: png, width: 8}]
items:
  - id: mug
    prompt: A mug
    model: pro
    thinking: high
    keep_thoughts: true
    post: {derivatives: [{name: web, format: webp, widths: [16, 32]}, {name: thumb, format: avif, width: 32}], sidecar: true}
  - {id: lamp, prompt: A lamp, count: 2, post: null}
  - {id: snow, prompt: The mug in snow, references: ["@mug", "photos/a b.png"]}
  - {id: lit, prompt: By lamplight, references: ["@lamp#2"]}
  - {id: talk, turns: [A chart, "Calmer {{ '{{' }}", In Spanish], model: pro}
  - {id: after, prompt: The chart on a wall, references: ["@talk-t3"]}
  - {id: gone, prompt: "x [[fault:safety]]"}
  - {id: waits, prompt: y, references: ["@gone"]}
  - {id: quick, prompt: q, service_tier: flex}
  - {id: masked, prompt: m, model: gpt-image-2, references: ["photos/a b.png"], mask: photos/mask.png}
  - {id: second, prompt: z, model: gemini-3.1-flash-lite-image, fallback: [flash], fallback_on: [outage]}
"""


def make_family(folder: Path) -> Path:
    """Items that need pictures, turns and other models. Answers the manifest."""
    manifest = folder / "family.yaml"
    (folder / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "photos" / "a b.png")
    Image.new("RGBA", (8, 8)).save(folder / "photos" / "mask.png")
    manifest.write_text(FAMILY)

    async def make() -> None:
        async with await serve(
            replace(
                OPTIONS, tiers={"flex": 429}, models=("gemini-nano-banana-2.1", "gemini-3-pro-image", "gpt-image-2")
            )
        ) as emulator:
            job = batchgen.load(manifest, emulate=True, environ={})
            await batchgen.run(job, options=batchgen.RunOptions(emulator_url=emulator.base_url))

    asyncio.run(make())
    return manifest


def make_job(folder: Path) -> Path:
    """Two runs; between them a prompt was edited and the last two items changed places. Answers the job folder."""
    manifest = folder / "job.yaml"

    async def make() -> Path:
        async with await serve(OPTIONS) as emulator:
            for place in ("day", "night"):
                items = (
                    ITEMS.replace("PLACE", place).replace("MARKUP", MARKUP.replace("'", "''")).splitlines(keepends=True)
                )
                if place == "day":
                    items[-2:] = reversed(items[-2:])
                manifest.write_text(HEAD + "".join(items))
                job = batchgen.load(manifest, emulate=True, environ={})
                await batchgen.run(job, options=batchgen.RunOptions(emulator_url=emulator.base_url))
        return job.folder

    return asyncio.run(make())
