"""Reads answers again that an earlier run paid for and could not read. A newer codec may be able to, and nothing is
bought."""

from __future__ import annotations

import io
from collections.abc import Callable

from batchgen.engine.answer import AnsweredAttempt, bugs_as_unreadable, read_reply
from batchgen.engine.settle import settle
from batchgen.errors import BatchgenError, ProviderError, UsageError
from batchgen.ledger.ledger import Ledger
from batchgen.ledger.reader import Reader
from batchgen.ledger.requests import OpenAttempt
from batchgen.profiles.catalogue import Catalogue
from batchgen.providers.registry import provider_for
from batchgen.records import HAS_IMAGE
from batchgen.store.spool import PIECE_BYTES, SpoolFile, discard_files
from batchgen.store.store import Store
from batchgen.store.unparsed import (
    delete_answer,
    finish_interrupted_saves,
    load_answer,
    unparsed_attempts,
    unparsed_bytes,
)


def read_kept_answers(ledger: Ledger, store: Store, catalogue: Catalogue, note: Callable[[str], None]) -> int:
    """Read kept answers again. Returns how many became images, or a link to download next. The others stay."""
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
    """Delete kept answers whose samples have images by now."""
    for number in unparsed_attempts(store.root):
        attempt = reader.attempt(number)
        if attempt is not None and all(made == attempt.fingerprint for _, made in _fingerprints(reader, attempt)):
            delete_answer(store.root, number)


def _fingerprints(reader: Reader, attempt: OpenAttempt) -> list[tuple[str, str | None]]:
    """Pairs of fingerprints, one for each sample of the request: the one that it wants, and its image's."""
    known_samples = reader.known_samples([attempt.item_id]).get(attempt.item_id, [])
    return [
        (entry.fingerprint, entry.made_fingerprint if entry.state in HAS_IMAGE else None)
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
        return False  # no longer what its sample asks for, or it has another answer's image
    spooled: list[SpoolFile] = []
    try:
        kept = load_answer(store.root, number)
        profile = catalogue.resolve(attempt.lane.split("/", 1)[1])
        with bugs_as_unreadable(ProviderError, UsageError):
            codec = provider_for(profile)
            reply = read_reply(store, codec, number, kept.response, turn=kept.facts["turn"], job=attempt.job)
        if reply.links:
            for k, image in enumerate(reply.images):  # where `links.settle_downloaded` finds them
                _copy(store, number, k, image.data or kept.response.files[image.decoded or 0]).sync()
            ledger.links_recovered(number, reply, kept.facts)
            return True
        spooled += [_copy(store, number, k, path) for k, path in enumerate(kept.response.files)]
        settle(ledger, store, AnsweredAttempt.from_record(attempt, profile, kept.facts), reply, spooled)
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
    """Copy an image into the spool, to be settled as usual, replacing what a crash left of an earlier copy.

    picture: the path of its file, or its bytes.
    """
    store.remove_spooled(f"{attempt}.{k}")
    copy = store.spool_file(attempt, k)
    with io.BytesIO(picture) if isinstance(picture, bytes) else open(picture, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            copy.write(piece)
    return copy
