"""What a status alone means, when nothing more specific is known. Shared by all codecs."""

from __future__ import annotations

from batchgen.errors import BadRequest, ProviderError, ServerFault, ServerFaultMaybeBilled


def server_fault(status: int, message: str, retry_after_s: float | None) -> ProviderError:
    """5xx and the 4xx that are about time, else a BadRequest.

    503 says that nothing was started; 500, 502, 504 and a gateway's 408 say nothing about the work already done.
    """
    if status == 503:
        # "Deadline expired before operation could complete." comes as 503 as well, and then work was done.
        if "deadline" in message.lower():
            return _made(ServerFaultMaybeBilled, "deadline", status, message, retry_after_s)
        return _made(ServerFault, "overloaded", status, message, retry_after_s)
    if status in (408, 504):
        return _made(ServerFaultMaybeBilled, "deadline", status, message, retry_after_s)
    if status in (500, 502):
        return _made(ServerFaultMaybeBilled, None, status, message, retry_after_s)
    if status == 499 or status >= 500:
        return _made(ServerFault, None, status, message, retry_after_s)
    reason = None if 400 <= status < 500 and status != 405 else "unexpected_status"
    return _made(BadRequest, reason, status, message, retry_after_s)


def _made(
    kind: type[ProviderError], reason: str | None, status: int, message: str, retry_after_s: float | None
) -> ProviderError:
    return kind(message, reason=reason, retry_after_s=retry_after_s, http_status=status)
