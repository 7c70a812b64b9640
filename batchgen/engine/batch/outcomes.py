"""How a request of a batch ended: settled as a picture, asked for again, or given up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from batchgen.engine.batch.context import Means
from batchgen.engine.settle import Stored
from batchgen.errors import BatchLost, HeldUncertain, ProviderError
from batchgen.ledger.submissions import Submitted
from batchgen.planning.batchable import batch_lane, online_lane, why_online
from batchgen.profiles.price import lost_usd
from batchgen.providers.contract import Batching
from batchgen.records import Reply, Sample
from batchgen.scheduling.retry import Tries, delay_s


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
        means = self._means
        wanted = means.backlog.returned(sample.key)
        changed = wanted is not None and wanted.fingerprint not in ("", sample.fingerprint)
        await means.attempts.succeeded(
            sample, sent.attempt.id, reply, stored, sent_at=sent.attempt.started_at, lets_go=not changed
        )
        if changed and wanted is not None and means.options.resend:
            self.put_back(
                self._lane(wanted), [wanted]
            )  # the manifest has changed since: this picture was paid for, and is not it

    async def failed(self, sent: Submitted, lane: str, sample: Sample, error: ProviderError) -> bool:
        """Whether it is asked for again."""
        means = self._means
        if error.maybe_billed and isinstance(error, BatchLost) and means.options.hold_uncertain:
            error = HeldUncertain(error.message, reason=error.reason)
        wanted = means.backlog.returned(sample.key)
        again = self._again(sample, error)
        other = (
            None if again or wanted is None or not means.options.resend else means.dispatch.fallback_lane(wanted, error)
        )
        again = again or other is not None
        state = "wanted" if again else error.outcome
        profile = means.routes[lane].profile
        cost = lost_usd(profile, error.usage, sample.images if error.maybe_billed else 0, batch=True)
        await means.attempts.failed(
            sample, sent.attempt.id, error, sent_at=None, state=state, cost=cost, retry_in_s=0.0 if again else None
        )
        if not again:
            await means.attempts.given_up(sample, error, state)
        elif wanted is not None and other is not None:
            means.dispatch.passed_on[lane] += 1
            self.put_back(other, [wanted])
        elif wanted is not None and means.options.resend:
            self._ask_again(wanted, error)
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

    def _ask_again(self, sample: Sample, error: ProviderError) -> None:
        """By batch once more; with `auto`, what a batch has failed at twice, or a batch that came to nothing, online."""
        lost = isinstance(error, BatchLost)
        by = self._means.options.by
        self.put_back(self._lane(sample, online=by == "auto" and (lost or self._rounds[sample.key] > 1)), [sample])

    def _lane(self, sample: Sample, *, online: bool = False) -> str:
        """Where it is asked for again; the manifest may name another AI model by now than the batch was for."""
        item, by = sample.item, self._means.options.by
        lane = batch_lane(item.provider, item.model)
        route = self._means.routes.get(lane)
        has_batch = route is not None and isinstance(route.codec, Batching)
        online = online or self.fallen_back or by == "online" or why_online(item, has_batch, by, ()) is not None
        return online_lane(lane) if online else lane

    def put_back(self, lane: str, samples: Sequence[Sample]) -> None:
        self._means.backlog.add(lane, samples)
        if lane in self._means.dispatch.lanes:
            self._means.dispatch.supplied(lane)
