"""Reads the answer to a request, and says what has to be known of the request to settle it, at once or in a later run.
What the model said in a turn of a conversation is kept unchanged, so that the next turn can send it back."""

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
    """A request that was answered. sent_at: UTC seconds, None if the ledger has it already or nobody noted it.
    estimate_usd: for the request as it was sent, and its cost if the answer does not say. batch: billed at the price of
    a batch API."""

    id: int
    sample: Sample
    profile: Profile
    sent_at: float | None = None
    estimate_usd: float | None
    batch: bool = False

    @classmethod
    def from_record(cls, attempt: OpenAttempt, profile: Profile, facts: Mapping[str, Any]) -> AnsweredAttempt:
        """An attempt as the ledger has it. facts: what `request_facts` returned; empty in ledgers of earlier versions.
        Raises KeyError if one is missing."""
        return cls(
            id=attempt.id,
            sample=sample_from_facts(attempt, facts),
            profile=profile,
            estimate_usd=attempt.estimate_usd,
            batch=is_batch(attempt.lane),
        )


def request_facts(sample: Sample) -> dict[str, Any]:
    """The facts about a request that are needed to settle its answer later."""
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
    """A sample with the fields that settling its answer needs; without facts, with what the attempt's own columns
    say."""
    asked: dict[str, Any] = {"model": ""}
    if facts:
        asked = {name: facts[name] for name in ("model", "aspect_ratio", "image_size", "on_mismatch")}
        # Answers kept by earlier versions lack these.
        asked |= {name: facts[name] for name in ("keep_thoughts", "service_tier", "turn") if name in facts}
        asked["modalities"] = tuple(facts.get("modalities", ()))
    item = Item(id=attempt.item_id, prompt="", provider="", filename=attempt.stem, **asked)
    return Sample(item=item, n=attempt.n, fingerprint=attempt.fingerprint, wire="", images=attempt.images)


@contextlib.contextmanager
def bugs_as_unreadable(
    *expected: type[Exception], usage: Usage | None = None, answer_kept: bool = True
) -> Iterator[None]:
    """Turn every unforeseen exception into Unreadable, so that a bug costs one sample and not the run.

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
    """Read an answer that cannot be a job. See `read_answer`."""
    found = read_answer(store, codec, attempt, response, turn=turn, job=job)
    if isinstance(found, PendingJob):
        raise Malformed("the answer is a job, where an image was due", http_status=response.status)
    return found


def read_answer(
    store: Store, codec: Provider, attempt: int, response: Response, *, turn: int, job: PendingJob | None = None
) -> Reply | PendingJob:
    """Read an answer into a reply or a job. turn: that of the item, 0 outside a conversation. job: the job that was
    asked about, None if this is the answer to the request itself.

    Raises ProviderError, also for a bug of the codec; StoreError and OSError if the disk refuses the turn.
    """
    with bugs_as_unreadable(ProviderError):
        reply = codec.read(response) if job is None else cast(SupportsJobs, codec).read_poll(job, response)
        if isinstance(reply, PendingJob):
            if not isinstance(codec, SupportsJobs):
                raise TypeError(f"{type(codec).__name__} cannot ask about a job")
            return reply
        _ = reply.links  # somebody else's codec may return anything
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
    """Keep an answer that became no image if it was paid for and may hold an image after all: it could not be read, or
    it is said to hold none although it is long. Otherwise delete what was decoded from it. response: None if there is
    no whole answer."""
    is_unread = isinstance(error, Malformed | Unreadable) or (isinstance(error, NoImage) and bool(spooled))
    if response is not None and response.is_success and is_unread:
        save_answer(store, attempt, response, spooled, facts)
    else:
        discard_files(spooled)


def save_turn(store: Store, codec: Provider, attempt: int, response: Response) -> None:
    """Keep the model's turn of a conversation; it is durable before the image is recorded. Raises StoreError, and
    Malformed if something in the turn is not base64."""
    if isinstance(codec, SupportsConversations):
        model_turn = _restore_base64(codec.turn(response.body), response.files)
        store.save_turn(attempt, json.dumps(model_turn, ensure_ascii=False, separators=(",", ":")).encode())


def _restore_base64(value: Any, lifted: Sequence[str]) -> Any:
    """Put the long strings that were decoded to disk back into a JSON value."""
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
    """The sha256 of everything in a kept turn that is base64, including its image, by which the turn can be recognised
    without its number.

    Raises ValueError if the turn is not JSON.
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
