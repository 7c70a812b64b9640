"""The kit finds what is wrong with a codec that asks models about images: one from a package, with one mistake in it."""

from __future__ import annotations

import pytest

from batchgen.testing import CodecKit
from tests.testing.test_kit import CODEC, MODELS, PAGE, kit

__all__ = ["kit"]  # the fixture, for a package with these texts

JUDGING = (
    CODEC.replace("import Reply, Request", "import Reply, Request, Usage")
    + """
from batchgen.providers.judgement import ANSWER_SCHEMA, read_judgement


class Words(AnswerModel):
    text: str
    tokens: int = 0
    model: str | None = None
    id: str | None = None


class Paint(Paint):
    def build_question(self, question):
        images = [image.base64 for image in question.images]
        body = {"model": self.profile.id, "ask": question.text, "schema": dict(ANSWER_SCHEMA), "images": images}
        return Request(method="POST", path="/v1/ask", body=json.dumps(body).encode(), timeout_s=question.timeout_s)

    def read_answer(self, response):
        if not response.is_success:
            raise error_of(response)
        try:
            said = Words.model_validate_json(response.body)
        except ValidationError as error:
            raise not_the_api_error(response) or malformed_error(response.status, error) from None
        usage = Usage(text_tokens=max(0, said.tokens))
        return read_judgement(said.text, response.status, usage=usage, reply_id=said.id, version=said.model)
"""
)
ANSWERS = """
class PaintEmulator(PaintEmulator):
    def answer(self, request):
        if request.path != "/v1/ask":
            return super().answer(request)
        text = json.dumps({"remark": "It is a hare.", "score": 2})
        return Response(200, {}, json.dumps({"text": text, "tokens": 12}).encode())
"""
JUDGE = """
  - id: paint-judge
    makes: [text]
    supports: []
"""


def judged(kit, judge="paint-judge", **files: str) -> CodecKit:
    texts = {
        "__init__": JUDGING,
        "emulator": PAGE["batchgen_paint/emulator.py"] + ANSWERS,
        "models": MODELS.rstrip() + JUDGE,
    }
    made = kit(**{**texts, **files})
    type(made).judge = judge
    return made


TESTS = {
    "question": lambda kit: kit.test_a_question_holds_text_and_image_and_is_the_same_each_time(),
    "emulator": lambda kit: kit.test_the_emulator_answers_a_question_with_score_and_usage(),
    "status": lambda kit: [kit.test_an_answer_of_any_kind_is_a_judgement_or_a_typed_error(each) for each in (200, 429)],
    "odd": lambda kit: kit.test_a_judgement_with_a_part_missing_or_odd_is_one_or_a_typed_error(),
    "key": lambda kit: kit.test_a_key_that_the_api_repeats_is_not_in_what_is_read_of_an_answer(),
}
MISTAKES = [
    ("__init__", "image.base64 for", "'' for", "question", "the image is not in the request"),
    ("__init__", '"ask": question.text', '"ask": "is it?"', "question", "the text of the question is not in its"),
    ("__init__", '"ask": q', '"at": __import__("time").time_ns(), "ask": q', "question", "two requests for the same"),
    ("models", "makes: [text]", "makes: [image]", "question", "paint-judge does not judge"),
    ("__init__", "usage=usage", "usage=None", "emulator", "what was used is not read"),
    ("__init__", "    text: str\n", "    text: str = '{\"score\": 8}'\n", "status", "is read as Answer(score=8.0"),
    ("__init__", "raise error_of(response)", "return Answer(score=1.0)", "status", "HTTP 429 b'' is read as Answer"),
    ("__init__", "return read_j", "return Answer(score=99.0) if said.tokens < 0 else read_j", "odd", "score=99.0"),
    ("__init__", 'or f"HTTP {status}"', "+ repr(KEYS)", "key", "the key is in the error"),
]


@pytest.mark.parametrize("test", TESTS)
def test_a_codec_that_asks_as_it_should_passes(kit, test):
    TESTS[test](judged(kit))


def test_a_codec_that_asks_nobody_passes_without_a_judge(kit):
    made = kit()
    for test in TESTS.values():
        test(made)


def test_a_codec_that_asks_needs_a_model_to_ask(kit):
    with pytest.raises(AssertionError, match="name a model that judges as `judge` of the class"):
        TESTS["question"](judged(kit, judge=""))


@pytest.mark.parametrize(("file", "right", "wrong", "test", "sentence"), MISTAKES, ids=[each[4] for each in MISTAKES])
def test_a_mistake_fails_with_a_sentence(kit, file, right, wrong, test, sentence):
    text = {"__init__": JUDGING, "models": MODELS.rstrip() + JUDGE}[file]
    at = text.rindex(right)
    extra = "\nfrom batchgen.records import Answer\n"
    extra += "from batchgen.testing.subject import KEY\nKEYS = KEY\n" if "KEYS" in wrong else ""
    changed = text[:at] + wrong + text[at + len(right) :]
    with pytest.raises(AssertionError) as failed:
        TESTS[test](judged(kit, **{file: changed + (extra if file == "__init__" else "")}))
    assert sentence in str(failed.value)
