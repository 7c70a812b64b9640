"""One sample's way from its lane to the ledger: build, record, send, read, check, place, settle."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TypeVar

from batchgen.dispatch import Dispatch, GivenUp, PassedOn, Requeued, Settlement, Work
from batchgen.engine.conversation import keep_turn
from batchgen.engine.dependents import Dependents
from batchgen.engine.enclosures import Enclosures
from batchgen.engine.lanes import Route, lane_key
from batchgen.engine.recover import whole_pictures
from batchgen.engine.replay import request_facts
from batchgen.engine.settle import Stored, discard, made_result, our_bugs, settle
from batchgen.errors import (
    BadRequest,
    BatchgenError,
    ConnectFailed,
    DownloadFailed,
    FileGone,
    HeldUncertain,
    LedgerError,
    Malformed,
    NoImage,
    ProviderError,
    StoreError,
    Unanswered,
    Unreadable,
    UsageError,
)
from batchgen.events import (
    AttemptFailed,
    AttemptStarted,
    Event,
    LaneCooled,
    LaneParked,
    LaneStopped,
    Noted,
    SampleEnded,
    SampleSucceeded,
    Stopping,
)
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.results import ResultsFile
from batchgen.profiles.price import estimate_usd, lost_usd
from batchgen.providers.base import Conversing
from batchgen.providers.google_errors import tier_refusal
from batchgen.quota import daily_reset
from batchgen.records import Reply, ReplyImage, Sample, sample_key
from batchgen.retry import RetryPolicy, Tries, backoff_s
from batchgen.store.spool import SpoolFile, disk_error
from batchgen.store.store import Store
from batchgen.store.unread import keep
from batchgen.transport import BODY_MAX_BYTES, Answer, Transport

DOWNLOAD_TRIES = 5
Emit = Callable[[Event], None]
T = TypeVar("T")


class Execution:
    """Carries out what dispatch gives out. Every engine calls `execute`; only how a sample reaches it differs."""

    def __init__(
        self,
        *,
        dispatch: Dispatch,
        routes: Mapping[str, Route],
        ledger: Ledger,
        store: Store,
        transport: Transport,
        results: ResultsFile,
        dependents: Dependents,
        enclosures: Enclosures,
        executor: Executor,
        emit: Emit,
        policy: RetryPolicy,
        hold_uncertain: bool = False,
    ) -> None:
        self.dispatch = dispatch
        self._routes = routes
        self._ledger = ledger
        self._store = store
        self._transport = transport
        self._results = results
        self._dependents = dependents
        self._enclosures = enclosures
        self._executor = executor
        self._emit = emit
        self._policy = policy
        self._hold_uncertain = hold_uncertain
        self._sending: set[asyncio.Task[Answer] | asyncio.Task[None]] = (
            set()
        )  # requests, and downloads of what they linked to
        self._interrupted = False
        self._rng = random.Random()
        self.exposed_ms = array("d")  # of each answer: from its last byte to its durable record
        self.fault: StoreError | LedgerError | None = None
        self._whereabouts: list[str] = []
        self._tiers_gone: set[tuple[str, str]] = set()  # lane and service tier that this key or model does not have
        loop = asyncio.get_running_loop()
        store.rescue.tell = lambda error: _soon(loop, self._refused, error)

    @property
    def trouble(self) -> str:
        """What disk or ledger refused, and where each picture lies that it concerns; empty when all went well."""
        return "; ".join([str(self.fault), *self._whereabouts]) if self.fault else ""

    def estimate_usd(self, sample: Sample) -> float | None:
        profile = self._routes[lane_key(sample.item.provider, sample.item.model)].profile
        item = sample.item
        return estimate_usd(profile, item.image_size or profile.default_size, sample.images, tier=item.service_tier)

    def reserve_usd(self, sample: Sample) -> float | None:
        """What a budget must have room for: the cheaper service tier may be refused, and the standard one serve."""
        usd = self.estimate_usd(sample)
        if usd is None or sample.item.service_tier != "flex":
            return usd
        return self.estimate_usd(replace(sample, item=replace(sample.item, service_tier="standard")))

    def give_up_preparing(self) -> None:
        """What is still being fetched or uploaded for a request is not wanted any more; nothing of it was sent."""
        self._enclosures.give_up()

    def cancel_in_flight(self) -> None:
        """Give up waiting for answers; what is already being stored goes on."""
        self._interrupted = True
        for task in self._sending:
            task.cancel()

    async def execute(self, work: Work) -> None:
        """Never raises for what can happen to a request; a disk or ledger that refuses stops the run."""
        try:
            await self._attempt(work)
        except (StoreError, LedgerError) as error:
            self._refused(error)
        except OSError as error:
            self._refused(disk_error(error, self._store.root))
        finally:
            self.dispatch.abandoned(work)  # a no-op for what was settled

    async def _attempt(self, work: Work) -> None:
        sample, route = self._at_its_tier(work), self._routes[work.lane]
        asked, sent_as = as_sent(work.sample, sample, work.tries)
        number = 1 + sum(work.tries.spent.values())
        unsendable: ProviderError | None = None
        try:
            if sample.item.turn and not isinstance(route.codec, Conversing):
                raise BadRequest(f"{route.profile.provider} has no conversations", reason="no_conversations")
            inputs = await self._enclosures.inputs(sample, route)
            request = route.codec.build(asked, inputs)
        except asyncio.CancelledError:
            self.dispatch.failed(work, ConnectFailed("the run is stopping, and nothing was sent"))
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return
        except ProviderError as error:
            unsendable = error
        except (OSError, UsageError) as error:
            unsendable = BadRequest(f"a reference can no longer be read: {error}", reason="reference_gone")
        except BatchgenError:
            raise
        except Exception as error:
            unsendable = BadRequest(f"{type(error).__name__} in writing the request: a bug of batchgen or of its codec")
        attempt = await self._ledger.attempt_started(sample, work.lane, number, self.estimate_usd(sample), sent_as)
        self._emit(
            AttemptStarted(
                at=time.time(),
                attempt=attempt,
                key=sample.key,
                model=sample.item.model,
                number=number,
                sent_as=sent_as,
            )
        )
        if unsendable is not None:
            await self._ended(work, sample, attempt, unsendable, None)
            return
        spooled: list[SpoolFile] = []
        sent_at: list[float] = []
        answer: Answer | None = None

        def on_sent() -> None:
            sent_at.append(time.time())
            self.dispatch.sent(work)

        def open_sink(k: int) -> SpoolFile:
            spooled.append(self._store.spool_file(attempt, k))
            return spooled[-1]

        try:
            sending = self._transport.send(
                route.base_url,
                request,
                route.auth,
                on_sent=on_sent,
                open_sink=open_sink,
                signatures=sample.item.turn > 0,
            )
            with our_bugs(BatchgenError, OSError, kept=False):
                answer = whole = await self._send(work, sending)
            del request
            sent = sent_at[0] if sent_at else None
            reply, stored = await self._in_thread(lambda: self._read(route, whole, attempt, sample, spooled, sent))
            received_s: float | None = whole.received_s
            if stored is None:
                received_s = None  # what was received is a link, durable by now
                spooled.extend(await self._download(attempt, reply, route, len(spooled)))
                reply = with_pictures(reply, len(reply.links))
                stored = await self._in_thread(lambda: self._settle(route, attempt, sample, reply, spooled, sent))
        except ProviderError as error:
            if isinstance(error, FileGone):
                await self._enclosures.forget(inputs, error)
            if answer is not None and _worth_keeping(error, answer, spooled):
                facts = (answer.status, answer.plain_headers(), answer.envelope())
                await self._in_thread(lambda: keep(self._store, attempt, facts, spooled, request_facts(sample)))
            else:
                discard(spooled)
            await self._ended(work, sample, attempt, error, sent_at[0] if sent_at else None)
            return
        except (StoreError, LedgerError, OSError):
            await self._in_thread(lambda: self._say_where(sample, attempt))
            raise
        exposed_ms = None if received_s is None else (stored.recorded_s - received_s) * 1000
        await self._succeeded(work, attempt, reply, stored, sent_at[0], exposed_ms)

    def _at_its_tier(self, work: Work) -> Sample:
        """The sample at the standard service tier once its own was refused."""
        item = work.sample.item
        if item.service_tier in (None, "standard"):
            return work.sample
        if work.tries.spent.get("tier") or (work.lane, item.service_tier) in self._tiers_gone:
            return replace(work.sample, item=replace(item, service_tier="standard"))
        return work.sample

    async def _send(self, work: Work, sending: Coroutine[object, object, Answer]) -> Answer:
        """Send, and free the place in flight when a good answer is in; a bad one keeps it until dispatch has heard why.

        A request that is cancelled while it is in flight is uncertain.
        """
        task = asyncio.ensure_future(sending)
        self._sending.add(task)
        try:
            answer = await task
        except asyncio.CancelledError:
            task.cancel()
            raise Unanswered("the run was interrupted while the request was in flight", reason="interrupted") from None
        finally:
            self._sending.discard(task)
        if 200 <= answer.status < 300:
            self.dispatch.received(work)
        return answer

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _read(
        self,
        route: Route,
        answer: Answer,
        attempt: int,
        sample: Sample,
        spooled: list[SpoolFile],
        sent_at: float | None,
    ) -> tuple[Reply, Stored | None]:
        """Decode, read and settle, in one visit to a thread. An answer with links is not settled yet: they are durable
        before this returns, so that a crash fetches instead of generating."""
        with our_bugs(BatchgenError, OSError, kept=False):
            envelope = answer.envelope()
        with our_bugs(ProviderError):
            reply = route.codec.read(answer.status, answer.headers, envelope)
            links = reply.links
        if sample.item.turn:
            with our_bugs(ProviderError, StoreError, OSError):
                keep_turn(self._store, route.codec, attempt, envelope, [file.path for file in spooled])
        if links:
            self._ledger.links_received(attempt, reply)
            return reply, None
        return reply, self._settle(route, attempt, sample, reply, spooled, sent_at)

    def _settle(
        self, route: Route, attempt: int, sample: Sample, reply: Reply, spooled: list[SpoolFile], sent_at: float | None
    ) -> Stored:
        stored = settle(self._ledger, self._store, route.profile, attempt, sample, reply, spooled, sent_at)
        try:
            self._results.append(sample, None if stored.missing else made_result(sample, reply, stored))
        except StoreError as error:
            self._store.rescue.tell(error)  # the ledger has it, and the file is built from the ledger
        return stored

    async def _download(self, attempt: int, reply: Reply, route: Route, first: int) -> list[SpoolFile]:
        """Fetch what the answer links to: a stage of its own, retried by itself. Raises DownloadFailed."""
        files: list[SpoolFile] = []
        for k, link in enumerate(reply.links):
            for failures in range(DOWNLOAD_TRIES):
                file = self._store.spool_file(attempt, first + k)
                try:
                    await self._fetch(link, file, route)
                except DownloadFailed as error:
                    file.discard()
                    if self._interrupted or failures + 1 == DOWNLOAD_TRIES or error.reason != "download_failed":
                        discard(files)
                        raise
                    await asyncio.sleep(backoff_s(failures, self._policy.base_s, self._policy.cap_s, self._rng))
                else:
                    files.append(file)
                    break
        return files

    async def _fetch(self, link: str, file: SpoolFile, route: Route) -> None:
        """A second Ctrl-C ends it too: the link is in the ledger, and the next run fetches from it."""
        task = asyncio.ensure_future(
            self._transport.fetch(link, file.write, most_bytes=BODY_MAX_BYTES, loopback=route.loopback)
        )
        self._sending.add(task)
        try:
            await task
        except asyncio.CancelledError:
            task.cancel()
            raise DownloadFailed("the run was interrupted while the picture was fetched from its link") from None
        finally:
            self._sending.discard(task)

    # --- how it ended

    async def _succeeded(
        self, work: Work, attempt: int, reply: Reply, stored: Stored, sent_at: float, exposed_ms: float | None
    ) -> None:
        item = work.sample.item
        made = [sample_key(item.id, picture.n) for picture in stored.pictures if picture.file.role == "image"]
        self._dependents.made(made)  # before dispatch could find that nothing is left
        for left in stored.missing:
            await self._block([sample_key(item.id, left.n)], left.state, left.reason)
        self.dispatch.succeeded(work, stored.usd)
        if exposed_ms is not None:
            self.exposed_ms.append(exposed_ms)
        now = time.time()
        for picture in stored.pictures:
            if picture.file.role == "image":
                self._emit(
                    SampleSucceeded(
                        at=now,
                        attempt=attempt,
                        key=sample_key(item.id, picture.n),
                        model=item.model,
                        files=(picture.file,),
                        usd=picture.usd,
                        seconds=now - sent_at,
                        notes=reply.notes,
                        exposed_ms=exposed_ms,
                    )
                )
        for left in stored.missing:
            self._emit(
                SampleEnded(
                    at=now,
                    key=sample_key(item.id, left.n),
                    model=item.model,
                    state=left.state,
                    reason=left.reason,
                    message=left.message,
                )
            )

    async def _ended(
        self, work: Work, sample: Sample, attempt: int, error: ProviderError, sent_at: float | None
    ) -> None:
        """No picture: let dispatch decide, then record, then tell. sample: as it was asked for."""
        if isinstance(error, Unanswered) and sent_at is None:
            error = ConnectFailed("the run was interrupted before the request had left")
        if isinstance(error, Unanswered) and (self._hold_uncertain or error.reason == "interrupted"):
            error = HeldUncertain(error.message, reason=error.reason)
        lane = self.dispatch.lanes[work.lane]
        if (refused := tier_refusal(error, sample.item.service_tier)) is not None:
            error = refused
            if refused.for_good and sample.item.service_tier:
                self._tiers_gone.add((work.lane, sample.item.service_tier))
        was_open, was_cooled, was_stopping = lane.open, lane.cooled_until_s, self.dispatch.stopping
        profile = self._routes[work.lane].profile
        pictures = sample.images if error.maybe_billed else 0
        cost = lost_usd(profile, error.usage, pictures, tier=sample.item.service_tier)
        settlement = self.dispatch.failed(work, error, cost[0])
        ended = isinstance(settlement, GivenUp)
        state = error.outcome if ended or isinstance(error, Unanswered) else "wanted"
        if isinstance(error, DownloadFailed):
            await self._ledger.download_failed(attempt, sample, error)
        elif attempt:
            await self._ledger.attempt_failed(attempt, sample, error, sent_at=sent_at, state=state, cost=cost)
        now = time.time()
        self._emit(
            AttemptFailed(
                at=now,
                attempt=attempt,
                key=sample.key,
                model=sample.item.model,
                outcome=error.outcome,
                reason=error.reason,
                message=error.message,
                retry_in_s=_retry_in_s(settlement),
                maybe_billed=error.maybe_billed,
            )
        )
        if isinstance(settlement, PassedOn):
            self._emit(Noted(at=now, message=f"{sample.key} goes on with {settlement.lane.partition('/')[2]}"))
        self._tell_of_lane(work.lane, error, was_open, was_cooled, now)
        if self.dispatch.stopping and not was_stopping:
            self._emit(Stopping(at=now, reason=error.reason, message=error.message, in_flight=self.dispatch.in_flight))
        if ended:
            keys = [sample_key(sample.item.id, n) for n in range(sample.n, sample.n + sample.images)]
            await self._in_thread(lambda: self._results.append(sample))
            for key in keys:
                self._emit(
                    SampleEnded(
                        at=now,
                        key=key,
                        model=sample.item.model,
                        state=state,
                        reason=error.reason,
                        message=error.message,
                    )
                )
            await self._block(keys, state, error.reason)

    async def _block(self, keys: Sequence[str], state: str, reason: str) -> None:
        """What waits for these samples will not be asked for in this run."""
        blocked = self._dependents.never(keys, state, reason)
        if blocked:
            await self._in_thread(lambda: self._ledger.blocked(blocked))
        for sample, why in blocked:
            await self._in_thread(lambda sample=sample: self._results.append(sample))  # type: ignore[misc]
            self._emit(
                SampleEnded(
                    at=time.time(),
                    key=sample.key,
                    model=sample.item.model,
                    state="blocked",
                    reason="blocked",
                    message=why,
                )
            )

    def _tell_of_lane(self, key: str, error: ProviderError, was_open: bool, was_cooled: float, now: float) -> None:
        lane = self.dispatch.lanes[key]
        model = self._routes[key].profile.id
        loop_now = asyncio.get_running_loop().time()
        if lane.parked and was_open:
            until = daily_reset(now, error.retry_after_s)
            self._ledger.parked(key, until, error.message)
            self._emit(LaneParked(at=now, model=model, until=until, message=error.message))
        elif lane.stopped and was_open:
            left = self.dispatch.left_samples(key)
            self._emit(LaneStopped(at=now, model=model, reason=lane.stopped, message=error.message, left=left))
        if was_open and not lane.open and (number := self.dispatch.passed_on[key]):
            self._emit(Noted(at=now, message=f"{number:,} request(s) meant for {model} go on with their fallbacks"))
        elif lane.cooled_until_s > was_cooled and lane.cooled_until_s > loop_now:
            rpm = None if lane.window is None else float(lane.window.rate(loop_now))
            self._ledger.cooled(key, now + lane.cooled_until_s - loop_now)
            self._emit(
                LaneCooled(at=now, model=model, seconds=lane.cooled_until_s - loop_now, reason=error.reason, rpm=rpm)
            )

    def _say_where(self, sample: Sample, attempt: int) -> None:
        """After a write that failed: which picture lies where, or is lost. Whatever is whole is taken up by the next run."""
        try:
            paths = [path for _, path in self._store.rescue.stranded(attempt, 0.0)]
            paths += [self._store.spooled(name) for name, _ in whole_pictures(self._store, attempt)]
        except OSError:
            paths = []
        words = f"lies in {', '.join(paths)}: the next run takes it up" if paths else "is lost and was probably billed"
        self._whereabouts.append(f"the picture of {sample.key} {words}")

    def _refused(self, error: StoreError | LedgerError) -> None:
        self.fault = self.fault or error
        self._stop("disk", str(error))

    def _stop(self, reason: str, message: str) -> None:
        if not self.dispatch.stopping:
            self._emit(Stopping(at=time.time(), reason=reason, message=message, in_flight=self.dispatch.in_flight))
        self.dispatch.stop(reason)


def as_sent(wished: Sample, sample: Sample, tries: Tries) -> tuple[Sample, str]:
    """The sample as it is asked for after what was tried, and in words how that departs from what was wished. Pure."""
    words = []
    if sample.item.service_tier != wished.item.service_tier:
        words.append(f"service tier {sample.item.service_tier}, for {wished.item.service_tier} was refused")
    suffix = sample.item.no_image_suffix
    if suffix and tries.spent.get("no_image"):
        words.append("prompt with no_image_suffix")
        sample = replace(sample, item=replace(sample.item, prompt=f"{sample.item.prompt} {suffix}"))
    return sample, "; ".join(words)


def _retry_in_s(settlement: Settlement) -> float | None:
    match settlement:
        case Requeued(delay_s):
            return delay_s
        case PassedOn():
            return 0.0
    return None


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[StoreError], None], error: StoreError) -> None:
    loop.call_soon_threadsafe(call, error)


def _worth_keeping(error: ProviderError, answer: Answer, spooled: Sequence[SpoolFile]) -> bool:
    """Paid for, and perhaps a picture to other eyes than ours: unreadable, or said to hold none though long data came."""
    if not 200 <= answer.status < 300 or not answer.decoded or error.reason == "html":
        return False
    return isinstance(error, Malformed | Unreadable) or (isinstance(error, NoImage) and bool(spooled))


def with_pictures(reply: Reply, count: int) -> Reply:
    """The same answer with its links fetched: picture k is spool file k."""
    return replace(reply, links=(), images=tuple(ReplyImage("", lifted=k) for k in range(count)))
