"""Links for clients: which clients may look at one job's images and vote on them, until when, and what they see: images
that count and their own words; no prices, settings, faults or other people. A link's token is stored as a hash."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from batchgen.errors import UsageError
from batchgen.ledger.reviews import clean_name
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.report.gallery_data import PageView, SamplesView, SampleView
from batchgen.report.picture_views import PictureView
from batchgen.safe_open import PRIVATE_MODE, private_opener
from batchgen.store.spool import disk_error, sync_folder

FILE_NAME = "clients.json"
LOCK_TIMEOUT_S = 10.0
PARAMETER = "client"  # of the address
S = TypeVar("S", bound=SamplesView)


@dataclass(frozen=True, slots=True)
class Client:
    """A client. token_sha256: of a token of 256 random bits, which cannot be recovered from it. Times are UTC
    seconds."""

    name: str
    token_sha256: str
    made_at: float
    expires_at: float

    def is_over(self, now: float) -> bool:
        return now >= self.expires_at


def read_clients(folder: Path) -> list[Client]:
    """The clients of a job, by name, including those whose links have expired. A file that cannot be read lets nobody
    in."""
    try:
        found = json.loads((folder / STATE_FOLDER / FILE_NAME).read_bytes())
        return sorted((Client(**each) for each in found["clients"]), key=lambda client: client.name)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def find_client(folder: Path, token: str, now: float) -> Client | None:
    """The client whose link it is; None if there is none, or if the link was revoked or has expired."""
    digest = _digest(token)
    known = [each for each in read_clients(folder) if hmac.compare_digest(each.token_sha256, digest)]
    return next((each for each in known if not each.is_over(now)), None)


def add_client(folder: Path, name: str, duration_s: float) -> str:
    """The token of a new link, which replaces an earlier one of the same name. Raises UsageError, StoreError."""
    try:
        name = clean_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    token, now = secrets.token_urlsafe(32), time.time()
    with _changing(folder) as clients:
        clients[:] = [each for each in clients if each.name != name]
        clients.append(Client(name, _digest(token), now, now + duration_s))
    return token


def revoke_client(folder: Path, name: str) -> None:
    """Revoke a link: from now on it opens nothing. Raises UsageError if there is none of that name, StoreError."""
    with _changing(folder) as clients:
        left = [each for each in clients if each.name != name]
        if len(left) == len(clients):
            names = ", ".join(each.name for each in clients) or "none"
            raise UsageError(f"there is no link for {name}; there are: {names}")
        clients[:] = left


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[list[Client]]:
    """The clients, which are written back if changed; the file is whole before it has its name."""
    from filelock import FileLock  # it brings asyncio, which reading does not need

    path = folder / STATE_FOLDER / FILE_NAME
    try:
        with FileLock(f"{path}.lock", mode=PRIVATE_MODE, timeout=LOCK_TIMEOUT_S):
            clients = read_clients(folder)
            yield clients
            new = path.with_name(f"{FILE_NAME}.new")
            new.unlink(missing_ok=True)
            with open(new, "x", encoding="utf-8", opener=private_opener) as file:
                file.write(json.dumps({"clients": [asdict(each) for each in clients]}, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
            sync_folder(str(path.parent))
    except OSError as error:
        raise disk_error(error, str(path)) from error


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def visible_picture(sample: SampleView, client: str) -> PictureView | None:
    """The image of a sample that a client may see: one that counts, or that only this client has rejected."""
    picture = next((each for each in sample.pictures if each.kind == "image"), None)
    if picture is None or sample.state not in ("succeeded", "rejected"):
        return None
    rulings = [each for each in picture.verdicts if each.by == "person" and each.ruling in ("accept", "reject")]
    if sample.state == "rejected" and not (rulings and rulings[-1].name == client):
        return None
    own = tuple(each for each in picture.verdicts if (each.by, each.name) == ("person", client))
    return replace(picture, flags=(), verdicts=own)


def for_client(view: S, client: str) -> S:
    """A page of a job, or the changes on it, for a client. Changed samples that the client may not see are sent without
    their image, so that a page that has it removes it."""
    whole = isinstance(view, PageView)
    samples = [_sample(each, client) for each in view.samples if not whole or visible_picture(each, client)]
    less = replace(view, manifest="", wanted=0, settings=(), providers={}, accepted="", samples=samples)
    if isinstance(less, PageView):
        less = replace(less, beside=None, conversations={}, post=None, references={}, nights=(), compared=())
    return less


def _sample(sample: SampleView, client: str) -> SampleView:
    picture = visible_picture(sample, client)
    return SampleView(
        id=sample.id,
        n=sample.n,
        place=sample.place,
        state="superseded" if picture is None else sample.state,
        model="",
        prompt="" if picture is None else sample.prompt,
        settings=0,
        at=sample.at,
        tags=() if picture is None else sample.tags,
        pictures=() if picture is None else (picture,),
    )


def visible_numbers(samples: Iterable[SampleView], client: str) -> frozenset[str]:
    """The numbers by which a client's page requests the images that the client may see."""
    found = (visible_picture(sample, client) for sample in samples)
    return frozenset(str(picture.thumbnail).partition("?")[0] for picture in found if picture is not None)
