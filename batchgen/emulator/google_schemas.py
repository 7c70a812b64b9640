"""The requests Google's servers take, field by field, and proto3 JSON read as they read it.

Both casings are accepted, unknown names are refused, and violations are reported in the servers' wording.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from batchgen.emulator.models import FOURTEEN


@dataclass(frozen=True, slots=True)
class Scalar:
    """One type. type_name: as the error text spells it. parse: raises ValueError or TypeError for a wrong value."""

    type_name: str
    parse: Callable[[Any], Any]


# A schema is a scalar, a message (its lowerCamelCase names and their schemas; the proto's own snake_case names are accepted
# for each), a list of one schema, or None: free-form JSON, and messages whose inside does not matter here.
Schema = Scalar | dict[str, Any] | list[Any] | None


Violation = dict[str, str]  # one entry of google.rpc.BadRequest.fieldViolations; without `field` for the top level


def violation(field: str, description: str) -> Violation:
    return {"field": field, "description": description} if field else {"description": description}


@lru_cache(maxsize=1024)
def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", lambda found: "_" + found.group(1).lower(), name)


def read(schema: Schema, value: Any, path: str, violations: list[Violation]) -> Any:
    """Read a value into lowerCamelCase names and decoded base64, appending what is wrong to `violations`.

    Source: protobuf.dev/programming-guides/json: parsers accept both casings; null means not set. A single value where
    a list belongs is taken as a list of one, as ai.google.dev's own curl examples rely on.
    """
    match schema:
        case dict():
            return _read_message(schema, value, path, violations)
        case [of]:
            items = value if isinstance(value, list) else [value]
            return [read(of, item, f"{path}[{at}]", violations) for at, item in enumerate(items)]
        case Scalar():
            try:
                return schema.parse(value)
            except (ValueError, TypeError):
                violations.append(_invalid(path, f" ({schema.type_name})", value))
    return value


def _read_message(fields: dict[str, Any], value: Any, path: str, violations: list[Violation]) -> dict[str, Any]:
    if not isinstance(value, dict):
        violations.append(_invalid(path, "", value))
        return {}
    found: dict[str, Any] = {}
    names = {_snake(name): name for name in fields} | {name: name for name in fields}
    for name, inner in value.items():
        if name not in names:
            where = f" at '{path}'" if path else ""
            text = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
            violations.append(violation(path, text))
        elif inner is not None:
            known = names[name]
            below = f"{path}.{_snake(known)}" if path else _snake(known)
            found[known] = read(fields[known], inner, below, violations)
    return found


def _invalid(path: str, kind: str, value: Any) -> Violation:
    if kind == " (TYPE_BYTES)" and isinstance(value, str):
        shown = value if len(value) <= 60 else value[:60] + "..."
        return violation(path, f"Invalid value at '{path}'{kind}, Base64 decoding failed for \"{shown}\"")
    shown = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return violation(path, f"Invalid value at '{path}'{kind}, {shown[:200]}")


def _exactly(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _int32(value: Any) -> int:
    if not re.fullmatch(r"-?\d+(\.0+)?", str(value)) or not -(2**31) <= float(value) < 2**31:
        raise ValueError
    return int(float(value))


def _float(value: Any) -> float:
    return float(_exactly(str, value) if isinstance(value, bool) else value)


def _bytes(value: Any) -> bytes:
    """Decode the standard or the URL-safe alphabet, padding optional.

    Source: protobuf.dev/programming-guides/json, `bytes`.
    """
    text = _exactly(str, value).replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


_STRING, _BOOL = Scalar("TYPE_STRING", partial(_exactly, str)), Scalar("TYPE_BOOL", partial(_exactly, bool))
_INT, _FLOAT, _BYTES = Scalar("TYPE_INT32", _int32), Scalar("TYPE_FLOAT", _float), Scalar("TYPE_BYTES", _bytes)
_ANYTHING = None


def _each(schema: Schema, names: str) -> dict[str, Schema]:
    return dict.fromkeys(names.split(), schema)


def _enum(type_name: str, names: str, prefix: str = "", *, any_case: bool = False) -> Scalar:
    values = frozenset(prefix + name for name in names.split())

    def parse(value: Any) -> str:
        word = _exactly(str, value)
        found: str = word.upper() if any_case else word
        if found not in values:
            raise ValueError
        return found

    return Scalar(f"type.googleapis.com/google.ai.generativelanguage.v1beta.{type_name}", parse)


# GenerateContentRequest (ai.google.dev/api/generate-content, v1beta), as far as a server checks it.
_PART = {
    "text": _STRING,
    "inlineData": {"mimeType": _STRING, "data": _BYTES, "displayName": _STRING},
    "fileData": {"mimeType": _STRING, "fileUri": _STRING, "displayName": _STRING},
    "thought": _BOOL,
    "thoughtSignature": _BYTES,
    **_each(_ANYTHING, "functionCall functionResponse executableCode codeExecutionResult"),
    **_each(_ANYTHING, "videoMetadata mediaResolution partMetadata"),
}
_CONTENT = {"role": _STRING, "parts": [_PART]}
_HARMS = "UNSPECIFIED HARASSMENT HATE_SPEECH SEXUALLY_EXPLICIT DANGEROUS_CONTENT CIVIC_INTEGRITY"
_THRESHOLDS = "BLOCK_LOW_AND_ABOVE BLOCK_MEDIUM_AND_ABOVE BLOCK_ONLY_HIGH BLOCK_NONE OFF"
_SAFETY = {
    "category": _enum("HarmCategory", _HARMS, "HARM_CATEGORY_"),
    "threshold": _enum("SafetySetting.HarmBlockThreshold", f"HARM_BLOCK_THRESHOLD_UNSPECIFIED {_THRESHOLDS}"),
}
_SEARCH: Schema = {
    # Values are messages: `"webSearch": true` is refused.
    "searchTypes": {"webSearch": {}, "imageSearch": {}},
    "timeRangeFilter": _ANYTHING,
}
_TOOL = {
    "googleSearch": _SEARCH,
    **_each(_ANYTHING, "functionDeclarations googleSearchRetrieval codeExecution urlContext fileSearch"),
    **_each(_ANYTHING, "googleMaps computerUse mcpServers"),
}
# responseFormat.image takes enum names; the strings that the documents' own curl shows ("16:9") are refused.
_NUMBERS = {1: "ONE", 2: "TWO", 3: "THREE", 4: "FOUR", 5: "FIVE", 8: "EIGHT", 9: "NINE"}
_NUMBERS |= {16: "SIXTEEN", 21: "TWENTY_ONE"}
RATIO_NAMES = {
    f"ASPECT_RATIO_{_NUMBERS[int(wide)]}_BY_{_NUMBERS[int(high)]}": f"{wide}:{high}"
    for wide, high in (ratio.split(":") for ratio in FOURTEEN)
}
_SIZES = {"FIVE_TWELVE": "512", "ONE_K": "1K", "TWO_K": "2K", "FOUR_K": "4K"}
SIZE_NAMES = {f"IMAGE_SIZE_{name}": size for name, size in _SIZES.items()}
_IMAGE_FORMAT = {
    "aspectRatio": _enum("ImageResponseFormat.AspectRatio", " ".join((*RATIO_NAMES, "ASPECT_RATIO_UNSPECIFIED"))),
    "imageSize": _enum("ImageResponseFormat.ImageSize", " ".join((*SIZE_NAMES, "IMAGE_SIZE_UNSPECIFIED"))),
    "mimeType": _enum("ImageResponseFormat.MimeType", "IMAGE_JPEG MIME_TYPE_UNSPECIFIED"),
    "delivery": _enum("ImageResponseFormat.Delivery", "DELIVERY_UNSPECIFIED INLINE URI"),
}
_LEVELS = "THINKING_LEVEL_UNSPECIFIED MINIMAL LOW MEDIUM HIGH XHIGH"
_THINKING = {
    "includeThoughts": _BOOL,
    "thinkingBudget": _INT,
    "thinkingLevel": _enum("ThinkingConfig.ThinkingLevel", _LEVELS, any_case=True),  # the documents: lower case too
}
_MODALITIES = _enum("GenerationConfig.Modality", "MODALITY_UNSPECIFIED TEXT IMAGE AUDIO", any_case=True)
_GENERATION = {
    "responseModalities": [_MODALITIES],
    # Only these two on this API; personGeneration, outputMimeType and others belong to Vertex AI.
    "imageConfig": {"aspectRatio": _STRING, "imageSize": _STRING},
    "responseFormat": {"image": _IMAGE_FORMAT, **_each(_ANYTHING, "text audio")},
    "thinkingConfig": _THINKING,
    **_each(_INT, "candidateCount seed maxOutputTokens logprobs"),
    **_each(_FLOAT, "temperature topP topK presencePenalty frequencyPenalty"),
    **_each(_BOOL, "responseLogprobs enableEnhancedCivicAnswers"),
    "stopSequences": [_STRING],
    "responseMimeType": _STRING,
    "mediaResolution": _enum("MediaResolution", "UNSPECIFIED LOW MEDIUM HIGH ULTRA_HIGH", "MEDIA_RESOLUTION_"),
    **_each(_ANYTHING, "responseSchema responseJsonSchema speechConfig"),
}
# The documents have both `flex` and `SERVICE_TIER_FLEX`.
_TIERS = " ".join(f"{name} SERVICE_TIER_{name}" for name in ("UNSPECIFIED", "STANDARD", "FLEX", "PRIORITY"))
GENERATE_CONTENT = {
    "model": _STRING,
    "contents": [_CONTENT],
    "systemInstruction": _CONTENT,
    "safetySettings": [_SAFETY],
    "tools": [_TOOL],
    "generationConfig": _GENERATION,
    "serviceTier": _enum("ServiceTier", _TIERS, any_case=True),
    "store": _BOOL,
    "cachedContent": _STRING,
    "toolConfig": _ANYTHING,
    "labels": _ANYTHING,  # google-genai 3.4.0 sends it to this API, so it is taken; it has no effect
}

# ai.google.dev/gemini-api/docs/imagen and requests of google-genai 1.75.0. negativePrompt, seed, addWatermark,
# enhancePrompt and storageUri belong to Vertex AI: the SDK refuses them for this API, and so does this server.
_PARAMETERS = {
    "sampleCount": _INT,
    **_each(_STRING, "aspectRatio sampleImageSize safetySetting personGeneration language"),
    "guidanceScale": _FLOAT,
    **_each(_BOOL, "includeSafetyAttributes includeRaiReason"),
    "outputOptions": {"mimeType": _STRING, "compressionQuality": _INT},
}
PREDICT: dict[str, Schema] = {"instances": [{"prompt": _STRING, "image": _ANYTHING}], "parameters": _PARAMETERS}

# What the enterprise platform takes beyond these (cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference;
# google-genai 3.6.1 with vertexai=True). There are no buckets here, so what names one is not taken.
_OUTPUT = {"mimeType": _enum("ImageOutputOptions.MimeType", "image/png image/jpeg"), "compressionQuality": _INT}
_VERTEX_IMAGE = {
    **_each(_STRING, "aspectRatio imageSize"),
    "personGeneration": _enum("ImageConfig.PersonGeneration", "ALLOW_ALL ALLOW_ADULT ALLOW_NONE"),
    "prominentPeople": _enum("ImageConfig.ProminentPeople", "ALLOW_PROMINENT_PEOPLE BLOCK_PROMINENT_PEOPLE"),
    "imageOutputOptions": _OUTPUT,
}
_VERTEX_HARMS = f"{_HARMS} IMAGE_HATE IMAGE_DANGEROUS_CONTENT IMAGE_HARASSMENT IMAGE_SEXUALLY_EXPLICIT JAILBREAK"
_VERTEX_SAFETY = {
    **_SAFETY,
    "category": _enum("HarmCategory", _VERTEX_HARMS, "HARM_CATEGORY_"),
    "method": _enum("SafetySetting.HarmBlockMethod", "SEVERITY PROBABILITY"),
}
VERTEX_GENERATE_CONTENT = {
    **{name: schema for name, schema in GENERATE_CONTENT.items() if name != "store"},
    "generationConfig": {**_GENERATION, "imageConfig": _VERTEX_IMAGE},
    "safetySettings": [_VERTEX_SAFETY],
    "modelArmorConfig": _ANYTHING,
}
_VERTEX_PARAMETERS: dict[str, Schema] = {
    **_PARAMETERS,
    **_each(_STRING, "negativePrompt"),
    **_each(_INT, "seed"),
    **_each(_BOOL, "addWatermark enhancePrompt"),
}
VERTEX_PREDICT: dict[str, Schema] = {
    "instances": PREDICT["instances"],
    "parameters": _VERTEX_PARAMETERS,
    "labels": None,
}

# The fields of GenerateContentBatch that a client may set, and the webhook that google-genai 3.4.0 sends.
_INLINE = {"requests": [_each(_ANYTHING, "request metadata")]}
_BATCH = {
    **_each(_STRING, "name model displayName"),
    "inputConfig": {"fileName": _STRING, "requests": _INLINE},
    **_each(_ANYTHING, "priority webhookConfig"),
}
CREATE_BATCH = {"batch": _BATCH}
BATCH_LINE = {"key": _STRING, **_each(_ANYTHING, "request metadata")}
UPLOAD_FILE = {"file": _each(_ANYTHING, "name displayName mimeType sizeBytes")}
