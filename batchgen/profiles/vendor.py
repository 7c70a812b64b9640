"""Where each provider is reached by default, and whether a base URL is the vendor's own."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

PROVIDER_BASE_URLS: Mapping[str, str] = {
    "gemini": "https://generativelanguage.googleapis.com",
    "imagen": "https://generativelanguage.googleapis.com",
    "aimlapi": "https://api.aimlapi.com",
}


def is_vendor_url(provider: str, base_url: str | None) -> bool:
    """Whether requests reach the vendor itself; an emulator or gateway may still serve what the vendor retired."""
    own = PROVIDER_BASE_URLS.get(provider)
    if not base_url or own is None:
        return own is not None
    return urlsplit(base_url).hostname == urlsplit(own).hostname
