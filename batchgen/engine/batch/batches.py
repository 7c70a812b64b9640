"""The loop of a run's batches: submit what waits, look after what is out, collect what has ended, until nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from dataclasses import replace

from batchgen.engine.batch.collect import Collection
from batchgen.engine.batch.context import Means, reserved_usd
from batchgen.engine.batch.outcomes import Endings
from batchgen.engine.batch.submit import Full, Submission
from batchgen.errors import BadRequest, DownloadFailed, LedgerError, Malformed, ProviderError, StoreError
from batchgen.events import BatchSeen, LaneStopped
from batchgen.ledger.submissions import UNSENT, Chunk
from batchgen.planning.batchable import OPEN_MOST, ChunkLimits, next_look_s, online_lane
from batchgen.providers.gemini_batch import ENDED
from batchgen.scheduling.window import Reserved
from batchgen.store.spool import disk_error

MISSING_S = 600.0  # for which a batch that is not there is looked for: one that was just created may not be found yet
RESULTLESS_S = 900.0  # for which a batch that succeeded and names no results is looked at again
REFUSALS_MOST = 3  # of a chunk while none of ours is out: then it is too large by itself
CANCEL_S = 600.0  # within which a batch that was cancelled should have ended
KEPT_S = 3 * 86400.0  # results that are not there so long after their batch began are gone
TOLD_AFTER = 5  # troubles of one kind with a chunk, then they are mentioned


class Batches:
    """Runs beside the online engine. `dispatch.outside` keeps that one from ending while samples may come back."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._endings = Endings(means)
        self._submission = Submission(means, self._endings)
        self._collection = Collection(means, self._endings, self._submission)
        self._lanes = [lane for lane, route in means.routes.items() if route.batch]
        self._chunks: dict[int, Chunk] = {}
        self._looks: Counter[int] = Counter()
        self._due: dict[int, float] = {}  # UTC seconds, before which a chunk is not looked at again
        self._oddities: Counter[tuple[int, str]] = Counter()  # refusals, failed fetches, other troubles
        self._limits = {lane: self._limits_of(lane) for lane in self._lanes}
        self._not_before: dict[str, float] = {}  # by lane, UTC seconds: the quota for enqueued work was full
        self._cancelled_at = 0.0
        self._failing_since = 0.0  # UTC seconds from which on every call has failed
        self._cancelled: set[int] = set()
        self.stopped: dict[str, str] = {}  # lanes that the vendor makes no batches for, with the reason
        self._outside = 0
        self._driving: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()
        self.unsubmitted = 0  # samples that no batch has taken yet
        self.left = 0  # the same, and those of lanes that were stopped

    def _limits_of(self, lane: str) -> ChunkLimits:
        """No chunk holds more tokens than the usage tier may have enqueued at once."""
        limits, tier = self._means.options.limits, self._means.tier
        known = None if tier is None else self._means.routes[lane].profile.batch_tokens.get(tier)
        return replace(limits, tokens=known) if limits.tokens is None else limits

    def supplied(self, lane: str) -> None:
        """The backlog has got more for a batch lane."""
        if self._endings.fallen_back:
            self._go_online(lane)
            return
        self._tell_dispatch()
        self._changed.set()

    async def __aenter__(self) -> Batches:
        if self._lanes:
            self._tell_dispatch(busy=True)  # before that could find that nothing is left
            self._driving = asyncio.ensure_future(self._drive())
        return self

    async def __aexit__(self, *_: object) -> None:
        """What is out stays out; each step was made so that it can be broken off."""
        if self._driving is not None:
            self._driving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._driving

    async def _drive(self) -> None:
        """Until the run stops, or has nothing left; without waiting, one round."""
        means = self._means
        try:
            await self._adopt()
            while not means.dispatch.stopping:
                self._changed.clear()
                await self._round()
                self._tell_dispatch()
                if not means.options.wait:
                    return
                await self._pause()
        except (StoreError, LedgerError) as error:
            means.execution.refused(error)
        except OSError as error:
            means.execution.refused(disk_error(error, means.store.root))
        except Exception:
            means.dispatch.stop("bug")
            raise
        finally:
            self.unsubmitted = sum(map(self._submission.waiting, self._lanes))
            self.left = self.unsubmitted + sum(map(self._submission.waiting, self.stopped))
            means.dispatch.went_outside(-self._outside)
            self._outside = 0

    async def _adopt(self) -> None:
        """What earlier runs have left out; its money counts again."""
        means = self._means
        for chunk in means.ledger.reader.uncleaned_chunks():
            if chunk.lane in means.routes:
                await self._collection.clean(chunk)
        for chunk in means.ledger.reader.open_chunks():
            if chunk.lane not in means.routes:
                continue
            answer = await means.logs[chunk.lane].reserve(None, reserved_usd(chunk))
            self._submission.places[chunk.id] = answer.place if isinstance(answer, Reserved) else None
            means.dispatch.went_outside(0, reserved_usd(chunk))
            self._chunks[chunk.id] = chunk
        self._tell_dispatch(busy=True)

    async def _round(self) -> None:
        await self._fall_back_if_due()
        for number in list(self._chunks):
            if self._due.get(number, 0.0) <= time.time():
                await self._advance(number)
        if self._means.options.by != "online" and not self._endings.fallen_back:
            for lane in self._lanes:
                await self._submit(lane)

    # --- waiting

    def _tell_dispatch(self, *, busy: bool = False) -> None:
        """How many samples are out, or wait to go out. busy: that is not known yet."""
        out = (
            busy
            + sum(chunk.requests for chunk in self._chunks.values())
            + sum(map(self._submission.waiting, self._lanes))
        )
        self._means.dispatch.went_outside(out - self._outside)
        self._outside = out

    async def _pause(self) -> None:
        """Until the next look is due, something was supplied, or the fallback's time has come."""
        options, now = self._means.options, time.time()
        waits = [self._due.get(number, 0.0) - now for number in self._chunks]
        waits += [until - now for until in self._not_before.values() if until > now]
        if not waits and any(map(self._submission.waiting, self._lanes)):
            waits.append(options.look_s)  # for money that requests online hold
        if options.fallback_at is not None and not self._endings.fallen_back:
            waits.append(options.fallback_at - now)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), max(0.01, min(waits)) if waits else None)

    # --- submitting

    async def _submit(self, lane: str) -> None:
        means = self._means
        while self._submission.waiting(lane) and self._room(lane) and not means.dispatch.stopping:
            chunk = await self._submission.record(lane, self._limits[lane])
            if chunk is None:
                if not self._chunks and not means.dispatch.unsettled:  # what is out may turn out cheaper
                    means.dispatch.budget_span = "" if self._submission.short == "run" else self._submission.short
                    means.dispatch.stop("budget")
                return
            if chunk.step != "recorded":
                self._chunks[chunk.id] = chunk
                await self._advance(chunk.id)

    def _room(self, lane: str) -> bool:
        return len(self._chunks) < OPEN_MOST and self._not_before.get(lane, 0.0) <= time.time()

    # --- one chunk, as far as it goes now

    async def _advance(self, number: int) -> None:
        """Through its steps until it has to wait for something, and that is not before its next look is due."""
        await self._steps(number)
        self._due[number] = time.time() + next_look_s(self._looks[number], self._means.options.look_s)

    async def _steps(self, number: int) -> None:
        while (chunk := self._chunks.get(number)) is not None and not self._means.dispatch.stopping:
            if chunk.step in UNSENT and (why := self._why_never(chunk)):
                await self._give_up(chunk, why[0], why[1])
                return
            try:
                self._chunks[number] = after = await self._step(chunk)
                self._failing_since = 0.0
            except Full as error:
                await self._refused(chunk, error)
                return
            except ProviderError as error:
                await self._trouble(chunk, error)
                return
            if not after.open:
                await self._collection.clean(after)
                del self._chunks[number]
            if after.step == chunk.step:
                return

    def _why_never(self, chunk: Chunk) -> tuple[str, str] | None:
        """Why no batch is to be made of it any more, in words, and the lane in which its samples wait instead."""
        if self._endings.fallen_back:
            return "the time for batches was up", online_lane(chunk.lane)
        if self._means.options.by == "online":
            return "a run without batches took it up", online_lane(chunk.lane)
        if not os.path.lexists(self._means.file(chunk, "jsonl")):
            return "its lines are no longer on the disk", chunk.lane
        return None

    async def _step(self, chunk: Chunk) -> Chunk:
        """Raises Full, ProviderError."""
        match chunk.step:
            case "written":
                return await self._submission.upload(chunk)
            case "uploaded":
                if self._not_before.get(chunk.lane, 0.0) > time.time():
                    return chunk
                return await self._submission.create(chunk)
            case "asked":
                return await self._submission.reconcile(chunk)
            case "created":
                return await self._look(chunk)
            case "ended":
                return await self._collection.fetch(chunk)
            case "fetched":
                return await self._collection.collect(chunk)
        raise AssertionError(f"no chunk stays at {chunk.step}")

    async def _look(self, chunk: Chunk) -> Chunk:
        means, codec = self._means, self._means.codec(chunk.lane)
        self._looks[chunk.id] += 1
        if self._endings.fallen_back and chunk.id not in self._cancelled:
            await self._cancel(chunk)
        try:
            status, headers, body = await means.ask(chunk.lane, codec.look(chunk.batch))
        except Malformed as error:
            if error.reason != "too_large":
                raise
            status, headers, body = 200, {}, await self._collection.outline(chunk)  # so long with its answers alone
        if codec.missing(status, body):
            return await self._waited(chunk, MISSING_S) or await means.chunks.stepped(chunk, step="ended", state="gone")
        seen = codec.seen(status, headers, body)
        if (seen.state, seen.succeeded, seen.failed) != (chunk.state, chunk.succeeded, chunk.failed):
            means.emit(
                BatchSeen(
                    at=time.time(), model=means.routes[chunk.lane].profile.id, batch=chunk.batch, state=seen.state,
                    requests=seen.requests or chunk.requests, succeeded=seen.succeeded, failed=seen.failed,
                )
            )  # fmt: skip
            counts = {"state": seen.state, "succeeded": seen.succeeded, "failed": seen.failed}
            chunk = await means.chunks.stepped(chunk, **counts)
        if seen.state not in ENDED:
            chunk = await means.chunks.stepped(chunk, ended_at=0.0) if chunk.ended_at else chunk
            return await self._cancelled_in_vain(chunk)
        waited = None
        if seen.state == "succeeded" and not seen.results_file:
            waited = await self._waited(chunk, RESULTLESS_S)
        return waited or await means.chunks.stepped(
            chunk, step="ended", results_file=seen.results_file, message=seen.message
        )

    async def _waited(self, chunk: Chunk, most_s: float) -> Chunk | None:
        """The chunk while it is not yet for so long that looks bring nothing, whichever run looks; else None."""
        since = chunk.ended_at or time.time()
        if time.time() - since >= most_s * min(1.0, self._means.options.look_s / 5.0):
            return None
        return chunk if chunk.ended_at else await self._means.chunks.stepped(chunk, ended_at=since)

    async def _cancelled_in_vain(self, chunk: Chunk) -> Chunk:
        """A batch that goes on long after it was cancelled is waited for no more: what it does may be billed."""
        patience_s = CANCEL_S * min(1.0, self._means.options.look_s / 5.0)
        if not self._cancelled_at or time.time() - self._cancelled_at < patience_s:
            return chunk
        self._means.note(
            f"{chunk.batch} was cancelled and still runs: what it makes may be billed and is not waited for"
        )
        return await self._means.chunks.stepped(chunk, step="ended", state="gone")

    # --- what goes wrong with a chunk as a whole

    async def _refused(self, chunk: Chunk, full: Full) -> None:
        """No room for enqueued work: wait for what is out; a chunk refused with nothing out is too large by itself."""
        means = self._means
        self._chunks[chunk.id] = replace(chunk, step="uploaded")
        self._oddities[chunk.id, "full"] += 1
        refusals = self._oddities[chunk.id, "full"]
        if refusals == 1:
            means.note(f"{means.routes[chunk.lane].profile.id}: no room for another batch yet: {full}")
        wait_s = max(full.retry_after_s, next_look_s(refusals, means.options.look_s))
        self._not_before[chunk.lane] = time.time() + wait_s
        others = any(one.lane == chunk.lane and one.step not in UNSENT for one in self._chunks.values())
        if refusals >= REFUSALS_MOST and full.for_size and not others and chunk.requests > 1:
            self._limits[chunk.lane] = replace(self._limits[chunk.lane], requests=max(1, chunk.requests // 2))
            await self._give_up(chunk, "too large for the quota of enqueued work", chunk.lane)

    async def _trouble(self, chunk: Chunk, error: ProviderError) -> None:
        means = self._means
        now = means.ledger.reader.chunk(chunk.id)
        self._chunks[chunk.id] = now
        if error.scope == "run":
            means.execution.stop(error.reason, error.message)
        elif _are_gone(error, time.time() - now.created_at):
            self._chunks[chunk.id] = await means.chunks.stepped(now, results_file="", state="gone")
        elif now.step in UNSENT and not error.retryable:
            await self._unwanted(now, error)
        else:
            self._looks[chunk.id] += 1  # the network, or a fault of the server: later
            self._oddities[chunk.id, error.reason] += 1
            if self._oddities[chunk.id, error.reason] == (1 if isinstance(error, DownloadFailed) else TOLD_AFTER):
                means.note(f"{now.batch or now.name}: {error.message}; it is tried again")
            self._failing_since = self._failing_since or time.time()
            stall_s = means.dispatch.stall_s
            if stall_s is not None and time.time() - self._failing_since > stall_s:
                means.dispatch.stop("stalled")

    async def _unwanted(self, chunk: Chunk, error: ProviderError) -> None:
        """The vendor will have no such batch: the lane stops, and what it held waits for another run."""
        means, model = self._means, self._means.routes[chunk.lane].profile.id
        await self._give_up(chunk, error.message, chunk.lane)
        left = self._submission.waiting(chunk.lane)
        means.emit(LaneStopped(at=time.time(), model=model, reason=error.reason, message=error.message, left=left))
        if means.options.by == "auto" and isinstance(error, BadRequest):
            self._go_online(chunk.lane)
            return
        self._lanes.remove(chunk.lane)
        self.stopped[chunk.lane] = error.reason

    async def _give_up(self, chunk: Chunk, why: str, lane: str) -> None:
        await self._submission.reclaim(chunk, lane)
        await self._submission.drop(chunk, why)
        del self._chunks[chunk.id]

    # --- the fallback

    def _go_online(self, lane: str) -> None:
        other = online_lane(lane)
        self._submission.give_back(lane)
        if self._means.backlog.move(lane, other):
            self._means.dispatch.supplied(other)

    async def _fall_back_if_due(self) -> None:
        """At its time: cancel what is out, collect what it has brought, and make the rest online."""
        means, at = self._means, self._means.options.fallback_at
        if at is None or self._endings.fallen_back or time.time() < at:
            return
        self._endings.fallen_back, self._cancelled_at = True, time.time()
        means.note("the time for batches is up: they are cancelled, and what they have not delivered is made online")
        for chunk in list(self._chunks.values()):
            self._looks[chunk.id] = 0
        self._due.clear()
        for lane in self._lanes:
            self._go_online(lane)

    async def _cancel(self, chunk: Chunk) -> None:
        codec = self._means.codec(chunk.lane)
        with contextlib.suppress(ProviderError):  # tried again at the next look
            codec.gone(*await self._means.ask(chunk.lane, codec.cancel(chunk.batch)))
            self._cancelled.add(chunk.id)


def _are_gone(error: ProviderError, age_s: float) -> bool:
    """Whether results will not be had any more. age_s: of their batch. Pure."""
    return isinstance(error, DownloadFailed) and error.http_status in (403, 404, 410) and age_s > KEPT_S
