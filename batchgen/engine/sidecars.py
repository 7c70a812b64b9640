"""What is kept beside a picture: the model's text and thoughts, the sources of a search. Pure: contents by file ending."""

from __future__ import annotations

import json

from batchgen.providers.grounding import search_sources, search_suggestions
from batchgen.records import SIDECARS, Item, Reply

TEXT, THOUGHTS, SOURCES, SEARCH = SIDECARS


def sidecar_texts(item: Item, reply: Reply) -> dict[str, str]:
    """Of an answer with a picture. Text and thoughts only when they were asked for."""
    found = search_sources(reply.grounding)
    contents = {
        TEXT: f"{reply.text}\n" if reply.text and "text" in item.modalities else "",
        THOUGHTS: f"{reply.thoughts}\n" if reply.thoughts and item.keep_thoughts else "",
        SOURCES: json.dumps(found, ensure_ascii=False, indent=1) + "\n" if found else "",
        SEARCH: search_suggestions(reply.grounding),
    }
    return {ending: text for ending, text in contents.items() if text}
