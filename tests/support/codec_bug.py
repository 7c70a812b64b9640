"""Gives a codec a bug that spoils its first answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batchgen.records import Reply, Response

Read = Callable[[Any, Response], Reply]


def plant(monkeypatch: pytest.MonkeyPatch, codec: type[Any], times: int, error: Exception) -> None:
    """The first `times` answers of a codec meet a bug."""
    real: Read = codec.read
    left = [times]

    def read(self: Any, response: Response) -> Reply:
        if response.status == 200 and left[0] > 0:
            left[0] -= 1
            raise error
        return real(self, response)

    monkeypatch.setattr(codec, "read", read)
