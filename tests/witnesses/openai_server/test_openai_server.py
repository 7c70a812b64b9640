"""The AIML codec against an OpenAI-style images server that others wrote: @copilotkit/aimock 1.43.0, offline, unchanged.

Which pictures it answers with is given to it, the rest is its own. Skipped only without node and npm, or when it cannot be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import queue
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.fork_server import PYTHON
from tests.support.marked_key import KEY
from tests.support.paths import ROOT
from tests.support.third_party import NODE, needs_node, node_packages

FOLDER = Path(__file__).parent
START_S = 60  # far more than it takes: a busy machine fails no test
pytestmark = needs_node
MANIFEST = """
models:
  gpt-image-1:
    provider: aimlapi
    sizes: [64x48]
    images_per_request: 4
    wire: {fields: {count: n, image_size: size}}
defaults: {model: gpt-image-1}
items:
  - {id: mug, prompt: A mug, image_size: 64x48}
  - {id: pair, prompt: Two cups, count: 2}
  - {id: busy, prompt: A busy server}
  - {id: no, prompt: Something forbidden}
"""


def picture(colour: str) -> str:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


RED, BLUE = picture("red"), picture("blue")
ANSWERS: list[dict[str, Any]] = [
    {
        "match": {"endpoint": "image", "userMessage": "A mug"},
        "response": {"image": {"b64Json": RED, "revisedPrompt": "A stoneware mug"}},
    },
    {
        "match": {"endpoint": "image", "userMessage": "Two cups"},
        "response": {"images": [{"b64Json": RED}, {"b64Json": BLUE}]},
    },
    {
        "match": {"endpoint": "image", "userMessage": "A busy server", "sequenceIndex": 0},
        "response": {"error": {"message": "Overloaded", "type": "server_error"}, "status": 503},
    },
    {"match": {"endpoint": "image", "userMessage": "A busy server"}, "response": {"image": {"b64Json": BLUE}}},
    {
        "match": {"endpoint": "image", "userMessage": "Something forbidden"},
        "response": {
            "error": {
                "message": "Rejected by our safety system.",
                "type": "invalid_request_error",
                "code": "moderation",
            },
            "status": 400,
        },
    },
]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    node_packages(FOLDER)
    answers = tmp_path_factory.mktemp("answers") / "answers.json"
    answers.write_text(json.dumps({"fixtures": ANSWERS}))
    program = FOLDER / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    process = subprocess.Popen(
        [str(NODE), str(program), "--port", "0", "--fixtures", str(answers), "--strict"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "AIMOCK_API_KEYS": KEY},
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True)
    reader.start()
    try:
        said = ""
        while not (found := re.search(r"listening on (http://\S+)", said)):
            said = lines.get(timeout=START_S)
        yield found[1]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def job(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    (folder / "job.yaml").write_text(MANIFEST)
    assert batchgen(folder, "run", "job.yaml", server=server) == 3  # one item is refused
    return folder


def batchgen(folder: Path, *argv: str, server: str = "") -> int:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state"), "AIMLAPI_API_KEY": KEY}
    environ["BATCHGEN_AIMLAPI_BASE_URL"] = server
    return subprocess.run([PYTHON, "-m", "batchgen", *argv], cwd=folder, env=environ, check=False).returncode


def results(job: Path) -> dict[str, Any]:
    lines = (job / "job" / "results.jsonl").read_text().splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def test_its_pictures_become_files_that_verify(job):
    made = {name: line["sha256"] for name, line in results(job).items() if line["state"] == "succeeded"}
    red, blue = (hashlib.sha256(base64.b64decode(data)).hexdigest() for data in (RED, BLUE))
    assert made == {"mug": [red], "pair": [red, blue], "busy": [blue]}
    assert batchgen(job, "verify", "job") == 0


def test_its_refusal_is_a_refusal(job):
    line = results(job)["no"]
    assert (line["state"], line["reason"]) == ("refused", "content_policy")


def test_it_was_asked_once_for_each_picture_and_again_when_it_was_busy(job, server):
    request = urllib.request.Request(f"{server}/v1/_requests", headers={"Authorization": f"Bearer {KEY}"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - loopback
        journal = json.load(answer)
    assert sorted(entry["response"]["status"] for entry in journal) == [200, 200, 200, 400, 503]
