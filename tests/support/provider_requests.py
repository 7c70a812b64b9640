"""Builds requests and compares them with those of the official SDKs."""

from __future__ import annotations

import json
import re

from batchgen.records import Inputs
from batchgen.testing.kit import FIELD_VALUES, PIXEL

__all__ = ["NONE", "PIXEL", "WORDS", "camel", "sent"]

NONE = Inputs()


def camel(value):
    """The SDKs mix both casings, the server takes both (ProtoJSON, protobuf.dev/programming-guides/json)."""
    if isinstance(value, dict):
        return {re.sub(r"_(\w)", lambda match: match[1].upper(), key): camel(entry) for key, entry in value.items()}
    return [camel(entry) for entry in value] if isinstance(value, list) else value


def sent(codec, sample, inputs=NONE):
    return json.loads(codec.build(sample, inputs).body)


# One value for each field that a profile may support, as codecs are given it.
WORDS = {name: tuple(value) if isinstance(value, list) else value for name, value in FIELD_VALUES.items()}
for _name in ("references", "mask", "extra"):
    del WORDS[_name]
