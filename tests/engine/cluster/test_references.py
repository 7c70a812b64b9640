"""References of the manifest's folder reach workers that do not have it."""

from __future__ import annotations

import hashlib
import io

from PIL import Image


def photo(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(data, "PNG")
    return data.getvalue()


async def test_a_file_travels_with_the_work_and_an_edit_after_submitting_changes_nothing(cluster):
    red = photo("red")
    (cluster.folder / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (cluster.folder / "photos" / name).write_bytes(red)
    items = (
        "  - {id: one, prompt: like this, references: [photos/a.png]}\n"
        "  - {id: two, prompt: like these, references: ['photos/*.png', '@one']}\n"
    )
    submitted = await cluster.submit(items)
    assert submitted.submitted == 2
    for name in ("a.png", "b.png"):
        (cluster.folder / "photos" / name).unlink()
    cluster.worker()
    await cluster.until(lambda: len(cluster.pictures()) == 2)
    kept = sorted((cluster.folder / "out" / ".batchgen" / "enclosed").iterdir())
    assert [path.name for path in kept] == [f"{hashlib.sha256(red).hexdigest()}-{name}" for name in ("a.png", "b.png")]
    for name in ("a.png", "b.png"):
        (cluster.folder / "photos" / name).write_bytes(red)
    again = await cluster.watch(items)
    assert (again.exit_code, again.kept, await cluster.requests()) == (0, 2, 2)


async def test_two_workers_of_one_folder_do_not_clear_each_others_references_away(cluster):
    (cluster.folder / "a.png").write_bytes(photo("blue"))
    (cluster.folder / "b.gif").write_bytes(_gif())
    items = "".join(
        f"  - {{id: i{n}, prompt: like {n}, references: [a.png, b.gif]}}\n" for n in range(12)
    )  # the model does not take GIF: it is converted, in a folder of the worker's own
    cluster.worker()
    cluster.worker()
    outcome = await cluster.watch(items)
    assert (outcome.exit_code, outcome.made, await cluster.requests()) == (0, 12, 12)


def _gif() -> bytes:
    data = io.BytesIO()
    Image.new("P", (16, 16), 3).save(data, "GIF")
    return data.getvalue()
