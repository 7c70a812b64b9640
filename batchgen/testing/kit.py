"""The requirements on every codec, as tests that a class of pytest inherits."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import batchgen
from batchgen.errors import ManifestError, ProviderError
from batchgen.http.transport import Transport
from batchgen.item import MANIFEST_FIELDS, SENT_FIELDS
from batchgen.manifest import Manifest, open_manifest
from batchgen.planning.fingerprint import wire_facts
from batchgen.profiles.catalogue import load_catalogue
from batchgen.profiles.file import built_in_profiles
from batchgen.profiles.packages import package_models
from batchgen.providers import contract, registry
from batchgen.records import Answer, Inputs, Question, ReferenceImage, Reply, Request, Response, Sample
from batchgen.testing.answers import BODIES, PIXEL, STATUSES, Read, images_of, odd_bodies, outcome, require, with_files
from batchgen.testing.dying import EXIT_KILLED, JOB_STEPS, STEPS, lost_answers, run_child
from batchgen.testing.subject import KEY, EchoingVendor, Subject, VendorServer, serving

# One value for each field that reaches the wire, as a manifest would give it.
FIELD_VALUES: Mapping[str, Any] = {
    "aspect_ratio": "4:3",
    "image_size": "2K",
    "quality": "low",
    "background": "opaque",
    "output_format": "jpeg",
    "modalities": ["text", "image"],
    "search": "web",
    "thinking": "high",
    "keep_thoughts": True,
    "media_resolution": "high",
    "service_tier": "flex",
    "seed": 3,
    "temperature": 0.5,
    "safety": {"HARM_CATEGORY_HARASSMENT": "OFF"},
    "person_generation": "allow_adult",
    "negative_prompt": "rain",
    "system": "You draw.",
    "references": ["fox.png"],
    "mask": "fox.png",
    "extra": {"of_theirs": 1},
}
PROMPTS = ("a fox", "a hare", "an owl", "a crane")


def is_about(refused: ManifestError, field: str) -> bool:
    """Whether each complaint names the field and the line that it is in."""
    return all(problem.field == field and problem.line for problem in refused.problems)


class JudgeTests(Subject):
    """Tests of a codec that can ask about images; they pass over one without `build_question`.

    judge: id of a model that its API can ask about an image.
    """

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
        """The emulator's answer to a question."""
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


class CodecKit(JudgeTests):
    """Tests of one model's codec.

    stranger: id of a model of which nothing is known, where the API's ids have a form. python: what starts the
    processes that are killed. `Subject` and `JudgeTests` describe the rest.
    """

    stranger: ClassVar[str] = "kit/any"
    python: ClassVar[str] = sys.executable
    _exchange: ClassVar[list[tuple[Read, Response]]]  # made once for all tests of a class

    @classmethod
    def pytest_generate_tests(cls, metafunc: Any) -> None:
        """Generate the cases; the name is the one that pytest looks for."""
        cases = {
            "field": sorted(set(SENT_FIELDS) - {"prompt", "turns"}),
            "status": STATUSES,
            "step": [*STEPS, *JOB_STEPS],
        }
        for name in set(cases) & set(metafunc.fixturenames):
            metafunc.parametrize(name, cases[name], ids=str)

    # --------------------------------------------------------------------------------------------- declarations

    def test_the_codec_and_its_endpoint_have_the_name_they_are_registered_under(self) -> None:
        name, codec = self.profile.provider, type(self.codec)
        require(codec.name == name, f"{codec.__name__}.name is {codec.name!r}, and it is registered as {name!r}")
        account = registry.endpoint_of(name).name
        require(account in registry.provider_names(), f"its endpoint is called {account!r}, as no provider is")

    def test_its_models_are_known_and_none_is_ours(self) -> None:
        problems = load_catalogue().with_packages().problems
        require(not problems, "\n".join(problems))
        require(self.profile.status != "unknown", f"{self.model} is in no file of models")
        ours = {name for known in built_in_profiles().values() for name in (known.id, *known.aliases)}
        if self.profile.provider not in registry.BUILT_IN:
            for model in package_models().profiles:
                taken = sorted(ours & {model.id, *model.aliases})
                require(not taken, f"{model.id}: {', '.join(taken)} is a name of batchgen's own, which wins")

    def test_it_declares_only_fields_that_there_are_and_its_models_no_more_than_it_sends(self) -> None:
        for profile in load_catalogue().with_packages():
            if profile.provider != self.profile.provider:
                continue
            encoded = registry.encoded_fields(profile)
            unknown = sorted(encoded - set(MANIFEST_FIELDS))
            require(not unknown, f"`encodes` names what is not a field of a manifest: {', '.join(unknown)}")
            unsent = sorted(profile.supports - encoded)
            require(not unsent, f"{profile.id} supports {', '.join(unsent)}, and the codec does not send it")
            asks = profile.images_per_request == 1 or "count" in encoded
            require(asks, f"{profile.id} makes several images a request, and the codec does not send `count`")

    # ------------------------------------------------------------------------------------------------- requests

    def test_a_field_alone_reaches_the_wire_or_is_refused_where_it_stands(self, tmp_path: Path, field: str) -> None:
        plain = {"id": "a", "prompt": "a fox", **({"references": ["fox.png"]} if field == "mask" else {})}
        for model, facts in (
            (self.model, self.facts),
            (self.stranger, {**self.facts, "provider": self.profile.provider}),
        ):
            try:
                without = self.built(self.manifest(tmp_path, model, facts, [plain]), model)
                item = {**plain, field: FIELD_VALUES[field]}
                sent = self.built(self.manifest(tmp_path, model, facts, [item]), model)
            except ManifestError as refused:
                named = is_about(refused, field) or (field == "mask" and is_about(refused, "references"))
                require(named, f"{field} is refused without its place: {refused}")
            else:
                require(sent != without, f"{field} is accepted for {model}, and the request is the same without it")

    def test_turns_are_sent_by_a_codec_with_conversations_alone(self, tmp_path: Path) -> None:
        facts = {**self.facts, "provider": self.profile.provider}
        manifest = self.manifest(tmp_path, self.stranger, facts, [{"id": "a", "turns": ["a fox", "in snow"]}])
        try:
            found = len(list(manifest.items()))
        except ManifestError as refused:
            require(is_about(refused, "turns"), f"turns are refused without their place: {refused}")
            found = 0
        speaks = isinstance(self.codec, contract.SupportsConversations)
        require(found == (2 if speaks else 0), "turns are for codecs that have `turn`")

    def test_a_request_is_the_same_each_time_and_holds_no_credentials(self, tmp_path: Path) -> None:
        manifest = self.manifest(tmp_path, self.model, self.facts, [{"id": "a", "prompt": "a fox"}])
        first, second = self.built(manifest, self.model), self.built(manifest, self.model)
        require(first == second, "`build` gave two requests for the same sample: it must not draw lots or read a clock")
        require(first.path.startswith("/") or "://" in first.path, f"{first.path!r} does not begin with /")
        require(KEY not in repr(self.credentials()), "the key is in the repr of the credentials, and so in a traceback")

    # -------------------------------------------------------------------------------------------------- answers

    def test_an_answer_of_any_kind_is_a_reply_a_job_or_a_typed_error(self, status: int) -> None:
        kinds: list[dict[str, str]] = [{}, {"Content-Type": "application/json"}, {"Content-Type": "text/html"}]
        answers = [Response(status, kind, body) for kind in kinds for body in BODIES]
        for read in self.readers():
            for answer in answers:
                found = outcome(read, answer)
                if status >= 400 or (status == 200 and answer.body in (b"", b"{}")):
                    require(
                        isinstance(found, ProviderError), f"HTTP {status} {answer.body[:99]!r} is read as {found!r}"
                    )

    def test_an_answer_with_a_part_missing_or_odd_is_a_reply_a_job_or_a_typed_error(self) -> None:
        for read, response in self.exchange():
            for end in range(0, len(response.body), max(1, len(response.body) // 50)):
                found = outcome(read, Response(response.status, response.headers, response.body[:end]))
                # An image is checked only when it is stored.
                is_image = (response.header("content-type") or "").startswith("image/")
                require(is_image or isinstance(found, ProviderError), f"an answer cut short is read as {found!r}")
            for body in odd_bodies(response.body):
                outcome(read, Response(response.status, response.headers, body))

    def test_an_image_is_the_same_whether_its_string_is_short_or_was_decoded_to_a_file(self, tmp_path: Path) -> None:
        read, response = self.exchange()[-1]
        reply = outcome(read, response)
        require(isinstance(reply, Reply) and (reply.images or reply.links), f"the last answer is {reply!r}")
        large = with_files(response, tmp_path)
        found = outcome(read, large)
        require(isinstance(found, Reply), f"the same answer, its image in a file, is {found!r}")
        if isinstance(reply, Reply) and isinstance(found, Reply):
            same = images_of(found, large.files) == images_of(reply, ())
            require(same, "the image in a file is another one: use decode_image or image_body")

    # ----------------------------------------------------------------------------------------------------- runs

    def test_a_run_makes_each_image_for_one_request_and_the_next_run_sends_nothing(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with self.vendor() as server:
                job = self.job(tmp_path, server)
                outcome = await batchgen.run(job)
                require(outcome.exit_code == 0, f"it ended with {outcome.exit_code}: {list(job.results)}")
                require(outcome.made == len(PROMPTS), f"{outcome.made} images for {len(PROMPTS)} items")
                require((await batchgen.run(job)).exit_code == 0, "the second run found something to do")
                bought = server.bought(self.requests(job))
                require(bought == len(PROMPTS), f"{bought} requests for {len(PROMPTS)} images")

        asyncio.run(run())

    def test_a_process_that_dies_at_any_step_buys_nothing_twice(self, tmp_path: Path, step: str) -> None:
        if step in JOB_STEPS and not isinstance(self.codec, contract.SupportsJobs):
            return  # there is no such step

        async def run() -> None:
            async with self.vendor() as server:
                job = self.job(tmp_path, server)
                command = [self.python, "-m", "batchgen.testing.dying", str(job.manifest.path), *step.split()]
                code = await run_child(command, self.environ(tmp_path, server))
                require(code == EXIT_KILLED, f"the run did not come to {step}")
                lost = lost_answers(job.folder)
                outcome = await batchgen.run(job)
                require(outcome.exit_code == 0, f"the next run ended with {outcome.exit_code}: {list(job.results)}")
                require(len(list(job.results)) == len(PROMPTS), "an image is missing")
                bought, most = server.bought(self.requests(job)), len(PROMPTS) + lost
                # An attempt whose answer nobody recorded may have been billed, and is made once more.
                require(
                    bought <= most, f"{bought} requests for {len(PROMPTS)} images, {lost} of them without an answer"
                )

        asyncio.run(run())

    def test_no_output_holds_a_key_that_the_api_repeats(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with serving(EchoingVendor) as server:
                job = self.job(tmp_path, server)
                log = f"{tmp_path}/log"
                command = [self.python, "-m", "batchgen", "run", str(job.manifest.path), "--log-file", log]
                with (tmp_path / "said").open("wb") as said:
                    await run_child(command, self.environ(tmp_path, server), stdout=said, stderr=said)
                require(server.asked, f"nothing was sent: {(tmp_path / 'said').read_text()}")
                require(not any(KEY in path for _, path in server.asked), "the key stands in a URL")

        asyncio.run(run())
        held = [str(path) for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
        require(not held, f"the key is in {', '.join(held)}")

    # -------------------------------------------------------------------------------------------- how it is done

    def manifest(
        self, folder: Path, model: str, facts: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> Manifest:
        (folder / "fox.png").write_bytes(base64.b64decode(PIXEL))
        path = folder / "job.yaml"
        models = {model: facts} if facts else {}
        path.write_text(json.dumps({"models": models, "defaults": {"model": model}, "items": items}))
        return open_manifest(path)

    def built(self, manifest: Manifest, model: str) -> Request:
        """Build the request for the first item of a manifest."""
        item = next(iter(list(manifest.items())))
        inputs = Inputs((ReferenceImage("image/png", PIXEL),) * len(item.references))
        sample = Sample(item=item, n=1, fingerprint="f", wire=wire_facts(item))
        return registry.provider_for(manifest.catalogue.resolve(model)).build(sample, inputs)

    def environ(self, folder: Path, server: VendorServer) -> dict[str, str]:
        endpoint = registry.endpoint_of(self.profile.provider)
        names = {endpoint.key_names[0]: KEY, endpoint.base_url_names[0]: server.url}
        return {**names, "XDG_STATE_HOME": str(folder / "state")}

    def manifest_data(self) -> dict[str, Any]:
        """A manifest that no quota slows down."""
        items = [{"id": f"i{n}", "prompt": prompt, "model": self.model} for n, prompt in enumerate(PROMPTS)]
        return {"models": {self.model: {**self.facts, "rpm": 6000, "rpd": None}}, "items": items}

    def job(self, folder: Path, server: VendorServer) -> batchgen.Job:
        path = folder / "job.yaml"
        path.write_text(json.dumps(self.manifest_data()))
        return batchgen.load(path, environ=self.environ(folder, server))

    def requests(self, job: batchgen.Job) -> set[tuple[str, str]]:
        """The method and path of those requests that cost something."""
        codec = registry.provider_for(job.manifest.catalogue.resolve(self.model))
        samples = (Sample(item=item, n=1, fingerprint="f", wire=wire_facts(item)) for item in job.manifest.items())
        return {(built.method, built.path) for built in (codec.build(sample, Inputs()) for sample in samples)}

    def readers(self) -> list[Read]:
        """The readers of the first answer, and of one about a job."""
        codec, readers = self.codec, [read for read, _ in self.exchange()]
        return readers[:2] if isinstance(codec, contract.SupportsJobs) else [codec.read]

    def exchange(self) -> list[tuple[Read, Response]]:
        """The answers to the request for an image, and to each question about the job that it became, with their
        readers."""
        if "_exchange" not in vars(type(self)):
            type(self)._exchange = asyncio.run(self._ask())
        return type(self)._exchange

    async def _ask(self) -> list[tuple[Read, Response]]:
        manifest = batchgen.load(self.manifest_data(), name="kit", environ={}, emulate=True).manifest
        async with self.vendor() as server:
            return await server.exchange(self.codec, self.credentials(), self.built(manifest, self.model))
