"""Where an API is reached and which variables of the environment say so: what its codec declares, and settings read."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One API and the account that a key opens there; providers of the same account share their endpoint.

    base_url: the vendor's own, None when only the environment knows one. key_names and base_url_names: variables, the one
    that wins first. A base URL's variable ends in _BASE_URL, by which one in a folder's `.env` is recognised.
    """

    name: str
    key_names: tuple[str, ...]
    base_url_names: tuple[str, ...]
    base_url: str | None = None

    @classmethod
    def named(cls, name: str, base_url: str | None = None) -> Endpoint:
        """With the usual variables: NAME_API_KEY and BATCHGEN_NAME_BASE_URL."""
        prefix = name.upper().replace("-", "_")
        return cls(
            name=name,
            key_names=(f"{prefix}_API_KEY",),
            base_url_names=(f"BATCHGEN_{prefix}_BASE_URL",),
            base_url=base_url,
        )

    def __post_init__(self) -> None:
        if wrong := [name for name in self.base_url_names if not name.endswith("_BASE_URL")]:
            raise ValueError(f"{self.name}: the variable {wrong[0]} of a base URL must end in _BASE_URL")

    def is_vendor_url(self, base_url: str | None) -> bool:
        """Whether requests reach the vendor itself; an emulator or gateway may still serve what the vendor retired."""
        if not base_url or self.base_url is None:
            return self.base_url is not None
        return urlsplit(base_url).hostname == urlsplit(self.base_url).hostname
