"""Writes `report.html`: a page that contains its data, thumbnails, style and script, and only loads the linked
images."""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import pybase64

from batchgen.errors import StoreError
from batchgen.report.view import as_json
from batchgen.sanitize import redact_secrets

if TYPE_CHECKING:
    from batchgen.report.gallery_data import PageView

FILE_NAME = "report.html"
PAGE_NAME = re.compile(r"report(-[0-9]+)?\.html")  # as `page_path` names them, in a job folder
TITLE_END = b" \xc2\xb7 batchgen</title>"
HEAD_BYTES = 20_000  # contain the title, however long the job's name is
THUMBNAILS_PER_SCRIPT = 100  # in one script element, which is decoded when one of them becomes visible


def page_path(target: Path, number: int) -> Path:
    """The path of one of several pages, from 0: `report.html`, `report-2.html` and so on."""
    return target.with_name(f"{target.stem}-{number + 1}{target.suffix}") if number else target


def is_page_name(name: str) -> bool:
    """Whether a file in a job folder has the name of a page."""
    return PAGE_NAME.fullmatch(name) is not None


def remove_further_pages(target: Path, pages: int, title: str) -> None:
    """Delete the pages that an earlier, longer gallery of this title left."""
    while _is_page(path := page_path(target, pages), title):
        with contextlib.suppress(OSError):
            path.unlink()
        pages += 1


class LinkFolders(NamedTuple):
    """The folders of the images and of the references: the manifest's, None if unknown."""

    images: Path
    references: Path | None


def write_gallery(
    target: Path, page: PageView, thumbnails: Iterable[bytes], folders: LinkFolders, secrets: Sequence[str]
) -> int:
    """Write a page, and return its size in bytes. Raises StoreError."""
    manifest_base = link_base(target, folders.references) if folders.references else None
    page = replace(page, base=link_base(target, folders.images), manifest_base=manifest_base)
    with replacing(target) as part, open(part, "x", encoding="utf-8", newline="\n") as file:
        file.writelines(render_gallery(page, thumbnails, secrets))
        return file.tell()


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """The path to write a file to, which is renamed to `target` afterwards, so that nobody ever sees half of it. Raises
    StoreError."""
    temp_path = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temp_path
        os.replace(temp_path, target)
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror or error}") from None
    finally:  # also if the caller stops early
        with contextlib.suppress(OSError):
            temp_path.unlink()


def refuse_to_overwrite_pages(target: Path, pages: int) -> None:
    """Refuse to overwrite anything, before any page is written. Raises StoreError if somebody else's file is there."""
    for number in range(pages):
        refuse_to_overwrite(page_path(target, number), _is_page)


def refuse_to_overwrite(target: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raises StoreError rather than overwrite somebody else's file."""
    if os.path.lexists(target) and not is_ours(target):
        raise StoreError(f"{target} was not written by batchgen and stays as it is: rename it, or name another file")


def _is_page(path: Path, title: str | None = None) -> bool:
    """Whether batchgen wrote it; title: with this title."""
    begin = "" if title is None else f"<title>{html.escape(title)}"
    try:
        with open(path, "rb") as file:
            return begin.encode("utf-8", "replace") + TITLE_END in file.read(HEAD_BYTES)
    except OSError:
        return False


def render_gallery(page: PageView, thumbnails: Iterable[bytes], secrets: Sequence[str]) -> Iterator[str]:
    """The page in pieces, so that ten thousand thumbnails are never in memory at once."""
    return render_document(GALLERY, redact_secrets(page.job, secrets), _page_json(page, secrets), thumbnails)


def _page_json(page: PageView, secrets: Sequence[str]) -> Iterator[str]:
    """The page's JSON like `safe_json`, sample by sample: ten thousand are small as text, and large as data."""
    rest = as_json(replace(page, samples=()))
    rest.pop("samples")
    yield '{"samples":['
    for number, sample in enumerate(page.samples):
        yield f"{',' if number else ''}{safe_json(sample, secrets)}"
    yield f"],{safe_json(rest, secrets)[1:]}"


@dataclass(frozen=True)
class PageParts:
    """The names of the files in `page/` that a page is made of. live: it asks its own server for more."""

    styles: tuple[str, ...]
    bodies: tuple[str, ...]
    scripts: tuple[str, ...]
    live: bool = False
    form_action: str = "'none'"  # where a form may be sent, in the policy's terms

    @cached_property
    def texts(self) -> tuple[str, str, str]:
        kinds = ((self.styles, "css"), (self.bodies, "html"), (self.scripts, "js"))
        style, body, script = ("\n".join(_asset(f"{name}.{kind}") for name in names) for names, kind in kinds)
        return style, body, script

    @cached_property
    def policy(self) -> str:
        """What the browser may do: use this style and this script, and nothing that a prompt could smuggle in."""
        style, _, script = self.texts
        pictures = "data: 'self'; connect-src 'self'" if self.live else "data: 'self' file:"
        return (
            f"default-src 'none'; img-src {pictures}; style-src {_hash(style)}; script-src {_hash(script)};"
            f" base-uri 'none'; form-action {self.form_action}"
        )


GALLERY_SCRIPTS = ("elements", "reviews", "gallery", "viewer", "export", "runs", "start")
GALLERY = PageParts(styles=("gallery",), bodies=("gallery", "people"), scripts=GALLERY_SCRIPTS)


def render_document(
    parts: PageParts, title: str, facts_text: Iterable[str], thumbnails: Iterable[bytes] = ()
) -> Iterator[str]:
    """A page in pieces. facts_text: from `safe_json`, whole or in pieces."""
    style, body, script = parts.texts
    title = html.escape(title)
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{parts.policy}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
    yield f'<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n<title>{title} · batchgen</title>\n'
    yield f"<style>{style}</style>\n</head>\n<body>\n{body}\n"
    yield '<script type="application/json" id="facts">'
    yield from facts_text if not isinstance(facts_text, str) else (facts_text,)
    yield "</script>\n"
    pieces = _thumbnail_scripts(thumbnails)
    yield next(pieces, "")  # before the script, so that it has something to show at once
    yield f"<script>{script}</script>\n"
    yield from pieces
    yield "</body>\n</html>\n"


def _thumbnail_scripts(thumbnails: Iterable[bytes]) -> Iterator[str]:
    encoded = (pybase64.b64encode(thumbnail).decode("ascii") for thumbnail in thumbnails)
    for number in count():
        if not (chunk := list(islice(encoded, THUMBNAILS_PER_SCRIPT))):
            return
        yield f'<script type="text/plain" id="thumbnails-{number}">' + "\n".join(chunk) + "</script>\n"


def safe_json(view: Any, secrets: Sequence[str]) -> str:
    """JSON for a page, without keys. A secret is looked for as JSON writes it: `"`, `&` and the like are written
    differently."""
    return redact_secrets(script_json(as_json(view)), [script_json(secret)[1:-1] for secret in secrets])


def script_json(value: Any) -> str:
    """JSON that can neither end the script element it is in nor open a comment there. Source: HTML, 4.12.1.3."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def link_base(target: Path, folder: Path) -> str:
    """The beginning of a link from the page to an image: `` if both are in one folder, else such as `../catalog/`."""
    try:
        relative = os.path.relpath(folder, target.parent)
    except ValueError:  # another drive
        return f"{folder.absolute().as_uri()}/"
    return "" if relative == "." else f"{quote(relative.replace(os.sep, '/'))}/"


def _asset(name: str) -> str:
    return files("batchgen.report").joinpath("page", name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{pybase64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
