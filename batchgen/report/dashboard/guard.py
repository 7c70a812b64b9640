"""Who may ask what: names of this host, the token, and changes only from our own page. Every answer's headers."""

from __future__ import annotations

import hmac
import logging
import secrets
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from batchgen.report.gallery import PageParts, render_document

TOKEN_PAGE = PageParts(("gallery", "dashboard"), ("token",), (), live=True, form_action="'self'")
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
PUBLIC_PATHS = ("/healthz",)  # for those who keep a process alive; it says nothing of any job
log = logging.getLogger("batchgen")


@dataclass(frozen=True)
class RequestGuard:
    """hosts: `name:port` by which this server may be asked. token: what a visitor has to know, empty on loopback.

    csrf: of this start; only a page of ours can read it.
    """

    hosts: frozenset[str]
    port: int
    token: str = field(default="", repr=False)
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie(self) -> str:
        """Cookies are of a host and not of its port."""
        return f"batchgen-{self.port}"

    def reject(self, request: web.Request) -> web.Response | None:
        """None when the request may be answered."""
        # A page of a foreign name that resolves to this address (DNS rebinding) sends that name.
        if not self._known_host(request):
            return error_response(421, f"{request.host} is not a name of this server")
        site, navigates = request.headers.get("Sec-Fetch-Site", ""), request.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("", "same-origin", "none") and not (navigates and request.method == "GET"):
            return error_response(403, "the request comes from another site")
        if self.token and request.path not in PUBLIC_PATHS and not self._has_token(request):
            return self._ask_for_token(request, "a token is needed")
        return self._reject_change(request) if request.method not in ("GET", "HEAD") else None

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

    def _reject_change(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Origin", "") not in (f"http://{request.host}", f"https://{request.host}"):
            return error_response(403, "changes are made from the page alone: another origin, or none")
        if not hmac.compare_digest(request.headers.get(CSRF_HEADER, "").encode("utf-8", "replace"), self.csrf.encode()):
            return error_response(403, "the page is of an earlier start: load it again")
        if request.content_type != "application/json":
            return error_response(415, "expected JSON")
        return None

    def accept_token(self, request: web.Request) -> web.Response | None:
        """The address that was printed: keep the token in a cookie and take it out of the address."""
        given = request.query.get("token", "")
        if not self.token or not given or request.method != "GET":
            return None
        if not self._known_host(request) or not self._is_token(given):
            return self._ask_for_token(request, "that is not the token of this start")
        answer = web.Response(status=303, headers={"Location": "/" + request.path.lstrip("/")})
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="Strict", path="/")
        return answer

    def _ask_for_token(self, request: web.Request, why: str) -> web.Response:
        """A person gets a page with a field for it, a program one line of JSON."""
        if "text/html" not in request.headers.get("Accept", "") or not self._known_host(request):
            way = "open the address as `batchgen serve` printed it, or with ?token= and the one that was set"
            return error_response(401, f"{why}: {way}")
        text = "".join(render_document(TOKEN_PAGE, "token", "{}")).replace("WHY", f"{why[0].upper()}{why[1:]}.", 1)
        policy = {"Content-Security-Policy": f"{TOKEN_PAGE.policy}; frame-ancestors 'none'"}
        return web.Response(text=text, status=401, content_type="text/html", headers=policy)

    def middleware(self) -> Middleware:
        @web.middleware
        async def check_request(request: web.Request, handler: Handler) -> web.StreamResponse:
            early = self.accept_token(request) or self.reject(request)
            if early is not None:
                return early
            try:
                return await handler(request)
            except web.HTTPException as error:
                return error_response(error.status, error.reason, error.headers.get("Allow"))
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # whatever it is, the other pages go on
                log.warning("the dashboard failed to answer %r: %s: %s", request.path, type(error).__name__, error)
                return error_response(500, f"this is a bug in batchgen: {type(error).__name__}")

        return check_request


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Called before any answer leaves."""
    for name, value in {**HEADERS, "Content-Security-Policy": DENY_ALL_POLICY, "Cache-Control": "no-store"}.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "batchgen"


def error_response(status: int, why: str, allow: str | None = None) -> web.Response:
    return web.json_response({"error": why}, status=status, headers={"Allow": allow} if allow else None)


def authority(host: str, port: int) -> str:
    """As it stands in a Host header."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
