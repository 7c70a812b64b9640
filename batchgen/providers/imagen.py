"""The codec of Imagen's predict, which Google has shut down and emulators and gateways still support.

Sources: ai.google.dev/gemini-api/docs/imagen; requests as sent by google-genai 1.75.0.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import OnErrorOmit

from batchgen.errors import NoImage, Refused
from batchgen.providers.answer_body import AnswerModel, clean_line, decode_image
from batchgen.providers.gemini import GoogleCodec
from batchgen.providers.google_errors import error_in_success, parse_answer
from batchgen.providers.request_body import deep_merged, encode_body, given
from batchgen.records import Inputs, Item, Reply, Request, Response, Sample

ENCODED = frozenset(
    ("count", "aspect_ratio", "image_size", "person_generation", "output_format", "seed", "negative_prompt", "extra")
)


class Prediction(AnswerModel):
    bytes_base64_encoded: str | None = None
    mime_type: str | None = None
    rai_filtered_reason: str | None = None


class Answer(AnswerModel):
    predictions: list[OnErrorOmit[Prediction]] | None = None  # absent if all images were filtered
    error: Any = None


class Imagen(GoogleCodec):
    """The codec. Up to four samples per request; filtered ones are missing from the answer or have a reason."""

    name: ClassVar[str] = "imagen"
    method: ClassVar[str] = "predict"
    encoded: ClassVar[frozenset[str]] = ENCODED

    def build(self, sample: Sample, inputs: Inputs) -> Request:
        item = sample.item
        body: dict[str, Any] = {"instances": [{"prompt": item.prompt}], "parameters": _parameters(item, sample.images)}
        return self.post(encode_body(deep_merged(body, item.extra)), self.profile.time_limit(item.image_size))

    def read(self, response: Response) -> Reply:
        answer = parse_answer(Answer, response)
        if answer.error and not answer.predictions:
            raise error_in_success(answer.error, response)
        return _reply(answer, response.status)


def _parameters(item: Item, images: int) -> dict[str, Any]:
    """The parameters. sampleCount is always sent: without it, four images are made. includeRaiReason: otherwise
    filtered images are silently missing.

    seed and negativePrompt are Vertex's; the Gemini API refuses them, and its profiles say so.
    """
    parameters = {
        "sampleCount": images,
        "includeRaiReason": True,
        "aspectRatio": item.aspect_ratio,
        "sampleImageSize": item.image_size and item.image_size.upper(),  # not `imageSize`, as the guide's prose says
        "personGeneration": item.person_generation,
        "outputOptions": {"mimeType": f"image/{item.output_format}"} if item.output_format else None,
        "seed": item.seed,
        "negativePrompt": item.negative_prompt,
    }
    return given(parameters)


def _reply(answer: Answer, status: int) -> Reply:
    """One image per sample, in order. `{}` means that everything was filtered."""
    predictions = answer.predictions or []
    images = tuple(decode_image(p.bytes_base64_encoded, p.mime_type) for p in predictions if p.bytes_base64_encoded)
    filtered = tuple(clean_line(p.rai_filtered_reason) for p in predictions if p.rai_filtered_reason)
    if images:
        return Reply(images=images, filtered=filtered)
    if filtered or not predictions:
        words = "; ".join(dict.fromkeys(filtered)) or "every image was filtered"
        raise Refused(clean_line(words), reason="filtered", http_status=status)
    raise NoImage("the answer holds no image", http_status=status)
