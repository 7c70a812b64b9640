"""What can go wrong on request: one table of faults, the markers in a text that ask for them, and the draw by rate.

Markers also ask something of an image, `[[image:blank,good]]`, and of the judge who looks at it, `[[judge:3,8]]`. Such
a list applies one entry after another, and its last for ever: to the images of a request, and to those of later
requests whose prompt is the same up to the end of the marker; to the images that a judge is asked about, where the
question is the same up to there. So text appended to a prompt does not start the list again.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock

_GEMINI, _IMAGEN, _AIML, _OPENAI = "generateContent", "predict", "AIML", "OpenAI"
_REPLICATE, _BFL, _FAL = "Replicate", "Black Forest Labs", "fal"
# The kind, the endpoints where it can happen, and the names.
_TABLE = (
    # an error body in the API's own form
    ("error", (_GEMINI, _IMAGEN, _AIML, _OPENAI), "429 429bare 408 500 503 504"),
    ("error", (_GEMINI, _IMAGEN, _AIML), "429day"),
    ("error", (_GEMINI, _IMAGEN), "429limit0 429spend"),
    ("error", (_AIML, _OPENAI), "credits"),
    ("error", (_AIML,), "maintenance"),
    ("error", (_OPENAI,), "hard_limit unverified moderation"),
    ("error", (_REPLICATE, _BFL, _FAL), "429 500 503 credits"),
    # the damage done by a network, a proxy or a dying server
    ("wire", (_GEMINI, _IMAGEN, _AIML, _OPENAI), "502html html200 truncated_json reset reset_early hang slow_drip"),
    ("wire", (_REPLICATE, _BFL, _FAL), "502html html200 truncated_json reset reset_early"),
    # how a job ends: refused, failed, with its output removed, before it ran, without an image, or with a black one
    ("job", (_REPLICATE, _BFL, _FAL), "job_flagged job_failed"),
    ("job", (_REPLICATE, _BFL), "job_removed"),
    ("job", (_REPLICATE, _FAL), "job_aborted"),
    ("job", (_BFL,), "job_filtered"),
    ("job", (_FAL,), "job_no_media job_black"),
    # status 200 with fewer pictures or none
    ("refusal", (_GEMINI, _AIML, _OPENAI), "no_image empty"),
    ("refusal", (_GEMINI,), "safety image_safety prohibited block image_other text_only max_tokens missing_signature"),
    ("refusal", (_IMAGEN,), "rai_filtered rai_all"),
    # pictures other than they should be
    ("picture", (_GEMINI, _IMAGEN, _AIML, _OPENAI), "bad_base64 half_image mislabelled wrong_size"),
    ("picture", (_GEMINI,), "many_images thought_images"),
    # how a picture is handed out, and variants of the answer's shape: the request itself does not fail
    ("link", (_AIML,), "link404 link_slow 201 b64"),
    ("shape", (_AIML,), "data_shape images_shape tokens_used"),
    # of a batch's results; online they do nothing
    ("line", (_GEMINI,), "line_missing line_doubled line_unknown_key line_crossed line_cut line_keyless"),
)


def _select(kinds: Container[str] | None = None, endpoint: str = "") -> frozenset[str]:
    rows = (row for row in _TABLE if (kinds is None or row[0] in kinds) and (not endpoint or endpoint in row[1]))
    return frozenset(name for _, _, names in rows for name in names.split())


KNOWN = _select()
WIRE = _select(kinds=("wire",))
_NOT_COUNTED = _select(kinds=("link", "shape"))
NOT_OF_VERTEX = frozenset({"429day", "429limit0", "429spend"})  # its capacity is shared, and there are no such quotas
GEMINI_FAULTS, IMAGEN_FAULTS, AIML_FAULTS = (_select(endpoint=name) for name in (_GEMINI, _IMAGEN, _AIML))
OPENAI_FAULTS = _select(endpoint=_OPENAI)
REPLICATE_FAULTS, BFL_FAULTS = _select(endpoint=_REPLICATE), _select(endpoint=_BFL)
FAL_FAULTS = _select(endpoint=_FAL)

# Faults of whole calls to the Files and Batch APIs, named METHOD_KIND. Kinds: an HTTP status; reset: the connection
# ends before anything is done (an upload's: when half of a piece is stored); lost: it ends when all is done; half:
# after half of what is left to download; html: 200 with a web page, as a proxy may send it; empty: 200 with nothing;
# cut: at most half of a file at a time, without a length to tell by.
_CALLS = {
    "create": "429 500 503 reset lost",
    "get": "404 429 500 503 reset html",
    "list": "429 500 503 reset",
    "cancel": "404 429 500 503 reset lost",
    "delete": "404 429 500 503 reset lost",
    "download": "404 429 500 503 reset half html empty cut",
    "upload": "500 503 reset lost",
}
CALL_FAULTS = {method: frozenset(f"{method}_{kind}" for kind in kinds.split()) for method, kinds in _CALLS.items()}


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """How a batch ends. share: of the lines, those answered before. state: empty for a batch that never ends."""

    share: float
    state: str


# Batches that stay PENDING or RUNNING: googleapis/python-genai#1482, #2221, #2974. EXPIRED without results: #2439.
# Whether a batch that fails or expires may name results is not documented; the `_partial` ones do.
BATCH_ENDS = {
    "failed": BatchEnd(0, "FAILED"),
    "failed_partial": BatchEnd(0.5, "FAILED"),
    "expired": BatchEnd(0, "EXPIRED"),
    "expired_partial": BatchEnd(0.5, "EXPIRED"),
    "cancelled": BatchEnd(0, "CANCELLED"),
    "cancelled_partial": BatchEnd(0.5, "CANCELLED"),
    "partly": BatchEnd(1, "PARTIALLY_SUCCEEDED"),  # google-genai knows this state; nobody has reported it of this API
    "stuck": BatchEnd(0, ""),
    "stuck_running": BatchEnd(0.5, ""),
}
NO_FILE = frozenset({"no_file"})  # succeeded, and no results are named yet
BATCH_KNOWN = frozenset(BATCH_ENDS) | NO_FILE | frozenset().union(*CALL_FAULTS.values())
# In an uploaded file's display name: faults of a piece, and `failed`, the state FAILED.
UPLOAD_FAULTS = frozenset({"500", "503", "reset"})
FILE_KNOWN = UPLOAD_FAULTS | {"failed"}

_MARKER = re.compile(r"\[\[fault:([^\]*\s]+)(?:\*(\d+))?\]\]")
_FOR_EVER = 1 << 30


def markers(text: str) -> list[tuple[str, int]]:
    """(fault, how many attempts it lasts) in the order of the text: `[[fault:503*2]]` lasts two attempts."""
    return [(name, int(times) if times else _FOR_EVER) for name, times in _MARKER.findall(text)]


def unknown_marker(text: str, known: Container[str], api: str) -> str:
    """Describe the first marker that `api` has no fault for; empty if there is none."""
    unknown = [name for name, _ in markers(text) if name not in known]
    return f"emulator: {api} has no fault named {unknown[0]!r}" if unknown else ""


def _due(marked: Iterable[tuple[str, int]], attempt: int) -> str | None:
    """The fault of an attempt. Markers follow one another: `503*1`, then `reset*1`, then nothing. attempt: from 1."""
    for name, times in marked:
        attempt -= times
        if attempt <= 0:
            return name
    return None


def fault_for(prompt: str, attempt: int, rates: Mapping[str, float], draw: random.Random) -> str | None:
    """The fault of this attempt, by marker or by rate.

    The fault of a link does not count attempts of the request: its number is how often the link fails. Nor does a
    shape.
    """
    marked = ((name, _FOR_EVER if name in _NOT_COUNTED else times) for name, times in markers(prompt))
    if name := _due(marked, attempt):
        return name
    mark = draw.random()
    for name, rate in rates.items():
        mark -= rate
        if mark < 0:
            return name
    return None


def link_failures(prompt: str) -> int:
    """How often a link to this prompt's pictures answers 404 before it serves them."""
    return next((times for name, times in markers(prompt) if name == "link404"), _FOR_EVER)


def check_batch_fault(text: str) -> None:
    """Raise ValueError unless the text is a known `NAME` or `NAME*TIMES`."""
    name, _, _ = text.partition("*")
    if name not in BATCH_KNOWN:
        raise ValueError(f"unknown batch fault {name!r}; known: {', '.join(sorted(BATCH_KNOWN))}")
    if not re.fullmatch(r"[a-z_0-9]+(\*[1-9]\d*)?", text):
        raise ValueError(f"batch fault {text!r}: expected NAME or NAME*TIMES")


class CallFaults:
    """The faults of calls, batches and uploads. Counts occasions, so that `create_lost*2` hits the first two only.

    Faults by option are counted over all batches where one is created or ends, and per batch for the calls about it.
    """

    def __init__(self, by_option: Iterable[str]) -> None:
        self._by_option = markers("".join(f"[[fault:{text}]]" for text in by_option))
        self._occasions: Counter[tuple[str, str]] = Counter()

    def take(self, names: frozenset[str], subject: str = "", display_name: str = "") -> str | None:
        """The fault of this occasion, one of `names`. subject: a batch or a file, empty where all count together."""
        for marked, whose in ((markers(display_name), f"name {subject or display_name}"), (self._by_option, subject)):
            wanted = [one for one in marked if one[0] in names]
            if wanted:
                self._occasions[min(names), whose] += 1
                if name := _due(wanted, self._occasions[min(names), whose]):
                    return name
        return None

    def clear(self) -> None:
        self._occasions.clear()


# Images and judgements.

_ASKED = re.compile(r"\[\[(image|judge):([^\]]*)\]\]")
_ANY_MARKER = re.compile(r"\[\[(?:fault|image|judge):[^\]]*\]\]")
_IMAGE = re.compile(
    r"(good|blank|twin|misspelt|half|count=[1-9])(,(good|blank|twin|misspelt|half|count=[1-9]))*|text=.+"
)
_JUDGE = re.compile(r"(10|\d)(\.\d+)?(,(10|\d)(\.\d+)?)*|malformed(\*[1-9])?|remark=.+")


def without_markers(text: str) -> str:
    return _ANY_MARKER.sub("", text).strip()


def unreadable_marker(text: str) -> str:
    """Describe the first of these markers that cannot be read; empty if there is none."""
    for kind, asked in _ASKED.findall(text):
        if not (_IMAGE if kind == "image" else _JUDGE).fullmatch(asked):
            return f"emulator: [[{kind}:{asked}]] means nothing here"
    return ""


class Places:
    """The place of each image among those that one text asks for. Used from worker threads."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, int]] = defaultdict(dict)
        self._lock = Lock()

    def of(self, text: str, name: str) -> int:
        """The place of a name, from 0, in the order in which names are first asked about.

        text: up to the end of the marker that asks.
        """
        with self._lock:
            known = self._places[text]
            return known.setdefault(name, len(known))

    def clear(self) -> None:
        with self._lock:
            self._places.clear()


def _nth(found: re.Match[str], places: Places, name: str) -> str:
    wanted = found[2].split(",")
    place = places.of(found.string[: found.end()], name) if len(wanted) > 1 else 0
    return wanted[min(place, len(wanted) - 1)]


def drawing_of(prompt: str, places: Places, name: str) -> tuple[str, str]:
    """The flaw with which an image is drawn, and the text that it shows in place of the prompt.

    The flaw is blank, twin, misspelt, half, count=N, or empty. name: of the image, unlike any other's.
    """
    flaw = text = ""
    for found in _ASKED.finditer(prompt):
        if found[1] == "image" and found[2].startswith("text="):
            text = found[2].removeprefix("text=")
        elif found[1] == "image" and not flaw:
            flaw = _nth(found, places, name)
    return "" if flaw == "good" else flaw, text


def ruling_of(question: str, places: Places, image: str) -> tuple[float | None, str, int]:
    """What a question demands of its judge: a score, a remark, and in how many answers not to keep to the form.

    The score is None where the question leaves it to the judge. image: the hash of the one that is judged.
    """
    score, remark, malformed = None, "", 0
    for found in _ASKED.finditer(question):
        if found[1] != "judge":
            continue
        if found[2].startswith("remark="):
            remark = remark or found[2].removeprefix("remark=")
        elif found[2].startswith("malformed"):
            malformed = int(found[2].partition("*")[2] or _FOR_EVER)
        elif score is None:
            score = float(_nth(found, places, image))
    return score, remark, malformed
