"""What a Google search found for an image, from groundingMetadata: for people, with nothing in it that could act.

Sources: ai.google.dev/api/generate-content (GroundingMetadata, GroundingChunk, GroundingSupport); recorded answers. The
terms of Grounding with Google Search require that the sources and the search suggestions are shown with the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from batchgen.providers.answer_body import clean_line
from batchgen.records import DECODED_PREFIX

URI_CHARS = 4000
ENTRIES_MAX = 200


def search_sources(grounding: Mapping[str, Any]) -> dict[str, Any]:
    """The queries, the sources and which words they support; empty if nothing was found. Keys are batchgen's, text is
    sanitized."""
    found = {
        "queries": _texts(_get(grounding, "webSearchQueries")),
        "image_queries": _texts(_get(grounding, "imageSearchQueries")),
        "sources": [source for chunk in _dicts(_get(grounding, "groundingChunks")) for source in _source(chunk)],
        "supports": [_support(entry) for entry in _dicts(_get(grounding, "groundingSupports"))],
    }
    return {key: value for key, value in found.items() if value}


def query_count(grounding: Mapping[str, Any]) -> int:
    """The number of searches that the vendor made for an answer: each is billed
    (ai.google.dev/gemini-api/docs/pricing)."""
    lists = (_get(grounding, name) for name in ("webSearchQueries", "imageSearchQueries"))
    return sum(len([text for text in found if isinstance(text, str)]) for found in lists if isinstance(found, list))


def search_suggestions(grounding: Mapping[str, Any]) -> str:
    """The vendor's own markup of its search suggestions, unchanged."""
    entry = _get(grounding, "searchEntryPoint")
    text = _get(entry, "renderedContent") if isinstance(entry, dict) else None
    return text if isinstance(text, str) and not text.startswith(DECODED_PREFIX) else ""


def _source(chunk: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """One entry for each chunk, even without a usable link, because supports count them."""
    kind = next(
        (kind for kind in ("web", "image", "maps", "retrievedContext") if isinstance(chunk.get(kind), dict)), ""
    )
    inner = chunk.get(kind, {})
    facts = {
        "kind": clean_line(kind),
        "uri": _link(_get(inner, "uri") or _get(inner, "sourceUri")),
        "image_uri": _link(_get(inner, "imageUri")),
        "title": _text(_get(inner, "title")),
        "domain": _text(_get(inner, "domain")),
    }
    yield {key: value for key, value in facts.items() if value}


def _support(entry: Mapping[str, Any]) -> dict[str, Any]:
    segment = _get(entry, "segment")
    indices = _get(entry, "groundingChunkIndices")
    numbers = [n for n in indices if isinstance(n, int)][:ENTRIES_MAX] if isinstance(indices, list) else []
    return {"text": _text(_get(segment, "text")) if isinstance(segment, dict) else "", "sources": numbers}


def _get(value: Mapping[str, Any], name: str) -> Any:
    """A member by its camel-case name or the same in snake_case: ProtoJSON servers may answer with either."""
    return value[name] if name in value else value.get(_snake_case(name))


@cache
def _snake_case(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)][:ENTRIES_MAX] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return (
        [clean_line(text) for text in value if isinstance(text, str)][:ENTRIES_MAX] if isinstance(value, list) else []
    )


def _text(value: Any) -> str:
    return clean_line(value) if isinstance(value, str) else ""


def _link(value: Any) -> str:
    """A web address or nothing: others may put what is kept into a page."""
    text = clean_line(value, URI_CHARS) if isinstance(value, str) else ""
    return text if text.lower().startswith(("https://", "http://")) else ""
