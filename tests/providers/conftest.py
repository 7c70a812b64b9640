"""Samples to build requests from, and answers as the vendors document them or people recorded them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.profiles.catalogue import load_catalogue
from batchgen.providers.contract import Provider
from batchgen.providers.registry import provider_for
from batchgen.records import Item, Sample
from tests.support.packages import forget

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _installed_anew() -> Iterator[None]:
    """What a test installs is gone with it: entry points are read once in a process."""
    forget()
    yield
    forget()


@pytest.fixture(scope="session")
def sample_of() -> Callable[..., Sample]:
    """A sample of an item with these fields."""

    def make(images: int = 1, **fields: Any) -> Sample:
        facts = {"id": "a", "prompt": "a fox", "model": "m", "provider": "p", "filename": "a", **fields}
        return Sample(item=Item(**facts), n=1, fingerprint="f", wire="{}", images=images)

    return make


@pytest.fixture(scope="session")
def codec() -> Callable[..., Provider]:
    """The codec of a model of the catalogue, by id or alias."""

    def make(model: str, **facts: Any) -> Provider:
        catalogue = load_catalogue().with_overrides({model: facts} if facts else {})
        return provider_for(catalogue.resolve(model))

    return make


@pytest.fixture(scope="session")
def answer() -> Callable[[str], bytes]:
    """A recorded or documented body."""
    return lambda name: (HERE / "answers" / name).read_bytes()


@pytest.fixture(scope="session")
def captured() -> Callable[[str], dict[str, Any]]:
    """A request captured from an official SDK."""
    return lambda name: json.loads((HERE / "captured" / f"{name}.json").read_text())
