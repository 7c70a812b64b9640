"""A running emulator."""

from __future__ import annotations

from tests.support.emulator import client, start

__all__ = ["client", "start"]
