"""A running emulator, and a client for it."""

from __future__ import annotations

from tests.support.emulator import client, start

__all__ = ["client", "start"]
