"""What is kept of a search: what the vendor said, as plain text, and nothing of it that acts."""

from __future__ import annotations

import json

import pytest

from batchgen.providers.grounding import query_count, search_sources, search_suggestions

RECORDED = {
    "webSearchQueries": ["weather in Oslo"],
    "imageSearchQueries": ["oslo harbour"],
    "groundingChunks": [
        {"web": {"title": "met.no", "uri": "https://example.com/1"}},
        {"image": {"sourceUri": "https://example.com/2", "imageUri": "https://example.com/2.jpg", "domain": "e.com"}},
    ],
    "groundingSupports": [{"segment": {"text": "rain", "endIndex": 4}, "groundingChunkIndices": [0]}],
    "searchEntryPoint": {"renderedContent": "<div>Oslo</div>"},
}
KEPT = {
    "queries": ["weather in Oslo"],
    "image_queries": ["oslo harbour"],
    "sources": [
        {"kind": "web", "uri": "https://example.com/1", "title": "met.no"},
        {"kind": "image", "uri": "https://example.com/2", "image_uri": "https://example.com/2.jpg", "domain": "e.com"},
    ],
    "supports": [{"text": "rain", "sources": [0]}],
}


def snake(value):
    names = {"webSearchQueries": "web_search_queries", "groundingChunks": "grounding_chunks", "sourceUri": "source_uri",
             "imageSearchQueries": "image_search_queries", "imageUri": "image_uri", "groundingSupports": "grounding_supports",
             "groundingChunkIndices": "grounding_chunk_indices"}  # fmt: skip
    if isinstance(value, dict):
        return {names.get(key, key): snake(inner) for key, inner in value.items()}
    return [snake(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("grounding", [RECORDED, snake(RECORDED)], ids=["camel", "snake"])
def test_queries_sources_and_what_they_support_are_kept(grounding):
    assert search_sources(grounding) == KEPT


@pytest.mark.parametrize("grounding", [RECORDED, snake(RECORDED)], ids=["camel", "snake"])
def test_queries_of_both_kinds_are_counted(grounding):
    assert query_count(grounding) == 2


def test_all_queries_are_counted_however_few_are_kept():
    assert query_count({"webSearchQueries": [f"q{n}" for n in range(500)]}) == 500


def test_the_suggestions_are_kept_as_they_came():
    assert search_suggestions(RECORDED) == "<div>Oslo</div>"


def test_a_link_that_is_no_web_address_is_dropped_and_the_count_of_sources_stays():
    chunks = [{"web": {"uri": "javascript:alert(1)", "title": "x"}}, {"web": {"uri": "https://example.com"}}]
    kept = search_sources({"groundingChunks": chunks})["sources"]
    assert kept == [{"kind": "web", "title": "x"}, {"kind": "web", "uri": "https://example.com"}]


def test_control_and_bidi_characters_are_taken_out():
    kept = json.dumps(search_sources({"webSearchQueries": ["a\x1b[31m\u202eb"]}), ensure_ascii=False)
    assert "\x1b" not in kept and "\u202e" not in kept


@pytest.mark.parametrize(
    "grounding",
    [{}, {"groundingChunks": None}, {"groundingChunks": ["x", 3]}, {"searchEntryPoint": "x"}, {"webSearchQueries": {}},
     {"groundingSupports": [{"segment": 3, "groundingChunkIndices": "x"}]}, {"groundingChunks": [{"web": None}]},
     {"searchEntryPoint": {"renderedContent": 3}}],
)  # fmt: skip
def test_nothing_odd_in_it_can_raise(grounding):
    search_sources(grounding)
    assert search_suggestions(grounding) == ""
    assert query_count(grounding) == 0
