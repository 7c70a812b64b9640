"""A sample becomes a request, for whichever engine sends it: what it says after earlier tries, its pictures, its conversation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from batchgen.engine.reference_inputs import ReferenceInputs
from batchgen.engine.routes import Route
from batchgen.errors import BadRequest, BatchgenError, ProviderError, UsageError
from batchgen.os_errors import machine_refusal
from batchgen.providers.contract import SupportsConversations
from batchgen.records import Inputs, Request, Sample
from batchgen.scheduling.retry import RetryState


@dataclass(slots=True)
class PreparedRequest:
    """A request that may be sent, and what it encloses."""

    inputs: Inputs
    request: Request

    def take(self) -> Request:
        """The request, which is held no longer: it may be large."""
        request = self.request
        del self.request
        return request


async def prepare(sample: Sample, route: Route, reference_inputs: ReferenceInputs) -> PreparedRequest:
    """sample: as it is asked for. Raises ProviderError when there is nothing to send, for a bug of the codec too;
    CancelledError when the run stops preparing; StoreError when the disk refuses."""
    try:
        if sample.item.turn and not isinstance(route.codec, SupportsConversations):
            raise BadRequest(f"{route.profile.provider} has no conversations", reason="no_conversations")
        inputs = await reference_inputs.inputs(sample, route)
        return PreparedRequest(inputs, route.codec.build(sample, inputs))
    except ProviderError:
        raise
    except (OSError, UsageError) as error:
        raise BadRequest(f"a reference can no longer be read: {error}", reason="reference_gone") from error
    except BatchgenError:
        raise
    except Exception as error:
        why = machine_refusal(error) or "a bug of batchgen or of its codec"
        message = f"{type(error).__name__} in writing the request: {why}"
        raise BadRequest(message) from error


def adjust_after_tries(original: Sample, sample: Sample, retry_state: RetryState) -> tuple[Sample, str]:
    """The sample as it is asked for after what was tried, and in words how that departs from what was wished. Pure."""
    words = []
    if sample.item.service_tier != original.item.service_tier:
        words.append(f"service tier {sample.item.service_tier}, for {original.item.service_tier} was refused")
    suffix = sample.item.no_image_suffix
    if suffix and retry_state.spent.get("no_image"):
        words.append("prompt with no_image_suffix")
        sample = replace(sample, item=replace(sample.item, prompt=f"{sample.item.prompt} {suffix}"))
    return sample, "; ".join(words)
