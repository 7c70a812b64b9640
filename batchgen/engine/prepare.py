"""A sample becomes a request, for whichever engine sends it: what it says after earlier tries, its pictures, its conversation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from batchgen.engine.reference_inputs import Enclosures
from batchgen.engine.routes import Route
from batchgen.errors import BadRequest, BatchgenError, ProviderError, UsageError
from batchgen.os_errors import refusal
from batchgen.providers.contract import Conversing
from batchgen.records import Inputs, Request, Sample
from batchgen.scheduling.retry import Tries


@dataclass(slots=True)
class Prepared:
    """A request that may be sent, and what it encloses."""

    inputs: Inputs
    request: Request

    def take(self) -> Request:
        """The request, which is held no longer: it may be large."""
        request = self.request
        del self.request
        return request


async def prepare(sample: Sample, route: Route, enclosures: Enclosures) -> Prepared:
    """sample: as it is asked for. Raises ProviderError when there is nothing to send, for a bug of the codec too;
    CancelledError when the run stops preparing; StoreError when the disk refuses."""
    try:
        if sample.item.turn and not isinstance(route.codec, Conversing):
            raise BadRequest(f"{route.profile.provider} has no conversations", reason="no_conversations")
        inputs = await enclosures.inputs(sample, route)
        return Prepared(inputs, route.codec.build(sample, inputs))
    except ProviderError:
        raise
    except (OSError, UsageError) as error:
        raise BadRequest(f"a reference can no longer be read: {error}", reason="reference_gone") from error
    except BatchgenError:
        raise
    except Exception as error:
        why = refusal(error) or "a bug of batchgen or of its codec"
        message = f"{type(error).__name__} in writing the request: {why}"
        raise BadRequest(message) from error


def as_sent(wished: Sample, sample: Sample, tries: Tries) -> tuple[Sample, str]:
    """The sample as it is asked for after what was tried, and in words how that departs from what was wished. Pure."""
    words = []
    if sample.item.service_tier != wished.item.service_tier:
        words.append(f"service tier {sample.item.service_tier}, for {wished.item.service_tier} was refused")
    suffix = sample.item.no_image_suffix
    if suffix and tries.spent.get("no_image"):
        words.append("prompt with no_image_suffix")
        sample = replace(sample, item=replace(sample.item, prompt=f"{sample.item.prompt} {suffix}"))
    return sample, "; ".join(words)
