"""Links for clients: who of them may look at one job's images and vote on them, and until when. A link's token is kept as a hash."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from batchgen.errors import UsageError
from batchgen.ledger.reviews import clean_name
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.safe_open import PRIVATE_MODE, private_opener
from batchgen.store.spool import disk_error, sync_folder

FILE_NAME = "clients.json"
LOCK_TIMEOUT_S = 10.0
PARAMETER = "client"  # of the address


@dataclass(frozen=True, slots=True)
class Client:
    """token_sha256: of a token of 256 random bits, which nobody can find again from it. Times are UTC seconds."""

    name: str
    token_sha256: str
    made_at: float
    expires_at: float

    def is_over(self, now: float) -> bool:
        return now >= self.expires_at


def read_clients(folder: Path) -> list[Client]:
    """Those of a job, by name, links that have expired included. A file that cannot be read lets nobody in."""
    try:
        found = json.loads((folder / STATE_FOLDER / FILE_NAME).read_bytes())
        return sorted((Client(**each) for each in found["clients"]), key=lambda client: client.name)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def find_client(folder: Path, token: str, now: float) -> Client | None:
    """Whose link it is; None for nobody's, and for one that was revoked or has expired."""
    digest = _digest(token)
    known = [each for each in read_clients(folder) if hmac.compare_digest(each.token_sha256, digest)]
    return next((each for each in known if not each.is_over(now)), None)


def add_client(folder: Path, name: str, duration_s: float) -> str:
    """The token of a new link, in place of an earlier one of the same name. Raises UsageError, StoreError."""
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
    """From now on the link opens nothing. Raises UsageError when there is none of that name, StoreError."""
    with _changing(folder) as clients:
        left = [each for each in clients if each.name != name]
        if len(left) == len(clients):
            names = ", ".join(each.name for each in clients) or "none"
            raise UsageError(f"there is no link for {name}; there are: {names}")
        clients[:] = left


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[list[Client]]:
    """The clients, written back when they were changed; whole before the file has its name."""
    from filelock import FileLock  # it brings asyncio, which a look at the list does not need

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
