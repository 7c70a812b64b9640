"""Records how each request of a batch ended: settled as an image, requested again, or given up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from batchgen.engine.answer import AnsweredAttempt
from batchgen.engine.batch.context import BatchContext
from batchgen.engine.settle import SettledReply
from batchgen.errors import BatchLost, HeldUncertain, ProviderError
from batchgen.ledger.chunks import ChunkRequest
from batchgen.planning.batchable import batch_lane, online_lane, online_only_reason
from batchgen.profiles.price import cost_without_picture_usd
from batchgen.providers.contract import SupportsBatches
from batchgen.records import Reply, Sample
from batchgen.scheduling.retry import RetryState, retry_delay_s


class BatchOutcomes:
    """Records the outcomes of batch requests. Call it from the event loop only. tries: of samples that failed in this
    run, by key."""

    def __init__(self, context: BatchContext) -> None:
        self._context = context
        self._retry_states: dict[str, RetryState] = {}
        self._failures: Counter[str] = Counter()
        self.rng = random.Random()

    def retry_state(self, sample: Sample) -> RetryState:
        return self._retry_states.get(sample.key, RetryState())

    async def record_success(
        self, sent: ChunkRequest, attempt: AnsweredAttempt, reply: Reply, settled_reply: SettledReply
    ) -> None:
        context, sample = self._context, attempt.sample
        wanted = context.outstanding.backlog.take_submitted(sample.key)
        changed = wanted is not None and wanted.fingerprint not in ("", sample.fingerprint)
        await context.pipeline.attempts.succeeded(
            attempt, reply, settled_reply, sent_at=sent.attempt.started_at, release_dependents=not changed
        )
        if changed and wanted is not None and context.options.resend:
            # The manifest has changed since: this image was paid for but is no longer wanted.
            self.requeue(self._retry_lane(wanted), [wanted])

    async def record_failure(self, sent: ChunkRequest, lane: str, sample: Sample, error: ProviderError) -> bool:
        """Record a failed request. Returns whether it is sent again."""
        context = self._context
        if error.maybe_billed and isinstance(error, BatchLost) and context.options.hold_uncertain:
            error = HeldUncertain(error.message, reason=error.reason)
        wanted = context.outstanding.backlog.take_submitted(sample.key)
        retried = self._should_retry(sample, error)
        other = (
            None
            if retried or wanted is None or not context.options.resend
            else context.outstanding.dispatcher.fallbacks.lane_for(wanted, error)
        )
        retried = retried or other is not None
        state = "wanted" if retried else error.outcome
        profile = context.routes[lane].profile
        cost = cost_without_picture_usd(profile, error.usage, sample.images if error.maybe_billed else 0, batch=True)
        await context.pipeline.attempts.failed(
            sample, sent.attempt.id, error, sent_at=None, state=state, cost=cost, retry_in_s=0.0 if retried else None
        )
        if not retried:
            await context.pipeline.attempts.given_up(sample, error, state)
        elif wanted is not None and other is not None:
            context.outstanding.dispatcher.fallbacks.moved[lane] += 1
            self.requeue(other, [wanted])
        elif wanted is not None and context.options.resend:
            self._retry(wanted, error)
        return retried

    def _should_retry(self, sample: Sample, error: ProviderError) -> bool:
        if error.reason == "batch_cancelled" and self._context.outstanding.fallen_back:
            return True  # batchgen did that itself
        self._retry_states[sample.key] = retry_state = self.retry_state(sample).after(error)
        self._failures[sample.key] += 1  # also if it was not the sample's fault: each round may take a day
        policy = self._context.outstanding.dispatcher.limits.policy
        if self._failures[sample.key] >= policy.attempts:
            return False
        return retry_delay_s(error, retry_state, policy, self.rng) is not None

    def _retry(self, sample: Sample, error: ProviderError) -> None:
        """Send a request again by batch. With `auto`, it goes online once two batches failed at it, or if its batch
        came to nothing."""
        lost = isinstance(error, BatchLost)
        batch_mode = self._context.options.batch_mode
        self.requeue(
            self._retry_lane(sample, online=batch_mode == "auto" and (lost or self._failures[sample.key] > 1)), [sample]
        )

    def _retry_lane(self, sample: Sample, *, online: bool = False) -> str:
        """The lane for a repeat. By now the manifest may name another AI model than the batch was for."""
        item, batch_mode = sample.item, self._context.options.batch_mode
        lane = batch_lane(item.provider, item.model)
        route = self._context.routes.get(lane)
        has_batch = route is not None and isinstance(route.codec, SupportsBatches)
        online = (
            online
            or self._context.outstanding.closed
            or batch_mode == "online"
            or online_only_reason(item, has_batch, batch_mode, ()) is not None
        )
        return online_lane(lane) if online else lane

    def requeue(self, lane: str, samples: Sequence[Sample]) -> None:
        outstanding = self._context.outstanding
        outstanding.backlog.add(lane, samples)
        if lane in outstanding.dispatcher.lanes:
            outstanding.dispatcher.backlog_grew(lane)
