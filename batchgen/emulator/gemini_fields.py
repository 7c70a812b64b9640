"""The fields of GenerateContentRequest (ai.google.dev/api/generate-content, v1beta), as far as a server checks them."""

from __future__ import annotations

from batchgen.emulator.fields import BOOL, BYTES, FLOAT, INT, STRING, Anything, Enum, Message, Repeated
from batchgen.emulator.models import FOURTEEN

_ANY = Anything()
_BLOB = Message({"mimeType": STRING, "data": BYTES, "displayName": STRING})
_FILE = Message({"mimeType": STRING, "fileUri": STRING, "displayName": STRING})
_PART = Message(
    {
        "text": STRING,
        "inlineData": _BLOB,
        "fileData": _FILE,
        "thought": BOOL,
        "thoughtSignature": BYTES,
        "functionCall": _ANY,
        "functionResponse": _ANY,
        "executableCode": _ANY,
        "codeExecutionResult": _ANY,
        "videoMetadata": _ANY,
        "mediaResolution": _ANY,
        "partMetadata": _ANY,
    }
)
_CONTENT = Message({"role": STRING, "parts": Repeated(_PART)})

_HARMS = (
    "HARASSMENT",
    "HATE_SPEECH",
    "SEXUALLY_EXPLICIT",
    "DANGEROUS_CONTENT",
    "CIVIC_INTEGRITY",
)
_THRESHOLDS = ("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF")
_SAFETY = Message(
    {
        "category": Enum("HarmCategory", frozenset(f"HARM_CATEGORY_{name}" for name in ("UNSPECIFIED", *_HARMS))),
        "threshold": Enum(
            "SafetySetting.HarmBlockThreshold", frozenset(("HARM_BLOCK_THRESHOLD_UNSPECIFIED", *_THRESHOLDS))
        ),
    }
)

_SEARCH = Message(
    {
        # Values are messages: `"webSearch": true` is refused.
        "searchTypes": Message({"webSearch": Message({}), "imageSearch": Message({})}),
        "timeRangeFilter": _ANY,
    }
)
_TOOL = Message(
    {
        "googleSearch": _SEARCH,
        "functionDeclarations": _ANY,
        "googleSearchRetrieval": _ANY,
        "codeExecution": _ANY,
        "urlContext": _ANY,
        "fileSearch": _ANY,
        "googleMaps": _ANY,
        "computerUse": _ANY,
        "mcpServers": _ANY,
    }
)

_WORDS = {
    1: "ONE",
    2: "TWO",
    3: "THREE",
    4: "FOUR",
    5: "FIVE",
    8: "EIGHT",
    9: "NINE",
    16: "SIXTEEN",
    21: "TWENTY_ONE",
}


def _ratio_name(ratio: str) -> str:
    wide, high = (int(side) for side in ratio.split(":"))
    return f"ASPECT_RATIO_{_WORDS[wide]}_BY_{_WORDS[high]}"


# responseFormat.image takes enum names; the strings that the documents' own curl shows ("16:9") are refused.
RATIO_NAMES = {_ratio_name(ratio): ratio for ratio in FOURTEEN}
SIZE_NAMES = {
    "IMAGE_SIZE_FIVE_TWELVE": "512",
    "IMAGE_SIZE_ONE_K": "1K",
    "IMAGE_SIZE_TWO_K": "2K",
    "IMAGE_SIZE_FOUR_K": "4K",
}
_RESPONSE_FORMAT = Message(
    {
        "image": Message(
            {
                "aspectRatio": Enum(
                    "ImageResponseFormat.AspectRatio", frozenset((*RATIO_NAMES, "ASPECT_RATIO_UNSPECIFIED"))
                ),
                "imageSize": Enum("ImageResponseFormat.ImageSize", frozenset((*SIZE_NAMES, "IMAGE_SIZE_UNSPECIFIED"))),
                "mimeType": Enum("ImageResponseFormat.MimeType", frozenset(("IMAGE_JPEG", "MIME_TYPE_UNSPECIFIED"))),
                "delivery": Enum("ImageResponseFormat.Delivery", frozenset(("DELIVERY_UNSPECIFIED", "INLINE", "URI"))),
            }
        ),
        "text": _ANY,
        "audio": _ANY,
    }
)

_LEVELS = ("THINKING_LEVEL_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH")
_THINKING = Message(
    {
        "includeThoughts": BOOL,
        "thinkingBudget": INT,
        # The documents use lower case too.
        "thinkingLevel": Enum("ThinkingConfig.ThinkingLevel", frozenset(_LEVELS), any_case=True),
    }
)
_MODALITIES = ("MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO")
_RESOLUTIONS = ("UNSPECIFIED", "LOW", "MEDIUM", "HIGH", "ULTRA_HIGH")
# The documents have both `flex` and `SERVICE_TIER_FLEX`.
_TIERS = [prefix + name for prefix in ("", "SERVICE_TIER_") for name in ("UNSPECIFIED", "STANDARD", "FLEX", "PRIORITY")]
_GENERATION = Message(
    {
        "responseModalities": Repeated(Enum("GenerationConfig.Modality", frozenset(_MODALITIES), any_case=True)),
        # Only these two on this API; personGeneration, outputMimeType and others belong to Vertex AI.
        "imageConfig": Message({"aspectRatio": STRING, "imageSize": STRING}),
        "responseFormat": _RESPONSE_FORMAT,
        "thinkingConfig": _THINKING,
        "candidateCount": INT,
        "seed": INT,
        "temperature": FLOAT,
        "topP": FLOAT,
        "topK": FLOAT,
        "maxOutputTokens": INT,
        "stopSequences": Repeated(STRING),
        "presencePenalty": FLOAT,
        "frequencyPenalty": FLOAT,
        "responseMimeType": STRING,
        "responseSchema": _ANY,
        "responseJsonSchema": _ANY,
        "responseLogprobs": BOOL,
        "logprobs": INT,
        "speechConfig": _ANY,
        "mediaResolution": Enum("MediaResolution", frozenset(f"MEDIA_RESOLUTION_{name}" for name in _RESOLUTIONS)),
        "enableEnhancedCivicAnswers": BOOL,
    }
)
REQUEST = Message(
    {
        "model": STRING,
        "contents": Repeated(_CONTENT),
        "systemInstruction": _CONTENT,
        "safetySettings": Repeated(_SAFETY),
        "tools": Repeated(_TOOL),
        "toolConfig": _ANY,
        "generationConfig": _GENERATION,
        "serviceTier": Enum("ServiceTier", frozenset(_TIERS), any_case=True),
        "store": BOOL,
        "cachedContent": STRING,
        "labels": _ANY,  # google-genai 3.4.0 sends it to this API, so it is taken; it has no effect
    }
)
