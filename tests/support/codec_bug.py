"""Gives a codec a bug that spoils its first answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from batchgen.records import Reply

Read = Callable[[Any, int, Mapping[str, str], bytes], Reply]


def plant(monkeypatch: pytest.MonkeyPatch, codec: type[Any], times: int, error: Exception) -> None:
    """The first `times` answers of a codec meet a bug."""
    real: Read = codec.read
    left = [times]

    def read(self: Any, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        if status == 200 and left[0] > 0:
            left[0] -= 1
            raise error
        return real(self, status, headers, body)

    monkeypatch.setattr(codec, "read", read)
