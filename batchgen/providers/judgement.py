"""The JSON that a judge is asked for, and how it is read; the same for every API that accepts a JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from batchgen.errors import Malformed
from batchgen.providers.answer_body import AnswerModel, clean_line
from batchgen.records import DECODED_PREFIX, Answer, Usage

# The remark comes before the score: a model writes in this order, and scores better once it has said what is wrong. The
# schema has everything that OpenAI's strict mode requires (platform.openai.com/docs/guides/structured-outputs) and
# nothing that Google's does not accept (ai.google.dev/gemini-api/docs/structured-output).
ANSWER_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "remark": {"type": "string", "description": "One sentence saying what is wrong; empty when nothing is."},
        "score": {"type": "number", "minimum": 0, "maximum": 10, "description": "How well the image meets the rubric."},
    },
    "required": ["remark", "score"],
    "additionalProperties": False,
}


class _Judgement(AnswerModel):
    score: Annotated[float, Field(ge=0, le=10)]
    remark: str = ""


def read_judgement(text: str, status: int, *, usage: Usage | None, reply_id: str | None, version: str | None) -> Answer:
    """Read a model's answer. status: that of the HTTP answer; version: the model's own name for itself. Raises
    Malformed, with the usage, for a text that is not the requested JSON."""
    try:
        if text.startswith(DECODED_PREFIX):
            raise Malformed("the judge's answer is far too long", http_status=status)
        judged = _read(text, status)
    except Malformed as error:
        error.usage = usage
        raise
    return Answer(
        score=judged.score,
        remark=clean_line(judged.remark),
        usage=usage,
        reply_id=(reply_id or "")[:200],
        model_version=(version or "")[:200],
    )


def _read(text: str, status: int) -> _Judgement:
    """Read the JSON, also from a code fence, as models write it through gateways that drop the schema."""
    start, end = text.find("{"), text.rfind("}")
    try:
        return _Judgement.model_validate_json(text[start : end + 1] if start >= 0 else text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}" if place else f"it is not JSON: {text}"
        raise Malformed(
            clean_line(f"the judge did not answer as asked: {said}", 200), reason="malformed", http_status=status
        ) from None
