"""Reads answers again that an earlier run paid for and could not read: a newer codec may, and nothing is bought."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from batchgen.engine.conversation import save_turn
from batchgen.engine.settle import bugs_as_unreadable, settle
from batchgen.engine.spooled_reply import discard_files
from batchgen.errors import BatchgenError, ProviderError, UsageError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import OpenAttempt
from batchgen.planning.batchable import is_batch
from batchgen.profiles.catalogue import Catalogue
from batchgen.providers.registry import provider_for
from batchgen.records import Item, Sample
from batchgen.store.spool import PIECE_BYTES, SpoolFile
from batchgen.store.store import Store
from batchgen.store.unparsed import (
    delete_answer,
    finish_interrupted_saves,
    load_answer,
    unparsed_attempts,
    unparsed_bytes,
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


def read_kept_answers(ledger: Ledger, store: Store, catalogue: Catalogue, note: Callable[[str], None]) -> int:
    """Answers how many became pictures, or a link that is fetched next. The others stay."""
    finish_interrupted_saves(store)
    forget_settled_answers(ledger.reader, store)
    done = sum(_read_again(ledger, store, catalogue, attempt, note) for attempt in unparsed_attempts(store.root))
    if left := unparsed_attempts(store.root):
        megabytes = unparsed_bytes(store.root) / 1e6
        note(
            f"{len(left)} answer(s) that were paid for and could not be read are kept ({megabytes:.1f} MB);"
            " they go when their images are there; delete .batchgen/unread to give them up"
        )
    return done


def forget_settled_answers(reader: Reader, store: Store) -> None:
    """Kept answers whose samples have their pictures by now."""
    for number in unparsed_attempts(store.root):
        attempt = reader.attempt(number)
        if attempt is not None and all(made == attempt.fingerprint for _, made in _fingerprints(reader, attempt)):
            delete_answer(store.root, number)


def _fingerprints(reader: Reader, attempt: OpenAttempt) -> list[tuple[str, str | None]]:
    """Of each sample the request asked for: (fingerprint it wants, fingerprint of the picture it has)."""
    known_samples = reader.known_samples([attempt.item_id]).get(attempt.item_id, [])
    return [
        (entry.fingerprint, entry.made_fingerprint if entry.state == "succeeded" else None)
        for entry in known_samples
        if attempt.n <= entry.n < attempt.n + attempt.images
    ] or [("", None)]


def _read_again(ledger: Ledger, store: Store, catalogue: Catalogue, number: int, note: Callable[[str], None]) -> bool:
    attempt = ledger.reader.attempt(number)
    if attempt is None:
        return False  # of another ledger
    samples = _fingerprints(ledger.reader, attempt)
    sample_fingerprint = attempt.fingerprint
    if any(wanted != sample_fingerprint for wanted, _ in samples) or all(
        made == sample_fingerprint for _, made in samples
    ):
        return False  # no longer what its sample asks for, or another answer to the same was read before
    spooled: list[SpoolFile] = []
    try:
        kept = load_answer(store.root, number)
        profile = catalogue.resolve(attempt.lane.split("/", 1)[1])
        with bugs_as_unreadable(ProviderError, UsageError):
            codec = provider_for(profile)
            reply = codec.read(kept.status, kept.headers, kept.envelope)
            if kept.facts["turn"]:
                save_turn(store, codec, number, kept.envelope, kept.files)
        if reply.links:
            for k, image in enumerate(reply.images):  # where `links.settle_downloaded` finds them
                _copy(store, number, k, image.data or kept.files[image.decoded or 0]).sync()
            ledger.links_recovered(number, reply, kept.facts)
            return True
        spooled += [_copy(store, number, k, path) for k, path in enumerate(kept.files)]
        settle(ledger, store, profile, number, sample_from_facts(attempt, kept.facts), reply, spooled, None,
               attempt.estimate_usd, batch=is_batch(attempt.lane))  # fmt: skip
    except (ProviderError, UsageError, OSError, ValueError, KeyError) as error:
        discard_files(spooled)
        if any(attempt.id == open_.id for open_ in ledger.reader.open_attempts()):
            reason = error.reason if isinstance(error, ProviderError) else "unreadable"
            words = str(error) if isinstance(error, BatchgenError) else repr(error)
            ledger.end_without_picture(attempt, "failed", reason, words)
        return False
    delete_answer(store.root, number)
    note(f"{attempt.item_id}: the kept answer of an earlier run could be read now; nothing was bought again")
    return True


def _copy(store: Store, attempt: int, k: int, picture: str | bytes) -> SpoolFile:
    """Into the spool, from where settling goes its usual way; what a crash left of an earlier copy makes room.

    picture: the path of its file, or its bytes.
    """
    store.remove_spooled(f"{attempt}.{k}")
    copy = store.spool_file(attempt, k)
    with io.BytesIO(picture) if isinstance(picture, bytes) else open(picture, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            copy.write(piece)
    return copy


def sample_from_facts(attempt: OpenAttempt, facts: Mapping[str, Any]) -> Sample:
    """As much of a sample as settling its answer needs. facts: as `request_facts` gave them."""
    item = Item(
        id=attempt.item_id,
        prompt="",
        model=facts["model"],
        provider="",
        filename=attempt.stem,
        aspect_ratio=facts["aspect_ratio"],
        image_size=facts["image_size"],
        on_mismatch=facts["on_mismatch"],
        modalities=tuple(facts.get("modalities", ())),  # these three are not in answers kept by earlier versions
        keep_thoughts=facts.get("keep_thoughts", False),
        service_tier=facts.get("service_tier"),
        turn=facts.get("turn", 0),
    )
    return Sample(item=item, n=attempt.n, fingerprint=attempt.fingerprint, wire="", images=attempt.images)
