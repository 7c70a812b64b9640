"""How a request of a batch ended: settled as a picture, asked for again, or given up."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

from batchgen.batching import online_lane
from batchgen.engine.batch.means import Means
from batchgen.engine.settle import Stored
from batchgen.errors import BatchLost, HeldUncertain, ProviderError
from batchgen.events import AttemptFailed, SampleEnded, SampleSucceeded
from batchgen.ledger.chunks import Submitted
from batchgen.profiles.price import lost_usd
from batchgen.records import Reply, Sample, sample_key
from batchgen.retry import Tries, delay_s


class Endings:
    """The event loop is its only caller. tries: of samples that have failed in this run, by key."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._tries: dict[str, Tries] = {}
        self._rounds: Counter[str] = Counter()
        self.rng = random.Random()
        self.fallen_back = False  # everything that is asked for again goes online

    def tries(self, sample: Sample) -> Tries:
        return self._tries.get(sample.key, Tries())

    async def succeeded(self, sent: Submitted, lane: str, sample: Sample, reply: Reply, stored: Stored) -> None:
        means, item = self._means, sample.item
        keys = [sample_key(item.id, one.n) for one in stored.pictures if one.file.role == "image"]
        wanted = means.backlog.returned(sample.key)
        if wanted is None or wanted.fingerprint == sample.fingerprint:
            means.dependents.made(keys)
        else:
            means.backlog.add(
                lane, [wanted]
            )  # the manifest has changed since: this picture was paid for, and is not it
        for left in stored.missing:
            await means.execution.block([sample_key(item.id, left.n)], left.state, left.reason)
        await means.execution.in_thread(lambda: means.results.append(sample))
        now = time.time()
        for one in stored.pictures:
            if one.file.role == "image":
                means.emit(
                    SampleSucceeded(
                        at=now, attempt=sent.attempt.id, key=sample_key(item.id, one.n), model=item.model,
                        files=(one.file,), usd=one.usd, seconds=now - sent.attempt.started_at, notes=reply.notes,
                    )
                )  # fmt: skip
        for left in stored.missing:
            key = sample_key(item.id, left.n)
            means.emit(
                SampleEnded(
                    at=now, key=key, model=item.model, state=left.state, reason=left.reason, message=left.message
                )
            )

    async def failed(self, sent: Submitted, lane: str, sample: Sample, error: ProviderError) -> bool:
        """Whether it is asked for again."""
        means = self._means
        if error.maybe_billed and isinstance(error, BatchLost) and means.options.hold_uncertain:
            error = HeldUncertain(error.message, reason=error.reason)
        wanted = means.backlog.returned(sample.key)
        again = self._again(sample, error)
        state = "wanted" if again else error.outcome
        profile = means.routes[lane].profile
        cost = lost_usd(profile, error.usage, sample.images if error.maybe_billed else 0, batch=True)
        await means.ledger.attempt_failed(sent.attempt.id, sample, error, sent_at=None, state=state, cost=cost)
        means.emit(
            AttemptFailed(
                at=time.time(), attempt=sent.attempt.id, key=sample.key, model=sample.item.model, outcome=error.outcome,
                reason=error.reason, message=error.message, retry_in_s=0.0 if again else None,
                maybe_billed=error.maybe_billed,
            )
        )  # fmt: skip
        if again and wanted is not None and means.options.resend:
            self._ask_again(lane, wanted, error)
        elif not again:
            await self._given_up(sample, state, error)
        return again

    def _again(self, sample: Sample, error: ProviderError) -> bool:
        if error.reason == "batch_cancelled" and self.fallen_back:
            return True  # we did that
        self._tries[sample.key] = tries = self.tries(sample).after(error)
        self._rounds[sample.key] += 1  # also of what is no fault of the sample: each round may take a day
        return (
            self._rounds[sample.key] < self._means.policy.attempts
            and delay_s(error, tries, self._means.policy, self.rng) is not None
        )

    def _ask_again(self, lane: str, sample: Sample, error: ProviderError) -> None:
        """By batch once more; with `auto`, what a batch has failed at twice, or a batch that came to nothing, online."""
        lost = isinstance(error, BatchLost)
        by = self._means.options.by
        online = self.fallen_back or by == "online" or (by == "auto" and (lost or self._rounds[sample.key] > 1))
        self.put_back(online_lane(lane) if online else lane, [sample])

    def put_back(self, lane: str, samples: Sequence[Sample]) -> None:
        self._means.backlog.add(lane, samples)
        if lane in self._means.dispatch.lanes:
            self._means.dispatch.supplied(lane)

    async def _given_up(self, sample: Sample, state: str, error: ProviderError) -> None:
        means = self._means
        await means.execution.in_thread(lambda: means.results.append(sample))
        keys = [sample_key(sample.item.id, n) for n in range(sample.n, sample.n + sample.images)]
        for key in keys:
            means.emit(
                SampleEnded(
                    at=time.time(), key=key, model=sample.item.model, state=state, reason=error.reason,
                    message=error.message,
                )
            )  # fmt: skip
        await means.execution.block(keys, state, error.reason)
