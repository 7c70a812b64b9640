"""Whose key a request has: what every vendor with a key in `Authorization` answers to none, a wrong one and one without credit."""

from __future__ import annotations

import pytest

IMAGES, FLUX = "/v1/images/generations", "black-forest-labs/flux-dev"
VENDORS = {  # path, body, scheme, and the status without credit
    "aiml": (IMAGES, {"model": "google/nano-banana-2", "prompt": "a fox"}, "Bearer", 403),
    "openai": (IMAGES, {"model": "gpt-image-2", "prompt": "a fox"}, "Bearer", 429),
    "fal": ("/fal-ai/flux/dev", {"prompt": "a fox"}, "Key", 403),
    "replicate": (f"/v1/models/{FLUX}/predictions", {"input": {"prompt": "a fox"}}, "Token", 402),
}


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("sent", ["", "{scheme}", "{scheme} bad-1", "Basic k", "Basic nocredits"])
async def test_a_key_that_is_none_or_wrong_is_a_401_and_nothing_is_billed(start, client, vendor, sent):
    path, body, scheme, _ = VENDORS[vendor]
    emulator = await start()
    status, _ = await client.post(emulator.base_url + path, body, Authorization=sent.format(scheme=scheme))
    assert (status, emulator.stats.billed) == (401, 0)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_key_without_credit_is_refused_as_its_vendor_says(start, client, vendor):
    path, body, scheme, expected = VENDORS[vendor]
    emulator = await start()
    status, _ = await client.post(emulator.base_url + path, body, Authorization=f"{scheme} nocredits-1")
    assert (status, emulator.stats.billed) == (expected, 0)


@pytest.mark.parametrize(("scheme", "other"), [("Key", "Key "), ("Token", "Bearer  ")])
async def test_a_job_is_its_keys_however_that_is_sent(start, client, scheme, other):
    """RFC 9110, 11.4: any number of spaces may stand between a scheme and a key."""
    emulator = await start()
    path, body, *_ = VENDORS["fal" if scheme == "Key" else "replicate"]
    _, taken = await client.post(emulator.base_url + path, body, Authorization=f"{scheme} k")
    where = taken.get("status_url") or taken["urls"]["get"]
    assert (await client.get(where, Authorization=f"{other} k"))[0] == 200
    assert (await client.get(where, Authorization=f"{scheme} l"))[0] == 404
