"""The kit finds what is wrong with a codec: the manual's package with one mistake in it, and a codec of jobs without and with one."""

from __future__ import annotations

import sys

import pytest

from batchgen.testing import CodecKit
from tests.support.fork_server import PYTHON
from tests.support.packages import files_of_page, forget, install

PAGE = {path: text for path, text in files_of_page().items() if path.startswith("batchgen_paint/")}
CODEC, MODELS = PAGE["batchgen_paint/__init__.py"], PAGE["batchgen_paint/models.yaml"]
JOB_CODEC = """
from batchgen.records import PendingJob

class Paint(Paint):
    def read(self, response):
        if not response.is_success:
            raise error_of(response)
        told = parse_json(response.body)
        if not isinstance(told, dict) or not isinstance(told.get("id"), str) or not told["id"].isalnum():
            raise Malformed("an answer without a job", http_status=response.status)
        return PendingJob(id=told["id"], poll_after_s=0.02)

    def poll(self, job):
        return Request(method="GET", path=f"/v1/paint/{job.id}", body=b"")

    def read_poll(self, job, response):
        if response.status == 202:
            return job
        return super().read(response)
"""
JOB_EMULATOR = """
class PaintEmulator(PaintEmulator):
    def __init__(self, base_url):
        self.jobs, self.asked = {}, set()

    def answer(self, request):
        number = request.path.removeprefix("/v1/paint/")
        if request.method == "POST":
            self.jobs[str(len(self.jobs) + 1)] = request
            return Response(200, {}, json.dumps({"id": str(len(self.jobs))}).encode())
        if number not in self.asked:
            self.asked.add(number)
            return Response(202, {}, b"")
        return super().answer(self.jobs[number])
"""


class PaintKit(CodecKit):
    model = "paint-1"
    python = PYTHON


@pytest.fixture
def kit(monkeypatch, tmp_path):
    """For the package with these texts of its files, each a class of its own: an exchange is made once for each."""

    def make(**files: str) -> CodecKit:
        changed = {"__init__": CODEC, "emulator": PAGE["batchgen_paint/emulator.py"], **files}
        texts = {f"batchgen_paint/{name}.py": text for name, text in changed.items() if name != "models"}
        points = {
            "batchgen.providers:paint": "batchgen_paint:Paint",
            "batchgen.models:paint": "batchgen_paint:models.yaml",
            "batchgen.emulators:paint": "batchgen_paint.emulator:PaintEmulator",
        }
        texts["batchgen_paint/models.yaml"] = files.get("models", MODELS)
        install(monkeypatch, tmp_path / "site", "batchgen-paint", points, texts)
        return type("Kit", (PaintKit,), {})()

    yield make
    for name in [name for name in sys.modules if name.startswith("batchgen_paint")]:
        del sys.modules[name]
    monkeypatch.undo()
    forget()


MISTAKES = [
    ("__init__", ', "seed": sample.item.seed', "", "field", "seed is accepted for paint-1"),
    (
        "__init__",
        "    name = ",
        "    name = 'other' or ",
        "name",
        "Paint.name is 'other', and it is registered as 'paint'",
    ),
    ("__init__", 'Endpoint.named("paint"', 'Endpoint.named("easel"', "name", "its endpoint is called 'easel'"),
    ("__init__", 'frozenset({"seed"})', 'frozenset({"sede"})', "declared", "not a field of a manifest: sede"),
    ("models", "supports: [seed]", "supports: [seed, system]", "declared", "paint-1 supports system"),
    ("models", "rpm: 30", "rmp: 30", "models", "models.yaml:9: models: rmp: no such fact"),
    ("models", "aliases: [paint]", "aliases: [pro]", "models", "paint-1: pro is a name of batchgen's own"),
    (
        "__init__",
        '"model": self',
        '"at": __import__("time").time_ns(), "model": self',
        "request",
        "two requests for the same sample",
    ),
    ("__init__", "return bearer(key)", "return {'Authorization': key}", "request", "in the repr of the credentials"),
    ("__init__", "except ValidationError", "except KeyError", "status", "raises ValidationError, not a ProviderError"),
    ("__init__", "clean_line(words", "(lambda text: text)(words", "status", "must be one line of 1 to 600 printable"),
    ("__init__", "    png: str", "    png: str = 'b25l'", "status", "HTTP 200 b'{}' is read as"),
    (
        "__init__",
        "http_status=status)\n",
        "http_status=status, reason='oops')\n",
        "status",
        "the reason 'oops' is none",
    ),
    (
        "__init__",
        "            raise not_the",
        "            return Reply()\n            raise not_the",
        "odd",
        "an answer cut short is read as Reply",
    ),
    (
        "__init__",
        "decode_image(answer.png",
        "decode_image(answer.png if answer.png[99:] else 'b25l'",
        "image",
        "is another one",
    ),
]


@pytest.mark.parametrize(("file", "right", "wrong", "test", "sentence"), MISTAKES, ids=[each[2] for each in MISTAKES])
def test_a_mistake_fails_with_a_sentence(kit, tmp_path, file, right, wrong, test, sentence):
    text = {"__init__": CODEC, "models": MODELS}[file]
    assert right in text
    judged = kit(**{file: text.replace(right, wrong)})
    tests = {
        "field": lambda: judged.test_a_field_alone_reaches_the_wire_or_is_refused_where_it_stands(tmp_path, "seed"),
        "name": judged.test_the_codec_and_its_endpoint_have_the_name_they_are_registered_under,
        "declared": judged.test_it_declares_only_fields_that_there_are_and_its_models_no_more_than_it_sends,
        "models": judged.test_its_models_are_known_and_none_is_ours,
        "request": lambda: judged.test_a_request_is_the_same_each_time_and_holds_no_credentials(tmp_path),
        "status": lambda: [
            judged.test_an_answer_of_any_kind_is_a_reply_a_job_or_a_typed_error(status) for status in (200, 400, 429)
        ],
        "odd": judged.test_an_answer_with_a_part_missing_or_odd_is_a_reply_a_job_or_a_typed_error,
        "image": lambda: judged.test_an_image_is_the_same_whether_its_string_is_short_or_was_decoded_to_a_file(
            tmp_path
        ),
    }
    with pytest.raises(AssertionError) as failed:
        tests[test]()
    assert sentence in str(failed.value)


def jobs(codec: str = JOB_CODEC) -> dict[str, str]:
    source = CODEC.replace("import BillingStopped, KeyRejected", "import BillingStopped, KeyRejected, Malformed")
    return {"__init__": source + codec, "emulator": PAGE["batchgen_paint/emulator.py"] + JOB_EMULATOR}


@pytest.mark.parametrize(
    "step", ["batchgen.ledger.ledger:Ledger.job_taken! 1", "batchgen.engine.jobs:JobPolls.wait_turn 3"]
)
def test_a_codec_of_jobs_from_a_package_buys_nothing_twice(kit, tmp_path, step):
    judged = kit(**jobs())
    judged.test_an_answer_with_a_part_missing_or_odd_is_a_reply_a_job_or_a_typed_error()
    judged.test_a_process_that_dies_at_any_step_buys_nothing_twice(tmp_path, step)


def test_a_question_that_buys_the_job_once_more_is_counted(kit, tmp_path):
    poll = """
    def poll(self, job):
        return Request(method="POST", path="/v1/paint", body=json.dumps({"id": job.id}).encode())
"""
    emulator = """
class PaintEmulator(PaintEmulator):
    def answer(self, request):
        if request.body.startswith(b'{"id"'):
            request = Request(method="GET", path=f"/v1/paint/{json.loads(request.body)['id']}", body=b"")
        return super().answer(request)
"""
    files = jobs(JOB_CODEC + poll)
    files["emulator"] += "from batchgen.records import Request\n" + emulator
    with pytest.raises(AssertionError, match=r"\d+ requests for 4 images"):
        kit(**files).test_a_run_makes_each_image_for_one_request_and_the_next_run_sends_nothing(tmp_path)


def test_a_key_that_an_output_holds_is_found(kit, tmp_path):
    judged = kit(
        __init__=CODEC.replace("return bearer(key)", 'open("leak", "w").write(key)\n        return bearer(key)')
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(AssertionError, match=r"the key is in .*leak"):
            judged.test_no_output_holds_a_key_that_the_api_repeats(tmp_path)
