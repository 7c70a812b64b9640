"""Whose quota and whose bill a request counts against, and what binds its lane beside requests per minute."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from urllib.parse import urlsplit

from batchgen.scheduling.window import Budget


def quota_key(provider: str, base_url: str, secret: str, model: str) -> str:
    """Whose quota it is: the same key of the same server and AI model. Holds a short hash of the key, never the key."""
    digest = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return f"{provider}|{urlsplit(base_url).netloc}|{digest}|{model}"


def account_key(base_url: str, secret: str) -> str:
    """Whose bill it is: the same key of the same server."""
    return "|".join(quota_key("", base_url, secret, "").split("|")[1:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """What binds the starts of a lane beside its requests per minute. usd_per_10_min: of the account."""

    job: str = ""
    account: str = ""
    spend_scope: str = ""
    rpd: int | None = None
    usd_per_10_min: float | None = None
    budgets: tuple[Budget, ...] = ()
    worker: str = ""

    @property
    def has_limits(self) -> bool:
        """Whether more than its requests per minute has to be asked for each start."""
        return self.rpd is not None or self.usd_per_10_min is not None or bool(self.budgets)
