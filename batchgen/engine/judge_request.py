"""Writes a question to the judge with its codec, with a small copy of the image, and reads the answer."""

from __future__ import annotations

from typing import cast

from batchgen.engine.answer import bugs_as_unreadable
from batchgen.engine.routes import Route, lane_key
from batchgen.errors import BadRequest, BatchgenError
from batchgen.http.answer import HttpAnswer
from batchgen.providers.contract import SupportsJudge
from batchgen.records import Answer, Request, Response
from batchgen.review.judge import JudgeSample
from batchgen.store.store import Store


def lane_of(sample: JudgeSample) -> str:
    return lane_key(sample.item.provider, sample.item.model)


def write_question(sample: JudgeSample, route: Route, store: Store) -> Request:
    """The request for a question. Call it in a thread. Raises ProviderError if it cannot be built, also for a bug of
    the codec."""
    from batchgen.references.redraw import small_jpeg  # Pillow, for a run that has a judge

    try:
        with store.local_copy(sample.image.file.path) as path:
            jpeg = small_jpeg(path)
        return cast(SupportsJudge, route.codec).build_question(sample.question(jpeg))
    except BatchgenError:
        raise
    except OSError as error:
        raise BadRequest(f"the image to be judged cannot be read: {error}", reason="image_gone") from error
    except Exception as error:
        raise BadRequest(
            f"{type(error).__name__} in writing the question: a bug of batchgen or of its codec"
        ) from error


def read_judgement(route: Route, http_answer: HttpAnswer) -> Answer:
    """The judge's answer. Call it in a thread. Raises ProviderError, also for a bug of the codec."""
    with bugs_as_unreadable(BatchgenError, OSError, answer_kept=False):
        response = Response(http_answer.status, http_answer.headers, http_answer.envelope())
        return cast(SupportsJudge, route.codec).read_answer(response)
