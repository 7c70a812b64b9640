"""What every codec of an image API offers. Third parties register theirs under the entry point `batchgen.providers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from batchgen.profiles.profile import Profile
from batchgen.records import Inputs, Reply, Request, Sample

if TYPE_CHECKING:
    from batchgen.providers.gemini_batch import GeminiBatch
    from batchgen.providers.gemini_files import GeminiFiles


class Provider(Protocol):
    """A pure codec: no I/O, no clock, no state beyond the profile it was made for."""

    name: ClassVar[str]

    def __init__(self, profile: Profile) -> None: ...

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        """The request for a sample, without credentials. Raises BadRequest when it cannot be written at all."""
        ...

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """The usable answer in a response of any status, or the ProviderError it amounts to; no other exception."""
        ...

    @staticmethod
    def auth_header(key: str) -> tuple[str, str]:
        """Name and value of the one header that carries the key; it never stands in a URL."""
        ...


@runtime_checkable
class SupportsConversations(Provider, Protocol):
    """A codec of an API that has conversations: it builds their later turns from `Inputs.turns`."""

    @staticmethod
    def turn(envelope: bytes) -> Mapping[str, Any]:
        """What the model said, exactly, to be sent back in the next turn. envelope: of an answer that `read` took."""
        ...


@runtime_checkable
class SupportsLinks(Provider, Protocol):
    """A codec of an API that fetches references from their links itself."""

    takes_links: ClassVar[bool]


@runtime_checkable
class SupportsUploads(Provider, Protocol):
    """A codec of an API with a store for files too large to send along."""

    files: GeminiFiles


@runtime_checkable
class SupportsBatches(SupportsUploads, Protocol):
    """A codec of an API that takes many requests as one file and answers them later, for less."""

    batch: GeminiBatch
