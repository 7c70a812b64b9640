"""What can go wrong on request: fault names, markers in prompts, and the draw by rate."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

ERRORS = frozenset(
    {"429", "429day", "429limit0", "429spend", "429bare", "500", "503", "504", "408", "credits", "maintenance"}
)  # an error body in the API's own form
WIRE = frozenset({"502html", "html200", "truncated_json", "reset", "reset_early", "hang", "slow_drip"})
REFUSALS = frozenset(
    {
        "safety", "image_safety", "prohibited", "block", "no_image", "image_other",
        "text_only", "empty", "max_tokens", "missing_signature", "rai_filtered", "rai_all",
    }
)  # status 200, fewer or no pictures  # fmt: skip
PICTURES = frozenset({"bad_base64", "half_image", "many_images", "thought_images", "mislabelled", "wrong_size"})
LINKS = frozenset({"link404", "link_slow", "201", "b64"})
SHAPES = frozenset({"data_shape", "images_shape", "tokens_used"})  # variants of AIML's answers; nothing fails
LINES = frozenset(
    {"line_missing", "line_doubled", "line_unknown_key", "line_crossed", "line_cut", "line_keyless"}
)  # of a batch's results; online they do nothing
KNOWN = ERRORS | WIRE | REFUSALS | PICTURES | LINKS | SHAPES | LINES

_MARKER = re.compile(r"\[\[fault:([^\]*\s]+)(?:\*(\d+))?\]\]")
_FOR_EVER = 1 << 30


def markers(prompt: str) -> list[tuple[str, int]]:
    """(fault, how many attempts it lasts) in the order of the prompt: `[[fault:503*2]]` lasts two attempts."""
    return [(name, int(times) if times else _FOR_EVER) for name, times in _MARKER.findall(prompt)]


def without_markers(prompt: str) -> str:
    return _MARKER.sub("", prompt).strip()


def fault_for(prompt: str, attempt: int, rates: Mapping[str, float], draw: random.Random) -> str | None:
    """The fault of this attempt, counted from 1. Markers follow one another: `503*1` then `reset*1` then an answer.

    A link's fault does not count attempts of the request: its number is how often the link fails. Nor does a shape.
    """
    past = 0
    for name, times in markers(prompt):
        if name in LINKS | SHAPES:
            return name
        past += times
        if attempt <= past:
            return name
    mark = draw.random()
    for name, rate in rates.items():
        mark -= rate
        if mark < 0:
            return name
    return None


def link_failures(prompt: str) -> int:
    """How often a link of this prompt's pictures answers 404 before it serves them."""
    return next((times for name, times in markers(prompt) if name == "link404"), _FOR_EVER)
