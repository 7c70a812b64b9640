"""Items that need pictures of other items, and conversations: what is sent, in which order, and after a failure, a crash or an edit."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

import batchgen
from batchgen.engine.outcome import Outcome
from batchgen.engine.recovery.repair import repair
from batchgen.errors import UsageError
from batchgen.planning.plan import RetrySelection
from batchgen.planning.reason import reason_text
from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY

HEAD = "defaults: {model: flash}\nlimits: {concurrency: 8}\nitems:\n"
SIGNATURE = "c2ln" * 30_000  # longer than what is lifted out of an answer
AGAIN = RetrySelection(states=frozenset({"failed"}), explicit=True)


def picture(seed: str) -> bytes:
    colour = tuple(hashlib.sha256(seed.encode()).digest()[:3])
    buffer = io.BytesIO()
    # Noise, so that the base64 is long enough to be lifted out of the answer.
    image = Image.frombytes("RGB", (256, 256), hashlib.shake_256(seed.encode()).digest(256 * 256 * 3))
    image.paste(colour, (0, 0, 32, 32))
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Server:
    """Speaks generateContent, remembers what it was asked and said, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []  # contents of each request
        self.said: dict[str, dict[str, Any]] = {}  # the model's turn, by the prompt that it answers
        self.refuse: set[str] = set()
        self.filtered: set[str] = set()
        self.hang: set[str] = set()
        self.deletes: Path | None = None  # with the first answer
        self.made: dict[str, bytes] = {}
        self.numbers = itertools.count()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        contents = (await request.json())["contents"]
        self.asked.append(contents)
        prompt = contents[-1]["parts"][0]["text"]
        if prompt in self.hang:
            await asyncio.sleep(60)
        if self.deletes is not None:
            self.deletes.unlink(missing_ok=True)
        if prompt in self.filtered:
            return web.json_response({"candidates": [{"content": {}, "finishReason": "IMAGE_SAFETY"}]})
        if prompt in self.refuse:
            return web.json_response({"promptFeedback": {"blockReason": "SAFETY"}})
        self.made[prompt] = picture(f"{prompt} {next(self.numbers)}")
        blob = {"mimeType": "image/png", "data": base64.b64encode(self.made[prompt]).decode()}
        parts = [
            {"text": f"É {prompt}", "thoughtSignature": "AA=="},
            {"inlineData": blob, "thoughtSignature": SIGNATURE},
        ]
        self.said[prompt] = {"role": "model", "parts": parts}
        candidate = {"content": self.said[prompt], "finishReason": "STOP", "index": 0}
        return web.json_response({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 1}})

    def prompts(self) -> list[str]:
        return [contents[-1]["parts"][0]["text"] for contents in self.asked]


class Bench:
    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.out = folder / "out"

    def load(self, items: str) -> batchgen.Job:
        path = self.folder / "job.yaml"
        path.write_text(HEAD + items)
        environ = {"GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": self.server.url}
        return batchgen.load(path, output=self.out, environ=environ)

    async def run(self, items: str, **options: Any) -> Outcome:
        self.server.asked.clear()
        return await batchgen.run(self.load(items), options=batchgen.RunOptions(**options))

    def steps(self, items: str, **options: Any) -> dict[str, tuple[str, str]]:
        steps: list[Any] = []
        batchgen.plan(self.load(items), options=batchgen.RunOptions(**options), on_step=steps.append)
        return {step.sample.key: (step.action, reason_text(step.reason)) for step in steps}

    def results(self) -> dict[str, dict[str, Any]]:
        lines = map(json.loads, (self.out / "results.jsonl").read_text().splitlines())
        return {line["id"]: line for line in lines}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    server = Server()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/{rest:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield Bench(server, tmp_path)
    await runner.cleanup()


MUG = "  - {id: mug, prompt: a mug, count: 2}\n"
SNOW = "  - {id: snow, prompt: in snow, references: ['@mug']}\n"
PAIR = "  - {id: pair, prompt: both, references: ['@mug#2', '@snow']}\n"
TALK = "  - {id: talk, turns: [one, two, three]}\n"


def sent_pictures(contents: list[dict[str, Any]]) -> list[bytes]:
    return [base64.b64decode(part["inlineData"]["data"]) for part in contents[0]["parts"] if "inlineData" in part]


# --- items that need items


async def test_an_item_is_asked_for_after_what_it_needs_and_with_the_very_bytes_in_order(bench):
    outcome = await bench.run(PAIR + SNOW + MUG)  # children before their parents in the file
    assert (outcome.exit_code, outcome.made) == (0, 4)
    by_prompt = {contents[-1]["parts"][0]["text"]: contents for contents in bench.server.asked}
    assert sent_pictures(by_prompt["in snow"]) == [(bench.out / "mug.png").read_bytes()]
    assert sent_pictures(by_prompt["both"]) == [(bench.out / name).read_bytes() for name in ("mug-2.png", "snow.png")]


async def test_running_again_sends_nothing(bench):
    await bench.run(PAIR + SNOW + MUG + TALK)
    outcome = await bench.run(PAIR + SNOW + MUG + TALK)
    assert (outcome.exit_code, outcome.kept, bench.server.asked) == (0, 7, [])


async def test_the_plan_knows_that_pictures_which_need_one_another_take_their_time_one_after_the_other(bench):
    forecast = batchgen.plan(bench.load(PAIR + SNOW + MUG)).forecast
    alone = batchgen.plan(bench.load(MUG)).forecast
    assert forecast.seconds == pytest.approx(3 * alone.seconds, rel=0.01)
    assert (forecast.limit.binding, "need one another" in forecast.limit.advice) == ("latency", True)


async def test_a_changed_parent_makes_its_children_stale_and_nobody_else(bench):
    await bench.run(MUG + SNOW + PAIR + "  - {id: alone, prompt: alone}\n")
    edited = MUG.replace("a mug", "a blue mug") + SNOW + PAIR + "  - {id: alone, prompt: alone}\n"
    steps = bench.steps(edited)
    assert steps["snow"] == ("generate", "changed: @mug")
    assert steps["pair"] == ("generate", "changed: @mug#2, @snow")
    await bench.run(edited)
    assert sorted(bench.server.prompts()) == ["a blue mug", "a blue mug", "both", "in snow"]


async def test_a_parent_edited_back_brings_its_own_picture_and_that_of_its_child_back_for_nothing(bench):
    await bench.run(MUG + SNOW)
    before = (bench.out / "snow.png").read_bytes()
    await bench.run(MUG.replace("a mug", "a blue mug") + SNOW)
    outcome = await bench.run(MUG + SNOW)
    assert (outcome.exit_code, bench.server.asked, (bench.out / "snow.png").read_bytes()) == (0, [], before)


async def test_a_parent_made_anew_with_the_same_prompt_makes_its_child_stale(bench):
    await bench.run(MUG + SNOW)
    await bench.run(MUG + SNOW, retry_selection=RetrySelection(fresh=True), only=("mug",))
    assert bench.steps(MUG + SNOW)["snow"] == ("generate", "changed: references")


async def test_a_refused_parent_blocks_its_children_and_theirs_with_the_reason(bench):
    bench.server.refuse = {"a mug"}
    outcome = await bench.run(MUG + SNOW + PAIR + "  - {id: alone, prompt: alone}\n")
    assert (outcome.exit_code, outcome.made, sorted(bench.server.prompts())) == (3, 1, ["a mug", "a mug", "alone"])
    results = bench.results()
    assert (results["snow"]["state"], results["snow"]["message"]) == (
        "blocked",
        "needs @mug, which was refused (prompt_blocked)",
    )
    assert results["pair"]["state"] == "blocked"
    assert outcome.counts["blocked"] == 2


async def test_the_next_run_says_the_same_and_sends_nothing_and_a_mended_parent_frees_them(bench):
    bench.server.refuse = {"a mug"}
    await bench.run(MUG + SNOW + PAIR)
    outcome = await bench.run(MUG + SNOW + PAIR)
    assert (outcome.exit_code, bench.server.asked) == (3, [])
    assert bench.results()["snow"]["state"] == "blocked"
    steps = bench.steps(MUG + SNOW + PAIR)
    assert steps["snow"] == ("skip", "needs @mug, which was refused (prompt_blocked)")
    assert steps["pair"] == ("skip", "needs @mug#2, which was refused (prompt_blocked)")
    deeper = bench.steps(MUG + SNOW + "  - {id: deep, prompt: d, references: ['@snow']}\n")
    assert deeper["deep"] == ("skip", "needs @snow, which is blocked")
    mended = MUG.replace("a mug", "a cup") + SNOW + PAIR
    outcome = await bench.run(mended)
    assert (outcome.exit_code, {line["state"] for line in bench.results().values()}) == (0, {"succeeded"})


async def test_asking_for_the_refused_parent_again_takes_its_children_along(bench):
    bench.server.refuse = {"a mug"}
    await bench.run(MUG + SNOW + "  - {id: other, prompt: other}\n", only=("mug", "snow"))
    bench.server.refuse = set()
    await bench.run(
        MUG + SNOW + "  - {id: other, prompt: other}\n",
        retry_selection=RetrySelection(states=frozenset({"refused"}), explicit=True),
    )
    assert sorted(bench.server.prompts()) == ["a mug", "a mug", "in snow"]


async def test_asking_for_one_reason_takes_no_child_along_that_failed_for_another(bench):
    text = "  - {id: b, prompt: b}\n  - {id: child, prompt: c, references: ['@b']}\n"
    bench.server.filtered = {"c"}
    await bench.run(text)
    edited = text.replace("prompt: b", "prompt: b2")
    bench.server.refuse = {"b2"}
    await bench.run(edited, only=("b",))
    retry_selection = RetrySelection(
        states=frozenset({"refused"}), reasons=frozenset({"prompt_blocked"}), explicit=True
    )
    assert {key: action for key, (action, _) in bench.steps(edited, retry_selection=retry_selection).items()} == {
        "b": "generate",
        "child": "skip",
    }


async def test_a_child_alone_uses_its_parents_picture_or_waits_for_another_time(bench):
    outcome = await bench.run(MUG + SNOW, only=("snow",))
    assert (bench.server.asked, outcome.exit_code) == ([], 3)
    assert bench.steps(MUG + SNOW, only=("snow",))["snow"] == ("skip", "needs @mug, which is not made and not selected")
    await bench.run(MUG + SNOW, only=("mug",))
    await bench.run(MUG + SNOW, only=("snow",))
    assert bench.server.prompts() == ["in snow"]


async def test_a_limit_that_leaves_the_parent_out_leaves_the_child_out(bench):
    outcome = await bench.run("  - {id: a, prompt: a}\n" + MUG + SNOW, limit=1)
    assert (bench.server.prompts(), outcome.made, outcome.exit_code) == (["a"], 1, 0)
    await bench.run("  - {id: a, prompt: a}\n" + MUG + SNOW, limit=3)
    assert sorted(bench.server.prompts()) == ["a mug", "a mug", "in snow"]


async def test_a_file_that_goes_while_its_item_waits_costs_that_item_alone(bench):
    bench.server.deletes = bench.folder / "photo.png"
    bench.server.deletes.write_bytes(picture("photo"))
    framed = "  - {id: framed, prompt: framed, references: [photo.png, '@mug']}\n"
    outcome = await bench.run(MUG + framed + SNOW)
    assert (outcome.exit_code, outcome.stopped_by, sorted(bench.server.prompts())) == (
        3,
        "",
        ["a mug", "a mug", "in snow"],
    )
    assert bench.results()["framed"]["reason"] == "reference_gone"


async def test_a_picture_that_was_changed_by_hand_is_not_sent_as_if_it_were_the_parent(bench):
    await bench.run(MUG)
    data = (bench.out / "mug.png").read_bytes()
    (bench.out / "mug.png").write_bytes(data[:-1] + b"\x00")  # the same size
    outcome = await bench.run(MUG + SNOW)
    assert (outcome.exit_code, bench.server.asked) == (5, [])
    assert "changed" in bench.results()["snow"]["message"]


# --- conversations


async def test_each_turn_sends_back_exactly_what_the_model_said(bench):
    outcome = await bench.run(TALK)
    assert (outcome.exit_code, bench.server.prompts()) == (0, ["one", "two", "three"])
    said = bench.server.said
    user = [{"role": "user", "parts": [{"text": prompt}]} for prompt in ("one", "two", "three")]
    assert bench.server.asked[2] == [user[0], said["one"], user[1], said["two"], user[2]]
    for turn, prompt in enumerate(("one", "two", "three"), 1):
        assert (bench.out / f"talk-t{turn}.png").read_bytes() == bench.server.made[prompt]


async def test_a_reference_of_a_conversation_stands_in_its_first_turn_only(bench):
    await bench.run(MUG + "  - {id: talk, turns: [one, two], references: ['@mug']}\n")
    last = bench.server.asked[-1]
    assert sent_pictures(last) == [(bench.out / "mug.png").read_bytes()]
    assert last[2] == {"role": "user", "parts": [{"text": "two"}]}


async def test_every_sample_of_a_conversation_is_a_conversation_of_its_own(bench):
    await bench.run("  - {id: talk, turns: [one, two], count: 2}\n")
    seconds = [contents for contents in bench.server.asked if len(contents) == 3]
    sent_back = {base64.b64decode(contents[1]["parts"][1]["inlineData"]["data"]) for contents in seconds}
    assert sent_back == {(bench.out / name).read_bytes() for name in ("talk-t1.png", "talk-t1-2.png")}


async def test_an_edited_turn_costs_itself_and_those_after_it(bench):
    await bench.run(TALK)
    await bench.run(TALK.replace("two", "zwei"))
    assert bench.server.prompts() == ["zwei", "three"]


async def test_a_conversation_made_longer_costs_the_new_turn(bench):
    await bench.run(TALK)
    outcome = await bench.run(TALK.replace("three", "three, four"))
    assert (outcome.exit_code, bench.server.prompts()) == (0, ["four"])
    assert bench.server.asked[0][5] == bench.server.said["three"]


async def test_a_refused_turn_blocks_the_later_ones(bench):
    bench.server.refuse = {"two"}
    outcome = await bench.run(TALK)
    assert (outcome.exit_code, outcome.made, bench.server.prompts()) == (3, 1, ["one", "two"])
    assert bench.results()["talk-t3"]["message"] == "needs @talk-t2, which was refused (prompt_blocked)"


async def test_after_kill_9_in_turn_three_the_next_run_goes_on_at_turn_three(bench):
    bench.server.hang = {"three"}
    job = bench.folder / "job.yaml"
    job.write_text(HEAD + TALK)
    environ = {
        **os.environ, "GEMINI_API_KEY": KEY, "BATCHGEN_GEMINI_BASE_URL": bench.server.url,
    }  # fmt: skip
    command = [PYTHON, "-m", "batchgen", "run", str(job), "--output", str(bench.out), "--yes"]
    quiet = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(*command, env=environ, stdout=quiet, stderr=quiet)
    while len(bench.server.asked) < 3:
        await asyncio.sleep(0.02)
        assert child.returncode is None
    child.kill()
    await child.wait()
    bench.server.hang = set()
    outcome = await bench.run(TALK)
    assert (outcome.exit_code, outcome.kept, bench.server.prompts()) == (0, 2, ["three"])
    assert bench.server.asked[0][1] == bench.server.said["one"]


async def test_a_picture_whose_turn_was_not_kept_is_not_taken_for_a_finished_turn(bench):
    """The process died between the picture's last byte and the model's turn: the next turn could never be asked for."""
    await bench.run("  - {id: talk, turns: [one]}\n")
    (state,) = bench.out.glob(".batchgen/turns")
    turn = state / "1.json"
    turn.unlink()
    steps = bench.steps("  - {id: talk, turns: [one, two]}\n")
    assert steps["talk-t2"][0] == "skip"
    assert "--fresh --only 'talk-t1'" in steps["talk-t2"][1]


@pytest.mark.parametrize("with_manifest", [True, False], ids=["with-manifest", "without"])
async def test_after_a_repair_everything_is_there_at_once_and_a_conversation_goes_on_with_its_own_turns(
    bench, with_manifest
):
    whole = PAIR + SNOW + MUG + "  - {id: talk, turns: [one, two], count: 2}\n" + TALK.replace("talk", "chat")
    await bench.run(whole)
    for path in bench.out.glob(".batchgen/ledger*"):
        path.unlink()
    done = repair(bench.out, bench.load(whole).manifest if with_manifest else None)
    assert (done.restored, done.unmarked == []) == (11, with_manifest)
    outcome = await bench.run(whole)
    assert (outcome.exit_code, outcome.left, outcome.made, bench.server.asked) == (0, 0, 0, [])
    outcome = await bench.run(whole.replace("three", "three, four"))
    assert (outcome.exit_code, bench.server.prompts()) == (0, ["four"])
    pictures = [
        base64.b64decode(contents["parts"][1]["inlineData"]["data"]) for contents in bench.server.asked[0][1::2]
    ]
    assert pictures == [(bench.out / f"chat-t{turn}.png").read_bytes() for turn in (1, 2, 3)]


async def test_signatures_stay_out_of_ledger_and_results(bench):
    await bench.run(TALK)
    for path in (*bench.out.glob(".batchgen/ledger*"), bench.out / "results.jsonl"):
        assert SIGNATURE[:200].encode() not in path.read_bytes()
    assert all(path.stat().st_mode & 0o077 == 0 for path in bench.out.glob(".batchgen/turns"))


def test_a_manifest_that_is_edited_while_it_is_read_is_an_error_and_no_endless_search(tmp_path):
    path = tmp_path / "job.jsonl"
    parents = [{"id": name, "prompt": name, "model": "flash"} for name in ("a", "b")]
    child = {"id": "c", "prompt": "c", "model": "flash", "references": ["@a"]}
    more = [{"id": f"x{n}", "prompt": "x", "model": "flash"} for n in range(700)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in (*parents, child, *more)))
    job = batchgen.load(path, output=tmp_path / "out", environ={"GEMINI_API_KEY": KEY})

    def edit(step: Any) -> None:
        if step.sample.key == "b":
            path.write_text(path.read_text().replace("@a", "@b"))

    with pytest.raises(UsageError, match="changed while it was read"):
        batchgen.plan(job, on_step=edit)
