"""Case 15: what checks of images cost, and how often they are wrong about images of which it is known what they should say."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from batchgen.derivatives.render_process import RenderProcess
from batchgen.item import DEFAULT_CHECKS, Check
from batchgen.records import Verdict
from batchgen.review.run_checks import CheckTask, run_checks
from batchgen.review.twins import FIELDS, TwinIndex
from tests.benchmarks.case import Case, Target
from tests.benchmarks.gallery import photograph
from tests.benchmarks.measure import ROOT, fresh_folder
from tests.benchmarks.post import parent, peak_mb, run
from tests.support.label_rates import rates
from tests.support.labelled_images import MAKERS, SIZES

IMAGES = 1000
IMAGE_BYTES = 1_000_000
INDEXED = 100_000
HEAVY: Sequence[Check] = (
    Check(name="sharp"),
    Check(name="background", options=(("kind", "plain"),)),
    Check(name="faces", options=(("count", 0),)),
    Check(name="unsafe"),
    Check(name="text", options=(("only", True),)),
)


def checks(quick: bool) -> Case:
    images = IMAGES // 10 if quick else IMAGES
    case = Case("checks", f"15. Checks of {images} images of 1 MB, and of labelled images")
    folder = fresh_folder("checks")
    for kind in ("jpeg", "png"):
        paths = [photo(folder, kind, number) for number in range(10)]
        ms, most_mb, first_ms = asyncio.run(timed(paths, images, DEFAULT_CHECKS))
        case.targets += [
            Target(f"default checks of a {kind} of 1 MB", "at most", 40, ms, "ms of CPU"),
            Target(f"peak memory of the process, {kind}", "at most", 100, most_mb, "MB"),
        ]
        case.notes.append(f"{kind}: the process's start and the first image take {first_ms:.0f} ms of CPU")
    for check in HEAVY:
        ms, most_mb, first_ms = asyncio.run(timed([photo(folder, "jpeg", 0)], 10 if quick else 40, (check,)))
        case.notes.append(f"{check.name}: {ms:.0f} ms of CPU an image, {first_ms:.0f} ms the first, {most_mb:.0f} MB")
    case.targets.append(Target(f"finding no twin among {INDEXED:,}", "at most", 1, search_ms(), "ms of CPU"))
    beside(case, folder, 40 if quick else 400)
    for name in MAKERS:
        found = rates(name, SIZES[:1] if quick else SIZES[1:3] if name == "text" else SIZES, folder)
        case.notes.append(
            f"{name}: {found.missed} of {found.wrong} missed, {found.false_alarms} of {found.right} false alarms,"
            f" {found.cpu_s / max(1, found.images) * 1000:.0f} ms of CPU"
        )
        case.extra[name] = {"errors": found.errors, "failed": found.failed}
    return case


def beside(case: Case, folder: Path, images: int) -> None:
    """A run with the default checks, and the same without any: ten in flight, two seconds each."""
    picture = photo(folder, "jpeg", 0)
    without, checked = (
        run(folder / name, picture, images, header) for name, header in (("without", {"check": "off"}), ("checked", {}))
    )
    case.extra.update(without=without, checked=checked)
    case.targets += [
        Target("requests a minute beside checks, against none", "at least", 0.97, checked["per_minute"] / without["per_minute"], "times"),
        Target("peak memory of the run, against none", "at most", 1.1, checked["peak_mb"] / without["peak_mb"], "times"),
        Target("runs that did not make everything", "exactly", 0, sum(one["code"] != 0 for one in (without, checked))),
    ]  # fmt: skip
    case.notes.append(
        f"a run of {images} images: {without['per_minute']:.0f} requests a minute without checks, {checked['per_minute']:.0f} with;"
        f" {without['wall_s']:.1f} and {checked['wall_s']:.1f} s; {without['peak_mb']:.0f} and {checked['peak_mb']:.0f} MB"
    )


def photo(folder: Path, kind: str, number: int) -> Path:
    """About 1 MB, each another one."""
    path = folder / f"{number}.{kind}"
    if not path.exists():
        source = sorted((ROOT / "jobs" / "photos").glob("*.jpg"))[number % 8]
        grain = Image.effect_noise((1024, 1024), 40).convert("RGB")
        image = Image.blend(photograph(source, random.Random(number)).resize((1024, 1024)), grain, 0.25)
        if kind == "jpeg":
            image.save(path, quality=95)
        else:
            image.resize((700, 700)).save(path)
    return path


async def timed(paths: Sequence[Path], images: int, asked: Sequence[Check]) -> tuple[float, float, float]:
    """Of the process: milliseconds of CPU an image, peak memory in MB, milliseconds of CPU for its start and the first image."""
    process, twins = RenderProcess(), TwinIndex()
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    used_ms = []
    try:
        for number in range(images + 1):
            path, sha256 = paths[number % len(paths)], hashes[number % len(paths)]
            task = CheckTask(path=str(path), sha256=sha256, item_id=str(number), n=1, checks=asked)
            await run_checks(process, task, twins)
            if number in (0, images):
                pid = child()
                used_ms.append(cpu_ms(pid))
        most_mb = peak_mb(pid)
    finally:
        await process.close()
    return (used_ms[1] - used_ms[0]) / images, most_mb, used_ms[0]


def child() -> int:
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return next(int(entry.name) for entry in entries if parent(entry) == os.getpid())


def cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def search_ms() -> float:
    """Of CPU, for an image that has no twin, among hashes as images have them: many alike."""
    chance, index = random.Random(1), TwinIndex()
    kinds = [chance.getrandbits(64) for _ in range(300)]
    verdicts = [_verdict(str(number), _near(chance.choice(kinds), chance), chance) for number in range(INDEXED)]
    for verdict in verdicts:
        index.add(verdict)
    asked = [_verdict(f"new {number}", _near(chance.choice(kinds), chance), chance) for number in range(200)]
    started_s = time.process_time()
    for verdict in asked:
        index.judge(verdict, Check(name="twin"))
    return (time.process_time() - started_s) / len(asked) * 1000


def _near(hashed: int, chance: random.Random) -> int:
    for bit in chance.sample(range(64), 10):
        hashed ^= 1 << bit
    return hashed


def _verdict(item_id: str, hashed: int, chance: random.Random) -> Verdict:
    details = {"hash": f"{hashed:016x}", "fields": chance.randbytes(FIELDS).hex()}
    return Verdict(item_id=item_id, n=1, sha256="", by="check", name="twin", ruling="accept", details=details)
