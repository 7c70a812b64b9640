"""What is asked of a codec that asks models about images, as tests that the kit's class inherits."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from batchgen.errors import ProviderError
from batchgen.http.transport import Transport
from batchgen.providers import contract, registry
from batchgen.records import Answer, Question, ReferenceImage, Request, Response
from batchgen.testing.answers import BODIES, PIXEL, odd_bodies, outcome, require
from batchgen.testing.server import EchoingVendor, VendorServer, serving
from batchgen.testing.subject import KEY, Subject


class JudgeTests(Subject):
    """judge: id of a model that its API can ask about an image; none of these tests does anything for a codec without
    `build_question`."""

    judge: ClassVar[str] = ""
    _answer: ClassVar[Response]  # made once for all tests of a class

    def judging(self) -> contract.SupportsJudge | None:
        """The codec of the model that judges; None when its API cannot be asked."""
        if not isinstance(self.codec, contract.SupportsJudge):
            return None
        require(self.judge, "the codec has `build_question`: name a model that judges as `judge` of the class")
        profile = self.catalogue.resolve(self.judge)
        require(profile.may_judge, f"{profile.id} does not judge: `makes: [text]` is missing in its facts")
        codec = registry.provider_for(profile)
        assert isinstance(codec, contract.SupportsJudge)  # noqa: S101 - it is of the same class
        return codec

    def question(self) -> Question:
        return Question(model=self.judge, text="Is it a fox?", images=(ReferenceImage("image/png", PIXEL),))

    def test_a_question_holds_text_and_image_and_is_the_same_each_time(self) -> None:
        if (codec := self.judging()) is None:
            return
        first, second = codec.build_question(self.question()), codec.build_question(self.question())
        require(first == second, "`build_question` gave two requests for the same question")
        require(b"Is it a fox?" in first.body, "the text of the question is not in its request")
        require(PIXEL.encode() in first.body, "the image is not in the request")

    def test_the_emulator_answers_a_question_with_score_and_usage(self) -> None:
        if (codec := self.judging()) is None:
            return
        found = outcome(codec.read_answer, self.answer())
        require(isinstance(found, Answer), f"the emulator's answer is read as {found!r}")
        require(isinstance(found, Answer) and found.usage is not None, "what was used is not read of the answer")

    def test_an_answer_of_any_kind_is_a_judgement_or_a_typed_error(self, status: int) -> None:
        if (codec := self.judging()) is None:
            return
        for kind in ({}, {"Content-Type": "application/json"}, {"Content-Type": "text/html"}):
            for body in BODIES:
                found = outcome(codec.read_answer, Response(status, kind, body))
                require(isinstance(found, ProviderError), f"HTTP {status} {body[:99]!r} is read as {found!r}")

    def test_a_judgement_with_a_part_missing_or_odd_is_one_or_a_typed_error(self) -> None:
        if (codec := self.judging()) is None:
            return
        response = self.answer()
        for end in range(0, len(response.body.rstrip()), max(1, len(response.body) // 50)):
            found = outcome(codec.read_answer, Response(response.status, response.headers, response.body[:end]))
            require(isinstance(found, ProviderError), f"an answer cut short is read as {found!r}")
        for body in odd_bodies(response.body):
            found = outcome(codec.read_answer, Response(response.status, response.headers, body))
            fits = not isinstance(found, Answer) or (0 <= found.score <= 10 and found.remark.isprintable())
            require(fits, f"{body[:200]!r} is read as {found!r}")

    def test_a_key_that_the_api_repeats_is_not_in_what_is_read_of_an_answer(self) -> None:
        if (codec := self.judging()) is None:
            return
        said = asyncio.run(self._asked(codec.build_question(self.question()), serving(EchoingVendor)))
        require(KEY not in repr(outcome(codec.read_answer, said)), "the key is in the error")

    def answer(self) -> Response:
        """Of the emulator, to a question."""
        if "_answer" not in vars(type(self)):
            codec = self.judging()
            assert codec is not None  # noqa: S101 - its callers have asked
            type(self)._answer = asyncio.run(self._asked(codec.build_question(self.question()), self.vendor()))
        return type(self)._answer

    async def _asked(self, request: Request, vendor: AbstractAsyncContextManager[VendorServer]) -> Response:
        account = self.credentials()
        with ThreadPoolExecutor(1) as threads:
            async with vendor as server, Transport(1, threads) as transport:
                return await transport.request(server.url + account.path, request, account.credentials)
