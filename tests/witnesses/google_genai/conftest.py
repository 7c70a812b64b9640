"""A running emulator."""

from __future__ import annotations

from tests.support.emulator import start

__all__ = ["start"]
