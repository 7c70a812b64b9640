"""What is the same for every command of one invocation: its two streams, what must never be shown, how it answers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from batchgen.report.screen import Screen
from batchgen.settings import environment

if TYPE_CHECKING:
    from batchgen.settings import Settings

SECRET_MIN = 6  # shorter values would blacken ordinary words


@dataclass
class Invocation:
    """json: the answer is one object on stdout, an error included. secrets: values that no output may hold.

    later_ok: an end that only means "run again later" leaves with 0.
    """

    json: bool = False
    later_ok: bool = False
    secrets: set[str] = field(default_factory=set)

    @cached_property
    def out(self) -> Screen:
        """stdout: data."""
        return Screen(sys.stdout, secrets=self.secrets)

    @cached_property
    def err(self) -> Screen:
        """stderr: everything else."""
        return Screen(sys.stderr, secrets=self.secrets)

    def keep_secret(self, settings: Settings) -> None:
        """From here on no output shows a key of these settings, whoever quotes it. Raises SettingsError on a bad key file."""
        found = keys_in(settings.values)
        for provider in ("gemini", "aimlapi"):
            key, _ = settings.key(provider)
            if key is not None:
                found.add(key.secret.reveal())
        self.hide(found)

    def hide(self, values: Iterable[str]) -> None:
        """From here on no output shows these."""
        self.secrets |= set(values)
        self.out.secrets = self.err.secrets = tuple(sorted(self.secrets, key=len, reverse=True))


def keys_in(values: Mapping[str, str]) -> set[str]:
    """Values of variables that are named like keys."""
    return {
        value.strip()
        for name, value in values.items()
        if name.endswith("_API_KEY") and len(value.strip()) >= SECRET_MIN
    }


def started() -> Invocation:
    """With the keys of the process's own environment hidden from the first line on."""
    return Invocation(secrets=keys_in(environment()))
