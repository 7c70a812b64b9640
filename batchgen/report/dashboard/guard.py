"""Decides who may request what: the names of this host, the token, the link of a client, and changes only from the
server's own pages. Also sets every answer's headers."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from batchgen.report.dashboard.clients import PARAMETER, Client, find_client
from batchgen.report.gallery import PageParts, render_document

TOKEN_PAGE = PageParts(("gallery", "dashboard"), ("token",), (), live=True, form_action="'self'")
CLOSED_PAGE = PageParts(("gallery", "dashboard"), ("closed",), (), live=True)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
DENY_ALL_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
CSRF_HEADER = "X-Batchgen-Token"
BODY_MAX_BYTES = 4096
PUBLIC_PATHS = ("/healthz",)  # for supervisors; it says nothing about any job
JOB_PATH = re.compile(r"/jobs/([^/]+)/(.*)")
# What a client may request, below its one job. The handlers decide which images.
CLIENT_PATHS = {"GET": re.compile(r"|events|(?:pictures|thumbnails)/\d+-\d+"), "POST": re.compile("reviews")}
# The `Client` that a request comes from. Before aiohttp 3.14 keys are plain text.
CLIENT_KEY: Any = web.RequestKey("client", Client) if hasattr(web, "RequestKey") else "batchgen.client"
FindFolder = Callable[[str], Awaitable[Path | None]]  # of a job, by its id
log = logging.getLogger("batchgen")


@dataclass(frozen=True)
class RequestGuard:
    """hosts: `name:port` under which this server may be requested. token: what a visitor has to know, empty on
    loopback.

    csrf: for this start; only the server's own pages can read it.
    """

    hosts: frozenset[str]
    port: int
    token: str = field(default="", repr=False)
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie(self) -> str:
        """The cookie's name: cookies belong to a host, not to its port."""
        return f"batchgen-{self.port}"

    def reject(self, request: web.Request) -> web.Response | None:
        """A refusal, or None if the request may be answered."""
        # A page of a foreign name that resolves to this address (DNS rebinding) sends that name.
        if not self._known_host(request):
            return error_response(421, f"{request.host} is not a name of this server")
        site, navigates = request.headers.get("Sec-Fetch-Site", ""), request.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("", "same-origin", "none") and not (navigates and request.method == "GET"):
            return error_response(403, "the request comes from another site")
        client = request.get(CLIENT_KEY)
        if self.token and request.path not in PUBLIC_PATHS and not self._has_token(request) and client is None:
            return self._ask_for_token(request, "a token is needed")
        return self._reject_change(request, client) if request.method not in ("GET", "HEAD") else None

    def _known_host(self, request: web.Request) -> bool:
        host = request.headers.get("Host", "").lower()
        if host in self.hosts:
            return True
        # By the very address that it reached: no name was resolved, so none can have been made to point here.
        own = request.transport.get_extra_info("sockname") if request.transport else None
        return own is not None and host == authority(own[0], own[1])

    def _has_token(self, request: web.Request) -> bool:
        kind, _, bearer = request.headers.get("Authorization", "").partition(" ")
        given = [request.cookies.get(self.cookie, ""), bearer if kind.lower() == "bearer" else ""]
        return any(map(self._is_token, given))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def csrf_for(self, client: Client | None) -> str:
        """A client's own CSRF token, which is worth nothing to anybody else."""
        if client is None:
            return self.csrf
        return hmac.digest(self.csrf.encode(), client.token_sha256.encode(), "sha256").hex()

    def _reject_change(self, request: web.Request, client: Client | None) -> web.Response | None:
        if request.headers.get("Origin", "") not in (f"http://{request.host}", f"https://{request.host}"):
            return error_response(403, "changes are made from the page alone: another origin, or none")
        given = request.headers.get(CSRF_HEADER, "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self.csrf_for(client).encode()):
            return error_response(403, "the page is of an earlier start: load it again")
        if request.content_type != "application/json":
            return error_response(415, "expected JSON")
        return None

    def accept_token(self, request: web.Request) -> web.Response | None:
        """Handle the address that was printed: keep the token in a cookie and remove it from the address."""
        given = request.query.get("token", "")
        if not self.token or not given or request.method != "GET":
            return None
        if not self._known_host(request) or not self._is_token(given):
            return self._ask_for_token(request, "that is not the token of this start")
        answer = web.Response(status=303, headers={"Location": "/" + request.path.lstrip("/")})
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="Strict", path="/")
        return answer

    async def accept_client(self, request: web.Request, find_folder: FindFolder) -> web.Response | None:
        """Let a client in by its link, or by the cookie that the link left, but only to what a client may request.
        Returns None for anybody else, and for a client that was let in."""
        below = JOB_PATH.fullmatch(request.path)
        cookie = f"{self.cookie}-{PARAMETER}"
        link = request.query.get(PARAMETER, "") if request.method == "GET" else ""
        given = link or request.cookies.get(cookie, "")
        if not self.token or below is None or not given or self._has_token(request) or not self._known_host(request):
            return None
        folder = await find_folder(below[1])
        client = find_client(folder, given, time.time()) if folder is not None else None
        if client is None:
            return _closed(request, "this link opens nothing any more: it has expired, was revoked, or is not whole")
        allowed = CLIENT_PATHS.get(request.method)
        if allowed is None or not allowed.fullmatch(below[2]):
            return _closed(
                request, "this link opens the images of one job, to look at and to vote on, and nothing else"
            )
        if link:
            answer = web.Response(status=303, headers={"Location": "/" + request.path.lstrip("/")})
            lasts_s = int(client.expires_at - time.time())
            place = request.path.removesuffix(below[2])
            answer.set_cookie(cookie, given, httponly=True, samesite="Lax", path=place, max_age=lasts_s)
            return answer
        request[CLIENT_KEY] = client
        return None

    def _ask_for_token(self, request: web.Request, why: str) -> web.Response:
        """Ask for the token: a person gets a page with a field for it, a program one line of JSON."""
        if "text/html" not in request.headers.get("Accept", "") or not self._known_host(request):
            way = "open the address as `batchgen serve` printed it, or with ?token= and the one that was set"
            return error_response(401, f"{why}: {way}")
        return _refusal_page(TOKEN_PAGE, "token", why, 401)

    def middleware(self, find_folder: FindFolder) -> Middleware:
        @web.middleware
        async def check_request(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                early = (
                    self.accept_token(request) or await self.accept_client(request, find_folder) or self.reject(request)
                )
                return early if early is not None else await handler(request)
            except web.HTTPException as error:
                return error_response(error.status, error.reason, error.headers.get("Allow"))
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # whatever it is, the other pages go on
                log.warning("the dashboard failed to answer %r: %s: %s", request.path, type(error).__name__, error)
                return error_response(500, f"this is a bug in batchgen: {type(error).__name__}")

        return check_request


def _closed(request: web.Request, why: str) -> web.Response:
    """Refuse: a person gets a page, a program one line of JSON."""
    if "text/html" not in request.headers.get("Accept", ""):
        return error_response(403, why)
    return _refusal_page(CLOSED_PAGE, "closed", why, 403)


def _refusal_page(parts: PageParts, title: str, why: str, status: int) -> web.Response:
    text = "".join(render_document(parts, title, "{}")).replace("WHY", f"{why[0].upper()}{why[1:]}.", 1)
    return web.Response(text=text, status=status, content_type="text/html", headers=page_policy(parts))


def page_policy(parts: PageParts) -> dict[str, str]:
    """What the browser may do with a page, as a header."""
    return {"Content-Security-Policy": f"{parts.policy}; frame-ancestors 'none'"}


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add headers. Called before any answer leaves."""
    for name, value in {**HEADERS, "Content-Security-Policy": DENY_ALL_POLICY, "Cache-Control": "no-store"}.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "batchgen"


def error_response(status: int, why: str, allow: str | None = None) -> web.Response:
    return web.json_response({"error": why}, status=status, headers={"Allow": allow} if allow else None)


def authority(host: str, port: int) -> str:
    """Host and port as in a Host header."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
