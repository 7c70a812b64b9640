"""The answer to a request: what has to be known of the request to settle it, at once or by a later run, and how it becomes a
reply. What the model said in a turn of a conversation is kept as it came, so that the next turn can send it back."""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pybase64

from batchgen.errors import Malformed, NoImage, ProviderError, StoreError, Unreadable
from batchgen.ledger.requests import OpenAttempt
from batchgen.os_errors import machine_refusal
from batchgen.planning.batchable import is_batch
from batchgen.profiles.profile import Profile
from batchgen.providers.contract import Provider, SupportsConversations, SupportsJobs
from batchgen.records import DECODED_PREFIX, Item, PendingJob, Reply, Response, Sample, Usage
from batchgen.store.spool import SpoolFile, discard_files
from batchgen.store.store import Store
from batchgen.store.unparsed import save_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredAttempt:
    """sent_at: UTC seconds, None when the ledger has it already or nobody noted it. estimate_usd: of the request as it was
    sent, which is what it cost when the answer does not say. batch: at the price of a batch API."""

    id: int
    sample: Sample
    profile: Profile
    sent_at: float | None = None
    estimate_usd: float | None
    batch: bool = False

    @classmethod
    def from_record(cls, attempt: OpenAttempt, profile: Profile, facts: Mapping[str, Any]) -> AnsweredAttempt:
        """facts: as `request_facts` gave them; empty in ledgers of earlier versions. Raises KeyError when one is missing."""
        return cls(
            id=attempt.id,
            sample=sample_from_facts(attempt, facts),
            profile=profile,
            estimate_usd=attempt.estimate_usd,
            batch=is_batch(attempt.lane),
        )


def request_facts(sample: Sample) -> dict[str, Any]:
    """What has to be known of a request to settle its answer later."""
    item = sample.item
    return {
        "item": item.id,
        "n": sample.n,
        "images": sample.images,
        "provider": item.provider,
        "stem": item.filename,
        "wire": sample.wire,
        "fingerprint": sample.fingerprint,
        "model": item.model,
        "aspect_ratio": item.aspect_ratio,
        "image_size": item.image_size,
        "on_mismatch": item.on_mismatch,
        "turn": item.turn,
        "modalities": list(item.modalities),
        "keep_thoughts": item.keep_thoughts,
        "service_tier": item.service_tier,
    }


def sample_from_facts(attempt: OpenAttempt, facts: Mapping[str, Any]) -> Sample:
    """As much of a sample as settling its answer needs; without facts, as much as the attempt's own columns tell."""
    asked: dict[str, Any] = {"model": ""}
    if facts:
        asked = {name: facts[name] for name in ("model", "aspect_ratio", "image_size", "on_mismatch")}
        # These are not in answers kept by earlier versions.
        asked |= {name: facts[name] for name in ("keep_thoughts", "service_tier", "turn") if name in facts}
        asked["modalities"] = tuple(facts.get("modalities", ()))
    item = Item(id=attempt.item_id, prompt="", provider="", filename=attempt.stem, **asked)
    return Sample(item=item, n=attempt.n, fingerprint=attempt.fingerprint, wire="", images=attempt.images)


@contextlib.contextmanager
def bugs_as_unreadable(
    *expected: type[Exception], usage: Usage | None = None, answer_kept: bool = True
) -> Iterator[None]:
    """Any exception but the foreseen ones costs one sample and not the run. Raises Unreadable.

    answer_kept: whether the caller keeps the answer.
    """
    try:
        yield
    except expected:
        raise
    except Exception as error:
        rest = "; the answer is kept and can be read again without buying it" if answer_kept else ""
        why = machine_refusal(error) or "a bug of batchgen or of its codec"
        message = f"{type(error).__name__} in reading the answer: {why}{rest}"
        raise Unreadable(message, http_status=200, usage=usage) from error


def read_reply(
    store: Store, codec: Provider, attempt: int, response: Response, *, turn: int, job: PendingJob | None = None
) -> Reply:
    """As `read_answer`, of an answer that cannot be a job."""
    found = read_answer(store, codec, attempt, response, turn=turn, job=job)
    if isinstance(found, PendingJob):
        raise Malformed("the answer is a job, where an image was due", http_status=response.status)
    return found


def read_answer(
    store: Store, codec: Provider, attempt: int, response: Response, *, turn: int, job: PendingJob | None = None
) -> Reply | PendingJob:
    """turn: of its item, 0 without a conversation. job: that was asked about, when this is no answer to the request itself.

    Raises ProviderError, also for a bug of the codec; StoreError and OSError when the disk refuses the turn.
    """
    with bugs_as_unreadable(ProviderError):
        reply = codec.read(response) if job is None else cast(SupportsJobs, codec).read_poll(job, response)
        if isinstance(reply, PendingJob):
            if not isinstance(codec, SupportsJobs):
                raise TypeError(f"{type(codec).__name__} cannot ask about a job")
            return reply
        _ = reply.links  # what a codec of somebody else's answers need not be a reply
    if turn:
        with bugs_as_unreadable(ProviderError, StoreError, OSError):
            save_turn(store, codec, attempt, response)
    return reply


def keep_or_discard(
    store: Store,
    attempt: int,
    error: ProviderError,
    response: Response | None,
    spooled: Sequence[SpoolFile],
    facts: Mapping[str, Any],
) -> None:
    """An answer that became no picture is kept when it was paid for, and perhaps is a picture to other eyes than ours:
    unreadable, or said to hold none though long data came. Else what was lifted from it goes. response: None when there is no
    whole answer."""
    is_unread = isinstance(error, Malformed | Unreadable) or (isinstance(error, NoImage) and bool(spooled))
    if response is not None and response.is_success and is_unread:
        save_answer(store, attempt, response, spooled, facts)
    else:
        discard_files(spooled)


def save_turn(store: Store, codec: Provider, attempt: int, response: Response) -> None:
    """Durable before the picture is recorded. Raises Malformed when something in the turn is not base64, StoreError."""
    if isinstance(codec, SupportsConversations):
        model_turn = _restore_base64(codec.turn(response.body), response.files)
        store.save_turn(attempt, json.dumps(model_turn, ensure_ascii=False, separators=(",", ":")).encode())


def _restore_base64(value: Any, lifted: Sequence[str]) -> Any:
    """JSON with its long strings put back."""
    if isinstance(value, str) and value.startswith(DECODED_PREFIX):
        number = value[len(DECODED_PREFIX) :]
        if not number.isdigit() or int(number) >= len(lifted):
            raise Malformed("the model's turn holds data that is not base64")
        with open(lifted[int(number)], "rb") as file:
            return pybase64.b64encode(file.read()).decode("ascii")
    if isinstance(value, dict):
        return {key: _restore_base64(inner, lifted) for key, inner in value.items()}
    return [_restore_base64(inner, lifted) for inner in value] if isinstance(value, list) else value


def embedded_sha256s(turn: bytes) -> Iterator[str]:
    """sha256 of all that a kept turn holds as base64, its picture among it: by that a turn is known when its number is not.

    Raises ValueError when the turn is not JSON.
    """
    for text in _strings(json.loads(turn)):
        try:
            yield hashlib.sha256(pybase64.b64decode(text, validate=True)).hexdigest()
        except (binascii.Error, ValueError):
            continue


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)
