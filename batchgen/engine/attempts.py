"""Records an attempt from its request to its end, whichever engine sends it: first in the ledger, then in the results, then
for dependents and observers.

An engine calls `prepare` to build the request and `begin` before anything leaves. When the answer is there, at once or a day
later, it calls `settle` in a thread and then `succeeded`, or `failed` for an error, and `given_up` if no further attempt
follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchgen.engine.answer import AnsweredAttempt, request_facts
from batchgen.engine.context import RunContext
from batchgen.engine.dependents import Dependents
from batchgen.engine.reference_inputs import ReferenceInputs
from batchgen.engine.routes import Route
from batchgen.engine.settle import SettledReply, late_message, result_of, settle
from batchgen.errors import BadRequest, BatchgenError, DownloadFailed, LedgerGone, ProviderError, StoreError, UsageError
from batchgen.events import AttemptFailed, AttemptStarted, Notice, SampleEnded, SampleSucceeded
from batchgen.ledger.requests import JOB_INPUT, IntendedRequest
from batchgen.ledger.results import ResultsFile
from batchgen.os_errors import machine_refusal
from batchgen.providers.contract import SupportsConversations
from batchgen.records import Inputs, Reply, Request, Sample, sample_key
from batchgen.scheduling.retry import RetryState
from batchgen.store.spool import SpoolFile


@dataclass(slots=True)
class PreparedRequest:
    """A request that is ready to be sent, and the inputs in it. job_facts: what is needed to find its job in the vendor's list
    of jobs, if the vendor has one."""

    inputs: Inputs
    request: Request
    job_facts: Mapping[str, Any]

    def take(self) -> Request:
        """Return the request and forget it here: it may be large."""
        request = self.request
        del self.request
        return request


async def prepare(sample: Sample, route: Route, reference_inputs: ReferenceInputs) -> PreparedRequest:
    """Fetch the inputs of a sample and build its request. Raises ProviderError if it cannot be built, also for a bug of the
    codec; CancelledError if the run stops preparing requests; StoreError if the disk refuses."""
    try:
        if sample.item.turn and not isinstance(route.codec, SupportsConversations):
            raise BadRequest(f"{route.profile.provider} has no conversations", reason="no_conversations")
        inputs = await reference_inputs.inputs(sample, route)
        request, facts = route.codec.build(sample, inputs), dict[str, Any]()
        if route.job_list is not None:
            facts = {**request_facts(sample), JOB_INPUT: route.job_list.job_input(request)}
        return PreparedRequest(inputs, request, facts)
    except ProviderError:
        raise
    except (OSError, UsageError) as error:
        raise BadRequest(f"a reference can no longer be read: {error}", reason="reference_gone") from error
    except BatchgenError:
        raise
    except Exception as error:
        why = machine_refusal(error) or "a bug of batchgen or of its codec"
        message = f"{type(error).__name__} in writing the request: {why}"
        raise BadRequest(message) from error


REMARKS_HEAD = "Comments on an earlier version, to be taken into account:"


def adjust_after_tries(sample: Sample, retry_state: RetryState, why_tier: str = "") -> tuple[Sample, str]:
    """The sample as the next attempt requests it, given what was tried before, and how it differs from the item in words.

    why_tier: why the service tier is not the item's own, empty if it is."""
    words = [f"service tier {sample.item.service_tier}, for {why_tier}"] if why_tier else []
    suffix = sample.item.no_image_suffix
    if suffix and retry_state.spent.get("no_image"):
        words.append("prompt with no_image_suffix")
        sample = replace(sample, item=replace(sample.item, prompt=f"{sample.item.prompt} {suffix}"))
    if sample.remarks:
        words.append(f"prompt with comments on the last image: {sample.remarks}")
        prompt = f"{sample.item.prompt}\n\n{REMARKS_HEAD} {sample.remarks}"
        sample = replace(sample, item=replace(sample.item, prompt=prompt))
    return sample, "; ".join(words)


class AttemptRecorder:
    """Records attempts in the ledger and the results, and tells dependents and observers. awaits_review: whether an image of
    this item only counts once it has been reviewed."""

    def __init__(
        self,
        context: RunContext,
        results: ResultsFile,
        dependents: Dependents,
        awaits_review: Callable[[str], bool] = lambda item_id: False,
    ) -> None:
        self._context = context
        self._ledger = context.ledger
        self._store = context.store
        self._emit = context.emit
        self._results = results
        self._dependents = dependents
        self._awaits_review = awaits_review

    async def begin(self, request: IntendedRequest) -> int:
        """Record the intent to send a request, and return the attempt's number once that is durable."""
        attempt, sample = await self._ledger.attempt_started(request), request.sample
        self._emit(
            AttemptStarted(
                at=time.time(),
                attempt=attempt,
                key=sample.key,
                model=sample.item.model,
                number=request.number,
                sent_as=request.sent_as,
            )
        )
        return attempt

    def settle(self, attempt: AnsweredAttempt, reply: Reply, spooled: Sequence[SpoolFile]) -> SettledReply:
        """Check, spool, record and place the images of a reply, and write the sample's line of the results. Call it in a thread.

        spooled: the images that are on disk already, by number. The sample of a batch's attempt only has the fields that
        settling needs. Raises what `settle.settle` raises.
        """
        settled_reply, sample = settle(self._ledger, self._store, attempt, reply, spooled), attempt.sample
        try:
            as_asked = not (settled_reply.missing or settled_reply.late or attempt.batch)
            self._results.append(sample, result_of(sample, reply, settled_reply) if as_asked else None)
        except StoreError as error:
            self._store.report_trouble(error)  # the ledger has it, and the file is built from the ledger
        if (gone := settled_reply.ledger_error) is not None:
            raise LedgerGone(str(gone), [picture.file.path for picture in settled_reply.pictures]) from gone
        return settled_reply

    async def succeeded(
        self,
        attempt: AnsweredAttempt,
        reply: Reply,
        settled_reply: SettledReply,
        *,
        sent_at: float,
        exposed_ms: float | None = None,
        release_dependents: bool = True,
        on_released: Callable[[], None] = lambda: None,
    ) -> None:
        """Release what waited for a reply's images, and tell the observers.

        release_dependents: False for an image that the manifest no longer asks for. on_released: called once the dependents
        have been released.
        """
        sample, item, images_made = attempt.sample, attempt.sample.item, settled_reply.images_made
        if release_dependents and not self._awaits_review(item.id):
            self.release_dependents([sample_key(item.id, picture.n) for picture in images_made])
        for left in settled_reply.missing:
            await self.block_dependents([sample_key(item.id, left.n)], left.state, left.reason)
        on_released()
        now = time.time()
        for picture in images_made:
            self._emit(
                SampleSucceeded(
                    at=now,
                    attempt=attempt.id,
                    key=sample_key(item.id, picture.n),
                    model=item.model,
                    files=(picture.file,),
                    usd=picture.usd,
                    seconds=now - sent_at,
                    notes=reply.notes,
                    exposed_ms=exposed_ms,
                )
            )
        if settled_reply.late:
            self._emit(Notice(at=now, message=f"{sample.key}: an image {late_message(settled_reply.late)}"))
        for left in settled_reply.missing:
            self._emit_end(now, sample_key(item.id, left.n), item.model, left.state, left.reason, left.message)

    async def failed(
        self,
        sample: Sample,
        attempt: int,
        error: ProviderError,
        *,
        sent_at: float | None,
        state: str,
        cost: tuple[float | None, str] = (None, ""),
        retry_in_s: float | None = None,
    ) -> None:
        """Record an attempt that brought no image. state, cost: see `Ledger.attempt_failed`. retry_in_s: None if no further
        attempt follows."""
        if isinstance(error, DownloadFailed):
            await self._ledger.download_failed(attempt, sample, error, cost)
        else:
            await self._ledger.attempt_failed(attempt, sample, error, sent_at=sent_at, state=state, cost=cost)
        self._emit(
            AttemptFailed(
                at=time.time(),
                attempt=attempt,
                key=sample.key,
                model=sample.item.model,
                outcome=error.outcome,
                reason=error.reason,
                message=error.message,
                retry_in_s=retry_in_s,
                maybe_billed=error.maybe_billed,
            )
        )

    async def given_up(self, sample: Sample, error: ProviderError, state: str) -> None:
        """End the samples of a failed request, and everything that waits for them, without an image in this run."""
        keys = [sample_key(sample.item.id, n) for n in range(sample.n, sample.n + sample.images)]
        now = time.time()
        await self._context.in_thread(lambda: self._results.append(sample))
        for key in keys:
            self._emit_end(now, key, sample.item.model, state, error.reason, error.message)
        await self.block_dependents(keys, state, error.reason)

    def release_dependents(self, keys: Sequence[str]) -> None:
        """Let everything start that waited for the images of these samples, which now count."""
        self._dependents.images_made(keys)

    def update_results(self, item_id: str) -> None:
        """Write the item's line of the results from the ledger. Call it in a thread. Raises StoreError."""
        self._results.append_item(item_id)

    async def block_dependents(self, keys: Sequence[str], state: str, reason: str) -> None:
        """Mark everything that waits for these samples as blocked: this run does not request it."""
        blocked = self._dependents.block(keys, state, reason)
        if blocked:
            await self._context.in_thread(lambda: self._ledger.record_blocked(blocked))
        for sample, why in blocked:
            await self._context.in_thread(lambda sample=sample: self._results.append(sample))  # type: ignore[misc]
            self._emit_end(time.time(), sample.key, sample.item.model, "blocked", "blocked", why)

    def _emit_end(self, at: float, key: str, model: str, state: str, reason: str, message: str) -> None:
        self._emit(SampleEnded(at=at, key=key, model=model, state=state, reason=reason, message=message))
