"""Which samples go by batch and how many together: pure rules."""

from __future__ import annotations

import pytest

from batchgen.planning.batchable import (
    MAX_POLL_S,
    ChunkLimits,
    ChunkSize,
    batch_lane,
    estimate_prompt_tokens,
    estimate_result_bytes,
    is_batch,
    online_lane,
    online_only_reason,
    poll_delay_s,
)
from batchgen.planning.reason import reason_text
from batchgen.profiles.catalogue import load_catalogue
from batchgen.records import Item, Sample
from batchgen.scheduling.fallback import sample_for_lane

PROFILE = load_catalogue().resolve("gemini-nano-banana-2.1")


def sample(**facts: object) -> Sample:
    fields = {"id": "a", "prompt": "a fox", "model": "m", "provider": "gemini", "filename": "a", **facts}
    return Sample(item=Item(**fields), n=1, fingerprint="f", wire="{}")  # type: ignore[arg-type]


def test_a_batch_has_a_lane_of_its_own_and_its_samples_keep_their_model():
    lane = batch_lane("gemini", "m")
    assert (is_batch(lane), is_batch("gemini/m"), online_lane(lane), online_lane("gemini/m")) == (
        True,
        False,
        "gemini/m",
        "gemini/m",
    )
    assert sample_for_lane(sample(), lane) == sample()
    assert sample_for_lane(sample(), batch_lane("gemini", "other")).item.model == "other"


@pytest.mark.parametrize(
    ("facts", "has_batch", "batch_mode", "awaited", "why"),
    [
        ({}, True, "batch", (), None),
        ({}, True, "auto", (), None),
        ({}, False, "auto", (), "has no batch API"),
        ({"turn": 1}, True, "batch", (), None),
        ({"turn": 2}, True, "batch", ("a-t1",), "a turn after the first"),
        ({"service_tier": "standard"}, True, "batch", (), None),
        ({"service_tier": "flex"}, True, "batch", (), "no service tier flex"),
        ({"references": ("@b",)}, True, "batch", ("b",), None),
        ({"references": ("@b",)}, True, "auto", ("b",), "needs @b"),
        ({"references": ("@b",)}, True, "auto", (), None),
    ],
)
def test_what_goes_online_has_a_reason(facts, has_batch, batch_mode, awaited, why):
    found = online_only_reason(sample(**facts).item, has_batch, batch_mode, awaited)
    assert (found is None) if why is None else (found is not None and why in reason_text(found))


def test_a_chunk_ends_at_the_first_limit_that_it_meets():
    def held(limits: ChunkLimits, most: int = 50) -> int:
        load = ChunkSize()
        return sum(load.add_if_fits(sample(), PROFILE, limits) for _ in range(most))

    each, words = estimate_result_bytes(sample(), PROFILE), estimate_prompt_tokens(sample(), PROFILE)
    assert held(ChunkLimits(requests=7)) == 7
    assert held(ChunkLimits(result_bytes=each * 5 + 1)) == 5
    assert held(ChunkLimits(tokens=words * 3 + words // 2)) == 3
    assert held(ChunkLimits(result_bytes=1, tokens=1), most=1) == 1  # else it would never be sent


def test_what_is_sent_along_counts_as_tokens():
    assert (
        estimate_prompt_tokens(sample(references=("x.png",)), PROFILE) - estimate_prompt_tokens(sample(), PROFILE)
        == 1120
    )
    assert estimate_prompt_tokens(sample(system="12345", history=("1234",)), PROFILE) > estimate_prompt_tokens(
        sample(), PROFILE
    )


def test_looks_become_rarer_to_a_limit():
    waits = [poll_delay_s(looks) for looks in range(40)]
    assert waits == sorted(waits) and waits[0] == 5.0 and waits[-1] == MAX_POLL_S
