"""What a prompt can ask of an image, `[[image:blank,good]]`, and of the judge who looks at it, `[[judge:3,8]]`.

A list gives one thing after another, and its last for ever: to the images of a request, and to those of later requests whose
prompt is the same up to the end of the marker; to the images that a judge is asked about, where the question is the same up to
there. So what is appended to a prompt does not start a list again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from threading import Lock

_MARKER = re.compile(r"\[\[(image|judge):([^\]]*)\]\]")
_ANY_MARKER = re.compile(r"\[\[(?:fault|image|judge):[^\]]*\]\]")
_IMAGE = re.compile(
    r"(good|blank|twin|misspelt|half|count=[1-9])(,(good|blank|twin|misspelt|half|count=[1-9]))*|text=.+"
)
_JUDGE = re.compile(r"(10|\d)(\.\d+)?(,(10|\d)(\.\d+)?)*|malformed(\*[1-9])?|remark=.+")


def without_markers(text: str) -> str:
    return _ANY_MARKER.sub("", text).strip()


def unreadable_marker(text: str) -> str:
    """What to say of the first of these markers that means nothing; empty if there is none."""
    for kind, asked in _MARKER.findall(text):
        if not (_IMAGE if kind == "image" else _JUDGE).fullmatch(asked):
            return f"emulator: [[{kind}:{asked}]] means nothing here"
    return ""


class Places:
    """Which one something is among those that were asked for by one text. Used from worker threads."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        self._lock = Lock()

    def of(self, kind: str, text: str, name: str) -> int:
        """From 0, in the order in which the names are first asked about. kind: keeps images and judgements apart."""
        with self._lock:
            known = self._places[kind, text]
            return known.setdefault(name, len(known))

    def clear(self) -> None:
        with self._lock:
            self._places.clear()


def _nth(kind: str, found: re.Match[str], places: Places, name: str) -> str:
    wanted = found[2].split(",")
    place = places.of(kind, found.string[: found.end()], name) if len(wanted) > 1 else 0
    return wanted[min(place, len(wanted) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How an image is drawn. flaw: blank, twin, misspelt, half, count=N, or empty; text: in place of the prompt."""

    flaw: str = ""
    text: str = ""


def drawing_of(prompt: str, places: Places, name: str) -> Drawing:
    """name: of the image, which no other has."""
    flaw = text = ""
    for found in _MARKER.finditer(prompt):
        if found[1] == "image" and found[2].startswith("text="):
            text = found[2].removeprefix("text=")
        elif found[1] == "image" and not flaw:
            flaw = _nth("image", found, places, name)
    return Drawing(flaw="" if flaw == "good" else flaw, text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What a question demands of its judge. score: None where it leaves it to him; malformed: in how many answers he does not
    keep to the form."""

    score: float | None = None
    remark: str = ""
    malformed: int = 0


def ruling_of(question: str, places: Places, image: str) -> Ruling:
    """image: the hash of the one that is judged."""
    score, remark, malformed = None, "", 0
    for found in _MARKER.finditer(question):
        if found[1] != "judge":
            continue
        if found[2].startswith("remark="):
            remark = remark or found[2].removeprefix("remark=")
        elif found[2].startswith("malformed"):
            malformed = int(found[2].partition("*")[2] or 1 << 30)
        elif score is None:
            score = float(_nth("judge", found, places, image))
    return Ruling(score=score, remark=remark, malformed=malformed)
