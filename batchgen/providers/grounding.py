"""What a Google search found for a picture, from groundingMetadata: for people, with nothing in it that acts.

Sources: ai.google.dev/api/generate-content (GroundingMetadata, GroundingChunk, GroundingSupport); recorded answers. The
terms of Grounding with Google Search ask that the sources and the search suggestions are shown with the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from batchgen.providers.answer_body import clean
from batchgen.records import LIFTED

URI_CHARS = 4000
ENTRIES_MOST = 200


def sources(grounding: Mapping[str, Any]) -> dict[str, Any]:
    """Queries, sources and which words they support; empty when nothing was found. Keys are ours, text is cleaned."""
    found = {
        "queries": _texts(_of(grounding, "webSearchQueries")),
        "image_queries": _texts(_of(grounding, "imageSearchQueries")),
        "sources": [source for chunk in _dicts(_of(grounding, "groundingChunks")) for source in _source(chunk)],
        "supports": [_support(entry) for entry in _dicts(_of(grounding, "groundingSupports"))],
    }
    return {key: value for key, value in found.items() if value}


def query_count(grounding: Mapping[str, Any]) -> int:
    """How many searches the vendor made for an answer: each is billed (ai.google.dev/gemini-api/docs/pricing)."""
    lists = (_of(grounding, name) for name in ("webSearchQueries", "imageSearchQueries"))
    return sum(len([text for text in found if isinstance(text, str)]) for found in lists if isinstance(found, list))


def suggestions(grounding: Mapping[str, Any]) -> str:
    """The vendor's own markup of its search suggestions, as it came."""
    entry = _of(grounding, "searchEntryPoint")
    text = _of(entry, "renderedContent") if isinstance(entry, dict) else None
    return text if isinstance(text, str) and not text.startswith(LIFTED) else ""


def _source(chunk: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """One entry a chunk, even without a usable link: supports count them."""
    kind = next(
        (kind for kind in ("web", "image", "maps", "retrievedContext") if isinstance(chunk.get(kind), dict)), ""
    )
    inner = chunk.get(kind, {})
    facts = {
        "kind": clean(kind),
        "uri": _link(_of(inner, "uri") or _of(inner, "sourceUri")),
        "image_uri": _link(_of(inner, "imageUri")),
        "title": _text(_of(inner, "title")),
        "domain": _text(_of(inner, "domain")),
    }
    yield {key: value for key, value in facts.items() if value}


def _support(entry: Mapping[str, Any]) -> dict[str, Any]:
    segment = _of(entry, "segment")
    indices = _of(entry, "groundingChunkIndices")
    numbers = [n for n in indices if isinstance(n, int)][:ENTRIES_MOST] if isinstance(indices, list) else []
    return {"text": _text(_of(segment, "text")) if isinstance(segment, dict) else "", "sources": numbers}


def _of(value: Mapping[str, Any], name: str) -> Any:
    """By the camel-case name or its snake_case twin: ProtoJSON servers may answer with either."""
    return value.get(name, value.get("".join(f"_{c.lower()}" if c.isupper() else c for c in name)))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)][:ENTRIES_MOST] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [clean(text) for text in value if isinstance(text, str)][:ENTRIES_MOST] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return clean(value) if isinstance(value, str) else ""


def _link(value: Any) -> str:
    """A web address or nothing: what is kept may be put into a page by others."""
    text = clean(value, URI_CHARS) if isinstance(value, str) else ""
    return text if text.lower().startswith(("https://", "http://")) else ""
