"""Builds requests and compares them with those of the official SDKs."""

from __future__ import annotations

import json
import re

from batchgen.records import Inputs

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
NONE = Inputs()


def camel(value):
    """The SDKs mix both casings, the server takes both (ProtoJSON, protobuf.dev/programming-guides/json)."""
    if isinstance(value, dict):
        return {re.sub(r"_(\w)", lambda match: match[1].upper(), key): camel(entry) for key, entry in value.items()}
    return [camel(entry) for entry in value] if isinstance(value, list) else value


def sent(codec, sample, inputs=NONE):
    return json.loads(codec.build(sample, inputs).body)


WORDS = {  # one value for each field a profile may support
    "aspect_ratio": "4:3",
    "image_size": "2K",
    "quality": "low",
    "background": "opaque",
    "output_format": "jpeg",
    "modalities": ("text", "image"),
    "search": "web",
    "thinking": "high",
    "keep_thoughts": True,
    "media_resolution": "high",
    "service_tier": "flex",
    "seed": 3,
    "temperature": 0.5,
    "safety": {"HARM_CATEGORY_HARASSMENT": "OFF"},
    "person_generation": "allow_adult",
    "negative_prompt": "rain",
    "system": "You draw.",
}
